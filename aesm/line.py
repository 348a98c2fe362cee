"""
What Twisted's C{ClientService} connects to: for it, a connection is one on which
the server has accepted us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITransport,
)
from zope.interface import implementer

from aesm.connection import Connection

if TYPE_CHECKING:
    from aesm.service import ClientService

__all__ = ["AcceptedEndpoint"]


@implementer(IStreamClientEndpoint)
class AcceptedEndpoint:
    """
    Where the keeper connects to: connected is who was accepted.
    """

    def __init__(self, service: ClientService) -> None:
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

    def __init__(self, service: ClientService, connection: Connection) -> None:
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
