"""
What the peers on ZeroMQ share.  Its own threads do the I/O, and it is fastest
when called directly: the event loop here is a poll.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

import zmq

__all__ = ["ZeroMQPeer"]

HIGH_WATER = 10_000  # messages
BURST = 1_000  # messages taken before others have their turn
MAX_SOCKETS = 16_384


class _Signal:
    """Something to wait for."""

    def __init__(self) -> None:
        """Start unfired."""
        self.fired = False

    def fire(self, *ignored: object) -> None:
        """Let who waits go on."""
        self.fired = True

    def __await__(self) -> Generator[_Signal, None, None]:
        """Wait."""
        while not self.fired:
            yield self


class _ClientLink:
    """A DEALER socket."""

    received: Callable[[bytes], Any]

    def __init__(self, peer: ZeroMQPeer, socket: Any) -> None:
        """
        @param peer: polls.
        @param socket: connected, or about to be.
        """
        self._peer = peer
        self._socket = socket
        self.send = socket.send

    async def sendMany(self, data: bytes, count: int) -> None:
        """Send a message many times, as fast as the socket takes it."""
        send, copy = self._socket.send, len(data) < zmq.COPY_THRESHOLD
        for _ in range(count):
            send(data, copy=copy)

    async def close(self) -> None:
        """Close."""
        self._peer.forget(self._socket)
        self._socket.close()

    def take(self) -> None:
        """Take what came."""
        try:
            for _ in range(BURST):
                self.received(self._socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            pass


class _ServerLink:
    """A client of the ROUTER socket."""

    received: Callable[[bytes], Any]

    def __init__(self, socket: Any, identity: bytes) -> None:
        """
        @param socket: the ROUTER.
        @param identity: whose messages.
        """
        self._socket = socket
        self._identity = identity

    def send(self, data: bytes) -> None:
        """Send a message."""
        self._socket.send_multipart((self._identity, data))


class _Router:
    """The ROUTER socket."""

    def __init__(self, socket: Any, accepted: Callable[[Any], None]) -> None:
        """
        @param socket: bound.
        @param accepted: called with each new client.
        """
        self._socket = socket
        self._accepted = accepted
        self._links: dict[bytes, _ServerLink] = {}

    def take(self) -> None:
        """Take what came."""
        receive, links = self._socket.recv_multipart, self._links
        try:
            for _ in range(BURST):
                identity, data = receive(zmq.NOBLOCK)
                link = links.get(identity)
                if link is None:
                    link = links[identity] = _ServerLink(self._socket, identity)
                    self._accepted(link)
                link.received(data)
        except zmq.Again:
            pass


class ZeroMQPeer:
    """
    DEALER and ROUTER.

    @ivar curve: whether CURVE protects them.
    """

    def __init__(self, curve: bool) -> None:
        """@param curve: whether CURVE protects them."""
        self._curve = curve
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self._poller = zmq.Poller()
        self._takers: dict[Any, Callable[[], None]] = {}
        self._tasks: list[tuple[Coroutine[Any, Any, Any], _Signal]] = []

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """
        Run until a coroutine is done.

        @return: its result.
        """
        results: list[Any] = []
        self.spawn(self._collect(main, results))
        while not results:
            self._turn()
        self._context.destroy(linger=0)
        return results[0]

    def spawn(self, task: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside all else."""
        with contextlib.suppress(StopIteration):
            self._tasks.append((task, task.send(None)))

    def signal(self) -> tuple[Any, Callable[..., None]]:
        """
        Make something to wait for.

        @return: it, and what fires it.
        """
        waiting = _Signal()
        return waiting, waiting.fire

    async def gather(self, tasks: Sequence[Coroutine[Any, Any, Any]]) -> None:
        """Run coroutines at once and wait for all."""
        results: list[Any] = []
        done = _Signal()
        for task in tasks:
            self.spawn(self._collect(task, results, len(tasks), done))
        await done

    async def listen(self, directory: str, accepted: Callable[[Any], None]) -> int:
        """
        Listen.

        @return: the port.
        """
        socket = self._socket(zmq.ROUTER)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        if self._curve:
            public, secret = Path(directory, "curve.key").read_bytes().split()
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = public, secret
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        self._watch(socket, _Router(socket, accepted).take)
        return port

    async def connect(self, directory: str, port: int) -> Any:
        """Connect; messages are queued until that is done."""
        socket = self._socket(zmq.DEALER)
        if self._curve:
            socket.curve_serverkey = Path(directory, "curve.key").read_bytes()[:40]
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.connect(f"tcp://127.0.0.1:{port}")
        link = _ClientLink(self, socket)
        self._watch(socket, link.take)
        return link

    async def sendAll(self, links: Sequence[Any], data: bytes, count: int) -> None:
        """Send a message many times to many, as fast as the slowest takes it."""
        for _ in range(count):
            for link in links:
                link.send(data)

    def forget(self, socket: Any) -> None:
        """Poll a socket no more."""
        self._poller.unregister(socket)
        del self._takers[socket]

    # Parts

    async def _collect(
        self,
        task: Coroutine[Any, Any, Any],
        results: list[Any],
        wanted: int = 1,
        done: _Signal | None = None,
    ) -> None:
        """Keep a coroutine's result, and say when there are enough."""
        results.append(await task)
        if done is not None and len(results) == wanted:
            done.fire()

    def _socket(self, kind: int) -> Any:
        """Make a socket."""
        socket = self._context.socket(kind)
        socket.set_hwm(HIGH_WATER)
        socket.linger = 0
        return socket

    def _watch(self, socket: Any, take: Callable[[], None]) -> None:
        """Poll a socket."""
        self._poller.register(socket, zmq.POLLIN)
        self._takers[socket] = take

    def _turn(self) -> None:
        """Take what came, and let those go on who waited for it."""
        for socket, _ in self._poller.poll():
            take = self._takers.get(socket)
            if take is not None:
                take()
        waiting, self._tasks = self._tasks, []
        for task, signal in waiting:
            if signal.fired:
                self.spawn(task)
            else:
                self._tasks.append((task, signal))
