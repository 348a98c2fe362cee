"""
Nodes of a cluster that are stopped and started again, one after the other: real
processes, behind one port.
"""

from __future__ import annotations

from tests.system.test_commands import ProcessTestCase


class RollingTests(ProcessTestCase):
    """C{python -m tests.support.clustershow --fault term}, for a few seconds."""

    def test_restart(self) -> None:
        """Nothing is lost, comes twice or out of order, and no session is lost."""
        show = self.start(
            *("-m", "tests.support.clustershow", "--fault=term", "--faults=2"),
            *("--nodes=2", "--clients=6", "--messages=600"),
            *("--ahead=1", "--pause=0.02"),
        )
        show.expect("600 messages of 6 clients in .* 0 missing, 0 sessions lost")
        show.expect("[12] times term, 0 tracebacks")
        self.assertEqual(show.wait(), 0)
