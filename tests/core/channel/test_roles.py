"""
Tests of L{aesm.core.channel.roles}: offers, refusals, and the handshake up to the
decision on the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.channel.channel import MAX_EARLY, Channel
from aesm.core.channel.events import EndOfStream, Event, Opened, PeerIdentified
from aesm.core.channel.framing import frame
from aesm.core.channel.roles import (
    MAX_HELLO,
    ClientChannel,
    ServerChannel,
    _takeFrame,
)
from aesm.core.channel.settings import ChannelSettings, Layer, withPSK
from aesm.core.channel.states import State
from aesm.errors import (
    AESMError,
    HandshakeError,
    NameOrKeyMismatch,
    NotAnAESMPeer,
    NothingSaid,
    OfferRefused,
    ProtocolError,
    TamperedRecord,
)
from aesm.noise import HandshakeState, KeyPair
from tests.noise.test_functions import LOW_ORDER
from tests.support.helpers import (
    ALL_HERE,
    CLIENT_KEY,
    HERE,
    PSK,
    SERVER_KEY,
    XX,
    channelSettings,
    chunkSizes,
    converse,
    failure,
    feed,
    makeChannels,
    pieces,
)

T = TypeVar("T")

CHACHA = XX.replace("AESGCM", "ChaChaPoly")
CLIENT = KeyPair.fromBytes(CLIENT_KEY).public
SERVER = KeyPair.fromBytes(SERVER_KEY).public


class _RefusedError(Exception):
    """What a check raises here."""


def _anyLength(length: bytes) -> None:
    """
    Welcome every length.

    @param length: its first one or two bytes.
    """


def _takeAll(chunks: list[bytes]) -> list[bytes]:
    """
    Cut the frames out of a stream.

    @param chunks: the stream.
    """
    buffer, bodies = bytearray(), []
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            body, used = _takeFrame(buffer, view, _anyLength)
            view = view[used:]
            if body is not None:
                bodies.append(body)
    assert not buffer
    return bodies


def offer(suite: str, layer: str = "") -> bytes:
    """
    Write an offer.

    @param suite: the name that is offered.
    @param layer: C{"stream "} for a byte stream.
    @see: PROTOCOL section 2
    """
    return frame(f"AESM/1 {layer}{suite}".encode())


def beginRaw(
    server: ServerChannel, suite: str = XX, staticKey: bytes = CLIENT_KEY
) -> HandshakeState:
    """
    Run a handshake up to message 3, with a client that checks nothing.

    @param server: the server.
    @param suite: the suite of both.
    @param staticKey: the client's key.
    @return: the client, which is to write message 3.
    """
    client = channelSettings(staticKey, suite).handshakes[suite](initiator=True)
    assert not server.receive(offer(suite) + frame(client.writeMessage()))
    client.readMessage(server.takeOutput()[2:])
    return client


def deciding(payload: bytes = b"") -> tuple[HandshakeState, ServerChannel]:
    """
    Make a server that has to decide on a client.

    @param payload: of message 3.
    @return: the client, which checks nothing, and the server.
    """
    server = makeChannels()[1]
    client = beginRaw(server)
    server.receive(frame(client.writeMessage(payload)))
    assert server.state is State.DECISION
    return client, server


class TakeFrameTests(SynchronousTestCase):
    """Frames are cut out of what comes in any pieces."""

    def setUp(self) -> None:
        """Start empty, and note what is asked."""
        self.buffer = bytearray()
        self.asked: list[bytes] = []

    def take(self, data: bytes) -> tuple[bytes | None, int]:
        """
        Take some bytes.

        @param data: the bytes.
        """
        return _takeFrame(self.buffer, memoryview(data), self.asked.append)

    def test_whole(self) -> None:
        """A frame that comes whole is handed over, and nothing of it stays."""
        self.assertEqual(self.take(b"\x00\x02ab"), (b"ab", 4))
        self.assertEqual(self.buffer, b"")

    def test_more(self) -> None:
        """What comes behind a frame is not touched."""
        self.assertEqual(self.take(b"\x00\x02abc"), (b"ab", 4))
        self.assertEqual(self.buffer, b"")

    def test_byByte(self) -> None:
        """A frame may come in bytes; until it is whole it is not handed over."""
        for byte in (b"\x00", b"\x02", b"a"):
            self.assertEqual(self.take(byte), (None, 1))
            self.assertNotEqual(self.buffer, b"")
        self.assertEqual(self.take(b"b"), (b"ab", 1))
        self.assertEqual(self.buffer, b"")

    def test_emptyBody(self) -> None:
        """A frame may be empty."""
        self.assertEqual(self.take(b"\x00\x00rest"), (b"", 2))

    def test_asks(self) -> None:
        """
        Each length is asked about as soon as it comes, by its first byte if that comes
        alone; once the body comes there is nothing to ask.
        """
        for byte in b"\x01\x02abc":
            self.take(bytes([byte]))
        self.assertEqual(self.asked, [b"\x01", b"\x01\x02"])
        self.buffer.clear()
        self.take(b"\x01\x02abc")
        self.assertEqual(self.asked[2:], [b"\x01\x02"])

    def test_refusal(self) -> None:
        """A length that is refused leaves nothing of the body in the buffer."""

        def refuse(length: bytes) -> None:
            """
            Refuse a length by its second byte.

            @param length: its first one or two bytes.
            """
            if len(length) == 2:
                raise _RefusedError

        data = memoryview(b"\x00\x05abcde")
        self.assertRaises(_RefusedError, _takeFrame, self.buffer, data, refuse)
        self.assertEqual(self.take(b""), (None, 0))
        self.assertEqual(self.take(b"vwxyz"), (b"vwxyz", 5))

    def test_longest(self) -> None:
        """The longest frame passes, and its length is no byte more."""
        body = bytes(range(256)) * 255 + bytes(255)
        self.assertEqual(self.take(frame(body) + b"."), (body, 65537))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(max_size=30), max_size=8), chunkSizes)
    def test_anyChunking(self, bodies: list[bytes], sizes: list[int]) -> None:
        """
        However the stream is cut, the same frames come out of it.

        @param bodies: the frames.
        @param sizes: how it is cut.
        """
        stream = b"".join(map(frame, bodies))
        self.assertEqual(_takeAll(pieces(stream, sizes)), bodies)
        self.assertEqual(_takeAll([stream]), bodies)


class AgreementTests(SynchronousTestCase):
    """Two sides that suit each other."""

    def test_allNames(self) -> None:
        """
        Each of the eight names leads to an open channel, whether the bytes come
        whole or one by one, and both sides agree on everything.
        """
        for suite in ALL_HERE:
            for sizes in (None, (1,)):
                client, server = makeChannels(suite)
                atClient, atServer = converse(client, server, sizes)
                self.assertEqual(atClient, [PeerIdentified(SERVER, b""), Opened()])
                self.assertEqual(atServer, [PeerIdentified(CLIENT, b""), Opened()])
                self.assertEqual((client.peer, server.peer), (SERVER, CLIENT))
                self.assertEqual((client.ownKey, server.ownKey), (CLIENT, SERVER))
                self.assertEqual((client.suite, server.suite), (suite, suite))
                self.assertEqual(len(client.handshakeHash), 32)
                self.assertEqual(client.handshakeHash, server.handshakeHash)

    def test_beforehand(self) -> None:
        """What the handshake tells is empty before it is done."""
        client, server = makeChannels()
        self.assertEqual((client.suite, server.suite), (XX, ""))
        for channel in (client, server):
            self.assertEqual((channel.peer, channel.handshakeHash), (b"", b""))

    def test_firstBytes(self) -> None:
        """The client's first bytes are the offer and message 1."""
        for suite in ALL_HERE:
            output = makeChannels(suite)[0].takeOutput()
            start = offer(suite)
            self.assertTrue(output.startswith(start))
            size = int.from_bytes(output[len(start) : len(start) + 2], "big")
            self.assertEqual(len(output), len(start) + 2 + size)

    def test_offersFirst(self) -> None:
        """A client offers the first of its suites, a server takes any."""
        client = ClientChannel(ChannelSettings(CLIENT_KEY, suites=(CHACHA, XX)))
        server = ServerChannel(ChannelSettings(SERVER_KEY, suites=(XX, CHACHA)))
        converse(client, server)
        self.assertEqual(server.suite, CHACHA)

    def test_foreignClient(self) -> None:
        """
        Any Noise library will do as the client: the prologue is the offer frame and
        the framed name.
        """
        server = ServerChannel(ChannelSettings(SERVER_KEY, name="\xe9", suites=(XX,)))
        noise = HandshakeState(
            XX,
            initiator=True,
            prologue=b"\x00\x23AESM/1 " + XX.encode() + b"\x00\x02\xc3\xa9",
            s=CLIENT_KEY,
        )
        server.receive(offer(XX) + frame(noise.writeMessage()))
        noise.readMessage(server.takeOutput()[2:])
        events = server.receive(frame(noise.writeMessage(b"hello")))
        self.assertEqual(events, [PeerIdentified(CLIENT, b"hello")])

    def test_hello(self) -> None:
        """The hello reaches the server together with the client's key."""
        client, server = makeChannels()
        server.receive(client.takeOutput())
        feed(client, [server.takeOutput()], b"hello")
        events = server.receive(client.takeOutput())
        self.assertEqual(events, [PeerIdentified(CLIENT, b"hello")])

    def test_helloSizes(self) -> None:
        """
        A hello has 0 to 2,048 bytes; a longer one is refused by message 3's length,
        before anything of it is kept.
        """
        for size in (0, 1, MAX_HELLO - 1, MAX_HELLO):
            server = makeChannels()[1]
            message = beginRaw(server).writeMessage(bytes(size))
            events = server.receive(frame(message))
            self.assertEqual(events, [PeerIdentified(CLIENT, bytes(size))])
        server = makeChannels()[1]
        message = beginRaw(server).writeMessage(bytes(MAX_HELLO + 1))
        error = failure(server.receive(frame(message)[:2]))
        self.assertIsInstance(error, HandshakeError)
        self.assertIn("wrong size", str(error))


class OfferTests(SynchronousTestCase):
    """What a server makes of a client's first bytes."""

    def refused(self, server: ServerChannel, data: bytes) -> Exception:
        """
        Let a server take bytes that it refuses with the last of them.

        @param server: the server.
        @param data: the bytes.
        """
        self.assertEqual(feed(server, pieces(data[:-1])), [])
        return failure(server.receive(data[-1:]))

    def test_firstByte(self) -> None:
        """Anything but a zero is refused at the first byte, in silence."""
        for byte in range(1, 256):
            server = makeChannels()[1]
            error = failure(server.receive(bytes([byte])))
            self.assertIsInstance(error, NotAnAESMPeer)
            self.assertIn(f"0x{byte:02x}", str(error))
            self.assertEqual(server.takeOutput(), b"")

    def test_foreigners(self) -> None:
        """The error tells which protocol it most likely was."""
        for data, name in (
            (b"GET / HTTP/1.1\r\n", "HTTP"),
            (b"POST / HTTP/1.1\r\n", "HTTP, or a PROXY header: listen on haproxy:"),
            (b"PROXY TCP4 1.2.3.4 ", "HTTP, or a PROXY header: listen on haproxy:"),
            (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY header: listen on haproxy:"),
            (b"220 mail.example.org ESMTP\r\n", "SMTP or FTP"),
            (b"\x16\x03\x01\x02\x00", "TLS"),
            (b"SSH-2.0-OpenSSH_9.9\r\n", "SSH"),
            (b"\xff\xfb\x01", "not a length of ours"),
        ):
            events = makeChannels()[1].receive(data)
            self.assertIn(f"({name})", str(failure(events)))

    def test_emptyOffer(self) -> None:
        """An offer is not empty: that is a refusal, which clients do not send."""
        error = self.refused(makeChannels()[1], b"\x00\x00")
        self.assertIsInstance(error, NotAnAESMPeer)

    def test_others(self) -> None:
        """
        An offer of anything but the server's suites, to the letter, is refused, and
        the client is told what would be taken; so is one of another version.
        """
        told = b"AESM/1 refused: offer one of " + XX.encode()
        suites = ("", CHACHA, withPSK(XX), XX + " ", XX + "\x00", XX[:-1], "\xe9")
        texts = ("A", "AESM/1", "AESM/2 " + XX, "aesm/1 " + XX, "\x00" * 255)
        for text in (*map("AESM/1 ".__add__, suites), *texts):
            server = makeChannels()[1]
            error = self.refused(server, frame(text.encode()))
            self.assertIsInstance(error, OfferRefused)
            self.assertIn(ascii(text)[:5], str(error))
            self.assertEqual(server.takeOutput(), b"\x00\x00" + frame(told))
            self.assertEqual(server.takeOutput(), b"")

    def test_longestOffer(self) -> None:
        """An offer has at most 255 bytes, which the first byte tells."""
        server = makeChannels()[1]
        error = self.refused(server, offer("x" * (255 - len("AESM/1 "))))
        self.assertIsInstance(error, OfferRefused)

    def test_allTold(self) -> None:
        """All suites fit into a refusal; if they did not, it would be cut."""
        for times, length in ((1, None), (9, 255)):
            given = ChannelSettings(SERVER_KEY, suites=HERE * times)
            server = ServerChannel(given)
            server.receive(offer("nothing"))
            output = server.takeOutput()
            body = f"AESM/1 refused: offer one of {' '.join(HERE * times)}".encode()
            self.assertEqual(output, b"\x00\x00" + frame(body[:length]))
            self.assertLessEqual(len(output), 2 + 2 + 255)

    def test_silentWithPSK(self) -> None:
        """
        A server with a pre-shared key refuses names without it, and answers
        nothing.
        """
        for data in (
            *map(offer, (XX, withPSK(CHACHA), "")),
            offer(withPSK(XX), "stream "),
            frame(b"AESM/2"),
        ):
            server = makeChannels(withPSK(XX))[1]
            error = self.refused(server, data)
            self.assertIsInstance(error, OfferRefused)
            self.assertEqual(server.takeOutput(), b"")

    def test_otherLayer(self) -> None:
        """
        An offer of the other layer is refused, also one of a suite that nobody knows,
        and the client is told what the port is for; so is whoever reads the log.
        """
        for layer, word, told in (
            (Layer.MESSAGES, "stream ", "this port talks messages, not a byte stream"),
            (Layer.STREAM, "", "this port carries a byte stream, not messages"),
        ):
            for suite in (XX, CHACHA, "nothing", ""):
                server = makeChannels(layer=layer)[1]
                error = self.refused(server, offer(suite, word))
                assert isinstance(error, OfferRefused)
                self.assertEqual(error.reason, f"AESM/1 refused: {told}")
                text = f"the client offers 'AESM/1 {word}{suite}', but {told}"
                self.assertEqual(str(error), text)
                output = b"\x00\x00" + frame(error.reason.encode())
                self.assertEqual(server.takeOutput(), output)

    def test_stream(self) -> None:
        """A server of byte streams refuses its own kind for the suite alone."""
        for text in ("AESM/1 stream " + CHACHA, "AESM/1 stream", "AESM/2", XX):
            server = makeChannels(layer=Layer.STREAM)[1]
            error = self.refused(server, frame(text.encode()))
            assert isinstance(error, OfferRefused)
            wrongPort = text == "AESM/1 stream"
            told = "this port carries" if wrongPort else f"offer one of {XX}"
            self.assertIn(told, error.reason)


class RefusalTests(SynchronousTestCase):
    """What a client makes of what does not look like message 2."""

    def test_refusal(self) -> None:
        """A refusal becomes an error with the server's words, whole or by bytes."""
        for sizes in (None, (1,)):
            client = ClientChannel(channelSettings(CLIENT_KEY, CHACHA))
            server = makeChannels()[1]
            atClient, atServer = converse(client, server, sizes)
            self.assertIsInstance(failure(atServer), OfferRefused)
            error = failure(atClient)
            assert isinstance(error, OfferRefused)
            reason = f"AESM/1 refused: offer one of {XX}"
            self.assertEqual(error.reason, reason)
            self.assertIn(repr(reason), str(error))
            self.assertIn("unauthenticated", str(error))
            self.assertIn("choose suites=", str(error))

    def test_otherLayer(self) -> None:
        """A client of the other layer is told what its user has to call instead."""
        for layer, other, told, advice in (
            (Layer.STREAM, Layer.MESSAGES, "talks messages", "`aesm connect`"),
            (Layer.MESSAGES, Layer.STREAM, "a byte stream", "wrapClientEndpoint()"),
        ):
            for sizes in (None, (1,)):
                client = ClientChannel(channelSettings(CLIENT_KEY, layer=layer))
                server = ServerChannel(channelSettings(SERVER_KEY, layer=other))
                error = failure(converse(client, server, sizes)[0])
                assert isinstance(error, OfferRefused)
                self.assertIn(told, error.reason)
                self.assertIn(f"{error.reason!r}; connect with", str(error))
                self.assertIn(advice, str(error))
                self.assertNotIn("suites=", str(error))

    def test_words(self) -> None:
        """Only printable ASCII of the server's words is repeated."""
        for said, reason in (
            (b"", ""),
            (b"a\x00\x1b[2J\r\n~ \x7f\x80\xff", "a??[2J??~ ???"),
            ("\xe9\ufffd".encode(), "?????"),
            (b"x" * 255, "x" * 255),
        ):
            client = makeChannels()[0]
            error = failure(client.receive(b"\x00\x00" + frame(said) + b"more"))
            assert isinstance(error, OfferRefused)
            self.assertEqual(error.reason, reason)

    def test_tooManyWords(self) -> None:
        """A reason of more than 255 bytes is refused by its first byte."""
        client = makeChannels()[0]
        self.assertEqual(client.receive(b"\x00\x00"), [])
        self.assertIsInstance(failure(client.receive(b"\x01")), NotAnAESMPeer)

    def test_firstByte(self) -> None:
        """What can be neither message 2 nor a refusal is refused at the first byte."""
        for suite in ALL_HERE:
            high = makeChannels(suite)[0]._reply >> 8
            for byte in set(range(256)) - {0, high} if suite == XX else (0x15, 0x48):
                error = failure(makeChannels(suite)[0].receive(bytes([byte])))
                self.assertIsInstance(error, NotAnAESMPeer)
                self.assertIn("what answered", str(error))

    def test_otherLengths(self) -> None:
        """Message 2 has one length, and any other is refused by the length alone."""
        for suite in ALL_HERE:
            for delta in (-1, 1):
                client = makeChannels(suite)[0]
                length = (client._reply + delta).to_bytes(2, "big")
                self.assertEqual(client.receive(length[:1]), [])
                self.assertIsInstance(failure(client.receive(length[1:])), AESMError)

    def test_reflectedBytes(self) -> None:
        """A client that gets its own bytes back takes them for a foreigner's."""
        for suite in ALL_HERE:
            client = makeChannels(suite)[0]
            error = failure(client.receive(client.takeOutput()))
            self.assertIsInstance(error, NotAnAESMPeer)


class MismatchTests(SynchronousTestCase):
    """Sides that do not suit each other, and handshakes that somebody meddles with."""

    def meet(
        self, client: ClientChannel, server: ServerChannel
    ) -> tuple[list[Event], list[Event]]:
        """
        Let two sides talk, then end what is still there.

        @param client: one side.
        @param server: the other.
        @return: what happened at the client, and at the server.
        """
        atClient, atServer = converse(client, server)
        self.assertNotIn(Opened(), atServer)
        atClient += client.transportEnded()
        atServer += server.transportEnded()
        for channel in (client, server):
            self.assertIs(channel.state, State.FAILED)
            self.assertEqual(channel.peer, b"")
        return atClient, atServer

    def test_name(self) -> None:
        """
        Two names: the client cannot read message 2; with a pre-shared key the server
        cannot read message 1, and answers nothing.
        """
        for suite in ALL_HERE:
            client = ClientChannel(channelSettings(CLIENT_KEY, suite, name="one"))
            server = ServerChannel(channelSettings(SERVER_KEY, suite, name="two"))
            atClient, atServer = self.meet(client, server)
            self.assertIsInstance(failure(atClient), NameOrKeyMismatch)
            expected = NameOrKeyMismatch if "psk" in suite else HandshakeError
            self.assertIsInstance(failure(atServer), expected)

    def test_wrongPSK(self) -> None:
        """
        Two pre-shared keys: the server cannot read message 1, and answers nothing.
        """
        for suite in map(withPSK, HERE):
            client = ClientChannel(channelSettings(CLIENT_KEY, suite, psk=bytes(32)))
            server = ServerChannel(channelSettings(SERVER_KEY, suite))
            atServer = server.receive(client.takeOutput())
            self.assertIsInstance(failure(atServer), NameOrKeyMismatch)
            self.assertEqual(server.takeOutput(), b"")
            error = failure(client.transportEnded())
            self.assertIsInstance(error, NameOrKeyMismatch)
            self.assertIn("most likely its psk= or name=", str(error))

    def test_pskAtTheClient(self) -> None:
        """Only the client has a pre-shared key: the server says what it takes."""
        client = ClientChannel(channelSettings(CLIENT_KEY, withPSK(XX)))
        server = ServerChannel(channelSettings(SERVER_KEY))
        atClient, atServer = self.meet(client, server)
        self.assertIsInstance(failure(atServer), OfferRefused)
        self.assertIsInstance(failure(atClient), OfferRefused)

    def test_pskAtTheServer(self) -> None:
        """Only the server has one: it answers nothing, and the client guesses."""
        client = ClientChannel(channelSettings(CLIENT_KEY))
        server = ServerChannel(channelSettings(SERVER_KEY, psk=PSK))
        atClient, atServer = self.meet(client, server)
        self.assertIsInstance(failure(atServer), OfferRefused)
        error = failure(atClient)
        self.assertIsInstance(error, NameOrKeyMismatch)
        self.assertIn("may need a psk=", str(error))

    def test_ownKeyAtTheClient(self) -> None:
        """A server that presents the client's own key is an echo."""
        client, server = makeChannels()[0], ServerChannel(channelSettings(CLIENT_KEY))
        atClient, _ = self.meet(client, server)
        self.assertIn("our own static key", str(failure(atClient)))

    def test_ownKeyAtTheServer(self) -> None:
        """So is a client that presents the server's."""
        server = makeChannels()[1]
        client = beginRaw(server, staticKey=SERVER_KEY)
        error = failure(server.receive(frame(client.writeMessage())))
        self.assertIsInstance(error, HandshakeError)
        self.assertIn("our own static key", str(error))
        self.assertEqual(server.peer, b"")

    def test_alteredOffer(self) -> None:
        """
        An offer that was altered in flight ends the handshake at message 2, or, with
        a pre-shared key, at message 1: nobody in the middle can choose.
        """
        both = (XX, CHACHA)
        for psk, victim in ((None, 0), (PSK, 1)):
            given = ChannelSettings(CLIENT_KEY, psk=psk, suites=both)
            client = ClientChannel(given)
            server = ServerChannel(ChannelSettings(SERVER_KEY, psk=psk, suites=both))
            output = client.takeOutput()
            start = len(offer(given.suites[0]))
            events = server.receive(offer(given.suites[1]) + output[start:])
            if victim == 0:
                self.assertEqual(events, [])
                events = client.receive(server.takeOutput())
            self.assertIsInstance(failure(events), NameOrKeyMismatch)

    def test_alteredLayer(self) -> None:
        """
        Nor can somebody in the middle lead a client to a server of the other layer:
        with its offer altered into what that takes, the handshake ends where it ends
        with any other.
        """
        for suite in ALL_HERE:
            for layer, other, word in (
                (Layer.STREAM, Layer.MESSAGES, ""),
                (Layer.MESSAGES, Layer.STREAM, "stream "),
            ):
                client = ClientChannel(channelSettings(CLIENT_KEY, suite, layer=layer))
                server = ServerChannel(channelSettings(SERVER_KEY, suite, layer=other))
                message = client.takeOutput().partition(suite.encode())[2]
                events = server.receive(offer(suite, word) + message)
                self.assertEqual(server.suite, suite)
                if "psk" not in suite:
                    self.assertEqual(events, [])
                    events = client.receive(server.takeOutput())
                self.assertIsInstance(failure(events), NameOrKeyMismatch)
                self.assertEqual(server.takeOutput(), b"")

    def test_replays(self) -> None:
        """A message that comes again is not the one that is expected."""
        for suite in ALL_HERE:
            client, server = makeChannels(suite)
            first = client.takeOutput()
            message = first[len(offer(suite)) :]
            events = server.receive(first + message)
            self.assertIsInstance(failure(events), HandshakeError)

    def test_replayedHandshake(self) -> None:
        """
        A client's whole handshake, played to the server once more, fails at message
        3.
        """
        client, server = makeChannels()
        first = client.takeOutput()
        server.receive(first)
        feed(client, [server.takeOutput()])
        last = client.takeOutput()
        self.assertEqual(len(server.receive(last)), 1)
        again = makeChannels()[1]
        self.assertEqual(again.receive(first), [])
        self.assertIsInstance(failure(again.receive(last)), NameOrKeyMismatch)

    def withEphemeral(self, public: bytes, act: Callable[[], T]) -> T:
        """
        Do something with a fresh key that is not quite one.

        @param public: what is sent as the public key.
        @param act: what to do.
        @return: what it returns.
        """
        pair = KeyPair.generate()
        pair.public = public
        patch = self.patch(KeyPair, "generate", lambda: pair)
        try:
            return act()
        finally:
            patch.restore()

    def test_lowOrderEphemeral(self) -> None:
        """
        A fresh key that leads to a zero secret ends the handshake, whichever side
        sends it.
        """
        for public in LOW_ORDER:
            for suite in (XX, withPSK(XX)):
                client, server = self.withEphemeral(
                    public,
                    lambda: makeChannels(suite),  # noqa: B023
                )
                error = failure(server.receive(client.takeOutput()))
                self.assertIn("public key of the peer's is invalid", str(error))
                self.assertEqual(server.takeOutput(), b"")
        for public in LOW_ORDER:
            client, server = makeChannels()
            first = frame(bytes(range(32)))
            noise = server._settings.handshakes[XX](initiator=False)
            noise.readMessage(first[2:])
            message = bytearray(noise.writeMessage())
            message[:32] = public
            error = failure(client.receive(frame(bytes(message))))
            self.assertIn("public key of the peer's is invalid", str(error))

    def test_lowOrderStatic(self) -> None:
        """So does a static key that does, which nobody can own."""
        for public in LOW_ORDER:
            given = channelSettings(CLIENT_KEY)
            assert given.keyPair is not None
            given.keyPair.public = public
            server = makeChannels()[1]
            client = ClientChannel(given)
            _, atServer = converse(client, server)
            self.assertIn("public key of the peer's is invalid", str(failure(atServer)))
            client = makeChannels()[0]
            atClient, _ = converse(client, ServerChannel(given))
            self.assertIn("public key of the peer's is invalid", str(failure(atClient)))

    def test_invalidKEMKey(self) -> None:
        """A KEM key that is none ends the handshake without an answer."""
        for suite in filter(lambda name: "hfs_" in name, ALL_HERE):
            server = makeChannels(suite)[1]
            data = offer(suite) + frame(bytes(range(32)) + b"\xff" * 1184)
            error = failure(server.receive(data))
            self.assertIn("public key of the peer's is invalid", str(error))
            self.assertEqual(server.takeOutput(), b"")

    def test_flippedBits(self) -> None:
        """
        A bit that is flipped in any message ends the handshake, before the side that
        gets it says anything more.
        """
        for suite in ALL_HERE:
            for place in (0, 40, 1180, -1):
                client, server = makeChannels(suite)
                start = len(offer(suite)) + 2
                first = bytearray(client.takeOutput())
                position = place % (len(first) - start) + start
                first[position] ^= 1
                events = server.receive(bytes(first))
                if not events:  # message 1 has no tag without a pre-shared key
                    events = client.receive(server.takeOutput())
                self.assertIsInstance(failure(events), HandshakeError)

                client, server = makeChannels(suite)
                server.receive(client.takeOutput())
                second = bytearray(server.takeOutput())
                second[2 + place % (len(second) - 2)] ^= 0x10
                error = failure(client.receive(bytes(second)))
                self.assertIsInstance(error, NameOrKeyMismatch)
                self.assertEqual(client.takeOutput(), b"")

                client, server = makeChannels(suite)
                server.receive(client.takeOutput())
                feed(client, [server.takeOutput()], b"hello")
                third = bytearray(client.takeOutput())
                third[2 + place % (len(third) - 2)] ^= 0x80
                error = failure(server.receive(bytes(third)))
                self.assertIsInstance(error, NameOrKeyMismatch)
                self.assertEqual(server.takeOutput(), b"")

    def test_otherLengths(self) -> None:
        """
        Message 1 has one length, and message 3 a least one; any other is refused by
        its two bytes, or by the first of them if that will do.
        """
        for suite in ALL_HERE:
            size = len(makeChannels(suite)[0].takeOutput()) - len(offer(suite)) - 2
            for wrong in (0, size - 1, size + 1, 8192, 65535):
                server = makeChannels(suite)[1]
                self.assertEqual(server.receive(offer(suite)), [])
                length = wrong.to_bytes(2, "big")
                events = server.receive(length[:1])
                if wrong >> 8 == size >> 8:
                    self.assertEqual(events, [])
                    events = server.receive(length[1:])
                self.assertIn("wrong size", str(failure(events)))
            for wrong in (0, 63, 64 + MAX_HELLO + 1, 65535):
                server = makeChannels(suite)[1]
                beginRaw(server, suite)
                events = server.receive(wrong.to_bytes(2, "big"))
                self.assertIn("wrong size", str(failure(events)))

    def test_memory(self) -> None:
        """
        A stranger makes the server keep no more than the frame that it is sending.
        """
        for suite in ALL_HERE:
            client, server = makeChannels(suite)
            first = client.takeOutput()
            largest = max(len(offer(suite)), len(first) - len(offer(suite)))
            for byte in pieces(first):
                server.receive(byte)
                self.assertLessEqual(len(server._received), largest)


class DecisionTests(SynchronousTestCase):
    """Between the peer's proof and our decision."""

    def test_clientAccepts(self) -> None:
        """The client keeps its own key to itself until it has accepted the server."""
        client, server = makeChannels()
        server.receive(client.takeOutput())
        events = client.receive(server.takeOutput())
        self.assertEqual(events, [PeerIdentified(SERVER, b"")])
        self.assertEqual(client.takeOutput(), b"")
        self.assertEqual(client.accept(b"hello"), [Opened()])
        self.assertEqual(len(client.takeOutput()), 2 + 48 + 16 + len(b"hello"))

    def test_clientRejects(self) -> None:
        """A client that rejects the server says nothing more."""
        client, server = makeChannels()
        server.receive(client.takeOutput())
        client.receive(server.takeOutput())
        self.assertRaises(ValueError, client.reject, b"farewell")
        client.reject()
        self.assertIs(client.state, State.REJECTED)
        self.assertEqual(client.takeOutput(), b"")
        self.assertEqual(client.transportEnded(), [])
        error = failure(server.transportEnded())
        self.assertIn("does not trust our key", str(error))

    def test_serverRejects(self) -> None:
        """
        A server that rejects the client says farewell through the channel, ends it,
        and is deaf from then on.
        """
        for farewell in (b"", b"farewell", bytes(65519)):
            client, server = makeChannels()
            server.receive(client.takeOutput())
            feed(client, [server.takeOutput()])
            server.receive(client.takeOutput())
            self.assertRaises(ValueError, server.reject, bytes(65520))
            server.reject(farewell)
            self.assertIs(server.state, State.REJECTED)
            said = [farewell] if farewell else []
            events = client.receive(server.takeOutput())
            self.assertEqual(events, [*said, EndOfStream()])
            client.send(b"but")
            self.assertEqual(server.receive(client.takeOutput()), [])
            self.assertEqual(server.receive(b"noise"), [])
            self.assertEqual(server.transportEnded(), [])

    def test_outOfTurn(self) -> None:
        """Who has nothing to decide, or has decided, must not decide."""
        client, server = makeChannels()
        for channel in (client, server):
            self.assertRaises(RuntimeError, channel.accept)
            self.assertRaises(RuntimeError, channel.reject)
        converse(client, server)
        for channel in (client, server):
            self.assertRaises(RuntimeError, channel.accept)
            self.assertRaises(RuntimeError, channel.reject)
        _, server = deciding()
        server.reject()
        self.assertRaises(RuntimeError, server.accept)
        self.assertRaises(RuntimeError, server.reject)

    def test_payloads(self) -> None:
        """
        A client may say 2,048 bytes when it accepts, a server nothing; a payload
        that may not be said leaves the decision open.
        """
        client, server = makeChannels()
        server.receive(client.takeOutput())
        client.receive(server.takeOutput())
        self.assertRaises(ValueError, client.accept, bytes(MAX_HELLO + 1))
        self.assertEqual(client.accept(bytes(MAX_HELLO)), [Opened()])
        events = server.receive(client.takeOutput())
        self.assertEqual(events, [PeerIdentified(CLIENT, bytes(MAX_HELLO))])
        self.assertRaises(ValueError, server.accept, b"payload")
        self.assertEqual(server.accept(), [Opened()])

    def test_earlyData(self) -> None:
        """What comes while the decision is open waits for it, however it is cut."""
        for sizes in ((1 << 20,), (1,), (7, 0, 50)):
            noise, server = deciding()
            seal = noise.split()[0].encryptWithAd
            texts = (b"one", b"two", b"")
            data = b"".join(frame(seal(b"", text)) for text in texts)
            for chunk in pieces(data, sizes):
                self.assertEqual(server.receive(chunk), [])
            expected = [Opened(), b"one", b"two", EndOfStream()]
            self.assertEqual(server.accept(), expected)

    def test_earlyPart(self) -> None:
        """So does a part of a record."""
        noise, server = deciding()
        data = frame(noise.split()[0].encryptWithAd(b"", b"one"))
        self.assertEqual(server.receive(data[:5]), [])
        self.assertEqual(server.accept(), [Opened()])
        self.assertEqual(server.receive(data[5:]), [b"one"])

    def test_earlyNonsense(self) -> None:
        """It is looked at only when the peer is let in, and then may be wrong."""
        _, server = deciding()
        self.assertEqual(server.receive(frame(bytes(20))), [])
        opened, *others = server.accept()
        self.assertEqual(opened, Opened())
        self.assertIsInstance(failure(others), TamperedRecord)

    def test_earlyBound(self) -> None:
        """What waits is bounded, also if it comes in small pieces."""
        for size in (64, MAX_EARLY):
            _, server = deciding()
            for chunk in pieces(bytes(MAX_EARLY), (size,)):
                self.assertEqual(server.receive(chunk), [])
            error = failure(server.receive(b"."))
            self.assertIsInstance(error, ProtocolError)
            self.assertIn("before being let in", str(error))

    def test_earlyBoundAtOnce(self) -> None:
        """
        Too much may come together with the proof: the decision is then too late, and
        nobody minds.
        """
        for decide in (Channel.accept, Channel.reject):
            server = makeChannels()[1]
            message = frame(beginRaw(server).writeMessage())
            events = server.receive(message + bytes(MAX_EARLY + 1))
            self.assertEqual(events[0], PeerIdentified(CLIENT, b""))
            self.assertIsInstance(failure(events[1:]), ProtocolError)
            self.assertFalse(decide(server))
            self.assertIs(server.state, State.FAILED)
            self.assertEqual(server.takeOutput(), b"")

    def test_lateDecision(self) -> None:
        """The transport may end before the decision, which then does nothing."""
        for decide in (Channel.accept, Channel.reject):
            _, server = deciding()
            error = failure(server.transportEnded())
            self.assertIn("in the handshake", str(error))
            self.assertFalse(decide(server))
            self.assertEqual(server.takeOutput(), b"")


class InterruptionTests(SynchronousTestCase):
    """Transports that end in the handshake."""

    def test_client(self) -> None:
        """The client distinguishes between no answer at all and half a handshake."""
        error = failure(makeChannels()[0].transportEnded())
        self.assertIsInstance(error, NameOrKeyMismatch)
        self.assertIn("may need a psk=", str(error))
        error = failure(makeChannels(withPSK(XX))[0].transportEnded())
        self.assertIsInstance(error, NameOrKeyMismatch)
        self.assertIn("psk= or name= differs", str(error))
        self.assertIn("--psk", str(error))
        for data in (b"\x00", b"\x00\x00", b"\x00\x00\x00\x05refu"):
            client = makeChannels()[0]
            self.assertEqual(client.receive(data), [])
            self.assertIn("in the middle", str(failure(client.transportEnded())))

    def test_clientDeciding(self) -> None:
        """The server may go while the client decides."""
        client, server = makeChannels()
        server.receive(client.takeOutput())
        client.receive(server.takeOutput())
        self.assertIn("in the middle", str(failure(client.transportEnded())))

    def test_server(self) -> None:
        """So does the server."""
        error = failure(makeChannels()[1].transportEnded())
        self.assertIsInstance(error, NothingSaid)
        for data in (b"\x00", offer(XX)[:-1]):
            server = makeChannels()[1]
            self.assertEqual(server.receive(data), [])
            self.assertIn("without an offer", str(failure(server.transportEnded())))
        for data in (
            offer(XX),
            offer(XX) + b"\x00",
            offer(XX) + frame(bytes(range(32))),
        ):
            server = makeChannels()[1]
            self.assertEqual(server.receive(data), [])
            self.assertIn("in the handshake", str(failure(server.transportEnded())))
