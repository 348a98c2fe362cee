"""
Tests of L{aesm.server.broadcast}: what is sent to all is kept once, and arrives as if
it had been sent to each.
"""

from __future__ import annotations

import gc
from typing import Any, cast
from unittest.mock import patch
from weakref import ref

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from aesm import Connection, Server
from aesm.core.messages.batch import MAX_COST, Share, SharedBatch
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import Messages
from aesm.core.messages.outbox import Outbox
from aesm.server import broadcast
from aesm.testing import MemoryNetwork
from tests.core.messages.test_outbox import makeOutbox, taken
from tests.support.helpers import remains
from tests.support.pairs import PairTestCase, Recorder

ROOM = 1 << 20  # bytes that an outbox may keep


def shares(shared: SharedBatch, outbox: Outbox, member: object = None) -> Share:
    """Give an outbox a share."""
    share = outbox.join(shared, member)
    assert share is not None
    return share


class ShareTests(PairTestCase):
    """L{SharedBatch} and L{Share}, in an L{Outbox}."""

    def outbox(self, **options: Any) -> Outbox:
        """
        Make an outbox with room for whatever comes.

        @param options: as L{makeOutbox}.
        """
        return makeOutbox(**({"bound": ROOM, "maxMessage": ROOM} | options))

    def test_counts(self) -> None:
        """What is sent to many counts as if it had been sent to each."""
        shared, outbox, twin = SharedBatch(7), self.outbox(), self.outbox()
        for own in (b"own", "two"):
            outbox.add(own, 1)
            twin.add(own, 1)
        outbox.closeBatch()
        shared.add(b"not for all")
        for data in (b"a", "\xe9".encode(), "text"):
            shared.add(data)
            if data == b"a":
                share = shares(shared, outbox)
                self.assertEqual(share.base + len(shared.bodies), outbox.count)
            twin.add(data, 1)
            self.assertEqual(outbox.count, twin.count)
            self.assertEqual(outbox.keptCost, twin.keptCost)
            self.assertTrue(outbox.unsent)
        outbox.closeBatch()
        shared.add(b"too late")
        self.assertEqual((outbox.count, outbox.keptCost), (5, twin.keptCost))
        sent = [data for turn in taken(outbox) for data in turn.data]
        self.assertEqual(sent, [b"own", "two", b"a", b"\xc3\xa9", "text"])

    def test_leaves(self) -> None:
        """It notes who has no share any more, once."""
        shared, outbox, other = SharedBatch(7), self.outbox(), self.outbox()
        shared.add("x")
        shares(shared, outbox, "somebody")
        shares(shared, other, "another")
        self.assertEqual((shared.left, shared.shares), ([], 2))
        outbox.closeBatch()
        outbox.closeBatch()
        self.assertEqual((shared.left, shared.shares), (["somebody"], 1))
        other.drop()
        self.assertEqual((shared.left, shared.shares), (["somebody", "another"], 0))

    def test_letsGoOfFrames(self) -> None:
        """
        The frames are kept as long as somebody has a share in what comes, and no
        longer, though one waits for its peer's window; that one writes its own.
        """
        shared = SharedBatch(7)
        slow, first, last = self.outbox(limit=0), self.outbox(), self.outbox()
        shared.add("x")
        for outbox in (slow, first, last):
            shares(shared, outbox)
        shared.add("y")
        slow.closeBatch()
        (frames,) = first.take(ROOM)
        encoded = cast(tuple[int, int, list[bytes]], shared.encoded)
        self.assertIs(encoded[2][0], frames)
        last.take(ROOM)
        self.assertIsNone(shared.encoded)
        slow.limit = ROOM
        self.assertEqual(slow.take(ROOM), [frames])

    def test_room(self) -> None:
        """All that it takes fits one BATCH, also for those who joined late."""
        shared, outbox = SharedBatch(7), self.outbox()
        shared.add(bytes(MAX_COST // 2))
        self.assertFalse(shared.add(bytes(MAX_COST // 2)))
        self.assertTrue(shared.add(b""))
        shares(shared, outbox)
        while shared.add(b"x" * 100):
            pass
        (messages,) = taken(outbox)
        self.assertEqual(messages.data[:2], [b"", b"x" * 100])
        self.assertEqual(messages.cost, outbox.keptCost)

    def test_refused(self) -> None:
        """
        Nobody joins for whom each message must be looked at, or who has a turn of
        its own.
        """
        shared = SharedBatch(7)
        shared.add("x")
        self.assertIsNotNone(self.outbox(bound=MAX_COST).join(shared, None))
        self.assertIsNone(self.outbox(bound=MAX_COST - 1).join(shared, None))
        self.assertIsNone(self.outbox(maxMessage=MAX_COST - 1).join(shared, None))
        outbox = self.outbox(bound=MAX_COST + 64)
        outbox.add("", 1)
        self.assertIsNone(outbox.join(shared, None))
        outbox.closeBatch()
        self.assertIsNotNone(outbox.join(shared, None))
        staging = self.outbox()
        staging.stage()
        self.assertIsNone(staging.join(shared, None))

    def test_encodedOnce(self) -> None:
        """
        Those who have the same share write the same bytes; who has another one, or
        takes no BATCH, writes their own.
        """
        for data in ([b"a", b"bc"], ["a", "bc"], ["a", b"bc", "\xe9"]):
            shared = SharedBatch(7)
            first, second, plain, late = (
                self.outbox(),
                self.outbox(),
                self.outbox(batch=False),
                self.outbox(),
            )
            for index, body in enumerate(data):
                shared.add(body.encode() if body == "\xe9" else cast(Any, body))
                for outbox in (first, second, plain) if not index else ():
                    shares(shared, outbox)
            shares(shared, late)
            (one,), (other,) = first.take(ROOM), second.take(ROOM)
            self.assertIs(one, other)
            self.assertEqual(len(late.take(ROOM)), 1)
            frames = FrameReader(ROOM).receive(b"".join(plain.take(ROOM)))
            self.assertEqual(len(frames), len(data))
            shared.encoded = None
            third = self.outbox()
            third.add("own", 1)
            third.closeBatch()
            shares(shared, third)
            self.assertEqual(len(third.take(ROOM)), 2)

    def test_inParts(self) -> None:
        """
        A share that the peer does not take whole, or that is sent again, is as good
        as a turn of its own.
        """
        shared = SharedBatch(7)
        outboxes = [self.outbox(limit=limit) for limit in (65, 66, ROOM)]
        for number in range(5):
            shared.add(str(number))
            for outbox in outboxes if not number else ():
                shares(shared, outbox)
        for outbox in outboxes:
            frames = FrameReader(ROOM).receive(b"".join(outbox.take(ROOM)))
            outbox.limit = ROOM
            frames += FrameReader(ROOM).receive(b"".join(outbox.take(ROOM)))
            sent = [data for turn in frames for data in cast(Messages, turn).data]
            self.assertEqual(sent, list("01234"))
            self.assertEqual({cast(Messages, turn).micros for turn in frames}, {7})

    def test_partIsNoShare(self) -> None:
        """What is left of a share is not taken for a share with as many messages."""
        shared = SharedBatch(7)
        slow, ended = self.outbox(limit=65), self.outbox()
        for number in range(5):
            if number == 4:
                ended.closeBatch()
            shared.add(str(number))
            for outbox in (slow, ended) if not number else ():
                shares(shared, outbox)
        slow.take(ROOM)
        slow.limit = ROOM
        for outbox, expected in ((slow, "1234"), (ended, "0123")):
            (messages,) = taken(outbox)
            self.assertEqual(list(messages.data), list(expected))


class Welcoming(Recorder):
    """
    A handler that tells everybody of each new one.

    @ivar sent: what sending returned.
    @ivar server: whose handler it is.
    """

    server: Server

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        self.sent: list[Deferred[int]] = []

    def connectionAccepted(self, connection: Connection) -> None:
        """Say it three times."""
        super().connectionAccepted(connection)
        count = len(self.events)
        self.sent += [self.server.sendAll(f"{count} {text}") for text in "abc"]


class BroadcastTests(PairTestCase):
    """
    C{sendAll}, of many messages.

    @ivar now: what time it is, nanoseconds.
    """

    def setUp(self) -> None:
        """Let time stand still."""
        self.now = 10**18
        self.patch(broadcast, "time_ns", lambda: self.now)

    def clients(
        self, network: MemoryNetwork, count: int, **options: Any
    ) -> list[Connection]:
        """
        Connect.

        @param options: as L{PairTestCase.join}.
        """
        return [self.join(network, **options) for _ in range(count)]

    def data(self, clients: list[Connection]) -> list[list[Any]]:
        """Look at what came."""
        return [[packet.data for packet in client.retrieved] for client in clients]

    def times(self, client: Connection) -> int:
        """Count the times at which what came was sent."""
        return len({packet.time for packet in client.retrieved})

    def test_one(self) -> None:
        """
        The first message of a turn leaves at once; those that follow share a time,
        until a millisecond has passed.
        """
        network, server = self.serve()
        clients = self.clients(network, 3)
        sent = [server.sendAll(str(n)) for n in range(5)]
        self.now += 999_000
        sent.append(server.sendAll("5"))
        self.now += 1_000
        sent.append(server.sendAll("6"))
        network.deliver()
        self.assertEqual([self.successResultOf(s) for s in sent], [3] * 7)
        self.assertEqual(self.data(clients), [list("0123456")] * 3)
        self.assertEqual(len({p.time for p in clients[0].retrieved}), 2)

    def test_several(self) -> None:
        """
        It may go to some only, or to all but some: connections, or addresses, of which
        those that nobody has are no error.
        """
        network, server = self.serve()
        clients = self.clients(network, 3)
        first, second, third = server.connections.values()
        gone = ("127.0.0.1", 1)
        cases: tuple[tuple[Any, Any, tuple[int, ...]], ...] = (
            ([first, third.address], (), (0, 2)),
            (None, [second, gone], (0, 2)),
            (iter([first, second, first]), iter([second.address]), (0,)),
            ([gone, second], (), (1,)),
            (server.connections, (), (0, 1, 2)),
            ([], (), ()),
        )
        for to, exclude, whom in cases:
            sent = server.sendAll("x", to=to, exclude=exclude)
            network.deliver()
            self.assertEqual(self.successResultOf(sent), len(whom))
            came = [[*iter(client.retrieved.getData, None)] for client in clients]
            self.assertEqual([n for n, data in enumerate(came) if data], [*whom])

    def test_severalWrong(self) -> None:
        """What is no list of connections or addresses is refused."""
        _, server = self.serve()
        pair = self.pair()
        several: tuple[Any, ...] = ("unix-1", ("::1", 1), pair.accepted, [None], b"x")
        for wrong in several:
            with self.assertRaisesRegex(TypeError, "^to must be a list"):
                server.sendAll("x", to=wrong)
            with self.assertRaisesRegex(TypeError, "^exclude must be a list"):
                server.sendAll("x", exclude=wrong)

    def test_severalOrder(self) -> None:
        """What goes to all, to some and to one comes in the order it was sent in."""
        network, server = self.serve()
        clients = self.clients(network, 3)
        connections = list(server.connections.values())
        expected: list[list[str]] = [[], [], []]
        for number in range(60):
            some = [n for n in range(3) if number // 4 % 7 != n]
            text = str(number)
            if number % 11 == 5:
                some = [number % 3]
                connections[number % 3].sendData(text)
            elif number % 13 == 7:
                some = [0, 1, 2]
                server.sendAll(text)
            else:
                server.sendAll(text, to=[connections[n] for n in some])
            for n in some:
                expected[n].append(text)
        network.deliver()
        self.assertEqual(self.data(clients), expected)

    def test_severalShare(self) -> None:
        """
        Those that go to the same ones in a turn are encoded once for all, from the
        second on.
        """
        network, server = self.serve()
        self.clients(network, 3)
        some = list(server.connections.values())[:2]
        with patch.object(broadcast._Round, "join", autospec=True) as join:
            for _ in range(4):
                server.sendAll("x", to=some)
            self.now += 1_000_000
            server.sendAll("x", to=some)
        self.assertEqual(
            [call.args[1] for call in join.call_args_list], [tuple(some)] * 3
        )

    def test_tooBigForSome(self) -> None:
        """
        On a server with a handler, one that takes no messages of that size is closed
        with 1009, and nobody has to look.
        """
        network, server = self.serve(Recorder())
        small, large = self.join(network, maxMessage=5), self.join(network)
        server.sendAll("x" * 6, to=list(server.connections))
        network.deliver()
        self.assertEqual(self.closedReason(small).code, 1009)
        self.assertEqual(self.data([large]), [["x" * 6]])
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_clockGoesBack(self) -> None:
        """A clock that goes back begins a new time."""
        network, server = self.serve()
        clients = self.clients(network, 1)
        for _ in range(3):
            server.sendAll("x")
        self.now -= 1000
        server.sendAll("y")
        network.deliver()
        self.assertEqual(self.data(clients), [["x", "x", "x", "y"]])
        self.assertEqual(self.times(clients[0]), 2)

    def test_ownBetween(self) -> None:
        """What a connection is sent by itself stays in its place."""
        network, server = self.serve()
        clients = self.clients(network, 3)
        first = next(iter(server.connections.values()))
        sent: list[Deferred[Any]] = []
        for number in range(6):
            sent.append(server.sendAll(f"all {number}"))
            sent.append(first.sendData(f"own {number}"))
        network.deliver()
        everything = [f"{kind} {n}" for n in range(6) for kind in ("all", "own")]
        self.assertEqual(self.data(clients), [everything, *[everything[::2]] * 2])
        for number, done in enumerate(sent):
            self.assertEqual(self.successResultOf(done), None if number % 2 else 3)

    def test_handlers(self) -> None:
        """A handler that passes on what it gets may do so over and over."""
        network, server = self.serve(
            Recorder(
                lambda connection, packet: (
                    server.sendAll(cast(str, packet.data)) and None
                )
            )
        )
        clients = self.clients(network, 4)
        for number, client in enumerate(clients):
            for item in range(3):
                client.sendData(f"{number}{item}")
        network.deliver()
        for came in self.data(clients):
            self.assertEqual(came, self.data(clients)[0])
            self.assertEqual(len(came), 12)

    def test_joins(self) -> None:
        """Who is let in between two messages of a turn gets the second."""
        welcoming = Welcoming()
        network, server = self.serve(welcoming)
        welcoming.server = server
        connecting = [self.connecting(network) for _ in range(3)]
        network.deliver()
        clients = [self.successResultOf(one) for one in connecting]
        expected = [f"{n} {text}" for n in (1, 2, 3) for text in "abc"]
        self.assertEqual(self.data(clients), [expected, expected[3:], expected[6:]])
        results = [self.successResultOf(sent) for sent in welcoming.sent]
        self.assertEqual(results, [1, 1, 1, 2, 2, 2, 3, 3, 3])

    def test_leaves(self) -> None:
        """
        Who is lost between two messages of a turn is not counted, and those that it
        got are.
        """
        network, server = self.serve(sessionGrace=0)
        self.clients(network, 3)
        links = list(network.links)
        first = server.sendAll("first")
        network.deliver()
        second = [server.sendAll("second") for _ in range(3)]
        links[0].cut()
        third = server.sendAll("third")
        next(iter(server.connections.values())).close()
        fourth = server.sendAll("fourth")
        network.deliver()
        results = [self.successResultOf(s) for s in (first, *second, third, fourth)]
        self.assertEqual(results, [3, 2, 2, 2, 2, 1])

    def test_large(self) -> None:
        """Messages that no turn has room for go to each by itself, in their place."""
        network, server = self.serve()
        clients = self.clients(network, 2)
        texts = ["a", "b", "c" * MAX_COST, "d", "e" * (MAX_COST - 64), "f"]
        sent = [server.sendAll(text) for text in texts]
        network.deliver()
        self.assertEqual(self.data(clients), [texts] * 2)
        self.assertEqual([self.successResultOf(s) for s in sent], [2] * 6)

    def test_littleRoom(self) -> None:
        """
        A connection with little room left gets each message by itself, the others
        their share; one with none is closed.
        """
        network, server = self.serve(Recorder(), sendBuffer=2 * MAX_COST)
        clients = self.clients(network, 3)
        network.links[1].toClient.stalled = True
        tight = list(server.connections.values())[1]
        sent = [server.sendAll(bytes(1)) for _ in range(2)]
        tight.sendData(bytes(MAX_COST))
        sent += [server.sendAll(bytes(1000)) for _ in range(70)]
        network.deliver()
        self.assertEqual([len(came) for came in self.data(clients)], [72, 0, 72])
        self.assertEqual([self.successResultOf(s) for s in sent], [2] * 72)
        network.links[1].toClient.stalled = False
        network.advance(5)
        self.assertEqual(self.closedReason(clients[1]).code, 4000)

    def test_forgets(self) -> None:
        """Once all has left, nothing of it is kept, nor who got it."""
        network, server = self.serve(sessionGrace=0)
        (client,) = self.clients(network, 1)
        rounds = []

        def makeRound(*arguments: Any) -> Any:
            """Make what is kept, and remember it."""
            rounds.append(former(*arguments))
            return rounds[-1]

        former = broadcast._Round
        self.patch(broadcast, "_Round", makeRound)
        for _ in range(3):
            server.sendAll("x")
        network.deliver()
        self.assertEqual([shared.encoded for shared in rounds], [None, None])
        kept = [ref(shared) for shared in rounds]
        del rounds[:]
        gc.collect()
        self.assertEqual([shared() for shared in kept], [None, None])
        gone = id(next(iter(server.connections.values())))
        client.close()
        network.deliver()
        self.entries(server)
        self.assertEqual(len(server.connections), 0)
        self.assertFalse(remains(Connection, gone))

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("all"), st.sampled_from((0, 1, 64, 9000, 70_000))),
                st.tuples(st.just("all"), st.sampled_from((1, 64))),
                st.tuples(st.just("own"), st.integers(0, 5)),
                st.tuples(st.just("text"), st.sampled_from(("a", "\xe9"))),
                st.tuples(st.just("stall"), st.integers(0, 5)),
                st.tuples(st.just("resume"), st.integers(0, 5)),
                st.tuples(st.just("cut"), st.integers(0, 5)),
                st.tuples(st.just("close"), st.integers(0, 5)),
                st.tuples(st.sampled_from(("join", "deliver", "tick")), st.just(0)),
            ),
            max_size=40,
        )
    )
    def test_model(self, steps: list[tuple[str, Any]]) -> None:
        """
        Whatever happens in between, each client gets what was sent to all while it
        was there, and what was sent to it, in order.
        """
        with patch("aesm.server.broadcast.time_ns", lambda: self.now):
            network, server = self.serve(sessionGrace=0)
            Model(self, network, server).run(steps)


class Model:
    """Clients, and what each is to get."""

    def __init__(
        self, case: BroadcastTests, network: MemoryNetwork, server: Server
    ) -> None:
        """
        Begin with two clients.

        @param case: makes clients, and checks.
        """
        self.case, self.network, self.server = case, network, server
        self.clients: list[Connection] = []
        self.links: list[Any] = []
        self.accepted: list[Connection] = []
        self.expected: list[list[Any]] = []
        self.gone: set[int] = set()
        self.sent: list[tuple[Any, Any]] = []
        self.number = 0
        for _ in range(2):
            self.join(0)

    def join(self, argument: object) -> None:
        """Let one more in."""
        self.clients.append(self.case.join(self.network))
        self.links.append(self.network.links[-1])
        self.accepted.append(list(self.server.connections.values())[-1])
        self.expected.append([])

    def all(self, size: int) -> None:
        """
        Send to all.

        @param size: bytes.
        """
        self.sendAll(b"%08d" % self.number + bytes(size))

    def text(self, text: str) -> None:
        """Send a text to all."""
        self.sendAll(f"{text} {self.number}")

    def sendAll(self, data: str | bytes) -> None:
        """Send to all."""
        self.number += 1
        self.sent.append((data, self.server.sendAll(data)))
        for index, expected in enumerate(self.expected):
            if index not in self.gone:
                expected.append(data)

    def own(self, index: int) -> None:
        """Send to one."""
        index %= len(self.clients)
        if index not in self.gone:
            self.number += 1
            self.accepted[index].sendData(str(self.number))
            self.expected[index].append(str(self.number))

    def stall(self, index: int) -> None:
        """Let the network take nothing for one."""
        self.links[index % len(self.links)].toClient.stalled = True

    def resume(self, index: int) -> None:
        """Let it take everything again."""
        self.links[index % len(self.links)].toClient.stalled = False

    def cut(self, index: int) -> None:
        """Cut one off."""
        index %= len(self.clients)
        if index not in self.gone:
            self.gone.add(index)
            self.links[index].cut()

    def close(self, index: int) -> None:
        """Close one."""
        index %= len(self.clients)
        self.gone.add(index)
        self.accepted[index].close()

    def deliver(self, argument: object) -> None:
        """Let the network work."""
        self.network.deliver()

    def tick(self, argument: object) -> None:
        """Let a millisecond pass."""
        self.case.now += 1_000_000

    def run(self, steps: list[tuple[str, Any]]) -> None:
        """
        Do it all, and compare.

        @param steps: names of methods, and arguments.
        """
        for name, argument in steps:
            getattr(self, name)(argument)
        for link in self.links:
            link.toClient.stalled = False
        self.network.advance(6)
        came = self.case.data(self.clients)
        for index, (expected, packets) in enumerate(
            zip(self.expected, came, strict=True)
        ):
            self.case.assertEqual(packets, expected[: len(packets)])
            if index not in self.gone:
                self.case.assertEqual(packets, expected)
        there = [set(p) for i, p in enumerate(came) if i not in self.gone]
        for data, sent in self.sent:
            having = self.case.successResultOf(sent)
            self.case.assertGreaterEqual(having, sum(data in p for p in there))
            self.case.assertLessEqual(having, sum(data in p for p in map(set, came)))
        for client in self.clients:
            client.abort()
        self.network.deliver()
