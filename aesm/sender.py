"""
The outgoing direction of a connection: who may send, when, and who hears that a
message has arrived.  Most of what a burst of small messages costs its sender is in
C{sendData}.
"""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed

from aesm.acknowledgement import Acknowledgement, Refusal, acknowledgementOf
from aesm.core.batch import MESSAGE_OVERHEAD
from aesm.errors import AESMError, ConnectionClosed, SendBufferFull
from aesm.stream import closedError
from aesm.waiting import Waiting

if TYPE_CHECKING:
    from aesm.core.outbox import Message
    from aesm.core.session import Session
    from aesm.core.turn import SharedTurn, Turn
    from aesm.dispatch import Dispatcher
    from aesm.messenger import Messenger
    from aesm.protocol import AESMProtocol

__all__ = ["Sender", "wallClock"]

NEVER = 1 << 64  # a count that is never acknowledged
SLOW_CONSUMER = 4000  # close code, PROTOCOL section 9
TURN = 1000  # microseconds of messages to send together, while nothing carries them


class Sender:
    """
    What a L{Connection<aesm.connection.Connection>} sends with.

    @ivar closeSlow: whether C{sendData} closes a peer whose send buffer is full.
    @ivar session: what counts the messages.
    @ivar dispatcher: hands packets to a handler; None leaves them in C{retrieved}.
    @ivar waiting: who waits for the peer; None while nobody ever did.
    """

    dispatcher: Dispatcher | None = None

    def __init__(
        self, messenger: Messenger, session: Session, closeSlow: bool = False
    ) -> None:
        """
        @param messenger: whom to tell.
        @param session: what counts the messages.
        @param closeSlow: whether C{sendData} closes a peer whose send buffer is full.
        """
        self.session = session
        self.closeSlow = closeSlow
        self._messenger = messenger
        self._protocol: AESMProtocol | None = None
        self._outbox = session.outbox
        self._turn: Turn | None = None  # what is sent now goes with it
        self._held = 0  # what the messenger knows to be held
        self.waiting: Waiting | None = None
        self._unsendable: AESMError | None = None  # why nothing can be sent
        self._reason: AESMError | None = None  # why it is over

    def closeWith(self, code: int, reason: str) -> None:
        """
        Close in order, with a code.

        @param code: PROTOCOL section 9.
        @param reason: words for the peer.
        """
        raise NotImplementedError

    # What users call

    def sendData(self, data: Message) -> Deferred[None]:
        """
        Send a message.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: fires once the peer has it: in its application's inbox, or its
            handler is done with it.  Cancelling it stops the waiting, not the
            message.  Fails with L{ConnectionClosed} if the peer may not have
            it; and, before anything is sent, with
            L{MessageTooBig<aesm.errors.MessageTooBig>} if it is larger than
            the peer takes, with L{SendBufferFull} if too much is
            unacknowledged (on a server with a handler: it closes that peer
            with code 4000 instead).
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        turn = self._turn
        if turn is not None and type(data) is turn.kind:
            body: Any = data
            room = turn.room - len(body) - MESSAGE_OVERHEAD
            if room >= 0 and (turn.kind is bytes or body.isascii()):
                # All of a burst but the first: this is all they cost.
                turn.room = room
                bodies = turn.bodies
                bodies.append(body)
                acknowledgement = Acknowledgement()
                acknowledgement.watcher = self
                acknowledgement.count = turn.first + len(bodies)
                return acknowledgement
        return self.send(data, self.closeSlow)

    def drain(self) -> Deferred[None]:
        """
        Wait until there is room to send.

        @return: fires once less than half of C{sendBuffer} is unacknowledged,
            at once if that is so; fails with L{ConnectionClosed} once the
            connection is over.
        """
        if self._unsendable is not None:
            return fail(closedError(self._unsendable))
        if self._outbox.roomy:
            return succeed(None)
        return self._waiters().drain()

    # What the server calls

    def send(self, data: Message, closeSlow: bool) -> Deferred[None]:
        """
        Send a message.

        @param data: the message.
        @param closeSlow: whether it is sent on behalf of somebody who serves many:
            a peer whose send buffer is full is closed with code 4000 then, and one
            that is gone is nobody's error.
        @return: as C{sendData}.
        """
        turn, protocol, outbox = self._turn, self._protocol, self._outbox
        acknowledgement = Acknowledgement()
        acknowledgement.watcher = self
        try:
            micros = self._beginTurn() if turn is None else turn.micros
            acknowledgement.count = outbox.add(data, micros)
        except AESMError as refused:
            return self._refuse(refused, closeSlow)
        if protocol is None:
            self.account()
        else:
            self._turn = outbox.open
            if turn is None and not protocol.busy:
                protocol.sending()
        return acknowledgement

    def join(self, shared: SharedTurn) -> int | None:
        """
        Send the last message that is sent to many, and those that come until the
        turn ends here; C{joined} is to be called next.

        @param shared: what is sent to many.
        @return: what there is to add to the number of such a message for that which
            it has in the session; None if each must be sent by C{send}.
        """
        if self._protocol is None:
            return None
        try:
            self._turn = None
            self._beginTurn()
        except AESMError:
            return None
        share = self._outbox.join(shared, self)
        return None if share is None else share.base

    def joined(self) -> None:
        """
        Let what was shared leave.
        """
        if self._protocol is not None and not self._protocol.busy:
            self._protocol.sending()

    def _beginTurn(self) -> int:
        """
        See whether messages may be sent in this turn of the event loop.

        @return: their time, microseconds since the Unix epoch.
        @raise AESMError: they may not.
        """
        if self._unsendable is not None:
            raise closedError(self._unsendable)
        budget = self._messenger.budget
        if budget is not None and budget.full and budget.refuses(self.held):
            raise SendBufferFull(
                "too much is unacknowledged or unread by all peers together: wait for "
                "drain(), or raise totalBuffer="
            )
        micros = time_ns() // 1000
        if self._protocol is None:
            self._outbox.endTurn(since=micros - TURN)
        elif self._protocol.closing is not None:
            raise ConnectionClosed("nothing can be sent: the connection is closing")
        elif self._outbox.open is not None:
            self._outbox.endTurn()  # which was shared, or is to be
        return micros

    def endTurn(self) -> int:
        """
        Let no later message share the time of those that were sent so far.

        @return: that time, microseconds since the Unix epoch; 0 without any.
        """
        turn = self._outbox.open
        if turn is not None:
            self._turn = None
            self._outbox.endTurn()
        if self._messenger.budget is not None:
            self.account()
        return 0 if turn is None else turn.micros

    def _refuse(self, refused: AESMError, closeSlow: bool) -> Deferred[None]:
        """
        Say that a message was not accepted.

        @param refused: why.
        @param closeSlow: as C{send}.
        @return: what C{send} returns.
        """
        if isinstance(refused, ConnectionClosed) and not closeSlow:
            return Refusal(refused)
        if closeSlow and isinstance(refused, SendBufferFull):
            self.closeWith(SLOW_CONSUMER, "slow consumer")
        elif not isinstance(refused, ConnectionClosed):
            return fail(refused)
        return acknowledgementOf(self, NEVER)

    @property
    def sends(self) -> bool:
        """
        Whether messages were sent that did not leave with a turn yet.
        """
        return self._outbox.open is not None

    @property
    def held(self) -> int:
        """
        The bytes of messages that are unacknowledged or not done with.
        """
        return self._outbox.kept + self.session.inbox.untaken

    def account(self) -> None:
        """
        Tell what is kept for the peer and for the handler; what is unread the
        registry knows.
        """
        budget = self._messenger.budget
        if budget is None:
            return
        held = 0
        if self._reason is None:
            held = self._outbox.kept
            if self.dispatcher is not None:
                inbox = self.session.inbox
                held += inbox.receivedCost - inbox.takenCost
        if held != self._held:
            budget.account(held - self._held)
            self._held = held

    # For Acknowledgement, and who carries it

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """
        Fire a Deferred once so many messages are acknowledged.

        @param acknowledgement: what to fire.
        @param count: messages from the session's start.
        """
        if count <= self._outbox.acknowledged:
            acknowledgement.callback(None)
        elif self._unsendable is not None:
            acknowledgement.errback(closedError(self._unsendable))
        else:
            self._waiters().watch(acknowledgement, count)

    def _waiters(self) -> Waiting:
        """
        Have a place for who waits.

        @return: the place.
        """
        if self.waiting is None:
            self.waiting = Waiting(self._outbox)
        return self.waiting

    def acknowledged(self) -> None:
        """
        The peer has more messages: tell who asked.
        """
        if self.waiting is not None:
            self.waiting.tell()


def wallClock() -> int:
    """
    Tell the time for the wire.

    @return: microseconds since the Unix epoch.
    """
    return time_ns() // 1000
