"""
What all are told, wherever their sessions are: written once, to a log that several
processes share, and never for each receiver::

    log = Log(journal, store, clock, patience=60.0)
    log.start().addCallback(letIn)
    log.send("hello", exclude=[name])        # fires with how many have it
    log.catchUp().addCallback(goOn)          # before a session goes on here
    batches, following = log.merged(name, done, place, own)

Each process gives an entry the next number in each of its sessions that it is for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from aesm.core.messages.batch import (
    MAX_COST,
    Batch,
    Body,
    LoggedBatch,
    Message,
    bodyOf,
    encodeMessage,
)
from aesm.core.messages.frames import MESSAGE_OVERHEAD
from aesm.core.messages.requests import sizeOf
from aesm.errors import MessageTooBig, SendBufferFull, SpoolError
from aesm.messages.acknowledgements import (
    AckCount,
    LazyDeferred,
)
from aesm.messages.causes import CAUSE
from aesm.store.following import Following, Place, Places
from aesm.store.interface import Blob, Entry
from aesm.store.stream import readBlob
from aesm.store.undoing import elsewhere, hasLeft

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from aesm.messages.connection import Connection
    from aesm.store.connection import DurableConnection
    from aesm.store.interface import ILogStore, ISessionStore
    from aesm.store.journal import Journal

__all__ = ["ENTRY_MEMORY", "LOG_SIZE", "MAX_ENTRY", "MAX_SENDING", "Batches", "Log"]

MAX_ENTRY: Final = 1 << 20  # bytes of a message to all
MAX_SENDING: Final = 16 << 20  # bytes of those that are not written yet
LOG_SIZE: Final = 14 << 20  # bytes of entries that are kept
ENTRY_MEMORY: Final = 256  # bytes of an entry, beside its message
GROUP_MICROS: Final = 1000  # of entries that share a time
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
# (LOG_SIZE).  A session whose place is before the first that is left is a slow consumer
# (4000), wherever its client is: nobody could go on with it.
#
# An engine that went back in time may have lost entries that some have got and some
# have not.  Positions are given again then; names are not.  What a session has in its
# outbox of the log becomes its own (C{Following.isKept}), and it goes on
# from the last entry that both have.


Batches = Sequence[tuple[LoggedBatch, int]]  # each with its last position


class _Told(NamedTuple):
    """
    An entry of the log.

    @ivar exclude: the sessions that it is not for.
    """

    position: int
    name: bytes
    micros: int
    body: Body
    exclude: frozenset[str]


class LogCount(LazyDeferred[int]):
    """Fires with the number of clients that have an entry, at all processes."""

    def __init__(self, log: Log, cause: Connection | None, entry: bytes) -> None:
        """
        @param cause: whose message makes us write it.
        @param entry: what is to be written.
        """
        self.position = 0  # none yet
        self._log = log
        self._cause = cause
        self._entry = entry
        self._reason: BaseException | None = None

    def write(self, store: ISessionStore) -> None:
        """Give the entry to the store, unless its cause is elsewhere by now."""
        if not hasLeft(self._cause):
            name = "" if self._cause is None else self._cause.session.name
            cast("ILogStore", store).log(name, self._entry, self._written)

    def _written(self, position: int, nothing: int) -> None:
        """Note that it is in the log."""
        self.position = position

    def settle(self, failure: Failure | None) -> None:
        """
        All of its turn is written: ask, if anybody wants to know.

        @param failure: why it is not.
        """
        if failure is not None:
            self._reason = failure.value
        elif not self.position:
            self._reason = elsewhere()
        self._entry = b""
        if self._looked and not self._called:
            self.begin()

    def begin(self) -> None:
        """Somebody wants to know: ask, as soon as it is written."""
        if self._reason is not None:
            self.errback(self._reason)
        elif self.position:
            self._log.ask(self)

    def fail(self, reason: Exception) -> None:
        """Nobody can say who has it."""
        if not self.called:
            self.errback(reason)


class _Question:
    """Who has an entry: what was asked of all processes, and what they have said."""

    def __init__(self, count: LogCount, deadline: IDelayedCall) -> None:
        """@param deadline: when no answer is waited for any more."""
        self.count = count
        self.deadline = deadline
        self.asked: int | None = None  # how many, once that is known
        self.having = self.answers = 0


class Log:
    """
    The log, as one process has it.

    @ivar position: of the last entry that its sessions were told.
    """

    def __init__(
        self,
        journal: Journal,
        store: ILogStore,
        clock: IReactorTime,
        patience: float,
        sendBuffer: int,
    ) -> None:
        """
        @param journal: has the sessions.
        @param store: what the journal writes to; it has the log.
        @param clock: keeps time.
        @param patience: seconds until who does not say that it has an entry counts as
            one that does not.
        @param sendBuffer: bytes that a session may keep: places are written so often
            that only a part of it is told in between.
        """
        self.position = 0
        self._journal = journal
        self._store = store
        self._clock = clock
        self._patience = patience
        self._entries: list[_Told] = []  # one behind the other, up to C{position}
        self._size = 0
        self._news: list[_Told] = []  # that our sessions were not told
        self._stride = min(LOG_SIZE, sendBuffer) // 8
        self._swept = (0, 0)  # bytes since, and the position then
        self._delivery: IDelayedCall | None = None
        self._retry: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []  # until it was read once more
        self._isReading = self._isStopped = self._isWanted = False
        # How often anything may have happened unheard, and how often when it was last
        # read: until that is the same, positions may be given again, and what is heard
        # is not taken.
        self._doubts, self._settled = 1, 0
        self._sending = 0  # bytes that are not written
        self._questions: dict[int, _Question] = {}
        self._asked = 0
        self._answering: dict[AckCount, IDelayedCall] = {}
        store.told, store.heard = self._told, self._heard

    def start(self, opened: _T) -> Deferred[_T]:
        """
        Read it.

        @return: fires with what was given, once that is done; fails with L{SpoolError}
            if it is stopped before.
        """
        return self.catchUp().addCallback(lambda nothing: opened)

    def stop(self) -> None:
        """Tell nobody anything any more."""
        self._isStopped = True
        stopped = SpoolError("the log is closed")
        calls = [self._delivery, self._retry, *self._answering.values()]
        calls += [question.deadline for question in self._questions.values()]
        for call in calls:
            if call is not None and call.active():
                call.cancel()
        self._answering.clear()
        questions, self._questions = self._questions, {}
        for question in questions.values():
            question.count.fail(stopped)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(stopped)

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
        if sizeOf(body) > MAX_ENTRY:
            return fail(
                MessageTooBig(
                    f"a message of {sizeOf(body)} bytes; to all nodes at most "
                    f"{MAX_ENTRY} can go: split it"
                )
            )
        header = json.dumps({"exclude": list(exclude)}).encode()
        entry = header + b"\n" + encodeMessage(time_ns() // 1000, body)
        count = LogCount(self, cause, entry)
        failure = self._store.failure
        if cause is None and failure is not None:
            return fail(SpoolError(f"nothing was sent: {failure}"))
        if cause is None and self._sending + len(entry) > MAX_SENDING:
            return fail(
                SendBufferFull(
                    f"{self._sending} bytes are on their way to the engine: wait until "
                    "what was sent before has fired"
                )
            )
        size = len(entry)
        self._sending += size
        self._journal.add(count.write).addBoth(self._cbWritten, count, size)
        return count

    def _cbWritten(self, result: Failure | None, count: LogCount, size: int) -> None:
        """Something of ours is in the log, or will never be."""
        self._sending -= size
        count.settle(result)

    # Who has it

    def ask(self, count: LogCount) -> None:
        """Ask all processes how many of their clients have an entry."""
        if self._isStopped:
            count.fail(SpoolError("the log is closed"))
            return
        self._asked += 1
        deadline = self._clock.callLater(self._patience, self._counted, self._asked)
        self._questions[self._asked] = _Question(count, deadline)
        words = b"ask %s %d %d" % (
            self._store.node.encode(),
            self._asked,
            count.position,
        )
        said = self._store.say("", words)
        said.addCallbacks(
            self._cbAsked,
            self._ebAsked,
            callbackArgs=(self._asked,),
            errbackArgs=(self._asked,),
        )

    def _cbAsked(self, listening: int, number: int) -> None:
        """So many processes have heard a question."""
        question = self._questions.get(number)
        if question is not None:
            question.asked = listening
            self._settle(number, question)

    def _ebAsked(self, failure: Any, number: int) -> None:
        """Nobody can be asked."""
        question = self._end(number)
        if question is not None:
            question.count.fail(failure.value)

    def _settle(self, number: int, question: _Question) -> None:
        """See whether all have answered."""
        if question.asked is not None and question.answers >= question.asked:
            self._counted(number)

    def _end(self, number: int) -> _Question | None:
        """Wait for no answers any more."""
        question = self._questions.pop(number, None)
        if question is not None and question.deadline.active():
            question.deadline.cancel()
        return question

    def _counted(self, number: int) -> None:
        """All have answered, or the others are gone."""
        question = self._end(number)
        if question is not None and not question.count.called:
            question.count.callback(question.having)

    def _heard(self, words: bytes) -> None:
        """Another process, or this one, asks or answers."""
        if self._isStopped:
            return
        match words.split(b" "):
            case [b"ask", node, number, position]:
                self._answer(node.decode(), int(number), int(position))
            case [b"has", number, having]:
                question = self._questions.get(int(number))
                if question is not None:
                    question.having += int(having)
                    question.answers += 1
                    self._settle(int(number), question)

    def _answer(self, node: str, number: int, position: int) -> None:
        """Say how many of our clients have an entry, once they do, or soon."""
        self._deliver()
        if position > self.position:
            read = self.catchUp()
            read.addCallback(lambda nothing: self._tally(node, number, position))
            read.addErrback(lambda failure: failure.trap(SpoolError) and None)
        else:
            self._tally(node, number, position)

    def _tally(self, node: str, number: int, position: int) -> None:
        """Count them."""
        entry = self._find(position)
        has = [
            each.hasTold(position)
            for each in (() if entry is None else self._ours)
            if entry is not None and each.session.name not in entry.exclude
        ]
        tally = AckCount(each for each in has if each is not None)
        # Soon enough that a client which does not take it costs nobody else's count.
        self._answering[tally] = self._clock.callLater(
            self._patience * 0.75, tally.endNow
        )

        def counted(having: int) -> None:
            """Say it."""
            call = self._answering.pop(tally, None)
            if call is None:
                return
            if call.active():
                call.cancel()
            said = self._store.say(node, b"has %d %d" % (number, having))
            said.addErrback(lambda failure: None)  # who asks waits for a while only

        tally.addCallback(counted)

    # What is told

    @property
    def _ours(self) -> list[DurableConnection]:
        """List the connections of our sessions."""
        return cast("list[DurableConnection]", list(self._journal.sessions.values()))

    @property
    def _last(self) -> int:
        """The position up to which we know all, told or not."""
        return self._news[-1].position if self._news else self.position

    def _find(self, position: int) -> _Told | None:
        """Find an entry, if it is kept; in the order of positions none is missing."""
        for entries in (self._entries, self._news):
            if entries:
                index = position - entries[0].position
                if 0 <= index < len(entries):
                    return entries[index]
        return None

    @property
    def first(self) -> int:
        """The position of the first entry that is kept, or will be."""
        return self._entries[0].position if self._entries else self.position + 1

    def _told(self, entry: Entry | None) -> None:
        """There is something new in the log; or, for None, there may be."""
        if self._isStopped:
            return
        last = self._last
        if entry is None:
            self._doubts += 1
            self._read()
        elif self._settled < self._doubts or entry.position > last + 1:
            self._read()
        elif entry.position == last + 1:
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        """Have it told at the end of this turn, with what else comes in it."""
        self._news.append(_decoded(entry))
        if self._delivery is None:
            self._delivery = self._clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        """Tell our sessions what is new."""
        delivery, self._delivery = self._delivery, None
        if delivery is not None and delivery.active():
            delivery.cancel()
        news, self._news = self._news, []
        if not news:
            return
        ours = self._ours
        self.position = news[-1].position
        self._entries += news
        grown = sum(map(_sizeOf, news))
        self._size += grown
        groups = [(*_together(group), group) for group in _grouped(news)]
        common = [(batch, position) for batch, position, _ in groups]
        excluded = frozenset().union(*(entry.exclude for entry in news))
        for connection in ours:
            name = connection.session.name
            if name not in excluded:
                connection.told(common)
                continue
            mine = []
            for batch, position, group in groups:
                some = [entry for entry in group if name not in entry.exclude]
                if len(some) == len(group):
                    mine.append((batch, position))
                elif some:
                    mine.append(_together(some))
            if mine:
                connection.told(mine)
        self._sweep(grown)

    def _sweep(self, grown: int) -> None:
        """
        Drop what is old, and have places written that were not since the last time.

        @param grown: bytes that were told just now.
        """
        since, before = self._swept
        self._swept = (since + grown, before)
        if since + grown < self._stride:
            return
        self._swept = (0, self.position)
        old = 0
        while self._size > LOG_SIZE and old < len(self._entries) - 1:
            self._size -= _sizeOf(self._entries[old])
            old += 1
        del self._entries[:old]
        for connection in self._ours:
            following = cast(Following, connection.following)
            done = connection.session.outbox.acknowledged
            if following.behind(done, self.position) < self.first - 1:
                connection.closeLate()
            elif following.place.position < before:
                self._journal.touch(connection)

    # What is read

    def catchUp(self) -> Deferred[None]:
        """
        Have our sessions told all that is in the log by now.

        @return: fires once that is done, however long it takes; fails with
            L{SpoolError} if it is stopped before.
        """
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
        while not self._isStopped:
            last = self._last
            known = self._find(last)
            page = await self._store.readLog(last, b"" if known is None else known.name)
            if page is None:
                await self._rewind()
                continue
            if page.entries is None:  # none of what follows is for anybody here
                self._restart(page.first - 1)
                continue
            for entry in page.entries:
                if entry.position == self._last + 1:  # it was not heard meanwhile
                    self._take(entry)
            if self._last >= page.last or not page.entries:
                self._deliver()
                return

    def _restart(self, position: int) -> None:
        """Go on behind a gap: who has not had what was there misses it."""
        self._entries, self._news, self._size = [], [], 0
        self.position = position
        for connection in self._ours:
            connection.closeLate()

    async def _rewind(self) -> None:
        """The log is not what it was: go back to what is the same."""
        self._doubts += 1
        self._isWanted = True
        self._deliver()
        there: dict[int, bytes] = {}
        after, name, last = 0, b"", 1
        while after < last:
            page = await self._store.readLog(after, name)
            if page is None:
                after, name, last, there = 0, b"", 1, {}
                continue
            last = page.last
            if page.entries is None:
                after, name = page.first - 1, b""
                continue
            if not page.entries:
                break
            there |= {entry.position: entry.name for entry in page.entries}
            after, name = page.entries[-1].position, page.entries[-1].name
        same = [each for each in self._entries if there.get(each.position) == each.name]
        base = min(there, default=last + 1) - 1
        lost = len(self._entries) - len(same)
        self._entries = same
        self._size = sum(map(_sizeOf, same))
        self.position = same[-1].position if same else base
        self._swept = (0, min(self.position, self._swept[1]))
        _log.warn(
            "the engine lacks {count} messages to all nodes: those who have them keep "
            "them",
            count=lost,
        )
        for connection in self._ours:
            cast(Following, connection.following).isKept = True
            self._journal.touch(connection)

    # For sessions that go on here

    def has(self, place: Place) -> bool:
        """Tell whether all that is behind a place is kept."""
        return place.position >= self.first - 1

    def merged(
        self, name: str, done: int, place: Place, own: Iterable[tuple[int, Batch]]
    ) -> tuple[list[Batch], Following]:
        """
        Find out what a session was to be sent.

        @param name: the session.
        @param done: how many messages of it are acknowledged.
        @param place: where it was in the log.
        @param own: its own batches, each with the number of its first message.
        @return: all of its batches that are not acknowledged, and where it is.
        @raise LookupError: entries are missing.
        """
        index = place.position + 1 - self.first
        if index < 0:
            raise LookupError("the log has not what follows")
        entries = [each for each in self._entries[index:] if name not in each.exclude]
        skip = done - place.number  # of the log: its own are stored no more
        behind = entries[skip - 1].position if skip else place.position
        del entries[:skip]
        batches: list[Batch] = []
        places: Places = []
        number = done

        def fill(some: list[_Told]) -> None:
            """Add entries of the log."""
            nonlocal number
            for group in _grouped(some):
                batch, position = _together(group)
                batches.append(batch)
                batch.first = number
                places.append((number, len(group), position))
                number += len(group)

        for first, batch in own:
            gap = max(0, first - number)
            if gap > len(entries):
                raise LookupError(
                    f"{gap - len(entries)} entries of the log are missing"
                )
            fill(entries[:gap])
            del entries[:gap]
            batch.first = first
            number = first + len(batch.bodies)
            if first < done:  # some of those that were sent together
                batch.cut(done - first)
            batches.append(batch)
        fill(entries)
        return batches, Following(Place(done, behind, place.began), places)


def _sizeOf(entry: _Told) -> int:
    """The bytes that an entry takes."""
    return len(entry.body) + ENTRY_MEMORY


def _decoded(entry: Entry) -> _Told:
    """Read an entry."""
    header, frame = entry.data.split(b"\n", 1)
    messages = readBlob(Blob(0, 1, frame))
    exclude: Collection[str] = json.loads(header)["exclude"]
    body = bodyOf(messages.data[0])
    return _Told(entry.position, entry.name, messages.micros, body, frozenset(exclude))


def _grouped(entries: Iterable[_Told]) -> list[list[_Told]]:
    """Put those together that fit one batch."""
    groups: list[list[_Told]] = []
    room = micros = 0
    for entry in entries:
        cost = len(entry.body) + MESSAGE_OVERHEAD
        if cost > room or abs(entry.micros - micros) >= GROUP_MICROS:
            groups.append([])
            room, micros = MAX_COST, entry.micros
        groups[-1].append(entry)
        room -= cost
    return groups


def _together(group: Sequence[_Told]) -> tuple[LoggedBatch, int]:
    """Make one batch of some, and say the position of the last."""
    batch = LoggedBatch(group[0].micros)
    batch.fill([entry.body for entry in group])
    return batch, group[-1].position
