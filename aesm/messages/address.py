"""
The addresses that connections are known by.
"""

from __future__ import annotations

from functools import lru_cache

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from aesm.text import escape
from aesm.trust.locations import canonicalAddress

Address = tuple[str, int] | str


def addressOf(address: IAddress, number: int) -> Address:
    """
    Make the address of a connection.

    @param address: the transport's peer.
    @param number: one that no other connection of this process has.
    @return: C{(host, port)} for TCP, else a unique string.  The host is escaped, and
        spelled as everywhere: a PROXY header may say anything.
    """
    if isinstance(address, IPv4Address | IPv6Address):
        return (_nameOf(address.host), address.port)
    # A UNIX client has no name of its own, but connections are looked up by address.
    kind = "unix" if isinstance(address, UNIXAddress) else "peer"
    return f"{kind}-{number}"


@lru_cache(maxsize=1024)  # each connection asks several times
def _nameOf(host: str) -> str:
    """Spell a host as everywhere, and make it safe to show."""
    return escape(canonicalAddress(host))


def addressText(address: Address) -> str:
    """Write an address as the log does."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else address
