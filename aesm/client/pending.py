"""
What waits: users for an acknowledgement, or for room to send; messages for a
connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from aesm.messages.acknowledgements import LazyDeferred
from aesm.messages.stream import costOf

if TYPE_CHECKING:
    pass

__all__ = ["QueuedMessage"]


class QueuedMessage(LazyDeferred[None]):
    """
    A message that waits for a connection: fires as what sends it does.  Cancelling
    it stops the waiting, not the message.

    @ivar data: the message.
    @ivar cost: what it counts, bytes.
    """

    def __init__(self, data: str | bytes) -> None:
        """
        @param data: the message.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        super().__init__()
        self.data = data
        self.cost = costOf(data)
        self._asked = False
        self._sent: Deferred[None] | None = None

    def begin(self) -> None:
        """
        Somebody wants to know.
        """
        self._asked = True
        if self._sent is not None:
            self._sent.chainDeferred(self)

    def passOn(self, sent: Deferred[None]) -> None:
        """
        Wait for another Deferred from now on.

        @param sent: fires once the server has the message.
        """
        self._sent = sent
        self.data = b""
        if self._asked:
            sent.chainDeferred(self)
