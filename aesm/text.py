"""
Text from strangers, made safe to show.
"""

from __future__ import annotations

import unicodedata

__all__ = ["escape"]


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
