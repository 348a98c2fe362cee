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

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    SessionLost,
    SessionMoved,
    SpoolError,
)
from aesm.messages.deferred import Gate, ignore
from aesm.secure.refusals import Kind, Refused
from aesm.store.following import Place
from aesm.store.interface import ILogStore, Stored
from aesm.store.log import Log
from aesm.store.restoring import (
    DAMAGED,
    Loaded,
    answered,
    loadConnections,
    restoredConnection,
)
from aesm.trust.policies import Answer

if TYPE_CHECKING:
    from aesm.core.messages.hello import ConversationSettings, Hello
    from aesm.messages.connection import Connection
    from aesm.server.manager import ConnectionManager
    from aesm.store.connection import DurableConnection
    from aesm.store.journal import Journal
    from aesm.trust.keys import PublicKey

_log = Logger(namespace="aesm.server")

# Why a session is over here that a store has lost, as L{Lost} says it.
_WHY: dict[bool | None, Callable[[], AESMError]] = {
    True: lambda: SessionMoved("it goes on in another process"),
    False: lambda: SessionLost("the session is stored no more"),
    None: lambda: ConnectionClosed(
        "replaced by a newer connection", CloseCode.TAKEN_OVER
    ),
}


class KeptSessions:
    """Has them go on, before their clients are let in."""

    def __init__(
        self,
        manager: ConnectionManager,
        journal: Journal,
        messages: ConversationSettings,
        **options: Any,
    ) -> None:
        """
        @param manager: goes on with them.
        @param journal: of the store that they are in.
        @param messages: settings of the message layer.
        @param options: more options of L{DurableConnection}.
        """
        self._manager = manager
        self._cluster = manager.connections.ofCluster
        self._journal = journal
        self._sendBuffer = messages.sendBuffer
        self._options = options
        self._opening: Gate | None = Gate()  # until the store has answered
        self._failure: Failure | None = None  # with which it has
        self._asked: dict[tuple[str, PublicKey], Gate] = {}
        self._found: set[str] = set()  # that are ours, and do not go on yet
        store = journal.store
        if ILogStore.providedBy(store):
            journal.log = manager.connections.log = Log(
                journal,
                ILogStore(store),
                manager.clock,
                2 * messages.heartbeat,
                self._sendBuffer,
                getattr(manager.handler, "replica", None),
                self._broken,
            )

    def open(self) -> None:
        """
        Go on with the sessions with which the store opens; until it has said which
        these are nobody is let in.

        @raise SpoolError: they cannot be read.  If that turns out later it is logged,
            and nobody is let in at all.
        """
        if self._cluster is not None:
            self._cluster.begin(self._manager, self._journal)
        loaded = loadConnections(
            self._journal,
            self._manager,
            self._sendBuffer,
            self._lost,
            self._lapsed,
            **self._options,
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
        if failure.check(SpoolError):
            if self._isNeeded:  # else it is stopped, and that is why
                reason = failure.getErrorMessage()
                _log.critical("nobody is let in: {reason}", reason=reason)
        elif not failure.check(CancelledError):
            _log.failure("nobody is let in: sessions cannot be read", failure)
        self._failure = failure
        opening, self._opening = cast(Gate, self._opening), None
        opening.open(failure)

    def opened(self) -> Deferred[None]:
        """Wait until the store is open; C{SpoolError} if it cannot be read."""
        if self._opening is not None:
            return self._opening.wait()
        return succeed(None) if self._failure is None else fail(self._failure)

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
            return _ebNotClaimed(self._failure)
        isHere = manager.sessions.find(hello, peer) is not None
        if isHere and not self._journal.store.fences:
            return None
        if self._opening is not None:
            waiting = self._opening.wait()
        elif manager.predecessor is not None:
            waiting = manager.predecessor.moved()
        if waiting is not None:
            return waiting.addCallbacks(
                lambda nothing: self.fetch(hello, peer), _ebNotClaimed
            )
        if not hello.session or hello.early:  # it begins one
            return None
        return self._claim(hello.session, peer)

    def _claim(self, name: str, peer: PublicKey) -> Deferred[None]:
        """Ask for a session, unless that is under way."""
        gate = self._asked.get((name, peer))
        if gate is not None:
            return gate.wait()
        if len(self._asked) >= self._manager.admission.maxConnections:
            raise Refused("too many sessions are asked for", Kind.TOO_MANY)
        keeper = self._manager.predecessor or self._journal.store
        return self._await(name, peer, keeper.claim(name, str(peer)))

    def _await(
        self, name: str, peer: PublicKey, claimed: Deferred[Stored | None]
    ) -> Deferred[None]:
        """Go on with a session once it has been claimed, for which its clients wait."""
        gate = self._asked[name, peer] = Gate()
        waiting = gate.wait()
        going = claimed.addCallback(self._cbFound)
        going.addCallback(self._cbClaimed).addErrback(_ebNotClaimed)
        going.addBoth(self._answered, name, peer)
        return waiting

    def _cbFound(self, stored: Stored | None) -> Answer[Stored | None]:
        """Know all that the process has told its client that had it before."""
        log = self._journal.log
        if stored is None or log is None:
            return stored
        self._found.add(stored.name)
        return log.catchUp().addCallback(self._cbRead, stored)

    def _cbRead(self, nothing: None, stored: Stored) -> Stored:
        """It may go on, if it is still ours."""
        if stored.name not in self._found:
            raise Refused("another process has it by now", Kind.SPOOL)
        self._found.remove(stored.name)
        return stored

    def _cbClaimed(self, stored: Stored | None) -> None:
        """
        Go on with a session, if there is one, and it has taken what all were told.
        """
        if stored is None:
            return
        log = self._journal.log
        if log is not None and not log.entries.has(Place(*stored.state["log"])):
            self._journal.store.drop(stored.name)
            self._journal.store.commit().addErrback(ignore)
            raise Refused("slow consumer", Kind.SLOW, CloseCode.SLOW_CONSUMER)
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
                if self._cluster is not None:
                    self._cluster.look(connection)

    def leave(
        self, reasons: Mapping[Connection, AESMError], after: int = 0
    ) -> Deferred[None]:
        """
        Leave sessions to other processes, as they are when all is written that is due,
        and tell their clients to come back (1001), or why not.

        @param reasons: why each is over here.
        @param after: milliseconds over which the clients are to come back.
        @return: fires once that is written: others may read them then.
        """
        admission = self._manager.admission
        self._journal.writeNow()
        away = (CloseCode.GOING_AWAY, "another process goes on", after)
        # First all of them, then who hears of it: a handler may send to others.
        for connection, reason in reasons.items():
            superseded = cast("DurableConnection", connection).leave(reason)
            self._journal.store.release(connection.session.name)
            if superseded is not None:
                admission.linger(connection, superseded)
                isOld = getattr(reason, "code", 0) == CloseCode.TAKEN_OVER
                close = (CloseCode.TAKEN_OVER, str(reason), 0) if isOld else away
                superseded.supersede(partial(admission.leave, superseded), close)
        for connection, reason in reasons.items():
            if not connection.isOver:  # its handler may have failed since
                connection.finish(reason)
        return self._journal.store.commit()

    # When others claim what is ours
    #
    # What such a session has caused and is not committed happens in the process that
    # goes on with it, and must not here.  The store leaves that out, and so do the
    # connections to whose peers it was to go, of what they have staged; what is behind
    # it, which nobody has seen, has other numbers then.  Only those of requests others
    # know already: such a connection is given up, and its session goes on from what is
    # stored, as after a restart.

    def _lost(
        self, lost: Mapping[str, bool | None], undone: Mapping[str, Collection[int]]
    ) -> None:
        """
        Leave sessions that others have claimed, and take out what they have caused.

        @see: L{Lost<aesm.store.interface.Lost>}
        """
        self._found -= lost.keys()
        reasons: dict[Connection, AESMError] = {}
        find = self._journal.find
        for connection, isKept in [(find(name), lost[name]) for name in lost]:
            if connection is not None:
                connection.lose()
                reasons[connection] = _WHY[isKept]()
        again, settled = [], []
        changed = [each.session.name for each in self._journal.changed]
        for name in dict.fromkeys([*undone, *changed]):
            connection = find(name)
            if connection is None or connection.isLeft:
                continue
            tell = connection.undo(undone.get(name, ()))
            if tell is None:
                again.append(connection)
                reasons[connection] = SessionMoved("it goes on anew")
            else:
                settled.append(tell)
        for ending in [each for each in reasons if each.isEnding]:
            del reasons[ending]
            ending.abort()
        there = {each: why for each, why in reasons.items() if not each.isOver}
        for over in reasons.keys() - there.keys():
            if self._manager.handler is None:  # what is unread is the store's
                unread = cast("DurableConnection", over).retrieved
                unread.isLeft = True
                unread.drop(False)
        self.leave(there).addErrback(ignore)
        for connection in again:
            if connection in reasons:
                self._again(connection.session.name, connection.peer)
        for tell in settled:
            tell()

    def _lapsed(self) -> None:
        """Have all clients go where somebody serves them."""
        _log.error("other nodes do not hear of this one: its clients are to go there")
        if self._cluster is not None:
            self._cluster.lapsed()
        self._manager.goAway()

    def _broken(self, reason: SpoolError) -> None:
        """Let nobody in any more, and have all clients go elsewhere."""
        if self._opening is None:
            _log.critical("nobody is let in: {reason}", reason=str(reason))
            self._failure = Failure(reason)
            self._manager.goAway()

    def _again(self, name: str, peer: PublicKey) -> None:
        """Go on with a session that was left, from what is stored of it."""
        store = self._journal.store
        left: Deferred[Any] = store.commit()
        left.addCallback(lambda nothing: store.claim(name, str(peer)))
        # Clients are told when they come, and ask.
        self._await(name, peer, left).addErrback(ignore)


def _ebNotClaimed(failure: Failure) -> NoReturn:
    """Have the clients come again, since nobody knows where their session is."""
    if isinstance(failure.value, Refused):
        raise failure.value
    if failure.check(CancelledError):
        failure.raiseException()
    if not failure.check(SpoolError):
        _log.failure("a session cannot be fetched", failure)
    raise Refused(f"no session goes on: {failure.getErrorMessage()}", Kind.SPOOL)
