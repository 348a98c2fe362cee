"""
The Deferreds that sending returns: they cost next to nothing until somebody
looks.

Whoever adds a callback to a Deferred, awaits, cancels or returns it from a
callback, reads C{called} or C{result} first; only then is one of these known
to the connection.  So a million messages that nobody waits for leave nothing
to be fired, and nobody is told of a failure that nobody asked about.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred

from aesm.core.messages.outbox import Outbox
from aesm.errors import AESMError, closedError

__all__ = [
    "AckCount",
    "Acknowledgement",
    "FailedAcknowledgement",
    "LazyDeferred",
    "acknowledgementOf",
]

_T = TypeVar("_T")


class _Watcher(Protocol):
    """
    Who knows what is acknowledged.
    """

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """
        Fire a Deferred once so many messages are acknowledged, now or later.

        @param acknowledgement: what to fire.
        @param count: messages from the session's start.
        """


class LazyDeferred(Deferred[_T], Generic[_T]):
    """
    A Deferred that is made, and begins its work, when somebody looks.
    """

    _made = False
    _looked = False
    _called = False
    _result: Any

    def __init__(self) -> None:
        """
        Leave everything for later.
        """

    if not TYPE_CHECKING:  # pragma: no branch (it would take any attribute then)

        def __getattr__(self, name: str) -> Any:
            """
            Make the Deferred at the first look at anything that it has: that takes
            longer than all else that sending a message does for its sender.

            @param name: what is looked at.
            @raise AttributeError: there is none.
            """
            if self._made:
                raise AttributeError(f"a {type(self).__name__} has no {name!r}")
            self._made = True
            super().__init__()
            return getattr(self, name)

    def begin(self) -> None:
        """
        Begin what leads to a result; called once.
        """
        raise NotImplementedError

    def _look(self) -> None:
        """
        Take note that somebody looks.
        """
        if not self._looked:
            self._looked = True
            self.begin()

    @property
    def called(self) -> bool:
        """
        Whether it has fired.
        """
        self._look()
        return self._called

    @called.setter
    def called(self, called: bool) -> None:
        """
        Take note that it fires.

        @param called: True.
        """
        self._called = called

    @property
    def result(self) -> Any:
        """
        What it fired with.  Twisted looks here, and not at C{called}, when one
        of these is returned from a callback.

        @raise AttributeError: it has not fired.
        """
        self._look()
        return self._result

    @result.setter
    def result(self, result: Any) -> None:
        """
        Take note of a result.

        @param result: any, or a failure.
        """
        self._result = result


class FailedAcknowledgement(LazyDeferred[None]):
    """
    Fails, if anybody asks, because nothing was sent.
    """

    def __init__(self, reason: Exception) -> None:
        """
        @param reason: why.
        """
        self._reason = reason

    def begin(self) -> None:
        """
        Fail.
        """
        self.errback(self._reason)


class Acknowledgement(LazyDeferred[None]):
    """
    Fires with None once the peer has the message; fails with
    L{ConnectionClosed<aesm.errors.ConnectionClosed>} if it may not have.  Who makes
    one sets both attributes.

    @ivar watcher: the connection.
    @ivar count: messages from the session's start, this one included.
    """

    __slots__ = ("count", "watcher")

    if not TYPE_CHECKING:  # pragma: no branch
        __init__ = object.__init__  # a Python function would take half of the time

    watcher: _Watcher
    count: int

    def begin(self) -> None:
        """
        Be known to the connection.
        """
        self.watcher.watch(self, self.count)


def acknowledgementOf(watcher: _Watcher, count: int) -> Acknowledgement:
    """
    Make what sending returns.

    @param watcher: the connection.
    @param count: messages from the session's start, this one included.
    """
    acknowledgement = Acknowledgement()
    acknowledgement.watcher = watcher
    acknowledgement.count = count
    return acknowledgement


class AckCount(LazyDeferred[int]):
    """
    Fires with the number of peers that have a message, once each has it or is
    gone.
    """

    def __init__(self, acknowledgements: Iterable[Deferred[None]]) -> None:
        """
        @param acknowledgements: one for each peer that the message went to; asked for
            when somebody looks.
        """
        self._acknowledgements = acknowledgements
        self._open = self._having = 0

    def begin(self) -> None:
        """
        Begin to count.
        """
        acknowledgements, self._acknowledgements = list(self._acknowledgements), ()
        self._open = len(acknowledgements)
        for acknowledgement in acknowledgements:
            acknowledgement.addCallbacks(self._cbHas, self._ebLost)
        if not acknowledgements:
            self.callback(0)

    def _cbHas(self, result: None) -> None:
        """
        One more peer has it.

        @param result: nothing.
        """
        self._having += 1
        self._settle()

    def _ebLost(self, failure: object) -> None:
        """
        One more peer is gone, and may not have it.

        @param failure: why.
        """
        self._settle()

    def _settle(self) -> None:
        """
        Fire after the last one.
        """
        self._open -= 1
        if not self._open and not self.called:
            self.callback(self._having)


_order = count()  # breaks ties between equal counts


class PendingAcks:
    """
    Who waits for what the peer does with our messages.
    """

    __slots__ = ("_acknowledgements", "_draining", "_outbox")

    def __init__(self, outbox: Outbox) -> None:
        """
        @param outbox: the messages.
        """
        self._outbox = outbox
        self._acknowledgements: list[tuple[int, int, Acknowledgement]] = []  # a heap
        self._draining: deque[Deferred[None]] = deque()

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """
        Fire a Deferred once so many messages are acknowledged.

        @param acknowledgement: what to fire.
        @param count: messages from the session's start.
        """
        heapq.heappush(self._acknowledgements, (count, next(_order), acknowledgement))

    def drain(self) -> Deferred[None]:
        """
        Wait until there is room to send.

        @return: fires once there is.
        """
        draining: Deferred[None] = Deferred(self._draining.remove)
        self._draining.append(draining)
        return draining

    def tell(self) -> None:
        """
        The peer has more messages: tell who waited for that.
        """
        waiting, done = self._acknowledgements, self._outbox.acknowledged
        while waiting and waiting[0][0] <= done:
            acknowledgement = heapq.heappop(waiting)[2]
            if not acknowledgement.called:
                acknowledgement.callback(None)
        while self._draining and self._outbox.roomy:
            self._draining.popleft().callback(None)

    def fail(self, reason: AESMError) -> None:
        """
        Nothing more will be acknowledged: tell who waits.

        @param reason: why.
        """
        waiting, self._acknowledgements = self._acknowledgements, []
        for _, _, acknowledgement in sorted(waiting):
            if not acknowledgement.called:
                acknowledgement.errback(closedError(reason))
        while self._draining:
            self._draining.popleft().errback(closedError(reason))
