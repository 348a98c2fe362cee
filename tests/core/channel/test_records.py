"""
Tests of L{aesm.core.channel.framing}: which bytes of the stream share a record.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.channel.framing import HALF, MAX_PLAINTEXT, plaintextsOf

SIZES = (1, 2, 30, 1000, HALF - 1, HALF, HALF + 1, MAX_PLAINTEXT - 1, MAX_PLAINTEXT)


def sizesOf(*sizes: int, end: bool = False) -> list[int]:
    """
    Put pieces into records.

    @param sizes: of the pieces, bytes.
    @param end: whether the stream ends.
    @return: of the records.
    """
    queue = [bytes(size) for size in sizes] + [b""] * end
    return list(map(len, plaintextsOf(queue, max(sizes, default=0) > HALF)))


class PlaintextsTests(SynchronousTestCase):
    """L{plaintextsOf}."""

    def test_small(self) -> None:
        """Pieces of no more than half a record fill records, and are torn for that."""
        self.assertEqual(sizesOf(1, 2, 3), [6])
        self.assertEqual(sizesOf(HALF, HALF, 1), [MAX_PLAINTEXT])
        self.assertEqual(sizesOf(HALF, HALF, HALF), [MAX_PLAINTEXT, HALF - 1])
        self.assertEqual(sizesOf(*[1000] * 70), [MAX_PLAINTEXT, 70_000 - MAX_PLAINTEXT])

    def test_large(self) -> None:
        """
        A larger piece that fits a record is in one, and what is small around it, too.
        """
        large = MAX_PLAINTEXT - 30
        self.assertEqual(sizesOf(29, large, 1), [MAX_PLAINTEXT])
        self.assertEqual(sizesOf(31, large, 31), [31, MAX_PLAINTEXT, 1])
        self.assertEqual(sizesOf(large, large), [large, large])
        self.assertEqual(sizesOf(HALF + 1, HALF + 1), [HALF + 1, HALF + 1])
        self.assertEqual(sizesOf(HALF, MAX_PLAINTEXT), [HALF, MAX_PLAINTEXT])
        self.assertEqual(sizesOf(MAX_PLAINTEXT, 5), [MAX_PLAINTEXT, 5])

    def test_huge(self) -> None:
        """A piece that fits none is torn like small ones."""
        huge = 2 * MAX_PLAINTEXT + 10
        self.assertEqual(sizesOf(5, huge), [MAX_PLAINTEXT, MAX_PLAINTEXT, 15])
        large = MAX_PLAINTEXT - 15
        records = [MAX_PLAINTEXT, MAX_PLAINTEXT, MAX_PLAINTEXT]
        self.assertEqual(sizesOf(5, huge, large), records)
        self.assertEqual(sizesOf(5, huge, large + 1), [*records[:2], 15, large + 1])

    def test_end(self) -> None:
        """The end of the stream is a record of its own."""
        self.assertEqual(sizesOf(end=True), [0])
        self.assertEqual(sizesOf(5, end=True), [5, 0])
        self.assertEqual(sizesOf(MAX_PLAINTEXT, 1, end=True), [MAX_PLAINTEXT, 1, 0])

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.one_of(st.sampled_from(SIZES), st.integers(1, 200_000)), max_size=12
        ),
        st.booleans(),
    )
    def test_any(self, sizes: list[int], end: bool) -> None:
        """
        Whatever is queued comes out, in order, in records that are not too large and
        no more than twice as many as there could be; what is not to be torn is not.

        @param sizes: of the pieces.
        @param end: whether the stream ends.
        """
        if not sizes and not end:
            return
        queue = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
        large = any(size > HALF for size in sizes)
        records = list(map(bytes, plaintextsOf(queue + [b""] * end, large)))
        if end:
            self.assertEqual(records.pop(), b"")
        self.assertEqual(b"".join(records), b"".join(queue))
        self.assertTrue(all(0 < len(record) <= MAX_PLAINTEXT for record in records))
        fewest = -(-sum(sizes) // MAX_PLAINTEXT)
        self.assertLessEqual(len(records), 2 * fewest if large else fewest)
        for piece in queue:
            if HALF < len(piece) <= MAX_PLAINTEXT:
                self.assertTrue(any(piece in record for record in records))
