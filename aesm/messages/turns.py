"""
Whose turn it is, when clients send more than their handler does in one turn of the
event loop::

    turns.wait(dispatcher)        # it has more to do: its C{resume} is called
    rates.spend(connection.peer, count, cost, now)
    turns.wait(dispatcher, rates.delay(connection.peer, now))

A dispatcher works for C{QUANTUM} seconds, and all that wait share C{TURN} seconds of
each turn, the one that has waited longest first.  So whoever sends little is answered
as fast as before, however much others send.

What one key sends has a rate, too, if the handler or the server's options say so.  It
holds nobody back but by the window: what is not handled is not acknowledged.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from aesm.trust.keys import PublicKey

QUANTUM = 0.001  # seconds of work in one piece
TURN = 0.002  # seconds of one turn of the event loop, for all that wait
BURST = 2.0  # seconds for which a quiet key saves up what it may send
ANY = 1e15  # more than anybody sends in a second


class Worker(Protocol):
    """What has more to do than fits a turn."""

    def resume(self) -> None:
        """Go on, for C{QUANTUM} seconds."""


class Turns:
    """
    Lets those go on that gave up their turn.

    @ivar now: tells the time by which turns are measured, seconds.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.now = clock.seconds
        self._waiting: dict[Worker, None] = {}
        self._call: IDelayedCall | None = None
        self._sleeping: dict[Worker, IDelayedCall] = {}

    def wait(self, worker: Worker, delay: float = 0.0) -> None:
        """
        Let one go on in a later turn.

        @param delay: seconds to wait before.
        """
        if delay > 0:
            self._sleeping[worker] = self._clock.callLater(delay, self._wake, worker)
            return
        self._waiting[worker] = None
        if self._call is None:
            self._call = self._clock.callLater(0, self._run)

    def discard(self, worker: Worker) -> None:
        """Forget one, if it waits."""
        self._waiting.pop(worker, None)
        sleeping = self._sleeping.pop(worker, None)
        if sleeping is not None:
            sleeping.cancel()
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _wake(self, worker: Worker) -> None:
        """Let one go on that has slept."""
        del self._sleeping[worker]
        self.wait(worker)

    def _run(self) -> None:
        """Give each that waits a part of this turn, as far as that goes."""
        self._call = None
        until = self.now() + TURN
        # Those that wait again meanwhile are for the next turn.
        for worker in list(self._waiting):
            if worker in self._waiting:  # what another one did may have ended it
                del self._waiting[worker]
                worker.resume()
                if self.now() >= until:
                    break
        if self._waiting and self._call is None:
            self._call = self._clock.callLater(0, self._run)


class Rates:
    """
    How much each key may send, over all its connections.

    It is spent after the fact, so that it may be overdrawn by one piece of work; until
    that is made up for, nothing more is handled.
    """

    def __init__(self, messages: float, bytes: float) -> None:
        """
        @param messages: of one key, a second; C{math.inf} for any number.
        @param bytes: of these, with the 64 that each counts besides.
        @raise ValueError: one is not above 0.
        """
        for option, value in (("messagesPerKey", messages), ("bytesPerKey", bytes)):
            if not value > 0:
                raise ValueError(f"{option} must be above 0, not {value}")
        self._messages = min(messages, ANY)
        self._bytes = min(bytes, ANY)
        # What is left of messages and bytes, and since when; of those that have sent
        # anything in the last BURST seconds, or are overdrawn.
        self._left: dict[PublicKey, tuple[float, float, float]] = {}
        self._swept = 0.0

    @property
    def isBounded(self) -> bool:
        """Whether there is any bound."""
        return min(self._messages, self._bytes) < ANY

    def spend(self, peer: PublicKey, count: int, cost: int, now: float) -> None:
        """
        Count messages that were handled.

        @param cost: what they count for flow control, bytes.
        @param now: seconds, of any clock; one that is set back holds nobody back.
        """
        messages, bytes = self._leftOf(peer, now)
        self._left[peer] = (messages - count, bytes - cost, now)
        if abs(now - self._swept) >= BURST:
            self._swept = now
            self._left = {
                each: left
                for each, left in self._left.items()
                if self._leftOf(each, now)
                < (self._messages * BURST, self._bytes * BURST)
            }

    def delay(self, peer: PublicKey, now: float) -> float:
        """Tell how many seconds the next message of a key has to wait."""
        messages, bytes = self._leftOf(peer, now)
        delay = max(0.0, -messages / self._messages, -bytes / self._bytes)
        # What is left by rounding no clock would see pass.
        return delay if now + delay > now else 0.0

    def _leftOf(self, peer: PublicKey, now: float) -> tuple[float, float]:
        """Tell what a key may send now, messages and bytes."""
        most, mostBytes = self._messages * BURST, self._bytes * BURST
        messages, bytes, since = self._left.get(peer, (most, mostBytes, now))
        passed = max(0.0, now - since)
        return (
            min(most, messages + passed * self._messages),
            min(mostBytes, bytes + passed * self._bytes),
        )
