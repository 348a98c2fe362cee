"""
Tests for L{aesm.server.draining}: a server ends while another one, which shares its
sessions, goes on.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from aesm.errors import ConnectionClosed, SpoolError
from aesm.plugins import HandlerMaker
from aesm.server.draining import WRITING
from aesm.server.factory import STOP_DEADLINE, AESMServerFactory
from aesm.server.handover import ALONE, GREETING
from tests.server import test_claimed
from tests.server.test_claimed import ROAMS, SINKS, STAYS, ClaimedTestCase
from tests.support.helpers import XX
from tests.support.pairs import SERVER_KEY, RawClient

HERE = SINKS[0], STAYS, ROAMS  # at the first server
STEP = 0.01  # seconds
ECHO = HandlerMaker("echo", "", "aesm.handlers.Echo")


class DrainingTests(ClaimedTestCase):
    """The first of two servers is stopped; whoever comes then comes to the other."""

    def begin(self, how: str = "call") -> None:
        """Let all be in."""
        self.patch(test_claimed, "Maker", lambda how: ECHO)
        super().begin(how)
        for store in self.stores:
            store.isSlow = False
        self.sessions = {key: self.clients[key].former for key in HERE}
        for way in self.ways.values():
            way.node = 1

    def drain(self, rate: float = 10.0, **options: Any) -> Deferred[None]:
        """Stop the first server."""
        factory: Any = self.servers[0].factory
        factory.draining._rate = rate
        return self.servers[0].stop(**options)

    @property
    def count(self) -> int:
        """How many are at the first server."""
        connections = self.servers[0].connections.values()
        return sum(each.isAttached for each in connections)

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps that are shorter than anything."""
        for _ in range(round(seconds / STEP)):
            self.network.advance(STEP)

    def assertMoved(self) -> None:
        """Check that all go on at the second server, with their sessions."""
        for key in HERE:
            self.assertIs(self.clients[key].former, self.sessions[key])
            self.assertTrue(self.connection(key, 1).isAttached)

    def test_waves(self) -> None:
        """So many clients a second are told, and go on at the other server at once."""
        self.begin()
        stopped = self.drain()
        counts = [self.count]
        self.advance(0.05)
        with capturedLogs() as logs:
            for _ in range(3):
                self.advance(0.1)
                counts.append(self.count)
        self.assertEqual(counts, [2, 1, 0, 0])
        self.assertIn("told to go on elsewhere: 3, in 0.", formatEvent(logs[-1]))
        self.advance(0.2)
        self.assertMoved()
        self.settle()
        self.successResultOf(stopped)

    def test_fast(self) -> None:
        """More than one are told together where there is no time for each."""
        self.begin()
        self.drain(rate=20.0)
        self.assertEqual(self.count, 1)
        self.advance(0.15)
        self.assertEqual(self.count, 0)
        self.advance(0.2)
        self.assertMoved()

    def test_time(self) -> None:
        """How long it takes can be told before; where nobody goes on, it is nothing."""
        self.begin()
        draining = self.servers[0].factory.draining
        self.assertEqual(draining.time(), 0.03)
        self.assertEqual(draining.time(2.0), 2.0)
        self.stores[0].fences = False
        self.assertEqual(draining.time(2.0), 0.0)
        del self.stores[0].fences

    def test_slow(self) -> None:
        """Fewer than one in a wave have their time, too."""
        self.begin()
        self.drain(rate=1.0)
        self.advance(0.9)
        self.assertEqual(self.count, 2)
        self.advance(0.2)
        self.assertEqual(self.count, 1)

    def test_over(self) -> None:
        """Who stops it may ask for more time than that, but for no less."""
        for spread, count in ((3.0, 2), (0.01, 0)):
            self.begin()
            self.drain(spread=spread)
            self.advance(0.9)
            self.assertEqual(self.count, count)
            self.settle()
            self.endAll()
            self.setUp()
        self.begin()

    def test_serves(self) -> None:
        """Who is not told yet is served; nothing is lost or comes twice."""
        self.begin()
        self.drain(rate=1.0)
        numbers = [str(number) for number in range(30)]
        for number in numbers:
            for key in HERE:
                self.clients[key].sendData(number)
            self.advance(0.1)
        self.settle()
        self.assertMoved()
        for key in HERE:
            self.assertEqual(self.taking(self.clients[key].retrieved), numbers)

    def test_written(self) -> None:
        """Nobody is told before what was accepted is written."""
        self.begin()
        store = self.stores[0]
        store.isSlow = True
        self.connection(STAYS, 0).sendData("down")
        self.drain(rate=100.0)
        self.advance(1)
        self.assertEqual(self.count, 3)
        store.isSlow = False
        while store.waiting:
            store.work()
        self.advance(0.5)
        self.assertMoved()
        self.assertEqual(self.taking(self.clients[STAYS].retrieved), ["down"])

    def test_between(self) -> None:
        """
        What comes while that is written, and is not itself, happens at the other server
        if that is faster, and only there.
        """
        for isFaster in (True, False):
            self.begin()
            store = self.stores[0]
            store.isSlow = True
            self.drain(rate=100.0)
            self.clients[STAYS].sendData("between")
            self.advance(STEP)
            store.work()
            if not isFaster:
                store.isSlow = False
                while store.waiting:
                    store.work()
            self.advance(0.5)
            self.settle()
            self.assertMoved()
            taken = self.taking(self.clients[STAYS].retrieved)
            self.assertEqual(taken, ["between"])
            self.endAll()
            self.setUp()
        self.begin()

    def test_cannotWrite(self) -> None:
        """
        Where that cannot be done all are told together, and come back when it can.
        """
        for fails in (True, False):
            self.begin()
            store = self.stores[0]
            store.failure = SpoolError("no engine") if fails else None
            store.isSlow = not fails
            with capturedLogs() as logs:
                stopped = self.drain(rate=1.0)
                self.advance(STEP if fails else WRITING + STEP)
            self.assertEqual(self.count, 0)
            self.assertIn("all are told", str([e.get("log_format") for e in logs]))
            store.failure = None
            self.settle()
            self.successResultOf(stopped)
            self.assertMoved()
            self.endAll()
            self.setUp()
        self.begin()

    def test_twice(self) -> None:
        """It is stopped once, however often somebody says so."""
        self.begin()
        first, second = self.drain(), self.servers[0].stop()
        self.advance(0.15)
        self.assertEqual(self.count, 1)
        self.assertTrue(self.servers[0].factory.isStopping)
        self.settle()
        for stopped in (first, second):
            self.successResultOf(stopped)
        self.assertMoved()

    def test_greeting(self) -> None:
        """Who is about to come in has a moment for it, and then goes on elsewhere."""
        self.begin()
        self.ways[ROAMS].node = 0
        self.cut(ROAMS)
        self.network.clock.advance(3)  # it calls, and nothing is delivered yet
        self.assertTrue(self.servers[0].factory.areGreeting)
        self.ways[ROAMS].node = 1
        self.drain(rate=100.0)
        self.settle()
        self.assertMoved()

    def test_silent(self) -> None:
        """Who says nothing is waited for no longer than that."""
        self.begin()
        self.network.factory = self.factories[0]
        silent = RawClient()
        self.network.join(silent, IPv4Address("TCP", "127.0.0.1", 1))
        stopped = self.drain(rate=100.0)
        self.advance(0.1 + GREETING + 2 * ALONE)
        self.assertEqual(silent.closed, 1)
        self.advance(STOP_DEADLINE)
        self.successResultOf(stopped)

    def test_bug(self) -> None:
        """A bug of ours keeps nobody from being told, and the server from ending."""
        self.begin()
        kept: Any = self.servers[0].factory.manager.kept
        self.patch(kept, "leave", lambda *told: 1 / 0)
        stopped = self.drain()
        self.settle()
        self.successResultOf(stopped)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_told(self) -> None:
        """Whoever still sends to one who has moved is told so."""
        self.begin()
        connection = self.connection(STAYS, 0)
        self.drain(rate=100.0)
        reason = self.failureResultOf(connection.sendData("late"), ConnectionClosed)
        self.assertEqual(reason.value.code, 1001)
        self.settle()

    def test_option(self) -> None:
        """A rate is a number above 0."""
        for rate in (0, -1.0, float("inf"), float("nan")):
            with self.assertRaisesRegex(ValueError, "drainRate must be a number above"):
                AESMServerFactory(
                    reactor=self.network.clock,
                    key=SERVER_KEY,
                    suites=(XX,),
                    drainRate=rate,
                )
