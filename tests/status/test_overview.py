"""
What is told of a server: L{aesm.status.overview}.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import time_ns
from typing import Any, cast

from twisted.internet.defer import Deferred

from aesm import Connection, PrivateKey, Server
from aesm.core.messages.hello import Hello
from aesm.errors import SpoolError
from aesm.messages.stream import Packet
from aesm.secure.refusals import Kind
from aesm.server.factory import MAX_AGENT
from aesm.status.overview import Overview
from aesm.testing import MemoryNetwork
from tests.messages.test_resume import GRACE, ResumeTestCase
from tests.support.pairs import CLIENT_KEY, PairTestCase, Recorder
from tests.support.spooled import SpoolTestCase

ROW = {
    *("address", "name", "key", "agent", "suite", "session", "state", "since", "grace"),
    *("idle", "roundTrip", "messagesIn", "bytesIn", "messagesOut", "bytesOut"),
    *("unacknowledged", "unacknowledgedBytes", "oldestUnacknowledged"),
    *("unread", "unreadBytes"),
}


def row(server: Server, connection: Connection | None = None) -> dict[str, Any]:
    """Take the row of a connection; None for the only one."""
    overview = Overview(server)
    wanted = overview.all() if connection is None else [connection]
    (found,) = overview.rows(wanted)
    return found


class RowTests(PairTestCase):
    """What is told of each connection."""

    def test_quiet(self) -> None:
        """Who it is, and that nothing waits."""
        pair = self.pair(Recorder())
        found = row(pair.server)
        self.assertEqual(set(found), ROW)
        self.assertEqual(json.loads(json.dumps(found)), found)
        host, port = cast("tuple[str, int]", pair.accepted.address)
        expected = {
            "address": f"{host}:{port}",
            "name": None,
            "key": str(pair.accepted.peer),
            "suite": pair.accepted.suite,
            "session": pair.accepted.session.name,
            "state": "open",
            "since": pair.accepted.since,
            "grace": None,
            "idle": 0.0,
            "roundTrip": None,
            "oldestUnacknowledged": None,
        }
        self.assertEqual({name: found[name] for name in expected}, expected)
        self.assertIn("aesm", found["agent"])
        numbers = ROW - set(expected) - {"agent"}
        self.assertEqual({found[name] for name in numbers}, {0})

    def test_messages(self) -> None:
        """What went each way, and what waits for the peer, and since when."""
        pair = self.pair(Recorder())
        pair.client.sendData(b"12345")
        pair.accepted.sendData(b"123")
        pair.deliver()
        (link,) = pair.network.links
        link.toClient.stalled = True
        pair.accepted.sendData(b"1234567")
        pair.accepted.sendData(b"1")
        pair.deliver()
        found = row(pair.server)
        self.assertEqual((found["messagesIn"], found["bytesIn"]), (1, 5))
        self.assertEqual((found["messagesOut"], found["bytesOut"]), (1, 3))
        self.assertEqual(
            (found["unacknowledged"], found["unacknowledgedBytes"]), (2, 8)
        )
        self.assertGreaterEqual(found["oldestUnacknowledged"], 0)
        link.toClient.stalled = False

    def test_unhandled(self) -> None:
        """What the handler is not done with is unread."""
        waiting: list[Deferred[None]] = []

        def wait(connection: Connection, packet: Packet) -> Deferred[None]:
            """Take the time."""
            waiting.append(Deferred())
            return waiting[-1]

        pair = self.pair(Recorder(wait))
        for _ in range(3):
            pair.client.sendData(b"123")
        pair.deliver()
        found = row(pair.server)
        self.assertEqual((found["unread"], found["unreadBytes"]), (3, 9))
        waiting[0].callback(None)
        found = row(pair.server)
        self.assertEqual((found["unread"], found["unreadBytes"]), (2, 6))

    def test_unread(self) -> None:
        """Nor is what nobody has taken, also once its client is gone."""
        pair = self.pair()
        for _ in range(3):
            pair.client.sendData(b"123")
        pair.deliver()
        pair.accepted.retrieved.getData()
        found = row(pair.server)
        self.assertEqual((found["unread"], found["unreadBytes"]), (2, 6))
        pair.client.close()
        pair.deliver()
        found = row(pair.server)
        self.assertEqual((found["state"], found["unread"]), ("closed", 2))
        self.assertEqual(found["idle"], None)

    def test_roundTrip(self) -> None:
        """It is told once a PING was answered, and so is how long nothing came."""
        pair = self.pair(Recorder(), client={"heartbeat": 1000.0})
        pair.advance(29)
        self.assertEqual(row(pair.server)["idle"], 29.0)
        (link,) = pair.network.links
        link.toServer.stalled = True
        pair.advance(1)
        pair.clock.advance(0.25)
        link.toServer.stalled = False
        pair.deliver()
        found = row(pair.server)
        self.assertEqual((found["idle"], found["roundTrip"]), (0.0, 0.25))
        self.assertEqual(Overview(pair.server).totals()["roundTrips"]["count"], 1)

    def test_agent(self) -> None:
        """What a client calls itself is cut, and any text is."""
        agent = "\x1b[2J\u202e<b>" + "x" * 100
        pair = self.pair(Recorder())
        pair.accepted.session.outbox.peer = Hello(agent=agent)
        found = row(pair.server)
        self.assertEqual(found["agent"], agent[:MAX_AGENT])

    def test_ended(self) -> None:
        """What is being closed is told as such; what is gone is left out."""
        pair = self.pair(Recorder())
        rows = Overview(pair.server).rows(Overview(pair.server).all())
        pair.accepted.sendData(b"1")
        pair.accepted.shed(1001, "")
        found = row(pair.server)
        self.assertEqual((found["state"], found["unacknowledged"]), ("closing", 0))
        pair.deliver()
        self.assertEqual(list(rows), [])


class WaitingTests(ResumeTestCase):
    """What is told of a client that is cut off."""

    def test_waiting(self) -> None:
        """It has its grace, and nobody counts it as connected."""
        self.begin(Recorder())
        self.network.advance(3)
        self.far.sendData(b"1")
        self.network.links[0].cut()
        self.client.stopService()
        self.network.advance(20)
        found = row(self.server)
        self.assertEqual((found["state"], found["grace"]), ("waiting", GRACE - 20))
        self.assertIsNone(found["idle"])
        self.assertEqual(found["unacknowledged"], 1)
        totals = Overview(self.server).totals()
        self.assertEqual((totals["connections"], totals["waiting"]), (0, 1))


class ChoiceTests(PairTestCase):
    """Which connections are told of."""

    def three(self) -> tuple[MemoryNetwork, Overview, list[Connection]]:
        """Let three clients in, two of them of one key and name."""
        clients = Path(self.mktemp())
        other = PrivateKey.generate()
        clients.write_text(f"{CLIENT_KEY.publicKey} alice\n{other.publicKey} bob\n")
        clients.chmod(0o600)
        network, server = self.serve(Recorder(), authorizedKeys=clients)
        for key in (CLIENT_KEY, other, CLIENT_KEY):
            self.join(network, key=key)
        return network, Overview(server), list(server.connections.values())

    def test_find(self) -> None:
        """By name, key, address or session."""
        _, overview, all = self.three()
        first, second, third = all
        self.assertEqual(overview.find("alice"), [first, third])
        self.assertEqual(overview.find(str(CLIENT_KEY.publicKey)), [first, third])
        for who in (row(overview._server, second)["address"], second.session.name):
            self.assertEqual(overview.find(who), [second])
        for who in ("carol", "127.0.0.1:1", "", str(PrivateKey.generate().publicKey)):
            self.assertEqual(overview.find(who), [])
        self.assertEqual(
            [each["name"] for each in overview.rows(all)][:2], ["alice", "bob"]
        )

    def test_lagging(self) -> None:
        """Who has waited longest is first, then of whom most is unread."""
        _, overview, (first, second, third) = self.three()
        second.session.outbox.add(b"1", 7)
        third.session.outbox.add(b"1", 5)
        self.assertEqual(overview.lagging(9), [third, second, first])
        self.assertEqual(overview.lagging(1), [third])
        third.session.outbox.drop()
        first.session.inbox.receivedCost += 9
        self.assertEqual(overview.lagging(9), [second, first, third])


class TotalsTests(PairTestCase):
    """What is told of the server as a whole."""

    def test_new(self) -> None:
        """Of one that has not started."""
        server = Server("tcp:0", reactor=MemoryNetwork().clock, key=CLIENT_KEY)
        totals = Overview(server).totals()
        self.assertEqual((totals["uptime"], totals["listening"]), (0.0, []))
        self.assertEqual(json.loads(json.dumps(totals)), totals)

    def test_totals(self) -> None:
        """Who it is, and how much it has and may have."""
        pair = self.pair(Recorder(), server={"maxConnections": 9, "totalBuffer": 1000})
        pair.advance(5)
        raw = self.rawClient(pair.network)
        totals = Overview(pair.server).totals()
        expected = {
            "pid": os.getpid(),
            "key": str(pair.server.publicKey),
            "listening": ["127.0.0.1:8765"],
            "uptime": 5.0,
            "stopping": False,
            "connections": 1,
            "waiting": 0,
            "handshakes": 1,
            "places": 9,
            "placesTaken": 1,
            "buffered": 0,
            "totalBuffer": 1000,
            "spool": None,
            "cluster": None,
            "refusals": {str(kind): 0 for kind in Kind},
        }
        self.assertEqual({name: totals[name] for name in expected}, expected)
        raw.transport.write(b"GET / HTTP/1.0\r\n\r\n")
        pair.deliver()
        totals = Overview(pair.server).totals()
        self.assertEqual(totals["refusals"]["handshake-failed"], 1)
        self.assertEqual(totals["handshakes"], 0)

    def test_traffic(self) -> None:
        """
        What went each way counts, also of connections that are gone, one message at a
        time or many; and how long what was acknowledged had waited, once for each read.
        """
        pair = self.pair(Recorder())
        for count in (1, 10):
            for _ in range(count):
                pair.client.sendData(b"12345")
                pair.accepted.sendData(b"123")
            pair.deliver()
        pair.client.close()
        pair.deliver()
        totals = Overview(pair.server).totals()
        self.assertEqual((totals["messagesIn"], totals["bytesIn"]), (11, 55))
        self.assertEqual((totals["messagesOut"], totals["bytesOut"]), (11, 33))
        acknowledged = totals["acknowledged"]
        self.assertEqual(len(acknowledged["buckets"]), 21)
        bounds, counts = zip(*acknowledged["buckets"], strict=True)
        self.assertEqual((bounds[0], bounds[-1]), (64e-6, 67.108864))
        self.assertEqual(list(counts), sorted(counts))
        # All of it was there within a minute.
        self.assertEqual(counts[-1], acknowledged["count"])
        self.assertIn(acknowledged["count"], range(2, 5))
        self.assertGreater(acknowledged["seconds"], 0)

    def test_setBack(self) -> None:
        """What is acknowledged when the clock was set back has not waited at all."""
        pair = self.pair(Recorder())
        ahead = time_ns() // 1000 + 3_600_000_000
        pair.server.factory.manager.traffic.oldest = ahead
        pair.client.sendData(b"12345")
        pair.deliver()
        acknowledged = Overview(pair.server).totals()["acknowledged"]
        self.assertEqual((acknowledged["count"], acknowledged["seconds"]), (1, 0))
        self.assertEqual(acknowledged["buckets"][0][1], 1)

    def test_stopping(self) -> None:
        """A server that stops says so."""
        pair = self.pair(Recorder())
        pair.server.stop()
        self.assertTrue(Overview(pair.server).totals()["stopping"])


class SpooledTests(SpoolTestCase):
    """What is told of a server with a spool."""

    def test_spool(self) -> None:
        """How large it is, and what is wrong with it."""
        server = self.serving()
        totals = Overview(server).totals()
        size = self.path.stat().st_size
        self.assertGreaterEqual(totals["spool"]["bytes"], size)
        self.assertIsNone(totals["spool"]["failure"])
        store = server.factory.manager.store
        assert store is not None
        store.failure = SpoolError("the disk is full")
        self.assertEqual(
            Overview(server).totals()["spool"]["failure"], "the disk is full"
        )
        store.failure = None

    def test_restored(self) -> None:
        """
        What was there before a restart counts for its connection, and not as traffic;
        what was taken is not unread.
        """
        self.serving()
        client = self.service()
        self.network.deliver()
        for _ in range(3):
            client.sendData(b"123")
        self.settle()
        self.accepted.retrieved.getData()
        self.settle()
        self.killServer()
        server = self.serving()
        found = row(server)
        self.assertEqual((found["messagesIn"], found["bytesIn"]), (3, 9))
        self.assertEqual((found["unread"], found["unreadBytes"]), (2, 6))
        self.assertEqual((found["state"], found["agent"]), ("waiting", ""))
        self.accepted.retrieved.getData()
        self.assertEqual(row(server)["unreadBytes"], 3)
        self.assertEqual(Overview(server).totals()["messagesIn"], 0)
