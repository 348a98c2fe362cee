"""
From bytes to frames, section 6 of docs/protocol.md::

    reader = FrameReader(maxMessage=2**20)
    for frame in reader.receive(data):
        ...                                  # Messages, Ack, Ping, ...
    if reader.error is not None:
        ...                                  # what follows them is invalid

The reader validates a frame's type and length as soon as its header is there,
before anything of the body is kept.  It returns messages in the groups that they
were sent in, because most of the cost of a small message is its handling, not its
bytes: C{decodeBatch} decodes those of a BATCH all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from struct import Struct, unpack
from typing import Final

from aesm.core.messages.frames import (
    ACK_SIZE,
    ACKNOWLEDGEMENT,
    BATCH,
    BINARY,
    BINARY_BIT,
    BINARY_BITS,
    BOUNDS,
    CALL_BIT,
    CALL_BITS,
    CALL_TYPES,
    COUNT,
    COUNT_SIZE,
    HEADER_SIZE,
    MAX_BATCH,
    MAX_OBJECT,
    MESSAGE_OVERHEAD,
    REQUEST,
    RESPONSE,
    REST,
    SINGLE_TYPES,
    Ack,
    EncodedBodies,
    EncodedText,
    Frame,
    FrameType,
    Messages,
    Partial,
    Ping,
    Pong,
    Requests,
    Responses,
    Welcome,
    decodeClose,
    newTuple,
    textOf,
    tooBig,
    unpackAck,
    unpackHeader,
)
from aesm.core.messages.requests import (
    BINARY_REQUEST,
    REQUEST_PREFIX,
    RESPONSE_PREFIX,
    checkRequest,
    checkResponse,
    mostOf,
)
from aesm.errors import ProtocolError

# By the two highest bits of a length in a BATCH: what it is of, 0 for a message.
KIND_BITS: Final = (0, REQUEST, 0, RESPONSE)
RUNS: Final = (Messages, Requests, Responses)  # frames of messages
LARGE_PART: Final = 1024  # bytes of a body from which on they are kept as they come

# The hot path
#
# Most of what arrives is BATCHes, single messages and ACKs, and a Python call for each
# message would be most of its cost.  So C{receive} handles these types in its own loop,
# with plain numbers for types and tuples for frames; and C{decodeBatch} works on the
# lengths and bodies of a BATCH as a whole: lengths as one large number, bodies cut by
# one C{Struct} or, for ASCII, out of one text that is decoded once.
# tests/messages/test_hotpath.py counts the calls (test_receiving, test_roundTrip).

_Bodies = Sequence[str | bytes]  # C{str} for TEXT, C{bytes} for BINARY


def decodeBatch(
    data: bytes, position: int, end: int, maxMessage: int
) -> tuple[_Bodies, int, int]:
    """
    Decode the body of a BATCH in place: each of its messages is copied once.

    @param position: where the body begins; it has 8 to 65,506 bytes.
    @param end: where it ends.
    @return: its messages, their cost for flow control, and the cost of the last; no
        message if there are requests or responses among them: it is for
        C{decodeCalls}.
    @raise ProtocolError: count and lengths do not fit the body.
    @raise MessageTooBig: one of the messages is larger than C{maxMessage}.
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
        if size & CALL_BIT:
            return (), 0, 0
        cost = (size + MESSAGE_OVERHEAD) * count
        _check(size * count, size, cost, end - start, maxMessage)
        bodies = _cutEvenly(data, start, size, count, bool(binary))
        return bodies, cost, size + MESSAGE_OVERHEAD
    # One large number for all lengths: two operations separate kinds from sizes.
    packed = int.from_bytes(lengths, "big")
    mask = (1 << 32 * count) - 1
    kinds = packed & BINARY_BITS & mask
    if packed & CALL_BITS & mask:
        return (), 0, 0
    sizes = unpack(f">{count}I", (packed ^ kinds).to_bytes(len(lengths), "big"))
    total = sum(sizes)
    cost = total + MESSAGE_OVERHEAD * count
    _check(total, max(sizes), cost, end - start, maxMessage)
    bodies = _cut(data, start, end, sizes, kinds)
    return bodies, cost, sizes[-1] + MESSAGE_OVERHEAD


def decodeCalls(
    data: bytes, position: int, end: int, maxMessage: int, micros: int
) -> list[Messages]:
    """
    Decode the body of a BATCH of which C{decodeBatch} says that there are requests or
    responses in it.

    @return: runs of messages, of L{Requests} and of L{Responses}, in their order.
    @raise ProtocolError: as C{decodeBatch}; or one of these is not of its form.
    @raise MessageTooBig: as C{decodeBatch}.
    @raise InvalidText: as C{decodeBatch}.
    """
    (count,) = COUNT.unpack_from(data, position)
    table = position + COUNT_SIZE
    start = table + COUNT_SIZE * count
    lengths = unpack(f">{count}I", data[table:start])
    if lengths.count(lengths[0]) == count:  # all of one size and kind, as often
        kind, size = KIND_BITS[lengths[0] >> 30], lengths[0] & (CALL_BIT - 1)
        cost = (size + MESSAGE_OVERHEAD) * count
        _check(size * count, 0, cost, end - start, maxMessage)
        prefix = REQUEST_PREFIX if kind == REQUEST else RESPONSE_PREFIX
        if prefix <= size <= maxMessage:
            status = data[start + prefix - 1 : end : size]
            if status == BINARY_REQUEST * count:  # none need be looked at closely
                cut = list(evenly(size, count).unpack_from(data, start))
                return [_run(kind, micros, cut, cost, size + MESSAGE_OVERHEAD)]
    sizes = [length & (CALL_BIT - 1) for length in lengths]
    total = sum(sizes)
    # Each has its own bound, below.
    _check(total, 0, total + MESSAGE_OVERHEAD * count, end - start, maxMessage)
    bounds = list(accumulate(sizes, initial=start))
    bodies = [data[a:b] for a, b in pairwise(bounds)]
    runs: list[Messages] = []
    first = 0
    for kind, run in groupby([KIND_BITS[length >> 30] for length in lengths]):
        past = first + len(list(run))
        checked = _checked(kind, bodies[first:past], lengths[first:past], maxMessage)
        cost = bounds[past] - bounds[first] + MESSAGE_OVERHEAD * len(checked)
        last = sizes[past - 1] + MESSAGE_OVERHEAD
        runs.append(_run(kind, micros, checked, cost, last))
        first = past
    return runs


def _checked(
    kind: int, bodies: list[bytes], lengths: Sequence[int], maxMessage: int
) -> _Bodies:
    """Validate bodies of a BATCH, as C{decodeCalls}; of messages the kind is 0."""
    # Who asks many times asks briefly: most need not be looked at closely.
    if kind == REQUEST:
        for body in bodies:
            if body[:1] != BINARY_REQUEST or len(body) > maxMessage:
                checkRequest(body, maxMessage)
        return bodies
    if kind == RESPONSE:
        status = RESPONSE_PREFIX - 1
        for body in bodies:
            if body[status:RESPONSE_PREFIX] != BINARY_REQUEST or len(body) > maxMessage:
                checkResponse(body, maxMessage)
        return bodies
    largest = max(map(len, bodies))
    if largest > maxMessage:
        raise tooBig(largest, maxMessage)
    return [
        body if length & BINARY_BIT else textOf(body)
        for body, length in zip(bodies, lengths, strict=True)
    ]


def _run(kind: int, micros: int, bodies: _Bodies, cost: int, lastCost: int) -> Messages:
    """Make the frame of messages of one kind."""
    if kind == REQUEST:
        return newTuple(Requests, (micros, bodies, cost, lastCost))
    if kind == RESPONSE:
        return newTuple(Responses, (micros, bodies, cost, lastCost))
    return newTuple(Messages, (micros, _kept(bodies), cost, lastCost))


def _check(
    total: int, largest: int, cost: int, available: int, maxMessage: int
) -> None:
    """Validate the lengths of a BATCH, of which there are so many bytes."""
    if total != available:
        raise ProtocolError("the lengths in a BATCH do not add up to its body")
    if cost > MAX_BATCH:
        raise ProtocolError(
            f"the messages of a BATCH count {cost} bytes; at most {MAX_BATCH}"
        )
    if largest > maxMessage:
        raise tooBig(largest, maxMessage)


@lru_cache(maxsize=8)  # to make one takes as long as to use it
def evenly(size: int, count: int) -> Struct:
    """Make what cuts out so many messages of one size."""
    return Struct(f"{size}s" * count)


def _cutEvenly(data: bytes, start: int, size: int, count: int, binary: bool) -> _Bodies:
    """Cut out messages of one size and kind."""
    if not size:
        return (b"",) * count if binary else [""] * count
    if not binary:
        body = data[start : start + size * count]
        if body.isascii():  # in ASCII a character is a byte
            text = body.decode("ascii")
            return [text[a : a + size] for a in range(0, len(text), size)]
    bodies = evenly(size, count).unpack_from(data, start)
    return bodies if binary else _kept([textOf(body) for body in bodies])


def _cut(
    data: bytes, start: int, end: int, sizes: Sequence[int], kinds: int
) -> _Bodies:
    """Cut out messages of any sizes, with their C{BINARY_BIT}s in one number."""
    if not kinds and (body := data[start:end]).isascii():
        text = body.decode("ascii")
        return [text[a:b] for a, b in pairwise(accumulate(sizes, initial=0))]
    count, bounds = len(sizes), pairwise(accumulate(sizes, initial=start))
    if kinds == BINARY_BITS & ((1 << 32 * count) - 1):
        return [data[a:b] for a, b in bounds]
    flags = unpack(f">{count}I", kinds.to_bytes(COUNT_SIZE * count, "big"))
    return _kept(
        [
            data[a:b] if flag else textOf(data[a:b])
            for flag, (a, b) in zip(flags, bounds, strict=True)
        ]
    )


def _kept(bodies: _Bodies) -> _Bodies:
    """Say of messages whether texts among them are encoded."""
    return EncodedBodies(bodies) if EncodedText in map(type, bodies) else bodies


class FrameReader:
    """
    Cuts frames out of the stream.  A CLOSE is the last of them: what follows it is not
    parsed.

    @ivar error: why the bytes behind the last frames returned are invalid, or None.  It
        is final: nothing more is parsed.
    @ivar maxMessage: the largest message body to accept, bytes.
    @ivar missing: how many bytes of a frame's body are yet to come, or to be skipped.
    @ivar partial: what former connections brought of the first message, until it is
        complete.
    @ivar start: an incomplete header; or what followed a CLOSE.
    """

    __slots__ = (
        "_body",
        "_closed",
        "_kind",
        "_micros",
        "_muted",
        "_size",
        "error",
        "maxMessage",
        "missing",
        "partial",
        "start",
    )

    def __init__(self, maxMessage: int) -> None:
        self.error: ProtocolError | None = None
        self.maxMessage = maxMessage
        self._closed = self._muted = False  # there was a CLOSE; nothing large is kept
        self.start = b""
        self.partial: Partial | None = None
        self._body: list[bytes | bytearray] = []  # the beginning of a body
        self.missing = 0
        # Of that frame; no kind if it is skipped.
        self._kind = self._micros = self._size = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is held of an incomplete frame."""
        return not (self.missing or self.start)

    def receive(self, data: bytes) -> list[Frame]:
        """
        Take bytes of the stream, any number of them.

        @return: the frames that are complete now, in order; check C{error} after
            them.
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
                # The view, so that the rest of the data is not copied with it.
                body = b"".join([*self._body, memoryview(data)[:position]])
                self._body, self.missing = [], 0
                if self._kind == BATCH:
                    self._addBatch(frames, self._micros, body, 0, len(body))
                elif self._kind:
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
                    # Before the body: what is announced is never kept unchecked.
                    self._check(kind, size)
                position += HEADER_SIZE
                end = position + size
                if end > available:
                    self._kind = 0 if self._muted and size > MAX_OBJECT else kind
                    self._micros, self._size, self.missing = micros, size, size
                    self.start = b""
                    self._keep(data[position:])
                    return frames
                if kind == ACKNOWLEDGEMENT:
                    frames.append(newTuple(Ack, unpackAck(data, position)))
                elif kind == BINARY:
                    body, cost = data[position:end], size + MESSAGE_OVERHEAD
                    frames.append(newTuple(Messages, (micros, (body,), cost, cost)))
                elif kind == BATCH:
                    self._addBatch(frames, micros, data, position, end)
                else:
                    frames.append(self._decode(kind, micros, data[position:end]))
                position = end
            self.start = data[position:]  # less than a header, or behind a CLOSE
        except ProtocolError as error:
            # An attribute, not raised: the frames before it are valid and returned, so
            # that what happens does not depend on how the stream was chunked.
            self.error = error
            self.start, self._body, self.missing = b"", [], 0
        return frames

    def _keep(self, data: bytes) -> None:
        """Keep a part of an incomplete body."""
        # Small parts are joined at once: a peer that sends byte by byte would have us
        # keep an object of many bytes for each byte.
        body = self._body
        self.missing -= len(data)
        if not self._kind:
            return
        if len(data) >= LARGE_PART:
            body.append(data)
        elif body and isinstance(body[-1], bytearray):
            body[-1] += data
        else:
            body.append(bytearray(data))

    @property
    def held(self) -> int:
        """How many bytes are kept of the body of a frame that is not whole."""
        return self._size - self.missing if self._body else 0

    def mute(self) -> None:
        """Keep no part of a message from now on, since nobody takes it."""
        self._muted = True
        self.partial = self.partial and Partial(BINARY, b"")
        if self._size > MAX_OBJECT:  # only messages are so large
            self._kind, self._body = 0, []

    def skip(self, size: int) -> None:
        """Skip the first bytes of the stream, of which nothing has come yet."""
        self.missing = size

    def cut(self) -> Partial | None:
        """
        Let go of all that came, since nothing more is read, and return what it was of
        an incomplete message, or None.
        """
        former, body = self.partial, b"".join(self._body)
        self.start, self._body, self.missing = b"", [], 0
        if self._kind == REST and former is not None:
            return Partial(former.kind, former.body + body)
        held = b"" if former is None else former.body
        isMessage = self._kind in SINGLE_TYPES or self._kind in CALL_TYPES
        if isMessage and len(body) > len(held):
            return Partial(self._kind, body)
        return former  # the peer may have begun with something else: it still fits

    def _checkRest(self, size: int, frames: list[Frame]) -> None:
        """Validate the header of a REST, behind the frames that came with it."""
        if self.partial is None or any(type(each) in RUNS for each in frames):
            raise ProtocolError("a REST where none belongs")
        self._checkMessage(self.partial.kind, len(self.partial.body) + size)

    def _checkMessage(self, kind: int, size: int) -> None:
        """Validate the size of a message of any kind, whatever is in it."""
        most = self.maxMessage
        if kind in CALL_TYPES:
            most = mostOf(kind == REQUEST, most)
        if size > most:
            raise tooBig(size, most)

    def _check(self, kind: int, size: int) -> None:
        """Validate the header of a frame that is not a message of its own."""
        if kind in CALL_TYPES:
            self._checkMessage(kind, size)
            return
        bounds = BOUNDS.get(kind)  # type: ignore[call-overload]
        if bounds is None:
            raise ProtocolError(f"unknown frame type {kind}")
        least, most = bounds
        if not least <= size <= most:
            raise ProtocolError(
                f"a {FrameType(kind).name} of {size} bytes; {least} to {most} are right"
            )

    def _decode(self, kind: int, micros: int, body: bytes) -> Frame:
        """Decode one frame, whose size is validated."""
        if kind == REST and self.partial is not None:
            kind, body = self.partial.kind, self.partial.body + body
        cost = len(body) + MESSAGE_OVERHEAD  # of a message
        if kind in SINGLE_TYPES:
            data = body if kind == BINARY else textOf(body)
            kept = EncodedBodies([data]) if type(data) is EncodedText else (data,)
            return Messages(micros, kept, cost, cost)
        if kind in CALL_TYPES:
            check = checkRequest if kind == REQUEST else checkResponse
            check(body, self.maxMessage)
            return _run(kind, micros, [body], cost, cost)
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
                return decodeClose(body)

    def _addBatch(
        self, frames: list[Frame], micros: int, data: bytes, position: int, end: int
    ) -> None:
        """Decode a BATCH in place, and add what it stands for."""
        decoded = decodeBatch(data, position, end, self.maxMessage)
        if decoded[0]:
            frames.append(newTuple(Messages, (micros, *decoded)))
        else:
            frames += decodeCalls(data, position, end, self.maxMessage, micros)
