"""
What any stream transport owes to the protocol on it: one set of tests, run
over Twisted's own transports and over ours, so that nothing which holds for TCP
is lost inside a secure channel.

Also a transport in memory that passes them, for tests that need a clock of
their own: L{MemoryTransport}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet import error, reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IPullProducer,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

_log = Logger()

CHUNK = 65536  # bytes that a transport reads at once, and writes before it pauses
BIG = 3_000_000  # bytes: more than any buffer on the way holds


# A transport in memory


@implementer(ITCPTransport, IConsumer, IPushProducer)
class MemoryTransport:
    """
    One end of a connection in memory that behaves as TCP's do: it has a buffer
    of its own, a pipe to the other end that holds L{CHUNK} bytes, and pauses.

    @ivar noDelay: what C{setTcpNoDelay} was told.
    @ivar other: the other end.
    @ivar reading: whether it is not paused.
    @ivar written: all that was written.
    """

    other: MemoryTransport

    def __init__(
        self, clock: IReactorTime, host: IPv4Address, peer: IPv4Address
    ) -> None:
        """
        @param clock: runs the event loop.
        @param host: the address of this end.
        @param peer: the address of the other.
        """
        self.clock = clock
        self.protocol: IProtocol = Protocol()
        self.connected = True
        self.disconnecting = False
        self.noDelay = False
        self.reading = True
        self.written = bytearray()
        self._host, self._peer = host, peer
        self._buffer = bytearray()  # waits for room in the pipe
        self._pipe = bytearray()  # came from the other end
        self._producer: Any = None
        self._streaming = self._producerPaused = False
        self._halfClosing = self._halfClosed = False
        self._ended = self._endSeen = False  # the other end writes no more
        self._closing: BaseException | None = None  # why, in the next turn
        self._step: IDelayedCall | None = None

    def write(self, data: bytes) -> None:
        """
        Send bytes.

        @param data: the bytes.
        """
        if not isinstance(data, bytes):
            raise TypeError("Data must be bytes")
        if self.connected and not self._halfClosed:
            self.written += data
            self._buffer += data
            if len(self._buffer) > CHUNK and self._streaming:
                self._producerPaused = True
                self._producer.pauseProducing()
            self._wake()

    def writeSequence(self, data: Any) -> None:
        """
        Send several pieces.

        @param data: the pieces.
        """
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when all is sent."""
        self.disconnecting = True
        self._wake()

    def loseWriteConnection(self) -> None:
        """Close our direction when all is sent."""
        self._halfClosing = True
        self._wake()

    def abortConnection(self) -> None:
        """Close in the next turn."""
        self.lose(error.ConnectionAborted())

    def lose(self, reason: BaseException) -> None:
        """
        Close in the next turn.

        @param reason: why.
        """
        self._closing = self._closing or reason
        self._wake()

    def getPeer(self) -> IPv4Address:
        """@return: the address of the other end."""
        return self._peer

    def getHost(self) -> IPv4Address:
        """@return: the address of this end."""
        return self._host

    def getTcpNoDelay(self) -> bool:
        """@return: what was set."""
        return self.noDelay

    def setTcpNoDelay(self, enabled: bool) -> None:
        """@param enabled: whether small writes leave at once."""
        self.noDelay = enabled

    def getTcpKeepAlive(self) -> bool:
        """@return: False."""
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """@param enabled: does not matter."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        @param producer: writes.
        @param streaming: whether it is a push producer.
        """
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer, self._streaming = producer, streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Nobody writes any more."""
        self._producer, self._streaming = None, False
        self._wake()

    def pauseProducing(self) -> None:
        """Read nothing."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Read again."""
        self.reading = True
        self._wake()

    def stopProducing(self) -> None:
        """Close when all is sent."""
        self.loseConnection()

    def _wake(self) -> None:
        """Do what there is to do in the next turn."""
        if self._step is None and self.connected:
            self._step = self.clock.callLater(0, self._turn)

    def _turn(self) -> None:
        """Do what there is to do in one turn."""
        self._step = None
        try:
            if self._closing is not None:
                self._lost(self._closing)
                return
            self._send()
            if self.connected and self.reading and not self.disconnecting:
                self._receive()
        except Exception as problem:
            _log.failure("protocol failed")
            if self.connected:
                self._lost(problem)

    def _send(self) -> None:
        """Move bytes to the other end, then see who waits for that."""
        other = self.other
        room = CHUNK - len(other._pipe)
        if self._buffer and room > 0 and other.connected:
            other._pipe += self._buffer[:room]
            del self._buffer[:room]
            other._wake()
            self._wake()
        if self._buffer:
            return
        if self._producer is not None and (self._producerPaused or not self._streaming):
            self._producerPaused = False
            self._producer.resumeProducing()
            self._wake()
        elif self.disconnecting:
            self._lost(error.ConnectionDone())
        elif self._halfClosing and not self._halfClosed:
            self._halfClosed = other._ended = True
            other._wake()
            half = IHalfCloseableProtocol(self.protocol, None)
            if half is not None:
                half.writeConnectionLost()

    def _receive(self) -> None:
        """Hand on what came, or the end of it."""
        if self._pipe:
            data = bytes(self._pipe)
            self._pipe.clear()
            self.other._wake()
            self._wake()
            self.protocol.dataReceived(data)
        elif self._ended and not self._endSeen:
            self._endSeen = True
            half = IHalfCloseableProtocol(self.protocol, None)
            if half is None:
                self._lost(error.ConnectionDone())
            else:
                half.readConnectionLost()

    def _lost(self, reason: BaseException) -> None:
        """
        Close.

        @param reason: why.
        """
        self.connected = False
        if self._step is not None:
            self._step.cancel()
            self._step = None
        if isinstance(reason, error.ConnectionDone):
            self.other._ended = True
            self.other._wake()
        elif self.other.connected:
            self.other.lose(error.ConnectionLost())
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(reason))


def memoryPair(clock: IReactorTime) -> tuple[MemoryTransport, MemoryTransport]:
    """
    Make the two ends of a connection in memory.

    @param clock: runs the event loop.
    """
    here = IPv4Address("TCP", "127.0.0.1", 40000)
    there = IPv4Address("TCP", "127.0.0.1", 8765)
    client, server = (
        MemoryTransport(clock, here, there),
        MemoryTransport(clock, there, here),
    )
    client.other, server.other = server, client
    return client, server


@implementer(IStreamServerEndpoint, IStreamClientEndpoint, IListeningPort)
class MemoryEndpoint:
    """Where one factory listens and others connect to it, in memory."""

    def __init__(self, clock: IReactorTime) -> None:
        """@param clock: runs the event loop."""
        self._clock = clock
        self._factory: IProtocolFactory | None = None

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        @param protocolFactory: listens.
        @return: fires with this.
        """
        self._factory = protocolFactory
        protocolFactory.doStart()
        return succeed(cast(IListeningPort, self))

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        @param protocolFactory: connects.
        @return: fires with its protocol.
        """
        client, server = memoryPair(self._clock)
        factory = cast(IProtocolFactory, self._factory)
        built = protocolFactory.buildProtocol(server.getHost())
        accepted = factory.buildProtocol(client.getHost())
        if built is None or accepted is None:
            return fail(error.NoProtocol())
        client.protocol, server.protocol = built, accepted
        accepted.makeConnection(cast(ITransport, server))
        built.makeConnection(cast(ITransport, client))
        return succeed(built)

    def startListening(self) -> None:
        """It does already."""

    def stopListening(self) -> None:
        """Listen no more."""
        factory, self._factory = self._factory, None
        if factory is not None:
            factory.doStop()

    def getHost(self) -> IAddress:
        """@return: where it listens."""
        return IPv4Address("TCP", "127.0.0.1", 8765)


# Protocols and producers


class Recorder(Protocol):
    """
    Writes down what happens, and does what a test wants it to do then.

    @ivar received: all bytes that came.
    @ivar reasons: of each C{connectionLost}.
    @ivar lost: fires at the first.
    """

    transport: Any  # which has more than ITransport

    def __init__(self, **actions: Callable[[Any], object]) -> None:
        """
        @param actions: C{made}, C{data}, C{gone}: called with this protocol when
            it is connected, gets bytes, is lost.
        """
        self.actions = actions
        self.received = bytearray()
        self.reasons: list[BaseException] = []
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self._wanted: tuple[int, Deferred[None]] | None = None

    def act(self, when: str) -> None:
        """
        Do what the test wants.

        @param when: what happens.
        """
        if when in self.actions:
            self.actions[when](self)

    def connectionMade(self) -> None:
        """The connection is there."""
        self.made.callback(None)
        self.act("made")

    def dataReceived(self, data: bytes) -> None:
        """@param data: came."""
        assert not self.reasons
        self.received += data
        if self._wanted is not None and len(self.received) >= self._wanted[0]:
            wanted, self._wanted = self._wanted, None
            wanted[1].callback(None)
        self.act("data")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """@param reason: why."""
        self.reasons.append(cast(BaseException, reason.value))
        self.act("gone")
        if len(self.reasons) == 1:
            self.lost.callback(None)

    async def has(self, count: int) -> None:
        """
        Wait for bytes, and to be out of where they came.

        @param count: how many in all.
        """
        if len(self.received) < count:
            done: Deferred[None] = Deferred()
            self._wanted = (count, done)
            await done
            await turns(1)


@implementer(IHalfCloseableProtocol)
class HalfRecorder(Recorder):
    """
    The same, of a protocol that knows of half-closed connections.

    @ivar ends: which directions ended, in order.
    """

    def __init__(self, **actions: Callable[[Any], object]) -> None:
        """@param actions: also C{readEnd} and C{writeEnd}."""
        super().__init__(**actions)
        self.ends: list[str] = []
        self.readEnded: Deferred[None] = Deferred()

    def readConnectionLost(self) -> None:
        """The peer writes no more."""
        self.ends.append("read")
        self.readEnded.callback(None)
        self.act("readEnd")

    def writeConnectionLost(self) -> None:
        """We write no more."""
        self.ends.append("write")
        self.act("writeEnd")


class Once(Factory):
    """Builds the one protocol that it was given."""

    noisy = False

    def __init__(self, protocol: IProtocol | None) -> None:
        """@param protocol: the protocol."""
        self.built = protocol
        self.addresses: list[IAddress | None] = []
        self.log: list[str] = []

    def startFactory(self) -> None:
        """Write down that it starts."""
        self.log.append("start")

    def stopFactory(self) -> None:
        """Write down that it stops."""
        self.log.append("stop")

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """
        @param addr: whose.
        @return: the protocol.
        """
        self.addresses.append(addr)
        return self.built


@implementer(IPushProducer)
class Pusher:
    """
    Writes until it is paused, and so on to the end.

    @ivar calls: what it was told.
    """

    def __init__(self, transport: Any, pieces: int, piece: bytes) -> None:
        """
        @param transport: where to.
        @param pieces: how many.
        @param piece: which.
        """
        self.transport, self.left, self.piece = transport, pieces, piece
        self.calls: list[str] = []
        self.done: Deferred[None] = Deferred()

    def begin(self) -> None:
        """Register and write."""
        self.transport.registerProducer(self, True)
        if not self.calls:
            self._write()

    def _write(self) -> None:
        """Write until paused."""
        while self.left and self.calls[-1:] in ([], ["resume"]):
            self.left -= 1
            self.transport.write(self.piece)
        if not self.left and not self.done.called:
            self.transport.unregisterProducer()
            self.done.callback(None)

    def pauseProducing(self) -> None:
        """Stop for now."""
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        """Go on."""
        self.calls.append("resume")
        self._write()

    def stopProducing(self) -> None:
        """Stop for good."""
        self.calls.append("stop")


@implementer(IPullProducer)
class Puller:
    """
    Writes a piece when asked.

    @ivar stopped: how often it was stopped.
    """

    def __init__(self, transport: Any, pieces: int, piece: bytes) -> None:
        """
        @param transport: where to.
        @param pieces: how many.
        @param piece: which.
        """
        self.transport, self.left, self.piece = transport, pieces, piece
        self.stopped = 0

    def resumeProducing(self) -> None:
        """Write one."""
        if self.left:
            self.left -= 1
            self.transport.write(self.piece)
        else:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """Stop for good."""
        self.stopped += 1


async def turns(count: int = 20) -> None:
    """
    Let the event loop turn.

    @param count: how often.
    """
    for _ in range(count):
        turn: Deferred[None] = Deferred()
        cast(IReactorTime, reactor).callLater(0, turn.callback, None)
        await turn


# The contract


class TransportContract(TestCase):
    """
    Holds for any stream transport.  Tests of one subclass define C{makeServer}
    and C{makeClient}.

    @cvar halfCloses: whether C{loseWriteConnection} is to work.
    @cvar strict: whether nothing is delivered once the protocol has paused or
        closed, and no use of a closed transport is an error; Twisted's TLS does
        not promise it.
    @cvar ordinary: whether a close by both ends is told from a cut, which
        Twisted's UNIX sockets do not promise.
    """

    timeout = 600
    halfCloses = True
    strict = True
    ordinary = True

    def makeServer(self) -> IStreamServerEndpoint:
        """@return: where to listen."""
        raise NotImplementedError

    def makeClient(self, port: IListeningPort) -> IStreamClientEndpoint:
        """
        @param port: what listens.
        @return: how to connect to it.
        """
        raise NotImplementedError

    async def join(self, client: Recorder, server: Recorder) -> None:
        """
        Connect two protocols.

        @param client: one.
        @param server: the other.
        """
        port = await self.makeServer().listen(Once(server))
        self.addCleanup(port.stopListening)
        for protocol in (client, server):
            self.addCleanup(self.end, protocol)
        await self.makeClient(port).connect(Once(client))
        await server.made

    def end(self, protocol: Recorder) -> Deferred[None]:
        """
        See to it that a protocol's connection is gone, and was lost once.

        @param protocol: whose.
        @return: fires when it is; older trials wait for no coroutine here.
        """
        return ensureDeferred(self._end(protocol))

    async def _end(self, protocol: Recorder) -> None:
        """
        See to it that a protocol's connection is gone, and was lost once.

        @param protocol: whose.
        """
        if protocol.transport is not None and not protocol.reasons:
            protocol.transport.abortConnection()
            await protocol.lost
        self.assertLessEqual(len(protocol.reasons), 1)

    def assertDone(self, *protocols: Recorder) -> None:
        """
        Check that connections were closed in order.

        @param protocols: whose.
        """
        for protocol in protocols:
            self.assertEqual(
                [type(r) for r in protocol.reasons], [error.ConnectionDone]
            )

    async def test_interfaces(self) -> None:
        """The transport is what protocols may expect."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, client.transport)
        for address in (client.transport.getPeer(), client.transport.getHost()):
            verifyObject(IAddress, address)
        self.assertFalse(client.transport.disconnecting)

    async def test_bytes(self) -> None:
        """Bytes arrive in order and whole, both ways, few or many."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        expected = b""
        for size in (0, 1, 100, 65519, 65520, 200_000):
            data = bytes(size % 251 for size in range(size))
            expected += data
            client.transport.write(data)
            server.transport.writeSequence([data[:50], b"", data[50:]])
        await server.has(len(expected))
        await client.has(len(expected))
        self.assertEqual(bytes(server.received), expected)
        self.assertEqual(bytes(client.received), expected)

    async def test_bytesOnly(self) -> None:
        """What is not bytes is refused where it is written, and harms nothing."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        for wrong in ("text", None, 5, ["x"]):
            with self.assertRaises(TypeError):
                client.transport.write(wrong)
        with self.assertRaises(TypeError):
            client.transport.writeSequence(["text"])
        client.transport.write(b"right")
        await server.has(5)

    async def test_closeFlushes(self) -> None:
        """C{loseConnection} sends all that was written before, whatever the size."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        client.transport.write(b"x" * BIG)
        client.transport.loseConnection()
        self.assertTrue(client.transport.disconnecting)
        await server.lost
        await client.lost
        self.assertEqual(len(server.received), BIG)
        self.assertDone(client, server)

    async def test_closeWhenMade(self) -> None:
        """A protocol may write and close at once."""

        def sayAndGo(protocol: Recorder) -> None:
            """Write and close."""
            protocol.transport.write(b"bye")
            protocol.transport.loseConnection()

        client, server = Recorder(), Recorder(made=sayAndGo)
        await self.join(client, server)
        await client.lost
        await server.lost
        self.assertEqual(bytes(client.received), b"bye")
        self.assertDone(client, server)

    async def test_closeWhenReceiving(self) -> None:
        """A protocol may answer and close where it gets bytes; it gets no more."""

        def answer(protocol: Recorder) -> None:
            """Write and close."""
            if self.strict:
                self.assertFalse(protocol.transport.disconnecting)
            protocol.transport.write(b"enough")
            protocol.transport.loseConnection()

        client, server = Recorder(), Recorder(data=answer)
        await self.join(client, server)
        for _ in range(10):
            client.transport.write(b"x" * 1000)
            await turns(1)
        await client.lost
        await server.lost
        self.assertTrue(client.received.startswith(b"enough"))

    async def test_closeBoth(self) -> None:
        """Both may close at once."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        client.transport.write(b"c" * 1000)
        server.transport.write(b"s" * 1000)
        await server.has(1000)
        await client.has(1000)
        client.transport.loseConnection()
        server.transport.loseConnection()
        client.transport.loseConnection()
        await client.lost
        await server.lost
        if self.ordinary:
            self.assertDone(client, server)

    async def test_nothingAfterTheEnd(self) -> None:
        """A transport whose connection is gone lets itself be used, to no effect."""
        self.skipUnlessStrict()

        def useAll(protocol: Recorder) -> None:
            """Use all there is."""
            transport = protocol.transport
            transport.write(b"late")
            transport.writeSequence([b"late"])
            transport.loseConnection()
            transport.abortConnection()
            transport.unregisterProducer()

        client, server = Recorder(gone=useAll), Recorder(gone=useAll)
        await self.join(client, server)
        client.transport.loseConnection()
        await client.lost
        await server.lost
        await turns()
        useAll(client)
        stopped = Puller(client.transport, 1, b"late")
        client.transport.registerProducer(stopped, False)
        await turns()
        self.assertEqual((stopped.stopped, stopped.left), (1, 1))
        self.assertDone(client, server)
        self.assertEqual(bytes(server.received), b"")

    async def test_abort(self) -> None:
        """
        C{abortConnection} closes at once, and neither side takes it for an
        orderly end.
        """
        self.skipUnlessStrict()
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        server.transport.write(b"x")
        await client.has(1)
        client.actions["data"] = lambda protocol: self.fail("got bytes")
        server.transport.write(b"too late")
        client.transport.write(b"x" * BIG)
        client.transport.abortConnection()
        client.transport.abortConnection()
        self.assertEqual(client.reasons, [])
        await client.lost
        self.assertIsInstance(client.reasons[0], error.ConnectionAborted)
        await server.lost
        self.assertNotIsInstance(server.reasons[0], error.ConnectionDone)

    async def test_pause(self) -> None:
        """A protocol that pauses gets nothing until it resumes, then all."""

        def pause(protocol: Recorder) -> None:
            """Pause."""
            protocol.transport.pauseProducing()

        client, server = Recorder(), Recorder(data=pause)
        await self.join(client, server)
        client.transport.write(b"x" * 1000)
        await server.has(1000)
        client.transport.write(b"y" * BIG)
        await turns()
        self.assertEqual(len(server.received), 1000)
        count = 0
        while len(server.received) < BIG + 1000:
            before = len(server.received)
            server.transport.resumeProducing()
            await turns(3)
            count += 1
            self.assertLessEqual(len(server.received) - before, 2 * CHUNK + BIG * count)
        self.assertEqual(len(server.received), BIG + 1000)

    async def test_pauseInside(self) -> None:
        """
        A protocol that pauses in the middle of what came gets the rest later,
        once, in order.
        """
        self.skipUnlessStrict()
        state: list[bool] = [False]

        def pause(protocol: Recorder) -> None:
            """Pause."""
            self.assertFalse(state[0], "got bytes though paused")
            state[0] = True
            protocol.transport.pauseProducing()

        client, server = Recorder(), Recorder(data=pause)
        await self.join(client, server)
        expected = bytes(number % 251 for number in range(5000))
        for start in range(0, 5000, 500):
            client.transport.write(expected[start : start + 500])
            await turns(1)
        while len(server.received) < 5000:
            state[0] = False
            server.transport.resumeProducing()
            await turns(2)
        self.assertEqual(bytes(server.received), expected)

    async def test_pauseWhenMade(self) -> None:
        """A protocol may begin with a pause, and may change its mind twice."""

        def pause(protocol: Recorder) -> None:
            """Pause."""
            protocol.transport.pauseProducing()

        client, server = Recorder(), Recorder(made=pause)
        await self.join(client, server)
        client.transport.write(b"hello")
        await turns()
        self.assertEqual(bytes(server.received), b"")
        server.transport.resumeProducing()
        server.transport.pauseProducing()
        await turns()
        self.assertEqual(bytes(server.received), b"")
        server.transport.resumeProducing()
        await server.has(5)

    async def test_closeWhilePeerPauses(self) -> None:
        """What was sent before an orderly close waits for a reader that pauses."""

        def pause(protocol: Recorder) -> None:
            """Pause."""
            protocol.transport.pauseProducing()

        client, server = Recorder(), Recorder(made=pause)
        await self.join(client, server)
        client.transport.write(b"x" * 1000)
        client.transport.loseConnection()
        await turns()
        self.assertEqual((bytes(server.received), server.reasons), (b"", []))
        server.transport.resumeProducing()
        await server.lost
        await client.lost
        self.assertEqual(len(server.received), 1000)
        self.assertDone(client, server)

    async def test_closeWhilePaused(self) -> None:
        """A protocol that has paused may close, and gets nothing more."""
        self.skipUnlessStrict()
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        server.transport.pauseProducing()
        client.transport.write(b"unread")
        await turns()
        server.transport.write(b"bye")
        server.transport.loseConnection()
        await client.lost
        await server.lost
        self.assertEqual(bytes(server.received), b"")
        self.assertEqual(bytes(client.received), b"bye")

    async def test_pushProducer(self) -> None:
        """
        A producer that writes until it is paused is paused while the peer does not
        read, resumed when it does, and all arrives.
        """
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        server.transport.pauseProducing()
        pieces, size = 20_000, 10_000  # more than any kernel keeps
        pusher = Pusher(client.transport, pieces, b"x" * size)
        pusher.begin()
        left = 0
        while left != pusher.left:
            left = pusher.left
            await turns()
        self.assertEqual(pusher.calls[-1:], ["pause"])
        self.assertGreater(left, 0)
        pusher.left = 100
        server.transport.resumeProducing()
        await pusher.done
        everything = (pieces - left + 100) * size
        await server.has(everything)
        self.assertEqual(len(server.received), everything)
        self.assertEqual(set(pusher.calls), {"pause", "resume"})

    async def test_pullProducer(self) -> None:
        """A pull producer is asked until it is done."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        puller = Puller(client.transport, 50, b"x" * 10_000)
        client.transport.registerProducer(puller, False)
        await server.has(500_000)
        await turns()
        self.assertEqual((puller.left, puller.stopped), (0, 0))
        client.transport.loseConnection()
        await client.lost
        self.assertEqual(len(server.received), 500_000)

    async def test_oneProducer(self) -> None:
        """There is one producer at a time."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        transport = client.transport
        pusher = Pusher(transport, 0, b"")
        transport.registerProducer(pusher, True)
        with self.assertRaises(RuntimeError):
            transport.registerProducer(Pusher(transport, 0, b""), True)
        transport.unregisterProducer()
        transport.registerProducer(Pusher(transport, 0, b""), True)
        transport.unregisterProducer()
        transport.unregisterProducer()

    async def test_closeWaitsForProducer(self) -> None:
        """C{loseConnection} waits for the producer, and sends what it writes."""
        self.skipUnlessStrict()
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        transport = client.transport
        transport.registerProducer(Puller(transport, 50, b"x" * 10_000), False)
        transport.loseConnection()
        await client.lost
        await server.lost
        self.assertEqual(len(server.received), 500_000)
        self.assertDone(client, server)

    async def test_closeInProducer(self) -> None:
        """A producer may write its last and close where it is asked for more."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        transport = client.transport

        class Last(Puller):
            """Writes once."""

            def resumeProducing(self) -> None:
                """Write and close."""
                transport.write(self.piece)
                transport.unregisterProducer()
                transport.loseConnection()

        transport.registerProducer(Last(transport, 1, b"x" * 100_000), False)
        await server.lost
        await client.lost
        self.assertEqual(len(server.received), 100_000)
        self.assertDone(client, server)

    async def test_producerStopped(self) -> None:
        """A producer whose connection is lost is stopped, once."""
        client, server = Recorder(), Recorder()
        await self.join(client, server)
        transport = client.transport
        pusher = Pusher(transport, 0, b"")
        transport.registerProducer(pusher, True)
        server.transport.loseConnection()
        await client.lost
        self.assertEqual(pusher.calls, ["stop"])
        transport.unregisterProducer()

    async def test_failureInProtocol(self) -> None:
        """
        An error in a protocol is logged, and ends its connection with that as
        the reason.
        """

        def crash(protocol: Recorder) -> None:
            """Fail."""
            raise ZeroDivisionError

        client, server = Recorder(), Recorder(data=crash)
        await self.join(client, server)
        client.transport.write(b"boom")
        await server.lost
        await client.lost
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIsInstance(
            server.reasons[0],
            ZeroDivisionError if self.strict else error.ConnectionLost,
        )

    def skipUnlessHalfCloses(self) -> None:
        """Skip where one direction cannot be ended alone."""
        if not self.halfCloses:
            raise SkipTest("this transport cannot")

    def skipUnlessStrict(self) -> None:
        """Skip what Twisted's TLS does not promise."""
        if not self.strict:
            raise SkipTest("not promised by this transport")

    async def test_halfClose(self) -> None:
        """After C{loseWriteConnection} the other direction goes on."""
        self.skipUnlessHalfCloses()
        client, server = HalfRecorder(), HalfRecorder()
        await self.join(client, server)
        transport = client.transport
        transport.write(b"question" * 10_000)
        transport.loseWriteConnection()
        transport.loseWriteConnection()
        await server.readEnded
        transport.write(b"dropped")
        self.assertEqual(len(server.received), 80_000)
        self.assertEqual((client.ends, server.ends), (["write"], ["read"]))
        server.transport.write(b"answer" * 100_000)
        server.transport.loseConnection()
        await client.readEnded
        self.assertEqual(len(client.received), 600_000)
        self.assertEqual(client.ends, ["write", "read"])
        client.transport.loseConnection()
        await server.lost
        await client.lost
        self.assertEqual(len(server.received), 80_000)
        self.assertDone(client, server)

    async def test_halfCloseOfOthers(self) -> None:
        """
        For a protocol that knows nothing of half-closed connections it is the end.
        """
        self.skipUnlessHalfCloses()
        client, server = HalfRecorder(), Recorder()
        await self.join(client, server)
        client.transport.loseWriteConnection()
        await server.lost
        await client.readEnded
        self.assertDone(server)

    async def test_halfCloseByProducer(self) -> None:
        """A protocol closes where it is told that the peer has ended."""
        self.skipUnlessHalfCloses()

        def answer(protocol: HalfRecorder) -> None:
            """Write and close."""
            protocol.transport.write(b"got it")
            protocol.transport.loseConnection()

        client, server = HalfRecorder(), HalfRecorder(readEnd=answer)
        await self.join(client, server)
        client.transport.write(b"x")
        client.transport.loseWriteConnection()
        await server.lost
        await client.readEnded
        self.assertEqual(bytes(client.received), b"got it")
        client.transport.loseConnection()
        await client.lost
        self.assertDone(client, server)

    async def test_failureInReadEnd(self) -> None:
        """An error where a protocol is told of the peer's end ends its connection."""
        self.skipUnlessHalfCloses()

        def crash(protocol: Recorder) -> None:
            """Fail."""
            raise ZeroDivisionError

        client, server = HalfRecorder(), HalfRecorder(readEnd=crash)
        await self.join(client, server)
        client.transport.loseWriteConnection()
        await server.lost
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIsInstance(server.reasons[0], ZeroDivisionError)
