"""
C{aesm connect}: a session joined to standard input and output, each message a line::

    client = LineClient(PLAIN)
    service = await connectOrReport(reactor, endpoint, client)
    stdio, written = openStdio(reactor)
    complete = await client.run(service, stdio)

What has to be said goes to standard error; standard output has packets only.
"""

from __future__ import annotations

import errno
import math
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.task import deferLater
from twisted.python import usage
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.client.pending import QueuedMessage
from aesm.client.service import ClientService
from aesm.commands.client import ClientCommand
from aesm.commands.command import parameter
from aesm.commands.formats import JSON, PLAIN, Form
from aesm.commands.main import observing
from aesm.commands.options import endpointReason, inOptions, isForServers
from aesm.commands.output import OutputLost, writeError
from aesm.commands.stdio import LineTooLong, Stdio, openStdio
from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    MessageTooBig,
    SendBufferFull,
)
from aesm.interfaces import IClientObserver
from aesm.messages.acknowledgements import Acknowledgement
from aesm.messages.connection import Connection
from aesm.messages.requests import Request
from aesm.secure.hosts import clientEndpoint
from aesm.trust.locations import fieldsOf

FOR_EVER = -1.0  # seconds


class ConnectOptions(ClientCommand):
    """C{aesm connect}."""

    longdesc = (
        "Sends each line of standard input as one message, text if it is UTF-8 and "
        "bytes if not, and writes each message received as one line, with the local "
        "time at which it was sent; control characters in it are shown as escapes. "
        "At the end of the input it waits until the server has everything, and ends "
        "with status 0; status 1 says that something was not sent, or that the "
        "connection ended before the input did.  With --wait it goes on receiving "
        "then, for as long as it says; with --receive it reads no input, and ends "
        "with the connection or a signal.  With --json, lines in both "
        'directions are objects: {"data": "TEXT"} or {"base64": "BYTES"}, those '
        'received with a "time" in Unix seconds.  ENDPOINT is a Twisted client '
        "endpoint, such as tcp:127.0.0.1:8765 or unix:/run/aesm.sock."
    )
    optParameters = [
        parameter(
            "wait", "Seconds to receive after the end of the input; -1: ever.", "0"
        ),
    ]
    optFlags = [
        ["json", None, "Read and write JSON, one object a line."],
        ["receive", None, "Leave the input alone: print what comes until a signal."],
    ]

    def postOptions(self) -> None:
        """Check the options."""
        super().postOptions()
        try:
            self.wait = float(self["wait"])
        except ValueError:
            self.wait = math.nan
        if self.wait != FOR_EVER and not 0 <= self.wait < math.inf:
            raise usage.UsageError("--wait: give seconds, or -1 for no end")
        if self["receive"] and self.wait:
            raise usage.UsageError("--receive and --wait: give one of them")

    def runClient(
        self, reactor: Any, options: dict[str, Any]
    ) -> Coroutine[Any, Any, int]:
        """Exchange lines until one side ends."""
        form = JSON if self["json"] else PLAIN
        return runLineClient(
            reactor,
            self.endpoint,
            form,
            receiveOnly=bool(self["receive"]),
            wait=self.wait,
            **options,
        )


async def runLineClient(
    reactor: Any,
    endpoint: str,
    form: Form,
    opening: Callable[[], Iterable[str]] = tuple,
    *,
    receiveOnly: bool = False,
    wait: float = 0.0,
    **options: Any,
) -> int:
    """
    Connect, and exchange lines over standard input and output until the input ends or
    there is no way to go on.

    @param opening: gives what to send first in each session.
    @param receiveOnly: whether to leave the input alone.
    @param wait: seconds to go on receiving after the end of the input; negative: until
        this is cancelled.
    @param options: as L{ClientService}.
    @return: the exit status: 0 if the peer has all of the input.
    """

    def waiting() -> Deferred[None]:
        """Wait for answers."""
        return Deferred() if wait < 0 else deferLater(reactor, wait)

    with observing():
        client = LineClient(form, opening, waiting)
        service = await connectOrReport(reactor, endpoint, client, **options)
        if service is None:
            return 1
        if os.isatty(0):
            how = "Ctrl-C" if receiveOnly else "Ctrl-D"
            writeError(f"connected to {endpoint}; {how} ends")
        stdio, written = openStdio(reactor, None if receiveOnly else 0)
        try:
            inputEnded = await client.run(service, stdio)
            if not (inputEnded or stdio.outputLost.called):
                client.reportFailure(str(await stopReason(service)))
        except LineTooLong as error:
            client.reportFailure(f"{error}: it is not sent, nor what follows")
        finally:
            await service.stopService()
        # Only now has each line that was still pending failed, if it has.
        client.reportUnconfirmed()
        await stdio.close()
        # Only now is it sure that the output took what it was given.
        if (lost := await written) is not None:
            client.reportFailure(str(OutputLost(lost)))
        return 1 if client.failed else 0


async def connectOrReport(
    reactor: Any, endpoint: str, observer: IClientObserver, **options: Any
) -> ClientService | None:
    """
    Connect; that the first attempt fails is the end.

    @param observer: is told of all later attempts, too.
    @param options: as L{ClientService}.
    @return: a service that is connected; None after telling the user why there is
        none.
    """
    if not checkEndpoint(reactor, endpoint):
        return None
    service: ClientService | None = None
    connected = False
    try:
        service = ClientService(endpoint, reactor=reactor, observer=observer, **options)
        service.leaves = False  # people read to the end what the server has to say
        service.startService()
        await service.whenConnected(failAfterFailures=1)
        connected = True
    except AESMError as error:
        writeError(str(error))
    except ValueError as error:
        writeError(inOptions(str(error), options))
    except (ConnectError, OSError) as error:
        writeError(f"cannot connect to {endpoint}: {_reasonFor(endpoint, error)}")
    finally:
        # Also where this was cancelled, or something else was raised.
        if service is not None and not connected:
            await service.stopService()
    return service if connected else None


def _reasonFor(endpoint: str, error: Exception) -> str:
    """Say why there is no way to a server, and what may be wrong."""
    if getattr(error, "osError", None) == errno.ECONNRESET:
        return "the server hung up; it may be full"
    reason = str(error).rstrip(".")
    if not isinstance(error, DNSLookupError):
        return f"{reason}; does the server run?"
    # What has no address need not run.  A host may have the name of an endpoint, too,
    # and then it is found.
    kind = endpoint.partition(":")[0]
    isHost = fieldsOf(endpoint)[:2] == ("tcp", endpoint.split(":"))
    return (
        f"{reason}; {kind}: is for servers only"
        if isHost and isForServers(kind)
        else reason
    )


def checkEndpoint(reactor: Any, endpoint: str) -> bool:
    """Tell whether there can be such an endpoint, and the user if not."""
    try:
        clientEndpoint(reactor, endpoint)
    except Exception as error:  # a plugin's code may parse it
        writeError(
            f"{endpoint} is no client endpoint ({endpointReason(endpoint, error)}); "
            "name one such as tcp:127.0.0.1:8765"
        )
        return False
    return True


async def stopReason(service: ClientService) -> Exception:
    """Find out why a service has stopped by itself."""
    try:
        await service.whenConnected()
    except Exception as reason:  # whatever an endpoint or a policy raises
        return reason
    raise RuntimeError("the service has not stopped")


# What became of the lines of the input
#
# The user is told which lines may not have arrived.  Keeping a Deferred for each line
# would cost more than sending it, and is not needed: acknowledgements are cumulative,
# so that of one line says that those sent before it in the same session have arrived,
# too.  Lines are therefore accounted for in runs, each by what became of its last
# line (`_track`).
#
# That holds as long as a run lies in one session.  A session can only end, and
# another begin, while we wait: so a run ends wherever we do, for room in the send
# buffer or for more input.  A message that is queued because there is no session is a
# run of its own: it goes into another session than the line before it.
#
# A run that fails because its session is over may have arrived in part: its first and
# last line are noted, and reported once the user has been told of the new session.


@implementer(IClientObserver)
class LineClient:
    """
    Sends what is read and writes what is received, and observes its service.

    @ivar failed: whether the user was told of anything that is not, or may not be,
        sent.
    """

    def __init__(
        self,
        form: Form,
        opening: Callable[[], Iterable[str]] = tuple,
        waiting: Callable[[], Deferred[None]] = lambda: succeed(None),
    ) -> None:
        """
        @param opening: gives what to send first in each session.
        @param waiting: called at the end of the input: gives what to wait for, at
            least, and cancels it.
        """
        self.failed = False
        self._form = form
        self._opening = opening
        self._waiting = waiting
        self._session: Connection | None = None
        self._isCut = False
        self._number = 0  # of the input's last line
        self._runStart = 1  # number of the present run's first line
        self._runEnd: Deferred[None] | None = None  # its last line's
        self._pending: deque[Deferred[None]] = deque()  # the last lines of past runs
        self._unconfirmed: list[int] = []  # first and last lines of failed runs

    def reportFailure(self, text: str) -> None:
        """Tell the user, and remember it for the exit status."""
        self.failed = True
        writeError(text)

    def reportUnconfirmed(self) -> None:
        """Tell the user which lines may not have arrived, if there are any."""
        if self._unconfirmed:
            first, last = min(self._unconfirmed), max(self._unconfirmed)
            if first == last:
                self.reportFailure(f"line {first} of the input may not have arrived")
            else:
                lines = f"lines {first} to {last}"
                self.reportFailure(f"of {lines} of the input some may not have arrived")
        self._unconfirmed.clear()

    async def run(self, service: ClientService, stdio: Stdio) -> bool:
        """
        Send what is read and write what is received, until the input ends and the
        peer has all of it, or until the output is gone or the service stops.

        @param service: a connected one; stopped afterwards.
        @return: whether the input has ended.
        @raise LineTooLong: a line of the input cannot be a message.
        """
        stdio.outputLost.addCallback(lambda result: _stop(service))
        sending = Deferred.fromCoroutine(self._sendLines(service, stdio))
        writing = Deferred.fromCoroutine(self._writePackets(service, stdio))
        try:
            # Sending stops the service when it is done, which ends the packets; that
            # order lets the last answers be written.
            await writing
        finally:
            sending.cancel()
        return await sending

    # IClientObserver

    def onConnected(self, connection: Connection) -> None:
        """Say that a connection is back, and what was lost if its session is not."""
        isNew = connection is not self._session
        if self._isCut:
            writeError("connected again" + (", in a new session" if isNew else ""))
        if isNew:
            self.reportUnconfirmed()
            for line in self._opening():
                connection.sendData(line)
        self._session, self._isCut = connection, False

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """Say that there is no connection, once for all attempts."""
        if self._session is not None and not self._isCut:
            self._isCut = True
            writeError(f"{str(reason).rstrip('.')}; connecting again")

    def onStopped(self, reason: Exception) -> None:
        """Say nothing: who has the service does."""

    # Parts

    async def _writePackets(self, service: ClientService, stdio: Stdio) -> None:
        """Write packets, until the service has stopped and the last one is written."""
        while True:
            try:
                packet = await service.retrieved.get()
            except ConnectionClosed:
                return
            await stdio.write(self._form.show(packet))
            if isinstance(packet, Request):
                packet.refuse("nobody answers here", CloseCode.NOT_TAKEN)

    async def _sendLines(self, service: ClientService, stdio: Stdio) -> bool:
        """Send lines, as the peer takes them; tell whether the input has ended."""
        try:
            while (lines := await stdio.readLines()) is not None:
                for line in lines:
                    await self._drain(service)
                    self._number += 1
                    await self._sendLine(service, line)
                self._track(self._number)
            waiting = self._waiting()
            try:
                await self._deliverAll(service)
                await waiting
            finally:
                waiting.cancel()
                waiting.addErrback(Failure.trap, CancelledError)
            return bool(service.running)
        except (CancelledError, ConnectionClosed):
            return False
        finally:
            _stop(service)

    async def _deliverAll(self, service: ClientService) -> None:
        """Wait until the peer has all lines."""
        former = service.former
        isCut = former is None or not former.isAttached
        # A file or a pipe is to be sent whole, however long there is no server; who
        # types Ctrl-D while there is none wants to leave.
        if not (isCut and os.isatty(0)):
            for sent in self._pending:
                await sent

    async def _drain(self, service: ClientService) -> None:
        """Wait until there is room to send, or the service stops."""
        former = service.former
        isOver = former is None or former.isClosing
        room = service.drain() if isOver else cast("Connection", former).drain()
        if not room.called:
            self._track(self._number)
        with suppress(ConnectionClosed):
            await room
            return
        # What never left in that session waits for the next one.
        with suppress(ConnectionClosed):
            await service.drain()

    async def _sendLine(self, service: ClientService, line: bytes) -> None:
        """Send a line, or say why not; raises if nothing can be sent any more."""
        try:
            message = self._form.read(line)
            if message is None:
                return
            sent = service.sendData(message)
            if isinstance(sent, Acknowledgement):
                self._runEnd = sent
            elif isinstance(sent, QueuedMessage):
                self._track(self._number - 1)
                self._runEnd = sent
                self._track(self._number)
            else:  # it has failed
                await sent
        except (ValueError, MessageTooBig, SendBufferFull) as error:
            self.reportFailure(f"line {self._number} of the input is not sent: {error}")

    def _track(self, last: int) -> None:
        """End the run of lines at this one, and note what becomes of it."""
        first, sent = self._runStart, self._runEnd
        self._runStart, self._runEnd = last + 1, None
        if sent is None:
            return
        sent.addErrback(self._ebUnconfirmed, first, last)
        while self._pending and self._pending[0].called:
            self._pending.popleft()
        self._pending.append(sent)

    def _ebUnconfirmed(self, failure: Failure, first: int, last: int) -> Failure | None:
        """Note that a run may not have arrived, unless nobody waits for that."""
        if failure.check(CancelledError):
            return failure
        if failure.check(ConnectionClosed):
            self._unconfirmed += (first, last)
        else:
            # Only a message that was queued fails otherwise: a run of its own.
            self.reportFailure(f"line {last} of the input is not sent: {failure.value}")
        return None


def _stop(service: ClientService) -> None:
    """Stop a service, and leave waiting for that to C{runLineClient}."""
    service.stopService()
