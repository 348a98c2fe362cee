"""
Writing down what happens to sessions, in a L{Spool<aesm.store.spool.Spool>}: once for
each turn of the event loop, whatever happened to any of them in it.  So what a
handler sends because of a message is in the same transaction as that it has
handled the message::

    arrives --> handler --> sends   }  one commit  -->  acknowledged; sent
    arrives ----------------------> }              -->  in retrieved; acknowledged

Once the process is about to end, nothing more is handed to handlers, and what they
are done with from then on is not noted: what they would send could not be sent any
more, so that the next process does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from aesm.errors import SpoolError

if TYPE_CHECKING:
    from aesm.core.messages.session import Session
    from aesm.store.spool import Spool
    from aesm.store.sqlite import Stored

__all__ = ["Journal"]


class Written(Protocol):
    """
    A connection that is written down.
    """

    session: Session

    def write(self, spool: Spool) -> Callable[[], None]:
        """
        Write down what happened since the last time.

        @param spool: where to.
        @return: what to call once that is committed.
        """

    def proceed(self) -> None:
        """
        Something can be written again.
        """


class Journal:
    """
    Writes down what happens to connections.

    @ivar suspended: whether the process is about to end: sessions that end from now
        on are kept as they are for the next one.
    @ivar path: the spool's file.
    """

    def __init__(self, spool: Spool, clock: IReactorTime) -> None:
        """
        @param spool: where to.
        @param clock: keeps time.
        """
        self.suspended = False
        self.path = spool.path
        self._spool = spool
        self._clock = clock
        self._touched: dict[Written, None] = {}
        self._held: dict[Written, None] = {}  # until it can be written
        self._writeCall: IDelayedCall | None = None
        self._closed = False

    @property
    def ready(self) -> bool:
        """
        Whether messages may be handed to handlers.
        """
        return self.failure is None and not self.suspended

    @property
    def failure(self) -> SpoolError | None:
        """
        Why nothing can be written at the moment, or None.
        """
        return self._spool.failure

    def load(self) -> list[Stored]:
        """
        Read what was written down.

        @return: the sessions.
        @raise SpoolError: it cannot be read.
        """
        return self._spool.load()

    def touch(self, connection: Written) -> None:
        """
        Write down what happened, at the end of this turn of the event loop.

        @param connection: to which.
        """
        self._touched[connection] = None
        self._schedule()

    def hold(self, connection: Written) -> None:
        """
        Tell a connection once something can be written again.

        @param connection: which.
        """
        if not self._held:
            self._schedule()
        self._held[connection] = None

    def forget(self, connection: Written) -> None:
        """
        Forget a session that is over and of which nothing is left to be taken.

        @param connection: its connection.
        """
        if not self.suspended:
            self._touched.pop(connection, None)
            self._spool.drop(connection.session.name)
            self._spool.commit().addErrback(_ignore)

    def suspend(self) -> None:
        """
        The process is about to end.
        """
        self._flush()
        self.suspended = True

    def close(self) -> Deferred[None]:
        """
        Write what is left; what is taken from now on is not noted.

        @return: fires when the file is closed; fails with L{SpoolError} if not all
            could be written.
        """
        self._flush()
        self._closed = True
        return self._spool.close()

    def _schedule(self) -> None:
        """
        Write at the end of this turn, unless that is over.
        """
        if self._writeCall is None and not self._closed:
            self._writeCall = self._clock.callLater(0, self._writeDue)

    def _flush(self) -> None:
        """
        Write down what happened so far.
        """
        if self._writeCall is not None:
            self._writeCall.cancel()
            self._writeDue()

    def _writeDue(self) -> None:
        """
        Write down what happened in this turn.
        """
        self._writeCall = None
        touched, self._touched = self._touched, {}
        written = [connection.write(self._spool) for connection in touched]
        committed = self._spool.commit()
        committed.addCallbacks(self._cbCommitted, _ignore, callbackArgs=(written,))

    def _cbCommitted(self, result: None, written: Sequence[Callable[[], None]]) -> None:
        """
        Go on with what is written down.

        @param result: nothing.
        @param written: what to call.
        """
        for goOn in written:
            goOn()
        if self.ready:
            held, self._held = self._held, {}
            for connection in held:
                connection.proceed()


def _ignore(failure: object) -> None:
    """
    The spool is closed before all is written: who closes it is told.

    @param failure: that.
    """
