"""
Who may come in: what a server's factory asks before it lets a client in, in
the order of what the question costs.

  1. when a connection begins: are there too many already?
  2. at its first byte: does its host make too many handshakes?
  3. once it has proved its key: is the key authorized, is it here already,
     and is there still room?

Every refusal is an error whose text goes into the server's log; the client is
told no more than a close code (docs/protocol.md, section 9), and before it has proved
a key nothing at all.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from time import time_ns
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from aesm.core.messages.frames import encodeClose
from aesm.core.messages.hello import Hello
from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    NotAuthorized,
    ProtocolError,
)
from aesm.interfaces import IClientPolicy
from aesm.server.sessions import isResumed
from aesm.trust.clients import AuthorizedKeys
from aesm.trust.keys import PublicKey
from aesm.trust.policies import checkClient

if TYPE_CHECKING:
    from aesm.messages.address import Address
    from aesm.messages.connection import Connection
    from aesm.messages.protocol import AESMProtocol
    from aesm.server.registry import Connections

__all__ = ["Admission", "farewell"]

_log = Logger(namespace="aesm.server")

MAX_CONNECTIONS = 4096
OTHER_FILES = 64  # that a server has open beside its connections
MAX_PENDING = 512  # connections that are not let in yet
MIN_PENDING = 8  # of these, for which C{OTHER_FILES} has room
BURST_SECONDS = 10  # how long a quiet host saves up its handshakes
HOST_PREFIX = 64  # bits of an IPv6 address that tell hosts apart
PER_KEY = ("allow", "replace", "reject")


class Admission:
    """
    Decides on the clients of one server.

    @ivar maxConnections: connections in all.
    """

    def __init__(
        self,
        connections: Connections,
        policy: IClientPolicy | None,
        *,
        maxConnections: int | None,
        maxConnectionsPerHost: int,
        handshakesPerHost: float,
        perKey: str,
    ) -> None:
        """
        @param connections: who is in.
        @param policy: decides on keys; None lets any in.
        @param maxConnections: None for as many as the limit on open files allows, and
            no more than 4,096.
        @param handshakesPerHost: a second.
        @param perKey: what a second connection of one key does.
        @raise ValueError: an option has a value that it cannot have.
        """
        if maxConnections is None:
            maxConnections = min(MAX_CONNECTIONS, connectionsPossible())
        for option, value in (
            ("maxConnections", maxConnections),
            ("maxConnectionsPerHost", maxConnectionsPerHost),
            ("handshakesPerHost", handshakesPerHost),
        ):
            if not value > 0:
                raise ValueError(f"{option} must be above 0, not {value}")
        if perKey not in PER_KEY:
            raise ValueError(f"perKey must be one of {PER_KEY}, not {perKey!r}")
        self._connections = connections
        self.maxConnections = maxConnections
        self._policy = policy
        self._perKey = perKey
        # Of those that are counted, as when they came: the address of a connection is
        # another one after its session was resumed from there.
        self._hosts: dict[Connection | AESMProtocol, str | None] = {}
        self._hostLimits = HostLimits(maxConnections, maxConnectionsPerHost)
        self._handshakes = TokenBuckets(handshakesPerHost)

    @property
    def isOpen(self) -> bool:
        """Whether any key is let in."""
        return self._policy is None

    def checkFiles(self) -> None:
        """Warn if there can be more connections than the limit on open files allows."""
        possible = connectionsPossible()
        if self.maxConnections > possible:
            _log.warn(
                "maxConnections is {most}, but the limit on open files allows only "
                "about {possible}: raise it (ulimit -n, LimitNOFILE=)",
                most=self.maxConnections,
                possible=possible,
            )

    def full(self, address: Address) -> str | None:
        """Say why there is no room for one more connection, or None if there is."""
        return self._hostLimits.refusal(_hostIn(address))

    @property
    def mostPending(self) -> int:
        """How many connections may be in their handshake now."""
        # A quarter of the files at most, since those that make room in one turn of the
        # event loop are gone only after it; and what those who are in have left over.
        # Without files Twisted closes whoever comes next, be it a client or not.
        possible = connectionsPossible()
        left = min(MAX_PENDING, possible // 4, possible - self._hostLimits.all)
        return max(MIN_PENDING, left)

    def begin(self, address: Address, now: float) -> AESMError | None:
        """
        Take a token for one handshake.

        @param now: seconds, of any clock that never goes back.
        @return: None to go on, or why not to.
        """
        host = _hostIn(address)
        if host is None or self._handshakes.take(host, now):
            return None
        return ConnectionClosed(
            f"{host} makes more handshakes a second than handshakesPerHost allows",
            CloseCode.TRY_AGAIN_LATER,
        )

    def decide(
        self,
        publicKey: PublicKey,
        payload: bytes,
        transport: IAddress,
        address: Address,
    ) -> Deferred[tuple[Hello, str | None]]:
        """
        Decide on a client that has proved its key.

        @param payload: its hello.
        @param transport: where it comes from, for the policy.
        @param address: the same, as the registry says.
        @return: fires with its hello and what its key is called, or None; fails with
            L{NotAuthorized} if the key is not let in, L{ConnectionClosed} (1013) if
            there is no room.  C{admit} is to be called next.
        @raise ProtocolError: the hello is malformed.
        """
        hello = Hello.decode(payload)
        answer = checkClient(self._policy, publicKey, transport)
        return answer.addCallback(self._cbAuthorized, publicKey, hello, address)

    def _cbAuthorized(
        self, name: str | None, publicKey: PublicKey, hello: Hello, address: Address
    ) -> tuple[Hello, str | None]:
        """
        See whether there is room for a client whose key is authorized.

        @raise ConnectionClosed: there is none (1013).
        """
        self._replaced(publicKey, hello, address)
        return hello, name

    def admit(
        self,
        publicKey: PublicKey,
        hello: Hello,
        transport: IAddress,
        address: Address,
    ) -> Deferred[None]:
        """
        Let a client in, in the same turn of the event loop in which it enters: between
        C{decide} and now its session may have been written, which takes its time.

        @param transport: as C{decide}.
        @return: as C{decide}, but has fired.
        """
        policy = self._policy
        # Its key may have been taken out of the list meanwhile; others are asked once,
        # since what they do may take its time, too.
        listed = policy if isinstance(policy, AuthorizedKeys) else None
        answer = checkClient(listed, publicKey, transport)
        return answer.addCallback(self._cbAdmit, publicKey, hello, address)

    def _cbAdmit(
        self, name: str | None, publicKey: PublicKey, hello: Hello, address: Address
    ) -> None:
        """
        Close those that a client replaces, if there is room for it.

        @raise ConnectionClosed: there is none (1013).
        """
        for connection in self._replaced(publicKey, hello, address):
            connection.closeWith(CloseCode.TAKEN_OVER, "replaced by a newer connection")

    def _replaced(
        self, publicKey: PublicKey, hello: Hello, address: Address
    ) -> list[Connection]:
        """
        Tell which connections a client replaces.

        @raise ConnectionClosed: there is no room for it (1013).
        """
        # It needs no room if its key gives up a place: that of a connection which it
        # replaces, or whose session goes on.
        refusal = self.full(address)
        if refusal is None and self._perKey == "allow":
            return []
        known = [c for c in self._connections.byPeer(publicKey) if not c.isOver]
        resumed = [c for c in known if isResumed(c, hello)]
        others = [c for c in known if c not in resumed]
        if self._perKey == "reject" and any(c.isAttached for c in others):
            raise ConnectionClosed(
                f"the key {publicKey} is connected already", CloseCode.TRY_AGAIN_LATER
            )
        leaving = known if self._perKey == "replace" else resumed
        if refusal is not None and not any(c.isAttached for c in leaving):
            raise ConnectionClosed(refusal, CloseCode.TRY_AGAIN_LATER)
        return others if self._perKey == "replace" else []

    def enter(self, connection: Connection, address: Address) -> None:
        """Count a connection."""
        host = self._hosts[connection] = _hostIn(address)
        self._hostLimits.enter(host)

    def linger(self, connection: Connection, superseded: AESMProtocol) -> None:
        """
        Go on counting the transport that a connection has left for another.

        @param connection: to be counted anew.
        @param superseded: what is on the former transport.
        """
        self._hosts[superseded] = self._hosts.pop(connection)

    def leave(self, counted: Connection | AESMProtocol) -> None:
        """
        Count a connection, or the former transport of one, no more, if it is counted.
        """
        if counted in self._hosts:
            self._hostLimits.leave(self._hosts.pop(counted))

    def look(self) -> None:
        """
        See whether the file of authorized keys has changed, and disconnect those
        that were taken out.
        """
        if isinstance(self._policy, AuthorizedKeys):
            self._disconnect(self._policy.look())

    def reload(self) -> None:
        """
        Read the authorized keys now, since somebody says that they are as they
        should be, and disconnect those that were taken out.
        """
        if isinstance(self._policy, AuthorizedKeys):
            self._disconnect(self._policy.reload())
        else:
            _log.info("there is no file of authorized keys to read again")

    def _disconnect(self, revoked: Iterable[PublicKey]) -> None:
        """Close the connections of keys that are no longer authorized."""
        for publicKey in revoked:
            for connection in self._connections.byPeer(publicKey):
                # Not closed in order alone: a peer that does not answer may go on
                # talking until the deadline, and others would hear it.
                connection.shed(CloseCode.NOT_ALLOWED, "key no longer authorized")


def farewell(reason: AESMError) -> bytes:
    """
    Make the CLOSE frame for a client that is not let in.

    @see: docs/protocol.md, section 3
    """
    code: int = CloseCode.INTERNAL_ERROR
    words = "internal error"
    match reason:
        case NotAuthorized():
            code, words = CloseCode.NOT_ALLOWED, "not authorized"
        case ConnectionClosed():
            code, words = reason.code, "try again later"
        case ProtocolError():
            code, words = reason.code, "protocol error"
    return encodeClose(time_ns() // 1000, code, words)


# What is counted, and for whom


class HostLimits:
    """
    Counts the connections of a server, in all and for each host.

    @ivar all: how many there are.
    """

    def __init__(self, most: int, mostPerHost: int) -> None:
        """
        @param most: connections in all.
        @param mostPerHost: connections of one host.
        """
        self._most = most
        self._mostPerHost = mostPerHost
        self.all = 0
        self._hosts: Counter[str] = Counter()

    def refusal(self, host: str | None) -> str | None:
        """
        Say why one more connection cannot be let in, or None if it can.

        @param host: None if it comes from no host: it counts only in all.
        """
        if self.all >= self._most:
            return f"{self.all} connections are open: no more than maxConnections"
        if host is not None and self._hosts[host] >= self._mostPerHost:
            return (
                f"{self._hosts[host]} connections of this host are open: no more "
                "than maxConnectionsPerHost"
            )
        return None

    def enter(self, host: str | None) -> None:
        """Count a connection."""
        self.all += 1
        if host is not None:
            self._hosts[host] += 1

    def leave(self, host: str | None) -> None:
        """Count a connection no more."""
        self.all -= 1
        if host is not None:
            self._hosts[host] -= 1
            if not self._hosts[host]:  # a Counter keeps zeros
                del self._hosts[host]


class TokenBuckets:
    """A rate for each host: a token is one handshake."""

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


def _hostIn(address: Address) -> str | None:
    """
    Tell which host a connection counts for; None if it comes from none, as over a UNIX
    socket.
    """
    return hostOf(address[0]) if isinstance(address, tuple) else None


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


def connectionsPossible() -> int:
    """
    Tell how many connections the limit on open files allows, some files being in use
    for other things; at least one.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    return max(1, most - OTHER_FILES)
