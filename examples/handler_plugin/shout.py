"""
A handler that answers in capitals.
"""

from zope.interface import implementer

from aesm import (
    AESMError,
    Connection,
    Connections,
    IMessageHandler,
    Packet,
)


@implementer(IMessageHandler)
class Shout:
    """Answers text with the same in capitals."""

    def __init__(self, connections: Connections) -> None:
        """@param connections: the server's registry."""
        self.connections = connections

    def connectionAccepted(self, connection: Connection) -> None:
        """
        Say who else is here.

        @param connection: the new client.
        """
        connection.sendData(f"{len(self.connections)} here")

    async def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """
        Answer, and wait until the client has the answer, so that one that does not
        read is held back.

        @param connection: where it came from.
        @param packet: time and data.
        """
        if isinstance(packet.data, str):
            await connection.sendData(packet.data.upper())

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """
        Nothing is kept, so nothing is to be done.

        @param connection: the client that is gone.
        @param reason: why.
        """
