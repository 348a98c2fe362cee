"""
The bound on what all connections of a server keep together.

Each connection has bounds of its own, but thousands of them could reach these
at once.  When the sum is too large, whoever has more than an equal share has to bear
it, so that the others can go on: shares are those of keys, since one key may have any
number of connections.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from aesm.messages.stream import Arrivals

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.owner import ConnectionOwner
    from aesm.trust.keys import PublicKey


class Registry(Protocol):
    """Who is connected, and with which keys."""

    @property
    def peers(self) -> Collection[PublicKey]:
        """The keys of all."""

    def byPeer(self, publicKey: PublicKey) -> Iterable[Connection]:
        """List the connections of one key."""


class Budget:
    """Adds up what is unacknowledged, unhandled, unread, or not whole."""

    def __init__(self, bound: int, connections: Registry, arrivals: Arrivals) -> None:
        """@raise ValueError: the bound, bytes, is not above 0."""
        if not bound > 0:
            raise ValueError(f"totalBuffer must be above 0, not {bound}")
        self.bound = bound
        self._connections = connections
        self._arrivals = arrivals
        self._kept = 0  # unacknowledged or unhandled

    def account(self, more: int) -> None:
        """Add what a connection keeps more than before, bytes, or less."""
        self._kept += more

    @property
    def used(self) -> int:
        """The bytes that are kept."""
        return self._kept + self._arrivals.held

    @property
    def full(self) -> bool:
        """Whether there is no room left."""
        return self._kept + self._arrivals.held >= self.bound

    def refuses(self, peer: PublicKey) -> bool:
        """Tell whether a key holds at least an equal share, while there is no room."""
        return self.full and self._hasShare(self._heldBy(peer))

    def richest(self) -> list[tuple[PublicKey, int]]:
        """
        List the keys that hold more than an equal share, who holds most first.

        @return: each with the bytes that it holds beyond that.
        """
        peers = self._connections.peers
        held = {peer: self._heldBy(peer) for peer in peers}
        beyond = [
            (peer, held[peer] - self.bound // len(peers))
            for peer in peers
            if self._hasShare(held[peer])
        ]
        return sorted(beyond, key=lambda each: -each[1])

    def _heldBy(self, peer: PublicKey) -> int:
        """Add up what the connections of a key hold, bytes."""
        return sum(heldBy(each) for each in self._connections.byPeer(peer))

    def _hasShare(self, held: int) -> bool:
        """Tell whether so many bytes are at least an equal share."""
        # Multiplied, as nobody divides by 0 keys then.
        return held * len(self._connections.peers) >= self.bound


def releasableOf(connection: Connection) -> int:
    """
    Add up the bytes of messages that go with a connection's session: what is unread
    goes only when the application takes it.
    """
    outbox, inbox = connection.session.outbox, connection.session.inbox
    if outbox.dropped:
        return 0
    kept = outbox.keptMemory + inbox.held
    if inbox.partial is not None:
        kept += inbox.partialSize
    if connection.dispatcher is not None:
        kept += inbox.receivedCost - inbox.takenCost
    if connection.anyRequests is not None:
        kept += connection.anyRequests.memory
    return kept


def heldBy(connection: Connection) -> int:
    """Add up the bytes of messages that are unacknowledged or not taken."""
    kept = releasableOf(connection)
    if connection.dispatcher is not None:
        return kept
    opened = 0 if connection.anyRequests is None else connection.anyRequests.openCost
    return kept + connection.session.inbox.untaken - opened


def hold(connection: Connection, owner: ConnectionOwner, held: int) -> bool:
    """
    Have what has come of a frame that is not whole count, as if it were.

    @param held: bytes; 0 once it is.
    @return: whether it is not.
    """
    connection.session.inbox.held = held
    connection.account()
    if held and owner.budget is not None and owner.budget.full:
        owner.overfull(connection)
    return held > 0
