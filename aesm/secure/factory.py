"""
Who owns secure connections: a L{SecureFactory} decides on peers, and builds what runs
inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime
from twisted.internet.protocol import Factory

from aesm.errors import AESMError
from aesm.secure.rests import Rests
from aesm.trust.keys import PublicKey

if TYPE_CHECKING:
    from aesm.secure.protocol import SecureProtocol

__all__ = [
    "HANDSHAKE_TIMEOUT",
    "SecureFactory",
    "checkTimeout",
]

HANDSHAKE_TIMEOUT = 10.0  # seconds, docs/protocol.md, section 3


class SecureFactory(Factory):
    """
    What a L{SecureProtocol} asks and tells; one for many connections.

    @ivar clock: schedules the timers of all of them.
    @ivar handshakeTimeout: seconds from a connection's start to its opening.
    @ivar rests: has them rest.
    """

    noisy = False

    def __init__(self, clock: IReactorTime, handshakeTimeout: float) -> None:
        """@raise ValueError: C{handshakeTimeout} is not above 0."""
        self.clock = clock
        self.handshakeTimeout = checkTimeout(handshakeTimeout)
        self.rests = Rests(clock)

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Deferred[None] | None:
        """
        Decide on a peer.

        @param publicKey: the key that the peer has proved.
        @param payload: message 3's payload at the server, else C{b""}.
        @return: None, or a Deferred of it, to go on.
        @raise AESMError: to refuse, also as the Deferred's failure.
        """
        raise NotImplementedError

    def buildInner(self, secure: SecureProtocol) -> IProtocol | None:
        """
        Build the protocol that runs inside, once the channel is open.

        @return: None to abort the connection.
        """
        raise NotImplementedError

    def peerBegins(self, secure: SecureProtocol) -> AESMError | None:
        """
        Take note that a peer begins to speak, before any work is done for it.

        @return: None to go on; an error to abort the connection with it.
        """
        return None

    def hello(self) -> bytes:
        """
        Say what a client's message 3 is to carry.

        @return: at most 2,048 bytes.
        """
        return b""

    def farewell(self, reason: AESMError) -> bytes:
        """
        Say what a server's refused peer is to read before the end of stream.

        @return: bytes of the stream, at most 65,519.
        """
        return b""

    def opened(self, secure: SecureProtocol) -> None:
        """Take note that the inner protocol has its transport."""

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """
        Take note that a connection ended before it was open.  Of each connection
        either this is called, once, or C{opened}.
        """

    def cannotAccept(self, address: IAddress, reason: AESMError) -> None:
        """Take note of a connection that ended before there was a protocol for it."""

    def ended(self, secure: SecureProtocol) -> None:
        """Take note that a connection is gone, open or not; called last."""


def checkTimeout(handshakeTimeout: float) -> float:
    """
    Check a C{handshakeTimeout} option, and return it.

    @raise ValueError: it is not above 0, or infinite.
    """
    if not 0 < handshakeTimeout < float("inf"):
        raise ValueError(f"handshakeTimeout must be above 0, not {handshakeTimeout}")
    return handshakeTimeout
