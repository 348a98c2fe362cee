"""
Whom the protocols of a server, or the one of a client, tell what happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aesm.core.frames import Messages
from aesm.errors import AESMError, ConnectionClosed

if TYPE_CHECKING:
    from aesm.budget import Budget
    from aesm.connection import Connection
    from aesm.protocol import AESMProtocol

__all__ = ["Messenger", "quoted"]


def quoted(reason: str) -> str:
    """
    Show the words of a CLOSE.

    @param reason: the words; they may be a stranger's.
    @return: the words with nothing in them that is not printable.
    """
    return f": {reason!r}" if reason else ""


class Messenger:
    """
    What an L{AESMProtocol<aesm.protocol.AESMProtocol>} tells and asks; one for
    many connections.

    @ivar budget: what all of these may keep together, None for any amount.
    """

    budget: Budget | None = None

    def accepted(self, protocol: AESMProtocol) -> None:
        """
        The client's server has let it in.

        @param protocol: the client's protocol.
        """

    def arrived(self, protocol: AESMProtocol, messages: Messages) -> None:
        """
        Messages came.

        @param protocol: where.
        @param messages: one or more.
        """
        if protocol.dispatcher is not None:
            protocol.dispatcher.arrived(messages)
        else:
            inbox = protocol.conversation.session.inbox
            inbox.keep(len(messages.data))
            protocol.connection.retrieved.extend(
                messages.micros / 1e6, messages.data, messages.cost
            )

    def peerClosed(self, code: int, reason: str) -> AESMError:
        """
        Say what it means that the peer closes.

        @param code: PROTOCOL section 9.
        @param reason: the peer's words.
        @return: the error.
        """
        return ConnectionClosed(
            f"the peer closed the connection (code {code}){quoted(reason)}",
            code,
            reason,
        )

    def lost(self, protocol: AESMProtocol, reason: AESMError) -> None:
        """
        The transport is gone.

        @param protocol: whose.
        @param reason: why.
        """

    def finished(self, connection: Connection) -> None:
        """
        The connection is gone, and its last packet was taken.

        @param connection: the one.
        """
