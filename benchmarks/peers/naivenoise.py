"""
What one writes first: Twisted's C{Int16StringReceiver} with the C{noiseprotocol}
package, C{Noise_XX_25519_AESGCM_SHA256}, and one record for each message.
"""

from __future__ import annotations

from secrets import token_bytes
from typing import Any

from noise.connection import Keypair, NoiseConnection
from twisted.internet.interfaces import IPushProducer
from twisted.protocols.basic import Int16StringReceiver
from zope.interface import implementer

from benchmarks.command import main
from benchmarks.peers.onreactor import Link, TwistedPeer

NAME = b"Noise_XX_25519_AESGCM_SHA256"
ROOM = 65000  # bytes of a message in one record
LAST, MORE = b"\x00", b"\x01"  # what a record begins with
STATIC = token_bytes(32)


@implementer(IPushProducer)
class NoiseLink(Link, Int16StringReceiver):
    """A message is one record, or as many as it needs."""

    structFormat = Int16StringReceiver.structFormat
    prefixLength = Int16StringReceiver.prefixLength
    MAX_LENGTH = 65535
    isClient = False
    received: Any = None  # not what Twisted calls, but what we do

    def connectionMade(self) -> None:
        """Begin the handshake."""
        self._noise = noise = NoiseConnection.from_name(NAME)
        noise.set_keypair_from_private_bytes(Keypair.STATIC, STATIC)
        self._parts: list[bytes] = []
        if self.isClient:
            noise.set_as_initiator()
        else:
            noise.set_as_responder()
        noise.start_handshake()
        if self.isClient:
            self.sendString(noise.write_message())

    def stringReceived(self, string: bytes) -> None:
        """Go on with the handshake, or take a record."""
        noise = self._noise
        if noise.handshake_finished:
            plaintext = noise.decrypt(string)
            self._parts.append(plaintext[1:])
            if plaintext[:1] == LAST:
                message, self._parts = b"".join(self._parts), []
                self.received(message)
            return
        noise.read_message(string)
        if not noise.handshake_finished:
            self.sendString(noise.write_message())
        if noise.handshake_finished:
            super().connectionMade()

    def send(self, data: bytes) -> None:
        """Send a message."""
        encrypt, send = self._noise.encrypt, self.sendString
        while len(data) > ROOM:
            send(encrypt(MORE + data[:ROOM]))
            data = data[ROOM:]
        send(encrypt(LAST + data))


class ClientLink(NoiseLink):
    """The side that begins."""

    isClient = True


class Peer(TwistedPeer):
    """The same endpoints as in clear."""

    serverProtocol = NoiseLink
    clientProtocol = ClientLink


if __name__ == "__main__":
    main(Peer())
