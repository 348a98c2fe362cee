"""
Tests for L{aesm.client.stream}: several streams are one.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm.client.stream import SessionStream
from aesm.errors import ConnectionClosed
from aesm.messages.stream import DataStream, Packet


class Owner:
    """Somebody whom a stream tells things."""

    def packetsTaken(self, cost: int) -> None:
        """
        Take no note.

        @param cost: of what was taken.
        """

    def streamFinished(self) -> None:
        """Take no note."""


class SessionStreamTests(SynchronousTestCase):
    """Looking, taking and waiting, across streams."""

    def setUp(self) -> None:
        """Make a stream without packets."""
        self.stream = SessionStream()

    def add(self, *data: str, end: bool = True) -> DataStream:
        """
        Add a stream.

        @param end: whether it has ended.
        """
        stream = DataStream(Owner(), 1000)
        if data:
            stream.extend(0.0, data, 1)
        if end:
            stream.end(ConnectionClosed("over"))
        self.stream.add(stream)
        return stream

    def test_looking(self) -> None:
        """Looking takes nothing."""
        self.assertEqual(list(self.stream), [])
        self.add("a", "b")
        self.add()
        self.add("c", end=False)
        self.assertEqual([packet.data for packet in self.stream], ["a", "b", "c"])
        self.assertEqual(len(self.stream), 3)
        self.assertEqual(self.stream.cost, 3 * 65)
        seen = [self.stream[index].data for index in (0, 1, 2, -1, -2, -3)]
        self.assertEqual(seen, ["a", "b", "c", "c", "b", "a"])
        for index in (3, -4):
            with self.assertRaises(IndexError):
                self.stream[index]

    def test_taking(self) -> None:
        """The oldest comes first."""
        self.assertIsNone(self.stream.getData())
        self.add("a")
        self.add()
        self.add("b", end=False)
        for data in "ab":
            self.assertEqual(self.stream.getData(), Packet(0.0, data))
        self.assertIsNone(self.stream.getData())

    def test_watched(self) -> None:
        """Whoever watches it is told of packets of each stream."""
        self.add("nobody wants to know", end=False)
        lengths: list[int] = []
        self.stream.arrived = lambda: lengths.append(len(self.stream))
        last = self.add("b", end=False)
        last.extend(0.0, ["c"], 1)
        self.assertEqual(lengths, [2, 3])

    def test_waiting(self) -> None:
        """Who waits gets packets in order, of whichever stream, however many wait."""
        waiting = [self.stream.get() for _ in range(2003)]
        self.add("0")
        last = self.add("1", end=False)
        waiting[2].cancel()
        self.failureResultOf(waiting.pop(2), CancelledError)
        last.extend(0.0, [str(number) for number in range(2, 2002)], 1)
        for number, deferred in enumerate(waiting):
            self.assertEqual(self.successResultOf(deferred).data, str(number))
        self.assertEqual(len(self.stream), 0)

    def test_cancelled(self) -> None:
        """Nothing is taken for who does not wait any more."""
        stream = self.add(end=False)
        waiting = self.stream.get()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        stream.extend(0.0, ["kept"], 1)
        self.assertEqual(self.successResultOf(self.stream.get()).data, "kept")

    def test_end(self) -> None:
        """At the end who waits is told why, and who comes later."""
        waiting = self.stream.get()
        self.stream.end(ConnectionClosed("enough", 1000))
        for deferred in (waiting, self.stream.get()):
            error = self.failureResultOf(deferred, ConnectionClosed).value
            self.assertEqual(str(error), "enough")

    def test_arrived(self) -> None:
        """Who wants to know is told of packets, of streams, and of the end."""
        told: list[int] = []
        self.stream.arrived = lambda: told.append(len(self.stream))
        stream = self.add("a", end=False)
        stream.extend(0.0, ["b"], 1)
        self.assertIsNone(stream.reason)
        stream.end(ConnectionClosed("enough"))
        self.assertIsInstance(stream.reason, ConnectionClosed)
        self.stream.end(ConnectionClosed("enough", 1000))
        self.assertEqual(told, [1, 2, 2])

    def test_iterating(self) -> None:
        """C{async for} takes packets until an orderly end, and raises any other."""
        for code in (1000, 1006):
            self.stream = SessionStream()
            taken: list[object] = []

            async def take(joined: SessionStream, taken: list[object]) -> None:
                """Take all."""
                async for packet in joined:
                    taken.append(packet.data)

            taking = Deferred.fromCoroutine(take(self.stream, taken))
            self.add("a")
            self.add("b")
            self.stream.end(ConnectionClosed("over", code))
            self.assertEqual(taken, ["a", "b"])
            if code == 1000:
                self.successResultOf(taking)
            else:
                self.failureResultOf(taking, ConnectionClosed)
