"""
People who chat at random, and what the log of all nodes says that each is to be told::

    chance = random.Random(7)
    lineOf(chance, 12)                   # "/nick bob", "x 12", ...
    told = Heard(entries)                # of the log, from its beginning
    told.lines[session]                  # what is for one
    told.said                            # what was sent, each time
    told.replica.snapshot()              # what all nodes are to have
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable

from aesm.chat.replica import ChatReplica
from aesm.store.entries import decoded
from aesm.store.interface import Entry

__all__ = ["CLOSED", "Heard", "lineOf"]

CLOSED = "closed"
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
