"""
A byte stream in WebSockets, which is what a page in a browser can open::

    inside = TCP4ServerEndpoint(reactor, 8766)
    WebSocketServerEndpoint(reactor, inside, path="/aesm").listen(factory)

The bytes come and go in binary messages, whose boundaries mean nothing.  A message is
handed on as it comes, in pieces, so that its length does not matter: nothing of it is
kept here.  Compression, and all other extensions, are not agreed to.

What is inside is there from the start, as under TLS, and what it writes waits until the
WebSocket is open.  It is also what loses patience, as under TLS: with a request that
never ends, or with a peer that does not answer our Close.

Twisted's own C{twisted.web.websocket} keeps what belongs to an unfinished message
without a bound, and neither pauses nor aborts; so this uses, as that does, wsproto.
It is the extra C{aesm[web]}, and nothing else of ours imports it.

@see: RFC 6455
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection, ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError
from zope.interface import implementer

from aesm.errors import NotAnAESMPeer
from aesm.secure.protocol import CLOSE_TIMEOUT
from aesm.secure.rawtransport import abort, prepare

READ_SIZE = 8192  # bytes: of empty frames, so many take 15 ms
_HEAD_ENDS = b"\r\n\r\n"

# How far the WebSocket is, wsproto knows: CONNECTING, OPEN, and the states of a close.
# A close of ours is a Close frame once all is written; the peer answers it, and only
# then is the connection closed, or what the peer still sends would have the system
# reset it.  Any other end is final at once: then nothing is read any more (ended), and
# who does not take what was written in time is cut off.
#
# Back-pressure.  The protocol is the raw transport's producer, and hands on to the
# producer of the transport inside when that takes no more.  Then a pong waits, too,
# and only for the last ping: else a peer that sends pings and reads nothing would
# fill our memory with the answers.


@implementer(ITransport, IConsumer, IPushProducer)
class WebSocketTransport:
    """
    The transport of the protocol inside.

    @ivar disconnecting: whether nothing is read any more.
    @ivar producer: whoever is told when it may write.
    """

    def __init__(self, wire: WebSocketProtocol) -> None:
        self.disconnecting = False
        self.producer: IPushProducer | None = None
        self._wire = wire

    def write(self, data: bytes) -> None:
        """Send bytes, as one binary message."""
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if data and (not self.disconnecting or self.producer is not None):
            self._wire.send(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """
        Send what was written, and a Close, and close when the peer has answered that.
        A registered producer is waited for.
        """
        if not self.disconnecting:
            self.disconnecting = True
            self._raw.resumeProducing()  # or the peer's Close could not come in
            self._wire.finish()

    def abortConnection(self) -> None:
        """Close at once; what was written may be lost."""
        self.disconnecting = True
        abort(self._raw)

    def getPeer(self) -> IAddress:
        """Say who is there, or the proxy before it."""
        return cast(IAddress, self._raw.getPeer())

    def getHost(self) -> IAddress:
        """Say where we are."""
        return cast(IAddress, self._raw.getHost())

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """
        Let a producer write as fast as the raw transport takes it.

        @param streaming: whether it is an C{IPushProducer}.
        @raise RuntimeError: there is one already.
        """
        if self.producer is not None:
            raise RuntimeError(
                f"cannot register {producer!r}: {self.producer!r} was not unregistered"
            )
        if self._wire.ended:
            cast(IPushProducer, producer).stopProducing()
            return
        if streaming:
            self.producer = cast(IPushProducer, producer)
        else:
            self.producer = puller = _PullToPush(producer, self)
            puller.startStreaming()
        if self._wire.full:
            self.producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """The producer is done."""
        producer, self.producer = self.producer, None
        if isinstance(producer, _PullToPush):
            producer.stopStreaming()
        if producer is not None and self.disconnecting:
            self._wire.finish()

    def pauseProducing(self) -> None:
        """Read nothing until C{resumeProducing}."""
        if not self.disconnecting:
            self._raw.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        if not self.disconnecting:
            self._raw.resumeProducing()

    def stopProducing(self) -> None:
        """Stop for good: the same as C{loseConnection}."""
        self.loseConnection()

    @property
    def _raw(self) -> Any:
        """The raw transport."""
        return self._wire.transport


@implementer(IPushProducer)
class WebSocketProtocol(Protocol):
    """
    The protocol on the raw transport.

    @ivar ended: whether nothing is read or written any more.
    @ivar full: whether what is written has to wait.
    @ivar socket: how far the WebSocket is, and what its frames are.
    """

    role = ConnectionType.SERVER

    def __init__(
        self,
        clock: IReactorTime,
        inner: IProtocol,
        path: str = "/",
        origins: Collection[str] | None = None,
    ) -> None:
        """
        @param clock: keeps time.
        @param inner: the protocol inside.
        @param path: where the WebSocket is.
        @param origins: whose pages may open it, such as C{https://chat.example}; None
            for those of the host that it is asked for at.
        """
        self.ended = False
        self.full = True
        self.socket: WSConnection | Connection = WSConnection(self.role)
        self._clock = clock
        self._inner = inner
        self._path = path
        self._origins = origins
        self._inside = WebSocketTransport(self)
        self._head = b""  # of the request: the last bytes that came
        self._early: list[bytes] = []  # what is written before the WebSocket is open
        self._ping: Ping | None = None  # is to be answered
        self._reason: Failure | None = None  # why the connection is over
        self._timer: IDelayedCall | None = None  # once that is to be closed

    # For the raw transport

    def connectionMade(self) -> None:
        """Begin."""
        prepare(cast(ITransport, self.transport), READ_SIZE)
        cast(IConsumer, self.transport).registerProducer(self, True)
        self._inner.makeConnection(self._inside)

    def dataReceived(self, data: bytes) -> None:
        """Hand on what is in the messages that this is a part of."""
        if self.socket.state is ConnectionState.CONNECTING:
            try:
                data = self.opening(data)
            except (RemoteProtocolError, ValueError):
                # ValueError: also what wsproto takes for no text, urlsplit for no URL.
                self._refuse(426, "here are WebSockets, and nothing else")
        if self.ended or self.socket.state is ConnectionState.CONNECTING:
            return
        pieces, end = [], None
        self.socket.receive_data(data)
        for event in self.socket.events():
            match event:
                case BytesMessage():
                    pieces.append(event.data)
                case TextMessage():
                    end = CloseConnection(
                        CloseReason.UNSUPPORTED_DATA, "bytes, not text"
                    )
                    break
                case Ping():
                    self._ping = event
                case CloseConnection():
                    end = event
        brought = b"".join(pieces)
        if brought and not self._inside.disconnecting:
            self._inner.dataReceived(brought)
        self._pong()
        if end is not None and not self.ended:
            self._ends(end)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The raw transport is closed."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.ended = True
        producer = self._inside.producer
        self._inside.unregisterProducer()
        if producer is not None:
            producer.stopProducing()
        self._inner.connectionLost(self._reason or reason)

    # IPushProducer, for the raw transport

    def pauseProducing(self) -> None:
        """The raw transport takes no more."""
        self.full = True
        if self._inside.producer is not None:
            self._inside.producer.pauseProducing()

    def resumeProducing(self) -> None:
        """The raw transport takes more."""
        if self.socket.state is not ConnectionState.CONNECTING:
            self.full = False
            self._pong()
            if self._inside.producer is not None:
                self._inside.producer.resumeProducing()

    def stopProducing(self) -> None:
        """The raw transport is closing; C{connectionLost} follows."""

    # For WebSocketTransport

    def send(self, data: bytes) -> None:
        """Send bytes, unless it is too late."""
        if self.socket.state is ConnectionState.CONNECTING:
            self._early.append(data)
        else:
            self.say(BytesMessage(data))

    def finish(self) -> None:
        """Send a Close, unless there is more to come before it."""
        if self._inside.producer is None:
            self.say(CloseConnection(CloseReason.NORMAL_CLOSURE))

    # Parts

    def opening(self, data: bytes) -> bytes:
        """
        Read the request, and answer it.

        @return: what came behind it.
        @raise RemoteProtocolError: it is no request for a WebSocket.
        @raise ValueError: nor is it one of another kind.
        """
        if not (self._head or data.startswith(b"G")):
            raise ValueError("not GET")  # AESM/1, which would wait for an answer
        self._head = head = self._head[1 - len(_HEAD_ENDS) :] + data
        self.socket.receive_data(data)
        for request in self.socket.events():
            self._asked(cast(Request, request))
            # wsproto forgets what is behind, though a client has to wait for us.
            return head.partition(_HEAD_ENDS)[2]
        return b""

    def _asked(self, request: Request) -> None:
        """Open the WebSocket, or refuse to."""
        if request.target.partition("?")[0] != self._path:
            self._refuse(404, "here is no WebSocket")
            return
        for name, value in request.extra_headers:
            if name == b"origin" and not self._isWelcome(value, request.host):
                words = f"here come no pages of {value.decode('ascii', 'replace')!r}"
                self._refuse(403, words)
                return
        self.say(AcceptConnection())
        self.opened()

    def opened(self) -> None:
        """Send what was written before the WebSocket was open, and let more come."""
        self.socket = cast(Connection, cast(WSConnection, self.socket).connection)
        self._head = b""
        early, self._early = b"".join(self._early), []
        if early:
            self.say(BytesMessage(early))
        self.resumeProducing()
        if self._inside.disconnecting:
            self.finish()

    def _isWelcome(self, origin: bytes, host: str) -> bool:
        """Tell whether a page may come, by its origin and by what it asked for."""
        page = origin.decode("ascii")
        if self._origins is not None:
            return page in self._origins
        asked = urlsplit(f"//{host}").hostname
        return asked is not None and asked == urlsplit(page).hostname

    def _refuse(self, status: int, words: str) -> None:
        """Answer a request, and hang up."""
        body = f"{words}\n".encode()
        headers = [
            (b"Connection", b"close"),
            (b"Content-Length", b"%d" % len(body)),
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Upgrade", b"websocket"),
        ]
        self.say(RejectConnection(status, headers, has_body=True))
        self.say(RejectData(body))
        self._reason = Failure(NotAnAESMPeer(f"no WebSocket ({status}): {words}"))
        self._hangUp()

    def _ends(self, end: CloseConnection) -> None:
        """Answer the peer's Close, or what breaks the rules, and hang up."""
        if self.socket.state is ConnectionState.OPEN:
            words = f"the WebSocket was ended ({end.code:d}): {end.reason}"
            self._reason = Failure(NotAnAESMPeer(words))
        self.say(end.response())
        self._hangUp()

    def _hangUp(self) -> None:
        """Close once all is written, or not taken in time."""
        self.ended = True
        transport = cast(ITransport, self.transport)
        self._timer = self._clock.callLater(CLOSE_TIMEOUT, abort, transport)
        cast(IConsumer, self.transport).unregisterProducer()
        transport.loseConnection()

    def _pong(self) -> None:
        """Answer the last ping."""
        if self._ping is not None and not self.full:
            ping, self._ping = self._ping, None
            self.say(ping.response())

    def say(self, event: Event) -> None:
        """Send what an event means, unless the WebSocket is past it."""
        with suppress(LocalProtocolError):
            cast(ITransport, self.transport).write(self.socket.send(event))


class _Factory(WrappingFactory):
    """Builds WebSockets around the protocols of another factory."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        inner: IProtocolFactory,
        path: str,
        origins: Collection[str] | None,
    ) -> None:
        super().__init__(inner)
        self._clock = clock
        self._options = path, origins

    def buildProtocol(  # type: ignore[override]  # Factory's is a Protocol
        self, addr: IAddress | None
    ) -> WebSocketProtocol | None:
        """@return: None if the factory inside wants none."""
        inner = self.wrappedFactory.buildProtocol(addr)
        if inner is None:
            return None
        return WebSocketProtocol(self._clock, inner, *self._options)


@implementer(IStreamServerEndpoint)
class WebSocketServerEndpoint:
    """Listens for WebSockets."""

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamServerEndpoint,
        path: str = "/",
        origins: Collection[str] | None = None,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._options = path, origins

    def around(self, endpoint: IStreamServerEndpoint) -> WebSocketServerEndpoint:
        """Make the same around another endpoint."""
        return WebSocketServerEndpoint(self._clock, endpoint, *self._options)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen."""
        factory = _Factory(self._clock, protocolFactory, *self._options)
        return self._endpoint.listen(factory)
