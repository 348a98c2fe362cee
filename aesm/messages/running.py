"""
What a handler has returned, run: a Deferred, a coroutine, a Future of asyncio; and what
is said of one that fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from concurrent import futures
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.shared import follow

if TYPE_CHECKING:
    from aesm.messages.connection import Connection

_log = Logger(namespace="aesm.handler")


def running(result: object) -> Deferred[Any] | None:
    """
    Run what a method of a handler has returned.

    @return: fires once it has run; None if there is nothing to be run.
    @raise TypeError: it has not run, and cannot be run here.
    """
    if result is None:
        return None
    if isinstance(result, Deferred):
        return follow(result)
    if isinstance(result, Coroutine):
        return ensureDeferred(result)
    if asyncio.isfuture(result):
        # Of a loop in another thread it would call us there, and of one that does not
        # run never.
        if result.get_loop() is not _runningLoop():
            raise TypeError(
                f"the handler returned {result!r}, which is not of the event loop that "
                "runs here: use Twisted's asyncio reactor, or return a Deferred"
            )
        return Deferred.fromFuture(result)
    if isinstance(result, Awaitable):
        return ensureDeferred(_await(result))
    # Whatever of the handler's has not run must not be acknowledged; other values say
    # nothing, as those of Deferreds.
    if isinstance(result, Generator | AsyncGenerator | map | filter):
        raise TypeError(
            f"the handler returned {result!r}, whose body has not run: write async "
            "def without yield, or decorate the method with inlineCallbacks"
        )
    if isinstance(result, futures.Future):
        raise TypeError(
            f"the handler returned {result!r}, of another thread: use deferToThread"
        )
    return None


def tellFailed(where: str, failure: Failure, connection: Connection) -> None:
    """
    Log that a handler has failed, and keep nothing of that but text: Twisted keeps what
    is said for who begins logging, which many programs never do.
    """
    _log.failure(f"the handler failed {where}", failure, connection=repr(connection))
    failure.cleanFailure()


async def _await(awaitable: Awaitable[Any]) -> Any:
    """Make a coroutine of what can only be awaited."""
    return await awaitable


def _runningLoop() -> asyncio.AbstractEventLoop | None:
    """Find the event loop that runs here, as under Twisted's asyncio reactor."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
