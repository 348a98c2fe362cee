"""
Tests for L{aesm.secure.listening}: how many may wait; what a killed server has left at
a UNIX socket keeps nobody from listening, and what is alive is left alone; and what is
said when no file is free.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from aesm.secure import listening, wrapServerEndpoint
from aesm.secure.listening import (
    ReusePortEndpoint,
    canInherit,
    inheritedEndpoint,
    listenOn,
    serverEndpoint,
)
from aesm.server.factory import AESMServerFactory
from aesm.trust.keys import PrivateKey


class ServerEndpointTests(SynchronousTestCase):
    """L{serverEndpoint} has room for those who come at once."""

    def backlog(self, text: str) -> int:
        """
        Listen, and tell how many may wait to be accepted.

        @param text: where.
        """
        reactor: Any = MemoryReactor()
        self.successResultOf(serverEndpoint(reactor, text).listen(Factory()))
        (listening,) = reactor.tcpServers or reactor.unixServers
        return int(listening[2])

    def test_ours(self) -> None:
        """Where the string says nothing, it is more than Twisted's."""
        for text in (
            "tcp:8765",
            "tcp:8765:interface=127.0.0.1",
            "tcp:port=8765",
            r"tcp6:8765:interface=\:\:1",
            "haproxy:tcp:8765",
            "unix:/run/x:mode=660",
        ):
            self.assertEqual(self.backlog(text), 1024, text)

    def test_theirs(self) -> None:
        """What the string says counts, with a name and without."""
        for text in (
            "tcp:8765:backlog=7",
            "tcp:backlog=7:port=8765",
            "tcp:8765:127.0.0.1:7",
            "haproxy:tcp:8765:backlog=7",
            "unix:/run/x:660:7",
        ):
            self.assertEqual(self.backlog(text), 7, text)

    def test_wrong(self) -> None:
        """What is wrong is said as ever."""
        reactor: Any = MemoryReactor()
        self.assertRaises(ValueError, serverEndpoint, reactor, "tcp:x")
        self.assertRaises(TypeError, serverEndpoint, reactor, "tcp:1:colour=red")

    def test_port(self) -> None:
        """A port that is none is refused before anybody listens."""
        reactor: Any = MemoryReactor()
        for text in (
            "tcp:65536",
            "tcp:-1",
            "tcp:interface=127.0.0.1:port=99999",
            "tcp6:99999:backlog=7",
            "haproxy:tcp:99999",
        ):
            error = self.assertRaises(ValueError, serverEndpoint, reactor, text)
            self.assertIn("0 to 65535", str(error), text)
        for text in ("tcp:65535", "tcp:0:backlog=99999"):
            serverEndpoint(reactor, text)


class InheritTests(TestCase):
    """A socket that another process listens on, too."""

    def inherit(self, text: str, asking: socket.socket, factory: Any = None) -> Any:
        """
        Listen on a socket that listens already.

        @param text: what the other process calls it.
        """
        descriptor = os.dup(asking.fileno())
        endpoint = inheritedEndpoint(reactor, text, asking.family, descriptor)
        port: Any = self.successResultOf(listenOn(endpoint, factory or Factory()))
        self.addCleanup(lambda: port.connected and port.stopListening())
        self.assertRaises(OSError, os.fstat, descriptor)
        self.assertFalse(os.get_inheritable(port.fileno()))
        return port

    def test_which(self) -> None:
        """Those between whose socket and us is nothing that we do not know."""
        for text in (
            "tcp:8765",
            "tcp6:8765",
            "reuseport:8765",
            "unix:/x",
            "systemd:domain=INET:index=0",
        ):
            self.assertTrue(canInherit(text), text)
            self.assertTrue(canInherit(f"haproxy:{text}"), text)
            self.assertTrue(canInherit(f"websocket:{text}:path=/x"), text)
            self.assertTrue(canInherit(f"websocket:haproxy:{text}"), text)
        self.assertTrue(canInherit("websocket:8765:path=/x"))
        for text in ("8765", "haproxy:8765", "haproxy:websocket:8765", "websocket:x"):
            self.assertFalse(canInherit(text), text)
        for text in ("ssl:8765", "aesm:tcp:8765", "haproxy:ssl:8765", "tcp"):
            self.assertFalse(canInherit(text), text)

    async def test_tcp(self) -> None:
        """It is where the other one is; that goes on when ours is closed."""
        with socket.create_server(("127.0.0.1", 0)) as others:
            others.setblocking(False)
            port = self.inherit("tcp:0", others)
            self.assertEqual(port.getHost().port, others.getsockname()[1])
            await maybeDeferred(port.stopListening)
            with socket.create_connection(others.getsockname()):
                others.setblocking(True)
                others.accept()[0].close()

    async def test_unix(self) -> None:
        """A UNIX socket is open to those to whom it was, and to no others."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = Path(folder, "socket")
        changed: list[int] = []
        chmod = os.chmod
        self.patch(os, "chmod", lambda path, mode: changed.append(mode))
        with socket.socket(socket.AF_UNIX) as others:
            others.bind(os.fspath(path))
            others.listen()
            others.setblocking(False)
            for mode in (0o600, 0o666, 0o660):
                chmod(path, mode)
                port = self.inherit("unix:socket", others)
                self.assertEqual(changed.pop(), mode)
                await maybeDeferred(port.stopListening)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(os.fspath(path))

    def test_haproxy(self) -> None:
        """Behind a forwarder it still is."""
        factory = Factory()
        with socket.create_server(("127.0.0.1", 0)) as others:
            others.setblocking(False)
            port = self.inherit("haproxy:tcp:0", others, factory)
            self.assertIs(port.factory.wrappedFactory, factory)

    def test_websocket(self) -> None:
        """So it is for pages, at the same path and for the same origins."""
        if find_spec("wsproto") is None:  # pragma: no cover
            raise SkipTest("no wsproto")
        factory = Factory()
        with socket.create_server(("127.0.0.1", 0)) as others:
            others.setblocking(False)
            text = r"websocket:0:path=/x:origin=https\://y"
            around = self.inherit(text, others, factory).factory
            self.assertIs(around.wrappedFactory, factory)
            self.assertEqual(around._options, ("/x", ["https://y"]))
            text = "websocket:haproxy:tcp:0"
            around = self.inherit(text, others, factory).factory.wrappedFactory
            self.assertIs(around.wrappedFactory, factory)


class ReusePortTests(TestCase):
    """A port that several processes share."""

    async def listen(self, endpoint: Any, factory: Any = None) -> Any:
        """Listen, until the end of the test."""
        port: Any = await listenOn(endpoint, factory or Factory())
        self.addCleanup(lambda: port.connected and port.stopListening())
        return port

    async def test_shares(self) -> None:
        """
        All who share a port get connections, and those who still do when one ends get
        all.
        """
        ports = {}
        number = 0
        for name in "ab":
            factory: Any = Factory()
            factory.buildProtocol = partial(self.came, name)
            endpoint = ReusePortEndpoint(reactor, number, "127.0.0.1")
            ports[name] = await self.listen(endpoint, factory)
            number = ports[name].getHost().port
        self.expected: Any = None
        self.waiting: Any = None
        found: set[str] = set()
        while found != {"a", "b"}:
            found.add(await self.connect(number))
        await maybeDeferred(ports["a"].stopListening)
        for _ in range(8):
            self.assertEqual(await self.connect(number), "b")

    def came(self, name: str, address: object) -> None:
        """Note who has been connected to."""
        self.waiting.callback(name)

    async def connect(self, number: int) -> str:
        """Connect, and tell who was connected to."""
        self.waiting = Deferred()
        with socket.create_connection(("127.0.0.1", number)):
            return str(await self.waiting)

    async def test_inUse(self) -> None:
        """
        Where somebody listens who does not share, nobody else can; nor can he who does
        not share where others do.
        """
        for first, second in (
            ("tcp:{}:interface=127.0.0.1", "reuseport:{}:interface=127.0.0.1"),
            ("reuseport:{}:interface=127.0.0.1", "tcp:{}:interface=127.0.0.1"),
        ):
            port = await self.listen(serverEndpoint(reactor, first.format(0)))
            number = port.getHost().port
            with self.assertRaisesRegex(CannotListenError, "in use") as caught:
                await self.listen(serverEndpoint(reactor, second.format(number)))
            self.assertEqual(
                (caught.exception.interface, caught.exception.port),
                ("127.0.0.1", number),
            )

    async def test_queue(self) -> None:
        """As many may wait to be accepted as anywhere else."""
        backlogs: list[int] = []
        listen = socket.socket.listen

        def noted(self: socket.socket, backlog: int) -> None:
            """Listen, and note how many may wait."""
            backlogs.append(backlog)
            listen(self, backlog)

        self.patch(socket.socket, "listen", noted)
        await self.listen(ReusePortEndpoint(reactor, 0, "127.0.0.1"))
        self.assertEqual(backlogs, [1024])


class TakeOverTests(TestCase):
    """L{listenOn} at UNIX sockets."""

    def setUp(self) -> None:
        """Choose a path, short enough for a socket."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = Path(folder, "socket")
        self.lock = Path(folder, "socket.lock")

    def leave(self, pid: int | None, age: float = 60) -> None:
        """
        Leave behind what a killed server does.

        @param pid: in the lock; None for none.
        @param age: of the socket, seconds.
        """
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(os.fspath(self.path))
        then = self.path.stat().st_mtime - age
        os.utime(self.path, (then, then))
        if pid is not None:
            self.lock.symlink_to(str(pid))

    async def listen(self, options: str = "") -> IListeningPort:
        """
        Listen there.

        @param options: of the endpoint's string.
        """
        endpoint = serverFromString(reactor, f"unix:{self.path}{options}")
        port = await listenOn(endpoint, Factory())
        self.addCleanup(port.stopListening)
        return port

    async def refused(self, options: str = "") -> None:
        """Check that one cannot listen there."""
        with self.assertRaises((CannotListenError, PermissionError)):
            await self.listen(options)

    def answers(self) -> bool:
        """Tell whether somebody listens there."""
        with socket.socket(socket.AF_UNIX) as asking:
            return asking.connect_ex(os.fspath(self.path)) == 0

    async def test_ourPID(self) -> None:
        """
        A lock that names ourselves is not ours while nobody listens, however young it
        is, and also without a socket.
        """
        self.leave(os.getpid(), age=0)
        await (await self.listen()).stopListening()  # type: ignore[misc]
        self.lock.symlink_to(str(os.getpid()))
        await self.listen()
        self.assertTrue(self.answers())

    async def test_removed(self) -> None:
        """One whose name, or lock, somebody has removed is closed all the same."""
        for removed in ((self.path,), (self.lock,), (self.path, self.lock)):
            port = await self.listen()
            for path in removed:
                path.unlink()
            await port.stopListening()  # type: ignore[misc]
            self.assertFalse(cast("Any", port).connected)
            self.assertFalse(self.lock.is_symlink())

    async def test_noSuchProcess(self) -> None:
        """Nor is one of a process that is gone, as ever."""
        self.leave(2**22 + 1, age=0)
        await self.listen()
        self.assertTrue(self.answers())

    async def test_otherProcess(self) -> None:
        """
        Another program may have the PID now; but a server that is just starting is
        given the time for it.
        """
        self.leave(os.getppid())
        await self.listen()
        self.assertTrue(self.answers())

    async def test_starting(self) -> None:
        """A server that is just starting is given the time for it."""
        self.leave(os.getppid(), age=0)
        await self.refused()
        self.assertTrue(self.lock.is_symlink())

    async def test_noLock(self) -> None:
        """A socket that was left without a lock is in nobody's way either."""
        self.leave(None)
        await self.listen(":lockfile=0")
        self.assertTrue(self.answers())

    async def test_alive(self) -> None:
        """
        A server that listens keeps its socket, in this process and in another, with a
        lock and without.
        """
        await self.listen()
        for lockfile in (":lockfile=0", ""):
            await self.refused(lockfile)
        self.lock.unlink()
        self.lock.symlink_to(str(os.getppid()))
        await self.refused()
        self.assertTrue(self.answers())
        self.lock.unlink()
        self.lock.symlink_to(str(os.getpid()))  # for the port to take away

    async def test_noSocket(self) -> None:
        """What is no socket is left as it is, and so is the lock of another program."""
        self.path.write_text("precious")
        self.lock.symlink_to(str(os.getpid()))
        await self.refused()
        self.assertEqual(self.path.read_text(), "precious")
        self.path.unlink()
        self.lock.unlink()
        self.lock.symlink_to(str(os.getppid()))
        await self.refused()

    async def test_cannotBind(self) -> None:
        """
        Where there can be no socket, nothing is taken over, and no lock stays: neither
        of one whose path is too long nor beside a file.
        """
        self.path.write_text("precious")
        for path in (self.path, self.path.with_name("x" * 120)):
            endpoint = serverFromString(reactor, f"unix:{path}")
            with capturedLogs() as events, self.assertRaises(CannotListenError):
                await listenOn(endpoint, Factory())
            said = [formatEvent(event) for event in events]
            self.assertEqual([line for line in said if "taken over" in line], [])
        self.assertEqual(os.listdir(self.path.parent), [self.path.name])

    async def test_saysWhy(self) -> None:
        """
        What is said of a socket that cannot be made is about the path that was named,
        and not about a lock: there is no such folder, or something else is there.
        """
        self.path.write_text("precious")
        for path, words in (
            (self.path.parent, "no socket"),
            (self.path, "no socket"),
            (self.path / "under", "Not a directory"),
            (self.path.with_name("nowhere") / "socket", "No such file or directory"),
        ):
            endpoint = serverFromString(reactor, f"unix:{path}")
            with self.assertRaises((CannotListenError, OSError)) as caught:
                await listenOn(endpoint, Factory())
            said = str(caught.exception)
            self.assertIn(words, said)
            self.assertIn(f"{path}'", said)
            self.assertNotIn("lock", said)
            self.assertNotIn("in use", said)

    async def test_cannotRemove(self) -> None:
        """If it cannot be removed, the first error is told."""

        def remove(path: bytes) -> None:
            """Fail."""
            raise PermissionError

        self.leave(os.getpid())
        self.patch(listening, "_remove", remove)
        await self.refused()

    async def test_otherErrors(self) -> None:
        """Other endpoints fail as they do."""

        class Failing:
            """An endpoint that cannot listen."""

            def __init__(self, error: Exception) -> None:
                """@param error: why."""
                self.listen = lambda factory: fail(error)

        for error in (
            CannotListenError("127.0.0.1", 80, OSError()),
            PermissionError(),
            ZeroDivisionError(),
        ):
            with self.assertRaises(type(error)):
                await listenOn(Failing(error), Factory())  # type: ignore[arg-type]


class NoFilesTests(TestCase):
    """What becomes of clients that no file is free for."""

    def accept(self, port: Any, address: Any) -> Any:
        """
        Connect three clients, of which one is there before the files are used up, and
        have the port accept.

        @return: the log.
        """
        # Twisted's spare file has one of the numbers that are in use then.
        inUse = max(int(name) for name in os.listdir("/dev/fd"))
        files = [os.open(os.devnull, os.O_RDONLY)]
        while files[-1] <= inUse:
            files.append(os.dup(files[0]))
        clients = [socket.socket(port.addressFamily) for _ in range(3)]
        for each in clients:
            each.connect(address)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(each.fileno() for each in clients)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with capturedLogs() as events:
            try:
                for _ in range(3):
                    port.doRead()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in clients:
            self.assertEqual(each.recv(1), b"")
            each.close()
        for file in files:
            os.close(file)
        return events

    async def test_server(self) -> None:
        """Each is an entry of the activity log, or counted there, and no other line."""
        factory = AESMServerFactory(reactor=Clock(), key=PrivateKey.generate())
        endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        port: Any = await listenOn(endpoint, factory)
        self.addCleanup(port.stopListening)
        events = self.accept(port, ("127.0.0.1", port.getHost().port))
        self.assertEqual([event["event"] for event in events], ["refused"])
        await factory.stop()
        entries = list(iter(factory.connections.activity, None))
        self.assertEqual([entry and entry.times for entry in entries], [1, 2])
        self.assertIn("open files", entries[0] and entries[0].reason)
        self.assertEqual(factory.connections.refusals, {"no-files": 3})

    async def test_wrapped(self) -> None:
        """The same, for what runs inside of a secure channel, over UNIX sockets."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "socket")
        endpoint = serverFromString(reactor, f"unix:{path}")
        wrapped = wrapServerEndpoint(
            endpoint, key=PrivateKey.generate(), reactor=Clock()
        )
        port: Any = await wrapped.listen(Factory())
        events = self.accept(port, path)
        (line,) = map(formatEvent, events)
        self.assertRegex(line, "refused .*open files")
        with capturedLogs() as events:
            await port.stopListening()
        (line,) = [formatEvent(e) for e in events if "times" in e]
        self.assertEqual(line, "refused 'unix': 2 more in 1 second (2 no-files)")

    async def test_others(self) -> None:
        """What cannot be accepted for another reason counts; all else is in the log."""
        factory = AESMServerFactory(reactor=Clock(), key=PrivateKey.generate())
        endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        port: Any = await listenOn(endpoint, factory)
        self.addCleanup(port.stopListening)
        with capturedLogs() as events:
            port._logger.info("hello")
            port._logger.info("Could not accept ({acceptError})", acceptError="ENFILE")
            port._logger.info("Closed {address}", address=("::1", 5, 0, 0))
        self.assertEqual(formatEvent(events[0]), "hello")
        self.assertIn("ENFILE", events[1]["reason"])
        self.assertEqual(events[2]["address"], "::1:5")
        self.assertEqual(len(events), 3)
