"""
Sessions that are kept and are not here: those with which the store opens, and those
that clients bring along from other processes::

    kept = KeptSessions(manager, journal, sendBuffer, **options)
    kept.open()
    kept.fetch(hello, publicKey)          # before the client is let in
    kept.adopt(found)

Each is asked for once, however many clients name it, and goes on here though all of
these have gone meanwhile: from the answer on it is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.errors import SpoolError
from aesm.messages.deferred import Gate
from aesm.secure.refusals import Kind, Refused
from aesm.store.restoring import (
    DAMAGED,
    Loaded,
    answered,
    loadConnections,
    restoredConnection,
)
from aesm.trust.policies import Answer

if TYPE_CHECKING:
    from aesm.core.messages.hello import Hello
    from aesm.server.manager import ConnectionManager
    from aesm.store.interface import Stored
    from aesm.store.journal import Journal
    from aesm.trust.keys import PublicKey

__all__ = ["Keeper", "KeptSessions"]

_log = Logger(namespace="aesm.server")


class Keeper(Protocol):
    """Where sessions may be that are not here."""

    def claim(self, name: str, peer: str) -> Deferred[Stored | None]:
        """
        Have a session that is not ours.

        @see: L{ISessionStore.claim<aesm.store.interface.ISessionStore.claim>}
        """


class KeptSessions:
    """Has them go on, before their clients are let in."""

    def __init__(
        self,
        manager: ConnectionManager,
        journal: Journal,
        sendBuffer: int,
        **options: Any,
    ) -> None:
        """
        @param manager: goes on with them.
        @param journal: of the store that they are in.
        @param sendBuffer: cost of unacknowledged messages to keep, bytes.
        @param options: more options of L{DurableConnection}.
        """
        self._manager = manager
        self._journal = journal
        self._sendBuffer = sendBuffer
        self._options = options
        self._opening: Gate | None = Gate()  # until the store has answered
        self._failure: BaseException | None = None  # with which it has
        self._asked: dict[tuple[str, PublicKey], Gate] = {}

    def open(self) -> None:
        """
        Go on with the sessions with which the store opens; until it has said which
        these are nobody is let in.

        @raise SpoolError: they cannot be read.  If that turns out later it is logged,
            and nobody is let in at all.
        """
        loaded = loadConnections(
            self._journal, self._manager, self._sendBuffer, **self._options
        )
        opened = loaded.addCallback(self._cbLoaded)
        if opened.called:
            answered(opened, self._journal)
        else:
            opened.addErrback(self._ebNotLoaded)

    def _cbLoaded(self, loaded: Loaded) -> None:
        """Go on with them, then let those in who have come meanwhile."""
        if self._isNeeded:
            for connection, over in loaded:
                self._manager.goOn(connection, over)
        opening, self._opening = cast(Gate, self._opening), None
        opening.open()

    def _ebNotLoaded(self, failure: Failure) -> None:
        """Let nobody in."""
        if self._isNeeded:
            _log.failure("sessions cannot be read: nobody is let in", failure)
        self._failure = failure.value
        cast(Gate, self._opening).open()

    @property
    def _isNeeded(self) -> bool:
        """Whether sessions go on here; else they stay where they are."""
        return self._manager.journal is self._journal and not self._manager.stopping

    def fetch(self, hello: Hello, peer: PublicKey) -> Answer[None]:
        """
        Have the session here that a client goes on with, wherever it is.

        @param peer: the client's key.
        @return: once the client can be let in; fails with L{Refused} (1013) if nobody
            can say where its session is.  Can be cancelled.
        @raise Refused: that is not possible now (1013).
        """
        manager, waiting = self._manager, None
        if self._failure is not None:
            raise Refused(f"no session goes on: {self._failure}", Kind.SPOOL)
        if manager.sessions.find(hello, peer) is not None:
            return None
        if self._opening is not None:
            waiting = self._opening.wait()
        elif manager.predecessor is not None:
            waiting = manager.predecessor.moved()
        if waiting is not None:
            return waiting.addCallback(lambda nothing: self.fetch(hello, peer))
        if not hello.session or hello.early:  # it begins one
            return None
        return self._claim(hello.session, peer)

    def _claim(self, name: str, peer: PublicKey) -> Deferred[None]:
        """
        Ask for a session, unless that is under way.

        @raise Refused: too many are being asked for (1013).
        """
        gate = self._asked.get((name, peer))
        if gate is not None:
            return gate.wait()
        if len(self._asked) >= self._manager.admission.maxConnections:
            raise Refused("too many sessions are asked for", Kind.TOO_MANY)
        gate = self._asked[name, peer] = Gate()
        waiting = gate.wait()
        keeper: Keeper = self._manager.predecessor or self._journal.store
        claimed = keeper.claim(name, str(peer)).addCallback(self._cbClaimed)
        claimed.addErrback(_ebNotClaimed).addBoth(self._answered, name, peer)
        return waiting

    def _cbClaimed(self, stored: Stored | None) -> None:
        """Go on with a session, if there is one."""
        if stored is not None:
            self.adopt([stored])

    def _answered(self, result: Failure | None, name: str, peer: PublicKey) -> None:
        """Let those go on who wait for a session."""
        self._asked.pop((name, peer)).open(result)

    def adopt(self, found: Iterable[Stored]) -> None:
        """
        Go on with sessions that another process has left.

        @param found: as they are stored; those that are here already are left out.
        """
        for stored in found:
            if stored.name in self._journal.sessions or not self._isNeeded:
                continue
            try:
                connection = restoredConnection(
                    stored,
                    self._journal,
                    self._manager,
                    self._sendBuffer,
                    **self._options,
                )
            except DAMAGED:
                _log.failure("session {name} is damaged", name=stored.name)
            else:
                self._manager.goOn(connection, stored.state["over"])


def _ebNotClaimed(failure: Failure) -> None:
    """
    Have the clients come again.

    @raise Refused: nobody knows where their session is (1013).
    """
    if not failure.check(SpoolError):
        _log.failure("a session cannot be fetched", failure)
    raise Refused(f"no session goes on: {failure.getErrorMessage()}", Kind.SPOOL)
