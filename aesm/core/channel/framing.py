"""
Frames and records: C{frame(x)}, a 2-byte length and that many bytes, and cutting the
stream into what goes into one record::

    frame(b"AESM/1 Noise_...")

    for plaintext in plaintextsOf([b"some", b"pieces"], large=False):
        ...                                     # seal it
"""

from __future__ import annotations

from typing import Final

LENGTH_BYTES: Final = 2  # bytes before each frame, docs/protocol.md, section 1
# Bytes of the stream in one record: a Noise message less its tag.
MAX_PLAINTEXT: Final = 65519
HALF: Final = MAX_PLAINTEXT // 2


def frame(body: bytes) -> bytes:
    """
    Put its length before a body.

    @param body: 0 to 65,535 bytes.
    @see: docs/protocol.md, section 1
    """
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


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
