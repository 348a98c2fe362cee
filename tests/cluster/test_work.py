"""
Tests for what is left to be read, by any node, where there is no handler.
"""

from __future__ import annotations

from aesm.cluster import store
from aesm.cluster.engine import MAX_RETRY
from aesm.cluster.scripts import SWEEP
from aesm.store.interface import Blob, Work
from tests.support.engines import EngineTestCase, Node


class WorkTests(EngineTestCase):
    """Two nodes; sessions S and T are the first one's; nobody has read what came."""

    def setUp(self) -> None:
        """Let messages come."""
        super().setUp()
        self.one, self.two = self.node(), self.node("two")
        self.read: list[tuple[str, int, int]] = []
        self.one.store.wasRead = lambda *what: self.read.append(what)
        for name in "ST":
            self.done(self.one, self.one.store.begin(name, f"K{name}", {}))
            self.one.store.append(name, False, 0, 2, b"ab")
            self.one.store.append(name, False, 2, 1, b"c")
            self.commit(self.one)
        self.all = [
            Work(name, f"K{name}", blob, 0)
            for name in "ST"
            for blob in (Blob(0, 2, b"ab"), Blob(2, 1, b"c"))
        ]

    def commit(self, node: Node) -> None:
        """Write what has gathered."""
        self.done(node, node.store.commit())

    def work(self, node: Node) -> list[Work]:
        """Have something to read."""
        found = self.done(node, node.store.work())
        assert isinstance(found, list)
        return found

    def give(self) -> None:
        """Let both sessions have waited too long, and their node not end them."""
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        for name in "STST":
            self.redis.command("ZADD", self.key("w"), 1, name)
            self.done(self.two, self.two.engine.call(SWEEP, 10**9, 60_000, 256, 0))

    def die(self) -> None:
        """Let the first node be given up."""
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.redis.command("ZADD", self.key("n"), 1, "one")
        self.done(self.two, self.two.engine.call(SWEEP, 10**9, 60_000, 256, 0))

    def test_once(self) -> None:
        """Each has it that asks first, in the order in which it came, and no other."""
        self.patch(store, "PAGE_SIZE", 1)
        found = [
            self.work(node)[0] for node in (self.one, self.two, self.one, self.two)
        ]
        self.assertEqual(found, self.all)
        self.assertEqual(self.work(self.one), [])
        self.one.store.append("S", False, 3, 1, b"d")
        self.commit(self.one)
        self.assertEqual(self.work(self.two), [Work("S", "KS", Blob(3, 1, b"d"), 0)])

    def test_read(self) -> None:
        """What was read is gone, and the node of its session is told."""
        bells = self.one.lines.bells[-1]
        for work in self.work(self.two)[:3]:
            self.two.store.read("", work, 2)
        self.commit(self.two)
        while len(self.read) < 3:
            bells.hear()
        self.assertEqual(self.read, [("S", 0, 1), ("S", 2, 2), ("T", 0, 1)])
        self.assertEqual(self.redis.command("EXISTS", self.key("i:S")), 0)
        stored = self.done(self.two, self.two.store.claim("T", "KT"))
        self.assertEqual(stored.incoming, [Blob(2, 1, b"c")])
        self.assertEqual(len(self.one.store._writer.ours["T"]._parts[0]), 1)

    def test_moved(self) -> None:
        """What a session caused that is another node's is not read yet."""
        work = self.work(self.one)
        self.done(self.two, self.two.store.claim("S", "KS"))
        self.one.store.read("S", work[0], 2)
        self.one.store.read("", work[2], 2)
        self.commit(self.one)
        self.assertEqual(self.redis.command("ZCARD", self.key("i:S")), 2)
        self.assertEqual(self.redis.command("ZCARD", self.key("i:T")), 1)

    def test_dead(self) -> None:
        """What a node had that is gone comes again, and what it has read does not."""
        work = self.work(self.one)
        self.one.store.read("", work[1], 2)
        self.commit(self.one)
        self.assertEqual(self.work(self.two), [])
        self.die()
        found = self.work(self.two)
        self.assertCountEqual(found, [self.all[0], *self.all[2:]])
        # It lives, and has it too late.
        self.one.store.read("", work[0], 2)
        self.commit(self.one)
        self.assertEqual(self.redis.command("ZCARD", self.key("i:S")), 1)

    def test_part(self) -> None:
        """Of messages that came together some can be read, and the rest elsewhere."""
        work = self.work(self.one)
        self.one.store.read("", work[0], 1)
        self.commit(self.one)
        self.assertEqual(self.redis.command("ZCARD", self.key("i:S")), 2)
        self.die()
        found = self.work(self.two)
        self.assertIn(work[0]._replace(read=1), found)
        self.two.store.read("", work[0], 2)
        self.commit(self.two)
        self.assertEqual(self.redis.command("ZCARD", self.key("i:S")), 1)

    def test_missed(self) -> None:
        """What was read while a node did not hear of it is told when it does."""
        self.one.lines.bells[-1].cut()
        for work in self.work(self.two)[:2]:
            self.two.store.read("", work, 2)
        self.commit(self.two)
        self.one.store.append("S", False, 3, 1, b"d")
        self.clock.advance(MAX_RETRY)
        self.one.settle()
        self.assertEqual(self.read, [("S", 0, 1), ("S", 2, 2)])
        self.assertEqual(len(self.one.store._writer.ours["S"]._parts[0]), 1)
        self.assertEqual(len(self.one.store._writer.ours["T"]._parts[0]), 2)

    def test_ended(self) -> None:
        """What came over a session that has ended is there; nothing is sent to it."""
        sent: list[object] = []
        self.two.store.send("", "KS", b"x", lambda *counts: sent.append(counts))
        self.commit(self.two)
        self.one.store.put("S", "KS", {"over": True})
        self.commit(self.one)
        self.two.store.send("", "KS", b"x", lambda *counts: sent.append(counts))
        self.commit(self.two)
        self.assertEqual(sent, [(1, 0), (0, 0)])
        self.assertEqual(self.redis.command("EXISTS", self.key("q:S")), 0)
        self.assertEqual(self.work(self.two), self.all)

    def test_over(self) -> None:
        """What came over a session that was given up is there until it is read."""
        self.two.store.send("", "KS", b"x", lambda *results: None)
        self.commit(self.two)
        self.give()
        claimed = self.done(self.two, self.two.store.claim("S", "KS"))
        self.assertIs(claimed, None)
        for name in ("w", "k:KS", "h:one", "o:S", "q:S", "t:S"):
            self.assertEqual(self.redis.command("EXISTS", self.key(name)), 0)
        self.one.store.put("S", "KS", {"a": 1})  # it is not its session any more
        self.commit(self.one)
        self.assertEqual(self.one.lost, [({"S": False}, {})])
        found = self.work(self.two)
        self.assertEqual(found, self.all)
        for work in found:
            self.two.store.read("", work, 2)
        self.commit(self.two)
        self.assertEqual(self.redis.command("KEYS", self.key("?:[ST]")), [])

    def test_dropped(self) -> None:
        """What is dropped is not read."""
        self.one.store.drop("S")
        self.commit(self.one)
        self.assertEqual(self.work(self.two), self.all[2:])
