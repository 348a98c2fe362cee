"""
Files that are sent.
"""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from aesm import Connection
from aesm.errors import ConnectionClosed, FileChanged, RequestFailed, SessionLost
from aesm.files import disk, requests
from aesm.files.receiver import MOST_OPEN
from aesm.files.requests import AHEAD, CHUNK, FileCode, answering
from aesm.files.sender import sendFile, sentAll
from aesm.secure.rawtransport import keepFreed
from tests.support.files import FileTestCase
from tests.support.spooled import ByHand, noRoom

THREE = 3 * CHUNK + 5  # bytes that take four chunks


class SendFileTests(FileTestCase):
    """What is sent arrives, whole and once."""

    def test_sent(self) -> None:
        """
        Files of any size arrive with their content and time; that it is done is said
        once they are complete under their name.
        """
        pair = self.meet()
        for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, AHEAD * CHUNK, 9 * CHUNK + 7):
            path = self.put(f"{size}.bin", os.urandom(size))
            os.utime(path, ns=(1, 1234567890123456789))
            self.assertEqual(self.sent(pair, path), f"{size}.bin")
            there = self.theirs / f"{size}.bin"
            self.assertEqual(there.read_bytes(), path.read_bytes())
            self.assertEqual(there.stat().st_mtime_ns, 1234567890123456789)
            self.assertEqual(self.progress[0], (f"{size}.bin", 0, size))
            self.assertEqual(self.progress[-1], (f"{size}.bin", size, size))
            self.progress.clear()
        self.assertEqual(self.partial, [])
        self.assertTrue(self.receiver.isIdle)

    def test_mode(self) -> None:
        """Whether one may run it is kept; nothing else of its mode is."""
        pair = self.meet()
        for mode, expected in ((0o755, True), (0o4700, True), (0o640, False)):
            path = self.put(f"{mode:o}", b"x")
            path.chmod(mode)
            there = stat.S_IMODE((self.theirs / self.sent(pair, path)).stat().st_mode)
            self.assertEqual(bool(there & stat.S_IXUSR), expected)
            self.assertFalse(there & (stat.S_ISUID | stat.S_IWOTH))

    def test_both(self) -> None:
        """Whoever listens may be the one that sends."""
        pair = self.pair(None, client={"handler": self.receiver})
        path = self.put("a.txt", b"content")
        sending = sendFile(pair.accepted, path, inThread=self.receiver._inThread)
        pair.deliver()
        self.assertEqual(self.successResultOf(sending), "a.txt")
        self.assertEqual((self.theirs / "a.txt").read_bytes(), b"content")

    def test_again(self) -> None:
        """A file that is there already is not sent again, nor is there a second."""
        pair = self.meet()
        path = self.put("a.bin", os.urandom(THREE))
        self.sent(pair, path)
        self.progress.clear()
        self.assertEqual(self.sent(pair, path), "a.bin")
        self.assertEqual(self.progress, [("a.bin", THREE, THREE)])
        self.assertEqual(self.there, ["a.bin"])

    def test_sameButOther(self) -> None:
        """
        A file that only looks as if it were there, by name, size and time, is refused.
        """
        pair = self.meet()
        path = self.put("a.txt", b"one")
        self.sent(pair, path)
        time = path.stat().st_mtime_ns
        path.write_bytes(b"two")
        os.utime(path, ns=(time, time))
        failed = self.failureResultOf(self.send(pair, path), RequestFailed)
        self.assertEqual(failed.value.code, FileCode.DIFFERS)
        self.assertEqual((self.theirs / "a.txt").read_bytes(), b"one")

    def test_neverOverwritten(self) -> None:
        """What has the name stays, a link to nowhere, too; the sender is told."""
        (self.theirs / "a.txt").write_bytes(b"theirs")
        (self.theirs / "a (1).txt").symlink_to("nowhere")
        path = self.put("a.txt", b"ours")
        self.assertEqual(self.sent(self.meet(), path), "a (2).txt")
        self.assertEqual((self.theirs / "a.txt").read_bytes(), b"theirs")
        self.assertEqual(self.there, ["a (1).txt", "a (2).txt", "a.txt"])

    def test_twoSenders(self) -> None:
        """Two who send files of one name at once get both there."""
        self.patch(disk, "AT_HAND", False)
        pair, other = self.meet(), None
        hands = ByHand()
        path = self.put("a.txt", b"first")
        sending = sendFile(pair.client, path, inThread=hands.run)
        pair.deliver()
        other = self.join(pair.network)
        Path(self.ours, "b").mkdir()
        second = self.put("b/a.txt", b"second")
        sent = sendFile(other, second, inThread=self.receiver._inThread)
        pair.deliver()
        self.assertEqual(self.successResultOf(sent), "a.txt")
        while hands.waiting:
            hands.work()
            pair.deliver()
        self.assertEqual(self.successResultOf(sending), "a (1).txt")
        self.assertEqual((self.theirs / "a (1).txt").read_bytes(), b"first")

    def test_unsafeName(self) -> None:
        """A name that could do harm becomes another one, which the sender is told."""
        path = self.put(".bash\nrc", b"x")
        self.assertEqual(self.sent(self.meet(), path), "_bash_rc")
        self.assertEqual(self.there, ["_bash_rc"])

    def test_noUTF8(self) -> None:
        """A name need not be UTF-8."""
        path = os.fsencode(self.ours) + b"/a\xff.txt"
        with open(path, "wb"):
            pass
        self.assertEqual(self.sent(self.meet(), os.fsdecode(path)), "a\ufffd.txt")

    def test_link(self) -> None:
        """A link is followed, and its name is the file's."""
        self.put("file", b"content")
        (self.ours / "link").symlink_to("file")
        self.assertEqual(self.sent(self.meet(), self.ours / "link"), "link")
        self.assertEqual((self.theirs / "link").read_bytes(), b"content")

    def test_noFiles(self) -> None:
        """What is no regular file is not sent, and nobody waits for it."""
        os.mkfifo(self.ours / "fifo")
        pair = self.meet()
        for path, words in (
            (self.ours, "Is a directory"),
            (self.ours / "fifo", "Is not a regular file"),
            (self.ours / "missing", "No such file"),
            ("/dev/zero", "Is not a regular file"),
        ):
            failed = self.failureResultOf(self.send(pair, path), OSError)
            self.assertIn(words, str(failed.value))
        self.assertEqual(self.there, [])

    def test_bounded(self) -> None:
        """
        No more than L{AHEAD} chunks are under way, however slow the receiver is: that
        is what a cut makes leave twice, and all that is in memory.
        """
        pair = self.meet()
        counting = _Counting(pair.client)
        path = self.put("a.bin", os.urandom(10 * CHUNK))
        sending = sendFile(
            cast(Connection, counting), path, inThread=self.receiver._inThread
        )
        pair.deliver()
        self.assertEqual(self.successResultOf(sending), "a.bin")
        self.assertEqual(counting.most, AHEAD)

    def test_memoryKept(self) -> None:
        """The memory that a chunk takes is there for the next one."""
        keepFreed.cache_clear()
        self.sent(self.meet(), self.put("a.bin", b"x"))
        self.assertEqual(keepFreed.cache_info().currsize, 1)

    def test_end(self) -> None:
        """The receiver can be told that there is no more."""
        pair = self.meet()
        ended = sentAll(pair.client)
        pair.deliver()
        self.successResultOf(ended)
        self.assertEqual(self.receiver.events, [("end",)])


class ResumeTests(FileTestCase):
    """What has come is not sent again."""

    def interrupt(self, path: Path, chunks: int) -> None:
        """
        Begin to send a file, and kill the sender.

        @param chunks: how many arrive first.
        """
        pair = self.meet()

        def report(name: str, done: int, size: int) -> None:
            """Kill it."""
            if done == chunks * CHUNK:
                pair.client.abort()

        self.failureResultOf(self.send(pair, path, report), ConnectionClosed)
        pair.deliver()
        self.progress.clear()

    def test_goesOn(self) -> None:
        """A sender that is started again sends what is missing, and only that."""
        content = os.urandom(20 * CHUNK + 3)
        path = self.put("a.bin", content)
        self.interrupt(path, 10)
        (partial,) = self.partial
        size = partial.stat().st_size
        self.assertGreaterEqual(size, 10 * CHUNK)
        self.assertEqual(self.there, [])
        self.assertEqual(self.sent(self.meet(), path), "a.bin")
        self.assertEqual(self.progress[0], ("a.bin", size, len(content)))
        self.assertEqual((self.theirs / "a.bin").read_bytes(), content)
        self.assertEqual(self.partial, [])

    def test_otherReceiver(self) -> None:
        """So does one whose receiver was started again: all that counts is on disk."""
        path = self.put("a.bin", os.urandom(20 * CHUNK))
        self.interrupt(path, 10)
        self.receiver = type(self.receiver)(
            self.theirs, inThread=self.receiver._inThread
        )
        self.sent(self.meet(), path)
        self.assertGreaterEqual(self.progress[0][1], 10 * CHUNK)

    def test_oddLength(self) -> None:
        """A chunk that was written in part is gone on with where it ends."""
        content = os.urandom(THREE)
        path = self.put("a.bin", content)
        with noRoom(CHUNK + 100):
            failed = self.failureResultOf(self.send(self.meet(), path), RequestFailed)
        self.assertEqual(failed.value.code, FileCode.CANNOT_WRITE)
        self.assertIn("cannot write: ", failed.value.reason)
        self.assertEqual(
            self.receiver.events, [("failed", "a.bin", failed.value.reason)]
        )
        self.progress.clear()
        self.sent(self.meet(), path)
        self.assertEqual(self.progress[0][1], CHUNK + 100)
        self.assertEqual((self.theirs / "a.bin").read_bytes(), content)

    def test_damaged(self) -> None:
        """What is not what was sent, as after a loss of power, is sent again."""
        content = os.urandom(20 * CHUNK)
        path = self.put("a.bin", content)
        self.interrupt(path, 10)
        with open(self.partial[0], "r+b") as file:
            file.write(b"damaged")
        self.assertEqual(self.sent(self.meet(), path), "a.bin")
        self.assertIn(0, [done for _, done, _ in self.progress])
        self.assertEqual((self.theirs / "a.bin").read_bytes(), content)

    def test_otherFile(self) -> None:
        """A file that was changed meanwhile is another one, and begins anew."""
        path = self.put("a.bin", os.urandom(20 * CHUNK))
        self.interrupt(path, 10)
        path = self.put("a.bin", os.urandom(20 * CHUNK))
        os.utime(path, ns=(1, 1))
        self.sent(self.meet(), path)
        self.assertEqual(self.progress[0][1], 0)

    def test_otherSender(self) -> None:
        """Nobody goes on with what another key has sent."""
        path = self.put("a.bin", os.urandom(20 * CHUNK))
        self.interrupt(path, 10)
        pair = self.pair(self.receiver)  # with a key of its own
        self.sent(pair, path)
        self.assertEqual(self.progress[0][1], 0)

    def test_cancelled(self) -> None:
        """To cancel it leaves what has come; the connection goes on."""
        path = self.put("a.bin", os.urandom(20 * CHUNK))
        pair = self.meet()

        def report(name: str, done: int, size: int) -> None:
            """Have it cancelled."""
            if done == 10 * CHUNK:
                pair.clock.callLater(0, sending.cancel)

        sending = sendFile(
            pair.client, path, progress=report, inThread=self.receiver._inThread
        )
        pair.deliver()
        self.failureResultOf(sending, CancelledError)
        self.sent(pair, path)
        self.assertGreaterEqual(self.progress[0][1], 10 * CHUNK)

    def test_leavesNothingOpen(self) -> None:
        """
        Wherever it is when it is cancelled, the receiver has nothing open for it any
        more: there is room for as many others as ever.
        """
        self.patch(disk, "AT_HAND", False)
        pair = self.meet()
        thread = ByHand()
        for number in range(MOST_OPEN + 1):
            path = self.put(f"{number}", os.urandom(CHUNK + 5))
            sending = sendFile(pair.client, path, inThread=thread.run)
            if number % 2:
                pair.deliver()
                self.assertTrue(thread.waiting)  # all is there, and it is being hashed
            sending.cancel()
            self.failureResultOf(sending, CancelledError)
            pair.deliver()
            self.assertTrue(self.receiver.isIdle)
            failed = ("failed", f"{number}", "its sender has stopped")
            self.assertEqual(self.receiver.events[-1], failed)
        while thread.waiting:  # which closes the files
            thread.work()
        self.sent(pair, path)

    def test_progressFails(self) -> None:
        """Nor has it where what is told of the progress fails."""
        pair, path = self.meet(), self.put("a.bin", os.urandom(3 * CHUNK))
        fatal = [0, 2 * CHUNK, 3 * CHUNK]

        def report(name: str, done: int, size: int) -> None:
            """Fail somewhere."""
            if done in fatal:
                fatal.remove(done)
                raise ZeroDivisionError

        while fatal:
            self.failureResultOf(self.send(pair, path, report), ZeroDivisionError)
            pair.deliver()
            self.assertTrue(self.receiver.isIdle)
        self.sent(pair, path)


class ChangedTests(FileTestCase):
    """A file that changes while it is sent does not arrive as if it had not."""

    def check(self, change: Any) -> None:
        """
        Change a file while it is sent.

        @param change: does it.
        """
        path = self.put("a.bin", os.urandom(20 * CHUNK))

        def report(name: str, done: int, size: int) -> None:
            """Change it half way."""
            if done == 10 * CHUNK:
                change(path)

        pair = self.meet()
        failed = self.failureResultOf(self.send(pair, path, report), FileChanged)
        self.assertIn("a.bin was changed", str(failed.value))
        pair.deliver()
        self.assertEqual(os.listdir(self.theirs), [])
        self.assertTrue(self.receiver.isIdle)

    def test_shorter(self) -> None:
        """It becomes shorter."""
        self.check(lambda path: os.truncate(path, 15 * CHUNK))

    def test_longer(self) -> None:
        """It becomes longer: no more of it is sent than is under way."""
        self.check(lambda path: os.truncate(path, 25 * CHUNK))
        self.assertLessEqual(self.progress[-1][1], (10 + AHEAD) * CHUNK)

    def test_written(self) -> None:
        """Something is written into it."""

        def change(path: Path) -> None:
            """Write."""
            with open(path, "r+b") as file:
                file.write(b"x")
            os.utime(path, ns=(1, 1))

        self.check(change)


class SendFileAtHandTests(SendFileTests):
    """The same where what passes is hashed at once."""

    atHand = True


class ResumeAtHandTests(ResumeTests):
    """The same where only what is not sent again is hashed in a thread."""

    atHand = True


class ChangedAtHandTests(ChangedTests):
    """The same where what passed is hashed already."""

    atHand = True


class RefusedTests(FileTestCase):
    """What the receiver does not take."""

    def test_unwanted(self) -> None:
        """It may say why."""
        self.receiver.refused = "no more music"
        path = self.put("a.mp3", b"x")
        failed = self.failureResultOf(self.send(self.meet(), path), RequestFailed)
        self.assertEqual(failed.value.reason, "no more music")
        self.assertEqual(os.listdir(self.theirs), [])

    def test_noDirectory(self) -> None:
        """It cannot write to its directory: the sender is not told its path."""
        self.theirs.rmdir()
        path = self.put("a.txt", b"x")
        failed = self.failureResultOf(self.send(self.meet(), path), RequestFailed)
        self.assertEqual(failed.value.reason, "cannot write: No such file or directory")

    def answer(self, *answers: Any) -> Deferred[str]:
        """
        Send to a receiver that does not keep to the rules.

        @param answers: what it answers, again and again.
        """
        asked: list[str | bytes] = []

        class Other:
            """The other side."""

            def request(self, data: Any, timeout: float | None = None) -> Deferred[Any]:
                """Answer."""
                asked.append(data)
                answer = answers[(len(asked) - 1) % len(answers)]
                return (
                    fail(answer) if isinstance(answer, Exception) else succeed(answer)
                )

        self.asked = asked
        path = self.put("a.bin", b"0123456789")
        return sendFile(Other(), path, inThread=self.receiver._inThread)

    def test_malformed(self) -> None:
        """An answer that cannot be read, or cannot be, is an error."""
        token = "00" * 8
        for answer in (
            b"bytes",
            "no JSON",
            "[]",
            "[" * 5000,
            answering(),
            answering(token=token, offset=True),
            answering(token=token, offset=11),
            answering(token=token, offset=-1),
            answering(token="", offset=0),
            answering(token="xy" * 8, offset=0),
        ):
            failed = self.failureResultOf(self.answer(answer), RequestFailed)
            self.assertEqual(failed.value.code, FileCode.MALFORMED)

    def test_offersBounded(self) -> None:
        """It is not offered for ever to a receiver that forgets it each time."""
        offered = answering(token="00" * 8, offset=0)
        unknown = RequestFailed(FileCode.UNKNOWN, "what file?")
        failed = self.failureResultOf(self.answer(offered, unknown), RequestFailed)
        self.assertIs(failed.value, unknown)
        self.assertEqual(len(self.asked), 6)

    def test_sessionLost(self) -> None:
        """Where the connection is not over with its session, it is offered again."""
        offered = answering(token="00" * 8, offset=10)
        lost = SessionLost("the server was started again")
        sending = self.answer(offered, lost, offered, answering(name="a.bin"))
        self.assertEqual(self.successResultOf(sending), "a.bin")
        digest = sha256(b"0123456789").hexdigest()
        self.assertIn(digest, str(self.asked[-1]))
        self.assertEqual(requests.readAsked(self.asked[-1])[0], "done")  # type: ignore[index]


class _Counting:
    """
    A connection, and how many requests are under way over it.

    @ivar most: how many there were at most.
    """

    def __init__(self, connection: Connection) -> None:
        """@param connection: the connection."""
        self._connection = connection
        self._asked = self.most = 0

    def __getattr__(self, name: str) -> Any:
        """Be the connection, but for requests."""
        return getattr(self._connection, name)

    def request(self, data: str | bytes, timeout: float | None = None) -> Any:
        """Count a request."""
        self._asked += 1
        self.most = max(self.most, self._asked)
        return self._connection.request(data, timeout).addBoth(self._cbAnswered)

    def _cbAnswered(self, result: Any) -> Any:
        """Count an answer."""
        self._asked -= 1
        return result
