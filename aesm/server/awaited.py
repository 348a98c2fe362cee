"""
What can be taken now, or waited for::

    entries = Awaited(log.takeOldest, soon)  # takeOldest gives None if there is nothing
    entry = await entries.get()
    entries.serve()                          # whenever there may be something
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from aesm.errors import ConnectionClosed, closedError
from aesm.messages.deferred import ReactorDeferred

Soon = Callable[[Callable[[], None]], object]

_T = TypeVar("_T")


class Awaited(Generic[_T]):
    """
    Those who wait for what is taken one by one, in their order.  Nothing is given to
    who has been cancelled, and nothing that comes between two calls is missed: it
    stays until it is taken.
    """

    def __init__(self, take: Callable[[], _T | None], soon: Soon) -> None:
        """
        @param take: takes the oldest; gives None if there is nothing now.
        @param soon: calls what it is given in another turn.
        """
        self._take = take
        self._soon = soon
        self._waiting: deque[Deferred[_T]] = deque()
        self._reason: ConnectionClosed | None = None  # why nothing more will come

    def get(self) -> Deferred[_T]:
        """
        Take the oldest, once there is something.

        @return: fires with it; fails with L{ConnectionClosed} once nothing more will
            come and all is taken.  Cancelling it takes nothing.
        """
        taken = None if self._waiting else self._take()
        if taken is not None:
            return succeed(taken)
        if self._reason is not None:
            return fail(closedError(self._reason))
        waiting: Deferred[_T] = ReactorDeferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    @property
    def areAwaited(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def serve(self) -> None:
        """Give those who wait what there is."""
        while self._waiting and (taken := self._take()) is not None:
            self._waiting.popleft().callback(taken)

    def serveSoon(self) -> None:
        """Do the same where this is no moment to call who waits."""
        if self._waiting:
            self._soon(self.serve)

    def end(self, reason: ConnectionClosed) -> None:
        """Nothing more will come, until C{begin}."""
        self.serve()
        self._reason = reason
        while self._waiting:
            self._waiting.popleft().errback(closedError(reason))

    def begin(self) -> None:
        """Something may come again."""
        self._reason = None
