"""
A line that somebody types, without a terminal: the text, the cursor, the part
that fits on the screen, and the lines before::

    editor = LineEditor(4096)
    editor.insert("hello")
    editor.home()
    editor.window(40)           # ("hello", 0): what to show, and the cursor's column
    editor.take()               # "hello"
"""

from __future__ import annotations

import unicodedata

from aesm.chat.text import oneLine, sizeOf

__all__ = ["HISTORY", "LineEditor", "cellsOf"]

HISTORY = 100  # lines that can be called back


def cellsOf(text: str) -> int:
    """
    Measure text on a terminal.

    @return: columns.
    @see: Unicode Standard Annex 11
    """
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    """
    Measure a character on a terminal.

    @return: 0 if it stands on the one before, 2 if it is wide, else 1.
    """
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class LineEditor:
    """
    A line that somebody types, and those before.

    @ivar cursor: before which of its characters the cursor is.
    """

    def __init__(self, limit: int) -> None:
        """@param limit: bytes of UTF-8 in a line; more is not taken."""
        self.text = ""
        self.cursor = 0
        self._limit = limit
        self._first = 0  # the first character that is shown
        self._history: list[str] = []
        self._recalled = 0  # which line of the history is shown; past it, a new one
        self._draft = ""  # the new line, while an old one is shown

    def insert(self, text: str) -> None:
        """
        Type.

        @param text: any; what is no printable character is replaced.
        """
        text = oneLine(text)
        # The bound is in bytes, and characters cannot be cut.
        while sizeOf(self.text) + sizeOf(text) > self._limit:
            text = text[:-1]
            if not text:
                return
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def left(self) -> None:
        """Go back by a character and what stands on it."""
        self.cursor = self._before()

    def right(self) -> None:
        """Go on by a character and what stands on it."""
        self.cursor = self._behind()

    def home(self) -> None:
        """Go to the beginning."""
        self.cursor = 0

    def end(self) -> None:
        """Go to the end."""
        self.cursor = len(self.text)

    def backspace(self) -> None:
        """Remove the character before the cursor."""
        self._removeFrom(self._before())

    def delete(self) -> None:
        """Remove the character at the cursor."""
        self.text = self.text[: self.cursor] + self.text[self._behind() :]

    def removeWord(self) -> None:
        """Remove the word before the cursor, with the blanks behind it."""
        before = self.text[: self.cursor].rstrip(" ")
        self._removeFrom(before.rfind(" ") + 1)

    def removeBefore(self) -> None:
        """Remove all before the cursor."""
        self._removeFrom(0)

    def removeBehind(self) -> None:
        """Remove all from the cursor on."""
        self.text = self.text[: self.cursor]

    def older(self) -> None:
        """Call back the line before."""
        if self._recalled == len(self._history):
            self._draft = self.text
        self._recall(max(self._recalled - 1, 0))

    def newer(self) -> None:
        """Call back the line behind, at last the one that was not finished."""
        if self._recalled < len(self._history):
            self._recall(self._recalled + 1)

    def take(self) -> str:
        """Finish the line."""
        line = self.text
        if line.strip() and self._history[-1:] != [line]:
            self._history.append(line)
            del self._history[:-HISTORY]
        self._recalled = len(self._history)
        self.text = self._draft = ""
        self.cursor = 0
        return line

    def window(self, width: int) -> tuple[str, int]:
        """
        Choose what to show.

        @param width: columns, with that of a cursor behind the text.
        @return: the part of the text around the cursor that fits, and the
            column of the cursor in it.
        """
        # The first character shown stays where it was while the cursor is in sight,
        # so that the line does not jump.  It moves as little as it must: not behind
        # the cursor, not so far to the left that the cursor would be out of sight, and
        # not so far to the right that columns stay empty while there is text before.
        earliest = self._fitting(self.cursor, width)
        latest = min(self.cursor, self._fitting(len(self.text), width))
        first = self._first = min(max(self._first, earliest), latest)
        end, used = first, 0
        while end < len(self.text) and used + _cells(self.text[end]) < width:
            used += _cells(self.text[end])
            end += 1
        return self.text[first:end], cellsOf(self.text[first : self.cursor])

    def _fitting(self, end: int, width: int) -> int:
        """
        Find the beginning of the longest part of the text that fits.

        @param width: columns, with one that stays free.
        """
        first, used = end, 0
        while first > 0 and used + _cells(self.text[first - 1]) < width:
            first -= 1
            used += _cells(self.text[first])
        return first

    def _before(self) -> int:
        """Find where the character before the cursor begins."""
        position = max(self.cursor - 1, 0)
        while position > 0 and not _cells(self.text[position]):
            position -= 1
        return position

    def _behind(self) -> int:
        """Find where the character at the cursor ends."""
        position = self.cursor + 1
        while position < len(self.text) and not _cells(self.text[position]):
            position += 1
        return min(position, len(self.text))

    def _removeFrom(self, position: int) -> None:
        """Remove what is before the cursor."""
        self.text = self.text[:position] + self.text[self.cursor :]
        self.cursor = position

    def _recall(self, index: int) -> None:
        """
        Show a line of the history.

        @param index: which; past the last one for the line not finished.
        """
        self._recalled = index
        self.text = [*self._history, self._draft][index]
        self.cursor = len(self.text)
