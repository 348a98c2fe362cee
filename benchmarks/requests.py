"""
Whether requests keep their promise: clients ask and a server answers, both with
spools, through a network that keeps cutting their connections, while their processes
are killed (SIGKILL) and started again::

    python -m benchmarks.requests          # a million, 10,000 cuts, 100 kills of each
    python -m benchmarks.requests --requests 5000 --cuts 50 --kills 3 --seed 4

Each side writes down what it does, in a ledger that a kill leaves whole.  In the end
both are compared: each request was answered once, with what the server's ledger has
for it, or its caller was told why not.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from subprocess import DEVNULL, PIPE, Popen
from threading import Thread
from typing import Any, TextIO, cast

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater, react
from twisted.logger import globalLogBeginner, textFileLogObserver

from aesm import (
    AESMError,
    Answer,
    AnyServer,
    ClientService,
    Connection,
    MessageHandler,
    PrivateKey,
    RequestFailed,
    listen,
)

__all__ = ["Found", "run"]

CLIENTS = 4  # connections, each with a key and a spool
UNDER_WAY = 50  # requests of each
CROSSING = 195  # bytes of a connection for each request: its own, of a handshake, again
GRACE = 600.0  # seconds that a session waits: nobody is to be late
REFUSED = 4242
WAIT = 600.0  # seconds for anything


class Ledger:
    """Lines of a file: what is written is there, though the process is killed."""

    def __init__(self, path: Path) -> None:
        """@param path: the file, made if there is none."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, *words: object) -> None:
        """
        Write a line.

        @param words: what it says.
        """
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def _lines(path: Path) -> Iterator[list[str]]:
    """Read a ledger, if there is one."""
    if path.exists():
        with path.open() as file:
            for line in file:
                yield line.split()


# The server's process


class Answerer(MessageHandler):
    """Answers at once or a little later, or refuses."""

    def __init__(self, reactor: Any) -> None:
        """@param reactor: runs."""
        self._reactor = reactor
        self._ledger = Ledger(Path("server.ledger"))
        self._random = random.Random()
        self._count = 0

    def requestReceived(self, connection: Any, packet: Any) -> Any:
        """
        Write down that it was begun, under a name that no other has.

        @return: what the client is to find in this ledger.
        """
        self._count += 1
        name = f"{os.getpid()}.{self._count}"
        self._ledger.write(packet.data, name)
        what = self._random.random()
        if what < 0.1:
            raise RequestFailed(REFUSED, f"{packet.data} {name}")
        if what < 0.3:
            return deferLater(self._reactor, what / 10, str, f"{packet.data} {name}")
        return f"{packet.data} {name}"


async def serve(reactor: Any, options: argparse.Namespace) -> None:
    """Be the server until ended."""
    server = await listen(
        reactor,
        f"tcp:{options.port}:interface=127.0.0.1",
        key=PrivateKey.loadOrCreate("server.key"),
        handler=Answerer(reactor),
        spool="server.spool",
        sessionGrace=GRACE,
        handshakesPerHost=1e6,
    )
    reactor.addSystemEventTrigger("before", "shutdown", server.stop)
    print(f"listening on {options.port}", flush=True)
    await Deferred()


# The clients' process


class Asker:
    """
    One client: asks, and writes down what for, and what becomes of it.

    @ivar settled: which of its requests are answered, refused, or lost and told of.
    """

    def __init__(
        self, reactor: Any, index: int, port: int, count: int, tell: Callable[[], None]
    ) -> None:
        """
        Go on where a former process was killed.

        @param index: which client it is.
        @param count: how many requests there are in all.
        @param tell: called when one more is settled.
        """
        name = f"client{index}"
        self.settled: set[int] = set()
        self._asked: dict[int, int] = {}  # by the number of the message
        for what, request, *rest in _lines(Path(f"{name}.ledger")):
            if what == "asked":
                self._asked[int(rest[0])] = int(request)
            else:
                self.settled.add(int(request))
        self._ledger = Ledger(Path(f"{name}.ledger"))
        self._name = name
        self._count = count
        self._tell = tell
        self._all: Deferred[None] = Deferred()
        self._service = ClientService(
            f"tcp:127.0.0.1:{port}",
            reactor=reactor,
            key=PrivateKey.loadOrCreate(f"{name}.key"),
            trust=AnyServer(),
            spool=f"{name}.spool",
            retryPolicy=backoffPolicy(0.01, 0.1, jitter=lambda: 0.0),
        )

    async def run(self) -> None:
        """Ask until all is settled."""
        self._service.startService()
        connection = await self._service.whenConnected()
        taking = Deferred.fromCoroutine(self._take()).addErrback(self._all.errback)
        # What was written down with a number that is still to be given was never
        # accepted: the former process was killed in between.
        following = connection.nextNumber
        asked = {each for number, each in self._asked.items() if number < following}
        left = (each for each in range(self._count) if each not in asked)
        asking = [self._ask(left, connection) for _ in range(UNDER_WAY)]
        await gatherResults([Deferred.fromCoroutine(each) for each in asking])
        if len(self.settled) < self._count:
            await self._all
        taking.cancel()
        await self._service.stopService()

    async def _ask(self, left: Iterator[int], connection: Connection) -> None:
        """Ask one after another."""
        for each in left:
            self._ledger.write("asked", each, connection.nextNumber)
            answer = self._service.request(f"{self._name}:{each}")
            try:
                self._settle("answered", str(await answer))
            except RequestFailed as refusal:
                self._settle("refused", refusal.reason)
            except AESMError as error:
                self._settle("told", f"{self._name}:{each} {type(error).__name__}")

    async def _take(self) -> None:
        """Take the answers to what a former process asked."""
        with suppress(CancelledError):
            async for packet in self._service.retrieved:
                answer = cast(Answer, packet)
                if answer.failure is not None:
                    self._settle("refused", answer.failure.reason)
                else:
                    self._settle("answered", str(answer.data))

    def _settle(self, what: str, text: str) -> None:
        """
        Write down what became of a request.

        @param what: in a word.
        @param text: which request, and the name under which it was begun.
        """
        request, name = text.split()
        number = int(request.partition(":")[2])
        self._ledger.write(what, number, name, os.getpid())
        self.settled.add(number)
        self._tell()
        if len(self.settled) == self._count and not self._all.called:
            self._all.callback(None)


async def ask(reactor: Any, options: argparse.Namespace) -> None:
    """Be the clients, and say how much is settled."""
    step = max(1, options.requests // (10 * options.kills + 10))
    said = 0

    def tell() -> None:
        """Say it, now and then."""
        nonlocal said
        settled = sum(len(asker.settled) for asker in askers)
        if settled >= said + step or settled == options.requests:
            said = settled
            print(f"settled {settled}", flush=True)

    askers = [
        Asker(reactor, index, options.port, options.requests // CLIENTS, tell)
        for index in range(CLIENTS)
    ]
    tell()
    await gatherResults([Deferred.fromCoroutine(asker.run()) for asker in askers])


# What both have written down


@dataclass
class Found:
    """
    What the ledgers say.

    @ivar counts: of requests by what became of them.
    @ivar wrong: what must not be, a line each.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def compare(folder: Path, requests: int) -> Found:
    """
    Compare the ledgers of both sides.

    @param folder: where they are.
    @param requests: how many there were to be.
    """
    found = Found()
    begun: defaultdict[str, list[str]] = defaultdict(list)
    for request, name in _lines(folder / "server.ledger"):
        begun[request].append(name)
    found.counts["begun again after a kill"] = sum(map(len, begun.values())) - len(
        begun
    )
    for index in range(CLIENTS):
        settled: defaultdict[int, list[tuple[str, str, str]]] = defaultdict(list)
        for what, number, name, *rest in _lines(folder / f"client{index}.ledger"):
            if what != "asked":
                settled[int(number)].append((what, name, rest[0]))
        for each in range(requests // CLIENTS):
            request = f"client{index}:{each}"
            if not settled[each]:
                found.wrong.append(f"{request} was neither answered nor told of")
                continue
            what, name, _ = settled[each][0]
            found.counts[what] += 1
            if what != "told" and name not in begun[request]:
                found.wrong.append(f"{request} has an answer that nobody gave: {name}")
            if len({(what, name) for what, name, _ in settled[each]}) > 1:
                found.wrong.append(f"{request} came to two ends: {settled[each]}")
            processes = [process for _, _, process in settled[each]]
            if len(set(processes)) < len(processes):
                found.wrong.append(f"{request} was answered twice: {settled[each]}")
            found.counts["seen again after a kill"] += len(processes) - 1
    return found


# Who starts, cuts and kills


class Process:
    """A process that says a number in each of its lines."""

    def __init__(self, log: TextIO, module: str, *words: str) -> None:
        """
        Start it.

        @param log: where its errors go.
        @param module: what it runs.
        @param words: its command line.
        """
        self.popen = Popen(
            [sys.executable, "-m", module, *words],
            cwd=Path(__file__).parent.parent,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=log,
            text=True,
        )
        self.lines: SimpleQueue[str] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Read until the end, which is an empty line."""
        assert self.popen.stdout is not None
        with self.popen.stdout as stdout:
            for line in stdout:
                self.lines.put(line)
        self.lines.put("")

    def number(self) -> int:
        """
        Wait for a line.

        @raise RuntimeError: the process has ended.
        """
        line = self.lines.get(timeout=WAIT)
        if not line:
            raise RuntimeError(f"the process has ended: {self.popen.args!r}")
        return int(line.split()[-1])

    def kill(self) -> None:
        """Kill it."""
        self.popen.kill()
        self.popen.wait()


def run(requests: int, cuts: int, kills: int, seed: int, folder: Path) -> Found:
    """
    Let it happen, and compare the ledgers.

    @param requests: how many, of all clients.
    @param cuts: how many connections are to be cut, about.
    @param kills: how often the server is killed, and how often the clients are.
    @param seed: of when who is killed, and where connections are cut.
    @param folder: an empty one, for ledgers, spools and the log.
    """
    moments = random.Random(seed)
    running: dict[str, Process] = {}
    ports: dict[str, int] = {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ports["serve"] = free.getsockname()[1]

    with (folder / "log").open("a+") as log, ExitStack() as stack:

        def start(role: str, module: str, *words: str) -> Process:
            """Start a process, which ends with the run."""
            running[role] = process = Process(log, module, *words)
            stack.callback(process.kill)
            return process

        def begin(role: str) -> None:
            """Start the server, or the clients."""
            words = f"--folder={folder} --port={ports[role]} --requests={requests}"
            start(role, "benchmarks.requests", *words.split(), role)
            if role == "serve":
                running[role].number()

        def settled(mark: int) -> None:
            """Wait until so many requests are settled."""
            while running["ask"].number() < mark:
                pass

        begin("serve")
        size = CROSSING * requests // max(1, cuts)
        words = f"{ports['serve']} --bytes={size} --seed={seed}"
        network = start("network", "tests.support.cuttingproxy", *words.split())
        ports["ask"] = network.number()
        begin("ask")
        victims = ["serve", "ask"] * kills
        moments.shuffle(victims)
        marks = sorted(moments.sample(range(requests), len(victims)))
        for mark, victim in zip(marks, victims, strict=True):
            settled(mark)
            running[victim].kill()
            begin(victim)
        settled(requests)
        running["ask"].popen.wait(WAIT)
        running["serve"].popen.terminate()
        running["serve"].popen.wait(WAIT)
        found = compare(folder, requests)
        said = [network.lines.get() for _ in range(network.lines.qsize())]
        found.counts["cut"] = sum(line.startswith("cut ") for line in said)
        log.seek(0)
        found.wrong += [line for line in log if line.startswith("Traceback")]
    return found


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requests")
    parser.add_argument("role", nargs="?", choices=("serve", "ask"))
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--cuts", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100, help="of each side")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--folder", type=Path, help="to keep; an empty one")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role is not None:
        os.chdir(options.folder)
        observers = [textFileLogObserver(sys.stderr)]
        globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
        role = {"serve": serve, "ask": ask}[options.role]
        react(lambda reactor: Deferred.fromCoroutine(role(reactor, options)))
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        found = run(
            options.requests,
            options.cuts,
            options.kills,
            options.seed,
            options.folder or Path(temporary),
        )
    for what, count in found.counts.items():
        print(f"{count:,} {what}")
    print(f"{time.monotonic() - began:.0f} seconds; {len(found.wrong)} wrong")
    sys.exit("\n".join(found.wrong[:20]) or None)


if __name__ == "__main__":
    main()
