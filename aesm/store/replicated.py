"""
What a handler's L{IReplica<aesm.store.interface.IReplica>} makes of the log, at one
process, and what of that each session is told::

    replicated = Replicated(replica, store)
    position, name = await replicated.begin(first)      # with a snapshot
    news = replicated.applied(news)                     # in their order, each once
    batches, isClosed = Picking(news).of(name)
    replicated.save(position, name)                     # a snapshot, if it is time
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger

from aesm.core.messages.batch import LoggedBatch, bodyOf
from aesm.errors import CloseCode, SpoolError
from aesm.store import entries
from aesm.store.entries import Row, Told, batched, decoded
from aesm.store.interface import Entry, ILogStore, IReplica, Rows, Snapshot

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from aesm.messages.protocol import AESMProtocol
    from aesm.store.logged import LoggedConnection

ROW_MEMORY: Final = 128  # bytes of a row, beside its message
NAME_MEMORY: Final = 8  # bytes of the name of a session in it
FEW: Final = 4  # names that are not worth being shared
SHARED: Final = 64  # lists of names that rows which follow can share

_log = Logger(namespace="aesm.log")

# The same at any process
#
# An event is written to the log, and nothing else is; each process applies all events
# in their order, and what comes of it is kept with the entry: some messages, each for
# some sessions.  So a session that comes from elsewhere is sent here what it would have
# been sent there, as for a message to all, but that an entry may be several messages.
#
# That a session is over is an event, too, which the store has written, once, whichever
# process finds that it is.
#
# Snapshots
#
# The log drops its oldest entries, so now and then, when half of what is kept of it has
# come since the last one, a process puts a snapshot of the state into the store: which
# of them does, all can.  The store keeps two, and takes one only from who knows the
# last one, and has the same entry there.  So there is one from which the log goes on,
# and as far back as that, half of the log at least, a process that starts knows what
# sessions were told: it begins with the oldest.
#
# A log that went back in time takes the state with it: it is made anew of a snapshot
# and of the entries up to those that are another's, of which nobody here is told again.
#
# A replica that cannot make of an entry what others do (it is of another version)
# raises ValueError, and this process serves nobody any more.  What else it raises is a
# bug that all have: the entry is for nobody.


class Replicated:
    """
    A replica, and how far it is in the log.

    @ivar failure: why it can go no further, or None.
    """

    def __init__(self, replica: IReplica, store: ILogStore) -> None:
        """
        @param replica: the handler's.
        @param store: has the log.
        """
        self.failure: SpoolError | None = None
        self._replica = replica
        self._store = store
        self._newest = 0  # position of the newest snapshot that we know of
        self._since = 0  # bytes of entries behind it
        self._isSaving = False
        self._sets: dict[frozenset[str], tuple[str, ...]] = {}  # of the last rows

    # Entries

    def applied(self, news: Iterable[Told]) -> list[Told]:
        """
        Apply entries.

        @return: them, with what came of it; less, if it can go no further: C{failure}
            says so then.
        """
        applied = []
        for entry in news:
            rows = self._applied(entry) if entry.kind and entry.isSound else ()
            if self.failure is not None:
                break
            if entry.position > self._newest:
                self._since += entry.size
            applied.append(self._rendered(entry, rows) if entry.kind else entry)
        return applied

    def _applied(self, entry: Told) -> Rows:
        """Apply one."""
        data, replica = entry.body, self._replica
        try:
            if isinstance(data, str):
                return replica.gone(data)
            return replica.apply(data, entry.micros)
        except ValueError as error:
            self._fail(error)
        except Exception:
            _log.failure("a bug: nobody is told what has happened")
        return ()

    def _fail(self, error: ValueError) -> None:
        """It can go no further."""
        self.failure = SpoolError(f"what the other nodes have makes no sense: {error}")

    def _rendered(self, entry: Told, rows: Rows) -> Told:
        """Keep with an entry what came of it."""
        kept, memory = [], 0
        for line, names in rows:
            shared, size = self._shared(names)
            body = None if line is None else bodyOf(line)
            kept.append(Row(body, shared))
            memory += size + ROW_MEMORY + len(body or "")
        return entry._replace(body=b"", rows=tuple(kept), memory=memory)

    def _shared(self, names: Collection[str]) -> tuple[tuple[str, ...], int]:
        """Sort names, or find them; and tell how many bytes more they take."""
        if len(names) <= FEW:
            return tuple(sorted(names)), NAME_MEMORY * len(names)
        members = frozenset(names)
        found, memory = self._sets.pop(members, None), 0
        if found is None:
            found, memory = tuple(sorted(members)), NAME_MEMORY * len(members)
        self._sets[members] = found  # behind all others
        if len(self._sets) > SHARED:
            del self._sets[next(iter(self._sets))]
        return found, memory

    # Snapshots

    async def begin(self, first: int) -> tuple[int, bytes]:
        """
        Have the state of the oldest snapshot from which the log goes on.

        @param first: the position of the first entry that is there.
        @return: position and name of the last entry in it.
        @raise SpoolError: nobody can say now; or it can go no further.
        """
        shots = await self._store.readSnapshots()
        self._known(shots)
        self._restore(shots[0] if shots else None, first)
        if self.failure is not None:
            raise self.failure
        return (shots[0].position, shots[0].name) if shots else (first - 1, b"")

    def goBack(
        self,
        shots: Sequence[Snapshot],
        there: Mapping[int, Entry],
        base: int,
        last: int,
    ) -> tuple[int, bytes]:
        """
        Have the state as it was before, since the log went back in time; or, if nobody
        has that any more, a later one.

        @param shots: what C{readSnapshots} says.
        @param there: what the log has, by position.
        @param base: the position before the first of these.
        @param last: of the last entry that is still there.
        @return: position and name of the last entry in the state: C{last}, or a later
            one.
        """
        self._known(shots)
        former = [shot for shot in shots if shot.position <= last]
        if shots and base and not former:
            self._restore(shots[0], base + 1)
            return shots[0].position, shots[0].name
        shot = former[-1] if former else None
        self._restore(shot, base + 1)
        behind = base if shot is None else shot.position
        self.applied(
            [decoded(there[position]) for position in range(behind + 1, last + 1)]
        )
        self._since = 0
        return last, there[last].name if last in there else b""

    def _restore(self, shot: Snapshot | None, first: int) -> None:
        """Have the state of a snapshot, or the first one."""
        if shot is None and first > 1:
            _log.error(
                "the engine has no snapshot of what the handler knows: it begins anew"
            )
        try:
            self._replica.restore(None if shot is None else shot.data)
        except ValueError as error:
            self._fail(error)

    def _known(self, shots: Sequence[Snapshot]) -> None:
        """Note which snapshots there are."""
        self._newest = shots[-1].position if shots else 0
        self._since = 0

    def save(self, position: int, name: bytes) -> None:
        """
        Store a snapshot, if there was so much since the last one.

        @param position: of the last entry that was applied.
        @param name: of that entry.
        """
        if self._since < entries.LOG_SIZE // 2 or self._isSaving:
            return
        try:
            shot = Snapshot(position, name, self._replica.snapshot())
        except Exception:
            _log.failure("a bug: there is no snapshot of what the handler knows")
            self._since = 0
            return
        self._isSaving = True
        saved = self._store.writeSnapshot(self._newest, shot)
        saved.addCallbacks(self._cbSaved, self._ebNotSaved)
        saved.addErrback(lambda failure: _log.failure("a bug", failure))

    def _cbSaved(self, newest: int) -> None:
        """There is a new one, of ours or of another process."""
        self._isSaving = False
        self._newest, self._since = newest, 0

    def _ebNotSaved(self, failure: Failure) -> None:
        """It is tried again when there is some more."""
        failure.trap(SpoolError)
        self._isSaving = False
        self._since -= self._since // 8

    def rewound(self) -> None:
        """The log went back, and the state is what it says by now."""
        try:
            self._replica.rewound()
        except Exception:
            _log.failure("a bug of the handler")


class Picking:
    """
    Finds out what each session is told of some entries; those that are told the same
    share it.
    """

    def __init__(self, news: Iterable[Told]) -> None:
        # By the identity of the names: those for whom something is, or is not.
        self._sets: dict[int, tuple[Collection[str], bool]] = {}
        self._pieces: list[tuple[Told | None, int]] = []
        self._made: dict[
            tuple[bool, ...], tuple[list[tuple[LoggedBatch, int]], bool]
        ] = {}
        for entry in news:
            if not entry.kind:
                self._add(entry, entry.exclude, False)
            for body, names in entry.rows:
                self._add(None if body is None else entry.saying(body), names, True)

    def _add(self, piece: Told | None, names: Collection[str], isFor: bool) -> None:
        """Add one message, or None for who is closed."""
        key = id(names)
        if key not in self._sets:
            self._sets[key] = frozenset(names), isFor
        self._pieces.append((piece, key))

    def of(self, name: str) -> tuple[Sequence[tuple[LoggedBatch, int]], bool]:
        """
        Find out what a session is told.

        @return: batches with their positions, and whether it is closed behind that.
        """
        among = tuple(
            [(name in names) is isFor for names, isFor in self._sets.values()]
        )
        found = self._made.get(among)
        if found is None:
            found = self._made[among] = self._make(among)
        return found

    def deliver(
        self, connections: Iterable[LoggedConnection]
    ) -> Iterator[AESMProtocol | None]:
        """Tell connections what is for them, and list what has something to send."""
        for connection in connections:
            batches, isClosed = self.of(connection.session.name)
            if batches:
                yield connection.told(batches)
            if isClosed and connection.isTold:
                connection.closeWith(CloseCode.NOT_ALLOWED, "sent away")

    def _make(
        self, among: tuple[bool, ...]
    ) -> tuple[list[tuple[LoggedBatch, int]], bool]:
        """Make what those are told who are among some of the names."""
        mine = dict(zip(self._sets, among, strict=True))
        told: list[Told] = []
        for piece, key in self._pieces:
            if mine[key] and piece is None:
                return batched(told), True
            if mine[key] and piece is not None:
                told.append(piece)
        return batched(told), False
