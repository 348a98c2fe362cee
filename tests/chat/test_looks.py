"""
How the chat looks: colours that can be read, and rows that fit.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.chat.looks import BRIGHT, DEEP, MIDDLE, NARROWEST, colourOf, wrap
from aesm.text import cellsOf

WIDE = "\u65e5\u672c\u8a9e"  # two columns each
SOME = "abc \u65e5\u0301"


def luminance(colour: str) -> float:
    """
    Measure a colour.

    @see: WCAG 2.2, "relative luminance"
    """
    parts = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Compare two colours: from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


class ColourTests(SynchronousTestCase):
    """Everybody has a colour."""

    def test_contrast(self) -> None:
        """All can be read: on white and black, on white, and on a dark background."""
        for colours, background, least in (
            (MIDDLE, "#ffffff", 4.5),
            (MIDDLE, "#000000", 4.5),
            (DEEP, "#ffffff", 6.0),
            (BRIGHT, "#1b1c20", 7.0),
        ):
            for colour in colours:
                self.assertGreaterEqual(contrast(colour, background), least, colour)

    def test_stable(self) -> None:
        """A name has the same colour wherever and however it is written."""
        self.assertEqual(colourOf("alice", MIDDLE), "#048484")
        self.assertEqual(colourOf("ALICE", MIDDLE), colourOf("alice", MIDDLE))
        names = {f"name{number}" for number in range(100)}
        self.assertEqual({colourOf(name, DEEP) for name in names}, set(DEEP))


class WrapTests(SynchronousTestCase):
    """Long lines hang below where their text begins."""

    def test_short(self) -> None:
        """What fits is one row, to the last column."""
        self.assertEqual(wrap("ab: ", "one two", 11), ["ab: one two"])

    def test_words(self) -> None:
        """What does not is broken at blanks, which go."""
        self.assertEqual(
            wrap("ab: ", "one two  three", 10), ["ab: one ", "   two  ", "   three"]
        )

    def test_indent(self) -> None:
        """Rows hang below the text, a third of the width in at most."""
        self.assertEqual(wrap("ab: ", "one two", 12), ["ab: one two"])
        self.assertEqual(wrap("ab: ", "one two six", 12), ["ab: one two ", "    six"])
        self.assertEqual(wrap("abcdef: ", "one two", 12), ["abcdef: one ", "    two"])

    def test_longWords(self) -> None:
        """A word that fits nowhere is broken where the row ends."""
        self.assertEqual(wrap("ab: ", "0123456789", 9), ["ab: 01234", "   56789"])

    def test_wide(self) -> None:
        """Wide characters take two columns, and are not cut in two."""
        self.assertEqual(
            wrap("ab: ", WIDE * 2, 9),
            [f"ab: {WIDE[:2]}", f"   {WIDE[2]}{WIDE[:2]}", f"   {WIDE[2]}"],
        )

    @given(
        st.text("ab \u65e5\u0301", max_size=12),
        st.text("abc \u65e5\u0301"),
        st.integers(0, 40),
    )
    def test_always(self, head: str, text: str, width: int) -> None:
        """
        All rows fit, but for a head that does not; nothing is lost but blanks, and
        no row but the first is empty.
        """
        rows = wrap(head, text, width)
        self.assertTrue(rows[0].startswith(head))
        said = "".join([rows[0].removeprefix(head), *rows[1:]])
        self.assertEqual(said.replace(" ", ""), text.replace(" ", ""))
        for row in rows[cellsOf(head) > max(width, NARROWEST) :]:
            self.assertLessEqual(cellsOf(row), max(width, NARROWEST))
