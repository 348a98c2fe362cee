"""
Tests for L{aesm.client.pending}: what waits for a connection.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from aesm.client.pending import EarlyMessages, MessageQueue, QueuedMessage, Waiters
from aesm.core.messages.hello import EARLY_WINDOW
from aesm.errors import ConnectionClosed, SendBufferFull
from aesm.messages.requests import waiting
from aesm.testing import connectedPair


class QueuedMessageTests(SynchronousTestCase):
    """One message fires as that does which it is sent with."""

    def test_early(self) -> None:
        """Who looks before it is sent is told then."""
        message, sent = QueuedMessage("x"), Deferred[None]()
        self.assertNoResult(message)
        message.follow(sent)
        self.assertEqual(message.data, b"")
        self.assertNoResult(message)
        sent.callback(None)
        self.successResultOf(message)

    def test_late(self) -> None:
        """Who looks afterwards is told at once, or when it is acknowledged."""
        message, sent = QueuedMessage("x"), Deferred[None]()
        message.follow(sent)
        sent.errback(ConnectionClosed("gone"))
        self.failureResultOf(message, ConnectionClosed)

    def test_nobody(self) -> None:
        """If nobody looks, nobody looks for an acknowledgement either."""
        pair = connectedPair()
        message = QueuedMessage("x")
        message.follow(pair.client.sendData(message.data))
        self.assertIsNone(pair.client.waiting)
        self.assertNoResult(message)
        self.assertIsNotNone(pair.client.waiting)
        pair.deliver()
        self.successResultOf(message)

    def test_cancelled(self) -> None:
        """Cancelling it stops the waiting, not the message."""
        message, sent = QueuedMessage("x"), Deferred[None]()
        message.cancel()
        self.failureResultOf(message, CancelledError)
        self.assertEqual(message.data, "x")
        message.follow(sent)
        sent.callback(None)


class MessageQueueTests(SynchronousTestCase):
    """Messages wait in order, up to a limit."""

    def test_order(self) -> None:
        """The oldest is taken first; what can be changed is copied."""
        queue = MessageQueue(1000)
        self.assertEqual(len(queue), 0)
        changing = bytearray(b"b")
        for data in ("a", changing, memoryview(b"c")):
            queue.add(data)
        changing[:] = b"!"
        self.assertEqual(len(queue), 3)
        self.assertEqual([queue.take().data for _ in range(3)], ["a", b"b", b"c"])
        self.assertEqual(len(queue), 0)

    def test_limit(self) -> None:
        """It takes what fits, and more once there is room again."""
        for limit, fits in ((64 + 64 + 2, False), (64 + 64 + 3, True)):
            queue = MessageQueue(limit)
            queue.add("a")
            second = queue.add("bc")
            if fits:
                self.assertNoResult(second)
            else:
                self.failureResultOf(second, SendBufferFull)
            self.assertEqual(len(queue), 1 + fits)
            while queue:
                queue.take()
            self.assertNoResult(queue.add("bc"))

    def test_fail(self) -> None:
        """All fail, with errors of their own."""
        queue = MessageQueue(1000)
        sent = [queue.add("a"), queue.add("b")]
        queue.fail(ConnectionClosed("stopped", 1000))
        reasons = [self.failureResultOf(each, ConnectionClosed).value for each in sent]
        self.assertEqual([str(reason) for reason in reasons], ["stopped"] * 2)
        self.assertIsNot(*reasons)
        self.assertEqual(len(queue), 0)

    def test_withdrawn(self) -> None:
        """
        A request for whose answer nobody waits any more leaves nothing here, wherever
        it stood: else one that has a timeout, asked again and again, would fill the
        memory while there is no connection.
        """
        queue = MessageQueue(1000)
        queue.add("first")
        for _ in range(3):
            answers = [waiting(None) for _ in range(3)]
            for answer in answers:
                queue.ask(answer, b"\2?")
            self.assertEqual(len(queue), 4)
            for answer in (answers[1], answers[0], answers[2]):
                answer.cancel()
                self.failureResultOf(answer, CancelledError)
            self.assertEqual(len(queue), 1)
        self.assertEqual(queue.take().data, "first")
        self.assertTrue(queue.roomy)


class EarlyMessagesTests(SynchronousTestCase):
    """Those that leave before the server has accepted."""

    def test_take(self) -> None:
        """As many as cost 64 KiB together, in order, and none in part."""
        for size, taken in ((EARLY_WINDOW - 129, 2), (EARLY_WINDOW - 128, 1)):
            queue = MessageQueue(1 << 20)
            for data in (bytes(size), b"x", b"y"):
                queue.add(data)
            self.assertEqual(len(queue.takeEarly()), taken)
            self.assertEqual(len(queue), 3 - taken)
        queue = MessageQueue(1 << 20)
        queue.add(bytes(EARLY_WINDOW - 63))
        self.assertEqual(queue.takeEarly(), [])
        self.assertEqual(len(queue), 1)

    def test_putBack(self) -> None:
        """They go in front of what came meanwhile, and count again."""
        queue = MessageQueue(65 * 3)
        for data in "ab":
            queue.add(data)
        taken = queue.takeEarly()
        queue.add("c")
        queue.putBack(taken)
        self.failureResultOf(queue.add("d"), SendBufferFull)
        self.assertEqual([queue.take().data for _ in range(3)], ["a", "b", "c"])

    def test_follow(self) -> None:
        """Who sent them learns what becomes of them in the session, from then on."""
        pair = connectedPair()
        queue = MessageQueue(1000)
        sent = queue.add("a")
        early = EarlyMessages(queue.takeEarly(), pair.client)
        pair.deliver()
        self.assertNoResult(sent)
        early.follow()
        self.successResultOf(sent)
        early.follow()
        self.assertEqual(early.messages, [])


class WaitersTests(SynchronousTestCase):
    """Those who wait for a connection."""

    def test_tell(self) -> None:
        """
        All are told, once, but for who gives up, if only in a callback of another.
        """
        waiters = Waiters()
        first, second, third = (waiters.add(None) for _ in range(3))
        third.cancel()
        self.failureResultOf(third, CancelledError)
        first.addCallback(lambda connection: second.cancel())
        connection = connectedPair().client
        waiters.tell(connection)
        self.assertIsNone(self.successResultOf(first))
        self.failureResultOf(second, CancelledError)
        waiters.tell(connection)

    def test_attempts(self) -> None:
        """Some wait for so many attempts, and at least for one."""
        waiters = Waiters()
        counts = (-1, 0, 1, 2, None)
        waiting = {count: waiters.add(count) for count in counts}
        impatient = waiters.countFailure()
        self.assertEqual(impatient, [waiting[count] for count in (-1, 0, 1)])
        waiters.tell(Failure(ConnectionClosed("refused")), impatient)
        for deferred in impatient:
            self.failureResultOf(deferred, ConnectionClosed)
        self.assertEqual(waiters.countFailure(), [waiting[2]])
        self.assertNoResult(waiting[2])
        waiting[2].cancel()
        self.failureResultOf(waiting[2], CancelledError)
        self.assertEqual(waiters.countFailure(), [])
        self.assertNoResult(waiting[None])
