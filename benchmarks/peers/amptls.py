"""
Twisted's AMP over TLS 1.3: requests and answers, and nothing else.
"""

from __future__ import annotations

from typing import Any

from twisted.protocols.amp import AMP, Command, String

from benchmarks.command import main
from benchmarks.peers.onreactor import ReactorPeer
from benchmarks.peers.twistedtls import TLSPeer


class Ask(Command):
    """A request whose answer is its data."""

    arguments = [(b"data", String())]
    response = [(b"data", String())]


class Link(AMP):
    """A connection, either side."""

    transport: Any
    factory: Any

    def connectionMade(self) -> None:
        """Requests can be made."""
        super().connectionMade()
        self.transport.setTcpNoDelay(True)
        self.closed, self._fireClosed = ReactorPeer().signal()
        self.factory.accepted(self)

    def connectionLost(self, reason: Any) -> None:
        """Tell who waits."""
        super().connectionLost(reason)
        self._fireClosed()

    @Ask.responder
    def answer(self, data: bytes) -> dict[str, bytes]:
        """Answer with the same."""
        return {"data": data}

    def request(self, data: bytes) -> Any:
        """Ask, and wait for the answer."""
        return self.callRemote(Ask, data=data)

    def close(self) -> Any:
        """Close, and wait for it."""
        self.transport.loseConnection()
        return self.closed


class Peer(TLSPeer):
    """AMP behind TLS."""

    serverProtocol = Link
    clientProtocol = Link


if __name__ == "__main__":
    main(Peer(mutual=False))
