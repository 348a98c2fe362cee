"""
When sessions are written to an L{ISessionStore}: once for each turn of the event loop,
whatever happened to any of them in it.  So what a handler sends because of a message is
in the same transaction as that it has handled the message::

    arrives --> handler --> sends   }  one commit  -->  acknowledged; sent
    arrives ----------------------> }              -->  in retrieved; acknowledged

Once the process is about to end, nothing more is handed to handlers, and what they
are done with from then on is not stored: what they would send could not be sent any
more, so that the next process does it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from aesm.messages.deferred import ignore

if TYPE_CHECKING:
    from aesm.messages.protocol import AESMProtocol
    from aesm.store.connection import DurableConnection
    from aesm.store.interface import ISessionStore
    from aesm.store.log import Log


class JournalState(Enum):
    """How far a journal is on its way to the end; there is no way back."""

    RUNNING = "running"
    SUSPENDED = "suspended"  # sessions stay as they are for the next process
    CLOSED = "closed"  # nothing more is written


# A connection, and what C{write} has returned.
_Written = tuple["DurableConnection", "Callable[[], AESMProtocol | None]"]

# Fires once something is stored, and the session whose message caused it, or empty.
_Waiter = tuple["Deferred[None]", str]


class Journal:
    """
    Gathers which connections have changed, and commits them together.

    @ivar store: where to.
    @ivar state: what is still to be stored.
    @ivar sessions: those that are this process's to write, by name.
    @ivar log: what all are told, where several processes share the store; or None.
    """

    def __init__(self, store: ISessionStore, clock: IReactorTime) -> None:
        """
        @param store: where to.
        @param clock: has the turns.
        """
        self.store = store
        self.state = JournalState.RUNNING
        self.sessions: dict[str, DurableConnection] = {}
        self.log: Log | None = None
        self._clock = clock
        # Dicts and not sets, for their order: who came first is written first.
        self._changed: dict[DurableConnection, None] = {}
        # Until the store can be written.
        self._blocked: dict[DurableConnection, None] = {}
        self._forgotten: dict[str, DurableConnection] = {}  # by name
        # What else this turn writes, and who waits for that.
        self._others: list[tuple[Callable[[ISessionStore], object], _Waiter]] = []
        self._writeCall: IDelayedCall | None = None

    @property
    def ready(self) -> bool:
        """Whether messages may be handed to handlers."""
        return self.store.failure is None and self.state is JournalState.RUNNING

    @property
    def changed(self) -> list[DurableConnection]:
        """List those of which something is to be written at the end of this turn."""
        return list(self._changed)

    def find(self, name: str) -> DurableConnection | None:
        """Find one that is ours, or was at the beginning of this turn."""
        return self.sessions.get(name) or self._forgotten.get(name)

    def begin(self, name: str, peer: str, state: dict[str, Any]) -> Deferred[None]:
        """
        Store a session that begins, before its peer knows: L{ISessionStore.begin}.
        """
        if name in self._forgotten:  # else what removes that would remove this
            self.writeNow()
        return self.store.begin(name, peer, state)

    def touch(self, connection: DurableConnection) -> None:
        """Write what has changed, at the end of this turn of the event loop."""
        self._changed[connection] = None
        self._schedule()

    def block(self, connection: DurableConnection) -> None:
        """Call C{connection.writable} once the store can be written again."""
        if not self._blocked:
            # Maybe nothing else is to be written: that commit, even of nothing, fires
            # when the store works again.
            self._schedule()
        self._blocked[connection] = None

    def forget(self, connection: DurableConnection) -> None:
        """Remove a session that is over and of which nothing is left to be taken."""
        if self.state is JournalState.RUNNING:
            self._changed.pop(connection, None)
            self.sessions.pop(connection.session.name, None)
            # With what else this turn writes: messages that never left may be on their
            # way into another session, and must be in one of the two at any time.
            self._forgotten[connection.session.name] = connection
            self._schedule()

    def add(
        self, write: Callable[[ISessionStore], object], cause: str = ""
    ) -> Deferred[None]:
        """
        Write at the end of this turn, with all that changes in it, something that is no
        session of ours.

        @param write: called with the store then.
        @param cause: the session whose message made us do it, with which it is written,
            or empty.
        @return: fires once all of it is committed, and has gone on; fails with
            L{SpoolError<aesm.errors.SpoolError>} if it will not be.
        """
        written: Deferred[None] = Deferred()
        self._others.append((write, (written, cause)))
        self._schedule()
        return written

    def abandon(self, connection: DurableConnection) -> None:
        """
        Remove a session that was begun and of which no peer knows: also if the process
        is about to end, since the next one has nothing to go on with.
        """
        self.sessions.pop(connection.session.name, None)
        self.store.drop(connection.session.name)
        self.store.commit().addErrback(ignore)  # who closes it is told

    def written(self) -> Deferred[None]:
        """
        Write what has changed so far.

        @return: fires once that is committed, and may leave; fails with
            L{SpoolError<aesm.errors.SpoolError>} if the store is closed before.
        """
        self.writeNow()
        return self.store.commit()

    def writeNow(self) -> None:
        """Write what is due at the end of this turn."""
        if self._writeCall is not None:
            self._writeCall.cancel()
            self._writeDue()

    def suspend(self) -> None:
        """Write what has changed so far; the process is about to end."""
        self.writeNow()
        self.state = JournalState.SUSPENDED

    def close(self) -> Deferred[None]:
        """
        Write what is left, and close the store.

        @return: fires when it is closed; fails with
            L{SpoolError<aesm.errors.SpoolError>} if not all could be written.
        """
        self.writeNow()
        self.state = JournalState.CLOSED
        if self.log is not None:
            self.log.stop()
        return self.store.close()

    def _schedule(self) -> None:
        """Write at the end of this turn."""
        if self._writeCall is None and self.state is not JournalState.CLOSED:
            self._writeCall = self._clock.callLater(0, self._writeDue)

    def _writeDue(self) -> None:
        """Write what has changed in this turn, as one transaction."""
        self._writeCall = None
        changed, self._changed = self._changed, {}
        forgotten, self._forgotten = self._forgotten, {}
        for name in forgotten:
            self.store.drop(name)
        others, self._others = self._others, []
        for write, _ in others:
            write(self.store)
        written = [(each, each.write(self.store)) for each in changed]
        waiters = [waiter for _, waiter in others]
        committed = self.store.commit(partial(self._cbStored, written, waiters))
        committed.addCallbacks(
            self._cbCommitted,
            self._ebNotCommitted,
            callbackArgs=(written, waiters),
            errbackArgs=(waiters,),
        )

    def _cbStored(
        self,
        written: list[_Written],
        waiters: list[_Waiter],
        names: Collection[str],
    ) -> None:
        """Go on with those of which all is committed, before the rest is."""
        stored = [each for each in written if each[0].session.name in names]
        written[:] = [each for each in written if each not in stored]
        told = [each for each in waiters if each[1] in names]
        waiters[:] = [each for each in waiters if each not in told]
        self._goOn(stored)
        for waiter, _ in told:
            waiter.callback(None)

    def _goOn(self, written: Sequence[_Written]) -> None:
        """Send and acknowledge what is committed."""
        sending: Iterable[AESMProtocol | None] = [goOn() for _, goOn in written]
        # What all were told with it leaves together with what is acknowledged.
        if self.log is not None:
            sending = self.log.deliver(sending)
        for carrier in sending:
            if carrier is not None:
                carrier.touch()

    def _cbCommitted(
        self,
        result: None,
        written: Sequence[_Written],
        waiters: Sequence[_Waiter],
    ) -> None:
        """Go on with what is committed."""
        self._goOn(written)
        for waiter, _ in waiters:
            waiter.callback(None)
        # Behind these, since what is blocked came after what was written.
        if self.ready:
            blocked, self._blocked = self._blocked, {}
            for connection in blocked:
                connection.writable()

    def _ebNotCommitted(self, failure: Failure, waiters: Sequence[_Waiter]) -> None:
        """The store was closed before: tell who waits beside connections."""
        for waiter, _ in waiters:
            waiter.errback(failure)
