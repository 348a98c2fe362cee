"""
Makes L{aesm.chat.confusables} of Unicode's files::

    python -m tests.support.confusables confusables.txt Scripts.txt > new.py
    mv new.py aesm/chat/confusables.py

C{confusables.txt} is in U{https://www.unicode.org/Public/security/} (and, as an older
copy, in ICU's sources), C{Scripts.txt} in U{https://www.unicode.org/Public/UCD/}.

What can make no difference between names is left out; and where the first word of a
character's name, by which L{aesm.chat.names} tells scripts apart, would put two scripts
of today into one, nothing is made.
"""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

from aesm.chat.names import NAME_CATEGORIES, NAME_MARKS, _scriptOf

# Scripts whose names begin alike, and which nobody mixes to deceive: no longer in use,
# or with letters of a look of their own.
NAMESAKES = {"INSCRIPTIONAL", "LINEAR", "MEROITIC", "OLD", "TAI"}

PER_ENTRY = 12  # characters, so that an entry fits on a line

HEADER = '''\
"""
Characters that look alike: Unicode's table, cut to what names in the chat can hold.

Made by C{{python -m tests.support.confusables}} of C{{confusables.txt}}, Unicode
{version}; not to be changed by hand.  The data is under the licence in
C{{UNICODE-LICENSE.txt}}, beside this module.

@see: UTS 39, Unicode Security Mechanisms, section 4
"""

from __future__ import annotations

__all__ = ["PROTOTYPES"]

# PROTOTYPE:CHARACTER,..., code points in hexadecimal; those of a prototype of several
# characters with + between them.
_TABLE = """
{table}
"""


def _read(table: str) -> dict[int, str]:
    """Read the table, for C{{str.translate}}."""
    prototypes = {{}}
    for entry in table.split():
        prototype, _, characters = entry.partition(":")
        shown = "".join(chr(int(code, 16)) for code in prototype.split("+"))
        for code in characters.split(","):
            prototypes[int(code, 16)] = shown
    return prototypes


PROTOTYPES = _read(_TABLE)
'''


def fields(path: Path) -> Iterator[list[str]]:
    """Read the lines of one of Unicode's files, cut into fields."""
    for line in path.read_text("utf-8-sig").splitlines():
        content = line.partition("#")[0].strip()
        if content:
            yield [field.strip() for field in content.split(";")]


def nameCharacters() -> set[str]:
    """
    Find all characters that names, and those of a later Unicode, may have.

    @return: what is left of them in any case, and taken apart.
    """
    allowed = {
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if character in NAME_MARKS
        or unicodedata.category(character) in NAME_CATEGORIES | {"Cn"}
    }
    shown = {unicodedata.normalize("NFKC", character) for character in allowed}
    cased = shown | {s.casefold() for s in shown} | {s.upper() for s in shown}
    return {c for s in cased for c in unicodedata.normalize("NFD", s)}


def needed(table: dict[str, str], characters: set[str]) -> dict[str, str]:
    """
    Leave out what can make no difference between names.

    @param table: the prototype of each character.
    @param characters: those of names.
    """
    images = {c: table.get(c, c) for c in characters}
    # A prototype with a part that only this one character has: what is equal with it
    # is equal without it.
    uses = Counter(part for image in images.values() for part in set(image))
    return {
        character: image
        for character, image in images.items()
        if image != character and all(uses[part] > 1 for part in image)
    }


def checkScripts(path: Path) -> None:
    """
    Compare the scripts of all characters that names can have with what their names
    say.

    @raise SystemExit: they differ in what matters.
    """
    script = {}
    for codes, name in fields(path):
        first, _, last = codes.partition("..")
        for code in range(int(first, 16), int(last or first, 16) + 1):
            script[chr(code)] = name
    found: dict[str, set[str]] = defaultdict(set)
    for character, name in script.items():
        if (
            unicodedata.category(character) in NAME_CATEGORIES
            and unicodedata.normalize("NFKC", character) == character
        ):
            found[_scriptOf(character)].add(name)
    mixed = {
        word: names
        for word, names in found.items()
        if len(names - {"Common", "Inherited"}) > 1 and word not in NAMESAKES
    }
    if mixed:
        sys.exit(f"names of characters do not tell these scripts apart: {mixed}")


def main(confusables: str, scripts: str) -> None:
    """Print the module."""
    checkScripts(Path(scripts))
    text = Path(confusables).read_text("utf-8-sig")
    version = text.partition("# Version: ")[2].partition("\n")[0]
    table = {}
    for source, image, _ in fields(Path(confusables)):
        prototype = "".join(chr(int(code, 16)) for code in image.split())
        table[chr(int(source, 16))] = prototype
    entries: dict[str, list[str]] = defaultdict(list)
    for source, image in sorted(needed(table, nameCharacters()).items()):
        entries["+".join(f"{ord(c):X}" for c in image)].append(f"{ord(source):X}")
    lines = (
        f"{image}:{','.join(sources[start : start + PER_ENTRY])}"
        for image, sources in entries.items()
        for start in range(0, len(sources), PER_ENTRY)
    )
    filled = fill(" ".join(lines), 88, break_on_hyphens=False, break_long_words=False)
    print(HEADER.format(version=version, table=filled), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
