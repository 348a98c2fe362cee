"""
Whom to talk to: the client's trust in a server's key, and the server's list of
its clients' keys.

::

    trust = Pinned("mTqS…=")                  # this key and no other
    trust = KnownServers()                    # the key it had the first time
    trust = KnownServers(policy="strict")     # a key that is in the file
    clients = AuthorizedKeys("authorized_keys")
    clients.reload()                          # now and then

Both kinds of file are lines of two words, meant to be read and edited by hand;
blank lines and lines that begin with C{#} say nothing.  A line that is neither
is an error that names it: what somebody meant by it is never guessed, and the
rest is never used as if it were not there.  The files hold no secrets, so that
others may read them, but only their owner may write them.  The known servers
must be a file of their own, since they are replaced at each change; the
authorized keys may be a symbolic link, as orchestrators like to mount them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from zope.interface import implementer

from aesm.errors import KeyFileError, ServerKeyChanged, UntrustedServer
from aesm.files import OTHERS_WRITE, locked, readFile, writeFile
from aesm.interfaces import IClientPolicy, ITrustPolicy
from aesm.keys import PublicKey, stateDirectory

__all__ = ["AnyServer", "AuthorizedKeys", "KnownServers", "Pinned"]

# Not on the classes: there Twisted would name it after each.
_log = Logger(namespace="aesm.trust")

MAX_FILE = 4 << 20  # bytes: some fifty thousand lines
MAX_NAME = 64  # characters
POLICIES = ("accept-new", "strict")

# The printable ASCII that a location may have as it is in a file: all but the
# blank, "#" and "%".
_PLAIN = "!\"$&'()*+,-./:;<=>?@[\\]^_`{|}~"


@implementer(ITrustPolicy)
class Pinned:
    """
    Trust in the keys that are named here, wherever they are met.

    @ivar publicKeys: the keys.
    """

    def __init__(self, *publicKeys: PublicKey | str) -> None:
        """
        @param publicKeys: one or more keys, or their text.
        @raise TypeError: one is neither.
        @raise ValueError: there is none, or one's text is not a key.
        """
        if not publicKeys:
            raise ValueError("pin one public key at least")
        self.publicKeys = frozenset(
            key if isinstance(key, PublicKey) else PublicKey.fromText(key)
            for key in publicKeys
        )

    def checkServer(self, location: str, publicKey: PublicKey) -> bool:
        """
        Accept the pinned keys.

        @param location: what the client dialled, for the error.
        @param publicKey: the key that the server has proved.
        @return: True.
        @raise UntrustedServer: the key is not pinned.
        @see: L{ITrustPolicy.checkServer}
        """
        if publicKey in self.publicKeys:
            return True
        pinned = " or ".join(sorted(map(str, self.publicKeys)))
        raise UntrustedServer(
            f"the server at {location} has the key {publicKey}, and only {pinned} "
            "is pinned; it is another server, or somebody is in between: pin its "
            "key only if its operator confirms it",
            str(publicKey),
        )


@implementer(ITrustPolicy)
class AnyServer:
    """
    Trust in whoever answers.

    Whoever can get into the path reads and writes everything: for tests, or
    where a pre-shared key already says who the server is.
    """

    def checkServer(self, location: str, publicKey: PublicKey) -> bool:
        """
        Accept any key.

        @param location: what the client dialled.
        @param publicKey: the key that the server has proved.
        @return: True.
        @see: L{ITrustPolicy.checkServer}
        """
        return True


class _Entry(NamedTuple):
    """
    One line of known servers.

    @ivar number: which line of the file it is, from 1.
    @ivar location: where a server is.
    @ivar publicKey: a key that it may have.
    """

    number: int
    location: str
    publicKey: PublicKey


@implementer(ITrustPolicy)
class KnownServers:
    """
    Trust in the key that a server had when it was first met.

    The file has one C{LOCATION KEY} a line; several lines of one location are
    several keys that it may have.  A location is any printable text, in the file
    with all but printable ASCII, and C{#} and C{%}, percent-encoded; the same
    server at another location is another server here.

    The file is read at each check and changed under a lock, so that any number
    of processes can share it; comments and the order of lines stay.

    @ivar path: the file.
    @ivar policy: C{"accept-new"} or C{"strict"}.
    @see: RFC 4251 section 4.1, on the same bargain in SSH
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, policy: str = "accept-new"
    ) -> None:
        """
        @param path: the file, made when the first server is met; None for
            C{known_servers} in the state directory.
        @param policy: what to do with a server that is not in the file:
            C{"accept-new"} remembers its key, C{"strict"} refuses it.
        @raise ValueError: there is no such policy.
        """
        if policy not in POLICIES:
            raise ValueError(f"policy is one of {POLICIES}, not {policy!r}")
        self.policy = policy
        self.path = stateDirectory() / "known_servers" if path is None else Path(path)

    def checkServer(self, location: str, publicKey: PublicKey) -> bool:
        """
        Accept a key that is known for the location, and remember the first.

        @param location: what the client dialled.
        @param publicKey: the key that the server has proved.
        @return: True.
        @raise ServerKeyChanged: other keys are known for it.
        @raise UntrustedServer: none is, and the policy is strict.
        @raise KeyFileError: the file is unsafe, has a bad line, or cannot be
            written.
        @raise ValueError: the location is not printable text.
        @see: L{ITrustPolicy.checkServer}
        """
        line = _line(location, publicKey)
        if self._isKnown(self._read(), location, publicKey):
            return True
        if self.policy == "strict":
            raise UntrustedServer(
                f"the server at {location} has the key {publicKey}, and {self.path} "
                "does not know it; if its operator confirms the key, add the line "
                f"`{line}` to that file",
                str(publicKey),
            )
        with locked(self.path):
            # Somebody else may have met it since.
            content = self._read()
            if self._isKnown(content, location, publicKey):
                return True
            self._append(content, line)
        _log.info(
            "first contact with {location}: its key {publicKey} is remembered in "
            "{path}",
            location=location,
            publicKey=str(publicKey),
            path=str(self.path),
        )
        return True

    def remember(self, location: str, publicKey: PublicKey) -> None:
        """
        Know one more key of a location, as when its server has announced its
        next one.

        @param location: where the server is.
        @param publicKey: a key that it may have.
        @raise KeyFileError: the file is unsafe, has a bad line, or cannot be
            written.
        @raise ValueError: the location is not printable text.
        """
        line = _line(location, publicKey)
        with locked(self.path):
            content = self._read()
            if publicKey not in [e.publicKey for e in self._of(content, location)]:
                self._append(content, line)

    def forget(self, location: str) -> int:
        """
        Know nothing of a location any more.

        @param location: where a server was.
        @return: how many lines were removed.
        @raise KeyFileError: the file is unsafe, has a bad line, or cannot be
            written.
        """
        if not self._of(self._read(), location):
            return 0  # without making a lock, or a directory for it
        with locked(self.path):
            content = self._read()
            gone = {entry.number for entry in self._of(content, location)}
            kept = [
                line
                for number, line in enumerate(content.split(b"\n"), 1)
                if number not in gone
            ]
            writeFile(self.path, b"\n".join(kept), replace=True)
        return len(gone)

    def entries(self) -> list[tuple[str, PublicKey]]:
        """
        List what is known.

        @return: locations and their keys, in the order of the file.
        @raise KeyFileError: the file is unsafe or has a bad line.
        """
        return [(e.location, e.publicKey) for e in self._parse(self._read())]

    def _read(self) -> bytes:
        """
        Read the file.

        @return: its bytes; none if there is no file yet.
        @raise KeyFileError: it is unsafe.
        """
        try:
            return readFile(self.path, limit=MAX_FILE, forbidden=OTHERS_WRITE)
        except FileNotFoundError:
            return b""

    def _parse(self, content: bytes) -> Iterator[_Entry]:
        """
        Read the lines.

        @param content: the bytes of the file.
        @return: each line that says something.
        @raise KeyFileError: a line is bad.
        """
        for number, word, text in _pairs(self.path, content, "LOCATION KEY"):
            try:
                location = unquote(word, errors="strict")
                publicKey = PublicKey.fromText(text)
                _line(location, publicKey)  # as we would write it
            except ValueError:
                raise _badLine(self.path, number, "LOCATION KEY") from None
            yield _Entry(number, location, publicKey)

    def _of(self, content: bytes, location: str) -> list[_Entry]:
        """
        Pick the lines of one location.

        @param content: the bytes of the file.
        @param location: where a server is.
        @return: its lines.
        @raise KeyFileError: a line, of any location, is bad.
        """
        return [e for e in self._parse(content) if e.location == location]

    def _isKnown(self, content: bytes, location: str, publicKey: PublicKey) -> bool:
        """
        Compare a key with those that are known.

        @param content: the bytes of the file.
        @param location: where the server is.
        @param publicKey: the key that it has proved.
        @return: True if the key is known, False if the location is not.
        @raise ServerKeyChanged: the location is known with other keys only.
        @raise KeyFileError: a line is bad.
        """
        entries = self._of(content, location)
        known = tuple(str(entry.publicKey) for entry in entries)
        if not known:
            return False
        if str(publicKey) in known:
            return True
        numbers = ", ".join(str(entry.number) for entry in entries)
        where = f"line{'s' if len(entries) > 1 else ''} {numbers}"
        raise ServerKeyChanged(
            f"the server at {location} now has the key {publicKey}, but {where} of "
            f"{self.path} has {' and '.join(known)}: somebody may be in between; only "
            f"if its operator confirms the new key, remove {where}, or run "
            f"`aesm known --forget {shlex.quote(location)}`, and connect again",
            str(publicKey),
            known,
        )

    def _append(self, content: bytes, line: str) -> None:
        """
        Write the file with one line more.  The lock must be held.

        @param content: the bytes that it has.
        @param line: the line, without its end.
        @raise KeyFileError: it cannot be written.
        """
        if content and not content.endswith(b"\n"):
            content += b"\n"
        writeFile(self.path, content + line.encode("ascii") + b"\n", replace=True)


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
        for number, text, name in _pairs(self.path, content, "KEY NAME"):
            try:
                publicKey = PublicKey.fromText(text)
            except ValueError:
                raise _badLine(self.path, number, "KEY NAME") from None
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


def _line(location: str, publicKey: PublicKey) -> str:
    """
    Write a line of known servers.

    @param location: where the server is.
    @param publicKey: its key.
    @return: the line, ASCII, without its end.
    @raise ValueError: the location is empty, or has control, format or other
        characters that do not print.
    @see: RFC 3986 section 2.1
    """
    if not location or not location.isprintable():
        raise ValueError(f"a location is printable text, not {location!r}")
    return f"{quote(location, safe=_PLAIN)} {publicKey}"


def _pairs(path: Path, content: bytes, form: str) -> Iterator[tuple[int, str, str]]:
    """
    Read lines of two words.

    @param path: the file, for the error.
    @param content: its bytes; lines end in LF or CRLF.
    @param form: what a line looks like, for the error.
    @return: the number of each line that says something, from 1, and its words,
        printable.
    @raise KeyFileError: a line that says something says more or less than that,
        or is not UTF-8.
    """
    for number, line in enumerate(content.split(b"\n"), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        try:
            first, second = (word.decode("utf-8") for word in words)
        except ValueError:
            raise _badLine(path, number, form) from None
        if not (first + second).isprintable():
            raise _badLine(path, number, form)
        yield number, first, second


def _badLine(path: Path, number: int, form: str) -> KeyFileError:
    """
    Make the error for a line that cannot be read.

    @param path: the file.
    @param number: which line, from 1.
    @param form: what it should look like.
    @return: the error; it does not show the line.
    """
    return KeyFileError(
        f"line {number} of {path} is not `{form}`, KEY being 44 characters of "
        "standard base64; mend or remove it",
        str(path),
    )
