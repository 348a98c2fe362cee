"""
What all are told, wherever their sessions are: written once, to a log that several
processes share, and never for each receiver::

    log = Log(journal, store, clock, patience=60.0)
    log.start().addCallback(letIn)
    log.send("hello", exclude=[name])        # fires with how many have it
    log.tell(b"alice has come", connection)  # what the handler's replica is told
    log.catchUp().addCallback(goOn)          # before a session goes on here
    log.entries.merged(name, done, place, own)       # what it was to be sent

Each process gives an entry the next number in each of its sessions that it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Final, TypeVar, cast

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from aesm.core.messages.batch import Message, bodyOf
from aesm.core.messages.requests import sizeOf
from aesm.errors import ConnectionClosed, MessageTooBig, SendBufferFull, SpoolError
from aesm.messages.causes import CAUSE
from aesm.messages.deferred import cancelTimer, ignore
from aesm.store import entries
from aesm.store.counting import Counting, LogCount
from aesm.store.entries import (
    Entries,
    Told,
    decoded,
    encoded,
    entriesOf,
    grouped,
    together,
)
from aesm.store.replicated import Picking, Replicated
from aesm.store.telling import MAX_ENTRY, Tellings, Turn, endEntry
from aesm.store.undoing import elsewhere, hasLeft

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from aesm.messages.connection import Connection
    from aesm.messages.protocol import AESMProtocol
    from aesm.store.interface import Entry, ILogStore, IReplica, ISessionStore
    from aesm.store.journal import Journal
    from aesm.store.logged import LoggedConnection

MAX_SENDING = 16 << 20  # bytes of those that are not written yet
RETRY: Final = 1.0  # seconds until it is read again when that failed

_log = Logger(namespace="aesm.log")

_T = TypeVar("_T")


# The same at any process
#
# A session's outgoing messages are its own, which are stored with it, and the entries
# of the log that are for it, which are stored there and nowhere else.  All have numbers
# without a gap.  Its own are stored with theirs; so where these leave a gap, entries
# are, in their order, and which ones follows from where in the log the session was at
# some number: its I{place}, which is part of its state.
#
#     place        number 5, position 70
#     its own              7     8           11
#     the log      71  72              73  74      75  76      (but those not for it)
#     outgoing      5   6  7     8      9  10  11  12  13
#
# Any process that has the state, its own and the log makes the same of it.  An entry is
# sent without anything being written; it waits only behind those of the session's own
# that are not committed, or nobody would know of the gap.
#
# The place moves with what is acknowledged.  It is written with all else that is
# written of a session; and of those of which nothing else is, now and then, when so
# much was told that their places are an eighth of the log behind (_sweep).
#
# Bounds
#
# The log drops its oldest entries, in bytes, and so does this process, a little earlier
# (entries.LOG_SIZE).  A session whose place is before the first that is left is a slow
# consumer (4000), wherever its client is: nobody could go on with it.
#
# An engine that went back in time may have lost entries that some have got and some
# have not.  Positions are given again then; names are not.  What a session has in its
# outbox of the log becomes its own (C{Following.isKept}), and it goes on from the last
# entry that both have.


class Log:
    """
    The log, as one process has it.

    @ivar entries: those that its sessions were told, as far back as they are kept.
    """

    def __init__(
        self,
        journal: Journal,
        store: ILogStore,
        clock: IReactorTime,
        patience: float,
        sendBuffer: int,
        replica: IReplica | None = None,
        broken: Callable[[SpoolError], object] = ignore,
    ) -> None:
        """
        @param journal: has the sessions.
        @param store: what the journal writes to; it has the log.
        @param clock: keeps time.
        @param patience: seconds until who does not say that it has an entry counts as
            one that does not.
        @param sendBuffer: bytes that a session may keep: places are written so often
            that only a part of it is told in between.
        @param replica: makes something of what happens, the same at all processes.
        @param broken: called with why, once it cannot: nobody can be served then.
        """
        self.entries = Entries()
        self._journal = journal
        self._store = store
        self._clock = clock
        self._counting = Counting(store, clock, patience, self._has)
        self._news: list[Told] = []  # that our sessions were not told
        self._sending = 0  # bytes that are not written
        self._turn: Turn | None = None  # what this turn of the event loop sent
        self._stride = min(entries.LOG_SIZE, sendBuffer) // 8
        self._swept = (0, 0)  # bytes since, and the position then
        self._delivery: IDelayedCall | None = None
        self._retry: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []  # until it was read once more
        # The last: rewound, and the replica does not know yet.
        self._isReading = self._isWanted = self._isRewound = False
        self._over: SpoolError | None = None  # why nobody is told anything any more
        self._replicated = None if replica is None else Replicated(replica, store)
        self._broken = broken
        self._tellings = Tellings(journal)
        self._hasBegun = replica is None
        if replica is not None:
            store.sayEnds(lambda name: endEntry(name, time_ns() // 1000))
        # How often anything may have happened unheard, and how often when it was last
        # read: until that is the same, positions may be given again, and what is heard
        # is not taken.
        self._doubts, self._settled = 1, 0
        store.told, store.heard = self._told, self._counting.heard
        store.isKnown = self._isKnown

    def start(self, opened: _T) -> Deferred[_T]:
        """
        Read it.

        @return: fires with what was given, once that is done; fails with L{SpoolError}
            if it is stopped before.
        """
        return self.catchUp().addCallback(lambda nothing: opened)

    def stop(self) -> None:
        """Tell nobody anything any more."""
        self._end(SpoolError("the log is closed"))

    def _end(self, over: SpoolError) -> None:
        """Tell nobody anything any more, and say why."""
        self._over = over
        cancelTimer(self._delivery)
        cancelTimer(self._retry)
        self._counting.stop()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(self._stopped())
        self._tellings.stop()

    @property
    def _isStopped(self) -> bool:
        """Whether nobody is told anything any more."""
        return self._over is not None

    def _stopped(self) -> SpoolError:
        """Make the error for who comes too late."""
        return SpoolError(str(self._over))

    @property
    def _ours(self) -> list[LoggedConnection]:
        """List the connections of our sessions."""
        return cast("list[LoggedConnection]", list(self._journal.sessions.values()))

    # What is sent

    def send(self, data: Message, exclude: Iterable[str] = ()) -> Deferred[int]:
        """
        Tell something to all.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param exclude: the sessions that are not told.
        @return: fires with the number of clients that have it, once each that is there
            has it, or C{patience} after it was written; fails with L{MessageTooBig},
            and, unless a handler's message causes it, with L{SpoolError} if nothing can
            be written now, and L{SendBufferFull} if too much is to be.
        @raise TypeError: it is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        body, cause = bodyOf(data), CAUSE.get()
        if (size := sizeOf(body, type(body))) > MAX_ENTRY:
            return fail(
                MessageTooBig(
                    f"a message of {size} bytes; to all nodes at most "
                    f"{MAX_ENTRY} can go: split it"
                )
            )
        # One time for all of a turn: they fit a batch, as those to a single client do.
        turn = self._thisTurn()
        told = Told(0, b"", turn.micros, body, frozenset(exclude))
        entry = encoded(body, told.exclude, turn.micros)
        size = len(entry)
        count = LogCount(self._counting, cause, entry, partial(self._written, told))
        if hasLeft(cause) or self._isStopped:
            closed = ConnectionClosed("nothing was sent: nobody listens")
            count.fail(closed if self._isStopped else elsewhere())
            return count
        if cause is None and (failure := self._store.failure) is not None:
            return fail(SpoolError(f"nothing was sent: {failure}"))
        if cause is None and self._sending + size > MAX_SENDING:
            return fail(
                SendBufferFull(
                    f"{self._sending} bytes are on their way to the engine: wait until "
                    "what was sent before has fired"
                )
            )
        self._sending += size
        turn.size += size
        turn.counts.append(count)
        return count

    def _write(self, store: ISessionStore) -> None:
        """The turn is over in which something was sent."""
        turn, self._turn = cast(Turn, self._turn), None
        for count in turn.counts:
            count.write(store)

    def tell(self, data: bytes, cause: Connection) -> Deferred[None]:
        """Tell the replicas of all processes that something has happened."""
        return self._tellings.tell(data, cause, self._thisTurn)

    def _thisTurn(self) -> Turn:
        """Find what this turn of the event loop sends, which is written at its end."""
        if self._turn is None:
            self._turn = Turn(time_ns() // 1000)
            self._journal.add(self._write).addBoth(self._cbWritten, self._turn)
        return self._turn

    def _cbWritten(self, result: Failure | None, turn: Turn) -> None:
        """What a turn sent is in the log, or will never be."""
        self._sending -= turn.size
        for count in turn.counts:
            count.settle(result)

    async def _hasTold(self, position: int) -> list[Deferred[None]]:
        """Wait for all of our clients that an entry is for."""
        self._deliver()
        if position > self.entries.position:
            await self.catchUp()
        entry = self.entries.find(position)
        if entry is None:
            return []
        has = [
            connection.hasTold(position)
            for connection in self._ours
            if entry.isFor(connection.session.name)
        ]
        return [each for each in has if each is not None]

    def _has(self, position: int) -> Deferred[list[Deferred[None]]]:
        """Wait for all of our clients that an entry is for."""
        return Deferred.fromCoroutine(self._hasTold(position))

    # What is told

    @property
    def _known(self) -> int:
        """The position up to which we know all."""
        return self._news[-1].position if self._news else self.entries.position

    def _isKnown(self, position: int) -> bool:
        """Tell whether we know all up to a position, whatever may have happened."""
        return self._settled == self._doubts and position <= self._known

    def _told(self, entry: Entry | None) -> None:
        """There is something new in the log; or, for None, there may be."""
        if self._isStopped:
            return
        if entry is None:
            self._doubts += 1
            self._read()
        elif self._settled < self._doubts or entry.position > self._known + 1:
            self._read()
        elif entry.position == self._known + 1:
            self._take(decoded(entry))

    def _written(self, told: Told, position: int, name: bytes) -> None:
        """
        Something of ours is in the log.  If we know all before it, it need not be heard
        first; else what is before it comes by the same way, and so does it.

        @param told: it, but for position and name.
        """
        isNext = self._isKnown(position - 1) and position > self._known
        if isNext and not self._isStopped:
            self._take(told._replace(position=position, name=name))

    def _take(self, told: Told) -> None:
        """Have it told at the end of this turn, with what else comes in it."""
        self._news.append(told)
        if self._delivery is None:
            self._delivery = self._clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        """Tell our sessions what is new, and have it sent."""
        for carrier in self.deliver(()):
            if carrier is not None:
                carrier.touch()

    def deliver(
        self, others: Iterable[AESMProtocol | None]
    ) -> Iterable[AESMProtocol | None]:
        """
        Tell our sessions what is new, which nobody sends yet.

        @param others: what has something to send beside.
        @return: all that has.
        """
        cancelTimer(self._delivery)
        self._delivery = None
        news, self._news = self._news, []
        if not news:
            return others
        if self._replicated is not None:
            news = self._replicated.applied(news)
        sending = dict.fromkeys(others)
        if news:
            self._deliverTo(self._ours, news, sending)
        if self._replicated is not None:
            self._check()
        if self._replicated is not None and not self._isStopped:
            self._tellings.settle(self.entries.position)
            self._replicated.save(self.entries.position, self.entries.name)
        return sending

    def _deliverTo(
        self,
        ours: list[LoggedConnection],
        news: list[Told],
        sending: dict[AESMProtocol | None, None],
    ) -> None:
        """Tell some what is new, and add what has something to send."""
        grown = self.entries.add(news)
        sound = [entry for entry in news if entry.isSound]
        if [entry for entry in sound if entry.kind]:
            sending |= dict.fromkeys(Picking(sound).deliver(ours))
            self._sweep(grown)
            return
        groups = [(*together(group), group) for group in grouped(sound)]
        common = [(batch, position) for batch, position, _ in groups]
        excluded = frozenset().union(*(entry.exclude for entry in sound))
        for connection in ours:
            name = connection.session.name
            if name not in excluded:
                sending[connection.told(common)] = None
                continue
            mine = []
            for batch, position, group in groups:
                # As isFor, without a call for each of them.
                some = [entry for entry in group if name not in entry.exclude]
                if len(some) == len(group):
                    mine.append((batch, position))
                elif some:
                    mine.append(together(some))
            if mine:
                sending[connection.told(mine)] = None
        self._sweep(grown)

    def _check(self) -> None:
        """Serve nobody any more, if the replica can make nothing of what there is."""
        failure = None if self._replicated is None else self._replicated.failure
        if failure is not None and not self._isStopped:
            self._end(failure)
            self._broken(failure)

    def _sweep(self, grown: int) -> None:
        """Drop what is old, and have places written, after so many bytes more."""
        since, before = self._swept
        self._swept = (since + grown, before)
        if since + grown < self._stride:
            return
        self._swept = (0, self.entries.position)
        self.entries.trim()
        for connection in self._ours:
            if not connection.isTold:
                continue
            if connection.behind < self.entries.first - 1:
                connection.closeLate()
            elif connection.following.place.position < before:
                self._journal.touch(connection)

    # What is read

    def catchUp(self) -> Deferred[None]:
        """
        Have our sessions told all that is in the log by now.

        @return: fires once that is done, however long it takes; fails with
            L{SpoolError} if it is stopped before.
        """
        if self._isStopped:
            return fail(self._stopped())
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        self._read()
        return waiting

    def _read(self) -> None:
        """Read it, unless that is being done: then once more, behind that."""
        self._isWanted = True
        if not self._isReading and self._retry is None and not self._isStopped:
            self._isReading = True
            reading = Deferred.fromCoroutine(self._readAll())
            reading.addErrback(lambda failure: _log.failure("a bug", failure))

    def _again(self) -> None:
        """Try again."""
        self._retry = None
        self._read()

    async def _readAll(self) -> None:
        """Read until nobody wants more."""
        while self._isWanted and not self._isStopped:
            self._isWanted = False
            count, doubts = len(self._waiting), self._doubts
            try:
                await self._readOnce()
            except SpoolError:
                self._check()
                if not self._isStopped:
                    self._retry = self._clock.callLater(RETRY, self._again)
                break
            self._settled = doubts
            if not self._isStopped:  # else they were told
                waiting, self._waiting = self._waiting[:count], self._waiting[count:]
                for each in waiting:
                    each.callback(None)
        self._isReading = False

    async def _readOnce(self) -> None:
        """Read what there is, page by page."""
        if not self._hasBegun:
            await self._begin(1)
            self._hasBegun = True
        while not self._isStopped:
            name = self._news[-1].name if self._news else self.entries.name
            page = await self._store.readLog(self._known, name)
            if page is None:
                await self._rewind()
                continue
            if page.entries is None:  # who has not had what was there misses it
                await self._begin(page.first)
                self._closeAll()
                continue
            for entry in page.entries:
                if entry.position == self._known + 1:  # it was not heard meanwhile
                    self._take(decoded(entry))
            if self._known >= page.last or not page.entries:
                self._deliver()
                self._tellRewound()
                return

    def _tellRewound(self) -> None:
        """Say so to the replica, if the log was rewound."""
        if self._isRewound and self._replicated is not None and not self._isStopped:
            self._isRewound = False
            self._replicated.rewound()

    async def _begin(self, first: int) -> None:
        """Begin with the first entry that is there, or behind a snapshot."""
        position, name = first - 1, b""
        if self._replicated is not None:
            position, name = await self._replicated.begin(first)
        self._news = []
        self.entries.restart(position, (), name)

    def _closeAll(self) -> None:
        """Close all our sessions: they have missed something."""
        for connection in self._ours:
            connection.closeLate()

    async def _rewind(self) -> None:
        """The log is not what it was: go back to what is the same."""
        self._doubts += 1
        self._isWanted = True
        self._deliver()
        there, last = await entriesOf(self._store)
        replicated = self._replicated
        shots = [] if replicated is None else await self._store.readSnapshots()
        base = min(there, default=last + 1) - 1
        first, before = self.entries.first, self.entries.position
        same = self.entries.same({at: there[at].name for at in there})
        lost = before + 1 - first - len(same)
        known, name = same[-1][:2] if same else (base, b"")
        self._news = []
        self.entries.restart(base, same)
        if replicated is not None and (known != before or not same):
            position, name = replicated.goBack(shots, there, base, known)
            self._isRewound = True
            self._check()
            if position != known:
                self.entries.restart(position, (), name)
                self._closeAll()
        if there and not same and first > base + 1:
            self._closeAll()  # nobody knows what of that they had
        self._swept = (0, min(self.entries.position, self._swept[1]))
        _log.warn(
            "the engine lacks {count} messages to all nodes: those who have them keep "
            "them",
            count=lost,
        )
        for connection in self._ours:
            connection.following.isKept = True
            self._journal.touch(connection)
