"""
What a server is made of: the factory that any stream endpoint can listen
with::

    factory = AESMServerFactory(handler=MyHandler())
    serverFromString(reactor, "tcp:8765").listen(factory)

It asks its L{Admission<aesm.server.admission.Admission>} who comes in, and hands those
who are to its L{ConnectionManager<aesm.server.manager.ConnectionManager>}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IReactorTime,
)

from aesm.core.channel.roles import ServerChannel
from aesm.core.channel.settings import Layer
from aesm.core.messages.batch import Message
from aesm.core.messages.conversation import Conversation
from aesm.core.messages.frames import MAX_AFTER
from aesm.core.messages.hello import ConversationSettings, Hello, MessageOptions
from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.interfaces import IMessageHandler, IMessageHandlerMaker
from aesm.messages.acknowledgements import FailedAcknowledgement, promptly
from aesm.messages.address import Address, addressOf
from aesm.messages.causes import CAUSE
from aesm.messages.connection import Connection
from aesm.messages.deferred import untimed
from aesm.messages.handling import Talk, handlerOf
from aesm.messages.protocol import AESMProtocol
from aesm.secure.factory import HANDSHAKE_TIMEOUT, SecureFactory, checkTimeout
from aesm.secure.options import AGENT, channelSettings, checkNames, reactorOr
from aesm.secure.places import HANDSHAKES_PER_HOST, Places, hostOfPeer
from aesm.secure.protocol import SecureProtocol
from aesm.secure.rawtransport import HangUp
from aesm.secure.refusals import Kind, Refused
from aesm.server.admission import REVOKED, Admission, canYield, farewell
from aesm.server.broadcast import Peers
from aesm.server.cluster import Cluster, checkHandler
from aesm.server.draining import DRAIN_RATE, Draining
from aesm.server.handover import Host, Predecessor, SuccessorFactory
from aesm.server.manager import ConnectionManager
from aesm.server.registry import Connections
from aesm.server.sessions import SESSION_GRACE
from aesm.server.stores import storeOpener
from aesm.trust.clients import RELOAD_INTERVAL
from aesm.trust.files import AnyPath, stateDirectory
from aesm.trust.keys import PrivateKey, PublicKey, nextKeyOf
from aesm.trust.policies import Answer, clientPolicy, isOperator, whenKnown

TOTAL_BUFFER = 1 << 30  # bytes of messages, for all connections together
KEY_FILE = "server.key"  # in the state directory
MAX_AGENT = 64  # characters of a client's agent to log
STOP_DEADLINE = 5.0  # seconds

# The way of a connection through the factory, as its L{SecureProtocol} calls it
#
#   buildProtocol   is there room?  If not, it hangs up
#   peerBegins      a token of its host's, before any work is done for it
#   decide          it has proved a key: is that authorized, and is there still room?
#                   Then it has a session, one that goes on or a new one, which is
#                   written down if there is a spool: before anybody knows of it, so
#                   that no client is told of a session that a crash can undo
#   farewell        no: what it is told
#   buildInner      yes: what users hold has a transport, and the WELCOME is due
#   opened          it is listed
#   failed          it ended before that
#   ended           its transport is gone; always called, and last
#
# A transport may be lost at any time, so that any step may be followed by C{failed} and
# C{ended}, or once it is open by C{ended}.


@dataclass(slots=True)
class _PendingConnection:
    """
    What is known of a connection before users hold it, until its transport is gone;
    what only the way there needs, until it is open.

    @ivar address: what it is called in the registry.
    @ivar peer: where it comes from, once it has begun to speak.
    @ivar hello: what the client says of itself, once it is let in.
    @ivar name: what the client's key is called, or None.
    @ivar begun: what users will hold, once its session is written down.
    @ivar connection: the same, once it is open.
    """

    address: Address
    peer: IAddress | None = None
    hello: Hello | None = None
    name: str | None = None
    begun: Connection | None = None
    connection: Connection | None = None


class AESMServerFactory(SecureFactory):
    """
    Builds the protocols of a server, for any stream endpoint.

    @ivar connections: who is connected, and the activity log.
    @ivar publicKey: the server's own key.
    """

    makeConnections: type[Connections] = Connections

    def __init__(
        self,
        *,
        reactor: IReactorTime | None = None,
        name: str = "aesm",
        key: PrivateKey | None = None,
        psk: bytes | AnyPath | None = None,
        suites: Sequence[str] | None = None,
        authorizedKeys: object = None,
        handler: object = None,
        maxConnections: int | None = None,
        maxConnectionsPerHost: int | None = None,
        handshakesPerHost: float = HANDSHAKES_PER_HOST,
        perKey: str = "allow",
        handshakeTimeout: float = HANDSHAKE_TIMEOUT,
        totalBuffer: int = TOTAL_BUFFER,
        messagesPerKey: float | None = None,
        bytesPerKey: float | None = None,
        sessionGrace: float = SESSION_GRACE,
        drainRate: float = DRAIN_RATE,
        nextKey: PublicKey | None = None,
        **options: Any,
    ) -> None:
        """
        @param reactor: keeps time; None for the installed one.
        @param name: the application name that both sides share.
        @param key: our own key; None for the state directory's.
        @param psk: the pre-shared key, 32 bytes, or the path of its file.
        @param suites: Noise protocol names to take; None for the defaults.
        @param authorizedKeys: a path, an
            L{IClientPolicy<aesm.interfaces.IClientPolicy>}, a callable like its
            C{checkClient}, or None to let any key in.
        @param handler: an L{IMessageHandler}; C{async def talk(connection)}, which is
            run for each connection and closes it by returning; an
            L{IMessageHandlerMaker}, which gives one of these; or None: packets are
            left in the connections' streams, for the program to take.
        @param maxConnections: connections in all; None for as many as the limit
            on open files allows, and no more than 65,536.
        @param maxConnectionsPerHost: connections of one host, IPv6 by /64; None for a
            quarter of C{maxConnections}, and at least 8.
        @param handshakesPerHost: handshakes of one host, a second.
        @param perKey: what a second connection of one key does: C{"allow"},
            C{"replace"} the first, or C{"reject"} it.
        @param handshakeTimeout: seconds from a connection's start to its opening.
        @param totalBuffer: bytes of messages to keep for all connections together,
            unacknowledged or unread.
        @param messagesPerKey: messages of one key, a second, that the handler takes;
            what more comes waits at its sender.  None for what the handler says
            itself, in an attribute of that name; else any number.  Not for coroutines.
        @param bytesPerKey: the same of their bytes, with 64 for each message.
        @param sessionGrace: seconds that a client has to come back to its session
            when its connection is cut; 0 ends it at once.
        @param drainRate: clients a second that are told to go on elsewhere when the
            server is stopped, where other servers share its sessions.
        @param nextKey: the key that this server will have after its present one,
            announced to clients; without C{key}, the one that
            L{nextKeyOf<aesm.trust.keys.nextKeyOf>} finds in the state directory.
        @param options: C{maxMessage}, C{heartbeat}, C{sendBuffer} and
            C{receiveBuffer}, as
            L{ConversationSettings<aesm.core.messages.hello.ConversationSettings>};
            and of a store:
        @keyword spool: the path of a file in which sessions, what was sent and is not
            acknowledged, and packets that nobody has taken outlive the process;
            what is acknowledged is in it.  It is opened when listening begins.
            None keeps them in memory.
        @keyword spoolSync: C{"normal"}: the spool survives that the process is killed;
            C{"full"}: also a loss of power, for which each commit waits for the disk.
        @keyword spoolMax: bytes that the spool may have, from 16 MiB; when they are
            used up, that is as a full disk.
        @keyword cluster: where the engine is, in which the sessions are, instead of a
            C{spool}: C{redis://HOST:PORT}, C{rediss://}, C{redis+unix:///PATH} or
            C{redis+sentinel://HOST,HOST,HOST/NAME}.  All servers with the same one are
            nodes of one server: a client comes back to its session at any of them.
            They have the same C{key}, C{psk} and C{authorizedKeys}; limits are those
            of one node, but C{perKey}, which is over all.  It needs C{aesm[cluster]}.
        @keyword clusterName: what the cluster is called in the engine.
        @keyword clusterPassword: what the engine asks for, bytes, or the path of its
            file.
        @keyword clusterSync: C{"primary"}: what is acknowledged survives that this
            process and the engine's are killed; C{"replica"}: also that the engine is
            lost, since one of its replicas has it; C{"disk"}: a loss of power.
        @keyword clusterKey: what seals messages and states in the engine, 32 bytes, or
            the path of its file; None to trust the engine.
        @keyword node: what this node is called for operators; None for the name of this
            machine.
        @raise KeyFileError: a file cannot be used; says why.
        @raise TypeError: an option is of the wrong type, or there is no such.
        @raise ValueError: an option has a value that it cannot have.
        """
        self.clock = reactorOr(reactor)
        self.handshakeTimeout = checkTimeout(handshakeTimeout)
        isCluster = options.get("cluster") is not None
        openStore = storeOpener(options, self.clock, sessionGrace, perKey)
        self._settings = channelSettings(
            KEY_FILE, Layer.MESSAGES, key=key, name=name, psk=psk, suites=suites
        )
        if key is None and nextKey is None:
            nextKey = nextKeyOf(stateDirectory() / KEY_FILE)
        checkNames(options, MessageOptions.__optional_keys__)
        self._messages = ConversationSettings(
            agent=AGENT, nextKey="" if nextKey is None else str(nextKey), **options
        )
        self.publicKey = PublicKey(self._settings.publicKey)
        policy = clientPolicy(authorizedKeys)
        self.connections = self.makeConnections(
            partial(isOperator, policy), partial(self.clock.callLater, 0)
        )
        made = _messageHandler(handler, self.connections)
        if isCluster:
            checkHandler(made)
            self.connections.ofCluster = Cluster(self.connections)
        self._places = Places(
            maxConnections,
            maxConnectionsPerHost,
            handshakesPerHost,
            canYield=canYield,
        )
        self._admission = Admission(self.connections, policy, self._places, perKey)
        self._manager = ConnectionManager(
            self.clock,
            self.connections,
            self._admission,
            self._messages,
            made,
            totalBuffer,
            sessionGrace,
            openStore,
            messagesPerKey,
            bytesPerKey,
        )
        # All whose transports are not gone.
        self._incoming: dict[SecureProtocol, _PendingConnection] = {}
        self._numbers = count(1)
        self._reload: IDelayedCall | None = None
        self._gone: list[Deferred[None]] = []  # fire when nothing is incoming
        self._draining = Draining(self.clock, self._manager, self, drainRate)

    # What users call

    @property
    def isOpen(self) -> bool:
        """Whether any client that finds us is let in."""
        return self._admission.isOpen and self._settings.psk is None

    @property
    def isStopping(self) -> bool:
        """Whether nobody new is let in any more."""
        return self._manager.stopping or self._manager.isDraining

    @property
    def draining(self) -> Draining:
        """What leaves the sessions to other servers, for those who look on."""
        return self._draining

    @property
    def waiting(self) -> int:
        """How many sessions wait for their clients to come back."""
        return len(self._manager.sessions)

    @property
    def cluster(self) -> Cluster:
        """
        All nodes of the cluster, as one server.

        @raise RuntimeError: sessions are not kept in an engine.
        """
        return self.connections.cluster

    @property
    def manager(self) -> ConnectionManager:
        """Where all connections meet, for those who look on."""
        return self._manager

    @property
    def admission(self) -> Admission:
        """What decides who comes in, for those who look on."""
        return self._admission

    @property
    def places(self) -> Places:
        """Who counts those who are in, for those who look on."""
        return self._places

    def sendTo(self, data: Message, address: Address) -> Deferred[None]:
        """
        Send a message to one peer.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param address: whose, as in C{connections}.
        @return: as L{Connection.sendData}, but a full send buffer is always a
            failure with L{SendBufferFull<aesm.errors.SendBufferFull>};
            L{ConnectionClosed} if there is no such connection.  Fails with
            L{PeerAway<aesm.errors.PeerAway>} as soon as the peer's connection is cut:
            its message is kept for it.
        @raise TypeError: C{data} is neither text nor bytes.
        """
        connection = self.connections.get(address)
        if connection is None:
            return FailedAcknowledgement(
                ConnectionClosed(f"nothing was sent: there is no connection {address}")
            )
        return promptly(connection.send(data, closeSlow=False))

    def request(
        self, data: Message, address: Address, timeout: float | None = None
    ) -> Deferred[str | bytes]:
        """
        Send a message that one peer is to answer.

        @param data: C{str} for text, bytes for binary.
        @param address: whose, as in C{connections}.
        @param timeout: seconds; None for any time.
        @return: as L{Connection.request}; fails with L{ConnectionClosed} if there is no
            such connection.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        connection = self.connections.get(address)
        if connection is None:
            return fail(
                ConnectionClosed(f"nothing was sent: there is no connection {address}")
            )
        return connection.request(data, timeout)

    def sendAll(
        self, data: Message, to: Peers | None = None, exclude: Peers = ()
    ) -> Deferred[int]:
        """Send to all, or to several, as L{aesm.Connections.sendAll}."""
        return self.connections.sendAll(data, to, exclude)

    def stop(
        self, reason: str = "", deadline: float = STOP_DEADLINE, spread: float = 0.0
    ) -> Deferred[None]:
        """
        Let nobody in any more, tell every client (code 1001), send what is
        queued, and abort what is left at the deadline.

        Where other servers share the sessions, each goes on there: clients are told in
        waves, C{drainRate} of them a second, and the deadline is counted behind that.

        @param reason: words for the clients.
        @param deadline: seconds.
        @param spread: seconds over which clients are to come back, each at a moment
            of its own; 0 leaves it to them, or to C{drainRate}.
        @return: fires when all connections are gone and the handler is done with what
            it does about that, for which it has as long again, but for a coroutine of
            the handler that has called this; fails with
            L{SpoolError<aesm.errors.SpoolError>} if there is a spool that could not
            be written to the end.
        @raise ValueError: C{spread} is not from 0 to an hour, or C{deadline} no time.
        """
        checkStop(deadline, spread)
        self._manager.stoppedBy(CAUSE.get())
        left = self._draining.drain(reason, spread)
        return left.addCallback(lambda nothing: self._end(reason, deadline, spread))

    def _end(self, reason: str, deadline: float, spread: float) -> Deferred[None]:
        """Let nobody in any more, and tell all who are here to leave; as C{stop}."""
        self._manager.stop()
        self.endGreeting()
        for pending in list(self._incoming.values()):
            if pending.connection is not None:
                pending.connection.closeWith(
                    CloseCode.GOING_AWAY, reason or "going away", spread
                )
        if not self._incoming:
            return self._manager.close(deadline)
        gone: Deferred[None] = Deferred(self._gone.remove)
        self._gone.append(gone)
        timer = self.clock.callLater(deadline, self._abortAll)
        return gone.addBoth(untimed, timer).addCallback(
            lambda result: self._manager.close(deadline)
        )

    def reloadKeys(self, why: str = REVOKED) -> None:
        """
        Read the file of authorized keys now, say in the log what is in it, and
        disconnect those that were taken out.

        It is looked at anyway, every L{RELOAD_INTERVAL} seconds, and a change taken
        that two looks agree on.  This says that the file is as it should be: what it
        has counts at once, also if that is nobody.

        @param why: what those are told who are disconnected, and the activity log.
        """
        self._admission.reload(why)

    # For a server that is replaced

    def successors(self, host: Host) -> SuccessorFactory:
        """
        Let a new process take over.

        @param host: has the sockets that this factory listens on.
        @return: what to listen with for such a process.
        """
        return SuccessorFactory(self.clock, self._manager, self, host)

    def predecessor(self, gone: Callable[[bool], None]) -> Predecessor:
        """
        Take over from a running process.

        @param gone: as L{Predecessor} takes it.
        @return: the protocol to speak with it.
        """
        return Predecessor(self.clock, self._manager, gone)

    @property
    def areGreeting(self) -> bool:
        """Whether clients are about to be let in."""
        return any(each.connection is None for each in self._incoming.values())

    def endGreeting(self) -> None:
        """Let none of those in who are about to be."""
        for secure, pending in list(self._incoming.items()):
            if pending.connection is None:
                secure.fail(_stopping())

    # twisted.internet.protocol.Factory

    def startFactory(self) -> None:
        """Listening begins: look at the authorized keys from now on."""
        self._manager.start()
        self._places.checkFiles()
        self._scheduleReload()

    def stopFactory(self) -> None:
        """Listening has ended on the last port."""
        if self._reload is not None:
            self._reload.cancel()
            self._reload = None

    def buildProtocol(  # type: ignore[override]  # Factory's is a Protocol
        self, addr: IAddress | None
    ) -> IProtocol | None:
        """
        Let a connection begin, unless there are too many.

        @param addr: where it comes from.
        @return: its protocol; one that hangs up at once if there are too many,
            since not every factory around this one knows what to do with None.
        """
        address = addressOf(cast(IAddress, addr), next(self._numbers))
        host = hostOfPeer(addr)
        full = self._places.refusal(host)
        refusal = None if full is None else Refused(full, Kind.TOO_MANY)
        if self._manager.stopping:
            refusal = _stopping()
        if refusal is not None:
            self._manager.refused(address, refusal)
            return HangUp()
        secure = SecureProtocol(self, ServerChannel(self._settings))
        self._incoming[secure] = _PendingConnection(address)
        self._places.begin(secure, host)
        return secure

    # SecureFactory

    def peerBegins(self, secure: SecureProtocol) -> AESMError | None:
        """Take a token for a handshake, or say why there is none."""
        peer = self._locate(secure).peer
        host = hostOfPeer(cast(IAddress, peer))
        return self._places.take(secure, host, self.clock.seconds())

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Answer[None]:
        """
        Decide on a client.

        @param payload: its hello.
        @return: None to let it in; fails as L{Admission.decide}, or as
            L{ConnectionManager.begin}.
        """
        pending = self._incoming[secure]
        decision = self._admission.decide(
            publicKey, payload, cast(IAddress, pending.peer), pending.address
        )
        begun = whenKnown(decision, self._cbDecided, pending, publicKey)
        return whenKnown(begun, self._cbBegun, pending, publicKey)

    def _cbDecided(
        self,
        decided: tuple[Hello, str | None],
        pending: _PendingConnection,
        publicKey: PublicKey,
    ) -> Answer[Connection]:
        """Have a session for who may come in."""
        pending.hello, pending.name = decided
        return self._manager.begin(
            publicKey, pending.hello, pending.address, pending.name
        )

    def _cbBegun(
        self,
        connection: Connection,
        pending: _PendingConnection,
        publicKey: PublicKey,
    ) -> Answer[None]:
        """Let a client in whose session is written down."""
        pending.begun = connection
        hello, peer = cast(Hello, pending.hello), cast(IAddress, pending.peer)
        return self._admission.admit(publicKey, hello, peer, pending.address)

    def farewell(self, reason: AESMError) -> bytes:
        """Make the CLOSE frame for a client that is not let in."""
        return farewell(reason)

    def buildInner(self, secure: SecureProtocol) -> AESMProtocol:
        """Build the message layer of a client that is let in."""
        pending = self._incoming[secure]
        hello = cast(Hello, pending.hello)
        # This follows C{admit} without a turn of the event loop in between, so that a
        # session that was found is still there.
        connection = cast(Connection, pending.begun)
        self._manager.carry(connection, pending.address, pending.name)
        conversation = Conversation(
            self._messages, self.clock.seconds(), connection.session
        )
        conversation.welcome(hello)
        protocol = AESMProtocol(self._manager, conversation, self.clock)
        connection.attach(protocol, secure.channel)
        pending.connection = connection
        return protocol

    def opened(self, secure: SecureProtocol) -> None:
        """List a client that is let in."""
        super().opened(secure)
        self._places.finish(secure)
        pending = self._incoming[secure]
        agent = cast(Hello, pending.hello).agent[:MAX_AGENT]
        pending.hello = pending.peer = pending.begun = None
        self._manager.enter(
            cast(Connection, pending.connection), pending.address, agent
        )

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """Take note of a client that was not let in."""
        pending, peer = self._locate(secure), secure.channel.peer
        self._manager.refused(
            pending.address, reason, PublicKey(peer) if peer else None, pending.name
        )

    def cannotAccept(self, address: IAddress, reason: AESMError) -> None:
        """Take note of a client that was not accepted."""
        self._manager.refused(addressOf(address, next(self._numbers)), reason)

    def ended(self, secure: SecureProtocol) -> None:
        """Take note that a connection is gone."""
        super().ended(secure)
        self._places.finish(secure)
        pending = self._incoming.pop(secure)
        if pending.begun is not None:
            self._manager.abandon(pending.begun)
        if not self._incoming:
            while self._gone:
                self._gone.pop().callback(None)

    # Parts

    def _locate(self, secure: SecureProtocol) -> _PendingConnection:
        """See where a connection comes from that is not open."""
        # A transport behind a forwarder knows it only once that has said so (the PROXY
        # protocol), and what has no address keeps the name that it has.
        pending = self._incoming[secure]
        pending.peer = secure.transport.getPeer()
        address = addressOf(pending.peer, next(self._numbers))
        if isinstance(address, tuple):
            pending.address = address
        return pending

    def _scheduleReload(self) -> None:
        """Look at the authorized keys now and then."""
        self._admission.look()
        self._reload = self.clock.callLater(RELOAD_INTERVAL, self._scheduleReload)

    def _abortAll(self) -> None:
        """End what is left at the deadline."""
        for secure in list(self._incoming):
            secure.abort()


def _stopping() -> Refused:
    """Make the error for a client that comes too late."""
    return Refused("the server is stopping", Kind.STOPPING)


def checkStop(deadline: float, spread: float) -> None:
    """
    Check that a stop takes some time, or none, and that clients are to come back within
    0 seconds to an hour.
    """
    if not 0.0 + deadline >= 0:  # as a clock adds it
        raise ValueError(f"deadline must be seconds, from 0, not {deadline!r}")
    if not 0 <= spread <= MAX_AFTER / 1000:
        raise ValueError(f"spread must be 0 to {MAX_AFTER / 1000:g}, not {spread!r}")


def _messageHandler(
    handler: object, connections: Connections
) -> IMessageHandler | Talk | None:
    """Resolve a server's C{handler} option; a maker is given the registry."""
    if IMessageHandlerMaker.providedBy(handler):
        handler = IMessageHandlerMaker(handler).makeHandler(connections)
    return handlerOf(handler)
