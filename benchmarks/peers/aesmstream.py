"""
Twisted's C{Int32StringReceiver} over aesm's encrypted byte stream: what the secure
channel costs without messages, acknowledgements and sessions.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from aesm import Pinned, PrivateKey
from aesm.secure import wrapClientEndpoint, wrapServerEndpoint
from benchmarks.command import main
from benchmarks.peers.aesm import MANY
from benchmarks.peers.onreactor import Link, TwistedPeer


@cache
def _key(directory: str, name: str) -> PrivateKey:
    """Load a key."""
    return PrivateKey.load(Path(directory, name))


class StreamLink(Link):
    """A connection whose secure channel has seen to it already."""

    def disableNagle(self) -> None:
        """Leave it to the channel."""


class Peer(TwistedPeer):
    """The same protocol as in clear, on a secure channel."""

    serverProtocol = StreamLink
    clientProtocol = StreamLink

    def serverEndpoint(self, directory: str) -> Any:
        """Where to listen."""
        endpoint = super().serverEndpoint(directory)
        return wrapServerEndpoint(
            endpoint,
            key=_key(directory, "aesm.key"),
            maxConnections=MANY,
            maxConnectionsPerHost=MANY,
            handshakesPerHost=MANY,
        )

    def clientEndpoint(self, directory: str, port: int) -> Any:
        """Where to connect to."""
        return wrapClientEndpoint(
            super().clientEndpoint(directory, port),
            key=_key(directory, "aesm-client.key"),
            trust=Pinned(_key(directory, "aesm.key").publicKey),
        )


if __name__ == "__main__":
    main(Peer())
