"""
Messages that were sent together: how the outgoing direction of a session keeps
them, and how they are written.
"""

from __future__ import annotations

from array import array

from aesm.core.frames import (
    BINARY_BIT,
    MAX_BATCH,
    MESSAGE_OVERHEAD,
    Messages,
    encodeBatch,
    encodeMessage,
)

__all__ = ["LENGTH_BYTES", "Turn"]

LENGTH_BYTES = 4  # of a BATCH's count, and of each message's length in it


class Turn:
    """
    Messages that were sent in one turn of the event loop and fit one BATCH.

    @ivar micros: when, microseconds since the Unix epoch.
    @ivar bodies: the messages.
    @ivar lengths: their lengths, C{BINARY_BIT} set for binary ones.
    @ivar cost: what they count for flow control.
    @ivar room: the longest message that still fits, bytes.
    """

    __slots__ = ("bodies", "cost", "lengths", "micros", "room")

    def __init__(self, micros: int, bodies: list[bytes], lengths: array[int]) -> None:
        """
        @param micros: when.
        @param bodies: the messages.
        @param lengths: their lengths, C{BINARY_BIT} set for binary ones.
        """
        self.micros = micros
        self.bodies = bodies
        self.lengths = lengths
        self.cost = sum(map(len, bodies)) + MESSAGE_OVERHEAD * len(bodies)
        self.room = MAX_BATCH - 2 * LENGTH_BYTES  # of a new one

    def cut(self, count: int) -> Turn:
        """
        Split off the oldest messages.

        @param count: how many, fewer than there are.
        @return: a turn of its own with these; the others stay in this one.
        """
        first = Turn(self.micros, self.bodies[:count], self.lengths[:count])
        del self.bodies[:count], self.lengths[:count]
        self.cost -= first.cost
        return first

    def encode(self, batch: bool) -> list[bytes]:
        """
        Encode the messages.

        @param batch: whether the peer takes BATCH frames.
        @return: pieces to join.
        """
        micros, bodies, lengths = self.micros, self.bodies, self.lengths
        if batch and len(bodies) > 1:
            return encodeBatch(micros, bodies, lengths)
        return [
            encodeMessage(micros, body, length >= BINARY_BIT)
            for body, length in zip(bodies, lengths, strict=True)
        ]

    @classmethod
    def of(cls, messages: Messages) -> Turn:
        """
        Take messages as they came.

        @param messages: one or more.
        @return: the same, as they are written.
        """
        bodies, lengths = [], array("I")
        for data in messages.data:
            flag = BINARY_BIT if isinstance(data, bytes) else 0
            body = data if isinstance(data, bytes) else data.encode("utf-8")
            bodies.append(body)
            lengths.append(len(body) | flag)
        return cls(messages.micros, bodies, lengths)
