"""
The connection that users hold::

    await connection.sendData("hello")          # the peer has it
    packet = await connection.retrieved.get()
    await connection.close()

What carries the messages, and when, is L{aesm.protocol}'s business.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail, succeed

from aesm.acknowledgement import Acknowledgement, Refusal
from aesm.errors import AESMError, ConnectionClosed, SendBufferFull
from aesm.stream import DataStream, closedError

if TYPE_CHECKING:
    from threading import Lock

    from aesm.keys import PublicKey
    from aesm.protocol import AESMProtocol
    from aesm.registry import Address
    from aesm.stream import Arrivals

__all__ = ["Connection"]

NEVER = 1 << 64  # a count that is never acknowledged
NORMAL = 1000  # close codes, PROTOCOL section 9
SLOW_CONSUMER = 4000

_orderOfWatching = count()  # breaks ties between equal counts


class Connection:
    """
    A peer that messages can be exchanged with.

    @ivar address: the peer's, C{(host, port)} for TCP, else a string.
    @ivar peer: the peer's public key.
    @ivar peerName: what the authorized-keys file calls it, else None.
    @ivar suite: the Noise protocol name in use.
    @ivar handshakeHash: the handshake's hash, the same at both ends and at no
        other connection: for channel binding.
    @ivar retrieved: what came from the peer and nobody has taken yet.
    """

    def __init__(
        self,
        protocol: AESMProtocol,
        *,
        address: Address,
        peer: PublicKey,
        peerName: str | None,
        suite: str,
        handshakeHash: bytes,
        receiveBuffer: int,
        closeSlow: bool = False,
        lock: Lock | None = None,
        arrivals: Arrivals | None = None,
    ) -> None:
        """
        @param protocol: what carries the messages.
        @param address: the peer's.
        @param peer: the peer's public key.
        @param peerName: what the authorized-keys file calls it.
        @param suite: the Noise protocol name in use.
        @param handshakeHash: the handshake's hash.
        @param receiveBuffer: bytes that the peer may send ahead.
        @param closeSlow: whether C{sendData} closes a peer whose send buffer is
            full, because a handler serves many, and must wait for none.
        @param lock: the registry's, or None.
        @param arrivals: the registry's order of arrival, or None.
        """
        self.address = address
        self.peer = peer
        self.peerName = peerName
        self.suite = suite
        self.handshakeHash = handshakeHash
        self.retrieved = DataStream(self, receiveBuffer, lock, arrivals)
        self._closeSlow = closeSlow
        self._protocol = protocol
        self._outbox = protocol.conversation.session.outbox
        self._watched: list[tuple[int, int, Acknowledgement]] = []  # a heap
        self._draining: deque[Deferred[None]] = deque()
        self._closing: deque[Deferred[AESMError]] = deque()
        self._unsendable: AESMError | None = None  # why nothing can be sent
        self._reason: AESMError | None = None  # why it is over

    def __repr__(self) -> str:
        """
        Show who is there.
        """
        state = "open" if self._unsendable is None else "closed"
        return f"<Connection {self.address} {self.peer} {state}>"

    def __getitem__(self, key: str) -> object:
        """
        Look up what the original module kept under a name.

        @param key: C{"data"}, C{"connection"} or C{"encryption"}.
        @return: the stream of packets, this connection, or its secure channel.
        @raise KeyError: it is another one.
        """
        match key:
            case "data":
                return self.retrieved
            case "connection":
                return self
            case "encryption":
                return self._protocol.transport
        raise KeyError(key)

    # What users call

    def sendData(self, data: str | bytes | bytearray | memoryview) -> Deferred[None]:
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
        return (self.sendOrClose if self._closeSlow else self.sendOrFail)(data)

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
        draining: Deferred[None] = Deferred(self._draining.remove)
        self._draining.append(draining)
        return draining

    def close(self, reason: str = "") -> Deferred[None]:
        """
        Close in order: send what was accepted, tell the peer, and wait a
        bounded time (5 s) for its answer.

        @param reason: words for the peer, at most 1,024 bytes in UTF-8.
        @return: fires once the connection is gone.
        """
        self.closeWith(NORMAL, reason)
        return self.closed().addCallback(_forget)

    def abort(self) -> None:
        """
        End the connection at once; the peer is told nothing.
        """
        if self._reason is None:
            self._protocol.abort()

    def closed(self) -> Deferred[AESMError]:
        """
        Wait for the end.

        @return: fires with the reason once the connection is gone, at once if
            it is: a L{ConnectionClosed} (C{code} 1000 if it was closed in
            order), or what broke it.
        """
        if self._reason is not None:
            return succeed(self._reason)
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
        if self._reason is None:
            self._protocol.close(code, reason)

    def sendOrFail(self, data: str | bytes | bytearray | memoryview) -> Deferred[None]:
        """
        Send a message, or say why not.

        @param data: the message.
        @return: as C{sendData}.
        """
        try:
            return self._send(data)
        except ConnectionClosed as closed:
            return Refusal(closed)
        except AESMError as refused:
            return fail(refused)

    def sendOrClose(self, data: str | bytes | bytearray | memoryview) -> Deferred[None]:
        """
        Send a message on behalf of somebody who serves many: a peer whose send
        buffer is full is closed with code 4000, and one that is gone already
        is nobody's error.

        @param data: the message.
        @return: as C{sendData}, but for L{SendBufferFull}.
        """
        try:
            return self._send(data)
        except SendBufferFull:
            self.closeWith(SLOW_CONSUMER, "slow consumer")
        except ConnectionClosed:
            pass
        except AESMError as refused:
            return fail(refused)
        return Acknowledgement(self, NEVER)

    def _send(self, data: str | bytes | bytearray | memoryview) -> Deferred[None]:
        """
        Send a message.

        @param data: the message.
        @return: fires once the peer has it.
        @raise AESMError: it was not accepted.
        """
        if self._unsendable is not None:
            raise closedError(self._unsendable)
        return Acknowledgement(self, self._protocol.send(data))

    @property
    def isClosing(self) -> bool:
        """
        Whether nothing that is sent can be acknowledged any more.
        """
        return self._unsendable is not None

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
            entry = (count, next(_orderOfWatching), acknowledgement)
            heapq.heappush(self._watched, entry)

    def packetsTaken(self, cost: int) -> None:
        """
        The application has taken packets: the peer may send more.

        @param cost: what they cost.
        """
        self._protocol.taken(cost)

    def streamFinished(self) -> None:
        """
        The last packet was taken after the end.
        """
        self._protocol.finished(self)

    # For AESMProtocol

    def acknowledged(self) -> None:
        """
        The peer has more messages: tell who asked.
        """
        watched, done = self._watched, self._outbox.acknowledged
        while watched and watched[0][0] <= done:
            acknowledgement = heapq.heappop(watched)[2]
            if not acknowledgement.called:
                acknowledgement.callback(None)
        while self._draining and self._outbox.roomy:
            self._draining.popleft().callback(None)

    def unsendable(self, reason: AESMError) -> None:
        """
        Nothing more will be acknowledged: tell who waits.

        @param reason: why.
        """
        if self._unsendable is not None:
            return
        self._unsendable = reason
        watched, self._watched = self._watched, []
        for _, _, acknowledgement in sorted(watched):
            if not acknowledgement.called:
                acknowledgement.errback(closedError(reason))
        while self._draining:
            self._draining.popleft().errback(closedError(reason))

    def ended(self, reason: AESMError) -> None:
        """
        The connection is gone: tell who waits.

        @param reason: why.
        """
        self._reason = reason
        self.unsendable(reason)
        self.retrieved.end(reason)
        while self._closing:
            self._closing.popleft().callback(reason)


def _forget(result: object) -> None:
    """
    Turn any result into None.

    @param result: what to forget.
    """
