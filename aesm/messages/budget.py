"""
The bound on what all connections of a server keep together.

Each connection has bounds of its own, but thousands of them could reach these
at once.  When the sum is too large, sending is refused to those that hold more than
an equal share, so that the others can go on.
"""

from __future__ import annotations

from collections.abc import Sized

from aesm.messages.stream import Arrivals

__all__ = ["Budget"]


class Budget:
    """Adds up what is unacknowledged, unhandled and unread."""

    def __init__(self, bound: int, connections: Sized, arrivals: Arrivals) -> None:
        """
        @param bound: bytes of messages that may be kept.
        @param arrivals: the unread packets of all connections.
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
        Add what a connection keeps more than before, bytes; negative if it keeps less.
        """
        self._keptCost += more

    @property
    def full(self) -> bool:
        """Whether there is no room left."""
        return self._keptCost + self._arrivals.held >= self._bound

    def refuses(self, held: int) -> bool:
        """Tell whether to refuse a connection that holds so many bytes."""
        # More than the equal share, bound / connections; multiplied, as nobody divides
        # by 0 connections then.
        return self.full and held * len(self._connections) >= self._bound
