"""
The bodies of REQUEST and RESPONSE, section 6 of docs/protocol.md: how they are encoded
and validated::

    outbox.add(encodeRequest("what time is it?"), micros)
    outbox.add(encodeAnswer(number, "late"), micros)    # or encodeError
    match decodeResponse(body):
        case Response(number, Status.ERROR, code, reason): ...
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from aesm.core.messages.frames import (
    CODE,
    MAX_REASON,
    REQUEST,
    EncodedRequest,
    EncodedResponse,
    checkClose,
    checkText,
    newTuple,
    tooBig,
)
from aesm.errors import ProtocolError

NUMBER_STATUS: Final = Struct(">QB")
_ERROR: Final = Struct(">QBH")  # number, status, code

# Bytes before the data; C{maxMessage} is about the data.
REQUEST_PREFIX: Final = 1  # how the data is to be read
RESPONSE_PREFIX: Final = NUMBER_STATUS.size
LARGEST_ERROR: Final = CODE.size + MAX_REASON  # bytes behind the prefix

TEXT_REQUEST: Final = b"\x01"  # what requests begin with
BINARY_REQUEST: Final = b"\x02"


class Status(IntEnum):
    """How a request ends; the first two say how the answer is to be read."""

    TEXT = 1
    BINARY = 2
    ERROR = 3
    WITHDRAWN = 4


# As plain numbers, as the frame types.
TEXT: Final = int(Status.TEXT)
BINARY: Final = int(Status.BINARY)
ERROR: Final = int(Status.ERROR)
WITHDRAWN: Final = int(Status.WITHDRAWN)


class Response(NamedTuple):
    """
    A RESPONSE.

    @ivar number: the request's: how many messages its sender sent before it in the
        session.
    @ivar status: a L{Status}.
    @ivar code: of an error; else 0.
    @ivar data: the answer, or the reason of an error.
    """

    number: int
    status: int
    code: int
    data: str | bytes


def encodeRequest(data: str | bytes | bytearray | memoryview) -> EncodedRequest:
    """
    Encode a request.

    @raise TypeError: it is neither text nor bytes.
    @raise ValueError: the text cannot be written in UTF-8.
    """
    return EncodedRequest(encodeData(b"", data))


def encodeAnswer(
    number: int, data: str | bytes | bytearray | memoryview
) -> EncodedResponse:
    """
    Encode an answer.

    @raise TypeError: it is neither text nor bytes.
    @raise ValueError: the text cannot be written in UTF-8.
    """
    return EncodedResponse(encodeData(number.to_bytes(8, "big"), data))


def encodeData(prefix: bytes, data: str | bytes | bytearray | memoryview) -> bytes:
    """
    Encode data behind a prefix, the number of an answer, and how it is to be read.

    @raise TypeError: it is neither text nor bytes.
    @raise ValueError: the text cannot be written in UTF-8.
    """
    if isinstance(data, str):
        return prefix + TEXT_REQUEST + data.encode("utf-8")
    if isinstance(data, memoryview) and not data.c_contiguous:
        data = bytes(data)  # as it cannot be joined
    if isinstance(data, bytes | bytearray | memoryview):
        return b"".join((prefix, BINARY_REQUEST, data))
    raise TypeError(f"a message is str or bytes, not {type(data).__name__}")


def encodeError(number: int, code: int, reason: str) -> EncodedResponse:
    """
    Encode an error in the place of an answer; the reason is cut to 1,024 bytes.

    @raise TypeError: the code is no number, or the reason no text.
    @raise ValueError: the code is no u16.
    """
    checkClose(code, reason)
    words = reason.encode("utf-8", "replace")[:MAX_REASON]
    # The cut may have gone through a character, whose rest is dropped.
    words = words.decode("utf-8", "ignore").encode("utf-8")
    return EncodedResponse(_ERROR.pack(number, ERROR, code) + words)


def encodeWithdrawal(number: int) -> EncodedResponse:
    """Encode that a request of ours need not be answered."""
    return EncodedResponse(NUMBER_STATUS.pack(number, WITHDRAWN))


def decodeRequest(body: bytes) -> str | bytes:
    """Decode a request that is valid."""
    return str(body[1:], "utf-8") if body[0] == TEXT else body[1:]


def decodeResponse(body: bytes) -> Response:
    """Decode a response that is valid."""
    number, status = NUMBER_STATUS.unpack_from(body)
    if status == BINARY:
        return newTuple(Response, (number, status, 0, body[RESPONSE_PREFIX:]))
    if status == ERROR:
        code, reason = _ERROR.unpack_from(body)[2], str(body[_ERROR.size :], "utf-8")
        return Response(number, status, code, reason)
    return Response(number, status, 0, str(body[RESPONSE_PREFIX:], "utf-8"))


def mostOf(isRequest: bool, maxMessage: int) -> int:
    """Tell how many bytes the body of a REQUEST or a RESPONSE may have."""
    if isRequest:
        return REQUEST_PREFIX + maxMessage
    return RESPONSE_PREFIX + max(LARGEST_ERROR, maxMessage)


def sizeOf(body: str | bytes, kind: type) -> int:
    """Count the bytes of a message of a type that C{maxMessage} is about."""
    if kind is EncodedRequest:
        return len(body) - REQUEST_PREFIX
    if kind is EncodedResponse:
        isAnswer = body[RESPONSE_PREFIX - 1] in (TEXT, BINARY)
        return len(body) - RESPONSE_PREFIX if isAnswer else 0
    return len(body)


def isPlain(kind: int, body: bytes) -> bool:
    """
    Tell whether a REQUEST, or a RESPONSE with an answer, is valid, as far as that is
    seen at once; of one that is not, nothing is said.
    """
    prefix = REQUEST_PREFIX if kind == REQUEST else RESPONSE_PREFIX
    if len(body) < prefix:
        return False
    status = body[prefix - 1]
    return status == BINARY or (status == TEXT and body[prefix:].isascii())


def checkRequest(body: bytes, maxMessage: int) -> None:
    """
    Validate a request.

    @raise ProtocolError: it is not of its form.
    @raise MessageTooBig: its data is larger than C{maxMessage}.
    @raise InvalidText: its text is not UTF-8.
    """
    if not body or body[0] not in (TEXT, BINARY):
        raise ProtocolError("a REQUEST that is not of its form")
    if len(body) - REQUEST_PREFIX > maxMessage:
        raise tooBig(len(body) - REQUEST_PREFIX, maxMessage)
    if body[0] == TEXT:
        checkText(body[REQUEST_PREFIX:])


def checkResponse(body: bytes, maxMessage: int) -> None:
    """
    Validate a response.

    @raise ProtocolError: it is not of its form.
    @raise MessageTooBig: the answer is larger than C{maxMessage}.
    @raise InvalidText: its text is not UTF-8.
    """
    size = len(body) - RESPONSE_PREFIX
    status = body[RESPONSE_PREFIX - 1] if size >= 0 else 0
    if status in (TEXT, BINARY):
        if size > maxMessage:
            raise tooBig(size, maxMessage)
        if status == TEXT:
            checkText(body[RESPONSE_PREFIX:])
    elif status == ERROR and CODE.size <= size <= LARGEST_ERROR:
        checkText(body[_ERROR.size :])
    elif status != WITHDRAWN or size:
        raise ProtocolError("a RESPONSE that is not of its form")
