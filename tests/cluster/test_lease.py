"""
Tests for L{aesm.cluster.lease}; what the scripts do is in
L{tests.cluster.test_scripts}.
"""

from __future__ import annotations

from aesm.cluster.engine import MAX_RETRY
from aesm.cluster.lease import RENEWAL, SWEPT, TIME
from tests.support.engines import EngineTestCase


class LeaseTests(EngineTestCase):
    """L{Lease<aesm.cluster.lease.Lease>}, of a store."""

    def setUp(self) -> None:
        """Have a node."""
        super().setUp()
        self.one = self.node()

    def begin(self, name: str) -> None:
        """Let a session begin."""
        self.done(self.one, self.one.store.begin(name, "K", {}))

    def renew(self) -> None:
        """Let the time for it come."""
        self.clock.advance(RENEWAL)
        self.one.settle()

    def test_renewed(self) -> None:
        """It says so again and again; who was given up learns it."""
        for _ in range(5):
            self.renew()
        self.assertEqual(self.one.lapses, 0)
        self.redis.command("ZADD", self.key("n"), 1, "one")
        self.renew()
        self.assertEqual(self.one.lapses, 1)
        self.renew()
        self.assertEqual(self.one.lapses, 1)
        self.assertGreater(int(self.redis.command("ZSCORE", self.key("n"), "one")), 1)

    def test_sweeps(self) -> None:
        """It cleans up, however much there is."""
        for index in range(SWEPT + 1):
            self.begin(f"S{index}")
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        names = self.redis.command("ZRANGE", self.key("w"), 0, -1)
        for name in names:
            self.redis.command("ZADD", self.key("w"), 1, name)
        self.assertEqual(len(names), SWEPT + 1)
        self.renew()
        self.assertEqual(self.redis.command("EXISTS", self.key("w")), 0)

    def test_away(self) -> None:
        """An engine that is away is told once it is back."""
        self.one.lines.line.cut()
        self.clock.advance(RENEWAL)
        self.one.settle()
        self.clock.advance(MAX_RETRY)
        self.one.settle()
        self.redis.command("ZADD", self.key("n"), 1, "one")
        self.renew()
        self.assertEqual(self.one.lapses, 1)
        self.assertIs(self.one.store.failure, None)

    def test_cutOff(self) -> None:
        """Who does not reach the engine for so long knows it, once, by itself."""
        self.one.lines.path = None
        self.one.lines.line.cut()
        lapses = []
        for _ in range(7):
            self.renew()
            lapses.append(self.one.lapses)
        self.assertEqual(lapses, [0, 0, 0, 1, 1, 1, 1])
        self.assertLess(3 * RENEWAL, TIME)
        self.one.lines.path = self.redis.path
        for _ in range(3):
            self.renew()
        self.assertIs(self.one.store.failure, None)
        self.assertEqual(self.one.lapses, 1)

    def test_left(self) -> None:
        """A node that is closed is given up at once."""
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.done(self.one, self.one.store.close())
        two = self.node("two")
        self.redis.command("ZADD", self.key("n"), "XX", "LT", 1, "one")
        self.clock.advance(RENEWAL)
        two.settle()
        found = self.redis.command("ZRANGE", self.key("n"), 0, -1)
        self.assertEqual(found, [b"two"])
