"""
How much of a server one host may have: connections, and handshakes a second.

L{Admission} counts; it closes nothing itself.  The hosts of one IPv6 network
of 64 bits count as one, since one customer has that many addresses, and an
IPv4 address mapped into IPv6 counts as itself.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

__all__ = ["Admission", "TokenBuckets", "connectionsPossible", "hostOf"]

OTHER_FILES = 64  # that a server has open beside its connections
BURST_SECONDS = 10  # how long a quiet host saves up its handshakes
_PREFIX = 64  # bits of an IPv6 address that tell hosts apart


@lru_cache(maxsize=1024)  # each connection asks several times
def hostOf(host: str) -> str:
    """
    Tell which host an address counts for.

    @param host: an IP address in text form, or anything else.
    @return: the IPv4 address, the IPv6 network, or what was given.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        network = int(address) >> (128 - _PREFIX) << (128 - _PREFIX)
        return f"{IPv6Address(network)}/{_PREFIX}"
    return str(address)


def connectionsPossible() -> int:
    """
    Tell how many connections the limit on open files allows, some files being
    in use for other things.

    @return: at least one.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    return max(1, most - OTHER_FILES)


class TokenBuckets:
    """
    A rate for each host: a token is one handshake, and a bucket that is full
    again is forgotten.
    """

    def __init__(self, rate: float) -> None:
        """
        @param rate: tokens a second, above 0; a bucket holds those of
            C{BURST_SECONDS}, and at least one.
        """
        self._rate = rate
        self._size = max(1.0, rate * BURST_SECONDS)
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, since when
        self._swept = 0.0

    def take(self, host: str, now: float) -> bool:
        """
        Take one token.

        @param host: whose.
        @param now: seconds, of any clock; one that is set back refuses nobody.
        @return: whether there was one.
        """
        self._sweep(now)
        tokens, since = self._buckets.get(host, (self._size, now))
        tokens = min(self._size, tokens + max(0.0, now - since) * self._rate)
        if tokens < 1:
            self._buckets[host] = (tokens, now)
            return False
        self._buckets[host] = (tokens - 1, now)
        return True

    def _sweep(self, now: float) -> None:
        """
        Forget the buckets that are full again, now and then.

        @param now: seconds.
        """
        fill = self._size / self._rate
        if abs(now - self._swept) >= fill:
            self._swept = now
            self._buckets = {
                host: (tokens, since)
                for host, (tokens, since) in self._buckets.items()
                if tokens + (now - since) * self._rate < self._size
            }


class Admission:
    """
    Counts the connections of a server, in all and for each host.
    """

    def __init__(self, most: int, mostPerHost: int) -> None:
        """
        @param most: connections in all.
        @param mostPerHost: connections of one host.
        """
        self._most = most
        self._mostPerHost = mostPerHost
        self._all = 0
        self._hosts: Counter[str] = Counter()

    def refusal(self, host: str | None) -> str | None:
        """
        Say why one more connection cannot be let in.

        @param host: whose, or None if it comes from no host.
        @return: why, or None if it can.
        """
        if self._all >= self._most:
            return f"{self._all} connections are open: no more than maxConnections"
        if host is not None and self._hosts[host] >= self._mostPerHost:
            return (
                f"{self._hosts[host]} connections of this host are open: no more "
                "than maxConnectionsPerHost"
            )
        return None

    def enter(self, host: str | None) -> None:
        """
        Count a connection.

        @param host: whose, or None if it comes from no host.
        """
        self._all += 1
        if host is not None:
            self._hosts[host] += 1

    def leave(self, host: str | None) -> None:
        """
        Count a connection no more.

        @param host: whose, or None if it comes from no host.
        """
        self._all -= 1
        if host is not None:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
