"""
Who may come in: what a server's factory asks before it lets a client in, in
the order of what the question costs.

  1. when a connection begins: are there too many already?
  2. at its first byte: does its host make too many handshakes?
  3. once it has proved its key: is the key authorized, is it here already,
     and is there still room?

Every refusal is an error whose text goes into the server's log; the client is
told no more than a close code (PROTOCOL section 9), and before it has proved
a key nothing at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from aesm.authorized import AuthorizedKeys
from aesm.core.frames import encodeClose
from aesm.core.hello import Hello
from aesm.errors import AESMError, ConnectionClosed, NotAuthorized, ProtocolError
from aesm.interfaces import IClientPolicy
from aesm.keys import PublicKey
from aesm.limits import Admission, TokenBuckets, connectionsPossible, hostOf
from aesm.securefactory import checkClient
from aesm.sender import wallClock
from aesm.sessions import isResumed

if TYPE_CHECKING:
    from aesm.connection import Connection
    from aesm.protocol import AESMProtocol
    from aesm.registry import Address, Connections

__all__ = ["Door", "farewell"]

_log = Logger(namespace="aesm.server")

MAX_CONNECTIONS = 4096
PER_KEY = ("allow", "replace", "reject")

NOT_ALLOWED = 1008  # close codes, PROTOCOL section 9
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013
TAKEN_OVER = 4001


def _hostIn(address: Address) -> str | None:
    """
    Tell which host a connection counts for.

    @param address: whose.
    @return: the host, or None if it comes from none.
    """
    return hostOf(address[0]) if isinstance(address, tuple) else None


class Door:
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
        @param maxConnections: connections in all; None for as many as the limit
            on open files allows, and no more than 4,096.
        @param maxConnectionsPerHost: connections of one host.
        @param handshakesPerHost: handshakes of one host, a second.
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
        # Of those that are counted.
        self._hosts: dict[Connection | AESMProtocol, str | None] = {}
        self._admission = Admission(maxConnections, maxConnectionsPerHost)
        self._handshakes = TokenBuckets(handshakesPerHost)

    @property
    def isOpen(self) -> bool:
        """
        Whether any key is let in.
        """
        return self._policy is None

    def checkFiles(self) -> None:
        """
        Warn if there can be more connections than the limit on open files allows.
        """
        possible = connectionsPossible()
        if self.maxConnections > possible:
            _log.warn(
                "maxConnections is {most}, but the limit on open files allows only "
                "about {possible}: raise it (ulimit -n, LimitNOFILE=)",
                most=self.maxConnections,
                possible=possible,
            )

    def full(self, address: Address) -> str | None:
        """
        Say why there is no room for one more connection.

        @param address: where it comes from.
        @return: why, or None if there is.
        """
        return self._admission.refusal(_hostIn(address))

    def begin(self, address: Address, now: float) -> AESMError | None:
        """
        Take a token for one handshake.

        @param address: who begins it.
        @param now: seconds, of any clock that never goes back.
        @return: None to go on, or why not to.
        """
        host = _hostIn(address)
        if host is None or self._handshakes.take(host, now):
            return None
        return ConnectionClosed(
            f"{host} makes more handshakes a second than handshakesPerHost allows",
            TRY_AGAIN_LATER,
        )

    def decide(
        self,
        publicKey: PublicKey,
        payload: bytes,
        transport: IAddress,
        address: Address,
    ) -> Deferred[tuple[Hello, str | None]]:
        """
        Decide on a client.

        @param publicKey: the key that it has proved.
        @param payload: its hello.
        @param transport: where it comes from, as Twisted says.
        @param address: the same, as the registry says.
        @return: fires with what the client says of itself, and what its key is
            called or None; fails with L{NotAuthorized} if the key is not let
            in, L{ConnectionClosed} (1013) if there is no room.
        @raise ProtocolError: the hello is malformed.
        """
        hello = Hello.decode(payload)
        answer = checkClient(self._policy, publicKey, transport)
        return answer.addCallback(self._admit, publicKey, hello, address)

    def _admit(
        self, name: str | None, publicKey: PublicKey, hello: Hello, address: Address
    ) -> tuple[Hello, str | None]:
        """
        Let a client in whose key is authorized, unless there is no room.  It needs
        none if its key gives up a place: that of a connection which it replaces, or
        whose session goes on.

        @param name: what its key is called, or None.
        @param publicKey: the key that it has proved.
        @param hello: what it says of itself.
        @param address: where it comes from.
        @return: what the client says of itself, and what its key is called.
        @raise ConnectionClosed: there is no room (1013).
        """
        refusal = self.full(address)
        if refusal is None and self._perKey == "allow":
            return hello, name
        known = [c for c in self._connections.byPeer(publicKey) if not c.isOver]
        resumed = [c for c in known if isResumed(c, hello)]
        others = [c for c in known if c not in resumed]
        if self._perKey == "reject" and any(c.isAttached for c in others):
            raise ConnectionClosed(
                f"the key {publicKey} is connected already", TRY_AGAIN_LATER
            )
        leaving = known if self._perKey == "replace" else resumed
        if refusal is not None and not any(c.isAttached for c in leaving):
            raise ConnectionClosed(refusal, TRY_AGAIN_LATER)
        if self._perKey == "replace":
            for connection in others:
                connection.closeWith(TAKEN_OVER, "replaced by a newer connection")
        return hello, name

    def enter(self, connection: Connection, address: Address) -> None:
        """
        Count a connection.

        @param connection: the one.
        @param address: where it comes from.
        """
        host = self._hosts[connection] = _hostIn(address)
        self._admission.enter(host)

    def linger(self, connection: Connection, superseded: AESMProtocol) -> None:
        """
        Go on counting the transport that a connection has left for another.

        @param connection: the connection, to be counted anew.
        @param superseded: what is on that transport.
        """
        self._hosts[superseded] = self._hosts.pop(connection)

    def leave(self, counted: Connection | AESMProtocol) -> None:
        """
        Count a connection, or the former transport of one, no more, if it is
        counted.

        @param counted: which.
        """
        if counted in self._hosts:
            self._admission.leave(self._hosts.pop(counted))

    def reload(self) -> None:
        """
        Read the authorized keys again if their file has changed, and disconnect
        those that were taken out.
        """
        if isinstance(self._policy, AuthorizedKeys):
            for publicKey in self._policy.reload():
                for connection in self._connections.byPeer(publicKey):
                    connection.closeWith(NOT_ALLOWED, "key no longer authorized")


def farewell(reason: AESMError) -> bytes:
    """
    Make the CLOSE for a client that is not let in.

    @param reason: why.
    @return: the frame.
    @see: PROTOCOL section 3
    """
    code, words = INTERNAL_ERROR, "internal error"
    match reason:
        case NotAuthorized():
            code, words = NOT_ALLOWED, "not authorized"
        case ConnectionClosed():
            code, words = reason.code, "try again later"
        case ProtocolError():
            code, words = reason.code, "protocol error"
    return encodeClose(wallClock(), code, words)
