"""
What is asked of the transport under a secure channel, beyond C{ITransport}:
where it can, it sends small records at once, ends one direction alone, and
closes without waiting.
"""

from __future__ import annotations

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    INegotiated,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol

__all__ = ["HangUp", "abort", "closeForWriting", "disableNagle", "readMore"]

READ_SIZE = 98304  # bytes: more than a record; from 128 KiB on, memory is not reused


def disableNagle(transport: ITransport) -> None:
    """
    Let small records leave at once, if this is TCP; Twisted's UNIX sockets say
    that they are, too.

    @param transport: the raw transport.
    """
    internet = isinstance(transport.getHost(), IPv4Address | IPv6Address)
    if internet and ITCPTransport.providedBy(transport):
        ITCPTransport(transport).setTcpNoDelay(True)


def readMore(transport: ITransport) -> None:
    """
    Read more than a record at once, if this is one of Twisted's sockets, and let it
    hold as much before it takes no more.

    @param transport: the raw transport.
    """
    if isinstance(transport, FileDescriptor):
        transport.bufferSize = READ_SIZE


def closeForWriting(transport: ITransport) -> None:
    """
    Close after what was written: our direction alone, if the transport can do
    that in order.  Twisted's TLS seems to, and cuts TCP below it.

    @param transport: the raw transport.
    """
    isTLS = INegotiated.providedBy(transport) or ISSLTransport.providedBy(transport)
    if ITCPTransport.providedBy(transport) and not isTLS:
        ITCPTransport(transport).loseWriteConnection()
    else:
        transport.loseConnection()


def abort(transport: ITransport) -> None:
    """
    Close at once.

    @param transport: the raw transport.
    """
    if hasattr(transport, "abortConnection"):
        transport.abortConnection()
    else:
        transport.loseConnection()


class HangUp(Protocol):
    """
    A protocol that hangs up at once.
    """

    transport: ITransport

    def connectionMade(self) -> None:
        """
        Hang up.
        """
        abort(self.transport)
