"""
How many frames that carry nothing are put up with.
"""

from __future__ import annotations

from aesm.errors import ProtocolError

__all__ = ["Patience"]

CHATTER = 100  # frames that carry nothing, to be tolerated in advance


class Patience:
    """With the frames of one peer that carry nothing."""

    __slots__ = ("_left", "_since")

    def __init__(self, now: float) -> None:
        """@param now: seconds."""
        self._left: float = CHATTER
        self._since = now

    def spend(self, now: float, rate: float) -> None:
        """
        Put up with a frame, as often as there is reason for one, and some in advance.

        @param now: seconds.
        @param rate: frames a second.
        @raise ProtocolError: there are too many.
        """
        self._left = min(CHATTER, self._left + (now - self._since) * rate) - 1
        self._since = now
        if self._left < 0:
            raise ProtocolError("a flood of frames that carry nothing")
