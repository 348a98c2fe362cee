"""
Numbers for people: L{aesm.status.units}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.status.units import number, seconds, size


class UnitsTests(SynchronousTestCase):
    """Each is short, and says its unit."""

    def test_number(self) -> None:
        """Counts have prefixes of a thousand."""
        values = (0, 999, 1000, 9990, 25_000, 2_000_000, 3e9, 4e12, 5e15)
        self.assertEqual(
            [number(value) for value in values],
            ["0", "999", "1.0k", "10.0k", "25k", "2.0M", "3.0G", "4.0T", "5000T"],
        )

    def test_size(self) -> None:
        """Sizes have prefixes of 1,024."""
        self.assertEqual(
            [size(value) for value in (0, 1023, 1024, 64 << 20, 1 << 50)],
            ["0", "1023", "1.0k", "64M", "1024T"],
        )

    def test_seconds(self) -> None:
        """Times have two digits or three."""
        values = (0, 64e-6, 0.25, 3.4, 99, 150, 7200, 86_400 * 9, float("nan"))
        self.assertEqual(
            [seconds(value) for value in values],
            ["0s", "64us", "250ms", "3s", "99s", "2m", "2h", "9d", "-"],
        )
        self.assertEqual(seconds(None), "")
