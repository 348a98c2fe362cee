"""
Tests for L{aesm.store.sqlite}.
"""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import stat
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from aesm.errors import SpoolError
from aesm.store.interface import Blob, Stored
from aesm.store.sqlite import (
    MAX_LOG,
    MIN_MAX_SIZE,
    PAGE,
    RESERVE,
    SMALL,
    SPARE,
    Changes,
    SpoolFile,
)
from tests.support.spooled import noRoom
from tests.trust.test_files import TREE, FilesTestCase

NAME, OTHER = "0" * 32, "f" * 32
PEER = "mTqSvGJW1VSpCJrVnoTBHuP4FmJhm2j4JF8nQQ3vUlM="

# Opens a spool when it may, says what came of it, and keeps it until it may go.
OPEN = """
import sys
from pathlib import Path
from aesm.errors import SpoolError
from aesm.store.sqlite import SpoolFile
print(flush=True)
sys.stdin.readline()
try:
    file = SpoolFile(Path(sys.argv[1]), False)
except SpoolError as error:
    print(error, flush=True)
else:
    print("opened", flush=True)
sys.stdin.readline()
"""


def openTogether(path: Path, count: int) -> list[str]:
    """
    Open a spool in several processes at the same moment.

    @return: what came of each.
    """
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-c", OPEN, str(path)],
                env={**os.environ, "PYTHONPATH": TREE},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)  # closes the pipes and waits
            stack.callback(process.kill)
            assert process.stdin is not None and process.stdout is not None
            processes.append((process.stdin, process.stdout))
        for _, output in processes:
            output.readline()
        for goAhead, _ in processes:
            goAhead.write("\n")
            goAhead.flush()
        return [output.readline().strip() for _, output in processes]


class SpoolFileTestCase(FilesTestCase):
    """A test with a path for a spool."""

    def open(self, full: bool = False) -> SpoolFile:
        """Open the file, until the test is over."""
        file = SpoolFile(self.path, full)
        self.addCleanup(file.close)
        return file

    def refuses(self, *words: str) -> None:
        """
        Check that the file cannot be opened.

        @param words: what the error says.
        """
        error = str(self.assertRaises(SpoolError, SpoolFile, self.path, False))
        for word in (os.path.abspath(self.path), *words):
            self.assertIn(word, error)

    def reopened(self, file: SpoolFile) -> list[Stored]:
        """Read a file anew."""
        file.close()
        return self.open().load()

    def write(self, file: SpoolFile, *blobs: Blob, outgoing: bool = False) -> None:
        """Write messages of one session."""
        changes = Changes()
        changes.put(PEER, {})
        for blob in blobs:
            changes.append(outgoing, blob)
        file.write({NAME: changes})

    def execute(self, *statements: str) -> None:
        """Change the file, closed as it is, as other programs would."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)


class OpenTests(SpoolFileTestCase):
    """Which files are opened."""

    def test_new(self) -> None:
        """
        A file that is not there is made, empty, for this user alone, with its
        directory; so is its log.
        """
        os.umask(0)
        self.path = self.directory / "new" / "spool"
        self.assertEqual(self.open().load(), [])
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        for name in ("spool", "spool-wal", "spool-shm", "spool.lock"):
            mode = self.path.with_name(name).stat().st_mode
            self.assertEqual(stat.S_IMODE(mode), 0o600, name)

    def test_empty(self) -> None:
        """An empty file is a new one: it was made by a process that died then."""
        self.put(b"")
        self.assertEqual(self.open().load(), [])

    def test_names(self) -> None:
        """A name means nothing to SQLite."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        for name in (":memory:", "file:x?mode=memory", "a b%20#", "\udcff"):
            self.path = Path(name)
            file = SpoolFile(self.path, False)
            self.write(file, Blob(0, 1, b"x"))
            file.close()
            self.assertTrue(self.path.exists())
            self.assertEqual(len(self.open().load()), 1)

    def test_openToOthers(self) -> None:
        """A file that others can read is refused, and so is a log."""
        self.open().close()
        self.path.chmod(0o644)
        self.refuses(f"`chmod 600 {os.path.abspath(self.path)}`")
        self.path.chmod(0o600)
        for end in ("-wal", "-journal"):
            log = Path(os.path.abspath(f"{self.path}{end}"))
            log.touch()
            log.chmod(0o666)
            self.refuses(f"{log} can be written by other users")
            log.unlink()
        self.open()

    def test_kinds(self) -> None:
        """What is no regular file is refused, without waiting."""
        target = self.directory / "target"
        target.touch(0o600)
        self.path.symlink_to("target")
        self.refuses("regular")
        self.path.unlink()
        self.path.symlink_to("nothing")
        self.refuses("regular")
        self.path.unlink()
        self.path.mkdir()
        self.refuses("regular")
        self.path.rmdir()
        os.mkfifo(self.path, 0o600)
        self.refuses("regular")
        self.path.unlink()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)  # the names of sockets are short
        with socket.socket(socket.AF_UNIX) as listener:
            self.path = Path("file")
            listener.bind("file")
            self.path.chmod(0o600)
            self.refuses("regular")

    def test_noDirectory(self) -> None:
        """A path through a file is refused."""
        self.put(b"")
        self.path = self.path / "spool"
        self.refuses()

    def test_noDatabase(self) -> None:
        """Any other file is refused, says what to do, and stays as it is."""
        for content in (b"me", b"mine\n" * 1000, bytes(4096), b"SQLite format 3\0"):
            self.put(content)
            self.refuses("is no spool", "move it")
            self.assertEqual(self.path.read_bytes(), content)

    def test_otherDatabase(self) -> None:
        """The database of another program is refused, and stays as it is."""
        self.execute("CREATE TABLE mine (x)", "PRAGMA user_version = 1")
        self.path.chmod(0o600)
        content = self.path.read_bytes()
        self.refuses("another program's database")
        self.assertEqual(self.path.read_bytes(), content)

    def test_otherVersion(self) -> None:
        """A spool of another version is refused."""
        self.open().close()
        for version in (2, 4):
            self.execute(f"PRAGMA user_version = {version}")
            self.refuses(f"version {version}", "version 3", "the aesm that made it")

    def test_noRoom(self) -> None:
        """A new file on a full disk is an error; with room again, it can be made."""
        with noRoom():
            self.refuses("cannot open", "room")
        self.assertEqual(self.open().load(), [])

    def test_closes(self) -> None:
        """No descriptor stays open of a file that is refused, or closed."""
        before = os.listdir("/dev/fd")
        self.put(b"mine")
        self.refuses()
        self.put(b"")
        SpoolFile(self.path, False).close()
        self.assertEqual(len(os.listdir("/dev/fd")), len(before))

    def test_cannotMake(self) -> None:
        """A name that no file can have is an error."""
        self.path = self.directory / ("n" * 300)
        self.refuses("name")


class LockTests(SpoolFileTestCase):
    """One program at a time has a spool."""

    def test_once(self) -> None:
        """
        A file cannot be opened twice, neither by this process nor by another, and
        trying does not open it to anybody; once it is closed, it can.
        """
        file = self.open()
        self.refuses("another program uses", "stop it")
        [outcome] = openTogether(self.path, 1)
        self.assertIn("another program uses", outcome)
        self.write(file, Blob(0, 1, b"x"))
        file.close()
        self.assertEqual(openTogether(self.path, 1), ["opened"])
        self.assertEqual(len(self.open().load()), 1)

    def test_reader(self) -> None:
        """Somebody who reads the file keeps it from being opened."""
        self.open().close()
        with closing(sqlite3.connect(self.path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM session").fetchall()
            self.refuses("another program uses")
        self.open()

    def test_together(self) -> None:
        """
        Of several programs that start together, one gets the file, be it new or
        not.
        """
        for _ in range(2):
            outcomes = openTogether(self.path, 3)
            self.assertEqual(outcomes.count("opened"), 1, outcomes)


class ShareTests(SpoolFileTestCase):
    """Two programs have a spool, while one takes over from the other."""

    def second(self) -> SpoolFile:
        """Open the file a second time."""
        file = SpoolFile(self.path, False, shared=True)
        self.addCleanup(file.close)
        return file

    def add(self, file: SpoolFile, name: str, number: int) -> None:
        """Write one message of a session."""
        changes = Changes()
        changes.put(PEER, {"number": number})
        changes.append(False, Blob(number, 1, b"x"))
        file.write({name: changes})

    def test_both(self) -> None:
        """Each writes its sessions, and finds what the other has written."""
        first = self.open()
        self.add(first, NAME, 0)
        first.share()
        second = self.second()
        for number in range(1, 20):
            self.add(first, NAME, number)
            self.add(second, OTHER, number)
        self.assertEqual(first.load(), second.load())
        for file, name, count in ((second, NAME, 20), (first, OTHER, 19)):
            (found,) = file.load([name, "none"])
            self.assertEqual(found.name, name)
            self.assertEqual(len(found.incoming), count)
        self.assertEqual(first.load([]), [])
        changes = Changes(dropped=True)
        second.write({NAME: changes})
        self.assertEqual([stored.name for stored in first.load()], [OTHER])

    def test_alone(self) -> None:
        """
        Who shares it has it alone again once the other one has closed it, or is dead,
        and not before; to try so hinders neither.
        """
        first = self.open()
        first.share()
        second = self.second()
        for file in (first, second, first):
            self.assertFalse(file.reclaim())
            self.add(first, NAME, 0)
            self.add(second, OTHER, 0)
        first.close()
        self.assertTrue(second.reclaim())
        self.add(second, OTHER, 1)
        self.refuses("another program uses")

    def test_third(self) -> None:
        """
        Nobody else opens it meanwhile, neither this process nor another.
        """
        first = self.open()
        first.share()
        self.refuses("another program uses")
        second = self.second()
        self.refuses("another program uses")
        [outcome] = openTogether(self.path, 1)
        self.assertIn("another program uses", outcome)
        self.assertFalse(second.reclaim())
        second.close()
        self.assertTrue(first.reclaim())

    def test_bound(self) -> None:
        """The bound is that of the file, whoever has filled it."""
        first = SpoolFile(self.path, False, MIN_MAX_SIZE)
        self.addCleanup(first.close)
        first.share()
        second = SpoolFile(self.path, False, MIN_MAX_SIZE, shared=True)
        self.addCleanup(second.close)
        self.write(first, *(Blob(number, 1, b"x" * 1000000) for number in range(9)))
        with self.assertRaises(sqlite3.OperationalError):
            changes = Changes()
            changes.put(PEER, {})
            for number in range(9):
                changes.append(False, Blob(number, 1, b"x" * 1000000))
            second.write({OTHER: changes})
        changes = Changes()
        changes.discard(False, 9)
        first.write({NAME: changes})
        self.add(second, OTHER, 1)


class DamageTests(SpoolFileTestCase):
    """Files that are not as they were written."""

    def test_damaged(self) -> None:
        """
        Whatever happens to a file, it is opened and read, and then all values have
        their types, or it is refused.
        """
        file = self.open()
        for number in range(10):
            self.write(file, Blob(number, 1, b"i" * 5000))
            self.write(file, Blob(number, 2, b"o" * number), outgoing=True)
        file.close()
        content = self.path.read_bytes()
        seeded = random.Random(7)
        for _ in range(100):
            damaged = bytearray(content)
            position = seeded.randrange(len(damaged))
            length = seeded.choice((1, 20, 4096))
            damaged[position : position + length] = seeded.randbytes(length)
            if seeded.random() < 0.2:
                del damaged[position:]
            self.path.write_bytes(damaged)
            try:
                file = self.open()
                stored = file.load()
            except SpoolError as error:
                self.assertNotIn("\n", str(error))
            else:
                for name, peer, state, incoming, outgoing, requests in stored:
                    self.assertIsInstance(name, str)
                    self.assertIsInstance(peer, str)
                    self.assertIsInstance(state, dict)
                    for number, messages, frames in incoming + outgoing + requests:
                        self.assertIsInstance(number, int)
                        self.assertIsInstance(messages, int)
                        self.assertIsInstance(frames, bytes)
            file.close()

    def test_schemaIsNoText(self) -> None:
        """A schema that is not UTF-8 is damage."""
        self.open().close()
        content = self.path.read_bytes()
        self.path.write_bytes(content.replace(b"CREATE TABLE", b"CREATE \xff\xffBLE"))
        self.refuses("is damaged")

    def test_tableMissing(self) -> None:
        """Tables that are not there are damage."""
        self.open().close()
        self.execute("DROP TABLE part")
        error = self.assertRaises(SpoolError, self.open().load)
        self.assertIn("no such table", str(error))

    def test_badState(self) -> None:
        """A state that is no JSON, or no list of as many values as keys, is damage."""
        self.write(self.open(), Blob(0, 1, b"x"))
        for state, what in (("{", "Expecting"), ("[1]", "longer"), ("7", "int")):
            self.doCleanups()
            self.execute(
                f"UPDATE part SET content = CAST('{state}' AS BLOB) WHERE kind = 1"
            )
            error = self.assertRaises(SpoolError, self.open().load)
            self.assertIn(what, str(error))

    def test_noSession(self) -> None:
        """Messages of a session that is not there are damage."""
        self.open().close()
        self.execute("INSERT INTO part VALUES (7, 0, 0, 1, x'00')")
        error = self.assertRaises(SpoolError, self.open().load)
        self.assertIn("messages of no session", str(error))

    def test_log(self) -> None:
        """
        A log that ends in the middle of a batch, as a process leaves it that dies,
        has all batches before.
        """
        file = self.open()
        for number in range(3):
            self.write(file, Blob(number, 1, b"x" * 5000))
        copy = self.directory / "copy"
        copy.write_bytes(self.path.read_bytes())
        log = Path(f"{self.path}-wal").read_bytes()
        Path(f"{copy}-wal").write_bytes(log[:-100])
        for path in (copy, Path(f"{copy}-wal")):
            path.chmod(0o600)
        self.path = copy
        [stored] = self.open().load()
        self.assertEqual([blob.number for blob in stored.incoming], [0, 1])


class WriteTests(SpoolFileTestCase):
    """What was written is read again."""

    def test_roundTrip(self) -> None:
        """
        Sessions come in the order in which they were first put, their messages by
        number, each direction for itself; nothing is lost of keys, states, frames.
        """
        for full in (False, True):
            with self.subTest(full=full):
                self.path = self.directory / f"spool{full}"
                first, second = Changes(), Changes()
                first.put(PEER, {"a": 1})
                second.put("", {})
                frames = bytes(range(256)) * 400
                first.append(False, Blob(2**62, 3, frames))
                second.append(True, Blob(5, 2, b""))
                second.append(True, Blob(7, 1, b"\0"))
                second.append(False, Blob(5, 1, b"5"))
                file = self.open(full)
                file.write({OTHER: first, NAME: second})
                again = Changes()
                again.put(PEER, {"b": 2})
                again.append(False, Blob(2**62 + 3, 1, b""))
                file.write({OTHER: again})
                expected = [
                    Stored(
                        OTHER,
                        PEER,
                        {"b": 2},
                        [Blob(2**62, 3, frames), Blob(2**62 + 3, 1, b"")],
                        [],
                        [],
                    ),
                    Stored(
                        NAME,
                        "",
                        {},
                        [Blob(5, 1, b"5")],
                        [Blob(5, 2, b""), Blob(7, 1, b"\0")],
                        [],
                    ),
                ]
                self.assertEqual(file.load(), expected)
                self.assertEqual(self.reopened(file), expected)

    def test_state(self) -> None:
        """The state is read as it was put."""
        file, changes = self.open(), Changes()
        state = {"a": [1, -0.5, None, True, "\ud800é"], "": {}}
        changes.put(PEER, state)
        file.write({NAME: changes})
        self.assertEqual(self.reopened(file)[0].state, state)

    def test_discard(self) -> None:
        """Only what lies wholly below the number goes, and only in that direction."""
        for before, left in (
            (0, [0, 3, 4]),
            (2, [0, 3, 4]),
            (3, [3, 4]),
            (4, [4]),
            (5, [4]),
            (6, []),
            (2**62, []),
        ):
            self.path = self.directory / str(before)
            file, changes = self.open(), Changes()
            for outgoing in (False, True):
                for blob in (Blob(0, 3, b"0"), Blob(3, 1, b"3"), Blob(4, 2, b"4")):
                    self.write(file, blob, outgoing=outgoing)
            changes.discard(True, before)
            file.write({NAME: changes})
            [stored] = self.reopened(file)
            self.assertEqual([blob.number for blob in stored.outgoing], left)
            self.assertEqual([blob.number for blob in stored.incoming], [0, 3, 4])

    def test_drop(self) -> None:
        """A session that is dropped goes with its messages, and no other."""
        file, other = self.open(), Changes()
        other.put(PEER, {})
        other.append(True, Blob(0, 1, b"other"))
        self.write(file, Blob(0, 1, b"x"))
        file.write({OTHER: other})
        file.write({NAME: Changes(dropped=True)})
        [stored] = self.reopened(file)
        self.assertEqual((stored.name, len(stored.outgoing)), (OTHER, 1))

    def test_dropAndPut(self) -> None:
        """A session that is dropped and put again has only what is new."""
        file, changes = self.open(), Changes(dropped=True)
        self.write(file, Blob(0, 1, b"old"))
        changes.put(PEER, {"new": 1})
        changes.append(True, Blob(0, 1, b"new"))
        file.write({NAME: changes})
        [stored] = self.reopened(file)
        self.assertEqual(
            stored, Stored(NAME, PEER, {"new": 1}, [], [Blob(0, 1, b"new")], [])
        )

    def test_noSession(self) -> None:
        """Messages of no session are not kept."""
        file, changes = self.open(), Changes()
        changes.append(True, Blob(0, 1, b"x"))
        changes.discard(True, 0)
        file.write({NAME: changes})
        self.assertEqual(self.reopened(file), [])

    def test_sameNumber(self) -> None:
        """Messages with a number that was there take its place."""
        file = self.open()
        self.write(file, Blob(0, 1, b"old"))
        self.write(file, Blob(0, 2, b"new"))
        self.assertEqual(self.reopened(file)[0].incoming, [Blob(0, 2, b"new")])

    def test_allOrNothing(self) -> None:
        """
        Of a batch that fails in the middle nothing is written, and the file works.
        """
        file, bad = self.open(), Changes()
        self.write(file, Blob(0, 1, b"x"))
        bad.put(PEER, {})
        bad.append(False, Blob(2**63, 1, b""))
        good = Changes()
        good.put(PEER, {})
        good.discard(False, 1)
        self.assertRaises(OverflowError, file.write, {NAME: good, OTHER: bad})
        self.assertEqual(file.load()[0].incoming, [Blob(0, 1, b"x")])
        with noRoom():
            self.assertRaises(sqlite3.Error, file.write, {NAME: good})
        self.write(file, Blob(1, 1, b"y"))
        self.assertEqual(len(self.reopened(file)[0].incoming), 2)

    def test_removed(self) -> None:
        """
        What was removed, or replaced, cannot be written any more: nothing of it would
        be found again.  Once it is back, it can.
        """
        file = self.open()
        away = self.path.with_name("away")
        for replaced in (False, True):
            os.rename(self.path, away)
            if replaced:
                self.path.write_bytes(b"")
            error = self.assertRaises(
                sqlite3.OperationalError, self.write, file, Blob(1, 1, b"lost")
            )
            self.assertIn("not there any more", str(error))
            os.rename(away, self.path)
        self.write(file, Blob(2, 1, b"kept"))
        (stored,) = self.reopened(file)
        self.assertEqual(stored.incoming, [Blob(2, 1, b"kept")])

    def test_space(self) -> None:
        """The space of what was forgotten is used again, and the log with it."""
        file = self.open()
        for number in range(200):
            changes = Changes()
            changes.put(PEER, {})
            changes.discard(False, number - 5)
            changes.append(False, Blob(number, 1, bytes(1 << 16)))
            file.write({NAME: changes})
        sizes = [path.stat().st_size for path in (self.path, Path(f"{self.path}-wal"))]
        self.assertLess(sizes[0], 1 << 20)
        self.assertLess(sizes[1], 6 << 20)

    def sizes(self) -> tuple[int, int]:
        """Measure the file and its log."""
        return self.path.stat().st_size, Path(f"{self.path}-wal").stat().st_size

    def test_shrinks(self) -> None:
        """
        Once nearly all of a burst is forgotten, file and log are small again; what is
        left is there.
        """
        file = self.open()
        count = (SPARE + SMALL >> 20) + 4
        self.write(file, *(Blob(number, 1, bytes(1 << 20)) for number in range(count)))
        self.discard(file, count - SMALL // (1 << 20) - 1)
        self.assertGreater(self.sizes()[0], count << 20)
        self.discard(file, count - 1)
        size, log = self.sizes()
        self.assertLess(size, SMALL)
        self.assertLessEqual(log, MAX_LOG)
        left = [Blob(count - 1, 1, bytes(1 << 20))]
        self.assertEqual(self.reopened(file)[0].incoming, left)

    def test_doesNotShrink(self) -> None:
        """Where there is no room to make the file small, that is done later."""
        file = self.open()
        count = (SPARE >> 20) + 4
        self.write(file, *(Blob(number, 1, bytes(1 << 20)) for number in range(count)))
        self.write(file, Blob(count, 1, b""))
        with noRoom(1 << 20):
            self.discard(file, count - 1)
        self.assertGreater(self.sizes()[0], SPARE)
        self.discard(file, count)
        self.assertLess(self.sizes()[0], SMALL)
        self.assertEqual(self.reopened(file)[0].incoming, [Blob(count, 1, b"")])

    def discard(self, file: SpoolFile, before: int) -> None:
        """Forget messages of the session."""
        changes = Changes()
        changes.discard(False, before)
        file.write({NAME: changes})

    def test_largeBatch(self) -> None:
        """The log of a batch of any size does not stay."""
        file = self.open()
        self.write(file, *(Blob(number, 1, bytes(1 << 20)) for number in range(20)))
        self.write(file, Blob(20, 1, b""))
        log = Path(f"{self.path}-wal")
        self.assertLessEqual(log.stat().st_size, MAX_LOG)
        file.close()
        self.assertFalse(log.exists())


class BoundTests(SpoolFileTestCase):
    """How large a file may become."""

    def bounded(self, maxSize: int = MIN_MAX_SIZE) -> SpoolFile:
        """Open a file, with a bound, that has messages."""
        file = SpoolFile(self.path, False, maxSize)
        self.addCleanup(file.close)
        self.write(file, Blob(0, 1, bytes(2 * SMALL)))
        return file

    def fill(self, file: SpoolFile) -> int:
        """
        Write until there is no room for the smallest message.

        @return: the number that has no room.
        """
        number, size = 1, 1 << 20
        while size:
            try:
                self.write(file, Blob(number, 1, bytes(size)))
                number += 1
            except sqlite3.Error as error:
                self.assertEqual(error.sqlite_errorcode, sqlite3.SQLITE_FULL)
                size //= 2
        return number

    def size(self) -> int:
        """Measure the file, closed as it is, and its log."""
        return self.path.stat().st_size + MAX_LOG

    def test_bound(self) -> None:
        """
        What needs one page more than there may be is refused, and what was there
        stays; what needs as many or fewer is written.
        """
        burst = [Blob(number, 1, bytes(1 << 20)) for number in range(1, 13)]
        file = self.bounded(2 * MIN_MAX_SIZE)
        self.write(file, *burst)
        file.close()
        exactly = self.size() + RESERVE
        for size in (exactly - PAGE, exactly, exactly + PAGE):
            self.path.unlink()
            file = self.bounded(size)
            if size < exactly:
                self.assertRaises(sqlite3.Error, self.write, file, *burst)
                self.assertEqual(len(file.load()[0].incoming), 1)
            else:
                self.write(file, *burst)
            file.close()
            self.assertLessEqual(self.size(), size)

    def test_freeing(self) -> None:
        """
        A file that has no room for the smallest message takes the state of sessions
        that it has, no new ones, and what frees room; then it has room again.
        """
        file = self.bounded()
        last = self.fill(file)
        changes = Changes()
        changes.put(PEER, {"taken": [[n, n + 1] for n in range(1000)]})
        file.write({NAME: changes})
        begun = {}
        for number in range(100):
            begun[f"{number:032x}"] = new = Changes()
            new.put(PEER, {"received": [0] * 100})
        self.assertRaises(sqlite3.Error, file.write, begun)
        changes = Changes()
        changes.discard(False, 2)
        file.write({NAME: changes})
        file.write(begun)
        self.write(file, Blob(last, 1, bytes(1 << 19)))
        file.close()
        self.assertLessEqual(self.size(), MIN_MAX_SIZE)

    def test_together(self) -> None:
        """What one session frees is room for what another adds in the same batch."""
        file = self.bounded()
        self.fill(file)
        adds, frees = Changes(), Changes()
        adds.put(PEER, {})
        adds.append(True, Blob(0, 1, bytes(1 << 19)))
        frees.discard(False, 2)
        file.write({OTHER: adds, NAME: frees})
        self.assertEqual(len(file.load()), 2)

    def test_alone(self) -> None:
        """
        A batch that would not fit into an empty file is written when next to nothing
        could make room for it; the next one waits for that.
        """
        file = SpoolFile(self.path, False, MIN_MAX_SIZE)
        self.addCleanup(file.close)
        large = [Blob(number, 1, bytes(1 << 20)) for number in range(20)]
        self.write(file, *large)
        more = Blob(20, 1, bytes(1 << 20))
        self.assertRaises(sqlite3.Error, self.write, file, more)
        changes = Changes()
        changes.discard(False, 2)
        changes.append(False, more)
        file.write({NAME: changes})
        self.assertEqual(self.reopened(file)[0].incoming, [*large[2:], more])


class ChangesTests(FilesTestCase):
    """Changes are merged before they are written."""

    def test_state(self) -> None:
        """The state is taken as it is; what is no JSON is refused at once."""
        changes, state = Changes(), {"a": 1}
        changes.put(PEER, state)
        state["a"] = 2
        self.assertEqual(changes.record, (PEER, '["a"]', b"[1]"))
        self.assertRaises(TypeError, changes.put, PEER, {"a": b""})
        self.assertRaises(ValueError, changes.put, PEER, {"a": float("nan")})

    def test_discard(self) -> None:
        """What is forgotten before it was written is not written."""
        changes = Changes()
        changes.append(True, Blob(0, 3, b""))
        changes.append(True, Blob(3, 3, b""))
        changes.append(False, Blob(0, 1, b""))
        changes.discard(True, 5)
        changes.discard(True, 2)
        self.assertEqual(
            [list(blobs) for blobs in changes.blobs],
            [[Blob(0, 1, b"")], [Blob(3, 3, b"")]],
        )
        self.assertEqual(changes.before, [0, 5])

    def test_add(self) -> None:
        """What is done later is done to what was to be written, too."""
        older, newer = Changes(dropped=True), Changes()
        older.put(PEER, {"a": 1})
        for number in range(3):
            older.append(True, Blob(number, 1, b""))
        newer.discard(True, 2)
        newer.append(True, Blob(3, 1, b""))
        older.add(newer)
        self.assertTrue(older.dropped)
        self.assertEqual(older.record, (PEER, '["a"]', b"[1]"))
        self.assertEqual([blob.number for blob in older.blobs[True]], [2, 3])
        self.assertEqual(older.before, [0, 2])
        newer.put(PEER, {"b": 2})
        older.add(newer)
        self.assertEqual(older.record, (PEER, '["b"]', b"[2]"))
