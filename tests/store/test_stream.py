"""
Tests for L{aesm.store.stream}, of what only several processes have in common; the rest
is tested with connections, L{tests.store.test_connection}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.frames import FrameType, encodeFrame
from aesm.store.interface import Blob
from aesm.store.stream import DurableStream, _Numbers


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


class NumbersTests(SynchronousTestCase):
    """Which packets were taken."""

    @given(st.permutations(range(9)), st.integers(0, 9), st.integers(0, 9))
    def test_anyOrder(self, order: list[int], count: int, first: int) -> None:
        """In whatever order numbers come, they are in as few ranges as can be."""
        numbers = _Numbers()
        for number in order[:count]:
            numbers.add(number)
        among = set(order[:count])
        kept = [n for start, end in numbers.ranges for n in range(start, end)]
        self.assertEqual(kept, sorted(among))
        gaps = sum(number - 1 not in among for number in among)
        self.assertEqual(len(numbers.ranges), gaps)
        following = first
        while following in among:
            following += 1
        self.assertEqual(numbers.behind(first), following)
        kept = [start for start, _ in numbers.ranges]
        self.assertEqual([start for start in kept if start <= first], [])

    def test_notPackets(self) -> None:
        """
        What comes between packets that are not taken takes little room, however much it
        is, and is not to be stored; behind them it counts as taken, also after a
        restart.
        """
        owner = Owner()
        stream = DurableStream(owner, 0)
        for number in range(0, 30_000, 10_000):
            stream.place(number)
            stream.extend(0.0, [b""], 64)
            stream.settle(number + 1, 9_999)
            self.assertEqual(stream.taken(), 0)
        self.assertEqual(len(stream._settled.ranges), 3)
        self.assertEqual((stream.first, stream.ranges), (0, []))
        stream.pop(newest=True)
        stream.taken()
        self.assertEqual((stream.first, stream.ranges), (0, [[20_000, 20_001]]))
        frames = encodeFrame(FrameType.BINARY, 1)
        blobs = [Blob(number, 1, frames) for number in range(0, 30_000, 10_000)]
        again = DurableStream(owner, 0)
        again.restore(30_000, blobs, 0, stream.ranges)
        for each in (stream, again):
            each.getData()
            each.taken()
            self.assertEqual(each.first, 10_000)
            each.getData()
            each.taken()
            self.assertEqual((each.first, each.ranges), (30_000, []))
