"""
Handing packets to a handler, one at a time and in order: a packet counts as
ours once the handler is done with it, and until then the next one waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.core.messages.frames import Messages
from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.interfaces import IMessageHandler
from aesm.messages.stream import Packet, costOf, packetsOf

if TYPE_CHECKING:
    from aesm.messages.connection import Connection

__all__ = ["Dispatcher"]

_log = Logger(namespace="aesm.server")


_new = tuple.__new__  # makes a Packet without a call of Python's
_NONE: deque[Messages] = deque(maxlen=0)  # never appended to
_NO_PACKETS: Iterator[Packet] = iter(())


class Dispatcher:
    """
    Hands the packets of one connection to its handler.
    """

    __slots__ = (
        "_busy",
        "_connection",
        "_current",
        "_done",
        "_handled",
        "_handler",
        "_over",
        "_packets",
        "_queue",
        "_reported",
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
        self._queue = _NONE  # what came behind C{_current}
        self._current: Messages | None = None  # not all handled
        self._packets = _NO_PACKETS  # of these, not handed over
        self._handled = self._reported = 0  # of these
        self._waiting: Deferred[None] | None = None  # the handler's
        self._busy = False  # handing over
        self._over = False

    def accepted(self) -> None:
        """
        Tell the handler of the connection.
        """
        self._call(self._handler.connectionAccepted, self._connection)

    def arrived(self, messages: Messages) -> None:
        """
        Hand over what came, as far as the handler takes it now.  In a dialogue most
        messages have no other beside them, and need not be queued.

        @param messages: what came.
        """
        if self._current is not None or len(messages.data) > 1:
            self._enqueue(messages)
            return
        if self._over:
            return
        self._current = messages
        packet = _new(Packet, (messages.micros / 1e6, messages.data[0]))
        self._busy = True
        try:
            result = self._handler.packetReceived(self._connection, packet)
        except Exception:
            self._ebFailed(Failure())
        else:
            if result is None or not self._mustWait(result):
                self._handled = 1
        self._busy = False
        if self._handled and not self._over and not self._queue:
            self._current, self._handled = None, 0
            self._done(1, messages.cost)
        else:
            self._work()

    def _enqueue(self, messages: Messages) -> None:
        """
        Hand over what came after all that came before.

        @param messages: what came.
        """
        if self._current is not None:
            if self._queue is _NONE:
                self._queue = deque()
            self._queue.append(messages)
        else:
            self._current = messages
            self._packets = packetsOf(messages.micros / 1e6, messages.data)
            self._work()

    def stop(self) -> None:
        """
        Hand over nothing more: what the handler has not seen yet was not
        acknowledged.
        """
        self._over = True
        self._work()

    def lost(self, reason: AESMError) -> None:
        """
        Tell the handler that the connection is over.

        @param reason: why.
        """
        self._call(self._handler.connectionLost, self._connection, reason)

    def _work(self) -> None:
        """
        Hand over what came until the handler asks for time, and report what it is
        done with.  The inner loop is most of what a small message costs.
        """
        if self._busy:
            return
        self._busy = True
        received, connection = self._handler.packetReceived, self._connection
        count = cost = 0
        while self._waiting is None and not self._over:
            messages, handled = self._current, 0
            if messages is None:
                break
            for packet in self._packets:
                try:
                    result = received(connection, packet)
                except Exception:
                    self._ebFailed(Failure())
                else:
                    if result is not None and self._mustWait(result):
                        break
                if self._over:
                    break
                handled += 1
            if handled == len(messages.data):  # as usual
                count += handled
                cost += messages.cost
            else:
                self._handled += handled
                data = messages.data[self._reported : self._handled]
                count += len(data)
                cost += sum(map(costOf, data))
                self._reported = self._handled
                if self._handled < len(messages.data):
                    continue
                self._handled = self._reported = 0
            if self._queue:
                messages = self._current = self._queue.popleft()
                self._packets = packetsOf(messages.micros / 1e6, messages.data)
            else:
                self._current, self._queue = None, _NONE
        if self._over:
            self._current, self._queue = None, _NONE
        self._busy = False
        if count:
            self._done(count, cost)

    def _mustWait(self, result: object) -> bool:
        """
        Look whether the handler asks for time.

        @param result: what it returned.
        @return: whether it does, and is not done yet.
        """
        if isinstance(result, Coroutine):
            result = ensureDeferred(result)
        if isinstance(result, Deferred):
            self._waiting = result
            result.addErrback(self._ebFailed)
            result.addCallback(self._cbHandled)
        return self._waiting is not None

    def _cbHandled(self, result: object) -> None:
        """
        Go on after a packet for which the handler asked for time.

        @param result: nothing.
        """
        self._waiting = None
        if not self._busy:  # else it needed none, and is counted with the others
            self._handled += 1
            self._work()

    def _call(self, method: Callable[..., object], *args: object) -> None:
        """
        Call the application's code, and keep its errors to this connection.

        @param method: one of the handler's.
        @param args: its arguments.
        """
        try:
            method(*args)
        except Exception:
            self._ebFailed(Failure())

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
        self._connection.closeWith(CloseCode.INTERNAL_ERROR, "internal error")
