"""
The blocking face: a server and a client for programs that have no event loop,
or another one::

    server = ServerNetwork(host="127.0.0.1", port=8765)
    address, packet = server.connections.getDataOrdinal()
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
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Condition, Lock
from time import sleep
from typing import Any, Generic, Self, TypeVar, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, quoteStringArgument
from twisted.python.threadable import isInIOThread

from aesm.blocking.reactorthread import forbidWaiting, theReactorThread
from aesm.blocking.threaded import ThreadedClientService, ThreadedServerFactory
from aesm.client.stream import SessionStream
from aesm.core.messages.hello import DEFAULT_SEND_BUFFER
from aesm.errors import ConnectionClosed, SendBufferFull, closedError
from aesm.messages.address import Address
from aesm.messages.stream import ORDERLY_CODES, costOf
from aesm.server.factory import STOP_DEADLINE, Message
from aesm.server.registry import Connections
from aesm.server.service import Server

__all__ = ["ClientNetwork", "ServerNetwork"]

CONNECT_TIMEOUT = 30  # seconds for TCP alone
OPEN_TIMEOUT = 120.0  # seconds for a name's address, TCP and the handshake
SEND_TIMEOUT = 120.0  # seconds; a dead peer's heartbeat is missed before
STOP_TIMEOUT = 60.0  # seconds; a reactor that turns is done at STOP_DEADLINE
POLL_PAUSE = 50e-6  # seconds that somebody who polls leaves to the reactor

_S = TypeVar("_S", Server, ThreadedClientService)
_T = TypeVar("_T")


class _Network(Generic[_S]):
    """
    What a server and a client have in common: how they begin and end.
    """

    def __init__(self, begin: Callable[..., Any], *arguments: Any) -> None:
        """
        Begin, and wait until all is open; if that fails, is interrupted or takes
        too long, nothing is left open.

        @param begin: called in the reactor's thread, with the arguments; makes the
            service.
        """
        self._reactorThread = theReactorThread()
        self._service: _S | None = None
        self._lock = Lock()  # guards the next
        self._stopping: Future[None] | None = None
        opening = self._reactorThread.submit(begin, *arguments)
        try:
            self._reactorThread.wait(opening, OPEN_TIMEOUT)
        except BaseException:  # Ctrl-C, too
            # Calls are made in their order: this one finds what the first has
            # opened, also if that has not begun yet.
            self._reactorThread.submit(self.end, 0.0)
            raise

    def __enter__(self) -> Self:
        """
        Begin a C{with} statement.
        """
        return self

    @property
    def _running(self) -> _S:
        """
        The service, which is there once C{__init__} has returned.
        """
        return cast(_S, self._service)

    def end(self, deadline: float) -> Deferred[None]:
        """
        Close in order what is open; called in the reactor's thread.

        @param deadline: seconds after which to abort.
        @return: fires when nothing is open.
        """
        if self._service is None:
            return succeed(None)
        stopped = self._service.stop(deadline=deadline)
        return stopped.addCallback(lambda nothing: self._unregister())

    def _unregister(self) -> None:
        """
        Do not close this any more when the program ends.
        """
        self._reactorThread.unregister(self)

    def stop(self) -> None:
        """
        Close in order: send what was accepted, tell the other side, and wait for
        the end; what is left after 5 seconds is aborted.  Whoever calls it again
        waits for the same end.

        @raise RuntimeError: this is the reactor's thread.
        @raise TimeoutError: the reactor's thread is busy with something else.
        """
        if self._reactorThread.isForked:
            return  # what is open is the parent's
        forbidWaiting()
        with self._lock:
            if self._stopping is None:
                self._stopping = self._reactorThread.submit(self.end, STOP_DEADLINE)
        with suppress(ConnectionClosed):  # the reactor has stopped: all is gone
            self._reactorThread.wait(self._stopping, STOP_TIMEOUT)

    close = stop

    def __exit__(self, *reason: object) -> None:
        """
        Stop.

        @param reason: the error that ended the C{with} statement; it goes on.
        """
        self.stop()


class ServerNetwork(_Network[Server]):
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
        """
        connections = self._running.connections
        if not connections.arrivals:
            _leaveProcessor()
        return connections

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

    async def sendAll(self, data: Message, timeout: float | None = SEND_TIMEOUT) -> int:
        """
        Send a message to every peer, and wait until each has it, is away or is
        gone; for one whose connection is cut it is kept.  A peer whose send buffer
        is full is closed with code 4000.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param timeout: seconds to wait; None for ever.
        @return: how many have it.
        @raise RuntimeError: this is the reactor's thread.
        @raise TimeoutError: not all have it yet.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        having: int = await self._send(timeout, self._running.sendAll, data)
        return having

    async def _send(
        self,
        timeout: float | None,
        function: Callable[..., Deferred[Any]],
        data: Message,
        *arguments: Any,
    ) -> Any:
        """
        Send, and wait as asyncio does.

        @param function: called in the reactor's thread, with the message and the
            arguments.
        """
        forbidWaiting()
        future = self._reactorThread.submit(function, _frozen(data), *arguments)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise TimeoutError(
                f"not acknowledged within {timeout:g} seconds; it may be later"
            ) from None

    # In the reactor's thread

    def _begin(self, host: str, port: int, options: dict[str, Any]) -> None:
        """
        Listen.
        """
        reactor = self._reactorThread.reactor
        factory = ThreadedServerFactory(reactor=reactor, **options)
        endpoint = TCP4ServerEndpoint(reactor, port, interface=host)  # and IPv6
        self._service = Server(endpoint, factory=factory)
        self._service.startService()
        self._reactorThread.register(self)


class ClientNetwork(_Network[ThreadedClientService]):
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
        self._room = Condition()  # guards the next
        self._pendingCost = 0  # of what is submitted and not acknowledged
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
        """
        stream = self._running.retrieved
        if not stream:
            reason = stream.reason
            if reason is not None and reason.code not in ORDERLY_CODES:
                raise closedError(reason)
            _leaveProcessor()
        return stream

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
        @raise RuntimeError: there is no room, and this is the reactor's thread.
        @raise SendBufferFull: there was no room in time; nothing was sent.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        data = _frozen(data)
        cost = costOf(data)
        with self._room:
            if not self._fits(cost):
                forbidWaiting()
                if not self._room.wait_for(lambda: self._fits(cost), timeout):
                    raise SendBufferFull(
                        f"{self._pendingCost} of {self._sendBuffer} bytes are "
                        f"unacknowledged after {timeout:g} seconds still; nothing more "
                        "was sent"
                    )
            self._pendingCost += cost
        return self._reactorThread.submit(self._send, data, cost)

    def _fits(self, cost: int) -> bool:
        """
        Tell whether a message can be submitted, if only to be refused.

        @param cost: the message's.
        """
        pending = self._pendingCost
        return (
            # Alone, any message is submitted: if it is larger than the buffer, the
            # service says what is wrong with it.
            not pending
            or pending + cost <= self._sendBuffer
            or self._reactorThread.isOver
        )

    # In the reactor's thread

    def _begin(self, endpoint: str, options: dict[str, Any]) -> Deferred[Any]:
        """
        Connect.

        @return: fires once the server has accepted; fails if it cannot be reached
            at the first attempt.
        """
        reactorThread = self._reactorThread
        self._service = service = ThreadedClientService(
            endpoint,
            self._unregister,  # it may stop by itself
            reactor=reactorThread.reactor,
            **options,
        )
        reactorThread.register(self)
        service.startService()
        return service.whenConnected(failAfterFailures=1)

    def _send(self, data: Message, cost: int) -> Deferred[None]:
        """
        Send a message; its cost is released once the server has it.
        """
        return self._running.sendData(data).addBoth(self._release, cost)

    def _release(self, result: _T, cost: int) -> _T:
        """
        Make room for other messages, and pass on the result of this one.
        """
        with self._room:
            self._pendingCost -= cost
            self._room.notify_all()  # all: who has waited longest may not fit yet
        return result


def _checkHostAndPort(host: str, port: int) -> None:
    """
    Refuse what cannot be a host or a port.

    @raise TypeError: one of them is of the wrong type.
    @raise ValueError: one of them has a value that it cannot have.
    """
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


def _frozen(data: Message) -> str | bytes:
    """
    Make sure that nobody changes a message on its way to another thread.

    @raise TypeError: it is neither text nor bytes.
    """
    if isinstance(data, str | bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"a message is str or bytes, not {type(data).__name__}")


def _leaveProcessor() -> None:
    """
    Leave the processor to the reactor's thread for a moment, because somebody
    polls and there is nothing.
    """
    # A loop that never waits lets other threads of the interpreter in only every
    # 5 ms (sys.getswitchinterval), and each message needs several turns of both.
    if not isInIOThread():
        sleep(POLL_PAUSE)
