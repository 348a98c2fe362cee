"""
What both directions of a session keep count of, PROTOCOL section 7: which
messages are sent, acknowledged, received and taken.

A L{Session} belongs to no connection: L{aesm.core.conversation} moves its
messages over one, and after it over the next: the sender goes back to what the
receiver has.  Each direction numbers its messages from 0 and adds up their
cost, a message costing its body and 64 bytes more.

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
from itertools import chain

from aesm.core.frames import BINARY_BIT, MESSAGE_OVERHEAD, Ack, Messages
from aesm.core.hello import Hello
from aesm.core.turn import LENGTH_BYTES, Turn
from aesm.errors import MessageTooBig, ProtocolError, SendBufferFull

__all__ = ["Inbox", "Outbox", "Session"]

_EMPTY: deque[Turn] = deque(maxlen=0)  # never appended to; one is most of a KiB


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
        "_maxMessage",
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
        self._unsent: deque[Turn] = _EMPTY
        self._unacknowledged: deque[Turn] = _EMPTY
        self._open: Turn | None = None  # takes more messages of this turn
        self._sentCost = 0
        self.count = self.sent = self.acknowledged = self.kept = self.limit = 0
        self.meet(Hello())

    def meet(self, peer: Hello) -> None:
        """
        Know what the peer takes.

        @param peer: what it says of itself.
        """
        self.peer = peer
        self._maxMessage = peer.maxMessage

    def begin(self, peer: Hello) -> None:
        """
        Send to a peer from the session's start.

        @param peer: what it says of itself.
        """
        self.meet(peer)
        self.limit = peer.window

    def canResume(self, peer: Hello) -> bool:
        """
        Tell whether there is everything that a peer does not have.

        @param peer: what it says of itself over the new connection.
        @return: whether it may be; what it cannot have received, or takes no more,
            is no reason to go on.
        """
        return self.acknowledged <= peer.received <= self.sent and (
            peer.maxMessage >= self._maxMessage
            or all(
                len(body) <= peer.maxMessage
                for turn in chain(self._unacknowledged, self._unsent)
                for body in turn.bodies
            )
        )

    def resume(self, peer: Hello) -> None:
        """
        Go back to the first message that the peer does not have.

        @param peer: what it says of itself, C{received} included.
        @raise ProtocolError: it says what cannot be.
        @see: PROTOCOL section 8
        """
        if not self.canResume(peer):
            raise ProtocolError(
                f"a session resumed at {peer.received} messages; "
                f"{self.acknowledged} are acknowledged and {self.sent} were sent"
            )
        self.meet(peer)
        self._open = None
        again = self.sent - peer.received
        if again and self._unsent is _EMPTY:
            self._unsent = deque()
        while again:
            turn = self._unacknowledged.pop()
            if len(turn.bodies) > again:
                self._unacknowledged.append(turn.cut(len(turn.bodies) - again))
            self._unsent.appendleft(turn)
            self._sentCost -= turn.cost
            self.sent -= len(turn.bodies)
            again -= len(turn.bodies)

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
        if isinstance(data, bytes):
            body, flag = data, BINARY_BIT
        elif isinstance(data, str):
            body, flag = data.encode("utf-8"), 0
        elif isinstance(data, bytearray | memoryview):
            body, flag = bytes(data), BINARY_BIT
        else:
            raise TypeError(f"a message is str or bytes, not {type(data).__name__}")
        size = len(body)
        cost = size + MESSAGE_OVERHEAD
        kept = self.kept + cost
        if size > self._maxMessage:
            raise MessageTooBig(
                f"a message of {size} bytes; the peer takes at most "
                f"{self._maxMessage}: split it, or raise maxMessage= there"
            )
        if kept > self._bound:
            raise SendBufferFull(
                f"{self.kept} of {self._bound} bytes are unacknowledged already: "
                "wait for drain(), or raise sendBuffer="
            )
        turn = self._open
        if turn is None or turn.room < size:
            turn = self._openTurn(micros)
        turn.bodies.append(body)
        turn.lengths.append(size | flag)
        turn.cost += cost
        turn.room -= size + LENGTH_BYTES
        self.kept = kept
        self.count = count = self.count + 1
        return count

    def _openTurn(self, micros: int) -> Turn:
        """
        Begin to collect messages.

        @param micros: their time.
        @return: what takes them.
        """
        turn = self._open = Turn(micros, [], array("I"))
        if self._unsent is _EMPTY:
            self._unsent = deque()
        self._unsent.append(turn)
        return turn

    def endTurn(self, since: int | None = None) -> None:
        """
        Let no later message share the time of those accepted so far.

        @param since: unless that is not before this, microseconds since the Unix
            epoch.
        """
        if since is None or self._open is None or self._open.micros < since:
            self._open = None

    def take(self, budget: int) -> list[bytes]:
        """
        Take messages to be sent, as far as the peer takes them.

        @param budget: stop once the messages taken cost so many bytes.
        @return: pieces to join, of whole frames.
        """
        pieces: list[bytes] = []
        unsent = self._unsent
        if self._unacknowledged is _EMPTY:
            self._unacknowledged = deque()
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

    def _allowed(self, turn: Turn) -> int:
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
        self._unsent = self._unacknowledged = _EMPTY
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
        "_owing",
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
        self._owing = False  # the peer needs an ACK, whatever it says

    @property
    def due(self) -> bool:
        """
        Whether the peer is owed an ACK.

        @see: PROTOCOL section 7
        """
        return (
            self.kept != self._announcedCount
            or self._owing
            or (self._taken + self.window - self._announcedLimit) * 4 >= self.window
        )

    @property
    def untaken(self) -> int:
        """
        The cost of what came and is not reported as done with.
        """
        return self._receivedCost - self._taken

    def resume(self) -> None:
        """
        Begin with an ACK over a new connection: the last one may be lost.

        @see: PROTOCOL section 8
        """
        self._owing = True

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
        self._owing = False
        self._announcedCount = self.kept
        self._announcedLimit = self._taken + self.window
        return self._announcedCount, self._announcedLimit


class Session:
    """
    Both directions.

    @ivar name: 32 hexadecimal digits, chosen by the server; C{""} before they are
        known, and where there are none: then it ends with its connection.
    @ivar outbox: the outgoing one.
    @ivar inbox: the incoming one.
    """

    __slots__ = ("inbox", "name", "outbox")

    def __init__(self, sendBuffer: int, receiveBuffer: int, name: str = "") -> None:
        """
        Start with nothing sent and nothing received.

        @param sendBuffer: cost of unacknowledged messages to keep, bytes.
        @param receiveBuffer: cost that may come ahead of the application.
        @param name: 32 hexadecimal digits, or C{""}.
        """
        self.name = name
        self.outbox = Outbox(sendBuffer)
        self.inbox = Inbox(receiveBuffer)

    def resume(self, peer: Hello) -> None:
        """
        Go on over a new connection.

        @param peer: what the other side says of itself over it.
        @raise ProtocolError: it says what cannot be.
        @see: PROTOCOL section 8
        """
        self.outbox.resume(peer)
        self.inbox.resume()
