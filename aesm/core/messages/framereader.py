"""
From bytes to frames, section 6 of docs/protocol.md::

    reader = FrameReader(maxMessage=2**20)
    for frame in reader.receive(data):
        ...                                  # Messages, Ack, Ping, ...
    if reader.error is not None:
        ...                                  # what came behind them is wrong

The reader checks a frame's type and length as soon as its header is there,
before anything of the body is kept.  It hands over messages in the groups
that they were sent in, because most of the cost of a small message is the
handling of it, not its bytes: those of a BATCH, which C{decodeBatch} decodes all
at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from struct import Struct, unpack

from aesm.core.messages.frames import (
    ACK_SIZE,
    ACKNOWLEDGEMENT,
    BATCH,
    BINARY,
    BINARY_BIT,
    BINARY_BITS,
    BOUNDS,
    CODE,
    COUNT,
    COUNT_SIZE,
    HEADER_SIZE,
    MESSAGE_OVERHEAD,
    REST,
    SINGLE_TYPES,
    Ack,
    Close,
    Frame,
    FrameType,
    Messages,
    Partial,
    Ping,
    Pong,
    Welcome,
    decodeText,
    newTuple,
    tooBig,
    unpackAck,
    unpackHeader,
)
from aesm.errors import ProtocolError

__all__ = ["FrameReader", "decodeBatch"]

LARGE_PART = 1024  # bytes of a body from which on they are kept as they come

_Bodies = Sequence[str | bytes]  # C{str} for TEXT, C{bytes} for BINARY


def decodeBatch(
    data: bytes, position: int, end: int, maxMessage: int
) -> tuple[_Bodies, int, int]:
    """
    Decode the body of a BATCH where it is: of its messages each is copied once.

    @param data: what it is in.
    @param position: where it begins, of 8 to 65,506 bytes.
    @param end: where it ends.
    @param maxMessage: the largest message to take, bytes.
    @return: its messages, what they count for flow control, and what the last does.
    @raise ProtocolError: count and lengths do not fit the body.
    @raise MessageTooBig: one of the messages is larger than is taken.
    @raise InvalidText: one of the texts is not UTF-8.
    """
    (count,) = COUNT.unpack_from(data, position)
    table = position + COUNT_SIZE
    start = table + COUNT_SIZE * count
    if not count or start > end:
        raise ProtocolError(f"a BATCH of {count} messages in {end - position} bytes")
    lengths = data[table:start]
    if lengths == lengths[:COUNT_SIZE] * count:  # all of one size and kind, as often
        (length,) = COUNT.unpack_from(lengths)
        binary = length & BINARY_BIT
        size = length ^ binary
        _check(size * count, size, end - start, maxMessage)
        bodies = _cutEvenly(data, start, size, count, bool(binary))
        return bodies, (size + MESSAGE_OVERHEAD) * count, size + MESSAGE_OVERHEAD
    packed = int.from_bytes(lengths, "big")  # all in one: that is quick
    kinds = packed & BINARY_BITS & ((1 << 32 * count) - 1)
    sizes = unpack(f">{count}I", (packed ^ kinds).to_bytes(len(lengths), "big"))
    total = sum(sizes)
    _check(total, max(sizes), end - start, maxMessage)
    cost = total + MESSAGE_OVERHEAD * count
    bodies = _cut(data, start, end, sizes, kinds)
    return bodies, cost, sizes[-1] + MESSAGE_OVERHEAD


def _check(total: int, largest: int, available: int, maxMessage: int) -> None:
    """
    Refuse lengths that cannot be.

    @param total: of all messages, bytes.
    @param largest: the largest of them.
    @param available: what there is.
    @param maxMessage: the largest message to take.
    @raise ProtocolError: they are not what there is.
    @raise MessageTooBig: one of the messages is larger than is taken.
    """
    if total != available:
        raise ProtocolError("the lengths in a BATCH do not add up to its body")
    if largest > maxMessage:
        raise tooBig(largest, maxMessage)


def _cutEvenly(data: bytes, start: int, size: int, count: int, binary: bool) -> _Bodies:
    """
    Cut messages of one size and kind.

    @param data: what they are in.
    @param start: where they begin.
    @param size: bytes of each.
    @param count: how many.
    @param binary: which kind.
    @return: the messages.
    @raise InvalidText: one of them is a text that is not UTF-8.
    """
    if not binary:
        body = data[start : start + size * count]
        if body.isascii() and size:
            text = body.decode("ascii")
            return [text[a : a + size] for a in range(0, len(text), size)]
    bodies = Struct(f"{size}s" * count).unpack_from(data, start)
    return bodies if binary else [decodeText(body) for body in bodies]


def _cut(
    data: bytes, start: int, end: int, sizes: Sequence[int], kinds: int
) -> _Bodies:
    """
    Cut messages of any sizes and kinds.

    @param data: what they are in.
    @param start: where they begin.
    @param end: where they end.
    @param sizes: bytes of each.
    @param kinds: the C{BINARY_BIT} of each, as in their lengths.
    @return: the messages.
    @raise InvalidText: one of them is a text that is not UTF-8.
    """
    if not kinds and (body := data[start:end]).isascii():
        text = body.decode("ascii")
        return [text[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]
    count, bounds = len(sizes), pairwise(accumulate(sizes, initial=start))
    if kinds == BINARY_BITS & ((1 << 32 * count) - 1):
        return [data[a:b] for a, b in bounds]
    flags = unpack(f">{count}I", kinds.to_bytes(COUNT_SIZE * count, "big"))
    return [
        data[a:b] if flag else decodeText(data[a:b])
        for flag, (a, b) in zip(flags, bounds, strict=True)
    ]


class FrameReader:
    """
    Cuts frames out of the stream, the last of which is a CLOSE: what comes
    behind it is left alone.

    @ivar error: what was wrong behind the frames that came last, or None.  It
        is final: nothing more is read.
    @ivar maxMessage: the largest message body to take, bytes.
    @ivar missing: how many bytes of a frame's body are yet to come.
    @ivar partial: what former connections brought of the first message, until there is
        one.
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
        "partial",
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
        self.partial: Partial | None = None
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
                if kind in SINGLE_TYPES:
                    if size > self.maxMessage:
                        raise tooBig(size, self.maxMessage)
                elif kind == REST:
                    self._checkRest(size, frames)
                elif kind != ACKNOWLEDGEMENT or size != ACK_SIZE:
                    self._check(kind, size)
                position += HEADER_SIZE
                end = position + size
                if end > available:
                    self._kind, self._micros, self.missing = kind, micros, size
                    self.start = b""
                    self._keep(data[position:])
                    return frames
                if kind == ACKNOWLEDGEMENT:
                    frames.append(newTuple(Ack, unpackAck(data, position)))
                elif kind == BINARY:
                    body, cost = data[position:end], size + MESSAGE_OVERHEAD
                    frames.append(newTuple(Messages, (micros, (body,), cost, cost)))
                elif kind == BATCH:
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

    def cut(self) -> Partial | None:
        """
        Keep what came of a message that is not whole, when the transport is gone.
        """
        former, body = self.partial, b"".join(self._body)
        if self._kind == REST and former is not None:
            return Partial(former.kind, former.body + body)
        held = b"" if former is None else former.body
        if self._kind in SINGLE_TYPES and len(body) > len(held):
            return Partial(self._kind, body)
        return former  # the peer may have begun with something else: it still fits

    def _checkRest(self, size: int, frames: list[Frame]) -> None:
        """
        Refuse a REST by its header, and by what came before it.

        @raise ProtocolError: there is nothing that it could be the rest of, or it is
            not the first message.
        @raise MessageTooBig: the whole is larger than is taken.
        """
        if self.partial is None or any(type(each) is Messages for each in frames):
            raise ProtocolError("a REST where none belongs")
        whole = len(self.partial.body) + size
        if whole > self.maxMessage:
            raise tooBig(whole, self.maxMessage)

    def _check(self, kind: int, size: int) -> None:
        """
        Refuse a frame that is not a message of its own, by its header.

        @param kind: its type.
        @param size: bytes of its body.
        @raise ProtocolError: there is no such type, or no such size of it.
        """
        bounds = BOUNDS.get(kind)  # type: ignore[call-overload]
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
        if kind == BATCH:
            return self._decodeBatch(micros, body, 0, len(body))
        if kind == REST and self.partial is not None:
            kind, body = self.partial.kind, self.partial.body + body
        if kind in SINGLE_TYPES:
            cost = len(body) + MESSAGE_OVERHEAD
            data = body if kind == BINARY else decodeText(body)
            return Messages(micros, (data,), cost, cost)
        if kind == ACKNOWLEDGEMENT:
            return Ack(*unpackAck(body))
        match kind:
            case FrameType.PING:
                return Ping(body)
            case FrameType.PONG:
                return Pong(body)
            case FrameType.WELCOME:
                return Welcome(body)
            case _:
                self._closed = True
                (code,) = CODE.unpack_from(body)
                return Close(code, decodeText(body[CODE.size :]))

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
        return newTuple(
            Messages, (micros, *decodeBatch(data, position, end, self.maxMessage))
        )
