"""
An open file, read and written at once, and hashed on the way::

    file = DiskFile(descriptor, deferToThread)
    count = file.read(offset, view)
    file.follow(offset + count, view)      # so far it may be hashed
    digest = await file.digest(size)
    await file.close()

Pieces are read and written as Twisted does it with files: what a disk has in memory
takes less time than to ask a thread.  What takes longer is for threads: to hash, to
bring a file to the disk, to open one.  The descriptor is closed behind the last of
their calls: its number may be somebody else's a moment later.

The digest is always that of what is in the file, read again behind what was written or
sent.  So a file of which a part came before this process was started needs no other
way: hashing begins at its start, and catches up.

Where there are but two processors, or one, what comes next is hashed at once instead.
A thread would have no processor of its own, and read once more what no cache has any
longer.

What was written is brought to the disk behind the hashing, some at a time.  If that
were left for the end, the disk would have nothing to do until then, and all would wait
for it afterwards.  Of a large file it is not kept in memory, either, which is left to
others: a virtual machine has to get memory that it has not used from its host, page by
page, and that takes longer than all else that is done with a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore

from aesm.trust.files import sync

# Calls a function, somewhere, and fires with what becomes of it: C{deferToThread}.
InThread = Callable[..., Deferred[Any]]

PIECE = 1 << 20  # bytes that are read at once to be hashed
STEP = 16 << 20  # bytes that are hashed in one call
# Bytes from which on what is known to be there is hashed before all is: to ask a thread
# takes as long as to hash a few hundred KiB.
LEAST = 4 << 20
SYNC = 32 << 20  # bytes that are hashed between two times that a file is synced
# Whether what is at hand is hashed at once, rather than by a thread.
AT_HAND = (os.cpu_count() or 1) <= 2


class DiskFile:
    """
    A file, and its SHA-256 as far as it is known.

    @ivar descriptor: its number.
    """

    def __init__(
        self,
        descriptor: int,
        inThread: InThread,
        turns: DeferredSemaphore | None = None,
    ) -> None:
        """
        @param descriptor: is closed by C{close}.
        @param turns: for those among which no more is to be hashed at a time.
        """
        self.descriptor = descriptor
        self._turns = turns or DeferredSemaphore(1)
        self._inThread = inThread
        self._calls = 0  # that are under way
        self._isClosing = False
        self._waiting: list[Deferred[None]] = []  # until it is closed
        self._hash = sha256()
        self._hashed = self._known = 0  # bytes from the start
        self._isReadAgain = False  # by a thread that hashes it
        # Bytes that a thread is asked for: all, if what is at hand is to be next.
        self._least = 1 if AT_HAND else LEAST
        self._isWritten = False  # to be brought to the disk
        self._synced = 0  # bytes that had been hashed when it was last
        self._failure: OSError | None = None  # of hashing, or of that
        self._hashing: list[Deferred[None]] | None = None  # who waits, while it does

    def call(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """
        Call a function that may block.

        @return: fires with its result.  Cancelling it stops the waiting only.
        @raise ValueError: the file is closed.
        """
        if self._isClosing:
            raise ValueError("the file is closed")
        self._calls += 1
        called = self._inThread(function, *arguments)
        called.addBoth(self._left)
        result: Deferred[Any] = Deferred()
        called.chainDeferred(result)
        return result

    def read(self, offset: int, view: memoryview) -> int:
        """
        Read as many bytes as there is room for in a view.

        @return: how many; fewer mean that the file ends there.
        """
        return _read(self.descriptor, offset, view)

    def write(self, offset: int, data: memoryview) -> None:
        """
        Write all of it.

        @raise OSError: a part of it may be written; or what was before cannot be read
            again, or brought to the disk.
        """
        if self._failure is not None:
            raise self._failure
        self._isWritten = True
        while data:
            written = os.pwrite(self.descriptor, data, offset)
            offset += written
            data = data[written:]

    def follow(self, end: int, data: memoryview | bytes = b"") -> None:
        """
        Hash on, up to there, at leisure.

        @param data: the last bytes of that, if they are at hand.
        """
        isNext = end - len(data) == self._hashed and not self._isReadAgain
        if AT_HAND and isNext:
            self._hash.update(data)
            self._hashed = end
        self._known = max(self._known, end)
        if self._isDue and self._hashing is None and not self._failure:
            self._hashing = []
            Deferred.fromCoroutine(self._run())

    async def digest(self, size: int) -> str:
        """
        Wait for the SHA-256 of the first so many bytes, which are all that were
        followed.

        @raise OSError: they cannot be read, or brought to the disk.
        """
        self._least = 1
        self.follow(size)
        while self._hashing is not None:
            waiting: Deferred[None] = Deferred()
            self._hashing.append(waiting)
            await waiting
        if self._failure is not None:
            raise self._failure
        return self._hash.hexdigest()

    def close(self) -> Deferred[None]:
        """
        Close the file, behind the calls that are under way.

        @return: as C{closed}.
        """
        if not self._isClosing:
            self._isClosing = True
            self._calls += 1
            self._left(None)
        return self.closed()

    def closed(self) -> Deferred[None]:
        """
        Wait for somebody to close it.

        @return: fires once it is closed, at once if it is.
        """
        waiting: Deferred[None] = Deferred()
        if self._isClosing and not self._calls:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting

    def _left(self, result: Any) -> Any:
        """A call is over."""
        self._calls -= 1
        if self._isClosing and not self._calls:
            os.close(self.descriptor)
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.callback(None)
        return result

    async def _run(self) -> None:
        """Hash what is known to be there, and bring it to the disk."""
        try:
            while self._isDue:
                async with self._turns:
                    await self._step()
        except OSError as error:
            self._failure = error
        waiting, self._hashing = self._hashing or [], None
        for each in waiting:
            if not each.called:
                each.callback(None)

    @property
    def _isDue(self) -> bool:
        """Whether there is anything to be hashed, or brought to the disk."""
        isEnough = self._known - self._hashed >= self._least
        return not self._isClosing and (isEnough or self._isUnsynced)

    @property
    def _isUnsynced(self) -> bool:
        """Whether much was written since it was last brought to the disk."""
        return self._isWritten and self._hashed - self._synced >= SYNC

    async def _step(self) -> None:
        """Hash some more, or bring it to the disk, if that is still due."""
        if not self._isDue:
            return
        if self._isUnsynced:
            self._synced = self._hashed
            await self.call(_bring, self.descriptor, self._synced)
            return
        size = min(STEP, self._known - self._hashed)
        self._isReadAgain = True
        await self.call(_hash, self._hash, self.descriptor, self._hashed, size)
        self._isReadAgain = False
        self._hashed += size


def _read(descriptor: int, offset: int, view: memoryview) -> int:
    """Read into a view, all of it if there is as much."""
    done = 0
    while view and (count := os.preadv(descriptor, [view], offset + done)):
        done += count
        view = view[count:]
    return done


def _hash(digest: Any, descriptor: int, offset: int, size: int) -> None:
    """Hash a part of a file."""
    buffer = memoryview(bytearray(min(PIECE, size)))
    while size:
        view = buffer[:size]
        if _read(descriptor, offset, view) < len(view):
            raise OSError(0, "the file has become shorter")
        digest.update(view)
        offset += len(view)
        size -= len(view)


def _bring(descriptor: int, end: int) -> None:
    """Bring a file to the disk, and do not keep in memory what was hashed of it."""
    sync(descriptor)
    with suppress(AttributeError, OSError):  # not all systems have it
        os.posix_fadvise(descriptor, 0, end, os.POSIX_FADV_DONTNEED)
