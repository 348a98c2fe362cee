"""
What a name is in the chat, and what may stand in a line: nothing that could end
a line, hide in one, or make two names look the same by case or width::

    tidyName("alice"), tidyName("al ice")         # "alice", None
    foldName("Alice") == foldName("\uff41lice")     # True
    oneLine("hello\\nsay lobby bob: forged")       # "hello say lobby bob: forged"
"""

from __future__ import annotations

import unicodedata

__all__ = ["MAX_NAME", "foldName", "oneLine", "sizeOf", "tidyName"]

MAX_NAME = 24  # characters of a name, of somebody or of a room
NAME_MARKS = frozenset("_-.")
NAME_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lo", "Nd"})
INVISIBLE_LETTERS = frozenset("\u115f\u1160")  # Hangul fillers; NFKC makes two of four
JOINERS = frozenset("\u200c\u200d")  # in Persian words and in emoji


def oneLine(text: str) -> str:
    """
    Make text safe to stand in a line: no control character, no line or paragraph
    separator, nothing that reorders or hides what stands around it.

    @return: as many characters: a space for what would break the line or is a
        tab, U+FFFD for other such characters, and all else as it was.
    """
    return "".join(map(_oneLineCharacter, text))


def _oneLineCharacter(character: str) -> str:
    """Replace a character that must not stand in a line."""
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " " if character.isspace() else "\ufffd"
    if category == "Cs" or (category == "Cf" and character not in JOINERS):
        return "\ufffd"
    return character


def tidyName(text: str) -> str | None:
    """
    Bring a name into the form in which it is shown.

    @return: the name, NFKC: 1 to L{MAX_NAME} letters, digits, C{_}, C{-} and
        C{.}; or None if it is no name.
    """
    if not 0 < len(text) <= 4 * MAX_NAME:  # NFKC may shorten
        return None
    name = unicodedata.normalize("NFKC", text)
    if len(name) > MAX_NAME or not all(map(_isNameCharacter, name)):
        return None
    return name


def _isNameCharacter(character: str) -> bool:
    """
    Tell whether a character may stand in a name.

    @param character: one character, NFKC.
    """
    if character in NAME_MARKS:
        return True
    isLetter = unicodedata.category(character) in NAME_CATEGORIES
    return isLetter and character not in INVISIBLE_LETTERS


def foldName(name: str) -> str:
    """
    Make the key under which names collide that differ in case or width only.

    @return: the key; not for showing.
    @see: Unicode Standard, section 3.13.5, D146 (compatibility caseless match)
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def sizeOf(text: str) -> int:
    """
    Measure text.

    @return: bytes of UTF-8.
    """
    return len(text.encode("utf-8", "surrogatepass"))
