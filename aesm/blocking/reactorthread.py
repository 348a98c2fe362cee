"""
The reactor, as seen from other threads::

    reactorThread = theReactorThread()                  # it runs from now on
    future = reactorThread.submit(server.sendAll, "hi") # called in its thread
    reactorThread.wait(future, timeout=5)

Calls go over to the reactor's thread in their order, results come back as
C{concurrent.futures.Future}s, and each of them is done once, also when the
reactor stops first.  When the reactor or the program ends, what is open is closed
in order, as far as that can be done soon.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum
from itertools import count
from multiprocessing.util import Finalize
from threading import RLock, Thread
from typing import Any, NoReturn, Protocol, TypeVar, cast

from twisted.internet import error
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.python.failure import Failure
from twisted.python.threadable import isInIOThread

from aesm.blocking.standardlog import standardLog
from aesm.errors import ConnectionClosed
from aesm.messages.stream import isHeldHere

START_TIMEOUT = 60.0  # seconds until the reactor runs
EXIT_DEADLINE = 2.0  # seconds for closing in order when the program ends
EXIT_TIMEOUT = 5.0  # seconds after which the program ends anyway
BUSY_TIMEOUT = 0.05  # seconds to wait for a future that somebody is looking at
BUSY_PAUSE = 0.01  # seconds until the next attempt

_STOPPED = "the reactor was stopped, and Twisted cannot run it again in this process"

_T = TypeVar("_T")

# Life cycle
#
# A process has one reactor, and that runs once.  So its thread has a life without
# a way back:
#
#     NEW -start-> STARTING -started-> RUNNING -stopped-> STOPPED
#                     +-----------refused-------------------^
#
# It is started when it is first needed: in a daemon thread of ours, or not by us if
# the program runs the reactor already, in whichever thread.  "refused" is Twisted's
# ReactorNotRestartable: the program has run the reactor before, and it has stopped.
#
# Calls are taken until it is STOPPED, after which each pending future is failed:
# else its owner would wait for ever.  A call becomes pending first and looks for
# STOPPED then, so that one of both sides sees the other.
#
# There are three ways to the end, and all of them close first what is open:
#
#   - somebody stops the reactor: the trigger "before shutdown" closes, the one
#     "after shutdown" is "stopped";
#   - the program ends, and the thread is ours: exit() stops the reactor;
#   - the program ends, and the reactor is the program's: exit() closes, and leaves
#     the reactor alone.
#
# A process of multiprocessing ends with os._exit, without atexit, but runs the
# finalizers of multiprocessing.util before: exit() is one of them.
#
# A forked child has a copy of all this and neither the thread nor the connections.
# Its state says nothing, so that it is asked of the process number.

# Signal handlers
#
# A signal handler runs between two instructions of the main thread, which stands
# still until the handler returns.  If the handler waits for the reactor's thread, and
# that for a lock that the main thread holds, nothing ever goes on; a lock that may be
# taken twice by one thread does not help, since two threads are in it.  So calls are
# handed over without any lock: what is shared is changed by single operations of
# deque and set, which nothing can interrupt, and whoever removes a future from the
# pending ones, alone completes it.
#
# Only who takes a packet has a lock, for which the reactor's thread may wait.  A
# handler that has interrupted that finds no packet, and to wait for one raises.


class ReactorState(Enum):
    """Where the reactor is in its life."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"


REACTOR_TRANSITIONS = {  # (where it is, what happened): where it goes
    (ReactorState.NEW, "start"): ReactorState.STARTING,
    (ReactorState.STARTING, "started"): ReactorState.RUNNING,
    (ReactorState.STARTING, "refused"): ReactorState.STOPPED,
    (ReactorState.RUNNING, "stopped"): ReactorState.STOPPED,
}


class Closable(Protocol):
    """What is to be closed when the reactor or the program ends."""

    def end(self, deadline: float) -> Deferred[None]:
        """Close in order, in the reactor's thread, and abort after so many seconds."""


class Result(Future[_T]):
    """What comes back from the reactor's thread: C{result()} waits, but not in that."""

    def __await__(self) -> NoReturn:
        """
        Say how to wait.

        @raise TypeError: always: an event loop cannot wait for a thread like this.
        """
        raise TypeError(
            "this Future is another thread's: await asyncio.wrap_future(future) in "
            "asyncio, or call future.result() where waiting is allowed; in the "
            "reactor's thread use aesm.connect, aesm.listen and their Deferreds"
        )


class ReactorThread:
    """
    Hands calls over to the reactor's thread, and results back.

    @ivar reactor: the reactor.
    @ivar state: where that is in its life.
    """

    def __init__(self, reactor: Any) -> None:
        """@param reactor: the installed one, or one for a test."""
        self.reactor = reactor
        self.state = ReactorState.NEW
        self._process = os.getpid()
        self._thread: Thread | None = None  # None if the program runs the reactor
        self._open: dict[Closable, None] = {}  # in the reactor's thread only
        # Changed by any thread, in single steps only: see above.
        self._calls: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = (
            deque()
        )
        self._pending: set[Future[Any]] = set()
        self._wakeNumbers = count(1)
        self._woken = 0  # the number of a wake-up that was handed over
        self._awake = 0  # the highest number that has arrived

    def start(self) -> None:
        """
        See to it that the reactor runs.

        @raise RuntimeError: it has run already and was stopped.
        @raise TimeoutError: it does not start.
        """
        self._goOn("start")
        ready: Future[None] = Future()
        if self.reactor.running:
            self.reactor.callFromThread(self._started, ready)
        else:
            self.reactor.callWhenRunning(self._started, ready)
            # A daemon: else the interpreter would wait for this thread before it
            # calls what stops the reactor.
            self._thread = Thread(
                target=self._run, args=(ready,), name="aesm reactor", daemon=True
            )
            self._thread.start()
        self.wait(ready, START_TIMEOUT)
        atexit.register(self.exit)
        # A negative priority: after the process has joined its own children, which
        # may talk to a server of ours.
        Finalize(None, self.exit, exitpriority=-1)

    @property
    def isForked(self) -> bool:
        """Whether this is a forked child: thread and connections are its parent's."""
        return os.getpid() != self._process

    @property
    def isOver(self) -> bool:
        """Whether the reactor has stopped, and can never run again."""
        return self.state is ReactorState.STOPPED

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """
        Call a function in the reactor's thread, after all that were submitted
        before.

        @param function: it may return a Deferred.
        @return: its result; L{ConnectionClosed} if the reactor stops before.
            Cancelling it forgets the result and changes nothing else.
        @raise RuntimeError: this is a forked child.
        """
        self.checkProcess()
        future: Future[Any] = Result()
        self._pending.add(future)
        self._calls.append((future, function, arguments))
        if self.isOver:
            self._setResult(Failure(_stoppedError()), future)
        elif self._woken <= self._awake:
            # To wake the reactor costs a write to a pipe: once for all calls that are
            # submitted before it wakes.  A higher number than those that have arrived
            # is still on its way, and will find our call.  It is noted only after it
            # was handed over: a signal handler that comes between hands over another.
            number = next(self._wakeNumbers)
            self.reactor.callFromThread(self._makeCalls, number)
            self._woken = number
        return future

    def checkProcess(self) -> None:
        """Refuse to serve a forked child."""
        if self.isForked:
            raise RuntimeError(
                "this process was forked from one that uses aesm: start it with "
                "multiprocessing's 'spawn' method, or fork before the first use"
            )

    def wait(self, future: Future[_T], timeout: float | None) -> _T:
        """Wait for a result, so many seconds."""
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():
                raise  # it is the result
            raise TimeoutError(
                f"nothing came back within {timeout:g} seconds; is the reactor's "
                "thread busy with a handler?"
            ) from None

    def exit(self) -> None:
        """Close in order what is open, if that can be done soon: the program ends."""
        if self.isForked:
            return
        if not self.isOver:
            with suppress(TimeoutError, ConnectionClosed):
                if self._thread is not None:
                    self.submit(self._stop)
                    self._thread.join(EXIT_TIMEOUT)
                elif not isInIOThread():
                    self.wait(self.submit(self._closeAll), EXIT_TIMEOUT)
        standardLog.flush()

    # In the reactor's thread

    def register(self, closable: Closable) -> None:
        """Close something when the reactor or the program ends."""
        self._open[closable] = None

    def unregister(self, closable: Closable) -> None:
        """Forget what is closed, if it is not forgotten already."""
        self._open.pop(closable, None)

    def _run(self, ready: Future[None]) -> None:
        """Run the reactor: the thread's main function."""
        try:
            self.reactor.run(installSignalHandlers=False)
        except error.ReactorNotRestartable:
            self._goOn("refused")
            ready.set_exception(RuntimeError(_STOPPED))

    def _started(self, ready: Future[None]) -> None:
        """Go on, now that the reactor runs."""
        self._goOn("started")
        self.reactor.addSystemEventTrigger("before", "shutdown", self._closeAll)
        self.reactor.addSystemEventTrigger("after", "shutdown", self._stopped)
        ready.set_result(None)

    def _stop(self) -> None:
        """Stop the reactor, unless that has begun."""
        with suppress(error.ReactorNotRunning):
            self.reactor.stop()

    def _stopped(self) -> None:
        """Fail all that is pending, now that the reactor has stopped."""
        self._goOn("stopped")  # nothing becomes pending after this
        for future in list(self._pending):
            self._setResult(Failure(_stoppedError()), future)

    def _goOn(self, what: str) -> None:
        """Go where L{REACTOR_TRANSITIONS} says."""
        self.state = REACTOR_TRANSITIONS[self.state, what]

    def _closeAll(self) -> Deferred[Any]:
        """Close in order what is open, within C{EXIT_DEADLINE}."""
        return DeferredList([one.end(EXIT_DEADLINE) for one in list(self._open)])

    def _makeCalls(self, number: int) -> None:
        """Make the calls that were submitted up to a wake-up."""
        # First: a call that is submitted after this wakes the reactor again.
        self._awake = max(self._awake, number)
        for _ in range(len(self._calls)):  # what these submit has its own turn
            future, function, arguments = self._calls.popleft()
            result = maybeDeferred(function, *arguments)
            result.addBoth(self._setResult, future)

    def _setResult(self, result: object, future: Future[Any]) -> None:
        """Hand a result back, unless the reactor has stopped, and the future failed."""
        try:
            self._pending.remove(future)
        except KeyError:
            return
        self._complete(result, future)

    def _complete(self, result: object, future: Future[Any]) -> None:
        """Hand a result back as soon as nobody is looking at the future."""
        # A signal handler may have interrupted the main thread in future.done(), and
        # now wait for us.  concurrent.futures.wait() takes this lock as well.
        condition = future._condition
        if not self.isOver:
            if not condition.acquire(timeout=BUSY_TIMEOUT):
                self.reactor.callLater(BUSY_PAUSE, self._complete, result, future)
                return
            condition.release()
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(result, Failure):
            future.set_exception(builtinError(cast(BaseException, result.value)))
        else:
            future.set_result(result)


streamLock = RLock()  # guards all streams that threads take packets from
_reactorThread: ReactorThread | None = None  # the process's, guarded by the next
_reactorThreadLock = RLock()  # R: a signal handler gets an error, not a deadlock
_isStarting = False  # guarded by the lock, too


def theReactorThread() -> ReactorThread:
    """
    Get the process's one; the first call starts the reactor.

    @raise RuntimeError: the reactor has stopped, or this is its thread, or a signal
        handler that has interrupted the first call.
    """
    global _isStarting, _reactorThread
    forbidWaiting()
    with _reactorThreadLock:
        if _reactorThread is None:
            if _isStarting:
                raise RuntimeError(
                    "this signal handler has interrupted the start of the reactor, "
                    "for which it cannot wait"
                )
            _isStarting = True
            try:
                from twisted.internet import reactor

                starting = ReactorThread(reactor)
                standardLog.start()
                starting.start()
                _reactorThread = starting  # only now: else nobody would try again
            finally:
                _isStarting = False
    if _reactorThread.isOver:
        raise RuntimeError(_STOPPED)
    return _reactorThread


def forbidWaiting(instead: str = "aesm.listen and aesm.connect") -> None:
    """
    Refuse to wait in the thread that everybody waits for.

    @param instead: what to use there.
    @raise RuntimeError: this is the reactor's thread; or a signal handler that it may
        be waiting for.
    """
    if isInIOThread():
        raise RuntimeError(
            f"this is the reactor's thread, which must not wait: use {instead} here, "
            "or call from another thread"
        )
    if isInterrupting():
        raise RuntimeError(
            "this signal handler has interrupted who takes a packet, and must not "
            "wait: have it note the signal, and do the rest where that is looked for"
        )


def isInterrupting() -> bool:
    """Tell whether this is a signal handler that has interrupted who takes a packet."""
    return isHeldHere(streamLock)


def _stoppedError() -> ConnectionClosed:
    """Make the error for those who wait when the reactor stops."""
    return ConnectionClosed("the reactor was stopped; what waited for it is undone")


def builtinError(value: BaseException) -> BaseException:
    """
    Say what went wrong without Twisted's own exceptions, which programs that have
    never heard of Twisted cannot catch.

    @return: the builtin exception that fits, caused by C{value}; else C{value}.
    """
    builtin: OSError
    match value:
        case error.TimeoutError():
            builtin = TimeoutError(str(value))
        case error.CannotListenError():
            builtin = OSError(getattr(value.socketError, "errno", None), str(value))
        case error.ConnectError():
            builtin = OSError(value.osError, str(value))
        case _:
            return value
    builtin.__cause__ = value
    return builtin
