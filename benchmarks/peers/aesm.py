"""
aesm as users have it: C{connect}, C{listen}, C{sendData}, C{sendAll}, a handler
at the server, C{retrieved} at the client; acknowledged, hybrid handshakes, both
sides with keys.  C{dial} is a C{ClientService}, which takes messages at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults
from zope.interface import implementer

from aesm import (
    ClientService,
    Connection,
    ConnectionClosed,
    IMessageHandler,
    Packet,
    Pinned,
    PrivateKey,
    connect,
    listen,
)
from benchmarks.command import main
from benchmarks.peers.onreactor import ReactorPeer, TwistedPeer, reactor

BURST = 1_048_576  # bytes of messages between two turns of the event loop, at most
MOST = 2_048  # messages, the same
MANY = 16_384  # more connections, and handshakes a second, than there will be


@cache
def _key(directory: str, name: str) -> PrivateKey:
    """Load a key."""
    return PrivateKey.load(Path(directory, name))


def _options(directory: str) -> dict[str, Any]:
    """Say with which key a client connects, and whom it trusts."""
    trust = Pinned(_key(directory, "aesm.key").publicKey)
    return {"key": _key(directory, "aesm-client.key"), "trust": trust}


def _burst(data: bytes) -> int:
    """Say how many messages to send in one turn of the event loop."""
    return max(1, min(MOST, BURST // len(data)))


class Link:
    """A connection."""

    received: Callable[[bytes], Any]

    def __init__(self, connection: Any) -> None:
        """@param connection: a L{Connection}, or a L{ClientService}."""
        self.connection = connection
        self._sendData = connection.sendData

    def send(self, data: bytes) -> None:
        """Send a message."""
        self._sendData(data)

    def request(self, data: bytes) -> Any:
        """Ask, and wait for the answer."""
        return self.connection.request(data)

    async def read(self) -> None:
        """Take packets until the end."""
        retrieved = self.connection.retrieved
        getData = retrieved.getData
        try:
            while True:
                packet: Packet | None = await retrieved.get()
                while packet is not None:
                    self.received(packet.data)  # type: ignore[arg-type]
                    packet = getData()
        except ConnectionClosed:
            pass

    async def sendMany(self, data: bytes, count: int) -> None:
        """Send a message many times, in bursts, while there is room."""
        send = self._sendData
        burst = _burst(data)
        for start in range(0, count, burst):
            for _ in range(min(burst, count - start)):
                send(data)
            await self.connection.drain()
            await PEER.turn()

    def close(self) -> Any:
        """Close, and wait for it."""
        return self.connection.close()


class ServiceLink(Link):
    """A connection that there may be yet."""

    def close(self) -> Any:
        """Stop, and wait for it."""
        return self.connection.stopService()


Listeners = dict[Connection, Callable[[bytes], Any]]


class ServedLink(Link):
    """A connection whose messages a handler takes."""

    def __init__(self, connection: Connection, listeners: Listeners) -> None:
        """
        @param connection: the connection.
        @param listeners: where the handler finds what to call with each message.
        """
        super().__init__(connection)
        self._listeners = listeners

    def __setattr__(self, name: str, value: Any) -> None:
        """Let the handler call C{received} itself."""
        super().__setattr__(name, value)
        if name == "received":
            self._listeners[self.connection] = value


@implementer(IMessageHandler)
class Handler:
    """Makes links of connections."""

    def __init__(self, accepted: Callable[[Any], None]) -> None:
        """@param accepted: called with each new link."""
        self._accepted = accepted
        self._listeners: Listeners = {}

    def connectionAccepted(self, connection: Connection) -> None:
        """A client was let in."""
        self._accepted(ServedLink(connection, self._listeners))

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """A message came."""
        self._listeners[connection](packet.data)  # type: ignore[arg-type]

    def requestReceived(self, connection: Connection, packet: Packet) -> Any:
        """A request came: answer with the same."""
        return packet.data

    def connectionLost(self, connection: Connection, reason: object) -> None:
        """A client is gone."""
        del self._listeners[connection]


class Peer(ReactorPeer):
    """aesm over TCP."""

    async def listen(self, directory: str, accepted: Callable[[Any], None]) -> int:
        """
        Listen.

        @return: the port.
        """
        self._server = await listen(
            reactor,
            TwistedPeer().serverEndpoint(directory),
            key=_key(directory, "aesm.key"),
            handler=Handler(accepted),
            maxConnections=MANY,
            maxConnectionsPerHost=MANY,
            handshakesPerHost=MANY,
        )
        return int(self._server.address[1])

    async def connect(self, directory: str, port: int) -> Any:
        """Connect, and wait until messages can be sent."""
        endpoint = TwistedPeer().clientEndpoint(directory, port)
        link = Link(await connect(reactor, endpoint, **_options(directory)))
        self.spawn(link.read())
        return link

    async def dial(self, directory: str, port: int) -> Any:
        """Begin to connect; messages are queued until that is done."""
        endpoint = TwistedPeer().clientEndpoint(directory, port)
        service = ClientService(endpoint, reactor=reactor, **_options(directory))
        service.startService()
        link = ServiceLink(service)
        self.spawn(link.read())
        return link

    async def sendAll(self, links: Sequence[Any], data: bytes, count: int) -> None:
        """Send a message many times to all, in bursts, while there is room."""
        sendAll = self._server.sendAll
        burst = _burst(data)
        for start in range(0, count, burst):
            for _ in range(min(burst, count - start)):
                sendAll(data)
            await gatherResults([link.connection.drain() for link in links])
            await self.turn()


PEER = Peer()

if __name__ == "__main__":
    main(PEER)
