"""
Tests for L{aesm.cluster.sealing}, and for what a store seals.
"""

from __future__ import annotations

import socket
from pathlib import Path

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from aesm.cluster.engine import MAX_RETRY
from aesm.cluster.sealing import KEY, Sealer
from aesm.errors import SpoolError
from aesm.store.interface import Blob, Stored
from tests.support.engines import EngineTestCase, Node, RedisServer

SECRET = b"nobody is to read this"


class SealerTests(SynchronousTestCase):
    """L{Sealer}."""

    def setUp(self) -> None:
        """Seal something."""
        self.sealer = Sealer(bytes(KEY), "chat")
        self.sealed = self.sealer.seal(SECRET, "S", "o", 7)

    def test_opened(self) -> None:
        """What was sealed is opened, also if it is nothing; never twice the same."""
        self.assertEqual(self.sealer.open(self.sealed, "S", "o", 7), SECRET)
        self.assertEqual(self.sealer.open(self.sealer.seal(b"", "S"), "S"), b"")
        self.assertNotEqual(self.sealer.seal(SECRET, "S", "o", 7), self.sealed)

    def test_other(self) -> None:
        """Anything else is refused: another place, key, cluster, bit or length."""
        for place in (("S", "o", 8), ("S", "i", 7), ("T", "o", 7), ("S", "o")):
            self.assertRaises(SpoolError, self.sealer.open, self.sealed, *place)
        for sealer in (Sealer(b"1" * KEY, "chat"), Sealer(bytes(KEY), "other")):
            self.assertRaises(SpoolError, sealer.open, self.sealed, "S", "o", 7)
        for at in range(len(self.sealed)):
            flipped = bytearray(self.sealed)
            flipped[at] ^= 1
            for wrong in (bytes(flipped), self.sealed[:at]):
                self.assertRaises(SpoolError, self.sealer.open, wrong, "S", "o", 7)

    def test_key(self) -> None:
        """A key has L{KEY} bytes."""
        for length in (0, KEY - 1, KEY + 1):
            self.assertRaises(ValueError, Sealer, bytes(length), "chat")


class SealedTests(EngineTestCase):
    """What an engine has of a cluster with a key."""

    def setUp(self) -> None:
        """Have two sessions, and all that there can be of one."""
        super().setUp()
        self.redis = RedisServer("--appendonly", "yes")
        self.addCleanup(self.redis.stop)
        self.monitor = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.monitor.close)
        self.monitor.connect(self.redis.path)
        self.monitor.sendall(b"MONITOR\r\n")
        self.one = self.sealing("one")
        for name in "ST":
            self.done(self.one, self.one.store.begin(name, "K", {"a": SECRET.decode()}))
        store = self.one.store
        for name in "ST":
            store.put(name, "K", {"b": SECRET.decode()})
            for number in range(2):
                store.append(name, True, number, 1, SECRET)
                store.append(name, False, number, 1, SECRET)
                store.addRequest(name, number, SECRET)
        store.send("S", "K", SECRET, lambda *results: None)
        store.log("S", SECRET, lambda *results: None)
        self.done(self.one, store.commit())

    def sealing(self, name: str) -> Node:
        """Have a node with the key."""
        return self.node(name, sealer=Sealer(bytes(KEY), "test"))

    def test_opened(self) -> None:
        """Nodes with the key have all of it."""
        two = self.sealing("two")
        blobs = [Blob(number, 1, SECRET) for number in range(2)]
        self.assertEqual(
            self.done(two, two.store.claim("S", "K")),
            Stored("S", "K", {"b": SECRET.decode()}, blobs, blobs, blobs),
        )
        (entry,) = self.done(two, two.store.readInlet("S"))
        page = self.done(two, two.store.readLog(0))
        self.assertEqual([entry.data, page.entries[0].data], [SECRET] * 2)

    def test_hidden(self) -> None:
        """Neither what the engine does nor what it writes to its disk shows it."""
        self.redis.command("ECHO", "the end")
        said = b""
        while b"the end" not in said:
            said += self.monitor.recv(1 << 16)
        folder = Path(self.redis.path).parent
        files = [path.read_bytes() for path in folder.rglob("*.aof*")]
        for shown in (said, *files):
            self.assertNotIn(SECRET, shown)
        self.assertIn(b"evalsha", said.lower())
        self.assertTrue(any(b"ZADD" in file.upper() for file in files))

    def test_restored(self) -> None:
        """Nor what a node writes again."""
        old = self.redis.snapshot()
        self.one.store.append("S", True, 2, 1, SECRET)
        self.done(self.one, self.one.store.commit())
        self.one.cut()
        self.redis.goBack(old)
        self.clock.advance(MAX_RETRY)
        self.one.settle()
        self.test_hidden()
        two = self.sealing("two")
        stored = self.done(two, two.store.claim("S", "K"))
        self.assertEqual([blob.frames for blob in stored.outgoing], [SECRET] * 3)

    def test_swapped(self) -> None:
        """
        What was put in another place is refused: a client begins another session, or
        comes again where nobody can tell it from one of another key.
        """
        two = self.sealing("two")
        key = self.key("o:S")
        members = self.redis.command("ZRANGE", key, 0, -1)
        first, second = (member.split(b" ", 2)[2] for member in members)
        self.redis.command("DEL", key)
        for number, frames in ((0, second), (1, first)):
            self.redis.command("ZADD", key, number, b"%d 1 " % number + frames)
        with capturedLogs() as logs:
            self.assertIs(self.done(two, two.store.claim("S", "K")), None)
        (said,) = logs
        self.assertIn("was not sealed", said["reason"])
        self.assertEqual(said["name"], "S")
        two.store.put("S", "K", {})
        self.done(two, two.store.commit())
        self.assertNotEqual(self.redis.command("GET", self.key("t:S")), b"{}")
        state = self.redis.command("GET", self.key("t:S"))
        self.redis.command("SET", self.key("t:T"), state)
        self.assertRefused(two, "T")

    def assertRefused(self, node: Node, name: str) -> None:
        """Check that a session is not taken over."""
        claimed = node.store.claim(name, "K")
        node.settle()
        error = self.failureResultOf(claimed, SpoolError)
        self.assertIn("was not sealed", error.getErrorMessage())

    def test_otherKey(self) -> None:
        """A node with another key does not start, nor does one without."""
        for number, sealer in enumerate((Sealer(b"1" * KEY, "test"), None)):
            _, started = self.starting(f"two{number}", sealer=sealer)
            error = self.failureResultOf(started, SpoolError).getErrorMessage()
            self.assertIn("clusterKey", error)

    def test_others(self) -> None:
        """
        Who has another key, but says that it is this one, reads nothing, nor has what
        it says heard.
        """
        other = Sealer(b"1" * KEY, "test")
        other.mark = Sealer(bytes(KEY), "test").mark
        two = self.node("two", sealer=other)
        self.assertRefused(two, "S")
        for reading in (self.one.store.readLog(0), self.one.store.readInlet("S")):
            self.done(self.one, reading)
        page = self.done(two, two.store.readLog(0))
        self.assertEqual([entry.data for entry in page.entries], [b""])
        with capturedLogs() as logs:
            self.one.store._rung(False, b"1 12\ntwo:1:1 open")
        self.assertEqual([log["log_level"].name for log in logs], ["error"])
