"""
The pump between a raw transport and the secure channel on it.

On the transport sits a L{SecureProtocol}: it feeds a
L{Channel<aesm.core.channel.Channel>}, writes its output, acts on its events
and keeps its deadlines.  A L{SecureFactory} decides on the peer and builds
the protocol inside, once the channel is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from twisted.internet import error
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.core.channel import Channel, State
from aesm.core.events import (
    Data,
    EndOfStream,
    Event,
    Failed,
    Opened,
    PeerIdentified,
)
from aesm.errors import AESMError, HandshakeError, HandshakeTimeout
from aesm.keys import PublicKey
from aesm.transport import SecureTransport

__all__ = ["CLOSE_TIMEOUT", "HANDSHAKE_TIMEOUT", "SecureFactory", "SecureProtocol"]

_log = Logger(namespace="aesm.secure")

HANDSHAKE_TIMEOUT = 10.0  # seconds, PROTOCOL section 3
CLOSE_TIMEOUT = 5.0  # seconds, PROTOCOL section 9


class SecureFactory(Factory):
    """
    What a L{SecureProtocol} asks and tells; one for many connections.

    @ivar clock: keeps time for all of them.
    @ivar handshakeTimeout: seconds from a connection's start to its opening.
    """

    noisy = False

    def __init__(self, clock: IReactorTime, handshakeTimeout: float) -> None:
        """
        @param clock: keeps time.
        @param handshakeTimeout: seconds.
        @raise ValueError: the time is not above 0.
        """
        if not 0 < handshakeTimeout < float("inf"):
            raise ValueError(
                f"handshakeTimeout must be above 0, not {handshakeTimeout}"
            )
        self.clock = clock
        self.handshakeTimeout = handshakeTimeout

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Deferred[None] | None:
        """
        Decide on a peer.

        @param secure: the connection.
        @param publicKey: the key that the peer has proved.
        @param payload: message 3's payload at the server, else C{b""}.
        @return: None, or a Deferred of it, to go on.
        @raise AESMError: to refuse, also as the Deferred's failure.
        """
        raise NotImplementedError

    def buildInner(self, secure: SecureProtocol) -> IProtocol | None:
        """
        Build the protocol that runs inside, once the channel is open.

        @param secure: the connection.
        @return: the protocol, or None to abort the connection.
        """
        raise NotImplementedError

    def peerBegins(self, secure: SecureProtocol) -> AESMError | None:
        """
        Take note that a peer begins to speak, before any work is done for it.

        @param secure: the connection.
        @return: None to go on, or why not to.
        """
        return None

    def hello(self) -> bytes:
        """
        Say what a client's message 3 is to carry.

        @return: at most 2,048 bytes.
        """
        return b""

    def farewell(self, reason: AESMError) -> bytes:
        """
        Say what a server's refused peer is to read before the end of stream.

        @param reason: why it was refused.
        @return: bytes of the stream.
        """
        return b""

    def opened(self, secure: SecureProtocol) -> None:
        """
        Take note that the inner protocol has its transport.

        @param secure: the connection.
        """

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """
        Take note that a connection ended before it was open; called once.

        @param secure: the connection.
        @param reason: why.
        """

    def ended(self, secure: SecureProtocol) -> None:
        """
        Take note that a connection is gone, open or not; called last.

        @param secure: the connection.
        """


@implementer(IPushProducer)
class SecureProtocol(Protocol):
    """
    The protocol on the raw transport.  As the raw transport's producer it is
    told when that can take no more, and then seals nothing.

    @ivar channel: the secure channel.
    @ivar clock: keeps time.
    @ivar deadline: when the handshake must be done, in the clock's seconds.
    @ivar inner: the protocol inside, once the channel is open.
    @ivar secureTransport: the inner protocol's transport.
    @ivar writable: whether the raw transport takes more.
    """

    factory: SecureFactory
    transport: ITransport

    def __init__(self, factory: SecureFactory, channel: Channel) -> None:
        """
        @param factory: whom to ask and tell.
        @param channel: a fresh channel.
        """
        self.factory = factory
        self.channel = channel
        self.clock = factory.clock
        self.deadline = 0.0
        self.inner: IProtocol | None = None
        self.secureTransport = SecureTransport(self)
        self.writable = True
        self._timer: IDelayedCall | None = None  # handshake's, then the close's
        self._turn: IDelayedCall | None = None  # flushes what this turn writes
        self._decision: Deferred[None] | None = None
        self._reason: Failure | None = None
        self._begun = False  # the peer has said something
        self._busy = False  # what is at work will flush when it is done
        self._finishing = False  # nothing more is to be written

    # IProtocol, for the raw transport

    def connectionMade(self) -> None:
        """
        Start the handshake and its deadline.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        timeout = self.factory.handshakeTimeout
        self.deadline = self.clock.seconds() + timeout
        self._timer = self.clock.callLater(timeout, self._handshakeTimedOut)
        cast(IConsumer, self.transport).registerProducer(self, True)
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        """
        Pump bytes through the channel.

        @param data: at least one byte.
        """
        if not self._begun:
            self._begun = True
            refusal = self.factory.peerBegins(self)
            if refusal is not None:
                self.fail(refusal)
                return
        self.act(self.channel.receive(data))

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        The raw transport is closed: tell all who wait.

        @param reason: why, as the raw transport says.
        """
        self._finishing = True
        self._stopTimer()
        if self._turn is not None:
            self._turn.cancel()
        decision, self._decision = self._decision, None
        if decision is not None:
            decision.cancel()
        for event in self.channel.transportEnded():
            self._lost(cast(Failed, event).error)
        if self.inner is not None:
            self.secureTransport.ended()
            self.inner.connectionLost(self._reason or Failure(error.ConnectionDone()))
        self.factory.ended(self)

    # IPushProducer, for the raw transport

    def pauseProducing(self) -> None:
        """
        The raw transport takes no more: seal nothing, and stop who writes.
        """
        self.writable = False
        self.secureTransport.pauseProducer()

    def resumeProducing(self) -> None:
        """
        The raw transport takes more.
        """
        self.writable = True
        self.flush()
        if self.writable:
            self.secureTransport.resumeProducer()

    def stopProducing(self) -> None:
        """
        The raw transport is closing; C{connectionLost} follows.
        """
        self.writable = False

    # For SecureTransport

    def wrote(self) -> None:
        """
        Something was queued.  The first write of a quiet connection leaves at
        once; later ones of the same turn of the event loop share records.
        """
        if not self._busy and self._turn is None:
            self._turn = self.clock.callLater(0, self._endTurn)
            self.flush()

    def flush(self) -> None:
        """
        Seal what is queued, if the raw transport takes it.
        """
        if self.writable:
            self._writeAll()

    def end(self) -> None:
        """
        End our direction, after what is queued.
        """
        self.channel.endOfStream()
        self._writeAll()
        if self.channel.state is State.ENDED:
            self.finish()

    def finish(self) -> None:
        """
        Close the raw transport, now that nothing more is to be written; abort
        it if the peer does not let it close in time.
        """
        if not self._finishing:
            self._finishing = True
            self.startCloseTimer()
            cast(IConsumer, self.transport).unregisterProducer()
            self.transport.loseConnection()

    def startCloseTimer(self) -> None:
        """
        Abort the connection if it is not gone in time.
        """
        if self._timer is None:
            self._timer = self.clock.callLater(CLOSE_TIMEOUT, self._closeTimedOut)

    def abort(self, reason: Failure | None = None) -> None:
        """
        Close the raw transport at once.

        @param reason: what C{connectionLost} is to say, unless it has
            something to say already.
        """
        self._finishing = True
        self._reason = self._reason or reason
        if hasattr(self.transport, "abortConnection"):
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def act(self, events: Sequence[Event]) -> None:
        """
        Act on what the channel reports, then send what that led to.

        @param events: in order.
        """
        wasBusy, self._busy = self._busy, True
        try:
            for event in events:
                self._actOn(event)
        finally:
            self._busy = wasBusy
        if not wasBusy:
            self.flush()

    # Parts

    def _actOn(self, event: Event) -> None:
        """
        Act on one event.

        @param event: what the channel reports.
        """
        match event:
            case Data() | EndOfStream():
                self.secureTransport.deliver(event)
            case Failed(reason):
                self.fail(reason)
            case PeerIdentified(publicKey, payload):
                self._identified(PublicKey(publicKey), payload)
            case Opened():
                self._opened()

    def _identified(self, publicKey: PublicKey, payload: bytes) -> None:
        """
        Ask for the decision on the peer, and read nothing until it is there.

        @param publicKey: the key that the peer has proved.
        @param payload: message 3's payload.
        """
        self.secureTransport.publicKey = publicKey
        decision = maybeDeferred(self.factory.decide, self, publicKey, payload)
        self._decision = decision
        decision.addCallbacks(self._cbAccepted, self._ebRefused)
        if self._decision is not None:
            cast(IPushProducer, self.transport).pauseProducing()

    def _cbAccepted(self, result: None) -> None:
        """
        Let the peer in.

        @param result: nothing.
        """
        if self._decided():
            self.act(self.channel.accept(self.factory.hello()))

    def _ebRefused(self, failure: Failure) -> None:
        """
        Turn the peer away.

        @param failure: why: an L{AESMError}, or a bug of who decides.
        """
        if not self._decided():
            return
        reason = failure.value
        if not isinstance(reason, AESMError):
            _log.failure("the decision on a peer failed", failure)
            reason = HandshakeError(
                "the decision on the peer failed with an error of its own; the log "
                "has it"
            )
        self.channel.reject(self.factory.farewell(reason))
        self.fail(reason)

    def _decided(self) -> bool:
        """
        Read on after a decision.

        @return: whether it still matters.
        """
        if self._decision is None or self._finishing:
            return False
        self._decision = None
        cast(IPushProducer, self.transport).resumeProducing()
        return True

    def _opened(self) -> None:
        """
        Build the inner protocol and give it its transport.
        """
        self._stopTimer()
        inner = self.factory.buildInner(self)
        if inner is None:
            self.fail(HandshakeError("nothing was built to run on the connection"))
            return
        self.inner = inner
        inner.makeConnection(self.secureTransport)
        self.factory.opened(self)

    def fail(self, reason: AESMError) -> None:
        """
        End the connection because of an error.

        @param reason: what C{connectionLost} is to say.
        """
        self._lost(reason)
        output = self.channel.takeOutput()
        if output and not self._finishing:  # a refusal: PROTOCOL sections 2 and 3
            self.transport.write(output)
            self._linger()
        else:
            self.abort()

    def _lost(self, reason: AESMError) -> None:
        """
        Settle why the connection is over, and tell the factory if it never
        was open.

        @param reason: why, unless that is settled already.
        """
        if self._reason is None:
            self._reason = Failure(reason)
            if self.inner is None:
                self.factory.failed(self, reason)

    def _linger(self) -> None:
        """
        Let the peer read our last bytes: closing at once could reset the
        connection before it has.
        """
        self._finishing = True
        self._stopTimer()
        self.startCloseTimer()
        transport = self.transport
        cast(IConsumer, transport).unregisterProducer()
        if ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(
            transport
        ):
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def _handshakeTimedOut(self) -> None:
        """
        The handshake took too long.
        """
        self._timer = None
        self.fail(
            HandshakeTimeout(
                f"no handshake within {self.factory.handshakeTimeout:g} seconds: the "
                "other side accepts connections but does not answer as AESM/1 does"
            )
        )

    def _closeTimedOut(self) -> None:
        """
        The peer did not end its direction, or did not read, in time.
        """
        self._timer = None
        self.abort()

    def _stopTimer(self) -> None:
        """
        Stop the handshake's deadline, or the close's.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _endTurn(self) -> None:
        """
        Send what this turn of the event loop wrote.
        """
        self._turn = None
        self.flush()

    def _writeAll(self) -> None:
        """
        Hand everything to the raw transport, whether or not it takes more.
        """
        if not self._finishing:
            output = self.channel.takeOutput()
            if output:
                self.transport.write(output)
