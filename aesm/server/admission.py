"""
Who may come in: what a server's factory asks before it lets a client in, in
the order of what the question costs.

  1. when a connection begins: are there too many already?
  2. at its first byte: does its host make too many handshakes?
  3. once it has proved its key: is the key authorized, is it here already,
     and is there still room?

The first two are for L{Places<aesm.secure.places.Places>}, which counts; the third is
for an L{Admission}.

Every refusal is an error whose text goes into the server's log; the client is
told no more than a close code (docs/protocol.md, section 9), and before it has proved
a key nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import time_ns
from typing import TYPE_CHECKING, cast

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
from aesm.messages.connection import Connection
from aesm.secure.places import Places, hostOf
from aesm.secure.refusals import Kind, Refused
from aesm.server.sessions import isResumed
from aesm.trust.clients import AuthorizedKeys
from aesm.trust.keys import PublicKey
from aesm.trust.policies import Answer, checkClient, whenKnown

if TYPE_CHECKING:
    from aesm.messages.address import Address
    from aesm.messages.protocol import AESMProtocol
    from aesm.server.registry import Connections

_log = Logger(namespace="aesm.server")

# What a second connection of one key does; and how an engine is told.
PER_KEY = {"allow": 0, "replace": 1, "reject": -1}
REVOKED = "key no longer authorized"


class Admission:
    """
    Decides on the clients of one server.

    @ivar maxConnections: connections in all.
    """

    def __init__(
        self,
        connections: Connections,
        policy: IClientPolicy | None,
        places: Places,
        perKey: str,
    ) -> None:
        """
        @param policy: decides on keys; None lets any in.
        @raise ValueError: C{perKey} is none that there is.
        """
        if perKey not in PER_KEY:
            raise ValueError(f"perKey must be one of {tuple(PER_KEY)}, not {perKey!r}")
        self._connections = connections
        self._places = places
        self.maxConnections = places.maxConnections
        self._policy = policy
        self._perKey = perKey

    @property
    def isOpen(self) -> bool:
        """Whether any key is let in."""
        return self._policy is None

    def decide(
        self,
        publicKey: PublicKey,
        payload: bytes,
        transport: IAddress,
        address: Address,
    ) -> Answer[tuple[Hello, str | None]]:
        """
        Decide on a client that has proved its key.

        @param payload: its hello.
        @param transport: where it comes from, for the policy.
        @param address: the same, as the registry says.
        @return: its hello and what its key is called, or None.  C{admit} is next.
        @raise NotAuthorized: the key is not let in; also as the answer's failure.
        @raise Refused: there is no room (1013); also as the answer's failure.
        @raise ProtocolError: the hello is malformed.
        """
        hello = Hello.decode(payload)
        answer = checkClient(self._policy, publicKey, transport)
        return whenKnown(answer, self._cbAuthorized, publicKey, hello, address)

    def _cbAuthorized(
        self, name: str | None, publicKey: PublicKey, hello: Hello, address: Address
    ) -> tuple[Hello, str | None]:
        """See whether there is room for a client whose key is authorized."""
        self._leaving(publicKey, hello, address)
        return hello, name

    def admit(
        self,
        publicKey: PublicKey,
        hello: Hello,
        transport: IAddress,
        address: Address,
    ) -> Answer[None]:
        """
        Let a client in, in the same turn of the event loop in which it enters: between
        C{decide} and now its session may have been written, which takes its time.

        @param transport: as C{decide}.
        @return: as C{decide}, but has fired.
        """
        # Its key may have been taken out of the list meanwhile; others are asked once,
        # since what they do may take its time, too.
        listed = self.authorizedKeys
        answer = checkClient(listed, publicKey, transport)
        return whenKnown(answer, self._cbAdmit, publicKey, hello, address)

    def _cbAdmit(
        self, name: str | None, publicKey: PublicKey, hello: Hello, address: Address
    ) -> None:
        """Close those that a client replaces, or that make room for it."""
        replaced, yielding = self._leaving(publicKey, hello, address)
        for connection in replaced:
            connection.closeWith(CloseCode.TAKEN_OVER, "replaced by a newer connection")
        if yielding is not None:
            yielding.shed(CloseCode.TRY_AGAIN_LATER, "made room for another client")

    def _leaving(
        self, publicKey: PublicKey, hello: Hello, address: Address
    ) -> tuple[list[Connection], Connection | None]:
        """Tell whom a client replaces when it comes in, and who makes room for it."""
        host = _hostIn(address)
        refusal = self._places.refusal(host, publicKey)
        yielding = cast("Connection | None", self._places.yielding(host, publicKey))
        if self._perKey == "allow" and refusal is None and yielding is None:
            return [], None
        known = [c for c in self._connections.byPeer(publicKey) if not c.isOver]
        resumed = [c for c in known if isResumed(c, hello)]
        others = [c for c in known if c not in resumed]
        if self._perKey == "reject" and any(c.isAttached for c in others):
            raise Refused(f"the key {publicKey} is connected already", Kind.CONNECTED)
        replaced = others if self._perKey == "replace" else []
        # It needs no room if its key gives up a place: that of a connection which it
        # replaces, or whose session goes on.
        if any(c.isAttached for c in (*replaced, *resumed)) and not (
            refusal is not None and self._isLeaving(publicKey)
        ):
            return replaced, None
        if refusal is not None:
            raise Refused(refusal, Kind.TOO_MANY)
        return replaced, yielding

    def _isLeaving(self, publicKey: PublicKey) -> bool:
        """Tell whether a key has given up a place, and not yet left it."""
        return any(
            not isinstance(member, Connection) or member.isEnding
            for member in self._places.ofKey(publicKey)
        )

    def enter(self, connection: Connection, address: Address) -> None:
        """Count a connection."""
        self._places.enter(connection, _hostIn(address), connection.peer)

    def linger(self, connection: Connection, superseded: AESMProtocol) -> None:
        """
        Go on counting the transport that a connection has left for another.

        @param connection: to be counted anew.
        @param superseded: what is on the former transport.
        """
        self._places.replace(connection, superseded)

    def leave(self, counted: Connection | AESMProtocol) -> None:
        """Count a connection, or its former transport, no more."""
        self._places.leave(counted)

    def look(self) -> None:
        """Disconnect those who were taken out of the authorized keys."""
        if isinstance(self._policy, AuthorizedKeys):
            self._disconnect(self._policy.look(), REVOKED)

    @property
    def authorizedKeys(self) -> AuthorizedKeys | None:
        """The file that decides who is let in, if one does."""
        return self._policy if isinstance(self._policy, AuthorizedKeys) else None

    def reload(self, why: str = REVOKED) -> None:
        """
        Read the authorized keys now, since somebody says that they are as they
        should be, and disconnect those that were taken out.

        @param why: for the log, and for those who are disconnected.
        """
        if isinstance(self._policy, AuthorizedKeys):
            self._disconnect(self._policy.reload(), why)
        else:
            _log.info("there is no file of authorized keys to read again")

    def _disconnect(self, revoked: Iterable[PublicKey], why: str) -> None:
        """Close the connections of keys that are no longer authorized."""
        for publicKey in revoked:
            for connection in self._connections.byPeer(publicKey):
                # Not closed in order alone: a peer that does not answer may go on
                # talking until the deadline, and others would hear it.
                connection.shed(CloseCode.NOT_ALLOWED, why)


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


def canYield(counted: object) -> bool:
    """
    Tell whether something that is counted can make room for another client: what is
    closing, or gone and unread, gives its place back without being told to.
    """
    return (
        isinstance(counted, Connection) and counted.isAttached and not counted.isEnding
    )


def _hostIn(address: Address) -> str | None:
    """Tell which host a connection counts for; None if it comes from none."""
    return hostOf(address[0]) if isinstance(address, tuple) else None
