"""
What other nodes send to the sessions that are here, by way of their inlets in the
engine: it goes into their outboxes::

    inlets = Inlets(journal, store, clock)
    store.came = inlets.came
    inlets.look(connection)       # a session has come here: something may be there
    inlets.forget(connection)

An entry leaves the inlet in the commit in which it comes into the outbox, and nowhere
before: so it is in one of the two at any time.  An outbox that is half full takes no
more before there is room, and the rest stays in the inlet, which is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    MessageTooBig,
    SendBufferFull,
    SpoolError,
)
from aesm.messages.deferred import ignore
from aesm.server.entries import unpacked

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from aesm.cluster.store import EngineStore
    from aesm.store.connection import DurableConnection
    from aesm.store.interface import Entry, ISessionStore
    from aesm.store.journal import Journal

RETRY = 1.0  # seconds until an inlet is looked at again that could not be

_log = Logger(namespace="aesm.cluster")


class Inlets:
    """The inlets of the sessions that are here."""

    def __init__(
        self, journal: Journal, store: EngineStore, clock: IReactorTime
    ) -> None:
        """
        @param journal: of the store.
        @param clock: for trying again.
        """
        self._journal = journal
        self._store = store
        self._clock = clock
        self._inlets: dict[DurableConnection, _Inlet] = {}

    def came(self, name: str, entry: Entry | None) -> None:
        """Take something over."""
        connection = self._journal.find(name)
        if connection is not None:
            self._of(connection).came(entry)

    def look(self, connection: DurableConnection) -> None:
        """Take over what there is: a session has come here."""
        self._of(connection).came(None)

    def forget(self, connection: DurableConnection) -> None:
        """A session is over, or goes on elsewhere."""
        inlet = self._inlets.pop(connection, None)
        if inlet is not None:
            inlet.end()

    def _of(self, connection: DurableConnection) -> _Inlet:
        """Have the inlet of a session that is here."""
        inlet = self._inlets.get(connection)
        if inlet is None:
            inlet = _Inlet(connection, self._journal, self._store, self._clock)
            if not connection.isOver:
                self._inlets[connection] = inlet
        return inlet


# What is told of an entry is all of it, and its position: if that is the next one, and
# nothing is being read, it is taken as it is.  In any other case the inlet is read, a
# page at a time, until there is nothing more: from where we are, or, if anything may
# have been missed, from its beginning.  For that all that was taken has to be committed
# before: else it would be there still.


class _Inlet:
    """
    One of them.

    @ivar _last: the position of the last entry that was taken; None if that says
        nothing of the next.
    @ivar _isReading: whether it is being read.
    @ivar _hasMore: whether more has come meanwhile.
    @ivar _mayMiss: whether it is to be read from its beginning.
    @ivar _hasTaken: whether anything was taken that may be in the inlet still.
    @ivar _taken: what was taken in this turn.
    @ivar _pause: fires when it is tried again; None while nobody waits for that.
    """

    __slots__ = (
        "_clock",
        "_connection",
        "_hasMore",
        "_hasTaken",
        "_isReading",
        "_journal",
        "_last",
        "_mayMiss",
        "_pause",
        "_store",
        "_taken",
    )

    def __init__(
        self,
        connection: DurableConnection,
        journal: Journal,
        store: EngineStore,
        clock: IReactorTime,
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._store = store
        self._clock = clock
        self._last: int | None = None
        self._isReading = self._hasMore = self._mayMiss = self._hasTaken = False
        self._taken: list[Entry] = []
        self._pause: Deferred[None] | None = None

    def came(self, entry: Entry | None) -> None:
        """Take an entry over, or see what there is."""
        if entry is None or self._store.failure is not None:
            self._mayMiss = True
        elif self._isReading:
            self._hasMore = True
        elif entry.position - 1 != self._last:
            self._mayMiss = True
        else:
            try:
                if self._take(entry):
                    return
            except AESMError:
                self._refused(Failure())
                return
        if not self._isReading:
            self._isReading = True
            Deferred.fromCoroutine(self._read()).addErrback(self._refused)

    def end(self) -> None:
        """Take nothing more."""
        if self._pause is not None:
            self._pause.cancel()

    def _refused(self, failure: Failure) -> None:
        """The connection is over, or to be: its peer must not miss anything unknown."""
        self._isReading = False
        if failure.check(MessageTooBig):
            self._connection.closeWith(
                CloseCode.TOO_BIG, "a message for you is larger than you take"
            )
        elif not failure.check(ConnectionClosed):
            _log.failure("an inlet cannot be read", failure)

    async def _read(self) -> None:
        """Take over what there is, until there is nothing more."""
        isDone = False
        while not isDone:
            if self._mayMiss:
                self._mayMiss, self._last = False, None
                await self._written()
            self._hasMore = False
            isDone = await self._readPage(self._last or 0)
            isDone = isDone and not (self._mayMiss or self._hasMore)
        self._isReading = False

    async def _written(self) -> None:
        """Wait until what was taken is gone from the inlet."""
        if not self._hasTaken:
            return  # a client that comes back does not wait for an engine that is full
        try:
            await self._journal.add(ignore)
        except SpoolError as error:
            raise ConnectionClosed(str(error)) from None
        self._hasTaken = False

    async def _readPage(self, after: int) -> bool:
        """Take over what is behind a position; tell whether there was nothing."""
        if not self._connection.session.outbox.roomy:
            await self._connection.drain()
        try:
            entries = await self._store.readInlet(self._connection.session.name, after)
        except SpoolError:
            self._mayMiss = True
            await self._wait()
            return False
        for entry in entries:
            if not self._take(entry):
                if self._connection.session.outbox.roomy:
                    await self._wait()  # it is all together that is full
                return False  # the rest of the page is not kept meanwhile
        return not entries

    async def _wait(self) -> None:
        """Let some time pass."""
        self._pause = deferLater(self._clock, RETRY)
        try:
            await self._pause
        except CancelledError:
            raise ConnectionClosed("it is over") from None
        finally:
            self._pause = None

    def _take(self, entry: Entry) -> bool:
        """Take an entry over, and tell whether there was room for it."""
        connection = self._connection
        if not connection.session.outbox.roomy:
            return False
        try:
            connection.accept(unpacked(entry.data))
        except SendBufferFull:
            return False
        if not self._taken:
            # If it fails, it is in the inlet still, for the next process.
            self._journal.add(self._remove).addErrback(ignore)
        self._taken.append(entry)
        self._last, self._hasTaken = entry.position, True
        return True

    def _remove(self, store: ISessionStore) -> None:
        """
        Have what was taken leave the inlet in the commit that has it in the outbox.
        """
        taken, self._taken = self._taken, []
        if not self._connection.isLeft:  # else it is written neither here nor there
            for entry in taken:
                self._store.took(self._connection.session.name, entry)
