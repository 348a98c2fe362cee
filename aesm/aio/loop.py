"""
Twisted on a loop that somebody else runs::

    reactor = await theReactor()             # of the loop that runs here
    packet = await result(stream.get())      # a Deferred, as asyncio awaits things

Each loop has a reactor of its own, which is nothing but Twisted's names for what the
loop does: it has no thread, no file descriptors and no signal handlers, is never
installed, and goes with the last that uses it.  So there may be any number of loops,
one after another or in several threads, beside a reactor that is Twisted's own.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakValueDictionary, ref

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from aesm.blocking.reactorthread import EXIT_DEADLINE, builtinError
from aesm.blocking.standardlog import standardLog

_T = TypeVar("_T")

# What these write waits for the installed reactor; and what to do instead.
_INSTALLED_ONLY = dict.fromkeys(("ssl", "tls"), "aesm needs none around it")
_INSTALLED_ONLY |= dict.fromkeys(
    ("rediss", "rediss+sentinel"), "have a tunnel to the engine, or its UNIX socket"
)


class Closable(Protocol):
    """What is to be closed when the loop ends."""

    async def end(self, deadline: float) -> None:
        """
        Close in order.

        @param deadline: seconds after which to abort.
        """


class _Executor:
    """
    The loop's own executor as Twisted's thread pool: asyncio ends it with the loop.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        """@param loop: whose."""
        self._loop = loop

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object],
        function: Callable[..., Any],
        *arguments: Any,
        **named: Any,
    ) -> None:
        """Call a function in a thread, and then C{onResult} with what it gave."""

        def work() -> None:
            """Call it."""
            try:
                outcome = True, function(*arguments, **named)
            except BaseException:
                outcome = False, Failure()
            onResult(*outcome)

        self._loop.run_in_executor(None, work)


class LoopReactor(AsyncioSelectorReactor):
    """
    Twisted's reactor on asyncio, on a loop that runs already.

    @ivar loop: the loop.
    @ivar open: what is to be closed when it ends.
    """

    # It is not the reactor of the process, whose thread others know by this.
    _registerAsIOThread = False

    def __init__(self, loop: AbstractEventLoop) -> None:
        """@param loop: the loop."""
        super().__init__(loop)
        self.loop = loop
        self._process = os.getpid()
        self._executor = _Executor(loop)
        self.open: dict[Closable, None] = {}
        self._ending = _closeAtEnd(self.open, ref(self))
        self.startRunning(installSignalHandlers=False)

    async def begin(self) -> None:
        """Have C{open} closed when the loop ends."""
        await anext(self._ending)

    @property
    def isForked(self) -> bool:
        """Whether this is a forked child: the loop and all that is open are not its."""
        return os.getpid() != self._process

    def check(self) -> None:
        """
        Refuse to serve another loop than the own one.

        @raise RuntimeError: another one runs here, or none, as in a forked child.
        """
        if get_running_loop() is not self.loop:
            raise RuntimeError(
                "this was opened in another event loop: use it there, or open another "
                "one here"
            )

    # ReactorBase

    def installWaker(self) -> None:
        """Do without: C{callFromThread} wakes the loop."""

    def getThreadPool(self) -> Any:
        """Have threads of the loop, for looking up names."""
        return self._executor


async def _closeAtEnd(
    open: dict[Closable, None], itself: ref[LoopReactor]
) -> AsyncGenerator[None]:
    """Close what is open once C{asyncio.run} closes this generator."""
    try:
        yield
    finally:
        ending = [each.end(EXIT_DEADLINE) for each in list(open)]
        await asyncio.gather(*ending, return_exceptions=True)
        # What has been closed has its socket for some more turns, which do not come.
        reactor = itself()
        if reactor is not None and not reactor.isForked:
            reactor.disconnectAll()


_reactors: WeakValueDictionary[AbstractEventLoop, LoopReactor] = WeakValueDictionary()


async def theReactor() -> LoopReactor:
    """Get the reactor of the loop that runs here; the first call makes it."""
    standardLog.start()
    loop = get_running_loop()
    reactor = _reactors.get(loop)
    if reactor is None:
        reactor = _reactors[loop] = LoopReactor(loop)
        await reactor.begin()
    return reactor


def checkEndpoint(endpoint: object) -> None:
    """
    Refuse endpoints that need the reactor that is installed.

    @raise ValueError: this is one.
    """
    kind = endpoint.partition(":")[0] if isinstance(endpoint, str) else ""
    if kind in _INSTALLED_ONLY:
        raise ValueError(
            f"{endpoint!r} cannot be used with aesm.aio, since Twisted's TLS works on "
            f"the installed reactor only; {_INSTALLED_ONLY[kind]}"
        )


def futureOf(deferred: Deferred[_T]) -> asyncio.Future[_T]:
    """
    Follow a Deferred with a future, whose error may be ignored; cancelling the one
    leaves the other alone.

    @return: done as soon as C{deferred} has fired; fails as that, but with builtin
        errors for those of Twisted's.
    """
    future: asyncio.Future[_T] = get_running_loop().create_future()
    deferred.addBoth(settle, future)
    return future


def settle(outcome: object, future: asyncio.Future[Any]) -> None:
    """Tell a future what became of a Deferred, if anybody still waits."""
    if future.done():
        return
    if isinstance(outcome, Failure):
        future.set_exception(builtinError(cast(BaseException, outcome.value)))
        future.exception()  # else asyncio reports it where nobody looks
    else:
        future.set_result(outcome)


async def result(deferred: Deferred[_T]) -> _T:
    """Wait for a Deferred; who is cancelled cancels it."""
    try:
        return await futureOf(deferred)
    except asyncio.CancelledError:
        deferred.cancel()
        raise
