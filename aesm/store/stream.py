"""
A stream that persists which packets were consumed, so that they are not there again
when the process comes back::

    stream.restore(received, blobs, first, ranges)   # what a former process stored
    stream.taken()                                   # the cost of what is new
    stream.first, stream.ranges                      # for the next process

Packets may be taken from both ends, and from any thread.  Taken are all with numbers
below C{first}, and those in C{ranges} behind it, which are few: taking the newest
packets leaves one long range.  Numbers of what is no packet here, such as requests, are
in none of them: a peer decides how many of these come between packets.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import Messages, markedOf
from aesm.errors import CloseCode
from aesm.messages.acknowledgements import Acknowledgement
from aesm.messages.deferred import ignore
from aesm.messages.requests import Answer, Request
from aesm.messages.stream import DataStream, Packet, costOf
from aesm.store.interface import Blob

Ranges = list[list[int]]  # of numbers: the first, and the one behind the last

# Bytes of a message that is read back: it was accepted under the C{maxMessage} of then.
ANY_SIZE = (1 << 32) - 1


def _asItIs(number: int, micros: int, data: str | bytes) -> Any:
    """Make nothing special of a message."""
    return data


Made = Callable[[int, int, "str | bytes"], Any]


class _Numbers:
    """
    Numbers, kept as ranges, since most of them are in a row.

    @ivar ranges: in order, none of which touches another.
    """

    def __init__(self, ranges: Ranges | None = None) -> None:
        """Begin with some, or none."""
        self.ranges: Ranges = ranges or []

    def add(self, number: int) -> None:
        """Add one that is not among them."""
        ranges = self.ranges
        at = bisect(ranges, [number])
        joins = at < len(ranges) and ranges[at][0] == number + 1
        if at and ranges[at - 1][1] == number:
            ranges[at - 1][1] = ranges.pop(at)[1] if joins else number + 1
        elif joins:
            ranges[at][0] = number
        else:
            ranges.insert(at, [number, number + 1])

    def behind(self, first: int) -> int:
        """
        Forget those below a number, and those that follow them in a row.

        @return: the number that comes next.
        """
        while self.ranges and self.ranges[0][0] <= first:
            first = max(first, self.ranges.pop(0)[1])
        return first


class DurableStream(DataStream):
    """
    A stream that knows the number of each packet, and reports each that is taken.

    @ivar first: the number of the first packet that is not taken.
    @ivar isLeft: whether the session is over here, and goes on in another process.
    """

    __slots__ = (
        "_elsewhere",
        "_next",
        "_numbers",
        "_popped",
        "_settled",
        "_takenPackets",
        "first",
        "isLeft",
    )

    def __init__(self, *arguments: Any) -> None:
        """@param arguments: as L{DataStream}."""
        super().__init__(*arguments)
        self.isLeft = False
        self._simple = False  # no packet is counted before it is taken
        self._next = self.first = 0
        self._numbers: deque[int] = deque()  # of the packets that are there
        # Number and cost of those that were taken since C{taken} was called: any thread
        # appends, only the reactor's takes away.
        self._popped: deque[tuple[int, int]] = deque()
        # Taken, though older ones are not: packets, and all numbers.
        self._takenPackets, self._settled = _Numbers(), _Numbers()
        self._elsewhere: set[int] = set()  # taken in another process, and maybe here

    def restore(
        self,
        received: int,
        blobs: Iterable[Blob],
        first: int,
        ranges: Ranges,
        requests: Iterable[Blob] = (),
        made: Made = _asItIs,
    ) -> None:
        """
        Go on after a restart with what was stored.

        @param received: how many messages came in all.
        @param blobs: those of which some are not taken.
        @param first: the number of the first that is not taken.
        @param ranges: which of those behind it are.
        @param requests: those that are open.
        @param made: makes what is to be in the stream of a number, a time in
            microseconds since the Unix epoch, and a message.
        """
        taken = {number for start, end in ranges for number in range(start, end)}
        left = [
            each
            for each in _messagesOf(blobs)
            if each[0] >= first and each[0] not in taken
        ]
        # What is not left is taken, though some of that is in no range.
        numbers = [*sorted(number for number, _, _ in left), received]
        self.first = numbers[0]
        behind = [[last + 1, next] for last, next in pairwise(numbers)]
        self._settled = _Numbers([each for each in behind if each[0] < each[1]])
        self._takenPackets = _Numbers([list(each) for each in ranges])
        self._takenPackets.behind(self.first)
        for number, micros, data in sorted([*left, *_messagesOf(requests)], key=_first):
            item = made(number, micros, data)
            self._next = number
            self.extend(micros / 1e6, [item], costOf(item))
        self._next = received

    def place(self, number: int) -> None:
        """Say which number the next packet has that is added."""
        self._next = number

    def settle(self, first: int, count: int) -> None:
        """Count messages as taken that are not packets here."""
        self._popped.extend((number, 0) for number in range(first, first + count))

    def takenElsewhere(self, first: int, last: int) -> None:
        """Another process took these packets, which may come here later only."""
        numbers = range(max(first, self.first), last + 1)
        self._elsewhere.update(numbers)
        self.skip()

    def skip(self) -> None:
        """
        Leave the oldest packets out that were taken in another process; and refuse the
        requests among them, which are not given to others, and whom nobody takes here.
        """
        # Only the oldest: it is the rest that keeps its order, and soon others follow.
        elsewhere, order = self._elsewhere, self._order
        isQueue = order is not None and order.isQueue
        while (elsewhere or isQueue) and self._numbers:
            number = self._numbers[0]
            if number not in elsewhere and not (
                (isQueue or max(elsewhere) > number) and isinstance(self[0], Request)
            ):
                return
            elsewhere.discard(number)
            packet = self.getData()
            if isinstance(packet, Request):
                refused = packet.refuse(
                    "no requests are taken here", CloseCode.NOT_TAKEN
                )
                if not isinstance(refused, Acknowledgement):
                    refused.addErrback(ignore)  # who asked is told so

    def taken(self) -> int:
        """
        Take account of the packets that were taken since the last call.

        @return: their cost.
        """
        cost, popped = 0, self._popped
        while popped:
            number, more = popped.popleft()
            cost += more
            self._settled.add(number)
            if more:  # else it was no packet
                self._takenPackets.add(number)
        self.first = self._settled.behind(self.first)
        self._takenPackets.behind(self.first)
        return cost

    @property
    def ranges(self) -> Ranges:
        """Which packets are taken, though older ones are not."""
        return [list(each) for each in self._takenPackets.ranges]

    def leave(self) -> None:
        """Give nothing more: what is not taken is there in the next process."""
        with self.lock:
            while self._data:
                super().pop(newest=False)  # which does not note that it was taken
            self._numbers.clear()

    # DataStream

    def drop(self, isDone: bool) -> None:
        """Have what is not taken go, or leave it to the process that goes on."""
        if not self.isLeft:
            super().drop(isDone)
        elif self:
            self.leave()
            self.owner.streamFinished()

    @property
    def unreported(self) -> int:
        """The cost of what was taken and C{taken} was not asked for yet, bytes."""
        return sum(cost for _, cost in list(self._popped))

    def push(self, time: float, data: Sequence[str | bytes], cost: int) -> None:
        """Add packets, with the numbers that come next; the lock is held."""
        super().push(time, data, cost)
        end = self._next + len(data)
        self._numbers.extend(range(self._next, end))
        self._next = end

    def pop(self, newest: bool) -> tuple[Packet, int]:
        """Take a packet; the lock is held and there is one."""
        packet, tell = super().pop(newest)
        number = self._numbers.pop() if newest else self._numbers.popleft()
        if isinstance(packet, Request):  # which is taken once it is answered
            return packet, tell
        cost = costOf(packet if isinstance(packet, Answer) else packet.data)
        self._popped.append((number, cost))
        # The owner is told also where L{DataStream} would save that, as after the end:
        # each packet that is taken is to be stored.
        return packet, tell or cost


def readBlob(blob: Blob) -> Messages:
    """
    Decode messages that are stored together: one frame.

    @raise ValueError: it is damaged.
    """
    reader = FrameReader(ANY_SIZE)
    runs = [each for each in reader.receive(blob.frames) if isinstance(each, Messages)]
    if reader.empty and reader.error is None and runs:
        data = [data for run in runs for data in markedOf(run)]
        if len(data) == blob.messages:
            cost = sum(run.cost for run in runs)
            return Messages(runs[0].micros, data, cost, runs[-1].lastCost)
    raise ValueError("messages are not what they were")


def _messagesOf(blobs: Iterable[Blob]) -> list[tuple[int, int, str | bytes]]:
    """Read what is stored: number, time and data each; C{ValueError} if damaged."""
    return [
        (number, messages.micros, data)
        for blob in blobs
        for messages in [readBlob(blob)]
        for number, data in enumerate(messages.data, blob.number)
    ]


def _first(message: tuple[int, int, str | bytes]) -> int:
    """Sort messages by their numbers."""
    return message[0]
