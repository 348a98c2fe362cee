"""
C{aesm log}: what a server's activity log says, see C{aesm log --help}.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from twisted.python import usage

from aesm.commands.command import Command, parameter
from aesm.commands.history import (
    HASH,
    Broken,
    Query,
    asJSON,
    entriesOf,
    linesOf,
    moment,
    shown,
    verified,
    whoWasIn,
)
from aesm.commands.output import writeError, writeLine


class LogOptions(Command):
    """C{aesm log}."""

    synopsis = "FILE... [options]"
    longdesc = (
        "Shows what a server has written into its --activity-log, in local time.  "
        "Files may be given in any order, and packed by gzip; - is standard input.  A "
        "TIME is ISO 8601 (local, if it names no zone), a time of day such as 03:30, "
        "which is the last one that has been, or how long ago: 90s, 15m, 2h, 7d.  WHO "
        "is a name in the authorized keys, a public key or its beginning, a session, "
        "or an address.  With --verify the status is 1 if a line was changed, taken "
        "out or put in."
    )
    optParameters = [
        parameter("since", "Show what was at this TIME, and after it."),
        parameter("until", "Show what was at this TIME, and before it."),
        parameter("at", "Show who was in at this TIME."),
        parameter("who", "Show what concerns WHO."),
        parameter("event", "Show only accepted, lost, refused, probed, ..."),
        parameter("expect", "With --verify: a hash that the chain had once."),
    ]
    optFlags = [
        ["refused", None, "Show who was refused, and why: --event refused."],
        ["verify", None, "See whether the files are as they were written."],
        ["json", None, "Write JSON, one entry a line."],
    ]

    def parseArgs(self, *files: str) -> None:
        """Take the files."""
        self.files = files

    def postOptions(self) -> None:
        """Check the options."""
        if not self.files:
            raise usage.UsageError("name the file that the server's --activity-log is")
        given = {option for option in self if self[option]}
        for option, allowed in (
            ("verify", {"verify", "expect"}),
            ("at", {"at", "who", "json"}),
            ("refused", given - {"event"}),
        ):
            if option in given and not given <= allowed:
                other = min(given - allowed)
                raise usage.UsageError(f"--{option} and --{other}: give one of them")
        if self["expect"] is not None:
            self["expect"] = self["expect"].strip().lower()
            if not self["verify"] or not HASH.fullmatch(self["expect"]):
                raise usage.UsageError("--expect: give 64 hex digits, and --verify")
        event = "refused" if self["refused"] else self["event"]
        since, until, self.at = map(self._moment, ("since", "until", "at"))
        self.query = Query(since, until, self["who"], event)

    def run(self) -> int:
        """Answer."""
        try:
            for text in self._answer():
                writeLine(text)
        except Broken as error:
            writeError(str(error))
            return 1
        return 0

    def _answer(self) -> Iterator[str]:
        """Make the lines of the answer."""
        lines = linesOf(self.files)
        if self["verify"]:
            return verified(lines, self["expect"])
        entries = entriesOf(lines, writeError)
        if self.at is not None:
            inside = whoWasIn(entries, self.at, writeError)
            if not inside:
                writeError("nobody was in at that time")
            entries = iter(inside)
        return map(asJSON if self["json"] else shown, self.query.of(entries))

    def _moment(self, option: str) -> float | None:
        """Read an option's time, if it is given."""
        if self[option] is None:
            return None
        try:
            return moment(self[option], time.time())
        except ValueError as error:
            raise usage.UsageError(f"--{option}: {error}") from None
