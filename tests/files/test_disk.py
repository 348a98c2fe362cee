"""
A file whose calls happen in threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EIO
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, execute
from twisted.trial.unittest import SynchronousTestCase

from aesm.files import disk
from aesm.files.disk import DiskFile
from tests.support.spooled import ByHand, noRoom


class DiskFileTests(SynchronousTestCase):
    """Reading, writing, hashing, closing."""

    def setUp(self) -> None:
        """Make a file."""
        self.path = self.mktemp()
        self.patch(disk, "PIECE", 16)
        self.patch(disk, "STEP", 64)
        self.patch(disk, "LEAST", 1)
        self.patch(disk, "AT_HAND", False)

    def open(
        self,
        content: bytes = b"",
        inThread: Callable[..., Deferred[Any]] = execute,
        turns: DeferredSemaphore | None = None,
    ) -> DiskFile:
        """
        Open a file.

        @param content: what is in it.
        @param inThread: where the calls happen.
        @param turns: as L{DiskFile}.
        """
        with open(self.path, "wb") as file:
            file.write(content)
        opened = DiskFile(os.open(self.path, os.O_RDWR), inThread, turns)
        self.addCleanup(opened.close)
        return opened

    def digestOf(self, file: DiskFile, size: int) -> Deferred[str]:
        """
        Ask for a digest.

        @param size: of how much.
        """
        return Deferred.fromCoroutine(file.digest(size))

    def read(self, file: DiskFile, offset: int, size: int) -> bytes:
        """Read up to so many bytes."""
        data = bytearray(size)
        return bytes(data[: file.read(offset, memoryview(data))])

    def test_read(self) -> None:
        """What is read is what is there, and less only at the file's end."""
        file = self.open(b"0123456789")
        self.assertEqual(self.read(file, 2, 3), b"234")
        self.assertEqual(self.read(file, 8, 3), b"89")
        self.assertEqual(self.read(file, 10, 3), b"")

    def test_write(self) -> None:
        """What is written is there, where it was to be."""
        file = self.open()
        file.write(2, memoryview(b"0123"))
        with open(self.path, "rb") as written:
            self.assertEqual(written.read(), b"\0\x000123")

    def test_parts(self) -> None:
        """What the system reads or writes in parts is whole."""
        read, write = os.preadv, os.pwrite
        self.patch(os, "preadv", lambda fd, views, at: read(fd, [views[0][:3]], at))
        self.patch(os, "pwrite", lambda fd, data, at: write(fd, data[:3], at))
        file = self.open()
        file.write(0, memoryview(b"0123456789"))
        self.assertEqual(self.read(file, 0, 8), b"01234567")
        self.assertEqual(self.read(file, 5, 8), b"56789")

    def test_noRoom(self) -> None:
        """What cannot be written is an error; what could be is there."""
        file = self.open()
        with noRoom(10), self.assertRaises(OSError):
            file.write(0, memoryview(b"x" * 20))
        self.assertEqual(os.path.getsize(self.path), 10)

    def test_digest(self) -> None:
        """The digest is that of the file, whatever was followed before, and when."""
        content = os.urandom(1000)
        for followed in ([], [1], [10, 1000], [1000, 5], range(1000)):
            file = self.open(content)
            for end in followed:
                file.follow(end)
            digest = self.successResultOf(self.digestOf(file, 1000))
            self.assertEqual(digest, sha256(content).hexdigest())

    def test_waits(self) -> None:
        """Several may wait for the digest, while it is made behind the writing."""
        hands = ByHand()
        content = os.urandom(200)
        file = self.open(content, hands.run)
        file.follow(100)
        waiting = [self.digestOf(file, 200) for _ in range(2)]
        self.assertNoResult(waiting[0])
        waiting[1].cancel()
        self.failureResultOf(waiting[1])
        while hands.waiting:
            hands.work()
        digest = self.successResultOf(waiting[0])
        self.assertEqual(digest, sha256(content).hexdigest())

    def test_turns(self) -> None:
        """What waits for its turn to be hashed is closed at once, and takes none."""
        hands, turns = ByHand(), DeferredSemaphore(1)
        files = [self.open(b"x" * 10, hands.run, turns) for _ in range(3)]
        digests = [self.digestOf(each, 10) for each in files]
        self.successResultOf(files[1].close())
        for done in (0, 2):
            self.assertEqual(len(hands.waiting), 1)
            hands.work()
            digest = self.successResultOf(digests[done])
            self.assertEqual(digest, sha256(b"x" * 10).hexdigest())

    def test_least(self) -> None:
        """A thread is not asked for a little that is known, before all is."""
        self.patch(disk, "LEAST", 100)
        hands = ByHand()
        content = os.urandom(301)
        file = self.open(content, hands.run)
        for end, asked in ((99, 0), (100, 1), (150, 1)):
            file.follow(end)
            self.assertEqual(len(hands.waiting), asked, end)
        while hands.waiting:
            hands.work()
        file.follow(163)  # 99 more than were hashed: one call was about 64
        self.assertEqual(hands.waiting, [])
        digest = self.digestOf(file, 301)
        while hands.waiting:
            hands.work()
        self.assertEqual(self.successResultOf(digest), sha256(content).hexdigest())

    def test_synced(self) -> None:
        """
        What is written is brought to the disk behind the hashing, some at a time; a
        file that is only read is not.
        """
        self.patch(disk, "SYNC", 256)
        synced: list[int] = []
        self.patch(os, "fsync", synced.append)
        content = os.urandom(1000)
        file = self.open(content)
        self.successResultOf(self.digestOf(file, 1000))
        self.assertEqual(synced, [])
        file = self.open()
        file.write(0, memoryview(content))
        file.follow(700)
        self.assertEqual(synced, [file.descriptor] * 2)
        digest = self.successResultOf(self.digestOf(file, 1000))
        self.assertEqual(digest, sha256(content).hexdigest())
        self.assertEqual(synced, [file.descriptor] * 3)

    def test_notKept(self) -> None:
        """
        The system is told that what is hashed and on the disk need not be in memory,
        where it can be told.
        """
        self.patch(disk, "SYNC", 256)
        told: list[tuple[int, ...]] = []

        def advise(*words: int) -> None:
            """Do not know how, later on not this file."""
            told.append(words)
            raise OSError if told[1:] else AttributeError

        self.patch(os, "posix_fadvise", advise)
        content = os.urandom(600)
        file = self.open()
        file.write(0, memoryview(content))
        file.follow(300)
        digest = self.successResultOf(self.digestOf(file, 600))
        self.assertEqual(digest, sha256(content).hexdigest())
        expected = [
            (file.descriptor, 0, end, os.POSIX_FADV_DONTNEED) for end in (256, 556)
        ]
        self.assertEqual(told, expected)

    def add(self, file: DiskFile, start: int, data: bytes) -> None:
        """Write bytes that are at hand."""
        file.write(start, memoryview(data))
        file.follow(start + len(data), memoryview(data))

    def test_atHand(self) -> None:
        """
        With few processors what is at hand is hashed at once if it comes next, and
        whatever else is there in a thread: what was before, and what came meanwhile.
        """
        self.patch(disk, "AT_HAND", True)
        content = os.urandom(200)
        for there in (0, 50, 100):
            hands = ByHand()
            file = self.open(content[:there], hands.run)
            file.follow(there)
            for start in range(there, 200, 50):
                self.add(file, start, content[start : start + 50])
            self.assertEqual(len(hands.waiting), min(there, 1))
            digest = self.digestOf(file, 200)
            while hands.waiting:
                hands.work()
            digested = self.successResultOf(digest)
            self.assertEqual(digested, sha256(content).hexdigest())

    def test_atHandOn(self) -> None:
        """Once a thread has hashed what was there, the rest is hashed at hand."""
        self.patch(disk, "AT_HAND", True)
        self.patch(disk, "LEAST", 100)
        hands = ByHand()
        content = os.urandom(90)
        file = self.open(content[:30], hands.run)
        file.follow(30)
        self.add(file, 30, content[30:60])
        for _ in range(2):
            hands.work()
        self.assertEqual(hands.waiting, [])
        self.add(file, 60, content[60:])
        digest = self.successResultOf(self.digestOf(file, 90))
        self.assertEqual(digest, sha256(content).hexdigest())

    def test_atHandAgain(self) -> None:
        """What is at hand once more, or out of turn, is not hashed with that."""
        self.patch(disk, "AT_HAND", True)
        content = os.urandom(200)
        hands = ByHand()
        file = self.open(content, hands.run)
        for start, end in ((0, 100), (50, 150), (0, 50), (150, 200)):
            file.follow(end, content[start:end])
        digest = self.digestOf(file, 200)
        while hands.waiting:
            hands.work()
        self.assertEqual(self.successResultOf(digest), sha256(content).hexdigest())

    def test_atHandSynced(self) -> None:
        """While a file is brought to the disk it is gone on with."""
        self.patch(disk, "AT_HAND", True)
        self.patch(disk, "SYNC", 100)
        hands = ByHand()
        content = os.urandom(180)
        file = self.open(b"", hands.run)
        for start in range(0, 180, 60):
            self.add(file, start, content[start : start + 60])
        digest = self.digestOf(file, 180)
        self.assertNoResult(digest)
        hands.work()
        self.assertEqual(hands.waiting, [])
        self.assertEqual(self.successResultOf(digest), sha256(content).hexdigest())

    def test_notSynced(self) -> None:
        """
        What cannot be brought to the disk is an error of the next write, and of the
        digest: the system says it once, and not to the last sync.
        """
        self.patch(disk, "SYNC", 100)
        failures = [OSError(EIO, "Input/output error")]

        def fsync(descriptor: int) -> None:
            """Fail the first time."""
            if failures:
                raise failures.pop()

        self.patch(os, "fsync", fsync)
        file = self.open()
        file.write(0, memoryview(b"x" * 100))
        file.follow(100)
        error = self.assertRaises(OSError, file.write, 100, memoryview(b"x"))
        self.assertEqual(error.errno, EIO)
        self.failureResultOf(self.digestOf(file, 100), OSError)
        self.assertEqual(os.path.getsize(self.path), 100)

    def test_shorter(self) -> None:
        """A file that has become shorter has no digest."""
        file = self.open(b"short")
        self.failureResultOf(self.digestOf(file, 10), OSError)
        file.follow(20)  # nothing more is tried
        self.failureResultOf(self.digestOf(file, 20), OSError)

    def test_closedBehind(self) -> None:
        """
        A file is closed behind the calls that are under way, also those that nobody
        waits for: its number may be another file's afterwards.
        """
        hands = ByHand()
        file = self.open(b"content", hands.run)
        told = file.closed()
        syncing = file.call(os.fsync, file.descriptor)
        syncing.cancel()
        self.failureResultOf(syncing)
        closed = file.close()
        self.assertNoResult(closed)
        self.assertNoResult(told)
        os.fstat(file.descriptor)
        hands.work()
        self.successResultOf(closed)
        self.successResultOf(told)
        self.assertRaises(OSError, os.fstat, file.descriptor)
        self.successResultOf(file.close())
        self.assertRaises(ValueError, file.call, os.fsync, 0)

    def test_closedWhileHashing(self) -> None:
        """Hashing ends with the file, and so does what is done behind it."""
        self.patch(disk, "SYNC", 64)
        hands = ByHand()
        file = self.open(b"x" * 999, hands.run)
        file.write(999, memoryview(b"x"))
        file.follow(1000)
        closed = file.close()
        hands.work()
        self.successResultOf(closed)
        self.assertEqual(hands.waiting, [])
