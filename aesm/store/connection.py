"""
Connections whose messages outlive the process: what they accept, and what they
acknowledge, is committed to a store first::

    journal = Journal(Spool(path), reactor)
    for connection, over in DurableConnection.load(journal, owner, sendBuffer): ...
    connection = DurableConnection(journal, owner, session, **options)

While nothing can be written, nothing is acknowledged or handed to a handler, and
sending is refused, except to handlers at work: what these send and that they have
handled a message is committed together, once that can be done again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from aesm.core.messages.batch import Batch, Body
from aesm.core.messages.frames import (
    EncodedRequest,
    EncodedResponse,
    Messages,
    Requests,
    markedOf,
)
from aesm.core.messages.hello import Hello
from aesm.core.messages.outbox import Message
from aesm.core.messages.session import Session
from aesm.errors import AESMError, SessionLost, SpoolError
from aesm.messages.acknowledgements import Acknowledgement
from aesm.messages.connection import Connection
from aesm.messages.owner import ConnectionOwner
from aesm.messages.stream import costOf
from aesm.store.interface import ISessionStore, Stored
from aesm.store.journal import Journal, JournalState
from aesm.store.requests import DurableRequests, handing
from aesm.store.stream import DurableStream, readBlob
from aesm.trust.keys import PublicKey

if TYPE_CHECKING:
    from aesm.core.channel.channel import Channel
    from aesm.messages.owner import PacketDispatcher
    from aesm.messages.protocol import AESMProtocol

__all__ = ["DurableConnection"]

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
        self._uncommitted: list[Batch] = []  # messages to the peer, as they are sent
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
        self._overForGood = False  # the next process is not to go on with the session
        self._left = False  # to another process, which writes the session from now on
        journal.sessions.add(session.name)

    @classmethod
    def load(
        cls, journal: Journal, owner: ConnectionOwner, sendBuffer: int, **options: Any
    ) -> list[tuple[DurableConnection, bool]]:
        """
        Make the connections of all sessions that are stored.

        @param journal: of the store that they are in; closed if they cannot be read.
        @param sendBuffer: cost of unacknowledged messages to keep, bytes.
        @param options: more options of L{Connection}.
        @return: for each session the connection, under which there is no transport,
            and whether the session is over.
        @raise SpoolError: they cannot be read, or are damaged.
        """
        try:
            return [
                (
                    cls.restored(stored, journal, owner, sendBuffer, **options),
                    stored.state["over"],
                )
                for stored in journal.store.load()
            ]
        except SpoolError:
            journal.close()
            raise
        except (LookupError, TypeError, ValueError) as error:
            journal.close()
            raise journal.store.damaged(repr(error)) from None

    @classmethod
    def restored(
        cls,
        stored: Stored,
        journal: Journal,
        owner: ConnectionOwner,
        sendBuffer: int,
        **options: Any,
    ) -> DurableConnection:
        """
        Make the connection of a stored session, under which there is no transport.

        @param sendBuffer: as C{load}.
        @param options: as C{load}.
        @raise LookupError: what is stored is damaged.
        @raise TypeError: the same.
        @raise ValueError: the same.
        """
        state = stored.state
        session = Session(sendBuffer, state["window"], stored.name)
        done, kept = state["acknowledged"], []
        for blob in stored.outgoing:
            batch = Batch.of(readBlob(blob))
            if blob.number < done:  # some of those that were sent together
                batch.cut(done - blob.number)
            kept.append(batch)
        takes = state["requests"]
        session.outbox.meet(Hello(maxMessage=state["maxMessage"], requests=takes))
        session.outbox.restore(done, state["acknowledgedCost"], state["limit"], kept)
        session.inbox.restore(
            state["received"], state["receivedCost"], state["takenCost"]
        )
        address = state["address"]
        connection = cls(
            journal,
            owner,
            session,
            address=address if isinstance(address, str) else tuple(address),
            peer=PublicKey.fromText(stored.peer),
            peerName=state["peerName"],
            receiveBuffer=state["window"],
            **options,
        )
        connection.retrieved.restore(
            state["received"],
            stored.incoming,
            state["first"],
            state["taken"],
            stored.requests,
            connection._made,
        )
        return connection

    def begin(self) -> Deferred[None]:
        """
        Store the session, before its peer knows of it.

        @return: as L{ISessionStore.begin}.
        """
        store = self._journal.store
        return store.begin(self.session.name, self._peerText, self._state())

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
        self._left = True
        self._journal.sessions.discard(self.session.name)
        self._fail(reason)
        return self.detach()

    @property
    def requests(self) -> DurableRequests:
        """What is asked, and to be answered."""
        return cast(DurableRequests, super().requests)

    @property
    def _isOurs(self) -> bool:
        """Whether this process goes on with the session, or ends it."""
        return self._journal.state is JournalState.RUNNING and not self._left

    # Connection

    def attach(self, protocol: AESMProtocol, channel: Channel) -> None:
        """Be carried by a protocol from now on; address and name may be new."""
        super().attach(protocol, channel)
        self._journal.touch(self)

    def sendData(self, data: Message) -> Deferred[None]:
        """
        Send a message, if it can be stored now or is a handler's.

        @return: as L{Connection.sendData}; fails with L{SpoolError} before anything is
            accepted.
        """
        if self._journal.store.failure is None:
            return super().sendData(data)
        # Not into the batch that is open, if this turn began before the failure.
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
            return fail(SpoolError(f"nothing was sent: {failure}"))
        batch, outbox = self._batch, self._outbox
        acknowledgement = Acknowledgement()
        acknowledgement.watcher = self
        try:
            micros = self._beginBatch() if batch is None else batch.micros
            acknowledgement.count = outbox.add(data, micros, kind)
        except AESMError as refused:
            return self._refuse(refused, closeSlow)
        if self._protocol is None:
            self.account()
        else:
            self._batch = outbox.open
        if batch is None:  # else this was done with the first message of the batch
            self._journal.touch(self)  # and it is the commit that flushes
        return acknowledgement

    def append(self, kind: type, body: bytes) -> int:
        """
        Send a request or a response, if all others of this turn are the same, and it
        can be stored.

        @return: as L{Connection.append}.
        """
        if self._journal.store.failure is not None:
            return 0
        return super().append(kind, body)

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
        """
        Count messages for which there is no place in C{retrieved}.

        @param first: the number of the first of them.
        """
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
        dispatcher = cast("PacketDispatcher", self.dispatcher)
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
        if not self._left:
            self._journal.forget(self)
        super().streamFinished()

    def _withdraw(self) -> list[Body]:
        """Take what never left out of the session, also what is being committed."""
        uncommitted, self._uncommitted = self._uncommitted, []
        return self._outbox.withdraw(uncommitted)

    def finish(self, reason: AESMError) -> None:
        """The session is over; what is unread stays stored."""
        # A process that ends takes its connections with it, not their sessions.
        self._overForGood = self._isOurs
        self.retrieved.isLeft = not self._isOurs
        lost = self._outbox.count - self._outbox.acknowledged
        if lost and self._overForGood and isinstance(reason, SessionLost):
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

    def write(self, store: ISessionStore) -> Callable[[], None]:
        """
        Add to the store what has changed since the last time.

        @return: to be called once that is committed.
        """
        if self._left:
            return _nothing
        outbox = self._outbox
        self._batch = None  # what is sent from now on makes up the next batch
        staged = outbox.takeStaged()
        self._uncommitted += staged
        self.account()  # a burst does so once, here
        self._stored = self._append(store, True, self._stored, staged)
        arrived, self._arrived = self._arrived, []
        count, self._handledCount = self._handledCount, 0
        for first, messages in arrived:
            count += len(messages.data)
            if not isinstance(messages, Requests):
                self._append(store, False, first, [Batch.of(messages)])
                continue
            for number, body in enumerate(messages.data, first):
                self.requests.store(store, number, messages.micros, cast(bytes, body))
            self.retrieved.settle(first, len(messages.data))
        if self.anyRequests is not None:
            self._receivedCost += self.requests.write(store, self._receivedCount)
        taken, self._handledCost = self._handledCost + self.retrieved.taken(), 0
        self._takenCost += taken
        # Of a session that is over nothing can be sent any more.
        acknowledged = self._stored if self._overForGood else outbox.acknowledged
        self._discard(store, True, acknowledged)
        self._discard(store, False, self.retrieved.first)
        store.put(self.session.name, self._peerText, self._state())
        return partial(self._committed, staged, arrived, count, taken)

    def _append(
        self,
        store: ISessionStore,
        outgoing: bool,
        number: int,
        batches: Iterable[Batch],
    ) -> int:
        """
        Add messages to the store.

        @param number: of the first of them.
        @return: the number behind the last.
        """
        for batch in batches:
            count, frames = len(batch.bodies), b"".join(batch.encode(True))
            store.append(self.session.name, outgoing, number, count, frames)
            number += count
        return number

    def _discard(self, store: ISessionStore, outgoing: bool, before: int) -> None:
        """
        Remove messages from the store, if there are any that were not removed before.
        """
        if before > self._discarded[outgoing]:
            self._discarded[outgoing] = before
            store.discard(self.session.name, outgoing, before)

    def _state(self) -> dict[str, Any]:
        """Tell what C{restored} needs beside the messages."""
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
    ) -> None:
        """
        What a call of C{write} has added is committed: send and acknowledge it.

        @param staged: messages to the peer.
        @param arrived: messages for C{retrieved}.
        @param count: messages of the peer that are in our keeping now.
        @param taken: the cost of those that are done with, bytes.
        """
        if self.isOver:
            return
        inbox = self.session.inbox
        released = self._uncommitted[: len(staged)]  # none, if they were withdrawn
        del self._uncommitted[: len(staged)]
        self._outbox.release(released)
        inbox.keep(count)
        inbox.take(taken)
        for first, messages in arrived:
            self._countArrived(-messages.cost)  # the stream's registry goes on
            self._retrieve(first, messages)
        # Nothing became visible if it was only acknowledgements that were committed, as
        # after nearly every message that is sent.
        if (staged or count or taken) and self._protocol is not None:
            self._protocol.touch()

    def _made(self, number: int, micros: int, body: str | bytes) -> Any:
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


def _nothing() -> None:
    """Nothing follows from a commit."""
