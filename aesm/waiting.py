"""
What waits: users for an acknowledgement, or for room to send; messages for a
connection.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from aesm.acknowledgement import LazyDeferred
from aesm.errors import AESMError
from aesm.stream import closedError, costOf

if TYPE_CHECKING:
    from aesm.acknowledgement import Acknowledgement
    from aesm.core.outbox import Outbox

__all__ = ["Held", "Waiting"]

_order = count()  # breaks ties between equal counts


class Waiting:
    """
    Who waits for what the peer does with our messages.
    """

    __slots__ = ("_acknowledgements", "_draining", "_outbox")

    def __init__(self, outbox: Outbox) -> None:
        """
        @param outbox: the messages.
        """
        self._outbox = outbox
        self._acknowledgements: list[tuple[int, int, Acknowledgement]] = []  # a heap
        self._draining: deque[Deferred[None]] = deque()

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """
        Fire a Deferred once so many messages are acknowledged.

        @param acknowledgement: what to fire.
        @param count: messages from the session's start.
        """
        heapq.heappush(self._acknowledgements, (count, next(_order), acknowledgement))

    def drain(self) -> Deferred[None]:
        """
        Wait until there is room to send.

        @return: fires once there is.
        """
        draining: Deferred[None] = Deferred(self._draining.remove)
        self._draining.append(draining)
        return draining

    def tell(self) -> None:
        """
        The peer has more messages: tell who waited for that.
        """
        waiting, done = self._acknowledgements, self._outbox.acknowledged
        while waiting and waiting[0][0] <= done:
            acknowledgement = heapq.heappop(waiting)[2]
            if not acknowledgement.called:
                acknowledgement.callback(None)
        while self._draining and self._outbox.roomy:
            self._draining.popleft().callback(None)

    def fail(self, reason: AESMError) -> None:
        """
        Nothing more will be acknowledged: tell who waits.

        @param reason: why.
        """
        waiting, self._acknowledgements = self._acknowledgements, []
        for _, _, acknowledgement in sorted(waiting):
            if not acknowledgement.called:
                acknowledgement.errback(closedError(reason))
        while self._draining:
            self._draining.popleft().errback(closedError(reason))


class Held(LazyDeferred[None]):
    """
    A message that waits for a connection: fires as what sends it does.  Cancelling
    it stops the waiting, not the message.

    @ivar data: the message.
    @ivar cost: what it counts, bytes.
    """

    def __init__(self, data: str | bytes) -> None:
        """
        @param data: the message.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        super().__init__()
        self.data = data
        self.cost = costOf(data)
        self._asked = False
        self._sent: Deferred[None] | None = None

    def begin(self) -> None:
        """
        Somebody wants to know.
        """
        self._asked = True
        if self._sent is not None:
            self._sent.chainDeferred(self)

    def passOn(self, sent: Deferred[None]) -> None:
        """
        Wait for another Deferred from now on.

        @param sent: fires once the server has the message.
        """
        self._sent = sent
        self.data = b""
        if self._asked:
            sent.chainDeferred(self)
