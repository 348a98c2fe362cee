"""
A client for asyncio::

    async with connect("tcp:127.0.0.1:8765") as client:
        await client.send("hello")
        packet = await client.get()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self, Unpack, cast

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from aesm.aio.loop import LoopReactor, checkEndpoint, futureOf, result, theReactor
from aesm.aio.opening import Opening
from aesm.aio.peer import Peer
from aesm.client.connect import ConnectOptions
from aesm.client.service import ClientService
from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.messages.connection import Connection
from aesm.server.factory import STOP_DEADLINE
from aesm.trust.files import AnyPath


class ClientOptions(ConnectOptions, total=False):
    """
    The options of a client that comes back.

    @ivar retryPolicy: gives the seconds to wait after so many failures in a row.
    @ivar spool: the path of a file in which the session outlives the process.
    @ivar spoolSync: C{"normal"} or C{"full"}.
    @ivar spoolMax: bytes that the spool may have.
    """

    retryPolicy: Callable[[int], float] | None
    spool: AnyPath | None
    spoolSync: str
    spoolMax: int


class _Service(ClientService):
    """A service that stops when the server is done with the session."""

    def own(self, connection: Connection) -> None:
        """What comes over a connection is about to be in C{retrieved}."""
        connection.closed().addCallback(self._cbSessionOver)

    def abort(self) -> None:
        """Abort the connection, if there is one."""
        if self._connection is not None:
            self._connection.abort()

    def _cbSessionOver(self, reason: AESMError) -> None:
        """Stop if the server wants no more of this client: else it would begin anew."""
        if (
            isinstance(reason, ConnectionClosed)
            and reason.code in (CloseCode.NORMAL, CloseCode.UNREAD)
            and self._reason is None
        ):
            self._reason = reason


class Client(Peer):
    """
    A client.  When its connection is cut, it makes another one, over which its session
    goes on, until either side closes it or there is a failure that will not pass
    (L{isTransient<aesm.client.retry.isTransient>}).
    """

    def __init__(self, reactor: LoopReactor, service: _Service) -> None:
        """@param service: keeps the session; not started yet."""
        super().__init__(reactor, service.retrieved, service.sendData, service.request)
        self._service = service
        service.retrieved.arrived = self._arrived

    async def __aenter__(self) -> Self:
        """Begin an C{async with} statement, which closes it."""
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Close it; an error that ended the statement goes on."""
        await self.close()

    async def begin(self) -> Self:
        """Connect."""
        self._service.startService()
        self._reactor.open[self] = None
        connected = self._service.whenConnected(failAfterFailures=1)
        # At once: else the log would say that it tries again.
        connected.addErrback(self._giveUp)
        try:
            await result(connected)
        except BaseException:
            await self.end(0.0)
            raise
        return self

    async def close(self) -> None:
        """
        Close in order: send what was accepted, tell the server, and wait for the end;
        what is left after 5 seconds is aborted, and at once if this is cancelled.

        @raise SpoolError: there is a spool that could not be written to the end.
        """
        await self.end(STOP_DEADLINE)

    async def end(self, deadline: float) -> None:
        """
        Close in order, or else at a deadline.

        @param deadline: seconds after which to abort.
        """
        if self._reactor.isForked:
            return  # what is open is the parent's
        self._reactor.check()
        stopped = futureOf(self._service.stopService())
        try:
            await asyncio.wait([stopped], timeout=deadline)
        finally:
            self._service.abort()
        await stopped

    def _giveUp(self, failure: Failure) -> Failure:
        """Make no other attempt, and pass on why."""
        futureOf(self._service.stopService())
        return failure

    def _arrived(self) -> None:
        """There is something to take, or the end."""
        self._news.set()
        if self._stream.reason is not None:
            self._reactor.open.pop(self, None)


def connect(
    endpoint: str | IStreamClientEndpoint, **options: Unpack[ClientOptions]
) -> Opening[Client]:
    """
    Connect to a server; the server has accepted when that has been awaited.

    @param endpoint: where to, as C{"tcp:127.0.0.1:8765"}: a host, with or without
        a port, or a Twisted client endpoint's string.
    @param options: C{name}, C{key}, C{psk} and C{suites}, as
        L{ChannelOptions<aesm.secure.options.ChannelOptions>}; C{maxMessage},
        C{heartbeat}, C{sendBuffer} and C{receiveBuffer}, as
        L{MessageOptions<aesm.core.messages.hello.MessageOptions>}; C{trust} and
        C{handshakeTimeout}, as
        L{ConnectOptions<aesm.client.connect.ConnectOptions>}; and those of
        L{ClientOptions}.
    @return: what to await, or to use in C{async with}.  That fails as the first attempt
        does: with an C{OSError}, or with the L{AESMError<aesm.errors.AESMError>} that
        says why not; with C{TypeError} and C{ValueError} if an option is wrong.
    @raise ValueError: the endpoint is one of TLS, which Twisted does only with the
        reactor that is installed.
    """

    checkEndpoint(endpoint)

    async def open() -> Client:
        """Connect."""
        reactor = await theReactor()
        # A handler would be Twisted's; that nobody gives one, is said as of any option.
        service = _Service(
            endpoint, reactor=cast(Any, reactor), handler=None, **options
        )
        return await Client(reactor, service).begin()

    return Opening(open)
