"""
Sessions that are cut and resumed at will, L{aesm.core.messages.session} and
L{aesm.core.messages.conversation}, PROTOCOL sections 7 and 8: a client and a server,
whose applications do as they like, on a network that does its worst.

What is here of L{aesm.messages.protocol}, L{aesm.messages.connection},
L{aesm.store.connection}, L{aesm.server.manager} and L{aesm.client.connect} is what
moves messages.  The tests run the same schedules each time. To search further, with
others each time::

    AESM_MODEL_EXAMPLES=3000 python -m twisted.trial tests.model.test_sessions

runs so many schedules of twice the length.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.batch import Batch
from aesm.core.messages.conversation import Conversation
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
    Ack,
    EncodedRequest,
    EncodedResponse,
    FrameType,
    Messages,
    Partial,
    Welcome,
    markedOf,
)
from aesm.core.messages.hello import ConversationSettings, Hello
from aesm.core.messages.outbox import Outbox
from aesm.core.messages.requests import (
    WITHDRAWN,
    decodeResponse,
    encodeAnswer,
    encodeRequest,
    encodeWithdrawal,
)
from aesm.core.messages.session import Inbox, Session
from aesm.core.messages.states import ConversationState
from aesm.errors import AESMError, ProtocolError, SendBufferFull
from aesm.messages.stream import costOf

CLIENT, SERVER = 0, 1
NORMAL, GOING_AWAY = 1000, 1001  # close codes, PROTOCOL section 9
BATCH_MICROS = 1000  # microseconds, as in aesm.messages.connection
BUDGET = 200  # bytes of messages handed to a transport at once
SEND_BUFFER = 2500  # bytes
WINDOWS = (1, 200, 900, 3000)  # bytes
LARGE = 500  # bytes of a message: more than some of these
EARLY = 300  # bytes of messages that may leave before the WELCOME
ROUNDS = 300  # more than it takes until everything has arrived
ALL = 1 << 20  # bytes: as many as there are

EXAMPLES = os.environ.get("AESM_MODEL_EXAMPLES")

SETTINGS = ConversationSettings(
    maxMessage=LARGE, heartbeat=10.0, sendBuffer=SEND_BUFFER
)

LEAST = Hello(maxMessage=LARGE, batch=True, window=EARLY)  # of who takes them

Data = str | bytes
Sent = tuple[int, Data]  # when, microseconds, and what


def costOfAll(messages: Iterable[Sent]) -> int:
    """Add up what messages cost."""
    return sum(costOf(data) for _, data in messages)


@dataclass(frozen=True)
class Stored:
    """
    What is stored of one side of a session.

    @ivar sent: messages that were accepted.
    @ivar acknowledged: of these, those that the other side has.
    @ivar limit: cost that it takes.
    @ivar received: messages that came.
    @ivar taken: of these, those that are done with.
    """

    sent: int
    acknowledged: int
    limit: int
    received: int
    taken: int


class Peer:
    """
    One side of a session and its application: as L{aesm.messages.connection}, or
    L{aesm.store.connection}.

    @ivar session: what counts the messages.
    @ivar line: what carries it now, or None.
    @ivar sent: what was accepted.
    @ivar got: what came.
    @ivar taken: of that, how many are done with.
    @ivar stored: what is stored, by a durable server.
    @ivar closing: whether nothing is accepted any more.
    @ivar over: whether the session is over.
    """

    def __init__(
        self, machine: SessionMachine, role: int, window: int, name: str = ""
    ) -> None:
        """@param window: cost that may come ahead of the application, bytes."""
        self.machine = machine
        self.role = role
        self.window = window
        self._slow = machine.slow[role]
        self._durable = machine.durable and role == SERVER
        self.session = Session(SEND_BUFFER, window, name)
        self.session.outbox = machine.outboxType(SEND_BUFFER)
        self.session.inbox = machine.inboxType(window)
        if self._durable:
            self.session.outbox.stage()
        self.line: Line | None = None
        self.sent: list[Sent] = []
        self.got: list[Sent] = []
        self.taken = 0
        self.stored: Stored | None = None
        self.closing = self.over = False
        self._micros = 0  # this turn's time, once something was sent in it
        self._reported = 0  # cost of what is taken and was told to the session
        self._writing: tuple[Stored, list[Batch]] | None = None

    @property
    def ready(self) -> int:
        """How many messages the application has been handed."""
        late = self._durable and not self._slow
        return self.session.inbox.keptCount if late else len(self.got)

    @property
    def keeping(self) -> int:
        """
        How many messages are in the application's keeping, and would survive what
        the application survives: one that is slow has them once it is done.
        """
        if self._durable:
            return 0 if self.stored is None else self.stored.received
        return self.taken if self._slow else len(self.got)

    @property
    def allowed(self) -> int:
        """The greatest limit that may have been announced."""
        taken = self.taken
        if self._durable:
            taken = 0 if self.stored is None else self.stored.taken
        return self.window + costOfAll(self.got[:taken])

    # What the application does

    def send(self, data: Data) -> None:
        """Send a message, if there is room."""
        outbox, micros = self.session.outbox, self.machine.micros
        full = costOfAll(self.sent[outbox.acknowledged :]) + costOf(data) > SEND_BUFFER
        try:
            if self._micros:
                number = outbox.add(data, self._micros)
            elif self.line is None:
                outbox.closeBatch(since=micros - BATCH_MICROS)
                number = outbox.add(data, micros)
            else:
                number = outbox.add(data, micros)
                self._micros = micros
        except SendBufferFull:
            assert full, "there was room"
            return
        assert not full, "more is kept than was agreed"
        self.sent.append((micros, data))
        assert number == len(self.sent), "a message has another's number"
        if self.line is not None:
            self.line.sending()

    def ask(self) -> None:
        """Send a request, if there is room, and the other side takes such."""
        number = len(self.sent)
        if self.session.outbox.peer.requests:
            self.send(encodeRequest(f"{number}?"))
            if len(self.sent) > number:
                self.session.outbox.ask(number, number)

    def answer(self, withdraw: bool) -> None:
        """Answer the oldest request that is open; or withdraw one of ours."""
        asked = self.session.outbox.asked or {}
        waiting = [number for number, waiter in asked.items() if waiter is not None]
        if withdraw and waiting:
            self.send(encodeWithdrawal(waiting[0]))
            self.session.outbox.ask(waiting[0], None)
        elif not withdraw and self.open:
            self.send(encodeAnswer(self.open[0], "answer"))

    @property
    def open(self) -> list[int]:
        """
        The numbers of the other side's requests that are in our keeping, and not
        answered.
        """
        answered = {
            response.number
            for _, data in self.sent
            if type(data) is EncodedResponse
            and (response := decodeResponse(data)).status != WITHDRAWN
        }
        kept = self.got[: self.taken if self._slow else len(self.got)]
        return [
            number
            for number, (_, data) in enumerate(kept)
            if type(data) is EncodedRequest and number not in answered
        ]

    def asked(self, event: Asked) -> None:
        """Requests came."""
        assert event.first == len(self.got), "a request has another's number"
        self.arrived(event.requests)

    def answered(self, event: Answered) -> None:
        """Answers came, to what was asked, if not by an earlier process."""
        assert event.first == len(self.got), "an answer has another's number"
        for waiter, body in zip(event.waiters, event.messages.data, strict=True):
            assert isinstance(body, bytes)
            response = decodeResponse(body)
            if response.status != WITHDRAWN and waiter is not None:
                former = waiter is False and self._durable
                assert former or waiter == response.number, "it answers something else"
        self.arrived(event.messages)

    def take(self, most: int) -> None:
        """Take what came, or be done with it."""
        before = self.taken
        self.taken = min(before + most, self.ready)
        if not self._durable:
            if self._slow:
                self.session.inbox.keep(self.taken - before)
            self._report(self.taken, 1 if self._slow else max(1, self.window // 4))

    # What happens to it

    def arrived(self, messages: Messages) -> None:
        """Messages came; a question is answered at once."""
        self.got += [(messages.micros, data) for data in markedOf(messages)]
        if not (self._slow or self._durable):
            self.session.inbox.keep(len(messages.data))
        if "?" in messages.data and not self.closing:
            self.send("!")

    def closeBatch(self) -> None:
        """Let no later message share the time of those sent so far."""
        self._micros = 0
        self.session.outbox.closeBatch()

    def detach(self) -> Line | None:
        """Be carried by nothing."""
        line, self.line = self.line, None
        self.closeBatch()
        return line

    def finish(self) -> None:
        """The session is over."""
        self.line, self.closing, self.over = None, True, True
        self.session.outbox.drop()

    def _report(self, taken: int, least: int) -> None:
        """
        Tell the session what is done with.

        @param least: cost for which it is worth it.
        """
        cost = costOfAll(self.got[:taken]) - self._reported
        if cost >= least:
            self._reported += cost
            self.session.inbox.take(cost)
        if self.line is not None:
            self.line.touch()

    # Storing

    def write(self) -> None:
        """Begin to store what has happened."""
        if self._durable and self._writing is None and not self.over:
            self.closeBatch()
            outbox = self.session.outbox
            batches = outbox.takeStaged()
            stored = Stored(
                len(self.sent),
                outbox.acknowledged,
                outbox.limit,
                self.taken if self._slow else len(self.got),
                self.taken,
            )
            self._writing = stored, batches

    def written(self) -> None:
        """What was begun is stored: acknowledge and send it."""
        if self._writing is None or self.over:
            return
        (self.stored, batches), self._writing = self._writing, None
        inbox = self.session.inbox
        self.session.outbox.release(batches)
        inbox.keep(self.stored.received - inbox.keptCount)
        self._report(self.stored.taken, 1)

    def restored(self) -> Peer:
        """
        Make what a new process makes of what is stored.  Of what was accepted and not
        stored nothing has left; its sender is gone with it.
        """
        name = self.session.name
        restored = Peer(self.machine, self.role, self.window, name)
        stored = restored.stored = self.stored
        assert stored is not None
        restored.sent = self.sent[: stored.sent]
        restored.got = self.got[: stored.received]
        restored.taken = stored.taken
        restored._reported = costOfAll(restored.got[: stored.taken])
        batches = [
            Batch.of(Messages(micros, [data for _, data in together], 0, 0))
            for micros, together in groupby(
                restored.sent[stored.acknowledged :], lambda sent: sent[0]
            )
        ]
        session, acknowledged = restored.session, restored.sent[: stored.acknowledged]
        session.outbox.meet(self.session.outbox.peer)
        session.outbox.restore(
            stored.acknowledged, costOfAll(acknowledged), stored.limit, batches
        )
        session.inbox.restore(
            stored.received, costOfAll(restored.got), restored._reported
        )
        return restored


class Pipe:
    """
    One direction of a connection.

    @ivar data: what is on its way.
    @ivar ended: whether nothing follows.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.data = bytearray()
        self.ended = False


class Link:
    """
    A connection between the two.

    @ivar hello: what the client says of itself, until it has arrived.
    @ivar lines: the client's side, and the server's once there is one.
    @ivar pipes: to the client, to the server.
    """

    def __init__(self, hello: Hello) -> None:
        """ """
        self.hello: Hello | None = hello
        self.lines: list[Line] = []
        self.pipes = (Pipe(), Pipe())

    @property
    def isAlive(self) -> bool:
        """Whether anything can still happen."""
        return self.hello is not None or any(line.isOpen for line in self.lines)


class Line:
    """
    One side of a connection: as L{aesm.messages.protocol}.

    @ivar peer: what it carries.
    @ivar former: what the client would rather carry, or None.
    @ivar role: which side it is.
    @ivar isOpen: whether there is a transport.
    @ivar writable: whether that takes anything.
    @ivar turn: whether there is something to do when the turn ends.
    @ivar closes: whether this side closed.
    @ivar early: whether messages of C{former} left before the WELCOME.
    """

    def __init__(
        self,
        machine: SessionMachine,
        link: Link,
        conversation: Conversation,
        peer: Peer,
        former: Peer | None = None,
    ) -> None:
        """@param former: what the client would rather carry."""
        self.machine = machine
        self.conversation = conversation
        self.peer = peer
        self.former = former
        self.role = len(link.lines)
        self.isOpen = self.writable = True
        self.turn = self.closes = self.early = False
        self._link = link
        self._busy = self._ended = self._heardEnd = False
        self._superseded = self._final = False
        self._tap = FrameReader(LARGE)  # reads what it writes
        self._quiet = False  # nothing may be said before an ACK
        self._position = 0  # of what comes next in all that the peer sent
        link.lines.append(self)

    @property
    def isUsed(self) -> bool:
        """Whether a session goes on over it, and neither side closes."""
        return (
            self.isOpen
            and self.peer.line is self
            and not self.peer.closing
            and self.conversation.state is ConversationState.OPEN
        )

    # What the network does

    def deliver(self, size: int) -> None:
        """Let bytes come, or the end behind them."""
        pipe = self._link.pipes[self.role]
        data = bytes(pipe.data[:size])
        del pipe.data[:size]
        if not self.isOpen:
            return
        if data:
            self._act(self.conversation.receive(data, self.machine.now))
        elif pipe.ended and not self._heardEnd:
            self._heardEnd = True
            self._act(self.conversation.peerEnded(self.machine.now))
        if self._ended and self._heardEnd and self.isOpen:
            self.lost()

    def lost(self) -> None:
        """The transport is gone."""
        self.conversation.transportLost()
        self.kill()
        if self._superseded:
            return
        if self._final or not self.machine.keeps(self, None):
            self.machine.finish(self.peer)
        else:
            self.peer.detach()

    def kill(self) -> None:
        """The transport is gone, and the process with it."""
        self.isOpen = self.writable = self.turn = False
        self._ended = True

    def closeBatch(self) -> None:
        """Send what this turn of the event loop sent."""
        self.turn = False
        self._flush()

    def tick(self) -> None:
        """Run the heartbeat."""
        self._act(self.conversation.tick(self.machine.now))

    # What its peer, and who made it, do

    def sending(self) -> None:
        """The first message of a turn leaves at once, the later ones together."""
        if not self._busy and not self.turn:
            self.turn = True
            self._flush()

    def touch(self) -> None:
        """Send what may be due now."""
        if not self._busy and not self._ended:
            self._flush()

    def resumed(self, hello: Hello) -> None:
        """
        Carry on with a session.

        @param hello: of the other side: the messages that it has, and a part of one.
        """
        self._position, self._quiet = hello.received, True
        if hello.partial:
            data = self.peer.sent[hello.received][1]
            kind = FrameType.TEXT if isinstance(data, str) else FrameType.BINARY
            body = data.encode() if isinstance(data, str) else data
            self._tap.partial = Partial(kind, body[: hello.partial])

    def begun(self, sent: int) -> None:
        """
        Carry on with a session that began with early messages.

        @param sent: how many.
        """
        self._position = sent

    def supersede(self) -> None:
        """Leave the session to a newer connection."""
        self._superseded = True
        self.conversation.supersede(self.machine.now)
        self.touch()

    def close(self, code: int) -> None:
        """
        Close in order.

        @param code: PROTOCOL section 9.
        """
        self._final = self.closes = self.peer.closing = True
        self.conversation.close(self.machine.now, code)
        self.touch()

    # Parts

    def _act(self, events: Sequence[Event]) -> None:
        """Act on what the conversation reports."""
        self._busy = True
        for event in events:
            match event:
                case Messages() as messages:
                    assert not self._superseded, "a message over an old connection"
                    self.peer.arrived(messages)
                case Asked():
                    self.peer.asked(event)
                case Answered():
                    self.peer.answered(event)
                case Acknowledged():
                    pass
                case Accepted(hello, resumed):
                    self.machine.accepted(self, hello, resumed)
                case PeerClosed(code):
                    self._peerClosed(code)
                case Broken(reason):
                    self._broken(reason)
        self._busy = False
        self._flush()

    def _peerClosed(self, code: int) -> None:
        """
        The other side closes.

        @param code: PROTOCOL section 9.
        """
        crossed = all(line.closes for line in self._link.lines)
        if self.closes and code == NORMAL and not crossed:
            outbox = self.peer.session.outbox
            assert outbox.acknowledged == outbox.count, "closed without an ACK"
        if self._final or not self.machine.keeps(self, code):
            self._final = self.peer.closing = True

    def _broken(self, error: AESMError) -> None:
        """
        The conversation is over because of an error: the other side was silent, did
        not let it close, or goes on with a session that was given up here meanwhile.
        """
        if isinstance(error, ProtocolError):
            assert self.former is not None, repr(error)
            assert self.former.over, repr(error)
            self._final = self.peer.closing = True
        if self.conversation.state is ConversationState.BROKEN:
            self.lost()

    def _flush(self) -> None:
        """Hand over what is due, if the transport takes it."""
        if not self._superseded:
            self.peer.closeBatch()
        if self._ended or not self.writable:
            return
        output = b"".join(self.conversation.takeFrames(self.machine.micros, BUDGET))
        self._check(output)
        pipe = self._link.pipes[1 - self.role]
        pipe.data += output
        if self.conversation.ended:
            self._ended = pipe.ended = True
        elif not self.turn and self.conversation.sendable:
            self.turn = True

    def _check(self, output: bytes) -> None:
        """Check what is written."""
        for frame in self._tap.receive(output):
            match frame:
                case Welcome():
                    continue
                case Messages(data=data):
                    self._tap.partial = None
                    self._checkMessages(data)
                case Ack(acknowledged):
                    assert acknowledged <= self.peer.keeping, "an ACK too early"
                    self._quiet = False
            assert not self._quiet, "a session resumed without an ACK"
        assert self._tap.error is None, self._tap.error
        assert self._tap.empty, "a frame that is not whole"

    def _checkMessages(self, data: Sequence[Data]) -> None:
        """Check messages that are written."""
        sent, allowed = self.peer.sent, self.machine.otherSide(self).allowed
        for each in data:
            following = [data for _, data in sent[self._position :]]
            assert following[:1] == [each], "not the message that comes next"
            assert costOfAll(sent[: self._position]) < allowed, "past the limit"
            self._position += 1


roles = st.sampled_from([CLIENT, SERVER])
sides = st.sampled_from([(CLIENT, SERVER), (CLIENT,), (SERVER,)])
windows = st.sampled_from(WINDOWS)
sizes = st.sampled_from([1, 9, 70, 500, ALL])
which = st.integers(0, 3)
messages = st.tuples(
    st.sampled_from(["text", "\xe9", "binary", "?", "empty"]),
    st.sampled_from([0, 1, 20, 60, LARGE - 10]),
)


class SessionMachine(RuleBasedStateMachine):
    """
    All that can happen, in any order.

    @ivar slow: of which side the application keeps a message only once it is done
        with it.
    @ivar durable: whether the server stores what it acknowledges.
    @ivar micros: now, microseconds.
    """

    inboxType = Inbox
    outboxType = Outbox

    def __init__(self) -> None:
        """Begin with nobody there."""
        super().__init__()
        self.slow = (False, False)
        self.durable = False
        self.micros = 1_000_000
        self._server = SETTINGS
        self._client: Peer | None = None  # has the client's present or last session
        self._known: set[str] = set()  # sessions that the server would go on with
        self._sides: tuple[dict[str, Peer], dict[str, Peer]] = ({}, {})  # by name
        self._links: list[Link] = []
        self._numbers = count(1)

    # What peers and lines ask and tell

    @property
    def now(self) -> float:
        """Seconds."""
        return self.micros / 1e6

    def keeps(self, line: Line, code: int | None) -> bool:
        """
        Tell whether a session outlives the connection under it.

        @param code: with which the other side closes; None if it was cut.
        """
        name = line.peer.session.name
        kept = name in self._known if line.role == SERVER else name != ""
        return kept and code in (None, GOING_AWAY)

    def finish(self, peer: Peer) -> None:
        """End a session on one side."""
        peer.finish()
        if peer.role == SERVER:
            self._known.discard(peer.session.name)

    def accepted(self, line: Line, hello: Hello, resumed: bool) -> None:
        """
        The server has let the client in.

        @param resumed: whether the former session goes on.
        """
        former = line.former
        if former is not None and resumed:
            former.line, line.peer = line, former
            if hello.early:
                line.begun(former.session.outbox.sent)
            else:
                line.resumed(hello)
            self._client = former
            self._sides[CLIENT][hello.session] = former
            return
        again: list[Sent] = []
        if former is not None:
            name = former.session.name
            if line.early:  # which were not taken, and nothing else has left
                assert name not in self._sides[SERVER], "taken, and given back"
                del self._sides[CLIENT][name]
                again = [] if former.over else former.sent
            former.finish()
        session, former = line.conversation.session, line.peer
        came = session.inbox  # with the WELCOME
        session.outbox, session.inbox = former.session.outbox, former.session.inbox
        session.inbox.received, session.inbox.receivedCost = (
            came.received,
            came.receivedCost,
        )
        session.outbox.begin(hello)
        former.session = session
        self._client = line.peer
        self._sides[CLIENT][hello.session] = line.peer
        for _, data in again:
            line.peer.send(data)

    def otherSide(self, line: Line) -> Peer:
        """Find the other side of a session."""
        side = self._sides[1 - line.role].get(line.peer.session.name)
        return self._linkOf(line).lines[CLIENT].peer if side is None else side

    # Rules

    @initialize(
        slow=st.tuples(st.booleans(), st.booleans()),
        durable=st.booleans(),
        window=windows,
    )
    def begin(self, slow: tuple[bool, bool], durable: bool, window: int) -> None:
        """There is a server, and somebody who will connect."""
        self.slow = slow
        self.durable = durable
        self._server = replace(SETTINGS, receiveBuffer=window)

    @rule(
        left=st.tuples(sizes, sizes),
        window=windows,
        batch=st.booleans(),
        times=st.integers(0, 2),
        early=st.lists(messages, max_size=3),
    )
    def reconnect(
        self,
        left: tuple[int, int],
        window: int,
        batch: bool,
        times: int,
        early: Sequence[tuple[str, int]] = (),
    ) -> None:
        """
        The client connects, and gives up the connection that it has.

        @param left: as C{cut}.
        @param window: the client's, if the session is a new one.
        @param batch: whether it takes BATCH frames.
        @param times: as C{flow}.
        @param early: what it has to say at once in a new session.
        """
        for line in self._lines(CLIENT):
            self._cut(line, left)
        mine = replace(SETTINGS, receiveBuffer=window)
        hello, former = mine.hello(), self._client
        if former is not None and former.over:
            former = None
        if former is not None:
            hello = mine.hello(former.session)
        begins = former is None and bool(early)
        output = b""
        if begins:
            self._client = former = self._early(window, early)
            output = b"".join(former.session.outbox.take(EARLY))
            hello = mine.hello(former.session, len(output))
        link = Link(replace(hello, batch=batch))
        link.pipes[SERVER].data += output
        peer = Peer(self, CLIENT, window)
        conversation = Conversation(
            mine, self.now, None if former is None else former.session
        )
        peer.line = Line(self, link, conversation, peer, former)
        peer.line.early = begins
        self._links.append(link)
        peer.line.touch()
        self.flow(times)

    def _early(self, window: int, early: Sequence[tuple[str, int]]) -> Peer:
        """Begin a session with messages, as many as may be early."""
        name = f"{next(self._numbers):032x}"
        peer = self._sides[CLIENT][name] = Peer(self, CLIENT, window, name)
        peer.session.outbox.begin(LEAST)
        room = EARLY
        for kind, size in early:
            data = self._message(kind, size)
            room -= costOf(data)
            if room >= 0:
                peer.send(data)
        return peer

    @rule(which=which, role=roles, size=sizes)
    def deliver(self, which: int, role: int, size: int) -> None:
        """Bytes come."""
        if self._links:
            self._deliver(self._links[which % len(self._links)], role, size)

    @rule(times=st.integers(1, 3), newest=st.booleans())
    def flow(self, times: int, newest: bool = False) -> None:
        """
        For a while nothing is held up.

        @param times: how often everything goes there and back.
        """
        for _ in range(times):
            for role in (SERVER, CLIENT):
                for link in self._links[:: -1 if newest else 1]:
                    self._deliver(link, role, ALL)
            self._endTurn()

    @rule(roles=sides, several=st.lists(messages, min_size=2, max_size=9))
    def send(self, roles: Sequence[int], several: list[tuple[str, int]]) -> None:
        """Applications send."""
        for peer in self._peers(*roles):
            for kind, size in several:
                if not peer.closing:
                    peer.send(self._message(kind, size))

    @rule(roles=sides, times=st.integers(1, 3))
    def ask(self, roles: Sequence[int], times: int) -> None:
        """Applications ask."""
        for peer in self._peers(*roles):
            for _ in range(times):
                if not peer.closing:
                    peer.ask()

    @rule(roles=sides, times=st.integers(1, 3), withdraw=st.booleans())
    def answer(self, roles: Sequence[int], times: int, withdraw: bool) -> None:
        """Applications answer, or wait for no answer any more."""
        for peer in self._peers(*roles):
            for _ in range(times):
                if not peer.closing:
                    peer.answer(withdraw)

    @rule(roles=sides, most=st.integers(1, 9))
    def take(self, roles: Sequence[int], most: int) -> None:
        """Applications take what came, or are done with it."""
        for peer in self._peers(*roles):
            peer.take(most)

    @rule(micros=st.sampled_from([0, 300, 2000, 1_000_000, 11_000_000]))
    def wait(self, micros: int) -> None:
        """Time passes, a turn of the event loop at least."""
        self._endTurn()
        self.micros += micros
        for line in self._lines():
            line.tick()

    @rule(role=roles)
    def pause(self, role: int) -> None:
        """A transport takes no more, or more again."""
        for line in self._lines(role):
            line.writable = not line.writable
            if line.writable:
                line.touch()

    @precondition(lambda self: self._lines())
    @rule(which=which, left=st.tuples(sizes, sizes))
    def cut(self, which: int, left: tuple[int, int]) -> None:
        """
        One side of a connection is cut; the other does not know.

        @param left: bytes that still come, of those that are on their way.
        """
        lines = self._lines()
        self._cut(lines[which % len(lines)], left)

    @rule(how=st.sampled_from([None, NORMAL, GOING_AWAY]), which=which)
    def end(self, how: int | None, which: int) -> None:
        """
        A side gives up a session that has no connection, or closes one that has.

        @param how: the code to close with; None to give up.
        """
        peers = self._peers(CLIENT, SERVER)
        waiting = [peer for peer in peers if peer.line is None]
        lines = [line for line in self._lines() if line.isUsed]
        if how is None and waiting:
            self.finish(waiting[which % len(waiting)])
        elif how is not None and lines:
            line = lines[which % len(lines)]
            if line.role == SERVER:
                self._known.discard(line.peer.session.name)
            line.close(how)

    @precondition(lambda self: self.durable)
    @rule(done=st.booleans())
    def write(self, done: bool) -> None:
        """The server begins to store what has happened, unless it is at that."""
        for peer in self._peers(SERVER):
            peer.write()
            if done:
                peer.written()

    @precondition(lambda self: self.durable)
    @rule()
    def restart(self) -> None:
        """The server is killed, and started again."""
        for line in self._lines(SERVER):
            line.kill()
        for peer in self._peers(SERVER):
            name = peer.session.name
            if peer.stored is None or name not in self._known:
                self.finish(peer)
            else:
                self._sides[SERVER][name] = peer.restored()

    @rule()
    def leaveAlone(self) -> None:
        """Nothing disturbs any more: everything arrives and is acknowledged."""
        for _ in range(ROUNDS):
            if self._settled():
                return
            if not self._lines(CLIENT):
                self.reconnect((0, 0), 400, True, 0)
            self._mend()
            self.flow(1)
            for peer in self._peers(CLIENT, SERVER):
                peer.take(9)
                if not peer.closing:
                    peer.answer(withdraw=False)
                peer.write()
                peer.written()
        raise AssertionError("something does not arrive, or is not acknowledged")

    @invariant()
    def rulesAreKept(self) -> None:
        """What holds at any time."""
        for name, server in self._sides[SERVER].items():
            client = self._sides[CLIENT].get(name)
            if client is not None:
                self._check(client, server)
                self._check(server, client)

    # Parts

    def _lines(self, role: int | None = None) -> list[Line]:
        """
        List the sides of connections that have a transport, the oldest first.

        @param role: whose; None for both.
        """
        self._links = [link for link in self._links if link.isAlive]
        return [
            line
            for link in self._links
            for line in link.lines
            if line.isOpen and role in (None, line.role)
        ]

    def _endTurn(self) -> None:
        """End a turn of the event loop."""
        for line in self._lines():
            if line.turn:
                line.closeBatch()

    def _linkOf(self, line: Line) -> Link:
        """Find a connection."""
        return next(link for link in self._links if line in link.lines)

    def _peers(self, *roles: int) -> list[Peer]:
        """
        List the sides of sessions that are not over.

        @param roles: whose; the client has one at the most.
        """
        return [
            peer
            for role in roles
            for peer in self._sides[role].values()
            if not peer.over
        ]

    def _cut(self, line: Line, left: tuple[int, int]) -> None:
        """
        Cut a connection on one side.

        @param left: bytes that still come, of those that are on their way to the
            client and to the server.
        """
        for pipe, size in zip(self._linkOf(line).pipes, left, strict=True):
            pipe.ended = pipe.ended and len(pipe.data) <= size
            del pipe.data[size:]
        line.lost()

    def _message(self, kind: str, size: int) -> Data:
        """
        Make a message that is like no other, unless it is a question or empty.

        @param size: bytes, about.
        """
        number = next(self._numbers)
        match kind:
            case "?":
                return "?"
            case "empty":
                return "" if number % 2 else b""
            case "binary":
                return b"%d" % number + bytes(size)
        return f"{number}" + kind[0] * (size // len(kind[0].encode()))

    def _deliver(self, link: Link, role: int, size: int) -> None:
        """Let bytes come."""
        if role == SERVER and link.hello is not None:
            self._accept(link, link.hello)
        elif role < len(link.lines):
            link.lines[role].deliver(size)

    def _accept(self, link: Link, hello: Hello) -> None:
        """Let a client in, and its session go on."""
        link.hello = None
        hello = Hello.decode(hello.encode())
        peer = self._sides[SERVER].get(hello.session)
        taken = hello.early and peer is None and self._server.receiveBuffer >= EARLY
        resumed = (
            peer is not None
            and not hello.early
            and hello.session in self._known
            and peer.session.outbox.canResume(hello)
        )
        if peer is not None and resumed:
            superseded = peer.detach()
            if superseded is not None:
                superseded.supersede()
        else:
            stale = not link.lines[CLIENT].isOpen
            assert hello.session not in self._known or stale, "nothing can be resumed"
            name = hello.session if taken else f"{next(self._numbers):032x}"
            peer = Peer(self, SERVER, self._server.receiveBuffer, name)
            self._sides[SERVER][name] = peer
            self._known.add(name)
        conversation = Conversation(self._server, self.now, peer.session)
        conversation.welcome(hello)
        peer.line = Line(self, link, conversation, peer)
        if resumed:
            peer.line.resumed(hello)
        peer.line.touch()

    def _check(self, sender: Peer, receiver: Peer) -> None:
        """Check one direction of a session."""
        outbox, inbox = sender.session.outbox, receiver.session.inbox
        sent, got = sender.sent, receiver.got
        assert inbox.received == len(got), "messages are lost on the way"
        assert len(got) <= len(sent), "more has come than was sent"
        for (then, data), (time, what) in zip(sent, got, strict=False):
            assert data == what, "not what was sent"
            assert 0 <= then - time <= BATCH_MICROS, "not when it was sent"
        assert outbox.acknowledged <= receiver.keeping, "not kept, but acknowledged"
        assert outbox.limit <= receiver.allowed, "the limit is past what was announced"
        ahead = got[receiver.taken :]
        assert costOfAll(ahead[:-1]) < receiver.window or not ahead, "past the window"
        if not sender.over:
            kept = costOfAll(sent[outbox.acknowledged :])
            assert outbox.keptCost == kept <= SEND_BUFFER, (
                "more is kept than was agreed"
            )

    def _settled(self) -> bool:
        """Tell whether everything has arrived and is acknowledged."""
        client = self._client
        server = client and self._sides[SERVER].get(client.session.name)
        return all(
            peer is not None
            and peer.line is not None
            and peer.line.isUsed
            and peer.session.outbox.acknowledged == len(peer.sent)
            and other is not None
            and len(other.got) == other.taken == len(peer.sent)
            and not other.open
            and not peer.session.outbox.asked
            for peer, other in ((client, server), (server, client))
        )

    def _mend(self) -> None:
        """
        Let transports take everything, and those notice that the other side is gone.
        """
        for link in self._links:
            for line in link.lines:
                alone = link.hello is None and not link.lines[1 - line.role].isOpen
                if line.isOpen and alone and not link.pipes[line.role].data:
                    line.lost()
        for line in self._lines():
            if not line.writable:
                line.writable = True
                line.touch()


class EagerInbox(Inbox):
    """One that counts a message as kept when it comes, and not when it is."""

    def receive(self, messages: Messages) -> None:
        """Count messages that came."""
        super().receive(messages)
        super().keep(len(messages.data))

    def keep(self, count: int) -> None:
        """Count nothing: that was done."""


class SilentInbox(Inbox):
    """One that believes that its last ACK has arrived."""

    def takeAck(self) -> tuple[int, int] | None:
        """Owe nothing."""
        self.ackDue = False
        return super().takeAck()


class ForgetfulOutbox(Outbox):
    """
    One that forgets messages when they are sent, and not when they are acknowledged.
    """

    def resume(self, peer: Hello) -> None:
        """Go on with what was not sent yet."""
        super().resume(replace(peer, received=self.sent))


class StubbornOutbox(Outbox):
    """One that sends again all that is not acknowledged, also what was received."""

    def resume(self, peer: Hello) -> None:
        """Go back to the first message that is not acknowledged."""
        super().resume(replace(peer, received=self.acknowledged))


class GenerousOutbox(Outbox):
    """One that takes a new window for a new limit."""

    def resume(self, peer: Hello) -> None:
        """Go back to the first message that the peer does not have."""
        super().resume(peer)
        self.limit += peer.window


def run(machine: type[SessionMachine], **options: Any) -> None:
    """Look for a schedule that breaks a rule."""
    if EXAMPLES is None:
        given = settings(max_examples=300, stateful_step_count=50, derandomize=True)
    else:
        given = settings(max_examples=int(EXAMPLES), stateful_step_count=100)
    unbounded = settings(
        given, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=settings(unbounded, **options))


class SessionModelTests(SynchronousTestCase):
    """What is promised holds, whatever happens."""

    def test_everyMessageOnce(self) -> None:
        """
        Each message arrives once, in order, as it was sent, or its sender is told
        that it may not have; what is acknowledged is kept; nobody holds or sends more
        than was agreed.
        """
        run(SessionMachine)


class BrokenTests(SynchronousTestCase):
    """The model finds what it is there to find."""

    def finds(self, **types: Any) -> None:
        """
        Check that a session with a fault breaks a rule.

        @param types: the class with the fault, for C{inboxType} or C{outboxType}.
        """
        machine = type("BrokenMachine", (SessionMachine,), types)
        with self.assertRaises(AssertionError):
            run(
                machine,
                max_examples=3000,  # a tenth has always been enough
                phases=[Phase.generate],
                verbosity=Verbosity.quiet,
            )

    def test_acknowledgedTooEarly(self) -> None:
        """
        An ACK that is sent before the message is in the application's keeping: the
        process can still lose it.
        """
        self.finds(inboxType=EagerInbox)

    def test_noAckAfterResuming(self) -> None:
        """An ACK that was lost with its connection and is not sent again."""
        self.finds(inboxType=SilentInbox)

    def test_forgottenTooEarly(self) -> None:
        """A message that is forgotten when it is sent."""
        self.finds(outboxType=ForgetfulOutbox)

    def test_receivedIgnored(self) -> None:
        """
        A session that is resumed where it was acknowledged, and not where it was
        received.
        """
        self.finds(outboxType=StubbornOutbox)

    def test_limitAfterResuming(self) -> None:
        """A window that is added to the limit with each connection."""
        self.finds(outboxType=GenerousOutbox)
