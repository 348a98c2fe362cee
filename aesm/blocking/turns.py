"""
Threads that wait for what another thread brings::

    turns = Turns()
    packet = turns.take(stream.getData, timeout)   # in any thread
    turns.wake()                                   # once there is something

Who waits takes it itself, when woken: so nothing is lost if its time is over at that
moment, or if Ctrl-C interrupts it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import TIMEOUT_MAX, Lock, get_ident
from time import monotonic
from typing import TypeVar

from aesm.errors import ConnectionClosed, closedError

_T = TypeVar("_T")

# Waiting in turn
#
# Who waits has a lock in a queue, and sleeps until somebody releases it.  Only the
# first of the queue takes.  Whoever leaves the queue, for whatever reason, wakes the
# next, which looks for itself; and whoever brings something wakes the first.  A thread
# comes into the queue before it looks, and what is brought is there before anybody is
# woken: so one of both sides sees the other.
#
# A signal handler may wait, too, while the main thread that it has interrupted stands
# in the queue and cannot leave: so a thread that comes again goes first.  For the same
# reason there is no lock around any of this: what is shared is changed by single
# operations of deque and set, which nothing can interrupt.


class Turns:
    """
    The threads that wait for the same.

    @ivar reason: why nothing more will come; None while there may.
    """

    def __init__(self) -> None:
        self.reason: ConnectionClosed | None = None
        self._turns: deque[Lock] = deque()
        self._threads: set[int] = set()  # of these

    def take(self, attempt: Callable[[], _T | None], timeout: float | None) -> _T:
        """
        Take something, once there is something and those before have theirs.

        @param attempt: takes it; gives None if there is nothing now.
        @param timeout: seconds to wait; None for ever.
        @raise ConnectionClosed: there is nothing, and nothing more will come.
        @raise TimeoutError: there was nothing in time; nothing was taken.
        """
        taken = None if self._turns else self._attempt(attempt)
        if taken is not None:
            return taken
        deadline = None if timeout is None else monotonic() + timeout
        thread, turn = get_ident(), Lock()
        isInside = thread in self._threads
        turn.acquire()
        try:
            self._threads.add(thread)
            (self._turns.appendleft if isInside else self._turns.append)(turn)
            while (
                self._turns[0] is not turn or (taken := self._attempt(attempt)) is None
            ):
                left = -1.0
                if deadline is not None:
                    left = min(max(0.0, deadline - monotonic()), TIMEOUT_MAX)
                if not turn.acquire(timeout=left):
                    raise TimeoutError(f"nothing came within {timeout:g} seconds")
            return taken
        finally:
            with suppress(ValueError):  # Ctrl-C has come first
                self._turns.remove(turn)
            if not isInside:
                self._threads.discard(thread)
            self.wake()

    def wake(self) -> None:
        """Have who has waited longest look again; called in any thread."""
        # Nobody waits, or who does is awake already.
        with suppress(IndexError, RuntimeError):
            self._turns[0].release()

    def end(self, reason: ConnectionClosed) -> None:
        """Nothing more will come: tell all, once nothing is left for them."""
        self.reason = reason
        self.wake()

    def _attempt(self, attempt: Callable[[], _T | None]) -> _T | None:
        """Take something, if there is something; raises as C{take}."""
        reason = self.reason  # before the look: else what came last would be missed
        taken = attempt()
        if taken is None and reason is not None:
            raise closedError(reason)
        return taken
