"""
Messages that were sent together: how the outgoing direction of a session keeps
them, and how they are written.
"""

from __future__ import annotations

import sys
from array import array
from typing import cast

from aesm.core.frames import (
    BINARY_BIT,
    BINARY_BITS,
    MAX_BATCH,
    MESSAGE_OVERHEAD,
    FrameType,
    Messages,
    encodeBatch,
    packHeader,
)

__all__ = [
    "MAX_COST",
    "Body",
    "EncodedText",
    "Message",
    "Turn",
    "bodyOf",
    "encodeMessage",
]

LENGTH_BYTES = 4  # of a BATCH's count, and of each message's length in it
_BINARY, _TEXT = int(FrameType.BINARY), int(FrameType.TEXT)
MAX_COST = MAX_BATCH - 2 * LENGTH_BYTES  # of several messages, so that they fit one


Message = str | bytes | bytearray | memoryview  # C{str} for TEXT, bytes for BINARY


class EncodedText(bytes):
    """
    A TEXT message in UTF-8.
    """


Body = str | bytes  # ASCII as C{str}, other text as L{EncodedText}; or binary


def bodyOf(data: Message) -> Body:
    """
    Make of a message what is kept of it until it is acknowledged.

    @param data: the message.
    @return: its body; ASCII text is left as it is, and encoded with others.
    @raise TypeError: it is neither text nor bytes.
    @raise ValueError: the text cannot be written in UTF-8.
    """
    if isinstance(data, str):
        return data if data.isascii() else EncodedText(data.encode("utf-8"))
    if isinstance(data, EncodedText):
        return data
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a message is str or bytes, not {type(data).__name__}")


def encodeMessage(micros: int, body: Body) -> bytes:
    """
    Encode one message.

    @param micros: its time, microseconds since the Unix epoch.
    @param body: its body.
    @return: a frame.
    """
    if type(body) is bytes:
        return packHeader(len(body), _BINARY, micros) + body
    text = body.encode("ascii") if isinstance(body, str) else body
    return packHeader(len(text), _TEXT, micros) + text


class Turn:
    """
    Messages that were sent in one turn of the event loop and fit one BATCH.

    As long as it has room, who sends adds to C{bodies} and takes from C{room}.

    @ivar micros: when, microseconds since the Unix epoch.
    @ivar first: how many messages of the session came before it.
    @ivar bodies: the messages.
    @ivar kind: the type that all bodies have, C{bytes} or C{str}; None if they
        differ, or each must be looked at before it is added.
    @ivar space: what its messages may count for flow control, bytes; once it takes
        no more, what they do.
    @ivar room: what is left of that.
    """

    __slots__ = ("bodies", "first", "kind", "micros", "room", "space")

    def __init__(self, micros: int, first: int, kind: type, space: int) -> None:
        """
        Start with no messages.

        @param micros: when.
        @param first: how many messages of the session came before it.
        @param kind: the type of the first body.
        @param space: what its messages may count for flow control.
        """
        self.micros = micros
        self.first = first
        self.bodies: list[Body] = []
        self.kind: type | None = kind if kind in (bytes, str) else None
        self.room = self.space = space

    def cut(self, count: int) -> Turn:
        """
        Split off the oldest messages.

        @param count: how many, fewer than there are.
        @return: a turn of its own with these; the others stay in this one.
        """
        bodies = self.bodies[:count]
        cost = sum(map(len, bodies)) + MESSAGE_OVERHEAD * count
        first = Turn(self.micros, self.first, bytes, cost)
        first.bodies, first.kind, first.room = bodies, self.kind, 0
        del self.bodies[:count]
        self.first += count
        self.space -= cost
        return first

    def encode(self, batch: bool) -> list[bytes]:
        """
        Encode the messages.

        @param batch: whether the peer takes BATCH frames.
        @return: pieces to join.
        """
        micros, bodies, kind = self.micros, self.bodies, self.kind
        if not batch or len(bodies) == 1:
            return [encodeMessage(micros, body) for body in bodies]
        if kind is bytes:
            lengths = _binary(array("I", map(len, bodies)))
            return encodeBatch(micros, cast("list[bytes]", bodies), lengths)
        if kind is str:
            text = "".join(cast("list[str]", bodies)).encode("ascii")
            return encodeBatch(micros, [text], array("I", map(len, bodies)))
        encoded = [b.encode("ascii") if isinstance(b, str) else b for b in bodies]
        lengths = array(
            "I", [len(b) | (BINARY_BIT if type(b) is bytes else 0) for b in bodies]
        )
        return encodeBatch(micros, encoded, lengths)

    @classmethod
    def of(cls, messages: Messages) -> Turn:
        """
        Take messages as they came.

        @param messages: one or more.
        @return: the same, as they are written.
        """
        bodies = [bodyOf(data) for data in messages.data]
        cost = sum(map(len, bodies)) + MESSAGE_OVERHEAD * len(bodies)
        turn = cls(messages.micros, 0, type(bodies[0]), cost)
        turn.bodies, turn.room = bodies, 0
        if len(set(map(type, bodies))) > 1:
            turn.kind = None
        return turn


def _binary(lengths: array[int]) -> array[int]:
    """
    Mark lengths as those of binary messages, all in one: that is quick.

    @param lengths: as they are.
    @return: the same with C{BINARY_BIT} set.
    """
    table = int.from_bytes(lengths.tobytes(), sys.byteorder)
    table |= BINARY_BITS & ((1 << 32 * len(lengths)) - 1)
    return array("I", table.to_bytes(4 * len(lengths), sys.byteorder))
