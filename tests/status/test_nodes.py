"""
What operators are told of a node of a cluster, at it and at others, and how it ends.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from aesm import PrivateKey
from aesm.cluster.lease import RENEWAL
from aesm.cluster.overview import drain, overviewOf
from aesm.plugins import HandlerMaker
from aesm.status.metrics import exposition
from aesm.status.overview import Overview
from tests.support.clusters import ClusterTestCase, ServingNode

ALICE = PrivateKey(b"\x41" * 32)
ECHO = HandlerMaker("echo", "", "aesm.handlers.Echo")


class NodeTests(ClusterTestCase):
    """Two nodes, and Alice at the first."""

    def setUp(self) -> None:
        """Have them."""
        super().setUp()
        self.one, self.two = (self.serving(name, ECHO) for name in ("one", "two"))
        self.alice = self.client(ALICE, self.one)

    def totals(self, node: ServingNode) -> dict[str, Any]:
        """Ask a node how it is."""
        return Overview(node.server).totals()

    def done(self, coroutine: Any) -> Any:  # type: ignore[override]
        """Ask the engine something, as a node may as well."""
        asking = Deferred.fromCoroutine(coroutine)
        self.settle()
        return self.successResultOf(asking)

    def overview(self) -> Any:
        """Ask the engine how the cluster is."""
        return self.done(overviewOf(self.two.node.engine))

    def test_here(self) -> None:
        """A node says that it is one, and how its engine is."""
        found = self.totals(self.one)
        self.assertIs(found["spool"], None)
        cluster = found["cluster"]
        self.assertGreater(cluster.pop("bytes"), 100_000)
        expected = {"name": "test", "node": "one", "engine": "redis://127.0.0.1:6379"}
        self.assertEqual(cluster, {**expected, "sync": "primary", "failure": None})
        self.assertIn("\naesm_engine_failing 0\n", exposition(found))
        self.one.node.lines.line.cut()
        found = self.totals(self.one)
        self.assertIn("connection to redis", found["cluster"]["failure"])
        self.assertIn("\naesm_engine_failing 1\n", exposition(found))

    def test_there(self) -> None:
        """Others are told of its clients, with each lease."""
        self.settle(int(RENEWAL) + 1)
        one, two = self.overview()["nodes"]
        self.assertEqual((one["connections"], two["connections"]), (1, 0))
        self.assertEqual((one["waiting"], one["sync"]), (0, "primary"))
        self.assertIs(one["draining"], False)
        self.one.server.sendAll("for all")
        self.settle(int(RENEWAL) + 1)
        for node in self.overview()["nodes"]:
            self.assertEqual(node["logLag"], 0)
        self.cut(self.alice)
        self.one.node.store.lease.look()
        self.settle()
        one, _ = self.overview()["nodes"]
        self.assertEqual((one["connections"], one["waiting"]), (0, 1))

    def test_drain(self) -> None:
        """It ends when it is told to, and its clients go on elsewhere."""
        former = self.alice.former
        self.clients[self.alice][0].node = self.two
        self.assertEqual(self.done(drain(self.two.node.engine, "one")), "one")
        self.settle(1)
        self.assertTrue(self.totals(self.one)["stopping"])
        self.settle(5)
        self.assertFalse(self.one.server.running)
        self.assertIs(self.alice.former, former)
        self.assertEqual(len(self.two.server.connections), 1)
        self.assertEqual(len(self.one.server.connections), 0)

    def test_draining(self) -> None:
        """Others are told that it ends, however it was told to."""
        self.clients[self.alice][0].node = self.two
        self.one.server.factory.draining._rate = 0.1
        stopping = self.one.server.stop()
        self.one.node.store.lease.look()
        self.settle()
        self.assertIs(self.overview()["nodes"][0]["draining"], True)
        self.settle(20)
        self.successResultOf(stopping)
