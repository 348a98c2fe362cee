"""
Tests for L{aesm.secure.protocol}, L{aesm.secure.factory} and
L{aesm.secure.rawtransport}: a secure channel on a transport, from its handshake to its
end, by a clock of our own.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any, cast
from weakref import ref

from twisted.internet import error
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.test.iosim import connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

from aesm.core.channel.channel import MAX_EARLY
from aesm.core.channel.framing import MAX_PLAINTEXT
from aesm.core.channel.roles import ClientChannel, ServerChannel
from aesm.core.channel.settings import SUITES
from aesm.errors import (
    AESMError,
    ConnectionClosed,
    HandshakeError,
    HandshakeTimeout,
    NoAnswer,
    NotAnAESMPeer,
    NotAuthorized,
    NothingSaid,
    OfferRefused,
    ProtocolError,
    TamperedRecord,
    Truncated,
    UntrustedServer,
)
from aesm.secure.factory import SILENCE, SecureFactory, checkTimeout
from aesm.secure.protocol import CLOSE_TIMEOUT, RECORDS_AT_ONCE, SecureProtocol
from aesm.secure.rawtransport import (
    LARGE_READ,
    PIECES,
    READ_SIZE,
    RecordWriter,
    abort,
    prepare,
    takenSoFar,
)
from aesm.secure.transport import SecureAddress, SecureTransport
from aesm.trust.keys import PublicKey
from tests.support.helpers import (
    CLIENT_KEY,
    PSK,
    SERVER_KEY,
    XX,
    channelSettings,
    oneTurn,
    pieces,
    remains,
)
from tests.support.transportcontract import (
    BIG,
    HalfRecorder,
    Puller,
    Pusher,
    Recorder,
    memoryPair,
)


class Owner(SecureFactory):
    """
    A factory that decides as a test says, and writes down what it is told.

    @ivar log: what it was told, in order.
    """

    def __init__(self, clock: Clock, inner: IProtocol | None, timeout: float) -> None:
        """
        @param clock: keeps time.
        @param inner: runs inside.
        @param timeout: of the handshake.
        """
        self.clock = clock
        self.handshakeTimeout = timeout
        self.inner = inner
        self.log: list[Any] = []
        self.decision: Callable[[], Any] = lambda: None
        self.refusal: AESMError | None = None
        self.farewellBytes = b""

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Deferred[None] | None:
        """Do as the test says."""
        self.log.append(("decide", publicKey, payload))
        return cast("Deferred[None] | None", self.decision())

    def buildInner(self, secure: SecureProtocol) -> IProtocol | None:
        """Build what the test says."""
        return self.inner

    def peerBegins(self, secure: SecureProtocol) -> AESMError | None:
        """Do as the test says."""
        super().peerBegins(secure)
        self.log.append("begins")
        return self.refusal

    def farewell(self, reason: AESMError) -> bytes:
        """Say what the test says."""
        return super().farewell(reason) + self.farewellBytes

    def opened(self, secure: SecureProtocol) -> None:
        """Write it down."""
        super().opened(secure)
        self.log.append("opened")

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """Write it down."""
        super().failed(secure, reason)
        self.log.append(type(reason))

    def ended(self, secure: SecureProtocol) -> None:
        """Write it down."""
        super().ended(secure)
        self.log.append("ended")


class PumpTestCase(SynchronousTestCase):
    """A client and a server in memory."""

    def setUp(self) -> None:
        """Make both, not connected yet."""
        self.clock = Clock()
        self.clientInner = self.makeInner()
        self.serverInner = self.makeInner()
        self.clientOwner = Owner(self.clock, self.clientInner, 10.0)
        self.serverOwner = Owner(self.clock, self.serverInner, 10.0)
        self.rawClient, self.rawServer = memoryPair(self.clock)
        self.client = self.makeClient()
        self.server = self.makeServer()

    def makeInner(self) -> Recorder:
        """Make what runs inside."""
        return Recorder()

    def makeClient(self, **options: Any) -> SecureProtocol:
        """
        Make a client.

        @param options: of its channel.
        """
        settings = channelSettings(CLIENT_KEY, **options)
        return SecureProtocol(self.clientOwner, ClientChannel(settings))

    def makeServer(self, **options: Any) -> SecureProtocol:
        """
        Make a server.

        @param options: of its channel.
        """
        settings = channelSettings(SERVER_KEY, **options)
        return SecureProtocol(self.serverOwner, ServerChannel(settings))

    def connect(self) -> None:
        """Connect both and let them do what they can."""
        for raw, secure in (
            (self.rawServer, self.server),
            (self.rawClient, self.client),
        ):
            raw.protocol = secure
            secure.makeConnection(cast(ITransport, raw))
        self.turn()

    def connectServer(self) -> None:
        """Connect the server to a peer that a test plays."""
        self.rawServer.protocol = self.server
        self.server.makeConnection(cast(ITransport, self.rawServer))
        self.rawClient.protocol = self.stranger = Recorder()
        self.stranger.makeConnection(cast(ITransport, self.rawClient))

    def turn(self, count: int = 100) -> None:
        """
        Let the event loop turn; no time passes.

        @param count: how often.
        """
        self.clock.pump([0] * count)

    def assertQuiet(self) -> None:
        """Check that both ended, told everybody, and left nothing running."""
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for raw, owner in (
            (self.rawClient, self.clientOwner),
            (self.rawServer, self.serverOwner),
        ):
            self.assertFalse(raw.connected)
            self.assertEqual(owner.log[-1:], ["ended"])
            self.assertEqual(owner.log.count("ended"), 1)
            count = len([x for x in owner.log if isinstance(x, type) or x == "opened"])
            self.assertEqual(count, 1, owner.log)

    def assertReasons(self, client: type | None, server: type | None) -> None:
        """
        Check what the protocols inside were told, once.

        @param client: the type of the client's reason, None for no call.
        @param server: the type of the server's.
        """
        self.assertQuiet()
        for inner, expected in ((self.clientInner, client), (self.serverInner, server)):
            self.assertEqual(
                [type(reason) for reason in inner.reasons],
                [] if expected is None else [expected],
            )


class HandshakeTests(PumpTestCase):
    """Until the channel is open."""

    def test_interfaces(self) -> None:
        """The protocol is what Twisted's transports expect."""
        for interface in (IProtocol, IPushProducer, IHalfCloseableProtocol):
            verifyObject(interface, self.client)
        verifyObject(ITCPTransport, self.rawClient)

    def test_opens(self) -> None:
        """
        Both sides learn the other's key, and their owners are told in order; who speaks
        first asks nobody whether it may hear the answer.
        """
        self.connect()
        for inner, own, peer in (
            (self.clientInner, CLIENT_KEY, SERVER_KEY),
            (self.serverInner, SERVER_KEY, CLIENT_KEY),
        ):
            transport = cast(SecureTransport, inner.transport)
            expected = [channelSettings(key).publicKey for key in (own, peer)]
            addresses = [transport.getHost(), transport.getPeer()]
            self.assertEqual([a.publicKey.raw for a in addresses], expected)
        peer = self.clientOwner.log[0][1]
        self.assertEqual(self.clientOwner.log, [("decide", peer, b""), "opened"])
        self.assertEqual(self.serverOwner.log[0], "begins")
        self.assertTrue(self.rawClient.noDelay and self.rawServer.noDelay)
        self.clock.pump([SILENCE] * 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_byteByByte(self) -> None:
        """It makes no difference how the bytes are cut."""
        server, client = StringTransport(), StringTransport()
        self.server.makeConnection(server)
        self.client.makeConnection(client)
        for _ in range(3):
            for here, there in ((client, self.server), (server, self.client)):
                data = here.value()
                here.clear()
                for byte in pieces(data):
                    there.dataReceived(byte)
        self.serverInner.transport.write(b"hello")
        for byte in pieces(server.value()):
            self.client.dataReceived(byte)
        self.assertEqual(bytes(self.clientInner.received), b"hello")

    def test_iosim(self) -> None:
        """
        It runs on Twisted's own simulation too, which can neither abort nor pause.
        """
        _, _, pump = connectedServerAndClient(
            lambda: self.server, lambda: self.client, clock=self.clock
        )
        self.clientInner.transport.write(b"hello")
        pump.flush()
        self.assertEqual(bytes(self.serverInner.received), b"hello")
        self.clientInner.transport.loseConnection()
        pump.flush()
        for inner in (self.clientInner, self.serverInner):
            self.assertIsInstance(inner.reasons[0], error.ConnectionDone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deadline(self) -> None:
        """
        The handshake has one absolute deadline, which bytes that trickle in do
        not move.
        """
        self.connectServer()
        self.assertEqual(self.server.deadline, 10.0)
        offer = self.client.channel.takeOutput()
        for number in range(9):
            self.rawClient.write(offer[number : number + 1])
            self.turn()
            self.clock.advance(1)
        self.assertTrue(self.rawServer.connected)
        self.clock.advance(0.99)
        self.assertEqual(self.serverOwner.log, ["begins"])
        self.clock.advance(0.01)
        self.turn()
        self.assertEqual(self.serverOwner.log, ["begins", HandshakeTimeout, "ended"])
        self.assertEqual(self.serverInner.reasons, [])

    def test_badTimeout(self) -> None:
        """There is a deadline, in the future."""
        for timeout in (0, -1, float("inf"), float("nan")):
            with self.assertRaises(ValueError):
                checkTimeout(timeout)

    def test_foreign(self) -> None:
        """
        A peer that speaks another protocol is cut off at its first byte, and gets
        no answer.
        """
        self.connectServer()
        self.rawClient.write(b"GET / HTTP/1.0\r\n\r\n")
        self.turn()
        self.assertEqual(self.serverOwner.log, ["begins", NotAnAESMPeer, "ended"])
        self.assertEqual(bytes(self.rawServer.written), b"")
        self.assertIsInstance(self.stranger.reasons[0], error.ConnectionLost)

    def test_lostInHandshake(self) -> None:
        """A connection that is lost in the handshake is a failed one."""
        self.connectServer()
        self.rawClient.loseConnection()
        self.turn()
        self.assertEqual(self.serverOwner.log, [NothingSaid, "ended"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_foreignBelow(self) -> None:
        """
        A client that speaks something else than what is below us, as TLS, is a foreign
        one, and none that said nothing; a server is what it was for a client.
        """
        for isClosing, reason in (
            (True, error.ConnectionDone()),
            (False, Exception("wrong version number")),
        ):
            for channel, expected in (
                (ServerChannel(channelSettings(SERVER_KEY)), NotAnAESMPeer),
                (ClientChannel(channelSettings(CLIENT_KEY)), NoAnswer),
            ):
                owner = Owner(Clock(), None, 1.0)
                secure = SecureProtocol(owner, channel)
                transport = StringTransport()
                secure.makeConnection(transport)
                transport.disconnecting = isClosing
                secure.connectionLost(Failure(reason))
                self.assertEqual(owner.log, [expected, "ended"])

    def test_abortInHandshake(self) -> None:
        """
        An owner may abort before the channel is open; the other side is told no
        more than that the connection is lost.
        """
        self.serverOwner.decision = Deferred
        self.connect()
        self.server.abort()
        self.server.abort()
        self.assertQuiet()
        self.assertIn(HandshakeError, self.serverOwner.log)

    def test_unwanted(self) -> None:
        """
        The owner may refuse to work for a peer, before anything of it is looked
        at.
        """
        self.serverOwner.refusal = ConnectionClosed("too many")
        self.connect()
        self.assertEqual(self.serverOwner.log, ["begins", ConnectionClosed, "ended"])
        self.assertEqual(bytes(self.rawServer.written), b"")

    def test_unwantedGoesOn(self) -> None:
        """
        Nothing is read once the connection is aborted, even if the raw transport
        still delivers.
        """
        self.serverOwner.refusal = ConnectionClosed("too many")
        transport = StringTransport()
        self.server.makeConnection(transport)
        self.server.dataReceived(b"a")
        self.server.dataReceived(b"b")
        self.assertEqual(self.serverOwner.log, ["begins", ConnectionClosed])
        self.assertTrue(transport.disconnected)

    def test_pskMismatch(self) -> None:
        """A server with a pre-shared key says nothing to who does not prove it."""
        self.client = self.makeClient(psk=b"\x66" * 32)
        self.server = self.makeServer(psk=PSK)
        self.connect()
        self.assertReasons(None, None)
        self.assertEqual(bytes(self.rawServer.written), b"")
        self.assertIn(NoAnswer, self.clientOwner.log)

    def test_ownMessageNotLeaked(self) -> None:
        """A handshake that fails ends at once: what was about to be sent is not."""
        self.connectServer()
        self.rawClient.write(self.client.channel.takeOutput() + b"\x00\x00")
        self.turn()
        self.assertEqual(self.serverOwner.log, ["begins", HandshakeError, "ended"])
        self.assertEqual(bytes(self.rawServer.written), b"")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothingInside(self) -> None:
        """An owner that builds nothing aborts the connection."""
        self.serverOwner.inner = None
        self.connect()
        self.assertReasons(Truncated, None)
        self.assertIn(HandshakeError, self.serverOwner.log)

    def test_rawTransportFull(self) -> None:
        """A raw transport that takes no more gets no more, in the handshake too."""
        transport = StringTransport()
        self.client.makeConnection(transport)
        first = transport.value()
        self.client.pauseProducing()
        self.assertEqual(transport.streaming, True)
        self.client.flush()
        self.assertEqual(transport.value(), first)


class RefusalTests(PumpTestCase):
    """A refusal reaches the peer."""

    def setUp(self) -> None:
        """Make a client whose offer the server does not take."""
        super().setUp()
        self.client = self.makeClient(suite=SUITES[3])

    def test_offerRefused(self) -> None:
        """The client learns why."""
        self.connect()
        self.assertReasons(None, None)
        self.assertIn(OfferRefused, self.clientOwner.log)
        self.assertIn(OfferRefused, self.serverOwner.log)
        self.assertIn(XX.encode(), bytes(self.rawServer.written))

    def refuse(self) -> None:
        """Refuse a peer that the test plays."""
        self.connectServer()
        self.rawClient.write(self.client.channel.takeOutput())
        self.turn()
        self.assertIn(XX.encode(), bytes(self.stranger.received))

    def test_lingers(self) -> None:
        """
        The server half-closes, and reads on, so that nothing resets the
        connection before the peer has read: for a bounded time.
        """
        self.connectServer()
        self.rawClient.protocol = stranger = HalfRecorder()
        stranger.makeConnection(cast(ITransport, self.rawClient))
        self.rawClient.write(self.client.channel.takeOutput())
        for _ in range(4):
            self.rawClient.write(b"x" * 1000)
            self.turn()
            self.clock.advance(1)
        self.assertEqual(stranger.ends, ["read"])
        self.assertTrue(self.rawServer.connected)
        self.clock.advance(1)
        self.turn()
        self.assertFalse(self.rawServer.connected)
        self.assertEqual(self.serverOwner.log, ["begins", OfferRefused, "ended"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_peerCloses(self) -> None:
        """The server closes when the peer does."""
        self.refuse()
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.rawServer.connected)

    def test_peerClosesAfterwards(self) -> None:
        """The same, if the peer keeps its direction open for a while."""
        self.connectServer()
        self.rawClient.protocol = stranger = HalfRecorder()
        stranger.makeConnection(cast(ITransport, self.rawClient))
        self.rawClient.write(self.client.channel.takeOutput())
        self.turn()
        self.rawClient.loseConnection()
        self.turn()
        self.assertFalse(self.rawServer.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failAgain(self) -> None:
        """An owner that needs the room may cut a refusal short."""
        transport = StringTransport()
        self.server.makeConnection(transport)
        self.server.dataReceived(self.client.channel.takeOutput())
        self.assertFalse(transport.disconnected)
        self.server.fail(HandshakeError("make room"))
        self.assertTrue(transport.disconnected)
        self.assertEqual(self.serverOwner.log, ["begins", OfferRefused])

    def test_overTLS(self) -> None:
        """TLS cannot half-close in order, so that it is closed."""
        alsoProvides(self.rawServer, ISSLTransport)
        self.refuse()
        self.assertEqual(self.stranger.reasons[0].args, ())
        self.assertTrue(self.rawServer.disconnecting)


class DecisionTests(PumpTestCase):
    """Who decides may take its time."""

    def setUp(self) -> None:
        """Let the server decide later."""
        super().setUp()
        self.decision: Deferred[None] = Deferred()
        self.serverOwner.decision = lambda: self.decision

    def test_later(self) -> None:
        """Meanwhile nothing of the peer is processed, or even read."""
        self.connect()
        self.clientInner.transport.write(b"early")
        self.turn()
        self.assertFalse(self.rawServer.reading)
        self.assertEqual(len(self.serverOwner.log), 2)
        self.decision.callback(None)
        self.turn()
        self.assertTrue(self.rawServer.reading)
        self.assertEqual(bytes(self.serverInner.received), b"early")

    def test_clientLater(self) -> None:
        """A client that has not decided reveals nothing of itself."""
        decision: Deferred[None] = Deferred()
        self.clientOwner.decision = lambda: decision
        self.decision.callback(None)
        self.connect()
        self.assertFalse(self.rawClient.reading)
        written = len(self.rawClient.written)
        self.clock.advance(5)
        decision.callback(None)
        self.turn()
        self.assertGreater(len(self.rawClient.written), written)
        self.assertEqual(self.serverOwner.log[-1], "opened")

    def test_deadline(self) -> None:
        """The handshake's deadline holds, and the decision is cancelled."""
        cancelled: list[object] = []
        self.decision = Deferred(cancelled.append)
        self.connect()
        self.clock.advance(10)
        self.assertReasons(Truncated, None)
        self.assertEqual(cancelled, [self.decision])
        self.assertIn(HandshakeTimeout, self.serverOwner.log)
        self.decision.addErrback(lambda failure: failure.trap(CancelledError))

    def test_lostMeanwhile(self) -> None:
        """
        If the connection is lost meanwhile the decision is cancelled, and comes
        too late whatever it is.
        """
        self.connect()
        self.rawServer.abortConnection()
        self.assertReasons(Truncated, None)
        self.decision.callback(None)  # which a cancelled Deferred swallows once
        self.assertQuiet()

    def test_cancelFails(self) -> None:
        """An error in who decides, when cancelled, is logged and harms nobody."""

        def crash(decision: Deferred[None]) -> None:
            """Fail."""
            raise ZeroDivisionError

        self.decision = Deferred(crash)
        self.connect()
        self.rawServer.abortConnection()
        self.assertReasons(Truncated, None)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_decidedWhileAborting(self) -> None:
        """A decision between the abort and its end changes nothing."""
        self.connect()
        self.server.abort()
        self.decision.callback(None)
        self.assertReasons(Truncated, None)
        self.assertNotIn("opened", self.serverOwner.log)

    def test_refusedWhileAborting(self) -> None:
        """The same for a refusal."""
        self.connect()
        self.server.abort()
        self.decision.errback(NotAuthorized("no"))
        self.assertReasons(Truncated, None)
        self.assertNotIn(NotAuthorized, self.serverOwner.log)

    def test_refused(self) -> None:
        """A client that is refused sees the stream end in order."""
        self.connect()
        self.decision.errback(NotAuthorized("no"))
        self.assertReasons(error.ConnectionDone, None)
        self.assertIn(NotAuthorized, self.serverOwner.log)

    def test_farewell(self) -> None:
        """It reads the farewell first, even if it keeps sending."""
        self.serverOwner.farewellBytes = b"you are not on the list"
        self.connect()
        self.clientInner.transport.write(b"x" * 200_000)
        self.turn()
        self.decision.errback(NotAuthorized("no"))
        self.assertReasons(error.ConnectionDone, None)
        self.assertEqual(bytes(self.clientInner.received), b"you are not on the list")

    def test_refusedAtOnce(self) -> None:
        """A refusal need not take its time."""
        self.decision = fail(NotAuthorized("no"))
        self.connect()
        self.assertReasons(error.ConnectionDone, None)

    def test_clientRefuses(self) -> None:
        """A client that refuses just stops: the server does not learn its key."""

        def refuse() -> None:
            """Refuse."""
            raise UntrustedServer("no")

        self.clientOwner.decision = refuse
        self.connect()
        self.assertReasons(None, None)
        self.assertEqual(self.server.channel.peer, b"")
        self.assertIn(UntrustedServer, self.clientOwner.log)

    def test_bug(self) -> None:
        """Another error in who decides is logged, and refuses."""
        self.connect()
        self.decision.errback(ZeroDivisionError())
        self.assertReasons(error.ConnectionDone, None)
        self.assertIn(HandshakeError, self.serverOwner.log)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_badFarewell(self) -> None:
        """An error in what follows the decision is logged and ends the connection."""
        self.serverOwner.farewellBytes = cast(bytes, 5)
        self.connect()
        self.decision.errback(NotAuthorized("no"))
        self.assertReasons(Truncated, None)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_tooMuchMeanwhile(self) -> None:
        """
        A peer that floods us before it is let in is cut off, should the raw
        transport deliver though paused.
        """
        self.connect()
        self.server.dataReceived(b"x" * MAX_EARLY)
        self.assertTrue(self.rawServer.connected)
        self.server.dataReceived(b"x")
        self.assertReasons(Truncated, None)
        self.assertIn(ProtocolError, self.serverOwner.log)
        self.decision.addErrback(lambda failure: failure.trap(CancelledError))

    def test_tooMuchAtOnce(self) -> None:
        """
        The same if it does not wait for message 3 to be read, and the decision takes
        no time.
        """
        self.decision = succeed(None)
        raw, client = StringTransport(), self.client.channel
        self.server.makeConnection(raw)
        self.server.dataReceived(client.takeOutput())
        client.receive(raw.value())
        client.accept()
        self.server.dataReceived(client.takeOutput() + b"x" * (MAX_EARLY + 1))
        self.assertEqual(self.serverOwner.log[2:], [ProtocolError])
        self.assertTrue(raw.disconnected)

    def test_tamperedMeanwhile(self) -> None:
        """A peer whose first records do not authenticate is not let in."""
        self.connect()
        self.server.dataReceived(b"\x00\x10" + b"x" * 16)
        self.decision.callback(None)
        self.assertReasons(Truncated, None)
        self.assertIn(TamperedRecord, self.serverOwner.log)
        self.assertEqual(self.serverInner.made.called, False)


class StreamTests(PumpTestCase):
    """The open channel."""

    def setUp(self) -> None:
        """Connect both."""
        super().setUp()
        self.connect()
        self.written = len(self.rawClient.written)
        self.transport = self.clientInner.transport

    def sent(self) -> bytes:
        """Take what the client wrote to its raw transport since."""
        data = bytes(self.rawClient.written[self.written :])
        self.written = len(self.rawClient.written)
        return data

    def test_sharing(self) -> None:
        """
        The first write of a quiet connection leaves at once, later ones of the
        same turn share a record.
        """
        self.transport.write(b"a")
        self.assertEqual(len(self.sent()), 19)
        for _ in range(10):
            self.transport.write(b"b")
        self.transport.write(b"")
        self.assertEqual(self.sent(), b"")
        self.turn()
        self.assertEqual(len(self.sent()), 28)
        self.clock.pump([SILENCE] * 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_sharingOfAnswers(self) -> None:
        """What a protocol writes where it gets bytes shares a record."""
        self.clientInner.actions["data"] = lambda inner: [
            inner.transport.write(b"ok") for _ in range(5)
        ]
        self.serverInner.transport.write(b"x")
        self.turn()
        self.assertEqual(len(self.sent()), 28)

    def test_notForLong(self) -> None:
        """
        What fills a record does not wait for the end of the turn: who writes
        until it is paused is.
        """
        for inner in (self.clientInner,):
            pusher = Pusher(inner.transport, 10_000, b"x" * 1000)
            pusher.begin()
            self.assertEqual(pusher.calls, ["pause"])
            self.assertGreater(pusher.left, 9_000)

    def test_notForLongInside(self) -> None:
        """The same where it gets bytes."""
        pushers: list[Pusher] = []

        def push(inner: Recorder) -> None:
            """Register a producer."""
            pushers.append(Pusher(inner.transport, 10_000, b"x" * 1000))
            pushers[0].begin()

        self.clientInner.actions["data"] = push
        self.serverInner.transport.pauseProducing()
        self.serverInner.transport.write(b"x")
        self.turn()
        self.assertEqual(pushers[0].calls[-1], "pause")

    def test_rawTransportFull(self) -> None:
        """
        While the raw transport takes no more, nothing is sealed; then as little
        as possible.
        """
        self.client.pauseProducing()
        for _ in range(100):
            self.transport.write(b"x" * 1000)
            self.turn(1)
        self.assertEqual(self.sent(), b"")
        self.client.resumeProducing()
        self.assertEqual(len(self.sent()), 100_000 + 2 * 18)

    def test_producerWhenFull(self) -> None:
        """
        A producer that comes while the raw transport takes no more is paused at
        once; a pull producer is not asked.
        """
        self.client.pauseProducing()
        pusher = Pusher(self.transport, 0, b"")
        self.transport.registerProducer(pusher, True)
        self.client.pauseProducing()
        self.assertEqual(pusher.calls, ["pause"])
        self.transport.unregisterProducer()
        puller = Puller(self.transport, 3, b"x")
        self.transport.registerProducer(puller, False)
        self.turn()
        self.assertEqual(puller.left, 3)
        self.client.resumeProducing()
        self.turn()
        self.assertEqual((puller.left, self.serverInner.received), (0, b"xxx"))

    def test_producerNotNeeded(self) -> None:
        """A producer is resumed once what waited is written, not before."""
        pusher = Pusher(self.transport, 0, b"")
        self.transport.registerProducer(pusher, True)
        self.client.pauseProducing()
        self.transport.write(b"x" * (MAX_PLAINTEXT * PIECES // 2))
        self.client.resumeProducing()
        self.assertEqual(pusher.calls, ["pause"])
        self.turn()
        self.assertEqual(pusher.calls, ["pause", "resume"])

    def test_pullProducerFails(self) -> None:
        """An error in a pull producer is logged and ends the connection."""

        class Failing(Puller):
            """Cannot."""

            def resumeProducing(self) -> None:
                """Fail."""
                raise ZeroDivisionError

        failing = Failing(self.transport, 1, b"x")
        self.transport.registerProducer(failing, False)
        self.turn()
        self.assertReasons(ZeroDivisionError, Truncated)
        self.assertEqual(failing.stopped, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stopProducerFails(self) -> None:
        """
        An error in a producer that is stopped is logged; the protocol hears of the
        end all the same.
        """

        class Failing(Pusher):
            """Cannot stop."""

            def stopProducing(self) -> None:
                """Fail."""
                raise ZeroDivisionError

        self.transport.registerProducer(Failing(self.transport, 0, b""), True)
        self.rawClient.abortConnection()
        self.assertReasons(Truncated, Truncated)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_producerAtPeersEnd(self) -> None:
        """
        A producer of a protocol that is done because the peer is, is stopped at
        once: it would write in vain.
        """
        pusher = Pusher(self.transport, 0, b"")
        self.transport.registerProducer(pusher, True)
        self.serverInner.transport.loseConnection()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)
        self.assertEqual(pusher.calls, ["stop"])

    def test_truncated(self) -> None:
        """A transport that closes without the end of stream is a cut, never a close."""
        self.rawServer.loseConnection()
        self.assertReasons(Truncated, Truncated)

    def test_truncatedAtBoth(self) -> None:
        """The same when it is reset."""
        self.transport.write(b"x")
        self.rawServer.lose(error.ConnectionLost())
        self.assertReasons(Truncated, Truncated)

    def test_tampered(self) -> None:
        """
        A record that does not authenticate ends the connection; what was before
        it counts, and what a protocol still writes or does is dropped.
        """

        def useAll(inner: Recorder) -> None:
            """Use all there is."""
            inner.transport.write(b"too late")
            inner.transport.loseConnection()

        self.serverInner.actions["data"] = useAll
        self.transport.write(b"good")
        good = self.sent()
        self.rawServer._pipe.clear()
        self.rawClient._buffer.clear()
        self.rawClient._buffer += good + b"\x00\x10" + b"x" * 16
        self.turn()
        self.assertEqual(bytes(self.serverInner.received), b"good")
        self.assertReasons(Truncated, TamperedRecord)

    def test_tamperedAtOnce(self) -> None:
        """The same where nothing is before it."""
        self.rawClient.write(b"\x00\x10" + b"x" * 16)
        self.assertReasons(Truncated, TamperedRecord)

    def test_aborted(self) -> None:
        """
        After C{abortConnection} nothing is delivered or written, even what is there
        already.
        """

        def stop(inner: Recorder) -> None:
            """Abort."""
            inner.transport.abortConnection()
            inner.transport.write(b"no")

        self.serverInner.actions["data"] = stop
        self.transport.write(b"a" * 200_000)
        before = len(self.rawServer.written)
        self.turn()
        self.assertReasons(Truncated, error.ConnectionAborted)
        self.assertLessEqual(len(self.serverInner.received), 65519)
        self.assertEqual(len(self.rawServer.written), before)

    def test_noAbort(self) -> None:
        """A raw transport that cannot abort is closed."""

        class Plain:
            """A transport without C{abortConnection}."""

            closed = False

            def loseConnection(self) -> None:
                """Close."""
                self.closed = True

        plain = Plain()
        abort(cast(ITransport, plain))
        self.assertTrue(plain.closed)

    def test_pauseInside(self) -> None:
        """
        Of many records that come at once none is delivered after a pause; each
        turn that resumes gets one, in order, and what fails is the protocol's.
        """
        self.serverInner.actions["data"] = lambda inner: (
            inner.transport.pauseProducing()
        )
        for number in range(5):
            self.transport.write(b"%d" % number)
            self.client.flush()
        self.turn()
        for number in range(1, 5):
            self.assertEqual(len(self.serverInner.received), number)
            self.serverInner.transport.resumeProducing()
            self.serverInner.transport.resumeProducing()
            self.turn(1)
        self.assertEqual(bytes(self.serverInner.received), b"01234")
        self.assertFalse(self.rawServer.reading)

    def burst(self, count: int) -> None:
        """Let so many small records come at once."""
        output = b""
        for number in range(count):
            self.client.channel.send(b"%d," % number)
            output += self.client.channel.takeOutput()
        self.server.dataReceived(output)

    def test_burst(self) -> None:
        """
        Of many records that come at once some are delivered in each turn, in order, so
        that others have theirs; then it is read on.
        """
        most = RECORDS_AT_ONCE
        self.burst(2 * most + 1)
        for number in (most, 2 * most, 2 * most + 1):
            self.assertEqual(self.serverInner.received.count(b","), number)
            self.assertIs(self.rawServer.reading, number > 2 * most)
            oneTurn(self.clock)
        self.burst(1)
        self.turn()
        expected = [*range(2 * most + 1), 0]
        self.assertEqual(
            bytes(self.serverInner.received), b"".join(b"%d," % n for n in expected)
        )

    def test_burstAndPause(self) -> None:
        """A protocol may pause, and resume, in the middle of such records."""
        self.serverInner.actions["data"] = lambda inner: (
            inner.transport.pauseProducing()
        )
        count = 2 * RECORDS_AT_ONCE + 1
        self.burst(count)
        for number in range(1, count + 1):
            self.turn()
            self.assertEqual(self.serverInner.received.count(b","), number)
            self.serverInner.transport.resumeProducing()
        self.turn()
        self.assertTrue(self.rawServer.reading)

    def test_burstAndEnd(self) -> None:
        """
        Whoever closes while there are such records left still finds the peer's end
        behind them.
        """
        count = 2 * RECORDS_AT_ONCE + 1
        self.serverInner.actions["data"] = lambda inner: (
            inner.transport.loseConnection()
        )
        for number in range(count):
            self.client.channel.send(b"%d," % number)
            self.rawClient.write(self.client.channel.takeOutput())
        self.transport.loseConnection()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)
        self.assertEqual(self.clock.seconds(), 0)
        self.assertEqual(self.serverInner.received, b"0,")

    def test_burstAndAbort(self) -> None:
        """Nothing is delivered of such records once the connection is aborted."""
        self.burst(2 * RECORDS_AT_ONCE + 1)
        self.serverInner.transport.abortConnection()
        got = len(self.serverInner.received)
        self.assertReasons(Truncated, error.ConnectionAborted)
        self.assertEqual(len(self.serverInner.received), got)

    def test_failsAfterPause(self) -> None:
        """
        An error in a protocol that gets what came while it paused ends its
        connection, too.
        """
        self.serverInner.transport.pauseProducing()
        self.server.dataReceived(b"")
        self.transport.write(b"x")
        self.turn()

        def crash(inner: Recorder) -> None:
            """Fail."""
            raise ZeroDivisionError

        self.serverInner.actions["data"] = crash
        self.serverInner.transport.resumeProducing()
        self.assertReasons(Truncated, ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_failsWhenLost(self) -> None:
        """An error in C{connectionLost} is logged, and the owner hears of the end."""

        def crash(inner: Recorder) -> None:
            """Fail."""
            raise ZeroDivisionError

        self.serverInner.actions["gone"] = crash
        self.transport.loseConnection()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_garbage(self) -> None:
        """When a connection is gone, nothing but its protocols keeps it."""
        self.transport.loseConnection()
        self.turn()
        secure, inner = id(self.client), ref(self.clientInner)
        del self.client, self.transport, self.clientInner
        self.rawClient.protocol = cast(Any, None)
        self.clientOwner.inner = None
        self.assertFalse(remains(SecureProtocol, secure))
        self.assertIsNone(inner())


class OpeningTests(PumpTestCase):
    """What goes wrong while the protocol inside is made."""

    def test_madeFails(self) -> None:
        """An error in C{connectionMade} is logged and ends the connection."""

        def crash(inner: Recorder) -> None:
            """Fail."""
            raise ZeroDivisionError

        self.serverInner.actions["made"] = crash
        self.connect()
        self.assertReasons(Truncated, HandshakeError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_madeAborts(self) -> None:
        """A protocol that aborts when it is made was there."""
        self.serverInner.actions["made"] = lambda inner: (
            inner.transport.abortConnection()
        )
        self.connect()
        self.assertReasons(Truncated, error.ConnectionAborted)
        self.assertIn("opened", self.serverOwner.log)

    def test_madeAbortsAndFails(self) -> None:
        """One that aborts and then fails was not, and the owner is told that."""

        def crash(inner: Recorder) -> None:
            """Abort, and fail."""
            inner.transport.abortConnection()
            raise ZeroDivisionError

        self.serverInner.actions["made"] = crash
        self.connect()
        self.assertReasons(Truncated, error.ConnectionAborted)
        self.assertIn(HandshakeError, self.serverOwner.log)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_failsWhenMade(self) -> None:
        """
        A connection that its owner ends while the protocol inside is made has failed,
        and is not reported as open as well.
        """
        self.serverInner.actions["made"] = lambda inner: self.server.fail(
            NotAuthorized("no more")
        )
        self.connect()
        self.assertReasons(Truncated, NotAuthorized)
        self.assertIn(NotAuthorized, self.serverOwner.log)

    def test_lostWhenMade(self) -> None:
        """
        If the raw transport is lost meanwhile the owner is not told that the
        channel is open after it was told of its end.
        """
        self.serverInner.actions["made"] = lambda inner: self.server.connectionLost(
            Failure(error.ConnectionLost())
        )
        self.connect()
        self.assertEqual(self.serverOwner.log[-2:], [Truncated, "ended"])


class ClosingTests(PumpTestCase):
    """Each end is bounded."""

    def setUp(self) -> None:
        """Connect both."""
        super().setUp()
        self.connect()
        self.transport = self.clientInner.transport

    def test_peerNeverEnds(self) -> None:
        """A peer that does not end its direction is cut off."""
        self.rawServer.pauseProducing()
        self.transport.write(b"x")
        self.transport.loseConnection()
        self.turn()
        self.clock.advance(CLOSE_TIMEOUT - 0.1)
        self.turn()
        self.assertTrue(self.rawClient.connected)
        self.clock.advance(0.1)
        self.turn()
        self.assertIsInstance(self.clientInner.reasons[0], Truncated)
        self.rawServer.resumeProducing()
        self.assertQuiet()

    def test_peerNeverCloses(self) -> None:
        """
        A peer that has ended its direction and does not let the transport close
        is cut off.
        """
        raw = StringTransport()
        self.client.transport = cast(ITransport, raw)
        self.client._outlet = RecordWriter(self.client.transport)
        raw.registerProducer(self.client, True)
        self.serverInner.transport.loseConnection()
        self.turn()
        self.assertTrue(raw.disconnecting)
        self.assertFalse(raw.disconnected)
        self.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(raw.disconnected)

    def test_peerNeverReads(self) -> None:
        """A peer that does not read is cut off, however much waits."""
        self.rawServer.pauseProducing()
        self.transport.write(b"x" * BIG)
        self.transport.loseConnection()
        self.turn()
        self.clock.advance(CLOSE_TIMEOUT)
        self.turn()
        self.assertIsInstance(self.clientInner.reasons[0], Truncated)
        self.rawServer.resumeProducing()
        self.assertQuiet()

    def test_slowReader(self) -> None:
        """
        A peer that reads, however slowly, gets all that was written before the
        close.
        """
        self.transport.write(b"x" * BIG)
        self.transport.loseConnection()
        self.serverInner.actions["data"] = lambda inner: (
            inner.transport.pauseProducing()
        )
        while not self.clientInner.reasons:
            self.clock.advance(0.4)
            self.serverInner.transport.resumeProducing()
        self.assertGreater(self.clock.seconds(), 3 * CLOSE_TIMEOUT)
        self.assertEqual(len(self.serverInner.received), BIG)
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)

    def test_slowProducer(self) -> None:
        """
        A producer of ours that takes its time is waited for, a peer that does not
        take what it wrote is not.
        """
        pusher = Pusher(self.transport, 0, b"")
        self.transport.registerProducer(pusher, True)
        self.transport.loseConnection()
        self.clock.pump([1] * 60)
        self.assertTrue(self.rawClient.connected)
        self.rawServer.pauseProducing()
        self.transport.write(b"x" * BIG)
        self.clock.pump([1] * 11)
        self.assertIsInstance(self.clientInner.reasons[0], Truncated)
        self.rawServer.resumeProducing()
        self.assertQuiet()

    def test_producerDone(self) -> None:
        """The peer's time to close begins when our producer is done."""
        pusher = Pusher(self.transport, 0, b"")
        self.transport.registerProducer(pusher, True)
        self.transport.loseConnection()
        self.transport.write(b"more")
        self.clock.advance(4)
        self.rawServer.pauseProducing()
        self.transport.unregisterProducer()
        self.transport.write(b"dropped")
        self.clock.advance(4)
        self.rawServer.resumeProducing()
        self.turn()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)
        self.assertEqual(bytes(self.serverInner.received), b"more")

    def test_peerEndsWhileProducing(self) -> None:
        """A producer that is waited for is waited for though the peer has ended."""
        pusher = Pusher(self.transport, 0, b"")
        self.transport.registerProducer(pusher, True)
        self.transport.loseConnection()
        self.serverInner.transport.loseConnection()
        self.turn()
        self.transport.write(b"more")
        self.turn()
        self.assertEqual(pusher.calls, [])
        self.transport.unregisterProducer()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)

    def test_dropped(self) -> None:
        """
        What is written after C{loseConnection} is dropped, and a producer is turned
        away.
        """
        self.transport.loseConnection()
        self.transport.write(b"dropped")
        self.transport.pauseProducing()
        self.transport.resumeProducing()
        pusher = Pusher(self.transport, 5, b"x")
        self.transport.registerProducer(pusher, True)
        self.assertEqual(pusher.calls, ["stop"])
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)
        self.assertEqual(bytes(self.serverInner.received), b"")

    def test_dataAfterTheEnd(self) -> None:
        """Bytes after a peer's end of stream are an error."""
        self.rawServer.pauseProducing()
        self.transport.loseConnection()
        self.rawClient.write(b"x")
        self.rawServer.resumeProducing()
        self.assertReasons(Truncated, ProtocolError)

    def reset(self) -> None:
        """Let the client's raw transport end as if the peer had reset it."""
        lost = self.rawClient._lost
        self.rawClient._lost = (  # type: ignore[method-assign]
            lambda reason: lost(error.ConnectionLost())
        )

    def test_fasterToClose(self) -> None:
        """A peer that answers our end and closes before we do has not cut us off."""
        self.reset()
        self.transport.loseConnection()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)

    def test_fasterToReset(self) -> None:
        """
        One that ended first and resets the connection may not have read our answer.
        """
        self.reset()
        self.serverInner.transport.loseConnection()
        self.turn()
        self.assertIsInstance(self.clientInner.reasons[0], error.ConnectionLost)

    def test_stopProducing(self) -> None:
        """C{stopProducing} closes."""
        self.transport.stopProducing()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)


class HalfCloseTests(PumpTestCase):
    """One direction may end before the other."""

    def setUp(self) -> None:
        """Connect both."""
        super().setUp()
        self.connect()
        self.transport = self.clientInner.transport
        self.half = cast(HalfRecorder, self.clientInner)

    def makeInner(self) -> Recorder:
        """Make what runs inside."""
        return HalfRecorder()

    def test_bothEnd(self) -> None:
        """When both directions are ended the connection closes."""
        self.transport.loseWriteConnection()
        self.assertEqual(self.half.ends, [])
        self.turn()
        self.assertEqual(self.half.ends, ["write"])
        self.clock.advance(3600)
        self.serverInner.transport.loseWriteConnection()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)
        self.assertEqual(self.half.ends, ["write", "read"])

    def test_endWhilePaused(self) -> None:
        """
        What came while a protocol paused is not lost because it ends its own
        direction.
        """
        self.transport.pauseProducing()
        self.serverInner.transport.write(b"answer")
        self.serverInner.transport.loseWriteConnection()
        self.rawClient.resumeProducing()
        self.turn()
        self.transport.loseWriteConnection()
        self.turn()
        self.assertEqual(self.half.reasons, [])
        self.transport.resumeProducing()
        self.turn()
        self.assertEqual(bytes(self.half.received), b"answer")
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)

    def test_closeWhilePaused(self) -> None:
        """C{loseConnection} does not wait for what came while it paused."""
        self.transport.pauseProducing()
        self.serverInner.transport.write(b"answer")
        self.serverInner.transport.loseWriteConnection()
        self.rawClient.resumeProducing()
        self.turn()
        self.transport.resumeProducing()
        self.transport.loseConnection()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)
        self.assertEqual(bytes(self.half.received), b"")

    def test_leave(self) -> None:
        """
        Who leaves is told in the next turn that it has; the peer reads all, and what it
        says still is dropped, until it has ended, too.
        """
        for paused in (False, True):
            self.setUp()
            if paused:
                self.transport.pauseProducing()
            self.transport.write(b"last")
            self.transport.leave()
            self.assertEqual(self.half.reasons, [])
            self.transport.write(b"nothing more")
            self.clock.advance(0)
            (reason,) = self.half.reasons
            self.assertIsInstance(reason, error.ConnectionDone)
            self.turn()
            self.assertEqual(bytes(self.serverInner.received), b"last")
            self.serverInner.transport.write(b"too late")
            self.serverInner.transport.loseWriteConnection()
            self.assertReasons(error.ConnectionDone, error.ConnectionDone)
            self.assertEqual(bytes(self.half.received), b"")
            self.assertEqual(self.half.ends, [])

    def test_leaveAndLost(self) -> None:
        """It is told once, also if the raw transport is lost before."""
        self.transport.leave()
        self.rawClient.protocol.connectionLost(Failure(error.ConnectionLost()))
        self.turn()
        self.assertEqual(len(self.half.reasons), 1)

    def test_rawHalfClose(self) -> None:
        """
        A peer that half-closes the raw transport after its end of stream can still
        be answered.
        """
        self.transport.loseWriteConnection()
        self.rawClient.loseWriteConnection()
        self.turn()
        self.serverInner.transport.write(b"answer" * 10_000)
        self.turn()
        self.assertEqual(len(self.half.received), 60_000)
        self.serverInner.transport.loseConnection()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)

    def test_rawHalfCloseOnly(self) -> None:
        """Half-closing the raw transport alone is a cut."""
        self.rawClient.loseWriteConnection()
        self.assertReasons(Truncated, Truncated)
        self.client.writeConnectionLost()

    def test_closeAfterwards(self) -> None:
        """
        C{loseConnection} after C{loseWriteConnection} waits for no producer of ours,
        since that cannot write, and a bounded time for the peer.
        """
        pusher = Pusher(self.transport, 0, b"")
        self.transport.registerProducer(pusher, True)
        self.transport.loseWriteConnection()
        self.transport.loseConnection()
        self.transport.loseWriteConnection()
        self.rawServer.pauseProducing()
        self.clock.advance(CLOSE_TIMEOUT)
        self.turn()
        self.assertEqual(pusher.calls, ["pause", "stop"])
        self.rawServer.resumeProducing()
        self.assertQuiet()

    def test_lostBeforeNotice(self) -> None:
        """Nobody is told of a direction's end after the connection's."""
        self.transport.loseWriteConnection()
        self.transport.abortConnection()
        self.turn()
        self.assertEqual(self.half.ends, [])
        self.assertQuiet()

    def test_writeEndFails(self) -> None:
        """
        An error where a protocol is told of its direction's end ends the connection.
        """

        def crash(inner: Recorder) -> None:
            """Fail."""
            raise ZeroDivisionError

        self.half.actions["writeEnd"] = crash
        self.transport.loseWriteConnection()
        self.turn()
        self.assertIsInstance(self.half.reasons[0], ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertQuiet()


class PlainHalfCloseTests(PumpTestCase):
    """
    C{loseWriteConnection} by a protocol that knows nothing of half-closed
    connections.
    """

    def test_notTold(self) -> None:
        """It is not told."""
        self.connect()
        self.clientInner.transport.loseWriteConnection()
        self.assertReasons(error.ConnectionDone, error.ConnectionDone)


class Socket(FileDescriptor):
    """One of Twisted's sockets, as far as it matters here."""

    def getHost(self) -> UNIXAddress:
        """Be no TCP."""
        return UNIXAddress(None)


class PrepareTests(SynchronousTestCase):
    """L{prepare}."""

    def test_sockets(self) -> None:
        """A socket of Twisted's reads more than a record at once."""
        descriptor = Socket(cast(Any, MemoryReactorClock()))
        full = prepare(cast(ITransport, descriptor))
        self.assertGreater(descriptor.bufferSize, 2 + 65535)
        self.assertEqual(full, descriptor.bufferSize)

    def test_others(self) -> None:
        """Any other transport is left alone."""
        transport = StringTransport()
        before = dict(vars(transport))
        full = prepare(cast(ITransport, transport))
        self.assertEqual(vars(transport), before)
        self.assertEqual(full, sys.maxsize)


class ReadTests(PumpTestCase):
    """How much is read at once."""

    def test_large(self) -> None:
        """
        Who fills a read may fill larger ones, until what comes would have fit a small
        one.
        """
        self.connect()
        raw = Socket(cast(Any, MemoryReactorClock()))
        self.server.transport = cast(ITransport, raw)
        self.server._full = prepare(self.server.transport)
        stream = self.client.channel
        for size, most in (
            (READ_SIZE - 1, READ_SIZE),
            (READ_SIZE, LARGE_READ),
            (READ_SIZE, LARGE_READ),
            (LARGE_READ, LARGE_READ),
            (READ_SIZE - 1, READ_SIZE),
        ):
            records = size // 65537 + 1
            stream.send(bytes(size - records * 18))
            data = stream.takeOutput()
            self.assertEqual(len(data), size)
            before = len(self.serverInner.received)
            self.server.dataReceived(data)
            self.assertEqual(raw.bufferSize, most)
            self.assertEqual(
                len(self.serverInner.received) - before, size - records * 18
            )


class TakenTests(SynchronousTestCase):
    """L{takenSoFar} asks the system how far the other side has got."""

    def test_progress(self) -> None:
        """What the peer's system takes counts, while anything waits for it."""
        if not hasattr(socket, "TCP_INFO") or sys.platform != "linux":
            self.skipTest("this system does not tell")  # pragma: no cover
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        reading = socket.socket()
        self.addCleanup(reading.close)
        reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reading.connect(listening.getsockname())
        writing, _ = listening.accept()
        self.addCleanup(writing.close)
        writing.setblocking(False)
        raw = Socket()
        raw.getHandle = lambda: writing  # type: ignore[attr-defined]
        self.assertIsNone(takenSoFar(cast(ITransport, raw)))
        while True:
            try:
                writing.send(bytes(65536))
            except BlockingIOError:
                break
        before = takenSoFar(cast(ITransport, raw))
        assert before is not None
        got = 0
        while got < 1 << 20:
            got += len(reading.recv(65536))
        after = takenSoFar(cast(ITransport, raw))
        assert after is not None
        self.assertGreater(after, before)
        writing.close()
        self.assertIsNone(takenSoFar(cast(ITransport, raw)))

    def test_others(self) -> None:
        """Of any other transport it is not known."""
        self.assertIsNone(takenSoFar(StringTransport()))


class SecureAddressTests(SynchronousTestCase):
    """L{SecureAddress}."""

    def test_address(self) -> None:
        """
        It compares and hashes by both parts, shows both, and has the host and port
        of what is underneath.
        """
        raw = memoryPair(Clock())[0].getPeer()
        one, same = (SecureAddress(raw, PublicKey(b"\x01" * 32)) for _ in range(2))
        other = SecureAddress(raw, PublicKey(b"\x02" * 32))
        self.assertEqual(one, same)
        self.assertEqual(hash(one), hash(same))
        self.assertNotEqual(one, other)
        self.assertNotEqual(one, raw)
        self.assertIn(str(one.publicKey), repr(one))
        self.assertEqual((one.host, one.port), ("127.0.0.1", 8765))
        self.assertEqual(SecureAddress(one, other.publicKey).port, 8765)
        self.assertIn("127.0.0.1", repr(one))


class UsersTests(SynchronousTestCase):
    """What the names promise."""

    def test_interfaces(self) -> None:
        """A transport is an C{IConsumer}, an C{IPushProducer} and an C{ITransport}."""
        secure = SecureProtocol(
            Owner(Clock(), None, 1.0), ClientChannel(channelSettings(CLIENT_KEY))
        )
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, secure.secureTransport)
