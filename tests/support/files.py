"""
What the tests of files share: a receiver in memory, and somebody who sends to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute

from aesm.errors import RequestFailed
from aesm.files import disk
from aesm.files.receiver import FileReceiver
from aesm.files.requests import FileCode
from aesm.files.sender import sendFile
from aesm.messages.connection import Connection
from aesm.testing import ConnectedPair
from tests.support.pairs import CLIENT_KEY, PairTestCase

__all__ = ["FileTestCase", "Records"]


class Records(FileReceiver):
    """
    A receiver that remembers what it is told.

    @ivar events: in order: C{("received", name, path)}, C{("failed", name, reason)},
        C{("end",)}.
    @ivar refused: why it wants no file; empty if it does.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Begin with nothing."""
        super().__init__(*arguments, **options)
        self.events: list[tuple[str, ...]] = []
        self.refused = ""

    def fileOffered(self, connection: Connection, name: str, size: int) -> None:
        """
        Refuse what is not wanted.

        @see: L{FileReceiver.fileOffered}
        """
        if self.refused:
            raise RequestFailed(FileCode.REFUSED, self.refused)

    def fileReceived(
        self, connection: Connection, name: str, path: Path, sha256: str
    ) -> None:
        """
        Remember it.

        @see: L{FileReceiver.fileReceived}
        """
        self.events.append(("received", name, path.name))

    def fileFailed(self, connection: Connection, name: str, reason: str) -> None:
        """
        Remember it.

        @see: L{FileReceiver.fileFailed}
        """
        self.events.append(("failed", name, reason))

    def noMoreFiles(self, connection: Connection) -> None:
        """
        Remember it.

        @see: L{FileReceiver.noMoreFiles}
        """
        self.events.append(("end",))


class FileTestCase(PairTestCase):
    """
    Files from one directory to another.

    @cvar atHand: whether files are hashed as with few processors.
    @ivar ours: the sender's directory.
    @ivar theirs: the receiver's.
    @ivar receiver: a handler that receives into it.
    @ivar progress: what the sender was told of its progress.
    """

    atHand = False

    def setUp(self) -> None:
        """Make both directories."""
        self.patch(disk, "AT_HAND", self.atHand)
        self.ours, self.theirs = Path(self.mktemp()), Path(self.mktemp())
        self.ours.mkdir()
        self.theirs.mkdir()
        self.receiver = Records(self.theirs, inThread=execute)
        self.progress: list[tuple[str, int, int]] = []

    def meet(
        self, receiver: FileReceiver | None = None, **options: Any
    ) -> ConnectedPair:
        """
        Connect a sender, which always has the same key.

        @param receiver: None for C{self.receiver}.
        @param options: more of the client's.
        """
        client = {"key": CLIENT_KEY} | options
        return self.pair(receiver or self.receiver, client=client)

    def put(self, name: str, content: bytes) -> Path:
        """
        Make a file to be sent.

        @param content: what is in it.
        """
        path = self.ours / name
        path.write_bytes(content)
        return path

    def send(
        self,
        pair: ConnectedPair,
        path: str | Path,
        progress: Callable[[str, int, int], Any] | None = None,
    ) -> Deferred[str]:
        """
        Send a file, and let everything that can happen happen.

        @param progress: called with each report, which is noted before.
        """

        def report(name: str, done: int, size: int) -> None:
            """Note it."""
            self.progress.append((name, done, size))
            if progress is not None:
                progress(name, done, size)

        sending = sendFile(pair.client, path, progress=report, inThread=execute)
        pair.deliver()
        return sending

    def sent(self, pair: ConnectedPair, path: str | Path) -> str:
        """
        Send a file.

        @return: what it is called there.
        """
        return self.successResultOf(self.send(pair, path))

    def ask(self, pair: ConnectedPair, data: str | bytes) -> Any:
        """
        Ask the receiver.

        @return: the answer, or the code with which it is refused.
        """
        results: list[Any] = []
        pair.client.request(data).addCallbacks(
            results.append, lambda failure: results.append(failure.value.code)
        )
        pair.deliver()
        (result,) = results
        return result

    @property
    def there(self) -> list[str]:
        """The names of the files that are complete."""
        return sorted(n for n in os.listdir(self.theirs) if not n.startswith("."))

    @property
    def partial(self) -> list[Path]:
        """The files that are not."""
        return list(self.theirs.glob(".aesm-*.part"))
