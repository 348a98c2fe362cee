"""
What reaches a terminal, and what is read from one.
"""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.commands.formats import JSON, PLAIN
from aesm.messages.stream import Packet
from aesm.text import escape

anyText = st.text(st.characters(exclude_categories=["Cs"]))


class EscapeTests(SynchronousTestCase):
    """Nothing that steers a terminal gets through."""

    def test_printable(self) -> None:
        """Text of any language stays as it is, blanks of any width too."""
        text = "a\\b ä 你好\u3000👍\xa0"
        self.assertEqual(escape(text), text)

    def test_controls(self) -> None:
        """C0, DEL and C1 become visible."""
        self.assertEqual(
            escape("\x00\t\n\r\x1b[2J\x7f\x85\x9b"),
            r"\x00\t\n\r\x1b[2J\x7f\x85\x9b",
        )

    def test_invisible(self) -> None:
        """What turns the direction, ends a line, or does not show, becomes visible."""
        self.assertEqual(
            escape("\u202e\u2066\u200b\u2028\u2029\ufeff\xad\U000e0041"),
            r"\u202e\u2066\u200b\u2028\u2029\ufeff\xad\U000e0041",
        )

    def test_surrogates(self) -> None:
        """Half a surrogate pair can be shown, and written as UTF-8."""
        self.assertEqual(escape("\ud800\udcff"), r"\ud800\udcff")

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """Whatever goes in, what comes out is printable or blank."""
        for character in escape(text):
            self.assertTrue(
                character.isprintable() or unicodedata.category(character) == "Zs"
            )


class PlainTests(SynchronousTestCase):
    """Packets and messages for people."""

    def test_show(self) -> None:
        """A packet is one line, with its time."""
        shown = PLAIN.show(Packet(1e9, "two\nlines ä"))
        self.assertRegex(shown.decode(), r"\A\d\d:\d\d:\d\d two\\nlines ä\n\Z")

    def test_showBytes(self) -> None:
        """Bytes are shown as the text that they are, and otherwise as escapes."""
        self.assertTrue(
            PLAIN.show(Packet(0.0, "ä\0".encode())).endswith(" ä\\x00\n".encode())
        )
        self.assertTrue(PLAIN.show(Packet(0.0, b"\xff")).endswith(b" \\xff\n"))

    def test_anyTime(self) -> None:
        """A time that nobody can tell does not keep the packet from being shown."""
        for micros in (0, (1 << 63) - 1, (1 << 64) - 1):
            self.assertTrue(PLAIN.show(Packet(micros / 1e6, "x")).endswith(b" x\n"))
        self.assertEqual(PLAIN.show(Packet(1e300, "x")), b"--:--:-- x\n")

    def test_read(self) -> None:
        """A line of UTF-8 is text, any other bytes, and nothing is taken off it."""
        self.assertEqual(PLAIN.read(" ä\r".encode()), " ä\r")
        self.assertEqual(PLAIN.read(b""), "")
        self.assertEqual(PLAIN.read(b"\xe4"), b"\xe4")


class JSONTests(SynchronousTestCase):
    """Packets and messages for programs."""

    def test_show(self) -> None:
        """A packet is an object on a line."""
        self.assertEqual(
            JSON.show(Packet(0.5, "ä\n")), b'{"time": 0.5, "data": "\\u00e4\\n"}\n'
        )
        self.assertEqual(
            JSON.show(Packet(0.5, b"\xff")), b'{"time": 0.5, "base64": "/w=="}\n'
        )

    @given(anyText | st.binary())
    def test_roundTrip(self, data: str | bytes) -> None:
        """What is shown can be read, and is one line of printable ASCII."""
        line = JSON.show(Packet(0.5, data))
        self.assertTrue(line.endswith(b"\n"))
        self.assertTrue(line[:-1].decode("ascii").isprintable())
        self.assertEqual(JSON.read(line[:-1]), data)

    def test_blank(self) -> None:
        """A blank line is nothing to send."""
        self.assertIsNone(JSON.read(b" \r"))

    def test_refused(self) -> None:
        """Anything else is refused, and the error shows what would be right."""
        for line in (
            b"hello",
            b"\xff",
            b"[]",
            b"[" * 100_000,
            b"{}",
            b'{"data": 1}',
            b'{"data": "\\ud800"}',
            b'{"data": "x", "base64": "eA=="}',
            b'{"base64": "e A=="}',
            b'{"base64": "\xc3\xa4"}',
            b'{"data": "x", "to": "y"}',
            b'{"data": "x"} {"data": "y"}',
        ):
            error = self.assertRaises(ValueError, JSON.read, line)
            self.assertIn('{"data": "TEXT"}', str(error), line)

    def test_isJSON(self) -> None:
        """Other programs read what is shown."""
        self.assertEqual(
            json.loads(JSON.show(Packet(0.5, "\x7f"))), {"time": 0.5, "data": "\x7f"}
        )
