"""
Tests for L{aesm.commands.activity}.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from errno import EIO, ENOSPC, ENOTSUP
from pathlib import Path
from typing import Any

from twisted.logger import ILogObserver, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm import __version__
from aesm.commands import activity
from aesm.commands.activity import ActivityFile, encoded, readEntry
from aesm.commands.history import linesOf, verified
from aesm.errors import KeyFileError
from aesm.server.registry import Connections


class Disk:
    """
    A disk of which a test says how much room there is.

    @ivar room: bytes.
    """

    def __init__(self) -> None:
        self.room = 1 << 20
        self.reason = ENOSPC
        self._write = os.write

    def write(self, file: int, data: bytes) -> int:
        """Write as much as there is room for."""
        if not self.room:
            raise OSError(self.reason, os.strerror(self.reason))
        written = self._write(file, data[: self.room])
        self.room -= written
        return written


class ActivityFileTests(SynchronousTestCase):
    """L{ActivityFile} writes whatever happens to its file."""

    def setUp(self) -> None:
        """Have a file, on a disk with room."""
        self.disk = Disk()
        self.patch(os, "write", self.disk.write)
        self.path = Path(self.mktemp())
        self.file = self.open()

    def open(self) -> ActivityFile:
        """Open the file."""
        file = ActivityFile(str(self.path))
        self.addCleanup(lambda: os.close(file._file))
        return file

    def leave(self) -> None:
        """Let go of the file, as a process that is killed does."""
        os.close(self.file._file)
        self.file._file = os.open(os.devnull, os.O_RDWR)

    def again(self) -> None:
        """Begin again, as the next process."""
        self.leave()
        self.file = self.open()

    def assertWhole(self, *paths: Path) -> list[str]:
        """
        Check that nothing was changed.

        @param paths: none for the file alone.
        @return: what is to be said of it.
        """
        files = map(str, paths or (self.path,))
        *said, last = verified(linesOf(files), None)
        self.assertIn(" whole; ", last)
        return said

    def enter(self, *numbers: int) -> list[str]:
        """
        Write entries.

        @param numbers: what each has for a time.
        @return: what the log says of that.
        """

        def act() -> None:
            for number in numbers:
                with capturedLogs() as events:
                    Connections().record("unix-1", "lost", float(number), "")
                self.file(events[0])

        return self.said(act)

    def said(self, act: Callable[[], object]) -> list[str]:
        """
        Do something.

        @return: what the log says of that.
        """
        with capturedLogs() as events:
            act()
        ours = [e for e in events if e["log_namespace"] == "aesm.daemon"]
        return [formatEvent(event) for event in ours]

    def read(self, path: Path | None = None) -> list[Any]:
        """
        Read what is in the file.

        @param path: another one.
        """
        return [*map(json.loads, (path or self.path).read_bytes().splitlines())]

    def entries(self, path: Path | None = None) -> list[float]:
        """Read the times of what is in the file."""
        return [entry["time"] for entry in self.read(path)]

    def test_interface(self) -> None:
        """It observes the log, and nothing but activity."""
        verifyObject(ILogObserver, self.file)
        self.file({})
        self.file({"log_namespace": "aesm.activity"})
        self.assertEqual(self.entries(), [])

    def test_appends(self) -> None:
        """It appends to what is there; a new file has mode 0600."""
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(self.enter(1), [])
        self.file = self.open()
        self.assertEqual(self.enter(2), [])
        self.assertEqual(self.entries(), [1, 2])

    def test_full(self) -> None:
        """
        A full disk is one line of the log, and one that says how many entries are
        missing when there is room again; each time anew.
        """
        for first in 0, 10:
            self.assertEqual(self.enter(first), [])
            self.disk.room = 0
            (line,) = self.enter(first + 1, first + 2, first + 3)
            self.assertIn("cannot write the activity log: No space left", line)
            self.disk.room = 1 << 20
            (line,) = self.enter(first + 4)
            self.assertIn("can be written again; entries that are missing: 3", line)
            self.assertEqual(self.said(self.file.ended), [])
        self.assertEqual(self.entries(), [0, 4, 10, 14])

    def test_inPart(self) -> None:
        """An entry that there is room for in part is completed first of all."""
        self.enter(1)
        length = self.path.stat().st_size
        for room in range(1, length + 1):
            self.path.unlink()
            self.file = self.open()
            self.disk.room = room
            said = self.enter(1)
            self.assertEqual(len(said), int(room < length))
            self.disk.room = 0
            self.enter(2, 3)
            self.disk.room = 1 << 20
            (line,) = self.enter(4)
            self.assertIn("entries that are missing: 2", line)
            self.assertEqual(self.entries(), [1, 4])
            self.assertEqual(self.read()[1]["missing"], 2)
            self.assertEqual(self.assertWhole()[0][:2], "2 ")

    def test_otherErrors(self) -> None:
        """Any error of writing is such a case."""
        self.disk.room, self.disk.reason = 0, EIO
        (line,) = self.enter(1)
        self.assertIn(os.strerror(EIO), line)

    def test_ended(self) -> None:
        """At the end it is said how many entries are missing."""
        self.disk.room = 0
        self.enter(1, 2)
        (line,) = self.said(self.file.ended)
        self.assertIn("entries that are missing: 2", line)

    def test_reopen(self) -> None:
        """It goes on in the file that has the name, made if need be."""
        former = self.path.with_name("former")
        self.enter(1)
        self.path.rename(former)
        self.enter(2)
        self.assertEqual(self.said(self.file.reopen), [])
        self.enter(3)
        self.assertEqual(self.entries(former), [1, 2])
        rotated, entry = self.read()
        self.assertEqual((rotated["event"], entry["time"]), ("rotated", 3))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_reopenInPart(self) -> None:
        """
        What is left of an entry stays with its beginning: it is completed in the same
        file, and not in another.
        """
        self.disk.room = 10
        self.enter(1)
        self.file.reopen()
        self.disk.room = 1 << 20
        self.enter(2)
        self.assertEqual(self.entries(), [1, 2])
        self.disk.room = 10
        self.enter(3)
        former = self.path.with_name("former")
        self.path.rename(former)
        self.file.reopen()
        self.disk.room = 1 << 20
        (line,) = self.enter(4)
        self.assertIn("entries that are missing: 2", line)  # one says of the rotation
        (entry,) = self.read()
        self.assertEqual((entry["time"], entry["seq"]), (4, 3))
        self.assertEqual((entry["missing"], entry["torn"]), (2, True))
        torn, missing = self.assertWhole(former, self.path)
        self.assertIn("former line 3 is torn", torn)
        self.assertIn("2 entries are missing", missing)

    def test_rotatedForOthers(self) -> None:
        """
        A chain goes on behind a rotation also if the next who writes is another
        process; so it does where the file was emptied, once it is opened anew.
        """
        former = self.path.with_name("former")
        self.enter(1)
        self.path.rename(former)
        self.file.reopen()
        self.again()
        self.file.started()
        self.assertEqual(self.assertWhole(former, self.path), [])
        again = self.path.with_name("again")
        again.write_bytes(self.path.read_bytes())
        os.truncate(self.path, 0)
        self.file.reopen()
        self.file.reopen()
        self.again()
        self.enter(2)
        self.assertEqual(self.assertWhole(former, again, self.path), [])
        rotated, _ = self.read()
        self.assertEqual((rotated["event"], rotated["seq"]), ("rotated", 4))

    def test_cannotReopen(self) -> None:
        """If there can be no new file it goes on in the former, and says so."""
        former = self.path.with_name("former")
        self.path.rename(former)
        self.path.symlink_to(former)
        before = os.listdir("/dev/fd")
        (line,) = self.said(self.file.reopen)
        self.assertIn("no symbolic link", line)
        self.assertIn("goes on in the former file", line)
        self.assertEqual(self.enter(1), [])
        self.assertEqual(self.entries(former), [1])
        self.assertEqual(len(os.listdir("/dev/fd")), len(before))

    def test_unsafe(self) -> None:
        """A file that others can write to is refused, and a link."""
        self.path.chmod(0o666)
        self.assertRaises(KeyFileError, ActivityFile, str(self.path))
        self.path.chmod(0o640)
        self.open()

    def test_chain(self) -> None:
        """
        Entries are numbered and name the one before them, also behind a rotation and a
        new start; what shells compute is the same.
        """
        former = self.path.with_name("former")
        self.enter(1, 2)
        self.path.rename(former)
        self.file.reopen()
        self.enter(3)
        self.again()
        self.enter(4)
        self.assertEqual([entry["seq"] for entry in self.read()], [3, 4, 5])
        self.assertIsNone(self.read(former)[0]["prev"])
        said = subprocess.run(
            ["sha256sum"],
            input=former.read_bytes().splitlines(keepends=True)[-1],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        self.assertEqual(said.split()[0].decode(), self.read()[0]["prev"])
        self.assertEqual(self.assertWhole(former, self.path), [])
        self.assertEqual(self.assertWhole(self.path), [])

    def test_torn(self) -> None:
        """
        What a crash has left of a line stays, and the next entry says so: nothing is
        broken, wherever the line was torn.
        """
        self.enter(1, 2)
        whole = self.path.read_bytes()
        first = whole.index(b"\n") + 1
        for end in range(1, len(whole)):
            self.path.write_bytes(whole[:end])
            self.again()
            self.enter(3, 4)
            # Where only the end of a line is missing, the line is whole.
            isTorn = end not in (first - 1, first, len(whole) - 1)
            self.assertEqual(len(self.assertWhole()), isTorn, end)
            self.assertEqual(self.path.read_bytes().count(b'"torn"'), isTorn, end)

    def test_missingFile(self) -> None:
        """Where there is no file a chain begins; in one that was emptied it goes on."""
        self.enter(1, 2)
        former = self.path.with_name("former")
        former.write_bytes(self.path.read_bytes())
        os.truncate(self.path, 0)  # as logrotate's copytruncate
        self.enter(3)
        self.assertEqual(self.assertWhole(former, self.path), [])
        self.path.unlink()
        self.again()
        self.enter(4)
        self.assertEqual((self.read()[0]["seq"], self.read()[0]["prev"]), (1, None))

    def test_tornFirst(self) -> None:
        """A first entry that is only begun is not completed in another file either."""
        self.disk.room = 10
        self.enter(1)
        former = self.path.with_name("former")
        self.path.rename(former)
        self.file.reopen()
        self.disk.room = 1 << 20
        self.enter(2)
        self.assertEqual(self.read()[0]["seq"], 1)
        self.assertWhole(self.path)

    def test_foreign(self) -> None:
        """A file that has something else is gone on with; that is told."""
        self.path.write_bytes(b"something else")
        self.again()
        self.enter(1, 2)
        (said,) = self.assertWhole()
        self.assertIn("line 1 is torn", said)

    def test_two(self) -> None:
        """Two processes may write to one file: the chain is one."""
        other = self.open()
        mine = self.file
        for number in range(10):
            self.file = (mine, other)[number % 3 == 0]
            self.enter(number)
        self.disk.room = 10
        self.enter(10)
        self.disk.room = 1 << 20
        self.file = mine
        self.enter(11)
        self.file = other
        self.enter(12)
        self.assertEqual(len(self.assertWhole()), 2)

    def test_locked(self) -> None:
        """
        Entries wait for another process that writes one, but not for ever: whoever may
        read the file can lock it.
        """
        waited: list[float] = []
        self.patch(time, "sleep", waited.append)
        with self.path.open("rb") as stranger:
            fcntl.flock(stranger, fcntl.LOCK_EX)
            self.enter(1)
        self.assertEqual(len(waited), activity.LOCK_TRIES)
        self.enter(2)
        self.assertEqual(len(waited), activity.LOCK_TRIES)
        self.assertEqual(self.entries(), [1, 2])

    def test_noLocks(self) -> None:
        """A file that has no locks is written all the same; one must be readable."""

        def fails(*arguments: object) -> None:
            """Do what a file system does that has no such thing."""
            raise OSError(ENOTSUP, os.strerror(ENOTSUP))

        self.patch(fcntl, "flock", fails)
        self.assertEqual(self.enter(1), [])
        self.patch(os, "pread", fails)
        self.path.write_bytes(b"")
        (line,) = self.enter(2)
        self.assertIn(os.strerror(ENOTSUP), line)
        self.patch(os, "fstat", fails)
        self.enter(3)
        self.assertEqual(self.entries(), [])

    def test_life(self) -> None:
        """It says when the server listened and stopped, once each."""
        self.file.ended()
        self.file.started()
        self.enter(1)
        self.file.ended()
        self.file.ended()
        started, _, stopped = self.read()
        self.assertEqual(started["event"], "started")
        self.assertEqual(
            (started["version"], started["pid"]), (__version__, os.getpid())
        )
        self.assertEqual(stopped["event"], "stopped")
        for entry in (started, stopped):
            nobody = {"accepted": False, "address": None, "peer": None, "times": 1}
            self.assertEqual({name: entry[name] for name in nobody}, nobody)
            self.assertNotIn("upgrade", entry)
        self.assertLessEqual(abs(time.time() - started["time"]), 3600)
        self.file.started(upgrade=True)
        self.file.ended(upgrade=True)
        for each in self.read()[3:]:
            self.assertIs(each["upgrade"], True)
        self.assertWhole()

    def test_details(self) -> None:
        """Fields that only some entries have are there, and none that nobody knows."""
        with capturedLogs() as events:
            Connections().record(
                *("unix-1", "lost", 1.0, ""), name="ada\x7f", code=1000, other=1
            )
        self.file(events[0])
        (entry,) = self.read()
        self.assertEqual((entry["name"], entry["code"]), ("ada\x7f", 1000))
        self.assertNotIn("other", entry)
        self.assertNotIn(b"\x7f", self.path.read_bytes())

    def test_standardOutput(self) -> None:
        """C{-} is standard output, which stays as it is at a SIGHUP."""
        program = (
            "from aesm.commands.activity import ActivityFile\n"
            "from aesm.server.registry import Connections\n"
            "from twisted.logger import globalLogPublisher\n"
            "file = ActivityFile('-')\n"
            "globalLogPublisher.addObserver(file)\n"
            "file.reopen()\n"
            "Connections().record('unix-1', 'lost', 1.0, '')\n"
        )
        written = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True
        ).stdout
        entry = json.loads(written)
        self.assertEqual((entry["time"], entry["seq"], entry["prev"]), (1.0, 1, None))

    def test_noStandardOutput(self) -> None:
        """Where that is closed nothing else gets the entries."""
        self.patch(sys, "__stdout__", None)
        error = self.assertRaises(KeyFileError, ActivityFile, "-")
        self.assertIn("standard output is closed", str(error))


class EntryTests(SynchronousTestCase):
    """L{readEntry} takes entries, and nothing else."""

    def test_reads(self) -> None:
        """An entry has a time, an event, a number, and a hash or none."""
        good = {"time": 1, "event": "lost", "seq": 1, "prev": None}
        self.assertEqual(readEntry(encoded(good)), good)
        more = good | {"prev": "00", "more": [1]}
        self.assertEqual(readEntry(encoded(more)), more)
        for bad in (
            {"time": "1"},
            {"time": float("nan")},
            {"time": float("inf")},
            {"time": 10**400},
            {"event": None},
            {"seq": 0},
            {"seq": 1.5},
            {"prev": 1},
        ):
            self.assertIsNone(readEntry(encoded(good | bad)), bad)
        for line in (b"", b"\n", b"[]", b"1", b"\xff", b"[" * 100_000, b"9" * 5000):
            self.assertIsNone(readEntry(line))
