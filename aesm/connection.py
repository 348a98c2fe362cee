"""
The connection that users hold::

    await connection.sendData("hello")          # the peer has it
    packet = await connection.retrieved.get()
    await connection.close()

What carries the messages, and when, is L{aesm.protocol}'s business; a session
that is resumed has one protocol after another, and between them none.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail, succeed

from aesm.acknowledgement import Acknowledgement, Refusal
from aesm.errors import AESMError, ConnectionClosed, SendBufferFull
from aesm.reasons import closedByUs
from aesm.stream import DataStream, closedError
from aesm.waiting import Waiting

if TYPE_CHECKING:
    from threading import Lock

    from aesm.core.channel import Channel
    from aesm.core.frames import Messages
    from aesm.core.outbox import Message
    from aesm.core.session import Session
    from aesm.dispatch import Dispatcher
    from aesm.keys import PublicKey
    from aesm.messenger import Messenger
    from aesm.protocol import AESMProtocol
    from aesm.registry import Address
    from aesm.stream import Arrivals

__all__ = ["Connection", "wallClock"]

NEVER = 1 << 64  # a count that is never acknowledged
NORMAL = 1000  # close codes, PROTOCOL section 9
SLOW_CONSUMER = 4000
TURN = 1000  # microseconds of messages to send together, while nothing carries them


class Connection:
    """
    A peer that messages can be exchanged with.

    @ivar address: the peer's, C{(host, port)} for TCP, else a string; another one
        after the session was resumed from there.
    @ivar peer: the peer's public key.
    @ivar peerName: what the authorized-keys file calls it, else None.
    @ivar suite: the Noise protocol name in use.
    @ivar handshakeHash: the handshake's hash, the same at both ends and at no
        other connection: for channel binding.  It is another one after the
        session was resumed.
    @ivar retrieved: what came from the peer and nobody has taken yet.
    @ivar session: what counts the messages.
    @ivar dispatcher: hands packets to a handler; None leaves them in C{retrieved}.
    """

    suite = ""
    handshakeHash = b""
    dispatcher: Dispatcher | None = None

    def __init__(
        self,
        messenger: Messenger,
        session: Session,
        *,
        address: Address,
        peer: PublicKey,
        peerName: str | None,
        receiveBuffer: int,
        closeSlow: bool = False,
        lock: Lock | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        """
        @param messenger: whom to tell.
        @param session: what counts the messages.
        @param address: the peer's.
        @param peer: the peer's public key.
        @param peerName: what the authorized-keys file calls it.
        @param receiveBuffer: bytes that the peer may send ahead.
        @param closeSlow: whether C{sendData} closes a peer whose send buffer is full.
        @param lock: the registry's, or None.
        @param arrivals: the registry's order of arrival, or None.
        """
        self.address = address
        self.peer = peer
        self.peerName = peerName
        self.session = session
        self.retrieved = DataStream(self, receiveBuffer, lock, arrivals)
        self._closeSlow = closeSlow
        self._messenger = messenger
        self._protocol: AESMProtocol | None = None
        self._outbox = session.outbox
        self._micros = 0  # this turn's time, once something was sent in it
        self._held = 0  # what the messenger knows to be held
        self._waiting: Waiting | None = None  # for the peer
        self._closing: deque[Deferred[AESMError]] | None = None
        self._unsendable: AESMError | None = None  # why nothing can be sent
        self._reason: AESMError | None = None  # why it is over

    def __repr__(self) -> str:
        """
        Show who is there.
        """
        state = "waiting" if self._protocol is None else "open"
        state = state if self._unsendable is None else "closed"
        return f"<Connection {self.address} {self.peer} {state}>"

    def __getitem__(self, key: str) -> object:
        """
        Look up what the original module kept under a name.

        @param key: C{"data"}, C{"connection"} or C{"encryption"}.
        @return: the stream of packets, this connection, or its secure channel,
            None while there is none.
        @raise KeyError: it is another one.
        """
        match key:
            case "data":
                return self.retrieved
            case "connection":
                return self
            case "encryption":
                return None if self._protocol is None else self._protocol.transport
        raise KeyError(key)

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
        return self.send(data, self._closeSlow)

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

    def close(self, reason: str = "") -> Deferred[None]:
        """
        Close in order: send what was accepted, tell the peer, and wait a
        bounded time (5 s) for its answer.

        @param reason: words for the peer, at most 1,024 bytes in UTF-8.
        @return: fires once the connection is gone.
        """
        self.closeWith(NORMAL, reason)
        return self.closed().addCallback(lambda reason: None)

    def abort(self) -> None:
        """
        End the connection at once; the peer is told nothing.
        """
        if self._protocol is not None:
            self._protocol.abort()
        elif self._reason is None:
            self.finish(ConnectionClosed("we aborted the connection"))

    def closed(self) -> Deferred[AESMError]:
        """
        Wait for the end.

        @return: fires with the reason once the connection is gone, at once if
            it is: a L{ConnectionClosed} (C{code} 1000 if it was closed in
            order), or what broke it.
        """
        if self._reason is not None:
            return succeed(self._reason)
        if self._closing is None:
            self._closing = deque()
        closing: Deferred[AESMError] = Deferred(self._closing.remove)
        self._closing.append(closing)
        return closing

    # What the server calls

    def closeWith(self, code: int, reason: str) -> None:
        """
        Close in order, with a code.

        @param code: PROTOCOL section 9.
        @param reason: words for the peer.
        @raise TypeError: the words are no text.
        """
        if not isinstance(reason, str):
            raise TypeError(f"a reason is str, not {type(reason).__name__}")
        if self._protocol is not None:
            self._micros = 0
            self._protocol.close(code, reason)
        elif self._reason is None:
            self.finish(closedByUs(code, reason))

    def send(self, data: Message, closeSlow: bool) -> Deferred[None]:
        """
        Send a message.

        @param data: the message.
        @param closeSlow: whether it is sent on behalf of somebody who serves many:
            a peer whose send buffer is full is closed with code 4000 then, and one
            that is gone is nobody's error.
        @return: as C{sendData}.
        """
        try:
            if self._micros:
                count = self._outbox.add(data, self._micros)
            else:
                count = self.sendFirst(data)
        except AESMError as refused:
            return self._refuse(refused, closeSlow)
        return Acknowledgement(self, count)

    def sendFirst(self, data: Message) -> int:
        """
        Send the first message of a turn of the event loop.

        @param data: the message.
        @return: how many messages have been accepted with it.
        @raise AESMError: it was not accepted.
        """
        if self._unsendable is not None:
            raise closedError(self._unsendable)
        budget, protocol, outbox = self._messenger.budget, self._protocol, self._outbox
        if budget is not None and budget.refuses(self.held):
            raise SendBufferFull(
                "too much is unacknowledged or unread by all peers together: wait for "
                "drain(), or raise totalBuffer="
            )
        if protocol is None:
            micros = wallClock()
            outbox.endTurn(since=micros - TURN)
            count = outbox.add(data, micros)
            self.account()
        elif protocol.closing is not None:
            raise ConnectionClosed("nothing can be sent: the connection is closing")
        else:
            micros = wallClock()
            count = outbox.add(data, micros)
            self._micros = micros
            protocol.sending()
        return count

    def endTurn(self) -> int:
        """
        Let no later message share the time of those that were sent so far.

        @return: that time, microseconds since the Unix epoch; 0 without any.
        """
        micros, self._micros = self._micros, 0
        self._outbox.endTurn()
        if self._messenger.budget is not None:
            self.account()
        return micros

    def _refuse(self, refused: AESMError, closeSlow: bool) -> Deferred[None]:
        """
        Say that a message was not accepted.

        @param refused: why.
        @param closeSlow: as C{send}.
        @return: what C{send} returns.
        """
        if isinstance(refused, ConnectionClosed):
            return Acknowledgement(self, NEVER) if closeSlow else Refusal(refused)
        if closeSlow and isinstance(refused, SendBufferFull):
            self.closeWith(SLOW_CONSUMER, "slow consumer")
            return Acknowledgement(self, NEVER)
        return fail(refused)

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
        held = 0 if self._reason is not None else self._outbox.kept
        if self.dispatcher is not None and self._reason is None:
            held += self.session.inbox.untaken
        if held != self._held:
            budget.account(held - self._held)
            self._held = held

    @property
    def isClosing(self) -> bool:
        """
        Whether nothing that is sent can be acknowledged any more.
        """
        return self._unsendable is not None

    @property
    def isOpen(self) -> bool:
        """
        Whether what is sent leaves now, and neither side closes.
        """
        return self._protocol is not None and self._protocol.isOpen

    @property
    def isAttached(self) -> bool:
        """
        Whether there is a transport under it.
        """
        return self._protocol is not None

    @property
    def isEnding(self) -> bool:
        """
        Whether its session ends with the transport that is under it.
        """
        return self._protocol is not None and self._protocol.final

    @property
    def isOver(self) -> bool:
        """
        Whether the connection is gone.
        """
        return self._reason is not None

    # For Acknowledgement and DataStream

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
        if self._waiting is None:
            self._waiting = Waiting(self._outbox)
        return self._waiting

    def packetsTaken(self, cost: int) -> None:
        """
        The application has taken packets: the peer may send more.

        @param cost: what they cost.
        """
        self.session.inbox.take(cost)
        if self._protocol is not None:
            self._protocol.touch()

    def streamFinished(self) -> None:
        """
        The last packet was taken after the end.
        """
        self._messenger.finished(self)

    def handled(self, count: int, cost: int) -> None:
        """
        The handler is done with messages.

        @param count: how many.
        @param cost: what they cost.
        """
        self.session.inbox.keep(count)
        self.packetsTaken(cost)

    # For AESMProtocol, and who builds it

    def attach(self, protocol: AESMProtocol, channel: Channel) -> None:
        """
        Be carried by a protocol from now on.

        @param protocol: the protocol.
        @param channel: the secure channel under it.
        """
        self._protocol = protocol
        self._messenger = protocol.messenger
        self.suite = channel.suite
        self.handshakeHash = channel.handshakeHash

    def detach(self) -> AESMProtocol | None:
        """
        Be carried by none: what is sent waits.

        @return: what carried it.
        """
        protocol, self._protocol = self._protocol, None
        self.endTurn()
        return protocol

    def acknowledged(self) -> None:
        """
        The peer has more messages: tell who asked.
        """
        if self._waiting is not None:
            self._waiting.tell()

    def arrived(self, messages: Messages) -> None:
        """
        Messages came.

        @param messages: one or more.
        """
        if self.dispatcher is not None:
            self.dispatcher.arrived(messages)
        else:
            self.session.inbox.keep(len(messages.data))
            self.retrieved.extend(messages.micros / 1e6, messages.data, messages.cost)

    def shed(self, code: int, reason: str) -> None:
        """
        Close because there is no room: what still comes is not taken, and so not
        acknowledged.

        @param code: PROTOCOL section 9.
        @param reason: words for the peer.
        """
        if self._protocol is not None:
            self._protocol.shed(code, reason)

    def unsendable(self, reason: AESMError) -> None:
        """
        Nothing more will be acknowledged: tell who waits.

        @param reason: why.
        """
        if self._unsendable is not None:
            return
        self._unsendable = reason
        if self._waiting is not None:
            self._waiting.fail(reason)

    def finish(self, reason: AESMError) -> None:
        """
        The session is over: tell who waits.

        @param reason: why.
        """
        self._protocol = None
        self._micros = 0
        self._outbox.drop()
        self._reason = reason
        self.account()
        if self.dispatcher is not None:
            self.dispatcher.stop()
        self.unsendable(reason)
        self.retrieved.end(reason)
        while self._closing:
            self._closing.popleft().callback(reason)
        self._messenger.lost(self, reason)


def wallClock() -> int:
    """
    Tell the time for the wire.

    @return: microseconds since the Unix epoch.
    """
    return time.time_ns() // 1000
