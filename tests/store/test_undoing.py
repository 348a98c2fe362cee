"""
Tests for L{aesm.store.undoing}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.batch import Batch
from aesm.errors import ConnectionClosed
from aesm.messages.acknowledgements import Acknowledgement
from aesm.store.undoing import Numbering, takeOut


def batch(first: int, count: int) -> Batch:
    """Make a batch."""
    made = Batch(0, first, str, 1000)
    made.bodies = [str(number) for number in range(first, first + count)]
    return made


class Watching:
    """Who is asked to watch."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.watched: list[int] = []

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """Take note."""
        self.watched.append(count)


class TakeOutTests(SynchronousTestCase):
    """L{takeOut}."""

    def test_order(self) -> None:
        """What is behind what is taken out moves up, also in other lists."""
        first, second = [batch(3, 2), batch(5, 1), batch(6, 3)], [batch(9, 1)]
        undone = takeOut([first, second], {5, 9})
        self.assertEqual([each.first for each in undone], [5, 9])
        self.assertEqual([each.first for each in first], [3, 5])
        self.assertEqual(second, [])

    def test_nothing(self) -> None:
        """If there is nothing of it, all stays as it is."""
        batches = [batch(3, 2), batch(5, 1)]
        self.assertEqual(takeOut([batches], {4}), [])
        self.assertEqual([each.first for each in batches], [3, 5])


class NumberingTests(SynchronousTestCase):
    """L{Numbering}."""

    def test_moved(self) -> None:
        """
        Each message is found by the number that it had, through any number of changes,
        but for those that were taken out.
        """
        watching: Any = Watching()
        first, second, third = (Numbering(watching) for _ in range(3))
        first.move([(2, 2), (6, 1)], second)  # 0 1 . . 4 5 . 7 8 9
        second.move([(3, 2)], third)  # 0 1 4 . . 8 9
        found = []
        for number in range(10):
            acknowledgement: Any = Deferred()
            first.watch(acknowledgement, number + 1)
            if acknowledgement.called:
                self.failureResultOf(acknowledgement, ConnectionClosed)
            else:
                found.append(number)
        self.assertEqual(found, [0, 1, 4, 8, 9])
        self.assertEqual(watching.watched, [1, 2, 3, 4, 5])
        for numbering in (second, third):
            waiting: Any = Deferred()
            numbering.watch(waiting, 6)
        self.assertEqual(watching.watched[5:], [4, 6])
