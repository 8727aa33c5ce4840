# Consumes the subscription `audit` and signs for itself. In this order: effect, receipt confirmed, ack.
#   venv/bin/python deploy/examples/consumer.py            (venv: see requirements.txt; queue: see topology.toml)
# Kill it where you like: what it has not acked comes again and finds its id. When the broker goes it ends; start it again.
import json, os, sqlite3

import pika

db = sqlite3.connect(os.environ.get("AUDIT_DB", "audit.db"))
db.execute("CREATE TABLE IF NOT EXISTS taken (message_id TEXT PRIMARY KEY, body BLOB)")
db.execute("CREATE TABLE IF NOT EXISTS tally (type TEXT PRIMARY KEY, n INTEGER)")
broker = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1/%2f")))
channel = broker.channel()
channel.basic_qos(prefetch_count=100)
channel.confirm_delivery()  # basic_publish returns when the broker has the receipt, and raises when it has not
properties = pika.BasicProperties(content_type="application/json", delivery_mode=pika.DeliveryMode.Persistent)

for delivery, message, body in channel.consume("audit"):
    sent = message.headers or {}
    if sent.get("countersign-wire") != 1:  # nothing that upstream sent: to audit.dead with it
        channel.basic_reject(delivery.delivery_tag, requeue=False)
        continue
    with db:  # one transaction: the id, and the effect if the id is new
        if db.execute("INSERT OR IGNORE INTO taken VALUES (?, ?)", [message.message_id, body]).rowcount:
            db.execute("INSERT INTO tally VALUES (?, 1) ON CONFLICT (type) DO UPDATE SET n = n + 1", [message.type])
    receipt = {"message_id": message.message_id, "upstream": message.app_id, "sent_at_ms": sent["countersign-sent-at"],
               "fingerprint": sent["countersign-fingerprint"], "attempt": sent["countersign-attempt"],
               "epoch": sent["countersign-epoch"], "subscription": "audit", "outcome": "done"}
    channel.basic_publish("", "countersign.receipts", json.dumps(receipt), properties, mandatory=True)
    channel.basic_ack(delivery.delivery_tag)
