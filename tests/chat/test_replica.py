"""
Tests for L{aesm.chat.replica}.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from hashlib import sha256
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm.chat import replica as module
from aesm.chat.presence import HISTORY_BYTES, HISTORY_LINES
from aesm.chat.replica import RULES, ChatReplica, Event
from aesm.chat.rules import MAX_LINE
from aesm.store.interface import IReplica, Rows
from tests.chat.test_rules import lines

MICROS = 1_700_000_000_000_000
WHAT = ("joined", "line", "away", "back")
WORDS = (
    *("/nick alice", "/nick bob", "/nick a1ice", "/regain alice", "/join den"),
    *("/join hall", "/leave", "/who", "/rooms", "hello", "/msg alice psst", "hm"),
    *("/ignore alice", "/ignore bob", "/unignore bob", "/kick bob go", "/help"),
    *("/whois bob", "/nick \u039d\u0391\u039d", "/nick nan", "/nick vav"),
)

events = st.lists(
    st.one_of(
        st.tuples(st.just("gone"), st.integers(0, 5), st.none(), st.none()),
        st.tuples(
            st.sampled_from(WHAT),
            st.integers(0, 5),
            st.one_of(st.sampled_from(WORDS), lines),
            st.dictionaries(st.sampled_from(["K0", "K1", "K2"]), st.booleans()),
        ),
    ),
    max_size=40,
)


def event(what: str, member: int, text: object = None, **more: Any) -> Event:
    """Make an event of one of six members, two of whom have one key each."""
    key, keyName = f"K{member // 2}", "key" if member > 3 else ""
    line = text if isinstance(text, str) else None
    return Event(what, f"member {member}", key, keyName, member < 2, line, **more)


def step(replica: ChatReplica, number: int, happening: tuple[Any, ...]) -> Rows:
    """Have something happen, as a log tells it."""
    what, member, text, operators = happening
    if what == "gone":
        return list(replica.gone(f"member {member}"))
    data = replica.encode(event(what, member, text, operators=operators))
    return list(replica.apply(data, MICROS + number * 1_000_000))


def digest(seed: int, count: int, often: int = 0) -> str:
    """
    Sum up what comes of random events.

    @param often: after how many of them it goes on from a snapshot; 0 for never.
    """
    chance, replica, rows = random.Random(seed), ChatReplica(), []
    for number in range(count):
        if often and number % often == 0:
            before, replica = replica, ChatReplica()
            replica.restore(before.snapshot())
        what = chance.choice(("gone", *WHAT, *["line"] * 10))
        happening: Any = (what, chance.randrange(6), chance.choice(WORDS), {})
        rows += [(a, sorted(b)) for a, b in step(replica, number, happening)]
    told = ascii(rows) + ascii(replica.chat.state())
    return sha256(told.encode()).hexdigest()


class ReplicaTests(SynchronousTestCase):
    """The chat of several processes."""

    def setUp(self) -> None:
        """Begin with nobody."""
        self.replica = ChatReplica()

    def say(self, member: int, text: str | None) -> Rows:
        """Have a line come."""
        return step(self.replica, 0, ("line", member, text, {}))

    def test_interface(self) -> None:
        """It is a replica."""
        verifyObject(IReplica, self.replica)

    @settings(deadline=None)
    @given(events, events)
    def test_restored(self, before: list[Any], after: list[Any]) -> None:
        """
        Who goes on from a snapshot tells the same as who was there all the time, and
        has the same snapshot, whatever happens.
        """
        first = ChatReplica()
        for number, happening in enumerate(before):
            step(first, number, happening)
        second = ChatReplica()
        second.restore(first.snapshot())
        self.assertEqual(second.snapshot(), first.snapshot())
        for number, happening in enumerate(after):
            told = step(first, number, happening)
            self.assertEqual(step(second, number, happening), told)
        self.assertEqual(second.snapshot(), first.snapshot())
        first.restore(None)
        self.assertEqual(first.snapshot(), ChatReplica().snapshot())

    def test_everywhere(self) -> None:
        """Of the same events comes the same in every process, however it hashes."""
        told = set()
        for seed in ("1", "2"):
            program = f"from {__name__} import digest; print(digest(7, 2000))"
            run = subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "tr_TR.UTF-8"},
                stdout=subprocess.PIPE,
                check=True,
            )
            told.add(run.stdout.decode().strip())
        self.assertEqual(told, {digest(7, 2000)})

    def test_rules(self) -> None:
        """
        What comes of events changes with the number of the rules only: nodes of other
        rules would have another chat.
        """
        self.assertEqual((RULES, digest(7, 1000)[:16]), (1, "b1f4b54acc5a0c04"))

    def test_goesOn(self) -> None:
        """It is the same, too, for who goes on from a snapshot now and then."""
        self.assertEqual(digest(7, 1000, 3), digest(7, 1000))

    def test_again(self) -> None:
        """Who is told to have joined twice has joined once."""
        told = step(self.replica, 0, ("joined", 0, None, {}))
        self.assertEqual(len(told), 1)
        self.say(0, "/nick alice")
        self.assertEqual(step(self.replica, 0, ("joined", 0, None, {})), [])
        self.assertIn("who lobby 1: alice", self.lines(self.say(0, "/who")))

    def lines(self, rows: Rows) -> list[str | None]:
        """List what is told."""
        return [line for line, _ in rows]

    def test_unknown(self) -> None:
        """Of somebody who is unknown a line is the first word, and nothing else is."""
        for what in ("away", "back", "gone"):
            self.assertEqual(step(self.replica, 0, (what, 0, None, {})), [])
        self.assertEqual(self.replica.snapshot(), ChatReplica().snapshot())
        told = self.lines(self.say(0, "/nick alice"))
        self.assertIn("choose a name", str(told[0]))
        self.assertIn("you are alice in lobby", told)

    def test_noEvent(self) -> None:
        """What is no event is nothing."""
        for data in (b"", b"\xff", b"7", b"[]", b"{}", b"null", b'"x"'):
            self.assertEqual(self.replica.apply(data, MICROS), [])
        good = self.replica.encode(event("line", 0, "/nick alice"))
        for bad in (
            good.replace(b'"K0"', b"7"),
            good.replace(b"true", b"null"),
            good.replace(b",{}]", b"]"),
            good.replace(b'"line"', b'"hum"'),
        ):
            self.assertNotEqual(bad, good)
            self.assertEqual(self.replica.apply(bad, MICROS), [])

    def test_otherKey(self) -> None:
        """Nobody speaks in the place of another key that had a session of that name."""
        self.say(0, "/nick alice")
        said = event("line", 0, "hello")._replace(key="K2", isOperator=False)
        told = self.lines(self.replica.happened(said, MICROS))
        self.assertIn("choose a name", str(told[0]))
        self.assertIn("error: choose a name first", str(told[1]))
        self.assertEqual(self.replica.chat.keyOf("member 0"), "K2")

    def test_operators(self) -> None:
        """
        Who is an operator is what the process knew where something was sent, of others
        too, as long as they are there.
        """
        for member, name in ((0, "ann"), (2, "bob"), (4, "key")):
            self.say(member, f"/nick {name}")
        told = step(self.replica, 0, ("line", 0, "/kick bob", {"K1": True, "K9": True}))
        self.assertEqual(self.lines(told), ["error: bob is an operator"])
        self.assertEqual(
            self.replica.chat.marks(), {"K0": True, "K1": True, "K2": False}
        )
        told = step(self.replica, 0, ("line", 0, "/kick bob", {"K1": False}))
        self.assertIn("error: you were sent away by ann", self.lines(told))
        step(self.replica, 0, ("gone", 0, None, {}))
        self.assertEqual(self.replica.chat.marks(), {"K1": False, "K2": False})

    def test_banned(self) -> None:
        """Who is banned is so for those who go on, too."""
        for member, name in ((0, "ann"), (2, "bob")):
            self.say(member, f"/nick {name}")
        self.say(0, "/ban bob")
        replica = ChatReplica()
        replica.restore(self.replica.snapshot())
        self.assertTrue(replica.chat.isBanned("K1"))
        told = step(replica, 0, ("joined", 3, None, {}))
        self.assertEqual(told[-1], (None, ("member 3",)))

    def test_tooLong(self) -> None:
        """What is too long is refused, though all of it is not told to everybody."""
        told = self.say(0, "\u65e5" * 1_000_000)
        self.assertIn(f"at most {MAX_LINE} bytes", str(told[-1][0]))
        for text in ("\x00" * 10_000, "\U0001f600" * 10_000, "\ud800" * 10_000):
            self.assertLess(len(self.replica.encode(event("line", 0, text))), 26_000)

    def test_onlyText(self) -> None:
        """What is no text is refused."""
        self.say(0, "/nick alice")
        told = self.say(0, None)
        self.assertEqual(self.lines(told), ["error: only text can be sent here"])

    def test_times(self) -> None:
        """A line has the time that comes with it, whatever that is."""
        self.say(0, "/nick alice")
        for micros in (-1, 10**30):
            self.replica.happened(event("line", 0, "hello"), micros)
        self.say(1, "hello")
        told = self.lines(self.say(1, "/nick bob"))
        self.assertIn("old lobby 1970-01-01T00:00:00Z alice: hello", told)
        self.assertIn("old lobby 9999-12-31T23:59:59Z alice: hello", told)

    def test_sameAudience(self) -> None:
        """What is told a room is for one and the same set, while nobody comes."""
        self.say(0, "/nick alice")
        (one,), (other,) = self.say(0, "hello"), self.say(0, "hello")
        self.assertIs(one[1], other[1])
        self.assertEqual(one[1], {"member 0"})

    def test_versions(self) -> None:
        """An event, or a snapshot, of other rules is refused, and changes nothing."""
        other = ChatReplica(freeNames=True)
        snapshot = self.replica.snapshot()
        self.assertRaises(ValueError, self.replica.restore, other.snapshot())
        data = other.encode(event("joined", 0))
        self.assertRaises(ValueError, self.replica.apply, data, MICROS)
        self.patch(module, "RULES", 2)
        newer = ChatReplica().encode(event("joined", 0))
        refused = self.assertRaises(ValueError, self.replica.apply, newer, MICROS)
        self.assertIn("version '2 ", str(refused))
        self.assertEqual(self.replica.snapshot(), snapshot)

    def test_rewound(self) -> None:
        """Who wants to know is told that it is older than it was."""
        told: list[bool] = []
        replica = ChatReplica(rewound=lambda: told.append(True))
        replica.rewound()
        self.assertEqual(told, [True])

    def test_size(self) -> None:
        """A snapshot is little more than what people see, and where they are."""
        for _ in range(2 * HISTORY_LINES):
            self.say(0, "/nick alice")
            self.say(0, "x" * 300)
        self.assertLess(len(self.replica.snapshot()), HISTORY_BYTES * 1.2)
        before = len(self.replica.snapshot())
        for number in range(100):
            name = f"{number:032x}"
            joined = event("joined", 2)._replace(member=name, key=f"{number:044x}")
            self.replica.happened(joined, MICROS)
        self.assertLess(len(self.replica.snapshot()) - before, 100 * 120)
