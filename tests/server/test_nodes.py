"""
Tests for servers that are nodes of one cluster, with a real engine: what becomes of
their clients when the engine, or a node, does not do what it should.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import capturedLogs

from aesm import AnyServer, ConnectionClosed, PrivateKey, connect
from aesm.cluster.lease import TIME
from aesm.cluster.sealing import KEY, Sealer
from aesm.core.messages.hello import Hello
from aesm.errors import SendBufferFull, SessionLost, SessionMoved, SpoolError
from aesm.plugins import HandlerMaker
from aesm.secure.refusals import Refused
from aesm.server.manager import RESUMES_PER_SESSION
from aesm.store.telling import MAX_ENTRY
from tests.support import engines
from tests.support.clusters import ClusterTestCase, ServingNode
from tests.support.engines import GRACE, RedisServer
from tests.support.helpers import XX
from tests.support.pairs import Recorder

SECRET = "nobody is to read this"

ALICE, BOB = (PrivateKey(bytes([number]) * 32) for number in (0x61, 0x62))


class NodesTestCase(ClusterTestCase):
    """
    Two nodes that echo, and Alice at the first of them.

    @ivar one: the first.
    @ivar two: the second.
    @ivar alice: she.
    """

    def setUp(self) -> None:
        """Start them."""
        super().setUp()
        self.handlers = [Recorder(self.echo) for _ in range(2)]
        self.one, self.two = (
            self.serving(name, handler)
            for name, handler in zip(("one", "two"), self.handlers, strict=True)
        )
        self.alice = self.client(ALICE, self.one)
        self.began = self.session

    def echo(self, connection: Any, packet: Any) -> None:
        """Send a message back."""
        connection.sendData(packet.data)

    @property
    def session(self) -> str:
        """The session that Alice has."""
        assert self.alice.former is not None
        return self.alice.former.session.name

    def say(self, text: str) -> Deferred[None]:
        """Let Alice say something."""
        return self.alice.sendData(text)

    def assertSaid(self, *texts: str) -> None:
        """Check that just this has come back, over the session that began."""
        self.assertEqual(self.taken(self.alice), list(texts))
        self.assertEqual(self.session, self.began)

    def cutEngine(self, *nodes: ServingNode) -> None:
        """Have nodes not reach the engine."""
        for node in nodes:
            node.node.lines.path = None
            for line in (*node.node.lines.lines, *node.node.lines.bells):
                line.cut()

    def joinEngine(self, *nodes: ServingNode) -> None:
        """Have nodes reach it again."""
        for node in nodes:
            node.node.lines.path = self.redis.path
        self.settle(10)


class GoesOnTests(NodesTestCase):
    """A session goes on at another node."""

    def test_killed(self) -> None:
        """Its node is killed: what was said is there, and what was not handled."""
        self.say("1")
        self.settle()
        self.kill(self.one)
        sent = self.say("2")
        self.clients[self.alice][0].node = self.two
        self.settle(10)
        self.assertIsNone(self.successResultOf(sent))
        self.assertSaid("1", "2")
        self.assertEqual(self.handlers[1].names, ["accepted", "packet"])

    def test_moved(self) -> None:
        """At the former node it is over, and says why; handlers are told at both."""
        connection = self.one.connection(ALICE)
        waiting = connection.closed()
        self.say("1")
        self.settle()
        self.roam(self.alice, self.two)
        self.say("2")
        self.settle()
        self.assertSaid("1", "2")
        self.assertIsInstance(self.successResultOf(waiting), SessionMoved)
        self.failureResultOf(connection.sendData("late"), SessionMoved)
        self.assertEqual(self.handlers[0].names, ["accepted", "packet", "lost"])
        self.roam(self.alice, self.one)
        self.say("3")
        self.settle()
        self.assertSaid("3")

    def test_sameNode(self) -> None:
        """A client that comes back to where it was goes on with what is there."""
        connection = self.one.connection(ALICE)
        self.roam(self.alice, self.one)
        self.assertIs(self.one.connection(ALICE), connection)
        self.assertEqual(self.handlers[0].names, ["accepted"])

    def test_tooOften(self) -> None:
        """
        A client that comes to one node after the other, more often than anybody has
        reason to, is refused before its session is moved.
        """
        hello, most = Hello(session=self.session), int(RESUMES_PER_SESSION * 10)
        managers = [each.server.factory._manager for each in (self.two, self.one)]
        for turn in range(most + 3):
            for manager in managers:
                begun: Deferred[Any] = maybeDeferred(
                    manager.begin, ALICE.publicKey, hello, ("127.0.0.1", 1), None
                )
                self.settle()
                if turn < most:
                    self.successResultOf(begun)
                else:
                    self.failureResultOf(begun, Refused)
        moved = [each.names.count("accepted") for each in self.handlers]
        self.assertEqual(moved, [1 + most, most])

    def test_stopped(self) -> None:
        """Nodes that are stopped in order leave their sessions to others."""
        stopping = self.one.server.stop()
        self.clients[self.alice][0].node = self.two
        self.settle(10)
        self.successResultOf(stopping)
        self.say("1")
        self.settle()
        self.assertSaid("1")


class RelayTests(ClusterTestCase):
    """What all are told."""

    def test_tooBig(self) -> None:
        """Who has the relay send more than can go to all nodes is told (1009)."""
        options: dict[str, Any] = {"maxMessage": 2 << 20}
        made = HandlerMaker("relay", "", "aesm.handlers.Relay")
        one = self.serving("one", made, **options)
        alice, bob = (self.client(key, one, **options) for key in (ALICE, BOB))
        closed = one.connection(ALICE).closed()
        for size in (MAX_ENTRY, MAX_ENTRY + 1):
            alice.sendData("x" * size)
            self.settle(5)
        self.assertEqual([len(data) for data in self.taken(bob)], [MAX_ENTRY])
        reason: Any = self.successResultOf(closed)
        self.assertEqual(reason.code, 1009)
        self.assertIn("split it", str(reason))


class SealedTests(ClusterTestCase):
    """What an engine has of servers with a key."""

    def setUp(self) -> None:
        """Have an engine with a file, and see what it is told."""
        server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self.addCleanup(server.stop)
        self.patch(engines, "sharedServer", lambda: server)
        super().setUp()
        self.monitor = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.monitor.close)
        self.monitor.connect(self.redis.path)
        self.monitor.sendall(b"MONITOR\r\n")
        self.one, self.two = (self.sealing(name) for name in ("one", "two"))
        self.alice = self.client(ALICE, self.one)
        self.bob = self.client(BOB, self.two)

    def sealing(self, name: str, handler: Any = None) -> ServingNode:
        """Start a node with the key."""
        return self.serving(name, handler, sealer=Sealer(bytes(KEY), "test"))

    def test_hidden(self) -> None:
        """
        Nothing that clients and servers say to each other is to be seen in what the
        engine is told, or writes.
        """
        self.alice.sendData(f"message {SECRET}")
        asked = self.alice.request(f"request {SECRET}")
        self.settle()
        self.cut(self.bob)
        self.clients[self.bob][0].node = None
        self.one.connection(ALICE).sendData(f"answer {SECRET}")
        self.one.cluster.sendTo(f"to {SECRET}", BOB.publicKey)
        self.one.server.sendAll(f"all {SECRET}")
        self.settle()
        self.redis.command("ECHO", "the end")
        said = b""
        while b"the end" not in said:
            said += self.monitor.recv(1 << 16)
        folder = Path(self.redis.path).parent
        files = b"".join(path.read_bytes() for path in folder.rglob("*.aof*"))
        for shown, place in ((said, b"q:"), (files, b"o:")):
            self.assertIn(place, shown)
            self.assertNotIn(SECRET.encode(), shown)
        self.clients[self.bob][0].node = self.two
        self.settle(60)
        came = [data.split(" ")[0] for data in self.taken(self.bob)]
        self.assertEqual(sorted(came), ["all", "to"])
        asked.addErrback(lambda failure: None)

    def test_swapped(self) -> None:
        """
        A session that has another's messages ends: its client is told, and begins
        another one; others go on.
        """
        names = []
        for client, key, node in (
            (self.alice, ALICE, self.one),
            (self.bob, BOB, self.two),
        ):
            self.clients[client][0].node = None
            self.cut(client)
            node.connection(key).sendData("kept")
            assert client.former is not None
            names.append(client.former.session.name)
        self.settle()
        alices, bobs = (self.key(f"o:{name}") for name in names)
        self.redis.command("COPY", bobs, alices, "REPLACE")
        sent = self.alice.sendData("later")
        three = self.sealing("three")
        for client in self.clients:
            self.clients[client][0].node = three
        with capturedLogs() as logged:
            self.settle(60)
        self.assertIsNone(self.successResultOf(sent))  # it had not left
        assert self.alice.former is not None
        self.assertNotEqual(self.alice.former.session.name, names[0])
        (said,) = [each for each in logged if "left alone" in each.get("reason", "")]
        self.assertEqual(said["name"], names[0])
        self.assertEqual(self.taken(self.alice), [])
        self.assertEqual(self.taken(self.bob), ["kept"])
        assert self.bob.former is not None
        self.assertEqual(self.bob.former.session.name, names[1])


class PerKeyTests(ClusterTestCase):
    """How many sessions a key may have."""

    def test_replaced(self) -> None:
        """With C{perKey="replace"} one, at whichever node it came last."""
        one, two = (self.serving(name, perKey="replace") for name in ("one", "two"))
        self.client(ALICE, one)
        connection = one.connection(ALICE)
        self.client(ALICE, two)
        self.settle(60)
        self.assertTrue(connection.isOver)
        self.assertEqual(list(one.server.connections), [])
        self.assertTrue(two.connection(ALICE).isAttached)

    def test_replacedUnread(self) -> None:
        """What is unread of one that is replaced is still there, and counts."""
        one, two = (self.serving(name, perKey="replace") for name in ("one", "two"))
        alice = self.client(ALICE, one)
        alice.sendData("x" * 5000)
        self.settle()
        connection = one.connection(ALICE)
        self.client(ALICE, two)
        self.settle(30)
        self.assertTrue(connection.isOver)
        self.assertGreater(one.server.factory._manager.budget.used, 5000)
        rows = two.cluster.byPeer(ALICE.publicKey)
        self.settle()
        self.assertEqual([row.node for row in self.successResultOf(rows)], ["two"])
        _, packet = one.server.connections.getDataOrdinal()
        assert packet is not None
        self.assertEqual(packet.data, "x" * 5000)
        self.settle(1)
        self.assertEqual(one.server.factory._manager.budget.used, 0)
        name = connection.session.name
        self.assertEqual(self.redis.command("KEYS", self.key(f"?:{name}")), [])
        self.assertEqual(two.connection(ALICE).isAttached, True)

    def test_rejected(self) -> None:
        """
        With C{perKey="reject"} the one that is there, at whichever node; its client may
        go from one to another, and another one come when it is away.
        """
        one, two = (self.serving(name, perKey="reject") for name in ("one", "two"))
        alice = self.client(ALICE, one)
        self.roam(alice, two)
        self.assertTrue(two.connection(ALICE).isAttached)
        other = self.client(ALICE, one)
        self.assertEqual(list(one.server.connections), [])
        self.assertEqual(one.server.connections.refusals["already-connected"], 1)
        self.cut(alice)
        self.clients[alice][0].node = None
        self.settle(10)
        self.assertTrue(one.connection(ALICE).isAttached)
        self.clients[alice][0].node = two
        self.settle(10)
        self.assertFalse(two.connection(ALICE).isAttached)
        self.assertTrue(two.server.connections.refusals["already-connected"])
        self.cut(other)
        self.clients[other][0].node = None
        self.settle(60)
        self.assertTrue(two.connection(ALICE).isAttached)


class EngineTests(NodesTestCase):
    """The engine is away, full, or has lost all."""

    def test_away(self) -> None:
        """
        Nothing is acknowledged or sent meanwhile, nobody comes, and no session ends
        however long that is; all of it arrives in the end.
        """
        self.say("1")
        self.settle()
        connection = self.one.connection(ALICE)
        self.cutEngine(self.one, self.two)
        sent = self.say("2")
        self.settle(5)
        self.assertNoResult(sent)
        self.assertSaid("1")
        refused = self.connecting()
        error: Any = self.failureResultOf(refused, ConnectionClosed).value
        self.assertEqual(error.code, 1013)
        self.settle(round(2 * GRACE))
        self.assertNoResult(sent)
        self.joinEngine(self.one, self.two)
        self.settle(60)
        self.assertIsNone(self.successResultOf(sent))
        self.assertSaid("2")
        self.assertFalse(connection.isOver)

    def connecting(self) -> Any:
        """Let Bob connect."""
        self.network.factory = self.one.listens
        connecting = connect(
            self.network.clock,
            self.network.endpoint(),
            trust=AnyServer(),
            key=BOB,
            suites=(XX,),
        )
        self.settle()
        return connecting

    def test_sending(self) -> None:
        """Who is no handler and sends something is told."""
        three = self.serving("three")
        self.client(BOB, three)
        connection = three.connection(BOB)
        self.cutEngine(three)
        self.failureResultOf(connection.sendData("late"), SpoolError)
        self.joinEngine(three)
        sent = connection.sendData("now")
        self.settle()
        self.assertIsNone(self.successResultOf(sent))

    def test_stoppedAway(self) -> None:
        """
        One that stops meanwhile says so: to who calls C{stop}, by its failure, to who
        stops it as a service, and could do nothing about that, in the log.
        """
        for which, stopName in ((self.one, "stopService"), (self.two, "stop")):
            self.clients[self.alice][0].node = which
            self.settle(20)
            self.cutEngine(which)
            self.say("1")
            self.settle()
            with capturedLogs() as logged:
                stopped = getattr(which.server, stopName)()
                self.settle(20)
            told = [e for e in logged if "could not write all" in e["log_format"]]
            if stopName == "stop":
                self.failureResultOf(stopped, SpoolError)
            else:
                self.assertIsNone(self.successResultOf(stopped))
            self.assertEqual(len(told), int(stopName == "stopService"))
            self.joinEngine(which)

    def test_stoppedStarting(self) -> None:
        """One that is stopped at any stage of its start complains of nothing."""
        for stage in range(100):
            starting = ServingNode(self, f"started{stage}")
            for _ in range(stage):
                starting.node.lines.deliver()
                self.network.advance(0)
            if starting.started.called:
                break
            with capturedLogs() as logged:
                stopped = starting.server.stop()
            self.failureResultOf(starting.started, CancelledError)
            said = [event for event in logged if event["log_level"].name != "info"]
            self.assertEqual(said, [])
            starting.listens = self.network.factory
            self.nodes.append(starting)
            self.settle(20)
            self.successResultOf(stopped)
        self.assertGreater(stage, 3)
        starting.listens = self.network.factory
        self.nodes.append(starting)

    def test_cutOff(self) -> None:
        """The clients of one node that does not reach it go on at others."""
        self.cutEngine(self.one)
        sent = self.say("1")
        self.settle(2)
        self.assertNoResult(sent)
        self.clients[self.alice][0].node = self.two
        with capturedLogs() as logged:
            self.settle(round(TIME) + 20)
        self.assertIn("go there", str([each["log_format"] for each in logged]))
        self.assertIsNone(self.successResultOf(sent))
        self.assertSaid("1")
        self.joinEngine(self.one)
        self.assertEqual(list(self.one.server.connections), [])

    def test_full(self) -> None:
        """Nothing is acknowledged while it is full, but clients come back."""
        self.setting("maxmemory", 1, 0)
        sent = self.say("1")
        self.settle(2)
        self.assertNoResult(sent)
        self.roam(self.alice, self.two)
        self.assertTrue(self.two.connection(ALICE).isAttached)
        self.redis.command("CONFIG", "SET", "maxmemory", 0)
        self.settle(5)
        self.assertIsNone(self.successResultOf(sent))
        self.assertSaid("1")

    def test_fullInlet(self) -> None:
        """
        While it is full, and its node has something for which there is no room, who
        comes back has what was sent to him meanwhile, which makes some.
        """
        bob = self.client(BOB, self.two)
        self.kill(self.two)
        for number in range(3):
            self.one.cluster.sendTo(str(number), BOB.publicKey)
        self.settle()
        self.setting("maxmemory", 1, 0)
        sent = self.say("1")
        self.settle(2)
        self.clients[bob][0].node = self.one
        self.settle(30)
        self.assertNoResult(sent)
        self.assertEqual(self.taken(bob), ["0", "1", "2"])
        assert bob.former is not None
        name = bob.former.session.name
        self.assertEqual(self.redis.command("EXISTS", self.key(f"q:{name}")), 0)
        self.settle(2)
        self.assertEqual(self.redis.command("EXISTS", self.key(f"o:{name}")), 0)
        self.redis.command("CONFIG", "SET", "maxmemory", 0)
        self.settle(5)
        self.assertIsNone(self.successResultOf(sent))

    def test_noRoom(self) -> None:
        """
        Who fills it is told, and nothing is forgotten for that: all that was accepted
        arrives once there is room.
        """
        three = self.serving("three")
        bob = self.client(BOB, three)
        connection = three.connection(BOB)
        self.cut(bob)
        self.clients[bob][0].node = cast(Any, None)
        self.setting("maxmemory", three.node.store.size + (2 << 20), 0)
        sent = []
        for number in range(100):
            sending = connection.sendData(f"{number} {'x' * 100_000}")
            failures: list[Any] = []
            sending.addErrback(failures.append)
            self.settle()
            if failures:
                failures[0].trap(SpoolError)
                break
            sent.append(sending)
        self.assertIn(len(sent), range(5, 40))
        self.assertIn(b"evicted_keys:0", self.redis.command("INFO", "stats"))
        self.redis.command("CONFIG", "SET", "maxmemory", 0)
        self.clients[bob][0].node = self.two
        self.settle(60)
        came = [data.split(" ")[0] for data in self.taken(bob)]
        self.assertEqual(came, [str(number) for number in range(len(sent))])

    def test_totalBuffer(self) -> None:
        """
        What a node keeps for its clients is bounded, and so is what the engine keeps of
        it, which is little more; it goes with the session.
        """
        bound = 1 << 20
        three = self.serving("three", totalBuffer=bound)
        bob = self.client(BOB, three)
        connection = three.connection(BOB)
        self.cut(bob)
        self.clients[bob][0].node = cast(Any, None)
        self.settle()
        quiet = three.node.store.size
        full: list[Any] = []
        while not full:
            sending = connection.sendData("x" * 30_000)
            sending.addErrback(full.append)
            self.settle()
        full[0].trap(SendBufferFull)
        self.settle(5)
        kept = three.node.store.size - quiet
        self.assertIn(kept, range(bound // 2, bound + bound // 4))
        connection.abort()
        self.settle(5)
        self.assertIn(three.node.store.size - quiet, range(-bound // 8, bound // 8))

    def test_flushed(self) -> None:
        """If it has lost all, everybody is told, and begins anew."""
        bob = self.client(BOB, self.two)
        connections = [self.one.connection(ALICE), self.two.connection(BOB)]
        ends = [each.closed() for each in connections]
        self.redis.command("FLUSHALL")
        sent = self.say("1")
        with capturedLogs() as logged:
            self.settle(20)
        for end in ends:
            self.assertIsInstance(self.successResultOf(end), SessionLost)
        self.failureResultOf(sent, SessionLost)
        self.assertIn("has lost all", str([each["log_format"] for each in logged]))
        self.assertNotEqual(self.session, self.began)
        self.taken(self.alice)
        self.say("2")
        self.settle()
        self.assertEqual(self.taken(self.alice), ["2"])
        self.one.cluster.sendTo("3", BOB.publicKey)
        self.settle()
        self.assertEqual(self.taken(bob), ["3"])

    def test_expired(self) -> None:
        """A client that does not come back in time is told; so is the handler."""
        connection = self.one.connection(ALICE)
        sent, ended = connection.sendData("late"), connection.closed()
        self.leave()
        self.settle(round(2 * GRACE))
        self.assertFalse(connection.isOver)  # it is the engine's clock that counts
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.redis.command("ZADD", self.key("w"), 1, self.began)
        with capturedLogs() as logged:
            self.settle(5)
        self.failureResultOf(sent, SessionLost)
        self.assertIsInstance(self.successResultOf(ended), SessionLost)
        self.assertIn("may not have", str([each["log_format"] for each in logged]))
        self.clients[self.alice][0].node = self.two
        self.settle(60)
        self.assertNotEqual(self.session, self.began)

    def test_expiredUnread(self) -> None:
        """What is unread of it is still there, counts, and goes once it is read."""
        server = self.serving("three").server
        bob = self.client(BOB, self.nodes[-1])
        assert bob.former is not None
        name = bob.former.session.name
        self.successResultOf(self.settled(bob.sendData("x" * 5000)))
        budget = server.factory._manager.budget
        self.clients[bob][0].node = cast(Any, None)
        self.cut(bob)
        self.settle(1)
        (connection,) = server.connections.values()
        for _ in range(2):  # that it is over is for its node to say
            self.redis.command("HSET", self.key("meta"), "calm", 1)
            self.redis.command("ZADD", self.key("w"), "XX", 1, name)
            self.settle(5)
            self.assertTrue(connection.isOver)
            self.assertGreater(budget.used, 5000)
        _, packet = server.connections.getDataOrdinal()
        assert packet is not None
        self.assertEqual(packet.data, "x" * 5000)
        self.settle(1)
        self.assertEqual(budget.used, 0)
        self.assertEqual(self.redis.command("KEYS", self.key(f"?:{name}")), [])

    def test_givenUpUnread(self) -> None:
        """If its node does not do that, it is the engine's, and takes no room here."""
        three = self.serving("three")
        bob = self.client(BOB, three)
        assert bob.former is not None
        name = bob.former.session.name
        self.successResultOf(self.settled(bob.sendData("x" * 5000)))
        bob.stopService()
        self.settle(10)
        budget = three.server.factory._manager.budget
        self.assertGreater(budget.used, 5000)
        self.redis.command(
            "PUBLISH", self.key(f"n:{three.node.engine.node}"), f"gone {name}"
        )
        self.settle()
        self.assertEqual(budget.used, 0)
        self.assertEqual(list(three.server.connections), [])

    def settled(self, sent: Deferred[None]) -> Deferred[None]:
        """Let everything go that is on its way."""
        self.settle()
        return sent

    def test_missed(self) -> None:
        """If nobody told its node that it is over, that asks, after the grace."""
        connection = self.one.connection(ALICE)
        self.leave()
        self.redis.command("DEL", self.key(f"s:{self.began}"))
        self.settle(5)
        self.assertFalse(connection.isOver)
        with capturedLogs():
            self.settle(round(GRACE))
        self.assertTrue(connection.isOver)

    def leave(self) -> None:
        """Let Alice be away, and not come back."""
        self.clients[self.alice][0].node = cast(Any, None)
        self.cut(self.alice)
        self.settle(1)


class StartTests(ClusterTestCase):
    """A node that cannot be one."""

    def test_unfit(self) -> None:
        """It does not start with an engine that forgets sessions, and says why."""
        self.setting("maxmemory-policy", "allkeys-lru", "noeviction")
        node = ServingNode(self, "one")
        self.nodes.append(node)
        with capturedLogs() as logged:
            self.settle()
        error = self.failureResultOf(node.started, SpoolError)
        self.assertIn("noeviction", error.getErrorMessage())
        (line,) = [each for each in logged if each["log_level"].name == "critical"]
        self.assertIn("noeviction", line["reason"])
