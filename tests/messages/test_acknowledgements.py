"""
Tests for L{aesm.messages.acknowledgements}: in all that anybody can do with a Deferred,
the lazy ones are Deferreds.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    ensureDeferred,
    gatherResults,
    inlineCallbacks,
    maybeDeferred,
    succeed,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from aesm.errors import ConnectionClosed, SendBufferFull
from aesm.messages.acknowledgements import (
    AckCount,
    Acknowledgement,
    FailedAcknowledgement,
    LazyDeferred,
    acknowledgementOf,
)


class FakeConnection:
    """
    What an L{Acknowledgement} knows of a connection.

    @ivar watched: who asked.
    @ivar outcome: what to fire with at once: None for nothing.
    """

    def __init__(self, outcome: str = "") -> None:
        """@param outcome: C{"has"}, C{"lost"}, or C{""} to fire nothing yet."""
        self.outcome = outcome
        self.watched: list[tuple[Acknowledgement, int]] = []

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """
        Take note of who asks, and answer.

        @param acknowledgement: what to fire.
        @param count: of messages.
        """
        self.watched.append((acknowledgement, count))
        if self.outcome == "has":
            acknowledgement.callback(None)
        elif self.outcome == "lost":
            acknowledgement.errback(ConnectionClosed("gone"))

    def has(self) -> None:
        """The peer has everything."""
        for acknowledgement, _ in self.watched:
            acknowledgement.callback(None)

    def lost(self) -> None:
        """The peer is gone."""
        for acknowledgement, _ in self.watched:
            acknowledgement.errback(ConnectionClosed("gone"))


class AcknowledgementTests(SynchronousTestCase):
    """Each way to look at one, before and after it can fire."""

    def setUp(self) -> None:
        """Make connections."""
        self.open = FakeConnection()
        self.having = FakeConnection("has")
        self.losing = FakeConnection("lost")

    def test_unknownUntilLookedAt(self) -> None:
        """Nobody is told of one that nobody looks at."""
        acknowledgementOf(self.open, 3)
        self.assertEqual(self.open.watched, [])

    def test_known(self) -> None:
        """The first look makes it known, once."""
        sent = acknowledgementOf(self.open, 3)
        self.assertFalse(sent.called)
        sent.addCallback(lambda result: None)
        self.assertEqual(self.open.watched, [(sent, 3)])

    def test_called(self) -> None:
        """C{called} tells the truth at the first look."""
        self.assertTrue(acknowledgementOf(self.having, 1).called)

    def test_resultBefore(self) -> None:
        """There is no C{result} before it fires, as in any Deferred."""
        self.assertFalse(hasattr(acknowledgementOf(self.open, 1), "result"))

    def test_resultAfter(self) -> None:
        """There is a C{result} afterwards."""
        self.assertIsNone(acknowledgementOf(self.having, 1).result)

    def test_callback(self) -> None:
        """A callback that is added later is called when the peer has it."""
        fired: list[None] = []
        acknowledgementOf(self.open, 1).addCallback(fired.append)
        self.assertEqual(fired, [])
        self.open.has()
        self.assertEqual(fired, [None])

    def test_callbackAtOnce(self) -> None:
        """A callback is called once, at once, if the peer has it already."""
        fired: list[None] = []
        acknowledgementOf(self.having, 1).addCallback(fired.append)
        self.assertEqual(fired, [None])

    def test_errback(self) -> None:
        """An errback is called if the peer may not have it."""
        sent = acknowledgementOf(self.open, 1)
        self.assertNoResult(sent)
        self.open.lost()
        self.failureResultOf(sent, ConnectionClosed)

    def test_returned(self) -> None:
        """Returned from a callback, it begins, although nobody reads C{called}."""
        chained = succeed("x").addCallback(lambda _: acknowledgementOf(self.open, 1))
        self.assertNoResult(chained)
        self.open.has()
        self.assertIsNone(self.successResultOf(chained))

    def test_returnedAndDone(self) -> None:
        """Returned from a callback, its result is taken if it is there."""
        chained = succeed("x").addCallback(lambda _: acknowledgementOf(self.having, 1))
        self.assertIsNone(self.successResultOf(chained))

    def test_returnedAndLost(self) -> None:
        """Returned from a callback, its failure is taken if it is there."""
        chained = succeed("x").addCallback(lambda _: acknowledgementOf(self.losing, 1))
        self.failureResultOf(chained, ConnectionClosed)

    def test_returnedByMaybeDeferred(self) -> None:
        """C{maybeDeferred} hands it on."""
        sent: Deferred[Any] = maybeDeferred(acknowledgementOf, self.open, 1)
        self.assertNoResult(sent)
        self.open.has()
        self.successResultOf(sent)

    def test_chained(self) -> None:
        """C{chainDeferred} begins it."""
        other: Deferred[None] = Deferred()
        acknowledgementOf(self.having, 1).chainDeferred(other)
        self.successResultOf(other)

    def test_awaited(self) -> None:
        """A coroutine can wait for it."""

        async def send() -> str:
            """Wait."""
            await acknowledgementOf(self.open, 1)
            return "done"

        sent = ensureDeferred(send())
        self.assertNoResult(sent)
        self.open.has()
        self.assertEqual(self.successResultOf(sent), "done")

    def test_awaitedAtOnce(self) -> None:
        """A coroutine goes on at once if there is nothing to wait for."""

        async def send() -> int:
            """Wait for both kinds."""
            await acknowledgementOf(self.having, 1)
            return await AckCount([acknowledgementOf(self.having, 1)])

        self.assertEqual(self.successResultOf(ensureDeferred(send())), 1)

    def test_awaitedAndLost(self) -> None:
        """A coroutine gets the error."""

        async def send(connection: FakeConnection) -> str:
            """
            Wait.

            @param connection: for whom.
            """
            try:
                await acknowledgementOf(connection, 1)
            except ConnectionClosed as closed:
                return str(closed)
            return "no error"

        atOnce, later = (
            ensureDeferred(send(self.losing)),
            ensureDeferred(send(self.open)),
        )
        self.open.lost()
        self.assertEqual(self.successResultOf(atOnce), "gone")
        self.assertEqual(self.successResultOf(later), "gone")

    def test_yielded(self) -> None:
        """C{inlineCallbacks} can wait for it."""

        @inlineCallbacks
        def send() -> Generator[Deferred[None], Any, str]:
            """Wait twice."""
            yield acknowledgementOf(self.having, 1)
            yield acknowledgementOf(self.open, 1)
            return "done"

        sent = send()
        self.assertNoResult(sent)
        self.open.has()
        self.assertEqual(self.successResultOf(sent), "done")

    def test_gathered(self) -> None:
        """C{gatherResults} and C{DeferredList} wait for it."""
        sent = [acknowledgementOf(c, 1) for c in (self.open, self.having)]
        gathered = gatherResults(sent)
        listed = DeferredList(
            [acknowledgementOf(c, 1) for c in (self.open, self.losing)],
            consumeErrors=True,
        )
        self.assertNoResult(gathered)
        self.open.has()
        self.assertEqual(self.successResultOf(gathered), [None, None])
        (first, _), (second, _) = self.successResultOf(listed)
        self.assertEqual((first, second), (True, False))

    def test_cancelled(self) -> None:
        """
        Cancelled, it fails with C{CancelledError}; that the peer has the message
        later does no harm.
        """
        sent = acknowledgementOf(self.open, 1)
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.open.has()

    def test_cancelledDone(self) -> None:
        """Cancelling one that can fire at once changes nothing."""
        sent = acknowledgementOf(self.having, 1)
        sent.cancel()
        self.assertIsNone(self.successResultOf(sent))

    def test_timeout(self) -> None:
        """C{addTimeout} cancels it in time."""
        clock = Clock()
        sent = acknowledgementOf(self.open, 1)
        sent.addTimeout(3, clock)
        clock.advance(3)
        self.failureResultOf(sent)

    def test_noTimeout(self) -> None:
        """C{addTimeout} leaves nothing behind when it fires before."""
        clock = Clock()
        sent = acknowledgementOf(self.open, 1).addTimeout(3, clock)
        self.open.has()
        self.successResultOf(sent)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_future(self) -> None:
        """C{asFuture} gives asyncio what it waits for."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        future = acknowledgementOf(self.open, 1).asFuture(loop)
        self.assertFalse(future.done())
        self.open.has()
        self.assertIsNone(loop.run_until_complete(future))

    def test_paused(self) -> None:
        """Paused, it holds its result back."""
        sent = acknowledgementOf(self.open, 1)
        sent.pause()
        fired: list[None] = []
        sent.addCallback(fired.append)
        self.open.has()
        self.assertEqual(fired, [])
        sent.unpause()
        self.assertEqual(fired, [None])

    def test_repr(self) -> None:
        """It can be shown at any time."""
        self.assertIn("Acknowledgement", repr(acknowledgementOf(self.open, 1)))

    def test_begin(self) -> None:
        """What a lazy Deferred does is up to its kind."""
        lazy: LazyDeferred[None] = LazyDeferred()
        self.assertRaises(NotImplementedError, lazy.addCallback, print)

    def test_nothingElse(self) -> None:
        """
        Before and after somebody looks, they have what a Deferred has and no more.
        """
        lazy = acknowledgementOf(FakeConnection("has"), 1)
        self.assertFalse(hasattr(lazy, "length"))
        called: list[None] = []
        lazy.addCallback(called.append)
        with self.assertRaises(AttributeError) as caught:
            getattr(lazy, "length")  # noqa: B009
        self.assertIn("'length'", str(caught.exception))
        lazy.addCallback(called.append)
        self.assertEqual(called, [None, None])


class RefusalTests(SynchronousTestCase):
    """L{FailedAcknowledgement} fails if anybody asks."""

    def test_asked(self) -> None:
        """Who looks is told why."""
        reason = ConnectionClosed("nothing was sent")
        self.assertIs(self.failureResultOf(FailedAcknowledgement(reason)).value, reason)

    def test_notAsked(self) -> None:
        """Nothing is logged if nobody looks."""
        FailedAcknowledgement(ConnectionClosed("nothing was sent"))
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class TallyTests(SynchronousTestCase):
    """L{AckCount} counts who has a message."""

    def test_nobody(self) -> None:
        """Nobody is counted at once, also for a coroutine."""

        async def send() -> int:
            """Wait."""
            return await AckCount([])

        self.assertEqual(self.successResultOf(AckCount([])), 0)
        self.assertEqual(self.successResultOf(ensureDeferred(send())), 0)

    def test_all(self) -> None:
        """It fires once each peer has it or is gone, with the number of the former."""
        connections = [FakeConnection() for _ in range(3)]
        tally = AckCount([acknowledgementOf(c, 1) for c in connections])
        self.assertNoResult(tally)
        connections[0].has()
        connections[1].lost()
        self.assertNoResult(tally)
        connections[2].has()
        self.assertEqual(self.successResultOf(tally), 2)

    def test_refused(self) -> None:
        """A peer that does not take it is not counted, and nothing is logged."""
        refusal: Deferred[None] = Deferred()
        refusal.errback(Failure(SendBufferFull("full")))
        self.assertEqual(self.successResultOf(AckCount([refusal])), 0)

    def test_cancelled(self) -> None:
        """It can be cancelled."""
        connection = FakeConnection()
        tally = AckCount([acknowledgementOf(connection, 1)])
        tally.cancel()
        self.failureResultOf(tally, CancelledError)
        connection.has()

    def test_unseen(self) -> None:
        """Nobody is asked before somebody looks."""
        connection = FakeConnection()
        AckCount([acknowledgementOf(connection, 1)])
        self.assertEqual(connection.watched, [])
