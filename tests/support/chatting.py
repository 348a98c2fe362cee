"""
People who chat at random, and what the log of all nodes says that each is to be told::

    chance = random.Random(7)
    lineOf(chance, 12)                   # "/nick bob", "x 12", ...
    heard = Heard(entries)               # of the log, from its beginning
    heard.lines[session]                 # what is for one
    heard.said                           # what was sent, each time
    heard.replica.snapshot()             # what all nodes are to have
    Visit(sessions, got, sent, True).check(heard)
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise, takewhile
from typing import NamedTuple

from aesm.chat.replica import ChatReplica
from aesm.store.entries import decoded
from aesm.store.interface import Entry

__all__ = ["Heard", "Visit", "lineOf"]

CLOSED = "closed"
# What everybody is told first.
FIRST = ("note: choose a name", "error: your key is banned")
NAMES = ("ann", "bob", "cec", "dan", "eve", "A\u041d\u041d", "b0b", "Zoe")
ROOMS = ("den", "hall", "d3n", "lobby")


def lineOf(chance: random.Random, number: int) -> str:
    """
    Make a line that somebody writes.

    @param number: of the line, which is in what is said, so that it is said once only.
    """
    name, room, said = chance.choice(NAMES), chance.choice(ROOMS), f"x {number}"
    often = (said, said, said, f"/nick {name}", f"/msg {name} {said}", f"/join {room}")
    seldom = (
        *(f"/nick {name}{number % 10}", f"/regain {name}", "/leave", "/who", "/rooms"),
        *(f"/whois {name}", f"/ignore {name}", f"/unignore {name}", f"/kick {name}"),
    )
    if chance.random() < 0.01:
        return f"/ban {name} {said}"
    return chance.choice(often if chance.random() < 0.7 else seldom)


class Heard:
    """
    What one process, alone, makes of a log.

    @ivar replica: the chat then.
    @ivar lines: what each session is told.
    @ivar said: each text that somebody sent, and how often.
    """

    def __init__(self, log: Iterable[Entry], freeNames: bool = False) -> None:
        """@param log: all of it."""
        self.replica = ChatReplica(freeNames)
        self.lines: defaultdict[str, list[str]] = defaultdict(list)
        self.said: Counter[str] = Counter()
        for entry in log:
            told = decoded(entry)
            if isinstance(told.body, str):  # a session that is over
                rows = self.replica.gone(told.body)
            else:
                self.said[json.loads(told.body)[6]] += 1
                rows = self.replica.apply(told.body, told.micros)
            for line, names in rows:
                for name in names:
                    self.lines[name].append(CLOSED if line is None else line)


class Visit(NamedTuple):
    """
    Somebody who was there.

    @ivar sessions: those that they had.
    @ivar got: what they were told.
    @ivar sent: what they have said, each of which nobody else says.
    @ivar isThere: whether they are there yet.
    """

    sessions: list[str]
    got: list[str]
    sent: list[str]
    isThere: bool

    def wasCalled(self, name: str) -> bool:
        """Tell whether they had a name."""
        return any(line.startswith(f"you are {name} in ") for line in self.got)

    def check(self, heard: Heard) -> None:
        """
        Check that they were told all that was for them, until they left: then, or if
        they were sent away and did not hear that, they may have begun anew, and have
        heard less; and that each line was said once.

        @raise AssertionError: it is not so.
        """
        times = [heard.said[line] for line in self.sent]
        if max(times, default=0) > 1:
            raise AssertionError(f"said twice: {self.sent[times.index(max(times))]!r}")
        firsts = [n for n, line in enumerate(self.got) if line.startswith(FIRST)]
        ends = pairwise([*firsts, len(self.got)])
        got = [self.got[begin:end] for begin, end in ends]
        due = [heard.lines[name] for name in self.sessions]
        if self.isThere:
            if len(due) == 1 and 0 in times:
                raise AssertionError(f"not said: {self.sent[times.index(0)]!r}")
            last, mine = due.pop(), got.pop() if got else []
            if mine != last:
                same = takewhile(
                    lambda pair: pair[0] == pair[1], zip(mine, last, strict=False)
                )
                at = len(list(same))
                raise AssertionError(f"{mine[at:]} came instead of {last[at:]}")
            if [lines for lines in due if lines[-1:] != [CLOSED]]:
                raise AssertionError("a session was lost")
        for lines in got:
            whose = [each for each in due if each[: len(lines)] == lines]
            if not whose:
                raise AssertionError(f"nobody was to be told {lines}")
            due = due[due.index(whose[0]) + 1 :]
