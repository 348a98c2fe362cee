"""
The other end of a WebSocket: a client, whose transport is as the server's, and one that
a test can have say anything.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from wsproto import ConnectionType, WSConnection
from wsproto.events import Event, Request
from zope.interface import implementer

from aesm.secure.websocket import WebSocketProtocol


class Client(WebSocketProtocol):
    """Asks for a WebSocket."""

    role = ConnectionType.CLIENT

    def connectionMade(self) -> None:
        """Ask."""
        super().connectionMade()
        self.say(Request("localhost", "/"))

    def opening(self, data: bytes) -> bytes:
        """Read the answer; wsproto remembers what comes behind it."""
        self.socket.receive_data(data)
        for _ in self.socket.events():
            self.opened()
            break
        return b""


@implementer(IStreamClientEndpoint)
class ClientEndpoint:
    """Connects WebSockets."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        """@param endpoint: where to."""
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect.

        @param protocolFactory: builds what is inside.
        """
        inner = cast(IProtocol, protocolFactory.buildProtocol(cast(Any, None)))
        connecting: Deferred[Any] = self._endpoint.connect(
            Factory.forProtocol(lambda: Client(cast(IReactorTime, reactor), inner))
        )
        return connecting.addCallback(lambda client: inner)


class Page:
    """
    What a browser's end is, to be driven by a test.

    @ivar events: what came, in wsproto's words.
    @ivar transport: the server's.
    """

    def __init__(self, server: WebSocketProtocol) -> None:
        """@param server: is connected."""
        self.server = server
        self.socket = WSConnection(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self.transport = StringTransport()
        server.makeConnection(cast(ITransport, self.transport))

    def ask(self, target: str = "/", *, host: str = "x", **headers: str) -> None:
        """
        Ask for a WebSocket.

        @param headers: more, such as C{origin}.
        """
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.say(Request(host, target, extra_headers=extra))

    def say(self, event: Event) -> None:
        """Say something, and hear what comes."""
        self.send(self.socket.send(event))

    def send(self, data: bytes) -> None:
        """Send bytes, and hear what comes."""
        self.server.dataReceived(data)
        self.hear()

    def hear(self) -> None:
        """Hear what has come."""
        data = self.transport.value()
        self.transport.clear()
        if data:
            self.socket.receive_data(data)
            self.events += self.socket.events()
