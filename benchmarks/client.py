"""
What the client of every peer does, once for all: the workloads.  Each returns
its figures by name.
"""

from __future__ import annotations

import itertools
import os
from time import perf_counter
from typing import Any

from benchmarks.server import payload

__all__ = ["Task"]

PAGE = os.sysconf("SC_PAGE_SIZE")
AT_ONCE = 50  # connections that are opened together when many are wanted
PROBES = 100  # connections that grow opens, one at a time


class Task:
    """One run of one workload."""

    def __init__(
        self,
        peer: Any,
        directory: str,
        port: int,
        *,
        count: int,
        size: int,
        clients: int,
        serverPid: int,
    ) -> None:
        """
        @param peer: a peer.
        @param directory: where the credentials are.
        @param port: where the server listens.
        @param count: how often, or how many messages.
        @param size: bytes of each.
        @param clients: connections.
        @param serverPid: the server's process.
        """
        self._peer = peer
        self._directory = directory
        self._port = port
        self._count = count
        self._data = payload(size)
        self._clients = clients
        self._serverPid = serverPid

    async def stream(self) -> dict[str, float]:
        """Send as fast as flow control allows, until the server has it all."""
        link = await self._connect()
        return {"rate": await self._stream(link)}

    async def pingpong(self) -> dict[str, float]:
        """Send a message when the one before it has come back."""
        peer, data, left = self._peer, self._data, self._count
        link = await self._connect()
        await self._ask(link, b"echo")
        done, fire = peer.signal()
        times = [perf_counter()]

        def received(answer: bytes) -> Any:
            """Take the time and send the next."""
            nonlocal left
            times.append(perf_counter())
            left -= 1
            if left:
                return link.send(data)
            fire()
            return None

        link.received = received
        await _sent(link.send(data))
        await done
        trips = sorted(b - a for a, b in itertools.pairwise(times))
        return {
            "median": trips[len(trips) // 2] * 1e6,
            "p99": trips[len(trips) * 99 // 100] * 1e6,
        }

    async def fanout(self) -> dict[str, float]:
        """Let the server send to many, until all have it all."""
        left = self._count * self._clients
        done, fire = self._peer.signal()

        def received(data: bytes) -> None:
            """Count one."""
            nonlocal left
            left -= 1
            if not left:
                fire()

        links = [await self._connect() for _ in range(self._clients)]
        for link in links:
            await self._ask(link, b"join")
            link.received = received
        start = perf_counter()
        await _sent(links[0].send(b"fanout %d %d" % (self._count, len(self._data))))
        await done
        return {"rate": self._count * self._clients / (perf_counter() - start)}

    async def connects(self) -> dict[str, float]:
        """Connect, exchange one message, close; so many at once."""
        await self._visit()  # what is loaded on first use
        start = perf_counter()
        visits = self._count // self._clients
        await self._peer.gather([self._visits(visits) for _ in range(self._clients)])
        return {"rate": visits * self._clients / (perf_counter() - start)}

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
        rate = await self._stream(await self._connect())
        start = perf_counter()
        await self._visits(PROBES)
        seconds = (perf_counter() - start) / PROBES
        links.clear()
        return {"rate": rate, "connect": seconds * 1e3}

    # Parts

    async def _connect(self) -> Any:
        """Open a link."""
        return await self._peer.connect(self._directory, self._port)

    async def _ask(self, link: Any, data: bytes) -> None:
        """Send one message and wait for the answer."""
        answered, fire = self._peer.signal()
        link.received = fire
        await _sent(link.send(data))
        await answered

    async def _stream(self, link: Any) -> float:
        """
        Send everything over one link.

        @return: messages a second.
        """
        done, fire = self._peer.signal()
        link.received = fire
        start = perf_counter()
        await _sent(link.send(b"count %d" % self._count))
        await link.sendMany(self._data, self._count)
        await done
        return self._count / (perf_counter() - start)

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
