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
so that others may read it, but only its owner may write it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import NamedTuple

from twisted.logger import Logger
from zope.interface import implementer

from aesm.errors import (
    KeyFileError,
    KeyFileUnavailable,
    ServerKeyChanged,
    UntrustedServer,
)
from aesm.interfaces import INextKeys, ITrustPolicy
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
    stateDirectory,
    writeFile,
)
from aesm.trust.keys import PublicKey
from aesm.trust.locations import canonicalLocation, quoteLocation, unquoteLocation

# Not on the classes: there Twisted would name it after each.
_log = Logger(namespace="aesm.trust")

POLICIES = ("accept-new", "strict")
SETTLED = 1.0  # seconds in which a file that is being written is seen to change

# What a program has seen in the file, it does not forget when the file does
#
# Where a line is missing, whoever answers is believed: so half of a list, or a folder
# that is away for a moment, lets anybody in between.  Lines that come count at once.
# Lines that go count when two looks, a second apart, find the same; until then, and as
# long as nothing at all is left, a server is accepted by what was there before, or the
# attempt fails in a way that may pass.  To empty the file on purpose is done with
# forget(), or before the program starts.


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
        Accept any key, anywhere.

        @return: True.
        @see: L{ITrustPolicy.checkServer}
        """
        return True


class _Entry(NamedTuple):
    """One line of known servers, with its number from 1."""

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
    server proves that key, it takes the place of the old one without a question.

    @ivar path: the file.
    @ivar policy: C{"accept-new"} or C{"strict"}.
    @see: RFC 4251 section 4.1, on the same bargain in SSH
    """

    def __init__(self, path: AnyPath | None = None, policy: str = "accept-new") -> None:
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
        self._isFresh = True  # has not looked at the file yet
        # What counts: the content, and its pairs.
        self._content = b""
        self._known: frozenset[tuple[str, PublicKey]] = frozenset()
        self._seen: tuple[bytes, float] | None = None  # another content, since when
        self.path = (
            stateDirectory() / "known_servers" if path is None else expanded(path)
        )

    def checkServer(self, location: str, publicKey: PublicKey) -> bool:
        """
        Accept a key that is known for the location, and remember the first.

        @param location: what the client dialled.
        @param publicKey: the key that the server has proved.
        @return: True.
        @raise ServerKeyChanged: other keys are known for it.
        @raise UntrustedServer: none is, and the policy is strict.
        @raise KeyFileError: the file is unsafe, has a bad line, or cannot be
            written; L{KeyFileUnavailable} if that may pass, as where lines that
            were there are missing since a moment ago.
        @raise ValueError: the location is not printable text.
        @see: L{ITrustPolicy.checkServer}
        """
        location = canonicalLocation(location)
        line = _line(location, publicKey)
        try:
            # Without the lock: it is the usual case, and may be on a disk that this
            # user can only read.
            if self._isAccepted(location, publicKey):
                return True
        except ServerKeyChanged:
            if self._promote(location, publicKey):
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
            if self._isAccepted(location, publicKey):
                return True
            self._append(self._content, line)
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
        Remember the next key of a server that has just proved its present one.

        @param location: what the client dialled.
        @param publicKey: the key that the server will have.
        @raise KeyFileError: a file is unsafe, has a bad line, or cannot be
            written.
        @see: L{INextKeys.announced<aesm.interfaces.INextKeys.announced>}
        """
        location = canonicalLocation(location)
        known = [e.publicKey for e in self._entriesOf(self._read(), location)]
        nextKeys = self._nextKeys()
        if publicKey in known or (location, publicKey) in nextKeys.entries():
            return
        with locked(self.path):
            nextKeys._replace(location, publicKey)
        _log.info(
            "{location} announces its next key {publicKey}; it is remembered in {path}",
            location=location,
            publicKey=str(publicKey),
            path=str(nextKeys.path),
        )

    def remember(self, location: str, publicKey: PublicKey) -> None:
        """
        Add a key to those of a location.

        @param location: where the server is.
        @param publicKey: a key that it may have.
        @raise KeyFileError: the file is unsafe, has a bad line, or cannot be
            written.
        @raise ValueError: the location is not printable text.
        """
        location = canonicalLocation(location)
        line = _line(location, publicKey)
        with locked(self.path):
            content = self._read()
            known = [e.publicKey for e in self._entriesOf(content, location)]
            if publicKey not in known:
                self._append(content, line)

    def forget(self, location: str) -> int:
        """
        Remove all keys of a location, also those that were announced.

        @param location: where a server was.
        @return: how many lines were removed.
        @raise KeyFileError: the file is unsafe, has a bad line, or cannot be
            written.
        """
        location = canonicalLocation(location)
        files = [self, self._nextKeys()]
        if not any(known._entriesOf(known._read(), location) for known in files):
            return 0  # without making a lock file, or a directory for it
        with locked(self.path):
            return sum(known._replace(location, None) for known in files)

    def entries(self) -> list[tuple[str, PublicKey]]:
        """
        List what is known.

        @return: locations and their keys, in the order of the file.
        @raise KeyFileError: the file is unsafe or has a bad line.
        """
        return [(e.location, e.publicKey) for e in self._parse(self._read())]

    def _isAccepted(self, location: str, publicKey: PublicKey) -> bool:
        """Tell whether the key is known, or the location new, as the file counts."""
        unsettled = self._look()
        if unsettled is None:
            return self._isKnown(self._content, location, publicKey)
        if (location, publicKey) in self._known | unsettled:
            return True
        raise KeyFileUnavailable(
            f"{self.path} has lost lines, or is being written, and never had the key "
            f"{publicKey} for {location}; try again in a second, or start this "
            "program anew if the file is as it should be",
            str(self.path),
        )

    def _look(self) -> frozenset[tuple[str, PublicKey]] | None:
        """Let the file's content count, if it is settled; else return its pairs."""
        content = self._read()
        if self._isFresh:
            # Nothing is known that could be missing.
            self._take(content)
            return None
        if content == self._content:
            self._seen = None
            return None
        bad: KeyFileError | None = None
        found: frozenset[tuple[str, PublicKey]] = frozenset()
        try:
            found = self._pairs(content)
        except KeyFileError as error:
            bad = error
        lost = self._known - found
        if lost or bad is not None:
            now = time.monotonic()
            if self._seen is None or self._seen[0] != content:
                self._seen = content, now
                _log.warn(
                    "{path} has lost {lost} of {count} keys, or is being written; what "
                    "it had stays in force until the file is settled",
                    path=str(self.path),
                    lost=len(lost),
                    count=len(self._known),
                )
            if now - self._seen[1] < SETTLED or not (found or bad):
                return found
        if bad is not None:
            raise bad
        if lost:
            _log.info(
                "{path}: {keys}, {lost} fewer",
                path=str(self.path),
                keys=f"{len(found)} key{'s' * (len(found) != 1)}",
                lost=len(lost),
            )
        self._take(content)
        return None

    def _take(self, content: bytes) -> None:
        """Let a content of the file count."""
        self._known = self._pairs(content)
        self._content = content
        self._isFresh = False
        self._seen = None

    def _pairs(self, content: bytes) -> frozenset[tuple[str, PublicKey]]:
        """Read locations and their keys."""
        return frozenset((e.location, e.publicKey) for e in self._parse(content))

    def _write(self, content: bytes) -> None:
        """Replace the file.  The lock must be held."""
        writeFile(self.path, content, replace=True)
        self._take(content)

    def _nextKeys(self) -> KnownServers:
        """Open the file of announced keys, which has the same form."""
        return KnownServers(f"{self.path}.next", "strict")

    def _promote(self, location: str, publicKey: PublicKey) -> bool:
        """Let an announced key take the place of the known one; tell if it was one."""
        nextKeys = self._nextKeys()
        if (location, publicKey) not in nextKeys.entries():
            return False
        with locked(self.path):
            if (location, publicKey) in self.entries():
                return True  # another process was first
            content = self._read()
            if len(self._entriesOf(content, location)) > 1:
                # Somebody has put several there by hand: they are not ours to
                # remove.
                self._append(content, _line(location, publicKey))
            else:
                self._replace(location, publicKey)
            nextKeys._replace(location, None)
        _log.info(
            "{location} has switched to the key {publicKey} that it announced",
            location=location,
            publicKey=str(publicKey),
            path=str(self.path),
        )
        return True

    def _replace(self, location: str, publicKey: PublicKey | None) -> int:
        """Write the file, the lock held, with one key for a location, or none."""
        content = self._read()
        old = {entry.number for entry in self._entriesOf(content, location)}
        lines = enumerate(content.split(b"\n"), 1)
        kept = b"\n".join(line for number, line in lines if number not in old)
        if publicKey is not None:
            self._append(kept, _line(location, publicKey))
        elif old:
            self._write(kept)
        return len(old)

    def _read(self) -> bytes:
        """Read the file, which is empty if there is none yet."""
        try:
            return readFile(self.path, limit=MAX_FILE, forbidden=OTHERS_WRITE)
        except FileNotFoundError:
            if self.path.is_symlink():
                raise KeyFileUnavailable(
                    f"{self.path} is a link that leads to no file; mend it, or try "
                    "again when what it leads to is there",
                    str(self.path),
                ) from None
            return b""

    def _parse(self, content: bytes) -> Iterator[_Entry]:
        """Read the lines of the file's content."""
        for number, line in lines(content):
            word, text = pair(self.path, number, line, "LOCATION KEY")
            try:
                location = unquoteLocation(word)
                publicKey = PublicKey.fromText(text)
            except ValueError:
                raise badLine(self.path, number, "LOCATION KEY") from None
            yield _Entry(number, location, publicKey)

    def _entriesOf(self, content: bytes, location: str) -> list[_Entry]:
        """Pick the lines of one location."""
        return [e for e in self._parse(content) if e.location == location]

    def _isKnown(self, content: bytes, location: str, publicKey: PublicKey) -> bool:
        """Tell whether the key is known, or the location new; refuse other keys."""
        entries = self._entriesOf(content, location)
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
        """Write the file's content and one line more.  The lock must be held."""
        if content and not content.endswith(b"\n"):
            content += b"\n"
        self._write(content + line.encode("ascii") + b"\n")


def _line(location: str, publicKey: PublicKey) -> str:
    """Write a line of known servers, ASCII, without its end."""
    return f"{quoteLocation(location)} {publicKey}"
