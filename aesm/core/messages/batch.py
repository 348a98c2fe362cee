"""
Messages that were sent together: how the outgoing direction of a session keeps
them, and how they are written.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any, Final, cast

from aesm._mypyc import mypyc_attr
from aesm.core.messages.frames import (
    BINARY_BITS,
    COUNT_SIZE,
    KINDS,
    LENGTH_BITS,
    MAX_BATCH,
    MESSAGE_OVERHEAD,
    REST,
    EncodedRequest,
    EncodedResponse,
    EncodedText,
    Messages,
    encodeBatch,
    markedOf,
    packHeader,
)
from aesm.core.messages.requests import sizeOf

# Of several messages, so that they fit one BATCH: each counts more than its length
# there takes, and the rest is for the count and one length.
MAX_COST: Final = MAX_BATCH - 2 * COUNT_SIZE
# The same, by what the first of them is.  A batch of requests or answers leaves once it
# is full, while the next is made, so that both sides are at work at the same time.
MAX_COSTS: Final[dict[type, int]] = {
    **dict.fromkeys(KINDS, MAX_COST),
    EncodedRequest: MAX_COST // 2,
    EncodedResponse: MAX_COST // 2,
}
_ONES: Final = BINARY_BITS >> 31  # 1 for each of as many lengths as there can be

Message = str | bytes | bytearray | memoryview  # C{str} for TEXT, bytes for BINARY


# ASCII text stays the C{str} that the user gave: isascii() is a look at a flag, its
# length is its length in UTF-8, so that its cost is known without encoding it, and all
# texts of a batch are joined and encoded in one step when it is sent.  Other text is
# encoded at once, because its size, and whether UTF-8 can write it, must be known; its
# class tells it from binary.  So does that of requests and responses, where they are
# among others: in a batch of one kind it is the batch that says so, since to make an
# object of such a class takes longer than all else that is done to it.
Body = str | bytes  # C{str} in ASCII or L{EncodedText} for TEXT; or as C{KINDS} says

_WHOLE: Final = (str, EncodedText, bytes)  # kinds of which C{maxMessage} is about all


def bodyOf(data: Message) -> Body:
    """
    Make the body that is kept of a message until it is acknowledged.

    @raise TypeError: it is neither text nor bytes.
    @raise ValueError: the text cannot be written in UTF-8.
    """
    if isinstance(data, str):
        if not data.isascii():
            return EncodedText(data.encode("utf-8"))
        return data if type(data) in KINDS else str.__str__(data)
    if isinstance(data, bytes):
        return data if type(data) in KINDS else bytes(data)
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a message is str or bytes, not {type(data).__name__}")


def encodeMessage(micros: int, body: Body, kind: type) -> bytes:
    """Encode one message as a frame of its own."""
    encoded = body.encode("ascii") if isinstance(body, str) else body
    return packHeader(len(encoded), KINDS[kind], micros) + encoded


class Batch:
    """
    Messages that were sent in one turn of the event loop and fit one BATCH.

    As long as it has room, the connection appends to C{bodies} and takes from C{room}.

    @ivar micros: when they were sent, microseconds since the Unix epoch.
    @ivar first: how many messages of the session precede it.
    @ivar bodies: the messages.
    @ivar kind: as what type all bodies are to be read, whichever they have; None if
        they differ, or each must be checked before it is added: then each has its own.
    @ivar space: the most that its messages may cost, bytes; once it is closed, what
        they do cost.
    @ivar room: what is left of that, bytes.
    """

    __slots__ = ("_largest", "bodies", "first", "kind", "micros", "room", "space")

    def __init__(self, micros: int, first: int, kind: type, space: int) -> None:
        """
        Start with no messages.

        @param kind: the type of the first body.
        @param space: the most that its messages may cost, bytes.
        """
        self.micros = micros
        self.first = first
        self.bodies: list[Body] = []
        self.kind: type | None = kind if kind in KINDS else None
        self.room = self.space = space
        self._largest: int | None = None

    @property
    def count(self) -> int:
        """The number of messages."""
        return len(self.bodies)

    @property
    def largest(self) -> int:
        """The bytes of the largest message, as C{maxMessage} counts them."""
        if self.room:  # more may come
            return self._measured()
        # Looked for once: a client that comes back again and again asks each time.
        if self._largest is None:
            self._largest = self._measured()
        return self._largest

    def _measured(self) -> int:
        """Find the bytes of the largest of the messages."""
        if self.kind in _WHOLE:
            return max(map(len, self.bodies), default=0)
        return max(map(self._sizeOf, self.bodies), default=0)

    def _sizeOf(self, body: Body) -> int:
        """Count the bytes of one of the messages, as C{maxMessage} does."""
        return sizeOf(body, self.kind or type(body))

    @property
    def marked(self) -> list[Body]:
        """The messages, each of the type as what it is to be read."""
        kind: Any = self.kind
        return self.bodies if kind is None else list(map(kind, self.bodies))

    @property
    def cost(self) -> int:
        """Their cost for flow control, bytes."""
        return self.space - self.room

    def mix(self) -> None:
        """Have each message say by itself what it is, since others are to come."""
        self.bodies, self.kind = self.marked, None

    def fitting(self, room: int) -> int:
        """
        Count the messages that may be sent, at least one: those before which the cost
        is below the limit.

        @param room: what is left below the limit, bytes, above 0.
        """
        fitting = 0
        for body in self.bodies:
            if room <= 0:
                break
            fitting += 1
            room -= len(body) + MESSAGE_OVERHEAD
        return fitting

    def cut(self, count: int) -> Batch:
        """
        Split off the oldest messages into a batch of their own.

        @param count: how many, fewer than there are.
        """
        bodies = self.bodies[:count]
        cost = sum(map(len, bodies)) + MESSAGE_OVERHEAD * count
        first = Batch(self.micros, self.first, bytes, cost)
        first.bodies, first.kind, first.room = bodies, self.kind, 0
        del self.bodies[:count]
        self._largest = None
        self.first += count
        self.space -= cost
        return first

    def encode(self, batched: bool) -> list[bytes]:
        """
        Encode the messages, into pieces to join.

        @param batched: whether the peer accepts BATCH frames.
        """
        micros, bodies, kind = self.micros, self.bodies, self.kind
        # One message takes less as a frame of its own.  Bodies of one type, as nearly
        # always, are measured and encoded without a loop of Python's.
        if not batched or len(bodies) == 1:
            return [encodeMessage(micros, body, kind or type(body)) for body in bodies]
        if kind is str:
            text = "".join(cast("list[str]", bodies)).encode("ascii")
            return encodeBatch(micros, [text], array("I", map(len, bodies)))
        if kind is not None:
            lengths = _flagged(array("I", map(len, bodies)), LENGTH_BITS[kind])
            return encodeBatch(micros, cast("list[bytes]", bodies), lengths)
        encoded = [b.encode("ascii") if isinstance(b, str) else b for b in bodies]
        lengths = array("I", [len(b) | LENGTH_BITS[type(b)] for b in bodies])
        return encodeBatch(micros, encoded, lengths)

    @classmethod
    def of(cls, messages: Messages) -> Batch:
        """Make a closed batch of messages received, to persist them as they came."""
        batch = cls(messages.micros, 0, bytes, 0)
        batch.fill([bodyOf(data) for data in markedOf(messages)])
        return batch

    def fill(self, bodies: list[Body]) -> None:
        """Have these messages, and take no more."""
        self.bodies, self.room = bodies, 0
        self.space = sum(map(len, bodies)) + MESSAGE_OVERHEAD * len(bodies)
        kinds = set(map(type, bodies))
        self.kind = kinds.pop() if len(kinds) == 1 else None


class RestOfMessage(Batch):
    """
    A message of which the peer holds the beginning.

    @ivar skip: how many bytes of the body it holds; 0 to send the whole again.
    """

    __slots__ = ("skip",)

    skip: int

    @classmethod
    def after(cls, batch: Batch, skip: int) -> RestOfMessage:
        """Make it of a batch of one message."""
        rest = cls(batch.micros, batch.first, bytes, batch.space)
        rest.bodies, rest.kind, rest.room = batch.bodies, batch.kind, 0
        rest.skip = skip
        return rest

    def encode(self, batched: bool) -> list[bytes]:
        """Encode what the peer does not hold."""
        if not self.skip:
            return super().encode(batched)
        (body,) = self.bodies
        rest = body[self.skip :]
        rest = rest.encode("ascii") if isinstance(rest, str) else rest
        return [packHeader(len(rest), REST, self.micros) + rest]


class LoggedBatch(Batch):
    """
    Messages that many are sent, and that are stored for all of them together.

    @ivar source: those of which these are a copy, until they are encoded or cut: all
        copies have the same frames.
    @ivar frames: of all who copy these, once the first of them was encoded.
    """

    __slots__ = ("frames", "source")

    def __init__(self, micros: int, first: int = 0) -> None:
        """@param first: how many messages of a session precede them."""
        super().__init__(micros, first, bytes, 0)
        self.source: LoggedBatch | None = None
        self.frames: list[bytes] | None = None

    def copied(self, first: int) -> LoggedBatch:
        """
        Make a copy for a session.

        @param first: how many messages of it precede these.
        """
        batch = LoggedBatch(self.micros, first)
        batch.bodies, batch.kind, batch.space = self.bodies[:], self.kind, self.space
        batch._largest = self._largest
        batch.source = self
        return batch

    def cut(self, count: int) -> Batch:
        """Split off the oldest messages, as L{Batch.cut}."""
        self.source = None
        return super().cut(count)

    def encode(self, batched: bool) -> list[bytes]:
        """Encode the messages, once for all copies."""
        source, self.source = self.source, None
        if source is None or not batched:
            return super().encode(batched)
        if source.frames is None:
            source.frames = [b"".join(super().encode(batched))]
        return source.frames


@mypyc_attr(allow_interpreted_subclasses=True)
class SharedBatch:
    """
    Messages that are sent to many in one turn of the event loop, as one list for all.

    It calls nobody: who sends looks at C{left} before the next message.

    @ivar micros: when, microseconds since the Unix epoch.
    @ivar bodies: the messages.
    @ivar encoded: of some of them, which most have a share in: the first, the one
        behind the last, and their frames; None once nobody has a share in what comes.
    @ivar kind: as that of a L{Batch}.
    @ivar lastCost: what the last message counts for flow control, bytes.
    @ivar left: the members whose share was closed, in that order; who lets them join
        again takes them out.
    @ivar room: what more of them may count.
    @ivar shares: how many shares are not closed.
    """

    __slots__ = (
        "bodies",
        "encoded",
        "kind",
        "lastCost",
        "left",
        "micros",
        "room",
        "shares",
    )

    def __init__(self, micros: int) -> None:
        self.micros = micros
        self.bodies: list[Body] = []
        self.encoded: tuple[int, int, list[bytes]] | None = (0, 0, [])
        self.kind: type | None = None
        self.lastCost = 0
        self.left: list[object] = []
        self.room = MAX_COST
        self.shares = 0

    def add(self, body: Body) -> bool:
        """
        Send one more message to all who have a share.

        @return: whether there was room for it.
        """
        cost = len(body) + MESSAGE_OVERHEAD
        room = self.room - cost
        if room < 0:
            return False
        if not self.bodies:
            self.kind = type(body) if type(body) in (bytes, str) else None
        elif self.kind is not type(body):
            self.kind = None
        self.lastCost, self.room = cost, room
        self.bodies.append(body)
        return True


class Share(Batch):
    """
    What one connection sends of a shared batch: its last message, and those that come
    until this is closed.
    """

    __slots__ = ("_member", "_shared", "_start")

    def __init__(self, shared: SharedBatch, first: int, member: object) -> None:
        """
        Begin with the last message.

        @param first: how many messages of the session came before.
        @param member: what to note in C{shared.left}.
        """
        super().__init__(shared.micros, first, bytes, shared.room + shared.lastCost)
        self._shared: SharedBatch | None = shared
        self._start = len(shared.bodies) - 1
        self._member = member
        shared.shares += 1

    @property
    def count(self) -> int:
        """How many messages there are, until this is closed."""
        return len(self._open.bodies) - self._start

    @property
    def cost(self) -> int:
        """What they count for flow control, bytes, until this is closed."""
        return self.space - self._open.room

    @property
    def largest(self) -> int:
        """The bytes of the largest message, until this is closed no less than these."""
        return self.cost if self.room else super().largest

    @property
    def _open(self) -> SharedBatch:
        """
        What is sent to many: it is let go once this is encoded, which it is not before
        it is closed.
        """
        return cast(SharedBatch, self._shared)

    @property
    def base(self) -> int:
        """
        What there is to add to the number of a shared message, counted from 1, for
        that which it has in the session.
        """
        return self.first - self._start

    def close(self) -> None:
        """Take what was sent so far, and no more."""
        shared = self._open
        self.bodies = shared.bodies[self._start :]
        self.kind, self.room = shared.kind, shared.room
        shared.left.append(self._member)
        shared.shares -= 1
        if not shared.shares:
            # Most have sent their share by now.  One that waits for its peer's window
            # would keep the frames for as long as that takes.
            shared.encoded = None

    def cut(self, count: int) -> Batch:
        """Split off the oldest messages, as L{Batch.cut}."""
        self._shared = None
        return super().cut(count)

    def encode(self, batched: bool) -> list[bytes]:
        """Encode the messages, once for all that have the same share."""
        shared, self._shared = self._shared, None
        if shared is None or shared.encoded is None or not batched:
            return super().encode(batched)
        share = (self._start, self._start + len(self.bodies))
        if shared.encoded[:2] != share:
            shared.encoded = (*share, [b"".join(super().encode(batched))])
        return shared.encoded[2]


def _flagged(lengths: array[int], bits: int) -> array[int]:
    """Set bits in all lengths."""
    # All as one large number: a loop would take longer than encoding the bodies.
    table = int.from_bytes(lengths.tobytes(), sys.byteorder)
    table |= (_ONES & ((1 << 32 * len(lengths)) - 1)) * bits
    return array("I", table.to_bytes(4 * len(lengths), sys.byteorder))
