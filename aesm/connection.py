"""
The connection that users hold::

    await connection.sendData("hello")          # the peer has it
    packet = await connection.retrieved.get()
    await connection.close()

What carries the messages, and when, is L{aesm.protocol}'s business; a session
that is resumed has one protocol after another, and between them none.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed

from aesm.errors import AESMError, ConnectionClosed
from aesm.reasons import closedByUs
from aesm.sender import Sender
from aesm.stream import DataStream

if TYPE_CHECKING:
    from threading import Lock

    from aesm.core.channel import Channel
    from aesm.core.frames import Messages
    from aesm.core.session import Session
    from aesm.keys import PublicKey
    from aesm.messenger import Messenger
    from aesm.protocol import AESMProtocol
    from aesm.registry import Address
    from aesm.stream import Arrivals

__all__ = ["Connection"]

NORMAL = 1000  # close codes, PROTOCOL section 9


class Connection(Sender):
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
    """

    suite = ""
    handshakeHash = b""

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
        super().__init__(messenger, session, closeSlow)
        self.address = address
        self.peer = peer
        self.peerName = peerName
        self.retrieved = DataStream(self, receiveBuffer, lock, arrivals)
        self._closing: deque[Deferred[AESMError]] | None = None

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
            self.endTurn()
            self._protocol.close(code, reason)
        elif self._reason is None:
            self.finish(closedByUs(code, reason))

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
        inbox = self.session.inbox
        inbox.kept += count
        inbox.takenCost += cost
        if self._protocol is not None and not self._protocol.busy:
            self._protocol.touch()

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

    def arrived(self, messages: Messages) -> None:
        """
        Messages came.

        @param messages: one or more.
        """
        if self.dispatcher is not None:
            self.dispatcher.arrived(messages)
        else:
            self.session.inbox.kept += len(messages.data)
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
        if self.waiting is not None:
            self.waiting.fail(reason)

    def finish(self, reason: AESMError) -> None:
        """
        The session is over: tell who waits.

        @param reason: why.
        """
        self._protocol = self._turn = None
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
