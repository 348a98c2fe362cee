"""
Tests for L{aesm.server.registry}.
"""

from __future__ import annotations

from collections import deque
from threading import Thread
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from aesm.messages.address import addressOf
from aesm.messages.stream import Arrivals, DataStream, Packet
from aesm.server import registry
from aesm.server.registry import MAX_ACTIVITY, Activity, Connections
from aesm.trust.keys import PrivateKey
from tests.support.helpers import bring
from tests.support.pairs import PairTestCase

NOTHING = (None, Packet(0.0, cast(Any, None)))
KEY = PrivateKey(b"\x33" * 32).publicKey


class AddressTests(SynchronousTestCase):
    """L{addressOf} names connections."""

    def test_tcp(self) -> None:
        """TCP's are host and port."""
        self.assertEqual(addressOf(IPv4Address("TCP", "1.2.3.4", 5), 9), ("1.2.3.4", 5))
        self.assertEqual(addressOf(IPv6Address("TCP", "::1", 5), 9), ("::1", 5))

    def test_others(self) -> None:
        """Others are a string of their own, even if nobody knows an address."""
        self.assertEqual(addressOf(UNIXAddress(None), 9), "unix-9")
        nowhere: Any = None
        self.assertEqual(addressOf(nowhere, 8), "peer-8")


class ActivityTests(SynchronousTestCase):
    """L{Activity} is a tuple of three and more."""

    def test_tuple(self) -> None:
        """It unpacks as address, accepted, time; only C{"accepted"} is True."""
        for event, expected in (
            ("accepted", True),
            ("refused", False),
            ("lost", False),
        ):
            entry = Activity(("h", 1), event, 2.5, "why", KEY)
            address, accepted, time = entry
            self.assertEqual((address, accepted, time), (("h", 1), expected, 2.5))
            self.assertEqual(
                (entry.event, entry.reason, entry.peer), (event, "why", KEY)
            )

    def test_repr(self) -> None:
        """It shows everything."""
        shown = repr(Activity("unix-1", "lost", 2.5, "why"))
        for part in ("unix-1", "False", "2.5", "lost", "'why'", "None"):
            self.assertIn(part, shown)


class ActivityLogTests(SynchronousTestCase):
    """The activity log."""

    def record(
        self, connections: Connections, number: int, event: str = "lost"
    ) -> None:
        """
        Write an entry.

        @param number: its port and time.
        @param event: what happened.
        """
        connections.record(("h", number), event, float(number), "why", None)

    def test_order(self) -> None:
        """The oldest entry is taken first, each once."""
        connections = Connections()
        self.assertIsNone(connections.activity())
        for number in range(3):
            self.record(connections, number)
        taken = [connections.activity() for _ in range(4)]
        self.assertEqual([entry and entry[2] for entry in taken], [0, 1, 2, None])

    def test_bound(self) -> None:
        """The newest 10,000 are kept; what is dropped is counted, and said once."""
        connections = Connections()
        with capturedLogs() as events:
            for number in range(MAX_ACTIVITY + 3):
                self.record(connections, number)
        self.assertEqual(connections.activityDropped, 3)
        first: Any = connections.activity()
        self.assertEqual(first[2], 3.0)
        warnings = [e for e in events if e["log_level"] is LogLevel.warn]
        self.assertEqual(len(warnings), 1)
        self.assertEqual(warnings[0]["bound"], MAX_ACTIVITY)

    def test_refusalsMakeRoom(self) -> None:
        """
        Refusals never push out who was accepted or lost, also where there is nobody
        else; the order stays.
        """
        self.patch(registry, "MAX_ACTIVITY", 100)
        connections = Connections()
        for number in range(100):
            self.record(connections, number, "lost")
        self.record(connections, 100, "refused")
        self.record(connections, 101, "lost")
        entries = [entry for entry in iter(connections.activity, None) if entry]
        self.assertEqual([e[2] for e in entries], [*range(1, 100), 101])
        connections = Connections()
        self.record(connections, 0, "accepted")
        for number in range(1, 102):
            self.record(connections, number, "refused")
        self.record(connections, 102, "lost")
        self.assertEqual(connections.activityDropped, 3)
        times = [entry[2] for entry in iter(connections.activity, None) if entry]
        self.assertEqual(times, [0.0, *range(4, 103)])

    def test_takenMeanwhile(self) -> None:
        """What another thread takes in between is looked for no more, nor dropped."""

        class Taken(deque[Any]):
            """Entries that somebody is faster to take."""

            def popleft(self) -> Any:
                """Find nothing."""
                self.clear()
                return super().popleft()

        connections = Connections()
        connections._activity = Taken()
        self.record(connections, 1)
        self.assertIsNone(connections.activity())
        self.record(connections, 1)
        connections._dropOldest()
        self.assertEqual(connections.activityDropped, 0)

    def test_threads(self) -> None:
        """Entries may be taken in another thread while others are written."""
        self.patch(registry, "MAX_ACTIVITY", 100)
        connections, taken = Connections(), 0

        def write() -> None:
            for number in range(2000):
                self.record(connections, number, ("lost", "refused")[number % 2])

        writing = Thread(target=write)
        with capturedLogs():
            writing.start()
            while writing.is_alive():
                taken += connections.activity() is not None
            writing.join()
        taken += len(list(iter(connections.activity, None)))
        self.assertEqual(taken + connections.activityDropped, 2000)

    def test_logged(self) -> None:
        """Each entry is one line of the log, with all of it in fields."""
        for event, level in (("refused", LogLevel.warn), ("accepted", LogLevel.info)):
            with capturedLogs() as events:
                Connections().record(("h", 1), event, 2.5, "why", KEY)
            (line,) = events
            self.assertEqual(line["log_level"], level)
            self.assertEqual(
                (line["event"], line["address"], line["time"], line["accepted"]),
                (event, "h:1", 2.5, event == "accepted"),
            )
            self.assertEqual((line["reason"], line["peer"]), ("why", str(KEY)))
            self.assertEqual(line["times"], 1)

    def test_loggedString(self) -> None:
        """An address that is a string is logged as it is."""
        with capturedLogs() as events:
            Connections().record("unix-1", "lost", 2.5, "why", None)
        self.assertEqual((events[0]["address"], events[0]["peer"]), ("unix-1", None))


class CountingArrivals(Arrivals):
    """The order of arrival, counting what is done with it."""

    steps = 0

    def __iter__(self) -> Any:
        """Count steps of iteration."""
        for item in super().__iter__():
            type(self).steps += 1
            yield item

    def __reversed__(self) -> Any:
        """Count steps of iteration."""
        for item in super().__reversed__():
            type(self).steps += 1
            yield item


class OrdinalTests(PairTestCase):
    """C{getDataOrdinal} takes one packet of all connections."""

    def setUp(self) -> None:
        """Connect three clients."""
        self.network, self.server = self.serve()
        self.connections = self.server.connections
        self.clients = [self.join(self.network) for _ in range(3)]
        self.addresses = list(self.connections)

    def send(self, *sent: tuple[int, str]) -> None:
        """
        Send messages, each delivered before the next.

        @param sent: which client, what.
        """
        for number, data in sent:
            self.clients[number].sendData(data)
            self.network.deliver()

    def take(self, oldToNew: bool = True) -> list[tuple[int, Any]]:
        """
        Take all.

        @param oldToNew: from which end.
        @return: which client, what.
        """
        taken = []
        while (got := self.connections.getDataOrdinal(oldToNew)) != NOTHING:
            address, packet = got
            taken.append((self.addresses.index(address or ""), packet.data))
        return taken

    def test_nothing(self) -> None:
        """With nothing there it still unpacks."""
        for oldToNew in (True, False):
            address, (time, data) = self.connections.getDataOrdinal(oldToNew)
            self.assertEqual((address, time, data), (None, 0.0, None))

    def test_oldToNew(self) -> None:
        """The oldest first, whoever sent it."""
        sent = [(0, "a"), (2, "b"), (0, "c"), (1, "d"), (1, "e")]
        self.send(*sent)
        self.assertEqual(self.take(), sent)

    def test_newToOld(self) -> None:
        """Or the newest first."""
        sent = [(0, "a"), (2, "b"), (0, "c"), (1, "d"), (1, "e")]
        self.send(*sent)
        self.assertEqual(self.take(oldToNew=False), sent[::-1])

    def test_bothEnds(self) -> None:
        """From both ends in turn; no other packet is disturbed."""
        self.send(*[(n % 3, str(n)) for n in range(6)])
        taken = [self.connections.getDataOrdinal(n % 2 == 0)[1].data for n in range(6)]
        self.assertEqual(taken, ["0", "5", "1", "4", "2", "3"])

    def test_batches(self) -> None:
        """Messages that came together are taken one by one, from either end."""
        for number in range(3):
            for item in range(4):
                self.clients[number].sendData(f"{number}{item}")
        self.network.deliver()
        ends = [self.connections.getDataOrdinal(n % 3 > 0)[1].data for n in range(12)]
        self.assertEqual(
            sorted(map(str, ends)), [f"{n}{i}" for n in range(3) for i in range(4)]
        )
        self.assertEqual(self.connections.getDataOrdinal(), NOTHING)

    def test_interleaved(self) -> None:
        """
        What is taken from a stream is not taken here again, and the other way
        round.
        """
        self.send((0, "a"), (1, "b"), (0, "c"), (1, "d"))
        streams = [self.connections[address].retrieved for address in self.addresses]
        self.assertEqual((streams[1].getData() or NOTHING)[1], "b")
        self.assertEqual(self.connections.getDataOrdinal()[1].data, "a")
        self.assertEqual(self.connections.getDataOrdinal(False)[1].data, "d")
        self.assertEqual(len(streams[1]), 0)
        self.assertEqual((streams[0].getData() or NOTHING)[1], "c")
        self.assertEqual(self.connections.getDataOrdinal(), NOTHING)

    def test_signalHandler(self) -> None:
        """A signal handler that has interrupted who takes a packet finds none."""
        self.send((0, "a"))
        with self.connections.lock:
            self.assertEqual(self.connections.getDataOrdinal(), NOTHING)
        self.assertEqual(self.connections.getDataOrdinal()[1].data, "a")

    def test_constantCost(self) -> None:
        """Taking one packet looks at one arrival, however many there are."""
        order = CountingArrivals()
        self.connections.arrivals = order
        streams = []
        for connection in self.connections.values():
            stream = DataStream(connection, 1 << 20, self.connections.lock, order)
            streams += [stream]
        for number in range(3000):
            bring(streams[number % 3], 0.0, [str(number)])
        for number in range(2000):
            self.connections.getDataOrdinal(number % 2 == 0)
            streams[number % 3].getData()
        self.assertLessEqual(CountingArrivals.steps, 2000)

    def test_closed(self) -> None:
        """A peer that left stays listed, marked closed, until its packets are taken."""
        self.send((1, "a"), (1, "b"))
        self.clients[1].close()
        self.network.deliver()
        connection = self.connections[self.addresses[1]]
        self.assertTrue(connection.isOver)
        self.assertIn("closed", repr(connection))
        self.assertEqual(len(self.connections), 3)
        self.assertEqual(self.connections.byPeer(connection.peer), [connection])
        self.assertEqual(self.connections.getDataOrdinal()[1].data, "a")
        self.assertEqual((connection.retrieved.getData() or NOTHING)[1], "b")
        self.assertEqual(list(self.connections), self.addresses[::2])
        self.assertEqual(self.connections.byPeer(connection.peer), [])

    def test_closedByOrdinal(self) -> None:
        """The same when the last one is taken here."""
        self.send((1, "a"))
        self.clients[1].close()
        self.network.deliver()
        address, packet = self.connections.getDataOrdinal()
        self.assertEqual((address, packet.data), (self.addresses[1], "a"))
        self.assertNotIn(self.addresses[1], self.connections)

    def test_addressReused(self) -> None:
        """
        A new connection from an address under which an old one is still listed
        takes its place, at the end; the packets of the old one are still found.
        """
        host, port = cast(tuple[str, int], self.addresses[0])
        self.send((0, "old"))
        self.clients[0].close()
        self.network.deliver()
        old = self.connections[self.addresses[0]]
        client = self.join(self.network, host=host, port=port)
        client.sendData("new")
        self.network.deliver()
        new = self.connections[self.addresses[0]]
        self.assertIsNot(new, old)
        self.assertEqual(list(self.connections)[-1], self.addresses[0])
        self.assertEqual(self.connections.byPeer(old.peer), [])
        self.assertEqual(self.connections.getDataOrdinal()[1].data, "old")
        self.assertIs(self.connections[self.addresses[0]], new)
        self.assertEqual(self.connections.getDataOrdinal()[1].data, "new")


class WaitingTests(PairTestCase):
    """Waiting for a packet of any connection, and for activity."""

    def setUp(self) -> None:
        """Connect two clients."""
        self.network, self.server = self.serve()
        self.connections = self.server.connections
        self.clients = [self.join(self.network) for _ in range(2)]
        self.addresses = list(self.connections)

    def test_packets(self) -> None:
        """Who waits gets packets of all connections, in the order of arrival."""
        waiting = [self.connections.get() for _ in range(3)]
        for number in (1, 0):
            self.clients[number].sendData(f"from {number}")
            self.network.deliver()
        for number, each in zip((1, 0), waiting, strict=False):
            address, packet = self.successResultOf(each)
            self.assertEqual(address, self.addresses[number])
            self.assertEqual(packet.data, f"from {number}")
        self.assertNoResult(waiting[2])
        self.assertEqual(self.connections.getDataOrdinal(), NOTHING)
        waiting[2].cancel()
        self.failureResultOf(waiting[2], CancelledError)
        self.clients[0].sendData("not taken by who was cancelled")
        self.network.deliver()
        address, packet = self.successResultOf(self.connections.get())
        self.assertEqual(packet.data, "not taken by who was cancelled")

    def test_ownWaitersFirst(self) -> None:
        """Who waits at the connection itself comes before."""
        anybodys = self.connections.get()
        own = self.connections[self.addresses[0]].retrieved.get()
        for data in "ab":
            self.clients[0].sendData(data)
        self.network.deliver()
        self.assertEqual(self.successResultOf(own).data, "a")
        self.assertEqual(self.successResultOf(anybodys)[1].data, "b")

    def test_stillAMapping(self) -> None:
        """With an address it finds a connection, or says that there is none."""
        connection = self.connections[self.addresses[0]]
        self.assertIs(self.connections.get(self.addresses[0]), connection)
        self.assertEqual(self.connections.get("unix-1", default=3), 3)
        nothing: Any = None
        self.assertIsNone(self.connections.get(nothing))

    def test_activity(self) -> None:
        """
        Entries of the activity log come in their order, those that were there and those
        that come between two calls included, once what they tell is done.
        """
        for address in self.addresses:
            entry = self.successResultOf(self.connections.waitForActivity())
            self.assertEqual((entry.event, entry[0]), ("accepted", address))
        waiting = self.connections.waitForActivity()
        listed: list[int] = []

        def look(entry: Activity) -> Activity:
            """See who is listed when it is told."""
            listed.append(len(self.connections))
            return entry

        waiting.addCallback(look)
        self.join(self.network)
        self.network.advance(0)
        self.assertEqual(self.successResultOf(waiting).event, "accepted")
        self.assertEqual(listed, [3])
        for client in self.clients:
            client.abort()
            self.network.deliver()
        lost = [
            self.successResultOf(self.connections.waitForActivity()) for _ in range(2)
        ]
        self.assertEqual([entry.event for entry in lost], ["lost"] * 2)

    def test_stopped(self) -> None:
        """
        When the server has stopped, and what came until then is taken, who waits is
        told; a server that is started again serves again.
        """
        self.entries(self.server)
        entries = [self.connections.waitForActivity() for _ in range(3)]
        packets = [self.connections.get() for _ in range(2)]
        self.clients[0].sendData("last")
        stopping = self.server.stop()
        self.assertNoResult(packets[0])
        self.network.advance(10)
        self.successResultOf(stopping)
        self.assertEqual(self.successResultOf(packets[0])[1].data, "last")
        for entry in entries[:2]:
            self.assertEqual(self.successResultOf(entry).event, "lost")
        for waiting in (packets[1], entries[2], self.connections.get()):
            self.assertClosed(waiting, 1000)
        self.successResultOf(self.server.start())
        again = self.connections.get()
        self.join(self.network).sendData("first")
        self.network.deliver()
        self.assertEqual(self.successResultOf(again)[1].data, "first")


class ConnectionsTests(PairTestCase):
    """L{Connections} is a mapping."""

    def test_mapping(self) -> None:
        """Address to connection, in the order of acceptance."""
        network, server = self.serve()
        for port in (9, 3, 7):
            self.join(network, port=port)
        connections = server.connections
        self.assertEqual(list(connections), [("127.0.0.1", p) for p in (9, 3, 7)])
        self.assertEqual(len(connections), 3)
        for address, connection in connections.items():
            self.assertEqual(connection.address, address)
            self.assertIn(address, connections)
        self.assertRaises(KeyError, connections.__getitem__, ("127.0.0.1", 4))
        self.assertIsNone(connections.get("unix-1"))

    def test_original(self) -> None:
        """The keys of the original module give stream, connection and channel."""
        pair = self.pair()
        pair.client.sendData("x")
        pair.deliver()
        connection = pair.server.connections[pair.accepted.address]
        data: Any = connection["data"]
        encryption: Any = connection["encryption"]
        self.assertEqual(data[0].data, "x")
        self.assertIs(data, connection.retrieved)
        self.assertIs(connection["connection"], connection)
        self.assertEqual(encryption.publicKey, connection.peer)
        self.assertRaises(KeyError, connection.__getitem__, "other")

    def test_byPeer(self) -> None:
        """The connections of one key, the oldest first, in a list of its own."""
        network, server = self.serve()
        keys = [PrivateKey.generate() for _ in range(2)]
        for key in (keys[0], keys[1], keys[0]):
            self.join(network, key=key)
        connections = server.connections
        accepted = list(connections.values())
        mine = connections.byPeer(keys[0].publicKey)
        self.assertEqual(mine, [accepted[0], accepted[2]])
        mine.clear()
        self.assertEqual(len(connections.byPeer(keys[0].publicKey)), 2)
        self.assertEqual(connections.byPeer(KEY), [])
        accepted[0].abort()
        network.deliver()
        self.assertEqual(connections.byPeer(keys[0].publicKey), [accepted[2]])

    def test_changedWhileIterating(self) -> None:
        """Connections may go while one looks through them."""
        network, server = self.serve()
        for _ in range(3):
            self.join(network)
        for address in server.connections:
            server.connections[address].abort()
            network.deliver()
        self.assertEqual(len(server.connections), 0)

    def test_goneWhileIterating(self) -> None:
        """Also those that one has not come to yet."""
        for view in ("keys", "values", "items"):
            network, server = self.serve()
            for _ in range(3):
                self.join(network)
            seen = []
            for item in getattr(server.connections, view)():
                seen.append(item)
                for link in network.links:
                    link.cut()
            self.assertEqual(len(seen), 3)
            self.assertEqual(len(server.connections), 0)

    def test_notListed(self) -> None:
        """To take out what is not listed changes nothing."""
        pair = self.pair()
        connections = Connections()
        connections.discard(pair.accepted)
        self.assertEqual(len(connections), 0)
