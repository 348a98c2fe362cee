"""
Tests for L{aesm.server.entries}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.server.entries import packed, unpacked


class EntryTests(SynchronousTestCase):
    """Messages between nodes."""

    def test_same(self) -> None:
        """Text and bytes come out as what they went in."""
        for data in ("", "text", "\xe9\u20ac", b"", b"\x00\xff", b"t"):
            self.assertEqual(unpacked(packed(data)), data)
        for buffer in (bytearray(b"x"), memoryview(b"x")):
            self.assertEqual(unpacked(packed(buffer)), b"x")

    def test_strange(self) -> None:
        """Whatever else there is comes out as something."""
        self.assertEqual(unpacked(b""), b"")
        self.assertEqual(unpacked(b"t\xff"), "\ufffd")

    def test_refused(self) -> None:
        """What is no message is refused."""
        self.assertRaises(TypeError, packed, 7)
        self.assertRaises(ValueError, packed, "\ud800")
