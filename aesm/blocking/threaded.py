"""
A server's factory and a client's service for programs whose threads take packets
while the reactor's thread does the rest (L{aesm.blocking.network})::

    factory = SharedFactory(reactor=reactor)
    service = SharedService("tcp:127.0.0.1:8765", stopped, reactor=reactor)

All that differs is how they hear of what is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol

from aesm.blocking.reactorthread import Reporter
from aesm.client.service import ClientService
from aesm.secure.protocol import SecureProtocol
from aesm.server.factory import AESMServerFactory

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.protocol import AESMProtocol

__all__ = ["SharedFactory", "SharedService"]

_T = TypeVar("_T")


class SharedFactory(AESMServerFactory):
    """
    A factory whose streams may be emptied from any thread.
    """

    def startFactory(self) -> None:
        """
        Listening begins, maybe with sessions of a former process.

        @raise SpoolError: these cannot be read; says why.
        """
        super().startFactory()
        for connection in self.connections.values():
            connection.retrieved.owner = Reporter(self.clock, connection)

    def buildInner(self, secure: SecureProtocol) -> AESMProtocol:
        """
        Build the message layer of a client that is let in.

        @param secure: the connection.
        @return: its protocol.
        """
        protocol = super().buildInner(secure)
        connection = protocol.connection
        connection.retrieved.owner = Reporter(self.clock, connection)
        return protocol


class SharedService(ClientService):
    """
    A service whose stream may be emptied from any thread.
    """

    def __init__(
        self, endpoint: str, stopped: Callable[[], None], **options: Any
    ) -> None:
        """
        @param endpoint: a client endpoint's string.
        @param stopped: called once it has stopped, by itself or not.
        @param options: as L{ClientService}.
        """
        super().__init__(endpoint, **options)
        self._tellStopped = stopped
        self._latest: Connection | None = None

    def attached(self, connection: Connection, line: IProtocol) -> None:
        """
        There is a connection.

        @param connection: the connection, before anybody can take its packets.
        @param line: what stands for its transport.
        """
        connection.retrieved.owner = Reporter(self._clock, connection)
        self._latest = connection
        super().attached(connection, line)

    def stopService(self) -> Deferred[None]:
        """
        Stop.

        @return: as L{ClientService.stopService}.
        """
        return super().stopService().addBoth(self._cbStopped)

    def stop(self, deadline: float) -> Deferred[None]:
        """
        Stop, in order or else at a deadline.

        @param deadline: seconds after which to abort.
        @return: fires when there is no connection.
        """
        timer = self._clock.callLater(deadline, self._abort)
        return self.stopService().addBoth(_cancel, timer)

    # Parts

    def _cbStopped(self, result: _T) -> _T:
        """
        Tell who wants to know.

        @param result: of stopping.
        @return: the same.
        """
        self._tellStopped()
        return result

    def _abort(self) -> None:
        """
        End the connection, if there is one.
        """
        if self._latest is not None:
            self._latest.abort()


def _cancel(result: _T, timer: IDelayedCall) -> _T:
    """
    Stop a deadline that is no longer needed.

    @param result: of what it was for.
    @param timer: the deadline.
    @return: the same.
    """
    if timer.active():
        timer.cancel()
    return result
