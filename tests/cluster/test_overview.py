"""
Tests for L{aesm.cluster.overview}.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from aesm.cluster import overview
from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import Engine
from aesm.cluster.lease import RENEWAL
from aesm.cluster.overview import drain, overviewOf
from aesm.errors import SpoolError
from tests.support.engines import EngineTestCase, Lines, Node

TOLD: dict[str, Any] = {"version": "1", "host": "h", "pid": 7, "sync": "disk"}


class Onlooker:
    """Who looks on."""

    def __init__(self, clock: Clock, path: str) -> None:
        """ """
        self.lines = Lines(path)
        address = EngineAddress.parse("redis://127.0.0.1")
        self.engine = Engine(clock, address, "test", "", endpoint=self.lines)

    def settle(self) -> None:
        """Let everything go, and what follows from it."""
        while self.lines.deliver():
            pass

    def end(self) -> None:
        """End it."""
        self.engine.stop()
        self.settle()
        self.lines.line.close()


class OverviewTests(EngineTestCase):
    """Two nodes, and somebody who looks on."""

    def setUp(self) -> None:
        """Have them."""
        super().setUp()
        self.one, self.two = self.node("one"), self.node("two")
        self.onlooker, started = self.lookOn()
        self.successResultOf(started)

    def begin(self, node: Node, name: str, peer: str) -> None:
        """Let a session begin, and its client be there."""
        self.done(node, node.store.begin(name, peer, {}))
        node.store.attend(name, True)
        self.done(node, node.store.commit())

    def lookOn(self) -> tuple[Onlooker, Deferred[None]]:
        """Have somebody who looks on, and what becomes of that."""
        onlooker = Onlooker(self.clock, self.redis.path)
        self.addCleanup(onlooker.end)
        started = onlooker.engine.start()
        onlooker.settle()
        return onlooker, started

    def look(self) -> Any:
        """See how the cluster is."""
        looking = Deferred.fromCoroutine(overviewOf(self.onlooker.engine))
        self.onlooker.settle()
        return json.loads(json.dumps(self.successResultOf(looking)))

    def draining(self, name: str) -> Deferred[str]:
        """Ask a node to end."""
        asking = Deferred.fromCoroutine(drain(self.onlooker.engine, name))
        self.onlooker.settle()
        return asking

    def drain(self, name: str) -> str:
        """Ask a node to end; tell which it is."""
        return self.successResultOf(self.draining(name))

    def notDrained(self, name: str) -> str:
        """Ask a node to end that cannot be; tell why."""
        return str(self.failureResultOf(self.draining(name), LookupError).value)

    def renew(self) -> None:
        """Let the nodes renew their leases."""
        self.clock.advance(RENEWAL)
        for node in (self.one, self.two):
            node.settle()

    def test_nodes(self) -> None:
        """Of each node is told what the engine knows, and what it says of itself."""
        self.begin(self.one, "S", "K")
        self.one.store.lease.says = lambda: {**TOLD, "connections": 1, "waiting": 0}
        self.renew()
        one, two = self.look()["nodes"]
        self.assertTrue(0 < one.pop("lease") <= 10.0)
        self.assertEqual(
            one,
            {
                **TOLD,
                "node": "one",
                "draining": False,
                "sessions": 1,
                "connections": 1,
                "waiting": 0,
                "logLag": None,
            },
        )
        self.assertEqual((two["node"], two["sessions"], two["host"]), ("two", 0, None))

    def test_nonsense(self) -> None:
        """What a node says of itself may be anything."""
        for said in ("", "{", "[]", '{"logPosition": "x", "host": ["y"]}'):
            self.redis.command("HSET", self.key("n:one"), "says", said)
            (one, _) = self.look()["nodes"]
            self.assertIs(one["logLag"], None)

    def test_most(self) -> None:
        """So many nodes are told of; of more than that none is added."""
        self.patch(overview, "MOST", 1)
        self.assertEqual(len(self.look()["nodes"]), 1)
        self.patch(overview, "MOST", 2)
        self.assertEqual(len(self.look()["nodes"]), 2)

    def test_lag(self) -> None:
        """Who has read less of the log than there is lags."""
        for data in (b"a", b"b", b"c"):
            self.one.store.log("", data, lambda *told: None)
        self.done(self.one, self.one.store.commit())
        self.two.store.lease.says = lambda: {"logPosition": 1}
        self.renew()
        found = self.look()
        self.assertEqual((found["log"]["position"], found["log"]["entries"]), (3, 3))
        self.assertEqual([node["logLag"] for node in found["nodes"]], [None, 2])

    def test_sessions(self) -> None:
        """Sessions wait, and have something unread, or in their inlets."""
        self.begin(self.one, "S", "K")
        self.done(self.one, self.one.store.begin("T", "L", {}))
        self.one.store.append("S", False, 0, 1, b"frame")
        self.two.store.send("", "K", b"0123456789", lambda *told: None)
        for node in (self.one, self.two):
            self.done(node, node.store.commit())
        found = self.look()
        self.assertEqual((found["waiting"], found["unread"]), (1, 1))
        self.assertGreater(found["inletBytes"], 10)
        (entry,) = self.done(self.one, self.one.store.readInlet("S"))
        self.one.store.took("S", entry)
        self.done(self.one, self.one.store.commit())
        self.assertEqual(self.look()["inletBytes"], 0)

    def test_inletsOfTheDropped(self) -> None:
        """What is in the inlet of a session that goes is counted no more."""
        self.begin(self.one, "S", "K")
        self.begin(self.one, "T", "K")
        self.one.store.append("T", False, 0, 1, b"frame")
        self.two.store.send("", "K", b"0123456789", lambda *told: None)
        for node in (self.one, self.two):
            self.done(node, node.store.commit())
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        for name in "STT":  # the node of T is asked to end it, and does not
            self.redis.command("ZADD", self.key("w"), 1, name)
            self.renew()
        self.assertEqual(self.redis.command("EXISTS", self.key("s:S")), 0)
        self.assertEqual(self.redis.command("HEXISTS", self.key("s:T"), "over"), 1)
        self.assertEqual(self.look()["inletBytes"], 0)

    def test_engine(self) -> None:
        """It is told what the engine is, and that its data are still the same."""
        found = self.look()
        self.assertEqual(found["engine"]["role"], "master")
        self.assertEqual(found["epoch"], self.one.engine.epoch)
        self.assertGreater(found["time"], 1e9)

    def test_noTrace(self) -> None:
        """Who looks on is no node, and leaves nothing behind."""
        before = self.redis.snapshot()
        self.look()
        self.assertEqual(self.redis.snapshot().keys(), before.keys())
        self.assertEqual(
            self.redis.command("ZRANGE", self.key("n"), 0, -1).sort(), None
        )

    def test_noCluster(self) -> None:
        """There has to be one, which is not made by looking; of our version."""
        for setting, words in (
            (("HSET", self.key("meta"), "format", 99), "another version"),
            (("FLUSHALL",), "no cluster of this name"),
        ):
            self.redis.command(*setting)
            _, started = self.lookOn()
            error = self.failureResultOf(started, SpoolError)
            self.assertIn(words, error.getErrorMessage())
        self.assertEqual(self.redis.command("KEYS", "*"), [])

    def test_drain(self) -> None:
        """A node is asked to end, once, and hears of it at once."""
        drained: list[str] = []
        self.one.store.lease.drained = lambda: drained.append("one")
        self.two.store.lease.drained = lambda: drained.append("two")
        self.assertEqual(self.drain("one"), "one")
        self.one.lines.bells[-1].hear()
        self.one.settle()
        self.assertEqual(drained, ["one"])
        self.renew()
        self.assertEqual(drained, ["one"])
        self.assertEqual([n["draining"] for n in self.look()["nodes"]], [True, False])

    def test_drainUnheard(self) -> None:
        """If that goes unheard, it hears of it with its next lease."""
        drained: list[str] = []
        self.one.store.lease.drained = lambda: drained.append("one")
        self.drain("one")
        self.renew()
        self.assertEqual(drained, ["one"])

    def test_drainByName(self) -> None:
        """Who it is can be said without what its process has added, if it is clear."""
        for name in ("x-y-1", "x-z-2", "x-z-3"):
            self.node(name)
        self.assertEqual(self.drain("x-y"), "x-y-1")
        self.assertEqual(self.drain("x-z-3"), "x-z-3")
        self.assertIn("give one of these nodes: x-z-2, x-z-3", self.notDrained("x-z"))
        self.assertIn("no node 'x'", self.notDrained("x"))
        self.redis.command("ZADD", self.key("n"), 1, "x-z-2")
        self.assertEqual(self.drain("x-z"), "x-z-3")

    def test_nobodyToDrain(self) -> None:
        """A node that is not there, or not any more, is said not to be."""
        self.assertIn("no node 'three'", self.notDrained("three"))
        self.redis.command("ZADD", self.key("n"), 1, "two")
        self.assertIn("no node 'two'", self.notDrained("two"))
        self.assertEqual(self.redis.command("HEXISTS", self.key("n:two"), "drain"), 0)
