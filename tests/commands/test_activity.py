"""
Tests for L{aesm.commands.activity}.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from errno import EIO, ENOSPC
from pathlib import Path

from twisted.logger import ILogObserver, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm.commands.activity import ActivityFile, activityLine
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

    def entries(self, path: Path | None = None) -> list[float]:
        """
        Read what is in the file.

        @param path: another one.
        """
        lines = (path or self.path).read_text("ascii").splitlines()
        return [json.loads(line)["time"] for line in lines]

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
        length = len(activityLine(self.event()) or "")
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

    def event(self) -> dict[str, object]:
        """Make an event of the activity log."""
        with capturedLogs() as events:
            Connections().record("unix-1", "lost", 1.0, "")
        return events[0]

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
        self.assertEqual((self.entries(former), self.entries()), ([1, 2], [3]))
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
        self.path.rename(self.path.with_name("former"))
        self.file.reopen()
        self.disk.room = 1 << 20
        (line,) = self.enter(4)
        self.assertIn("entries that are missing: 1", line)
        self.assertEqual(self.entries(), [4])

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
        self.assertEqual(json.loads(written)["time"], 1.0)

    def test_noStandardOutput(self) -> None:
        """Where that is closed nothing else gets the entries."""
        self.patch(sys, "__stdout__", None)
        error = self.assertRaises(KeyFileError, ActivityFile, "-")
        self.assertIn("standard output is closed", str(error))
