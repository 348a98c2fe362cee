"""
The file of C{twistd aesm --activity-log}: a line of JSON for each entry of the activity
log, as it happens::

    file = ActivityFile("/var/log/aesm/activity.json")
    globalLogPublisher.addObserver(file)
    file.started()
    file.reopen()      # once logrotate has given it another name
    file.ended()

Nothing that happens to the file ends the server, or is a line for each entry: that it
cannot be written is said once, and how many entries it lacks once it can be.

The entries are a chain: each has a number, and the hash of the one before it, so that
L{aesm.commands.history} finds what was changed, taken out or put in.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from io import BytesIO
from typing import Any

from twisted.logger import ILogObserver, LogEvent, Logger
from zope.interface import implementer

from aesm._version import __version__
from aesm.errors import KeyFileError
from aesm.text import asciiJSON
from aesm.trust.files import expanded, openToAppend

_log = Logger(namespace="aesm.daemon")

# docs/operating.md, section "Logs"
FIELDS = ("time", "event", "accepted", "address", "peer", "reason", "times")
DETAILS = (  # that only some have
    *("name", "kind", "session", "suite", "agent", "back"),
    *("code", "kept", "duration", "received", "receivedBytes", "sent", "sentBytes"),
)
STANDARD_OUTPUT = 1
MAX_LINE = 1 << 16  # bytes, many times what one has
LOCK_TRIES = 20  # a millisecond apart
FOR_EVER = 1e11  # seconds, beyond what calendars have

# The chain
#
# An entry's C{seq} is its number, and its C{prev} the SHA-256, in hex, of what stands
# in the file since the entry before it began: that line with its end, as it was
# written.  It goes on in the next file after a rotation, whose first entry so names the
# last of the former file, and after a restart, for which the end of the file is read.
#
# What a crash of the machine or a full disk has left of a line stays where it is, and
# the next entry is told to be behind it (C{torn}): it is in the hash.  What could not
# be written at all is C{missing} in the next entry, and has no number.
#
# Another process may write to the same file: so each entry is written under a lock,
# and if the file is not as we left it its end is read again.


@implementer(ILogObserver)
class ActivityFile:
    """Observes the log, and writes what is activity to a file."""

    def __init__(self, path: str) -> None:
        """
        @param path: where to append; C{"-"} for standard output.
        @raise KeyFileError: that cannot be; says why.
        """
        # Absolute, since twistd changes its directory later.
        self._path = None if path == "-" else expanded(path).absolute()
        if self._path is not None:
            self._file = openToAppend(self._path)
        elif sys.__stdout__ is not None:
            self._file = STANDARD_OUTPUT
        else:
            raise KeyFileError("standard output is closed")
        self._isRunning = False
        self._seq = 0  # of the last entry
        self._last = b""  # what stands in the file since that began
        self._size = -1  # of the file, as we left it
        self._torn = False  # there is more in it than that entry
        self._newline = b""  # which that lacks
        self._rest = b""  # of an entry that is written in part
        self._failed = False
        self._missing = 0  # entries, since the last one that says so
        self._lost = 0  # the same, since it failed
        # What was so before the entry that is written in part.
        self._before = (self._seq, self._last, self._torn, self._missing)

    def __call__(self, event: LogEvent) -> None:
        """Write an event, if it is activity."""
        if event.get("log_namespace") == "aesm.activity" and "event" in event:
            fields = [*FIELDS, *(field for field in DETAILS if field in event)]
            self._write({field: event[field] for field in fields})

    def started(self, upgrade: bool = False) -> None:
        """
        Say that the server listens; who was in is not any more, unless it took over.
        """
        self._isRunning = True
        self._tell("started", upgrade, version=__version__)

    def ended(self, upgrade: bool = False) -> None:
        """
        Say that the server has stopped, if it ran, or that another one goes on.
        """
        if self._isRunning:
            self._isRunning = False
            self._tell("stopped", upgrade)
        if self._failed:
            self._say("the activity log ends, and was not written to the end")

    def _tell(self, event: str, upgrade: bool, **details: str) -> None:
        """Write of the server itself."""
        # Who reads the file finds in each line what was always in all of them.
        entry: dict[str, object] = dict.fromkeys(FIELDS)
        entry |= {"time": time.time(), "event": event, "accepted": False, "times": 1}
        entry |= {"reason": "", **details, "pid": os.getpid()}
        self._write(entry | {"upgrade": True} if upgrade else entry)

    def reopen(self) -> None:
        """
        Go on in the file that has the path now; in the former one if none can.

        An empty one gets an entry at once: else the chain would end if the next one
        to write is another process.
        """
        if self._path is None:
            return
        try:
            file = openToAppend(self._path)
        except KeyFileError as error:
            _log.error(
                "{error}; the activity log goes on in the former file",
                error=str(error),
            )
            return
        if not os.path.samestat(os.fstat(file), os.fstat(self._file)):
            if self._rest or self._sizeNow() != self._size:
                with suppress(OSError):
                    self._readEnd()
            self._size = -1
        os.close(self._file)
        self._file = file
        if self._seq and self._sizeNow() == 0:
            self._tell("rotated", False)

    # Write

    def _write(self, fields: dict[str, Any]) -> None:
        """Write an entry, behind what is left of the one before it."""
        with self._alone():
            entry, data = b"", self._rest + self._newline
            failed = False
            try:
                if self._sizeNow() != self._size:
                    self._readEnd()
                entry = self._link(fields)
                data = self._rest + self._newline + entry
                while data:
                    data = data[os.write(self._file, data) :]
            except OSError as error:
                failed = True
                self._cannotWrite(error, data, entry)
            else:
                self._wrote(entry, b"")
            self._size = self._sizeNow()
        if self._failed and not failed:
            self._failed = False
            self._say("the activity log can be written again")

    def _link(self, fields: dict[str, Any]) -> bytes:
        """Make an entry the next of the chain."""
        last = self._last + self._newline
        if self._torn:
            fields["torn"] = True
        if self._missing:
            fields["missing"] = self._missing
        fields["seq"] = self._seq + 1
        fields["prev"] = sha256(last).hexdigest() if last else None
        return encoded(fields)

    def _wrote(self, entry: bytes, rest: bytes) -> None:
        """Take note that an entry is in the file, but for a rest."""
        last = self._last + self._newline
        self._before = (self._seq, last, self._torn, self._missing)
        self._seq += 1
        self._last, self._rest, self._newline = entry, rest, b""
        self._torn, self._missing = False, 0

    def _cannotWrite(self, error: OSError, data: bytes, entry: bytes) -> None:
        """Keep what must follow what was written: what is left of an entry."""
        if len(data) < len(entry):
            self._wrote(entry, data)  # else it would be half a line for ever
        else:
            before = data[: len(data) - len(entry)]
            if self._rest:
                self._rest = before
            elif not before:
                self._last, self._newline = self._last + self._newline, b""
            self._missing += 1
            self._lost += 1
        if not self._failed:
            self._failed = True
            _log.error(
                "cannot write the activity log: {reason}; the server goes on "
                "without, and tries again with each entry",
                reason=error.strerror,
            )

    def _say(self, what: str) -> None:
        """Say how many entries are missing, and count anew."""
        missing, self._lost = self._lost, 0
        _log.warn(
            "{what}; entries that are missing: {missing}", what=what, missing=missing
        )

    # Read

    def _readEnd(self) -> None:
        """See how a file ends that is not as we left it."""
        if self._rest:
            missing = self._missing + 1
            self._seq, self._last, self._torn, self._missing = self._before
            self._rest = b""
            self._missing += missing
            self._lost += 1
        start = max(0, self._sizeNow() - MAX_LINE)
        end = os.pread(self._file, MAX_LINE, start)
        self._newline = b"" if end.endswith(b"\n") or not end else b"\n"
        lines = BytesIO(end).readlines()
        for number in reversed(range(len(lines))):
            entry = readEntry(lines[number])
            if entry is not None:
                self._seq = entry["seq"]
                self._last = b"".join(lines[number:])
                self._torn = number + 1 < len(lines)
                return
        self._last += end
        self._torn |= bool(end)

    def _sizeNow(self) -> int:
        """Tell how long the file is; -1 for what cannot be read again."""
        if self._path is not None:
            with suppress(OSError):
                status = os.fstat(self._file)
                return status.st_size if stat.S_ISREG(status.st_mode) else -1
        return -1

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes that write to the file waiting."""
        # Who may read the file may lock it, too: so nobody is waited for for long.
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                break  # there are no locks in this file system
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)


def encoded(entry: dict[str, Any]) -> bytes:
    """Write an entry: a line of printable ASCII."""
    return asciiJSON(entry).encode("ascii") + b"\n"


def readEntry(line: bytes) -> dict[str, Any] | None:
    """
    Read an entry.

    @param line: with its end or without.
    @return: has C{time}, C{event}, C{seq} and C{prev} as they must be, and the rest as
        it stands there; None if it is something else.
    """
    try:
        entry: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match entry:
        case {
            "time": int() | float() as when,
            "event": str(),
            "seq": int() as seq,
            "prev": str() | None,
        } if -FOR_EVER < when < FOR_EVER and seq > 0:
            return entry
    return None
