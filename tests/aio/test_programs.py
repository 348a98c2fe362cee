"""
Programs of asyncio's, each in a process of its own, since how they end is half of the
matter: L{tests.support.aioprograms}.  They do the same on uvloop, where there is that.
"""

from __future__ import annotations

import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

from tests.blocking.test_network import LONG, ProgramCase
from tests.support import aioprograms

PROGRAMS = Path(aioprograms.__file__)


class AsyncioTests(ProgramCase):
    """On the standard library's loop."""

    loop = "asyncio"

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """
        Start a program.

        @param arguments: its name, and what it is told.
        """
        quiet = ("-W", "default::ResourceWarning")
        return self.start(*quiet, str(PROGRAMS), self.loop, *arguments)

    def serve(self) -> tuple[subprocess.Popen[str], str]:
        """
        Start a server.

        @return: it, and where to connect to.
        """
        server = self.begin("serve")
        return server, self.line(server)

    def line(self, program: subprocess.Popen[str]) -> str:
        """Read a line of what a program prints."""
        assert program.stdout is not None
        return program.stdout.readline().rstrip("\n")

    def interrupt(self, program: subprocess.Popen[str]) -> None:
        """Press Ctrl-C, upon which a program ends without a further word."""
        program.send_signal(signal.SIGINT)
        self.check(program, "interrupted\n")

    def test_talk(self) -> None:
        """
        A thousand sends at once, time-outs, cancelled waits, in several loops one after
        another.
        """
        self.check(self.begin("talk"), "exchanged\n")

    def test_thousand(self) -> None:
        """A thousand clients in one process are answered; no file stays open."""
        self.check(self.begin("many", "1000"), "all answered\n")

    def test_noneLeft(self) -> None:
        """A loop that has ended has closed what it had."""
        self.check(self.begin("one"), "none left\n")

    def test_threads(self) -> None:
        """Several loops in threads do not disturb each other, nor the blocking face."""
        self.check(self.begin("threads"), "each its own\n")

    def test_interrupted(self) -> None:
        """Ctrl-C ends client and server at once, in order, and without noise."""
        server, endpoint = self.serve()
        client = self.begin("client", endpoint)
        self.assertEqual(self.line(client), "connected")
        self.interrupt(client)
        self.assertEqual(self.line(server), "left with 127.0.0.1")
        client = self.begin("client", endpoint)
        self.assertEqual(self.line(client), "connected")
        self.interrupt(server)
        self.interrupt(client)

    def test_forgetful(self) -> None:
        """A program that does not close ends, and is closed in order."""
        server, endpoint = self.serve()
        self.check(self.begin("forgetful", endpoint), "ended\n")
        said = [self.line(server) for _ in range(3)]
        self.assertEqual(said, ["one", "two", "left with 127.0.0.1"])
        self.interrupt(server)

    def test_killed(self) -> None:
        """The server of a client that was killed goes on, with its session."""
        server, endpoint = self.serve()
        client = self.begin("client", endpoint)
        self.assertEqual(self.line(client), "connected")
        client.kill()
        client.communicate(timeout=LONG)
        self.interrupt(server)

    def test_fork(self) -> None:
        """
        A forked child is told that it has no loop, cannot hurt its parent, and may open
        connections of its own in a loop of its own.
        """
        self.check(self.begin("fork"), "parent unharmed\n")


if find_spec("uvloop") is not None:  # pragma: no branch

    class UvloopTests(AsyncioTests):
        """On uvloop."""

        loop = "uvloop"
