"""
Tests for L{aesm.cluster.rows}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from aesm.cluster import rows
from aesm.cluster.rows import Row, nodesOf, rowsOf
from aesm.cluster.scripts import SWEEP
from tests.support.engines import EngineTestCase, Node


class RowTests(EngineTestCase):
    """Two nodes; sessions S and T of one key are the first one's, U is the other's."""

    def setUp(self) -> None:
        """Have them."""
        super().setUp()
        self.one, self.two = self.node(), self.node("two")
        for node, name, peer in ((self.one, "S", "K"), (self.one, "T", "K")):
            self.done(node, node.store.begin(name, peer, {}))
        self.done(self.two, self.two.store.begin("U", "L", {}))
        self.one.store.attend("S", True)
        self.done(self.one, self.one.store.commit())

    def rows(self, where: str, node: Node | None = None) -> list[Row]:
        """List sessions, in the order of their names."""
        node = node or self.two

        async def listed() -> list[Row]:
            """Go through all pages."""
            assert node is not None
            return [row async for row in rowsOf(node.engine, where)]

        found: list[Row] = self.done(node, Deferred.fromCoroutine(listed()))
        return sorted(found)

    def test_nodes(self) -> None:
        """All nodes are listed."""
        found = self.done(self.one, Deferred.fromCoroutine(nodesOf(self.one.engine)))
        self.assertEqual(found, ["one", "two"])

    def test_rows(self) -> None:
        """Sessions are listed with their node, and whether they wait for a client."""
        ofKey = self.rows("k:K")
        self.assertEqual(
            [row[:3] for row in ofKey], [("S", "K", "one"), ("T", "K", "one")]
        )
        self.assertEqual([row.isAway for row in ofKey], [False, True])
        now = int(self.redis.command("TIME")[0]) * 1000
        self.assertLess(abs(ofKey[0].since - now), 100_000)
        self.assertEqual(self.rows("h:one"), ofKey)
        self.assertEqual([row.name for row in self.rows("h:two")], ["U"])
        self.assertEqual(self.rows("k:M"), [])

    def test_nobodys(self) -> None:
        """Those that wait, and no node has, are listed apart; each once in all."""
        self.assertEqual(self.rows("w"), [])
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.redis.command("ZADD", self.key("n"), 1, "one")
        self.done(self.two, self.two.engine.call(SWEEP, 10**9, 60_000, 256, 0))
        self.assertEqual([row.name for row in self.rows("w")], ["S", "T"])
        self.assertEqual(self.rows("h:one"), [])

    def test_pages(self) -> None:
        """Each page is so short that the engine has time for others."""
        self.patch(rows, "SIZE", 10)
        for number in range(200):
            self.one.store.begin(f"{number:032}", "M", {})
        self.one.settle()
        calls: list[object] = []
        call = self.two.engine.call

        def counted(*said: Any) -> Deferred[Any]:
            """Count a call."""
            calls.append(said)
            return call(*said)

        self.patch(self.two.engine, "call", counted)
        for where, count in (("k:M", 200), ("h:one", 202)):
            calls.clear()
            self.assertEqual(len(set(self.rows(where))), count)
            self.assertGreater(len(calls), 9)
