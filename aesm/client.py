"""
The client: L{connect} turns an endpoint into a connection::

    client = await connect(reactor, "tcp:127.0.0.1:8765")
    await client.sendData("hello")
    print((await client.retrieved.get()).data)
    await client.close()
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.connection import Connection
from aesm.core.conversation import Conversation
from aesm.core.handshake import ClientChannel
from aesm.core.hello import ConversationSettings
from aesm.core.session import Session
from aesm.core.settings import ChannelSettings
from aesm.errors import AESMError, HandshakeTimeout, NotAuthorized
from aesm.interfaces import INextKeys, ITrustPolicy
from aesm.keys import PrivateKey, PublicKey
from aesm.locations import locationOf, locationOfAddress
from aesm.messenger import Messenger
from aesm.options import Path, agent, channelSettings, trustPolicy
from aesm.protocol import AESMProtocol
from aesm.pump import SecureProtocol
from aesm.registry import addressOf
from aesm.securefactory import HANDSHAKE_TIMEOUT, SecureFactory, checkServer

__all__ = ["connect"]

_log = Logger(namespace="aesm.client")

NOT_ALLOWED = 1008  # close code, PROTOCOL section 9

_numbers = count(1)


def connect(
    reactor: IReactorTime,
    endpoint: str | IStreamClientEndpoint,
    *,
    name: str = "aesm",
    key: PrivateKey | None = None,
    psk: bytes | Path | None = None,
    suites: Sequence[str] | None = None,
    trust: object = None,
    handshakeTimeout: float = HANDSHAKE_TIMEOUT,
    **messages: Any,
) -> Deferred[Connection]:
    """
    Connect to a server.

    @param reactor: the reactor.
    @param endpoint: a Twisted client endpoint, or its string.
    @param name: the application name that both sides share.
    @param key: our own key; None for the state directory's.
    @param psk: the pre-shared key, 32 bytes, or the path of its file.
    @param suites: Noise protocol names; the first is offered.  None for the
        defaults.
    @param trust: an L{ITrustPolicy}; None for
        L{KnownServers<aesm.trust.KnownServers>} in the state directory.
    @param handshakeTimeout: seconds from the connection's start to the server's
        WELCOME.
    @param messages: C{maxMessage}, C{heartbeat}, C{sendBuffer} and
        C{receiveBuffer}, as L{ConversationSettings}.
    @return: fires with the connection once the server has accepted it.  Fails
        with what the endpoint fails with, or with the
        L{HandshakeError<aesm.errors.HandshakeError>},
        L{UntrustedServer<aesm.errors.UntrustedServer>},
        L{NotAuthorized<aesm.errors.NotAuthorized>},
        L{KeyFileError<aesm.errors.KeyFileError>} or other L{AESMError} that says
        why not.  Cancelling it closes what was begun.
    @raise TypeError: an option is of the wrong type, or there is no such.
    @raise ValueError: an option has a value that it cannot have.
    """
    try:
        settings = channelSettings(
            "client.key", key=key, name=name, psk=psk, suites=suites
        )
        policy = trustPolicy(trust)
    except AESMError:
        return fail(Failure())
    location = None
    if isinstance(endpoint, str):
        location = locationOf(endpoint)
        endpoint = clientFromString(reactor, endpoint)
    attempt = _Attempt(
        reactor,
        settings,
        ConversationSettings(agent=agent(), **messages),
        policy,
        location,
        handshakeTimeout,
    )
    return attempt.begin(IStreamClientEndpoint(endpoint))


class _Attempt(SecureFactory, Messenger):
    """
    One attempt at a connection: the factory of its only protocol.
    """

    _connecting: Deferred[Any]

    def __init__(
        self,
        clock: IReactorTime,
        settings: ChannelSettings,
        messages: ConversationSettings,
        trust: ITrustPolicy,
        location: str | None,
        handshakeTimeout: float,
    ) -> None:
        """
        @param clock: keeps time.
        @param settings: of the secure channel.
        @param messages: of the message layer.
        @param trust: decides on the server's key.
        @param location: what was dialled, None to take the transport's peer.
        @param handshakeTimeout: seconds.
        """
        super().__init__(clock, handshakeTimeout)
        self._settings = settings
        self._messages = messages
        self._trust = trust
        self._location = location
        self._deadline: IDelayedCall | None = None  # for the WELCOME
        self._secure: SecureProtocol | None = None
        self._result: Deferred[Connection] | None = None

    def begin(self, endpoint: IStreamClientEndpoint) -> Deferred[Connection]:
        """
        Begin to connect.

        @param endpoint: where to.
        @return: as L{connect}.
        """
        result: Deferred[Connection] = Deferred(self._cancel)
        self._result = result
        self._connecting = maybeDeferred(endpoint.connect, self)
        self._connecting.addErrback(self._settle)
        return result

    # twisted.internet.protocol.Factory

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """
        Build the protocol on the raw transport.

        @param addr: where it goes.
        @return: the protocol.
        """
        self._secure = SecureProtocol(self, ClientChannel(self._settings))
        return self._secure

    # SecureFactory

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Deferred[None]:
        """
        Ask the trust policy.

        @param secure: the connection.
        @param publicKey: the key that the server has proved.
        @param payload: nothing.
        @return: fires to go on; fails as L{checkServer}.
        """
        return checkServer(self._trust, self._where(), publicKey)

    def hello(self) -> bytes:
        """
        Say what we are.

        @return: the hello.
        """
        return self._messages.hello().encode()

    def buildInner(self, secure: SecureProtocol) -> AESMProtocol:
        """
        Build the message layer.

        @param secure: the connection.
        @return: its protocol.
        """
        messages, now = self._messages, self.clock.seconds()
        session = Session(messages.sendBuffer, messages.receiveBuffer)
        protocol = AESMProtocol(self, Conversation(messages, session, now), self.clock)
        protocol.connection = Connection(
            protocol,
            address=addressOf(secure.transport.getPeer(), next(_numbers)),
            peer=PublicKey(secure.channel.peer),
            peerName=None,
            suite=secure.channel.suite,
            handshakeHash=secure.channel.handshakeHash,
            receiveBuffer=messages.receiveBuffer,
        )
        left = max(0.0, secure.deadline - now)
        self._deadline = self.clock.callLater(left, self._timedOut, protocol)
        return protocol

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """
        No secure channel came about.

        @param secure: the connection.
        @param reason: why.
        """
        self._settle(Failure(reason))

    # Messenger

    def accepted(self, protocol: AESMProtocol) -> None:
        """
        The server has let us in.

        @param protocol: ours.
        """
        announced = protocol.conversation.session.outbox.peer.nextKey
        if announced and INextKeys.providedBy(self._trust):
            try:
                publicKey = PublicKey.fromText(announced)
                INextKeys(self._trust).announced(self._where(), publicKey)
            except (AESMError, ValueError) as error:
                _log.warn(
                    "the next key of {location} is not remembered: {error}",
                    location=self._where(),
                    error=str(error),
                )
        self._settle(protocol.connection)

    def peerClosed(self, code: int, reason: str) -> AESMError:
        """
        Say what it means that the server closes.

        @param code: PROTOCOL section 9.
        @param reason: the server's words.
        @return: the error.
        """
        closed = super().peerClosed(code, reason)
        if code != NOT_ALLOWED:
            return closed
        return NotAuthorized(
            f"{closed}: it does not let our public key in; its operator can, with the "
            f"line '{PublicKey(self._settings.publicKey)} NAME' in its authorized keys"
        )

    def lost(self, protocol: AESMProtocol, reason: AESMError) -> None:
        """
        The connection is over.

        @param protocol: ours.
        @param reason: why.
        """
        self._settle(Failure(reason))

    # Parts

    def _timedOut(self, protocol: AESMProtocol) -> None:
        """
        The server did not say WELCOME in time.

        @param protocol: ours.
        """
        self._settle(
            Failure(
                HandshakeTimeout(
                    "the server did not let us in within "
                    f"{self.handshakeTimeout:g} seconds; try again"
                )
            )
        )
        protocol.abort()

    def _settle(self, outcome: Connection | Failure) -> None:
        """
        Fire what C{connect} returned, once.

        @param outcome: the connection, or why there is none.
        """
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        result, self._result = self._result, None
        if result is None:
            return
        if isinstance(outcome, Failure) and isinstance(outcome.value, AESMError):
            said = str(outcome.value)
            if self._where() not in said:
                outcome.value.args = (f"{self._where()}: {said}",)
        result.callback(outcome)

    def _where(self) -> str:
        """
        Name the server.

        @return: what was dialled, or where that led.
        """
        if self._location is None and self._secure is not None:
            self._location = locationOfAddress(self._secure.transport.getPeer())
        return self._location or "the server"

    def _cancel(self, result: Deferred[Connection]) -> None:
        """
        Close what was begun.

        @param result: what C{connect} returned; it fails with CancelledError.
        """
        self._result = None
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if self._secure is not None:
            self._secure.abort()
        else:
            self._connecting.cancel()
