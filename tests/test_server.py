"""
Tests for L{aesm.server}: L{listen}, and what a server can do.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import (
    HostnameAddress,
    IPv4Address,
    IPv6Address,
    UNIXAddress,
)
from twisted.internet.defer import CancelledError, Deferred, FirstError, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm import AESMServerFactory, MessageTooBig, PrivateKey, SendBufferFull, listen
from aesm.server import Server, listening, listeningAddress
from tests.pairs import SERVER_KEY, PairTestCase, Recorder


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
        """
        Listen.
        """

    def stopListening(self) -> Deferred[None] | None:
        """
        Stop.
        """
        self.stopped += 1
        return self.stopping

    def getHost(self) -> Any:
        """
        Say where.
        """
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
    """
    L{listen} listens on an endpoint.
    """

    def test_fake(self) -> None:
        """
        The port of these tests is one.
        """
        verifyObject(IListeningPort, tcp("127.0.0.1"))

    def test_string(self) -> None:
        """
        A string says where.
        """
        reactor = MemoryReactorClock()
        listening = listen(reactor, "tcp:8765:interface=127.0.0.1", key=SERVER_KEY)
        server = self.successResultOf(listening)
        (port, factory, _, interface) = reactor.tcpServers[0]
        self.assertEqual((port, interface), (8765, "127.0.0.1"))
        self.assertIs(factory, server.factory)
        self.assertEqual(server.publicKey, SERVER_KEY.publicKey)

    def test_fails(self) -> None:
        """
        The endpoint's failure is the answer.
        """

        class Taken(MemoryReactorClock):
            """
            A reactor with no port to spare.
            """

            def listenTCP(self, port: int, *args: Any, **kwargs: Any) -> Any:
                """
                Fail.

                @param port: which.
                @param args: more.
                @param kwargs: more.
                """
                raise CannotListenError("", port, OSError("in use"))

        listening = listen(Taken(), "tcp:8765", key=SERVER_KEY)
        self.failureResultOf(listening, CannotListenError)

    def test_options(self) -> None:
        """
        Options that cannot be are the caller's errors, at once.
        """
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
        """
        A string that is none is the caller's error.
        """
        self.assertRaises(ValueError, listen, Clock(), "nonsense", key=SERVER_KEY)

    def test_logged(self) -> None:
        """
        The log has the address and the public key that a client needs.
        """
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
        """
        That anybody may come in from elsewhere is said loudly, with what to do.
        """
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
        """
        A server knows where each of its ports listens, also when they are closed.
        """
        factory = AESMServerFactory(reactor=Clock(), key=SERVER_KEY)
        server = Server(factory, [tcp("127.0.0.1"), FakePort(UNIXAddress("/run/x"))])
        self.successResultOf(server.stop())
        self.assertEqual(server.address, ("127.0.0.1", 8765))
        self.assertEqual(server.addresses, [("127.0.0.1", 8765), "/run/x"])

    def test_otherAddress(self) -> None:
        """
        What is neither is text.
        """
        for address in (UNIXAddress(None), object()):
            where: Any = address
            self.assertEqual(listeningAddress(where), str(address))
        named = HostnameAddress(b"example.org", 5)
        self.assertEqual(listeningAddress(named), str(named))


class SendTests(PairTestCase):
    """
    C{sendTo} and C{sendAll}.
    """

    def test_sendTo(self) -> None:
        """
        One peer gets it.
        """
        network, server = self.serve()
        clients = [self.join(network) for _ in range(2)]
        address = list(server.connections)[1]
        sent = server.sendTo("x", address)
        network.deliver()
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual([len(c.retrieved) for c in clients], [0, 1])

    def test_sendToNobody(self) -> None:
        """
        Where nobody is, it fails, and nothing is logged if nobody looks.
        """
        _, server = self.serve()
        error = self.assertClosed(server.sendTo("x", ("127.0.0.1", 1)))
        self.assertIn("no connection", str(error))
        server.sendTo("x", "unix-1")

    def test_sendToClosed(self) -> None:
        """
        It fails if the peer is listed for its unread packets only.
        """
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
        """
        Everybody gets it; it fires with how many have it.
        """
        network, server = self.serve()
        clients = [self.join(network) for _ in range(5)]
        sent = server.sendAll("x")
        self.assertNoResult(sent)
        network.deliver()
        self.assertEqual(self.successResultOf(sent), 5)
        for client in clients:
            self.assertEqual([p.data for p in client.retrieved], ["x"])

    def test_sendAllToNobody(self) -> None:
        """
        With nobody there, nobody has it.
        """
        _, server = self.serve()
        self.assertEqual(self.successResultOf(server.sendAll("x")), 0)

    def test_sendAllUnwatched(self) -> None:
        """
        It is sent whether or not somebody waits.
        """
        pair = self.pair()
        for number in range(10):
            pair.server.sendAll(str(number))
        pair.deliver()
        self.assertEqual(len(pair.client.retrieved), 10)

    def test_sendAllLost(self) -> None:
        """
        Who is lost before is not counted, and not waited for.
        """
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
        network.advance(5)
        self.assertEqual(self.successResultOf(last), 1)
        entries = self.entries(server)
        self.assertEqual([e.event for e in entries], ["accepted", "accepted", "lost"])
        self.assertIn("4000", entries[-1].reason)
        self.assertEqual(entries[-1].peer, entries[0].peer)
        slow.abort()

    def test_sendAllTooBig(self) -> None:
        """
        A peer that does not take messages of that size is not counted.
        """
        network, server = self.serve()
        self.join(network, maxMessage=5)
        self.join(network)
        sent = server.sendAll("x" * 6)
        network.deliver()
        self.assertEqual(self.successResultOf(sent), 1)
        one = server.sendTo("x" * 6, next(iter(server.connections)))
        self.failureResultOf(one, MessageTooBig)

    def test_sendAllCancelled(self) -> None:
        """
        Cancelling stops the waiting, not the message.
        """
        pair = self.pair()
        sent = pair.server.sendAll("x")
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        pair.deliver()
        self.assertEqual(len(pair.client.retrieved), 1)


class StopTests(PairTestCase):
    """
    C{stop} ends all in order, or at the deadline.
    """

    def test_tells(self) -> None:
        """
        Every client is told, with code 1001, after what was queued.
        """
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

    def test_nobody(self) -> None:
        """
        With nobody there it is done at once, as often as one likes.
        """
        network, server = self.serve()
        for _ in range(3):
            self.successResultOf(server.stop())
        self.assertEqual(network.clock.getDelayedCalls(), [])

    def test_refuses(self) -> None:
        """
        From then on nobody is let in, neither who comes nor who is about to.
        """
        decisions: list[Deferred[str]] = []

        def decide(*_: object) -> Deferred[str]:
            """
            Take time.

            @param _: who and where.
            """
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
        """
        Who does not answer is aborted at the deadline.
        """
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
        """
        Both callers are told when all are gone; ports are stopped once.
        """
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
        server = Server(AESMServerFactory(reactor=Clock(), key=SERVER_KEY), [port])
        self.successResultOf(server.stop())
        self.successResultOf(server.stop())
        self.assertEqual(port.stopped, 1)

    def test_ports(self) -> None:
        """
        It waits for the ports, too; what they fail with is the answer.
        """
        factory = AESMServerFactory(reactor=Clock(), key=SERVER_KEY)
        stopping: Deferred[None] = Deferred()
        address = IPv4Address("TCP", "127.0.0.1", 1)
        ports = [FakePort(address, stopping), FakePort(address, succeed(None))]
        stopped = Server(factory, ports).stop()
        self.assertNoResult(stopped)
        stopping.callback(None)
        self.successResultOf(stopped)
        failing = FakePort(address, fail(OSError("no")))
        self.failureResultOf(Server(factory, [failing]).stop(), FirstError)

    def test_cancel(self) -> None:
        """
        Who waits may stop waiting: the server stops all the same.
        """
        pair = self.pair()
        pair.network.links[0].toClient.stalled = True
        stopped, other = pair.server.stop(), pair.server.stop()
        stopped.cancel()
        self.failureResultOf(stopped)
        pair.advance(5)
        self.successResultOf(other)

    def test_unread(self) -> None:
        """
        What was not read can still be read.
        """
        pair = self.pair()
        pair.client.sendData("unread")
        pair.deliver()
        stopped = pair.server.stop()
        pair.deliver()
        self.successResultOf(stopped)
        self.assertEqual(pair.server.connections.getDataOrdinal()[1].data, "unread")

    def test_again(self) -> None:
        """
        A factory that has stopped may listen again.
        """
        network, server = self.serve()
        self.successResultOf(server.stop())
        self.successResultOf(network.endpoint().listen(server.factory))
        client = self.join(network, key=PrivateKey.generate())
        client.close()
        network.deliver()
        server.factory.doStop()
        network.factory = None
