"""
Tests for L{aesm.store.spool}.
"""

from __future__ import annotations

import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.logger import capturedLogs as captured
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from aesm.errors import SpoolError
from aesm.store.interface import Blob, ISessionStore, Stored
from aesm.store.spool import RETRY, Spool, spoolOpener
from aesm.store.sqlite import MAX_SIZE, SpoolFile
from tests.store.test_sqlite import NAME, OTHER, PEER
from tests.support.spooled import AtOnce, ByHand
from tests.trust.test_files import TREE

# Adds messages, one with each commit, and says after each how many there are.
KILLED = """
import sys
from twisted.internet import reactor
from aesm.store.spool import Spool

name = "0" * 32
spool = Spool(sys.argv[1])
number = sum(len(stored.incoming) for stored in spool.open().result)

def commit():
    spool.put(name, "peer", {"count": number + 1})
    spool.append(name, False, number, 1, b"%d " % number * 2000)
    spool.commit().addCallback(committed)

def committed(result):
    global number
    number += 1
    print(number, flush=True)
    commit()

reactor.callWhenRunning(commit)
reactor.run()
"""

# Opens a spool, writes, and ends without closing it.
LEFT = """
import sys
from twisted.internet import reactor
from aesm.store.spool import Spool

spool = Spool(sys.argv[1])
spool.put("0" * 32, "peer", {})
spool.commit().addCallback(lambda result: reactor.stop())
reactor.run()
print("over")
"""


class Reactor(Clock):
    """A clock that takes calls from threads."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.fromThreads: queue.Queue[Callable[[], Any]] = queue.Queue()

    def callFromThread(
        self, function: Callable[..., Any], *arguments: Any, **keywords: Any
    ) -> None:
        """
        Keep a call.

        @see: L{twisted.internet.interfaces.IReactorFromThreads}
        """
        self.fromThreads.put(partial(function, *arguments, **keywords))

    def turn(self) -> None:
        """Wait for a call, and make it."""
        self.fromThreads.get(timeout=60)()


class LoneSpoolTestCase(SynchronousTestCase):
    """A test with a clock, and a worker that is worked by hand."""

    def setUp(self) -> None:
        """Make them."""
        self.path = self.mktemp()
        self.clock = Clock()
        self.worker = ByHand()

    def makeSpool(self, worker: AtOnce | None = None) -> Spool:
        """Open the file."""
        return Spool(self.path, clock=self.clock, worker=worker or self.worker)

    def add(self, spool: Spool, number: int, name: str = NAME) -> None:
        """Add a message that goes to a peer."""
        spool.put(name, PEER, {"sent": number})
        spool.append(name, True, number, 1, b"%d" % number)

    def numbers(self, path: str | None = None) -> list[int]:
        """
        Read a file that nobody has open.

        @param path: the file, if it is not this test's.
        @return: the numbers of its messages.
        """
        file = SpoolFile(Path(path or self.path), False)
        stored = file.load()
        file.close()
        return [blob.number for session in stored for blob in session.outgoing]


class CommitTests(LoneSpoolTestCase):
    """L{Spool.commit} fires when all is in the file."""

    def test_interface(self) -> None:
        """A spool is a store."""
        spool = Spool(self.path, clock=self.clock, worker=AtOnce())
        verifyObject(ISessionStore, spool)
        self.successResultOf(spool.close())

    def test_commit(self) -> None:
        """
        What was added is written when asked for; the Deferred fires then and not
        before.
        """
        spool = self.makeSpool()
        self.assertEqual(self.successResultOf(spool.open()), [])
        spool.put(NAME, PEER, {"a": 1})
        spool.append(NAME, False, 7, 2, b"in")
        spool.append(NAME, True, 3, 1, b"out")
        self.assertEqual(self.worker.waiting, [])
        committed = spool.commit()
        self.assertNoResult(committed)
        self.worker.work()
        self.successResultOf(committed)
        self.assertEqual(
            self.successResultOf(spool.open()),
            [
                Stored(
                    NAME, PEER, {"a": 1}, [Blob(7, 2, b"in")], [Blob(3, 1, b"out")], []
                )
            ],
        )
        spool.close()
        self.worker.work()

    def test_sync(self) -> None:
        """What a spool is to survive has one of two values."""
        with self.assertRaisesRegex(ValueError, "normal"):
            spoolOpener(self.path, "no", MAX_SIZE, self.clock)
        self.assertIsNone(spoolOpener(None, "full", MAX_SIZE, self.clock))

    def test_full(self) -> None:
        """A spool that survives a loss of power works the same."""
        spool = Spool(self.path, full=True, clock=self.clock, worker=AtOnce())
        self.add(spool, 0)
        self.successResultOf(spool.commit())
        self.successResultOf(spool.close())
        self.assertEqual(self.numbers(), [0])

    def test_gathers(self) -> None:
        """There is one transaction at a time; what comes meanwhile is one more."""
        spool = self.makeSpool()
        self.add(spool, 0)
        committed = [spool.commit()]
        for number in (1, 2, 3):
            self.add(spool, number)
            committed.append(spool.commit())
        self.worker.work()
        self.successResultOf(committed[0])
        for waiter in committed[1:]:
            self.assertNoResult(waiter)
        self.worker.work()
        for waiter in committed[1:]:
            self.successResultOf(waiter)
        self.assertEqual(self.worker.waiting, [])
        spool.close()
        self.worker.work()
        self.assertEqual(self.numbers(), [0, 1, 2, 3])

    def test_nothing(self) -> None:
        """
        Where nothing was added there is nothing to wait for but what is being
        written.
        """
        spool = self.makeSpool()
        self.successResultOf(spool.commit())
        self.add(spool, 0)
        spool.commit()
        committed = spool.commit()
        self.assertNoResult(committed)
        self.worker.work()
        self.successResultOf(committed)
        self.assertEqual(self.worker.waiting, [])
        self.successResultOf(spool.commit())
        spool.close()
        self.worker.work()

    def test_whileFiring(self) -> None:
        """What those who wait note when they hear of it is one batch."""
        spool = self.makeSpool()
        self.add(spool, 0)
        committed: list[Deferred[None]] = []

        def next(result: None, number: int) -> None:
            """Add one more."""
            self.add(spool, number)
            committed.append(spool.commit())

        spool.commit().addCallback(next, 1)
        self.add(spool, 1)
        self.worker.work()
        spool.commit().addCallback(next, 2)
        spool.commit().addCallback(next, 3)
        self.worker.work()
        self.worker.work()
        self.assertEqual([waiter.called for waiter in committed], [True] * 3)
        spool.close()
        self.worker.work()
        self.assertEqual(self.numbers(), [0, 1, 2, 3])

    def test_whileWriting(self) -> None:
        """
        What is put, discarded or dropped while older things of the same session are
        being written comes after them.
        """
        spool = self.makeSpool()
        for name in (NAME, OTHER):
            self.add(spool, 0, name)
            self.add(spool, 1, name)
        spool.commit()
        spool.discard(NAME, True, 1)
        spool.put(NAME, PEER, {"new": 1})
        spool.drop(OTHER)
        spool.commit()
        self.worker.work()
        self.worker.work()
        self.assertEqual(
            self.successResultOf(spool.open()),
            [Stored(NAME, PEER, {"new": 1}, [], [Blob(1, 1, b"1")], [])],
        )
        spool.close()
        self.worker.work()

    def test_cancel(self) -> None:
        """Who does not want to wait any longer need not; it is written all the same."""
        spool = self.makeSpool()
        self.add(spool, 0)
        committed = spool.commit()
        committed.cancel()
        self.failureResultOf(committed, CancelledError)
        self.worker.work()
        spool.close()
        self.worker.work()
        self.assertEqual(self.numbers(), [0])


class BeginTests(LoneSpoolTestCase):
    """L{Spool.begin} stores a session at once, or not at all."""

    def test_begin(self) -> None:
        """It fires once the session is in the file; others make up the next batch."""
        spool = self.makeSpool()
        begun = [spool.begin(name, PEER, {"new": 1}) for name in (NAME, OTHER)]
        for first in (0, 1):
            self.assertNoResult(begun[first])
            self.worker.work()
            self.successResultOf(begun[first])
        self.assertEqual(self.worker.waiting, [])
        self.assertEqual(
            self.successResultOf(spool.open()),
            [Stored(name, PEER, {"new": 1}, [], [], []) for name in (NAME, OTHER)],
        )
        spool.close()
        self.worker.work()

    def test_fails(self) -> None:
        """
        While nothing can be written, it fails, whether that is known before, turns out
        with it, or with what is being written; nothing is kept of it then.
        """
        spool = self.makeSpool()
        self.worker.room = False
        begun = [spool.begin(NAME, PEER, {}), spool.begin(OTHER, PEER, {})]
        with captured():
            self.worker.work()
        begun.append(spool.begin("2" * 32, PEER, {}))
        for each in begun:
            error = self.failureResultOf(each, SpoolError).value
            self.assertIn("cannot write", str(error))
        self.worker.room = True
        with captured():
            self.clock.advance(RETRY)
            self.worker.work()
        self.assertIsNone(spool.failure)
        self.assertEqual(self.successResultOf(spool.open()), [])
        again = spool.begin(NAME, PEER, {})
        self.worker.work()
        self.successResultOf(again)
        self.assertEqual(
            [stored.name for stored in self.successResultOf(spool.open())], [NAME]
        )
        spool.close()
        self.worker.work()

    def test_others(self) -> None:
        """What was committed with it is kept, and written once that can be done."""
        spool = self.makeSpool()
        self.worker.room = False
        begun = spool.begin(OTHER, PEER, {})
        self.add(spool, 0)
        committed = spool.commit()
        with captured():
            self.worker.work()
            self.failureResultOf(begun, SpoolError)
            self.assertNoResult(committed)
            self.worker.room = True
            self.clock.advance(RETRY)
            self.worker.work()
        self.successResultOf(committed)
        self.assertEqual(
            [stored.name for stored in self.successResultOf(spool.open())], [NAME]
        )
        spool.close()
        self.worker.work()

    def test_cancelled(self) -> None:
        """
        One that is cancelled and dropped is not there, whether it was being written or
        not; one that never was in the file leaves nothing to be written.
        """
        spool = self.makeSpool()
        begun = [spool.begin(name, PEER, {}) for name in (NAME, OTHER)]
        for name, each in zip((NAME, OTHER), begun, strict=True):
            each.cancel()
            self.failureResultOf(each, CancelledError)
            spool.drop(name)
        self.assertEqual(list(spool._next.changes), [NAME])
        spool.commit()
        self.worker.work()
        self.worker.work()
        self.assertEqual(self.successResultOf(spool.open()), [])
        spool.close()
        self.worker.work()

    def test_closed(self) -> None:
        """
        What begins before the end is written; what begins later fails, and what cannot
        be written any more does, too.
        """
        spool = self.makeSpool()
        begun = [spool.begin(name, PEER, {}) for name in (NAME, OTHER)]
        closed = spool.close()
        late = spool.begin("2" * 32, PEER, {})
        self.failureResultOf(late, SpoolError)
        self.worker.work()
        self.successResultOf(begun[0])
        self.worker.room = False
        with captured():
            self.worker.work()
        self.failureResultOf(begun[1], SpoolError)
        self.worker.work()
        self.failureResultOf(closed, SpoolError)


class FailureTests(LoneSpoolTestCase):
    """A disk that is full, for a while."""

    def test_failure(self) -> None:
        """
        A batch that cannot be written is tried again each second until it can, with
        what has come meanwhile; its Deferreds wait, and C{failure} says why.
        """
        spool = self.makeSpool(worker := AtOnce())
        self.add(spool, 0)
        self.successResultOf(spool.commit())
        worker.room = False
        self.add(spool, 1)
        with captured() as logs:
            first = spool.commit()
            self.assertIsInstance(spool.failure, SpoolError)
            self.assertIn(self.path, str(spool.failure))
            self.assertIn("disk", str(spool.failure))
            self.add(spool, 2)
            second = spool.commit()
            self.clock.pump([RETRY] * 5)
            self.assertNoResult(first)
            self.assertNoResult(second)
            self.assertIsNotNone(spool.failure)
            worker.room = True
            self.clock.advance(RETRY * 0.9)
            self.assertNoResult(first)
            self.clock.advance(RETRY * 0.1)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertIsNone(spool.failure)
        self.assertEqual(
            [(event["log_level"], event["log_namespace"]) for event in logs],
            [(LogLevel.error, "aesm.spool"), (LogLevel.info, "aesm.spool")],
        )
        self.add(spool, 3)
        self.successResultOf(spool.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.numbers(), [0, 1, 2, 3])

    def test_forgets(self) -> None:
        """What is put, discarded or dropped while a batch is kept changes the batch."""
        spool = self.makeSpool(worker := AtOnce())
        worker.room = False
        for name in (NAME, OTHER):
            self.add(spool, 0, name)
            self.add(spool, 1, name)
        committed = spool.commit()
        spool.discard(NAME, True, 1)
        spool.put(NAME, PEER, {"new": 1})
        spool.drop(OTHER)
        worker.room = True
        self.clock.advance(RETRY)
        self.successResultOf(committed)
        self.assertEqual(
            self.successResultOf(spool.open()),
            [Stored(NAME, PEER, {"new": 1}, [], [Blob(1, 1, b"1")], [])],
        )
        spool.close()

    def test_meanwhile(self) -> None:
        """What was added while a batch was being written that failed comes after it."""
        spool = self.makeSpool()
        for name in (NAME, OTHER):
            self.add(spool, 0, name)
            self.add(spool, 1, name)
        spool.commit()
        self.add(spool, 2)
        spool.discard(NAME, True, 1)
        spool.drop(OTHER)
        self.worker.room = False
        self.worker.work()
        self.worker.room = True
        self.assertEqual(self.worker.waiting, [])
        self.clock.advance(RETRY)
        self.worker.work()
        spool.close()
        self.worker.work()
        self.assertEqual(self.numbers(), [1, 2])

    def test_noDiskAtFault(self) -> None:
        """
        A batch that cannot be written for any other reason is kept as well, and
        nobody is told that it was written.
        """
        spool = self.makeSpool(AtOnce())
        spool.put(NAME, PEER, {})
        spool.append(NAME, True, 2**63, 1, b"")
        committed = spool.commit()
        self.assertNoResult(committed)
        self.assertIn("too large", str(spool.failure))
        spool.drop(NAME)
        self.clock.advance(RETRY)
        self.successResultOf(committed)
        spool.close()


class CloseTests(LoneSpoolTestCase):
    """L{Spool.close} writes what is left and leaves nothing behind."""

    def test_idle(self) -> None:
        """File and worker are closed before the Deferred fires."""
        spool = self.makeSpool()
        closed = spool.close()
        self.assertNoResult(closed)
        self.assertFalse(self.worker.stopped)
        self.worker.work()
        self.successResultOf(closed)
        self.assertTrue(self.worker.stopped)
        self.assertEqual(self.numbers(), [])

    def test_writes(self) -> None:
        """What was added is written, committed or not."""
        spool = self.makeSpool(AtOnce())
        self.add(spool, 0)
        self.successResultOf(spool.close())
        self.assertEqual(self.numbers(), [0])

    def test_whileWriting(self) -> None:
        """The batch that is being written is waited for, then comes the rest."""
        spool = self.makeSpool()
        self.add(spool, 0)
        first = spool.commit()
        self.add(spool, 1)
        second = spool.commit()
        closed = spool.close()
        self.worker.work()
        self.successResultOf(first)
        self.worker.work()
        self.successResultOf(second)
        self.assertNoResult(closed)
        self.worker.work()
        self.successResultOf(closed)
        self.assertEqual(self.numbers(), [0, 1])

    def test_fromCallback(self) -> None:
        """Who hears that a batch is written may close."""
        spool = self.makeSpool(AtOnce())
        self.add(spool, 0)
        committed = spool.commit()
        committed.addCallback(lambda result: spool.close())
        self.successResultOf(committed)
        self.assertEqual(self.numbers(), [0])

    def test_fails(self) -> None:
        """
        What cannot be written is tried once more, at once; then its Deferreds fail,
        and the file is closed all the same, with what it had before.
        """
        spool = self.makeSpool(worker := AtOnce())
        self.add(spool, 0)
        self.successResultOf(spool.commit())
        worker.room = False
        self.add(spool, 1)
        committed = spool.commit()
        closed = spool.close()
        self.clock.advance(0)
        self.failureResultOf(committed, SpoolError)
        self.failureResultOf(closed, SpoolError)
        self.assertTrue(worker.stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.numbers(), [0])

    def test_lastTry(self) -> None:
        """With room again, the last try writes all."""
        spool = self.makeSpool(worker := AtOnce())
        worker.room = False
        self.add(spool, 0)
        committed = spool.commit()
        worker.room = True
        closed = spool.close()
        self.clock.advance(0)
        self.successResultOf(committed)
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.numbers(), [0])

    def test_failsWhileClosing(self) -> None:
        """The batch that was being written has its last try, too."""
        for room in (True, False):
            self.path = self.mktemp()
            spool = self.makeSpool()
            self.add(spool, 0)
            committed = spool.commit()
            closed = spool.close()
            self.worker.room = False
            self.worker.work()
            self.worker.room = room
            self.clock.advance(0)
            self.worker.work()
            self.worker.work()
            if room:
                self.successResultOf(committed)
                self.successResultOf(closed)
            else:
                self.failureResultOf(committed, SpoolError)
                self.failureResultOf(closed, SpoolError)
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertEqual(self.numbers(), [0] if room else [])

    def test_afterwards(self) -> None:
        """What is added afterwards goes nowhere, and nobody is told otherwise."""
        spool = self.makeSpool(AtOnce())
        self.successResultOf(spool.close())
        self.add(spool, 0)
        self.failureResultOf(spool.commit(), SpoolError)
        self.assertRaises(RuntimeError, spool.close)
        self.assertEqual(self.numbers(), [])

    def test_closingFails(self) -> None:
        """Should closing the file fail, that is said, and the worker ends."""

        class Broken(AtOnce):
            """A worker that cannot."""

            def run(
                self, function: Callable[..., None], *arguments: Any
            ) -> Deferred[None]:
                """Call the function, and fail all the same."""
                done = super().run(function, *arguments)
                return done.addCallback(lambda result: Failure(OSError("broken")))

        spool = self.makeSpool(worker := Broken())
        self.failureResultOf(spool.close(), OSError)
        self.assertTrue(worker.stopped)


class ModelTests(LoneSpoolTestCase):
    """
    Whatever changes, and whatever fails meanwhile, the file has all of it in the end.
    """

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("put", "append", "discard", "drop", "commit", "work")),
                st.sampled_from((NAME, OTHER)),
                st.booleans(),
                st.integers(0, 6),
            ),
            max_size=40,
        )
    )
    def test_model(self, steps: list[tuple[str, str, bool, int]]) -> None:
        """A spool is a dictionary of sessions."""
        self.path, self.worker = self.mktemp(), ByHand()
        spool = self.makeSpool()
        model: dict[str, Stored] = {}
        number = 0
        for step, name, flag, value in steps:
            if step == "put":
                spool.put(name, PEER, {"value": value})
                old = model.get(name, Stored(name, PEER, {}, [], [], []))
                model[name] = old._replace(state={"value": value})
            elif step == "append" and name in model:
                blob = Blob(number, value + 1, b"x" * value)
                spool.append(name, flag, *blob)
                (model[name].outgoing if flag else model[name].incoming).append(blob)
                number += value + 1
            elif step == "discard":
                before = max(0, number - value)
                spool.discard(name, flag, before)
                if name in model:
                    blobs = model[name].outgoing if flag else model[name].incoming
                    blobs[:] = [blob for blob in blobs if sum(blob[:2]) > before]
            elif step == "drop":
                spool.drop(name)
                model.pop(name, None)
            elif step == "commit":
                spool.commit()
            elif step == "work":
                self.worker.room = flag
                if self.worker.waiting:
                    self.worker.work()
                self.clock.advance(RETRY)
        self.worker.room = True
        committed = spool.commit()
        while not committed.called:
            if self.worker.waiting:
                self.worker.work()
            self.clock.advance(RETRY)
        stored = self.successResultOf(spool.open())
        self.assertEqual({session.name: session for session in stored}, model)
        self.assertIsNone(spool.failure)
        spool.close()
        self.worker.work()


class ThreadTests(SynchronousTestCase):
    """A spool has a thread of its own."""

    def test_thread(self) -> None:
        """
        All that is written goes through one thread, which keeps no program from
        ending, is there when it is needed, and ends with the spool.
        """
        reactor = Reactor()
        before = set(threading.enumerate())
        spool = Spool(self.mktemp(), clock=reactor)
        self.assertEqual(set(threading.enumerate()), before)
        for number in range(3):
            spool.put(NAME, PEER, {"number": number})
            committed = spool.commit()
            self.assertNoResult(committed)
            reactor.turn()
            self.successResultOf(committed)
            [thread] = set(threading.enumerate()) - before
            self.assertTrue(thread.daemon)
        self.assertEqual(self.successResultOf(spool.open())[0].state, {"number": 2})
        closed = spool.close()
        reactor.turn()
        self.successResultOf(closed)
        self.assertEqual(set(threading.enumerate()), before)

    def test_refused(self) -> None:
        """A spool that cannot be opened has no thread."""
        path = Path(self.mktemp())
        path.mkdir()
        before = threading.active_count()
        self.assertRaises(SpoolError, Spool, path, clock=Reactor())
        self.assertEqual(threading.active_count(), before)


class ReactorTests(TestCase):
    """The reactor that is installed is the one to use."""

    async def test_reactor(self) -> None:
        """A spool needs nothing but a path."""
        path = self.mktemp()
        for number in range(3):
            spool = Spool(path)
            self.assertEqual(len(self.successResultOf(spool.open())), min(number, 1))
            spool.put(NAME, PEER, {"number": number})
            await spool.commit()
            await spool.close()


class ProcessTests(LoneSpoolTestCase):
    """Processes that end."""

    def start(self, program: str) -> subprocess.Popen[str]:
        """Start a program with this test's file."""
        path = os.pathsep.join([TREE, *filter(None, sys.path)])
        return subprocess.Popen(
            [sys.executable, "-c", program, self.path],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )

    def test_killed(self) -> None:
        """
        After a process was killed, at any moment, the file opens at once, and has
        all that was said to be in it, each batch whole.
        """
        for _ in range(3):
            with self.start(KILLED) as process:
                assert process.stdout is not None
                reported = [
                    process.stdout.readline() for _ in range(random.randint(1, 100))
                ]
                process.kill()
                reported += process.stdout.readlines()
            file = SpoolFile(Path(self.path), False)
            [stored] = file.load()
            file.close()
            count = len(stored.incoming)
            self.assertGreaterEqual(count, int(reported[-1]))
            self.assertEqual(stored.state, {"count": count})
            self.assertEqual(
                stored.incoming,
                [Blob(number, 1, b"%d " % number * 2000) for number in range(count)],
            )

    def test_left(self) -> None:
        """
        A process that does not close its spool ends, and what it has committed is
        there.
        """
        with self.start(LEFT) as process:
            self.assertEqual(process.communicate(timeout=60)[0], "over\n")
        file = SpoolFile(Path(self.path), False)
        self.assertEqual(len(file.load()), 1)
        file.close()
