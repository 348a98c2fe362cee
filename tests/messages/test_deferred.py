"""
Tests for L{aesm.messages.deferred}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    ensureDeferred,
    fail,
    succeed,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from aesm.messages.acknowledgements import FailedAcknowledgement
from aesm.messages.deferred import Gate, ReactorDeferred, resultNow


async def wait(what: Awaitable[Any]) -> Any:
    """Await something."""
    return await what


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in a Task of asyncio."""
    return asyncio.run(coroutine)


class ReactorDeferredTests(SynchronousTestCase):
    """L{ReactorDeferred}."""

    def test_inTwisted(self) -> None:
        """A coroutine of Twisted's awaits it, as any Deferred."""
        deferred: Deferred[str] = ReactorDeferred()
        waiting = ensureDeferred(wait(deferred))
        self.assertNoResult(waiting)
        deferred.callback("here")
        self.assertEqual(self.successResultOf(waiting), "here")

    def test_inTask(self) -> None:
        """Where a Task of asyncio awaits it, an error names what to do; each time."""
        deferred: Deferred[str] = ReactorDeferred()
        for _ in range(2):
            error = self.assertRaises(RuntimeError, run, wait(deferred))
            for words in "Task of asyncio", "asFuture", "aesm.aio":
                self.assertIn(words, str(error))
        self.assertNoResult(deferred)

    def test_elsewhereInAsyncio(self) -> None:
        """So it is in what asyncio has beside Tasks."""

        async def gather() -> None:
            """Await two at once."""
            await asyncio.gather(ReactorDeferred(), ReactorDeferred())

        async def inTime() -> None:
            """Await with a timeout."""
            await asyncio.wait_for(ReactorDeferred(), 60)

        for way in gather, inTime:
            self.assertIn("asFuture", str(self.assertRaises(RuntimeError, run, way())))

    def test_asFuture(self) -> None:
        """What the error names works."""

        async def waitAsFuture() -> str:
            """Await as asyncio can."""
            deferred: Deferred[str] = ReactorDeferred()
            loop = asyncio.get_running_loop()
            loop.call_soon(deferred.callback, "here")
            return await deferred.asFuture(loop)

        self.assertEqual(run(waitAsFuture()), "here")

    def test_twistedInTask(self) -> None:
        """A coroutine of Twisted's that a Task begins may await it."""
        deferred: Deferred[str] = ReactorDeferred()

        async def begin() -> str:
            """Begin one, and wait for it."""
            loop = asyncio.get_running_loop()
            loop.call_soon(deferred.callback, "here")
            inner = Deferred.fromCoroutine(wait(deferred))
            result: str = await inner.asFuture(loop)
            return result

        self.assertEqual(run(begin()), "here")

    def test_fired(self) -> None:
        """One that has fired is no matter of waiting, and gives what it has."""
        deferred: Deferred[str] = ReactorDeferred()
        deferred.callback("here")
        self.assertEqual(run(wait(deferred)), "here")

    def test_lazy(self) -> None:
        """The Deferreds that sending returns are such ones."""
        failed = FailedAcknowledgement(ZeroDivisionError())
        self.assertIsInstance(failed, ReactorDeferred)
        self.assertRaises(ZeroDivisionError, run, wait(failed))


class GateTests(SynchronousTestCase):
    """L{Gate}."""

    def test_open(self) -> None:
        """All who wait go through, in their order; who comes later waits again."""
        gate = Gate()
        waiting = [gate.wait() for _ in range(2)]
        waiting[0].addCallback(lambda nothing: self.assertNoResult(waiting[1]))
        gate.open()
        for each in waiting:
            self.successResultOf(each)
        self.assertNoResult(gate.wait())

    def test_inVain(self) -> None:
        """All who wait are told why they do so in vain."""
        gate = Gate()
        waiting = [gate.wait() for _ in range(2)]
        gate.open(Failure(KeyError("why")))
        for each in waiting:
            self.failureResultOf(each, KeyError)

    def test_givesUp(self) -> None:
        """Who gives up does not wait; also if another one that goes through says so."""
        gate = Gate()
        waiting = [gate.wait() for _ in range(4)]
        waiting[0].cancel()
        waiting[1].addCallback(lambda nothing: waiting[2].cancel())
        gate.open()
        self.failureResultOf(waiting[0], CancelledError)
        self.failureResultOf(waiting[2], CancelledError)
        self.assertIsNone(self.successResultOf(waiting[3]))


class ResultNowTests(SynchronousTestCase):
    """L{resultNow}."""

    def test_result(self) -> None:
        """What is there is given, or raised."""
        self.assertEqual(resultNow(succeed(1)), 1)
        self.assertRaises(KeyError, resultNow, fail(KeyError("why")))
