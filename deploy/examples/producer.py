# Sends an order over gRPC. Every try carries the same key, so one message comes of it, however often it is tried.
#   venv/bin/python deploy/examples/producer.py A-17 '{"order_id": "A-17"}'      (venv: see requirements.txt)
# UPSTREAM names another address than 127.0.0.1:7101. Exit: 0 accepted; 1 refused; 3 no answer, the same again later.
import os, sys, time
from pathlib import Path

import grpc
from grpc import StatusCode

sys.path.append(str(Path(__file__).parents[2] / "proto"))
pb, services = grpc.protos_and_services("countersign/v1/upstream.proto")

key, body = sys.argv[1:] if len(sys.argv) == 3 else sys.exit("usage: producer.py KEY BODY")
order = pb.NewMessage(exchange="orders", routing_key="order.created", type="order.created",
                      content_type="application/json", body=body.encode(), idempotency_key=key)
upstream = services.UpstreamServiceStub(grpc.insecure_channel(os.environ.get("UPSTREAM", "127.0.0.1:7101")))

for pause_s in (0, 1, 2, 4, 8, 16):
    time.sleep(pause_s)
    try:
        accepted = upstream.SendMessage(pb.SendMessageRequest(message=order), timeout=10).accepted
        print(accepted.id, pb.SendState.Name(accepted.state))
        break
    except grpc.RpcError as error:
        words = f"{error.code().name}: {error.details()}"
        if error.code() not in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.DEADLINE_EXCEEDED):
            sys.exit(words)
        print(words, file=sys.stderr)
else:
    sys.exit(3)
