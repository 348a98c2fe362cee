"""Tests for L{aesm.store.entries}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.batch import MAX_COST, Batch
from aesm.core.messages.frames import MESSAGE_OVERHEAD, EncodedText, Messages
from aesm.store import entries
from aesm.store.entries import (
    ENTRY_MEMORY,
    EVENT,
    GROUP_MICROS,
    Entries,
    Row,
    Told,
    batched,
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


def event(position: int, *rows: tuple[bytes | None, str]) -> Told:
    """Make an entry of something of which some are told, each with a letter."""
    made = tuple(Row(body, tuple(sorted(names))) for body, names in rows)
    return Told(position, b"n%d" % position, 7, b"", frozenset(), kind=EVENT, rows=made)


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
        for data in (b"", b"x", b"\n", b"\xff\nx", encoded("x", [], 7)[:-1]):
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
        self.assertEqual(self.entries.name, b"n12")

    def test_sameUpTo(self) -> None:
        """
        What is behind another one is another one; what others dropped is left out.
        """
        for names, positions in (
            ({11: b"other", 12: b"n12", 13: b"n13"}, []),
            ({11: b"n11", 12: b"other", 13: b"n13"}, [11]),
            ({12: b"n12", 13: b"n13", 14: b"n14"}, [12, 13, 14]),
            ({}, []),
        ):
            found = [each.position for each in self.entries.same(names)]
            self.assertEqual(found, positions)

    def test_sameAgain(self) -> None:
        """What was told once more is the same, with what is before it."""
        names = {11: b"n11", 12: b"n13", 13: b"new", 14: b"n14"}
        for first, found in ((11, [(11, b"n11"), (12, b"n13")]), (12, [(12, b"n13")])):
            there = {at: name for at, name in names.items() if at >= first}
            same = [(each.position, each.name) for each in self.entries.same(there)]
            self.assertEqual(same, found)

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


class RowsTests(SynchronousTestCase):
    """Entries with several messages, or none, for a session."""

    def setUp(self) -> None:
        """Have a session S that is told 3 of 11, none of 12, 2 of 13, and 14."""
        self.entries = Entries()
        self.entries.restart(10)
        rows = [(b"a", "SU"), (b"b", "S"), (b"-", "TV"), (b"c", "RST")]
        self.entries.add([event(11, *rows), event(12, (b"-", "T"))])
        self.entries.add([event(13, (b"d", "S"), (b"e", "S")), told(14, b"f")])

    def bodies(self, batches: list[Batch]) -> list[object]:
        """List messages."""
        return [body for batch in batches for body in batch.bodies]

    def test_merged(self) -> None:
        """
        They fill gaps as others do; the place stays before what is acknowledged in
        part.
        """
        everything = [b"a", b"b", b"c", b"d", b"e", b"f"]
        places = [(5, 10), (5, 10), (5, 10), (8, 11), (8, 11), (10, 13), (11, 14)]
        for skip, place in enumerate(places):
            # First with all of it in one batch, then each message in one of its own.
            for size in (1 << 20, MESSAGE_OVERHEAD + 1):
                self.patch(entries, "MAX_COST", size)
                done = 5 + skip
                batches, following = self.entries.merged("S", done, Place(5, 10, 3), [])
                self.assertEqual(self.bodies(batches), everything[skip:])
                self.assertEqual(following.state(done, 14), (*place, 3))
                if skip in (1, 4):  # a process that goes on from there knows the same
                    again, _ = self.entries.merged(
                        "S", done, following.state(done, 14), []
                    )
                    self.assertEqual(self.bodies(again), everything[skip:])

    def test_own(self) -> None:
        """They fill gaps between what is a session's own."""
        mine = [(8, own(b"1")), (11, own(b"2"))]
        batches, following = self.entries.merged("S", 6, Place(5, 10, 3), mine)
        expected = [b"b", b"c", b"1", b"d", b"e", b"2", b"f"]
        self.assertEqual(self.bodies(batches), expected)
        places = [(5, 3, 11), (9, 2, 13), (12, 1, 14)]
        self.assertEqual(following.places, places)

    def test_batched(self) -> None:
        """A batch that ends within an entry has the position of the one behind it."""
        self.patch(entries, "MAX_COST", 2 * (MESSAGE_OVERHEAD + 1))
        happened = event(11)
        mine = map(happened.saying, [b"a", b"b", b"c"])
        some = [told(10), *mine, told(14)]
        found = [(batch.bodies, position) for batch, position in batched(some)]
        self.assertEqual(found, [([b"x", b"a"], 11), ([b"b", b"c"], 11), ([b"x"], 14)])
        found = [(batch.bodies, position) for batch, position in batched(some[1:])]
        self.assertEqual(found, [([b"a", b"b"], 14), ([b"c", b"x"], 14)])

    def test_closed(self) -> None:
        """Nothing is for a session behind where it is closed."""
        rows = event(15, (b"a", "ST"), (None, "S"), (b"b", "ST"))
        told = {n: rows.bodiesFor(n) for n in "STU"}
        self.assertEqual(told, {"S": [b"a"], "T": [b"a", b"b"], "U": []})
