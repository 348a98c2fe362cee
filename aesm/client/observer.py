"""
Whom a client that stays tells how it fares: its observer, if it has one, and its
handler::

    audience = audienceOf(observer, handling)    # None if there is neither
    audience.take(connection)                # a session begins
    audience.connected(connection, True)
    audience.waiting(delay, reason)
    audience.stopped(reason)

An error in an observer is logged: it must not end the attempts, nor leave what waits
unsent.  Those of handlers are L{Handling<aesm.messages.handling.Handling>}'s to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from aesm.errors import AESMError, ConnectionClosed
from aesm.interfaces import IClientObserver

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.handling import Handling
    from aesm.store.connection import DurableConnection

_log = Logger(namespace="aesm.service")


class Audience:
    """Tells an observer, a handler, or both."""

    def __init__(self, observer: Any, handling: Handling | None) -> None:
        """@param observer: an L{IClientObserver}, or None."""
        self._observer = observer
        self._handling = handling

    def take(self, connection: Connection) -> None:
        """A session begins: be told of its end."""
        if self._handling is not None:
            self._handling.take(connection)
            connection.closed().addCallback(partial(self._handling.lost, connection))

    def restored(self, connection: DurableConnection) -> None:
        """A session of a process before this one goes on."""
        if self._handling is not None:
            self._handling.accepted(connection)
            self._handling.detached(
                connection, ConnectionClosed("the client was started again")
            )
            if connection.dispatcher is not None:
                connection.handOver()

    def leftOver(self, connection: DurableConnection) -> None:
        """What is unread of a session that was over before a restart can be taken."""
        if self._handling is not None:
            self._handling.leftOver(connection)

    def connected(self, connection: Connection, isNew: bool) -> None:
        """The server has accepted."""
        if self._handling is not None:
            tell = self._handling.accepted if isNew else self._handling.attached
            tell(connection)
        self._tell("onConnected", connection)

    def detached(self, connection: Connection, reason: AESMError) -> None:
        """A connection is cut."""
        if self._handling is not None:
            self._handling.detached(connection, reason)

    def waiting(self, delay: float, reason: BaseException) -> None:
        """There will be another attempt."""
        self._tell("onWaiting", delay, reason)

    def stopped(self, reason: Exception, isNews: bool) -> Deferred[None]:
        """
        The client has stopped; fires once the handler is done with that.

        @param isNews: whether the observer is to be told: else it is, or was.
        """
        handled = succeed(None) if self._handling is None else self._handling.settled()
        if isNews:
            handled.addCallback(lambda nothing: self._tell("onStopped", reason))
        return handled

    def _tell(self, name: str, *arguments: object) -> None:
        """Call the observer."""
        if self._observer is None:
            return
        method: Callable[..., object] = getattr(self._observer, name)
        try:
            method(*arguments)
        except Exception:
            _log.failure("the observer's {method} failed", method=name)


def audienceOf(observer: object, handling: Handling | None) -> Audience | None:
    """
    Make the audience of a client.

    @return: None if there is nobody to be told.
    @raise TypeError: the observer is none.
    """
    if observer is not None and not IClientObserver.providedBy(observer):
        raise TypeError(
            f"observer must provide IClientObserver, not {observer!r}: decorate its "
            "class with @implementer(IClientObserver), and give an instance"
        )
    if observer is None and handling is None:
        return None
    return Audience(observer, handling)


def restoreTo(
    audience: Audience | None, connection: DurableConnection, isOver: bool
) -> None:
    """Go on with a session of a former process, or with what is unread of one."""
    if audience is not None:
        (audience.leftOver if isOver else audience.restored)(connection)
    if isOver and not connection.isOver:
        connection.finish(ConnectionClosed("it was over before a restart"))
