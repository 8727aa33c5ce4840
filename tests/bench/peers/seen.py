"""What a consumer has handled, where the benchmark reads it: a file for each process, mapped into memory.

Eight bytes say when the last message was handled (microseconds since the Unix epoch, least significant first); then comes one byte for each
message, with how often it was handled.
"""

import mmap
import os
import pathlib
import struct
import time

HEAD = 8


class Seen:
    def __init__(self, messages):
        with open(f"seen.{os.getpid()}", "w+b") as file:
            file.truncate(HEAD + messages)
            self.map = mmap.mmap(file.fileno(), HEAD + messages)

    def note(self, body):
        place = HEAD + number(body)
        self.map[place] = min(self.map[place] + 1, 255)
        struct.pack_into("<Q", self.map, 0, time.time_ns() // 1000)


def body(number, size):
    """Begins with the number of the message."""
    return f"{number:010}".ljust(size, "x")


def number(body):
    return int(body[:10])


def ready():
    print("ready", flush=True)


def wait_for_go(seconds=120):
    """Until the benchmark starts its clock: it makes a file."""
    ready()
    until = time.monotonic() + seconds
    while not pathlib.Path("go").exists():
        if time.monotonic() > until:
            raise SystemExit("nobody said go")
        time.sleep(0.002)
