"""
Tests for L{aesm.secure} and L{aesm.secure.wrapping}: endpoints around endpoints, and
Twisted's own protocols on them, unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet import error, reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    fail,
    gatherResults,
    succeed,
)
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.protocols.amp import AMP, Command, Integer
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, HTTPConnectionPool, readBody
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import File
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm.core.channel.settings import SUITES
from aesm.errors import (
    HandshakeError,
    HandshakeTimeout,
    KeyFileError,
    NameOrKeyMismatch,
    NotAuthorized,
    OfferRefused,
    UntrustedServer,
)
from aesm.interfaces import ITrustPolicy
from aesm.secure import (
    SecureAddress,
    SecureTransport,
    places,
    wrapClientEndpoint,
    wrapServerEndpoint,
)
from aesm.secure.announce import announce
from aesm.secure.refusals import LAST_WAIT
from aesm.secure.wrapping import ServerFactory
from aesm.testing import MemoryNetwork
from aesm.trust.clients import RELOAD_INTERVAL
from aesm.trust.keys import PrivateKey, PublicKey
from aesm.trust.servers import KnownServers, Pinned
from tests.secure.test_hosts import Names
from tests.support.helpers import CLIENT_KEY, PSK, SERVER_KEY, XX
from tests.support.transportcontract import (
    BIG,
    MemoryEndpoint,
    Once,
    Recorder,
    memoryPair,
)

CLIENT = PrivateKey(CLIENT_KEY)
SERVER = PrivateKey(SERVER_KEY)


@implementer(IStreamClientEndpoint)
class Scripted:
    """A client endpoint that does what a test says."""

    def __init__(self, connect: Callable[[IProtocolFactory], Any]) -> None:
        """@param connect: what C{connect} does."""
        self._connect = connect

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Do it.

        @param protocolFactory: whose.
        """
        return cast("Deferred[IProtocol]", self._connect(protocolFactory))


@implementer(ITrustPolicy)
class Trust:
    """
    A trust policy that says what a test says.

    @ivar asked: for which locations.
    """

    def __init__(self, answer: Callable[[], Any]) -> None:
        """@param answer: makes the answer."""
        self.answer = answer
        self.asked: list[str] = []

    def checkServer(self, location: str, publicKey: PublicKey) -> Any:
        """Say it."""
        self.asked.append(location)
        return self.answer()


class EndpointTestCase(SynchronousTestCase):
    """A server that listens in memory."""

    def setUp(self) -> None:
        """Make the network, and what runs inside."""
        self.clock = Clock()
        self.network = MemoryEndpoint(self.clock)
        self.clientInner, self.serverInner = Recorder(), Recorder()
        self.clientFactory = Once(self.clientInner)
        self.serverFactory = Once(self.serverInner)

    def listen(self, **options: Any) -> None:
        """
        Let the server listen.

        @param options: of L{wrapServerEndpoint}.
        """
        options = {"key": SERVER, "suites": [XX], "reactor": self.clock, **options}
        endpoint = wrapServerEndpoint(self.network, **options)
        verifyObject(IStreamServerEndpoint, endpoint)
        self.port = self.successResultOf(endpoint.listen(self.serverFactory))

    def wrap(self, endpoint: object = None, **options: Any) -> IStreamClientEndpoint:
        """
        Make a client's endpoint.

        @param endpoint: what it wraps, None for the network.
        @param options: of L{wrapClientEndpoint}.
        """
        options = {
            "key": CLIENT,
            "suites": [XX],
            "trust": Pinned(SERVER.publicKey),
            "reactor": self.clock,
            **options,
        }
        wrapped = wrapClientEndpoint(cast(Any, endpoint or self.network), **options)
        verifyObject(IStreamClientEndpoint, wrapped)
        return wrapped

    def connect(self, endpoint: object = None, **options: Any) -> Deferred[IProtocol]:
        """
        Connect the client.

        @param endpoint: what it wraps, None for the network.
        @param options: of L{wrapClientEndpoint}.
        """
        connecting = self.wrap(endpoint, **options).connect(self.clientFactory)
        self.clock.advance(0)
        return connecting

    def assertQuiet(self) -> None:
        """Check that nothing is left running, once all refusals are in the log."""
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ConnectTests(EndpointTestCase):
    """C{connect} says at the right time what came of it."""

    def test_connects(self) -> None:
        """
        It fires with the protocol inside, right after that has its transport; both
        are built with an address that carries the peer's key.
        """
        seen: list[object] = []

        def fired(protocol: IProtocol) -> IProtocol:
            """Note it."""
            seen.append("fired")
            return protocol

        self.clientInner.actions["made"] = lambda inner: seen.append("made")
        self.listen()
        connecting = self.wrap().connect(self.clientFactory)
        connecting.addCallback(fired)
        self.clock.advance(0)
        self.assertIs(self.successResultOf(connecting), self.clientInner)
        self.assertEqual(seen, ["made", "fired"])
        self.assertIsInstance(self.clientInner.transport, SecureTransport)
        for factory, key in (
            (self.clientFactory, SERVER.publicKey),
            (self.serverFactory, CLIENT.publicKey),
        ):
            (address,) = factory.addresses
            self.assertEqual(cast(SecureAddress, address).publicKey, key)
            self.assertIsInstance(cast(SecureAddress, address).address, IPv4Address)

    def test_anyCallOfNames(self) -> None:
        """The same factory may connect any number of times."""
        self.listen()
        wrapped = self.wrap()
        self.serverFactory.built = None
        for _ in range(2):
            wrapped.connect(Once(Recorder()))
        self.clock.advance(0)
        self.assertEqual(len(self.serverFactory.addresses), 2)

    def test_endpointFails(self) -> None:
        """What the endpoint fails with comes through."""
        refused = error.ConnectionRefusedError()
        connecting = self.connect(Scripted(lambda factory: fail(refused)))
        self.assertIs(self.failureResultOf(connecting).value, refused)

    def test_endpointRaises(self) -> None:
        """So does what it raises."""
        connecting = self.connect(Scripted(lambda factory: 1 / 0))
        self.failureResultOf(connecting, ZeroDivisionError)

    def test_nobody(self) -> None:
        """An endpoint that has connected, and has built no protocol, is told of."""
        connecting = self.connect(Scripted(lambda factory: succeed(None)))
        failure = self.failureResultOf(connecting, TypeError)
        self.assertIn("has connected nobody to us", str(failure.value))

    def test_twice(self) -> None:
        """Of two transports, as of two addresses that answer at once, one is taken."""
        self.listen()
        built: list[IProtocol | None] = []

        def both(factory: IProtocolFactory) -> Deferred[IProtocol]:
            """Connect, and have another protocol built."""
            connecting = self.network.connect(factory)
            built.append(factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1)))
            return connecting

        connecting = self.connect(Scripted(both))
        self.assertIs(self.successResultOf(connecting), self.clientInner)
        self.assertEqual(built, [None])

    def test_untrusted(self) -> None:
        """It fails with why the server is not trusted."""
        self.listen()
        self.failureResultOf(
            self.connect(trust=Pinned(CLIENT.publicKey)), UntrustedServer
        )
        self.failureResultOf(self.connect(trust=Trust(lambda: False)), UntrustedServer)
        self.assertEqual(self.clientFactory.addresses, [])
        self.assertQuiet()

    def test_mismatch(self) -> None:
        """It fails with what the two sides do not agree on."""
        self.listen()
        for options, expected in (
            ({"suites": [SUITES[3]]}, OfferRefused),
            ({"psk": PSK}, OfferRefused),
            ({"name": "other"}, NameOrKeyMismatch),
            ({"key": SERVER}, HandshakeError),
        ):
            self.failureResultOf(self.connect(**options), expected)
        self.assertQuiet()

    def test_timeout(self) -> None:
        """It fails when the handshake takes too long."""
        self.network.listen(self.serverFactory)
        connecting = self.connect(handshakeTimeout=3)
        self.clock.advance(2.9)
        self.assertNoResult(connecting)
        self.clock.advance(0.1)
        self.failureResultOf(connecting, HandshakeTimeout)
        self.assertQuiet()

    def test_noProtocol(self) -> None:
        """
        It fails with C{NoProtocol}, as Twisted's endpoints do, if the factory builds
        none.
        """
        self.listen()
        self.clientFactory.built = None
        self.failureResultOf(self.connect(), error.NoProtocol)
        self.assertQuiet()

    def test_factoryFails(self) -> None:
        """It fails with the factory's error."""
        self.listen()

        def crash(address: object) -> None:
            """Fail."""
            raise ZeroDivisionError

        self.patch(self.clientFactory, "buildProtocol", crash)
        self.failureResultOf(self.connect(), ZeroDivisionError)
        self.assertQuiet()

    def test_madeFails(self) -> None:
        """It fails if the protocol does when it is connected."""

        def crash(inner: Recorder) -> None:
            """Fail."""
            raise ZeroDivisionError

        self.clientInner.actions["made"] = crash
        self.listen()
        self.failureResultOf(self.connect(), HandshakeError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertQuiet()

    def test_serverBuildsNone(self) -> None:
        """A server whose factory builds none aborts; the client was in already."""
        self.listen()
        self.serverFactory.built = None
        self.successResultOf(self.connect())
        self.assertEqual(len(self.clientInner.reasons), 1)
        self.assertNotIsInstance(self.clientInner.reasons[0], error.ConnectionDone)
        self.assertQuiet()

    def test_location(self) -> None:
        """The known servers call a server what was dialled, else its address."""
        self.listen()
        trust = Trust(lambda: True)
        self.successResultOf(self.connect(trust=trust))
        self.assertEqual(trust.asked, ["127.0.0.1:8765"])

    def test_locationOfString(self) -> None:
        """An endpoint's string says what was dialled."""
        from twisted.internet.testing import MemoryReactorClock

        memory: Any = MemoryReactorClock()
        memory.nameResolver = Names("127.0.0.1")
        trust = Trust(lambda: True)
        wrapped = self.wrap(
            r"tcp:host=Example.org:port=8443", trust=trust, reactor=memory
        )
        wrapped.connect(self.clientFactory)
        self.listen()
        factory = memory.tcpClients[0][2]
        self.network._clock = self.clock
        self.network.connect(factory)
        memory.advance(0)
        self.clock.advance(0)
        self.assertEqual(trust.asked, ["example.org:8443"])


class PlacesTests(SynchronousTestCase):
    """The bounds of a server are those of one for messages."""

    def listen(self, **options: Any) -> None:
        """
        Let a server listen in memory.

        @param options: of L{wrapServerEndpoint}.
        """
        self.network = MemoryNetwork()
        self.said: list[str] = []
        ours: dict[str, Any] = {"key": SERVER, "suites": [XX], **options}
        endpoint = wrapServerEndpoint(
            self.network.endpoint(), reactor=self.network.clock, **ours
        )
        port = self.successResultOf(endpoint.listen(Factory.forProtocol(Recorder)))
        self.factory = cast(ServerFactory, self.network.factory)
        self.addCleanup(self.takeDown, port)

    def takeDown(self, port: Any) -> None:
        """
        Cut all connections, and check that none is counted any more.

        @param port: where the server listens.
        """
        port.stopListening()
        for link in self.network.links:
            link.cut()
        self.network.deliver()
        places = self.factory._places
        self.assertEqual((len(places._hosts), len(places._pending)), (0, 0))
        self.network.advance(LAST_WAIT)  # refusals since then are told
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def join(self, host: str, key: PrivateKey | None = None) -> Recorder:
        """
        Connect a client: whether it gets in, C{reasons} says.

        @param host: where it comes from.
        @param key: its own; None for a new one.
        """
        endpoint = wrapClientEndpoint(
            self.network.endpoint(host),
            key=key or PrivateKey.generate(),
            trust=Pinned(SERVER.publicKey),
            suites=[XX],
            reactor=self.network.clock,
        )
        client = Recorder()
        connecting = endpoint.connect(Once(client))
        with capturedLogs() as events:
            self.network.deliver()
        self.said += map(str, map(formatEvent, events))
        connecting.addErrback(client.reasons.append)
        return client

    def silent(self, host: str) -> Recorder:
        """
        Connect, and say nothing.

        @param host: where from.
        """
        client = Recorder()
        self.successResultOf(self.network.endpoint(host).connect(Once(client)))
        self.network.deliver()
        return client

    def test_all(self) -> None:
        """So many in all; when one has gone there is room again."""
        self.listen(maxConnections=2)
        first, second = self.join("192.0.2.1"), self.join("192.0.2.2")
        third = self.join("192.0.2.3")
        self.assertEqual([len(c.reasons) for c in (first, second, third)], [0, 0, 1])
        first.transport.loseConnection()
        self.network.deliver()
        self.assertEqual(self.join("192.0.2.3").reasons, [])

    def test_host(self) -> None:
        """So many of one host; the log says why one more is refused."""
        self.listen(maxConnectionsPerHost=1)
        came = [self.join(f"192.0.2.{n}") for n in (1, 1, 2)]
        self.assertEqual([len(c.reasons) for c in came], [0, 1, 0])

    def test_atOnce(self) -> None:
        """
        Of two who prove themselves at the same moment, for the last place, one sees
        the stream end, and the log says who it was and why.
        """
        self.listen(maxConnections=1)
        clients = [Recorder(), Recorder()]
        for number, client in enumerate(clients):
            endpoint = wrapClientEndpoint(
                self.network.endpoint(f"192.0.2.{number}"),
                key=CLIENT,
                trust=Pinned(SERVER.publicKey),
                suites=[XX],
                reactor=self.network.clock,
            )
            endpoint.connect(Once(client))
        with capturedLogs() as events:
            self.network.deliver()
        self.assertEqual([len(client.reasons) for client in clients], [0, 1])
        self.assertIsInstance(clients[1].reasons[0], error.ConnectionDone)
        (line,) = [formatEvent(e) for e in events if e["log_level"] is LogLevel.warn]
        self.assertIn(f"{CLIENT.publicKey}", line)
        self.assertIn("maxConnections", line)

    def test_key(self) -> None:
        """So many of one key, wherever it comes from."""
        self.listen(maxConnections=36)
        came = [self.join(f"192.0.2.{n}", CLIENT) for n in range(10)]
        self.assertEqual([len(c.reasons) for c in came], [0] * 9 + [1])
        self.assertIn("of this key", self.said[-1])
        self.assertEqual(self.join("192.0.2.9").reasons, [])

    def test_madeRoom(self) -> None:
        """Where all places are taken, the key that has most makes room."""
        self.listen(maxConnections=3)
        came = [self.join("192.0.2.1", CLIENT) for _ in range(2)]
        came += [self.join(f"192.0.2.{n}") for n in (2, 3, 4)]
        self.assertEqual([len(c.reasons) for c in came], [1, 0, 0, 0, 1])

    def test_handshakes(self) -> None:
        """So many handshakes of one host a second, and what it saved up."""
        self.listen(handshakesPerHost=0.2)
        came = [self.join("192.0.2.1") for _ in range(3)]
        self.assertEqual([len(c.reasons) for c in came], [0, 0, 1])
        self.assertIn("handshakesPerHost", self.said[-1])
        self.assertEqual(self.join("192.0.2.2").reasons, [])
        self.network.advance(5)
        self.assertEqual(self.join("192.0.2.1").reasons, [])

    def test_pending(self) -> None:
        """
        The oldest of a host's that have not finished their handshake makes room for
        more of them; others, and those who are in, do not notice.
        """
        self.patch(places, "MIN_PENDING", 1)
        self.patch(places, "MAX_PENDING", 12)
        self.listen()
        inside = self.join("192.0.2.1")
        distant = self.silent("192.0.2.2")
        silent = [self.silent("192.0.2.1") for _ in range(5)]
        self.assertEqual([len(c.reasons) for c in silent], [1, 1, 0, 0, 0])
        self.assertEqual((inside.reasons, distant.reasons), ([], []))

    def test_files(self) -> None:
        """More places than files is a warning."""
        self.patch(places, "placesPossible", lambda: 4)
        with capturedLogs() as events:
            self.listen(maxConnections=5)
        self.assertEqual([e["possible"] for e in events if "possible" in e], [4])

    def test_options(self) -> None:
        """What cannot be is refused at once."""
        endpoint = MemoryNetwork().endpoint()
        for option in ("maxConnections", "maxConnectionsPerHost", "handshakesPerHost"):
            options: dict[str, Any] = {option: 0}
            with self.assertRaisesRegex(ValueError, f"{option} must be above 0"):
                wrapServerEndpoint(endpoint, key=SERVER, reactor=Clock(), **options)


class CancelTests(EndpointTestCase):
    """C{connect} can be cancelled at any time, which closes everything."""

    def test_connecting(self) -> None:
        """While the endpoint connects; what it connects all the same is dropped."""
        pending: Deferred[IProtocol] = Deferred()
        given: list[IProtocolFactory] = []

        def connect(factory: IProtocolFactory) -> Deferred[IProtocol]:
            """Connect later."""
            given.append(factory)
            return pending

        connecting = self.connect(Scripted(connect))
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertIsNone(given[0].buildProtocol(memoryPair(self.clock)[0].getPeer()))

    def test_endpointsError(self) -> None:
        """It fails as the endpoint says, as Twisted's do."""

        def canceller(deferred: Deferred[IProtocol]) -> None:
            """Fail as Twisted's do."""
            deferred.errback(error.ConnectingCancelledError(None))

        connecting = self.connect(Scripted(lambda factory: Deferred(canceller)))
        connecting.cancel()
        self.failureResultOf(connecting, error.ConnectingCancelledError)

    def test_handshake(self) -> None:
        """During the handshake."""
        self.network.listen(self.serverFactory)
        connecting = self.connect()
        connecting.cancel()
        self.failureResultOf(connecting, error.ConnectingCancelledError)
        self.assertQuiet()
        self.assertEqual(len(self.serverInner.reasons), 1)

    def test_decision(self) -> None:
        """While the trust policy decides, which is cancelled too."""
        cancelled: list[object] = []
        self.listen()
        decision: Deferred[bool] = Deferred(cancelled.append)
        connecting = self.connect(trust=Trust(lambda: decision))
        self.assertNoResult(connecting)
        connecting.cancel()
        self.failureResultOf(connecting, error.ConnectingCancelledError)
        self.assertQuiet()
        self.assertEqual(cancelled, [decision])
        self.assertEqual(self.clientFactory.addresses, [])

    def test_connected(self) -> None:
        """Afterwards it changes nothing."""
        self.listen()
        connecting = self.connect()
        connecting.cancel()
        self.successResultOf(connecting)
        self.clock.advance(0)
        self.assertEqual(self.clientInner.reasons, [])


class ServerTests(EndpointTestCase):
    """Who is let in, and what the operator reads."""

    def warnings(self, act: Callable[[], object]) -> list[str]:
        """
        Do something and collect the warnings.

        @param act: what to do.
        """
        with capturedLogs() as events:
            act()
        self.assertEqual([e for e in events if e["log_level"] > LogLevel.warn], [])
        return [formatEvent(e) for e in events if e["log_level"] is LogLevel.warn]

    def test_authorized(self) -> None:
        """A key that the policy knows is let in."""
        self.listen(authorizedKeys=lambda publicKey, address: "ann")
        self.assertEqual(self.warnings(self.connect), [])
        self.assertTrue(self.serverInner.made.called)

    def test_refused(self) -> None:
        """
        Another is not: its stream ends in order, and one line of the log says who
        it was and why.
        """
        self.listen(authorizedKeys=lambda publicKey, address: None)
        (line,) = self.warnings(self.connect)
        self.assertIn("127.0.0.1:40000", line)
        self.assertIn(str(CLIENT.publicKey), line)
        self.assertIn("not authorized", line)
        self.assertFalse(self.serverInner.made.called)
        self.assertIsInstance(self.clientInner.reasons[0], error.ConnectionDone)
        self.assertEqual(bytes(self.clientInner.received), b"")
        self.assertQuiet()

    def test_refusedOften(self) -> None:
        """A host that does not stop has few lines, which say how many there were."""
        self.listen(authorizedKeys=lambda publicKey, address: None)
        self.serverFactory.built = None

        def act() -> None:
            for _ in range(100):
                self.wrap().connect(Once(Recorder()))
                self.clock.advance(0)
            self.clock.advance(1)
            for _ in range(5):
                self.wrap().connect(Once(Recorder()))
                self.clock.advance(0)
            self.port.stopListening()

        first, *others = self.warnings(act)
        self.assertIn("not authorized", first)
        self.assertEqual(
            others,
            [
                "refused '127.0.0.1': 99 more in 1 second (99 not-authorized)",
                "refused '127.0.0.1': 5 more in 1 second (5 not-authorized)",
            ],
        )
        self.assertQuiet()

    def test_foreign(self) -> None:
        """What a stranger sends is shown escaped."""
        self.listen()
        self.network.connect(self.clientFactory)
        self.clientInner.transport.write(b"\x00\x0fAESM/1 \n\x1b[2J'ed")
        (line,) = self.warnings(lambda: self.clock.advance(0))
        self.assertIn("key None", line)
        self.assertNotIn("\n", line)
        self.assertNotIn("\x1b", line)
        self.clientInner.transport.loseConnection()
        self.assertQuiet()

    def test_factory(self) -> None:
        """The factory inside starts and stops with the port, once."""
        self.listen()
        self.assertEqual(self.serverFactory.log, ["start"])
        self.port.stopListening()
        self.assertEqual(self.serverFactory.log, ["start", "stop"])
        self.assertEqual(self.serverFactory.numPorts, 0)

    def test_logPrefix(self) -> None:
        """The log names the factory inside."""

        class Bare:
            """A factory without a name."""

            def doStart(self) -> None:
                """Start."""

        for inner, expected in ((self.serverFactory, "Once"), (Bare(), "Bare")):
            endpoint = wrapServerEndpoint(self.network, key=SERVER, reactor=self.clock)
            endpoint.listen(cast(Any, inner))
            factory = cast(Any, self.network)._factory
            self.assertEqual(factory.logPrefix(), f"{expected} (AESM)")

    def test_keyTakenOut(self) -> None:
        """A key that is taken out of the file is disconnected; others stay."""
        path = Path(self.mktemp())
        path.write_text(f"{CLIENT.publicKey} ann\n{SERVER.publicKey} bob\n")
        self.listen(authorizedKeys=str(path))
        self.successResultOf(self.connect())
        self.clock.advance(RELOAD_INTERVAL)
        self.assertEqual(self.serverInner.reasons, [])
        path.write_text(f"{SERVER.publicKey} bob\n")
        self.clock.advance(RELOAD_INTERVAL)
        self.clock.advance(RELOAD_INTERVAL)
        self.assertIsInstance(self.serverInner.reasons[0], NotAuthorized)
        self.assertEqual(len(self.clientInner.reasons), 1)
        self.port.stopListening()
        self.assertQuiet()

    def test_announce(self) -> None:
        """
        The log has the public key, and a warning if anybody on the network is let
        in.
        """
        key = SERVER.publicKey
        for host in ("127.0.0.1", "::1"):
            here = IPv4Address("TCP", host, 1)
            with capturedLogs() as events:
                announce(here, key, True)
            self.assertEqual([e["log_level"] for e in events], [LogLevel.info])
            self.assertIn(str(key), formatEvent(events[0]))
        everywhere = IPv4Address("TCP", "0.0.0.0", 1)
        self.assertEqual(self.warnings(lambda: announce(everywhere, key, False)), [])
        socket = UNIXAddress("/run/s")
        self.assertEqual(self.warnings(lambda: announce(socket, key, True)), [])
        (line,) = self.warnings(lambda: announce(everywhere, key, True))
        self.assertIn("ANYONE who reaches 0.0.0.0:1", line)

    def test_listenFails(self) -> None:
        """What the endpoint fails with comes through."""

        @implementer(IStreamServerEndpoint)
        class Failing:
            """Cannot listen."""

            def listen(self, protocolFactory: IProtocolFactory) -> Any:
                """Fail."""
                return fail(error.CannotListenError("", 1, OSError()))

        endpoint = wrapServerEndpoint(Failing(), key=SERVER, reactor=self.clock)
        self.failureResultOf(
            endpoint.listen(self.serverFactory), error.CannotListenError
        )


class OptionTests(EndpointTestCase):
    """Wrong options are an error where they are given."""

    def test_wrong(self) -> None:
        """Both sides check what they get."""
        for options, expected in (
            ({"handshakeTimeout": 0}, ValueError),
            ({"suites": ["Noise_NN"]}, ValueError),
            ({"name": b"bytes"}, TypeError),
            ({"key": "text"}, TypeError),
            ({"pks": b"k" * 32}, TypeError),
            ({"psk": "/does/not/exist"}, KeyFileError),
        ):
            with self.assertRaises(expected):
                self.listen(**options)
            with self.assertRaises(expected):
                self.wrap(**options)
        with self.assertRaises(TypeError):
            self.listen(authorizedKeys=5)
        with self.assertRaises(TypeError):
            self.wrap(trust=5)

    def test_notAnEndpoint(self) -> None:
        """What is not an endpoint is not wrapped."""
        with self.assertRaises(TypeError):
            wrapServerEndpoint(cast(Any, "tcp:1"), key=SERVER)
        with self.assertRaises(TypeError):
            wrapClientEndpoint(cast(Any, 5), key=CLIENT)

    def test_defaults(self) -> None:
        """Without a key the state directory's is used; known servers are remembered."""
        home = self.mktemp()
        self.patch(os, "environ", {**os.environ, "AESM_HOME": home})
        self.listen(key=None)
        self.successResultOf(self.connect(key=None, trust=None))
        key = PrivateKey.load(Path(home, "server.key")).publicKey
        self.assertEqual(KnownServers().entries(), [("127.0.0.1:8765", key)])


class Echo(LineReceiver):
    """Says each line again, and ends at the last."""

    def lineReceived(self, line: bytes) -> None:
        """
        Answer.

        @param line: one line.
        """
        self.sendLine(line)
        if line == b"bye":
            cast(Any, self.transport).loseConnection()


class Lines(LineReceiver):
    """Says lines and keeps the answers."""

    def __init__(self) -> None:
        """Begin with none."""
        self.lines: list[bytes] = []
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Say all."""
        for number in range(1000):
            self.sendLine(b"%d" % number)
        self.sendLine(b"bye")

    def lineReceived(self, line: bytes) -> None:
        """
        Keep an answer.

        @param line: one line.
        """
        self.lines.append(line)

    def connectionLost(self, reason: Any = None) -> None:
        """
        All is said.

        @param reason: why.
        """
        self.done.callback(None)


class Sum(Command):
    """Adds two numbers."""

    arguments = [(b"a", Integer()), (b"b", Integer())]
    response = [(b"total", Integer())]


class Adder(AMP):
    """Adds."""

    @Sum.responder
    def add(self, a: int, b: int) -> dict[str, int]:
        """
        Add.

        @param a: one number.
        @param b: the other.
        """
        return {"total": a + b}


class Where(Resource):
    """Says what a request sees of its transport."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        """
        Answer.

        @param request: the request.
        """
        key = request.channel.transport.getPeer().publicKey
        return b"%s %s" % (request.prePathURL(), str(key).encode())


class ExistingProtocolTests(TestCase):
    """Twisted's own protocols run over real sockets as they are."""

    timeout = 600

    async def listen(self, factory: Any) -> None:
        """
        Serve.

        @param factory: what to serve.
        """
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        server = wrapServerEndpoint(endpoint, key=SERVER)
        self.port = await server.listen(factory)
        self.addCleanup(self.port.stopListening)

    def client(self) -> IStreamClientEndpoint:
        """@return: how to connect to what is served."""
        number = cast(Any, self.port.getHost()).port
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", number)
        return wrapClientEndpoint(endpoint, key=CLIENT, trust=Pinned(SERVER.publicKey))

    async def test_lines(self) -> None:
        """LineReceiver."""
        await self.listen(Factory.forProtocol(Echo))
        lines = cast(Lines, await self.client().connect(Factory.forProtocol(Lines)))
        await lines.done
        self.assertEqual(lines.lines, [b"%d" % n for n in range(1000)] + [b"bye"])

    async def test_amp(self) -> None:
        """AMP."""
        await self.listen(Factory.forProtocol(Adder))
        amp = cast(AMP, await self.client().connect(Factory.forProtocol(AMP)))
        answers = await gatherResults(
            [amp.callRemote(Sum, a=number, b=1) for number in range(50)]
        )
        self.assertEqual([answer["total"] for answer in answers], list(range(1, 51)))
        closed: Deferred[object] = Deferred()
        self.patch(amp, "connectionLost", lambda reason: closed.callback(None))
        cast(Any, amp.transport).loseConnection()
        await closed

    async def test_web(self) -> None:
        """
        twisted.web: a few MB from a file, with a connection that persists and one
        that closes, and what a resource sees of its transport.
        """
        directory = Path(self.mktemp())
        directory.mkdir()
        content = bytes(range(256)) * (BIG // 256)
        (directory / "big").write_bytes(content)
        root = File(str(directory))
        root.putChild(b"where", Where())
        await self.listen(Site(root))
        wrapped = self.client()

        @implementer(IAgentEndpointFactory)
        class Endpoints:
            """Connects to our server whatever is asked for."""

            def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
                """
                Say where to connect.

                @param uri: does not matter.
                """
                return wrapped

        for persistent in (True, False):
            pool = HTTPConnectionPool(reactor, persistent)
            agent = Agent.usingEndpointFactory(reactor, Endpoints(), pool)
            for _ in range(2):
                response = await agent.request(b"GET", b"http://aesm.test/big")
                body = await readBody(response)
                self.assertEqual(len(body), len(content))
                self.assertEqual(body, content)
            response = await agent.request(b"GET", b"http://aesm.test/where")
            url, key = (await readBody(response)).split()
            self.assertEqual(key.decode(), str(CLIENT.publicKey))
            self.assertTrue(url.endswith(b"/where"))
            await pool.closeCachedConnections()
