"""
The message layer of one connection, docs/protocol.md, sections 6 to 9, without I/O:
WELCOME, messages, acknowledgements, heartbeat, close::

    conversation = Conversation(settings, Session(...), now=clock.seconds())
    conversation.welcome(Hello.decode(payload))      # at the server
    for event in conversation.receive(data, now):    # Messages, Acknowledged, ...
        ...
    conversation.session.outbox.add("text", micros)
    for frames in conversation.takeFrames(micros, budget):
        transport.write(frames)

Control frames that nobody reads never pile up: one ACK, one PING and one PONG
can be due, and each is made only when C{takeFrames} has a place for it.
"""

from __future__ import annotations

from aesm.core.messages.batch import encodeMessage
from aesm.core.messages.events import Accepted, Acknowledged, Broken, Event, PeerClosed
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import (
    ACK_FRAME_SIZE,
    HEADER_SIZE,
    MESSAGE_OVERHEAD,
    Ack,
    Close,
    Frame,
    FrameType,
    Messages,
    Ping,
    Welcome,
    encodeAck,
    encodeClose,
    encodeFrame,
    packExchange,
    unpackAck,
    unpackHeader,
)
from aesm.core.messages.hello import ConversationSettings, Hello
from aesm.core.messages.session import Session
from aesm.core.messages.states import CONVERSATION_TRANSITIONS, ConversationState
from aesm.errors import AESMError, CloseCode, HeartbeatLost, ProtocolError

__all__ = ["Conversation"]

CHATTER = 100  # frames that carry nothing, to be tolerated in advance
MAX_CHATTER_RATE = 20.0  # of them a second
PATIENT_CODES = (
    CloseCode.NORMAL,
    CloseCode.GOING_AWAY,
)  # with which a peer that takes nothing is waited for

_new = tuple.__new__  # makes a NamedTuple without a call of Python's
_BINARY, _TEXT = int(FrameType.BINARY), int(FrameType.TEXT)
_ACK_START = encodeAck(0, 0, 0)[:5]  # length and type

_State = ConversationState
_GREETING, _OPEN = _State.GREETING, _State.OPEN
_LISTENING = frozenset(
    {_State.GREETING, _State.OPEN, _State.CLOSING, _State.CLOSE_SENT}
)
_TALKING = frozenset({_State.OPEN, _State.CLOSING, _State.PEER_CLOSED})
_ENDED = frozenset({_State.CLOSE_SENT, _State.CLOSED, _State.BROKEN})
_OVER = frozenset({_State.BREAKING, _State.BROKEN})


class Conversation:
    """
    One connection's messages.

    @ivar state: where we are.
    @ivar session: what counts the messages.
    """

    __slots__ = (
        "_close",
        "_former",
        "_heard",
        "_patience",
        "_ping",
        "_pinged",
        "_pong",
        "_reader",
        "_settings",
        "_tolerated",
        "_welcome",
        "session",
        "state",
    )

    def __init__(
        self,
        settings: ConversationSettings,
        session: Session,
        now: float,
        former: Session | None = None,
    ) -> None:
        """
        Start before hello or WELCOME.

        @param settings: what our side brings along.
        @param session: what counts the messages.
        @param now: seconds, of any clock that never goes back.
        @param former: a client's session that takes its place if the server still
            has it; it is named in our hello.
        """
        self._settings = settings
        self.session = session
        self._former = former
        self.state = _State.GREETING
        self._reader = FrameReader(settings.maxMessage)
        self._welcome = b""
        self._close: tuple[int, str] = (CloseCode.NORMAL, "")
        self._pong: bytes | None = None
        self._ping = False  # whether one is to be sent
        self._heard = self._tolerated = now
        self._patience: float = CHATTER
        self._pinged: float | None = None  # when the PING without answer was due

    def _move(self, what: str) -> None:
        """
        Go where the table says.

        @param what: what happened.
        """
        self.state = CONVERSATION_TRANSITIONS[self.state, what]

    # Receiving

    def welcome(self, hello: Hello) -> None:
        """
        Let a client in, on the server's side.  The session goes on if it is the
        one that the client names.

        @param hello: what the client says of itself.
        @raise ProtocolError: it says of the session what cannot be.
        @raise RuntimeError: it is in already.
        """
        if self.state is not _State.GREETING:
            raise RuntimeError(f"no WELCOME: the connection is {self.state.value}")
        session = self.session
        if hello.session and hello.session == session.name:
            session.resume(hello)
        else:
            session.outbox.begin(hello)
        self._move("greeted")
        said = self._settings.hello(session.name, session.inbox.received)
        self._welcome = said.encode()

    def exchange(self, data: bytes, now: float) -> Messages | None:
        """
        Take what a dialogue consists of: one message, behind the ACK of what it
        answers.  Half of what C{receive} does is to be ready for more.

        @param data: any length.
        @param now: seconds.
        @return: the message; None if the bytes are anything else or anything is
            wrong with them: then nothing has changed, and they are for C{receive}.
        """
        reader, session = self._reader, self.session
        start, ack = 0, None
        if data[:5] == _ACK_START and len(data) >= ACK_FRAME_SIZE + HEADER_SIZE:
            start, ack = ACK_FRAME_SIZE, unpackAck(data, HEADER_SIZE)
        elif len(data) < HEADER_SIZE:
            return None
        size, kind, micros = unpackHeader(data, start)
        start += HEADER_SIZE
        inbox = session.inbox
        if (
            start + size != len(data)
            or size > reader.maxMessage
            or reader.missing
            or reader.start
            or inbox.receivedCost >= inbox.limit
            or self.state is not _OPEN
        ):
            return None
        message: str | bytes = data[start:]
        if kind != _BINARY:
            if kind != _TEXT or not message.isascii():
                return None
            message = str(data[start:], "ascii")
        if ack is not None and not session.outbox.settle(*ack):
            return None
        self._heard, self._pinged = now, None
        cost = size + MESSAGE_OVERHEAD
        inbox.receivedCost += cost
        inbox.received += 1
        return _new(Messages, (micros, (message,), cost, cost))

    def receive(self, data: bytes, now: float) -> list[Event]:
        """
        Take bytes of the stream.

        @param data: any length; any chunking gives the same events.
        @param now: seconds.
        @return: what they caused, in order; L{Broken} can only be the last.
        """
        self._heard, self._pinged = now, None
        events: list[Event] = []
        if self.state in _OVER:
            return events
        reader = self._reader
        late = self.state not in _LISTENING and bool(data)
        try:
            if not late:
                session = self.session
                for frame in reader.receive(data):
                    if self.state is _GREETING:
                        self._takeGreeting(frame, events)
                        session = self.session
                    elif type(frame) is Messages:
                        session.inbox.receive(frame)
                        events.append(frame)
                    elif type(frame) is Ack:
                        if session.outbox.acknowledge(frame):
                            self._tolerate()
                        events.append(_new(Acknowledged, (frame.count,)))
                    else:
                        self._takeOther(frame, events)
                if reader.error is not None:
                    raise reader.error
                late = self.state not in _LISTENING and not reader.empty
            if late:
                raise ProtocolError("bytes after a CLOSE")
        except ProtocolError as error:
            self._break(error, events)
        return events

    def peerEnded(self) -> list[Event]:
        """
        The peer ended the stream, authenticated.

        @return: L{PeerClosed}, unless a CLOSE said so before; L{Broken} if it
            ended within a frame.
        """
        events: list[Event] = []
        if self.state not in _LISTENING:
            return events
        if self._reader.empty:
            self._peerClosed(CloseCode.NO_CODE, "", events)
        else:
            self._break(ProtocolError("the stream ended within a frame"), events)
        return events

    def _takeGreeting(self, frame: Frame, events: list[Event]) -> None:
        """
        Act on a client's first frame.

        @param frame: what came.
        @param events: where to add what it caused.
        @raise ProtocolError: it is no WELCOME, nor a CLOSE.
        """
        match frame:
            case Close(code, reason):
                self._peerClosed(code, reason, events)
            case Welcome(payload):
                hello = Hello.decode(payload)
                self._move("greeted")  # a session that cannot be is closed
                events.append(Accepted(hello, self._begin(hello)))
            case _:
                raise ProtocolError(f"{type(frame).__name__} before the WELCOME")

    def _takeOther(self, frame: Frame, events: list[Event]) -> None:
        """
        Act on a frame that is not met often.

        @param frame: what came.
        @param events: where to add what it caused.
        @raise ProtocolError: it is against the rules here and now.
        """
        match frame:
            case Close(code, reason):
                self._peerClosed(code, reason, events)
            case Welcome():
                raise ProtocolError("a WELCOME where none belongs")
            case Ping(body):
                self._tolerate()
                self._pong = body
            case _:  # a PONG
                self._tolerate()

    def _tolerate(self) -> None:
        """
        Put up with a frame that carries nothing, as often as there is reason for
        one: at twice the rate of the heartbeats, and some in advance.

        @raise ProtocolError: there are too many.
        """
        theirs = min(MAX_CHATTER_RATE, 2 / self.session.outbox.peer.heartbeat)
        rate = max(1.0, theirs, 2 / self._settings.heartbeat)
        passed = self._heard - self._tolerated
        self._patience = min(CHATTER, self._patience + passed * rate) - 1
        self._tolerated = self._heard
        if self._patience < 0:
            raise ProtocolError("a flood of frames that carry nothing")

    def _begin(self, hello: Hello) -> bool:
        """
        Begin to talk to a server that has let us in.

        @param hello: what it says of itself.
        @return: whether the former session goes on.
        @raise ProtocolError: it says of the session what cannot be.
        """
        former, self._former = self._former, None
        if former is not None and former.name == hello.session:
            former.resume(hello)
            self.session = former
            return True
        self.session.name = hello.session
        self.session.outbox.begin(hello)
        return False

    def _peerClosed(self, code: int, reason: str, events: list[Event]) -> None:
        """
        Take note that the peer closes.

        @param code: docs/protocol.md, section 9.
        @param reason: the peer's words.
        @param events: where to add it.
        """
        self._move("peerClosed")
        events.append(PeerClosed(code, reason))

    def _break(self, error: AESMError, events: list[Event]) -> None:
        """
        End for good.

        @param error: why.
        @param events: where to add L{Broken}.
        """
        if isinstance(error, ProtocolError) and self.state in _TALKING:
            self.state = _State.BREAKING
            self._close = (error.code, "protocol error")
        else:
            self.state = _State.BROKEN
        self._reader = FrameReader(0)
        error.__traceback__ = error.__context__ = None  # their frames hold data
        events.append(Broken(error))

    # Sending

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """
        Close in order: accept no more messages, and say so to the peer once
        those that were accepted are sent.  Of an open conversation only: one
        that is closing already has nothing left to do, and before WELCOME
        there is nothing that may be said.

        @param code: docs/protocol.md, section 9.
        @param reason: words for the peer.
        """
        if self.state is _State.OPEN:
            self._close = (code, reason)
            self._move("closing")

    def supersede(self) -> None:
        """
        Leave the session to a newer connection: say so to the peer, and no more.
        """
        if self.state in _TALKING:
            self.state = _State.BREAKING
            self._close = (CloseCode.TAKEN_OVER, "taken over by a newer connection")
        elif self.state not in _OVER:
            self.state = _State.BROKEN
        self._reader = FrameReader(0)

    @property
    def ended(self) -> bool:
        """
        Whether our last byte is out: the stream is to be ended.
        """
        return self.state in _ENDED

    @property
    def sendable(self) -> bool:
        """
        Whether there are messages that the peer takes now.
        """
        return self.state in _TALKING and self.session.outbox.sendable

    def answer(self, micros: int, budget: int) -> bytes:
        """
        Hand over what a dialogue consists of: one message, behind the ACK of what it
        answers, and nothing else is to be sent.

        @param micros: now, microseconds since the Unix epoch.
        @param budget: as C{takeFrames}.
        @return: what C{takeFrames} would; C{b""} if there is anything else to be
            written: then nothing has changed.
        """
        if (
            self.state is not _OPEN
            or self._pong is not None
            or self._ping
            or self._welcome
        ):
            return b""
        batch = self.session.outbox.takeOne(budget)
        if batch is None:
            return b""
        ack = self.session.inbox.takeAck()
        body = batch.bodies[0]
        if ack is not None and type(body) is bytes:  # in one step, as nearly always
            return packExchange(micros, *ack, len(body), _BINARY, batch.micros) + body
        message = encodeMessage(batch.micros, body)
        return message if ack is None else encodeAck(micros, *ack) + message

    def takeFrames(self, micros: int, budget: int) -> list[bytes]:
        """
        Hand over what is to be written.

        @param micros: now, microseconds since the Unix epoch.
        @param budget: bytes of messages at the most, give or take the last one.
        @return: pieces of whole frames, often none.
        """
        state = self.state
        if state is _State.BREAKING:
            self._move("closeSent")
            return [encodeClose(micros, *self._close)]
        session = self.session
        pieces: list[bytes] = []
        if state in _TALKING:
            if self._welcome:
                pieces.append(encodeFrame(FrameType.WELCOME, micros, self._welcome))
                self._welcome = b""
            ack = session.inbox.takeAck()
            if ack is not None:
                pieces.append(encodeAck(micros, *ack))
            if self._pong is not None:
                pieces.append(encodeFrame(FrameType.PONG, micros, self._pong))
                self._pong = None
            if self._ping:
                pieces.append(encodeFrame(FrameType.PING, micros))
                self._ping = False
            control = [b"".join(pieces)] if pieces else []
            pieces = control + session.outbox.take(budget)
        if state is not _OPEN and self._closeDue():
            pieces.append(encodeClose(micros, *self._close))
            self._move("closeSent")
        return pieces

    def _closeDue(self) -> bool:
        """
        Tell whether it is time for our CLOSE: what we accepted is sent, or as
        much of it as the peer takes if we close because of the peer; and if the
        peer is waiting for us, it knows what we have of its messages.

        @return: whether it is.
        """
        outbox, inbox = self.session.outbox, self.session.inbox
        if self.state is _State.CLOSING:
            patient = self._close[0] in PATIENT_CODES
            return not (outbox.unsent if patient else outbox.sendable)
        return (
            self.state is _State.PEER_CLOSED
            and inbox.keptCount == inbox.received
            and not outbox.sendable
        )

    # Heartbeat

    @property
    def nextTick(self) -> float:
        """
        When C{tick} is to be called, seconds, if nothing comes until then.
        """
        since = self._heard if self._pinged is None else self._pinged
        return since + self._settings.heartbeat

    def tick(self, now: float) -> list[Event]:
        """
        Look whether the peer is alive.

        @param now: seconds.
        @return: L{Broken}, if it is not: it had a PING and a heartbeat's time
            to answer it.
        @see: docs/protocol.md, section 8
        """
        events: list[Event] = []
        if now < self.nextTick or self.state not in _LISTENING:
            return events
        if self._pinged is None:
            self._pinged = now
            self._ping = True
        else:
            silent = now - self._heard
            self._break(
                HeartbeatLost(f"nothing came from the peer for {silent:.1f} seconds"),
                events,
            )
        return events
