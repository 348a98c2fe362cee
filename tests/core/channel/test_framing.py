"""
Tests of L{aesm.core.channel.framing}: frames of a 2-byte length.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.core.channel.framing import frame


class FrameTests(SynchronousTestCase):
    """L{frame}."""

    def test_length(self) -> None:
        """The length comes first, two bytes, the high one first."""
        self.assertEqual(frame(b""), b"\x00\x00")
        self.assertEqual(frame(b"abc"), b"\x00\x03abc")
        self.assertEqual(frame(bytes(65535))[:3], b"\xff\xff\x00")

    def test_tooLong(self) -> None:
        """A body that no length can tell is the caller's fault."""
        self.assertRaises(OverflowError, frame, bytes(65536))
