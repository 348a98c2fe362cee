"""
Tests for L{aesm.server.service}: L{listen}, and what a server can do.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable
from typing import Any

from twisted.application.service import Application, IService, MultiService
from twisted.internet.address import (
    HostnameAddress,
    IPv4Address,
    IPv6Address,
    UNIXAddress,
)
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm import AESMServerFactory, MessageTooBig, PrivateKey, SendBufferFull, listen
from aesm.server.service import Server, listeningAddress
from tests.support.pairs import SERVER_KEY, PairTestCase, Recorder


@implementer(IStreamServerEndpoint)
class Open:
    """An endpoint that listens already."""

    def __init__(self, port: IListeningPort) -> None:
        """@param port: where it is to listen."""
        self._port = port

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Give the port.

        @param protocolFactory: what it listens with.
        @see: C{twisted.internet.interfaces.IStreamServerEndpoint}
        """
        return succeed(self._port)


def listening(factory: AESMServerFactory, ports: Iterable[IListeningPort]) -> Server:
    """
    Make a server of a factory and ports that listen with it.

    @param factory: builds the protocols.
    @param ports: at least one.
    """
    server = Server(*map(Open, ports), factory=factory)
    server.startService()
    return server


@implementer(IListeningPort)
class FakePort:
    """
    A port that listens somewhere.

    @ivar stopped: how often it was told to stop.
    """

    def __init__(self, address: Any, stopping: Deferred[None] | None = None) -> None:
        """
        @param address: where it listens.
        @param stopping: what C{stopListening} returns.
        """
        self.address = address
        self.stopping = stopping
        self.stopped = 0

    def startListening(self) -> None:
        """Listen."""

    def stopListening(self) -> Deferred[None] | None:
        """Stop."""
        self.stopped += 1
        return self.stopping

    def getHost(self) -> Any:
        """Say where."""
        if self.stopped:
            raise AttributeError("socket")  # as a port of TCP does
        return self.address


def tcp(host: str) -> FakePort:
    """
    Make a port.

    @param host: where it listens.
    """
    kind = IPv6Address if ":" in host else IPv4Address
    return FakePort(kind("TCP", host, 8765))


class ListenTests(SynchronousTestCase):
    """L{listen} listens on an endpoint."""

    def test_fake(self) -> None:
        """The port of these tests is one."""
        verifyObject(IListeningPort, tcp("127.0.0.1"))

    def test_string(self) -> None:
        """A string says where."""
        reactor = MemoryReactorClock()
        listening = listen(reactor, "tcp:8765:interface=127.0.0.1", key=SERVER_KEY)
        server = self.successResultOf(listening)
        (port, factory, _, interface) = reactor.tcpServers[0]
        self.assertEqual((port, interface), (8765, "127.0.0.1"))
        self.assertIs(factory, server.factory)
        self.assertEqual(server.publicKey, SERVER_KEY.publicKey)

    def test_fails(self) -> None:
        """The endpoint's failure is the answer."""
        listening = listen(TakenReactor(), "tcp:1", key=SERVER_KEY)
        self.failureResultOf(listening, CannotListenError)

    def test_options(self) -> None:
        """Options that cannot be are the caller's errors, at once."""
        for options, expected in (
            ({"nonsense": 1}, TypeError),
            ({"handler": object()}, TypeError),
            ({"maxConnections": 0}, ValueError),
            ({"maxConnectionsPerHost": 0}, ValueError),
            ({"handshakesPerHost": 0}, ValueError),
            ({"handshakesPerHost": float("nan")}, ValueError),
            ({"perKey": "maybe"}, ValueError),
            ({"heartbeat": 0}, ValueError),
            ({"handshakeTimeout": float("inf")}, ValueError),
            ({"authorizedKeys": 3}, TypeError),
        ):
            given: dict[str, Any] = {"key": SERVER_KEY} | dict(options)
            self.assertRaises(expected, listen, Clock(), "tcp:8765", **given)

    def test_badString(self) -> None:
        """A string that is none is the caller's error."""
        self.assertRaises(ValueError, listen, Clock(), "nonsense", key=SERVER_KEY)

    def test_logged(self) -> None:
        """The log has the address and the public key that a client needs."""
        factory = AESMServerFactory(reactor=Clock(), key=SERVER_KEY)
        with capturedLogs() as events:
            listening(factory, [tcp("127.0.0.1"), FakePort(UNIXAddress("/run/x"))])
        texts = [formatEvent(event) for event in events]
        self.assertIn("127.0.0.1:8765", texts[0])
        self.assertIn("/run/x", texts[1])
        for text in texts:
            self.assertIn(str(SERVER_KEY.publicKey), text)
        self.assertEqual(len(texts), 2)

    def test_open(self) -> None:
        """That anybody may come in from elsewhere is said loudly, with what to do."""
        open_: dict[str, Any] = {}
        for options, host, loud in (
            (open_, "0.0.0.0", True),
            (open_, "::", True),
            (open_, "192.0.2.1", True),
            (open_, "fe80::1%eth0", True),
            (open_, "127.0.0.1", False),
            (open_, "127.8.8.8", False),
            (open_, "::1", False),
            ({"psk": b"p" * 32}, "0.0.0.0", False),
            ({"authorizedKeys": lambda *_: "x"}, "0.0.0.0", False),
        ):
            factory = AESMServerFactory(reactor=Clock(), key=SERVER_KEY, **options)
            with capturedLogs() as events:
                listening(factory, [tcp(host)])
            warnings = [
                formatEvent(e) for e in events if e["log_level"] is LogLevel.warn
            ]
            self.assertEqual(len(warnings), loud, host)
            for warning in warnings:
                self.assertIn("ANYONE", warning)
                self.assertIn("authorizedKeys", warning)

    def test_addresses(self) -> None:
        """A server knows where each of its ports listens, also when they are closed."""
        factory = AESMServerFactory(reactor=Clock(), key=SERVER_KEY)
        server = listening(factory, [tcp("127.0.0.1"), FakePort(UNIXAddress("/run/x"))])
        self.successResultOf(server.stop())
        self.assertEqual(server.address, ("127.0.0.1", 8765))
        self.assertEqual(server.addresses, [("127.0.0.1", 8765), "/run/x"])

    def test_otherAddress(self) -> None:
        """What is neither is text."""
        for address in (UNIXAddress(None), object()):
            where: Any = address
            self.assertEqual(listeningAddress(where), str(address))
        named = HostnameAddress(b"example.org", 5)
        self.assertEqual(listeningAddress(named), str(named))


class SendTests(PairTestCase):
    """C{sendTo} and C{sendAll}."""

    def test_sendTo(self) -> None:
        """One peer gets it."""
        network, server = self.serve()
        clients = [self.join(network) for _ in range(2)]
        address = list(server.connections)[1]
        sent = server.sendTo("x", address)
        network.deliver()
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual([len(c.retrieved) for c in clients], [0, 1])

    def test_sendToNobody(self) -> None:
        """Where nobody is, it fails, and nothing is logged if nobody looks."""
        _, server = self.serve()
        error = self.assertClosed(server.sendTo("x", ("127.0.0.1", 1)))
        self.assertIn("no connection", str(error))
        server.sendTo("x", "unix-1")

    def test_sendToClosed(self) -> None:
        """It fails if the peer is listed for its unread packets only."""
        pair = self.pair()
        pair.client.sendData("unread")
        pair.client.close()
        pair.deliver()
        self.assertClosed(pair.server.sendTo("x", pair.accepted.address), 1000)
        self.assertEqual(self.successResultOf(pair.server.sendAll("x")), 0)

    def test_sendToFull(self) -> None:
        """
        A full buffer fails it, also on a server with a handler, and the client
        stays.
        """
        pair = self.pair(Recorder(), server={"sendBuffer": 100})
        pair.network.links[0].toClient.stalled = True
        sent = [pair.server.sendTo("x" * 36, pair.accepted.address) for _ in "ab"]
        self.failureResultOf(sent[1], SendBufferFull)
        pair.network.links[0].toClient.stalled = False
        pair.deliver()
        self.successResultOf(sent[0])
        self.assertFalse(pair.accepted.isOver)

    def test_sendAll(self) -> None:
        """Everybody gets it; it fires with how many have it."""
        network, server = self.serve()
        clients = [self.join(network) for _ in range(5)]
        sent = server.sendAll("x")
        self.assertNoResult(sent)
        network.deliver()
        self.assertEqual(self.successResultOf(sent), 5)
        for client in clients:
            self.assertEqual([p.data for p in client.retrieved], ["x"])

    def test_sendAllKinds(self) -> None:
        """
        A text arrives as text, though it was encoded once for all, and bytes as
        bytes; what has no UTF-8 is refused.
        """
        pair = self.pair()
        for data in ("\xe9", b"\xe9", bytearray(b"a")):
            pair.server.sendAll(data)
        pair.deliver()
        packets = [packet.data for packet in pair.client.retrieved]
        self.assertEqual(packets, ["\xe9", b"\xe9", b"a"])
        self.assertRaises(ValueError, pair.server.sendAll, "\ud800")

    def test_sendAllToNobody(self) -> None:
        """With nobody there, nobody has it."""
        _, server = self.serve()
        self.assertEqual(self.successResultOf(server.sendAll("x")), 0)

    def test_sendAllUnwatched(self) -> None:
        """It is sent whether or not somebody waits."""
        pair = self.pair()
        for number in range(10):
            pair.server.sendAll(str(number))
        pair.deliver()
        self.assertEqual(len(pair.client.retrieved), 10)

    def test_sendAllLost(self) -> None:
        """Who is lost before is not counted, and not waited for."""
        network, server = self.serve()
        for _ in range(3):
            self.join(network)
        links = list(network.links)
        links[0].toClient.stalled = True
        sent = server.sendAll("x")
        network.deliver()
        self.assertNoResult(sent)
        links[0].cut()
        self.assertEqual(self.successResultOf(sent), 2)

    def test_sendAllSlow(self) -> None:
        """
        A peer that is too slow is closed with 4000 and an entry; the others are
        sent to at once, and nobody waits.
        """
        network, server = self.serve(sendBuffer=1000)
        slow, quick = self.join(network), self.join(network)
        network.links[0].toClient.stalled = True
        for _ in range(12):
            server.sendAll("x" * 36)
            network.deliver()
        self.assertEqual(len(quick.retrieved), 12)
        last = server.sendAll("last")
        network.deliver()
        self.assertEqual(self.successResultOf(last), 1)
        network.advance(30)
        entries = self.entries(server)
        self.assertEqual([e.event for e in entries], ["accepted", "accepted", "lost"])
        self.assertIn("4000", entries[-1].reason)
        self.assertEqual(entries[-1].peer, entries[0].peer)
        slow.abort()

    def test_sendAllTooBig(self) -> None:
        """A peer that does not take messages of that size is not counted."""
        network, server = self.serve()
        self.join(network, maxMessage=5)
        self.join(network)
        sent = server.sendAll("x" * 6)
        network.deliver()
        self.assertEqual(self.successResultOf(sent), 1)
        one = server.sendTo("x" * 6, next(iter(server.connections)))
        self.failureResultOf(one, MessageTooBig)

    def test_sendAllCancelled(self) -> None:
        """Cancelling stops the waiting, not the message."""
        pair = self.pair()
        sent = pair.server.sendAll("x")
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        pair.deliver()
        self.assertEqual(len(pair.client.retrieved), 1)


class StopTests(PairTestCase):
    """C{stop} ends all in order, or at the deadline."""

    def test_tells(self) -> None:
        """Every client is told, with code 1001, after what was queued."""
        for reason, said in (("", "going away"), ("maintenance", "maintenance")):
            network, server = self.serve()
            clients = [self.join(network) for _ in range(3)]
            sent = server.sendAll(b"x" * 100_000)
            stopped = server.stop(reason)
            self.assertNoResult(stopped)
            network.deliver()
            self.assertIsNone(self.successResultOf(stopped))
            self.assertEqual(self.successResultOf(sent), 3)
            for client in clients:
                closed = self.closedReason(client)
                self.assertEqual((closed.code, closed.reason), (1001, said))
                self.assertEqual(len(client.retrieved), 1)
            self.assertEqual(len(server.connections), 0)
            self.assertEqual(network.clock.getDelayedCalls(), [])

    def test_wrongDeadline(self) -> None:
        """What is no time is refused before anything is done."""
        network, server = self.serve()
        client = self.join(network)
        strange: Any = "5"
        for kind, wrong in (
            (ValueError, -1),
            (ValueError, math.nan),
            (TypeError, strange),
        ):
            for stop in (server.stop, server.factory.stop):
                self.assertRaises(kind, stop, deadline=wrong)
        self.successResultOf(client.drain())
        sent = client.sendData("x")
        network.deliver()
        self.successResultOf(sent)
        stopped = server.stop(deadline=math.inf)
        network.deliver()
        self.successResultOf(stopped)

    def test_nobody(self) -> None:
        """With nobody there it is done at once, as often as one likes."""
        network, server = self.serve()
        for _ in range(3):
            self.successResultOf(server.stop())
        self.assertEqual(network.clock.getDelayedCalls(), [])

    def test_refuses(self) -> None:
        """From then on nobody is let in, neither who comes nor who is about to."""
        decisions: list[Deferred[str]] = []

        def decide(*_: object) -> Deferred[str]:
            """Take time."""
            decisions.append(Deferred())
            return decisions[-1]

        network, server = self.serve(authorizedKeys=decide)
        deciding = self.connecting(network)
        network.deliver()
        beginning = self.connecting(network)
        stopped = server.stop()
        network.deliver()
        self.successResultOf(stopped)
        for connecting in (deciding, beginning):
            self.failureResultOf(connecting)
        (decision,) = decisions
        self.assertTrue(decision.called)
        reasons = [(e.event, e.reason) for e in self.entries(server)]
        self.assertEqual(reasons, [("refused", "the server is stopping")] * 2)
        address = IPv4Address("TCP", "127.0.0.1", 1)
        server.factory.buildProtocol(address)
        self.assertEqual(self.entries(server)[0].reason, "the server is stopping")

    def test_deadline(self) -> None:
        """Who does not answer is aborted at the deadline."""
        for deadline in (0.5, 3, 5):
            network, server = self.serve()
            quick, slow = self.join(network), self.join(network)
            network.links[1].toClient.stalled = True
            stopped = server.stop(deadline=deadline)
            network.advance(deadline - 0.1)
            self.assertTrue(quick.isOver)
            self.assertNoResult(stopped)
            network.advance(0.1)
            self.successResultOf(stopped)
            self.assertEqual(len(server.connections), 0)
            slow.abort()

    def test_twice(self) -> None:
        """Both callers are told when all are gone; ports are stopped once."""
        pair = self.pair()
        pair.network.links[0].toClient.stalled = True
        stopped = [pair.server.stop(), pair.server.stop()]
        pair.advance(4.9)
        for deferred in stopped:
            self.assertNoResult(deferred)
        pair.advance(0.1)
        for deferred in stopped:
            self.successResultOf(deferred)
        port = tcp("127.0.0.1")
        server = listening(AESMServerFactory(reactor=Clock(), key=SERVER_KEY), [port])
        self.successResultOf(server.stop())
        self.successResultOf(server.stop())
        self.assertEqual(port.stopped, 1)

    def test_ports(self) -> None:
        """
        It waits for the ports, too, whoever asks; one that does not close is
        logged, and no reason to stay.
        """
        factory = AESMServerFactory(reactor=Clock(), key=SERVER_KEY)
        stopping: Deferred[None] = Deferred()
        address = IPv4Address("TCP", "127.0.0.1", 1)
        ports = [FakePort(address, stopping), FakePort(address, fail(OSError("no")))]
        server = listening(factory, ports)
        stopped = [server.stop(), server.stop()]
        for deferred in stopped:
            self.assertNoResult(deferred)
        stopping.callback(None)
        for deferred in stopped:
            self.successResultOf(deferred)
        self.assertEqual([port.stopped for port in ports], [1, 1])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_deadlines(self) -> None:
        """Of several deadlines the earliest counts."""
        pair = self.pair()
        pair.network.links[0].toClient.stalled = True
        stopped = [pair.server.stop(deadline=60), pair.server.stop(deadline=1)]
        pair.advance(1)
        for deferred in stopped:
            self.successResultOf(deferred)

    def test_cancel(self) -> None:
        """Who waits may stop waiting: the server stops all the same."""
        pair = self.pair()
        pair.network.links[0].toClient.stalled = True
        stopped, other = pair.server.stop(), pair.server.stop()
        stopped.cancel()
        self.failureResultOf(stopped)
        pair.advance(5)
        self.successResultOf(other)

    def test_unread(self) -> None:
        """What was not read can still be read."""
        pair = self.pair()
        pair.client.sendData("unread")
        pair.deliver()
        stopped = pair.server.stop()
        pair.deliver()
        self.successResultOf(stopped)
        self.assertEqual(pair.server.connections.getDataOrdinal()[1].data, "unread")

    def test_again(self) -> None:
        """A factory that has stopped may listen again."""
        network, server = self.serve()
        self.successResultOf(server.stop())
        self.successResultOf(network.endpoint().listen(server.factory))
        client = self.join(network, key=PrivateKey.generate())
        client.close()
        network.deliver()
        server.factory.doStop()
        network.factory = None


@implementer(IStreamServerEndpoint)
class SlowEndpoint:
    """
    An endpoint that takes its time.

    @ivar attempts: who was promised a port.
    """

    def __init__(self) -> None:
        """Nobody listens yet."""
        self.attempts: list[Deferred[Any]] = []

    def listen(self, protocolFactory: object) -> Deferred[Any]:
        """
        Begin to listen.

        @see: L{IStreamServerEndpoint}
        """
        self.attempts.append(Deferred())
        return self.attempts[-1]


class TakenReactor(MemoryReactorClock):
    """A reactor with one port that is in use."""

    def listenTCP(self, port: int, *args: Any, **kwargs: Any) -> Any:
        """Listen, except on port 1."""
        if port == 1:
            raise CannotListenError("", port, OSError("in use"))
        return super().listenTCP(port, *args, **kwargs)


class ServiceTests(PairTestCase):
    """A server is a service."""

    def setUp(self) -> None:
        """Make a reactor."""
        self.reactor = TakenReactor()

    def make(self, *endpoints: Any, **options: Any) -> Server:
        """
        Make a server that does not listen yet.

        @param endpoints: where it is to listen.
        @param options: as L{Server}.
        """
        return Server(*endpoints, reactor=self.reactor, key=SERVER_KEY, **options)

    def opened(self) -> list[int]:
        """Look at the ports that have been opened."""
        return [port for port, *_ in self.reactor.tcpServers]

    def test_interfaces(self) -> None:
        """The server and what these tests use are what they say."""
        verifyObject(IService, self.make("tcp:2"))
        verifyObject(IStreamServerEndpoint, SlowEndpoint())
        verifyObject(IStreamServerEndpoint, Open(tcp("127.0.0.1")))

    def test_application(self) -> None:
        """
        In an application it listens when that starts, on all endpoints, strings and
        objects, and only once; and stops with it.
        """
        application = Application("x")
        endpoint = TCP4ServerEndpoint(self.reactor, 3)
        server = self.make("tcp:2", endpoint)
        server.setServiceParent(application)
        self.assertEqual((server.addresses, self.opened()), ([], []))
        self.assertRaises(IndexError, lambda: server.address)
        service = IService(application)
        service.privilegedStartService()
        service.startService()
        self.assertEqual(self.opened(), [2, 3])
        self.assertEqual(len(server.addresses), 2)
        self.successResultOf(service.stopService())
        self.assertFalse(server.running)

    def test_lateParent(self) -> None:
        """
        An application that runs starts it at once, and stops it when it is taken
        out.
        """
        application = MultiService()
        application.startService()
        server = self.make("tcp:2")
        server.setServiceParent(application)
        self.assertEqual(self.opened(), [2])
        self.successResultOf(server.disownServiceParent())
        self.assertFalse(server.running)

    def test_wrong(self) -> None:
        """What cannot be is the caller's error, before anything listens."""
        factory = AESMServerFactory(reactor=self.reactor, key=SERVER_KEY)
        for expected, arguments, options in (
            (TypeError, (), {}),
            (TypeError, (factory,), {}),
            (TypeError, (["tcp:2", "tcp:3"],), {}),
            (TypeError, ("tcp:2",), {"nonsense": 1}),
            (TypeError, ("tcp:2",), {"factory": factory, "handler": None}),
            (ValueError, ("tcp:2", "nonsense"), {}),
            (ValueError, ("tcp:2",), {"heartbeat": 0}),
        ):
            given: Any = {"reactor": self.reactor, **options}
            with self.assertRaises(expected):
                Server(*arguments, **given)
        self.assertEqual(self.opened(), [])
        strange: Any = 8765
        with self.assertRaisesRegex(TypeError, "^an endpoint is .* not 8765$"):
            Server(strange, reactor=self.reactor, key=SERVER_KEY)
        strange = {"trust": None}
        with self.assertRaisesRegex(TypeError, "^there is no option 'trust' here$"):
            Server("tcp:2", reactor=self.reactor, key=SERVER_KEY, **strange)

    def test_factory(self) -> None:
        """It takes a factory that is there already."""
        factory = AESMServerFactory(reactor=self.reactor, key=SERVER_KEY)
        server = Server("tcp:2", factory=factory)
        server.startService()
        self.assertIs(self.reactor.tcpServers[0][1], factory)
        self.successResultOf(server.stopService())

    def test_cannotListen(self) -> None:
        """Where it cannot listen, starting raises that, and it listens nowhere."""
        slow, port = SlowEndpoint(), tcp("127.0.0.1")
        server = self.make(Open(port), "tcp:1", slow, "tcp:2")
        for start in (server.privilegedStartService, server.startService):
            port.stopped = 0
            self.assertRaises(CannotListenError, start)
            self.assertFalse(server.running)
            self.assertEqual(port.stopped, 1)
            self.assertTrue(slow.attempts[-1].called)
        self.failureResultOf(server.start(), CannotListenError)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.successResultOf(server.stopService())

    def test_cannotListenLater(self) -> None:
        """If that turns out later it is logged, and told to who waits."""
        slow = SlowEndpoint()
        server = self.make("tcp:2", slow)
        server.privilegedStartService()
        waiting = server.start()
        server.startService()
        slow.attempts[0].errback(OSError("no"))
        self.failureResultOf(waiting, OSError)
        self.assertFalse(server.running)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual(len(slow.attempts), 1)

    def test_stoppedBefore(self) -> None:
        """Stopping it before it listens is no failure, except to who waits for that."""
        slow, port = SlowEndpoint(), tcp("127.0.0.1")
        server = self.make(slow, Open(port))
        server.startService()
        waiting = server.start()
        self.successResultOf(server.stopService())
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(port.stopped, 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_neverStarted(self) -> None:
        """One that was never started can be stopped, and started later."""
        server = self.make("tcp:2")
        self.successResultOf(server.stop())
        self.successResultOf(server.stopService())
        server.startService()
        self.assertEqual(self.opened(), [2])
        self.assertIsNotNone(
            server.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        )
        self.successResultOf(server.stop())

    def test_cancelListen(self) -> None:
        """Who does not want to know any more whether it listens has it stopped."""
        slow = SlowEndpoint()
        listening = listen(self.reactor, slow, key=SERVER_KEY)
        listening.cancel()
        self.failureResultOf(listening, CancelledError)
        self.assertTrue(slow.attempts[0].called)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cancelEachOther(self) -> None:
        """Who is told that it listens may have another one not wait for that."""
        slow = SlowEndpoint()
        server = Server(slow, reactor=self.reactor, key=SERVER_KEY)
        first, second, third = (server.start() for _ in range(3))
        first.addCallback(lambda server: second.cancel())
        slow.attempts[0].callback(tcp("127.0.0.1"))
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)
        self.assertIs(self.successResultOf(third), server)
        self.assertFalse(server.running)
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_listenRuns(self) -> None:
        """
        What L{listen} gives is running: an application that takes it does not
        listen again, and stops it.
        """
        listening = listen(self.reactor, "tcp:2", key=SERVER_KEY)
        server = self.successResultOf(listening)
        self.assertTrue(server.running)
        application = MultiService()
        server.setServiceParent(application)
        application.privilegedStartService()
        application.startService()
        self.assertIs(self.successResultOf(server.start()), server)
        self.assertEqual(self.opened(), [2])
        self.successResultOf(application.stopService())
        self.assertFalse(server.running)

    def test_bothEnds(self) -> None:
        """C{stop} and C{stopService} are the same, in either order."""
        for first, second in (("stop", "stopService"), ("stopService", "stop")):
            pair = self.pair()
            stopped = [getattr(pair.server, first)(), getattr(pair.server, second)()]
            self.assertNoResult(stopped[0])
            pair.deliver()
            for deferred in stopped:
                self.successResultOf(deferred)
            self.assertEqual(self.closedReason(pair.client).code, 1001)
            self.assertEqual(self.entries(pair.server)[-1].event, "lost")

    def test_again(self) -> None:
        """It can be started again, over and over, and lets clients in."""
        network, server = self.serve()
        for _ in range(3):
            client = self.join(network)
            stopped = server.stopService()
            network.deliver()
            self.successResultOf(stopped)
            self.assertEqual(self.closedReason(client).code, 1001)
            self.failureResultOf(self.connecting(network))
            server.startService()
            self.assertEqual(server.address, ("127.0.0.1", 8765))

    def test_againAtOnce(self) -> None:
        """
        One that is started while it stops listens once that is done: at the latest
        at the deadline.  One that is stopped then does not.
        """
        network, server = self.serve()
        client = self.join(network)
        network.links[0].toClient.stalled = True
        stopped = server.stop()
        server.startService()
        given = server.start()
        server.stop()
        self.failureResultOf(given, CancelledError)
        waiting = server.start()
        network.advance(4.9)
        self.assertNoResult(stopped)
        self.assertNoResult(waiting)
        network.advance(0.1)
        self.successResultOf(stopped)
        self.assertIs(self.successResultOf(waiting), server)
        self.assertTrue(server.running)
        self.join(network)
        self.assertEqual(len(server.connections), 1)
        client.abort()

    def test_cancelledStop(self) -> None:
        """
        That somebody does not wait for the end any more moves nothing: it listens
        again when all is gone.
        """
        network, server = self.serve()
        self.join(network)
        network.links[0].toClient.stalled = True
        stopped = server.stop()
        stopped.cancel()
        self.failureResultOf(stopped, CancelledError)
        waiting = server.start()
        self.assertNoResult(waiting)
        network.advance(5)
        self.successResultOf(waiting)
