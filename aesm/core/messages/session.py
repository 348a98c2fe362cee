"""
The counters of both directions of a session, docs/protocol.md, section 7: which
messages are sent, acknowledged, received and taken.

A L{Session} outlives connections: L{aesm.core.messages.conversation} moves its
messages over one, and after it over the next, where the sender goes back to the first
message that the receiver lacks.  Each direction numbers its messages from 0 and adds
up their cost, which is the body and 64 bytes more for each message.

::

    outgoing      acknowledged        sent              count
    0 ................|................|..................|
       dropped        kept until it    kept: waits for the
                      is acknowledged  peer's limit or the
                                       transport

    incoming        kept             received
    0 ................|................|
       acknowledged    the handler is
       to the peer     not done yet
"""

from __future__ import annotations

from typing import Any

from aesm._mypyc import mypyc_attr
from aesm.core.messages.events import Answered, Asked
from aesm.core.messages.frames import Messages, Partial, Requests, newTuple
from aesm.core.messages.hello import Hello
from aesm.core.messages.outbox import Outbox
from aesm.core.messages.requests import NUMBER_STATUS, WITHDRAWN
from aesm.errors import ProtocolError


@mypyc_attr(allow_interpreted_subclasses=True)
class Inbox:
    """
    The incoming direction.

    @ivar ackDue: whether an ACK is owed, even if it says nothing new.
    @ivar held: bytes of a frame that is not whole yet.
    @ivar received: messages received.
    @ivar receivedCost: their cost, bytes.
    @ivar takenCost: the cost of the messages that the application has taken, or its
        handler has finished, bytes.
    @ivar keptCount: messages that we may acknowledge: they are in the application's
        inbox, or persisted, or finished by the handler.
    @ivar limit: cost that we announced to accept from the session's start, bytes.
    @ivar partial: what came of the next message before the transport was lost.
    @ivar window: cost that the peer may send ahead of our application, bytes.
    """

    __slots__ = (
        "_announcedCount",
        "ackDue",
        "held",
        "keptCount",
        "limit",
        "partial",
        "received",
        "receivedCost",
        "takenCost",
        "window",
    )

    def __init__(self, window: int) -> None:
        """Start empty, with the C{window} of our hello or WELCOME, bytes."""
        self.window = window
        self.received = self.keptCount = self.held = 0
        self.receivedCost = self.takenCost = self._announcedCount = 0
        self.limit = window
        self.partial: Partial | None = None
        self.ackDue = False

    @property
    def untaken(self) -> int:
        """The cost of the messages received and not reported as taken, bytes."""
        return self.receivedCost - self.takenCost

    @property
    def partialSize(self) -> int:
        """The bytes of C{partial}."""
        return 0 if self.partial is None else len(self.partial.body)

    @property
    def roomy(self) -> bool:
        """Whether the peer knows that it may still send half of the window."""
        return (self.limit - self.receivedCost) * 2 >= self.window

    def receive(self, messages: Messages) -> None:
        """
        Count messages received.

        @raise ProtocolError: they are past the limit that we announced.
        """
        # The limit is compared with what came before the last message: that one may go
        # past it.  If it begins below the limit, so do those before it.
        cost = self.receivedCost + messages.cost
        if cost - messages.lastCost >= self.limit:
            raise ProtocolError(f"a message past the limit of {self.limit} bytes")
        self.receivedCost = cost
        self.received += len(messages.data)

    def keep(self, count: int) -> None:
        """Count so many more messages as ones to acknowledge."""
        self.keptCount += count

    def restore(self, received: int, cost: int, taken: int) -> None:
        """
        Restore the persisted state after a restart.

        @param received: messages received, all of them persisted.
        @param cost: their cost, bytes.
        @param taken: the cost of those that were taken, bytes.
        """
        self.received = self.keptCount = self._announcedCount = received
        self.receivedCost = cost
        self.takenCost = taken
        self.limit = taken + self.window

    def take(self, cost: int) -> None:
        """Count so many more bytes of cost as taken, so that the limit may grow."""
        self.takenCost += cost

    def takeAck(self) -> tuple[int, int] | None:
        """
        Take count and limit of the ACK that is due, or None.

        @see: docs/protocol.md, section 7
        """
        # The limit alone is worth an ACK only once it has grown by a quarter of the
        # window: the peer, which has the rest of it, does not stand still meanwhile.
        kept, limit = self.keptCount, self.takenCost + self.window
        if (
            kept == self._announcedCount
            and not self.ackDue
            and (limit - self.limit) * 4 < self.window
        ):
            return None
        self.ackDue = False
        self._announcedCount = kept
        self.limit = limit
        return kept, limit


class Session:
    """
    Both directions.

    @ivar name: 32 hexadecimal digits, chosen by the server, or by a client that sends
        early messages; C{""} before they are known, and for a session that ends with
        its connection.
    """

    __slots__ = ("inbox", "name", "outbox")

    def __init__(self, sendBuffer: int, receiveBuffer: int, name: str = "") -> None:
        """Start with nothing; each buffer bounds a direction's cost, bytes."""
        self.name = name
        self.outbox = Outbox(sendBuffer)
        self.inbox = Inbox(receiveBuffer)

    @property
    def settled(self) -> bool:
        """Whether each side has all that the other sent, as far as we know."""
        inbox, outbox = self.inbox, self.outbox
        return outbox.acknowledged == outbox.count and inbox.keptCount == inbox.received

    def resume(self, peer: Hello) -> None:
        """
        Go on over a new connection, after the peer's hello; or begin, if the client
        does not wait for the WELCOME with that.

        @raise ProtocolError: it announces what cannot be.
        @see: docs/protocol.md, section 8
        """
        if peer.early and not self.outbox.dropped:
            self.outbox.begin(peer)
        else:
            self.outbox.resume(peer)
            self.inbox.ackDue = True  # the last one may be lost

    def takeCalls(self, messages: Messages) -> Asked | Answered:
        """
        Count L{Requests} or L{Responses}.

        @return: what they mean in this session.
        @raise ProtocolError: they are past the limit, or there is no open request that
            one of them ends: then none of them is ended.
        """
        inbox, first = self.inbox, self.inbox.received
        inbox.receive(messages)
        inbox.partial = None
        if type(messages) is Requests:
            return newTuple(Asked, (first, messages))
        waiters: list[object] = []
        outbox, unpack = self.outbox, NUMBER_STATUS.unpack_from
        waiting, sent = outbox.asked or {}, outbox.sent
        bodies: Any = messages.data
        try:
            for number, body in enumerate(bodies, first):
                asked, status = unpack(body)
                if status != WITHDRAWN:
                    if asked in waiting and asked < sent:  # as usual
                        waiters.append(waiting.pop(asked))
                    else:
                        waiters.append(outbox.answered(asked))
                elif asked < number:
                    waiters.append(None)
                else:
                    raise ProtocolError("a request is withdrawn that was not sent")
        except ProtocolError:
            # Those before it get no answer now: they wait for the end, as all others.
            for body, waiter in zip(bodies, waiters, strict=False):
                if waiter:
                    waiting[unpack(body)[0]] = waiter
            raise
        return newTuple(Answered, (first, messages, waiters))
