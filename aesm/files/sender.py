"""
Sending a file, over a connection whose other side has a
L{FileReceiver<aesm.files.receiver.FileReceiver>}::

    name = await sendFile(connection, "holidays.mkv")

When that fires the file is on the receiver's disk, under that name and with the same
SHA-256.  If it fails, or this process is killed, it is called again: what has come of
the file is not sent a second time.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable
from errno import EINVAL, EISDIR
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from aesm.core.messages.batch import Message
from aesm.errors import (
    AESMError,
    CloseCode,
    FileChanged,
    RequestFailed,
    SessionLost,
)
from aesm.files.disk import DiskFile, InThread
from aesm.files.requests import (
    AHEAD,
    CHUNK,
    CHUNK_HEADER,
    FileCode,
    Offer,
    answering,
    asking,
    chunkHeader,
    isOurs,
    offering,
    readAnswer,
    readAsked,
)
from aesm.interfaces import MessageHandler
from aesm.messages.connection import Connection
from aesm.messages.requests import Request
from aesm.secure.rawtransport import keepFreed
from aesm.trust.files import AnyPath, expanded

MOST_OFFERS = 3  # of a file of which nothing more comes between one and the next
_AGAIN = frozenset({FileCode.UNKNOWN, FileCode.DIFFERS})


class Requester(Protocol):
    """What requests go over: a connection, or a client that comes back."""

    def request(self, data: Message, timeout: float | None = None) -> Deferred[Any]:
        """
        Ask, and wait for the answer.

        @param data: as C{Connection.request}; what it is of may change once this has
            returned.
        """


def sendFile(
    connection: Requester,
    path: AnyPath,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    inThread: InThread = deferToThread,
) -> Deferred[str]:
    """
    Send a file.

    Links are followed.  Its name, its content, when it was last changed, and whether
    its owner may run it are sent, and nothing else that is known about it.

    @param connection: a L{Connection} of either side, or a L{ClientService
        <aesm.client.service.ClientService>}, over which it goes on if the receiver was
        started anew meanwhile.
    @param progress: called with the file's name, the bytes of it that are there, and
        all that it has: when it begins, and for each piece.
    @param inThread: calls what may block, and gives a Deferred of its result; for
        tests.
    @return: fires with the name that the file has at the receiver, once it is on its
        disk.  Fails with C{OSError} if it cannot be read, or is no regular file; with
        L{FileChanged} if it changed meanwhile; with L{RequestFailed} if the receiver
        does not take it (L{FileCode<aesm.files.requests.FileCode>} has the codes); or
        as C{request} does: with C{ConnectionClosed} and C{SessionLost} when it can be
        called again.  Cancelling it leaves what has come, for the next time.
    """
    return Deferred.fromCoroutine(_send(connection, path, progress, inThread))


def sentAll(connection: Requester, timeout: float | None = None) -> Deferred[None]:
    """
    Tell the receiver that there will be no more files.

    @return: fires once it knows; fails as C{request} does.
    """
    asked = connection.request(asking("end"), timeout)
    return asked.addCallback(lambda answer: None)


def nameOf(path: AnyPath) -> str:
    """Say what a file is called that is sent; what is no UTF-8 is shown as such."""
    return os.fsencode(os.path.basename(path)).decode("utf-8", "replace")


class Offering(MessageHandler):
    """Says to who receives files that there are some, and takes none."""

    def requestReceived(self, connection: Connection, request: Request) -> str:
        """
        Answer who receives.

        @raise RequestFailed: it asks something else.
        """
        if not isOurs(request.data) or readAsked(request.data) != ("receive", {}):
            raise RequestFailed(CloseCode.NOT_TAKEN, "no requests are taken here")
        return answering()


async def _send(
    connection: Requester,
    path: AnyPath,
    progress: Callable[[str, int, int], None] | None,
    inThread: InThread,
) -> str:
    """Send a file, and offer it again where that helps."""
    file, offer = _open(path, inThread)
    try:
        sending = _Sending(connection, file, offer, progress)
        offers, best = 0, -1
        while True:
            try:
                return await sending.run()
            except (SessionLost, RequestFailed) as error:
                if isinstance(error, RequestFailed):
                    if error.code not in _AGAIN:
                        raise
                    offers = 1 if sending.begun > best else offers + 1
                    if offers >= MOST_OFFERS:
                        raise
                    best = max(best, sending.begun)
                elif isinstance(connection, Connection) and connection.isOver:
                    raise
    finally:
        file.close()


def _open(path: AnyPath, inThread: InThread) -> tuple[DiskFile, Offer]:
    """Open a file, and say what is offered."""
    full = os.fspath(expanded(path))
    # O_NONBLOCK: to open a FIFO would wait for who writes to it.
    descriptor = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR), full)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(EINVAL, "Is not a regular file", full)
    except BaseException:
        os.close(descriptor)
        raise
    executable = bool(status.st_mode & stat.S_IXUSR)
    offer = Offer(nameOf(full), status.st_size, status.st_mtime_ns, executable)
    return DiskFile(descriptor, inThread), offer


class _Sending:
    """
    The way of one file.

    @ivar begun: the offset that it began at last.
    """

    def __init__(
        self,
        connection: Requester,
        file: DiskFile,
        offer: Offer,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self.begun = 0
        self._connection = connection
        self._file = file
        self._offer = offer
        self._progress = progress
        self._token = b""
        self._ahead: deque[tuple[int, Deferred[Any]]] = deque()

    async def run(self) -> str:
        """Offer the file, send what is missing, and give its name over there."""
        token, offset = await self._begin()
        if not 0 <= offset <= self._offer.size:
            raise RequestFailed(FileCode.MALFORMED, "the answer is out of range")
        self._token, self.begun = _token(token), offset
        try:
            self._report(offset)
            sha256 = await self._sendFrom(offset)
            done = asking("done", token=token, sha256=sha256)
            answer = await self._connection.request(done)
        except FileChanged:
            # What has come is of no use to anybody.
            self._end("drop", token)
            raise
        except AESMError:
            raise
        except Exception:  # cancelled, not to be read, or the progress's own
            self._end("leave", token)
            raise
        finally:
            for _, sent in self._ahead:
                sent.addErrback(lambda failure: None)
            self._ahead.clear()
        (name,) = readAnswer(answer, name=str)
        return str(name)

    def _begin(self) -> Deferred[list[Any]]:
        """
        Offer the file.

        @return: fires with its token, and the offset.  To cancel it does not withdraw
            the offer, whose answer may be on its way: the receiver is told to leave
            the file once it is known by which token it has it.
        """
        begun: Deferred[list[Any]] = Deferred()
        asked = self._connection.request(offering(self._offer))
        asked.addCallback(self._cbOffered, begun)
        asked.chainDeferred(begun)
        return begun

    def _cbOffered(self, answer: Any, begun: Deferred[list[Any]]) -> list[Any]:
        """Read the answer to an offer, for which nobody may wait any more."""
        found = readAnswer(answer, token=str, offset=int)
        if begun.called:
            self._end("leave", found[0])
        return found

    def _end(self, kind: str, token: str) -> None:
        """Tell the receiver, if it still can be told, that no more comes."""
        ended = self._connection.request(asking(kind, token=token))
        ended.addErrback(lambda failure: None)

    async def _sendFrom(self, offset: int) -> str:
        """Send all that comes behind an offset, and give the SHA-256 of all."""
        try:
            await self._sendChunks(offset)
            sha256 = await self._file.digest(self._offer.size)
        except OSError:
            self._check()  # what is not there any more cannot be read
            raise
        self._check()
        return sha256

    async def _sendChunks(self, offset: int) -> None:
        """Send it piece by piece."""
        size = self._offer.size
        # One for all, of which a request is a copy: a chunk that is made anew in each
        # step costs more for memory than for reading and encryption.
        buffer = memoryview(bytearray(CHUNK_HEADER + min(CHUNK, size - offset)))
        keepFreed()
        while offset < size:
            if len(self._ahead) == AHEAD:
                await self._oldest()
            self._check()
            wanted = min(CHUNK, size - offset)
            chunk = buffer[: CHUNK_HEADER + wanted]
            chunk[:CHUNK_HEADER] = chunkHeader(self._token, offset)
            if self._file.read(offset, chunk[CHUNK_HEADER:]) < wanted:
                raise _changed(self._offer)
            asked = self._connection.request(chunk)
            offset += wanted
            self._ahead.append((offset, asked))
            self._file.follow(offset, chunk[CHUNK_HEADER:])
        while self._ahead:
            await self._oldest()

    async def _oldest(self) -> None:
        """Wait until the oldest chunk that is under way is written."""
        end, asked = self._ahead.popleft()
        await asked
        self._report(end)

    def _report(self, done: int) -> None:
        """Say how much is there."""
        if self._progress is not None:
            self._progress(self._offer.name, done, self._offer.size)

    def _check(self) -> None:
        """See whether the file is still what was offered; C{FileChanged} if not."""
        status = os.fstat(self._file.descriptor)
        if (status.st_size, status.st_mtime_ns) != (
            self._offer.size,
            self._offer.mtime,
        ):
            raise _changed(self._offer)


def _token(text: str) -> bytes:
    """Read a token; C{RequestFailed} if it is none."""
    try:
        token = bytes.fromhex(text)
    except ValueError:
        token = b""
    if len(token) != 8:
        raise RequestFailed(FileCode.MALFORMED, "the answer has no token")
    return token


def _changed(offer: Offer) -> FileChanged:
    """Make the error for a file that is no more what it was."""
    return FileChanged(f"{offer.name} was changed while it was sent; send it again")
