"""
Tests for L{aesm.server.reading}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import capturedLogs

from aesm import Answer, ClientService, PrivateKey
from aesm.cluster.scripts import SWEEP
from aesm.errors import ConnectionClosed, RequestFailed
from tests.support.clusters import ClusterTestCase, ServingNode
from tests.support.pairs import Recorder

ALICE, BOB = (PrivateKey(bytes([number]) * 32) for number in (0x61, 0x62))


class ReadingTests(ClusterTestCase):
    """Packets are taken at any node, where there is no handler."""

    def setUp(self) -> None:
        """Have two nodes, Alice at the first, and Bob at the second."""
        super().setUp()
        self.one, self.two = self.serving("one"), self.serving("two")
        self.alice = self.client(ALICE, self.one)
        self.bob = self.client(BOB, self.two)

    def say(self, client: ClientService, *messages: Any) -> None:
        """Have a client send something, together."""
        for message in messages:
            client.sendData(message)
        self.settle()

    def get(self, node: ServingNode) -> Any:
        """Take a packet."""
        taken = node.cluster.getDataOrdinal()
        self.settle()
        peer, packet = self.successResultOf(taken)
        return {ALICE.publicKey: "alice", BOB.publicKey: "bob"}[peer], packet.data

    def left(self) -> list[Any]:
        """What of messages is in the engine."""
        return list(self.redis.command("KEYS", self.key("i:*")))

    def assertNothing(self) -> None:
        """Check that nothing is left, anywhere."""
        waiting = [node.cluster.getDataOrdinal() for node in self.nodes]
        self.settle(3)
        for each in waiting:
            self.assertNoResult(each)
            each.cancel()
            self.failureResultOf(each, CancelledError)
        for node in self.nodes:
            self.assertEqual(node.server.connections.arrivals.held, 0)
            for connection in node.server.connections.values():
                self.assertEqual(len(connection.retrieved), 0)
        self.assertEqual(self.left(), [])
        self.settle(3)

    def test_once(self) -> None:
        """Each is taken once, in the order of each session, at whichever node."""
        self.say(self.alice, "a1", b"a2", "\xe9")
        self.say(self.bob, "b1")
        self.say(self.alice, "a4")
        found = [self.get(self.two)]
        # Whose came first is a matter of milliseconds.
        left = 2 if found == [("alice", "a1")] else 1
        self.assertEqual(len(self.left()), left)
        found += [self.get(self.two) for _ in range(4)]
        self.assertEqual(
            sorted(found, key=lambda each: each[0]),
            [
                ("alice", "a1"),
                ("alice", b"a2"),
                ("alice", "\xe9"),
                ("alice", "a4"),
                ("bob", "b1"),
            ],
        )
        self.assertNothing()

    def test_waits(self) -> None:
        """Who waits is given what comes to his node at once, to others soon."""
        for client in (self.alice, self.bob):
            taken = self.one.cluster.getDataOrdinal()
            self.settle()
            self.say(client, "x")
            self.settle(0 if client is self.alice else 2)
            self.assertEqual(self.successResultOf(taken)[1].data, "x")
        self.assertNothing()

    def test_window(self) -> None:
        """What is taken elsewhere makes room for its sender."""
        inbox = self.one.connection(ALICE).session.inbox
        self.say(self.alice, "x" * 1000)
        before = inbox.takenCost
        self.get(self.two)
        self.assertEqual(inbox.takenCost, before + 1064)

    def test_missed(self) -> None:
        """So does what was taken while the node did not hear of it."""
        self.say(self.alice, "1", "2")
        self.say(self.alice, "3")
        for bell in self.one.node.lines.bells:
            bell.cut()
        for expected in "123":
            self.assertEqual(self.get(self.two), ("alice", expected))
        self.assertEqual(len(self.one.connection(ALICE).retrieved), 3)
        self.settle(5)
        self.assertNothing()

    def test_requests(self) -> None:
        """
        Requests are not in the queue, and refused: at a node that takes from it, and at
        others, when what came behind them is taken; nobody has to wait behind them.
        """
        asked = self.alice.request("who?")
        self.say(self.alice, "1")
        self.assertNoResult(asked)
        self.assertEqual(self.get(self.two), ("alice", "1"))
        self.settle()
        error = self.failureResultOf(asked, RequestFailed).value
        self.assertEqual(error.code, 1003)
        self.assertEqual(len(self.one.connection(ALICE).retrieved), 0)
        again = self.bob.request("who?")
        self.settle()
        self.failureResultOf(again, RequestFailed)
        self.assertNothing()

    def test_killed(self) -> None:
        """
        What a node was lent that dies is taken at another one, but what was taken
        there, also of messages that came together.
        """
        self.say(self.alice, "1", "2", "3")
        self.assertEqual(self.get(self.one), ("alice", "1"))
        self.kill(self.one)
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.redis.command("ZADD", self.key("n"), 1, "one")
        swept = self.two.node.engine.call(SWEEP, 10**9, 60_000, 256, 0)
        self.settle()
        self.successResultOf(swept)
        self.assertEqual(self.get(self.two), ("alice", "2"))
        self.roam(self.alice, self.two)
        self.say(self.alice, "4")
        self.assertEqual(self.get(self.two), ("alice", "3"))
        self.assertEqual(self.get(self.two), ("alice", "4"))
        self.assertNothing()

    def test_lapsed(self) -> None:
        """A node that was given up does not give what others are lent."""
        self.say(self.alice, "1", "2", "3")
        self.assertEqual(self.get(self.one), ("alice", "1"))
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.redis.command("ZADD", self.key("n"), 1, "one")
        swept = self.two.node.engine.call(SWEEP, 10**9, 60_000, 256, 0)
        self.settle()
        self.successResultOf(swept)
        self.assertEqual(self.get(self.two), ("alice", "2"))
        self.one.cluster.lapsed()
        taken = self.one.cluster.getDataOrdinal()
        self.settle(1)
        self.assertNoResult(taken)
        taken.cancel()
        self.failureResultOf(taken, CancelledError)
        self.assertEqual(self.get(self.two), ("alice", "3"))

    def test_over(self) -> None:
        """What came over a session that is over can be taken; nobody sends to it."""
        self.say(self.alice, "1", "2")
        stopped = self.alice.stopService()
        self.settle(5)
        self.successResultOf(stopped)
        sent = self.two.cluster.sendTo("x", ALICE.publicKey)
        self.settle()
        self.failureResultOf(sent, ConnectionClosed)
        self.assertEqual(self.get(self.two), ("alice", "1"))
        self.assertEqual(self.get(self.two), ("alice", "2"))
        self.assertEqual(list(self.one.server.connections), [])
        self.assertNothing()
        self.assertEqual(len(self.redis.command("KEYS", self.key("s:*"))), 1)

    def test_away(self) -> None:
        """Who waits while the engine is away is given what comes when it is back."""
        self.one.node.lines.line.cut()
        taken = self.one.cluster.getDataOrdinal()
        self.settle(5)
        self.say(self.alice, "x")
        self.settle(5)
        self.assertEqual(self.successResultOf(taken)[1].data, "x")

    def test_stopped(self) -> None:
        """Who waits is told when the server stops; then nobody can."""
        taken = self.one.cluster.getDataOrdinal()
        self.settle()
        self.network.factory = self.one.listens
        stopping = self.one.server.stop()
        self.settle(5)
        self.successResultOf(stopping)
        self.assertEqual(self.failureResultOf(taken, ConnectionClosed).value.code, 1000)
        self.assertRaises(RuntimeError, self.one.cluster.getDataOrdinal)

    def test_handler(self) -> None:
        """Where there is a handler, it has all packets."""
        three = self.serving("three", Recorder())
        self.assertRaises(RuntimeError, three.cluster.getDataOrdinal)

    def test_damaged(self) -> None:
        """What makes no sense is left alone, which is logged."""
        self.one.node.store.append(
            self.one.connection(ALICE).session.name, False, 9, 1, b"nonsense"
        )
        with capturedLogs() as events:
            self.say(self.alice, "x")
            self.assertEqual(self.get(self.two), ("alice", "x"))
            waiting = self.two.cluster.getDataOrdinal()
            self.settle()
        (event,) = [each for each in events if "left alone" in each["log_format"]]
        self.assertEqual(event["peer"], str(ALICE.publicKey))
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(self.left()), 1)

    def test_answer(self) -> None:
        """An answer to what a node has asked that has died comes as one."""
        connection = self.one.connection(ALICE)
        asked = connection.request("time?")
        asked.addErrback(lambda failure: None)
        self.settle()
        request: Any = self.alice.retrieved.getData()
        self.kill(self.one)
        request.answer("noon")
        self.roam(self.alice, self.two)
        taken = self.two.cluster.getDataOrdinal()
        self.settle()
        peer, packet = self.successResultOf(taken)
        assert isinstance(packet, Answer)
        self.assertEqual((peer, packet.data), (ALICE.publicKey, "noon"))
