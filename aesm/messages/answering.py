"""
Requests to a handler: they are begun in the order in which they came, and run beside
each other, and beside packets, until each is answered::

    answering = Answering(handler, connection)
    running = answering.begin(connection, (micros, body, number))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from aesm.errors import CloseCode, ConnectionClosed, MessageTooBig, RequestFailed
from aesm.interfaces import IMessageHandler
from aesm.messages.acknowledgements import Acknowledgement
from aesm.messages.running import running as runningOf
from aesm.messages.running import tellFailed

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.requests import Request


# Requests of one connection that a handler has at a time; the next one, and what is
# behind it, waits.
MOST_RUNNING: Final = 1000
ANSWERS: Final = (str, bytes, bytearray, memoryview)


def _notTaken(connection: Connection, request: Request) -> None:
    """Refuse a request: the handler has no method for any."""
    raise RequestFailed(CloseCode.NOT_TAKEN, "no requests are taken here")


class Answering:
    """
    Has a handler answer the requests of one connection.

    @ivar requests: those of the connection.
    """

    __slots__ = (
        "_connection",
        "_most",
        "_outbox",
        "_receive",
        "_running",
        "_waiting",
        "_withdrawn",
        "requests",
    )

    def __init__(self, handler: IMessageHandler, connection: Connection) -> None:
        self._receive: Callable[[Any, Any], Any] = getattr(
            handler, "requestReceived", _notTaken
        )
        self._connection = connection
        self._outbox = connection.session.outbox
        self.requests = connection.requests
        self._running: dict[int, Deferred[Any]] = {}  # by the request's number
        self._waiting: deque[Deferred[None]] = deque()  # for one that ends
        self._withdrawn: set[int] = set()  # before they were begun
        self._most = MOST_RUNNING  # of these, until it is seen which are done with

    def begin(
        self, connection: Connection, item: tuple[int, bytes, int]
    ) -> Deferred[None] | None:
        """
        Have a request answered.

        @param item: what is in a pile of it: when it was sent, its body, and its
            number, counted from 1.
        @return: None if that has begun; else fires once it has, when there is room for
            one more, and for its answer.
        """
        micros, body, number = item
        request = self.requests.begin(number - 1, micros, body)
        if not self._outbox.roomy or len(self._running) >= MOST_RUNNING:
            return self._room().addCallback(
                lambda nothing: self.begin(connection, item)
            )
        if self._withdrawn and self._isWithdrawn(request):
            return None
        try:
            result = self._receive(connection, request)
            # As usual; there is room, as seen above.
            if type(result) is bytes or isinstance(result, ANSWERS):
                sent = self.requests.answer(request, result)
                if sent is not None:
                    sent.addErrback(self._ebNotSent, request)
                return None
            running = runningOf(result)
            if running is None:
                self._cbDone(result, request)
                return None
        except Exception:
            self._ebFailed(Failure(), request)
            return None
        self._running[request.number] = running
        running.addCallback(self._cbDone, request)
        running.addErrback(self._ebFailed, request)
        running.addBoth(self._cbEnded, request.number)
        return None

    def _room(self) -> Deferred[None]:
        """Wait for room."""
        if not self._outbox.roomy:
            # Who asks, and does not take the answers, is held back.
            return self._connection.drain()
        room: Deferred[None] = Deferred()
        self._waiting.append(room)
        return room

    def withdrawn(self, number: int) -> None:
        """Cancel what is done for a request, since nobody waits for its answer."""
        running = self._running.get(number)
        if running is not None:
            running.cancel()
        elif number >= (kept := self._connection.session.inbox.keptCount):
            # Those below were begun, or there were none of these numbers.  To look
            # each time would take as long as there are many, for each of them.
            if len(self._withdrawn) >= self._most:
                self._withdrawn = {each for each in self._withdrawn if each >= kept}
                self._most = MOST_RUNNING + 2 * len(self._withdrawn)
            self._withdrawn.add(number)

    def _isWithdrawn(self, request: Request) -> bool:
        """Refuse a request for whose answer nobody waits any more."""
        if request.number not in self._withdrawn:
            return False
        self._withdrawn.remove(request.number)
        self._refuse(request, CloseCode.WITHDRAWN, "withdrawn")
        return True

    def _cbDone(self, result: Any, request: Request) -> Deferred[Any] | None:
        """Send the answer; fires once there was room for it, if there is none now."""
        if not request.isOpen:  # it has answered by itself
            return None
        if not isinstance(result, ANSWERS):
            raise TypeError(
                f"requestReceived gave {result!r}, which is no answer: return str or "
                "bytes, or raise RequestFailed"
            )
        connection = self._connection
        if not self._outbox.roomy:
            roomy = connection.drain()
            return roomy.addCallback(lambda nothing: self._answer(request, result))
        self._answer(request, result)
        return None

    def _answer(self, request: Request, data: Any) -> None:
        """Send the answer, for which there is room."""
        sent = self.requests.answer(request, data)
        if sent is not None:
            sent.addErrback(self._ebNotSent, request)

    def _ebNotSent(self, failure: Failure, request: Request) -> None:
        """Refuse a request whose answer cannot be sent."""
        if failure.check(MessageTooBig):
            self._refuse(request, CloseCode.TOO_BIG, "the answer is larger than taken")
        else:
            self._ebFailed(failure, request)

    def _ebFailed(self, failure: Failure, request: Request) -> None:
        """Refuse a request: its handler does, or has failed."""
        if not request.isOpen:
            return
        error, connection = failure.value, self._connection
        isClosing = connection.isClosing or connection.isEnding
        if isinstance(error, RequestFailed):
            try:
                self._refuse(request, error.code, error.reason)
                return
            except Exception:  # with that nobody can be refused
                failure = Failure()
        if request.isWithdrawn:
            self._refuse(request, CloseCode.WITHDRAWN, "withdrawn")
        elif not (isClosing and failure.check(ConnectionClosed)):
            self._tell(failure)
            self._refuse(request, CloseCode.INTERNAL_ERROR, "internal error")

    def _tell(self, failure: Failure) -> None:
        """Log that the handler has failed, but not as often as a peer can have it."""
        connection = self._connection
        if connection._owner.tells(connection.peer):
            tellFailed("with a request over {connection}", failure, connection)

    def _refuse(self, request: Request, code: int, reason: str) -> None:
        """Refuse a request; who asked may be gone."""
        sent = request.refuse(reason, code)
        if not isinstance(sent, Acknowledgement):
            sent.addErrback(lambda failure: None)

    def _cbEnded(self, result: object, number: int) -> None:
        """Let another one begin, when all is said to this one."""
        self._running.pop(number, None)
        if self._waiting and len(self._running) < MOST_RUNNING:
            self._waiting.popleft().callback(None)
