"""
The line that somebody types.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import aesm.chat.editor
from aesm.chat.editor import LineEditor, cellsOf

WIDE = "\u65e5\u672c\u8a9e"  # two columns each
ACCENT = "q\u0301"  # two characters, one column


class LineEditorTests(SynchronousTestCase):
    """Editing, the history, and what fits on the screen."""

    def make(self, text: str = "", cursor: int | None = None) -> LineEditor:
        """
        Make an editor.

        @param text: what is typed already.
        @param cursor: where the cursor is, None for the end.
        """
        editor = LineEditor(100)
        editor.insert(text)
        if cursor is not None:
            editor.cursor = cursor
        return editor

    def test_cells(self) -> None:
        """Wide characters count two columns, combining ones none."""
        self.assertEqual(cellsOf("abc"), 3)
        self.assertEqual(cellsOf(WIDE), 6)
        self.assertEqual(cellsOf(ACCENT), 1)
        self.assertEqual(cellsOf("\uff21\u200d"), 2)

    def test_insert(self) -> None:
        """Text is inserted at the cursor."""
        editor = self.make("hd")
        editor.left()
        for character in "ello worl":
            editor.insert(character)
        self.assertEqual((editor.text, editor.cursor), ("hello world", 10))

    def test_insertTidies(self) -> None:
        """What cannot be shown is replaced."""
        self.assertEqual(self.make("a\r\nb\x1b[").text, "a  b\ufffd[")

    def test_limit(self) -> None:
        """A line does not grow over its limit, and characters stay whole."""
        editor = self.make("x" * 98)
        editor.insert("\u65e5")
        self.assertEqual(len(editor.text), 98)
        editor.insert("yyyy")
        self.assertEqual(editor.text, "x" * 98 + "yy")

    def test_moving(self) -> None:
        """
        The cursor goes over a character together with what stands on it, and not
        past the ends.
        """
        editor = self.make("a" + ACCENT + "b")
        seen = []
        for move in [editor.left] * 4 + [editor.right] * 4:
            move()
            seen.append(editor.cursor)
        self.assertEqual(seen, [3, 1, 0, 0, 1, 3, 4, 4])
        editor.home()
        self.assertEqual(editor.cursor, 0)
        editor.end()
        self.assertEqual(editor.cursor, 4)

    def test_removing(self) -> None:
        """Keys remove a character, a word, or all on one side of the cursor."""
        for cursor, method, text, after in (
            (3, "backspace", "ab cd ", 2),
            (0, "backspace", "abc cd ", 0),
            (3, "delete", "abccd ", 3),
            (7, "delete", "abc cd ", 7),
            (7, "removeWord", "abc ", 4),
            (4, "removeWord", "cd ", 0),
            (4, "removeBefore", "cd ", 0),
            (4, "removeBehind", "abc ", 4),
        ):
            editor = self.make("abc cd ", cursor)
            getattr(editor, method)()
            self.assertEqual(
                (method, editor.text, editor.cursor), (method, text, after)
            )
        editor = self.make("a" + ACCENT)
        editor.backspace()
        self.assertEqual(editor.text, "a")

    def test_history(self) -> None:
        """Lines can be called back, and the unfinished one after them."""
        editor = self.make()
        editor.older()
        editor.newer()
        for line in ("one", "two", "two", " "):
            editor.insert(line)
            self.assertEqual(editor.take(), line)
        editor.insert("draft")
        seen = []
        for recall in [editor.older] * 3 + [editor.newer] * 3:
            recall()
            seen.append(editor.text)
        self.assertEqual(seen, ["two", "one", "one", "two", "draft", "draft"])
        self.assertEqual(editor.cursor, 5)

    def test_historyBound(self) -> None:
        """The history is bounded; the newest lines are kept."""
        self.patch(aesm.chat.editor, "HISTORY", 2)
        editor = self.make()
        for line in ("one", "two", "three"):
            editor.insert(line)
            editor.take()
        for _ in range(5):
            editor.older()
        self.assertEqual(editor.text, "two")

    def test_window(self) -> None:
        """The window moves no further than it must to show the cursor."""
        editor = self.make("0123456789")
        self.assertEqual(editor.window(20), ("0123456789", 10))
        self.assertEqual(editor.window(5), ("6789", 4))
        editor.cursor = 7
        self.assertEqual(editor.window(5), ("6789", 1))
        editor.home()
        self.assertEqual(editor.window(5), ("0123", 0))
        editor.cursor = 4
        self.assertEqual(editor.window(5), ("0123", 4))
        editor.end()
        editor.window(5)
        self.assertEqual(editor.window(20), ("0123456789", 10))

    def test_windowWide(self) -> None:
        """A wide character is shown whole or not at all."""
        editor = self.make(WIDE)
        self.assertEqual(editor.window(6), (WIDE[1:], 4))
        editor.home()
        self.assertEqual(editor.window(6), (WIDE[:2], 0))

    @settings(deadline=None)
    @given(
        st.text(st.sampled_from("ab \u65e5\u0301\U0001f600"), max_size=30),
        st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), max_size=5),
    )
    def test_windowAlways(self, text: str, looks: list[tuple[int, int]]) -> None:
        """
        The window is a part of the text that leaves a column free, and the cursor
        is in it.
        """
        editor = self.make(text)
        for cursor, width in looks:
            editor.cursor = min(cursor, len(editor.text))
            shown, column = editor.window(width)
            self.assertIn(shown, editor.text)
            self.assertLess(cellsOf(shown), width)
            self.assertTrue(0 <= column <= cellsOf(shown))
