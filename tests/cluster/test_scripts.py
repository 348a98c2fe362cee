"""
Tests for L{aesm.cluster.scripts}: each script, in a real engine.
"""

from __future__ import annotations

from typing import Any

from aesm.cluster.scripts import (
    BEGIN,
    CLAIM,
    COMMIT,
    FORMAT,
    HOME,
    INLET,
    JOIN,
    LEASE,
    LOG,
    PAGE,
    SNAPSHOT,
    SNAPSHOTS,
    SWEEP,
    Script,
)
from aesm.errors import SpoolError
from tests.support.engines import EngineTestCase, Node, Subscriber

FOREVER = 10**9  # milliseconds, or bytes


class ScriptTestCase(EngineTestCase):
    """
    Two nodes; sessions S of key K, T and U of key L are the first one's.

    @ivar one: the first node.
    @ivar two: the second one.
    """

    def setUp(self) -> None:
        """Let the sessions begin."""
        super().setUp()
        self.one, self.two = self.node("one"), self.node("two")
        self.numbers = {self.one: 0, self.two: 0}
        for name, peer in ("SK", "TL", "UL"):
            self.assertEqual(self.begin(name, peer), [])

    def run(self, *arguments: Any, **options: Any) -> Any:
        """
        Run a script, if it is one; C{unittest} calls its own so.

        @param arguments: node, script and the script's own.
        """
        if not isinstance(arguments[0], Node):
            return super().run(*arguments, **options)
        node, script, *rest = arguments
        return self.done(node, node.engine.call(script, *rest))

    def fails(self, node: Node, script: Script, *arguments: object) -> str:
        """Run a script that cannot be done; tell why."""
        failing = node.engine.call(script, *arguments)
        node.settle()
        return str(self.failureResultOf(failing, SpoolError).value)

    def begin(self, name: str, peer: str, most: int = 0) -> Any:
        """Let a session begin at the first node."""
        return self.run(self.one, BEGIN, "one", name, peer, "{}", FOREVER, most)

    def claim(self, node: Node, name: str = "S", peer: str = "K", most: int = 0) -> Any:
        """Have a node claim a session."""
        said = (node.engine.node, name, peer, FOREVER, FOREVER, most)
        found = self.run(node, CLAIM, *said)
        if isinstance(found, list):
            self.ended, *found = found
        return found

    def commit(
        self,
        node: Node,
        sessions: list[tuple[str, int]],
        *operations: object,
        number: int | None = None,
        adds: int = 1,
        inlet: int = FOREVER,
        log: int = FOREVER,
        named: int | None = None,
    ) -> Any:
        """
        Have a node commit the next batch, or one with another number.

        @param named: None for a hundred a batch.
        """
        if number is None:
            number = self.numbers[node] = self.numbers[node] + 1
        said = [part for session in sessions for part in session]
        return self.run(
            node,
            COMMIT,
            *(node.engine.node, node.engine.line, number, adds),
            *(FOREVER, inlet, log, 100 * number if named is None else named),
            len(sessions),
            *said,
            *operations,
        )

    def has(self, key: str) -> list[bytes]:
        """List what the engine has under a key that has members in order."""
        found = self.redis.command("ZRANGE", self.key(key), 0, -1)
        assert isinstance(found, list)
        return found

    def field(self, key: str, name: str) -> Any:
        """Tell what the engine has in a field."""
        return self.redis.command("HGET", self.key(key), name)

    def state(self, name: str) -> Any:
        """Tell the state of a session."""
        return self.redis.command("GET", self.key(f"t:{name}"))

    def subscribed(self, channel: str) -> Subscriber:
        """Hear what is published."""
        subscriber = self.redis.subscribed(self.key(channel))
        self.addCleanup(subscriber.close)
        return subscriber

    def full(self) -> None:
        """Have the engine be full."""
        self.redis.command("CONFIG", "SET", "maxmemory", 1)
        self.addCleanup(self.redis.command, "CONFIG", "SET", "maxmemory", 0)


class JoinTests(ScriptTestCase):
    """A node comes."""

    def test_epoch(self) -> None:
        """All nodes get the first one's epoch."""
        self.assertEqual(self.one.engine._epoch, self.two.engine._epoch)
        assert self.one.engine._epoch is not None
        self.assertEqual(len(self.one.engine._epoch), 32)

    def test_again(self) -> None:
        """A node that comes again has its batches."""
        self.commit(self.one, [])
        protocol = self.one.engine._protocol
        said = ("one", "other", FORMAT, self.one.engine.process, self.one.engine.line)
        again = self.one.engine._run(protocol, JOIN, *said)
        self.assertEqual(self.done(self.one, again), self.one.engine._epoch)
        self.assertEqual(self.commit(self.one, [], number=1), [[], []])

    def test_name(self) -> None:
        """No other process can be called so, whose batches would be taken for its."""
        _, started = self.starting("one")
        error = self.failureResultOf(started, SpoolError)
        self.assertIn("one is, or was, another process", error.getErrorMessage())

    def test_format(self) -> None:
        """What another version wrote is left alone."""
        self.redis.command("HSET", self.key("meta"), "format", FORMAT + 1)
        node = Node(self.clock, "three", self.redis.path, 60.0)
        started = node.store.open()
        node.settle()
        failed = self.failureResultOf(started, SpoolError)
        self.assertIn(f"FORMAT {FORMAT + 1}", str(failed.value))

    def test_slot(self) -> None:
        """All keys are in one hash slot, and in the cluster's name."""
        self.commit(self.one, [("S", 1)], "send", "L", "x", "log", "y", "enter", 1)
        keys = self.redis.command("KEYS", "*")
        self.assertGreater(len(keys), 9)
        self.assertTrue(all(key.startswith(b"{aesm:test}:") for key in keys))


class BeginTests(ScriptTestCase):
    """A session begins."""

    def test_name(self) -> None:
        """There is one of a name, whosever it is."""
        self.assertIs(self.begin("S", "other"), None)
        self.assertEqual(self.field("s:S", "peer"), b"K")

    def test_waits(self) -> None:
        """It goes if nothing is heard of its client."""
        self.assertEqual(self.has("w"), [b"S", b"T", b"U"])

    def test_full(self) -> None:
        """None begins in an engine that is full, and nothing is left of it."""
        self.full()
        words = self.fails(self.one, BEGIN, "one", "V", "K", "{}", FOREVER, 0)
        self.assertIn("OOM", words)
        self.assertEqual(self.redis.command("KEYS", self.key("?:V")), [])


class ClaimTests(ScriptTestCase):
    """A client comes to another node."""

    def test_moved(self) -> None:
        """The former node is told, and cannot write any more."""
        heard = self.subscribed("n:one")
        fence, state, page, _ = self.claim(self.two)
        self.assertEqual((fence, state, page), (2, b"{}", [[], [], [], []]))
        self.assertEqual(heard.heard(), b"moved S 2")
        lost, _ = self.commit(self.one, [("S", 1)], "put", 1, "old")
        self.assertEqual(lost, [[1, 1]])
        self.commit(self.two, [("S", 2)], "put", 1, "new")
        self.assertEqual(self.state("S"), b"new")

    def test_has(self) -> None:
        """It is one of the new node's sessions."""
        self.claim(self.two)
        self.assertEqual(self.redis.command("SMEMBERS", self.key("h:two")), [b"S"])
        former = self.redis.command("SMEMBERS", self.key("h:one"))
        self.assertEqual(sorted(former), [b"T", b"U"])

    def test_others(self) -> None:
        """No other key finds it, and it stays where it is."""
        self.assertIs(self.claim(self.two, "S", "L"), None)
        self.assertIs(self.claim(self.two, "none", "K"), None)
        self.assertEqual(self.field("s:S", "fence"), b"1")

    def test_pages(self) -> None:
        """What is kept comes in pages, at least one batch in each."""
        appended = [
            operation
            for number in range(40)
            for direction in "ior"
            for operation in ("append", 1, direction, number, 1, "x" * 10)
        ]
        self.commit(self.one, [("S", 1)], *appended)
        for room in (1, 14, 15, 16, 2000):
            claim = (CLAIM, "two", "S", "K", FOREVER, room, 0)
            _, fence, _, page, _ = self.run(self.two, *claim)
            found: list[list[bytes]] = [[], [], []]
            count = 1
            while True:
                *parts, behind = page
                self.assertTrue(any(parts))
                for kept, more in zip(found, parts, strict=True):
                    kept += more
                if not behind:
                    break
                page = self.run(self.two, PAGE, "S", fence, *behind, room)
                count += 1
            expected = [b"%d 1 %s" % (number, b"x" * 10) for number in range(40)]
            self.assertEqual(found, [expected] * 3)
            self.assertEqual(count > 1, room < 2000)

    def test_lostMeanwhile(self) -> None:
        """Who is no longer the owner reads no more pages."""
        self.claim(self.two)
        page = (PAGE, "S", 2, 1, "-inf", FOREVER)
        self.assertEqual(self.run(self.two, *page), [[], [], [], []])
        self.claim(self.one)
        self.assertIs(self.run(self.two, *page), None)

    def test_full(self) -> None:
        """Clients come back to an engine that is full."""
        self.full()
        self.assertEqual(self.claim(self.two)[0], 2)


class PerKeyTests(ScriptTestCase):
    """As many sessions of a key as there may be: those whose clients came last."""

    def test_begins(self) -> None:
        """The oldest goes, wherever it is, and its node is told."""
        self.claim(self.two, "T", "L")  # so that it came later than U
        heard = self.subscribed("n:one")
        self.assertEqual(self.begin("V", "L", 3), [])
        self.assertEqual(self.begin("W", "L", 3), [b"U"])
        self.assertEqual(heard.heard(), b"replaced U")
        self.assertEqual(self.begin("X", "L"), [])
        self.assertEqual(self.begin("Y", "L", 2), [b"T", b"V", b"W"])
        self.assertEqual(self.has("k:L"), [b"X", b"Y"])
        self.assertEqual(self.redis.command("KEYS", self.key("?:[TUVW]")), [])
        self.assertEqual(self.state("S"), b"{}")

    def test_claimed(self) -> None:
        """One whose client comes back is not the oldest any more."""
        self.assertEqual(self.claim(self.two, "T", "L", 1)[0], 2)
        self.assertEqual(self.ended, [b"U"])
        self.assertEqual(self.has("k:L"), [b"T"])

    def test_rejected(self) -> None:
        """
        Or the only one that is there: others are refused, until it is away, or its node
        is dead; also before it is said to be there.
        """
        self.assertEqual(self.begin("V", "M", -1), [])
        self.assertEqual(self.begin("W", "M", -1), 0)
        self.assertEqual(self.redis.command("KEYS", self.key("?:W")), [])
        session = [("V", 1)]
        self.commit(self.one, session, "enter", 1)
        self.assertEqual(self.begin("W", "M", -1), 0)
        self.assertEqual(self.home("V"), 1)
        self.commit(self.one, session, "wait", 1)
        self.assertEqual(self.begin("W", "M", -1), [])
        self.assertEqual(self.home("V"), 0)
        self.assertEqual(self.claim(self.two, "V", "M", -1), 0)
        self.redis.command("ZADD", self.key("n"), 1, "one")
        self.assertEqual(self.claim(self.two, "V", "M", -1)[0], 2)
        self.assertIs(self.home("V"), None)

    def test_coming(self) -> None:
        """One that is not said to be there keeps others away for ten seconds."""
        self.begin("V", "M", -1)
        came = self.redis.command("ZSCORE", self.key("k:M"), "V")
        until = self.redis.command("HGET", self.key("s:V"), "coming")
        self.assertEqual(round((float(until) - float(came)) / 1000), 10)
        self.redis.command("HSET", self.key("s:V"), "coming", 1)
        self.assertEqual(self.begin("W", "M", -1), [])

    def home(self, name: str) -> Any:
        """Have a client come back to the first node."""
        return self.run(self.one, HOME, name, 1, -1)

    def test_homeFull(self) -> None:
        """Clients come back to an engine that is full."""
        self.begin("V", "M", -1)
        self.full()
        self.assertEqual(self.home("V"), 1)

    def test_clock(self) -> None:
        """That does not depend on the engine's clock."""
        self.redis.command("ZADD", self.key("k:L"), 1e15, "U")
        self.assertEqual(self.begin("V", "L", 2), [b"T"])
        self.assertEqual(self.has("k:L"), [b"U", b"V"])


class CommitTests(ScriptTestCase):
    """A batch."""

    S = [("S", 1)]

    def test_kept(self) -> None:
        """State and messages are kept until they are replaced and discarded."""
        append = ("append", 1, "o")
        self.commit(
            self.one, self.S, "put", 1, "a", *append, 5, 2, "ab", *append, 7, 1, "c"
        )
        self.assertEqual(self.has("o:S"), [b"5 2 ab", b"7 1 c"])
        for before, kept in ((6, 2), (7, 1), (8, 0)):
            self.commit(self.one, self.S, "discard", 1, "o", before)
            self.assertEqual(len(self.has("o:S")), kept)
        self.assertEqual(self.state("S"), b"a")

    def test_requests(self) -> None:
        """A request is there until it is removed, by its number alone."""
        append = ("append", 1, "r")
        self.commit(self.one, self.S, *append, 5, 1, "a", *append, 7, 1, "b")
        self.commit(self.one, self.S, "remove", 1, 6, "remove", 1, 5)
        self.assertEqual(self.has("r:S"), [b"7 1 b"])

    def test_bytes(self) -> None:
        """Messages are any bytes."""
        frames = bytes(range(256)) * 20
        self.commit(self.one, self.S, "append", 1, "i", 0, 1, frames)
        self.assertEqual(self.has("i:S"), [b"0 1 " + frames])

    def test_hadIt(self) -> None:
        """A batch that comes again changes nothing, and has the same reply."""
        first = self.commit(self.one, [("S", 1)], "log", "x", "send", "L", "y")
        again = self.commit(self.one, [], "log", "z", number=1)
        self.assertEqual(again, first)
        self.assertEqual(first, [[], [1, 101, 2, 0]])
        self.assertEqual(len(self.has("log")), 1)

    def test_hadItLongAgo(self) -> None:
        """One that comes much later changes nothing."""
        for _ in range(3):
            self.commit(self.one, [])
        self.commit(self.one, [], "log", "x", number=1)
        self.assertEqual(self.has("log"), [])

    def test_writesAgain(self) -> None:
        """To have had it writes something, for a WAIT behind it."""
        self.commit(self.one, [])
        before = self.offset()
        self.commit(self.one, [], number=1)
        self.assertGreater(self.offset(), before)

    def offset(self) -> int:
        """Tell how often the engine has changed something."""
        info = self.redis.command("INFO", "persistence").decode()
        (line,) = (x for x in info.splitlines() if x.startswith("rdb_changes_since"))
        return int(line.partition(":")[2])

    def test_missing(self) -> None:
        """A batch behind one that is missing is not taken."""
        self.commit(self.one, [])
        self.assertEqual(self.commit(self.one, [], "log", "x", number=3), 1)
        self.assertEqual(self.has("log"), [])

    def test_forgotten(self) -> None:
        """None of a node is that the engine does not know any more, nor its first."""
        self.redis.command("DEL", self.key("n:one"))
        self.assertEqual(self.commit(self.one, [], "log", "x"), -1)
        self.assertEqual(self.has("log"), [])

    def test_stale(self) -> None:
        """
        Nothing is done that names a session which is another node's, or is not there;
        without it, it is done with the same number.
        """
        self.claim(self.two)
        for name, there in (("S", 1), ("none", 0)):
            said = ("put", 1, "new", "log", "x")
            lost = self.commit(self.one, [("T", 1), (name, 1)], *said, number=1)
            self.assertEqual(lost, [[[2, there]], []])
        self.assertEqual(self.state("T"), b"{}")
        self.assertEqual(self.has("log"), [])
        reply = self.commit(self.one, [("T", 1)], *said, number=1)
        self.assertEqual(reply, [[], [1, 101]])
        self.assertEqual(self.state("T"), b"new")

    def test_gone(self) -> None:
        """What goes to a session that there is not is left out."""
        self.commit(self.one, self.S, "drop", 1)
        lost, _ = self.commit(self.one, self.S, "append", 1, "o", 0, 1, "a")
        self.assertEqual(lost, [[1, 0]])
        self.assertEqual(self.redis.command("KEYS", self.key("?:S")), [])

    def test_drop(self) -> None:
        """Nothing is left of a session that is dropped."""
        self.commit(
            self.one,
            self.S,
            *("append", 1, "o", 0, 1, "a", "append", 1, "i", 0, 1, "a"),
            *("send", "K", "x"),
        )
        self.commit(self.one, self.S, "drop", 1)
        self.assertEqual(self.redis.command("KEYS", self.key("?:S")), [])
        self.assertNotIn(b"S", self.has("w"))
        self.assertNotIn(b"S", self.has("k:K"))
        self.assertNotIn(b"S", self.redis.command("SMEMBERS", self.key("h:one")))

    def test_places(self) -> None:
        """A session waits while its client is not there."""
        self.commit(self.one, self.S, "enter", 1)
        self.assertNotIn(b"S", self.has("w"))
        self.commit(self.one, self.S, "wait", 1)
        self.assertIn(b"S", self.has("w"))

    def test_release(self) -> None:
        """One that is released is nobody's, and waits."""
        self.commit(self.one, self.S, "enter", 1, "put", 1, "a")
        self.commit(self.one, self.S, "release", 1)
        self.assertIn(b"S", self.has("w"))
        self.assertNotIn(b"S", self.redis.command("SMEMBERS", self.key("h:one")))
        self.assertEqual(self.commit(self.one, self.S, "put", 1, "b")[0], [[1, 1]])
        self.assertEqual(self.claim(self.two)[:2], [3, b"a"])

    def test_full(self) -> None:
        """
        An engine that is full takes nothing that adds something, all of it or nothing,
        and all that makes room.
        """
        append = ("append", 1, "o", 0, 1, "a")
        self.commit(self.one, self.S, *append)
        self.full()
        self.assertEqual(self.commit(self.one, [], number=1), [[], []])
        said = ("one", self.one.engine.line, 2, 1, *[FOREVER] * 3, 0, 1, "S", 1)
        more = ("discard", 1, "o", 1, "put", 1, "new", "append", 1, "o", 1, 1, "b")
        self.assertIn("OOM", self.fails(self.one, COMMIT, *said, *more))
        self.assertEqual(self.has("o:S"), [b"0 1 a"])
        self.assertEqual(self.state("S"), b"{}")
        self.commit(self.one, self.S, "put", 1, "c", "discard", 1, "o", 1, adds=0)
        self.assertEqual(self.has("o:S"), [])
        self.assertEqual(self.state("S"), b"c")


class SendTests(ScriptTestCase):
    """What goes to a key."""

    def send(self, peer: str, data: str, **options: Any) -> Any:
        """Send something; S caused it."""
        reply = self.commit(self.one, [("S", 1)], "send", peer, data, **options)
        return reply[1]

    def test_all(self) -> None:
        """All sessions of the key have it, and their nodes are told."""
        self.claim(self.two, "T", "L")
        one, two = self.subscribed("n:one"), self.subscribed("n:two")
        self.assertEqual(self.send("L", "x"), [2, 0])
        self.assertEqual(two.heard(), b"inlet T 1 one:101 x")
        self.assertEqual(one.heard(), b"inlet U 1 one:101 x")
        self.assertEqual(self.send("none", "x"), [0, 0])

    def test_bound(self) -> None:
        """A session that has no room for more is left out."""
        self.assertEqual(self.send("K", "a" * 10), [1, 0])
        (entry,) = self.has("q:S")
        for bound, results in ((37, [0, 1]), (38, [1, 0])):
            self.assertEqual(self.send("K", "b" * 12, inlet=bound), results)
        self.assertEqual(len(entry), 18)
        self.assertEqual(self.field("s:S", "held"), b"38")

    def test_took(self) -> None:
        """What was taken by its position and name makes room, once."""
        for data in "ab":
            self.send("K", data)
        took = ("took", 1, 1, "one:101")
        for _ in range(2):
            self.commit(self.one, [("S", 1)], *took)
        self.commit(self.one, [("S", 1)], "took", 1, 2, "other:101")
        self.assertEqual(self.has("q:S"), [b"one:201 b"])
        self.assertEqual(self.field("s:S", "held"), b"9")

    def test_had(self) -> None:
        """
        What was taken is gone by whichever position, and does not come again, also not
        to the next node.
        """
        for data in "abcd":
            self.send("K", data)
        self.commit(self.one, [("S", 1)], "had", 1, "one", 101)
        self.assertEqual(self.has("q:S"), [b"one:201 b", b"one:301 c", b"one:401 d"])
        self.commit(self.one, [("S", 1)], "took", 1, 9, "one:301")
        self.assertEqual(self.has("q:S"), [b"one:401 d"])
        self.assertEqual(self.field("s:S", "held"), b"9")
        self.assertEqual(self.send("K", "c", named=300), [1, 0])
        self.assertEqual(self.has("q:S"), [b"one:401 d"])
        self.redis.command("HSET", self.key("s:S"), "from:gone", 7)
        self.assertEqual(self.claim(self.two)[-1], [b"one", b"301"])
        self.assertIs(self.field("s:S", "from:gone"), None)

    def test_skip(self) -> None:
        """What is left out of a batch leaves the names of the others as they are."""
        reply = self.commit(self.one, [], "skip", "send", "K", "x")
        self.assertEqual(reply[1], [0, 0, 1, 0])
        self.assertEqual(self.has("q:S"), [b"one:102 x"])

    def test_read(self) -> None:
        """It is read from a position on, as much as there is room for."""
        for data in "abc":
            self.send("K", data)
        entries = [b"1", b"one:101 a", b"2", b"one:201 b", b"3", b"one:301 c"]
        for after, room, found in (
            (0, FOREVER, entries),
            (1, FOREVER, entries[2:]),
            (0, 9, entries[:2]),
            (0, 10, entries[:4]),
            (3, FOREVER, []),
        ):
            self.assertEqual(self.run(self.one, INLET, "S", after, room), found)


class LogTests(ScriptTestCase):
    """What goes to all nodes."""

    def append(self, *data: str, **options: Any) -> list[int]:
        """Append entries; tell their positions."""
        said = [part for each in data for part in ("log", each)]
        results = self.commit(self.one, [], *said, **options)[1]
        assert isinstance(results, list)
        return results[::2]

    def read(self, after: int, name: str = "", room: int = FOREVER) -> Any:
        """Read it at the other node."""
        return self.run(self.two, LOG, after, name, room)

    def test_order(self) -> None:
        """All read the same, in order, and are told: all of a commit at once."""
        heard = self.subscribed("log")
        self.assertEqual(self.append("a", "b"), [1, 2])
        self.assertEqual(heard.heard(), b"1 9 9\none:101 aone:102 b")
        entries = [b"1", b"one:101 a", b"2", b"one:102 b"]
        self.assertEqual(self.read(0), [1, 2, entries])
        self.assertEqual(self.read(1, "one:101"), [1, 2, entries[2:]])
        self.assertEqual(self.read(2, "one:102"), [1, 2, []])
        self.assertEqual(self.read(0, room=1), [1, 2, entries[:2]])

    def test_empty(self) -> None:
        """There may be nothing."""
        self.assertEqual(self.read(0), [1, 0, []])

    def test_bound(self) -> None:
        """
        It keeps so many bytes, 128 more for each entry, and the newest one; who reads
        too late is told.
        """
        size = len("one:101 a") + 128
        for bound, first in ((3 * size, 1), (3 * size - 1, 2)):
            self.redis.command("DEL", self.key("log"))
            self.redis.command("HDEL", self.key("meta"), "position", "held")
            for data in "abc":
                self.append(data, log=bound)
            self.assertEqual(self.read(first - 1)[:2], [first, 3])
            self.assertEqual(len(self.read(first - 1)[2]), 2 * (4 - first))
        self.assertEqual(self.read(0), [2, 3])
        self.append("x" * 100, log=1)
        self.assertEqual(self.read(1), [4, 4])
        self.assertEqual(len(self.read(3)[2]), 2)

    def test_backInTime(self) -> None:
        """Who has read something else at its position is told."""
        self.append("a")
        self.assertIs(self.read(1, "one:102"), None)
        self.assertIs(self.read(1, "one:1:"), None)
        self.assertIs(self.read(2), None)


class LeaseTests(ScriptTestCase):
    """Nodes that live, and that do not."""

    LEASE, GRACE = 10_000, 60_000

    def lease(self, node: Node, lease: int = LEASE) -> Any:
        """Renew a lease."""
        said = (node.engine.node, lease, self.GRACE, FOREVER, "{}")
        return self.run(node, LEASE, *said)

    def sweep(self, room: int = 256, ended: int = 0) -> Any:
        """Clean up."""
        said = (self.LEASE, self.GRACE, room, ended)
        count, self.ends = self.run(self.two, SWEEP, *said)
        return count

    def calm(self) -> None:
        """Let the first grace be over."""
        for node in (self.one, self.two):
            self.lease(node)
        self.redis.command("HSET", self.key("meta"), "calm", 1)

    def die(self, name: str) -> None:
        """Let a node's lease have run out."""
        self.redis.command("ZADD", self.key("n"), 1, name)

    def waitLong(self, *names: str) -> None:
        """Let sessions have waited too long."""
        for name in names:
            self.redis.command("ZADD", self.key("w"), 1, name)

    def test_held(self) -> None:
        """A node learns whether it was given up."""
        self.calm()
        self.assertEqual(self.lease(self.one), [1, 0])
        self.die("one")
        self.assertEqual(self.lease(self.one), [0, 0])
        self.assertEqual(self.lease(self.one), [1, 0])

    def test_deadNode(self) -> None:
        """The sessions of a node that is dead wait; those that wait already go on."""
        self.calm()
        self.commit(self.one, [("S", 1)], "enter", 1)
        deadline = self.redis.command("ZSCORE", self.key("w"), "T")
        self.die("one")
        self.assertEqual(self.sweep(room=2), 2)
        self.assertEqual(self.sweep(), 1)
        self.assertEqual(self.sweep(), 0)
        self.assertIn(b"S", self.has("w"))
        self.assertEqual(self.redis.command("ZSCORE", self.key("w"), "T"), deadline)
        self.assertEqual(self.has("n"), [b"two"])

    def test_deadNodeOfOthers(self) -> None:
        """One that is another node's by now does not wait, wherever it was noted."""
        self.claim(self.two)
        self.calm()
        self.commit(self.two, [("S", 2)], "enter", 1)
        self.redis.command("SADD", self.key("h:one"), "S")
        self.die("one")
        self.sweep()
        self.assertEqual(self.has("w"), [b"T", b"U"])

    def test_goesOn(self) -> None:
        """A node that was given up and lives goes on with its sessions."""
        self.calm()
        self.die("one")
        self.sweep()
        self.commit(self.one, [("S", 1)], "put", 1, "a", "enter", 1)
        self.assertEqual(self.state("S"), b"a")
        self.assertNotIn(b"S", self.has("w"))
        self.assertIn(b"S", self.redis.command("SMEMBERS", self.key("h:one")))

    def test_left(self) -> None:
        """A node that leaves is given up at once, and there is no new grace for all."""
        self.calm()
        self.lease(self.one, 0)
        self.assertEqual(self.field("meta", "calm"), b"1")
        self.die("one")  # it is, from the next millisecond on
        self.assertEqual(self.sweep(), 3)

    def test_expired(self) -> None:
        """Sessions that have waited too long go, so many at a time; nodes are told."""
        self.calm()
        heard = self.subscribed("n:one")
        self.waitLong("S", "T")
        self.assertEqual(self.sweep(room=1), 1)
        self.assertEqual(heard.heard(), b"gone S")
        self.assertEqual(self.sweep(), 1)
        self.assertEqual(self.redis.command("KEYS", self.key("?:[ST]")), [])
        self.assertEqual(self.has("w"), [b"U"])

    def test_expiredUnread(self) -> None:
        """
        Of which something is unread those do not at once whose node lives: it is asked
        to end them, and has a lease for that, each time that they wait.
        """
        self.calm()
        heard = self.subscribed("n:one")
        self.commit(self.one, [("S", 1)], "append", 1, "i", 0, 1, "unread")
        for _ in range(2):
            self.waitLong("S")
            self.full()
            self.assertEqual(self.sweep(), 1)
            self.redis.command("CONFIG", "SET", "maxmemory", 0)
            self.assertEqual(heard.heard(), b"expired S")
            self.assertEqual(self.sweep(), 0)
            self.assertEqual(self.field("s:S", "node"), b"one")
            self.commit(self.one, [("S", 1)], "wait", 1)
        self.waitLong("S")
        self.assertEqual(self.sweep(), 1)
        self.waitLong("S")
        self.assertEqual(self.sweep(), 1)
        self.assertEqual([heard.heard(), heard.heard()], [b"expired S", b"gone S"])
        self.assertEqual(self.field("s:S", "node"), b"")

    def test_expiredOver(self) -> None:
        """What its node has ended waits for nobody."""
        self.commit(self.one, [("S", 1)], "append", 1, "i", 0, 1, "unread", "over", 1)
        self.assertEqual(self.has("w"), [b"T", b"U"])

    def test_expiredDeadNode(self) -> None:
        """Where their node is dead they go as others do."""
        self.calm()
        self.commit(self.one, [("S", 1)], "append", 1, "i", 0, 1, "unread")
        self.die("one")
        self.waitLong("S")
        self.sweep()
        self.assertEqual(self.field("s:S", "node"), b"")

    def test_away(self) -> None:
        """None goes in the first grace after nobody could reach the engine."""
        self.calm()
        self.waitLong("S")
        self.die("one")
        self.redis.command("HINCRBY", self.key("meta"), "pulse", -self.LEASE - 1)
        self.assertEqual(self.sweep(), 0)
        self.lease(self.two)
        self.assertEqual(self.sweep(), 0)
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.assertEqual(self.sweep(), 4)

    def test_clock(self) -> None:
        """None goes because the engine's clock was set back."""
        self.calm()
        self.waitLong("S")
        self.redis.command("HINCRBY", self.key("meta"), "pulse", 2 * self.LEASE)
        self.assertEqual(self.sweep(), 0)
        self.lease(self.two)
        self.assertEqual(self.sweep(), 0)

    def test_setBack(self) -> None:
        """
        Where it was set back, nothing is given up so much later: what was due just
        before goes after the first grace, and nodes that died by then do.
        """
        self.calm()
        back = 3_600_000
        seconds = int(self.redis.command("TIME")[0])
        due = seconds * 1000 + back - 1
        self.redis.command("HINCRBY", self.key("meta"), "pulse", back)
        self.redis.command("ZADD", self.key("w"), due, "T")
        self.redis.command("ZADD", self.key("n"), due, "one")
        self.assertEqual(self.lease(self.two), [0, 0])
        self.assertEqual(self.sweep(), 0)
        until = float(self.redis.command("ZSCORE", self.key("n"), "two"))
        self.assertGreaterEqual(until, due + self.LEASE)
        self.redis.command("HSET", self.key("meta"), "calm", 1)
        self.assertGreater(self.sweep(), 0)
        self.assertEqual(self.has("n"), [b"two"])
        self.assertNotIn(b"T", self.has("w"))

    def test_remembered(self) -> None:
        """What the engine knows of a node's batches is for a while."""
        self.lease(self.one)
        self.assertGreater(self.redis.command("PTTL", self.key("n:one")), 0)
        self.commit(self.one, [])
        self.assertGreater(self.redis.command("PTTL", self.key("n:one")), 0)

    def test_full(self) -> None:
        """All of this goes on while the engine is full."""
        self.calm()
        self.waitLong("S")
        self.full()
        self.lease(self.one)
        self.assertEqual(self.sweep(), 1)

    def test_ended(self) -> None:
        """
        Where somebody wants to know of sessions that are over, they are told of until
        one node has said so, in the log; another one, or the same, does not then.
        """
        self.calm()
        self.waitLong("S")
        self.sweep()
        self.assertEqual(self.ends, [])
        self.assertEqual(self.redis.command("EXISTS", self.key("gone")), 0)
        self.waitLong("T")
        self.assertEqual(self.sweep(ended=FOREVER), 1)
        for _ in range(2):
            self.assertEqual(self.ends, [b"T"])
            self.sweep(ended=FOREVER)
        results = self.commit(self.two, [], "gone", "T", "over", adds=0)[1]
        self.assertEqual(results, [1, 101])
        again = self.commit(self.one, [], "gone", "T", "x", "gone", "U", "y")[1]
        self.assertEqual(again, [0, 0, 0, 0])
        self.assertEqual(self.has("log"), [b"two:101 over"])
        self.sweep(ended=FOREVER)
        self.assertEqual(self.ends, [])

    def test_ends(self) -> None:
        """
        So it is for all ways in which a session ends: it is left, replaced, or not come
        back to; also what is unread of it does not make it end again.
        """
        self.calm()
        self.sweep(ended=FOREVER)
        self.commit(self.one, [("S", 1)], "drop", 1, "gone", "S", "over")
        self.assertEqual(self.has("log"), [b"one:101 over"])
        self.commit(self.one, [("U", 1)], "append", 1, "i", 1, 1, "x")
        heard = self.subscribed("n:one")
        self.begin("V", "L", most=1)
        said = [heard.heard(), heard.heard()]
        self.assertEqual(said, [b"replaced T", b"newer U"])
        for _ in range(2):  # its node is asked to end it, and does not
            self.sweep(ended=FOREVER)
            self.assertEqual(self.ends, [b"T"])
            self.waitLong("U")
        self.sweep(ended=FOREVER)
        self.assertEqual(sorted(self.ends), [b"T", b"U"])
        self.commit(self.one, [], "gone", "T", "over", "gone", "U", "over")
        self.commit(self.one, [("U", 2)], "drop", 1)
        self.waitLong("V")
        self.redis.command("EXPIRE", self.key("replica"), 0)
        self.sweep()
        self.sweep(ended=FOREVER)
        self.assertEqual(self.ends, [])

    def test_endedAgain(self) -> None:
        """
        A name is not taken again before that is said; who has the session all the same,
        after the engine went back, goes on with it.
        """
        self.calm()
        self.sweep(ended=FOREVER)
        self.commit(self.one, [("S", 1), ("T", 1)], "drop", 1, "drop", 2)
        self.assertIs(self.begin("S", "K"), None)
        self.commit(self.one, [("S", 1)], "restore", 1, "K", 1, "put", 1, "x", number=0)
        self.sweep(ended=FOREVER)
        self.assertEqual(self.ends, [b"T"])
        self.commit(self.one, [], "gone", "T", "over")
        self.assertEqual(self.begin("T", "L"), [])

    def test_endedFull(self) -> None:
        """That is said also where there is no room."""
        self.calm()
        self.sweep(ended=FOREVER)
        self.waitLong("S")
        self.full()
        self.sweep(ended=FOREVER)
        self.assertEqual(self.ends, [b"S"])
        said = ("drop", 1, "gone", "T", "over", "gone", "S", "over")
        self.commit(self.one, [("T", 1)], *said, adds=0)
        self.assertEqual(len(self.has("log")), 2)


class SnapshotTests(ScriptTestCase):
    """What replicas made of the log."""

    def setUp(self) -> None:
        """Have a log."""
        super().setUp()
        said = [part for each in "abcdef" for part in ("log", each)]
        self.commit(self.one, [], *said)

    def write(self, newest: int, position: int, name: str, data: str) -> Any:
        """Store one."""
        return self.run(self.one, SNAPSHOT, newest, position, name, data)

    def read(self) -> list[bytes]:
        """Read those from which the log goes on."""
        found: list[bytes] = self.run(self.two, SNAPSHOTS, 1000)
        return found

    def test_two(self) -> None:
        """
        There are two, the newest ones; who does not know the newest has none taken.
        """
        self.assertEqual(self.read(), [])
        self.assertEqual(self.write(0, 2, "one:102", "A"), 2)
        self.assertEqual(self.write(0, 3, "one:103", "B"), 2)
        self.assertEqual(self.write(2, 4, "one:104", "C"), 4)
        both = [b"one:102 A", b"2", b"one:104 C", b"4"]
        self.assertEqual(self.read(), both)
        self.assertEqual(self.write(4, 5, "one:105", "D"), 5)
        self.assertEqual(self.read(), [*both[2:], b"one:105 D", b"5"])

    def test_other(self) -> None:
        """One of which the last entry is not in the log is not taken."""
        for position, name in ((2, "one:101"), (2, "one:1:"), (7, "one:107")):
            self.assertEqual(self.write(0, position, name, "A"), 0)
        self.assertEqual(self.read(), [])

    def test_goesOn(self) -> None:
        """One behind which the log has dropped something is of no use."""
        self.write(0, 2, "one:102", "A")
        self.write(2, 5, "one:105", "B")
        for first, count in ((3, 2), (4, 1), (6, 1), (7, 0)):
            self.redis.command("ZREMRANGEBYSCORE", self.key("log"), "-inf", f"({first}")
            if first == 7:
                self.commit(self.one, [], "log", "g", "log", "h")
                self.redis.command("ZREM", self.key("log"), "one:201 g")
            self.assertEqual(len(self.read()), 2 * count)

    def test_wanted(self) -> None:
        """Who reads them wants to know of sessions that end, for a while."""
        self.read()
        left = self.redis.command("PTTL", self.key("replica"))
        self.assertIn(left, range(1, 1001))
        self.full()
        self.read()


class EpochTests(ScriptTestCase):
    """Data that are not those that a node knows."""

    def test_all(self) -> None:
        """No script does anything to them."""
        self.redis.command("HSET", self.key("meta"), "epoch", "other")
        for script in (BEGIN, CLAIM, PAGE, COMMIT, LEASE, SWEEP, INLET, LOG, SNAPSHOT):
            node = self.node(f"with {script.name}")
            node.engine._epoch = b"former"
            self.assertIn("EPOCH", self.fails(node, script))
