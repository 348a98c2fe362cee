"""
Tests for L{aesm.server.cluster}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from aesm import Connection, Packet, PrivateKey
from aesm.cluster import batch
from aesm.errors import ConnectionClosed, MessageTooBig, SendBufferFull, SpoolError
from aesm.server import cluster
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
        """Nothing is sent before a server listens, or once it stops."""
        sent = cluster.Cluster().sendTo("a", BOB.publicKey)
        self.failureResultOf(sent, ConnectionClosed)
        self.network.factory = self.one.listens
        stopping = self.one.server.stop()
        self.failureResultOf(self.send("a"), ConnectionClosed)
        self.settle(20)
        self.successResultOf(stopping)
        self.failureResultOf(self.send("a"), ConnectionClosed)
