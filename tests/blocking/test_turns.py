"""
Tests for L{aesm.blocking.turns}.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from aesm.blocking.turns import Turns
from aesm.errors import CloseCode, ConnectionClosed

LONG = 600.0  # seconds; more than any machine needs


class Queue(deque[Any]):
    """
    A queue that says who comes.

    @ivar came: has something for each.
    """

    def __init__(self) -> None:
        """Nobody has come yet."""
        super().__init__()
        self.came: SimpleQueue[None] = SimpleQueue()

    def append(self, turn: Any) -> None:
        """Say that somebody comes."""
        super().append(turn)
        self.came.put(None)


class Interrupted(BaseException):
    """What a signal handler raises, as that of Ctrl-C does."""


class TurnsTests(SynchronousTestCase):
    """L{Turns}."""

    def setUp(self) -> None:
        """Make a queue for threads that wait for items."""
        self.turns = Turns()
        self.queue = self.turns._turns = Queue()
        self.items: deque[str] = deque()
        self.threads = ThreadPoolExecutor(8)
        self.addCleanup(self.threads.shutdown)

    def attempt(self) -> str | None:
        """Take the oldest item, if there is one."""
        return self.items.popleft() if self.items else None

    def take(self, timeout: float | None = LONG) -> str:
        """Take an item in this thread."""
        return self.turns.take(self.attempt, timeout)

    def waiting(
        self, count: int, take: Callable[[], str] | None = None
    ) -> list[Future[str]]:
        """
        Have threads wait.

        @param count: how many, one after the other.
        """
        futures = []
        for _ in range(count):
            futures.append(self.threads.submit(take or self.take))
            self.queue.came.get(timeout=LONG)
        return futures

    def bring(self, *items: str) -> None:
        """Bring items, and wake who waits first."""
        self.items.extend(items)
        self.turns.wake()

    def test_now(self) -> None:
        """What is there is taken at once, whether anybody was woken or not."""
        self.items.extend("ab")
        self.assertEqual([self.take(0), self.take(None)], ["a", "b"])

    def test_inTurn(self) -> None:
        """Threads get what comes in the order in which they came, each once."""
        futures = self.waiting(4)
        self.bring("a")
        self.assertEqual(futures[0].result(LONG), "a")
        self.bring("b", "c", "d")
        self.assertEqual([each.result(LONG) for each in futures[1:]], ["b", "c", "d"])
        self.assertEqual(list(self.queue), [])

    def test_nobodyIsOvertaken(self) -> None:
        """Who comes while others wait takes nothing before them."""
        futures = self.waiting(2)
        self.items.append("a")  # nobody is told yet
        futures += self.waiting(1)
        self.turns.wake()
        self.bring("b", "c")
        self.assertEqual([each.result(LONG) for each in futures], ["a", "b", "c"])

    def test_timeout(self) -> None:
        """In time or not at all: who has waited too long takes nothing."""
        error = self.assertRaises(TimeoutError, self.take, 0)
        self.assertIn("0 seconds", str(error))
        self.assertRaises(TimeoutError, self.take, 0.001)
        self.items.append("a")
        self.assertEqual(self.take(0), "a")

    def test_longTimeout(self) -> None:
        """A timeout may be longer than threads can wait at a time."""
        for timeout in (float("inf"), 1e30):
            taking = self.threads.submit(self.take, timeout)
            self.queue.came.get(timeout=LONG)
            self.items.append("x")
            self.turns.wake()
            self.assertEqual(taking.result(LONG), "x")

    def test_passedOn(self) -> None:
        """Whoever leaves without having taken anything wakes the next."""
        leave = threading.Event()

        def interrupted() -> str | None:
            """Wait, and be interrupted."""
            if self.queue:
                leave.wait(LONG)
                raise Interrupted
            return None

        first, *others = self.waiting(1, lambda: self.turns.take(interrupted, LONG))
        others = self.waiting(2)
        self.items.extend("ab")  # and whoever was woken has not looked
        leave.set()
        self.assertIsInstance(first.exception(LONG), Interrupted)
        self.assertEqual([each.result(LONG) for each in others], ["a", "b"])

    def test_end(self) -> None:
        """At the end all are told, each by an error of its own."""
        futures = self.waiting(3)
        self.turns.end(ConnectionClosed("over", CloseCode.NORMAL))
        errors: list[Any] = [each.exception(LONG) for each in futures]
        self.assertEqual([each.code for each in errors], [CloseCode.NORMAL] * 3)
        self.assertEqual(len(set(map(id, errors))), 3)
        self.assertRaises(ConnectionClosed, self.take, None)

    def test_leftAtEnd(self) -> None:
        """What came before the end can be taken after it."""
        self.items.append("a")
        self.turns.end(ConnectionClosed("over"))
        self.assertEqual(self.take(), "a")
        self.assertRaises(ConnectionClosed, self.take, None)

    def test_lastMoment(self) -> None:
        """What comes just before the end is not missed by who is just looking."""

        def attempt() -> str | None:
            """Find nothing, just before the last item and the end."""
            if not self.turns.reason:
                self.items.append("a")
                self.turns.end(ConnectionClosed("over"))
                return None
            return self.attempt()

        self.assertEqual(self.turns.take(attempt, LONG), "a")

    def test_interrupt(self) -> None:
        """A signal handler that raises ends the waiting, and nothing is left of it."""

        interrupted = threading.Event()

        def interrupt(number: int, frame: object) -> None:
            """Do as Ctrl-C does, once."""
            if not interrupted.is_set():
                interrupted.set()
                raise Interrupted

        def kill() -> None:
            """Send the signal, once the main thread waits."""
            # Until it has come: one that comes just before Python begins to wait for a
            # lock wakes nobody.
            self.queue.came.get(timeout=LONG)
            while not interrupted.wait(0.01):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        former = signal.signal(signal.SIGUSR1, interrupt)
        self.addCleanup(signal.signal, signal.SIGUSR1, former)
        killing = self.threads.submit(kill)
        self.assertRaises(Interrupted, self.take, None)
        killing.result(LONG)
        self.bring("a")
        self.assertEqual(self.take(0), "a")

    def test_inside(self) -> None:
        """A signal handler may wait while the thread that it interrupts does."""
        inside: list[str] = []

        def handle(number: int, frame: object) -> None:
            """Wait, too."""
            bringing = self.threads.submit(self.bring, "a", "b")
            inside.append(self.take())
            bringing.result(LONG)

        def attempt() -> str | None:
            """Be interrupted once one waits."""
            if self.queue and not inside:
                signal.raise_signal(signal.SIGUSR1)
            return self.attempt()

        former = signal.signal(signal.SIGUSR1, handle)
        self.addCleanup(signal.signal, signal.SIGUSR1, former)
        self.assertEqual(self.turns.take(attempt, LONG), "b")
        self.assertEqual(inside, ["a"])
