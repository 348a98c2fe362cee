"""
Tests for L{aesm.store.stream}, of what only several processes have in common; the rest
is tested with connections, L{tests.store.test_connection}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.store.stream import DurableStream


class Owner:
    """
    What is told of a stream.

    @ivar cost: of what was taken.
    """

    def __init__(self) -> None:
        """ """
        self.cost = 0

    def packetsTaken(self, cost: int) -> None:
        """Count."""
        self.cost += cost

    def streamFinished(self) -> None:
        """Nothing follows."""


class ElsewhereTests(SynchronousTestCase):
    """Packets that other processes take."""

    def setUp(self) -> None:
        """Have five."""
        self.owner = Owner()
        self.stream = DurableStream(self.owner, 0)
        self.extend(0, 5)

    def extend(self, first: int, end: int) -> None:
        """Add packets, each of which is its number."""
        self.stream.place(first)
        data = [b"%d" % number for number in range(first, end)]
        self.stream.extend(0.0, data, 65 * len(data))
        self.stream.skip()

    def assertLeft(self, *numbers: int) -> None:
        """Check which packets there are."""
        self.assertEqual(
            [packet.data for packet in self.stream], [b"%d" % n for n in numbers]
        )

    def test_oldest(self) -> None:
        """The oldest ones go, and count as taken."""
        self.stream.takenElsewhere(0, 1)
        self.assertLeft(2, 3, 4)
        self.assertEqual(self.owner.cost, 130)
        self.assertEqual(self.stream.taken(), 130)
        self.assertEqual(self.stream.first, 2)

    def test_later(self) -> None:
        """Those behind others go when these do, here or elsewhere."""
        self.stream.takenElsewhere(3, 3)
        self.stream.takenElsewhere(1, 1)
        self.assertLeft(0, 1, 2, 3, 4)
        self.stream.takenElsewhere(0, 0)
        self.assertLeft(2, 3, 4)
        self.stream.takenElsewhere(2, 2)
        self.assertLeft(4)

    def test_early(self) -> None:
        """So do those that were taken before they were here."""
        self.stream.takenElsewhere(0, 6)
        self.assertLeft()
        self.extend(5, 9)
        self.assertLeft(7, 8)

    def test_again(self) -> None:
        """What was taken here is not waited for."""
        self.stream.getData()
        self.stream.taken()
        self.stream.takenElsewhere(0, 1)
        self.assertLeft(2, 3, 4)
