"""
Tests for what becomes of sessions when an engine's primary is killed, and a replica
which is behind takes its place; C{python -m tests.support.failover} has more of them.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from aesm.cluster import repair
from tests.support.failover import failOver


class FailoverTests(TestCase):
    """Real servers, of which one is held back, and one killed."""

    async def test_primary(self) -> None:
        """What the replica lacked is there again, since its nodes live."""
        outcome = await failOver(reactor, 1, "primary")
        self.assertGreater(outcome.behind, 0)
        self.assertEqual(outcome.wrong, [])

    async def test_replica(self) -> None:
        """What a replica has to have is never missing, whoever dies."""
        self.patch(repair, "TIME", 0.5)  # to wait for nodes that are dead
        outcome = await failOver(reactor, 1, "replica")
        self.assertEqual(outcome.wrong, [])
