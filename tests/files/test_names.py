"""
Names that can do no harm.
"""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.files.names import MAX_NAME, names, numbered, safeName


class SafeNameTests(SynchronousTestCase):
    """What a stranger calls a file becomes a name for our directory."""

    def assertNames(self, expected: dict[str, str]) -> None:
        """
        Check names.

        @param expected: what is to become of each.
        """
        self.assertEqual({name: safeName(name) for name in expected}, expected)

    def test_harmless(self) -> None:
        """What is safe stays as it is, in any language."""
        for name in ("a.txt", "Ferien 2026 (1).mkv", "日本語.txt", "a'b&c;$x.tar.gz"):
            self.assertEqual(safeName(name), name)

    def test_paths(self) -> None:
        """Of a path, of any system's, the last part counts."""
        self.assertNames(
            {
                "/etc/passwd": "passwd",
                "../../x": "x",
                "a/b/": "b",
                "C:\\Windows\\x.dll": "x.dll",
                "..": "_",
                "/": "_",
                "": "_",
            }
        )

    def test_hidden(self) -> None:
        """Nothing is hidden, looks like an option, or like somebody's home."""
        self.assertNames(
            {".bashrc": "_bashrc", "-rf": "_rf", "~root": "_root", " .x": "_x"}
        )

    def test_controls(self) -> None:
        """What does not show, or turns the direction of writing, is replaced."""
        self.assertNames(
            {
                "a\nb": "a_b",
                "a\x1b[31mb": "a_[31mb",
                "a\0b": "a_b",
                "invoice\u202excod.exe": "invoice_xcod.exe",
                "a\u200bb": "a_b",
                "\udcff": "_",
            }
        )

    def test_devices(self) -> None:
        """What other systems take for a device, or cannot have, is replaced."""
        self.assertNames(
            {
                "CON": "_CON",
                "nul.txt": "_nul.txt",
                "com1": "_com1",
                "LPT9 .x": "_LPT9 .x",
                "console": "console",
                "a:b*c?": "a_b_c_",
                "a. .": "a",
            }
        )

    def test_oneSpelling(self) -> None:
        """What looks the same is the same: names are in NFC."""
        self.assertEqual(safeName("e\u0301"), "é")

    def test_length(self) -> None:
        """A name that is too long is cut between characters, and keeps its suffix."""
        for size in (MAX_NAME - 1, MAX_NAME, MAX_NAME + 1):
            name = "n" * (size - 4) + ".txt"
            safe = safeName(name)
            self.assertEqual(len(safe), min(size, MAX_NAME))
            self.assertTrue(safe.endswith("n.txt"))
        safe = safeName("語" * 100 + ".txt")
        self.assertLessEqual(len(safe.encode()), MAX_NAME)
        self.assertTrue(safe.endswith("語.txt"))
        self.assertEqual(len(safeName("a." + "b" * 300)), MAX_NAME)

    @given(st.text())
    def test_anything(self, name: str) -> None:
        """Whatever comes, the name is one visible part of a path, and safe itself."""
        safe = safeName(name)
        self.assertEqual(os.path.basename(safe), safe)
        self.assertNotIn(safe, ("", ".", ".."))
        self.assertTrue(safe.isprintable())
        self.assertLessEqual(len(safe.encode()), MAX_NAME)
        self.assertEqual(safeName(safe), safe)

    def test_numbered(self) -> None:
        """A number comes before the suffix, and there is an end of them."""
        self.assertEqual(numbered("a.txt", 1), "a (1).txt")
        self.assertEqual(numbered("a", 12), "a (12)")
        tried = list(names("n" * MAX_NAME))
        self.assertEqual(len(set(tried)), 1000)
        self.assertLessEqual(max(map(len, tried)), 255)
