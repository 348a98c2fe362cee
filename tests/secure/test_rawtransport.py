"""
Tests for L{aesm.secure.rawtransport}: what is written at once to one of Twisted's
sockets, and what is not.
"""

from __future__ import annotations

import platform
import resource
from collections.abc import Sequence
from socket import SHUT_WR
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ISSLTransport, ITransport
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, implementer

from aesm.secure.rawtransport import (
    AT_ONCE,
    GATHERED,
    LARGE_READ,
    PIECES,
    SHORT,
    RecordWriter,
    keepFreed,
)


class Socket(FileDescriptor):
    """
    A socket that takes what a test says.

    @ivar taken: what it took.
    @ivar calls: how many bytes it was offered, each time.
    @ivar room: how many more it takes, or what is wrong with it.
    """

    def __init__(self, room: int | Exception = 1 << 30) -> None:
        """@param room: bytes, or what is wrong."""
        super().__init__(cast(Any, MemoryReactorClock()))
        self.connected = 1
        self.taken = b""
        self.calls: list[int] = []
        self.room = room

    def writeSomeData(self, data: bytes) -> int | BaseException:
        """Take what there is room for."""
        self.calls.append(len(data))
        if isinstance(self.room, Exception):
            return self.room
        taken = bytes(data[: self.room])
        self.taken += taken
        self.room -= len(taken)
        return len(taken)


class GatheringSocket(Socket):
    """One that takes several records in one call, as those of the system do."""

    def getHandle(self) -> GatheringSocket:
        """Be what it is an abstraction of."""
        return self

    def send(self, record: bytes) -> int:
        """Take what there is room for."""
        if not isinstance(self.room, Exception) and self.room:
            return cast(int, self.writeSomeData(record))
        raise OSError

    def sendmsg(self, records: Sequence[bytes]) -> int:
        """Take what there is room for."""
        return self.send(b"".join(records))

    def shutdown(self, how: int) -> None:
        """Take no more."""
        self.room = BrokenPipeError()
        self.calls.append(-how)


@implementer(IPushProducer)
class Producer:
    """Counts how often it is told to go on."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.resumed = self.paused = 0

    def resumeProducing(self) -> None:
        """Count."""
        self.resumed += 1

    def pauseProducing(self) -> None:
        """Count."""
        self.paused += 1

    def stopProducing(self) -> None:
        """Do nothing."""


def outletOf(transport: object) -> tuple[RecordWriter, Producer]:
    """
    Make an outlet with a producer.

    @param transport: where to.
    """
    outlet, producer = RecordWriter(cast(ITransport, transport)), Producer()
    outlet.register(producer)
    return outlet, producer


class OutletTests(SynchronousTestCase):
    """L{RecordWriter}."""

    def test_atOnce(self) -> None:
        """A socket has a record before the event loop turns, and nothing waits."""
        socket = Socket()
        outlet, producer = outletOf(socket)
        self.assertFalse(outlet.write([b"record"]))
        self.assertEqual((socket.taken, socket.calls), (b"record", [6]))
        self.assertEqual(socket.reactor.getWriters(), [])
        self.assertEqual(producer.paused, 0)

    def test_close(self) -> None:
        """
        A socket is closed at the end of the turn, and not when it can be written to; of
        others it is for the transport to know when.
        """
        socket, lost = GatheringSocket(), cast(list[Failure], [])
        self.patch(socket, "connectionLost", lost.append)
        socket.startReading()
        outlet, _ = outletOf(socket)
        outlet.close()
        reactor: Any = socket.reactor
        self.assertEqual((reactor.getReaders(), reactor.getWriters()), ([], []))
        self.assertEqual(lost, [])  # who closes is in the middle of something
        reactor.advance(0)
        self.assertIs(lost[0].type, ConnectionDone)
        for other in (StringTransport(), Socket()):
            outletOf(other)[0].close()
            self.assertTrue(other.disconnecting)

    def test_closeForWriting(self) -> None:
        """A socket's direction is closed at once, if it is not closed already."""
        socket = GatheringSocket()
        outlet, _ = outletOf(socket)
        outlet.closeForWriting()
        self.assertEqual(socket.calls, [-SHUT_WR])
        self.patch(socket, "shutdown", lambda how: socket.send(b"x"))  # which raises
        outlet.closeForWriting()
        self.assertEqual(socket.reactor.getWriters(), [])
        other = StringTransport()
        outletOf(other)[0].closeForWriting()
        self.assertTrue(other.disconnecting)

    def test_together(self) -> None:
        """Short records are written together, long ones one by one."""
        for size, calls in (
            (SHORT // 2, [SHORT]),
            (SHORT // 2 + 1, [SHORT // 2 + 1] * 2),
        ):
            socket = Socket()
            outlet, _ = outletOf(socket)
            outlet.write([bytes(size), bytes(size)])
            self.assertEqual(socket.calls, calls)

    def test_gathered(self) -> None:
        """Long ones are written by one system call, if the socket can do that."""
        socket = GatheringSocket()
        outlet, _ = outletOf(socket)
        records = [bytes([number]) * SHORT for number in range(GATHERED)]
        self.assertFalse(outlet.write(records))
        self.assertEqual(socket.taken, b"".join(records))
        self.assertEqual(socket.calls, [GATHERED * SHORT])

    def test_gatheredInTurn(self) -> None:
        """After so many others have their turn."""
        socket = GatheringSocket()
        outlet, _ = outletOf(socket)
        length, record = bytes(2), bytes(SHORT)
        records = [length, record] * (GATHERED // 2 + 2)
        self.assertTrue(outlet.write(records))
        self.assertEqual(socket.calls, [AT_ONCE + GATHERED // 2 * 2])
        self.assertEqual(outlet.rest, records[GATHERED + 1 :])

    def test_partly(self) -> None:
        """
        What the socket does not take is left to its own buffer, and the records behind
        that wait until it is written.
        """
        socket = Socket(room=SHORT + 3)
        outlet, producer = outletOf(socket)
        records = [bytes([number]) * SHORT for number in range(4)]
        self.assertTrue(outlet.write(records))
        self.assertEqual(socket.taken, records[0] + records[1][:3])
        self.assertEqual(outlet.rest, records[2:])
        resumed = producer.resumed
        socket.room = SHORT
        socket.doWrite()
        self.assertEqual(producer.resumed, resumed + 1)
        socket.room = 1 << 30
        self.assertFalse(outlet.write(outlet.rest))
        self.assertEqual((socket.taken, outlet.rest), (b"".join(records), ()))

    def test_othersHaveTheirTurn(self) -> None:
        """
        After so much the rest has to wait for the event loop, though the socket would
        take it.
        """
        socket = Socket()
        outlet, _ = outletOf(socket)
        record = bytes(SHORT)
        most = AT_ONCE // SHORT
        self.assertTrue(outlet.write([record] * (most + 2)))
        self.assertEqual(len(socket.taken), AT_ONCE)
        self.assertEqual(outlet.rest, [record])
        self.assertEqual(socket.reactor.getWriters(), [socket])
        socket.doWrite()
        self.assertEqual(len(socket.taken), AT_ONCE + SHORT)
        outlet.atOnce = AT_ONCE
        self.assertFalse(outlet.write(outlet.rest))

    def test_broken(self) -> None:
        """
        What is wrong with the socket is found again when that writes, and nothing is
        written behind it.
        """
        for kind in (Socket, GatheringSocket):
            socket = kind(room=ConnectionLost())
            outlet, _ = outletOf(socket)
            self.assertTrue(outlet.write([bytes(SHORT), b"more"]))
            self.assertTrue(outlet.broken)
            self.assertEqual(outlet.rest, [b"more"])
            self.assertIsInstance(socket.doWrite(), ConnectionLost)

    def test_others(self) -> None:
        """
        Any other transport gets some at a time, and says itself when it is enough.
        """
        encrypted = Socket()
        alsoProvides(encrypted, ISSLTransport)
        for transport in (StringTransport(), encrypted):
            outlet, producer = outletOf(transport)
            records = [b"x" * number for number in range(1, PIECES + 3)]
            self.assertFalse(outlet.write(records))
            self.assertEqual(outlet.rest, records[PIECES:])
            self.assertTrue(
                transport.streaming
                if isinstance(transport, StringTransport)
                else transport.streamingProducer
            )
            self.assertEqual(producer.resumed, 0)
        self.assertEqual(encrypted.calls, [])

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.integers(0, 3 * SHORT), max_size=12),
        st.lists(st.integers(0, 2 * SHORT), max_size=12),
        st.sampled_from([Socket, GatheringSocket]),
    )
    def test_inOrder(
        self, sizes: list[int], rooms: list[int], kind: type[Socket]
    ) -> None:
        """
        Whatever the socket takes when, all arrives once and in order.

        @param sizes: of the records.
        @param rooms: what it takes, each time.
        @param kind: whether it takes several at once.
        """
        socket = kind(room=0)
        outlet, _ = outletOf(socket)
        records = [bytes([n]) * min(size, SHORT) for n, size in enumerate(sizes, 1)]
        waits = bool(records) and outlet.write(records)
        for room in [*rooms, *[1 << 30] * (2 * len(records) + 2)]:
            socket.room = room
            if waits:
                socket.doWrite()
                waits = bool(socket.reactor.getWriters())
            if not waits and outlet.rest:
                outlet.atOnce = AT_ONCE
                waits = outlet.write(outlet.rest)
        self.assertEqual(socket.taken, b"".join(records))


class MemoryTests(SynchronousTestCase):
    """L{keepFreed}."""

    def test_reused(self) -> None:
        """What large reads and messages take is there when they are done with it."""
        if platform.libc_ver()[0] != "glibc":
            self.skipTest("only this library is known")  # pragma: no cover
        keepFreed()
        pages = 3 * LARGE_READ // resource.getpagesize()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(100):
            for _ in [bytes([1]) * LARGE_READ for _ in range(3)]:
                pass
        after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self.assertLess(after - before, 4 * pages)
