"""
Sending one message to every connection of a server: what is sent to all in one turn
of the event loop is kept as one list, and encoded once, so that one more message
costs the same with any number of connections.

Each connection has a share from the message on with which it joined, until its own
batch ends: when it is flushed, or sends something else.  With the next message it joins
again.  A connection that each message must be looked at for, such as one with little
room left, gets each by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import time_ns
from typing import TYPE_CHECKING, cast
from weakref import ref

from twisted.internet.defer import Deferred

from aesm.core.messages.batch import SharedBatch, bodyOf
from aesm.messages.acknowledgements import AckCount, acknowledgementOf, promptly

if TYPE_CHECKING:
    from aesm.core.messages.batch import Body, Message
    from aesm.messages.connection import Connection
    from aesm.server.registry import Connections

__all__ = ["Broadcast"]

ROUND_MICROS = 1000  # of messages that share a time

# Who keeps a round
#
# A round belongs to the shares in it: each keeps it until it is encoded, and nothing
# else does.  When the last of them has left, its messages, its frames and the list of
# who got them are gone, though nobody is told.  L{Broadcast} looks at a weak reference
# at its next message, and begins a new round if there is no share left to add to.


class Broadcast:
    """Sends to every connection."""

    def __init__(self, connections: Connections) -> None:
        """@param connections: whom to, those that are listed at each message."""
        self._connections = connections
        self._round: ref[_Round] | None = None  # the last one

    def send(self, data: Message) -> Deferred[int]:
        """
        Send a message.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: fires with the number of peers that have it, once each has it, is away
            or is gone.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        body = bodyOf(data)
        now = time_ns() // 1000
        shared = None if self._round is None else self._round()
        if (
            shared is None
            or not shared.shares
            or shared.listed != self._connections.listed
            or not 0 <= now - shared.micros < ROUND_MICROS
            or not shared.add(body)
        ):
            shared = _Round(now, self._connections.listed)
            if not shared.add(body):  # it is too large for any
                return AckCount(_sendEach(body, self._connections.values()))
            shared.join(self._connections.values())
            self._round = ref(shared) if shared.shares else None
        elif shared.left:
            shared.joinAgain()
        sent = _sendEach(body, shared.others) if shared.others else ()
        return AckCount(_acknowledgements(shared.members, len(shared.bodies), sent))


class _Round(SharedBatch):
    """
    Messages that are sent to every connection in one turn of the event loop.

    @ivar listed: how many connections had ever been listed when it began.
    @ivar members: who has, or had, a share in the last message, and what there is to
        add to its number for that which it has there; replaced, never changed, since
        the acknowledgements of earlier messages have the former ones.
    @ivar others: whom each message is sent to by itself.
    """

    __slots__ = ("__weakref__", "listed", "members", "others")

    def __init__(self, micros: int, listed: int) -> None:
        """Start with no messages and no members."""
        super().__init__(micros)
        self.listed = listed
        self.members: dict[Connection, int] = {}
        self.others: list[Connection] = []

    def join(self, connections: Iterable[Connection]) -> None:
        """
        Give connections that have none a share in the last message, and in those that
        come.
        """
        members = dict(self.members)
        joined = []
        for connection in connections:
            base = connection.join(self)
            if base is None:
                members.pop(connection, None)
                self.others.append(connection)
            else:
                members[connection] = base
                joined.append(connection)
        self.members = members
        # Only now: a share that leaves at once must not be the last one before the
        # others have theirs.
        for connection in joined:
            connection.joined()

    def joinAgain(self) -> None:
        """Let those join whose own batch has ended."""
        left, self.left = self.left, []
        self.join(cast("list[Connection]", left))


def _sendEach(body: Body, connections: Iterable[Connection]) -> list[Deferred[None]]:
    """Send a message to each connection by itself."""
    return [
        promptly(c.sendData(body) if c.closeSlow else c.send(body, True))
        for c in connections
    ]


def _acknowledgements(
    members: dict[Connection, int], number: int, sent: Iterable[Deferred[None]]
) -> Iterator[Deferred[None]]:
    """
    Make the acknowledgements of a shared message, once somebody looks.

    @param members: who had a share in it.
    @param number: its number among those that were shared.
    @param sent: those of the connections that it was sent to by itself.
    """
    for connection, base in members.items():
        yield promptly(acknowledgementOf(connection, base + number))
    yield from sent
