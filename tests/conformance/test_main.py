"""
C{python -m aesm.conformance}: what can be typed, and what is printed.
"""

from __future__ import annotations

import json
import sys
from io import StringIO
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import ProcessDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from aesm import Packet, PrivateKey, Server, listen
from aesm.conformance.__main__ import Options, Program, examine, main
from aesm.handlers import Echo
from aesm.messages.connection import Connection
from aesm.server.registry import Connections

ECHO = (sys.executable, "-m", "aesm.conformance.echo", "{host}", "{port}", "{key}")


class Shouting(Echo):
    """Not an echo."""

    def packetReceived(self, connection: Connection, packet: Packet) -> Any:
        """Say it louder."""
        connection.sendData(str(packet.data).upper())


class OptionsTests(SynchronousTestCase):
    """What can be typed."""

    def parse(self, *arguments: str) -> Options:
        """Parse a command line."""
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def test_wrong(self) -> None:
        """What cannot be used is said at once, and why."""
        for arguments, words in (
            ((), "name the server's endpoint"),
            (("tcp:a:1", "tcp:b:2"), "name the server's endpoint"),
            (("--patience", "0", "tcp:a:1"), "--patience"),
            (("--server-key", "abc", "tcp:a:1"), "key"),
            (("--identity", "/nowhere/key", "tcp:a:1"), "/nowhere/key"),
        ):
            with self.assertRaisesRegex(UsageError, words):
                self.parse(*arguments)

    def test_files(self) -> None:
        """Keys are read from their files."""
        key = PrivateKey.generate()
        key.save(self.mktemp())
        path = self.mktemp()
        key.save(path)
        options = self.parse(
            "--identity", path, "--server-key", str(key.publicKey), "tcp:a:1"
        )
        assert options.identity is not None
        self.assertEqual(options.identity.public, key.publicKey.raw)
        self.assertEqual(options.key, key.publicKey.raw)

    def test_list(self) -> None:
        """The checks are listed, those of a server or those of a client."""
        for arguments, name, other in (
            (["--list"], "offer.byte-stream", "client.hello"),
            (["--list", "--listen", "x"], "client.hello", "offer.byte-stream"),
        ):
            self.patch(sys, "stdout", out := StringIO())
            main(arguments)
            self.assertIn(f" {name} ", out.getvalue())
            self.assertNotIn(f" {other} ", out.getvalue())

    def test_usage(self) -> None:
        """A wrong command line has its own exit status."""
        self.patch(sys, "stderr", err := StringIO())
        with self.assertRaises(SystemExit) as raised:
            main([])
        self.assertEqual(raised.exception.code, 2)
        self.assertIn("--help", err.getvalue())


class ExamineTests(TestCase):
    """Real sockets, and a real client."""

    server: Server | None = None

    async def examine(self, *arguments: str) -> tuple[int, list[str], str]:
        """
        Test somebody.

        @return: exit status, lines, and what is said beside them.
        """
        options = Options()
        options.parseOptions(list(arguments))
        self.patch(sys, "stdout", out := StringIO())
        self.patch(sys, "stderr", err := StringIO())
        status = await examine(reactor, options)
        return status, out.getvalue().splitlines(), err.getvalue()

    async def listen(self, handler: object, **options: Any) -> str:
        """
        Have a server.

        @param options: more of its options.
        @return: its endpoint.
        """
        key = PrivateKey.generate()
        self.server = await listen(
            reactor,
            "tcp:0:interface=127.0.0.1",
            key=key,
            handler=handler,
            **options,
        )
        self.addCleanup(self.server.stop, deadline=0)
        return f"tcp:127.0.0.1:{self.server.address[1]}"

    async def test_server(self) -> None:
        """A server is tested, and each check has its line, in the order of the list."""
        endpoint = await self.listen(Echo(Connections()))
        key = self.server.publicKey  # type: ignore[union-attr]
        status, lines, _ = await self.examine(
            endpoint,
            "--only",
            "frames.t*",
            "--only",
            "flow.a*",
            "--server-key",
            str(key),
        )
        self.assertEqual(status, 0)
        names = [line.split()[2] for line in lines[:-1]]
        self.assertEqual(names[:2], ["flow.acknowledged", "flow.acknowledged-together"])
        self.assertIn("frames.too-large", names)
        self.assertIn(f"{len(names)} passed, 0 failed", lines[-1])

    async def test_failure(self) -> None:
        """What fails is said, also to programs."""
        endpoint = await self.listen(Shouting(Connections()))
        status, lines, _ = await self.examine(
            "--json", endpoint, "--only", "frames.text", "--only", "frames.ping"
        )
        self.assertEqual(status, 1)
        text, ping, counts = map(json.loads, lines)
        self.assertEqual((text["name"], text["verdict"]), ("frames.text", "fail"))
        self.assertIn("came back instead of", text["seen"])
        self.assertEqual((ping["requirement"], ping["verdict"]), ("R-8.10", "pass"))
        self.assertEqual(counts, {"pass": 1, "fail": 1, "warn": 0, "n/a": 0})

    async def test_probe(self) -> None:
        """A server need not take the first suite; it should keep sessions."""
        endpoint = await self.listen(
            Echo(Connections()),
            suites=["Noise_XX_25519_ChaChaPoly_SHA256"],
            sessionGrace=0,
        )
        status, lines, _ = await self.examine(
            *(endpoint, "--only", "offer.suite-xx-*"),
            *("--only", "sessions.kept", "--only", "sessions.goes-on"),
        )
        self.assertEqual(status, 0)
        verdicts = {line.split()[2]: line.split()[0] for line in lines[:-1]}
        self.assertEqual(
            verdicts,
            {
                "offer.suite-xx-aesgcm": "n/a",
                "offer.suite-xx-chachapoly": "pass",
                "sessions.kept": "warn",
                "sessions.goes-on": "n/a",
            },
        )

    async def test_nobody(self) -> None:
        """A server that is not there is no failure of a check."""
        endpoint = await self.listen(None)
        assert self.server is not None
        await self.server.stop()
        status, lines, said = await self.examine(endpoint)
        self.assertEqual((status, lines), (2, []))
        self.assertIn("nobody to talk with", said)

    async def test_endpoints(self) -> None:
        """An endpoint that is none is said to be none."""
        for arguments in (("tcp:",), ("--listen", "tcp:nowhere")):
            status, lines, said = await self.examine(*arguments)
            self.assertEqual((status, lines), (2, []))
            self.assertIn("no endpoint", said)

    async def test_client(self) -> None:
        """A client is started, tested and stopped."""
        status, lines, _ = await self.examine(
            *("--only", "records.swapped", "--only", "sessions.goes-on"),
            *("--listen", "tcp:0:interface=127.0.0.1", "--", *ECHO),
        )
        self.assertEqual((status, len(lines)), (0, 3))


class FakeProcess:
    """
    Takes signals, and does nothing on their account.

    @ivar signals: those that came.
    """

    pid = 1

    def __init__(self) -> None:
        self.signals: list[str] = []

    def signalProcess(self, signal: str) -> None:
        """Take one."""
        self.signals.append(signal)


class FakeReactor(Clock):
    """Counts what is started."""

    started = 0

    def spawnProcess(self, *arguments: object, **options: object) -> None:
        """Start nothing."""
        self.started += 1


class ProgramTests(SynchronousTestCase):
    """The client that is started."""

    def test_stop(self) -> None:
        """One that does not end when it is told to is killed."""
        clock, process = FakeReactor(), FakeProcess()
        program = Program(clock, ["client"])
        program.transport = process  # type: ignore[assignment]
        stopped = program.stop()
        self.assertIs(program.stop(), stopped)
        clock.advance(4.9)
        self.assertEqual(process.signals, ["TERM"])
        clock.advance(0.1)
        self.assertEqual(process.signals, ["TERM", "KILL"])
        self.assertNoResult(stopped)
        program.processEnded(Failure(ProcessDone(0)))
        self.successResultOf(stopped)

    def test_stopsByItself(self) -> None:
        """One that ends in time is not killed."""
        clock, process = FakeReactor(), FakeProcess()
        program = Program(clock, ["client"])
        program.transport = process  # type: ignore[assignment]
        stopped = program.stop()
        program.processEnded(Failure(ProcessDone(0)))
        self.successResultOf(stopped)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_again(self) -> None:
        """One that ends is started again, until it is stopped."""
        clock = FakeReactor()
        program = Program(clock, ["client"])
        program.start()
        program.processEnded(Failure(ProcessDone(0)))
        clock.advance(1)
        self.assertEqual(clock.started, 2)
        program.processEnded(Failure(ProcessDone(0)))
        self.successResultOf(program.stop())
        self.assertEqual(clock.getDelayedCalls(), [])
