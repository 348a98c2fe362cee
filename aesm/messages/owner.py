"""
Whom the protocols of a server, or the one of a client, tell what happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aesm.errors import AESMError, ConnectionClosed, quoted
from aesm.messages.connection import Connection

if TYPE_CHECKING:
    from aesm.messages.budget import Budget
    from aesm.messages.protocol import AESMProtocol

__all__ = ["ConnectionOwner"]


class ConnectionOwner:
    """
    What an L{AESMProtocol<aesm.messages.protocol.AESMProtocol>} tells and asks; one for
    many connections.

    @ivar budget: what all of these may keep together, None for any amount.
    """

    budget: Budget | None = None

    def accepted(self, protocol: AESMProtocol, resumed: bool) -> None:
        """
        The client's server has let it in.

        @param protocol: the client's protocol.
        @param resumed: whether its former session goes on.
        """

    def overfull(self, connection: Connection) -> None:
        """
        Messages came for which C{budget} has no room.

        @param connection: where.
        """

    def peerClosed(self, code: int, reason: str) -> AESMError:
        """
        Say what it means that the peer closes.

        @param code: docs/protocol.md, section 9.
        @param reason: the peer's words.
        @return: the error.
        """
        return ConnectionClosed(
            f"the peer closed the connection (code {code}){quoted(reason)}",
            code,
            reason,
        )

    def keeps(self, connection: Connection, code: int | None = None) -> bool:
        """
        Tell whether a session outlives the connection under it.

        @param connection: whose.
        @param code: with which the peer closes; None if it was cut.
        """
        return False

    def detached(self, connection: Connection, reason: AESMError) -> None:
        """
        The connection under a session that is kept is gone.

        @param connection: whose.
        @param reason: why.
        """

    def lost(self, connection: Connection, reason: AESMError) -> None:
        """
        A session is over.

        @param connection: whose.
        @param reason: why.
        """

    def finished(self, connection: Connection) -> None:
        """
        A session is over, and its last packet was taken.

        @param connection: the one.
        """
