"""
C{aesm connect}: a session joined to a console, each message a line::

    talk = Talk(PLAIN)
    service = await connectOrComplain(reactor, endpoint, talk)
    complete = await talk.run(service, console)

What has to be said goes to standard error; standard output has packets only.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from aesm.client.observer import WatchedService, Watcher
from aesm.client.pending import QueuedMessage
from aesm.client.service import ClientService
from aesm.commands.formats import Form
from aesm.commands.main import complain
from aesm.commands.stdio import Console, LineTooLong, openConsole
from aesm.errors import AESMError, ConnectionClosed, MessageTooBig, SendBufferFull
from aesm.messages.acknowledgements import Acknowledgement
from aesm.messages.connection import Connection

__all__ = ["Talk", "connectOrComplain", "isEndpoint", "runTalk"]


async def runTalk(
    reactor: Any,
    endpoint: str,
    form: Form,
    opening: Callable[[], Iterable[str]] = tuple,
    **options: Any,
) -> int:
    """
    Connect, and talk over standard input and output until the input ends or there is
    no way to go on.

    @param reactor: runs.
    @param endpoint: a client endpoint's string.
    @param form: how messages are written.
    @param opening: gives what to send first in each session.
    @param options: as L{ClientService}.
    @return: the exit status: 0 if the peer has all of the input.
    """
    talk = Talk(form, opening)
    service = await connectOrComplain(reactor, endpoint, talk, **options)
    if service is None:
        return 1
    if os.isatty(0):
        complain(f"connected to {endpoint}; Ctrl-D ends")
    console = openConsole(reactor)
    try:
        inputEnded = await talk.run(service, console)
        if console.outputLost.called:
            talk.say("standard output is closed")
        elif not inputEnded:
            talk.say(str(await whyStopped(service)))
    except LineTooLong as error:
        talk.say(f"{error}: it is not sent, nor what follows")
    finally:
        await service.stopService()
    talk.sayUnsure()
    await console.close()
    return 1 if talk.complained else 0


async def connectOrComplain(
    reactor: Any, endpoint: str, watcher: Watcher, **options: Any
) -> ClientService | None:
    """
    Connect; that the first attempt fails is the end.

    @param reactor: runs.
    @param endpoint: a client endpoint's string.
    @param watcher: who is told of all later attempts, too.
    @param options: as L{ClientService}.
    @return: a service that is connected; None after telling the user why there is
        none.
    """
    if not isEndpoint(reactor, endpoint):
        return None
    service: WatchedService | None = None
    connected = False
    try:
        service = WatchedService(endpoint, watcher, reactor=reactor, **options)
        service.startService()
        await service.whenConnected(failAfterFailures=1)
        connected = True
    except (AESMError, ValueError) as error:
        complain(str(error))
    except (ConnectError, OSError) as error:
        reason = str(error).rstrip(".")
        complain(f"cannot connect to {endpoint}: {reason}; does the server run?")
    finally:
        if service is not None and not connected:
            await service.stopService()
    return service if connected else None


def isEndpoint(reactor: Any, endpoint: str) -> bool:
    """
    Tell whether there can be such an endpoint, and the user if not.

    @param reactor: runs.
    @param endpoint: a client endpoint's string.
    """
    try:
        clientFromString(reactor, endpoint)
    except Exception as error:  # a plugin's code may parse it
        complain(
            f"{endpoint} is no client endpoint ({error}); name one such as "
            "tcp:127.0.0.1:8765"
        )
        return False
    return True


async def whyStopped(service: ClientService) -> Exception:
    """
    Ask why a service has stopped.

    @param service: which.
    @return: the reason.
    """
    try:
        await service.whenConnected()
    except Exception as reason:  # whatever an endpoint or a policy raises
        return reason
    raise RuntimeError("the service has not stopped")


class Talk:
    """
    Sends what is read and writes what is received: a L{Watcher} of its service.

    @ivar complained: whether something was said about what is not, or may not be,
        sent.
    """

    def __init__(
        self, form: Form, opening: Callable[[], Iterable[str]] = tuple
    ) -> None:
        """
        @param form: how messages are written.
        @param opening: gives what to send first in each session.
        """
        self.complained = False
        self._form = form
        self._opening = opening
        self._session: Connection | None = None
        self._isCut = False
        self._number = 0  # of the input's last line
        self._first = 1  # line that is not watched
        self._last: Deferred[None] | None = None  # of the lines that are not watched
        self._watched: deque[Deferred[None]] = deque()
        self._unsure: list[int] = []  # lines that begin and end what may be lost

    def say(self, text: str) -> None:
        """
        Complain, and remember it.

        @param text: about what.
        """
        self.complained = True
        complain(text)

    def sayUnsure(self) -> None:
        """
        Complain about lines that may not have arrived, if there are any.
        """
        if self._unsure:
            first, last = min(self._unsure), max(self._unsure)
            if first == last:
                self.say(f"line {first} of the input may not have arrived")
            else:
                lines = f"lines {first} to {last}"
                self.say(f"of {lines} of the input some may not have arrived")
        self._unsure.clear()

    async def run(self, service: ClientService, console: Console) -> bool:
        """
        Send what is read and write what is received, until the input ends and the
        peer has all of it, or until the output is gone or the service stops.  The
        end of the input waits for the peer, but not for a connection.

        @param service: a connected one; stopped afterwards.
        @param console: where to read and write.
        @return: whether the input has ended.
        @raise LineTooLong: a line of the input cannot be a message.
        """
        console.outputLost.addCallback(_stop, service)
        sending = Deferred.fromCoroutine(self._sendLines(service, console))
        writing = Deferred.fromCoroutine(self._writePackets(service, console))
        try:
            await writing
        finally:
            sending.cancel()
        return await sending

    # Watcher

    def connecting(self) -> None:
        """
        Say nothing of attempts.
        """

    def connected(self, connection: Connection) -> None:
        """
        Say that a connection is back, and what was lost if its session is not.

        @param connection: the connection.
        """
        isNew = connection is not self._session
        if self._isCut:
            complain("connected again" + (", in a new session" if isNew else ""))
        if isNew:
            self.sayUnsure()
            for line in self._opening():
                connection.sendData(line)
        self._session, self._isCut = connection, False

    def waiting(self, reason: BaseException, delay: float) -> None:
        """
        Say that there is no connection, once.

        @param reason: why.
        @param delay: until the next attempt, seconds.
        """
        if self._session is not None and not self._isCut:
            self._isCut = True
            complain(f"{str(reason).rstrip('.')}; connecting again")

    # Parts

    async def _writePackets(self, service: ClientService, console: Console) -> None:
        """
        Write packets, until the service has stopped and the last one is written.

        @param service: where they come from.
        @param console: where to write.
        """
        while True:
            try:
                packet = await service.retrieved.get()
            except ConnectionClosed:
                return
            await console.write(self._form.show(packet))

    async def _sendLines(self, service: ClientService, console: Console) -> bool:
        """
        Send lines, as the peer takes them, wait until it has them, and stop.

        @param service: where to.
        @param console: where to read.
        @return: whether the input has ended.
        @raise LineTooLong: a line cannot be a message.
        """
        try:
            while (lines := await console.readLines()) is not None:
                for line in lines:
                    await self._makeRoom(service)
                    self._number += 1
                    await self._sendLine(service, line)
                self._watch(self._number)
            former = service.former
            isCut = former is None or not former.isAttached
            if not (isCut and os.isatty(0)):  # who waits at a terminal wants it to end
                for sent in self._watched:
                    await sent
            return bool(service.running)
        except (CancelledError, ConnectionClosed):
            return False
        finally:
            service.stopService()

    async def _makeRoom(self, service: ClientService) -> None:
        """
        Wait until there is room to send, or a connection is over: then there is.

        @param service: where to.
        """
        former = service.former
        if former is None or former.isClosing:
            return
        room = former.drain()
        if not room.called:
            self._watch(self._number)  # what follows may go into another session
        with suppress(ConnectionClosed):
            await room

    async def _sendLine(self, service: ClientService, line: bytes) -> None:
        """
        Send a line, or complain about it.

        @param service: where to.
        @param line: the line.
        @raise ConnectionClosed: nothing can be sent any more.
        """
        try:
            message = self._form.read(line)
            if message is None:
                return
            sent = service.sendData(message)
            if isinstance(sent, Acknowledgement):
                self._last = sent  # one for all: what came before is there too
            elif isinstance(sent, QueuedMessage):
                self._watch(self._number - 1)
                self._last = sent
                self._watch(self._number)
            else:
                await sent
        except (ValueError, MessageTooBig, SendBufferFull) as error:
            self.say(f"line {self._number} of the input is not sent: {error}")

    def _watch(self, last: int) -> None:
        """
        Take note of what becomes of the last line that was sent, and so of those
        before it: as long as nobody waits they all go into one session.

        @param last: its number.
        """
        first, sent = self._first, self._last
        self._first, self._last = last + 1, None
        if sent is None:
            return
        sent.addErrback(self._ebUnsure, first, last)
        while self._watched and self._watched[0].called:
            self._watched.popleft()
        self._watched.append(sent)

    def _ebUnsure(self, failure: Failure, first: int, last: int) -> Failure | None:
        """
        Lines may not have arrived.

        @param failure: why.
        @param first: the first one's number.
        @param last: the last one's.
        @return: the failure, if it is that nobody waits any more.
        """
        if failure.check(CancelledError):
            return failure
        if failure.check(ConnectionClosed):
            self._unsure += (first, last)
        else:
            self.say(f"line {last} of the input is not sent: {failure.value}")
        return None


def _stop(result: None, service: ClientService) -> None:
    """
    Stop a service whose packets nobody reads any more.

    @param result: nothing.
    @param service: which.
    """
    service.stopService()
