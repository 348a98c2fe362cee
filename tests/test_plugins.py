"""
Tests for L{aesm.plugins}: C{aesm:} strings, by the functions that read them
everywhere.
"""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from twisted.internet import error, reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import (
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from aesm.errors import KeyFileError, UntrustedServer
from aesm.plugins import (
    ClientParser,
    ReusePortParser,
    ServerParser,
    WebSocketParser,
)
from aesm.trust.keys import PSK, PrivateKey
from aesm.trust.servers import KnownServers
from tests.support.helpers import CLIENT_KEY, SERVER_KEY
from tests.support.transportcontract import Once, Recorder

CLIENT = PrivateKey(CLIENT_KEY)
SERVER = PrivateKey(SERVER_KEY)


class StringTestCase(SynchronousTestCase):
    """Key files, and a reactor in memory."""

    def setUp(self) -> None:
        """Make them."""
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.patch(
            os, "environ", {**os.environ, "AESM_HOME": str(self.directory / "home")}
        )
        self.memory = MemoryReactorClock()

    def path(self, name: str) -> str:
        """Name a file, as it stands in a string."""
        return str(self.directory / name)

    def server(self, string: str) -> Any:
        """Read a server's string."""
        return serverFromString(self.memory, string)

    def client(self, string: str) -> Any:
        """Read a client's string."""
        return clientFromString(self.memory, string)


class PluginTests(SynchronousTestCase):
    """Twisted finds the parsers."""

    def test_found(self) -> None:
        """There is one of each for C{aesm}, and for other prefixes one of servers."""
        for interface, parser, prefix in (
            (IStreamServerEndpointStringParser, ServerParser, "aesm"),
            (IStreamServerEndpointStringParser, WebSocketParser, "websocket"),
            (IStreamServerEndpointStringParser, ReusePortParser, "reuseport"),
            (IStreamClientEndpointStringParserWithReactor, ClientParser, "aesm"),
        ):
            found = [p for p in getPlugins(interface) if cast(Any, p).prefix == prefix]
            self.assertEqual([type(p) for p in found], [parser])
            verifyObject(IPlugin, found[0])
            verifyObject(interface, found[0])


class FormTests(StringTestCase):
    """What a string looks like."""

    def test_server(self) -> None:
        """
        The endpoint inside comes first or after C{endpoint=}, with a C{=} of its own
        written C{\\=} in the first form.
        """
        for string in (
            r"aesm:tcp\:8443\:interface\=127.0.0.1",
            r"aesm:endpoint=tcp\:8443\:interface=127.0.0.1",
            r"aesm:name=x:tcp\:8443\:interface\=127.0.0.1",
            r"aesm:endpoint=tcp\:8443\:interface=127.0.0.1:name=",
        ):
            self.server(string).listen(Once(Recorder()))
            port, _, _, interface = self.memory.tcpServers.pop()
            self.assertEqual((port, interface), (8443, "127.0.0.1"))

    def test_client(self) -> None:
        """The same for clients."""
        for string in (
            r"aesm:tcp\:example.org\:8443",
            r"aesm:endpoint=tcp\:host=example.org\:port=8443",
        ):
            self.client(string)

    def test_wrong(self) -> None:
        """What is wrong is said, with what would be right."""
        tooMany = r"colons are written \\:"
        for string, message in (
            ("aesm:", r"missing: write aesm:endpoint=tcp\\:8443"),
            ("aesm:name=x", "missing"),
            ("aesm:endpoint=", "endpoint= is empty"),
            ("aesm:tcp:8443", tooMany),
            (r"aesm:tcp\:8443:endpoint=tcp\:8444", tooMany),
            (r"aesm:tcp\:8443\:interface=127.0.0.1", r"written \\="),
            (r"aesm:tcp\:8443:key=", "key= is empty"),
            (r"aesm:tcp\:8443:psks=x", "did you mean psk"),
            (r"aesm:tcp\:8443:Name=x", "did you mean name"),
            (r"aesm:tcp\:8443:reactor=x", "no keyword 'reactor': use endpoint, key"),
            (r"aesm:tcp\:8443:self=x", "no keyword 'self'"),
        ):
            for read in (self.server, self.client):
                with self.assertRaisesRegex(ValueError, f"aesm: .*{message}"):
                    read(string)
        with self.assertRaisesRegex(ValueError, "did you mean authorizedKeys"):
            self.server(r"aesm:tcp\:8443:authorized_keys=x")
        with self.assertRaisesRegex(ValueError, "did you mean knownServers"):
            self.client(r"aesm:tcp\:h\:8443:knownservers=x")
        with self.assertRaisesRegex(ValueError, "authorizedKeys is for servers only"):
            self.client(r"aesm:tcp\:h\:8443:authorizedKeys=x")
        for word in ("knownServers", "pinned"):
            with self.assertRaisesRegex(ValueError, f"{word} is for clients only"):
                self.server(rf"aesm:tcp\:8443:{word}=x")
        with self.assertRaisesRegex(ValueError, "either pinned= .* or knownServers="):
            self.client(r"aesm:tcp\:h\:8443:pinned=x:knownServers=y")
        with self.assertRaisesRegex(ValueError, "public key is 44 characters"):
            self.client(r"aesm:tcp\:h\:8443:pinned=x")

    def test_numbers(self) -> None:
        """Bounds are numbers, which are said to be wrong as other keywords are."""
        for word, kind in (
            ("maxConnections", "a whole number"),
            ("maxConnectionsPerHost", "a whole number"),
            ("handshakesPerHost", "a number"),
        ):
            self.server(rf"aesm:tcp\:8443:{word}=7")
            for value in ("many", "1e"):
                with self.assertRaisesRegex(
                    ValueError, f"aesm: {word}= must be {kind}, not '{value}'"
                ):
                    self.server(rf"aesm:tcp\:8443:{word}={value}")
            with self.assertRaisesRegex(ValueError, f"{word} must be above 0"):
                self.server(rf"aesm:tcp\:8443:{word}=0")
            with self.assertRaisesRegex(ValueError, f"{word} is for servers only"):
                self.client(rf"aesm:tcp\:h\:8443:{word}=7")

    def test_inside(self) -> None:
        """What is wrong with the endpoint inside is that endpoint's to say."""
        for read in (self.server, self.client):
            with self.assertRaisesRegex(ValueError, "Unknown endpoint type: 'no'"):
                read(r"aesm:no\:such\:thing")

    def test_files(self) -> None:
        """A file that is missing is named."""
        for word in ("key", "psk", "authorizedKeys"):
            with self.assertRaisesRegex(KeyFileError, self.path("gone")):
                self.server(rf"aesm:tcp\:8443:{word}={self.path('gone')}")


class EndToEndTests(TestCase):
    """Both strings together, over a real socket."""

    timeout = 600

    async def test_all(self) -> None:
        """Every keyword does what it says."""
        directory = Path(self.mktemp())
        directory.mkdir()
        CLIENT.save(directory / "client.key")
        SERVER.save(directory / "server.key")
        PSK.generate().save(directory / "psk")
        (directory / "clients").write_text(f"{CLIENT.publicKey} ann\n")
        both = f"psk={directory / 'psk'}:name=test"
        inner = Recorder()
        port = await serverFromString(
            cast(Any, reactor),
            rf"aesm:tcp\:0\:interface\=127.0.0.1:key={directory / 'server.key'}:"
            rf"authorizedKeys={directory / 'clients'}:{both}:maxConnections=9:"
            r"maxConnectionsPerHost=9:handshakesPerHost=0.5",
        ).listen(Once(inner))
        self.addCleanup(port.stopListening)
        where = rf"tcp\:127.0.0.1\:{cast(Any, port.getHost()).port}"

        async def connect(more: str) -> Recorder:
            """
            Connect and close.

            @param more: keywords.
            """
            protocol = Recorder()
            endpoint = clientFromString(
                cast(Any, reactor),
                f"aesm:{where}:key={directory / 'client.key'}:{both}:{more}",
            )
            await endpoint.connect(Once(protocol))
            protocol.transport.loseConnection()
            await protocol.lost
            self.assertIsInstance(protocol.reasons[0], error.ConnectionDone)
            return protocol

        known = directory / "known"
        await connect(f"knownServers={known}")
        self.assertEqual(
            [key for _, key in KnownServers(known).entries()], [SERVER.publicKey]
        )
        for pinned in (SERVER.publicKey, f"{CLIENT.publicKey},{SERVER.publicKey}"):
            inner.__init__()  # type: ignore[misc]
            await connect(f"pinned={pinned}")
        with self.assertRaises(UntrustedServer):
            await connect(f"pinned={CLIENT.publicKey}")


class WebSocketTests(StringTestCase):
    """C{websocket:} strings."""

    if find_spec("wsproto") is None:  # pragma: no cover
        skip = "no wsproto"

    def ask(self, string: str, target: str, origin: str) -> bytes:
        """
        Have a page ask where a string says.

        @return: the first line of the answer.
        """
        self.server(string).listen(Once(Recorder()))
        listening: list[Any] = self.memory.tcpServers or self.memory.unixServers
        protocol = listening.pop()[1].buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(
            f"GET {target} HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n".encode()
        )
        return bytes(transport.value().partition(b"\r\n")[0])

    def test_form(self) -> None:
        """
        Any endpoint may be inside, a port alone is one of TCP; path and origins are as
        the string says.
        """
        for string, target, origin, status in (
            ("websocket:8766", "/", "http://x:8000", 101),
            ("websocket:8766", "/", "http://y", 403),
            ("websocket:8766", "/aesm", "http://x", 404),
            ("websocket:tcp:8766:path=/aesm", "/aesm", "http://x", 101),
            (r"websocket:unix:/s:origin=https\://Y", "/", "https://y", 101),
            (r"websocket:8766:origin=http\://z\:8,https\://y", "/", "http://z:8", 101),
            (r"websocket:8766:origin=http\://z\:8,https\://y", "/", "http://x", 403),
        ):
            answer = self.ask(string, target, origin)
            self.assertTrue(
                answer.startswith(b"HTTP/1.1 %d" % status), (string, answer)
            )

    def test_forwarded(self) -> None:
        """Behind a forwarder that says so the peer is who called that."""
        inner = Recorder()
        self.server("websocket:haproxy:tcp:8766").listen(Once(inner))
        listening: list[Any] = self.memory.tcpServers
        protocol = listening.pop()[1].buildProtocol(IPv4Address("TCP", "10.0.0.1", 1))
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(b"PROXY TCP4 192.0.2.7 10.0.0.2 40000 8766\r\n")
        self.assertEqual(inner.transport.getPeer().host, "192.0.2.7")

    def test_inside(self) -> None:
        """The rest of the string is the endpoint's, with room for all who come."""
        self.server("websocket:8766:interface=127.0.0.1:path=/x").listen(Once(None))
        self.assertEqual(
            self.memory.tcpServers[0][:1] + self.memory.tcpServers[0][2:],
            (8766, 1024, "127.0.0.1"),
        )

    def test_wrong(self) -> None:
        """What is wrong is said, with what would be right."""
        for string, message in (
            ("websocket:", "say where, such as websocket:8766"),
            ("websocket:path=/x", "say where"),
            ("websocket:8766:path=x", "path= begins with /, unlike 'x'"),
            ("websocket:8766:origin=chat.example", r"such as https\\://chat.example"),
            (r"websocket:8766:origin=http\://x/,http\://y", "not 'http://x/'"),
            ("websocket:8766:origin=null", "not 'null'"),
            ("websocket:8766:origin=*", "not '\\*'"),
            ("websocket:8766:origin=", "not ''"),
        ):
            with self.assertRaisesRegex(ValueError, f"websocket: .*{message}"):
                self.server(string)


class NoWebSocketTests(StringTestCase):
    """C{websocket:} strings where what they need is missing."""

    def test_missing(self) -> None:
        """The error is one line, which says what to install."""
        self.addCleanup(sys.modules.update, sys.modules.copy())
        self.addCleanup(sys.modules.pop, "wsproto")
        sys.modules.pop("aesm.secure.websocket", None)
        cast(Any, sys.modules)["wsproto"] = None
        with self.assertRaises(ValueError) as caught:
            self.server("websocket:8766")
        self.assertEqual(
            str(caught.exception),
            "websocket: there is no wsproto: pip install 'aesm[web]'",
        )


class ReusePortTests(TestCase):
    """C{reuseport:} strings."""

    def listen(self, string: str) -> Any:
        """Listen at what a string means, until the end of the test."""
        port = self.successResultOf(
            serverFromString(reactor, string).listen(Once(Recorder()))
        )
        self.addCleanup(port.stopListening)
        return port

    def test_form(self) -> None:
        """A port and an address, of IPv4 and of IPv6, alone and within others."""
        for string, host in (
            ("reuseport:0", "0.0.0.0"),
            ("reuseport:port=0:interface=127.0.0.1", "127.0.0.1"),
            (r"reuseport:0:interface=\:\:1", "::1"),
            ("haproxy:reuseport:0:interface=127.0.0.1", "127.0.0.1"),
            (r"aesm:reuseport\:0\:interface\=127.0.0.1", "127.0.0.1"),
        ):
            if string.startswith("aesm:"):
                path = self.mktemp()
                PrivateKey.generate().save(path)
                string += f":key={path}"
            self.assertEqual(self.listen(string).getHost().host, host, string)

    def test_shared(self) -> None:
        """Several may listen on one port."""
        port = self.listen("reuseport:0:interface=127.0.0.1").getHost().port
        again = self.listen(f"reuseport:{port}:interface=127.0.0.1").getHost().port
        self.assertEqual(again, port)

    def test_wrong(self) -> None:
        """What is wrong is said, with what would be right."""
        for string, message in (
            ("reuseport:x", "a port is 0 to 65535, not 'x'"),
            ("reuseport:65536", "not '65536'"),
            ("reuseport:0:interface=localhost", "'localhost' is not an address"),
        ):
            with self.assertRaisesRegex(ValueError, f"^reuseport: .*{message}"):
                serverFromString(reactor, string)
        with self.assertRaises(TypeError):
            serverFromString(reactor, "reuseport:0:colour=red")

    def test_nowhere(self) -> None:
        """Where the system has nothing of the kind the error says so."""
        self.patch(socket, "SO_REUSEPORT", None)
        del socket.SO_REUSEPORT
        with self.assertRaisesRegex(ValueError, "reuseport: this system has no port"):
            serverFromString(reactor, "reuseport:0")
