"""
Tests for L{aesm.testing} and L{aesm.testing.transport}: a network that does to
protocols what TCP does.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IListeningPort,
    IPullProducer,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

import aesm.testing
from aesm import (
    AnyServer,
    ClientService,
    Connection,
    NotAuthorized,
    Packet,
    RequestFailed,
    Server,
    Truncated,
    listen,
)
from aesm.testing import MemoryNetwork, MemoryPort, connectedPair
from aesm.testing.network import SERVER
from aesm.testing.transport import BUFFER, MemoryLink
from tests.support.pairs import CLIENT_KEY, PairTestCase, Recorder


class Noting(Protocol):
    """
    A protocol that takes note of what happens.

    @ivar received: the pieces that came.
    @ivar reason: why the connection was lost, or None.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.received: list[bytes] = []
        self.reason: Any = None

    def dataReceived(self, data: bytes) -> None:
        """Take note."""
        self.received.append(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Take note."""
        assert self.reason is None
        self.reason = type(reason and reason.value)


@implementer(IHalfCloseableProtocol)
class HalfNoting(Noting):
    """The same for one that goes on when the other end is done."""

    ended = False

    def readConnectionLost(self) -> None:
        """Take note."""
        self.ended = True

    def writeConnectionLost(self) -> None:
        """Never called: only what a real transport may say."""


@implementer(IPushProducer, IPullProducer)
class Producer:
    """A producer that takes note of what it is told."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        """Take note."""
        self.told.append("pause")

    def resumeProducing(self) -> None:
        """Take note."""
        self.told.append("resume")

    def stopProducing(self) -> None:
        """Take note."""
        self.told.append("stop")


class MemoryLinkTests(SynchronousTestCase):
    """L{MemoryLink} and its transports."""

    def setUp(self) -> None:
        """Join two protocols."""
        self.clock = Clock()
        address = IPv4Address("TCP", "127.0.0.1", 9)
        self.link = MemoryLink(self.clock, address, SERVER)
        self.client, self.server = Noting(), Noting()
        self.link.client.protocol = self.client
        self.link.server.protocol = self.server
        self.client.makeConnection(self.link.client)
        self.server.makeConnection(self.link.server)

    def deliver(self) -> None:
        """Deliver everything."""
        while self.link.deliver():
            pass

    def test_interfaces(self) -> None:
        """The transports have what TCP's have."""
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            verifyObject(interface, self.link.client)
        verifyObject(IPushProducer, Producer())
        verifyObject(IHalfCloseableProtocol, HalfNoting())

    def test_addresses(self) -> None:
        """Each end knows its own address and the other's."""
        client, server = self.link.client, self.link.server
        self.assertEqual(client.getHost(), server.getPeer())
        self.assertEqual(client.getPeer(), server.getHost())

    def test_options(self) -> None:
        """What is set can be asked for."""
        transport = self.link.client
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        self.assertTrue(transport.getTcpNoDelay() and transport.getTcpKeepAlive())

    def test_inFlight(self) -> None:
        """What is written is in flight until it is delivered."""
        self.link.client.write(b"ab")
        self.link.client.writeSequence([b"c", b"d"])
        self.assertEqual(self.link.toServer.inFlight, b"abcd")
        self.assertEqual(self.server.received, [])
        self.assertTrue(self.link.deliver(3))
        self.assertEqual(self.server.received, [b"abc"])
        self.deliver()
        self.assertEqual(self.server.received, [b"abc", b"d"])
        self.assertFalse(self.link.deliver())

    def test_stalled(self) -> None:
        """Nothing is delivered in a direction that is stalled."""
        self.link.toServer.stalled = True
        self.link.client.write(b"a")
        self.link.server.write(b"b")
        self.deliver()
        self.assertEqual((self.server.received, self.client.received), ([], [b"b"]))

    def test_corrupt(self) -> None:
        """A bit of what is in flight can be flipped."""
        self.link.client.write(b"abc")
        self.link.toServer.corrupt()
        self.link.toServer.corrupt(0)
        self.deliver()
        self.assertEqual(self.server.received, [b"`bb"])
        self.assertRaises(IndexError, self.link.toServer.corrupt)

    def test_pausedReader(self) -> None:
        """A protocol that pauses its transport is given nothing."""
        self.link.server.pauseProducing()
        self.link.client.write(b"a")
        self.deliver()
        self.assertEqual(self.server.received, [])
        self.link.server.resumeProducing()
        self.deliver()
        self.assertEqual(self.server.received, [b"a"])

    def test_pushProducer(self) -> None:
        """
        A push producer is paused when more than a buffer is in flight, and
        resumed when all is delivered.
        """
        producer, transport = Producer(), self.link.client
        transport.registerProducer(producer, True)
        transport.write(b"x" * BUFFER)
        self.assertEqual(producer.told, [])
        transport.write(b"x")
        self.assertEqual(producer.told, ["pause"])
        self.link.deliver(BUFFER)
        self.assertEqual(producer.told, ["pause"])
        self.deliver()
        self.assertEqual(producer.told, ["pause", "resume"])

    def test_pullProducer(self) -> None:
        """A pull producer is asked whenever all is delivered."""
        producer, transport = Producer(), self.link.client
        transport.registerProducer(producer, False)
        for _ in range(3):
            self.link.deliver()
        self.assertEqual(producer.told, ["resume"] * 3)

    def test_oneProducer(self) -> None:
        """There is one producer at a time."""
        transport = self.link.client
        transport.registerProducer(Producer(), True)
        self.assertRaises(RuntimeError, transport.registerProducer, Producer(), True)
        transport.unregisterProducer()
        transport.registerProducer(Producer(), True)

    def test_loseConnection(self) -> None:
        """
        Closing waits until all is delivered and the producer is done; both ends
        are told then, and what comes for the closed end is wasted.
        """
        transport = self.link.client
        transport.registerProducer(Producer(), True)
        transport.write(b"a")
        transport.loseConnection()
        transport.write(b"b")
        self.deliver()
        self.assertIsNone(self.client.reason)
        transport.unregisterProducer()
        self.link.server.write(b"late")
        self.deliver()
        self.assertEqual(b"".join(self.server.received), b"ab")
        for end in (self.client, self.server):
            self.assertIs(end.reason, error.ConnectionDone)

    def test_stopProducing(self) -> None:
        """To stop a transport is to close it."""
        self.link.client.stopProducing()
        self.deliver()
        self.assertIs(self.server.reason, error.ConnectionDone)

    def test_wasted(self) -> None:
        """What is written to an end that is closed already goes nowhere."""
        self.link.client.loseConnection()
        self.link.deliver()
        self.link.server.write(b"late")
        self.deliver()
        self.assertEqual((self.client.received, self.link.toClient.inFlight), ([], b""))

    def test_loseWriteConnection(self) -> None:
        """A protocol that knows of half-closed connections is told, and goes on."""
        half = HalfNoting()
        self.link.server.protocol = half
        self.link.client.write(b"a")
        self.link.client.loseWriteConnection()
        self.link.client.write(b"dropped")
        self.deliver()
        self.assertEqual((half.received, half.ended, half.reason), ([b"a"], True, None))
        self.link.server.write(b"b")
        self.link.server.loseConnection()
        self.deliver()
        self.assertEqual(self.client.received, [b"b"])
        for end in (self.client, half):
            self.assertIs(end.reason, error.ConnectionDone)

    def test_loseWriteConnectionUnknown(self) -> None:
        """For any other protocol the connection is over."""
        self.link.client.loseWriteConnection()
        self.deliver()
        for end in (self.client, self.server):
            self.assertIs(end.reason, error.ConnectionDone)

    def test_abortConnection(self) -> None:
        """
        Aborting loses what is in flight, and tells both ends, from the next turn
        on.
        """
        transport = self.link.client
        transport.write(b"a")
        transport.abortConnection()
        transport.abortConnection()
        transport.resumeProducing()
        self.link.server.write(b"b")
        transport.write(b"c")
        self.link.toServer.stalled = True
        self.deliver()
        self.assertIsNone(self.client.reason)
        self.clock.advance(0)
        self.link.toServer.stalled = False
        self.deliver()
        self.assertEqual((self.client.received, self.server.received), ([], []))
        self.assertIs(self.client.reason, error.ConnectionAborted)
        self.assertIs(self.server.reason, error.ConnectionLost)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_abortHalfCloseable(self) -> None:
        """
        That the other end aborted is the end also for who knows of half-closed
        connections.
        """
        half = HalfNoting()
        self.link.server.protocol = half
        self.link.client.abortConnection()
        self.clock.advance(0)
        self.deliver()
        self.assertIs(half.reason, error.ConnectionLost)

    def test_cut(self) -> None:
        """A cut loses what is in flight, tells both ends once, and stops producers."""
        producer = Producer()
        self.link.client.registerProducer(producer, True)
        self.link.client.write(b"a")
        self.link.cut()
        self.link.cut()
        self.deliver()
        self.assertEqual(self.server.received, [])
        for end in (self.client, self.server):
            self.assertIs(end.reason, error.ConnectionLost)
        self.assertEqual(producer.told, ["stop"])
        late = Producer()
        self.link.client.registerProducer(late, True)
        self.assertEqual(late.told, ["stop"])


class MemoryNetworkTests(SynchronousTestCase):
    """L{MemoryNetwork}, its endpoints and ports."""

    def setUp(self) -> None:
        """Make a network."""
        self.network = MemoryNetwork()
        self.factory = Factory.forProtocol(Noting)

    def connect(self, **where: Any) -> Any:
        """Connect a protocol."""
        endpoint = self.network.endpoint(**where)
        return self.successResultOf(endpoint.connect(Factory.forProtocol(Noting)))

    def test_interfaces(self) -> None:
        """An endpoint is one for servers and clients; a port is a port."""
        endpoint = self.network.endpoint()
        for interface in (IStreamServerEndpoint, IStreamClientEndpoint):
            verifyObject(interface, endpoint)
        verifyObject(IListeningPort, MemoryPort(self.network, self.factory))

    def test_refused(self) -> None:
        """Where nobody listens, connections are refused."""
        connecting = self.network.endpoint().connect(self.factory)
        self.failureResultOf(connecting, error.ConnectionRefusedError)

    def test_noProtocol(self) -> None:
        """A client's factory may not want to."""
        self.patch(self.factory, "buildProtocol", lambda address: None)
        connecting = self.network.endpoint().connect(self.factory)
        self.failureResultOf(connecting, error.NoProtocol)

    def test_notAccepted(self) -> None:
        """A server's factory may not want to: the connection is closed."""
        self.patch(self.factory, "buildProtocol", lambda address: None)
        self.successResultOf(self.network.endpoint().listen(self.factory))
        client = self.connect()
        self.assertIsNone(client.reason)
        self.network.deliver()
        self.assertIs(client.reason, error.ConnectionDone)
        self.assertEqual(self.network.links, [])

    def test_addresses(self) -> None:
        """Each client has an address of its own, or the one that it was given."""
        self.successResultOf(self.network.endpoint().listen(self.factory))
        clients = [
            self.connect(),
            self.connect(),
            self.connect(host="192.0.2.1", port=7),
            self.connect(host="::1", port=8),
        ]
        hosts = [client.transport.getHost() for client in clients]
        self.assertNotEqual(hosts[0], hosts[1])
        self.assertEqual(hosts[2], IPv4Address("TCP", "192.0.2.1", 7))
        self.assertEqual(hosts[3], IPv6Address("TCP", "::1", 8))

    def test_stopListening(self) -> None:
        """A port that has stopped takes nobody, and can be stopped again."""
        port: Any = self.successResultOf(self.network.endpoint().listen(self.factory))
        self.assertEqual(port.getHost(), SERVER)
        for _ in range(2):
            self.successResultOf(port.stopListening())
        self.assertEqual(self.factory.numPorts, 0)
        self.test_refused()

    def test_chunkSize(self) -> None:
        """Delivery may go byte by byte."""
        self.successResultOf(self.network.endpoint().listen(self.factory))
        client = self.connect()
        client.transport.write(b"abc")
        self.network.chunkSize = 1
        link = self.network.links[0]
        self.network.deliver()
        server: Any = link.server.protocol
        self.assertEqual(server.received, [b"a", b"b", b"c"])

    def test_dueCalls(self) -> None:
        """
        What is due is done while delivering, in any number of turns; nothing else
        is.
        """
        done: list[str] = []
        clock = self.network.clock
        clock.callLater(0, lambda: clock.callLater(0, done.append, "now"))
        clock.callLater(1, done.append, "later")
        self.network.deliver()
        self.assertEqual(done, ["now"])

    def test_advance(self) -> None:
        """Time passes call by call, with what they write delivered in between."""
        self.successResultOf(self.network.endpoint().listen(self.factory))
        client = self.connect()
        server: Any = self.network.links[0].server.protocol
        clock = self.network.clock
        seen = []
        clock.callLater(0.1, client.transport.write, b"a")
        clock.callLater(0.3, lambda: seen.append((clock.seconds(), server.received[:])))
        clock.callLater(9, seen.append, "too late")
        self.network.advance(0.3)
        self.assertEqual(seen, [(0.3, [b"a"])])
        self.assertEqual(clock.seconds(), 0.3)

    def test_neverQuiet(self) -> None:
        """Two who never stop talking are noticed."""
        self.patch(aesm.testing.network, "MAX_ROUNDS", 10)
        self.successResultOf(self.network.endpoint().listen(self.factory))
        client = self.connect()
        client.transport.registerProducer(Producer(), False)
        self.assertRaises(RuntimeError, self.network.deliver)


class ConnectedPairTests(PairTestCase):
    """L{connectedPair} makes a client and its server."""

    def test_joined(self) -> None:
        """Client and server are connected, and see each other's key."""
        pair = self.pair()
        self.assertIsInstance(pair.server, Server)
        self.assertEqual(pair.client.peer, pair.server.publicKey)
        self.assertIs(pair.server.connections[pair.accepted.address], pair.accepted)
        self.assertEqual(pair.client.handshakeHash, pair.accepted.handshakeHash)
        self.assertEqual(pair.client.suite, pair.accepted.suite)

    def test_deliver(self) -> None:
        """What is sent arrives when it is delivered."""
        pair = self.pair()
        sent = pair.client.sendData("x")
        self.assertNoResult(sent)
        self.assertEqual(len(pair.accepted.retrieved), 0)
        pair.deliver()
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual(pair.accepted.retrieved[0].data, "x")

    def test_time(self) -> None:
        """Time passes when it is told to."""
        pair = self.pair()
        pair.advance(3)
        self.assertEqual(pair.clock.seconds(), 3)

    def test_handler(self) -> None:
        """The handler is the server's."""
        handler = Recorder()
        pair = self.pair(handler)
        pair.client.sendData("x")
        pair.deliver()
        self.assertEqual(handler.data, ["x"])

    def test_options(self) -> None:
        """Options are for both, or for one of the two."""
        pair = self.pair(
            name="both",
            client={"maxMessage": 10},
            server={"authorizedKeys": lambda key, address: "ada"},
        )
        self.assertEqual(pair.accepted.peerName, "ada")
        self.failureResultOf(pair.accepted.sendData("x" * 11))
        pair.client.sendData("x" * 11)
        pair.deliver()

    def test_refused(self) -> None:
        """If the server does not accept the client, it says why."""
        self.assertRaises(
            NotAuthorized, connectedPair, server={"authorizedKeys": lambda *_: None}
        )

    def test_waiting(self) -> None:
        """It does not wait for a server that takes its time."""
        slow: Deferred[str] = Deferred()
        self.assertRaises(
            RuntimeError, connectedPair, server={"authorizedKeys": lambda *_: slow}
        )

    def test_cutByHandler(self) -> None:
        """
        A handler may cut it: the protocol is told in the next turn, as by TCP, and the
        session goes on.
        """

        def react(connection: Connection, packet: Packet) -> None:
            """Cut it at the first of several that came together."""
            if packet.data == "first":
                network.links[0].cut()

        handler = Recorder(react)
        network, _ = self.serve(handler)
        service = ClientService(
            network.endpoint(), reactor=network.clock, key=CLIENT_KEY, trust=AnyServer()
        )
        service.startService()
        network.deliver()
        sent = [service.sendData(data) for data in ("before", "first", "second")]
        asked = service.request("?")
        network.advance(3)
        for each in sent:
            self.successResultOf(each)
        self.failureResultOf(asked, RequestFailed)
        self.assertEqual(handler.data, ["before", "first", "second"])
        self.assertEqual(len(network.links), 1)
        service.stopService()
        network.deliver()

    def test_cut(self) -> None:
        """The plug can be pulled."""
        pair = self.pair()
        pair.network.links[0].cut()
        for connection in (pair.client, pair.accepted):
            self.assertIsInstance(self.closedReason(connection), Truncated)

    def test_example(self) -> None:
        """The example of the documentation does what it says."""
        pair = self.pair(
            Recorder(lambda c, packet: c.sendData(f"Hello, {packet.data!r}") and None)
        )
        sent = pair.client.sendData("Ada")
        pair.deliver()
        self.successResultOf(sent)
        packet = pair.client.retrieved.getData()
        self.assertEqual(packet and packet.data, "Hello, 'Ada'")

    def test_listen(self) -> None:
        """The same network can be used with L{listen} alone."""
        network = MemoryNetwork()
        key = aesm.PrivateKey.generate()
        listening = listen(network.clock, network.endpoint(), key=key)
        server = self.successResultOf(listening)
        self.assertEqual(server.address, ("127.0.0.1", 8765))
        self.successResultOf(server.stop())
