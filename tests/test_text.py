"""
Text from strangers, made safe to show, and how much room it takes: L{aesm.text}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.text import cellsOf, cut, escape

WIDE = "\u65e5\u672c\u8a9e"  # two columns each
ACCENT = "q\u0301"  # two characters, one column


class TextTests(SynchronousTestCase):
    """What is shown, and how wide it is."""

    def test_escape(self) -> None:
        """What would move the cursor, hide, or turn around is written out."""
        self.assertEqual(escape("a\x1b\n\u202e\u2028"), "a\\x1b\\n\\u202e\\u2028")
        self.assertEqual(escape(f"{WIDE} \u3000\\n"), f"{WIDE} \u3000\\n")

    @given(st.text())
    def test_escaped(self, text: str) -> None:
        """Whatever it was, it is one line without control characters."""
        self.assertLessEqual(len(escape(text).splitlines()), 1)
        self.assertNotIn("\x1b", escape(text))

    def test_cells(self) -> None:
        """Wide characters count two columns, combining ones none."""
        self.assertEqual(cellsOf("abc"), 3)
        self.assertEqual(cellsOf(WIDE), 6)
        self.assertEqual(cellsOf(ACCENT), 1)
        self.assertEqual(cellsOf("\uff21\u200d"), 2)

    def test_cut(self) -> None:
        """What is too wide ends with a sign of that, and fits."""
        for width, shown in ((7, WIDE), (6, WIDE), (5, WIDE[:2] + "~"), (1, "~")):
            self.assertEqual(cut(WIDE, width), shown)
