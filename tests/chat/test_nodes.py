"""
One chat over several servers, which share a store in memory.

C{AESM_CHAT_EVENTS=1000 python -m twisted.trial tests.chat.test_nodes} has more happen,
with a seed of its own each time, or that which C{AESM_CHAT_SEED} has.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from time import time_ns
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.logger import LogLevel, capturedLogs
from zope.interface import implementer

from aesm import ClientService, Connection, PrivateKey, Server
from aesm.chat import handler, replica
from aesm.chat.handler import AWAY_DELAY, ChatHandler
from aesm.chat.names import looksOf
from aesm.chat.replica import ChatReplica
from aesm.chat.rules import MAX_LINE
from aesm.errors import SpoolError
from aesm.interfaces import IClientObserver, IMessageHandlerMaker
from aesm.server.registry import Connections
from aesm.store import entries
from aesm.store.interface import Stored
from tests.server.test_claimed import Way
from tests.store import test_log
from tests.store.test_log import LogTestCase
from tests.support.chatting import Heard, Visit, lineOf
from tests.support.clusters import ClusterTestCase, ServingNode
from tests.support.pairs import SERVER_KEY
from tests.support.shelf import LogShelfStore
from tests.support.spooled import Mortal

EVENTS = int(os.environ.get("AESM_CHAT_EVENTS", "120"))
SEED = int(
    os.environ.get("AESM_CHAT_SEED", "7" if EVENTS < 1000 else time_ns() % 10**6)
)


@implementer(IMessageHandlerMaker)
class Maker:
    """Makes chats with free names on the clock of a network."""

    name = description = ""

    def __init__(self, clock: IReactorTime) -> None:
        """@param clock: keeps time."""
        self.clock = clock

    def makeHandler(self, connections: Connections) -> ChatHandler:
        """Make the handler of one server."""
        return ChatHandler(connections, self.clock, freeNames=True)


class Store(LogShelfStore):
    """A store that opens as an engine does: sessions are claimed one by one."""

    def _open(self) -> list[Stored]:
        """Have none."""
        return []


@implementer(IClientObserver)
class Visitor:
    """
    A client, as long as it stays.

    @ivar sessions: those that it had.
    @ivar got: what it got.
    @ivar sent: what it has said, each of which nobody else says.
    @ivar service: keeps it there.
    @ivar way: to a node.
    @ivar clock: its own.
    """

    service: ClientService
    way: Way
    clock: Mortal

    def __init__(self) -> None:
        """Begin with nothing."""
        self.sessions: list[str] = []
        self.got: list[str] = []
        self.sent: list[str] = []

    def onConnected(self, connection: Connection) -> None:
        """Note which session it is."""
        name = connection.session.name
        if name not in self.sessions:
            self.sessions.append(name)

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """It comes again."""

    def onStopped(self, reason: Exception) -> None:
        """It has gone."""


class NodesTestCase(LogTestCase):
    """
    Servers that are one chat, and clients.

    @ivar visitors: those who are there.
    @ivar former: those who have gone.
    """

    keys = 4

    def setUp(self) -> None:
        """Have keys, the first one an operator's."""
        super().setUp()
        self.visitors: list[Visitor] = []
        self.former: list[Visitor] = []
        keys = [PrivateKey(bytes([100 + n // 2]) * 32) for n in range(self.keys)]
        self.patch(test_log, "KEYS", keys)
        path = Path(self.mktemp())
        texts = dict.fromkeys(str(key.publicKey) for key in keys)
        listed = [f"{text} key{number}\n" for number, text in enumerate(texts)]
        path.write_text("".join(["operator ", *listed]))
        path.chmod(0o600)
        self.list = path

    def openStore(self) -> Store:
        """Open the store of a server."""
        self.opened = Store(self.shelf)
        return self.opened

    def begin(self, **options: Any) -> None:
        """Start servers, and clients in turns."""
        maker = Maker(self.network.clock)
        super().begin(handler=maker, authorizedKeys=self.list, **options)

    def client(self, index: int, node: int, **options: Any) -> None:
        """Start a client."""
        visitor = Visitor()
        super().client(index, node, observer=cast(Any, visitor), **options)
        visitor.service = self.clients[-1]
        visitor.way, visitor.clock = self.ways[-1], self.clocks[-1]
        self.visitors[index:] = [visitor, *self.visitors[index + 1 :]]

    def replica(self, node: int) -> ChatReplica:
        """Find the chat, as a server has it."""
        found = self.servers[node].factory.manager.handler
        return cast(ChatHandler, found).replica

    def heard(self, index: int) -> list[str]:
        """Take what a client got since it was asked last."""
        return self.heardBy(self.visitors[index])

    def heardBy(self, visitor: Visitor) -> list[str]:
        """Take what a client got since it was asked last."""
        lines = cast("list[str]", self.taking(visitor.service.retrieved))
        visitor.got += lines
        return lines

    def say(self, index: int, *lines: str) -> None:
        """Have a client write."""
        for line in lines:
            self.visitors[index].service.sendData(line)
        self.settle(0)

    def check(self) -> None:
        """All have the same chat, and have told what one that is alone would tell."""
        heard = Heard(self.shelf.log, freeNames=True)
        for node in range(self.nodes):
            self.assertEqual(self.replica(node).snapshot(), heard.replica.snapshot())
        for visitor in (*self.visitors, *self.former):
            self.heardBy(visitor)
            isThere = bool(visitor.service.running)
            Visit(visitor.sessions, visitor.got, visitor.sent, isThere).check(heard)


class ChatNodesTests(NodesTestCase):
    """What people notice of there being several."""

    def name(self, *names: str) -> None:
        """Have clients take names, and forget what they got."""
        for index, name in enumerate(names):
            self.say(index, f"/nick {name}")
        for index in range(len(names)):
            self.heard(index)

    def test_all(self) -> None:
        """Who is at one node is heard, and found, at all others."""
        self.begin()
        self.name("ann", "bob", "cec", "dan")
        self.say(2, "hello", "/who")
        self.assertEqual(self.heard(0), ["say lobby cec: hello"])
        self.assertEqual(self.heard(2)[-1], "who lobby 4: ann bob cec dan")
        for session in self.shelf.sessions.values():
            self.assertEqual(session.outgoing, [])
        self.check()

    def test_names(self) -> None:
        """Of those who want one name at once, at different nodes, one gets it."""
        self.begin()
        for visitor in self.visitors:
            visitor.service.sendData("/nick ann")
        self.settle(0)
        told = [self.heard(index)[1] for index in range(4)]
        self.assertEqual(told.count("you are ann in lobby"), 1)
        self.assertEqual(told.count("error: the name ann is taken"), 3)

    def test_moved(self) -> None:
        """Who goes on at another node is who and where they were, without a word."""
        self.begin()
        self.name("ann", "bob", "cec", "dan")
        self.say(1, "/join den")
        before = len(self.shelf.log)
        self.heard(1)
        self.roam(1, 2)
        self.settle(0, 1, AWAY_DELAY, AWAY_DELAY)
        self.say(1, "still here")
        self.assertEqual(self.heard(1), ["say den bob: still here"])
        self.assertEqual(len(self.shelf.log), before + 1)
        self.check()

    def test_killed(self) -> None:
        """
        Those of a node that is killed stay, and go on at another; those who do not
        come are gone when their sessions are.
        """
        self.begin()
        self.name("ann", "bob", "cec", "dan")
        self.killNode(0)
        self.ways[0].node = 1
        self.ways[3].node = 0  # where nobody listens
        self.factories[0] = None
        self.settle(0, 1, AWAY_DELAY, AWAY_DELAY)
        self.say(0, "/who")
        self.assertEqual(self.heard(0), ["who lobby 4: ann bob cec dan"])
        (name,) = self.visitors[3].sessions
        self.shelf.expire(name)
        self.stores[1].sweep()
        self.settle(0)
        self.assertEqual(self.heard(1), ["leave lobby dan"])
        self.startNode(0)
        self.settle()
        self.assertEqual(self.replica(0).snapshot(), self.replica(1).snapshot())

    def test_away(self) -> None:
        """
        Who is cut off for long has left, as their node says, and is back wherever they
        come to.
        """
        self.begin()
        self.name("ann", "bob", "cec", "dan")
        self.ways[1].node, listens = 0, self.factories[0]
        self.factories[0] = None
        self.cut(1)
        self.settle(0, AWAY_DELAY - 1)
        self.assertEqual(self.heard(0), [])
        self.settle(2)
        self.assertEqual(self.heard(0), ["leave lobby bob"])
        self.say(2, "meanwhile")
        self.factories[0] = listens
        self.settle(20)
        self.assertEqual(
            self.heard(1),
            [
                "you are bob in lobby",
                self.heard(0)[0].replace("say lobby", f"old lobby {self.time()}"),
                "who lobby 4: ann cec dan bob",
            ],
        )
        self.check()

    def time(self) -> str:
        """Tell when something was said in the lobby."""
        (line,) = self.replica(0).chat.state()["rooms"][0][5]
        stamp: str = line[1].split()[2]
        return stamp

    def test_justAway(self) -> None:
        """Who is back while it is being written that they are away is back."""
        self.patch(handler, "AWAY_DELAY", 1.5)
        self.begin()
        self.name("ann", "bob", "cec", "dan")
        self.factories[1], listens = None, self.factories[1]
        self.cut(1)
        self.settle(0, 1.4)
        self.stores[1].isSlow = True
        self.factories[1] = listens
        for _ in range(10):
            self.network.advance(0.5)
        self.assertEqual(len(self.stores[1].waiting), 2)  # away, and the way back
        self.assertFalse(self.replica(1).chat.isAway(self.visitors[1].sessions[0]))
        self.settle(0)
        self.assertEqual(self.heard(1)[-1], "who lobby 4: ann cec dan bob")
        self.assertEqual(self.heard(0), ["leave lobby bob", "join lobby bob"])

    def test_banned(self) -> None:
        """
        Who is banned is closed at any node, and so is who comes back to another one
        than that which was killed when they were.
        """
        self.begin()
        self.name("ann", "bob", "cec", "dan")  # ann and bob have one key
        self.killNode(2)
        self.ways[2].node = 2
        self.factories[2] = None
        self.settle(0)
        self.say(0, "/ban dan", "/ban cec now")
        (reason,) = {line for line in self.heard(3) if line.startswith("error")}
        self.assertEqual(reason, "error: you were banned by ann")
        self.assertFalse(self.visitors[3].service.running)
        self.ways[2].node = 0
        self.settle(20)
        self.assertIn("error: you were banned by ann", self.heard(2))
        self.assertFalse(self.visitors[2].service.running)
        self.startNode(2)
        self.client(3, 2)
        self.settle(0)
        self.assertEqual(self.heard(3), ["error: your key is banned here"])
        self.assertFalse(self.visitors[3].service.running)

    def test_engineAway(self) -> None:
        """Nothing is said while the engine is away, and all when it is back."""
        self.begin()
        self.name("ann", "bob", "cec", "dan")
        for store in self.stores:
            store.isSlow, store.failure = True, SpoolError("it is away")
        said = self.visitors[1].service.sendData("hello")
        self.network.advance(0)
        self.assertNoResult(said)
        self.assertEqual(self.heard(0), [])
        for store in self.stores:
            store.isSlow, store.failure = False, None
            store.ring()
        self.settle()
        self.assertEqual(self.heard(0), ["say lobby bob: hello"])
        self.successResultOf(said)

    def test_heldBack(self) -> None:
        """Who does not read the answers is held back, and is no error if they go."""
        self.begin(sendBuffer=100_000)
        self.visitors.append(Visitor())
        self.patch(test_log, "KEYS", [*test_log.KEYS, PrivateKey(b"5" * 32)])
        self.list.write_text(f"{self.list.read_text()}{test_log.KEYS[4].publicKey} k\n")
        self.settle(60)
        self.client(4, 0, receiveBuffer=70_000)
        self.settle()
        self.name("ann", "bob", "cec", "dan", "eve")
        service = self.visitors[4].service
        sent = [service.sendData("x" * MAX_LINE) for _ in range(60)]
        self.settle(0)
        said = len(self.heard(0))
        self.successResultOf(sent[said - 1])
        self.assertNoResult(sent[said])
        while self.heard(4):
            self.settle(0, 1)
        self.successResultOf(sent[-1])
        self.assertEqual(said + len(self.heard(0)), 60)

    def test_rewound(self) -> None:
        """
        What the log has lost is said again of those who are there: that they are back,
        away, or have come at all.
        """
        self.begin()
        self.name("ann", "bob", "cec", "dan")
        for index in (1, 2):
            self.factories[index], listens = None, self.factories[index]
            self.cut(index)
            self.settle(0, AWAY_DELAY)
            self.factories[index] = listens
            if index == 1:
                self.settle(20)
        before = self.replica(0).snapshot()
        del self.shelf.log[-2:]
        self.assertIn(b"away", self.shelf.log[-1].data)
        with capturedLogs():
            for store in self.stores:
                store.ring()
            self.settle(0)
        self.assertEqual(self.replica(0).snapshot(), before)
        del self.shelf.log[3:]
        with capturedLogs():
            for store in self.stores:
                store.ring()
            self.settle(0)
        for node in range(3):
            chat = self.replica(node).chat
            known = [chat.keyOf(each.sessions[0]) for each in self.visitors]
            self.assertNotIn(None, known)

    def test_version(self) -> None:
        """A node of another version serves nobody, and says why; the others go on."""
        self.begin()
        self.name("ann", "bob", "cec", "dan")
        with capturedLogs() as logs:
            self.replica(0)._version = "2"
            self.say(1, "hello")
        (critical,) = [e for e in logs if e["log_level"] is LogLevel.critical]
        self.assertIn("of this node of '2'", str(critical["reason"]))
        self.ways[0].node = self.ways[3].node = 1
        self.settle()
        self.say(0, "/who")
        self.assertEqual(self.heard(0)[-1], "who lobby 4: ann bob cec dan")
        self.patch(replica, "RULES", 2)
        self.killNode(0)
        other = Server(
            self.network.endpoint(),
            reactor=Mortal(self.network.clock),
            key=SERVER_KEY,
            **self.options,
        )
        refused = self.assertFails(other.start(), SpoolError)
        self.assertIn("of this node of '2 ", refused)
        self.patch(replica, "RULES", 1)
        self.startNode(0)


class ModelTests(NodesTestCase):
    """Anything happens."""

    keys = 8

    def test_anything(self) -> None:
        """
        Whatever people write, wherever they come and go, whichever node is killed: all
        nodes have the same chat, in which no two have one name, and everybody is told
        what one process would tell.
        """
        if EVENTS > 999:
            print(f"seed {SEED}")
        self.patch(entries, "LOG_SIZE", max(40_000, 250 * EVENTS))
        self.chance = random.Random(SEED)
        self.deaths = self.lines = 0
        with capturedLogs() as logs:
            self.begin(sessionGrace=1000.0)
            for number in range(EVENTS):
                for store in self.stores:
                    store.isSlow = True
                self.step(number)
                if number % (EVENTS // 20 if EVENTS > 999 else 30) == 29:
                    self.die()
            self.settle(0, 1, 20, 20, 20, 0)
        self.assertEqual([e for e in logs if "log_failure" in e], [])
        self.assertTrue(self.shelf.snapshots)
        self.check()
        people = self.replica(0).chat.state()["people"]
        looks = [look for _, _, _, name, *_ in people if name for look in looksOf(name)]
        self.assertEqual(len(looks), len(set(looks)))

    def step(self, number: int) -> None:
        """Let something happen."""
        chance = self.chance
        index = chance.randrange(self.keys)
        visitor = self.visitors[index]
        what = chance.choices(
            ("say", "cut", "roam", "leave", "wait", "answer", "settle"),
            (20, 2, 3, 1, 2, 10, 2),
        )[0]
        if what == "leave" or not visitor.service.running:
            visitor.service.stopService()
            self.former.append(visitor)
            self.client(index, chance.randrange(self.nodes))
        elif what == "say":
            self.lines += 1
            line = lineOf(chance, self.lines)
            visitor.service.sendData(line)
            if line.startswith("x"):
                visitor.sent.append(line)
        elif what in ("cut", "roam"):
            if what == "roam":
                visitor.way.node = chance.randrange(self.nodes)
            self.cutOff(visitor)
        elif what == "wait":
            self.network.advance(chance.choice((0.5, AWAY_DELAY / 2, AWAY_DELAY)))
        elif what == "settle":
            self.settle(0)
        for _ in range(chance.randrange(8)):
            waiting = [store for store in self.stores if store.waiting]
            if waiting:
                chance.choice(waiting).work()
            self.network.advance(0)

    def cutOff(self, visitor: Visitor) -> None:
        """Cut a client off."""
        for link in list(self.network.links):
            if link.client.protocol.factory.clock is visitor.clock:  # type: ignore[attr-defined]
                link.cut()

    def die(self) -> None:
        """Kill a node, and start another one; its clients go anywhere."""
        node = self.chance.randrange(self.nodes)
        self.killNode(node)
        self.startNode(node)
        for visitor in self.visitors:
            if visitor.way.node == node:
                visitor.way.node = self.chance.randrange(self.nodes)
        self.deaths += 1


class EngineTests(ClusterTestCase):
    """The same with a real engine."""

    def chatting(self, name: str) -> ServingNode:
        """Start a node."""
        return self.serving(name, Maker(self.network.clock), sessionGrace=1000.0)

    def chat(self, node: ServingNode) -> bytes:
        """Say which chat a node has."""
        found = node.server.factory.manager.handler
        return cast(ChatHandler, found).replica.snapshot()

    def test_chat(self) -> None:
        """People talk over nodes, go on at any, and leave at all of them."""
        one, two = self.chatting("one"), self.chatting("two")
        ann, bob, cec = (
            self.client(PrivateKey(bytes([number]) * 32), node)
            for number, node in ((0x51, one), (0x52, two), (0x53, two))
        )
        for client, name in ((ann, "ann"), (bob, "bob"), (cec, "ann")):
            client.sendData(f"/nick {name}")
            self.settle()
        bob.sendData("hello")
        self.settle()
        self.assertEqual(self.taken(ann)[-1], "say lobby bob: hello")
        self.assertIn("error: the name ann is taken", self.taken(cec))
        self.taken(bob)
        self.kill(one)
        self.roam(ann, two)
        three = self.chatting("three")
        ann.sendData("still here")
        self.settle()
        self.assertEqual(self.taken(bob), ["say lobby ann: still here"])
        self.assertEqual(self.chat(two), self.chat(three))
        leaving = ann.stopService()
        self.settle(10)
        self.successResultOf(leaving)
        self.assertEqual(self.taken(bob), ["leave lobby ann"])
        self.assertEqual(self.chat(two), self.chat(three))
