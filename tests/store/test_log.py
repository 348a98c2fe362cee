"""Tests for L{aesm.store.log}, with several servers that share a store."""

from __future__ import annotations

import itertools
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from zope.interface import implementer

from aesm import (
    AnyServer,
    ClientService,
    Connection,
    Packet,
    PrivateKey,
    Server,
    listen,
)
from aesm.errors import (
    CloseCode,
    ConnectionClosed,
    MessageTooBig,
    SendBufferFull,
    SessionLost,
    SpoolError,
)
from aesm.interfaces import IMessageHandlerMaker, MessageHandler
from aesm.server import stores
from aesm.server.registry import Connections
from aesm.store import entries, log
from aesm.store.entries import ENTRY_MEMORY
from aesm.store.interface import Entry
from aesm.store.log import Log
from aesm.store.telling import MAX_ENTRY
from tests.messages.test_hotpath import records
from tests.server.test_claimed import Way
from tests.support.helpers import XX
from tests.support.pairs import SERVER_KEY
from tests.support.shelf import LogShelfStore, Shelf
from tests.support.spooled import Mortal, SpoolTestCase

KEYS = [PrivateKey(bytes([number]) * 32) for number in (0x61, 0x62, 0x63, 0x64)]


@implementer(IMessageHandlerMaker)
class Talker(MessageHandler):
    """
    A handler that sends each message on to all others, or back.

    @ivar sent: what came of sending.
    """

    name = description = ""

    def makeHandler(self, connections: Connections) -> Talker:
        """Be the handler."""
        handler = Talker()
        handler.connections = connections
        return handler

    connections: Connections

    def packetReceived(self, connection: Connection, packet: Packet) -> Any:
        """Send on: to all others, to who has sent it, both, or to one that is here."""
        data = cast(str, packet.data)
        if data.startswith("to"):
            key = KEYS[int(data.split()[2])].publicKey
            for other in self.connections.byPeer(key):
                other.sendData(data)
        if data.startswith(("back", "both")):
            connection.sendData("back " + data)
        if data.startswith(("all", "both")):
            self.connections.sendAll(data, exclude=(connection,))
        if data.startswith("both"):
            connection.sendData("again " + data)


class LogTestCase(SpoolTestCase):
    """
    Servers that share a shelf, and clients, each at one of them.

    @ivar stores: of the servers.
    @ivar servers: which run.
    @ivar got: what each client got.
    """

    nodes = 3

    def setUp(self) -> None:
        """Have a shelf."""
        super().setUp()
        self.shelf = Shelf()
        self.stores: list[LogShelfStore] = []
        self.servers: list[Server] = []
        self.processes: list[Mortal] = []
        self.factories: list[Any] = []
        self.ways: list[Way] = []
        self.clients: list[ClientService] = []
        self.clocks: list[Mortal] = []
        self.got: list[list[Any]] = []
        self.isSlow = False
        self.patch(stores, "spoolOpener", lambda *these: self.openStore)

    def openStore(self) -> LogShelfStore:
        """Open the store of a server."""
        self.opened = LogShelfStore(self.shelf)
        return self.opened

    def begin(self, **options: Any) -> None:
        """
        Start servers, and clients in turns.

        @param options: of the servers.
        """
        self.options = {"handler": Talker()} | options
        for node in range(self.nodes):
            self.startNode(node)
        for index in range(len(KEYS)):
            self.client(index, index % self.nodes)
        self.settle()

    def startNode(self, node: int) -> None:
        """Start a server, again if need be."""
        process = Mortal(self.network.clock)
        starting = listen(
            process,
            self.network.endpoint(),
            key=SERVER_KEY,
            suites=(XX,),
            handshakesPerHost=1e6,
            **self.options,
        )
        lists: list[tuple[list[Any], Any]] = [
            (self.servers, self.successResultOf(starting)),
            (self.factories, self.network.factory),
            (self.stores, self.opened),
            (self.processes, process),
        ]
        for things, new in lists:
            things[node:] = [new, *things[node + 1 :]]

    def client(self, index: int, node: int, **options: Any) -> None:
        """Start a client."""
        self.ways.append(Way(cast(Any, self), node))
        self.clocks.append(Mortal(self.network.clock))
        client = ClientService(
            self.ways[-1],
            reactor=self.clocks[-1],
            key=KEYS[index],
            trust=AnyServer(),
            suites=(XX,),
            retryPolicy=backoffPolicy(jitter=lambda: 0.0),
            **options,
        )
        self.clients.append(client)
        self.got.append([])
        client.startService()

    def endAll(self) -> None:
        """Stop all of them; nothing is left then."""
        for store in self.stores:
            store.isSlow = False
            while store.waiting:
                store.work()
        for client in self.clients:
            stopped = client.stopService()
            self.settle()
            self.successResultOf(stopped)
        for server, listens in zip(self.servers, self.factories, strict=True):
            self.network.factory = listens
            stopping = server.stop()
            self.settle()
            self.successResultOf(stopping)
        super().endAll()

    def settle(self, *times: float) -> None:
        """Answer everything, deliver everything, and let time pass."""
        for seconds in times or (0, 1, 20, 20, 0):
            self.network.advance(seconds)
            while any(store.waiting for store in self.stores):
                for store in self.stores:
                    if store.waiting:
                        store.work()
                self.network.advance(0)
            self.network.advance(0)

    def take(self) -> list[list[Any]]:
        """Take what came to all clients, and have all of that."""
        for client, got in zip(self.clients, self.got, strict=True):
            got += self.taking(client.retrieved)
        return self.got

    def cut(self, index: int) -> None:
        """Cut a client off."""
        for link in list(self.network.links):
            if link.client.protocol.factory.clock is self.clocks[index]:  # type: ignore[attr-defined]
                link.cut()

    def roam(self, index: int, node: int) -> None:
        """Let a client come to another server."""
        self.ways[index].node = node
        self.cut(index)

    def killNode(self, node: int) -> None:
        """Kill a server."""
        self.processes[node].kill()
        self.stores[node].kill()
        listens = self.factories[node]
        for link in list(self.network.links):
            if link.server.protocol.factory is listens:  # type: ignore[attr-defined]
                link.server.lost = True
                link.cut()

    def stall(self, index: int, stalled: bool = True) -> None:
        """Let nothing come to a client, or all of it."""
        for link in self.network.links:
            if link.client.protocol.factory.clock is self.clocks[index]:  # type: ignore[attr-defined]
                link.toClient.stalled = stalled
        self.network.deliver()

    def closedCode(self, connection: Connection) -> int:
        """Tell with which code a connection was closed."""
        reason: Any = self.successResultOf(connection.closed())
        code: int = reason.code
        return code

    def log(self, node: int) -> Log:
        """Find the log of a server."""
        journal = self.servers[node].factory.manager.journal
        assert journal is not None
        assert journal.log is not None
        return journal.log

    def connection(self, index: int) -> Connection:
        """Find a client's connection, at whichever server it is."""
        key = KEYS[index].publicKey
        found = [
            connection
            for server in self.servers
            for connection in server.connections.byPeer(key)
            if not connection.isOver
        ]
        return found[-1]


class SendTests(LogTestCase):
    """What is told all."""

    def test_all(self) -> None:
        """All clients of all servers get it, but those it is not for."""
        self.begin()
        self.servers[0].sendAll("one")
        self.servers[1].sendAll(b"two", exclude=[self.connection(1)])
        self.settle()
        self.assertEqual(
            self.take(),
            [["one", b"two"], ["one"], ["one", b"two"], ["one", b"two"]],
        )
        self.assertEqual(len(self.shelf.log), 2)

    def test_turn(self) -> None:
        """All of a turn has one time, so that it fits a batch; a later one its own."""
        self.begin()
        times = itertools.count(10**15)
        self.patch(log, "time_ns", lambda: next(times) * 1000)
        for _ in range(2):
            self.servers[0].sendAll("one")
            self.servers[0].sendAll("two")
            self.settle()
        sent = [entries.decoded(entry).micros - 10**15 for entry in self.shelf.log]
        self.assertEqual(sent, [0, 0, 1, 1])

    def test_own(self) -> None:
        """
        A server tells what it has written without hearing of it, unless there is
        something before it that it has not heard.
        """
        self.begin()
        self.stores[0].isDeaf = True
        self.servers[0].sendAll("one")
        self.settle(0)
        self.servers[1].sendAll("two")
        self.servers[0].sendAll("three")
        self.settle(0)
        got = self.take()
        self.assertEqual((got[0], got[1]), (["one"], ["one", "two", "three"]))
        self.stores[0].isDeaf = False
        self.servers[0].sendAll("four")
        self.settle(0)
        self.assertEqual(self.take(), [["one", "two", "three", "four"]] * 4)

    def test_oneRecord(self) -> None:
        """What others have sent in a turn leaves with what is acknowledged of it."""
        self.begin()
        for index in (0, 3):  # which are at the same server
            self.clients[index].sendData(f"all {index}")
        links = [link for link in self.network.links if link.toServer.inFlight]
        for link in links:
            link.server.receive(1 << 16)
        self.network.clock.advance(0)
        sizes = [len(records(bytes(link.toClient.inFlight))) for link in links]
        self.assertEqual(sizes, [1, 1])
        self.settle()
        self.assertEqual(self.take(), [["all 3"], *[["all 0", "all 3"]] * 2, ["all 0"]])

    def test_nothingRemoved(self) -> None:
        """What is acknowledged is not removed where it is not stored."""
        self.begin()
        self.servers[0].sendAll("one")
        self.settle()
        removed: list[Any] = []
        self.stores[0].discard = lambda *what: removed.append(what)  # type: ignore[method-assign]
        self.clients[0].sendData("all two")
        self.settle(0)
        self.assertEqual([name for name, isOutgoing, _ in removed if isOutgoing], [])
        self.clients[0].sendData("back")
        self.settle(0)
        self.clients[0].sendData("all three")
        self.settle(0)
        self.assertIn(True, [isOutgoing for _, isOutgoing, _ in removed])

    def test_counted(self) -> None:
        """It fires with how many have it, everywhere, of those that are there."""
        self.begin()
        for store in self.stores:
            store.isSlow = True
        count = self.servers[0].sendAll("one")
        count.addCallback(lambda having: having)
        self.assertNoResult(count)
        self.settle(0)
        self.assertEqual(self.successResultOf(count), 4)
        self.take()
        late = self.servers[0].sendAll("two", exclude=[self.connection(3)])
        self.settle(0)
        self.assertEqual(self.take()[0], ["one", "two"])
        late.addCallback(lambda having: having)
        self.settle(0)
        self.assertEqual(self.successResultOf(late), 3)

    def test_away(self) -> None:
        """Who is away is not waited for, and gets it."""
        self.begin()
        self.cut(3)
        self.network.deliver()
        count = self.servers[1].sendAll("one")
        count.addCallback(lambda having: having)
        self.settle(0)
        self.assertEqual(self.successResultOf(count), 3)
        self.settle()
        self.assertEqual(self.take()[3], ["one"])

    def test_deadServer(self) -> None:
        """A server that does not answer costs two heartbeats, and its clients."""
        self.begin()
        self.stores[2].isSlow = True
        count = self.servers[0].sendAll("one")
        count.addCallback(lambda having: having)
        self.network.advance(0)
        self.network.advance(59)
        self.assertNoResult(count)
        self.network.advance(1)
        self.assertEqual(self.successResultOf(count), 3)

    def test_late(self) -> None:
        """Who asks once all have it is told the same."""
        self.begin()
        count = self.servers[0].sendAll("one", exclude=[self.connection(0)])
        self.settle()
        self.client(0, 1)  # of the same key, and not there then
        self.settle()
        self.assertEqual(self.counted(count), 3)

    def counted(self, count: Deferred[int]) -> int:
        """Look how many have something."""
        count.addCallback(lambda having: having)
        self.settle(0)
        return self.successResultOf(count)

    def test_unsent(self) -> None:
        """What cannot be sent fails: it is too large, or nothing can be written."""
        self.begin()
        for size in (MAX_ENTRY - 1, MAX_ENTRY):
            self.servers[0].sendAll("x" * size)
        self.failureResultOf(self.servers[0].sendAll(b"x" * (size + 1)), MessageTooBig)
        self.stores[0].failure = SpoolError("full")
        self.failureResultOf(self.servers[0].sendAll("x"), SpoolError)
        self.settle()
        self.assertEqual([len(got) for got in self.take()], [2] * 4)

    def test_sending(self) -> None:
        """Of what is not written so much may be, but for what messages cause."""
        self.patch(log, "MAX_SENDING", 1000)
        self.begin()
        self.stores[0].isSlow = True
        self.servers[0].sendAll("x" * 800)
        self.servers[0].sendAll("x" * 100)
        self.failureResultOf(self.servers[0].sendAll("x" * 100), SendBufferFull)
        self.clients[0].sendData("all " + "x" * 1000)
        self.network.advance(0)
        self.settle(0)
        self.servers[0].sendAll("x" * 800)
        self.settle(0)
        self.assertEqual([len(got) for got in self.take()], [3, 4, 4, 4])

    def test_stalled(self) -> None:
        """
        A client that does not take it costs the others nothing: its server says soon
        enough how many have it.
        """
        self.begin()
        self.stall(3)
        count = self.servers[1].sendAll("one")
        count.addCallback(lambda having: having)
        self.settle(0)
        self.network.advance(44)
        self.assertNoResult(count)
        self.settle(1)
        self.assertEqual(self.successResultOf(count), 3)
        self.stall(3, False)

    def test_nobodySays(self) -> None:
        """If nobody can be asked who has it, who asks is told so."""
        self.begin()
        count = self.servers[0].sendAll("one")
        self.settle()
        self.stores[0].broken = SpoolError("away")
        count.addCallback(lambda having: having)
        self.failureResultOf(count, SpoolError)

    def test_stopped(self) -> None:
        """Whoever waits for a number is told when the server stops."""
        self.begin()
        self.stores[1].isSlow = True
        asked = self.servers[0].sendAll("one")
        asked.addCallback(lambda having: having)
        self.network.advance(0)
        unwritten = self.servers[1].sendAll("two")
        unwritten.addCallback(lambda having: having)
        later = self.servers[1].sendAll("three")
        for node in (0, 1):
            stopped = self.log(node)
            stopped.stop()
            stopped._told(None)
            stopped._counting.heard(b"has 1 1")
        self.failureResultOf(asked, SpoolError)
        self.settle()
        self.failureResultOf(unwritten, SpoolError)
        later.addCallback(lambda having: having)
        self.failureResultOf(later, SpoolError)
        late = self.servers[0].sendAll("four")
        late.addCallback(lambda having: having)
        self.settle()
        self.failureResultOf(late, ConnectionClosed)

    def test_claimed(self) -> None:
        """What a message has caused that another server handles is not sent here."""
        self.begin()
        for store in self.stores:
            store.isSlow = True
        sent = []
        handler: Any = self.servers[0].factory.manager.handler
        sendAll = handler.connections.sendAll

        def sending(*arguments: Any, **more: Any) -> Any:
            """Note what comes of it."""
            sent.append(sendAll(*arguments, **more))
            return sent[-1]

        handler.connections.sendAll = sending
        self.clients[0].sendData("all once")
        self.network.advance(0)
        sent[0].addCallback(lambda having: having)
        self.roam(0, 1)
        for _ in range(3):
            self.network.advance(1)
        self.stores[1].work()
        self.network.advance(0)
        self.settle()
        self.failureResultOf(sent[0], ConnectionClosed)
        self.assertEqual(self.take(), [[], ["all once"], ["all once"], ["all once"]])

    def test_undone(self) -> None:
        """
        What is behind something that is not sent here moves up, and stays what it is
        wherever its session goes.
        """
        self.begin()
        store = self.stores[0]
        store.isSlow = self.stores[1].isSlow = True
        self.stall(3)
        for count, data in enumerate(("to 0 3 1", "to 0 3 2"), 1):
            self.clients[0].sendData(data)
            self.network.advance(0)  # it is handled, and is being written
            self.servers[1].sendAll(data)
            self.network.advance(0)
            while len(self.shelf.log) < count:
                self.stores[1].work()
            self.network.clock.advance(0)
            store.waiting.pop()()  # and is heard
            self.network.clock.advance(0)
        connection: Any = self.connection(3)
        places = [(1, 1, 1), (3, 1, 2)]
        self.assertEqual(connection.following.places, places)
        self.roam(0, 1)
        for _ in range(3):
            self.network.advance(1)
        while self.shelf.owners[self.connection(0).session.name] is store:
            self.stores[1].work()
        store.work()  # the commit, of what is not ours
        self.assertEqual(connection.following.places, [(0, 1, 1), (1, 1, 2)])
        self.settle(0)
        self.stall(3, False)
        self.roam(3, 2)
        self.settle()
        self.assertEqual(self.take()[3], ["to 0 3 1", "to 0 3 2"])

    def test_tooBig(self) -> None:
        """Who does not take messages of that size is closed (1009)."""
        self.begin()
        self.client(0, 0, maxMessage=100)
        self.settle()
        connection = self.connection(0)
        self.servers[1].sendAll("x" * 101)
        self.servers[1].sendAll("x")
        self.settle(0)
        self.assertEqual(self.closedCode(connection), CloseCode.TOO_BIG)

    def test_slow(self) -> None:
        """Who does not take what it is sent is closed (4000)."""
        self.begin(sendBuffer=1000)
        connection = self.connection(0)
        self.stall(0)
        for _ in range(10):
            self.servers[1].sendAll("x" * 100)
            self.settle(0)
        self.assertTrue(connection.isClosing)
        self.assertEqual([len(got) for got in self.take()[1:]], [10] * 3)
        self.stall(0, False)


class BoundTests(LogTestCase):
    """A log that drops what is old."""

    def setUp(self) -> None:
        """Have a small one."""
        super().setUp()
        self.patch(entries, "LOG_SIZE", 8 * (ENTRY_MEMORY + 100))

    def say(self, times: int) -> None:
        """Tell all something, again and again."""
        for number in range(times):
            self.servers[0].sendAll(f"{number:0100}")
            self.settle(0)

    def test_late(self) -> None:
        """
        A client that takes nothing for as long as it is all there is told to be slow
        (4000) before its place is not there any more; and not before that.
        """
        self.begin()
        for late in range(2):
            connection = self.connection(3)
            self.stall(3)
            self.say(8 + late)
            self.assertEqual(connection.isClosing, bool(late))
            self.stall(3, False)
            self.settle(0)
        self.assertEqual(self.closedCode(connection), CloseCode.SLOW_CONSUMER)

    def test_claimed(self) -> None:
        """
        A client whose server was killed and that comes back later than that is refused
        so (4000), and begins another session.
        """
        self.begin()
        name = self.connection(2).session.name
        self.ways[2].node = 0
        killed = self.stores[2]
        self.stores[0].isSlow = True
        self.killNode(2)
        self.shelf.owners[name] = killed  # of which no server has it from the start
        former = self.clients[2].former
        self.stores[0].isSlow = False
        self.startNode(2)
        for number in range(20):
            self.servers[1].sendAll(f"{number:0100}")
            for _ in range(2):
                self.network.clock.advance(0)
        self.assertNotIn(name, [])
        self.settle()
        assert former is not None
        self.assertIsInstance(self.successResultOf(former.closed()), SessionLost)
        self.assertNotIn(name, self.shelf.sessions)

    def test_places(self) -> None:
        """
        Of a session of which nothing else is written its place is, after an eighth of
        what the log keeps, and twice that at the latest; and nothing in between.
        """
        self.begin()
        name = self.connection(1).session.name
        places = []
        for _ in range(6):
            self.say(1)
            places.append(self.shelf.sessions[name].state["log"][:2])
        numbers = [number for number, _ in places]
        self.assertEqual(numbers, sorted(numbers))
        self.assertGreaterEqual(numbers[-1], 4)

    def test_trimmed(self) -> None:
        """A server keeps so much of it, and finds any of that."""
        self.begin()
        self.say(20)
        kept = self.log(1).entries
        self.assertEqual(kept.position, 20)
        self.assertIn(20 - kept.first, (7, 8))
        self.assertIsNone(kept.find(kept.first - 1))
        self.assertIsNotNone(kept.find(kept.first))

    def test_slept(self) -> None:
        """
        A server that finds that it has missed some, since they are not there any more,
        closes its clients (4000): they miss them, too.
        """
        self.begin()
        connection = self.connection(2)
        self.stores[2].isDeaf = True
        self.say(20)
        self.shelf.first += 12
        del self.shelf.log[:12]
        self.stores[2].isDeaf = False
        self.stores[2].ring()
        self.settle(0)
        self.assertEqual(self.closedCode(connection), CloseCode.SLOW_CONSUMER)
        self.settle()
        self.take()
        self.say(1)
        self.assertEqual(self.take()[2][-1], f"{0:0100}")


class RewoundTests(LogTestCase):
    """A log that went back in time."""

    def test_lost(self) -> None:
        """
        What some have got and the log has no more, they keep, also where they go then;
        and all get what takes its place.
        """
        self.begin()
        self.stall(0)
        for data in ("one", "two", "three"):
            self.servers[0].sendAll(data)
            self.settle(0)
        del self.shelf.log[1:]
        self.stores[1].isDeaf = True
        with capturedLogs() as events:
            self.servers[2].sendAll("four")
            self.stores[0].ring()
            self.settle(0)
            self.stores[2].ring()
            self.servers[2].sendAll("five")
            self.settle(0)
            self.stores[1].isDeaf = False
            self.stores[1].ring()
            self.settle(0)
        self.assertTrue([e for e in events if "lacks" in e["log_format"]])
        self.roam(0, 1)
        self.settle()
        expected = ["one", "two", "three", "four", "five"]
        self.assertEqual(self.take(), [expected] * 4)

    def test_all(self) -> None:
        """So it is where all of it is gone."""
        self.begin()
        self.servers[0].sendAll("one")
        self.servers[0].sendAll("two")
        self.settle(0)
        self.shelf.log.clear()
        with capturedLogs():
            for store in self.stores:
                store.ring()
            self.servers[0].sendAll("three")
            self.settle(0)
        self.assertEqual(self.take(), [["one", "two", "three"]] * 4)

    def test_behindCommit(self) -> None:
        """So it is with what waits behind a commit, or is to be in the next one."""
        self.begin()
        self.stores[0].isSlow = True
        connection = self.connection(0)
        connection.sendData("mine")
        self.network.clock.advance(0)  # it is being written
        self.servers[1].sendAll("one")
        self.network.advance(0)
        self.stores[0].waiting.append(self.stores[0].waiting.pop(0))
        self.stores[0].work()  # it is heard
        self.network.clock.advance(0)
        connection.sendData("more")
        self.shelf.log.clear()
        with capturedLogs():
            self.stores[0].ring()
            self.settle(0)
        self.roam(0, 2)
        self.settle()
        self.assertEqual(self.take()[0], ["mine", "one", "more"])


class ReadTests(LogTestCase):
    """How it is read."""

    def test_again(self) -> None:
        """What cannot be read is read again, a second later, and when asked to."""
        self.begin()
        self.stores[1].isDeaf = True
        self.servers[0].sendAll("one")
        self.settle(0)
        self.stores[1].broken = SpoolError("away")
        self.stores[1].ring()
        self.stores[1].ring()
        self.stores[1].broken = None
        self.network.advance(0.9)
        self.assertEqual(self.take()[1], [])
        self.network.advance(0.1)
        self.network.advance(0)
        self.assertEqual(self.take()[1], ["one"])

    def test_gap(self) -> None:
        """What was not heard is read when something behind it is heard."""
        self.begin()
        self.stores[1].isDeaf = True
        self.servers[0].sendAll("one")
        self.settle(0)
        self.stores[1].isDeaf = False
        self.servers[0].sendAll("two")
        self.settle(0)
        self.assertEqual(self.take()[1], ["one", "two"])

    def test_meanwhile(self) -> None:
        """
        A session that yet another server claims while the log is read does not go on
        here: its client is refused (1013), and has lost nothing.
        """
        self.begin()
        former = self.clients[0].former
        assert former is not None
        self.stores[1].isSlow = True
        self.roam(0, 1)
        for _ in range(3):
            self.network.advance(1)
        self.stores[1].work()  # the claim; the log is read now
        self.assertEqual(len(self.stores[1].waiting), 1)
        self.roam(0, 2)
        for _ in range(3):
            self.network.advance(1)
        self.stores[1].ring()
        self.stores[1].isSlow = False
        self.settle()
        self.assertEqual(self.servers[1].connections.byPeer(KEYS[0].publicKey), [])
        self.assertTrue(former.isOpen)
        self.assertIs(self.clients[0].former, former)

    def test_unsound(self) -> None:
        """What makes no sense is for nobody, and stops nothing."""
        self.begin()
        self.servers[0].sendAll("one")
        self.settle(0)
        for number, data in ((2, b"nonsense"), (3, self.shelf.log[0].data)):
            entry = Entry(number, b"n%d" % number, data)
            self.shelf.log.append(entry)
            if number == 2:
                self.stores[0].told(entry)
        for store in self.stores:
            store.ring()
        self.settle(0)
        self.roam(0, 1)
        self.settle()
        self.assertEqual(self.take(), [["one", "one"]] * 4)

    def test_start(self) -> None:
        """A server that starts late knows what was told, of which none is for it."""
        self.begin()
        self.roam(2, 0)
        self.settle()
        for number in range(5):
            self.servers[0].sendAll(str(number))
        self.settle()
        self.shelf.first += 2
        del self.shelf.log[:2]
        self.killNode(2)
        self.startNode(2)
        self.client(3, 2)
        self.settle()
        self.servers[0].sendAll("last")
        self.settle()
        self.assertEqual(self.take()[-1], ["last"])
        self.assertEqual(self.take()[2], [*"01234", "last"])


STEPS = [
    "send",
    "send",
    "send",
    "to",
    "to",
    "turn",
    "turn",
    "deliver",
    "answer",
    "answer",
]
STEPS += ["answer", "ring", "cut", "roam", "roam", "wait", "deaf", "hear", "kill"]


class ModelTests(LogTestCase):
    """Anything happens, in any order."""

    @settings(max_examples=12, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 2)),
            min_size=15,
            max_size=60,
        )
    )
    def test_anything(self, steps: list[tuple[str, int, int]]) -> None:
        """
        All get what any of them has told all, but for its own, once and in the same
        order, wherever they go and whichever server is killed; and all of what is for
        them alone.  What goes to one that is at the same server comes once, if at all.
        """
        super().setUp()
        with capturedLogs():
            self.begin()
            for store in self.stores:
                store.isSlow = True
            self.sent: list[list[str]] = [[] for _ in KEYS]
            self.toOne = 0
            for step in steps:
                self.step(*step)
            for store in self.stores:
                store.isDeaf = False
                store.ring()
            self.settle()
            for store in self.stores:
                store.ring()
            self.settle(0, 1, 20, 20, 20, 0)
            self.check()
            self.endAll()

    def step(self, what: str, index: int, node: int) -> None:
        """Let something happen."""
        store = self.stores[node]
        match what:
            case "send":
                how = ("all", "back", "both")[node]
                data = f"{how} {index} {len(self.sent[index])}"
                self.sent[index].append(data)
                self.clients[index].sendData(data)
            case "to":
                other = (index + node + 1) % len(KEYS)
                self.toOne += 1
                self.clients[index].sendData(f"to {index} {other} {self.toOne}")
            case "turn":
                self.network.clock.advance(0)
            case "deliver":
                self.network.advance(0)
            case "answer":
                if store.waiting:
                    store.work()
            case "ring":
                store.ring()
            case "cut":
                self.cut(index)
            case "roam":
                self.roam(index, node)
            case "wait":
                self.network.advance(1)
            case "deaf":
                store.isDeaf = True
            case "hear":
                store.isDeaf = False
            case "kill":
                self.killNode(node)
                self.startNode(node)
                self.stores[node].isSlow = True

    def check(self) -> None:
        """Check what all got."""
        told: list[list[str]] = []
        for index, everything in enumerate(self.take()):
            direct = [each.split() for each in everything if each.startswith("to")]
            for sender in range(len(KEYS)):
                numbers = [int(each[3]) for each in direct if each[1] == str(sender)]
                self.assertEqual(numbers, sorted(set(numbers)))
            got = [each for each in everything if not each.startswith("to")]
            mine = [each for each in got if each.startswith(("back", "again"))]
            expected = []
            for data in self.sent[index]:
                if data.startswith(("back", "both")):
                    expected.append("back " + data)
                if data.startswith("both"):
                    expected.append("again " + data)
            self.assertEqual(mine, expected)
            told.append([e for e in got if not e.startswith(("back", "again"))])
        toAll = {
            data
            for sent in self.sent
            for data in sent
            if data.startswith(("all", "both"))
        }
        for index, mine in enumerate(told):
            others = {e for e in toAll if e.split()[1] != str(index)}
            self.assertEqual(len(mine), len(set(mine)))
            self.assertEqual(set(mine), others)
            for other in told:
                both = set(mine) & set(other)
                self.assertEqual(
                    [e for e in mine if e in both], [e for e in other if e in both]
                )
