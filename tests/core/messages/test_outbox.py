"""
Tests of L{aesm.core.messages.outbox}: what is sent, kept and sent again, PROTOCOL
sections 7 and 8.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.batch import MAX_COST, Batch, LoggedBatch
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import (
    MAX_BATCH,
    MESSAGE_OVERHEAD,
    Ack,
    EncodedText,
    FrameType,
    Messages,
)
from aesm.core.messages.hello import Hello
from aesm.core.messages.outbox import Outbox
from aesm.core.messages.traffic import Traffic
from aesm.errors import MessageTooBig, ProtocolError, SendBufferFull

BOUND = 10_000
PLENTY = 1 << 40


def makeOutbox(
    bound: int = BOUND, limit: int = PLENTY, batch: bool = True, maxMessage: int = 4096
) -> Outbox:
    """
    Make an outbox.

    @param bound: what it may keep, bytes.
    @param limit: what the peer takes, bytes.
    @param batch: whether the peer takes BATCH frames.
    @param maxMessage: the largest message that the peer takes, bytes.
    """
    outbox = Outbox(bound)
    outbox.meet(Hello(batch=batch, maxMessage=maxMessage))
    outbox.limit = limit
    return outbox


def taken(outbox: Outbox, budget: int = PLENTY) -> list[Messages]:
    """
    Take what is to be sent.

    @param outbox: of it.
    @param budget: bytes.
    @return: it, as the peer reads it.
    """
    frames = FrameReader(1 << 20).receive(b"".join(outbox.take(budget)))
    return [frame for frame in frames if isinstance(frame, Messages)]


class TrafficTests(SynchronousTestCase):
    """What an outbox adds up for all."""

    def test_acknowledged(self) -> None:
        """
        What is acknowledged counts once, by one way or the other, and so does when the
        oldest of it was sent; of a session that was dropped nothing does.
        """
        for settle in (False, True):
            outbox = makeOutbox()
            traffic = outbox.traffic = Traffic()
            for micros in (5, 7):
                outbox.add(b"abc", micros)
                outbox.closeBatch()
            outbox.take(PLENTY)
            outbox.acknowledge(Ack(1, PLENTY))
            self.assertEqual(
                (traffic.messagesOut, traffic.costOut, traffic.oldest), (1, 67, 5)
            )
            if settle:
                traffic.oldest = 0
                self.assertTrue(outbox.settle(2, PLENTY))
            else:  # in the same read
                outbox.acknowledge(Ack(2, PLENTY))
            self.assertEqual((traffic.messagesOut, traffic.costOut), (2, 134))
            self.assertEqual(traffic.oldest, 7 if settle else 5)
            outbox.add(b"abc", 9)
            outbox.drop()
            if settle:
                outbox.settle(3, PLENTY)
            else:
                outbox.acknowledge(Ack(3, PLENTY))
            self.assertEqual(traffic.messagesOut, 2)

    def test_oldest(self) -> None:
        """
        The time of the oldest message that is not acknowledged is known, wherever it
        is.
        """
        outbox = makeOutbox()
        self.assertEqual(outbox.oldest, 0)
        outbox.add(b"1", 5)
        outbox.closeBatch()
        outbox.add(b"2", 7)
        self.assertEqual(outbox.oldest, 5)
        outbox.take(1)
        self.assertEqual(outbox.oldest, 5)
        outbox.acknowledge(Ack(1, PLENTY))
        self.assertEqual(outbox.oldest, 7)
        staged = makeOutbox()
        staged.stage()
        staged.add(b"1", 9)
        self.assertEqual(staged.oldest, 9)


class BeginTests(SynchronousTestCase):
    """L{Outbox.begin}."""

    def test_begin(self) -> None:
        """Before it knows the peer, nothing is sent; then what the peer takes is."""
        outbox = Outbox(BOUND)
        outbox.add("one", 1)
        outbox.add("two", 1)
        self.assertFalse(outbox.sendable)
        outbox.begin(Hello(window=1, maxMessage=3))
        self.assertEqual([f.data for f in taken(outbox)], [("one",)])
        self.assertRaises(MessageTooBig, outbox.add, "four", 1)


class AddTests(SynchronousTestCase):
    """L{Outbox.add}."""

    def test_counts(self) -> None:
        """Each message is counted from 1 on, and costs its bytes and 64 more."""
        outbox = makeOutbox()
        self.assertEqual(outbox.add("\xe9", 0), 1)
        self.assertEqual(outbox.add(b"abc", 0), 2)
        self.assertEqual(outbox.add("", 0), 3)
        self.assertEqual(outbox.count, 3)
        self.assertEqual(outbox.keptCost, 2 + 3 + 0 + 3 * 64)
        self.assertEqual((outbox.sent, outbox.acknowledged), (0, 0))

    def test_kinds(self) -> None:
        """Text is text, and all kinds of bytes are bytes, as they are now."""
        outbox = makeOutbox()
        mutable = bytearray(b"one")
        for data in ("text", b"bytes", mutable, memoryview(mutable)[1:]):
            outbox.add(data, 0)
        mutable[:] = b"two"
        (messages,) = taken(outbox)
        self.assertEqual(messages.data, ["text", b"bytes", b"one", b"ne"])

    def test_encoded(self) -> None:
        """A text that was encoded before is a text, and is not copied."""
        outbox = makeOutbox()
        encoded = EncodedText("\xe9".encode())
        outbox.add(encoded, 0)
        outbox.stage()
        outbox.closeBatch()
        outbox.add(encoded, 0)
        self.assertIs(outbox.takeStaged()[0].bodies[0], encoded)
        self.assertEqual([f.data for f in taken(outbox)], [("\xe9",)])

    def test_otherKinds(self) -> None:
        """Nothing else can be sent, nor what has no UTF-8, and it costs nothing."""
        outbox = makeOutbox()
        for data in (None, 1, ["text"]):
            self.assertRaises(TypeError, outbox.add, data, 0)
        self.assertRaises(ValueError, outbox.add, "\ud800", 0)
        self.assertEqual((outbox.count, outbox.keptCost, outbox.unsent), (0, 0, False))

    def test_maxMessage(self) -> None:
        """A message may be as large as the peer takes, in bytes."""
        outbox = makeOutbox(maxMessage=10)
        for data in ("x" * 9, "x" * 10, "\xe9" * 5, bytes(10)):
            outbox.add(data, 0)
        kept = outbox.keptCost
        for data in ("x" * 11, "\xe9" * 6, bytes(11)):
            error = self.assertRaises(MessageTooBig, outbox.add, data, 0)
            self.assertIn("at most 10", str(error))
        self.assertEqual((outbox.count, outbox.keptCost), (4, kept))

    def test_bound(self) -> None:
        """
        What is kept may come to the bound, and not to a byte more; what does not fit
        changes nothing.
        """
        for last, fits in ((35, True), (36, True), (37, False)):
            outbox = makeOutbox(bound=200)
            outbox.add(bytes(36), 0)
            if fits:
                self.assertEqual(outbox.add(bytes(last), 0), 2)
            else:
                error = self.assertRaises(SendBufferFull, outbox.add, bytes(last), 0)
                self.assertIn("100 of 200 bytes", str(error))
                self.assertEqual((outbox.count, outbox.keptCost), (1, 100))

    def test_room(self) -> None:
        """What is acknowledged makes room; what is only sent does not."""
        outbox = makeOutbox(bound=128)
        outbox.add(b"", 0)
        outbox.add(b"", 0)
        taken(outbox)
        self.assertRaises(SendBufferFull, outbox.add, b"", 0)
        outbox.acknowledge(Ack(1, PLENTY))
        self.assertEqual(outbox.add(b"", 0), 3)

    def test_roomy(self) -> None:
        """There is plenty of room while less than half of the bound is in use."""
        for bound, roomy in ((199, False), (200, False), (201, True)):
            outbox = makeOutbox(bound)
            self.assertTrue(outbox.roomy)
            outbox.add(bytes(36), 0)
            self.assertEqual(outbox.roomy, roomy)


class TakeTests(SynchronousTestCase):
    """L{Outbox.take}."""

    def test_nothing(self) -> None:
        """Where nothing waits, nothing is sent."""
        outbox = makeOutbox()
        self.assertFalse(outbox.unsent)
        self.assertFalse(outbox.sendable)
        self.assertEqual(outbox.take(PLENTY), [])

    def test_alone(self) -> None:
        """A message that is alone in its turn is a TEXT or a BINARY."""
        for data, kind in (("text", FrameType.TEXT), (b"text", FrameType.BINARY)):
            outbox = makeOutbox()
            outbox.add(data, 7)
            self.assertTrue(outbox.sendable)
            expected = b"\0\0\0\4" + bytes([kind]) + b"\0\0\0\0\0\0\0\7" + b"text"
            self.assertEqual(b"".join(outbox.take(PLENTY)), expected)
            self.assertEqual((outbox.sent, outbox.unsent), (1, False))

    def test_turn(self) -> None:
        """
        Messages of one turn are one BATCH, with the time of the first; those of the
        next turn are not in it.
        """
        outbox = makeOutbox()
        for number in range(6):
            outbox.add(f"{number}", 10 + number)
            if number % 2:
                outbox.closeBatch()
        frames = taken(outbox)
        self.assertEqual([f.data for f in frames], [["0", "1"], ["2", "3"], ["4", "5"]])
        self.assertEqual([f.micros for f in frames], [10, 12, 14])

    def test_takenTurn(self) -> None:
        """
        What is sent in a turn after some of it was handed over, is a frame of its
        own.
        """
        outbox = makeOutbox()
        outbox.add("one", 1)
        outbox.add("two", 2)
        self.assertEqual([f.data for f in taken(outbox)], [["one", "two"]])
        outbox.add("three", 3)
        (frame,) = taken(outbox)
        self.assertEqual((frame.micros, frame.data), (3, ("three",)))

    def test_withoutBatch(self) -> None:
        """A peer that does not take BATCH frames gets each message in its own."""
        outbox = makeOutbox(batch=False)
        for data in ("text", b"bytes", ""):
            outbox.add(data, 5)
        frames = taken(outbox)
        self.assertEqual([f.data for f in frames], [("text",), (b"bytes",), ("",)])
        self.assertEqual({f.micros for f in frames}, {5})

    def test_fullBatch(self) -> None:
        """
        What goes into a BATCH counts so much at the most that its body, of at most
        65,506 bytes, has room for it.
        """
        room = MAX_COST - 2 * MESSAGE_OVERHEAD - 1000
        for size, frames in ((room - 1, 1), (room, 1), (room + 1, 2)):
            outbox = makeOutbox(bound=PLENTY, maxMessage=PLENTY)
            outbox.add(bytes(1000), 0)
            outbox.add(bytes(size), 0)
            self.assertEqual(len(taken(outbox)), frames)

    def test_manyEmpty(self) -> None:
        """So a turn of many small messages is cut into several."""
        outbox = makeOutbox(bound=PLENTY)
        most = MAX_COST // MESSAGE_OVERHEAD
        for _ in range(most + 1):
            outbox.add("", 0)
        self.assertEqual([len(f.data) for f in taken(outbox)], [most, 1])

    def test_large(self) -> None:
        """A message that fits no BATCH goes alone, and so do its neighbours."""
        outbox = makeOutbox(bound=PLENTY, maxMessage=PLENTY)
        for size in (1, MAX_BATCH, 2):
            outbox.add(bytes(size), 0)
        self.assertEqual([f.cost - 64 for f in taken(outbox)], [1, MAX_BATCH, 2])

    def test_limit(self) -> None:
        """A message may be sent while the bytes sent before it are below the limit."""
        for limit, sent in (
            (0, 0),
            (1, 1),
            (99, 1),
            (100, 1),
            (101, 2),
            (200, 2),
            (201, 3),
            (PLENTY, 3),
        ):
            for batch in (True, False):
                outbox = makeOutbox(limit=limit, batch=batch)
                for _ in range(3):
                    outbox.add(bytes(36), 0)
                self.assertEqual(outbox.sendable, limit > 0)
                got = sum(len(f.data) for f in taken(outbox))
                self.assertEqual((got, outbox.sent), (sent, sent))
                self.assertEqual(outbox.unsent, sent < 3)
                self.assertFalse(outbox.sendable)

    def test_limitOfEmpty(self) -> None:
        """Empty messages count too."""
        for limit, sent in ((1, 1), (64, 1), (65, 2), (128, 2), (129, 3)):
            outbox = makeOutbox(limit=limit)
            for _ in range(3):
                outbox.add("", 0)
            taken(outbox)
            self.assertEqual(outbox.sent, sent)

    def test_limitGrows(self) -> None:
        """
        The rest of a turn follows when the limit grows, with the time it was sent.
        """
        outbox = makeOutbox(limit=1)
        for number in range(4):
            outbox.add(f"{number}", 7)
        self.assertEqual([f.data for f in taken(outbox)], [("0",)])
        outbox.acknowledge(Ack(0, 66))
        self.assertEqual([f.data for f in taken(outbox)], [("1",)])
        outbox.acknowledge(Ack(0, PLENTY))
        (frame,) = taken(outbox)
        self.assertEqual((frame.micros, frame.data), (7, ["2", "3"]))

    def test_budget(self) -> None:
        """Nothing more is handed over once the budget is used up."""
        outbox = makeOutbox()
        for _ in range(4):
            outbox.add(bytes(36), 0)
            outbox.closeBatch()
        for budget, sent in ((-1, 0), (0, 0), (1, 1), (100, 2), (101, 4), (PLENTY, 4)):
            taken(outbox, budget)
            self.assertEqual(outbox.sent, sent)

    def test_drop(self) -> None:
        """What is dropped is neither kept nor sent."""
        outbox = makeOutbox()
        for number in range(3):
            outbox.add(f"{number}", 0)
            outbox.closeBatch()
        taken(outbox, 1)
        outbox.drop()
        self.assertEqual((outbox.keptCost, outbox.unsent, outbox.count), (0, False, 3))
        self.assertEqual(taken(outbox), [])
        for number in (1, 2):  # it may still say what it has, until it is gone
            self.assertFalse(outbox.acknowledge(Ack(number, PLENTY)))
        self.assertEqual((outbox.keptCost, outbox.keptMemory), (0, 0))


class AcknowledgeTests(SynchronousTestCase):
    """L{Outbox.acknowledge}."""

    def setUp(self) -> None:
        """
        Send four of six messages, two of them in one BATCH, and have one of these
        acknowledged.
        """
        self.outbox = makeOutbox(limit=301)
        for number in range(6):
            self.outbox.add(bytes(36), 0)
            if number != 1:
                self.outbox.closeBatch()
        taken(self.outbox)
        self.outbox.acknowledge(Ack(1, 301))

    def test_setUp(self) -> None:
        """A part of a BATCH may be acknowledged."""
        self.assertEqual((self.outbox.sent, self.outbox.acknowledged), (4, 1))
        self.assertEqual(self.outbox.keptCost, 500)

    def test_cumulative(self) -> None:
        """It counts all messages from the first on, and may say the same twice."""
        for count in (1, 2, 2, 4, 4):
            self.outbox.acknowledge(Ack(count, 301))
            self.assertEqual(self.outbox.acknowledged, count)
            self.assertEqual(self.outbox.keptCost, (6 - count) * 100)

    def test_wrong(self) -> None:
        """
        One that goes backwards in either number, or counts what was not sent, is
        refused and changes nothing.
        """
        for ack, text in (
            (Ack(0, PLENTY), "1 are acknowledged and 4 were sent"),
            (Ack(5, PLENTY), "an ACK of 5 messages"),
            (Ack(6, PLENTY), "an ACK of 6 messages"),
            (Ack(2**64 - 1, PLENTY), "messages; 1 are"),
            (Ack(2, 300), "takes its limit back"),
            (Ack(2, 0), "takes its limit back"),
        ):
            error = self.assertRaises(ProtocolError, self.outbox.acknowledge, ack)
            self.assertIn(text, str(error))
            self.test_setUp()
            self.assertEqual(self.outbox.limit, 301)

    def test_largest(self) -> None:
        """A limit may be as large as its field."""
        self.outbox.acknowledge(Ack(1, 2**64 - 1))
        self.assertEqual(len(taken(self.outbox)), 2)

    def test_oneByOne(self) -> None:
        """A BATCH may be acknowledged one message at a time."""
        outbox = makeOutbox(bound=PLENTY)
        for size in range(50):
            outbox.add(bytes(size), 0)
        taken(outbox)
        for count in range(51):
            outbox.acknowledge(Ack(count, PLENTY))
            self.assertEqual(outbox.keptCost, sum(range(count, 50)) + 64 * (50 - count))


class ResumeTests(SynchronousTestCase):
    """
    L{Outbox.resume}: going back to what the peer does not have, PROTOCOL section 8.
    """

    def resumed(
        self, batch: bool, budget: int, acknowledged: int, received: int
    ) -> Outbox:
        """
        Send some of five messages of two turns, then go on over a new connection.

        @param batch: whether the peer takes BATCH frames.
        @param budget: of the first connection, for each of two turns, bytes.
        @param acknowledged: messages that the peer has acknowledged.
        @param received: messages that it has.
        """
        outbox = makeOutbox(batch=batch)
        for number in range(5):
            outbox.add(f"{number}", 10 + number)
            if number == 2:
                outbox.closeBatch()
                taken(outbox, budget)
        taken(outbox, budget)
        outbox.acknowledge(Ack(acknowledged, PLENTY))
        outbox.resume(replace(outbox.peer, received=received))
        return outbox

    def check(self, outbox: Outbox, received: int, whole: bool = True) -> None:
        """
        Check that a peer gets what it does not have, in order, with the times of old.

        @param outbox: whose.
        @param received: messages that it has.
        @param whole: whether turns were not cut up before.
        """
        self.assertEqual(outbox.sent, received)
        self.assertEqual(outbox.unsent, received < 5)
        frames = taken(outbox)
        got = [(f.micros, data) for f in frames for data in f.data]
        sent = [(10, "0"), (10, "1"), (10, "2"), (13, "3"), (13, "4")]
        self.assertEqual(got, sent[received:])
        expected = {0: [3, 2], 1: [2, 2], 2: [1, 2], 3: [2], 4: [1], 5: []}[received]
        if not outbox.peer.batch:
            expected = [1] * sum(expected)
        if whole:
            self.assertEqual([len(f.data) for f in frames], expected)
        self.assertEqual(outbox.sent, 5)
        for count in range(outbox.acknowledged, 6):
            outbox.acknowledge(Ack(count, PLENTY))
            self.assertEqual(outbox.keptCost, 65 * (5 - count))

    def test_everywhere(self) -> None:
        """
        Wherever the connection was cut, and whatever was acknowledged before, the
        peer gets what it does not have, and what is kept and counted is as before.
        """
        for batch in (True, False):
            for received in range(6):
                for acknowledged in range(received + 1):
                    outbox = self.resumed(batch, PLENTY, acknowledged, received)
                    self.assertEqual(outbox.keptCost, 65 * (5 - acknowledged))
                    self.check(outbox, received)

    def test_partlySent(self) -> None:
        """What was not sent follows what is sent again."""
        for received in range(5):  # two times two of the five were sent
            self.check(self.resumed(True, 130, 0, received), received, whole=False)

    def test_budget(self) -> None:
        """
        No more is taken than was asked for, but at least one message: turns are cut up.
        """
        outbox = makeOutbox()
        for number in range(5):
            outbox.add(f"{number}", 7)
        took = [[len(f.data) for f in taken(outbox, size)] for size in (1, 130, 131)]
        self.assertEqual(took, [[1], [2], [2]])

    def test_nothingSent(self) -> None:
        """Where nothing was sent, nothing changes."""
        outbox = makeOutbox()
        outbox.resume(outbox.peer)
        self.assertEqual(taken(outbox), [])
        outbox.add("text", 7)
        outbox.resume(outbox.peer)
        self.assertEqual([f.data for f in taken(outbox)], [("text",)])

    def test_againAndAgain(self) -> None:
        """
        A session may be resumed at any place any number of times: turns that were cut
        up then come in more frames, each with its time.
        """
        outbox = self.resumed(True, PLENTY, 0, 1)
        for received in (1, 2, 4, 2, 3, 1, 5, 0):
            taken(outbox)
            outbox.resume(replace(outbox.peer, received=received))
        frames = taken(outbox)
        self.assertEqual([f.micros for f in frames], [10, 10, 10, 13, 13])
        self.assertEqual([*"01234"], [data for f in frames for data in f.data])

    def test_impossible(self) -> None:
        """
        A peer cannot have less than it has acknowledged, nor what was not sent; that
        changes nothing.
        """
        outbox = makeOutbox(limit=1000)
        for number in range(6):
            outbox.add(f"{number}", 0)
            outbox.closeBatch()
        taken(outbox, 4 * 65)
        outbox.acknowledge(Ack(2, 1000))
        for received in (0, 1, 5, 6, 7, 2**64 - 1):
            peer = replace(outbox.peer, received=received, batch=False)
            self.assertFalse(outbox.canResume(peer))
            error = self.assertRaises(ProtocolError, outbox.resume, peer)
            self.assertIn("2 are acknowledged and 4 were sent", str(error))
            self.assertIn(f"at {received} messages", str(error))
            self.assertTrue(outbox.peer.batch)
            self.assertEqual((outbox.sent, outbox.keptCost), (4, 4 * 65))
        for received in (2, 3, 4):
            self.assertTrue(outbox.canResume(replace(outbox.peer, received=received)))
        self.assertEqual([f.data for f in taken(outbox)], [("4",), ("5",)])

    def test_smaller(self) -> None:
        """
        A peer that takes smaller messages now is fine if they all are, sent or not;
        then it is its new bound that counts.
        """
        for sizes in ((10, 7), (7, 10)):
            for maxMessage, good in ((9, False), (10, True), (4096, True)):
                outbox = makeOutbox()
                for size in sizes:
                    outbox.add(bytes(size), 0)
                    taken(outbox, 1 - outbox.sent)
                self.assertEqual(outbox.sent, 1)
                peer = replace(outbox.peer, maxMessage=maxMessage)
                self.assertEqual(outbox.canResume(peer), good)
                if good:
                    outbox.resume(peer)
                    tooBig = bytes(maxMessage + 1)
                    self.assertRaises(MessageTooBig, outbox.add, tooBig, 0)
                    self.assertEqual(outbox.add(bytes(maxMessage), 0), 3)
                else:
                    error = self.assertRaises(ProtocolError, outbox.resume, peer)
                    self.assertIn("of 9 bytes at most", str(error))

    def test_larger(self) -> None:
        """A peer that takes larger messages now gets them."""
        outbox = makeOutbox(maxMessage=10)
        outbox.resume(replace(outbox.peer, maxMessage=11))
        self.assertEqual(outbox.add(bytes(11), 0), 1)

    def test_batch(self) -> None:
        """A peer that takes BATCH frames no more, or only now, gets what it takes."""
        for batch in (True, False):
            outbox = self.resumed(batch, PLENTY, 0, 0)
            outbox.resume(replace(outbox.peer, batch=not batch))
            self.check(outbox, 0)

    def test_limit(self) -> None:
        """
        The limit stays: a new window means nothing to an old session.  What is sent
        again is not counted twice.
        """
        outbox = makeOutbox(limit=131)
        for number in range(5):
            outbox.add(f"{number}", 0)
        self.assertEqual([len(f.data) for f in taken(outbox)], [3])
        for received in (3, 2, 0):
            outbox.resume(replace(outbox.peer, window=PLENTY, received=received))
            self.assertEqual(outbox.limit, 131)
            self.assertEqual(outbox.sendable, received < 3)
            self.assertEqual(sum(len(f.data) for f in taken(outbox)), 3 - received)
        outbox.acknowledge(Ack(0, 196))
        self.assertEqual(sum(len(f.data) for f in taken(outbox)), 1)

    def test_limitOfNothing(self) -> None:
        """A session in which the peer took nothing, still takes nothing."""
        outbox = makeOutbox(limit=0)
        outbox.add("text", 0)
        outbox.resume(replace(outbox.peer, window=1000))
        self.assertFalse(outbox.sendable)
        self.assertEqual(taken(outbox), [])

    def test_openTurn(self) -> None:
        """
        What is accepted after a session was resumed does not join what was accepted
        before.
        """
        outbox = makeOutbox()
        outbox.add("before", 1)
        outbox.resume(outbox.peer)
        outbox.add("after", 2)
        frames = [(f.micros, f.data) for f in taken(outbox)]
        self.assertEqual(frames, [(1, ("before",)), (2, ("after",))])

    def test_endTurnSince(self) -> None:
        """
        While there is no connection, messages go together that were accepted within
        some time.
        """
        outbox = makeOutbox()
        for micros in (1000, 1900, 2000, 2001, 2500, 9000):
            outbox.closeBatch(since=micros - 1000)
            outbox.add(f"{micros}", micros)
        frames = [(f.micros, len(f.data)) for f in taken(outbox)]
        self.assertEqual(frames, [(1000, 3), (2001, 2), (9000, 1)])

    def test_dropped(self) -> None:
        """
        Where the messages are gone there is nothing to resume, even if the peer had
        them all: the session is over.
        """
        for sent, received in ((0, 0), (1, 0), (1, 1)):
            outbox = makeOutbox()
            outbox.add("text", 0)
            taken(outbox, sent)
            if received:
                outbox.acknowledge(Ack(1, PLENTY))
            outbox.drop()
            peer = replace(outbox.peer, received=received)
            self.assertFalse(outbox.canResume(peer))
            self.assertRaises(ProtocolError, outbox.resume, peer)


class StageTests(SynchronousTestCase):
    """Messages that are written down before they are sent: L{Outbox.stage}."""

    def test_keptBack(self) -> None:
        """What is accepted counts and is kept, but not sent before it is released."""
        outbox = makeOutbox()
        outbox.stage()
        self.assertEqual(outbox.takeStaged(), [])
        self.assertEqual(outbox.add("one", 1), 1)
        self.assertEqual(outbox.add("two", 1), 2)
        self.assertTrue(outbox.unsent)
        self.assertFalse(outbox.sendable)
        self.assertEqual((taken(outbox), outbox.keptCost), ([], 2 * 67))
        (turn,) = staged = outbox.takeStaged()
        self.assertEqual((turn.micros, turn.bodies), (1, ["one", "two"]))
        self.assertEqual(outbox.takeStaged(), [])
        self.assertEqual(taken(outbox), [])
        outbox.release(staged)
        self.assertEqual([f.data for f in taken(outbox)], [["one", "two"]])
        self.assertFalse(outbox.unsent)

    def test_complete(self) -> None:
        """What was taken to be written down grows no more."""
        outbox = makeOutbox()
        outbox.stage()
        outbox.add("one", 1)
        staged = outbox.takeStaged()
        outbox.add("two", 1)
        outbox.release(staged)
        self.assertEqual([f.data for f in taken(outbox)], [("one",)])
        outbox.release(outbox.takeStaged())
        self.assertEqual([f.data for f in taken(outbox)], [("two",)])

    def test_resume(self) -> None:
        """
        What is kept back stays so over a resume, and comes after what is sent again.
        """
        outbox = makeOutbox()
        outbox.stage()
        outbox.add("one", 1)
        outbox.release(outbox.takeStaged())
        taken(outbox)
        outbox.add("two", 2)
        staged = outbox.takeStaged()
        outbox.add("three", 3)
        self.assertFalse(outbox.canResume(replace(outbox.peer, received=2)))
        outbox.resume(outbox.peer)
        outbox.release(staged)
        self.assertEqual([f.data for f in taken(outbox)], [("one",), ("two",)])
        self.assertTrue(outbox.unsent)

    def test_notStaged(self) -> None:
        """Of an outbox that keeps nothing back there is nothing to be written down."""
        outbox = makeOutbox()
        outbox.add("text", 1)
        self.assertEqual(outbox.takeStaged(), [])


def logged(*bodies: bytes) -> LoggedBatch:
    """Make messages that are stored for many."""
    batch = LoggedBatch(8)
    batch.fill(list(bodies))
    return batch


class TellTests(SynchronousTestCase):
    """What is stored for many together."""

    def test_tell(self) -> None:
        """It has the next numbers, and leaves when it is released."""
        outbox = makeOutbox()
        outbox.add("own", 7)
        batch = outbox.tell(logged(b"a", b"b"))
        self.assertEqual((batch.first, outbox.count), (1, 3))
        self.assertEqual(outbox.keptCost, 5 + 3 * MESSAGE_OVERHEAD)
        outbox.release((batch,))
        outbox.add("more", 9)
        self.assertEqual(
            [list(frame.data) for frame in taken(outbox)],
            [["own"], [b"a", b"b"], ["more"]],
        )
        self.assertEqual([each.first for each in outbox.released], [0, 1, 3])
        outbox.acknowledge(Ack(2, PLENTY))
        self.assertEqual([each.first for each in outbox.released], [2, 3])

    def test_refused(self) -> None:
        """Where there is no room it is refused, and nothing has changed."""
        for room in (-1, 0, 1):
            outbox = makeOutbox(bound=2 * (100 + MESSAGE_OVERHEAD) + room)
            outbox.tell(logged(bytes(100)))
            if room < 0:
                self.assertRaises(SendBufferFull, outbox.tell, logged(bytes(100)))
                self.assertEqual(outbox.count, 1)
            else:
                outbox.tell(logged(bytes(100)))


class RestoreTests(SynchronousTestCase):
    """What a new process goes on with: L{Outbox.restore}."""

    def restored(self) -> Outbox:
        """Restore an outbox of seven messages, of which two are acknowledged."""
        outbox = makeOutbox(limit=0)
        messages = [f"{number}" for number in range(2, 7)]
        turns = [
            Batch.of(Messages(micros, data, 0, 0))
            for micros, data in ((10, messages[:3]), (20, messages[3:]))
        ]
        outbox.restore(2, 130, 400, turns)
        return outbox

    def test_counts(self) -> None:
        """It knows what was written down, and that all of it may have been sent."""
        outbox = self.restored()
        self.assertEqual((outbox.acknowledged, outbox.acknowledgedCost), (2, 130))
        self.assertEqual((outbox.sent, outbox.count), (7, 7))
        self.assertEqual((outbox.keptCost, outbox.limit), (5 * 65, 400))
        self.assertFalse(outbox.unsent)
        self.assertFalse(outbox.sendable)

    def test_resume(self) -> None:
        """
        The peer gets what it does not have, as far as it takes that: the limit counts
        from the session's start.
        """
        for received in range(2, 8):
            outbox = self.restored()
            outbox.resume(replace(outbox.peer, received=received))
            got = [data for f in taken(outbox) for data in f.data]
            self.assertEqual(got, [*"23456"][received - 2 :])
            self.assertEqual(outbox.add("new", 30), 8)
            self.assertEqual(taken(outbox), [])
            outbox.acknowledge(Ack(7, 456))
            self.assertEqual(outbox.acknowledgedCost, 7 * 65)
            (frame,) = taken(outbox)
            self.assertEqual((frame.micros, frame.data), (30, ("new",)))

    def test_impossible(self) -> None:
        """
        A peer that has less than it acknowledged, or more than there was, cannot go on.
        """
        for received in (0, 1, 8):
            outbox = self.restored()
            self.assertFalse(outbox.canResume(replace(outbox.peer, received=received)))


class ModelTests(SynchronousTestCase):
    """The outbox against sums over lists."""

    @settings(max_examples=100, deadline=None)
    @given(st.booleans(), st.data())
    def test_outbox(self, batch: bool, data: Any) -> None:
        """
        Whatever is done, the messages come out in order, again from where the session
        is resumed, and exactly as many as the limit allows; what is kept is what is
        not acknowledged.

        @param batch: whether the peer takes BATCH frames.
        @param data: draws what is done.
        """
        outbox = makeOutbox(bound=2000, limit=0, batch=batch, maxMessage=300)
        added: list[bytes] = []
        got: list[str | bytes] = []

        def cost(start: int, end: int) -> int:
            """
            Add up what some of the messages cost.

            @param start: the first.
            @param end: the first that is not one of them.
            """
            return sum(len(body) + 64 for body in added[start:end])

        for _ in range(data.draw(st.integers(1, 12))):
            for size in data.draw(st.lists(st.integers(0, 299), max_size=6)):
                body = len(added).to_bytes(1, "big") + bytes(size)
                room = 2000 - cost(outbox.acknowledged, len(added))
                if len(body) + 64 <= room:
                    added.append(body)
                    self.assertEqual(outbox.add(body, 0), len(added))
                else:
                    self.assertRaises(SendBufferFull, outbox.add, body, 0)
            if data.draw(st.booleans()):
                outbox.closeBatch()
            for messages in taken(outbox, data.draw(st.sampled_from([0, 1, 300]))):
                got += messages.data
            if data.draw(st.booleans()):
                for messages in taken(outbox):
                    got += messages.data
                allowed = 0
                while allowed < len(added) and cost(0, allowed) < outbox.limit:
                    allowed += 1
                self.assertEqual(outbox.sent, allowed)
            self.assertEqual(got, added[: outbox.sent])
            if data.draw(st.booleans()):
                received = data.draw(st.integers(outbox.acknowledged, outbox.sent))
                outbox.resume(replace(outbox.peer, received=received))
                del got[received:]
            count = data.draw(st.integers(outbox.acknowledged, outbox.sent))
            more = data.draw(st.integers(0, 900))
            outbox.acknowledge(Ack(count, outbox.limit + more))
            self.assertEqual(outbox.keptCost, cost(count, len(added)))
