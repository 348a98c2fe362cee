"""
Tests for L{aesm.cluster.members}.
"""

from __future__ import annotations

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from aesm.cluster.members import Members
from aesm.cluster.sealing import KEY, Clear, Sealer
from aesm.errors import SpoolError
from aesm.store.interface import Blob, Entry, Work


class MembersTests(SynchronousTestCase):
    """L{Members}."""

    def setUp(self) -> None:
        """Have one that reads what is not sealed, and one that does not."""
        self.members = Members(Clear())
        self.sealed = Members(Sealer(b"k" * KEY, "chat"))

    def test_blob(self) -> None:
        """Messages have numbers in front, and may have anything in them."""
        blob = Blob(7, 2, b"a b\n")
        self.assertEqual(self.members.blob(b"7 2 a b\n", "S", "o"), blob)
        self.assertRaises(SpoolError, self.sealed.blob, b"7 2 a b\n", "S", "o")

    def test_work(self) -> None:
        """What is lent to a node says whose it is, and how much of it was read."""
        found = [b"S", b"K", b"7 2 ab", b"1", b"T", b"L", b"0 1 c", b"0"]
        works = [
            Work("S", "K", Blob(7, 2, b"ab"), 1),
            Work("T", "L", Blob(0, 1, b"c"), 0),
        ]
        self.assertEqual(self.members.work(found), works)
        self.assertEqual(self.members.work([]), [])

    def test_entry(self) -> None:
        """An entry has its name in front."""
        entry = Entry(3, b"one:1:1", b"a b")
        self.assertEqual(self.members.entry(b"3", b"one:1:1 a b", "send", "K"), entry)
        self.assertRaises(SpoolError, self.sealed.entry, b"3", b"n x", "send", "K")

    def test_told(self) -> None:
        """The log is the same, read or heard."""
        entries = [
            Entry(3, b"n:1", b"a\nb"),
            Entry(4, b"n:2", b""),
            Entry(5, b"n:3", b"c"),
        ]
        found = [b"3", b"n:1 a\nb", b"4", b"n:2 ", b"5", b"n:3 c"]
        self.assertEqual(self.members.told(found), entries)
        heard = self.members.heard(3, [7, 4, 5], b"n:1 a\nbn:2 n:3 c")
        self.assertEqual(list(heard), entries)

    def test_nonsense(self) -> None:
        """An entry of the log that cannot be opened is empty, and that is logged."""
        with capturedLogs() as logs:
            found = self.sealed.told([b"3", b"n:1 open"])
        self.assertEqual(found, [Entry(3, b"n:1", b"")])
        self.assertEqual([log["log_level"].name for log in logs], ["error"])
