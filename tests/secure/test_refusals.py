"""
Tests for L{aesm.secure.refusals}.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from aesm.errors import (
    AESMError,
    CloseCode,
    HandshakeError,
    HandshakeTimeout,
    NotAuthorized,
    NothingSaid,
    ProtocolError,
)
from aesm.secure.refusals import (
    LAST_WAIT,
    MAX_HOSTS,
    MAX_LINES,
    OTHERS,
    Kind,
    Refusals,
    Refused,
    kindOf,
)


class KindTests(SynchronousTestCase):
    """L{kindOf} sorts refusals."""

    def test_kinds(self) -> None:
        """A refusal says itself what it is; of other errors the class says it."""
        for error, kind in (
            (Refused("", Kind.MADE_ROOM), Kind.MADE_ROOM),
            (NotAuthorized(), Kind.NOT_AUTHORIZED),
            (HandshakeTimeout(), Kind.TIMEOUT),
            (NothingSaid(), Kind.PROBE),
            (HandshakeError(), Kind.HANDSHAKE),
            (ProtocolError(), Kind.HANDSHAKE),
        ):
            self.assertIs(kindOf(error), kind)

    def test_refused(self) -> None:
        """Who is refused for want of room may try again."""
        error: AESMError = Refused("why", Kind.HOST_RATE)
        self.assertEqual(str(error), "why")
        self.assertEqual(vars(error)["code"], CloseCode.TRY_AGAIN_LATER)


class RefusalsTests(SynchronousTestCase):
    """L{Refusals} says as much as somebody can read."""

    def setUp(self) -> None:
        """Begin, and keep what is told: when, whose, how many, in which words."""
        self.clock = Clock()
        self.told: list[tuple[float, str, int, str]] = []
        self.refusals = Refusals(self.clock, self.tell)

    def tell(self, host: str, times: int, words: str, isProbe: bool = False) -> None:
        """Keep a line."""
        self.told.append((self.clock.seconds(), host, times, words))

    def add(self, *hosts: str, kind: Kind = Kind.TIMEOUT) -> None:
        """Refuse each of these hosts once."""
        for host in hosts:
            self.refusals.add(host, kind, partial(self.tell, host, 1, "alone"))

    def assertQuiet(self) -> None:
        """Check that nothing is left to be told."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_alone(self) -> None:
        """Who is refused now and then is told of each time, and no timer runs."""
        for _ in range(3):
            self.add("a")
            self.assertQuiet()
            self.clock.advance(1)
        self.assertEqual(self.told, [(n, "a", 1, "alone") for n in range(3)])

    def test_more(self) -> None:
        """
        Those that follow within a second are one line at its end, that says how many
        there were of each kind.
        """
        self.add("a", "b", "a", "a")
        self.add("a", kind=Kind.HOST_RATE)
        self.clock.advance(0.5)
        self.assertEqual(len(self.told), 2)
        self.clock.advance(0.5)
        words = "3 more in 1 second (2 timeout, 1 host-rate)"
        self.assertEqual(self.told[2:], [(1, "a", 3, words)])
        self.assertQuiet()

    def test_single(self) -> None:
        """A single one is told in its own words, a second later."""
        self.add("a", "a")
        self.clock.advance(1)
        self.assertEqual(self.told[1:], [(1, "a", 1, "alone")])

    def test_flood(self) -> None:
        """
        A host that does not stop has a line after 1, 2, 4 and at last each 60 seconds;
        once it was quiet for as long it begins anew.
        """
        for _ in range(300):
            self.add("a", "a")
            self.clock.advance(1)
        when = [time for time, *_ in self.told]
        self.assertEqual(when, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243])
        self.clock.advance(LAST_WAIT)
        self.assertQuiet()
        self.assertEqual(sum(times for _, _, times, _ in self.told), 600)
        self.clock.advance(LAST_WAIT)
        self.add("a")
        self.assertEqual(self.told[-1], (self.clock.seconds(), "a", 1, "alone"))

    def test_probes(self) -> None:
        """
        Who closes without a word is told once a minute, the first time not before that
        has passed, beside what else is refused to the host; then no timer runs.
        """
        for _ in range(150):
            self.add("a", kind=Kind.PROBE)
            self.clock.advance(1)
        self.add("a")
        self.clock.advance(30)
        words = "{} connections closed without a word in 60 seconds".format
        self.assertEqual(
            self.told,
            [
                (60, "a", 60, words(60)),
                (120, "a", 60, words(60)),
                (150, "a", 1, "alone"),
                (180, "a", 30, words(30)),
            ],
        )
        self.assertQuiet()
        self.add("a", kind=Kind.PROBE)
        self.refusals.flush()
        self.assertEqual(self.told[4:], [(180, "a", 1, "alone")])
        self.assertQuiet()

    def test_probesOfMany(self) -> None:
        """Hosts that probe are no more than others, and have no more lines."""
        for number in range(3 * MAX_HOSTS):
            self.add(f"h{number}", kind=Kind.PROBE)
        self.assertEqual(len(self.refusals._hosts), MAX_HOSTS + 1)
        self.clock.pump([1.0] * 80)
        perSecond = Counter(time for time, *_ in self.told)
        self.assertLessEqual(max(perSecond.values()), MAX_LINES)
        self.assertEqual(sum(times for _, _, times, _ in self.told), 3 * MAX_HOSTS)
        self.assertQuiet()

    def test_lines(self) -> None:
        """
        All hosts together have ten lines a second; who is beyond that is one of the
        other hosts, and told with them.
        """
        self.add(*(f"h{number}" for number in range(MAX_LINES)))
        self.assertEqual(len(self.told), MAX_LINES)
        self.add("new", "newer")
        self.assertEqual(len(self.told), MAX_LINES)
        self.clock.advance(1)
        words = "2 more in 1 second (2 timeout)"
        self.assertEqual(self.told[MAX_LINES:], [(1, OTHERS, 2, words)])
        self.assertQuiet()

    def test_hosts(self) -> None:
        """A hundred hosts are remembered, and forgotten when they are quiet."""
        for number in range(2 * MAX_HOSTS):
            self.add(f"h{number}", f"h{number}")
            self.clock.advance(0.1)
            self.assertLessEqual(len(self.refusals._hosts), MAX_HOSTS + 1)
        self.clock.pump([1.0] * 100)
        self.assertQuiet()
        self.add("new")
        self.assertEqual(list(self.refusals._hosts), [("new", False)])
        self.assertEqual(sum(times for _, _, times, _ in self.told), 4 * MAX_HOSTS + 1)

    def test_everybodysTurn(self) -> None:
        """With many that do not stop, each has its line in turn."""
        hosts = [f"h{number}" for number in range(5 * MAX_LINES)]
        for _ in range(600):
            self.add(*hosts)
            self.clock.advance(0.1)
        lines = Counter(host for _, host, _, _ in self.told)
        self.assertEqual(set(lines), {*hosts, OTHERS})

    def test_flush(self) -> None:
        """At the end what was counted is told at once, and no timer runs."""
        self.add("a", "b", "a", "a", "b")
        self.clock.advance(0.4)
        self.refusals.flush()
        words = "2 more in 1 second (2 timeout)"
        self.assertEqual(self.told[2:], [(0.4, "a", 2, words), (0.4, "b", 1, "alone")])
        self.assertQuiet()
        self.refusals.flush()
        self.assertEqual(len(self.told), 4)
        self.add("a")
        self.assertEqual(len(self.told), 5)

    def test_setBack(self) -> None:
        """A clock that is set back ends neither the lines nor the counting."""
        self.clock.advance(1000)
        self.add(*"abcdefghijkl")
        self.clock.rightNow = 0.0
        self.add("new", "a")
        for host in "new", "a":
            self.assertIn((0.0, host, 1, "alone"), self.told)

    def test_anything(self) -> None:
        """
        Whoever comes when: no host has two lines within a second, all together never
        more than they may, and in the end as many are told as there were.
        """
        chance = random.Random(0)
        names = [*"abc", *(f"h{number}" for number in range(3 * MAX_HOSTS))]
        added: Counter[str] = Counter()
        for _ in range(5000):
            host = chance.choice(names[: chance.choice((2, 30, len(names)))])
            added[host] += 1
            self.add(host)
            self.clock.advance(chance.choice((0, 0, 0.01, 0.3)))
        self.refusals.flush()
        told: Counter[str] = Counter()
        former: dict[str, float] = {}
        perSecond: Counter[int] = Counter()
        for time, host, times, _ in self.told:
            told[host] += times
            perSecond[int(time)] += 1
            if time < self.clock.seconds():  # else it was flushed
                self.assertGreaterEqual(time - former.get(host, -1), 1 - 1e-6)
            former[host] = time
        self.assertEqual(told.total(), added.total())
        self.assertLessEqual(max(perSecond.values()), 2 * MAX_LINES)
        self.assertGreater(told[OTHERS], 0)
        self.assertQuiet()
