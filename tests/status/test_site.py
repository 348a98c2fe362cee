"""
The status page: L{aesm.status.site} and L{aesm.status.page}.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.template import Tag, flatten
from zope.interface import implementer

from aesm import Server
from aesm.core.messages.hello import Hello
from aesm.errors import SpoolError
from aesm.status.overview import Overview
from aesm.status.page import statusPage
from aesm.status.site import (
    MAX_BODY,
    MAX_CLIENTS,
    PATIENCE,
    SHOWN,
    StatusPage,
    StatusSite,
)
from aesm.testing import MemoryNetwork
from tests.support.pairs import SERVER_KEY, PairTestCase, Recorder
from tests.support.spooled import SpoolTestCase

# An override and a mark of direction, a control character, markup, a line's end.
HOSTILE = "\u202e<script>alert('1')</script>\"&\x1b[31m\nx\u2066"
LOOPBACK = IPv4Address("TCP", "127.0.0.1", 9100)
CLUSTER = {"name": "<chat>", "node": "one-1", "failure": None}
LOST = Failure(ConnectionLost())


class Wire(StringTransport):
    """
    What a browser and a site have between them.

    @ivar aborted: whether the site hung up at once.
    """

    aborted = False

    def abortConnection(self) -> None:
        """Take note of it."""
        self.aborted = True


class Answer:
    """
    What a site has answered.

    @ivar code: the status.
    @ivar headers: by name, in lower case.
    @ivar body: the rest.
    """

    def __init__(self, data: bytes) -> None:
        """Read it."""
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        self.code = int(first.split(" ")[1])
        parts = (line.split(": ", 1) for line in lines)
        self.headers = {name.lower(): value for name, value in parts}
        if self.headers.get("transfer-encoding") == "chunked":
            self.body = self._joined(self.body)

    def _joined(self, rest: bytes) -> bytes:
        """Put chunks together."""
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            body, rest = body + rest[:length], rest[length + 2 :]
        return body


def flat(page: Tag) -> str:
    """Write a page."""
    pieces: list[bytes] = []
    flatten(None, page, pieces.append)
    return b"".join(pieces).decode("utf-8")


class SiteTestCase(PairTestCase):
    """Tests of a site without a network."""

    def open(
        self,
        server: Server,
        address: IAddress = LOOPBACK,
        **options: Any,
    ) -> tuple[Protocol, Wire]:
        """Connect to the site of a server."""
        site = StatusSite(server.factory.clock, Overview(server), **options)
        return self.reach(site, address)

    def reach(
        self, site: StatusSite, address: IAddress = LOOPBACK
    ) -> tuple[Protocol, Wire]:
        """Connect to a site."""
        protocol = site.buildProtocol(LOOPBACK)
        assert protocol is not None
        wire = Wire(hostAddress=address, peerAddress=LOOPBACK)
        protocol.makeConnection(wire)
        return protocol, wire

    def ask(
        self,
        server: Server,
        target: str = "/",
        method: str = "GET",
        host: str = "localhost:9100",
        body: bytes = b"",
        **options: Any,
    ) -> Answer:
        """Ask the site of a server for something."""
        protocol, wire = self.open(server, **options)
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}"
        protocol.dataReceived(f"{head}Connection: close\r\n\r\n".encode() + body)
        return Answer(wire.value())


class _Texts(HTMLParser):
    """
    Reads a page as a browser does.

    @ivar texts: all of it that is shown.
    @ivar tags: which elements there are.
    @ivar loaded: what is fetched from elsewhere.
    """

    def __init__(self) -> None:
        """Start before the first."""
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.loaded: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of it."""
        self.tags.add(tag)
        wanted = ("src", "href") if tag == "link" else ("src",)
        self.loaded += [value for name, value in attrs if name in wanted]

    def handle_data(self, data: str) -> None:
        """Take note of it."""
        self.texts.append(data)


class PageTests(SiteTestCase):
    """What people see."""

    def test_page(self) -> None:
        """Who is there, and what waits; nothing comes from elsewhere, nor by script."""
        pair = self.pair(Recorder())
        pair.client.sendData(b"12345")
        pair.deliver()
        answer = self.ask(pair.server)
        self.assertEqual(answer.code, 200)
        self.assertEqual(answer.headers["content-type"], "text/html; charset=utf-8")
        text = answer.body.decode("utf-8")
        self.assertTrue(text.startswith('<!DOCTYPE html>\n<html lang="en">'))
        page = _Texts()
        page.feed(text)
        (row,) = Overview(pair.server).rows([pair.accepted])
        for shown in (
            row["address"],
            row["key"][:12] + "\u2026",
            row["agent"],
            "Running.",
        ):
            self.assertIn(shown, page.texts)
        self.assertIn("1 (5)", page.texts)
        self.assertIn(str(pair.server.publicKey), page.texts)
        self.assertEqual(page.loaded, ["/style.css"])
        self.assertNotIn("script", page.tags)
        self.assertIn('<meta http-equiv="refresh" content="5"', text)

    def test_readable(self) -> None:
        """Tables say what is in their rows and columns, and labels what they are of."""
        pair = self.pair(Recorder())
        text = self.ask(pair.server).body.decode("utf-8").partition("\n")[2]
        tree = ElementTree.fromstring(text)
        for head in tree.iter("th"):
            self.assertIn(head.get("scope"), ("row", "col"))
        for table in tree.iter("table"):
            for row in table.iter("tr"):
                self.assertIsNotNone(row.find("th"))
        fields = {each.get("id") for each in tree.iter("input")}
        self.assertEqual({each.get("for") for each in tree.iter("label")}, fields)
        ids = [each.get("id") for each in tree.iter() if each.get("id")]
        self.assertEqual(len(ids), len(set(ids)))
        for link in tree.iter("a"):
            target = link.get("href") or ""
            if target.startswith("#"):
                self.assertIn(target[1:], ids)

    def test_paused(self) -> None:
        """Whoever reads it can have it stay as it is, and go on."""
        pair = self.pair(Recorder())
        text = self.ask(pair.server, "/?refresh=off&q=%C3%A4").body.decode("utf-8")
        self.assertNotIn("http-equiv", text)
        self.assertIn('href="/?q=%C3%A4"', text)
        text = self.ask(pair.server, "/?q=%C3%A4%22%3E").body.decode("utf-8")
        self.assertIn('href="/?q=%C3%A4%22%3E&amp;refresh=off"', text)
        self.assertIn('value="ä&quot;&gt;"', text)

    def test_hostile(self) -> None:
        """What clients say of themselves is text on one line, whatever is in it."""
        pair = self.pair(Recorder())
        pair.accepted.session.outbox.meet(Hello(agent=HOSTILE))
        pair.accepted.peerName = HOSTILE
        for target in ("/", "/?q=" + pair.accepted.session.name):
            answer = self.ask(pair.server, target)
            text = answer.body.decode("utf-8")
            for character in "\u202e\u2066\x1b":
                self.assertNotIn(character, text)
            page = _Texts()
            page.feed(text)
            shown = "\\u202e<script>alert('1')</script>\"&\\x1b[31m\\nx\\u2066"
            self.assertEqual(page.texts.count(shown), 2)
            self.assertNotIn("script", page.tags)

    def test_query(self) -> None:
        """Those who are looked for, and nobody else."""
        network, server = self.serve(Recorder())
        for _ in range(3):
            self.join(network)
        first, *_ = server.connections.values()
        text = self.ask(server, "/?q=" + first.session.name).body.decode("utf-8")
        self.assertEqual(text.count('<tr><th scope="row" class="text">'), 1)
        self.assertIn("1 found.", text)
        self.assertIn("0 found.", self.ask(server, "/?q=nobody").body.decode("utf-8"))

    def test_many(self) -> None:
        """Of many it shows those that lag most, and how many there are."""
        pair = self.pair(Recorder())
        (row,) = Overview(pair.server).rows([pair.accepted])
        totals = {**Overview(pair.server).totals(), "connections": 10_000}
        text = flat(statusPage(totals, [row] * SHOWN))
        self.assertIn("The 100 of 10,000 that lag most.", text)

    def test_states(self) -> None:
        """It says what is wrong, and who is away for how long."""
        pair = self.pair(Recorder())
        (row,) = Overview(pair.server).rows([pair.accepted])
        totals = Overview(pair.server).totals()
        for change, told in (
            ({"stopping": True}, "Stopping: nobody is let in any more."),
            ({"spool": {"bytes": 1, "failure": "<full>"}}, "&lt;full&gt;"),
            ({"spool": {"bytes": 2048, "failure": None}}, "2.0k"),
            ({"cluster": CLUSTER}, "&lt;chat&gt;"),
            ({"cluster": {**CLUSTER, "failure": "<gone>"}}, "&lt;gone&gt;"),
            ({"refusals": {"timeout": 7}}, "timeout"),
        ):
            text = flat(statusPage({**totals, **change}, [{**row, "grace": 42.0}]))
            self.assertIn(told, text)
            self.assertIn("away, 42s left", text)

    def test_slow(self) -> None:
        """Something that took longer than any bound is told as what it is."""
        pair = self.pair(Recorder())
        totals = Overview(pair.server).totals()
        found = {"count": 2, "seconds": 200.0, "buckets": [[64e-6, 1], [67.1, 1]]}
        text = flat(statusPage({**totals, "roundTrips": found}, []))
        self.assertIn("over 67s", text)
        self.assertIn("64us", text)


class SiteTests(SiteTestCase):
    """What is answered to whom."""

    def test_headers(self) -> None:
        """Nothing is stored, framed, sniffed, or loaded from elsewhere."""
        pair = self.pair(Recorder())
        for target in ("/", "/metrics", "/healthz", "/nothing"):
            headers = self.ask(pair.server, target).headers
            policy = headers["content-security-policy"]
            self.assertTrue(policy.startswith("default-src 'none'; "))
            self.assertNotIn("script", policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual(headers["x-content-type-options"], "nosniff")
            self.assertEqual(headers["referrer-policy"], "no-referrer")
            self.assertEqual(headers["cache-control"], "no-store")
            self.assertEqual(headers["server"], "aesm")

    def test_style(self) -> None:
        """The page's looks are its own; they follow the reader's, and show focus."""
        pair = self.pair(Recorder())
        answer = self.ask(pair.server, "/style.css")
        self.assertEqual(answer.headers["content-type"], "text/css; charset=utf-8")
        self.assertIn(b"prefers-color-scheme: dark", answer.body)
        self.assertIn(b":focus-visible", answer.body)
        self.assertNotIn(b"url(", answer.body)

    def test_metrics(self) -> None:
        """Prometheus has its format."""
        pair = self.pair(Recorder())
        answer = self.ask(pair.server, "/metrics")
        self.assertEqual(
            answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8"
        )
        self.assertIn(b"\naesm_connections 1\n", answer.body)

    def test_head(self) -> None:
        """HEAD has no body."""
        pair = self.pair(Recorder())
        for target in ("/", "/metrics", "/healthz", "/connections.json"):
            answer = self.ask(pair.server, target, "HEAD")
            self.assertEqual((answer.code, answer.body), (200, b""))

    def test_readOnly(self) -> None:
        """Nothing else can be done, with or without a body."""
        pair = self.pair(Recorder())
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "X"):
            for body in (b"", b"x=1"):
                answer = self.ask(pair.server, "/", method, body=body)
                self.assertEqual(answer.code, 405)
                self.assertEqual(answer.headers["allow"], "GET, HEAD")

    def test_missing(self) -> None:
        """What is not there is not found."""
        pair = self.pair(Recorder())
        for target in ("/x", "/metrics/", "/../etc/passwd", "/style.css/x", "*"):
            self.assertIn(self.ask(pair.server, target).code, (404, 405))

    def test_hosts(self) -> None:
        """
        A browser that a stranger's name has led here learns nothing; of a socket, or
        where anyone may ask, any name will do.
        """
        pair = self.pair(Recorder())
        ours = ("localhost", "LOCALHOST:9100", "127.0.0.1:9100", "127.1.2.3", "[::1]:9")
        for host in ours:
            self.assertEqual(self.ask(pair.server, host=host).code, 200, host)
        for host in (
            "evil.example",
            "evil.example:9100",
            "192.0.2.1",
            "",
            "a\xff",
            "[",
        ):
            answer = self.ask(pair.server, host=host)
            self.assertEqual(answer.code, 421, host)
            self.assertIn(b"--status-anyone", answer.body)
            self.assertEqual(self.ask(pair.server, host=host, anyone=True).code, 200)
            socket = UNIXAddress("/status")
            self.assertEqual(self.ask(pair.server, host=host, address=socket).code, 200)

    def test_health(self) -> None:
        """A server that takes clients is well; one that stops, or has none, is not."""
        pair = self.pair(Recorder())
        answer = self.ask(pair.server, "/healthz")
        self.assertEqual((answer.code, answer.body), (200, b"ok\n"))
        pair.server.stop()
        answer = self.ask(pair.server, "/healthz")
        self.assertEqual((answer.code, answer.body), (503, b"stopping\n"))
        idle = Server("tcp:0", reactor=MemoryNetwork().clock, key=SERVER_KEY)
        answer = self.ask(idle, "/healthz")
        self.assertEqual((answer.code, answer.body), (503, b"not listening\n"))

    def test_many(self) -> None:
        """There is room for some, and again once they are gone."""
        pair = self.pair(Recorder())
        site = StatusSite(pair.network.clock, Overview(pair.server))
        (first, _), *_ = [self.reach(site) for _ in range(MAX_CLIENTS)]
        self.assertIsNone(site.buildProtocol(LOOPBACK))
        first.connectionLost(LOST)
        self.assertIsNotNone(site.buildProtocol(LOOPBACK))
        for protocol in list(site.protocols):
            if protocol is not first:
                protocol.connectionLost(LOST)

    def test_patience(self) -> None:
        """Who asks nothing has not long to do so."""
        pair = self.pair(Recorder())
        protocol, wire = self.open(pair.server)
        protocol.dataReceived(b"GET / HTT")
        pair.network.advance(PATIENCE - 1)
        self.assertFalse(wire.disconnecting)
        pair.network.advance(2)
        self.assertTrue(wire.disconnecting)
        protocol.connectionLost(LOST)

    def test_bodies(self) -> None:
        """What nobody asked for is thrown away; of more than some, nothing is read."""
        pair = self.pair(Recorder())
        for size, disconnects in ((MAX_BODY, False), (MAX_BODY + 1, True)):
            protocol, wire = self.open(pair.server)
            head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}"
            protocol.dataReceived(head.encode() + b"\r\n\r\n" + bytes(100))
            self.assertEqual(wire.disconnecting, disconnects)
            protocol.connectionLost(LOST)
        protocol, wire = self.open(pair.server)
        head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked"
        protocol.dataReceived(head.encode() + b"\r\n\r\n")
        self.assertTrue(wire.disconnecting)
        protocol.connectionLost(LOST)


@implementer(IStreamServerEndpoint, IListeningPort)
class Somewhere:
    """
    An endpoint, and the port that it makes.

    @ivar listening: whether it listens.
    @ivar site: what it was given.
    @ivar times: how often it was to listen.
    """

    site: StatusSite
    times = 0

    def __init__(self, address: IAddress) -> None:
        """@param address: where it listens."""
        self.address = address
        self.listening = False

    def listen(self, protocolFactory: Any) -> Deferred[Any]:
        """Do so."""
        self.listening, self.site = True, protocolFactory
        self.times += 1
        return succeed(self)

    def startListening(self) -> None:
        """It does."""

    def stopListening(self) -> None:
        """Do so no more."""
        self.listening = False

    def getHost(self) -> IAddress:
        """Say where."""
        return self.address


class ListeningTests(SiteTestCase):
    """Where it is, and for whom."""

    def page(self, address: IAddress, **options: Any) -> tuple[StatusPage, Somewhere]:
        """Make a page that is to listen somewhere."""
        pair = self.pair(Recorder())
        endpoint = Somewhere(address)
        page = StatusPage(
            pair.network.clock, endpoint, Overview(pair.server), **options
        )
        return page, endpoint

    def test_private(self) -> None:
        """Where only this machine is, and nowhere else unless that is said, too."""
        ours = [IPv4Address("TCP", host, 1) for host in ("127.0.0.1", "127.255.0.1")]
        for address in (*ours, IPv6Address("TCP", "::1", 1), UNIXAddress("/s")):
            page, endpoint = self.page(address)
            self.successResultOf(page.open())
            self.assertTrue(endpoint.listening)
            page.close()
            self.assertFalse(endpoint.listening)
        others: list[IAddress] = []
        others += [IPv6Address("TCP", host, 1) for host in ("::", "fe80::1")]
        for host in ("0.0.0.0", "192.0.2.7", "10.0.0.1"):
            others.append(IPv4Address("TCP", host, 1))
        for address in others:
            page, endpoint = self.page(address)
            error = self.failureResultOf(page.open(), ValueError).value
            self.assertIn("--status-anyone", str(error))
            self.assertFalse(endpoint.listening)
            page, endpoint = self.page(address, anyone=True)
            self.successResultOf(page.open())
            self.assertTrue(endpoint.listening)

    def test_again(self) -> None:
        """One that is open is not opened again; one that was closed is."""
        page, endpoint = self.page(LOOPBACK)
        for _ in range(2):
            self.successResultOf(page.open())
            self.successResultOf(page.open())
            self.assertEqual(endpoint.times, 1)
            page.close()
            endpoint.times = 0

    def test_close(self) -> None:
        """At the end nobody is left."""
        page, endpoint = self.page(LOOPBACK)
        self.successResultOf(page.open())
        protocol, wire = self.reach(endpoint.site)
        page.close()
        self.assertTrue(wire.aborted)
        protocol.connectionLost(LOST)
        page.close()


class LongAnswerTests(SiteTestCase, TestCase):
    """What all connections are told in."""

    async def read(self, server: Server) -> Answer:
        """Ask for it, and wait until it is there."""
        protocol, wire = self.open(server)
        head = b"GET /connections.json HTTP/1.1\r\nHost: localhost\r\n"
        protocol.dataReceived(head + b"Connection: close\r\n\r\n")
        while not wire.disconnecting:
            await deferLater(reactor, 0)
        protocol.connectionLost(LOST)
        return Answer(wire.value())

    async def test_connections(self) -> None:
        """Programs have it all, in pieces that are written as they are taken."""
        network, server = self.serve(Recorder())
        for count in (0, 1, 2):
            answer = await self.read(server)
            told = json.loads(answer.body)
            self.assertEqual(answer.headers["content-type"], "application/json")
            self.assertEqual(answer.headers["cache-control"], "no-store")
            self.assertEqual(told["server"]["connections"], count)
            self.assertEqual(len(told["connections"]), count)
            self.join(network)

    async def test_reader(self) -> None:
        """Whoever takes nothing of it any more costs nothing more."""
        pair = self.pair(Recorder())
        protocol, wire = self.open(pair.server)
        target = b"GET /connections.json HTTP/1.1\r\nHost: [::1]\r\n\r\n"
        protocol.dataReceived(target)
        producer: Any = wire.producer
        producer.stopProducing()  # as a socket's transport does
        protocol.connectionLost(LOST)
        before = wire.value()
        for _ in range(5):
            await deferLater(reactor, 0)
        self.assertEqual(wire.value(), before)


class SpooledSiteTests(SpoolTestCase, SiteTestCase):
    """What is said of a spool."""

    def test_health(self) -> None:
        """A server that cannot write its spool is not well."""
        server = self.serving()
        self.assertEqual(self.ask(server, "/healthz").code, 200)
        store = server.factory.manager.store
        assert store is not None
        store.failure = SpoolError("the disk is full\x1b")
        answer = self.ask(server, "/healthz")
        store.failure = None
        self.assertEqual(answer.code, 503)
        self.assertEqual(
            answer.body, b"the spool cannot be written: the disk is full\\x1b\n"
        )
