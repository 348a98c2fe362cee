"""
The message layer of one connection, sections 6 to 9 of docs/protocol.md, without I/O:
WELCOME, messages, acknowledgements, heartbeat, close::

    conversation = Conversation(settings, clock.seconds(), session)
    conversation.welcome(Hello.decode(payload))      # at the server
    for event in conversation.receive(data, now):    # Messages, Acknowledged, ...
        ...
    conversation.session.outbox.add("text", micros)
    for frames in conversation.takeFrames(micros, budget):
        transport.write(frames)
    ...
    conversation.tick(now)                           # at conversation.deadline

A dialogue takes a shorter way, L{aesm.core.messages.dialogue}.

Control frames that nobody reads never pile up: one ACK, one PING and one PONG
can be due, and each is made only when C{takeFrames} has a place for it.

Time comes in as an argument, in seconds of any clock that never goes back; what must
happen without the peer's doing has one C{deadline}:

  - while the connection closes, the end of the peer's time to let it close;
  - else the next look at the peer (a PING after C{heartbeat} seconds of silence, the
    end after twice that), a sign of life that we owe to a peer of which we hear and to
    which we had nothing to say, or an ACK that has waited for more to be read.
"""

from __future__ import annotations

import math
from typing import Final, cast

from aesm.core.messages.events import Accepted, Acknowledged, Broken, Event, PeerClosed
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import (
    Ack,
    Close,
    Frame,
    FrameType,
    Messages,
    Ping,
    Pong,
    Requests,
    Responses,
    Welcome,
    encodeAck,
    encodeClose,
    encodeFrame,
    newTuple,
)
from aesm.core.messages.heartbeat import PING_BODY, Patience, RoundTrip, longestSilence
from aesm.core.messages.hello import ConversationSettings, Hello
from aesm.core.messages.session import Session
from aesm.core.messages.states import CONVERSATION_TRANSITIONS, ConversationState
from aesm.errors import AESMError, CloseCode, HeartbeatLost, ProtocolError, notAnswered

# All is sent before these.
PATIENT_CODES: Final = (CloseCode.NORMAL, CloseCode.GOING_AWAY)
# Seconds, docs/protocol.md, section 9; the channel's is its own.
CLOSE_TIMEOUT: Final = 5.0
SLOW_CLOSE_TIMEOUT: Final = 30.0  # the same for who is closed because it does not read
SUPERSEDED: Final = (CloseCode.TAKEN_OVER, "taken over by a newer connection", 0)
ACK_DELAY: Final = 0.001  # seconds that an ACK waits while there is more to be read

CALLS: Final = (Requests, Responses)
_NOTHING_SAID: Final[tuple[int, str, int]] = (CloseCode.NORMAL, "", 0)

_State = ConversationState
_GREETING: Final = _State.GREETING
_OPEN: Final = _State.OPEN
_LISTENING: Final = frozenset(
    {_State.GREETING, _State.OPEN, _State.CLOSING, _State.CLOSE_SENT}
)
_TALKING: Final = frozenset({_State.OPEN, _State.CLOSING, _State.PEER_CLOSED})
_ENDED: Final = frozenset({_State.CLOSE_SENT, _State.CLOSED, _State.BROKEN})
_OVER: Final = frozenset({_State.BREAKING, _State.BROKEN})


class Conversation:
    """
    One connection's messages.

    @ivar state: where we are.
    @ivar session: what counts the messages; a client without a session to go on with
        has none before the WELCOME.
    @ivar controlDue: whether a WELCOME, PING or PONG is to be sent.
    @ivar heardSince: when anything came first after we last said something, or None.
    @ivar lastHeard: when anything last came, seconds.
    @ivar pingedAt: when a PING was due that nothing has come after, or None.
    @ivar roundTrip: how long our PINGs take.
    @ivar reader: cuts the stream into frames.
    @ivar signOfLifeBy: when a peer that is not done sending must have heard of us, or
        None.
    """

    __slots__ = (
        "_ackBy",
        "_close",
        "_closeBy",
        "_patience",
        "_ping",
        "_pong",
        "_settings",
        "_stuck",
        "_welcome",
        "controlDue",
        "heardSince",
        "lastHeard",
        "pingedAt",
        "reader",
        "roundTrip",
        "session",
        "signOfLifeBy",
        "state",
    )

    session: Session

    def __init__(
        self, settings: ConversationSettings, now: float, session: Session | None = None
    ) -> None:
        """
        Start before hello or WELCOME.

        @param settings: what our side brings along.
        @param now: seconds.
        @param session: at a server, what counts the messages; at a client, the session
            that our hello names, which goes on if the server still has it.
        """
        self._settings = settings
        self.state = _GREETING
        self.reader = FrameReader(settings.maxMessage)
        if session is not None:
            self.session = session
            self.reader.partial = session.inbox.partial
        self._welcome = b""
        self._close = _NOTHING_SAID
        self._pong: bytes | None = None
        self._ping = False
        self.roundTrip = RoundTrip()
        self.controlDue = False
        self.lastHeard = now
        self._patience = Patience()
        self.pingedAt: float | None = None
        self.heardSince: float | None = None
        self.signOfLifeBy: float | None = None
        self._stuck: tuple[int, float] | None = None  # what it had taken, and when
        self._ackBy: float | None = None  # when a late ACK is to leave
        self._closeBy: float | None = None  # when the transport is to be gone

    def _move(self, what: str) -> None:
        """Go where the table says."""
        self.state = CONVERSATION_TRANSITIONS[self.state, what]

    # Receiving

    def welcome(self, hello: Hello) -> None:
        """
        Let a client in, on the server's side.  The session goes on, or begins with
        the client's early messages, if it is the one that the client names.

        @raise ProtocolError: the client says of the session what cannot be.
        @raise RuntimeError: it is in already.
        """
        if self.state is not _GREETING:
            raise RuntimeError(f"no WELCOME: the connection is {self.state.value}")
        session, early = self.session, hello.early
        if hello.session and hello.session == session.name:
            session.resume(hello)
        else:
            session.outbox.begin(hello)
            self.reader.skip(early)
            early = 0
        self._move("greeted")
        self._welcome = self._settings.hello(session, early).encode()
        self.controlDue = True

    def receive(self, data: bytes, now: float) -> list[Event]:
        """
        Take bytes of the stream.

        @param data: any length; any chunking gives the same events.
        @param now: seconds.
        @return: what they caused, in order; L{Broken} can only be the last.
        """
        self.lastHeard, self.pingedAt = now, None
        if self.heardSince is None:
            self.heardSince = now
        events: list[Event] = []
        if self.state in _OVER:
            return events
        reader = self.reader
        late = self.state not in _LISTENING and bool(data)
        try:
            if not late:
                for frame in reader.receive(data):
                    if self.state is _GREETING:
                        self._takeGreeting(frame, events)
                    elif type(frame) is Messages:
                        inbox = self.session.inbox
                        inbox.receive(frame)
                        if inbox.partial is not None:
                            inbox.partial = reader.partial = None
                        events.append(frame)
                    elif type(frame) is Ack:
                        outbox = self.session.outbox
                        if outbox.acknowledge(frame):
                            theirs = outbox.peer.heartbeat
                            self._patience.spend(now, self._settings.heartbeat, theirs)
                        events.append(newTuple(Acknowledged, (frame.count,)))
                    elif type(frame) in CALLS:
                        events.append(self.session.takeCalls(cast(Messages, frame)))
                        reader.partial = None
                    else:
                        self._takeOther(frame, events)
                if reader.error is not None:
                    raise reader.error
                late = self.state not in _LISTENING and not reader.empty
            if late:
                raise ProtocolError("bytes after a CLOSE")
        except ProtocolError as error:
            self._break(error, now, events)
        return events

    def peerEnded(self, now: float) -> list[Event]:
        """
        The peer ended the stream, authenticated.

        @return: L{PeerClosed}, unless a CLOSE said so before; L{Broken} if it
            ended within a frame.
        """
        events: list[Event] = []
        if self.state not in _LISTENING:
            return events
        self.lastHeard = now
        if self.reader.empty:
            self._peerClosed(CloseCode.NO_CODE, "", events)
        else:
            self._break(ProtocolError("the stream ended within a frame"), now, events)
        return events

    def _takeGreeting(self, frame: Frame, events: list[Event]) -> None:
        """Act on a client's first frame: a WELCOME, or a CLOSE."""
        match frame:
            case Close(code, reason, after):
                self._peerClosed(code, reason, events, after)
            case Welcome(payload):
                hello = Hello.decode(payload)
                # Before the session is looked at: one that cannot be is told so.
                self._move("greeted")
                events.append(Accepted(hello, self._begin(hello)))
            case _:
                raise ProtocolError(f"{type(frame).__name__} before the WELCOME")

    def _takeOther(self, frame: Frame, events: list[Event]) -> None:
        """Act on a frame that is not met often."""
        match frame:
            case Close(code, reason, after):
                self._peerClosed(code, reason, events, after)
            case Welcome():
                raise ProtocolError("a WELCOME where none belongs")
            case Ping(body) | Pong(body):  # pragma: no branch
                now, outbox = self.lastHeard, self.session.outbox
                theirs = outbox.peer.heartbeat
                self._patience.spend(now, self._settings.heartbeat, theirs)
                if isinstance(frame, Pong):
                    self.roundTrip.answered(body, now, outbox.traffic)
                else:
                    self._pong = body
                    self.controlDue = True

    def _begin(self, hello: Hello) -> bool:
        """Begin to talk to a server, and tell whether our hello's session goes on."""
        session = getattr(self, "session", None)
        if session is not None and hello.session and session.name == hello.session:
            session.resume(hello)
            return True
        self.reader.partial = None
        mine = self._settings
        self.session = Session(mine.sendBuffer, mine.receiveBuffer, hello.session)
        self.session.outbox.begin(hello)
        return False

    def _peerClosed(
        self, code: int, reason: str, events: list[Event], after: int = 0
    ) -> None:
        """Take note that the peer closes."""
        self._move("peerClosed")
        self._closing(self.lastHeard)
        events.append(PeerClosed(code, reason, after))

    def _break(self, error: AESMError, now: float, events: list[Event]) -> None:
        """End for good, and add L{Broken} to the events."""
        if isinstance(error, ProtocolError) and self.state in _TALKING:
            self._move("breaking")
            self._close = (error.code, "protocol error", 0)
            self._closing(now)
        else:
            self._move("broken")
        self._stash()
        error.__traceback__ = error.__context__ = None  # their frames hold data
        events.append(Broken(error))

    # Sending

    def close(
        self, now: float, code: int = CloseCode.NORMAL, reason: str = "", after: int = 0
    ) -> None:
        """
        Close in order: accept no more messages, and say so to the peer once
        those that were accepted are sent.  Of an open conversation only: one
        that is closing already has nothing left to do, and before WELCOME
        there is nothing that may be said.
        """
        if self.state is _OPEN:
            self._close = (code, reason, after)
            self._move("closing")
            self._closing(now)

    def supersede(self, now: float, close: tuple[int, str, int] = SUPERSEDED) -> None:
        """
        Leave the session to a newer connection: say so to the peer, and no more.

        @param close: code, reason and C{after} of the CLOSE.
        """
        if self.state in _TALKING:
            self._move("breaking")
            self._close = close
        elif self.state not in _OVER:
            self._move("broken")
        self._stash()
        self._closing(now)

    def transportLost(self) -> None:
        """The transport is gone; the session may go on over another."""
        if self.state not in _OVER:
            self._stash()

    def _stash(self) -> None:
        """Read nothing more; the beginning of a message is the session's."""
        partial = self.reader.cut()
        session = getattr(self, "session", None)
        if session is not None:
            session.inbox.partial, session.inbox.held = partial, 0

    def _closing(self, now: float) -> None:
        """Give the peer its time to let the connection close, counted once."""
        if self._closeBy is None:
            self._closeBy = now + self._closeTimeout

    @property
    def _closeTimeout(self) -> float:
        """How long the peer may take to let the connection close, seconds."""
        slow = self._close[0] == CloseCode.SLOW_CONSUMER
        return SLOW_CLOSE_TIMEOUT if slow else CLOSE_TIMEOUT

    @property
    def ended(self) -> bool:
        """Whether our last byte is out: the stream is to be ended."""
        return self.state in _ENDED

    @property
    def sendable(self) -> bool:
        """Whether there are messages that the peer takes now."""
        return self.state in _TALKING and self.session.outbox.sendable

    def mayWait(self, now: float) -> bool:
        """
        Tell whether all that is due is an ACK that can wait for what is still to be
        read: one for each read would be an eighth of what a stream costs.  It leaves
        with the next frames, at the latest at the deadline.
        """
        session = self.session
        if (
            self.state is not _OPEN
            or session.outbox.open is not None
            or not session.inbox.roomy
        ):
            return False
        if self._ackBy is None:
            self._ackBy = now + ACK_DELAY
        return True

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
        pieces: list[bytes] = []
        if state in _TALKING:
            session = self.session
            if self.controlDue and self._welcome:
                pieces.append(encodeFrame(FrameType.WELCOME, micros, self._welcome))
            ack = session.inbox.takeAck()
            if ack is not None:
                pieces.append(encodeAck(micros, *ack))
            if self.controlDue:
                self._takeControl(micros, pieces)
            control = [b"".join(pieces)] if pieces else []
            pieces = control + session.outbox.take(budget)
            self._ackBy = self.signOfLifeBy = None
            inbox, reader = session.inbox, self.reader
            if pieces:
                self.heardSince = None
            elif self.heardSince is not None and (
                reader.missing or reader.start or inbox.keptCount < inbox.received
            ):
                # The peer's PING would queue behind what it sends, and what came may
                # not be handled for long: tell it in time that we are here.
                theirs = session.outbox.peer.heartbeat
                silence = longestSilence(self._settings.heartbeat, theirs)
                self.signOfLifeBy = self.heardSince + silence
        if state is not _OPEN and self._closeDue():
            pieces.append(encodeClose(micros, *self._close))
            self._move("closeSent")
        return pieces

    def _takeControl(self, micros: int, pieces: list[bytes]) -> None:
        """Add the PONG and the PING that are due."""
        if self._pong is not None:
            pieces.append(encodeFrame(FrameType.PONG, micros, self._pong))
        if self._ping:
            pieces.append(encodeFrame(FrameType.PING, micros, PING_BODY))
            self.roundTrip.begin(self.pingedAt)
        self._welcome, self._pong, self._ping = b"", None, False
        self.controlDue = False

    def _closeDue(self) -> bool:
        """
        Tell whether it is time for our CLOSE: what we accepted is sent, or as
        much of it as the peer takes if we close because of the peer; and if the
        peer is waiting for us, it knows what we have of its messages.
        """
        if self.state is _State.CLOSING:
            outbox = self.session.outbox
            patient = self._close[0] in PATIENT_CODES
            return not (outbox.unsent if patient else outbox.leaving)
        if self.state is not _State.PEER_CLOSED:
            return False
        outbox, inbox = self.session.outbox, self.session.inbox
        return inbox.keptCount == inbox.received and not outbox.leaving

    # Time

    @property
    def deadline(self) -> float:
        """When C{tick} is to be called, seconds, if nothing comes until then."""
        if self._closeBy is not None:  # no other reason is left to look at the peer
            return self._closeBy
        if self.state not in _LISTENING:
            return math.inf
        due = self.lastHeard if self.pingedAt is None else self.pingedAt
        due += self._settings.heartbeat
        due = min(due, self._owedBy)
        return due if self._ackBy is None else min(due, self._ackBy)

    @property
    def _owedBy(self) -> float:
        """When the peer must have heard of us, seconds."""
        if self.signOfLifeBy is not None:
            return self.signOfLifeBy
        if self.heardSince is not None:
            return self.heardSince + self._settings.heartbeat
        return math.inf

    def tick(
        self, now: float, taken: float = -math.inf, takenSoFar: int | None = None
    ) -> list[Event]:
        """
        See what is due.

        @param now: seconds.
        @param taken: when the transport last took bytes that had waited for it: who
            takes them is alive, however long an answer needs.
        @param takenSoFar: of the bytes that wait for the peer, how far it has got; None
            if none wait, or that is not known.
        @return: L{Broken}, if the peer is gone: it had a PING and a heartbeat's time
            to answer it, or its time to let the connection close; or it has taken
            nothing for so long, whatever it sends.
        @see: docs/protocol.md, sections 8 and 9
        """
        events: list[Event] = []
        if self._closeBy is not None:
            self._closeBy = max(self._closeBy, taken + self._closeTimeout)
            if now >= self._closeBy:
                self._closeBy = math.inf
                reason = notAnswered(*self._close[:2], self._closeTimeout)
                self._break(reason, now, events)
            return events
        if self.state not in _LISTENING:
            return events
        if taken > self.lastHeard:
            self.lastHeard, self.pingedAt = taken, None
        if self._ackBy is not None and now >= self._ackBy:
            self._ackBy = None
        since = self.lastHeard if self.pingedAt is None else self.pingedAt
        if self._takesNothing(now, takenSoFar):
            held = f"the peer takes nothing, for {2 * self._settings.heartbeat:g}"
            self._break(HeartbeatLost(f"{held} seconds"), now, events)
        elif now >= since + self._settings.heartbeat:
            if self.pingedAt is None:
                self.pingedAt = now
                self.heardSince = self.signOfLifeBy = None
                self._ping = self.controlDue = True
            else:
                silent = f"nothing came from the peer for {now - self.lastHeard:.1f}"
                self._break(HeartbeatLost(f"{silent} seconds"), now, events)
        elif now >= self._owedBy:
            self.heardSince = self.signOfLifeBy = None
            if self.state is not _GREETING:  # in which nothing may be said
                self._pong = b"" if self._pong is None else self._pong
                self.controlDue = True
        return events

    def _takesNothing(self, now: float, taken: int | None) -> bool:
        """Tell whether the peer takes nothing, for two heartbeats."""
        if self._stuck is None or self._stuck[0] != taken:
            self._stuck = None if taken is None else (taken, now)
        stuck = self._stuck
        return stuck is not None and now >= stuck[1] + 2 * self._settings.heartbeat
