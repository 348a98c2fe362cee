"""
The message layer on Twisted: an L{AESMProtocol} feeds a
L{Conversation<aesm.core.messages.conversation.Conversation>} with the bytes of a secure
channel, hands its frames to the transport, has one timer at its deadline, and tells a
L{Connection<aesm.messages.connection.Connection>} what happens::

    protocol = AESMProtocol(owner, Conversation(...), reactor)
    connection.attach(protocol, channel)         # at a client: at the WELCOME
    protocol.makeConnection(secureTransport)

It goes with its transport.  The connection may be kept, for the next one.

When what is sent leaves: the first message of a quiet connection at once; the others of
the same turn of the event loop together at its end (C{_flushCall}), as all of a turn
that follows one of many.  While something is read, nothing leaves before all of it is
acted on (C{busy}), so that the answer and the ACK share a record; but for requests and
answers that fill half of one (C{hurry}): with these the other side begins meanwhile.
While the transport takes no more (C{_writable}), messages wait in the outbox, where
they are kept anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import time_ns
from typing import Final, cast

from twisted.internet import error
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import classImplements

from aesm.core.channel.channel import Channel
from aesm.core.messages.conversation import ACK_DELAY, Conversation
from aesm.core.messages.dialogue import answer, exchange
from aesm.core.messages.events import (
    MANY,
    Accepted,
    Acknowledged,
    Answered,
    Asked,
    Broken,
    Event,
    PeerClosed,
    areDense,
)
from aesm.core.messages.frames import HEADER_SIZE, MESSAGE_OVERHEAD, Messages
from aesm.core.messages.states import ConversationState
from aesm.errors import AESMError, ConnectionClosed, HeartbeatLost, closedByUs
from aesm.messages.budget import hold
from aesm.messages.connection import Connection
from aesm.messages.owner import ConnectionOwner
from aesm.messages.states import CARRIER_TRANSITIONS, CarrierState
from aesm.secure.rawtransport import SHORT
from aesm.secure.transport import SecureTransport

LEAST_DELAY: Final = ACK_DELAY  # seconds between two looks at the deadline
BUDGET: Final = 262144  # bytes of messages handed to the transport at once
# The same at first after a cut, and the bytes of the first record, then doubled: over a
# link that is cut again and again after a few KB, half a record is worth nothing.
FIRST: Final = 2048
# Who comes back says so by an ACK.  Until then it gets pieces of so much, now and then:
# to come back again and again, and to be cut off at the WELCOME, costs a peer nothing.
UNHEARD: Final = 32768  # bytes
UNHEARD_DELAY: Final = 0.02  # seconds
# Small frames, of which a record holds thousands, are read in pieces of so many bytes,
# so that others have their turn; of large ones each piece would be one copy more.
PIECE: Final = 8192  # bytes
# Events of one read: the ACK of a dialogue, a batch, and one that is not full.
FEW: Final = 3

_OPEN: Final = CarrierState.OPEN
_CONVERSATION_OPEN: Final = ConversationState.OPEN
_ATTACHED: Final = frozenset(
    {CarrierState.OPEN, CarrierState.LEAVING, CarrierState.FINAL, CarrierState.DEAF}
)
_LISTENING: Final = _ATTACHED - {CarrierState.DEAF}
_KEEPING: Final = frozenset({CarrierState.OPEN, CarrierState.LEAVING})
_ENDING: Final = frozenset({CarrierState.FINAL, CarrierState.DEAF})


class AESMProtocol:
    """
    Pumps a conversation.

    @ivar busy: whether what is at work will flush when it is done.
    @ivar conversation: the message layer.
    @ivar connection: what users hold, from C{attach} on.
    @ivar owner: whom to tell.
    @ivar closing: why, if it is we who close.
    @ivar state: where we are.
    """

    transport: SecureTransport
    connection: Connection

    def __init__(
        self, owner: ConnectionOwner, conversation: Conversation, clock: IReactorTime
    ) -> None:
        self.conversation = conversation
        self.owner = owner
        self.state = CarrierState.GREETING
        self.busy = False
        self.closing: ConnectionClosed | None = None
        self._clock = clock
        self._timer: IDelayedCall | None = None  # at the deadline, or before it
        self._wakeAt = math.inf  # when that fires
        self._flushCall: IDelayedCall | None = None  # flushes what this turn sends
        self._streaming = False  # the last turn sent more than one message
        self._counted = 0  # messages that were sent before this turn
        self._writable = True  # the transport takes more, and has not been ended
        self._budget = BUDGET
        self._heard = False  # anything came
        self._dense = False  # what came last was many small frames
        self._holding = False  # a frame is not whole that counts
        self._superseded: Callable[[], None]
        self._reason: AESMError | None = None

    def attach(self, connection: Connection, channel: Channel) -> None:
        """
        Carry a connection from now on.

        @param channel: the secure channel under us.
        """
        self._move("attached")
        self.connection = connection
        if connection.suite:  # another channel has carried it
            self._budget = channel.recordSize = FIRST

    def _move(self, what: str) -> None:
        """Go where the table says."""
        self.state = CARRIER_TRANSITIONS[self.state, what]

    # IProtocol

    def makeConnection(self, transport: ITransport) -> None:
        """Begin."""
        self.transport = cast(SecureTransport, transport)
        self.connectionMade()

    def connectionMade(self) -> None:
        """Start to look after the peer; a server says its WELCOME."""
        self._schedule()
        self.transport.registerProducer(self, True)
        if self.conversation.controlDue:
            self._flush()

    def dataReceived(self, data: bytes) -> None:
        """
        Pump bytes through the conversation.

        @param data: at least one byte.
        """
        now, conversation = self._clock.seconds(), self.conversation
        self._heard = True
        if self.state is _OPEN:
            # The short way of a dialogue; _act does the same for whatever comes.
            event = exchange(conversation, data, now)
            if event is not None:
                messages = event if isinstance(event, Messages) else event[1]
                connection, budget = self.connection, self.owner.budget
                traffic = self.owner.traffic
                if traffic is not None:
                    traffic.messagesIn += 1
                    traffic.costIn += messages.cost
                self.busy = True
                try:
                    if connection.waiting is not None:
                        connection.acknowledged()
                    if isinstance(event, Messages):
                        connection.arrived(event)
                    else:
                        connection.requests.called(event)
                    if budget is not None and budget.full:
                        self.owner.overfull(connection)
                finally:
                    self.busy = False
                self._respond(now)
                return
        if self._dense and len(data) > PIECE:
            self.transport.giveBack(data[PIECE:])
            data = data[:PIECE]
        events = conversation.receive(data, now)
        if len(data) > MANY * HEADER_SIZE:  # else there cannot be many
            self._dense = areDense(events, len(data))
        # First: what is whole by now counts otherwise.
        if (conversation.reader.missing or self._holding) and self.state in _ATTACHED:
            self._holding = hold(self.connection, self.owner, conversation.reader.held)
        self._act(events)
        self._respond(now)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        The transport is gone: tell all who wait.

        @param reason: why, as the transport says.
        """
        for call in (self._timer, self._flushCall):
            if call is not None:
                call.cancel()
        self._timer = self._flushCall = None
        self._writable = False
        self.conversation.transportLost()
        former = self.state
        self._move("gone")
        cause = self._whyLost(None if reason is None else reason.value)
        if former is CarrierState.SUPERSEDED:
            self._superseded()
        elif former not in _ATTACHED:
            self.owner.notAccepted(cause)
        elif former in _KEEPING:
            self.owner.cut(self.connection, cause)
        else:
            self.connection.finish(cause)

    # IHalfCloseableProtocol

    def readConnectionLost(self) -> None:
        """The peer ended its direction of the stream."""
        self._act(self.conversation.peerEnded(self._clock.seconds()))
        self._flush()

    def writeConnectionLost(self) -> None:
        """Our direction of the stream is ended."""

    # IPushProducer, for the transport

    def pauseProducing(self) -> None:
        """The transport takes no more: messages wait where they are kept anyway."""
        self._writable = False

    def resumeProducing(self) -> None:
        """The transport takes more."""
        self._writable = True
        self.touch()

    def stopProducing(self) -> None:
        """The transport is closing; C{connectionLost} follows."""
        self._writable = False

    # For Connection and the owner

    @property
    def isEnding(self) -> bool:
        """Whether the session ends with the transport."""
        return self.state in _ENDING

    def sending(self) -> None:
        """The connection has begun to send, and nothing is at work."""
        if self._flushCall is None:
            self._flushCall = self._clock.callLater(0, self._flushDue)
            if not self._streaming:
                self._flush()

    def touch(self) -> None:
        """Send what may be due now."""
        if not self.busy and self.state is not CarrierState.GONE:
            self._flush()

    def hurry(self) -> None:
        """Send what there is, while what is at work goes on."""
        self._flush()
        self.transport.flush()

    def close(self, code: int, reason: str, after: float = 0.0) -> None:
        """Close in order, or at the deadline."""
        self._move("final")
        if self.closing is None:
            self.closing = closedByUs(code, reason)
        now, millis = self._clock.seconds(), round(after * 1000)
        self.conversation.close(now, code, reason, millis)
        self._schedule()
        self.touch()

    def deafen(self) -> None:
        """
        Take nothing of what still comes, so that it is not acknowledged; C{close} is to
        be called next.
        """
        self._move("deaf")
        self.conversation.reader.mute()

    def abort(self) -> None:
        """End the connection at once."""
        self._move("final")
        if self._reason is None:
            self._reason = ConnectionClosed("we aborted the connection")
        self.transport.abortConnection()

    def supersede(self, gone: Callable[[], None], *close: tuple[int, str, int]) -> None:
        """
        Leave the connection to a newer protocol.

        @param gone: called when our transport is gone.
        @param close: what the peer is told, as L{Conversation.supersede} takes it.
        """
        self._move("superseded")
        self._superseded = gone
        self.conversation.supersede(self._clock.seconds(), *close)
        self._schedule()
        self.touch()

    # Act

    def _act(self, events: list[Event]) -> None:
        """Act on what the conversation reports."""
        self.busy = True
        budget, traffic, dispatcher = self.owner.budget, self.owner.traffic, None
        if len(events) > FEW and self.state in _LISTENING:
            # Or each of them could take as long as all of them may.
            dispatcher = self.connection.dispatcher
            if dispatcher is not None and not dispatcher.gather():
                dispatcher = None
        try:
            for event in events:
                if type(event) is Messages:
                    if self.state in _LISTENING:
                        if traffic is not None:
                            traffic.messagesIn += len(event.data)
                            traffic.costIn += event.cost
                        self.connection.arrived(event)
                        if budget is not None and budget.full:
                            self.owner.overfull(self.connection)
                elif type(event) is Acknowledged:
                    if self.state in _ATTACHED:
                        self.connection.acknowledged()
                else:
                    self._actOn(event)
            if dispatcher is not None:
                dispatcher.work()
        finally:
            self.busy = False

    def _actOn(self, event: Event) -> None:
        """Act on one event that does not happen often."""
        match event:
            case Asked(_, messages) | Answered(_, messages, _):
                if self.state in _LISTENING:
                    self._count(len(messages.data), messages.cost)
                    self.connection.requests.called(event)
                    if self.owner.budget is not None and self.owner.budget.full:
                        self.owner.overfull(self.connection)
                elif isinstance(event, Answered):  # nobody else knows of these any more
                    reason = self._whyLost(self.closing)
                    self.connection.requests.notAnswered(event.waiters, reason)
            case Accepted(_, resumed):
                self.owner.accepted(self, resumed)
            case PeerClosed(code, reason, after):
                if self._reason is None:
                    self._reason = self.closing or self.owner.peerClosed(code, reason)
                    if isinstance(self._reason, ConnectionClosed):
                        self._reason.after = after / 1000
                kept = self.state in _KEEPING
                kept = kept and self.owner.keeps(self.connection, code)
                self._leave(kept, self._reason)
                self._schedule()
            case Broken(error):
                self._broken(error)

    def _count(self, count: int, cost: int) -> None:
        """Count messages that came."""
        traffic = self.owner.traffic
        if traffic is not None:
            traffic.messagesIn += count
            traffic.costIn += cost

    def _broken(self, reason: AESMError) -> None:
        """The conversation is over because of an error."""
        if self._reason is None or not isinstance(reason, ConnectionClosed):
            self._reason = reason
        # Who fell silent may come back, and so may who said that it would and did not
        # let the transport end in time; who breaks the rules would do it again.
        away = self.state is CarrierState.LEAVING and isinstance(
            reason, ConnectionClosed
        )
        kept = self.state in _KEEPING and (away or isinstance(reason, HeartbeatLost))
        self._leave(kept, self._reason)
        if self.conversation.state is ConversationState.BROKEN:
            self.transport.abortConnection()
        else:
            self._schedule()

    def _leave(self, kept: bool, reason: AESMError) -> None:
        """The transport will end, and with it the session, unless it is kept."""
        self._move("leaving" if kept else "final")
        if self.state in _ENDING:
            self.connection.unsendable(reason)

    def _whyLost(self, value: BaseException | None) -> AESMError:
        """Settle why the connection is over, with what the transport says."""
        if self._reason is not None:
            return self._reason
        if isinstance(value, AESMError):
            return value
        if isinstance(value, error.ConnectionDone) or value is None:
            return ConnectionClosed("the connection was closed")
        return ConnectionClosed(f"the connection was lost: {value}")

    # Transmit

    def _respond(self, now: float) -> None:
        """Send what follows from what was read, unless that can wait for more."""
        traffic = self.owner.traffic
        if traffic is not None and traffic.oldest:
            waited = max(0, time_ns() // 1000 - traffic.oldest)  # it may be set back
            traffic.acknowledged[waited.bit_length()] += 1
            traffic.acknowledgedMicros += waited
            traffic.oldest = 0
        if self.transport.moreToRead and self.conversation.mayWait(now):
            self._schedule()
        else:
            self._flush()

    def _flush(self) -> None:
        """Hand the transport what is due, if it takes it."""
        micros = 0
        if self.state in _ATTACHED:
            micros = self.connection.closeBatch()
        if not self._writable:
            return
        conversation = self.conversation
        budget = self._budget
        if micros:
            output = answer(conversation, micros, budget)
            if output:
                self.transport.write(output)
                return
        pieces = conversation.takeFrames(micros or time_ns() // 1000, budget)
        size = sum(map(len, pieces))
        if len(pieces) > 1 and size <= SHORT:
            # Or the first, mostly an ACK, would leave at once in a record of its own.
            pieces = [b"".join(pieces)]
        for frames in pieces:
            self.transport.write(frames)
        if size and budget < (BUDGET if self._heard else UNHEARD):
            self._budget *= 2
        if conversation.state is not _CONVERSATION_OPEN and conversation.ended:
            self._writable = False
            self.transport.unregisterProducer()
            if self._mayLeave:
                self._reason = self._reason or self.closing
                self.transport.leave()
            else:
                self.transport.endWriting()
        elif (
            size * MESSAGE_OVERHEAD > budget  # else it is not used up
            and self._writable
            and self._flushCall is None
            and conversation.sendable
        ):
            unheard = budget == UNHEARD and not self._heard
            delay = UNHEARD_DELAY if unheard else 0
            self._flushCall = self._clock.callLater(delay, self._flushDue)
        if not size:
            owed = conversation.signOfLifeBy
            if owed is not None and owed < self._wakeAt:
                self._schedule()

    @property
    def _mayLeave(self) -> bool:
        """
        Tell whether nothing that the peer could still say matters to who has closed.

        @see: docs/protocol.md, section 9
        """
        conversation = self.conversation
        return (
            self.owner.leaves
            and conversation.state is ConversationState.CLOSE_SENT
            and conversation.session.settled
            and conversation.reader.empty
        )

    def _flushDue(self) -> None:
        """Send what this turn of the event loop sent."""
        self._flushCall = None
        count = self.connection.session.outbox.count
        self._streaming = count > self._counted + 1
        self._counted = count
        self._flush()

    # Time

    def _schedule(self) -> None:
        """
        Have the one timer fire at the deadline, or before it: one that fires early
        finds nothing due and is set again, which costs less than to move it whenever
        something comes.
        """
        deadline = self.conversation.deadline
        if self.state is CarrierState.GONE or deadline == math.inf:
            return
        if self._timer is not None:
            # Or one that was set a moment later than it was due would be moved by each
            # read: to bring a call forward, Twisted looks through all that there are.
            if self._wakeAt <= deadline + LEAST_DELAY:
                return
            self._timer.cancel()
        now = self._clock.seconds()
        self._wakeAt = max(deadline, now + LEAST_DELAY)
        self._timer = self._clock.callLater(self._wakeAt - now, self._timedOut)

    def _timedOut(self) -> None:
        """See what is due."""
        self._timer, self._wakeAt = None, math.inf
        now, transport = self._clock.seconds(), self.transport
        self._act(self.conversation.tick(now, transport.taken, transport.takenSoFar()))
        self._flush()
        self._schedule()


classImplements(AESMProtocol, IProtocol, IHalfCloseableProtocol, IPushProducer)
