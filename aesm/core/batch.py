"""
The messages of a BATCH frame, PROTOCOL section 6: its body is how many there are, the
length of each, and their bytes.  Most of what a small message costs its receiver is
done here for all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from struct import Struct, unpack

from aesm.errors import InvalidText, MessageTooBig, ProtocolError

__all__ = [
    "BINARY_BIT",
    "BINARY_BITS",
    "MAX_BATCH",
    "MESSAGE_OVERHEAD",
    "decodeBatch",
    "decodeText",
    "tooBig",
]

MAX_BATCH = 65506  # bytes of a BATCH's body, so that it fits a record
MESSAGE_OVERHEAD = 64  # bytes that a message counts beside its body, section 7
BINARY_BIT = 1 << 31  # in a length

_U32 = Struct(">I")
_SIZE = _U32.size

# As many of these as there can be.
BINARY_BITS = int.from_bytes(_U32.pack(BINARY_BIT) * (MAX_BATCH // _SIZE), "big")

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
    (count,) = _U32.unpack_from(data, position)
    table = position + _SIZE
    start = table + _SIZE * count
    if not count or start > end:
        raise ProtocolError(f"a BATCH of {count} messages in {end - position} bytes")
    lengths = data[table:start]
    if lengths == lengths[:_SIZE] * count:  # all of one size and kind, as often
        (length,) = _U32.unpack_from(lengths)
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
    flags = unpack(f">{count}I", kinds.to_bytes(_SIZE * count, "big"))
    return [
        data[a:b] if flag else decodeText(data[a:b])
        for flag, (a, b) in zip(flags, bounds, strict=True)
    ]


def decodeText(body: bytes) -> str:
    """
    Decode UTF-8.

    @param body: any length.
    @return: the text.
    @raise InvalidText: it is not UTF-8.
    """
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidText(f"text that is not UTF-8: {error.reason}") from None


def tooBig(size: int, maxMessage: int) -> MessageTooBig:
    """
    Say that a message is too big.

    @param size: what it has, bytes.
    @param maxMessage: what is taken.
    """
    return MessageTooBig(f"a message of {size} bytes; at most {maxMessage} are taken")
