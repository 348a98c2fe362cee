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

    def test_whole(self) -> None:
        """What ends within an entry is not apart from the rest of it."""
        self.following.add(9, 2, 76)
        self.following.add(11, 3, 76)
        self.following.add(15, 1, 76)  # it is another history's: its own is between
        places = [(5, 1, 70), (7, 2, 73), (9, 5, 76), (15, 1, 76)]
        self.assertEqual(self.following.places, places)
        for done in (9, 12, 13):
            self.assertEqual(self.following.state(done, 80)[:2], (9, 73))
        self.assertEqual(self.following.state(14, 80)[:2], (14, 76))

    def test_begunWithin(self) -> None:
        """
        Where some of the first entry is acknowledged, it counts from its beginning.
        """
        following = Following(Place(8, 69, 60))
        following.extend(0)
        following.add(8, 2, 70)
        following.extend(3)
        self.assertEqual(following.state(8, 80)[:2], (5, 69))
        self.assertEqual(following.state(10, 80)[:2], (10, 80))
