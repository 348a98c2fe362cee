"""
Tests for L{aesm.messages.turns}: who goes on when, and how much a key may send.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from aesm import PrivateKey
from aesm.messages.turns import BURST, TURN, Rates, Turns
from tests.support.helpers import oneTurn

KEYS = [PrivateKey.generate().publicKey for _ in range(3)]


class Worker:
    """Does something when it is its turn."""

    def __init__(self, work: Callable[[], object]) -> None:
        """@param work: what it does."""
        self.work = work

    def resume(self) -> None:
        """Do it."""
        self.work()


class TurnsTests(SynchronousTestCase):
    """Tests for L{Turns}."""

    def setUp(self) -> None:
        """Start with nobody."""
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.worked: list[str] = []

    def worker(self, name: str, takes: float = 0, rounds: int = 1) -> Worker:
        """Make one that takes its time, so many times."""

        def work() -> None:
            """Take time, and wait for the next turn."""
            nonlocal rounds
            rounds -= 1
            self.worked.append(name)
            self.clock.rightNow += takes
            if rounds:
                self.turns.wait(worker)

        worker = Worker(work)
        return worker

    def test_inTurn(self) -> None:
        """Those that wait go on one after the other, once in each turn."""
        for name in "abc":
            self.turns.wait(self.worker(name, rounds=2))
        self.assertEqual(self.worked, [])
        oneTurn(self.clock)
        self.assertEqual(self.worked, [*"abc"])
        oneTurn(self.clock)
        self.assertEqual(self.worked, [*"abcabc"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_together(self) -> None:
        """All together have only so much of a turn; who has had none is the next."""
        for name in "abcd":
            self.turns.wait(self.worker(name, TURN / 2, 2))
        for expected in ("ab", "cd", "ab", "cd"):
            self.worked.clear()
            oneTurn(self.clock)
            self.assertEqual(self.worked, [*expected])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_delay(self) -> None:
        """One may wait for some seconds first."""
        self.turns.wait(self.worker("late"), 5)
        self.clock.advance(4.9)
        self.assertEqual(self.worked, [])
        self.clock.advance(0.2)
        self.clock.advance(0)
        self.assertEqual(self.worked, ["late"])

    def test_discard(self) -> None:
        """One that is forgotten gets no turn, and leaves no timer."""
        for delay in (0, 5):
            worker = self.worker("never")
            self.turns.wait(worker, delay)
            self.turns.discard(worker)
            self.turns.discard(worker)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        first, second = (self.worker(name) for name in "ab")
        first.work = lambda: self.turns.discard(second)
        self.turns.wait(first)
        self.turns.wait(second)
        self.clock.advance(0)
        self.assertEqual(self.worked, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RatesTests(SynchronousTestCase):
    """Tests for L{Rates}."""

    def test_messages(self) -> None:
        """So many messages may be saved up, and then come with the rate."""
        rates = Rates(10, math.inf)
        rates.spend(KEYS[0], 20, 10**9, 0)
        self.assertEqual(rates.delay(KEYS[0], 0), 0)
        rates.spend(KEYS[0], 1, 64, 0)
        self.assertAlmostEqual(rates.delay(KEYS[0], 0), 0.1)
        self.assertAlmostEqual(rates.delay(KEYS[0], 0.05), 0.05)
        self.assertEqual(rates.delay(KEYS[0], 0.11), 0)
        self.assertEqual(rates.delay(KEYS[1], 0), 0)

    def test_rounding(self) -> None:
        """Who has waited as long as was said may go on, whatever is rounded."""
        for rate in (3, 7, 0.3, 1000):
            for tenths in range(1, 10**4, 97):
                now = tenths / 10
                rates = Rates(rate, math.inf)
                rates.spend(KEYS[0], int(rate * BURST) + 1, 64, now)
                for _ in range(3):
                    now += rates.delay(KEYS[0], now)
                self.assertEqual(rates.delay(KEYS[0], now), 0)

    def test_bytes(self) -> None:
        """The same with bytes."""
        rates = Rates(math.inf, 1000)
        rates.spend(KEYS[0], 10**9, 2000, 0)
        self.assertEqual(rates.delay(KEYS[0], 0), 0)
        rates.spend(KEYS[0], 1, 500, 0)
        self.assertAlmostEqual(rates.delay(KEYS[0], 0), 0.5)

    def test_notSavedForEver(self) -> None:
        """A key that was quiet for long may send no more at once than one that came."""
        rates = Rates(10, math.inf)
        rates.spend(KEYS[0], 1, 64, 0)
        rates.spend(KEYS[0], 21, 64, 10**6)
        self.assertGreater(rates.delay(KEYS[0], 10**6), 0)

    def test_clockSetBack(self) -> None:
        """A clock that is set back holds nobody back longer."""
        rates = Rates(10, math.inf)
        rates.spend(KEYS[0], 30, 64, 1000)
        self.assertAlmostEqual(rates.delay(KEYS[0], 0), 1)

    def test_forgets(self) -> None:
        """Of a key whose allowance is whole again nothing is kept."""
        rates = Rates(10, 1000)
        rates.spend(KEYS[0], 1, 64, 0)
        rates.spend(KEYS[1], 1000, 64, 0)
        rates.spend(KEYS[2], 1, 64, 2 * BURST)
        self.assertEqual(set(rates._left), {KEYS[1], KEYS[2]})

    def test_values(self) -> None:
        """A rate is above nothing; without any there is no bound."""
        for wrong in ((0, 1), (1, -1), (math.nan, 1)):
            self.assertRaises(ValueError, Rates, *wrong)
        self.assertFalse(Rates(math.inf, math.inf).isBounded)
        self.assertTrue(Rates(1, math.inf).isBounded)
        self.assertTrue(Rates(math.inf, 1).isBounded)
