"""
A client that stays: L{ClientService} keeps a session with a server up, and connects
again when the connection is lost::

    service = ClientService("tcp:example.org:8765", trust=Pinned(publicKey))
    service.setServiceParent(application)        # or: service.startService()
    service.sendData("hello")                    # goes out once there is a connection
    packet = await service.retrieved.get()

The session goes on over the next connection: each message arrives once and in order,
or its sender is told that it may not have, because the server has given the session
up (L{SessionLost<aesm.errors.SessionLost>}).

The life of a service is the table in L{aesm.client.states}; which failures are worth
another attempt, and when that is, says L{aesm.client.retry}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.client.connect import Dialer, messageSettings
from aesm.client.observer import audienceOf, restoreTo
from aesm.client.pending import (
    EarlyMessages,
    MessageQueue,
    Waiters,
    tellStopped,
)
from aesm.client.retry import RetryDelays, asOurs, wordsOf
from aesm.client.states import SERVICE_TRANSITIONS, ServiceState
from aesm.client.stream import SessionStream
from aesm.core.messages.requests import encodeData
from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    SessionLost,
    SpoolError,
    closedError,
)
from aesm.messages.acknowledgements import FailedAcknowledgement
from aesm.messages.connection import Connection
from aesm.messages.deferred import Gate, ReactorDeferred
from aesm.messages.handling import handlerOf, handlingOf
from aesm.messages.owner import KindOf, itself
from aesm.messages.requests import waiting
from aesm.secure.hosts import clientEndpoint
from aesm.secure.options import reactorOr
from aesm.store.connection import DurableConnection
from aesm.store.journal import Journal
from aesm.store.restoring import Loaded, loadNow
from aesm.store.spool import spoolOpener
from aesm.store.sqlite import MAX_SIZE
from aesm.trust.files import AnyPath
from aesm.trust.policies import trustPolicy

_log = Logger(namespace="aesm.service")

_S = ServiceState


class ClientService(Service):
    """
    Keeps a session with a server up.

    A connection that is lost is made again at once, and at a moment of the server's
    choice if it says goodbye; where that fails it goes on trying, with delays that
    grow, to 15 seconds and a bit.  At a failure that will not pass by itself
    (L{isTransient<aesm.client.retry.isTransient>}) it stops and says why: in the log,
    and to all who wait.  All of it is for the reactor's thread.

    @ivar leaves: whether a stop need not wait for what the server still says, if it has
        acknowledged all.
    @ivar early: whether what waits may leave before the server has accepted, and so
        before anybody is told: only without a handler and an observer, which may have
        something to say first.
    @ivar former: the connection whose session goes on, None before there is one.
    @ivar retrieved: what came from the server, in any session, and nobody has
        taken yet.  A service that is started again has a new one.
    @cvar kindOf: as L{ConnectionOwner<aesm.messages.owner.ConnectionOwner>} has it.
    """

    leaves = True
    kindOf: KindOf = staticmethod(itself)

    def __init__(
        self,
        endpoint: str | IStreamClientEndpoint,
        *,
        reactor: IReactorTime | None = None,
        retryPolicy: Callable[[int], float] | None = None,
        trust: object = None,
        spool: AnyPath | None = None,
        spoolSync: str = "normal",
        spoolMax: int = MAX_SIZE,
        handler: object = None,
        observer: object = None,
        **options: Any,
    ) -> None:
        """
        @param endpoint: a Twisted client endpoint, or its string.
        @param reactor: the reactor; None for the one that is installed.
        @param retryPolicy: gives the seconds to wait after so many failures in a
            row; None for Twisted's C{backoffPolicy} with a ceiling of 15 seconds,
            so that a server still has the session when the network is back.  One
            that raises, or returns no finite number from 0, is logged as an error
            and replaced by that.
        @param trust: as L{connect} takes it.
        @param spool: the path of a file in which the session, what was sent and is
            not acknowledged, and packets that nobody has taken outlive the process.
            It is opened when the service starts.  None keeps them in memory.
        @param spoolSync: as L{AESMServerFactory<aesm.AESMServerFactory>} takes it.
        @param spoolMax: the same.
        @param handler: as L{connect} takes it: it is told of each session, and what
            comes is for it, not for C{retrieved}.  A coroutine function is called for
            each session; when it returns, the service closes that and stops.
        @param observer: is told how the service fares: an
            L{IClientObserver<aesm.interfaces.IClientObserver>}, or None.
        @param options: more options of L{connect}, of which files are read, and most
            checked, when it connects.  C{sendBuffer} is also the bound of what waits
            for a connection; of C{receiveBuffer}, what is unread of former connections
            leaves less for the next.
        @raise TypeError: an option is of the wrong type, or there is no such.
        @raise ValueError: an option has a value that it cannot have.
        """
        settings = messageSettings(options)
        if trust is not None:
            trustPolicy(trust)
        self._clock = reactorOr(reactor)
        if isinstance(endpoint, str):
            clientEndpoint(self._clock, endpoint)
        self._endpoint = endpoint
        self._sendBuffer = settings.sendBuffer
        self._receiveBuffer = settings.receiveBuffer
        self._options = {**options, "trust": trust}
        self._openSpool = spoolOpener(spool, spoolSync, spoolMax, self._clock)

        self._state = _S.NEW
        self._timer: IDelayedCall | None = None
        self._attempt: Deferred[Connection] | None = None
        self._connection: Connection | None = None  # with a transport under it
        self._delays = RetryDelays(retryPolicy)
        handling = handlingOf(handlerOf(handler), self._clock, ended=self._ended)
        self._audience = audienceOf(observer, handling)
        self.early = self._audience is None

        # Of one start to the next stop:
        self._dialer: Dialer | None = None  # made by the first attempt
        self.retrieved = SessionStream()
        self.former: Connection | None = None
        self._queue = MessageQueue(self._sendBuffer)
        self._early: EarlyMessages | None = None  # that no server has accepted
        self._waiters = Waiters()
        self._journal: Journal | None = None

        self._reason: Exception | None = None  # why it stops, or has stopped
        self._stopping = Gate()  # of stopService, until all is gone

    # What users call

    def sendData(self, data: str | bytes | bytearray | memoryview) -> Deferred[None]:
        """
        Send a message, or keep it until there is a connection.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: as L{Connection.sendData}.  Fails with
            L{SessionLost<aesm.errors.SessionLost>} if the server gave the session up
            before it acknowledged the message: it may or may not have arrived,
            and is not sent again.  Fails with L{ConnectionClosed} if the service
            stops first, and with L{SendBufferFull<aesm.errors.SendBufferFull>},
            before it is accepted, if more than C{sendBuffer} waits already.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        if self._reason is not None:
            return FailedAcknowledgement(closedError(asOurs(self._reason)))
        former = self.former
        # While the queue is being sent, what comes meanwhile goes to its end.
        if former is None or former.isClosing or self._queue:
            return self._queue.add(data)
        return former.sendData(data)

    def request(
        self,
        data: str | bytes | bytearray | memoryview,
        timeout: float | None = None,
    ) -> Deferred[str | bytes]:
        """
        Send a message that the server is to answer, or keep it until there is a
        connection.

        @param data: C{str} for text, bytes for binary.
        @param timeout: seconds from now; None for any time.
        @return: as L{Connection.request}, over whichever connection; fails as
            C{sendData}, too.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        former = self.former
        if not (self._reason or former is None or former.isClosing or self._queue):
            return former.requests.request(data, timeout, self._clock)
        answer, body = waiting(timeout), encodeData(b"", data)
        if self._reason is not None:
            answer.errback(closedError(asOurs(self._reason)))
        else:
            self._queue.ask(answer, body)
        return answer.limit(timeout, self._clock)

    def drain(self) -> Deferred[None]:
        """
        Wait until there is room to send.

        @return: fires once less than half of C{sendBuffer} is unacknowledged, or waits
            for a connection, at once if that is so; fails with L{ConnectionClosed} if
            the service stops, or has.  Can be cancelled.
        """
        if self._reason is not None:
            return fail(closedError(asOurs(self._reason)))
        former = self.former
        if former is None or former.isClosing or self._queue:
            if self._queue.roomy:
                return succeed(None)
            return self._queue.whenSent().addCallback(lambda nothing: self.drain())
        # If that session ends, what never left of it waits again.
        return former.drain().addErrback(
            lambda failure: failure.trap(ConnectionClosed) and self.drain()
        )

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
        return self._waiters.add(failAfterFailures)

    # IService

    def startService(self) -> None:
        """
        Begin to connect; with a spool, go on with what is in it.

        @raise SpoolError: it cannot be opened; says why.
        """
        restored: Loaded = []
        if self._openSpool is not None and not self.running:
            # First of all, since it may fail.  It does while the service is stopping,
            # which has the file open.
            journal = Journal(self._openSpool(), self._clock)
            restored = loadNow(journal, self._clock, self._sendBuffer, self.kindOf)
            self._journal = journal
        super().startService()
        before = self._move("start")
        if self._reason is not None:
            self._reason = None
            self._delays.reset()
            self.retrieved = SessionStream()
        if before in (_S.NEW, _S.STOPPED):
            self._timer = self._clock.callLater(0, self._dial)
        self._restore(restored)

    def stopService(self) -> Deferred[None]:
        """
        Stop: close the connection in order, or stop trying.  What waits to be
        sent fails, and who waits for a connection.

        With a spool the session stays in it, for the next start.

        @return: fires once the connection is gone, as L{Connection.close}; fails
            with L{SpoolError} if there is a spool that could not be written.  Where
            the service has a parent, which could do nothing about that, the log says
            so instead.
        """
        super().stopService()
        if self._reason is None:
            self._reason = ConnectionClosed("the service was stopped", CloseCode.NORMAL)
        before = self._move("stop")
        former, early = self.former, self._early
        if early is not None:
            early.follow()
            former = early.connection
        # Not what is returned: to cancel that would tell all that it is over.
        gone = self._stopping.wait()
        # Those who wait are told when it is possible to start again; those who come
        # until then belong to the next start.
        gone.addBoth(
            tellStopped,
            self._reason,
            None if self._connection is not None else former,
            self._queue,
            self._waiters,
            self.retrieved,
            self._audience,
            before not in (_S.STOPPING, _S.STOPPED),
        )
        if self.parent is not None:
            gone.addErrback(_tellNotWritten)
        stopped: Deferred[None] = ReactorDeferred()
        gone.chainDeferred(stopped)
        # The next start reads the files again, which somebody may have mended.
        self._dialer = None
        self.former, self._early, self._waiters = None, None, Waiters()
        self._queue = MessageQueue(self._sendBuffer)
        if before not in (_S.STOPPING, _S.RESTARTING):
            self._letGo()
        return stopped

    # For subclasses

    def own(self, connection: Connection) -> None:
        """What comes over a connection is about to be in C{retrieved}."""

    # SessionKeeper, for Dialer

    def makeConnection(self, *arguments: Any, **options: Any) -> Connection:
        """Make the connection of a new session, from what L{Connection} takes."""
        if self._journal is None:
            return self.kindOf(Connection)(*arguments, **options)
        return self.kindOf(DurableConnection)(self._journal, *arguments, **options)

    @property
    def unmet(self) -> Connection | None:
        """The connection of early messages, if the server may have their session."""
        return None if self._early is None else self._early.connection

    def sendEarly(self, make: Callable[[], Connection]) -> Deferred[None] | None:
        """Begin a session with what waits, if it may leave early; fires once it may."""
        journal = self._journal
        canWrite = journal is None or journal.store.failure is None
        messages = self._queue.takeEarly() if self.early and canWrite else []
        if not messages:
            return None
        self._early = EarlyMessages(messages, make())
        return None if journal is None else journal.written()

    def takeBack(self) -> None:
        """The session of early messages was never begun: they wait again."""
        early, self._early = cast(EarlyMessages, self._early), None
        self._queue.putBack(early.messages)
        if self._journal is not None:
            self._journal.forget(cast(DurableConnection, early.connection))

    def sessionLost(self, connection: Connection, reason: SessionLost) -> None:
        """The server has given a session up: what never left goes into the next."""
        self._early = None
        # First of all, so that what is sent by those whom the end is told comes behind.
        # There is room: a session keeps no more than the queue, which is empty, takes.
        connection.move(self._queue)
        connection.finish(reason)

    def detached(self, connection: Connection, reason: AESMError) -> None:
        """The transport under a connection is gone, and its session goes on."""
        if self._audience is not None:
            self._audience.detached(connection, reason)
        self._lost(connection, reason)

    # The machine

    def _move(self, event: str) -> ServiceState:
        """Go where an event leads to, and return where we were."""
        before = self._state
        self._state = SERVICE_TRANSITIONS[before, event]
        return before

    def _dial(self) -> None:
        """Make an attempt: it is time."""
        self._timer = None
        self._move("due")
        attempt = maybeDeferred(self._connect)
        if self._state is not _S.DIALLING:  # an endpoint has stopped us
            attempt.addCallbacks(Connection.abort, lambda failure: None)
            attempt.cancel()
            return
        self._attempt = attempt
        attempt.addCallbacks(self._cbAccepted, self._ebFailed)

    def _connect(self) -> Deferred[Connection]:
        """Begin to connect, with the options of this moment."""
        if self._dialer is None:
            self._dialer = Dialer(self._clock, self._endpoint, **self._options)
        unread = self.retrieved.cost
        return self._dialer.dial(
            self, receiveBuffer=max(1, self._receiveBuffer - unread)
        )

    def _cbAccepted(self, connection: Connection) -> None:
        """Use the connection: send what waits, then tell those who wait."""
        self._move("accepted")
        self._attempt = None
        self._connection = connection
        early, self._early = self._early, None
        if early is not None:
            early.follow()
        isNew = connection is not self.former
        if isNew:
            self.own(connection)
            self._adopt(connection)
        # Not the connection, which would be kept for who begins to log later.
        peer, address = connection.peer, connection.address
        _log.info("connected to {peer} at {address}", peer=peer, address=address)
        if self._audience is not None:
            self._audience.connected(connection, isNew)
        if isNew and connection is self.former:
            self.retrieved.add(connection.retrieved)
        self._sendQueue()
        if connection.isOpen:  # else a callback has closed it, or stopped us
            self._waiters.tell(connection)
        self._queue.tellSent()

    def _ebFailed(self, failure: Failure) -> None:
        """Try again later, or stop."""
        if self._attempt is None:  # we have cancelled it
            return
        self._attempt = None
        if self._early is not None:  # nobody knows whether the server has them
            self._early.follow()
        self._retry(cast(BaseException, failure.value), accepted=False)

    def _lost(self, connection: Connection, reason: AESMError) -> None:
        """A transport is gone: dial again, unless we have closed it."""
        if connection is not self._connection:
            return
        self._connection = None
        if self._state is not _S.CONNECTED:
            self._gone()
        elif self._reason is not None:  # the handler is done
            self._stop()
        else:
            self._retry(reason, accepted=True)

    def _retry(self, reason: BaseException, accepted: bool) -> None:
        """Try again later, after an attempt or what was accepted, or stop."""
        impatient = [] if accepted else self._waiters.countFailure()
        self._move("lost")
        delay = self._delays.after(reason, self._clock.seconds(), accepted)
        if self._state is not _S.WAITING or self._timer is not None:
            return  # the policy has stopped us, and maybe started again
        if delay is None:
            said = "stopped, since trying again would not help: {reason}"
            _log.error(said, reason=wordsOf(reason))
            self._reason = cast("Exception", reason)
            self._stop()
            return
        timer = self._timer = self._clock.callLater(delay, self._dial)
        if impatient:
            self._waiters.tell(Failure(reason), impatient)
        if self._timer is not timer:
            return  # one of them has stopped us: nobody is to hear of another attempt
        said = "not connected, trying again in {delay:.1f} seconds: {reason}"
        _log.warn(said, reason=wordsOf(reason), delay=delay)
        if self._audience is not None:
            self._audience.waiting(delay, reason)

    def _ended(self, connection: Connection) -> None:
        """The handler's coroutine is done: stop, once its connection is gone."""
        if self._reason is None:
            self._reason = ConnectionClosed("the handler is done", CloseCode.NORMAL)
            if connection is not self._connection:
                self._stop()

    def _stop(self) -> None:
        """Stop without having been told to."""
        self.stopService().addErrback(Failure.trap, SpoolError)  # it was logged

    def _letGo(self) -> None:
        """Stop what is under way; C{_gone} follows, now or at the connection's end."""
        connection, attempt, timer = self._connection, self._attempt, self._timer
        self._attempt = self._timer = None
        if self._journal is not None:
            self._journal.suspend()  # what ends from now on ends for this process only
        if timer is not None:
            timer.cancel()
        if attempt is not None:
            attempt.cancel()
        if connection is None:
            self._gone()
        else:
            isOver = self._openSpool is None  # else it comes back to the session
            code = CloseCode.NORMAL if isOver else CloseCode.GOING_AWAY
            connection.closeWith(code, "")

    def _gone(self) -> None:
        """Close the spool: there is no connection any more that could need it."""
        journal, self._journal = self._journal, None
        closed = succeed(None) if journal is None else journal.close()
        closed.addBoth(self._cbGone)

    def _cbGone(self, result: Any) -> None:
        """Be stopped, or start again; then tell those who stopped us."""
        self._move("gone")
        if self._state is _S.WAITING:
            self._timer = self._clock.callLater(0, self._dial)
        stopping, self._stopping = self._stopping, Gate()
        stopping.open(result)

    # Sessions

    def _restore(self, restored: Loaded) -> None:
        """Go on with what was in the spool; with some of it the session is over."""
        retrieved = self.retrieved
        for connection, over in restored:
            self.own(connection)
            if not over:
                self._adopt(connection)
        for connection, over in restored:
            retrieved.add(connection.retrieved)
            restoreTo(self._audience, connection, over)
        self._sendQueue()
        self._queue.tellSent()

    def _adopt(self, connection: Connection) -> None:
        """Go on with the session of a connection."""
        self.former = connection
        if self._audience is not None:
            self._audience.take(connection)
        connection.closed().addCallback(self._cbClosed, connection)

    def _cbClosed(self, reason: AESMError, connection: Connection) -> None:
        """A session is over, and so is the transport under it, if there was one."""
        if connection is self.former:
            self.former = None
            # An attempt that is to resume it would come back to what is over.  But if
            # the server has given it up, the attempt has succeeded with a new one.
            if self._attempt is not None and not isinstance(reason, SessionLost):
                self._attempt.cancel()
        self._lost(connection, reason)

    def _sendQueue(self) -> None:
        """Send what waits for a connection, as long as there is the same one."""
        former = self.former
        while (
            self._queue
            and former is not None
            and former is self.former
            and not former.isClosing
        ):
            self._queue.take().sendOver(former)


def _tellNotWritten(failure: Failure) -> None:
    """Say that a service has stopped, and could not write all before."""
    failure.trap(SpoolError)
    reason = failure.getErrorMessage()
    _log.error("stopped, and could not write all before: {reason}", reason=reason)
