"""Tests for L{aesm.store.entries}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.batch import MAX_COST, Batch, EncodedText
from aesm.core.messages.frames import MESSAGE_OVERHEAD, Messages
from aesm.store import entries
from aesm.store.entries import (
    ENTRY_MEMORY,
    GROUP_MICROS,
    Entries,
    Told,
    decoded,
    encoded,
    grouped,
    together,
)
from aesm.store.following import Place
from aesm.store.interface import Entry


def told(position: int, body: bytes = b"x", micros: int = 7, *exclude: str) -> Told:
    """Make an entry."""
    return Told(position, b"n%d" % position, micros, body, frozenset(exclude))


def own(*bodies: bytes) -> Batch:
    """Make messages of a session's own."""
    return Batch.of(Messages(7, bodies, 0, 0))


class CodeTests(SynchronousTestCase):
    """How a message is written."""

    def test_thereAndBack(self) -> None:
        """What is read is what was written, text as text and bytes as bytes."""
        for body in (b"", b"a\nb", "", "a\nb", EncodedText(b"\xc3\xa9")):
            data = encoded(body, ["S", "T"], 7)
            read = decoded(Entry(3, b"name", data))
            self.assertEqual((read.position, read.name), (3, b"name"))
            self.assertEqual((read.body, type(read.body)), (body, type(body)))
            self.assertEqual(read.exclude, {"S", "T"})
            self.assertEqual(read.micros, 7)

    def test_unsound(self) -> None:
        """What makes no sense is for nobody."""
        self.assertTrue(decoded(Entry(3, b"name", encoded("x", ["S"], 7))).isFor("T"))
        self.assertFalse(decoded(Entry(3, b"name", encoded("x", ["S"], 7))).isFor("S"))
        for data in (b"", b"x", b"{}\nx", b"[]\n", encoded("x", [], 7)[:-1]):
            read = decoded(Entry(3, b"name", data))
            self.assertEqual((read.position, read.name), (3, b"name"))
            self.assertFalse(read.isFor("S"))


class GroupTests(SynchronousTestCase):
    """What goes together."""

    def test_room(self) -> None:
        """As much as fits one batch."""
        size = MAX_COST // 2 - MESSAGE_OVERHEAD
        for more, sizes in ((0, [2, 1]), (1, [1, 1, 1])):
            some = [told(number, bytes(size + more)) for number in (1, 2, 3)]
            self.assertEqual([len(group) for group in grouped(some)], sizes)
        huge = [told(1, bytes(MAX_COST)), told(2)]
        self.assertEqual([len(group) for group in grouped(huge)], [1, 1])

    def test_time(self) -> None:
        """What was sent at about the same time."""
        times = (0, GROUP_MICROS - 1, GROUP_MICROS, 0)
        some = [told(number, b"x", micros) for number, micros in enumerate(times, 1)]
        self.assertEqual([len(group) for group in grouped(some)], [2, 1, 1])
        batch, position = together(some[:2])
        self.assertEqual((batch.bodies, batch.micros, position), ([b"x", b"x"], 0, 2))


class EntriesTests(SynchronousTestCase):
    """What is kept."""

    def setUp(self) -> None:
        """Keep the entries 11 to 14, of which a session S is told all but one."""
        self.entries = Entries()
        self.entries.restart(10)
        self.assertEqual(self.entries.first, 11)
        self.entries.add([told(11, b"a"), told(12, b"b", 7, "S")])
        self.entries.add([told(13, b"c"), told(14, b"d")])

    def test_find(self) -> None:
        """Each is found, and none else."""
        found = [self.entries.find(position) for position in range(10, 16)]
        names = [None if each is None else each.name for each in found]
        self.assertEqual(names, [None, b"n11", b"n12", b"n13", b"n14", None])
        self.assertEqual((self.entries.first, self.entries.position), (11, 14))

    def test_trim(self) -> None:
        """The oldest go, but not the last."""
        for room, first in ((4, 11), (3, 12), (2, 13), (0, 14)):
            self.patch(entries, "LOG_SIZE", room * (ENTRY_MEMORY + 1))
            self.entries.trim()
            self.assertEqual(self.entries.first, first)
        self.assertEqual(self.entries.position, 14)

    def test_has(self) -> None:
        """It is known whether all that is behind a place is kept."""
        places = [Place(0, position, 0) for position in (9, 10, 14)]
        self.assertEqual([self.entries.has(p) for p in places], [False, True, True])

    def test_same(self) -> None:
        """What others have, too, is found."""
        same = self.entries.same({11: b"n11", 12: b"n12", 13: b"other"})
        self.assertEqual([each.position for each in same], [11, 12])
        self.entries.restart(9, same)
        self.assertEqual((self.entries.first, self.entries.position), (11, 12))

    def test_merged(self) -> None:
        """Entries fill the gaps between what is a session's own, in their order."""
        cases = [
            # acknowledged, number of the place, own: what is to be sent
            (5, 5, [], [b"a", b"c", b"d"]),
            (5, 5, [(5, [b"1"]), (6, [b"2"])], [b"1", b"2", b"a", b"c", b"d"]),
            (5, 5, [(6, [b"1", b"2"])], [b"a", b"1", b"2", b"c", b"d"]),
            (5, 5, [(6, [b"1"]), (9, [b"2"])], [b"a", b"1", b"c", b"d", b"2"]),
            (6, 5, [(6, [b"1"])], [b"1", b"c", b"d"]),
            (7, 5, [(7, [b"1"])], [b"1", b"d"]),
            (7, 7, [(6, [b"1", b"2"])], [b"2", b"a", b"c", b"d"]),
        ]
        for done, number, mine, expected in cases:
            place = Place(number, 10, 3)
            owned = [(first, own(*bodies)) for first, bodies in mine]
            batches, following = self.entries.merged("S", done, place, owned)
            bodies = [body for batch in batches for body in batch.bodies]
            self.assertEqual(bodies, expected)
            firsts = [batch.first for batch in batches]
            self.assertEqual(firsts[0], done)
            ends = [batch.first + len(batch.bodies) for batch in batches]
            self.assertEqual(firsts[1:], ends[:-1])
            behind = {0: 10, 1: 11, 2: 13}[done - number]
            self.assertEqual(following.place, (done, behind, 3))

    def test_missing(self) -> None:
        """Where entries are missing it cannot be found out."""
        for place, first in ((Place(5, 9, 3), 5), (Place(5, 10, 3), 9)):
            self.assertRaises(
                LookupError, self.entries.merged, "S", 5, place, [(first, own(b"1"))]
            )
