"""
Tests of L{aesm.core.messages.conversation}: the message layer of one connection,
PROTOCOL sections 6 to 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import product
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.conversation import Conversation
from aesm.core.messages.dialogue import exchange
from aesm.core.messages.events import (
    Accepted,
    Acknowledged,
    Asked,
    Broken,
    Event,
    PeerClosed,
)
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import (
    Ack,
    Close,
    Frame,
    FrameType,
    Messages,
    Partial,
    Ping,
    Pong,
    Requests,
    Welcome,
    decoded,
    encodeAck,
    encodeBatch,
    encodeClose,
    encodeFrame,
)
from aesm.core.messages.heartbeat import PING_BODY
from aesm.core.messages.hello import (
    EARLY_WINDOW,
    LEAST_HELLO,
    MAX_BYTES,
    ConversationSettings,
    Hello,
)
from aesm.core.messages.requests import encodeAnswer, encodeRequest
from aesm.core.messages.session import Session
from aesm.core.messages.states import CONVERSATION_TRANSITIONS, ConversationState
from aesm.core.messages.traffic import Traffic
from aesm.errors import (
    AESMError,
    ConnectionClosed,
    HeartbeatLost,
    InvalidText,
    MessageTooBig,
    ProtocolError,
    SendBufferFull,
)
from tests.support.helpers import chunkSizes, outline, pieces

S = ConversationState

SESSION = "0123456789abcdef" * 2
PLENTY = 1 << 40
HELLO = Hello(batch=True)

LISTENING = {S.GREETING, S.OPEN, S.CLOSING, S.CLOSE_SENT}
CONNECTED = LISTENING - {S.GREETING}
OVER = {S.BREAKING, S.BROKEN}

FRAMES: dict[FrameType, bytes] = {
    FrameType.TEXT: encodeFrame(FrameType.TEXT, 1, b"text"),
    FrameType.BINARY: encodeFrame(FrameType.BINARY, 1, b"binary"),
    FrameType.WELCOME: encodeFrame(FrameType.WELCOME, 1, b"{}"),
    FrameType.BATCH: b"".join(encodeBatch(1, [b"one", b"two"], [3, 3])),
    FrameType.REST: encodeFrame(FrameType.REST, 1, b"rest"),
    FrameType.REQUEST: encodeFrame(FrameType.REQUEST, 1, encodeRequest("ask")),
    FrameType.RESPONSE: encodeFrame(FrameType.RESPONSE, 1, encodeAnswer(0, "answer")),
    FrameType.CLOSE: encodeClose(1, 1000, "done"),
    FrameType.PING: encodeFrame(FrameType.PING, 1, b"ping"),
    FrameType.PONG: encodeFrame(FrameType.PONG, 1),
    FrameType.ACK: encodeAck(1, 0, 1 << 30),
}


def framesOf(output: bytes) -> list[Frame]:
    """
    Read what a conversation says.

    @param output: whole frames.
    """
    reader = FrameReader(1 << 30)
    frames = reader.receive(output)
    assert reader.error is None
    assert reader.empty
    return frames


def said(conversation: Conversation, budget: int = PLENTY) -> list[Frame]:
    """
    Take what a conversation has to say.

    @param conversation: which.
    @param budget: bytes of messages.
    """
    return framesOf(b"".join(conversation.takeFrames(1, budget)))


def makeClient(**options: Any) -> Conversation:
    """
    Make a client's conversation, before WELCOME.

    @param options: of L{ConversationSettings}.
    """
    return Conversation(ConversationSettings(**options), 0.0)


def makeServer(hello: Hello = HELLO, **options: Any) -> Conversation:
    """
    Make a server's conversation, its WELCOME not yet sent.

    @param hello: what the client says.
    @param options: of L{ConversationSettings}.
    """
    given = ConversationSettings(**options)
    session = Session(given.sendBuffer, given.receiveBuffer, SESSION)
    conversation = Conversation(given, 0.0, session)
    conversation.welcome(hello)
    return conversation


def makePair(**options: Any) -> tuple[Conversation, Conversation]:
    """
    Make two conversations that are open.

    @param options: of L{ConversationSettings}, for both.
    @return: client and server.
    """
    client = makeClient(**options)
    server = makeServer(ConversationSettings(**options).hello(), **options)
    (accepted,) = carry(server, client)
    assert isinstance(accepted, Accepted)
    return client, server


def carry(
    one: Conversation,
    two: Conversation,
    sizes: Sequence[int] = (1 << 20,),
    budget: int = PLENTY,
) -> list[Event]:
    """
    Carry what one side has to say to the other.

    @param one: who speaks.
    @param two: who listens.
    @param sizes: how to cut it up.
    @param budget: bytes of messages.
    @return: what happens at the other.
    """
    events: list[Event] = []
    for chunk in pieces(b"".join(one.takeFrames(1, budget)), sizes):
        events += two.receive(chunk, 0.0)
    return events


def settle(conversation: Conversation, events: Sequence[Event]) -> list[str | bytes]:
    """
    Do what an application does that is quick: keep and take all that came.

    @param conversation: where.
    @param events: what happened there.
    @return: the messages among it.
    """
    data: list[str | bytes] = []
    for event in events:
        if isinstance(event, Messages):
            data += event.data
            conversation.session.inbox.keep(len(event.data))
            conversation.session.inbox.take(event.cost)
    return data


class SettingsTests(SynchronousTestCase):
    """L{ConversationSettings}."""

    def test_hello(self) -> None:
        """They are what the peer is told."""
        given = ConversationSettings(
            maxMessage=1, heartbeat=2.5, sendBuffer=3, receiveBuffer=4, agent="five"
        )
        expected = Hello("five", 1, 2.5, True, 4, requests=True)
        self.assertEqual(given.hello(), expected)
        self.assertEqual(given.hello(early=7), replace(expected, early=7))

    def test_session(self) -> None:
        """What is said of a session is its name, and what came."""
        session = Session(1000, 2000, SESSION)
        session.inbox.receive(Messages(1, ("one", "two"), 134, 67))
        session.inbox.partial = Partial(FrameType.TEXT, bytes(5))
        given = ConversationSettings()
        expected = replace(given.hello(), session=SESSION, received=2, partial=5)
        self.assertEqual(given.hello(session), expected)

    def test_defaults(self) -> None:
        """The defaults are those of PROTOCOL."""
        given = ConversationSettings()
        self.assertEqual(given.hello(), replace(HELLO, requests=True))
        self.assertEqual(given.sendBuffer, 64 << 20)

    def test_resume(self) -> None:
        """Who will not come back to a session says so; others need not say anything."""
        for resume in (True, False):
            said = ConversationSettings().hello(resume=resume).encode()
            self.assertEqual(b"resume" in said, not resume)
            self.assertEqual(Hello.decode(said).resume, resume)

    def test_bounds(self) -> None:
        """
        Sizes are whole numbers above 0 that fit a BATCH's lengths: others a peer would
        take for a broken hello.
        """
        given: dict[str, Any]
        for name in ("maxMessage", "sendBuffer", "receiveBuffer"):
            for strange in (1e6, True, "1", None, Decimal(1)):
                given = {name: strange}
                self.assertRaises(TypeError, ConversationSettings, **given)
            for value in (1, MAX_BYTES):
                given = {name: value}
                ConversationSettings(**given)
            for value in (-1, 0, MAX_BYTES + 1):
                self.refused(f"{name} must be 1 to 2147483647 bytes", **{name: value})

    def test_heartbeat(self) -> None:
        """A heartbeat is a time."""
        ConversationSettings(heartbeat=0.001)
        for value in (-1, 0, float("inf"), float("nan")):
            self.refused("heartbeat must be above 0", heartbeat=value)
        for strange in (True, "1", None, Decimal(1)):
            given: dict[str, Any] = {"heartbeat": strange}
            self.assertRaises(TypeError, ConversationSettings, **given)

    def test_agent(self) -> None:
        """What the peer is told must fit its bounds, in JSON."""
        for agent in ("x" * 1800, "\xe9" * 300):
            given = ConversationSettings(agent=agent)
            hello = replace(given.hello(), session=SESSION)
            self.assertEqual(Hello.decode(hello.encode()).agent, agent)
        for agent in ("x" * 2000, "\xe9" * 340):
            self.refused("agent is too long", agent=agent)

    def refused(self, text: str, **options: Any) -> None:
        """
        Check that options are refused.

        @param text: what the error says.
        @param options: them.
        """
        error = self.assertRaises(ValueError, ConversationSettings, **options)
        self.assertIn(text, str(error))


class StateTests(SynchronousTestCase):
    """Every state, and whatever can happen in it."""

    def enter(self, state: S) -> Conversation:
        """
        Bring a conversation into a state.

        @param state: the state.
        """
        conversation = makeClient()
        if state is not S.GREETING:
            conversation.receive(FRAMES[FrameType.WELCOME], 0.0)
        if state in (S.CLOSING, S.CLOSE_SENT, S.CLOSED):
            conversation.close(0.0)
        if state in (S.CLOSE_SENT, S.CLOSED):
            conversation.takeFrames(1, PLENTY)
        if state in (S.PEER_CLOSED, S.CLOSED):
            conversation.receive(FRAMES[FrameType.CLOSE], 0.0)
        if state in OVER:
            conversation.receive(FRAMES[FrameType.WELCOME], 0.0)
        if state is S.BROKEN:
            conversation.takeFrames(1, PLENTY)
        self.assertIs(conversation.state, state)
        return conversation

    def test_table(self) -> None:
        """A pair that is not in the table is refused, and the state stays."""
        for state, what in product(S, {what for _, what in CONVERSATION_TRANSITIONS}):
            conversation = self.enter(state)
            if (state, what) in CONVERSATION_TRANSITIONS:
                conversation._move(what)
                self.assertIs(conversation.state, CONVERSATION_TRANSITIONS[state, what])
            else:
                self.assertRaises(KeyError, conversation._move, what)
                self.assertIs(conversation.state, state)

    def test_ends(self) -> None:
        """From everywhere there is a way to an end, and from an end there is none."""
        after: dict[S, set[S]] = {state: set() for state in S}
        for (state, _), following in CONVERSATION_TRANSITIONS.items():
            after[state].add(following)
        self.assertEqual({s for s in S if not after[s] - {s}}, {S.BROKEN})
        self.assertEqual(set(S) - set().union(*after.values()), {S.GREETING})

    def expected(self, state: S, kind: FrameType) -> Event | None:
        """
        Say what a frame causes.

        @param state: where.
        @param kind: its type.
        @return: the event, if it is one that only depends on these; None if there
            is none; L{Broken} with no more than the right type of error.
        """
        if state in OVER:
            return None
        if kind is FrameType.CLOSE and state in LISTENING:
            return PeerClosed(1000, "done")
        if kind is FrameType.WELCOME and state is S.GREETING:
            return Accepted(Hello(), resumed=False)
        misplaced = (FrameType.WELCOME, FrameType.REST, FrameType.RESPONSE)
        if kind in misplaced or state not in CONNECTED:
            return Broken(ProtocolError())
        match kind:
            case FrameType.TEXT:
                return Messages(1, ("text",), 68, 68)
            case FrameType.BINARY:
                return Messages(1, (b"binary",), 70, 70)
            case FrameType.BATCH:
                return Messages(1, ["one", "two"], 134, 67)
            case FrameType.REQUEST:
                return Asked(0, Requests(1, [encodeRequest("ask")], 68, 68))
            case FrameType.ACK:
                return Acknowledged(0)
        return None  # PING, PONG

    def test_frames(self) -> None:
        """
        Each type of frame, in each state, causes what it should and nothing else:
        whole, byte by byte, and followed by an empty piece.
        """
        for state, kind in product(S, FrameType):
            for sizes in ((1 << 20,), (1,), (5, 0)):
                conversation = self.enter(state)
                events: list[Event] = []
                for chunk in pieces(FRAMES[kind], sizes):
                    events += conversation.receive(chunk, 1.0)
                events += conversation.receive(b"", 1.0)
                expected = self.expected(state, kind)
                if not isinstance(expected, Broken):
                    wanted = [] if expected is None else [expected]
                    self.assertEqual(events, wanted, (state, kind))
                    continue
                self.broke(conversation, state, events)

    def broke(
        self, conversation: Conversation, before: S, events: Sequence[Event]
    ) -> None:
        """
        Check that the peer broke the rules, and is told so where it can be.

        @param conversation: where.
        @param before: the state that it was in.
        @param events: what happened.
        """
        (event,) = events
        assert isinstance(event, Broken)
        self.assertIs(type(event.error), ProtocolError)
        self.assertIsNone(event.error.__traceback__)
        talking = before in (S.OPEN, S.CLOSING, S.PEER_CLOSED)
        self.assertIs(conversation.state, S.BREAKING if talking else S.BROKEN)
        self.assertEqual(conversation.ended, not talking)
        expected = [Close(1002, "protocol error")] if talking else []
        self.assertEqual(said(conversation), expected)
        self.assertIs(conversation.state, S.BROKEN)
        self.assertTrue(conversation.ended)
        self.assertEqual(said(conversation), [])
        self.assertEqual(conversation.receive(FRAMES[FrameType.TEXT], 1.0), [])

    def test_peerEnds(self) -> None:
        """The stream may end instead of a CLOSE, or after one."""
        for state in S:
            conversation = self.enter(state)
            events = conversation.peerEnded(0.0)
            expected = [PeerClosed(1005, "")] if state in LISTENING else []
            self.assertEqual(events, expected)
            after = CONVERSATION_TRANSITIONS[state, "peerClosed"] if expected else state
            self.assertIs(conversation.state, after)
            self.assertEqual(conversation.peerEnded(0.0), [])

    def test_peerEndsInAFrame(self) -> None:
        """It may not end within a frame."""
        for state in LISTENING:
            conversation = self.enter(state)
            self.assertEqual(conversation.receive(FRAMES[FrameType.PING][:-1], 1.0), [])
            self.broke(conversation, state, conversation.peerEnded(0.0))

    def test_close(self) -> None:
        """
        Only an open conversation can be closed; closing any other changes nothing.
        """
        for state in S:
            conversation, other = self.enter(state), self.enter(state)
            conversation.close(0.0, 1001, "reason")
            self.assertIs(conversation.state, S.CLOSING if state is S.OPEN else state)
            if state is not S.OPEN:
                self.assertEqual(said(conversation), said(other))

    def test_closeBehindStaged(self) -> None:
        """
        A CLOSE of any code goes behind what is accepted, also where that has to be
        persisted first, and waits for nothing that the peer does not let come.
        """
        for code in (1000, 1009):
            conversation = self.enter(S.OPEN)
            outbox = conversation.session.outbox
            outbox.begin(replace(HELLO, window=10))
            outbox.stage()
            outbox.add("text", 1)
            conversation.close(0.0, code, "")
            self.assertEqual(said(conversation), [])
            batches = outbox.takeStaged()
            self.assertEqual(said(conversation), [])
            outbox.release(batches)
            text, close = said(conversation)
            self.assertEqual(cast(Messages, text).data[0], "text")
            self.assertEqual(close, Close(code, ""))
        conversation = self.enter(S.OPEN)
        outbox = conversation.session.outbox
        outbox.begin(replace(HELLO, window=0))
        outbox.stage()
        outbox.add("text", 1)
        outbox.release(outbox.takeStaged())
        conversation.close(0.0, 1009, "")
        self.assertEqual(said(conversation), [Close(1009, "")])

    def test_supersede(self) -> None:
        """
        A conversation that lost its session to a newer connection says so, where
        anything may be said, and nothing more; nor does it hear or do anything.
        """
        for state in S:
            conversation = self.enter(state)
            session = Session(1 << 20, 1 << 20)  # of one that has none yet
            if state is not S.GREETING:
                session = conversation.session
            session.outbox.add("text", 1)
            if state in CONNECTED:
                conversation.receive(FRAMES[FrameType.PING], 0.0)
                conversation.receive(FRAMES[FrameType.TEXT][:-1], 0.0)
            session.inbox.keep(1)
            talking = state in (S.OPEN, S.CLOSING, S.PEER_CLOSED)
            for _ in range(2):
                conversation.supersede(0.0)
                waits = talking or state is S.BREAKING
                self.assertIs(conversation.state, S.BREAKING if waits else S.BROKEN)
                self.assertEqual(conversation.ended, not waits)
                self.assertFalse(conversation.sendable)
                for data in (b"t", FRAMES[FrameType.TEXT], FRAMES[FrameType.ACK]):
                    self.assertEqual(conversation.receive(data, 1.0), [])
                self.assertEqual(conversation.peerEnded(0.0), [])
                self.assertEqual(conversation.tick(4.9), [])
                conversation.close(0.0, 1000, "closed")
            expected: list[Frame] = []
            if talking:
                expected = [Close(4001, "taken over by a newer connection")]
            elif state is S.BREAKING:
                expected = [Close(1002, "protocol error")]
            self.assertEqual(said(conversation), expected)
            self.assertEqual(said(conversation), [])
            self.assertIs(conversation.state, S.BROKEN)
            self.assertEqual((session.outbox.sent, session.inbox.received), (0, 0))

    def test_welcome(self) -> None:
        """A client is let in once."""
        for state in set(S) - {S.GREETING}:
            conversation = self.enter(state)
            self.assertRaises(RuntimeError, conversation.welcome, HELLO)
            self.assertIs(conversation.state, state)

    def test_output(self) -> None:
        """
        Where something is due, it is said, and the stream is to be ended when
        nothing more can follow.
        """
        for state, output, after in (
            (S.GREETING, [], S.GREETING),
            (S.OPEN, [], S.OPEN),
            (S.CLOSING, [Close(1000, "")], S.CLOSE_SENT),
            (S.CLOSE_SENT, [], S.CLOSE_SENT),
            (S.PEER_CLOSED, [Close(1000, "")], S.CLOSED),
            (S.CLOSED, [], S.CLOSED),
            (S.BREAKING, [Close(1002, "protocol error")], S.BROKEN),
            (S.BROKEN, [], S.BROKEN),
        ):
            conversation = self.enter(state)
            self.assertEqual(said(conversation), output)
            self.assertIs(conversation.state, after)
            ended = after in (S.CLOSE_SENT, S.CLOSED, S.BROKEN)
            self.assertEqual(conversation.ended, ended)

    def test_tick(self) -> None:
        """
        The peer's silence matters while something is expected of it; a connection
        that closes has five seconds for that.
        """
        for state in S:
            conversation = self.enter(state)
            waits = state in (S.GREETING, S.OPEN)
            self.assertEqual(conversation.tick(31.0 if waits else 4.9), [])
            (event,) = conversation.tick(62.0 if waits else 5.0)
            assert isinstance(event, Broken)
            error = HeartbeatLost if waits else ConnectionClosed
            self.assertIs(type(event.error), error)
            self.assertIs(conversation.state, S.BROKEN)
            self.assertEqual(said(conversation), [])
            self.assertEqual(conversation.tick(1e9), [])
            self.assertEqual(conversation.deadline, math.inf)


class WelcomeTests(SynchronousTestCase):
    """WELCOME, PROTOCOL section 8."""

    def test_firstAndOnce(self) -> None:
        """It is the server's first frame, and comes once."""
        server = makeServer(agent="server")
        server.receive(FRAMES[FrameType.PING], 0.0)
        server.session.outbox.add("text", 7)
        welcome, *others = said(server)
        hello = ConversationSettings(agent="server").hello()
        expected = replace(hello, session=SESSION).encode()
        self.assertEqual(welcome, Welcome(expected))
        self.assertEqual(others, [Pong(b"ping"), Messages(7, ("text",), 68, 68)])
        server.session.outbox.add("more", 8)
        self.assertEqual(said(server), [Messages(8, ("more",), 68, 68)])

    def test_accepted(self) -> None:
        """The client learns what the server takes; it says nothing before."""
        client = makeClient()
        self.assertEqual(said(client), [])
        hello = Hello("server", 10, 5.0, True, 100, SESSION)
        welcome = encodeFrame(FrameType.WELCOME, 1, hello.encode())
        self.assertEqual(client.receive(welcome, 0.0), [Accepted(hello, resumed=False)])
        self.assertRaises(MessageTooBig, client.session.outbox.add, "x" * 11, 1)
        for _ in range(3):
            client.session.outbox.add("x" * 10, 1)
        self.assertEqual([len(f.data) for f in messagesOf(said(client))], [2])

    def test_learns(self) -> None:
        """So does the server, of the client."""
        server = makeServer(Hello(maxMessage=10, window=100))
        self.assertRaises(MessageTooBig, server.session.outbox.add, "x" * 11, 1)
        for _ in range(3):
            server.session.outbox.add("x" * 10, 1)
        self.assertEqual(len(messagesOf(said(server))), 2)

    def test_malformed(self) -> None:
        """One that is none ends the conversation, in silence."""
        for body in (b"[]", b"{}{}", b'{"window":-1}', b'{"agent":"\xff"}'):
            client = makeClient()
            (event,) = client.receive(encodeFrame(FrameType.WELCOME, 1, body), 0.0)
            assert isinstance(event, Broken)
            self.assertIs(type(event.error), ProtocolError)
            self.assertIsNone(event.error.__context__)
            self.assertEqual(said(client), [])
            self.assertTrue(client.ended)

    def test_refusal(self) -> None:
        """A CLOSE may come instead: the client is not let in, and does not answer."""
        client = makeClient()
        events = client.receive(encodeClose(1, 1008, "not allowed"), 0.0)
        self.assertEqual(events, [PeerClosed(1008, "not allowed")])
        self.assertEqual(said(client), [])
        self.assertTrue(client.ended)

    def test_neverAfterClose(self) -> None:
        """A client that breaks the rules before it is let in is not let in."""
        server = makeServer()
        server.receive(b"\xff" * 13, 0.0)
        self.assertEqual(said(server), [Close(1002, "protocol error")])
        self.assertEqual(said(server), [])
        server = makeServer()
        server.tick(30.0)
        server.tick(60.0)
        self.assertEqual(said(server), [])


def messagesOf(frames: Sequence[Frame]) -> list[Messages]:
    """
    Pick out messages.

    @param frames: of any type.
    """
    return [frame for frame in frames if isinstance(frame, Messages)]


class MessageTests(SynchronousTestCase):
    """Messages and their acknowledgement, PROTOCOL section 7."""

    def test_roundTrip(self) -> None:
        """A message arrives, is kept, and is acknowledged."""
        client, server = makePair()
        self.assertEqual(client.session.outbox.add("one", 5), 1)
        self.assertEqual(client.session.outbox.add(b"two", 6), 2)
        (event,) = events = carry(client, server)
        self.assertEqual(event, Messages(5, ["one", b"two"], 134, 67))
        self.assertEqual(said(server), [])
        settle(server, events)
        self.assertEqual(carry(server, client), [Acknowledged(2)])
        self.assertEqual(client.session.outbox.keptCost, 0)

    def test_errors(self) -> None:
        """What a message can be refused for leaves the conversation as it is."""
        client, _ = makePair(maxMessage=10, sendBuffer=100)
        client.session.outbox.add("x" * 10, 1)
        self.assertRaises(MessageTooBig, client.session.outbox.add, "x" * 11, 1)
        self.assertRaises(SendBufferFull, client.session.outbox.add, "x" * 10, 1)
        notText: Any = None
        self.assertRaises(TypeError, client.session.outbox.add, notText, 1)
        self.assertIs(client.state, S.OPEN)

    def test_brokenRules(self) -> None:
        """
        Messages that may not be sent, and numbers that cannot be, end the
        conversation with the code that fits.
        """
        for data, kind, code in (
            (encodeFrame(FrameType.BINARY, 1, bytes(101)), MessageTooBig, 1009),
            (encodeFrame(FrameType.TEXT, 1, b"\xff"), InvalidText, 1007),
            (encodeFrame(FrameType.CLOSE, 1, b"\x03\xe8\xff"), InvalidText, 1007),
            (encodeFrame(FrameType.CLOSE, 1, b"\x03"), ProtocolError, 1002),
            (b"\xff" * 13, ProtocolError, 1002),
            (encodeAck(1, 1, 1 << 30), ProtocolError, 1002),
            (encodeAck(1, 0, 1), ProtocolError, 1002),
        ):
            server = makeServer(maxMessage=100)
            said(server)
            events = server.receive(FRAMES[FrameType.TEXT] + data + data[:5], 0.0)
            arrived, broken = events
            self.assertIsInstance(arrived, Messages)
            assert isinstance(broken, Broken)
            self.assertIs(type(broken.error), kind)
            self.assertEqual(said(server), [Close(code, "protocol error")])

    def test_pastTheLimit(self) -> None:
        """So does a message past the limit that was announced."""
        server = makeServer(receiveBuffer=100)
        said(server)
        data = encodeFrame(FrameType.BINARY, 1, bytes(35))
        for _ in range(2):
            self.assertIsInstance(server.receive(data, 0.0)[0], Messages)
        (broken,) = server.receive(data, 0.0)
        assert isinstance(broken, Broken)
        self.assertIn("past the limit", str(broken.error))

    def test_waits(self) -> None:
        """Beyond the peer's limit the sender waits, but only with messages."""
        client, server = makePair(receiveBuffer=100)
        for number in range(9):
            client.session.outbox.add(f"{number}", 1)
        events = carry(client, server)
        self.assertEqual(client.session.outbox.sent, 2)
        self.assertEqual(said(client), [])
        client.tick(30.0)
        client.receive(FRAMES[FrameType.PING], 30.0)
        self.assertEqual(said(client), [Pong(b"ping"), Ping(PING_BODY)])
        got = settle(server, events)
        while client.session.outbox.unsent:
            self.assertNotEqual(carry(server, client), [])
            got += settle(server, carry(client, server))
        self.assertEqual(got, [f"{number}" for number in range(9)])

    def test_together(self) -> None:
        """What is due leaves together: WELCOME, ACK, PONG, PING, messages, CLOSE."""
        server = makeServer()
        events = server.receive(FRAMES[FrameType.TEXT] + FRAMES[FrameType.PING], 0.0)
        settle(server, events)
        server.tick(30.0)
        server.session.outbox.add("text", 1)
        server.close(0.0, 1001, "going away")
        kinds = [Welcome, Ack, Pong, Ping, Messages, Close]
        self.assertEqual([type(frame) for frame in said(server)], kinds)

    def test_quarter(self) -> None:
        """The limit is announced when it can grow by a quarter of the window."""
        client, server = makePair(receiveBuffer=1000)
        for _ in range(4):
            client.session.outbox.add(bytes(61), 1)
        carry(client, server)
        server.session.inbox.take(125)
        self.assertEqual(said(server), [])
        server.session.inbox.take(125)
        self.assertEqual(said(server), [Ack(0, 1250)])

    def test_budget(self) -> None:
        """Control frames leave whatever the budget for messages is."""
        client, _ = makePair()
        client.session.outbox.add("text", 1)
        client.receive(FRAMES[FrameType.PING], 0.0)
        self.assertEqual(said(client, 0), [Pong(b"ping")])
        self.assertEqual(said(client, 1), [Messages(1, ("text",), 68, 68)])


class CloseTests(SynchronousTestCase):
    """Closing in order, PROTOCOL section 9."""

    def test_oneSide(self) -> None:
        """One side closes; the other answers with a code of its own."""
        for role in (0, 1):
            pair = makePair()
            one, two = pair[role], pair[1 - role]
            one.session.outbox.add("last", 1)
            one.close(0.0, 1001, "going away")
            self.assertFalse(one.ended)
            arrived, closed = carry(one, two)
            self.assertIs(one.state, S.CLOSE_SENT)
            self.assertTrue(one.ended)
            self.assertEqual(settle(two, [arrived]), ["last"])
            self.assertEqual(closed, PeerClosed(1001, "going away"))
            self.assertFalse(two.ended)
            expected = [Acknowledged(1), PeerClosed(1000, "")]
            self.assertEqual(carry(two, one), expected)
            for side in pair:
                self.assertIs(side.state, S.CLOSED)
                self.assertTrue(side.ended)
                self.assertEqual(side.peerEnded(0.0), [])

    def test_impatient(self) -> None:
        """
        Who closes because of a peer that takes nothing does not wait for it with
        what it would not take; who closes in order does.
        """
        for code, waits in ((1000, True), (1001, True), (1008, False), (4000, False)):
            _client, server = makePair(receiveBuffer=1)
            for text in ("taken", "never taken"):
                server.session.outbox.add(text, 1)
            server.close(0.0, code, "done")
            frames = said(server)
            self.assertEqual(frames[0], Messages(1, ("taken",), 69, 69))
            self.assertEqual(frames[1:], [] if waits else [Close(code, "done")])
            self.assertIs(server.ended, not waits)

    def test_crossing(self) -> None:
        """Both may close at once, each with its reason."""
        client, server = makePair()
        client.close(0.0, 1000, "done")
        server.close(0.0, 1001, "going away")
        outputs = [b"".join(side.takeFrames(1, PLENTY)) for side in (client, server)]
        self.assertEqual(
            client.receive(outputs[1], 0.0), [PeerClosed(1001, "going away")]
        )
        self.assertEqual(server.receive(outputs[0], 0.0), [PeerClosed(1000, "done")])
        for side in (client, server):
            self.assertIs(side.state, S.CLOSED)
            self.assertEqual(said(side), [])

    def test_overtaken(self) -> None:
        """Who wants to close, and hears the other's CLOSE first, says its own."""
        client, server = makePair()
        client.close(0.0, 1000, "done")
        server.close(0.0, 1001, "going away")
        self.assertEqual(carry(client, server), [PeerClosed(1000, "done")])
        self.assertEqual(carry(server, client), [PeerClosed(1001, "going away")])
        for side in (client, server):
            self.assertIs(side.state, S.CLOSED)

    def test_queued(self) -> None:
        """A CLOSE comes after all that was accepted, also if that has to wait."""
        client, server = makePair(receiveBuffer=100)
        texts = [f"{number}" for number in range(7)]
        for text in texts:
            client.session.outbox.add(text, 1)
        client.close(0.0)
        got: list[str | bytes] = []
        while client.state is S.CLOSING:
            events = carry(client, server, budget=1)
            got += settle(server, events)
            self.assertIs(server.state is S.OPEN, client.state is S.CLOSING)
            if client.state is S.CLOSING:
                carry(server, client)
        self.assertEqual(got, texts)
        acknowledged, closed = carry(server, client)
        self.assertEqual(acknowledged, Acknowledged(7))
        self.assertEqual(closed, PeerClosed(1000, ""))

    def test_unkept(self) -> None:
        """
        The answer waits until what came before is in our keeping, so that the peer
        knows.
        """
        client, server = makePair()
        client.session.outbox.add("one", 1)
        client.session.outbox.add("two", 1)
        client.close(0.0)
        carry(client, server)
        self.assertEqual(said(server), [])
        server.session.inbox.keep(1)
        self.assertEqual(said(server), [Ack(1, 16 << 20)])
        self.assertIs(server.state, S.PEER_CLOSED)
        server.session.inbox.keep(1)
        self.assertEqual(said(server), [Ack(2, 16 << 20), Close(1000, "")])

    def test_unsent(self) -> None:
        """It waits for what was accepted, too, as far as the peer takes that."""
        client, server = makePair(receiveBuffer=100)
        for number in range(3):
            server.session.outbox.add(f"{number}", 1)
            server.session.outbox.closeBatch()
        client.close(0.0)
        self.assertEqual(carry(client, server), [PeerClosed(1000, "")])
        self.assertEqual(len(said(server, 1)), 1)
        self.assertIs(server.state, S.PEER_CLOSED)
        self.assertEqual(said(server, 1)[1:], [Close(1000, "")])
        self.assertEqual(server.session.outbox.sent, 2)

    def test_closeSentListens(self) -> None:
        """
        Until the peer's CLOSE comes, its messages and acknowledgements count, but
        are not answered.
        """
        client, server = makePair()
        client.session.outbox.add("one", 1)
        server.session.outbox.add("two", 1)
        client.close(0.0)
        settle(server, carry(client, server))
        client.receive(FRAMES[FrameType.PING], 0.0)
        events = carry(server, client)
        expected = [Acknowledged(1), PeerClosed(1000, "")]
        self.assertEqual([events[0], events[-1]], expected)
        self.assertEqual(settle(client, events), ["two"])
        self.assertEqual(said(client), [])

    def test_behind(self) -> None:
        """
        Whatever follows a CLOSE, and be it a byte, is an error, and the same one
        wherever it is cut.
        """
        close = FRAMES[FrameType.CLOSE]
        for extra in (b".", *FRAMES.values(), b"\xff" * 13):
            wholes = []
            for chunks in ([close + extra], [close, extra], pieces(close + extra)):
                server = makeServer()
                said(server)
                events = [e for c in chunks for e in server.receive(c, 0.0)]
                wholes.append(outline(events))
                self.assertEqual(said(server), [Close(1002, "protocol error")])
            closed, broken = wholes[0]
            self.assertEqual(closed, PeerClosed(1000, "done"))
            self.assertEqual(broken, (Broken, ProtocolError, "bytes after a CLOSE"))
            self.assertEqual(wholes, wholes[:1] * 3)

    def test_strangeCodes(self) -> None:
        """A code may be any; ours is a good one in any case."""
        for code in (0, 999, 1005, 1006, 1015, 4001, 65535):
            server = makeServer()
            said(server)
            events = server.receive(encodeClose(1, code, ""), 0.0)
            self.assertEqual(events, [PeerClosed(code, "")])
            self.assertEqual(said(server), [Close(1000, "")])


class ResumeTests(SynchronousTestCase):
    """A session that goes on over the next connection, PROTOCOL section 8."""

    def reconnect(
        self,
        client: Conversation,
        server: Conversation,
        later: float = 0.0,
        **options: Any,
    ) -> tuple[Conversation, Conversation]:
        """
        Connect again, with the sessions of two conversations.

        @param client: the client's former one.
        @param server: the server's.
        @param later: seconds.
        @param options: of L{ConversationSettings}, for both.
        @return: the next ones; the server's WELCOME is on its way.
        """
        given = ConversationSettings(**options)
        former = client.session
        next_ = Conversation(given, later, former)
        server = Conversation(given, later, server.session)
        server.welcome(given.hello(former))
        return next_, server

    def test_order(self) -> None:
        """
        Each side says first what it has, and then, in order, what the other has not,
        before anything new.
        """
        client, server = makePair()
        for side in (client, server):
            for text in ("got", "lost"):
                side.session.outbox.add(text, 1)
                side.session.outbox.closeBatch()
        settle(server, carry(client, server, budget=1))
        settle(client, carry(server, client, budget=1))
        for side in (client, server):
            side.takeFrames(1, PLENTY)  # and with it an ACK
            side.session.outbox.add("new", 3)
        client, server = self.reconnect(client, server)
        welcome, *others = frames = said(server)
        assert isinstance(welcome, Welcome)
        hello = Hello.decode(welcome.payload)
        self.assertEqual((hello.session, hello.received), (SESSION, 1))
        expected = [
            Ack(1, (16 << 20) + 67),
            Messages(1, ("lost",), 68, 68),
            Messages(3, ("new",), 67, 67),
        ]
        self.assertEqual(others, expected)
        self.assertEqual(said(client), [])
        output = encodeFrame(FrameType.WELCOME, 1, hello.encode())
        self.assertEqual(client.receive(output, 0.0), [Accepted(hello, resumed=True)])
        self.assertEqual(said(client), expected)
        self.assertEqual(len(frames), 4)

    def test_nothing(self) -> None:
        """So it is if nothing was said before."""
        client, server = self.reconnect(*makePair())
        self.assertEqual(len(carry(server, client)), 2)
        self.assertEqual(said(client), [Ack(0, 16 << 20)])
        self.assertEqual((said(client), said(server)), ([], []))

    def test_former(self) -> None:
        """The client goes on with its former session."""
        client, server = makePair()
        former = client.session
        client, server = self.reconnect(client, server)
        (accepted, acknowledged) = carry(server, client)
        assert isinstance(accepted, Accepted)
        self.assertTrue(accepted.resumed)
        self.assertEqual(acknowledged, Acknowledged(0))
        self.assertIs(client.session, former)

    def test_another(self) -> None:
        """
        A server that names another session, or none, has begun a new one; the former
        one is left alone.
        """
        for session in ("", "0" * 32, SESSION.upper()):
            client, _ = makePair()
            former = client.session
            former.outbox.add("text", 1)
            client.takeFrames(1, PLENTY)
            mine = ConversationSettings()
            client = Conversation(mine, 0.0, former)
            hello = Hello(session=session, received=9, window=100)
            welcome = encodeFrame(FrameType.WELCOME, 1, hello.encode())
            self.assertEqual(client.receive(welcome, 0.0), [Accepted(hello, False)])
            fresh = client.session
            self.assertIsNot(fresh, former)
            self.assertEqual((fresh.name, fresh.outbox.limit), (session, 100))
            self.assertEqual(said(client), [])
            self.assertEqual((former.outbox.sent, former.name), (1, SESSION))
            self.assertIsNone(former.inbox.takeAck())

    def test_unnamed(self) -> None:
        """A server goes on with its session only for a client that names it."""
        for session in ("", "0" * 32):
            client, _ = makePair()
            client.session.outbox.add("text", 1)
            client.takeFrames(1, PLENTY)
            server = Conversation(ConversationSettings(), 0.0, client.session)
            server.welcome(Hello(session=session, window=7))
            self.assertEqual([type(frame) for frame in said(server)], [Welcome])
            self.assertEqual(server.session.outbox.limit, 7)

    def test_impossibleHello(self) -> None:
        """A hello that says what cannot be is refused, and the session is as before."""
        client, server = makePair()
        conversation = Conversation(ConversationSettings(), 0.0, server.session)
        hello = Hello(session=SESSION, received=1)
        self.assertRaises(ProtocolError, conversation.welcome, hello)
        self.assertIs(conversation.state, S.GREETING)
        self.assertIsNone(server.session.inbox.takeAck())
        _, server = self.reconnect(client, server)
        self.assertEqual([type(frame) for frame in said(server)], [Welcome, Ack])

    def test_impossibleWelcome(self) -> None:
        """
        A WELCOME that says what cannot be ends the conversation, and the session at
        the server: else the client would meet it again each time it comes back.
        """
        for received in (0, 3):
            client, server = makePair()
            for _ in range(2):
                client.session.outbox.add("text", 1)
            settle(server, carry(client, server))
            carry(server, client)
            client, _ = self.reconnect(client, server)
            hello = Hello(session=SESSION, received=received)
            welcome = encodeFrame(FrameType.WELCOME, 1, hello.encode())
            (broken,) = client.receive(welcome + FRAMES[FrameType.TEXT], 0.0)
            assert isinstance(broken, Broken)
            self.assertIn("2 are acknowledged and 2 were sent", str(broken.error))
            self.assertEqual(said(client), [Close(1002, "protocol error")])
            self.assertTrue(client.ended)

    def test_over(self) -> None:
        """Nor does a session go on that was over before the WELCOME came."""
        client, server = makePair()
        client.session.outbox.add("text", 1)
        client.takeFrames(1, PLENTY)
        former = client.session
        client, server = self.reconnect(client, server)
        former.outbox.drop()
        (broken,) = carry(server, client)
        self.assertIsInstance(broken, Broken)
        self.assertEqual(carry(client, server), [PeerClosed(1002, "protocol error")])

    def test_smaller(self) -> None:
        """
        A side that takes smaller messages now can go on only if all that it may get
        are as small.
        """
        for size, good in ((10, True), (11, False)):
            client, server = makePair()
            client.session.outbox.add(bytes(size), 1)
            client, server = self.reconnect(client, server, maxMessage=10)
            self.assertIsInstance(
                carry(server, client)[0], Accepted if good else Broken
            )
            events = carry(client, server)
            self.assertIsInstance(events[-1], Messages if good else PeerClosed)

    def test_limit(self) -> None:
        """The limit is the former one, whatever window is announced now."""
        client, server = makePair(receiveBuffer=100)
        for number in range(4):
            client.session.outbox.add(f"{number}", 1)
        waiting = carry(client, server)
        self.assertEqual(client.session.outbox.sent, 2)
        client, server = self.reconnect(client, server, receiveBuffer=1 << 20)
        carry(server, client)
        self.assertEqual(said(client), [Ack(0, 100)])
        got = settle(server, waiting)
        while client.session.outbox.keptCost:
            carry(server, client)
            got += settle(server, carry(client, server))
        self.assertEqual(got, [*"0123"])

    def test_lateLimit(self) -> None:
        """
        A limit that was announced over the former connection, and did not arrive, is
        announced again.
        """
        client, server = makePair(receiveBuffer=100)
        for number in range(3):
            client.session.outbox.add(f"{number}", 1)
        settle(server, carry(client, server))
        self.assertEqual(said(server), [Ack(2, 230)])
        client, server = self.reconnect(client, server)
        self.assertEqual(carry(server, client)[-1], Acknowledged(2))
        self.assertEqual(messagesOf(said(client)), [Messages(1, ("2",), 65, 65)])

    def test_unkept(self) -> None:
        """
        What was received and is not kept yet is not sent again, nor acknowledged
        before it is.
        """
        client, server = makePair()
        client.session.outbox.add("text", 1)
        waiting = carry(client, server)
        client, server = self.reconnect(client, server)
        self.assertEqual(carry(server, client)[-1], Acknowledged(0))
        self.assertEqual(said(client), [Ack(0, 16 << 20)])
        settle(server, waiting)
        self.assertEqual(carry(server, client), [Acknowledged(1)])
        self.assertEqual(client.session.outbox.keptCost, 0)

    def test_halfAMessage(self) -> None:
        """Of a message that was cut off nothing is kept: it comes again, whole."""
        for size in range(1, len(FRAMES[FrameType.BATCH])):
            client, server = makePair()
            for text in ("one", "two"):
                client.session.outbox.add(text, 1)
            self.assertEqual(
                server.receive(b"".join(client.takeFrames(1, PLENTY))[:size], 0.0), []
            )
            client, server = self.reconnect(client, server)
            carry(server, client)
            got = settle(server, carry(client, server, sizes=(3,)))
            self.assertEqual(got, ["one", "two"])

    def test_peer(self) -> None:
        """It is what the other side says now that counts: its heartbeat, its BATCH."""
        _, server = makePair()
        for text in ("one", "two"):
            server.session.outbox.add(text, 1)
        conversation = Conversation(ConversationSettings(), 0.0, server.session)
        conversation.welcome(Hello(session=SESSION, heartbeat=3.0, requests=True))
        self.assertEqual(server.session.outbox.peer.heartbeat, 3.0)
        _, _, *frames = said(conversation)
        self.assertEqual([f.data for f in messagesOf(frames)], [("one",), ("two",)])

    def test_beforeTheWelcome(self) -> None:
        """
        What is sent while nobody is connected, and before the WELCOME comes, waits.
        """
        client, server = makePair()
        former = client.session
        former.outbox.add("one", 1)
        client, server = self.reconnect(client, server)
        former.outbox.add("two", 1)
        self.assertEqual((said(client), client.sendable), ([], False))
        carry(server, client)
        self.assertTrue(client.sendable)
        self.assertEqual(settle(server, carry(client, server)), ["one", "two"])

    def test_quickly(self) -> None:
        """
        Who comes back over and over is not taken for one who floods: each connection
        has its own patience, and its ACKs carry something.
        """
        client, server = makePair(heartbeat=1000.0)
        for number in range(300):
            client, server = self.reconnect(client, server, heartbeat=1000.0)
            accepted, acknowledged = carry(server, client)
            self.assertIsInstance(accepted, Accepted)
            self.assertEqual(acknowledged, Acknowledged(number))
            client.session.outbox.add(f"{number}", 1)
            events = carry(client, server)
            self.assertIsInstance(events[0], Acknowledged)
            self.assertEqual(settle(server, events), [f"{number}"])
            server.takeFrames(1, PLENTY)  # and the ACK is lost
        for side in (client, server):
            self.assertEqual(side.receive(FRAMES[FrameType.PONG] * 99, 0.0), [])

    def test_closing(self) -> None:
        """
        A session that was resumed closes in order: what was sent again is
        acknowledged before.
        """
        client, server = makePair()
        client.session.outbox.add("text", 1)
        client.takeFrames(1, PLENTY)
        client, server = self.reconnect(client, server)
        carry(server, client)
        client.close(0.0, 1000, "done")
        events = carry(client, server)
        self.assertEqual(events[-1], PeerClosed(1000, "done"))
        self.assertEqual(settle(server, events), ["text"])
        expected = [Acknowledged(1), PeerClosed(1000, "")]
        self.assertEqual(carry(server, client), expected)

    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_everythingArrives(self, data: Any) -> None:
        """
        Wherever the connections are cut, everything arrives, in order, once.

        @param data: draws what is done.
        """
        client, server = makePair(receiveBuffer=300)
        sent: tuple[list[Any], list[Any]] = ([], [])
        got: tuple[list[Any], list[Any]] = ([], [])
        for _ in range(data.draw(st.integers(1, 8))):
            for role, side in enumerate((client, server)):
                for size in data.draw(st.lists(st.integers(0, 200), max_size=4)):
                    side.session.outbox.add(bytes(size), len(sent[role]))
                    side.session.outbox.closeBatch()
                    sent[role].append((len(sent[role]), bytes(size)))
            for one, two, there in (
                (client, server, got[1]),
                (server, client, got[0]),
            ):
                output = b"".join(one.takeFrames(1, PLENTY))
                part = output[: data.draw(st.integers(0, len(output)))]
                events = two.receive(part, 0.0)
                there += self.taken(two, events)
            client, server = self.reconnect(client, server, receiveBuffer=300)
            got[0].extend(self.taken(client, carry(server, client)))
        for _ in range(40):
            got[1].extend(self.taken(server, carry(client, server)))
            got[0].extend(self.taken(client, carry(server, client)))
        self.assertEqual((got[1], got[0]), sent)
        for side in (client, server):
            self.assertEqual((side.session.outbox.keptCost, side.sendable), (0, False))

    def taken(
        self, conversation: Conversation, events: Sequence[Event]
    ) -> list[tuple[int, str | bytes]]:
        """
        Keep and take what came.

        @param conversation: where.
        @param events: what happened there.
        @return: the messages, and when they were sent.
        """
        settle(conversation, events)
        return [
            (event.micros, data)
            for event in events
            if isinstance(event, Messages)
            for data in event.data
        ]


class EarlyTests(SynchronousTestCase):
    """Messages that follow the handshake, PROTOCOL section 8."""

    def early(self) -> tuple[Session, bytes, Hello]:
        """
        Send messages in a session of which the server does not know.

        @return: the session, what is written, and the hello.
        """
        given = ConversationSettings()
        session = Session(given.sendBuffer, given.receiveBuffer, SESSION)
        session.outbox.begin(LEAST_HELLO)
        for message in ("one", b"two"):
            session.outbox.add(message, 1)
        output = b"".join(session.outbox.take(EARLY_WINDOW))
        return session, output, given.hello(session, len(output))

    def meet(
        self, name: str, sizes: Sequence[int] = (1 << 20,)
    ) -> tuple[Conversation, Conversation, list[Event]]:
        """
        Let a client with early messages in.

        @param name: the session that the server begins.
        @param sizes: how what comes is cut up.
        @return: both sides, and what happened at the server.
        """
        session, output, hello = self.early()
        given = ConversationSettings()
        server = Conversation(
            given, 0.0, Session(given.sendBuffer, given.receiveBuffer, name)
        )
        server.welcome(Hello.decode(hello.encode()))
        events: list[Event] = []
        for chunk in pieces(output, sizes):
            events += server.receive(chunk, 0.0)
        return Conversation(given, 0.0, session), server, events

    def test_taken(self) -> None:
        """
        A session that has the client's name has begun with them: they come in any
        pieces, and are acknowledged behind the WELCOME, which says so.
        """
        for sizes in ((1 << 20,), (1,)):
            client, server, events = self.meet(SESSION, sizes)
            self.assertEqual(settle(server, events), ["one", b"two"])
            self.assertEqual(server.session.outbox.limit, 16 << 20)
            welcome, ack = said(server)
            assert isinstance(welcome, Welcome)
            hello = Hello.decode(welcome.payload)
            self.assertEqual((hello.session, hello.early), (SESSION, 13 + 4 + 8 + 6))
            assert isinstance(ack, Ack)
            self.assertEqual(ack.count, 2)
            session = client.session
            output = encodeFrame(FrameType.WELCOME, 1, welcome.payload)
            (accepted,) = client.receive(output, 0.0)
            self.assertEqual(accepted, Accepted(hello, resumed=True))
            self.assertIs(client.session, session)
            self.assertEqual((session.outbox.sent, session.outbox.limit), (2, 16 << 20))
            self.assertEqual(said(client), [])
            output = encodeAck(1, *ack)
            self.assertEqual(client.receive(output, 0.0), [Acknowledged(2)])
            self.assertEqual(session.outbox.acknowledged, 2)

    def test_notTaken(self) -> None:
        """
        A session of another name has not: they are skipped, in any pieces, whatever
        follows, and the client sees it by the name.
        """
        for sizes in ((1 << 20,), (1,), (20,)):
            client, server, events = self.meet("0" * 32, sizes)
            self.assertEqual(events, [])
            self.assertTrue(server.reader.empty)
            former = client.session
            (welcome,) = said(server)
            assert isinstance(welcome, Welcome)
            hello = Hello.decode(welcome.payload)
            self.assertEqual((hello.session, hello.early), ("0" * 32, 0))
            output = encodeFrame(FrameType.WELCOME, 1, welcome.payload)
            self.assertEqual(client.receive(output, 0.0), [Accepted(hello, False)])
            self.assertIsNot(client.session, former)
            client.session.outbox.add("new", 1)
            self.assertEqual(settle(server, carry(client, server)), ["new"])

    def test_skipped(self) -> None:
        """Just these bytes are skipped, and the short way skips them, too."""
        text = FRAMES[FrameType.TEXT]
        for behind in (b"", text):
            for skipped in range(len(text) - 1, len(text) + 2):
                server = makeServer(Hello(session="0" * 32, early=skipped))
                data = text[:skipped].ljust(skipped) + behind
                self.assertIsNone(exchange(server, data, 0.0))
                data = data if behind else data[:-1]
                got = settle(server, server.receive(data, 0.0))
                self.assertEqual(got, ["text"] if behind else [])
                self.assertEqual(server.reader.empty, bool(behind))
                self.assertEqual(server.reader.cut(), None)

    def test_unnamed(self) -> None:
        """Without a name there is no session for them."""
        server = makeServer(Hello(early=len(FRAMES[FrameType.TEXT])))
        self.assertEqual(server.receive(FRAMES[FrameType.TEXT], 0.0), [])

    def test_resumed(self) -> None:
        """
        What is early and was not acknowledged is sent again, in order, by who comes
        back to the session, and does not know how much of it came.
        """
        for got in range(3):
            session, _, _ = self.early()
            given = ConversationSettings()
            other = Session(given.sendBuffer, given.receiveBuffer, SESSION)
            for number in range(got):
                data = ("one", b"two")[number]
                other.inbox.receive(Messages(1, (data,), 67, 67))
                other.inbox.keep(1)
            server = Conversation(given, 0.0, other)
            hello = given.hello(session)
            self.assertEqual((hello.received, hello.early), (0, 0))
            server.welcome(hello)
            client = Conversation(given, 0.0, session)
            carry(server, client)
            arrived = settle(server, carry(client, server))
            self.assertEqual(arrived, ["one", b"two"][got:])
            carry(server, client)
            self.assertEqual(session.outbox.acknowledged, 2)
            self.assertTrue(session.settled)


class HeartbeatTests(SynchronousTestCase):
    """PING, PONG, and silence."""

    def test_ping(self) -> None:
        """After a heartbeat's time without data a PING is due, once."""
        client, _ = makePair(heartbeat=10.0)
        self.assertEqual(client.deadline, 10.0)
        self.assertEqual(client.tick(9.9), [])
        self.assertEqual(said(client), [])
        self.assertEqual(client.tick(10.0), [])
        self.assertEqual(client.tick(10.1), [])
        self.assertEqual(said(client), [Ping(PING_BODY)])
        self.assertEqual(said(client), [])
        self.assertEqual(client.deadline, 20.0)

    def test_roundTrip(self) -> None:
        """How long the answer to a PING took is known, and added up."""
        client, _ = makePair(heartbeat=10.0)
        traffic = client.session.outbox.traffic = Traffic()
        client.tick(10.0)
        said(client)
        client.receive(FRAMES[FrameType.TEXT], 10.25)
        client.receive(encodeFrame(FrameType.PONG, 1, PING_BODY), 10.5)
        self.assertEqual(client.roundTrip.seconds, 0.5)
        self.assertEqual(traffic.roundTripMicros, 500_000)

    def test_late(self) -> None:
        """Nothing is known from a PING that leaves after something has come."""
        client, _ = makePair(heartbeat=10.0)
        client.tick(10.0)
        client.receive(FRAMES[FrameType.TEXT], 10.5)
        self.assertIn(Ping(PING_BODY), said(client))
        client.receive(encodeFrame(FrameType.PONG, 1, PING_BODY), 11.0)
        self.assertIsNone(client.roundTrip.seconds)

    def test_answer(self) -> None:
        """Any data is an answer, and moves the next PING."""
        for data in (FRAMES[FrameType.PONG], FRAMES[FrameType.TEXT], b"\x00"):
            client, _ = makePair(heartbeat=10.0)
            client.tick(10.0)
            self.assertEqual(said(client), [Ping(PING_BODY)])
            self.assertEqual(client.tick(19.9), [])
            client.receive(data, 19.9)
            self.assertGreaterEqual(client.deadline, 24.9)
            self.assertEqual(client.tick(29.8), [])
            self.assertNotIn(Ping(PING_BODY), said(client))
            self.assertEqual(client.tick(20.0), [])
            self.assertIs(client.state, S.OPEN)

    def test_silence(self) -> None:
        """After another heartbeat's time the peer is given up, and told nothing."""
        client, _ = makePair(heartbeat=10.0)
        client.tick(10.0)
        said(client)
        (event,) = client.tick(20.0)
        assert isinstance(event, Broken)
        assert isinstance(event.error, HeartbeatLost)
        self.assertIn("for 20.0 seconds", str(event.error))
        self.assertTrue(client.ended)
        self.assertEqual(said(client), [])
        self.assertEqual(client.tick(30.0), [])

    def test_takesNothing(self) -> None:
        """
        A peer that sends, and takes nothing of what waits for it, is given up after two
        heartbeats; one that takes anything, or has it all, is not.
        """
        for progress, alive in (
            ([5] * 40, False),
            ([5, *[None] * 3, *[5] * 20], False),
            (range(40), True),
            ([None] * 40, True),
            ([5, 5, 5, None] * 10, True),
            ([number // 3 for number in range(40)], True),
        ):
            client, _ = makePair(heartbeat=10.0)
            events: list[Event] = []
            for number, taken in enumerate(progress):
                now = 5.0 * number
                client.receive(encodeFrame(FrameType.PING, 1), now)
                events += client.tick(now, takenSoFar=taken)
            self.assertEqual(not events, alive, progress)
            if not alive:
                (event,) = events
                assert isinstance(event, Broken)
                self.assertIn("takes nothing", str(event.error))

    def test_lateTick(self) -> None:
        """
        Who looks late does not count that against the peer: it has its time to
        answer.
        """
        client, _ = makePair(heartbeat=10.0)
        self.assertEqual(client.tick(100.0), [])
        self.assertEqual(client.deadline, 110.0)
        self.assertEqual(client.tick(109.0), [])
        (event,) = client.tick(110.0)
        self.assertIsInstance(event, Broken)

    def test_silentServer(self) -> None:
        """A server that never says WELCOME is given up as well."""
        client = makeClient(heartbeat=10.0)
        self.assertEqual(client.tick(10.0), [])
        self.assertEqual(said(client), [])
        self.assertEqual(len(client.tick(20.0)), 1)

    def test_signOfLife(self) -> None:
        """
        A peer that is not done sending hears of us in half of a heartbeat's time, so
        that it does not take us for gone; once for what came since we last said
        anything.
        """
        for data in (FRAMES[FrameType.TEXT][:-1], FRAMES[FrameType.TEXT], b"\x00"):
            for mine, theirs in ((10.0, 10.0), (10.0, 1000.0), (1000.0, 10.0)):
                client = makeClient(heartbeat=mine)
                hello = Hello(heartbeat=theirs)
                welcome = encodeFrame(FrameType.WELCOME, 1, hello.encode())
                client.receive(welcome, 0.0)
                client.receive(data, 0.0)
                self.assertEqual(said(client), [])
                self.assertEqual(client.deadline, 5.0)
                self.assertEqual(client.tick(4.9), [])
                self.assertEqual(said(client), [])
                client.tick(5.0)
                self.assertEqual(said(client), [Pong(b"")])
                self.assertGreater(client.deadline, 9.0)

    def test_signOfLifeNotOwed(self) -> None:
        """Who has said something since owes none."""
        client, _ = makePair(heartbeat=10.0)
        client.receive(FRAMES[FrameType.TEXT], 1.0)
        client.session.inbox.keep(1)
        self.assertEqual([type(frame) for frame in said(client)], [Ack])
        self.assertEqual(client.deadline, 11.0)

    def test_heardOnly(self) -> None:
        """Whatever came, the peer hears of us within a heartbeat's time."""
        client, _ = makePair(heartbeat=10.0)
        for now in range(1, 10):
            client.receive(FRAMES[FrameType.PONG], now)
            self.assertEqual(said(client), [])
        client.tick(client.deadline)
        self.assertEqual([type(frame) for frame in said(client)], [Pong])

    def test_heardBeforeTheWelcome(self) -> None:
        """Before the WELCOME nothing may be said, and none is owed."""
        client = makeClient(heartbeat=10.0)
        for now in (1.0, 5.0):
            client.receive(FRAMES[FrameType.WELCOME][int(now) :][:1], now)
        self.assertEqual(client.tick(11.0), [])
        self.assertEqual(said(client), [])
        self.assertEqual(client.deadline, 15.0)

    def test_idleIsQuiet(self) -> None:
        """
        Two sides that have nothing to say do not keep each other awake: a PING and its
        PONG for each heartbeat's time.
        """
        client, server = makePair(heartbeat=10.0)
        frames = 0
        for now in range(1, 1001):
            for one, other in ((client, server), (server, client)):
                one.tick(float(now))
                output = b"".join(one.takeFrames(1, PLENTY))
                frames += len(framesOf(output))
                if output:
                    other.receive(output, float(now))
        self.assertLessEqual(frames, 2 * 100 + 2)

    def test_taking(self) -> None:
        """
        A peer that takes what had to wait for it is alive, however long it says
        nothing.
        """
        client, _ = makePair(heartbeat=10.0)
        for now in range(10, 100, 10):
            self.assertEqual(client.tick(float(now), now - 1.0), [])
        (event,) = client.tick(109.0, 89.0) or client.tick(119.0, 89.0)
        self.assertIsInstance(event, Broken)

    def test_takingWhileClosing(self) -> None:
        """
        The time to let a connection close is counted from when it last took anything.
        """
        client, _ = makePair()
        client.close(0.0)
        self.assertEqual(client.tick(5.0, 4.0), [])
        self.assertEqual(client.deadline, 9.0)
        (event,) = client.tick(9.0, 4.0)
        self.assertIsInstance(event, Broken)

    def test_pong(self) -> None:
        """A PING is answered with its body."""
        for body in (b"", b"\x00\xff", bytes(64)):
            server = makeServer()
            said(server)
            ping = encodeFrame(FrameType.PING, 1, body)
            self.assertEqual(server.receive(ping, 0.0), [])
            self.assertEqual(said(server), [Pong(body)])
            self.assertEqual(said(server), [])

    def test_pongs(self) -> None:
        """Of the PINGs that came since the last output the newest is answered."""
        server = makeServer()
        said(server)
        for number in range(3):
            server.receive(encodeFrame(FrameType.PING, 1, b"%d" % number), 0.0)
        self.assertEqual(said(server), [Pong(b"2")])

    def test_flood(self) -> None:
        """
        A hundred frames that carry nothing are tolerated in advance, and then as
        many as heartbeats give reason for; more end the connection.
        """
        useless = [
            FRAMES[FrameType.PING],
            FRAMES[FrameType.PONG],
            encodeAck(1, 0, 16 << 20),
        ]
        for frame in useless:
            _, server = makePair(heartbeat=1.0)
            self.assertNotIn("Broken", str(server.receive(frame * 100, 0.0)))
            self.assertNotIn("Broken", str(server.receive(frame * 2, 1.0)))
            (*_, event) = server.receive(frame, 1.0)
            assert isinstance(event, Broken)
            self.assertIn("flood", str(event.error))
            self.assertEqual(said(server), [Close(1002, "protocol error")])

    def test_floodOfFew(self) -> None:
        """
        Who announces a heartbeat of no time at all gets no more patience than is
        good for us; our own PINGs are answered as often as we like.
        """
        for heartbeat, most in ((1e-9, 20), (30.0, 1000)):
            _, server = makePair(heartbeat=0.002 if heartbeat == 30.0 else 30.0)
            server.session.outbox.peer = Hello(heartbeat=heartbeat, batch=True)
            server.receive(FRAMES[FrameType.PONG] * 100, 0.0)
            pongs = FRAMES[FrameType.PONG] * 100
            self.assertEqual(server.receive(pongs, 100 / most), [])
            self.assertIn("flood", str(server.receive(pongs[:13], 100 / most)))

    def test_nextKey(self) -> None:
        """A server that has a next key says so in its WELCOME."""
        server = makeServer(nextKey="A" * 43 + "=")
        (frame,) = said(server)
        assert isinstance(frame, Welcome)
        self.assertEqual(Hello.decode(frame.payload).nextKey, "A" * 43 + "=")

    def test_neverTaken(self) -> None:
        """
        Who never reads cannot make us hold more and more: what is due is due once.
        """
        _, server = makePair()
        server.session.outbox.add("text", 1)
        for number in range(40):
            events = server.receive(
                encodeFrame(FrameType.PING, 1, b"%d" % number)
                + FRAMES[FrameType.PONG]
                + FRAMES[FrameType.TEXT]
                + encodeAck(1, 0, (16 << 20) + number),
                0.0,
            )
            settle(server, events)
            server.tick(30.0)
        expected = [
            Ack(40, (16 << 20) + 40 * 68),
            Pong(b"39"),
            Ping(PING_BODY),
            Messages(1, ("text",), 68, 68),
        ]
        self.assertEqual(said(server), expected)
        self.assertEqual(said(server), [])


class AnyTests(SynchronousTestCase):
    """Whatever comes, however it is cut, and whatever both sides do."""

    makers: tuple[Callable[[], Conversation], ...] = (makeClient, makeServer)

    def check(self, role: int, data: bytes, sizes: Sequence[int]) -> None:
        """
        Check that bytes cause the same whole and in pieces, that errors are
        documented ones, and that nothing follows them.

        @param role: who gets them: 0 for the client.
        @param data: the bytes.
        @param sizes: how they are cut.
        """
        whole, cut = self.makers[role](), self.makers[role]()
        events = whole.receive(data, 1.0)
        inPieces = [e for chunk in pieces(data, sizes) for e in cut.receive(chunk, 1.0)]
        self.assertEqual(outline(inPieces), outline(events))
        for event in events[:-1]:
            self.assertNotIsInstance(event, Broken)
        for conversation in (whole, cut):
            if conversation.state in OVER:
                assert isinstance(events[-1], Broken)
                self.assertIsInstance(events[-1].error, AESMError)
                self.assertEqual(conversation.receive(data, 1.0), [])
                self.assertEqual(conversation.peerEnded(0.0), [])
        self.assertEqual(outline(cut.peerEnded(0.0)), outline(whole.peerEnded(0.0)))
        self.assertEqual(cut.takeFrames(1, PLENTY), whole.takeFrames(1, PLENTY))
        self.assertIs(cut.state, whole.state)

    @settings(max_examples=150, deadline=None)
    @given(
        st.integers(0, 1),
        st.lists(
            st.one_of(
                st.sampled_from(list(FRAMES.values())),
                st.tuples(st.sampled_from(list(FrameType)), st.binary(max_size=30)).map(
                    lambda pair: encodeFrame(pair[0], 1, pair[1])
                ),
                st.binary(max_size=20),
            ),
            max_size=6,
        ),
        chunkSizes,
    )
    def test_frames(self, role: int, frames: list[bytes], sizes: list[int]) -> None:
        """
        Good frames, bad frames and noise, in any order.

        @param role: who gets them: 0 for the client.
        @param frames: them.
        @param sizes: how they are cut.
        """
        welcome = FRAMES[FrameType.WELCOME] * (1 - role)
        self.check(role, b"".join(frames), sizes)
        self.check(role, welcome + b"".join(frames), sizes)

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_altered(self, data: Any) -> None:
        """
        A good conversation that is altered somewhere.

        @param data: draws what is done.
        """
        role = data.draw(st.integers(0, 1))
        kinds = [kind for kind in FRAMES if kind is not FrameType.WELCOME or not role]
        stream = b"".join(FRAMES[kind] for kind in sorted(kinds, key=lambda k: k != 3))
        start = data.draw(st.integers(0, len(stream)))
        end = data.draw(st.integers(start, min(start + 5, len(stream))))
        new = data.draw(st.binary(max_size=5))
        altered = stream[:start] + new + stream[end:]
        self.check(role, altered, data.draw(chunkSizes))

    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_everythingArrives(self, data: Any) -> None:
        """
        Whatever both sides send, keep and take, and however the bytes are cut:
        everything arrives whole, in order, once; neither side holds more than its
        bounds; and in the end all is acknowledged.

        @param data: draws what is done.
        """
        pair = makePair(sendBuffer=2000, receiveBuffer=600, maxMessage=300)
        sent: tuple[list[Any], list[Any]] = ([], [])
        got: tuple[list[Any], list[Any]] = ([], [])
        waiting: tuple[list[int], list[int]] = ([], [])  # costs that are not taken

        def deliver(role: int, sizes: Sequence[int], budget: int) -> bool:
            """
            Carry what one side says to the other.

            @param role: which side.
            @param sizes: how to cut it.
            @param budget: bytes of messages.
            @return: whether there was anything.
            """
            events = carry(pair[role], pair[1 - role], sizes, budget)
            for event in events:
                if isinstance(event, Messages):
                    got[1 - role].extend(map(decoded, event.data))
                    waiting[1 - role].append(event.cost)
                else:
                    self.assertIsInstance(event, Acknowledged)
            return bool(events)

        def consume(role: int, most: int) -> None:
            """
            Keep and take what came.

            @param role: where.
            @param most: how many groups of messages to take.
            """
            inbox = pair[role].session.inbox
            inbox.keep(inbox.received - inbox.keptCount)
            for cost in waiting[role][:most]:
                inbox.take(cost)
            del waiting[role][:most]

        for _ in range(data.draw(st.integers(1, 15))):
            role = data.draw(st.integers(0, 1))
            for message in data.draw(
                st.lists(st.one_of(st.text(max_size=70), st.binary(max_size=300)))
            ):
                try:
                    count = pair[role].session.outbox.add(message, 1)
                except SendBufferFull:
                    break
                sent[role].append(message)
                self.assertEqual(count, len(sent[role]))
            if data.draw(st.booleans()):
                pair[role].session.outbox.closeBatch()
            budget = data.draw(st.sampled_from([0, 1, 200, PLENTY]))
            deliver(role, data.draw(chunkSizes), budget)
            consume(1 - role, data.draw(st.integers(0, 2)))
            for side in (0, 1):
                self.assertLessEqual(pair[side].session.outbox.keptCost, 2000)
                self.assertLess(sum(waiting[side]), 600 + 300 + 64)
        quiet = False
        while not quiet:
            consume(0, PLENTY)
            consume(1, PLENTY)
            quiet = not any([deliver(role, (50,), 500) for role in (0, 1)])
        for role in (0, 1):
            self.assertEqual(got[1 - role], sent[role])
            outbox = pair[role].session.outbox
            self.assertEqual((outbox.keptCost, outbox.unsent), (0, False))
            self.assertEqual(outbox.acknowledged, len(sent[role]))
