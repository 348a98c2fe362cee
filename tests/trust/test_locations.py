"""
Tests for L{aesm.trust.locations}.
"""

from __future__ import annotations

from twisted.internet.address import (
    HostnameAddress,
    IPv4Address,
    IPv6Address,
    UNIXAddress,
)
from twisted.trial.unittest import SynchronousTestCase

from aesm.trust.locations import (
    locationOf,
    locationOfAddress,
    quoteLocation,
    unquoteLocation,
)


class LocationTests(SynchronousTestCase):
    """L{locationOf} names what a string dials."""

    def test_strings(self) -> None:
        """Host and port, a path, or the string itself."""
        for endpoint, location in (
            ("tcp:example.org:8765", "example.org:8765"),
            ("tcp:Example.ORG:8765:timeout=5", "example.org:8765"),
            ("tcp:host=example.org:port=8765", "example.org:8765"),
            ("tcp:port=8765:host=example.org", "example.org:8765"),
            ("TCP:example.org:port=8765", "example.org:8765"),
            (r"tcp:2001\:db8\:\:1:8765", "[2001:db8::1]:8765"),
            (r"tcp:host=\:\:1:port=8765", "[::1]:8765"),
            ("tls:example.org:443", "example.org:443"),
            ("ssl:example.org:443:caCertsDir=x", "example.org:443"),
            ("unix:/run/aesm", "unix:/run/aesm"),
            ("unix:path=/run/aesm:timeout=3", "unix:/run/aesm"),
            (r"unix:/run/a\\b", r"unix:/run/a\b"),
            ("tor:abc.onion:80", "tor:abc.onion:80"),
            ("tcp:", ":"),
            ("", ""),
            ("tcp:example.org.:021011", "example.org:21011"),
            ("LOCALHOST", "localhost:8765"),
            ("LocalHost:021011", "localhost:21011"),
            ("[2001:DB8:0::1]:5", "[2001:db8::1]:5"),
            ("2001:DB8:0::1", "[2001:db8::1]:8765"),
            ("tcp:[::FFFF:127.0.0.1]:5:timeout=3", "[::ffff:127.0.0.1]:5"),
            ("192.0.2.1", "192.0.2.1:8765"),
            ("unix:8765", "unix:8765"),
        ):
            self.assertEqual(locationOf(endpoint), location, endpoint)

    def test_addresses(self) -> None:
        """Where no string is known, the transport's peer is taken."""
        for address, location in (
            (IPv4Address("TCP", "192.0.2.1", 5), "192.0.2.1:5"),
            (IPv6Address("TCP", "::1", 5), "[::1]:5"),
            (UNIXAddress("/run/aesm"), "unix:/run/aesm"),
            (
                HostnameAddress(b"example.org", 5),
                str(HostnameAddress(b"example.org", 5)),
            ),
            (UNIXAddress(None), str(UNIXAddress(None))),
        ):
            self.assertEqual(locationOfAddress(address), location)

    def test_typedAgain(self) -> None:
        """What is shown of a location can be typed in, and is the same."""
        for host in (
            "192.0.2.1",
            "::1",
            "2001:db8::1",
            "fe80::1%eth0",
            "::ffff:1.2.3.4",
        ):
            kind = IPv6Address if ":" in host else IPv4Address
            shown = locationOfAddress(kind("TCP", host, 5))
            self.assertEqual(locationOf(shown), shown)

    def test_spelledOtherwise(self) -> None:
        """A file may have been written by hand: another spelling is no other server."""
        for word, location in (
            ("LOCALHOST:08765", "localhost:8765"),
            ("[2001:DB8:0::1]:5", "[2001:db8::1]:5"),
            ("unix:/run/A:1", "unix:/run/A:1"),
        ):
            self.assertEqual(unquoteLocation(word), location)

    def test_quoted(self) -> None:
        """In a file a location is one word of ASCII."""
        for location, word in (
            ("[fe80::1%wlan0]:8765", "[fe80::1%25wlan0]:8765"),
            ("unix:/run/my server", "unix:/run/my%20server"),
            ("#1", "%231"),
            ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher:1", "b%C3%BCcher:1"),
        ):
            self.assertEqual(quoteLocation(location), word)
            self.assertEqual(unquoteLocation(word), location)

    def test_unprintable(self) -> None:
        """What does not print is no location, however it is written."""
        for location in ("", "a\nb", "a\u202eb"):
            self.assertRaises(ValueError, quoteLocation, location)
        for word in ("", "a%0Ab", "a%FFb"):
            self.assertRaises(ValueError, unquoteLocation, word)
