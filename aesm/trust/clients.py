"""
Whom to let in: a server's list of its clients' keys.

::

    clients = AuthorizedKeys("authorized_keys")
    clients.checkClient(publicKey, address)   # the name of that client, or None
    clients.reload()                          # now and then

The file is like that of the known servers (L{aesm.trust.servers}), but may be a
symbolic link, as orchestrators like to mount them.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from zope.interface import implementer

from aesm.errors import KeyFileError
from aesm.interfaces import IClientPolicy
from aesm.trust.files import MAX_FILE, OTHERS_WRITE, badLine, pairs, readFile
from aesm.trust.keys import PublicKey

__all__ = ["AuthorizedKeys"]

_log = Logger(namespace="aesm.trust")

MAX_NAME = 64  # characters


@implementer(IClientPolicy)
class AuthorizedKeys:
    """
    The clients that a server lets in.

    The file has one C{KEY NAME} a line.  A name is one word of 1 to 64 printable
    characters; one client may have several keys of the same name, but no key
    comes twice.  An empty file lets nobody in.

    @ivar path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """
        Read the file.

        @param path: the file, or a symbolic link to it.
        @raise KeyFileError: it is missing, unsafe, or has a bad line.
        """
        self.path = Path(path)
        self._signature = self._look()
        self._names = self._read()

    def checkClient(self, publicKey: PublicKey, address: IAddress) -> str | None:
        """
        Look a client up.

        @param publicKey: the key that it has proved.
        @param address: where it comes from, which does not matter.
        @return: its name, or None to refuse it.
        @see: L{IClientPolicy.checkClient}
        """
        return self._names.get(publicKey)

    def reload(self) -> frozenset[PublicKey]:
        """
        Read the file again if it is another one than last time.

        If it cannot be used, a warning says why, once, and what was read before
        stays in force until it can.  Replace the file by renaming a new one, so
        that it is never read half written.

        @return: the keys that were let in before and are not any more.
        """
        signature = self._look()
        if signature == self._signature:
            return frozenset()
        self._signature = signature
        try:
            names = self._read()
        except KeyFileError as error:
            _log.warn(
                "{error}; until then the {count} keys read before stay in force",
                error=str(error),
                count=len(self._names),
                path=str(self.path),
            )
            return frozenset()
        gone = frozenset(self._names.keys() - names.keys())
        self._names = names
        return gone

    def _look(self) -> tuple[int, ...] | None:
        """
        Take what tells one state of the file from another.  Done before each
        reading: what changes in between is then read once more, not missed.

        @return: what C{stat} says that content, owner or mode could change; None
            if there is no file.
        """
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return (
            status.st_dev,
            status.st_ino,
            status.st_mode,
            status.st_uid,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )

    def _read(self) -> dict[PublicKey, str]:
        """
        Read the file.

        @return: the name of each key.
        @raise KeyFileError: it is missing, unsafe, or has a bad line.
        """
        try:
            content = readFile(
                self.path, limit=MAX_FILE, forbidden=OTHERS_WRITE, followLinks=True
            )
        except FileNotFoundError:
            raise KeyFileError(
                f"there is no authorized-keys file {self.path}; make one with a line "
                "`KEY NAME` for each client, KEY as `aesm pubkey FILE` prints it",
                str(self.path),
            ) from None
        names: dict[PublicKey, str] = {}
        for number, text, name in pairs(self.path, content, "KEY NAME"):
            try:
                publicKey = PublicKey.fromText(text)
            except ValueError:
                raise badLine(self.path, number, "KEY NAME") from None
            if len(name) > MAX_NAME:
                raise KeyFileError(
                    f"line {number} of {self.path} has a name of more than "
                    f"{MAX_NAME} characters; shorten it",
                    str(self.path),
                )
            if publicKey in names:
                raise KeyFileError(
                    f"line {number} of {self.path} has a key that an earlier line "
                    "has already; remove one of them",
                    str(self.path),
                )
            names[publicKey] = name
        return names
