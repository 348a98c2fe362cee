"""
Tests for L{aesm.server.inlets}: what other nodes send to sessions that are here.
"""

from __future__ import annotations

import os
from itertools import count
from random import Random
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from aesm import Connection, Packet, PrivateKey
from aesm.cluster import batch
from aesm.errors import CloseCode, ConnectionClosed, SendBufferFull, SpoolError
from tests.support.clusters import ClusterTestCase, ServingNode
from tests.support.pairs import Recorder

SCHEDULES = int(os.environ.get("AESM_MODEL_EXAMPLES", "3"))
STEPS = (
    *["send"] * 6,
    *["turn"] * 6,
    *["engine"] * 6,
    *["bell"] * 4,
    *("second", "roam", "roam", "kill", "deaf", "away"),
)

ALICE, BOB, CAROL = (PrivateKey(bytes([it]) * 32) for it in (0x61, 0x62, 0x63))


class InletTestCase(ClusterTestCase):
    """Two nodes, each with a client; what Alice sends at the first goes to Bob."""

    def setUp(self) -> None:
        """Have them."""
        super().setUp()
        self.sent: list[Any] = []
        self.one = self.serving("one", Recorder(self.pass_))
        self.two = self.serving("two", Recorder())
        self.alice = self.client(ALICE, self.one)
        self.bob = self.client(BOB, self.two)

    def pass_(self, connection: Connection, packet: Packet) -> None:
        """Send a message on."""
        cluster = self.one.cluster
        self.sent.append(cluster.sendTo(cast("str", packet.data), BOB.publicKey))

    def say(self, *messages: Any) -> None:
        """Have Alice send something."""
        for message in messages:
            self.alice.sendData(message)
        self.settle()


class DeliveryTests(InletTestCase):
    """All of it comes, once and in order."""

    def test_comes(self) -> None:
        """Text and bytes come as what they are, and who sent them is told."""
        self.say("a", b"b", "é", "")
        self.assertEqual(self.taken(self.bob), ["a", b"b", "é", ""])
        self.assertEqual([self.successResultOf(sent) for sent in self.sent], [1] * 4)
        self.assertEqual(self.redis.command("KEYS", self.key("q:*")), [])
        self.say(*map(str, range(100)))
        self.assertEqual(self.taken(self.bob), [*map(str, range(100))])

    def test_away(self) -> None:
        """
        It waits for a client that is away, at its node, and at whichever it comes to
        when its own has died.
        """
        self.say("1")
        self.kill(self.two)
        self.settle()
        self.say("2", "3")
        self.assertEqual([self.successResultOf(sent) for sent in self.sent], [1] * 3)
        self.roam(self.bob, self.one)
        self.say("4")
        self.assertEqual(self.taken(self.bob), ["1", "2", "3", "4"])

    def test_killed(self) -> None:
        """
        What a handler has sent by a node that is killed is sent once: with its message,
        which is handled once more if that was not written.
        """
        for data in ("a", "b", "c"):
            self.alice.sendData(data)
            self.network.advance(0)  # it is handled
            if data != "a":
                self.one.node.lines.line.execute()  # written, unheard
            self.kill(self.one)
            self.one = self.serving("one-" + data, Recorder(self.pass_))
            self.roam(self.alice, self.one)
        self.assertEqual(self.taken(self.bob), ["a", "b", "c"])
        self.assertEqual(len(self.sent), 4)

    def test_early(self) -> None:
        """How it went is told once that is written, before the rest of the turn is."""
        self.patch(batch, "MAX_SESSIONS", 1)  # of what the engine does at a time
        carol = self.client(CAROL, self.one)
        for client in (self.alice, carol):
            client.sendData("a")
        self.network.advance(0)  # it is handled
        self.one.node.lines.deliver()
        self.assertEqual(self.successResultOf(self.sent[0]), 1)
        self.assertNoResult(self.sent[1])
        self.settle()
        self.assertEqual(self.successResultOf(self.sent[1]), 1)

    def fall(self, data: str) -> None:
        """Have the first node write what a message causes, and be killed at once."""
        handler = self.one.server.factory.manager.handler
        self.alice.sendData(data)
        self.network.advance(0)  # it is handled
        self.one.node.lines.line.execute()  # written, unheard
        self.kill(self.one)
        self.one = self.serving("one-" + data[0], handler)
        self.roam(self.alice, self.one)

    def test_untold(self) -> None:
        """
        A handler's message counts although there is no room for what it sends; if its
        node is killed just then, nobody hears of that.
        """
        self.patch(batch, "MAX_INLET", 40)
        self.kill(self.two)
        self.say("x" * 30)
        self.fall("b")
        self.assertEqual(len(self.sent), 2)
        self.assertNoResult(self.sent[1])
        self.roam(self.bob, self.one)
        self.assertEqual(self.taken(self.bob), ["x" * 30])

    def test_waited(self) -> None:
        """
        If a handler waits until it knows, it is handed its message once more, and told
        then; what did have room is sent twice.
        """
        handler: Any = self.one.server.factory.manager.handler
        told: list[Failure] = []

        def waiting(connection: Connection, packet: Packet) -> Deferred[object]:
            """Send a message on, and wait."""
            self.pass_(connection, packet)
            waited: Deferred[object] = self.sent[-1].addErrback(told.append)
            return waited

        handler.react = waiting
        self.patch(batch, "MAX_INLET", 100)
        self.kill(self.two)
        self.fall("a")
        self.say("x" * 50)
        self.assertEqual(told, [])
        self.fall("b" * 50)
        (failure,) = told
        failure.trap(SendBufferFull)
        self.roam(self.bob, self.one)
        self.assertEqual(self.taken(self.bob), ["a", "a", "x" * 50])

    def test_moved(self) -> None:
        """
        What the message of a session has caused that goes on elsewhere is sent there,
        and not here; who sent it here is told.
        """
        three = self.serving("three", Recorder(self.passThree))
        self.alice.sendData("a")
        self.network.advance(0)  # it is handled
        lines, self.one.node.lines.lines = self.one.node.lines.lines, []
        bells, self.one.node.lines.bells = self.one.node.lines.bells, []
        self.roam(self.alice, three)
        self.assertEqual(self.taken(self.bob), ["a"])
        self.one.node.lines.lines, self.one.node.lines.bells = lines, bells
        self.settle(5)
        self.assertEqual(self.taken(self.bob), [])
        self.failureResultOf(self.sent[0], ConnectionClosed)
        self.assertEqual(self.successResultOf(self.sent[1]), 1)

    def test_late(self) -> None:
        """
        So it is with what is sent when its session is known to go on elsewhere, by a
        coroutine that was begun before.
        """
        gate: Deferred[None] = Deferred()
        late: list[Deferred[int]] = []

        async def passLate(packet: Packet) -> None:
            """Send a message on, later."""
            await gate
            late.append(self.one.cluster.sendTo(packet.data or "", BOB.publicKey))

        handler: Any = self.one.server.factory.manager.handler
        handler.react = lambda connection, packet: passLate(packet)
        self.say("a")
        self.serving("three", Recorder(self.passThree))
        self.roam(self.alice, self.nodes[2])
        gate.callback(None)
        self.settle()
        self.failureResultOf(late[0], ConnectionClosed)
        self.assertEqual(self.taken(self.bob), ["a"])

    def passThree(self, connection: Connection, packet: Packet) -> None:
        """Send a message on, by the third node."""
        cluster = self.nodes[2].cluster
        self.sent.append(cluster.sendTo(cast("str", packet.data), BOB.publicKey))

    def test_missed(self) -> None:
        """What was published while nobody heard comes, in order, once."""
        self.say("1")
        for bell in self.two.node.lines.bells:
            bell.cut()
        self.say("2", "3")
        self.assertEqual(self.taken(self.bob), ["1"])
        self.settle(5)
        self.say("4")
        self.assertEqual(self.taken(self.bob), ["2", "3", "4"])

    def test_gap(self) -> None:
        """So does what is heard behind something that was not."""
        self.say("1")
        store = self.two.node.store
        came, store.came = store.came, lambda *these: None
        self.say("2")
        store.came = came
        self.say("3")
        self.assertEqual(self.taken(self.bob), ["1", "2", "3"])

    def test_meanwhile(self) -> None:
        """So does what comes while the inlet is being read."""
        session = self.two.connection(BOB).session.name
        for last in range(1, 9):
            self.two.node.store.came(session, None)
            for _ in range(last % 4):
                self.network.advance(0)
                self.two.node.lines.deliver()
            self.alice.sendData(str(last))
            self.network.advance(0)
            self.one.node.lines.deliver()
            self.two.node.lines.hearAll()
        self.settle()
        self.assertEqual(self.taken(self.bob), [*map(str, range(1, 9))])

    def test_unreadable(self) -> None:
        """An inlet that cannot be read now is read later."""
        connection = self.two.connection(BOB)
        store = self.two.node.store
        read, failing = store.readInlet, fail(SpoolError("not now"))
        store.readInlet = lambda *these: failing  # type: ignore[method-assign]
        self.say("1")
        store.readInlet = read  # type: ignore[method-assign]
        self.assertEqual(self.taken(self.bob), [])
        self.settle(2)
        self.assertEqual(self.taken(self.bob), ["1"])
        self.assertFalse(connection.isClosing)


class RoomTests(InletTestCase):
    """Bob is at a node that keeps next to nothing for him."""

    def setUp(self) -> None:
        """Let Bob be there, and take nothing."""
        super().setUp()
        self.three = self.serving("three", Recorder(), sendBuffer=4000)
        self.roam(self.bob, self.three)
        self.stall(True)

    def stall(self, isStalled: bool) -> None:
        """Let nothing come to Bob, or all."""
        for link in self.network.links:
            if link.server.protocol.factory is self.three.listens:  # type: ignore[attr-defined]
                link.toClient.stalled = isStalled

    @property
    def waiting(self) -> int:
        """How many messages are in Bob's inlet."""
        keys = self.redis.command("KEYS", self.key("q:*"))
        return sum(self.redis.command("ZCARD", key) for key in keys)

    def test_waits(self) -> None:
        """What his session has no room for stays in its inlet, and comes later."""
        messages = [str(number) * 1000 for number in range(5)]
        self.say(*messages[:4])
        self.assertEqual(self.waiting, 2)
        self.say(messages[4])
        self.assertEqual(self.waiting, 3)
        self.stall(False)
        self.settle()
        self.assertEqual(self.taken(self.bob), messages)
        self.assertEqual(self.waiting, 0)

    def test_elsewhere(self) -> None:
        """It comes at whichever node he comes to, behind what was before it."""
        messages = [str(number) * 1000 for number in range(5)]
        self.say(*messages)
        self.roam(self.bob, self.two)
        self.assertEqual(self.taken(self.bob), messages)
        self.assertEqual(self.waiting, 0)

    def test_over(self) -> None:
        """Nobody waits for room in a session that is over."""
        self.say(*["x" * 1000] * 5)
        connection = self.three.connection(BOB)
        self.cut(self.bob)
        self.network.advance(0)
        connection.finish(ConnectionClosed("it is over"))
        self.settle()
        self.assertEqual(self.waiting, 0)

    def test_together(self) -> None:
        """It waits, too, while all sessions together have too much."""
        self.fill()
        self.settle(3)
        self.assertEqual(self.waiting, 1)
        self.three.server.factory.manager.budget.bound = 1 << 30
        self.settle(2)
        self.assertEqual(self.waiting, 0)
        self.stall(False)
        self.settle()
        self.assertEqual(self.taken(self.bob), ["x" * 1000, "a"])

    def fill(self) -> None:
        """Let there be no room for all together."""
        self.say("x" * 1000)
        self.three.server.factory.manager.budget.bound = 1000
        self.say("a")

    def test_ended(self) -> None:
        """Nobody waits, for one that is over, until all others have less."""
        self.fill()
        connection = self.three.connection(BOB)
        self.cut(self.bob)
        self.network.advance(0)
        before = len(self.network.clock.getDelayedCalls())
        connection.finish(ConnectionClosed("it is over"))
        self.assertLess(len(self.network.clock.getDelayedCalls()), before)

    def test_unwritten(self) -> None:
        """A node that stops, and cannot write what it took, does not wait for that."""
        self.say("a")
        name = self.three.connection(BOB).session.name
        self.three.node.lines.path = None
        self.three.node.lines.line.cut()
        self.three.node.store.came(name, None)
        self.network.factory = self.three.listens
        stopping = self.three.server.stop()
        self.settle(20)
        self.failureResultOf(stopping, SpoolError)

    def test_tooLarge(self) -> None:
        """A client that does not take messages of that size is closed, with 1009."""
        small = PrivateKey(b"\x63" * 32)
        client = self.client(small, self.two, maxMessage=1000)
        for _ in range(2):
            connection = self.two.connection(small)
            self.one.cluster.sendTo("x" * 1001, small.publicKey)
            self.settle()
            reason: Any = self.successResultOf(connection.closed())
            self.assertEqual(reason.code, CloseCode.TOO_BIG)
            self.settle(5)
            self.assertEqual(self.taken(client), [])
            self.one.cluster.sendTo("next", small.publicKey)
            self.settle()
            self.assertEqual(self.taken(client), ["next"])


class ScheduleTests(ClusterTestCase):
    """Whatever happens, and in which order: each message comes once, and in order."""

    def test_anything(self) -> None:
        """
        Two clients send to each other by nodes between which they move, which are
        killed, and which lose their connections to the engine.
        """
        for seed in range(SCHEDULES):
            chance = Random(seed)
            self.schedule(chance)
            sent = [str(number) for number in range(self.sent)]
            for client in self.clients:
                self.assertEqual(self.taken(client), sent, f"seed {seed}")
            self.endAll()
            self.setUp()

    def schedule(self, chance: Random) -> None:
        """Have things happen."""
        self.sent = 0
        self.names = count(1)
        for _ in range(3):
            self.begin()
        pair = [self.client(key, self.nodes[0]) for key in (ALICE, BOB)]
        for _ in range(60):
            what, node = chance.choice(STEPS), chance.choice(self.nodes)
            if what == "send":
                for client in pair:
                    client.sendData(str(self.sent))
                self.sent += 1
            elif what == "turn":
                self.network.advance(0)
            elif what == "engine":
                node.node.lines.deliver()
            elif what == "bell":
                node.node.lines.hearAll()
            elif what == "second":
                self.settle(1)
            elif what == "roam":
                client = chance.choice(pair)
                self.clients[client][0].node = node
                self.cut(client)
            elif what == "kill":
                self.kill(node)
                self.begin()
                for way, _ in self.clients.values():
                    if way.node is node:
                        way.node = chance.choice(self.nodes)
            elif what == "deaf":
                for line in node.node.lines.bells:
                    line.cut()
            elif what == "away":
                for line in node.node.lines.lines:
                    line.cut()
        self.settle(20)

    def begin(self) -> None:
        """Start a node, which sends to the one what comes from the other."""
        node: ServingNode

        def send(connection: Connection, packet: Packet) -> None:
            """Send a message on."""
            to = BOB if connection.peer == ALICE.publicKey else ALICE
            node.cluster.sendTo(cast("str", packet.data), to.publicKey)

        node = self.serving(f"node-{next(self.names)}", Recorder(send))
