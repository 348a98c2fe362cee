"""
The frames of the message layer, section 6 of docs/protocol.md: what each is, its
bounds, and how it is encoded.  L{aesm.core.messages.framereader} decodes them.
"""

from __future__ import annotations

import re
import sys
from array import array
from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from struct import Struct
from sys import getsizeof
from typing import Final, NamedTuple

from aesm._mypyc import mypyc_attr
from aesm.errors import CloseCode, InvalidText, MessageTooBig

MAX_REASON: Final = 1024  # bytes of a CLOSE's reason, and of what is behind it
MAX_AFTER: Final = 3_600_000  # milliseconds
_AFTER: Final = re.compile("[1-9][0-9]{0,6}", re.ASCII)
MAX_CONTROL: Final = 64  # bytes of a PING
MAX_OBJECT: Final = 2048  # bytes of a WELCOME, section 8
# Bytes that a BATCH's messages count, so that it fits a record.
MAX_BATCH: Final = 65506
# What a message counts beside its body, section 7: about what keeping it takes besides,
# so that a window bounds memory even if all messages are empty.
MESSAGE_OVERHEAD: Final = 64  # bytes
BINARY_BIT: Final = 1 << 31  # in a length of a BATCH
CALL_BIT: Final = 1 << 30  # alone for a REQUEST, with BINARY_BIT for a RESPONSE
LARGE_TEXT: Final = 65536  # bytes; a text that is not ASCII is decoded in such pieces

_HEADER: Final = Struct(">IBQ")  # length, type, time
_ACK: Final = Struct(">QQ")
_ACK_FRAME: Final = Struct(">IBQQQ")
CODE: Final = Struct(">H")
COUNT: Final = Struct(">I")  # of the messages in a BATCH; their lengths have its form
COUNT_SIZE: Final = COUNT.size

# As many of these as there can be in a BATCH.
BINARY_BITS: Final = int.from_bytes(
    COUNT.pack(BINARY_BIT) * (MAX_BATCH // COUNT_SIZE), "big"
)
CALL_BITS: Final = BINARY_BITS >> 1

packHeader: Final = _HEADER.pack  # length, type, time
unpackHeader: Final[Callable[..., tuple[int, int, int]]] = _HEADER.unpack_from
unpackAck: Final = _ACK.unpack_from  # count, limit
HEADER_SIZE: Final = _HEADER.size
ACK_SIZE: Final = _ACK.size
ACK_FRAME_SIZE: Final = _ACK_FRAME.size
newTuple: Final = tuple.__new__  # makes a NamedTuple without a call of Python's


class FrameType(IntEnum):
    """The frame types on the wire."""

    TEXT = 1
    BINARY = 2
    WELCOME = 3
    BATCH = 4
    REST = 5
    REQUEST = 6
    RESPONSE = 7
    CLOSE = 8
    PING = 9
    PONG = 10
    ACK = 11


# As plain numbers: to look up a member of an Enum takes longer than to compare.
TEXT: Final = int(FrameType.TEXT)
BINARY: Final = int(FrameType.BINARY)
BATCH: Final = int(FrameType.BATCH)
ACKNOWLEDGEMENT: Final = int(FrameType.ACK)
REST: Final = int(FrameType.REST)
REQUEST: Final = int(FrameType.REQUEST)
RESPONSE: Final = int(FrameType.RESPONSE)
SINGLE_TYPES: Final = (BINARY, TEXT)  # a message in a frame of its own
CALL_TYPES: Final = (REQUEST, RESPONSE)  # the same, about a request

# An ACK: time, count, limit.  An object of C's, not a function: one is made for each
# message that is answered.
encodeAck: Final = partial(_ACK_FRAME.pack, _ACK.size, ACKNOWLEDGEMENT)

# An ACK and a message's header: time, count, limit; length, type, time.
packExchange: Final = partial(Struct(">IBQQQIBQ").pack, _ACK.size, ACKNOWLEDGEMENT)
unpackExchange: Final[Callable[..., tuple[int, int, int, int, int]]] = Struct(
    ">QQIBQ"
).unpack_from  # the same, from the count on

BOUNDS: Final = {  # (least, most) bytes of each body that is not a message
    FrameType.WELCOME: (2, MAX_OBJECT),
    FrameType.BATCH: (2 * COUNT_SIZE, MAX_BATCH),
    FrameType.CLOSE: (CODE.size, CODE.size + MAX_REASON),
    FrameType.PING: (0, MAX_CONTROL),
    FrameType.PONG: (0, MAX_CONTROL),
    FrameType.ACK: (_ACK.size, _ACK.size),
}


# The costs are computed once, by the reader, which has the lengths at hand; C{lastCost}
# is needed because the last message may go past the limit (L{Inbox.receive}).
class Messages(NamedTuple):
    """
    One or more messages of one frame.  A tuple, because most frames are these, and a
    tuple is made faster than a dataclass.

    @ivar micros: when they were sent, microseconds since the Unix epoch, the sender's
        clock.
    @ivar data: the messages in order, C{str} for TEXT and C{bytes} for BINARY.  A text
        that would take much more memory than on the wire stays L{EncodedText} until it
        is handed over: then this is L{EncodedBodies}.
    @ivar cost: what they count for flow control: their bodies, and 64 bytes each.
    @ivar lastCost: what the last of them counts.
    """

    micros: int
    data: Sequence[str | bytes]
    cost: int
    lastCost: int


@mypyc_attr(native_class=False)
class Requests(Messages):
    """As L{Messages}: the bodies of requests."""

    __slots__ = ()


@mypyc_attr(native_class=False)
class Responses(Messages):
    """As L{Messages}: the bodies of what ends requests."""

    __slots__ = ()


@mypyc_attr(native_class=False)
class EncodedText(bytes):
    """A TEXT message in UTF-8."""

    __slots__ = ()  # one takes no more than bytes do


@mypyc_attr(native_class=False)
class EncodedRequest(bytes):
    """The body of a REQUEST, where it is among others."""

    __slots__ = ()


@mypyc_attr(native_class=False)
class EncodedResponse(bytes):
    """The body of a RESPONSE, where it is among others."""

    __slots__ = ()


# Of the class of a message that is kept: the type of its frame, and what there is in
# its length in a BATCH.  Not attributes of a common base: mypyc does not find what
# inherits from a class that it does not compile to a struct.
KINDS: Final[dict[type, int]] = {
    str: TEXT,
    bytes: BINARY,
    EncodedText: TEXT,
    EncodedRequest: REQUEST,
    EncodedResponse: RESPONSE,
}
LENGTH_BITS: Final[dict[type, int]] = {
    str: 0,
    bytes: BINARY_BIT,
    EncodedText: 0,
    EncodedRequest: CALL_BIT,
    EncodedResponse: BINARY_BIT | CALL_BIT,
}


def markedOf(messages: Messages) -> Sequence[str | bytes]:
    """Give messages of which each shows what it is: of what C{KINDS} has."""
    if type(messages) is Requests:
        return [EncodedRequest(body) for body in messages.data]  # type: ignore[arg-type]
    if type(messages) is Responses:
        return [EncodedResponse(body) for body in messages.data]  # type: ignore[arg-type]
    return messages.data


@mypyc_attr(native_class=False)
class EncodedBodies(list["str | bytes"]):
    """Messages received of which some are C{EncodedText}."""


class Partial(NamedTuple):
    """
    The part of a message that came before its transport was lost; over the next one a
    REST brings the rest.

    @ivar kind: the type of its frame, TEXT or BINARY.
    @ivar body: the beginning of its body.
    """

    kind: int
    body: bytes


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
    The peer's CLOSE.

    @ivar code: docs/protocol.md, section 9.
    @ivar reason: at most 1,024 bytes in UTF-8.
    @ivar after: milliseconds over which a peer that goes away (1001) wants those whom
        it leaves to come back; 0 if it did not say.
    """

    code: int
    reason: str
    after: int = 0


@dataclass(frozen=True)
class Ping:
    """
    The peer's PING.

    @ivar body: what the PONG has to carry, at most 64 bytes.
    """

    body: bytes


@dataclass(frozen=True)
class Pong:
    """
    The answer to a PING.

    @ivar body: the PING's body.
    """

    body: bytes


class Ack(NamedTuple):
    """
    The peer's acknowledgement and send limit; a tuple, for the same reason as
    L{Messages}.

    @ivar count: messages acknowledged from the session's start (cumulative).
    @ivar limit: cost that the peer accepts from the session's start, bytes.
    """

    count: int  # type: ignore[assignment]  # instead of a tuple's method
    limit: int


Frame = Messages | Welcome | Close | Ping | Pong | Ack


def encodeFrame(kind: FrameType, micros: int, body: bytes = b"") -> bytes:
    """Encode one frame, header and body."""
    return _HEADER.pack(len(body), kind, micros) + body


def encodeBatch(
    micros: int, bodies: Sequence[bytes], lengths: Sequence[int]
) -> list[bytes]:
    """
    Encode a BATCH.

    @param bodies: the messages, in any number of pieces; with their lengths they must
        fit C{MAX_BATCH}.
    @param lengths: the length of each message, C{BINARY_BIT} set for binary ones.
    @return: pieces to join.
    """
    # An array, because struct.pack would parse a format of its own for each count.
    table = array("I", lengths)
    if sys.byteorder == "little":  # pragma: no branch
        table.byteswap()
    count = COUNT.pack(len(table))
    size = COUNT_SIZE + COUNT_SIZE * len(table) + sum(map(len, bodies))
    return [_HEADER.pack(size, BATCH, micros), count, table.tobytes(), *bodies]


def checkClose(code: object, reason: object) -> None:
    """
    Check what a CLOSE is to say.

    @raise TypeError: the code is no number, or the reason no text.
    @raise ValueError: the code is no u16.
    """
    if not isinstance(reason, str):
        raise TypeError(f"a reason is str, not {type(reason).__name__}")
    if not isinstance(code, int):
        raise TypeError(f"a code is int, not {type(code).__name__}")
    if not 0 <= code < 1 << 16:
        raise ValueError(f"a code is 0 to 65535, not {code}")


def encodeClose(micros: int, code: int, reason: str, after: int = 0) -> bytes:
    """Encode a CLOSE frame; the reason is cut to 1,024 bytes in UTF-8."""
    # Behind the reason, where a peer that does not know of it takes it for some more.
    suffix = b"\0%d" % min(after, MAX_AFTER) if after > 0 else b""
    words = reason.encode("utf-8", "replace")[: MAX_REASON - len(suffix)]
    # The cut may have gone through a character, whose rest is dropped.
    words = words.decode("utf-8", "ignore").encode("utf-8")
    return encodeFrame(FrameType.CLOSE, micros, CODE.pack(code) + words + suffix)


def decodeClose(body: bytes) -> Close:
    """
    Decode the body of a CLOSE, of two bytes at least.

    @raise InvalidText: its reason is not UTF-8.
    """
    (code,) = CODE.unpack_from(body)
    reason = decodeText(body[CODE.size :])
    words, mark, after = reason.rpartition("\0")
    if code == CloseCode.GOING_AWAY and mark and _AFTER.fullmatch(after):
        millis = int(after)
        if millis <= MAX_AFTER:
            return Close(code, words, millis)
    return Close(code, reason)


def textOf(body: bytes) -> str | EncodedText:
    """
    Make what is kept of a TEXT message until it is handed over.

    @raise InvalidText: it is not UTF-8.
    """
    # One emoji, and each character of a str takes four bytes.
    if body.isascii():
        return body.decode("ascii")
    if len(body) > LARGE_TEXT:
        checkText(body)
        return EncodedText(body)
    text = decodeText(body)
    if getsizeof(text) <= 1.5 * (len(body) + MESSAGE_OVERHEAD):
        return text
    return EncodedText(body)


def checkText(body: bytes) -> None:
    """
    Validate a text without decoding all of a large one at once.

    @raise InvalidText: it is not UTF-8.
    """
    if body.isascii():
        return
    decoder, view = getincrementaldecoder("utf-8")(), memoryview(body)
    try:
        for start in range(0, len(body), LARGE_TEXT):
            decoder.decode(view[start : start + LARGE_TEXT])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InvalidText(f"text that is not UTF-8: {error.reason}") from None


def decoded(data: str | bytes) -> str | bytes:
    """Give a message as its user gets it."""
    return data.decode("utf-8") if type(data) is EncodedText else data


def decodeText(body: bytes) -> str:
    """
    Decode UTF-8.

    @raise InvalidText: it is not UTF-8.
    """
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidText(f"text that is not UTF-8: {error.reason}") from None


def tooBig(size: int, maxMessage: int) -> MessageTooBig:
    """Make the error for a message of so many bytes."""
    return MessageTooBig(f"a message of {size} bytes; at most {maxMessage} are taken")
