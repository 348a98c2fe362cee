"""
Text from strangers, made safe to show, and how much room it takes.
"""

from __future__ import annotations

import json
import unicodedata

__all__ = ["CUT", "asciiJSON", "cellsOf", "cut", "escape"]

CUT = "~"  # in the place of what there is no room for


def escape(text: str) -> str:
    """
    Make text safe to show: control characters (C0, DEL, C1), those that turn the
    direction of writing or do not show, line and paragraph separators, and what
    is no character at all become escapes as in Python, such as C{\\x1b}.

    Blanks of any width stay, and so does a backslash: what was an escape already
    looks the same as what has become one.

    @param text: any.
    @return: one line of printable characters.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def asciiJSON(value: object) -> str:
    """Write JSON, on one line of printable ASCII."""
    # It escapes all other control characters, but lets DEL through.
    return json.dumps(value).replace("\x7f", "\\u007f")


def cellsOf(text: str) -> int:
    """
    Measure text on a terminal.

    @return: columns: none for a character that stands on the one before, two for a
        wide one, else one.
    @see: Unicode Standard Annex 11
    """
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def cut(text: str, width: int) -> str:
    """Cut text to so many columns."""
    if cellsOf(text) <= width:
        return text
    while text and cellsOf(text) + cellsOf(CUT) > width:
        text = text[:-1]
    return text + CUT
