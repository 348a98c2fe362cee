"""
C{aesm cluster}: L{aesm.commands.cluster}.
"""

from __future__ import annotations

import json
import sys
from io import StringIO
from typing import Any

from twisted.internet.defer import Deferred

from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import Engine
from aesm.commands import cluster
from aesm.commands.cluster import PATIENCE, ClusterOptions
from aesm.commands.control import NotDone
from tests.commands.test_cli import CommandTestCase
from tests.support.engines import EngineTestCase, Lines

URL = "redis://127.0.0.1"


class UsageTests(CommandTestCase):
    """What may be asked for."""

    def test_wrong(self) -> None:
        """What makes no sense is one line, which says what would be right."""
        for words, said in (
            ([], "say what: status, or drain NODE"),
            (["kill"], "say what"),
            (["status"], "--cluster URL"),
            (["status", "one", "--cluster", URL], "status has no argument"),
            (["drain", "--cluster", URL], "name a node"),
            (["drain", "one", "--json", "--cluster", URL], "--json is for status"),
            (["status", "--cluster", "http://x"], "redis://HOST:PORT"),
            (["status", "--cluster", URL, "--cluster-name", "a{"], "--cluster-name is"),
        ):
            status, output, errors = self.execute("cluster", *words)
            self.assertEqual((status, output), (2, ""))
            self.assertRegex(errors, f"\\Aaesm: .*{said}.*aesm cluster --help.*\n\\Z")


class ClusterTests(EngineTestCase):
    """What is asked of an engine."""

    def ask(self, *words: str) -> Any:
        """
        Ask something.

        @return: what comes of it, a Deferred of the exit status.
        """
        options = ClusterOptions()
        options.parseOptions([*words, "--cluster", URL])
        self.lines = Lines(self.redis.path)
        address = EngineAddress.parse(URL)
        engine = Engine(self.clock, address, "test", "", endpoint=self.lines)
        self.output = StringIO()
        self.patch(sys, "stdout", self.output)
        asked = Deferred.fromCoroutine(options.runWith(self.clock, engine))
        self.settle()
        return asked

    def settle(self) -> None:
        """Let everything go, and what follows from it."""
        while self.lines.deliver():
            pass

    def said(self, *words: str) -> str:
        """Ask something that can be done; tell what is printed."""
        self.assertEqual(self.successResultOf(self.ask(*words)), 0)
        self.assertEqual(self.clock.getDelayedCalls(), self.before)
        return self.output.getvalue()

    def notDone(self, *words: str) -> str:
        """Ask something that cannot be done; tell why."""
        error = self.failureResultOf(self.ask(*words), NotDone)
        return str(error.value)

    def setUp(self) -> None:
        """Have a node that has something to say."""
        super().setUp()
        self.one = self.node("one")
        says = {"connections": 2, "waiting": 1, "host": "h\x1b", "logPosition": 0}
        self.one.store.lease.says = lambda: says
        self.one.store.lease.look()
        self.one.settle()
        self.before = self.clock.getDelayedCalls()

    def test_status(self) -> None:
        """It is lines for people, in which nothing is but text."""
        lines = self.said("status").splitlines()
        self.assertRegex(lines[0], r"engine \d.*, master, 0 replicas, nothing on")
        self.assertRegex(lines[0], r"bytes; epoch [0-9a-f]{32}$")
        self.assertRegex(lines[1], r"sessions: 0 wait for their clients")
        self.assertRegex(lines[2], r"were away: for \d+s no session is given up")
        self.assertEqual(
            [lines[-2].split(), lines[-1].split()],
            [
                [
                    *("NODE", "STATE", "CONNECTED", "WAITING"),
                    *("LAG", "SYNC", "HOST", "PID", "VERSION"),
                ],
                ["one", "up", "2", "1", "0", "h\\x1b"],
            ],
        )

    def test_states(self) -> None:
        """A node may be draining, silent, or gone; an engine looked at, or bounded."""
        self.redis.command("HSET", self.key("n:one"), "drain", 1)
        self.assertIn("one  draining", self.said("status"))
        self.patch(cluster, "TIME", 1e20)
        self.assertRegex(self.said("status"), r"one  silent \S+ +2 +1 +0 ")
        self.redis.command("ZADD", self.key("n"), 1, "one")
        self.setting("maxmemory", "64mb", 0)
        self.redis.command("HSET", self.key("meta"), "looking", 1 << 50)
        said = self.said("status")
        self.assertRegex(said, r"one  gone \S+ +h")  # what it said is over
        self.assertIn(" of 64M bytes", said)
        self.assertIn("nodes see whether it lacks anything", said)

    def test_json(self) -> None:
        """It is one object."""
        said = self.said("status", "--json")
        self.assertTrue(said.isascii() and said.count("\n") == 1)
        self.assertEqual(json.loads(said)["nodes"][0]["node"], "one")

    def test_drain(self) -> None:
        """A node is told to end, if there is such a one."""
        drained: list[int] = []
        self.one.store.lease.drained = lambda: drained.append(1)
        self.assertEqual(self.said("drain", "one"), "told to end: one\n")
        self.one.lines.bells[-1].hear()
        self.one.settle()
        self.assertEqual(drained, [1])
        self.assertIn("there is no node 'two'", self.notDone("drain", "two"))

    def test_notDone(self) -> None:
        """What the engine says against it is told."""
        self.redis.command("FLUSHALL")
        self.assertIn("no cluster of this name", self.notDone("status"))

    def test_never(self) -> None:
        """An engine that is not ready is waited for, but not for ever."""
        self.patch(Engine, "_epochOf", lambda *told: Deferred())
        asked = self.ask("status")
        self.clock.advance(PATIENCE)
        self.settle()
        error = self.failureResultOf(asked, NotDone)
        self.assertIn("not connected to redis://127.0.0.1", error.getErrorMessage())
