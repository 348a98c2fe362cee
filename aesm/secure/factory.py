"""
Who owns secure connections: a L{SecureFactory} decides on peers, builds what runs
inside, and has those rest that are silent.

What C{cryptography} makes of a key takes twenty times the room of the key, and is made
again in a microsecond: a connection that is silent lets go of it.  One timer looks
after all connections of a factory, so that one that is at rest costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Factory

from aesm.errors import AESMError
from aesm.trust.keys import PublicKey

if TYPE_CHECKING:
    from aesm.secure.protocol import SecureProtocol

HANDSHAKE_TIMEOUT = 10.0  # seconds, docs/protocol.md, section 3
# Seconds between two looks: who was silent from one to the next rests.  Where many
# come, memory has to have room for all who do not yet.
SILENCE = 0.1


class SecureFactory(Factory):
    """
    What a L{SecureProtocol} asks and tells; one for many connections.

    @ivar clock: schedules the timers of all of them.
    @ivar handshakeTimeout: seconds from a connection's start to its opening, as
        L{checkTimeout} lets pass.
    @ivar turn: the end of this turn of the event loop, once anybody has written in it.
    @ivar writers: who has.
    """

    noisy = False

    clock: IReactorTime
    handshakeTimeout: float
    turn: IDelayedCall | None = None
    writers: dict[SecureProtocol, None]
    _looking: IDelayedCall | None = None  # while anybody is awake
    # Who is awake, and how many records had passed at the last look.
    _awake: dict[SecureProtocol, int]

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
        """Build the protocol inside an open channel; None aborts the connection."""
        raise NotImplementedError

    def peerBegins(self, secure: SecureProtocol) -> AESMError | None:
        """
        Take note that a client begins to speak, before any work is done for it.

        @return: None to go on; an error to abort the connection with it.
        """
        return None

    def hello(self) -> bytes:
        """Say what a client's message 3 is to carry, at most 2,048 bytes."""
        return b""

    def farewell(self, reason: AESMError) -> bytes:
        """
        Say what a server's refused peer is to read before the end of stream.

        @return: bytes of the stream, at most 65,519.
        """
        return b""

    def opened(self, secure: SecureProtocol) -> None:
        """Take note that the inner protocol has its transport."""
        self.woke(secure)

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """
        Take note that a connection ended before it was open.  Of each connection
        either this is called, once, or C{opened}.
        """

    def cannotAccept(self, address: IAddress, reason: AESMError) -> None:
        """Take note of a connection that ended before there was a protocol for it."""

    def ended(self, secure: SecureProtocol) -> None:
        """Take note that a connection is gone, open or not; called last."""
        if self._looking is not None:
            self._awake.pop(secure, None)
            if not self._awake:
                self._looking.cancel()
                self._looking = None
        if self.turn is not None:
            self.writers.pop(secure, None)
            if not self.writers:
                self.turn.cancel()
                self.turn = None

    def turnOver(self) -> None:
        """Tell all who wrote in this turn of the event loop that it is over."""
        self.turn = None
        for secure in self.writers:
            secure.turnOver()

    def woke(self, secure: SecureProtocol) -> None:
        """Have a connection that is open rest once it is silent."""
        if self._looking is None:
            self._awake = {}
            self._looking = self.clock.callLater(SILENCE, self._look)
        self._awake[secure] = -1

    def _look(self) -> None:
        """Have those rest that were silent since the last look."""
        self._looking = None
        for secure, former in list(self._awake.items()):
            passed = secure.channel.passed
            if passed == former:
                del self._awake[secure]
                secure.channel.rest()
            else:
                self._awake[secure] = passed
        if self._awake:
            self._looking = self.clock.callLater(SILENCE, self._look)


def checkTimeout(handshakeTimeout: float) -> float:
    """Check a C{handshakeTimeout}: C{ValueError} if it is not above 0, or infinite."""
    if not 0 < handshakeTimeout < float("inf"):
        raise ValueError(f"handshakeTimeout must be above 0, not {handshakeTimeout}")
    return handshakeTimeout
