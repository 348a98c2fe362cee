"""
The log of C{aesm serve}.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

from twisted.logger import LogEvent, Logger, LogLevel, LogPublisher
from twisted.python import log as former
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from aesm.commands import serverlog
from aesm.commands.serverlog import jsonLine, logObserver, textLine


def event(text: str, level: Any = LogLevel.info, **more: object) -> LogEvent:
    """
    Make an event.

    @param text: what it says.
    @param more: its other fields.
    """
    return {
        "log_format": "{text}",
        "text": text,
        "log_time": 1795404286.5879889,
        "log_level": level,
        "log_namespace": "aesm.server",
        **more,
    }


def failure() -> Failure:
    """Make a failure with a traceback, and with text that is not safe to show."""
    try:
        raise ValueError("no\x1b[2J")
    except ValueError:
        return Failure()


class TextTests(SynchronousTestCase):
    """Lines for people."""

    def test_line(self) -> None:
        """An event is a line with the time, where it comes from, and its level."""
        line = textLine(event("hällo")) or ""
        self.assertRegex(line, r"\A\d{4}-\S+ \[aesm\.server#info\] hällo\n\Z")

    def test_escapes(self) -> None:
        """No terminal obeys what it is shown; lines behind the first are indented."""
        line = textLine(event("a\x1b[2J\nb\r\x9bc\u202ed\udcff", log_failure=failure()))
        assert line is not None
        first, second, *rest = line.rstrip("\n").split("\n")
        self.assertTrue(first.endswith(r"a\x1b[2J"))
        self.assertEqual(second, "\t" + r"b\r\x9bc\u202ed\udcff")
        self.assertIn(r"ValueError: no\x1b[2J", rest[-1])
        for each in rest:
            self.assertTrue(each[0] == "\t" and each[1:].isprintable(), each)
        line.encode("utf-8")

    def test_colours(self) -> None:
        """What is not as it should be is coloured, to its end, and only if asked."""
        for level, isColoured in (
            (LogLevel.debug, True),
            (LogLevel.info, False),
            (LogLevel.warn, True),
            (LogLevel.error, True),
            (LogLevel.critical, True),
        ):
            line = textLine(event("x", level), isColoured=True) or ""
            self.assertEqual(line.startswith("\x1b["), isColoured, level)
            self.assertEqual(line.endswith("\x1b[0m\n"), isColoured, level)
            self.assertNotIn("\x1b", textLine(event("x", level)) or "")

    def test_nothing(self) -> None:
        """An event without text is no line."""
        for form in (textLine, jsonLine):
            self.assertIsNone(form({"log_time": 1.0, "log_level": LogLevel.info}))


class JSONTests(SynchronousTestCase):
    """Objects for machines."""

    def test_fields(self) -> None:
        """An event is one line of ASCII, with the fields that machines look for."""
        line = jsonLine(event("hä\n\x1b\udcff")) or ""
        self.assertTrue(
            line.isascii() and line.endswith("\n") and "\n" not in line[:-1]
        )
        self.assertEqual(
            json.loads(line),
            {
                "time": "2026-11-23T03:24:46.587Z",
                "level": "info",
                "namespace": "aesm.server",
                "message": "hä\n\x1b\udcff",
            },
        )

    def test_traceback(self) -> None:
        """A failure's traceback is a field of its own."""
        line = jsonLine(event("why", LogLevel.critical, log_failure=failure()))
        entry = json.loads(line or "")
        self.assertEqual((entry["level"], entry["message"]), ("critical", "why"))
        self.assertTrue(entry["traceback"].startswith("Traceback"))
        self.assertIn("ValueError", entry["traceback"])


class ObserverTests(SynchronousTestCase):
    """What writes the log."""

    def written(self, level: str, form: str = "text") -> str:
        """
        Write an event of each level, and two of Twisted's former log.

        @return: what is in the file that is standard error.
        """
        with tempfile.TemporaryFile("w+b") as file:
            self.patch(serverlog, "STANDARD_ERROR", file.fileno())
            publisher = LogPublisher(logObserver(level, form))
            logger = Logger(namespace="aesm.server", observer=publisher)
            for each in ("debug", "info", "warn", "error", "critical"):
                logger.emit(LogLevel.levelWithName(each), each)
            legacy = former.LogPublisher(publisher, publisher)
            legacy.msg("legacy message")
            legacy.msg("legacy error", isError=True)
            file.seek(0)
            return file.read().decode()

    def test_levels(self) -> None:
        """
        What is below the level is left out; of what comes by Twisted's former log
        what is not even a warning, too, unless all is wanted.
        """
        every = ["debug", "info", "warn", "error", "critical"]
        for number, level in enumerate(every[:4]):
            lines = self.written(level).splitlines()
            said = [line.rpartition("] ")[2] for line in lines]
            message = ["legacy message"] if level == "debug" else []
            self.assertEqual(said, [*every[number:], *message, "legacy error"])

    def test_json(self) -> None:
        """In the other form each line is an object."""
        entries = [
            json.loads(line) for line in self.written("warn", "json").splitlines()
        ]
        self.assertEqual(
            [entry["message"] for entry in entries],
            ["warn", "error", "critical", "legacy error"],
        )

    def test_isColoured(self) -> None:
        """There are colours on a terminal, unless it or the user has none."""
        for isTerminal, variables, isColoured in (
            (True, {}, True),
            (True, {"NO_COLOR": ""}, True),
            (True, {"NO_COLOR": "1"}, False),
            (True, {"TERM": "dumb"}, False),
            (False, {}, False),
        ):
            self.patch(os, "isatty", lambda file, answer=isTerminal: answer)
            self.patch(os, "environ", variables)
            self.assertEqual("\x1b" in self.written("warn"), isColoured, variables)
            self.assertNotIn("\x1b", self.written("warn", "json"))
