"""
The message layer of one connection, in either role, against a peer that says
anything at any time while our application does what it likes.

Input: one byte for the role; one for the size of chunks; then steps, each a byte
and what it needs: frames of the peer's, whole or not, our own messages, what our
application takes, time, closing.

Whatever happens: events are documented ones, C{Broken} comes last and once, and
nothing after it; what the application is handed stays within the window and one
message, what is kept for the peer within the send buffer, what is read within one
frame; acknowledgements never go back nor run ahead; all that we send is what a
reader of ours takes; and how the peer's bytes are cut up makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from aesm.core.conversation import (
    Conversation,
    ConversationState,
)
from aesm.core.frames import (
    MAX_BATCH,
    Ack,
    Close,
    FrameReader,
    FrameType,
    Messages,
    Ping,
    Pong,
    Welcome,
    encodeAck,
    encodeBatch,
    encodeClose,
    encodeFrame,
)
from aesm.core.hello import ConversationSettings, Hello
from aesm.core.reports import (
    Accepted,
    Acknowledged,
    Arrived,
    Broken,
    Event,
    PeerClosed,
)
from aesm.core.session import Session
from aesm.errors import (
    HeartbeatLost,
    MessageTooBig,
    ProtocolError,
    SendBufferFull,
)
from fuzz.script import Script, outline, pieces

__all__ = ["run", "seeds"]

_SETTINGS = ConversationSettings(
    maxMessage=300, heartbeat=10.0, sendBuffer=2000, receiveBuffer=1000, agent="fuzz"
)
_SESSION = "0" * 32
_STEPS = 12


class _Side:
    """
    A conversation with its application.

    @ivar conversation: the conversation.
    @ivar events: all that it has reported.
    @ivar output: all that it has said.
    """

    def __init__(self, isServer: bool) -> None:
        """
        @param isServer: its role.
        """
        session = Session(
            _SETTINGS.sendBuffer, _SETTINGS.receiveBuffer, _SESSION * isServer
        )
        self.conversation = Conversation(_SETTINGS, session, now=0.0)
        self.events: list[Event] = []
        self.output = b""
        self._now = 0.0
        self._waiting: list[Messages] = []  # not taken by our application
        self._sent = self._acked = 0
        self._peer = FrameReader(10_000)
        if isServer:
            hello = Hello(maxMessage=400, batch=True, window=500)
            self.conversation.welcome(hello)

    def report(self, events: list[Event]) -> None:
        """
        Check and keep what the conversation reports.

        @param events: what it reports.
        """
        for event in events:
            assert not any(isinstance(e, Broken) for e in self.events), self.events
            self.events.append(event)
            match event:
                case Arrived(messages):
                    self._waiting.append(messages)
                case Broken(error):
                    assert isinstance(error, ProtocolError | HeartbeatLost), error
                case Acknowledged(count):
                    assert self._acked <= count <= self._sent, event
                    self._acked = count
                case Accepted() | PeerClosed():
                    pass
        ahead = sum(m.cost for m in self._waiting)
        most = _SETTINGS.receiveBuffer + max(
            (m.lastCost for m in self._waiting), default=0
        )
        assert ahead <= most, (ahead, most)
        session = self.conversation.session
        assert session.outbox.kept <= _SETTINGS.sendBuffer
        reader = self.conversation._reader
        assert sum(map(len, reader._body)) + len(reader._start) < MAX_BATCH

    def receive(self, data: bytes, size: int) -> None:
        """
        Take what the peer says.

        @param data: any bytes.
        @param size: of the chunks.
        """
        for chunk in pieces(data, (size,)):
            self.report(self.conversation.receive(chunk, self._now))

    def send(self, data: str | bytes) -> None:
        """
        Send a message, if that can be done now.

        @param data: the message.
        """
        if self.conversation.state is ConversationState.OPEN:
            with suppress(MessageTooBig, SendBufferFull):
                self.conversation.session.outbox.add(data, 7)

    def take(self) -> None:
        """
        Let the application take the oldest messages.
        """
        if self._waiting:
            messages = self._waiting.pop(0)
            self.conversation.session.inbox.keep(len(messages.data))
            self.conversation.session.inbox.take(messages.cost)

    def pump(self, budget: int) -> None:
        """
        Let the conversation speak, and read what it says.

        @param budget: of the messages.
        """
        self.conversation.session.outbox.endTurn()
        output = self.conversation.takeOutput(7, budget)
        self.output += output
        inbox = self.conversation.session.inbox
        for frame in self._peer.receive(output):
            match frame:
                case Messages(data=data):
                    self._sent += len(data)
                case Ack(count):
                    assert count <= inbox.received, frame
                case Welcome(payload):
                    Hello.decode(payload)
                case Ping() | Pong() | Close():
                    pass
        assert self._peer.error is None, self._peer.error
        assert self._peer.empty, "a frame was not finished"

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
                kind = FrameType((*FrameType,)[script.number() % len(FrameType)])
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
                hello = _SETTINGS.hello(_SESSION).encode()
                self.receive(encodeFrame(FrameType.WELCOME, 7, hello), size)
            case 5:
                self.receive(encodeClose(7, script.number(2), "bye"), size)
            case 6:
                self.send("t" * script.number())
            case 7:
                self.send(b"b" * script.number(2))
            case 8:
                self.take()
            case 9:
                self.pump(script.number() * 8)
            case 10:
                self._now += script.number()
                self.report(conversation.tick(self._now))
            case 11 if script.number() & 1:
                conversation.close(1000, "done")
            case _:
                self.report(conversation.peerEnded())


def run(data: bytes) -> None:
    """
    Run one conversation, with the peer's bytes cut up in two ways.

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
        broken = any(isinstance(event, Broken) for event in side.events)
        side.pump(1 << 20)
        if broken:
            assert side.conversation.receive(b"\0" * 99, 1e6) == []
            assert side.conversation.tick(1e9) == []
            assert side.conversation.peerEnded() == []
            assert side.conversation.takeOutput(7, 1 << 20) == b""
        found.append((outline(side.events), side.output, side.conversation.state))
    assert found[0] == found[1], found


def seeds() -> Iterator[bytes]:
    """
    Make conversations: greeting, messages both ways, acknowledgements, heartbeat,
    both ways to close, and each frame out of place.
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
    for kind in range(len(FrameType)):
        for role in b"\0\1":
            yield bytes([role, 2, 1, kind, 2]) + b"{}\7"
            yield greeted[role] + bytes([1, kind, 16]) + bytes(16) + b"\7" + pump
