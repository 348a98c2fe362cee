"""
Tests for L{aesm.chat.text}.
"""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from aesm.chat.text import MAX_MARKS, fewMarks, oneLine
from tests.chat.test_rules import nasty


class TextTests(SynchronousTestCase):
    """What may stand in a line."""

    def test_oneLine(self) -> None:
        """
        What would break or reorder a line is replaced, character by character;
        everything else stays, joiners in words and emoji too.
        """
        self.assertEqual(oneLine("a\r\n\tb\u2028c\x85d"), "a   b c d")
        self.assertEqual(
            oneLine("\x1b[2J\u202e\ud800\x00"), "\ufffd[2J\ufffd\ufffd\ufffd"
        )
        kept = "\u00fc \u65e5 \u05e9 \u06cc\u200c\u062e \U0001f468\u200d\U0001f4bb"
        self.assertEqual(oneLine(kept), kept)

    @settings(deadline=None)
    @given(nasty)
    def test_oneLineAlways(self, text: str) -> None:
        """The result is one line without control characters, as long as before."""
        line = oneLine(text)
        self.assertEqual(len(line), len(text))
        self.assertLessEqual(len(line.splitlines()), 1)
        line.encode("utf-8")
        self.assertNotIn("Cc", map(unicodedata.category, line))

    def test_marks(self) -> None:
        """
        So many combining marks stand on a character; a joiner, or a mark that takes
        a place of its own, makes room for no more.
        """
        for mark in ("\u0301", "\u20dd"):
            for between in ("", "\u200d", "\u0903"):
                most = "a" + f"{between}{mark}" * MAX_MARKS
                for text, shown in (
                    (most[:-1], most[:-1]),
                    (most, most),
                    (most + between + mark, f"{most}{between}\ufffd"),
                    (most + mark * 3 + most, f"{most}\ufffd\ufffd\ufffd{most}"),
                    (mark * (MAX_MARKS + 1), mark * MAX_MARKS + "\ufffd"),
                ):
                    self.assertEqual(oneLine(text), shown)
                    self.assertEqual(fewMarks(text), shown)

    def test_marksOfLanguages(self) -> None:
        """What people write is left as it is."""
        for text in (
            "Vi\u1ec7t Nam Vie\u0323\u0302t",
            "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
            "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48",
            "\u0928\u092e\u0938\u094d\u0924\u0947",
            "\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f",
            "\u1019\u103c\u103d\u103e\u1031\u1037",
            "\U0001f469\u200d\u2764\ufe0f\u200d\U0001f468 1\ufe0f\u20e3",
        ):
            self.assertEqual(oneLine(text), text)
