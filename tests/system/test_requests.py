"""
Requests between real processes, both with spools, that are cut off and killed.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.requests import run

REQUESTS, CUTS, KILLS = 4000, 40, 3


class RequestTests(SynchronousTestCase):
    """C{python -m benchmarks.requests}, for a few seconds."""

    def test_promise(self) -> None:
        """
        Each request is answered or refused once, though connections are cut and both
        sides are killed; nobody asks in vain, and nothing is answered twice.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        found = run(REQUESTS, CUTS, KILLS, 11, folder)
        self.assertEqual(found.wrong, [])
        self.assertEqual(found.counts["answered"] + found.counts["refused"], REQUESTS)
        self.assertGreater(found.counts["cut"], CUTS // 4)
