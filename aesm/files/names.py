"""
Names that strangers give to files, made safe for a directory of ours::

    name = safeName("../../.bashrc")      # "_bashrc"
    numbered("a.txt", 1)                  # "a (1).txt"

What is dangerous is replaced rather than refused, so that what somebody sends in good
faith arrives: the name that it has then is told to who sent it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator

MAX_NAME = 240  # bytes in UTF-8: what file systems take, less what a number needs
MOST_NUMBERED = 1000  # names that are tried
LONGEST_SUFFIX = 20  # bytes of a name's end that are kept if it is cut
_FILLER = "_"
# What means something to a shell's globs, to Windows, or to what is mounted from it.
_SPECIAL = frozenset('/\\:*?"<>|')
# Device names there, whatever their suffix.
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE
)


def safeName(name: str) -> str:
    """
    Make a name that can do no harm: one part of a path, printable, neither hidden nor
    like an option, nothing that another system takes for a device, not too long.

    @param name: any text; of a path, its last part counts.
    @return: a name, in NFC; the same if it is safe already.
    """
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    text = "".join(
        character if character.isprintable() and character not in _SPECIAL else _FILLER
        for character in unicodedata.normalize("NFC", last)
    )
    # Windows drops dots and blanks at the end, and people do not see them.
    text = text.strip(" \u3000\xa0").rstrip(". ")
    if text.startswith((".", "-", "~")):
        text = _FILLER + text[1:]
    if not text or _DEVICE.match(text):
        text = _FILLER + text
    return _shortened(text)


def names(name: str) -> Iterator[str]:
    """Give a safe name, and those to be tried if it is taken."""
    yield name
    for number in range(1, MOST_NUMBERED):
        yield numbered(name, number)


def numbered(name: str, number: int) -> str:
    """Put a number into a name, before its suffix."""
    stem, suffix = os.path.splitext(name)
    return f"{stem} ({number}){suffix}"


def _shortened(name: str) -> str:
    """Cut a name that is too long, and keep its suffix."""
    if len(name.encode("utf-8")) <= MAX_NAME:
        return name
    stem, suffix = os.path.splitext(name)
    if len(suffix.encode("utf-8")) > LONGEST_SUFFIX:
        stem, suffix = name, ""
    room = MAX_NAME - len(suffix.encode("utf-8"))
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore").rstrip(". ") + suffix
