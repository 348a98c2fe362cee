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
    """

    def __init__(
        self, connections: Connections, clock: Callable[[], float] = time.time
    ) -> None:
        """
        @param connections: the server's registry; the chat has its own.
        @param clock: tells the time, Unix seconds.
        """
        self._chat = Chat()
        self._clock = clock

    def connectionAccepted(self, connection: Connection) -> None:
        """
        Ask somebody for a name.

        @param connection: who.
        """
        identity = f"{connection.peer} {connection.peerName or ''}"
        _deliver(self._chat.joined(connection, identity))

    def packetReceived(self, connection: Connection, packet: Packet) -> Deferred[None]:
        """
        Act on a line.

        @param connection: whose.
        @param packet: the line.
        @return: fires when there is room for more answers to whom it is from.
        """
        _deliver(self._chat.received(connection, packet.data, self._clock()))
        return connection.drain().addErrback(_ebGone)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """
        Tell the others that somebody is gone.

        @param connection: who.
        @param reason: why; the others are not told.
        """
        _deliver(self._chat.left(connection))


def _deliver(lines: Lines) -> None:
    """
    Send lines, and wait for nobody: who is too slow is closed with 4000, and who
    does not take messages of that size with 1009.

    @param lines: whom to send what.
    """
    for connection, line in lines:
        sent = connection.sendData(line)
        # Nobody looks at an acknowledgement, which therefore costs nothing.
        if not isinstance(sent, Acknowledgement):
            sent.addErrback(_ebRefused, connection)


def _ebRefused(failure: Failure, connection: Connection) -> None:
    """
    Close a client that does not take messages of this size.

    @param failure: what became of sending.
    @param connection: its connection.
    """
    failure.trap(MessageTooBig)
    connection.closeWith(CloseCode.TOO_BIG, "a line for you is larger than you take")


def _ebGone(failure: Failure) -> None:
    """
    Wait no more for a client that is gone.

    @param failure: what became of waiting.
    """
    failure.trap(ConnectionClosed)
