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

MAX_SENT = 8 << 20  # bytes that are kept of what was sent

AGAIN = ("send", "read")  # what can be said again

_log = Logger(namespace="aesm.cluster")


class Sent:
    """What was sent to others, as far back as there is room."""

    def __init__(self) -> None:
        # Numbers of calls, how many bytes, and what they sent: an engine that has the
        # call has that.
        self._kept: deque[tuple[int, int, Call]] = deque()
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
        size = sum([effect.size for effect in call.effects])
        self._kept.append((number, size, Call.naming(call.named, call.effects)))
        self._size += size
        while self._size > MAX_SENT:
            self._dropped, size, _ = self._kept.popleft()
            self._size -= size

    def missing(self, last: int, due: int) -> list[Call]:
        """
        Tell what an engine lacks, and operators if some of it cannot be said again:
        what all were told, since who has got that keeps it.

        @param last: the number of the last call that it has.
        @param due: that of the first which it is told behind what it lacks.
        @return: what is to be said to it, as no numbered call.
        """
        kept, self._kept = self._kept, deque()
        missing, lost = [], max(self._told, self._dropped)
        if self._told > last:
            self._told = 0
        for number, size, call in kept:
            if number > last:
                call.effects = [
                    effect if effect.operation in AGAIN else SKIPPED
                    for effect in call.effects
                ]
                missing.append(call)
                number = due
            self._kept.append((number, size, call))
        if lost > max(last, 0):
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
    lost = 0
    try:
        for call in missing:
            causes = {effect.cause for effect in call.effects if effect.cause}
            call.changes = {name: Changes() for name in causes}
            # None is 0: the engine says of those that they are not ours.
            fences = {name: ours[name].fence for name in causes & ours.keys()}
            call.fences = dict.fromkeys(causes, 0) | fences
            moved, results = await _say(engine, call, grace, sealer)
            while moved:
                lost += call.causedBy(moved)
                call.without(moved)
                moved, results = await _say(engine, call, grace, sealer)
            lost += sum(results[1::2])
    finally:  # what is left out by now is not counted again
        if lost:
            _log.error(
                "{count} messages to other sessions, which the engine lacks, are lost: "
                "who caused them is at another node by now, or there is no room",
                count=lost,
            )


async def _say(
    engine: Engine, call: Call, grace: int, sealer: Clear
) -> tuple[list[str], list[int]]:
    """
    Say it, unless one of its sessions is not ours.

    @return: those that are not; and for each message how many have it, and how many
        have no room.
    """
    names = list(call.changes)
    said = call.arguments(grace, sealer, True)
    done = engine.call(COMMIT, engine.node, engine.line, 0, *said)
    moved, results = await done
    return [names[index - 1] for index, _ in moved], results
