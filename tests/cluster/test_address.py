"""
Tests for L{aesm.cluster.address}.
"""

from __future__ import annotations

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from aesm.cluster.address import CONNECT_TIMEOUT, EngineAddress
from tests.secure.test_hosts import resolving


class EngineAddressTests(SynchronousTestCase):
    """L{EngineAddress}."""

    def assertRefused(self, url: str, words: str) -> None:
        """Check that a URL is refused, and why."""
        error = self.assertRaises(ValueError, EngineAddress.parse, url)
        self.assertIn(words, str(error))

    def test_tcp(self) -> None:
        """A host and a port, or the usual port."""
        address = EngineAddress.parse("redis://example.org:7000")
        self.assertEqual(address.hosts, (("example.org", 7000),))
        address = EngineAddress.parse("redis://example.org")
        self.assertEqual(address.hosts, (("example.org", 6379),))
        self.assertEqual(EngineAddress.parse("redis://[::1]:1/").hosts, (("::1", 1),))

    def test_sentinels(self) -> None:
        """Hosts and ports of sentinels, and what they call it."""
        for scheme in ("redis", "rediss"):
            url = f"{scheme}+sentinel://u@a:1,b,[::1]/main"
            address = EngineAddress.parse(url)
            hosts = (("a", 1), ("b", 26379), ("::1", 26379))
            self.assertEqual(address, (f"{scheme}+sentinel", hosts, "main", "u"))
            self.assertTrue(address.hasSentinels)
        self.assertEqual(str(address), "rediss+sentinel://a:1,b:26379,[::1]:26379/main")

    def test_user(self) -> None:
        """A user's name may be there, and is not shown."""
        address = EngineAddress.parse("rediss://a%40b@example.org")
        self.assertEqual(address.user, "a@b")
        self.assertEqual(str(address), "rediss://example.org:6379")
        self.assertIs(EngineAddress.parse("redis://example.org").user, None)

    def test_unix(self) -> None:
        """A path, with any characters."""
        address = EngineAddress.parse("redis+unix:///run/a%20b.sock")
        self.assertEqual(address.path, "/run/a b.sock")
        self.assertEqual(str(address), "redis+unix:///run/a b.sock")

    def test_shown(self) -> None:
        """It is shown as it is written."""
        for url in ("redis://[::1]:1", "rediss://h:6379", "redis+unix:///a"):
            self.assertEqual(str(EngineAddress.parse(url)), url)

    def test_local(self) -> None:
        """It is known which addresses are this machine's."""
        for url in ("redis://localhost", "redis://[::1]", "redis+unix:///a"):
            self.assertTrue(EngineAddress.parse(url).isLocal)
        self.assertFalse(EngineAddress.parse("redis://example.org").isLocal)

    def test_password(self) -> None:
        """A password in it is refused, and not shown."""
        error = self.assertRaises(
            ValueError, EngineAddress.parse, "redis://:secret@example.org"
        )
        self.assertNotIn("secret", str(error))
        self.assertIn("file", str(error))

    def test_wrong(self) -> None:
        """Anything else is refused, and it says what would be right."""
        for url in (
            "example.org:6379",
            "http://example.org",
            "redis://",
            "redis://example.org/3",
            "redis+unix://example.org/run",
            "redis+unix:relative",
            "redis://a,b",
            "redis+sentinel://a,b",
            "redis+sentinel:///main",
            "redis+sentinel://a/main/more",
            "",
        ):
            self.assertRefused(url, "redis+unix:///PATH")
        self.assertRefused("redis://example.org:x", "no URL")
        self.assertRefused("redis://example.org?db=1", "more than an address")

    def test_endpoints(self) -> None:
        """It is connected to as it says."""
        reactor = MemoryReactorClock()
        for url, kind in (
            ("redis://example.org", HostnameEndpoint),
            ("redis+unix:///a", UNIXClientEndpoint),
        ):
            endpoint = EngineAddress.parse(url).endpoint(reactor)
            self.assertIsInstance(endpoint, kind)

    def test_timeout(self) -> None:
        """No attempt to connect takes longer than L{CONNECT_TIMEOUT}."""
        reactor = resolving(MemoryReactorClock())
        for url in ("redis://127.0.0.1", "redis+unix:///a"):
            endpoint = EngineAddress.parse(url).endpoint(reactor)
            connecting = endpoint.connect(Factory.forProtocol(Protocol))
            reactor.advance(CONNECT_TIMEOUT - 0.1)
            self.assertNoResult(connecting)
            connecting.cancel()
            self.failureResultOf(connecting)
        self.assertEqual(reactor.tcpClients[0][3], CONNECT_TIMEOUT)
        self.assertEqual(reactor.unixClients[0][2], CONNECT_TIMEOUT)

    def test_tls(self) -> None:
        """With TLS, too."""
        reactor = MemoryReactorClock()
        try:
            endpoint = EngineAddress.parse("rediss://example.org").endpoint(reactor)
        except ImportError:
            raise SkipTest("TLS needs pyOpenSSL") from None
        self.assertTrue(IStreamClientEndpoint.providedBy(endpoint))
        self.assertNotIsInstance(endpoint, HostnameEndpoint)
