"""
Whom the protocols of a server, or the one of a client, tell what happens; and what
hands packets to a handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from aesm.errors import AESMError, ConnectionClosed, quoted

if TYPE_CHECKING:
    from aesm.core.messages.frames import Messages
    from aesm.core.messages.traffic import Traffic
    from aesm.messages.budget import Budget
    from aesm.messages.connection import Connection
    from aesm.messages.protocol import AESMProtocol
    from aesm.messages.requests import Answer
    from aesm.secure.places import TokenBuckets

__all__ = ["ConnectionOwner", "PacketDispatcher"]


class PacketDispatcher(Protocol):
    """What hands the packets of a connection to a handler."""

    def accepted(self) -> None:
        """Tell the handler of the connection."""

    def gather(self) -> bool:
        """
        Wait for the last of several that arrive at once.

        @return: whether C{work} is to be called then.
        """

    def arrived(self, messages: Messages) -> None:
        """Hand over messages received."""

    def asked(self, first: int, requests: Messages) -> None:
        """
        Have requests answered, after all that came before them.

        @param first: the number of the first of them.
        """

    def returned(self, micros: int, answer: Answer) -> None:
        """
        Hand over the answer to what an earlier process has asked, after all that came
        before it.

        @param micros: when it was sent, microseconds since the Unix epoch.
        """

    def withdrawn(self, number: int) -> None:
        """Nobody waits for the answer to a request any more."""

    def settled(self, count: int, cost: int) -> None:
        """
        Count messages that were done with as they came, after all that came before
        them.

        @param cost: what they count for flow control, bytes.
        """

    def work(self) -> None:
        """Hand over what was gathered."""

    def detached(self, reason: AESMError) -> None:
        """Tell the handler that the connection is cut, and may come back."""

    def attached(self) -> None:
        """Tell the handler that the client has come back."""

    def lost(self, reason: AESMError) -> Deferred[Any] | None:
        """
        Tell the handler that the connection is over.

        @return: fires once the handler is done with that, and never fails; None if it
            is.
        """

    def stop(self) -> None:
        """Hand over nothing more."""


class ConnectionOwner:
    """
    What an L{AESMProtocol<aesm.messages.protocol.AESMProtocol>} tells and asks; one for
    many connections.

    @ivar clock: keeps time.
    @ivar budget: what all of these may keep together, None for any amount.
    @ivar leaves: whether who closes may leave before the peer has closed, too, if
        nothing that the peer could still say matters.
    @ivar traffic: adds up what goes over all of these; None not to.
    @ivar failures: how often it is logged of a key that the handler has failed with its
        requests; None as long as it has not.
    """

    clock: IReactorTime
    budget: Budget | None = None
    leaves = False
    traffic: Traffic | None = None
    failures: TokenBuckets | None = None

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
