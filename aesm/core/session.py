"""
What both directions of a session keep count of, PROTOCOL section 7: which
messages are sent, acknowledged, received and taken.

A L{Session} belongs to no connection: L{aesm.core.conversation} moves its
messages over one.  Each direction numbers its messages from 0 and adds up
their cost, a message costing its body and 64 bytes more.

::

    outgoing      acknowledged        sent              count
    0 ................|................|..................|
       the peer's     kept until it    kept: waits for the
       keeping        is acknowledged  peer's limit or the
                                       transport

    incoming        kept             received
    0 ................|................|
       acknowledged    the handler is
       to the peer     not done yet
"""

from __future__ import annotations

from array import array
from collections import deque

from aesm.core.frames import (
    BINARY_BIT,
    MAX_BATCH,
    MESSAGE_OVERHEAD,
    Ack,
    FrameType,
    Messages,
    encodeBatch,
    encodeFrame,
)
from aesm.core.hello import Hello
from aesm.errors import MessageTooBig, ProtocolError, SendBufferFull

__all__ = ["Inbox", "Outbox", "Session"]

_LENGTH_BYTES = 4  # of a BATCH's count, and of each message's length in it


class _Turn:
    """
    Messages that were sent in one turn of the event loop and fit one BATCH.

    @ivar micros: when, microseconds since the Unix epoch.
    @ivar bodies: the messages.
    @ivar lengths: their lengths, C{BINARY_BIT} set for binary ones.
    @ivar cost: what they count for flow control.
    """

    __slots__ = ("bodies", "cost", "lengths", "micros")

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

    @property
    def wireSize(self) -> int:
        """
        The bytes of a BATCH's body with these messages.
        """
        count = len(self.bodies)
        return _LENGTH_BYTES + self.cost - (MESSAGE_OVERHEAD - _LENGTH_BYTES) * count

    def cut(self, count: int) -> _Turn:
        """
        Split off the oldest messages.

        @param count: how many, fewer than there are.
        @return: a turn of its own with these; the others stay in this one.
        """
        first = _Turn(self.micros, self.bodies[:count], self.lengths[:count])
        del self.bodies[:count], self.lengths[:count]
        self.cost -= first.cost
        return first

    def encode(self, batch: bool) -> list[bytes]:
        """
        Encode the messages.

        @param batch: whether the peer takes BATCH frames.
        @return: pieces to join.
        """
        if batch and len(self.bodies) > 1:
            return encodeBatch(self.micros, self.bodies, self.lengths)
        return [
            encodeFrame(
                FrameType.BINARY if length & BINARY_BIT else FrameType.TEXT,
                self.micros,
                body,
            )
            for body, length in zip(self.bodies, self.lengths, strict=True)
        ]


class Outbox:
    """
    The outgoing direction.

    @ivar count: messages accepted so far.
    @ivar sent: of these, how many were handed to the connection.
    @ivar acknowledged: of these, how many are in the peer's keeping.
    @ivar kept: cost of the messages that are not acknowledged, bytes.
    @ivar limit: cost that the peer takes from the session's start, bytes.
    @ivar peer: what the peer says of itself.
    """

    __slots__ = (
        "_bound",
        "_open",
        "_sentCost",
        "_unacknowledged",
        "_unsent",
        "acknowledged",
        "count",
        "kept",
        "limit",
        "peer",
        "sent",
    )

    def __init__(self, bound: int) -> None:
        """
        Start empty, with nothing that the peer takes.

        @param bound: what C{kept} may come to, bytes.
        """
        self._bound = bound
        self._unsent: deque[_Turn] = deque()
        self._unacknowledged: deque[_Turn] = deque()
        self._open: _Turn | None = None  # takes more messages of this turn
        self._sentCost = 0
        self.peer = Hello()
        self.count = self.sent = self.acknowledged = self.kept = self.limit = 0

    @property
    def sendable(self) -> bool:
        """
        Whether there is a message that the peer takes now.
        """
        return bool(self._unsent) and self._sentCost < self.limit

    @property
    def unsent(self) -> bool:
        """
        Whether there is a message that was not handed to the connection.
        """
        return bool(self._unsent)

    @property
    def roomy(self) -> bool:
        """
        Whether less than half of the bound is in use.
        """
        return self.kept * 2 < self._bound

    def add(self, data: str | bytes | bytearray | memoryview, micros: int) -> int:
        """
        Accept a message.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param micros: now, microseconds since the Unix epoch.
        @return: how many messages have been accepted with it: it is in the
            peer's keeping once C{acknowledged} is no smaller.
        @raise MessageTooBig: it is larger than the peer takes.
        @raise SendBufferFull: too much is unacknowledged.
        @raise TypeError: it is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        if isinstance(data, str):
            body, flag = data.encode("utf-8"), 0
        elif isinstance(data, bytes | bytearray | memoryview):
            body, flag = bytes(data), BINARY_BIT
        else:
            raise TypeError(f"a message is str or bytes, not {type(data).__name__}")
        size = len(body)
        if size > self.peer.maxMessage:
            raise MessageTooBig(
                f"a message of {size} bytes; the peer takes at most "
                f"{self.peer.maxMessage}: split it, or raise maxMessage= there"
            )
        cost = size + MESSAGE_OVERHEAD
        if self.kept + cost > self._bound:
            raise SendBufferFull(
                f"{self.kept} of {self._bound} bytes are unacknowledged already: "
                "wait for drain(), or raise sendBuffer="
            )
        turn = self._open
        if turn is None or turn.wireSize + size + _LENGTH_BYTES > MAX_BATCH:
            turn = self._open = _Turn(micros, [], array("I"))
            self._unsent.append(turn)
        turn.bodies.append(body)
        turn.lengths.append(size | flag)
        turn.cost += cost
        self.kept += cost
        self.count += 1
        return self.count

    def endTurn(self) -> None:
        """
        Let no later message share the time of those accepted so far.
        """
        self._open = None

    def take(self, budget: int) -> list[bytes]:
        """
        Take messages to be sent, as far as the peer takes them.

        @param budget: stop once the messages taken cost so many bytes.
        @return: pieces to join, of whole frames.
        """
        pieces: list[bytes] = []
        unsent = self._unsent
        while unsent and budget > 0 and self._sentCost < self.limit:
            turn = unsent[0]
            allowed = self._allowed(turn)
            if allowed < len(turn.bodies):
                turn = turn.cut(allowed)
            else:
                unsent.popleft()
            if turn is self._open:
                self._open = None
            pieces += turn.encode(self.peer.batch)
            self._sentCost += turn.cost
            self.sent += len(turn.bodies)
            self._unacknowledged.append(turn)
            budget -= turn.cost
        return pieces

    def _allowed(self, turn: _Turn) -> int:
        """
        Count the messages of a turn that may go: those before which the cost
        sent is below the limit.

        @param turn: the next turn.
        @return: at least one.
        """
        room = self.limit - self._sentCost
        if turn.cost <= room:
            return len(turn.bodies)
        allowed = 0
        for body in turn.bodies:
            if room <= 0:
                break
            allowed += 1
            room -= len(body) + MESSAGE_OVERHEAD
        return allowed

    def acknowledge(self, ack: Ack) -> None:
        """
        Let go of what is in the peer's keeping.

        @param ack: what the peer says.
        @raise ProtocolError: it goes backwards, or counts what was not sent.
        @see: PROTOCOL section 7
        """
        if not self.acknowledged <= ack.count <= self.sent:
            raise ProtocolError(
                f"an ACK of {ack.count} messages; {self.acknowledged} are "
                f"acknowledged and {self.sent} were sent"
            )
        if ack.limit < self.limit:
            raise ProtocolError(f"an ACK takes its limit back from {self.limit}")
        self.limit = ack.limit
        count = ack.count - self.acknowledged
        self.acknowledged = ack.count
        while count:
            turn = self._unacknowledged[0]
            if len(turn.bodies) > count:
                turn = turn.cut(count)
            else:
                self._unacknowledged.popleft()
            self.kept -= turn.cost
            count -= len(turn.bodies)

    def drop(self) -> None:
        """
        Forget the messages: they can no longer be sent.
        """
        self._unsent.clear()
        self._unacknowledged.clear()
        self._open = None
        self.kept = 0


class Inbox:
    """
    The incoming direction.

    @ivar received: messages that came.
    @ivar kept: of these, how many are in our application's keeping.
    @ivar window: cost that the peer may send ahead of our application, bytes.
    """

    __slots__ = (
        "_announcedCount",
        "_announcedLimit",
        "_receivedCost",
        "_taken",
        "kept",
        "received",
        "window",
    )

    def __init__(self, window: int) -> None:
        """
        Start empty.

        @param window: what hello or WELCOME announces as C{window}.
        """
        self.window = window
        self.received = self.kept = 0
        self._receivedCost = self._taken = self._announcedCount = 0
        self._announcedLimit = window

    @property
    def due(self) -> bool:
        """
        Whether the peer is owed an ACK.

        @see: PROTOCOL section 7
        """
        return (
            self.kept != self._announcedCount
            or (self._taken + self.window - self._announcedLimit) * 4 >= self.window
        )

    @property
    def untaken(self) -> int:
        """
        The cost of what came and is not reported as done with.
        """
        return self._receivedCost - self._taken

    def receive(self, messages: Messages) -> None:
        """
        Count messages that came.

        @param messages: what came.
        @raise ProtocolError: they are past the limit that we announced.
        """
        self._receivedCost += messages.cost
        if self._receivedCost - messages.lastCost >= self._announcedLimit:
            raise ProtocolError(
                f"a message past the limit of {self._announcedLimit} bytes"
            )
        self.received += len(messages.data)

    def keep(self, count: int) -> None:
        """
        Count messages as being in our application's keeping.

        @param count: how many more.
        """
        self.kept += count

    def take(self, cost: int) -> None:
        """
        Count messages as done with, so that as much more may come.

        @param cost: their cost.
        """
        self._taken += cost

    def ack(self) -> tuple[int, int]:
        """
        Announce what there is to announce.

        @return: count and limit.
        """
        self._announcedCount = self.kept
        self._announcedLimit = self._taken + self.window
        return self._announcedCount, self._announcedLimit


class Session:
    """
    Both directions.

    @ivar outbox: the outgoing one.
    @ivar inbox: the incoming one.
    """

    __slots__ = ("inbox", "outbox")

    def __init__(self, sendBuffer: int, receiveBuffer: int) -> None:
        """
        Start with nothing sent and nothing received.

        @param sendBuffer: cost of unacknowledged messages to keep, bytes.
        @param receiveBuffer: cost that may come ahead of the application.
        """
        self.outbox = Outbox(sendBuffer)
        self.inbox = Inbox(receiveBuffer)
