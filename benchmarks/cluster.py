"""
What it costs to have many nodes, with their sessions in an engine::

    python -m benchmarks.cluster                           # a redis-server of its own
    python -m benchmarks.cluster --url redis://10.0.0.5    # another one
    python -m benchmarks.cluster --only engine             # or: relay

C{engine}: commits, and taking a session over, over a real socket, from the call to the
Deferred: turns of one session, of a hundred that each send a message of 64 bytes and
have one acknowledged, with their states; a claim of a session with a hundred turns of
4 KiB that are not acknowledged.  Each has the median, the least, and what the node and
the engine worked for one, whatever else the machine does meanwhile.  Then the bytes of
memory that the engine has for a session that is idle.

C{relay}: clients that send at a steady rate what all others get, by one node without an
engine, and by one, two and three with one, in rounds, every other one backwards.  What
is told is processor time.  Even that is another one on a busy machine: a node that has
to wait for a processor finds more to do in each turn of its event loop, and does more
of it at once, so that the I{least} time is that of the round that was disturbed most.
So the system is asked how long the nodes, and we, waited, and of each kind the half of
the rounds counts that waited least, whatever came of them: medians of these, and how
long they waited, as a part of the time in which they worked.  Where that is more than
a tenth, the machine was too busy to tell.  It takes Linux.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from aesm import AnyServer, ClientService, PrivateKey
from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import Engine
from aesm.cluster.store import EngineStore
from benchmarks.arena import Arena, Server

__all__ = ["measured", "relayed"]

CLUSTER = "benchmark"
SESSIONS, MANY = 100, 1000
TURNS, TURN = 100, 4096  # bytes
MESSAGE = b"x" * 64
WARM = 1.0  # seconds before anything is measured
TICK = 0.05  # seconds between the bursts of those who send
PATIENCE = 60.0  # seconds in which something has to come
KINDS = {"alone": 0, "1 node": 1, "2 nodes": 2, "3 nodes": 3}  # nodes with an engine
STATE = {
    "address": ["192.0.2.1", 50000],
    "peerName": "alice",
    "over": False,
    "maxMessage": 1 << 20,
    "requests": 0,
    "acknowledged": 12345,
    "acknowledgedCost": 1234567,
    "limit": 2345678,
    "received": 12345,
    "receivedCost": 1234567,
    "takenCost": 1234567,
    "window": 1 << 20,
    "first": 12345,
    "taken": [],
}


@contextmanager
def running() -> Iterator[str]:
    """Run an engine; tell where it is."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("install redis-server, or say --url")
    with tempfile.TemporaryDirectory(prefix="aesm-engine-") as folder:
        path = Path(folder, "socket")
        command = [program, "--port", "0", "--unixsocket", str(path)]
        command += ["--save", "", "--dir", folder]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if b"eady to accept connections" in line:
                    break
            yield f"redis+unix://{path}"
        finally:
            process.kill()
            process.communicate()


async def timed(
    engine: Engine, times: int, run: Callable[[int], Awaitable[object]]
) -> list[float]:
    """
    Do something many times.

    @param run: what, told which time it is.
    @return: the median, the least, the node's CPU and the engine's, milliseconds.
    """
    took = []
    cpu, other = time.process_time(), await processed(engine)
    for number in range(times):
        before = time.perf_counter()
        await run(number)
        took.append(time.perf_counter() - before)
    cpu, other = time.process_time() - cpu, await processed(engine) - other
    each = (median(took), min(took), cpu / times, other / times)
    return [seconds * 1000 for seconds in each]


async def measured(reactor: Any, url: str, times: int) -> dict[str, list[float]]:
    """
    Measure all of it.

    @param times: how often each.
    @return: the figures, by what they are of.
    """
    address = EngineAddress.parse(url)
    stores = []
    for _ in range(2):
        engine = Engine(reactor, address, CLUSTER, secrets.token_hex(8))
        stores.append(EngineStore(engine, reactor, 60.0))
        await stores[-1].open()
    store, engine = stores[0], stores[0].engine
    found: dict[str, list[float]] = {}
    many = [secrets.token_hex(16) for _ in range(MANY)]
    before = await told(engine, "memory", "used_memory")
    for name in many:
        await store.begin(name, secrets.token_hex(22), STATE)
        store.attend(name, True)
    await store.commit()
    idle = await told(engine, "memory", "used_memory") - before
    names = many[:SESSIONS]

    def turn(names: list[str], number: int) -> Deferred[None]:
        """Let something happen to sessions."""
        for name in names:
            store.put(name, "", STATE)
            store.append(name, True, number, 1, MESSAGE)
            store.discard(name, True, number)
        return store.commit()

    one = names[:1]
    found["commit of 1"] = await timed(engine, times, lambda n: turn(one, n))
    behind = times
    found["commit of 100"] = await timed(
        engine, times, lambda n: turn(names, behind + n)
    )
    peer = secrets.token_hex(22)
    kept = secrets.token_hex(16)
    await store.begin(kept, peer, STATE)
    for number in range(TURNS):
        store.append(kept, True, number, 1, secrets.token_bytes(TURN))
    await store.commit()

    async def take(number: int) -> None:
        """Take it over, each in turn."""
        taken: Any = await stores[(number + 1) % 2].claim(kept, peer)
        assert taken is not None, "it was not taken over"

    found["take-over"] = await timed(engine, times, take)
    found["bytes of a session"] = [idle / MANY]
    for name in (*many, kept):
        store.drop(name)
    for store in stores:
        await store.close()
    return found


async def told(engine: Engine, section: str, name: str) -> float:
    """Ask the engine for one of its figures."""
    info = await engine.execute(engine._protocol, "INFO", section)
    lines = dict(line.split(b":", 1) for line in info.split() if b":" in line)
    return float(lines[name.encode()])


async def processed(engine: Engine) -> float:
    """Tell for how long the engine has worked, seconds."""
    names = ("used_cpu_user", "used_cpu_sys")
    return sum([await told(engine, "cpu", name) for name in names])


def cpu(pid: int) -> float:
    """Return the seconds of processor time that a process has had."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)


def waited(pid: int) -> float:
    """Return the seconds for which a process has waited for a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


class Crowd:
    """
    Clients, spread over servers, of which all get what any of them sends.

    @ivar received: how many messages have come, in all.
    """

    def __init__(self, reactor: Any, servers: list[Server], size: int) -> None:
        """@param size: how many clients."""
        self.received = 0
        self._reactor = reactor
        self._services: list[ClientService] = []
        for number in range(size):
            port = servers[number % len(servers)].port
            service = ClientService(
                f"tcp:127.0.0.1:{port}",
                reactor=reactor,
                key=PrivateKey.generate(),
                trust=AnyServer(),
            )
            service.startService()
            self._services.append(service)
            Deferred.fromCoroutine(self._take(service))

    async def _take(self, service: ClientService) -> None:
        """Count what comes."""
        async for _ in service.retrieved:
            self.received += 1

    async def run(self, rate: float, seconds: float) -> int:
        """
        Send at a steady rate, each client in turn, until all has come.

        @param rate: messages a second, of all clients together.
        @return: how many were sent.
        """
        services, began, sent = self._services, time.monotonic(), 0
        due = self.received
        for service in services:
            await service.whenConnected()
        total = int(rate * seconds)
        while sent < total:
            await deferLater(self._reactor, TICK)
            elapsed = time.monotonic() - began
            for _ in range(min(int(elapsed * rate), total) - sent):
                services[sent % len(services)].sendData(MESSAGE)
                sent += 1
        due += sent * (len(services) - 1)
        last, since = self.received, time.monotonic()
        while self.received < due:
            await deferLater(self._reactor, TICK)
            if self.received > last:
                last, since = self.received, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise SystemExit(f"{due - self.received} messages did not come")
        return sent

    async def end(self) -> None:
        """Go away."""
        for service in self._services:
            await service.stopService()


async def relayed(reactor: Any, url: str, options: Any) -> dict[str, list[float]]:
    """
    Measure what a message costs that goes to all clients.

    @param options: C{rounds}, C{clients}, C{rate}, C{seconds}.
    @return: for each of L{KINDS} microseconds of processor time for each message: of
        the busiest node, of all nodes, of the engine; for which part of their time
        they waited; and how much the first is of that of one node with an engine.
    """
    engine = Engine(reactor, EngineAddress.parse(url), CLUSTER, secrets.token_hex(8))
    await engine.start()
    rounds: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for number in range(options.rounds):
        for kind in list(KINDS)[:: -1 if number % 2 else 1]:
            figures = await _relayedBy(reactor, engine, url, KINDS[kind], options)
            rounds[kind].append(figures)
    await engine.stop()
    found = {kind: undisturbed(rows) for kind, rows in rounds.items()}
    return {
        kind: [*figures, figures[0] / found["1 node"][0]]
        for kind, figures in found.items()
    }


def undisturbed(rounds: list[list[float]]) -> list[float]:
    """
    Take the medians of the half of the rounds that waited least.

    @param rounds: of each the figures, how long it waited the last of them.
    """
    least = sorted(rounds, key=itemgetter(-1))[: (len(rounds) + 1) // 2]
    return [median(column) for column in zip(*least, strict=True)]


async def _relayedBy(
    reactor: Any, engine: Engine, url: str, nodes: int, options: Any
) -> list[float]:
    """
    Measure one kind once, when all is warm.

    @param nodes: 0 for one without an engine.
    @return: microseconds of the busiest node, of all, and of the engine; and for which
        part of the time in which we and the nodes worked we waited.
    """
    with ExitStack() as stack:
        arenas = [stack.enter_context(Arena(sys.executable)) for _ in range(nodes or 1)]
        key = arenas[0].folder / "key"
        PrivateKey.generate().save(key)
        words = ["--handler", "relay", "--key", str(key)]
        words += ["--max-connections-per-host", "10000"]
        if nodes:
            words += ["--cluster", url, "--cluster-name", secrets.token_hex(4)]
        servers = [
            arena.server(*words, *(["--node", f"node{number}"] if nodes else []))
            for number, arena in enumerate(arenas)
        ]
        crowd = Crowd(reactor, servers, options.clients)
        await crowd.run(options.rate, WARM)
        pids = [os.getpid(), *(server.process.pid for server in servers)]
        worked = [cpu(pid) for pid in pids]
        lost, other = sum(map(waited, pids)), await processed(engine)
        sent = await crowd.run(options.rate, options.seconds)
        worked = [cpu(pid) - early for pid, early in zip(pids, worked, strict=True)]
        lost, other = sum(map(waited, pids)) - lost, await processed(engine) - other
        await crowd.end()
    each = max(worked[1:]), sum(worked[1:]), other if nodes else 0.0
    return [*(seconds / sent * 1e6 for seconds in each), lost / sum(worked)]


def show(found: dict[str, list[float]], title: str, *columns: str) -> None:
    """Print figures."""
    print(f"{title:20}", *(f"{column:>9}" for column in columns))
    for name, figures in found.items():
        print(f"{name:20}", *(f"{figure:9.3f}" for figure in figures), flush=True)


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster")
    parser.add_argument("--url", help="an engine; one of its own if not")
    parser.add_argument("--only", choices=("engine", "relay"))
    parser.add_argument("--times", type=int, default=500, help="engine: how often each")
    parser.add_argument("--rounds", type=int, default=6, help="relay: how often")
    parser.add_argument("--clients", type=int, default=60, help="relay: of all nodes")
    parser.add_argument("--rate", type=float, default=600, help="messages a second")
    parser.add_argument("--seconds", type=float, default=4.0, help="relay: for each")
    options = parser.parse_args(arguments)

    async def run(url: str) -> None:
        """Measure, and show it."""
        if options.only != "relay":
            found = await measured(reactor, url, options.times)
            show(found, "ms", "median", "least", "node", "engine")
        if options.only != "engine":
            found = await relayed(reactor, url, options)
            columns = ("busiest", "nodes", "engine", "waited", "to 1 node")
            show(found, "CPU, us a message", *columns)
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")

    async def begin() -> None:
        """Find an engine, and run."""
        if options.url is not None:
            await run(options.url)
            return
        with running() as url:
            await run(url)

    return Deferred.fromCoroutine(begin())


if __name__ == "__main__":
    react(main, sys.argv[1:])
