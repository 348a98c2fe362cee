"""
A clock that cannot be set.

Twisted's reactors keep time by the wall clock, which steps: by NTP at boot, when a
machine is resumed, by hand.  Then every timer fires at once, or an hour late: sessions
that wait are given up, silent peers stay, nobody dials again.  Durations are for a
clock that never goes back.

@see: CLOCK_MONOTONIC in clock_gettime(2);
    U{https://github.com/twisted/twisted/issues/2424}
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from twisted.python import runtime

_Reactor = TypeVar("_Reactor")


def steady(reactor: _Reactor) -> _Reactor:
    """
    Have a reactor that keeps time by the wall clock keep it by the monotonic one from
    now on, its timers that are pending included: it goes on from the present time, so
    that C{seconds()} still is near what a wall clock would say.

    Zero-delay calls, the end of a turn, come from the same queue, so that no clock of
    our own beside the reactor's could do it.

    @param reactor: any; one with another idea of time, such as a
        C{twisted.internet.task.Clock}, is left alone.
    @return: the same.
    """
    if getattr(reactor, "seconds", None) is runtime.seconds:
        ahead = runtime.seconds() - monotonic()

        # Its names are its arguments, since the event loop asks all the time.
        def seconds(
            monotonic: Callable[[], float] = monotonic, ahead: float = ahead
        ) -> float:
            return monotonic() + ahead

        setattr(reactor, "seconds", seconds)  # noqa: B010
    return reactor
