"""
Where all connections of a server meet: the registry of those who are in, their
sessions, and what they may keep together.  A connection enters and leaves the
registry in one place each: C{enter} and C{finished}.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from aesm.core.messages.hello import EARLY_WINDOW, ConversationSettings, Hello
from aesm.core.messages.session import Session
from aesm.core.messages.traffic import Traffic
from aesm.errors import AESMError, CloseCode, ConnectionClosed, SpoolError
from aesm.interfaces import IMessageHandler
from aesm.messages.address import Address
from aesm.messages.budget import Budget
from aesm.messages.connection import Connection
from aesm.messages.deferred import Gate
from aesm.messages.handling import Handling, Talk, handlingOf
from aesm.messages.owner import ConnectionOwner
from aesm.secure.places import TokenBuckets, hostOf
from aesm.secure.refusals import Kind, Refusals, Refused, kindOf
from aesm.server.admission import Admission
from aesm.server.kept import KeptSessions
from aesm.server.registry import Connections
from aesm.server.room import Room
from aesm.server.sessions import Sessions
from aesm.server.visits import Visits
from aesm.store.connection import DurableConnection
from aesm.store.journal import Journal
from aesm.store.logged import connectionFor
from aesm.trust.keys import PublicKey
from aesm.trust.policies import Answer, whenKnown

if TYPE_CHECKING:
    from aesm.server.handover import Predecessor
    from aesm.store.interface import ISessionStore

SESSION_BYTES = 16  # of a session's name, docs/protocol.md, section 8
RESUMES_PER_SESSION = 1.0  # a second, and what was saved up in ten

ConnectionType = TypeVar("ConnectionType", bound=Connection)


class ConnectionManager(ConnectionOwner):
    """
    What the protocols of a server tell what happens to their connections.

    @ivar admission: counts who is in.
    @ivar budget: what all connections may keep together.
    @ivar connections: who is connected, and the activity log.
    @ivar handler: whom to hand packets, or None.
    @ivar sessions: finds those that a client may come back to.
    @ivar stopping: whether nobody is let in, or waited for, any more.
    @ivar isDraining: whether sessions are being left to other servers, before that.
    @ivar journal: what writes the sessions, if they are written, while it runs.
    @ivar kept: has sessions fetched that are written and not here, if any are written.
    @ivar predecessor: the process from which we take over, as long as there is one.
    @ivar started: when it began to keep sessions, seconds by its clock; None before.
    @ivar traffic: adds up what goes over all connections.
    """

    budget: Budget
    traffic: Traffic

    def __init__(
        self,
        clock: IReactorTime,
        connections: Connections,
        admission: Admission,
        messages: ConversationSettings,
        handler: IMessageHandler | Talk | None,
        totalBuffer: int,
        sessionGrace: float,
        openStore: Callable[..., ISessionStore] | None,
        messagesPerKey: float | None,
        bytesPerKey: float | None,
    ) -> None:
        """
        @param handler: whom to hand packets; None leaves them in the streams.
        @param totalBuffer: bytes of messages to keep for all together.
        @param sessionGrace: seconds that a client has to come back.
        @param openStore: opens what the sessions are written to; None to keep them in
            memory.

        @param messagesPerKey: that the handler takes of one key, a second; None for
            what it says itself, or any number.

        @param bytesPerKey: the same of their bytes.
        @raise ValueError: one of these has a value that it cannot have.
        """
        self.budget = Budget(totalBuffer, connections, connections.arrivals)
        self.traffic = Traffic()
        self.started: float | None = None
        self.connections, self.kindOf = connections, connections.kindOf
        self.sessions = Sessions(
            clock, sessionGrace, admission.maxConnections, self._waitsOn
        )
        self.admission = admission
        self._messages = messages
        self.handler = handler
        self._room = Room(self.budget, connections, self.sessions)
        self._resumes = TokenBuckets(RESUMES_PER_SESSION)
        handling = handlingOf(handler, clock, messagesPerKey, bytesPerKey)
        self._handling = handling or Handling(clock)
        self.stopping = self.isDraining = False
        self.clock = self._clock = clock
        self.openStore = openStore
        self.journal: Journal | None = None
        self._closing: Gate | None = None  # until the journal is closed
        self.kept: KeptSessions | None = None
        self.predecessor: Predecessor | None = None
        self._refusals = Refusals(clock, self._refusedMore)
        self._visits = Visits(clock)
        # Of whose sessions their clients do not know yet.
        self._begun: set[Connection] = set()
        # Of all sessions that are begun, and not forgotten: until the last packet of
        # one is taken its name is in the spool.
        self._names: set[str] = set()

    def start(self) -> None:
        """
        Keep sessions from now on, and go on with those that were written down.

        @raise SpoolError: they cannot be read; says why.
        """
        self.stopping = False
        self.started = self._clock.seconds()
        self.connections.begin()
        if self.openStore is None or self.journal is not None:
            return
        # A process from which we take over has the sessions.
        store = (
            self.openStore()
            if self.predecessor is None
            else self.openStore(shared=True)
        )
        while self.connections.getDataOrdinal()[0] is not None:
            pass  # packets of before we were stopped: they are written down
        self.journal = Journal(store, self._clock)
        self.kept = KeptSessions(self, self.journal, self._messages, **self._options())
        try:
            self.kept.open()
        except SpoolError:
            self.journal = None
            raise

    def opened(self) -> Deferred[None]:
        """
        Wait until clients can be let in, once it has started.

        @return: fires when it is known which sessions go on; fails with L{SpoolError}
            if it cannot be, so that nobody is let in.
        """
        return succeed(None) if self.kept is None else self.kept.opened()

    @property
    def store(self) -> ISessionStore | None:
        """What the sessions are written to, while it is open."""
        return None if self.journal is None else self.journal.store

    def stop(self) -> None:
        """Wait for nobody any more; sessions that are written down stay so."""
        self.stopping = True
        if self.journal is not None:
            self.journal.suspend()
        self.sessions.stop(stored=self.journal is not None)

    def stoppedBy(self, connection: Connection | None) -> None:
        """Take note of whose coroutine waits for the end, if one does."""
        self._handling.leave(connection)

    def close(self, deadline: float) -> Deferred[None]:
        """
        Let go of what the sessions are written to, once all connections are gone and
        the handler is done with that.

        @param deadline: seconds for the handler.
        @return: fires when it is closed; fails with
            L{SpoolError<aesm.errors.SpoolError>} if not all could be written.
        """
        self._refusals.flush()
        return self._handling.settled(deadline).addCallback(self._closeJournal)

    def _closeJournal(self, nothing: None) -> Deferred[None]:
        """Let go of what the sessions are written to, and tell who waits here."""
        journal, self.journal = self.journal, None
        if journal is not None:
            closing = self._closing = Gate()
            closed = closing.wait()
            journal.close().addBoth(self._journalClosed, closing)
        else:
            closed = succeed(None) if self._closing is None else self._closing.wait()
        self.connections.end(
            ConnectionClosed("the server was stopped", CloseCode.NORMAL)
        )
        return closed

    def _journalClosed(self, result: Failure | None, closing: Gate) -> None:
        """Tell all who wait for it how that went."""
        if self._closing is closing:
            self._closing = None
        closing.open(result)

    def begin(
        self, peer: PublicKey, hello: Hello, address: Address, name: str | None
    ) -> Answer[Connection]:
        """
        Find the session that a client wants to go on with, or begin a new one.

        @param name: what the client's key is called, or None.
        @return: the connection that users will hold, once its session is written down,
            if sessions are; fails with L{Refused} (1013) if that is not possible now.
            C{carry} is to be called next, or C{abandon}.
        @raise Refused: it comes back too often (1013).
        @see: docs/protocol.md, section 8
        """
        # First of all: what is fetched from elsewhere moves, and all hear of that.
        if hello.session and not hello.early:
            which, now = f"{peer} {hello.session}", self._clock.seconds()
            if not self._resumes.take(which, now):
                raise Refused(
                    "the client comes back to its session too often", Kind.SESSION_RATE
                )
        fetched = None if self.kept is None else self.kept.fetch(hello, peer)
        return whenKnown(fetched, self._cbFetched, peer, hello, address, name)

    def _cbFetched(
        self,
        nothing: None,
        peer: PublicKey,
        hello: Hello,
        address: Address,
        name: str | None,
    ) -> Answer[Connection]:
        """Do what C{begin} does, among the sessions that are here."""
        if (former := self.sessions.find(hello, peer)) is not None:
            return former
        messages = self._messages
        session = Session(
            messages.sendBuffer,
            messages.receiveBuffer,
            self._newName(hello),
        )
        session.outbox.begin(hello)
        options = self._options(
            address=address,
            peer=peer,
            peerName=name,
            receiveBuffer=messages.receiveBuffer,
        )
        if self.journal is None:
            made = self.kindOf(Connection)(self, session, **options)
            return self._cbBegun(None, made)
        durable = connectionFor(self.journal, self, session, **options)
        begun = durable.begin()
        return begun.addCallbacks(
            self._cbBegun,
            self._ebBegun,
            callbackArgs=(durable,),
            errbackArgs=(durable,),
        )

    def _newName(self, hello: Hello) -> str:
        """Name a new session: as the client does, if we take its early messages."""
        name, mine = hello.session, self._messages
        if (
            not (hello.early and name)
            or name in self._names  # anybody's
            or self.predecessor is not None  # whose names we do not know
            or min(mine.maxMessage, mine.receiveBuffer) < EARLY_WINDOW
        ):
            name = secrets.token_hex(SESSION_BYTES)
        self._names.add(name)
        return name

    def _cbBegun(self, result: None, connection: Connection) -> Connection:
        """A session is begun, and only its client does not know."""
        self._begun.add(connection)
        return self._handled(connection)

    def _ebBegun(self, failure: Failure, connection: DurableConnection) -> Failure:
        """A session is not begun: the client left, or the spool failed."""
        self._names.discard(connection.session.name)
        if failure.check(CancelledError):
            connection.abandon()
            return failure
        failure.trap(SpoolError)
        raise Refused(f"no session can begin: {failure.getErrorMessage()}", Kind.SPOOL)

    def abandon(self, connection: Connection) -> None:
        """Give up a connection that C{begin} made, and no client hears of."""
        if connection in self._begun:  # else its session goes on
            self._begun.remove(connection)
            self._names.discard(connection.session.name)
            if isinstance(connection, DurableConnection):
                connection.abandon()

    def carry(self, connection: Connection, address: Address, name: str | None) -> None:
        """
        Let a connection that C{begin} has found or made have another transport.

        @param address: where its client comes from now.
        @param name: what the client's key is called now, or None.
        """
        self._begun.discard(connection)
        if not self.sessions.knows(connection):
            # Not before: meanwhile another one may have come from the same address.
            connection.address = self.connections.nameFor(address)
            return
        connection.peerName = name
        self._supersede(connection)  # if it only looked alive

    def enter(self, connection: Connection, address: Address, agent: str) -> None:
        """
        List a client that is let in.

        @param address: where it comes from now.
        @param agent: its software, as it says.
        """
        self.admission.enter(connection, address)
        name = f" ({connection.peerName})" if connection.peerName else ""
        how = f"by {connection.suite}{name}, agent {agent!a}"
        back = self.sessions.knows(connection)
        details = self._visits.begin(connection, agent, back)
        if back:
            noticed = self.sessions.isWaiting(connection)
            self.sessions.resumed(connection)
            self.connections.move(connection, address)
            self._record(connection, "accepted", f"back {how}", details)
            self._tellBack(connection, noticed)
            if self.predecessor is not None:
                self.predecessor.entered(connection.session.name)
            return
        self.connections.add(connection)
        self.sessions.add(connection)
        self._record(connection, "accepted", how, details)
        self._handling.accepted(connection)

    def refused(
        self,
        address: Address,
        reason: AESMError,
        peer: PublicKey | None = None,
        name: str | None = None,
    ) -> None:
        """
        Count a client that was not let in, and write that into the activity log unless
        there is too much of it.

        @param peer: its key, once it has proved one.
        @param name: what that is called, or None.
        """
        kind = kindOf(reason)
        self.connections.refusals[kind] += 1
        # What comes from no host is one: all who can open a UNIX socket.
        if isinstance(address, tuple):
            host = hostOf(address[0])
        else:
            host = address.partition("-")[0]
        tell = partial(
            self.connections.record,
            address,
            _eventOf(kind is Kind.PROBE),
            time.time(),
            str(reason),
            peer,
            name=name,
            kind=kind.value,
        )
        self._refusals.add(host, kind, tell)

    def _refusedMore(self, host: str, times: int, words: str, isProbe: bool) -> None:
        """Write into the activity log how many clients of a host were not let in."""
        self.connections.record(
            host, _eventOf(isProbe), time.time(), words, times=times
        )

    # ConnectionOwner

    def overfull(self, connection: Connection) -> None:
        """Make room, since a connection has brought more than there is."""
        self._room.make(connection)

    def keeps(self, connection: Connection, code: int | None = None) -> bool:
        """
        Tell whether a session waits for its client to come back.

        @param code: the client's CLOSE; None if it was cut.
        """
        # A CLOSE ends the session, but for one that says that the client goes away.
        return (
            code in (None, CloseCode.GOING_AWAY)
            and not self.stopping
            and self.sessions.grace > 0
            and connection.session.outbox.peer.resume
            and self.sessions.knows(connection)
        )

    def cut(self, connection: Connection, reason: AESMError) -> None:
        """Give a client time to come back, if its session is kept."""
        if self.keeps(connection):
            connection.detach()
            self._detached(connection, reason)
        else:
            connection.finish(reason)

    def _detached(self, connection: Connection, reason: AESMError) -> None:
        """Give a client time to come back: nothing carries its session any more."""
        details = self._visits.end(connection, reason, kept=True)
        self._record(connection, "lost", f"{reason}; its session is kept", details)
        self.admission.leave(connection)
        self.sessions.wait(connection)
        connection.away()
        self._handling.detached(connection, reason)

    def lost(self, connection: Connection, reason: AESMError) -> None:
        """Take note of a client that was in and is gone for good."""
        self.sessions.discard(connection)
        self.connections.left(connection)
        details = self._visits.end(connection, reason, kept=False)
        self._record(connection, "lost", str(reason), details)
        self._handling.lost(connection, reason)

    def finished(self, connection: Connection) -> None:
        """List a client no more: it is gone, and its last packet was taken."""
        self.connections.discard(connection)
        self.admission.leave(connection)
        self._names.discard(connection.session.name)

    def goOn(self, connection: DurableConnection, over: bool) -> None:
        """
        Go on with a session of a process before this one.

        @param over: whether only what is unread is left of it.
        """
        address = connection.address
        if isinstance(address, str) or address in self.connections:
            # Such a string belongs to the process that made it up.
            connection.address = f"session-{connection.session.name}"
        self._names.add(connection.session.name)
        self.connections.add(connection)
        if over:  # listed only so that what is unread can be taken
            self._handling.leftOver(connection)
            if not connection.isOver:
                connection.finish(ConnectionClosed("it was over before a restart"))
            return
        self._handled(connection)
        self.sessions.add(connection)
        self.sessions.wait(connection)
        self._handling.accepted(connection)
        self._handling.detached(
            connection, ConnectionClosed("the server was started again")
        )
        if connection.dispatcher is not None:
            connection.handOver()

    def goAway(self) -> None:
        """
        Have all clients go to other processes (1001), which may believe that this one
        is gone; their sessions wait here, too, as long as they are ours.
        """
        words = "another process goes on"
        for connection in list(self.connections.values()):
            if not connection.isAttached or connection.isEnding:
                continue
            if not self.keeps(connection):
                connection.closeWith(CloseCode.GOING_AWAY, words)
                continue
            self._supersede(connection, (CloseCode.GOING_AWAY, words, 0))
            self._detached(connection, ConnectionClosed(words, CloseCode.GOING_AWAY))

    # Parts

    def _supersede(self, connection: Connection, *close: tuple[int, str, int]) -> None:
        """Detach a connection; what carried it, if anything did, ends by itself."""
        superseded = connection.detach()
        if superseded is not None:
            self.admission.linger(connection, superseded)
            superseded.supersede(partial(self.admission.leave, superseded), *close)

    def _waitsOn(self, connection: Connection) -> bool:
        """Tell whether it is the store that says when a session's time is over."""
        store = self.store
        if store is None or not store.fences:
            return False
        # If it is over, and we were not told, this tells us.
        cast("DurableConnection", connection).touch()
        return True

    def _options(self, **more: Any) -> dict[str, Any]:
        """Say how connections are made here, with more options."""
        return {
            "closeSlow": self.handler is not None,
            "lock": self.connections.lock,
            "arrivals": self.connections.arrivals,
            **more,
        }

    def _handled(self, connection: ConnectionType) -> ConnectionType:
        """Let the handler, if there is one, have what comes over a new connection."""
        store = self.store
        self._handling.take(connection, store is not None and store.fences)
        return connection

    def _tellBack(self, connection: Connection, noticed: bool) -> None:
        """Tell the handler of a client that is back, if it was away."""
        if not noticed:  # for the handler each return follows a cut
            missed = ConnectionClosed("the client came back before it was missed")
            self._handling.detached(connection, missed)
        if not connection.isOver:
            self._handling.attached(connection)

    def _record(
        self, connection: Connection, event: str, reason: str, details: dict[str, Any]
    ) -> None:
        """Write into the activity log what happened to a client that is in."""
        self.connections.record(
            connection.address, event, time.time(), reason, connection.peer, **details
        )


def _eventOf(isProbe: bool) -> str:
    """Tell what the activity log calls it that somebody was not let in."""
    return "probed" if isProbe else "refused"
