"""
PINGs and PONGs: how long ours take to be answered, and how many of the peer's frames
that carry nothing are put up with.
"""

from __future__ import annotations

from aesm.core.messages.traffic import Traffic
from aesm.errors import ProtocolError

__all__ = ["PING_BODY", "Patience", "RoundTrip"]

CHATTER = 100  # frames that carry nothing, to be tolerated in advance
PING_BODY = b"?"  # of ours: an empty PONG answers none


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


class RoundTrip:
    """
    Measures the round trips of one conversation.

    @ivar seconds: the last one; None before that.
    """

    __slots__ = ("_since", "seconds")

    def __init__(self) -> None:
        """Start with none."""
        self.seconds: float | None = None
        self._since: float | None = None  # when the PING was due that is not answered

    def begin(self, since: float | None) -> None:
        """
        Take note of a PING, unless one is not answered yet.

        @param since: when it was due, seconds; None if something came meanwhile.
        """
        if self._since is None:
            self._since = since

    def answered(self, body: bytes, now: float, traffic: Traffic | None) -> None:
        """
        Take note of a PONG.

        @param now: seconds.
        @param traffic: where to count it, too.
        """
        if body != PING_BODY or self._since is None:
            return
        self.seconds, self._since = now - self._since, None
        if traffic is not None:
            micros = round(self.seconds * 1e6)
            traffic.roundTrips[micros.bit_length()] += 1
            traffic.roundTripMicros += micros
