"""
Handing packets to a handler, one at a time and in order: a packet counts as
handled, and is acknowledged, once the handler is done with it; until then the next
one waits.  So does the first one, until the handler is done with the acceptance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import islice, repeat
from operator import truediv
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from aesm.core.messages.frames import (
    MESSAGE_OVERHEAD,
    EncodedBodies,
    Messages,
)
from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.interfaces import IMessageHandler
from aesm.messages.answering import Answering
from aesm.messages.piles import Pile, chargeOf, packetOf
from aesm.messages.requests import Answer
from aesm.messages.running import running as runningOf
from aesm.messages.running import tellFailed
from aesm.messages.stream import Packet, packetsOf
from aesm.messages.turns import QUANTUM, Rates, Turns

if TYPE_CHECKING:
    from aesm.messages.connection import Connection


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
# Requests are handed over in their order, too, and count as handled, but not as taken,
# once the handler has begun with them (L{Answering}): what it returns is waited for
# there, and holds up nothing here.  What was done with as it came, such as an answer,
# is in the queue as its cost alone, so that all are counted in their order.
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
_NO_PACKETS: Final[Iterator[Any]] = iter(())  # of packets, or what is in a pile
_MILLION: Final = repeat(1e6)
FIRST_SLICE: Final = 4  # packets, before the first look at the time
MOST_SLICE: Final = 256  # before any other
FEW: Final = 16  # messages that came together, and are kept with others
MOST: Final = 1024  # that are kept together


def _nothing(connection: object, item: object) -> None:
    """Take nothing, while there is nothing."""


# Never appended to; one is most of a KiB.
_NONE: Final[deque[Messages | Pile]] = deque(maxlen=0)


class Dispatcher:
    """
    Hands the packets of one connection to its handler.

    @ivar state: where it is in its life.
    """

    __slots__ = (
        "_answering",
        "_connection",
        "_current",
        "_done",
        "_handled",
        "_handler",
        "_packets",
        "_queue",
        "_rates",
        "_receive",
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
        self._answering: Answering | None = None  # made with the first request
        self._receive: Callable[[Any, Any], object] = _nothing
        self.state = _IDLE
        self._queue = _NONE  # what came behind C{_current}
        self._current: Messages | Pile | None = None  # not all handled
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

    def asked(self, first: int, requests: Messages) -> None:
        """Have requests answered, from number C{first} on, after what came before."""
        if self._answering is None:
            self._answering = Answering(self._handler, self._connection)
        if self.state is not _IDLE or len(requests.data) > 1 or self._rates is not None:
            self._enqueue(Pile.of(first, requests))
            return
        # One that comes alone goes without the loop, as in C{arrived}.
        self.state = _BEGUN
        body: Any = requests.data[0]
        item = (requests.micros, body, first + 1)
        room = self._answering.begin(self._connection, item)
        if room is not None:
            self._waitFor(room)
        if self.state is _HANDING and self._queue is _NONE:
            self.state = _DONE
            self._done(1, 0)
        elif self.state is not _OVER:
            self._current = Pile.of(first, requests)
            if self.state is _HANDING:
                self._handled = 1
                self.work()

    def withdrawn(self, number: int) -> None:
        """Nobody waits for the answer to a request any more."""
        if self._answering is not None and self.state is not _OVER:
            self._answering.withdrawn(number)

    def returned(self, micros: int, answer: Answer) -> None:
        """Hand over the answer to what an earlier process has asked, as a packet."""
        self._enqueue(Pile.answer(micros, answer))

    def settled(self, count: int, cost: int) -> None:
        """Count messages done with as they came, after all before them."""
        if self.state is _IDLE:
            self._done(count, cost)
        else:
            self._enqueue(Pile.settled(count, cost))

    def _enqueue(self, messages: Messages | Pile) -> None:
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
            if type(pile) is not Pile or len(pile.data) > MOST:
                pile = Pile()
                self._queue.append(pile)
            if isinstance(messages, Pile):
                pile.addPile(messages)
            else:
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
        """Hand over nothing more: what is left was not acknowledged."""
        if self.state is _S.YIELDED:
            self._turns.discard(self)
        self._step("stopped")
        self._current, self._packets, self._queue = None, _NO_PACKETS, _NONE

    def lost(self, reason: AESMError) -> Deferred[Any] | None:
        """
        Tell the handler of the end; fires, and never fails, once it is done with it.
        """
        return self._call(self._handler.connectionLost, self._connection, reason)

    def _step(self, what: str) -> None:
        """Go where the table leads."""
        self.state = DISPATCHER_TRANSITIONS[self.state, what]

    def _begin(self, messages: Messages | Pile) -> None:
        """Take messages in hand, those before them being handled."""
        self._current = messages
        self._receive = self._handler.packetReceived
        if isinstance(messages, Pile) and messages.numbers is not None:
            self._packets = zip(
                messages.micros, messages.data, messages.numbers, strict=True
            )
            self._receive = self._takeItem
            answering, isMixed = self._answering, 0 in messages.numbers
            if answering is not None and self._rates is None and not isMixed:
                self._receive = answering.begin
        elif isinstance(messages, Pile):
            times = map(truediv, messages.micros, _MILLION)
            self._packets = packetsOf(times, messages.data)
        else:
            self._packets = packetsOf(repeat(messages.micros / 1e6), messages.data)

    def _takeItem(self, connection: Connection, item: tuple[int, Any, int]) -> object:
        """Hand over what is in a pile with requests, numbered from 1."""
        micros, data, number = item
        answering = self._answering
        if number and answering is not None:
            if self._rates is not None:
                cost = len(data) + MESSAGE_OVERHEAD
                self._rates.spend(connection.peer, 0, cost, self._turns.now())
            return answering.begin(connection, item)
        if type(data) is int:  # it was done with as it came
            return None
        return self._handler.packetReceived(connection, packetOf(micros, data))

    def work(self) -> None:
        """
        Hand over what came until the handler asks for time, or the turn is over, and
        report what it is done with.
        """
        connection, handing, now = self._connection, _HANDING, self._turns.now
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
            received, wanted = self._receive, len(messages.data) - self._handled
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
                count += self._handled - self._reported
                cost += chargeOf(messages, self._reported, self._handled)
                self._reported = self._handled
            if handled == wanted:
                self._handled = self._reported = 0
                if self._queue:
                    self._begin(self._queue.popleft())
                else:
                    self._current, self._queue = None, _NONE
                    self._receive = _nothing  # a bound method takes 80 bytes
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
            running = runningOf(result)
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
        """Call the application; fires once it is done, and keeps errors to itself."""
        try:
            running = runningOf(method(*args))
        except Exception:
            self._ebFailed(Failure())
            return None
        return None if running is None else running.addErrback(self._ebFailed)

    def _ebFailed(self, failure: Failure) -> None:
        """Close the connection over which the handler failed."""
        # That an answer cannot be sent to a peer that is closing is no failure of
        # the handler's: it gets the packets that came before the peer's CLOSE.
        closed = failure.check(ConnectionClosed)
        if self._connection.isClosing and closed:
            return
        self.stop()
        if self._connection.isEnding and closed:
            return  # nor is that we close, but it is not done with what it was handed
        tellFailed("over {connection}, which is closed", failure, self._connection)
        self._connection.closeWith(CloseCode.INTERNAL_ERROR, "internal error")
