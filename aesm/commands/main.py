"""
Running one coroutine as a program, from its first step to its exit status::

    status = CoroutineRunner(reactor).run(main)

Ctrl-C cancels the coroutine, which then closes what it has in order; a second
Ctrl-C does not wait for that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import provider

from aesm.commands.output import writeError
from aesm.commands.signals import endAtOnce

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@provider(ILogObserver)
def _reportTrust(event: LogEvent) -> None:
    """Tell the user about first contacts and refusals, as an observer of the log."""
    if event.get("log_namespace") == "aesm.trust":
        writeError(formatEvent(event))
    elif event.get("log_namespace") == "aesm.activity" and event["event"] == "refused":
        writeError(f"{event['address']} is refused: {event['reason']}")


@contextmanager
def observing(observer: ILogObserver = _reportTrust) -> Iterator[None]:
    """Observe the log in the meantime, for first contacts and who is not let in."""
    globalLogPublisher.addObserver(observer)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observer)


class CoroutineRunner:
    """A coroutine, its reactor, and the signals that end it."""

    def __init__(self, reactor: Any) -> None:
        """@param reactor: not running yet; it will not run again."""
        self._reactor = reactor
        self._running: Deferred[int] | None = None
        self._outcome: int | Failure = 0
        self._signal = 0

    def run(self, main: Callable[[], Coroutine[Any, Any, int]]) -> int:
        """
        Run the reactor until the coroutine is done.

        @param main: gives an exit status.
        @return: that status; or 128 and the number of the signal that ended the
            program, as shells have it.
        """
        former: list[tuple[int, Any]] = [
            (number, signal.getsignal(number)) for number in SIGNALS
        ]
        self._reactor.callWhenRunning(self._begin, main)
        try:
            self._reactor.run()
        finally:
            for number, handler in former:
                signal.signal(number, handler)
        if self._signal:
            return 128 + self._signal
        if isinstance(self._outcome, Failure):
            self._outcome.raiseException()
        return self._outcome

    def _begin(self, main: Callable[[], Coroutine[Any, Any, int]]) -> None:
        """Begin, with signal handlers in place of the reactor's."""
        # The reactor has set its own by now, which would stop it at once.
        for number in SIGNALS:
            # Where Ctrl-C was ignored before, it is not for us: shells have it so for
            # what they begin in the background.
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._signalled)
        self._running = Deferred.fromCoroutine(main())
        self._running.addBoth(self._done)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Ask the coroutine to end, and let the next signal end all at once."""
        endAtOnce(number)
        self._signal = number
        # A signal comes between any two instructions; callFromThread also wakes a
        # reactor that waits for its files.
        self._reactor.callFromThread(self._cancel)

    def _cancel(self) -> None:
        """Ask the coroutine to end."""
        if self._running is not None:
            self._running.cancel()

    def _done(self, outcome: int | Failure) -> None:
        """Stop the reactor."""
        self._running = None
        self._outcome = outcome
        self._reactor.stop()
