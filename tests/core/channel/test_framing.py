"""
Tests of L{aesm.core.channel.framing}: frames of a 2-byte length.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.channel.framing import FrameBuffer, frame
from tests.support.helpers import chunkSizes, pieces


class _RefusedError(Exception):
    """What a check raises here."""


def _anyLength(length: bytes) -> None:
    """
    Welcome every length.

    @param length: its first one or two bytes.
    """


def _takeAll(chunks: list[bytes]) -> list[bytes]:
    """
    Cut the frames out of a stream.

    @param chunks: the stream.
    """
    buffer, bodies = FrameBuffer(), []
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            body, used = buffer.take(view, _anyLength)
            view = view[used:]
            if body is not None:
                bodies.append(body)
    assert buffer.empty
    return bodies


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


class FrameBufferTests(SynchronousTestCase):
    """L{FrameBuffer}."""

    def setUp(self) -> None:
        """Start empty, and note what is asked."""
        self.buffer = FrameBuffer()
        self.asked: list[bytes] = []

    def take(self, data: bytes) -> tuple[bytes | None, int]:
        """
        Take some bytes.

        @param data: the bytes.
        """
        return self.buffer.take(memoryview(data), self.asked.append)

    def test_whole(self) -> None:
        """A frame that comes whole is handed over, and nothing of it stays."""
        self.assertEqual(self.take(b"\x00\x02ab"), (b"ab", 4))
        self.assertTrue(self.buffer.empty)

    def test_more(self) -> None:
        """What comes behind a frame is not touched."""
        self.assertEqual(self.take(b"\x00\x02abc"), (b"ab", 4))
        self.assertTrue(self.buffer.empty)

    def test_byByte(self) -> None:
        """A frame may come in bytes; until it is whole it is not handed over."""
        for byte in (b"\x00", b"\x02", b"a"):
            self.assertEqual(self.take(byte), (None, 1))
            self.assertFalse(self.buffer.empty)
        self.assertEqual(self.take(b"b"), (b"ab", 1))
        self.assertTrue(self.buffer.empty)

    def test_emptyBody(self) -> None:
        """A frame may be empty."""
        self.assertEqual(self.take(b"\x00\x00rest"), (b"", 2))

    def test_asks(self) -> None:
        """
        Each length is asked about twice: by its first byte, and whole; once the
        body comes there is nothing to ask.
        """
        for byte in b"\x01\x02abc":
            self.take(bytes([byte]))
        self.assertEqual(self.asked, [b"\x01", b"\x01\x02"])

    def test_refusal(self) -> None:
        """A length that is refused leaves nothing of the body in the buffer."""

        def refuse(length: bytes) -> None:
            """
            Refuse a length by its second byte.

            @param length: its first one or two bytes.
            """
            if len(length) == 2:
                raise _RefusedError

        data = memoryview(b"\x00\x05abcde")
        self.assertRaises(_RefusedError, self.buffer.take, data, refuse)
        self.assertEqual(self.take(b""), (None, 0))
        self.assertEqual(self.take(b"vwxyz"), (b"vwxyz", 5))

    def test_longest(self) -> None:
        """The longest frame passes, and its length is no byte more."""
        body = bytes(range(256)) * 255 + bytes(255)
        self.assertEqual(self.take(frame(body) + b"."), (body, 65537))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(max_size=30), max_size=8), chunkSizes)
    def test_anyChunking(self, bodies: list[bytes], sizes: list[int]) -> None:
        """
        However the stream is cut, the same frames come out of it.

        @param bodies: the frames.
        @param sizes: how it is cut.
        """
        stream = b"".join(map(frame, bodies))
        self.assertEqual(_takeAll(pieces(stream, sizes)), bodies)
        self.assertEqual(_takeAll([stream]), bodies)
