"""
asyncio's streams over TLS 1.3, on asyncio's own loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.command import HOST, main
from benchmarks.peers.onasyncio import LOOPBACK, PREFIX, AsyncioPeer, context


class Link:
    """A reader and a writer."""

    received: Callable[[bytes], Any]

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """
        @param reader: what comes.
        @param writer: what goes.
        """
        self.writer = writer
        self._reader = reader

    async def read(self) -> None:
        """Read messages until the end."""
        readExactly = self._reader.readexactly
        try:
            while True:
                (size,) = PREFIX.unpack(await readExactly(4))
                self.received(await readExactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.writer.close()

    def send(self, data: bytes) -> None:
        """Send a message."""
        self.writer.write(PREFIX.pack(len(data)) + data)

    async def sendMany(self, data: bytes, count: int) -> None:
        """Send a message many times, as fast as the transport takes it."""
        writer = self.writer
        for _ in range(count):
            writer.write(PREFIX.pack(len(data)) + data)
            await writer.drain()

    async def close(self) -> None:
        """Close, and wait for it."""
        self.writer.close()
        await self.writer.wait_closed()


class Peer(AsyncioPeer):
    """One task reads each connection."""

    async def listen(self, directory: str, accepted: Callable[[Any], None]) -> int:
        """
        Listen.

        @return: the port.
        """

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            """Serve one client."""
            link = Link(reader, writer)
            accepted(link)
            await link.read()

        self._server = await asyncio.start_server(
            serve, LOOPBACK, 0, ssl=context(directory, True), backlog=1024
        )
        return self._server.sockets[0].getsockname()[1]

    async def connect(self, directory: str, port: int) -> Any:
        """Connect, and wait until messages can be sent."""
        link = Link(
            *await asyncio.open_connection(
                LOOPBACK, port, ssl=context(directory, False), server_hostname=HOST
            )
        )
        self.spawn(link.read())
        return link

    async def sendAll(self, links: Sequence[Any], data: bytes, count: int) -> None:
        """Send a message many times to many, as fast as the slowest takes it."""
        framed = PREFIX.pack(len(data)) + data
        for _ in range(count):
            for link in links:
                link.writer.write(framed)
            for link in links:
                await link.writer.drain()


if __name__ == "__main__":
    main(Peer())
