"""
How the stream is put into records, PROTOCOL section 4.
"""

from __future__ import annotations

__all__ = ["HALF", "MAX_PLAINTEXT", "plaintextsOf"]

MAX_PLAINTEXT = 65519  # bytes of the stream in one record
HALF = MAX_PLAINTEXT // 2


def plaintextsOf(queue: list[bytes], large: bool) -> list[bytes | memoryview]:
    """
    Put the stream into few records: as few as possible, but that a piece of more than
    half a record that fits one is not torn.  So what is such a piece at the other side
    as well, like a BATCH, need not be put together there.

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


def _sliced(pieces: list[bytes]) -> list[bytes | memoryview]:
    """
    Put pieces into as few records as possible.

    @param pieces: of the stream.
    @return: the records' plaintexts.
    """
    stream: bytes | memoryview = b"".join(pieces)
    if 0 < len(stream) <= MAX_PLAINTEXT:
        return [stream]
    stream = memoryview(stream)  # the slices of which are no copies
    starts = range(0, len(stream), MAX_PLAINTEXT)
    return [stream[start : start + MAX_PLAINTEXT] for start in starts]
