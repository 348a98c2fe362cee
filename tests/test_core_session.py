"""
Tests of L{aesm.core.session}: what is counted, kept and allowed, PROTOCOL section 7.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.frames import (
    MAX_BATCH,
    MESSAGE_OVERHEAD,
    Ack,
    FrameReader,
    FrameType,
    Messages,
)
from aesm.core.hello import Hello
from aesm.core.outbox import Outbox
from aesm.core.session import Inbox, Session
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


def arrived(*sizes: int) -> Messages:
    """
    Describe messages that come together.

    @param sizes: of their bodies.
    """
    costs = [size + MESSAGE_OVERHEAD for size in sizes]
    return Messages(0, [bytes(size) for size in sizes], sum(costs), costs[-1])


class AddTests(SynchronousTestCase):
    """
    L{Outbox.add}.
    """

    def test_counts(self) -> None:
        """
        Each message is counted from 1 on, and costs its bytes and 64 more.
        """
        outbox = makeOutbox()
        self.assertEqual(outbox.add("\xe9", 0), 1)
        self.assertEqual(outbox.add(b"abc", 0), 2)
        self.assertEqual(outbox.add("", 0), 3)
        self.assertEqual(outbox.count, 3)
        self.assertEqual(outbox.kept, 2 + 3 + 0 + 3 * 64)
        self.assertEqual((outbox.sent, outbox.acknowledged), (0, 0))

    def test_kinds(self) -> None:
        """
        Text is text, and all kinds of bytes are bytes, as they are now.
        """
        outbox = makeOutbox()
        mutable = bytearray(b"one")
        for data in ("text", b"bytes", mutable, memoryview(mutable)[1:]):
            outbox.add(data, 0)
        mutable[:] = b"two"
        (messages,) = taken(outbox)
        self.assertEqual(messages.data, ["text", b"bytes", b"one", b"ne"])

    def test_otherKinds(self) -> None:
        """
        Nothing else can be sent, nor what has no UTF-8, and it costs nothing.
        """
        outbox = makeOutbox()
        for data in (None, 1, ["text"]):
            self.assertRaises(TypeError, outbox.add, data, 0)
        self.assertRaises(ValueError, outbox.add, "\ud800", 0)
        self.assertEqual((outbox.count, outbox.kept, outbox.unsent), (0, 0, False))

    def test_maxMessage(self) -> None:
        """
        A message may be as large as the peer takes, in bytes.
        """
        outbox = makeOutbox(maxMessage=10)
        for data in ("x" * 9, "x" * 10, "\xe9" * 5, bytes(10)):
            outbox.add(data, 0)
        kept = outbox.kept
        for data in ("x" * 11, "\xe9" * 6, bytes(11)):
            error = self.assertRaises(MessageTooBig, outbox.add, data, 0)
            self.assertIn("at most 10", str(error))
        self.assertEqual((outbox.count, outbox.kept), (4, kept))

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
                self.assertEqual((outbox.count, outbox.kept), (1, 100))

    def test_room(self) -> None:
        """
        What is acknowledged makes room; what is only sent does not.
        """
        outbox = makeOutbox(bound=128)
        outbox.add(b"", 0)
        outbox.add(b"", 0)
        taken(outbox)
        self.assertRaises(SendBufferFull, outbox.add, b"", 0)
        outbox.acknowledge(Ack(1, PLENTY))
        self.assertEqual(outbox.add(b"", 0), 3)

    def test_roomy(self) -> None:
        """
        There is plenty of room while less than half of the bound is in use.
        """
        for bound, roomy in ((199, False), (200, False), (201, True)):
            outbox = makeOutbox(bound)
            self.assertTrue(outbox.roomy)
            outbox.add(bytes(36), 0)
            self.assertEqual(outbox.roomy, roomy)


class TakeTests(SynchronousTestCase):
    """
    L{Outbox.take}.
    """

    def test_nothing(self) -> None:
        """
        Where nothing waits, nothing is sent.
        """
        outbox = makeOutbox()
        self.assertFalse(outbox.unsent)
        self.assertFalse(outbox.sendable)
        self.assertEqual(outbox.take(PLENTY), [])

    def test_alone(self) -> None:
        """
        A message that is alone in its turn is a TEXT or a BINARY.
        """
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
                outbox.endTurn()
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
        """
        A peer that does not take BATCH frames gets each message in its own.
        """
        outbox = makeOutbox(batch=False)
        for data in ("text", b"bytes", ""):
            outbox.add(data, 5)
        frames = taken(outbox)
        self.assertEqual([f.data for f in frames], [("text",), (b"bytes",), ("",)])
        self.assertEqual({f.micros for f in frames}, {5})

    def test_fullBatch(self) -> None:
        """
        A BATCH's body has at most 65,506 bytes.
        """
        room = MAX_BATCH - 3 * 4 - 1000
        for size, frames in ((room - 1, 1), (room, 1), (room + 1, 2)):
            outbox = makeOutbox(bound=PLENTY, maxMessage=PLENTY)
            outbox.add(bytes(1000), 0)
            outbox.add(bytes(size), 0)
            pieces = outbox.take(PLENTY)
            self.assertEqual(len(pieces) == 4, frames == 1)  # header, table, bodies
            if frames == 1:
                self.assertLessEqual(len(b"".join(pieces)), 13 + MAX_BATCH)

    def test_manyEmpty(self) -> None:
        """
        So a turn of many small messages is cut into several.
        """
        outbox = makeOutbox(bound=PLENTY)
        most = MAX_BATCH // 4 - 1
        for _ in range(most + 1):
            outbox.add("", 0)
        self.assertEqual([len(f.data) for f in taken(outbox)], [most, 1])

    def test_large(self) -> None:
        """
        A message that fits no BATCH goes alone, and so do its neighbours.
        """
        outbox = makeOutbox(bound=PLENTY, maxMessage=PLENTY)
        for size in (1, MAX_BATCH, 2):
            outbox.add(bytes(size), 0)
        self.assertEqual([f.cost - 64 for f in taken(outbox)], [1, MAX_BATCH, 2])

    def test_limit(self) -> None:
        """
        A message may be sent while the bytes sent before it are below the limit.
        """
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
        """
        Empty messages count too.
        """
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
        """
        Nothing more is handed over once the budget is used up.
        """
        outbox = makeOutbox()
        for _ in range(4):
            outbox.add(bytes(36), 0)
            outbox.endTurn()
        for budget, sent in ((-1, 0), (0, 0), (1, 1), (100, 2), (101, 4), (PLENTY, 4)):
            taken(outbox, budget)
            self.assertEqual(outbox.sent, sent)

    def test_drop(self) -> None:
        """
        What is dropped is neither kept nor sent.
        """
        outbox = makeOutbox()
        for number in range(3):
            outbox.add(f"{number}", 0)
            outbox.endTurn()
        taken(outbox, 1)
        outbox.drop()
        self.assertEqual((outbox.kept, outbox.unsent, outbox.count), (0, False, 3))
        self.assertEqual(taken(outbox), [])


class AcknowledgeTests(SynchronousTestCase):
    """
    L{Outbox.acknowledge}.
    """

    def setUp(self) -> None:
        """
        Send four of six messages, two of them in one BATCH, and have one of these
        acknowledged.
        """
        self.outbox = makeOutbox(limit=301)
        for number in range(6):
            self.outbox.add(bytes(36), 0)
            if number != 1:
                self.outbox.endTurn()
        taken(self.outbox)
        self.outbox.acknowledge(Ack(1, 301))

    def test_setUp(self) -> None:
        """
        A part of a BATCH may be acknowledged.
        """
        self.assertEqual((self.outbox.sent, self.outbox.acknowledged), (4, 1))
        self.assertEqual(self.outbox.kept, 500)

    def test_cumulative(self) -> None:
        """
        It counts all messages from the first on, and may say the same twice.
        """
        for count in (1, 2, 2, 4, 4):
            self.outbox.acknowledge(Ack(count, 301))
            self.assertEqual(self.outbox.acknowledged, count)
            self.assertEqual(self.outbox.kept, (6 - count) * 100)

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
        """
        A limit may be as large as its field.
        """
        self.outbox.acknowledge(Ack(1, 2**64 - 1))
        self.assertEqual(len(taken(self.outbox)), 2)

    def test_oneByOne(self) -> None:
        """
        A BATCH may be acknowledged one message at a time.
        """
        outbox = makeOutbox(bound=PLENTY)
        for size in range(50):
            outbox.add(bytes(size), 0)
        taken(outbox)
        for count in range(51):
            outbox.acknowledge(Ack(count, PLENTY))
            self.assertEqual(outbox.kept, sum(range(count, 50)) + 64 * (50 - count))


class InboxTests(SynchronousTestCase):
    """
    L{Inbox}.
    """

    def test_limit(self) -> None:
        """
        The bytes before a message must be below the limit; its own may pass it.
        """
        for sizes, good in (
            ((935,), True),
            ((5000,), True),
            ((935, 5000), True),
            ((936, 0), False),
            ((400, 471, 5000), True),
            ((400, 472, 0), False),
        ):
            for together in (True, False):
                inbox = Inbox(1000)
                groups = [sizes] if together else [(size,) for size in sizes]
                *others, last = map(lambda group: arrived(*group), groups)
                for messages in others:
                    inbox.receive(messages)
                if good:
                    inbox.receive(last)
                    self.assertEqual(inbox.received, len(sizes))
                else:
                    error = self.assertRaises(ProtocolError, inbox.receive, last)
                    self.assertIn("past the limit of 1000", str(error))

    def test_announced(self) -> None:
        """
        What counts is the limit that was announced, not the one that could be.
        """
        inbox = Inbox(100)
        inbox.receive(arrived(36))
        inbox.take(100)
        self.assertRaises(ProtocolError, inbox.receive, arrived(0))
        inbox = Inbox(100)
        inbox.receive(arrived(36))
        inbox.take(100)
        self.assertEqual(inbox.ack(), (0, 200))
        inbox.receive(arrived(0))

    def test_dueForCount(self) -> None:
        """
        An ACK is due for every message that is kept.
        """
        inbox = Inbox(1000)
        inbox.receive(arrived(1, 2, 3))
        self.assertFalse(inbox.due)
        for kept in (1, 3):
            inbox.keep(kept - inbox.kept)
            self.assertTrue(inbox.due)
            self.assertEqual(inbox.ack(), (kept, 1000))
            self.assertFalse(inbox.due)

    def test_dueForLimit(self) -> None:
        """
        One is due for the limit when it can grow by a quarter of the window.
        """
        inbox = Inbox(1000)
        inbox.receive(arrived(936))
        for cost, due in ((249, False), (1, True)):
            inbox.take(cost)
            self.assertEqual(inbox.due, due)
        self.assertEqual(inbox.ack(), (0, 1250))
        self.assertFalse(inbox.due)
        inbox.take(750)
        self.assertTrue(inbox.due)
        self.assertEqual(inbox.ack(), (0, 2000))

    def test_smallWindow(self) -> None:
        """
        With the smallest window, one message at a time passes.
        """
        inbox = Inbox(1)
        for number in range(1, 4):
            self.assertFalse(inbox.due)
            inbox.receive(arrived(0))
            inbox.take(64)
            self.assertTrue(inbox.due)
            self.assertEqual(inbox.ack(), (0, 1 + 64 * number))


class SessionTests(SynchronousTestCase):
    """
    L{Session}.
    """

    def test_bounds(self) -> None:
        """
        Each direction has its own bound.
        """
        session = Session(64, 1000)
        self.assertEqual(session.outbox.add("", 0), 1)
        self.assertRaises(SendBufferFull, session.outbox.add, "", 0)
        self.assertEqual(session.inbox.window, 1000)


class ModelTests(SynchronousTestCase):
    """
    The outbox against sums over lists.
    """

    @settings(max_examples=100, deadline=None)
    @given(st.booleans(), st.data())
    def test_outbox(self, batch: bool, data: Any) -> None:
        """
        Whatever is done, the messages come out in order, each once, and exactly as
        many as the limit allows; what is kept is what is not acknowledged.

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
                outbox.endTurn()
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
            count = data.draw(st.integers(outbox.acknowledged, outbox.sent))
            more = data.draw(st.integers(0, 900))
            outbox.acknowledge(Ack(count, outbox.limit + more))
            self.assertEqual(outbox.kept, cost(count, len(added)))
