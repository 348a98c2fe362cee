"""
What a protocol inside a secure channel sees: its transport, and addresses
that carry keys.

L{SecureTransport} behaves as Twisted's TCP transport does.  It spells out
every method: a wrapper that forwards what it does not know would, one day,
forward a write, in clear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from twisted.internet import error
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IProtocol,
    IPullProducer,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.core.events import Data, EndOfStream
from aesm.keys import PublicKey

if TYPE_CHECKING:
    from aesm.pump import SecureProtocol

__all__ = ["SecureAddress", "SecureTransport"]

_log = Logger(namespace="aesm.secure")


@implementer(IAddress)
class SecureAddress:
    """
    The address of one end of a secure channel.

    @ivar address: the address of the transport underneath.
    @ivar publicKey: the key that this end has proved.
    """

    __slots__ = ("address", "publicKey")

    def __init__(self, address: IAddress, publicKey: PublicKey) -> None:
        """
        @param address: the address of the transport underneath.
        @param publicKey: the key that this end has proved.
        """
        self.address = address
        self.publicKey = publicKey

    def __repr__(self) -> str:
        """
        Show both.
        """
        return f"SecureAddress({self.address!r}, {self.publicKey})"

    def __eq__(self, other: object) -> bool:
        """
        Compare both.
        """
        if not isinstance(other, SecureAddress):
            return NotImplemented
        return (self.address, self.publicKey) == (other.address, other.publicKey)

    def __hash__(self) -> int:
        """
        Agree with equality.
        """
        return hash((self.address, self.publicKey))


@implementer(ITransport, IConsumer, IPushProducer, IHalfCloseableDescriptor)
class SecureTransport:
    """
    The transport of the inner protocol.

    @ivar disconnecting: whether C{loseConnection} was called.
    @ivar publicKey: the key that the peer has proved.
    """

    publicKey: PublicKey

    def __init__(self, secure: SecureProtocol) -> None:
        """
        @param secure: what this writes through.
        """
        self.disconnecting = False
        self._secure = secure
        self._inbound: deque[Data | EndOfStream] | None = None  # while paused
        self._wakeUp: IDelayedCall | None = None  # delivers what was paused
        self._producer: IPushProducer | None = None
        self._writing = True  # we have not ended our direction
        self._over = False  # connectionLost is on its way, or was

    # ITransport

    def write(self, data: bytes) -> None:
        """
        Send bytes.  What is written in one turn of the event loop shares
        records; after C{loseConnection} it is dropped.

        @param data: any length.
        @raise TypeError: C{data} is not bytes.
        """
        if isinstance(data, str):
            raise TypeError("data must be bytes, not str")
        dropped = self.disconnecting and self._producer is None
        if self._writing and not self._over and not dropped and data:
            self._secure.channel.send(bytes(data))
            self._secure.wrote()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """
        Send several pieces as one.

        @param data: the pieces.
        """
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """
        Send what was written, end the stream, wait a bounded time for the
        peer's end, and close.  A registered producer is waited for.
        """
        if self.disconnecting or self._over:
            return
        self.disconnecting = True
        if self._inbound is not None:
            self._inbound = None  # nobody is to read it now
            self._resumeReading()
        if self._producer is None:
            self._end()

    def abortConnection(self) -> None:
        """
        Close at once; what was written may be lost, and the peer is told
        nothing.
        """
        if not self._over:
            self._over = self.disconnecting = True
            self._secure.abort(Failure(error.ConnectionAborted()))

    def getPeer(self) -> SecureAddress:
        """
        Say who is there.

        @return: the peer's address and key.
        """
        transport = self._secure.transport
        return SecureAddress(transport.getPeer(), self.publicKey)

    def getHost(self) -> SecureAddress:
        """
        Say who we are.

        @return: our own address and key.
        """
        transport, channel = self._secure.transport, self._secure.channel
        return SecureAddress(transport.getHost(), PublicKey(channel.ownKey))

    # IHalfCloseableDescriptor

    def loseWriteConnection(self) -> None:
        """
        End our direction of the stream, after what was written; go on reading.
        """
        if self._writing and not self.disconnecting:
            self._endWriting()
            inner = IHalfCloseableProtocol(self._secure.inner, None)
            if inner is not None:
                inner.writeConnectionLost()

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
        if self._over:
            cast(IPushProducer, producer).stopProducing()
            return
        if streaming:
            self._producer = cast(IPushProducer, producer)
            if not self._secure.writable:
                self._producer.pauseProducing()
        else:
            self._producer = _Puller(self._secure, cast(IPullProducer, producer))
            if self._secure.writable:
                self._producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """
        The producer is done.
        """
        if self._producer is not None:
            if isinstance(self._producer, _Puller):
                self._producer.pauseProducing()
            self._producer = None
            if self.disconnecting and not self._over:
                self._end()

    # IPushProducer

    def pauseProducing(self) -> None:
        """
        Deliver nothing until C{resumeProducing}.
        """
        if self._inbound is None and not self.disconnecting:
            self._inbound = deque()
            cast(IPushProducer, self._secure.transport).pauseProducing()
        if self._wakeUp is not None:
            self._wakeUp.cancel()
            self._wakeUp = None

    def resumeProducing(self) -> None:
        """
        Deliver again, from the next turn of the event loop on.
        """
        if self._inbound is not None and self._wakeUp is None and not self._over:
            self._wakeUp = self._secure.clock.callLater(0, self._deliverPaused)

    def stopProducing(self) -> None:
        """
        Stop for good: the same as C{loseConnection}.
        """
        self.loseConnection()

    # For SecureProtocol

    def deliver(self, event: Data | EndOfStream) -> None:
        """
        Hand what came to the inner protocol.

        @param event: what came.
        """
        if self._inbound is not None:
            self._inbound.append(event)
        elif isinstance(event, Data):
            if not self.disconnecting:
                cast(IProtocol, self._secure.inner).dataReceived(event.data)
        else:
            self._peerEnded()

    def pauseProducer(self) -> None:
        """
        The raw transport takes no more.
        """
        if self._producer is not None:
            self._producer.pauseProducing()

    def resumeProducer(self) -> None:
        """
        The raw transport takes more.
        """
        if self._producer is not None:
            self._producer.resumeProducing()

    def ended(self) -> None:
        """
        The raw transport is gone.
        """
        self._over = True
        self._inbound = None
        if self._wakeUp is not None:
            self._wakeUp.cancel()
            self._wakeUp = None
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    # Parts

    def _end(self) -> None:
        """
        End our direction, and wait a bounded time for the peer's end.
        """
        self._secure.startCloseTimer()
        if self._writing:
            self._endWriting()

    def _endWriting(self) -> None:
        """
        End our direction.
        """
        self._writing = False
        self._secure.end()

    def _peerEnded(self) -> None:
        """
        The peer has ended its direction: a protocol that knows of half-closed
        connections goes on, any other is done.
        """
        inner = IHalfCloseableProtocol(self._secure.inner, None)
        if inner is not None and not self.disconnecting:
            inner.readConnectionLost()
            if not self._writing:
                self._secure.finish()
        elif self._writing:
            self.disconnecting = True
            self._end()
        else:
            self._secure.finish()

    def _resumeReading(self) -> None:
        """
        Let the raw transport read again.
        """
        if self._wakeUp is not None:
            self._wakeUp.cancel()
            self._wakeUp = None
        cast(IPushProducer, self._secure.transport).resumeProducing()

    def _deliverPaused(self) -> None:
        """
        Deliver what came while reading was paused, then read on.
        """
        self._wakeUp = None
        inbound, self._inbound = self._inbound, None
        while inbound and not self._over:
            event = inbound.popleft()
            self._secure.act([event])
            if self._inbound is not None:  # paused again
                self._inbound.extend(inbound)
                return
        if not self._over:
            cast(IPushProducer, self._secure.transport).resumeProducing()


@implementer(IPushProducer)
class _Puller:
    """
    Makes a push producer of a pull producer: asks it for more in each turn of
    the event loop in which the raw transport takes more.
    """

    def __init__(self, secure: SecureProtocol, producer: IPullProducer) -> None:
        """
        @param secure: whose clock runs, and what ends if the producer fails.
        @param producer: whom to ask.
        """
        self._secure = secure
        self._producer = producer
        self._call: IDelayedCall | None = None

    def resumeProducing(self) -> None:
        """
        Start asking.
        """
        if self._call is None:
            self._call = self._secure.clock.callLater(0, self._pull)

    def pauseProducing(self) -> None:
        """
        Stop asking.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def stopProducing(self) -> None:
        """
        Stop asking for good.
        """
        self.pauseProducing()
        self._producer.stopProducing()

    def _pull(self) -> None:
        """
        Ask once.
        """
        self._call = self._secure.clock.callLater(0, self._pull)
        try:
            self._producer.resumeProducing()
        except Exception:
            _log.failure("{producer!r} failed", producer=self._producer)
            self.pauseProducing()
            self._secure.abort(Failure(error.ConnectionAborted()))
