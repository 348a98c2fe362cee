"""
What is counted of messages that wait is about what they take: whatever a peer sends,
the memory grows by no more than half as much again as its bounds say.
"""

from __future__ import annotations

import gc
import tracemalloc
from struct import pack
from typing import Any

from twisted.internet.defer import Deferred

from aesm.core.messages.frames import (
    BATCH,
    BINARY,
    BINARY_BIT,
    CALL_BIT,
    REQUEST,
    TEXT,
    FrameType,
    encodeFrame,
)
from aesm.core.messages.hello import Hello
from aesm.core.messages.outbox import Outbox
from tests.messages.test_requests import Answerer
from tests.support.pairs import PairTestCase

COUNT = 5000  # frames
ROOM = 1 << 30


def single(kind: int, body: bytes) -> bytes:
    """Make a message in a frame of its own."""
    return encodeFrame(FrameType(kind), 1, body)


def batch(number: int, count: int) -> bytes:
    """Make a BATCH of short messages, none of which is another's object."""
    bodies = b"".join(
        pack(">H", (number * count + each) % 65536) for each in range(count)
    )
    lengths = pack(">I", BINARY_BIT | 2) * count
    return single(BATCH, pack(">I", count) + lengths + bodies)


def requests(number: int, count: int) -> bytes:
    """Make a BATCH of short requests."""
    bodies = b"".join(
        pack(">BH", 2, (number * count + each) % 65536) for each in range(count)
    )
    return single(BATCH, pack(">I", count) + pack(">I", CALL_BIT | 3) * count + bodies)


WIDE = "\U0001f600".encode()

# One that takes most for what it counts, of each kind that there is.
HOSTILE = {
    "empty": lambda number: single(TEXT, b""),
    "short": lambda number: single(BINARY, pack(">I", number)),
    "twenty": lambda number: single(BINARY, pack(">20x")[4:] + pack(">I", number)),
    "batches of two": lambda number: batch(number, 2),
    "batches": lambda number: batch(number, 500) if number % 100 == 0 else b"",
    "short with an emoji": lambda number: single(TEXT, b"a" * 20 + WIDE),
    "with an emoji": lambda number: single(TEXT, b"a" * 200 + WIDE),
    "requests": lambda number: single(REQUEST, pack(">BI", 2, number)),
    "batches of requests": lambda number: (
        requests(number, 500) if number % 100 == 0 else b""
    ),
    "requests among others": lambda number: (
        single(REQUEST, pack(">BI", 2, number))
        if number % 2
        else single(BINARY, pack(">I", number))
    ),
    "long with an emoji": lambda number: (
        single(TEXT, b"a" * 100_000 + WIDE) if number % 100 == 0 else b""
    ),
}


def never(connection: object, packet: object) -> Deferred[Any]:
    """Be never done."""
    return Deferred()


class MemoryTests(PairTestCase):
    """Messages that nobody takes."""

    def ratio(self, kind: str, handled: bool) -> float:
        """
        Let messages of a kind come.

        @param handled: whether they wait for a handler, or in the stream.
        @return: how much memory they take, by what is counted.
        """
        handler = Answerer(never, never) if handled else None
        pair = self.pair(handler, server={"receiveBuffer": ROOM, "totalBuffer": ROOM})
        protocol = pair.accepted._protocol
        assert protocol is not None
        data = [HOSTILE[kind](number) for number in range(COUNT)]
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for start in range(0, COUNT, 200):
                protocol.dataReceived(b"".join(data[start : start + 200]))
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        return grown / pair.server.factory._manager.budget.used

    def test_growth(self) -> None:
        """In no case it is more than half as much again."""
        for kind in HOSTILE:
            for handled in (False, True):
                self.assertLess(self.ratio(kind, handled), 1.5, (kind, handled))

    def test_unacknowledged(self) -> None:
        """Nor for what is sent, a message a turn or many, and not acknowledged."""
        for size, together in ((0, 1), (2, 1), (20, 1), (200, 1), (2, 2), (2, 500)):
            outbox = Outbox(ROOM)
            outbox.begin(Hello(window=ROOM, batch=True))
            gc.collect()
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                for number in range(COUNT):
                    body = pack(">I", number).rjust(size, b"x")[:size]
                    outbox.add(body, 1_700_000_000_000_000 + number)
                    if number % together == together - 1:
                        outbox.take(ROOM)
                gc.collect()
                grown = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            self.assertLess(grown / outbox.keptMemory, 1.5, (size, together))
