"""
Whom the protocols of a server, or the one of a client, tell what happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime

from aesm.errors import AESMError, ConnectionClosed, quoted
from aesm.secure.places import TokenBuckets

if TYPE_CHECKING:
    from aesm.core.messages.traffic import Traffic
    from aesm.messages.budget import Budget
    from aesm.messages.connection import Connection
    from aesm.messages.protocol import AESMProtocol
    from aesm.trust.keys import PublicKey

FAILURES_TOLD = 1.0  # of one key, a second


_C = TypeVar("_C", bound="Connection")


class KindOf(Protocol):
    """Tells which class to make a connection of that would be of another."""

    def __call__(self, kind: type[_C]) -> type[_C]:
        """Return it."""


def itself(kind: type[_C]) -> type[_C]:
    """The L{KindOf} of whom only the reactor's thread uses."""
    return kind


class ConnectionOwner:
    """
    What an L{AESMProtocol<aesm.messages.protocol.AESMProtocol>} tells and asks; one for
    many connections.

    @ivar clock: keeps time.
    @ivar budget: what all of these may keep together, None for any amount.
    @ivar leaves: whether who closes may leave before the peer has closed, too, if
        nothing that the peer could still say matters.
    @ivar traffic: adds up what goes over all of these; None not to.
    @ivar kindOf: what connections are made of.
    """

    clock: IReactorTime
    budget: Budget | None = None
    leaves = False
    traffic: Traffic | None = None
    kindOf: KindOf = staticmethod(itself)
    _told: TokenBuckets | None = None  # of each key

    def tells(self, peer: PublicKey) -> bool:
        """
        Tell whether the log hears of one more failure that a peer may have caused, with
        a request that the handler fails with, or by announcing that it takes nothing.
        """
        if self._told is None:
            self._told = TokenBuckets(FAILURES_TOLD)
        return self._told.take(str(peer), self.clock.seconds())

    def accepted(self, protocol: AESMProtocol, resumed: bool) -> None:
        """
        The client's server has let it in: attach a connection to the protocol.

        @param resumed: whether the session goes on that the hello named.
        """

    def notAccepted(self, reason: AESMError) -> None:
        """The client's transport is gone, and no WELCOME came over it."""

    def overfull(self, connection: Connection) -> None:
        """Messages came for which C{budget} has no room."""

    def peerClosed(self, code: int, reason: str) -> AESMError:
        """Say what it means that the peer closes, with its code and words."""
        return ConnectionClosed(
            f"the peer closed the connection (code {code}){quoted(reason)}",
            code,
            reason,
        )

    def keeps(self, connection: Connection, code: int | None = None) -> bool:
        """
        Tell whether a session outlives the transport under it.

        @param code: with which the peer closes; None if it was cut.
        """
        return False

    def cut(self, connection: Connection, reason: AESMError) -> None:
        """The transport under a session is gone: detach the connection, or end it."""
        connection.finish(reason)

    def lost(self, connection: Connection, reason: AESMError) -> None:
        """A session is over."""

    def finished(self, connection: Connection) -> None:
        """A session is over, and its last packet was taken."""
