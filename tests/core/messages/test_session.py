"""
Tests of L{aesm.core.messages.session}: what is counted, kept and allowed, PROTOCOL
section 7.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.frames import MESSAGE_OVERHEAD, Ack, Messages
from aesm.core.messages.hello import LEAST_HELLO, Hello
from aesm.core.messages.session import Inbox, Session
from aesm.errors import ProtocolError, SendBufferFull


def arrived(*sizes: int) -> Messages:
    """
    Describe messages that come together.

    @param sizes: of their bodies.
    """
    costs = [size + MESSAGE_OVERHEAD for size in sizes]
    return Messages(0, [bytes(size) for size in sizes], sum(costs), costs[-1])


class InboxTests(SynchronousTestCase):
    """L{Inbox}."""

    def test_limit(self) -> None:
        """The bytes before a message must be below the limit; its own may pass it."""
        for sizes, good in (
            ((935,), True),
            ((5000,), True),
            ((935, 5000), True),
            ((936, 0), False),
            ((400, 471, 5000), True),
            ((400, 472, 0), False),
        ):
            for together in (True, False):
                inbox = Inbox(1000)
                groups = [sizes] if together else [(size,) for size in sizes]
                *others, last = map(lambda group: arrived(*group), groups)
                for messages in others:
                    inbox.receive(messages)
                if good:
                    inbox.receive(last)
                    self.assertEqual(inbox.received, len(sizes))
                else:
                    before = inbox.received, inbox.untaken
                    error = self.assertRaises(ProtocolError, inbox.receive, last)
                    self.assertIn("past the limit of 1000", str(error))
                    self.assertEqual((inbox.received, inbox.untaken), before)

    def test_announced(self) -> None:
        """What counts is the limit that was announced, not the one that could be."""
        inbox = Inbox(100)
        inbox.receive(arrived(36))
        inbox.take(100)
        self.assertRaises(ProtocolError, inbox.receive, arrived(0))
        inbox = Inbox(100)
        inbox.receive(arrived(36))
        inbox.take(100)
        self.assertEqual(inbox.takeAck(), (0, 200))
        inbox.receive(arrived(0))

    def test_dueForCount(self) -> None:
        """An ACK is due for every message that is kept."""
        inbox = Inbox(1000)
        inbox.receive(arrived(1, 2, 3))
        self.assertIsNone(inbox.takeAck())
        for kept in (1, 3):
            inbox.keep(kept - inbox.keptCount)
            self.assertEqual(inbox.takeAck(), (kept, 1000))
            self.assertIsNone(inbox.takeAck())

    def test_dueForLimit(self) -> None:
        """One is due for the limit when it can grow by a quarter of the window."""
        inbox = Inbox(1000)
        inbox.receive(arrived(936))
        inbox.take(249)
        self.assertIsNone(inbox.takeAck())
        inbox.take(1)
        self.assertEqual(inbox.takeAck(), (0, 1250))
        self.assertIsNone(inbox.takeAck())
        inbox.take(750)
        self.assertEqual(inbox.takeAck(), (0, 2000))

    def test_smallWindow(self) -> None:
        """With the smallest window, one message at a time passes."""
        inbox = Inbox(1)
        for number in range(1, 4):
            self.assertIsNone(inbox.takeAck())
            inbox.receive(arrived(0))
            inbox.take(64)
            self.assertEqual(inbox.takeAck(), (0, 1 + 64 * number))

    def test_owedAfterResuming(self) -> None:
        """
        Over a new connection an ACK is due, once, even if nothing has changed: the
        last one may be lost.
        """
        inbox = Inbox(1000)
        inbox.receive(arrived(36))
        inbox.keep(1)
        self.assertEqual(inbox.takeAck(), (1, 1000))
        for _ in range(2):
            inbox.ackDue = True
            self.assertEqual(inbox.takeAck(), (1, 1000))
            self.assertIsNone(inbox.takeAck())

    def test_limitAfterResuming(self) -> None:
        """The limit that was announced counts on, whether the ACK arrived or not."""
        inbox = Inbox(100)
        inbox.receive(arrived(36))
        inbox.ackDue = True
        self.assertRaises(ProtocolError, inbox.receive, arrived(0))

    def test_untaken(self) -> None:
        """It knows what came and is not done with."""
        inbox = Inbox(1000)
        inbox.receive(arrived(36, 36))
        inbox.keep(2)
        inbox.take(50)
        self.assertEqual((inbox.untaken, inbox.received), (150, 2))
        self.assertEqual((inbox.receivedCost, inbox.takenCost), (200, 50))

    def test_restored(self) -> None:
        """
        A new process goes on with what was written down: what came is kept, and the
        limit is what it was.
        """
        inbox = Inbox(300)
        inbox.restore(5, 500, 300)
        self.assertEqual((inbox.received, inbox.keptCount, inbox.untaken), (5, 5, 200))
        self.assertIsNone(inbox.takeAck())
        inbox.receive(arrived(35, 0))
        self.assertRaises(ProtocolError, inbox.receive, arrived(0))
        inbox.keep(2)
        self.assertEqual(inbox.takeAck(), (7, 600))


class SessionTests(SynchronousTestCase):
    """L{Session}."""

    def test_bounds(self) -> None:
        """Each direction has its own bound."""
        session = Session(64, 1000)
        self.assertEqual(session.outbox.add("", 0), 1)
        self.assertRaises(SendBufferFull, session.outbox.add, "", 0)
        self.assertEqual(session.inbox.window, 1000)

    def test_name(self) -> None:
        """It may have a name."""
        self.assertEqual(Session(1, 1).name, "")
        self.assertEqual(Session(1, 1, "0" * 32).name, "0" * 32)

    def test_resume(self) -> None:
        """
        Both directions go on: what the other side does not have is sent again, after
        an ACK.
        """
        session = Session(1000, 1000)
        session.outbox.begin(Hello(window=64))
        for _ in range(2):
            session.outbox.add("", 0)
        session.outbox.take(1000)
        session.resume(Hello(window=1000))
        self.assertEqual(session.inbox.takeAck(), (0, 1000))
        self.assertEqual((session.outbox.sent, session.outbox.limit), (0, 64))

    def test_impossible(self) -> None:
        """Neither does if the other side says what cannot be."""
        session = Session(1000, 1000)
        self.assertRaises(ProtocolError, session.resume, Hello(received=1))
        self.assertIsNone(session.inbox.takeAck())

    def test_begun(self) -> None:
        """
        A session that began with early messages goes on where they ended, with the
        peer's window; not if it is over meanwhile.
        """
        for over in (False, True):
            session = Session(1000, 1000, "name")
            session.outbox.begin(LEAST_HELLO)
            session.outbox.add("early", 1)
            session.outbox.take(1000)
            peer = Hello(session="name", early=18, window=70)
            if over:
                session.outbox.drop()
                self.assertRaises(ProtocolError, session.resume, peer)
                continue
            session.resume(peer)
            self.assertEqual((session.outbox.sent, session.outbox.limit), (1, 70))
            self.assertIsNone(session.inbox.takeAck())

    def test_settled(self) -> None:
        """It is settled while neither side lacks anything, as far as is known."""
        session = Session(1000, 1000)
        session.outbox.begin(Hello())
        self.assertTrue(session.settled)
        session.inbox.receive(arrived(3))
        self.assertFalse(session.settled)
        session.inbox.keep(1)
        self.assertTrue(session.settled)
        session.outbox.add("x", 1)
        self.assertFalse(session.settled)
        session.outbox.take(1000)
        self.assertFalse(session.settled)
        session.outbox.acknowledge(Ack(1, 1 << 30))
        self.assertTrue(session.settled)
