"""
C{aesm bench}: what aesm does on this machine, between two processes over loopback.

The server runs as C{python -m aesm.commands.bench}: it says where it listens, and ends
with its standard input.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm._version import FORM, __version__
from aesm.client.connect import connect
from aesm.commands.command import Command
from aesm.commands.main import CoroutineRunner
from aesm.commands.output import writeLine
from aesm.errors import AESMError
from aesm.interfaces import IMessageHandler
from aesm.messages.connection import Connection
from aesm.messages.stream import Packet
from aesm.server.service import listen
from aesm.trust.keys import PrivateKey, PublicKey
from aesm.trust.servers import Pinned

ROUNDS = 3
CONNECTS = 50
ROUND_TRIPS = 500
SMALL = (64, 100_000)  # bytes of a message, messages
LARGE = (262_144, 400)
BURST = 131_072  # bytes of messages between two turns of the event loop


@implementer(IMessageHandler)
class _Echo:
    """Gives text back, and takes bytes."""

    def connectionAccepted(self, connection: Connection) -> None:
        """A client was let in."""

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """A message came."""
        if isinstance(packet.data, str):
            connection.sendData(packet.data)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """A client is gone."""


class _InputEnd(Protocol):
    """Waits for the end of standard input."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """It has ended."""
        self.ended.callback(None)


class _Bench:
    """The client."""

    def __init__(self, reactor: IReactorTime, port: int, publicKey: PublicKey) -> None:
        self._reactor = reactor
        self._port = port
        self._trust = Pinned(publicKey)
        self._key = PrivateKey.generate()

    def connect(self) -> Deferred[Connection]:
        """Connect."""
        return connect(
            self._reactor,
            f"tcp:127.0.0.1:{self._port}",
            key=self._key,
            trust=self._trust,
        )

    async def connects(self) -> float:
        """Connect and close, one at a time: seconds for each."""
        start = time.perf_counter()
        for _ in range(CONNECTS):
            await (await self.connect()).close()
        return (time.perf_counter() - start) / CONNECTS

    async def roundTrips(self) -> float:
        """Send a message and wait for the answer, one at a time: the median."""
        client, times = await self.connect(), []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            client.sendData("x" * 64)
            await client.retrieved.get()
            times.append(time.perf_counter() - start)
        await client.close()
        return median(times)

    async def messages(self, size: int, count: int) -> float:
        """Send messages one way, until the server has all of them: seconds for each."""
        client, data = await self.connect(), bytes(size)
        burst = max(1, BURST // size)
        start = time.perf_counter()
        for number in range(1, count + 1):
            last = client.sendData(data)
            # Messages of one turn share records, which is what is fast; but a
            # program also reads and does other things in between.
            if not number % burst:
                await client.drain()
                await deferLater(self._reactor, 0)
        await last  # acknowledgements are cumulative
        each = (time.perf_counter() - start) / count
        await client.close()
        return each

    async def run(self) -> None:
        """Measure, and print."""
        writeLine(f"aesm {__version__} ({FORM})")
        for what, words, measure in (
            ("connect and close", _milliseconds, self.connects),
            ("round trip, 64 B", _milliseconds, self.roundTrips),
            ("64 B messages", _rate, lambda: self.messages(*SMALL)),
            ("256 KiB messages", _bandwidth, lambda: self.messages(*LARGE)),
        ):
            times = [await measure() for _ in range(ROUNDS)]
            writeLine(f"{what:18} {words(median(times)):>16}")


def _milliseconds(seconds: float) -> str:
    """Say how long something takes."""
    return f"{seconds * 1e3:.2f} ms"


def _rate(seconds: float) -> str:
    """Say how often something can be done."""
    return f"{1 / seconds:,.0f} /s"


def _bandwidth(seconds: float) -> str:
    """Say how fast large messages go."""
    return f"{LARGE[0] / seconds / 1e6:,.0f} MB/s"


async def _serve(reactor: Any) -> int:
    """Be the server until standard input ends."""
    server = await listen(
        reactor,
        "tcp:0:interface=127.0.0.1",
        key=PrivateKey.generate(),
        handler=_Echo(),
        handshakesPerHost=1e6,  # all of them come from here
    )
    with suppress(BrokenPipeError):  # who has begun this was ended: so is the input
        print(server.address[1], server.publicKey, flush=True)
    standardInput = _InputEnd()
    StandardIO(standardInput)
    await standardInput.ended
    await server.stop()
    return 0


async def _measure(reactor: IReactorTime, said: str) -> int:
    """Be the client of the server that has printed its port and public key."""
    port, _, publicKey = said.partition(" ")
    await _Bench(reactor, int(port), PublicKey.fromText(publicKey.strip())).run()
    return 0


class BenchOptions(Command):
    """C{aesm bench}."""

    longdesc = (
        "Measures what aesm does on this machine, between two processes over loopback: "
        "medians of three rounds, with mutual authentication, hybrid handshakes and "
        "acknowledgements.  It takes some seconds."
    )

    def run(self) -> int:
        """Measure."""
        return bench()


def bench() -> int:
    """Measure, and return the exit status."""
    from twisted.internet import reactor

    with subprocess.Popen(
        [sys.executable, "-m", "aesm.commands.bench"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process; that one ends with it
    ) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        if not said:
            return 1  # it has said why
        return CoroutineRunner(reactor).run(lambda: _measure(reactor, said))


if __name__ == "__main__":
    from twisted.internet import reactor

    sys.exit(CoroutineRunner(reactor).run(lambda: _serve(reactor)))
