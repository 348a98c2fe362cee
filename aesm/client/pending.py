"""
What waits for a connection: messages that are sent before there is one, and users::

    queue = MessageQueue(limit)
    sent = queue.add("hello")                        # what the user gets
    queue.take().sendOver(connection)

    early = EarlyMessages(queue.takeEarly(), connection)
    early.follow()                                   # or queue.putBack(early.messages)

    waiters = Waiters()
    connected = waiters.add(None)
    waiters.tell(connection)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from aesm.client.retry import asOurs
from aesm.core.messages.hello import EARLY_WINDOW
from aesm.errors import AESMError, SendBufferFull, closedError
from aesm.messages.acknowledgements import FailedAcknowledgement, LazyDeferred
from aesm.messages.deferred import ReactorDeferred
from aesm.messages.stream import costOf

if TYPE_CHECKING:
    from aesm.client.observer import Audience
    from aesm.client.stream import SessionStream
    from aesm.messages.connection import Connection
    from aesm.messages.requests import PendingAnswer

_T = TypeVar("_T")


class QueuedMessage(LazyDeferred[None]):
    """
    A message in the queue, and the Deferred of its acknowledgement.  Cancelling it
    stops the waiting, not the message.

    @ivar data: the message; empty once it has left the queue.
    @ivar cost: what it counts in flow control, bytes.
    @cvar mayBeEarly: whether it may leave before it is known what the server takes.
    """

    mayBeEarly = True

    def __init__(self, data: str | bytes) -> None:
        """@raise ValueError: the text cannot be written in UTF-8."""
        super().__init__()
        self.data = data
        self.cost = costOf(data)
        self._sent: Deferred[None] | None = None

    def begin(self) -> None:
        """Fire, or fire later, since somebody looks."""
        if self._sent is not None:
            self._sent.chainDeferred(self)

    def follow(self, sent: Deferred[None]) -> None:
        """Fire as C{sent} does."""
        self._sent = sent
        self.data = b""
        # A Deferred that nobody looks at stays as cheap as it is: to chain it would be
        # a look, and make the connection watch for its acknowledgement.
        if self._looked:
            sent.chainDeferred(self)

    def sendOver(self, connection: Connection) -> None:
        """Send it."""
        self.follow(connection.sendData(self.data))

    def fail(self, reason: AESMError) -> None:
        """It will not be sent."""
        self.follow(FailedAcknowledgement(closedError(reason)))


class QueuedRequest(QueuedMessage):
    """
    A request in the queue.  Who waits for its answer has that in hand, and not this;
    who does not wait any more takes it out.
    """

    mayBeEarly = False

    def __init__(self, queue: MessageQueue, answer: PendingAnswer, body: bytes) -> None:
        super().__init__(body)
        self._queue = queue
        self._answer = answer
        self._body = body
        answer.asker = self

    def withdraw(self, answer: PendingAnswer) -> None:
        """Nobody waits for the answer any more: it need not be sent."""
        self._queue.release(self)

    def sendOver(self, connection: Connection) -> None:
        """Send it."""
        self._answer.asker = None
        connection.requests.ask(self._answer, self._body)

    def fail(self, reason: AESMError) -> None:
        """It will not be sent."""
        self._answer.asker = None
        self._answer.errback(closedError(reason))


class MessageQueue(deque[QueuedMessage]):
    """The messages that wait for a connection, in order and up to a limit."""

    def __init__(self, limit: int) -> None:
        """@param limit: what they may cost together, bytes."""
        super().__init__()
        self._limit = limit
        self._cost = 0
        self._draining: deque[Deferred[None]] = deque()  # who waits for room

    @property
    def roomy(self) -> bool:
        """Whether less than half of the limit waits."""
        return self._cost < self._limit / 2

    def whenSent(self) -> Deferred[None]:
        """
        Wait until nothing is left here.

        @return: fires at the next C{tellSent} at which that is so; fails if the
            messages do.
        """
        draining: Deferred[None] = Deferred(self._draining.remove)
        self._draining.append(draining)
        return draining

    def tellSent(self) -> None:
        """Tell those who wait for that, if nothing is left here."""
        for _ in range(len(self._draining)):
            if not self and self._draining:
                self._draining.popleft().callback(None)

    def add(self, data: str | bytes | bytearray | memoryview) -> Deferred[None]:
        """
        Queue a message.

        @return: fires as C{sendData} of the connection that it will be sent over; has
            failed with L{SendBufferFull} if there is no room.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        if isinstance(data, bytearray | memoryview):
            data = bytes(data)  # which its owner cannot change meanwhile
        if not isinstance(data, str | bytes):
            raise TypeError(f"a message is str or bytes, not {type(data).__name__}")
        message = QueuedMessage(data)
        full = self._accept(message)
        return message if full is None else fail(full)

    def ask(self, answer: PendingAnswer, body: bytes) -> Deferred[None]:
        """
        Queue a request.

        @param answer: fires with its answer; fails with L{SendBufferFull}, now, if
            there is no room.
        """
        request = QueuedRequest(self, answer, body)
        full = self._accept(request)
        if full is not None:
            answer.asker = None
            answer.errback(full)
        return request

    def _accept(self, message: QueuedMessage) -> SendBufferFull | None:
        """Add a message to the end; return why not, if there is no room."""
        if self._cost + message.cost > self._limit:
            return SendBufferFull(
                f"{self._cost} of {self._limit} bytes wait for a connection already: "
                "wait for whenConnected(), or raise sendBuffer="
            )
        self.append(message)
        self._cost += message.cost
        return None

    def release(self, message: QueuedMessage) -> None:
        """Keep nothing of a message that need not be sent."""
        self.remove(message)
        self._cost -= message.cost
        self.tellSent()

    def take(self) -> QueuedMessage:
        """Take the oldest message, of which there must be one."""
        message = self.popleft()
        self._cost -= message.cost
        return message

    def takeEarly(self) -> list[QueuedMessage]:
        """Take the oldest messages, as many as may leave before the WELCOME."""
        taken: list[QueuedMessage] = []
        room = EARLY_WINDOW
        while self and self[0].mayBeEarly and self[0].cost <= room:
            taken.append(self.take())
            room -= taken[-1].cost
        return taken

    def putBack(self, messages: list[QueuedMessage]) -> None:
        """Have messages wait that were taken, before all others."""
        self.extendleft(reversed(messages))
        self._cost += sum(message.cost for message in messages)

    def fail(self, reason: AESMError) -> None:
        """Fail all messages: they will not be sent."""
        while self:
            self.take().fail(reason)
        while self._draining:
            self._draining.popleft().errback(closedError(reason))


class EarlyMessages:
    """
    Messages of a session that no server has accepted yet.

    @ivar messages: the messages, until they follow.
    @ivar connection: has the session.
    """

    def __init__(self, messages: list[QueuedMessage], connection: Connection) -> None:
        """Send messages over a connection that nothing carries yet."""
        self.messages = messages
        self.connection = connection
        self._sent = [connection.sendData(message.data) for message in messages]

    def follow(self) -> None:
        """From now on what becomes of the messages is what becomes of the session."""
        for message, sent in zip(self.messages, self._sent, strict=True):
            message.follow(sent)
        self.messages, self._sent = [], []


class Waiters:
    """The Deferreds of those who wait for a connection."""

    def __init__(self) -> None:
        # With the attempts that may fail still; None for any number.
        self._attempts: dict[Deferred[Connection], int | None] = {}

    def add(self, attempts: int | None) -> Deferred[Connection]:
        """Wait, for as many failed attempts; None for any number."""
        waiter: Deferred[Connection] = ReactorDeferred(self._cancel)
        self._attempts[waiter] = attempts
        return waiter

    def countFailure(self) -> Collection[Deferred[Connection]]:
        """Count an attempt that failed; return those who wait for no more."""
        for waiter, attempts in self._attempts.items():
            if attempts is not None:
                self._attempts[waiter] = max(0, attempts - 1)
        return [waiter for waiter, left in self._attempts.items() if left == 0]

    def tell(
        self,
        outcome: Connection | Failure,
        whom: Collection[Deferred[Connection]] | None = None,
    ) -> None:
        """Fire those who wait still: the callback of one may cancel another."""
        for waiter in list(self._attempts) if whom is None else whom:
            if waiter in self._attempts:
                del self._attempts[waiter]
                waiter.callback(outcome)

    def _cancel(self, waiter: Deferred[Connection]) -> None:
        """Forget somebody who does not wait any more."""
        del self._attempts[waiter]


def tellStopped(
    result: _T,
    reason: Exception,
    former: Connection | None,
    queue: MessageQueue,
    waiters: Waiters,
    retrieved: SessionStream,
    audience: Audience | None,
    isNews: bool,
) -> Deferred[_T]:
    """
    Tell those who wait that the service has stopped, and the audience last.

    @param former: the connection of a session that nothing carries.
    @param isNews: as L{Audience.stopped<aesm.client.observer.Audience.stopped>}.
    @return: fires with C{result} once the handler is done with it.
    """
    ours = asOurs(reason)
    if former is not None and not former.isOver:
        former.finish(ours)
    queue.fail(ours)
    waiters.tell(Failure(reason))
    retrieved.end(closedError(ours))
    told = succeed(None) if audience is None else audience.stopped(reason, isNews)
    return told.addCallback(lambda nothing: result)
