"""
What both directions of a session keep count of, docs/protocol.md, section 7: which
messages are sent, acknowledged, received and taken.

A L{Session} belongs to no connection: L{aesm.core.messages.conversation} moves its
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

from aesm.core.messages.frames import Ack, Messages, Partial
from aesm.core.messages.hello import Hello
from aesm.core.messages.outbox import Outbox
from aesm.errors import ProtocolError

__all__ = ["Inbox", "Session"]

_new = tuple.__new__  # makes an Ack without a call of Python's


class Inbox:
    """
    The incoming direction.

    @ivar received: messages that came.
    @ivar receivedCost: their cost, bytes.
    @ivar takenCost: the cost of those that are done with, bytes.
    @ivar keptCount: of these, how many are in our application's keeping.
    @ivar limit: cost that we said that we take from the session's start, bytes.
    @ivar partial: what came of the next message before the connection was cut.
    @ivar window: cost that the peer may send ahead of our application, bytes.
    """

    __slots__ = (
        "_announcedCount",
        "_owing",
        "keptCount",
        "limit",
        "partial",
        "received",
        "receivedCost",
        "takenCost",
        "window",
    )

    def __init__(self, window: int) -> None:
        """
        Start empty.

        @param window: what hello or WELCOME announces as C{window}.
        """
        self.window = window
        self.received = self.keptCount = 0
        self.receivedCost = self.takenCost = self._announcedCount = 0
        self.limit = window
        self.partial: Partial | None = None
        self._owing = False  # the peer needs an ACK, whatever it says

    @property
    def untaken(self) -> int:
        """
        The cost of what came and is not reported as done with.
        """
        return self.receivedCost - self.takenCost

    @property
    def partialSize(self) -> int:
        """
        The bytes of C{partial}.
        """
        return 0 if self.partial is None else len(self.partial.body)

    @property
    def roomy(self) -> bool:
        """
        Whether the peer knows that it may still send half of the window.
        """
        return (self.limit - self.receivedCost) * 2 >= self.window

    def resume(self) -> None:
        """
        Begin with an ACK over a new connection: the last one may be lost.

        @see: docs/protocol.md, section 8
        """
        self._owing = True

    def receive(self, messages: Messages) -> None:
        """
        Count messages that came.

        @param messages: what came.
        @raise ProtocolError: they are past the limit that we announced.
        """
        self.receivedCost += messages.cost
        if self.receivedCost - messages.lastCost >= self.limit:
            raise ProtocolError(f"a message past the limit of {self.limit} bytes")
        self.received += len(messages.data)

    def keep(self, count: int) -> None:
        """
        Count messages as being in our application's keeping.

        @param count: how many more.
        """
        self.keptCount += count

    def restore(self, received: int, cost: int, taken: int) -> None:
        """
        Go on after a restart with what was written down.

        @param received: messages that came, all in our application's keeping.
        @param cost: their cost, bytes.
        @param taken: the cost of those that are done with, bytes.
        """
        self.received = self.keptCount = self._announcedCount = received
        self.receivedCost = cost
        self.takenCost = taken
        self.limit = taken + self.window

    def take(self, cost: int) -> None:
        """
        Count messages as done with, so that as much more may come.

        @param cost: their cost.
        """
        self.takenCost += cost

    def takeAck(self) -> Ack | None:
        """
        Announce what there is to announce.

        @return: what to say, None if the peer is owed no ACK.
        @see: docs/protocol.md, section 7
        """
        kept, limit = self.keptCount, self.takenCost + self.window
        if (
            kept == self._announcedCount
            and not self._owing
            and (limit - self.limit) * 4 < self.window
        ):
            return None
        self._owing = False
        self._announcedCount = kept
        self.limit = limit
        return _new(Ack, (kept, limit))


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
        @see: docs/protocol.md, section 8
        """
        self.outbox.resume(peer)
        self.inbox.resume()
