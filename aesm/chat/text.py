"""
What may stand in a line of the chat: nothing that could end it, hide in it, or reach
out of it::

    oneLine("hello\\nsay lobby bob: forged")       # "hello say lobby bob: forged"

What a name is says L{aesm.chat.names}.
"""

from __future__ import annotations

import unicodedata

MAX_MARKS = 4  # on one character
JOINERS = frozenset("\u200c\u200d")  # in Persian words and in emoji


def oneLine(text: str) -> str:
    """
    Make text safe to stand in a line: no control character, no line or paragraph
    separator, nothing that reorders or hides what stands around it, no pile of
    combining marks.

    @return: as many characters: a space for what would break the line or is a
        tab, U+FFFD for other such characters, and all else as it was.
    """
    return fewMarks("".join(map(_oneLineCharacter, text)))


def _oneLineCharacter(character: str) -> str:
    """Replace a character that must not stand in a line."""
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " " if character.isspace() else "\ufffd"
    if category == "Cs" or (category == "Cf" and character not in JOINERS):
        return "\ufffd"
    return character


def fewMarks(text: str) -> str:
    """
    Keep combining marks from piling up over the lines around.

    @return: as many characters: U+FFFD for each mark on a character, past the first
        L{MAX_MARKS}, that takes no place of its own.
    """
    if text.isascii():
        return text
    shown, marks = [], 0
    for character in text:
        category = unicodedata.category(character)
        if category in ("Mn", "Me"):
            marks += 1
            shown.append(character if marks <= MAX_MARKS else "\ufffd")
            continue
        if category not in ("Mc", "Cf"):  # these two do not begin a new character
            marks = 0
        shown.append(character)
    return "".join(shown)


def sizeOf(text: str) -> int:
    """Tell how many bytes text has in UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))
