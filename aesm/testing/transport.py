"""
TCP's transports without TCP: what L{aesm.testing} joins clients and servers
with.

They do all that matters to a protocol: pause producers, close and half-close
behind what was written, abort, and call no protocol from within one of their
own methods.  What is written stays in flight until L{MemoryLink.deliver}.

Twisted has two of the kind, and neither would do: C{StringTransport} has no other
end, and those of C{iosim} ignore pauses, and close where they are to abort.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

BUFFER = 65536  # bytes in flight above which a producer is paused, as TCP's

IPAddress = IPv4Address | IPv6Address


class MemoryPipe:
    """
    One direction of a link.

    @ivar inFlight: bytes that were written and not delivered yet.
    @ivar stalled: whether delivery has stopped, as if the receiver did not read.
    @ivar end: why nothing more will be written, which the receiver learns once all
        is delivered; or None.
    """

    def __init__(self) -> None:
        self.inFlight = bytearray()
        self.stalled = False
        self.end: Exception | None = None

    def corrupt(self, position: int = -1) -> None:
        """
        Flip a bit of what is in flight.

        @param position: which byte, the last unless one is given.
        @raise IndexError: there is no such byte.
        """
        self.inFlight[position] ^= 1


@implementer(ITCPTransport, IConsumer, IPushProducer)
class MemoryTransport:
    """
    One end of a link.

    @ivar outgoing: the direction that it writes to.
    @ivar incoming: the direction that it reads from.
    @ivar protocol: the protocol at this end.
    @ivar disconnecting: whether the protocol has closed the connection.
    @ivar reading: whether the protocol takes bytes, and has not paused.
    @ivar lost: whether the connection is over at this end.
    """

    protocol: IProtocol

    def __init__(
        self,
        clock: Clock,
        outgoing: MemoryPipe,
        incoming: MemoryPipe,
        host: IPAddress,
        peer: IPAddress,
    ) -> None:
        self.outgoing = outgoing
        self.incoming = incoming
        self.disconnecting = False
        self.reading = True
        self.lost = False
        self._clock = clock
        self._host = host
        self._peer = peer
        self._producer: IProducer | None = None
        self._streaming = False
        self._wanted = False  # whether to resume the producer when all is delivered
        self._aborting = False
        self._isReceiving = False  # the protocol is being given bytes
        self._ending = False  # whether we end our direction, after what is in flight
        self._peerEnded = False  # whether we know that the other end has ended its own
        self._noDelay = self._keepAlive = False

    # ITransport

    def write(self, data: bytes) -> None:
        """
        Put bytes in flight, and pause the producer if they are too many.

        @param data: any length; dropped if the connection is ending.
        """
        if self._ending or self._aborting or self.lost:
            return
        self.outgoing.inFlight += data
        if self._streaming and len(self.outgoing.inFlight) > BUFFER:
            self._wanted = True
            cast(IPushProducer, self._producer).pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Put several pieces in flight."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close, once everything is delivered and the producer is done."""
        self.disconnecting = True

    def getHost(self) -> IPAddress:
        """Say which address this end has."""
        return self._host

    def getPeer(self) -> IPAddress:
        """Say which address the other end has."""
        return self._peer

    # ITCPTransport

    def abortConnection(self) -> None:
        """Close in the next turn of the event loop; what is in flight is lost."""
        # Not at once: connectionLost would come within the protocol's own call, as
        # TCP's never does.
        if not self._aborting and not self.lost:
            self._aborting = self.disconnecting = True
            self.reading = False
            self._clock.callLater(0, self.lose, error.ConnectionAborted())

    def loseWriteConnection(self) -> None:
        """End our direction, once everything is delivered."""
        self._ending = True

    def getTcpNoDelay(self) -> bool:
        """Tell what was set."""
        return self._noDelay

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Change nothing but what C{getTcpNoDelay} tells."""
        self._noDelay = enabled

    def getTcpKeepAlive(self) -> bool:
        """Tell what was set."""
        return self._keepAlive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Change nothing but what C{getTcpKeepAlive} tells."""
        self._keepAlive = enabled

    # IConsumer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """
        Let a producer write as fast as bytes are delivered.

        @param producer: an C{IPushProducer}, or an C{IPullProducer}.
        @param streaming: which of the two.
        @raise RuntimeError: there is one already.
        """
        if self._producer is not None:
            raise RuntimeError(f"{self._producer!r} was not unregistered")
        if self.lost:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._wanted = not streaming

    def unregisterProducer(self) -> None:
        """The producer is done."""
        self._producer = None
        self._streaming = self._wanted = False

    # IPushProducer

    def pauseProducing(self) -> None:
        """Take nothing until C{resumeProducing}."""
        self.reading = False

    def resumeProducing(self) -> None:
        """Take bytes again."""
        self.reading = not self._aborting

    def stopProducing(self) -> None:
        """Close, as C{loseConnection}."""
        self.loseConnection()

    # For the link

    def receive(self, most: int) -> bool:
        """
        Give the protocol so many bytes at most, or the end; tell if there was any.
        """
        pipe = self.incoming
        if self.lost:
            pipe.inFlight.clear()  # nobody is there to read it
            return False
        if pipe.stalled or not self.reading:
            return False
        if pipe.inFlight:
            data = bytes(pipe.inFlight[:most])
            del pipe.inFlight[:most]
            self._isReceiving = True
            try:
                self.protocol.dataReceived(data)
            finally:
                self._isReceiving = False
            return True
        if pipe.end is None or self._peerEnded:
            return False
        self._peerEnded = True
        halfCloseable = IHalfCloseableProtocol(self.protocol, None)
        if halfCloseable is None or not isinstance(pipe.end, error.ConnectionDone):
            self.lose(pipe.end)
        else:
            halfCloseable.readConnectionLost()
        return True

    def proceed(self) -> bool:
        """Do what waits until everything is delivered; tell if there was anything."""
        pipe = self.outgoing
        if pipe.inFlight or self.lost or self._aborting:
            return False
        if self._producer is not None:
            # A pull producer is asked again each time, a push producer only if it
            # was paused; either holds up the close, as with TCP.
            wanted, self._wanted = self._wanted, not self._streaming
            if wanted:
                cast(IPushProducer, self._producer).resumeProducing()
            return wanted
        if self.disconnecting:
            self.lose(error.ConnectionDone())
            return True
        if self._ending and pipe.end is None:
            pipe.end = error.ConnectionDone()
            return True
        return False

    def cut(self) -> None:
        """Break the connection at this end, not within the protocol's own call."""
        if self._isReceiving:
            self._clock.callLater(0, self.cut)
        else:
            self.lose(error.ConnectionLost())

    def lose(self, reason: Exception) -> None:
        """End the connection at this end."""
        if self.lost:
            return
        self.lost = True
        # The other end sees a clean close only behind all that was written.
        if isinstance(reason, error.ConnectionDone):
            self.outgoing.end = self.outgoing.end or reason
        else:
            self.outgoing.inFlight.clear()
            self.outgoing.end = error.ConnectionLost()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(reason))


class MemoryLink:
    """
    A connection in memory.

    @ivar toServer: the direction from the client to the server.
    @ivar toClient: the direction from the server to the client.
    @ivar client: the transport of the client's protocol.
    @ivar server: the transport of the server's protocol.
    """

    def __init__(self, clock: Clock, client: IPAddress, server: IPAddress) -> None:
        self.toServer, self.toClient = MemoryPipe(), MemoryPipe()
        self.client = MemoryTransport(
            clock, self.toServer, self.toClient, client, server
        )
        self.server = MemoryTransport(
            clock, self.toClient, self.toServer, server, client
        )

    def deliver(self, most: int = BUFFER) -> bool:
        """Deliver so many bytes at most in each direction; tell if there were any."""
        ends = (self.server, self.client)
        # Both receive before either goes on: an end closes only when its last bytes
        # have arrived.
        received = [end.receive(most) for end in ends]
        return any(received + [end.proceed() for end in ends])

    def cut(self) -> None:
        """Break the connection at both ends; what is in flight is lost."""
        self.server.cut()
        self.client.cut()
