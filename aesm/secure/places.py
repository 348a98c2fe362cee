"""
The places of a server: how many connections may be in, and in the handshake, and whose
they are::

    places = Places(maxConnections=100)
    why = places.refusal(host)                    # when a connection begins
    places.begin(secure, host)                    # it is in its handshake
    why = places.take(secure, host, now)          # at its first byte
    why = places.refusal(host, publicKey)         # once it has proved its key
    places.enter(connection, host, publicKey)     # it is in
    places.leave(connection)

Nobody may take all: a host has a share of the handshakes and of the places, and so has
a key.  Where something must go all the same, it is the oldest of whoever has most; so
whoever has less than an equal share, as each has who comes from far away and alone,
keeps what he has, whatever others do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.address import IPv6Address as IPv6Peer
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from aesm.errors import AESMError
from aesm.secure.openfiles import (
    MAX_PENDING,
    MIN_PENDING,
    filesForConnections,
    placesPossible,
)
from aesm.secure.refusals import Kind, Refused

if TYPE_CHECKING:
    from aesm.secure.protocol import SecureProtocol
    from aesm.trust.keys import PublicKey

_log = Logger(namespace="aesm.server")

MAX_CONNECTIONS = 65_536  # where it is not said how many, and files allow more
SHARE = 4  # one host, or one key, has a quarter
MIN_SHARE = 8  # connections, where a quarter is less
HANDSHAKES_PER_HOST = 100.0  # a second
BURST_SECONDS = 10  # how long a quiet host saves up its handshakes
ANY = 1e9  # handshakes a second, more than anybody makes
HOST_PREFIX = 64  # bits of an IPv6 address that tell hosts apart

_Member = TypeVar("_Member", bound=Hashable)
_Owner = TypeVar("_Owner", bound=Hashable)


class Places:
    """
    Counts the connections of one server, those who are in and those in the handshake,
    by host and by key.  A host is what C{hostOf} says; None, as over a UNIX socket, is
    one that nobody knows, which has no bounds of its own.

    @ivar maxConnections: those who are in.
    @ivar maxPerHost: of these, those of one host.
    @ivar maxPerKey: of these, those of one key.
    """

    def __init__(
        self,
        maxConnections: int | None = None,
        maxConnectionsPerHost: int | None = None,
        handshakesPerHost: float = HANDSHAKES_PER_HOST,
        *,
        canYield: Callable[[Any], bool],
    ) -> None:
        """
        @param maxConnections: None for as many as the limit on open files allows, and
            no more than 65,536.
        @param maxConnectionsPerHost: None for a quarter of those that files allow, and
            at least 8.
        @param handshakesPerHost: a second.
        @param canYield: tells whether one that is in can be closed to make room.
        @raise ValueError: an option has a value that it cannot have.
        """
        if maxConnections is None:
            maxConnections = min(MAX_CONNECTIONS, placesPossible())
        self.maxConnections = maxConnections
        self._lookAtFiles()
        quarter = max(MIN_SHARE, self._most // SHARE)
        if maxConnectionsPerHost is None:
            maxConnectionsPerHost = quarter
        for option, value in (
            ("maxConnections", maxConnections),
            ("maxConnectionsPerHost", maxConnectionsPerHost),
            ("handshakesPerHost", handshakesPerHost),
        ):
            if not value > 0:
                raise ValueError(f"{option} must be above 0, not {value}")
        self.maxPerHost = maxConnectionsPerHost
        self.maxPerKey = max(quarter, maxConnectionsPerHost)
        self._hosts: Shares[Hashable, str | None] = Shares()
        self._keys: Shares[Hashable, PublicKey | None] = Shares()
        self._pending: Shares[SecureProtocol, str | None] = Shares()
        self._handshakes = TokenBuckets(handshakesPerHost)
        self._canYield = canYield

    def checkFiles(self) -> None:
        """Warn if there are to be more connections than files can be open."""
        self._lookAtFiles()
        possible = self._possible
        if self.maxConnections > possible:
            _log.warn(
                "maxConnections (--max-connections) is {most}, but the limit on open "
                "files allows only {possible}, which is how many are let in: raise it "
                "(ulimit -n, LimitNOFILE=)",
                most=self.maxConnections,
                possible=possible,
            )

    def _lookAtFiles(self) -> None:
        """See what the limit on open files allows: it may have been changed."""
        self._files, self._possible = filesForConnections(), placesPossible()
        self._most = min(self.maxConnections, self._possible)

    # Those in the handshake

    @property
    def mostPending(self) -> int:
        """How many connections may be in their handshake now."""
        left = self._files - len(self._hosts)
        return max(MIN_PENDING, min(MAX_PENDING, left))

    @property
    def pending(self) -> int:
        """How many connections are in their handshake now."""
        return len(self._pending)

    def begin(self, secure: SecureProtocol, host: str | None) -> None:
        """
        Count a connection that begins its handshake; if there are too many, the oldest
        of the host that has most ends.
        """
        self._pending.add(secure, host)
        most = self.mostPending
        self._bound(host, most)
        while len(self._pending) > most:
            self._end(self._pending.largest, "all")

    def take(
        self, secure: SecureProtocol, host: str | None, now: float
    ) -> AESMError | None:
        """
        Take a token for a handshake, now that the peer begins to speak.

        @param host: of the peer: only now does a transport behind a forwarder know who
            speaks (the PROXY protocol).
        @param now: seconds, of any clock.
        @return: None to go on, or why not to.
        """
        if host != self._pending.owner(secure):
            self._pending.add(secure, host)
            self._bound(host, self.mostPending)
        if host is None or self._handshakes.take(host, now):
            return None
        return Refused(
            "its host makes more handshakes a second than handshakesPerHost allows",
            Kind.HOST_RATE,
        )

    def finish(self, secure: SecureProtocol) -> None:
        """Count a connection in the handshake no more, if it is counted."""
        self._pending.discard(secure)

    def _bound(self, host: str | None, most: int) -> None:
        """Keep a host to a quarter of the handshakes, or what it has of the places."""
        if host is not None:
            places = most * self.maxPerHost // self.maxConnections
            while self._pending.count(host) > max(most // SHARE, places):
                self._end(host, "this host's")

    def _end(self, host: str | None, whose: str) -> None:
        """End the oldest handshake of a host, if it is that host's."""
        oldest = self._pending.oldest(host)
        known = hostOfPeer(oldest.transport.getPeer())
        if known != host:  # a forwarder has said so, and the peer nothing
            self._pending.add(oldest, known)
            return
        self._pending.discard(oldest)  # it may take a turn until it is gone
        oldest.fail(
            Refused(
                f"too many connections have not finished their handshake ({whose}): "
                "the oldest of the host that has most made room",
                Kind.MADE_ROOM,
            )
        )

    # Those who are in

    @property
    def taken(self) -> int:
        """How many places are taken, also by those that are leaving."""
        return len(self._hosts)

    def refusal(self, host: str | None, key: PublicKey | None = None) -> str | None:
        """
        Say why there is no place for one more connection, or None if there is.

        @param key: None while it is not known, when a connection begins.
        """
        if key is None:
            self._lookAtFiles()
        if host is not None and self._hosts.count(host) >= self.maxPerHost:
            return (
                f"{self._hosts.count(host)} connections of this host are open: no more "
                "than maxConnectionsPerHost (--max-connections-per-host)"
            )
        if key is not None and self._keys.count(key) >= self.maxPerKey:
            return (
                f"{self._keys.count(key)} connections of this key are open: no more "
                "than a quarter of maxConnections (--max-connections), or "
                "maxConnectionsPerHost (--max-connections-per-host)"
            )
        if len(self._hosts) >= self._most and self.yielding(host, key) is None:
            return (
                f"{len(self._hosts)} connections are open: no more than maxConnections "
                "(--max-connections)"
            )
        return None

    def yielding(self, host: str | None, key: PublicKey | None) -> Hashable | None:
        """
        Tell who is to make room for one more connection, if all places are taken: the
        oldest of the key that has most, if that is more than an equal share, and the
        new one's key and host have less.

        @return: None if all stay.
        """
        most, keys = self._most, self._keys
        if (
            len(keys) < most
            or not keys.hasLess(key, most)
            or not (host is None or self._hosts.hasLess(host, most))
        ):
            return None
        # Then whoever has most has more than an equal share.  It must have two more
        # than the new one's key, which would be the next to make room for it otherwise.
        richest = keys.largest
        if keys.count(richest) < keys.count(key) + 2:
            return None
        return next(filter(self._canYield, keys.of(richest)), None)

    def ofKey(self, key: PublicKey) -> list[Hashable]:
        """List those who are in of one key, the oldest first."""
        return self._keys.of(key)

    def enter(self, member: Hashable, host: str | None, key: PublicKey | None) -> None:
        """Count a connection that is in."""
        self._hosts.add(member, host)
        self._keys.add(member, key)

    def leave(self, member: Hashable) -> None:
        """Count a connection that was in no more, if it is counted."""
        self._hosts.discard(member)
        self._keys.discard(member)

    def replace(self, former: Hashable, member: Hashable) -> None:
        """Count another one in the place of one that is counted."""
        host, key = self._hosts.owner(former), self._keys.owner(former)
        self.leave(former)
        self.enter(member, host, key)


class Shares(Generic[_Member, _Owner]):
    """Who has how many, and who has most, in constant time whatever their number."""

    def __init__(self) -> None:
        self._owner: dict[_Member, _Owner] = {}
        self._members: dict[_Owner, dict[_Member, None]] = {}  # the oldest first
        # Owners by how many they have; one more or less leads to the next size, so that
        # the largest is always known.
        self._sizes: dict[int, dict[_Owner, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        """Count the members of all."""
        return len(self._owner)

    @property
    def owners(self) -> int:
        """How many have any."""
        return len(self._members)

    @property
    def largest(self) -> _Owner:
        """Who has most; of several, who has had so many for longest."""
        return next(iter(self._sizes[self._largest]))

    def count(self, owner: _Owner) -> int:
        """Tell how many somebody has."""
        return len(self._members.get(owner, ()))

    def hasLess(self, owner: _Owner, most: int) -> bool:
        """Tell whether somebody has less than an equal share of C{most}, or none."""
        has = self.count(owner)
        return has * (self.owners + (not has)) < most

    def owner(self, member: _Member) -> _Owner:
        """Tell whose a member is."""
        return self._owner[member]

    def oldest(self, owner: _Owner) -> _Member:
        """Tell which of its members somebody has had for longest."""
        return next(iter(self._members[owner]))

    def of(self, owner: _Owner, most: int | None = None) -> list[_Member]:
        """List the members that somebody has, or so many of them, the oldest first."""
        return list(islice(self._members.get(owner, ()), most))

    def add(self, member: _Member, owner: _Owner) -> None:
        """Give a member to somebody, and take it from whoever has it."""
        if member in self._owner:
            self.discard(member)
        self._owner[member] = owner
        members = self._members.setdefault(owner, {})
        members[member] = None
        self._resize(owner, len(members) - 1, len(members))

    def discard(self, member: _Member) -> None:
        """Take a member from whoever has it, if anybody has."""
        if member not in self._owner:
            return
        owner = self._owner.pop(member)
        members = self._members[owner]
        del members[member]
        if not members:
            del self._members[owner]
        self._resize(owner, len(members) + 1, len(members))

    def _resize(self, owner: _Owner, before: int, now: int) -> None:
        """Take note that somebody has one more, or one less."""
        if now:
            self._sizes.setdefault(now, {})[owner] = None
        if before:
            del self._sizes[before][owner]
            if not self._sizes[before]:
                del self._sizes[before]
        if now > self._largest or self._largest not in self._sizes:
            self._largest = now


class TokenBuckets:
    """A rate for each host: a token is one handshake."""

    def __init__(self, rate: float) -> None:
        """
        @param rate: tokens a second, above 0; a bucket holds those of
            C{BURST_SECONDS}, and at least one.
        """
        self._rate = min(rate, ANY)  # with infinite ones nothing can be computed
        self._size = max(1.0, self._rate * BURST_SECONDS)
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, since when
        self._swept = 0.0

    def take(self, host: str, now: float) -> bool:
        """
        Take one token.

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
        """Forget the buckets that are full again, now and then."""
        # Whoever calls from ever new addresses would fill the memory otherwise.  No
        # bucket takes longer to fill: once in that time is often enough.
        fill = self._size / self._rate
        if abs(now - self._swept) >= fill:
            self._swept = now
            self._buckets = {
                host: (tokens, since)
                for host, (tokens, since) in self._buckets.items()
                if tokens + (now - since) * self._rate < self._size
            }


def hostOfPeer(address: IAddress | None) -> str | None:
    """Tell which host a transport's peer is; None for a UNIX socket."""
    if isinstance(address, IPv4Address | IPv6Peer):
        return hostOf(address.host)
    return None


@lru_cache(maxsize=1024)  # each connection asks several times
def hostOf(host: str) -> str:
    """
    Tell which host an address counts for: an IPv4 address, an IPv6 network, or what was
    given if it is neither.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        network = int(address) >> (128 - HOST_PREFIX) << (128 - HOST_PREFIX)
        return f"{IPv6Address(network)}/{HOST_PREFIX}"
    return str(address)
