"""
Whose message it is because of which something is done::

    handler = CausingHandler(handler)      # while it is called with a message,
    CAUSE.get()                            # this is the connection; else None

It is known in what the handler begins, too: a coroutine, or C{inlineCallbacks}, has the
context of its start.  In callbacks that a handler adds to a Deferred it is not, since
these run in the context of whoever fires that.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from aesm.messages.answering import ANSWERS
from aesm.messages.running import running as runningOf

if TYPE_CHECKING:
    from aesm.interfaces import IMessageHandler
    from aesm.messages.connection import Connection
    from aesm.messages.requests import Request
    from aesm.messages.stream import Packet

CAUSE: Final[ContextVar[Connection | None]] = ContextVar("CAUSE", default=None)


class CausingHandler:
    """A handler of which it is known why it does what it does."""

    def __init__(self, handler: IMessageHandler) -> None:
        """@param handler: is handed the messages."""
        self._handler: Any = handler
        if hasattr(handler, "requestReceived"):
            self.requestReceived = self._request

    def __getattr__(self, name: str) -> Any:
        """Leave all else to the handler: what is no message causes nothing."""
        return getattr(self._handler, name)

    def packetReceived(self, connection: Connection, packet: Packet) -> Any:
        """Hand over a packet, and begin here what there is to be run."""
        token = CAUSE.set(connection)
        try:
            return runningOf(self._handler.packetReceived(connection, packet))
        finally:
            CAUSE.reset(token)

    def _request(self, connection: Connection, request: Request) -> Any:
        """Hand over a request, in the same way."""
        token = CAUSE.set(connection)
        try:
            result = self._handler.requestReceived(connection, request)
            return result if isinstance(result, ANSWERS) else runningOf(result)
        finally:
            CAUSE.reset(token)
