"""
Tests for L{aesm.server.kept} with two servers: a session whose client has gone to the
other one, with all that its messages have caused, happens there and not here.
"""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import capturedLogs
from zope.interface import implementer

from aesm import (
    AnyServer,
    ClientService,
    Connection,
    Packet,
    PrivateKey,
    Request,
    Server,
    listen,
)
from aesm.errors import ConnectionClosed, SessionLost
from aesm.interfaces import IMessageHandler, IMessageHandlerMaker
from aesm.server import stores
from aesm.server.registry import Connections
from tests.support.helpers import XX
from tests.support.pairs import SERVER_KEY, Recorder
from tests.support.shelf import Shelf, ShelfStore
from tests.support.spooled import Mortal, SpoolTestCase

# Who stays at the first server, who at the second, and who goes to and fro.
SINKS = [PrivateKey(bytes([number]) * 32) for number in (0x51, 0x52)]
STAYS = PrivateKey(b"\x53" * 32)
ROAMS = PrivateKey(b"\x54" * 32)
KEYS = [*SINKS, STAYS, ROAMS]


@implementer(IMessageHandler)
class ToSink(Recorder):
    """A handler that sends everything on to the sink of its server."""

    def __init__(self, connections: Connections, how: str) -> None:
        """@param how: whether at once, in a coroutine, or in one of Twisted's."""
        super().__init__(self.forward if how != "generator" else self.generator)
        self.connections = connections
        self.how = how
        self.sent: list[tuple[Any, Deferred[None]]] = []

    def sink(self) -> Connection:
        """Find the sink."""
        for key in SINKS:
            for connection in self.connections.byPeer(key.publicKey):
                return connection
        raise LookupError("no sink")

    def forward(self, connection: Connection, packet: Packet) -> Any:
        """Send on."""
        if self.how == "coroutine":
            return self.coroutine(packet)
        self.send(packet.data)
        return None

    def send(self, data: Any) -> None:
        """Send on, and note what comes of it."""
        self.sent.append((data, self.sink().sendData(data)))

    async def coroutine(self, packet: Packet) -> None:
        """Send on."""
        self.send(packet.data)

    @inlineCallbacks
    def generator(self, connection: Connection, packet: Packet) -> Any:
        """Send on."""
        yield None
        self.send(packet.data)


@implementer(IMessageHandlerMaker)
class Maker:
    """Makes that."""

    name = description = ""

    def __init__(self, how: str) -> None:
        """ """
        self.how = how

    def makeHandler(self, connections: Connections) -> ToSink:
        """Make a handler."""
        return ToSink(connections, self.how)


@implementer(IStreamClientEndpoint)
class Way:
    """The way of a client to one of two servers."""

    def __init__(self, case: ClaimedTestCase, node: int) -> None:
        """ """
        self.case = case
        self.node = node

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect to the server that it is the way to now."""
        self.case.network.factory = self.case.factories[self.node]
        return self.case.network.endpoint().connect(protocolFactory)


class ClaimedTestCase(SpoolTestCase):
    """
    Two servers that share a shelf, and clients.

    @ivar stores: of the servers.
    @ivar factories: what the servers listen with.
    @ivar ways: of the clients, to a server each, by key.
    @ivar clients: by key.
    @ivar clocks: theirs, by key.
    """

    def setUp(self) -> None:
        """Have a shelf."""
        super().setUp()
        self.shelf = Shelf()
        self.stores: list[ShelfStore] = []
        self.servers: list[Server] = []
        self.factories: list[Any] = []
        self.ways: dict[PrivateKey, Way] = {}
        self.clients: dict[PrivateKey, ClientService] = {}
        self.clocks: dict[PrivateKey, Mortal] = {}
        self.patch(stores, "spoolOpener", lambda *these: self.openStore)

    def openStore(self) -> ShelfStore:
        """Open the store of a server."""
        self.stores.append(ShelfStore(self.shelf))
        return self.stores[-1]

    def begin(self, how: str = "call") -> None:
        """
        Start servers and clients, and let these in.

        @param how: as L{ToSink}.
        """
        for _ in range(2):
            starting = listen(
                self.network.clock,
                self.network.endpoint(),
                handler=Maker(how),
                key=SERVER_KEY,
                suites=(XX,),
                handshakesPerHost=1e6,
            )
            self.servers.append(self.successResultOf(starting))
            self.factories.append(self.network.factory)
        for key, node in zip(KEYS, (0, 1, 0, 0), strict=True):
            way = self.ways[key] = Way(self, node)
            clock = self.clocks[key] = Mortal(self.network.clock)
            client = self.clients[key] = ClientService(
                way,
                reactor=clock,
                key=key,
                trust=AnyServer(),
                suites=(XX,),
                retryPolicy=backoffPolicy(jitter=lambda: 0.0),
            )
            client.startService()
        self.settle()
        for store in self.stores:
            store.isSlow = True

    def endAll(self) -> None:
        """Stop all of them; nothing is left then."""
        for client in self.clients.values():
            stopped = client.stopService()
            self.settle()
            self.successResultOf(stopped)
        for server, listens in zip(self.servers, self.factories, strict=True):
            self.network.factory = listens
            stopping = server.stop()
            self.settle()
            self.successResultOf(stopping)
        super().endAll()

    def settle(self) -> None:
        """Answer everything, deliver everything, and let time pass."""
        # In less than a handshake may take: who asks has an answer meanwhile.
        for seconds in (0, 1, *[5] * 8, 0):
            self.network.advance(seconds)
            for store in self.stores:
                while store.waiting:
                    store.work()
                    self.network.advance(0)

    def connection(self, key: PrivateKey, node: int) -> Connection:
        """Find a client's connection at a server."""
        (connection,) = self.servers[node].connections.byPeer(key.publicKey)
        return connection

    def cut(self, key: PrivateKey) -> None:
        """Cut a client off."""
        for link in list(self.network.links):
            if link.client.protocol.factory.clock is self.clocks[key]:  # type: ignore[attr-defined]
                link.cut()

    def roam(self) -> None:
        """Let who roams come to the other server."""
        way = self.ways[ROAMS]
        way.node = 1 - way.node
        self.cut(ROAMS)
        for _ in range(3):
            self.network.advance(1)


class ClaimedTests(ClaimedTestCase):
    """One claim, step by step."""

    def taken(self, node: int) -> list[Any]:
        """Take what has come to a sink."""
        return self.taking(self.clients[SINKS[node]].retrieved)

    def claimed(self, how: str = "call") -> None:
        """Have a message handled by a server that cannot write that it was."""
        self.begin(how)
        self.clients[ROAMS].sendData("roams")
        self.network.advance(0)  # it is handled, and that is not written
        self.roam()
        self.stores[1].work()  # the claim
        self.network.advance(0)

    def test_once(self) -> None:
        """What it has caused and is not written happens at the other server only."""
        for how in ("call", "coroutine", "generator"):
            self.claimed(how)
            self.settle()
            self.assertEqual(self.taken(0), [], how)
            self.assertEqual(self.taken(1), ["roams"], how)
            self.endAll()
            self.setUp()
        self.begin()

    def test_others(self) -> None:
        """What others have caused happens here, in order, behind it and before."""
        self.mixed()
        self.settle()
        self.assertEqual(self.taken(0), ["1", "2", "3"])
        self.assertEqual(self.taken(1), ["roams 1", "roams 2"])

    def mixed(self) -> None:
        """Have messages handled of which some have been claimed, as in C{claimed}."""
        self.begin()
        for data in ("1", "2"):
            self.clients[STAYS].sendData(data)
            self.network.advance(0)
            self.clients[ROAMS].sendData("roams " + data)
            self.network.advance(0)
        self.clients[STAYS].sendData("3")
        self.network.advance(0)
        self.roam()
        self.stores[1].work()
        self.network.advance(0)

    def test_acknowledged(self) -> None:
        """
        Who has sent something is told what became of it, whenever he looks: what was
        taken out was not sent, and each of the others is acknowledged by itself.
        """
        for early in (False, True):
            self.mixed()
            handler: Any = self.servers[0].factory.manager.handler
            sent = {data: (each, early and each.called) for data, each in handler.sent}
            self.assertEqual(len(sent), 5)
            self.answerAll(0)
            for data, (each, _) in sent.items():
                if data in ("1", "2", "3"):
                    self.assertNoResult(each)
                else:
                    self.failureResultOf(each, ConnectionClosed)
            self.network.deliver()
            for data in ("1", "2", "3"):
                self.assertIsNone(self.successResultOf(sent[data][0]))
            self.endAll()
            self.setUp()
        self.begin()

    def answerAll(self, node: int) -> None:
        """Have a server's store answer all, and nothing delivered."""
        while self.stores[node].waiting:
            self.stores[node].work()

    def test_ending(self) -> None:
        """One that is just being closed is cut off, and goes on at the other server."""
        self.begin()
        connection = self.connection(ROAMS, 0)
        former: Any = self.clients[ROAMS].former
        self.successResultOf(
            ShelfStore(self.shelf).claim(former.session.name, str(connection.peer))
        )
        self.ways[ROAMS].node = 1
        connection.close()
        for link in self.network.links:
            link.toClient.inFlight.clear()
        self.stores[0].ring()
        self.settle()
        self.assertTrue(connection.isOver)
        self.assertIs(self.clients[ROAMS].former, former)
        self.assertTrue(former.isOpen)

    def test_staged(self) -> None:
        """
        So it is with what is not even given to the store when it learns of the claim.
        """
        self.begin()
        connection, sink = self.connection(ROAMS, 0), self.connection(SINKS[0], 0)
        self.successResultOf(
            ShelfStore(self.shelf).claim(connection.session.name, str(connection.peer))
        )
        self.ways[ROAMS].node = 1
        handler: Any = self.servers[0].factory.manager.handler
        for key, data in ((STAYS, "1"), (ROAMS, "roams"), (SINKS[0], "2")):
            self.clients[key].sendData(data)
            for link in self.network.links:
                link.deliver()  # it is handled, and this turn goes on
        staged = sink.session.outbox.staged
        assert staged is not None
        self.assertEqual([each.bodies for each in staged], [["1"], ["roams"], ["2"]])
        self.stores[0].ring()
        self.assertEqual([each.bodies for each in staged], [["1"], ["2"]])
        self.settle()
        self.assertEqual(self.taken(0), ["1", "2"])
        self.assertEqual(self.taken(1), ["roams"])
        for data, sent in handler.sent:
            if data == "roams":
                self.failureResultOf(sent, ConnectionClosed)
            else:
                self.assertIsNone(self.successResultOf(sent))

    def test_tells(self) -> None:
        """
        Its connection is over here, which says that it goes on; its client, if it is
        there still, is told to come back (1001), and is not told that it is taken over.
        """
        self.begin()
        connection = self.connection(ROAMS, 0)
        former: Any = self.clients[ROAMS].former
        sent = connection.sendData("late")
        self.successResultOf(
            ShelfStore(self.shelf).claim(former.session.name, str(connection.peer))
        )
        self.ways[ROAMS].node = 1
        self.stores[0].ring()
        self.network.deliver()
        self.assertTrue(connection.isOver)
        self.assertIn("goes on", str(self.failureResultOf(sent, ConnectionClosed)))
        self.assertFalse(former.isOver)
        self.settle()
        self.assertTrue(former.isOpen)
        self.assertIs(self.clients[ROAMS].former, former)

    def test_notAnywhere(self) -> None:
        """If the store has it no more its client begins another one, and is told."""
        self.begin()
        connection = self.connection(ROAMS, 0)
        name = connection.session.name
        sent = self.clients[ROAMS].sendData("lost")
        del self.shelf.sessions[name], self.shelf.owners[name]
        with capturedLogs():
            self.network.deliver()
            self.stores[0].ring()
            self.settle()
        self.assertIsInstance(self.successResultOf(connection.closed()), SessionLost)
        self.failureResultOf(sent, SessionLost)
        self.assertNotEqual(self.connection(ROAMS, 0).session.name, name)

    def test_late(self) -> None:
        """What a coroutine does later for a message of that session does nothing."""
        waiting: Deferred[None] = Deferred()
        said: list[Any] = []

        async def later(connection: Connection, packet: Packet) -> None:
            """Send when the test says so."""
            await waiting
            sent = sink.sendData(cast(str, packet.data))
            sent.addErrback(said.append)

        self.begin()
        sink = self.connection(SINKS[0], 0)
        handler: Any = self.servers[0].factory.manager.handler
        handler.react = later
        self.clients[ROAMS].sendData("roams")
        self.network.advance(0)
        self.roam()
        self.stores[1].work()
        self.stores[0].ring()
        waiting.callback(None)
        said[0].trap(ConnectionClosed)
        self.settle()
        self.assertEqual(self.taken(0), [])
        self.assertEqual(self.taken(1), ["roams"])
        self.assertIs(self.connection(SINKS[0], 0), sink)

    def test_returns(self) -> None:
        """
        Who comes back to where its session was before goes on with it as it is by now,
        also if nobody has told that server that it was elsewhere.
        """
        self.begin()
        former: Any = self.clients[ROAMS].former
        for node in (1, 0):
            sent = self.clients[ROAMS].sendData(f"to {1 - node}")
            self.answerAll(1 - node)
            self.network.deliver()
            self.answerAll(1 - node)
            self.network.deliver()
            self.assertIsNone(self.successResultOf(sent))
            self.roam()
            self.answerAll(node)
            self.network.deliver()
        sent = self.clients[ROAMS].sendData("at last")
        self.settle()
        self.assertIsNone(self.successResultOf(sent))
        self.assertIs(self.clients[ROAMS].former, former)
        self.assertEqual(self.taken(0), ["to 0", "at last"])
        self.assertEqual(self.taken(1), ["to 1"])

    def test_request(self) -> None:
        """A request that it had answered here is open here again."""
        handler = Answering()
        self.patch(Maker, "makeHandler", lambda maker, connections: handler)
        self.begin()
        for store in self.stores:
            store.isSlow = False
        answer = self.clients[SINKS[0]].request("ask")
        self.network.deliver()
        self.network.advance(0)
        self.assertEqual(len(handler.asked), 1)
        self.stores[0].isSlow = True
        self.clients[ROAMS].sendData("roams")
        self.network.advance(0)
        self.assertFalse(handler.asked[0].isOpen)
        self.roam()
        self.settle()
        self.assertNoResult(answer)
        self.assertEqual(len(handler.asked), 2)
        handler.asked[1].answer("again")
        self.settle()
        self.assertEqual(self.successResultOf(answer), "again")


class Answering(Recorder):
    """A handler that answers, once anything comes, what was asked first."""

    def __init__(self) -> None:
        """Have nothing to answer."""
        super().__init__(self.answer)
        self.asked: list[Request] = []

    def requestReceived(self, connection: Connection, request: Request) -> Any:
        """Keep a request."""
        self.asked.append(request)
        return Deferred()

    def answer(self, connection: Connection, packet: Packet) -> None:
        """Answer the oldest."""
        if self.asked[0].isOpen:
            self.asked[0].answer(cast(str, packet.data))


STEPS = [
    "send",
    "send",
    "send",
    "turn",
    "turn",
    "deliver",
    "answer",
    "answer",
    "answer",
]
STEPS += ["ring", "cut", "roam", "roam", "wait"]


class ModelTests(ClaimedTestCase):
    """Anything happens, in any order."""

    @settings(max_examples=12, deadline=None)
    @given(
        st.sampled_from(["call", "coroutine"]),
        st.lists(
            st.tuples(st.sampled_from(STEPS), st.integers(0, 3)),
            min_size=15,
            max_size=50,
        ),
    )
    def test_anything(self, how: str, steps: list[tuple[str, int]]) -> None:
        """
        What clients send on to the sink of their server, of which one goes from server
        to server meanwhile, comes to one of both, once and in order.
        """
        super().setUp()
        with capturedLogs():
            self.begin(how)
            self.sent: list[list[Deferred[None]]] = [[] for _ in KEYS]
            names = self.names()
            for name, where in steps:
                getattr(self, "do" + name.capitalize())(where)
            for _ in range(4):
                self.settle()
            self.assertEqual(self.names(), names)  # none was given up
            self.check()
            self.endAll()
        self.servers, self.factories, self.clients = [], [], {}

    def names(self) -> list[str]:
        """Name the clients' sessions."""
        formers = [self.clients[key].former for key in KEYS]
        return [former.session.name for former in formers if former is not None]

    def doSend(self, where: int) -> None:
        """Let a client send the next message."""
        text = f"{where}.{len(self.sent[where])}"
        self.sent[where].append(self.clients[KEYS[where]].sendData(text))

    def doTurn(self, where: int) -> None:
        """Let one turn of the event loop end."""
        self.network.clock.advance(0)

    def doDeliver(self, where: int) -> None:
        """Deliver everything."""
        self.network.deliver()

    def doAnswer(self, where: int) -> None:
        """Let a store give the next answer."""
        store = self.stores[where % 2]
        if store.waiting:
            store.work()

    def doRing(self, where: int) -> None:
        """Let a server learn of what the other one has claimed."""
        self.stores[where % 2].ring()

    def doCut(self, where: int) -> None:
        """Cut a client off."""
        self.cut(KEYS[where])

    def doRoam(self, where: int) -> None:
        """Let who roams come to the other server."""
        self.roam()

    def doWait(self, where: int) -> None:
        """Let time pass."""
        self.network.advance(1)

    def check(self) -> None:
        """Look at what has come."""
        found = [self.taking(self.clients[key].retrieved) for key in SINKS]
        for where, sent in enumerate(self.sent):
            for each in sent:
                self.successResultOf(each)
            wanted = [f"{where}.{number}" for number in range(len(sent))]
            of = [[data for data in sink if data[0] == str(where)] for sink in found]
            for some in of:
                self.assertEqual(some, sorted(some, key=wanted.index))
            if KEYS[where] is ROAMS:
                self.assertEqual(sorted(of[0] + of[1], key=wanted.index), wanted)
            else:
                self.assertEqual(of[where == 1], wanted)
