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
from aesm.commands.serve import ServeOptions, runServer
from aesm.commands.tap import Options as TwistdOptions
from aesm.errors import SpoolError
from aesm.server.factory import AESMServerFactory
from tests.commands.test_cli import CommandTestCase
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

    def iterate(self, delay: float = 0) -> None:
        """Do what is due."""
        self.advance(delay)

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


class ServeOptionsTests(CommandTestCase):
    """The options of C{aesm serve}."""

    def assertStatus(self, expected: int, *arguments: str) -> str:
        """
        Run a server that does not start, and says why in one sentence.

        @param expected: its exit status.
        @param arguments: what follows C{aesm serve}.
        @return: the sentence.
        """
        status, output, errors = self.execute("serve", *arguments)
        self.assertEqual((status, output), (expected, ""))
        self.assertRegex(errors, r"\Aaesm: [^\n]+\n\Z")
        return errors

    def test_shared(self) -> None:
        """It has the options of C{twistd aesm}, and those of the log beside them."""
        ours, theirs = set(ServeOptions().longOpt), set(TwistdOptions().longOpt)
        more = {"log-level=", "log-format=", "reactor=", "help-reactors"}
        self.assertEqual(ours - theirs, more)
        self.assertEqual(theirs - ours, set())

    def test_wrong(self) -> None:
        """Options that are wrong are status 2: another start would not help."""
        for arguments in (
            ["--nosuch"],
            ["argument"],
            ["--max-message", "many"],
            ["--heartbeat", "-1"],
            ["--listen", "nosuch:1"],
            ["--listen", "tcp:99999"],
            ["--log-level", "critical"],
            ["--log-format", "xml"],
            ["--reactor", "nosuch"],
        ):
            errors = self.assertStatus(2, *arguments)
            self.assertIn("`aesm serve --help`", errors)
            self.assertIn(arguments[0].lstrip("-")[:7], errors)
            self.assertNotIn("\\n", errors)

    def test_notUsable(self) -> None:
        """Files and sockets that cannot be used as things are, are status 1."""
        missing = str(self.home / "missing" / "file")
        for option in ("--key", "--psk", "--authorized-keys", "--activity-log"):
            self.assertIn("missing", self.assertStatus(1, option, missing))
        self.assertIn("--spool: ", self.assertStatus(1, "--spool", str(self.home)))
        systemd = "systemd:domain=INET:index=99"
        self.assertIn("LISTEN_FDS", self.assertStatus(1, "--listen", systemd))
