"""
Room for all connections of a server together: who lets go of what when there is none.
"""

from __future__ import annotations

from aesm.errors import CloseCode
from aesm.messages.budget import Budget, releasableOf
from aesm.messages.connection import Connection
from aesm.server.registry import Connections
from aesm.server.sessions import Sessions

LOOKS = 64  # for room, while twice as much comes as there is room for


class Room:
    """Makes room in the common budget."""

    def __init__(
        self, budget: Budget, connections: Connections, sessions: Sessions
    ) -> None:
        self._budget = budget
        self._connections = connections
        self._sessions = sessions
        self._nextLook = 0  # what must be in use to look for room

    def make(self, connection: Connection) -> None:
        """
        Make room: whoever holds most bears it, and nobody who holds less than an equal
        share.

        @param connection: what has brought more.
        """
        budget = self._budget
        while budget.full and budget.used >= self._nextLook:
            if not self._makeRoom(connection):
                # To look through all again would find the same.
                self._nextLook = budget.used + budget.bound // LOOKS
        if budget.refuses(connection.peer):
            connection.shed(CloseCode.TRY_AGAIN_LATER, "too much is kept")

    def _makeRoom(self, bringing: Connection) -> bool:
        """
        Let go of what the key that holds most has beyond an equal share, as far as
        there is need: the beginnings of messages, which their clients send again; then
        sessions that wait, then connections, the oldest first.

        @return: whether there was anything, of a key that is to bear it.
        """
        budget = self._budget
        for peer, beyond in budget.richest():
            # All in one pass: a key may have thousands of which each holds next to
            # nothing, and to look who holds most takes a look at all of everybody's.
            before = budget.used
            connections = sorted(self._connections.byPeer(peer), key=_isAttached)
            for letGo in (_dropPartial, self._endFull):
                for connection in connections:
                    if not budget.full or before - budget.used > beyond:
                        return True
                    letGo(connection)
            if budget.used < before:
                return True
            # What is unread takes its room until the application takes it.
            if peer == bringing.peer:
                break
        return False

    def _endFull(self, connection: Connection) -> None:
        """End a connection, or its session, if anything goes with it."""
        if releasableOf(connection) and connection.isAttached:
            connection.shed(CloseCode.TRY_AGAIN_LATER, "too much is kept")
        elif releasableOf(connection):
            self._sessions.end(connection, "too much is kept for all together")


def _isAttached(connection: Connection) -> bool:
    """Tell whether a client is there."""
    return connection.isAttached


def _dropPartial(connection: Connection) -> None:
    """Let go of the beginning of a message that a cut connection left."""
    # One that is there sends the rest of it, and no more.
    if connection.session.inbox.partial is not None and not connection.isAttached:
        connection.session.inbox.partial = None
        connection.account()
