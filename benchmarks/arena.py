"""
Where attacks happen: real servers, and clients from some hosts of 127.0.0.0/8::

    with Arena(sys.executable) as arena:
        server = arena.server("--handler", "echo")
        times = roundTrips(arena.peer(server.port, GOOD), 2)
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from tests.support.foreign import ACK, PING, PONG, TEXT, Client, Refused

__all__ = [
    "CROWD",
    "EVIL",
    "GONE",
    "GOOD",
    "MIB",
    "OTHER",
    "SMALL",
    "SUITE",
    "Arena",
    "Server",
    "batch",
    "cut",
    "dial",
    "enter",
    "expect",
    "getsIn",
    "roundTrips",
    "untilAcknowledged",
]

SUITE = "Noise_XX_25519_AESGCM_SHA256"
EVIL, OTHER, GOOD = "127.0.0.3", "127.0.0.5", "127.0.0.9"  # hosts
START = 15.0  # seconds for a server to start, and to end
MIB = 1 << 20
GONE = (OSError, Refused)  # what ends a connection that the server does not want

# A server that echoes, with little room.
SMALL = """
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react
from zope.interface import implementer
from aesm import IMessageHandler, listen

@implementer(IMessageHandler)
class Echo:
    def connectionAccepted(self, connection): pass
    def packetReceived(self, connection, packet):
        connection.sendData(packet.data)
        return connection.drain()
    def connectionLost(self, connection, reason): pass

async def main(reactor):
    bounds = {"totalBuffer": 32 << 20, "sendBuffer": 4 << 20, "receiveBuffer": 1 << 20}
    server = await listen(
        reactor, "tcp:0:interface=127.0.0.1", handler=Echo(), **bounds
    )
    print(f"listening on 127.0.0.1:{server.address[1]}", flush=True)
    await Deferred()

react(lambda reactor: ensureDeferred(main(reactor)))
"""

# Clients of the product, each with a key; a line of standard input asks again.
CROWD = """
import sys, time
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from aesm import AnyServer, ClientService, PrivateKey

async def main(reactor):
    services = [
        ClientService(
            f"tcp:127.0.0.1:{sys.argv[1]}", reactor=reactor,
            key=PrivateKey.generate(), trust=AnyServer(),
        )
        for _ in range(int(sys.argv[2]))
    ]
    for service in services:
        service.startService()
    while True:
        for service in services:
            await service.whenConnected()
        print(time.monotonic(), flush=True)
        if not await deferToThread(sys.stdin.readline):
            return

react(lambda reactor: ensureDeferred(main(reactor)))
"""


class Server:
    """A server in a process of its own, on 127.0.0.1."""

    def __init__(self, command: list[str], folder: Path, files: int | None) -> None:
        """
        @param command: starts it; it says where it listens.
        @param folder: an empty one, or that of the server that this one goes on for.
        @param files: its limit on open files; None for ours.
        """
        self.log = folder / "log"

        def limit() -> None:
            """Set the limit in the child."""
            if files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                # What it writes is read in /proc.
                env={**os.environ, "AESM_HOME": str(folder), "AESM_CORE_DUMPS": "1"},
                preexec_fn=limit,
            )
        end = time.monotonic() + START
        while not (said := re.search(r"listening on 127.0.0.1:(\d+)", self.text())):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"the server did not start: {self.text()[-400:]}")
            time.sleep(0.02)
        self.port = int(said[1])

    def stop(self) -> None:
        """End it, if it has not ended."""
        self.process.terminate()
        try:
            self.process.wait(START)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def text(self) -> str:
        """Return its log."""
        return self.log.read_text("utf-8", "replace")

    def cpu(self) -> float:
        """Return the seconds of processor time that it has had."""
        fields = self._proc("stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """Return its resident memory in MiB."""
        return int(self._proc("statm").split()[1]) * resource.getpagesize() / MIB

    def written(self) -> int:
        """Return how many bytes it has written to files."""
        return int(self._proc("io").partition("wchar: ")[2].split()[0])

    def _proc(self, name: str) -> str:
        """Read what Linux says of the process."""
        return Path(f"/proc/{self.process.pid}/{name}").read_text()


class Arena(ExitStack):
    """Where an attack happens: what it has started ends with it."""

    def __init__(self, python: str) -> None:
        """@param python: of the environment whose servers are attacked."""
        super().__init__()
        self.python = python
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory()))

    def server(self, *options: str, port: int = 0, files: int | None = None) -> Server:
        """Start C{twistd aesm}."""
        twistd = "from twisted.scripts.twistd import run; run()"
        words = ["-n", "--pidfile=", "aesm"]
        listen = ["--listen", f"tcp:{port}:interface=127.0.0.1"]
        return self._serve(files, "-c", twistd, *words, *listen, *options)

    def program(self, text: str) -> Server:
        """Start a server of one's own."""
        return self._serve(None, "-c", text)

    def _serve(self, files: int | None, *words: str) -> Server:
        """Start a server, and stop it in the end."""
        server = Server([self.python, *words], self.folder, files)
        self.callback(server.stop)
        return server

    def clients(self, text: str, *words: str) -> subprocess.Popen[str]:
        """Start a program of clients, with pipes."""
        process = subprocess.Popen(
            [self.python, "-c", text, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )
        self.callback(process.wait)
        self.callback(process.kill)
        return process

    def attacker(self, function: Callable[..., None], *words: Any) -> None:
        """Run a function in a process of its own, until the end."""

        def run() -> None:
            """Be unimportant, and end quietly."""
            os.nice(10)
            with suppress(*GONE):
                function(*words)

        process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
        process.start()
        self.callback(process.join)
        self.callback(process.kill)

    def peer(self, port: int, host: str = EVIL, **options: Any) -> Client:
        """Get in; be cut off in the end."""
        client = enter(port, host, **options)
        self.callback(client.socket.close)
        return client


def dial(
    port: int, host: str, timeout: float = 10.0, buffer: int | None = None
) -> socket.socket:
    """
    Connect from a host.

    @param buffer: bytes that the system is to keep of what was not read.
    """
    sock = socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(timeout)
    sock.bind((host, 0))
    sock.connect(("127.0.0.1", port))
    return sock


def enter(
    port: int,
    host: str,
    hello: dict[str, Any] | None = None,
    key: bytes | None = None,
    **options: Any,
) -> Client:
    """
    Connect from a host, and get in.

    @param options: of L{dial}.
    @raise Refused: the server says CLOSE.
    @raise OSError: it hangs up, or says nothing.
    """
    sock = dial(port, host, **options)
    try:
        return Client(port, SUITE, hello=hello, key=key, connected=sock)
    except BaseException:
        sock.close()
        raise


def getsIn(port: int, host: str) -> bool:
    """Tell whether somebody new gets in."""
    with suppress(*GONE), closing(enter(port, host, timeout=5.0).socket):
        return True
    return False


def cut(client: Client) -> None:
    """Cut a connection off, with a reset."""
    client.socket.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    client.socket.close()


def expect(client: Client, *kinds: int) -> tuple[int, bytes]:
    """Read up to a frame of some kinds."""
    while True:
        kind, _, body = client.readFrame()
        if kind in kinds:
            return kind, body


def untilAcknowledged(client: Client, count: int) -> None:
    """Read until so many messages are acknowledged."""
    while int.from_bytes(expect(client, ACK)[1][:8], "big") < count:
        pass


def batch(count: int, body: bytes = b"") -> bytes:
    """Make the body of a BATCH of so many texts."""
    lengths = struct.pack(">I", len(body)) * count
    return struct.pack(">I", count) + lengths + body * count


def roundTrips(client: Client, seconds: float, ping: bool = False) -> list[float]:
    """
    Let a good client ask again and again.

    @param ping: with PINGs, of which some 90 are allowed, instead of messages that
        come back.
    @return: the milliseconds that each answer took, the longest last.
    """
    times = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        client.send(*((PING, b"p") if ping else (TEXT, b"x" * 20)))
        expect(client, PONG) if ping else client.readMessage()
        times.append((time.monotonic() - began) * 1000)
        time.sleep(0.05 if ping else 0.03)
    return sorted(times)
