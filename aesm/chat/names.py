"""
What a name is in the chat, of somebody or of a room, and when two of them look the
same::

    tidyName("alice"), tidyName("al ice")         # "alice", None
    foldName("Alice") == foldName("\\uff41lice")     # True
    looksOf("Iain") & looksOf("lain")             # not empty: who could tell them apart

    people: Register[str] = Register()
    people.add("alice", "the first")
    people.get("ALICE")                           # "the first"
    people.get("\\u0430lice")                        # None: another letter
    people.alike("a1ice")                         # ["the first"]

Somebody is found only by the letters of their name, so that nothing goes to one who
only looks like whom it is for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, ValuesView
from typing import Generic, TypeVar

from aesm.chat.confusables import PROTOTYPES

MAX_NAME = 24  # characters of a name, of somebody or of a room
NAME_MARKS = frozenset("_-.")
NAME_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lo", "Nd"})  # so no combining mark
INVISIBLE_LETTERS = frozenset("\u115f\u1160")  # Hangul fillers; NFKC makes two of four

# What is written with more than one script, of these names, UTS 39, section 5.1.
SYSTEMS = (
    frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    frozenset({"CJK", "HANGUL"}),
    frozenset({"CJK", "BOPOMOFO"}),
)

_T = TypeVar("_T", bound=Hashable)


def tidyName(text: str) -> str | None:
    """
    Bring a name into the form in which it is shown.

    @return: the name, NFKC: 1 to L{MAX_NAME} letters and digits of one script,
        C{_}, C{-} and C{.}; or None if it is no name.
    """
    if not 0 < len(text) <= 4 * MAX_NAME:  # NFKC may shorten
        return None
    name = unicodedata.normalize("NFKC", text)
    if len(name) > MAX_NAME or not all(map(_isNameCharacter, name)):
        return None
    return name if _isOneScript(name) else None


def nameFrom(text: str) -> str:
    """
    Make a name of what the operator calls a key.

    @param text: any, not empty.
    @return: as C{tidyName}, with C{_} for what cannot be in a name; of as many scripts
        as the operator uses.
    """
    name = unicodedata.normalize("NFKC", text)[:MAX_NAME]
    return "".join(c if _isNameCharacter(c) else "_" for c in name)


def _isNameCharacter(character: str) -> bool:
    """Tell whether a character, NFKC, may stand in a name."""
    if character in NAME_MARKS:
        return True
    isLetter = unicodedata.category(character) in NAME_CATEGORIES
    return isLetter and character not in INVISIBLE_LETTERS


def _isOneScript(name: str) -> bool:
    """
    Tell whether a name is of one script, or of those that one language mixes; what is
    in ASCII and no letter goes with all.
    """
    scripts = {_scriptOf(c) for c in name if c.isalpha() or not c.isascii()}
    return len(scripts) < 2 or any(scripts <= system for system in SYSTEMS)


def _scriptOf(character: str) -> str:
    """Name a character's script, as C{"LATIN"}; several historic ones may share it."""
    # Python does not know the property Script.  But for the characters that names can
    # have the first word of the character's name says the same, but for one script's
    # digits; python -m tests.support.confusables compares them all.
    word = unicodedata.name(character, "").replace("-", " ").partition(" ")[0]
    return "ARABIC" if word == "EXTENDED" else word


def foldName(name: str) -> str:
    """
    Make the key under which names collide that differ in case or width only.

    @see: Unicode Standard, section 3.13.5, D146 (compatibility caseless match)
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def looksOf(name: str) -> frozenset[str]:
    """
    Tell what a name looks like: as it is written, in small letters and in capitals.

    @return: the skeletons of these; two names that share one can be taken for each
        other.  All that C{foldName} makes the same share one.
    @see: UTS 39, section 4
    """
    # Case by case and not folded alone: I looks like l, and i does not; n and the
    # Greek letter nu differ, and their capitals do not.
    return frozenset(map(_skeleton, (name, foldName(name), name.upper())))


def _skeleton(text: str) -> str:
    """Put one character in place of all that look the same."""
    shown = unicodedata.normalize("NFD", text).translate(PROTOTYPES)
    return unicodedata.normalize("NFD", shown)


class Register(Generic[_T]):
    """Who, or what, has which name; no two of them look the same."""

    def __init__(self) -> None:
        self._byName: dict[str, _T] = {}  # folded
        self._byLook: dict[str, _T] = {}

    def __len__(self) -> int:
        """Count the names."""
        return len(self._byName)

    def values(self) -> ValuesView[_T]:
        """Get who has a name, in the order in which they got it."""
        return self._byName.values()

    def get(self, name: str) -> _T | None:
        """Find who has a name, in whatever case and width."""
        return self._byName.get(foldName(name))

    def alike(self, name: str) -> list[_T]:
        """Find all whose names could be taken for this one, each once."""
        # In an order that is the same in every process.
        looks = sorted(looksOf(name))
        return list(dict.fromkeys(self._byLook[k] for k in looks if k in self._byLook))

    def add(self, name: str, owner: _T) -> None:
        """Give a name that C{alike} finds nobody for."""
        self._byName[foldName(name)] = owner
        for look in looksOf(name):
            self._byLook[look] = owner

    def remove(self, name: str) -> None:
        """Take a name away from who has it."""
        del self._byName[foldName(name)]
        for look in looksOf(name):
            del self._byLook[look]
