"""
The message layer of a session, in either role, against a peer that says anything at
any time and comes back as it likes, while our application does what it likes.

Input: one byte for the role; one for the size of chunks; then steps, each a byte
and what it needs: frames of the peer's, whole or not, our own messages, what our
application takes, time, closing, and the next connection.

Whatever happens: events are documented ones, C{Broken} comes last and once, and
nothing after it; what the application is handed stays within the window and one
message, what is kept for the peer within the send buffer, what is read within one
frame; acknowledgements never go back nor run ahead, ours or the peer's, and begin
each connection of a session that goes on; all that we send is what a reader of ours
takes, and the messages are those that were accepted, from where the peer has them;
a session that is not over goes on if, and only if, what the peer says can be; and how
its bytes are cut up makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count

from aesm.core.messages.conversation import Conversation
from aesm.core.messages.dialogue import exchange
from aesm.core.messages.events import (
    Accepted,
    Acknowledged,
    Answered,
    Asked,
    Broken,
    Event,
    PeerClosed,
)
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import (
    KINDS,
    LENGTH_BITS,
    MAX_BATCH,
    Ack,
    Close,
    FrameType,
    Messages,
    Partial,
    Ping,
    Pong,
    Welcome,
    encodeAck,
    encodeBatch,
    encodeClose,
    encodeFrame,
)
from aesm.core.messages.hello import ConversationSettings, Hello
from aesm.core.messages.requests import (
    WITHDRAWN,
    decodeResponse,
    encodeAnswer,
    encodeError,
    encodeRequest,
    encodeWithdrawal,
    sizeOf,
)
from aesm.core.messages.session import Session
from aesm.core.messages.states import ConversationState
from aesm.errors import (
    ConnectionClosed,
    MessageTooBig,
    ProtocolError,
    SendBufferFull,
)
from fuzz.script import Script, outline, pieces

__all__ = ["run", "seeds"]

_SETTINGS = ConversationSettings(
    maxMessage=300, heartbeat=10.0, sendBuffer=2000, receiveBuffer=1000, agent="fuzz"
)
_PEER = Hello(maxMessage=400, batch=True, window=500, requests=True)
_SESSION, _OTHER = "0" * 32, "f" * 32
_STEPS = 16
# Which frame a number in an input is; new ones come last.
_KINDS = (
    *(
        kind
        for kind in FrameType
        if kind not in (FrameType.REQUEST, FrameType.RESPONSE)
    ),
    FrameType.REQUEST,
    FrameType.RESPONSE,
)
GOING_AWAY = 1001  # close code, PROTOCOL section 9: a session may go on after it


class _Application:
    """
    What uses a session, over all of its connections.

    @ivar session: the session.
    @ivar sent: the messages that it has accepted.
    @ivar waiting: those that came and are not taken.
    @ivar received: how many came.
    @ivar acknowledged: what the peer has acknowledged.
    @ivar asked: the numbers of our requests that are not answered.
    @ivar told: the last ACK that the peer was sent, if it has arrived or not.
    """

    def __init__(self, name: str) -> None:
        """@param name: the session's."""
        self.session = Session(_SETTINGS.sendBuffer, _SETTINGS.receiveBuffer, name)
        self.sent: list[str | bytes] = []
        self.waiting: list[Messages] = []
        self.received = self.acknowledged = 0
        self.asked: set[int] = set()
        self.told = (0, _SETTINGS.receiveBuffer)

    def send(self, data: str | bytes) -> None:
        """
        Send a message, if there is room.

        @param data: the message.
        """
        with suppress(MessageTooBig, SendBufferFull):
            self.session.outbox.add(data, 7)
            self.sent.append(data)

    def ask(self, data: str) -> None:
        """
        Ask, if there is room.

        @param data: what.
        """
        outbox, body = self.session.outbox, encodeRequest(data)
        with suppress(MessageTooBig, SendBufferFull):
            number = outbox.add(body, 7) - 1
            outbox.ask(number, number)
            self.sent.append(body)
            self.asked.add(number)

    def arrived(self, messages: Messages) -> None:
        """
        Keep what came.

        @param messages: of any kind.
        """
        self.received += len(messages.data)
        self.waiting.append(messages)

    def answered(self, event: Answered) -> None:
        """
        Check that answers are to what was asked, and withdrawals of what came.

        @param event: what came.
        """
        assert event.first == self.received, event
        answers = zip(event.waiters, event.messages.data, strict=True)
        for number, (waiter, body) in enumerate(answers, event.first):
            assert isinstance(body, bytes), event
            response = decodeResponse(body)
            if response.status == WITHDRAWN:
                assert waiter is None, event
                assert response.number < number, event
            else:
                assert waiter == response.number, event
                self.asked.remove(response.number)
        assert set(self.session.outbox.asked or ()) == self.asked
        self.arrived(event.messages)

    def take(self) -> None:
        """Take the oldest messages."""
        if self.waiting:
            messages = self.waiting.pop(0)
            self.session.inbox.keep(len(messages.data))
            self.session.inbox.take(messages.cost)

    def acknowledging(self, ack: Ack) -> None:
        """
        Check what the peer is told.

        @param ack: what.
        """
        inbox, (count, limit) = self.session.inbox, self.told
        waiting = sum(len(messages.data) for messages in self.waiting)
        assert count <= ack.count == inbox.received - waiting, ack
        assert limit <= ack.limit, ack
        self.told = ack.count, ack.limit

    def some(self, number: int) -> int:
        """
        Say how many messages the peer may have, or one less, or one more.

        @param number: any.
        """
        least = max(0, self.acknowledged - 1)
        return least + number % (self.session.outbox.sent + 2 - least)

    def canResume(self, peer: Hello) -> bool:
        """
        Tell whether a session can go on.

        @param peer: what it says of itself.
        """
        left = self.sent[self.acknowledged :]
        if self.session.outbox.peer.requests and not peer.requests:
            return False
        if not self.acknowledged <= peer.received <= self.session.outbox.sent:
            return False
        following = left[peer.received - self.acknowledged :]
        size = sum(map(len, following[:1]))  # of the next one
        largest = max((sizeOf(each, type(each)) for each in left), default=0)
        return largest <= peer.maxMessage and 0 <= peer.partial < max(1, size)

    def part(self, hello: Hello) -> Partial | None:
        """
        Say what the peer has of the next message.

        @param hello: what it says of itself.
        """
        if not hello.partial:
            return None
        data = self.sent[hello.received]
        if isinstance(data, str):
            return Partial(FrameType.TEXT, data.encode()[: hello.partial])
        return Partial(KINDS[type(data)], data[: hello.partial])

    def check(self) -> None:
        """Check the bounds."""
        ahead = sum(messages.cost for messages in self.waiting)
        last = self.waiting[-1].lastCost if self.waiting else 0
        assert ahead - last <= _SETTINGS.receiveBuffer, ahead
        assert self.session.outbox.keptCost <= _SETTINGS.sendBuffer


class _Side:
    """
    A conversation with its application, and the next one with the same.

    @ivar conversation: the conversation.
    @ivar events: all that it and those before it have reported.
    @ivar output: all that they have said.
    @ivar broken: whether the conversation has reported that it is.
    """

    def __init__(self, isServer: bool) -> None:
        """@param isServer: its role."""
        self.events: list[Event] = []
        self.output = b""
        self._isServer = isServer
        self._now = 0.0
        self._former: _Application | None = None  # what a client would go on with
        self._names = count()
        if isServer:
            self._welcome(_PEER, None)
        else:
            self._connect(_Application(""))

    def _connect(self, application: _Application) -> None:
        """
        Begin a conversation.

        @param application: what it is for.
        """
        session = application.session if self._isServer else None
        if self._former is not None:
            session = self._former.session
        self.application = application
        self.conversation = Conversation(_SETTINGS, self._now, session)
        self.broken = False
        self._over = False  # whether the session is
        self._peer = FrameReader(10_000)
        self._position = 0  # of the next message in all that was sent
        self._quiet = False  # nothing may be said before an ACK

    def report(self, events: list[Event]) -> None:
        """
        Check and keep what the conversation reports.

        @param events: what it reports.
        """
        for event in events:
            if self.broken:  # and the peer does not let it end
                assert isinstance(event, Broken), event
                assert isinstance(event.error, ConnectionClosed), event
            self.events.append(event)
            application = self.application
            match event:
                case Messages() as messages:
                    application.arrived(messages)
                case Asked(first, requests):
                    assert first == application.received, event
                    application.arrived(requests)
                case Answered():
                    application.answered(event)
                case Broken(error):
                    assert isinstance(error, ProtocolError | ConnectionClosed), error
                    self.broken = True
                    self._over |= isinstance(error, ProtocolError)
                case Acknowledged(count):
                    assert application.acknowledged <= count <= self._position, event
                    application.acknowledged = count
                case Accepted(hello, resumed):
                    former, self._former = self._former, None
                    if former is not None and resumed:
                        assert former.canResume(hello), hello
                        self.application = former
                        self._goOn(hello)
                    else:
                        self.application.session = self.conversation.session
                case PeerClosed(code):
                    self._over |= code != GOING_AWAY
        self.application.check()
        reader = self.conversation.reader
        assert sum(map(len, reader._body)) + len(reader.start) < MAX_BATCH

    def receive(self, data: bytes, size: int) -> None:
        """
        Take what the peer says.

        @param data: any bytes.
        @param size: of the chunks.
        """
        for chunk in pieces(data, (size,)):
            messages = exchange(self.conversation, chunk, self._now)
            if messages is None:
                self.report(self.conversation.receive(chunk, self._now))
            else:
                self.report([messages])

    def send(self, data: str | bytes) -> None:
        """
        Send a message, if that can be done now.

        @param data: the message.
        """
        if self.conversation.state is ConversationState.OPEN:
            self.application.send(data)

    def pump(self, budget: int) -> None:
        """
        Let the conversation speak, and read what it says.

        @param budget: of the messages.
        """
        application = self.application
        application.session.outbox.closeBatch()
        output = b"".join(self.conversation.takeFrames(7, budget))
        self.output += output
        for frame in self._peer.receive(output):
            match frame:
                case Messages(data=data):
                    end = self._position + len(data)
                    assert [*data] == application.sent[self._position : end], frame
                    self._position = end
                    self._peer.partial = None
                case Ack():
                    application.acknowledging(frame)
                    self._quiet = False
                case Welcome(payload):
                    Hello.decode(payload)
                    continue
                case Close():
                    continue
                case Ping() | Pong():
                    pass
            assert not self._quiet, "a session went on without an ACK"
        assert self._peer.error is None, self._peer.error
        assert self._peer.empty, "a frame was not finished"

    def reconnect(self, how: int, number: int, size: int) -> None:
        """
        Let the peer begin the next connection, and take the session over, or the last
        one be cut before.

        @param how: what is different now, a bit for each.
        @param number: says what the peer has.
        @param size: of the chunks.
        """
        if how & 1:
            self._supersede()
        former = self._goesOn()
        hello = Hello(
            maxMessage=50 if how & 2 else 400,
            batch=not how & 4,
            window=500,
            session=_OTHER,
            requests=not how & 128,
        )
        if former is not None and not how & 8:
            hello = replace(
                hello,
                session=former.session.name,
                received=former.some(number),
                partial=number * 3 if how & 32 else 0,
            )
        if self._isServer:
            if how & 64:  # what it says first is not taken
                hello = replace(hello, session=_OTHER, early=number)
            self._welcome(hello, former)
            return
        self._former = former
        self._connect(_Application(""))
        if not how & 16:
            self.receive(encodeFrame(FrameType.WELCOME, 7, hello.encode()), size)

    def _goesOn(self) -> _Application | None:
        """
        Find the session that can go on over the next connection, if there is one: the
        present one, or what the client had when it began to connect.
        """
        if not self.application.session.name:
            return self._former
        return None if self._over else self.application

    def _welcome(self, hello: Hello, former: _Application | None) -> None:
        """
        Let a client in.

        @param hello: what it says of itself.
        @param former: its session, if it has one.
        """
        resumed = former is not None and former.session.name == hello.session
        if former is not None and resumed:
            resumed = former.session.outbox.canResume(hello)
            assert resumed == former.canResume(hello), hello
        if former is None or not resumed:
            former = _Application(f"{next(self._names):032x}")
        self._connect(former)
        self.conversation.welcome(hello)
        if resumed:
            self._goOn(hello)

    def _goOn(self, hello: Hello) -> None:
        """
        Go on with a session.

        @param hello: what the peer says that it has.
        """
        self._position, self._quiet = hello.received, True
        self._peer.partial = self.application.part(hello)

    def _supersede(self) -> None:
        """Take the session away from a conversation: it is deaf and says one thing."""
        conversation = self.conversation
        conversation.supersede(self._now)
        said = FrameReader(10_000).receive(
            b"".join(conversation.takeFrames(7, 1 << 20))
        )
        assert all(isinstance(frame, Close) for frame in said), said
        assert len(said) <= 1, said
        checkOver(conversation)

    def step(self, script: Script, size: int) -> None:
        """
        Do one step.

        @param script: says which.
        @param size: of the chunks.
        """
        conversation = self.conversation
        match script.number() % _STEPS:
            case 0:
                self.receive(script.take(script.number()), size)
            case 1:
                kind = _KINDS[script.number() % len(_KINDS)]
                body = script.take(script.number())
                self.receive(encodeFrame(kind, script.number(), body), size)
            case 2:
                count, length = script.number() % 9 + 1, script.number() % 100
                batch = encodeBatch(7, [b"x" * length] * count, [length] * count)
                self.receive(b"".join(batch), size)
            case 3:
                ack = encodeAck(7, script.number(), script.number(2))
                self.receive(ack, size)
            case 4:
                hello = replace(_SETTINGS.hello(), session=_SESSION).encode()
                self.receive(encodeFrame(FrameType.WELCOME, 7, hello), size)
            case 5:
                self.receive(encodeClose(7, script.number(2), "bye"), size)
            case 6:
                self.send("t" * script.number())
            case 7:
                self.send(b"b" * script.number(2))
            case 8:
                self.application.take()
            case 9:
                self.pump(script.number() * 8)
            case 10:
                self._now += script.number()
                self.report(conversation.tick(self._now))
            case 11 if script.number() & 1:
                self._over = True
                conversation.close(self._now, 1000, "done")
            case 12:
                self.reconnect(script.number(), script.number(), size)
            case 13:
                if conversation.state is ConversationState.OPEN:
                    self.application.ask("?" * script.number())
            case 14:  # the peer ends a request, ours or its own
                number, how = script.number(), script.number()
                body = (
                    encodeAnswer(number, "answer"),
                    encodeAnswer(number, b"answer"),
                    encodeError(number, how, "error"),
                    encodeWithdrawal(number),
                )[how % 4]
                self.receive(encodeFrame(FrameType.RESPONSE, 7, body), size)
            case 15:  # it asks, among other messages
                number = script.number() % 9 + 1
                bodies = [b"text", *[encodeRequest("?")] * number, b"text"]
                ask = len(bodies[1]) | LENGTH_BITS[type(bodies[1])]
                lengths = [4, *[ask] * number, 4]
                self.receive(b"".join(encodeBatch(7, bodies, lengths)), size)
            case _:
                self.report(conversation.peerEnded(self._now))


def checkOver(conversation: Conversation) -> None:
    """
    Check that a conversation does nothing more.

    @param conversation: one that is over, and has said so.
    """
    assert conversation.receive(b"\0" * 99, 1e6) == []
    conversation.tick(1e9)
    assert conversation.tick(2e9) == []
    assert conversation.peerEnded(2e9) == []
    assert conversation.takeFrames(7, 1 << 20) == []


def run(data: bytes) -> None:
    """
    Run one session, with the peer's bytes cut up in two ways.

    @param data: the input.
    """
    found = []
    for cut in (True, False):
        script = Script(data)
        side = _Side(bool(script.number() & 1))
        size = script.number() or 1
        while script.more:
            side.step(script, size if cut else 1 << 20)
        side.pump(1 << 20)
        side.pump(1 << 20)
        if side.broken:
            checkOver(side.conversation)
        found.append((outline(side.events), side.output, side.conversation.state))
    assert found[0] == found[1], found


def seeds() -> Iterator[bytes]:
    """
    Make conversations: greeting, messages both ways, acknowledgements, heartbeat,
    both ways to close, sessions that go on or do not, and each frame out of place.
    """
    pump, take = b"\x09\x40", b"\x08"
    greeted = {0: b"\0\3\4" + pump, 1: b"\1\3" + pump}
    ack = b"\3\1\x20\0"
    for start in greeted.values():
        yield start
        yield (
            start + b"\6\5" + pump + ack + b"\x0b\1" + pump + b"\5\x03\xe8" + b"\x0b\0"
        )
        yield start + b"\1\0\3abc\7" + pump + take + pump + b"\5\x03\xe8" + pump
        yield start + b"\2\4\x20" + take + pump + b"\2\4\x20" + take + pump
        yield start + b"\x0a\x0b" + pump + b"\1\6\0\7" + b"\x0a\x0b" + b"\x0a\x0b"
        yield start + b"\7\x01\x20" * 6 + pump + b"\3\1\7\xff" + pump
        yield start + b"\x0b\0"
        yield start + b"\x0b\1" + pump + b"\x0b\0"
        sent = b"\6\5\7\x00\x30" + pump + b"\6\7" + pump
        for how in (0, 1, 2, 4, 8, 16, 32, 33):
            again = b"\x0c" + bytes([how])
            yield start + sent + again + b"\2" + pump + take + b"\2\2\1" + pump
            yield start + sent + ack + again + b"\1\1\1\3abc\7" + again + b"\0" + pump
        yield start + sent + b"\5\x03\xe9" + pump + b"\x0c\0\1" + pump
        large = b"\7\1\x20"  # number 1 is what the peer has, and three bytes of it
        yield (
            start + b"\6\5" + large + b"\7\0\x20" + pump * 9 + b"\x0c\x20\2" + pump * 9
        )
        # A message of the peer's comes in two parts, over two connections.
        cut = encodeFrame(FrameType.TEXT, 7, b"in two parts")[:18]
        rest = encodeFrame(FrameType.REST, 7, b" parts")
        yield (
            start
            + sent
            + bytes([0, len(cut)])
            + cut
            + b"\x0c\1\1"
            + pump
            + bytes([0, len(rest)])
            + rest
            + pump
        )
        yield start + b"\x0c\x10\0" * 3 + b"\4" + b"\x0c\0\0" + pump
        ask, answer, withdraw = b"\x0d\5", b"\x0e\0", b"\x0e\0\3"
        yield start + ask + pump + answer + b"\0" + take + pump + answer + b"\1"
        yield start + ask * 3 + pump + answer + b"\2" + b"\x0e\2\0" + take * 2 + pump
        yield start + answer + b"\0"
        yield start + b"\x0f\3" + withdraw + b"\x0e\1\3" + take * 3 + pump
        yield start + ask + pump + b"\x0c\0\1" + pump + answer + b"\1" + take + pump
        yield start + ask + pump + b"\x0c\x80\0" + pump
        yield start + ask * 2 + pump + b"\x0c\x20\1" + pump * 3
    for kind in range(len(FrameType)):
        for role in b"\0\1":
            yield bytes([role, 2, 1, kind, 2]) + b"{}\7"
            yield greeted[role] + bytes([1, kind, 16]) + bytes(16) + b"\7" + pump
