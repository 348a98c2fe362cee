"""
The hand-over between threads: calls go over in order, results come back once.
The reactor is one in memory, whose thread is the test's.
"""

from __future__ import annotations

import atexit
import errno
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar, cast

from twisted.internet import error
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.testing import MemoryReactorClock
from twisted.python import threadable
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm.blocking import reactorthread as bridgeModule
from aesm.blocking.reactorthread import Bridge, Reporter, forbidWaiting, theBridge
from aesm.errors import ConnectionClosed, HandshakeTimeout
from aesm.messages.stream import DataStream
from tests.support.helpers import bring

_T = TypeVar("_T")


@implementer(IReactorFromThreads)
class Reactor(MemoryReactorClock):
    """
    A reactor in memory that other threads can reach.

    @ivar handedOver: how many calls came from threads.
    """

    def __init__(self) -> None:
        """
        Nobody has called yet.
        """
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
        """
        Stop, once.
        """
        if self.hasStopped:
            raise error.ReactorNotRunning()
        super().stop()


class Owner:
    """
    Takes note of what a stream reports.
    """

    address = ("127.0.0.1", 1)

    def __init__(self) -> None:
        """
        Nothing is reported yet.
        """
        self.reports: list[object] = []

    def packetsTaken(self, cost: int) -> None:
        """
        Take note.

        @param cost: of the packets.
        """
        self.reports.append(cost)

    def streamFinished(self) -> None:
        """
        Take note.
        """
        self.reports.append("finished")


def elsewhere(function: Callable[[], _T]) -> _T:
    """
    Call a function in another thread.

    @param function: what to call.
    @return: its result.
    """
    result: Future[_T] = Future()

    def work() -> None:
        """
        Call it.
        """
        try:
            result.set_result(function())
        except BaseException as reason:
            result.set_exception(reason)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return result.result(0)


class BridgeCase(SynchronousTestCase):
    """
    Has a bridge to a reactor that runs.
    """

    def setUp(self) -> None:
        """
        Start the bridge; the test's thread is the reactor's.
        """
        self.patch(threadable, "ioThread", threadable.getThreadID())
        self.patch(atexit, "register", self.atExit)
        self.exits: list[Callable[[], None]] = []
        self.reactor = Reactor()
        self.reactor.running = True
        self.bridge = Bridge(self.reactor)
        self.patch(self.bridge, "wait", lambda future, timeout: None)
        self.bridge.start()
        self.reactor.advance(0)

    def atExit(self, function: Callable[[], None]) -> None:
        """
        Keep what is to be done at exit.

        @param function: what.
        """
        self.exits.append(function)

    def shutDown(self) -> None:
        """
        Stop the reactor.
        """
        for phase in "before", "after":
            for function in self.reactor.triggers[phase]["shutdown"]:
                function[0](*function[1], **function[2])


class FakeTests(SynchronousTestCase):
    """
    The reactor in memory is one.
    """

    def test_interface(self) -> None:
        """
        It provides what it says.
        """
        verifyObject(IReactorFromThreads, Reactor())


class RunTests(BridgeCase):
    """
    L{Bridge.run} and the way back.
    """

    def run_(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """
        Hand a call over from another thread.

        @param function: what to call.
        @param arguments: what to call it with.
        """
        return elsewhere(lambda: self.bridge.run(function, *arguments))

    def test_order(self) -> None:
        """
        Calls are made in their order and in the reactor's thread only, and one
        hand-over serves all that wait for the same turn.
        """
        calls: list[int] = []
        before = self.reactor.handedOver
        futures = [self.run_(calls.append, number) for number in range(3)]
        self.assertEqual(calls, [])
        self.reactor.advance(0)
        self.assertEqual(calls, [0, 1, 2])
        self.assertEqual([future.result(0) for future in futures], [None] * 3)
        self.assertEqual(self.reactor.handedOver, before + 1)
        self.run_(calls.append, 3)
        self.reactor.advance(0)
        self.assertEqual(calls, [0, 1, 2, 3])

    def test_deferred(self) -> None:
        """
        The result of a Deferred comes when it fires.
        """
        deferred: Deferred[str] = Deferred()
        future = self.run_(lambda: deferred)
        self.reactor.advance(0)
        self.assertFalse(future.done())
        deferred.callback("result")
        self.assertEqual(future.result(0), "result")

    def test_error(self) -> None:
        """
        An error is handed back as it is.
        """
        reason = LookupError("none")
        future = self.run_(lambda: [][0])
        other = self.run_(lambda: (_ for _ in ()).throw(reason))
        self.reactor.advance(0)
        self.assertIsInstance(future.exception(0), IndexError)
        self.assertIs(other.exception(0), reason)

    def test_plainErrors(self) -> None:
        """
        Errors of Twisted's become the builtin ones, with the former as cause.
        """
        busy = OSError(errno.EADDRINUSE, "busy")
        for reason, kind in (
            (error.ConnectionRefusedError(errno.ECONNREFUSED), ConnectionRefusedError),
            (error.TimeoutError(), TimeoutError),
            (HandshakeTimeout("silent"), TimeoutError),
            (error.NoRouteError(errno.EHOSTUNREACH), OSError),
            (error.CannotListenError("127.0.0.1", 1, busy), OSError),
        ):

            def fail(reason: Exception = reason) -> None:
                """
                Fail.
                """
                raise reason

            future = self.run_(fail)
            self.reactor.advance(0)
            plain = future.exception(0)
            assert plain is not None
            self.assertIs(type(plain), kind)
            self.assertIs(plain.__cause__, reason)
        assert isinstance(plain, OSError)
        self.assertEqual(plain.errno, errno.EADDRINUSE)

    def test_cancelled(self) -> None:
        """
        A result that nobody wants any more is forgotten.
        """
        deferred: Deferred[None] = Deferred()
        future = self.run_(lambda: deferred)
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
        futures = [self.run_(lambda: deferred)]
        self.reactor.advance(0)
        self.shutDown()
        futures += [self.run_(lambda: None)]
        deferred.callback(None)
        for future in futures:
            self.assertIsInstance(future.exception(0), ConnectionClosed)
        self.assertTrue(self.bridge.isOver)

    def test_foreign(self) -> None:
        """
        A forked child is told so.
        """
        self.bridge._process += 1
        self.assertRaises(RuntimeError, self.bridge.run, lambda: None)
        self.bridge.exit()


class WaitTests(SynchronousTestCase):
    """
    L{Bridge.wait}.
    """

    def test_result(self) -> None:
        """
        It returns the result.
        """
        future: Future[str] = Future()
        future.set_result("result")
        self.assertEqual(Bridge(Reactor()).wait(future, 0), "result")

    def test_late(self) -> None:
        """
        It does not wait longer than it is told.
        """
        future: Future[str] = Future()
        reason = self.assertRaises(TimeoutError, Bridge(Reactor()).wait, future, 0.0)
        self.assertIn("0 seconds", str(reason))

    def test_failedByTime(self) -> None:
        """
        A failure that is a timeout itself is not mistaken for one of the waiting.
        """
        future: Future[str] = Future()
        future.set_exception(TimeoutError("the peer"))
        reason = self.assertRaises(TimeoutError, Bridge(Reactor()).wait, future, 0.0)
        self.assertEqual(str(reason), "the peer")


class EndTests(BridgeCase):
    """
    What is open is closed at the end.
    """

    def setUp(self) -> None:
        """
        Open one thing.
        """
        super().setUp()
        self.ended: list[float] = []
        self.bridge.enter(self)

    def end(self, deadline: float) -> Deferred[None]:
        """
        Be closed.

        @param deadline: when at the latest.
        """
        self.ended.append(deadline)
        self.bridge.leave(self)
        return succeed(None)

    def test_reactorStops(self) -> None:
        """
        It is closed before the reactor stops, once.
        """
        self.shutDown()
        self.assertEqual(self.ended, [bridgeModule.EXIT_DEADLINE])
        self.bridge.exit()
        self.assertEqual(len(self.ended), 1)

    def test_programEnds(self) -> None:
        """
        It is closed when the program ends, whoever runs the reactor.
        """
        (exit,) = self.exits
        elsewhere(exit)
        self.reactor.advance(0)
        self.assertEqual(self.ended, [bridgeModule.EXIT_DEADLINE])

    def test_inside(self) -> None:
        """
        At the end, too, the reactor's thread does not wait.
        """
        self.bridge.exit()
        self.reactor.advance(0)
        self.assertEqual(self.ended, [])

    def test_stopTwice(self) -> None:
        """
        A reactor that is stopping already is left alone.
        """
        self.bridge._stop()
        self.bridge._stop()
        self.assertTrue(self.reactor.hasStopped)


class ReporterTests(BridgeCase):
    """
    L{Reporter}.
    """

    def setUp(self) -> None:
        """
        Make a stream with packets whose owner is told by a reporter.
        """
        super().setUp()
        self.owner = Owner()
        self.reporter = Reporter(self.reactor, cast(Any, self.owner))
        self.stream = DataStream(self.reporter, 1)
        bring(self.stream, 0.0, ["one", "two"])

    def test_address(self) -> None:
        """
        It has the connection's address.
        """
        self.assertEqual(self.reporter.address, self.owner.address)

    def test_elsewhere(self) -> None:
        """
        What is taken in another thread is reported in the reactor's.
        """
        elsewhere(self.stream.getData)
        self.stream.end(ConnectionClosed("over"))
        elsewhere(self.stream.getData)
        self.assertEqual(self.owner.reports, [])
        self.reactor.advance(0)
        self.assertEqual(self.owner.reports, [67, "finished"])

    def test_here(self) -> None:
        """
        In the reactor's thread, it is reported at once.
        """
        self.stream.getData()
        self.assertEqual(self.owner.reports, [67])


class TheBridgeTests(SynchronousTestCase):
    """
    L{theBridge}.
    """

    def setUp(self) -> None:
        """
        This is not the reactor's thread.
        """
        self.patch(threadable, "ioThread", None)
        self.patch(bridgeModule, "_bridge", Bridge(Reactor()))

    def test_one(self) -> None:
        """
        There is one for the process.
        """
        self.assertIs(theBridge(), bridgeModule._bridge)

    def test_over(self) -> None:
        """
        There is none once the reactor has stopped.
        """
        theBridge()._stopped()
        self.assertRaises(RuntimeError, theBridge)

    def test_inside(self) -> None:
        """
        The reactor's thread does not get it, since it must not wait.
        """
        self.patch(threadable, "ioThread", threadable.getThreadID())
        self.assertRaises(RuntimeError, theBridge)
        self.assertRaises(RuntimeError, forbidWaiting)
