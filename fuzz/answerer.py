"""
How honest sides answer requests in the target C{server}: each as its data says, at once
or later, with an answer or a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from aesm import Request, RequestFailed
from aesm.errors import AESMError, MessageTooBig
from fuzz.ledger import numberOf

__all__ = ["Answerer", "Broken", "trouble"]


_HUGE = 2001  # bytes, more than anybody takes


class _Way(IntEnum):
    """What is done with a request."""

    AT_ONCE = 0
    LATER = 1
    REFUSES = 2
    BY_ITSELF = 3
    BREAKS = 4
    LATER_NOT = 5
    ASKS_BACK = 6
    TOO_BIG = 7


class Broken(Exception):
    """The application fails, as it may."""


class Answerer:
    """
    Answers the requests that come to one process.

    @ivar held: what is to be done yet for some, each done once.
    """

    def __init__(self, say: Callable[[Request, int], str]) -> None:
        """
        @param say: makes an answer to a request, or words to refuse it, with so many
            more characters.
        """
        self._say = say
        self.held: list[Callable[[], None]] = []

    def take(self, request: Request) -> None:
        """Answer a request that was taken as a packet."""
        way = _wayOf(request)
        if way in (_Way.LATER, _Way.LATER_NOT, _Way.BREAKS):
            self.held.append(lambda: self._end(request, way))
        else:
            self._end(request, way)

    def _end(self, request: Request, way: _Way) -> None:
        """Answer or refuse a request."""
        if way in (_Way.REFUSES, _Way.LATER_NOT):
            request.refuse(self._say(request, 0), 7).addErrback(trouble)
            return
        more = _HUGE if way == _Way.TOO_BIG else 0
        request.answer(self._say(request, more)).addErrback(self._ebOpen, request)

    def _ebOpen(self, failure: Failure, request: Request) -> None:
        """An answer was not accepted: refuse, as soon as there is room."""
        trouble(failure)
        if request.isOpen and not request._connection.isClosing:
            refused = request.refuse(self._say(request, 0), 8)
            if request.isOpen:
                refused.addErrback(trouble)
                self.held.append(lambda: self._end(request, _Way.REFUSES))

    def receive(
        self, request: Request, back: Callable[[], Deferred[Any]]
    ) -> str | Deferred[Any]:
        """
        Do as C{requestReceived} of a handler.

        @param back: asks who asked, and fires whatever comes of it.
        @raise RequestFailed: it is refused.
        @raise Broken: the handler fails.
        """
        match _wayOf(request):
            case _Way.LATER | _Way.LATER_NOT as way:
                later: Deferred[str] = Deferred()
                self.held.append(lambda: self._fire(later, request, way))
                return later
            case _Way.REFUSES:
                raise RequestFailed(7, self._say(request, 0))
            case _Way.BY_ITSELF:
                answered = request.answer(self._say(request, 0))
                return answered.addErrback(_ebTooBig)
            case _Way.BREAKS:
                raise Broken
            case _Way.ASKS_BACK:
                return back().addCallback(lambda result: self._say(request, 0))
            case way:
                return self._say(request, _HUGE if way == _Way.TOO_BIG else 0)

    def _fire(self, later: Deferred[str], request: Request, way: _Way) -> None:
        """Be done with a request, unless it was withdrawn."""
        if later.called:
            return
        words = self._say(request, 0)
        if way == _Way.LATER:
            later.callback(words)
        else:
            later.errback(RequestFailed(7, words))

    def finish(self) -> bool:
        """
        Be done with the oldest.

        @return: whether there was one.
        """
        if not self.held:
            return False
        self.held.pop(0)()
        return True


def _wayOf(request: Request) -> _Way:
    """Tell what is to be done with a request."""
    assert request.data is not None
    return _Way((numberOf(request.data) + len(request.data)) % len(_Way))


def _ebTooBig(failure: Failure) -> None:
    """Refuse who asks and takes no answer as large as that."""
    failure.trap(MessageTooBig)
    raise RequestFailed(8, "too big")


def trouble(failure: Failure) -> None:
    """Something does not come about, as may be."""
    failure.trap(AESMError, CancelledError)
