"""
The reactor, seen from other threads::

    bridge = theBridge()                        # the reactor runs from now on
    future = bridge.run(server.sendAll, "hi")   # called in the reactor's thread
    bridge.wait(future, timeout=5)

Calls go over to the reactor's thread in their order, results come back as
C{concurrent.futures.Future}s, and each of them is done once, also when the
reactor stops first.  When the reactor or the program ends, what is open is closed
in order, as far as that can be done soon.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from twisted.internet import error
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.python.failure import Failure
from twisted.python.threadable import isInIOThread

from aesm.errors import ConnectionClosed, HandshakeTimeout

if TYPE_CHECKING:
    from aesm.messages.address import Address
    from aesm.messages.connection import Connection

__all__ = ["Bridge", "Closable", "Reporter", "forbidWaiting", "theBridge"]

START_TIMEOUT = 60.0  # seconds until the reactor runs
EXIT_DEADLINE = 2.0  # seconds for closing in order when the program ends
EXIT_TIMEOUT = 5.0  # seconds after which the program ends anyway

_STOPPED = "the reactor was stopped, and Twisted cannot run it again in this process"

_T = TypeVar("_T")


class Closable(Protocol):
    """
    What is to be closed when the reactor or the program ends.
    """

    def end(self, deadline: float) -> Deferred[None]:
        """
        Close in order; called in the reactor's thread.

        @param deadline: seconds after which to abort.
        @return: fires when all is closed.
        """


class Bridge:
    """
    The reactor, as seen from other threads.
    """

    def __init__(self, reactor: Any) -> None:
        """
        @param reactor: the installed one.
        """
        self.reactor = reactor
        self._process = os.getpid()
        self._thread: Thread | None = None  # that we run the reactor in
        self._open: dict[Closable, None] = {}  # in the reactor's thread only
        self._lock = Lock()  # guards the rest
        self._calls: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self._waiting: set[Future[Any]] = set()
        self._over = False

    def start(self) -> None:
        """
        See to it that the reactor runs; called once.

        @raise RuntimeError: it has run already and was stopped.
        @raise TimeoutError: it does not start.
        """
        ready: Future[None] = Future()
        if self.reactor.running:
            self.reactor.callFromThread(self._started, ready)
        else:
            self.reactor.callWhenRunning(self._started, ready)
            self._thread = Thread(
                target=self._run, args=(ready,), name="aesm reactor", daemon=True
            )
            self._thread.start()
        self.wait(ready, START_TIMEOUT)
        atexit.register(self.exit)

    @property
    def isForeign(self) -> bool:
        """
        Whether this is a child that was forked after the start: the thread and
        the connections are its parent's.
        """
        return os.getpid() != self._process

    @property
    def isOver(self) -> bool:
        """
        Whether the reactor has stopped, and can never run again.
        """
        return self._over

    def run(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """
        Call a function in the reactor's thread, after all that were handed over
        before.

        @param function: what to call; it may return a Deferred.
        @param arguments: what to call it with.
        @return: its result; L{ConnectionClosed} if the reactor stops before.
            Cancelling it forgets the result and changes nothing else.
        @raise RuntimeError: this is a forked child.
        """
        if self.isForeign:
            raise RuntimeError(
                "this process was forked from one that uses aesm: start it with "
                "multiprocessing's 'spawn' method, or fork before the first use"
            )
        future: Future[Any] = Future()
        with self._lock:
            if self._over:
                future.set_exception(_stopped())
                return future
            self._waiting.add(future)
            self._calls.append((future, function, arguments))
            first = len(self._calls) == 1
        if first:
            self.reactor.callFromThread(self._work)
        return future

    def wait(self, future: Future[_T], timeout: float | None) -> _T:
        """
        Wait for a result.

        @param future: of what.
        @param timeout: seconds; None to wait for ever.
        @return: the result.
        @raise TimeoutError: there is none in time.
        """
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():
                raise
            raise TimeoutError(
                f"nothing came back within {timeout:g} seconds; is the reactor's "
                "thread busy with a handler?"
            ) from None

    def exit(self) -> None:
        """
        The program ends: close in order what is open, if that can be done soon.
        """
        if self.isForeign or self._over:
            return
        with suppress(TimeoutError, ConnectionClosed):
            if self._thread is None:
                if not isInIOThread():
                    self.wait(self.run(self._closeAll), EXIT_TIMEOUT)
            else:
                self.run(self._stop)
                self._thread.join(EXIT_TIMEOUT)

    # In the reactor's thread

    def enter(self, closable: Closable) -> None:
        """
        Close something when the reactor or the program ends.

        @param closable: what is open now.
        """
        self._open[closable] = None

    def leave(self, closable: Closable) -> None:
        """
        Take note that something is closed.

        @param closable: what was open.
        """
        self._open.pop(closable, None)

    def _run(self, ready: Future[None]) -> None:
        """
        Run the reactor: the thread's main function.

        @param ready: fires once it runs.
        """
        try:
            self.reactor.run(installSignalHandlers=False)
        except error.ReactorNotRestartable:
            ready.set_exception(RuntimeError(_STOPPED))

    def _started(self, ready: Future[None]) -> None:
        """
        The reactor runs.

        @param ready: to fire.
        """
        self.reactor.addSystemEventTrigger("before", "shutdown", self._closeAll)
        self.reactor.addSystemEventTrigger("after", "shutdown", self._stopped)
        ready.set_result(None)

    def _stop(self) -> None:
        """
        Stop the reactor, unless that has begun.
        """
        with suppress(error.ReactorNotRunning):
            self.reactor.stop()

    def _stopped(self) -> None:
        """
        The reactor has stopped: fail all who wait.
        """
        with self._lock:
            self._over = True
            waiting = list(self._waiting)
        for future in waiting:
            self._settle(Failure(_stopped()), future)

    def _closeAll(self) -> Deferred[Any]:
        """
        Close in order what is open, within C{EXIT_DEADLINE}.

        @return: fires when all is closed.
        """
        return DeferredList([one.end(EXIT_DEADLINE) for one in list(self._open)])

    def _work(self) -> None:
        """
        Make the calls that were handed over.
        """
        with self._lock:
            calls, self._calls = self._calls, []
        for future, function, arguments in calls:
            result = maybeDeferred(function, *arguments)
            result.addBoth(self._settle, future)

    def _settle(self, result: object, future: Future[Any]) -> None:
        """
        Hand a result back, once.

        @param result: what a call led to.
        @param future: for whom.
        """
        with self._lock:
            if future not in self._waiting:
                return
            self._waiting.remove(future)
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(result, Failure):
            future.set_exception(_plainError(cast(BaseException, result.value)))
        else:
            future.set_result(result)


_bridge: Bridge | None = None  # the process's, guarded by the next
_bridgeLock = Lock()


def theBridge() -> Bridge:
    """
    Get the process's bridge; the first call starts the reactor.

    @return: the bridge.
    @raise RuntimeError: the reactor has stopped, or this is its thread.
    """
    global _bridge
    forbidWaiting()
    with _bridgeLock:
        if _bridge is None:
            from twisted.internet import reactor

            bridge = Bridge(reactor)
            bridge.start()
            _bridge = bridge
    if _bridge.isOver:
        raise RuntimeError(_STOPPED)
    return _bridge


def forbidWaiting() -> None:
    """
    Refuse to wait in the thread that everybody waits for.

    @raise RuntimeError: this is the reactor's thread.
    """
    if isInIOThread():
        raise RuntimeError(
            "this is the reactor's thread, which must not wait: use aesm.listen and "
            "aesm.connect here, or call from another thread"
        )


def _stopped() -> ConnectionClosed:
    """
    Make the error of who waited when the reactor stopped.
    """
    return ConnectionClosed("the reactor was stopped; what waited for it is undone")


def _plainError(value: BaseException) -> BaseException:
    """
    Say what went wrong without Twisted's own exceptions.

    @param value: any exception.
    @return: the builtin one that fits, caused by C{value}; else C{value}.
    """
    plain: OSError
    match value:
        case HandshakeTimeout() | error.TimeoutError():
            plain = TimeoutError(str(value))
        case error.CannotListenError():
            plain = OSError(getattr(value.socketError, "errno", None), str(value))
        case error.ConnectError():
            plain = OSError(value.osError, str(value))
        case _:
            return value
    plain.__cause__ = value
    return plain


class Reporter:
    """
    Passes on what a stream reports, from any thread to the reactor's.
    """

    def __init__(self, reactor: Any, connection: Connection) -> None:
        """
        @param reactor: the reactor.
        @param connection: whom to tell.
        """
        self._reactor = reactor
        self._connection = connection

    @property
    def address(self) -> Address:
        """
        The connection's, which is another one once its client is back.
        """
        return self._connection.address

    def packetsTaken(self, cost: int) -> None:
        """
        The application has taken packets.

        @param cost: what they cost for flow control.
        """
        self._tell(self._connection.packetsTaken, cost)

    def streamFinished(self) -> None:
        """
        The stream has ended and its last packet was taken.
        """
        self._tell(self._connection.streamFinished)

    def _tell(self, function: Callable[..., None], *arguments: int) -> None:
        """
        Call a function in the reactor's thread, at once if this is it.

        @param function: what to call.
        @param arguments: what to call it with.
        """
        if isInIOThread():
            function(*arguments)
        else:
            self._reactor.callFromThread(function, *arguments)
