"""
Tests for C{benchmarks.restart}: that nobody notices when a server is replaced, with
real processes.  How long anybody waits for that decides nothing here.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import TestCase

from benchmarks.restart import BAD, report, running


class RestartTests(TestCase):
    """Clients send and receive all the time, while servers are replaced."""

    timeout = 600

    def replaced(
        self, clients: int, *kills: str, handler: str = "echo", rate: float = 1.0
    ) -> dict[str, Any]:
        """
        Replace the server some times, and check what clients have noticed.

        @param kills: for each time, which process is killed halfway, if any.
        @return: what they have found.
        """
        with running(clients, rate, handler) as (servers, crowd):
            for kill in kills:
                servers.start(kill)
                found = crowd.back()
                moved = 1 if kill else clients  # at least
                self.assertGreaterEqual(len(found["gaps"]), moved, report(found, 0))
            found = crowd.end()
        self.assertGreater(found["acknowledged"], 0)
        return found

    def test_waves(self) -> None:
        """
        Clients of a handler for each of them: nothing is lost or there twice, nobody
        is told of a failure, and nobody is refused.
        """
        found = self.replaced(50, "", "", "")
        self.assertEqual([found[name] for name in BAD], [0] * len(BAD), found)

    def test_atOnce(self) -> None:
        """Clients who hear of one another: the same."""
        found = self.replaced(20, "", "", handler="relay", rate=0.5)
        self.assertEqual([found[name] for name in BAD], [0] * len(BAD), found)

    def test_killed(self) -> None:
        """Also if one of both is killed, though the other may not be there at once."""
        found = self.replaced(40, "old", "new", "")
        del found["refused"]
        self.assertEqual([found.get(name, 0) for name in BAD], [0] * len(BAD), found)
