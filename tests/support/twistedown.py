"""
Twisted's own tests of its transports, pointed at ours: what they need of us, and
which of them.  L{tests.secure.test_twisted_own} runs them, if it can.

They come with Twisted, so that the installed version says what is right.  Those
that are left out, and what shows the same here (C{contract} is
L{tests.support.transportcontract}, which TCP and TLS pass as well as we do):

=========================================  ===========================================
left out                                   why
=========================================  ===========================================
C{test_logPrefix}                          TCP asks a protocol once for the name that
                                           its log lines have, when it is connected;
                                           the one inside is not built then
C{test_unregisterProducerAfterDisconnect}  a client that closes goes on as long as its
                                           producer does, also when its server closes,
                                           which waits five seconds then and is told
                                           C{Truncated}; TCP cannot tell a peer that
                                           closes from one that only reads
C{StreamClientTestsMixin.test_interface}   C{IConnector} is what C{connectTCP} gives;
                                           we are endpoints, which have none
C{test_fullWriteBuffer}                    its client writes and aborts before there is
                                           a server inside (here:
                                           C{test_fullBuffer}, after a byte each way)
C{WriteSequenceTestsMixin}, the rest       they look into TCP's buffers in the turn in
                                           which they write; what we write then waits
                                           to share a record (contract:
                                           C{test_pushProducer, test_pullProducer}).
                                           The text of a C{TypeError} is compared
C{test_resumeProducing*} of TCP            they look for the transport among what the
                                           reactor reads from; ours is no file
                                           descriptor (contract: C{test_pause*})
C{TCPTransportServerAddressTestMixin}      the C{repr} and C{logstr} of TCP's class
TCP's ports, connectors, bound addresses   they test C{listenTCP} and C{connectTCP},
                                           which we do not touch
C{TLSProducerTests}, the rest              writes before the handshake is done, which
                                           cannot be here; parts of OpenSSL and of
                                           C{twisted.protocols.tls}; that the raw
                                           transport is left without a producer, which
                                           we are as long as it lives; that a producer
                                           is stopped before C{connectionLost}
C{NonStreamingProducerTests}               a class of C{twisted.protocols.tls}
                                           (contract: C{test_pullProducer,
                                           test_closeInProducer})
C{TLSMemoryBIOTests}, what else is on SSL  certificates, contexts, OpenSSL
C{EndpointTestCaseMixin}                   expects a protocol as soon as there is TCP;
                                           ours is built after the handshake
                                           (L{tests.secure.test_endpoints})
=========================================  ===========================================
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.test import connectionmixins, test_tcp
from twisted.internet.test.reactormixins import ReactorBuilder
from twisted.internet.testing import StringTransport
from twisted.protocols.test import test_tls
from twisted.test.test_tcp import MyClientFactory, MyServerFactory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from aesm.errors import Truncated
from aesm.secure import wrapClientEndpoint, wrapServerEndpoint
from aesm.secure.protocol import SecureProtocol
from aesm.secure.transport import SecureTransport
from aesm.secure.wrapping import ServerFactory
from aesm.trust.servers import Pinned
from tests.support import helpers
from tests.support.pairs import CLIENT_KEY, SERVER_KEY


def server(endpoint: Any, clock: Any) -> IStreamServerEndpoint:
    """
    Make an endpoint to listen on.

    @param endpoint: the one underneath.
    @param clock: keeps time.
    """
    return wrapServerEndpoint(
        endpoint, key=SERVER_KEY, suites=[helpers.XX], reactor=clock
    )


def client(endpoint: Any, clock: Any) -> IStreamClientEndpoint:
    """
    Make an endpoint to connect to.

    @param endpoint: the one underneath.
    @param clock: keeps time.
    """
    return wrapClientEndpoint(
        endpoint,
        key=CLIENT_KEY,
        suites=[helpers.XX],
        trust=Pinned(SERVER_KEY.publicKey),
        reactor=clock,
    )


class Creator(connectionmixins.EndpointCreator):
    """Makes the endpoints of these tests."""

    def server(self, reactor: Any) -> IStreamServerEndpoint:
        """
        Make an endpoint to listen on.

        @param reactor: the reactor.
        """
        tcp = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        return server(tcp, reactor)

    def client(self, reactor: Any, serverAddress: Any) -> IStreamClientEndpoint:
        """
        Make an endpoint to connect to.

        @param reactor: the reactor.
        @param serverAddress: where to.
        """
        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", serverAddress.port)
        return client(tcp, reactor)


class SecureBuilder(ReactorBuilder):
    """
    Tests that make a reactor each; of two kinds, since it is not reactors that are
    on trial.
    """

    addCleanup: Any  # these are a test case's, which this becomes
    patch: Any
    successResultOf: Any

    _reactors = [
        "twisted.internet.selectreactor.SelectReactor",
        "twisted.internet.test.reactormixins.AsyncioSelectorReactor",
    ]
    endpoints = Creator()


class SecureConnectionTests(SecureBuilder):
    """What holds for most transports."""

    mixin = connectionmixins.ConnectionTestsMixin
    test_writeAfterDisconnect = mixin.test_writeAfterDisconnect
    test_garbage = mixin.test_protocolGarbageAfterLostConnection


class SecureAbortTests(SecureBuilder):
    """C{abortConnection}."""

    mixin = test_tcp.AbortConnectionMixin
    runAbortTest = mixin.runAbortTest
    test_inReceived = mixin.test_dataReceivedAbort
    test_twice = mixin.test_clientAbortsConnectionTwice
    test_thenLoses = mixin.test_clientAbortsConnectionThenLosesConnection
    test_serverTwice = mixin.test_serverAbortsConnectionTwice
    test_serverThenLoses = mixin.test_serverAbortsConnectionThenLosesConnection
    test_inResume = mixin.test_resumeProducingAbort
    test_inResumeLater = mixin.test_resumeProducingAbortLater
    test_fullBuffer = mixin.test_fullWriteBufferAfterByteExchange
    test_thenRaises = mixin.test_dataReceivedThrows
    test_thenRaisesInResume = mixin.test_resumeProducingThrows

    def setUp(self) -> None:
        """
        Have a name for C{pauseProducing} that TCP's transport has beside that, and
        ours for an end that nobody has authenticated.
        """
        super().setUp()
        self.patch(test_tcp, "ConnectionLost", (ConnectionLost, Truncated))
        for name, method in (
            ("stopReading", SecureTransport.pauseProducing),
            ("startReading", SecureTransport.resumeProducing),
        ):
            setattr(SecureTransport, name, method)
            self.addCleanup(delattr, SecureTransport, name)


class SecureStreamClientTests(SecureBuilder):
    """Clients that connect and are disconnected."""

    mixin = connectionmixins.StreamClientTestsMixin
    test_clientConnectionFailed = mixin.test_clientConnectionFailedStopsReactor
    test_connectEvent = mixin.test_connectEvent
    test_disconnectWhileProducing = mixin.test_disconnectWhileProducing
    address = IPv4Address("TCP", "127.0.0.1", 1)  # where nobody listens

    def listen(self, reactor: Any, factory: Factory) -> None:
        """
        Listen.

        @param reactor: the reactor.
        @param factory: builds the protocols.
        """
        listening = self.endpoints.server(reactor).listen(factory)
        port: Any = self.successResultOf(listening)
        self.address = port.getHost()

    def connect(self, reactor: Any, factory: Any) -> None:
        """
        Connect.

        @param reactor: the reactor.
        @param factory: builds the protocol, and is told if that cannot be.
        """
        connecting = self.endpoints.client(reactor, self.address).connect(factory)
        connecting.addErrback(lambda why: factory.clientConnectionFailed(None, why))


class SecureTransportTests(SecureBuilder):
    """What is tested of TCP's transports and holds for ours."""

    tcp = test_tcp.TCPConnectionTestsBuilder
    test_stopStartReading = tcp.test_stopStartReading
    test_lostAfterPaused = tcp.test_connectionLostAfterPausedTransport
    test_doubleHalfClose = tcp.test_doubleHalfClose
    test_writeSequence = test_tcp.WriteSequenceTestsMixin.test_writeSequeceWithoutWrite

    def setUp(self) -> None:
        """Have these tests take our endpoints for TCP's."""
        super().setUp()
        self.patch(test_tcp, "TCPCreator", Creator)
        self.patch(
            test_tcp,
            "TCP4ClientEndpoint",
            lambda reactor, *where: client(
                TCP4ClientEndpoint(reactor, *where), reactor
            ),
        )

    def buildReactor(self) -> Any:
        """Build a reactor that listens with secure channels."""
        reactor: Any = super().buildReactor()
        listenTCP = reactor.listenTCP

        def listen(port: int, factory: Any, *args: Any, **kwargs: Any) -> Any:
            """
            Listen.

            @param port: which.
            @param factory: builds the protocols.
            @param args: more of C{listenTCP}.
            @param kwargs: more.
            """
            if not isinstance(factory, ServerFactory):
                listening = self.endpoints.server(reactor).listen(factory)
                return self.successResultOf(listening)
            return listenTCP(port, factory, *args, **kwargs)

        reactor.listenTCP = listen
        return reactor

    def getConnectedClientAndServer(
        self, reactor: Any, interface: str, addressFamily: Any
    ) -> Deferred[Any]:
        """
        Connect.

        @param reactor: stops when the connection is over.
        @param interface: not used.
        @param addressFamily: not used.
        @return: fires with both protocols and the port.
        """
        factories: list[Any] = [MyServerFactory(), MyClientFactory()]
        for factory in factories:
            factory.protocolConnectionMade = Deferred()
            factory.protocolConnectionLost = Deferred()
        made = gatherResults([each.protocolConnectionMade for each in factories])
        lost = gatherResults([each.protocolConnectionLost for each in factories])
        lost.addBoth(lambda result: reactor.stop())
        listening = self.endpoints.server(reactor).listen(factories[0])
        port: Any = self.successResultOf(listening)
        self.endpoints.client(reactor, port.getHost()).connect(factories[1])
        return made.addCallback(lambda protocols: (protocols[1], protocols[0], port))


class Below:
    """
    A secure protocol as the tests of TLS look at one.

    @ivar transport: the raw transport.
    """

    def __init__(self, secure: SecureProtocol) -> None:
        """@param secure: the protocol."""
        self.transport: Any = secure.transport
        self.dataReceived = secure.dataReceived
        self._secure = secure

    @property
    def factory(self) -> Below:
        """What has the clock."""
        return self

    @property
    def _clock(self) -> Any:
        """What keeps time."""
        return self._secure.clock

    @property
    def _producer(self) -> SecureTransport | None:
        """What knows whether the producer inside is paused, if there is one."""
        inside = self._secure.secureTransport
        return None if inside._producer is None else inside


@implementer(IStreamClientEndpoint, IStreamServerEndpoint)
class StringEndpoint:
    """
    Connects to a transport that keeps what is written, or listens on one.

    @ivar secure: what runs on it.
    """

    secure: SecureProtocol

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect.

        @param protocolFactory: builds the protocol.
        """
        where = IPv4Address("TCP", "127.0.0.1", 8765)
        built = protocolFactory.buildProtocol(where)
        assert isinstance(built, SecureProtocol)
        self.secure = built
        built.makeConnection(StringTransport())
        return succeed(built)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """
        Listen, and have a client come.

        @param protocolFactory: builds the protocol.
        @return: fires with what says where it is.
        """
        self.connect(protocolFactory)
        return succeed(self.secure.transport)


class SecureProducerTests(TestCase):
    """What is tested of producers on TLS and holds for ours."""

    tls: Any = test_tls.TLSProducerTests
    drain = tls.drain
    flushTwoTLSProtocols = tls.flushTwoTLSProtocols
    loseConnectionWithProducer = tls.loseConnectionWithProducer
    setupStreamingProducer = tls.setupStreamingProducer
    test_paused = tls.test_streamingProducerPausedInNormalMode
    test_resumed = tls.test_streamingProducerResumedInNormalMode
    test_twice = tls.test_streamingProducerTwice
    test_lose = tls.test_streamingProducerLoseConnectionWithProducer

    def setUp(self) -> None:
        """Make both sides, and have these tests take them for TLS's."""
        sides: list[tuple[Any, Below]] = []
        for isServer in False, True:
            inner, endpoint = test_tls.AccumulatingProtocol(1 << 30), StringEndpoint()
            factory = Factory.forProtocol(partial(_same, inner))
            if isServer:
                server(endpoint, Clock()).listen(factory)
            else:
                client(endpoint, Clock()).connect(factory)
            sides.append((inner, Below(endpoint.secure)))
        (_, ours), (_, theirs) = sides
        self.flushTwoTLSProtocols(ours, theirs)
        self.patch(
            test_tls, "buildTLSProtocol", lambda server=False, **more: sides[server]
        )


def _same(inner: Any) -> Any:
    """
    Build what is built already.

    @param inner: the protocol.
    """
    return inner


for _case in (
    SecureConnectionTests,
    SecureAbortTests,
    SecureStreamClientTests,
    SecureTransportTests,
):
    globals().update(_case.makeTestCaseClasses())
