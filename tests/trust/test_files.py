"""
Tests for L{aesm.trust.files}.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from errno import (
    EACCES,
    EINVAL,
    EIO,
    ELOOP,
    EMFILE,
    ENFILE,
    ENOLCK,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTCONN,
    ENOTDIR,
    ENOTSUP,
    ENXIO,
    EPERM,
    ESTALE,
)
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import aesm
from aesm.client.retry import isTransient
from aesm.errors import KeyFileError, KeyFileUnavailable
from aesm.trust.files import (
    OTHERS_ACCESS,
    OTHERS_WRITE,
    checkDirectory,
    checkStatus,
    expanded,
    locked,
    openToAppend,
    readFile,
    stateDirectory,
    writeFile,
)

TREE = str(Path(aesm.__file__).parents[1])


def runPython(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Run a program that imports this tree, in a process of its own.

    @param arguments: its C{sys.argv[1:]}.
    @return: what became of it.
    """
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": TREE},
        capture_output=True,
        text=True,
        timeout=60,
    )


def runTogether(count: int, program: str, *arguments: str) -> list[str]:
    """
    Run one program in several processes that all start at the same moment.

    @param program: its text; it begins when all have imported what they need,
        with C{go()}.
    @param arguments: its C{sys.argv[1:]}, after the number of the process.
    @return: what each of them printed.
    """
    go = "import sys\ndef go():\n    print(flush=True)\n    sys.stdin.readline()\n"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", go + program, str(number), *arguments],
            env={**os.environ, "PYTHONPATH": TREE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def failing(number: int) -> Callable[..., Any]:
    """Make a stand-in for a function of C{os} that fails."""

    def fail(*arguments: object, **options: object) -> None:
        """
        Fail.

        @raise OSError: always.
        """
        raise OSError(number, os.strerror(number))

    return fail


class StateDirectoryTests(SynchronousTestCase):
    """Tests for L{stateDirectory}."""

    def setUp(self) -> None:
        """Let each test have its own environment."""
        self.patch(os, "environ", {"HOME": "/home/alice"})

    def test_own(self) -> None:
        """C{AESM_HOME} comes first."""
        os.environ.update({"AESM_HOME": "/a/b", "XDG_STATE_HOME": "/x"})
        self.assertEqual(stateDirectory(), Path("/a/b"))

    def test_shared(self) -> None:
        """C{XDG_STATE_HOME} comes next, and an empty C{AESM_HOME} is none."""
        os.environ.update({"AESM_HOME": "", "XDG_STATE_HOME": "/x"})
        self.assertEqual(stateDirectory(), Path("/x/aesm"))

    def test_home(self) -> None:
        """
        The home directory comes last, and a relative or empty
        C{XDG_STATE_HOME} is none.
        """
        for value in ("", "x", "./x"):
            os.environ["XDG_STATE_HOME"] = value
            self.assertEqual(stateDirectory(), Path("/home/alice/.local/state/aesm"))

    def test_tilde(self) -> None:
        """
        A C{~} at the start of a path is the home directory, also in settings; what
        means nobody stays.
        """
        self.assertEqual(expanded("~/a"), Path("/home/alice/a"))
        self.assertEqual(expanded("a/~/b"), Path("a/~/b"))
        self.assertEqual(
            expanded("~nobody-of-this-name/a"), Path("~nobody-of-this-name/a")
        )
        os.environ["AESM_HOME"] = "~/b"
        self.assertEqual(stateDirectory(), Path("/home/alice/b"))

    def test_homeless(self) -> None:
        """Without a home directory the error says what to set."""

        def home() -> Path:
            """
            Be a user that the system does not know.

            @return: never.
            @raise RuntimeError: always.
            """
            raise RuntimeError("Could not determine home directory.")

        self.patch(Path, "home", home)
        error = self.assertRaises(KeyFileError, stateDirectory)
        self.assertIn("AESM_HOME", str(error))

    def test_madeWhenWritten(self) -> None:
        """Asking makes no directory; writing makes one for this user alone."""
        os.environ["AESM_HOME"] = self.mktemp()
        directory = stateDirectory()
        self.assertFalse(directory.exists())
        writeFile(directory / "key.pem", b"", replace=False)
        self.assertEqual(stat.S_IMODE(directory.stat().st_mode), 0o700)


class FilesTestCase(SynchronousTestCase):
    """A test with a directory of its own."""

    def setUp(self) -> None:
        """Make the directory, and keep the umask."""
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "file"
        umask = os.umask(0o022)
        self.addCleanup(os.umask, umask)

    def put(self, content: bytes, mode: int = 0o600) -> None:
        """Make the file."""
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(content)
        self.path.chmod(mode)

    def refused(
        self, function: Callable[..., object], *arguments: object, **options: object
    ) -> KeyFileError:
        """Expect an error that names the file."""
        with self.assertRaises(KeyFileError) as raised:
            function(*arguments, **options)
        error: KeyFileError = raised.exception
        self.assertEqual(error.path, str(self.path))
        self.assertIn(str(self.path), str(error))
        return error


class ReadFileTests(FilesTestCase):
    """Tests for L{readFile}."""

    def test_reads(self) -> None:
        """A file of our own that nobody else can open is read whole."""
        self.put(b"\0content\xff\r\n")
        self.assertEqual(readFile(self.path, limit=100), b"\0content\xff\r\n")

    def test_limit(self) -> None:
        """A file of just the limit is read; one byte more is refused."""
        self.put(b"x" * 10)
        self.assertEqual(readFile(self.path, limit=10), b"x" * 10)
        self.assertIn(
            "more than 9 bytes", str(self.refused(readFile, self.path, limit=9))
        )

    def test_missing(self) -> None:
        """What to say of a missing file is the caller's affair."""
        self.assertRaises(FileNotFoundError, readFile, self.path, limit=1)

    def test_openToOthers(self) -> None:
        """Any bit for group or others is refused, and the error mends it."""
        for mode in (0o644, 0o604, 0o650, 0o660, 0o620, 0o602, 0o777, 0o601, 0o610):
            self.put(b"", mode)
            error = self.refused(readFile, self.path, limit=1)
            self.assertIn(f"{mode:04o}", str(error))
            self.assertIn(f"`chmod 600 {self.path}`", str(error))
        for mode in (0o600, 0o400, 0o700):
            self.put(b"", mode)
            self.assertEqual(readFile(self.path, limit=1), b"")

    def test_writableByOthers(self) -> None:
        """Where others may read, they must not write all the same."""
        for mode in (0o644, 0o444, 0o755):
            self.put(b"", mode)
            self.assertEqual(readFile(self.path, limit=1, forbidden=OTHERS_WRITE), b"")
        for mode in (0o620, 0o602, 0o666):
            self.put(b"", mode)
            error = self.refused(readFile, self.path, limit=1, forbidden=OTHERS_WRITE)
            self.assertIn(f"`chmod go-w {self.path}`", str(error))

    def test_quotes(self) -> None:
        """A command that mends is fit for a shell."""
        self.path = self.directory / "my $(key)"
        self.put(b"", 0o644)
        error = self.refused(readFile, self.path, limit=1)
        self.assertIn(f"`chmod 600 '{self.path}'`", str(error))

    def test_rootsSecrets(self) -> None:
        """
        What root owns its group may read, but not write, and nobody else may read;
        what is ours is for us alone.
        """
        self.put(b"x")
        fstat = os.fstat
        for uid, mode, isTaken in (
            (0, 0o440, True),
            (0, 0o640, True),
            (0, 0o460, False),
            (0, 0o444, False),
            (0, 0o450, False),
            (1000, 0o440, False),
            (1000, 0o640, False),
            (1000, 0o400, True),
        ):

            def status(descriptor: int, mode: int = mode, uid: int = uid) -> Any:
                """Pretend that somebody has made the file."""
                found = list(fstat(descriptor))
                found[0], found[4] = stat.S_IFREG | mode, uid
                return os.stat_result(found)

            self.patch(os, "geteuid", lambda: 1000)
            self.patch(os, "fstat", status)
            if isTaken:
                self.assertEqual(readFile(self.path, limit=1), b"x")
            else:
                self.refused(readFile, self.path, limit=1)

    def test_link(self) -> None:
        """Links are followed, of folders and of files."""
        (self.directory / "1").mkdir()
        target = self.directory / "1" / "target"
        target.write_bytes(b"x")
        target.chmod(0o600)
        (self.directory / "now").symlink_to("1")
        self.path.symlink_to("now/target")
        self.assertEqual(readFile(self.path, limit=1), b"x")

    def test_linkToBadFile(self) -> None:
        """A link ends at a file that must do."""
        target = self.directory / "target"
        target.write_bytes(b"x")
        target.chmod(0o604)
        self.path.symlink_to("target")
        self.refused(readFile, self.path, limit=1)

    def test_danglingLink(self) -> None:
        """A link to nothing is nothing."""
        self.path.symlink_to("nothing")
        self.assertRaises(FileNotFoundError, readFile, self.path, limit=1)

    def test_linkLoop(self) -> None:
        """A link to itself is refused."""
        self.path.symlink_to("file")
        self.refused(readFile, self.path, limit=1)

    def test_lastingAndPassing(self) -> None:
        """What is wrong with a file is told from what is wrong at this moment."""
        for number in (EMFILE, ENFILE, EIO, ESTALE, ENOMEM, ENOLCK, ENOTCONN):
            self.patch(os, "open", failing(number))
            error = self.refused(readFile, self.path, limit=1)
            self.assertIsInstance(error, KeyFileUnavailable)
            self.assertIn(os.strerror(number), str(error))
            self.assertTrue(isTransient(error))
        for number in (EACCES, EPERM, ELOOP, ENOTDIR, ENXIO):
            self.patch(os, "open", failing(number))
            error = self.refused(readFile, self.path, limit=1)
            self.assertNotIsInstance(error, KeyFileUnavailable)
            self.assertFalse(isTransient(error))

    def test_fifo(self) -> None:
        """A FIFO that nobody writes to is refused, without waiting."""
        os.mkfifo(self.path, 0o600)
        self.assertIn("regular", str(self.refused(readFile, self.path, limit=1)))

    def test_directory(self) -> None:
        """A directory is refused."""
        self.path.mkdir(0o700)
        self.assertIn("regular", str(self.refused(readFile, self.path, limit=1)))

    def test_device(self) -> None:
        """A device is refused, however much it would give."""
        self.path = Path("/dev/zero")
        self.assertIn("regular", str(self.refused(readFile, self.path, limit=1)))

    def test_socket(self) -> None:
        """A socket is refused."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)  # the names of sockets are short
        self.path = Path("file")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("file")
            self.assertIn("regular", str(self.refused(readFile, self.path, limit=1)))

    def test_fileAsDirectory(self) -> None:
        """A path through a file is refused."""
        self.put(b"")
        self.path = self.path / "more"
        self.assertIn("cannot read", str(self.refused(readFile, self.path, limit=1)))

    def test_closes(self) -> None:
        """No descriptor stays open, whatever becomes of the reading."""
        self.path.mkdir(0o700)
        before = os.listdir("/dev/fd")
        self.refused(readFile, self.path, limit=1)
        self.path.rmdir()
        self.put(b"12")
        self.refused(readFile, self.path, limit=1)
        readFile(self.path, limit=2)
        self.assertEqual(len(os.listdir("/dev/fd")), len(before))


class CheckStatusTests(FilesTestCase):
    """Tests for L{checkStatus}, with files that this user may be unable to make."""

    def status(self, mode: int, uid: int) -> os.stat_result:
        """
        Make the status of a file.

        @param mode: kind and mode.
        """
        return os.stat_result((mode, 1, 1, 1, uid, 0, 0, 0, 0, 0))

    def test_owners(self) -> None:
        """The owner is this user or root."""
        self.patch(os, "geteuid", lambda: 1000)
        for uid in (1000, 0):
            status = self.status(stat.S_IFREG | 0o600, uid)
            checkStatus(self.path, status, OTHERS_ACCESS)
        status = self.status(stat.S_IFREG | 0o600, 1001)
        error = self.refused(checkStatus, self.path, status, OTHERS_ACCESS)
        self.assertIn("uid 1001", str(error))
        self.assertIn(f"`chown 1000 {self.path}`", str(error))

    def test_rootIsNoException(self) -> None:
        """Root does not believe the files of others either."""
        self.patch(os, "geteuid", lambda: 0)
        status = self.status(stat.S_IFREG | 0o600, 1000)
        self.refused(checkStatus, self.path, status, OTHERS_WRITE)

    def test_kinds(self) -> None:
        """No kind but a regular file will do."""
        for kind in (
            stat.S_IFDIR,
            stat.S_IFLNK,
            stat.S_IFIFO,
            stat.S_IFSOCK,
            stat.S_IFCHR,
            stat.S_IFBLK,
        ):
            status = self.status(kind | 0o600, os.geteuid())
            self.refused(checkStatus, self.path, status, OTHERS_ACCESS)


class CheckDirectoryTests(FilesTestCase):
    """Tests for L{checkDirectory}."""

    def test_made(self) -> None:
        """One that is missing is made, for its owner alone."""
        self.path = self.path / "deeper"
        for _ in range(2):
            checkDirectory(self.path)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o700)
        self.path = self.path / "file"
        self.put(b"")
        self.refused(checkDirectory, self.path)

    def test_modes(self) -> None:
        """Others may look in but change nothing, or nothing that is not theirs."""
        self.path.mkdir()
        for mode in (0o755, 0o1777):
            self.path.chmod(mode)
            checkDirectory(self.path)
        for mode in (0o775, 0o757):
            self.path.chmod(mode)
            error = self.refused(checkDirectory, self.path)
            self.assertIn(f"`chmod go-w {self.path}`", str(error))

    def test_owners(self) -> None:
        """It is this user's, or root's."""
        self.path.mkdir()
        self.patch(os, "geteuid", lambda: 1000)
        for uid in (1000, 0, 1001):
            status = os.stat_result((stat.S_IFDIR | 0o700, 1, 1, 1, uid, 0, 0, 0, 0, 0))
            self.patch(os, "stat", lambda path, status=status: status)
            if uid != 1001:
                checkDirectory(self.path)
        self.assertIn("uid 1001", str(self.refused(checkDirectory, self.path)))


class WriteFileTests(FilesTestCase):
    """Tests for L{writeFile}."""

    def names(self) -> set[str]:
        """@return: what is in the directory."""
        return set(os.listdir(self.directory))

    def test_new(self) -> None:
        """A new file has the content, and nothing else is left."""
        for replace in (False, True):
            self.assertTrue(writeFile(self.path, b"content", replace=replace))
            self.assertEqual(self.path.read_bytes(), b"content")
            self.assertEqual(self.names(), {"file"})
            self.path.unlink()

    def test_mode(self) -> None:
        """
        No umask opens a file to others; one that takes rights from its owner is
        obeyed.
        """
        for umask, mode in (
            (0o000, 0o600),
            (0o022, 0o600),
            (0o077, 0o600),
            (0o002, 0o600),
            (0o277, 0o400),
            (0o777, 0o000),
        ):
            os.umask(umask)
            writeFile(self.path, b"content", replace=False)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), mode)
            self.path.unlink()

    def test_modeFromTheStart(self) -> None:
        """The temporary has its mode before it has the content."""
        os.umask(0)
        modes = []

        def fsync(descriptor: int) -> None:
            """
            Note the mode of a file.

            @param descriptor: the open file or directory.
            """
            modes.append(os.fstat(descriptor).st_mode)

        self.patch(os, "fsync", fsync)
        self.patch(os, "chmod", None)
        self.patch(os, "fchmod", None)
        writeFile(self.path, b"content", replace=False)
        self.assertEqual(modes[0], stat.S_IFREG | 0o600)
        self.assertTrue(stat.S_ISDIR(modes[1]))

    def test_leavesAlone(self) -> None:
        """Whatever has the name stays, unless it is to be replaced."""
        self.put(b"old")
        self.assertFalse(writeFile(self.path, b"new", replace=False))
        self.assertEqual(self.path.read_bytes(), b"old")
        self.path.unlink()
        self.path.symlink_to("nothing")
        self.assertFalse(writeFile(self.path, b"new", replace=False))
        self.assertEqual(self.names(), {"file"})
        self.path.unlink()
        self.path.mkdir()
        self.assertFalse(writeFile(self.path, b"new", replace=False))
        self.assertEqual(self.names(), {"file"})

    def test_replaces(self) -> None:
        """A file that is replaced is a new one, with a mode of its own."""
        self.put(b"old", 0o644)
        with self.path.open("rb") as old:
            self.assertTrue(writeFile(self.path, b"new", replace=True))
            self.assertEqual(old.read(), b"old")
        self.assertEqual(self.path.read_bytes(), b"new")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(self.names(), {"file"})

    def test_former(self) -> None:
        """
        A file that takes the place of one that was read has its mode; that one stays if
        it is another by now.
        """
        os.umask(0)
        self.put(b"old", 0o640)
        former = self.path.stat()
        self.assertTrue(writeFile(self.path, b"new", replace=True, former=former))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)
        self.assertFalse(writeFile(self.path, b"newer", replace=True, former=former))
        self.assertEqual(self.path.read_bytes(), b"new")
        self.path.unlink()
        self.refused(writeFile, self.path, b"newer", replace=True, former=former)
        self.assertEqual(self.names(), set())

    def test_makesDirectory(self) -> None:
        """
        A missing directory is made, for this user alone, and those above it that are
        missing as others are, but not to be written to by others.
        """
        new = self.directory / "new"

        def lock(path: Path) -> None:
            """Lock a file."""
            with locked(path):
                pass

        makers: list[Callable[[Path], object]] = [
            lambda path: writeFile(path, b"", replace=False),
            lambda path: checkDirectory(path.parent),
            lock,
        ]
        for make in makers:
            for mask, above in ((0o000, 0o755), (0o002, 0o755), (0o077, 0o700)):
                os.umask(mask)
                make(new / "above" / "below" / "file")
                made = [new, new / "above", new / "above" / "below"]
                modes = [stat.S_IMODE(path.stat().st_mode) for path in made]
                self.assertEqual(modes, [above, above, 0o700])
                shutil.rmtree(new)

    def test_relativePath(self) -> None:
        """A bare name is a file in the current directory."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        writeFile(Path("file"), b"content", replace=False)
        self.assertEqual(Path("file").read_bytes(), b"content")

    def test_longName(self) -> None:
        """A name may be as long as the file system lets it."""
        path = self.directory / ("n" * 255)
        writeFile(path, b"content", replace=False)
        self.assertEqual(path.read_bytes(), b"content")

    def test_cannotMakeDirectory(self) -> None:
        """A directory that cannot be one is an error."""
        self.put(b"")
        link = self.path.with_name("link")
        link.symlink_to("nowhere")
        for directory in (self.path, link):
            self.path = directory / "file"
            error = self.refused(writeFile, self.path, b"", replace=False)
            self.assertIn("cannot write", str(error))
            self.assertIn("name a directory", str(error))

    def test_publishingFails(self) -> None:
        """
        If a file cannot get its name, the old one is untouched and the new one
        is gone.
        """

        def fail(source: object, destination: object) -> None:
            """
            Be a file system without room for names.

            @param destination: what it should be called.
            @raise OSError: always.
            """
            raise OSError(28, "No space left on device")

        self.put(b"old")
        self.patch(os, "replace", fail)
        self.patch(os, "link", fail)
        for replace in (True, False):
            error = self.refused(writeFile, self.path, b"new", replace=replace)
            self.assertIn("No space left on device", str(error))
            self.assertEqual(self.path.read_bytes(), b"old")
            self.assertEqual(self.names(), {"file"})

    def test_noLinks(self) -> None:
        """
        Where there are no hard links a file is new all the same, or somebody's is
        left alone; the lock of the file may be held meanwhile.
        """
        self.addCleanup(setattr, os, "link", os.link)
        for link in (failing(EPERM), failing(ENOTSUP), failing(ENOSYS), None):
            if link is None:
                del os.link
            else:
                os.link = link
            with locked(self.path):
                self.assertTrue(writeFile(self.path, b"one", replace=False))
            self.assertFalse(writeFile(self.path, b"two", replace=False))
            self.assertEqual(self.path.read_bytes(), b"one")
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
            self.path.unlink()
        self.assertEqual(self.names(), {"file.lock", ".aesm-new.lock"})

    def test_noSync(self) -> None:
        """
        Where nothing can be synced a file is written all the same; where a disk
        fails, that is said.
        """
        for number in (EINVAL, ENOSYS, ENOTSUP):
            self.patch(os, "fsync", failing(number))
            for replace in (False, True):
                self.assertTrue(writeFile(self.path, b"content", replace=replace))
            self.path.unlink()
        self.patch(os, "fsync", failing(EIO))
        error = self.refused(writeFile, self.path, b"content", replace=False)
        self.assertIsInstance(error, KeyFileUnavailable)
        self.assertEqual(self.names(), set())

    def test_fullDisk(self) -> None:
        """That there is no room may pass; the error says who has to see to it."""
        self.patch(os, "fsync", failing(ENOSPC))
        error = self.refused(writeFile, self.path, b"content", replace=False)
        self.assertIsInstance(error, KeyFileUnavailable)
        self.assertIn("make room", str(error))

    def test_replacesTarget(self) -> None:
        """Where the name is a link, what it leads to is replaced."""
        (self.directory / "target").write_bytes(b"old")
        self.path.symlink_to("target")
        self.assertTrue(writeFile(self.path, b"new", replace=True))
        self.assertTrue(self.path.is_symlink())
        self.assertEqual((self.directory / "target").read_bytes(), b"new")

    def test_crash(self) -> None:
        """
        A process that dies before the new file has its name leaves the old one
        as it was, and is not in the way of the next.
        """
        self.put(b"old")
        process = runPython(
            "import os, sys\n"
            "from pathlib import Path\n"
            "from aesm.trust.files import locked, writeFile\n"
            "os.replace = lambda source, destination: os._exit(9)\n"
            "with locked(Path(sys.argv[1])):\n"
            "    writeFile(Path(sys.argv[1]), b'new', replace=True)\n",
            str(self.path),
        )
        self.assertEqual(process.returncode, 9, process.stderr)
        self.assertEqual(self.path.read_bytes(), b"old")
        with locked(self.path):
            writeFile(self.path, b"newer", replace=True)
        self.assertEqual(self.path.read_bytes(), b"newer")


class OpenToAppendTests(FilesTestCase):
    """L{openToAppend} opens what only we write."""

    def append(self, path: Path, words: bytes) -> None:
        """Append a few bytes to a file."""
        descriptor = openToAppend(path)
        try:
            os.write(descriptor, words)
        finally:
            os.close(descriptor)

    def test_appends(self) -> None:
        """A new file has mode 0600; what is there stays, and its mode."""
        path = self.directory / "log"
        self.append(path, b"a")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        path.chmod(0o640)
        self.append(path, b"b")
        self.assertEqual(path.read_bytes(), b"ab")
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o640)

    def test_refuses(self) -> None:
        """
        What a link leads to, others can write to, or is no file is left alone, without
        waiting, and nothing stays open.
        """
        other = self.directory / "other"
        other.write_bytes(b"")
        other.chmod(0o620)
        link, fifo = self.directory / "link", self.directory / "fifo"
        link.symlink_to(self.directory / "new")
        os.mkfifo(fifo)
        missing = self.directory / "missing" / "log"
        before = os.listdir("/dev/fd")
        for path in other, link, fifo, missing, self.directory:
            self.assertRaises(KeyFileError, openToAppend, path)
        with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)):
            self.assertRaises(KeyFileError, openToAppend, fifo)
        self.assertFalse((self.directory / "new").exists())
        self.assertEqual(len(os.listdir("/dev/fd")), len(before))

    def test_device(self) -> None:
        """It may be a device."""
        self.append(Path(os.devnull), b"a")


class LockedTests(FilesTestCase):
    """Tests for L{locked}."""

    def isLocked(self) -> bool:
        """@return: whether somebody holds the lock."""
        with open(f"{self.path}.lock", "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def test_locks(self) -> None:
        """
        The lock is held inside and free outside, also after an error inside,
        which passes as it is.
        """
        with locked(self.path):
            self.assertTrue(self.isLocked())
        self.assertFalse(self.isLocked())
        error = OSError("inside")
        with self.assertRaises(OSError) as raised, locked(self.path):
            raise error
        self.assertIs(raised.exception, error)
        self.assertFalse(self.isLocked())

    def test_lockFile(self) -> None:
        """The lock's own file is private, and made with its directory."""
        os.umask(0)
        self.path = self.directory / "new" / "file"
        with locked(self.path):
            pass
        lock = self.path.with_name("file.lock")
        self.assertEqual(stat.S_IMODE(lock.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(lock.parent.stat().st_mode), 0o700)

    def test_cannotLock(self) -> None:
        """What cannot be a lock is an error: a link, a directory, a full table."""
        lock = self.path.with_name("file.lock")
        lock.symlink_to("nothing")
        error = self.refused(locked(self.path).__enter__)
        self.assertIn("its directory must be one", str(error))
        lock.unlink()
        lock.mkdir()
        self.refused(locked(self.path).__enter__)
        lock.rmdir()

        def flock(descriptor: int, operation: int) -> None:
            """
            Be a file system without locks.

            @param descriptor: the lock's file.
            @raise OSError: always.
            """
            raise OSError(37, "No locks available")

        self.patch(fcntl, "flock", flock)
        before = os.listdir("/dev/fd")
        error = self.refused(locked(self.path).__enter__)
        self.assertIn("No locks available", str(error))
        self.assertEqual(len(os.listdir("/dev/fd")), len(before))
