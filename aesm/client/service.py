"""
A client that stays: L{ClientService} keeps a session with a server up, and connects
again when the connection is lost::

    service = ClientService("tcp:example.org:8765", trust=Pinned(publicKey))
    service.setServiceParent(application)        # or: service.startService()
    service.sendData("hello")                    # goes out once there is a connection
    packet = await service.retrieved.get()

When to try again is left to Twisted's own service of that name; here is which
failures are worth it.  The session goes on over the next connection: each message
arrives once and in order, or its sender is told that it may not have, because the
server has given the session up (L{SessionLost<aesm.errors.SessionLost>}).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from twisted.application.internet import ClientService as Keeper
from twisted.application.internet import backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import (
    IProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.client.connect import dial
from aesm.client.pending import QueuedMessage
from aesm.client.retry import AcceptedEndpoint, isTransient
from aesm.client.stream import SessionStream
from aesm.core.messages.hello import ConversationSettings
from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    SendBufferFull,
    SessionLost,
    SpoolError,
    closedError,
)
from aesm.messages.acknowledgements import FailedAcknowledgement
from aesm.messages.connection import Connection
from aesm.messages.owner import ConnectionOwner
from aesm.secure.options import reactorOr
from aesm.store.connection import DurableConnection
from aesm.store.journal import Journal
from aesm.store.spool import spoolOpener
from aesm.trust.files import AnyPath
from aesm.trust.policies import trustPolicy

__all__ = ["ClientService"]

_log = Logger(namespace="aesm.service")

STABLE = 30.0  # seconds after which a connection counts as a success
LONGEST_DELAY = 15.0  # seconds; a server waits for SESSION_GRACE


class ClientService(Service):
    """
    Keeps a session with a server up.

    It goes on trying, with delays that grow, to 15 seconds and a bit, until a
    connection has lived for 30 seconds.  At a failure that will not pass by itself
    (L{isTransient<aesm.client.retry.isTransient>}) it stops and says why: in the log,
    and to all who wait.  All of it is for the reactor's thread.

    @ivar former: the connection whose session goes on, None before there is one.
    @ivar retrieved: what came from the server, in any session, and nobody has
        taken yet.  A service that is started again has a new one.
    """

    def __init__(
        self,
        endpoint: str | IStreamClientEndpoint,
        *,
        reactor: IReactorTime | None = None,
        retryPolicy: Callable[[int], float] | None = None,
        trust: object = None,
        maxMessage: int = ConversationSettings.maxMessage,
        heartbeat: float = ConversationSettings.heartbeat,
        sendBuffer: int = ConversationSettings.sendBuffer,
        receiveBuffer: int = ConversationSettings.receiveBuffer,
        spool: AnyPath | None = None,
        spoolSync: str = "normal",
        **options: Any,
    ) -> None:
        """
        @param endpoint: a Twisted client endpoint, or its string.
        @param reactor: the reactor; None for the one that is installed.
        @param retryPolicy: gives the seconds to wait after so many failures in a
            row; None for Twisted's C{backoffPolicy} with a ceiling of 15 seconds,
            so that a server still has the session when the network is back.
        @param trust: as L{connect} takes it.
        @param maxMessage: as L{ConversationSettings}.
        @param heartbeat: as L{ConversationSettings}.
        @param sendBuffer: as L{ConversationSettings}; also the bound of what
            waits for a connection.
        @param receiveBuffer: as L{ConversationSettings}; what is unread of former
            connections leaves less for the next.
        @param spool: the path of a file in which the session, what was sent and is
            not acknowledged, and packets that nobody has taken outlive the process.
            It is opened when the service starts.  None keeps them in memory.
        @param spoolSync: as L{AESMServerFactory<aesm.AESMServerFactory>} takes it.
        @param options: more options of L{connect}.  Files are read, and these
            checked, when it connects.
        @raise TypeError: an option is of the wrong type.
        @raise ValueError: an option has a value that it cannot have.
        """
        ConversationSettings(maxMessage, heartbeat, sendBuffer, receiveBuffer)
        if trust is not None:
            trustPolicy(trust)
        self._clock = reactorOr(reactor)
        if isinstance(endpoint, str):
            clientFromString(self._clock, endpoint)
        self.retrieved = SessionStream()
        self._endpoint = endpoint
        self._sendBuffer = sendBuffer
        self._receiveBuffer = receiveBuffer
        more = dict(maxMessage=maxMessage, heartbeat=heartbeat, sendBuffer=sendBuffer)
        self._options = {**options, **more, "trust": trust}
        self._policy = retryPolicy or backoffPolicy(maxDelay=LONGEST_DELAY)
        self._failures = 0  # in a row, and connections that did not last
        self._openSpool = spoolOpener(spool, spoolSync, self._clock)
        self._journal: Journal | None = None
        self.former: Connection | None = None
        self._dialling: Deferred[Connection] | None = None
        self._line: tuple[Connection, IProtocol] | None = None  # for its transport
        self._since = 0.0  # when that was there
        self._reason: Exception | None = None  # why it stopped
        self._held: deque[QueuedMessage] = deque()
        self._heldCost = 0
        self._waiting: dict[Deferred[Connection], int | None] = {}
        self._keeper = Keeper(
            AcceptedEndpoint(self),
            Factory.forProtocol(Protocol),
            retryPolicy=self._delay,
            clock=self._clock,
        )

    # What users call

    def sendData(self, data: str | bytes | bytearray | memoryview) -> Deferred[None]:
        """
        Send a message, or keep it until there is a connection.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: as L{Connection.sendData}.  Fails with
            L{SessionLost<aesm.errors.SessionLost>} if the server gave the session up
            before it acknowledged the message: it may or may not have arrived,
            and is not sent again.  Fails with L{ConnectionClosed} if the service
            stops first, and with L{SendBufferFull}, before it is accepted, if more
            than C{sendBuffer} waits already.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        if self._reason is not None:
            return FailedAcknowledgement(self._stopped())
        if self.former is not None and not self.former.isClosing:
            return self.former.sendData(data)
        if isinstance(data, bytearray | memoryview):
            data = bytes(data)
        if not isinstance(data, str | bytes):
            raise TypeError(f"a message is str or bytes, not {type(data).__name__}")
        held = QueuedMessage(data)
        if self._heldCost + held.cost > self._sendBuffer:
            return fail(
                SendBufferFull(
                    f"{self._heldCost} of {self._sendBuffer} bytes wait for a "
                    "connection already: wait for whenConnected(), or raise sendBuffer="
                )
            )
        self._held.append(held)
        self._heldCost += held.cost
        return held

    def whenConnected(
        self, failAfterFailures: int | None = None
    ) -> Deferred[Connection]:
        """
        Wait for a connection.

        @param failAfterFailures: how many attempts may fail; None for any number.
        @return: fires with the connection, at once if there is one.  Fails with
            what that attempt failed with; with the reason if the service stops,
            or has, at a failure that will not pass; with L{ConnectionClosed} if
            it was stopped.  Can be cancelled.
        """
        if self._reason is not None:
            return fail(self._reason)
        if self.former is not None and self.former.isOpen:
            return succeed(self.former)
        waiting: Deferred[Connection] = Deferred(self._cancel)
        self._waiting[waiting] = failAfterFailures
        return waiting

    # IService

    def startService(self) -> None:
        """
        Begin to connect; with a spool, go on with what is in it.

        @raise SpoolError: it cannot be opened; says why.
        """
        if self._reason is not None:
            self._reason, self._failures = None, 0
            self.retrieved = SessionStream()
        if self._openSpool is not None and self._journal is None:
            self._restore(Journal(self._openSpool(), self._clock))
        super().startService()
        self._keeper.startService()

    def stopService(self) -> Deferred[None]:
        """
        Stop: close the connection in order, or stop trying.  What waits to be
        sent fails, and who waits for a connection.

        With a spool the session stays in it, for the next start.

        @return: fires once the connection is gone, as L{Connection.close}; fails
            with L{SpoolError} if there is a spool that could not be written.
        """
        inKeeper = bool(self.running) and self._reason is not None  # by _judge
        super().stopService()
        if self._reason is None:
            self._reason = ConnectionClosed("the service was stopped", CloseCode.NORMAL)
        why, reason, retrieved = self._reason, self._cause(), self.retrieved
        held, self._held, self._heldCost = self._held, deque(), 0
        waiting, self._waiting = self._waiting, {}
        former, self.former = self.former, None
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.suspend()
        if self._line is not None:
            former = None  # it ends with its transport

        def tell(result: Any) -> Any:
            """
            Tell who waits, once it is possible to start again.

            @param result: of stopping.
            @return: the same.
            """
            if former is not None and not former.isOver:
                former.finish(reason)
            for message in held:
                message.passOn(FailedAcknowledgement(closedError(reason)))
            for deferred in waiting:
                deferred.errback(why)
            retrieved.end(closedError(reason))
            return result

        stopped = self._keeper.stopService()
        inKeeper |= not stopped.called  # when it fires
        if journal is not None:
            stopped.addCallback(lambda result: journal.close())
        return stopped.addBoth(partial(self.later, tell) if inKeeper else tell)

    # For client.dial

    def makeConnection(self, *arguments: Any, **options: Any) -> Connection:
        """
        Make the connection of a new session.

        @param arguments: as L{Connection}.
        @param options: as L{Connection}.
        @return: the connection.
        """
        if self._journal is None:
            return Connection(*arguments, **options)
        return DurableConnection(self._journal, *arguments, **options)

    # For the endpoint

    def closeLine(self, connection: Connection) -> None:
        """
        Close in order, or at the deadline: for good, unless the session is written
        down.

        @param connection: the connection.
        """
        connection.closeWith(
            CloseCode.NORMAL if self._openSpool is None else CloseCode.GOING_AWAY, ""
        )

    def dial(self) -> Deferred[Connection]:
        """
        Try once.

        @return: as L{connect}.
        """
        self._dialling = dial(
            self._clock,
            self._endpoint,
            self,
            receiveBuffer=max(1, self._receiveBuffer - self.retrieved.cost),
            **self._options,
        )
        return self._dialling

    def later(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """
        Call something when the keeper is done: it cannot be called back from within.

        @param call: what to call.
        @param arguments: with what.
        @return: fires with its result.
        """
        return deferLater(self._clock, 0, call, *arguments)

    def attached(self, connection: Connection, line: IProtocol) -> None:
        """
        There is a connection.

        @param connection: the connection, a new one or C{former}.
        @param line: what stands for its transport.
        """
        self._line = connection, line
        self._since = self._clock.seconds()
        self.later(self._connected, connection, connection is not self.former)

    def detached(self, connection: Connection, reason: AESMError) -> None:
        """
        The transport under a connection is gone: dial again.

        @param connection: whose.
        @param reason: why.
        """
        self._lineLost(connection, reason)

    def failed(self, failure: Failure) -> Failure:
        """
        An attempt failed.

        @param failure: why.
        @return: the same.
        """
        if self.running:
            self._judge(cast(BaseException, failure.value))
            self._waiting = {d: n and max(0, n - 1) for d, n in self._waiting.items()}
            self.later(self._tellFailed, failure)
        return failure

    # Parts

    def _tellFailed(self, failure: Failure) -> None:
        """
        Tell who waited for no more attempts than there were.

        @param failure: of the last one.
        """
        for deferred in [each for each, left in self._waiting.items() if left == 0]:
            if self._waiting.pop(deferred, None) is not None:
                deferred.errback(failure)

    def _cancel(self, waiting: Deferred[Connection]) -> None:
        """
        Somebody does not wait any more.

        @param waiting: who.
        """
        del self._waiting[waiting]

    def _connected(self, connection: Connection, isNew: bool) -> None:
        """
        Send what waits, then tell who waits.

        @param connection: the connection.
        @param isNew: whether it has a session of its own.
        """
        if isNew:
            self._begin(connection)
        if connection.isOver or self._reason is not None:
            return
        self.former = connection
        if not connection.isOpen:
            return
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting:
            deferred.callback(connection)

    def _begin(self, connection: Connection) -> None:
        """
        Begin to use a session: send what waits.

        @param connection: its connection.
        """
        self.retrieved.add(connection.retrieved)
        connection.closed().addCallback(self._cbClosed, connection)
        while self._held and not connection.isClosing:
            message = self._held.popleft()
            self._heldCost -= message.cost
            message.passOn(connection.sendData(message.data))

    def _restore(self, journal: Journal) -> None:
        """
        Go on with what was written down.

        @param journal: where.
        @raise SpoolError: it cannot be read; says why.
        """
        restored = DurableConnection.load(journal, ConnectionOwner(), self._sendBuffer)
        self._journal = journal
        for connection, over in restored:
            if over:
                self.retrieved.add(connection.retrieved)
                connection.finish(ConnectionClosed("it was over before a restart"))
            else:
                self._begin(connection)
                self.former = connection

    def _cbClosed(self, reason: AESMError, connection: Connection) -> None:
        """
        A session is over.

        @param reason: why.
        @param connection: whose.
        """
        wasFormer = self.former is connection
        if wasFormer:
            self.former = None
        if isinstance(reason, SessionLost):  # then there is the next one
            return
        if wasFormer and self._line is None and self._dialling is not None:
            self._dialling.cancel()  # it would come back to what is over
        self._lineLost(connection, reason)

    def _lineLost(self, connection: Connection, reason: AESMError) -> None:
        """
        There is no transport any more.

        @param connection: what was over it.
        @param reason: why.
        """
        if self._line is None or self._line[0] is not connection:
            return
        line, self._line = self._line[1], None
        if self._clock.seconds() - self._since >= STABLE:
            self._failures = 0
        if self.running:
            self._judge(reason)
        line.connectionLost(Failure(reason))

    def _judge(self, reason: BaseException) -> None:
        """
        Go on after a failure that may pass, and stop at one that will not.

        @param reason: why there is no connection.
        """
        if isTransient(reason):
            _log.warn("not connected: {reason}", reason=_words(reason))
            return
        said = "stopped, since trying again would not help: {reason}"
        _log.error(said, reason=_words(reason))
        self._reason = cast("Exception", reason)
        self.stopService().addErrback(Failure.trap, SpoolError)  # it was logged

    def _delay(self, attempt: int) -> float:
        """
        Say how long to wait before trying again.

        @param attempt: failures since there was any connection.
        @return: seconds.
        """
        self._failures += 1
        return self._policy(self._failures)

    def _stopped(self) -> ConnectionClosed:
        """
        Say to a user that the service has stopped.

        @return: an error of its own for each user.
        """
        return closedError(self._cause())

    def _cause(self) -> AESMError:
        """
        Say why the service has stopped.

        @return: the reason, in an L{AESMError} if it is none.
        """
        reason = self._reason
        return reason if isinstance(reason, AESMError) else AESMError(_words(reason))


def _words(reason: BaseException | None) -> str:
    """
    Say why, also where an error has no words of its own.

    @param reason: the error.
    """
    return str(reason) or type(reason).__name__
