"""
C{twistd aesm --handler chat}: the rules of L{aesm.chat.rules} on a server's
connections.

C{--handler chat-free-names} is the same, but for the names of those whose keys have
one: see L{freeNames}.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from aesm.chat.presence import Lines
from aesm.chat.rules import Chat
from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.interfaces import MessageHandler
from aesm.secure.options import reactorOr

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.stream import Packet
    from aesm.server.registry import Connections

__all__ = ["ChatHandler", "freeNames"]

AWAY_DELAY = 10.0  # seconds until others notice that somebody is cut off


class ChatHandler(MessageHandler):
    """
    A chat for all clients of a server.

    @cvar messagesPerKey: lines that it takes of one key, a second.
    @cvar bytesPerKey: the same in bytes.
    @cvar clientsTogether: that it knows those of one process only.
    """

    clientsTogether = True
    messagesPerKey = 50
    bytesPerKey = 1 << 18

    def __init__(
        self,
        connections: Connections,
        clock: IReactorTime | None = None,
        freeNames: bool = False,
    ) -> None:
        """
        @param connections: the server's registry, which knows who is an operator.
        @param clock: keeps time; None for the installed reactor.
        @param freeNames: whether who has a key with a name may choose another one.
        """
        self._chat = Chat(connections.isOperator, freeNames)
        self._connections = connections
        self._clock = reactorOr(clock)
        # Of those who are cut off and not missed yet.
        self._missing: dict[Connection, IDelayedCall] = {}

    def connectionAccepted(self, connection: Connection) -> None:
        """Give somebody the name that goes with their key, or ask for one."""
        self._deliver(
            self._chat.joined(connection, connection.peer, connection.peerName)
        )

    def packetReceived(self, connection: Connection, packet: Packet) -> Deferred[None]:
        """
        Act on a line.

        @return: fires when there is room for more answers to whom it is from.
        """
        # Only who writes waits: one who does not read the answers is held back, and
        # the others are not.
        self._deliver(self._chat.received(connection, packet.data, time.time()))
        return connection.drain().addErrback(_ebGone)

    def connectionDetached(self, connection: Connection, reason: AESMError) -> None:
        """Let nobody notice that somebody was cut off, for a while."""
        self._missing[connection] = self._clock.callLater(
            AWAY_DELAY, self._missed, connection
        )

    def connectionAttached(self, connection: Connection) -> None:
        """Bring somebody back to where they were."""
        self._found(connection)
        self._deliver(self._chat.back(connection))

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Tell the others that somebody is gone, but not why."""
        self._found(connection)
        self._deliver(self._chat.left(connection))

    def _deliver(self, lines: Lines) -> None:
        """
        Send lines, and wait for nobody: clients that are too slow are closed with 4000,
        and those that do not take messages of that size with 1009.
        """
        # What all in a room are told comes in a row.
        rows: list[tuple[str | None, dict[Connection, None]]] = []
        for connection, line in lines:
            if not rows or rows[-1][0] != line or connection in rows[-1][1]:
                rows.append((line, {}))
            rows[-1][1][connection] = None
        for line, members in rows:
            if line is not None:
                self._connections.sendAll(line, to=members)
                continue
            for connection in members:
                connection.closeWith(CloseCode.NOT_ALLOWED, "banned from the chat")

    def _missed(self, connection: Connection) -> None:
        """Tell the others that somebody is away."""
        del self._missing[connection]
        self._deliver(self._chat.away(connection))

    def _found(self, connection: Connection) -> None:
        """Miss somebody no longer."""
        timer = self._missing.pop(connection, None)
        if timer is not None:
            timer.cancel()


def freeNames(connections: Connections) -> ChatHandler:
    """
    Make a chat in which all may choose their names.

    @param connections: the server's registry.
    """
    return ChatHandler(connections, freeNames=True)


def _ebGone(failure: Failure) -> None:
    """Wait no more for a client that is gone."""
    failure.trap(ConnectionClosed)
