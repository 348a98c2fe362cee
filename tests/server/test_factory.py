"""
Tests for L{aesm.server.factory} and L{aesm.server.admission}: who comes in, and what is
written about it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast
from unicodedata import category

from twisted.internet import error, reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from aesm import (
    AESMServerFactory,
    Connections,
    NameOrKeyMismatch,
    NotAuthorized,
    PrivateKey,
)
from aesm.client import connect
from aesm.core.messages.frames import FrameType, encodeFrame
from aesm.core.messages.hello import Hello
from aesm.errors import ConnectionClosed, HandshakeError, ProtocolError, SpoolError
from aesm.interfaces import IMessageHandler, IMessageHandlerMaker
from aesm.secure import places
from aesm.secure.protocol import SecureProtocol
from aesm.secure.rawtransport import HangUp
from aesm.secure.refusals import MAX_LINES
from aesm.server.admission import farewell
from aesm.store.sqlite import MIN_MAX_SIZE
from aesm.testing.transport import MemoryLink
from aesm.trust.clients import RELOAD_INTERVAL
from tests.support.pairs import SERVER_KEY, PairTestCase, RawClient, Recorder

EVIL = "a\nb\rc\x1b[31m\u2028\u2029\u0085\u202e\0é"


def reasons(entries: list[Any]) -> list[tuple[str, str]]:
    """
    Shorten a log.

    @param entries: of the activity log.
    """
    return [(entry.event, entry.reason) for entry in entries]


class ConstructionTests(SynchronousTestCase):
    """What a factory is made of."""

    def test_reactor(self) -> None:
        """Without a reactor the installed one keeps time."""
        self.assertIs(AESMServerFactory(key=SERVER_KEY).clock, reactor)

    def test_stateDirectory(self) -> None:
        """Without a key it is the state directory's."""
        home = Path(self.mktemp())
        self.patch(os, "environ", os.environ | {"AESM_HOME": str(home)})
        factory = AESMServerFactory(reactor=Clock())
        self.assertEqual(
            factory.publicKey, PrivateKey.load(home / "server.key").publicKey
        )

    def test_maker(self) -> None:
        """A maker makes the handler of this server's registry, or none."""
        made: list[Connections] = []

        @implementer(IMessageHandlerMaker)
        class Maker:
            """A plugin."""

            name = description = "maker"

            def __init__(self, handler: object) -> None:
                """@param handler: what to make."""
                self.handler = handler

            def makeHandler(self, connections: Connections) -> Any:
                """Make it."""
                made.append(connections)
                return self.handler

        for handler in (Recorder(), None):
            factory = AESMServerFactory(
                reactor=Clock(), key=SERVER_KEY, handler=Maker(handler)
            )
            self.assertIs(made.pop(), factory.connections)
        with self.assertRaisesRegex(TypeError, "handler must provide IMessageHandler"):
            AESMServerFactory(reactor=Clock(), key=SERVER_KEY, handler=Maker("x"))
        self.assertTrue(IMessageHandler.implementedBy(Recorder))

    def test_sessions(self) -> None:
        """
        Options of sessions are checked at once; a spool is opened when listening
        begins, and not before.
        """
        for option in (
            {"sessionGrace": -1},
            {"spoolSync": "often"},
            {"spoolMax": MIN_MAX_SIZE - 1},
        ):
            (name,) = option
            with self.assertRaisesRegex(ValueError, f"^{name} must be "):
                AESMServerFactory(reactor=Clock(), key=SERVER_KEY, **option)
        path = Path(self.mktemp())
        factory = AESMServerFactory(reactor=Clock(), key=SERVER_KEY, spool=path)
        self.assertFalse(path.exists())
        path.mkdir()
        self.assertRaises(SpoolError, factory.doStart)
        self.successResultOf(factory.stop())

    def test_quiet(self) -> None:
        """Twisted itself logs nothing about it."""
        self.assertFalse(AESMServerFactory(reactor=Clock(), key=SERVER_KEY).noisy)


class ActivityTests(PairTestCase):
    """
    Exactly one entry, and one line of the log, for each connection that is
    accepted, refused or lost.
    """

    def logged(self, events: Any) -> list[str]:
        """
        Pick the lines about connections.

        @param events: of the log.
        """
        return [e["event"] for e in events if e["log_namespace"] == "aesm.activity"]

    def test_accepted(self) -> None:
        """Who, from where, by what."""
        key = PrivateKey.generate()
        with capturedLogs() as events:
            network, server = self.serve(authorizedKeys=lambda *_: "ada")
            client = self.join(network, key=key, port=7)
            client.close("bye")
            network.deliver()
        self.assertEqual(self.logged(events), ["accepted", "lost"])
        accepted, lost = self.entries(server)
        self.assertEqual(accepted[:2], (("127.0.0.1", 7), True))
        self.assertEqual(accepted.peer, key.publicKey)
        for part in (client.suite, "ada", "aesm/"):
            self.assertIn(part, accepted.reason)
        self.assertEqual(lost[:2], (("127.0.0.1", 7), False))
        self.assertIn("'bye'", lost.reason)
        self.assertEqual(lost.peer, key.publicKey)

    def test_everyRefusal(self) -> None:
        """Each way to be refused leaves one entry, one warning, and no connection."""
        cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"authorizedKeys": lambda *_: None}, {}),
            ({"authorizedKeys": lambda *_: ""}, {}),
            ({"authorizedKeys": lambda *_: False}, {}),
            ({"authorizedKeys": lambda *_: 1}, {}),
            ({"authorizedKeys": lambda *_: succeed(None)}, {}),
            ({"psk": b"p" * 32}, {}),
            ({"psk": b"p" * 32}, {"psk": b"q" * 32}),
            ({"name": "x"}, {}),
            ({"suites": ["Noise_XX_25519_ChaChaPoly_SHA256"]}, {}),
        ]
        for options, client in cases:
            with capturedLogs() as events:
                network, server = self.serve(**options)
                connecting = self.connecting(network, **client)
                network.advance(10)
                self.failureResultOf(connecting)
            self.assertEqual(self.logged(events), ["refused"])
            (line,) = [e for e in events if e["log_namespace"] == "aesm.activity"]
            self.assertEqual(line["log_level"], LogLevel.warn)
            (entry,) = self.entries(server)
            self.assertEqual((entry.event, entry[1]), ("refused", False))
            self.assertGreater(len(entry.reason), 20)
            self.assertEqual(len(server.connections), 0)

    def test_flood(self) -> None:
        """
        Of a host that is refused ever again there are few entries and lines, which add
        up to what came; who was accepted is still in the activity log.
        """
        with capturedLogs() as events:
            network, server = self.serve(maxConnections=2)
            self.join(network, port=7)
            self.join(network, port=8)
            factory = server.factory
            for number in range(20_000):
                where = IPv4Address("TCP", "192.0.2.1", number + 1)
                self.assertIsInstance(factory.buildProtocol(where), HangUp)
            network.advance(1)
            for number in range(200):
                for port in range(1, 101):
                    where = IPv4Address("TCP", f"198.51.100.{number}", port)
                    factory.buildProtocol(where)
                network.advance(0.1)
            self.takeDown(network, server)
        entries = self.entries(server)
        self.assertEqual([e.event for e in entries[:2]], ["accepted"] * 2)
        refused = [e for e in entries if e.event == "refused"]
        self.assertLess(len(refused), 30 * MAX_LINES)
        self.assertEqual(sum(e.times for e in refused), 40_000)
        self.assertEqual(server.connections.refusals, {"too-many-connections": 40_000})
        self.assertEqual(refused[0][0], ("192.0.2.1", 1))
        self.assertEqual(
            (refused[1][0], refused[1].times, refused[1].reason),
            (
                "192.0.2.1",
                19_999,
                "19999 more in 1 second (19999 too-many-connections)",
            ),
        )
        lines = self.logged(events)
        self.assertEqual(lines.count("refused"), len(refused))

    def test_kinds(self) -> None:
        """Each refusal is counted by its kind."""
        network, server = self.serve(authorizedKeys=lambda *_: None)
        counts = server.connections.refusals
        connecting = self.connecting(network)
        network.deliver()
        self.failureResultOf(connecting)
        self.assertEqual(counts, {"not-authorized": 1})
        client: Any = self.rawClient(network)
        client.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        network.deliver()
        self.assertEqual(counts["handshake-failed"], 1)
        self.rawClient(network)
        network.advance(10)
        self.assertEqual(counts["timeout"], 1)
        self.rawClient(network)
        server.stop()
        network.advance(10)
        self.assertEqual(counts["stopping"], 1)
        self.assertEqual(counts.total(), 4)

    def test_rawClients(self) -> None:
        """Foreign, silent, half-finished and vanishing clients leave one each."""
        for words, cut in (
            (b"GET / HTTP/1.1\r\n\r\n", False),
            (b"\x16\x03\x01", False),
            (b"", False),
            (b"\0\x05AESM", False),
            (b"\0\x05AESM/", True),
            (b"\0\x06AESM/2", False),
            (b"\0\x30AESM/1 Noise_XX_25519_AESGCM_SHA256", True),
            (b"\0\0", False),
        ):
            network, server = self.serve()
            client: Any = self.rawClient(network)
            client.transport.write(words)
            network.deliver()
            if cut and network.links:
                network.links[0].cut()
            network.advance(20)
            self.assertEqual(
                [e.event for e in self.entries(server)], ["refused"], words
            )
            self.assertEqual(network.links, [])

    def test_probes(self) -> None:
        """
        Who connects and closes without a word, in whatever way, is counted, and is one
        entry a minute, and one line that is no warning; none takes a handshake of its
        host's, and nothing is left of it.
        """
        with capturedLogs() as events:
            network, server = self.serve(handshakesPerHost=0.1)
            for number in range(90):
                client: Any = self.rawClient(network)
                if number % 3 == 0:
                    client.transport.loseConnection()
                elif number % 3 == 1:
                    client.transport.loseWriteConnection()
                else:
                    client.transport.abortConnection()
                network.advance(0.5)
                self.assertEqual(network.links, [])
                self.assertEqual(self.entries(server), [])
            network.advance(15)
            (entry,) = self.entries(server)
            self.assertEqual(network.clock.getDelayedCalls()[1:], [])
        self.assertEqual((entry.event, entry.times), ("probed", 90))
        self.assertEqual(entry[0], "127.0.0.1")
        (line,) = [e for e in events if e["log_namespace"] == "aesm.activity"]
        self.assertIs(line["log_level"], LogLevel.info)
        self.assertEqual(server.connections.refusals, {"probe": 90})
        self.join(network)

    def test_lastProbe(self) -> None:
        """What was counted is told when the server stops; one has its own words."""
        network, server = self.serve()
        client: Any = self.rawClient(network)
        client.transport.loseConnection()
        network.deliver()
        self.takeDown(network, server)
        (entry,) = self.entries(server)
        self.assertEqual((entry.event, entry.times), ("probed", 1))
        self.assertIn("without a word", entry.reason)

    def test_hostileText(self) -> None:
        """
        Nothing that a peer says brings a control character or a line separator
        into the log: its agent, its words at the close, its offer.
        """
        with capturedLogs() as events:
            network, server = self.serve()
            self.patch(connect, "AGENT", EVIL)
            client = self.join(network)
            client.close(EVIL)
            network.deliver()
            raw: Any = self.rawClient(network)
            offer = b"AESM/1 " + EVIL.encode()
            raw.transport.write(len(offer).to_bytes(2, "big") + offer)
            network.advance(10)
        self.assertEqual(len(events), 4)
        for text in [formatEvent(e) for e in events] + [
            e.reason for e in self.entries(server)
        ]:
            bad = [c for c in text if category(c) in ("Cc", "Cf", "Zl", "Zp")]
            self.assertEqual(bad, [], text)

    def test_longAgent(self) -> None:
        """A long agent is cut."""
        network, server = self.serve()
        for length in (63, 64, 65, 900):
            self.patch(connect, "AGENT", "x" * length)
            self.join(network, key=PrivateKey.generate())
            logged = self.entries(server)[-1].reason.rpartition("agent ")[2]
            self.assertEqual(logged, repr("x" * min(length, 64)))

    def test_badHello(self) -> None:
        """A hello that is malformed refuses the client, with a CLOSE."""

        self.patch(connect._Attempt, "hello", lambda self: b'{"maxMessage":-1}')
        network, server = self.serve()
        connecting = self.connecting(network)
        network.deliver()
        self.assertClosed(connecting, 1002)
        self.assertEqual([e.event for e in self.entries(server)], ["refused"])

    def test_sameAddress(self) -> None:
        """
        Two connections that come from one address, as at two ports of ours, are
        both listed, sent to, counted and found by their key; the second has a
        name of its own.
        """
        network, server = self.serve(maxConnectionsPerHost=2)
        key = PrivateKey.generate()
        first = self.join(network, host="192.0.2.1", port=5000)
        second = self.join(network, host="192.0.2.1", port=5000, key=key)
        self.assertEqual(
            list(server.connections), [("192.0.2.1", 5000), "192.0.2.1:5000-2"]
        )
        sent = server.sendAll("hi")
        network.deliver()
        self.assertEqual(self.successResultOf(sent), 2)
        self.assertEqual([len(first.retrieved), len(second.retrieved)], [1, 1])
        (found,) = server.connections.byPeer(key.publicKey)
        self.assertEqual(found.address, "192.0.2.1:5000-2")
        third = self.connecting(network, host="192.0.2.1", port=5001)
        network.deliver()
        self.failureResultOf(third)
        second.close()
        network.deliver()
        self.join(network, host="192.0.2.1", port=5001)

    def test_unix(self) -> None:
        """
        Where there are no hosts, connections are numbered, and no host is
        limited.
        """
        clock = Clock()
        factory = AESMServerFactory(
            reactor=clock,
            key=SERVER_KEY,
            maxConnectionsPerHost=1,
            handshakesPerHost=0.01,
        )
        nowhere: Any = UNIXAddress(None)
        links = [MemoryLink(clock, nowhere, nowhere) for _ in range(3)]
        for link in links:
            link.client.protocol = RawClient()
            link.server.protocol = cast(Protocol, factory.buildProtocol(nowhere))
            link.server.protocol.makeConnection(link.server)
            link.client.write(b"\0")
            link.deliver()
        names = {str(one.address) for one in factory._incoming.values()}
        self.assertEqual(len(names), 3)
        for name in names:
            self.assertRegex(name, r"^unix-\d+$")
        for link in links:
            link.cut()
        clock.advance(1)  # the second and third are told together
        self.assertEqual(clock.getDelayedCalls(), [])
        entries = [factory.connections.activity() for _ in range(3)]
        told = [entry and (entry[0], entry.times) for entry in entries]
        self.assertEqual(told, [("unix-1", 1), ("unix", 2), None])


class LimitTests(PairTestCase):
    """
    C{maxConnections}, C{maxConnectionsPerHost}, C{handshakesPerHost} and the
    bound on those who have not come in yet.
    """

    def tryFrom(self, network: Any, host: str) -> bool:
        """
        Try to connect.

        @param host: from where.
        @return: whether it worked.
        """
        connecting = self.connecting(network, host)
        network.deliver()
        worked: list[bool] = []
        connecting.addCallbacks(
            lambda _: worked.append(True), lambda _: worked.append(False)
        )
        return worked == [True]

    def test_maxConnections(self) -> None:
        """So many in all; when one has gone there is room again."""
        network, server = self.serve(maxConnections=2)
        came = [self.tryFrom(network, f"192.0.2.{n}") for n in range(1, 5)]
        self.assertEqual(came, [True, True, False, False])
        next(iter(server.connections.values())).abort()
        network.deliver()
        self.assertTrue(self.tryFrom(network, "192.0.2.9"))
        refused = [e.reason for e in self.entries(server) if e.event == "refused"]
        self.assertEqual(len(refused), 2)
        self.assertIn("maxConnections", refused[0])

    def test_unreadCounts(self) -> None:
        """A connection that is over counts as long as packets of it are unread."""
        network, server = self.serve(maxConnections=1)
        client = self.join(network)
        client.sendData("unread")
        client.close()
        network.deliver()
        self.assertFalse(self.tryFrom(network, "192.0.2.1"))
        server.connections.getDataOrdinal()
        self.assertTrue(self.tryFrom(network, "192.0.2.1"))

    def test_perHost(self) -> None:
        """So many of one host: IPv6 by /64, IPv4 mapped into IPv6 as itself."""
        network, server = self.serve(maxConnectionsPerHost=1)
        for host, expected in (
            ("192.0.2.1", True),
            ("192.0.2.1", False),
            ("::ffff:192.0.2.1", False),
            ("192.0.2.2", True),
            ("2001:db8::1", True),
            ("2001:db8::2:1", False),
            ("2001:db8:0:1::1", True),
        ):
            self.assertEqual(self.tryFrom(network, host), expected, host)
        network.advance(1)  # of the first host there are two
        refused = [e.reason for e in self.entries(server) if e.event == "refused"]
        self.assertEqual(len(refused), 3)
        for reason in refused:
            self.assertIn("maxConnectionsPerHost", reason)
        self.assertEqual(server.connections.refusals, {"too-many-connections": 3})

    def test_handshakes(self) -> None:
        """
        So many handshakes of one host a second, beyond a burst of ten seconds';
        who says nothing makes none.
        """
        network, server = self.serve(handshakesPerHost=0.5)
        for _ in range(10):
            silent: Any = self.rawClient(network)
            silent.transport.loseConnection()
        network.deliver()
        self.entries(server)
        came = [self.tryFrom(network, "127.0.0.1") for _ in range(7)]
        self.assertEqual(came, [True] * 5 + [False] * 2)
        self.assertTrue(self.tryFrom(network, "192.0.2.1"))
        network.advance(2)
        self.assertTrue(self.tryFrom(network, "127.0.0.1"))
        refused = [e.reason for e in self.entries(server) if e.event == "refused"]
        self.assertEqual(len(refused), 2)
        for reason in refused:
            self.assertIn("handshakesPerHost", reason)
        self.assertEqual(server.connections.refusals["host-rate"], 2)

    def test_pending(self) -> None:
        """
        Of those who have not come in yet the oldest of a host make room for new ones
        of it; who is in, and who comes from elsewhere, is not touched.
        """
        self.patch(places, "MIN_PENDING", 1)
        self.patch(places, "MAX_PENDING", 12)
        network, server = self.serve()
        inside = self.join(network)
        distant = self.rawClient(network, host="192.0.2.9")
        silent = [self.rawClient(network, port=n) for n in range(1, 6)]
        network.deliver()
        self.assertEqual([s.closed for s in silent], [1, 1, 0, 0, 0])
        self.assertEqual(distant.closed, 0)
        self.assertFalse(inside.isOver)
        self.assertTrue(self.tryFrom(network, "192.0.2.1"))
        self.assertTrue(self.tryFrom(network, "127.0.0.1"))
        refused = [e for e in self.entries(server) if e.event == "refused"]
        self.assertEqual(refused[0][0][1], 1)
        self.assertIn("made room", refused[0].reason)
        self.assertEqual(server.connections.refusals, {"made-room": 3})

    def test_madeRoom(self) -> None:
        """
        When all places are taken, the oldest connection of the key that has most is
        told to try again later, for one whose key has none; others are not.
        """
        network, server = self.serve(maxConnections=3)
        greedy = PrivateKey.generate()
        first = self.join(network, key=greedy, host="192.0.2.1")
        second = self.join(network, key=greedy, host="192.0.2.2")
        other = self.join(network, host="192.0.2.3")
        self.assertTrue(self.tryFrom(network, "192.0.2.4"))
        self.assertEqual(self.closedReason(first).code, 1013)
        self.assertFalse(self.tryFrom(network, "192.0.2.5"))  # all have one
        again = self.connecting(network, key=greedy, host="192.0.2.6")
        network.deliver()
        self.failureResultOf(again)
        self.assertFalse(second.isOver or other.isOver)
        self.assertEqual(len(server.connections), 3)

    def test_backWhenFull(self) -> None:
        """
        A client that comes back needs no place that another would have to make for it.
        """
        network, server = self.serve(maxConnections=3)
        greedy = PrivateKey.generate()
        mine = PrivateKey.generate()
        others = [self.join(network, key=greedy, host="192.0.2.1") for _ in range(2)]
        client = self.join(network, key=mine, host="192.0.2.3")
        admission = server.factory._admission
        (there,) = server.connections.byPeer(mine.publicKey)
        hello = Hello(session=there.session.name, requests=True)
        address = ("192.0.2.3", 5)
        replaced, yielding = admission._leaving(mine.publicKey, hello, address)
        self.assertEqual((replaced, yielding), ([], None))
        other = PrivateKey.generate().publicKey
        _, yielding = admission._leaving(other, Hello(), address)
        (oldest, _) = server.connections.byPeer(greedy.publicKey)
        self.assertIs(yielding, oldest)
        self.assertFalse(any(one.isOver for one in (*others, client)))

    def test_ofKey(self) -> None:
        """One key has a quarter of the places, wherever it comes from."""
        network, server = self.serve(maxConnections=36)
        key = PrivateKey.generate()
        for number in range(9):
            self.join(network, key=key, host=f"192.0.2.{number}")
        tenth = self.connecting(network, key=key, host="192.0.2.10")
        network.deliver()
        self.assertClosed(tenth, 1013)
        self.assertIn("of this key", self.entries(server)[-1].reason)
        self.assertTrue(self.tryFrom(network, "192.0.2.10"))

    def test_sameMoment(self) -> None:
        """
        Of two who prove themselves at the same moment, for the last place, one is
        told to try again later.
        """
        network, server = self.serve(maxConnections=1)
        connecting = [self.connecting(network) for _ in range(2)]
        network.deliver()
        self.successResultOf(connecting[0])
        self.assertClosed(connecting[1], 1013)
        self.assertEqual(len(server.connections), 1)


class AuthorizedTests(PairTestCase):
    """C{authorizedKeys} decides whose key is let in."""

    def setUp(self) -> None:
        """Make keys and a file."""
        self.ada, self.bob = PrivateKey.generate(), PrivateKey.generate()
        self.path = Path(self.mktemp())
        self.write("ada", "bob")

    def write(self, *names: str) -> None:
        """
        Write the file anew.

        @param names: whose keys to write.
        """
        new = self.path.with_suffix(".new")
        lines = [f"{getattr(self, name).publicKey} {name}\n" for name in names]
        new.write_text("".join(lines))
        new.chmod(0o600)
        new.replace(self.path)

    def test_file(self) -> None:
        """Keys in the file come in by their names, others do not."""
        network, server = self.serve(authorizedKeys=self.path)
        for key in (self.ada, self.bob):
            self.join(network, key=key)
        names = [c.peerName for c in server.connections.values()]
        self.assertEqual(names, ["ada", "bob"])
        other = PrivateKey.generate()
        connecting = self.connecting(network, key=other)
        network.deliver()
        self.failureResultOf(connecting, NotAuthorized)
        refused = self.entries(server)[-1]
        self.assertEqual(refused.peer, other.publicKey)
        self.assertIn(f"'{other.publicKey} NAME'", refused.reason)

    def test_takenOut(self) -> None:
        """
        A key that is taken out of the file is disconnected with 1008, all of its
        connections and no other; it does not come in again.
        """
        network, server = self.serve(authorizedKeys=self.path)
        adas = [self.join(network, key=self.ada) for _ in range(2)]
        bob = self.join(network, key=self.bob)
        self.write("bob")
        self.look(network, 2)
        for client in adas:
            self.assertIsInstance(self.closedReason(client), NotAuthorized)
        self.assertFalse(bob.isOver)
        connecting = self.connecting(network, key=self.ada)
        network.deliver()
        self.failureResultOf(connecting, NotAuthorized)
        lost = [e.reason for e in self.entries(server) if e.event == "lost"]
        self.assertEqual(len(lost), 2)
        self.assertIn("1008", lost[0])
        self.write("ada", "bob")
        self.look(network, 2)
        self.join(network, key=self.ada)

    def look(self, network: Any, times: int) -> None:
        """Let the server look at the file."""
        for _ in range(times):
            network.advance(RELOAD_INTERVAL)

    def test_beingWritten(self) -> None:
        """
        While the file goes on changing, and when nothing is left in it, who is in
        stays in.
        """
        network, _ = self.serve(authorizedKeys=self.path)
        ada = self.join(network, key=self.ada)
        for names in ((), ("bob",), ()):
            self.write(*names)
            self.look(network, 1)
        self.look(network, 3)
        self.assertFalse(ada.isOver)

    def test_takenOutIsDeaf(self) -> None:
        """
        What a client goes on saying after its key was taken out reaches nobody, also
        where it does not answer our CLOSE.
        """
        network, server = self.serve(authorizedKeys=self.path)
        ada = self.join(network, key=self.ada)
        [connection] = server.connections.values()
        self.write("bob")
        server.factory.reloadKeys()
        ada.sendData("after")  # before our CLOSE is there
        got = connection.retrieved.get()
        network.deliver()
        self.failureResultOf(got, ConnectionClosed)

    def test_operators(self) -> None:
        """The registry knows who is marked in the file, as it is now."""
        _, server = self.serve(authorizedKeys=self.path)
        isOperator = server.connections.isOperator
        self.assertFalse(isOperator(self.ada.publicKey))
        self.path.write_text(f"operator {self.ada.publicKey} ada\n")
        server.factory.reloadKeys()
        self.assertTrue(isOperator(self.ada.publicKey))
        self.assertFalse(Connections().isOperator(self.ada.publicKey))

    def test_reloadKeys(self) -> None:
        """An operator may have the file read at once."""
        network, server = self.serve(authorizedKeys=self.path)
        client = self.join(network, key=self.ada)
        self.write("bob")
        server.factory.reloadKeys()
        network.deliver()
        self.assertTrue(client.isOver)

    def test_takenOutWhileDeciding(self) -> None:
        """A client is let in by what the file says when it is asked."""
        network, _ = self.serve(authorizedKeys=self.path)
        self.write("ada")
        connecting = self.connecting(network, key=self.bob)
        self.look(network, 2)
        connecting.addErrback(lambda failure: None)
        again = self.connecting(network, key=self.bob)
        network.deliver()
        self.failureResultOf(again, NotAuthorized)

    def test_answers(self) -> None:
        """A function says a name, or True, or either later."""
        for answer, name in (
            ("eve", "eve"),
            (True, None),
            (succeed("eve"), "eve"),
            (succeed(True), None),
        ):
            network, server = self.serve(authorizedKeys=lambda *_, a=answer: a)
            self.join(network)
            (connection,) = server.connections.values()
            self.assertEqual(connection.peerName, name)

    def test_asked(self) -> None:
        """It is asked about the key and where it comes from."""
        asked: list[Any] = []

        def check(*args: Any) -> str:
            """Take note."""
            asked.extend(args)
            return "ada"

        network, _ = self.serve(authorizedKeys=check)
        self.join(network, key=self.ada, port=7)
        address = IPv4Address("TCP", "127.0.0.1", 7)
        self.assertEqual(asked, [self.ada.publicKey, address])

    def test_fails(self) -> None:
        """An error of its own is logged, and refuses the client with 1011."""

        def raises(*_: object) -> None:
            """Fail."""
            raise ZeroDivisionError

        for check in (raises, lambda *_: fail(ZeroDivisionError())):
            network, server = self.serve(authorizedKeys=check)
            connecting = self.connecting(network)
            network.deliver()
            self.assertClosed(connecting, 1011)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.assertEqual([e.event for e in self.entries(server)], ["refused"])

    def test_neverAnswers(self) -> None:
        """
        One that never answers has the handshake's deadline, and is cancelled; who
        went away meanwhile is one entry.
        """
        answer: Deferred[str] = Deferred()
        network, server = self.serve(
            authorizedKeys=lambda *_: answer, handshakeTimeout=3
        )
        connecting = self.connecting(network)
        network.advance(2.9)
        self.assertNoResult(connecting)
        self.assertEqual(len(server.connections), 0)
        network.advance(0.1)
        self.failureResultOf(connecting)
        self.assertTrue(answer.called)
        self.assertEqual([e.event for e in self.entries(server)], ["refused"])

    def test_answersTooLate(self) -> None:
        """An answer after the end changes nothing."""
        answer: Deferred[str] = Deferred(lambda deferred: None)
        network, server = self.serve(authorizedKeys=lambda *_: answer)
        connecting = self.connecting(network)
        network.deliver()
        network.links[0].cut()
        self.failureResultOf(connecting)
        if not answer.called:
            answer.callback("ada")
        network.deliver()
        self.assertEqual(len(server.connections), 0)


class PerKeyTests(PairTestCase):
    """C{perKey} says what a second connection of one key does."""

    def connectTwice(self, perKey: str, **options: Any) -> Any:
        """
        Connect twice with one key.

        @param options: more of the server's.
        @return: the first connection, the second's Deferred, network, server.
        """
        network, server = self.serve(perKey=perKey, **options)
        key = PrivateKey.generate()
        first = self.join(network, key=key)
        second = self.connecting(network, key=key)
        network.deliver()
        return first, second, network, server

    def test_allow(self) -> None:
        """By default both stay."""
        first, second, _, server = self.connectTwice("allow")
        self.successResultOf(second)
        self.assertFalse(first.isOver)
        self.assertEqual(len(server.connections), 2)

    def test_replace(self) -> None:
        """
        The second takes the first one's place, which is told so with 4001, also
        where there is room for one only.
        """
        first, second, _, server = self.connectTwice("replace", maxConnections=9)
        self.successResultOf(second)
        self.assertEqual(self.closedReason(first).code, 4001)
        self.assertEqual(len(server.connections), 1)
        events = [entry.event for entry in self.entries(server)]
        self.assertEqual(sorted(events), ["accepted", "accepted", "lost"])

    def test_replaceWhileLeaving(self) -> None:
        """
        Where all places are taken, one key gives up one place at a time: connections
        that do not end, since their client does not read, are no places to give.
        """
        network, server = self.serve(perKey="replace", maxConnections=2)
        key = PrivateKey.generate()
        self.join(network)
        # They begin while there is room, and finish their handshakes one by one.
        connecting = [self.connecting(network, key=key) for _ in range(3)]
        for link in network.links[1:]:
            for _ in range(9):
                link.deliver()
                network.clock.advance(0)
            link.toServer.stalled = True
        self.assertClosed(connecting.pop(), 1013)
        for accepted in connecting:
            self.successResultOf(accepted)
        self.assertIn("maxConnections", self.entries(server)[-1].reason)

    def test_replaceUnread(self) -> None:
        """What the first had sent can still be read."""
        network, server = self.serve(perKey="replace")
        key = PrivateKey.generate()
        self.join(network, key=key).sendData("old")
        network.deliver()
        self.join(network, key=key).sendData("new")
        network.deliver()
        data = [server.connections.getDataOrdinal()[1].data for _ in "ab"]
        self.assertEqual(data, ["old", "new"])

    def test_reject(self) -> None:
        """The second is told to try again later; when the first has gone it may."""
        first, second, network, server = self.connectTwice("reject")
        self.assertClosed(second, 1013)
        self.assertFalse(first.isOver)
        self.assertIn("connected already", self.entries(server)[-1].reason)
        self.join(network)

    def test_rejectUnread(self) -> None:
        """A connection that is listed for its unread packets only does not count."""
        network, _ = self.serve(perKey="reject")
        key = PrivateKey.generate()
        client = self.join(network, key=key)
        client.sendData("unread")
        client.close()
        network.deliver()
        self.join(network, key=key)


class FarewellTests(SynchronousTestCase):
    """A client that is not let in is told a code and fixed words."""

    def test_codes(self) -> None:
        """Whatever the reason says is for the server's log."""
        for reason, code, words in (
            (NotAuthorized("secret"), 1008, b"not authorized"),
            (ConnectionClosed("secret", 1013), 1013, b"try again later"),
            (ProtocolError("secret"), 1002, b"protocol error"),
            (HandshakeError("secret"), 1011, b"internal error"),
            (NameOrKeyMismatch("secret"), 1011, b"internal error"),
        ):
            frame = farewell(reason)
            empty = len(encodeFrame(FrameType.CLOSE, 0))
            self.assertEqual(frame[empty:], code.to_bytes(2, "big") + words)


class LifeTests(PairTestCase):
    """The factory as endpoints use it."""

    def test_reload(self) -> None:
        """The authorized keys are looked after while it listens, and no longer."""
        clock = Clock()
        factory = AESMServerFactory(reactor=clock, key=SERVER_KEY)
        self.assertEqual(clock.getDelayedCalls(), [])
        factory.doStart()
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        factory.doStop()
        self.assertEqual(clock.getDelayedCalls(), [])
        factory.stopFactory()

    def test_isOpen(self) -> None:
        """It is open without authorized keys and pre-shared key."""
        for options, expected in (
            ({}, True),
            ({"psk": b"p" * 32}, False),
            ({"authorizedKeys": lambda *_: "x"}, False),
        ):
            factory = AESMServerFactory(reactor=Clock(), key=SERVER_KEY, **options)
            self.assertEqual(factory.isOpen, expected)

    def test_buildProtocol(self) -> None:
        """Each connection has a protocol of its own, which leaves nothing behind."""
        network, server = self.serve()
        protocols = []
        for _ in range(2):
            raw: Any = self.rawClient(network)
            protocols.append(network.links[-1].server.protocol)
            raw.transport.abortConnection()
        network.deliver()
        self.assertIsNot(*protocols)
        for protocol in protocols:
            self.assertIsInstance(protocol, SecureProtocol)
        self.assertEqual(server.factory._incoming, {})
        self.assertEqual(len(server.factory._places._pending), 0)
        self.assertEqual(len(server.factory._places._hosts), 0)

    def test_counts(self) -> None:
        """However connections end, the count of them comes back to nothing."""
        network, server = self.serve()
        ends = (
            lambda client: client.close(),
            lambda client: client.abort(),
            lambda client: network.links[0].cut(),
            lambda client: next(iter(server.connections.values())).abort(),
            lambda client: client.sendData("unread") and client.close(),
        )
        for end in ends:
            end(self.join(network))
            network.deliver()
        server.connections.getDataOrdinal()
        self.assertEqual(len(server.connections), 0)
        self.assertEqual(server.factory._incoming, {})
        self.assertEqual(len(server.factory._places._hosts), 0)
        events = [entry.event for entry in self.entries(server)]
        self.assertEqual(events, ["accepted", "lost"] * len(ends))

    def test_refusedBySocket(self) -> None:
        """Where nobody listens any more, the network says so."""
        network, server = self.serve()
        self.successResultOf(server.stop())
        connecting = self.connecting(network)
        self.failureResultOf(connecting, error.ConnectionRefusedError)
