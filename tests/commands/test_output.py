"""
The standard files of a command.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from twisted.trial.unittest import SynchronousTestCase

from aesm.commands import output
from aesm.commands.output import OutputLost, openStandardFiles, writeError, writeLine


class WriteTests(SynchronousTestCase):
    """What is said, and what becomes of it where it cannot be."""

    def file(self, path: str | int) -> TextIO:
        """Open a file as C{sys.stdout} is: with a buffer."""
        file = open(path, "w", encoding="ascii")  # noqa: SIM115

        def close() -> None:
            """Close it, whatever is left in it."""
            with contextlib.suppress(OSError):
                file.close()

        self.addCleanup(close)
        return file

    def abandoned(self) -> TextIO:
        """Open a pipe that nobody reads."""
        reader, writer = os.pipe()
        os.close(reader)
        return self.file(writer)

    def test_error(self) -> None:
        """A line goes to standard error, with escapes for what that cannot write."""
        path = self.mktemp()
        self.patch(sys, "stderr", self.file(path))
        writeError("gr\u00fc\u00df\x1b")
        self.assertEqual(Path(path).read_text(), "aesm: gr\\xfc\\xdf\\x1b\n")

    def test_errorGone(self) -> None:
        """
        Where standard error takes nothing, or is closed, saying something does
        nothing; nothing is left for Python to write at its end.
        """
        closed = self.file(self.mktemp())
        closed.close()
        full = self.file("/dev/full")
        for file in (full, self.abandoned(), closed, None):
            self.patch(sys, "stderr", file)
            writeError("anybody?")
        full.flush()

    def test_errorStuck(self) -> None:
        """
        What standard error does not take is not waited for, and comes in order
        when it does.
        """
        self.patch(output, "ERROR_PATIENCE", 0.01)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"-" * 4096)
        os.set_blocking(writer, True)
        self.patch(sys, "stderr", self.file(writer))
        for word in ("one", "two"):
            writeError(word)
        got = b""
        while not got.endswith(b"two\n"):
            got += os.read(reader, 4096)
        os.close(reader)
        self.assertEqual(got.strip(b"-"), b"aesm: one\naesm: two\n")

    def test_line(self) -> None:
        """A line goes to standard output, with escapes for what that cannot write."""
        path = self.mktemp()
        self.patch(sys, "stdout", self.file(path))
        writeLine("gr\u00fc\u00df")
        self.assertEqual(Path(path).read_text(), "gr\\xfc\\xdf\n")

    def test_lineLost(self) -> None:
        """Where standard output takes nothing, that is known at once, and why."""
        for file, why in (
            (self.file("/dev/full"), "cannot write to standard output: No space"),
            (self.abandoned(), "standard output is closed"),
            (None, "standard output is closed"),
        ):
            self.patch(sys, "stdout", file)
            lost = self.assertRaises(OutputLost, writeLine, "something")
            self.assertIn(why, str(lost))
            if file is not None:
                file.flush()  # as Python does at its end


class StandardFilesTests(SynchronousTestCase):
    """The standard files are open."""

    def test_closed(self) -> None:
        """Where they are not, nothing else gets their numbers."""
        program = (
            "import os; from aesm.commands.output import openStandardFiles\n"
            "os.close(0); openStandardFiles(); print(os.readlink('/proc/self/fd/0'))"
            if os.path.exists("/proc/self/fd")
            else "print('/dev/null')"
        )
        path = os.pathsep.join([*filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.stdout, "/dev/null\n", done.stderr)

    def test_open(self) -> None:
        """Where they are, nothing is left behind."""
        before = os.open(os.devnull, os.O_RDONLY)
        os.close(before)
        openStandardFiles()
        after = os.open(os.devnull, os.O_RDONLY)
        os.close(after)
        self.assertEqual(after, before)
