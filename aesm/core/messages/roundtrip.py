"""
How long a PING of ours takes to be answered.
"""

from __future__ import annotations

from aesm.core.messages.traffic import Traffic

__all__ = ["PING_BODY", "RoundTrip"]

PING_BODY = b"?"  # of ours: an empty PONG answers none


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
