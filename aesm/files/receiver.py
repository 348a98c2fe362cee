"""
The side that files come to::

    server = await listen(reactor, "tcp:8765", handler=FileReceiver("incoming"))

A L{FileReceiver} is a handler, of a server or of a client, that takes files and nothing
else.  One that has other things to do hands it what is about files::

    def requestReceived(self, connection, packet):
        if self.files.wants(packet):
            return self.files.requestReceived(connection, packet)
        ...

Subclasses say which files they want, and are told of those that are there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore, succeed
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from aesm.errors import AESMError, CloseCode, RequestFailed
from aesm.files.disk import DiskFile, InThread
from aesm.files.partial import Folder, Opened, Place
from aesm.files.requests import (
    Chunk,
    FileCode,
    Offer,
    answering,
    isOurs,
    readAsked,
)
from aesm.interfaces import MessageHandler
from aesm.messages.connection import Connection
from aesm.messages.owner import FAILURES_TOLD
from aesm.messages.stream import Packet
from aesm.secure.places import TokenBuckets
from aesm.trust.files import AnyPath, expanded
from aesm.trust.keys import PublicKey

_log = Logger(namespace="aesm.files")

# Each is an open file, which connections need as well; one that is there already, too.
MOST_OPEN = 16  # files that one connection may send at the same time
MOST_OF_KEY = 64  # the same of one key, over all its connections
MOST_IN_ALL = 128
# How many threads one key can use to hash what it sends, which goes on in pieces.
AT_ONCE = 2

# Is called with a file's name, the bytes of it that are there, and all that it has.
Progress = Callable[[str, int, int], None]


class _Incoming:
    """
    A file that comes.

    @ivar connection: who sends it.
    @ivar offer: what it is.
    @ivar place: where it goes.
    @ivar opened: what was there of it.
    @ivar received: bytes that are there.
    """

    def __init__(
        self,
        connection: Connection,
        place: Place,
        opened: Opened,
        inThread: InThread,
        turns: DeferredSemaphore,
        progress: Progress,
    ) -> None:
        self.connection = connection
        self.offer = place.offer
        self.place = place
        self.opened = opened
        self.received = opened.offset
        self._file = DiskFile(opened.descriptor, inThread, turns)
        if not opened.complete:  # of that nobody need ask for the digest
            self._file.follow(opened.offset)
        self._progress = progress

    @property
    def name(self) -> str:
        """What it is to be called."""
        return self.place.name

    def report(self) -> None:
        """Say how much is there."""
        self._progress(self.name, self.received, self.offer.size)

    def add(self, chunk: Chunk) -> None:
        """Write a chunk; C{RequestFailed} if it is not what comes next."""
        end = chunk.offset + len(chunk.data)
        if chunk.offset != self.received or end > self.offer.size:
            raise RequestFailed(FileCode.MALFORMED, "the chunk does not come next")
        self._file.write(chunk.offset, chunk.data)
        self.received = end
        self._file.follow(end, chunk.data)

    async def complete(self, sha256: str) -> str:
        """
        Check the file and give it its name.

        @param sha256: what its sender says.
        @return: the name.
        @raise RequestFailed: it is not complete, or another one: it is dropped then.
        @raise OSError: that is not possible.
        """
        size = self.offer.size
        if self.received != size:
            raise RequestFailed(FileCode.MALFORMED, "it is not complete")
        if await self._file.digest(size) != sha256:
            if self.opened.complete:
                raise RequestFailed(
                    FileCode.DIFFERS,
                    "another file of this name, size and time is there already",
                )
            await self._file.call(self.place.drop)
            raise RequestFailed(
                FileCode.DIFFERS, "what came is not what was sent, and is dropped"
            )
        if self.opened.complete:
            return self.opened.complete
        name: str = await self._file.call(self.place.publish, self.opened.descriptor)
        return name

    def drop(self) -> Deferred[Any]:
        """Forget what came of it."""
        if self.opened.complete:
            return succeed(None)
        return self._file.call(self.place.drop)

    def close(self) -> Deferred[None]:
        """Let go of it; what is written stays."""
        return self._file.close()

    def closed(self) -> Deferred[None]:
        """Wait until somebody else can have it."""
        return self._file.closed()


class FileReceiver(MessageHandler):
    """
    Takes files into a directory.

    Nothing is ever overwritten: a second C{a.txt} becomes C{a (1).txt}.  A file appears
    under its name once it is complete, has the digest that its sender says, and is on
    the disk; what has come of it until then is in a hidden file beside it, and stays
    there if the sender goes away, for the next time that it sends the same file.
    """

    def __init__(
        self,
        directory: AnyPath,
        *,
        progress: Progress | None = None,
        inThread: InThread = deferToThread,
    ) -> None:
        """
        @param directory: where they go.
        @param progress: called with a file's name, the bytes that are there, and all
            that it has: when it begins, and each time that some were written.
        @param inThread: calls what may block, and gives a Deferred of its result; for
            tests.
        """
        self.directory: Path = expanded(directory)
        self._folder = Folder(self.directory)
        self._progress = progress or _silent
        self._inThread = inThread
        self._offers = DeferredLock()  # one after the other, as their bounds are ours
        # For those who send.
        self._turns: WeakValueDictionary[PublicKey, DeferredSemaphore]
        self._turns = WeakValueDictionary()
        self._told = TokenBuckets(FAILURES_TOLD)  # of each key
        self._incoming: dict[bytes, _Incoming] = {}  # by token
        # Those that nothing more comes of and that are not closed yet: whoever offers
        # the same file waits for that.
        self._ending: dict[Path, _Incoming] = {}

    # For subclasses

    def fileOffered(self, connection: Connection, name: str, size: int) -> None:
        """
        Somebody wants to send a file.

        @param name: what it is to be called.
        @param size: bytes.
        @raise RequestFailed: it is not wanted.
        """

    def fileProgress(
        self, connection: Connection, name: str, done: int, size: int
    ) -> None:
        """
        So many bytes of a file are there: at its beginning, and each time that some
        were written.  This tells C{progress}, which does not know whose file it is.

        @param name: what it is to be called.
        @param size: all that it has.
        """
        self._progress(name, done, size)

    def fileReceived(
        self, connection: Connection, name: str, path: Path, sha256: str
    ) -> None:
        """
        A file is there.

        @param name: what it was to be called.
        @param path: where it is, perhaps with a number in its name.
        @param sha256: its digest, in hexadecimal.
        """

    def fileFailed(self, connection: Connection, name: str, reason: str) -> None:
        """A file could not be received, for a reason that its sender knows, too."""

    def noMoreFiles(self, connection: Connection) -> None:
        """Somebody has sent all that there was to send."""

    def peerReceives(self, connection: Connection) -> None:
        """The other side says that it receives files, and so sends none."""

    # What users call

    def wants(self, packet: Packet) -> bool:
        """Tell whether a request is about files."""
        return isOurs(packet.data)

    @property
    def isIdle(self) -> bool:
        """Whether no file is on its way."""
        return not self._open

    def unfinished(self, connection: Connection) -> list[str]:
        """List the names of files of which more is to come over a connection."""
        incoming = self._incoming.values()
        return [each.name for each in incoming if each.connection is connection]

    # IMessageHandler

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """What is no request is no file."""
        connection.closeWith(CloseCode.PROTOCOL_ERROR, "this is for files only")

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Nothing more comes from there."""
        for token, incoming in list(self._incoming.items()):
            if incoming.connection is connection:
                self._end(token).close()

    def requestReceived(
        self, connection: Connection, packet: Packet
    ) -> str | Deferred[str]:
        """
        Do what somebody asks.

        @return: the answer.
        @raise RequestFailed: it is not done, and why.
        """
        if not isOurs(packet.data):
            raise RequestFailed(FileCode.MALFORMED, "this is for files only")
        asked = readAsked(packet.data)
        if isinstance(asked, Chunk):
            return self._takeChunk(connection, asked)
        kind, fields = asked
        if kind == "offer":
            begun: Deferred[str] = Deferred()
            taking = self._takeOffer(connection, fields["offer"], begun)
            Deferred.fromCoroutine(taking).chainDeferred(begun)
            return begun
        if kind == "end":
            self.noMoreFiles(connection)
            return answering()
        if kind == "receive":
            self.peerReceives(connection)
            return answering()
        # It goes on to its end if nobody waits any more.
        finished: Deferred[str] = Deferred()
        finishing = Deferred.fromCoroutine(self._finish(connection, kind, **fields))
        finishing.chainDeferred(finished)
        return finished

    # Parts

    @property
    def _open(self) -> list[_Incoming]:
        """The files that are open."""
        return [*self._incoming.values(), *self._ending.values()]

    def _takeChunk(self, connection: Connection, chunk: Chunk) -> str:
        """Write a chunk."""
        incoming = self._find(connection, chunk.token)
        try:
            incoming.add(chunk)
        except OSError as error:
            self._end(chunk.token).close()
            raise self._failed(connection, incoming.name, error) from None
        self._report(chunk.token)
        return answering()

    def _report(self, token: bytes) -> None:
        """Say how much of a file is there; if that fails, let go of it."""
        try:
            self._incoming[token].report()
        except Exception:
            if token in self._incoming:  # else it has ended the connection, too
                self._end(token).close()
            raise

    async def _finish(
        self, connection: Connection, kind: str, token: bytes, sha256: str
    ) -> str:
        """Complete a file, leave it for another time, or forget it."""
        self._find(connection, token)
        incoming = self._end(token)
        try:
            if kind != "done":
                reason = "its sender has stopped"
                if kind == "drop":
                    await incoming.drop()
                    reason = "it was changed meanwhile"
                self.fileFailed(connection, incoming.name, reason)
                return answering()
            name = await incoming.complete(sha256)
        except (OSError, RequestFailed) as error:
            raise self._failed(connection, incoming.name, error) from None
        finally:
            await incoming.close()
        self.fileReceived(connection, incoming.name, self.directory / name, sha256)
        return answering(name=name)

    async def _takeOffer(
        self, connection: Connection, offer: Offer, begun: Deferred[str]
    ) -> str:
        """
        Begin to receive a file, once nothing is left of a former offer of it: its
        sender was started anew, or has come over another connection.
        """
        place = Place(self._folder, offer, connection.peer)
        try:
            self.fileOffered(connection, place.name, offer.size)
        except RequestFailed as error:
            raise self._failed(connection, place.name, error) from None
        while True:
            for token, incoming in list(self._incoming.items()):
                if incoming.place.path == place.path:
                    self._end(token).close()
            # This takes long if it is large and being completed: other offers go on.
            while place.path in self._ending:
                await self._ending[place.path].closed()
            async with self._offers:
                if place.path not in [each.place.path for each in self._open]:
                    return await self._begin(connection, place, begun)

    async def _begin(
        self, connection: Connection, place: Place, begun: Deferred[str]
    ) -> str:
        """Begin to receive a file, or go on with it, and give the answer."""
        try:
            self._checkRoom(connection)
            opened = await self._inThread(place.open)
        except (OSError, RequestFailed) as error:
            raise self._failed(connection, place.name, error) from None
        token = secrets.token_bytes(8)
        progress = partial(self.fileProgress, connection)
        turns = self._turns.setdefault(connection.peer, DeferredSemaphore(AT_ONCE))
        incoming = self._incoming[token] = _Incoming(
            connection, place, opened, self._inThread, turns, progress
        )
        if connection.isOver or begun.called:  # since then
            await self._end(token).close()
        else:
            self._report(token)
        return answering(token=token.hex(), offset=incoming.received)

    def _checkRoom(self, connection: Connection) -> None:
        """
        See whether there is room for one more.

        @raise RequestFailed: there are too many others.
        """
        taken = [each.connection for each in self._open]
        ofKey = [each for each in taken if each.peer == connection.peer]
        for most, count, whose in (
            (MOST_OPEN, ofKey.count(connection), "over one connection"),
            (MOST_OF_KEY, len(ofKey), "of one key"),
            (MOST_IN_ALL, len(taken), "in all"),
        ):
            if count >= most:
                raise RequestFailed(
                    FileCode.NO_ROOM,
                    f"{most} files at the same time are the most {whose}",
                )

    def _find(self, connection: Connection, token: bytes) -> _Incoming:
        """Find a file by its token; C{RequestFailed} if there is none."""
        incoming = self._incoming.get(token)
        if incoming is None or incoming.connection is not connection:
            raise RequestFailed(FileCode.UNKNOWN, "no such file is offered")
        return incoming

    def _end(self, token: bytes) -> _Incoming:
        """Take nothing more of a file, which is to be closed next."""
        incoming = self._incoming.pop(token)
        path = incoming.place.path
        self._ending[path] = incoming
        incoming.closed().addCallback(lambda nothing: self._ending.pop(path))
        return incoming

    def _failed(
        self, connection: Connection, name: str, error: OSError | RequestFailed
    ) -> RequestFailed:
        """Tell the subclass that a file could not be received, and make the error."""
        # The sender is not told about our paths.
        if isinstance(error, OSError):
            reason = str(error)
            if self._told.take(str(connection.peer), monotonic()):
                _log.warn("cannot receive {name!r}: {reason}", name=name, reason=reason)
            error = RequestFailed(
                FileCode.CANNOT_WRITE, f"cannot write: {error.strerror}"
            )
        self.fileFailed(connection, name, error.reason)
        return error


def _silent(name: str, done: int, size: int) -> None:
    """Say nothing."""
