"""
We are compatible with more than ourselves: a client that shares no code with
us, L{tests.support.foreign}, talks to our server over real sockets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import Any, cast

from cryptography.exceptions import InvalidTag
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThread
from twisted.protocols.wire import Echo as Wire
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from aesm import (
    Connection,
    IMessageHandler,
    Packet,
    PrivateKey,
    Request,
    Server,
    listen,
)
from aesm.core.channel.settings import SUITES, defaultSuites, withPSK
from aesm.errors import AESMError
from aesm.secure import wrapServerEndpoint
from tests.support import foreign

PSK = bytes(range(32))


@implementer(IMessageHandler)
class Echo:
    """Sends back what comes."""

    def connectionAccepted(self, connection: Connection) -> None:
        """Nothing to do."""

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Send it back."""
        assert packet.data is not None
        connection.sendData(packet.data)

    def requestReceived(self, connection: Connection, packet: Request) -> Any:
        """Answer with the same, or what the other side answers; or not."""
        if packet.data == b"ask back":
            return connection.request("who?")
        return Deferred() if packet.data == "never" else packet.data

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Nothing to do."""


class ForeignTests(TestCase):
    """A foreign client and our server."""

    timeout = 600

    @inlineCallbacks
    def serving(
        self, use: Callable[[int], None], **options: Any
    ) -> Generator[Deferred[Any], Any, None]:
        """
        Start a server, and let a function use it from a thread.

        @param use: called with the port.
        @param options: of the server.
        @return: fires when both are done.
        """
        server: Server = yield listen(
            reactor,
            "tcp:0:interface=127.0.0.1",
            key=PrivateKey.generate(),
            handler=Echo(),
            **options,
        )
        try:
            yield deferToThread(use, int(server.address[1]))
        finally:
            yield server.stop()

    def _converse(self, suite: str, psk: bytes | None) -> Deferred[None]:
        """
        Check one suite.

        @param suite: the Noise protocol name.
        @param psk: the pre-shared key, or None.
        """

        def use(port: int) -> None:
            client = foreign.Client(port, suite, psk)
            self.assertTrue(client.welcome["batch"])
            for message in ("hello", "Grüße, 世界 🌍" * 5000, ""):
                client.send(foreign.TEXT, message.encode())
                self.assertEqual(client.readMessage(), message)
            client.send(foreign.BINARY, bytes(range(256)) * 1000)
            self.assertEqual(client.readMessage(), bytes(range(256)) * 1000)
            self.assertEqual(client.close(), (1000, ""))

        return self.serving(use, psk=psk)

    @inlineCallbacks
    def test_everySuite(self) -> Generator[Deferred[Any], Any, None]:
        """
        All suites that this machine can do work, with and without a
        pre-shared key.
        """
        for suite in defaultSuites():
            yield self._converse(suite, None)
            yield self._converse(withPSK(suite), PSK)

    def test_rekey(self) -> Deferred[Any]:
        """A client goes on with other keys after 65,536 records."""

        def use(port: int) -> None:
            client = foreign.Client(port, SUITES[2])
            data = struct.pack(">IBQ", foreign.REKEY, foreign.BINARY, 0)
            data += bytes(foreign.REKEY)
            records = b"".join(client.record(data[i : i + 1]) for i in range(len(data)))
            client.socket.sendall(records)
            self.assertEqual(client.readMessage(), bytes(foreign.REKEY))
            client.close()

        return self.serving(use)

    def test_requests(self) -> Deferred[Any]:
        """
        Each side answers the other's requests, refuses them, and withdraws its own,
        alone and in a BATCH.
        """

        def use(port: int) -> None:
            hello = {"requests": True, "batch": True}
            client = foreign.Client(port, SUITES[2], hello=hello)
            self.assertTrue(client.welcome["requests"])
            client.send(foreign.TEXT, b"message")
            self.assertEqual(client.readMessage(), "message")
            number = client.request(foreign.TEXT, "zwei ü".encode())
            self.assertEqual(number, 1)
            answer = struct.pack(">QB", number, foreign.TEXT) + "zwei ü".encode()
            self.assertEqual(client.readAnyMessage(), (foreign.RESPONSE, answer))
            # The handler asks back, answers what comes, and has nothing against it
            # that one is withdrawn.
            client.request(foreign.BINARY, b"ask back")
            kind, body = client.readAnyMessage()
            self.assertEqual((kind, body), (foreign.REQUEST, b"\1who?"))
            client.respond(2, foreign.BINARY, b"I")
            kind, body = client.readAnyMessage()
            self.assertEqual(kind, foreign.RESPONSE)
            self.assertEqual(body, struct.pack(">QB", 2, foreign.BINARY) + b"I")
            client.request(foreign.BINARY, b"ask back")
            client.readAnyMessage()
            code = struct.pack(">H", 4711)
            client.respond(4, foreign.ERROR, code + b"no")
            kind, body = client.readAnyMessage()
            refusal = struct.pack(">QB", 4, foreign.ERROR) + code + b"no"
            self.assertEqual((kind, body), (foreign.RESPONSE, refusal))
            number = client.request(foreign.TEXT, b"never")
            client.respond(number, foreign.WITHDRAWN)
            kind, body = client.readAnyMessage()
            self.assertEqual(struct.unpack(">QBH", body[:11]), (number, 3, 4002))
            self.assertEqual(client.close(), (1000, ""))

        return self.serving(use)

    def test_silentWithPSK(self) -> Deferred[Any]:
        """
        A server with a pre-shared key sends not one byte to a client that does
        not know it.
        """

        def use(port: int) -> None:
            for suite, psk in ((SUITES[2], None), (withPSK(SUITES[2]), bytes(32))):
                with self.assertRaises(ConnectionError):
                    foreign.Client(port, suite, psk)

        return self.serving(use, psk=PSK)

    @inlineCallbacks
    def test_byteStream(self) -> Generator[Deferred[Any], Any, None]:
        """
        A client of a byte stream gets what its server sends, and both ends are in
        order; a client of messages is refused there.
        """
        inner = serverFromString(cast(Any, reactor), "tcp:0:interface=127.0.0.1")
        endpoint = wrapServerEndpoint(inner, key=PrivateKey.generate())
        port = yield endpoint.listen(Factory.forProtocol(Wire))
        number = port.getHost().port

        def use() -> None:
            for suite in defaultSuites():
                stream = foreign.Stream(number, suite)
                stream.write(bytes(range(256)) * 1000)
                got = b""
                while len(got) < 256_000:
                    got += stream.readRecord()
                self.assertEqual(got, bytes(range(256)) * 1000)
                stream.end()
                self.assertEqual(stream.readRecord(), b"")
                stream.socket.close()
            with self.assertRaisesRegex(foreign.Refused, "a byte stream, not messages"):
                foreign.Client(number, SUITES[2])

        try:
            yield deferToThread(use)
        finally:
            yield port.stopListening()

    def test_otherName(self) -> Deferred[Any]:
        """A client of another application cannot finish the handshake."""

        def use(port: int) -> None:
            with self.assertRaises(InvalidTag):
                foreign.Client(port, SUITES[2], application="other")

        return self.serving(use)
