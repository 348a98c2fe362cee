"""
What has happened, on its way into the log, and who waits until it is told here::

    tellings = Tellings(journal)
    tellings.tell(data, cause, micros).addCallback(goOn)
    tellings.settle(position)             # all up to there is told here
    tellings.stop()
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from math import inf
from operator import not_
from typing import TYPE_CHECKING, Final, cast

from twisted.internet.defer import Deferred, succeed

from aesm.errors import MessageTooBig
from aesm.store.entries import EVENT, GONE, encodedEvent
from aesm.store.journal import Journal, JournalState
from aesm.store.undoing import hasLeft

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from aesm.messages.connection import Connection
    from aesm.store.counting import LogCount
    from aesm.store.interface import ILogStore, ISessionStore

MAX_ENTRY: Final = 1 << 20  # bytes of a message to all


class Turn:
    """
    What is sent in one turn of the event loop.

    @ivar micros: when, microseconds since the Unix epoch.
    @ivar counts: of each message.
    @ivar size: bytes of all that is to be written.
    """

    __slots__ = ("counts", "micros", "size")

    def __init__(self, micros: int) -> None:
        self.micros = micros
        self.counts: list[LogCount] = []
        self.size = 0


class _Telling(Deferred[None]):
    """
    Fires once something that has happened was told here, or never will be.

    @ivar position: where in the log it is; 0 until it is there.
    """

    def __init__(self, cause: Connection, entry: bytes) -> None:
        """
        @param cause: whose it is.
        @param entry: what is to be written.
        """
        super().__init__()
        self.position = 0
        self._cause = cause
        self._entry = entry

    def write(self, store: ISessionStore) -> None:
        """Give the entry to the store, unless its cause is elsewhere by now."""
        if not hasLeft(self._cause):
            name = self._cause.session.name
            cast("ILogStore", store).log(name, self._entry, self._written)

    def _written(self, position: int, name: bytes) -> None:
        """Note that it is in the log."""
        self.position = position


class Tellings:
    """All that was not told here."""

    def __init__(self, journal: Journal) -> None:
        """@param journal: writes it, with all else of a turn."""
        self._journal = journal
        self._waiting: list[_Telling] = []
        self._told: float = 0  # up to which position all is

    def tell(
        self, data: bytes, cause: Connection, turn: Callable[[], Turn]
    ) -> Deferred[None]:
        """
        Tell the replicas of all processes that something has happened.  It is written
        with all that this turn writes, or, if nothing can be now, as soon as it can:
        so a handler that is done with a message in the turn in which it has told this
        has done both, or neither.

        @param cause: whose it is: unless that session has ended, or is elsewhere.
        @param turn: says what this turn sends.
        @return: fires once it was told here, or never will be.
        @raise MessageTooBig: it is larger than L{MAX_ENTRY}.
        """
        if len(data) > MAX_ENTRY:
            raise MessageTooBig(
                f"an event of {len(data)} bytes; to all nodes at most {MAX_ENTRY} can "
                "go"
            )
        isRunning = self._journal.state is JournalState.RUNNING
        if not isRunning or hasLeft(cause) or cause.isOver:
            return succeed(None)
        telling = _Telling(cause, encodedEvent(EVENT, data, turn().micros))
        self._waiting.append(telling)
        self._journal.add(telling.write).addBoth(self._cbWritten, telling)
        return telling

    def _cbWritten(self, result: Failure | None, telling: _Telling) -> None:
        """It is in the log, or will never be."""
        if telling.position:
            self.settle(self._told)
        else:
            self._waiting.remove(telling)
            telling.callback(None)

    def settle(self, position: float) -> None:
        """All up to a position is told here."""
        self._told, waiting = position, self._waiting
        if waiting:
            isDone = [0 < each.position <= position for each in waiting]
            self._waiting = list(compress(waiting, map(not_, isDone)))
            for each in compress(waiting, isDone):
                each.callback(None)

    def stop(self) -> None:
        """Nothing is told here any more: nobody waits for more than the log."""
        self.settle(inf)


def endEntry(name: str, micros: int) -> bytes:
    """Make what is written of a session that is over."""
    return encodedEvent(GONE, name.encode(), micros)
