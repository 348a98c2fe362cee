"""
The packets of one connection after another, as one stream::

    stream = SessionStream()
    stream.add(connection.retrieved)     # and of the next, when that one is over
    packet = await stream.get()

Each connection keeps its own packets, so that what is not taken holds back the
peer that sent it.

As with a L{DataStream<aesm.messages.stream.DataStream>}, any thread may look and take:
which streams there are is a tuple that is only ever replaced, in the reactor's
thread, so that others see a whole one.  C{get()}, C{async for} and what the service
calls belong to the reactor's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from aesm.errors import ConnectionClosed, closedError
from aesm.messages.deferred import ReactorDeferred
from aesm.messages.stream import DataStream, Packet, Watch, costOf


class SessionStream(Sequence[Packet], Watch):
    """
    The streams of one connection after another, as one
    L{DataStream<aesm.messages.stream.DataStream>}: the oldest packet first.

    @ivar reason: why nothing more will come; None while there may.
    """

    def __init__(self) -> None:
        self.reason: ConnectionClosed | None = None
        # Only the last may still grow; those before it have ended.
        self._streams: tuple[DataStream, ...] = ()
        self._waiting: deque[Deferred[Packet]] = deque()
        # The last stream is asked for one packet at a time, however many wait here:
        # if it ends, that one question fails, and is put to the next stream.
        self._asked: Deferred[Packet] | None = None

    def getData(self) -> Packet | None:
        """Take the oldest packet; None if there is none now."""
        for stream in self._streams:
            packet = stream.getData()
            if packet is not None:
                return packet
        return None

    def get(self) -> Deferred[Packet]:
        """
        Take the next packet, once there is one, over whichever connection.

        @return: fires with the packet; fails with L{ConnectionClosed} once the
            service has stopped and all is taken.  Cancelling it takes nothing.
        """
        packet = self.getData()
        if packet is not None:
            return succeed(packet)
        if self.reason is not None:
            return fail(closedError(self.reason))
        waiting: Deferred[Packet] = ReactorDeferred(self._cancel)
        self._waiting.append(waiting)
        self._ask()
        return waiting

    def __len__(self) -> int:
        """Count the packets."""
        return sum(map(len, self._streams))

    def __getitem__(self, index: int) -> Packet:  # type: ignore[override]
        """
        Look at one packet and take nothing.

        @param index: its position, from the end if negative.
        @raise IndexError: there is none.
        """
        streams = self._streams
        for stream in streams if index >= 0 else reversed(streams):
            count = len(stream)
            if -count <= index < count:
                return stream[index]
            index += count if index < 0 else -count
        raise IndexError("there is no such packet")

    def __iter__(self) -> Iterator[Packet]:
        """Look at all packets that are there now."""
        return iter([packet for stream in self._streams for packet in stream])

    def __aiter__(self) -> AsyncIterator[Packet]:
        """Take packets until the service is stopped; a failure is raised."""
        # That of one stream: it calls nothing but getData() and get().
        return DataStream._take(cast(Any, self))

    # What the service calls

    @property
    def cost(self) -> int:
        """What the packets cost for flow control, bytes."""
        return sum(costOf(packet.data) for each in self._streams for packet in each)

    def add(self, stream: DataStream) -> None:
        """Go on with another stream; those before have ended."""
        stream.watch = self
        self._streams = (*filter(len, self._streams), stream)
        self._ask()
        if self.arrived is not None:
            self.arrived()

    def end(self, reason: ConnectionClosed) -> None:
        """Nothing more will come."""
        self.reason = reason
        while self._waiting:
            self._waiting.popleft().errback(closedError(reason))
        if self.arrived is not None:
            self.arrived()  # so that who waits elsewhere looks for the reason

    # Parts

    def _ask(self) -> None:
        """Give those who wait what there is, and ask the last stream for more."""
        while self._waiting and self._asked is None:
            packet = self.getData()
            if packet is None:
                break
            self._waiting.popleft().callback(packet)
        # Their callbacks may have waited, cancelled or asked again: look once more.
        if self._waiting and self._streams and self._asked is None:
            asked = self._asked = self._streams[-1].get()
            asked.addCallbacks(self._cbPacket, self._ebEnded)

    def _cbPacket(self, packet: Packet) -> None:
        """Hand the packet to who has waited longest."""
        self._asked = None
        self._waiting.popleft().callback(packet)
        self._ask()

    def _ebEnded(self, failure: Failure) -> None:
        """Wait for the next stream, or for somebody to ask."""
        failure.trap(ConnectionClosed, CancelledError)
        self._asked = None

    def _cancel(self, waiting: Deferred[Packet]) -> None:
        """Take nothing for somebody who does not wait any more."""
        self._waiting.remove(waiting)
        if self._asked is not None and not self._waiting:
            self._asked.cancel()
