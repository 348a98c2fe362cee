"""
A cluster to which something is done under load: real processes, sockets and an engine.
It is the show of L{tests.support.clustershow}, in small.
"""

from __future__ import annotations

from tests.system.test_commands import ProcessTestCase


class FaultTests(ProcessTestCase):
    """Two nodes behind one port, and clients that echo, and send to each other."""

    def test_faults(self) -> None:
        """
        Nodes are killed and stand still, and so does the engine: nothing is lost,
        doubled or out of order.
        """
        show = self.start(
            *("-m", "tests.support.clustershow", "--nodes=2", "--clients=6"),
            *("--messages=300", "--faults=3", "--lasting=1"),
            *("--fault", "kill", "stop", "freeze"),
        )
        self.assertEqual(show.wait(), 0, show.said())
        self.assertIn(" 0 missing, 0 sessions lost", show.output)
        self.assertIn("3 times kill, stop, freeze, 0 tracebacks", show.output)
