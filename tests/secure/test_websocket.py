"""
Tests for L{aesm.secure.websocket}: bytes in WebSockets, and what else comes where they
are expected.
"""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import error, reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import (
    IConsumer,
    IListeningPort,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm.core.channel.roles import ServerChannel
from aesm.errors import AESMError, HandshakeTimeout, NotAnAESMPeer, NothingSaid
from aesm.secure.protocol import SecureProtocol
from tests.secure import test_rawtransport, test_transport
from tests.secure.test_protocol import Owner
from tests.support import transportcontract
from tests.support.helpers import SERVER_KEY, channelSettings
from tests.support.transportcontract import MemoryEndpoint, Pusher, Recorder

try:
    from wsproto.events import (
        AcceptConnection,
        BytesMessage,
        CloseConnection,
        Ping,
        Pong,
        RejectConnection,
        RejectData,
        Request,
        TextMessage,
    )
    from wsproto.extensions import PerMessageDeflate

    from aesm.secure.websocket import WebSocketProtocol, WebSocketServerEndpoint
    from tests.support.websockets import ClientEndpoint, Page
except ImportError:  # pragma: no cover: where only aesm's own needs are there
    skip = "no wsproto"


class InWebSockets(transportcontract.TransportContract):
    """Puts WebSockets on the endpoints of another contract."""

    halfCloses = False

    async def join(self, client: Recorder, server: Recorder) -> None:
        """
        Connect two protocols, and let the WebSocket be opened.

        @param client: one.
        @param server: the other.
        """
        await super().join(client, server)
        await transportcontract.turns()

    def makeServer(self) -> IStreamServerEndpoint:
        """@return: where to listen."""
        return WebSocketServerEndpoint(cast(Any, reactor), super().makeServer())

    def makeClient(self, port: IListeningPort) -> IStreamClientEndpoint:
        """
        @param port: what listens.
        @return: how to connect to it.
        """
        return ClientEndpoint(super().makeClient(port))


class WebSocketTests(InWebSockets, test_transport.MemoryTests):
    """The contract holds for WebSockets."""


class WebSocketTCPTests(InWebSockets, test_transport.TCPTests):
    """The contract holds for WebSockets over TCP."""


class SecureWebSocketTests(WebSocketTests):
    """The contract holds for secure channels in WebSockets."""

    halfCloses = True

    def makeServer(self) -> IStreamServerEndpoint:
        """@return: where to listen."""
        return test_transport.secureServer(super().makeServer())

    def makeClient(self, port: IListeningPort) -> IStreamClientEndpoint:
        """
        @param port: what listens.
        @return: how to connect to it.
        """
        return test_transport.secureClient(super().makeClient(port))


del InWebSockets  # trial would run it


# What requests are made of, right and wrong.
LINES = [
    b"GET / HTTP/1.1",
    b"Host: chat.example",
    b"Host: \xff",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Connection: \xe4",
    b"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Extensions: permessage-deflate",
    b"Origin: https://chat.example",
    b"Origin: https://[",
]
# Frames, and the beginning of one, right and wrong, none of them masked with anything.
FRAMES = [
    "8283 00000000 616263",
    "0281 00000000 61",
    "0081 00000000 62",
    "8081 00000000 63",
    "82fe 0080 00000000" + "64" * 128,
    "8980 00000000",
    "8a80 00000000",
    "8181 00000000 61",
    "8880 00000000",
    "8882 00000000 03e8",
    "820161",
    "82ff",
]
NOTHING_ELSE = b"here are WebSockets, and nothing else\n"


class PageTestCase(SynchronousTestCase):
    """A page, and a recorder inside the server's end."""

    def setUp(self) -> None:
        """Connect both."""
        self.clock = Clock()
        self.inner = Recorder()
        self.page = Page(WebSocketProtocol(self.clock, self.inner))
        self.transport = self.page.transport

    def assertHungUp(self, words: str) -> None:
        """Check that the server has hung up, and what the protocol inside is told."""
        self.assertTrue(self.transport.disconnecting)
        self.assertIsNone(self.transport.producer)
        self.page.server.dataReceived(b"\x82\x81\0\0\0\0late")
        self.transport.disconnecting = False
        self.page.server.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        (reason,) = self.inner.reasons
        self.assertIsInstance(reason, NotAnAESMPeer)
        self.assertIn(words, str(reason))


class OpeningTests(PageTestCase):
    """Requests, and what else comes first."""

    def test_interfaces(self) -> None:
        """Both halves are what they say."""
        verifyObject(IPushProducer, self.page.server)
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, self.inner.transport)
        endpoint = WebSocketServerEndpoint(self.clock, MemoryEndpoint(self.clock))
        verifyObject(IStreamServerEndpoint, endpoint)

    def test_early(self) -> None:
        """What is written before the WebSocket is open comes as the first message."""
        for piece in (b"wel", b"come"):
            self.inner.transport.write(piece)
        self.assertEqual(self.transport.value(), b"")
        self.page.ask()
        self.assertIsInstance(self.page.events[0], AcceptConnection)
        self.assertEqual(self.page.events[1:], [BytesMessage(b"welcome")])

    def test_anyChunks(self) -> None:
        """
        A request may come byte by byte, or with a message behind it that should have
        waited for the answer.
        """
        request = self.page.socket.send(Request("chat.example", "/?x"))
        message = bytes.fromhex("8283000000000102 03")
        for size in (1, 7, len(request) - 1, len(request), 1000):
            inner = Recorder()
            server = WebSocketProtocol(self.clock, inner)
            server.makeConnection(cast(ITransport, StringTransport()))
            everything = request + message
            for start in range(0, len(everything), size):
                server.dataReceived(everything[start : start + size])
            self.assertEqual(bytes(inner.received), b"\1\2\3")

    def test_extensions(self) -> None:
        """No extension is agreed to: not compression, which would be a way in."""
        self.page.say(Request("x", "/", extensions=[PerMessageDeflate()]))
        (accepted,) = self.page.events
        self.assertEqual(cast(AcceptConnection, accepted).extensions, [])

    def test_elsewhere(self) -> None:
        """There is nothing at other paths."""
        self.page.ask("/other")
        self.assertRejected(404, "here is no WebSocket")

    def test_origin(self) -> None:
        """
        Pages of the host that is asked may open a WebSocket, and what is no page; with
        origins, pages of just these.
        """
        listed = ["https://chat.example", "http://localhost:8000"]
        for origins, origin, host, isWelcome in (
            (None, None, "chat.example", True),
            (None, "https://chat.example", "chat.example", True),
            (None, "https://CHAT.example:8443", "chat.example:443", True),
            (None, "http://[::1]:8000", "[::1]:8766", True),
            (None, "https://evil.example", "chat.example", False),
            (None, "https://chat.example.evil.example", "chat.example", False),
            (None, "null", "chat.example", False),
            (None, "null", "", False),
            (None, "https://[", "chat.example", False),
            (None, "https://h\u00e4user.example", "chat.example", False),
            (listed, None, "chat.example", True),
            (listed, "https://chat.example", "other.example", True),
            (listed, "http://localhost:8000", "chat.example", True),
            (listed, "http://chat.example", "chat.example", False),
            (listed, "http://localhost:8001", "localhost", False),
            ([], "https://chat.example", "chat.example", False),
        ):
            self.inner = Recorder()
            self.page = Page(WebSocketProtocol(self.clock, self.inner, origins=origins))
            self.transport = self.page.transport
            headers = {} if origin is None else {"origin": origin}
            self.page.ask(host=host, **headers)
            if isWelcome:
                self.assertIsInstance(self.page.events[0], AcceptConnection)
            else:
                self.assertRejected(None, "")

    def test_several(self) -> None:
        """Of two origins both have to be welcome."""
        welcome, other = (b"origin", b"https://x"), (b"origin", b"https://evil.example")
        for headers in ([welcome, other], [other, welcome]):
            self.setUp()
            self.page.say(Request("x", "/", extra_headers=headers))
            self.assertRejected(403, "here come no pages of 'https://evil.example'")

    def test_noWebSocket(self) -> None:
        """What asks for a page, or does not speak HTTP, is told, and cut off."""
        upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\n"
        key = b"Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n"
        for request in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n" + upgrade + key + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Version: 8\r\n"
            + upgrade
            + key
            + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: \xff\r\nSec-WebSocket-Version: 13\r\n"
            + upgrade
            + key
            + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: \xff\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
            b"AESM/1 and more",
            b"\0\1",
        ):
            for chunks in ([request], [bytes([byte]) for byte in request]):
                self.setUp()
                for chunk in chunks:
                    self.page.server.dataReceived(chunk)
                answer = self.transport.value()
                self.assertTrue(answer.startswith(b"HTTP/1.1 426 "), answer)
                self.assertIn(b"\r\nUpgrade: websocket\r\n", answer)
                self.assertTrue(answer.endswith(b"\r\n\r\n" + NOTHING_ELSE))
                self.assertHungUp("(426)")

    def test_longRequest(self) -> None:
        """A request has at most 16 KiB, and no more of it is kept."""
        start = b"GET / HTTP/1.1\r\nHost: x\r\n"
        for length, isTold in ((16384, False), (16385, True)):
            self.setUp()
            self.page.server.dataReceived(start + b"A: ")
            self.page.server.dataReceived(b"x" * (length - len(start) - 3))
            self.assertEqual(bool(self.transport.value()), isTold)
        self.assertHungUp("(426)")

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from(LINES) | st.binary(max_size=40), max_size=12))
    def test_garbage(self, lines: list[bytes]) -> None:
        """
        Whatever comes, the WebSocket opens, or is refused, or there is more to come.

        @param lines: of the request.
        """
        self.setUp()
        self.page.server.dataReceived(b"\r\n".join([*lines, b"", b""]))
        answer = self.transport.value()
        if self.transport.disconnecting:
            self.assertRegex(answer, b"^HTTP/1.1 4(03|04|26) ")
        elif answer:
            self.assertTrue(answer.startswith(b"HTTP/1.1 101 "))

    def assertRejected(self, status: int | None, words: str) -> None:
        """Check that the server refuses."""
        rejected, body, *_ = self.page.events
        assert isinstance(rejected, RejectConnection)
        assert isinstance(body, RejectData)
        if status is not None:
            self.assertEqual(rejected.status_code, status)
        self.assertIn(words.encode(), body.data)
        self.assertHungUp(words)


class MessageTests(PageTestCase):
    """What comes once the WebSocket is open."""

    def setUp(self) -> None:
        """Open it."""
        super().setUp()
        self.page.ask()
        self.page.events.clear()

    def test_both(self) -> None:
        """Bytes go both ways in binary messages."""
        self.page.say(BytesMessage(b"up"))
        self.inner.transport.writeSequence([b"do", b"wn"])
        self.page.hear()
        self.assertEqual(bytes(self.inner.received), b"up")
        self.assertEqual(self.page.events, [BytesMessage(b"down")])

    def test_pieces(self) -> None:
        """
        A message, or a frame, may be as long as it likes: it is handed on as it comes,
        and nothing of it is kept.
        """
        piece = bytes(range(256)) * 256
        frame = self.page.socket.send(BytesMessage(piece * 100, message_finished=False))
        for start in range(0, len(frame), len(piece)):
            self.page.server.dataReceived(frame[start : start + len(piece)])
            self.assertLess(self.kept(), 14)
        self.page.say(BytesMessage(piece, message_finished=False))
        self.page.say(BytesMessage(b"end"))
        self.assertEqual(bytes(self.inner.received), piece * 101 + b"end")

    def test_empty(self) -> None:
        """What is in an empty message, nothing, is not handed on."""
        self.patch(self.inner, "dataReceived", self.fail)
        self.page.say(BytesMessage(b""))
        self.page.say(BytesMessage(b"", message_finished=False))

    def test_controls(self) -> None:
        """Of a ping, a pong or a Close all but the last byte is kept."""
        frame = self.page.socket.send(Ping(bytes(125)))
        for start in range(len(frame)):
            self.page.server.dataReceived(frame[start : start + 1])
            self.assertLess(self.kept(), 125)
        self.page.hear()
        self.assertEqual(self.page.events, [Pong(bytes(125))])

    def kept(self) -> int:
        """Count the bytes that are kept of what came."""
        return len(cast(Any, self.page.server.socket)._proto._frame_decoder.buffer)

    def test_announced(self) -> None:
        """A frame that is announced with all lengths there are costs nothing."""
        self.page.send(bytes.fromhex("82ff7fffffffffffffff00000000") + b"abc")
        self.assertEqual(bytes(self.inner.received), b"abc")
        self.assertFalse(self.transport.disconnecting)

    def test_readSize(self) -> None:
        """Of a socket so much is read at once that its frames take no more time."""
        transport = test_rawtransport.Socket()
        self.patch(transport, "getHost", lambda: UNIXAddress(None))
        server = WebSocketProtocol(self.clock, Recorder())
        server.makeConnection(cast(ITransport, transport))
        self.assertEqual(transport.bufferSize, 8192)

    def test_text(self) -> None:
        """A text message ends the connection (1003), after what came before it."""
        self.page.send(
            self.page.socket.send(BytesMessage(b"before"))
            + self.page.socket.send(TextMessage("text"))
            + self.page.socket.send(BytesMessage(b"behind"))
        )
        self.assertEqual(bytes(self.inner.received), b"before")
        self.assertEnded(1003)

    def test_broken(self) -> None:
        """What breaks the rules of frames ends the connection (1002)."""
        for frame in (
            "820161",  # not masked
            "c281 00000000 61",  # a bit that an extension would use
            "8381 00000000 61",  # of no known kind
            "09 80 00000000",  # a ping in pieces
            "89fe 007e 00000000",  # a ping of 126 bytes
            "80 81 00000000 61",  # the rest of nothing
            "82fe 0001 00000000 61",  # a length that is longer than it has to be
            "8881 00000000 61",  # a Close of one byte
            "8882 00000000 0001",  # a code that there is not
        ):
            self.setUp()
            self.page.send(bytes.fromhex("8281 00000000 62") + bytes.fromhex(frame))
            self.assertEqual(bytes(self.inner.received), b"b")
            self.assertEnded(1002)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.sampled_from([bytes.fromhex(frame) for frame in FRAMES])
            | st.binary(max_size=20),
            max_size=12,
        ),
        st.integers(1, 40),
    )
    def test_anyFrames(self, frames: list[bytes], size: int) -> None:
        """
        Whatever comes, in whatever pieces, what is in it is the same.

        @param frames: what comes.
        @param size: of the pieces.
        """
        everything = b"".join(frames)
        outcomes = []
        for step in (size, len(everything) + 1):
            self.setUp()
            for start in range(0, len(everything), step):
                self.page.server.dataReceived(everything[start : start + step])
            outcomes.append((bytes(self.inner.received), self.transport.disconnecting))
        self.assertEqual(outcomes[0], outcomes[1])

    def test_pings(self) -> None:
        """A ping is answered; of several that come together the last one is."""
        self.page.say(Ping(b"one"))
        self.page.send(
            self.page.socket.send(Ping(b"two")) + self.page.socket.send(Ping(b"three"))
        )
        self.page.say(Pong(b"unasked"))
        self.assertEqual(self.page.events, [Pong(b"one"), Pong(b"three")])

    def test_pingFlood(self) -> None:
        """Who does not read is owed one answer, however many pings there were."""
        self.page.server.pauseProducing()
        for number in range(1000):
            self.page.say(Ping(b"%d" % number))
        self.assertEqual(self.page.events, [])
        self.page.server.resumeProducing()
        self.page.hear()
        self.assertEqual(self.page.events, [Pong(b"999")])

    def test_closes(self) -> None:
        """The peer's Close is answered, and is the end in order."""
        self.page.say(CloseConnection(1001, "gone"))
        self.assertEqual(self.page.events, [CloseConnection(1001, "gone")])
        self.assertTrue(self.transport.disconnecting)
        self.page.server.connectionLost()
        self.assertIsInstance(self.inner.reasons[0], error.ConnectionDone)

    def test_notTaken(self) -> None:
        """Who closes, and takes nothing any more, is cut off after five seconds."""
        self.page.say(CloseConnection(1000))
        self.clock.advance(4.9)
        self.assertFalse(self.transport.disconnected)
        self.clock.advance(0.1)
        self.assertTrue(self.transport.disconnected)

    def test_closing(self) -> None:
        """
        Our Close comes after all that was written, and the connection is there until it
        is answered; what comes till then goes nowhere.
        """
        self.inner.transport.write(b"last")
        self.inner.transport.loseConnection()
        self.inner.transport.loseConnection()
        self.inner.transport.write(b"too late")
        late = self.page.socket.send(BytesMessage(b"late"))
        self.page.hear()
        self.assertEqual(
            self.page.events, [BytesMessage(b"last"), CloseConnection(1000, "")]
        )
        self.page.send(late)
        self.assertFalse(self.transport.disconnecting)
        self.page.say(cast(CloseConnection, self.page.events[1]).response())
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(bytes(self.inner.received), b"")

    def test_backPressure(self) -> None:
        """Who writes is paused by the raw transport, which who reads can pause."""
        pusher = Pusher(self.inner.transport, 0, b"")
        self.inner.transport.registerProducer(pusher, True)
        self.page.server.pauseProducing()
        self.page.server.resumeProducing()
        self.inner.transport.pauseProducing()
        self.assertEqual(self.transport.producerState, "paused")
        self.inner.transport.resumeProducing()
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual(pusher.calls, ["pause", "resume"])

    def test_sizes(self) -> None:
        """A message of ours has 2, 4 or 10 bytes more than is in it."""
        for size, more in ((1, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)):
            self.inner.transport.write(bytes(size))
            self.assertEqual(len(self.transport.value()), size + more)
            self.transport.clear()

    def assertEnded(self, code: int) -> None:
        """Check that the server has ended the connection with a code."""
        (end,) = self.page.events
        self.assertEqual(cast(CloseConnection, end).code, code)
        self.page.say(cast(CloseConnection, end).response())
        self.assertHungUp(f"({code})")


class Told(Owner):
    """
    Writes down more.

    @ivar said: why a connection failed.
    """

    said = ""

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """Write it down."""
        super().failed(secure, reason)
        self.said = str(reason)


class SecureTests(SynchronousTestCase):
    """What the server of a secure channel says of those who do not get to it."""

    def setUp(self) -> None:
        """Make the server."""
        self.clock = Clock()
        self.owner = Told(self.clock, None, 10.0)
        secure = SecureProtocol(self.owner, ServerChannel(channelSettings(SERVER_KEY)))
        self.page = Page(WebSocketProtocol(self.clock, cast(Any, secure)))

    def lose(self) -> None:
        """Have the connection lost."""
        self.page.server.connectionLost()

    def test_refused(self) -> None:
        """A page that is not welcome is a foreign client, and the log says which."""
        self.page.ask(origin="https://evil.example")
        self.lose()
        self.assertEqual(self.owner.log, [NotAnAESMPeer, "ended"])
        self.assertIn(
            "(403): here come no pages of 'https://evil.example'", self.owner.said
        )

    def test_probe(self) -> None:
        """Who opens a WebSocket and says nothing in it is a probe."""
        self.page.ask()
        self.page.say(CloseConnection(1000))
        self.lose()
        self.assertEqual(self.owner.log, [NothingSaid, "ended"])

    def test_slow(self) -> None:
        """A request that never ends is cut off as a handshake that never does."""
        for number in range(10):
            self.assertFalse(self.page.transport.disconnecting)
            self.page.server.dataReceived(b"GET / HTTP/1.1\r\n"[number : number + 1])
            self.clock.advance(1)
        self.assertTrue(self.page.transport.disconnected)
        self.lose()
        self.assertEqual(self.owner.log, [HandshakeTimeout, "ended"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
