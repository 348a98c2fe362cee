"""
How far files are, on standard error::

    progress = progressFor(reactor)
    progress(name, done, size)         # any number of times
    progress.finished(name)
    progress.say("something else")

At a terminal, and with tqdm (C{pip install "aesm[tools]"}), each file has a bar with
its rate and the time that is left; else there is a line at intervals.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from twisted.internet.interfaces import IReactorTime

from aesm.commands.output import writeError
from aesm.status.units import seconds, size
from aesm.text import escape

INTERVAL = 10.0  # seconds between two lines about a file


def progressFor(clock: IReactorTime) -> Lines:
    """Make what suits standard error."""
    if os.isatty(2) and find_spec("tqdm") is not None:
        return Bars(clock)
    return Lines(clock)


class _Course:
    """How a file fares: what was there when it began, what is, and what was said."""

    def __init__(self, now: float, done: int, size: int) -> None:
        self.begun = self.told = now
        self.offset = self.done = done
        self.size = size
        self.bar: Any = None


class Lines:
    """Says at intervals how far files are."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._courses: dict[str, _Course] = {}

    def __call__(self, name: str, done: int, size: int) -> None:
        """So many bytes of a file are there."""
        now = self._clock.seconds()
        course = self._courses.get(name)
        if course is None:
            course = self._courses[name] = _Course(now, done, size)
            self._begin(name, course)
        elif done < course.offset:  # it begins again
            course.offset, course.begun = done, now
        course.done = done
        self._show(name, course, now)

    def say(self, text: str) -> None:
        """Say something, one sentence."""
        writeError(text)

    def finished(self, name: str) -> str:
        """Nothing more of a file comes: say how much of it did, and how fast."""
        course = self._courses.pop(name, None)
        if course is None:
            return ""
        self._end(course)
        took = self._clock.seconds() - course.begun
        sent = course.done - course.offset
        if course.offset and not sent:
            return f"all {size(course.size)}B were there already"
        before = f" after {size(course.offset)}B before" if course.offset else ""
        return f"{size(sent)}B in {seconds(took)}, {rate(sent, took)}{before}"

    def _begin(self, name: str, course: _Course) -> None:
        """Say that a file is on its way."""
        if 0 < course.offset < course.size:
            parts = f"{size(course.offset)}B of {size(course.size)}B"
            self.say(f"{name}: {parts} are there already")

    def _show(self, name: str, course: _Course, now: float) -> None:
        """Say how far a file is, if it is time to."""
        if now < course.told + INTERVAL:
            return
        course.told = now
        sent, took = course.done - course.offset, now - course.begun
        left = (course.size - course.done) * took / sent if sent else None
        parts = [f"{100 * course.done // max(course.size, 1)}%", rate(sent, took)]
        if left is not None:
            parts.append(f"{seconds(left)} left")
        self.say(f"{name}: {', '.join(parts)}")

    def _end(self, course: _Course) -> None:
        """Let go of what shows a file."""


class Bars(Lines):
    """Shows how far files are by bars."""

    def say(self, text: str) -> None:
        """Say something, above the bars."""
        bars = [course.bar for course in self._courses.values()]
        for bar in bars:
            bar.clear()
        super().say(text)
        for bar in bars:
            bar.refresh()

    def _begin(self, name: str, course: _Course) -> None:
        """Draw a bar."""
        course.bar = import_module("tqdm").tqdm(
            desc=escape(name),
            total=course.size,
            initial=course.offset,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )

    def _show(self, name: str, course: _Course, now: float) -> None:
        """Move the bar."""
        course.bar.update(course.done - course.bar.n)

    def _end(self, course: _Course) -> None:
        """Take the bar away."""
        course.bar.close()


def rate(sent: int, took: float) -> str:
    """Write how fast something goes."""
    return f"{size(sent / took if took > 0 else 0)}B/s"
