"""
The log of C{aesm serve}, as lines for people or as objects for machines::

    globalLogBeginner.beginLoggingTo([logObserver("info", "text")])

It goes to standard error, so that standard output has the activity log only.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from functools import partial
from io import FileIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
)

from aesm.text import escape

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("text", "json")
STANDARD_ERROR = 2
# Of log levels, as terminals have them; info is not coloured.
COLOURS = {
    LogLevel.debug: "\x1b[2m",
    LogLevel.warn: "\x1b[33m",
    LogLevel.error: "\x1b[31m",
    LogLevel.critical: "\x1b[1;31m",
}


def logObserver(level: str, form: str) -> ILogObserver:
    """
    Make what writes the log.

    @param level: one of L{LEVELS}; what is below is left out.
    @param form: one of L{FORMATS}.
    """
    # Python's own file may be missing, and would try to get rid of its rest at the
    # end.  Standard error itself is there, if only as /dev/null.
    file = FileIO(STANDARD_ERROR, "w", closefd=False)
    line = jsonLine if form == "json" else partial(textLine, isColoured=_isColoured())
    least = LogLevel.levelWithName(level)
    predicate = LogLevelFilterPredicate(defaultLogLevel=least)
    if least != LogLevel.debug:
        # What Twisted writes with its former log, such as "Port 8765 Closed", says
        # again what our own lines do.
        predicate.setLogLevelForNamespace("log_legacy", max(least, LogLevel.warn))
    return FilteringLogObserver(FileLogObserver(file, line), [predicate])


def textLine(event: LogEvent, isColoured: bool = False) -> str | None:
    """
    Write an event for people, without anything that a terminal would obey.

    @param isColoured: whether the level has a colour.
    @return: a line, or several of which all but the first are indented; None if there
        is nothing to say.
    """
    lines = eventAsText(event).rstrip("\n").split("\n")
    text = "\n\t".join(map(escape, lines))
    colour = COLOURS.get(event.get("log_level")) if isColoured else None
    if colour is not None:
        text = f"{colour}{text}\x1b[0m"
    return f"{text}\n" if text else None


def jsonLine(event: LogEvent) -> str | None:
    """
    Write an event for machines, in ASCII.

    @return: an object with C{time} (RFC 3339, UTC), C{level}, C{namespace},
        C{message}, and C{traceback} if there is one; None if there is nothing to say.
    """
    # The names are those that most collectors of logs look for.
    message = formatEvent(event)
    whole = eventAsText(event, includeTimestamp=False, includeSystem=False)
    if not whole:
        return None
    time = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    entry = {
        "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": getattr(event.get("log_level"), "name", "info"),
        "namespace": event.get("log_namespace", ""),
        "message": message,
    }
    if whole != message:
        entry["traceback"] = whole.removeprefix(message).strip("\n")
    return json.dumps(entry) + "\n"


def _isColoured() -> bool:
    """Tell whether who reads standard error wants colours (U{https://no-color.org})."""
    return (
        os.isatty(STANDARD_ERROR)
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
