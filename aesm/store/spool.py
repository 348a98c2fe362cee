"""
The L{ISessionStore} in a file: what is written goes through one thread of its own, in
one transaction at a time::

    spool = Spool("/var/lib/chat/spool")
    spool.open().addCallback(goOn)           # blocks, as making it does
    spool.begin(name, peer, state).addCallback(welcome)
    spool.append(name, False, 6, 1, frames)  # gathers
    spool.commit().addCallback(acknowledge)  # fires when all of it is in the file
    spool.close()

Whatever is gathered while one batch is being written makes up the next, so that a slow
disk makes larger batches and not a longer queue.  A batch that cannot be written is
kept and tried again until it can: no change is lost while the process lives, and nobody
is told that one is in the file before it is.  Only a session that begins does not wait
for that: it is given up, and whoever wanted it is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from aesm.errors import SpoolError
from aesm.secure.options import reactorOr
from aesm.store.interface import Blob, Early, ISessionStore, Lost, Stored
from aesm.store.sqlite import MAX_SIZE, MIN_MAX_SIZE, Changes, SpoolFile
from aesm.trust.files import AnyPath, expanded

if TYPE_CHECKING:
    from twisted.internet.interfaces import (
        IDelayedCall,
        IReactorFromThreads,
        IReactorTime,
    )

SYNC = ("normal", "full")  # what is committed survives the process, or the power
RETRY = 1.0  # seconds until a batch that could not be written is tried again

# Not on the class: there Twisted would name it after that.
_log = Logger(namespace="aesm.spool")


class Worker(Protocol):
    """Where a spool writes."""

    def run(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """
        Call a function that may block; one call at a time.

        @return: fires in the reactor's thread with what became of it.
        """

    def stop(self) -> None:
        """Accept no more calls."""


class _OwnThread:
    """A thread that is started with the first call."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        """@param reactor: where the results go."""
        self._reactor = reactor
        self._pool = ThreadPool(1, 1, "aesm.spool")
        # A daemon, so as not to keep a program from ending: one that ends without
        # closing its spool is no worse off than one that is killed.
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]

    def run(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Call a function in the thread."""
        if not self._pool.started:
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, function, *arguments)

    def stop(self) -> None:
        """End the thread, which is idle by now, and wait for that."""
        self._pool.stop()


class _Batch:
    """
    The changes of one transaction.

    @ivar changes: by the session's name.
    @ivar waiters: to be fired once it is in the file.
    @ivar begun: the same for sessions that begin with it, by name; if it cannot be
        written, they do not.
    """

    def __init__(self) -> None:
        self.changes: dict[str, Changes] = {}
        self.waiters: list[Deferred[None]] = []
        self.begun: dict[str, Deferred[None]] = {}

    def of(self, name: str) -> Changes:
        """Find the changes of a session, to be added to."""
        changes = self.changes.get(name)
        if changes is None:
            changes = self.changes[name] = Changes()
        return changes

    def add(self, newer: _Batch) -> None:
        """Add a later batch, which is not used any more."""
        for name, changes in newer.changes.items():
            if changes.dropped:
                self.changes[name] = changes
            else:
                self.of(name).add(changes)
        self.waiters += newer.waiters
        self.begun |= newer.begun

    def giveUpBegun(self) -> list[Deferred[None]]:
        """Take out the sessions that begin, after a failure, and list who waits."""
        begun, self.begun = self.begun, {}
        for name in begun:
            # It may be in the file, if a commit failed so late that nobody knows.
            self.changes[name] = Changes(dropped=True)
        return list(begun.values())


# While the spool is busy there are two batches: one in the thread's hands, which nobody
# else touches, and the one that gathers (_next).  Only _begin makes the second into the
# first, and each way out of it comes back to it, or to _finish, or to an idle spool:
#
#     commit --> _begin --> _cbWritten --> _goOn --> _begin, if there is more
#                  ^                         |
#                  |                         +-----> _finish, if closing
#                  +--- RETRY --- _ebWritten ------> _finish, if it was the last try
#
# After a failure both become one, in order, so that a disk that is full means one large
# transaction, bounded by what connections may hold, and not a queue of them.


@implementer(ISessionStore)
class Spool:
    """
    Sessions and their messages in a file.

    A process that goes into the background opens its spool afterwards: neither the
    lock on the file nor the thread pass a C{fork}.

    @ivar path: the file.
    @ivar failure: see L{ISessionStore}.
    @ivar fences: the same.
    """

    fences = False

    def __init__(
        self,
        path: AnyPath,
        *,
        full: bool = False,
        maxSize: int = MAX_SIZE,
        shared: bool = False,
        clock: IReactorTime | None = None,
        worker: Worker | None = None,
    ) -> None:
        """
        Open a file, or make one that only its owner can read, and its directory.
        Blocks while all of it is checked for damage.

        @param path: the file; beside it is its log, C{PATH-wal}, which must go where
            it goes, and C{PATH.lock}, which is empty.
        @param full: whether what is committed survives a loss of power too, and not
            only that the process is killed.
        @param maxSize: bytes that the file and its log may have between two commits,
            from 16 MiB; no room for more is as a disk that is full.
        @param shared: whether another process has the file, and shares it with us.
        @param clock: for trying again; None for the reactor.
        @param worker: where to write; None for a thread of its own, whose results
            go through the C{clock}, which has to be a reactor then.
        @raise SpoolError: the file cannot be opened, is unsafe or damaged, or
            another program uses it; says what to do.
        """
        self.path = expanded(path)
        self.failure: SpoolError | None = None
        self._clock = reactorOr(clock)
        if worker is None:
            worker = _OwnThread(cast("IReactorFromThreads", self._clock))
        self._worker = worker
        self._file = SpoolFile(self.path, full, maxSize, shared)
        self._isShared = shared
        self._next = _Batch()
        self._busy = False  # a batch is being written, or waits to be tried again
        self._retry: IDelayedCall | None = None
        self._closed: Deferred[None] | None = None

    # ISessionStore

    @property
    def size(self) -> int:
        """The bytes of the file and its log, as they are on the disk."""
        size = 0
        for path in (self.path, f"{self.path}-wal"):
            with suppress(OSError):
                size += os.stat(path).st_size
        return size

    def open(
        self, lost: Lost | None = None, lapsed: Callable[[], object] | None = None
    ) -> Deferred[list[Stored]]:
        """
        Read everything; blocks, and has fired.  What is in a file that another process
        has, too, is that one's.
        """
        return succeed([]) if self._isShared else execute(self._file.load)

    def read(self, names: Iterable[str] | None = None) -> Deferred[list[Stored]]:
        """
        Read sessions that another process has written, while it shares the file.

        @param names: which; None for all.
        @return: fires with them; fails with L{SpoolError}.
        """
        return self._worker.run(self._file.load, names)

    def share(self) -> Deferred[None]:
        """Let another process open the file: fires when it can."""
        return self._worker.run(self._file.share)

    def reclaim(self) -> Deferred[bool]:
        """Have the file for ourselves again, and tell whether nobody else has it."""
        return self._worker.run(self._file.reclaim)

    def damaged(self, reason: str) -> SpoolError:
        """Make the error for stored sessions that make no sense."""
        return self._file.damaged(reason)

    def begin(self, name: str, peer: str, state: dict[str, Any]) -> Deferred[None]:
        """Store a session of which its peer does not know yet."""
        if self.failure is not None:
            return fail(SpoolError(str(self.failure)))
        if self._closed is not None:
            return fail(self._closedError())
        self.put(name, peer, state)
        begun = self._next.begun[name] = Deferred()
        self._wake()
        return begun

    def claim(self, name: str, peer: str) -> Deferred[Stored | None]:
        """Find nothing: all sessions of a file are its process's from the start."""
        return succeed(None)

    def put(self, name: str, peer: str, state: dict[str, Any]) -> None:
        """Add a session, or replace its state."""
        self._next.of(name).put(peer, state)

    def append(
        self,
        name: str,
        outgoing: bool,
        number: int,
        count: int,
        frames: bytes,
        cause: str = "",
    ) -> None:
        """Add messages to a session."""
        self._next.of(name).append(outgoing, Blob(number, count, frames))

    def discard(self, name: str, outgoing: bool, before: int) -> None:
        """Remove messages of a session."""
        self._next.of(name).discard(outgoing, before)

    def addRequest(self, name: str, number: int, frame: bytes) -> None:
        """Add an open request to a session."""
        self._next.of(name).addRequest(Blob(number, 1, frame))

    def removeRequest(self, name: str, number: int, cause: str = "") -> None:
        """Remove a request from a session."""
        self._next.of(name).removeRequest(number)

    def drop(self, name: str) -> None:
        """Remove a session with all its messages."""
        if self._next.begun.pop(name, None) is None:
            self._next.changes[name] = Changes(dropped=True)
        else:
            # It never was in the file.  On a disk that hangs, clients that come, wait
            # in vain and go would fill the memory with what there is to drop.
            del self._next.changes[name]

    def attend(self, name: str, isThere: bool) -> None:
        """Do nothing: nobody else knows of the session."""

    def release(self, name: str) -> None:
        """Do nothing: who has the file has the session."""

    def commit(self, early: Early | None = None) -> Deferred[None]:
        """
        Write the changes so far, now or behind the batch that is being written; all at
        once, so that nobody is told early.
        """
        if self._closed is not None:
            return fail(self._closedError())
        waiter: Deferred[None] = Deferred()
        self._next.waiters.append(waiter)
        self._wake()
        return waiter

    def close(self) -> Deferred[None]:
        """Write the changes so far, and close file and thread."""
        if self._closed is not None:
            raise RuntimeError(f"{self.path} is closed already")
        closed = self._closed = Deferred()
        if not self._busy:
            self._goOn()
        elif self._retry is not None and self._retry.active():
            self._retry.reset(0)  # the last try need not wait
        return closed

    def _closedError(self) -> SpoolError:
        """Make the error for who writes too late."""
        return SpoolError(f"{self.path} is closed: nothing more is written")

    def _wake(self) -> None:
        """Begin to write, unless something is being written."""
        if not self._busy:
            self._begin()

    def _begin(self) -> None:
        """Write the batch that has gathered, and let another one gather."""
        batch, self._next = self._next, _Batch()
        self._busy = True
        written = (
            self._worker.run(self._file.write, batch.changes)
            if batch.changes
            else succeed(None)
        )
        written.addCallbacks(
            self._cbWritten,
            self._ebWritten,
            callbackArgs=(batch,),
            errbackArgs=(batch, self._closed is not None),
        )

    def _cbWritten(self, result: None, batch: _Batch) -> None:
        """A batch is in the file: tell those who wait for it, and go on."""
        if self.failure is not None:
            self.failure = None
            _log.info("{path} can be written again", path=str(self.path))
        # Still busy, so that whatever all of them commit now is one batch.
        for waiter in (*batch.waiters, *batch.begun.values()):
            waiter.callback(None)
        self._goOn()

    def _ebWritten(self, failure: Failure, batch: _Batch, last: bool) -> None:
        """
        Keep a batch that could not be written, whatever the reason, and try again
        later, unless this was the C{last} time.
        """
        reason = failure.getErrorMessage()
        if self.failure is None:
            _log.error(
                "cannot write {path}: {reason}; nothing more is accepted until it can "
                "be written: see that its disk works and has room, and spoolMax "
                "(--spool-max), too",
                path=str(self.path),
                reason=reason,
            )
        # A new one each time: the text says what is wrong now.
        self.failure = SpoolError(
            f"cannot write {self.path}: {reason}; try again when its disk works and "
            "has room, and spoolMax (--spool-max), too"
        )
        batch.add(self._next)
        refused = batch.giveUpBegun()
        self._next = batch
        if last:
            self._finish(self.failure)
        else:
            delay = RETRY if self._closed is None else 0
            self._retry = self._clock.callLater(delay, self._begin)
        for waiter in refused:
            waiter.errback(SpoolError(str(self.failure)))

    def _goOn(self) -> None:
        """Do what comes after a batch: the next one, the end, or nothing."""
        batch = self._next
        if batch.waiters or batch.begun or (self._closed is not None and batch.changes):
            self._begin()
        elif self._closed is not None:
            self._finish(None)
        else:
            self._busy = False

    def _finish(self, error: SpoolError | None) -> None:
        """
        Close the file and the worker, then tell who waits why not all was written.
        """
        self._busy = True  # for good: nothing begins any more
        closed = self._worker.run(self._file.close)
        closed.addBoth(self._cbClosed, error, self._next.waiters)
        closed.chainDeferred(cast("Deferred[None]", self._closed))

    def _cbClosed(
        self,
        result: Failure | None,
        error: SpoolError | None,
        waiters: list[Deferred[None]],
    ) -> Failure | None:
        """Tell those who wait for what was not written, and the closer, too."""
        self._worker.stop()
        if error is None:
            return result
        for waiter in waiters:
            waiter.errback(error)
        return Failure(error)


def spoolOpener(
    path: AnyPath | None, sync: str, maxSize: int, clock: IReactorTime
) -> Callable[..., Spool] | None:
    """
    Check the options of a spool that is opened later.

    @param path: the file; None for no spool.
    @param sync: C{"normal"} or C{"full"}.
    @param maxSize: as L{Spool} takes it.
    @return: opens it, with more options of L{Spool}, and raises as that does; None for
        no spool.
    @raise ValueError: an option has a value that it cannot have.
    """
    if sync not in SYNC:
        raise ValueError(f"spoolSync must be one of {SYNC}, not {sync!r}")
    if maxSize < MIN_MAX_SIZE:
        raise ValueError(f"spoolMax must be {MIN_MAX_SIZE} or more, not {maxSize}")
    if path is None:
        return None
    return partial(Spool, path, full=sync == "full", maxSize=maxSize, clock=clock)
