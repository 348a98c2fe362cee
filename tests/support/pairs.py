"""
What the tests of the Twisted shells share: pairs and networks that are taken
down and looked through after each test, and a handler that remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from aesm import (
    AESMError,
    AnyServer,
    Connection,
    ConnectionClosed,
    Packet,
    PrivateKey,
    Server,
    connect,
    listen,
)
from aesm.interfaces import IMessageHandler
from aesm.testing import ConnectedPair, MemoryNetwork, connectedPair

SERVER_KEY = PrivateKey(b"\x22" * 32)
CLIENT_KEY = PrivateKey(b"\x11" * 32)

React = Callable[[Connection, Packet], Any]


@implementer(IMessageHandler)
class Recorder:
    """
    A handler that remembers what it is told.

    @ivar events: in order: C{("accepted", connection)}, C{("packet", data)},
        C{("lost", reason)}.
    @ivar failing: names of the methods that are to raise, C{"accepted"} or
        C{"lost"}.
    """

    def __init__(self, react: React | None = None, failing: str = "") -> None:
        """
        @param react: called with each packet; its result is the handler's.
        @param failing: the method that is to raise.
        """
        self.events: list[tuple[str, Any]] = []
        self.react = react
        self.failing = failing

    def connectionAccepted(self, connection: Connection) -> None:
        """
        Remember it.

        @param connection: the connection.
        """
        self.events.append(("accepted", connection))
        if self.failing == "accepted":
            raise ZeroDivisionError

    def packetReceived(self, connection: Connection, packet: Packet) -> Any:
        """
        Remember it, and react.

        @param connection: where it came from.
        @param packet: the packet.
        """
        self.events.append(("packet", packet.data))
        return None if self.react is None else self.react(connection, packet)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """
        Remember it.

        @param connection: the connection.
        @param reason: why.
        """
        self.events.append(("lost", reason))
        if self.failing == "lost":
            raise ZeroDivisionError

    @property
    def names(self) -> list[str]:
        """The kinds of the events."""
        return [name for name, _ in self.events]

    @property
    def data(self) -> list[Any]:
        """The data of the packets."""
        return [what for name, what in self.events if name == "packet"]


def cancelling(deferreds: Iterable[Deferred[Any]]) -> Callable[[object], None]:
    """
    Make a callback that cancels Deferreds.

    @param deferreds: what to cancel.
    """

    def cancel(result: object) -> None:
        """
        Cancel them.

        @param result: of something else.
        """
        for deferred in deferreds:
            deferred.cancel()

    return cancel


class RawClient(Protocol):
    """
    A client that says only what it is told to.

    @ivar received: what came.
    @ivar closed: how often it was told of the end.
    """

    transport: ITCPTransport

    def __init__(self) -> None:
        """Start with nothing."""
        self.received = b""
        self.closed = 0

    def dataReceived(self, data: bytes) -> None:
        """
        Take note.

        @param data: what came.
        """
        self.received += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        Take note.

        @param reason: why.
        """
        self.closed += 1


class PairTestCase(SynchronousTestCase):
    """
    Tests of clients and servers in memory.  After each, the servers are
    stopped; nothing may be left over then.
    """

    def pair(self, handler: object = None, **options: Any) -> ConnectedPair:
        """
        Make a client and its server.

        @param handler: the server's.
        @param options: as L{connectedPair}.
        """
        pair = connectedPair(handler, **options)
        self.addCleanup(self.takeDown, pair.network, pair.server)
        return pair

    def serve(
        self, handler: object = None, **options: Any
    ) -> tuple[MemoryNetwork, Server]:
        """
        Make a server without clients.

        @param handler: the server's.
        @param options: as L{listen}.
        """
        network = MemoryNetwork()
        options = {"key": SERVER_KEY, "handler": handler} | options
        listening = listen(network.clock, network.endpoint(), **options)
        server = self.successResultOf(listening)
        self.addCleanup(self.takeDown, network, server)
        return network, server

    def connecting(
        self,
        network: MemoryNetwork,
        host: str = "127.0.0.1",
        port: int = 0,
        **options: Any,
    ) -> Deferred[Connection]:
        """
        Begin to connect.

        @param network: where to.
        @param host: where the client comes from.
        @param port: the same.
        @param options: as L{connect}.
        """
        ours: dict[str, Any] = {"key": PrivateKey.generate(), "trust": AnyServer()}
        return connect(network.clock, network.endpoint(host, port), **(ours | options))

    def join(self, network: MemoryNetwork, **options: Any) -> Connection:
        """
        Connect.

        @param network: where to.
        @param options: as C{connecting}.
        """
        connecting = self.connecting(network, **options)
        network.deliver()
        return self.successResultOf(connecting)

    def rawClient(self, network: MemoryNetwork, **where: Any) -> RawClient:
        """
        Connect with a client that speaks nothing of ours by itself.

        @param network: where to.
        @param where: host and port that it comes from.
        """
        connecting: Deferred[Any] = network.endpoint(**where).connect(
            Factory.forProtocol(RawClient)
        )
        protocol: RawClient = self.successResultOf(connecting)
        return protocol

    def closedReason(self, connection: Connection) -> Any:
        """
        Get why a connection is over.

        @param connection: the connection.
        """
        return self.successResultOf(connection.closed())

    def assertKeepsNothing(self, event: LogEvent) -> None:
        """
        Check that an event of a failure says where that was, and keeps neither frames
        nor a connection.
        """
        failure: Failure = event["log_failure"]
        self.assertIn(", line ", failure.getTraceback())
        self.assertIsNone(getattr(failure.value, "__traceback__", None))
        held = [each for each in event.values() if isinstance(each, Connection)]
        self.assertEqual(held, [])

    def assertClosed(self, sent: Deferred[Any], code: int | None = None) -> Any:
        """
        Check that a Deferred has failed with L{ConnectionClosed}.

        @param sent: the Deferred.
        @param code: the close code, None for any.
        @return: the error.
        """
        error: Any = self.failureResultOf(sent, ConnectionClosed).value
        if code is not None:
            self.assertEqual(error.code, code)
        return error

    def entries(self, server: Server) -> list[Any]:
        """
        Take the activity log.

        @param server: whose.
        """
        entries = []
        while (entry := server.connections.activity()) is not None:
            entries.append(entry)
        return entries

    def takeDown(
        self, network: MemoryNetwork, server: Server, taking: bool = True
    ) -> None:
        """
        Stop a server, and check that nothing is left.

        @param network: where it is.
        @param server: the server.
        @param taking: whether to take what is unread.
        """
        stopped = server.stop()
        network.advance(20)
        self.successResultOf(stopped)
        for link in network.links:  # a client that is stalled does not know yet
            link.toClient.stalled = False
        network.deliver()
        if taking:
            while server.connections.getDataOrdinal()[0] is not None:
                pass
            self.assertEqual(list(server.connections), [])
        self.assertEqual(network.clock.getDelayedCalls(), [])
        self.assertEqual(network.links, [])
