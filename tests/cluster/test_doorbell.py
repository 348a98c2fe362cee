"""
Tests for L{aesm.cluster.doorbell}.
"""

from __future__ import annotations

from twisted.logger import capturedLogs

from aesm.cluster.doorbell import PING, Doorbell
from aesm.cluster.engine import MAX_RETRY, REPLY_TIMEOUT
from tests.support.engines import EngineTestCase, Line, RedisServer


class DoorbellTests(EngineTestCase):
    """L{Doorbell}."""

    def setUp(self) -> None:
        """Have one."""
        super().setUp()
        self.one = self.node()
        self.rung: list[tuple[bool, bytes]] = []
        self.missed = 0
        self.doorbell = Doorbell(self.one.engine)
        self.doorbell.rung = lambda *what: self.rung.append(what)
        self.doorbell.missed = self.miss
        self.one.store.lease.stop()  # and nothing else that is sent
        self.one.store._doorbell.stop()
        self.one.store._doorbell = self.doorbell
        self.doorbell.start()
        self.addCleanup(self.endDoorbell)
        self.one.settle()

    def endDoorbell(self) -> None:
        """Stop it."""
        self.doorbell.stop()
        self.one.settle()

    def miss(self) -> None:
        """Count."""
        self.missed += 1

    @property
    def line(self) -> Line:
        """Its connection."""
        return self.one.lines.bells[-1]

    def back(self) -> None:
        """Let it connect again."""
        self.clock.advance(MAX_RETRY)
        self.one.settle()

    def test_rung(self) -> None:
        """What is published is heard, and to whom."""
        for channel, words in (("n:one", "a"), ("n:two", "b"), ("log", "c d")):
            self.redis.command("PUBLISH", self.key(channel), words)
        while len(self.rung) < 2:
            self.line.hear()
        self.assertEqual(self.rung, [(True, b"a"), (False, b"c d")])

    def test_missed(self) -> None:
        """After each new connection it is said that something may have been missed."""
        self.assertEqual(self.missed, 1)
        self.line.cut()
        self.assertEqual(self.missed, 1)
        self.back()
        self.assertEqual(self.missed, 2)
        self.redis.command("PUBLISH", self.key("log"), "x")
        self.line.hear()
        self.assertEqual(self.rung, [(False, b"x")])

    def test_silent(self) -> None:
        """A connection that is silent is asked, and given up if it says nothing."""
        self.clock.advance(PING)
        self.one.settle()
        self.assertTrue(self.line.isOpen)
        self.clock.advance(PING)
        line = self.line
        self.assertTrue(line.isBusy)
        self.clock.advance(REPLY_TIMEOUT)
        self.one.settle()
        self.assertFalse(line.isOpen)
        self.back()
        self.assertEqual(self.missed, 2)

    def test_refused(self) -> None:
        """One that cannot subscribe tries again."""
        self.redis.command("ACL", "SETUSER", "default", "-subscribe")
        self.addCleanup(self.redis.command, "ACL", "SETUSER", "default", "+@all")
        self.line.cut()
        self.back()
        self.assertFalse(self.line.isOpen)
        self.redis.command("ACL", "SETUSER", "default", "+@all")
        self.back()
        self.assertEqual(self.missed, 2)

    def other(self) -> RedisServer:
        """Have another engine."""
        other = RedisServer()
        self.addCleanup(other.stop)
        self.addCleanup(self.one.cut)
        return other

    def publish(self, *engines: RedisServer) -> None:
        """Have engines say something, each its number, and hear what is heard."""
        for number, engine in enumerate(engines):
            engine.command("PUBLISH", self.key("log"), number)
        self.one.lines.hearAll()

    def test_former(self) -> None:
        """
        An engine that is not the node's any more is not heard, though the connection
        to it is there still: others may tell it what no other will have.
        """
        other = self.other()
        self.one.lines.line.cut()
        self.one.lines.path = other.path
        former = self.line
        with capturedLogs() as logs:
            self.back()
        self.assertIn("another", str([log["log_format"] for log in logs]))
        self.publish(self.redis, other)
        self.assertEqual(self.rung, [])
        self.one.settle()
        self.assertFalse(former.isOpen)
        self.back()
        self.assertEqual(self.missed, 2)
        self.publish(self.redis, other)
        self.assertEqual(self.rung, [(False, b"1")])

    def test_later(self) -> None:
        """Nor is one heard that is to be the node's, but is not yet."""
        other = self.other()
        self.line.cut()
        self.one.lines.path = other.path
        self.back()
        self.assertEqual(self.missed, 1)
        self.publish(self.redis, other)
        self.assertEqual(self.rung, [])
        with capturedLogs():
            self.one.lines.line.cut()
            self.back()
        self.back()
        self.assertTrue(self.line.isOpen)
        self.publish(self.redis, other)
        self.assertEqual(self.rung, [(False, b"1")])

    def test_stopped(self) -> None:
        """Nothing is left of one that is stopped, whether it was started or not."""
        self.done(self.one, self.doorbell.stop())
        self.assertFalse(self.line.isOpen)
        self.done(self.one, Doorbell(self.one.engine).stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])
