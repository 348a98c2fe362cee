"""
Handing packets to a handler, one at a time and in order: a packet counts as
handled, and is acknowledged, once the handler is done with it; until then the next
one waits.  So does the first one, until the handler is done with the acceptance.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from concurrent import futures
from enum import Enum
from itertools import islice, repeat
from operator import truediv
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.core.messages.frames import EncodedBodies, Messages
from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.interfaces import IMessageHandler
from aesm.messages.stream import Packet, costOf, packetsOf
from aesm.messages.turns import QUANTUM, Rates, Turns

if TYPE_CHECKING:
    from aesm.messages.connection import Connection

__all__ = ["DISPATCHER_TRANSITIONS", "Dispatcher", "DispatcherState"]

_log: Final = Logger(namespace="aesm.handler")

# The life of a dispatcher
#
#   IDLE      nothing is in hand
#   HANDING   a loop further down the stack is handing packets over
#   ASKED     so it is, and the handler has just returned a Deferred
#   WAITING   the handler has a packet, or the news that the connection is accepted,
#             and its Deferred has not fired
#   YIELDED   there is more to hand over, in a later turn of the event loop
#   OVER      nothing is handed over any more
#
# The handler may do anything while it is called: let further messages arrive, close
# the connection, fail.  Therefore only one loop ever runs, the one that took the
# dispatcher from IDLE or WAITING to HANDING.  What arrives meanwhile is queued for it,
# and it looks at the state after each packet: a packet after which the state is not
# HANDING is not counted as handled by the loop.
#
# ASKED is there for Deferreds that have fired already, which run their callbacks
# while these are added.  Such a one takes the dispatcher back to HANDING, and the loop
# goes on, so that ten thousand of them need no stack; one that fires in WAITING
# starts a loop of its own.  C{Deferred.called} would not do: a Deferred that is
# paused, or is just running its callbacks, has it set and fires later.
#
# What one turn of the event loop hands over is bounded, or one client that sends much
# would keep all others waiting: after QUANTUM seconds the loop gives up its turn, and
# Turns calls it again.  It looks at the time after 4 packets, after 8 more, 16, ...: so
# it takes at most twice as long as it should, and a small message costs nothing more.
# A key that has sent more than its rate allows yields until it may send again.
#
# From OVER nothing leads back.  A Deferred that the handler still has may fire, which
# changes nothing: its packet was not acknowledged, so that the peer sends it again if
# the session is resumed.  Errors of the handler are logged all the same.
#
# C{connectionAccepted} is handed over as a packet is, but that there is none to count.
# What else a handler is told (that a connection is cut, is back, is over) is told at
# once, whatever it is doing, and nothing waits for it: it may be what ends the doing.


class DispatcherState(Enum):
    """Where a dispatcher is in its life."""

    __hash__ = object.__hash__  # Enum's own is Python code

    IDLE = "idle"
    HANDING = "handing"
    ASKED = "asked"
    WAITING = "waiting"
    YIELDED = "yielded"
    OVER = "over"


_S = DispatcherState
DISPATCHER_TRANSITIONS: Final = {  # (where we are, what happened): where we go
    (_S.IDLE, "arrived"): _S.HANDING,
    (_S.HANDING, "arrived"): _S.HANDING,  # it is queued
    (_S.ASKED, "arrived"): _S.ASKED,
    (_S.WAITING, "arrived"): _S.WAITING,
    (_S.YIELDED, "arrived"): _S.YIELDED,
    (_S.OVER, "arrived"): _S.OVER,  # it is dropped
    (_S.HANDING, "handedOver"): _S.IDLE,
    (_S.HANDING, "yielded"): _S.YIELDED,
    (_S.YIELDED, "resumed"): _S.HANDING,
    (_S.HANDING, "asked"): _S.ASKED,
    (_S.ASKED, "fired"): _S.HANDING,
    (_S.ASKED, "notFired"): _S.WAITING,
    (_S.WAITING, "fired"): _S.HANDING,
    (_S.OVER, "asked"): _S.OVER,  # it was stopped while the handler was called
    (_S.OVER, "fired"): _S.OVER,
} | {(state, "stopped"): _S.OVER for state in _S}

# One lookup of a global is all that a state costs where each message passes.
_IDLE: Final = _S.IDLE
_HANDING: Final = _S.HANDING
_OVER: Final = _S.OVER
_BEGUN: Final = DISPATCHER_TRANSITIONS[_IDLE, "arrived"]
_DONE: Final = DISPATCHER_TRANSITIONS[_HANDING, "handedOver"]

_new: Final = tuple.__new__  # makes a Packet without a call of Python's
_NO_PACKETS: Final[Iterator[Packet]] = iter(())
_MILLION: Final = repeat(1e6)
FIRST_SLICE: Final = 4  # packets, before the first look at the time
MOST_SLICE: Final = 256  # before any other
FEW: Final = 16  # messages that came together, and are kept with others
MOST: Final = 1024  # that are kept together


class _Pile:
    """
    Messages that came in small groups: what is kept of each beside its body is a
    sixteenth of C{Messages} for it.

    @ivar micros: when each was sent.
    @ivar data: their bodies.
    @ivar cost: as of C{Messages}.
    """

    __slots__ = ("cost", "data", "micros")

    def __init__(self) -> None:
        """Start with none."""
        self.micros = array("Q")
        self.data: list[str | bytes] = []
        self.cost = 0

    def add(self, messages: Messages) -> None:
        """Add a group."""
        if type(messages.data) is EncodedBodies and type(self.data) is list:
            self.data = EncodedBodies(self.data)
        self.micros.extend(repeat(messages.micros, len(messages.data)))
        self.data.extend(messages.data)
        self.cost += messages.cost


# Never appended to; one is most of a KiB.
_NONE: Final[deque[Messages | _Pile]] = deque(maxlen=0)


class Dispatcher:
    """
    Hands the packets of one connection to its handler.

    @ivar state: where it is in its life.
    """

    __slots__ = (
        "_connection",
        "_current",
        "_done",
        "_handled",
        "_handler",
        "_packets",
        "_queue",
        "_rates",
        "_reported",
        "_turns",
        "state",
    )

    def __init__(
        self,
        handler: IMessageHandler,
        connection: Connection,
        done: Callable[[int, int], None],
        turns: Turns,
        rates: Rates | None = None,
    ) -> None:
        """
        @param done: called with how many messages are handled, and their cost in
            bytes.
        @param turns: whom to give up the turn to.
        @param rates: how much the connection's key may send; None for any.
        """
        self._handler = handler
        self._connection = connection
        self._done = done
        self._turns = turns
        self._rates = rates
        self.state = _IDLE
        self._queue = _NONE  # what came behind C{_current}
        self._current: Messages | _Pile | None = None  # not all handled
        self._packets = _NO_PACKETS  # of these, not handed over
        self._handled = self._reported = 0  # of these

    def accepted(self) -> None:
        """Tell the handler of the connection: packets wait until it is done."""
        self._step("arrived")
        try:
            result: object = self._handler.connectionAccepted(self._connection)
        except Exception:
            self._ebFailed(Failure())
        else:
            if result is not None:
                self._waitFor(result)
        self.work()

    def detached(self, reason: AESMError) -> None:
        """Tell a handler that wants to know it that the connection is cut."""
        self._tell("connectionDetached", reason)

    def attached(self) -> None:
        """Tell a handler that wants to know it that the client is back."""
        self._tell("connectionAttached")

    def arrived(self, messages: Messages) -> None:
        """Hand over what came, as far as the handler takes it now."""
        data = messages.data
        if (
            self.state is not _IDLE
            or len(data) > 1
            or type(data) is EncodedBodies
            or self._rates is not None
        ):
            self._enqueue(messages)
            return
        # In a dialogue most messages come alone and are done with at once: these are
        # handed over without the loop, and leave nothing behind to clear away.
        self.state = _BEGUN
        packet = _new(Packet, (messages.micros / 1e6, data[0]))
        try:
            result = self._handler.packetReceived(self._connection, packet)
        except Exception:
            self._ebFailed(Failure())
        else:
            if result is not None:
                self._waitFor(result)
        if self.state is _HANDING and self._queue is _NONE:
            self.state = _DONE
            self._done(1, messages.cost)
        elif self.state is not _OVER:
            self._current = messages
            if self.state is _HANDING:
                self._handled = 1
                self.work()

    def _enqueue(self, messages: Messages) -> None:
        """Hand over what came after all that came before."""
        before = self.state
        self._step("arrived")
        if before is _IDLE:
            self._begin(messages)
            self.work()
        elif before is not _OVER:
            if self._queue is _NONE:
                self._queue = deque()
            if len(messages.data) > FEW:
                self._queue.append(messages)
                return
            pile = self._queue[-1] if self._queue else None
            if type(pile) is not _Pile or len(pile.data) > MOST:
                pile = _Pile()
                self._queue.append(pile)
            pile.add(messages)

    def gather(self) -> bool:
        """
        Wait for the last of several that arrive at once, and hand them over together:
        C{work} is to be called then.

        @return: whether it is; else something is in hand anyway.
        """
        if self.state is not _IDLE:
            return False
        self._step("arrived")
        return True

    def resume(self) -> None:
        """Go on in a later turn than that which was given up."""
        self._step("resumed")
        self.work()

    def stop(self) -> None:
        """
        Hand over nothing more: what the handler has not seen yet was not
        acknowledged.
        """
        if self.state is _S.YIELDED:
            self._turns.discard(self)
        self._step("stopped")
        self._current, self._packets, self._queue = None, _NO_PACKETS, _NONE

    def lost(self, reason: AESMError) -> Deferred[Any] | None:
        """
        Tell the handler that the connection is over.

        @return: fires once it is done with that, and never fails; None if it is.
        """
        return self._call(self._handler.connectionLost, self._connection, reason)

    def _step(self, what: str) -> None:
        """Go where the table leads."""
        self.state = DISPATCHER_TRANSITIONS[self.state, what]

    def _begin(self, messages: Messages | _Pile) -> None:
        """Take messages in hand, those before them being handled."""
        self._current = messages
        if isinstance(messages, _Pile):
            times = map(truediv, messages.micros, _MILLION)
            self._packets = packetsOf(times, messages.data)
        else:
            self._packets = packetsOf(repeat(messages.micros / 1e6), messages.data)

    def work(self) -> None:
        """
        Hand over what came until the handler asks for time, or the turn is over, and
        report what it is done with.
        """
        received, connection = self._handler.packetReceived, self._connection
        handing, now = _HANDING, self._turns.now
        count = cost = 0
        size, begun = FIRST_SLICE, now()
        until = begun + QUANTUM
        if self._rates is not None:
            self._holdBack(self._rates, begun)
        while self.state is handing:
            messages, handled = self._current, 0
            if messages is None:
                if self._queue:  # it came while nothing could be handed over
                    self._begin(self._queue.popleft())
                    continue
                self._step("handedOver")
                break
            wanted = len(messages.data) - self._handled
            while True:
                # This loop is most of what a small message costs: nothing of ours is
                # called in it, and packets are counted in a local variable.
                for packet in islice(self._packets, size):
                    try:
                        result = received(connection, packet)
                    except Exception:
                        self._ebFailed(Failure())
                    else:
                        if result is not None:
                            self._waitFor(result)
                    if self.state is not handing:
                        break
                    handled += 1
                if self.state is not handing or now() >= until:
                    break
                size = min(2 * size, MOST_SLICE)
                if handled == wanted:
                    break
            if handled == len(messages.data):  # as usual: the cost is known
                count += handled
                cost += messages.cost
            else:
                self._handled += handled
                data = messages.data[self._reported : self._handled]
                count += len(data)
                cost += sum(map(costOf, data))
                self._reported = self._handled
            if handled == wanted:
                self._handled = self._reported = 0
                if self._queue:
                    self._begin(self._queue.popleft())
                else:
                    self._current, self._queue = None, _NONE
            if self.state is handing and self._current and now() >= until:
                self._yield()
        if count:
            if self._rates is not None:
                self._rates.spend(connection.peer, count, cost, now())
            self._done(count, cost)

    def _holdBack(self, rates: Rates, now: float) -> None:
        """Give up the turn if the key has sent more than it may."""
        delay = rates.delay(self._connection.peer, now)
        if delay and self.state is _HANDING:
            self._yield(delay)

    def _yield(self, delay: float = 0.0) -> None:
        """Go on in a later turn, so many seconds from now."""
        self._step("yielded")
        self._turns.wait(self, delay)

    def _waitFor(self, result: object) -> None:
        """Look whether the handler asks for time by what it has returned."""
        try:
            running = _running(result)
        except Exception:
            self._ebFailed(Failure())
            return
        if running is not None:
            self._step("asked")
            running.addErrback(self._ebFailed)
            running.addCallback(self._cbHandled)
            if self.state is _S.ASKED:
                self._step("notFired")

    def _cbHandled(self, result: object) -> None:
        """Go on after what the handler asked for time for."""
        before = self.state
        self._step("fired")
        if before is _S.WAITING:
            if self._current is not None:  # it was a packet
                self._handled += 1
            self.work()

    def _tell(self, name: str, *args: object) -> None:
        """Call a method of the handler that it need not have."""
        # It has failed if the dispatcher is over: only the end is left to be told.
        method = getattr(self._handler, name, None)
        if method is not None and self.state is not _OVER:
            self._call(method, self._connection, *args)

    def _call(
        self, method: Callable[..., object], *args: object
    ) -> Deferred[Any] | None:
        """
        Call the application's code, and keep its errors to this connection.

        @return: fires once it is done, and never fails; None if it is.
        """
        try:
            running = _running(method(*args))
        except Exception:
            self._ebFailed(Failure())
            return None
        return None if running is None else running.addErrback(self._ebFailed)

    def _ebFailed(self, failure: Failure) -> None:
        """Close the connection over which the handler failed."""
        # That an answer cannot be sent to a peer that is closing is no failure of
        # the handler's: it gets the packets that came before the peer's CLOSE.
        if self._connection.isClosing and failure.check(ConnectionClosed):
            return
        self.stop()
        _log.failure(
            "the handler failed over {connection!r}, which is closed",
            failure,
            connection=self._connection,
        )
        self._connection.closeWith(CloseCode.INTERNAL_ERROR, "internal error")


def _running(result: object) -> Deferred[Any] | None:
    """
    Run what a method of a handler has returned.

    @return: fires once it has run; None if there is nothing to be run.
    @raise TypeError: it has not run, and cannot be run here.
    """
    if isinstance(result, Deferred):
        return result
    if isinstance(result, Coroutine):
        return ensureDeferred(result)
    if asyncio.isfuture(result):
        # Of a loop in another thread it would call us there, and of one that does not
        # run never.
        if result.get_loop() is not _runningLoop():
            raise TypeError(
                f"the handler returned {result!r}, which is not of the event loop that "
                "runs here: use Twisted's asyncio reactor, or return a Deferred"
            )
        return Deferred.fromFuture(result)
    if isinstance(result, Awaitable):
        return ensureDeferred(_await(result))
    # Whatever of the handler's has not run must not be acknowledged; other values say
    # nothing, as those of Deferreds.
    if isinstance(result, Generator | AsyncGenerator | map | filter):
        raise TypeError(
            f"the handler returned {result!r}, whose body has not run: write async "
            "def without yield, or decorate the method with inlineCallbacks"
        )
    if isinstance(result, futures.Future):
        raise TypeError(
            f"the handler returned {result!r}, of another thread: use deferToThread"
        )
    return None


async def _await(awaitable: Awaitable[Any]) -> None:
    """Make a coroutine of what can only be awaited."""
    await awaitable


def _runningLoop() -> asyncio.AbstractEventLoop | None:
    """
    Find the event loop that runs in this thread, as under Twisted's asyncio reactor.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
