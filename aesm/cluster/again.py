"""
What a node sent to others last, and what it read of work: an engine that went back in
time may lack it, and is told it again::

    sent = Sent()
    sent.add(7, call)                  # the engine has the call of that number
    missing, lost = sent.missing(last=5, due=8, forked=())     # it has no more than 5
    for call in missing:                                       # before the call 8
        engine.call(COMMIT, node, line, 0, *call.arguments(grace, sealer, True))

It has the names that it had, and the engine looks for these: nobody gets twice what he
has, or had, however often it is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from aesm.cluster.batch import SKIPPED, Call

__all__ = ["MAX_SENT", "Sent"]

MAX_SENT = 8 << 20  # bytes that are kept of what was sent


class Sent:
    """What was sent to others, as far back as there is room."""

    def __init__(self) -> None:
        """Begin with nothing."""
        # Numbers of calls and what they sent: an engine that has the call has that.
        self._kept: deque[tuple[int, Call]] = deque()
        self._size = 0
        self._dropped = 0  # the last that is not kept any more

    def add(self, number: int, call: Call) -> None:
        """Keep what a call sent to others, if it did."""
        if not call.effects:
            return
        self._kept.append((number, Call.naming(call.named, call.effects)))
        self._size += _sizeOf(call)
        while self._size > MAX_SENT:
            self._dropped, oldest = self._kept.popleft()
            self._size -= _sizeOf(oldest)

    def missing(
        self, last: int, due: int, forked: Collection[str]
    ) -> tuple[list[Call], int]:
        """
        Tell what an engine lacks.

        @param last: the number of the last call that it has.
        @param due: that of the first which it is told behind what it lacks.
        @param forked: sessions that went on without what it lacks: what they caused
            is caused again.
        @return: what is to be said to it, as no numbered call; and how many messages
            cannot be, at least: those to all, since who has got one keeps it.
        """
        kept, self._kept = self._kept, deque()
        missing, lost = [], int(self._dropped > last)
        for number, call in kept:
            if number > last:
                number = due
                for at, effect in enumerate(call.effects):
                    isAgain = effect.operation in ("send", "read")
                    if not isAgain or effect.cause in forked:
                        lost += effect.data is not None
                        call.effects[at] = SKIPPED
                missing.append(call)
            self._kept.append((number, call))
        return missing, lost


def _sizeOf(call: Call) -> int:
    """Tell about how many bytes a call takes."""
    return sum([effect.size for effect in call.effects])
