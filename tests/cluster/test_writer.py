"""
Tests for L{aesm.cluster.writer}: with an engine that is full.  The others are those for
L{aesm.cluster.store}.
"""

from __future__ import annotations

import json
from itertools import product

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from aesm.cluster.engine import EngineFull
from aesm.cluster.writer import RESERVE, RETRY
from aesm.errors import SpoolError
from aesm.store.interface import Blob
from tests.cluster.test_store import StoreTestCase


class FullTests(StoreTestCase):
    """An engine that is full."""

    def setUp(self) -> None:
        """Let it have something, and be full."""
        super().setUp()
        self.begin("T", "L")
        one = self.one.store
        for name in "ST":
            one.put(name, "K", self.state(0, 0))
            for number in range(3):
                one.append(name, True, number, 1, b"out")
        one.append("S", False, 0, 1, b"in")
        one.addRequest("S", 1, b"ask")
        one.send("", "K", b"sent", lambda *results: None)
        self.commit()
        self.setting("maxmemory", 1, 0)

    def state(self, received: int, acknowledged: int) -> dict[str, int]:
        """Make the state of a session."""
        return {"received": received, "acknowledged": acknowledged}

    def has(self, key: str) -> list[bytes]:
        """List what the engine has under a key that has members in order."""
        found: list[bytes] = self.redis.command("ZRANGE", self.key(key), 0, -1)
        return found

    def make(self) -> None:
        """Let there be room."""
        self.redis.command("CONFIG", "SET", "maxmemory", 0)

    def wait(self) -> None:
        """Let it be tried again."""
        self.clock.advance(RETRY)
        self.one.settle()

    def send(self, number: int = 3) -> Deferred[None]:
        """Have a message of T be handled, and two sent for it."""
        one = self.one.store
        for name in "ST":
            one.append(name, True, number, 1, b"more", "T")
        one.put("T", "L", self.state(number - 2, 0))
        sent = one.commit()
        self.one.settle()
        return sent

    def acknowledge(self, before: int) -> Deferred[None]:
        """Have the client of S acknowledge something."""
        one = self.one.store
        one.put("S", "K", self.state(7, before))
        one.discard("S", True, before)
        done = one.commit()
        self.one.settle()
        return done

    def test_refused(self) -> None:
        """What adds something waits, and is tried again; that is said once."""
        with capturedLogs() as logged:
            sent = self.send()
            self.assertIsInstance(self.one.store.failure, EngineFull)
            for _ in range(3):
                self.wait()
        self.assertEqual(len(logged), 1)
        self.assertNoResult(sent)
        self.assertEqual(len(self.has("o:T")), 3)
        self.make()
        self.wait()
        self.successResultOf(sent)
        self.assertIs(self.one.store.failure, None)

    def move(self, name: str, size: int, isAsked: bool) -> bool:
        """
        Have what was sent to a session go into its outbox, or its request be answered.

        @return: whether those who wait for it are told.
        """
        one, told = self.one.store, []
        if isAsked:
            one.removeRequest(name, 1)
        else:
            (entry,) = self.done(self.one, one.readInlet(name))
            one.took(name, entry)
        one.append(name, True, 0, 1, b"x" * size)
        one.commit(lambda names: told.append(name in names))
        self.one.settle()
        self.wait()
        return any(told)

    def test_moves(self) -> None:
        """
        What removes something goes, with all that belongs to it, and who waits for it
        hears of that; it may add a little more, in all, until the engine takes
        something of its own accord.
        """
        one = self.one.store
        cases = (4, 0, True), (5, 0, False), (5, 1, True), (13, 8, False)
        for at, (isAsked, (size, reserve, isDone)) in enumerate(
            product((False, True), cases)
        ):
            self.make()
            self.begin(name := f"M{at}", name)
            one.addRequest(name, 1, b"asks")
            one.send("", name, b"sent", lambda *results: None)
            self.commit()
            one._writer._reserve = reserve
            self.redis.command("CONFIG", "SET", "maxmemory", 1)
            waiting = self.send(at + 3)
            self.assertEqual(self.move(name, size, isAsked), isDone)
            self.assertNoResult(waiting)
            self.assertEqual(len(self.has(f"o:{name}")), isDone)
            self.make()
            self.wait()
            self.successResultOf(waiting)
            self.assertEqual(len(self.has(f"o:{name}")), 1)
            self.assertEqual(one._writer._reserve, RESERVE)

    def test_ahead(self) -> None:
        """
        Behind what there is no room for, what peers acknowledge makes some: the session
        is as if nothing else had happened.
        """
        self.one.store._writer._reserve = 0
        sent = self.send()
        done = self.acknowledge(1)
        self.acknowledge(2)
        self.wait()
        self.assertEqual(self.has("o:S"), [b"2 1 out"])
        self.assertEqual(len(self.has("o:T")), 3)
        found = self.stored("S")
        self.assertEqual(found.state, self.state(0, 2))
        self.assertEqual(found.outgoing, [Blob(2, 1, b"out")])
        self.assertNoResult(sent)
        self.assertNoResult(done)
        self.make()
        self.wait()
        self.successResultOf(sent)
        self.successResultOf(done)
        # It has moved, and with it what T's message had it be sent.
        self.assertEqual(self.one.lost, [({"S": True}, {})])
        state = self.redis.command("GET", self.key("t:T"))
        self.assertEqual(json.loads(state)["received"], 1)

    def test_later(self) -> None:
        """What is done later does not bring back what was acknowledged meanwhile."""
        one = self.one.store
        one.put("S", "K", self.state(5, 1))
        one.discard("S", True, 1)
        self.send()
        done = self.acknowledge(2)
        self.wait()
        self.make()
        self.clock.advance(RETRY)
        self.one.lines.deliver()
        self.successResultOf(done)
        state = json.loads(self.redis.command("GET", self.key("t:S")))
        self.assertEqual(state, self.state(7, 2))
        self.assertEqual(self.has("o:S"), [b"2 1 out", b"3 1 more"])

    def test_there(self) -> None:
        """So does whether clients are there: their sessions would be given up."""
        one = self.one.store
        one._writer._reserve = 0
        self.send()
        for isThere in (True, False, True):
            one.attend("S", isThere)
            one.commit()
            self.wait()
            self.assertEqual(b"S" in self.has("w"), not isThere)
        self.acknowledge(1)
        one.attend("S", False)
        one.commit()
        self.acknowledge(2)
        self.wait()
        self.assertIn(b"S", self.has("w"))
        self.assertEqual(self.has("o:S"), [b"2 1 out"])
        self.make()

    def test_together(self) -> None:
        """What was caused together with what there is no room for waits with it."""
        one = self.one.store
        one._writer._reserve = 0
        one.put("S", "K", self.state(7, 0))
        one.discard("S", False, 1)
        one.removeRequest("S", 1)
        one.append("S", True, 3, 1, b"x" * 1000)
        one.put("T", "L", {**self.state(1, 3), "over": True})
        one.discard("T", True, 3)
        one.append("T", True, 3, 1, b"more", "S")
        committed = one.commit()
        self.one.settle()
        self.wait()
        self.assertNoResult(committed)
        kept = [len(self.has(key)) for key in ("i:S", "r:S", "o:S", "o:T")]
        self.assertEqual(kept, [1, 1, 3, 3])
        self.make()
        self.wait()
        self.successResultOf(committed)
        kept = [len(self.has(key)) for key in ("i:S", "r:S", "o:S", "o:T")]
        self.assertEqual(kept, [0, 0, 4, 1])

    def test_removes(self) -> None:
        """What adds nothing goes: what is read, and what is over."""
        one = self.one.store
        self.send(3)
        one.discard("S", False, 1)
        one.commit()
        found = self.done(self.one, one.work())
        self.assertEqual(len(found), 1)
        one.read("", found[0], 1)
        one.commit()
        self.one.settle()
        self.wait()
        self.assertEqual(self.has("i:S"), [])

    def test_lost(self) -> None:
        """A session that has moved takes along what it has caused, as ever."""
        one = self.one.store
        one._writer._reserve = 0
        self.send()
        two = self.node("two")
        self.assertIsNotNone(self.done(two, two.store.claim("T", "L")))
        self.acknowledge(1)
        self.wait()
        self.make()
        self.wait()
        self.assertEqual(self.one.lost, [({"T": True}, {"S": [3]})])
        self.assertEqual(self.has("o:S"), [b"1 1 out", b"2 1 out"])

    def test_again(self) -> None:
        """A session that comes back has nothing to do with what was said before."""
        one = self.one.store
        one._writer._reserve = 0
        self.send()
        one.put("S", "K", self.state(0, 1))
        one.discard("S", True, 1)
        two = self.node("two")
        for node in (two, self.one):
            self.assertIsNotNone(self.done(node, node.store.claim("S", "K")))
        self.wait()
        self.assertEqual(self.stored("S").state, self.state(0, 0))
        self.make()

    def test_former(self) -> None:
        """
        What an engine does late that was told on a former connection is not done: its
        number may be something else's.
        """
        one = self.one.store
        one._writer._reserve = 0
        one.append("S", True, 3, 1, b"more")
        one.discard("T", True, 1)
        one.put("T", "L", self.state(0, 1))
        sent = one.commit()
        former = self.one.lines.line
        self.cut()
        self.clock.advance(5)
        while self.one.lines.line._waiting and b"discard" not in b"".join(
            self.one.lines.line._waiting
        ):
            self.one.lines.deliver()
        self.make()
        self.assertIn(b"LINE", former.execute())
        self.one.settle()
        self.wait()
        self.successResultOf(sent)
        self.assertEqual(len(self.has("o:S")), 4)
        self.assertEqual(self.has("o:T"), [b"1 1 out", b"2 1 out"])

    def test_closeStuck(self) -> None:
        """What cannot be is told."""
        self.one.store._writer._reserve = 0
        sent = self.send()
        closed = self.one.store.close()
        self.clock.advance(0)
        self.one.settle()
        for failing in (sent, closed):
            self.failureResultOf(failing, SpoolError)

    def test_flushed(self) -> None:
        """An engine that has lost all is not full."""
        sent = self.send()
        self.redis.command("FLUSHALL")
        self.make()
        self.cut()
        with capturedLogs():
            self.back()
        self.assertIs(self.one.store.failure, None)
        self.failureResultOf(sent, SpoolError)
