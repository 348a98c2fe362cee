"""
What all nodes are told, as an engine has it, for a store::

    log = EngineLog(engine, writer, lease, members)
    log.write(cause, data, tell)                 # with what is committed next
    log.read(after, name, room).addCallback(goOn)
    log.sayEnds(endEntry)                        # from now on
    log.ends(name)                               # a session of ours is removed
    log.readSnapshots().addCallback(restore)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from aesm.cluster.batch import Effect
from aesm.cluster.lease import REMEMBERED, Lease
from aesm.cluster.scripts import LOG, SAY, SNAPSHOT, SNAPSHOTS
from aesm.errors import SpoolError
from aesm.messages.deferred import ignore
from aesm.store.interface import Entry, LogPage, Snapshot

if TYPE_CHECKING:
    from aesm.cluster.engine import Engine
    from aesm.cluster.members import Members
    from aesm.cluster.writer import Writer

_log = Logger(namespace="aesm.cluster")

# Sessions that are over
#
# Where a replica wants to know (L{aesm.store.replicated}), a script that removes a
# session notes that in a set, C{gone}; and the entry that says so is written by one
# that takes it out of there, so that there is one, whoever finds that it is over, and
# dies before it has said so.  Scripts cannot make the entry, which may be sealed.  For
# a session that a node removes itself both are in one batch; of others each node learns
# when it cleans up (L{Lease}).


class EngineLog:
    """The log of a cluster, at one node: what a C{ILogStore} has in addition."""

    def __init__(
        self, engine: Engine, writer: Writer, lease: Lease, members: Members
    ) -> None:
        """
        @param engine: has it.
        @param writer: what else is written.
        @param lease: cleans up.
        @param members: reads what the engine keeps.
        """
        self._engine = engine
        self._writer = writer
        self._lease = lease
        self._sealer = members.sealer
        self._members = members
        self._endEntry: Callable[[str], bytes] | None = None
        self._dropped: list[str] = []  # sessions that are removed with the next commit

    def write(
        self, cause: str, data: bytes, tell: Callable[[int, bytes], object]
    ) -> None:
        """Write something."""
        written = partial(self._written, tell)
        self._writer.next.effects.append(Effect("log", cause, (), data, written))

    def _written(
        self, tell: Callable[[int, bytes], object], position: int, number: int
    ) -> None:
        """Something is in the log, by the name that the script gives it."""
        name = f"{self._engine.node}:{number}"
        tell(position, name.encode())

    def heard(
        self,
        words: bytes,
        isKnown: Callable[[int], bool],
        told: Callable[[Entry], object],
    ) -> None:
        """
        Read what all were told by one commit: entries that follow each other.

        @param isKnown: tells whether all up to a position is known.
        @param told: called with each that may not be.
        """
        head, members = words.split(b"\n", 1)
        position, *sizes = map(int, head.split())
        if isKnown(position + len(sizes) - 1):  # mostly it is our own
            return
        for entry in self._members.heard(position, sizes, members):
            told(entry)

    def read(self, after: int, name: bytes, room: int) -> Deferred[LogPage | None]:
        """
        Read a part.

        @param room: for how many bytes.
        @see: L{ILogStore.readLog<aesm.store.interface.ILogStore.readLog>}
        """
        found = self._engine.call(LOG, after, name, room)
        return found.addCallback(self._cbRead)

    def _cbRead(self, found: list[Any] | None) -> LogPage | None:
        """Read what there is."""
        if found is None:
            return None
        first, last, *more = found
        return LogPage(first, last, self._members.told(more[0]) if more else None)

    def say(self, node: str, words: bytes) -> Deferred[int]:
        """Ring a node's doorbell, or all."""
        channel = f"n:{node}" if node else "log"
        return self._engine.call(SAY, channel, b"say " + words)

    # Sessions that are over

    def sayEnds(self, endEntry: Callable[[str], bytes]) -> None:
        """Say of all sessions that are removed that they are over, from now on."""
        self._endEntry = endEntry
        self._lease.ended = self._cbEnded

    def ends(self, name: str) -> None:
        """A session of ours is removed with what is committed next."""
        self._dropped.append(name)

    def flush(self) -> None:
        """Something is committed: say which are over, behind all else of this turn."""
        dropped, self._dropped = self._dropped, []
        for name in dropped:
            self._sayEnded(name, name)

    def _sayEnded(self, name: str, cause: str) -> None:
        """Say that a session is over, unless somebody else has, or its cause is not."""
        if self._endEntry is not None:
            entry = self._endEntry(name)
            effect = Effect("gone", cause, (name,), entry, ignore)
            self._writer.next.effects.append(effect)

    def _cbEnded(self, names: list[bytes]) -> None:
        """Say of sessions that are over, unless somebody else does before."""
        for name in names:
            self._sayEnded(name.decode(), "")
        self._writer.commit().addErrback(lambda failure: None)  # they are found again

    # Snapshots

    def readSnapshots(self) -> Deferred[list[Snapshot]]:
        """Read snapshots of a replica."""
        found = self._engine.call(SNAPSHOTS, round(REMEMBERED * 1000))
        return found.addCallback(self._cbSnapshots)

    def _cbSnapshots(self, found: list[bytes]) -> list[Snapshot]:
        """Read those that make sense."""
        shots = []
        for member, position in zip(found[::2], found[1::2], strict=True):
            name, data = member.split(b" ", 1)
            place = ("snapshot", int(position), name.decode())
            try:
                data = self._sealer.open(data, *place)
            except SpoolError as error:
                _log.error("{reason}: it is left alone", reason=str(error))
            else:
                shots.append(Snapshot(int(position), name, data))
        return shots

    def writeSnapshot(self, newest: int, snapshot: Snapshot) -> Deferred[int]:
        """Store a snapshot of a replica."""
        position, name, data = snapshot
        sealed = self._sealer.seal(data, "snapshot", position, name.decode())
        return self._engine.call(SNAPSHOT, newest, position, name, sealed)
