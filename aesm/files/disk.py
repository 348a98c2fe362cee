"""
An open file, read and written at once, and hashed in a thread::

    file = DiskFile(descriptor, deferToThread)
    data = file.read(offset, size)
    file.follow(offset + size)             # so far it may be hashed
    digest = await file.digest(size)
    await file.close()

Pieces are read and written as Twisted does it with files: what a disk has in memory
takes less time than to ask a thread.  What takes longer is for threads: to hash, to
bring a file to the disk, to open one.  The descriptor is closed behind the last of
their calls: its number may be somebody else's a moment later.

The digest is always that of what is in the file, read again behind what was written or
sent.  So a file of which a part came before this process was started needs no other
way: hashing begins at its start, and catches up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred

__all__ = ["DiskFile", "InThread"]

# Calls a function, somewhere, and fires with what becomes of it: C{deferToThread}.
InThread = Callable[..., Deferred[Any]]

PIECE = 1 << 20  # bytes that are read at once to be hashed
STEP = 16 << 20  # bytes that are hashed in one call


class DiskFile:
    """
    A file, and its SHA-256 as far as it is known.

    @ivar descriptor: its number.
    """

    def __init__(self, descriptor: int, inThread: InThread) -> None:
        """@param descriptor: is closed by C{close}."""
        self.descriptor = descriptor
        self._inThread = inThread
        self._calls = 0  # that are under way
        self._isClosing = False
        self._waiting: list[Deferred[None]] = []  # until it is closed
        self._hash = sha256()
        self._hashed = self._known = 0  # bytes from the start
        self._failure: BaseException | None = None  # of hashing
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

    def read(self, offset: int, size: int) -> bytes:
        """Read up to so many bytes; fewer mean that the file ends there."""
        data = os.pread(self.descriptor, size, offset)
        while data and len(data) < size:
            more = os.pread(self.descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, offset: int, data: memoryview) -> None:
        """
        Write all of it.

        @raise OSError: a part of it may be written.
        """
        while data:
            written = os.pwrite(self.descriptor, data, offset)
            offset += written
            data = data[written:]

    def follow(self, end: int) -> None:
        """Hash on, up to there, at leisure."""
        self._known = max(self._known, end)
        if self._hashing is None and self._hashed < self._known and not self._failure:
            self._hashing = []
            Deferred.fromCoroutine(self._run())

    async def digest(self, size: int) -> str:
        """
        Wait for the SHA-256 of the first so many bytes, which are all that were
        followed.

        @raise OSError: they cannot be read.
        """
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
        """Hash what is known to be there."""
        try:
            while self._hashed < self._known and not self._isClosing:
                size = min(STEP, self._known - self._hashed)
                await self.call(_hash, self._hash, self.descriptor, self._hashed, size)
                self._hashed += size
        except OSError as error:
            self._failure = error
        waiting, self._hashing = self._hashing or [], None
        for each in waiting:
            if not each.called:
                each.callback(None)


def _hash(digest: Any, descriptor: int, offset: int, size: int) -> None:
    """Hash a part of a file."""
    buffer = bytearray(min(PIECE, size))
    view = memoryview(buffer)
    while size:
        count = os.preadv(descriptor, [view[:size]], offset)
        if not count:
            raise OSError(0, "the file has become shorter")
        digest.update(view[:count])
        offset += count
        size -= count
