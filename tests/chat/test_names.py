"""
Tests for L{aesm.chat.names}.
"""

from __future__ import annotations

import unicodedata
from itertools import combinations
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.chat import confusables
from aesm.chat.confusables import PROTOTYPES
from aesm.chat.names import (
    MAX_NAME,
    Register,
    foldName,
    looksOf,
    nameFrom,
    tidyName,
)
from tests.support.confusables import checkScripts, needed

# Letters that somebody would deceive with: capitals, digits, Greek, Cyrillic, marks.
letters = st.sampled_from(
    "aAbBiIlL1oO0mMnrvyY_-.\u03bd\u039d\u0391\u0430\u0410\u00e9\u00df\u0130\u0131"
)
words = st.text(st.one_of(letters, st.characters()), max_size=8)


class NameTests(SynchronousTestCase):
    """What a name is, and when two collide."""

    def test_names(self) -> None:
        """Letters and digits of any script, C{_}, C{-} and C{.} make names."""
        for name in (
            "alice",
            "a",
            "x" * MAX_NAME,
            "J\u00fcrgen_2",
            "a.b-c",
            "\u674e\u5c0f",
        ):
            self.assertEqual(tidyName(name), name)

    def test_tidied(self) -> None:
        """A name is shown in its normal form."""
        self.assertEqual(tidyName("\uff41lice"), "alice")
        self.assertEqual(tidyName("Jose\u0301"), "Jos\u00e9")

    def test_noNames(self) -> None:
        """Too long, too short, and whatever hides, combines or turns is no name."""
        for text in (
            "",
            "x" * (MAX_NAME + 1),
            "x" * 10_000,
            "a b",
            "a:b",
            "a/b",
            "*",
            "q\u0301",  # nothing to combine to
            "a\u200db",
            "a\u202eb",
            "a\u00adb",
            "\u3164",  # Hangul filler: a letter that does not show
            "\u115f",
            "a\nb",
            "a\x00",
            "\ufdfa",  # a ligature that NFKC makes into words
            "\ud800",
            "\u2764",
        ):
            self.assertIsNone(tidyName(text), ascii(text))

    def test_fold(self) -> None:
        """Case and width make no difference between names."""
        for name in (
            "ALICE",
            "\uff21\uff2c\uff29\uff23\uff25",
            "al\u0131ce".replace("\u0131", "I"),
        ):
            self.assertEqual(foldName(name), "alice")
        self.assertEqual(foldName("Stra\u00dfe"), foldName("STRASSE"))
        self.assertNotEqual(foldName("alice"), foldName("alice_"))

    def test_oneScript(self) -> None:
        """
        The letters of a name are of one script; digits of ASCII and signs go with
        all.
        """
        for name in (
            "\u0430\u043d\u043d\u0430-2",  # Cyrillic
            "\u03b1\u03b8\u03b7\u03bd\u03ac_1",  # Greek
            "\u0639\u0644\u06cc.\u06f1",  # Arabic, and a digit of Persian
            "\u592a\u90ce\u3055\u3093",  # Han and Hiragana
            "\u30a2\u3044",  # Katakana and Hiragana
            "\uae40\u91d1",  # Hangul and Han
            "\u3105\u6587",  # Bopomofo and Han
            "-_.",
            "123",
        ):
            self.assertEqual(tidyName(name), name, ascii(name))
        for name in (
            "p\u0430ul",  # Latin and Cyrillic
            "\u03b1lice",  # Greek and Latin
            "\u0430\u03b8",  # Cyrillic and Greek
            "a\u6587",  # Latin and Han
            "\u3105\u3055",  # Bopomofo and Hiragana
            "\uae40\u3055",  # Hangul and Hiragana
            "a\u06f1",  # Latin and a digit of Persian
        ):
            self.assertIsNone(tidyName(name), ascii(name))

    def test_nameFrom(self) -> None:
        """What an operator calls a key becomes a name, whatever it is."""
        for text, name in (
            ("alice", "alice"),
            ("\uff41lice", "alice"),
            ("a@b q\u0301\u202e", "a_b_q__"),
            ("x" * 64, "x" * MAX_NAME),
            ("p\u0430ul", "p\u0430ul"),
        ):
            self.assertEqual(nameFrom(text), name)

    def test_looks(self) -> None:
        """
        Names that can be taken for each other share a look: of other letters, in other
        case, or of more letters than one.
        """
        for one, other in (
            ("Iain", "lain"),
            ("bob0", "bobO"),
            ("modern", "modem"),
            ("paypal", "\u0440\u0430\u0443\u0440\u0430l"),
            ("HAH", "\u041d\u0410\u041d"),
            ("hah", "\u041d\u0410\u041d"),  # whose capitals are the same
            ("caxe", "\u0441\u0430\u0445\u0435"),
        ):
            self.assertTrue(looksOf(one) & looksOf(other), (one, other))

    def test_otherLooks(self) -> None:
        """Names that people tell apart share none."""
        names = ("alice", "allce", "bob", "bab", "nan", "van", "yuu", "uuy", "m1", "m2")
        for one, other in combinations(names, 2):
            self.assertFalse(looksOf(one) & looksOf(other), (one, other))

    @settings(deadline=None)
    @given(words)
    def test_foldedLooks(self, text: str) -> None:
        """Whatever differs in case and width only looks the same."""
        for other in (foldName(text), text.swapcase(), text.upper(), text.lower()):
            if foldName(other) == foldName(text):
                self.assertTrue(looksOf(text) & looksOf(other))


class RegisterTests(SynchronousTestCase):
    """Who has which name."""

    def test_register(self) -> None:
        """A name is found in any case, and what looks like it is not it."""
        register: Register[int] = Register()
        register.add("Iain", 1)
        register.add("bob", 2)
        self.assertEqual(register.get("iain"), 1)
        self.assertIsNone(register.get("lain"))
        self.assertEqual(register.alike("lain"), [1])
        self.assertEqual(register.alike("carol"), [])
        self.assertEqual((len(register), list(register.values())), (2, [1, 2]))
        register.remove("Iain")
        self.assertIsNone(register.get("Iain"))
        self.assertEqual(register.alike("lain"), [])

    def test_several(self) -> None:
        """A name can look like several others, which do not look like each other."""
        register: Register[int] = Register()
        register.add("nan", 1)
        register.add("vav", 2)
        self.assertEqual(register.alike("\u039d\u0391\u039d"), [1, 2])


class ConfusablesTests(SynchronousTestCase):
    """The table of what looks the same."""

    def test_prototypes(self) -> None:
        """A prototype is its own: the table is applied once."""
        for code, prototype in PROTOTYPES.items():
            shown = unicodedata.normalize("NFD", prototype)
            self.assertEqual(shown.translate(PROTOTYPES), shown, hex(code))

    def test_size(self) -> None:
        """It is small, and its licence stands beside it."""
        module = Path(confusables.__file__)
        self.assertLess(module.stat().st_size, 20_000)
        licence = module.with_name("UNICODE-LICENSE.txt").read_text("utf-8")
        self.assertIn("UNICODE LICENSE V3", licence)

    def test_needed(self) -> None:
        """What can make no difference between names is left out."""
        table = {
            "\u0430": "a",
            "\u2764": "x",  # is in no name
            "m": "rn",
            "\u0254": "\u2184\u2764",  # has a part that nothing else has
        }
        characters = {*"arnm", "\u0430", "\u0254", "\u2184"}
        self.assertEqual(needed(table, characters), {"\u0430": "a", "m": "rn"})

    def test_scripts(self) -> None:
        """Where names of characters do not tell scripts apart, there is no table."""
        path = Path(self.mktemp())
        path.write_text("0061..0062 ; Latin # a..b\n0430 ; Cyrillic\n")
        checkScripts(path)
        path.write_text("0061 ; Latin\n0062 ; Cyrillic\n0031 ; Common\n")
        self.assertRaises(SystemExit, checkScripts, path)
