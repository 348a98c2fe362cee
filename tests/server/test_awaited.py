"""
Tests for L{aesm.server.awaited}.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm.errors import CloseCode, ConnectionClosed
from aesm.server.awaited import Awaited


class AwaitedTests(SynchronousTestCase):
    """L{Awaited}."""

    def setUp(self) -> None:
        """Have nothing yet, and nobody waiting."""
        self.items: deque[str] = deque()
        self.later: list[Callable[[], None]] = []
        self.awaited = Awaited(
            lambda: self.items.popleft() if self.items else None, self.later.append
        )

    def test_now(self) -> None:
        """What is there is taken at once."""
        self.items.extend("ab")
        for item in "ab":
            self.assertEqual(self.successResultOf(self.awaited.get()), item)

    def test_areAwaited(self) -> None:
        """It tells whether anybody waits."""
        self.assertFalse(self.awaited.areAwaited)
        waiting = self.awaited.get()
        self.assertTrue(self.awaited.areAwaited)
        self.items.append("a")
        self.awaited.serve()
        self.assertFalse(self.awaited.areAwaited)
        self.successResultOf(waiting)

    def test_order(self) -> None:
        """Who has waited longest is served first, as long as there is something."""
        waiting = [self.awaited.get() for _ in range(3)]
        self.items.extend("ab")
        self.awaited.serve()
        self.assertEqual(
            [self.successResultOf(each) for each in waiting[:2]], ["a", "b"]
        )
        self.assertNoResult(waiting[2])

    def test_nobodyIsOvertaken(self) -> None:
        """Who asks again when served comes behind those who wait."""
        again: list[Deferred[str]] = []
        first, second = self.awaited.get(), self.awaited.get()
        first.addCallback(lambda item: again.append(self.awaited.get()))
        self.items.extend("abc")
        self.awaited.serve()
        self.assertEqual(self.successResultOf(second), "b")
        self.assertEqual(self.successResultOf(again[0]), "c")

    def test_cancelled(self) -> None:
        """Cancelling takes nothing."""
        first, second = self.awaited.get(), self.awaited.get()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.items.append("a")
        self.awaited.serve()
        self.assertEqual(self.successResultOf(second), "a")

    def test_soon(self) -> None:
        """In another turn, if that is asked for; not at all if nobody waits."""
        self.awaited.serveSoon()
        self.assertEqual(self.later, [])
        waiting = self.awaited.get()
        self.items.append("a")
        self.awaited.serveSoon()
        self.assertNoResult(waiting)
        self.later.pop()()
        self.assertEqual(self.successResultOf(waiting), "a")

    def test_end(self) -> None:
        """At the end all that is there is given away, and the others are told."""
        first, second = self.awaited.get(), self.awaited.get()
        self.items.append("a")
        self.awaited.end(ConnectionClosed("over", CloseCode.NORMAL))
        self.assertEqual(self.successResultOf(first), "a")
        self.items.append("left")
        self.assertEqual(self.successResultOf(self.awaited.get()), "left")
        errors = [
            self.failureResultOf(each, ConnectionClosed).value
            for each in (second, self.awaited.get())
        ]
        self.assertEqual([each.code for each in errors], [CloseCode.NORMAL] * 2)
        self.assertIsNot(*errors)

    def test_begin(self) -> None:
        """After that it can begin again."""
        self.awaited.end(ConnectionClosed("over"))
        self.awaited.begin()
        self.assertNoResult(self.awaited.get())
