"""
Tests for L{aesm.cluster.batch}.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from aesm.cluster.batch import (
    MAX_BYTES,
    MAX_INLET,
    MAX_LOG,
    MAX_SESSIONS,
    Call,
    Effect,
    Gathered,
    Part,
)
from aesm.cluster.image import Image
from aesm.cluster.sealing import Clear


def nobody(*results: int) -> None:
    """Nobody is to be told."""


class GatheredTests(SynchronousTestCase):
    """L{Gathered} and L{Call}."""

    def setUp(self) -> None:
        """Begin with nothing."""
        self.gathered = Gathered()

    def calls(self, names: Iterable[str] | None = None) -> list[Call]:
        """Cut, with sessions that are ours; None for all."""
        names = self.gathered.changes if names is None else names
        return list(self.gathered.calls(dict.fromkeys(names, Image("K", b"", 1))))

    def put(self, *names: str) -> None:
        """Change sessions."""
        for name in names:
            self.gathered.of(name).state = b"{}"

    def said(self, names: Iterable[str] | None = None) -> list[object]:
        """Say the only call."""
        (call,) = self.calls(names)
        return call.arguments(1, Clear(), call.adds)

    def append(
        self, name: str, frames: bytes, cause: str = "", number: int = 0
    ) -> None:
        """Send a message."""
        part = Part(number, 1, frames, cause)
        self.gathered.of(name).parts[True].append(part)

    def send(self, cause: str) -> None:
        """Send something to another session."""
        self.gathered.effects.append(Effect("log", cause, (), cause.encode(), nobody))

    def test_said(self) -> None:
        """All that happened to a session is said, with its fence."""
        changes = self.gathered.of("S")
        changes.state = b"{}"
        changes.before = [4, 5]
        changes.parts[False].append(Part(9, 1, b"in"))
        changes.parts[True].append(Part(7, 2, b"out", "S"))
        changes.requests = {6: Part(6, 1, b"ask")}
        changes.removed = {5: "S"}
        changes.taken.append((3, b"name"))
        changes.place = "enter"
        (call,) = self.gathered.calls({"S": Image("K", b"", 8)})
        self.assertEqual(
            call.arguments(1, Clear(), call.adds),
            [
                *(1, 1, MAX_INLET, MAX_LOG, -1, 1, "S", 8),
                *("put", "1", b"{}"),
                *("discard", "1", "i", 4, "append", "1", "i", 9, 1, b"in"),
                *("discard", "1", "o", 5, "append", "1", "o", 7, 2, b"out"),
                *("append", "1", "r", 6, 1, b"ask", "remove", "1", 5),
                *("took", "1", 3, b"name", "enter", "1"),
            ],
        )

    def test_dropped(self) -> None:
        """Of a session that goes nothing else is said."""
        self.put("S")
        self.gathered.of("S").dropped = True
        self.assertEqual(self.said()[8:], ["drop", "1"])

    def test_frees(self) -> None:
        """It is said whether anything is added, or there is only less."""
        self.put("S")
        self.gathered.of("S").before = [0, 9]
        self.assertEqual(self.said()[0], 0)
        self.gathered.of("S").removed[1] = ""
        self.assertEqual(self.said()[0], 0)
        self.append("S", b"x")
        self.assertEqual(self.said()[0], 1)

    def test_freesNot(self) -> None:
        """What goes to others adds something."""
        self.send("")
        self.assertEqual(self.said()[0], 1)
        self.assertEqual(self.said()[6:], ["log", b""])

    def test_others(self) -> None:
        """Sessions that are not ours are left out."""
        self.put("S", "T")
        self.assertEqual(list(self.calls(["T"])[0].changes), ["T"])
        self.assertEqual(self.calls([]), [])

    def test_causes(self) -> None:
        """What a session caused depends on its fence, also if it is as before."""
        self.append("S", b"x", "C")
        self.send("D")
        (call,) = self.calls(["S", "C", "D"])
        self.assertEqual(set(call.fences), {"S", "C", "D"})

    def test_sessions(self) -> None:
        """A call has at most L{MAX_SESSIONS}."""
        for count, lengths in (
            (MAX_SESSIONS - 1, [MAX_SESSIONS - 1]),
            (MAX_SESSIONS, [MAX_SESSIONS]),
            (MAX_SESSIONS + 1, [MAX_SESSIONS, 1]),
        ):
            self.gathered = Gathered()
            self.put(*map(str, range(count)))
            self.assertEqual([len(call.changes) for call in self.calls()], lengths)

    def test_sessionsBehind(self) -> None:
        """Those of which only the fence is said count as well."""
        self.put(*map(str, range(MAX_SESSIONS)))
        self.gathered.of("0").removed = {7: "C"}
        calls = self.calls([*self.gathered.changes, "C"])
        self.assertEqual([len(call.changes) for call in calls], [MAX_SESSIONS, 1])

    def test_bytes(self) -> None:
        """A call has at most L{MAX_BYTES}."""
        self.append("S", b"x")
        self.append("T", b"")
        size = sum(each.size for each in self.gathered.changes.values())
        spare = MAX_BYTES - size
        for more, count in ((-1, 1), (0, 1), (1, 2)):
            self.gathered = Gathered()
            self.append("S", b"x" * (1 + spare + more))
            self.append("T", b"")
            self.assertEqual(len(self.calls()), count)

    def test_answered(self) -> None:
        """What was answered because of another session's message depends on that."""
        self.gathered.of("S").removed = {7: "C"}
        (call,) = self.calls(["S", "C"])
        self.assertEqual(set(call.fences), {"S", "C"})

    def test_together(self) -> None:
        """What was caused together is never cut, however much it is."""
        for index in range(MAX_SESSIONS):
            self.append(f"S{index}", b"x", f"S{index + 1}")
        self.put("T")
        self.assertEqual(
            [
                len(call.changes)
                for call in self.calls([*self.gathered.changes, "S256"])
            ],
            [MAX_SESSIONS + 1, 1],
        )

    def test_effects(self) -> None:
        """What goes to others is with its cause, and in order."""
        self.put(*map(str, range(MAX_SESSIONS + 1)))
        for cause in ("", "256", "1", "", "256"):
            self.send(cause)
        first, second = self.calls()
        self.assertEqual([each.cause for each in first.effects], ["1"])
        self.assertEqual(
            [each.cause for each in second.effects], ["", "256", "", "256"]
        )

    def test_leftOut(self) -> None:
        """What a session caused that is not ours is left out; numbers move up."""
        for number, cause in enumerate(("A", "B", "", "B", "A")):
            self.append("S", cause.encode(), cause, number)
        self.gathered.of("S").removed = {7: "A", 8: "B"}
        self.append("B", b"x", "B")
        self.send("B")
        self.send("A")
        undone: dict[str, list[Part]] = {}
        self.gathered.without({"B"}, undone)
        self.assertEqual([part.number for part in undone.pop("S")], [1, 3])
        self.assertEqual(undone, {})
        self.assertEqual(list(self.gathered.changes), ["S"])
        self.assertEqual([each.cause for each in self.gathered.effects], ["A"])
        self.assertEqual(self.gathered.of("S").removed, {7: "A"})
        parts = self.gathered.of("S").parts[True]
        self.assertEqual(
            [(p.number, p.cause) for p in parts], [(0, "A"), (1, ""), (2, "A")]
        )

    def test_ends(self) -> None:
        """That sessions are over adds nothing that an engine which is full refuses."""
        for operation, adds in (("gone", False), ("log", True), ("gone", True)):
            where = ("S",) if operation == "gone" else ()
            self.gathered.effects.append(Effect(operation, "", where, b"x", print))
            (call,) = self.calls()
            self.assertEqual(call.adds, adds)
