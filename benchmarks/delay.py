"""
A link with a delay, in a process of its own: a proxy before a server, which keeps all
that comes, in order, for half of a round-trip time each way::

    python -m benchmarks.delay PORT MILLISECONDS     # says its own port

It holds up the first bytes and the connection to the server as if TCP's own handshake
had crossed the link, too.  It is made of threads that sleep, since event loops wait for
whole milliseconds.
"""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

__all__ = ["LOOPBACK", "join"]

LOOPBACK = "127.0.0.1"
SIZE = 65536  # bytes that are read at once

Queue = SimpleQueue[tuple[float, bytes]]  # each with when it is to leave


def join(client: socket.socket, port: int, trip: float) -> None:
    """
    Be the link between a client and its server, until both have ended.

    @param client: connected.
    @param port: where the server listens.
    @param trip: the round-trip time in seconds.
    """
    time.sleep(trip)  # SYN and its answer: before that no client can send
    there: Queue = SimpleQueue()
    threads = [Thread(target=_read, args=(client, there, trip / 2), daemon=True)]
    threads[0].start()
    time.sleep(trip / 2)
    with client, socket.create_connection((LOOPBACK, port)) as server:
        for end in (client, server):
            if end.family == socket.AF_INET:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back: Queue = SimpleQueue()
        threads += [
            Thread(target=_write, args=(server, there), daemon=True),
            Thread(target=_read, args=(server, back, trip / 2), daemon=True),
        ]
        for thread in threads[1:]:
            thread.start()
        _write(client, back)
        for thread in threads:
            thread.join()


def _read(source: socket.socket, queue: Queue, delay: float) -> None:
    """Queue what comes, and at the end nothing."""
    data = b"more"
    while data:
        try:
            data = source.recv(SIZE)
        except OSError:
            data = b""
        queue.put((time.monotonic() + delay, data))


def _write(sink: socket.socket, queue: Queue) -> None:
    """Let go what is due, up to the end."""
    data = b"more"
    # One who is gone needs nothing more; the other end will say so itself.
    with suppress(OSError):
        while data:
            due, data = queue.get()
            time.sleep(max(0.0, due - time.monotonic()))
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def main() -> None:
    """Take connections until the process is ended."""
    port, milliseconds = map(int, sys.argv[1:])
    with socket.create_server((LOOPBACK, 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            arguments = (client, port, milliseconds / 1000)
            Thread(target=join, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
