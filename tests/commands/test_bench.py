"""
C{aesm bench}, with little to do.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from aesm.commands import bench
from tests.system.test_commands import PATIENCE, environment

LITTLE = (
    "import sys; from aesm.commands import bench, cli; "
    "bench.ROUNDS = 1; bench.CONNECTS = 2; "
    "bench.ROUND_TRIPS = 3; bench.SMALL = (64, 5000); bench.LARGE = (262144, 3); "
    "sys.exit(cli.main(['bench']))"
)
FIGURES = r"""aesm [\d.]+ \((pure Python|compiled)\)
connect and close +[\d.]+ ms
round trip, 64 B +[\d.]+ ms
64 B messages +[\d,]+ /s
256 KiB messages +[\d,]+ MB/s
"""


class BenchTests(SynchronousTestCase):
    """L{bench}."""

    def launch(self, program: str) -> subprocess.CompletedProcess[str]:
        """
        Run a program.

        @param program: Python code.
        @return: how it ended.
        """
        with tempfile.TemporaryDirectory() as home:
            return subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                text=True,
                cwd=home,
                env=environment(Path(home)),
                timeout=PATIENCE * 2,
                check=False,
            )

    def test_figures(self) -> None:
        """It says what it measures, prints four figures, and touches no file."""
        ended = self.launch(LITTLE)
        self.assertEqual((ended.stderr, ended.returncode), ("", 0))
        self.assertRegex(ended.stdout, f"^{FIGURES}$")

    def test_noServer(self) -> None:
        """Without its server it ends with status 1; the server has said why."""
        self.patch(sys, "executable", "/bin/false")
        self.assertEqual(bench.bench(), 1)

    def test_words(self) -> None:
        """Figures are for people."""
        self.assertEqual(bench._milliseconds(0.00123), "1.23 ms")
        self.assertEqual(bench._rate(1e-6), "1,000,000 /s")
        self.assertEqual(bench._bandwidth(262_144e-9), "1,000 MB/s")
