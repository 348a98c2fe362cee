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

Where they are by default says L{stateDirectory}.
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
    "stateDirectory",
    "writeFile",
]

AnyPath = str | os.PathLike[str]

MAX_FILE = 4 << 20  # bytes of a file of lines: some fifty thousand of them

OTHERS_ACCESS = 0o077  # what secrets forbid
OTHERS_WRITE = 0o022  # what files that are no secret forbid all the same

# The BSDs do not say ELOOP where O_NOFOLLOW meets a symbolic link.
_LINK_ERRNOS = {errno.ELOOP, errno.EMLINK, getattr(errno, "EFTYPE", errno.ELOOP)}


def stateDirectory() -> Path:
    """
    Say where keys and known servers are kept unless told otherwise.

    It is made, with mode 0700, when something is first written to it.

    @return: C{$AESM_HOME}, else C{$XDG_STATE_HOME/aesm}, else
        C{~/.local/state/aesm}.
    @raise KeyFileError: this user has no home directory.
    @see: XDG Base Directory Specification 0.8, which has relative paths ignored
    """
    own = os.environ.get("AESM_HOME")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(shared):
        return Path(shared, "aesm")
    try:
        return Path.home() / ".local" / "state" / "aesm"
    except RuntimeError:
        raise KeyFileError(
            "this user has no home directory to keep keys in; set AESM_HOME to a "
            "directory that it can write to"
        ) from None


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

    @param limit: the most bytes that it may have.
    @param forbidden: the mode bits that it must not have.
    @param followLinks: whether the path itself may be a symbolic link.
    @raise FileNotFoundError: there is no such file; what to do about that only
        the caller knows.
    @raise KeyFileError: it is not a file to be trusted, or cannot be read.
    @see: POSIX.1-2017, C{open}
    """
    # O_NONBLOCK: to open a FIFO that nobody writes to would wait for ever, before
    # fstat could tell what it is.  O_NOCTTY: a terminal does not become ours.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags if followLinks else flags | os.O_NOFOLLOW)
        try:
            checkStatus(path, os.fstat(descriptor), forbidden)
            with open(descriptor, "rb", closefd=False) as file:
                # One byte more than allowed tells "too long"; a size that fstat
                # gives may have grown since, and is 0 in /proc.
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
    Refuse a file whose kind, owner or mode lets others decide what is in it.

    @param path: for the error.
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
        # First: to close it now does not undo what others may have written.
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
                # Before the rename: a file system may write the name first, and
                # a power cut would leave an empty file in place of a good one.
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
    Bring a directory's new names to the disk.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Hold the lock for changes of a file, against other threads and processes.

    Readers need none, since a file is only ever replaced as a whole.

    @raise KeyFileError: the lock cannot be had.
    @see: C{flock(2)}
    """
    # Beside the file, and never removed: the file itself is replaced at each
    # change, and whoever waited for a lock on it would then hold one on the old.
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
    Read lines of two words, leaving out blank lines and comments.

    @param path: for the error.
    @param content: the bytes of the file; lines end in LF or CRLF.
    @param form: what a line looks like, for the error.
    @return: the number of each line, from 1, and its words, printable.
    @raise KeyFileError: a line has more or fewer words, or is not UTF-8.
    """
    # Not splitlines(): that splits at a lone CR too, and line numbers would not be
    # those that an editor shows.
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

    @param form: what it should look like.
    """
    # The line is not shown: it may be a secret in the wrong file.
    return KeyFileError(
        f"line {number} of {path} is not `{form}`, KEY being 44 characters of "
        "standard base64; mend or remove it",
        str(path),
    )
