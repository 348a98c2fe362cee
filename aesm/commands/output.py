"""
The standard files of a command::

    openStandardFiles()
    writeLine("what was asked for")
    writeError("what has to be said")

What cannot be said to anybody ends no command, and holds none up.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TextIO

from aesm.text import escape

STANDARD_FILES = (0, 1, 2)
ERROR_PATIENCE = 2.0  # seconds until a line on standard error is waited for no more


def openStandardFiles() -> None:
    """Keep the numbers of standard files that are closed, with C{/dev/null}."""
    # The system gives out the lowest free number: the first above them says that
    # there is none left among them.
    while (number := os.open(os.devnull, os.O_RDWR)) in STANDARD_FILES:
        pass
    os.close(number)


class OutputLost(Exception):
    """Standard output does not take what is written; says why."""

    def __init__(self, error: OSError | None) -> None:
        """@param error: what writing failed with; None if the file is not open."""
        if error is None or isinstance(error, BrokenPipeError):
            super().__init__("standard output is closed")
        else:
            super().__init__(f"cannot write to standard output: {error.strerror}")


def writeLine(text: str) -> None:
    """
    Write to standard output at once, with escapes for what its encoding lacks.

    @raise OutputLost: that is not possible.
    """
    file = sys.stdout
    if file is None:
        raise OutputLost(None)
    encoding = file.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, flush=True)
    except OSError as error:
        # Python tries again at its end, and would complain in words of its own.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, file.fileno())
        os.close(null)
        raise OutputLost(error) from None


# Standard error
#
# It may be a full pipe whose pager was stopped, a full disk, or have no reader: none of
# that may hold up or end a client.  So a thread writes, in order.  Who says something
# waits for it, as long as it is not stuck, so that a line normally is out before what
# comes next; and so does the end of the process, but neither for ever.


class _ErrorWriter:
    """Writes lines to standard error in a thread, which starts with the first."""

    def __init__(self) -> None:
        self._lines: SimpleQueue[tuple[Any, str, threading.Event]] = SimpleQueue()
        self._last: threading.Event | None = None  # is set once all is written

    def write(self, line: str) -> None:
        """Write a line, and wait a moment for that."""
        if self._last is None:
            threading.Thread(target=self._run, daemon=True).start()
            atexit.register(self._flush)
        isStuck = self._last is not None and not self._last.is_set()
        self._last = threading.Event()
        self._lines.put((sys.stderr, line, self._last))
        if not isStuck:
            self._last.wait(ERROR_PATIENCE)

    def _flush(self) -> None:
        """Wait a moment until all is written."""
        if self._last is not None:
            self._last.wait(ERROR_PATIENCE)

    def _run(self) -> None:
        """Write what comes, or drop what cannot be written."""
        while True:
            file, line, done = self._lines.get()
            # A file that is closed is None, or gives a ValueError.
            with suppress(AttributeError, OSError, ValueError):
                _writeNow(file, line)
            done.set()


def _writeNow(file: TextIO, line: str) -> None:
    """Write past Python's buffer, which would try what failed again at the end."""
    try:
        descriptor = file.fileno()
    except OSError:  # it is a file in memory
        file.write(line)
    else:
        os.write(descriptor, line.encode(file.encoding, "backslashreplace"))


_errors = _ErrorWriter()


def writeError(text: str) -> None:
    """
    Write a sentence to standard error, if that is possible, what it quotes escaped.
    """
    _errors.write(f"aesm: {escape(text)}\n")
