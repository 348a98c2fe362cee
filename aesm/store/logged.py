"""
Connections whose sessions are told what all are told, by a log that several processes
share::

    connection = connectionFor(journal, owner, session, **options)
    connection.told([(batch, position)])

What comes from the log is not stored with the session: L{aesm.store.log} says how any
process finds it all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, succeed

from aesm.core.messages.batch import Batch, LoggedBatch
from aesm.core.messages.session import Session
from aesm.errors import CloseCode, SendBufferFull
from aesm.messages.acknowledgements import acknowledgementOf, promptly
from aesm.messages.connection import Connection
from aesm.messages.owner import ConnectionOwner
from aesm.store.connection import DurableConnection
from aesm.store.following import Following, Place

if TYPE_CHECKING:
    from aesm.messages.protocol import AESMProtocol
    from aesm.store.interface import ISessionStore
    from aesm.store.journal import Journal
    from aesm.store.log import Log


class LoggedConnection(DurableConnection):
    """
    A connection whose session follows a log.

    @ivar following: where in it the session is.
    """

    def __init__(
        self, journal: Journal, owner: ConnectionOwner, session: Session, **options: Any
    ) -> None:
        """Make one as L{DurableConnection}, with a journal that has the log."""
        super().__init__(journal, owner, session, **options)
        self._entries = cast("Log", journal.log).entries
        position = self._entries.position
        self.following = Following(Place(self._stored, position, position))

    @property
    def behind(self) -> int:
        """The position up to which its peer has acknowledged all."""
        return self.following.behind(self._outbox.acknowledged, self._entries.position)

    @property
    def isTold(self) -> bool:
        """Whether it goes on, and here."""
        return not (self.isOver or self.isLeft or self.isEnding)

    # For Log

    def told(self, batches: Sequence[tuple[LoggedBatch, int]]) -> AESMProtocol | None:
        """
        Have what all are told in the outbox, to be sent as soon as what is before it is
        stored: it is already.

        @param batches: each with its last position in the log.
        @return: what is to send it, if anything is there.
        """
        if not self.isTold:
            return None
        self.batch = None
        outbox, most = self._outbox, self._outbox.peer.maxMessage
        for logged, position in batches:
            if logged.space > most and logged.largest > most:  # mostly all of it fits
                words = "a message for you is larger than you take"
                self.closeWith(CloseCode.TOO_BIG, words)
                return None
            try:
                batch = outbox.tell(logged)
            except SendBufferFull:
                self._closeSlow()
                return None
            self.following.add(batch.first, len(batch.bodies), position)
            if outbox.staged:
                self._causes.append((batch.first, None))
                outbox.staged.append(batch)
            elif any(self._uncommitted):
                self._uncommitted[-1].append(batch)
            else:
                outbox.release((batch,))
        if self._protocol is None:
            self.account()  # else that is done when it is sent, at once
        return self._protocol

    def hasTold(self, position: int) -> Deferred[None] | None:
        """
        Wait until the peer has an entry of the log, while it is there.

        @return: None if it is not for it.
        """
        number = self.following.number(position)
        if number is None or self.isOver or self.isLeft:
            return None
        watcher = self._numbering or self
        return promptly(acknowledgementOf(watcher, number)) if number else succeed(None)

    def closeLate(self) -> None:
        """Close a peer that does not take what all are told."""
        if self.isTold:
            self._closeSlow()

    # DurableConnection

    def acknowledged(self) -> None:
        """The peer has more messages; those of the log are no reason to write."""
        if self._discarded[True] < self._stored:
            super().acknowledged()
        else:
            Connection.acknowledged(self)

    def renumbered(self, holes: Sequence[tuple[int, int]]) -> None:
        """Messages were taken out."""
        self.following.undo(holes)

    def _append(self, store: ISessionStore, batches: Iterable[Batch]) -> None:
        """Add messages that are not in the log, or are not there any more."""
        if self.following.isKept:
            self._keepLogged(store)
        super()._append(store, [b for b in batches if not isinstance(b, LoggedBatch)])

    def _keepLogged(self, store: ISessionStore) -> None:
        """Add those that were told and that the log has no more, as its own."""
        for first, count in self.following.keep(self._entries.position):
            within = range(first, first + count)
            kept = [each for each in self._outbox.released if each.first in within]
            super()._append(store, kept)
        staged = chain.from_iterable(self._uncommitted)
        super()._append(store, [b for b in staged if isinstance(b, LoggedBatch)])

    def _state(self) -> dict[str, Any]:
        """Tell where it is, too."""
        done, position = self._outbox.acknowledged, self._entries.position
        return super()._state() | {"log": self.following.state(done, position)}


def connectionFor(
    journal: Journal, owner: ConnectionOwner, session: Session, **options: Any
) -> DurableConnection:
    """Make the connection of a session that is stored, as L{DurableConnection}."""
    made = DurableConnection if journal.log is None else LoggedConnection
    return owner.kindOf(made)(journal, owner, session, **options)
