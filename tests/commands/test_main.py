"""
A coroutine as a program.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm.commands.main import CoroutineRunner, observing
from aesm.server.registry import Connections


class LoopReactor:
    """A reactor that does nothing but what it is told to call."""

    def __init__(self) -> None:
        """Start with nothing to do."""
        self._calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._running = False

    def callWhenRunning(self, call: Callable[..., object], *args: object) -> None:
        """
        Call something in C{run}.

        @param call: what.
        @param args: its arguments.
        """
        self._calls.append((call, args))

    callFromThread = callWhenRunning

    def run(self) -> None:
        """Call what there is to call, until C{stop}."""
        self._running = True
        while self._running:
            call, args = self._calls.pop(0)
            call(*args)

    def stop(self) -> None:
        """End C{run}."""
        self._running = False


class RunnerTests(SynchronousTestCase):
    """A program ends with its coroutine, or with a signal."""

    def test_status(self) -> None:
        """The coroutine's result is the exit status."""

        async def main() -> int:
            """End at once."""
            return 3

        self.assertEqual(CoroutineRunner(LoopReactor()).run(main), 3)

    def test_error(self) -> None:
        """An error of the coroutine is raised."""

        async def main() -> int:
            """Fail."""
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, CoroutineRunner(LoopReactor()).run, main)

    def test_interrupted(self) -> None:
        """
        A signal cancels the coroutine, which may still do what it has to; the
        exit status tells of the signal, and the next one is the system's.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            steps: list[object] = []

            async def main(number: int = number, steps: list[object] = steps) -> int:
                """
                Wait for ever.

                @param number: the signal to send.
                @param steps: what happens.
                """
                signal.raise_signal(number)
                try:
                    await Deferred()
                except CancelledError:
                    steps.append(signal.getsignal(number))
                    return 0
                raise AssertionError

            former = signal.getsignal(number)
            self.assertEqual(CoroutineRunner(LoopReactor()).run(main), 128 + number)
            self.assertEqual(steps, [signal.SIG_DFL])
            self.assertEqual(signal.getsignal(number), former)

    def test_background(self) -> None:
        """Ctrl-C stays ignored where it was, as shells have it in the background."""
        former = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGINT, former)

        async def main() -> int:
            """Go on, and end."""
            signal.raise_signal(signal.SIGINT)
            return 0

        self.assertEqual(CoroutineRunner(LoopReactor()).run(main), 0)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_IGN)

    def test_tooLate(self) -> None:
        """A signal to a program that is about to end changes nothing but its status."""

        async def main() -> int:
            """End at once."""
            signal.raise_signal(signal.SIGINT)
            return 0

        reactor = LoopReactor()
        self.assertEqual(CoroutineRunner(reactor).run(main), 130)
        reactor.callWhenRunning(reactor.stop)
        reactor.run()


class ReportTests(SynchronousTestCase):
    """L{observing} tells people what else only the log would."""

    def test_refused(self) -> None:
        """Who is refused is said in one line, and of others nothing; nor afterwards."""
        errors = StringIO()
        self.patch(sys, "stderr", errors)
        connections = Connections()
        with observing():
            for event in ("accepted", "refused", "probed", "lost"):
                connections.record(("192.0.2.1", 7), event, 1.0, f"why it is {event}")
        connections.record("unix-1", "refused", 1.0, "")
        self.assertEqual(
            errors.getvalue(), "aesm: 192.0.2.1:7 is refused: why it is refused\n"
        )
