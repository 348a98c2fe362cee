"""
What systemd is told, on a socket of the test's and a clock that stands still.
"""

from __future__ import annotations

import os
import socket
import time

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from aesm.commands import systemd
from aesm.commands.systemd import STATUS_INTERVAL, Notifier
from tests.support.notify import NotifySocket


class NotifierTestCase(SynchronousTestCase):
    """
    A socket, and an environment to name it in.

    @ivar status: how the server is doing.
    """

    status = "well"

    def setUp(self) -> None:
        """Make an environment without variables of systemd's."""
        self.clock = Clock()
        others = {k: v for k, v in os.environ.items() if "WATCHDOG" not in k}
        self.patch(os, "environ", {**others, "NOTIFY_SOCKET": ""})

    def listen(self, isAbstract: bool = False) -> NotifySocket:
        """Be who has set C{NOTIFY_SOCKET}."""
        notified = NotifySocket(self.addCleanup, isAbstract)
        os.environ["NOTIFY_SOCKET"] = notified.path
        return notified

    def notifier(self, **variables: str) -> Notifier:
        """
        Make a notifier.

        @param variables: more of the environment.
        """
        os.environ.update(variables)
        notifier = Notifier(self.clock, lambda: self.status)
        self.addCleanup(notifier.stopped)
        return notifier


class NotifierTests(NotifierTestCase):
    """What is said, and when."""

    def test_life(self) -> None:
        """
        From being ready to the end each step is said once, in a datagram of its own,
        and nothing before and behind these.
        """
        for isAbstract in (False, True):
            notified, notifier = self.listen(isAbstract), self.notifier()
            notifier.reloading()
            notifier.stopping()
            self.assertEqual(notified.heard(), [])
            notifier.ready()
            notifier.ready()
            self.assertEqual(notified.heard(), ["READY=1", "STATUS=well"])
            notifier.stopping()
            notifier.stopped()
            notifier.reloaded()
            self.assertEqual(notified.heard(), ["STOPPING=1"])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_drain(self) -> None:
        """Where stopping takes its time, systemd is told to wait for it."""
        notified, notifier = self.listen(), self.notifier()
        notifier.ready()
        notifier.stopping(12.5)
        said = "STOPPING=1\nEXTEND_TIMEOUT_USEC=42500000"
        self.assertEqual(notified.heard()[-1], said)
        notifier.stopped()

    def test_again(self) -> None:
        """A server that is started again says so again."""
        notified, notifier = self.listen(), self.notifier()
        for _ in range(2):
            notifier.ready()
            notifier.stopped()
            self.assertIn("READY=1", notified.heard())

    def test_reload(self) -> None:
        """A reload says when it began, by the clock that systemd goes by."""
        notified, notifier = self.listen(), self.notifier()
        notifier.ready()
        notified.heard()
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloaded()
        reloading, ready = notified.heard()
        self.assertEqual(ready, "READY=1")
        first, second = reloading.split("\n")
        self.assertEqual(first, "RELOADING=1")
        name, _, when = second.partition("=")
        self.assertEqual(name, "MONOTONIC_USEC")
        self.assertTrue(before <= int(when) <= after)

    def test_status(self) -> None:
        """The status is said where it has changed, and not more often than is due."""
        notified, notifier = self.listen(), self.notifier()
        notifier.ready()
        notified.heard()
        self.clock.advance(STATUS_INTERVAL)
        self.assertEqual(notified.heard(), [])
        self.status = "better"
        self.clock.advance(STATUS_INTERVAL - 0.5)
        self.assertEqual(notified.heard(), [])
        self.clock.advance(0.5)
        self.assertEqual(notified.heard(), ["STATUS=better"])

    def test_environment(self) -> None:
        """No program that we start finds the variables."""
        self.listen()
        self.notifier(WATCHDOG_USEC="1", WATCHDOG_PID="1")
        left = {name for name in os.environ if "NOTIFY" in name or "WATCHDOG" in name}
        self.assertEqual(left, set())

    def test_nobody(self) -> None:
        """Where nobody wants to know nothing is done, and nothing scheduled."""
        notifier = self.notifier(WATCHDOG_USEC="1000000")
        with capturedLogs() as events:
            notifier.ready()
            notifier.reloading()
            notifier.stopping()
        self.assertEqual(events, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class WatchdogTests(NotifierTestCase):
    """A server that is to say that it is alive."""

    def beats(self, **variables: str) -> int:
        """
        Let a minute pass.

        @param variables: of the environment.
        @return: how often the server said that it is alive.
        """
        notified, notifier = self.listen(), self.notifier(**variables)
        notifier.ready()
        for _ in range(120):
            self.clock.advance(0.5)
            notified.heard()  # a socket has room for few datagrams
        notifier.stopped()
        return notified.said.count("WATCHDOG=1")

    def test_half(self) -> None:
        """It says so at the start, and twice in the time that it has."""
        self.assertEqual(self.beats(WATCHDOG_USEC="10000000"), 1 + 12)
        pid = str(os.getpid())
        self.assertEqual(self.beats(WATCHDOG_USEC="20000000", WATCHDOG_PID=pid), 1 + 6)

    def test_others(self) -> None:
        """Where that is asked of another process, or of nobody, it does not."""
        other = str(os.getppid())
        for variables in (
            {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": other},
            *({"WATCHDOG_USEC": usec} for usec in ("", "0", "-1", "nonsense")),
        ):
            self.assertEqual(self.beats(**variables), 0, variables)

    def test_stuck(self) -> None:
        """An event loop that is stuck says nothing, and does not make up for it."""
        notified = self.listen()
        self.notifier(WATCHDOG_USEC="10000000").ready()
        notified.heard()
        self.clock.advance(60)
        self.assertEqual(notified.heard().count("WATCHDOG=1"), 1)


class FailureTests(NotifierTestCase):
    """A socket that does not work ends nothing."""

    def test_gone(self) -> None:
        """
        Where nobody listens that is one line, until somebody does; who listens then is
        told how the server is doing.
        """
        place = self.listen().path
        os.unlink(place)
        with capturedLogs() as events:
            notifier = self.notifier()
            notifier.ready()
            self.clock.advance(STATUS_INTERVAL)
        (event,) = events
        self.assertIn(repr(place), formatEvent(event))
        self.assertIn("No such file", formatEvent(event))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as late:
            late.bind(place)
            self.clock.advance(STATUS_INTERVAL)
            self.assertEqual(late.recv(100), b"STATUS=well")
        with capturedLogs() as events:
            notifier.stopping()
        self.assertEqual(len(events), 1)

    def test_nonsense(self) -> None:
        """So it is where the path can be none."""
        for path in ("vsock:2:1234", "x" * 200, "/"):
            with capturedLogs() as events:
                self.notifier(NOTIFY_SOCKET=path).ready()
            self.assertEqual(len(events), 1, path)

    def test_noSocket(self) -> None:
        """So it is where no socket can be had."""

        def noSocket(*arguments: object) -> None:
            raise OSError(97, "Address family not supported by protocol")

        self.listen()
        self.patch(socket, "socket", noSocket)
        with capturedLogs() as events:
            self.notifier().ready()
        self.assertIn("not supported", formatEvent(events[0]))

    def test_full(self) -> None:
        """
        Where nobody takes what is said, the status waits for the next time, and a
        step in the server's life no longer than a moment.
        """
        self.patch(systemd, "PATIENCE", 0.01)
        notified, notifier = self.listen(), self.notifier()
        notifier.ready()
        with capturedLogs() as events:
            while not events:
                notifier.reloaded()
        self.status = "better"
        self.clock.advance(STATUS_INTERVAL)
        self.assertNotIn("STATUS=better", notified.heard())
        self.clock.advance(STATUS_INTERVAL)
        self.assertEqual(notified.heard(), ["STATUS=better"])
        self.assertEqual(len(events), 1)
