"""
Tests for L{aesm.messages.stream}.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from threading import RLock, Thread
from typing import Any
from weakref import ref

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.frames import EncodedBodies, EncodedText
from aesm.errors import (
    AESMError,
    ConnectionClosed,
    ProtocolError,
    Truncated,
    closedError,
)
from aesm.messages.stream import (
    Arrivals,
    DataStream,
    Packet,
    Watch,
    costOf,
    isHeldHere,
)
from tests.support.helpers import bring
from tests.support.pairs import cancelling


class Text(str):
    """A text whose end can be watched."""


class FakeOwner:
    """
    Who is told what happens to a stream.

    @ivar taken: the costs that were reported.
    @ivar finished: how often it was told that the stream has finished.
    """

    def __init__(self) -> None:
        """Start with nothing told."""
        self.taken: list[int] = []
        self.finished = 0

    def packetsTaken(self, cost: int) -> None:
        """
        Take note.

        @param cost: of the packets.
        """
        self.taken.append(cost)

    def streamFinished(self) -> None:
        """Take note."""
        self.finished += 1


def filled(*data: str | bytes) -> DataStream:
    """
    Make a stream.

    @param data: what is in it.
    """
    stream = DataStream(FakeOwner(), 1 << 20)
    for number, item in enumerate(data):
        bring(stream, float(number), [item])
    return stream


class PacketTests(SynchronousTestCase):
    """L{Packet}, and what one costs."""

    def test_tuple(self) -> None:
        """A packet is a tuple of time and data, and unpacks as two."""
        packet = Packet(1.5, "x")
        time, data = packet
        self.assertEqual((time, data), (packet.time, packet.data))
        self.assertEqual(packet, (1.5, "x"))

    def test_cost(self) -> None:
        """A message costs its body on the wire and 64 bytes."""
        for data, cost in (("", 64), (b"ab", 66), ("ab", 66), ("é", 66), (None, 0)):
            self.assertEqual(costOf(data), cost)


class WatchTests(SynchronousTestCase):
    """L{Watch} is told that packets have come."""

    def test_told(self) -> None:
        """It is told when they are there, and those who wait here have theirs."""
        watch = Watch()
        stream = filled()
        stream.watch = watch
        bring(stream, 0.0, ["nobody wants to know"])
        lengths: list[int] = []
        watch.arrived = lambda: lengths.append(len(stream))
        stream.getData()
        waiting = [stream.get() for _ in range(2)]
        bring(stream, 0.0, ["a", "b", "c"])
        self.assertEqual(lengths, [1])
        self.assertEqual(self.successResultOf(waiting[1]).data, "b")

    def test_ofARegistry(self) -> None:
        """The order of arrival is that of all its streams, without its lock."""
        order, lock = Arrivals(), RLock()
        locked: list[bool] = []
        order.arrived = lambda: locked.append(isHeldHere(lock))
        for _ in range(2):
            bring(DataStream(FakeOwner(), 1000, lock, order), 0.0, ["a"])
        self.assertEqual(locked, [False, False])


class ClosedErrorTests(SynchronousTestCase):
    """L{closedError} makes an error for each user."""

    def test_same(self) -> None:
        """Class, text, code and reason stay; the object does not."""
        reason = Truncated("cut off", 1006, "why")
        error = closedError(reason)
        self.assertIsNot(error, reason)
        self.assertEqual(
            (type(error), str(error), error.code, error.reason),
            (Truncated, "cut off", 1006, "why"),
        )

    def test_other(self) -> None:
        """Any other error is the cause of a L{ConnectionClosed}."""
        reason = ProtocolError("nonsense")
        error = closedError(reason)
        self.assertEqual((type(error), str(error)), (ConnectionClosed, "nonsense"))
        self.assertIs(error.__cause__, reason)


class LookTests(SynchronousTestCase):
    """Looking takes nothing."""

    def test_index(self) -> None:
        """Positions count from either end."""
        stream = filled("a", b"b", "c")
        self.assertEqual(stream[0], Packet(0.0, "a"))
        self.assertEqual(stream[1], Packet(1.0, b"b"))
        self.assertEqual(stream[-1], Packet(2.0, "c"))
        self.assertIsInstance(stream[-3], Packet)
        self.assertEqual(len(stream), 3)

    def test_partlyTaken(self) -> None:
        """
        What is left of those that came together can be looked at, and what was taken
        is let go.
        """
        stream = DataStream(FakeOwner(), 1 << 20)
        texts = [Text(number) for number in range(5)]
        first = ref(texts[0])
        bring(stream, 0.0, texts)
        bring(stream, 1.0, ["5"])
        del texts
        for number in range(6):
            left = [str(n) for n in range(number, 6)]
            self.assertEqual([packet.data for packet in stream], left)
            self.assertEqual([stream[n].data for n in range(6 - number)], left)
            self.assertEqual([stream[n - 6].data for n in range(number, 6)], left)
            stream.getData()
        gc.collect()
        self.assertEqual((len(stream), first()), (0, None))

    def test_indexError(self) -> None:
        """Past either end there is nothing."""
        for stream, index in ((filled("a"), 1), (filled("a"), -2), (filled(), 0)):
            self.assertRaises(IndexError, stream.__getitem__, index)

    def test_iterate(self) -> None:
        """Iterating shows all, in order, as often as one likes."""
        stream = filled("a", "b")
        for _ in range(2):
            self.assertEqual([packet.data for packet in stream], ["a", "b"])
        self.assertEqual(len(stream), 2)

    def test_iterateAndTake(self) -> None:
        """What is taken or comes while iterating does no harm."""
        stream = filled("a", "b")
        seen = []
        for packet in stream:
            seen.append(packet.data)
            stream.getData()
            bring(stream, 9.0, ["new"])
        self.assertEqual(seen, ["a", "b"])

    def test_sequence(self) -> None:
        """It is a sequence in all other ways."""
        stream = filled("a", "b")
        self.assertIn(Packet(1.0, "b"), stream)
        self.assertEqual([p.data for p in reversed(stream)], ["b", "a"])
        self.assertEqual(stream.index(Packet(1.0, "b")), 1)
        self.assertTrue(stream)
        self.assertFalse(filled())


class GetDataTests(SynchronousTestCase):
    """C{getData} takes the oldest packet."""

    def test_order(self) -> None:
        """The oldest first; None when all are taken, and again packets later."""
        stream = filled("a", "b")
        self.assertEqual(stream.getData(), Packet(0.0, "a"))
        self.assertEqual(stream.getData(), Packet(1.0, "b"))
        self.assertIsNone(stream.getData())
        bring(stream, 5.0, ["c"])
        self.assertEqual(stream.getData(), Packet(5.0, "c"))

    def test_empty(self) -> None:
        """Empty messages are packets."""
        stream = filled("", b"")
        self.assertEqual(stream.getData(), (0.0, ""))
        self.assertEqual(stream.getData(), (1.0, b""))

    def test_reported(self) -> None:
        """What was taken is reported by quarters of the window."""
        owner = FakeOwner()
        stream = DataStream(owner, 4 * 65 * 2)
        bring(stream, 0.0, ["x"] * 5)
        for _ in range(5):
            stream.getData()
        self.assertEqual(owner.taken, [130, 130])

    def test_smallWindow(self) -> None:
        """With the smallest window each packet is reported."""
        owner = FakeOwner()
        stream = DataStream(owner, 1)
        bring(stream, 0.0, ["x"])
        stream.getData()
        self.assertEqual(owner.taken, [65])

    def looksLike(self, stream: DataStream, data: list[bytes]) -> None:
        """
        Look at a stream in every way.

        @param stream: the stream.
        @param data: what is to be there.
        """
        count = len(data)
        self.assertEqual(len(stream), count)
        self.assertEqual([packet.data for packet in stream], data)
        indices = range(-count, count)
        looked = [stream[index].data for index in indices]
        self.assertEqual(looked, [data[index] for index in indices])
        for index in (-count - 1, count):
            self.assertRaises(IndexError, stream.__getitem__, index)

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from((1, 100, 500, 2000, 9000)),
        st.lists(
            st.one_of(
                st.lists(st.binary(max_size=200), min_size=1, max_size=6),
                st.integers(1, 8),
            ),
            max_size=20,
        ),
    )
    def test_reports(self, window: int, steps: list[list[bytes] | int]) -> None:
        """
        However packets come and are taken, each counts when it is taken: there is a
        report whenever a quarter of the window is.

        @param window: bytes.
        @param steps: what comes together, or how many are taken.
        """
        owner = FakeOwner()
        stream = DataStream(owner, window)
        there: list[bytes] = []
        expected, taken = [], 0
        for step in steps:
            if isinstance(step, list):
                bring(stream, 0.0, step)
                there += step
                continue
            for data in there[:step]:
                packet = stream.getData()
                assert packet is not None
                self.assertEqual(packet.data, data)
                taken += costOf(data)
                if taken >= max(1, window // 4):
                    expected.append(taken)
                    taken = 0
            del there[:step]
            self.assertEqual(owner.taken, expected)
            self.looksLike(stream, there)
        stream.end(ConnectionClosed("over"))
        for data in there:
            self.assertEqual(owner.finished, 0)
            packet = stream.getData()
            assert packet is not None
            self.assertEqual(packet.data, data)
        self.assertEqual((owner.taken, owner.finished), (expected, 1))

    def test_signalHandler(self) -> None:
        """
        A signal handler that has interrupted who takes a packet finds none, which is
        all that it can be told: nobody else could go on.
        """
        stream = DataStream(FakeOwner(), 1000)
        bring(stream, 0.0, ["a"])
        with stream.lock:  # as whoever was interrupted has it
            self.assertIsNone(stream.getData())
            self.assertEqual((len(stream), stream[0].data), (1, "a"))
        self.assertEqual(getattr(stream.getData(), "data", None), "a")


class GetTests(SynchronousTestCase):
    """C{get} takes the next packet, once there is one."""

    def test_there(self) -> None:
        """It fires at once with what is there."""
        stream = filled("a")
        self.assertEqual(self.successResultOf(stream.get()).data, "a")
        self.assertEqual(len(stream), 0)

    def test_later(self) -> None:
        """Who waits is served in the order of asking; the rest stays."""
        stream = filled()
        first, second = stream.get(), stream.get()
        self.assertNoResult(first)
        bring(stream, 1.0, ["a"])
        self.assertNoResult(second)
        bring(stream, 2.0, ["b", "c"])
        self.assertEqual(self.successResultOf(first), (1.0, "a"))
        self.assertEqual(self.successResultOf(second), (2.0, "b"))
        self.assertEqual([p.data for p in stream], ["c"])

    def test_cancel(self) -> None:
        """Cancelling it takes nothing."""
        stream = filled()
        first, second = stream.get(), stream.get()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        bring(stream, 1.0, ["a", "b"])
        self.assertEqual(self.successResultOf(second).data, "a")
        self.assertEqual(len(stream), 1)

    def test_cancelEachOther(self) -> None:
        """One that fires may cancel the others."""
        stream = filled()
        waiting = [stream.get() for _ in range(3)]
        waiting[0].addBoth(cancelling(waiting[1:]))
        bring(stream, 1.0, ["a", "b"])
        self.assertEqual([p.data for p in stream], ["b"])
        for other in waiting[1:]:
            self.failureResultOf(other, CancelledError)

    def test_cancelEachOtherAtEnd(self) -> None:
        """The same when the stream ends."""
        stream = filled()
        waiting = [stream.get() for _ in range(3)]
        waiting[0].addErrback(cancelling(waiting[1:]))
        stream.end(Truncated("cut off"))
        for other in waiting[1:]:
            self.failureResultOf(other, CancelledError)

    def test_getAgain(self) -> None:
        """A callback may ask for the next one."""
        stream = filled()
        seen: list[Any] = []

        def more(packet: Packet) -> None:
            """
            Take note, and ask for more.

            @param packet: the packet.
            """
            seen.append(packet.data)
            if len(seen) < 1000:
                stream.get().addCallback(more)

        stream.get().addCallback(more)
        for _ in range(100):
            bring(stream, 0.0, [str(n) for n in range(10)])
        self.assertEqual(len(seen), 1000)

    def test_end(self) -> None:
        """
        It fails once the stream has ended and is empty, for each with an error
        of its own.
        """
        stream = filled()
        waiting = [stream.get(), stream.get()]
        bring(stream, 0.0, ["a", "b", "c"])
        stream.end(Truncated("cut off"))
        self.assertEqual([self.successResultOf(d).data for d in waiting], ["a", "b"])
        self.assertEqual(self.successResultOf(stream.get()).data, "c")
        errors = [self.failureResultOf(stream.get(), Truncated).value for _ in "ab"]
        self.assertIsNot(*errors)

    def test_endWaiting(self) -> None:
        """Who waits is told of the end."""
        stream = filled()
        waiting = [stream.get(), stream.get()]
        stream.end(ConnectionClosed("closed", 1000))
        for deferred in waiting:
            error: Any = self.failureResultOf(deferred, ConnectionClosed).value
            self.assertEqual(error.code, 1000)

    def test_handedOver(self) -> None:
        """
        A packet for which somebody waits is theirs at once, and reported as taken
        like any other.
        """
        owner = FakeOwner()
        stream = DataStream(owner, 1000)
        for number in range(8):
            waiting = stream.get()
            bring(stream, 1.5, [str(number)])
            packet = self.successResultOf(waiting)
            self.assertEqual(packet, (1.5, str(number)))
            self.assertIsInstance(packet, Packet)
        self.assertEqual(owner.taken, [260, 260])
        self.assertEqual(len(stream), 0)

    def test_takenMeanwhile(self) -> None:
        """Who waits goes on waiting if another thread takes the packet first."""

        class Stolen(DataStream):
            """A stream of which the first packet is stolen."""

            stolen = False

            def getData(self) -> Packet | None:
                """Let another thread be first, once."""
                packet = super().getData()
                if packet is None or self.stolen:
                    return packet
                self.stolen = True
                return None

        stream = Stolen(FakeOwner(), 1000, RLock(), Arrivals())
        waiting = stream.get()
        bring(stream, 0.0, ["a"])
        self.assertNoResult(waiting)
        bring(stream, 0.0, ["b"])
        self.assertEqual(self.successResultOf(waiting).data, "b")


class AsyncForTests(SynchronousTestCase):
    """C{async for} takes packets as they come."""

    def collect(
        self, stream: AsyncIterator[Packet] | DataStream
    ) -> Deferred[list[Any]]:
        """
        Take all.

        @param stream: where from.
        """

        async def collect() -> list[Any]:
            """Take all."""
            return [packet.data async for packet in stream]

        return ensureDeferred(collect())

    def test_orderly(self) -> None:
        """It stops where the connection is closed in order."""
        for code in (1000, 1001, 1005):
            stream = filled("a")
            collected = self.collect(stream)
            bring(stream, 1.0, ["b"])
            self.assertNoResult(collected)
            stream.end(ConnectionClosed("closed", code))
            self.assertEqual(self.successResultOf(collected), ["a", "b"])

    def test_disorderly(self) -> None:
        """Any other end is raised, after the last packet."""
        for reason in (Truncated("cut off"), ProtocolError("nonsense")):
            stream = filled("a")
            stream.end(reason)
            self.failureResultOf(self.collect(stream), ConnectionClosed)
            self.assertEqual(len(stream), 0)


class OwnerTests(SynchronousTestCase):
    """The owner is told once that a stream has finished."""

    def finish(self, *data: str) -> tuple[FakeOwner, DataStream]:
        """
        Make a stream that has ended.

        @param data: what is in it.
        """
        owner = FakeOwner()
        stream = DataStream(owner, 1)
        if data:
            bring(stream, 0.0, list(data))
        stream.end(AESMError("over"))
        return owner, stream

    def test_empty(self) -> None:
        """At the end, if it is empty; not again when somebody looks."""
        owner, stream = self.finish()
        self.assertIsNone(stream.getData())
        self.failureResultOf(stream.get())
        self.assertEqual(owner.finished, 1)

    def test_unread(self) -> None:
        """When the last packet is taken, and of the cost nothing any more."""
        owner, stream = self.finish("a", "b")
        stream.getData()
        self.assertEqual(owner.finished, 0)
        stream.getData()
        stream.getData()
        self.assertEqual((owner.finished, owner.taken), (1, []))

    def test_encoded(self) -> None:
        """
        A text that came encoded is decoded when it is taken or looked at, alone or in a
        burst, from either end, and counts the same.
        """
        wide = "a" * 200 + "\U0001f600"
        texts: list[str | bytes] = [wide, "b", b"c", wide]
        kept = EncodedBodies(
            EncodedText(t.encode()) if isinstance(t, str) and len(t) > 9 else t
            for t in texts
        )
        cost = sum(map(costOf, texts))
        for order in (None, Arrivals()):
            owner = FakeOwner()
            stream = DataStream(owner, 1, None, order)
            for _ in range(3):
                stream.extend(1.0, kept, cost)
            stream.extend(1.0, ["e", "f"], 130)
            self.assertEqual([data for _, data in stream], texts * 3 + ["e", "f"])
            self.assertEqual(stream[0].data, texts[0])
            self.assertEqual(stream[3].data, texts[3])
            taken = [stream.getData() for _ in range(len(stream))]
            self.assertEqual(taken, [(1.0, data) for data in [*texts * 3, "e", "f"]])
            self.assertEqual(sum(owner.taken), 3 * cost + 130)
            self.assertFalse(stream._encoded)
            waiting = stream.get()
            stream.extend(1.0, EncodedBodies(kept[:1]), costOf(kept[0]))
            self.assertEqual(self.successResultOf(waiting), (1.0, texts[0]))

    def test_arrivals(self) -> None:
        """
        What comes to one stream in a row is one arrival, since each is most of 200
        bytes.
        """
        order, lock = Arrivals(), RLock()
        first, second = (DataStream(FakeOwner(), 1, lock, order) for _ in range(2))
        for stream in (first, first, second, first, first):
            bring(stream, 0.0, ["x"])
        self.assertEqual([arrival.count for arrival in order], [2, 1, 2])

    def test_inOrder(self) -> None:
        """
        What comes to a registry's streams is in its order of arrival, however much
        comes together, until it is taken.
        """
        order, lock = Arrivals(), RLock()
        streams = [DataStream(FakeOwner(), 1 << 20, lock, order) for _ in range(2)]
        for number, count in enumerate((3, 1, 2)):
            bring(streams[number % 2], 0.0, ["x"] * count)
        self.assertEqual(order.held, 6 * 65)
        self.assertEqual([arrival.count for arrival in order], [3, 1, 2])
        for left in (4, 3, 2, 1, 0):
            streams[0].getData()
            self.assertEqual(order.held, (left + 1) * 65)
        streams[1].getData()
        self.assertEqual((order.held, len(order)), (0, 0))

    def test_threads(self) -> None:
        """
        A stream may be emptied from any thread: nothing comes twice or is lost,
        and it finishes once.
        """
        for number in range(100):  # counted one by one, and together
            owner = FakeOwner()
            stream = DataStream(owner, 1000 if number % 2 else 100_000)
            bring(stream, 0.0, [str(n) for n in range(7)])
            bring(stream, 0.0, [str(n) for n in range(7, 20)])
            seen: list[Any] = []

            def empty(stream: DataStream = stream, seen: list[Any] = seen) -> None:
                """
                Take what there is.

                @param stream: where from.
                @param seen: where to.
                """
                while (packet := stream.getData()) is not None:
                    seen.append(packet.data)

            threads = [Thread(target=empty) for _ in range(2)]
            for thread in threads:
                thread.start()
            stream.end(AESMError("over"))
            for thread in threads:
                thread.join()
            self.assertEqual(len(seen), 20)
            self.assertEqual(len(set(seen)), 20)
            self.assertEqual(owner.finished, 1)
