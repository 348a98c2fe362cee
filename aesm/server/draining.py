"""
A server that ends while others go on, which share its sessions: it leaves these to them
in waves, so that not all clients come to them at once::

    drained = drain(clock, manager, clients, rate=100.0, reason="")
    drained.addCallback(stop)         # who is left then is told as ever

It is as with a server that is replaced (L{aesm.server.handover}), but that each client
comes to one of several, and nobody says when.
"""

# What a wave is
#
# All that was accepted so far is written first.  Then the sessions of the wave are
# left, and their clients told to come back within the time of a wave (1001), which is
# when the next one is told: so the others have at most so many handshakes a second.
# What happens in between is written while a client is on its way; if another server is
# faster, it was not acknowledged, and happens there.
#
# While the store cannot be written nobody could go on elsewhere: then all are told
# together, as by any server that stops.

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.errors import SessionMoved, SpoolError
from aesm.server.handover import Clients, greeted, movable

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.server.kept import KeptSessions
    from aesm.server.manager import ConnectionManager
    from aesm.store.journal import Journal

__all__ = ["DRAIN_RATE", "drain"]

_log = Logger(namespace="aesm.server")

DRAIN_RATE = 100.0  # clients a second
WAVE = 0.1  # seconds between two waves, unless a single client has longer
WRITING = 5.0  # seconds for the store to write what was accepted


def drain(
    clock: IReactorTime,
    manager: ConnectionManager,
    clients: Clients,
    rate: float,
    reason: str,
) -> Deferred[None]:
    """
    Leave all sessions whose clients are here to servers that share the store.

    @param clock: keeps time.
    @param manager: has the sessions, in a store that others share.
    @param clients: who may still get one; nobody else can come.
    @param rate: clients that are told a second.
    @param reason: words for the log.
    @return: fires when nobody is left who could go on elsewhere now.
    """
    drained = Deferred.fromCoroutine(_drain(clock, manager, clients, rate, reason))
    return drained.addErrback(_ebFailed)


async def _drain(
    clock: IReactorTime,
    manager: ConnectionManager,
    clients: Clients,
    rate: float,
    reason: str,
) -> None:
    """Leave them."""
    size = max(1, int(rate * WAVE))
    pause, count, begun = size / rate, 0, clock.seconds()
    words = reason or "it goes on at another node"
    while True:
        told = clock.seconds()
        if not _attached(manager):
            await greeted(clock, clients)
        if not _attached(manager):
            break
        if not await _isWritten(clock, manager):
            _log.warn("clients cannot go on elsewhere now: all are told to leave")
            break
        # Not before: some may have gone meanwhile.
        wave = _attached(manager)[:size]
        moved = dict.fromkeys(wave, SessionMoved(words))
        left = cast("KeptSessions", manager.kept).leave(moved, round(pause * 1000))
        left.addErrback(_ebNotWritten)
        count += len(wave)
        await deferLater(clock, max(0.0, told + pause - clock.seconds()))
    if count:
        _log.info(
            "{count} sessions go on at other nodes, in {seconds:.1f} seconds",
            count=count,
            seconds=clock.seconds() - begun,
        )


def _attached(manager: ConnectionManager) -> list[Connection]:
    """List those who are here, and could go on elsewhere."""
    return [each for each in movable(manager) if each.isAttached]


def _ebFailed(failure: Failure) -> None:
    """Those who are left are told all the same."""
    _log.failure("clients cannot go on elsewhere", failure)


def _ebNotWritten(failure: Failure) -> None:
    """It was not acknowledged: it happens where the client goes on."""
    failure.trap(SpoolError)


async def _isWritten(clock: IReactorTime, manager: ConnectionManager) -> bool:
    """Write all that was accepted, and tell whether that can be done."""
    journal = cast("Journal", manager.journal)
    if journal.store.failure is not None:
        return False
    written = journal.written()
    try:
        await written.addTimeout(WRITING, clock)
    except (SpoolError, TimeoutError):
        return False
    return True
