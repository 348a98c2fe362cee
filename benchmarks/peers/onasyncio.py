"""
What the peers on asyncio share: the event loop, and TLS.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.command import HOST

__all__ = ["LOOPBACK", "PREFIX", "AsyncioPeer", "ProtocolPeer", "context"]

LOOPBACK = "127.0.0.1"
PREFIX = struct.Struct(">I")  # a message's length


@cache
def context(directory: str, server: bool) -> ssl.SSLContext:
    """
    Make the TLS 1.3 context of one side; one for all connections.

    @param directory: where the certificate is.
    @param server: which side.
    """
    file = Path(directory, "tls.pem")
    if server:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(file, Path(directory, "tls.key"))
    else:
        made = ssl.create_default_context(cafile=str(file))
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


class AsyncioPeer:
    """
    Runs on asyncio's own loop.

    @ivar loopFactory: makes the event loop.
    """

    loopFactory: Any = staticmethod(asyncio.new_event_loop)

    def __init__(self) -> None:
        """Start with no tasks."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """
        Run until a coroutine is done.

        @return: its result.
        """
        with asyncio.Runner(loop_factory=self.loopFactory) as runner:
            return runner.run(main)

    def spawn(self, task: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside all else."""
        started = asyncio.get_running_loop().create_task(task)
        self._tasks.add(started)
        started.add_done_callback(self._tasks.discard)

    def signal(self) -> tuple[Any, Callable[..., None]]:
        """
        Make something to wait for.

        @return: it, and what fires it.
        """
        waiting = asyncio.get_running_loop().create_future()
        return waiting, lambda *ignored: waiting.set_result(None)

    def gather(self, tasks: Sequence[Coroutine[Any, Any, Any]]) -> Any:
        """Run coroutines at once and wait for all."""
        return asyncio.gather(*tasks)


class _Link(asyncio.Protocol):
    """A connection with messages behind their lengths."""

    received: Callable[[bytes], Any]

    def __init__(self, accepted: Callable[[Any], None]) -> None:
        """@param accepted: called once messages can be sent."""
        self._accepted = accepted
        self._buffer = bytearray()
        self.resumed: asyncio.Future[None] | None = None  # while paused
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Messages can be sent."""
        self.transport = transport
        self._accepted(self)

    def connection_lost(self, reason: Exception | None) -> None:
        """Tell who waits."""
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The transport takes no more."""
        self.resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The transport takes more."""
        resumed, self.resumed = self.resumed, None
        if resumed is not None:
            resumed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Cut messages out."""
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < 4 + PREFIX.unpack_from(buffer)[0]:
                return
            data = bytes(buffer)
            buffer.clear()
        position, available = 0, len(data)
        while available - position >= 4:
            end = position + 4 + PREFIX.unpack_from(data, position)[0]
            if end > available:
                break
            self.received(data[position + 4 : end])
            position = end
        if position < available:
            buffer += data[position:]

    def send(self, data: bytes) -> None:
        """Send a message."""
        self.transport.write(PREFIX.pack(len(data)) + data)

    async def sendMany(self, data: bytes, count: int) -> None:
        """Send a message many times, as fast as the transport takes it."""
        send = self.send
        for _ in range(count):
            send(data)
            if self.resumed is not None:
                await self.resumed

    def close(self) -> Any:
        """Close, and wait for it."""
        self.transport.close()
        return self.closed


class ProtocolPeer(AsyncioPeer):
    """A protocol on a TLS transport."""

    async def listen(self, directory: str, accepted: Callable[[Any], None]) -> int:
        """
        Listen.

        @return: the port.
        """
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Link(accepted),
            LOOPBACK,
            0,
            ssl=context(directory, True),
            backlog=1024,
        )
        return self._server.sockets[0].getsockname()[1]

    async def connect(self, directory: str, port: int) -> Any:
        """Connect, and wait until messages can be sent."""
        _, link = await asyncio.get_running_loop().create_connection(
            lambda: _Link(lambda link: None),
            LOOPBACK,
            port,
            ssl=context(directory, False),
            server_hostname=HOST,
        )
        return link

    async def sendAll(self, links: Sequence[Any], data: bytes, count: int) -> None:
        """Send a message many times to many, as fast as the slowest takes it."""
        framed = PREFIX.pack(len(data)) + data
        for _ in range(count):
            for link in links:
                link.transport.write(framed)
            for link in links:
                if link.resumed is not None:
                    await link.resumed
