"""
A server's factory and a client's service for programs whose threads take packets
while the reactor's thread does the rest (L{aesm.blocking.network})::

    factory = ThreadedServerFactory(reactor=reactor)
    service = ThreadedClientService("tcp:127.0.0.1:8765", stopped, reactor=reactor)
    packet = service.retrieved.take(timeout)     # in any thread but the reactor's

A stream may be used from any thread, but tells its owner in the thread that takes
from it, and connections are not made for that: here each stream has an owner that
goes over to the reactor's thread.  And threads can wait here for what the reactor's
brings, in turn, while the Deferreds for the same are refused to them, and what
connections do: two threads would encrypt at a time, with one nonce.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.threadable import isInIOThread

from aesm.blocking.reactorthread import streamLock, theReactorThread
from aesm.blocking.turns import Turns
from aesm.client.retry import asOurs
from aesm.client.service import ClientService
from aesm.client.stream import SessionStream
from aesm.core.messages.batch import Message
from aesm.errors import AESMError, CloseCode, ConnectionClosed, closedError
from aesm.messages.connection import Connection
from aesm.messages.deferred import untimed
from aesm.server.awaited import Awaited, Soon
from aesm.server.factory import STOP_DEADLINE, AESMServerFactory
from aesm.server.registry import Activity, Connections

if TYPE_CHECKING:
    from aesm.core.messages.frames import EncodedResponse
    from aesm.messages.address import Address
    from aesm.messages.requests import Request
    from aesm.messages.stream import Packet
    from aesm.server.broadcast import Peers

_C = TypeVar("_C", bound=Connection)
_T = TypeVar("_T")


class ThreadedStream(SessionStream):
    """What came from a server, for threads, which wait for it in C{turns}."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.arrived = self.turns.wake

    def get(self) -> Deferred[Packet]:
        """Take the next packet, in the reactor's thread only."""
        _forbidDeferred("client.get()")
        return super().get()

    def take(self, timeout: float | None) -> Packet:
        """Take the oldest packet, as L{Turns.take}, in any thread but the reactor's."""
        return self.turns.take(self.getData, timeout)


class ThreadedAwaited(Awaited[_T], Generic[_T]):
    """What can be waited for in the reactor's thread, and by others in turn."""

    def __init__(self, take: Callable[[], _T | None], soon: Soon) -> None:
        """@param take: as L{Awaited}; called in any thread."""
        super().__init__(take, soon)
        self.turns = Turns()

    def get(self) -> Deferred[_T]:
        """Take the oldest, in the reactor's thread only."""
        _forbidDeferred("server.get() or server.waitForActivity()")
        return super().get()

    def take(self, timeout: float | None) -> _T:
        """Take the oldest, as L{Turns.take}, in any thread but the reactor's."""
        return self.turns.take(self._take, timeout)

    def serve(self) -> None:
        """Give those who wait what there is."""
        super().serve()
        self.turns.wake()

    def serveSoon(self) -> None:
        """Do the same; threads need not wait for another turn."""
        super().serveSoon()
        self.turns.wake()


class GuardedConnection(Connection):
    """One that other threads can look at, and do nothing with."""

    def sendData(self, data: Message) -> Deferred[None]:
        """Send a message, in the reactor's thread only."""
        _forbidElsewhere()
        return super().sendData(data)

    def request(
        self, data: Message, timeout: float | None = None
    ) -> Deferred[str | bytes]:
        """Send a request, in the reactor's thread only."""
        _forbidElsewhere()
        return super().request(data, timeout)

    def drain(self) -> Deferred[None]:
        """Wait until there is room, in the reactor's thread only."""
        _forbidElsewhere()
        return super().drain()

    def closeWith(self, code: int, reason: str, after: float = 0.0) -> None:
        """Close in order, in the reactor's thread only."""
        _forbidElsewhere()
        super().closeWith(code, reason, after)

    def abort(self) -> None:
        """End the connection at once, in the reactor's thread only."""
        _forbidElsewhere()
        super().abort()

    def closed(self) -> Deferred[AESMError]:
        """Wait for the end, in the reactor's thread only."""
        _forbidElsewhere()
        return super().closed()


_guarded: dict[type, type] = {}  # by what they would be of else


def guarded(kind: type[_C]) -> type[_C]:
    """Have connections of a class be guarded as a L{GuardedConnection}."""
    if kind not in _guarded:
        name = f"Guarded{kind.__name__}"
        _guarded[kind] = type(name, (GuardedConnection, kind), {})
    return cast("type[_C]", _guarded[kind])


class ThreadedConnections(Connections):
    """A registry whose packets and activity threads wait for."""

    awaited = ThreadedAwaited
    packets: ThreadedAwaited[tuple[Address, Packet]]
    entries: ThreadedAwaited[Activity]
    kindOf = staticmethod(guarded)
    clock: Any  # the reactor; set before there is any connection

    def __init__(self, *arguments: Any) -> None:
        """@param arguments: as L{Connections}."""
        super().__init__(*arguments)
        self.lock = streamLock
        self.arrivals.arrived = self.packets.serve

    def sendAll(
        self, data: Message, to: Peers | None = None, exclude: Peers = ()
    ) -> Deferred[int]:
        """Send a message to several peers, in the reactor's thread only."""
        _forbidElsewhere("server.sendAll(data)")
        return super().sendAll(data, to, exclude)

    def add(self, connection: Connection) -> None:
        """List a connection: from now on other threads may find it."""
        connection.retrieved.owner = ReactorStreamOwner(self.clock, connection)
        super().add(connection)


class ReactorStreamOwner:
    """Passes on what a stream reports, from any thread to the reactor's."""

    def __init__(self, reactor: Any, connection: Connection) -> None:
        """@param connection: the stream's owner in the reactor's thread."""
        self._reactor = reactor
        self._connection = connection

    @property
    def address(self) -> Address:
        """The connection's, which is another one once its client is back."""
        return self._connection.address

    def packetsTaken(self, cost: int) -> None:
        """The application has taken packets."""
        self._call(self._connection.packetsTaken, cost)

    def streamFinished(self) -> None:
        """The stream has ended and its last packet was taken."""
        self._call(self._connection.streamFinished)

    def respond(self, request: Request, body: EncodedResponse) -> Any:
        """
        Send what ends a request; another thread gets a C{concurrent.futures.Future}.
        """
        respond = self._connection.respond
        if isInIOThread():
            return respond(request, body)
        return theReactorThread().submit(respond, request, body)

    def _call(self, function: Callable[..., None], *arguments: int) -> None:
        """Call a function in the reactor's thread, at once if this is it."""
        if isInIOThread():
            function(*arguments)
        else:
            self._reactor.callFromThread(function, *arguments)


class ThreadedServerFactory(AESMServerFactory):
    """A factory whose streams may be emptied from any thread."""

    makeConnections = ThreadedConnections
    connections: ThreadedConnections

    def __init__(self, **options: Any) -> None:
        """@param options: as L{AESMServerFactory}."""
        super().__init__(**options)
        self.connections.clock = self.clock

    def stop(
        self, reason: str = "", deadline: float = STOP_DEADLINE, spread: float = 0.0
    ) -> Deferred[None]:
        """Stop; threads that wait need not wait for the end."""
        for awaited in self.connections.packets, self.connections.entries:
            awaited.turns.end(
                ConnectionClosed("the server was stopped", CloseCode.NORMAL)
            )
        return super().stop(reason, deadline, spread)


class ThreadedClientService(ClientService):
    """A service whose stream may be emptied from any thread; it is started once."""

    retrieved: ThreadedStream
    kindOf = staticmethod(guarded)

    def __init__(
        self, endpoint: str, stopped: Callable[[], None], **options: Any
    ) -> None:
        """@param stopped: called once it has stopped, by itself or not."""
        super().__init__(endpoint, **options)
        self.retrieved = ThreadedStream()
        self._tellStopped = stopped

    def own(self, connection: Connection) -> None:
        """Have a connection's stream report by way of the reactor."""
        connection.retrieved.lock = streamLock  # nobody has seen the stream yet
        connection.retrieved.owner = ReactorStreamOwner(self._clock, connection)

    def stopService(self) -> Deferred[None]:
        """Stop; threads that wait need not wait for the end."""
        stopped = super().stopService()
        self.retrieved.turns.end(closedError(asOurs(cast(Exception, self._reason))))
        return stopped.addBoth(self._cbStopped)

    def stop(self, deadline: float) -> Deferred[None]:
        """Stop, in order or else at a deadline."""
        timer = self._clock.callLater(deadline, self._abort)
        return self.stopService().addBoth(untimed, timer)

    def _cbStopped(self, result: _T) -> _T:
        """Tell who wants to know that the service has stopped."""
        self._tellStopped()
        return result

    def _abort(self) -> None:
        """Abort the connection, if there is one."""
        if self._connection is not None:
            self._connection.abort()


def frozen(data: Message) -> str | bytes:
    """
    Make sure that nobody changes a message on its way to another thread.

    @raise TypeError: it is neither text nor bytes.
    """
    if isinstance(data, str | bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a message is str or bytes, not {type(data).__name__}")


def _forbidElsewhere(instead: str = "") -> None:
    """Refuse what only the reactor's thread may do to other threads."""
    if not isInIOThread():
        instead = instead or (
            "asyncio.run(server.sendTo(data, address)), or client.sendData(data); or "
            "twisted.internet.reactor.callFromThread(connection.close)"
        )
        raise RuntimeError(f"this is for the reactor's thread: in yours call {instead}")


def _forbidDeferred(instead: str) -> None:
    """Refuse a Deferred, which belongs to the reactor's thread, to another one."""
    if not isInIOThread():
        raise RuntimeError(
            f"this Deferred is for the reactor's thread: call {instead} in yours"
        )
