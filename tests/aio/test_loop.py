"""
Twisted's reactor on a loop that asyncio runs.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
import weakref
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as TwistedRefused
from twisted.internet.threads import deferToThreadPool
from twisted.python import threadable

from aesm.aio.loop import LoopReactor, result, theReactor
from tests.support.aio import LoopTestCase, turns


class ReactorTests(LoopTestCase):
    """Each loop has one, as long as anybody uses it."""

    def test_one(self) -> None:
        """A loop has one reactor, another loop another one, and neither is kept."""
        seen: list[weakref.ref[LoopReactor]] = []

        async def main() -> None:
            """Look twice."""
            reactor = await theReactor()
            self.assertIs(await theReactor(), reactor)
            self.assertIs(reactor.loop, asyncio.get_running_loop())
            seen.append(weakref.ref(reactor))

        self.runLoop(main())
        self.runLoop(main())
        gc.collect()
        self.assertEqual([reference() for reference in seen], [None, None])

    def test_threads(self) -> None:
        """Loops in several threads have their own, and none is the process's."""
        before = threadable.ioThread
        reactors: list[LoopReactor] = []
        both = threading.Barrier(2)

        async def main() -> None:
            """Be there at the same time."""
            reactors.append(await theReactor())
            both.wait(60)
            reactor = reactors[-1]
            self.assertTrue(reactor.running)

        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(set(map(id, reactors))), 2)
        self.assertIs(threadable.ioThread, before)

    def test_time(self) -> None:
        """Its timers are the loop's."""

        async def main() -> None:
            """Wait for two."""
            reactor = await theReactor()
            called: list[int] = []
            done = asyncio.Event()
            reactor.callLater(0.001, done.set)
            reactor.callLater(0, called.append, 1)
            await done.wait()
            self.assertEqual(called, [1])

        self.runLoop(main())

    def test_pool(self) -> None:
        """Its threads are the loop's executor."""

        async def main() -> None:
            """Have something called there, and fail there."""
            reactor: Any = await theReactor()
            pool = reactor.getThreadPool()
            thread = await result(
                deferToThreadPool(reactor, pool, threading.current_thread)
            )
            self.assertIsNot(thread, threading.current_thread())
            self.assertIn("asyncio", thread.name)
            with self.assertRaises(ZeroDivisionError):
                await result(deferToThreadPool(reactor, pool, lambda: 1 // 0))

        self.runLoop(main())

    def test_end(self) -> None:
        """What is open when the loop ends is closed, as soon as its tasks are."""
        ended: list[float] = []

        class Open:
            """Is open."""

            async def end(self, deadline: float) -> None:
                """Take note, and fail."""
                await turns()
                ended.append(deadline)
                raise RuntimeError("nobody wants to know")

        async def main() -> None:
            """Leave it open."""
            (await theReactor()).open[Open()] = None

        self.runLoop(main())
        self.assertEqual(ended, [2.0])


class ResultTests(LoopTestCase):
    """Deferreds can be awaited."""

    def test_outcomes(self) -> None:
        """With their results, and errors; those of Twisted's become builtin ones."""

        async def main() -> None:
            """Wait for some."""
            self.assertEqual(await result(succeed(1)), 1)
            later: Deferred[int] = Deferred()
            asyncio.get_running_loop().call_soon(later.callback, 2)
            self.assertEqual(await result(later), 2)
            with self.assertRaises(LookupError):
                await result(fail(LookupError()))
            with self.assertRaises(ConnectionRefusedError):
                await result(fail(TwistedRefused(errno.ECONNREFUSED)))

        self.runLoop(main())

    def test_cancelled(self) -> None:
        """Who is cancelled cancels the Deferred; what comes of that is nobody's."""

        async def main() -> None:
            """Cancel before it fires, and after that."""
            for fires in (False, True):
                deferred: Deferred[None] = Deferred()
                waiting = asyncio.create_task(result(deferred))
                await turns()
                if fires:
                    deferred.errback(LookupError())
                waiting.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await waiting
                self.assertIsNone(self.successResultOf(deferred))
                gc.collect()

        self.runLoop(main())
        self.assertEqual(self.flushLoggedErrors(CancelledError), [])
