"""Tests for L{aesm.store.following}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.store.following import Following, Place


class FollowingTests(SynchronousTestCase):
    """Where a session is in the log."""

    def setUp(self) -> None:
        """Have one with entries at 70, and at 72 and 73, and its own between these."""
        self.following = Following(Place(5, 69, 60))
        self.following.add(5, 1, 70)
        self.following.add(7, 2, 73)

    def test_place(self) -> None:
        """It moves with what is acknowledged, as far as nothing is torn apart."""
        places = [(5, 69), (6, 70), (7, 70), (7, 70), (9, 80), (10, 80)]
        for done, place in enumerate(places, 5):
            self.assertEqual(self.following.state(done, 80), (*place, 60))
            self.assertEqual(self.following.place, (*place, 60))
            self.assertEqual(self.following.behind(done, 80), place[1])

    def test_number(self) -> None:
        """What has to be acknowledged for an entry to be is known, if it is for it."""
        numbers = [self.following.number(at) for at in (60, 61, 70, 71, 72, 73, 74)]
        self.assertEqual(numbers, [None, 6, 6, 9, 9, 9, 0])

    def test_undo(self) -> None:
        """What is behind something that was taken out moves up."""
        self.following.undo([(6, 1), (9, 5)])
        self.assertEqual(self.following.places, [(5, 1, 70), (6, 2, 73)])

    def test_keep(self) -> None:
        """What it keeps as its own it does not count any more."""
        self.following.isKept = True
        self.assertEqual(self.following.keep(50), [(5, 1), (7, 2)])
        self.assertFalse(self.following.isKept)
        self.assertEqual(self.following.state(5, 50), (5, 50, 60))
