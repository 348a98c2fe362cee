"""
Tests for L{aesm.secure.clock}: a step of the wall clock moves no deadline.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python import runtime
from twisted.trial.unittest import SynchronousTestCase

from aesm.secure import clock
from aesm.secure.clock import steady
from aesm.secure.options import reactorOr


class SteadyTests(SynchronousTestCase):
    """L{steady}, on a reactor that does not run."""

    def setUp(self) -> None:
        """Have a reactor, and both clocks in hand."""
        self.wall, self.uptime = 1e9, 50.0
        self.patch(runtime, "seconds", lambda: self.wall)
        self.patch(clock, "monotonic", lambda: self.uptime)
        self.reactor: Any = SelectReactor()
        self.addCleanup(self.reactor.removeAll)
        self.reactor.seconds = runtime.seconds
        self.fired: list[str] = []

    def turn(self) -> list[str]:
        """Run what is due, and tell what that was."""
        self.reactor.runUntilCurrent()
        fired, self.fired = self.fired, []
        return fired

    def test_steps(self) -> None:
        """
        Timers fire when their time has passed, those too that were there before;
        calls without a delay in the next turn.
        """
        self.reactor.callLater(10, self.fired.append, "before")
        self.assertIs(steady(self.reactor), self.reactor)
        self.assertEqual(self.reactor.seconds(), 1e9)
        self.reactor.callLater(20, lambda: self.fired.append("after"))
        for step in (3600, -7200):
            self.wall += step
            self.assertEqual(self.turn(), [])
            self.reactor.callLater(0, lambda: self.fired.append("now"))
            self.wall -= 1
            self.assertEqual(self.turn(), ["now"])
        self.uptime += 10
        self.reactor.callLater(0, lambda: self.fired.append("now"))
        self.turn()
        self.uptime += 10
        self.assertEqual(self.turn(), ["after"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_once(self) -> None:
        """Once is enough."""
        seconds = steady(self.reactor).seconds
        self.assertIs(steady(self.reactor).seconds, seconds)

    def test_others(self) -> None:
        """A clock with a time of its own is left alone."""
        other = Clock()
        self.assertIs(steady(other), other)
        other.advance(5)
        self.assertEqual(other.seconds(), 5)

    def test_everyFace(self) -> None:
        """Every reactor that an option names, or that is installed, becomes steady."""
        reactorOr(self.reactor)
        self.wall += 3600
        self.assertEqual(self.reactor.seconds(), 1e9)


class RealTests(SynchronousTestCase):
    """L{steady}, on what Twisted ships."""

    def test_real(self) -> None:
        """Twisted's reactors keep time by the wall clock, which is what is replaced."""
        reactor: Any = SelectReactor()
        self.addCleanup(reactor.removeAll)
        before = reactor.seconds
        steady(reactor)
        self.assertIsNot(reactor.seconds, before)
        self.assertLess(abs(reactor.seconds() - before()), 600)
