"""
Cutting C{frame(x)}, a 2-byte length and that many bytes, out of a stream::

    buffer = FrameBuffer()
    body, used = buffer.take(view, lambda size: size <= 255)

It keeps at most the one frame that it is collecting, and asks whether a
length is welcome before it keeps anything of the body: until the handshake
is done this is all that a stranger can make us hold.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["LENGTH_BYTES", "FrameBuffer", "frame"]

LENGTH_BYTES = 2  # bytes before each frame, docs/protocol.md, section 1


def frame(body: bytes) -> bytes:
    """
    Put its length before a body.

    @param body: 0 to 65,535 bytes.
    @return: C{len(body) + 2} bytes.
    @see: docs/protocol.md, section 1
    """
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameBuffer:
    """
    Collects one frame at a time.
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        """
        Start with nothing collected.
        """
        self._buffer = bytearray()

    @property
    def empty(self) -> bool:
        """
        Whether nothing of a frame has come yet.
        """
        return not self._buffer

    def take(
        self, data: memoryview, check: Callable[[bytes], None]
    ) -> tuple[bytes | None, int]:
        """
        Take the rest of the current frame, or as much of it as there is.

        @param data: what came, any length.
        @param check: called with the first byte, and with both bytes, of each
            length, as soon as they are there; raises to refuse it.
        @return: the frame's body once it is whole, else None; and how many
            bytes of C{data} were used.
        """
        buffer = self._buffer
        used = 0
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
