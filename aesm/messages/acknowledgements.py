"""
The Deferreds that sending returns: they cost next to nothing until somebody uses
them.

Whoever adds a callback to a Deferred, awaits, cancels or returns it from a
callback, reads C{called} or C{result} first; only then is it registered with the
connection.  So a million messages that nobody waits for leave nothing to be fired,
and no failure is logged that nobody asked about.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred

from aesm.core.messages.outbox import Outbox
from aesm.errors import AESMError, PeerAway, closedError
from aesm.messages.deferred import ReactorDeferred

_T = TypeVar("_T")

# A count that is never acknowledged, since nothing was sent: its Deferred fails at the
# end.
NEVER: Final = 1 << 64


class _Watcher(Protocol):
    """What an acknowledgement is registered with."""

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """Fire once so many of the session's messages are acknowledged."""


# Laziness
#
# Sending returns a Deferred for each message, and most senders drop it.
# Deferred.__init__ and the registration would take several times as long as all else
# that sending does, so both are put off.  The class attributes below stand for what is
# not set yet:
#
#     _made            Deferred.__init__ has run: at the first access to an attribute
#                      that is missing (__getattr__)
#     _looked          begin() has run: at the first read of called or result, with
#                      which every use of a Deferred begins; set before begin(), which
#                      may fire the Deferred and so read called again
#     _called, _result what Deferred keeps under the names of the two properties
#
# tests/messages/test_hotpath.py (StackCostTests.test_sending) counts that sending makes
# no call of Python's for it.


class LazyDeferred(ReactorDeferred[_T], Generic[_T]):
    """A Deferred that is initialized, and begins its work, on first use."""

    _made = False
    _looked = False
    _called = False
    _result: Any

    def __init__(self) -> None:
        """Leave everything for later."""

    if not TYPE_CHECKING:  # pragma: no branch (it would take any attribute then)

        def __getattr__(self, name: str) -> Any:
            """Initialize the Deferred at the first access to any of its attributes."""
            if self._made:
                raise AttributeError(f"a {type(self).__name__} has no {name!r}")
            self._made = True
            super().__init__()
            return getattr(self, name)

    def begin(self) -> None:
        """Begin what leads to a result; called once."""
        raise NotImplementedError

    def _look(self) -> None:
        """Begin at the first use."""
        if not self._looked:
            self._looked = True
            self.begin()

    @property
    def called(self) -> bool:
        """Whether it has fired."""
        self._look()
        return self._called

    @called.setter
    def called(self, called: bool) -> None:
        """Note that it has fired."""
        self._called = called

    @property
    def result(self) -> Any:
        """
        What it fired with.  Twisted reads this, and not C{called}, when the Deferred is
        returned from a callback.

        @raise AttributeError: it has not fired.
        """
        self._look()
        return self._result

    @result.setter
    def result(self, result: Any) -> None:
        """Set the result, or a failure."""
        self._result = result


class FailedAcknowledgement(LazyDeferred[None]):
    """Fails, once it is used, because nothing was sent."""

    def __init__(self, reason: Exception) -> None:
        """Keep the error until then."""
        # Not twisted's fail(): a failed Deferred that nobody looks at is logged as a
        # bug, and whoever sends without waiting need not know that the peer has gone.
        self._reason = reason

    def begin(self) -> None:
        """Fail."""
        self.errback(self._reason)


class Acknowledgement(LazyDeferred[None]):
    """
    Fires with None once the peer has the message; fails with
    L{ConnectionClosed<aesm.errors.ConnectionClosed>} if it may not have.  Its maker
    sets both attributes.

    @ivar watcher: the connection.
    @ivar count: messages from the session's start, this one included.
    """

    # Slots, so that one that is dropped never has an attribute dictionary.
    __slots__ = ("count", "watcher")

    if not TYPE_CHECKING:  # pragma: no branch
        # Python runs a function of C's here: one of its own, even an empty one, would
        # be half of what sending a message takes.  So the sender sets the attributes.
        __init__ = object.__init__

    watcher: _Watcher
    count: int

    def begin(self) -> None:
        """Register with the connection."""
        self.watcher.watch(self, self.count)


class PromptAcknowledgement(Acknowledgement):
    """
    One that fails with L{PeerAway<aesm.errors.PeerAway>} as soon as nothing carries the
    message's session, in which the message is kept all the same.
    """

    __slots__ = ()


def peerAway() -> PeerAway:
    """Say of a message that it is kept for a peer that is away."""
    return PeerAway(
        "the peer's connection is cut: the message is kept for it, and leaves if it "
        "comes back"
    )


def promptly(sent: Deferred[None]) -> Deferred[None]:
    """
    Wait for what was sent only while its peer is there.

    @param sent: nobody has looked at it.
    """
    if not isinstance(sent, Acknowledgement):  # nothing was sent
        return sent
    prompt = PromptAcknowledgement()
    prompt.watcher = sent.watcher
    prompt.count = sent.count
    return prompt


def acknowledgementOf(watcher: _Watcher, count: int) -> Acknowledgement:
    """Make an acknowledgement of so many messages from the session's start."""
    acknowledgement = Acknowledgement()
    acknowledgement.watcher = watcher
    acknowledgement.count = count
    return acknowledgement


class AckCount(LazyDeferred[int]):
    """Fires with the number of peers that have it, once each has, or is gone."""

    def __init__(self, acknowledgements: Iterable[Deferred[None]]) -> None:
        """
        @param acknowledgements: one for each peer that the message went to; read on
            first use.
        """
        self._acknowledgements = acknowledgements
        self._open = self._having = 0

    def begin(self) -> None:
        """Begin to count."""
        acknowledgements, self._acknowledgements = list(self._acknowledgements), ()
        self._open = len(acknowledgements)
        for acknowledgement in acknowledgements:
            acknowledgement.addCallbacks(self._cbHas, self._ebLost)
        if not acknowledgements:
            self.callback(0)

    def endNow(self) -> None:
        """Fire with how many have it by now."""
        if not self.called:
            self.callback(self._having)

    def _cbHas(self, result: None) -> None:
        """Count a peer that has the message."""
        self._having += 1
        self._settle()

    def _ebLost(self, failure: object) -> None:
        """Do not count a peer that is gone, and may not have it."""
        self._settle()

    def _settle(self) -> None:
        """Fire after the last one."""
        self._open -= 1
        if not self._open and not self.called:  # it may be cancelled
            self.callback(self._having)


_order = count()  # breaks ties between equal counts


class PendingAcks:
    """Those who wait for acknowledgements of one connection."""

    __slots__ = ("_acknowledgements", "_draining", "_outbox")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        # A heap, because they are used, and so come here, in any order.
        self._acknowledgements: list[tuple[int, int, Acknowledgement]] = []  # a heap
        self._draining: deque[Deferred[None]] = deque()

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """Fire a Deferred once so many messages of the session are acknowledged."""
        heapq.heappush(self._acknowledgements, (count, next(_order), acknowledgement))

    def takePast(self, count: int) -> list[tuple[int, Acknowledgement]]:
        """Take out those that wait for more messages, and for how many each does."""
        past = sorted(each for each in self._acknowledgements if each[0] > count)
        self._acknowledgements = [
            each for each in self._acknowledgements if each[0] <= count
        ]
        heapq.heapify(self._acknowledgements)
        return [(each, acknowledgement) for each, _, acknowledgement in past]

    def drain(self) -> Deferred[None]:
        """Return a Deferred that fires once there is room to send."""
        draining: Deferred[None] = ReactorDeferred(self._draining.remove)
        self._draining.append(draining)
        return draining

    def fire(self) -> None:
        """Fire what the last ACK was waited for."""
        # One at a time, out of the heap before it fires: a callback may send, wait for
        # more, or end the connection.
        waiting, done = self._acknowledgements, self._outbox.acknowledged
        while waiting and waiting[0][0] <= done:
            acknowledgement = heapq.heappop(waiting)[2]
            if not acknowledgement.called:  # else it was cancelled
                acknowledgement.callback(None)
        # The first to go on may fill the buffer again: then the others still wait.
        while self._draining and self._outbox.roomy:
            self._draining.popleft().callback(None)

    def away(self) -> None:
        """Nothing carries the messages for now: tell those who do not wait for that."""
        waiting = self._acknowledgements
        leaving = [e for e in waiting if isinstance(e[2], PromptAcknowledgement)]
        staying = [e for e in waiting if not isinstance(e[2], PromptAcknowledgement)]
        # The rest is a heap again before anybody is told, who may send.
        waiting[:] = staying
        heapq.heapify(waiting)
        self._end(leaving, peerAway)

    def fail(self, reason: AESMError) -> None:
        """Fail all: nothing more will be acknowledged."""
        waiting, self._acknowledgements = self._acknowledgements, []
        self._end(waiting, partial(closedError, reason))
        while self._draining:
            self._draining.popleft().errback(closedError(reason))

    def _end(
        self,
        waiting: Iterable[tuple[int, int, Acknowledgement]],
        error: Callable[[], Exception],
    ) -> None:
        """Tell those who wait in vain, in order, each with an error of its own."""
        done = self._outbox.acknowledged
        for number, _, acknowledgement in sorted(waiting):
            if acknowledgement.called:
                continue
            if number <= done:  # who was told before has ended it, in C{fire}
                acknowledgement.callback(None)
            else:
                acknowledgement.errback(error())
