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
from aesm.trust.files import (
    MAX_FILE,
    OTHERS_WRITE,
    AnyPath,
    badLine,
    pairs,
    readFile,
)
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

    def __init__(self, path: AnyPath) -> None:
        """
        Read the file.

        @param path: the file, or a symbolic link to it.
        @raise KeyFileError: it is missing, unsafe, or has a bad line.
        """
        self.path = Path(path)
        # Before it is read: a change in between is read once more, not missed.
        self._version = self._currentVersion()
        self._names = self._read()

    def checkClient(self, publicKey: PublicKey, address: IAddress) -> str | None:
        """
        Look a client up.

        @param publicKey: the key that it has proved.
        @param address: not looked at.
        @return: its name, or None to refuse it.
        @see: L{IClientPolicy.checkClient}
        """
        return self._names.get(publicKey)

    def reload(self) -> frozenset[PublicKey]:
        """
        Read the file again if it has changed.

        If it cannot be used, a warning says why, once, and what was read before
        stays in force until it can.  Replace the file by renaming a new one, so
        that it is never read half written.

        @return: the keys that are no longer let in.
        """
        version = self._currentVersion()
        if version == self._version:
            return frozenset()
        # Also where reading fails: a warning at each look would fill the log.
        self._version = version
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
        revoked = frozenset(self._names.keys() - names.keys())
        self._names = names
        return revoked

    def _currentVersion(self) -> tuple[int, ...] | None:
        """
        Tell one version of the file from another, by what C{stat} says; None if
        there is no file.
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
        Read the name of each key.

        @raise KeyFileError: the file is missing, unsafe, or has a bad line.
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
