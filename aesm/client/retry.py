"""
Trying again: which failures of a client may mend themselves, and what Twisted's
C{ClientService} connects to, for which a connection is one on which the server has
accepted us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.errors import (
    CloseCode,
    ConnectionClosed,
    KeyFileError,
    NameOrKeyMismatch,
    NoAnswer,
    NotAuthorized,
    OfferRefused,
    UntrustedServer,
)
from aesm.messages.connection import Connection

__all__ = ["AcceptedEndpoint", "isTransient"]


_TRANSIENT: dict[type[BaseException], bool] = {  # the nearest base class decides
    Exception: True,
    NotAuthorized: False,  # also later, when a key is revoked
    UntrustedServer: False,
    OfferRefused: False,
    NameOrKeyMismatch: False,
    NoAnswer: True,  # a server that stops, or is full, does that as well
    KeyFileError: False,
    TypeError: False,  # options that connect() does not take
    ValueError: False,
}


def isTransient(reason: BaseException) -> bool:
    """
    Tell whether trying again may mend a failure.

    @param reason: why there is no connection, or none any more.
    @return: False for those that people have to mend, and where a newer
        connection has taken this one's place (code 4001): two programs with one
        key would take it from each other for ever.  A client that was too slow
        (4000) may be faster the next time.
    """
    if isinstance(reason, ConnectionClosed) and reason.code == CloseCode.TAKEN_OVER:
        return False
    return next(_TRANSIENT[kind] for kind in type(reason).__mro__ if kind in _TRANSIENT)


class Redialler(Protocol):
    """
    Who dials for an L{AcceptedEndpoint}, and is told.
    """

    def later(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """
        Call in a later turn of the event loop.

        @param call: what to call.
        @param arguments: with what.
        @return: fires with its result.
        """

    def dial(self) -> Deferred[Connection]:
        """
        Dial.

        @return: fires once the server has accepted us.
        """

    def failed(self, failure: Failure) -> Failure:
        """
        An attempt failed.

        @param failure: why.
        @return: the same.
        """

    def attached(self, connection: Connection, line: IProtocol) -> None:
        """
        An attempt succeeded.

        @param connection: the connection.
        @param line: what stands for it.
        """

    def closeLine(self, connection: Connection) -> None:
        """
        Close a connection.

        @param connection: which.
        """


@implementer(IStreamClientEndpoint)
class AcceptedEndpoint:
    """
    Where the keeper connects to: connected is who was accepted.
    """

    def __init__(self, service: Redialler) -> None:
        """
        @param service: dials, and is told.
        """
        self._service = service

    def __repr__(self) -> str:
        """
        Show it in the keeper's log.
        """
        return "the server"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect.

        @param protocolFactory: the keeper's.
        @return: fires, never at once, with what stands for the connection.
        """
        dialling = self._service.later(self._service.dial)
        dialling.addErrback(self._service.failed)
        return dialling.addCallback(self._cbConnected, protocolFactory)

    def _cbConnected(
        self, connection: Connection, protocolFactory: IProtocolFactory
    ) -> IProtocol:
        """
        Make what stands for the connection.

        @param connection: the connection.
        @param protocolFactory: the keeper's.
        @return: its protocol.
        """
        protocol = cast(IProtocol, protocolFactory.buildProtocol(cast(Any, None)))
        line = _Line(self._service, connection)
        protocol.makeConnection(cast(ITransport, line))
        self._service.attached(connection, protocol)
        return protocol


class _Line:
    """
    As much of a transport as the keeper asks for.
    """

    def __init__(self, service: Redialler, connection: Connection) -> None:
        """
        @param service: whose connection.
        @param connection: the connection.
        """
        self._service = service
        self._connection = connection

    def loseConnection(self) -> None:
        """
        Close.
        """
        self._service.closeLine(self._connection)
