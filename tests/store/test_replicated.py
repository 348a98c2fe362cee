"""Tests for L{aesm.store.replicated}, with several servers that share a store."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from random import Random
from typing import Any, NoReturn, cast

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm import Connection, Packet, listen
from aesm.errors import CloseCode, MessageTooBig, SessionLost, SpoolError
from aesm.interfaces import IMessageHandlerMaker, MessageHandler
from aesm.server.registry import Connections
from aesm.store import entries, log, replicated
from aesm.store.entries import (
    ENTRY_MEMORY,
    EVENT,
    GONE,
    decoded,
    encoded,
    encodedEvent,
    entriesOf,
)
from aesm.store.interface import Entry, IReplica, Rows
from aesm.store.replicated import FEW, SHARED, Picking, Replicated
from aesm.store.telling import MAX_ENTRY
from tests.store.test_log import KEYS, LogTestCase, Talker
from tests.support.helpers import XX
from tests.support.pairs import SERVER_KEY
from tests.support.shelf import LogShelfStore, ShelfStore
from tests.support.spooled import Mortal

SEEDS = range(3)


def _matches(got: list[str], told: list[tuple[list[str], list[str]]]) -> bool:
    """
    Tell whether something is made up of what some sessions were told, one after the
    other: of the last one all, of others up to somewhere.

    @param told: of each what all were told of whom it is not known when it began, and
        what it was told from then on.
    """
    begins = {0}
    for index, (maybe, surely) in enumerate(told, 1):
        ends = set()
        for begin in begins:
            for skip in range(len(maybe) + 1):
                mine = maybe[skip:] + surely
                size = 0
                while got[begin : begin + size] == mine[:size] and size <= len(mine):
                    ends.add((begin + size, size == len(mine)))
                    size += 1
        begins = {end for end, isAll in ends if isAll or index < len(told)}
    return len(got) in begins


@implementer(IReplica)
class Roll:
    """
    Who is there, in the order in which they came, and how much was said: all that are
    there are told who comes, says something and is gone, by which number in the
    conversation.

    @ivar times: when something was said.
    @ivar rewinds: how often the log went back.
    @ivar again: called then.
    """

    def __init__(self) -> None:
        """Begin with nobody."""
        self.there: list[str] = []
        self.away: list[str] = []
        self.number = 0
        self.times: list[int] = []
        self.rewinds = 0
        self.again: Callable[[], object] = lambda: None

    def apply(self, data: bytes, micros: int) -> Rows:
        """Somebody comes, or says something, or is sent away."""
        self.times.append(micros)
        what, name, words = data.decode().split(" ", 2)
        if words == "raise":
            raise KeyError("of mine")
        if what == "come" and name not in self.there + self.away:
            self.there.append(name)
        elif what == "come" or name not in self.there:
            return []
        rows = self._tell(f"{what} {words}")
        if what == "say":
            rows.insert(0, (f"{self.number} you say", [name]))
        if what == "away":
            self.there.remove(name)
            self.away.append(name)
            rows += [(None, [name]), ("never", [name])]
        return rows

    def gone(self, name: str) -> Rows:
        """Somebody is gone."""
        if name in self.away:
            self.away.remove(name)
        if name not in self.there:
            return []
        self.there.remove(name)
        return self._tell("gone")

    def _tell(self, words: str) -> list[tuple[str | None, Collection[str]]]:
        """Tell all."""
        self.number += 1
        return [(f"{self.number} {words} {len(self.there)}", list(self.there))]

    def refuse(self, data: bytes, micros: int) -> Rows:
        """
        Be of another version.

        @raise ValueError: this is.
        """
        raise ValueError("of another version")

    def snapshot(self) -> bytes:
        """Say the state."""
        return json.dumps([self.there, self.away, self.number]).encode()

    def restore(self, data: bytes | None) -> None:
        """Have another one."""
        if data == b"other":
            raise ValueError("of another version")
        state: Any = [[], [], 0] if data is None else json.loads(data)
        self.there, self.away, self.number = state

    def rewound(self) -> None:
        """Count."""
        self.rewinds += 1
        self.again()


@implementer(IMessageHandlerMaker)
class Caller(MessageHandler):
    """A handler that says all that happens to its replica."""

    name = description = ""
    clientsTogether = True
    connections: Connections

    def makeHandler(self, connections: Connections) -> Caller:
        """Be the handler."""
        handler = Caller()
        handler.connections = connections
        handler.replica = Roll()
        handler.replica.again = handler.again
        return handler

    replica: Roll

    def _tell(self, connection: Connection, what: str, words: str) -> Any:
        """Tell the replicas."""
        event = f"{what} {connection.session.name} {words}"
        assert self.connections.log is not None
        return self.connections.log.tell(event.encode(), connection)

    def again(self) -> None:
        """Say of all that are here that they have come, if that was lost."""
        for connection in self.connections.values():
            self.connectionAccepted(connection)

    def connectionAccepted(self, connection: Connection) -> None:
        """Somebody has come."""
        if connection.session.name not in self.replica.there:
            self._tell(connection, "come", "")

    def connectionAttached(self, connection: Connection) -> None:
        """Somebody is back, who may have been sent away meanwhile."""
        if connection.session.name in self.replica.away:
            connection.closeWith(CloseCode.NOT_ALLOWED, "sent away")

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Somebody says something: to all, by the log alone; or is sent away."""
        data = cast(str, packet.data)
        if data.startswith("all"):
            self.connections.sendAll(data)
        else:
            self._tell(connection, "away" if data == "away" else "say", data)


class ReplicaTestCase(LogTestCase):
    """Servers whose handlers have replicas."""

    def begin(self, **options: Any) -> None:
        """Start servers, and clients in turns."""
        super().begin(**({"handler": Caller()} | options))

    def roll(self, node: int) -> Roll:
        """Find the replica of a server."""
        handler = cast(Any, self.servers[node].factory.manager.handler)
        roll: Roll = handler.replica
        return roll

    def states(self) -> list[Any]:
        """List the states of all."""
        return [self.roll(node).snapshot() for node in range(len(self.servers))]

    def since(self, index: int) -> None:
        """Check that a client was told what the first was, since it came."""
        first, mine = (
            [each for each in got if "you" not in each]
            for got in (self.take()[0], self.got[index])
        )
        self.assertGreater(len(mine), 9)
        self.assertEqual(mine, first[-len(mine) :])
        self.assertRegex(mine[0], "^[1-4] come")

    def bury(self, node: int) -> None:
        """Forget a server that was killed, and is not started again."""
        for things in (self.servers, self.factories, self.stores, self.processes):
            del cast("list[Any]", things)[node]

    def refused(self) -> str:
        """Start a server that cannot; tell why."""
        starting = listen(
            Mortal(self.network.clock),
            self.network.endpoint(),
            key=SERVER_KEY,
            suites=(XX,),
            **self.options,
        )
        return str(self.failureResultOf(starting, SpoolError).value)

    def same(self) -> None:
        """Check that all have the state that the log makes, from its beginning on."""
        expected = Roll()
        shots = self.shelf.snapshots
        if self.shelf.first > 1:
            expected.restore(shots[0].data)
        for entry in map(decoded, self.shelf.log):
            if self.shelf.first == 1 or entry.position > shots[0].position:
                if entry.kind == GONE:
                    expected.gone(cast(str, entry.body))
                elif entry.kind:
                    expected.apply(cast(bytes, entry.body), entry.micros)
        self.assertEqual(self.states(), [expected.snapshot()] * len(self.servers))


class EventTests(ReplicaTestCase):
    """What is told because something has happened."""

    def test_interface(self) -> None:
        """What the tests have for a replica is one."""
        verifyObject(IReplica, Roll())

    def test_all(self) -> None:
        """
        All servers have the same state, all clients are told the same, and nothing is
        written for any of them.
        """
        self.begin()
        self.clients[1].sendData("hello")
        self.settle()
        self.same()
        got = self.take()
        self.assertEqual([each[-1] for each in got], ["5 say hello 4"] * 4)
        self.assertEqual(got[1][-2:], ["5 you say", "5 say hello 4"])
        self.assertEqual(got[0][:2], ["1 come  1", "2 come  2"])
        self.assertEqual(len(self.shelf.log), 5)
        self.assertEqual([s.outgoing for s in self.shelf.sessions.values()], [[]] * 4)

    def test_moved(self) -> None:
        """
        A session that moves is told the rest, in order, wherever that was said, with
        what all are told in between.
        """
        self.begin()
        self.stall(1)
        for index in range(4):
            self.clients[index].sendData(f"from {index}")
            self.servers[index % 3].sendAll(f"all {index}")
            self.settle(0)
        self.ways[1].node = 2
        self.killNode(1)
        self.settle()
        self.since(1)
        self.startNode(1)

    def test_time(self) -> None:
        """It is known when something was told, the same everywhere; in a turn once."""
        self.begin()
        times = itertools.count(10**9)
        self.patch(log, "time_ns", lambda: next(times) * 1000_000)
        for _ in range(2):
            for _ in range(2):
                self.log(0).tell(b"say x y", self.connection(0))
            self.settle(0)
        micros = [self.roll(node).times[4:] for node in range(3)]
        self.assertEqual(micros, [[10**12, 10**12, 10**12 + 1000, 10**12 + 1000]] * 3)

    def test_away(self) -> None:
        """Who is sent away is closed behind what it was told before, everywhere."""
        self.begin()
        connection = self.connection(2)
        self.clients[2].sendData("one")
        self.clients[2].sendData("away")
        self.clients[0].sendData("two")
        self.settle()
        self.assertEqual(self.closedCode(connection), CloseCode.NOT_ALLOWED)
        self.assertTrue(self.take()[2][-1].endswith("away away 4"))
        self.assertNotIn(connection.session.name, self.roll(0).away)  # it is gone
        self.same()

    def test_told(self) -> None:
        """Who tells something knows when it was told here, or will never be."""
        self.begin()
        store, connection = self.stores[0], self.connection(0)
        store.isSlow = True
        telling = self.log(0).tell(b"say x y", connection)
        self.network.clock.advance(0)  # it is written
        self.assertNoResult(telling)
        store.work()
        self.assertNoResult(telling)
        self.settle(0)
        self.successResultOf(telling)
        self.assertRaises(
            MessageTooBig, self.log(0).tell, bytes(MAX_ENTRY + 1), connection
        )
        self.log(0).tell(bytes(MAX_ENTRY), connection)
        self.settle(0)
        connection.close()
        self.settle(0)
        self.assertTrue(connection.isOver)
        self.assertFalse(cast(Any, connection).isLeft)
        size = len(self.shelf.log)
        self.successResultOf(self.log(0).tell(b"say x y", connection))
        self.settle(0)
        self.assertEqual(len(self.shelf.log), size)

    def test_stopped(self) -> None:
        """
        A server that tells nobody any more keeps nobody waiting, but writes what it
        can.
        """
        self.begin()
        connection = self.connection(0)
        self.stores[0].isSlow = True
        written = self.log(0).tell(b"say x 1", connection)
        self.network.clock.advance(0)
        self.stores[0].work()  # it is, and was not heard of
        unwritten = self.log(0).tell(b"say x 2", connection)
        self.log(0).stop()
        self.successResultOf(written)
        self.assertNoResult(unwritten)
        later = self.log(0).tell(b"say x 3", connection)
        self.servers[1].factory.manager.stop()
        never = self.log(1).tell(b"say x 4", self.connection(1))
        self.settle()
        for telling in (unwritten, later, never):
            self.successResultOf(telling)
        said = [decoded(each).body for each in self.shelf.log[4:]]
        self.assertEqual(said[:3], [b"say x 1", b"say x 2", b"say x 3"])
        self.assertNotIn(b"say x 4", said)

    def test_elsewhere(self) -> None:
        """What a session has told that is another server's by then is told there."""
        self.begin()
        for store in self.stores:
            store.isSlow = True
        telling = []
        tell = self.log(0).tell

        def telling_(*arguments: Any) -> Any:
            """Note what comes of it."""
            telling.append(tell(*arguments))
            return telling[-1]

        self.log(0).tell = telling_  # type: ignore[assignment, method-assign]
        self.clients[0].sendData("once")
        self.network.advance(0)
        self.roam(0, 1)
        for _ in range(3):
            self.network.advance(1)
        self.stores[1].work()
        self.assertNoResult(telling[0])
        self.settle()
        self.successResultOf(telling[0])
        said = [each for each in self.take()[2] if "once" in each]
        self.assertEqual(said, ["5 say once 4"])

    def test_claimed(self) -> None:
        """So it is for what no message has caused, where that is not known yet."""
        self.begin()
        connection = self.connection(0)
        self.stores[1].isSlow = True
        self.roam(0, 1)
        for _ in range(3):
            self.network.advance(1)
        self.stores[1].work()  # it is claimed
        size = len(self.shelf.log)
        telling = self.log(0).tell(b"say x y", connection)
        self.assertFalse(cast(Any, connection).isLeft)
        self.network.advance(0)
        self.successResultOf(telling)
        self.assertEqual(len(self.shelf.log), size)
        self.settle()

    def test_claimedNow(self) -> None:
        """So it is where that is found in the turn in which it was told."""
        self.begin()
        connection = self.connection(0)
        self.stores[1].isSlow = True
        self.roam(0, 1)
        for _ in range(3):
            self.network.advance(1)
        size = len(self.shelf.log)
        telling = self.log(0).tell(b"say x y", connection)
        self.stores[1].work()  # it is claimed
        self.stores[0].ring()
        self.assertTrue(cast(Any, connection).isLeft)
        self.settle()
        self.successResultOf(telling)
        self.assertEqual(len(self.shelf.log), size)

    def test_bug(self) -> None:
        """A bug is logged; the entry is for nobody, and all goes on."""
        self.begin()
        self.clients[0].sendData("raise")
        self.clients[0].sendData("after")
        self.settle()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 3)
        self.assertEqual([each[-1] for each in self.take()], ["5 say after 4"] * 4)

    def test_other(self) -> None:
        """
        A server whose replica can make nothing of it serves nobody any more, and lets
        nobody in, also if it is started again: its clients are told to go elsewhere.
        """
        self.begin()
        with capturedLogs() as events:
            self.patch(self.roll(1), "apply", self.roll(1).refuse)
            self.ways[1].node = 2
            self.clients[0].sendData("x")
            self.settle()
            self.client(3, 1)
            self.settle()
        critical = [e for e in events if "nobody is let in" in e["log_format"]]
        self.assertEqual(len(critical), 1)
        self.assertEqual(self.servers[1].connections.byPeer(KEYS[3].publicKey), [])
        self.assertEqual([each[-1] for each in self.take()[:4]], ["5 say x 4"] * 4)
        self.assertEqual(len(self.servers[2].connections), 2)
        self.killNode(1)
        self.bury(1)
        self.patch(Roll, "apply", Roll.refuse)
        self.assertIn("of another version", self.refused())
        self.ways[4].node = 0

    def test_unknown(self) -> None:
        """What no process writes is for nobody; without a replica, all events are."""
        for data in (b"other 1\nx", b"event\nx", b"event x\nx", b"gone 1\n\xff"):
            self.assertFalse(decoded(Entry(1, b"n", data)).isSound)
        read = decoded(Entry(1, b"n", encodedEvent(EVENT, b"x", 7)))
        self.assertEqual((read.kind, read.body, read.micros), (EVENT, b"x", 7))
        self.assertTrue(read.isSound)
        self.assertFalse(read.isFor("S"))


class EndTests(ReplicaTestCase):
    """Sessions that end."""

    def ended(self) -> list[str]:
        """List of which sessions the log says that they are over."""
        read = map(decoded, self.shelf.log)
        return [cast(str, each.body) for each in read if each.kind == GONE]

    def test_left(self) -> None:
        """Of a client that leaves it is told at once, and once, behind what it said."""
        self.begin()
        name = self.connection(0).session.name
        self.clients[0].sendData("bye")
        self.clients[0].stopService()
        self.settle(0, 0)
        self.assertEqual(self.ended(), [name])
        self.assertEqual(self.take()[1][-2:], ["5 say bye 4", "6 gone 3"])
        self.same()
        for store in self.stores:
            store.sweep()
        self.settle()
        self.assertEqual(self.ended(), [name])

    def test_expired(self) -> None:
        """
        Of a session to which nobody came back it is told once, whichever servers find
        that, at the same time or not at all.
        """
        self.begin()
        for store in self.stores:
            store.isSlow = True
        name = self.connection(2).session.name
        self.killNode(2)
        self.shelf.expire(name)
        for store in self.stores:
            store.sweep()
        self.settle(0)
        self.assertEqual(self.ended(), [name])
        self.assertIn("5 gone 3", self.take()[0])
        self.startNode(2)

    def test_unread(self) -> None:
        """Where there is no replica nothing is written."""
        self.begin(handler=Talker())
        self.clients[0].stopService()
        self.settle()
        self.assertEqual(self.shelf.log, [])


class BoundedTestCase(ReplicaTestCase):
    """With a small log."""

    def setUp(self) -> None:
        """Keep little."""
        super().setUp()
        self.patch(entries, "LOG_SIZE", 20 * (ENTRY_MEMORY + 50))

    def say(self, times: int) -> None:
        """Say something again and again."""
        for number in range(times):
            self.clients[0].sendData(f"{number:030}")
            self.settle(0)


class SnapshotTests(BoundedTestCase):
    """What a server begins with that comes later."""

    def test_start(self) -> None:
        """
        A server that comes later has the same state, and what a session was told that
        comes to it, though the log has dropped what is old; nobody has more than two
        snapshots, which are half a log apart.
        """
        self.begin()
        positions: set[int] = set()
        for _ in range(30):
            self.say(1)
            positions.update(shot.position for shot in self.shelf.snapshots)
            self.assertLessEqual(len(self.shelf.snapshots), 2)
        gaps = {b - a for a, b in itertools.pairwise(sorted(positions))}
        self.assertEqual(len(positions), 3)
        self.assertLessEqual(gaps, {9, 10, 11})
        self.stall(1)
        self.say(5)
        self.shelf.trim(self.shelf.snapshots[0].position + 1)
        self.killNode(2)
        self.startNode(2)
        self.settle()
        self.same()
        self.ways[1].node = 2
        self.killNode(1)
        self.settle()
        self.since(1)
        self.startNode(1)
        self.settle()
        self.same()

    def test_late(self) -> None:
        """Whose place is before that is refused (4000), and begins anew."""
        self.begin()
        former = self.clients[1].former
        assert former is not None
        self.ways[1].node = 2
        self.stall(1)
        self.killNode(1)
        self.say(25)
        name = former.session.name
        self.shelf.owners[name] = self.stores[0]
        self.shelf.trim(self.shelf.snapshots[0].position + 1)
        self.killNode(2)
        self.startNode(2)
        self.settle()
        self.assertIsInstance(self.successResultOf(former.closed()), SessionLost)
        self.settle()
        self.startNode(1)
        self.settle()
        self.same()

    def test_none(self) -> None:
        """
        Without a snapshot, and with a log that lacks its beginning, it begins anew.
        """
        self.begin()
        self.ways[2].node = 0
        self.killNode(2)
        self.settle()
        self.shelf.trim(3)
        with capturedLogs() as events:
            self.startNode(2)
        self.assertTrue([e for e in events if "no snapshot" in e["log_format"]])
        self.assertEqual(len(self.roll(2).there), 2)

    def test_other(self) -> None:
        """A server that can make nothing of a snapshot lets nobody in."""
        self.begin()
        self.say(15)
        (shot,) = self.shelf.snapshots
        self.shelf.snapshots = [shot._replace(data=b"other")]
        self.assertIn("of another version", self.refused())
        self.shelf.snapshots = [shot]

    def test_unsaved(self) -> None:
        """One that cannot be stored, or made, is later; all goes on."""
        self.begin()
        for node in range(3):
            self.patch(self.stores[node], "_writeSnapshot", _broken)
        self.say(8)
        self.assertEqual(self.shelf.snapshots, [])
        for store in self.stores:
            del store._writeSnapshot
        self.say(4)
        self.assertEqual(len(self.shelf.snapshots), 1)
        for node in range(3):
            self.patch(self.roll(node), "snapshot", _bug)
        self.say(12)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 3)
        self.assertEqual(len(self.shelf.snapshots), 1)

    def test_slept(self) -> None:
        """
        A server that has missed some that are not there any more closes its clients
        (4000), and has the same state as the others.
        """
        self.begin()
        connection = self.connection(2)
        self.stores[2].isDeaf = True
        self.say(30)
        self.shelf.trim(self.shelf.snapshots[0].position + 1)
        had = len(self.take()[2])
        self.stores[2].isDeaf = False
        self.stores[2].ring()
        self.settle(0)
        self.assertEqual(self.closedCode(connection), CloseCode.SLOW_CONSUMER)
        self.assertEqual(len(self.take()[2]), had)
        self.settle()
        self.same()


class RewoundTests(BoundedTestCase):
    """A log that went back in time."""

    def back(self, position: int) -> None:
        """Go back to a position, at all servers."""
        with capturedLogs():
            self.shelf.goBack(position)
            for store in self.stores:
                store.ring()
            self.settle(0)

    def test_lost(self) -> None:
        """
        States go back with it, from a snapshot or from the beginning; nobody is told
        anything again, and what is lost of who is there is told again.
        """
        for times in (3, 18):
            super().setUp()
            self.begin()
            self.say(times)
            self.client(3, 2)
            self.settle()
            self.assertEqual(bool(self.shelf.snapshots), times > 10)
            self.back(self.shelf.last - 2)
            self.assertEqual([self.roll(node).rewinds for node in range(3)], [1] * 3)
            self.assertEqual(len(self.roll(0).there), 5)
            self.say(1)
            self.same()
            said = [e.split(" say ")[1] for e in self.take()[1] if " say " in e]
            self.assertEqual(len(said), times + 1)
            if times == 3:
                self.endAll()

    def test_bug(self) -> None:
        """A bug of who is told of it is logged, and changes nothing."""
        self.begin()
        for node in range(3):
            self.roll(node).again = _bug
        self.say(3)
        self.back(self.shelf.last - 1)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 3)
        self.same()

    def test_meanwhile(self) -> None:
        """What goes back again while it is read is read from the beginning on."""
        self.begin()
        self.say(3)
        store = self.stores[0]
        store.isSlow = True
        reading = Deferred.fromCoroutine(entriesOf(store))
        store.work()  # two entries
        self.shelf.goBack(1)
        while store.waiting:
            store.work()
        there, last = self.successResultOf(reading)
        self.assertEqual((list(there), last), ([1], 1))
        self.back(1)

    def test_all(self) -> None:
        """An engine that has lost all of it begins anew."""
        self.begin()
        self.say(18)
        self.back(0)
        self.assertEqual(self.shelf.snapshots, [])
        self.same()
        self.assertEqual(len(self.roll(0).there), 4)

    def test_behind(self) -> None:
        """
        A server that knows less of what is left than is in any snapshot goes on with
        the oldest, and its clients have missed something (4000).
        """
        self.begin()
        connection = self.connection(2)
        self.stores[2].isDeaf = True
        known = self.shelf.last
        self.say(2)
        self.stores[2].isDeaf = False
        self.stores[2].ring()
        self.settle(0)
        self.stores[2].isDeaf = True
        self.shelf.goBack(self.shelf.last - 1)
        with capturedLogs():
            for store in self.stores[:2]:
                store.ring()
            self.say(30)
            self.shelf.trim(known)
            had = len(self.take()[2])
            self.stores[2].isDeaf = False
            self.stores[2].ring()
            self.settle(0)
        self.assertEqual(self.closedCode(connection), CloseCode.SLOW_CONSUMER)
        self.assertEqual(len(self.take()[2]), had)
        self.settle()
        self.same()

    def test_before(self) -> None:
        """
        Where it went back to before all that a server knows of it, nobody knows what
        its clients had: they are closed (4000).
        """
        self.begin()
        former = self.shelf.log
        self.say(30)
        self.shelf.log = former[:]
        self.shelf.trim(self.shelf.snapshots[0].position + 1)
        self.killNode(2)
        self.startNode(2)
        self.settle()
        connection = self.connection(2)
        self.shelf.first, self.shelf.log = 1, former
        self.back(3)
        self.assertEqual(self.closedCode(connection), CloseCode.SLOW_CONSUMER)
        self.settle()
        self.same()


class RowTests(SynchronousTestCase):
    """What is kept of what came of it."""

    def setUp(self) -> None:
        """Have a replica that says what it is told to."""
        self.rows: Rows = []
        replica: Any = Roll()
        replica.apply = lambda data, micros: self.rows
        self.replicated = Replicated(replica, cast(Any, None))

    def told(self, *rows: tuple[str | None, Collection[str]]) -> Any:
        """Have something happen."""
        self.rows = rows
        entry = decoded(Entry(1, b"n", encodedEvent(EVENT, b"x", 7)))
        (told,) = self.replicated.applied([entry])
        return told

    def test_shared(self) -> None:
        """Rows for the same sessions share their names, which count once."""
        many = [f"S{number:02}" for number in range(FEW + 1)]
        sizes = [FEW, FEW + 1, FEW + 1, FEW]
        told = [self.told(("\xe9", many[::-1][:size])) for size in sizes]
        self.assertIs(told[1].rows[0].names, told[2].rows[0].names)
        self.assertEqual(told[1].rows[0].names, tuple(many))
        names = [len(each.rows[0].names) for each in told]
        self.assertEqual(names, sizes)
        fixed = ENTRY_MEMORY + replicated.ROW_MEMORY + 2
        beside = [(each.size - fixed) // 8 for each in told]
        self.assertEqual(beside, [FEW, FEW + 1, 0, FEW])
        for number in range(SHARED):
            self.told(("x", [*many, str(number)]))
        again = self.told(("x", many))
        self.assertIsNot(again.rows[0].names, told[1].rows[0].names)

    def test_picked(self) -> None:
        """Each session is told what is for it, and those with the same share it."""
        plain = decoded(Entry(3, b"n", encoded("all", ["T"], 7)))
        happened = self.told(("a", "ST"), ("b", "SU"), (None, "T"), ("c", "TU"))
        picking = Picking([happened, plain])
        told = {}
        for name in "STUVW":
            batches, isClosed = picking.of(name)
            bodies = [body for batch, _ in batches for body in batch.bodies]
            told[name] = ("".join(cast("list[str]", bodies)), isClosed)
        expected = {"S": ("aball", False), "T": ("a", True), "U": ("bcall", False)}
        self.assertEqual(told, expected | dict.fromkeys("VW", ("all", False)))
        self.assertIs(picking.of("V")[0], picking.of("W")[0])

    def test_sameNames(self) -> None:
        """Rows for the same sessions are looked at once."""
        many = [f"S{number:02}" for number in range(FEW + 1)]
        picking = Picking([self.told(("a", many), ("b", many))])
        (batch, _), *_ = picking.of("S00")[0]
        self.assertEqual(batch.bodies, ["a", "b"])
        self.assertEqual(len(picking._sets), 1)


def _broken(*arguments: object) -> NoReturn:
    """Be away."""
    raise SpoolError("away")


def _bug(*arguments: object) -> NoReturn:
    """Be a bug."""
    raise KeyError("of mine")


STEPS = ["say"] * 4 + ["all", "turn", "turn", "deliver"] + ["answer"] * 4
STEPS += ["ring", "cut", "roam", "roam", "wait", "deaf", "hear", "hear", "kill"]
STEPS += ["expire", "sweep", "sweep", "leave", "trim"]


class ModelTests(ReplicaTestCase):
    """Anything happens, in any order."""

    def setUp(self) -> None:
        """Keep little of the log, and all that was ever in it."""
        super().setUp()
        self.patch(entries, "LOG_SIZE", 30 * ENTRY_MEMORY)

    def openStore(self) -> LogShelfStore:
        """Open the store of a server."""
        opened = super().openStore()
        opened.isSlow = self.isSlow
        return opened

    def run_(self, random: Random, steps: Sequence[str], count: int) -> None:
        """Let anything happen, and then come to rest."""
        self.history: list[Entry] = []
        self.begun: dict[str, list[str]] = {}
        shelf, append, begin = self.shelf, self.shelf.append, ShelfStore._begin
        numbers = iter(range(10**6))

        def appending(data: bytes, *more: Any, **options: Any) -> None:
            """Keep it."""
            append(data, *more, **options)
            self.history.append(shelf.log[-1])

        def beginning(store: LogShelfStore, name: str, peer: str, state: Any) -> None:
            """Note whose it is."""
            begin(store, name, peer, state)
            self.begun.setdefault(peer, []).append(name)

        shelf.append = appending  # type: ignore[method-assign]
        self.patch(LogShelfStore, "_begin", beginning)
        self.begin()
        for store in self.stores:
            store.isSlow = True
        for _ in range(count):
            what = random.choice(steps)
            self.step(what, random.randrange(len(KEYS)), random.randrange(3), numbers)
        for _ in range(2):
            for store in self.stores:
                store.isDeaf = False
                store.ring()
            self.settle()
            for store in self.stores:
                store.sweep()
            self.settle(0, 1, 20, 20, 20, 0)

    def step(self, what: str, index: int, node: int, numbers: Iterator[int]) -> None:
        """Let something happen."""
        store, shelf = self.stores[node], self.shelf
        match what:
            case "say":
                self.clients[index].sendData(f"{next(numbers):0100}")
            case "all":
                self.clients[index].sendData(f"all {next(numbers)}")
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
                store.ring()
            case "kill":
                self.killNode(node)
                self.startNode(node)
                self.stores[node].isSlow = True
            case "expire":
                there = sorted(shelf.sessions)
                if there and index == 0:
                    shelf.expire(there[node % len(there)])
            case "sweep":
                store.sweep()
            case "leave":
                if index == 0:
                    self.clients[node].sendData("away")
            case "trim":
                if len(shelf.snapshots) == 2:
                    shelf.trim(max(shelf.first, shelf.snapshots[0].position + 1))
            case "back":
                if index == 0:
                    last = max(shelf.first - 1, shelf.last - node - 1)
                    shelf.goBack(last)
                    for each in self.stores:  # their connections are others
                        each.ring()

    def test_anything(self) -> None:
        """
        All servers have the same state; and each session, wherever it goes and
        whichever server is killed, is told what there is for it once and in order.
        """
        for seed in SEEDS:
            with self.subTest(seed):
                super().setUp()
                with capturedLogs():
                    self.run_(Random(seed), STEPS, 120)
                    self.check()
                    self.endAll()

    def test_rewound(self) -> None:
        """
        So it is for states where the log goes back in time, and nothing comes twice;
        all that are there are told what is said then.
        """
        for seed in SEEDS:
            with self.subTest(seed):
                super().setUp()
                with capturedLogs():
                    self.run_(Random(seed), [*STEPS, *["back"] * 3], 120)
                    for number, client in enumerate(self.clients):
                        client.sendData(f"last {number}")
                    self.settle()
                    self.same()
                    formers = [client.former for client in self.clients]
                    names = [each.session.name for each in formers if each is not None]
                    there = set(self.roll(0).there)
                    self.assertLessEqual(there, set(self.shelf.sessions))
                    for client, got in zip(self.clients, self.take(), strict=True):
                        said = [
                            each.split(" say ")[1][:-2]
                            for each in got
                            if " say " in each
                        ]
                        self.assertEqual(len(said), len(set(said)), got)
                        former = client.former
                        if former is not None and former.session.name in there:
                            last = [each for each in got if "say last" in each]
                            self.assertEqual(len(last), len(there & set(names)), got)
                    self.endAll()

    def check(self) -> None:
        """Check states, and what all got."""
        self.same()
        reference = Roll()
        maybe: list[str] = []
        told: dict[str, tuple[list[str], list[str]]] = {}
        over = set()
        for entry in map(decoded, self.history):
            body = entry.body
            if not entry.kind:
                maybe.append(cast(str, body))
                for mine in told.values():
                    mine[1].append(cast(str, body))
                continue
            rows = reference.gone(body) if isinstance(body, str) else ()
            if isinstance(body, bytes):
                rows = reference.apply(body, entry.micros)
            for line, names in rows:
                for name in names:
                    told.setdefault(name, (maybe[:], []))
                    if line is None:
                        over.add(name)
                    elif name not in over:
                        told[name][1].append(line)
        self.assertEqual(self.roll(0).snapshot(), reference.snapshot())
        for index, got in enumerate(self.take()):
            begun = self.begun[str(KEYS[index].publicKey)]
            each = [told.get(name, (maybe, [])) for name in begun]
            each += [([], [])] * (
                begun[-1] in over
            )  # it was told as far as it was here
            self.assertTrue(_matches(got, each), (got, each))
