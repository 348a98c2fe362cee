"""
What came to any node of a cluster, and is read at any of them, once::

    readings = Readings(journal, store, clock)
    publicKey, packet = await readings.get()
    readings.end(reason)

The engine lends messages to a node, which nobody else has then.  They are read one by
one; what was read is told with the commit of that turn, and what was not when a node
ends, or dies, is lent to another one.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.core.messages.frames import EncodedResponse, decoded
from aesm.errors import ConnectionClosed, SpoolError
from aesm.messages.deferred import ignore
from aesm.messages.requests import Answer
from aesm.messages.stream import Arrivals, Packet
from aesm.server.awaited import Awaited
from aesm.store.stream import readBlob
from aesm.trust.keys import PublicKey

if TYPE_CHECKING:
    from aesm.cluster.store import EngineStore
    from aesm.store.interface import ISessionStore, Work
    from aesm.store.journal import Journal

POLL = 1.0  # seconds until the engine is asked again, while somebody waits

_log = Logger(namespace="aesm.cluster")


class _Lent:
    """
    Messages that came together, of which some are not read.

    @ivar read: how many are.
    """

    def __init__(self, work: Work) -> None:
        """@raise ValueError: it is damaged."""
        self.work = work
        self.read = work.read
        self._peer = PublicKey.fromText(work.peer)
        self._messages = readBlob(work.blob)

    @property
    def isRead(self) -> bool:
        """Whether all are."""
        return self.read >= len(self._messages.data)

    def next(self) -> tuple[PublicKey, Packet]:
        """Read the next one."""
        body, micros = self._messages.data[self.read], self._messages.micros
        self.read += 1
        if type(body) is EncodedResponse:
            return self._peer, Answer.of(micros, body)
        return self._peer, Packet(micros / 1e6, decoded(body))

    def write(self, store: EngineStore) -> None:
        """Have the engine know what is read."""
        store.read("", self.work, self.read)


class Readings:
    """What this node is lent."""

    def __init__(
        self,
        journal: Journal,
        store: EngineStore,
        clock: IReactorTime,
        arrivals: Arrivals,
    ) -> None:
        """
        @param journal: of the store.
        @param clock: for asking again.
        @param arrivals: tells when something has come to this node.
        """
        self._journal = journal
        self._arrivals = arrivals
        self._store = store
        self._clock = clock
        self._lent: deque[_Lent] = deque()
        self._touched: dict[
            _Lent, None
        ] = {}  # of which something was read in this turn
        self._packets = Awaited(self._take, partial(clock.callLater, 0))
        self._poll: IDelayedCall | None = None
        self._isAsking = False

    def get(self) -> Deferred[tuple[PublicKey, Packet]]:
        """
        Read the oldest message, once there is one.

        @return: fires with whose it is, and itself; fails with L{ConnectionClosed} once
            the server has stopped.  Cancelling it reads nothing.
        """
        got = self._packets.get()
        # Also where threads may wait for packets: those do not do so beside this.
        self._arrivals.arrived, self._arrivals.isQueue = self._ask, True
        self._ask()
        return got

    def lapsed(self) -> None:
        """What this node was lent is lent to others."""
        self._lent.clear()

    def end(self, reason: ConnectionClosed) -> None:
        """Read no more."""
        self._lent.clear()
        if self._poll is not None:
            self._poll.cancel()
        self._arrivals.arrived = None
        self._packets.end(reason)

    def _take(self) -> tuple[PublicKey, Packet] | None:
        """Read the oldest message that is here, if there is one."""
        if not self._lent:
            return None
        lent = self._lent[0]
        found = lent.next()
        if lent.isRead:
            self._lent.popleft()
        if not self._touched:
            # If it fails, it is lent to another node then.
            self._journal.add(self._write).addErrback(ignore)
        self._touched[lent] = None
        return found

    def _write(self, store: ISessionStore) -> None:
        """Have the engine know what was read in this turn."""
        touched, self._touched = self._touched, {}
        for lent in touched:
            lent.write(self._store)

    def _ask(self) -> None:
        """Ask the engine for more, if somebody waits for it, and nobody has asked."""
        if self._packets.areAwaited and not self._isAsking:
            self._isAsking = True
            self._store.work().addCallbacks(self._cbWork, self._ebWork)

    def _cbWork(self, found: list[Work]) -> None:
        """Give those who wait what there is."""
        self._isAsking = False
        for work in found:
            try:
                self._lent.append(_Lent(work))
            except ValueError as error:
                _log.error(
                    "what came from {peer} is left alone: {reason}",
                    peer=work.peer,
                    reason=str(error),
                )
        self._packets.serve()
        if found:
            self._ask()
        elif self._packets.areAwaited and self._poll is None:
            self._poll = self._clock.callLater(POLL, self._askAgain)

    def _ebWork(self, failure: Failure) -> None:
        """The engine cannot be asked: ask again later."""
        failure.trap(SpoolError)
        self._cbWork([])

    def _askAgain(self) -> None:
        """Ask again."""
        self._poll = None
        self._ask()
