"""
The message layer's stream of frames.

Input: one byte for the size of chunks, then the stream.

Whatever comes: frames, and at the end perhaps a documented error; each message
counts what PROTOCOL section 7 says, and those of a BATCH no more together than section
6 says; a text is kept in UTF-8 where it would take much more memory otherwise, and only
there; written again, the frames are the bytes that
were read; no more is kept than the largest frame; how the stream is cut up makes
no difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from sys import getsizeof

from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import (
    BINARY_BIT,
    CALL_BIT,
    LENGTH_BITS,
    MAX_BATCH,
    MESSAGE_OVERHEAD,
    Ack,
    Close,
    Frame,
    FrameType,
    Messages,
    Ping,
    Pong,
    Welcome,
    encodeAck,
    encodeBatch,
    encodeClose,
    encodeFrame,
    markedOf,
)
from aesm.core.messages.requests import (
    encodeAnswer,
    encodeError,
    encodeRequest,
    encodeWithdrawal,
)
from fuzz.script import pieces

__all__ = ["run", "seeds"]

_MAX_MESSAGE = 70000
_HEADER_BYTES = 13
_TIME_BYTES = slice(5, 13)  # of each frame, from its beginning
_TYPE, _COUNT_BYTES = 4, slice(13, 17)
_KINDS = {
    0: FrameType.TEXT,
    BINARY_BIT: FrameType.BINARY,
    CALL_BIT: FrameType.REQUEST,
    BINARY_BIT | CALL_BIT: FrameType.RESPONSE,
}
_MICROS = 1_700_000_000_000_000


def _read(chunks: Sequence[bytes]) -> tuple[list[Frame], str, int]:
    """
    Read a stream.

    @param chunks: its bytes.
    @return: its frames, the error's class and text, and how many bytes are kept
        at the end.
    """
    reader = FrameReader(_MAX_MESSAGE)
    frames: list[Frame] = []
    for chunk in chunks:
        frames += reader.receive(chunk)
        kept = _kept(reader)
        if reader.error is not None:
            assert not kept
            return frames, f"{type(reader.error)} {reader.error}", 0
        if any(isinstance(frame, Close) for frame in frames):
            continue  # what follows is left alone
        assert kept < _HEADER_BYTES + max(_MAX_MESSAGE, MAX_BATCH), kept
        assert reader.empty == (not kept)
    return frames, "", _kept(reader)


def _kept(reader: FrameReader) -> int:
    """
    Count what a reader keeps.

    @param reader: which.
    @return: bytes.
    """
    header = _HEADER_BYTES if reader.missing else len(reader.start)
    return header + sum(map(len, reader._body))


def run(data: bytes) -> None:
    """
    Read a stream, whole and in pieces.

    @param data: the input.
    """
    stream = data[1:]
    whole = _read([stream])
    for sizes in ((data[0] if data and data[0] else 1,), (13, 1, 0, 5)):
        cut = _read(pieces(stream, sizes))
        assert cut == whole, (cut, whole)
    position, frames = 0, deque(whole[0])
    while frames:
        frame = _whole(stream[position:], frames)
        body = stream[position : position + _HEADER_BYTES]
        micros = int.from_bytes(body[_TIME_BYTES], "big")
        written = [b"".join(parts) for parts in _write(frame, micros)]
        assert any(stream.startswith(one, position) for one in written), frame
        position += len(next(o for o in written if stream.startswith(o, position)))
    if not whole[1]:
        assert len(stream) - position == whole[2]


def _whole(stream: bytes, frames: deque[Frame]) -> Frame:
    """
    Take a frame as it was written: that of several runs is one.

    @param stream: begins with it.
    @param frames: those that are left.
    """
    frame = frames.popleft()
    if stream[_TYPE] != FrameType.BATCH:
        return frame
    count = int.from_bytes(stream[_COUNT_BYTES], "big")
    while isinstance(frame, Messages) and len(frame.data) < count:
        more = frames.popleft()
        assert isinstance(more, Messages), more
        data = [*markedOf(frame), *markedOf(more)]
        cost = frame.cost + more.cost
        frame = Messages(frame.micros, data, cost, more.lastCost)
    return frame


def _write(frame: Frame, micros: int) -> Iterator[list[bytes]]:
    """
    Write a frame again.

    @param frame: the frame.
    @param micros: its time.
    @return: the ways to write it.
    """
    match frame:
        case Messages(time, _, cost, lastCost):
            assert time == micros
            data = markedOf(frame)
            bodies = [d.encode() if isinstance(d, str) else bytes(d) for d in data]
            costs = [len(body) + MESSAGE_OVERHEAD for body in bodies]
            assert (sum(costs), costs[-1]) == (cost, lastCost)
            assert len(data) == 1 or cost <= MAX_BATCH, cost
            for text in (d for d in data if isinstance(d, str)):
                most = 2 * (len(text.encode()) + MESSAGE_OVERHEAD)
                assert text.isascii() or getsizeof(text) <= most, "too much memory"
            flags = [LENGTH_BITS[type(d)] for d in data]
            lengths = [len(b) | f for b, f in zip(bodies, flags, strict=True)]
            if len(bodies) == 1:
                kind = _KINDS[flags[0]]
                yield [encodeFrame(kind, micros, bodies[0])]
            yield encodeBatch(micros, bodies, lengths)
        case Welcome(payload):
            yield [encodeFrame(FrameType.WELCOME, micros, payload)]
        case Close(code, reason, after):
            yield [encodeClose(micros, code, reason, after)]
        case Ping(body):
            yield [encodeFrame(FrameType.PING, micros, body)]
        case Pong(body):
            yield [encodeFrame(FrameType.PONG, micros, body)]
        case Ack(count, limit):
            yield [encodeAck(micros, count, limit)]


def seeds() -> Iterator[bytes]:
    """Make a stream of each frame, and of all."""
    frames = [
        encodeFrame(FrameType.WELCOME, _MICROS, b'{"batch":true}'),
        encodeFrame(FrameType.TEXT, _MICROS, "h\xe9llo".encode()),
        encodeFrame(FrameType.BINARY, _MICROS, b"\0\xff"),
        b"".join(encodeBatch(_MICROS, [b"one", b"", b"two"], [3, 0, 3])),
        b"".join(encodeBatch(_MICROS, [b"a", b"\xff"], [1, 1 | BINARY_BIT])),
        b"".join(encodeBatch(_MICROS, ["\u20ac".encode()], [3])),
        encodeFrame(FrameType.PING, _MICROS, b"ping"),
        encodeFrame(FrameType.PONG, _MICROS, b"ping"),
        encodeAck(_MICROS, 3, 1 << 24),
        encodeClose(_MICROS, 1000, "that is all"),
        encodeClose(_MICROS, 1001, "going away", 8000),
    ]
    for frame in frames:
        yield b"\3" + frame
    yield b"\1" + b"".join(frames)
    emoji = "\U0001f600".encode()
    wide, mixed = emoji + bytes(60), [emoji + bytes(60), b"\xff" * 9, b"short"]
    yield b"\5" + encodeFrame(FrameType.TEXT, _MICROS, wide)
    lengths = [len(wide), 9 | BINARY_BIT, 5]
    yield b"\5" + b"".join(encodeBatch(_MICROS, mixed, lengths))
    yield b"\5" + b"".join(encodeBatch(_MICROS, [wide] * 3, [len(wide)] * 3))
    most = MAX_BATCH // MESSAGE_OVERHEAD
    for number in (most, most + 1):
        yield b"\5" + b"".join(encodeBatch(_MICROS, [b""] * number, [0] * number))
    asks = [encodeRequest(data) for data in ("ask", b"\xff", "", "\u20ac")]
    ends = [
        encodeAnswer(0, "\u20ac"),
        encodeAnswer(1 << 60, b""),
        encodeError(2, 1008, "why"),
        encodeWithdrawal(3),
    ]
    for kind, bodies in ((FrameType.REQUEST, asks), (FrameType.RESPONSE, ends)):
        for one in bodies:
            yield b"\3" + encodeFrame(kind, _MICROS, one)
        lengths = [len(one) | LENGTH_BITS[type(one)] for one in bodies]
        yield b"\3" + b"".join(encodeBatch(_MICROS, bodies, lengths))
        yield b"\3" + b"".join(encodeBatch(_MICROS, bodies[:1] * 3, lengths[:1] * 3))
    among = [b"text", *asks, b"\xff", *ends]
    lengths = [4, *[len(one) | LENGTH_BITS[type(one)] for one in asks], 1 | BINARY_BIT]
    lengths += [len(one) | LENGTH_BITS[type(one)] for one in ends]
    yield b"\3" + b"".join(encodeBatch(_MICROS, among, lengths))
    yield b"\7" + encodeFrame(FrameType.REST, _MICROS, b"of nothing")
    yield b"\7" + encodeFrame(FrameType.TEXT, _MICROS, b"\xed\xa0\x80")
    yield b"\7" + bytes([0, 1, 0x11, 0x71, 1]) + bytes(8)  # one byte too big
