"""
The Deferreds that sending returns: they cost next to nothing until somebody
looks.

Whoever adds a callback to a Deferred, awaits or cancels it, reads C{called}
first; only then is one of these known to the connection.  So a million
messages that nobody waits for leave nothing to be fired, and nobody is told
of a failure that nobody asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred

__all__ = ["Acknowledgement", "LazyDeferred", "Tally"]

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
    A Deferred that begins its work when somebody looks.
    """

    _looked = False
    _called = False

    def begin(self) -> None:
        """
        Begin what leads to a result; called once.
        """
        raise NotImplementedError

    @property
    def called(self) -> bool:  # type: ignore[override]
        """
        Whether it has fired.
        """
        if not self._looked:
            self._looked = True
            self.begin()
        return self._called

    @called.setter
    def called(self, called: bool) -> None:
        """
        Take note that it fires.

        @param called: True.
        """
        self._called = called


class Acknowledgement(LazyDeferred[None]):
    """
    Fires with None once the peer has the message; fails with
    L{ConnectionClosed<aesm.errors.ConnectionClosed>} if it may not have.
    """

    def __init__(self, watcher: _Watcher, count: int) -> None:
        """
        @param watcher: the connection.
        @param count: messages from the session's start, this one included.
        """
        super().__init__()
        self._watcher = watcher
        self._count = count

    def begin(self) -> None:
        """
        Be known to the connection.
        """
        self._watcher.watch(self, self._count)


class Tally(LazyDeferred[int]):
    """
    Fires with the number of peers that have a message, once each has it or is
    gone.
    """

    def __init__(self, acknowledgements: Sequence[Deferred[None]]) -> None:
        """
        @param acknowledgements: one for each peer that the message went to.
        """
        super().__init__()
        self._acknowledgements = acknowledgements
        self._open = len(acknowledgements)
        self._having = 0

    def begin(self) -> None:
        """
        Begin to count.
        """
        acknowledgements, self._acknowledgements = self._acknowledgements, ()
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
