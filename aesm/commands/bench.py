"""
C{aesm bench}: what aesm does on this machine, between two processes over loopback.

The server runs as C{python -m aesm.commands.bench}: it says where it listens, and ends
with its standard input.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.client.connect import connect
from aesm.errors import AESMError
from aesm.interfaces import IMessageHandler
from aesm.messages.connection import Connection
from aesm.messages.stream import Packet
from aesm.server.service import listen
from aesm.trust.keys import PrivateKey, PublicKey
from aesm.trust.servers import Pinned

__all__ = ["bench"]

ROUNDS = 3
CONNECTS = 50
ROUND_TRIPS = 500
SMALL = (64, 100_000)  # bytes of a message, messages
LARGE = (262_144, 400)
BURST = 131_072  # bytes of messages between two turns of the event loop


@implementer(IMessageHandler)
class _Echo:
    """
    Gives text back, and takes bytes.
    """

    def connectionAccepted(self, connection: Connection) -> None:
        """
        A client was let in.

        @param connection: the client's.
        """

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """
        A message came.

        @param connection: the client's.
        @param packet: the message.
        """
        if isinstance(packet.data, str):
            connection.sendData(packet.data)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """
        A client is gone.

        @param connection: the client's.
        @param reason: why.
        """


class _UntilTheEnd(Protocol):
    """
    Waits for the end of standard input.
    """

    def __init__(self) -> None:
        """
        Start to wait.
        """
        self.ended: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        It has ended.

        @param reason: how.
        """
        self.ended.callback(None)


class _Bench:
    """
    The client.
    """

    def __init__(self, reactor: IReactorTime, port: int, publicKey: PublicKey) -> None:
        """
        @param reactor: the reactor.
        @param port: where the server is.
        @param publicKey: its key.
        """
        self._reactor = reactor
        self._port = port
        self._trust = Pinned(publicKey)
        self._key = PrivateKey.generate()

    def connect(self) -> Deferred[Connection]:
        """
        Connect.

        @return: fires with the connection.
        """
        return connect(
            self._reactor,
            f"tcp:127.0.0.1:{self._port}",
            key=self._key,
            trust=self._trust,
        )

    async def connects(self) -> float:
        """
        Connect and close, one at a time.

        @return: seconds for each.
        """
        start = time.perf_counter()
        for _ in range(CONNECTS):
            await (await self.connect()).close()
        return (time.perf_counter() - start) / CONNECTS

    async def roundTrips(self) -> float:
        """
        Send a message and wait for the answer, one at a time.

        @return: seconds for each, the median.
        """
        client, times = await self.connect(), []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            client.sendData("x" * 64)
            await client.retrieved.get()
            times.append(time.perf_counter() - start)
        await client.close()
        return median(times)

    async def messages(self, size: int, count: int) -> float:
        """
        Send messages one way, until the server has all of them.

        @param size: bytes of each.
        @param count: how many.
        @return: seconds for each.
        """
        client, data = await self.connect(), bytes(size)
        burst = max(1, BURST // size)
        start = time.perf_counter()
        for number in range(1, count + 1):
            last = client.sendData(data)
            if not number % burst:
                await client.drain()
                await deferLater(self._reactor, 0)
        await last
        each = (time.perf_counter() - start) / count
        await client.close()
        return each

    async def run(self) -> None:
        """
        Measure, and print.
        """
        for what, words, measure in (
            ("connect and close", _milliseconds, self.connects),
            ("round trip, 64 B", _milliseconds, self.roundTrips),
            ("64 B messages", _rate, lambda: self.messages(*SMALL)),
            ("256 KiB messages", _bandwidth, lambda: self.messages(*LARGE)),
        ):
            times = [await measure() for _ in range(ROUNDS)]
            print(f"{what:18} {words(median(times)):>16}", flush=True)


def _milliseconds(seconds: float) -> str:
    """
    Say how long something takes.

    @param seconds: for one.
    """
    return f"{seconds * 1e3:.2f} ms"


def _rate(seconds: float) -> str:
    """
    Say how often something can be done.

    @param seconds: for one.
    """
    return f"{1 / seconds:,.0f} /s"


def _bandwidth(seconds: float) -> str:
    """
    Say how fast large messages go.

    @param seconds: for one.
    """
    return f"{LARGE[0] / seconds / 1e6:,.0f} MB/s"


def _run(main: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> int:
    """
    Run the reactor until something is done.

    @param main: what to do, with the reactor.
    @param arguments: with what else.
    @return: the exit status.
    """
    try:
        react(lambda reactor: Deferred.fromCoroutine(main(reactor, *arguments)))
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("the reactor's end is a SystemExit")


async def _serve(reactor: Any) -> None:
    """
    Be the server.

    @param reactor: the reactor.
    """
    server = await listen(
        reactor,
        "tcp:0:interface=127.0.0.1",
        key=PrivateKey.generate(),
        handler=_Echo(),
        handshakesPerHost=1e6,
    )
    print(server.address[1], server.publicKey, flush=True)
    waiting = _UntilTheEnd()
    StandardIO(waiting)
    await waiting.ended
    await server.stop()


async def _measure(reactor: IReactorTime, said: str) -> None:
    """
    Be the client.

    @param reactor: the reactor.
    @param said: what the server said.
    """
    port, _, publicKey = said.partition(" ")
    await _Bench(reactor, int(port), PublicKey.fromText(publicKey.strip())).run()


def bench() -> int:
    """
    Measure.

    @return: the exit status.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "aesm.commands.bench"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        return _run(_measure, said) if said else 1  # it has said why


if __name__ == "__main__":
    sys.exit(_run(_serve))
