"""
C{aesm status}, once and again: L{aesm.commands.watch}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from io import StringIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from aesm.commands import watch as module
from aesm.commands.control import NotDone
from aesm.commands.watch import BEGIN, END, HOME, SCREEN_END, showOnce, watch
from tests.commands.test_table import answer, row


class Stream(StringIO):
    """Standard output that is a file, or a terminal."""

    def fileno(self) -> int:
        """Be the terminal that C{size} measures."""
        return 1


class WatchTests(SynchronousTestCase):
    """What is shown, and where."""

    def setUp(self) -> None:
        """Catch what is shown."""
        self.output = Stream()
        self.patch(sys, "stdout", self.output)
        self.patch(time, "sleep", self.sleep)
        self.size: os.terminal_size | None = None
        self.patch(os, "get_terminal_size", self.measure)
        self.asked: list[int | None] = []
        self.sleeps: list[float] = []
        self.answers: list[Any] = []
        self.last: BaseException = KeyboardInterrupt()

    def measure(self, descriptor: int) -> os.terminal_size:
        """Be a terminal, or not."""
        if self.size is None:
            raise OSError("Inappropriate ioctl for device")
        return self.size

    def ask(self, most: int | None) -> dict[str, Any]:
        """Answer, unless there is nobody."""
        self.asked.append(most)
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            raise given
        found: dict[str, Any] = given
        return found

    def sleep(self, seconds: float) -> None:
        """Do not; end behind the last answer."""
        self.sleeps.append(seconds)
        if not self.answers:
            raise self.last

    def test_once(self) -> None:
        """Elsewhere than on a terminal all is shown."""
        self.answers = [answer(row(), row())]
        self.assertEqual(showOnce(self.ask, False), 0)
        self.assertEqual(self.asked, [None])
        self.assertEqual(self.output.getvalue().count("alice"), 2)

    def test_terminal(self) -> None:
        """On a terminal, as much as fits, with a line for the prompt."""
        self.size = os.terminal_size((40, 10))
        self.answers = [answer(*[row()] * 50)]
        showOnce(self.ask, False)
        self.assertEqual(self.asked, [9])
        lines = self.output.getvalue().splitlines()
        self.assertEqual(len(lines), 9)
        self.assertLessEqual(max(map(len, lines)), 40)

    def test_noTerminal(self) -> None:
        """One without a size is none, nor is what has no number."""
        self.answers = [answer(), answer()]
        self.size = os.terminal_size((0, 0))
        showOnce(self.ask, False)
        self.patch(sys, "stdout", StringIO())
        showOnce(self.ask, False)
        self.assertEqual(self.asked, [None, None])

    def test_json(self) -> None:
        """For programs it is the answer, all of it, in printable ASCII."""
        self.size = os.terminal_size((40, 10))
        given = answer(row(name="\x7f\x1b\u202e"))
        self.answers = [given]
        showOnce(self.ask, True)
        self.assertEqual(self.asked, [None])
        text = self.output.getvalue()
        self.assertTrue(text[:-1].isprintable() and text.isascii())
        self.assertEqual(json.loads(text), given)

    def test_watch(self) -> None:
        """Elsewhere it is shown again and again, one below the other."""
        self.answers = [answer(row()), NotDone("no server"), answer(row())]
        self.assertEqual(watch(self.ask, False), 0)
        self.assertEqual(self.sleeps, [2.0] * 3)
        shown = self.output.getvalue()
        self.assertNotIn("\x1b", shown)
        self.assertEqual(shown.count("alice"), 2)
        self.assertIn("\n\nno server\n", shown)

    def test_watchJSON(self) -> None:
        """For programs, one a line."""
        self.answers = [answer(), answer()]
        watch(self.ask, True)
        for line in self.output.getvalue().splitlines():
            self.assertIs(json.loads(line)["ok"], True)

    def test_screen(self) -> None:
        """
        A terminal has a screen for it, which is redrawn, and is left as it was, however
        it ends.
        """
        before = signal.getsignal(signal.SIGTERM)
        for last in (KeyboardInterrupt(), SystemExit(143)):
            self.last = last
            self.size = os.terminal_size((40, 10))
            self.answers = [answer(row()), answer(row())]
            if isinstance(last, SystemExit):
                self.assertRaises(SystemExit, watch, self.ask, False)
            else:
                self.assertEqual(watch(self.ask, False), 0)
            shown = self.output.getvalue()
            self.assertTrue(shown.startswith(BEGIN))
            self.assertTrue(shown.endswith(f"{END}\n"))
            self.assertEqual((shown.count(HOME), shown.count(SCREEN_END)), (2, 2))
            self.assertEqual(signal.getsignal(signal.SIGTERM), before)
            self.output.truncate(0)
            self.output.seek(0)

    def test_terminated(self) -> None:
        """SIGTERM ends it with a shell's status for that."""
        ended = self.assertRaises(SystemExit, module._terminated, signal.SIGTERM, None)
        self.assertEqual(ended.code, 143)

    def test_nobody(self) -> None:
        """There has to be a server at first: the screen is not taken before."""
        self.size = os.terminal_size((40, 10))
        self.answers = [NotDone("no server")]
        self.assertRaises(NotDone, watch, self.ask, False)
        self.assertEqual(self.output.getvalue(), "")
