"""
Tests for L{aesm.commands.history}.
"""

from __future__ import annotations

import gzip
import os
import random
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from aesm import PrivateKey
from aesm.commands.activity import MAX_LINE, ActivityFile
from aesm.commands.history import (
    Broken,
    Query,
    asJSON,
    entriesOf,
    isAbout,
    linesOf,
    moment,
    shown,
    verified,
    whoWasIn,
)
from aesm.errors import KeyFileError
from aesm.server.registry import Connections
from tests.messages.test_resume import ResumeTestCase

KEY = PrivateKey.generate().publicKey
EVIL = "\x1b[2J\u202e\x7f\r\n"


def entry(event: str = "lost", when: float = 1.0, **fields: Any) -> dict[str, Any]:
    """Make an entry."""
    return {"time": when, "event": event, "seq": 1, "prev": None} | fields


class HistoryTestCase(SynchronousTestCase):
    """A log of some entries."""

    def setUp(self) -> None:
        """Write them."""
        self.path = Path(self.mktemp())
        self.write(*range(6))

    def write(self, *numbers: int, path: Path | None = None) -> None:
        """Write entries, as a process does."""
        file = ActivityFile(str(path or self.path))
        for number in numbers:
            with capturedLogs() as events:
                Connections().record(("10.0.0.1", number), "lost", float(number), "why")
            file(events[0])
        os.close(file._file)

    def lines(self) -> list[bytes]:
        """Read the lines."""
        return self.path.read_bytes().splitlines(keepends=True)

    def verify(self, *paths: Path, expect: str | None = None) -> list[str]:
        """Verify the file, or others."""
        return [*verified(linesOf(map(str, paths or (self.path,))), expect)]

    def assertBroken(self, where: str, lines: list[bytes], **more: str) -> None:
        """Check that lines in place of the file's are found to be others."""
        self.path.write_bytes(b"".join(lines))
        error = self.assertRaises(Broken, self.verify, **more)
        self.assertIn(where, str(error))


class ReadTests(HistoryTestCase):
    """L{linesOf} reads files of any kind."""

    def test_order(self) -> None:
        """The oldest entry comes first, in whatever order files are named."""
        old = self.path.rename(self.path.with_name("old"))
        packed = self.path.with_name("old.gz")
        packed.write_bytes(gzip.compress(old.read_bytes()))
        self.write(6, 7)
        for paths in ([old, self.path], [self.path, old], [self.path, packed]):
            entries = entriesOf(linesOf(map(str, paths)), self.fail)
            self.assertEqual([e["time"] for e in entries], [*range(8)])

    def test_others(self) -> None:
        """What is no entry is left out, and told of."""
        lines = self.lines()
        self.path.write_bytes(
            b"".join([*(b"no\n" for _ in range(20)), *lines, b"x" * (3 * MAX_LINE)])
        )
        said: list[str] = []
        entries = [*entriesOf(linesOf([str(self.path)]), said.append)]
        self.assertEqual(len(entries), 6)
        (line,) = said
        self.assertIn("line 1 is no entry", line)
        self.assertIn("23 in all", line)

    def test_flat(self) -> None:
        """A line that does not end is not kept."""
        packed = self.path.with_name("bomb.gz")
        with gzip.open(packed, "wb") as file:
            for _ in range(64):
                file.write(b"x" * MAX_LINE)
        longest = max(len(line.raw) for line in linesOf([str(packed)]))
        self.assertEqual(longest, MAX_LINE)
        where = {line.where for line in linesOf([str(packed)])}
        self.assertEqual(where, {f"{packed} line 1"})

    def test_unreadable(self) -> None:
        """What cannot be read is said."""
        cut = self.path.with_name("cut.gz")
        cut.write_bytes(gzip.compress(self.path.read_bytes())[:-20])
        bad = self.path.with_name("bad.gz")
        bad.write_bytes(b"\x1f\x8b" + bytes(100))
        for path in (cut, bad, self.path.with_name("none"), self.path.parent):
            error = self.assertRaises(KeyFileError, self.verify, path)
            self.assertIn(f"cannot read {path}: ", str(error))


class VerifyTests(HistoryTestCase):
    """L{verified} finds what was done to a log."""

    def test_whole(self) -> None:
        """What stands in it, and which hash it ends with."""
        last = sha256(self.lines()[-1]).hexdigest()
        (said,) = self.verify()
        self.assertEqual(
            said, f"6 entries, 1 to 6, whole; the hash of the last is {last}"
        )

    def test_changed(self) -> None:
        """Any byte of any line but the last, of which nothing later tells."""
        lines = self.lines()
        chance = random.Random(0)
        for number in range(5):
            for position in chance.sample(range(len(lines[number])), 40):
                changed = bytearray(lines[number])
                changed[position] ^= 1 << chance.randrange(8)
                others = [*lines[:number], bytes(changed), *lines[number + 1 :]]
                self.path.write_bytes(b"".join(others))
                error = str(self.assertRaises(Broken, self.verify))
                self.assertRegex(error, f" line ({number + 1}|{number + 2}|1)\\b")

    def test_takenOut(self) -> None:
        """Any line between the first and the last."""
        lines = self.lines()
        for number in range(1, 5):
            where = f"line {number + 1}: entry {number + 2} does not go on"
            self.assertBroken(where, lines[:number] + lines[number + 1 :])

    def test_putIn(self) -> None:
        """An entry of elsewhere, the same once more, something else, an empty line."""
        lines = self.lines()
        other = lines[2].replace(b"why", b"because")
        for extra in (other, lines[0], lines[1], b"something\n", b"\n"):
            for number in range(1, 6):
                self.assertBroken(
                    f"line {number + 1}", [*lines[:number], extra, *lines[number:]]
                )
        self.assertBroken("line 7", [*lines, b"something\n"])

    def test_moved(self) -> None:
        """Lines that have changed places."""
        lines = self.lines()
        lines[2:4] = lines[3], lines[2]
        self.assertBroken("line 3", lines)

    def test_files(self) -> None:
        """Files that go on with one another, and one between them that is missing."""
        first = self.path.rename(self.path.with_name("first"))
        file = ActivityFile(str(first))
        for number in (6, 7):
            with capturedLogs() as events:
                Connections().record("unix-1", "lost", float(number), "")
            first.with_name(f"file{number}").write_bytes(b"")
            file._path = first.with_name(f"file{number}")
            file.reopen()
            file(events[0])
        os.close(file._file)
        second, third = (first.with_name(f"file{number}") for number in (6, 7))
        for paths, expected in (
            ((third, first, second), "10 entries, 1 to 10, whole"),
            ((second, third), "4 entries, 7 to 10, whole"),
        ):
            (said,) = self.verify(*paths)
            self.assertEqual(said.partition(";")[0], expected)
        error = self.assertRaises(Broken, self.verify, first, third)
        self.assertIn("file7 line 1: entry 9 does not go on", str(error))

    def test_newChain(self) -> None:
        """A chain may begin anew, as at standard output; that is said."""
        other = self.path.with_name("other")
        self.write(7, 8, path=other)
        lines = other.read_bytes().splitlines(keepends=True)
        self.path.write_bytes(b"".join(self.lines() + lines))
        first, last = self.verify()
        self.assertIn("line 7: a new chain begins", first)
        self.assertIn("8 entries", last)
        twice = self.lines() + lines
        self.assertBroken("line 9 stands there for the second time", twice)

    def test_expected(self) -> None:
        """
        A hash that was kept elsewhere shows that all up to it is as it was then: what
        was cut off, or made anew.
        """
        lines = self.lines()
        kept = sha256(lines[3]).hexdigest()
        self.verify(expect=kept)
        self.assertBroken("no entry has the hash", lines[:3], expect=kept)
        self.path.unlink()
        self.write(*range(1, 7))
        self.assertBroken("no entry has the hash", self.lines(), expect=kept)

    def test_nothing(self) -> None:
        """An empty file, or one of something else, is not whole."""
        self.assertBroken("there are no entries", [])
        self.assertBroken("there are no entries", [b"something\n"])

    def test_beingWritten(self) -> None:
        """The last line may be half there."""
        lines = self.lines()
        self.path.write_bytes(b"".join(lines)[:-30])
        first, last = self.verify()
        self.assertIn("line 6 is torn, or is being written", first)
        self.assertIn("5 entries", last)


class AskTests(SynchronousTestCase):
    """Who, and when."""

    def setUp(self) -> None:
        """Be somewhere."""
        former = os.environ.get("TZ")

        def zone(name: str | None) -> None:
            """Move."""
            os.environ.pop("TZ", None)
            if name is not None:
                os.environ["TZ"] = name
            time.tzset()

        zone("EST5")
        self.addCleanup(zone, former)

    def test_moment(self) -> None:
        """Times of this place, of others, of the day, and ago."""
        now = 1_000_000_000.0  # 2001-09-08 20:46:40 here
        for text, expected in (
            ("2001-09-08T20:46:40", 0),
            ("2001-09-08 20:46", -40),
            ("2001-09-09T01:46:40Z", 0),
            ("2001-09-09T02:46:40+01:00", 0),
            ("2001-09-08", -(20 * 3600 + 46 * 60 + 40)),
            ("20:46", -40),
            ("20:46:40", 0),
            ("20:47", 20 - 86400),
            ("3:00", -(17 * 3600 + 46 * 60 + 40)),
            ("90s", -90),
            ("15m", -900),
            ("2h", -7200),
            ("7d", -604_800),
            ("0s", 0),
        ):
            self.assertEqual(moment(text, now), now + expected, text)

    def test_noMoment(self) -> None:
        """Anything else is refused, with what would be right."""
        for text in ("", "2", "2 h", "yesterday", "25:00", "3:60", "2001-13-01"):
            with self.assertRaisesRegex(ValueError, "03:30, or 2h"):
                moment(text, 1e9)

    def test_about(self) -> None:
        """A name, a key or its beginning, a session, an address, a host."""
        about = entry(
            address="192.0.2.1:5000", peer=str(KEY), name="alice", session="ab" * 16
        )
        for who, expected in (
            ("alice", True),
            ("alic", False),
            (str(KEY), True),
            (str(KEY)[:6], True),
            (str(KEY)[:5], False),
            ("192.0.2.1", True),
            ("192.0.2.1:5000", True),
            ("192.0.2.1:5001", False),
            ("192.0.2", False),
            ("ab" * 16, True),
            ("None", False),
        ):
            self.assertEqual(isAbout(who, about), expected, who)
        for address, who, expected in (
            ("192.0.2.1", "192.0.2.1", True),
            ("2001:db8::/64", "2001:db8::7", True),
            ("2001:db8::/64", "2001:db8:1::7", False),
            ("2001:db8::7:5000", "2001:db8::7", True),
            ("other hosts", "192.0.2.1", True),
            ("other hosts", "alice", False),
            ("unix-7", "unix-7", True),
        ):
            self.assertEqual(isAbout(who, entry(address=address)), expected, address)

    def test_query(self) -> None:
        """What was between two times, of one event, and what concerns all."""
        entries = [
            entry("started", 1),
            entry("accepted", 2, name="alice"),
            entry("accepted", 2, name="bob"),
            entry("lost", 3, name="alice"),
            entry("stopped", 4),
        ]
        for query, expected in (
            (Query(), entries),
            (Query(since=2), entries[1:]),
            (Query(until=3), entries[:4]),
            (Query(since=2, until=2), entries[1:3]),
            (Query(who="alice"), [*entries[:2], *entries[3:]]),
            (Query(event="lost"), entries[3:4]),
            (Query(who="alice", event="accepted"), entries[1:2]),
        ):
            self.assertEqual([*query.of(entries)], expected)

    def test_upgrade(self) -> None:
        """Who was in still is when one process takes over from another."""
        entries = [
            entry("started", 1, pid=7),
            entry("accepted", 2, name="alice", address="192.0.2.1:5000"),
            entry("started", 3, pid=8, version="1", upgrade=True),
            entry("stopped", 4, pid=7, upgrade=True),
        ]
        self.assertEqual(whoWasIn(entries, 5, self.fail), entries[1:2])
        self.assertIn("process 8, takes over", shown(entries[2]))
        self.assertEqual(whoWasIn([*entries, entry("stopped", 5)], 5, self.fail), [])

    def test_shown(self) -> None:
        """One line for people, with the local time; nothing of it is a control."""
        fields = {
            **{"address": "192.0.2.1:5000", "peer": str(KEY), "name": "alice"},
            **{"reason": "closed", "duration": 3723.4, "received": 5, "sent": 7},
            "missing": 3,
        }
        line = shown(entry("lost", 1e9) | fields)
        self.assertEqual(
            " ".join(line.split()),
            "2001-09-08 20:46:40-05:00 lost alice 192.0.2.1:5000 closed (after "
            "1:02:03; 5 messages came, 7 went) [3 entries before this one are missing]",
        )
        self.assertIn(str(KEY)[:12], shown(entry(peer=str(KEY))))
        self.assertIn("process 7", shown(entry("started", pid=7, version="1")))
        self.assertIn("goes on from another file", shown(entry("rotated", reason="")))
        hostile: tuple[dict[str, Any], ...] = (
            {"address": EVIL, "reason": EVIL, "name": EVIL, "peer": EVIL},
            {"address": None, "reason": {"a": EVIL}, "name": [EVIL], "peer": 1},
            {"duration": "1", "missing": EVIL, "event": EVIL},
            {"duration": -1e300, "time": -9e10},
            {"duration": 1e300, "time": 9e10},
        )
        for fields in hostile:
            self.assertTrue(shown(entry() | fields).isprintable(), fields)
            self.assertTrue(asJSON(entry() | fields).isprintable(), fields)


class WhoWasInTests(ResumeTestCase):
    """L{whoWasIn} knows from the log alone who is in."""

    def setUp(self) -> None:
        """Write what happens."""
        super().setUp()
        self.path = Path(self.mktemp())
        self.file = ActivityFile(str(self.path))
        self.addCleanup(lambda: os.close(self.file._file))

    def does(self, act: Callable[[], object]) -> None:
        """Do something, which may start or stop the server, and look who is in."""
        with capturedLogs() as events:
            act()
        for event in events:
            self.file(event)
        entries = entriesOf(linesOf([str(self.path)]), self.fail)
        inside = whoWasIn(entries, time.time() + 1, self.fail)
        server = self.server
        there = [] if server is None else server.connections.values()
        self.assertEqual(
            sorted(entry["session"] for entry in inside),
            sorted(each.session.name for each in there if each.isAttached),
        )

    def test_life(self) -> None:
        """Over returns, noticed or not, several clients, and kill -9."""
        self.file.started()
        self.does(lambda: self.begin(authorizedKeys=lambda *_: "ada"))
        self.does(self.cut)
        self.does(self.back)
        others: list[Any] = []
        self.does(lambda: others.append(self.another(key=PrivateKey.generate())))
        self.does(lambda: self.leave(others[0]))
        self.does(self.unnoticed)
        self.does(lambda: self.network.advance(1))

        def killed() -> None:
            """Let another process follow, without a word of this one's end."""
            self.server, server = None, self.server
            server.stop()
            self.network.deliver()

        with capturedLogs():
            killed()
        self.file.started()
        self.does(lambda: None)

    def leave(self, client: Any) -> None:
        """Close a client."""
        client.stopService()
        self.network.deliver()

    def unnoticed(self) -> None:
        """Cut the client off so that the server does not hear of it."""
        (link,) = self.network.links
        link.client.lose(Exception("gone"))
        self.network.advance(1)
        self.network.deliver()

    def test_before(self) -> None:
        """What was before the files is not known, which is said."""
        said: list[str] = []
        entries = [
            entry("accepted", 1, session="a", seq=7),
            entry("accepted", 2, session="b"),
            entry("accepted", 3, session="a"),
            entry("accepted", 5, session="c"),
            entry("lost", 4, session="b"),
            entry("lost", 4, session="x"),
            entry("accepted", 4, address="unix-1"),
        ]
        inside = whoWasIn(entries, 4, said.append)
        self.assertEqual([e["time"] for e in inside], [1, 4])
        (line,) = said
        self.assertIn("begin with entry 7", line)
        self.assertEqual(whoWasIn([], 4, self.fail), [])
