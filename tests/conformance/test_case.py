"""
What bounds the checks: who is silent, or never done, and what takes too long.
"""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from aesm.conformance.case import CHECKS, SERVER, Case, Subject
from aesm.conformance.runner import FAIL, NOT_APPLICABLE, PASS
from aesm.testing import MemoryNetwork
from tests.support.judging import judge, outcomesOf


class BoundTests(SynchronousTestCase):
    """Each check comes to an end."""

    def test_silent(self) -> None:
        """A peer that never says anything fails after five seconds, by patience."""
        for patience in (1.0, 3.0):
            network = MemoryNetwork()
            network.endpoint().listen(Factory.forProtocol(Protocol))
            subject = Subject(network.clock, network.endpoint(), patience=patience)
            (outcome,) = outcomesOf(network, subject, ["frames.text"]).values()
            self.assertEqual(outcome.verdict, FAIL)
            self.assertEqual(outcome.seen, f"nothing came for {5 * patience:g} s")
            self.assertEqual(outcome.seconds, 5 * patience)

    def test_longest(self) -> None:
        """What takes more than 45 seconds of a peer's own is not waited for."""
        for heartbeat, verdict in ((22.5, PASS), (22.6, NOT_APPLICABLE)):
            (outcome,) = judge(
                SERVER, ["heartbeat.gives-up"], heartbeat=heartbeat
            ).values()
            self.assertEqual(outcome.verdict, verdict)

    def test_neverDone(self) -> None:
        """A check that goes on and on fails after 180 seconds."""

        async def forEver(case: Case) -> None:
            while True:
                await case.sleep(1)

        text = CHECKS["frames.text"]
        self.addCleanup(CHECKS.__setitem__, text.name, text)
        CHECKS[text.name] = replace(text, run=forEver)
        (outcome,) = judge(SERVER, [text.name]).values()
        self.assertEqual((outcome.verdict, outcome.seconds), (FAIL, 180.0))
        self.assertEqual(outcome.seen, "it was not done in 180 s")
