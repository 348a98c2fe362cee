"""
What the engine tells a node without being asked::

    doorbell = Doorbell(engine)
    doorbell.rung, doorbell.missed = look, lookEverywhere
    doorbell.start()
    doorbell.stop()

It has a connection of its own, since one that hears what is published can do nothing
else.  What is published while that is not there is missed: whoever listens has to look
for all of it after each new connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.messages.deferred import ignore

if TYPE_CHECKING:
    from aesm.cluster.engine import Engine

PING = 30.0  # seconds; without an answer the connection is given up

_log = Logger(namespace="aesm.cluster")


class Doorbell:
    """
    A node's doorbell.

    @ivar rung: called with what a script says: whether to this node, else to all, and
        the words.
    @ivar missed: called when there is a connection again: anything may have been said
        meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        """@param engine: whose node it is for, and where it says so."""
        self.rung: Callable[[bool, bytes], object] = ignore
        self.missed: Callable[[], object] = ignore
        self._engine = engine
        self._channels = (engine.key(f"n:{engine.node}"), engine.key("log"))
        self._service = engine.dialler("SubscriberProtocol", self._connected, ignore)
        self._protocol: Any = None
        self._runId: str | None = None  # of the process to which that is, once known
        self._pings = LoopingCall(self._ping)
        self._pings.clock = engine.clock

    def start(self) -> None:
        """Listen, unless it does; and not to another engine than the node has now."""
        if not self._pings.running:
            self._service.startService()
            self._pings.start(PING, now=False)
        self._check()

    def stop(self) -> Deferred[None]:
        """
        Listen no more.

        @return: fires when the connection is gone.
        """
        if self._pings.running:
            self._pings.stop()
        stopped = self._service.stopService()
        return succeed(None) if stopped is None else stopped

    def _connected(self, protocol: Any) -> None:
        """There is a connection: subscribe."""
        self._protocol, self._runId = protocol, None
        protocol.messageReceived = self._heard
        subscribed = Deferred.fromCoroutine(self._subscribe(protocol))
        subscribed.addCallbacks(
            lambda nothing: self.missed(), self._ebSubscribed, errbackArgs=(protocol,)
        )

    async def _subscribe(self, protocol: Any) -> None:
        """Subscribe, to one channel after the other: each has a reply of its own."""
        await self._engine.login(protocol)
        self._runId = await self._engine.runIdOf(protocol)
        self._check()
        for channel in self._channels:
            await self._engine.execute(protocol, "SUBSCRIBE", channel)

    def _check(self) -> None:
        """
        Have another connection, if this one is to an engine that is not the node's any
        more: others may still tell it what the node's own will never have.
        """
        engine, runId = self._engine, self._runId
        if engine.failure is None and runId not in (None, engine.info.get("run_id")):
            _log.warn("what hears the engine has reached another one: it connects anew")
            self._protocol.messageReceived = ignore
            self._protocol.transport.loseConnection()

    def _ebSubscribed(self, failure: Failure, protocol: Any) -> None:
        """It did not work: try again, with another connection."""
        protocol.transport.loseConnection()

    def _heard(self, pattern: None, channel: bytes, words: bytes) -> None:
        """Something was published."""
        self.rung(channel == self._channels[0].encode(), words)

    def _ping(self) -> None:
        """See that the connection is there; it is given up if it is silent."""
        if self._protocol is not None:
            pinged = self._engine.execute(self._protocol, "PING")
            pinged.addErrback(lambda failure: None)
