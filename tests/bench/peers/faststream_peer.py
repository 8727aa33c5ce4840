"""FastStream over RabbitMQ: `faststream_peer.py send URL FIRST MESSAGES BYTES` and `faststream_peer.py consume URL MESSAGES`.

Quorum queue, persistent messages, publisher confirms (each publish waits for its own; a window of them is under way), acked after the handler,
on uvloop.
"""

import asyncio
import logging
import signal
import sys

import uvloop
from faststream import AckPolicy
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from seen import Seen, body, ready, wait_for_go

WINDOW = 500
PREFETCH = 1000
QUEUE = RabbitQueue("bench.faststream", durable=True, queue_type=QueueType.QUORUM)


def broker(url):
    return RabbitBroker(url, default_channel=Channel(prefetch_count=PREFETCH, publisher_confirms=True), logger=None)


async def consume(url, messages):
    seen = Seen(messages)
    consumer = broker(url)

    @consumer.subscriber(QUEUE, ack_policy=AckPolicy.REJECT_ON_ERROR)
    async def handle(message: bytes):
        seen.note(message)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await consumer.start()
    ready()
    await stop.wait()
    await consumer.stop()


async def send(url, first, messages, size):
    numbers = iter(range(first, first + messages))

    async def one_after_another(producer):
        for number in numbers:
            await producer.publish(body(number, size).encode(), queue=QUEUE, persist=True)

    async with broker(url) as producer:
        await producer.declare_queue(QUEUE)
        await asyncio.to_thread(wait_for_go)
        await asyncio.gather(*(one_after_another(producer) for _ in range(WINDOW)))


logging.disable()
work, url, *numbers = sys.argv[1:]
uvloop.run({"send": send, "consume": consume}[work](url, *map(int, numbers)))
