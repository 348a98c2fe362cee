"""
What it costs to keep sessions in an engine: commits, and taking a session over::

    python -m benchmarks.engine                           # a redis-server of its own
    python -m benchmarks.engine --url redis://10.0.0.5    # another one

Over a real socket, from the call to the Deferred: turns of one session, of a hundred
that each send a message of 64 bytes and have one acknowledged, with their states; a
claim of a session with a hundred turns of 4 KiB that are not acknowledged.  Each has
the median, the least, and what the node and the engine worked for one, whatever
else the machine does meanwhile.  Then the bytes of memory that the engine has for a
session that is idle.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import Engine
from aesm.cluster.store import EngineStore

__all__ = ["measured"]

CLUSTER = "benchmark"
SESSIONS, MANY = 100, 1000
TURNS, TURN = 100, 4096  # bytes
MESSAGE = b"x" * 64
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
    engine = Engine(reactor, EngineAddress.parse(url), CLUSTER, secrets.token_hex(8))
    store = EngineStore(engine, reactor, 60.0)
    await store.open()
    found: dict[str, list[float]] = {}
    many = [secrets.token_hex(16) for _ in range(MANY)]
    before = await told(engine, "memory", "used_memory")
    for name in many:
        await store.begin(name, secrets.token_hex(22), STATE)
        store.enter(name)
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
    found["take-over"] = await timed(engine, times, lambda n: store.claim(kept, peer))
    found["bytes of a session"] = [idle / MANY]
    for name in (*many, kept):
        store.drop(name)
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


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine")
    parser.add_argument("--url", help="an engine; one of its own if not")
    parser.add_argument("--times", type=int, default=500, help="how often each")
    options = parser.parse_args(arguments)

    async def run() -> None:
        """Measure, and show it."""
        if options.url is not None:
            show(await measured(reactor, options.url, options.times))
            return
        with running() as url:
            show(await measured(reactor, url, options.times))

    return Deferred.fromCoroutine(run())


def show(found: dict[str, list[float]]) -> None:
    """Print figures."""
    print(f"{'':20}  median   least    node  engine, ms")
    for name, figures in found.items():
        print(f"{name:20}", *(f"{figure:7.3f}" for figure in figures))


if __name__ == "__main__":
    react(main, sys.argv[1:])
