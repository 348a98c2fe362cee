"""
Tests for L{aesm.store.journal}: whoever is killed, and whenever, what was acknowledged
is delivered once and in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from aesm import ClientService, PrivateKey
from aesm.errors import SpoolError
from aesm.plugins import HandlerMaker
from aesm.store.journal import Journal
from aesm.store.spool import RETRY, Spool
from tests.store.test_sqlite import NAME, OTHER
from tests.support.helpers import XX
from tests.support.shelf import Shelf, ShelfStore
from tests.support.spooled import AtOnce, ByHand, SpoolTestCase

KEYS = [PrivateKey(bytes([number]) * 32) for number in (0x51, 0x52)]
HANDLERS = {
    "stream": None,
    "echo": HandlerMaker("echo", "", "aesm.handlers.Echo"),
    "relay": HandlerMaker("relay", "", "aesm.handlers.Relay"),
}
STEPS = [
    *("send", "send", "send", "take", "takeAtServer", "write", "write"),
    *("deliver", "deliver", "wait", "cut", "killServer", "killClient", "full"),
]


class Entry:
    """
    What a journal writes.

    @ivar session: itself.
    @ivar name: of the session.
    @ivar said: what happened, in order.
    """

    def __init__(self, name: str = NAME) -> None:
        """Begin with nothing."""
        self.name = name
        self.session = self
        self.said: list[str] = []

    def write(self, spool: Spool) -> Callable[[], None]:
        """Change something."""
        self.said.append("write")
        spool.put(self.name, "peer", {"count": len(self.said)})
        return lambda: self.said.append("goOn")

    def writable(self) -> None:
        """Record the call."""
        self.said.append("writable")


class JournalTests(SynchronousTestCase):
    """When it is written."""

    def setUp(self) -> None:
        """Make a journal."""
        self.clock = Clock()
        self.worker = ByHand()
        self.path = self.mktemp()
        spool = Spool(self.path, clock=self.clock, worker=self.worker)
        self.journal = Journal(spool, self.clock)
        self.entry: Any = Entry()

    def closed(self) -> None:
        """Close the journal."""
        closing = self.journal.close()
        while self.worker.waiting:
            self.worker.work()
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_turn(self) -> None:
        """Once for each turn of the event loop, whatever happened in it."""
        for _ in range(3):
            self.journal.touch(self.entry)
        self.assertEqual(self.entry.said, [])
        self.clock.advance(0)
        self.assertEqual(self.entry.said, ["write"])
        self.journal.touch(self.entry)
        self.clock.advance(0)
        self.worker.work()
        self.assertEqual(self.entry.said, ["write", "write", "goOn"])
        self.closed()
        self.assertEqual(self.entry.said, ["write", "write", "goOn", "goOn"])

    def test_close(self) -> None:
        """What happened in the last turn is written; what happens later is not."""
        self.journal.touch(self.entry)
        self.closed()
        self.assertEqual(self.entry.said, ["write", "goOn"])
        self.journal.touch(self.entry)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        spool = Spool(self.path, clock=self.clock, worker=AtOnce())
        self.assertEqual(
            [stored.name for stored in self.successResultOf(spool.open())], [NAME]
        )
        self.successResultOf(spool.close())

    def test_forget(self) -> None:
        """Nothing of a session is left that is forgotten, unless the process ends."""
        self.journal.touch(self.entry)
        self.clock.advance(0)
        self.worker.work()
        self.journal.touch(self.entry)
        self.journal.suspend()
        self.journal.forget(self.entry)
        self.assertEqual(self.entry.said, ["write", "goOn", "write"])
        self.closed()
        self.setUp()
        self.journal.touch(self.entry)
        self.journal.forget(self.entry)
        self.closed()
        self.assertEqual(self.entry.said, [])

    def written(self) -> None:
        """End the turn, and have all of it written."""
        self.clock.advance(0)
        while self.worker.waiting:
            self.worker.work()

    def stored(self) -> dict[str, Any]:
        """Read the states that are in the file."""
        found = self.successResultOf(self.journal.store.open())
        return {stored.name: stored.state for stored in found}

    def test_forgetTogether(self) -> None:
        """
        A session that is forgotten is there until what else this turn writes is, where
        its messages may be now; also if something is written in between.
        """
        self.journal.touch(self.entry)
        self.written()
        other: Any = Entry(OTHER)
        self.journal.forget(self.entry)
        self.journal.begin("c" * 32, "peer", {})
        self.journal.touch(other)
        self.worker.work()
        self.assertIn(NAME, self.stored())
        self.written()
        self.assertEqual(list(self.stored()), ["c" * 32, OTHER])
        self.closed()

    def test_forgottenBegins(self) -> None:
        """One that begins with the name of one that was just forgotten stays."""
        self.journal.touch(self.entry)
        self.written()
        self.journal.forget(self.entry)
        begun = self.journal.begin(NAME, "peer", {"new": True})
        self.written()
        self.successResultOf(begun)
        self.assertEqual(self.stored(), {NAME: {"new": True}})
        self.closed()

    def test_hold(self) -> None:
        """
        Who was held back goes on when it can be written again, after all that was
        written; not if the process ends.
        """
        for ends in (False, True):
            self.worker.room = False
            self.journal.touch(self.entry)
            self.clock.advance(0)
            with capturedLogs():
                self.worker.work()
            self.assertIsInstance(self.journal.store.failure, SpoolError)
            self.assertFalse(self.journal.ready)
            for _ in range(2):
                self.journal.block(self.entry)
            self.clock.advance(0)
            if ends:
                self.journal.suspend()
            self.worker.room = True
            with capturedLogs():
                self.clock.advance(RETRY)
                self.worker.work()
            self.assertEqual(self.journal.ready, not ends)
            self.assertEqual(self.entry.said.count("goOn"), 1)
            self.assertEqual(self.entry.said[-1], "goOn" if ends else "writable")
            del self.entry.said[:2]
        self.closed()

    def test_early(self) -> None:
        """
        Those of which all is stored go on, and who waits for what they caused, before
        the rest of the turn, once.
        """
        told: list[Any] = []
        store = ShelfStore(Shelf())
        commit = store.commit

        def early(tell: Any) -> Any:
            """Note what is to be told."""
            told.append(tell)
            return commit(tell)

        self.patch(store, "commit", early)
        store.isSlow = True
        journal, other = Journal(store, self.clock), Entry(OTHER)
        entries: list[Any] = [self.entry, other]
        for entry in entries:
            journal.touch(entry)
        causes = {OTHER: other.said, NAME: self.entry.said, "": self.entry.said}
        for cause, said in causes.items():
            written = journal.add(lambda store: None, cause)
            written.addCallback(lambda nothing, said: said.append("told"), said)
        self.clock.advance(0)
        for _ in range(2):
            told[0]({OTHER})
        self.assertEqual(self.entry.said, ["write"])
        self.assertEqual(other.said, ["write", "goOn", "told"])
        store.work()
        self.assertEqual(self.entry.said, ["write", "goOn", "told", "told"])
        self.assertEqual(other.said, ["write", "goOn", "told"])
        self.closed()

    def test_others(self) -> None:
        """
        What is no session's is written with the turn, and who waits for it is told when
        all of that has gone on.
        """
        self.journal.touch(self.entry)
        said = self.entry.said
        for _ in range(2):
            written = self.journal.add(lambda store: said.append("other"))
            written.addCallback(lambda nothing: said.append("told"))
        self.clock.advance(0)
        self.assertEqual(said, ["other", "other", "write"])
        self.worker.work()
        self.assertEqual(said[3:], ["goOn", "told", "told"])
        self.closed()

    def test_othersNotWritten(self) -> None:
        """Who waits for that is told if it is not written."""
        self.worker.room = False
        written = self.journal.add(lambda store: store.put(NAME, "peer", {}))
        closing = self.journal.close()
        with capturedLogs():
            while self.worker.waiting:
                self.worker.work()
                self.clock.advance(0)
        self.failureResultOf(closing, SpoolError)
        self.failureResultOf(written, SpoolError)

    def test_notWritten(self) -> None:
        """Who closes while nothing can be written is told; nobody else."""
        self.worker.room = False
        self.journal.touch(self.entry)
        closing = self.journal.close()
        with capturedLogs():
            while self.worker.waiting:
                self.worker.work()
                self.clock.advance(0)
        self.failureResultOf(closing, SpoolError)
        self.assertEqual(self.entry.said, ["write"])


class Model:
    """
    A server and two clients with spools, to which anything happens.

    What a client's application has taken counts once that is stored: a
    consumer that is killed with its process knows no more than that.
    """

    def __init__(self, case: SpoolTestCase, mode: str) -> None:
        """Start them, and let the sessions be stored."""
        self.case = case
        self.mode = mode
        self.handler = HANDLERS[mode]
        case.byHand = True
        self.acknowledged: list[set[int]] = [set(), set()]
        self.taken: list[list[Any]] = [[], []]  # by the clients
        self.atServer: list[tuple[int, Any]] = []  # whose session, and what
        self.case.serving(self.handler, suites=(XX,))
        self.clients = [self.start(number) for number in (0, 1)]
        self.case.settle()
        self.names = self.sessions()

    def sessions(self) -> list[str]:
        """Name the clients' sessions."""
        return [client.former.session.name for client in self.clients if client.former]

    def start(self, number: int) -> ClientService:
        """Start a client."""
        path = self.case.clientPath.with_suffix(f".{number}")
        return self.case.service(
            key=KEYS[number], spool=path, suites=(XX,), deliver=False
        )

    def count(self, number: int) -> int:
        """Count what a client has sent in its session's life."""
        former = self.clients[number].former
        assert former is not None
        return former.session.outbox.count

    def send(self, number: int) -> None:
        """Let a client send the next messages."""
        for _ in range(2):
            index = self.count(number)
            self.clients[number].sendData(f"{number}.{index}").addCallbacks(
                lambda result, index=index: self.acknowledged[number].add(index),
                lambda failure: None,
            )

    def take(self, number: int) -> None:
        """Let a client take a packet."""
        packet = self.clients[number].retrieved.getData()
        if packet is not None:
            self.taken[number].append(packet.data)

    def takeAtServer(self, number: int) -> None:
        """Take a packet at the server."""
        assert self.case.server is not None
        connections = self.case.server.connections
        address, packet = connections.getDataOrdinal()
        if address is not None:
            owner = int(str(packet.data)[0])
            self.atServer.append((owner, packet.data))

    def write(self, number: int) -> None:
        """Let a worker make a call."""
        waiting = [w for w in self.workers() if w.waiting]
        if waiting:
            waiting[number % len(waiting)].work()

    def workers(self) -> list[ByHand]:
        """Find the workers."""
        return [worker for worker in self.case.workers if isinstance(worker, ByHand)]

    def deliver(self, number: int) -> None:
        """Deliver everything."""
        self.case.network.deliver()

    def wait(self, number: int) -> None:
        """Let time pass."""
        self.case.network.advance(1)

    def cut(self, number: int) -> None:
        """Cut a connection."""
        links = self.case.network.links
        if links:
            links[number % len(links)].cut()

    def full(self, number: int) -> None:
        """Let a disk fill up, or empty."""
        workers = self.workers()[-3:]
        worker = workers[number % len(workers)]
        worker.room = not worker.room

    def killServer(self, number: int) -> None:
        """Kill the server, and start it again."""
        self.case.killServer()
        taken: dict[str, int] = {}
        for stored in self.case.stored(self.case.path):
            taken[stored.peer] = stored.state["first"]
        for owner, key in enumerate(KEYS):
            left = taken[str(key.publicKey)]
            kept: list[tuple[int, Any]] = []
            for entry in self.atServer:
                if entry[0] != owner or left > 0:
                    kept.append(entry)
                    left -= entry[0] == owner
            self.atServer = kept
        self.case.serving(self.handler, suites=(XX,))

    def killClient(self, number: int) -> None:
        """Kill a client, and start it again."""
        client = self.clients[number]
        self.case.killService(client)
        path = self.case.clientPath.with_suffix(f".{number}")
        (stored,) = self.case.stored(path)
        del self.taken[number][stored.state["first"] :]
        self.clients[number] = self.start(number)

    def check(self) -> None:
        """Let everything end well, and look at what came."""
        for worker in self.workers():
            worker.room = True
        for _ in range(4):
            self.case.settle()
        assert self.sessions() == self.names  # none was given up
        counts = [self.count(number) for number in (0, 1)]
        for number, count in enumerate(counts):
            sent = [f"{number}.{index}" for index in range(count)]
            assert all(index < count for index in self.acknowledged[number])
            while len(self.clients[number].retrieved):
                self.take(number)
            if self.mode == "stream":
                while len(self.case.server.connections.arrivals):  # type: ignore[union-attr]
                    self.takeAtServer(0)
                found = [data for owner, data in self.atServer if owner == number]
                assert found == sent, (found, sent)
                assert self.taken[number] == []
            else:
                to = number if self.mode == "echo" else 1 - number
                while len(self.clients[to].retrieved):
                    self.take(to)
                assert self.taken[to] == sent, (self.taken[to], sent)
        self.case.settle()


class KillTests(SpoolTestCase):
    """Anything happens, in any order."""

    @settings(max_examples=25, deadline=None)
    @given(
        st.sampled_from(sorted(HANDLERS)),
        st.lists(
            st.tuples(st.sampled_from(STEPS), st.integers(0, 2)),
            min_size=20,
            max_size=60,
        ),
    )
    def test_anything(self, mode: str, steps: list[tuple[str, int]]) -> None:
        """
        What two clients send through a server, or to it, arrives once and in order,
        whatever is cut, full or killed meanwhile, and however much of it was written
        then: at the server's application, echoed, or relayed.
        """
        super().setUp()
        with capturedLogs():
            model = Model(self, mode)
            for name, where in steps:
                number = where if name in ("write", "full", "cut") else where % 2
                getattr(model, name)(number)
            model.check()
            self.endAll()
        self.server = None
        self.services.clear()
