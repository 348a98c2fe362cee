"""
What the tests of clusters share: real engines, and connections to them on which nothing
happens before the test says so.
"""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread
from typing import IO, Any, cast

from twisted.internet import error
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import Engine
from aesm.cluster.sealing import Sealer
from aesm.cluster.store import EngineStore
from aesm.store.interface import Stored

__all__ = [
    "EngineTestCase",
    "Line",
    "Lines",
    "Node",
    "RedisServer",
    "Sentinel",
    "Subscriber",
    "freePort",
    "sharedServer",
]

PATIENCE = 120.0  # seconds for anything that a process does
GRACE = 60.0  # seconds


class RedisServer:
    """
    A process of C{redis-server}, at a UNIX socket of its own and nowhere else.

    @ivar path: the socket.
    @ivar port: of 127.0.0.1, or 0.
    """

    ready = b"eady to accept connections"

    def __init__(self, *options: str, port: int = 0, config: str = "") -> None:
        """
        Start it, and wait until it takes connections.

        @param options: more of its command line.
        @param port: where it is to be reached over TCP, too.
        @param config: what is in its configuration file, if it has one.
        """
        program = shutil.which("redis-server")
        if program is None:
            raise SkipTest("redis-server is not installed")
        # Not in trial's folder: paths of sockets are short.
        self._folder = Path(tempfile.mkdtemp(prefix="aesm-engine-"))
        self.path = str(self._folder / "socket")
        self.port = port
        file = self._folder / "config"
        file.write_text(config)
        self._command = [
            *(program, str(file), "--port", str(port), "--bind", "127.0.0.1"),
            *("--unixsocket", self.path, "--save", ""),
            *("--dir", str(self._folder), *options),
        ]
        self._start()

    def _start(self) -> None:
        """Start the process."""
        self._reader: Thread | None = None
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        said = self._process.stdout
        assert said is not None
        for line in said:
            if self.ready in line:
                # Or it would wait for somebody to read what else it says.
                self._reader = Thread(target=said.read, daemon=True)
                self._reader.start()
                return
        self.stop()
        raise AssertionError("redis-server does not start")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        if self._reader is not None:
            self._reader.join()
        cast("IO[bytes]", self._process.stdout).close()

    def restart(self) -> None:
        """Start it again, with what it has on its disk."""
        self._start()

    def stop(self) -> None:
        """End it, and remove what it leaves."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def command(self, *arguments: object) -> Any:
        """
        Have it do something, over a connection of its own.

        @return: its reply.
        """
        return self.commands(arguments)[0]

    def commands(self, *commands: tuple[object, ...]) -> list[Any]:
        """
        Have it do several things, over one connection.

        @return: its replies.
        """
        from hiredis import Reader, pack_command

        reader, replies = Reader(), []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(self.path)
            for command in commands:
                said = (a if isinstance(a, bytes) else str(a) for a in command)
                packed: Any = tuple(said)
                connection.sendall(pack_command(packed))
                while (reply := reader.gets()) is False:
                    if not (heard := connection.recv(1 << 16)):
                        raise ConnectionResetError("the server has hung up")
                    reader.feed(heard)
                replies.append(reply)
        return replies

    @property
    def isPrimary(self) -> bool:
        """Whether it is nobody's replica; a sentinel that sees to that cuts us off."""
        with suppress(ConnectionResetError):
            return bool(self.command("ROLE")[0] == b"master")
        return self.isPrimary

    def snapshot(self) -> dict[bytes, bytes]:
        """Have all that is in it."""
        keys = self.command("KEYS", "*")
        return dict(
            zip(keys, self.commands(*(("DUMP", key) for key in keys)), strict=True)
        )

    def goBack(self, snapshot: dict[bytes, bytes]) -> None:
        """Be as a replica that takes over, and was behind."""
        commands: list[tuple[object, ...]] = [("FLUSHALL",)]
        commands += (("RESTORE", key, 0, value) for key, value in snapshot.items())
        commands += (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"))
        self.commands(*commands)

    def subscribed(self, *channels: str) -> Subscriber:
        """Hear what is published from now on."""
        return Subscriber(self.path, channels)


def freePort() -> int:
    """Find a port of 127.0.0.1 that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert isinstance(port, int)
    return port


class Sentinel(RedisServer):
    """
    A sentinel, which alone may have a replica take over, and does so soon.  Where a
    machine is busy it does so also though the primary is there, and then there are two
    for a while; or it finds no replica fit for it, and looks again a little later.
    """

    ready = b"+monitor"

    def __init__(
        self,
        primary: RedisServer,
        *options: str,
        at: str = "",
        config: str = "",
    ) -> None:
        """
        @param at: the primary's host and port, as it is to know them.
        @param config: what is in its configuration file before that.
        """
        config += (
            f"sentinel monitor main {at or f'127.0.0.1 {primary.port}'} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 3000\n"
        )
        super().__init__("--sentinel", *options, port=freePort(), config=config)


class Subscriber:
    """A connection that hears what is published."""

    def __init__(self, path: str, channels: tuple[str, ...]) -> None:
        """ """
        from hiredis import Reader, pack_command

        self._reader = Reader()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(path)
        command: Any = ("SUBSCRIBE", *channels)
        self._socket.sendall(pack_command(command))
        for _ in channels:
            self._next()

    def _next(self) -> Any:
        """Wait for a message."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 16))
        return reply

    def heard(self) -> bytes:
        """Wait for what is published next."""
        data = self._next()[2]
        assert isinstance(data, bytes)
        return data

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


@cache
def sharedServer() -> RedisServer:
    """Start an engine that all tests of this process use, one after the other."""
    server = RedisServer()
    atexit.register(server.stop)
    return server


class Line:
    """
    One connection to an engine: a transport that waits for the test.

    @ivar isOpen: whether it is there.
    """

    disconnecting = False

    def __init__(self, protocol: Any, path: str) -> None:
        """ """
        from hiredis import Reader

        self._protocol = protocol
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(path)
        self._said, self._heard = Reader(), Reader()
        self._waiting: list[bytes] = []
        self.isOpen = True
        protocol.makeConnection(self)

    # ITransport

    def write(self, data: bytes) -> None:
        """Keep a command until the test lets it go."""
        if self.isOpen:
            self._waiting.append(data)

    def loseConnection(self) -> None:
        """End, when the test goes on."""
        self.disconnecting = True

    abortConnection = loseConnection

    # What the test does

    @property
    def isBusy(self) -> bool:
        """Whether something is to be done."""
        return self.isOpen and bool(self._waiting or self.disconnecting)

    def execute(self) -> bytes:
        """
        Have the engine do what it was told, all of it.

        @return: its replies.
        """
        waiting, self._waiting = b"".join(self._waiting), []
        self._said.feed(waiting)
        count = 0
        while self._said.gets() is not False:
            count += 1
        self._socket.sendall(waiting)
        heard = b""
        while count:
            data = self._socket.recv(1 << 20)
            assert data, "the engine hung up"
            heard += data
            self._heard.feed(data)
            while count and self._heard.gets() is not False:
                count -= 1
        return heard

    def deliver(self) -> None:
        """Have the engine do what it was told, and hear its replies."""
        heard = self.execute()
        if self.disconnecting:  # as Twisted's, it does not listen any more
            self.cut()
        elif heard:
            self._protocol.dataReceived(heard)

    def hear(self) -> None:
        """Wait until the engine says something that it was not asked."""
        self._protocol.dataReceived(self._socket.recv(1 << 20))

    def hearAll(self) -> bool:
        """
        Hear all that was published so far.

        @return: whether there was anything.
        """
        if not self.isOpen:
            return False
        self._socket.sendall(b"PING until-here\r\n")
        heard, end = b"", b"$10\r\nuntil-here\r\n"
        while not heard.endswith(end):
            heard += self._socket.recv(1 << 20)
        heard = heard.removesuffix(end).removesuffix(b"*2\r\n$4\r\npong\r\n")
        if heard:
            self._protocol.dataReceived(heard)
        return bool(heard)

    def cut(self) -> None:
        """
        End: what was not executed will not be, unless the test does it all the same,
        as an engine does that was frozen.
        """
        if self.isOpen:
            self.isOpen = False
            self._protocol.connectionLost(Failure(error.ConnectionLost()))

    def close(self) -> None:
        """Execute nothing any more."""
        self.cut()
        self._socket.close()


@implementer(IStreamClientEndpoint)
class Lines:
    """
    How a node reaches an engine.

    @ivar path: its socket; None if it cannot be reached.
    @ivar lines: all that were made, but doorbells.
    @ivar bells: all doorbells.
    """

    def __init__(self, path: str | None) -> None:
        """ """
        self.path = path
        self.lines: list[Line] = []
        self.bells: list[Line] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect at once."""
        if self.path is None:
            return fail(error.ConnectError(string="nobody is there"))
        protocol = protocolFactory.buildProtocol(UNIXAddress(self.path.encode()))
        assert protocol is not None
        isBell = hasattr(protocol, "subscribe")
        (self.bells if isBell else self.lines).append(Line(protocol, self.path))
        return succeed(protocol)

    @property
    def line(self) -> Line:
        """The newest connection."""
        return self.lines[-1]

    def deliver(self) -> bool:
        """
        Let everything go that waits.

        @return: whether there was anything.
        """
        busy = [line for line in (*self.lines, *self.bells) if line.isBusy]
        for line in busy:
            line.deliver()
        return bool(busy)

    def hearAll(self) -> bool:
        """
        Hear all that was published so far.

        @return: whether there was anything.
        """
        return any([bell.hearAll() for bell in self.bells])


class Node:
    """
    A node, as much of it as there is.

    @ivar store: its sessions.
    @ivar lines: how it reaches the engine.
    @ivar lost: what it was told of sessions that are not its own any more.
    @ivar lapses: how often it was told that it had been given up.
    """

    def __init__(
        self,
        clock: Clock,
        name: str,
        path: str | None,
        grace: float,
        user: str = "",
        sealer: Sealer | None = None,
        **options: Any,
    ) -> None:
        """@param options: of L{Engine}."""
        self.lines = Lines(path)
        address = EngineAddress.parse(f"redis://{user}127.0.0.1")
        self.engine = Engine(
            clock, address, "test", name, endpoint=self.lines, **options
        )
        self.store = EngineStore(self.engine, clock, grace, sealer)
        self.lost: list[tuple[Any, Any]] = []
        self.lapses = 0
        self._clock = clock
        self.store.lost = self._lose
        self.store.lapsed = self._lapsed

    def _lose(self, lost: Any, undone: Any) -> None:
        """Note what was lost, and the numbers of what others are not sent."""
        self.lost.append((lost, undone))

    def _lapsed(self) -> None:
        """Count."""
        self.lapses += 1

    def cut(self) -> None:
        """Lose all connections."""
        for line in (*self.lines.lines, *self.lines.bells):
            line.cut()

    def settle(self) -> None:
        """Let everything go, and what follows from it."""
        while self.lines.deliver():
            self._clock.advance(0)


class EngineTestCase(SynchronousTestCase):
    """
    Nodes with an engine that is empty at first.

    @ivar clock: the nodes'; the engine has its own.
    """

    def setUp(self) -> None:
        """Empty the engine."""
        self.clock = Clock()
        self.redis = sharedServer()
        self.redis.command("FLUSHALL")

    def node(self, name: str = "one", grace: float = GRACE, **options: Any) -> Node:
        """
        Have a node that has joined.

        @param options: of L{Engine}.
        """
        node, started = self.starting(name, grace, **options)
        self.successResultOf(started)
        return node

    def starting(
        self, name: str = "one", grace: float = GRACE, lost: Any = None, **options: Any
    ) -> tuple[Node, Deferred[list[Stored]]]:
        """
        Have a node that tries to join, and what becomes of that.

        @param lost: what the store is opened with.
        @param options: of L{Engine}.
        """
        node = Node(self.clock, name, self.redis.path, grace, **options)
        started = node.store.open(lost)
        node.settle()
        self.addCleanup(self.end, node)
        return node, started

    def setting(self, name: str, value: object, after: object) -> None:
        """Have the engine be set in another way, until the end of the test."""
        self.redis.command("CONFIG", "SET", name, value)
        self.addCleanup(self.redis.command, "CONFIG", "SET", name, after)

    def end(self, node: Node) -> None:
        """Let a node end; nothing is left then."""
        if not node.store._isClosed:
            node.store.close().addErrback(lambda failure: None)
            node.settle()
        for line in (*node.lines.lines, *node.lines.bells):
            line.close()

    def done(self, node: Node, deferred: Deferred[Any]) -> Any:
        """Let a node go on, and have what came of it."""
        node.settle()
        return self.successResultOf(deferred)

    def key(self, name: str) -> str:
        """Tell what the engine calls something."""
        return f"{{aesm:test}}:{name}"
