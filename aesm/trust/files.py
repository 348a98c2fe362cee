"""
Small files that decide who may talk to whom: read with suspicion, written
whole or not at all.

Keys, pre-shared keys, known servers and authorized keys all go through here::

    content = readFile(path, limit=16384)
    writeFile(path, content, replace=False)
    with locked(path):
        writeFile(path, change(readFile(path, limit=16384)), replace=True)

A check of a path says nothing about the file that is opened a moment later, so
that everything is asked of the open descriptor.  A file appears under its name
only when it is complete and on the disk, so that neither a crash nor a reader
at the wrong moment finds half of it.  All of this is POSIX's: modes, owners,
hard links and C{flock}.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aesm.errors import KeyFileError

__all__ = [
    "MAX_FILE",
    "OTHERS_WRITE",
    "AnyPath",
    "badLine",
    "checkStatus",
    "locked",
    "pairs",
    "readFile",
    "writeFile",
]

AnyPath = str | os.PathLike[str]

MAX_FILE = 4 << 20  # bytes of a file of lines: some fifty thousand of them

OTHERS_ACCESS = 0o077  # what secrets forbid
OTHERS_WRITE = 0o022  # what files that are no secret forbid all the same

# The BSDs do not say ELOOP where O_NOFOLLOW meets a symbolic link.
_LINK_ERRNOS = {errno.ELOOP, errno.EMLINK, getattr(errno, "EFTYPE", errno.ELOOP)}


def readFile(
    path: Path,
    *,
    limit: int,
    forbidden: int = OTHERS_ACCESS,
    followLinks: bool = False,
) -> bytes:
    """
    Read a small regular file that only its owner can have prepared.

    Never blocks on a FIFO or a device, and never reads more than the limit.

    @param path: the file.
    @param limit: the most bytes that it may have.
    @param forbidden: the mode bits that it must not have.
    @param followLinks: whether the path itself may be a symbolic link.
    @return: all of its bytes.
    @raise FileNotFoundError: there is no such file; what to do about that only
        the caller knows.
    @raise KeyFileError: it is not a file to be trusted, or cannot be read.
    @see: POSIX.1-2017, C{open}
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags if followLinks else flags | os.O_NOFOLLOW)
        try:
            checkStatus(path, os.fstat(descriptor), forbidden)
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _LINK_ERRNOS and not followLinks:
            raise KeyFileError(
                f"{path} is a symbolic link; name the file itself", str(path)
            ) from None
        raise KeyFileError(
            f"cannot read {path}: {error.strerror}; it must be a regular file that "
            "this user can read",
            str(path),
        ) from error
    if len(content) > limit:
        raise KeyFileError(
            f"{path} has more than {limit} bytes; it cannot be what was meant, "
            "name another file",
            str(path),
        )
    return content


def checkStatus(path: Path, status: os.stat_result, forbidden: int) -> None:
    """
    Decide whether a file's kind, owner and mode let us believe it.

    @param path: the file, for the error.
    @param status: what C{fstat} says of it.
    @param forbidden: the mode bits that it must not have.
    @raise KeyFileError: it is not a regular file, belongs to somebody who is
        neither this user nor root, or has a forbidden bit.
    """
    quoted = shlex.quote(str(path))
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        problem = "is not a regular file; name one that is"
    elif status.st_uid not in (os.geteuid(), 0):
        problem = (
            f"belongs to another user (uid {status.st_uid}); make it yours with "
            f"`chown {os.geteuid()} {quoted}` if you trust its content"
        )
    elif mode & forbidden & OTHERS_WRITE:
        problem = (
            f"can be written by other users (mode {mode:04o}); check its content, "
            f"then run `chmod {'600' if forbidden == OTHERS_ACCESS else 'go-w'} "
            f"{quoted}`"
        )
    elif mode & forbidden:
        problem = f"is open to other users (mode {mode:04o}); run `chmod 600 {quoted}`"
    else:
        return
    raise KeyFileError(f"{path} {problem}", str(path))


def writeFile(path: Path, content: bytes, *, replace: bool) -> bool:
    """
    Write a whole file that only its owner can read, atomically and durably.

    The bytes go into a temporary beside it, which has mode 0600 (less what the
    umask takes away) from its first moment, and which gets the name once they
    are on the disk.  A missing directory is made with mode 0700.

    @param path: the file.
    @param content: all of its bytes.
    @param replace: whether to take the place of a file, or of whatever else
        has this name.
    @return: False if something has this name and was left alone.
    @raise KeyFileError: the file cannot be written; what was there still is.
    """
    directory = path.parent
    temporary = directory / f".aesm-{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            if replace:
                os.replace(temporary, path)
            else:
                try:
                    # Unlike a rename, a link never takes anything's place.
                    os.link(temporary, path)
                except FileExistsError:
                    return False
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        _syncDirectory(directory)
    except OSError as error:
        raise KeyFileError(
            f"cannot write {path}: {error.strerror}; name a directory that this "
            "user can write to",
            str(path),
        ) from error
    return True


def _syncDirectory(directory: Path) -> None:
    """
    Bring new names in a directory to the disk.

    @param directory: where they are.
    @raise OSError: it cannot be done.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Keep all others who ask, in this process or another, out of a file.

    The lock is on C{PATH.lock} beside it, which is empty and stays: the file
    itself is replaced at each change, and a lock on it would go with it.  Those
    who only read need none.

    @param path: the file.
    @raise KeyFileError: the lock cannot be had.
    @see: C{flock(2)}
    """
    lock = path.with_name(path.name + ".lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = None
    try:
        try:
            os.makedirs(lock.parent, 0o700, exist_ok=True)
            descriptor = os.open(lock, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise KeyFileError(
                f"cannot lock {lock}: {error.strerror}; {path} is left as it is",
                str(path),
            ) from error
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def pairs(path: Path, content: bytes, form: str) -> Iterator[tuple[int, str, str]]:
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
            raise badLine(path, number, form) from None
        if not (first + second).isprintable():
            raise badLine(path, number, form)
        yield number, first, second


def badLine(path: Path, number: int, form: str) -> KeyFileError:
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
