"""
C{twistd aesm --handler chat}: the rules of L{aesm.chat.rules} on a server's
connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.chat.rules import Chat, Lines
from aesm.errors import AESMError, CloseCode, ConnectionClosed, MessageTooBig
from aesm.interfaces import IMessageHandler
from aesm.messages.acknowledgements import Acknowledgement

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.stream import Packet
    from aesm.server.registry import Connections

__all__ = ["ChatHandler"]


@implementer(IMessageHandler)
class ChatHandler:
    """
    A chat for all clients of a server.

    @cvar messagesPerKey: lines that it takes of one key, a second.
    @cvar bytesPerKey: the same in bytes.
    """

    messagesPerKey = 50
    bytesPerKey = 1 << 18

    def __init__(
        self, connections: Connections, clock: Callable[[], float] = time.time
    ) -> None:
        """@param clock: tells the time, Unix seconds."""
        self._chat = Chat()
        self._clock = clock

    def connectionAccepted(self, connection: Connection) -> None:
        """Ask somebody for a name."""
        identity = f"{connection.peer} {connection.peerName or ''}"
        _deliver(self._chat.joined(connection, identity))

    def packetReceived(self, connection: Connection, packet: Packet) -> Deferred[None]:
        """
        Act on a line.

        @return: fires when there is room for more answers to whom it is from.
        """
        # Only who writes waits: one who does not read the answers is held back, and
        # the others are not.
        _deliver(self._chat.received(connection, packet.data, self._clock()))
        return connection.drain().addErrback(_ebGone)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Tell the others that somebody is gone, but not why."""
        _deliver(self._chat.left(connection))


def _deliver(lines: Lines) -> None:
    """
    Send lines, and wait for nobody: clients that are too slow are closed with 4000,
    and those that do not take messages of that size with 1009.
    """
    for connection, line in lines:
        sent = connection.sendData(line)
        # An acknowledgement that nobody looks at costs nothing: no errback for it.
        if not isinstance(sent, Acknowledgement):
            sent.addErrback(_ebRefused, connection)


def _ebRefused(failure: Failure, connection: Connection) -> None:
    """Close a client that does not take messages of this size."""
    failure.trap(MessageTooBig)
    connection.closeWith(CloseCode.TOO_BIG, "a line for you is larger than you take")


def _ebGone(failure: Failure) -> None:
    """Wait no more for a client that is gone."""
    failure.trap(ConnectionClosed)
