"""
The Deferreds that applications give us, of policies and handlers: one may be given
several times, and used by the application as well::

    answer = follow(given)    # ours, to add callbacks to and to cancel

Values and failures are for all who follow one, whenever they come; it is cancelled
when the last of them does not wait any more.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_T = TypeVar("_T")


class _Failed(NamedTuple):
    """
    What is left in a Deferred that has failed, for who follows it later: a failure
    would be logged as one that nobody has taken.
    """

    failure: Failure


def follow(given: Deferred[_T]) -> Deferred[_T]:
    """Wait for what others may wait for as well, and may be cancelled alone."""
    _add(given, 1)
    # A method of it takes a fourth of the memory of a function with it inside.
    follower: Deferred[_T] = Deferred(MethodType(_leave, given))
    given.addBoth(_tell, follower)
    return follower


def _leave(given: Deferred[Any], follower: Deferred[Any]) -> None:
    """Cancel it unless others wait for it."""
    if not _add(given, -1):
        given.cancel()


def _add(given: Any, count: int) -> int:
    """
    Count who waits for it: in itself, since a dictionary of all takes as much memory
    again as what waits.
    """
    given._aesmFollowers = waiting = getattr(given, "_aesmFollowers", 0) + count
    return waiting


def _tell(result: Any, follower: Deferred[Any]) -> Any:
    """Pass on what it has fired with, and leave that to the others."""
    if isinstance(result, Failure):
        result = _Failed(result)
    if not follower.called:
        follower.callback(result.failure if isinstance(result, _Failed) else result)
    return result
