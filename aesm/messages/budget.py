"""
What all connections of a server may keep together.

Each connection has bounds of its own, but thousands of them could reach these
at once.  When the sum is too large, those that hold more than an equal share
have to bear it, so that the others need not.
"""

from __future__ import annotations

from collections.abc import Sized

from aesm.messages.stream import Arrivals

__all__ = ["Budget"]


class Budget:
    """
    Adds up what is unacknowledged, unhandled and unread.
    """

    def __init__(self, bound: int, connections: Sized, arrivals: Arrivals) -> None:
        """
        @param bound: bytes of messages that may be kept.
        @param connections: all of them.
        @param arrivals: what came to them and is unread.
        @raise ValueError: the bound is not above 0.
        """
        if not bound > 0:
            raise ValueError(f"totalBuffer must be above 0, not {bound}")
        self._bound = bound
        self._connections = connections
        self._arrivals = arrivals
        self._keptCost = 0  # unacknowledged or unhandled

    def account(self, more: int) -> None:
        """
        Take note of what a connection keeps for its peer and for the handler.

        @param more: bytes more than before, less if negative.
        """
        self._keptCost += more

    @property
    def full(self) -> bool:
        """
        Whether there is no room left.
        """
        return self._keptCost + self._arrivals.held >= self._bound

    def refuses(self, held: int) -> bool:
        """
        Tell whether a connection has to bear that there is no room left.

        @param held: bytes that it holds.
        """
        return self.full and held * len(self._connections) >= self._bound
