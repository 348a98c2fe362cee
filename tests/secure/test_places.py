"""
Tests for L{aesm.secure.places}: who may be in, and in the handshake, and who makes
room.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as some
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from aesm.errors import ConnectionClosed, HandshakeError
from aesm.secure import places as module
from aesm.secure.places import (
    BURST_SECONDS,
    Places,
    Shares,
    TokenBuckets,
    hostOf,
    hostOfPeer,
)
from aesm.trust.keys import PrivateKey

KEYS = [PrivateKey(bytes([n]) * 32).publicKey for n in range(1, 9)]


def makePlaces(maxConnections: int | None = 9, *more: Any) -> Places:
    """
    Make some, where whatever is in can make room.

    @param more: the further arguments.
    """
    return Places(maxConnections, *more, canYield=lambda member: True)


class Handshake:
    """
    A connection in its handshake, as far as L{Places} sees it.

    @ivar transport: itself; its peer is what the test says.
    @ivar ended: why it had to go.
    """

    def __init__(self, host: str | None) -> None:
        """@param host: where it comes from."""
        self.host = host
        self.transport = self
        self.ended: Any = None

    def getPeer(self) -> Any:
        """Say where it comes from."""
        return (
            UNIXAddress(None) if self.host is None else IPv4Address("TCP", self.host, 1)
        )

    def fail(self, reason: HandshakeError) -> None:
        """
        Have to go.

        @param reason: why.
        """
        self.ended = reason


class HostTests(SynchronousTestCase):
    """L{hostOf} tells which host an address counts for."""

    def test_addresses(self) -> None:
        """IPv4 is one host, IPv6 one by /64, mapped IPv4 counts as itself."""
        for address, host in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("somewhere", "somewhere"),
        ):
            self.assertEqual(hostOf(address), host)

    def test_peers(self) -> None:
        """What is no network address is no host."""
        self.assertEqual(hostOfPeer(IPv4Address("TCP", "192.0.2.1", 5)), "192.0.2.1")
        self.assertEqual(hostOfPeer(IPv6Address("TCP", "fe80::1", 5)), "fe80::/64")
        self.assertIsNone(hostOfPeer(UNIXAddress(None)))


class TokenBucketsTests(SynchronousTestCase):
    """L{TokenBuckets} limits rates."""

    def test_burst(self) -> None:
        """A quiet host may take those of ten seconds at once, and no more."""
        buckets = TokenBuckets(2)
        taken = [buckets.take("h", 100.0) for _ in range(2 * BURST_SECONDS + 1)]
        self.assertEqual(taken, [True] * 20 + [False])

    def test_refill(self) -> None:
        """Tokens come back with time, up to those of ten seconds."""
        buckets = TokenBuckets(2)
        for _ in range(20):
            buckets.take("h", 0.0)
        self.assertFalse(buckets.take("h", 0.4))
        self.assertTrue(buckets.take("h", 0.5))
        self.assertFalse(buckets.take("h", 0.5))
        taken = [buckets.take("h", 1000.0) for _ in range(21)]
        self.assertEqual(taken.count(True), 20)

    def test_hosts(self) -> None:
        """Each host has its own."""
        buckets = TokenBuckets(0.1)
        self.assertTrue(buckets.take("a", 0.0))
        self.assertFalse(buckets.take("a", 0.0))
        self.assertTrue(buckets.take("b", 0.0))

    def test_setBack(self) -> None:
        """A clock that is set back refuses nobody, and what is quiet is forgotten."""
        buckets = TokenBuckets(1)
        buckets.take("a", 1e9)
        self.assertTrue(buckets.take("a", 0.0))
        buckets.take("b", 0.0)
        buckets.take("c", 20.0)
        self.assertEqual(list(buckets._buckets), ["c"])

    def test_slow(self) -> None:
        """However slow the rate, there is one token to begin with."""
        buckets = TokenBuckets(0.001)
        self.assertTrue(buckets.take("a", 0.0))
        self.assertFalse(buckets.take("a", 999.0))
        self.assertTrue(buckets.take("a", 1001.0))

    def test_any(self) -> None:
        """Where there is no bound, nobody waits, and nobody is remembered for long."""
        buckets = TokenBuckets(math.inf)
        for second in range(100):
            self.assertTrue(buckets.take(f"host {second}", float(second)))
        self.assertLessEqual(len(buckets._buckets), 2 * BURST_SECONDS)

    def test_forgotten(self) -> None:
        """
        Hosts that have been quiet are forgotten, so that many cost no memory;
        others are not.
        """
        buckets = TokenBuckets(1)
        for number in range(1000):
            buckets.take(str(number), 0.0)
        for _ in range(10):
            buckets.take("busy", 9.0)
        self.assertFalse(buckets.take("busy", 10.0 - 1e-9))
        self.assertEqual(len(buckets._buckets), 1001)
        buckets.take("new", 10.0)
        self.assertEqual(sorted(buckets._buckets), ["busy", "new"])


def take(places: Places, handshake: Handshake) -> object:
    """Take a token for a handshake whose peer begins to speak."""
    return places.take(cast(Any, handshake), handshake.host, 0.0)


class PendingTests(SynchronousTestCase):
    """L{Places} of those who are in their handshake."""

    def setUp(self) -> None:
        """Have room for 16 of them, 4 of each host."""
        self.allow(16)

    def allow(self, most: int) -> None:
        """
        Have room for so many handshakes.

        @param most: how many.
        """
        self.patch(module, "MIN_PENDING", 1)
        self.patch(module, "MAX_PENDING", most)

    def begin(self, places: Places, *hosts: str | None) -> list[Handshake]:
        """
        Let connections begin.

        @param hosts: of each.
        """
        came = []
        for host in hosts:
            came.append(Handshake(host))
            places.begin(cast(Any, came[-1]), host)
        return came

    def left(self, came: list[Handshake]) -> list[bool]:
        """
        Tell which are left.

        @param came: of these.
        """
        return [one.ended is None for one in came]

    def test_share(self) -> None:
        """
        A host has a quarter of the handshakes; of one more the oldest of that host
        makes room, and nobody else.
        """
        places = makePlaces(100)
        other = self.begin(places, "b")
        came = self.begin(places, *"aaaa")
        self.assertEqual(self.left(came), [True] * 4)
        came += self.begin(places, "a")
        self.assertEqual(self.left(came), [False] + [True] * 4)
        self.assertEqual(self.left(other), [True])
        self.assertIn("made room", str(came[0].ended))

    def test_option(self) -> None:
        """Where a host may have more of the places, it may of the handshakes."""
        for perHost, share in ((25, 4), (50, 8), (99, 15), (100, 16), (200, 16)):
            places = makePlaces(100, perHost)
            came = self.begin(places, *"a" * 17)
            self.assertEqual(self.left(came).count(True), share)

    def test_all(self) -> None:
        """
        When there are too many in all, it is the oldest of the host that has most, and
        never one of a host that has less.
        """
        self.allow(5)
        places = makePlaces(4, 4)
        old = self.begin(places, "b", "c")
        came = self.begin(places, *"aaa")
        self.assertEqual(self.left(old + came), [True] * 5)
        late = self.begin(places, "d")
        self.assertEqual(self.left(old), [True] * 2)
        self.assertEqual(self.left(came), [False, True, True])
        late += self.begin(places, "e")
        self.assertEqual(self.left(came), [False, False, True])
        late += self.begin(places, "f")  # all are equal: the oldest
        self.assertEqual(self.left(old), [False, True])
        self.assertEqual(self.left(came + late), [False, False, True, True, True, True])

    def test_nowhere(self) -> None:
        """
        Those without a host, as over a UNIX socket, have no bound of their own; for all
        together they are one host.
        """
        self.allow(8)
        places = makePlaces(100)
        came = self.begin(places, *[None] * 8)
        self.assertEqual(self.left(came), [True] * 8)
        other = self.begin(places, "a", "a")
        self.assertEqual(self.left(came), [False] * 2 + [True] * 6)
        self.assertEqual(self.left(other), [True] * 2)

    def test_finished(self) -> None:
        """Who is in, or gone, makes room for the next, whatever was before."""
        places = makePlaces(100)
        for _ in range(3):
            came = self.begin(places, *"aaaa")
            for one in came:
                places.finish(cast(Any, one))
                places.finish(cast(Any, one))
            self.assertEqual(self.left(came), [True] * 4)

    def test_forwarded(self) -> None:
        """
        Behind a forwarder each counts for the host that the forwarder has named, once
        it speaks, and at the latest when the forwarder's oldest has to go.
        """
        places = makePlaces(100)
        came = self.begin(places, *"aaaa")
        for one, host in zip(came, ("x", "a", "y", "y"), strict=True):
            one.host = host
        self.assertIsNone(take(places, came[3]))
        came += self.begin(places, *"aa")
        self.assertEqual(self.left(came), [True] * 6)  # the first is of "x" now
        came += self.begin(places, *"aa")
        self.assertEqual([came.index(one) for one in came if one.ended], [1])
        came += self.begin(places, *"yyy")
        self.assertEqual([came.index(one) for one in came if one.ended], [1, 3])

    def test_forwardedToMany(self) -> None:
        """Whoever a forwarder names is kept to its share when it speaks, too."""
        places = makePlaces(100)
        came = self.begin(places, *"abcde")
        for one in came:
            one.host = "x"
            take(places, one)
        self.assertEqual(self.left(came), [False] + [True] * 4)

    def test_take(self) -> None:
        """Handshakes are counted by host; a connection without one is not."""
        places = makePlaces(9, None, 0.1)
        first, second, *nowhere = self.begin(places, "a", "a", None, None, None)
        self.assertIsNone(take(places, first))
        refusal = take(places, second)
        assert isinstance(refusal, ConnectionClosed)
        self.assertEqual(refusal.code, 1013)
        self.assertIn("handshakesPerHost", str(refusal))
        for one in nowhere:
            self.assertIsNone(take(places, one))

    @settings(max_examples=100, deadline=None)
    @given(
        some.lists(some.sampled_from("abcdefgh") | some.none(), max_size=60),
        some.sampled_from((25, 50, 100)),
        some.data(),
    )
    def test_fair(
        self, hosts: list[str | None], perHost: int, data: some.DataObject
    ) -> None:
        """
        Whoever comes and goes, nobody has to go whose host has less than an equal
        share, or no more than its quarter; it is the oldest of that host.
        """
        self.allow(6)
        places = makePlaces(100, perHost)
        share = max(1, 6 * perHost // 100)
        there: list[Handshake] = []
        for host in hosts:
            if there and data.draw(some.integers(0, 3)) == 0:
                gone = there.pop(data.draw(some.integers(0, len(there) - 1)))
                places.finish(cast(Any, gone))
            before = there + self.begin(places, host)
            count = Counter(one.host for one in before)
            there = [one for one in before if not one.ended]
            self.assertLessEqual(len(there), 6)
            for one in before:
                if not one.ended:
                    continue
                if one.host is None or count[one.host] <= share:
                    self.assertEqual(count[one.host], max(count.values()))
                    self.assertEqual(len(before), 7)
                    self.assertGreater(count[one.host] * len(count), 6)
                oldest = next(each for each in before if each.host == one.host)
                self.assertIs(one, oldest)


class InsideTests(SynchronousTestCase):
    """L{Places} of those who are in."""

    def enter(self, places: Places, who: str) -> list[object]:
        """
        Let some in.

        @param who: a host's letter and a key's number for each.
        """
        members: list[object] = []
        for word in who.split():
            members.append(object())
            places.enter(members[-1], word[0], KEYS[int(word[1])])
        return members

    def test_all(self) -> None:
        """There is room for so many in all."""
        places = makePlaces(2)
        first, _ = self.enter(places, "a1 b2")
        for host in ("a", "b", "c", None):
            self.assertIn("maxConnections", places.refusal(host) or "")
        places.leave(first)
        places.leave(first)
        self.assertIsNone(places.refusal("c"))

    def test_host(self) -> None:
        """There is room for so many of one host; what has no host is not limited."""
        places = makePlaces(9, 2)
        first, _ = self.enter(places, "a1 a2")
        self.assertIn("--max-connections-per-host", places.refusal("a") or "")
        self.assertIsNone(places.refusal("b"))
        places.leave(first)
        self.assertIsNone(places.refusal("a"))
        for _ in range(3):
            self.assertIsNone(places.refusal(None))
            places.enter(object(), None, KEYS[0])

    def test_key(self) -> None:
        """
        A key has a quarter, or as many as a host may have if that is more; who is not
        known yet is not asked.
        """
        for perHost, share in ((None, 10), (3, 10), (12, 12)):
            places = makePlaces(40, perHost)
            for number in range(share):
                self.assertIsNone(places.refusal("a", KEYS[0]))
                places.enter(object(), str(number), KEYS[0])
            self.assertIn("of this key", places.refusal("b", KEYS[0]) or "")
            self.assertIsNone(places.refusal("b", KEYS[1]))
            self.assertIsNone(places.refusal("b"))

    def test_defaults(self) -> None:
        """
        A host has a quarter of the places, of those that files allow, but no less than
        eight.
        """
        self.patch(module, "placesPossible", lambda: 2000)
        for most, share in ((1000, 250), (9000, 500), (33, 8), (8, 8), (1, 8)):
            places = makePlaces(most)
            self.assertEqual((places.maxPerHost, places.maxPerKey), (share, share))
        self.assertEqual(makePlaces(1000, 1000).maxPerKey, 1000)

    def test_replace(self) -> None:
        """One may be counted in the place of another, with its host and key."""
        places = makePlaces(9, 1)
        (first,) = self.enter(places, "a1")
        places.replace(first, "other")
        self.assertIn("--max-connections-per-host", places.refusal("a") or "")
        places.leave("other")
        self.assertIsNone(places.refusal("a"))

    def test_yielding(self) -> None:
        """
        When all places are taken, the oldest of the key that has most makes room for
        one whose key and host have less than an equal share; it must have two more.
        """
        places = makePlaces(4)
        members = self.enter(places, "a1 b1 c1")
        self.assertIsNone(places.yielding("d", KEYS[2]))  # there is room
        members += self.enter(places, "d2")
        self.assertIs(places.yielding("e", KEYS[3]), members[0])
        self.assertIs(places.yielding("e", None), members[0])
        self.assertIs(places.yielding(None, KEYS[3]), members[0])
        self.assertIsNone(places.refusal("e", KEYS[3]))
        self.assertIs(places.yielding("e", KEYS[2]), members[0])  # 1 of 4, then 2
        self.assertIsNone(places.yielding("e", KEYS[1]))
        self.assertIn("maxConnections", places.refusal("e", KEYS[1]) or "")

    def test_equal(self) -> None:
        """Where nobody has more than others, all stay."""
        for who in ("a1 b2 c3 d4", "a1 a2 a3 a4", "a1 b1 c2 d2"):
            places = makePlaces(4)
            self.enter(places, who)
            expected = 2 if who.count("1") == 2 else None
            found = places.yielding("e", KEYS[5])
            self.assertEqual(found is not None, expected == 2)
            self.assertIsNone(places.yielding("e", KEYS[1]))

    def test_greedyHost(self) -> None:
        """
        A host that has an equal share gets no more in this way, however many keys it
        has.
        """
        places = makePlaces(4)
        members = self.enter(places, "a1 a2 b3 b3")
        self.assertIsNone(places.yielding("a", KEYS[4]))
        self.assertIs(places.yielding("c", KEYS[4]), members[2])

    def test_cannotYield(self) -> None:
        """What is going anyway is not asked to."""
        places = Places(4, canYield=lambda member: member is second)
        _, second, *_ = self.enter(places, "a1 b1 c1 d2")
        self.assertIs(places.yielding("e", KEYS[3]), second)
        places.leave(second)
        self.enter(places, "b1")
        self.assertIsNone(places.yielding("e", KEYS[3]))
        self.assertIn("maxConnections", places.refusal("e", KEYS[3]) or "")

    @settings(max_examples=100, deadline=None)
    @given(some.lists(some.tuples(some.sampled_from("abcd"), some.sampled_from(KEYS))))
    def test_fair(self, came: list[tuple[str, Any]]) -> None:
        """
        Whoever comes, nobody has to go whose key has less than an equal share; and no
        key that has one is left without.
        """
        places = makePlaces(6)
        there: list[tuple[str, Any, object]] = []
        for host, key in came:
            if places.refusal(host, key) is not None:
                continue
            gone = places.yielding(host, key)
            if gone is not None:
                keys = [each for _, each, _ in there]
                (whose,) = (each for _, each, member in there if member is gone)
                self.assertEqual(len(there), 6)
                owners = len({*keys, key})
                self.assertGreater(keys.count(whose) * owners, 6)
                self.assertLess(keys.count(key) * owners, 6)
                self.assertGreater(keys.count(whose), keys.count(key) + 1)
                self.assertEqual(keys.count(whose), max(map(keys.count, keys)))
                (first, *_) = (member for _, each, member in there if each == whose)
                self.assertIs(gone, first)
                places.leave(gone)
                there = [one for one in there if one[2] is not gone]
            there.append((host, key, object()))
            places.enter(there[-1][2], host, key)
            self.assertLessEqual(len(there), 6)

    def test_options(self) -> None:
        """Options that cannot be are refused by name."""
        for option, value in (
            ("maxConnections", 0),
            ("maxConnectionsPerHost", 0),
            ("maxConnectionsPerHost", -1),
            ("handshakesPerHost", 0.0),
            ("handshakesPerHost", float("nan")),
        ):
            options: dict[str, Any] = {option: value}
            with self.assertRaisesRegex(ValueError, f"^{option} must be above 0"):
                Places(canYield=bool, **options)


class FilesTests(SynchronousTestCase):
    """L{Places} and the limit on open files."""

    def limit(self, inside: int, handshakes: int) -> None:
        """
        Have files for so many.

        @param inside: connections that are in.
        @param handshakes: others beside them.
        """
        self.patch(module, "placesPossible", lambda: inside)
        self.patch(module, "filesForConnections", lambda: inside + handshakes)

    def test_default(self) -> None:
        """By default there are as many places as files, and no more than 65,536."""
        for files, most in ((36, 36), (65535, 65535), (65537, 65536)):
            self.limit(files, 8)
            self.assertEqual(makePlaces(None).maxConnections, most)

    def test_warning(self) -> None:
        """More than there are files for is a warning, and they are not let in."""
        self.limit(2, 8)
        for most, warned in ((2, []), (3, [2])):
            places = makePlaces(most)
            with capturedLogs() as events:
                places.checkFiles()
            self.assertEqual([event["possible"] for event in events], warned)
            for key in KEYS[:2]:
                self.assertIsNone(places.refusal("a", key))
                places.enter(object(), "a", key)
            self.assertIn("maxConnections", places.refusal("a", KEYS[2]) or "")

    def test_pending(self) -> None:
        """
        Handshakes have what those who are in leave over, and never more than 4,096 nor
        less than 8.
        """
        for inside, handshakes, entered, most in (
            (9000, 900, 0, 4096),
            (576, 128, 0, 704),
            (576, 128, 576, 128),
            (3, 8, 3, 8),
            (1, 0, 0, 8),
        ):
            self.limit(inside, handshakes)
            places = makePlaces(1000)
            for _ in range(entered):
                places.enter(object(), "a", KEYS[0])
            self.assertEqual(places.mostPending, most)


class SharesTests(SynchronousTestCase):
    """L{Shares} tells who has most."""

    def test_owners(self) -> None:
        """Members change hands, the oldest first."""
        shares: Shares[int, str] = Shares()
        for member, owner in enumerate("aabbb"):
            shares.add(member, owner)
        self.assertEqual((shares.largest, shares.owners, len(shares)), ("b", 2, 5))
        shares.add(2, "a")
        self.assertEqual((shares.largest, shares.of("a")), ("a", [0, 1, 2]))
        shares.add(0, "a")  # again: it goes behind the others
        self.assertEqual((shares.oldest("a"), shares.owner(0)), (1, "a"))

    @settings(max_examples=100, deadline=None)
    @given(some.lists(some.tuples(some.integers(0, 9), some.sampled_from("abcd."))))
    def test_model(self, steps: list[tuple[int, str]]) -> None:
        """Whatever is given and taken, it says what counting would."""
        shares: Shares[int, str] = Shares()
        model: dict[int, str] = {}
        for member, owner in steps:
            model.pop(member, None)
            if owner == ".":
                shares.discard(member)
            else:
                shares.add(member, owner)
                model[member] = owner
            owners = list(model.values())
            self.assertEqual(len(shares), len(model))
            self.assertEqual(shares.owners, len(set(owners)))
            for each in "abcd":
                self.assertEqual(shares.count(each), owners.count(each))
                less = owners.count(each) * len({*owners, each}) < 6
                self.assertEqual(shares.hasLess(each, 6), less)
            if model:
                most = max(map(owners.count, owners))
                self.assertEqual(owners.count(shares.largest), most)
                oldest = next(m for m, each in model.items() if each == shares.largest)
                self.assertEqual(shares.oldest(shares.largest), oldest)
