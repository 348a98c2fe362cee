"""
Whom to talk to: the client's trust in a server's key.

::

    trust = Pinned("mTqS…=")                  # this key and no other
    trust = KnownServers()                    # the key it had the first time
    trust = KnownServers(policy="strict")     # a key that is in the file

A file of known servers is lines of two words, meant to be read and edited by
hand; blank lines and lines that begin with C{#} say nothing.  A line that is
neither is an error that names it: what somebody meant by it is never guessed,
and the rest is never used as if it were not there.  The file holds no secrets,
so that others may read it, but only its owner may write it, and it must be a
file of its own, since it is replaced at each change.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from twisted.logger import Logger
from zope.interface import implementer

from aesm.errors import ServerKeyChanged, UntrustedServer
from aesm.interfaces import INextKeys, ITrustPolicy
from aesm.trust.files import (
    MAX_FILE,
    OTHERS_WRITE,
    badLine,
    locked,
    pairs,
    readFile,
    stateDirectory,
    writeFile,
)
from aesm.trust.keys import PublicKey

__all__ = ["AnyServer", "KnownServers", "Pinned"]

# Not on the classes: there Twisted would name it after each.
_log = Logger(namespace="aesm.trust")

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


@implementer(INextKeys)
class KnownServers:
    """
    Trust in the key that a server had when it was first met.

    The file has one C{LOCATION KEY} a line; several lines of one location are
    several keys that it may have.  A location is any printable text, in the file
    with all but printable ASCII, and C{#} and C{%}, percent-encoded; the same
    server at another location is another server here.

    The file is read at each check and changed under a lock, so that any number
    of processes can share it; comments and the order of lines stay.

    A key that a server announces as its next one, while it proves the one that
    is known, is kept in a second file of the same form, C{PATH.next}.  When the
    server proves that key it takes the place of the old one, and nobody is asked.

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
        try:
            if self._isKnown(self._read(), location, publicKey):
                return True
        except ServerKeyChanged:
            if self._switch(location, publicKey):
                return True
            raise
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

    def announced(self, location: str, publicKey: PublicKey) -> None:
        """
        Know the next key of a server that has just proved its present one.

        @param location: what the client dialled.
        @param publicKey: the key that the server will have.
        @raise KeyFileError: a file is unsafe, has a bad line, or cannot be
            written.
        @see: L{INextKeys.announced<aesm.interfaces.INextKeys.announced>}
        """
        known = [e.publicKey for e in self._of(self._read(), location)]
        following = self._following()
        if publicKey in known or (location, publicKey) in following.entries():
            return
        with locked(self.path):
            following._replace(location, [publicKey])
        _log.info(
            "{location} announces its next key {publicKey}; it is remembered in {path}",
            location=location,
            publicKey=str(publicKey),
            path=str(following.path),
        )

    def remember(self, location: str, publicKey: PublicKey) -> None:
        """
        Know one more key of a location.

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
        files = [self, self._following()]
        if not any(known._of(known._read(), location) for known in files):
            return 0  # without making a lock, or a directory for it
        with locked(self.path):
            return sum(known._replace(location, []) for known in files)

    def entries(self) -> list[tuple[str, PublicKey]]:
        """
        List what is known.

        @return: locations and their keys, in the order of the file.
        @raise KeyFileError: the file is unsafe or has a bad line.
        """
        return [(e.location, e.publicKey) for e in self._parse(self._read())]

    def _following(self) -> KnownServers:
        """
        Open the file of announced keys.

        @return: what is in it.
        """
        return KnownServers(f"{self.path}.next", "strict")

    def _switch(self, location: str, publicKey: PublicKey) -> bool:
        """
        Let an announced key take the place of the one that was known.  Where
        several were known, put there by hand, it joins them.

        @param location: what the client dialled.
        @param publicKey: the key that the server has proved.
        @return: whether it was announced.
        """
        following = self._following()
        if (location, publicKey) not in following.entries():
            return False
        with locked(self.path):
            if (location, publicKey) in self.entries():
                return True
            content = self._read()
            if len(self._of(content, location)) > 1:
                self._append(content, _line(location, publicKey))
            else:
                self._replace(location, [publicKey])
            following._replace(location, [])
        _log.info(
            "{location} has switched to the key {publicKey} that it announced",
            location=location,
            publicKey=str(publicKey),
            path=str(self.path),
        )
        return True

    def _replace(self, location: str, publicKeys: Sequence[PublicKey]) -> int:
        """
        Write the file with other keys for a location.  The lock must be held.

        @param location: where the server is.
        @param publicKeys: its keys from now on.
        @return: how many lines were removed.
        @raise KeyFileError: it cannot be written.
        """
        content = self._read()
        gone = {entry.number for entry in self._of(content, location)}
        if gone or publicKeys:
            lines = content.split(b"\n")
            kept = [line for number, line in enumerate(lines, 1) if number not in gone]
            for publicKey in publicKeys:
                if kept[-1]:
                    kept.append(b"")
                kept[-1:] = [_line(location, publicKey).encode("ascii"), b""]
            writeFile(self.path, b"\n".join(kept), replace=True)
        return len(gone)

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
        for number, word, text in pairs(self.path, content, "LOCATION KEY"):
            try:
                location = unquote(word, errors="strict")
                publicKey = PublicKey.fromText(text)
                _line(location, publicKey)  # as we would write it
            except ValueError:
                raise badLine(self.path, number, "LOCATION KEY") from None
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
