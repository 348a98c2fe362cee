"""
The Deferreds that aesm hands out and that may have to be waited for::

    waiting: ReactorDeferred[Packet] = ReactorDeferred(cancel)

They are Twisted's, and say what to do where something awaits them that Twisted does
not run.  And what several wait for::

    gate = Gate()
    gate.wait().addCallback(goOn)
    gate.open()
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import DynamicClassAttribute
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

_T = TypeVar("_T")

# In a Task of asyncio
#
# A Deferred that is awaited yields itself to whoever runs the coroutine.  A Task of
# asyncio knows nothing of Deferreds: "Task got bad yield".  To find out at the await
# who runs the coroutine is not possible, since a Task may well begin one of Twisted's.
# But a Task asks what is yielded to it for the members below, which a Future has, and
# then waits to be called back: with an error that names what to do.  Twisted asks for
# none of them, so that nothing else costs anything.


class ReactorDeferred(Deferred[_T], Generic[_T]):
    """A Deferred that only a coroutine of Twisted's can await: others are told."""

    # Of instances only, and not of the class: asyncio.isfuture looks there, and this is
    # no Future.  Whatever a Task sets, the next one finds the same.
    _asyncio_future_blocking = DynamicClassAttribute(
        lambda self: True, lambda self, isBlocking: None
    )

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Belong to whichever loop asks."""
        return asyncio.get_running_loop()

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Any = None
    ) -> None:
        """Fail at once for a Task: Twisted adds callbacks otherwise."""
        refused: asyncio.Future[Any] = self.get_loop().create_future()
        refused.set_exception(
            RuntimeError(
                "a Task of asyncio cannot await a Deferred of Twisted: await "
                "deferred.asFuture(asyncio.get_running_loop()), where Twisted runs on "
                "the asyncio reactor, or use aesm.aio"
            )
        )
        refused.add_done_callback(callback, context=context)


class Gate:
    """What several wait for, each of whom may give up."""

    def __init__(self) -> None:
        self._waiting: deque[Deferred[None]] = deque()

    def wait(self) -> Deferred[None]:
        """Wait until C{open}, which may fail this; it can be cancelled."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def open(self, result: Failure | None = None) -> None:
        """
        Let those through who wait, in their order: one may have another one give up.

        @param result: why they wait in vain; None if they do not.
        """
        while self._waiting:
            self._waiting.popleft().callback(result)


def ignore(*arguments: object) -> None:
    """Do nothing, where something is to be called and nobody is to be told."""


def cancelTimer(timer: IDelayedCall | None) -> None:
    """Cancel what is to happen later, if it is."""
    if timer is not None and timer.active():
        timer.cancel()


def untimed(result: _T, timer: IDelayedCall) -> _T:
    """Cancel a deadline that is no longer needed, and pass the result on."""
    cancelTimer(timer)
    return result


def resultNow(deferred: Deferred[_T]) -> _T:
    """
    Take the result of a Deferred that has fired.

    @raise Exception: what it has failed with.
    """
    results: list[_T] = []
    failures: list[Failure] = []
    deferred.addCallbacks(results.append, failures.append)
    for failure in failures:
        failure.raiseException()
    return results[0]
