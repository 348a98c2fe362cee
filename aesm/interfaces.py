"""
What others implement for aesm: handlers of messages, the plugins that make
them, and policies of trust.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface, implementer

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IAddress

    from aesm.errors import AESMError
    from aesm.messages.connection import Connection
    from aesm.messages.requests import Request
    from aesm.messages.stream import Packet
    from aesm.server.registry import Connections
    from aesm.trust.keys import PublicKey

__all__ = [
    "IClientObserver",
    "IClientPolicy",
    "IMessageHandler",
    "IMessageHandlerMaker",
    "INextKeys",
    "IRequestHandler",
    "ISessionHandler",
    "ITrustPolicy",
    "MessageHandler",
]


class IMessageHandler(Interface):
    """
    What a server does with its connections and their messages, or a client with its
    own.  L{MessageHandler} is one that does nothing, to derive from.

    Each method may return None, or what is not done yet: a Deferred, a coroutine (so
    that it may be C{async def}), another awaitable, or, where Twisted's asyncio reactor
    runs, a Future or Task of asyncio.  That is run; what it gives is ignored, and so
    are other values.  One Deferred may be given several times, for different messages
    and connections.

    An error in any of these methods, or in what one returns, is logged and closes the
    one connection that it was called for with code 1011.  So does what cannot be run:
    a generator without C{inlineCallbacks}, an async generator, a Future of a loop that
    does not run here, one of C{concurrent.futures}.

    A handler that answers requests has the method of L{IRequestHandler} as well, and
    one that is to know when connections are cut and come back those of
    L{ISessionHandler}.  One that passes on what comes may have the numbers
    C{messagesPerKey} and C{bytesPerKey}: how much it takes of one client key a second,
    where the server's options of these names do not say.  One for which no client hears
    of another says C{clientsApart = True}: while a new process takes over from the
    running one, its clients move one after another, and not all at once.  One that
    has to know all clients says C{clientsTogether = True}: it is refused where there
    are more nodes than one, unless it has a C{replica}, an
    L{IReplica<aesm.store.interface.IReplica>} (looked for by that name).
    """

    def connectionAccepted(
        connection: Connection,
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """
        A client was let in; at a client: its server has let it in, with a new session.

        @param connection: the new connection, ready for C{sendData}.
        @return: None, or what is not done yet: until it is, the first message waits.
        """

    def packetReceived(
        connection: Connection, packet: Packet
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """
        A message arrived.  Messages of one connection come one at a time and
        in order.

        @param connection: where it came from.
        @param packet: when it was sent, and C{str} or bytes.
        @return: None, or what is not done yet: until it is, the message
            counts as not handled, which means that it is not acknowledged, and that
            the next one waits.
        """

    def connectionLost(
        connection: Connection, reason: AESMError
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """
        A connection that was accepted is over.  This is called at once, also while
        another method's Deferred or coroutine is not done.

        @param connection: the connection; it sends no more.
        @param reason: why it ended.
        @return: None, or what is not done yet: a server or client that stops waits for
            it, 5 seconds at most unless C{stop} says otherwise.
        """


class IRequestHandler(Interface):
    """
    What a handler may have beside the methods of L{IMessageHandler}, to answer
    requests.  It is looked for by its name; without it they are refused with code 1003.
    """

    def requestReceived(
        connection: Connection, packet: Request
    ) -> (
        str
        | bytes
        | Deferred[str | bytes]
        | Coroutine[Deferred[Any], Any, str | bytes]
        | None
    ):
        """
        A request arrived.  Requests are begun in order with the messages of the
        connection, and run beside each other and beside these: one that takes its time
        holds nothing back, up to 1,000 of a connection.

        @param connection: where it came from.
        @param packet: when it was sent, and C{str} or bytes.
        @return: the answer, or what gives it: a Deferred, a coroutine (so that it may
            be C{async def}), or another awaitable, which is cancelled if nobody waits
            for the answer any more.  None only if C{packet.answer} or C{packet.refuse}
            was called.
        @raise RequestFailed: to refuse, with a code and words, also as the Deferred's
            failure.  Any other error is logged, and refuses with code 1011, "internal
            error"; the connection stays.
        """


class ISessionHandler(Interface):
    """
    What a handler may have beside the methods of L{IMessageHandler}, to know when
    clients are away, or a client that it is cut off.  Each of the two is looked for by
    its name.

    While a session waits for its client, the connection goes on: what is sent is kept,
    and messages that came are handed over.  If the client does not come back in time,
    C{connectionLost} is called.

    Both are called at once, and nothing waits for what they return, which is run as
    that of L{IMessageHandler}'s methods.
    """

    def connectionDetached(
        connection: Connection, reason: AESMError
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """
        A connection was cut, and its session waits for the client.  It is also called
        for a session that is restored from a spool, after
        C{connectionAccepted}, and for a client that is back before the cut was noticed,
        right before C{connectionAttached}.

        @param connection: the connection.
        @param reason: what ended its transport.
        """

    def connectionAttached(
        connection: Connection,
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """
        A client has come back to its session; each time, C{connectionDetached} was
        called before.

        @param connection: the connection; its C{address} may be another one.
        """


@implementer(IMessageHandler, ISessionHandler)
class MessageHandler:
    """A handler that does nothing, for others to derive from."""

    def connectionAccepted(
        self, connection: Connection
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """Do nothing."""
        return None

    def packetReceived(
        self, connection: Connection, packet: Packet
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """Do nothing."""
        return None

    def connectionDetached(
        self, connection: Connection, reason: AESMError
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """Do nothing."""
        return None

    def connectionAttached(
        self, connection: Connection
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """Do nothing."""
        return None

    def connectionLost(
        self, connection: Connection, reason: AESMError
    ) -> Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None:
        """Do nothing."""
        return None


class IClientObserver(Interface):
    """
    Who wants to know how a client that stays fares.  All is called in the reactor's
    thread; an error is logged, and changes nothing.
    """

    def onConnected(connection: Connection) -> None:
        """
        The server has accepted.  What is sent over a new connection now goes before all
        that waits.

        @param connection: the former one if its session goes on, else a new one.
        """

    def onWaiting(delay: float, reason: BaseException) -> None:
        """
        A connection was lost, or an attempt has failed, and there will be another.

        @param delay: until then, seconds.
        @param reason: why.
        """

    def onStopped(reason: Exception) -> None:
        """
        The client has stopped, and nothing is open.

        @param reason: why: L{ConnectionClosed<aesm.errors.ConnectionClosed>} (1000) if
            that was asked for, else what trying again would not mend.
        """


class IMessageHandlerMaker(Interface):
    """A Twisted plugin that makes a handler for C{twistd aesm --handler NAME}."""

    name = Attribute("What the operator types, a C{str}.")
    description = Attribute("One line for C{--help}, a C{str}.")

    def makeHandler(
        connections: Connections,
    ) -> IMessageHandler | Callable[[Connection], Coroutine[Any, Any, Any]] | None:
        """
        Make the handler of one server.

        @param connections: that server's registry.
        @return: the handler, or a coroutine function that is one, or None to leave
            packets in their streams.
        """


class ITrustPolicy(Interface):
    """
    A client's decision on the key that a server has proved, asked before the
    client reveals its own.
    """

    def checkServer(location: str, publicKey: PublicKey) -> bool | Deferred[bool]:
        """
        Decide on one server.

        @param location: what the client dialled, such as
            C{"example.org:8765"}.
        @param publicKey: the static key that the server has proved.
        @return: True, or a Deferred of True, to go on; anything else refuses.  One
            Deferred may be given for several servers.
        @raise UntrustedServer: to refuse and say why, also as the Deferred's
            failure.
        """


class INextKeys(ITrustPolicy):
    """A trust policy that remembers what servers announce as their next key."""

    def announced(location: str, publicKey: PublicKey) -> None:
        """
        Remember a server's next key.

        @param location: what the client dialled.
        @param publicKey: the key that the server will have; it was said through
            the channel of a key that C{checkServer} has accepted.
        @raise AESMError: it cannot be remembered; the connection goes on.
        """


class IClientPolicy(Interface):
    """A server's decision on the key that a client has proved."""

    def checkClient(
        publicKey: PublicKey, address: IAddress
    ) -> str | bool | None | Deferred[str | bool | None]:
        """
        Decide on one client.

        @param publicKey: the static key that the client has proved.
        @param address: where it comes from.
        @return: the name that this key goes by (C{peerName}), or True to let
            it in without one, or a Deferred of either; anything else, an
            empty name included, refuses.  One Deferred may be given for several
            clients.
        """
