"""
Tests for L{aesm.cluster.store}.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from aesm.cluster import batch, store
from aesm.cluster.engine import MAX_RETRY
from aesm.cluster.writer import RETRY
from aesm.errors import SpoolError
from aesm.store.interface import Blob, Entry, ISessionStore, Stored
from tests.support.engines import EngineTestCase, Node

BATCH = 300  # sessions: more than are told the engine at once


class StoreTestCase(EngineTestCase):
    """
    A node with a session.

    @ivar one: the node.
    """

    def setUp(self) -> None:
        """Let the session begin."""
        super().setUp()
        self.readers = count()
        self.one = self.node()
        self.begin("S", "K")

    def begin(self, name: str, peer: str = "K") -> None:
        """Let a session begin at the first node."""
        self.done(self.one, self.one.store.begin(name, peer, {"a": 1}))

    def commit(self, node: Node | None = None) -> None:
        """Write what has gathered."""
        node = node or self.one
        self.assertIs(self.done(node, node.store.commit()), None)

    def stored(self, name: str, node: Node | None = None) -> Stored:
        """Have a node, another one if need be, take a session over."""
        node = node or self.node(f"reader-{next(self.readers)}")
        found = self.done(node, node.store.claim(name, "K"))
        assert isinstance(found, Stored)
        return found

    def refuse(self) -> None:
        """Have the engine take nothing."""
        self.setting("min-replicas-to-write", 1, 0)

    def accept(self) -> None:
        """Have it take all again."""
        self.redis.command("CONFIG", "SET", "min-replicas-to-write", 0)

    def cut(self) -> None:
        """Lose the connection."""
        self.one.lines.line.cut()

    def back(self) -> None:
        """Get it back."""
        self.clock.advance(MAX_RETRY)
        self.one.settle()


class SessionTests(StoreTestCase):
    """Sessions as with any store."""

    def test_interface(self) -> None:
        """It is an L{ISessionStore}, with no sessions of its own at first."""
        verifyObject(ISessionStore, self.one.store)
        told: list[object] = []
        two, opened = self.starting("two", lost=lambda *lost: told.append(lost))
        self.assertEqual(self.done(two, opened), [])
        self.stored("S", two)
        self.stored("S", self.one)
        two.store.put("S", "K", {})
        self.commit(two)
        self.assertEqual(told, [({"S": True}, {})])
        self.assertIn("sums", str(self.one.store.damaged("sums")))

    def test_kept(self) -> None:
        """What is committed is there at any node."""
        kept = self.one.store
        kept.put("S", "K", {"a": [2, "é"]})
        kept.append("S", False, 3, 1, b"in")
        kept.append("S", True, 5, 2, b"\x00 out")
        kept.append("S", True, 7, 1, b"more")
        self.commit()
        kept.discard("S", True, 7)
        kept.discard("S", True, 6)  # later, and less
        self.commit()
        self.assertEqual(
            self.stored("S"),
            Stored(
                *("S", "K", {"a": [2, "é"]}),
                *([Blob(3, 1, b"in")], [Blob(7, 1, b"more")], []),
            ),
        )

    def test_requests(self) -> None:
        """An open request is kept until it is removed."""
        kept = self.one.store
        for number in (4, 6):
            kept.addRequest("S", number, b"%d" % number)
        self.commit()
        kept.removeRequest("S", 4)
        self.commit()
        self.assertEqual(self.stored("S").requests, [Blob(6, 1, b"6")])

    def test_large(self) -> None:
        """What is larger than a page comes, too."""
        frames = b"x" * (store.PAGE_SIZE + 1)
        for number in range(3):
            self.one.store.append("S", True, number, 1, frames)
            self.one.store.append("S", False, number, 1, b"y")
            self.one.store.addRequest("S", number, b"z")
        self.commit()
        found = self.stored("S")
        self.assertEqual([blob.number for blob in found.outgoing], [0, 1, 2])
        self.assertEqual([blob.frames for blob in found.outgoing], [frames] * 3)
        self.assertEqual(len(found.incoming), 3)
        self.assertEqual(len(found.requests), 3)

    def test_nobodys(self) -> None:
        """Nobody finds a session that there is not, or that is another key's."""
        for name, peer in (("none", "K"), ("S", "L")):
            claimed = self.one.store.claim(name, peer)
            self.assertIs(self.done(self.one, claimed), None)

    def test_unknown(self) -> None:
        """What is said of a session that is not ours is left out."""
        kept = self.one.store
        kept.put("none", "K", {})
        kept.append("none", True, 0, 1, b"x")
        kept.discard("none", True, 1)
        kept.addRequest("none", 0, b"x")
        kept.removeRequest("none", 1)
        kept.drop("none")
        kept.attend("none", True)
        kept.took("none", Entry(1, b"name", b""))
        self.commit()
        self.assertEqual(self.one.lost, [])
        self.assertRaises(TypeError, kept.put, "none", "K", {"a": b""})

    def test_taken(self) -> None:
        """A session cannot have the name of another one, at this node or at others."""
        other = self.node("other")
        for node in (self.one, other):
            begun = node.store.begin("S", "L", {})
            node.settle()
            self.failureResultOf(begun, SpoolError)
        self.one.store.put("S", "K", {"a": 2})
        self.commit()
        self.assertEqual(self.one.lost, [])

    def test_beginCancelled(self) -> None:
        """A session whose client has left can be dropped, if it is there."""
        begun = self.one.store.begin("T", "K", {})
        begun.cancel()
        self.failureResultOf(begun, CancelledError)
        self.one.store.drop("T")
        self.commit()
        self.assertEqual(self.redis.command("KEYS", self.key("?:T")), [])

    def test_beginRefused(self) -> None:
        """None begins while nothing can be written, and nothing is left of it."""
        self.refuse()
        begun = self.one.store.begin("T", "K", {})
        self.one.settle()
        self.failureResultOf(begun, SpoolError)
        self.accept()
        self.one.store.put("T", "K", {})
        self.commit()
        self.assertEqual(self.redis.command("KEYS", self.key("?:T")), [])

    def test_perKey(self) -> None:
        """The sessions that a newer one of their key ends are lost at once."""
        self.begin("T")
        one = self.one.store
        one._perKey = 1
        self.begin("U")
        self.assertEqual(self.one.lost, [({"S": None, "T": None}, {})])
        one.put("S", "K", {"a": 2})
        self.commit()
        self.assertEqual(self.redis.command("KEYS", self.key("?:[ST]")), [])

    def test_places(self) -> None:
        """A session waits unless its client is said to be there."""
        waiting = ("ZRANGE", self.key("w"), 0, -1)
        for place, found in (
            (partial(self.one.store.attend, isThere=True), []),
            (partial(self.one.store.attend, isThere=False), [b"S"]),
            (self.one.store.release, [b"S"]),
        ):
            place("S")
            self.commit()
            self.assertEqual(self.redis.command(*waiting), found)
        self.one.store.put("S", "K", {"a": 3})  # it is not ours any more
        self.commit()
        self.assertEqual(self.stored("S").state, {"a": 1})

    def test_drop(self) -> None:
        """Nothing is left of a session that is dropped, and another may begin."""
        self.one.store.append("S", True, 0, 1, b"x")
        self.one.store.drop("S")
        self.commit()
        self.assertEqual(self.redis.command("KEYS", self.key("?:S")), [])
        self.begin("S", "L")

    def test_many(self) -> None:
        """What many sessions did in a turn is told in parts; who waits has all."""
        names = [f"S{index}" for index in range(BATCH)]
        for name in names:
            self.begin(name)
            self.one.store.put(name, "K", {"a": 2})
        committed = self.one.store.commit()
        self.one.lines.deliver()
        self.assertNoResult(committed)
        self.done(self.one, committed)
        for name in names:
            state = self.redis.command("GET", self.key(f"t:{name}"))
            self.assertEqual(state, b'{"a":2}')


class WritingTests(StoreTestCase):
    """When it is written."""

    def test_order(self) -> None:
        """What gathers while something is written makes up the next batch."""
        fired: list[int] = []
        for number in range(4):
            self.change(number).addCallback(self._cbFired, fired, number)
        self.one.lines.deliver()
        self.assertEqual(fired, [0])
        self.clock.advance(0)
        self.one.lines.deliver()
        self.assertEqual(fired, [0, 1, 2, 3])

    def test_burst(self) -> None:
        """
        If anything has gathered, what comes in the next turn of the event loop is in
        the same batch.
        """
        first, second = self.change(1), self.change(2)
        self.one.lines.deliver()
        self.successResultOf(first)
        third: list[Deferred[None]] = []
        self.clock.callLater(0, lambda: third.append(self.change(3)))
        self.assertFalse(self.one.lines.deliver())
        self.clock.advance(0)
        self.one.lines.deliver()
        self.successResultOf(second)
        self.successResultOf(third[0])

    def test_atOnce(self) -> None:
        """What comes only when a batch is written is written at once."""
        first = self.change(1)
        first.addCallback(lambda nothing: self.change(2))
        self.one.lines.deliver()
        self.assertNoResult(first)
        self.one.lines.deliver()
        self.successResultOf(first)

    def change(self, number: int) -> Deferred[None]:
        """Let something happen to a session."""
        self.one.store.put("S", "K", {"a": number})
        return self.one.store.commit()

    def _cbFired(self, result: None, fired: list[int], number: int) -> None:
        """Note that a commit is done."""
        fired.append(number)

    def test_away(self) -> None:
        """While the engine is away nothing fires; all is written once it is back."""
        self.assertIs(self.one.store.failure, None)
        self.one.store.put("S", "K", {"a": 2})
        first = self.one.store.commit()
        self.cut()
        self.assertIsInstance(self.one.store.failure, SpoolError)
        self.one.store.put("S", "K", {"a": 3})
        second = self.one.store.commit()
        self.clock.advance(0.5)
        self.one.settle()
        self.assertNoResult(first)
        self.back()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertIs(self.one.store.failure, None)
        self.assertEqual(self.stored("S").state, {"a": 3})

    def test_nothing(self) -> None:
        """A commit of nothing fires when the engine works."""
        self.commit()
        self.cut()
        committed = self.one.store.commit()
        self.assertNoResult(committed)
        self.back()
        self.successResultOf(committed)

    def test_again(self) -> None:
        """A batch whose reply is lost is done once, and its results are told once."""
        self.one.store.put("S", "K", {"a": 2})
        self.commit()  # so that the engine knows the script
        told: list[object] = []
        self.one.store.log("S", b"x", lambda *results: told.append(results))
        committed = self.one.store.commit()
        self.one.lines.line.execute()
        self.cut()
        self.assertNoResult(committed)
        self.back()
        self.successResultOf(committed)
        self.assertEqual(told, [(1, b"one:1")])
        self.assertEqual(self.redis.command("ZCARD", self.key("log")), 1)

    def test_refused(self) -> None:
        """An engine that does not take a batch is asked again until it does."""
        self.refuse()
        self.one.store.put("S", "K", {"a": 2})
        committed = self.one.store.commit()
        for _ in range(3):
            self.one.settle()
            self.assertIn("NOREPLICAS", str(self.one.store.failure))
            self.clock.advance(RETRY)
        self.one.settle()
        self.assertNoResult(committed)
        self.accept()
        self.clock.advance(RETRY - 0.1)
        self.one.settle()
        self.assertNoResult(committed)
        self.clock.advance(0.1)
        self.done(self.one, committed)
        self.assertIs(self.one.store.failure, None)

    def test_cutWhileRefused(self) -> None:
        """It is told once it is back, too."""
        self.refuse()
        committed = self.one.store.commit()
        self.one.store.put("S", "K", {"a": 2})
        again = self.one.store.commit()
        self.one.settle()
        self.successResultOf(committed)
        self.cut()
        self.accept()
        self.back()
        self.successResultOf(again)

    def test_close(self) -> None:
        """The rest is written before it is closed; then nothing is."""
        self.one.store.put("S", "K", {"a": 2})
        self.done(self.one, self.one.store.close())
        self.assertRaises(RuntimeError, self.one.store.close)
        for late in (self.one.store.commit(), self.one.store.begin("T", "K", {})):
            self.failureResultOf(late, SpoolError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.stored("S").state, {"a": 2})

    def test_closeBusy(self) -> None:
        """So is what gathers while something is written."""
        self.one.store.put("S", "K", {"a": 2})
        committed = self.one.store.commit()
        self.one.store.put("S", "K", {"a": 3})
        closed = self.one.store.close()
        self.done(self.one, closed)
        self.successResultOf(committed)
        self.assertEqual(self.stored("S").state, {"a": 3})

    def test_closeRefused(self) -> None:
        """What cannot be written then is not; whoever waits is told."""
        self.refuse()
        self.one.store.put("S", "K", {"a": 2})
        committed = self.one.store.commit()
        self.one.settle()
        late = self.one.store.commit()
        closed = self.one.store.close()
        self.clock.advance(0)
        self.one.settle()
        for failing in (closed, committed, late):
            self.failureResultOf(failing, SpoolError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closeAway(self) -> None:
        """The same without a connection."""
        self.cut()
        committed = self.one.store.commit()
        closed = self.one.store.close()
        self.one.settle()
        self.failureResultOf(closed, SpoolError)
        self.failureResultOf(committed, SpoolError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closeCut(self) -> None:
        """The same if it is lost meanwhile."""
        self.one.store.put("S", "K", {"a": 2})
        closed = self.one.store.close()
        self.cut()
        self.one.settle()
        self.failureResultOf(closed, SpoolError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class MovedTests(StoreTestCase):
    """Sessions that are not ours any more."""

    def setUp(self) -> None:
        """Have another node, and more sessions."""
        super().setUp()
        self.two = self.node("two")
        for name in "TU":
            self.begin(name)

    def append(self, name: str, number: int, data: bytes, cause: str = "") -> None:
        """Send a message."""
        self.one.store.append(name, True, number, 1, data, cause)

    def test_moved(self) -> None:
        """The next commit tells; what others did is written."""
        self.stored("S", self.two)
        for name in "ST":
            self.one.store.put(name, "K", {"a": 2})
        self.commit()
        self.assertEqual(self.one.lost, [({"S": True}, {})])
        self.assertEqual(self.stored("T").state, {"a": 2})
        self.assertEqual(self.stored("S").state, {"a": 1})

    def test_gone(self) -> None:
        """It also tells of sessions that there are not any more."""
        self.redis.command("DEL", self.key("s:S"))
        self.one.store.put("S", "K", {"a": 2})
        self.commit()
        self.assertEqual(self.one.lost, [({"S": False}, {})])

    def test_undone(self) -> None:
        """
        What it caused is not sent, and the numbers of what is behind that move up, also
        of what was said meanwhile.
        """
        self.stored("S", self.two)
        for number, cause in enumerate(("", "S", "T")):
            self.append("T", number, b"%d" % number, cause)
        self.one.store.put("S", "K", {"a": 2})
        first = self.one.store.commit()
        for number, cause in ((3, "T"), (4, "S"), (5, "T")):
            self.append("T", number, b"%d" % number, cause)
        told: list[object] = []
        self.one.store.log("S", b"x", lambda *results: told.append(results))
        second = self.one.store.commit()
        self.one.settle()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.one.lost, [({"S": True}, {"T": [1, 4]})])
        self.assertEqual(told, [])
        blobs = self.stored("T").outgoing
        self.assertEqual(
            blobs,
            [Blob(0, 1, b"0"), Blob(1, 1, b"2"), Blob(2, 1, b"3"), Blob(3, 1, b"5")],
        )

    def test_answered(self) -> None:
        """A request is open still that was answered because of it."""
        self.one.store.addRequest("T", 0, b"ask")
        self.commit()
        self.stored("S", self.two)
        self.append("T", 0, b"answer", "S")
        self.one.store.removeRequest("T", 0, "S")
        self.commit()
        stored = self.stored("T")
        self.assertEqual((stored.outgoing, stored.requests), ([], [Blob(0, 1, b"ask")]))

    def test_caused(self) -> None:
        """What goes to others because of it does not go, and nobody is told."""
        self.stored("S", self.two)
        told: list[object] = []
        self.one.store.log("S", b"x", lambda *results: told.append(results))
        self.one.store.send("S", "K", b"x", lambda *results: told.append(results))
        self.one.store.log("T", b"y", lambda *results: told.append(results))
        self.commit()
        self.assertEqual(told, [(1, b"one:3")])

    def test_cameBack(self) -> None:
        """What was said before it came back is not taken for what is said now."""
        self.one.store.put("S", "K", {"a": 2})
        committed = self.one.store.commit()
        self.cut()
        self.stored("S", self.two)
        self.clock.advance(MAX_RETRY)
        while self.one.store.failure is not None:
            self.one.lines.deliver()
        claimed = self.one.store.claim("S", "K")
        self.one.settle()
        self.successResultOf(committed)
        self.assertIsNot(self.successResultOf(claimed), None)
        self.one.store.put("S", "K", {"a": 3})
        self.commit()
        self.assertEqual(self.stored("S").state, {"a": 3})

    def test_racing(self) -> None:
        """Who claims a session while another node does has all of it, or fails."""
        frames = b"x" * store.PAGE_SIZE
        for number in range(3):
            self.append("S", number, frames)
        self.commit()
        slow = self.node("slow")
        claimed = slow.store.claim("S", "K")
        while self.redis.command("HGET", self.key("s:S"), "fence") != b"2":
            slow.lines.deliver()
        self.stored("S", self.two)
        slow.settle()
        self.failureResultOf(claimed, SpoolError)

    def test_commitsMore(self) -> None:
        """Who hears that a session has moved may commit more: all is written once."""
        self.stored("S", self.two)
        told: list[object] = []

        def lose(*lost: object) -> None:
            """Commit more."""
            self.one.store.log("T", b"more", lambda *results: told.append(results))
            self.one.store.commit()

        self.one.store.lost = lose
        self.one.store.put("S", "K", {"a": 2})
        self.one.store.log("T", b"before", lambda *results: told.append(results))
        self.commit()
        self.one.settle()
        self.assertEqual(told, [(1, b"one:1"), (2, b"one:2")])
        self.assertEqual(self.redis.command("ZCARD", self.key("log")), 2)

    def test_claimFails(self) -> None:
        """Who cannot claim it is told."""
        claimed = self.two.store.claim("S", "K")
        self.two.lines.line.cut()
        self.failureResultOf(claimed, SpoolError)

    def test_lostAll(self) -> None:
        """All are gone if the engine has lost its data; others can begin."""
        self.redis.command("FLUSHALL")
        self.one.store.put("S", "K", {"a": 2})
        committed = self.one.store.commit()
        self.one.settle()
        self.back()
        self.assertEqual(self.one.lost, [({"S": False, "T": False, "U": False}, {})])
        self.failureResultOf(committed, SpoolError)
        self.begin("S")
        self.one.store.put("S", "K", {"a": 4})
        self.commit()
        self.assertEqual(self.stored("S").state, {"a": 4})


class RungTests(StoreTestCase):
    """What a node is told without asking."""

    def setUp(self) -> None:
        """Note what is told."""
        super().setUp()
        self.one.settle()
        self.two = self.node("two")
        self.came: list[tuple[str, Entry | None]] = []
        self.told: list[Entry | None] = []
        self.one.store.came = lambda *what: self.came.append(what)
        self.one.store.told = self.told.append

    def hear(self) -> None:
        """Wait for a word."""
        self.one.lines.bells[-1].hear()

    def test_moved(self) -> None:
        """A session that another node has is lost at once."""
        self.one.store.put("S", "K", {"a": 2})
        self.stored("S", self.two)
        self.hear()
        self.assertEqual(self.one.lost, [({"S": True}, {})])
        self.commit()
        self.assertEqual(len(self.one.lost), 1)
        self.assertEqual(self.stored("S").state, {"a": 1})

    def test_undone(self) -> None:
        """So is what it caused and nobody has written yet."""
        self.begin("T")
        self.one.store.append("T", True, 0, 1, b"a", "S")
        self.one.store.append("T", True, 1, 1, b"b")
        self.stored("S", self.two)
        self.hear()
        self.assertEqual(self.one.lost, [({"S": True}, {"T": [0]})])
        self.commit()
        self.assertEqual(self.stored("T").outgoing, [Blob(0, 1, b"b")])

    def test_cameBackBeforeCommit(self) -> None:
        """What was said before one moved and came back is not taken for now."""
        self.begin("T")
        self.refuse()
        self.one.store.put("S", "K", {"a": 2})
        self.one.store.append("T", True, 0, 1, b"a", "S")
        committed = self.one.store.commit()
        self.one.settle()
        self.accept()
        self.stored("S", self.two)
        self.hear()
        self.stored("S", self.one)
        self.one.store.append("T", True, 1, 1, b"b", "S")
        self.clock.advance(RETRY)
        self.done(self.one, committed)
        self.assertEqual(self.one.lost, [({"S": True}, {}), ({}, {"T": [0]})])
        self.one.store.put("S", "K", {"a": 3})
        self.commit()
        self.assertEqual(self.stored("S").state, {"a": 3})
        self.assertEqual(self.stored("T").outgoing, [Blob(0, 1, b"b")])

    def test_cameBack(self) -> None:
        """One that came back before that is heard is ours; what it was is lost."""
        self.stored("S", self.two)
        self.stored("S", self.one)
        self.hear()
        self.assertEqual(self.one.lost, [({"S": True}, {})])

    def test_stays(self) -> None:
        """One that is claimed where it is stays as it is."""
        self.one.store.put("S", "K", {"a": 2})
        for key in ("K", "L"):
            claimed = self.one.store.claim("S", key)
            self.assertIs(self.done(self.one, claimed), None)
        self.commit()
        self.assertEqual(self.one.lost, [])
        self.assertEqual(self.stored("S").state, {"a": 2})

    def test_gone(self) -> None:
        """One that was given up is gone."""
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.redis.command("ZADD", self.key("w"), 1, "S")
        self.done(self.two, self.two.store.lease._sweep())
        self.hear()
        self.assertEqual(self.one.lost, [({"S": False}, {})])

    def test_inlet(self) -> None:
        """What is sent to a session comes."""
        self.two.store.send("", "K", b"a b", lambda *results: None)
        self.commit(self.two)
        self.hear()
        (entry,) = self.done(self.one, self.one.store.readInlet("S"))
        self.assertEqual(self.came, [("S", entry)])

    def test_log(self) -> None:
        """
        So does what is told all, all of a commit at once; who has told it knows by
        which names.
        """
        known: list[object] = []
        for commit in ((b"a b",), (b"c\n", b"", b"d")):
            self.two.store.send("", "K", b"before", lambda *results: None)
            for data in commit:
                self.two.store.log("", data, lambda *results: known.append(results))
            self.commit(self.two)
        self.redis.command("PUBLISH", self.key("log"), "say end")
        heard: list[bytes] = []
        self.one.store.heard = heard.append
        while not heard:
            self.hear()
        page = self.done(self.one, self.one.store.readLog(0))
        self.assertEqual(
            [entry.data for entry in page.entries], [b"a b", b"c\n", b"", b"d"]
        )
        self.assertEqual(self.told, page.entries)
        self.assertEqual(known, [entry[:2] for entry in page.entries])

    def test_missed(self) -> None:
        """When it could not be told, it looks for all of it."""
        self.one.lines.bells[-1].cut()
        self.back()
        self.assertEqual((self.came, self.told), ([("S", None)], [None]))

    def test_others(self) -> None:
        """Of what is not ours nothing is told."""
        self.one.store.drop("S")
        self.commit()
        self.one.store._rung(True, b"inlet S 1 two:1 x")
        self.one.store._rung(True, b"gone S")
        self.assertEqual((self.came, self.one.lost), ([], []))


class OthersTests(StoreTestCase):
    """What goes to others."""

    def told(self, deferred: Deferred[Any]) -> tuple[Any, ...]:
        """Wait for results."""
        self.commit()
        return tuple(self.successResultOf(deferred))

    def test_inlet(self) -> None:
        """What is sent to a key is read, taken over and gone."""
        results: Deferred[Any] = Deferred()
        send = self.one.store.send
        send("", "K", b"a b", lambda *both: results.callback(both))
        self.assertEqual(self.told(results), (1, 0))
        (entry,) = self.done(self.one, self.one.store.readInlet("S"))
        self.assertEqual((entry.position, entry.data), (1, b"a b"))
        again = self.one.store.readInlet("S", entry.position)
        self.assertEqual(self.done(self.one, again), [])
        self.one.store.append("S", True, 0, 1, entry.data)
        self.one.store.took("S", entry)
        self.commit()
        self.assertEqual(self.done(self.one, self.one.store.readInlet("S")), [])

    def test_inletFull(self) -> None:
        """
        A session takes no more than L{MAX_INLET<batch.MAX_INLET>} bytes, but any one
        message while there is no other.
        """
        self.begin("T", "L")
        room = batch.MAX_INLET - 1 - 2 * len(b"one:1 ")
        for peer, size, expected in (
            ("K", 1, (1, 0)),
            ("K", room + 1, (0, 1)),
            ("K", room, (1, 0)),
            ("K", 1, (0, 1)),
            ("L", batch.MAX_INLET + 1, (1, 0)),
            ("L", 1, (0, 1)),
        ):
            results: Deferred[Any] = Deferred()
            self.one.store.send(
                "", peer, b"x" * size, lambda *r, d=results: d.callback(r)
            )
            self.assertEqual(self.told(results), expected)

    def test_log(self) -> None:
        """What is told all is read by all, from where they have read."""
        results: Deferred[Any] = Deferred()
        self.one.store.log("S", b"a b", lambda *both: results.callback(both))
        self.assertEqual(self.told(results), (1, b"one:1"))
        two = self.node("two")
        page = self.done(two, two.store.readLog(0))
        self.assertEqual((page.first, page.last), (1, 1))
        (entry,) = page.entries
        self.assertEqual(entry.data, b"a b")
        again = two.store.readLog(entry.position, entry.name)
        self.assertEqual(self.done(two, again).entries, [])
        self.assertIs(self.done(two, two.store.readLog(1, b"other")), None)

    def test_logBound(self) -> None:
        """
        L{MAX_LOG<batch.MAX_LOG>} bytes are kept, each entry with 128 more; who is
        behind that is told.
        """
        self.patch(batch, "MAX_LOG", 30 + 3 * 128)
        for data in (b"a", b"b", b"c", b"d"):
            self.one.store.log("", data, lambda *results: None)
        self.commit()
        page = self.done(self.one, self.one.store.readLog(0))
        self.assertEqual(page, (2, 4, None))

    def test_manyMixed(self) -> None:
        """In a large turn each result is told whom it is for."""
        told: dict[str, tuple[int, int]] = {}
        for index in range(BATCH):
            name = f"S{index}"
            self.begin(name, f"K{index}")
            self.one.store.put(name, "K", {"a": 2})
            send = self.one.store.send
            send(name, f"K{index}", b"x", lambda *r, n=name: told.update({n: r}))
        self.commit()
        self.assertEqual(told, {f"S{index}": (1, 0) for index in range(BATCH)})
