"""
All nodes of a cluster as one server, for programs: L{Server<aesm.Server>} has one if it
keeps its sessions in an engine::

    have = await server.cluster.sendTo("hello", publicKey)     # wherever it is
    have = await server.cluster.sendAll("for all")
    for row in await server.cluster.byPeer(publicKey): ...
    async for row in server.cluster.connections(): ...
    publicKey, packet = await server.cluster.getDataOrdinal()

What is sent goes to the engine first, into the inlets of all sessions of a key, in the
transaction of the message because of which it is sent; from there into the session that
its client goes on with, at whichever node.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from aesm._version import __version__
from aesm.cluster.rows import nodesOf, rowsOf
from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    MessageTooBig,
    SendBufferFull,
    SpoolError,
)
from aesm.messages.acknowledgements import LazyDeferred
from aesm.messages.causes import CAUSE
from aesm.messages.deferred import ignore
from aesm.server.entries import packed
from aesm.server.inlets import Inlets
from aesm.server.reading import Readings
from aesm.store.interface import IReplica, ISessionStore
from aesm.store.journal import Journal, JournalState
from aesm.store.undoing import elsewhere, hasLeft
from aesm.trust.keys import PublicKey

if TYPE_CHECKING:
    from aesm.cluster.store import EngineStore
    from aesm.core.messages.batch import Message
    from aesm.messages.connection import Connection
    from aesm.messages.stream import Packet
    from aesm.server.manager import ConnectionManager
    from aesm.server.registry import Connections
    from aesm.server.sessions import Sessions
    from aesm.store.connection import DurableConnection

MAX_SENDING = 16 << 20  # bytes that C{sendTo} was given and are not in the engine


class ClusterConnection(NamedTuple):
    """
    A session of a client, at whichever node.

    @ivar peer: the client's key.
    @ivar node: what the node is called that has it; empty if it is nobody's, and goes
        on at the one to which its client comes.
    @ivar isAttached: whether the client is there; else it has some time to come back.
    @ivar since: when it came last, Unix seconds.
    @ivar session: what the session is called.
    """

    peer: PublicKey
    node: str
    isAttached: bool
    since: float
    session: str


class Cluster:
    """
    All nodes of a cluster, as one of them sees it.

    @ivar drained: called when an operator wants this node to end.
    """

    def __init__(self, connections: Connections) -> None:
        """
        Begin with no engine, as before the server listens.

        @param connections: those that are here.
        """
        self._connections = connections
        self._journal: Journal | None = None
        self._inlets: Inlets | None = None
        self._readings: Readings | None = None
        self._sending = 0  # bytes
        self.drained: Callable[[], object] = ignore

    # What users call

    def sendTo(self, data: Message, publicKey: PublicKey) -> Deferred[int]:
        """
        Send a message to all sessions of a key, at whichever nodes they are: to those
        whose clients are away for now, too.  In a handler it is sent if that its
        message was handled counts, and not else.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param publicKey: whose.
        @return: fires with how many sessions have it in their keeping; their clients
            will, if they come in time.  Fails with L{ConnectionClosed} if the key has
            no session; with L{SendBufferFull} if some of its sessions have no room, as
            their clients do not take what they are sent; and before anything is sent,
            with L{SpoolError} if the engine is away and no handler's message causes it.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        entry, cause, journal = packed(data), CAUSE.get(), self._journal
        if hasLeft(cause):
            return _Sent.failing(elsewhere())
        if journal is None or journal.state is not JournalState.RUNNING:
            return _Sent.failing(ConnectionClosed("nothing was sent: nobody listens"))
        failure = journal.store.failure
        if failure is not None and cause is None:
            return fail(SpoolError(f"nothing was sent: {failure}"))
        if len(entry) > MAX_SENDING:
            return fail(
                MessageTooBig(
                    f"a message of {len(entry)} bytes; between nodes there are at most "
                    f"{MAX_SENDING}: split it"
                )
            )
        if self._sending + len(entry) > MAX_SENDING:
            return fail(
                SendBufferFull(
                    f"{self._sending} bytes are on their way to the engine: wait until "
                    "what was sent before has fired"
                )
            )
        sent = _Sent(cause, str(publicKey), entry)
        self._sending += len(entry)
        written = journal.add(sent.write, sent.cause)
        written.addBoth(self._cbWritten, sent)
        return sent

    def sendAll(self, data: Message) -> Deferred[int]:
        """
        Send a message to the clients of all nodes; C{server.sendAll} does the same,
        and can leave some out.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: as L{Connections.sendAll<aesm.Connections.sendAll>}.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        return self._connections.sendAll(data)

    def _cbWritten(self, result: Failure | None, sent: _Sent) -> None:
        """A message is in the engine, or will never be."""
        self._sending -= sent.size
        sent.settle(result)

    def byPeer(self, publicKey: PublicKey) -> Deferred[list[ClusterConnection]]:
        """
        List the sessions of one key, at all nodes.

        @return: fires with them, the one whose client came first first; fails with
            L{SpoolError} if the engine is away.
        """
        return Deferred.fromCoroutine(self._byPeer(publicKey))

    async def _byPeer(self, publicKey: PublicKey) -> list[ClusterConnection]:
        """List the sessions of one key."""
        found = [each async for each in self._find(f"k:{publicKey}", set())]
        return sorted(found, key=_since)

    async def connections(self) -> AsyncIterator[ClusterConnection]:
        """
        List the sessions at all nodes, in no order: C{async for}, since they come page
        by page.  One that moves meanwhile may be left out.

        @raise SpoolError: the engine is away.
        """
        seen: set[str] = set()
        for node in await nodesOf(self._store.engine):
            async for each in self._find(f"h:{node}", seen):
                yield each
        async for each in self._find("w", seen):
            yield each

    async def _find(
        self, where: str, seen: set[str]
    ) -> AsyncIterator[ClusterConnection]:
        """List sessions, each once."""
        async for row in rowsOf(self._store.engine, where):
            if row.name not in seen:
                seen.add(row.name)
                peer, since = PublicKey.fromText(row.peer), row.since / 1000
                yield ClusterConnection(peer, row.node, not row.isAway, since, row.name)

    def getDataOrdinal(self) -> Deferred[tuple[PublicKey, Packet]]:
        """
        Take the oldest packet that came to any node and that nobody has taken, once
        there is one; each is given to one node, in the order of its session.  It is
        for servers without a handler, whose packets are taken by nothing else: not by
        C{connections.getDataOrdinal} or C{retrieved}.

        @return: fires with whose it is, and the packet; fails with L{ConnectionClosed}
            once the server has stopped.  Cancelling it takes nothing.
        @raise RuntimeError: the server has a handler, or does not listen.
        """
        if self._readings is None:
            raise RuntimeError("only a server that listens, without a handler, has any")
        return self._readings.get()

    @property
    def _store(self) -> EngineStore:
        """The engine; C{SpoolError} if there is none."""
        if self._journal is None:
            raise SpoolError("the server does not listen: it has no engine")
        return cast("EngineStore", self._journal.store)

    # What the manager calls

    def begin(self, manager: ConnectionManager, journal: Journal) -> None:
        """
        Sessions are kept from now on.

        @param journal: of the engine.
        """
        self._journal = journal
        store, clock = self._store, manager.clock
        self._inlets = Inlets(journal, store, clock)
        store.came = self._inlets.came
        store.ending = partial(self._ending, manager.sessions)
        store.lease.says = partial(self._says, manager)
        store.lease.drained = lambda: self.drained()
        if manager.handler is None:
            arrivals = self._connections.arrivals
            self._readings = Readings(journal, store, clock, arrivals)
            store.wasRead = self._wasRead

    def _ending(self, sessions: Sessions, name: str, isReplaced: bool) -> None:
        """End a session; what is unread of it stays here."""
        connection = None if self._journal is None else self._journal.find(name)
        if connection is None:
            return
        if isReplaced:
            connection.closeWith(CloseCode.TAKEN_OVER, "replaced by a newer connection")
        elif sessions.isWaiting(connection):
            sessions.end(connection, "the client did not come back in time")

    def describe(self) -> dict[str, Any] | None:
        """Say what operators are told of this node; None before the server listens."""
        return None if self._journal is None else self._store.describe()

    def _says(self, manager: ConnectionManager) -> dict[str, Any]:
        """Say what operators are told of this node at any other one."""
        waiting = len(manager.sessions)
        log = None if self._journal is None else self._journal.log
        return {
            "version": __version__,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "sync": self._store.describe()["sync"],
            "connections": len(self._connections) - waiting,
            "waiting": waiting,
            "stopping": manager.isDraining,
            "logPosition": None if log is None else log.entries.position,
        }

    def _wasRead(self, name: str, first: int, last: int) -> None:
        """Some node has read what came over a session that is here."""
        journal = self._journal
        connection = None if journal is None else journal.find(name)
        if connection is not None:
            connection.retrieved.takenElsewhere(first, last)

    def lapsed(self) -> None:
        """The engine has given this node up: others have what it was lent."""
        if self._readings is not None:
            self._readings.lapsed()

    def look(self, connection: DurableConnection) -> None:
        """A session has come here: something may have been sent to it before."""
        if self._inlets is not None:
            self._inlets.look(connection)

    def forget(self, connection: Connection) -> None:
        """A session is over, or goes on elsewhere."""
        if self._inlets is not None:
            self._inlets.forget(cast("DurableConnection", connection))

    def end(self, reason: ConnectionClosed) -> None:
        """No sessions are kept any more."""
        readings, self._readings = self._readings, None
        self._journal = self._inlets = None
        if readings is not None:
            readings.end(reason)


def _since(connection: ClusterConnection) -> float:
    """Sort sessions by the time at which their clients came."""
    return connection.since


class _Sent(LazyDeferred[int]):
    """
    Fires with how many sessions have a message.

    @ivar size: the message's, bytes.
    @ivar cause: the session whose message made us send it, or empty.
    """

    def __init__(self, cause: Connection | None, peer: str, entry: bytes) -> None:
        """
        @param cause: whose message made us send it, or None.
        @param peer: whom it is for, in text form.
        @param entry: the message.
        """
        self.size = len(entry)
        self.cause = "" if cause is None else cause.session.name
        self._cause = cause
        self._peer = peer
        self._entry = entry
        self._counts: tuple[int, int] | None = None
        self._outcome: int | AESMError | None = None  # None until it is known

    @classmethod
    def failing(cls, reason: AESMError) -> _Sent:
        """Make one that fails, once it is used, because nothing was sent."""
        sent = cls(None, "", b"")
        sent._outcome = reason
        return sent

    def write(self, store: ISessionStore) -> None:
        """Give the message to the store, unless its cause is elsewhere by now."""
        if not hasLeft(self._cause):
            sending = cast("EngineStore", store)
            sending.send(self.cause, self._peer, self._entry, self._count)

    def _count(self, having: int, full: int) -> None:
        """Note how many sessions have it, and how many have no room."""
        self._counts = having, full

    def settle(self, failure: Failure | None) -> None:
        """Tell who looks, and why it is not in the engine, if so."""
        having, full = self._counts or (0, 0)
        if failure is not None:
            self._outcome = SpoolError(f"it may not be sent: {failure.value}")
        elif self._counts is None:
            self._outcome = elsewhere()
        elif full:
            self._outcome = SendBufferFull(
                f"{full} of the {having + full} sessions of {self._peer} have no room "
                "for what they are sent: their clients do not take it"
            )
        elif not having:
            self._outcome = ConnectionClosed(
                f"nothing was sent: there is no session of {self._peer}"
            )
        else:
            self._outcome = having
        # That it has gone is only for who looks; the rest the sender has to know.
        if self._looked or isinstance(self._outcome, SendBufferFull | SpoolError):
            self._look()
            self.begin()

    def begin(self) -> None:
        """Fire, if it is known what with."""
        if self._outcome is None or self._called:
            return
        if isinstance(self._outcome, int):
            self.callback(self._outcome)
        else:
            self.errback(self._outcome)


def checkHandler(handler: object) -> None:
    """
    Check that a handler is one for several nodes.

    @raise TypeError: what it has as C{replica} is none.
    @raise ValueError: it is not.
    """
    replica = getattr(handler, "replica", None)
    if replica is not None and not IReplica.providedBy(replica):
        raise TypeError(
            f"the replica of a handler provides IReplica, which {replica!r} does not"
        )
    if replica is None and getattr(handler, "clientsTogether", False):
        raise ValueError(
            "cluster cannot be had with this handler, which has to know all clients, "
            f"and knows those of one node: {type(handler).__name__}"
        )
