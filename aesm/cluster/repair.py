"""
After an engine went back in time, or where nobody knows that it did not: what it lacks
of what a node has written is written again::

    found = await repair(engine, ours, grace, sealer)

This is how an acknowledged message survives a replica that took over without it, as
long as the node lives that has its session.  What was sent to others is said again
behind that (L{aesm.cluster.again}).  What cannot be restored is told: what was said to
all in the batches that are missing, and sessions that other nodes went on with before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from twisted.logger import Logger

from aesm.cluster.batch import MAX_BYTES, MAX_SESSIONS
from aesm.cluster.lease import TIME
from aesm.cluster.scripts import CHECK, COMMIT
from aesm.errors import SpoolError

if TYPE_CHECKING:
    from aesm.cluster.engine import Engine
    from aesm.cluster.image import Image
    from aesm.cluster.sealing import Clear

_log = Logger(namespace="aesm.cluster")

_WHOLE, _BEHIND, _MOVED, _FORKED = range(4)  # as check.lua says


class Found(NamedTuple):
    """
    What was found.

    @ivar last: the last batch of this node that the engine had.
    @ivar restored: how many sessions were written again.
    @ivar moved: those that are not ours any more.
    @ivar forked: those of them that went on without what was written here last.
    """

    last: int
    restored: int
    moved: list[str]
    forked: list[str]

    def tell(self, number: int) -> None:
        """
        Tell operators what an engine lacked.

        @param number: of the last batch of this node.
        """
        if self.last < number or self.restored:
            _log.warn(
                "the engine lacked the last {count} batches of this node: {restored} "
                "sessions are written again",
                count=number - max(self.last, 0),
                restored=self.restored,
            )
        if self.forked:
            _log.error(
                "{count} sessions went on at other nodes without what was written here "
                "last",
                count=len(self.forked),
            )


async def repair(
    engine: Engine, ours: Mapping[str, Image], grace: int, sealer: Clear
) -> Found:
    """
    See what the engine has, and write what it lacks.  Nothing else of this node may be
    written, and no session begin here, or come, meanwhile.

    @param ours: the sessions that are ours.
    @param grace: milliseconds that clients have to come back.
    @param sealer: seals what the engine keeps.
    @raise SpoolError: it cannot be done now, and has to be begun again.
    """
    history = engine.history
    found: dict[int, list[str]] = {state: [] for state in range(4)}
    last = -1
    for index, some in enumerate(_cut(dict.fromkeys(ours, 0)) or [[]]):
        said: list[object] = []
        for name in some:
            said += [name, ours[name].fence, ours[name].written]
        times = (round(TIME * 1000), grace)
        known = (engine.node, history, *times, int(index == 0), *said)
        last, states = await engine.call(CHECK, *known)
        for name, state in zip(some, states, strict=True):
            found[state].append(name)
    behind = [name for name in found[_BEHIND] if name in ours]
    for some in _cut({name: ours[name].size for name in behind}):
        there = {name: ours[name] for name in some if name in ours}  # still
        said = _restoring(there, grace, sealer)
        lost, _ = await engine.call(COMMIT, engine.node, engine.line, 0, *said)
        if lost:
            raise SpoolError("a session has moved while it was written again")
    moved = found[_MOVED] + found[_FORKED]
    return Found(last, len(behind), moved, found[_FORKED])


def _cut(sizes: Mapping[str, int]) -> list[list[str]]:
    """Cut sessions into as many as are told the engine at once."""
    cut: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not cut or size > room or len(cut[-1]) == MAX_SESSIONS:
            cut.append([])
            room = MAX_BYTES
        cut[-1].append(name)
        room -= size
    return cut


def _restoring(some: Mapping[str, Image], grace: int, sealer: Clear) -> list[object]:
    """Say all of some sessions, behind the number of the batch."""
    said: list[object] = [1, grace, 0, 0, 0, len(some)]
    for name, image in some.items():
        said += (name, image.fence)
    for key, (name, image) in enumerate(some.items(), 1):
        image.say(said, str(key), name, sealer)
    return said
