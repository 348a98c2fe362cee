"""
Small files that decide who may talk to whom: read with suspicion, written
whole or not at all.

Keys, pre-shared keys, known servers and authorized keys all go through here::

    content = readFile(path, limit=16384)
    writeFile(path, content, replace=False)
    with locked(path):
        writeFile(path, change(readFile(path, limit=16384)), replace=True)

A check of a path says nothing about the file that is opened a moment later, so
that everything is asked of the open descriptor, also where links lead to it.  An
error tells what is wrong with a file, which stays until somebody mends it, from
what is wrong at this moment (L{KeyFileUnavailable}).  A file appears under its name
only when it is complete and on the disk, so that neither a crash nor a reader
at the wrong moment finds half of it.  All of this is POSIX's: modes, owners,
hard links and C{flock}.

Where they are by default says L{stateDirectory}.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aesm.errors import KeyFileError, KeyFileUnavailable

AnyPath = str | os.PathLike[str]

MAX_FILE = 4 << 20  # bytes of a file of lines: some fifty thousand of them

OTHERS_ACCESS = 0o077  # what secrets forbid
OTHERS_WRITE = 0o022  # what files that are no secret forbid all the same

ROOT = 0  # uid
GROUP_READ = 0o040

# What a file or its path is to blame for, and only people mend.  All else may pass by
# itself: no descriptor or memory is free, the disk is full, its server is away.
_LASTING = {
    errno.EACCES,
    errno.EEXIST,  # what is to be a directory is a file, or a link to nowhere
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENODEV,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,  # a socket
    errno.EPERM,
    errno.EROFS,
}

_FULL = {errno.ENOSPC, errno.EDQUOT}

# What file systems say that cannot sync a directory, or anything at all: SMB,
# vboxsf, some of FUSE; and whoever may write a directory need not be able to read it.
_NO_SYNC = {
    errno.EACCES,
    errno.EBADF,
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EPERM,
}


# What link(2) says where there are no hard links: vfat, exFAT, SMB, Android.
_NO_LINKS = {*_NO_SYNC, errno.EMLINK, errno.EXDEV}


def expanded(path: AnyPath) -> Path:
    """Make a path of what somebody gives; a C{~} at its start is the home directory."""
    # Shells expand no ~ behind a = or within quotes, and nobody does in a file of
    # settings.  Unlike Path.expanduser this leaves alone what it does not know.
    return Path(os.path.expanduser(path))


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
        return expanded(own)
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
) -> bytes:
    """
    Read a small regular file that only its owner can have prepared, also where
    links lead to it.

    What root owns may be readable by its group: so containers and C{systemd} hand
    secrets over, and only root can have made it so.

    Never blocks on a FIFO or a device, and never reads more than the limit.

    @param limit: the most bytes that it may have.
    @param forbidden: the mode bits that it must not have.
    @raise FileNotFoundError: there is no such file; what to do about that only
        the caller knows.
    @raise KeyFileError: it is not a file to be trusted, or cannot be read;
        L{KeyFileUnavailable} if that may pass.
    @see: POSIX.1-2017, C{open}; U{libpq's rule, which this is
        <https://www.postgresql.org/docs/current/libpq-ssl.html>}
    """
    # O_NONBLOCK: to open a FIFO that nobody writes to would wait for ever, before
    # fstat could tell what it is.  O_NOCTTY: a terminal does not become ours.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            # Not only if we are in that group: under an access control list, as of
            # systemd's credentials, these bits are the mask, and the group is root's.
            spared = GROUP_READ if status.st_uid == ROOT else 0
            checkStatus(path, status, forbidden & ~spared)
            with open(descriptor, "rb", closefd=False) as file:
                # One byte more than allowed tells "too long"; a size that fstat
                # gives may have grown since, and is 0 in /proc.
                content = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _failed(
            f"cannot read {path}",
            error,
            "it must be a regular file that this user can read",
            path,
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
            f"then run `chmod {'go-w' if forbidden == OTHERS_WRITE else '600'} "
            f"{quoted}`"
        )
    elif mode & forbidden:
        problem = f"is open to other users (mode {mode:04o}); run `chmod 600 {quoted}`"
    else:
        return
    raise KeyFileError(f"{path} {problem}", str(path))


def checkDirectory(path: Path) -> None:
    """
    Refuse a directory in which others can put something else in the place of what is
    ours; make one with mode 0700 if it is missing.

    @raise KeyFileError: it belongs to somebody who is neither this user nor root, or
        others can write to it, or it cannot be made.
    """
    try:
        makeDirectory(path)
        status = os.stat(path)
    except OSError as error:
        raise _failed(
            f"cannot use {path}", error, "name a directory of this user's", path
        ) from error
    if status.st_uid not in (os.geteuid(), ROOT):
        problem = f"belongs to another user (uid {status.st_uid}); name one of yours"
    elif status.st_mode & OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        command = f"chmod go-w {shlex.quote(str(path))}"
        problem = f"can be written by other users (mode {mode:04o}); run `{command}`"
    else:
        return
    raise KeyFileError(f"{path} {problem}", str(path))


def makeDirectory(path: Path) -> None:
    """
    Make a directory for this user alone, unless it is there, and those above it that
    are missing as the umask says, but never for others to write to.

    @raise OSError: that is not possible.
    """
    # Not os.makedirs, which makes those above it with mode 0777, less the umask.
    missing = [each for each in (path, *path.parents) if not os.path.isdir(each)]
    for each in reversed(missing):
        try:
            os.mkdir(each, 0o700 if each == path else 0o755)
        except FileExistsError:
            if not os.path.isdir(each):
                raise


def writeFile(
    path: Path, content: bytes, *, replace: bool, former: os.stat_result | None = None
) -> bool:
    """
    Write a whole file that only its owner can read, atomically and durably.

    The bytes go into a temporary beside it, which has mode 0600 (less what the
    umask takes away) from its first moment, and which gets the name once they
    are on the disk.  A missing directory is made with mode 0700.  Where the name
    is a link to a file, that file is replaced, and the link stays.

    @param replace: whether to take the place of a file, or of whatever else
        has this name.
    @param former: what C{os.stat} said of the file that is replaced, before it was
        read: the new one has its owner and mode.
    @return: False if something has this name and was left alone, or if the file is
        another than C{former} by now.
    @raise KeyFileError: the file cannot be written; what was there still is.
    """
    target = Path(os.path.realpath(path)) if replace else path
    directory = target.parent
    temporary = directory / f".aesm-{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        makeDirectory(directory)
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if former is not None:
                    os.fchown(descriptor, former.st_uid, former.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(former.st_mode))
                # Before the rename: a file system may write the name first, and
                # a power cut would leave an empty file in place of a good one.
                sync(descriptor)
            if former is not None and versionOf(former) != versionOf(os.stat(target)):
                return False
            if replace:
                os.replace(temporary, target)
            elif not publish(temporary, path):
                return False
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        syncDirectory(directory)
    except OSError as error:
        raise _failed(
            f"cannot write {path}",
            error,
            "name a directory that this user can write to",
            path,
        ) from error
    return True


def versionOf(status: os.stat_result) -> tuple[int, ...]:
    """Tell one version of a file from another, by what C{stat} says of it."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def openToAppend(path: Path) -> int:
    """
    Open a file to append lines to, which only its owner can read if it is new; one that
    is there may be read by others, but written by nobody else.

    No link is followed as its last step: whoever may make one there would choose which
    file of ours grows.  It may be a device, such as C{/dev/null}, but never blocks.

    @return: its descriptor.
    @raise KeyFileError: it is not a file to be trusted, or cannot be opened.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise _failed(
            f"cannot append to {path}",
            error,
            "it must be a file that this user can write to, and no symbolic link",
            path,
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISCHR(status.st_mode):
            checkStatus(path, status, OTHERS_WRITE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def publish(temporary: Path, path: Path) -> bool:
    """
    Give a complete file a name that nothing has yet.

    @return: False if something has it.
    """
    try:
        # Unlike a rename, a link never takes anything's place.
        os.link(temporary, path)
    except FileExistsError:
        return False
    except (OSError, AttributeError) as error:  # some Pythons have no os.link
        if isinstance(error, OSError) and error.errno not in _NO_LINKS:
            raise
        # The lock keeps other processes of ours from coming in between.  It is not
        # the one of this path: our caller may hold that.
        with locked(path.with_name(".aesm-new")):
            if os.path.lexists(path):
                return False
            os.replace(temporary, path)
    return True


def syncDirectory(directory: Path) -> None:
    """Bring a directory's new names to the disk, where the file system can."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_SYNC:
            return
        raise
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Bring a file or directory to the disk, where the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _failed(what: str, error: OSError, advice: str, path: Path) -> KeyFileError:
    """Make the error for a file that the system does not let us use, with advice."""
    if error.errno in _LASTING:
        return KeyFileError(f"{what}: {error.strerror}; {advice}", str(path))
    if error.errno in _FULL:
        advice = "make room on that disk, and try again"
    else:
        advice = "that says nothing of the file, and may pass: try again"
    return KeyFileUnavailable(f"{what}: {error.strerror}; {advice}", str(path))


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
    lock = Path(f"{os.path.realpath(path)}.lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = None
    try:
        try:
            makeDirectory(lock.parent)
            descriptor = os.open(lock, flags, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise _failed(
                f"cannot lock {lock}",
                error,
                "its directory must be one that this user can write to; "
                f"{path} is left as it is",
                path,
            ) from error
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """
    Cut the content of a file into lines, leaving out blank ones and comments.

    @param content: the bytes of the file; lines end in LF or CRLF.
    @return: the number of each line, from 1, and the line, without its end.
    """
    # Not splitlines(): that splits at a lone CR too, and line numbers would not be
    # those that an editor shows.
    for number, line in enumerate(withoutBOM(content).split(b"\n"), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            yield number, stripped


def pair(path: Path, number: int, line: bytes, form: str) -> tuple[str, str]:
    """
    Read a line of two words.

    @param path: for the error.
    @param form: what a line looks like, for the error.
    @return: the words, printable.
    @raise KeyFileError: it has more or fewer words, or is not UTF-8.
    """
    try:
        first, second = (word.decode("utf-8") for word in line.split())
    except ValueError:
        raise badLine(path, number, form) from None
    if not (first + second).isprintable():
        raise badLine(path, number, form)
    return first, second


def withoutBOM(content: bytes) -> bytes:
    """Leave out the byte order mark that some editors put before UTF-8."""
    return content.removeprefix(codecs.BOM_UTF8)


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
