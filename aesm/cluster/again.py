"""
What a node sent to others last, and what it read of work: an engine that went back in
time may lack it, and is told it again::

    sent = Sent()
    sent.add(7, call)                       # the engine has the call of that number
    missing = sent.missing(last=5, due=8)    # it has no more than 5
    await again(engine, missing, ours, grace, sealer)    # before the call 8

It has the names that it had, and the engine looks for these: nobody gets twice what he
has, or had, however often it is said.  What a session caused that is another node's by
then is not said again: it would come behind what it causes there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from twisted.logger import Logger

from aesm.cluster.batch import SKIPPED, Call, Changes
from aesm.cluster.scripts import COMMIT

if TYPE_CHECKING:
    from aesm.cluster.engine import Engine
    from aesm.cluster.image import Image
    from aesm.cluster.sealing import Clear

__all__ = ["MAX_SENT", "Sent", "again"]

MAX_SENT = 8 << 20  # bytes that are kept of what was sent

AGAIN = ("send", "read")  # what can be said again

_log = Logger(namespace="aesm.cluster")


class Sent:
    """What was sent to others, as far back as there is room."""

    def __init__(self) -> None:
        """Begin with nothing."""
        # Numbers of calls and what they sent: an engine that has the call has that.
        self._kept: deque[tuple[int, Call]] = deque()
        self._size = 0
        self._dropped = 0  # the last that is not kept any more
        self._told = 0  # the last that told all something

    def add(self, number: int, call: Call) -> None:
        """Keep what a call sent to others, if it did."""
        operations = {effect.operation for effect in call.effects}
        if not operations.isdisjoint(("log", "gone")):
            self._told = number
        if operations.isdisjoint(AGAIN):
            return
        self._kept.append((number, Call.naming(call.named, call.effects)))
        self._size += _sizeOf(call)
        while self._size > MAX_SENT:
            self._dropped, oldest = self._kept.popleft()
            self._size -= _sizeOf(oldest)

    def missing(self, last: int, due: int) -> list[Call]:
        """
        Tell what an engine lacks, and operators if some of it cannot be said again:
        what all were told, since who has got that keeps it.

        @param last: the number of the last call that it has.
        @param due: that of the first which it is told behind what it lacks.
        @return: what is to be said to it, as no numbered call.
        """
        kept, self._kept, self._size = self._kept, deque(), 0
        missing, lost = [], max(self._told, self._dropped)
        if self._told > last:
            self._told = 0
        for number, call in kept:
            if number > last:
                call.effects = [
                    effect if effect.operation in AGAIN else SKIPPED
                    for effect in call.effects
                ]
                missing.append(call)
                number = due
            self._kept.append((number, call))
            self._size += _sizeOf(call)
        if lost > last:
            _log.error(
                "some of what went to all nodes and other sessions in {count} batches "
                "may be lost: the engine lacks it",
                count=lost - max(last, 0),
            )
        return missing


async def again(
    engine: Engine,
    missing: Iterable[Call],
    ours: Mapping[str, Image],
    grace: int,
    sealer: Clear,
) -> None:
    """
    Say again what an engine lacks, and tell operators what cannot be.

    @param missing: which L{Sent} has told.
    @param ours: the sessions that are ours.
    @param grace: milliseconds that clients have to come back.
    @param sealer: seals what the engine keeps.
    @raise SpoolError: it cannot be done now, and has to be begun again.
    """
    moved = full = 0
    try:
        for call in missing:
            causes = {effect.cause for effect in call.effects if effect.cause}
            while True:
                there = [name for name in causes if name in ours]
                call.changes = {name: Changes() for name in there}
                call.fences = {name: ours[name].fence for name in there}
                before = call.effects
                call.effects = [
                    SKIPPED if each.cause and each.cause not in there else each
                    for each in before
                ]
                moved += sum(
                    [
                        each.data is not None and it is SKIPPED
                        for each, it in zip(before, call.effects, strict=True)
                    ]
                )
                said = call.arguments(grace, sealer, True)
                done = engine.call(COMMIT, engine.node, engine.line, 0, *said)
                lost, results = await done
                if not lost:
                    break
                causes = causes.difference(there[index - 1] for index, _ in lost)
            full += sum(results[1::2])
    finally:  # what is left out here is not counted again
        if moved or full:
            _log.error(
                "{count} messages to other sessions, which the engine lacks, are lost: "
                "who caused them is at another node by now, or there is no room",
                count=moved + full,
            )


def _sizeOf(call: Call) -> int:
    """Tell about how many bytes a call takes."""
    return sum([effect.size for effect in call.effects])
