"""
Handing packets to a handler, one at a time and in order: a packet counts as
ours once the handler is done with it, and until then the next one waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.core.frames import Messages
from aesm.errors import AESMError, ConnectionClosed
from aesm.interfaces import IMessageHandler
from aesm.stream import Packet, costOf

if TYPE_CHECKING:
    from aesm.connection import Connection

__all__ = ["Dispatcher"]

_log = Logger(namespace="aesm.server")

INTERNAL_ERROR = 1011  # close code, PROTOCOL section 9


class Dispatcher:
    """
    Hands the packets of one connection to its handler.
    """

    __slots__ = (
        "_busy",
        "_connection",
        "_cost",
        "_done",
        "_handled",
        "_handler",
        "_over",
        "_queue",
        "_waiting",
    )

    def __init__(
        self,
        handler: IMessageHandler,
        connection: Connection,
        done: Callable[[int, int], None],
    ) -> None:
        """
        @param handler: who handles.
        @param connection: whose packets.
        @param done: called with how many messages are handled, and their cost.
        """
        self._handler = handler
        self._connection = connection
        self._done = done
        self._queue: deque[Packet] = deque()
        self._waiting: Deferred[None] | None = None  # the handler's
        self._handled = self._cost = 0  # not reported yet
        self._busy = False  # handing over
        self._over = False

    def accepted(self) -> None:
        """
        Tell the handler of the connection.
        """
        self._call(self._handler.connectionAccepted, self._connection)

    def arrived(self, messages: Messages) -> None:
        """
        Hand over what came, as far as the handler takes it now.

        @param messages: what came.
        """
        time = messages.micros / 1e6
        self._queue.extend(Packet(time, data) for data in messages.data)
        self._work()

    def stop(self) -> None:
        """
        Hand over nothing more: what the handler has not seen yet was not
        acknowledged.
        """
        self._over = True
        self._queue.clear()

    def lost(self, reason: AESMError) -> None:
        """
        Tell the handler that the connection is over.

        @param reason: why.
        """
        self._call(self._handler.connectionLost, self._connection, reason)

    def _work(self) -> None:
        """
        Hand over packets until the handler asks for time.
        """
        if self._busy:
            return
        self._busy = True
        while self._queue and self._waiting is None and not self._over:
            packet = self._queue.popleft()
            result = self._call(self._handler.packetReceived, self._connection, packet)
            if isinstance(result, Coroutine):
                result = ensureDeferred(result)
            if isinstance(result, Deferred):
                self._waiting = result
                result.addErrback(self._ebFailed)
                result.addCallback(self._cbHandled, packet)
            else:
                self._count(packet)
        self._busy = False
        handled, cost = self._handled, self._cost
        self._handled = self._cost = 0
        if handled:
            self._done(handled, cost)

    def _cbHandled(self, result: object, packet: Packet) -> None:
        """
        Go on after a packet for which the handler asked for time.

        @param result: nothing.
        @param packet: the packet.
        """
        self._waiting = None
        self._count(packet)
        self._work()

    def _count(self, packet: Packet) -> None:
        """
        Count a packet that the handler is done with, unless it failed.

        @param packet: the packet.
        """
        if not self._over:
            self._handled += 1
            self._cost += costOf(packet.data)

    def _call(self, method: Callable[..., object], *args: object) -> object:
        """
        Call the application's code, and keep its errors to this connection.

        @param method: one of the handler's.
        @param args: its arguments.
        @return: what it returns, None after an error.
        """
        try:
            return method(*args)
        except Exception:
            self._ebFailed(Failure())
            return None

    def _ebFailed(self, failure: Failure) -> None:
        """
        Close the connection over which the handler failed.  That it could send
        no more to a peer that is closing is no failure of its own.

        @param failure: how.
        """
        if self._connection.isClosing and failure.check(ConnectionClosed):
            return
        self._over = True
        _log.failure(
            "the handler failed over {connection!r}, which is closed",
            failure,
            connection=self._connection,
        )
        self._connection.closeWith(INTERNAL_ERROR, "internal error")
