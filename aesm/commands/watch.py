"""
C{aesm status}, on a terminal or anywhere else: once, or again and again::

    showOnce(ask, asJSON=False)
    watch(ask, asJSON=False)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from aesm.commands.control import NotDone
from aesm.commands.output import writeLine
from aesm.commands.signals import awaitInterrupt
from aesm.commands.table import linesOf
from aesm.text import asciiJSON

INTERVAL = 2.0  # seconds
# xterm: the alternate screen, without a cursor, and back.
BEGIN, END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, LINE_END, SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"

# Asks a server what goes on; there is room for so many connections, None for any.
Ask = Callable[[int | None], dict[str, Any]]


def showOnce(ask: Ask, asJSON: bool) -> int:
    """Show what goes on, and return the exit status."""
    for line in _shown(ask, asJSON):
        writeLine(line)
    return 0


def watch(ask: Ask, asJSON: bool) -> int:
    """
    Show what goes on, again and again until Ctrl-C, and also where the server ends and
    another one begins meanwhile: but there has to be one at first.

    @return: the exit status.
    """
    lines = _shown(ask, asJSON)
    awaitInterrupt()
    with _screen(not asJSON and _size() is not None) as draw:
        try:
            while True:
                draw(lines)
                time.sleep(INTERVAL)
                try:
                    lines = _shown(ask, asJSON)
                except NotDone as error:
                    lines = [str(error)]
        except KeyboardInterrupt:
            return 0


def _shown(ask: Ask, asJSON: bool) -> list[str]:
    """Ask, and write the answer in no more lines than the terminal has."""
    size = None if asJSON else _size()
    if size is None:
        answer = ask(None)
        return [asciiJSON(answer)] if asJSON else linesOf(answer, None)
    # One line is for the prompt.
    columns, height = size.columns, size.lines - 1
    return linesOf(ask(height), columns, height)


def _size() -> os.terminal_size | None:
    """Measure the terminal; None if standard output is none."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return size if size.columns and size.lines else None


@contextmanager
def _screen(isTerminal: bool) -> Iterator[Callable[[list[str]], None]]:
    """Have a screen meanwhile, if there is a terminal; gives what shows lines there."""
    if not isTerminal:
        yield _writeAll
        return
    former = signal.signal(signal.SIGTERM, _terminated)
    writeLine(BEGIN)
    try:
        yield _draw
    finally:
        writeLine(END)
        signal.signal(signal.SIGTERM, former)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """End, and leave the terminal as it was."""
    raise SystemExit(128 + number)


def _draw(lines: list[str]) -> None:
    """Show lines in the place of the former ones."""
    writeLine(
        HOME
        + "".join(f"{line}{LINE_END}\n" for line in lines[:-1])
        + lines[-1]
        + LINE_END
        + SCREEN_END
    )


def _writeAll(lines: list[str]) -> None:
    """Write lines, and an empty one behind several."""
    for line in lines if len(lines) == 1 else [*lines, ""]:
        writeLine(line)
