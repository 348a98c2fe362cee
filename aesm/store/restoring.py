"""
The connections of sessions that a store has kept, as a process before this one, or
another one, has left them::

    loaded = loadConnections(journal, owner, sendBuffer)   # all that are ours
    connection = restoredConnection(stored, journal, owner, sendBuffer)

Under none of them is a transport: their peers have to come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from aesm.core.messages.batch import Batch
from aesm.core.messages.hello import Hello
from aesm.core.messages.session import Session
from aesm.errors import SpoolError
from aesm.messages.deferred import resultNow
from aesm.messages.owner import ConnectionOwner, KindOf, itself
from aesm.store.connection import DurableConnection
from aesm.store.following import Place
from aesm.store.interface import Lost, Stored
from aesm.store.journal import Journal
from aesm.store.logged import LoggedConnection, connectionFor
from aesm.store.stream import readBlob
from aesm.trust.keys import PublicKey

_T = TypeVar("_T")

Loaded = list[tuple[DurableConnection, bool]]

DAMAGED = (LookupError, TypeError, ValueError)  # what is raised for what makes no sense


def loadConnections(
    journal: Journal,
    owner: ConnectionOwner,
    sendBuffer: int,
    lost: Lost | None = None,
    lapsed: Callable[[], object] | None = None,
    **options: Any,
) -> Deferred[Loaded]:
    """
    Make the connections of all sessions with which a store opens.

    @param journal: of the store.
    @param sendBuffer: cost of unacknowledged messages to keep, bytes.
    @param lost: as L{ISessionStore.open<aesm.store.interface.ISessionStore.open>}.
    @param lapsed: the same.
    @param options: more options of L{DurableConnection}.
    @return: fires with each connection, and whether its session is over; fails with
        L{SpoolError} if they cannot be read, or are damaged.
    """
    opened = journal.store.open(lost, lapsed)
    if journal.log is not None:
        opened.addCallback(journal.log.start)
    return opened.addCallback(_cbOpened, journal, owner, sendBuffer, options)


def loadNow(
    journal: Journal, clock: IReactorTime, sendBuffer: int, kindOf: KindOf = itself
) -> Loaded:
    """
    Make the connections of a client's sessions, whose store is a file.

    @param journal: as L{loadConnections}; closed if they cannot be read.
    @param clock: keeps time for them.
    @param sendBuffer: as L{loadConnections}.
    @param kindOf: as a L{ConnectionOwner} has it.
    @raise SpoolError: they cannot be read, or are damaged.
    """
    owner = ConnectionOwner()
    owner.clock, owner.kindOf = clock, kindOf
    return answered(loadConnections(journal, owner, sendBuffer), journal)


def answered(loading: Deferred[_T], journal: Journal) -> _T:
    """
    Take what a store has answered already.

    @param journal: of the store; closed if that is that it could not be read.
    @raise SpoolError: it could not.
    """
    try:
        return resultNow(loading)
    except SpoolError:
        journal.close()
        raise


def _cbOpened(
    found: Iterable[Stored],
    journal: Journal,
    owner: ConnectionOwner,
    sendBuffer: int,
    options: dict[str, Any],
) -> Loaded:
    """Make connections of all sessions, or of none if one is damaged."""
    try:
        return [
            (
                restoredConnection(stored, journal, owner, sendBuffer, **options),
                stored.state["over"],
            )
            for stored in found
        ]
    except DAMAGED as error:
        raise journal.store.damaged(repr(error)) from None


def restoredConnection(
    stored: Stored,
    journal: Journal,
    owner: ConnectionOwner,
    sendBuffer: int,
    **options: Any,
) -> DurableConnection:
    """
    Make the connection of a session that was stored.

    @param sendBuffer: as L{loadConnections}.
    @param options: as L{loadConnections}.
    @raise LookupError: what is stored is damaged.
    @raise TypeError: the same.
    @raise ValueError: the same.
    """
    state = stored.state
    session = Session(sendBuffer, state["window"], stored.name)
    done = state["acknowledged"]
    own = [(blob.number, Batch.of(readBlob(blob))) for blob in stored.outgoing]
    if journal.log is None:
        kept = [batch for _, batch in own]
        if own and own[0][0] < done:  # some of those that were sent together
            kept[0].cut(done - own[0][0])
    else:
        place = Place(*state["log"])
        kept, following = journal.log.entries.merged(stored.name, done, place, own)
    takes = state["requests"]
    session.outbox.meet(Hello(maxMessage=state["maxMessage"], requests=takes))
    session.outbox.restore(done, state["acknowledgedCost"], state["limit"], kept)
    session.inbox.restore(state["received"], state["receivedCost"], state["takenCost"])
    address = state["address"]
    connection = connectionFor(
        journal,
        owner,
        session,
        address=address if isinstance(address, str) else tuple(address),
        peer=PublicKey.fromText(stored.peer),
        peerName=state["peerName"],
        receiveBuffer=state["window"],
        **options,
    )
    if isinstance(connection, LoggedConnection):
        connection.following = following
    connection.retrieved.restore(
        state["received"],
        stored.incoming,
        state["first"],
        state["taken"],
        stored.requests,
        connection.made,
    )
    return connection
