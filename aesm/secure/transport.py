"""
What a protocol inside a secure channel sees: its transport, and addresses
that carry keys.

L{SecureTransport} behaves as Twisted's TCP transport does.  It spells out
every method: a wrapper that forwards what it does not know would, one day,
forward a write, in clear.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet import error
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IPullProducer,
    IPushProducer,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import classImplements, implementer

from aesm.core.channel.events import EndOfStream
from aesm.core.channel.framing import MAX_PLAINTEXT
from aesm.core.channel.states import State
from aesm.secure.rawtransport import takenSoFar
from aesm.secure.states import OPENED
from aesm.trust.keys import PublicKey

if TYPE_CHECKING:
    from aesm.secure.protocol import SecureProtocol


@implementer(IAddress)
class SecureAddress:
    """
    The address of one end of a secure channel.

    @ivar address: the address of the transport underneath.
    @ivar publicKey: the key that this end has proved.
    """

    __slots__ = ("address", "publicKey")

    def __init__(self, address: IAddress, publicKey: PublicKey) -> None:
        self.address = address
        self.publicKey = publicKey

    @property
    def host(self) -> Any:
        """
        The host of the address underneath, for protocols that look at it, as
        HTTP does.

        @raise AttributeError: it has none.
        """
        return self.address.host  # type: ignore[attr-defined]

    @property
    def port(self) -> Any:
        """The port of the address underneath; C{AttributeError} if it has none."""
        return self.address.port  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        """Show both."""
        return f"SecureAddress({self.address!r}, {self.publicKey})"

    def __eq__(self, other: object) -> bool:
        """Compare both."""
        if not isinstance(other, SecureAddress):
            return NotImplemented
        return (self.address, self.publicKey) == (other.address, other.publicKey)

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash((self.address, self.publicKey))


# Shared by all connections that do not pause: an empty deque takes 760 bytes.
_NOTHING: Final[deque[bytes | EndOfStream]] = deque(maxlen=0)

# How a stream ends:
#
#   - our direction (_endWriting) once, after all that was written, and not before a
#     producer that is registered is done: it alone knows what is to come;
#   - the raw transport (SecureProtocol.finish) when both directions are ended and the
#     inner protocol has seen the peer's end, or does not want to.  Either end may be
#     the last, so each looks for the other;
#   - what came while the inner protocol paused is delivered before anything newer, in
#     a later turn of the event loop, and forgotten by loseConnection.


class SecureTransport:
    """
    The transport of the inner protocol.

    @ivar disconnecting: whether nothing is read any more: C{loseConnection} was
        called, or the connection is over.
    @ivar moreToRead: whether more bytes are there already than were read last, as far
        as is known.
    @ivar paused: whether the inner protocol wants nothing now.
    @ivar publicKey: the key that the peer has proved.
    @ivar taken: when the raw transport last took bytes that had waited for it, in the
        clock's seconds.
    """

    publicKey: PublicKey

    def __init__(self, secure: SecureProtocol) -> None:
        self.disconnecting = False
        self.moreToRead = False
        self.paused = False
        self.taken = -math.inf
        self._secure = secure
        self._inbound = _NOTHING  # came while paused
        self._wakeUp: IDelayedCall | None = None  # delivers what came while paused
        self._notice: IDelayedCall | None = None  # of our direction's end
        self._producer: IPushProducer | None = None
        self._producerPaused = False
        self._reading = True  # the inner protocol has not seen the peer's end
        self._writing = True  # we have not ended our direction

    # ITransport

    def write(self, data: bytes) -> None:
        """
        Send bytes.  What is written in one turn of the event loop shares
        records; after C{loseConnection} it is dropped, unless a producer is
        registered still.

        @param data: any length.
        @raise TypeError: C{data} is not bytes.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if (
            data
            and self._writing
            and (not self.disconnecting or self._producer is not None)
        ):
            secure = self._secure
            secure.channel.send(data)
            # Who is busy flushes when done; this saves the call for each small write.
            if not secure.busy or secure.channel.queued >= MAX_PLAINTEXT:
                secure.written()

    def flush(self) -> None:
        """Send what was written, though more may follow in this turn."""
        self._secure.flush()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """
        Send what was written, end the stream, wait a bounded time for the
        peer's end, and close.  A registered producer is waited for.
        """
        if self.disconnecting:
            return
        self.disconnecting = True
        self._secure.startCloseTimer()
        if self._secure.channel.more:
            self._forget()
            self.paused = False
            self.readLater()  # the peer's end may be in what came already
        else:
            self._resume()
        self._endIfDone()

    def abortConnection(self) -> None:
        """Close at once; what was written may be lost, the peer is told nothing."""
        self._secure.abort(Failure(error.ConnectionAborted()))

    def getPeer(self) -> SecureAddress:
        """Say who is there: the peer's address and key."""
        return SecureAddress(self._secure.transport.getPeer(), self.publicKey)

    def getHost(self) -> SecureAddress:
        """Say who we are: our own address and key."""
        publicKey = PublicKey(self._secure.channel.ownKey)
        return SecureAddress(self._secure.transport.getHost(), publicKey)

    # As ITCPTransport

    def loseWriteConnection(self) -> None:
        """End our direction of the stream, after what was written; go on reading."""
        if self._writing and not self.disconnecting:
            # Later, as TCP does: the protocol is in the middle of what made it end.
            self._notice = self._secure.clock.callLater(0, self._noticeEnd)
            self.endWriting()

    def endWriting(self) -> None:
        """The same, for a protocol that need not be told when that is done."""
        if self._writing and not self.disconnecting:
            self._endWriting()
            if not self._reading:
                self._secure.finish()

    def leave(self) -> None:
        """
        End the connection after what was written, without waiting for the peer's end:
        C{connectionLost} follows as soon as all is handed over.
        """
        self.disconnecting = True
        self._resume()
        self._endWriting()
        self._secure.finish()

    def takenSoFar(self) -> int | None:
        """Tell how far the peer has got, as C{rawtransport.takenSoFar}."""
        return takenSoFar(self._secure.transport)

    def giveBack(self, data: bytes) -> None:
        """
        Take bytes back that were delivered, to deliver them again in the next turn of
        the event loop, before all others.

        @param data: at least one byte.
        """
        if self.disconnecting:
            return
        if self._inbound is _NOTHING:
            self._inbound = deque()
        self._inbound.appendleft(data)
        self.moreToRead = True
        self.readLater()

    # IConsumer

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """
        Let a producer write as fast as the raw transport takes it.

        @param producer: an C{IPushProducer}, or an C{IPullProducer}.
        @param streaming: which of the two.
        @raise RuntimeError: there is one already.
        """
        if self._producer is not None:
            raise RuntimeError(
                f"cannot register {producer!r}: {self._producer!r} was not unregistered"
            )
        if not self._writing:
            cast(IPushProducer, producer).stopProducing()
            return
        if streaming:
            self._producer = cast(IPushProducer, producer)
        else:
            self._producer = _Puller(self._secure, cast(IPullProducer, producer))
        self._producerPaused = not streaming
        if self._secure.writable:
            self.resumeProducer()
        else:
            self.pauseProducer()

    def unregisterProducer(self) -> None:
        """The producer is done."""
        producer, self._producer = self._producer, None
        if isinstance(producer, _Puller):
            producer.pauseProducing()
        if producer is not None and self.disconnecting and self._writing:
            self._secure.startCloseTimer()
            self._endIfDone()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Deliver nothing until C{resumeProducing}."""
        if self.disconnecting:
            return
        if self._wakeUp is not None:
            self._wakeUp.cancel()
            self._wakeUp = None
        if not self.paused:
            self.paused = True
            cast(IPushProducer, self._secure.transport).pauseProducing()

    def resumeProducing(self) -> None:
        """Deliver again, from the next turn of the event loop on."""
        if self.paused and self._wakeUp is None:
            self._wakeUp = self._secure.clock.callLater(0, self._deliverPaused)

    def stopProducing(self) -> None:
        """Stop for good: the same as C{loseConnection}."""
        self.loseConnection()

    # For SecureProtocol

    @property
    def producing(self) -> bool:
        """Whether a producer is registered that may still write."""
        return self._producer is not None and self._writing

    def deliver(self, event: bytes | EndOfStream) -> None:
        """
        Hand over, or keep, what cannot simply go to C{dataReceived}: an end of stream,
        or what comes while the inner protocol is paused or does not listen.
        """
        if self.paused:
            if self._inbound is _NOTHING:
                self._inbound = deque()
            self._inbound.append(event)
        elif isinstance(event, EndOfStream):
            self._peerEnded()

    def readLater(self) -> None:
        """Go on in the next turn of the event loop: there is more than fits one."""
        if not self.paused:  # else it goes on when the inner protocol does
            self.paused = True
            cast(IPushProducer, self._secure.transport).pauseProducing()
            self._wakeUp = self._secure.clock.callLater(0, self._deliverPaused)

    def pauseProducer(self) -> None:
        """The raw transport takes no more."""
        if self._producer is not None and not self._producerPaused:
            self._producerPaused = True
            self._producer.pauseProducing()

    def resumeProducer(self) -> None:
        """The raw transport takes more."""
        if self._producer is not None and self._producerPaused:
            self._producerPaused = False
            self._producer.resumeProducing()

    def stopWriting(self) -> None:
        """The channel has failed: what is written from now on is dropped."""
        self._writing = False

    def stop(self) -> None:
        """The connection is aborted or gone: nothing is read or written any more."""
        self.disconnecting = True
        self._writing = self.paused = False
        self._forget()
        if self._notice is not None and self._notice.active():
            self._notice.cancel()

    def lost(self, inner: IProtocol | None, reason: Failure) -> None:
        """
        The raw transport is gone: tell the producer, and then the protocol inside.

        @param inner: that protocol, if it is there.
        """
        self.stop()
        try:
            self._stopProducer()
        finally:
            if inner is not None:
                inner.connectionLost(reason)

    def _stopProducer(self) -> None:
        """Nothing more is wanted of the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    # Parts

    def _endIfDone(self) -> None:
        """End our direction, unless a producer goes on; close after both."""
        if self.producing:
            return
        if self._writing:
            self._endWriting()
        if self._secure.channel.state is State.ENDED:
            self._secure.finish()

    def _endWriting(self) -> None:
        """End our direction."""
        self._writing = False
        self._secure.end()

    def _peerEnded(self) -> None:
        """The peer has ended: a protocol that knows half-closed connections goes on."""
        if self.disconnecting:
            self._endIfDone()
            return
        self._reading = False
        inner = IHalfCloseableProtocol(self._secure.inner, None)
        if inner is None:
            self.disconnecting = True
            self._stopProducer()
            self._endIfDone()
        else:
            inner.readConnectionLost()
            if not self._writing:
                self._secure.finish()

    def _noticeEnd(self) -> None:
        """Tell the inner protocol that our direction is ended."""
        inner = IHalfCloseableProtocol(self._secure.inner, None)
        if inner is not None:
            self._secure.guard(inner.writeConnectionLost)

    def _resume(self) -> None:
        """Read, and drop it: or the peer's end of stream could not come in."""
        self._forget()
        if self.paused:
            self.paused = False
            cast(IPushProducer, self._secure.transport).resumeProducing()

    def _forget(self) -> None:
        """Drop what came while reading was paused."""
        self._inbound = _NOTHING
        if self._wakeUp is not None:
            self._wakeUp.cancel()
            self._wakeUp = None

    def _deliverPaused(self) -> None:
        """Deliver what came while reading was paused, then read on."""
        self._wakeUp = None
        self.paused = False
        # A generator, since the protocol may pause again at each of them: what is left
        # then stays where it is, in order.
        secure = self._secure
        secure.act(self._takePaused())
        if not self.paused and secure.channel.more:
            secure.dataReceived(b"")  # which may put the rest off once more
        if not self.paused and secure.phase in OPENED:
            cast(IPushProducer, secure.transport).resumeProducing()

    def _takePaused(self) -> Iterator[bytes | EndOfStream]:
        """Take what came while reading was paused, until it is paused again."""
        while self._inbound and not self.paused:
            event = self._inbound.popleft()
            self.moreToRead = bool(self._inbound) or self._secure.channel.more
            yield event
        if not self._inbound:
            self._inbound = _NOTHING


classImplements(SecureTransport, ITransport, IConsumer, IPushProducer)


@implementer(IPushProducer)
class _Puller:
    """Makes a push producer of a pull producer, which is asked in each turn."""

    def __init__(self, secure: SecureProtocol, producer: IPullProducer) -> None:
        self._secure = secure
        self._producer = producer
        self._call: IDelayedCall | None = None

    def resumeProducing(self) -> None:
        """Start asking."""
        self._call = self._secure.clock.callLater(0, self._pull)

    def pauseProducing(self) -> None:
        """Stop asking."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def stopProducing(self) -> None:
        """Stop asking for good."""
        self.pauseProducing()
        self._producer.stopProducing()

    def _pull(self) -> None:
        """Ask once."""
        self.resumeProducing()  # first, since what it writes may pause it
        self._secure.guard(self._producer.resumeProducing)
