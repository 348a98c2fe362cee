"""
A store that several processes share, in memory, which answers when a test says so::

    shelf = Shelf()
    store = ShelfStore(shelf)
    store.isSlow = True
    opened = store.open(lost)
    store.work()                 # the oldest question has its answer
    store.ring()                 # it learns of what others have claimed

It is what servers are to get along with, whatever they store their sessions in.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from aesm.errors import SpoolError
from aesm.store.interface import (
    Blob,
    Early,
    Entry,
    ILogStore,
    ISessionStore,
    LogPage,
    Lost,
    Snapshot,
    Stored,
)

__all__ = ["LogShelfStore", "Shelf", "ShelfStore"]


class _Change(NamedTuple):
    """
    Something that is to be written.

    @ivar name: of the session.
    @ivar make: makes it, of what there is.
    @ivar blob: messages to the peer that are added, if it is that.
    @ivar cause: the session that has caused it, or empty.
    """

    name: str
    make: Callable[[Any], object]
    blob: Blob | None = None
    cause: str = ""


class Shelf:
    """
    What several processes have in common.

    @ivar sessions: what is kept of each.
    @ivar owners: whose each is.
    @ivar log: what all were told.
    @ivar first: the position of the first entry that is there.
    @ivar stores: of the processes that live, if they have logs.
    @ivar gone: sessions that are over, and of which nobody has said so.
    @ivar snapshots: what replicas made of the log.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.sessions: dict[str, Stored] = {}
        self.owners: dict[str, ShelfStore] = {}
        self.log: list[Entry] = []
        self.first = 1
        self.names = count(1)  # of entries: none comes again
        self.stores: list[LogShelfStore] = []
        self.gone: list[str] = []
        self.snapshots: list[Snapshot] = []
        self._ends: dict[bytes, str] = {}  # by the name of the entry

    def expire(self, name: str) -> None:
        """End a session to which nobody came back."""
        del self.sessions[name]
        self.owners.pop(name, None)
        self.gone.append(name)

    def append(
        self,
        data: bytes,
        ended: str = "",
        tell: Callable[[int, bytes], object] = lambda position, name: None,
    ) -> None:
        """
        Write an entry of the log, and have all learn of it.

        @param ended: the session of which it says that it is over.
        @param tell: as L{ILogStore.log} has it.
        """
        position = self.first + len(self.log)
        entry = Entry(position, b"%d" % next(self.names), data)
        self.log.append(entry)
        if ended:
            self._ends[entry.name] = ended
        tell(position, entry.name)
        for store in self.stores:
            store.hear(partial(store.told, entry))

    def trim(self, first: int) -> None:
        """Drop the oldest entries."""
        del self.log[: first - self.first]
        self.first = first

    def goBack(self, position: int) -> None:
        """Go back in time: what is behind a position is not there any more."""
        lost = self.log[position + 1 - self.first :]
        del self.log[position + 1 - self.first :]
        self.snapshots = [each for each in self.snapshots if each.position <= position]
        # As the sessions would be there again, and end again.
        self.gone += [self._ends[each.name] for each in lost if each.name in self._ends]

    @property
    def last(self) -> int:
        """The position of the last entry."""
        return self.first + len(self.log) - 1

    def has(self, position: int, name: bytes) -> bool:
        """Tell whether the log has an entry."""
        at = position - self.first
        return 0 <= at < len(self.log) and self.log[at].name == name


@implementer(ISessionStore)
class ShelfStore:
    """
    A process's way to the shelf.

    @ivar failure: as L{ISessionStore} has it.
    @ivar size: the same.
    @ivar isSlow: whether answers wait until told.
    @ivar waiting: what was asked and has no answer.
    @ivar broken: what questions about sessions fail with, while it is set.
    """

    fences = True

    def __init__(self, shelf: Shelf) -> None:
        """@param shelf: may have sessions, which are ours if they are nobody's."""
        self.failure: SpoolError | None = None
        self.size = 0
        self.isSlow = False
        self.waiting: list[Callable[[], object]] = []
        self.broken: Exception | None = None
        self._shelf = shelf
        self._gathered: list[_Change] = []
        self._batches: list[list[_Change]] = []  # that are being written
        self._ours: set[str] = set()  # as far as we know
        self._lost: Lost | None = None
        self._isClosed = False

    def _ask(self, answer: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Answer, now or later."""
        asked: Deferred[Any] = Deferred()
        answering = partial(execute, answer, *arguments)
        if self.isSlow:
            self.waiting.append(lambda: answering().chainDeferred(asked))
        else:
            answering().chainDeferred(asked)
        return asked

    def _check(self) -> None:
        """
        Let a question fail.

        @raise Exception: it is to.
        """
        if self.broken is not None:
            raise self.broken

    def work(self) -> None:
        """Answer the oldest question."""
        self.waiting.pop(0)()

    def kill(self) -> None:
        """Answer nothing any more, as for a process that is killed."""
        self.isSlow = True
        self.waiting.clear()
        self._shelf.owners = {
            name: owner
            for name, owner in self._shelf.owners.items()
            if owner is not self
        }

    # ISessionStore

    def open(
        self, lost: Lost | None = None, lapsed: Callable[[], object] | None = None
    ) -> Deferred[list[Stored]]:
        """
        Find what is nobody's.

        @see: L{ISessionStore.open}
        """
        self._lost, self.lapsed = lost, lapsed
        return self._ask(self._open)

    def _open(self) -> list[Stored]:
        """Have what is nobody's."""
        self._check()
        shelf = self._shelf
        names = [name for name in shelf.sessions if name not in shelf.owners]
        return [self._have(name) for name in names]

    def damaged(self, reason: str) -> SpoolError:
        """
        Make an error.

        @see: L{ISessionStore.damaged}
        """
        return SpoolError(f"the shelf is damaged: {reason}")

    def begin(self, name: str, peer: str, state: dict[str, Any]) -> Deferred[None]:
        """
        Store a session.

        @see: L{ISessionStore.begin}
        """
        return self._ask(self._begin, name, peer, _copied(state))

    def _begin(self, name: str, peer: str, state: dict[str, Any]) -> None:
        """Store a session."""
        self._check()
        if name in self._shelf.sessions:
            raise SpoolError(f"there is a session {name}")
        self._shelf.sessions[name] = Stored(name, peer, state, [], [], [])
        self._shelf.owners[name] = self
        self._ours.add(name)

    def claim(self, name: str, peer: str) -> Deferred[Stored | None]:
        """
        Have a session.

        @see: L{ISessionStore.claim}
        """
        return self._ask(self._claim, name, peer)

    def _claim(self, name: str, peer: str) -> Stored | None:
        """Have a session, if there is such a one."""
        self._check()
        self._lose([name])  # we may have had it, and not know that others do
        if name in self._ours:
            return None
        stored = self._shelf.sessions.get(name)
        return None if stored is None or stored.peer != peer else self._have(name)

    def _have(self, name: str) -> Stored:
        """Have a session."""
        self._shelf.owners[name] = self
        self._ours.add(name)
        name, peer, state, *messages = self._shelf.sessions[name]
        return Stored(name, peer, _copied(state), *map(list, messages))

    def put(self, name: str, peer: str, state: dict[str, Any]) -> None:
        """
        Replace a state.

        @see: L{ISessionStore.put}
        """
        state = _copied(state)
        self._gather(name, lambda stored: stored.state.update(state))

    def append(
        self,
        name: str,
        outgoing: bool,
        number: int,
        count: int,
        frames: bytes,
        cause: str = "",
    ) -> None:
        """
        Add messages.

        @see: L{ISessionStore.append}
        """
        blob = Blob(number, count, frames)
        if outgoing:
            self._gathered.append(_added(name, blob, cause))
        else:
            self._gather(name, lambda stored: stored.incoming.append(blob))

    def discard(self, name: str, outgoing: bool, before: int) -> None:
        """
        Remove messages.

        @see: L{ISessionStore.discard}
        """

        def removed(stored: Stored) -> None:
            """Leave out what is old."""
            blobs = stored.outgoing if outgoing else stored.incoming
            blobs[:] = [blob for blob in blobs if blob.number + blob.messages > before]

        self._gather(name, removed)

    def addRequest(self, name: str, number: int, frame: bytes) -> None:
        """
        Add a request.

        @see: L{ISessionStore.addRequest}
        """
        blob = Blob(number, 1, frame)
        self._gather(name, lambda stored: stored.requests.append(blob))

    def removeRequest(self, name: str, number: int, cause: str = "") -> None:
        """
        Remove a request.

        @see: L{ISessionStore.removeRequest}
        """

        def removed(stored: Stored) -> None:
            """Leave it out."""
            left = [blob for blob in stored.requests if blob.number != number]
            stored.requests[:] = left

        self._gathered.append(_Change(name, removed, cause=cause))

    def drop(self, name: str) -> None:
        """
        Remove a session.

        @see: L{ISessionStore.drop}
        """
        self._gather(name, self._drop)

    def _drop(self, stored: Stored) -> None:
        """Remove a session."""
        del self._shelf.sessions[stored.name], self._shelf.owners[stored.name]
        self._ours.discard(stored.name)

    def attend(self, name: str, isThere: bool) -> None:
        """
        Write something, so that it is said if the session is not ours.

        @see: L{ISessionStore.attend}
        """
        self._gather(name, lambda stored: None)

    def release(self, name: str) -> None:
        """
        Leave a session.

        @see: L{ISessionStore.release}
        """
        if name in self._ours:
            self._gather(name, self._release)

    def _release(self, stored: Stored) -> None:
        """Leave a session."""
        del self._shelf.owners[stored.name]
        self._ours.discard(stored.name)

    def _gather(self, name: str, make: Callable[[Stored], object]) -> None:
        """Have something written with the next commit."""
        self._gathered.append(_Change(name, make))

    def commit(self, early: Early | None = None) -> Deferred[None]:
        """
        Write what was gathered.

        @see: L{ISessionStore.commit}
        """
        gathered, self._gathered = self._gathered, []
        self._batches.append(gathered)
        return self._ask(self._commit, gathered)

    def _commit(self, changes: list[_Change]) -> None:
        """Write what is about sessions that are ours, and caused by these."""
        self._lose(name for each in changes for name in (each.name, each.cause) if name)
        self._batches = [each for each in self._batches if each is not changes]
        for change in changes:
            if not change.name:
                change.make(None)
            elif change.name in self._ours:
                change.make(self._shelf.sessions[change.name])

    def ring(self) -> None:
        """Learn of what others have claimed."""
        self._lose(list(self._ours))

    def _lose(self, names: Iterable[str]) -> None:
        """Leave out sessions that others have claimed, and what they have caused."""
        shelf = self._shelf
        lost = {
            name: name in shelf.sessions
            for name in names
            if name in self._ours and shelf.owners.get(name) is not self
        }
        if not lost:
            return
        self._ours -= set(lost)
        undone: dict[str, dict[int, int]] = defaultdict(dict)
        for changes in (*self._batches, self._gathered):
            changes[:] = self._without(changes, lost, undone)
        assert self._lost is not None
        self._lost(lost, undone)

    def _without(
        self,
        changes: list[_Change],
        lost: dict[str, bool],
        undone: dict[str, dict[int, int]],
    ) -> list[_Change]:
        """
        Leave out what is about some sessions, and what they have caused.

        @param undone: of each session the numbers of what was left out, and how many
            messages each was; what is now is added.
        """
        left = []
        for change in changes:
            name, _, blob, cause = change
            if cause in lost:
                if blob is not None:
                    undone[name][blob.number] = blob.messages
            elif name not in lost:
                if blob is not None:
                    shift = sum(undone[name].values()) if name in undone else 0
                    moved = blob._replace(number=blob.number - shift)
                    change = _added(name, moved, cause)
                left.append(change)
        return left

    def close(self) -> Deferred[None]:
        """
        Write what was gathered, and leave all sessions to whom they come to.

        @see: L{ISessionStore.close}
        """
        if self._isClosed:
            raise RuntimeError("it is closed")
        self._isClosed = True
        return self.commit().addCallback(lambda nothing: self.kill())


@implementer(ILogStore)
class LogShelfStore(ShelfStore):
    """
    The same, with a log.

    @ivar isDeaf: whether it hears nothing.
    @ivar told: as L{ILogStore} has it.
    @ivar isKnown: the same, never asked.
    @ivar heard: the same.
    @ivar node: the same.
    """

    def __init__(self, shelf: Shelf) -> None:
        """@param shelf: as L{ShelfStore}."""
        super().__init__(shelf)
        self.isDeaf = False
        self.told: Callable[[Entry | None], object] = lambda entry: None
        self.isKnown: Callable[[int], bool] = lambda position: False
        self.heard: Callable[[bytes], object] = lambda words: None
        self._endEntry: Callable[[str], bytes] | None = None
        self.node = f"node{len(shelf.stores)}-{id(self)}"
        self._dropped: list[str] = []
        shelf.stores.append(self)

    def _open(self) -> list[Stored]:
        """Have no session yet: each comes with its client, as in a cluster."""
        self._check()
        return []

    def kill(self) -> None:
        """Answer nothing any more, and hear nothing."""
        super().kill()
        if self in self._shelf.stores:
            self._shelf.stores.remove(self)

    def ring(self) -> None:
        """Learn of what others have claimed, and that there may be more in the log."""
        super().ring()
        self.told(None)

    def log(
        self, cause: str, data: bytes, tell: Callable[[int, bytes], object]
    ) -> None:
        """
        Tell something to all.

        @see: L{ILogStore.log}
        """
        shelf = self._shelf

        def write(nothing: object) -> None:
            """Write it."""
            shelf.append(data, tell=tell)

        self._gathered.append(_Change("", write, cause=cause))

    def _drop(self, stored: Stored) -> None:
        """Remove a session, of which it is to be said."""
        super()._drop(stored)
        self._shelf.gone.append(stored.name)

    def drop(self, name: str) -> None:
        """
        Remove a session, and say so.

        @see: L{ISessionStore.drop}
        """
        super().drop(name)
        self._dropped.append(name)

    def commit(self, early: Early | None = None) -> Deferred[None]:
        """
        Write what was gathered, and which sessions are over behind it.

        @see: L{ISessionStore.commit}
        """
        dropped, self._dropped = self._dropped, []
        for name in dropped:
            self._sayEnded(name, name)
        return super().commit(early)

    def sayEnds(self, endEntry: Callable[[str], bytes]) -> None:
        """
        Say of all sessions that are removed that they are over, from now on.

        @see: L{ILogStore.sayEnds}
        """
        self._endEntry = endEntry

    def _sayEnded(self, name: str, cause: str) -> None:
        """Say that a session is over, if nobody has by then."""
        if self._endEntry is None:
            return
        shelf, entry = self._shelf, self._endEntry(name)

        def write(nothing: object) -> None:
            """Write it."""
            if name in shelf.gone:
                shelf.gone.remove(name)
                shelf.append(entry, name)

        self._gathered.append(_Change("", write, cause=cause))

    def sweep(self) -> None:
        """Say which sessions are over."""
        for name in self._shelf.gone:
            self._sayEnded(name, "")
        self.commit()

    def hear(self, hear: Callable[[], object]) -> None:
        """Hear what is said, now or later, or not."""
        if self.isDeaf:
            return
        if self.isSlow:
            self.waiting.append(hear)
        else:
            hear()

    def readLog(self, after: int, name: bytes = b"") -> Deferred[LogPage | None]:
        """
        Read what all were told, two entries at a time.

        @see: L{ILogStore.readLog}
        """
        return self._ask(self._readLog, after, name)

    def _readLog(self, after: int, name: bytes) -> LogPage | None:
        """Read the log."""
        self._check()
        first, log = self._shelf.first, self._shelf.log
        last = first + len(log) - 1
        if after > last or (
            name and after >= first and log[after - first].name != name
        ):
            return None
        if after < first - 1:
            return LogPage(first, last, None)
        return LogPage(first, last, log[after + 1 - first :][:2])

    def readSnapshots(self) -> Deferred[list[Snapshot]]:
        """
        Read snapshots.

        @see: L{ILogStore.readSnapshots}
        """
        return self._ask(self._readSnapshots)

    def _readSnapshots(self) -> list[Snapshot]:
        """Read those from which the log goes on."""
        self._check()
        shelf = self._shelf
        return [each for each in shelf.snapshots if each.position >= shelf.first - 1]

    def writeSnapshot(self, newest: int, snapshot: Snapshot) -> Deferred[int]:
        """
        Store a snapshot.

        @see: L{ILogStore.writeSnapshot}
        """
        return self._ask(self._writeSnapshot, newest, snapshot)

    def _writeSnapshot(self, newest: int, snapshot: Snapshot) -> int:
        """Store a snapshot, if that makes sense."""
        self._check()
        shelf = self._shelf
        there = shelf.snapshots[-1].position if shelf.snapshots else 0
        if there == newest and shelf.has(snapshot.position, snapshot.name):
            shelf.snapshots = [*shelf.snapshots[-1:], snapshot]
            there = snapshot.position
        return there

    def say(self, node: str, words: bytes) -> Deferred[int]:
        """
        Say something to another process.

        @see: L{ILogStore.say}
        """
        return self._ask(self._say, node, words)

    def _say(self, node: str, words: bytes) -> int:
        """Say something."""
        self._check()
        hearing = [
            store
            for store in self._shelf.stores
            if node in ("", store.node) and not store.isDeaf
        ]
        for store in hearing:
            store.hear(partial(store.heard, words))
        return len(hearing)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """Make of a state what comes back."""
    copied: dict[str, Any] = json.loads(json.dumps(state))
    return copied


def _added(name: str, blob: Blob, cause: str) -> _Change:
    """Make a change that adds messages to a peer."""

    def add(stored: Stored) -> None:
        """Add them behind those that are there."""
        last = stored.outgoing[-1] if stored.outgoing else blob
        assert last is blob or last.number + last.messages <= blob.number, (last, blob)
        stored.outgoing.append(blob)

    return _Change(name, add, blob, cause)
