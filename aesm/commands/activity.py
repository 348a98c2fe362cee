"""
The file of C{twistd aesm --activity-log}: a line of JSON for each entry of the activity
log, as it happens::

    file = ActivityFile("/var/log/aesm/activity.json")
    globalLogPublisher.addObserver(file)
    file.reopen()      # once logrotate has given it another name

Nothing that happens to the file ends the server, or is a line for each entry: that it
cannot be written is said once, and how many entries it lacks once it can be.
"""

from __future__ import annotations

import json
import os
import sys

from twisted.logger import ILogObserver, LogEvent, Logger
from zope.interface import implementer

from aesm.errors import KeyFileError
from aesm.trust.files import expanded, openToAppend

__all__ = ["ActivityFile", "activityLine"]

_log = Logger(namespace="aesm.daemon")

FIELDS = ("time", "event", "accepted", "address", "peer", "reason", "times")
STANDARD_OUTPUT = 1


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
        self._rest = b""  # of an entry that is written in part
        self._failed = False
        self._missing = 0  # entries, since it failed

    def __call__(self, event: LogEvent) -> None:
        """
        Write an event, if it is activity.

        @see: C{twisted.logger.ILogObserver}
        """
        line = activityLine(event)
        if line is not None:
            self._write(line.encode("ascii"))

    def reopen(self) -> None:
        """Go on in the file that has the path now; in the former one if none can."""
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
        if self._rest and not os.path.samestat(os.fstat(file), os.fstat(self._file)):
            self._rest = b""
            self._missing += 1
        os.close(self._file)
        self._file = file

    def ended(self) -> None:
        """Say what is missing, since nothing more comes."""
        if self._failed:
            self._say("the activity log ends, and was not written to the end")

    def _write(self, entry: bytes) -> None:
        """Write an entry, behind what is left of the one before it."""
        data = self._rest + entry
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            if len(data) < len(entry):
                self._rest = data  # else it would be half a line for ever
            else:
                self._rest = data[: len(data) - len(entry)]
                self._missing += 1
            if not self._failed:
                self._failed = True
                _log.error(
                    "cannot write the activity log: {reason}; the server goes on "
                    "without, and tries again with each entry",
                    reason=error.strerror,
                )
            return
        self._rest = b""
        if self._failed:
            self._failed = False
            self._say("the activity log can be written again")

    def _say(self, what: str) -> None:
        """Say how many entries are missing, and count anew."""
        missing, self._missing = self._missing, 0
        _log.warn(
            "{what}; entries that are missing: {missing}", what=what, missing=missing
        )


def activityLine(event: LogEvent) -> str | None:
    """
    Write an entry of the activity log.

    @return: a line of JSON, or None if the event is none.
    """
    if event.get("log_namespace") != "aesm.activity" or "event" not in event:
        return None
    return json.dumps({field: event[field] for field in FIELDS}) + "\n"
