"""
The factories around a factory: what the endpoints of L{aesm.secure} listen and
connect with.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from twisted.internet import error
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.core.channel.roles import ClientChannel, ServerChannel
from aesm.core.channel.settings import ChannelSettings
from aesm.errors import AESMError, CloseCode, ConnectionClosed, NotAuthorized
from aesm.interfaces import IClientPolicy, ITrustPolicy
from aesm.secure.factory import SecureFactory
from aesm.secure.places import Places, hostOfPeer
from aesm.secure.protocol import SecureProtocol
from aesm.secure.rawtransport import HangUp
from aesm.secure.refusals import Kind, Refusals, Refused, kindOf
from aesm.secure.states import Phase
from aesm.trust.clients import RELOAD_INTERVAL, AuthorizedKeys
from aesm.trust.keys import PublicKey
from aesm.trust.locations import locationOfAddress
from aesm.trust.policies import Answer, checkClient, checkServer, whenKnown

_log = Logger(namespace="aesm.secure")


class WrappingFactory(SecureFactory):
    """What both sides share: the factory inside, which starts and stops with us."""

    def __init__(
        self,
        clock: IReactorTime,
        handshakeTimeout: float,
        settings: ChannelSettings,
        inner: IProtocolFactory,
    ) -> None:
        self.clock = clock
        self.handshakeTimeout = handshakeTimeout
        self._settings = settings
        self._inner = inner

    def doStart(self) -> None:
        """Begin, the factory inside first."""
        self._inner.doStart()
        super().doStart()

    def doStop(self) -> None:
        """End, the factory inside last."""
        super().doStop()
        self._inner.doStop()

    def logPrefix(self) -> str:
        """Name the factory inside for the log, and that it is wrapped."""
        inner = self._inner
        if ILoggingContext.providedBy(inner):
            return f"{ILoggingContext(inner).logPrefix()} (AESM)"
        return f"{type(inner).__name__} (AESM)"

    def buildInner(self, secure: SecureProtocol) -> IProtocol | None:
        """Have the protocol built that runs inside."""
        return self._inner.buildProtocol(secure.secureTransport.getPeer())


class ServerFactory(WrappingFactory):
    """
    Decides on clients.

    @ivar publicKey: the server's own key.
    """

    def __init__(
        self,
        inner: IProtocolFactory,
        *,
        clock: IReactorTime,
        handshakeTimeout: float,
        settings: ChannelSettings,
        policy: IClientPolicy | None,
        places: Places,
    ) -> None:
        super().__init__(clock, handshakeTimeout, settings, inner)
        self.publicKey = PublicKey(settings.publicKey)
        self._policy = policy
        self._places = places
        self._refusals = Refusals(clock, self._refusedMore)
        self._connections: set[SecureProtocol] = set()
        self._reload: IDelayedCall | None = None

    @property
    def isOpen(self) -> bool:
        """Whether any client that finds us is let in."""
        return self._policy is None and self._settings.psk is None

    def startFactory(self) -> None:
        """Listening begins: look at the authorized keys from now on."""
        self._places.checkFiles()
        if isinstance(self._policy, AuthorizedKeys):
            self._reloadKeys(self._policy)

    def stopFactory(self) -> None:
        """Listening has ended on the last port: say what there is to say."""
        self._refusals.flush()
        if self._reload is not None:
            self._reload.cancel()
            self._reload = None

    def buildProtocol(  # type: ignore[override]  # Factory's is a Protocol
        self, addr: IAddress | None
    ) -> IProtocol:
        """
        Build the protocol on a raw transport, or one that hangs up: there are too many.
        """
        host = hostOfPeer(addr)
        refusal = self._places.refusal(host)
        if refusal is not None:
            self._refused(cast(IAddress, addr), Refused(refusal, Kind.TOO_MANY))
            return HangUp()
        secure = SecureProtocol(self, ServerChannel(self._settings))
        self._connections.add(secure)
        self._places.begin(secure, host)
        return secure

    def peerBegins(self, secure: SecureProtocol) -> AESMError | None:
        """Take a token for a handshake, or say why not."""
        host = hostOfPeer(secure.transport.getPeer())
        return self._places.take(secure, host, self.clock.seconds())

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Answer[None]:
        """Ask the client policy, and see whether there is still room."""
        answer = checkClient(self._policy, publicKey, secure.transport.getPeer())
        return whenKnown(answer, self._cbAuthorized, secure, publicKey)

    def _cbAuthorized(
        self, name: str | None, secure: SecureProtocol, publicKey: PublicKey
    ) -> None:
        """Let in whose key is authorized, if there is room or somebody makes room."""
        host = hostOfPeer(secure.transport.getPeer())
        refusal = self._places.refusal(host, publicKey)
        if refusal is not None:
            raise Refused(refusal, Kind.TOO_MANY)
        yielding = self._places.yielding(host, publicKey)
        self._places.finish(secure)
        self._places.enter(secure, host, publicKey)
        if yielding is not None:
            cast(SecureProtocol, yielding).fail(
                ConnectionClosed(
                    "it made room for another client", CloseCode.TRY_AGAIN_LATER
                )
            )

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """Log a client that was not let in, unless there is too much of it."""
        self._refused(secure.transport.getPeer(), reason, secure.channel.peer)

    def cannotAccept(self, address: IAddress, reason: AESMError) -> None:
        """The same of one that was not accepted."""
        self._refused(address, reason)

    def _refused(self, address: IAddress, reason: AESMError, peer: bytes = b"") -> None:
        """Count a client that was not let in, or log it."""
        kind = kindOf(reason)
        tell = partial(
            _log.info if kind is Kind.PROBE else _log.warn,
            "refused {address}, key {peer}: {reason!r}",
            address=locationOfAddress(address),
            peer=str(PublicKey(peer)) if peer else None,
            reason=str(reason),
        )
        # What comes from no host is one: all who can open a UNIX socket.
        self._refusals.add(hostOfPeer(address) or "unix", kind, tell)

    def _refusedMore(self, host: str, times: int, words: str, isProbe: bool) -> None:
        """Log how many clients of a host were not let in."""
        (_log.info if isProbe else _log.warn)(
            "refused {host!r}: {words}", host=host, words=words, times=times
        )

    def ended(self, secure: SecureProtocol) -> None:
        """Forget a connection that is gone."""
        super().ended(secure)
        self._connections.discard(secure)
        self._places.finish(secure)
        self._places.leave(secure)

    def _reloadKeys(self, policy: AuthorizedKeys) -> None:
        """Read authorized keys anew, and disconnect those that were taken out."""
        self._reload = self.clock.callLater(RELOAD_INTERVAL, self._reloadKeys, policy)
        gone = {publicKey.raw for publicKey in policy.look()}
        for secure in [c for c in self._connections if c.channel.peer in gone]:
            secure.fail(
                NotAuthorized(
                    f"the key {PublicKey(secure.channel.peer)} is no longer authorized"
                )
            )


def canYield(secure: SecureProtocol) -> bool:
    """Tell whether a connection that is in can be closed to make room."""
    return secure.phase is Phase.OPEN


class ClientFactory(WrappingFactory):
    """One attempt at a connection."""

    def __init__(
        self,
        inner: IProtocolFactory,
        *,
        clock: IReactorTime,
        handshakeTimeout: float,
        settings: ChannelSettings,
        policy: ITrustPolicy,
        location: str | None,
    ) -> None:
        """@param location: what was dialled; None to take the transport's peer."""
        super().__init__(clock, handshakeTimeout, settings, inner)
        self._policy = policy
        self._location = location
        self._connecting: Deferred[IProtocol] | None = None
        self._secure: SecureProtocol | None = None
        self._result: Deferred[IProtocol] | None = None

    def connect(self, endpoint: IStreamClientEndpoint) -> Deferred[IProtocol]:
        """Begin to connect, as L{aesm.secure.endpoints.wrapClientEndpoint} says."""
        result: Deferred[IProtocol] = Deferred(self._cancel)
        self._result = result
        self._connecting = maybeDeferred(endpoint.connect, self)
        self._connecting.addCallbacks(
            self._cbConnected, self._settle, callbackArgs=(endpoint,)
        )
        return result

    def buildProtocol(  # type: ignore[override]  # Factory's is a Protocol
        self, addr: IAddress | None
    ) -> IProtocol | None:
        """Build the protocol on the raw transport: one, while somebody waits for it."""
        if self._result is not None and self._secure is None:
            self._secure = SecureProtocol(self, ClientChannel(self._settings))
            return self._secure
        return None

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Answer[None]:
        """Ask the trust policy."""
        location = self._location or locationOfAddress(secure.transport.getPeer())
        return checkServer(self._policy, location, publicKey)

    def buildInner(self, secure: SecureProtocol) -> IProtocol | None:
        """Have the protocol built that runs inside."""
        # What goes wrong here is told as it is, before failed() is called with the
        # general reason; only the first counts.
        try:
            inner = super().buildInner(secure)
        except Exception:
            self._settle(Failure())
            return None
        if inner is None:
            self._settle(Failure(error.NoProtocol()))
        return inner

    def opened(self, secure: SecureProtocol) -> None:
        """The protocol inside has its transport."""
        super().opened(secure)
        self._settle(cast(IProtocol, secure.inner))

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """No secure channel came about."""
        self._settle(Failure(reason))

    def _cbConnected(self, ours: object, endpoint: IStreamClientEndpoint) -> None:
        """Fail, if the endpoint has connected and has built no protocol."""
        if self._secure is None:
            reason = TypeError(f"{endpoint!r} has connected nobody to us")
            self._settle(Failure(reason))

    def _settle(self, outcome: IProtocol | Failure) -> None:
        """Fire what C{connect} returned, once."""
        result, self._result = self._result, None
        if result is not None:
            result.callback(outcome)

    def _cancel(self, result: Deferred[IProtocol]) -> None:
        """Close what was begun."""
        if self._secure is None:
            cast(Deferred[IProtocol], self._connecting).cancel()
        else:
            peer = self._secure.transport.getPeer()
            self._settle(Failure(error.ConnectingCancelledError(peer)))
            self._secure.abort()
