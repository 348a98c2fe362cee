"""
Tests for C{benchmarks.trace}, and of what it measures: how far one has to go through
the code to follow an operation.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import aesm
from benchmarks.trace import OPERATIONS, Step, between, figures, table, traceTree
from tests.support.compiled import excepted

# Files visited, and jumps between them.  TCP may cut what is read in other pieces, so
# that there is some slack where more than one message goes to and fro.
BOUNDS = {
    "send": (11, 15),
    "handle": (7, 7),
    "acknowledge": (14, 23),
    "connect": (26, 88),
    "resume": (30, 100),
    "sendAll": (17, 80),
    "durable": (21, 87),
}


class FigureTests(SynchronousTestCase):
    """Calls become figures."""

    steps = [Step("a", "f"), Step("a", "g"), Step("", "send"), Step("b", "h")]

    def test_figures(self) -> None:
        """Files are counted once, jumps each time; a mark is neither."""
        self.assertEqual(figures(self.steps), (2, 1))
        self.assertEqual(figures([*self.steps, self.steps[0]]), (2, 2))
        self.assertEqual(figures([]), (0, 0))

    def test_between(self) -> None:
        """One mark ends a piece, two bound it."""
        self.assertEqual(between(self.steps, "send"), self.steps[:2])
        steps = [*self.steps, Step("", "recv")]
        self.assertEqual(between(steps, "send", "recv"), [Step("b", "h")])

    def test_table(self) -> None:
        """Each tree has a column."""
        lines = table({"old": dict.fromkeys(OPERATIONS, self.steps)}).splitlines()
        self.assertEqual(len(lines), 1 + len(OPERATIONS))
        self.assertTrue(lines[0].endswith("old"))
        self.assertTrue(lines[1].endswith("       2,      1"), lines[1])


class TraceTests(SynchronousTestCase):
    """The package itself, over real TCP."""

    @excepted
    def test_bounds(self) -> None:
        """No operation goes through more of the code than it did."""
        found = traceTree(Path(aesm.__file__).parent.parent)
        self.assertEqual(found.keys(), OPERATIONS.keys())
        for name, steps in found.items():
            files, jumps = figures(steps)
            mostFiles, mostJumps = BOUNDS[name]
            self.assertTrue(1 < files <= mostFiles, f"{name}: {files} files")
            self.assertTrue(1 < jumps <= mostJumps, f"{name}: {jumps} jumps")
