"""
Tests for L{aesm.client.connect}: L{connect} fires once the server has accepted, and
says why otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.test.iosim import ConnectionCompleter
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from aesm import (
    AESMError,
    AnyServer,
    ConnectionClosed,
    HandshakeError,
    HandshakeTimeout,
    KeyFileError,
    KnownServers,
    NameOrKeyMismatch,
    NotAnAESMPeer,
    NotAuthorized,
    OfferRefused,
    Pinned,
    PrivateKey,
    ProtocolError,
    PublicKey,
    ServerKeyChanged,
    TamperedRecord,
    UntrustedServer,
    connect,
    listen,
)
from aesm.core.channel.roles import ServerChannel
from aesm.core.channel.settings import Layer
from aesm.core.messages.frames import FrameType, encodeClose, encodeFrame
from aesm.errors import NoAnswer
from aesm.interfaces import ITrustPolicy
from aesm.messages.connection import Connection
from aesm.secure.factory import SecureFactory
from aesm.secure.options import channelSettings
from aesm.secure.protocol import SecureProtocol
from aesm.secure.refusals import LAST_WAIT
from aesm.testing import MemoryNetwork
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, PairTestCase

PSK = b"p" * 32


@implementer(ITrustPolicy)
class Asked:
    """
    A policy that answers what it is told to.

    @ivar locations: what it was asked about.
    """

    def __init__(self, answer: Any) -> None:
        """@param answer: what to answer, or to raise."""
        self.answer = answer
        self.locations: list[str] = []

    def checkServer(self, location: str, publicKey: PublicKey) -> Any:
        """
        Answer.

        @param location: where.
        @param publicKey: whose.
        """
        self.locations.append(location)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Saying(Protocol):
    """A protocol that says one thing."""

    def __init__(self, words: bytes, end: bool = False) -> None:
        """
        @param words: what to say.
        @param end: whether to close behind it.
        """
        self.words = words
        self.end = end

    def connectionMade(self) -> None:
        """Say it."""
        transport: Any = self.transport
        transport.write(self.words)
        if self.end:
            transport.loseConnection()


class SayingFactory(SecureFactory):
    """A server that opens the channel to any client, and then says one thing."""

    def __init__(self, clock: Clock, words: bytes, end: bool = False) -> None:
        """
        @param clock: keeps time.
        @param words: what to say.
        @param end: whether to close behind it.
        """
        self.clock = clock
        self.handshakeTimeout = 10
        self.words = words
        self.end = end

    def buildProtocol(self, addr: object) -> Any:
        """
        Build the server's end.

        @param addr: where it comes from.
        """
        settings = channelSettings("", Layer.MESSAGES, key=SERVER_KEY)
        return SecureProtocol(self, ServerChannel(settings))

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> None:
        """
        Let anybody in.

        @param secure: the connection.
        @param publicKey: whose.
        @param payload: its hello.
        """

    def buildInner(self, secure: SecureProtocol) -> IProtocol:
        """
        Build what says it.

        @param secure: the connection.
        """
        return Saying(self.words, self.end)


class FailureTests(PairTestCase):
    """Each failure has its class, and says in a sentence what to do."""

    def refused(
        self,
        expected: type[Exception],
        client: dict[str, Any] | None = None,
        seconds: float = 0,
        **server: Any,
    ) -> Any:
        """
        Fail to connect.

        @param expected: the class of the error.
        @param client: options of the client.
        @param seconds: how long it takes.
        @param server: options of the server.
        @return: the error.
        """
        network, listener = self.serve(**server)
        connecting = self.connecting(network, **(client or {}))
        network.advance(seconds)
        reason: Any = self.failureResultOf(connecting).value
        self.assertEqual(type(reason), expected)
        self.checkText(reason)
        network.advance(10)
        self.assertEqual(network.links, [])
        entries = [entry.event for entry in self.entries(listener)]
        self.assertEqual(entries, ["refused"])
        self.assertEqual(len(listener.connections), 0)
        return reason

    def unfriendly(self, words: bytes, end: bool = False, seconds: float = 0) -> Any:
        """
        Fail to connect to what is no server of ours.

        @param words: what it says.
        @param end: whether it closes then.
        @param seconds: how long it takes.
        @return: the error.
        """
        return self.fails(Factory.forProtocol(lambda: Saying(words, end)), seconds)

    def opened(self, words: bytes, end: bool = False, seconds: float = 0) -> Any:
        """
        Fail to connect to what opens the channel and then says something.

        @param words: what it says.
        @param end: whether it closes then.
        @param seconds: how long it takes.
        @return: the error.
        """
        self.network = MemoryNetwork()
        return self.fails(SayingFactory(self.network.clock, words, end), seconds)

    def fails(self, factory: Any, seconds: float) -> Any:
        """
        Fail to connect.

        @param factory: of the server's protocols.
        @param seconds: how long it takes.
        @return: the error.
        """
        network = self.network if hasattr(self, "network") else MemoryNetwork()
        self.successResultOf(network.endpoint().listen(factory))
        connecting = self.connecting(network)
        if seconds:
            network.advance(seconds - 0.1)
            self.assertNoResult(connecting)
            network.advance(0.1)
        network.deliver()
        reason: Any = self.failureResultOf(connecting).value
        self.checkText(reason)
        network.advance(20)
        self.assertEqual(network.clock.getDelayedCalls(), [])
        return reason

    def checkText(self, reason: Exception) -> None:
        """
        Check that an error's text is one line of some length.

        @param reason: the error.
        """
        self.assertIsInstance(reason, AESMError)
        self.assertGreater(len(str(reason)), 20)
        self.assertTrue(str(reason).isprintable(), str(reason))

    def test_name(self) -> None:
        """Another application name."""
        reason = self.refused(NameOrKeyMismatch, {"name": "other"})
        self.assertIn("name=", str(reason))

    def test_psk(self) -> None:
        """Another pre-shared key, or one on the server only."""
        reason = self.refused(NoAnswer, {"psk": b"q" * 32}, psk=PSK)
        self.assertIn("psk=", str(reason))
        reason = self.refused(NoAnswer, psk=PSK)
        self.assertIn("psk=", str(reason))

    def test_offer(self) -> None:
        """
        Another protocol than the server takes, or a pre-shared key on the client
        only.
        """
        suites = ["Noise_XX_25519_ChaChaPoly_SHA256"]
        reason = self.refused(
            OfferRefused, {"suites": suites}, suites=["Noise_XX_25519_AESGCM_SHA256"]
        )
        self.assertIn("suites=", str(reason))
        self.assertIn("Noise_XX_25519_AESGCM_SHA256", reason.reason)
        self.refused(OfferRefused, {"psk": PSK})

    def test_untrusted(self) -> None:
        """
        A server whose key is not one that we accept, whichever way the policy
        says so.
        """
        other = PrivateKey.generate().publicKey
        reason = self.refused(UntrustedServer, {"trust": Pinned(other)})
        self.assertEqual(reason.publicKey, str(SERVER_KEY.publicKey))
        for answer in (
            False,
            None,
            "yes",
            1,
            succeed(False),
            UntrustedServer("we do not trust this one", "x"),
            fail(UntrustedServer("we do not trust this one", "x")),
        ):
            self.refused(UntrustedServer, {"trust": Asked(answer)})

    def test_keyChanged(self) -> None:
        """A server that had another key."""
        path = Path(self.mktemp())
        other = PrivateKey.generate().publicKey
        known = KnownServers(path)
        known.remember("127.0.0.1:8765", other)
        reason = self.refused(ServerKeyChanged, {"trust": known})
        self.assertEqual(reason.known, (str(other),))
        self.assertIn("--forget", str(reason))

    def test_trustFails(self) -> None:
        """A policy with an error of its own: it is logged."""
        for answer in (ZeroDivisionError(), fail(ZeroDivisionError())):
            self.refused(HandshakeError, {"trust": Asked(answer)})
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_trustNeverAnswers(self) -> None:
        """A policy that never answers has a deadline, and is cancelled."""
        answer: Deferred[bool] = Deferred()
        self.refused(
            HandshakeTimeout,
            {"trust": Asked(answer), "handshakeTimeout": 3},
            3,
            handshakeTimeout=20,
        )
        self.assertTrue(answer.called)

    def test_notAuthorized(self) -> None:
        """A client that the server does not let in."""
        reason = self.refused(NotAuthorized, authorizedKeys=lambda *_: None)
        self.assertIn("operator", str(reason))

    def test_full(self) -> None:
        """
        A server that is full says so only to who has proved a key; before that
        the connection is just closed.
        """
        network, server = self.serve(maxConnections=1)
        first = self.connecting(network)
        second = self.connecting(network)
        network.deliver()
        self.successResultOf(first)
        self.assertClosed(second, 1013)
        third = self.connecting(network)
        network.deliver()
        self.failureResultOf(third, NameOrKeyMismatch)
        network.advance(1)
        events = [entry.event for entry in self.entries(server)]
        self.assertEqual(events, ["accepted", "refused", "refused"])

    def test_silent(self) -> None:
        """A server that says nothing."""
        reason = self.unfriendly(b"", seconds=10)
        self.assertEqual(type(reason), HandshakeTimeout)
        self.assertIn("10 seconds", str(reason))

    def test_closes(self) -> None:
        """A server that closes at once."""
        self.assertEqual(type(self.unfriendly(b"", end=True)), NoAnswer)

    def test_foreign(self) -> None:
        """Something else."""
        for words in (b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-x\r\n", b"\x15\x03"):
            self.assertEqual(type(self.unfriendly(words)), NotAnAESMPeer)

    def test_refusal(self) -> None:
        """What a refusal says has nothing in it that a terminal obeys."""
        reason = self.unfriendly(b"\0\0\0\x07a\n\x1b[\xff\xe2z", end=True)
        self.assertEqual(type(reason), OfferRefused)
        self.assertEqual(reason.reason, "a??[??z")

    def test_nobody(self) -> None:
        """Where nobody listens, the endpoint's error is the answer."""
        connecting = self.connecting(MemoryNetwork())
        self.failureResultOf(connecting, error.ConnectionRefusedError)

    def test_nobodyThere(self) -> None:
        """It says where, however often it is the same error."""
        reactor: Any = MemoryReactorClock()
        refused = error.ConnectionRefusedError(111, "refused")
        for _ in range(2):
            connecting = connect(reactor, "tcp:127.0.0.1:9", key=CLIENT_KEY)
            *_, factory, _, _ = reactor.tcpClients[-1]
            factory.clientConnectionFailed(None, Failure(refused))
            self.failureResultOf(connecting, error.ConnectionRefusedError)
        self.assertRegex(str(refused), r"111: refused at 127\.0\.0\.1:9\.$")

    def test_noWelcome(self) -> None:
        """A server that never says WELCOME."""
        reason = self.opened(b"", seconds=10)
        self.assertEqual(type(reason), HandshakeTimeout)

    def test_closesInstead(self) -> None:
        """One that closes instead, with a code or without."""
        for words, code in ((encodeClose(0, 1013, "full"), 1013), (b"", 1005)):
            reason = self.opened(words, end=True)
            self.assertEqual((type(reason), reason.code), (ConnectionClosed, code))

    def test_badWelcome(self) -> None:
        """One that says something else."""
        for frame in (
            encodeFrame(FrameType.WELCOME, 0, b"[]"),
            encodeFrame(FrameType.TEXT, 0, b"hello"),
            b"\0\0\0\0\x63" + bytes(8),
        ):
            self.assertIsInstance(self.opened(frame), ProtocolError)

    def test_altered(self) -> None:
        """Somebody in between alters a byte, in either direction."""
        for rounds in range(4):
            for direction in ("toServer", "toClient"):
                network, _ = self.serve()
                connecting = self.connecting(network)
                link = network.links[0]
                for _ in range(rounds):
                    link.deliver()
                pipe = getattr(link, direction)
                if pipe.inFlight:
                    pipe.corrupt()
                    network.advance(10)
                    reason: Any = self.failureResultOf(connecting).value
                    self.assertIsInstance(
                        reason, HandshakeError | TamperedRecord | ConnectionClosed
                    )
                else:
                    network.deliver()
                    self.successResultOf(connecting)

    def test_lost(self) -> None:
        """The network breaks, at any moment."""
        for rounds in range(4):
            network, _ = self.serve()
            connecting = self.connecting(network)
            link = network.links[0]
            for _ in range(rounds):
                link.deliver()
            link.cut()
            if not connecting.called:
                self.fail("it waits")
            connecting.addErrback(lambda failure: failure.trap(AESMError))
            network.advance(LAST_WAIT)  # it may be a probe, which is told by then
            self.assertEqual(network.clock.getDelayedCalls()[1:], [])

    def test_keyFile(self) -> None:
        """A file that cannot be used fails the Deferred, too."""
        connecting = self.connecting(MemoryNetwork(), psk="/nowhere/psk")
        self.failureResultOf(connecting, KeyFileError)

    def test_options(self) -> None:
        """Options that cannot be are the caller's errors, at once."""
        network = MemoryNetwork()
        for options, expected in (
            ({"trust": True}, TypeError),
            ({"nonsense": 1}, TypeError),
            ({"agent": "x"}, TypeError),
            ({"maxMessage": 0}, ValueError),
            ({"handshakeTimeout": 0}, ValueError),
            ({"suites": ["x"]}, ValueError),
        ):
            self.assertRaises(expected, self.connecting, network, **options)
        strange: Any = {"authorizedKeys": "x"}
        with self.assertRaisesRegex(TypeError, "^there is no option 'authorizedKeys'"):
            connect(network.clock, network.endpoint(), **strange)
        strange = 8765
        with self.assertRaisesRegex(TypeError, "^an endpoint is .* not 8765$"):
            connect(network.clock, strange, key=CLIENT_KEY)


class CancelTests(PairTestCase):
    """C{connect} can be cancelled at any moment."""

    def test_everyMoment(self) -> None:
        """
        Nothing stays behind, and the server has one entry, or two if it had
        accepted.
        """
        rounds, accepted = 0, False
        while not accepted:
            network, server = self.serve()
            connecting = self.connecting(network)
            for _ in range(rounds):
                network.links[0].deliver(50)
            accepted = connecting.called
            connecting.cancel()
            if not accepted:
                self.failureResultOf(connecting, CancelledError)
                network.deliver()
                self.assertEqual(network.links, [])
                self.assertEqual(len(network.clock.getDelayedCalls()), 1)
                self.assertEqual(len(server.connections), 0)
                events = [entry.event for entry in self.entries(server)]
                self.assertIn(events, (["refused"], ["accepted", "lost"]))
            rounds += 1
        self.successResultOf(connecting)
        self.assertGreater(rounds, 5)

    def test_deciding(self) -> None:
        """While the policy decides, which is then cancelled."""
        answer: Deferred[bool] = Deferred()
        network, _ = self.serve()
        connecting = self.connecting(network, trust=Asked(answer))
        network.deliver()
        connecting.cancel()
        network.deliver()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(answer.called)

    def test_beforeConnection(self) -> None:
        """Before there is a connection, the endpoint's is given up."""
        reactor = MemoryReactorClock()
        connecting = connect(
            reactor, "tcp:127.0.0.1:8765", key=CLIENT_KEY, trust=AnyServer()
        )
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_twice(self) -> None:
        """Who has waited no longer is not told of what comes then."""
        endpoint = MemoryNetwork().endpoint()
        later: Deferred[Any] = Deferred(lambda deferred: None)
        self.patch(endpoint, "connect", lambda factory: later)
        connecting = connect(Clock(), endpoint, key=CLIENT_KEY, trust=AnyServer())
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)


class ConnectTests(PairTestCase):
    """What a connection is when C{connect} has fired."""

    def test_connection(self) -> None:
        """It knows its peer, the suite, and a hash that both sides share."""
        network, server = self.serve()
        client = self.join(network)
        (accepted,) = server.connections.values()
        self.assertEqual(client.peer, server.publicKey)
        self.assertEqual(client.address, ("127.0.0.1", 8765))
        self.assertIsNone(client.peerName)
        self.assertEqual(client.suite, accepted.suite)
        self.assertEqual(client.handshakeHash, accepted.handshakeHash)
        self.assertEqual(len(client.handshakeHash), 32)

    def test_atOnce(self) -> None:
        """What the server sends behind the WELCOME is there."""
        network, server = self.serve()
        connecting = self.connecting(network)
        link = network.links[0]
        link.toClient.stalled = True
        link.deliver()
        link.toClient.stalled = False
        network.deliver()
        client = self.successResultOf(connecting)
        self.successResultOf(client.drain())
        self.assertEqual(len(server.connections), 1)

    def test_location(self) -> None:
        """The policy is asked about what was dialled, or else the transport's peer."""
        asked = Asked(True)
        network, _ = self.serve()
        self.join(network, trust=asked)
        self.assertEqual(asked.locations, ["127.0.0.1:8765"])

    def test_deferredTrust(self) -> None:
        """A policy may take its time."""
        answer: Deferred[bool] = Deferred()
        network, _ = self.serve()
        connecting = self.connecting(network, trust=Asked(answer))
        network.advance(5)
        self.assertNoResult(connecting)
        answer.callback(True)
        network.deliver()
        self.successResultOf(connecting)

    def test_psk(self) -> None:
        """With the same pre-shared key on both sides."""
        pair = self.pair(psk=PSK)
        self.assertIn("psk0", pair.client.suite)

    def test_stateDirectory(self) -> None:
        """Without a key or trust those of the state directory are used."""
        home = Path(self.mktemp())
        self.patch(os, "environ", os.environ | {"AESM_HOME": str(home)})
        network, _ = self.serve()
        for _ in range(2):
            connecting = connect(network.clock, network.endpoint())
            network.deliver()
            self.successResultOf(connecting)
        self.assertIn("127.0.0.1:8765", (home / "known_servers").read_text())
        self.assertTrue((home / "client.key").exists())


class StringTests(SynchronousTestCase):
    """L{connect} and L{listen} with endpoint strings."""

    def test_tcp(self) -> None:
        """
        A string says where to listen, and where to connect to; the policy is
        asked about the name that was dialled.
        """
        reactor = MemoryReactorClock()
        listening = listen(reactor, "tcp:8765:interface=127.0.0.1", key=SERVER_KEY)
        server = self.successResultOf(listening)
        self.assertEqual(reactor.tcpServers[0][0], 8765)
        asked = Asked(True)
        connecting = connect(
            reactor, "tcp:host=127.0.0.1:port=8765", key=CLIENT_KEY, trust=asked
        )
        self.assertEqual(reactor.tcpClients[0][:2], ("127.0.0.1", 8765))
        completer = ConnectionCompleter(reactor)
        pump: Any = completer.succeedOnce()
        for _ in range(20):
            pump.pump()
            reactor.advance(0)
        client = self.successResultOf(connecting)
        self.assertEqual(asked.locations, ["127.0.0.1:8765"])
        sent = client.sendData("x")
        for _ in range(20):
            pump.pump()
            reactor.advance(0)
        self.successResultOf(sent)
        self.assertEqual(server.connections.getDataOrdinal()[1].data, "x")
        client.close()
        for _ in range(20):
            pump.pump()
            reactor.advance(0)
        self.assertEqual(len(server.connections), 0)
        server.factory.doStop()
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """The endpoint's failure is the answer."""
        reactor = MemoryReactorClock()
        connecting = connect(
            reactor, "tcp:127.0.0.1:8765", key=CLIENT_KEY, trust=AnyServer()
        )
        ConnectionCompleter(reactor).failOnce()
        self.failureResultOf(connecting)
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_badString(self) -> None:
        """A string that is none is the caller's error."""
        for bad in ("what:host:1", "tcp:127.0.0.1", "tcp:host:port"):
            with self.assertRaises((ValueError, TypeError)):
                connect(MemoryReactorClock(), bad, key=CLIENT_KEY, trust=AnyServer())


@implementer(IStreamClientEndpoint)
class LateEndpoint:
    """
    An endpoint that cannot be cancelled.

    @ivar factory: what it was given.
    """

    factory: IProtocolFactory

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Begin to connect."""
        self.factory = protocolFactory
        return Deferred()


class LateTests(SynchronousTestCase):
    """Transports that nobody wants."""

    def connecting(self) -> tuple[LateEndpoint, Deferred[Connection]]:
        """Begin to connect."""
        endpoint = LateEndpoint()
        options: Any = {"key": CLIENT_KEY, "trust": AnyServer()}
        return endpoint, connect(MemoryReactorClock(), endpoint, **options)

    def connected(self, endpoint: LateEndpoint) -> StringTransport:
        """Have the endpoint connect."""
        protocol: Any = endpoint.factory.buildProtocol(IPv4Address("TCP", "a", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        return transport

    def test_cancelled(self) -> None:
        """
        What an endpoint connects after the attempt was cancelled is hung up on: it
        says nothing and is no connection.
        """
        endpoint, connecting = self.connecting()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        transport = self.connected(endpoint)
        self.assertEqual(transport.value(), b"")
        self.assertTrue(transport.disconnecting or transport.disconnected)

    def test_twice(self) -> None:
        """
        Of two transports, as of two addresses that answer at the same time, one is
        taken.
        """
        endpoint, connecting = self.connecting()
        first, second = self.connected(endpoint), self.connected(endpoint)
        self.assertNotEqual(first.value(), b"")
        self.assertEqual(second.value(), b"")
        self.assertNoResult(connecting)
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
