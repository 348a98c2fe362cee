"""Tests for L{aesm.store.replicated} with servers that have a real engine."""

from __future__ import annotations

from typing import Any, cast

from twisted.logger import capturedLogs

from aesm import ClientService, PrivateKey
from aesm.cluster.sealing import KEY, Sealer
from aesm.errors import SpoolError
from aesm.store import entries
from aesm.store.entries import ENTRY_MEMORY
from aesm.store.interface import Snapshot
from tests.store.test_replicated import Caller, Roll
from tests.support.clusters import ClusterTestCase, ServingNode
from tests.support.engines import EngineTestCase

KEYS = [PrivateKey(bytes([number]) * 32) for number in range(0x70, 0x74)]


class ReplicaTests(ClusterTestCase):
    """Two nodes whose handlers have replicas, and two clients at each."""

    def setUp(self) -> None:
        """Start them, with a small log."""
        super().setUp()
        self.patch(entries, "LOG_SIZE", 20 * (ENTRY_MEMORY + 50))
        self.all: list[ClientService] = []
        for name in ("one", "two"):
            self.serve(name)
        for number, key in enumerate(KEYS):
            self.all.append(self.client(key, self.nodes[number % 2]))
        self.settle()

    def serve(self, name: str) -> ServingNode:
        """Start a node."""
        return self.serving(name, handler=Caller())

    def roll(self, node: ServingNode) -> Roll:
        """Find the replica of a node."""
        handler = cast(Any, node.server.factory.manager.handler)
        roll: Roll = handler.replica
        return roll

    def same(self, count: int) -> None:
        """Check that all nodes have the same state, in which so many are there."""
        states = {self.roll(node).snapshot() for node in self.nodes}
        self.assertEqual(len(states), 1)
        self.assertEqual(len(self.roll(self.nodes[0]).there), count)

    def say(self, times: int) -> None:
        """Say something again and again."""
        for number in range(times):
            self.all[number % 2].sendData(f"{number:030}")
            self.settle()

    def logged(self, part: bytes) -> list[bytes]:
        """List the entries of the log in which there is something."""
        log = cast("list[bytes]", self.redis.command("ZRANGE", self.key("log"), 0, -1))
        return [each for each in log if part in each]

    def test_killed(self) -> None:
        """
        The clients of a node that is killed are told the rest elsewhere; of who does
        not come back it is told once, by one of those that find that; and a node that
        comes then has the same state.
        """
        third = self.serve("three")
        self.say(3)
        name = self.nodes[1].connection(KEYS[3]).session.name
        self.kill(self.nodes[1])
        self.clients[self.all[1]][0].node = third
        self.clients[self.all[3]][0].node = None
        self.settle(3)
        self.say(3)
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.redis.command("ZADD", self.key("w"), 1, name)
        self.settle(5)
        self.assertEqual(len(self.logged(b"gone")), 1)
        self.same(3)
        got = [
            [each for each in self.taken(client) if "say" in each and "you" not in each]
            for client in self.all
        ]
        self.assertEqual([len(each) for each in got], [6, 6, 6, 3])
        self.assertEqual(got[:3], [got[0]] * 3)
        self.serve("four")
        self.same(3)

    def test_left(self) -> None:
        """Of a client that leaves it is told at once, and once."""
        self.all[0].sendData("bye")
        self.all[0].stopService()
        self.settle()
        self.assertEqual(len(self.logged(b"gone")), 1)
        told = self.taken(self.all[1])[-2:]
        self.assertEqual(told, ["5 say bye 4", "6 gone 3"])
        self.settle(5)
        self.assertEqual(len(self.logged(b"gone")), 1)
        self.assertEqual(self.redis.command("EXISTS", self.key("gone")), 0)

    def test_snapshots(self) -> None:
        """A node that comes later begins with one, if the log lacks its beginning."""
        self.say(30)
        shots = self.redis.command("ZRANGE", self.key("shots"), 0, -1, "WITHSCORES")
        first = int(shots[1]) + 1
        self.redis.command("ZREMRANGEBYSCORE", self.key("log"), "-inf", f"({first}")
        self.serve("three")
        self.same(4)

    def test_fenced(self) -> None:
        """What a session tells that is another node's by then is not written."""
        one, two = self.nodes
        connection = one.connection(KEYS[0])
        self.clients[self.all[0]][0].node = two
        self.cut(self.all[0])
        one.node.lines.bells[-1].cut()
        for _ in range(6):
            self.network.advance(1)
            two.node.settle()
        self.assertEqual(two.connection(KEYS[0]).session.name, connection.session.name)
        log = one.server.connections.log
        assert log is not None
        telling = log.tell(b"say x once", connection)
        self.settle(5)
        self.successResultOf(telling)
        self.assertEqual(self.logged(b"once"), [])
        self.same(4)

    def test_failover(self) -> None:
        """
        States go back with an engine that does; what a living node knows of who is
        there is told again, and nothing else is.
        """
        self.say(12)
        before = self.redis.snapshot()
        late = self.client(PrivateKey(b"\x75" * 32), self.nodes[1])
        self.say(2)
        with capturedLogs():
            self.redis.goBack(before)
            for node in self.nodes:
                node.node.cut()
            self.settle(5)
        self.same(5)
        self.say(1)
        said = [each for each in self.taken(self.all[1]) if " say " in each]
        self.assertEqual(len(said), 15)
        self.assertIn("say", self.taken(late)[-1])

    def test_flushed(self) -> None:
        """An engine that has lost all begins anew, with who comes then."""
        self.say(12)
        with capturedLogs():
            self.redis.command("FLUSHALL")
            self.settle(30)
        self.same(4)
        self.assertLess(self.roll(self.nodes[0]).number, 16)


class SealedTests(EngineTestCase):
    """Snapshots of a cluster with a key."""

    def test_sealed(self) -> None:
        """They are not to be read there; one that makes no sense is left alone."""
        one = self.node("one", sealer=Sealer(bytes(KEY), "test"))
        other = Sealer(b"1" * KEY, "test")
        other.mark = Sealer(bytes(KEY), "test").mark
        two = self.node("two", sealer=other)
        one.store.log("", b"x", lambda *numbers: None)
        self.done(one, one.store.commit())
        name = b"one:1"
        shot = Snapshot(1, name, b"who is there")
        self.assertEqual(self.done(one, one.store.writeSnapshot(0, shot)), 1)
        (kept,) = self.redis.command("ZRANGE", self.key("shots"), 0, -1)
        self.assertTrue(kept.startswith(name + b" "))
        self.assertNotIn(b"who", kept)
        self.assertEqual(self.done(one, one.store.readSnapshots()), [shot])
        with capturedLogs() as events:
            self.assertEqual(self.done(two, two.store.readSnapshots()), [])
        self.assertTrue([e for e in events if "left alone" in e["log_format"]])

    def test_ended(self) -> None:
        """That a session is over is sealed as all in the log is."""
        one = self.node("one", sealer=Sealer(bytes(KEY), "test"))
        self.done(one, one.store.begin("S", "K", {}))
        one.store.sayEnds(lambda name: f"{name} is over".encode())
        self.done(one, one.store.readSnapshots())
        one.store.drop("S")
        one.store.drop("unknown")
        self.done(one, one.store.commit())
        page = self.done(one, one.store.readLog(0))
        self.assertEqual([each.data for each in page.entries], [b"S is over"])
        (kept,) = self.redis.command("ZRANGE", self.key("log"), 0, -1)
        self.assertNotIn(b"over", kept)

    def test_away(self) -> None:
        """What cannot be read or written now fails."""
        one = self.node("one")
        one.cut()
        shot = Snapshot(1, b"n", b"x")
        for asked in (one.store.readSnapshots(), one.store.writeSnapshot(0, shot)):
            self.failureResultOf(asked, SpoolError)
