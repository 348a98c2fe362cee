"""
Tests for L{aesm.messages.connection}: bursts of messages, and what each of them is
worth.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from aesm import MessageTooBig, SendBufferFull
from tests.support.pairs import PairTestCase


class Text(str):
    """Text of a class of its own."""


class Bytes(bytes):
    """Bytes of a class of their own."""


DATA = (
    "ascii",
    "",
    "\xe9\u20ac\U0001f600",
    b"bytes",
    b"",
    b"\xff" * 30,
    bytearray(b"array"),
    memoryview(b"view"),
    Text("mine"),
    Text("\xe9"),
    Bytes(b"mine"),
)


def received(data: Any) -> str | bytes:
    """
    Say what a message arrives as.

    @param data: what was sent.
    """
    return str(data) if isinstance(data, str) else bytes(data)


class BurstTests(PairTestCase):
    """
    Messages of one turn of the event loop: the first takes another way than those
    behind it, and they may be of one kind or of several.
    """

    def test_kinds(self) -> None:
        """
        Each kind arrives as what it is behind each other, in order, and is
        acknowledged.
        """
        pair = self.pair()
        for first in DATA:
            for second in DATA:
                burst: list[Any] = ["quiet", first, first, second, first, second]
                sent = [pair.client.sendData(data) for data in burst]
                pair.deliver()
                for result in sent:
                    self.successResultOf(result)
                got = [pair.accepted.retrieved.getData() for _ in burst]
                expected = [received(data) for data in burst]
                self.assertEqual([packet and packet.data for packet in got], expected)
                self.assertEqual(
                    [type(packet and packet.data) for packet in got],
                    [type(data) for data in expected],
                )

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.lists(st.sampled_from(DATA), max_size=30), max_size=5))
    def test_anyBursts(self, bursts: list[list[Any]]) -> None:
        """
        So does any number of them, in any number of turns.

        @param bursts: what to send in each turn.
        """
        pair = self.pair()
        sent: list[Deferred[None]] = []
        for burst in bursts:
            sent += [pair.client.sendData(data) for data in burst]
            pair.clock.advance(0)
        pair.deliver()
        for result in sent:
            self.successResultOf(result)
        got = [packet.data for packet in pair.accepted.retrieved]
        self.assertEqual(got, [received(data) for burst in bursts for data in burst])

    def test_afterRefusal(self) -> None:
        """
        A message for which there is no room changes nothing for those behind it, in the
        same turn and in the next: they leave at once, in order.
        """
        pair = self.pair(client={"sendBuffer": 1000})
        burst = [b"1", bytes(500), bytes(900), b"2", bytes(900)]
        for _ in range(3):
            sent = [pair.client.sendData(data) for data in burst]
            for refused in sent[2], sent[4]:
                self.failureResultOf(refused, SendBufferFull)
            pair.deliver()
            sent = [sent[0], sent[1], sent[3], pair.client.sendData(b"3")]
            pair.deliver()
            for result in sent:
                self.successResultOf(result)
            got = [pair.accepted.retrieved.getData() for _ in sent]
            self.assertEqual(
                [packet and packet.data for packet in got],
                [b"1", bytes(500), b"2", b"3"],
            )

    def test_mutable(self) -> None:
        """What is changed after it was sent arrives as it was."""
        pair = self.pair()
        buffer = bytearray(b"before")
        for data in (b"first", b"second", buffer, memoryview(buffer)):
            pair.client.sendData(data)
        buffer[:] = b"behind"
        pair.deliver()
        got = [packet.data for packet in pair.accepted.retrieved]
        self.assertEqual(got[2:], [b"before", b"before"])

    def test_time(self) -> None:
        """Messages of one turn have one time, those of the next turn another."""
        pair = self.pair()
        for data in (b"quiet", b"1", b"2"):
            pair.client.sendData(data)
        pair.advance(1)
        for data in (b"3", b"4"):
            pair.client.sendData(data)
        pair.deliver()
        times = [packet.time for packet in pair.accepted.retrieved][1:]
        self.assertEqual(times[0], times[1])
        self.assertEqual(times[2], times[3])
        self.assertNotEqual(times[1], times[2])

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.integers(0, 300), min_size=1, max_size=40),
        st.integers(64, 6000),
        st.sampled_from([b"x", "x", "\xe9"]),
    )
    def test_sendBuffer(self, sizes: list[int], bound: int, unit: Any) -> None:
        """
        Each message of a burst is accepted if it fits what is kept, to the byte, and
        one that is not changes nothing for those behind it.

        @param sizes: of the messages.
        @param bound: the send buffer.
        @param unit: what the messages are made of.
        """
        pair = self.pair(client={"sendBuffer": bound})
        pair.network.links[0].toServer.stalled = True
        width = len(unit.encode()) if isinstance(unit, str) else 1
        kept, expected = 0, []
        for size in sizes:
            result = pair.client.sendData(unit * size)
            cost = size * width + 64
            if kept + cost <= bound:
                kept += cost
                expected.append(unit * size)
                self.assertNoResult(result)
            else:
                self.failureResultOf(result, SendBufferFull)
        self.assertEqual(pair.client.session.outbox.keptCost, kept)
        pair.network.links[0].toServer.stalled = False
        pair.deliver()
        self.assertEqual([p.data for p in pair.accepted.retrieved], expected)
        self.assertEqual(pair.client.session.outbox.keptCost, 0)

    def test_maxMessage(self) -> None:
        """So is each that is no larger than the peer takes."""
        pair = self.pair(server={"maxMessage": 10})
        expected: list[Any] = []
        for unit in ("x", b"x"):
            for size in (3, 10, 11, 4, 12, 10):
                result = pair.client.sendData(unit * size)
                if size > 10:
                    self.failureResultOf(result, MessageTooBig)
                else:
                    expected.append(unit * size)
        pair.deliver()
        self.assertEqual([p.data for p in pair.accepted.retrieved], expected)

    def test_closing(self) -> None:
        """
        Nothing is added to a burst once the connection closes; what was in it arrives.
        """
        pair = self.pair()
        for data in (b"quiet", b"1", b"2"):
            pair.client.sendData(data)
        pair.client.close()
        pair.client.sendData(b"3").addErrback(lambda failure: None)
        pair.deliver()
        got = [packet.data for packet in pair.accepted.retrieved]
        self.assertEqual(got, [b"quiet", b"1", b"2"])

    def test_cut(self) -> None:
        """Nor once it is cut."""
        pair = self.pair()
        for data in (b"quiet", b"1"):
            pair.client.sendData(data)
        pair.network.links[0].cut()
        self.assertFalse(pair.client.session.outbox.keptCost)
        result = pair.client.sendData(b"2")
        pair.deliver()
        self.failureResultOf(result)
        self.assertFalse(pair.client.session.outbox.keptCost)
