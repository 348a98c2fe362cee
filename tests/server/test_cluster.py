"""
Tests for L{aesm.server.cluster}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm import Connection, Packet, PrivateKey
from aesm.cluster import batch
from aesm.cluster.scripts import SWEEP
from aesm.errors import ConnectionClosed, MessageTooBig, SendBufferFull, SpoolError
from aesm.server import cluster
from aesm.server.cluster import ClusterConnection, checkHandler
from aesm.server.registry import Connections
from tests.store.test_replicated import Caller, Roll
from tests.support.clusters import ClusterTestCase
from tests.support.pairs import Recorder

ALICE, BOB, NOBODY = (PrivateKey(bytes([number]) * 32) for number in (0x61, 0x62, 0x63))


class SendToTests(ClusterTestCase):
    """What who sends is told."""

    def setUp(self) -> None:
        """Have two nodes, and Bob at both."""
        super().setUp()
        self.one = self.serving("one", Recorder(self.pass_))
        self.two = self.serving("two", Recorder())
        self.bobs = [self.client(BOB, node) for node in (self.one, self.two)]
        self.sent: list[Deferred[int]] = []

    def pass_(self, connection: Connection, packet: Packet) -> None:
        """Send a message on."""
        self.send(packet.data)

    def send(self, data: Any, to: PrivateKey = BOB) -> Deferred[int]:
        """Send something."""
        self.sent.append(self.one.cluster.sendTo(data, to.publicKey))
        return self.sent[-1]

    def test_all(self) -> None:
        """All sessions of a key have it, and it is told how many these are."""
        sent = self.send("a")
        self.assertNoResult(sent)
        self.settle()
        self.assertEqual(self.successResultOf(sent), 2)
        for bob in self.bobs:
            self.assertEqual(self.taken(bob), ["a"])

    def test_everybody(self) -> None:
        """C{sendAll} goes to the clients of all nodes."""
        sent = self.one.cluster.sendAll("for all")
        sent.addCallback(lambda having: having)
        self.settle(5)
        self.assertEqual(self.successResultOf(sent), 2)
        for bob in self.bobs:
            self.assertEqual(self.taken(bob), ["for all"])

    def test_lazy(self) -> None:
        """Who looks when it has fired is told as well; who cancels is told nothing."""
        sent, cancelled, early = self.send("a"), self.send("b"), self.send("c")
        cancelled.cancel()
        cancelled.addErrback(lambda failure: None)
        early.addCallback(lambda having: having + 1)
        self.settle()
        self.assertEqual(self.successResultOf(sent), 2)
        self.assertEqual(self.successResultOf(early), 3)
        self.assertEqual(self.taken(self.bobs[0]), ["a", "b", "c"])

    def test_nobody(self) -> None:
        """If there is no session of the key, that is an error for who looks."""
        for looks in (False, True):
            sent = self.send("a", NOBODY)
            if looks:
                self.assertNoResult(sent)
            self.settle()
            error = self.failureResultOf(sent, ConnectionClosed)
            self.assertIn(str(NOBODY.publicKey), error.getErrorMessage())
        self.send("a", NOBODY)
        self.settle()

    def test_found(self) -> None:
        """The server has it, what it listens with, and the registry that makers get."""
        server = self.one.server
        self.assertIs(server.cluster, server.factory.cluster)
        self.assertIs(server.cluster, server.connections.cluster)
        self.assertRaises(RuntimeError, lambda: Connections().cluster)

    def test_wrong(self) -> None:
        """What is no message is refused at once."""
        self.assertRaises(TypeError, self.send, 7)
        self.assertRaises(ValueError, self.send, "\ud800")

    def test_full(self) -> None:
        """If some session has no room, that is told; what is there is not affected."""
        self.patch(batch, "MAX_INLET", 40)
        self.kill(self.two)
        having = self.send("x" * 30)
        self.settle()
        self.assertEqual(self.successResultOf(having), 2)
        refused, nobody = self.send("second"), self.send("third")
        nobody.addErrback(lambda failure: failure.trap(SendBufferFull))
        self.settle()
        error = self.failureResultOf(refused, SendBufferFull)
        self.assertIn("1 of the 2 sessions", error.getErrorMessage())
        self.assertEqual(self.taken(self.bobs[0]), ["x" * 30, "second", "third"])
        self.roam(self.bobs[1], self.one)
        self.assertEqual(self.taken(self.bobs[1]), ["x" * 30])

    def test_large(self) -> None:
        """An inlet that is empty takes any one message."""
        self.patch(batch, "MAX_INLET", 40)
        self.send("x" * 1000)
        self.settle()
        self.assertEqual(self.taken(self.bobs[1]), ["x" * 1000])

    def test_unwritten(self) -> None:
        """
        What is on its way to the engine is bounded, also while a handler sends that the
        engine has no time for.
        """
        self.patch(cluster, "MAX_SENDING", 20)
        self.failureResultOf(self.send("x" * 20), MessageTooBig)
        self.send("x" * 9)
        self.send("y" * 9)
        self.failureResultOf(self.send(""), SendBufferFull)
        self.settle()
        self.send("z" * 19)
        self.settle()
        self.assertEqual(self.taken(self.bobs[0]), ["x" * 9, "y" * 9, "z" * 19])

    def test_away(self) -> None:
        """
        While the engine is away nothing is accepted, but what a handler sends that is
        at work; that is sent when the engine is back.
        """
        alice = self.client(ALICE, self.one)
        alice.sendData("a")
        for link in self.network.links:
            link.deliver()
        (handled,) = self.sent
        self.one.node.lines.line.cut()
        self.failureResultOf(self.send("b"), SpoolError)
        self.assertNoResult(handled)
        self.settle(5)
        self.assertEqual(self.successResultOf(handled), 2)
        self.assertEqual(self.taken(self.bobs[1]), ["a"])

    def test_lost(self) -> None:
        """If the engine loses all, who waits is told that it may not be sent."""
        sent = self.send("a")
        self.network.advance(0)
        self.redis.command("FLUSHALL")
        self.one.node.lines.line.cut()
        self.settle(5)
        self.failureResultOf(sent, SpoolError)

    def test_stopped(self) -> None:
        """Nothing is sent before a server listens, or once it has stopped."""
        sent = cluster.Cluster(Connections()).sendTo("a", BOB.publicKey)
        self.failureResultOf(sent, ConnectionClosed)
        self.network.factory = self.one.listens
        stopping = self.one.server.stop()
        self.settle(20)
        self.successResultOf(stopping)
        self.failureResultOf(self.send("a"), ConnectionClosed)


class WhoTests(ClusterTestCase):
    """Who is there, at any node."""

    def setUp(self) -> None:
        """Have two nodes, Alice at the first, and Bob at both."""
        super().setUp()
        self.one, self.two = self.serving("one"), self.serving("two")
        self.alice = self.client(ALICE, self.one)
        self.bobs = [self.client(BOB, node) for node in (self.one, self.two)]

    def all(self) -> list[ClusterConnection]:
        """List all."""

        async def listed() -> list[ClusterConnection]:
            """Go through the pages."""
            return [each async for each in self.two.cluster.connections()]

        listing = Deferred.fromCoroutine(listed())
        self.settle()
        return self.successResultOf(listing)

    def byPeer(self, key: PrivateKey) -> list[ClusterConnection]:
        """List those of a key."""
        listing = self.one.cluster.byPeer(key.publicKey)
        self.settle()
        return self.successResultOf(listing)

    def test_byPeer(self) -> None:
        """Those of a key are told, with where they are."""
        found = self.byPeer(BOB)
        self.assertEqual([each.node for each in found], ["one", "two"])
        self.assertEqual({each.peer for each in found}, {BOB.publicKey})
        self.assertEqual([each.isAttached for each in found], [True, True])
        self.assertEqual(found[1].session, self.two.connection(BOB).session.name)
        now = int(self.redis.command("TIME")[0])
        self.assertLess(abs(found[0].since - now), 100)
        self.assertEqual(self.byPeer(NOBODY), [])

    def test_connections(self) -> None:
        """All are told, whether their clients, and nodes, are there or not."""
        self.clients[self.bobs[1]][0].node = None  # he finds no way back
        self.cut(self.bobs[1])
        self.settle()
        self.assertEqual(
            sorted(
                (each.peer == BOB.publicKey, each.node, each.isAttached)
                for each in self.all()
            ),
            [(False, "one", True), (True, "one", True), (True, "two", False)],
        )
        self.kill(self.one)
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.redis.command("ZADD", self.key("n"), 1, "one")
        swept = self.two.node.engine.call(SWEEP, 10**9, 60_000, 256, 0)
        self.settle()
        self.successResultOf(swept)
        self.assertEqual(
            sorted(
                (each.peer == BOB.publicKey, each.node, each.isAttached)
                for each in self.all()
            ),
            [(False, "one", False), (True, "one", False), (True, "two", False)],
        )

    def test_pages(self) -> None:
        """It does not take the engine long, however many there are."""
        store = self.one.node.store
        for number in range(700):
            store.begin(f"{number:032}", str(NOBODY.publicKey), {})
        self.settle()
        calls: list[Any] = []
        engine = self.two.node.engine
        call = engine.call

        def counted(*said: Any) -> Deferred[Any]:
            """Count a call."""
            calls.append(said)
            return call(*said)

        self.patch(engine, "call", counted)
        self.assertEqual(len(self.all()), 703)
        self.assertGreater(len(calls), 5)
        self.assertEqual(len(self.byPeer(NOBODY)), 700)

    def test_away(self) -> None:
        """It is an error if the engine is away, or there is none."""
        self.one.node.lines.line.cut()
        for each in (self.one.cluster, cluster.Cluster(Connections())):
            self.failureResultOf(each.byPeer(BOB.publicKey), SpoolError)


class HandlerTests(SynchronousTestCase):
    """Handlers for several nodes."""

    def test_replica(self) -> None:
        """One that has to know all clients has a replica, and that is one."""
        handler: Any = Caller()
        self.assertRaises(ValueError, checkHandler, handler)
        handler.replica = Roll()
        checkHandler(handler)
        handler.replica = handler
        self.assertRaises(TypeError, checkHandler, handler)
        checkHandler(None)
