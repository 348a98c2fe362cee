"""
The pump between a raw transport and the secure channel on it.

On the transport sits a L{SecureProtocol}: it feeds a
L{Channel<aesm.core.channel.channel.Channel>}, writes its output, acts on its events
and keeps its deadlines.  Its L{SecureFactory} decides on the peer and builds
the protocol inside, once the channel is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, cast

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import classImplements

from aesm.core.channel.channel import Channel
from aesm.core.channel.events import EndOfStream, Event, Failed, PeerIdentified
from aesm.core.channel.framing import MAX_PLAINTEXT
from aesm.core.channel.states import State
from aesm.errors import (
    AESMError,
    HandshakeError,
    HandshakeTimeout,
    NotAnAESMPeer,
    NothingSaid,
)
from aesm.secure.factory import SecureFactory
from aesm.secure.rawtransport import (
    AT_ONCE,
    LARGE_READ,
    READ_SIZE,
    RecordWriter,
    abort,
    closeForWriting,
    prepare,
    readAtOnce,
)
from aesm.secure.states import HEARD, OPENED, PHASE_TRANSITIONS, WRITES, Phase
from aesm.secure.transport import SecureTransport
from aesm.trust.keys import PublicKey

_log: Final = Logger(namespace="aesm.secure")

CLOSE_TIMEOUT: Final = 5.0  # seconds, docs/protocol.md, section 9
RECORDS_AT_ONCE: Final = 32  # that are read before others have their turn

_PEER_ENDED: Final = frozenset({State.PEER_ENDED, State.ENDED})
_OWN_ERROR: Final = "our own side's decision, or protocol, failed; the log says how"

# Looked at for each read and write; up to Python 3.11 a member of an Enum costs five
# times as much as a name.
_FAILED: Final = State.FAILED
_FINISHING: Final = Phase.FINISHING

# Three steps, for whatever happens: receive (dataReceived gives the channel what came),
# act (on each of its events; here the factory and the protocol inside are called), and
# transmit (flush seals what is queued and hands it to the raw transport).  Where we are
# is the phase (aesm.secure.states), and its one timer is the handshake's deadline until
# the factory knows how that came out, and the close's from then on.
#
# Back-pressure.  The raw transport says by pauseProducing that it takes no more.  From
# then on nothing is sealed, so that what is written meanwhile leaves in few, full
# records, and the inner protocol's producer is paused.  It is resumed only once all
# that waited is handed over: one record more would only be paused for again.
#
# Batching.  What is written while events are acted on leaves when all are (busy).  What
# is written at other times leaves at once if it is the first of its turn of the event
# loop, since nobody knows whether more will come; the rest of the turn shares records,
# which are sealed at its end (turnOver), by one call for all connections of a factory.


class SecureProtocol:
    """
    The protocol on the raw transport.  As the raw transport's producer it is
    told when that can take no more, and then seals nothing.

    @ivar busy: whether events are acted on, which ends in a C{flush}.
    @ivar channel: the secure channel.
    @ivar clock: schedules the timers.
    @ivar deadline: when the handshake must be done, in the clock's seconds.
    @ivar inner: the protocol inside, while the channel is open.
    @ivar phase: where the connection is in its life.
    @ivar secureTransport: the inner protocol's transport.
    @ivar writable: whether the raw transport takes more.
    """

    factory: SecureFactory
    transport: ITransport

    def __init__(self, factory: SecureFactory, channel: Channel) -> None:
        self.factory = factory
        self.busy = False
        self.channel = channel
        channel.atOnce = RECORDS_AT_ONCE
        self.clock = factory.clock
        self.deadline = 0.0
        self.inner: IProtocol | None = None
        self.phase = Phase.HANDSHAKE if channel.speaksFirst else Phase.SILENT
        self.secureTransport = SecureTransport(self)
        self.writable = True
        self._timer: IDelayedCall | None = None
        self._wrote = False  # in this turn of the event loop
        self._decision: Deferred[None] | None = None  # to be cancelled
        self._reason: Failure | None = None  # why the connection is over
        self._told = False  # the factory knows: opened, or failed
        self._answered = False  # the peer ended its direction after ours

    # IProtocol, for the raw transport

    def makeConnection(self, transport: ITransport) -> None:
        """Begin."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        """Start the handshake and its deadline."""
        timeout = self.factory.handshakeTimeout
        self.deadline = self.clock.seconds() + timeout
        self._timer = self.clock.callLater(timeout, self._timedOut)
        self._full = prepare(self.transport)
        self._outlet = RecordWriter(self.transport)
        if not self._outlet.register(cast(IPushProducer, self)):
            self.flush()

    def dataReceived(self, data: bytes) -> None:
        """Pump bytes through the channel."""
        if self.phase in HEARD or self._begin():
            self._outlet.atOnce = AT_ONCE
            channel, transport = self.channel, self.secureTransport
            if channel.resting:
                self._wake()
            events = channel.receive(data)
            size, full = len(data), self._full
            transport.moreToRead = channel.more or size >= full
            if full == READ_SIZE and size >= full:
                self._full = readAtOnce(self.transport, LARGE_READ)
            elif full == LARGE_READ and size < READ_SIZE:
                self._full = readAtOnce(self.transport, READ_SIZE)
            if channel.state is _FAILED:
                # Now, not when that event's turn comes: what the protocol inside
                # writes on the events before it has no channel any more.
                transport.stopWriting()
            self.act(events)
            if channel.more:
                transport.readLater()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The raw transport is closed: tell all who wait.

        @param reason: told on to the protocol inside, unless we know a better one.
        """
        # What is below us, for TLS or a PROXY header, hangs up on who speaks something
        # else, and we see none of that.
        hungUp = self.phase is Phase.SILENT and (
            getattr(self.transport, "disconnecting", False)
            or not reason.check(error.ConnectionClosed)
        )
        self._move("lost")
        self.writable = False
        self._outlet.rest = ()
        self._stopTimer()
        decision, self._decision = self._decision, None
        if decision is not None:
            self.guard(decision.cancel)
        for event in self.channel.transportEnded():
            ended = cast(Failed, event).error
            if hungUp and isinstance(ended, NothingSaid):
                said = reason.value  # by what is below us, if that is ours
                ended = said if isinstance(said, NotAnAESMPeer) else _foreign()
            self._settle(ended)
        inner, self.inner = self.inner, None  # a cycle that nothing else breaks
        if self._answered and reason.check(error.ConnectionLost):
            # The peer has read all and was faster to close: nothing is lost.
            reason = connectionDone
        self.guard(self.secureTransport.lost, inner, self._reason or reason)
        self.factory.ended(self)

    # IHalfCloseableProtocol, for the raw transport

    def readConnectionLost(self) -> None:
        """The raw transport brings nothing more: in order after the peer's end."""
        if self.phase in WRITES:
            if self.channel.state not in _PEER_ENDED and not self._outlet.broken:
                self.abort()
        elif self.writable:
            self._outlet.close()
        else:
            self.transport.loseConnection()  # after a refusal that it may have still

    def writeConnectionLost(self) -> None:
        """Our own half-close, after a refusal, is done."""

    # IPushProducer, for the raw transport

    def pauseProducing(self) -> None:
        """The raw transport takes no more: seal nothing, and pause the producer."""
        self.writable = False
        self.secureTransport.pauseProducer()

    def resumeProducing(self) -> None:
        """
        The raw transport takes more: the peer reads, so that a close in progress
        gets its full time again.
        """
        if not self.writable:
            self.secureTransport.taken = self.clock.seconds()
        self.writable = True
        self._outlet.atOnce = AT_ONCE
        if self.phase in OPENED and self._timer is not None:
            self._timer.reset(CLOSE_TIMEOUT)
        self.flush()
        if self.writable and self.inner is not None:  # who alone has a producer
            self.secureTransport.resumeProducer()

    def stopProducing(self) -> None:
        """The raw transport is closing; C{connectionLost} follows."""
        self.writable = False

    # For SecureTransport

    def written(self) -> None:
        """
        Bytes of the stream are queued, and nobody is busy who would flush them, or
        they fill a record.
        """
        if self.channel.queued >= MAX_PLAINTEXT:
            # A producer that writes until it is paused has to be.
            self.flush()
        elif not self._wrote:
            self._wrote, factory = True, self.factory
            if factory.turn is None:
                factory.writers = {}
                factory.turn = self.clock.callLater(0, factory.turnOver)
            factory.writers[self] = None
            self.flush()

    def end(self) -> None:
        """End our direction, after what is queued."""
        self.channel.endOfStream()
        if not self.busy:
            self.flush()

    def finish(self) -> None:
        """
        Close the raw transport once everything is written, the peer's end or not;
        abort it if the peer does not let it close in time.
        """
        if self._move("finished"):
            if self._timer is None:  # loseConnection starts it sooner
                self.startCloseTimer()
            self.flush()

    def startCloseTimer(self) -> None:
        """
        Abort the connection if it is not gone in time, counted from now, or from
        when the peer last took something.
        """
        self._stopTimer()
        self._timer = self.clock.callLater(CLOSE_TIMEOUT, self._timedOut)

    def guard(self, call: Callable[..., object], *args: object) -> None:
        """Call the application: an error in it ends this connection and no other."""
        try:
            call(*args)
        except Exception:
            self._broke(Failure())

    # For the factory, too

    def abort(self, reason: Failure | None = None) -> None:
        """
        Close the raw transport at once.

        @param reason: what C{connectionLost} is to say, unless it knows better.
        """
        if self._move("aborted"):
            self._reason = self._reason or reason
            self.secureTransport.stop()
            abort(self.transport)
            self.guard(self.secureTransport.pauseProducer)

    def fail(self, reason: AESMError) -> None:
        """
        Abort the connection because of an error.

        @param reason: what C{connectionLost} is to say.
        """
        self._settle(reason)
        self.abort()

    def turnOver(self) -> None:
        """Send what this turn of the event loop wrote, and did not leave at once."""
        self._wrote = False
        self._outlet.atOnce = AT_ONCE
        if self.channel.queued:
            self.guard(self.flush)  # others wait for their turn

    # Act

    def act(self, events: Iterable[Event]) -> None:
        """Act on what the channel reports, then send what that led to."""
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

    def _actOn(self, event: Event) -> None:
        """Act on one event that is no data."""
        match event:
            case EndOfStream():
                self._answered = self.channel.state is State.ENDED
                self.secureTransport.deliver(event)
            case Failed(reason):
                self._settle(reason)
                self._refuse()
            case PeerIdentified(raw, payload):
                self._identified(raw, payload)
            case _:  # Opened
                self._opened()

    def _begin(self) -> bool:
        """Listen to the peer's first bytes, unless the factory would rather not."""
        if self.phase is not Phase.SILENT:
            return False
        self._move("peerBegan")
        refusal = self.factory.peerBegins(self)
        if refusal is not None:
            self.fail(refusal)
        return self.phase in HEARD

    def _identified(self, raw: bytes, payload: bytes) -> None:
        """Ask for the decision on the peer, and read nothing until it is there."""
        self._move("peerIdentified")
        self.secureTransport.publicKey = publicKey = PublicKey(raw)
        try:
            decision = self.factory.decide(self, publicKey, payload)
        except Exception:
            self._ebRefused(Failure())
            return
        if decision is None:  # as most often
            self._cbAccepted(None)
            return
        self._decision = decision
        decision.addCallbacks(self._cbAccepted, self._ebRefused)
        decision.addErrback(self._broke)
        if self._decision is not None:
            cast(IPushProducer, self.transport).pauseProducing()

    def _cbAccepted(self, result: None) -> None:
        """Let the peer in."""
        if self._decided():
            events = self.channel.accept(self.factory.hello())
            if events and isinstance(events[-1], Failed):
                # What it sent before it was let in does not authenticate: the
                # application is not to see anything of such a peer.
                del events[:-1]
            self.act(events)
            if self.channel.more:
                self.secureTransport.readLater()

    def _ebRefused(self, failure: Failure) -> None:
        """Turn the peer away, for an L{AESMError} or a bug of who decides."""
        if not self._decided():
            return
        reason = failure.value
        if not isinstance(reason, AESMError):
            _log.failure("the decision on a peer failed", failure)
            reason = HandshakeError(_OWN_ERROR)
        self._settle(reason)
        self.channel.reject(self.factory.farewell(reason))
        self._refuse()

    def _decided(self) -> bool:
        """Read on after a decision, if that still matters."""
        if self.phase is not Phase.DECISION:
            return False
        if self._decision is not None:  # it was waited for
            self._decision = None
            cast(IPushProducer, self.transport).resumeProducing()
        return True

    def _wake(self) -> None:
        """Have ourselves looked after until we rest."""
        self.channel.resting = False
        self.factory.woke(self)

    def _opened(self) -> None:
        """Build the inner protocol and give it its transport."""
        self._move("opened")
        self._stopTimer()
        self.inner = self.factory.buildInner(self)
        if self.inner is None:
            self.fail(HandshakeError("nothing was built to run on the connection"))
            return
        self.inner.makeConnection(self.secureTransport)
        # By now it may have closed or aborted the connection: that it was there is
        # reported all the same, since somebody waits for it.  Only what has failed,
        # or is gone, is reported as that.
        if self.inner is not None and not self._told:
            self._told = True
            self.factory.opened(self)

    def _refuse(self) -> None:
        """Send a refusal, if there is one, and give the peer time to read it."""
        refusal = self.channel.takeOutput()  # a channel that failed has none else
        if not refusal:
            self.abort()
            return
        self._move("refused")
        self.startCloseTimer()
        self.writable = False  # the transport has that
        self.transport.write(refusal)
        cast(IConsumer, self.transport).unregisterProducer()
        closeForWriting(self.transport)

    def _settle(self, reason: AESMError) -> None:
        """Settle why the connection is over, once, and tell a factory that waits."""
        if self._reason is None:
            self._reason = Failure(reason)
        if not self._told:
            self._told = True
            self.factory.failed(self, reason)

    def _broke(self, failure: Failure) -> None:
        """The application failed, or we did: end this connection."""
        _log.failure("what runs on a secure channel failed", failure)
        failure.cleanFailure()  # its frames hold buffers
        if self._told:
            self.abort(failure)
        else:
            self.fail(HandshakeError(_OWN_ERROR))

    # Transmit

    def flush(self) -> None:
        """
        Seal what is queued, and hand it over as far as the raw transport takes
        it; then close, if it is time.
        """
        while self.writable and self.phase in WRITES:
            # What was not handed over the last time goes first; it is sealed, and
            # sealing has fixed its order.
            rest = self._outlet.rest
            records = rest or self.channel.takeRecords()
            if self.channel.resting and records:
                self._wake()
            if records and self._outlet.write(records):
                self.pauseProducing()
            if not rest and not self._outlet.rest:
                if self.phase is _FINISHING and self.writable:
                    self._close()
                return

    def _close(self) -> None:
        """
        Close the raw transport: all is written.  If the peer has not ended its
        direction it is only we who are done: to close at once would reset the
        connection if anything still comes, and the peer might not read what we wrote.
        """
        cast(IConsumer, self.transport).unregisterProducer()
        if self.channel.state is State.ENDED:
            self._move("written")
            self._outlet.close()
        else:
            self._move("left")
            self.secureTransport.stop()
            self._outlet.closeForWriting()
            # Later, as TCP does: the protocol is in the middle of what made it leave.
            self.clock.callLater(0, self._tellLeft)

    def _tellLeft(self) -> None:
        """Tell the protocol inside that it is done, unless it knows."""
        inner, self.inner = self.inner, None
        if inner is not None:
            self.guard(inner.connectionLost, connectionDone)

    # Phase and timer

    def _move(self, what: str) -> bool:
        """Go where the table says; tell whether that is somewhere else."""
        former = self.phase
        self.phase = PHASE_TRANSITIONS[former, what]
        return self.phase is not former

    def _stopTimer(self) -> None:
        """Wait for nothing, or for ever."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timedOut(self) -> None:
        """The handshake, the peer's end, or its reading, took too long."""
        self._timer = None
        if not self._told:
            self.fail(
                HandshakeTimeout(
                    f"no handshake within {self.factory.handshakeTimeout:g} seconds: "
                    "the other side accepts connections but does not answer as AESM/1 "
                    "does"
                )
            )
        elif self.writable and self.secureTransport.producing:
            self.startCloseTimer()  # it is our own side that is not done
        else:
            self.abort()


classImplements(SecureProtocol, IProtocol, IHalfCloseableProtocol, IPushProducer)


def _foreign() -> NotAnAESMPeer:
    """Say why what is below us has hung up on a client."""
    return NotAnAESMPeer(
        "what called here lacks what is expected below AESM/1: a PROXY header, at a "
        "haproxy: endpoint, or TLS"
    )
