"""
A server that is replaced by a new process, which its clients do not notice::

    the running process                       the new one
      listens at SPOOL.handover   <--------     connects, once its options are right
      shares its spool            <-TakeOver    opens the spool, and listens on the
      lends its sockets             -------->   same sockets
      accepts nobody any more     <-Accepting
      leaves sessions, and tells
      their clients (1001)          Released->  reads them; their clients come
      leaves one whose client has
      come by itself              <-Release
      has left all                  Complete->
      ends                          -------->   has the spool alone, and listens at
                                                SPOOL.handover itself

In the running process a L{Successor} speaks with the new one, and there a
L{Predecessor} with the running one.
"""

# Whose a session is
#
# At each moment a session belongs to one process, which alone writes it.  The old one
# leaves it with a commit, after which it writes nothing more of it; the new one reads
# it from the file behind that, and only then lets its client in.  So nothing is lost,
# or there twice, whatever happens in between: it is as if the server had been started
# again, for this one session.  Messages that a handler was not done with come again.
#
# Who moves when
#
# A client that comes back costs the server a handshake, so that all of them at once
# would wait for one another, some seconds if there are a thousand.  They are moved in
# waves, the next one when most of the last one are back, and as large as are back in
# C{TARGET} seconds; the others are served as ever.
# Both processes have clients then.  That is no matter where each client is a matter of
# its own, as it is for a handler with C{clientsApart}.  With any other handler, what
# one client sends is for others, so that all move in one commit: nobody is let in at
# the new process before it has all sessions, and the last wait for their handshake.
#
# When one of them dies
#
# The end of the channel between them says so.  The other one then waits until it has
# the spool alone, which SQLite's locks tell: they go with the process.  Only then it
# reads what the dead one had, and goes on with that; an old process also accepts again.
# If the new one is not dead, the old one ends: nobody else could.

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.amp import (
    AMP,
    AmpList,
    Boolean,
    Command,
    Descriptor,
    Integer,
    ListOf,
    Unicode,
)
from twisted.python.failure import Failure

from aesm.errors import SessionMoved
from aesm.messages.deferred import Gate

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.server.kept import KeptSessions
    from aesm.server.manager import ConnectionManager
    from aesm.store.interface import Stored
    from aesm.store.journal import Journal
    from aesm.store.spool import Spool

_log = Logger(namespace="aesm.handover")

SMALLEST, FIRST, LARGEST = 4, 16, 64  # clients that are told together
TARGET = 0.15  # seconds
PACE = 0.002  # seconds for each of those over which they come back
MOST = 0.9  # of a wave that are back when the next one is told,
PATIENCE = 5.0  # or so many seconds later
LONGEST = 600.0  # seconds, after which all that are left move at once
ANSWER = 30.0  # seconds that the old process has to share its spool
GREETING = 1.0  # seconds for those who are not in yet to get in
NAMES = 1000  # sessions that fit an argument of AMP, which has 64 KiB
ALONE = 0.02  # seconds until it is looked again whether the other process is gone,
TRIES = 100  # and how often the old one does so


class CannotTakeOver(Exception):
    """The running process does not hand itself over; says why."""


class TakeOver(Command):
    """The new process asks for the spool and the sockets."""

    arguments = [(b"apart", Boolean())]
    response = [
        (b"apart", Boolean()),
        (
            b"sockets",
            AmpList(
                [
                    (b"endpoint", Unicode()),
                    (b"family", Integer()),
                    (b"descriptor", Descriptor()),
                ]
            ),
        ),
    ]
    errors = {CannotTakeOver: b"CANNOT"}


class Accepting(Command):
    """The new process accepts connections from now on."""


class Released(Command):
    """
    The old process has left sessions.  Of the clients of the first C{back} of them it
    waits for most: for the answer.
    """

    arguments = [(b"sessions", ListOf(Unicode())), (b"back", Integer())]


class Release(Command):
    """The client of a session has come to the new process."""

    arguments = [(b"session", Unicode()), (b"peer", Unicode())]
    response = [(b"released", Boolean())]


class Complete(Command):
    """The old process has left all sessions."""


class Host(Protocol):
    """The process that is to be replaced, as far as it listens."""

    def lend(self) -> list[dict[str, Any]]:
        """
        Have the sockets used by another process, too: nothing shuts them down.

        @return: C{sockets}, as L{TakeOver} answers.
        """

    def pause(self) -> Deferred[None]:
        """
        Accept nobody any more, but keep the sockets.

        @return: fires when what else the new process needs is free for it.
        """

    def resume(self) -> None:
        """Accept again, since there is no other process."""

    def retire(self) -> None:
        """End: there is nothing left to do."""


class Clients(Protocol):
    """Those who are about to be let in."""

    @property
    def areGreeting(self) -> bool:
        """Whether there are any."""

    def endGreeting(self) -> None:
        """Let none of them in."""


class SuccessorFactory(Factory):
    """What a server listens with at C{SPOOL.handover}."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        manager: ConnectionManager,
        clients: Clients,
        host: Host,
    ) -> None:
        """
        @param manager: has the sessions.
        @param clients: who may still get one.
        @param host: has the sockets.
        """
        self._clock = clock
        self._manager = manager
        self._clients = clients
        self._host = host
        self._successor: Successor | None = None

    def buildProtocol(self, addr: IAddress | None) -> Successor:
        """Speak with what may become our successor."""
        return Successor(self)

    def end(self) -> None:
        """Say that this process has ended, and its spool is closed."""
        if self._successor is not None:
            cast(Any, self._successor.transport).abortConnection()


class Successor(AMP):
    """The new process, for the running one."""

    def __init__(self, factory: Any) -> None:
        super().__init__()
        self._shared = factory
        self._manager: ConnectionManager = factory._manager
        self._clock: IReactorTime = factory._clock
        self._host: Host = factory._host
        self._apart = False
        self._left: set[str] = set()  # sessions

    @TakeOver.responder
    def takeOver(self, apart: bool) -> Deferred[dict[str, Any]]:
        """
        Share the spool, and lend the sockets.

        @raise CannotTakeOver: it is not possible.
        """
        if self._manager.journal is None or self._manager.stopping:
            raise CannotTakeOver("the running server has no spool, or is stopping")
        if self._shared._successor is not None or self._manager.predecessor is not None:
            raise CannotTakeOver("the running server is being replaced already")
        self._shared._successor = self
        self._apart = apart and _isApart(self._manager)
        return _spoolOf(self._manager).share().addCallback(self._cbShared)

    def _cbShared(self, nothing: None) -> dict[str, Any]:
        """Answer C{TakeOver}."""
        return {"apart": self._apart, "sockets": self._host.lend()}

    @Accepting.responder
    def accepting(self) -> Deferred[dict[str, Any]]:
        """Begin to move."""
        paused = self._host.pause()
        _run(self._move())
        return paused.addCallback(lambda nothing: {})

    @Release.responder
    def release(self, session: str, peer: str) -> Deferred[dict[str, Any]]:
        """Leave a session whose client has come to the new process."""
        manager = self._manager
        if manager.stopping:
            # It may still be written.  When we have ended it is read with all others.
            return Deferred()
        if session in self._left:
            committed = cast("Journal", manager.journal).store.commit()
        else:
            found = [
                each
                for each in movable(manager)
                if each.session.name == session and str(each.peer) == peer
            ]
            if not found:
                return succeed({"released": False})
            committed = self._leave(found, 0.0)
        return cast(
            "Deferred[dict[str, Any]]",
            committed.addCallback(lambda nothing: {"released": True}),
        )

    def _leave(self, connections: list[Connection], spread: float) -> Deferred[None]:
        """Leave sessions, and tell their clients to come back over so many seconds."""
        self._left.update(each.session.name for each in connections)
        reason = SessionMoved("it goes on in another process")
        return _keptBy(self._manager).leave(
            dict.fromkeys(connections, reason), round(spread * 1000)
        )

    async def _move(self) -> None:
        """Leave all sessions, then end."""
        manager, clients = self._manager, self._shared._clients
        begun = self._clock.seconds()
        if not self._apart:
            await greeted(self._clock, clients)
            clients.endGreeting()
        size = FIRST
        while True:
            left = movable(manager)
            if not left:
                await greeted(self._clock, clients)
                left = movable(manager)
            if not left:
                break
            told = self._clock.seconds()
            some = self._apart and told < begun + LONGEST
            await self._moveWave(left[:size] if some else left)
            fits = size * TARGET / max(self._clock.seconds() - told, TARGET / 2)
            size = max(SMALLEST, size // 2, min(LARGEST, 2 * size, int(fits)))
        await self.callRemote(Complete)
        _log.info(
            "sessions that go on in the new process: {count}, in {seconds:.1f} seconds",
            count=len(self._left),
            seconds=self._clock.seconds() - begun,
        )
        self._host.retire()

    async def _moveWave(self, wave: list[Connection]) -> None:
        """Leave some, first those who are there, and wait until they are back."""
        names = [connection.session.name for connection in wave]
        there = sum(connection.isAttached for connection in wave)
        await self._leave(wave, there * PACE)
        back = there if self._apart else 0
        for start in range(0, len(names), NAMES):
            await self.callRemote(
                Released, sessions=names[start : start + NAMES], back=back
            )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The new process is gone: go on as before."""
        super().connectionLost(reason)
        if self._shared._successor is self:
            self._shared._successor = None
            if not self._manager.stopping:
                _run(self._goOn())

    async def _goOn(self) -> None:
        """Be the server again, or end if the new process is."""
        for _ in range(TRIES):
            reclaimed = await _spoolOf(self._manager).reclaim()
            if self._manager.stopping:
                return
            if reclaimed:
                _log.warn("the new process is gone: this one goes on")
                if await _adoptRest(self._manager):
                    self._host.resume()
                return
            await deferLater(self._clock, ALONE)
        _log.error(
            "the new process says nothing more, and has the spool: this one ends"
        )
        self._host.retire()


class Predecessor(AMP):
    """The running process, for the new one."""

    def __init__(
        self,
        clock: IReactorTime,
        manager: ConnectionManager,
        gone: Callable[[bool], None],
    ) -> None:
        """
        @param manager: has the sessions that are here.
        @param gone: called when the old process is gone, with whether it had handed
            itself over: all sessions are here then.
        """
        super().__init__()
        self._clock = clock
        self._manager = manager
        self._gone = gone
        self._apart = False
        self._accepting = False
        self._isComplete = False
        self._all = Gate()  # for all sessions
        self._missed: set[str] = set()  # sessions of a wave whose clients are not back
        self._backAt = 0  # so many of these may be missing
        self._back: Deferred[dict[str, Any]] | None = None

    # What the new process calls

    def takeOver(self) -> Deferred[list[dict[str, Any]]]:
        """
        Take over from the running process.

        @return: fires with its sockets, as L{TakeOver} has them, when its spool can be
            opened; fails with L{CannotTakeOver}.
        """
        asked = self.callRemote(TakeOver, apart=_isApart(self._manager))
        asked.addTimeout(ANSWER, self._clock)
        return cast(
            "Deferred[list[dict[str, Any]]]", asked.addCallback(self._cbTakenOver)
        )

    def _cbTakenOver(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        """The spool can be opened from now on."""
        self._apart = answer["apart"]
        self._manager.predecessor = self
        return cast("list[dict[str, Any]]", answer["sockets"])

    def end(self) -> None:
        """Say that this process has ended, and its spool is closed."""
        if self.transport is not None:
            cast(Any, self.transport).abortConnection()

    def accepting(self) -> Deferred[dict[str, Any]]:
        """Say that we accept connections: sessions come from now on."""
        self._accepting = True
        return cast("Deferred[dict[str, Any]]", self.callRemote(Accepting))

    # What the manager calls

    def moved(self) -> Deferred[None] | None:
        """Wait for all sessions, if nobody is let in before; None if not."""
        return None if self._apart or self._isComplete else self._all.wait()

    def claim(self, name: str, peer: str) -> Deferred[Stored | None]:
        """Have a session that the old process has; if that ends, with all others."""
        if not self._apart:
            return succeed(None)
        asked = self.callRemote(Release, session=name, peer=peer)
        asked.addCallbacks(
            self._cbReleased, lambda failure: self._all.wait(), callbackArgs=(name,)
        )
        return cast("Deferred[Stored | None]", asked)

    def entered(self, session: str) -> None:
        """Take note that a client is back."""
        self._missed.discard(session)
        self._look()

    # What the old process calls

    @Released.responder
    def released(self, sessions: list[str], back: int) -> Deferred[dict[str, Any]]:
        """Go on with sessions."""
        self._missed = set(sessions[:back])
        self._backAt = back - round(back * MOST)
        return self._adopt(sessions).addCallback(self._cbAdopted)

    @Complete.responder
    def complete(self) -> dict[str, Any]:
        """Let everybody in: all sessions are here."""
        self._isComplete = True
        if not self._apart:
            self._all.open()
        return {}

    # Parts

    def _cbReleased(self, answer: dict[str, Any], name: str) -> Deferred[Stored | None]:
        """A session was left to us, or is not there."""
        if not answer["released"]:
            return succeed(None)
        found = _spoolOf(self._manager).read([name])
        return found.addCallback(lambda sessions: sessions[0] if sessions else None)

    def _adopt(self, sessions: Iterable[str]) -> Deferred[None]:
        """Read sessions, and go on with them."""
        found = _spoolOf(self._manager).read(sessions)
        return found.addCallback(_keptBy(self._manager).adopt)

    def _cbAdopted(self, nothing: None) -> Deferred[dict[str, Any]]:
        """Wait until most clients of a wave are back."""
        back = self._back = Deferred()
        back.addTimeout(PATIENCE, self._clock, lambda cancelled, timeout: {})
        self._look()
        return back

    def _look(self) -> None:
        """See whether most clients of a wave are back."""
        back = self._back
        if back is not None and len(self._missed) <= self._backAt:
            self._back = None
            back.callback({})

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The old process is gone: go on with what it has left."""
        super().connectionLost(reason)
        self._missed.clear()
        self._look()
        if not self._accepting:
            self._gone(False)
        elif not self._manager.stopping:
            _run(self._takeRest())

    async def _takeRest(self) -> None:
        """Have the spool, and all sessions in it."""
        manager = self._manager
        while not await _spoolOf(manager).reclaim():
            await deferLater(self._clock, ALONE)
            if manager.stopping:
                return
        if await _adoptRest(manager):
            manager.predecessor = None
            self._all.open()
            self._gone(True)


def _isApart(manager: ConnectionManager) -> bool:
    """
    Tell whether clients may be at two processes at the same time, since none of them
    hears of another through the handler.
    """
    return manager.handler is None or getattr(manager.handler, "clientsApart", False)


async def greeted(clock: IReactorTime, clients: Clients) -> None:
    """Give those who are not in yet the time to get in."""
    until = clock.seconds() + GREETING
    while clients.areGreeting and clock.seconds() < until:
        await deferLater(clock, ALONE)


def movable(manager: ConnectionManager) -> list[Connection]:
    """List those whose sessions can go on in another process, who is there first."""
    found = [
        connection
        for connection in manager.connections.values()
        if not connection.isOver and not connection.isEnding
    ]
    return sorted(found, key=lambda connection: not connection.isAttached)


async def _adoptRest(manager: ConnectionManager) -> bool:
    """Go on with all sessions in the spool; tell whether we are not stopping."""
    journal = cast("Journal", manager.journal)
    # What ends here meanwhile may be in what is read, and what begins, too.
    ours = set(journal.sessions)
    await journal.store.commit()
    if manager.stopping:
        return False
    found = await _spoolOf(manager).read()
    if manager.stopping:
        return False
    _keptBy(manager).adopt(stored for stored in found if stored.name not in ours)
    return True


def _spoolOf(manager: ConnectionManager) -> Spool:
    """Find the spool of a manager that has one."""
    return cast("Spool", cast("Journal", manager.journal).store)


def _keptBy(manager: ConnectionManager) -> KeptSessions:
    """Find what a manager that has a spool adopts sessions with."""
    return cast("KeptSessions", manager.kept)


def _run(steps: Awaitable[None]) -> None:
    """Run what nobody waits for."""
    ensureDeferred(cast(Any, steps)).addErrback(_ebFailed)


def _ebFailed(failure: Failure) -> None:
    """What follows when the channel has ended is for C{connectionLost}."""
    if not failure.check(ConnectionDone, ConnectionLost):
        _log.failure("handing over failed", failure)
