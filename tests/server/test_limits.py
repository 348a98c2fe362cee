"""
Tests for L{aesm.server.admission}.
"""

from __future__ import annotations

import resource
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from aesm.server.admission import (
    BURST_SECONDS,
    HostLimits,
    TokenBuckets,
    connectionsPossible,
    hostOf,
)
from aesm.server.factory import AESMServerFactory
from aesm.trust.keys import PrivateKey
from tests.server.test_admission import makeAdmission


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


class AdmissionTests(SynchronousTestCase):
    """L{HostLimits} counts connections."""

    def test_all(self) -> None:
        """There is room for so many in all."""
        admission = HostLimits(2, 9)
        for host in ("a", None):
            self.assertIsNone(admission.refusal(host))
            admission.enter(host)
        for host in ("a", "b", None):
            self.assertIn("maxConnections", admission.refusal(host) or "")
        admission.leave(None)
        self.assertIsNone(admission.refusal("b"))

    def test_host(self) -> None:
        """There is room for so many of one host; what has no host is not limited."""
        admission = HostLimits(9, 1)
        admission.enter("a")
        self.assertIn("maxConnectionsPerHost", admission.refusal("a") or "")
        self.assertIsNone(admission.refusal("b"))
        self.assertIsNone(admission.refusal(None))
        admission.leave("a")
        self.assertIsNone(admission.refusal("a"))
        self.assertEqual(len(admission._hosts), 0)
        admission.enter("a")
        admission.enter("a")
        admission.leave("a")
        self.assertEqual(admission._hosts["a"], 1)


class ConnectionsPossibleTests(SynchronousTestCase):
    """Tests for L{connectionsPossible}."""

    def limit(self, soft: int) -> None:
        """Have a limit on open files."""
        self.patch(resource, "getrlimit", lambda what: (soft, soft))

    def test_some(self) -> None:
        """A few files are left for other things, and at least one for a connection."""
        for soft, possible in ((1024, 960), (64, 1), (10, 1)):
            self.limit(soft)
            self.assertEqual(connectionsPossible(), possible)

    def test_unlimited(self) -> None:
        """No limit allows any number."""
        self.limit(resource.RLIM_INFINITY)
        self.assertGreater(connectionsPossible(), 1 << 40)

    def test_default(self) -> None:
        """
        By default a server takes no more connections than there can be files; if
        it is told to, it warns when it begins to listen.
        """
        self.limit(100)
        factories = [
            AESMServerFactory(
                reactor=Clock(), key=PrivateKey.generate(), maxConnections=most
            )
            for most in (None, 36, 37)
        ]
        found = []
        for factory in factories:
            with capturedLogs() as events:
                factory.startFactory()
            factory.stopFactory()
            found.append([event["possible"] for event in events])
        self.assertEqual(found, [[], [], [36]])

    def test_pending(self) -> None:
        """
        Those who are in their handshake have a quarter of the files, what those who are
        in leave over, and never more than 512 nor less than 8.
        """
        for soft, inside, most in (
            (resource.RLIM_INFINITY, 0, 512),
            (65536, 0, 512),
            (1024, 0, 240),
            (128, 0, 16),
            (128, 54, 10),
            (128, 64, 8),
            (10, 0, 8),
        ):
            self.limit(soft)
            admission = makeAdmission(maxConnections=100, maxConnectionsPerHost=100)
            for port in range(inside):
                admission.enter(cast(Any, object()), ("127.0.0.1", port))
            self.assertEqual(admission.mostPending, most)
