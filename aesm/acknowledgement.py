"""
The Deferred that C{sendData} returns.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

__all__ = ["Acknowledgement"]


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


class Acknowledgement(Deferred[None]):
    """
    Fires with None once the peer has the message; fails with
    L{ConnectionClosed<aesm.errors.ConnectionClosed>} if it may not have.

    It costs next to nothing until somebody looks, and nobody is told of a
    failure that nobody asked for: whoever adds a callback, awaits or cancels
    it reads C{called} first, and only then is it known to the connection.
    """

    def __init__(self, watcher: _Watcher, count: int) -> None:
        """
        @param watcher: the connection.
        @param count: messages from the session's start, this one included.
        """
        super().__init__()
        self._watcher: _Watcher | None = watcher
        self._count = count

    @property
    def called(self) -> bool:  # type: ignore[override]
        """
        Whether it has fired.
        """
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            watcher.watch(self, self._count)
        return self._called

    @called.setter
    def called(self, called: bool) -> None:
        """
        Take note that it fires.

        @param called: True.
        """
        self._called = called

    _called = False
