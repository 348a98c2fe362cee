"""
Sending one message to every connection of a server: what is sent to all in one turn
of the event loop is kept as one list, and encoded once, so that one more message
costs the same with any number of connections.

Each connection has a share from the message on with which it joined, until its own
turn ends: when it is flushed, or sends something else.  With the next message it joins
again.  A connection that each message must be looked at for, such as one with little
room left, gets each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import time_ns
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred

from aesm.core.messages.batch import SharedBatch, bodyOf
from aesm.messages.acknowledgements import AckCount, acknowledgementOf

if TYPE_CHECKING:
    from aesm.core.messages.batch import Body, Message
    from aesm.messages.connection import Connection
    from aesm.server.registry import Connections

__all__ = ["Broadcast"]

LONGEST = 1000  # microseconds of messages that share a time


class Broadcast:
    """
    Sends to every connection.
    """

    def __init__(self, connections: Connections) -> None:
        """
        @param connections: whom to.
        """
        self._connections = connections
        self._round: _Round | None = None  # that takes more

    def send(self, data: Message) -> Deferred[int]:
        """
        Send a message.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: fires with the number of peers that have it, once each has it or
            is gone.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        body = bodyOf(data)
        now = time_ns() // 1000
        shared = self._round
        if (
            shared is None
            or shared.listed != self._connections.listed
            or not 0 <= now - shared.micros < LONGEST
            or not shared.add(body)
        ):
            shared = _Round(now, self._connections, self._forget)
            if not shared.add(body):  # it is too large for any
                everybody = list(self._connections.values())
                return AckCount(_sendEach(body, everybody))
            shared.begin()
            self._round = None if shared.isOver else shared
        elif shared.away:
            shared.joinAgain()
        sent = _sendEach(body, shared.others) if shared.others else ()
        return AckCount(_acknowledgements(shared.members, len(shared.bodies), sent))

    def _forget(self, shared: _Round) -> None:
        """
        Let go of messages that nobody has a share in any more.

        @param shared: they.
        """
        if self._round is shared:
            self._round = None


class _Round(SharedBatch):
    """
    Messages that are sent to every connection in one turn of the event loop.

    @ivar away: which of the members have no share in the next one.
    @ivar listed: how many connections had ever been listed when it began.
    @ivar members: who has, or had, a share in the last message, and what there is to
        add to its number for that which it has there; replaced, never changed.
    @ivar others: whom each message is sent to by itself.
    """

    __slots__ = ("_connections", "_over", "away", "listed", "members", "others")

    def __init__(
        self, micros: int, connections: Connections, over: Callable[[_Round], None]
    ) -> None:
        """
        Start with no messages and no members.

        @param micros: now, microseconds since the Unix epoch.
        @param connections: whom to send to.
        @param over: called when the last member has gone away.
        """
        super().__init__(micros)
        self._connections = connections
        self._over = over
        self.listed = connections.listed
        self.members: dict[Connection, int] = {}
        self.others: list[Connection] = []
        self.away: list[Connection] = []

    @property
    def isOver(self) -> bool:
        """
        Whether nobody has a share in what comes.
        """
        return len(self.away) == len(self.members)

    def begin(self) -> None:
        """
        Give every connection a share in the last message, and in those that come.
        """
        self._join(self._connections.values())

    def joinAgain(self) -> None:
        """
        Do the same with those that have none.
        """
        away, self.away = self.away, []
        self._join(away)

    def left(self, member: object) -> None:
        """
        Take note that a connection has no share in what comes.

        @param member: the connection.
        """
        self.away.append(cast("Connection", member))
        if self.isOver:
            self.encoded = None
            self._over(self)

    def _join(self, connections: Iterable[Connection]) -> None:
        """
        Give some connections a share.

        @param connections: who has none.
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
        for connection in joined:
            connection.joined()


def _sendEach(body: Body, connections: Iterable[Connection]) -> list[Deferred[None]]:
    """
    Send a message to each connection by itself.

    @param body: the message.
    @param connections: whom to.
    @return: one for each.
    """
    return [
        c.sendData(body) if c.closeSlow else c.send(body, True) for c in connections
    ]


def _acknowledgements(
    members: dict[Connection, int], number: int, sent: Iterable[Deferred[None]]
) -> Iterator[Deferred[None]]:
    """
    Make the acknowledgements of a shared message, once somebody looks.

    @param members: who had a share in it.
    @param number: its number among those that were shared.
    @param sent: those of the connections that it was sent to by itself.
    @return: all of them.
    """
    for connection, base in members.items():
        yield acknowledgementOf(connection, base + number)
    yield from sent
