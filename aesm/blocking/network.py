"""
The blocking face: a server and a client for programs that have no event loop,
or another one::

    server = ServerNetwork(host="127.0.0.1", port=8765)
    address, packet = server.get()
    asyncio.run(server.sendTo("hello", address))
    server.stop()

The engine is Twisted's, in a daemon thread: one for the process, started when
it is first needed, or none at all when the program runs the reactor itself.
Nothing in here knows how messages are carried: it hands calls over to the
reactor's thread (L{aesm.blocking.reactorthread}) and waits for the results.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import accumulate
from time import sleep
from typing import Any, Generic, Literal, Self, TypeVar, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, quoteStringArgument
from twisted.python.threadable import isInIOThread

from aesm.blocking.cluster import Cluster
from aesm.blocking.reactorthread import (
    forbidWaiting,
    isInterrupting,
    theReactorThread,
)
from aesm.blocking.standardlog import standardLog
from aesm.blocking.threaded import (
    ThreadedClientService,
    ThreadedConnections,
    ThreadedServerFactory,
    frozen,
)
from aesm.blocking.turns import Turns
from aesm.client.stream import SessionStream
from aesm.core.messages.batch import Message
from aesm.core.messages.hello import DEFAULT_SEND_BUFFER
from aesm.errors import ConnectionClosed, SendBufferFull, closedError
from aesm.messages.address import Address
from aesm.messages.stream import ORDERLY_CODES, Packet, costOf
from aesm.server.broadcast import Peers
from aesm.server.factory import STOP_DEADLINE
from aesm.server.registry import Activity, Connections
from aesm.server.service import Server

CONNECT_TIMEOUT = 30  # seconds for TCP alone
OPEN_TIMEOUT = 120.0  # seconds for a name's address, TCP and the handshake
SEND_TIMEOUT = 120.0  # seconds; a dead peer's heartbeat is missed before
STOP_TIMEOUT = 60.0  # seconds; a reactor that turns is done at STOP_DEADLINE
POLL_PAUSE = 50e-6  # seconds that somebody who polls leaves to the reactor

_S = TypeVar("_S", Server, ThreadedClientService)
_P = TypeVar("_P", Packet, tuple[Address, Packet])
_T = TypeVar("_T")


class _Network(Generic[_S, _P]):
    """What a server and a client have in common: how they begin, end and wait."""

    def __init__(self, begin: Callable[..., Any], *arguments: Any) -> None:
        """Have C{begin} make the service in the reactor's thread, and wait for it."""
        self._reactorThread = theReactorThread()
        self._service: _S | None = None
        self._stopping: Future[None] | None = None
        opening = self._reactorThread.submit(begin, *arguments)
        try:
            self._reactorThread.wait(opening, OPEN_TIMEOUT)
        except BaseException:  # Ctrl-C, too
            # Calls are made in their order: this one finds what the first has
            # opened, also if that has not begun yet.
            self._reactorThread.submit(self.end, 0.0)
            raise
        finally:
            standardLog.flush()  # warnings come before the program goes on

    def __enter__(self) -> Self:
        """Begin a C{with} statement."""
        return self

    @property
    def _running(self) -> _S:
        """The service, once C{__init__} has returned; a forked child has none."""
        self._reactorThread.checkProcess()
        return cast(_S, self._service)

    def _ask(
        self, request: Callable[..., Deferred[Any]], *arguments: Any
    ) -> Future[str | bytes]:
        """Send a request from the reactor's thread; cancelling cancels it."""
        asked: list[Deferred[Any]] = []

        def ask() -> Deferred[Any]:
            """Ask, in the reactor's thread."""
            asked.append(request(*arguments))
            return asked[0]

        def done(future: Future[Any]) -> None:
            """Cancel the request if nobody waits any more, whatever the thread."""
            if future.cancelled() and not self._reactorThread.isOver:
                self._reactorThread.submit(cancel)

        def cancel() -> None:
            """Cancel the request, in the reactor's thread."""
            for each in asked:
                each.cancel()

        answer: Future[str | bytes] = self._reactorThread.submit(ask)
        answer.add_done_callback(done)
        return answer

    def get(self, timeout: float | None = None) -> _P:
        """
        Take the oldest packet, once there is one.  Threads that wait get theirs in the
        order in which they came.

        @param timeout: seconds to wait; None for ever.
        @return: the packet; a server's with whose it is, C{(address, packet)}.
        @raise ConnectionClosed: all is taken, and nothing more will come: we are
            stopped (C{code} 1000), or a failure that will not pass has ended the
            session; says why.
        @raise RuntimeError: this is the reactor's thread, or a forked child.
        @raise TimeoutError: none came in time; nothing was taken.
        """
        raise NotImplementedError

    def packets(self) -> Iterator[_P]:
        """
        Take packets as they come, as C{get()}, until we are stopped; any other end is
        raised.

        @raise ConnectionClosed: as C{get}, but for an end in order.
        @raise RuntimeError: as C{get}.
        """
        while True:
            try:
                packet = self.get()
            except ConnectionClosed as reason:
                if reason.code in ORDERLY_CODES:
                    return
                raise
            yield packet

    def end(self, deadline: float) -> Deferred[None]:
        """Close in order, in the reactor's thread, and abort after so many seconds."""
        if self._service is None:
            return succeed(None)
        stopped = self._service.stop(deadline=deadline)
        return stopped.addCallback(lambda nothing: self._unregister())

    def _unregister(self) -> None:
        """Do not close this any more when the program ends."""
        self._reactorThread.unregister(self)

    def stop(self) -> None:
        """
        Close in order: send what was accepted, tell the other side, and wait for
        the end; what is left after 5 seconds is aborted.  Whoever calls it again
        waits for the same end.  A signal handler that has interrupted who takes a
        packet does not wait: the end comes when it has returned.

        @raise RuntimeError: this is the reactor's thread.
        @raise TimeoutError: the reactor's thread is busy with something else.
        """
        if self._reactorThread.isForked:
            return  # what is open is the parent's
        isWaiting = not isInterrupting()
        if isWaiting:
            forbidWaiting()
        # No lock: a signal handler may call this while the thread that it interrupts
        # does.  Two that come at once both ask for the end, which is the same.
        stopping = self._stopping
        if stopping is None:
            stopping = self._reactorThread.submit(self.end, STOP_DEADLINE)
            self._stopping = stopping
        if not isWaiting:
            return
        with suppress(ConnectionClosed):  # the reactor has stopped: all is gone
            self._reactorThread.wait(stopping, STOP_TIMEOUT)

    close = stop

    def __exit__(self, *reason: object) -> None:
        """Stop; the error that ended the C{with} statement goes on."""
        self.stop()


class ServerNetwork(_Network[Server, tuple[Address, Packet]]):
    """
    A server.  C{with ServerNetwork(...) as server:} stops it at the end.

    @ivar address: where it listens, C{(host, port)}.
    @ivar publicKey: its own key.
    """

    def __init__(self, host: str, port: int, **options: Any) -> None:
        """
        Listen; clients can connect when this returns.

        @param host: an address, IPv4 or IPv6; a name, of which the first IPv4
            address counts, or else the first IPv6 one; C{""} for all of IPv4.
        @param port: 0 to take a free one.
        @param options: as L{AESMServerFactory<aesm.server.factory.AESMServerFactory>};
            handlers and policies are called in the reactor's thread.
        @raise KeyFileError: a file cannot be used; says why.
        @raise OSError: it cannot listen there.
        @raise RuntimeError: this is the reactor's thread, or it has stopped.
        @raise SpoolError: what is stored cannot be read, or the engine be reached.
        @raise TypeError: an option is of the wrong type, or there is no such.
        @raise ValueError: an option has a value that it cannot have.
        """
        _checkHostAndPort(host, port)
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        first = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        super().__init__(self._begin, first[4][0], port, options)
        self.address = cast(tuple[str, int], self._running.address)
        self.publicKey = self._running.publicKey

    @property
    def connections(self) -> Connections:
        """
        Who is connected, and the activity log.  Look and take in any thread; what
        is Twisted's (C{get()}, C{async for}, and a connection's own methods)
        belongs to the reactor's thread.

        @raise RuntimeError: this is a forked child.
        """
        connections = self._running.connections
        if not connections.arrivals:
            _leaveProcessor()
        return connections

    @property
    def cluster(self) -> Cluster:
        """
        All nodes of the cluster, as one server.

        @raise RuntimeError: sessions are not kept in an engine, or this is a forked
            child.
        """
        return Cluster(self._reactorThread, self._running.cluster)

    def get(self, timeout: float | None = None) -> tuple[Address, Packet]:
        """Take the oldest packet of all connections, once there is one."""
        forbidWaiting("connections.get()")
        return self._threaded.packets.take(timeout)

    def waitForActivity(self, timeout: float | None = None) -> Activity:
        """
        Take the oldest entry of the activity log, once there is one.

        @param timeout: seconds to wait; None for ever.
        @raise ConnectionClosed: all are taken, and the server is stopped.  What happens
            after that, C{connections.activity()} has.
        @raise RuntimeError: this is the reactor's thread, or a forked child.
        @raise TimeoutError: nothing happened in time; nothing was taken.
        """
        forbidWaiting("connections.waitForActivity()")
        return self._threaded.entries.take(timeout)

    @property
    def _threaded(self) -> ThreadedConnections:
        """The connections, for threads that wait."""
        return cast(ThreadedConnections, self._running.connections)

    async def sendTo(
        self, data: Message, address: Address, timeout: float | None = SEND_TIMEOUT
    ) -> None:
        """
        Send a message to one peer, and wait until that peer has it.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param address: whose, as in C{connections}.
        @param timeout: seconds to wait; None for ever.
        @raise ConnectionClosed: there is no such connection, or the peer may not
            have the message.
        @raise PeerAway: the peer's connection is cut; the message is kept for it.
        @raise MessageTooBig: it is larger than the peer takes.
        @raise RuntimeError: this is the reactor's thread.
        @raise SendBufferFull: too much is unacknowledged.
        @raise TimeoutError: the peer does not have it yet.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        await self._send(timeout, self._running.sendTo, data, address)

    def request(
        self, data: Message, address: Address, timeout: float | None = None
    ) -> Future[str | bytes]:
        """
        Send a message that one peer is to answer.

        @param data: C{str} for text, bytes for binary.
        @param address: whose, as in C{connections}.
        @param timeout: seconds; None to wait for as long as the session lasts.
        @return: done with the answer, as L{Server.request}.  Cancelling it tells the
            peer that nobody waits any more.
        @raise RuntimeError: this is a forked child.
        @raise TypeError: C{data} is neither text nor bytes.
        """
        return self._ask(self._running.request, frozen(data), address, timeout)

    async def sendAll(
        self,
        data: Message,
        timeout: float | None = SEND_TIMEOUT,
        *,
        to: Peers | None = None,
        exclude: Peers = (),
    ) -> int:
        """
        Send a message to every peer, or to several, and wait until each has it, is away
        or is gone; for one whose connection is cut it is kept.  A peer whose send
        buffer is full is closed with code 4000.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param timeout: seconds to wait; None for ever.
        @param to: who gets it, connections or addresses; None for all.
        @param exclude: who of them does not, connections or addresses.
        @return: how many have it.
        @raise RuntimeError: this is the reactor's thread.
        @raise TimeoutError: not all have it yet.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        having: int = await self._send(
            timeout, self._running.sendAll, data, to, exclude
        )
        return having

    async def _send(
        self,
        timeout: float | None,
        function: Callable[..., Deferred[Any]],
        data: Message,
        *arguments: Any,
    ) -> Any:
        """Send with a function of the reactor's thread, and wait as asyncio does."""
        forbidWaiting()
        future = self._reactorThread.submit(function, frozen(data), *arguments)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise TimeoutError(
                f"not acknowledged within {timeout:g} seconds; it may be later"
            ) from None

    # In the reactor's thread

    def _begin(self, host: str, port: int, options: dict[str, Any]) -> Deferred[Server]:
        """Listen: fires once clients can be let in."""
        reactor = self._reactorThread.reactor
        factory = ThreadedServerFactory(reactor=reactor, **options)
        endpoint = TCP4ServerEndpoint(reactor, port, interface=host)  # and IPv6
        self._service = Server(endpoint, factory=factory)
        self._reactorThread.register(self)
        return self._service.start()


class ClientNetwork(_Network[ThreadedClientService, Packet]):
    """
    A client.  C{with ClientNetwork(...) as client:} closes it at the end.

    When its connection is cut, it makes another one, over which its session goes
    on, until it is stopped or there is a failure that will not pass
    (L{isTransient<aesm.client.retry.isTransient>}).
    """

    def __init__(self, host: str, port: int, **options: Any) -> None:
        """
        Connect; the server has accepted when this returns.

        @param host: an address, IPv4 or IPv6, or a name that has an IPv4 address.
        @param port: the server's.
        @param options: as L{ClientService<aesm.client.service.ClientService>}; policies
            are asked in the reactor's thread.
        @raise AESMError: the server cannot be trusted, does not let us in or
            speaks another protocol; the class and the text say what it is.
        @raise ConnectionRefusedError: nothing listens there.
        @raise OSError: it cannot be reached, or the name has no address.
        @raise RuntimeError: this is the reactor's thread, or it has stopped.
        @raise TimeoutError: no answer.
        @raise TypeError: an option is of the wrong type, or there is no such.
        @raise ValueError: an option has a value that it cannot have.
        """
        self._sendBuffer: int = options.get("sendBuffer", DEFAULT_SEND_BUFFER)
        self._pendingCost = _Sum()  # of what is submitted and not acknowledged
        self._room = Turns()
        _checkHostAndPort(host, port)
        endpoint = f"tcp:{quoteStringArgument(host)}:{port}:timeout={CONNECT_TIMEOUT}"
        super().__init__(self._begin, endpoint, options)

    @property
    def retrieved(self) -> SessionStream:
        """
        What came from the server, over whichever connection, and nobody has taken
        yet.  Look and take in any thread; C{get()} and C{async for} belong to the
        reactor's thread.

        @raise ConnectionClosed: all is taken, and a failure that will not pass has
            ended the session; says why.
        @raise RuntimeError: this is a forked child.
        """
        stream = self._running.retrieved
        if not stream:
            reason = stream.reason
            if reason is not None and reason.code not in ORDERLY_CODES:
                raise closedError(reason)
            _leaveProcessor()
        return stream

    def get(self, timeout: float | None = None) -> Packet:
        """Take the oldest packet, once there is one, over whichever connection."""
        forbidWaiting("await retrieved.get()")
        return self._running.retrieved.take(timeout)

    def sendData(
        self, data: Message, timeout: float | None = SEND_TIMEOUT
    ) -> Future[None]:
        """
        Send a message.  This waits only while C{sendBuffer} is full.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param timeout: seconds to wait for room; None for ever.
        @return: done once the server has it, over whichever connection.
            Cancelling it stops the waiting, not the message.  Fails with
            L{SessionLost<aesm.errors.SessionLost>} if the server gave the session
            up, and with L{ConnectionClosed} if we are stopped or a failure that
            will not pass, which it names, has ended the session: the server may
            not have it.  Fails with L{MessageTooBig<aesm.errors.MessageTooBig>}
            if it is larger than the server takes.
        @raise RuntimeError: there is no room, and this is the reactor's thread; or
            this is a forked child.
        @raise SendBufferFull: there was no room in time; nothing was sent.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        data = frozen(data)
        cost = costOf(data)
        self._makeRoom(cost, timeout)
        return self._reactorThread.submit(self._send, data, cost)

    def request(
        self, data: Message, timeout: float | None = None
    ) -> Future[str | bytes]:
        """
        Send a message that the server is to answer.  This waits only while
        C{sendBuffer} is full, of what is not acknowledged or not answered.

        @param data: C{str} for text, bytes for binary.
        @param timeout: seconds; None to wait for as long as the session lasts.
        @return: done with the answer, C{str} or bytes, over whichever connection.
            Cancelling it tells the server that nobody waits any more.  Fails with
            L{RequestFailed<aesm.errors.RequestFailed>} if the server refuses, with
            L{RequestTimeout<aesm.messages.requests.RequestTimeout>}, which is a
            C{TimeoutError}, and as C{sendData}.
        @raise RuntimeError: there is no room, and this is the reactor's thread; or
            this is a forked child.
        @raise SendBufferFull: there was no room in time; nothing was sent.
        @raise TypeError: C{data} is neither text nor bytes.
        """
        data = frozen(data)
        self._makeRoom(costOf(data), SEND_TIMEOUT if timeout is None else timeout)
        return self._ask(self._request, data, timeout)

    # No lock guards the room: a signal handler that sends or stops, while the main
    # thread is in here, would wait for itself, or the reactor's thread for both.

    def _makeRoom(self, cost: int, timeout: float | None) -> None:
        """Take room for a message; wait for it if need be, as C{sendData}."""
        self._reactorThread.checkProcess()
        if not self._reserve(cost):
            forbidWaiting()
            self._waitForRoom(cost, timeout)

    def _reserve(self, cost: int) -> bool:
        """Take room for a message, if there is any."""
        # Added first and compared then, so that no two take the same room.
        if self._isBounded(self._pendingCost.add(cost), cost):
            return True
        self._release(None, cost)
        return False

    def _isBounded(self, pending: int, cost: int) -> bool:
        """Tell whether a message can be submitted, if only to be refused."""
        # Alone, any message is submitted: if it is larger than the buffer, the service
        # says what is wrong with it.
        return pending <= max(self._sendBuffer, cost) or self._reactorThread.isOver

    def _waitForRoom(self, cost: int, timeout: float | None) -> None:
        """Wait until there is room for a message, and take it."""
        try:
            self._room.take(lambda: self._tryAgain(cost), timeout)
        except TimeoutError:
            raise SendBufferFull(
                f"{self._pendingCost.add(0)} of {self._sendBuffer} bytes are "
                f"unacknowledged after {timeout:g} seconds still; nothing more was sent"
            ) from None

    def _tryAgain(self, cost: int) -> Literal[True] | None:
        """Take room for a message; None if there is none."""
        # Compared first: to add what does not fit, and take it off, wakes who waits.
        pending = self._pendingCost.add(0) + cost
        return True if self._isBounded(pending, cost) and self._reserve(cost) else None

    def _release(self, result: _T, cost: int) -> _T:
        """Make room for other messages, and pass on the result of this one."""
        self._pendingCost.add(-cost)
        self._room.wake()
        return result

    # In the reactor's thread

    def _begin(self, endpoint: str, options: dict[str, Any]) -> Deferred[Any]:
        """Connect; fails if the server cannot be reached at the first attempt."""
        reactorThread = self._reactorThread
        self._service = service = ThreadedClientService(
            endpoint,
            self._unregister,  # it may stop by itself
            reactor=reactorThread.reactor,
            **options,
        )
        reactorThread.register(self)
        service.startService()
        connected: Deferred[Any] = service.whenConnected(failAfterFailures=1)
        # At once: else the log would say that it tries again.
        return connected.addErrback(
            lambda failure: self.end(0.0).addBoth(lambda result: failure)
        )

    def _send(self, data: Message, cost: int) -> Deferred[None]:
        """Send a message; its cost is released once the server has it."""
        return self._running.sendData(data).addBoth(self._release, cost)

    def _request(self, data: Message, timeout: float | None) -> Deferred[Any]:
        """Send a request; its cost is released once it is answered."""
        cost = costOf(cast("str | bytes", data))
        try:
            answer = self._running.request(data, timeout)
        except Exception:  # the timeout is none
            self._release(None, cost)
            raise
        return answer.addBoth(self._release, cost)


class _Sum:
    """A sum to which threads, and what interrupts them, add without a lock."""

    def __init__(self) -> None:
        # C{+=} is a load and a store, between which another addition would be lost.
        # Here both steps are single calls into C, which nothing interrupts.  The last
        # amount is taken first, so that a signal handler adds its own.
        self._amounts: deque[int] = deque()
        self._sums = accumulate(iter(self._amounts.pop, None))

    def add(self, amount: int) -> int:
        """Add, and return the sum with it."""
        self._amounts.append(amount)
        return next(self._sums)


def _checkHostAndPort(host: str, port: int) -> None:
    """Refuse what cannot be a host or a port, with C{TypeError} or C{ValueError}."""
    if not isinstance(host, str):
        raise TypeError(f"host must be str, not {type(host).__name__}")
    if not isinstance(port, int):
        raise TypeError(f"port must be int, not {type(port).__name__}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be 0 to 65535, not {port}")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"{host!r} cannot be the name of a host") from None


def _leaveProcessor() -> None:
    """Leave the processor to the reactor's thread: somebody polls in vain."""
    # A loop that never waits lets other threads of the interpreter in only every
    # 5 ms (sys.getswitchinterval), and each message needs several turns of both.
    if not isInIOThread():
        sleep(POLL_PAUSE)
