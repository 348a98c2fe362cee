"""
Tests of L{aesm.core.messages.batch}: messages that were sent together.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.batch import (
    MAX_COST,
    Batch,
    Body,
    LoggedBatch,
    Share,
    SharedBatch,
)
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import MESSAGE_OVERHEAD, EncodedText, Messages

MESSAGES = ("text", b"bytes", "", b"", "\xe9")


def batchOf(*data: str | bytes, micros: int = 7) -> Batch:
    """
    Make a turn.

    @param data: its messages.
    @param micros: its time.
    """
    cost = sum(len(d.encode() if isinstance(d, str) else d) for d in data)
    return Batch.of(Messages(micros, data, cost + MESSAGE_OVERHEAD * len(data), 0))


def read(pieces: list[bytes]) -> list[Messages]:
    """
    Read what a turn is written as.

    @param pieces: of whole frames.
    """
    reader = FrameReader(1 << 20)
    frames = reader.receive(b"".join(pieces))
    assert reader.empty
    assert reader.error is None
    return [frame for frame in frames if isinstance(frame, Messages)]


class LoggedTests(SynchronousTestCase):
    """L{LoggedBatch}."""

    def test_copied(self) -> None:
        """Its copies are cut each by itself, and have the same frames if not."""
        cases: list[list[Body]] = [[b"a", b"b", b"c"], ["a", b"b", "c"]]
        for bodies in cases:
            logged = LoggedBatch(7)
            logged.fill(list(bodies))
            whole, cut = logged.copied(10), logged.copied(20)
            first = cut.cut(1)
            self.assertEqual((first.first, cut.first, whole.first), (20, 21, 10))
            self.assertEqual(first.bodies + cut.bodies, bodies)
            self.assertEqual(first.space + cut.space, whole.space)
            self.assertEqual(whole.largest, 1)
            pieces = whole.encode(True)
            self.assertEqual([list(each.data) for each in read(pieces)], [bodies])
            self.assertIs(logged.copied(0).encode(True), pieces)
            self.assertEqual(b"".join(whole.encode(True)), pieces[0])  # after a resume
            rest = read(cut.encode(True))
            self.assertEqual([list(each.data) for each in rest], [bodies[1:]])
            alone = read(logged.copied(0).encode(False))
            self.assertEqual([list(each.data) for each in alone], [[b] for b in bodies])


class TurnTests(SynchronousTestCase):
    """L{Batch}."""

    def test_of(self) -> None:
        """Made of messages as they came, it is what their sender had."""
        turn = batchOf(*MESSAGES)
        self.assertEqual(turn.micros, 7)
        self.assertEqual(turn.bodies, ["text", b"bytes", "", b"", b"\xc3\xa9"])
        self.assertIs(type(turn.bodies[-1]), EncodedText)
        self.assertIsNone(turn.kind)
        self.assertEqual(turn.space, 11 + 5 * MESSAGE_OVERHEAD)

    def test_room(self) -> None:
        """A new one has all its room."""
        turn = Batch(0, 3, bytes, MAX_COST)
        self.assertEqual((turn.first, turn.bodies, turn.room), (3, [], MAX_COST))

    def test_largest(self) -> None:
        """It knows its largest message, while more come and after it is cut."""
        turn = Batch(0, 0, bytes, MAX_COST)
        self.assertEqual(turn.largest, 0)
        for size, largest in ((3, 3), (5, 5), (4, 5)):
            turn.bodies.append(bytes(size))
            turn.room -= size + MESSAGE_OVERHEAD
            self.assertEqual(turn.largest, largest)
        turn.space -= turn.room
        turn.room = 0
        self.assertEqual(turn.largest, 5)
        self.assertEqual(turn.cut(2).largest, 5)
        self.assertEqual(turn.largest, 4)

    def test_largestShare(self) -> None:
        """Of what is sent to many it is known once a share is closed."""
        shared = SharedBatch(0)
        shared.add(bytes(100))
        shared.add(bytes(10))
        share = Share(shared, 0, None)
        self.assertGreaterEqual(share.largest, 10)
        shared.add(bytes(20))
        self.assertGreaterEqual(share.largest, 20)
        share.close()
        share.space -= share.room
        share.room = 0
        self.assertEqual(share.largest, 20)

    def test_encode(self) -> None:
        """It is one BATCH, or a frame for each message, with its time."""
        for batch, sizes in ((True, [5]), (False, [1] * 5)):
            frames = read(batchOf(*MESSAGES).encode(batch))
            self.assertEqual([len(frame.data) for frame in frames], sizes)
            self.assertEqual([d for f in frames for d in f.data], list(MESSAGES))
            self.assertEqual({frame.micros for frame in frames}, {7})

    def test_alone(self) -> None:
        """A single message is no BATCH."""
        for data in MESSAGES:
            pieces = batchOf(data).encode(True)
            self.assertEqual(pieces, batchOf(data).encode(False))
            self.assertEqual(read(pieces)[0].data, (data,))

    def test_cut(self) -> None:
        """Cut anywhere, both parts have its time, and their messages and cost."""
        for count in range(1, len(MESSAGES)):
            turn = batchOf(*MESSAGES)
            cost = turn.space
            first = turn.cut(count)
            for part, data in ((first, MESSAGES[:count]), (turn, MESSAGES[count:])):
                self.assertEqual(part.space, batchOf(*data).space)
                for batch in (True, False):
                    frames = read(part.encode(batch))
                    self.assertEqual([d for f in frames for d in f.data], list(data))
                    self.assertEqual(frames[0].micros, 7)
            self.assertEqual(first.space + turn.space, cost)

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.one_of(st.text(max_size=9), st.binary(max_size=9)), min_size=1),
        st.booleans(),
    )
    def test_thereAndBack(self, data: list[str | bytes], batch: bool) -> None:
        """
        What is written and read makes the same turns.

        @param data: the messages.
        @param batch: whether they go together.
        """
        turns = [Batch.of(messages) for messages in read(batchOf(*data).encode(batch))]
        whole = batchOf(*data)
        self.assertEqual([body for turn in turns for body in turn.bodies], whole.bodies)
        self.assertEqual(sum(turn.space for turn in turns), whole.space)
        self.assertEqual(
            [type(body) for turn in turns for body in turn.bodies],
            [type(body) for body in whole.bodies],
        )
