"""
The byte stream for any protocol: C{wrapServerEndpoint} and C{wrapClientEndpoint} on a
network in memory, with a protocol of Twisted's kind at each end that writes, produces,
pauses, half-closes, closes and aborts as it likes, and strangers who call.

Input: one byte for the options; then steps, each a byte and what it needs.

Whatever happens: nothing is logged as a failure; each end gets the beginning of what
the other has written, and all of it before it hears of an end in order; nothing comes
to an end that pauses, or has closed, or is gone, and each is told of its end once;
what is kept for one that pauses is one read; an attempt to connect fires once; and
when all is closed nothing is left.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IListeningPort,
    IPullProducer,
    IPushProducer,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm import AnyServer, PrivateKey
from aesm.errors import AESMError, NotAuthorized
from aesm.secure import wrapClientEndpoint, wrapServerEndpoint
from aesm.testing import MemoryNetwork, network
from aesm.testing.transport import BUFFER
from fuzz.failures import noFailures
from fuzz.script import Script
from tests.support.helpers import CLIENT_KEY, SERVER_KEY, XX

__all__ = ["run", "seeds"]

_CLIENT = PrivateKey(CLIENT_KEY)
_MOST_STEPS = 200
_PATTERN = bytes(range(251)) * 300  # no two pieces of the same length look the same
_SECONDS = (0.0, 1.0, 4.9, 11.0)
_CLEAN = error.ConnectionDone


class _End(Protocol):
    """
    One end of a stream.

    @ivar written: bytes that the transport was to take.
    @ivar got: bytes that came.
    @ivar lost: why the connection is over, or None.
    @ivar other: the other end, or None.
    @ivar side: 0 for the client's, 1 for the server's.
    @ivar producer: what produces for it, or None.
    """

    transport: Any
    side = 0
    producer: _Producer | None = None

    def __init__(self) -> None:
        """Begin with nothing."""
        self.written = self.got = 0
        self.lost: BaseException | None = None
        self.other: _End | None = None
        self.paused = self.closing = self.readEnd = False
        self.tired = False  # whether it pauses when the next bytes come

    def write(self, size: int) -> None:
        """Write the next bytes, if the transport can take them."""
        transport = self.transport
        if self.lost is None and (not transport.disconnecting or transport.producing):
            start = self.written % 251
            if transport._writing:
                self.written += size
            transport.write(_PATTERN[start : start + size])

    def dataReceived(self, data: bytes) -> None:
        """Check what comes."""
        assert not self.paused, "bytes while paused"
        assert not self.closing, "bytes after loseConnection"
        assert not self.readEnd, "bytes behind the end"
        assert self.lost is None, "bytes after connectionLost"
        start = self.got % 251
        assert _PATTERN[start:].startswith(data), "other bytes than were written"
        self.got += len(data)
        assert self.other is None or self.got <= self.other.written, "too many bytes"
        if self.tired:
            self.tired, self.paused = False, True
            self.transport.pauseProducing()

    def whole(self) -> None:
        """Check that all has come."""
        other = self.other
        assert other is None or self.got == other.written, "the stream was cut short"

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Check the end."""
        assert self.lost is None, "connectionLost twice"
        assert reason is not None
        self.lost = reason.value
        if isinstance(self.lost, _CLEAN) and not self.closing:
            self.whole()


@implementer(IHalfCloseableProtocol)
class _HalfEnd(_End):
    """One that goes on after the other's end."""

    def readConnectionLost(self) -> None:
        """The other has ended in order."""
        assert not self.paused, "the end while paused"
        assert not self.readEnd, "two ends"
        self.readEnd = True
        self.whole()

    def writeConnectionLost(self) -> None:
        """We have ended."""


@implementer(IPushProducer, IPullProducer)
class _Producer:
    """
    Produces for an end.

    @ivar paused: whether it is not to.
    """

    def __init__(self, end: _End, streaming: bool, amount: int) -> None:
        """@param amount: pieces that a pull producer has."""
        self.paused = False
        self._end = end
        self._streaming = streaming
        self._amount = amount

    def resumeProducing(self) -> None:
        """Produce again, or one piece."""
        self.paused = False
        if not self._streaming:
            self._end.write(1000)
            self._amount -= 1
            if self._amount <= 0:
                self._end.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        """Produce nothing."""
        self.paused = True

    def stopProducing(self) -> None:
        """Produce nothing any more."""
        self.paused = True


class _World:
    """A server, one client after another, and what is done to them."""

    def __init__(self, options: int, keys: Path) -> None:
        """
        @param options: bits.
        @param keys: where the list of authorized keys goes.
        """
        self._keys = keys
        self.network = MemoryNetwork()
        self._late = bool(options & 1)
        self._decisions: list[Deferred[str]] = []
        kinds = [_HalfEnd if options & bit else _End for bit in (2, 4)]
        self._kinds: list[type[_End]] = kinds
        if options & 8:
            self.network.chunkSize = 7
        self.ends: list[_End] = []  # the client's and the server's, of one connection
        self._tampered = False
        self._attempt: Deferred[Any] | None = None
        self._outcomes: list[Any] = []
        self._ports: list[IListeningPort] = []
        wrapped = wrapServerEndpoint(
            self.network.endpoint(),
            reactor=self.network.clock,
            key=PrivateKey(SERVER_KEY),
            suites=(XX,),
            authorizedKeys=self._policy(options),
        )
        wrapped.listen(Factory.forProtocol(self._accepted)).addCallback(
            self._ports.append
        )

    def _policy(self, options: int) -> Any:
        """Make what decides on clients."""
        if options & 32:
            self._writeKeys(True)
            return self._keys
        return self._decide if options & 16 else None

    def _writeKeys(self, mayEnter: bool) -> None:
        """Write the list of the clients that may come in."""
        self._keys.write_text(f"{_CLIENT.publicKey} client\n" * mayEnter)

    def _decide(self, publicKey: object, address: object) -> Any:
        """Decide on a client, now or later."""
        if not self._late:
            return "somebody"
        self._decisions.append(Deferred())
        return self._decisions[-1]

    def _accepted(self) -> _End:
        """Build the server's end."""
        end = self._kinds[1]()
        self._join(end, 1)
        return end

    def _join(self, end: _End, which: int) -> None:
        """Know both ends of the present connection."""
        for other in self.ends:
            if other.other is None and other.side != which:
                other.other, end.other = end, other
        end.side = which
        self.ends.append(end)

    def connect(self, script: Script) -> None:
        """Connect, if nobody is there."""
        self.ends = [end for end in self.ends if end.lost is None]
        if self.network.links or self._attempt is not None or self.ends:
            return

        def build() -> _End:
            """Build the client's end."""
            end = self._kinds[0]()
            self._join(end, 0)
            return end

        endpoint = wrapClientEndpoint(
            self.network.endpoint(),
            reactor=self.network.clock,
            key=_CLIENT,
            suites=(XX,),
            trust=AnyServer(),
        )
        self._attempt = endpoint.connect(Factory.forProtocol(build))
        self._attempt.addBoth(self._cbOutcome)

    def _cbOutcome(self, outcome: Any) -> None:
        """An attempt is over."""
        self._attempt = None
        if isinstance(outcome, Failure):
            outcome.trap(AESMError, error.ConnectError, error.ConnectingCancelledError)

    def end(self, script: Script) -> _End | None:
        """Choose an end that has its transport."""
        ends = [end for end in self.ends if end.transport is not None]
        return ends[script.number() % len(ends)] if ends else None

    def flow(self, script: Script) -> None:
        """Pieces arrive."""
        for _ in range(script.number() % 16 + 1):
            for link in list(self.network.links):
                link.deliver(self.network.chunkSize)
        self.network.clock.advance(0)

    def settle(self, script: Script) -> None:
        """Everything arrives."""
        self.network.deliver()

    def wait(self, script: Script) -> None:
        """Time passes."""
        self.network.advance(_SECONDS[script.number() % len(_SECONDS)])

    def write(self, script: Script) -> None:
        """An end writes."""
        end, size = self.end(script), script.number(2)
        if end is not None:
            end.write(size)

    def pause(self, script: Script) -> None:
        """An end pauses, now or in the middle of what comes next, or goes on."""
        end, later = self.end(script), script.number() & 1
        if end is None or end.lost is not None or end.closing:
            return
        if later:
            end.tired = not end.paused
            return
        end.paused = not end.paused
        if end.paused:
            end.transport.pauseProducing()
        else:
            end.transport.resumeProducing()

    def produce(self, script: Script) -> None:
        """A producer is registered, writes, or is done."""
        end, how = self.end(script), script.number()
        if end is None:
            return
        producer = end.producer
        if end.transport._producer is None:
            producer = end.producer = _Producer(end, bool(how & 1), how >> 4)
            end.transport.registerProducer(producer, bool(how & 1))
        elif how & 2:
            end.transport.unregisterProducer()
        elif producer is not None and not producer.paused:
            end.write(how * 99)

    def close(self, script: Script) -> None:
        """An end closes, its direction or all, or aborts."""
        end, how = self.end(script), script.number() % 4
        if end is None:
            return
        if how == 0:
            end.transport.loseWriteConnection()
        elif how == 1:
            end.closing = True
            end.transport.abortConnection()
        else:
            end.closing = True
            end.transport.loseConnection()
        end.paused &= not end.closing

    def disturb(self, script: Script) -> None:
        """The network does its worst."""
        how, links = script.number() % 7, self.network.links
        if not links:
            return
        link = links[script.number() % len(links)]
        pipe = (link.toServer, link.toClient)[how & 1]
        if how < 2:
            pipe.stalled = not pipe.stalled
        elif how == 4:
            link.cut()
        elif how > 4:  # as TCP ends in order, though the stream has not
            (link.client, link.server)[how & 1].lose(error.ConnectionDone())
        elif pipe.inFlight:
            pipe.corrupt(script.number(2) % len(pipe.inFlight))
            self._tampered = True

    def decide(self, script: Script) -> None:
        """
        A client is let in, or not, or does not want to come any more; or may come in
        from now on, or may not.
        """
        how = script.number() % 5
        if how > 2:
            self._writeKeys(how == 3)
        elif how == 2 and self._attempt is not None:
            self._attempt.cancel()
        elif self._decisions:
            decision = self._decisions.pop(0)
            if how:
                decision.errback(NotAuthorized("no"))
            else:
                decision.callback("somebody")

    def stranger(self, script: Script) -> None:
        """Somebody calls who does not speak our protocol."""
        factory = Factory.forProtocol(Protocol)
        said = script.take(script.number())
        calling: Deferred[Any] = self.network.endpoint("10.0.0.9").connect(factory)
        calling.addCallback(lambda protocol: protocol.transport.write(said))

    def check(self) -> None:
        """Check what holds at any time."""
        for end in self.ends:
            transport = end.transport
            if transport is not None:
                inbound = [
                    each for each in transport._inbound if isinstance(each, bytes)
                ]
                assert sum(map(len, inbound)) <= BUFFER, "too much is kept"

    def leaveAlone(self) -> None:
        """Everything arrives, and then all is closed."""
        self.network.chunkSize = BUFFER
        for link in self.network.links:
            link.toServer.stalled = link.toClient.stalled = False
        while self._decisions:
            self._decisions.pop().callback("somebody")
        for end in self.ends:
            end.tired = False
            if end.paused and end.lost is None:
                end.paused = False
                end.transport.resumeProducing()
        self.network.deliver()
        for end in self.ends:
            if not (end.lost or end.closing or end.readEnd or self._tampered):
                end.whole()
            if end.transport is not None and not end.lost:
                end.closing = True
                end.transport.unregisterProducer()
                end.transport.loseConnection()
        self._ports[0].stopListening()
        self.network.advance(20)
        for end in self.ends:
            assert end.transport is None or end.lost is not None, (
                "it was told of no end"
            )
        assert self._attempt is None, "an attempt neither succeeds nor fails"
        assert not self.network.links, "links are left"
        assert not self.network.clock.getDelayedCalls(), "timers are left"


_STEPS: tuple[Callable[[_World, Script], None], ...] = (
    _World.connect,
    _World.flow,
    _World.settle,
    _World.wait,
    _World.write,
    _World.pause,
    _World.produce,
    _World.close,
    _World.disturb,
    _World.decide,
    _World.stranger,
)


def run(data: bytes) -> None:
    """
    Let happen what the input says.

    @param data: the input.
    """
    script = Script(data)
    with (
        tempfile.TemporaryDirectory(prefix="aesm-fuzz-") as directory,
        mock.patch.object(network, "MAX_ROUNDS", 100_000),
        noFailures(),
    ):
        world = _World(script.number(), Path(directory, "keys"))
        world.connect(script)
        steps = 0
        while script.more and steps < _MOST_STEPS:
            _STEPS[script.number() % len(_STEPS)](world, script)
            world.check()
            steps += 1
        world.leaveAlone()
        del world
        gc.collect(1)


def seeds() -> Iterator[bytes]:
    """Make streams that end in each way, and some that do not begin."""
    write, flow, settle, wait = b"\4\0\4\0", b"\1\3", b"\2", b"\3\3"
    answer = b"\4\1\2\0"
    for options in range(8):
        start = bytes([options]) + settle + write + answer + flow
        yield start
        for how in range(4):
            for which in range(2):
                yield start + bytes([7, which, how]) + answer + settle + wait
    start = b"\6" + settle
    for how in (0x20, 0x01, 0x31):
        produce = bytes([6, 0, how])
        yield start + produce + settle + b"\4\0\xff\xff" * 3 + produce + settle
        yield start + produce + b"\7\0\2" + produce + flow + b"\6\0\2" + settle
        yield (
            start
            + b"\x08\0\0"
            + produce
            + b"\4\0\xff\xff" * 3
            + wait
            + b"\x08\0\0"
            + flow
        )
    pause, tired = b"\5\1\0", b"\5\1\1"
    yield start + pause + write + settle + write + settle + pause + settle
    yield start + pause + write + b"\7\0\0" + settle + pause + pause + settle
    for again in (tired, b""):
        yield start + tired + (write + b"\3\0") * 5 + settle + pause + again + settle
    yield b"\2" + settle + b"\5\0\0" + answer + settle + b"\7\0\2" + settle
    for how in range(7):
        yield b"\0" + flow + b"\x08" + bytes([how]) + b"\0\0\3" + settle + wait
        yield start + write + b"\x08" + bytes([how]) + b"\0\0\3" + settle + wait
    for how in range(3):
        yield b"\x11" + settle + write + bytes([9, how]) + settle + write + settle
    yield b"\x11" + settle + wait
    yield b"\x20" + settle + write + b"\x09\4" + b"\3\2" * 3 + b"\0" + settle + wait
    yield b"\x10" + settle + write + settle
    yield start + b"\x0a\x12GET / HTTP/1.1\r\n\r\n" + settle
    yield b"\0" + b"\x09\2" + settle
    yield b"\0" + b"\1\0" + b"\x09\2" + settle + b"\0" + settle + write + settle
