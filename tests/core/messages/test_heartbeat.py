"""
Tests of L{aesm.core.messages.heartbeat}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.heartbeat import CHATTER, PING_BODY, Patience, RoundTrip
from aesm.core.messages.traffic import BUCKETS, Traffic
from aesm.errors import ProtocolError


class PatienceTests(SynchronousTestCase):
    """L{Patience} ends."""

    def test_spent(self) -> None:
        """So many are tolerated in advance, and one more for each that is due."""
        patience = Patience()
        for _ in range(CHATTER):
            patience.spend(5.0, 1.0, 30.0)
        patience.spend(5.5, 1.0, 30.0)
        self.assertRaises(ProtocolError, patience.spend, 5.9, 1.0, 30.0)

    def test_full(self) -> None:
        """Who was quiet for long has no more than that."""
        patience = Patience()
        patience.spend(1e6, 30.0, 1.0)
        for _ in range(CHATTER - 1):
            patience.spend(1e6, 30.0, 1.0)
        self.assertRaises(ProtocolError, patience.spend, 1e6, 30.0, 1.0)


class RoundTripTests(SynchronousTestCase):
    """L{RoundTrip} measures."""

    def test_measured(self) -> None:
        """From when the PING was due to its PONG, which counts once."""
        trip, traffic = RoundTrip(), Traffic()
        self.assertIsNone(trip.seconds)
        trip.begin(10.0)
        for now in (10.25, 11.0):
            trip.answered(PING_BODY, now, traffic)
        self.assertEqual(trip.seconds, 0.25)
        self.assertEqual(traffic.roundTripMicros, 250_000)
        counts = [0] * BUCKETS
        counts[(250_000).bit_length()] = 1
        self.assertEqual(traffic.roundTrips, counts)

    def test_uncounted(self) -> None:
        """A client adds nothing up."""
        trip = RoundTrip()
        trip.begin(10.0)
        trip.answered(PING_BODY, 10.0, None)
        self.assertEqual(trip.seconds, 0.0)

    def test_others(self) -> None:
        """A PONG that answers nothing, or something else, says nothing."""
        trip = RoundTrip()
        trip.answered(PING_BODY, 9.0, None)
        trip.begin(10.0)
        for body in (b"", b"other"):
            trip.answered(body, 11.0, None)
        self.assertIsNone(trip.seconds)

    def test_late(self) -> None:
        """An answer is that to the first PING that has none, which was longer ago."""
        trip = RoundTrip()
        trip.begin(None)
        trip.answered(PING_BODY, 9.0, None)
        self.assertIsNone(trip.seconds)
        trip.begin(10.0)
        trip.begin(20.0)
        trip.answered(PING_BODY, 21.0, None)
        self.assertEqual(trip.seconds, 11.0)
