"""
A server that ends while others go on, which share its sessions: it leaves these to them
in waves, so that not all clients come to them at once::

    draining = Draining(clock, manager, clients, rate=100.0)
    draining.drain(reason="").addCallback(stop)    # who is left then is told as ever

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

import math
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.errors import SessionMoved, SpoolError
from aesm.messages.deferred import Gate
from aesm.server.handover import Clients, greeted, movable

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.server.kept import KeptSessions
    from aesm.server.manager import ConnectionManager
    from aesm.store.journal import Journal

_log = Logger(namespace="aesm.server")

DRAIN_RATE = 100.0  # clients a second
WAVE = 0.1  # seconds between two waves, unless a single client has longer
WRITING = 5.0  # seconds for the store to write what was accepted


class Draining:
    """Leaves sessions to servers that share the store."""

    def __init__(
        self,
        clock: IReactorTime,
        manager: ConnectionManager,
        clients: Clients,
        rate: float,
    ) -> None:
        """
        @param clock: keeps time.
        @param manager: has the sessions.
        @param clients: who may still get one.
        @param rate: clients that are told a second.
        @raise ValueError: the rate is no number above 0.
        """
        if not 0 < rate < math.inf:
            raise ValueError(f"drainRate must be a number above 0, not {rate!r}")
        self._clock = clock
        self._manager = manager
        self._clients = clients
        self._rate = rate
        self._left = Gate()  # for all who want it to be done

    def time(self, spread: float = 0.0) -> float:
        """
        Tell how many seconds it takes until all clients go on at other servers.

        @param spread: seconds that it is to take at least.
        @return: 0 if they cannot.
        """
        store = self._manager.store
        if store is None or not store.fences:
            return 0.0
        return max(spread, len(self._manager.connections) / self._rate, 1 / self._rate)

    def drain(self, reason: str, spread: float = 0.0) -> Deferred[None]:
        """
        Leave all sessions whose clients are here, where others share them; nobody new
        comes to this server any more.

        @param reason: words for the log.
        @param spread: as C{time}.
        @return: fires when nobody is left who could go on elsewhere now.
        """
        seconds = self.time(spread)
        if not seconds:
            return succeed(None)
        left = self._left.wait()
        if not self._manager.isDraining:
            self._manager.isDraining = True
            rate = max(1, len(self._manager.connections)) / seconds
            leaving = Deferred.fromCoroutine(self._drain(rate, reason))
            leaving.addErrback(_ebFailed).addCallback(self._cbLeft)
        return left

    def _cbLeft(self, nothing: None) -> None:
        """Nobody is left."""
        self._manager.isDraining = False
        self._left.open()

    async def _drain(self, rate: float, reason: str) -> None:
        """Leave them, so many a second."""
        clock, manager = self._clock, self._manager
        size = max(1, int(rate * WAVE))
        pause, count, begun = size / rate, 0, clock.seconds()
        words = reason or "it is left to other nodes"
        while True:
            told = clock.seconds()
            if not self._here():
                await greeted(clock, self._clients)
            if not self._here():
                break
            if not await self._isWritten():
                _log.warn("clients cannot go on elsewhere now: all are told to leave")
                break
            # Not before: some may have gone meanwhile.
            wave = self._here()[:size]
            moved = dict.fromkeys(wave, SessionMoved(words))
            left = cast("KeptSessions", manager.kept).leave(moved, round(pause * 1000))
            left.addErrback(_ebNotWritten)
            count += len(wave)
            await deferLater(clock, max(0.0, told + pause - clock.seconds()))
        if count:
            _log.info(
                "clients told to go on elsewhere: {count}, in {seconds:.1f} seconds",
                count=count,
                seconds=clock.seconds() - begun,
            )

    def _here(self) -> list[Connection]:
        """List those who are here, and could go on elsewhere."""
        return [each for each in movable(self._manager) if each.isAttached]

    async def _isWritten(self) -> bool:
        """Write all that was accepted, and tell whether that can be done."""
        journal = cast("Journal", self._manager.journal)
        if journal.store.failure is not None:
            return False
        try:
            await journal.written().addTimeout(WRITING, self._clock)
        except (SpoolError, TimeoutError):
            return False
        return True


def _ebFailed(failure: Failure) -> None:
    """Those who are left are told all the same."""
    _log.failure("clients cannot go on elsewhere", failure)


def _ebNotWritten(failure: Failure) -> None:
    """It was not acknowledged: it happens where the client goes on."""
    failure.trap(SpoolError)
