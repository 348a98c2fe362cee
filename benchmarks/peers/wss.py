"""
The C{websockets} library over TLS 1.3, without compression, on asyncio's own
loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.command import HOST, main
from benchmarks.peers.onasyncio import LOOPBACK, AsyncioPeer, context

SETTINGS: dict[str, Any] = {"compression": None, "max_size": 1 << 24}
BURST = 64  # messages to all between two looks at how they get on


class Link:
    """A WebSocket."""

    received: Callable[[bytes], Any]

    def __init__(self, socket: Any) -> None:
        """@param socket: a connection of the library."""
        self.socket = socket
        self.send = socket.send

    async def read(self) -> None:
        """Read messages until the end."""
        try:
            async for message in self.socket:
                answer = self.received(message)
                if answer is not None:
                    await answer
        except ConnectionClosed:
            pass

    async def sendMany(self, data: bytes, count: int) -> None:
        """Send a message many times, as fast as the transport takes it."""
        send = self.send
        for _ in range(count):
            await send(data)

    def close(self) -> Any:
        """Close, and wait for it."""
        return self.socket.close()


class Peer(AsyncioPeer):
    """One task reads each connection."""

    async def listen(self, directory: str, accepted: Callable[[Any], None]) -> int:
        """
        Listen.

        @return: the port.
        """

        async def handle(socket: Any) -> None:
            """Serve one client."""
            link = Link(socket)
            accepted(link)
            await link.read()

        self._server = await serve(
            handle,
            LOOPBACK,
            0,
            ssl=context(directory, True),
            backlog=1024,
            **SETTINGS,
        )
        return self._server.sockets[0].getsockname()[1]

    async def connect(self, directory: str, port: int) -> Any:
        """Connect, and wait until messages can be sent."""
        link = Link(
            await connect(
                f"wss://{LOOPBACK}:{port}/",
                ssl=context(directory, False),
                server_hostname=HOST,
                proxy=None,
                **SETTINGS,
            )
        )
        self.spawn(link.read())
        return link

    async def sendAll(self, links: Sequence[Any], data: bytes, count: int) -> None:
        """Send a message many times to many, as fast as the slowest takes it."""
        sockets = [link.socket for link in links]
        for number in range(count):
            broadcast(sockets, data)
            if number % BURST == BURST - 1:
                await asyncio.sleep(0)
                for socket in sockets:
                    await socket.drain()


if __name__ == "__main__":
    main(Peer())
