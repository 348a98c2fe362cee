"""
A server for asyncio: a coroutine for each client::

    async def talk(connection):
        async for packet in connection:
            await connection.send(packet.data)

    async with serve(talk, "tcp:8765"):
        await asyncio.Event().wait()        # until Ctrl-C
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Self, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint

from aesm.aio.cluster import Cluster
from aesm.aio.loop import LoopReactor, checkEndpoint, futureOf, result, theReactor
from aesm.aio.opening import Opening
from aesm.aio.peer import Peer
from aesm.core.messages.batch import Message
from aesm.errors import CloseCode
from aesm.interfaces import IMessageHandler
from aesm.messages import connection as messages
from aesm.messages.address import Address
from aesm.messages.handling import handlerOf
from aesm.messages.stream import Watch
from aesm.server import service
from aesm.server.factory import STOP_DEADLINE
from aesm.trust.keys import PublicKey


class Connection(Peer):
    """A client, for as long as its session goes on: it may be cut, and come back."""

    def __init__(self, reactor: LoopReactor, connection: messages.Connection) -> None:
        """@param connection: Twisted's."""
        super().__init__(
            reactor, connection.retrieved, connection.sendData, connection.request
        )
        self._connection = connection
        watch = connection.retrieved.watch = Watch()
        watch.arrived = self._news.set
        connection.closed().addCallback(lambda reason: self._news.set())

    @property
    def address(self) -> Address:
        """
        Where the client is, C{(host, port)} for TCP, else a string; another one after
        it has come back from there.
        """
        return self._connection.address

    @property
    def peer(self) -> PublicKey:
        """The client's public key."""
        return self._connection.peer

    @property
    def peerName(self) -> str | None:
        """What the file of authorized keys calls it, else None."""
        return self._connection.peerName

    async def close(self, reason: str = "") -> None:
        """
        Close in order: send what was accepted, tell the client, and wait for the end,
        5 seconds at most; who is cancelled aborts it.

        @param reason: text for the client, at most 1,024 bytes in UTF-8.
        @raise TypeError: the reason is not text.
        """
        self._reactor.check()
        try:
            await futureOf(self._connection.close(reason))
        except asyncio.CancelledError:
            self._connection.abort()
            raise


Talk = Callable[[Connection], Coroutine[Any, Any, object]]
Peers = Iterable[Connection | Address]


def _theirs(peers: Peers) -> list[messages.Connection | Address]:
    """Say who is meant, as Twisted's server knows them."""
    return [
        each._connection if isinstance(each, Connection) else each for each in peers
    ]


class Server:
    """
    A server, and the coroutines of its clients.

    @ivar connections: those that a coroutine runs for.
    """

    def __init__(
        self,
        reactor: LoopReactor,
        talk: Talk,
        endpoints: tuple[str | IStreamServerEndpoint, ...],
        options: dict[str, Any],
    ) -> None:
        self._reactor = reactor
        self._talk = talk
        self._talks: dict[asyncio.Task[object], Connection] = {}
        self._isEnding = False
        self._server = service.Server(
            *endpoints, reactor=cast(Any, reactor), handler=self._handle, **options
        )

    async def __aenter__(self) -> Self:
        """Begin an C{async with} statement, which closes it."""
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Close it; an error that ended the statement goes on."""
        await self.close()

    @property
    def address(self) -> Address:
        """Where it listens, C{(host, port)} for TCP, else a string; the first place."""
        return self._server.address

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return self._server.addresses

    @property
    def publicKey(self) -> PublicKey:
        """Its own key."""
        return self._server.publicKey

    @property
    def connections(self) -> dict[Address, Connection]:
        """The clients that a coroutine runs for now, by address; a copy."""
        return {each.address: each for each in self._talks.values()}

    @property
    def cluster(self) -> Cluster:
        """
        All nodes of the cluster, as one server.

        @raise RuntimeError: sessions are not kept in an engine.
        """
        return Cluster(self._reactor, self._server.cluster)

    async def request(
        self, data: Message, address: Address, timeout: float | None = None
    ) -> str | bytes:
        """
        Send a message that one client is to answer, and wait for the answer.  Who is
        cancelled withdraws it.

        @param data: C{str} for text, bytes for binary.
        @param address: whose, as in C{connections}.
        @param timeout: seconds; None for any time.
        @return: as L{Connection.request}.
        @raise ConnectionClosed: there is no such client, or as L{Connection.request}.
        @raise AESMError: as that.
        @raise TypeError: C{data} is neither text nor bytes.
        """
        self._reactor.check()
        return await result(self._server.request(data, address, timeout))

    async def sendAll(
        self, data: Message, to: Peers | None = None, exclude: Peers = ()
    ) -> int:
        """
        Send a message to every client, or to several, and wait until each has it, is
        away or is gone; for one whose connection is cut it is kept.  A client whose
        send buffer is full is closed with code 4000.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param to: who gets it, connections or addresses; None for all.
        @param exclude: who of them does not, connections or addresses.
        @return: how many have it.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        self._reactor.check()
        chosen = None if to is None else _theirs(to)
        return await futureOf(self._server.sendAll(data, chosen, _theirs(exclude)))

    async def begin(self) -> Self:
        """Listen."""
        try:
            await result(self._server.start())
        except BaseException:
            await self.end(0.0)  # it may listen since just now
            raise
        self._reactor.open[self] = None
        return self

    async def close(self) -> None:
        """
        Close in order: cancel the coroutines, which have 5 seconds for what they still
        do; then tell the clients that are left (code 1001), send what is queued, and
        abort what is left after 5 seconds, and at once if this is cancelled.  A
        coroutine that calls this is not cancelled.

        @raise SpoolError: there is a spool that could not be written to the end.
        """
        await self.end(STOP_DEADLINE)

    async def end(self, deadline: float) -> None:
        """
        Close in order, or else at a deadline.

        @param deadline: seconds for the coroutines, and again for closing.
        """
        if self._reactor.isForked:
            return  # what is open is the parent's
        self._reactor.check()
        self._reactor.open.pop(self, None)
        self._isEnding = True
        try:
            # One that calls this goes on when it is done, whoever else ends it.
            self._talks.pop(cast(Any, asyncio.current_task()), None)
            for task in self._talks:
                task.cancel()
            if self._talks:
                await asyncio.wait(list(self._talks), timeout=deadline)
            await futureOf(self._server.stop(deadline=deadline))
        except asyncio.CancelledError:
            futureOf(self._server.stop(deadline=0.0))
            raise

    async def _handle(self, connection: messages.Connection) -> None:
        """Let the coroutine of a client run; this one is Twisted's."""
        if self._isEnding:
            connection.closeWith(CloseCode.GOING_AWAY, "going away")
            return
        peer = Connection(self._reactor, connection)
        task = self._reactor.loop.create_task(self._begin(peer))
        self._talks[task] = peer
        try:
            await Deferred.fromFuture(task)
        except asyncio.CancelledError:
            # The server ends, or the loop: that is no failure, nor the client's end.
            connection.closeWith(CloseCode.GOING_AWAY, "going away")
        finally:
            self._talks.pop(task, None)

    async def _begin(self, connection: Connection) -> object:
        """Call the application's code, so that what a call raises is caught as well."""
        # An eager task comes here before its maker has it.
        self._talks[cast(Any, asyncio.current_task())] = connection
        return await self._talk(connection)


def serve(
    talk: Talk,
    endpoint: str | IStreamServerEndpoint,
    *others: str | IStreamServerEndpoint,
    **options: Any,
) -> Opening[Server]:
    """
    Serve clients, each with a coroutine of its own; clients can connect when this has
    been awaited.

    When a coroutine returns, its connection is closed; if it raises, that is logged,
    and the connection closed with code 1011.  One whose client has left ends by itself,
    with C{async for}, or by the L{ConnectionClosed<aesm.errors.ConnectionClosed>} that
    C{get} and C{send} raise.

    @param talk: called with each L{Connection}; it is run as a task.
    @param endpoint: where to listen, such as C{"tcp:8765"}: the string of a server
        endpoint of Twisted's.
    @param others: more of them.
    @param options: as L{AESMServerFactory<aesm.server.factory.AESMServerFactory>}, but
        for C{handler}.
    @return: what to await, or to use in C{async with}.  That fails with an C{OSError}
        if it cannot listen there, with
        L{KeyFileError<aesm.errors.KeyFileError>} or L{SpoolError
        <aesm.errors.SpoolError>} if a file cannot be used, and with C{TypeError} and
        C{ValueError} if an option is wrong.
    @raise TypeError: C{talk} is no coroutine function of one argument.
    @raise ValueError: an endpoint is one of TLS, or an engine is reached by it, which
        Twisted does only with the reactor that is installed.
    """

    endpoints = (endpoint, *others)
    for each in (*endpoints, options.get("cluster")):
        checkEndpoint(each)
    if IMessageHandler.providedBy(talk) or handlerOf(talk) is None:
        raise TypeError(f"talk must be an async function, not {type(talk).__name__}")

    async def open() -> Server:
        """Listen."""
        return await Server(await theReactor(), talk, endpoints, options).begin()

    return Opening(open)
