"""
A store of sessions in one file: an SQLite database that one program at a time has
open, that is read once and then written in transactions; or two programs, while one
takes over from the other.

::

    file = SpoolFile(Path("/var/lib/chat/spool"), full=False)
    for stored in file.load(): ...           # name, peer, state, incoming, outgoing
    changes = Changes()
    changes.put(peer, {"received": 7})
    changes.append(False, Blob(6, 1, frames))
    file.write({name: changes})              # all of it, or sqlite3.Error
    file.share()                             # lets another one open it, too
    file.reclaim()                           # once that is gone: True
    file.close()

Everything here blocks: L{aesm.store.spool} has a thread for it.  SQLite appends to a
log beside the file, and moves what is in it into the file now and then: so nothing that
was written is lost when the process is killed, and to write means to wait for the disk
only where a loss of power is to be survived as well.  The space of deleted messages
is used again, or given back once little else is left; until then their bytes are still
there.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from aesm.errors import KeyFileError, SpoolError
from aesm.store.interface import Blob, Stored
from aesm.trust.files import (
    OTHERS_ACCESS,
    checkStatus,
    expanded,
    locked,
    writeFile,
)

# To SQLite a change is a change of whole pages: a message of a few bytes writes one to
# the log.  The smaller they are, the less that is, and the more it costs to write large
# messages: each page is a write of its own.
PAGE = 1024  # bytes

# Bytes of the log at which it is moved into the file, and to which it is cut after a
# larger transaction.  A page that changed often meanwhile is moved once.
MAX_LOG = 4 << 20

# The bound of a spool: bytes of the file, and of the log between two transactions.
# RESERVE is the part of it that only what frees room may use.
MAX_SIZE, MIN_MAX_SIZE = 4 << 30, 16 << 20
RESERVE = 1 << 20
NO_BOUND = (1 << 31) - 1  # pages; more than a file can have in practice

# The file is made small again when more than SPARE of it is free and at most SMALL in
# use, bytes: only the latter is copied, so that no commit waits long behind that.
SPARE, SMALL = 16 << 20, 2 << 20

# Two programs at one file
#
# While a server is replaced, two have its file open.  A session belongs to one of them,
# which alone writes it; and nothing is remembered here of what the file has: rows are
# found by the session's name, and sizes asked for in each transaction.  So all that two
# writers could spoil is what SQLite guards: transactions wait for one another, and see
# what was committed before.  SQLite waits for another's transaction by looking again
# now and then, and of two that write all the time one would wait for long; so the lock
# beside the file, which makes a queue, is taken first.
#
# That there are never two unless one has let the other in, and that one who is left is
# alone, is known from SQLite's own locks, which go with the process: who has the file
# for itself keeps an exclusive one, who shares it a shared one, and to be alone is to
# get the former.  Its log is indexed in shared memory (FILE-shm), also while nobody
# shares it: SQLite can only begin so.

BUSY_MILLIS = 10_000  # to wait for the other's transaction

# Whose database it is, and how it is laid out: PRAGMA application_id, user_version.
_APPLICATION = 0x4145534D  # "AESM"
_VERSION = 3

# What a row of "part" is.  Rows lie in this order: a session's state beside its newest
# incoming message, so that both are in one page, as nearly always if there are few.
_INCOMING, _STATE, _OUTGOING, _REQUEST = range(4)
_MESSAGES = (_INCOMING, _OUTGOING)

# A damaged file can hold any type in any column.  The CHECKs let PRAGMA quick_check
# find that when the file is opened, so that what load() reads has these types.  The
# names of what is in a state are with the session, where they are written once.
_SCHEMA = (
    """
    CREATE TABLE session (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE CHECK (typeof(name) = 'text'),
        peer TEXT NOT NULL CHECK (typeof(peer) = 'text'),
        keys TEXT NOT NULL CHECK (typeof(keys) = 'text')
    )
    """,
    """
    CREATE TABLE part (
        session INTEGER NOT NULL REFERENCES session (id) ON DELETE CASCADE,
        kind INTEGER NOT NULL CHECK (kind IN (0, 1, 2, 3)),
        number INTEGER NOT NULL CHECK (typeof(number) = 'integer'),
        count INTEGER NOT NULL CHECK (typeof(count) = 'integer'),
        content BLOB NOT NULL CHECK (typeof(content) = 'blob'),
        PRIMARY KEY (session, kind, number)
    ) WITHOUT ROWID
    """,
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)

_SESSIONS = "SELECT id, name, peer, keys FROM session ORDER BY id"

_PARTS = """
    SELECT session, kind, number, count, content FROM part
    ORDER BY session, kind, number
"""

_SESSION = "SELECT id, name, peer, keys FROM session WHERE name = ?"

_PARTS_OF = """
    SELECT session, kind, number, count, content FROM part WHERE session = ?
    ORDER BY kind, number
"""

_DROP = "DELETE FROM session WHERE name = ?"

_ADD = "INSERT INTO session (peer, keys, name) VALUES (?, ?, ?)"

# Changes nothing, and so no page, nearly always.
_DESCRIBE = """
    UPDATE session SET peer = ?1, keys = ?2
    WHERE name = ?3 AND (peer != ?1 OR keys != ?2)
"""

_PUT = f"""
    UPDATE part SET content = ?
    WHERE session = (SELECT id FROM session WHERE name = ?) AND kind = {_STATE}
"""

# The first comparison says nothing new, but it is one that the index can answer.
_DISCARD = """
    DELETE FROM part WHERE session = (SELECT id FROM session WHERE name = :name)
    AND kind = :kind AND number < :before AND number + count <= :before
"""

_REMOVE = f"""
    DELETE FROM part WHERE session = (SELECT id FROM session WHERE name = ?)
    AND kind = {_REQUEST} AND number = ?
"""

# Nothing is added to a session that is not there: it may have been dropped by what was
# gathered before.
_APPEND = """
    INSERT OR REPLACE INTO part (session, kind, number, count, content)
    SELECT id, ?, ?, ?, ? FROM session WHERE name = ?
"""

# As json.dumps, which would make an encoder each time.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

# What SQLite finds wrong with a file; the first is tables that are not there.
_DAMAGE = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

# What reading raises: names in a damaged schema need not be text.
_READING = (sqlite3.Error, UnicodeDecodeError)


class Changes:
    """
    What is to be written of one session, in this order: drop, put, discard, append.

    @ivar dropped: whether all that the file has of it goes first.
    @ivar record: the peer's key, and the state's keys and values as JSON; None to
        leave them.
    @ivar before: for each direction, below which number messages are deleted.
    @ivar blobs: for each direction, the messages to add.
    @ivar requests: the open requests to add, by number.
    @ivar removed: the numbers of those to delete.
    """

    __slots__ = ("before", "blobs", "dropped", "record", "removed", "requests")

    def __init__(self, dropped: bool = False) -> None:
        """Begin with nothing, or with the end of what there was."""
        self.dropped = dropped
        self.record: tuple[str, str, bytes] | None = None
        self.before = [0, 0]
        self.blobs: tuple[deque[Blob], deque[Blob]] = (deque(), deque())
        self.requests: dict[int, Blob] = {}
        self.removed: set[int] = set()

    @property
    def adds(self) -> bool:
        """Whether there are messages to be added."""
        return any(self.blobs) or bool(self.requests)

    @property
    def deletes(self) -> bool:
        """Whether there is anything to be deleted."""
        return self.dropped or any(self.before) or bool(self.removed)

    def put(self, peer: str, state: dict[str, Any]) -> None:
        """
        Add the session, or replace its state.

        @raise TypeError: the state does not fit into JSON.
        @raise ValueError: the same.
        """
        # Encoded here and not in the thread: the state is as of now, and an error is
        # the caller's.
        values = _encode(list(state.values())).encode()
        self.record = (peer, _encode(list(state)), values)

    def append(self, outgoing: bool, blob: Blob) -> None:
        """Add messages, with higher numbers than those before."""
        self.blobs[outgoing].append(blob)

    def discard(self, outgoing: bool, before: int) -> None:
        """
        Delete messages with numbers below C{before}, in the file and of those that
        were to be added.
        """
        # What was acknowledged before it was written never gets to the disk.
        blobs = self.blobs[outgoing]
        while blobs and blobs[0].number + blobs[0].messages <= before:
            blobs.popleft()
        self.before[outgoing] = max(self.before[outgoing], before)

    def addRequest(self, blob: Blob) -> None:
        """Add an open request."""
        self.requests[blob.number] = blob

    def removeRequest(self, number: int) -> None:
        """Delete a request, in the file or of those that were to be added."""
        if self.requests.pop(number, None) is None:
            self.removed.add(number)

    def add(self, newer: Changes) -> None:
        """Add later changes, which drop nothing."""
        self.record = newer.record or self.record
        for outgoing in (False, True):
            self.discard(outgoing, newer.before[outgoing])
            self.blobs[outgoing].extend(newer.blobs[outgoing])
        for number in newer.removed:
            self.removeRequest(number)
        self.requests |= newer.requests


class SpoolFile:
    """An open file, for one thread at a time."""

    def __init__(
        self, path: Path, full: bool, maxSize: int = MAX_SIZE, shared: bool = False
    ) -> None:
        """
        Open a file, or make one that only its owner can read, and its directory.

        @param full: whether what is written survives a loss of power.
        @param maxSize: bytes that it may have, with its log, from C{MIN_MAX_SIZE}.
        @param shared: whether another program has the file open, which shares it.
        @raise SpoolError: it cannot be opened, is unsafe or damaged, or another
            program uses it; says what to do.
        @see: U{How to corrupt an SQLite database file, section 2.2
            <https://www.sqlite.org/howtocorrupt.html>}
        """
        self._path = path = Path(os.path.abspath(expanded(path)))
        self._isShared = shared
        self._bound = (maxSize - MAX_LOG - RESERVE) // PAGE  # of pages that are added
        try:
            # Nobody but SQLite opens the file itself: closing any other descriptor of
            # it would release the locks of this process.  So the lock that lets one of
            # several processes make the file is on another one, and what is checked
            # is the status of the name.
            with locked(path):
                if not os.path.lexists(path):
                    writeFile(path, b"", replace=False)
                for more in ("", "-wal", "-shm", "-journal"):
                    name = Path(f"{path}{more}")
                    if os.path.lexists(name):
                        checkStatus(name, os.lstat(name), OTHERS_ACCESS)
                self._connection = sqlite3.connect(
                    path, isolation_level=None, check_same_thread=False
                )
                try:
                    self._prepare(full, shared)
                except BaseException:
                    self._connection.close()
                    raise
                self._opened = self._found()
        except KeyFileError as error:
            raise SpoolError(str(error)) from error
        except _READING as error:
            raise self._explained(error) from error

    def _prepare(self, full: bool, shared: bool) -> None:
        """See whose database it is, and set it up; others' are not changed."""
        execute = self._connection.execute
        execute(f"PRAGMA busy_timeout = {BUSY_MILLIS if shared else 0}")
        execute(f"PRAGMA page_size = {PAGE}")  # of a file that is made
        with self._connection:
            execute("BEGIN EXCLUSIVE")
            if self._value("SELECT count(*) FROM sqlite_master") == 0:
                for statement in _SCHEMA:
                    execute(statement)
        if self._value("PRAGMA application_id") != _APPLICATION:
            raise SpoolError(
                f"{self._path} is another program's database: name another file"
            )
        version = self._value("PRAGMA user_version")
        if version != _VERSION:
            raise SpoolError(
                f"{self._path} is a spool of version {version}, and this aesm has "
                f"version {_VERSION}: use the aesm that made it, or name another file"
            )
        execute("PRAGMA journal_mode = WAL")
        self._value("SELECT count(*) FROM sqlite_master")  # so FILE-shm is used
        if not shared:
            self._lock()
        execute(f"PRAGMA busy_timeout = {BUSY_MILLIS}")
        execute(f"PRAGMA wal_autocheckpoint = {MAX_LOG // PAGE}")
        execute(f"PRAGMA journal_size_limit = {MAX_LOG}")
        self._setBound(self._bound)
        execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
        execute(f"PRAGMA fullfsync = {full:d}")  # means something on macOS alone
        execute("PRAGMA foreign_keys = ON")
        # Some builds overwrite what is deleted: on a full disk that would fail too.
        execute("PRAGMA secure_delete = OFF")
        # A copy of what is here, as VACUUM makes one, belongs into no other directory.
        execute("PRAGMA temp_store = MEMORY")
        damage = self._value("PRAGMA quick_check(1)")
        if damage != "ok":
            raise self.damaged(damage.splitlines()[-1])

    def _lock(self) -> None:
        """Have the file for ourselves, until it is closed or shared."""
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")

    def share(self) -> None:
        """Let other programs open the file, too."""
        self._isShared = True
        self._connection.execute("PRAGMA locking_mode = NORMAL")
        self._value("SELECT count(*) FROM session")  # takes effect with a transaction

    def reclaim(self) -> bool:
        """
        Have the file for ourselves again, if nobody else has it open any more.

        @return: whether that is so; else it is shared as before.
        """
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            self._lock()
        except sqlite3.OperationalError:
            self.share()
            return False
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLIS}")
        self._isShared = False
        return True

    def load(self, names: Iterable[str] | None = None) -> list[Stored]:
        """
        Read sessions.

        @param names: which, if they are there; None for all.
        @return: the sessions, the oldest first.
        @raise SpoolError: they cannot be read, or are damaged.
        """
        execute = self._connection.execute
        try:
            if names is None:
                return self._stored(execute(_SESSIONS), execute(_PARTS))
            found = []
            for name in names:
                rows = execute(_SESSION, (name,)).fetchall()
                parts = execute(_PARTS_OF, (rows[0][0],)) if rows else ()
                found += self._stored(rows, parts)
            return found
        except _READING as error:
            raise self._explained(error) from error

    def _stored(
        self, rows: Iterable[Sequence[Any]], parts: Iterable[Sequence[Any]]
    ) -> list[Stored]:
        """Put together what was read of sessions; C{SpoolError} if damaged."""
        sessions, keys = {}, {}
        for session, name, peer, keys[session] in rows:
            sessions[session] = Stored(name, peer, {}, [], [], [])
        for session, kind, *blob in parts:
            if session not in sessions:
                raise self.damaged("messages of no session")
            stored = sessions[session]
            if kind == _STATE:
                stored.state.update(self._parse(keys[session], blob[-1]))
            else:
                kept = {
                    _INCOMING: stored.incoming,
                    _OUTGOING: stored.outgoing,
                    _REQUEST: stored.requests,
                }
                kept[kind].append(Blob(*blob))
        return list(sessions.values())

    def _found(self) -> tuple[int, int] | None:
        """Tell which file has our name; None if there is none."""
        with suppress(OSError):
            found = os.lstat(self._path)
            return found.st_dev, found.st_ino
        return None

    def write(self, changes: Mapping[str, Changes]) -> None:
        """
        Write changes, by the session's name, all of them or nothing.

        @raise sqlite3.Error: it could not be written.
        """
        # With a log SQLite itself does not notice, and nobody would ever read it.
        if self._found() != self._opened:
            raise sqlite3.OperationalError(
                "the file that was opened is not there any more: put it back, or "
                "restart with a new one"
            )
        with locked(self._path) if self._isShared else nullcontext():
            self._writeAll(changes)

    def _writeAll(self, changes: Mapping[str, Changes]) -> None:
        """Do what C{write} does; raises C{sqlite3.Error} as it is."""
        try:
            self._transact(changes)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                raise
            # The way for a full file is another one, so that it costs others nothing.
            try:
                self._transact(changes, full=True)
            finally:
                self._setBound(self._bound)
        if any(change.deletes for change in changes.values()):
            self._shrink()

    def _transact(self, changes: Mapping[str, Changes], full: bool = False) -> None:
        """
        Try to write changes: what frees room first.

        @param full: whether the file was too full for them; leaves the bound changed.
        @raise sqlite3.Error: nothing was written.
        """
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            if full:
                self._setBound(self._bound + RESERVE // PAGE)
            new = self._amend(changes)
            if full and (new or any(change.adds for change in changes.values())):
                # Where next to nothing is in use, no waiting could make room.
                self._setBound(self._bound if self._used() > SMALL else NO_BOUND)
            self._extend(new, changes)

    def _setBound(self, pages: int) -> None:
        """Set how many pages the file may have; what it has it keeps."""
        self._connection.execute(f"PRAGMA max_page_count = {pages}")

    def _amend(self, changes: Mapping[str, Changes]) -> list[str]:
        """Write what changes or removes what is there; list what sessions are not."""
        execute, new = self._connection.execute, []
        for name, change in changes.items():
            if change.dropped:
                execute(_DROP, (name,))
            if change.record is not None:
                peer, keys, values = change.record
                if execute(_PUT, (values, name)).rowcount:
                    execute(_DESCRIBE, (peer, keys, name))
                else:
                    new.append(name)
            for kind, before in zip(_MESSAGES, change.before, strict=True):
                if before:
                    execute(_DISCARD, {"name": name, "kind": kind, "before": before})
            if change.removed:
                removed = ((name, number) for number in change.removed)
                self._connection.executemany(_REMOVE, removed)
        return new

    def _extend(self, new: list[str], changes: Mapping[str, Changes]) -> None:
        """Write what is added: sessions and messages."""
        connection = self._connection
        for name in new:
            peer, keys, values = cast("tuple[str, str, bytes]", changes[name].record)
            connection.execute(_ADD, (peer, keys, name))
            connection.execute(_APPEND, (_STATE, 0, 0, values, name))
        for name, change in changes.items():
            for kind, blobs in zip(_MESSAGES, change.blobs, strict=True):
                if blobs:
                    connection.executemany(
                        _APPEND, ((kind, *blob, name) for blob in blobs)
                    )
            if change.requests:
                requests = change.requests.values()
                connection.executemany(
                    _APPEND, ((_REQUEST, *blob, name) for blob in requests)
                )

    def _shrink(self) -> None:
        """Give back the room of what was deleted, if it is much and little is left."""
        free = self._value("PRAGMA freelist_count") * PAGE
        if free > SPARE and self._used() <= SMALL:
            with suppress(sqlite3.Error):  # there is no room to do it now
                self._connection.execute("VACUUM")
                self._value("PRAGMA wal_checkpoint(TRUNCATE)")

    def _used(self) -> int:
        """Tell how many bytes of the file are in use."""
        free = self._value("PRAGMA freelist_count")
        return PAGE * int(self._value("PRAGMA page_count") - free)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _value(self, query: str) -> Any:
        """Query one value."""
        return self._connection.execute(query).fetchone()[0]

    def _parse(self, keys: str, values: bytes) -> dict[str, Any]:
        """Decode a state; C{SpoolError} if it makes no sense."""
        try:
            return dict(zip(json.loads(keys), json.loads(values), strict=True))
        except (TypeError, ValueError) as error:
            raise self.damaged(str(error)) from None

    def _explained(self, error: Exception) -> SpoolError:
        """Turn an error of opening or reading into one that says what to do."""
        # What Python finds wrong with what SQLite reads has no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            return SpoolError(
                f"another program uses {self._path}: stop it, or name another file"
            )
        if code in _DAMAGE:
            return self.damaged(str(error))
        return SpoolError(
            f"cannot open {self._path}: {error}; it must be a file that this user can "
            "write to, on a disk that has room"
        )

    def damaged(self, reason: str) -> SpoolError:
        """Make the error for a file that cannot be used."""
        return SpoolError(
            f"{self._path} is no spool, or is damaged ({reason}): move it and its -wal "
            "away, and a new one is made"
        )
