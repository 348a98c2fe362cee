"""
Whom to let in: a server's list of its clients' keys.

::

    clients = AuthorizedKeys("authorized_keys")
    clients.checkClient(publicKey, address)   # the name of that client, or None
    clients.isOperator(publicKey)             # whether its line says so
    clients.look()                            # every RELOAD_INTERVAL
    clients.reload()                          # when somebody says that it has changed
    clients.add(publicKey, "alice")           # writes the file; then reload
    clients.remove([publicKey])

The file is like that of the known servers (L{aesm.trust.servers}).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import NamedTuple

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger, LogLevel
from zope.interface import implementer

from aesm.errors import KeyFileError, KeyFileUnavailable
from aesm.interfaces import IClientPolicy
from aesm.trust.files import (
    MAX_FILE,
    OTHERS_WRITE,
    AnyPath,
    badLine,
    expanded,
    lines,
    locked,
    pair,
    readFile,
    versionOf,
    writeFile,
)
from aesm.trust.keys import PublicKey

_log = Logger(namespace="aesm.trust")

MAX_NAME = 64  # characters
FORM = "[operator] KEY NAME"  # of a line
OPERATOR = b"operator"
RELOAD_INTERVAL = 1.25  # seconds between looks at the file

# How a change gets into force
#
# Nobody can tell a file that is being written from one that is done, and the half of a
# list says that the other half is revoked.  So a change counts once two looks, an
# interval apart, have found the same; whoever is revoked is out within two intervals.
#
#   found the same twice     in force
#   ---------------------    ------------------------------------------------------
#   good lines               they
#   no key, after some       what was: an empty file is what most accidents leave
#   some bad lines           what was, without the keys that no good line has now
#   no file                  nobody: it was removed, or what it is on is gone
#   what cannot be used      what was: that says nothing about any key
#
# A reload is somebody's word that the file is as it is meant to be: what it finds
# counts at once, and an empty file too.


class _Client(NamedTuple):
    """What a line says of its key: its name, and whether it is an operator's."""

    name: str
    isOperator: bool


@implementer(IClientPolicy)
class AuthorizedKeys:
    """
    The clients that a server lets in.

    The file has one C{KEY NAME} a line, with the word C{operator} before it for whom a
    handler may let do more than others.  A name is one word of 1 to 64 printable
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
        self.path = expanded(path)
        # Before it is read: a change in between is read once more, not missed.
        self._version = self._currentVersion()
        found = self._find()
        if isinstance(found, KeyFileError):
            raise found
        if found is None:
            raise self._missing()
        self._clients, bad = self._parse(found)
        if bad is not None:
            raise bad
        # What the look before found, if that is not in force: its text stands for an
        # error, of which no two are equal.
        self._seen: tuple[object, bytes | str | None] | None = None
        self._saidUnavailable = False
        self._report(None, {})

    def __len__(self) -> int:
        """@return: how many keys are let in."""
        return len(self._clients)

    def checkClient(self, publicKey: PublicKey, address: IAddress) -> str | None:
        """
        Look a client up.

        @param publicKey: the key that it has proved.
        @param address: not looked at.
        @return: its name, or None to refuse it.
        @see: L{IClientPolicy.checkClient}
        """
        client = self._clients.get(publicKey)
        return None if client is None else client.name

    def isOperator(self, publicKey: PublicKey) -> bool:
        """Tell whether a key is let in, and marked as an operator's."""
        client = self._clients.get(publicKey)
        return client is not None and client.isOperator

    def look(self) -> frozenset[PublicKey]:
        """
        See whether the file has changed, and take a change that the look before
        has seen too.

        @return: the keys that are no longer let in.
        """
        version = self._currentVersion()
        if version == self._version:
            self._seen = None
            return frozenset()
        found = self._find()
        seen = (version, str(found) if isinstance(found, KeyFileError) else found)
        if seen != self._seen:
            self._seen = seen
            return frozenset()
        return self._take(version, found, isMeant=False)

    def reload(self) -> frozenset[PublicKey]:
        """
        Read the file now, and take what it says as meant: also that nobody is let
        in.

        The log says what was read; if the file cannot be used, or has a bad line,
        why.

        @return: the keys that are no longer let in.
        """
        version = self._currentVersion()
        self._saidUnavailable = False
        return self._take(version, self._find(), isMeant=True)

    def keysOf(self, name: str) -> frozenset[PublicKey]:
        """Find the keys that are let in under a name."""
        return frozenset(
            key for key, client in self._clients.items() if client.name == name
        )

    def add(self, publicKey: PublicKey, name: str) -> None:
        """
        Add a line to the file; what is in force changes with C{reload}.

        @raise KeyFileError: the file cannot be changed, or has the key already, or the
            name is none.
        """
        line = f"{publicKey} {name}".encode("utf-8", "replace")
        try:
            read = self._parseLine(0, line)[1].name
        except KeyFileError:
            read = ""
        if not name or read != name:
            raise KeyFileError(
                f"{name!r} is no name: give one word of 1 to {MAX_NAME} printable "
                "characters",
                str(self.path),
            )

        def append(content: bytes) -> bytes:
            """Put the line behind the last one."""
            if publicKey in self._parse(content)[0]:
                raise KeyFileError(
                    f"{self.path} has {publicKey} already", str(self.path)
                )
            end = b"" if content.endswith(b"\n") or not content else b"\n"
            return content + end + line + b"\n"

        self._edit(append)

    def remove(self, publicKeys: Collection[PublicKey]) -> int:
        """
        Take the lines of keys out of the file; what is in force changes with
        C{reload}.

        @return: how many there were.
        @raise KeyFileError: the file cannot be changed.
        """
        gone: set[int] = set()

        def takeOut(content: bytes) -> bytes:
            """Leave out the lines."""
            for number, line in lines(content):
                if self._parseLine(number, line)[0] in publicKeys:
                    gone.add(number)
            kept = enumerate(content.split(b"\n"), 1)
            return b"\n".join(line for number, line in kept if number not in gone)

        self._edit(takeOut)
        return len(gone)

    def _edit(self, change: Callable[[bytes], bytes]) -> None:
        """Change the file, unless others do meanwhile: all of it or nothing."""
        with locked(self.path):
            try:
                former = os.stat(self.path)
                # A rename would also take the place of a file that we may not write.
                os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as error:
                raise KeyFileError(
                    f"cannot change {self.path}: {error.strerror}", str(self.path)
                ) from error
            content = readFile(self.path, limit=MAX_FILE, forbidden=OTHERS_WRITE)
            bad = self._parse(content)[1]
            if bad is not None:
                raise bad
            changed = change(content)
            if len(changed) > MAX_FILE:
                raise KeyFileError(f"{self.path} would be too long", str(self.path))
            if not writeFile(self.path, changed, replace=True, former=former):
                raise KeyFileError(
                    f"{self.path} was changed by somebody else meanwhile, and is left "
                    "as it is: try again",
                    str(self.path),
                )

    def _take(
        self,
        version: tuple[int, ...] | None,
        found: bytes | KeyFileError | None,
        isMeant: bool,
    ) -> frozenset[PublicKey]:
        """Let what C{_find} found decide who is in; return who no longer is."""
        self._seen = None
        if isinstance(found, KeyFileUnavailable):
            # The version stays that of what is in force: each look tries again.
            if not self._saidUnavailable:
                self._saidUnavailable = True
                self._keep(str(found))
            return frozenset()
        self._version = version
        self._saidUnavailable = False
        if isinstance(found, KeyFileError):
            self._keep(str(found))
            return frozenset()
        clients: dict[PublicKey, _Client]
        bad: KeyFileError | None
        if found is None:
            clients, bad = {}, self._missing()
        else:
            clients, bad = self._parse(found)
            if not clients and self._clients and not isMeant:
                why = f"{self.path} has no keys any more" if bad is None else str(bad)
                self._keep(f"{why}; if nobody is to be let in, send SIGHUP")
                return frozenset()
            if bad is not None:
                # It takes away, and adds nothing: nobody knows what the bad line was
                # to say, which may be that of a merge with both versions around it.
                clients = {
                    key: client._replace(
                        isOperator=client.isOperator and self._clients[key].isOperator
                    )
                    for key, client in clients.items()
                    if key in self._clients
                }
        former, self._clients = self._clients, clients
        self._report(bad, former)
        return frozenset(former.keys() - clients.keys())

    def _keep(self, why: str) -> None:
        """Say that what was read before stays in force."""
        _log.warn(
            "{error}; until then what was read before stays in force: {summary}",
            error=why,
            summary=self._summary(),
            count=len(self._clients),
            path=str(self.path),
        )

    def _report(
        self, bad: KeyFileError | None, former: dict[PublicKey, _Client]
    ) -> None:
        """Say what is in force now, and what is wrong with the file."""
        clients = self._clients
        numbers = {
            "of operators": sum(client.isOperator for client in clients.values()),
            "fewer": len(former.keys() - clients.keys()),
            "new": len(clients.keys() - former.keys()) if former else 0,
            "renamed": sum(
                former.get(key, client).name != client.name
                for key, client in clients.items()
            ),
        }
        changes = [f"{number} {what}" for what, number in numbers.items() if number]
        _log.emit(
            LogLevel.info if bad is None else LogLevel.warn,
            "{path}: {summary}" if bad is None else "{error}; until then: {summary}",
            path=str(self.path),
            error=None if bad is None else str(bad),
            summary=self._summary(*changes),
            count=len(clients),
        )

    def _summary(self, *changes: str) -> str:
        """Say how many are let in, and what has changed of them."""
        count = len(self._clients)
        summary = ", ".join([f"{count} key{'s' * (count != 1)}", *changes])
        return summary if count else f"{summary}; nobody is let in"

    def _currentVersion(self) -> tuple[int, ...] | None:
        """Tell one version of the file from another; None if there is none."""
        try:
            return versionOf(os.stat(self.path))
        except OSError:
            return None

    def _find(self) -> bytes | KeyFileError | None:
        """Read the file, if there is one, or say why it cannot be used."""
        try:
            return readFile(self.path, limit=MAX_FILE, forbidden=OTHERS_WRITE)
        except FileNotFoundError:
            return None
        except KeyFileError as error:
            return error

    def _missing(self) -> KeyFileError:
        """Make the error for a file that is not there."""
        return KeyFileError(
            f"there is no authorized-keys file {self.path}; make one with a line "
            "`KEY NAME` for each client, KEY as `aesm pubkey FILE` prints it",
            str(self.path),
        )

    def _parse(
        self, content: bytes
    ) -> tuple[dict[PublicKey, _Client], KeyFileError | None]:
        """Read what the good lines say, and what is wrong with the first bad one."""
        clients: dict[PublicKey, _Client] = {}
        firstBad: KeyFileError | None = None
        for number, line in lines(content):
            try:
                publicKey, client = self._parseLine(number, line)
                if publicKey in clients:
                    raise KeyFileError(
                        f"line {number} of {self.path} has a key that an earlier line "
                        "has already; remove one of them",
                        str(self.path),
                    )
            except KeyFileError as error:
                firstBad = firstBad or error
            else:
                clients[publicKey] = client
        return clients, firstBad

    def _parseLine(self, number: int, line: bytes) -> tuple[PublicKey, _Client]:
        """Read a line."""
        first, *rest = line.split(None, 1)
        isOperator = first == OPERATOR
        text, name = pair(
            self.path, number, b"".join(rest) if isOperator else line, FORM
        )
        if len(name) > MAX_NAME:
            raise KeyFileError(
                f"line {number} of {self.path} has a name of more than "
                f"{MAX_NAME} characters; shorten it",
                str(self.path),
            )
        try:
            return PublicKey.fromText(text), _Client(name, isOperator)
        except ValueError:
            raise badLine(self.path, number, FORM) from None
