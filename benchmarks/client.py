"""
What the client of every peer does, once for all: the workloads.  Each returns
its figures by name; beside the figure C{rate} stand C{rate.server} and
C{rate.client}, the microseconds of processor time that each process had for one
message, or whatever is counted.

What is done for a time is done in growing numbers until it takes long enough, so that
no clock runs within it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.server import payload

__all__ = ["Task"]

PAGE = os.sysconf("SC_PAGE_SIZE")
AT_ONCE = 50  # connections that are opened together when many are wanted
PROBES = 100  # connections that grow opens, one at a time
LEAST = 3  # connections that far opens, however long they take
TRIPS = 3  # round trips over each
UNDER_WAY = 500  # requests
FASTER = 10  # how many times more is tried than took too short a time


class Spent(NamedTuple):
    """Seconds that went by, and of processor time that the processes had."""

    seconds: float
    client: float
    server: float

    def __sub__(self, other: Spent) -> Spent:
        """Say what went by since."""
        return Spent(*(a - b for a, b in zip(self, other, strict=True)))

    def each(self, name: str, count: int) -> dict[str, float]:
        """
        Share the processor time out.

        @param name: the figure that it goes with.
        @param count: among how many.
        """
        return {
            f"{name}.server": self.server / count * 1e6,
            f"{name}.client": self.client / count * 1e6,
        }

    def rate(self, count: int) -> dict[str, float]:
        """
        Say how many there were in a second.

        @param count: how many there were.
        """
        return {"rate": count / self.seconds, **self.each("rate", count)}


class Task:
    """One run of one workload."""

    def __init__(
        self,
        peer: Any,
        directory: str,
        port: int,
        *,
        seconds: float,
        size: int,
        clients: int,
        serverPid: int,
    ) -> None:
        """
        @param peer: a peer.
        @param directory: where the credentials are.
        @param port: where the server listens.
        @param seconds: how long to measure, about.
        @param size: bytes of each message.
        @param clients: connections.
        @param serverPid: the server's process.
        """
        self._peer = peer
        self._directory = directory
        self._port = port
        self._seconds = seconds
        self._data = payload(size)
        self._clients = clients
        self._serverPid = serverPid

    async def stream(self) -> dict[str, float]:
        """Send as fast as flow control allows, until the server has it all."""
        return await self._stream()

    async def pingpong(self) -> dict[str, float]:
        """Send a message when the one before it has come back."""
        peer, data = self._peer, self._data
        link = await self._connect()
        await self._ask(link, b"echo")
        done, fire = peer.signal()
        before = self._now()
        times = [perf_counter()]
        end = times[0] + self._seconds

        def received(answer: bytes) -> Any:
            """Take the time and send the next."""
            now = perf_counter()
            times.append(now)
            if now < end:
                return link.send(data)
            fire()
            return None

        link.received = received
        await _sent(link.send(data))
        await done
        return self._trips(times, self._now() - before)

    async def request(self) -> dict[str, float]:
        """Ask when the answer before is there."""
        link = await self._connect()
        await link.request(self._data)  # what is loaded on first use
        done, fire = self._peer.signal()
        before = self._now()
        times = [perf_counter()]
        end = times[0] + self._seconds

        def ask() -> None:
            """Ask once more."""
            link.request(self._data).addCallback(answered)

        def answered(answer: bytes) -> None:
            """Take the time, and go on."""
            now = perf_counter()
            times.append(now)
            (ask if now < end else fire)()

        ask()
        await done
        return self._trips(times, self._now() - before)

    async def requests(self) -> dict[str, float]:
        """Have many under way: ask once more with each answer."""
        link = await self._connect()

        async def askAll(count: int) -> None:
            """Ask so many times."""
            asked = answered = 0
            done, fire = self._peer.signal()

            def ask() -> None:
                """Ask once more."""
                nonlocal asked
                asked += 1
                link.request(self._data).addCallback(take)

            def take(answer: bytes) -> None:
                """Count an answer, and go on."""
                nonlocal answered
                answered += 1
                if asked < count:
                    ask()
                elif answered == count:
                    fire()

            for _ in range(UNDER_WAY):
                ask()
            await done

        count, spent = await self._enough(askAll, 10 * UNDER_WAY)
        return spent.rate(count)

    async def fanout(self) -> dict[str, float]:
        """Let the server send to many, until all have it all."""
        links = [await self._connect() for _ in range(self._clients)]
        for link in links:
            await self._ask(link, b"join")

        async def sendAll(count: int) -> None:
            """Let it send so many."""
            left = count * len(links)
            done, fire = self._peer.signal()

            def received(data: bytes) -> None:
                """Count one."""
                nonlocal left
                left -= 1
                if not left:
                    fire()

            for link in links:
                link.received = received
            await _sent(links[0].send(b"fanout %d %d" % (count, len(self._data))))
            await done

        count, spent = await self._enough(sendAll, 10)
        return spent.rate(count * len(links))

    async def connects(self) -> dict[str, float]:
        """Connect, exchange one message, close; so many at once."""
        await self._visit()  # what is loaded on first use
        before = self._now()
        end = perf_counter() + self._seconds
        count = 0

        async def visits() -> None:
            """Visit until it is time."""
            nonlocal count
            while perf_counter() < end:
                await self._visit()
                count += 1

        await self._peer.gather([visits() for _ in range(self._clients)])
        return (self._now() - before).rate(count)

    async def far(self) -> dict[str, float]:
        """Begin again and again: see how long the first answers take, and others."""
        dial = getattr(self._peer, "dial", self._peer.connect)
        await self._visit()  # what is loaded on first use
        firsts: list[Spent] = []
        trips: list[Spent] = []
        end = perf_counter() + self._seconds
        while len(firsts) < LEAST or perf_counter() < end:
            before = self._now()
            link = await dial(self._directory, self._port)
            await self._ask(link, b"echo" + self._data[4:])
            firsts.append(self._now() - before)
            for _ in range(TRIPS):
                before = self._now()
                await self._ask(link, self._data)
                trips.append(self._now() - before)
            await link.close()
        figures: dict[str, float] = {}
        for name, all_ in (("first", firsts), ("trip", trips)):
            figures[name] = median(spent.seconds for spent in all_) * 1e3
            whole = Spent(*map(sum, zip(*all_, strict=True)))
            figures |= whole.each(name, len(all_))
        return figures

    async def idle(self) -> dict[str, float]:
        """See what the server's memory grows by."""
        await self._peer.gather([self._visits(4) for _ in range(AT_ONCE)])
        before = _residentBytes(self._serverPid)
        links = await self._openMany(self._clients)
        grown = _residentBytes(self._serverPid) - before
        return {"bytes": grown / len(links)}

    async def grow(self) -> dict[str, float]:
        """See whether other connections slow one down."""
        links = await self._openMany(self._clients)
        figures = await self._stream()
        before = self._now()
        await self._visits(PROBES)
        spent = self._now() - before
        links.clear()
        figures["connect"] = spent.seconds / PROBES * 1e3
        return figures | spent.each("connect", PROBES)

    # Parts

    def _now(self) -> Spent:
        """Read all clocks."""
        # The clock of another process, as clock_getcpuclockid(3) makes it on Linux.
        server = time.clock_gettime(~self._serverPid << 3 | 2)
        return Spent(perf_counter(), time.process_time(), server)

    async def _enough(
        self, do: Callable[[int], Awaitable[None]], count: int
    ) -> tuple[int, Spent]:
        """
        Do something so often that it takes half of the time that there is, or more.

        @param do: does it as many times as it is told.
        @param count: how many times to begin with.
        @return: how many times it was done at last, and what that took.
        """
        while True:
            before = self._now()
            await do(count)
            spent = self._now() - before
            if spent.seconds >= self._seconds / 2:
                return count, spent
            faster = self._seconds / max(spent.seconds, 1e-9)
            count = math.ceil(count * min(faster, FASTER))

    def _trips(self, times: list[float], spent: Spent) -> dict[str, float]:
        """
        Say how long round trips took.

        @param times: when each ended, and the first began.
        @param spent: what all of them took.
        """
        trips = sorted(b - a for a, b in pairwise(times))
        return {
            "median": trips[len(trips) // 2] * 1e6,
            "p99": trips[len(trips) * 99 // 100] * 1e6,
            **spent.each("median", len(trips)),
        }

    async def _connect(self) -> Any:
        """Open a link."""
        return await self._peer.connect(self._directory, self._port)

    async def _ask(self, link: Any, data: bytes) -> None:
        """Send one message and wait for the answer."""
        answered, fire = self._peer.signal()
        link.received = fire
        await _sent(link.send(data))
        await answered

    async def _stream(self) -> dict[str, float]:
        """Send over one link, until the server has it all."""
        link = await self._connect()

        async def send(count: int) -> None:
            """Send so many."""
            done, fire = self._peer.signal()
            link.received = fire
            await _sent(link.send(b"count %d" % count))
            await link.sendMany(self._data, count)
            await done

        count, spent = await self._enough(send, max(10, 65536 // len(self._data)))
        return spent.rate(count)

    async def _visit(self) -> None:
        """Connect, exchange one message, close."""
        link = await self._connect()
        await self._ask(link, b"echo" + self._data[4:])
        await link.close()

    async def _visits(self, count: int) -> None:
        """Visit so many times, one after another."""
        for _ in range(count):
            await self._visit()

    async def _openMany(self, count: int) -> list[Any]:
        """
        Open links that then do nothing.

        @return: the links.
        """
        links: list[Any] = []

        async def some(many: int) -> None:
            """Open a share of them, one after another."""
            for _ in range(many):
                link = await self._connect()
                await self._ask(link, b"echo")
                links.append(link)

        shares = [len(range(i, count, AT_ONCE)) for i in range(AT_ONCE)]
        await self._peer.gather([some(share) for share in shares if share])
        return links


async def _sent(waiting: Any) -> None:
    """
    Wait for a link that makes one wait.

    @param waiting: what C{send} returned.
    """
    if waiting is not None:
        await waiting


def _residentBytes(pid: int) -> int:
    """
    Say how much memory a process has.

    @param pid: which.
    @return: bytes.
    """
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * PAGE
