"""
What C{twistd aesm --handler NAME} can do with messages::

    relay    each message goes to every other client
    echo     each message goes back to its sender
    inbox    messages stay in the streams of the connections

Each is called with the server's registry and gives an
L{IMessageHandler<aesm.interfaces.IMessageHandler>}, or None.  Their plugins are
in C{twisted/plugins/aesm_plugin.py}; a handler of another project has a dropin
of its own with one more L{HandlerMaker<aesm.plugins.HandlerMaker>}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.errors import CloseCode, ConnectionClosed, MessageTooBig
from aesm.interfaces import IRequestHandler, MessageHandler
from aesm.messages.acknowledgements import Acknowledgement

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.requests import Request
    from aesm.messages.stream import Packet
    from aesm.server.registry import Connections

__all__ = ["Echo", "Relay", "inbox"]


class Relay(MessageHandler):
    """
    Sends each message to every other client, text as text and bytes as bytes.

    A message counts as handled once it is sent on.  A client that cannot keep up
    is closed with code 4000, and one that does not take messages of that size
    with code 1009, so that nobody misses a message unknowingly, and none waits
    for another.  With an engine so is one that sends more than can go to all nodes.

    @cvar messagesPerKey: what it takes of one key, a second, since all others pay for
        it.
    @cvar bytesPerKey: the same in bytes.
    """

    messagesPerKey = 5_000
    bytesPerKey = 32 << 20

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Send a message on."""
        # Nobody looks at the acknowledgements, which therefore cost nothing.
        sent = self._connections.sendAll(packet.data, exclude=(connection,))
        if type(sent) is Deferred:  # it has failed
            sent.addErrback(self._ebNotSent, connection)

    def _ebNotSent(self, failure: Failure, connection: Connection) -> None:
        """Close a connection over which more came than can go to all nodes."""
        failure.trap(MessageTooBig)
        connection.closeWith(CloseCode.TOO_BIG, str(failure.value))


@implementer(IRequestHandler)
class Echo(MessageHandler):
    """
    Sends each message back to where it came from, and answers each request with the
    same.

    A client that sends and does not read is held back, not closed: its next
    message waits until there is room for the answer.

    @cvar clientsApart: that no client hears of another, so that they may be at two
        processes, while one takes over from the other.
    """

    clientsApart = True

    def __init__(self, connections: Connections) -> None:
        """@param connections: the server's registry, which it does not need."""

    def packetReceived(self, connection: Connection, packet: Packet) -> Deferred[None]:
        """
        Send a message back.

        @return: fires once it is sent, or its sender is gone.
        @see: L{IMessageHandler.packetReceived}
        """
        # There is room once the client has most of its answers.  The answer is sent in
        # the turn of the event loop in which the message counts as handled, so that a
        # spool has both or neither.
        roomy = connection.drain()
        return roomy.addCallbacks(lambda result: _send(connection, packet), _ebGone)

    def requestReceived(self, connection: Connection, packet: Request) -> str | bytes:
        """Answer with the same."""
        return packet.data


def inbox(connections: Connections) -> None:
    """
    Make no handler, so that packets stay in the streams of C{connections} until
    the program that has the server takes them.

    @param connections: the server's registry.
    """


def _send(connection: Connection, packet: Packet) -> None:
    """Send a packet's data, and close a client that does not take so much."""
    sent = connection.sendData(packet.data)
    # Nobody looks at an acknowledgement, which therefore costs nothing.
    if not isinstance(sent, Acknowledgement):
        sent.addErrback(_ebRefused, connection)


def _ebRefused(failure: Failure, connection: Connection) -> None:
    """Close a client that does not take messages of this size."""
    failure.trap(MessageTooBig)
    connection.closeWith(CloseCode.TOO_BIG, "a message for you is larger than you take")


def _ebGone(failure: Failure) -> None:
    """Wait no more for a client that is gone."""
    failure.trap(ConnectionClosed)
