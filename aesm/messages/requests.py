"""
Requests of one connection, in both directions::

    answer = await connection.request("what time is it?", timeout=5)

    packet = await connection.retrieved.get()    # at the other side, without a handler
    if isinstance(packet, Request):
        packet.answer("late")                    # or: packet.refuse("ask tomorrow")

A request is a message that is answered by another one.  It is known by the number that
it has as a message of its session, and has one answer, or a refusal, over whichever
connection.

B{Asking.}  What waits for answers is in C{outbox.asked} of the session, by number,
where the core finds it when an answer comes: so one that nobody has asked for is a
protocol error.  Who cancels, or has a timeout, takes itself out and leaves None there:
the answer that still comes is dropped.

B{Answering.}  A request is I{open} from when it is in our keeping until its answer is
accepted by the outbox; only then its cost counts as taken.  So what a peer may have
open is bounded by C{receiveBuffer}.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from aesm._mypyc import mypyc_attr
from aesm.core.messages.batch import Body, Message
from aesm.core.messages.events import Answered, Asked
from aesm.core.messages.frames import (
    MESSAGE_OVERHEAD,
    EncodedRequest,
    EncodedResponse,
    Messages,
    newTuple,
)
from aesm.core.messages.requests import (
    BINARY,
    BINARY_REQUEST,
    ERROR,
    NUMBER_STATUS,
    REQUEST_PREFIX,
    RESPONSE_PREFIX,
    WITHDRAWN,
    decodeRequest,
    decodeResponse,
    encodeAnswer,
    encodeData,
    encodeError,
    encodeWithdrawal,
)
from aesm.errors import AESMError, CloseCode, RequestFailed, SessionLost, closedError
from aesm.messages.acknowledgements import NEVER, Acknowledgement, FailedAcknowledgement
from aesm.messages.deferred import ReactorDeferred
from aesm.messages.stream import Packet, StreamOwner

if TYPE_CHECKING:
    from aesm.messages.connection import Connection

# What an open request takes beside its cost, counted in C{totalBuffer}, bytes: until it
# is answered, and with a handler that is at work for it.
REQUEST_MEMORY = 384
RUNNING_MEMORY = 1920


@mypyc_attr(native_class=False)
class RequestTimeout(AESMError, DeferredTimeout, TimeoutError):
    """
    A request was not answered in time; whether it was acted on is not known.  The other
    side is told that nobody waits any more.
    """


class _Asker(Protocol):
    """Where a request is."""

    def withdraw(self, answer: PendingAnswer) -> None:
        """Nobody waits for the answer any more."""


class _Responder(StreamOwner, Protocol):
    """What owns a stream that requests are in: the connection, or who speaks for it."""

    def respond(self, request: Request, body: EncodedResponse) -> Deferred[None]:
        """Send what ends a request."""


@mypyc_attr(native_class=False)
class PendingAnswer(ReactorDeferred["str | bytes"]):
    """
    What a request returns.

    @ivar asker: where the request is; None before it is anywhere.
    @ivar number: the number that it has there.
    """

    asker: _Asker | None = None
    number = -1

    def limit(self, timeout: float | None, clock: IReactorTime) -> PendingAnswer:
        """Wait no longer than so many seconds, None for any time; returns itself."""
        if timeout is not None:
            self.addTimeout(timeout, clock, _timedOut)
        return self


def waiting(timeout: float | None) -> PendingAnswer:
    """
    Begin to wait for an answer.

    @param timeout: what C{limit} will be called with: before anything is sent.
    @raise ValueError: it is negative, or no number.
    """
    # As a clock will: what cannot be added to its time must not be sent first.
    if timeout is not None and not 0.0 + timeout >= 0:
        raise ValueError(f"timeout must be seconds, from 0, not {timeout!r}")
    return PendingAnswer(_withdraw)


def _withdraw(answer: Deferred[Any]) -> None:
    """Cancel a request."""
    asker = cast(PendingAnswer, answer).asker
    if asker is not None:
        asker.withdraw(cast(PendingAnswer, answer))


def _timedOut(result: object, timeout: float) -> None:
    """Say that nothing came in time."""
    raise RequestTimeout(f"no answer within {timeout:g} seconds")


@mypyc_attr(native_class=False)
class Request(Packet):
    """
    A request that came, with C{time} and C{data} as a L{Packet}.

    @ivar number: of the session's messages from this peer, how many came before it.
    @ivar cost: what it counts in flow control, bytes.
    @ivar isOpen: whether it is neither answered nor refused.
    @ivar isWithdrawn: whether who asked does not wait any more.  It is to be answered
        or refused all the same, which makes room for others.
    """

    number: int
    cost: int
    isOpen: bool = True
    isWithdrawn: bool = False
    _connection: Any  # which is loaded after this where both are compiled

    def answer(self, data: Message) -> Deferred[None]:
        """
        Answer it.

        @param data: C{str} or bytes, which is what the other side gets.
        @return: as L{Connection.sendData}.  If it fails with C{MessageTooBig},
            C{SendBufferFull} or C{SpoolError} the request is still open.
        @raise RuntimeError: it was answered or refused before.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        return self._respond(encodeAnswer(self.number, data))

    def refuse(
        self, reason: str = "", code: int = CloseCode.NOT_ALLOWED
    ) -> Deferred[None]:
        """
        Refuse it: who asked gets L{RequestFailed}.

        @param reason: words for the other side, at most 1,024 bytes in UTF-8.
        @param code: a number for its program, 0 to 65535.
        @return: as L{answer}.
        @raise RuntimeError: it was answered or refused before.
        @raise TypeError: the code is no number, or the reason no text.
        @raise ValueError: the code is no such number.
        """
        return self._respond(encodeError(self.number, code, reason))

    def _respond(self, body: EncodedResponse) -> Deferred[None]:
        """Send what ends it."""
        owner = cast("_Responder", self._connection.retrieved.owner)
        return owner.respond(self, body)


@mypyc_attr(native_class=False)
class Answer(Packet):
    """
    The answer to a request of an earlier process, which has died since, or a refusal.
    It comes among the packets.

    @ivar number: the request's, what L{Connection.nextNumber} was before it.
    @ivar failure: why there is no answer; None if there is.
    @ivar charge: what it counts in flow control, bytes.
    """

    number: int
    failure: RequestFailed | None
    charge: int

    @classmethod
    def of(cls, micros: int, body: bytes) -> Answer:
        """
        Make one.

        @param micros: when it was sent, microseconds since the Unix epoch.
        @param body: that of its frame.
        """
        number, status, code, data = decodeResponse(body)
        failed = status == ERROR
        answer = newTuple(cls, (micros / 1e6, None if failed else data))
        answer.number = number
        answer.failure = RequestFailed(code, cast(str, data)) if failed else None
        answer.charge = len(body) + MESSAGE_OVERHEAD
        return answer


@mypyc_attr(allow_interpreted_subclasses=True)
class Requests:
    """
    The requests of one connection; made when there is the first.

    @ivar open: those of the peer that are to be answered, by number.
    """

    __slots__ = ("_connection", "_openCost", "_outbox", "open")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._outbox = connection.session.outbox
        self.open: dict[int, Request] = {}
        self._openCost = 0

    def append(self, kind: type, body: bytes) -> int:
        """
        Send a request or a response, if all others of this turn are the same: all but
        the first of a burst are sent so.  A batch that is full leaves at once.

        @param kind: L{EncodedRequest} or L{EncodedResponse}.
        @return: the number of the session's messages, with it; 0 if nothing was sent,
            so that it is for L{Connection.send}.
        """
        batch = self._connection.batch
        if batch is None or batch.kind is not kind:
            return 0
        room = batch.room - len(body) - MESSAGE_OVERHEAD
        if room < 0:
            self._connection.hurry()
            return 0
        batch.room = room
        bodies = batch.bodies
        bodies.append(body)
        return batch.first + len(bodies)

    # Asking

    def request(
        self, data: Message, timeout: float | None, clock: IReactorTime
    ) -> PendingAnswer:
        """
        Send a request.

        @return: as L{Connection.request}.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8, or C{timeout} is no time
            to wait.
        """
        # Most have no timeout, and are bytes: nothing that has to be called for these.
        answer = PendingAnswer(_withdraw) if timeout is None else waiting(timeout)
        body = BINARY_REQUEST + data if type(data) is bytes else encodeData(b"", data)
        asked = self._outbox.asked
        if asked is not None and (count := self.append(EncodedRequest, body)):
            answer.asker, answer.number = self, count - 1
            asked[count - 1] = answer
        else:
            self.ask(answer, body)
        return answer if timeout is None else answer.limit(timeout, clock)

    def ask(self, answer: PendingAnswer, body: bytes) -> None:
        """
        Send a request.

        @param answer: fires with the answer, or fails.
        @param body: what its frame is to have.
        """
        connection, outbox = self._connection, self._outbox
        if not (outbox.peer.requests or connection.isClosing):
            answer.errback(
                RequestFailed(
                    CloseCode.NOT_TAKEN,
                    "the peer's version of aesm takes no requests",
                )
            )
            return
        number = outbox.count
        answer.asker, answer.number = self, number
        outbox.ask(number, answer)
        sent = connection.send(body, False, EncodedRequest)
        if type(sent) is not Acknowledgement:  # nothing was sent
            (outbox.asked or {}).pop(number, None)
            answer.asker = None
            sent.addErrback(answer.errback)

    def withdraw(self, answer: PendingAnswer) -> None:
        """Tell the peer that nobody waits any more; its answer is dropped."""
        connection = self._connection
        asked = self._outbox.asked
        if asked is None or asked.get(answer.number) is not answer:
            return  # its answer has come, and is about to be passed on
        asked[answer.number] = None
        sent = connection.send(encodeWithdrawal(answer.number), False)
        if not isinstance(sent, Acknowledgement):
            sent.addErrback(lambda failure: None)  # it only saves the peer work

    def fail(self, reason: AESMError) -> None:
        """Fail those who wait: no answer will come."""
        outbox = self._outbox
        asked, outbox.asked = outbox.asked or {}, None
        self.notAnswered(asked.values(), reason)

    def notAnswered(self, waiters: Iterable[object], reason: AESMError) -> None:
        """Fail some of those who wait, or waited: their answers are not taken."""
        for waiter in waiters:
            if isinstance(waiter, PendingAnswer) and not waiter.called:
                waiter.asker = None
                waiter.errback(closedError(reason))

    def called(self, event: Asked | Answered) -> None:
        """Requests came, or answers."""
        if isinstance(event, Asked):
            self.arrived(event)
        else:
            self.answered(event)

    def answered(self, event: Answered) -> None:
        """Answers came, or requests of the peer are withdrawn."""
        first, messages, waiters = event
        # They are done with as they come, but for what an earlier process has asked;
        # what came before them may not be.
        isMixed = bool(self._outbox.restored) and False in waiters
        if not isMixed:
            self._settled(first, len(waiters), messages.cost)
        bodies: Any = messages.data
        for index, (waiter, body) in enumerate(zip(waiters, bodies, strict=True)):
            if isMixed:
                self._take(first + index, messages, index, waiter is False)
            if type(waiter) is PendingAnswer:
                if waiter.called:  # cancelled by who was told before
                    continue
                if body[RESPONSE_PREFIX - 1] == BINARY:  # as usual
                    waiter.callback(body[RESPONSE_PREFIX:])
                    continue
                _, status, code, data = decodeResponse(body)
                if status == ERROR:
                    waiter.errback(RequestFailed(code, cast(str, data)))
                else:
                    waiter.callback(data)
            elif waiter is None:
                self._unawaited(body)

    def _unawaited(self, body: bytes) -> None:
        """An answer came for which nobody waits any more, or a withdrawal."""
        number, status = NUMBER_STATUS.unpack_from(body)
        traffic = self._outbox.traffic
        if status == WITHDRAWN:
            self._withdrawn(number)
        elif traffic is not None:
            traffic.lateAnswers += 1

    def _take(
        self, number: int, messages: Messages, index: int, isFormer: bool
    ) -> None:
        """
        Take one of several responses; of a former process's request it is so, too.
        """
        body = cast(bytes, messages.data[index])
        if isFormer:
            self.returned(number, messages.micros, body)
        else:
            self._settled(number, 1, len(body) + MESSAGE_OVERHEAD)

    def _settled(self, first: int, count: int, cost: int) -> None:
        """Count messages that are done with as they come."""
        connection = self._connection
        if connection.dispatcher is None:
            connection.handled(count, cost)
        else:
            connection.dispatcher.settled(count, cost)

    def returned(self, number: int, micros: int, body: bytes) -> None:
        """Pass on the answer to what an earlier process has asked."""
        connection, answer = self._connection, Answer.of(micros, body)
        if connection.dispatcher is not None:
            connection.dispatcher.returned(micros, answer)
        else:
            connection.session.inbox.keep(1)
            connection.retrieved.extend(answer.time, [answer], answer.charge)

    # Answering

    def arrived(self, event: Asked) -> None:
        """Requests came."""
        connection, (first, requests) = self._connection, event
        if connection.dispatcher is not None:
            connection.dispatcher.asked(first, requests)
            return
        made = [
            self.begin(number, requests.micros, cast(bytes, body))
            for number, body in enumerate(requests.data, first)
        ]
        connection.session.inbox.keep(len(made))
        connection.retrieved.extend(requests.micros / 1e6, made, 0)
        connection.account()

    def begin(self, number: int, micros: int, body: bytes) -> Request:
        """Make a request that is open from now on, if it is not already."""
        request = self.open.get(number)
        if request is not None:  # of an earlier process, and now with a handler
            return request
        data = body[REQUEST_PREFIX:] if body[0] == BINARY else decodeRequest(body)
        request = newTuple(Request, (micros / 1e6, data))
        request.number = number
        request.cost = len(body) + MESSAGE_OVERHEAD
        request._connection = self._connection
        self.open[number] = request
        self._openCost += request.cost
        return request

    @property
    def openCost(self) -> int:
        """The cost of those that are open, bytes."""
        return self._openCost

    @property
    def memory(self) -> int:
        """
        About what those take that are open, bytes; with a handler, whose messages all
        count until it is done with them, beside their cost.
        """
        if self._connection.dispatcher is not None:
            return RUNNING_MEMORY * len(self.open)
        return self._openCost + REQUEST_MEMORY * len(self.open)

    def respond(self, request: Request, body: EncodedResponse) -> Deferred[None]:
        """
        Send what ends a request.

        @return: as L{Request.answer}.
        @raise RuntimeError: as L{Request.answer}.
        """
        if not request.isOpen:
            raise RuntimeError("this request was answered, or refused, before")
        connection = self._connection
        sent = connection.send(body, connection.closeSlow)
        if _isSent(sent):
            self._close(request)
        return sent

    def answer(self, request: Request, data: Message) -> Deferred[None] | None:
        """
        Answer a request, if it is open.

        @return: None if that was accepted; else fails, and says why not.
        """
        if not request.isOpen:
            return None
        connection, number = self._connection, request.number
        if type(data) is bytes:  # as usual
            body = NUMBER_STATUS.pack(number, BINARY) + data
        else:
            body = encodeData(number.to_bytes(8, "big"), data)
        if not self.append(EncodedResponse, body):
            sent = connection.send(body, connection.closeSlow, EncodedResponse)
            if not _isSent(sent):
                return sent
        self._close(request)
        return None

    def _close(self, request: Request) -> None:
        """A request has its answer, or refusal."""
        request.isOpen = False
        if self.open.pop(request.number, None) is not None:
            self._openCost -= request.cost
            self.taken(request)

    def taken(self, request: Request) -> None:
        """Let the peer send more: a request is answered, or refused."""
        self._connection.session.inbox.takenCost += request.cost

    def _withdrawn(self, number: int) -> None:
        """Who asked does not wait any more."""
        request = self.open.get(number)
        if request is not None:
            request.isWithdrawn = True
        dispatcher = self._connection.dispatcher
        if dispatcher is not None:
            dispatcher.withdrawn(number)

    def end(self) -> None:
        """Let go of requests that cannot be answered any more."""
        self.open.clear()
        self._openCost = 0


def _isSent(sent: Deferred[None]) -> bool:
    """
    Tell whether an answer was accepted: if not, since the connection is about to end,
    its request is left to the process that goes on with the session.
    """
    return isinstance(sent, Acknowledgement) and sent.count != NEVER


class Resender(Protocol):
    """Where messages go that never left."""

    def add(self, data: Message) -> Deferred[None]:
        """Send a message, as C{sendData}; fails only by its Deferred."""

    def ask(self, answer: PendingAnswer, body: bytes) -> Deferred[None]:
        """Send a request."""


def sendAgain(
    connection: Connection, resender: Resender, bodies: Iterable[Body]
) -> list[Deferred[None]]:
    """
    Send what never left otherwise, since its session is lost; but for what is said of
    requests in that session.
    """
    outbox, moved = connection.session.outbox, []
    asked = outbox.asked or {}
    for number, body in zip(count(outbox.count), bodies, strict=False):
        if type(body) is EncodedRequest:
            answer = asked.pop(number, None)
            if isinstance(answer, PendingAnswer):
                moved.append(resender.ask(answer, body))
                continue
        elif type(body) is not EncodedResponse:
            moved.append(resender.add(body))
            continue
        moved.append(FailedAcknowledgement(SessionLost("the session is lost")))
    return moved
