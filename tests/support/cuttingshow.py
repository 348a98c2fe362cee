"""
A client and a server that exchange numbered messages through a network that keeps
cutting their connection, each in a process of its own::

    python -m tests.support.cuttingshow --messages 200000 --rate 3500

Every message has to arrive, once and in order, in both directions.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from subprocess import PIPE, Popen
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogBeginner, textFileLogObserver
from zope.interface import implementer

from aesm import (
    AESMError,
    AnyServer,
    ClientService,
    Connection,
    IMessageHandler,
    Packet,
    PrivateKey,
    listen,
)

NAME = "tests.support.cuttingshow"
BURST = 100  # messages to send in one turn of the event loop
DONE = "done"  # what the server says last


def message(number: int) -> str | bytes:
    """
    Make a message: text or bytes, of many lengths, that can be told from all others.

    @param number: which one.
    """
    text = f"{number} {'x' * (number * 37 % 200)}"
    return text.encode() if number % 2 else text


class Counter:
    """
    Checks that messages come once and in order.

    @ivar complete: fires when all have.
    """

    def __init__(self, count: int) -> None:
        """@param count: how many there are to be."""
        self.complete: Deferred[None] = Deferred()
        self._count = count
        self._next = 0

    def take(self, data: object) -> None:
        """
        Check the next one.

        @param data: what came.
        @raise ValueError: it is not the next one.
        """
        if data != message(self._next):
            raise ValueError(f"{data!r} came instead of message {self._next}")
        self._next += 1
        if self._next == self._count:
            self.complete.callback(None)


async def sendAll(
    reactor: Any, end: Connection | ClientService, numbers: range, rate: float
) -> None:
    """
    Send messages.

    @param reactor: the reactor.
    @param end: over what.
    @param numbers: which.
    @param rate: how many a second.
    @raise AESMError: the other side may not have all of them.
    """
    sent: list[Deferred[None]] = []
    for number in numbers:
        sent.append(end.sendData(message(number)))
        if number % BURST == BURST - 1:
            await deferLater(reactor, BURST / rate)
            while sent and sent[0].called:
                await sent.pop(0)
    await gatherResults(sent)


def figures() -> str:
    """Say how much memory the process needed."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return f"{most} MiB at the most"


@implementer(IMessageHandler)
class Exchange:
    """
    The server's handler: of one client.

    @ivar over: fires when its session is over.
    """

    def __init__(self, reactor: Any, options: Any) -> None:
        """
        @param reactor: the reactor.
        @param options: how much to send, and how fast.
        """
        self.over: Deferred[AESMError] = Deferred()
        self._reactor = reactor
        self._options = options
        self._counter = Counter(options.messages)
        self._times = 0

    def connectionAccepted(self, connection: Connection) -> None:
        """
        Begin to send.

        @param connection: the client's.
        """
        Deferred.fromCoroutine(self._send(connection))

    async def _send(self, connection: Connection) -> None:
        """
        Send all, and say so when the client has it, and we have all of it.

        @param connection: the client's.
        """
        chosen = self._options
        numbers = range(chosen.messages)
        await sendAll(self._reactor, connection, numbers, chosen.rate)
        await self._counter.complete
        connection.sendData(DONE)
        print(f"server: all is there; {figures()}", flush=True)

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """
        Check it.

        @param connection: where it came from.
        @param packet: what came.
        """
        self._counter.take(packet.data)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """
        The session is over.

        @param connection: whose.
        @param reason: why.
        """
        self.over.callback(reason)


async def serve(reactor: Any, options: Any) -> None:
    """
    Be the server, of one session.

    @param reactor: the reactor.
    @param options: of the command line.
    """
    exchange = Exchange(reactor, options)
    server = await listen(
        reactor,
        "tcp:0:interface=127.0.0.1",
        key=PrivateKey.generate(),
        handler=exchange,
        heartbeat=options.heartbeat,
        handshakesPerHost=1e6,
    )
    print(f"listening on {server.address[1]}", flush=True)
    await exchange.over
    accepted = 0
    while (entry := server.connections.activity()) is not None:
        accepted += entry.event == "accepted"
    print(f"server: {accepted} connections; {figures()}", flush=True)
    await server.stop()


async def takeAll(service: ClientService, count: int) -> None:
    """
    Take messages, until the server says that it is done.

    @param service: where they come.
    @param count: how many there are to be.
    """
    counter = Counter(count)
    while (data := (await service.retrieved.get()).data) != DONE:
        counter.take(data)
    await counter.complete


async def call(reactor: Any, options: Any) -> None:
    """
    Be the client.

    @param reactor: the reactor.
    @param options: of the command line.
    """
    service = ClientService(
        f"tcp:127.0.0.1:{options.port}",
        reactor=reactor,
        key=PrivateKey.generate(),
        trust=AnyServer(),
        retryPolicy=backoffPolicy(0.01, 0.1, jitter=lambda: 0.0),
        heartbeat=options.heartbeat,
        handshakeTimeout=10 * options.heartbeat,
    )
    service.startService()
    taking = Deferred.fromCoroutine(takeAll(service, options.messages))
    half = options.messages // 2
    await sendAll(reactor, service, range(half), options.rate)
    print("client: half is there", flush=True)
    if options.wait:
        await deferToThread(sys.stdin.readline)
    await sendAll(reactor, service, range(half, options.messages), options.rate)
    await taking
    print(f"client: all is there; {figures()}", flush=True)
    await service.stopService()


def show(options: Any) -> int:
    """
    Run server, network and client, and tell how it went.

    @param options: of the command line.
    @return: the exit status of the client.
    """
    started = time.monotonic()
    common = [f"--messages={options.messages}", f"--rate={options.rate}"]
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))

        def start(*arguments: str) -> Popen[str]:
            """
            Start a process, which ends with the show.

            @param arguments: what follows C{python -m}.
            """
            command = [sys.executable, "-m", *arguments]
            process = stack.enter_context(
                Popen(command, stdout=PIPE, stderr=log, text=True)
            )
            stack.callback(process.kill)
            return process

        def portOf(process: Popen[str]) -> str:
            """
            Wait until a process listens.

            @param process: which.
            @return: the port.
            """
            assert process.stdout is not None
            return process.stdout.readline().rpartition(" ")[2].strip()

        server = start(NAME, *common, "serve")
        between = ["--seconds", *map(str, options.seconds)]
        proxy = start("tests.support.cuttingproxy", portOf(server), *between)
        client = start(NAME, *common, f"--port={portOf(proxy)}", "call")
        print(client.communicate()[0] + server.communicate()[0], end="")
        proxy.terminate()
        cuts = proxy.communicate()[0].count("cut ")
        print(f"{cuts} cuts in {time.monotonic() - started:.0f} seconds")
        log.seek(0)
        print(f"{log.read().count('Traceback')} tracebacks")
        return client.returncode


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", choices=("serve", "call"))
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rate", type=float, default=3500.0, help="a second")
    parser.add_argument("--seconds", type=float, nargs=2, default=(0.05, 0.5))
    parser.add_argument("--heartbeat", type=float, default=5.0)
    parser.add_argument("--port", type=int)
    parser.add_argument("--wait", action="store_true", help="for a line, half way")
    options = parser.parse_args()
    if options.role is None:
        sys.exit(show(options))
    observers = [textFileLogObserver(sys.stderr)]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    role = {"serve": serve, "call": call}[options.role]
    react(lambda reactor: Deferred.fromCoroutine(role(reactor, options)))


if __name__ == "__main__":
    main()
