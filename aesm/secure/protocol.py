"""
The pump between a raw transport and the secure channel on it.

On the transport sits a L{SecureProtocol}: it feeds a
L{Channel<aesm.core.channel.channel.Channel>}, writes its output, acts on its events
and keeps its deadlines.  Its L{SecureFactory} decides on the peer and builds
the protocol inside, once the channel is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from twisted.internet import error
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.core.channel.channel import Channel
from aesm.core.channel.events import EndOfStream, Event, Failed, PeerIdentified
from aesm.core.channel.framing import MAX_PLAINTEXT
from aesm.core.channel.states import State
from aesm.errors import AESMError, HandshakeError, HandshakeTimeout, OfferRefused
from aesm.secure.factory import HANDSHAKE_TIMEOUT, SecureFactory
from aesm.secure.rawtransport import (
    AT_ONCE,
    RecordWriter,
    abort,
    closeForWriting,
    prepare,
)
from aesm.secure.transport import SecureTransport
from aesm.trust.keys import PublicKey

__all__ = ["CLOSE_TIMEOUT", "HANDSHAKE_TIMEOUT", "SecureFactory", "SecureProtocol"]

_log = Logger(namespace="aesm.secure")

CLOSE_TIMEOUT = 5.0  # seconds, docs/protocol.md, section 9

_PEER_ENDED = (State.PEER_ENDED, State.ENDED)
_OWN_ERROR = "our own side's decision, or protocol, failed; the log says how"


@implementer(IPushProducer, IHalfCloseableProtocol)
class SecureProtocol(Protocol):
    """
    The protocol on the raw transport.  As the raw transport's producer it is
    told when that can take no more, and then seals nothing.

    @ivar busy: whether what is at work will flush when it is done.
    @ivar channel: the secure channel.
    @ivar clock: keeps time.
    @ivar closed: whether nothing more is written to the raw transport.
    @ivar deadline: when the handshake must be done, in the clock's seconds.
    @ivar inner: the protocol inside, while the channel is open.
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
        self.busy = False
        self.channel = channel
        self.clock = factory.clock
        self.closed = False
        self.deadline = 0.0
        self.inner: IProtocol | None = None
        self.secureTransport = SecureTransport(self)
        self.writable = True
        self._timer: IDelayedCall | None = None  # handshake's, then the close's
        self._flushCall: IDelayedCall | None = None  # flushes what this turn writes
        self._decision: Deferred[None] | None = None
        self._reason: Failure | None = None
        self._listening = False  # the peer has said something, and is heard
        self._open = False  # the factory knows that the channel is open
        self._finishing = False  # close once all is written
        self._answered = False  # the peer ended its direction after ours

    # IProtocol, for the raw transport

    def connectionMade(self) -> None:
        """
        Start the handshake and its deadline.
        """
        self._full = prepare(self.transport)
        timeout = self.factory.handshakeTimeout
        self.deadline = self.clock.seconds() + timeout
        self._timer = self.clock.callLater(timeout, self._handshakeTimedOut)
        self._outlet = RecordWriter(self.transport)
        self._outlet.register(self)
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        """
        Pump bytes through the channel.

        @param data: at least one byte.
        """
        if self._listening or self._begin():
            self._outlet.atOnce = AT_ONCE
            self.secureTransport.moreToRead = len(data) >= self._full
            events = self.channel.receive(data)
            if self.channel.state is State.FAILED:
                self.secureTransport.stopWriting()
            self.act(events)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The raw transport is closed: tell all who wait.

        @param reason: why, as the raw transport says; told on if all is well.
        """
        self.closed = True
        self._listening = self.writable = False
        self._outlet.rest = ()
        self._stopTimer()
        if self._flushCall is not None:
            self._flushCall.cancel()
            self._flushCall = None
        self.secureTransport.stop()
        decision, self._decision = self._decision, None
        if decision is not None:
            self.guard(decision.cancel)
        for event in self.channel.transportEnded():
            self._settle(cast(Failed, event).error)
        self.guard(self.secureTransport.stopProducer)
        inner, self.inner = self.inner, None
        if inner is not None:
            if self._answered and reason.check(error.ConnectionLost):
                reason = Failure(error.ConnectionDone())  # it was faster to close
            self.guard(inner.connectionLost, self._reason or reason)
        self.factory.ended(self)

    # IHalfCloseableProtocol, for the raw transport

    def readConnectionLost(self) -> None:
        """
        The raw transport brings nothing more, which is in order only after the
        peer's end of stream.
        """
        if self.closed:
            self.transport.loseConnection()
        elif self.channel.state not in _PEER_ENDED and not self._outlet.broken:
            self.abort()

    def writeConnectionLost(self) -> None:
        """
        Our own half-close, after a refusal, is done.
        """

    # IPushProducer, for the raw transport

    def pauseProducing(self) -> None:
        """
        The raw transport takes no more: seal nothing, and stop who writes.
        """
        self.writable = False
        self.secureTransport.pauseProducer()

    def resumeProducing(self) -> None:
        """
        The raw transport takes more: the peer reads, so that a close in progress
        gets its full time again.
        """
        self.writable = True
        self._outlet.atOnce = AT_ONCE
        if self._open and self._timer is not None:
            self._timer.reset(CLOSE_TIMEOUT)
        self.flush()
        if self.writable:
            self.secureTransport.resumeProducer()

    def stopProducing(self) -> None:
        """
        The raw transport is closing; C{connectionLost} follows.
        """
        self.writable = False

    # For SecureTransport

    def written(self) -> None:
        """
        Bytes of the stream are queued, by nobody who will flush, or for a whole
        record.  The first of a quiet connection leave at once; later ones of the same
        turn of the event loop share records, but for no longer than fits in one: who
        writes until paused must be.
        """
        if self.channel.queued >= MAX_PLAINTEXT:
            self.flush()
        elif self._flushCall is None:
            self._flushCall = self.clock.callLater(0, self._flushDue)
            self.flush()

    def flush(self) -> None:
        """
        Seal what is queued, and hand it over as far as the raw transport takes
        it; then close, if it is time.
        """
        while self.writable and not self.closed:
            rest = self._outlet.rest
            records = rest or self.channel.takeRecords()
            if records and self._outlet.write(records):
                self.pauseProducing()
            if not rest and not self._outlet.rest:
                if self._finishing and self.writable:
                    self._close()
                return

    def end(self) -> None:
        """
        End our direction, after what is queued.
        """
        self.channel.endOfStream()
        if not self.busy:
            self.flush()

    def finish(self) -> None:
        """
        Close the raw transport once everything is written; abort it if the peer
        does not let it close in time.
        """
        self._finishing = True
        if self._timer is None:
            self.startCloseTimer()
        self.flush()

    def startCloseTimer(self) -> None:
        """
        Abort the connection if it is not gone in time, counted from now, or from
        when the peer last took something.
        """
        self._stopTimer()
        self._timer = self.clock.callLater(CLOSE_TIMEOUT, self._closeTimedOut)

    def abort(self, reason: Failure | None = None) -> None:
        """
        Close the raw transport at once.

        @param reason: what C{connectionLost} is to say, unless it knows better.
        """
        if self.secureTransport.over:
            return
        self.closed = True
        self._listening = False
        self._reason = self._reason or reason
        self.secureTransport.stop()
        abort(self.transport)
        self.guard(self.secureTransport.pauseProducer)

    def act(self, events: Iterable[Event]) -> None:
        """
        Act on what the channel reports, then send what that led to.

        @param events: in order.
        """
        wasBusy, self.busy = self.busy, True
        transport = self.secureTransport
        try:
            for event in events:
                if type(event) is not bytes:
                    self._actOn(event)
                elif transport.paused or transport.disconnecting:
                    transport.deliver(event)
                else:  # as nearly always: it is one call less
                    self.inner.dataReceived(event)  # type: ignore[union-attr]
        except Exception:
            self._broke(Failure())
        finally:
            self.busy = wasBusy
        if not wasBusy:
            self.flush()

    def guard(self, call: Callable[..., object], *args: object) -> None:
        """
        Call the application: an error in it ends this connection and no other.

        @param call: what to call.
        @param args: with what.
        """
        try:
            call(*args)
        except Exception:
            self._broke(Failure())

    def fail(self, reason: AESMError) -> None:
        """
        End the connection because of an error.

        @param reason: what C{connectionLost} is to say.
        """
        self._settle(reason)
        if isinstance(reason, OfferRefused):
            self._sayWhy()
        else:
            self.abort()

    # Parts

    def _begin(self) -> bool:
        """
        Listen to the peer's first bytes, unless the factory would rather not.

        @return: whether to.
        """
        if self.closed:
            return False
        self._listening = True
        refusal = self.factory.peerBegins(self)
        if refusal is not None:
            self.fail(refusal)
        return self._listening

    def _actOn(self, event: Event) -> None:
        """
        Act on one event that is no data.

        @param event: what the channel reports.
        """
        match event:
            case EndOfStream():
                self._answered = self.channel.state is State.ENDED
                self.secureTransport.deliver(event)
            case Failed(reason):
                self.fail(reason)
            case PeerIdentified(publicKey, payload):
                self._identified(PublicKey(publicKey), payload)
            case _:  # Opened
                self._opened()

    def _identified(self, publicKey: PublicKey, payload: bytes) -> None:
        """
        Ask for the decision on the peer, and read nothing until it is there.

        @param publicKey: the key that the peer has proved.
        @param payload: message 3's payload.
        """
        self.secureTransport.publicKey = publicKey
        decide = cast(Callable[..., Deferred[None]], self.factory.decide)
        decision = maybeDeferred(decide, self, publicKey, payload)
        self._decision = decision
        decision.addCallbacks(self._cbAccepted, self._ebRefused)
        decision.addErrback(self._broke)
        if self._decision is not None:
            cast(IPushProducer, self.transport).pauseProducing()

    def _cbAccepted(self, result: None) -> None:
        """
        Let the peer in.

        @param result: nothing.
        """
        if self._decided():
            events = self.channel.accept(self.factory.hello())
            if isinstance(events[-1], Failed):  # in what came meanwhile
                del events[:-1]
            self.act(events)

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
            reason = HandshakeError(_OWN_ERROR)
        self._settle(reason)
        self.channel.reject(self.factory.farewell(reason))
        self._sayWhy()

    def _decided(self) -> bool:
        """
        Read on after a decision.

        @return: whether it still matters.
        """
        if self._decision is None or self.closed:
            return False
        self._decision = None
        cast(IPushProducer, self.transport).resumeProducing()
        return True

    def _opened(self) -> None:
        """
        Build the inner protocol and give it its transport.
        """
        self._stopTimer()
        self.inner = self.factory.buildInner(self)
        if self.inner is None:
            self.fail(HandshakeError("nothing was built to run on the connection"))
            return
        self.inner.makeConnection(self.secureTransport)
        if self.inner is not None:  # it is not lost yet
            self._open = True
            self.factory.opened(self)

    def _sayWhy(self) -> None:
        """
        Send a refusal, and let the peer read it: closing at once could reset the
        connection before it has.  What it sends meanwhile is dropped.

        @see: docs/protocol.md, sections 2 and 3
        """
        output = self.channel.takeOutput()
        if self.closed or not output:
            self.abort()
            return
        self.closed = True
        self.startCloseTimer()
        transport = self.transport
        transport.write(output)
        cast(IConsumer, transport).unregisterProducer()
        closeForWriting(transport)

    def _close(self) -> None:
        """
        Close the raw transport: both directions are ended, and all is written.
        """
        self.closed = True
        cast(IConsumer, self.transport).unregisterProducer()
        self.transport.loseConnection()

    def _settle(self, reason: AESMError) -> None:
        """
        Settle why the connection is over, and tell the factory if it never
        was open.

        @param reason: why, unless that is settled already.
        """
        if self._reason is None:
            self._reason = Failure(reason)
            if not self._open:
                self.factory.failed(self, reason)

    def _broke(self, failure: Failure) -> None:
        """
        The application failed, or we did: end this connection.

        @param failure: how.
        """
        _log.failure("what runs on a secure channel failed", failure)
        failure.cleanFailure()  # its frames hold buffers
        if self._open:
            self.abort(failure)
        else:
            self.fail(HandshakeError(_OWN_ERROR))

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
        if self.writable and self.secureTransport.producing:
            self.startCloseTimer()  # it is our own side that is not done
        else:
            self.abort()

    def _stopTimer(self) -> None:
        """
        Stop the handshake's deadline, or the close's.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flushDue(self) -> None:
        """
        Send what this turn of the event loop wrote.
        """
        self._flushCall = None
        self._outlet.atOnce = AT_ONCE
        self.flush()
