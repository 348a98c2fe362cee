"""
The hand-over between threads: calls go over in order, results come back once.
The reactor is one in memory, whose thread is the test's.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, TypeVar, cast

from twisted.internet import error
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.testing import MemoryReactorClock
from twisted.python import threadable
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm.blocking import reactorthread
from aesm.blocking.reactorthread import (
    REACTOR_TRANSITIONS,
    ReactorState,
    ReactorThread,
    Result,
    builtinError,
    forbidWaiting,
    streamLock,
    theReactorThread,
)
from aesm.errors import ConnectionClosed, HandshakeTimeout

_T = TypeVar("_T")


@implementer(IReactorFromThreads)
class Reactor(MemoryReactorClock):
    """
    A reactor in memory that other threads can reach.

    @ivar handedOver: how many calls came from threads.
    """

    def __init__(self) -> None:
        """Nobody has called yet."""
        super().__init__()
        self.handedOver = 0

    def callFromThread(
        self, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        """
        Call a function in the next turn.

        @see: L{IReactorFromThreads}
        """
        self.handedOver += 1
        self.callLater(0, callable, *args, **kwargs)

    def stop(self) -> None:
        """Stop, once."""
        if self.hasStopped:
            raise error.ReactorNotRunning()
        super().stop()


def elsewhere(function: Callable[[], _T]) -> _T:
    """Call a function in another thread."""
    result: Future[_T] = Future()

    def work() -> None:
        """Call it."""
        try:
            result.set_result(function())
        except BaseException as reason:
            result.set_exception(reason)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return result.result(0)


class ReactorThreadCase(SynchronousTestCase):
    """Has a reactor that runs, in the test's thread."""

    def setUp(self) -> None:
        """Find it running."""
        self.patch(threadable, "ioThread", threadable.getThreadID())
        self.patch(atexit, "register", self.atExit)
        self.exits: list[Callable[[], None]] = []
        self.reactor = Reactor()
        self.reactor.running = True
        self.thread = ReactorThread(self.reactor)
        self.patch(self.thread, "wait", lambda future, timeout: None)
        self.thread.start()
        self.reactor.advance(0)

    def atExit(self, function: Callable[[], None]) -> None:
        """Keep what is to be done at exit."""
        self.exits.append(function)

    def shutDown(self) -> None:
        """Stop the reactor."""
        for phase in "before", "after":
            for function in self.reactor.triggers[phase]["shutdown"]:
                function[0](*function[1], **function[2])


class FakeTests(SynchronousTestCase):
    """The reactor in memory is one."""

    def test_interface(self) -> None:
        """It provides what it says."""
        verifyObject(IReactorFromThreads, Reactor())


class SubmitTests(ReactorThreadCase):
    """L{ReactorThread.submit} and the way back."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Hand a call over from another thread."""
        return elsewhere(lambda: self.thread.submit(function, *arguments))

    def test_order(self) -> None:
        """
        Calls are made in their order and in the reactor's thread only, and one
        hand-over serves all that wait for the same turn.
        """
        calls: list[int] = []
        before = self.reactor.handedOver
        futures = [self.submit(calls.append, number) for number in range(3)]
        self.assertEqual(calls, [])
        self.reactor.advance(0)
        self.assertEqual(calls, [0, 1, 2])
        self.assertEqual([future.result(0) for future in futures], [None] * 3)
        self.assertEqual(self.reactor.handedOver, before + 1)
        self.submit(calls.append, 3)
        self.reactor.advance(0)
        self.assertEqual(calls, [0, 1, 2, 3])

    def test_deferred(self) -> None:
        """The result of a Deferred comes when it fires."""
        deferred: Deferred[str] = Deferred()
        future = self.submit(lambda: deferred)
        self.reactor.advance(0)
        self.assertFalse(future.done())
        deferred.callback("result")
        self.assertEqual(future.result(0), "result")

    def test_error(self) -> None:
        """An error is handed back as it is."""
        reason = LookupError("none")
        future = self.submit(lambda: [][0])
        other = self.submit(lambda: (_ for _ in ()).throw(reason))
        self.reactor.advance(0)
        self.assertIsInstance(future.exception(0), IndexError)
        self.assertIs(other.exception(0), reason)

    def test_plainErrors(self) -> None:
        """Errors of Twisted's become the builtin ones, with the former as cause."""
        busy = OSError(errno.EADDRINUSE, "busy")
        for reason, kind in (
            (error.ConnectionRefusedError(errno.ECONNREFUSED), ConnectionRefusedError),
            (error.TimeoutError(), TimeoutError),
            (error.NoRouteError(errno.EHOSTUNREACH), OSError),
            (error.CannotListenError("127.0.0.1", 1, busy), OSError),
        ):

            def fail(reason: Exception = reason) -> None:
                """Fail."""
                raise reason

            future = self.submit(fail)
            self.reactor.advance(0)
            plain = future.exception(0)
            assert plain is not None
            self.assertIs(type(plain), kind)
            self.assertIs(plain.__cause__, reason)
        assert isinstance(plain, OSError)
        self.assertEqual(plain.errno, errno.EADDRINUSE)

    def test_ourErrors(self) -> None:
        """Ours stay as they are; a handshake that takes too long is a time-out."""
        reason = HandshakeTimeout("silent")
        self.assertIs(builtinError(reason), reason)
        self.assertIsInstance(reason, TimeoutError)
        self.assertEqual(str(reason), "silent")

    def test_cancelled(self) -> None:
        """A result that nobody wants any more is forgotten."""
        deferred: Deferred[None] = Deferred()
        future = self.submit(lambda: deferred)
        self.reactor.advance(0)
        self.assertTrue(future.cancel())
        deferred.callback(None)
        self.assertRaises(CancelledError, future.result, 0)

    def test_stopped(self) -> None:
        """
        When the reactor has stopped, all who wait fail, and who asks later; what
        comes after that is ignored.
        """
        deferred: Deferred[None] = Deferred()
        futures = [self.submit(lambda: deferred)]
        self.reactor.advance(0)
        self.shutDown()
        futures += [self.submit(lambda: None)]
        deferred.callback(None)
        for future in futures:
            self.assertIsInstance(future.exception(0), ConnectionClosed)
        self.assertTrue(self.thread.isOver)

    def test_forked(self) -> None:
        """A forked child is told so."""
        self.thread._process += 1
        self.assertRaises(RuntimeError, self.thread.submit, lambda: None)
        self.thread.exit()


class ResultTests(SynchronousTestCase):
    """L{Result}."""

    def test_awaited(self) -> None:
        """Wherever it is awaited, an error says what to do instead."""

        async def wait() -> None:
            """Await one."""
            await Result()

        told = [
            self.failureResultOf(ensureDeferred(wait()), TypeError).value,
            self.assertRaises(TypeError, asyncio.run, wait()),
        ]
        for words in "asyncio.wrap_future", "future.result()", "aesm.connect":
            self.assertIn(words, str(told[0]))
            self.assertIn(words, str(told[1]))

    def test_wrapped(self) -> None:
        """As the error says, asyncio can await it."""

        async def wait() -> str:
            """Await one that another thread completes."""
            result: Result[str] = Result()
            threading.Thread(target=result.set_result, args=["here"]).start()
            return await asyncio.wrap_future(result)

        self.assertEqual(asyncio.run(wait()), "here")


class StateTests(SynchronousTestCase):
    """The life of a reactor goes by its table, and by nothing else."""

    def setUp(self) -> None:
        """Register nothing for the end of this program."""
        self.patch(atexit, "register", lambda function: None)

    def make(self, state: ReactorState) -> ReactorThread:
        """
        Make one that waits for nothing.

        @param state: where it is in its life.
        """
        thread = ReactorThread(Reactor())
        self.patch(thread, "wait", lambda future, timeout: None)
        thread.state = state
        return thread

    def refuse(self, **kwargs: object) -> None:
        """Be a reactor that has stopped."""
        raise error.ReactorNotRestartable()

    def test_table(self) -> None:
        """
        In each state, what can happen leads to the next, and anything else raises
        and changes nothing.
        """
        for state in ReactorState:
            for what in "start", "started", "refused", "stopped":
                thread = self.make(state)
                running = cast(Any, thread.reactor)
                running.running = True
                ready: Future[None] = Future()
                if what == "refused":
                    self.patch(running, "run", self.refuse)
                inputs: dict[str, Callable[[], None]] = {
                    "start": thread.start,
                    "started": partial(thread._started, ready),
                    "refused": partial(thread._run, ready),
                    "stopped": thread._stopped,
                }
                following = REACTOR_TRANSITIONS.get((state, what))
                if following is None:
                    self.assertRaises(KeyError, inputs[what])
                    self.assertFalse(ready.done())
                else:
                    inputs[what]()
                self.assertIs(thread.state, following or state)

    def test_noWayBack(self) -> None:
        """Once it has stopped, nothing leads anywhere."""
        self.assertNotIn(
            ReactorState.STOPPED, [state for state, _ in REACTOR_TRANSITIONS]
        )

    def test_refused(self) -> None:
        """A reactor that cannot run again is over, and whoever starts it is told."""
        thread = self.make(ReactorState.STARTING)
        self.patch(thread.reactor, "run", self.refuse)
        ready: Future[None] = Future()
        thread._run(ready)
        self.assertTrue(thread.isOver)
        self.assertIsInstance(ready.exception(0), RuntimeError)

    def test_neverStarts(self) -> None:
        """Whoever starts a reactor that does not get so far waits for a minute."""
        self.assertEqual(reactorthread.START_TIMEOUT, 60)
        self.patch(reactorthread, "START_TIMEOUT", 0.0)
        busy = Reactor()
        busy.running = True
        self.assertRaises(TimeoutError, ReactorThread(busy).start)


class WaitTests(SynchronousTestCase):
    """L{ReactorThread.wait}."""

    def test_result(self) -> None:
        """It returns the result."""
        future: Future[str] = Future()
        future.set_result("result")
        self.assertEqual(ReactorThread(Reactor()).wait(future, 0), "result")

    def test_late(self) -> None:
        """It does not wait longer than it is told."""
        future: Future[str] = Future()
        reason = self.assertRaises(
            TimeoutError, ReactorThread(Reactor()).wait, future, 0.0
        )
        self.assertIn("0 seconds", str(reason))

    def test_failedByTime(self) -> None:
        """A failure that is a timeout itself is not mistaken for one of the waiting."""
        future: Future[str] = Future()
        future.set_exception(TimeoutError("the peer"))
        reason = self.assertRaises(
            TimeoutError, ReactorThread(Reactor()).wait, future, 0.0
        )
        self.assertEqual(str(reason), "the peer")


class EndTests(ReactorThreadCase):
    """What is open is closed at the end."""

    def setUp(self) -> None:
        """Open one thing."""
        super().setUp()
        self.ended: list[float] = []
        self.thread.register(self)

    def end(self, deadline: float) -> Deferred[None]:
        """
        Be closed.

        @param deadline: when at the latest.
        """
        self.ended.append(deadline)
        self.thread.unregister(self)
        return succeed(None)

    def test_reactorStops(self) -> None:
        """It is closed before the reactor stops, once."""
        self.shutDown()
        self.assertEqual(self.ended, [reactorthread.EXIT_DEADLINE])
        self.thread.exit()
        self.assertEqual(len(self.ended), 1)

    def test_programEnds(self) -> None:
        """It is closed when the program ends, whoever runs the reactor."""
        (exit,) = self.exits
        elsewhere(exit)
        self.reactor.advance(0)
        self.assertEqual(self.ended, [reactorthread.EXIT_DEADLINE])

    def test_programEndsAnyway(self) -> None:
        """A program whose reactor is busy ends without having closed anything."""
        self.assertEqual(
            (reactorthread.EXIT_DEADLINE, reactorthread.EXIT_TIMEOUT), (2, 5)
        )
        self.patch(reactorthread, "EXIT_TIMEOUT", 0.0)
        self.patch(self.thread, "wait", partial(ReactorThread.wait, self.thread))
        (exit,) = self.exits
        elsewhere(exit)
        self.assertEqual(self.ended, [])

    def test_inside(self) -> None:
        """At the end, too, the reactor's thread does not wait."""
        self.thread.exit()
        self.reactor.advance(0)
        self.assertEqual(self.ended, [])

    def test_stopTwice(self) -> None:
        """A reactor that is stopping already is left alone."""
        self.thread._stop()
        self.thread._stop()
        self.assertTrue(self.reactor.hasStopped)


class TheReactorThreadTests(SynchronousTestCase):
    """L{theReactorThread}."""

    def setUp(self) -> None:
        """This is not the reactor's thread."""
        self.patch(threadable, "ioThread", None)
        running = ReactorThread(Reactor())
        running.state = ReactorState.RUNNING
        self.patch(reactorthread, "_reactorThread", running)

    def test_one(self) -> None:
        """There is one for the process."""
        self.assertIs(theReactorThread(), reactorthread._reactorThread)

    def test_over(self) -> None:
        """There is none once the reactor has stopped."""
        theReactorThread()._stopped()
        self.assertRaises(RuntimeError, theReactorThread)

    def test_inside(self) -> None:
        """The reactor's thread does not get it, since it must not wait."""
        self.patch(threadable, "ioThread", threadable.getThreadID())
        self.assertRaises(RuntimeError, theReactorThread)
        self.assertRaises(RuntimeError, forbidWaiting)

    def test_signalHandler(self) -> None:
        """Nor may a signal handler wait that has interrupted who takes a packet."""
        with streamLock:
            self.assertRaises(RuntimeError, theReactorThread)
            self.assertRaises(RuntimeError, forbidWaiting)
        forbidWaiting()
