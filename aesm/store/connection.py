"""
Connections whose messages outlive the process: what they accept, and what they
acknowledge, is committed to a store first::

    journal = Journal(Spool(path), reactor)
    connection = DurableConnection(journal, owner, session, **options)
    connection.begin().addCallback(welcome)

While nothing can be written, nothing is acknowledged or handed to a handler, and
sending is refused, except to handlers at work: what these send and that they have
handled a message is committed together, once that can be done again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from aesm.core.messages.batch import Batch, Body, Message
from aesm.core.messages.frames import (
    EncodedRequest,
    EncodedResponse,
    Messages,
    Requests,
    markedOf,
)
from aesm.core.messages.session import Session
from aesm.errors import AESMError, SessionLost, SpoolError
from aesm.messages.acknowledgements import Acknowledgement, FailedAcknowledgement
from aesm.messages.causes import CAUSE
from aesm.messages.connection import Connection
from aesm.messages.owner import ConnectionOwner
from aesm.messages.stream import costOf
from aesm.store.interface import ISessionStore
from aesm.store.journal import Journal, JournalState
from aesm.store.requests import DurableRequests, handing
from aesm.store.stream import DurableStream
from aesm.store.undoing import Numbering, elsewhere, hasLeft, haveAnswers, takeOut

if TYPE_CHECKING:
    from aesm.core.channel.channel import Channel
    from aesm.messages.dispatcher import Dispatcher
    from aesm.messages.protocol import AESMProtocol

_log = Logger(namespace="aesm.durable")

# What is stored, and when.
#
# The journal commits once a turn.  Between commits changes gather in the connection;
# write() moves them to the store, and returns what makes them visible, to be called
# once they are committed.  So the peer never learns of what a crash could undo:
#
#     what happens             gathers in              once it is committed
#     a client is let in       (stored at once, by     the WELCOME names the session
#                              begin(); a server's)
#     a message is sent        staged in the outbox:   released in the outbox: it may
#                              numbered, not sendable  leave
#     one comes, no handler    _arrived                in retrieved, and acknowledged
#     one comes, a handler     (not stored: the peer   -
#                              has it until it is
#                              acknowledged)
#     the handler is done      _handledCount, -Cost    acknowledged, the window moves on
#     one of retrieved is      the stream              the window moves on
#     taken
#     the peer acknowledges    the outbox              - (nobody waits for the discard)
#     another process goes on  (leave: what is due     that process may read it
#     with the session         was written just now)
#
# Hence also what a flush is for here: before the commit there is nothing that it could
# hand over, so a send asks for none, and the commit asks for one only if it has made
# something visible.
#
# A failure of the store leaves all of this as it is: write() is called in each turn
# all the same, the store gathers, and what it returned is called when the store has
# caught up.  What gathers is bounded: send() refuses, messages without a handler are
# not acknowledged and so use up the peer's window, and those for a handler wait in
# _undelivered, under the same window.


class DurableConnection(Connection):
    """
    A connection whose session is stored.

    @ivar retrieved: what came from the peer, is stored, and nobody has taken.
    @ivar isLeft: whether another process writes the session from now on.
    """

    retrieved: DurableStream
    requestsType = DurableRequests

    def __init__(
        self, journal: Journal, owner: ConnectionOwner, session: Session, **options: Any
    ) -> None:
        """
        @param journal: told of changes, commits them.
        @param owner: as L{Connection}.
        @param session: as L{Connection}, not begun or restored.
        @param options: more options of L{Connection}.
        """
        super().__init__(owner, session, **options)
        # The window of 0 makes the stream report each packet, as it is stored.
        self.retrieved = DurableStream(
            self, 0, options.get("lock"), options.get("arrivals")
        )
        session.outbox.stage()
        inbox = session.inbox
        self._journal = journal
        self._peerText = str(self.peer)
        self._stored = session.outbox.count  # messages to the peer given to the store
        self._discarded = [0, 0]  # below which numbers, incoming and outgoing
        # Messages to the peer that are in a commit, of each the batches.
        self._uncommitted: deque[list[Batch]] = deque()
        # Without a handler: messages that came and were not given to the store, and the
        # cost of these and of those in the commit that is under way.
        self._arrived: list[tuple[int, Messages]] = []  # with their first numbers
        self._arrivedCost = 0
        self._next = inbox.received  # the number of the next that comes
        # With a handler: what it is done with since the last write, and in all, as the
        # next process is to begin with.
        self._handledCount = self._handledCost = 0
        self._receivedCount, self._receivedCost = inbox.keptCount, inbox.receivedCost
        # As the inbox's, and what the commit that is under way adds to it.
        self._takenCost = inbox.takenCost
        # What came for the handler while it could not be handed over: the store has a
        # failure, or there is something older here.
        self._undelivered: deque[Callable[[], object]] = deque()
        # Costs of restored packets that were handed over, in order: they are stored and
        # acknowledged already, so that it is the stream that counts them as taken.
        self._restoredCosts: deque[int] = deque()
        # Where others can claim sessions: whose message has caused what is staged, each
        # from a number on.
        self._fences = journal.store.fences
        self._causes: list[tuple[int, Connection | None]] = [(0, None)]
        self._numbering = Numbering(self) if self._fences else None
        self._isAttended = False  # whether the store knows that the peer is here
        self._overForGood = False  # the next process is not to go on with the session
        self.isLeft = False
        journal.sessions[session.name] = self

    def begin(self) -> Deferred[None]:
        """Store the session, before its peer knows of it: L{ISessionStore.begin}."""
        return self._journal.begin(self.session.name, self._peerText, self._state())

    def abandon(self) -> None:
        """Give a session up that was begun, since its peer will not hear of it."""
        self._journal.abandon(self)

    def leave(self, reason: AESMError) -> AESMProtocol | None:
        """
        Leave the session, as it was last written, to another process; C{finish} is to
        be called next.

        @param reason: for who still sends here.
        @return: the protocol that has carried it.
        """
        self.retrieved.leave()
        self.lose()
        self._reason = reason  # who waits is told in C{finish}, when all is settled
        return self.detach()

    def lose(self) -> None:
        """Write nothing more of the session: another process does."""
        self.isLeft = True
        self._journal.sessions.pop(self.session.name, None)

    def touch(self) -> None:
        """Write how the session is at the end of this turn, also if nothing changes."""
        self._journal.touch(self)

    @property
    def requests(self) -> DurableRequests:
        """What is asked, and to be answered."""
        return cast(DurableRequests, super().requests)

    @property
    def isClosing(self) -> bool:
        """As L{Connection.isClosing}, which it is here once others have the session."""
        return self.isLeft or super().isClosing

    @property
    def _isOurs(self) -> bool:
        """Whether this process goes on with the session, or ends it."""
        return self._journal.state is JournalState.RUNNING and not self.isLeft

    # Connection

    def attach(self, protocol: AESMProtocol, channel: Channel) -> None:
        """Be carried by a protocol from now on; address and name may be new."""
        super().attach(protocol, channel)
        self._journal.touch(self)

    def detach(self) -> AESMProtocol | None:
        """Be carried by none from now on."""
        if self._fences:
            self._journal.touch(self)
        return super().detach()

    def sendData(self, data: Message) -> Deferred[None]:
        """
        Send a message, if it can be stored now or is a handler's.

        @return: as L{Connection.sendData}; fails with L{SpoolError} before anything is
            accepted.
        """
        # As canAppend, without its call (CostTests.test_burst).
        if self._journal.store.failure is None and not self._fences:
            return super().sendData(data)
        # Not into the batch that is open, if this turn began before the failure, or
        # that has another cause.
        return self.send(data, self.closeSlow)

    def send(
        self, data: Message, closeSlow: bool, kind: type | None = None
    ) -> Deferred[None]:
        """
        Send a message, if it can be stored now or is a handler's.

        @return: as L{Connection.send}; fails with L{SpoolError} before anything is
            accepted.
        """
        failure = self._journal.store.failure
        if failure is not None and (self.dispatcher is None or not closeSlow):
            return self._refuse(SpoolError(f"nothing was sent: {failure}"), closeSlow)
        cause = CAUSE.get() if self._fences else None
        if cause is not None and hasLeft(cause):
            return FailedAcknowledgement(elsewhere())
        acknowledgement = Acknowledgement()
        acknowledgement.watcher = self._numbering or self
        try:
            acknowledgement.count = self.accept(data, cause, kind)
        except AESMError as refused:
            return self._refuse(refused, closeSlow)
        return acknowledgement

    def accept(
        self, data: Message, cause: Connection | None = None, kind: type | None = None
    ) -> int:
        """
        Have a message in the session, to be stored at the end of this turn.

        @param cause: whose message has caused it, where others can claim sessions: it
            is in no batch with what has another cause.
        @param kind: as L{Outbox.add}.
        @return: the number of messages accepted, with it.
        @raise AESMError: it cannot be sent.
        """
        if cause is not self._causes[-1][1]:
            self.closeBatch()
            self._causes.append((self._outbox.count, cause))
        batch, outbox = self.batch, self._outbox
        micros = self._beginBatch() if batch is None else batch.micros
        count = outbox.add(data, micros, kind)
        if self._protocol is None:
            self.account()
        else:
            self.batch = outbox.open
        if batch is None:  # else this was done with the first message of the batch
            self._journal.touch(self)  # and it is the commit that flushes
        return count

    @property
    def canAppend(self) -> bool:
        """Whether what is sent may share a batch, whatever has caused it."""
        return self._journal.store.failure is None and not self._fences

    def _causeOf(self, number: int) -> Connection | None:
        """Tell whose message has caused one that is staged."""
        causes = reversed(self._causes)
        return next((cause for first, cause in causes if first <= number), None)

    def undo(self, numbers: Collection[int]) -> Callable[[], None] | None:
        """
        Take out what sessions have caused that others have by now, of what is not
        committed, and number anew what is behind that.

        @param numbers: of the first messages of what the store has left out.
        @return: to be called when all that is lost is settled: tells who waits.  None
            if there are requests or answers among it, which others know by their
            numbers: then C{leave} is to follow, and all goes on from what is stored.
        """
        outbox, waiting, asked = self._outbox, self.waiting, self._outbox.asked or ()
        self.closeBatch()
        if self.anyRequests is not None:
            self.requests.undo()
        staged = outbox.staged or []
        causes = [(batch, self._causeOf(batch.first)) for batch in staged]
        gone = {batch.first for batch, cause in causes if hasLeft(cause)}.union(numbers)
        if not gone:
            return _nothing
        undone = takeOut((*self._uncommitted, staged), gone)
        outbox.forget(undone)
        self.account()
        holes = [(batch.first, len(batch.bodies)) for batch in undone]
        self._stored -= sum(size for first, size in holes if first in numbers)
        self.renumbered(holes)
        left = [(each.first, cause) for each, cause in causes if not hasLeft(cause)]
        self._causes = [(0, None), *left]
        if haveAnswers(undone) or any(number >= min(gone) for number in asked):
            return None
        former, self._numbering = cast(Numbering, self._numbering), Numbering(self)
        former.move(holes, self._numbering)
        moved = [] if waiting is None else waiting.takePast(min(gone))
        return partial(_watchAll, former, moved)

    def renumbered(self, holes: Sequence[tuple[int, int]]) -> None:
        """
        Messages were taken out of what is not committed, and others have their numbers.

        @param holes: of those that were behind one another the first, and how many.
        """

    def acknowledged(self) -> None:
        """The peer has more messages: they need not be stored any more."""
        super().acknowledged()
        self._journal.touch(self)

    def arrived(self, messages: Messages) -> None:
        """Messages came: hand them to the handler, or store them."""
        if self.dispatcher is None:
            self.keep(self._next, messages)
        elif self._undelivered or not self._journal.ready:
            self.deliver(partial(self.dispatcher.arrived, messages))
        else:
            self.dispatcher.arrived(messages)

    def keep(self, first: int, messages: Messages) -> None:
        """
        Store what came, for C{retrieved}.

        @param first: the number of the first of them.
        """
        self._arrived.append((first, messages))
        self._next = first + len(messages.data)
        self._countArrived(messages.cost)
        self._journal.touch(self)

    def settled(self, first: int, count: int, cost: int) -> None:
        """Count messages, from a number on, with no place in C{retrieved}."""
        self._next = first + count
        self.retrieved.settle(first, count)
        self.handled(count, cost)

    def deliver(self, call: Callable[[], object]) -> None:
        """Hand something to the handler, when the store can be written."""
        if self._undelivered or not self._journal.ready:
            self._undelivered.append(call)
            self._journal.block(self)
        else:
            call()

    def requestTaken(self, cost: int) -> None:
        """A request is answered, or refused: that is written with its answer."""
        self._handledCost += cost
        self._journal.touch(self)

    def writable(self) -> None:
        """The store can be written again: hand over what came meanwhile."""
        while self._undelivered:
            self._undelivered.popleft()()

    def handOver(self) -> None:
        """Hand the handler what was restored and nobody took."""
        dispatcher = cast("Dispatcher", self.dispatcher)
        for packet in self.retrieved:
            cost, call = handing(dispatcher, packet)
            self._restoredCosts.append(cost)
            self._undelivered.append(call)
        self.writable()

    def handled(self, count: int, cost: int) -> None:
        """The handler is done with messages."""
        if not self._isOurs or self.isOver:
            return  # the next process hands them over again
        while count and self._restoredCosts:
            self.retrieved.getData()
            count -= 1
            cost -= self._restoredCosts.popleft()
        self._handledCount += count
        self._handledCost += cost
        self._receivedCount += count
        self._receivedCost += cost
        self._journal.touch(self)

    def packetsTaken(self, cost: int) -> None:
        """The application has taken packets; the stream knows which."""
        self._journal.touch(self)

    def streamFinished(self) -> None:
        """The session is over, and the last packet was taken."""
        if not self.isLeft:
            self._journal.forget(self)
        super().streamFinished()

    def _withdraw(self) -> list[Body]:
        """Take what never left out of the session, also what is being committed."""
        uncommitted = list(chain.from_iterable(self._uncommitted))
        for batches in self._uncommitted:
            batches.clear()
        return self._outbox.withdraw(uncommitted)

    def finish(self, reason: AESMError) -> None:
        """The session is over; what is unread stays stored."""
        # A process that ends takes its connections with it, not their sessions.
        self._overForGood = self._isOurs
        self.retrieved.isLeft = not self._isOurs
        lost = self._outbox.count - self._outbox.acknowledged
        isRunning = self._journal.state is JournalState.RUNNING
        if lost and isRunning and isinstance(reason, SessionLost):
            # Who sent them may have been a process before this one.
            _log.warn(
                "{count} messages to {peer} may not have arrived: {reason}",
                count=lost,
                peer=self._peerText,
                reason=str(reason),
            )
        super().finish(reason)
        self._countArrived(-self._arrivedCost)
        self._undelivered.clear()
        if self.retrieved and self._overForGood:
            self._journal.touch(self)

    def _countArrived(self, cost: int) -> None:
        """
        Account for messages that came and are not committed: the registry, which
        accounts for what is unread, does not know of them yet.

        @param cost: of those that come in addition; negative for those that go.
        """
        self._arrivedCost += cost
        if self._owner.budget is not None:
            self._owner.budget.account(cost)

    # For Journal

    def write(self, store: ISessionStore) -> Callable[[], AESMProtocol | None]:
        """
        Add to the store what has changed since the last time.

        @return: to be called once that is committed; returns what has something to
            send then, if anything has.
        """
        if self.isLeft:
            return _nothing
        outbox = self._outbox
        self.batch = None  # what is sent from now on makes up the next batch
        staged = outbox.takeStaged()
        self._uncommitted.append(staged)
        if staged:
            self.account()  # a burst does so once, here
        self._append(store, staged)
        if self._fences:
            self._causes = [(outbox.count, None)]
        arrived, self._arrived = self._arrived, []
        count, self._handledCount = self._handledCount, 0
        for first, messages in arrived:
            count += len(messages.data)
            if not isinstance(messages, Requests):
                frames = b"".join(Batch.of(messages).encode(True))
                number = len(messages.data)
                store.append(self.session.name, False, first, number, frames)
                continue
            for number, body in enumerate(messages.data, first):
                self.requests.store(store, number, messages.micros, cast(bytes, body))
            self.retrieved.settle(first, len(messages.data))
        if self.anyRequests is not None:
            self._receivedCost += self.requests.write(store, self._receivedCount)
        taken, self._handledCost = self._handledCost + self.retrieved.taken(), 0
        self._takenCost += taken
        # Of a session that is over nothing can be sent any more; and what others store
        # of what was sent is not ours to remove.
        gone = self._stored if self._overForGood else outbox.acknowledged
        self._discard(store, True, min(gone, self._stored))
        self._discard(store, False, self.retrieved.first)
        store.put(self.session.name, self._peerText, self._state())
        if self._fences and self._isAttended is not self.isAttached:
            self._isAttended = self.isAttached
            store.attend(self.session.name, self._isAttended)
        return partial(self._committed, staged, arrived, count, taken)

    def _append(self, store: ISessionStore, batches: Iterable[Batch]) -> None:
        """Add messages to the peer to the store."""
        for batch in batches:
            cause = self._causeOf(batch.first) if self._fences else None
            because = "" if cause is None else cause.session.name
            count, frames = len(batch.bodies), b"".join(batch.encode(True))
            store.append(self.session.name, True, batch.first, count, frames, because)
            self._stored = max(self._stored, batch.first + count)

    def _discard(self, store: ISessionStore, outgoing: bool, before: int) -> None:
        """Remove messages from the store that were not removed before."""
        if before > self._discarded[outgoing]:
            self._discarded[outgoing] = before
            store.discard(self.session.name, outgoing, before)

    def _state(self) -> dict[str, Any]:
        """Tell what L{aesm.store.restoring} needs beside the messages."""
        outbox, inbox = self._outbox, self.session.inbox
        # What the handler is not done with comes again from the peer.
        received = (
            (inbox.received, inbox.receivedCost)
            if self.dispatcher is None
            else (self._receivedCount, self._receivedCost)
        )
        return {
            "address": self.address,
            "peerName": self.peerName,
            "over": self._overForGood,
            "maxMessage": outbox.peer.maxMessage,
            "requests": outbox.peer.requests,
            "acknowledged": outbox.acknowledged,
            "acknowledgedCost": outbox.acknowledgedCost,
            "limit": outbox.limit,
            "received": received[0],
            "receivedCost": received[1],
            "takenCost": self._takenCost,
            "window": inbox.window,
            "first": self.retrieved.first,
            "taken": self.retrieved.ranges,
        }

    def _committed(
        self,
        staged: list[Batch],
        arrived: list[tuple[int, Messages]],
        count: int,
        taken: int,
    ) -> AESMProtocol | None:
        """
        What a call of C{write} has added is committed: it may be sent, and is to be
        acknowledged.

        @param staged: messages to the peer.
        @param arrived: messages for C{retrieved}.
        @param count: messages of the peer that are in our keeping now.
        @param taken: the cost of those that are done with, bytes.
        @return: what has something to send, if anything has.
        """
        if self.isOver:
            return None
        inbox = self.session.inbox
        self._uncommitted.popleft()
        self._outbox.release(staged)  # none, if they were withdrawn
        inbox.keep(count)
        inbox.take(taken)
        for first, messages in arrived:
            self._countArrived(-messages.cost)  # the stream's registry goes on
            self._retrieve(first, messages)
        # Nothing became visible if it was only acknowledgements that were committed, as
        # after nearly every message that is sent.
        return self._protocol if staged or count or taken else None

    def made(self, number: int, micros: int, body: str | bytes) -> Any:
        """As L{DurableRequests.made}, which most connections have no need of."""
        if isinstance(body, EncodedRequest | EncodedResponse):
            return self.requests.made(number, micros, body)
        return body

    def _retrieve(self, first: int, messages: Messages) -> None:
        """Have messages in C{retrieved}, which are stored by now."""
        self.retrieved.place(first)
        micros, data, cost = messages.micros, messages.data, messages.cost
        if type(messages) is not Messages:
            made = self.requests.made
            marked = enumerate(markedOf(messages), first)
            data = [made(number, micros, body) for number, body in marked]
            cost = sum(map(costOf, data))
            self.account()
        self.retrieved.extend(micros / 1e6, data, cost)
        self.retrieved.skip()


def _watchAll(
    numbering: Numbering, waiters: Iterable[tuple[int, Acknowledgement]]
) -> None:
    """Have those wait, for what that is now, who did for so many messages each."""
    for count, waiter in waiters:
        if not waiter.called:  # else it was cancelled
            numbering.watch(waiter, count)


def _nothing() -> None:
    """Nothing follows."""
