"""
The side that files come to, and senders that do not keep to the rules.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from zope.interface.verify import verifyObject

from aesm import PrivateKey
from aesm.errors import CloseCode, ConnectionClosed
from aesm.files import partial
from aesm.files import receiver as receiving
from aesm.files.partial import LISTED_AGAIN
from aesm.files.receiver import AT_ONCE, MOST_OPEN, FileReceiver
from aesm.files.requests import (
    CHUNK,
    Chunk,
    FileCode,
    Offer,
    asking,
    offering,
    readAnswer,
)
from aesm.interfaces import IMessageHandler
from aesm.messages.owner import FAILURES_TOLD
from aesm.messages.stream import Packet
from aesm.secure.places import BURST_SECONDS
from aesm.testing import ConnectedPair
from tests.support.files import FileTestCase
from tests.support.spooled import ByHand

OFFER = offering(Offer("a.txt", 10, 1))


class ReceiverTestCase(FileTestCase):
    """Somebody who asks for one thing at a time."""

    def offer(
        self, pair: ConnectedPair, name: str = "a.txt", size: int = 10
    ) -> tuple[bytes, int]:
        """
        Offer a file.

        @return: its token, and where to begin.
        """
        answer = self.ask(pair, offering(Offer(name, size, 1)))
        token, offset = readAnswer(answer, token=str, offset=int)
        return bytes.fromhex(token), offset

    def chunk(self, pair: ConnectedPair, token: bytes, offset: int, data: bytes) -> Any:
        """
        Send bytes.

        @return: as C{ask}.
        """
        return self.ask(pair, Chunk(token, offset, memoryview(data)).encode())

    def done(self, pair: ConnectedPair, token: bytes, content: bytes) -> Any:
        """
        Say that it is all.

        @return: as C{ask}.
        """
        digest = sha256(content).hexdigest()
        return self.ask(pair, asking("done", token=token.hex(), sha256=digest))


class FileReceiverTests(ReceiverTestCase):
    """Files are received from whoever sends them."""

    def test_interface(self) -> None:
        """It is a handler."""
        self.assertTrue(verifyObject(IMessageHandler, FileReceiver(self.theirs)))

    def test_told(self) -> None:
        """A subclass is told what is there, and what is on its way."""
        pair = self.meet()
        token, offset = self.offer(pair)
        self.assertEqual(offset, 0)
        self.assertFalse(self.receiver.isIdle)
        self.assertEqual(self.receiver.unfinished(pair.accepted), ["a.txt"])
        self.chunk(pair, token, 0, b"0123456789")
        self.assertEqual(self.there, [])
        self.assertEqual(self.done(pair, token, b"0123456789"), '{"name": "a.txt"}')
        self.assertEqual(self.receiver.events, [("received", "a.txt", "a.txt")])
        self.assertTrue(self.receiver.isIdle)

    def test_progress(self) -> None:
        """Progress is told as a sender's is."""
        told: list[tuple[str, int, int]] = []

        def progress(name: str, done: int, size: int) -> None:
            """Note it."""
            told.append((name, done, size))

        receiver = FileReceiver(
            self.theirs, progress=progress, inThread=self.receiver._inThread
        )
        pair = self.meet(receiver)
        self.sent(pair, self.put("a.bin", b"x" * (CHUNK + 1)))
        self.assertEqual(told, self.progress)

    def test_progressFails(self) -> None:
        """
        Where what is told of the progress fails, so has the request, and the file is
        let go of: it can be offered again.
        """
        fatal = [0, 4]

        def progress(name: str, done: int, size: int) -> None:
            """Fail, once each."""
            if done in fatal:
                fatal.remove(done)
                raise ZeroDivisionError

        receiver = FileReceiver(
            self.theirs, progress=progress, inThread=self.receiver._inThread
        )
        pair = self.meet(receiver)
        self.assertEqual(self.ask(pair, OFFER), CloseCode.INTERNAL_ERROR)
        self.assertTrue(receiver.isIdle)
        token, _ = self.offer(pair)
        failed = self.chunk(pair, token, 0, b"0123")
        self.assertEqual(failed, CloseCode.INTERNAL_ERROR)
        self.assertTrue(receiver.isIdle)
        token, offset = self.offer(pair)
        self.assertEqual(offset, 4)
        self.chunk(pair, token, 4, b"456789")
        self.assertEqual(self.done(pair, token, b"0123456789"), '{"name": "a.txt"}')
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_outOfTurn(self) -> None:
        """Chunks come one behind the other, and end where the file does."""
        pair = self.meet()
        token, _ = self.offer(pair)
        for offset, data in ((1, b"x"), (0, b"x" * 11), (1 << 63, b"x")):
            self.assertEqual(self.chunk(pair, token, offset, data), FileCode.MALFORMED)
        self.chunk(pair, token, 0, b"0123")
        self.assertEqual(self.chunk(pair, token, 0, b"0123"), FileCode.MALFORMED)
        self.assertEqual(self.done(pair, token, b"0123"), FileCode.MALFORMED)
        self.assertEqual(self.there, [])

    def test_otherToken(self) -> None:
        """A token is of the connection over which the file was offered, and of it."""
        pair = self.meet()
        token, _ = self.offer(pair)
        other = self.meetAgain(pair)
        for connection, theirs in ((pair, b"\0" * 8), (other, token)):
            self.assertEqual(self.chunk(connection, theirs, 0, b"x"), FileCode.UNKNOWN)
            self.assertEqual(self.done(connection, theirs, b""), FileCode.UNKNOWN)

    def meetAgain(self, pair: ConnectedPair) -> ConnectedPair:
        """Connect another client, with the key of the first."""
        return self.meet()

    def test_dropped(self) -> None:
        """What its sender does not want any more is gone, and that is told."""
        pair = self.meet()
        token, _ = self.offer(pair)
        self.chunk(pair, token, 0, b"0123")
        self.assertEqual(self.ask(pair, asking("drop", token=token.hex())), "{}")
        told = ("failed", "a.txt", "it was changed meanwhile")
        self.assertEqual(self.receiver.events, [told])
        self.assertEqual(os.listdir(self.theirs), [])
        self.assertEqual(self.done(pair, token, b"0123"), FileCode.UNKNOWN)

    def test_completeNotDropped(self) -> None:
        """What was received before stays, whatever its sender says of it later."""
        pair = self.meet()
        token, _ = self.offer(pair)
        self.chunk(pair, token, 0, b"0123456789")
        self.done(pair, token, b"0123456789")
        token, offset = self.offer(pair)
        self.assertEqual(offset, 10)
        self.ask(pair, asking("drop", token=token.hex()))
        token, offset = self.offer(pair)
        self.assertEqual(self.done(pair, token, b"other"), FileCode.DIFFERS)
        self.assertEqual(self.there, ["a.txt"])

    def test_otherRequests(self) -> None:
        """What is not about files is refused, and told apart by who has more to do."""
        pair = self.meet()
        self.assertEqual(self.ask(pair, "what time is it?"), FileCode.MALFORMED)
        wanted = [self.receiver.wants(Packet(0.0, d)) for d in (asking("end"), "x")]
        self.assertEqual(wanted, [True, False])

    def test_messages(self) -> None:
        """What is no request closes the connection."""
        pair = self.meet()
        pair.client.sendData("hello")
        pair.deliver()
        reason: Any = self.closedReason(pair.client)
        self.assertEqual(reason.code, CloseCode.PROTOCOL_ERROR)

    def test_mostOpen(self) -> None:
        """One connection may send some files at the same time, and no more."""
        pair = self.meet()
        for number in range(MOST_OPEN):
            token, _ = self.offer(pair, f"{number}")
        self.assertEqual(
            self.ask(pair, offering(Offer("more", 1, 1))), FileCode.NO_ROOM
        )
        self.offer(self.meetAgain(pair), "more")  # another one may
        self.ask(pair, asking("drop", token=token.hex()))
        self.offer(pair, "again")

    def test_mostOfKey(self) -> None:
        """
        One key may send some over all its connections, those that are there already
        included, since these are open files, too; others may meanwhile, up to all.
        """
        for bound, value in (("MOST_OF_KEY", 64), ("MOST_IN_ALL", 128)):
            self.assertEqual(getattr(receiving, bound), value)
        self.patch(receiving, "MOST_OF_KEY", 3)
        self.patch(receiving, "MOST_IN_ALL", 4)
        pair = self.meet()
        token, _ = self.offer(pair)
        self.chunk(pair, token, 0, b"0123456789")
        self.done(pair, token, b"0123456789")
        for number in range(3):
            self.assertEqual(self.offer(self.meet(), f"{number}/a.txt")[1], 10)
        more = offering(Offer("more", 1, 1))
        self.assertEqual(self.ask(self.meet(), more), FileCode.NO_ROOM)
        other, third = (self.meet(key=PrivateKey.generate()) for _ in range(2))
        token, _ = self.offer(other)
        self.assertEqual(self.ask(third, more), FileCode.NO_ROOM)
        self.ask(other, asking("drop", token=token.hex()))
        self.offer(third)

    def test_left(self) -> None:
        """What its sender leaves stays, and makes room for another."""
        pair = self.meet()
        for number in range(MOST_OPEN + 1):
            token, _ = self.offer(pair, f"{number}")
            self.ask(pair, asking("leave", token=token.hex()))
            self.assertTrue(self.receiver.isIdle)
        self.assertEqual(len(os.listdir(self.theirs)), MOST_OPEN + 1)
        self.assertEqual(
            self.ask(pair, asking("leave", token=token.hex())), FileCode.UNKNOWN
        )

    def test_mostPartial(self) -> None:
        """
        Of files that were never completed so many are there, and no more; those can
        be gone on with.
        """
        for bound, value in (("MOST_PARTIAL", 256), ("MOST_PARTIAL_OF_KEY", 64)):
            self.assertEqual(getattr(partial, bound), value)
        self.patch(partial, "MOST_PARTIAL_OF_KEY", 3)
        self.patch(partial, "MOST_PARTIAL", 5)
        key, more = PrivateKey.generate(), offering(Offer("more", 1, 1))
        for number in range(3):
            self.leave(f"{number}", key)
        pair = self.meet(key=key)
        self.assertEqual(self.ask(pair, more), FileCode.NO_ROOM)
        for name in ("0", "1"):  # another key has room, until all have none
            self.leave(name, PrivateKey.generate())
        self.assertEqual(self.ask(self.meet(), more), FileCode.NO_ROOM)
        for who, name in ((self.meet(key=key), "1"), (pair, "2")):
            token, _ = self.offer(who, name)
            self.ask(who, asking("drop", token=token.hex()))
        for who in (self.meet(), pair):
            self.offer(who, "more")

    def leave(self, name: str, key: PrivateKey) -> None:
        """Begin a file with a key, and never complete it."""
        pair = self.meet(key=key)
        self.offer(pair, name)
        pair.client.abort()
        pair.deliver()

    def test_listedSeldom(self) -> None:
        """
        To know how many were never completed the directory is not listed for each file
        that comes: with thousands in it that takes longer than all else.  Where there
        is no room it is listed once a second, since somebody may have made some.
        """
        self.patch(partial, "MOST_PARTIAL", 3)
        clock = Clock()
        self.patch(partial, "monotonic", clock.seconds)
        listed: list[Path] = []
        listdir = os.listdir

        def counted(path: Path) -> list[str]:
            """List it, and note that."""
            listed.append(path)
            return listdir(path)

        self.patch(os, "listdir", counted)
        pair = self.meet()
        for number in range(7):
            self.sent(pair, self.put(f"{number}", b"x"))
            token, _ = self.offer(pair, f"dropped {number}")
            self.ask(pair, asking("drop", token=token.hex()))
        self.assertEqual(len(listed), 1)
        for number in range(3):
            self.leave(f"left {number}", PrivateKey.generate())
        more = offering(Offer("more", 1, 1))
        for seconds in (0.0, LISTED_AGAIN - 0.1, 0.1, 0.5):
            clock.advance(seconds)
            for _ in range(3):
                self.assertEqual(self.ask(pair, more), FileCode.NO_ROOM)
        self.assertEqual(len(listed), 2)
        self.partial[0].unlink()
        self.assertEqual(self.ask(pair, more), FileCode.NO_ROOM)
        clock.advance(0.5)
        self.offer(pair, "more")
        self.assertEqual(len(listed), 3)

    def test_roomAgain(self) -> None:
        """What is refused once it is open takes no room from others."""
        self.patch(partial, "MOST_PARTIAL", 2)
        pair = self.meet()
        for number in range(5):
            offer = offering(Offer(f"{number}", 1 << 60, 1))
            self.assertEqual(self.ask(pair, offer), FileCode.NO_ROOM)
        for name in "ab":
            self.offer(pair, name)
        sizes = self.receiver._folder._rooms
        self.assertEqual([*sizes.values()], [partial.MOST_PARTIAL_OF_KEY - 2])
        for name in "ab":
            token, _ = self.offer(pair, name)
            self.ask(pair, asking("drop", token=token.hex()))
        self.assertEqual(sizes, {})  # nothing is kept of who has none

    def test_noRoom(self) -> None:
        """What the disk has no room for is refused before it comes."""
        pair = self.meet()
        self.assertEqual(
            self.ask(pair, offering(Offer("a", 1 << 60, 1))), FileCode.NO_ROOM
        )
        self.assertEqual(os.listdir(self.theirs), [])
        name, reason = self.receiver.events[0][1:]
        self.assertEqual(name, "a")
        self.assertIn("there is no room: it needs 1,152,921,504,606,846,976", reason)

    def test_manyFailed(self) -> None:
        """
        What the disk refuses to one key is in the log so often at once, and then once a
        second: who sends may offer any number.
        """
        clock = Clock()
        self.patch(receiving, "monotonic", clock.seconds)
        most = int(FAILURES_TOLD * BURST_SECONDS)
        self.theirs.rmdir()
        pair = self.meet()
        for seconds, offers, told in ((0, most + 2, most), (1, 2, 1)):
            clock.advance(seconds)
            with capturedLogs() as events:
                for _ in range(offers):
                    self.assertEqual(self.ask(pair, OFFER), FileCode.CANNOT_WRITE)
            said = [e for e in events if e["log_namespace"] == "aesm.files"]
            self.assertEqual(len(said), told)
        self.assertEqual(len(self.receiver.events), most + 4)

    def test_noDirectory(self) -> None:
        """
        Where a directory is none any more, or nothing can be written to it, that is
        what is said, however often; when it is one again there is room.
        """
        self.patch(partial, "MOST_PARTIAL", 2)
        pair = self.meet()
        self.offer(pair, "open")
        self.theirs.rename(f"{self.theirs}.away")
        for _ in range(4):
            self.assertEqual(self.ask(pair, OFFER), FileCode.CANNOT_WRITE)
        Path(f"{self.theirs}.away").rename(self.theirs)
        self.offer(pair)

    def test_otherProcess(self) -> None:
        """Two processes do not receive the same file into the same place."""
        self.offer(self.meet())
        (path,) = self.partial
        other = FileReceiver(self.theirs, inThread=self.receiver._inThread)
        pair = self.meet(other)
        self.assertEqual(self.ask(pair, offering(Offer("a.txt", 10, 1))), FileCode.BUSY)
        with open(path, "rb") as file, self.assertRaises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_inItsPlace(self) -> None:
        """What is no file of ours is neither followed nor written to."""
        self.offer(self.meet())
        (path,) = self.partial
        path.unlink()
        path.symlink_to("elsewhere")
        pair = self.meet(FileReceiver(self.theirs, inThread=self.receiver._inThread))
        self.assertEqual(
            self.ask(pair, offering(Offer("a.txt", 10, 1))), FileCode.CANNOT_WRITE
        )
        path.unlink()
        os.mkfifo(path)
        self.assertEqual(
            self.ask(pair, offering(Offer("a.txt", 10, 1))), FileCode.CANNOT_WRITE
        )

    def test_tooMany(self) -> None:
        """Where all names are taken there is no further one."""
        self.patch(partial, "names", lambda name: iter([name, f"{name} (1)"]))
        for name in ("a", "a (1)"):
            (self.theirs / name).write_bytes(b"")
        pair = self.meet()
        self.assertEqual(self.ask(pair, offering(Offer("a", 1, 1))), FileCode.REFUSED)


class OverlapTests(ReceiverTestCase):
    """Two offers of one file, while the disk takes its time."""

    def setUp(self) -> None:
        """Have a disk that works when the test says so."""
        super().setUp()
        self.hands = ByHand()
        self.receiver = type(self.receiver)(self.theirs, inThread=self.hands.run)
        self.first, self.second = self.meet(), self.meet()

    def work(self) -> None:
        """Let the disk do all that it has to do."""
        while self.hands.waiting:
            self.hands.work()
            self.first.deliver()
            self.second.deliver()

    def asking(self, pair: ConnectedPair, data: str | bytes) -> Deferred[Any]:
        """Ask, and let it arrive."""
        asked = pair.client.request(data)
        pair.deliver()
        return asked

    def begin(self) -> bytes:
        """
        Send a part of a file, which is not hashed yet.

        @return: its token.
        """
        asked = self.asking(self.first, OFFER)
        self.work()
        text, _ = readAnswer(self.successResultOf(asked), token=str, offset=int)
        token = bytes.fromhex(text)
        self.chunk(self.first, token, 0, b"0123")
        return token

    def goOn(self) -> int:
        """
        Offer the file over the second connection.

        @return: where it goes on.
        """
        asked = self.asking(self.second, OFFER)
        self.assertNoResult(asked)
        self.work()
        _, offset = readAnswer(self.successResultOf(asked), token=str, offset=int)
        return int(offset)

    def test_offeredAgain(self) -> None:
        """
        Of a file that is offered again, as by a sender that was started anew, the
        former offer ends; what has come of it counts.
        """
        token = self.begin()
        self.assertEqual(self.goOn(), 4)
        self.assertEqual(self.chunk(self.first, token, 4, b"4"), FileCode.UNKNOWN)

    def test_goneAndBack(self) -> None:
        """A sender that is gone may go on over another connection at once."""
        self.begin()
        self.lose(self.first)
        self.assertEqual(self.goOn(), 4)

    def test_whileCompleted(self) -> None:
        """A file that is just being completed is complete for who offers it again."""
        token = self.begin()
        self.chunk(self.first, token, 4, b"456789")
        digest = sha256(b"0123456789").hexdigest()
        asked = asking("done", token=token.hex(), sha256=digest)
        done = self.asking(self.first, asked)
        self.lose(self.first)
        self.failureResultOf(done, ConnectionClosed)
        self.assertEqual(self.goOn(), 10)
        self.assertEqual(self.there, ["a.txt"])

    def test_othersMeanwhile(self) -> None:
        """
        Who offers a file once more that is being completed, which takes long if it is
        large, holds up no other file.
        """
        token = self.begin()
        self.chunk(self.first, token, 4, b"456789")
        digest = sha256(b"0123456789").hexdigest()
        asked = asking("done", token=token.hex(), sha256=digest)
        done = self.asking(self.first, asked)
        hashing = self.hands.waiting.pop()
        again = [self.asking(self.first, OFFER) for _ in range(2)]
        other = self.asking(self.second, offering(Offer("b.txt", 1, 1)))
        self.work()
        self.successResultOf(other)
        for each in (done, *again):
            self.assertNoResult(each)
        self.hands.waiting.append(hashing)
        self.work()
        self.assertEqual(self.successResultOf(done), '{"name": "a.txt"}')
        for each in again:
            _, offset = readAnswer(self.successResultOf(each), token=str, offset=int)
            self.assertEqual(offset, 10)

    def test_threads(self) -> None:
        """
        Nothing of a file that is there already is hashed before it has to be, and then
        one key has some threads do it at a time, which leaves others to others.
        """
        path = self.theirs / "a.txt"
        path.write_bytes(b"0123456789")
        os.utime(path, ns=(1, 1))
        third = self.meet(key=PrivateKey.generate())
        sha256Of = sha256(b"0123456789").hexdigest()
        pairs, asked = [self.first, self.second] * 2 + [third], []
        for number, pair in enumerate(pairs):
            offered = self.asking(pair, offering(Offer(f"{number}/a.txt", 10, 1)))
            self.hands.waiting.pop()()
            pair.deliver()
            answer = readAnswer(self.successResultOf(offered), token=str, offset=int)
            self.assertEqual(len(self.hands.waiting), min(number, AT_ONCE))
            done = asking("done", token=answer[0], sha256=sha256Of)
            asked.append(self.asking(pair, done))
        self.assertEqual(len(self.hands.waiting), AT_ONCE + 1)
        self.work()
        third.deliver()
        for each in asked:
            self.assertEqual(self.successResultOf(each), '{"name": "a.txt"}')

    def test_withdrawn(self) -> None:
        """Whoever does not wait for an answer any more holds nobody up."""
        asked = self.asking(self.first, OFFER)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.first.deliver()
        self.assertEqual(self.goOn(), 0)

    def lose(self, pair: ConnectedPair) -> None:
        """End a connection and its session."""
        pair.client.abort()
        pair.deliver()
        pair.advance(100)

    def test_goneMeanwhile(self) -> None:
        """Whoever is gone before the file is open leaves nothing open."""
        asked = self.asking(self.first, OFFER)
        self.lose(self.first)
        self.failureResultOf(asked, ConnectionClosed)
        self.work()
        self.assertTrue(self.receiver.isIdle)
        with open(self.partial[0], "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
