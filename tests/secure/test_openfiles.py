"""
Tests for L{aesm.secure.openfiles}.
"""

from __future__ import annotations

import resource
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from aesm.secure.openfiles import filesForConnections, placesPossible, raiseFileLimit


class OpenFilesTests(SynchronousTestCase):
    """The limit on open files, shared out."""

    def limit(self, soft: int) -> None:
        """
        Have a limit on open files.

        @param soft: how many.
        """
        self.patch(resource, "getrlimit", lambda what: (soft, soft))

    def test_shares(self) -> None:
        """
        Files are left for other things, for those who come in one turn of the event
        loop, and for handshakes; there is at least one place.
        """
        for soft, connections, places in (
            (1024, 704, 576),
            (128, 64, 48),
            (64, 32, 24),
            (10, 6, 1),
            (2, 2, 1),
            (20000, 18912, 16412),
            (1 << 20, (1 << 20) - 1088, (1 << 20) - 1088 - 4096),
        ):
            self.limit(soft)
            self.assertEqual(
                (filesForConnections(), placesPossible()), (connections, places)
            )

    def test_unlimited(self) -> None:
        """No limit allows any number."""
        self.limit(resource.RLIM_INFINITY)
        self.assertGreater(placesPossible(), 1 << 40)

    def test_raise(self) -> None:
        """The limit becomes what the system allows, where the system keeps its word."""
        asked: list[Any] = []
        self.patch(resource, "getrlimit", lambda what: (100, 4096))
        self.patch(resource, "setrlimit", lambda what, limits: asked.append(limits))
        raiseFileLimit()
        self.assertEqual(asked, [(4096, 4096)])
        for problem in (ValueError, OSError):

            def refuse(what: int, limits: object, problem: Any = problem) -> None:
                """
                Allow it not.

                @param what: which limit.
                @param limits: what it is to be.
                @param problem: what is raised.
                """
                raise problem

            self.patch(resource, "setrlimit", refuse)
            raiseFileLimit()
