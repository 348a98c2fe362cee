"""
The message layer on a transport: L{AESMProtocol} pumps a
L{Conversation<aesm.core.messages.conversation.Conversation>}, on any transport that
can half-close its stream, and tells a L{ConnectionOwner} and the
L{Connection<aesm.messages.connection.Connection>} what happens::

    protocol = AESMProtocol(owner, Conversation(...), connection, reactor)
    connection.attach(protocol, channel)
    protocol.makeConnection(secureTransport)

It goes with its transport.  The connection may be kept, for the next one.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import error
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.core.messages.conversation import Conversation
from aesm.core.messages.events import Accepted, Acknowledged, Broken, Event, PeerClosed
from aesm.core.messages.frames import MESSAGE_OVERHEAD, Messages
from aesm.core.messages.states import ConversationState
from aesm.errors import AESMError, ConnectionClosed, HeartbeatLost, closedByUs
from aesm.messages.connection import Connection, wallClock
from aesm.messages.owner import ConnectionOwner
from aesm.secure.protocol import CLOSE_TIMEOUT
from aesm.secure.transport import SecureTransport

__all__ = ["AESMProtocol"]

_OPEN = ConversationState.OPEN

LEAST_DELAY = 0.01  # seconds between two looks at a peer
PATIENCE = 0.001  # seconds that an ACK waits while there is more to be read
BUDGET = 262144  # bytes of messages handed to the transport at once
FIRST = 2048  # the same at first after a cut: half a record is worth nothing


def _cancel(call: IDelayedCall | None) -> None:
    """
    Cancel what may be over already.

    @param call: what to cancel, if anything.
    """
    if call is not None and call.active():
        call.cancel()


@implementer(IHalfCloseableProtocol, IPushProducer)
class AESMProtocol(Protocol):
    """
    Pumps a conversation.

    @ivar busy: whether what is at work will flush when it is done.
    @ivar conversation: the message layer.
    @ivar connection: what users hold; another one once a client's session was
        resumed.
    @ivar owner: whom to tell.
    @ivar closing: why, if it is we who close.
    @ivar final: whether the session ends with the transport.
    """

    transport: SecureTransport

    def __init__(
        self,
        owner: ConnectionOwner,
        conversation: Conversation,
        connection: Connection,
        clock: IReactorTime,
    ) -> None:
        """
        @param owner: whom to tell.
        @param conversation: a fresh conversation.
        @param connection: what users hold.
        @param clock: keeps time for deadlines.
        """
        self.conversation = conversation
        self.connection = connection
        self.owner = owner
        self.busy = False
        self.closing: ConnectionClosed | None = None
        self.final = False
        self._clock = clock
        self._heartbeat: IDelayedCall | None = None
        self._closeTimer: IDelayedCall | None = None
        self._late: IDelayedCall | None = None  # sends an ACK that could wait
        self._flushCall: IDelayedCall | None = None  # flushes what this turn sends
        self._streaming = False  # the last turn sent more than one message
        self._counted = 0  # messages that were sent before this turn
        self._writable = True
        self._budget = FIRST if connection.session.outbox.count else BUDGET
        self._ended = False  # our direction of the stream
        self._deaf = False  # messages are not taken any more
        self._superseded: Callable[[], None] | None = None  # there is a newer one
        self._reason: AESMError | None = None

    # IProtocol

    def connectionMade(self) -> None:
        """
        Start the heartbeat; a server says its WELCOME.
        """
        self.transport.registerProducer(self, True)
        self._schedule()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """
        Pump bytes through the conversation.

        @param data: at least one byte.
        """
        now, conversation = self._clock.seconds(), self.conversation
        messages = None if self._deaf else conversation.exchange(data, now)
        if messages is None:
            self._act(conversation.receive(data, now))
            return
        connection, budget = self.connection, self.owner.budget
        self.busy = True
        try:
            if connection.waiting is not None:
                connection.acknowledged()
            connection.arrived(messages)
            if budget is not None and budget.full:
                self.owner.overfull(connection)
        finally:
            self.busy = False
        self._respond()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        The transport is gone: tell all who wait.

        @param reason: why, as the transport says.
        """
        for call in (self._heartbeat, self._closeTimer, self._late, self._flushCall):
            _cancel(call)
        self._heartbeat = self._closeTimer = self._late = self._flushCall = None
        self._ended = True
        self._writable = False
        if self._superseded is not None:
            self._superseded()
            return
        cause = self._whyLost(None if reason is None else reason.value)
        connection, owner = self.connection, self.owner
        if self.final or not owner.keeps(connection):
            connection.finish(cause)
        else:
            connection.detach()
            owner.detached(connection, cause)

    # IHalfCloseableProtocol

    def readConnectionLost(self) -> None:
        """
        The peer ended its direction of the stream.
        """
        self._act(self.conversation.peerEnded())

    def writeConnectionLost(self) -> None:
        """
        Our direction of the stream is ended.
        """

    # IPushProducer, for the transport

    def pauseProducing(self) -> None:
        """
        The transport takes no more: messages wait where they are kept anyway.
        """
        self._writable = False

    def resumeProducing(self) -> None:
        """
        The transport takes more.
        """
        self._writable = True
        self.touch()

    def stopProducing(self) -> None:
        """
        The transport is closing; C{connectionLost} follows.
        """
        self._writable = False

    # For Connection and the owner

    @property
    def isOpen(self) -> bool:
        """
        Whether neither side closes.
        """
        return self.conversation.state is ConversationState.OPEN

    def sending(self) -> None:
        """
        The connection has begun to send, and nothing is at work.  The first message
        of a quiet one leaves at once; later ones of the same turn of the event loop
        go together, as all do that follow a turn of many.
        """
        if self._flushCall is None:
            self._flushCall = self._clock.callLater(0, self._flushDue)
            if not self._streaming:
                self._flush()

    def touch(self) -> None:
        """
        Send what may be due now.
        """
        if not self.busy and not self._ended:
            self._flush()

    def close(self, code: int, reason: str) -> None:
        """
        Close in order, or at the deadline.

        @param code: docs/protocol.md, section 9.
        @param reason: words for the peer.
        """
        self.final = True
        if self.closing is None:
            self.closing = closedByUs(code, reason)
        self.conversation.close(code, reason)
        self._startCloseTimer()
        self.touch()

    def shed(self, code: int, reason: str) -> None:
        """
        Close because there is no room: what still comes is not taken, and so not
        acknowledged.

        @param code: docs/protocol.md, section 9.
        @param reason: words for the peer.
        """
        self._deaf = True
        self.close(code, reason)

    def abort(self) -> None:
        """
        End the connection at once.
        """
        self.final = True
        if self._reason is None:
            self._reason = ConnectionClosed("we aborted the connection")
        self.transport.abortConnection()

    def supersede(self, gone: Callable[[], None]) -> None:
        """
        Leave the connection to a newer protocol.

        @param gone: called when our transport is gone.
        """
        self._superseded, self._deaf = gone, True
        self.conversation.supersede()
        self._startCloseTimer()
        self.touch()

    # Parts

    def _act(self, events: list[Event]) -> None:
        """
        Act on what the conversation reports, then send what that led to.

        @param events: in order.
        """
        self.busy = True
        budget = self.owner.budget
        try:
            for event in events:
                if type(event) is Messages:
                    if not self._deaf:
                        self.connection.arrived(event)
                        if budget is not None and budget.full:
                            self.owner.overfull(self.connection)
                elif type(event) is Acknowledged:
                    self.connection.acknowledged()
                else:
                    self._actOn(event)
        finally:
            self.busy = False
        self._respond()

    def _respond(self) -> None:
        """
        Send what follows from what was read.  If that is an ACK alone, and there is
        more to be read, it waits: one for each read would be an eighth of what a
        stream costs.
        """
        if (
            self.transport.moreToRead
            and self.conversation.state is _OPEN
            and not self.connection.sends
            and self.connection.session.inbox.roomy
        ):
            if self._late is None:
                self._late = self._clock.callLater(PATIENCE, self._flushLate)
        else:
            self._flush()

    def _flushLate(self) -> None:
        """
        Send the ACK that has waited.
        """
        self._late = None
        self.touch()

    def _actOn(self, event: Event) -> None:
        """
        Act on one event that does not happen often.

        @param event: what the conversation reports.
        """
        match event:
            case Accepted(_, resumed):
                self._budget = FIRST if resumed else BUDGET
                self.owner.accepted(self, resumed)
            case PeerClosed(code, reason):
                self._peerClosed(code, reason)
            case Broken(error):
                self._broken(error)

    def _peerClosed(self, code: int, reason: str) -> None:
        """
        The peer closes: nothing more will be acknowledged.

        @param code: docs/protocol.md, section 9.
        @param reason: the peer's words.
        """
        if self._reason is None:
            self._reason = self.closing or self.owner.peerClosed(code, reason)
        if self.final or not self.owner.keeps(self.connection, code):
            self.final = True
            self.connection.unsendable(self._reason)
        self._startCloseTimer()

    def _broken(self, reason: AESMError) -> None:
        """
        The conversation is over because of an error.

        @param reason: which.
        """
        self._reason = reason
        if not isinstance(reason, HeartbeatLost):
            self.final = True
            self.connection.unsendable(reason)
        if self.conversation.state is ConversationState.BROKEN:
            self.transport.abortConnection()
        else:
            self._startCloseTimer()

    def _whyLost(self, value: BaseException | None) -> AESMError:
        """
        Settle why the connection is over.

        @param value: what the transport says.
        @return: the reason.
        """
        if self._reason is not None:
            return self._reason
        if isinstance(value, AESMError):
            return value
        if isinstance(value, error.ConnectionDone) or value is None:
            return ConnectionClosed("the connection was closed")
        return ConnectionClosed(f"the connection was lost: {value}")

    def _flush(self) -> None:
        """
        Hand the transport what is due, if it takes it.
        """
        micros = 0
        if self._superseded is None:
            micros = self.connection.closeBatch()
        if self._ended or not self._writable:
            return
        conversation = self.conversation
        budget = self._budget
        if micros:
            output = conversation.answer(micros, budget)
            if output:
                self.transport.write(output)
                return
        size = 0
        for frames in conversation.takeFrames(micros or wallClock(), budget):
            self.transport.write(frames)
            size += len(frames)
        if size and budget < BUDGET:
            self._budget *= 2
        if conversation.state is not _OPEN and conversation.ended:
            self._ended = True
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
        elif (
            size * MESSAGE_OVERHEAD > budget  # else it is not used up
            and self._writable
            and self._flushCall is None
            and conversation.sendable
        ):
            self._flushCall = self._clock.callLater(0, self._flushDue)

    def _flushDue(self) -> None:
        """
        Send what this turn of the event loop sent.
        """
        self._flushCall = None
        count = self.connection.session.outbox.count
        self._streaming = count > self._counted + 1
        self._counted = count
        self._flush()

    def _schedule(self) -> None:
        """
        Look after the peer when there is reason to.
        """
        delay = self.conversation.nextTick - self._clock.seconds()
        self._heartbeat = self._clock.callLater(max(delay, LEAST_DELAY), self._tick)

    def _tick(self) -> None:
        """
        Look after the peer.
        """
        events = self.conversation.tick(self._clock.seconds())
        self._schedule()
        self._act(events)

    def _startCloseTimer(self) -> None:
        """
        Abort if the connection is not gone in time; there is no other reason left
        to look after the peer.
        """
        if self._closeTimer is None:
            _cancel(self._heartbeat)
            self._closeTimer = self._clock.callLater(CLOSE_TIMEOUT, self._closeTimedOut)

    def _closeTimedOut(self) -> None:
        """
        The peer did not answer our CLOSE, or we could not answer its own.
        """
        self._closeTimer = None
        if self._reason is None:
            self._reason = ConnectionClosed(
                f"{self.closing}; the peer did not answer within {CLOSE_TIMEOUT:g} "
                "seconds, and may not have what it did not acknowledge"
            )
        self.abort()
