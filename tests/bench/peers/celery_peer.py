"""Celery over RabbitMQ: `celery_peer.py send URL FIRST MESSAGES BYTES` and `celery_peer.py consume URL MESSAGES`.

Quorum queue, persistent tasks, `confirm_publish` (each call waits for its confirm, so there are threads), `acks_late`, no result backend,
no events, gossip or heartbeat.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from celery import Celery, signals
from kombu import Queue

from seen import Seen, body, ready, wait_for_go

THREADS = 16
PREFETCH = 250
QUEUE = "bench.celery"

work, url = sys.argv[1:3]
numbers = [int(argument) for argument in sys.argv[3:]]
app = Celery("peer", broker=url)
app.conf.update(
    task_queues=[Queue(QUEUE, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=True,
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=THREADS,
    worker_prefetch_multiplier=PREFETCH,
    worker_send_task_events=False,
    worker_redirect_stdouts=False,
)


@app.task(name="handle")
def handle(text):
    seen.note(text)


def consume():
    global seen
    seen = Seen(*numbers)
    signals.worker_ready.connect(lambda **_: ready(), weak=False)
    options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
    app.worker_main(["worker", "--pool=solo", f"--hostname=peer{os.getpid()}@%h", *options])


def send():
    first, messages, size = numbers
    with app.connection_for_write() as connection:
        connection.ensure_connection()
    wait_for_go()
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(lambda number: handle.apply_async((body(number, size),)), range(first, first + messages)):
            pass


{"send": send, "consume": consume}[work]()
