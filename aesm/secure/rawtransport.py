"""
What is asked of the transport under a secure channel, beyond C{ITransport}:
where it can, it sends small records at once, ends one direction alone, and
closes without waiting.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import (
    IConsumer,
    INegotiated,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import providedBy

AT_ONCE: Final = 524288  # bytes written at once before others have their turn
PIECES: Final = 4  # of records, handed over at once where that cannot be done
SHORT: Final = 65536  # bytes of records that are put together
GATHERED: Final = 16  # pieces of longer ones that are written by one system call
_OUTQ: int | None = getattr(termios, "TIOCOUTQ", None)
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_BYTES_ACKED: Final = 120  # where tcpi_bytes_acked is in Linux's struct tcp_info
# Bytes of a read: more than a record; from 128 KiB on, memory that was not filled is
# not reused.  Who fills it gets more: a message of 256 KiB then takes one turn
# of the event loop, and not three.
READ_SIZE: Final = 98304
LARGE_READ: Final = 262144
# What glibc's malloc has seen freed as one piece it keeps for the next, and twice as
# much at the end of the heap.  It starts with less than a large read takes, and would
# have a hundred pages back from the system, zeroed, for each message of 256 KiB.
FREED: Final = 1048576


def prepare(transport: ITransport, readSize: int = READ_SIZE) -> int:
    """
    Have small records leave at once, if this is TCP, and large ones read whole, if this
    is one of Twisted's sockets.

    @param readSize: bytes of a read.
    @return: the bytes of a read that is as large as can be, behind which there is more;
        C{sys.maxsize} if that cannot be known.
    """
    tcp = ITCPTransport(transport, None)
    if tcp is not None:
        with suppress(OSError):  # Twisted's UNIX sockets say that they are, and fail
            tcp.setTcpNoDelay(True)
    return readAtOnce(transport, readSize)


def readAtOnce(transport: ITransport, readSize: int) -> int:
    """
    Have no more read at once, if this is one of Twisted's sockets.

    @param readSize: bytes.
    @return: as L{prepare}.
    """
    if not isinstance(transport, FileDescriptor):
        return sys.maxsize
    if readSize > READ_SIZE:
        keepFreed()
    transport.bufferSize = readSize  # also what it holds before it takes no more
    return readSize


@cache
def keepFreed() -> None:
    """Have memory for what is large reused, from the first call on."""
    bytes(FREED)


# Twisted's FileDescriptor.write only queues, and the reactor writes in its next turn:
# that would be half of a round trip.  So the socket is written to directly, as the
# reactor would.  This is right only while the transport has queued nothing itself, or
# bytes would overtake each other: what the socket does not take goes to
# transport.write, and nothing follows until the transport asks for more.  It asks
# whenever it has written all if it takes us for a pull producer; a push producer is
# resumed only after it was paused for a full buffer.  In one turn a connection may
# write AT_ONCE bytes, so that a peer that reads fast does not keep all others waiting.


class RecordWriter:
    """
    Hands records to a raw transport: at once, if that is one of Twisted's sockets.

    @ivar atOnce: bytes that may be written at once in this turn of the event loop.
    @ivar broken: whether that failed: it will again when the transport tries to write
        what it was given then, which ends the connection.
    @ivar rest: records that were not handed over.
    @see: C{writeSomeData} of C{twisted.internet.abstract.FileDescriptor}
    """

    __slots__ = ("_isSocket", "_socket", "_transport", "atOnce", "broken", "rest")

    def __init__(self, transport: ITransport) -> None:
        self._transport: Any = transport
        self._isSocket = isinstance(transport, FileDescriptor) and not _isTLS(transport)
        handle = getattr(transport, "getHandle", lambda: None)()
        self._socket: Any = handle if hasattr(handle, "sendmsg") else None
        self.atOnce = AT_ONCE
        self.broken = False
        self.rest: Sequence[bytes] = ()

    def register(self, producer: IPushProducer) -> bool:
        """
        Let the transport tell a producer when it takes more.

        @return: whether it has been resumed for the first time.
        """
        consumer = cast(IConsumer, self._transport)
        consumer.registerProducer(producer, streaming=not self._isSocket)
        return self._isSocket

    def write(self, records: Sequence[bytes]) -> bool:
        """
        Hand over what is taken.

        @param records: at least one, each in one piece, or its length in a piece of its
            own; what is not taken becomes C{rest}.
        @return: whether the producer has to wait until it is resumed.
        """
        if not self._isSocket:
            self.rest = records[PIECES:]
            self._transport.writeSequence(records[:PIECES])
            return False  # it is told
        gathered = 0  # bytes that are written already
        if len(records) > 1:
            if sum(map(len, records)) <= SHORT:
                # Copying these is less than a system call.
                records = (b"".join(records),)
            elif self._socket is not None and self.atOnce > 0:
                gathered = self._gather(records[:GATHERED])
                self.atOnce -= gathered
        for number, record in enumerate(records):
            if gathered:
                if gathered >= len(record):
                    gathered -= len(record)
                    continue
                record, gathered = record[gathered:], 0
            sent: object = 0
            if self.atOnce > 0:
                sent = self._send(record)
                self.atOnce -= len(record)
            if sent != len(record):
                if not isinstance(sent, int):  # an exception, returned
                    self.broken, sent = True, 0
                self._transport.write(record[sent:])
                self.rest = records[number + 1 :]
                return True
        self.rest = ()
        return False

    # What Twisted's sockets do is to wait until they can be written to, write nothing,
    # and close: that would be a turn of the event loop, and four system calls.

    def close(self) -> None:
        """Close in order, once all is handed over and the transport has none of it."""
        if self._isSocket and self._socket is not None:
            self._transport.stopReading()
            lost = self._transport.connectionLost
            self._transport.reactor.callLater(0, lost, connectionDone)
        else:
            self._transport.loseConnection()

    def closeForWriting(self) -> None:
        """The same of our direction alone, where that is possible."""
        if self._isSocket and self._socket is not None:
            with suppress(OSError):  # it is closed; what reads hears of that
                self._socket.shutdown(socket.SHUT_WR)
        else:
            closeForWriting(self._transport)

    def _send(self, record: bytes) -> object:
        """Write what the socket takes; return how many bytes, or what is wrong."""
        # All that writeSomeData does is one system call, and two of Python's.
        if self._socket is not None:
            try:
                return self._socket.send(record)
            except OSError:  # which writeSomeData finds again, and looks at
                pass
        return self._transport.writeSomeData(record)

    def _gather(self, records: Sequence[bytes]) -> int:
        """Write what the socket takes by one system call; return how many bytes."""
        try:
            return cast(int, self._socket.sendmsg(records))
        except OSError:  # as in C{_send}
            return 0


def _isTLS(transport: ITransport) -> bool:
    """Look whether this encrypts what it is given."""
    # Most do not, and to look for an adapter in vain takes ten times as long.
    isOrExtends = providedBy(transport).isOrExtends
    return any(map(isOrExtends, (INegotiated, ISSLTransport)))


def closeForWriting(transport: ITransport) -> None:
    """Close after what was written: our direction alone, where that is possible."""
    # Twisted's TLS says that it can, and half-closes the TCP connection below it.
    tcp = ITCPTransport(transport, None)
    if tcp is not None and not _isTLS(transport):
        tcp.loseWriteConnection()
    else:
        transport.loseConnection()


def takenSoFar(transport: ITransport) -> int | None:
    """
    Tell how far the other side's system has got, while something waits for it.

    @return: bytes that it has acknowledged since the connection began; None if nothing
        waits, or this is no TCP, or no system that tells.
    @see: tcp(7), C{TCP_INFO} and C{SIOCOUTQ}
    """
    handle = getattr(transport, "getHandle", lambda: None)()
    if not isinstance(handle, socket.socket) or _OUTQ is None or _TCP_INFO is None:
        return None
    try:
        waiting = fcntl.ioctl(handle, _OUTQ, bytes(4))
        info = handle.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 192)
    except (OSError, ValueError):  # it is closed
        return None
    if waiting == bytes(4) or len(info) < _BYTES_ACKED + 8:
        return None
    return int.from_bytes(info[_BYTES_ACKED : _BYTES_ACKED + 8], sys.byteorder)


def abort(transport: ITransport) -> None:
    """Close at once."""
    if hasattr(transport, "abortConnection"):
        transport.abortConnection()
    else:
        transport.loseConnection()


class HangUp(Protocol):
    """A protocol that hangs up at once."""

    transport: ITransport

    def connectionMade(self) -> None:
        """Hang up."""
        abort(self.transport)
