"""
The control socket of a server: L{aesm.status.control}.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from aesm.status.actions import CannotDo, Operator
from aesm.status.control import (
    CLOSING,
    MAX_CLIENTS,
    MAX_LINE,
    PATIENCE,
    ControlFactory,
    ControlProtocol,
    ControlSocket,
)
from aesm.status.pieces import PIECES


class Performer:
    """
    Does nothing.

    @ivar asked: what for, and by whom.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.asked: list[tuple[Operator, Any]] = []

    def perform(self, by: Operator, request: Any) -> Iterator[str]:
        """Answer with as many pieces as are asked for."""
        self.asked.append((by, request))
        if request == "no":
            raise CannotDo('"no"')
        return iter(["x"] * request)


class Transport(StringTransport):
    """
    What a protocol of a UNIX socket is on.

    @ivar aborted: whether it was.
    """

    aborted = False
    producer: Any

    def __init__(self) -> None:
        """Open a socket of which the system knows who has it."""
        super().__init__()
        self.pair = socket.socketpair()

    def getHandle(self) -> socket.socket:
        """Give the socket."""
        return self.pair[0]

    def abortConnection(self) -> None:
        """Take note."""
        self.aborted = True

    def take(self) -> bytes:
        """Take what was written."""
        written: bytes = self.value()
        self.clear()
        return written


class ProtocolTests(SynchronousTestCase):
    """L{ControlProtocol} on a transport in memory."""

    def setUp(self) -> None:
        """Make a factory."""
        self.clock = Clock()
        self.performer = Performer()
        self.factory = ControlFactory(self.clock, self.performer)

    def join(self) -> tuple[ControlProtocol, Transport]:
        """Connect."""
        protocol: Any = self.factory.buildProtocol(None)
        transport = Transport()
        for each in transport.pair:
            self.addCleanup(each.close)
        protocol.makeConnection(transport)
        return protocol, transport

    def drain(self, transport: Transport) -> bytes:
        """Take all of an answer."""
        while transport.producer is not None:
            transport.producer.resumeProducing()
        return transport.take()

    def test_answers(self) -> None:
        """Requests are answered in order, one at a time, however they come."""
        protocol, transport = self.join()
        for byte in b'1\n"no"\n':
            protocol.dataReceived(bytes([byte]))
        self.assertEqual(transport.producerState, "paused")
        self.assertEqual(len(self.performer.asked), 1)
        self.assertEqual(self.drain(transport), b'x\n{"error": "\\"no\\""}\n')
        self.assertEqual(transport.producerState, "producing")
        protocol.dataReceived(b"2\n3\n")
        self.assertEqual(self.drain(transport), b"xx\nxxx\n")

    def test_producer(self) -> None:
        """A long answer is written a piece at a time, as it is taken."""
        protocol, transport = self.join()
        protocol.dataReceived(b"%d\n" % (3 * PIECES))
        verifyObject(IPullProducer, transport.producer)
        self.assertFalse(transport.streaming)
        for _ in range(3):
            transport.producer.resumeProducing()
            self.assertEqual(transport.take(), b"x" * PIECES)
        self.assertEqual(self.drain(transport), b"\n")

    def test_gone(self) -> None:
        """Who hangs up in the middle of an answer is forgotten."""
        protocol, transport = self.join()
        protocol.dataReceived(b"%d\n" % (3 * PIECES))
        transport.producer.stopProducing()
        protocol.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.factory.end())

    def test_nonsense(self) -> None:
        """What is no JSON is refused, and the next request heard."""
        protocol, transport = self.join()
        for line in (b"", b"{", b"\xff", b"[" * 5000):
            protocol.dataReceived(line + b"\n")
            answer = json.loads(self.drain(transport))
            self.assertIn("object of JSON", answer["error"])
        self.assertEqual(self.performer.asked, [])

    def test_tooLong(self) -> None:
        """A request has a bound; what is longer is the last that is read."""
        for size, refused in ((MAX_LINE, False), (MAX_LINE + 1, True)):
            protocol, transport = self.join()
            protocol.dataReceived(b"1".ljust(size) + b"\n")
            self.assertEqual(transport.disconnecting, refused)
            self.assertEqual(b"at most" in self.drain(transport), refused)
        self.assertEqual(len(self.performer.asked), 1)

    def test_neverEnds(self) -> None:
        """Nor is more kept of a request that does not end."""
        protocol, transport = self.join()
        protocol.dataReceived(b"1" * (MAX_LINE + 2))
        self.assertTrue(transport.disconnecting)

    def test_silent(self) -> None:
        """Who asks nothing is cut off; each request gives more time."""
        protocol, transport = self.join()
        self.clock.advance(PATIENCE - 1)
        protocol.dataReceived(b"1\n")
        self.drain(transport)
        self.clock.advance(PATIENCE - 1)
        self.assertFalse(transport.aborted)
        self.clock.advance(1)
        self.assertTrue(transport.aborted)

    def test_slow(self) -> None:
        """Nor does anybody wait for who does not take an answer."""
        protocol, transport = self.join()
        protocol.dataReceived(b"%d\n" % (3 * PIECES))
        for _ in range(2):
            self.clock.advance(PATIENCE - 1)
            transport.producer.resumeProducing()
        self.assertFalse(transport.aborted)
        self.clock.advance(PATIENCE)
        self.assertTrue(transport.aborted)

    def test_many(self) -> None:
        """So many are heard at a time, and who is too many is told."""
        clients = [self.join() for _ in range(MAX_CLIENTS)]
        protocol, transport = self.join()
        self.assertTrue(transport.disconnecting)
        self.assertIn("16 others", json.loads(transport.take())["error"])
        for each in (protocol, clients[0][0]):
            each.connectionLost()
        self.assertFalse(self.join()[1].disconnecting)

    def test_operator(self) -> None:
        """The system says who asks."""
        protocol, _ = self.join()
        protocol.dataReceived(b"1\n")
        self.assertEqual(self.performer.asked[0][0], (os.getuid(), os.getpid()))

    if not hasattr(socket, "SO_PEERCRED"):
        test_operator.skip = "the system does not say"  # type: ignore[attr-defined]

    def test_noOperator(self) -> None:
        """Where it does not, nobody knows."""
        if hasattr(socket, "SO_PEERCRED"):
            self.patch(socket, "SO_PEERCRED", None)
            del socket.SO_PEERCRED
        protocol, _ = self.join()
        protocol.dataReceived(b"1\n")
        self.assertEqual(self.performer.asked[0][0], (None, None))

    def test_end(self) -> None:
        """At the end all are sent away, and nobody is waited for for long."""
        first, second = self.join(), self.join()
        ended = [self.factory.end(), self.factory.end()]
        for protocol, transport in (first, second):
            self.assertTrue(transport.disconnecting)
            self.assertNoResult(ended[0])
            protocol.connectionLost()
        for each in ended:
            self.successResultOf(each)
        _, transport = self.join()
        late = self.factory.end()
        self.clock.advance(CLOSING)
        self.assertTrue(transport.aborted)
        self.successResultOf(late)


class SocketTests(SynchronousTestCase):
    """L{ControlSocket} without clients."""

    def open(self, path: Path, needed: bool) -> tuple[Any, Deferred[None], list[Any]]:
        """Open a socket on a reactor in memory."""
        memory: Any = MemoryReactorClock()
        with capturedLogs() as events:
            control = ControlSocket(memory, str(path), Performer(), needed)
            opened = control.open()
        self.successResultOf(control.close())
        return memory, opened, [e for e in events if "reason" in e]

    def test_mode(self) -> None:
        """Only its owner may use it, and its directory is made so as well."""
        path = Path(self.mktemp()).absolute() / "control.sock"
        memory, opened, events = self.open(path, True)
        self.successResultOf(opened)
        ((name, _, _, mode, wantPID),) = memory.unixServers
        self.assertEqual((name, mode, wantPID), (str(path), 0o600, True))
        self.assertEqual(stat.S_IMODE(path.parent.stat().st_mode), 0o700)
        self.assertEqual(events, [])

    def test_unsafe(self) -> None:
        """
        Where others could put something in its place it is not: that is the end of
        whoever needs it, and a line for whoever does not.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        folder.chmod(0o777)
        for needed, level in ((True, LogLevel.critical), (False, LogLevel.warn)):
            memory, opened, (event,) = self.open(folder / "control.sock", needed)
            self.assertEqual(memory.unixServers, [])
            self.assertEqual(event["log_level"], level)
            self.assertIn("--control PATH", formatEvent(event))
            self.assertIn("chmod go-w", formatEvent(event))
            if needed:
                self.failureResultOf(opened)
            else:
                self.successResultOf(opened)


class RealTests(TestCase):
    """Sockets of the system."""

    def setUp(self) -> None:
        """Make a folder whose name is short enough for a socket's."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "control.sock"

    def control(self, needed: bool = True) -> ControlSocket:
        """Make one."""
        return ControlSocket(reactor, str(self.path), Performer(), needed)

    async def test_lives(self) -> None:
        """It is there from the start to the end, and nobody else can have it."""
        control, other = self.control(), self.control(False)
        await control.open()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        with capturedLogs() as events:
            await other.open()
        self.assertIn("another server has it", formatEvent(events[-1]))
        await other.close()
        self.assertTrue(self.path.exists())
        await control.close()
        await control.close()
        self.assertEqual(list(self.path.parent.iterdir()), [])

    async def test_again(self) -> None:
        """One that is open is not opened again; one that was closed is."""
        control = self.control()
        for _ in range(2):
            await control.open()
            await control.open()
            self.assertTrue(self.path.exists())
            await control.close()
            self.assertFalse(self.path.exists())

    async def test_abandoned(self) -> None:
        """One that a killed server has left is taken over."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self.path))
        os.utime(self.path, (0, 0))
        control = self.control()
        await control.open()
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self.path))
        await control.close()
