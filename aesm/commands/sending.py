"""
The files that C{aesm send} is to send, until the other side has them::

    sending = Sending(files, progress)
    await sending.run(connection)      # again, with another one, if that is lost

Small files are sent together: each by itself would wait for the network, and for the
disk over there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from aesm.commands.progress import Lines
from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    RequestFailed,
    SessionLost,
)
from aesm.files.receiver import MOST_OPEN
from aesm.files.sender import Requester, nameOf, sendFile, sentAll
from aesm.messages.requests import RequestTimeout
from aesm.trust.files import expanded

END_TIMEOUT = 10.0  # seconds for the other side to hear that there is no more
MOST_TOGETHER = 1 << 20  # bytes of small files: a cut makes them leave twice


class Sending:
    """
    The files that are still to be sent.

    @ivar failed: whether one of them could not be.
    """

    def __init__(self, files: Sequence[str], progress: Lines) -> None:
        self.failed = False
        self._files = list(files)
        self._isRefused = False  # whatever it is
        self._progress = progress

    async def run(self, connection: Requester) -> None:
        """
        Send what is left, and say that it is all.

        @raise ConnectionClosed: the connection is over first; C{run} may be called
            again with another.
        """
        while self._files:
            sending = [
                Deferred.fromCoroutine(self._send(connection, path))
                for path in self._together()
            ]
            # All of them, so that none goes on when this is over.
            for _, result in await DeferredList(sending, consumeErrors=True):
                if isinstance(result, Failure):
                    result.raiseException()
            if self._isRefused:
                self._progress.say(
                    "the other side takes no files: run `aesm receive` on one of both "
                    "sides"
                )
                return
        # Whoever has all files may be gone by now.
        with suppress(RequestFailed, RequestTimeout, SessionLost):
            await sentAll(connection, END_TIMEOUT)

    def _together(self) -> list[str]:
        """Choose what is to be sent next: a file, or several that are small."""
        together: list[str] = []
        names: set[str] = set()
        room = MOST_TOGETHER
        for path in self._files[:MOST_OPEN]:
            with suppress(OSError):  # what is wrong with it is said when it is sent
                room -= os.path.getsize(expanded(path))
            # Of one name there is one at a time: progress is by name.
            if together and (room < 0 or nameOf(path) in names):
                break
            together.append(path)
            names.add(nameOf(path))
        return together

    async def _send(self, connection: Requester, path: str) -> None:
        """Send a file; raises as C{run}."""
        name = nameOf(path)
        try:
            stored = await sendFile(connection, path, progress=self._progress)
        except ConnectionClosed:
            self._progress.finished(name)
            raise
        except (AESMError, OSError) as error:
            self._progress.finished(name)
            self.failed = True
            code = error.code if isinstance(error, RequestFailed) else None
            if code == CloseCode.NOT_TAKEN:
                self._isRefused = True
                return
            self._report(path, error)
        else:
            figures = self._progress.finished(name)
            other = "" if stored == name else f" as {stored}"
            self._progress.say(f"sent {path}{other}: {figures}")
        self._files.remove(path)

    def _report(self, path: str, error: Exception) -> None:
        """Say that a file was not sent."""
        if isinstance(error, RequestFailed):
            reason = f"the other side refuses it: {error.reason}"
        elif isinstance(error, OSError):
            reason = error.strerror or str(error)
        else:
            reason = str(error)
        self._progress.say(f"{path} is not sent: {reason}")
