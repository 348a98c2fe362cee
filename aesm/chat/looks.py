"""
How the chat looks, in a terminal and in a window: everybody has a colour, and long
lines hang below where their text begins::

    colourOf("alice", MIDDLE)       # "#8b60ca"
    wrap("12:03 alice: ", "hello, all of you", 24)
"""

from __future__ import annotations

import re
import zlib

from aesm.text import cellsOf

NARROWEST = 8  # columns, however narrow a terminal says that it is

# Ten hues, as far apart as they can be told.  Each list has one luminance, so that all
# of them are as easy to read: 4.5 times that of black and of white alike, since nobody
# knows what a terminal's background is; or more, for a white and a dark background.
MIDDLE = (
    *("#c94c49", "#b75e03", "#967001", "#558303", "#038758"),
    *("#048484", "#047eaf", "#4871d5", "#8b60ca", "#b74f9a"),
)
DEEP = (
    *("#b03534", "#984d02", "#7c5c04", "#456c00", "#027048"),
    *("#026d6d", "#056891", "#355bbd", "#764ab2", "#9f3984"),
)
BRIGHT = (
    *("#fe877f", "#f98f3a", "#d6a20a", "#84b941", "#10c180"),
    *("#0cbdbd", "#06b5fa", "#82a8fe", "#bd96fe", "#f284d0"),
)


def colourOf(name: str, colours: tuple[str, ...]) -> str:
    """Find somebody's colour, which is the same in every room and on every day."""
    return colours[zlib.crc32(name.casefold().encode("utf-8")) % len(colours)]


def wrap(head: str, text: str, width: int) -> list[str]:
    """
    Break a text into rows that fit below each other, at blanks where there are some.

    @param head: what stands before it in the first row; below it the others have
        blanks, a third of the width at most.
    @param width: columns.
    @return: the rows; the first one begins with the head, however long that is.
    """
    width = max(width, NARROWEST)
    indent = min(cellsOf(head), width // 3)
    rows, start, used = [""], cellsOf(head), cellsOf(head)
    for word in re.findall(r"\s+|\S+", text):
        room = width - used
        if room < cellsOf(word) <= width - indent and used > start:
            rows.append("")
            start = used = indent
        for character in word:
            cells = cellsOf(character)
            if used + cells > width:
                rows.append("")
                start = used = indent
            if used > start or len(rows) == 1 or not character.isspace():
                rows[-1] += character
                used += cells
    return [head + rows[0], *(" " * indent + row for row in rows[1:])]
