"""
Running a server in the foreground, on a reactor in memory.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.testing import MemoryReactorClock

from aesm.commands.daemon import AESMService, CannotListen
from aesm.commands.serve import runServer
from aesm.errors import SpoolError
from aesm.server.factory import AESMServerFactory
from tests.commands.test_daemon import FailingEndpoint, LateEndpoint
from tests.commands.test_tap import TapTestCase


class RunningReactor(MemoryReactorClock):
    """
    A reactor that runs until the test is done with it, and then stops in order.

    @ivar whileRunning: what happens meanwhile.
    @ivar didRun: whether it has been told to run.
    """

    didRun = False
    whileRunning: Callable[[], object] = staticmethod(lambda: None)

    def run(self) -> None:
        """Run, and stop."""
        self.didRun = True
        self.hasStopped = False  # former versions begin stopped
        super().run()
        self.whileRunning()
        for work, arguments, named in self.triggers["before"]["shutdown"]:
            work(*arguments, **named)


class FullFactory(AESMServerFactory):
    """A factory whose spool could not be written to the end."""

    def stop(self, *arguments: Any, **named: Any) -> Deferred[None]:
        """
        Say so.

        @see: L{AESMServerFactory.stop}
        """
        return fail(SpoolError("the disk is full"))


class RunTests(TapTestCase):
    """Its life, and its exit status."""

    def setUp(self) -> None:
        """Leave the handlers of signals as they were."""
        super().setUp()
        for number in (signal.SIGINT, signal.SIGTERM):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.reactor = RunningReactor()

    def service(
        self,
        endpoint: IStreamServerEndpoint | None = None,
        kind: type[AESMServerFactory] = AESMServerFactory,
    ) -> AESMService:
        """
        Make a service.

        @param endpoint: where it listens; None for a port of TCP.
        @param kind: the class of its factory.
        """
        tcp = TCP4ServerEndpoint(self.reactor, 8765, interface="127.0.0.1")
        factory = kind(reactor=self.reactor)
        return AESMService(self.reactor, factory, {"it": endpoint or tcp})

    def test_inOrder(self) -> None:
        """It listens while the reactor runs, and not behind that; the status is 0."""
        service = self.service()
        running: list[Any] = []
        self.reactor.whileRunning = lambda: running.append(service.server.running)
        self.assertEqual(runServer(self.reactor, service), 0)
        self.assertEqual(running, [True])
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.assertFalse(service.server.running)

    def test_signals(self) -> None:
        """
        While it stops another SIGTERM does nothing, and Ctrl-C ends it; not before.
        """
        handlers: list[Any] = []

        def look() -> None:
            """Take down the handlers."""
            handlers.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))

        before = [*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))]
        self.reactor.whileRunning = look
        runServer(self.reactor, self.service())
        look()
        self.assertEqual(handlers, [*before, signal.SIG_DFL, signal.SIG_IGN])

    def test_cannotListen(self) -> None:
        """Where it cannot listen the reactor does not run, and the status is 1."""
        ended = self.assertRaises(
            CannotListen, runServer, self.reactor, self.service(FailingEndpoint())
        )
        self.assertEqual(ended.code, 1)
        self.assertFalse(self.reactor.didRun)

    def test_cannotListenLater(self) -> None:
        """Where that turns out later, the reactor is stopped, and the status is 1."""
        late = LateEndpoint()
        self.reactor.whileRunning = lambda: late.listening.errback(OSError("no"))
        self.assertEqual(runServer(self.reactor, self.service(late)), 1)
        self.assertTrue(self.reactor.hasStopped)

    def test_spool(self) -> None:
        """A spool that could not be written to the end is status 1, too."""
        service = self.service(kind=FullFactory)
        self.assertEqual(runServer(self.reactor, service), 1)
