"""
Where a file is while it comes, and how it gets its name.  All of this may block::

    place = Place(Folder(directory), offer, peer)
    opened = place.open()          # how much of it is there already?
    name = place.publish(opened)   # all of it is: on the disk, under a name of its own

What has come of a file is in a hidden one beside it, whose name says who sends it and
what: the sender's key, the file's name, size and time.  As bytes are only ever added at
its end, its size says how many have come; nothing else has to be written down, and
nothing is lost when a process is killed.  A lock of the system's says that somebody is
at it, and goes with the process.

A name is given by a hard link, which never takes anything's place.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from pathlib import Path
from threading import Lock
from time import monotonic

from aesm.errors import RequestFailed
from aesm.files.names import names, safeName
from aesm.files.requests import FileCode, Offer
from aesm.trust.files import publish, sync, syncDirectory
from aesm.trust.keys import PublicKey

MOST_PARTIAL = 256  # files in a directory that are not complete
MOST_PARTIAL_OF_KEY = 64  # of one sender
LISTED_AGAIN = 1.0  # seconds until they are counted once more, if there are too many
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class Opened:
    """
    A file that is open.

    @ivar descriptor: its number.
    @ivar offset: bytes that are there.
    @ivar complete: the name of a file that has all of them already; empty if it is not
        complete.
    """

    descriptor: int
    offset: int
    complete: str = ""


class Folder:
    """
    A directory that files come to.

    @ivar path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()  # for what is below
        # Files that may begin before those that are there are counted: of all, and of
        # each sender who has one.
        self._room = 0
        self._rooms: dict[str, int] = {}
        self._listed = -inf  # when they were

    def begin(self, sender: str) -> None:
        """
        Have room for one more file that is not complete.

        @param sender: what the names of a sender's files begin with.
        @raise RequestFailed: there are too many of them.
        """
        with self._lock:
            # To count them is to list the directory.  With ten thousand small files in
            # it that takes longer than to receive one, so it is not done for each, nor
            # for each that is refused: others wait meanwhile.
            isDue = monotonic() - self._listed >= LISTED_AGAIN
            if isDue and not min(self._room, self._roomOf(sender)):
                self._count(len(sender))
            self._take(sender)

    def end(self, sender: str) -> None:
        """Have the room again of a file that is complete, or was dropped."""
        with self._lock:
            self._room += 1
            if sender in self._rooms:
                self._rooms[sender] += 1
                if self._rooms[sender] >= MOST_PARTIAL_OF_KEY:
                    del self._rooms[sender]

    def _count(self, length: int) -> None:
        """Count those that are there, by that many characters of their names."""
        # Not by Path.glob, which takes eight times as long.
        there = Counter(
            name[:length]
            for name in os.listdir(self.path)
            if name.startswith(".aesm-") and name.endswith(".part")
        )
        self._listed = monotonic()
        self._room = max(0, MOST_PARTIAL - there.total())
        self._rooms = {
            each: max(0, MOST_PARTIAL_OF_KEY - count) for each, count in there.items()
        }

    def _take(self, sender: str) -> None:
        """Take room, if there is any; else as C{begin}."""
        for room, whose in (
            (self._roomOf(sender), f"{MOST_PARTIAL_OF_KEY} files of yours"),
            (self._room, f"{MOST_PARTIAL} files"),
        ):
            if not room:
                raise RequestFailed(
                    FileCode.NO_ROOM,
                    f"{whose} are there that were never completed; the receiver has "
                    "to remove its .aesm-*.part",
                )
        self._room -= 1
        self._rooms[sender] = self._roomOf(sender) - 1

    def _roomOf(self, sender: str) -> int:
        """Tell how many files a sender may begin."""
        return self._rooms.get(sender, MOST_PARTIAL_OF_KEY)


class Place:
    """
    Where one file of one sender goes.

    @ivar name: what it is to be called, if that is free.
    @ivar offer: what its sender says of it.
    @ivar path: of the file that is not complete.
    """

    def __init__(self, folder: Folder, offer: Offer, peer: PublicKey) -> None:
        """@param peer: who sends it."""
        self.name = safeName(offer.name)
        self._sender = f".aesm-{_digest(str(peer))}"
        file = _digest(f"{peer} {offer.size} {offer.mtime} {offer.name}")
        self.path = folder.path / f"{self._sender}{file}.part"
        self._folder = folder
        self.offer = offer

    def open(self) -> Opened:
        """
        Find what has come of it, or make room for it.

        @raise RequestFailed: there is none, or somebody else is at it.
        @raise OSError: the directory cannot be used.
        """
        complete = self._complete()
        if complete is not None:
            return complete
        isNew = not os.path.lexists(self.path)
        if isNew:
            self._folder.begin(self._sender)
        # As any new file: the process's umask takes away what others may not do.
        mode = 0o777 if self.offer.executable else 0o666
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _FLAGS, mode)
        except OSError:
            if isNew:
                self._folder.end(self._sender)
            raise
        try:
            return Opened(descriptor, self._claim(descriptor))
        except BaseException:
            os.close(descriptor)
            if isNew:
                with suppress(OSError):
                    self.drop()
            raise

    def publish(self, descriptor: int) -> str:
        """
        Give the file its name, once all of it is on the disk.

        @return: the name.
        @raise RequestFailed: there are too many of that name.
        @raise OSError: that is not possible.
        """
        os.utime(descriptor, ns=(self.offer.mtime, self.offer.mtime))
        sync(descriptor)
        for name in names(self.name):
            if publish(self.path, self._folder.path / name):
                self.drop()
                syncDirectory(self._folder.path)
                return name
        raise self._tooMany()

    def drop(self) -> None:
        """Forget what came of it, under this name."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
            self._folder.end(self._sender)

    def _complete(self) -> Opened | None:
        """Look for the file, as a former process may have received it."""
        wanted = self.offer.size, self.offer.mtime
        for name in names(self.name):
            path = self._folder.path / name
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                return None
            found = status.st_size, status.st_mtime_ns
            if stat.S_ISREG(status.st_mode) and found == wanted:
                with suppress(PermissionError):
                    return Opened(os.open(path, os.O_RDONLY | _FLAGS), wanted[0], name)
        raise self._tooMany()

    def _claim(self, descriptor: int) -> int:
        """Lock the file, see whether the rest has room, and tell what is there."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._busy() from None
        status = os.fstat(descriptor)
        # Whoever had the lock may have completed it meanwhile: then this is no longer
        # the file of that name.
        with suppress(FileNotFoundError):
            if os.path.samestat(status, os.lstat(self.path)):
                return self._room(descriptor, status)
        raise self._busy()

    def _room(self, descriptor: int, status: os.stat_result) -> int:
        """See whether there is room for the rest; C{RequestFailed} if not."""
        if not stat.S_ISREG(status.st_mode):
            raise RequestFailed(FileCode.CANNOT_WRITE, "something else is in its place")
        if status.st_size > self.offer.size:
            os.ftruncate(descriptor, 0)
            status = os.fstat(descriptor)
        missing = self.offer.size - status.st_size
        system = os.fstatvfs(descriptor)
        free = system.f_bavail * system.f_frsize
        if missing > free:
            raise RequestFailed(
                FileCode.NO_ROOM,
                f"there is no room: it needs {missing:,} bytes, and {free:,} are free",
            )
        return status.st_size

    def _busy(self) -> RequestFailed:
        """Make the error for a file that somebody else receives."""
        return RequestFailed(FileCode.BUSY, "another process receives this file")

    def _tooMany(self) -> RequestFailed:
        """Make the error for a name that has all its numbers taken."""
        return RequestFailed(FileCode.REFUSED, "too many files of that name are there")


def _digest(text: str) -> str:
    """Tell texts apart in 16 hexadecimal digits."""
    return sha256(text.encode()).hexdigest()[:16]
