"""
C{aesm send} and C{aesm receive}: files from one command to the other::

    aesm receive --listen tcp:8765 --pin KEY
    aesm send holidays.mkv tcp:example.org:8765

Either of them may be the one that listens; what they say to each other is the same.
The files themselves are the business of L{aesm.files}.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.task import deferLater
from twisted.python import usage
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.commands.client import ClientCommand
from aesm.commands.command import parameter
from aesm.commands.connect import connectOrReport, stopReason
from aesm.commands.main import observing
from aesm.commands.options import inOptions, listenEndpoint
from aesm.commands.output import writeError
from aesm.commands.progress import Lines, progressFor
from aesm.commands.sending import Sending
from aesm.errors import (
    AESMError,
    ConnectionClosed,
    NotAuthorized,
    RequestFailed,
)
from aesm.files.receiver import FileReceiver
from aesm.files.requests import asking, readAnswer
from aesm.files.sender import Offering
from aesm.interfaces import IClientObserver
from aesm.messages.address import addressText
from aesm.messages.connection import Connection
from aesm.messages.owner import FAILURES_TOLD
from aesm.messages.stream import Packet
from aesm.secure.listening import serverEndpoint
from aesm.secure.places import TokenBuckets
from aesm.server.service import Server, listen
from aesm.trust.files import expanded, stateDirectory
from aesm.trust.keys import PrivateKey, PublicKey
from aesm.trust.picture import picture


class _FileCommand(ClientCommand):
    """A subcommand that talks to the other one, which it dials, or waits for."""

    endpoint: str | None  # type: ignore[assignment]
    optParameters = [
        parameter("listen", "Wait for the other side here, such as tcp:8765."),
    ]
    optFlags = [["any-client", None, "With --listen: let in whoever reaches it."]]

    def postOptions(self) -> None:
        """Check the options."""
        super().postOptions()
        listening = self["listen"] is not None
        if listening == (self.endpoint is not None):
            raise usage.UsageError("give an ENDPOINT to connect to, or --listen")
        if listening and self["any-server"]:
            raise usage.UsageError("--any-server is for connecting, not for --listen")
        if listening and not (self.pins or self["psk"] or self["any-client"]):
            raise usage.UsageError(
                "say who may come: --pin KEY, which `aesm pubkey` prints there; "
                "--psk FILE; or --any-client"
            )
        if self["any-client"] and (self.pins or not listening):
            raise usage.UsageError("--any-client is for --listen without --pin")
        if listening:
            listenEndpoint("listen", self["listen"], serverEndpoint)

    def clientOptions(self) -> dict[str, Any]:
        """Make what C{connect} and C{listen} take: people have one key."""
        options = super().clientOptions()
        if options["key"] is None:
            options["key"] = PrivateKey.loadOrCreate(stateDirectory() / "client.key")
        if self["listen"] is not None:
            del options["trust"]
            if self.pins:
                options["authorizedKeys"] = self._isPinned
        return options

    def _isPinned(self, publicKey: PublicKey, address: IAddress) -> bool:
        """Let in whose key was named; C{NotAuthorized} says how another would be."""
        if publicKey not in self.pins:
            raise NotAuthorized(
                f"the key {publicKey} is no --pin; to let it in, run this again with "
                f"--pin {publicKey}"
            )
        return True

    async def runClient(self, reactor: Any, options: dict[str, Any]) -> int:
        """Connect or listen, and do it."""
        with observing():
            return await self.transfer(_Meeting(reactor, options, progressFor(reactor)))

    async def transfer(self, meeting: _Meeting) -> int:
        """Do it, and return the exit status."""
        raise NotImplementedError


class SendOptions(_FileCommand):
    """C{aesm send}."""

    synopsis = "FILE... ENDPOINT | FILE... --listen ENDPOINT  [options]"
    longdesc = (
        "Sends files to `aesm receive`, which may run before or after; whichever of "
        "them has --listen waits for the other one.  A file is there once it is "
        "complete, has the same SHA-256, and is on the disk; then this ends with "
        "status 0.  Run again after whatever went wrong, it sends what is missing.  "
        "Both sides show both keys: what is `ours` here is `theirs` there, or somebody "
        "is in between."
    )

    def parseArgs(self, *arguments: str) -> None:
        """Take the files, and the endpoint behind them."""
        self.arguments = list(arguments)
        self.endpoint = None

    def postOptions(self) -> None:
        """Check the options, and that there is a file."""
        files = self.arguments
        if self["listen"] is None and files:
            *files, self.endpoint = files
        self.files = files
        super().postOptions()
        if not files:
            raise usage.UsageError("name the files to send, and then the ENDPOINT")
        for file in files:
            if file == "-":
                raise usage.UsageError(
                    "standard input cannot be sent, as it cannot be read again after a "
                    "cut: write it to a file first, and send that"
                )
            _checkFile(expanded(file))

    async def transfer(self, meeting: _Meeting) -> int:
        """Send the files."""
        sending = Sending(self.files, meeting.progress)
        if self.endpoint is None:
            return await meeting.listenAndSend(self["listen"], sending)
        return await meeting.connectAndSend(self.endpoint, sending)


class ReceiveOptions(_FileCommand):
    """C{aesm receive}."""

    synopsis = "ENDPOINT | --listen ENDPOINT  [--into DIRECTORY] [options]"
    longdesc = (
        "Receives files from `aesm send`, and ends when that has sent all.  Nothing is "
        "overwritten: a second a.txt becomes `a (1).txt`.  What has come of a file "
        "that is not complete is in a hidden file beside it, .aesm-*.part, for the "
        "next time that it is sent.  Both sides show both keys: what is `ours` here is "
        "`theirs` there, or somebody is in between."
    )
    optParameters = [parameter("into", "The directory to put them in.", ".")]

    def parseArgs(self, endpoint: str | None = None) -> None:
        """Take the endpoint."""
        self.endpoint = endpoint

    def postOptions(self) -> None:
        """Check the options, and that there is such a directory."""
        super().postOptions()
        self.directory = expanded(self["into"])
        if not self.directory.is_dir():
            raise usage.UsageError(f"--into: {self.directory} is no directory")
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise usage.UsageError(f"--into: {self.directory} cannot be written to")

    async def transfer(self, meeting: _Meeting) -> int:
        """Receive files."""
        receiving = _Receiving(self.directory, meeting, self.endpoint is not None)
        try:
            if self.endpoint is None:
                return await meeting.listenAndReceive(self["listen"], receiving)
            return await meeting.connectAndReceive(self.endpoint, receiving)
        finally:
            receiving.tellRest()


def _checkFile(path: Path) -> None:
    """Look at a file before anybody is troubled."""
    if path.is_dir():
        archive = shlex.quote(f"{path.resolve().name or 'all'}.tar")
        raise usage.UsageError(
            f"{path} is a directory; send an archive of it: "
            f"`tar -cf {archive} {shlex.quote(str(path))}`"
        )
    if not path.exists():
        raise usage.UsageError(f"there is no {path}")
    if not path.is_file():
        raise usage.UsageError(
            f"{path} is not a regular file, which can be read again after a cut: write "
            "what is to be read from it to one first, and send that"
        )


class _Receiving(FileReceiver):
    """Takes files until C{ended} fires: the other side says that there are no more."""

    def __init__(self, directory: Path, meeting: _Meeting, dials: bool = False) -> None:
        """@param dials: whether it is we who connect."""
        super().__init__(directory)
        self._dials = dials
        self.failed = False
        self.ended: Deferred[None] = Deferred()
        self._meeting = meeting
        # What files are called in what is said of their progress: of two that have one
        # name, from two connections, the second has its address behind it.
        self._shown: dict[tuple[Connection, str], str] = {}
        self._named = TokenBuckets(FAILURES_TOLD)  # of each key
        self._untold = 0

    def connectionAccepted(self, connection: Connection) -> None:
        """Show whose files these are, and ask for them."""
        self._meeting.show(connection)
        Deferred.fromCoroutine(self._ask(connection))

    async def _ask(self, connection: Connection) -> None:
        """Have the other side end if it sends no files, as we do."""
        try:
            readAnswer(await connection.request(asking("receive")))
        except RequestFailed:
            # Other programs that send may not know it, either.
            if self.isIdle and not self.ended.called:
                self._meeting.progress.say(
                    "the other side does not say that it sends files, as `aesm send` "
                    "does; waiting for some"
                )
        except AESMError:
            pass

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """End, if the next to whom we connect would be no other."""
        super().packetReceived(connection, packet)
        if self._dials:
            self._giveUp("is no program for files: it sends messages")

    def peerReceives(self, connection: Connection) -> None:
        """End: nothing would ever come."""
        if self.isIdle:
            self._giveUp("sends no files: run `aesm send` on one of both sides")

    def _giveUp(self, reason: str) -> None:
        """End, unless that is so, since nothing will come."""
        if not self.ended.called:
            self.failed = True
            self._meeting.progress.say(f"the other side {reason}")
            self.ended.callback(None)

    def fileProgress(
        self, connection: Connection, name: str, done: int, size: int
    ) -> None:
        """Say how far a file is."""
        shown = self._shown.get((connection, name))
        if shown is None:
            taken = name in self._shown.values()
            shown = f"{name} from {addressText(connection.address)}" if taken else name
            self._shown[connection, name] = shown
        self._meeting.progress(shown, done, size)

    def _finished(self, connection: Connection, name: str) -> str:
        """Show no more of a file's progress, and say how it went."""
        shown = self._shown.pop((connection, name), None)
        return "" if shown is None else self._meeting.progress.finished(shown)

    def fileReceived(
        self, connection: Connection, name: str, path: Path, sha256: str
    ) -> None:
        """Say that a file is there."""
        figures = self._finished(connection, name)
        self._meeting.progress.say(f"received {path}: {figures}; SHA-256 {sha256}")

    def fileFailed(self, connection: Connection, name: str, reason: str) -> None:
        """Say that a file cannot be received."""
        self.failed = True
        self._finished(connection, name)
        self._tell(connection, f"{name} is not received: {reason}")

    def noMoreFiles(self, connection: Connection) -> None:
        """End, unless another one still sends something."""
        if self.isIdle and not self.ended.called:
            self.ended.callback(None)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Say that somebody is gone who had not sent all, or that we are."""
        said = f": {reason}; waiting for it to be sent again"
        if self.ended.called:
            said = "; run this again to go on"
        for name in self.unfinished(connection):
            self._tell(connection, f"{name} is not complete{said}")
        for other, name in list(self._shown):
            if other is connection:
                self._finished(connection, name)
        super().connectionLost(connection, reason)

    def tellRest(self) -> None:
        """Say how many are not received that were not named."""
        if self._untold:
            self._meeting.progress.say(f"others that are not received: {self._untold}")

    def _tell(self, connection: Connection, text: str) -> None:
        """Say what became of a file, but not as often as its sender can have it."""
        if self._named.take(str(connection.peer), monotonic()):
            self._meeting.progress.say(text)
        else:
            self._untold += 1


class _Callers(Offering):
    """Sends to those who come, one after another, until C{sent} fires: one has all."""

    def __init__(self, sending: Sending, meeting: _Meeting) -> None:
        self.sent: Deferred[None] = Deferred()
        self._sending = sending
        self._meeting = meeting
        self._oneByOne = DeferredLock()

    def connectionAccepted(self, connection: Connection) -> None:
        """Send to somebody who has come."""
        self._meeting.show(connection)
        self._oneByOne.run(self._send, connection)

    def _send(self, connection: Connection) -> Deferred[None]:
        """Send what is left."""
        sending = Deferred.fromCoroutine(self._sending.run(connection))
        return sending.addCallbacks(self._cbSent, self._ebGone)

    def _cbSent(self, result: None) -> None:
        """Somebody has all."""
        if not self.sent.called:
            self.sent.callback(None)

    def _ebGone(self, failure: Failure) -> None:
        """Wait for whoever has gone."""
        failure.trap(ConnectionClosed)
        if not self.sent.called:
            said = f"{failure.value}; waiting for the other side to come again"
            self._meeting.progress.say(said)


@implementer(IClientObserver)
class _Meeting:
    """How the two come together; the observer of whoever dials."""

    def __init__(self, reactor: Any, options: dict[str, Any], progress: Lines) -> None:
        self.progress = progress
        self._reactor = reactor
        self._options = options
        self._shown: set[PublicKey] = set()
        self._isCut = False
        self._stopped: Deferred[None] = Deferred()

    # The four ways

    async def connectAndSend(self, endpoint: str, sending: Sending) -> int:
        """Dial whoever receives."""
        # The handler refuses what is asked by one that has files to send, too.
        service = await connectOrReport(
            self._reactor, endpoint, self, handler=Offering(), **self._options
        )
        if service is None:
            return 1
        try:
            await sending.run(service)
        except ConnectionClosed as reason:
            self.progress.say(f"{reason}; run this again to go on")
            return 1
        finally:
            await service.stopService()
        return 1 if sending.failed else 0

    async def connectAndReceive(self, endpoint: str, receiving: _Receiving) -> int:
        """Dial whoever sends."""
        service = await connectOrReport(
            self._reactor, endpoint, self, handler=receiving, **self._options
        )
        if service is None:
            return 1
        try:
            either = [receiving.ended, self._stopped]
            await DeferredList(either, fireOnOneCallback=True, consumeErrors=True)
            await deferLater(self._reactor, 0)  # the answer goes first
            if not receiving.ended.called:
                self.progress.say(str(await stopReason(service)))
                return 1
        finally:
            await service.stopService()
        return 1 if receiving.failed else 0

    async def listenAndSend(self, endpoint: str, sending: Sending) -> int:
        """Wait for whoever receives."""
        callers = _Callers(sending, self)
        # One that was started anew is there at once, while its former session waits.
        server = await self._listen(endpoint, callers, "receive", perKey="replace")
        if server is None:
            return 1
        try:
            await callers.sent
        finally:
            await server.stop()
        return 1 if sending.failed else 0

    async def listenAndReceive(self, endpoint: str, receiving: _Receiving) -> int:
        """Wait for whoever sends."""
        server = await self._listen(endpoint, receiving, "send FILE")
        if server is None:
            return 1
        try:
            await receiving.ended
            await deferLater(self._reactor, 0)  # the answer goes first
        finally:
            await server.stop()
        return 1 if receiving.failed else 0

    # Parts

    async def _listen(
        self, endpoint: str, handler: object, other: str, **more: Any
    ) -> Server | None:
        """Listen, and say how the other side gets here; None after saying why not."""
        try:
            server = await listen(
                self._reactor, endpoint, handler=handler, **self._options, **more
            )
        except (AESMError, CannotListenError, OSError, ValueError) as error:
            reason = inOptions(str(error), self._options)
            writeError(f"cannot listen on {endpoint}: {reason}")
            return None
        where = server.address
        there = f"tcp:HOST:{where[1]}" if isinstance(where, tuple) else f"unix:{where}"
        self.progress.say(
            f"listening on {endpoint}; over there: aesm {other} {there} "
            f"--pin {server.publicKey}"
        )
        return server

    def show(self, connection: Connection) -> None:
        """Show both keys to somebody who wants to compare them, once for each."""
        if connection.peer in self._shown:
            return
        self._shown.add(connection.peer)
        keys = {"ours": self._options["key"].publicKey, "theirs": connection.peer}
        if os.isatty(2):
            pictures = (picture(key, title) for title, key in keys.items())
            for both in zip(*pictures, strict=True):
                self.progress.say("   ".join(both))
        for title, key in keys.items():
            self.progress.say(f"the key that is {title}: {key}")

    # IClientObserver

    def onConnected(self, connection: Connection) -> None:
        """Say that a connection is back."""
        self.show(connection)
        if self._isCut:
            self.progress.say("connected again")
        self._isCut = False

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """Say that there is no connection, once for all attempts."""
        if self._shown and not self._isCut:
            self._isCut = True
            self.progress.say(f"{str(reason).rstrip('.')}; connecting again")

    def onStopped(self, reason: Exception) -> None:
        """There is no way to go on, or no need to."""
        if not self._stopped.called:  # it is told of each stop
            self._stopped.callback(None)
