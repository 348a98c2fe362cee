"""
Tests for L{aesm.cluster.repair}, and for what a store does with it: engines that lost
the last that they were told.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from aesm.cluster import again
from aesm.cluster.batch import MAX_BYTES, MAX_INLET, MAX_SESSIONS
from aesm.cluster.engine import MAX_RETRY
from aesm.cluster.lease import TIME
from aesm.cluster.repair import _cut
from aesm.cluster.writer import RETRY
from aesm.errors import SpoolError
from aesm.store.interface import Blob, Entry, Stored
from tests.support.engines import EngineTestCase, Node


def nobody(*results: int) -> None:
    """Nobody is to be told."""


class RepairTests(EngineTestCase):
    """
    Three nodes; the first one has a session, of which much was committed.

    @ivar one: the node.
    @ivar nodes: all that there are.
    @ivar old: what the engine had in the beginning.
    """

    def setUp(self) -> None:
        """Let the session begin."""
        super().setUp()
        self.nodes = self.one, self.two, self.three = [
            self.node(name) for name in ("one", "two", "three")
        ]
        self.begin("S")
        self.append("S", 0)
        self.commit()
        self.old = self.redis.snapshot()

    def begin(self, name: str, node: Node | None = None) -> None:
        """Let a session begin."""
        node = node or self.one
        self.done(node, node.store.begin(name, "K", {"a": 0}))

    def append(self, name: str, number: int) -> None:
        """Send a message."""
        self.one.store.append(name, True, number, 1, b"%d" % number)

    def commit(self, node: Node | None = None) -> None:
        """Write what has gathered."""
        node = node or self.one
        self.assertIs(self.done(node, node.store.commit()), None)

    def failOver(self, *, before: Node | None = None) -> list[str]:
        """
        Have another engine, with the old data.

        @param before: the node that does not come yet.
        @return: what operators are told.
        """
        for node in self.nodes:
            node.cut()
        self.redis.goBack(self.old)
        with capturedLogs() as logs:
            self.clock.advance(MAX_RETRY)
            for _ in self.nodes:  # until each has seen that all others have looked
                self.ask(*(node for node in self.nodes if node is not before))
        return [
            log["log_format"] for log in logs if log["log_level"].name in "warn error"
        ]

    def look(self, node: Node) -> None:
        """Let a node look, and not go on."""
        for isLooking in (True, False):
            while node.store._writer.isLooking is not isLooking:
                node.lines.deliver()

    def ask(self, *nodes: Node) -> None:
        """Let nodes see whether all others have looked by now."""
        self.clock.advance(RETRY)
        for node in nodes:
            node.settle()

    def sent(self, *causes: str) -> list[int]:
        """
        Have the second node send something to S for each cause, of which it does not
        hear that it is there, and the first one take what there is.

        @return: how often others are told that it was sent.
        """
        told: list[int] = []
        for cause in causes:
            self.two.store.send(cause, "K", b"x", lambda sent, full: told.append(sent))
        self.two.store.commit()
        self.two.lines.line.execute()
        for entry in self.done(self.one, self.one.store.readInlet("S")):
            self.one.store.took("S", entry)
        self.append("S", 1)
        self.commit()
        return told

    def claimed(self, name: str = "S", node: Node | None = None) -> Stored | None:
        """Have the other node take a session over."""
        node = node or self.two
        found = self.done(node, node.store.claim(name, "K"))
        assert found is None or isinstance(found, Stored)
        return found

    def test_restored(self) -> None:
        """What the node that has a session has written of it is there again."""
        store = self.one.store
        self.append("S", 1)
        store.append("S", False, 7, 1, b"in")
        store.append("S", False, 8, 1, b"more")
        store.addRequest("S", 9, b"ask")
        store.addRequest("S", 10, b"ask more")
        self.commit()
        store.put("S", "K", {"a": 1})
        store.discard("S", True, 1)
        store.discard("S", False, 8)
        store.removeRequest("S", 9)
        store.addRequest("S", 11, b"ask")
        store.removeRequest("S", 11)
        store.attend("S", True)
        self.commit()
        told = self.failOver()
        self.assertEqual(len(told), 1)
        self.assertIn("sessions are written again", told[0])
        self.assertEqual(self.redis.command("EXISTS", self.key("w")), 0)
        kept = [Blob(8, 1, b"more")], [Blob(1, 1, b"1")], [Blob(10, 1, b"ask more")]
        self.assertEqual(self.claimed(), Stored("S", "K", {"a": 1}, *kept))

    def test_goesOn(self) -> None:
        """What is under way is written once, behind that; and so is what comes then."""
        self.append("S", 1)
        self.commit()
        self.append("S", 2)
        under = self.one.store.commit()
        self.append("S", 3)
        behind = self.one.store.commit()
        self.failOver()
        self.successResultOf(under)
        self.successResultOf(behind)
        self.append("S", 4)
        self.commit()
        stored = self.claimed()
        assert stored is not None
        self.assertEqual([blob.number for blob in stored.outgoing], [0, 1, 2, 3, 4])

    def test_nothingMissing(self) -> None:
        """Where nothing is missing, nothing is written, or said."""
        self.append("S", 1)
        under = self.one.store.commit()
        self.one.lines.line.execute()  # and nobody hears of it
        self.old = self.redis.snapshot()
        self.assertEqual(self.failOver(), [])
        self.successResultOf(under)
        stored = self.claimed()
        assert stored is not None
        self.assertEqual([blob.number for blob in stored.outgoing], [0, 1])

    def test_begun(self) -> None:
        """A session of whose beginning nothing is there is there again."""
        self.begin("T")
        self.failOver()
        self.assertEqual(self.claimed("T"), Stored("T", "K", {"a": 0}, [], [], []))
        self.assertEqual(len(self.redis.command("ZRANGE", self.key("k:K"), 0, -1)), 2)

    def test_ended(self) -> None:
        """One that has ended is there again, and given up when its grace is over."""
        self.one.store.attend("S", True)
        self.commit()
        self.old = self.redis.snapshot()
        self.one.store.drop("S")
        self.commit()
        self.failOver()
        waiting = self.redis.command("ZRANGE", self.key("w"), 0, -1)
        self.assertEqual(waiting, [b"S"])
        self.assertEqual(self.redis.command("EXISTS", self.key("h:one")), 0)

    def test_claimed(self) -> None:
        """One that was claimed stays where it was claimed, whoever comes back first."""
        for first in (self.one, self.two):
            self.claimed("S", first)
            self.old = self.redis.snapshot()
            other = self.two if first is self.one else self.one
            self.claimed("S", other)
            other.store.put("S", "K", {"a": 5})
            self.commit(other)
            self.failOver(before=first)
            first.settle()
            self.ask(*self.nodes)
            self.assertIn("S", other.store._writer.ours)
            self.assertNotIn("S", first.store._writer.ours)
            self.assertEqual(self.redis.command("GET", self.key("t:S")), b'{"a":5}')

    def test_looking(self) -> None:
        """
        Nothing is written or claimed while another node has not looked whether anything
        is missing of it, and claimed until it has said what was under way.
        """
        self.append("S", 1)
        self.commit()
        self.append("S", 2)
        self.one.store.commit()
        self.failOver(before=self.one)
        self.two.store.send("", "none", b"x", nobody)
        behind = self.two.store.commit()
        self.ask(self.two)
        self.assertNoResult(behind)
        self.failureResultOf(self.two.store.claim("S", "K"), SpoolError)
        self.look(self.one)
        self.ask(self.two)
        self.successResultOf(behind)
        claimed = self.two.store.claim("S", "K")
        self.two.settle()
        error = self.failureResultOf(claimed, SpoolError)
        self.assertIn("LOOKING", error.getErrorMessage())
        self.ask(*self.nodes)
        stored = self.claimed()
        assert stored is not None
        self.assertEqual([blob.number for blob in stored.outgoing], [0, 1, 2])

    def test_stale(self) -> None:
        """
        What a node says that has not heard of a claim is not done, also where the
        engine has not heard of it either.
        """
        self.one.store.send("S", "K", b"x", nobody)
        self.one.store.commit()
        self.claimed()
        self.failOver()
        self.assertEqual(self.one.lost, [({"S": True}, {})])
        self.assertEqual(self.redis.command("EXISTS", self.key("q:S")), 0)

    def test_twice(self) -> None:
        """What was under way, and was taken out of an inlet, is not there again."""
        told = self.sent("")
        self.failOver()
        self.assertEqual(told, [1])
        self.assertEqual(self.redis.command("EXISTS", self.key("q:S")), 0)

    def test_twiceMoved(self) -> None:
        """Nor is it if the session was another node's before, or is since."""
        self.sent("")
        self.claimed("S", self.three)
        self.failOver()
        self.assertEqual(self.redis.command("EXISTS", self.key("q:S")), 0)
        self.assertIn("S", self.three.store._writer.ours)

    def test_twiceNamed(self) -> None:
        """Nor if some of what was under way with it is not done any more."""
        self.begin("T", self.two)
        self.old = self.redis.snapshot()
        told = self.sent("T", "")
        self.claimed("T", self.three)
        said = self.failOver()
        self.assertEqual(told, [2])
        self.assertEqual(self.redis.command("EXISTS", self.key("q:S")), 0)
        self.assertEqual(self.redis.command("ZCARD", self.key("q:T")), 1)
        # If the engine had done it before, T will not say again what it said.
        self.assertTrue(any("being sent for sessions" in line for line in said))

    def test_notTaken(self) -> None:
        """What is taken, and not committed, is there until it is."""
        self.two.store.send("", "K", b"a", nobody)
        self.commit(self.two)
        self.old = self.redis.snapshot()
        self.append("S", 1)
        self.commit()
        (entry,) = self.done(self.one, self.one.store.readInlet("S"))
        self.one.store.took("S", entry)
        self.failOver(before=self.one)
        self.look(self.one)
        self.assertEqual(self.redis.command("ZCARD", self.key("o:S")), 2)
        self.assertEqual(self.redis.command("ZCARD", self.key("q:S")), 1)
        self.one.settle()
        self.assertEqual(self.redis.command("ZCARD", self.key("q:S")), 0)

    def test_forked(self) -> None:
        """
        One that does not come is not waited for.  If a session went on elsewhere
        without what was written, that is told.
        """
        self.append("S", 1)
        self.commit()
        self.failOver(before=self.one)
        self.redis.command(
            *("HINCRBY", self.key("meta"), "looking", -round(TIME * 1000) - 1)
        )
        self.ask(self.two)
        stored = self.claimed()
        assert stored is not None
        self.assertEqual([blob.number for blob in stored.outgoing], [0])
        with capturedLogs() as logs:
            self.one.settle()
        formats = [log["log_format"] for log in logs]
        self.assertTrue(any("without what was written here" in it for it in formats))
        self.assertEqual(self.one.lost, [({"S": True}, {})])

    def test_moved(self) -> None:
        """If it had moved before, nothing is missing."""
        self.claimed()
        self.old = self.redis.snapshot()
        told = self.failOver()
        self.assertEqual(told, [])
        self.assertEqual(self.one.lost, [({"S": True}, {})])

    def test_effects(self) -> None:
        """What was sent to others and is missing is sent again, whoever comes first."""
        for before in (None, self.one, self.two):
            data = b"to S from %d" % id(before)
            self.two.store.send("", "K", data, nobody)
            self.commit(self.two)
            self.failOver(before=before)
            if before is not None:
                before.settle()
                self.ask(*self.nodes)
            (entry,) = self.done(self.one, self.one.store.readInlet("S"))
            self.assertEqual(entry.data, data)
            self.one.store.took("S", entry)
            self.commit()
            self.old = self.redis.snapshot()

    def test_effectsOnce(self) -> None:
        """
        It does not come twice to who has it, however often it is sent, and whichever
        engine has what is said last.
        """
        for data in (b"a", b"b"):
            self.two.store.send("", "K", data, nobody)
            self.commit(self.two)
        first, second = self.done(self.one, self.one.store.readInlet("S"))
        self.one.store.took("S", first)
        self.commit()
        newest = self.redis.snapshot()
        for old in (self.old, newest, self.old, self.old):
            self.old = old
            self.failOver()
            (entry,) = self.done(self.one, self.one.store.readInlet("S"))
            self.assertEqual(entry.name, second.name)
            (member,) = self.redis.command("ZRANGE", self.key("q:S"), 0, -1)
            held = self.redis.command("HGET", self.key("s:S"), "held")
            self.assertEqual(int(held), len(member))
        self.one.store.took("S", entry)
        self.commit()
        self.failOver()
        self.assertEqual(self.done(self.one, self.one.store.readInlet("S")), [])

    def test_effectsCut(self) -> None:
        """If the connection is lost meanwhile it is sent once more."""
        self.two.store.send("", "K", b"x", nobody)
        self.commit(self.two)
        self.failOver(before=self.two)
        while self.redis.command("EXISTS", self.key("q:S")) == 0:
            self.two.lines.line.deliver()
            self.clock.advance(0)
        self.two.lines.line.cut()
        self.clock.advance(MAX_RETRY)
        self.ask(self.two)
        (entry,) = self.done(self.one, self.one.store.readInlet("S"))
        self.assertEqual(entry.data, b"x")
        self.assertIs(self.two.store.failure, None)

    def test_effectsMoved(self) -> None:
        """
        What a session caused that has moved since is not: it would come behind what it
        causes there.  That is told.
        """
        self.begin("T", self.two)
        self.old = self.redis.snapshot()
        self.two.store.send("T", "K", b"x", nobody)
        self.two.store.put("T", "K", {"a": 1})
        self.commit(self.two)
        self.claimed("T", self.three)
        self.three.store.send("T", "K", b"y", nobody)
        self.commit(self.three)
        told = self.failOver()
        self.assertTrue(any("at another node by now" in line for line in told))
        (entry,) = self.done(self.one, self.one.store.readInlet("S"))
        self.assertEqual(entry.data, b"y")

    def test_effectsRead(self) -> None:
        """What was read is not there to be read again."""
        self.one.store.append("S", False, 7, 1, b"in")
        self.commit()
        (work,) = self.done(self.two, self.two.store.work())
        self.old = self.redis.snapshot()
        self.two.store.read("", work, 1)
        self.commit(self.two)
        self.failOver()
        self.assertEqual(self.redis.command("EXISTS", self.key("i:S")), 0)

    def test_effectsFull(self) -> None:
        """If there is no room for it by then, that is told."""
        self.two.store.send("", "K", b"x", nobody)
        self.commit(self.two)
        self.failOver(before=self.two)
        self.redis.command("HSET", self.key("s:S"), "held", MAX_INLET)
        with capturedLogs() as logs:
            self.two.settle()
        self.assertTrue(any("there is no room" in log["log_format"] for log in logs))

    def test_effectsDropped(self) -> None:
        """So is what was sent so long ago that it is not kept any more."""
        self.patch(again, "MAX_SENT", 3 * 1000)
        for _ in range(4):
            self.two.store.send("", "K", bytes(1000), nobody)
            self.commit(self.two)
        told = self.failOver()
        self.assertTrue(any("may be lost" in line for line in told))
        self.assertEqual(self.redis.command("ZCARD", self.key("q:S")), 2)

    def test_effectsForgotten(self) -> None:
        """What is not sent again takes no room of what is."""
        self.patch(again, "MAX_SENT", 2500)
        self.begin("T", self.two)
        self.old = self.redis.snapshot()
        for _ in range(2):
            self.two.store.send("T", "K", bytes(1000), nobody)
            self.commit(self.two)
        self.claimed("T", self.three)
        self.failOver()
        for _ in range(2):
            self.two.store.send("", "K", bytes(1000), nobody)
            self.commit(self.two)
        self.failOver()
        self.assertEqual(self.redis.command("ZCARD", self.key("q:S")), 2)

    def test_told(self) -> None:
        """What all were told and is missing is told of, once."""
        self.two.store.log("", b"x", lambda position, name: None)
        self.commit(self.two)
        told = self.failOver() + self.failOver()
        self.assertEqual(sum("may be lost" in line for line in told), 1)

    def test_full(self) -> None:
        """It works where the engine is full: nothing else would make room."""
        self.append("S", 1)
        self.commit()
        self.failOver(before=self.one)
        self.setting("maxmemory", 1, 0)
        self.one.settle()
        self.assertIs(self.one.store.failure, None)
        self.assertEqual(self.redis.command("ZCARD", self.key("o:S")), 2)

    def test_inlet(self) -> None:
        """What was taken out of an inlet is not there again, and the rest is."""
        for data in (b"a", b"b"):
            self.two.store.send("", "K", data, nobody)
        self.commit(self.two)
        self.old = self.redis.snapshot()
        first, second = self.done(self.one, self.one.store.readInlet("S"))
        self.one.store.took("S", first)
        self.commit()
        came: list[tuple[str, Entry | None]] = []
        self.one.store.came = lambda *what: came.append(what)
        self.failOver()
        self.assertIn(("S", None), came)
        self.assertEqual(self.redis.command("ZCARD", self.key("q:S")), 1)
        found = self.done(self.one, self.one.store.readInlet("S"))
        self.assertEqual(found, [second])

    def test_taken(self) -> None:
        """What was taken and is under way is not read again."""
        self.two.store.send("", "K", b"a", nobody)
        self.commit(self.two)
        (entry,) = self.done(self.one, self.one.store.readInlet("S"))
        self.one.store.took("S", entry)
        self.assertEqual(self.done(self.one, self.one.store.readInlet("S")), [])
        came: list[tuple[str, Entry | None]] = []
        self.one.store.came = lambda *what: came.append(what)
        self.one.store._rung(True, b"inlet S 1 %s a" % entry.name)
        self.assertEqual(came, [])

    def test_again(self) -> None:
        """A repair that fails is begun again."""
        self.append("S", 1)
        self.commit()
        self.failOver(before=self.one)
        while self.one.engine.failure is not None:
            self.one.lines.deliver()
        self.setting("min-replicas-to-write", 1, 0)
        self.one.settle()
        self.assertIn("NOREPLICAS", str(self.one.store.failure))
        begun = self.one.store.begin("T", "K", {})
        self.failureResultOf(begun, SpoolError)
        self.redis.command("CONFIG", "SET", "min-replicas-to-write", 0)
        self.ask(self.one)
        self.assertIs(self.one.store.failure, None)
        self.ask(*self.nodes)
        stored = self.claimed()
        assert stored is not None
        self.assertEqual(len(stored.outgoing), 2)

    def test_cutMeanwhile(self) -> None:
        """Also if the connection is lost meanwhile."""
        self.append("S", 1)
        self.commit()
        self.failOver(before=self.one)
        while not self.redis.command("EXISTS", self.key("x:one")):
            self.one.lines.deliver()
        self.redis.command("SADD", self.key("x:one"), "former")
        self.one.lines.line.cut()
        self.clock.advance(MAX_RETRY)
        self.one.settle()
        self.assertIs(self.one.store.failure, None)
        self.assertEqual(self.redis.command("ZCARD", self.key("o:S")), 2)
        self.assertEqual(self.redis.command("SMEMBERS", self.key("h:one")), [b"S"])

    def test_forgotten(self) -> None:
        """The same without a new connection, when a batch shows that one is missing."""
        self.append("S", 1)
        self.commit()
        self.redis.command("DEL", self.key("n:one"))
        self.append("S", 2)
        with capturedLogs() as logs:
            self.commit()
        self.assertEqual(self.redis.command("ZCARD", self.key("o:S")), 3)
        self.commit()
        # Of what was never sent to others nothing is lost.
        said = [each["log_format"] for each in logs]
        self.assertFalse(any("may be lost" in line for line in said), said)

    def test_movedMeanwhile(self) -> None:
        """If a session moves while others are written again, that is begun again."""
        self.begin("T")
        self.failOver(before=self.one)
        while not self.redis.command("EXISTS", self.key("x:one")):
            self.one.lines.deliver()
        self.redis.command("HDEL", self.key("meta"), "looking")
        self.append("S", 1)
        under = self.one.store.commit()
        self.redis.command("HSET", self.key("s:T"), "fence", 2, "peer", "K")
        self.one.settle()
        self.assertIn("moved", str(self.one.store.failure))
        self.clock.advance(RETRY)
        self.done(self.one, under)
        self.assertEqual(self.one.lost, [({"T": True}, {})])

    def test_close(self) -> None:
        """Who closes it meanwhile has all written, or is told."""
        self.append("S", 1)
        self.commit()
        self.failOver(before=self.one)
        while self.one.engine.failure is not None:
            self.one.lines.deliver()
        self.append("S", 2)
        closed: Deferred[None] = self.one.store.close()
        self.one.settle()
        self.successResultOf(closed)
        self.assertEqual(self.redis.command("ZCARD", self.key("o:S")), 3)

    def test_closeWaiting(self) -> None:
        """Who closes it before others have looked is told that not all is written."""
        self.failOver(before=self.two)
        self.append("S", 1)
        closed = self.one.store.close()
        self.clock.advance(0)
        self.one.settle()
        error = self.failureResultOf(closed, SpoolError)
        self.assertIn("it is seen what the engine has", error.getErrorMessage())

    def test_large(self) -> None:
        """It is written in parts, as batches are."""
        sizes = {str(number): 1 for number in range(MAX_SESSIONS + 1)}
        self.assertEqual([len(some) for some in _cut(sizes)], [MAX_SESSIONS, 1])
        for size, lengths in ((1, [2]), (2, [1, 1])):
            sizes = {"a": MAX_BYTES - 1, "b": size}
            self.assertEqual([len(some) for some in _cut(sizes)], lengths)
        self.assertEqual(_cut({"a": 2 * MAX_BYTES}), [["a"]])
        for number in range(MAX_SESSIONS + 1):
            self.begin(f"S{number}")
        self.failOver()
        found = self.redis.command("KEYS", self.key("s:S*"))
        self.assertEqual(len(found), MAX_SESSIONS + 2)
