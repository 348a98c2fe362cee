"""
What a server, or a client, does with its connections: an object with methods, or a
coroutine for each connection::

    handling = handlingOf(handler, clock)      # None if there is no handler
    handling.take(connection)                  # before anything comes over it
    handling.accepted(connection)
    handling.lost(connection, reason)
    handling.settled(5.0)                      # the handler is done with all ends

An object gets each packet by its L{Dispatcher<aesm.messages.dispatcher.Dispatcher>},
which acknowledges it once the object is done with it.  A coroutine takes its packets
from C{connection.retrieved}, where they are acknowledged when they come, as those of a
connection without a handler are.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.interfaces import IMessageHandler
from aesm.messages.causes import CAUSE, CausingHandler
from aesm.messages.dispatcher import Dispatcher
from aesm.messages.requests import Request
from aesm.messages.running import tellFailed
from aesm.messages.turns import Rates, Turns

if TYPE_CHECKING:
    from aesm.messages.connection import Connection


HANDLER_DEADLINE = 5.0  # seconds that a handler has at a stop

Talk = Callable[["Connection"], Coroutine[Deferred[Any], Any, object]]

# The life of a coroutine
#
# It begins when its connection is accepted, and goes on through cuts, of which it hears
# nothing: what it sends meanwhile is kept.  It is the first of two ends that counts:
#
#   the connection's   C{retrieved} gives what is there still, and ends; the coroutine
#                      is not cancelled, since what is there is acknowledged, and nobody
#                      else reads it.  That it then fails because the connection is
#                      gone is no error
#   the coroutine's    the connection is closed, with 1000 or 1011; what still comes is
#                      not acknowledged.  What is unread is dropped, though it is
#                      acknowledged, so that its sender is told, with 4003 in the place
#                      of 1000.  A client that is away then is told when it is back:
#                      until then its session waits for it.  (To acknowledge only what
#                      is read would have two coroutines that both await what they have
#                      sent, before they read on, wait for ever.)
#
# A session that goes on in another process, since this one stops and has a spool, ends
# here only: what is unread is left to the coroutine that is begun there for it.


class Handling:
    """Does something with connections; nothing, where there is no handler."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._running: dict[Deferred[Any], None] = {}  # what is not done

    def take(self, connection: Connection, causes: bool = False) -> None:
        """
        Prepare for what comes over a connection.

        @param causes: whether it is to be known what is done because of that.
        """

    def accepted(self, connection: Connection) -> None:
        """The peer is there."""

    def leftOver(self, connection: Connection) -> None:
        """What is unread of a session that was over before a restart can be taken."""

    def detached(self, connection: Connection, reason: AESMError) -> None:
        """The connection is cut, and may come back."""

    def attached(self, connection: Connection) -> None:
        """The peer has come back."""

    def lost(self, connection: Connection, reason: AESMError) -> None:
        """The connection is over."""

    def settled(self, deadline: float = HANDLER_DEADLINE) -> Deferred[None]:
        """
        Wait for what is done about connections that are over, once all are.

        @param deadline: seconds.
        @return: fires once it is done, or at the deadline.
        """
        if not self._running:
            return succeed(None)
        done: Deferred[Any] = Deferred()
        DeferredList(list(self._running)).addCallback(done.callback)
        done.addTimeout(deadline, self._clock, lambda result, timeout: self._late())
        return done.addCallback(lambda result: None)

    def leave(self, connection: Connection | None) -> None:
        """Wait no more for what runs for a connection: that is what waits for us."""

    def _run(self, running: Deferred[Any]) -> None:
        """Take note of what is not done; it never fails."""
        self._running[running] = None
        running.addCallback(lambda result: self._running.pop(running, None))

    def _late(self) -> None:
        """It is not done in time."""


def handlerOf(handler: object) -> IMessageHandler | Talk | None:
    """
    Check a C{handler} option.

    @raise TypeError: it is something else, such as a class; says what to do.
    """
    if handler is None or IMessageHandler.providedBy(handler):
        return handler
    if isinstance(handler, type):
        said = f"handler is the class {handler.__name__}: give an instance of it"
    elif inspect.iscoroutine(handler):
        handler.close()
        said = f"handler is a running coroutine: give {handler.__name__} itself"
    elif not callable(handler):
        said = (
            f"handler must provide IMessageHandler, not {type(handler).__name__}: "
            "derive its class from MessageHandler"
        )
    elif not _isCoroutineFunction(handler):
        said = (
            f"{handler!r} is no handler: write 'async def' for it, without 'yield', or "
            "derive its class from MessageHandler"
        )
    else:
        try:
            inspect.signature(handler).bind(None)
        except TypeError as error:
            said = f"{handler!r} must take one argument, the connection: {error}"
        else:
            return handler
    raise TypeError(said)


def _isCoroutineFunction(function: object) -> bool:
    """Tell whether calling it makes a coroutine."""
    call = getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def handlingOf(
    handler: IMessageHandler | Talk | None,
    clock: IReactorTime,
    messagesPerKey: float | None = None,
    bytesPerKey: float | None = None,
    ended: Callable[[Connection], None] | None = None,
) -> Handling | None:
    """
    Have connections handled.

    @param handler: as L{handlerOf} gives it.
    @param messagesPerKey: what an object takes of one key, a second; None for what it
        says itself, or any number.
    @param bytesPerKey: the same of their bytes.
    @param ended: called with the connection once a coroutine has returned that did not
        have to.  None where peers come back by themselves: one that is away then is
        told when it is there.
    @return: None if there is no handler.
    @raise ValueError: an option has a value that it cannot have.
    """
    rates = _ratesOf(handler, messagesPerKey, bytesPerKey)
    if handler is None:
        return None
    if IMessageHandler.providedBy(handler):
        return _Dispatching(IMessageHandler(handler), clock, rates)
    if rates is not None:
        raise ValueError(
            "messagesPerKey and bytesPerKey are for handlers that are objects: a "
            "coroutine takes packets when it likes"
        )
    return _Talking(handler, clock, ended)


def _ratesOf(
    handler: object, messages: float | None, bytes: float | None
) -> Rates | None:
    """Say how much a handler takes of one key, by the options or what it says."""
    if messages is None:
        messages = getattr(handler, "messagesPerKey", math.inf)
    if bytes is None:
        bytes = getattr(handler, "bytesPerKey", math.inf)
    rates = Rates(messages, bytes)
    return rates if rates.isBounded else None


class _Dispatching(Handling):
    """Hands each packet to a method of an object."""

    def __init__(
        self, handler: IMessageHandler, clock: IReactorTime, rates: Rates | None
    ) -> None:
        """@param rates: how much of one key it takes; None for any."""
        super().__init__(clock)
        self._handler = handler
        self._turns = Turns(clock)
        self._rates = rates

    def take(self, connection: Connection, causes: bool = False) -> None:
        """Have a dispatcher between the connection and the handler."""
        handler: Any = CausingHandler(self._handler) if causes else self._handler
        connection.dispatcher = Dispatcher(
            handler, connection, connection.handled, self._turns, self._rates
        )

    def accepted(self, connection: Connection) -> None:
        """Tell the handler."""
        if connection.dispatcher is not None:
            connection.dispatcher.accepted()

    # Of what is left over the handler was told, and what it has not seen was not kept.

    def detached(self, connection: Connection, reason: AESMError) -> None:
        """Tell a handler that wants to know."""
        if connection.dispatcher is not None:
            connection.dispatcher.detached(reason)

    def attached(self, connection: Connection) -> None:
        """Tell a handler that wants to know."""
        if connection.dispatcher is not None:
            connection.dispatcher.attached()

    def lost(self, connection: Connection, reason: AESMError) -> None:
        """Tell the handler, which may take its time over it."""
        if connection.dispatcher is not None:
            running = connection.dispatcher.lost(reason)
            if running is not None:
                self._run(running)


class _Talking(Handling):
    """Runs a coroutine for each connection."""

    def __init__(
        self,
        talk: Talk,
        clock: IReactorTime,
        ended: Callable[[Connection], None] | None,
    ) -> None:
        """@param ended: as L{handlingOf} takes it."""
        super().__init__(clock)
        self._talk = talk
        self._ended = ended
        # What peers are told when they come back.
        self._left: dict[Connection, tuple[CloseCode, str]] = {}
        self._talks: dict[Connection, Deferred[object]] = {}  # that are running

    def accepted(self, connection: Connection) -> None:
        """Begin the coroutine."""
        talk = self._talks[connection] = Deferred.fromCoroutine(self._begin(connection))
        talk.addCallbacks(
            self._cbReturned,
            self._ebFailed,
            callbackArgs=(connection,),
            errbackArgs=(connection,),
        )
        if connection in self._talks:
            self._run(talk)

    leftOver = accepted

    async def _begin(self, connection: Connection) -> None:
        """Call the application's code, so that what a call raises is caught as well."""
        CAUSE.set(connection)  # in a context of its own
        await self._talk(connection)

    def attached(self, connection: Connection) -> None:
        """The coroutine goes on; or it has returned, which the peer is told now."""
        left = self._left.pop(connection, None)
        if left is not None:
            connection.deafen()
            connection.closeWith(*left)

    def lost(self, connection: Connection, reason: AESMError) -> None:
        """Let nothing stay that no coroutine of this process is to take."""
        self._left.pop(connection, None)
        connection.retrieved.drop(connection not in self._talks)

    def _cbReturned(self, result: object, connection: Connection) -> None:
        """Close the connection of a coroutine that is done."""
        hadTo = connection.isClosing
        # That a request is not answered, who asked is told anyway.
        unread = sum(not isinstance(each, Request) for each in connection.retrieved)
        if unread:
            reason = f"messages left unread: {unread}"
            self._close(connection, CloseCode.UNREAD, reason)
        else:
            self._close(connection, CloseCode.NORMAL, "")
        if not hadTo and self._ended is not None:
            self._ended(connection)

    def _ebFailed(self, failure: Failure, connection: Connection) -> None:
        """Close the connection of a coroutine that has failed."""
        isClosing = connection.isClosing or connection.isEnding
        gone = isClosing and failure.check(ConnectionClosed, CancelledError)
        if not gone:
            tellFailed("over {connection}, which is closed", failure, connection)
        self._close(connection, CloseCode.INTERNAL_ERROR, "internal error")

    def _close(self, connection: Connection, code: CloseCode, reason: str) -> None:
        """Close a connection that has no coroutine any more, once its peer is there."""
        del self._talks[connection]
        connection.retrieved.drop(True)
        self._left[connection] = code, reason
        if connection.isAttached or connection.isOver or self._ended is not None:
            self.attached(connection)

    def leave(self, connection: Connection | None) -> None:
        """Have a coroutine that stops us go on when that is done."""
        talk = None if connection is None else self._talks.get(connection)
        if talk is not None:
            self._running.pop(talk, None)

    def _late(self) -> None:
        """Cancel what does not end by itself."""
        for talk in list(self._running):
            talk.cancel()
