"""
What went over all connections of a server, as plain numbers: each place that knows adds
to them itself, since a call would cost more than the sum.
"""

from __future__ import annotations

from typing import Final

# Any time from one 64-bit clock to another, in microseconds, has no more bits.
BUCKETS: Final = 66


class Traffic:
    """
    Sums over connections, also over those that are gone.

    A list of waits counts them by size: C{waits[n]} those of which the microseconds
    have C{n} bits (C{int.bit_length}), below C{2**n} and not below half of that.

    @ivar messagesIn: messages received.
    @ivar costIn: their cost for flow control, bytes.
    @ivar messagesOut: messages that peers have acknowledged.
    @ivar costOut: their cost, bytes.
    @ivar lateAnswers: answers to requests for which nobody waited any more.
    @ivar oldest: when the oldest message was sent that was acknowledged by what is read
        now, microseconds since the Unix epoch; 0 if none was.
    @ivar acknowledged: how long such messages had waited, one for each read.
    @ivar acknowledgedMicros: the sum of these.
    @ivar roundTrips: how long PONGs took.
    @ivar roundTripMicros: the sum of these.
    """

    __slots__ = (
        "acknowledged",
        "acknowledgedMicros",
        "costIn",
        "costOut",
        "lateAnswers",
        "messagesIn",
        "messagesOut",
        "oldest",
        "roundTripMicros",
        "roundTrips",
    )

    def __init__(self) -> None:
        self.messagesIn = self.costIn = self.messagesOut = self.costOut = 0
        self.oldest = self.lateAnswers = 0
        self.acknowledged, self.acknowledgedMicros = [0] * BUCKETS, 0
        self.roundTrips, self.roundTripMicros = [0] * BUCKETS, 0
