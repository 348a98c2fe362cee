"""
That a node is alive, and how it is, and what becomes of those that are not::

    lease = Lease(engine, grace)
    lease.lapsed, lease.drained, lease.says = closeAll, stop, describe
    lease.start()
    lease.leave().addCallback(stop)

A session needs no lease to go on at another node: its client has come there.  Leases
say which clients nobody serves any more, so that their time runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from aesm.cluster.scripts import LEASE, SWEEP
from aesm.errors import SpoolError
from aesm.messages.deferred import ignore

if TYPE_CHECKING:
    from aesm.cluster.engine import Engine

TIME = 10.0  # seconds after which a node that says nothing is given up
RENEWAL = 3.0  # seconds between two renewals
REMEMBERED = 86_400.0  # seconds for which the engine knows a silent node's batches
SWEPT = 256  # sessions that are cleaned up at a time


class Lease:
    """
    A node's lease.

    @ivar lapsed: called when the engine has given this node up, or must have, since it
        does not hear of it: its clients are to go on elsewhere (1001), where somebody
        waits for them.
    @ivar drained: called, once, when an operator wants this node to end.
    @ivar says: what operators are told of this node, as JSON can say it.
    @ivar ended: called with sessions that are over, and of which nobody has said so;
        None where nobody wants to know.
    """

    def __init__(self, engine: Engine, grace: int) -> None:
        """@param grace: milliseconds that clients have to come back."""
        self.lapsed: Callable[[], object] = ignore
        self.drained: Callable[[], object] = ignore
        self.says: Callable[[], dict[str, Any]] = dict
        self.ended: Callable[[list[bytes]], object] | None = None
        self._isDrained = False
        self._engine = engine
        self._grace = grace
        self._renewed: float | None = None  # when, while it is held
        self._renewals = LoopingCall(self._renew)
        self._renewals.clock = engine.clock

    def start(self) -> None:
        """Say again and again that this node is alive."""
        if not self._renewals.running:
            self._renewals.start(RENEWAL)

    def stop(self) -> None:
        """Say it no more, and have it never said."""
        self._renewed = None
        if self._renewals.running:
            self._renewals.stop()

    def leave(self) -> Deferred[Any]:
        """Say that it is not, from now on; as L{Engine.call}."""
        self.stop()
        return self._say(0.0, 1.0)

    def look(self) -> None:
        """See at once what is wanted of this node."""
        if self._renewals.running:
            self._renew()

    def _say(self, time: float, remembered: float) -> Deferred[Any]:
        """Say for how long this node is alive, and its batches are to be remembered."""
        millis = round(time * 1000), self._grace, round(remembered * 1000)
        return self._engine.call(
            LEASE, self._engine.node, *millis, json.dumps(self.says())
        )

    def _renew(self) -> Deferred[None]:
        """Say that this node is alive, and clean up behind those that are not."""
        renewed = self._say(TIME, REMEMBERED)
        renewed.addCallback(self._cbRenewed)
        return renewed.addErrback(self._ebRenewed)

    def _cbRenewed(self, found: list[int]) -> Deferred[None]:
        """Tell if it was not held all the time, and if the node is to end."""
        held, drain = found
        if not held:
            self._lapse()
        if drain and not self._isDrained:
            self._isDrained = True
            self.drained()
        self._renewed = self._engine.clock.seconds()
        return self._sweep().addCallback(lambda nothing: self._engine.measure())

    def _lapse(self) -> None:
        """It is not held any more, if it was."""
        renewed, self._renewed = self._renewed, None
        if renewed is not None:
            self.lapsed()

    def _sweep(self) -> Deferred[None]:
        """Clean up until nothing is left to do."""
        ended = 0 if self.ended is None else round(REMEMBERED * 1000)
        said = (round(TIME * 1000), self._grace, SWEPT, ended)
        return self._engine.call(SWEEP, *said).addCallback(self._cbSwept)

    def _cbSwept(self, found: tuple[int, list[bytes]]) -> Deferred[None] | None:
        """Say which sessions are over, and go on, if there is more."""
        count, names = found
        if names and self.ended is not None:
            self.ended(names)
        return self._sweep() if count == SWEPT else None

    def _ebRenewed(self, failure: Failure) -> None:
        """It is said again soon; but the engine may have waited too long by now."""
        failure.trap(SpoolError)
        silent = self._engine.clock.seconds() - (self._renewed or 0.0)
        if self._renewed is not None and silent >= TIME:
            self._lapse()
