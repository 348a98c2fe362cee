"""
Packets of which is noted which are taken, so that they are not there again when the
process comes back::

    stream.restore(received, blobs, first, ranges)   # what a former process noted
    stream.taken()                                   # the cost of what is new
    stream.first, stream.ranges                      # for the next process
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import Messages
from aesm.messages.stream import DataStream, Packet, costOf
from aesm.store.sqlite import Blob

__all__ = ["DurableStream", "readBlob"]

Ranges = list[list[int]]  # of numbers: the first, and the one behind the last

ANY_SIZE = (1 << 32) - 1  # of a message that is read back, bytes


class DurableStream(DataStream):
    """
    A stream that knows the number of each packet, since which of them are taken is
    written down.  It reports each one.

    @ivar first: the number of the first packet that may still be there.
    """

    __slots__ = ("_next", "_numbers", "_out", "_popped", "first")

    def __init__(self, *arguments: Any) -> None:
        """
        @param arguments: as L{DataStream}.
        """
        super().__init__(*arguments)
        self._simple = False
        self._next = self.first = 0
        self._numbers: deque[int] = deque()  # of the packets that are there
        self._popped: deque[tuple[int, int]] = deque()  # number and cost, not noted
        self._out: set[int] = set()  # taken, though older ones are not

    def restore(
        self, received: int, blobs: Iterable[Blob], first: int, ranges: Ranges
    ) -> None:
        """
        Go on after a restart with what was written down.

        @param received: how many messages came in all.
        @param blobs: those that may not be taken.
        @param first: the number of the first that is not taken.
        @param ranges: which of those behind it are.
        """
        self.first = first
        self._out = {number for start, end in ranges for number in range(start, end)}
        for blob in blobs:
            self._next = blob.number
            messages = readBlob(blob)
            for data in messages.data:
                if self._next < first or self._next in self._out:
                    self._next += 1
                else:
                    self.extend(messages.micros / 1e6, [data], costOf(data))
        self._next = received

    def taken(self) -> int:
        """
        Take note of what was taken since the last time.

        @return: its cost.
        """
        cost, popped, out = 0, self._popped, self._out
        while popped:
            number, more = popped.popleft()
            cost += more
            out.add(number)
        while self.first in out:
            out.remove(self.first)
            self.first += 1
        return cost

    @property
    def ranges(self) -> Ranges:
        """
        Which packets are taken, though older ones are not.
        """
        ranges: list[list[int]] = []
        for number in sorted(self._out):
            if ranges and ranges[-1][1] == number:
                ranges[-1][1] += 1
            else:
                ranges.append([number, number + 1])
        return ranges

    # DataStream

    def push(self, time: float, data: Sequence[str | bytes], cost: int) -> None:
        """
        Add packets; the lock is held.

        @param time: as C{extend}.
        @param data: as C{extend}.
        @param cost: as C{extend}.
        """
        super().push(time, data, cost)
        end = self._next + len(data)
        self._numbers.extend(range(self._next, end))
        self._next = end

    def pop(self, newest: bool) -> tuple[Packet, int]:
        """
        Take a packet; the lock is held and there is one.

        @param newest: which end to take from.
        @return: as L{DataStream.pop}; it is told of each packet, also after the end.
        """
        packet, tell = super().pop(newest)
        number = self._numbers.pop() if newest else self._numbers.popleft()
        cost = costOf(packet.data)
        self._popped.append((number, cost))
        return packet, tell or cost


def readBlob(blob: Blob) -> Messages:
    """
    Read what was written down.

    @param blob: messages that were sent together: one frame.
    @return: the same.
    @raise ValueError: it is damaged.
    """
    reader = FrameReader(ANY_SIZE)
    match reader.receive(blob.frames):
        case [Messages() as messages] if len(messages.data) == blob.messages:
            if reader.empty and reader.error is None:
                return messages
    raise ValueError("messages are not what they were")
