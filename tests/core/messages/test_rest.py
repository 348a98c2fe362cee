"""
Tests for messages that are larger than what one connection's life lets through: over
the next connection comes what is missing, a REST (docs/protocol.md, section 8).
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.conversation import Conversation
from aesm.core.messages.events import Accepted, Broken, Event
from aesm.core.messages.frames import (
    BINARY,
    REST,
    TEXT,
    FrameType,
    Messages,
    Partial,
    encodeBatch,
    encodeFrame,
)
from aesm.core.messages.hello import ConversationSettings, Hello
from aesm.core.messages.session import Session
from aesm.errors import MessageTooBig, ProtocolError

SESSION = "0f" * 16
PLENTY = 1 << 40
LARGE = bytes(range(256)) * 256  # 64 KiB
SETTINGS = ConversationSettings(maxMessage=1 << 20)


class Ends:
    """
    Both ends of a session, over one connection after another.

    @ivar sessions: the client's and the server's; the client's is there from the first
        connection on.
    @ivar got: what each side got.
    @ivar carried: bytes that were carried to each side.
    """

    def __init__(self) -> None:
        """Start without a connection."""
        self.sessions: list[Session | None] = [None, Session(1 << 24, 1 << 24, SESSION)]
        self.got: tuple[list[Any], list[Any]] = ([], [])
        self.carried = [0, 0]

    def connect(self, batch: bool = True) -> tuple[Conversation, Conversation]:
        """
        Connect.

        @param batch: whether both sides say that they take BATCH frames.
        """
        mine, theirs = self.sessions
        assert theirs is not None
        hello = SETTINGS.hello(mine)
        client = Conversation(SETTINGS, 0.0, mine)
        server = Conversation(SETTINGS, 0.0, theirs)
        server.welcome(Hello.decode(hello.encode()))
        return client, server

    def run(self, lets: int, sizes: int = 1000) -> None:
        """
        Have a connection that is cut once it has carried so many bytes to each side,
        or has nothing left to carry.

        @param lets: how many.
        @param sizes: how the bytes are cut up.
        """
        ends = self.connect()
        left = [lets, lets]
        waiting = [b"", b""]
        while True:
            for side, conversation in enumerate(ends):
                waiting[1 - side] += b"".join(conversation.takeFrames(1, PLENTY))
            if not any(waiting) or not any(left):
                break
            for side, conversation in enumerate(ends):
                chunk = waiting[side][: min(sizes, left[side])]
                waiting[side] = waiting[side][len(chunk) :]
                left[side] -= len(chunk)
                self.carried[side] += len(chunk)
                self.take(side, conversation, conversation.receive(chunk, 0.0))
            if any(waiting[side] and not left[side] for side in range(2)):
                break
        for side, conversation in enumerate(ends):
            conversation.transportLost()
            if hasattr(conversation, "session"):
                self.sessions[side] = conversation.session

    def take(self, side: int, conversation: Conversation, events: list[Event]) -> None:
        """Do what a quick application does."""
        for event in events:
            assert not isinstance(event, Broken), event
            if isinstance(event, Messages):
                self.got[side].extend(event.data)
                conversation.session.inbox.keep(len(event.data))
                conversation.session.inbox.take(event.cost)


class CutTests(SynchronousTestCase):
    """Two conversations whose connections are cut."""

    def test_getsOn(self) -> None:
        """
        A message gets on whatever each connection lets through, both ways, and its
        bytes cross the wire hardly more than once.
        """
        for data in (LARGE, "text" * 16384, "\xe9" * 32768):
            ends = Ends()
            ends.run(PLENTY)
            for session in ends.sessions:
                assert session is not None
                session.outbox.add(data, 7)
            for _ in range(40):
                ends.run(3000)
            self.assertEqual(ends.got, ([data], [data]))
            for carried in ends.carried:
                self.assertLess(carried, 75_000)
            for session in ends.sessions:
                assert session is not None
                self.assertIsNone(session.inbox.partial)
                self.assertEqual(session.outbox.keptCost, 0)

    @given(
        st.lists(st.sampled_from([0, 1, 200, 3000, 9000, 70_000]), max_size=6),
        st.lists(st.integers(0, 60_000), max_size=12),
        st.booleans(),
    )
    @settings(max_examples=60, deadline=None)
    def test_anyCuts(self, lengths: list[int], cuts: list[int], text: bool) -> None:
        """
        Messages of any sizes, over connections that let through anything, arrive once
        and in order.
        """
        ends = Ends()
        ends.run(PLENTY)
        sent: list[str | bytes] = []
        for number, length in enumerate(lengths):
            data = str(number)[:1] * length if text else bytes([number]) * length
            sent.append(data)
            for session in ends.sessions:
                assert session is not None
                session.outbox.add(data, number)
                if number % 2:
                    session.outbox.closeBatch()
        for cut in cuts:
            ends.run(cut)
        ends.run(PLENTY)
        self.assertEqual(ends.got, (sent, sent))


class RulesTests(SynchronousTestCase):
    """What a REST may be."""

    def make(self, partial: Partial | None) -> Conversation:
        """Make a server's conversation with a session that was cut in a message."""
        session = Session(1 << 20, 1 << 20, SESSION)
        session.inbox.partial = partial
        conversation = Conversation(ConversationSettings(maxMessage=100), 0.0, session)
        conversation.welcome(Hello(session=SESSION))
        return conversation

    def test_welcome(self) -> None:
        """Both sides say how much they hold."""
        for partial, size in ((None, 0), (Partial(BINARY, b"x" * 9), 9)):
            (output,) = self.make(partial).takeFrames(1, PLENTY)
            self.assertEqual(b'"partial":9' in output, size == 9)

    def test_whole(self) -> None:
        """It is put behind what was there, as a message of that type."""
        for kind, whole in ((BINARY, b"onetwo"), (TEXT, "onetwo")):
            conversation = self.make(Partial(kind, b"one"))
            frame = encodeFrame(FrameType.REST, 7, b"two")
            (event,) = conversation.receive(frame, 0.0)
            assert isinstance(event, Messages)
            self.assertEqual((event.micros, event.data), (7, (whole,)))
            self.assertEqual(event.cost, 6 + 64)
            self.assertIsNone(conversation.session.inbox.partial)

    def test_wholeAgain(self) -> None:
        """
        A peer may send the whole again, or a BATCH: what was held is let go, and a
        REST comes too late then, in the same bytes or in later ones.
        """
        rest = encodeFrame(FrameType.REST, 7, b"two")
        for again in (
            encodeFrame(FrameType.BINARY, 7, b"onetwo"),
            b"".join(encodeBatch(7, [b"onetwo", b"x"], [6, 1])),
        ):
            for chunks in ([again, rest], [again + rest]):
                conversation = self.make(Partial(BINARY, b"one"))
                events = [e for c in chunks for e in conversation.receive(c, 0.0)]
                self.assertIsInstance(events[0], Messages)
                assert isinstance(events[-1], Broken)
                self.assertIsInstance(events[-1].error, ProtocolError)

    def test_ofNothing(self) -> None:
        """
        Where nothing is held there is no rest; nor is it larger than what is taken.
        """
        for partial, size, error in (
            (None, 3, ProtocolError),
            (Partial(BINARY, b"x" * 90), 11, MessageTooBig),
        ):
            conversation = self.make(partial)
            frame = encodeFrame(FrameType.REST, 7, bytes(size))
            (event,) = conversation.receive(frame[:13], 0.0)
            assert isinstance(event, Broken)
            self.assertIs(type(event.error), error)

    def test_impossible(self) -> None:
        """
        Who holds more of a message than there is does not go on with this session.
        """
        session = Session(1 << 20, 1 << 20, SESSION)
        session.outbox.begin(Hello(batch=True))
        for data in (b"one", b"three"):
            session.outbox.add(data, 7)
        session.outbox.take(PLENTY)
        for received, partial, can in (
            (0, 2, True),
            (0, 3, False),
            (1, 4, True),
            (1, 5, False),
            (2, 0, True),
            (2, 1, False),
        ):
            hello = Hello(received=received, partial=partial)
            self.assertIs(session.outbox.canResume(hello), can, hello)

    def test_peerThatKnowsNothing(self) -> None:
        """A client whose server does not know of it gets the whole again."""
        session = Session(1 << 20, 1 << 20, SESSION)
        session.inbox.partial = Partial(BINARY, b"one")
        client = Conversation(ConversationSettings(), 0.0, session)
        welcome = encodeFrame(
            FrameType.WELCOME, 1, b'{"session":"%s"}' % SESSION.encode()
        )
        (event,) = client.receive(welcome, 0.0)
        assert isinstance(event, Accepted)
        (message,) = client.receive(encodeFrame(FrameType.BINARY, 1, b"onetwo"), 0.0)
        assert isinstance(message, Messages)
        self.assertEqual(message.data, (b"onetwo",))

    def test_type(self) -> None:
        """It has the type that the document says."""
        self.assertEqual(REST, 5)


class OutboxTests(SynchronousTestCase):
    """What the sender makes of it."""

    def make(self, *data: str | bytes) -> Session:
        """Make a session whose messages were all sent together."""
        session = Session(1 << 20, 1 << 20, SESSION)
        session.outbox.begin(Hello(batch=True))
        for each in data:
            session.outbox.add(each, 7)
        session.outbox.take(PLENTY)
        return session

    def frames(self, session: Session) -> list[bytes]:
        """Take what is to be sent."""
        return session.outbox.take(PLENTY)

    def test_ofABatch(self) -> None:
        """
        A message that was sent with others is cut out of its batch, as after a restart
        in which they were put together otherwise.
        """
        session = self.make(b"one", b"two", b"three")
        session.outbox.resume(Hello(batch=True, received=1, partial=2))
        rest, other = self.frames(session)
        self.assertEqual(rest, encodeFrame(FrameType.REST, 7, b"o"))
        self.assertEqual(other, encodeFrame(FrameType.BINARY, 7, b"three"))

    def test_wholeAfterAll(self) -> None:
        """A peer that holds nothing any more gets the whole."""
        session = self.make("text")
        session.outbox.resume(Hello(partial=2))
        self.assertEqual(self.frames(session), [encodeFrame(FrameType.REST, 7, b"xt")])
        session.outbox.resume(Hello())
        whole = encodeFrame(FrameType.TEXT, 7, b"text")
        self.assertEqual(self.frames(session), [whole])

    def test_restNeverSent(self) -> None:
        """
        So does one that the rest was never sent to, and one that lacks more by now.
        """
        for received, before in ((1, []), (0, [encodeFrame(FrameType.TEXT, 7, b"a")])):
            session = self.make("a", "text")
            session.outbox.resume(Hello(received=1, partial=2))
            session.outbox.resume(Hello(received=received))
            whole = encodeFrame(FrameType.TEXT, 7, b"text")
            self.assertEqual(self.frames(session), [*before, whole])

    def test_noDialogue(self) -> None:
        """It does not go the short way of a dialogue."""
        session = self.make(b"data")
        session.outbox.resume(Hello(partial=2))
        self.assertIsNone(session.outbox.takeOne(PLENTY))
        self.assertEqual(self.frames(session), [encodeFrame(FrameType.REST, 7, b"ta")])
