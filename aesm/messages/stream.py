"""
The packets received from one peer that nobody has taken yet::

    stream.getData()              # the oldest packet, or None
    stream[0], stream[-1]         # looking takes nothing
    packet = await stream.get()
    async for packet in stream:
        ...

A stream may be used from any thread: one lock guards its contents, shared with the
registry that it belongs to, and no callback runs with it held.  Packets whose cost is
counted already are taken without the lock, in one step that no thread can interrupt:
the lock would take longer than all else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import repeat, starmap
from operator import length_hint
from threading import RLock
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, fail, succeed

from aesm.core.messages.frames import (
    MESSAGE_OVERHEAD,
    EncodedBodies,
    EncodedText,
    decoded,
    newTuple,
)
from aesm.errors import AESMError, CloseCode, ConnectionClosed, closedError
from aesm.messages.deferred import ReactorDeferred

ORDERLY_CODES = (
    CloseCode.NORMAL,
    CloseCode.GOING_AWAY,
    CloseCode.NO_CODE,
)  # RFC 6455 section 7.4.1


class Packet(NamedTuple):
    """
    A message and when it was sent.

    @ivar time: Unix seconds, the sender's clock.
    @ivar data: C{str} for a TEXT message, C{bytes} for a BINARY one.  Its type leaves
        out, so that who has a packet need not ask, that it is None where there is none
        (C{getDataOrdinal}), and for an L{Answer<aesm.messages.requests.Answer>} that is
        a refusal.
    """

    time: float
    data: str | bytes


def packetsOf(times: Iterable[float], data: Sequence[str | bytes]) -> Iterator[Packet]:
    """
    Make packets of messages, as they are taken.

    @param times: when each was sent, Unix seconds; may go on for ever.
    """
    bodies = map(decoded, data) if type(data) is EncodedBodies else data
    return map(newTuple, repeat(Packet), zip(times, bodies, strict=False))


def costOf(data: str | bytes | Packet | None) -> int:
    """
    Compute what a message costs for flow control: the bytes of its body on the wire,
    and 64 more; None costs nothing, nor does a request, before it is answered.

    @param data: the message; or a packet that is more than that, which knows itself.

    @see: docs/protocol.md, section 7
    """
    if isinstance(data, bytes) or (isinstance(data, str) and data.isascii()):
        return len(data) + MESSAGE_OVERHEAD
    if isinstance(data, str):
        return len(data.encode("utf-8")) + MESSAGE_OVERHEAD
    return getattr(data, "charge", 0)


def _packetOf(time: float, data: Any) -> Packet:
    """Make a packet of what a stream keeps, if it is none."""
    return data if isinstance(data, Packet) else Packet(time, decoded(data))


class StreamOwner(Protocol):
    """
    What is told of a stream; called without the lock, in the thread that took the
    packet.
    """

    def packetsTaken(self, cost: int) -> None:
        """The application has taken packets of that cost."""

    def streamFinished(self) -> None:
        """The stream has ended and its last packet was taken."""


class _Arrival:
    """Packets of one stream that came together, those not taken."""

    __slots__ = ("count", "stream")

    def __init__(self, stream: DataStream, count: int) -> None:
        """Note so many packets of a stream."""
        self.stream = stream
        self.count = count


class Watch:
    """
    Of several streams together: who wants to know that packets have come.

    @ivar arrived: called in the thread that adds them, without the lock, when those who
        wait at the stream have theirs; None while nobody wants to know.
    """

    arrived: Callable[[], None] | None = None


class Arrivals(OrderedDict[_Arrival, None], Watch):
    """
    The packets of all streams of a registry that are not taken, in the order of
    arrival.

    @ivar held: their cost, bytes.
    @ivar newest: what came last, if it is not all taken.
    @ivar isQueue: whether they are taken by whichever process asks first for them.
    """

    held = 0
    newest: _Arrival | None = None
    isQueue = False


# Taking without the lock
#
# To take a packet under the lock, and count its cost, would take longer than all else
# that is done for a small message.  Counting matters only once a quarter of the window
# is taken, when the owner lets the peer send more.  So a burst that leads to no such
# report, whenever its packets are taken, is counted as a whole: when it comes into an
# empty stream, or when its first packet is taken.  Then nobody has to count, and
# C{next(burst.take, None)} is one step that no thread can interrupt.  In an empty
# stream the packets are not even made before they are taken.
#
# The invariant: whatever C{take} gives is counted already.  The last packet of a burst
# is never in C{take} but in the stream's deque, so that whoever takes it holds the lock
# and sees what comes next; C{lastIsCounted} says that it is counted, too.
#
# That holds for a stream of its own (C{_simple}).  One of a registry, whose packets may
# be taken in the order of arrival at all connections, is counted packet by packet.
# tests/messages/test_hotpath.py counts the calls (test_clientsStream, test_stream).


class _CountedBurst:
    """
    Packets that came together and whose cost is counted as taken, all at once.

    @ivar take: the packets that are counted, without the last.
    @ivar lastIsCounted: whether the last one, in the stream's deque, is counted too.
    @ivar time: when those that are not made yet were sent, Unix seconds.
    @ivar data: their messages, with those that were taken.
    @ivar rest: an iterator over those of them that are not taken.
    """

    __slots__ = ("data", "lastIsCounted", "rest", "take", "time")

    def __init__(self, take: Iterator[Packet], lastIsCounted: bool) -> None:
        self.take = take
        self.lastIsCounted = lastIsCounted
        self.time = 0.0
        self.data: Sequence[str | bytes] = ()
        self.rest: Iterator[str | bytes] = iter(())

    @classmethod
    def unmade(cls, time: float, data: Sequence[str | bytes]) -> _CountedBurst:
        """
        Make a burst of messages, whose packets are made as they are taken; without the
        last message.
        """
        rest = iter(data)
        burst = cls(map(newTuple, repeat(Packet), zip(repeat(time), rest)), True)
        burst.time, burst.data, burst.rest = time, data, rest
        return burst

    @classmethod
    def made(
        cls, times: deque[float], data: deque[str | bytes], count: int
    ) -> _CountedBurst:
        """Make a burst of so many messages at the left of deques."""
        left = (starmap(each.popleft, repeat((), count)) for each in (times, data))
        return cls(map(newTuple, repeat(Packet), zip(*left, strict=True)), True)

    def left(self) -> list[Packet]:
        """Return the packets that are not made yet, without taking them."""
        count = length_hint(self.rest)
        left = self.data[len(self.data) - count :]
        return list(packetsOf(repeat(self.time), left))


# Tells whether this thread has the lock of a stream already.  Then this is a signal
# handler that has interrupted it in the middle, and there is nothing to take before it
# returns.  The method itself: a function of ours would be a call more for each packet.
isHeldHere: Callable[[RLock], bool] = type(RLock())._is_owned  # type: ignore[attr-defined]

_FINISHED = -1  # instead of a cost: the last packet was taken after the end

# An empty deque is most of a KiB, and most streams of a large server are empty: they
# share these.  Nothing is ever appended to them.
_EMPTY: deque[Any] = deque(maxlen=0)
_NO_TIMES: deque[float] = deque(maxlen=0)
_NO_SIZES: deque[tuple[int, int]] = deque(maxlen=0)
_NO_BURST = _CountedBurst(iter(()), False)
_UNWATCHED = Watch()


class DataStream(Sequence[Packet]):
    """
    The packets received from one peer that nobody has taken yet, the oldest
    first.  Looking takes nothing: C{stream[i]}, C{len(stream)}, iterating.

    What holds it to its bound is the peer, which waits until packets are
    taken (docs/protocol.md, section 7).
    """

    __slots__ = (
        "_arrivals",
        "_burst",
        "_data",
        "_encoded",
        "_order",
        "_reason",
        "_report",
        "_simple",
        "_single",
        "_sizes",
        "_taken",
        "_times",
        "_waiting",
        "lock",
        "owner",
        "watch",
    )

    def __init__(
        self,
        owner: StreamOwner,
        window: int,
        lock: RLock | None = None,
        order: Arrivals | None = None,
    ) -> None:
        """
        @param window: cost that the peer may send ahead, bytes.
        @param lock: the registry's; None makes one.
        @param order: the registry's order of arrival, or None.
        """
        self.owner = owner
        self.watch = _UNWATCHED if order is None else order
        self.lock = lock or RLock()  # guards all below, and the registry's order
        self._order = order
        # The packets: to keep them as such would take half as much again.
        self._data = _EMPTY
        self._times = _NO_TIMES
        self._encoded = False  # some are texts to be decoded, or made: requests
        self._arrivals: deque[_Arrival] | None = None
        self._waiting: deque[Deferred[Packet]] | None = None
        self._taken = 0  # cost taken and not reported yet
        # The cost to report at: a report wakes the connection, and no smaller step of
        # the limit is worth an ACK (L{Inbox.takeAck}).
        self._report = max(1, window // 4)
        self._reason: AESMError | None = None  # why it ended
        self._simple = order is None  # nobody else counts, and it has not ended
        self._sizes = _NO_SIZES  # of those that came together, while that is so
        self._burst = _NO_BURST  # before C{_data}: what is counted already
        self._single = 0  # packets that are counted one by one

    # What users call

    def getData(self) -> Packet | None:
        """
        Take the oldest packet.

        @return: the packet, or None if there is none now.
        """
        packet = next(self._burst.take, None)  # in a burst this is all that they cost
        if packet is not None or not self._data:
            return packet
        if isHeldHere(self.lock):
            return None
        with self.lock:
            # Again: another thread may have begun a burst meanwhile.
            packet = next(self._burst.take, None)
            if packet is not None or not self._data:
                return packet
            packet, cost = self.pop(newest=False)
        if cost:
            self.tell(cost)
        return packet

    def get(self) -> Deferred[Packet]:
        """
        Take the next packet, once there is one.

        @return: fires with the packet; fails with L{ConnectionClosed} once the
            stream has ended and is empty.  Cancelling it takes nothing.
        """
        packet = self.getData() if self._data else None
        if packet is not None:
            return succeed(packet)
        if self._reason is not None:
            return fail(closedError(self._reason))
        if self._waiting is None:
            self._waiting = deque()
        waiting: Deferred[Packet] = ReactorDeferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def __len__(self) -> int:
        """Count the packets."""
        return length_hint(self._burst.rest) + len(self._data)

    def __getitem__(self, index: int) -> Packet:  # type: ignore[override]
        """
        Look at one packet and take nothing.

        @param index: its position, from the end if negative.
        @raise IndexError: there is none.
        """
        with self.lock:
            unmade, count = self._burst.left(), len(self._data)
            if index < 0:
                index += len(unmade) + count
            if 0 <= index < len(unmade):
                return unmade[index]
            if not 0 <= index < len(unmade) + count:
                raise IndexError("there is no such packet")
            index -= len(unmade)
            return _packetOf(self._times[index], self._data[index])

    def __iter__(self) -> Iterator[Packet]:
        """Look at all packets that are there now."""
        with self.lock:
            kept = map(_packetOf, self._times, self._data)
            return iter([*self._burst.left(), *kept])

    def __aiter__(self) -> AsyncIterator[Packet]:
        """
        Take packets as they come, until the connection is closed in order; any
        other end is raised.
        """
        return self._take()

    async def _take(self) -> AsyncIterator[Packet]:
        """Take packets as they come."""
        while True:
            try:
                packet = self.getData() or await self.get()
            except ConnectionClosed as reason:
                if reason.code in ORDERLY_CODES:
                    return
                raise
            yield packet

    # What the connection calls

    @property
    def reason(self) -> AESMError | None:
        """Why nothing more will come; None while there may."""
        return self._reason

    @property
    def unreported(self) -> int:
        """The cost of what was taken and the owner does not know of yet, bytes."""
        return self._taken

    def extend(self, time: float, data: Sequence[Any], cost: int) -> None:
        """
        Add packets that came together.

        @param time: when they were sent, Unix seconds.
        @param data: at least one message; or requests, which are packets already.
        @param cost: the cost of all, bytes.
        """
        # One message, and somebody waits for it, as in a dialogue: it is never stored.
        if (
            self._waiting
            and self._simple
            and len(data) == 1
            and not self._data
            and not isinstance(data[0], Packet)
        ):
            with self.lock:
                self._taken += cost
                taken = self._taken if self._taken >= self._report else 0
                self._taken -= taken
            # As packetsOf, whose iterators would take as long as all else here.
            message = decoded(data[0]) if type(data) is EncodedBodies else data[0]
            self._waiting.popleft().callback(newTuple(Packet, (time, message)))
            if taken:
                self.tell(taken)
            return
        with self.lock:
            self.push(time, data, cost)
        while self._waiting and self._data:
            waiting = self._waiting.popleft()
            packet = self.getData()
            if packet is None:  # another thread took it
                self._waiting.appendleft(waiting)
            else:
                waiting.callback(packet)
        if self.watch.arrived is not None:
            self.watch.arrived()

    def drop(self, isDone: bool) -> None:
        """
        Have what is not taken go.

        @param isDone: whether nobody will take it; else that is so only if it stays for
            another process.
        """
        while isDone and self.getData() is not None:
            pass

    def end(self, reason: AESMError) -> None:
        """End the stream: nothing more will come."""
        with self.lock:
            self._reason = reason
            self._simple = False
            finished = not self._data
        while self._waiting:
            self._waiting.popleft().errback(closedError(reason))
        if finished:
            self.owner.streamFinished()

    # Parts

    def push(self, time: float, data: Sequence[Any], cost: int) -> None:
        """Add packets as C{extend} does, with the lock held and nobody told."""
        if type(data) is EncodedBodies or isinstance(data[0], Packet):
            self._encoded = True
        if self._data is _EMPTY:
            self._data, self._times = deque(), deque()
            if (
                self._simple
                and len(data) > 1
                and self._taken + cost < self._report
                and not self._encoded
            ):
                # A burst that can be counted at once, as nearly always.
                self._taken += cost
                self._data.append(data[-1])
                self._times.append(time)
                self._burst = _CountedBurst.unmade(time, data[:-1])
                return
        self._data.extend(data)
        self._times.extend(repeat(time, len(data)))
        if self._simple:
            if self._sizes is _NO_SIZES:
                self._sizes = deque()
            self._sizes.append((len(data), cost))
        elif self._order is not None:
            self._order.held += cost
            newest = self._order.newest
            if newest is not None and newest.stream is self:
                newest.count += len(data)
                return
            if self._arrivals is None:
                self._arrivals = deque()
            arrival = self._order.newest = _Arrival(self, len(data))
            self._order[arrival] = None
            self._arrivals.append(arrival)

    def pop(self, newest: bool) -> tuple[Packet, int]:
        """
        Take a packet; the lock is held and there is one.

        @param newest: which end to take from.
        @return: the packet, and what C{tell} is to be called with.
        """
        kept, times = self._data, self._times
        data = kept.pop() if newest else kept.popleft()
        time = times.pop() if newest else times.popleft()
        cost = self._charge(data) if self._simple else costOf(data)
        arrivals = self._arrivals
        if self._order is not None and arrivals is not None:
            arrival = arrivals[-1 if newest else 0]
            self._order.held -= cost
            arrival.count -= 1
            if not arrival.count:
                (arrivals.pop if newest else arrivals.popleft)()
                del self._order[arrival]
                if arrival is self._order.newest:
                    self._order.newest = None
        if isinstance(data, Packet):
            packet: Packet = data
        else:
            if type(data) is EncodedText:
                data = decoded(data)
            packet = newTuple(Packet, (time, data))
        if not kept:
            self._data, self._times = _EMPTY, _NO_TIMES
            self._encoded = False
            self._arrivals = None
            self._sizes = _NO_SIZES
            self._burst = _NO_BURST
        # After the end nobody can send more: the owner only wants to know when all is
        # taken.
        if self._reason is not None:
            return packet, 0 if kept else _FINISHED
        taken = self._taken + cost
        if taken < self._report:
            self._taken, taken = taken, 0
        else:
            self._taken = 0
        return packet, taken

    def _charge(self, data: str | bytes) -> int:
        """
        Count the oldest packet as taken, or all that came with it, and give the cost.
        """
        if self._burst.lastIsCounted:
            self._burst.lastIsCounted = False
            return 0
        if not self._single:
            count, cost = self._sizes.popleft()
            if self._taken + cost < self._report and (count == 1 or not self._encoded):
                if count > 1:  # this packet is taken already, the last stays
                    self._burst = _CountedBurst.made(self._times, self._data, count - 2)
                return cost
            self._single = count
        self._single -= 1
        return costOf(data)

    def tell(self, cost: int) -> None:
        """
        Tell the owner what was taken, with the lock not held.

        @param cost: what C{pop} returned with the packet.
        """
        if cost == _FINISHED:
            self.owner.streamFinished()
        elif cost:
            self.owner.packetsTaken(cost)
