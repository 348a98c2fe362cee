"""
Sending one message to every connection of a server, or to several: what is sent to the
same ones in one turn of the event loop is kept as one list, and encoded once, so that
one more message costs the same with any number of connections.

Each connection has a share from the message on with which it joined, until its own
batch ends: when it is flushed, or sends something else.  With the next message it joins
again.  A connection that each message must be looked at for, such as one with little
room left, gets each by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import time_ns
from typing import TYPE_CHECKING, Final, TypeAlias, cast
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from aesm.core.messages.batch import Body, Message, SharedBatch, bodyOf
from aesm.errors import AESMError, CloseCode, MessageTooBig
from aesm.messages.acknowledgements import (
    AckCount,
    Acknowledgement,
    FailedAcknowledgement,
    acknowledgementOf,
    promptly,
)
from aesm.messages.connection import Connection

if TYPE_CHECKING:
    from aesm.messages.address import Address
    from aesm.server.registry import Connections
    from aesm.store.log import Log

ROUND_MICROS = 1000  # of messages that share a time

Peers: TypeAlias = "Iterable[Connection | Address]"
_Whom: TypeAlias = tuple[tuple["Connection", ...] | None, tuple["Connection", ...]]

_ALL: Final[_Whom] = (None, ())

# When a round begins
#
# With each message to all, unless there is a round.  With one to several only if the
# last one went to the same ones: where each goes to others, as when a relay has
# messages of many clients, rounds of one message would cost more than they save, since
# all that have a share in one would end their batches for the next.
#
# Who keeps a round
#
# A round belongs to the shares in it: each keeps it until it is encoded, and nothing
# else does.  When the last of them has left, its messages, its frames and the list of
# who got them are gone, though nobody is told.  L{Broadcast} looks at a weak reference
# at its next message, and begins a new round if there is no share left to add to.


class Broadcast:
    """
    Sends to connections.

    @ivar log: where what is for all goes, of whom this process has only some; or None.
    """

    def __init__(self, connections: Connections) -> None:
        """@param connections: those that are listed at each message are all."""
        self.log: Log | None = None
        self._connections = connections
        self._round: ref[_Round] | None = None  # the last one
        # Whom the last message was for that was sent to several by itself, and when.
        self._several: tuple[int, int] = (0, 0)

    def send(
        self, data: Message, to: Peers | None = None, exclude: Peers = ()
    ) -> Deferred[int]:
        """
        Send a message.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param to: connections or addresses, each once; None for all.
        @param exclude: those of them that do not get it.
        @return: fires with the number of peers that have it, once each has it, is away
            or is gone.
        @raise TypeError: C{data} is neither text nor bytes, or C{to} or C{exclude} has
            something else.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        body = bodyOf(data)
        if to is None and self.log is not None:
            left = self._find(exclude, "exclude")
            return self.log.send(body, [each.session.name for each in left])
        now = time_ns() // 1000
        shared = None if self._round is None else self._round()
        whom = _ALL
        if to is not None or exclude:
            given = None if to is None else self._find(to, "to")
            whom = (given, self._find(exclude, "exclude"))
            if (shared is None or shared.whom != whom) and not self._isAgain(whom, now):
                return AckCount(_sendEach(body, self._among(whom)))
        if (
            shared is None
            or not shared.shares
            or shared.listed != self._connections.listed
            or shared.whom != whom
            or not 0 <= now - shared.micros < ROUND_MICROS
            or not shared.add(body)
        ):
            shared = _Round(now, self._connections.listed, whom)
            receivers = self._among(whom)
            if not shared.add(body):  # it is too large for any
                return AckCount(_sendEach(body, receivers))
            shared.join(receivers)
            self._round = ref(shared) if shared.shares else None
        elif shared.left:
            shared.joinAgain()
        sent = _sendEach(body, shared.others) if shared.others else ()
        return AckCount(_acknowledgements(shared.members, len(shared.bodies), sent))

    def _isAgain(self, whom: _Whom, now: int) -> bool:
        """Tell whether the last message to several was just now, and to the same."""
        # Not the connections themselves, which it would keep.
        (last, micros), this = self._several, hash(whom)
        self._several = (this, now)
        return this == last and 0 <= now - micros < ROUND_MICROS

    def _find(self, peers: Peers, name: str) -> tuple[Connection, ...]:
        """Find connections; what has an address that is not listed is gone."""
        found: dict[Connection, None] = {}
        # Both could be iterated over, to no good.
        for peer in (None,) if isinstance(peers, str | Connection) else peers:
            if isinstance(peer, Connection):
                found[peer] = None
            elif isinstance(peer, str | tuple):
                connection = self._connections.get(peer)
                if connection is not None:
                    found[connection] = None
            else:
                raise TypeError(
                    f"{name} must be a list of connections or addresses, not {peers!r}"
                )
        return tuple(found)

    def _among(self, whom: _Whom) -> Iterable[Connection]:
        """List those that are to get a message."""
        to, exclude = whom
        receivers = self._connections.values() if to is None else to
        return [c for c in receivers if c not in exclude] if exclude else receivers


class _Round(SharedBatch):
    """
    Messages that are sent to every connection in one turn of the event loop.

    @ivar listed: how many connections had ever been listed when it began.
    @ivar members: who has, or had, a share in the last message, and what there is to
        add to its number for that which it has there; replaced, never changed, since
        the acknowledgements of earlier messages have the former ones.
    @ivar others: whom each message is sent to by itself.
    @ivar whom: who was to get it.
    """

    __slots__ = ("__weakref__", "listed", "members", "others", "whom")

    def __init__(self, micros: int, listed: int, whom: _Whom) -> None:
        super().__init__(micros)
        self.listed = listed
        self.whom = whom
        self.members: dict[Connection, int] = {}
        self.others: list[Connection] = []

    def join(self, connections: Iterable[Connection]) -> None:
        """Give connections a share in the last message, and in those that come."""
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


def _sendEach(
    body: Body, connections: Iterable[Connection]
) -> Iterable[Deferred[None]]:
    """Send a message to each by itself; acknowledgements are made if one looks."""
    sent = []
    for connection in connections:
        slow = connection.closeSlow
        each = connection.sendData(body) if slow else connection.send(body, True)
        if not isinstance(each, Acknowledgement):
            each = _refused(connection, each)
        sent.append(each)
    return map(promptly, sent)


def _refused(connection: Connection, sent: Deferred[None]) -> Deferred[None]:
    """
    Close a handler's client that does not take so much, so that it does not miss a
    message unknowingly; that it did not get it is only for who looks.
    """
    failures: list[Failure] = []
    sent.addErrback(failures.append)
    reason = cast(AESMError, failures[0].value)
    if connection.closeSlow and isinstance(reason, MessageTooBig):
        connection.closeWith(
            CloseCode.TOO_BIG, "a message for you is larger than you take"
        )
    return FailedAcknowledgement(reason)


def _acknowledgements(
    members: dict[Connection, int], number: int, sent: Iterable[Deferred[None]]
) -> Iterator[Deferred[None]]:
    """Make the acknowledgements of a shared message, once somebody looks."""
    for connection, base in members.items():
        yield promptly(acknowledgementOf(connection, base + number))
    yield from sent
