"""
A bad network: forwards TCP connections on 127.0.0.1 and cuts each of them after a
while, somewhere in the stream::

    python -m tests.support.cuttingproxy 8765 --seconds 0.05 0.5 --seed 7

It says where it listens, then each cut: C{reset} and C{close} end both sides at once,
C{forget} resets the client's side and leaves the server's open, as a router does that
was restarted.  At the end of each connection it says how much clients have sent.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
)
from twisted.internet.interfaces import (
    IConsumer,
    IListeningPort,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.task import react
from twisted.python.failure import Failure

KINDS = ("reset", "close", "forget")
LAST = 4096  # bytes to forward after the time for a cut has come, at most


class _Side(protocol.Protocol):
    """
    One side of a connection.

    @ivar other: the other side, None before it is there and once it is cut.
    @ivar link: both.
    """

    transport: ITCPTransport
    other: _Side | None = None

    def __init__(self, link: _Link) -> None:
        """@param link: both sides."""
        self.link = link

    def dataReceived(self, data: bytes) -> None:
        """
        Forward, unless it is cut.

        @param data: what came.
        """
        if self is self.link.client:
            self.link.proxy.received += len(data)
        if self.other is not None:
            self.other.transport.write(self.link.spend(data))
            self.link.cutIfDue()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        End the other side, too.

        @param reason: why.
        """
        if self is self.link.client:
            print(f"{self.link.proxy.received} bytes from clients", flush=True)
        other, self.other = self.other, None
        if other is not None:
            other.other = None
            other.transport.loseConnection()
        self.link.stop()


class _Link:
    """
    A connection through the proxy.

    @ivar client: the side of who called.
    @ivar server: the side of who was called.
    @ivar proxy: what made it.
    """

    def __init__(
        self,
        proxy: CuttingProxy,
        clock: IReactorTime,
        seconds: float | None,
        size: int,
        cutting: Callable[[], str],
    ) -> None:
        """
        @param proxy: what makes it.
        @param clock: keeps time.
        @param seconds: when to cut, None at once.
        @param size: bytes to forward after that, both ways together.
        @param cutting: called before it is cut, says how.
        """
        self.proxy = proxy
        self.client, self.server = _Side(self), _Side(self)
        self._size = size
        self._cutting = cutting
        self._due = seconds is None
        self._timer = None if seconds is None else clock.callLater(seconds, self._now)

    def join(self, result: object) -> None:
        """
        Begin to forward, once both sides are there.

        @param result: the second of them.
        """
        pairs = (self.client, self.server), (self.server, self.client)
        for side, other in pairs:
            side.other = other
            consumer = cast(IConsumer, side.transport)
            consumer.registerProducer(cast(IPushProducer, other.transport), True)
        cast(IPushProducer, self.client.transport).resumeProducing()

    def spend(self, data: bytes) -> bytes:
        """
        Count bytes, once the time for a cut has come.

        @param data: what came.
        @return: as much of it as is forwarded.
        """
        if not self._due:
            return data
        data = data[: self._size]
        self._size -= len(data)
        return data

    def cutIfDue(self) -> None:
        """Cut, if the last byte is forwarded."""
        if self._size > 0:
            return
        kind = self._cutting()
        sides = (self.client, self.server)
        for side in sides:
            side.other = None
            cast(IConsumer, side.transport).unregisterProducer()
            cast(IPushProducer, side.transport).resumeProducing()
        for side in sides:
            if kind == "close":
                side.transport.loseConnection()
            elif kind == "reset" or side is self.client:
                side.transport.abortConnection()

    def stop(self) -> None:
        """Do nothing later."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _now(self) -> None:
        """The time for a cut has come."""
        self._due = True


class CuttingProxy(protocol.Factory):
    """
    Forwards connections, and cuts them.

    @ivar received: bytes that came from clients.
    """

    noisy = False
    received = 0

    def __init__(
        self,
        clock: IReactorTime,
        target: IStreamClientEndpoint,
        seed: int,
        seconds: tuple[float, float] | None,
        size: int,
    ) -> None:
        """
        @param clock: keeps time.
        @param target: where to forward to.
        @param seed: the same cuts again, as far as that is possible.
        @param seconds: when to cut, from and to; None to count bytes only.
        @param size: bytes after which to cut then, at the most.
        """
        self._clock = clock
        self._target = target
        self._random = random.Random(seed)
        self._seconds = seconds
        self._size = size
        self._cuts = 0

    def buildProtocol(self, addr: object) -> protocol.Protocol:
        """
        Forward a connection.

        @param addr: where it comes from.
        @return: what stands for it.
        """
        seconds = self._seconds and self._random.uniform(*self._seconds)
        size = self._random.randint(1, self._size)
        link = _Link(self, self._clock, seconds, size, self._cutting)
        connecting = connectProtocol(self._target, link.server)
        connecting.addCallbacks(link.join, partial(_refused, link.client))
        link.client.connectionMade = partial(_wait, link.client)  # type: ignore[method-assign]
        return link.client

    def _cutting(self) -> str:
        """
        Say that a connection is cut.

        @return: how.
        """
        self._cuts += 1
        kind = self._random.choice(KINDS)
        print(f"cut {self._cuts}: {kind}", flush=True)
        return kind


def _wait(side: _Side) -> None:
    """
    Read nothing until the other side is there.

    @param side: this one.
    """
    cast(IPushProducer, side.transport).pauseProducing()


def _refused(side: _Side, failure: Failure) -> None:
    """
    There is nobody to forward to.

    @param side: who called.
    @param failure: why.
    """
    side.transport.loseConnection()


def options(arguments: list[str]) -> Any:
    """
    Read the command line.

    @param arguments: what follows the program's name.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=int, help="the port to forward to")
    parser.add_argument("--seconds", type=float, nargs=2, help="when to cut")
    parser.add_argument("--bytes", type=int, default=LAST, help="and how far then")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args(arguments)


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """
    Listen, and forward until somebody ends the process.

    @param reactor: the reactor.
    @param arguments: the command line.
    @return: never fires.
    """
    chosen = options(list(arguments))
    target = TCP4ClientEndpoint(reactor, "127.0.0.1", chosen.target)
    proxy = CuttingProxy(reactor, target, chosen.seed, chosen.seconds, chosen.bytes)
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    forever: Deferred[None] = Deferred()

    def tell(port: IListeningPort) -> Deferred[None]:
        """
        Say where it listens.

        @param port: the port.
        """
        print(f"listening on {cast(Any, port.getHost()).port}", flush=True)
        return forever

    listening: Deferred[Any] = endpoint.listen(proxy)
    return listening.addCallback(tell)


if __name__ == "__main__":
    react(main, sys.argv[1:])
