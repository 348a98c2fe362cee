"""
Frames and records: cutting C{frame(x)}, a 2-byte length and that many bytes, out of
the bytes of a handshake, and cutting the stream into what goes into one record::

    buffer = FrameBuffer()
    body, used = buffer.take(view, check)       # check(length) raises to refuse it

    for plaintext in plaintextsOf([b"some", b"pieces"], large=False):
        ...                                     # seal it

A L{FrameBuffer} keeps at most the one frame that it is collecting, and asks whether a
length is welcome before it keeps anything of the body: until the handshake
is done this is all that a stranger can make us hold.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = [
    "HALF",
    "LENGTH_BYTES",
    "MAX_PLAINTEXT",
    "FrameBuffer",
    "frame",
    "growingPlaintexts",
    "plaintextsOf",
]

LENGTH_BYTES = 2  # bytes before each frame, docs/protocol.md, section 1
MAX_PLAINTEXT = 65519  # bytes of the stream in one record: a Noise message less its tag
HALF = MAX_PLAINTEXT // 2


def frame(body: bytes) -> bytes:
    """
    Put its length before a body.

    @param body: 0 to 65,535 bytes.
    @see: docs/protocol.md, section 1
    """
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameBuffer:
    """Collects one frame at a time."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        """Start with nothing collected."""
        self._buffer = bytearray()

    @property
    def empty(self) -> bool:
        """Whether nothing of a frame has come yet."""
        return not self._buffer

    def take(
        self, data: memoryview, check: Callable[[bytes], None]
    ) -> tuple[bytes | None, int]:
        """
        Take the rest of the current frame, or as much of it as there is.

        @param check: called with the first byte, and with both bytes, of each
            length, as soon as they are there; raises to refuse it.
        @return: the frame's body once it is whole, else None; and how many
            bytes of C{data} were used.
        """
        buffer = self._buffer
        used = 0
        # Byte by byte, since the first one often tells a foreign protocol, and a peer
        # that speaks one may wait for us before it sends another.
        while len(buffer) < LENGTH_BYTES:
            if used == len(data):
                return None, used
            buffer.append(data[used])
            used += 1
            check(bytes(buffer))
        end = LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "big")
        more = data[used : used + end - len(buffer)]
        buffer += more
        used += len(more)
        if len(buffer) < end:
            return None, used
        body = bytes(buffer[LENGTH_BYTES:])
        buffer.clear()
        return body, used


# Where a stream is cut into records is free: the receiver joins them.  Full records
# make the fewest of them, but would tear a BATCH of some 60,000 bytes, which fits one
# record, in two, and its receiver would have to copy it to put it together.  So a
# record ends early where such a piece would begin in it and not end in it.  What has
# at most half a record is not worth that: it could leave half of each record unused.


def plaintextsOf(queue: list[bytes], large: bool) -> list[bytes | memoryview]:
    """
    Put the stream into as few records as possible, tearing no piece of more than half
    a record that fits one.

    @param queue: its pieces; C{b""} at last if it ends, which is a record of its own.
    @param large: whether one has more than half a record.
    @return: the records' plaintexts.
    """
    plaintexts: list[bytes | memoryview] = []
    begin, size = 0, 0
    for index, piece in enumerate(queue if large else ()):
        length = len(piece)
        if HALF < length <= MAX_PLAINTEXT < size % MAX_PLAINTEXT + length:
            plaintexts += _sliced(queue[begin:index])
            begin, size = index, 0
        size += length
    plaintexts += _sliced(queue[begin:])
    if not queue[-1]:
        plaintexts.append(b"")
    return plaintexts


def growingPlaintexts(
    queue: list[bytes], first: int
) -> tuple[list[bytes | memoryview], int]:
    """
    Put the stream into records each of which has twice the bytes of the one before.

    @param queue: its pieces, as L{plaintextsOf} takes them.
    @param first: bytes of the first record.
    @return: the records' plaintexts, and the size of the record that comes next.
    """
    stream, start = memoryview(b"".join(queue)), 0
    plaintexts: list[bytes | memoryview] = []
    while start < len(stream):
        plaintexts.append(stream[start : start + first])
        start += first
        first = min(2 * first, MAX_PLAINTEXT)
    if not queue[-1]:
        plaintexts.append(b"")
    return plaintexts, first


def _sliced(pieces: list[bytes]) -> list[bytes | memoryview]:
    """Put pieces into full records, and a last one."""
    stream: bytes | memoryview = b"".join(pieces)
    if 0 < len(stream) <= MAX_PLAINTEXT:
        return [stream]
    stream = memoryview(stream)  # the slices of which are no copies
    starts = range(0, len(stream), MAX_PLAINTEXT)
    return [stream[start : start + MAX_PLAINTEXT] for start in starts]
