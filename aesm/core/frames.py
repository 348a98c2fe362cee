"""
The frames of the message layer, PROTOCOL section 6: bytes to frames, and
frames to bytes::

    reader = FrameReader(maxMessage=2**20)
    for frame in reader.receive(data):
        ...                                  # Messages, Ack, Ping, ...
    if reader.error is not None:
        ...                                  # what came behind them is wrong

The reader checks a frame's type and length as soon as its header is there,
before anything of the body is kept.  It hands over messages in the groups
that they were sent in, because most of the cost of a small message is the
handling of it, not its bytes.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from struct import Struct
from typing import NamedTuple

from aesm.core.batch import (
    MAX_BATCH,
    MESSAGE_OVERHEAD,
    decodeBatch,
    decodeText,
    tooBig,
)
from aesm.errors import ProtocolError

__all__ = [
    "ACK_FRAME_SIZE",
    "HEADER_SIZE",
    "MAX_CONTROL",
    "MAX_OBJECT",
    "MAX_REASON",
    "Ack",
    "Close",
    "Frame",
    "FrameReader",
    "FrameType",
    "Messages",
    "Ping",
    "Pong",
    "Welcome",
    "encodeAck",
    "encodeBatch",
    "encodeClose",
    "encodeFrame",
    "packExchange",
    "packHeader",
    "unpackAck",
    "unpackHeader",
]

MAX_REASON = 1024  # bytes of a CLOSE's reason
MAX_CONTROL = 64  # bytes of a PING
MAX_OBJECT = 2048  # bytes of a WELCOME, PROTOCOL section 8
LARGE_PART = 1024  # bytes of a body from which on they are kept as they come

_HEADER = Struct(">IBQ")  # length, type, time
_ACK = Struct(">QQ")
_ACK_FRAME = Struct(">IBQQQ")
_CODE = Struct(">H")
_COUNT = Struct(">I")
_U32 = _COUNT.size
packHeader, unpackHeader = _HEADER.pack, _HEADER.unpack_from  # length, type, time
unpackAck = _ACK.unpack_from  # count, limit
HEADER_SIZE, _ACK_SIZE, ACK_FRAME_SIZE = _HEADER.size, _ACK.size, _ACK_FRAME.size
_new = tuple.__new__  # makes a NamedTuple without a call of Python's


class FrameType(IntEnum):
    """
    The types on the wire.
    """

    TEXT = 1
    BINARY = 2
    WELCOME = 3
    BATCH = 4
    CLOSE = 8
    PING = 9
    PONG = 10
    ACK = 11


# As plain numbers: to look up a member of an Enum takes longer than to compare.
_TEXT, _BINARY = int(FrameType.TEXT), int(FrameType.BINARY)
_BATCH, _ACKNOWLEDGEMENT = int(FrameType.BATCH), int(FrameType.ACK)
_SINGLE = (_BINARY, _TEXT)  # a message in a frame of its own

# An ACK and a message's header: time, count, limit; length, type, time.
packExchange = partial(Struct(">IBQQQIBQ").pack, _ACK.size, _ACKNOWLEDGEMENT)

_BOUNDS = {  # (least, most) bytes of each body that is not a message
    FrameType.WELCOME: (2, MAX_OBJECT),
    FrameType.BATCH: (2 * _U32, MAX_BATCH),
    FrameType.CLOSE: (_CODE.size, _CODE.size + MAX_REASON),
    FrameType.PING: (0, MAX_CONTROL),
    FrameType.PONG: (0, MAX_CONTROL),
    FrameType.ACK: (_ACK.size, _ACK.size),
}


class Messages(NamedTuple):
    """
    One or more messages that were sent together; a tuple, which is made faster than
    a dataclass, since most frames are these.

    @ivar micros: when, microseconds since the Unix epoch, the sender's clock.
    @ivar data: the messages in order, C{str} for TEXT and C{bytes} for BINARY.
    @ivar cost: what they count for flow control: bodies and 64 bytes each.
    @ivar lastCost: what the last of them counts.
    """

    micros: int
    data: Sequence[str | bytes]
    cost: int
    lastCost: int


@dataclass(frozen=True)
class Welcome:
    """
    The server's WELCOME.

    @ivar payload: the JSON object, not yet parsed.
    """

    payload: bytes


@dataclass(frozen=True)
class Close:
    """
    The peer closes.

    @ivar code: PROTOCOL section 9.
    @ivar reason: the peer's words, at most 1,024 bytes in UTF-8.
    """

    code: int
    reason: str


@dataclass(frozen=True)
class Ping:
    """
    The peer asks for a sign of life.

    @ivar body: what to answer with, at most 64 bytes.
    """

    body: bytes


@dataclass(frozen=True)
class Pong:
    """
    The peer answers a PING.

    @ivar body: the PING's body.
    """

    body: bytes


class Ack(NamedTuple):
    """
    What the peer has, and how much more it takes; a tuple for the same reason.

    @ivar count: messages in its keeping, cumulative.
    @ivar limit: bytes of messages, from the session's start, that it takes.
    """

    count: int  # type: ignore[assignment]  # instead of a tuple's method
    limit: int


Frame = Messages | Welcome | Close | Ping | Pong | Ack


class FrameReader:
    """
    Cuts frames out of the stream, the last of which is a CLOSE: what comes
    behind it is left alone.

    @ivar error: what was wrong behind the frames that came last, or None.  It
        is final: nothing more is read.
    @ivar maxMessage: the largest message body to take, bytes.
    @ivar missing: how many bytes of a frame's body are yet to come.
    @ivar start: less than a frame's header; or what came behind a CLOSE.
    """

    __slots__ = (
        "_body",
        "_closed",
        "_kind",
        "_micros",
        "error",
        "maxMessage",
        "missing",
        "start",
    )

    def __init__(self, maxMessage: int) -> None:
        """
        Start at a frame's beginning.

        @param maxMessage: the largest message body to take, bytes.
        """
        self.error: ProtocolError | None = None
        self.maxMessage = maxMessage
        self._closed = False  # there was a CLOSE
        self.start = b""
        self._body: list[bytes | bytearray] = []  # the beginning of a body
        self.missing = 0
        self._kind = self._micros = 0  # of that body

    @property
    def empty(self) -> bool:
        """
        Whether nothing came that is no whole frame yet.
        """
        return not (self.missing or self.start)

    def receive(self, data: bytes) -> list[Frame]:
        """
        Take bytes of the stream.

        @param data: any length.
        @return: the frames that are whole now, in order; look at C{error} once
            they are dealt with.
        """
        frames: list[Frame] = []
        if self.error is not None:
            return frames
        try:
            position, available = 0, len(data)
            if self.missing:
                if available < self.missing:
                    self._keep(data)
                    return frames
                position = self.missing
                body = b"".join([*self._body, memoryview(data)[:position]])
                self._body, self.missing = [], 0
                frames.append(self._decode(self._kind, self._micros, body))
            elif self.start:
                data = self.start + data
                available = len(data)
            while available - position >= HEADER_SIZE and not self._closed:
                size, kind, micros = unpackHeader(data, position)
                if kind in _SINGLE:
                    if size > self.maxMessage:
                        raise tooBig(size, self.maxMessage)
                elif kind != _ACKNOWLEDGEMENT or size != _ACK_SIZE:
                    self._check(kind, size)
                position += HEADER_SIZE
                end = position + size
                if end > available:
                    self._kind, self._micros, self.missing = kind, micros, size
                    self.start = b""
                    self._keep(data[position:])
                    return frames
                if kind == _ACKNOWLEDGEMENT:
                    frames.append(_new(Ack, unpackAck(data, position)))
                elif kind == _BINARY:
                    body, cost = data[position:end], size + MESSAGE_OVERHEAD
                    frames.append(_new(Messages, (micros, (body,), cost, cost)))
                elif kind == _BATCH:
                    frames.append(self._decodeBatch(micros, data, position, end))
                else:
                    frames.append(self._decode(kind, micros, data[position:end]))
                position = end
            self.start = data[position:]
        except ProtocolError as error:
            self.error = error
            self.start, self._body, self.missing = b"", [], 0
        return frames

    def _keep(self, data: bytes) -> None:
        """
        Keep a part of a body that is not whole yet.  Small parts are put
        together at once: as objects of their own they would take many times
        their bytes.

        @param data: fewer bytes than are missing.
        """
        body = self._body
        self.missing -= len(data)
        if len(data) >= LARGE_PART:
            body.append(data)
        elif body and isinstance(body[-1], bytearray):
            body[-1] += data
        else:
            body.append(bytearray(data))

    def _check(self, kind: int, size: int) -> None:
        """
        Refuse a frame that is not a message of its own, by its header.

        @param kind: its type.
        @param size: bytes of its body.
        @raise ProtocolError: there is no such type, or no such size of it.
        """
        bounds = _BOUNDS.get(kind)  # type: ignore[call-overload]
        if bounds is None:
            raise ProtocolError(f"unknown frame type {kind}")
        least, most = bounds
        if not least <= size <= most:
            raise ProtocolError(
                f"a {FrameType(kind).name} of {size} bytes; {least} to {most} are right"
            )

    def _decode(self, kind: int, micros: int, body: bytes) -> Frame:
        """
        Decode one frame.

        @param kind: its type.
        @param micros: its time.
        @param body: its body, of a size that fits the type.
        @return: the frame.
        @raise ProtocolError: the body is not as it should be.
        """
        if kind == _BATCH:
            return self._decodeBatch(micros, body, 0, len(body))
        if kind in _SINGLE:
            cost = len(body) + MESSAGE_OVERHEAD
            data = body if kind == _BINARY else decodeText(body)
            return Messages(micros, (data,), cost, cost)
        if kind == _ACKNOWLEDGEMENT:
            return Ack(*_ACK.unpack(body))
        match kind:
            case FrameType.PING:
                return Ping(body)
            case FrameType.PONG:
                return Pong(body)
            case FrameType.WELCOME:
                return Welcome(body)
            case _:
                self._closed = True
                (code,) = _CODE.unpack_from(body)
                return Close(code, decodeText(body[_CODE.size :]))

    def _decodeBatch(
        self, micros: int, data: bytes, position: int, end: int
    ) -> Messages:
        """
        Decode a BATCH, where it is.

        @param micros: its time.
        @param data: what it is in.
        @param position: where its body begins.
        @param end: where that ends.
        @return: its messages.
        @raise ProtocolError: it is not as it should be.
        """
        return _new(
            Messages, (micros, *decodeBatch(data, position, end, self.maxMessage))
        )


def encodeFrame(kind: FrameType, micros: int, body: bytes = b"") -> bytes:
    """
    Encode one frame.

    @param kind: its type.
    @param micros: its time, microseconds since the Unix epoch.
    @param body: its body.
    @return: header and body.
    """
    return _HEADER.pack(len(body), kind, micros) + body


def encodeBatch(
    micros: int, bodies: Sequence[bytes], lengths: Sequence[int]
) -> list[bytes]:
    """
    Encode a BATCH.

    @param micros: its time, microseconds since the Unix epoch.
    @param bodies: the messages, in any number of pieces; with their lengths they must
        fit C{MAX_BATCH}.
    @param lengths: the length of each message, C{BINARY_BIT} set for binary ones.
    @return: pieces to join.
    """
    table = array("I", lengths)
    if sys.byteorder == "little":  # pragma: no branch
        table.byteswap()
    count = _COUNT.pack(len(table))
    size = _U32 + _U32 * len(table) + sum(map(len, bodies))
    return [_HEADER.pack(size, _BATCH, micros), count, table.tobytes(), *bodies]


def encodeAck(micros: int, count: int, limit: int) -> bytes:
    """
    Encode an ACK.

    @param micros: its time, microseconds since the Unix epoch.
    @param count: messages in our keeping.
    @param limit: bytes of messages that we take.
    @return: the frame.
    """
    return _ACK_FRAME.pack(_ACK.size, _ACKNOWLEDGEMENT, micros, count, limit)


def encodeClose(micros: int, code: int, reason: str) -> bytes:
    """
    Encode a CLOSE.

    @param micros: its time, microseconds since the Unix epoch.
    @param code: PROTOCOL section 9.
    @param reason: words for the peer; cut to 1,024 bytes in UTF-8.
    @return: the frame.
    """
    words = reason.encode("utf-8", "replace")[:MAX_REASON]
    words = words.decode("utf-8", "ignore").encode("utf-8")
    return encodeFrame(FrameType.CLOSE, micros, _CODE.pack(code) + words)
