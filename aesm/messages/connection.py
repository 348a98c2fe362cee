"""
The connection that users hold::

    await connection.sendData("hello")          # the peer has it
    packet = await connection.retrieved.get()
    await connection.close()

L{aesm.messages.protocol} carries the messages over a transport.  A session that is
resumed has one protocol after another, and none in between; the connection stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import time, time_ns
from typing import TYPE_CHECKING, Any, ClassVar, Final

from twisted.internet.defer import Deferred, fail, succeed

from aesm._mypyc import mypyc_attr
from aesm.core.messages.batch import Batch, Body, Message, SharedBatch
from aesm.core.messages.frames import MESSAGE_OVERHEAD, checkClose
from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    SendBufferFull,
    closedByUs,
    closedError,
)
from aesm.messages.acknowledgements import (
    NEVER,
    Acknowledgement,
    FailedAcknowledgement,
    PendingAcks,
    PromptAcknowledgement,
    acknowledgementOf,
    peerAway,
)
from aesm.messages.budget import releasableOf
from aesm.messages.deferred import ReactorDeferred
from aesm.messages.requests import Request, Requests, sendAgain
from aesm.messages.states import CONNECTION_TRANSITIONS, CarrierState, ConnectionState
from aesm.messages.stream import DataStream

if TYPE_CHECKING:
    from threading import RLock

    from aesm.core.channel.channel import Channel
    from aesm.core.messages.conversation import Conversation
    from aesm.core.messages.frames import EncodedResponse, Messages
    from aesm.core.messages.session import Session
    from aesm.messages.address import Address
    from aesm.messages.dispatcher import Dispatcher
    from aesm.messages.owner import ConnectionOwner
    from aesm.messages.protocol import AESMProtocol
    from aesm.messages.requests import Resender
    from aesm.messages.stream import Arrivals
    from aesm.trust.keys import PublicKey

_CLOSING: Final = frozenset({ConnectionState.UNSENDABLE, ConnectionState.OVER})
BATCH_MICROS: Final = 1000  # of messages to send together, while nothing carries them


@mypyc_attr(allow_interpreted_subclasses=True)
class Connection:
    """
    A peer that messages can be exchanged with, by C{sendData}, C{request}, C{drain},
    C{close}, C{abort} and C{closed}.  The other methods are for this package.

    @ivar address: the peer's, C{(host, port)} for TCP, else a string; another one
        after the session was resumed from there.
    @ivar peer: the peer's public key.
    @ivar peerName: what the authorized-keys file calls it, else None.
    @ivar suite: the Noise protocol name in use.
    @ivar handshakeHash: the handshake's hash, the same at both ends and at no
        other connection: for channel binding.  It is another one after the
        session was resumed.
    @ivar retrieved: the packets received from the peer and not taken yet.
    @ivar session: the counters of both directions.
    @ivar state: where in its life cycle the connection is.
    @ivar since: when its present transport began to carry it or, if there is none, when
        the last one was lost; Unix seconds.
    @ivar closeSlow: whether C{sendData} closes a peer whose send buffer is full.
    @ivar dispatcher: hands packets to a handler; None leaves them in C{retrieved}.
    @ivar batch: what is sent now goes with it, if it is of its kind, and there is room.
    @ivar waiting: those who wait for acknowledgements; None until there is one.
    @cvar requestsType: what C{requests} is made of.
    @ivar anyRequests: what is asked, and to be answered; None until there is any.
    """

    requestsType: ClassVar[type[Requests]] = Requests

    def __init__(
        self,
        owner: ConnectionOwner,
        session: Session,
        *,
        address: Address,
        peer: PublicKey,
        peerName: str | None,
        receiveBuffer: int,
        closeSlow: bool = False,
        lock: RLock | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        """
        @param owner: the server or client that is told of the life cycle.
        @param receiveBuffer: bytes of messages that the peer may send ahead.
        @param lock: the registry's lock for the stream; None makes one.
        @param arrivals: the registry's order of arrival, or None.
        """
        self.session = session
        self.dispatcher: Dispatcher | None = None
        self.suite, self.handshakeHash = "", b""
        self.closeSlow = closeSlow
        self._owner = owner
        self._protocol: AESMProtocol | None = None
        self._outbox = session.outbox
        self._outbox.traffic = owner.traffic
        self.batch: Batch | None = None
        self._accounted = 0  # what the owner knows to be kept
        self.waiting: PendingAcks | None = None
        self.anyRequests: Requests | None = None
        self.state = ConnectionState.DETACHED
        self.since = time()
        self._reason: AESMError | None = None  # why nothing can be sent, or it is over
        self.address, self.peer, self.peerName = address, peer, peerName
        self.retrieved = DataStream(self, receiveBuffer, lock, arrivals)
        self._closing: deque[Deferred[AESMError]] | None = None
        self._moved: Sequence[Deferred[None]] = ()  # acknowledgements of others' sends

    def __repr__(self) -> str:
        """Show address, key and state."""
        return f"<Connection {self.address} {self.peer} {self.state.value}>"

    def _move(self, what: str) -> None:
        """Make a transition of the table."""
        self.state = CONNECTION_TRANSITIONS[self.state, what]

    def __getitem__(self, key: str) -> object:
        """
        Look up what the original module kept under a name.

        @param key: C{"data"}, C{"connection"} or C{"encryption"}.
        @return: the stream of packets, this connection, or its secure channel,
            None while there is none.
        @raise KeyError: it is another one.
        """
        if key == "encryption":
            return None if self._protocol is None else self._protocol.transport
        return {"data": self.retrieved, "connection": self}[key]

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
        batch = self.batch
        if batch is not None and type(data) is batch.kind:
            body: Any = data
            room = batch.room - len(body) - MESSAGE_OVERHEAD
            if room >= 0 and (batch.kind is bytes or body.isascii()):
                # All of a burst but the first: this is all they cost.
                batch.room = room
                bodies = batch.bodies
                bodies.append(body)
                acknowledgement = Acknowledgement()
                acknowledgement.watcher = self
                acknowledgement.count = batch.first + len(bodies)
                return acknowledgement
        return self.send(data, self.closeSlow)

    def request(
        self, data: Message, timeout: float | None = None
    ) -> Deferred[str | bytes]:
        """
        Send a message that the other side is to answer.

        @param data: C{str} for text, bytes for binary.
        @param timeout: seconds; None to wait for as long as the session lasts.
        @return: fires with the answer, C{str} or bytes.  Cancelling it tells the other
            side that nobody waits any more.  Fails with
            L{RequestFailed<aesm.errors.RequestFailed>} if the other side refuses, with
            L{RequestTimeout<aesm.messages.requests.RequestTimeout>}, or as
            C{sendData}: the request may have been acted on or not.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        requests = self.anyRequests or self.requests
        return requests.request(data, timeout, self._owner.clock)

    @property
    def nextNumber(self) -> int:
        """
        The number that the next message or request will have: how many there were in
        this session.  An answer to what a former process asked is known by it.
        """
        return self._outbox.count

    def drain(self) -> Deferred[None]:
        """
        Wait until there is room to send.

        @return: fires once less than half of C{sendBuffer} is unacknowledged,
            at once if that is so; fails with L{ConnectionClosed} once the
            connection is over.
        """
        if self._reason is not None:
            return fail(closedError(self._reason))
        if self._outbox.roomy:
            return succeed(None)
        return self._waiters().drain()

    def close(self, reason: str = "") -> Deferred[None]:
        """
        Close in order: send what was accepted, tell the peer, and wait a
        bounded time (5 s) for its answer.  A client whose messages are acknowledged
        has no answer to wait for.

        @param reason: text for the peer, at most 1,024 bytes in UTF-8.
        @return: fires once the connection is gone.
        @raise TypeError: the reason is not text.
        """
        self.closeWith(CloseCode.NORMAL, reason)
        return self.closed().addCallback(lambda reason: None)

    def abort(self) -> None:
        """End the connection at once; the peer is told nothing."""
        if self._protocol is not None:
            self._protocol.abort()
        elif not self.isOver:
            self.finish(ConnectionClosed("we aborted the connection"))

    def closed(self) -> Deferred[AESMError]:
        """
        Wait for the end.

        @return: fires with the reason once the connection is gone, at once if
            it is: a L{ConnectionClosed} (C{code} 1000 if it was closed in
            order), or what broke it.
        """
        # Both: C{_reason} is set earlier, when nothing can be acknowledged any more.
        if self._reason is not None and self.isOver:
            return succeed(self._reason)
        if self._closing is None:
            self._closing = deque()
        closing: Deferred[AESMError] = ReactorDeferred(self._closing.remove)
        self._closing.append(closing)
        return closing

    # What the server calls

    def send(
        self, data: Message, closeSlow: bool, kind: type | None = None
    ) -> Deferred[None]:
        """
        Send a message.

        @param closeSlow: whether the sender serves many: then a peer whose send buffer
            is full is closed with code 4000, and one that is gone is not an error.
        @param kind: as L{Outbox.add}.
        @return: as C{sendData}.
        """
        # acknowledgementOf, without its call (StackCostTests.test_roundTrip).
        batch, protocol, outbox = self.batch, self._protocol, self._outbox
        acknowledgement = Acknowledgement()
        acknowledgement.watcher = self
        try:
            micros = self._beginBatch() if batch is None else batch.micros
            acknowledgement.count = outbox.add(data, micros, kind)
        except AESMError as refused:
            self.batch = None  # it may have been closed for want of room
            return self._refuse(refused, closeSlow)
        if protocol is None:
            self.account()
        else:
            self.batch = outbox.open
            if batch is None and not protocol.busy:
                protocol.sending()
        return acknowledgement

    def hurry(self) -> None:
        """Send what there is, while what is at work goes on."""
        if self._protocol is not None:
            self._protocol.hurry()

    def join(self, shared: SharedBatch) -> int | None:
        """
        Send the last message of a shared batch, and those that are added to it until
        the batch is closed here; C{joined} is to be called next.

        @return: what to add to the number of a shared message, counted from 1, for its
            number in this session; None if each must be sent by C{send}.
        """
        if self._protocol is None:
            return None
        try:
            self.batch = None
            self._beginBatch()
        except AESMError:
            return None
        share = self._outbox.join(shared, self)
        return None if share is None else share.base

    def joined(self) -> None:
        """Schedule the shared messages."""
        if self._protocol is not None and not self._protocol.busy:
            self._protocol.sending()

    def _beginBatch(self) -> int:
        """Check that messages may be sent in this turn, and tell their time."""
        if self._reason is not None:
            raise closedError(self._reason)
        budget = self._owner.budget
        if budget is not None and budget.full and budget.refuses(self.peer):
            raise SendBufferFull(
                "too much is unacknowledged or unread by all peers together: wait for "
                "drain(), or raise totalBuffer="
            )
        micros = time_ns() // 1000
        if self._protocol is None:
            # Nothing flushes, and so closes, the batch; its time would grow old.
            self._outbox.closeBatch(since=micros - BATCH_MICROS)
        elif self._protocol.closing is not None:
            raise ConnectionClosed("nothing can be sent: the connection is closing")
        elif self._outbox.open is not None:
            self._outbox.closeBatch()  # which was shared, or is to be
        return micros

    def closeBatch(self) -> int:
        """
        Close the open batch, so that no later message shares its time.

        @return: that time, microseconds since the Unix epoch; 0 without any.
        """
        batch = self._outbox.open
        if batch is not None:
            self.batch = None
            self._outbox.closeBatch()
        if self._owner.budget is not None:
            self.account()
        return 0 if batch is None else batch.micros

    def _refuse(self, refused: AESMError, closeSlow: bool) -> Deferred[None]:
        """Make what C{send} returns for a message that was not accepted."""
        # A peer that has gone is nobody's bug: its error is only for who looks.  That
        # the buffer is full, or the message too big, the sender has to know; but not
        # each time, since a peer may announce that any message is.
        if isinstance(refused, ConnectionClosed):
            if not closeSlow:
                return FailedAcknowledgement(refused)
        elif closeSlow and isinstance(refused, SendBufferFull):
            self._closeSlow()
        elif self._owner.tells(self.peer):
            return fail(refused)
        else:
            return FailedAcknowledgement(refused)
        return acknowledgementOf(self, NEVER)

    def _closeSlow(self) -> None:
        """
        Close a peer that does not take what it is sent.  What never left is dropped,
        since the CLOSE would have to wait for it; and nobody waits for the rest.
        """
        if self._protocol is not None:
            self._protocol.touch()
        self.batch = None
        self._withdraw()
        self.account()
        self.closeWith(CloseCode.SLOW_CONSUMER, "slow consumer")
        if self._protocol is not None and self._protocol.closing is not None:
            self.unsendable(self._protocol.closing)

    def account(self) -> None:
        """
        Tell the budget what is kept for the peer and for the handler; it asks the
        registry for what is unread.
        """
        budget = self._owner.budget
        if budget is not None:
            # A difference, so that the budget need not know its connections' sums.
            kept = releasableOf(self)
            if kept != self._accounted:
                budget.account(kept - self._accounted)
                self._accounted = kept

    def closeWith(self, code: int, reason: str, after: float = 0.0) -> None:
        """
        Close in order, with a code.

        @param code: docs/protocol.md, section 9.
        @param reason: text for the peer.
        @raise TypeError: the reason is not text, or the code no number.
        @raise ValueError: the code is not 0 to 65535.
        """
        checkClose(code, reason)
        if self._protocol is not None:
            self.closeBatch()
            self._protocol.close(code, reason, after)
        elif not self.isOver:
            self.finish(closedByUs(code, reason))

    @property
    def isClosing(self) -> bool:
        """Whether nothing that is sent can be acknowledged any more."""
        return self.state in _CLOSING

    @property
    def isOpen(self) -> bool:
        """Whether what is sent leaves now, and neither side closes."""
        return self._protocol is not None and self._protocol.state is CarrierState.OPEN

    @property
    def conversation(self) -> Conversation | None:
        """What goes over the present transport; None if there is none."""
        return None if self._protocol is None else self._protocol.conversation

    @property
    def isAttached(self) -> bool:
        """Whether there is a transport under it."""
        return self._protocol is not None

    @property
    def isEnding(self) -> bool:
        """Whether the session ends with the present transport."""
        return self._protocol is not None and self._protocol.isEnding

    @property
    def isOver(self) -> bool:
        """Whether the connection is gone."""
        return self.state is ConnectionState.OVER

    # For Acknowledgement and DataStream

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """Fire a Deferred once so many messages of the session are acknowledged."""
        if count <= self._outbox.acknowledged:
            acknowledgement.callback(None)
        elif 0 < count - self._outbox.count <= len(self._moved):
            self._moved[count - self._outbox.count - 1].chainDeferred(acknowledgement)
        elif self._reason is not None:
            acknowledgement.errback(closedError(self._reason))
        elif self._protocol is None and isinstance(
            acknowledgement, PromptAcknowledgement
        ):
            acknowledgement.errback(peerAway())
        else:
            self._waiters().watch(acknowledgement, count)

    @property
    def requests(self) -> Requests:
        """C{anyRequests}, made on first use."""
        if self.anyRequests is None:
            self.anyRequests = self.requestsType(self)
        return self.anyRequests

    def respond(self, request: Request, body: EncodedResponse) -> Deferred[None]:
        """Send what ends a request, as L{Requests.respond}."""
        return self.requests.respond(request, body)

    def _waiters(self) -> PendingAcks:
        """Return C{waiting}, made on first use."""
        if self.waiting is None:
            self.waiting = PendingAcks(self._outbox)
        return self.waiting

    def acknowledged(self) -> None:
        """Fire what waited for an ACK that has come."""
        if self.waiting is not None:
            self.waiting.fire()

    def away(self) -> None:
        """The peer is cut off for now: tell who waits only for peers that are there."""
        if self.waiting is not None:
            self.waiting.away()

    def packetsTaken(self, cost: int) -> None:
        """Let the peer send more: the application has taken packets of that cost."""
        self.session.inbox.take(cost)
        if self._protocol is not None:
            self._protocol.touch()

    def streamFinished(self) -> None:
        """Tell the owner that the last packet was taken after the end."""
        self._owner.finished(self)

    def handled(self, count: int, cost: int) -> None:
        """Acknowledge messages that the handler has finished."""
        # Inbox.keep and take, without their calls: a handler costs this for each turn
        # (StackCostTests.test_handler).
        inbox = self.session.inbox
        inbox.keptCount += count
        inbox.takenCost += cost
        if self._protocol is not None and not self._protocol.busy:
            self._protocol.touch()

    # For AESMProtocol, and who builds it

    def attach(self, protocol: AESMProtocol, channel: Channel) -> None:
        """
        Begin to be carried by a protocol.

        @param channel: the secure channel under it.
        """
        self._move("attached")
        self.since = time()
        protocol.attach(self, channel)
        self._protocol = protocol
        self._owner = protocol.owner
        self.suite, self.handshakeHash = channel.suite, channel.handshakeHash

    def detach(self) -> AESMProtocol | None:
        """
        Be carried by none from now on: what is sent waits.

        @return: the former protocol.
        """
        self._move("detached")
        self.since = time()
        protocol, self._protocol = self._protocol, None
        self.closeBatch()
        return protocol

    def arrived(self, messages: Messages) -> None:
        """Pass messages on to the handler or to C{retrieved}."""
        if self.dispatcher is not None:
            self.dispatcher.arrived(messages)
        else:
            # In C{retrieved} they are in the application's keeping, and acknowledged;
            # room for more there is once they are taken.
            self.session.inbox.keptCount += len(messages.data)
            self.retrieved.extend(messages.micros / 1e6, messages.data, messages.cost)

    def shed(self, code: int, reason: str) -> None:
        """
        Close a peer for which there is no room, or no trust any more: what still
        arrives is not taken, and so not acknowledged, and nothing is kept for it.
        """
        if self._protocol is not None:
            self.batch = None
            self._withdraw()
            self.deafen()
        self.closeWith(code, reason)
        if self._protocol is not None:
            self._drop()
            if not self.isOver:
                self.unsendable(closedByUs(code, reason))

    def deafen(self) -> None:
        """
        Have nothing taken, nor acknowledged, of what still comes; C{closeWith} is to be
        called next.
        """
        if self._protocol is not None:
            self._protocol.deafen()

    def unsendable(self, reason: AESMError) -> None:
        """Fail the waiters: nothing more will be acknowledged."""
        self._move("unsendable")
        self._fail(reason)

    def move(self, resender: Resender) -> None:
        """
        Send what never left otherwise, since this session is about to be over; its
        senders are told of that.
        """
        # Nobody keeps a list of the senders' Deferreds (L{LazyDeferred}): one that is
        # looked at later finds its message here by the number that it had.
        self.batch = None
        self._moved = sendAgain(self, resender, self._withdraw())
        if self.waiting is not None:
            for count, waiter in self.waiting.takePast(self._outbox.count):
                if not waiter.called:
                    self.watch(waiter, count)

    def _withdraw(self) -> list[Body]:
        """Take what never left out of the session."""
        return self._outbox.withdraw()

    def finish(self, reason: AESMError) -> None:
        """End the session and tell everybody who waits."""
        # First the state and the counters, then the callbacks, which may look at them;
        # the owner last, since it lets the connection go.
        self._move("finished")
        self._protocol = self.batch = None
        self._drop()
        self._fail(reason)
        self._reason = reason
        self.retrieved.end(reason)
        while self._closing:
            self._closing.popleft().callback(reason)
        self._owner.lost(self, reason)

    def _drop(self) -> None:
        """Let go of what is kept for the peer, and for the handler."""
        self._outbox.drop()
        if self.anyRequests is not None:
            self.anyRequests.end()
        self.session.inbox.partial = None
        self.account()
        if self.dispatcher is not None:
            self.dispatcher.stop()

    def _fail(self, reason: AESMError) -> None:
        """Fail those who wait; who comes later is told the first reason."""
        if self._reason is None:
            self._reason = reason
        if self.anyRequests is not None:
            self.anyRequests.fail(reason)
        if self.waiting is not None:
            self.waiting.fail(reason)
