"""
Tests of what L{Conversation} does in one step in a dialogue, C{exchange} and
C{answer}: nothing else than C{receive} and C{takeFrames} do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.conversation import Conversation
from aesm.core.messages.dialogue import answer, exchange
from aesm.core.messages.events import Acknowledged, Answered, Asked, Event
from aesm.core.messages.frames import (
    FrameType,
    Messages,
    encodeAck,
    encodeBatch,
    encodeClose,
    encodeFrame,
)
from aesm.core.messages.hello import ConversationSettings, Hello
from aesm.core.messages.requests import (
    encodeAnswer,
    encodeError,
    encodeRequest,
    encodeWithdrawal,
)
from aesm.core.messages.session import Session
from aesm.errors import SendBufferFull
from tests.support.helpers import chunkSizes, outline, pieces

PLENTY = 1 << 40
SETTINGS = ConversationSettings(maxMessage=300, sendBuffer=2000, receiveBuffer=600)
HELLO = Hello(batch=True, maxMessage=300, window=600, requests=True)


def makeOpen() -> Conversation:
    """Make a server's conversation that has said its WELCOME."""
    session = Session(SETTINGS.sendBuffer, SETTINGS.receiveBuffer, "0" * 32)
    conversation = Conversation(SETTINGS, 0.0, session)
    conversation.welcome(HELLO)
    conversation.takeFrames(1, PLENTY)
    return conversation


def text(micros: int, body: bytes) -> bytes:
    """
    Encode a TEXT message.

    @param micros: its time.
    @param body: UTF-8, or not.
    """
    return encodeFrame(FrameType.TEXT, micros, body)


def counts(conversation: Conversation) -> tuple[object, ...]:
    """
    Tell all that can be seen of a conversation.

    @param conversation: which.
    """
    outbox, inbox = conversation.session.outbox, conversation.session.inbox
    return (
        conversation.state,
        conversation.deadline,
        conversation.sendable,
        (outbox.acknowledged, outbox.acknowledgedCost, outbox.limit),
        (outbox.sent, outbox.count, outbox.keptCost, outbox.unsent, outbox.roomy),
        (inbox.received, inbox.receivedCost, inbox.limit, inbox.keptCount),
    )


class Twins:
    """
    Two conversations with which the same happens: one of them in one step, where
    that can be.

    @ivar short: that one.
    @ivar long: the other.
    @ivar steps: how often it could be.
    """

    def __init__(self) -> None:
        """Make both."""
        self.short, self.long = makeOpen(), makeOpen()
        self.steps = 0

    def receive(self, data: bytes, now: float) -> list[Event]:
        """
        Receive at both.

        @param data: what comes.
        @param now: when.
        @return: what happens.
        """
        before = counts(self.short)
        messages = exchange(self.short, data, now)
        events = self.long.receive(data, now)
        if messages is None:
            assert counts(self.short) == before
            same: Sequence[Event] = self.short.receive(data, now)
        else:
            self.steps += 1
            same = [e for e in events if isinstance(e, Acknowledged)] + [messages]
        assert outline(same) == outline(events)
        assert counts(self.short) == counts(self.long)
        return events

    def take(self, micros: int, budget: int) -> bytes:
        """
        Take what both have to say.

        @param micros: now.
        @param budget: bytes of messages.
        """
        before = counts(self.short)
        output = answer(self.short, micros, budget)
        if output:
            self.steps += 1
        else:
            assert counts(self.short) == before
            output = b"".join(self.short.takeFrames(micros, budget))
        assert output == b"".join(self.long.takeFrames(micros, budget))
        assert counts(self.short) == counts(self.long)
        return output

    def each(self) -> tuple[Conversation, Conversation]:
        """Have both."""
        return self.short, self.long


class DialogueTests(SynchronousTestCase):
    """C{exchange} and C{answer}."""

    def setUp(self) -> None:
        """Make twins on both sides."""
        self.sides = (Twins(), Twins())

    def send(self, side: int, *data: str | bytes) -> bytes:
        """
        Send messages in one turn.

        @param side: whose.
        @param data: them.
        @return: what goes over the wire.
        """
        twins = self.sides[side]
        for conversation in twins.each():
            for message in data:
                conversation.session.outbox.add(message, 7)
            conversation.session.outbox.closeBatch()
        return twins.take(7, PLENTY)

    def deliver(self, side: int, wire: bytes) -> list[Event]:
        """
        Receive, keep and take.

        @param side: where.
        @param wire: what comes.
        @return: what happens.
        """
        twins = self.sides[side]
        events = twins.receive(wire, 1.0)
        for event in events:
            if isinstance(event, Messages):
                for conversation in twins.each():
                    conversation.session.inbox.keep(len(event.data))
                    conversation.session.inbox.take(event.cost)
        return events

    def test_dialogue(self) -> None:
        """Question and answer, bytes or text, are one step each."""
        said: list[str | bytes] = [b"one", "two", b"", "", b"x" * 300, "five"]
        for number, data in enumerate(said):
            side = number % 2
            events = self.deliver(1 - side, self.send(side, data))
            assert isinstance(events[-1], Messages)
            self.assertEqual(events[-1].data, (data,))
        self.assertEqual([twins.steps for twins in self.sides], [6, 6])

    def ask(self, side: int, data: str | bytes) -> bytes:
        """
        Send a request.

        @return: what goes over the wire.
        """
        for conversation in self.sides[side].each():
            outbox = conversation.session.outbox
            outbox.ask(outbox.count, data)
        return self.send(side, encodeRequest(data))

    def test_requests(self) -> None:
        """So are requests and answers, bytes or ASCII, which mean what they ever do."""
        said: list[str | bytes] = [b"one", "two", b"", "", "x" * 299]
        for number, data in enumerate(said):
            (asked,) = self.deliver(1, self.ask(0, data))[-1:]
            assert isinstance(asked, Asked)
            self.assertEqual(asked.first, number)
            wire = self.send(1, encodeAnswer(number, data[::-1]))
            (answered,) = self.deliver(0, wire)[-1:]
            assert isinstance(answered, Answered)
            self.assertEqual(answered.waiters, [data])
            self.assertEqual(answered.messages.data, [encodeAnswer(number, data[::-1])])
        # The last answer counts as more than 300 bytes.
        self.assertEqual([twins.steps for twins in self.sides], [9, 10])

    def test_otherCalls(self) -> None:
        """
        Requests and responses that have to be looked at closely are for C{receive}.
        """
        for kind, body in (
            (FrameType.REQUEST, b""),
            (FrameType.REQUEST, b"\x03data"),
            (FrameType.REQUEST, encodeRequest("\xe9")),
            (FrameType.RESPONSE, encodeAnswer(0, "\xe9")),
            (FrameType.RESPONSE, encodeAnswer(0, "")[:-1]),
            (FrameType.RESPONSE, encodeAnswer(1, "of what nobody has asked")),
            (FrameType.RESPONSE, encodeError(0, 1, "refused")),
            (FrameType.RESPONSE, encodeWithdrawal(0)),
        ):
            self.setUp()
            self.ask(0, b"question")
            self.deliver(0, encodeAck(1, 1, PLENTY) + encodeFrame(kind, 1, body))
            self.assertEqual(self.sides[0].steps, 1, (kind, body))

    def test_unsentRequest(self) -> None:
        """An answer to what has not left is an error as ever."""
        for conversation in self.sides[0].each():
            conversation.session.outbox.ask(0, "waiter")
            conversation.session.outbox.add(encodeRequest("later"), 7)
        wire = encodeFrame(FrameType.RESPONSE, 1, encodeAnswer(0, b"early"))
        self.deliver(0, wire)
        self.assertEqual(self.sides[0].steps, 0)
        # Nor has anybody been asked yet at the other side.
        self.deliver(1, wire)
        self.assertEqual(self.sides[1].steps, 0)

    def test_others(self) -> None:
        """Whatever is no dialogue is for C{receive}."""
        ack = encodeAck(1, 1, PLENTY)
        message = encodeFrame(FrameType.BINARY, 1, b"data")
        for data in (
            b"",
            ack,
            message[:-1],
            message + b"x",
            message * 2,
            ack + ack,
            ack + message + message,
            ack[:-1],
            encodeAck(1, 0, PLENTY) + message,
            encodeAck(1, 2, PLENTY) + message,
            encodeAck(1, 1, 1) + message,
            ack + encodeFrame(FrameType.BINARY, 1, b"x" * 301),
            ack + text(1, "\xe9".encode()),
            ack + text(1, b"\xff"),
            ack + b"".join(encodeBatch(1, [b"one"], [3])),
            ack + encodeFrame(FrameType.PING, 1, b"ping"),
            ack + encodeClose(1, 1000, "done"),
        ):
            self.setUp()
            self.send(0, b"question")
            self.deliver(0, data)
            self.assertEqual(self.sides[0].steps, 1)

    def test_partly(self) -> None:
        """Nothing is a dialogue that begins within a header, or within a body."""
        message = encodeFrame(FrameType.BINARY, 1, encodeFrame(FrameType.BINARY, 1))
        for cut in range(1, len(message)):
            self.setUp()
            self.deliver(0, message[:cut])
            self.deliver(0, message[cut:])
            self.assertEqual(self.sides[0].steps, 0)

    def test_pastTheLimit(self) -> None:
        """A message past the limit is an error as ever."""
        message = encodeFrame(FrameType.BINARY, 1, b"x" * 300)
        twins = self.sides[0]
        for steps in (1, 2, 2):
            twins.receive(message, 1.0)
            self.assertEqual(twins.steps, steps)

    def test_unsent(self) -> None:
        """An ACK of what was sent, while more waits, is no dialogue."""
        self.send(0, b"question")
        for conversation in self.sides[0].each():
            conversation.session.outbox.add(b"another", 7)
        data = encodeAck(1, 1, PLENTY) + encodeFrame(FrameType.BINARY, 1, b"data")
        self.deliver(0, data)
        self.assertEqual(self.sides[0].steps, 1)

    def test_staged(self) -> None:
        """An ACK of what was sent, while more is being written down, is no dialogue."""
        for conversation in self.sides[0].each():
            conversation.session.outbox.stage()
            conversation.session.outbox.add(b"question", 7)
            conversation.session.outbox.release(
                conversation.session.outbox.takeStaged()
            )
        self.sides[0].take(7, PLENTY)
        for conversation in self.sides[0].each():
            conversation.session.outbox.add(b"another", 7)
            conversation.session.outbox.takeStaged()
        data = encodeAck(1, 1, PLENTY) + encodeFrame(FrameType.BINARY, 1, b"data")
        self.deliver(0, data)
        self.assertEqual(self.sides[0].steps, 1)
        self.assertGreater(self.sides[0].short.session.outbox.keptCost, 0)

    def test_takesOthers(self) -> None:
        """Whatever is more than one message, or cannot go, is for C{takeFrames}."""
        twins = self.sides[0]
        self.assertEqual(twins.take(7, PLENTY), b"")
        self.send(0, b"one", b"two")
        self.send(0, "\xe9")
        self.assertEqual(twins.steps, 1)
        for conversation in twins.each():
            conversation.session.outbox.add(b"open", 7)
        twins.take(7, PLENTY)
        self.assertEqual(twins.steps, 1)
        for conversation in twins.each():
            for number in range(2):
                conversation.session.outbox.add(b"turns", number)
                conversation.session.outbox.closeBatch()
        twins.take(7, PLENTY)
        for conversation in twins.each():
            conversation.session.outbox.add(b"x" * 300, 7)
            conversation.session.outbox.closeBatch()
        twins.take(7, 100)
        self.assertEqual(twins.steps, 1)
        self.send(0, b"past the limit")
        self.assertEqual(twins.steps, 1)
        self.assertTrue(twins.short.session.outbox.unsent)

    def test_control(self) -> None:
        """Where a PONG or a PING is due, or a side closes, it is no dialogue."""
        for number in range(3):
            self.setUp()
            twins = self.sides[0]
            for conversation in twins.each():
                if number == 0:
                    conversation.receive(encodeFrame(FrameType.PING, 1, b"ping"), 1.0)
                elif number == 1:
                    conversation.tick(1000.0)
                else:
                    conversation.close(0.0)
            self.send(0, b"data")
            self.assertEqual(twins.steps, 0)

    def test_welcome(self) -> None:
        """The WELCOME comes before everything."""
        session = Session(2000, 600, "0" * 32)
        conversation = Conversation(SETTINGS, 0.0, session)
        conversation.welcome(HELLO)
        session.outbox.add(b"early", 7)
        session.outbox.closeBatch()
        self.assertEqual(answer(conversation, 7, PLENTY), b"")

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_anything(self, data: Any) -> None:
        """
        Whatever both sides say, and whatever comes between: it makes no difference.

        @param data: draws what is done.
        """
        self.setUp()
        for micros in range(data.draw(st.integers(1, 25))):
            side = data.draw(st.integers(0, 1))
            twins = self.sides[side]
            messages = data.draw(
                st.lists(
                    st.one_of(st.text(max_size=5), st.binary(max_size=300)), max_size=2
                )
            )
            for message in messages:
                for conversation in twins.each():
                    with contextlib.suppress(SendBufferFull):
                        conversation.session.outbox.add(message, micros)
            if data.draw(st.booleans()):
                for conversation in twins.each():
                    conversation.session.outbox.closeBatch()
            wire = twins.take(micros, data.draw(st.sampled_from([0, 1, 200, PLENTY])))
            sizes = data.draw(st.one_of(st.just([PLENTY]), chunkSizes))
            for chunk in pieces(wire, sizes):
                self.deliver(1 - side, chunk)
            if not data.draw(st.integers(0, 20)):
                self.deliver(side, data.draw(st.binary(max_size=50)))
