"""
What the heartbeats of both sides mean: how long our PINGs take to be answered, how many
of the peer's frames that carry nothing are put up with, and how long it may hear
nothing of us.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aesm.core.messages.traffic import Traffic
from aesm.errors import ProtocolError

CHATTER = 100  # frames that carry nothing, to be tolerated in advance
MAX_CHATTER_RATE = 20.0  # of these, a second
PING_BODY = b"?"  # of ours: an empty PONG answers none


@dataclass(slots=True, eq=False)
class Patience:
    """With the frames of one peer that carry nothing."""

    _left: float = CHATTER
    _since: float = -math.inf  # when the last of them came

    def spend(self, now: float, ours: float, theirs: float) -> None:
        """
        Put up with a frame, as often as the peer has reason to send one, which is twice
        as often as there are heartbeats of either side, and some in advance.

        @param now: seconds.
        @param ours: our own heartbeat, seconds.
        @param theirs: the peer's, seconds.
        @raise ProtocolError: there are too many.
        """
        rate = max(1.0, min(MAX_CHATTER_RATE, 2 / theirs), 2 / ours)
        self._left = min(CHATTER, self._left + (now - self._since) * rate) - 1
        self._since = now
        if self._left < 0:
            raise ProtocolError("a flood of frames that carry nothing")


@dataclass(slots=True, eq=False)
class RoundTrip:
    """
    Measures the round trips of one conversation.

    @ivar seconds: the last one; None before that.
    """

    seconds: float | None = None
    _since: float | None = None  # when the PING was due that is not answered

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


def longestSilence(ours: float, theirs: float) -> float:
    """
    Tell how many seconds a peer that is not done sending may hear nothing of us: half
    of what either side takes for a silence, since what we say takes its time, too; but
    no less than such a peer must tolerate.

    @param ours: our own heartbeat, seconds.
    @param theirs: the peer's, seconds.
    """
    return max(min(ours, theirs) / 2, 1 / MAX_CHATTER_RATE)
