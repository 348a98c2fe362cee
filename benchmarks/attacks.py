"""
What attacks cost others: real servers, attacked from some hosts of 127.0.0.0/8, and
what a good client, of another key and another host, notices of it::

    python -m benchmarks.attacks
    python -m benchmarks.attacks --rounds 3 places silent
    python -m benchmarks.attacks --python ../older/.venv/bin/python

The servers are those of C{--python}, so that two versions can be compared; attackers
and good clients are L{tests.support.foreign}, which shares no code with them.  The
attackers are niced: it is the server's turns that are looked at, and not how many
cores the machine has.  It takes Linux, for its hosts and C{/proc}.

An attack is a function that is given an L{Arena}, takes at most L{LIMIT} seconds, and
returns L{Figure}s.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import signal
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from itertools import count
from typing import Any, NamedTuple, cast
from urllib.request import urlopen

from benchmarks.arena import (
    CROWD,
    EVIL,
    GONE,
    GOOD,
    MIB,
    OTHER,
    SMALL,
    SUITE,
    Arena,
    batch,
    cut,
    dial,
    enter,
    expect,
    getsIn,
    roundTrips,
    untilAcknowledged,
)
from tests.support.foreign import ACK, BATCH, BINARY, CLOSE, PING, TEXT, Client

__all__ = ["ATTACKS", "Attack", "Figure", "measure", "table"]

LIMIT = 180  # seconds for an attack; on a machine that is idle each takes half of that
WIDE = {"batch": True, "window": 1 << 40}  # the hello of who takes everything
NOTHING = {"window": 0}  # and of who takes nothing

STRANGER, PEER = "a stranger", "a key that is in"


class Figure(NamedTuple):
    """
    One thing that was measured.

    @ivar what: with its unit.
    @ivar attacked: under attack.
    @ivar quiet: before it, if that is something else than nothing.
    """

    what: str
    attacked: float
    quiet: float | None = None


class Attack(NamedTuple):
    """
    One attack.

    @ivar who: can do it.
    @ivar measure: does it.
    """

    who: str
    measure: Callable[[Arena], list[Figure]]


ATTACKS: dict[str, Attack] = {}


def attack(who: str) -> Callable[[Any], Any]:
    """Put a function among the attacks, by its name."""

    def add(measure: Callable[[Arena], list[Figure]]) -> Any:
        ATTACKS[measure.__name__] = Attack(who, measure)
        return measure

    return add


def _batches(arena: Arena, size: int, frames: int) -> list[Figure]:
    """Send BATCH frames of so many empty messages to a relay with 100 others."""
    server = arena.server("--handler", "relay")
    for _ in range(100):
        arena.peer(server.port, OTHER, hello={"batch": True})
    quiet = roundTrips(arena.peer(server.port, GOOD, hello=WIDE), 2, ping=True)
    good = arena.peer(server.port, GOOD, hello=WIDE)
    used = server.cpu()

    def send() -> None:
        """Send them, and stay."""
        client = enter(server.port, EVIL)
        for _ in range(frames):
            client.send(BATCH, batch(size))
        expect(client, CLOSE)

    arena.attacker(send)
    worst = roundTrips(good, 4, ping=True)[-1]
    busy = (server.cpu() - used) / 4
    return [
        Figure("worst PING, ms", worst, quiet[-1]),
        Figure("server's share of a core, %", busy * 100),
    ]


@attack(PEER)
def batches(arena: Arena) -> list[Figure]:
    """Four BATCHes of 16,375 empty messages, at a relay with 100 clients."""
    return _batches(arena, 16375, 4)


@attack(PEER)
def smallBatches(arena: Arena) -> list[Figure]:
    """As many messages, in 64 BATCHes of 1,023."""
    return _batches(arena, 1023, 64)


def _flood(port: int, count: int, data: bytes, record: int) -> None:
    """
    Send to a server that echoes as fast as it lets us, and acknowledge.

    @param count: of the empty messages in one piece of data.
    @param data: the piece.
    @param record: bytes of each record.
    """
    client = enter(port, EVIL, hello=WIDE)
    limit, sent, received = client.welcome["window"], 0, 0
    while True:
        mayBeSent = (sent + count) * 64 <= limit
        if mayBeSent:
            parts = [data[i : i + record] for i in range(0, len(data), record)]
            client.socket.sendall(b"".join(map(client.record, parts)))
            sent += count
        while not mayBeSent or select.select([client.socket], [], [], 0)[0]:
            mayBeSent = True
            kind, body = expect(client, ACK, BATCH, TEXT)
            if kind == ACK:
                limit = int.from_bytes(body[8:], "big")
                continue
            received += 1 if kind == TEXT else int.from_bytes(body[:4], "big")
            client.send(ACK, struct.pack(">QQ", received, 1 << 40))


def _flooded(arena: Arena, *words: Any) -> list[Figure]:
    """Let four clients flood."""
    server = arena.server("--handler", "echo")
    good = arena.peer(server.port, GOOD)
    quiet = roundTrips(good, 2)
    for _ in range(4):
        arena.attacker(_flood, server.port, *words)
    roundTrips(good, 2)
    used = server.cpu()
    attacked = roundTrips(good, 8)
    median = statistics.median
    return [
        Figure("median echo, ms", median(attacked), median(quiet)),
        Figure("worst echo, ms", attacked[-1], quiet[-1]),
        Figure("server's share of a core, %", (server.cpu() - used) / 8 * 100),
    ]


_EMPTY = struct.pack(">IBQ", 0, TEXT, 0)


@attack(PEER)
def floodOfBatches(arena: Arena) -> list[Figure]:
    """Four clients send BATCHes of 1,023 empty messages to a server that echoes."""
    body = batch(1023)
    data = struct.pack(">IBQ", len(body), BATCH, 0) + body
    return _flooded(arena, 1023, data, len(data))


@attack(PEER)
def floodOfFrames(arena: Arena) -> list[Figure]:
    """The same with empty messages in frames of their own, as many as a record has."""
    return _flooded(arena, 5000, _EMPTY * 5000, 65000)


@attack(PEER)
def floodOfRecords(arena: Arena) -> list[Figure]:
    """The same with records of one byte."""
    return _flooded(arena, 100, _EMPTY * 100, 1)


class _Distant:
    """A socket from far away."""

    TRIP = 0.3  # seconds

    def __init__(self, sock: socket.socket) -> None:
        """@param sock: from here."""
        self._sock = sock
        self.recv = sock.recv
        self.close = sock.close

    def sendall(self, data: bytes) -> None:
        """Send, once the other side can have heard what we answer, and we it."""
        time.sleep(self.TRIP)
        self._sock.sendall(data)


def _silently(port: int, rate: int) -> None:
    """Open silent connections, so many a second, and hold 3,000 of them."""
    held: list[socket.socket] = []
    began, made = time.monotonic(), 0
    while True:
        if made > (time.monotonic() - began) * rate:
            time.sleep(0.001)
            continue
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            sock.bind((EVIL, 0))
            sock.connect(("127.0.0.1", port))
        held.append(sock)
        made += 1
        if len(held) > 3000:
            held.pop(0).close()


@attack(STRANGER)
def silent(arena: Arena) -> list[Figure]:
    """3,000 silent connections a second, while clients 300 ms away come."""
    server = arena.server("--handler", "echo")

    def come(_: int) -> bool:
        """Tell whether one gets in."""
        sock = dial(server.port, GOOD)
        with closing(sock), suppress(*GONE):
            Client(server.port, SUITE, connected=cast(Any, _Distant(sock)))
            return True
        return False

    arena.attacker(_silently, server.port, 3000)
    time.sleep(1.5)
    with ThreadPoolExecutor(6) as threads:
        return [Figure("of 6 clients get in", sum(threads.map(come, range(6))), 6)]


@attack(STRANGER)
def places(arena: Arena) -> list[Figure]:
    """One host takes all places that it can get; another one opens 600 silent ones."""
    server = arena.server("--handler", "echo", files=1024)
    taken = 0
    with suppress(*GONE):
        while taken < 1100:
            arena.peer(server.port, EVIL, timeout=5.0)
            taken += 1
    others: int = getsIn(server.port, GOOD)
    for _ in range(600):
        sock = socket.socket()
        arena.callback(sock.close)
        sock.setblocking(False)
        with suppress(OSError):
            sock.bind((OTHER, 0))
            sock.connect(("127.0.0.1", server.port))
    time.sleep(1)
    others += getsIn(server.port, GOOD)
    outOfFiles = bool(re.search("EMFILE|many open", server.text()))
    return [
        Figure("places taken by one host, of 1,024 files", taken),
        Figure("of 2 clients get in", others, 2),
        Figure("ran out of files (1: yes)", outOfFiles),
    ]


@attack(PEER)
def sessions(arena: Arena) -> list[Figure]:
    """One key connects and is cut off 300 times; another one's session waits."""
    server = arena.server("--handler", "relay", "--max-connections", "100")
    good = enter(server.port, GOOD)
    cut(good)
    time.sleep(0.3)
    sender = arena.peer(server.port, OTHER)
    for number in range(50):
        sender.send(TEXT, b"%d" % number)
    untilAcknowledged(sender, 50)
    key = os.urandom(32)
    for _ in range(300):
        with suppress(*GONE):
            cut(enter(server.port, EVIL, NOTHING, key))
    name = good.welcome["session"]
    back = arena.peer(
        server.port,
        GOOD,
        hello={"session": name, "received": 0},
        key=good.key,
        timeout=3.0,
    )
    kept = 0
    with suppress(*GONE):
        while back.welcome["session"] == name and kept < 50:
            kept += back.readMessage() == str(kept)
    return [Figure("of 50 messages kept for another key", kept, 50)]


@attack(PEER)
def buffer(arena: Arena) -> list[Figure]:
    """One key fills totalBuffer (32 MiB); twenty others were cut off before."""
    server = arena.program(SMALL)
    waiting = []
    for _ in range(20):
        waiting.append(enter(server.port, GOOD, NOTHING))
        waiting[-1].send(TEXT, b"hello to those who are away")
        expect(waiting[-1], ACK)
        cut(waiting[-1])
    key, end = os.urandom(32), time.monotonic() + 15
    for _ in range(40):
        sent = 0
        with suppress(*GONE):
            client = arena.peer(server.port, hello=NOTHING, key=key, timeout=0.5)
            limit = client.welcome["window"]
            while sent < 6 * MIB and time.monotonic() < end:
                if sent < limit:
                    client.send(BINARY, bytes(1 << 15))
                    sent += (1 << 15) + 64
                else:
                    limit = int.from_bytes(expect(client, ACK)[1][8:], "big")
    kept = 0
    for client in waiting:
        name = client.welcome["session"]
        hello = {"session": name, "received": 0}
        with suppress(*GONE):
            back = arena.peer(server.port, GOOD, hello=hello, key=client.key)
            kept += back.welcome["session"] == name
    return [Figure("of 20 sessions of others kept", kept, 20)]


@attack(PEER)
def resumes(arena: Arena) -> list[Figure]:
    """A session that keeps 150,000 messages is resumed 20 times a second."""
    server = arena.server("--handler", "echo")
    client = enter(server.port, EVIL, {"window": 1 << 40})
    for _ in range(150):
        client.send(BATCH, batch(1000, b"x"))
    untilAcknowledged(client, 150_000)
    name, key = client.welcome["session"], client.key
    cut(client)
    good = arena.peer(server.port, GOOD)

    def again() -> None:
        """Come back, with another bound each time, and be cut off."""
        for number in range(10**6):
            hello = {"session": name, "maxMessage": MIB - number, **WIDE}
            with suppress(*GONE):
                cut(enter(server.port, EVIL, hello, key))
            time.sleep(0.05)

    def look(seconds: float) -> tuple[float, float]:
        """Measure the worst echo, and the server's share of a core."""
        used = server.cpu()
        worst = roundTrips(good, seconds)[-1]
        return worst, (server.cpu() - used) / seconds * 100

    worst, share = look(3)
    arena.attacker(again)
    worstNow, shareNow = look(8)
    count = len(re.findall(r"\baccepted\b", server.text())) - 2
    return [
        Figure("server's share of a core, %", shareNow, share),
        Figure("resumed, a second", count / 8),
        Figure("worst echo, ms", worstNow, worst),
    ]


@attack(PEER)
def deaf(arena: Arena) -> list[Figure]:
    """A peer reads nothing and sends PINGs, with a heartbeat of 2 s."""
    server = arena.server("--handler", "echo", "--heartbeat", "2")
    client = arena.peer(server.port, hello=WIDE, buffer=4096)
    for _ in range(400):
        client.send(BINARY, bytes(20_000))
    began, until = time.monotonic(), 20
    with suppress(OSError):
        while time.monotonic() < began + until:
            client.send(PING, b"")
            time.sleep(0.25)
    return [Figure(f"given up after, s ({until}: not)", time.monotonic() - began)]


@attack(PEER)
def slow(arena: Arena) -> list[Figure]:
    """At a relay a client reads nothing until 8 s after it was given up."""
    server = arena.server("--handler", "relay")
    client = arena.peer(server.port, hello=WIDE, buffer=4096)
    sender = arena.peer(server.port, OTHER)
    limit, sent = sender.welcome["window"], 0
    while sent < 100 * MIB and "4000" not in server.text():
        if sent < limit:
            sender.send(BINARY, bytes(1 << 16))
            sent += (1 << 16) + 64
        else:
            limit = int.from_bytes(expect(sender, ACK)[1][8:], "big")
    time.sleep(8)
    told = False
    with suppress(OSError):
        told = expect(client, CLOSE)[1][:2] == struct.pack(">H", 4000)
    return [Figure("reads that it was slow (1: yes)", told)]


def _memory(arena: Arena, kind: int, body: bytes, cost: int, count: int) -> float:
    """
    Fill an inbox up to 16 MiB.

    @param cost: of what is in one frame.
    @param count: of messages in it.
    @return: MiB that the server has grown by.
    """
    server = arena.server("--handler", "inbox")
    arena.peer(server.port)
    client = arena.peer(server.port)
    before = server.resident()
    frames = 16 * MIB // cost
    for _ in range(frames):
        client.send(kind, body)
    untilAcknowledged(client, frames * count)
    return server.resident() - before


@attack(PEER)
def memory(arena: Arena) -> list[Figure]:
    """What fills 16 MiB of an inbox takes much more memory than it counts."""
    emoji = b"x" * 16_000 + "😀".encode()
    texts = _memory(arena, TEXT, emoji, len(emoji) + 64, 1)
    empties = _memory(arena, BATCH, batch(1023), 1023 * 64, 1023)
    return [
        Figure("memory for 16 MiB of texts with an emoji, MiB", texts),
        Figure("memory for 16 MiB of empty messages, MiB", empties),
    ]


@attack(STRANGER)
def refusals(arena: Arena) -> list[Figure]:
    """Many connections that speak something else."""
    figures = []
    for hosts in (1, 250):
        server = arena.server("--handler", "echo")
        before = len(server.text().splitlines())
        for number in range(1000):
            with (
                suppress(OSError),
                closing(dial(server.port, f"127.0.1.{number % hosts + 1}")) as sock,
            ):
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                sock.recv(300)
        time.sleep(1.5)
        lines = len(server.text().splitlines()) - before
        who = "one host" if hosts == 1 else f"{hosts} hosts"
        figures.append(Figure(f"lines in the log for 1,000 of {who}", lines))
        server.stop()
    return figures


@attack(PEER)
def spool(arena: Arena) -> list[Figure]:
    """Small messages, each sent when the one before it is acknowledged."""
    server = arena.server("--handler", "inbox", "--spool", "spool")
    figures = []
    for size in (64, 1024):
        client = arena.peer(server.port)
        before = server.written()
        for number in range(300):
            client.send(BINARY, bytes(size))
            untilAcknowledged(client, number + 1)
        bytesEach = (server.written() - before) / (300 * size)
        figures.append(
            Figure(f"bytes written for each that came, {size:,} B", bytesEach)
        )
    return figures


@attack("nobody: a restart")
def crowd(arena: Arena) -> list[Figure]:
    """
    1,000 clients of the product, of 1,000 keys and one address, come for the first
    time, and at once again when the server has restarted.
    """
    options = ["--handler", "echo", "--spool", "spool"]
    options += ["--max-connections-per-host", "2000"]
    server = arena.server(*options)
    began = time.monotonic()
    clients = arena.clients(CROWD, str(server.port), "1000")
    stdin, stdout = cast(Any, clients.stdin), cast(Any, clients.stdout)
    first = float(stdout.readline()) - began, server.cpu()
    stopped = time.monotonic()
    server.stop()
    server = arena.server(*options, port=server.port)
    began = time.monotonic()
    used = server.cpu()
    stdin.write("again\n")
    stdin.flush()
    ended = float(stdout.readline())
    return [
        Figure("until all 1,000 are in, s", first[0]),
        Figure("the server's processor for that, s", first[1]),
        Figure("until all are in again, from the stop, s", ended - stopped),
        Figure("the same, from when it listens, s", ended - began),
        Figure("the server's processor for that, s", server.cpu() - used),
    ]


def _handshakes(port: int) -> None:
    """Come from ever other hosts, get in, and leave, as fast as it goes."""
    for number in count():
        with suppress(*GONE), closing(enter(port, _host(1, number)).socket):
            pass


def _host(network: int, number: int) -> str:
    """Number the hosts of a network, which has 62,500."""
    return f"127.{network}.{number // 250 % 250}.{number % 250 + 1}"


def _answers(ask: Callable[[], object], seconds: float) -> list[float]:
    """Ask again and again; return the milliseconds that it took, sorted."""
    times = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        ask()
        times.append((time.monotonic() - began) * 1000)
        time.sleep(0.02)
    return sorted(times)


@attack("nobody: an operator looks on")
def watched(arena: Arena) -> list[Figure]:
    """
    A server has 10,000 clients, and others who come and go as fast as they can; it is
    asked for its metrics, for the connections that lag most, and for all of them.
    """
    server = arena.server(
        *("--handler", "echo", "--status", "tcp:0:interface=127.0.0.1"),
        *("--heartbeat", "600", "--max-connections", "12000"),
    )
    for number in range(10_000):
        arena.peer(server.port, _host(2, number))
    found = re.search(r"status page at http://(127.0.0.1:\d+)/", server.text())
    assert found is not None
    page = f"http://{found[1]}"
    control = socket.socket(socket.AF_UNIX)
    control.connect(os.fspath(arena.folder / "control.sock"))
    file = arena.enter_context(control.makefile("rwb"))

    def fetch() -> None:
        """Be Prometheus."""
        with urlopen(f"{page}/metrics") as answer:
            answer.read()

    def ask(**fields: Any) -> None:
        """Be C{aesm status}."""
        file.write(json.dumps({"command": "status", **fields}).encode() + b"\n")
        file.flush()
        assert json.loads(file.readline())["ok"]

    questions: dict[str, Callable[[], object]] = {
        "/metrics": fetch,
        "the 100 that lag most": partial(ask, most=100),
        "all connections": ask,
    }
    quiet = {what: _answers(asks, 5) for what, asks in questions.items()}
    arena.attacker(_handshakes, server.port)
    time.sleep(1)
    figures = []
    for what, asks in questions.items():
        times = _answers(asks, 10)
        figures.append(
            Figure(
                f"{what}, median ms",
                statistics.median(times),
                statistics.median(quiet[what]),
            )
        )
        figures.append(Figure(f"{what}, worst ms", times[-1], quiet[what][-1]))
    return figures


def _number(value: float) -> str:
    """Say a number as precisely as it is worth."""
    return f"{value:,.1f}" if value % 1 and value < 20 else f"{value:,.0f}"


def _row(name: str, who: str, rounds: list[Figure]) -> tuple[str, ...]:
    """Lay out one figure: its median, and its range if there is one."""
    values = sorted(figure.attacked for figure in rounds)
    shown = _number(statistics.median(values))
    low, high = _number(values[0]), _number(values[-1])
    if low != high:
        shown += f" ({low} to {high})"
    if rounds[0].quiet is not None:
        quiet = statistics.median(cast(float, figure.quiet) for figure in rounds)
        shown = f"{_number(quiet)} -> {shown}"
    return name, who, rounds[0].what, shown


def table(found: dict[str, list[list[Figure]]]) -> str:
    """
    Lay out what was found.

    @param found: for each attack the figures of each round.
    """
    rows: list[tuple[str, ...]] = [
        ("attack", "who can do it", "what others notice", "quiet -> under attack")
    ]
    for name, rounds in found.items():
        for figures in zip(*rounds, strict=True):
            rows.append(_row(name, ATTACKS[name].who, list(figures)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def measure(name: str, python: str) -> list[Figure]:
    """
    Do one attack.

    @raise TimeoutError: it takes too long.
    """

    def late(number: int, frame: object) -> None:
        """Give up."""
        raise TimeoutError(f"{name} is not done in {LIMIT} seconds")

    former = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with Arena(python) as arena:
            return ATTACKS[name].measure(arena)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def main() -> None:
    """Parse the command line, attack, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ATTACKS))
    parser.add_argument(
        "--python", type=os.path.abspath, default=sys.executable, help="of the servers"
    )
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.names) - set(ATTACKS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: dict[str, list[list[Figure]]] = {}
    for name in options.names or ATTACKS:
        for _ in range(options.rounds):
            print(f"{name} ...", file=sys.stderr, flush=True)
            found.setdefault(name, []).append(measure(name, options.python))
    print(table(found))


if __name__ == "__main__":
    main()
