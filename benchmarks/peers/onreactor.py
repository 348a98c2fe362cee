"""
What the peers on Twisted share: the event loop, and links that heed their
transport.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater, react
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["LOOPBACK", "Link", "ReactorPeer", "TwistedPeer", "reactor"]

LOOPBACK = "127.0.0.1"

reactor: Any = installed  # the installed one has more than any interface says


class ReactorPeer:
    """Runs on the reactor."""

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """
        Run until a coroutine is done; log warnings only, and nothing to memory, as
        Twisted does until logging begins.

        @param main: the coroutine.
        @return: its result.
        """
        warnings = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
        observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [warnings])
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
        results: list[Any] = []
        with suppress(SystemExit):  # which says that it went well, or why not
            react(lambda _: Deferred.fromCoroutine(main).addCallback(results.append))
        return results[0] if results else None  # ended by a signal

    def spawn(self, task: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside all else."""
        Deferred.fromCoroutine(task).addErrback(Failure.printTraceback)

    def signal(self) -> tuple[Any, Callable[..., None]]:
        """
        Make something to wait for.

        @return: it, and what fires it.
        """
        waiting: Deferred[Any] = Deferred()
        return waiting, lambda *ignored: waiting.callback(None)

    def gather(self, tasks: Sequence[Coroutine[Any, Any, Any]]) -> Any:
        """Run coroutines at once and wait for all."""
        return gatherResults([Deferred.fromCoroutine(task) for task in tasks])

    def turn(self) -> Any:
        """Wait for the next turn of the event loop."""
        return deferLater(reactor, 0)


@implementer(IPushProducer)
class Link(Int32StringReceiver):
    """A connection with messages behind their lengths."""

    MAX_LENGTH = 1 << 24
    transport: Any
    factory: Any
    send = Int32StringReceiver.sendString
    _paused = False
    _resume: Callable[..., None] | None = None

    @property
    def received(self) -> Callable[[bytes], Any]:
        """What is called with each message."""
        return self.stringReceived

    @received.setter
    def received(self, received: Callable[[bytes], Any]) -> None:
        """Let Twisted call it itself."""
        self.stringReceived = received  # type: ignore[method-assign]

    def connectionMade(self) -> None:
        """Heed the transport."""
        self.disableNagle()
        self.transport.registerProducer(self, True)
        self.closed, self._fireClosed = ReactorPeer().signal()
        self.factory.accepted(self)

    def disableNagle(self) -> None:
        """Let small messages leave at once."""
        self.transport.setTcpNoDelay(True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell who waits."""
        self._fireClosed()

    def pauseProducing(self) -> None:
        """The transport takes no more."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport takes more."""
        self._paused = False
        resume, self._resume = self._resume, None
        if resume is not None:
            resume()

    def stopProducing(self) -> None:
        """The transport is closing."""

    async def sendMany(self, data: bytes, count: int) -> None:
        """Send a message many times, as fast as the transport takes it."""
        send = self.send
        for _ in range(count):
            send(data)
            if self._paused:
                await self.writable()

    def writable(self) -> Any:
        """Wait until the transport takes more."""
        waiting, self._resume = ReactorPeer().signal()
        return waiting

    def close(self) -> Any:
        """Close, and wait for it."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        return self.closed


class TwistedPeer(ReactorPeer):
    """
    A protocol over TCP, plain or wrapped.

    @ivar serverProtocol: the links' class at the server.
    @ivar clientProtocol: the same at the client.
    """

    serverProtocol: type[Protocol] = Link
    clientProtocol: type[Protocol] = Link

    def serverEndpoint(self, directory: str) -> Any:
        """Where to listen."""
        return TCP4ServerEndpoint(reactor, 0, backlog=1024, interface=LOOPBACK)

    def clientEndpoint(self, directory: str, port: int) -> Any:
        """Where to connect to."""
        return TCP4ClientEndpoint(reactor, LOOPBACK, port)

    async def listen(self, directory: str, accepted: Callable[[Any], None]) -> int:
        """
        Listen.

        @return: the port.
        """
        factory: Any = Factory.forProtocol(self.serverProtocol)
        factory.accepted = accepted
        factory.noisy = False
        port = await self.serverEndpoint(directory).listen(factory)
        return int(port.getHost().port)

    async def connect(self, directory: str, port: int) -> Any:
        """Connect, and wait until messages can be sent."""
        factory: Any = Factory.forProtocol(self.clientProtocol)
        ready, fire = self.signal()
        factory.accepted = fire
        factory.noisy = False
        link = await self.clientEndpoint(directory, port).connect(factory)
        await ready
        return link

    async def sendAll(self, links: Sequence[Any], data: bytes, count: int) -> None:
        """Send a message many times to many, as fast as the slowest takes it."""
        for _ in range(count):
            for link in links:
                link.send(data)
            for link in links:
                if link._paused:
                    await link.writable()
