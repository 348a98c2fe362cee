"""
Tests for C{benchmarks.attacks}: that it can still be run, and lays out what it finds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks.attacks import ATTACKS, Figure, measure, table


class AttackTests(SynchronousTestCase):
    """Attacks on real servers."""

    def test_defined(self) -> None:
        """Each attack says who can do it, and what it is."""
        for name, attack in ATTACKS.items():
            self.assertTrue(attack.who, name)
            self.assertTrue(attack.measure.__doc__, name)

    def test_one(self) -> None:
        """A server is started, attacked, and within its bounds."""
        if not Path("/proc/self/io").exists():
            raise SkipTest("nobody counts that here")
        small, large = measure("spool", sys.executable)
        self.assertTrue(0 < small.attacked < 60, small)
        self.assertTrue(0 < large.attacked < 20, large)

    def test_table(self) -> None:
        """Of several rounds there are the median and the range."""
        rounds = [[Figure("wait, ms", wait, 0.5)] for wait in (3.25, 40, 1000)]
        row = " ".join(table({"spool": rounds}).splitlines()[1].split())
        self.assertEqual(
            row, "spool a key that is in wait, ms 0.5 -> 40 (3.2 to 1,000)"
        )
