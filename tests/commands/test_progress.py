"""
How far files are, on standard error.
"""

from __future__ import annotations

import os
import sys
from io import StringIO

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from aesm.commands.progress import Bars, Lines, progressFor, rate


class ProgressTestCase(SynchronousTestCase):
    """What people see."""

    def setUp(self) -> None:
        """Catch what is said."""
        self.clock = Clock()
        self.errors = StringIO()
        self.patch(sys, "stderr", self.errors)

    def taken(self) -> str:
        """Take what was said."""
        said = self.errors.getvalue()
        self.errors.seek(0)
        self.errors.truncate()
        return said


class LinesTests(ProgressTestCase):
    """Without a terminal, or without tqdm."""

    def test_lines(self) -> None:
        """There is a line now and then, with rate and the time that is left."""
        lines = Lines(self.clock)
        lines("a.bin", 0, 1000 << 20)
        self.clock.advance(9)
        lines("a.bin", 90 << 20, 1000 << 20)
        self.assertEqual(self.taken(), "")
        self.clock.advance(1)
        lines("a.bin", 100 << 20, 1000 << 20)
        self.assertEqual(self.taken(), "aesm: a.bin: 10%, 10MB/s, 90s left\n")
        self.clock.advance(5)
        lines("a.bin", 1000 << 20, 1000 << 20)
        self.assertEqual(self.taken(), "")
        self.assertEqual(lines.finished("a.bin"), "1000MB in 15s, 67MB/s")
        self.assertEqual(lines.finished("a.bin"), "")

    def test_resumed(self) -> None:
        """What was there before counts for no rate."""
        lines = Lines(self.clock)
        lines("a", 600, 1000)
        self.assertEqual(self.taken(), "aesm: a: 600B of 1000B are there already\n")
        self.clock.advance(2)
        lines("a", 1000, 1000)
        self.assertEqual(lines.finished("a"), "400B in 2s, 200B/s after 600B before")

    def test_there(self) -> None:
        """A file that is there already is told as such."""
        lines = Lines(self.clock)
        lines("a", 1000, 1000)
        self.assertEqual(lines.finished("a"), "all 1000B were there already")
        self.assertEqual(self.taken(), "")

    def test_beginsAgain(self) -> None:
        """A file may begin again, from where it is."""
        lines = Lines(self.clock)
        lines("a", 600, 1000)
        self.taken()
        lines("a", 0, 1000)
        self.clock.advance(10)
        lines("a", 0, 1000)
        self.assertEqual(self.taken(), "aesm: a: 0%, 0B/s\n")
        lines("a", 1000, 1000)
        self.assertEqual(lines.finished("a"), "1000B in 10s, 100B/s")

    def test_empty(self) -> None:
        """An empty file is done with as soon as it begins."""
        lines = Lines(self.clock)
        lines("a", 0, 0)
        self.clock.advance(10)
        lines("a", 0, 0)
        self.assertEqual(self.taken(), "aesm: a: 0%, 0B/s\n")
        self.assertEqual(rate(0, 0.0), "0B/s")


class BarsTests(ProgressTestCase):
    """At a terminal."""

    def test_bar(self) -> None:
        """A file has a bar until it is done with; what is said stands above it."""
        bars = Bars(self.clock)
        bars("a\x1b.bin", 250, 1000)
        self.assertIn("a\\x1b.bin:  25%", self.taken())
        bars("a\x1b.bin", 1000, 1000)
        bars.say("hello")
        said = self.taken()
        self.assertIn("\raesm: hello\n", said)
        self.assertIn("100%", said)
        self.assertIn("750B in 0s", bars.finished("a\x1b.bin"))
        self.assertTrue(self.taken().endswith("\r"))

    def test_beginsAgain(self) -> None:
        """A bar goes back where the file does."""
        bars = Bars(self.clock)
        bars("a", 600, 1000)
        bars("a", 0, 1000)
        bars.say("")
        self.assertIn("a:   0%", self.taken())
        bars.finished("a")

    def test_chosen(self) -> None:
        """Bars are for terminals, where tqdm is there."""
        self.patch(os, "isatty", lambda descriptor: descriptor == 2)
        self.assertIs(type(progressFor(self.clock)), Bars)
        self.patch(sys, "path", [])
        self.patch(sys, "modules", {**sys.modules})
        sys.modules.pop("tqdm", None)
        self.assertIs(type(progressFor(self.clock)), Lines)
        self.patch(os, "isatty", lambda descriptor: False)
        self.assertIs(type(progressFor(self.clock)), Lines)
