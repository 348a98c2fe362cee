"""
The client: L{connect} turns an endpoint into a connection::

    client = await connect(reactor, "tcp:127.0.0.1:8765")
    await client.sendData("hello")
    print((await client.retrieved.get()).data)
    await client.close()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from secrets import token_hex
from typing import Any, Protocol, Unpack, cast

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.core.channel.roles import ClientChannel
from aesm.core.channel.settings import Layer
from aesm.core.messages.conversation import Conversation
from aesm.core.messages.hello import (
    EARLY_WINDOW,
    LEAST_HELLO,
    ConversationSettings,
    MessageOptions,
)
from aesm.core.messages.session import Session
from aesm.errors import (
    AESMError,
    CloseCode,
    HandshakeTimeout,
    NotAuthorized,
    SessionLost,
)
from aesm.interfaces import INextKeys
from aesm.messages.address import Address, addressOf
from aesm.messages.connection import Connection
from aesm.messages.deferred import ReactorDeferred
from aesm.messages.handling import Handling, handlerOf, handlingOf
from aesm.messages.owner import ConnectionOwner
from aesm.messages.protocol import AESMProtocol
from aesm.secure.factory import HANDSHAKE_TIMEOUT, SecureFactory, checkTimeout
from aesm.secure.hosts import HostEndpoint, clientEndpoint
from aesm.secure.options import (
    AGENT,
    CHANNEL_OPTIONS,
    ChannelOptions,
    channelSettings,
    checkNames,
    endpointOf,
    reactorOr,
)
from aesm.secure.protocol import SecureProtocol
from aesm.secure.rawtransport import HangUp
from aesm.trust.keys import PublicKey
from aesm.trust.locations import locationOf, locationOfAddress
from aesm.trust.policies import Answer, checkServer, trustPolicy, whenKnown

_log = Logger(namespace="aesm.client")


SESSION_BYTES = 16  # of a session's name, docs/protocol.md, section 8

_numbers = count(1)


class ConnectOptions(ChannelOptions, MessageOptions, total=False):
    """
    The options of a client, for every way to connect.

    @ivar trust: an L{ITrustPolicy}; None for
        L{KnownServers<aesm.trust.servers.KnownServers>} in the state directory.
    @ivar handshakeTimeout: seconds from the connection's start to the server's
        WELCOME, 10 by default.
    """

    trust: object
    handshakeTimeout: float


def messageSettings(options: Mapping[str, Any]) -> ConversationSettings:
    """
    Make the settings of messages.

    @param options: all that a client is given, L{ConnectOptions}.
    @raise TypeError: one is of the wrong type, or there is no such.
    @raise ValueError: one has a value that it cannot have.
    """
    checkNames(options, ConnectOptions.__optional_keys__)
    given = MessageOptions.__optional_keys__ & options.keys()
    return ConversationSettings(agent=AGENT, **{key: options[key] for key in given})


def connect(
    reactor: IReactorTime,
    endpoint: str | IStreamClientEndpoint,
    *,
    handler: object = None,
    **options: Unpack[ConnectOptions],
) -> Deferred[Connection]:
    """
    Connect to a server.

    @param reactor: the reactor.
    @param endpoint: a Twisted client endpoint, or its string.
    @param handler: what is done with what comes: an L{IMessageHandler
        <aesm.interfaces.IMessageHandler>}; C{async def talk(connection)}, which closes
        the connection by returning; or None: it waits in C{retrieved}.
    @param options: C{name}, C{key}, C{psk} and C{suites}, as
        L{ChannelOptions<aesm.secure.options.ChannelOptions>}; C{maxMessage},
        C{heartbeat}, C{sendBuffer} and C{receiveBuffer}, as
        L{MessageOptions<aesm.core.messages.hello.MessageOptions>}; C{trust} and
        C{handshakeTimeout}, as
        L{ConnectOptions<aesm.client.connect.ConnectOptions>}.
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
    handling = None
    if handler is not None:
        handling = handlingOf(handlerOf(handler), reactorOr(reactor))
    try:
        dialer = Dialer(reactor, endpoint, **options)
    except AESMError:  # a file, not an argument, is wrong: no bug of the caller's
        return fail(Failure())
    dialling = dialer.dial()
    if handling is not None:
        dialling.addCallback(_handled, handling)
    return dialling


def _handled(connection: Connection, handling: Handling) -> Connection:
    """Have a connection handled, as soon as it is there."""
    handling.take(connection)
    handling.accepted(connection)
    connection.closed().addCallback(partial(handling.lost, connection))
    return connection


class SessionKeeper(Protocol):
    """
    What resumes a session over one transport after another.

    @ivar leaves: whether it may leave before the server has closed, too.
    """

    leaves: bool

    @property
    def former(self) -> Connection | None:
        """The connection whose session is to be resumed, or None."""

    @property
    def unmet(self) -> Connection | None:
        """The same, if it has early messages and no server has accepted it yet."""

    def sendEarly(self, make: Callable[[], Connection]) -> Deferred[None] | None:
        """
        Begin a session with what waits, if anything does.

        @param make: makes its connection; over that it is to be sent at once.
        @return: fires once it may leave; None for at once.
        """

    def takeBack(self) -> None:
        """The server surely does not have the session that C{sendEarly} has begun."""

    def makeConnection(self, *arguments: Any, **options: Any) -> Connection:
        """Make the connection of a new session, as L{Connection} does."""

    def sessionLost(self, connection: Connection, reason: SessionLost) -> None:
        """The server gave up the session of C{former}: end it, keep what never left."""

    def detached(self, connection: Connection, reason: AESMError) -> None:
        """The transport under a connection is gone: dial again."""


class Dialer:
    """
    A client's endpoint and identity, for any number of attempts.

    Files are read when it is made and not again: a folder that is away for a moment
    must not give a client that comes back another key.  The endpoint is kept as well,
    since it knows which addresses did not work.

    @ivar reactor: the reactor.
    @ivar endpoint: where to.
    @ivar location: what was typed, which is what known servers are stored under, and
        not what it resolves to; None to take the transport's peer.
    @ivar settings: of the channel.
    @ivar trust: decides on servers.
    @ivar timeout: of the handshake, seconds.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: str | IStreamClientEndpoint,
        **options: Unpack[ConnectOptions],
    ) -> None:
        """
        @raise KeyFileError: a file cannot be used.
        @raise TypeError: as L{connect}.
        @raise ValueError: as L{connect}.
        """
        given: dict[str, Any] = {**options}
        self._messages = messageSettings(given)
        channel = {key: given[key] for key in CHANNEL_OPTIONS if key in given}
        trust = given.get("trust")
        self.timeout = checkTimeout(given.get("handshakeTimeout", HANDSHAKE_TIMEOUT))
        self.reactor = reactorOr(reactor)
        self.settings = channelSettings("client.key", Layer.MESSAGES, **channel)
        self.trust = trustPolicy(trust)
        self.location = None
        if isinstance(endpoint, str):
            text, endpoint = endpoint, clientEndpoint(self.reactor, endpoint)
            if not isinstance(endpoint, HostEndpoint):
                self.location = locationOf(text)
        if isinstance(endpoint, HostEndpoint):
            self.location = endpoint.location
        self.endpoint = endpointOf(IStreamClientEndpoint, endpoint)

    def dial(
        self, keeper: SessionKeeper | None = None, receiveBuffer: int | None = None
    ) -> Deferred[Connection]:
        """
        Connect to the server, with a session that may outlive the transport.

        @param keeper: what resumes it, or None.
        @param receiveBuffer: for this attempt; None for that of the options.
        @return: as L{connect}: fires with C{keeper.former} if its session is resumed;
            else with a new one, and the former is over.
        """
        messages = self._messages
        if receiveBuffer not in (None, messages.receiveBuffer):
            messages = replace(messages, receiveBuffer=receiveBuffer)
        return _Attempt(self, messages, keeper).begin()


class _Attempt(SecureFactory, ConnectionOwner):
    """One attempt at a connection: the factory of its only protocol."""

    _connecting: Deferred[Any]

    def __init__(
        self,
        dialer: Dialer,
        messages: ConversationSettings,
        keeper: SessionKeeper | None,
    ) -> None:
        """@param messages: the settings of this attempt."""
        self.clock = dialer.reactor
        self.handshakeTimeout = dialer.timeout
        self._dialer = dialer
        self._messages = messages
        self._location = dialer.location
        self._keeper = keeper
        # A server does not: its places are counted until all is gone.
        self.leaves = keeper is None or keeper.leaves
        self._former = None if keeper is None else keeper.former or keeper.unmet
        self._early: bytes | None = None  # what leaves before the WELCOME, once known
        self._begins = False  # the session of C{_former} begins with that
        self._refused = False  # the server has said so
        self._deadline: IDelayedCall | None = None  # for the WELCOME
        self._secure: SecureProtocol | None = None
        self._result: Deferred[Connection] | None = None

    def begin(self) -> Deferred[Connection]:
        """Begin to connect."""
        result: Deferred[Connection] = ReactorDeferred(self._cancel)
        self._result = result
        self._connecting = maybeDeferred(self._dialer.endpoint.connect, self)
        self._connecting.addCallbacks(self._cbConnected, self._settle)
        return result

    # twisted.internet.protocol.Factory

    def buildProtocol(  # type: ignore[override]  # Factory's is a Protocol
        self, addr: IAddress | None
    ) -> IProtocol:
        """Build the protocol on the raw transport: one, while somebody waits."""
        if self._result is None or self._secure is not None:
            return HangUp()
        self._secure = SecureProtocol(self, ClientChannel(self._dialer.settings))
        return self._secure

    # SecureFactory

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Answer[None]:
        """
        Ask the trust policy about the server, and wait until what is early may leave.
        """
        trusted = checkServer(self._dialer.trust, self._where(), publicKey)
        if self._keeper is not None and self._former is None:
            return whenKnown(trusted, self._cbTrusted, self._keeper)
        return trusted

    def _cbTrusted(self, result: None, keeper: SessionKeeper) -> Answer[None]:
        """The server is the right one: have what waits for it leave with message 3."""
        if self._result is None:  # who trusts it has stopped us
            return None
        return keeper.sendEarly(self._beginSession)

    def _beginSession(self) -> Connection:
        """Make the connection of a session of which the server does not know yet."""
        mine = self._messages
        session = Session(mine.sendBuffer, mine.receiveBuffer, token_hex(SESSION_BYTES))
        session.outbox.begin(LEAST_HELLO)
        self._former = self._makeConnection(session, self._address())
        self._begins = True
        return self._former

    def hello(self) -> bytes:
        """Encode our hello, which names the session to be resumed, or to begin."""
        if self._former is None:
            return self._messages.hello(resume=self._keeper is not None).encode()
        session, early = self._former.session, b""
        if self._begins:
            early = self._early = b"".join(session.outbox.take(EARLY_WINDOW))
        return self._messages.hello(session, len(early)).encode()

    def buildInner(self, secure: SecureProtocol) -> AESMProtocol:
        """
        Build the message layer, and send what is early; the connection is made, or
        found, at the WELCOME.
        """
        now = self.clock.seconds()
        former = None if self._former is None else self._former.session
        conversation = Conversation(self._messages, now, former)
        protocol = AESMProtocol(self, conversation, self.clock)
        # The channel's deadline ends with the handshake; here it goes on to the
        # WELCOME.
        left = max(0.0, secure.deadline - now)
        self._deadline = self.clock.callLater(left, self._timedOut, protocol)
        if self._early is not None:  # it shares what is written with message 3
            secure.secureTransport.write(self._early)
        return protocol

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """Fail: there is no secure channel."""
        self._avoid(secure)
        self._settle(Failure(reason))

    # ConnectionOwner

    def accepted(self, protocol: AESMProtocol, resumed: bool) -> None:
        """Make the connection, or resume the former: the server has let us in."""
        session = protocol.conversation.session
        self._remember(session.outbox.peer.nextKey)
        secure, address = cast(SecureProtocol, self._secure), self._address()
        former, connection = self._former, self._former
        if connection is not None and resumed:
            connection.address = address
        else:
            connection = self._makeConnection(session, address)
            if former is not None and self._begins:
                cast(SessionKeeper, self._keeper).takeBack()
            elif former is not None:
                cast(SessionKeeper, self._keeper).sessionLost(
                    former,
                    SessionLost(
                        f"{self._where()} has no such session any more: what it did "
                        "not acknowledge may not have arrived, send it again if it "
                        "must"
                    ),
                )
        connection.attach(protocol, secure.channel)
        self._settle(connection)

    def notAccepted(self, reason: AESMError) -> None:
        """Fail: the server has not let us in."""
        self._avoid(cast(SecureProtocol, self._secure))
        self._settle(Failure(reason))

    def keeps(self, connection: Connection, code: int | None = None) -> bool:
        """Tell whether there is a keeper, and the server has not ended the session."""
        return (
            self._keeper is not None
            and connection.session.name != ""
            and code in (None, CloseCode.GOING_AWAY)
        )

    def cut(self, connection: Connection, reason: AESMError) -> None:
        """Have the keeper dial again, if the session goes on."""
        if self.keeps(connection):
            connection.detach()
            cast(SessionKeeper, self._keeper).detached(connection, reason)
        else:
            connection.finish(reason)

    def peerClosed(self, code: int, reason: str) -> AESMError:
        """Make the error for a CLOSE of the server."""
        self._refused = True
        closed = super().peerClosed(code, reason)
        if code != CloseCode.NOT_ALLOWED:
            return closed
        publicKey = PublicKey(self._dialer.settings.publicKey)
        return NotAuthorized(
            f"{closed}: it does not let our public key in; its operator can, with the "
            f"line '{publicKey} NAME' in its authorized keys (with --pin "
            f"{publicKey} where it is `aesm receive` or `aesm send`)"
        )

    # Parts

    def _avoid(self, secure: SecureProtocol) -> None:
        """Have the next attempt begin with another address of the host."""
        if isinstance(self._dialer.endpoint, HostEndpoint):
            self._dialer.endpoint.avoid(secure.transport.getPeer())

    def _address(self) -> Address:
        """Tell where the server is."""
        secure = cast(SecureProtocol, self._secure)
        return addressOf(secure.transport.getPeer(), next(_numbers))

    def _makeConnection(self, session: Session, address: Address) -> Connection:
        """Make the connection of a new session."""
        secure = cast(SecureProtocol, self._secure)
        make = Connection if self._keeper is None else self._keeper.makeConnection
        return make(
            self,
            session,
            address=address,
            peer=secure.secureTransport.publicKey,
            peerName=None,
            receiveBuffer=self._messages.receiveBuffer,
        )

    def _remember(self, announced: str) -> None:
        """Have the trust policy remember the next key that the server announces."""
        trust = self._dialer.trust
        if not announced or not INextKeys.providedBy(trust):
            return
        try:
            publicKey = PublicKey.fromText(announced)
            INextKeys(trust).announced(self._where(), publicKey)
        except Exception as error:  # the policy is the user's
            _log.warn(
                "the next key of {location} is not remembered: {error}",
                location=self._where(),
                error=str(error),
            )

    def _cbConnected(self, ours: object) -> None:
        """Fail, if the endpoint has connected and has built no protocol."""
        if self._secure is None:
            where = self._dialer.endpoint
            self._settle(Failure(TypeError(f"{where!r} has connected nobody to us")))

    def _timedOut(self, protocol: AESMProtocol) -> None:
        """Fail: the server's WELCOME did not come in time."""
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
        """Fire what C{connect} returned, once, with the connection or the error."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        result, self._result = self._result, None
        if result is None:
            return
        if isinstance(outcome, Failure):
            self._tellWhere(outcome.value)
        notLeft = self._begins and (self._early is None or self._refused)
        if notLeft and isinstance(outcome, Failure):
            cast(SessionKeeper, self._keeper).takeBack()
        result.callback(outcome)

    def _tellWhere(self, error: BaseException | None) -> None:
        """Have an error say what was dialled, which the layers below do not know."""
        isOurs = isinstance(error, AESMError)
        if error is None or not (isOurs or isinstance(error, ConnectError)):
            return
        said, where = str(error), self._where() if isOurs else self._location
        if where is None or where in said:
            return
        if isOurs:
            error.args = (f"{where}: {said}",)
        else:
            error.args = (" at ".join(filter(None, (*error.args, where))),)

    def _where(self) -> str:
        """Return the server's location: what was dialled, or where that led."""
        if self._location is None and self._secure is not None:
            self._location = locationOfAddress(self._secure.transport.getPeer())
        return self._location or "the server"

    def _cancel(self, result: Deferred[Connection]) -> None:
        """Close what was begun; what C{connect} returned fails with CancelledError."""
        # First, since aborting comes back through C{failed}: twisted fires the
        # Deferred.
        self._result = None
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if self._secure is not None:
            self._secure.abort()
        else:
            self._connecting.cancel()
