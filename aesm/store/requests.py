"""
Requests of a connection whose session is stored.

An open request is in the store from the commit that acknowledges it to the one in which
its answer is: so the next process has it again, or its answer leaves, and never both.
One that is begun and answered in the same turn of the event loop is never stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from aesm.core.messages import frames
from aesm.core.messages.events import Asked
from aesm.core.messages.frames import (
    MESSAGE_OVERHEAD,
    EncodedRequest,
    EncodedResponse,
    FrameType,
    Messages,
    Responses,
    encodeFrame,
)
from aesm.core.messages.requests import encodeRequest
from aesm.messages.causes import CAUSE
from aesm.messages.requests import Answer, Request, Requests
from aesm.messages.stream import Packet, costOf
from aesm.store.undoing import hasLeft

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.dispatcher import Dispatcher
    from aesm.store.connection import DurableConnection
    from aesm.store.interface import ISessionStore

MAX_MICROS = (1 << 64) - 1  # docs/protocol.md, section 6


class DurableRequests(Requests):
    """
    The requests of a L{DurableConnection<aesm.store.connection.DurableConnection>}.
    """

    __slots__ = ("_durable", "_ended", "_fresh", "_stored")

    def __init__(self, connection: DurableConnection) -> None:
        super().__init__(connection)
        self._durable = connection
        # Those that the handler has begun with, and whose cost is not counted as
        # received, in order.
        self._fresh: deque[Request] = deque()
        self._stored: set[int] = set()  # the numbers of those in the store
        # Of those that are to be removed from it, with whose message caused that.
        self._ended: list[tuple[int, Connection | None]] = []

    def append(self, kind: type, body: bytes) -> int:
        """Do the same, if what is sent can be stored."""
        return super().append(kind, body) if self._durable.canAppend else 0

    def arrived(self, event: Asked) -> None:
        """Requests came: hand them to the handler, or store them."""
        first, requests = event
        dispatcher = self._durable.dispatcher
        if dispatcher is None:
            self._durable.keep(first, requests)
        else:
            self._durable.deliver(partial(dispatcher.asked, first, requests))

    def returned(self, number: int, micros: int, body: bytes) -> None:
        """Pass on the answer to what an earlier process has asked."""
        dispatcher, cost = self._durable.dispatcher, len(body) + MESSAGE_OVERHEAD
        if dispatcher is None:
            self._durable.keep(number, Responses(micros, [body], cost, cost))
        else:
            answer = Answer.of(micros, body)
            self._durable.deliver(partial(dispatcher.returned, micros, answer))

    def _settled(self, first: int, count: int, cost: int) -> None:
        """Count messages that are done with as they come."""
        dispatcher = self._durable.dispatcher
        if dispatcher is None:
            self._durable.settled(first, count, cost)
        else:
            self._durable.deliver(partial(dispatcher.settled, count, cost))

    def begin(self, number: int, micros: int, body: bytes) -> Request:
        """Make a request that is open from now on, if it is not already."""
        isNew = number not in self.open
        request = super().begin(number, micros, body)
        if isNew and number not in self._stored:
            self._fresh.append(request)
        return request

    def taken(self, request: Request) -> None:
        """Let the peer send more, once it is written that a request is ended."""
        self.ended(request)
        self._durable.requestTaken(request.cost)

    def ended(self, request: Request) -> None:
        """A request is answered or refused."""
        if request.number in self._stored:
            self._stored.remove(request.number)
            self._ended.append((request.number, CAUSE.get()))

    def made(self, number: int, micros: int, body: str | bytes) -> Any:
        """
        Make what there is in the stream of a message that is stored: the packet, if it
        is not only its data.
        """
        if type(body) is EncodedRequest:
            self._stored.add(number)
            return self.begin(number, micros, body)
        return Answer.of(micros, body) if type(body) is EncodedResponse else body

    def store(
        self, store: ISessionStore, number: int, micros: int, body: bytes
    ) -> None:
        """Store a request that came."""
        frame = encodeFrame(FrameType.REQUEST, micros, body)
        store.addRequest(self._durable.session.name, number, frame)
        self._stored.add(number)

    def write(self, store: ISessionStore, received: int) -> int:
        """
        Add to the store what has changed since the last time.

        @param received: how many messages count as received.
        @return: what those cost that count since then, bytes.
        """
        cost, fresh = 0, self._fresh
        while fresh and fresh[0].number < received:
            request = fresh.popleft()
            cost += request.cost
            if request.isOpen:
                body = encodeRequest(request.data)
                self.store(store, request.number, _microsOf(request), body)
        ended, self._ended = self._ended, []
        for number, cause in ended:
            because = "" if cause is None else cause.session.name
            store.removeRequest(self._durable.session.name, number, because)
        return cost

    def undo(self) -> None:
        """
        Do not write that requests are ended whose cause is in another process by now.
        """
        self._ended = [each for each in self._ended if not hasLeft(each[1])]

    def end(self) -> None:
        """Let go of requests that cannot be answered any more."""
        super().end()
        self._fresh.clear()


def _microsOf(packet: Packet) -> int:
    """Tell when a packet was sent, as its frame does."""
    # The latest times, of a peer that lies, are rounded up as floats, past what fits.
    return min(round(packet.time * 1e6), MAX_MICROS)


def handing(dispatcher: Dispatcher, packet: Packet) -> tuple[int, Callable[[], object]]:
    """
    Prepare to hand a handler what was restored.

    @return: what it costs, bytes; and what is to be called.
    """
    micros, data = _microsOf(packet), packet.data
    if isinstance(packet, Answer):
        return packet.charge, partial(dispatcher.returned, micros, packet)
    if isinstance(packet, Request):
        body, cost = encodeRequest(data), packet.cost
        asked = Asked(packet.number, frames.Requests(micros, [body], cost, cost))
        return 0, partial(dispatcher.asked, *asked)
    cost = costOf(data)
    return cost, partial(dispatcher.arrived, Messages(micros, [data], cost, cost))
