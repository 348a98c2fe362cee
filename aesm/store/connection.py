"""
Connections whose messages outlive the process: what they accept, and what they
acknowledge, is written down by a L{Journal<aesm.store.journal.Journal>} first.

While nothing can be written, nothing is acknowledged or handed to a handler, and
sending is refused, except to handlers at work: what these send and that they have
handled a message is written together, once that can be done again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from aesm.core.messages.batch import Batch
from aesm.core.messages.frames import Messages
from aesm.core.messages.hello import Hello
from aesm.core.messages.outbox import Message
from aesm.core.messages.session import Session
from aesm.errors import AESMError, SessionLost, SpoolError
from aesm.messages.connection import Connection
from aesm.messages.owner import ConnectionOwner
from aesm.messages.stream import costOf
from aesm.store.journal import Journal
from aesm.store.spool import Spool
from aesm.store.sqlite import Stored
from aesm.store.stream import DurableStream, readBlob
from aesm.trust.keys import PublicKey

if TYPE_CHECKING:
    from aesm.core.channel.channel import Channel
    from aesm.messages.protocol import AESMProtocol

__all__ = ["DurableConnection"]

_log = Logger(namespace="aesm.durable")


class DurableConnection(Connection):
    """
    A connection whose session is written down.

    @ivar retrieved: what came from the peer, was written down, and nobody has taken.
    """

    retrieved: DurableStream

    def __init__(
        self, journal: Journal, owner: ConnectionOwner, session: Session, **options: Any
    ) -> None:
        """
        @param journal: writes down what happens.
        @param owner: whom to tell.
        @param session: what counts the messages, not begun or restored.
        @param options: more options of L{Connection}.
        """
        super().__init__(owner, session, **options)
        self.retrieved = DurableStream(
            self, 0, options.get("lock"), options.get("arrivals")
        )
        session.outbox.stage()
        self._journal = journal
        self._noted = session.outbox.count  # messages to the peer, written down
        self._arrived: list[Messages] = []  # to be written down
        self._arrivedCost = 0  # of these, and of those that are being written
        self._handled = 0  # messages that the handler is done with, to be written
        self._handledCost = 0
        inbox = session.inbox  # which counts only what is written
        self._keptCount, self._keptCost = inbox.keptCount, inbox.receivedCost
        self._takenCost = inbox.takenCost
        self._waitingForRoom: deque[Messages] = deque()  # not handed over yet
        # Costs of those of C{retrieved} that the handler has or will have.
        self._inherited: deque[int] = deque()
        self._ended = False  # for the next process, too

    @classmethod
    def load(
        cls, journal: Journal, owner: ConnectionOwner, sendBuffer: int, **options: Any
    ) -> list[tuple[DurableConnection, bool]]:
        """
        Make the connections of all sessions that were written down.

        @param journal: where they are; closed if they cannot be read.
        @param owner: whom to tell.
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
                for stored in journal.load()
            ]
        except SpoolError:
            journal.close()
            raise
        except (LookupError, TypeError, ValueError) as error:
            journal.close()
            raise SpoolError(
                f"{journal.path} is damaged ({error!r}): move it and its -wal away, "
                "and a new one is made"
            ) from None

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
        Make the connection of a session that was written down.

        @param stored: the session.
        @param journal: writes down what happens.
        @param owner: whom to tell.
        @param sendBuffer: cost of unacknowledged messages to keep, bytes.
        @param options: more options of L{Connection}.
        @return: the connection, under which there is no transport.
        @raise LookupError: what was written down is damaged.
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
        session.outbox.meet(Hello(maxMessage=state["maxMessage"]))
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
            state["received"], stored.incoming, state["first"], state["taken"]
        )
        return connection

    # Connection

    def attach(self, protocol: AESMProtocol, channel: Channel) -> None:
        """
        Be carried by a protocol from now on.

        @param protocol: the protocol.
        @param channel: the secure channel under it.
        """
        super().attach(protocol, channel)
        self._journal.touch(self)

    def sendData(self, data: Message) -> Deferred[None]:
        """
        Send a message, with all checks for each.

        @param data: the message.
        @return: as C{send}.
        """
        return self.send(data, self.closeSlow)

    def send(self, data: Message, closeSlow: bool) -> Deferred[None]:
        """
        Send a message, if it can be written down now or is a handler's.

        @param data: the message.
        @param closeSlow: whether it is sent on behalf of somebody who serves many.
        @return: as L{Connection.send}; fails with L{SpoolError} before anything is
            accepted.
        """
        failure = self._journal.failure
        if failure is not None and (self.dispatcher is None or not closeSlow):
            return fail(SpoolError(f"nothing was sent: {failure}"))
        begins = self._batch is None
        sent = super().send(data, closeSlow)
        if begins:
            self._journal.touch(self)
        return sent

    def acknowledged(self) -> None:
        """
        The peer has more messages: they need not be kept.
        """
        super().acknowledged()
        self._journal.touch(self)

    def arrived(self, messages: Messages) -> None:
        """
        Messages came: hand them to the handler, or write them down.

        @param messages: one or more.
        """
        if self.dispatcher is None:
            self._arrived.append(messages)
            self._arrivedCost += messages.cost
            self.account()
            self._journal.touch(self)
        elif self._waitingForRoom or not self._journal.ready:
            self._waitingForRoom.append(messages)
            self._journal.hold(self)
        else:
            self.dispatcher.arrived(messages)

    def proceed(self) -> None:
        """
        It can be written again: go on handing over.
        """
        while self._waitingForRoom and self.dispatcher is not None:
            self.dispatcher.arrived(self._waitingForRoom.popleft())

    def handOver(self) -> None:
        """
        Hand the handler what came before there was one and nobody took.
        """
        for sent, data in self.retrieved:
            cost = costOf(data)
            self._inherited.append(cost)
            self._waitingForRoom.append(
                Messages(round(sent * 1e6), [cast("str | bytes", data)], cost, cost)
            )
        self.proceed()

    def handled(self, count: int, cost: int) -> None:
        """
        The handler is done with messages.

        @param count: how many.
        @param cost: what they cost.
        """
        if self._journal.suspended or self.isOver:
            return  # what is not noted is handed over again
        while count and self._inherited:
            self.retrieved.getData()
            count -= 1
            cost -= self._inherited.popleft()
        self._handled += count
        self._handledCost += cost
        self._keptCount += count
        self._keptCost += cost
        self._journal.touch(self)

    def packetsTaken(self, cost: int) -> None:
        """
        The application has taken packets.

        @param cost: what they cost; the stream knows which.
        """
        self._journal.touch(self)

    def streamFinished(self) -> None:
        """
        The session is over, and the last packet was taken.
        """
        self._journal.forget(self)
        super().streamFinished()

    def finish(self, reason: AESMError) -> None:
        """
        The session is over; what is unread is kept.

        @param reason: why.
        """
        self._ended = not self._journal.suspended
        lost = self._outbox.count - self._outbox.acknowledged
        if lost and self._ended and isinstance(reason, SessionLost):
            # Who sent them may have been a process before this one.
            _log.warn(
                "{count} messages to {peer} may not have arrived: {reason}",
                count=lost,
                peer=str(self.peer),
                reason=str(reason),
            )
        super().finish(reason)
        self._waitingForRoom.clear()
        if self.retrieved and self._ended:
            self._journal.touch(self)

    def account(self) -> None:
        """
        Tell what is kept; also what waits to be written, which the registry does
        not know yet.
        """
        budget = self._owner.budget
        unread = self.dispatcher is None
        held = self._outbox.keptCost
        held += self._arrivedCost if unread else self.session.inbox.untaken
        if self._reason is not None:
            held = 0
        if budget is not None and held != self._held:
            budget.account(held - self._held)
            self._held = held

    # For Journal

    def write(self, spool: Spool) -> Callable[[], None]:
        """
        Note what happened since the last time.

        @param spool: where.
        @return: to be called once that is written down.
        """
        name, outbox, inbox = self.session.name, self._outbox, self.session.inbox
        self.closeBatch()
        batches = outbox.takeStaged()
        for batch in batches:
            size = len(batch.bodies)
            spool.append(name, True, self._noted, size, b"".join(batch.encode(True)))
            self._noted += size
        arrived, self._arrived = self._arrived, []
        number = inbox.received - sum(len(messages.data) for messages in arrived)
        for messages in arrived:
            size, batch = len(messages.data), Batch.of(messages)
            spool.append(name, False, number, size, b"".join(batch.encode(True)))
            number += size
        handled, self._handled = self._handled, 0
        cost, self._handledCost = self._handledCost, 0
        cost += self.retrieved.taken()
        self._takenCost += cost
        durable = self.dispatcher is None
        spool.discard(name, True, self._noted if self._ended else outbox.acknowledged)
        spool.discard(name, False, self.retrieved.first)
        spool.put(
            name,
            str(self.peer),
            {
                "address": self.address,
                "peerName": self.peerName,
                "over": self._ended,
                "maxMessage": outbox.peer.maxMessage,
                "acknowledged": outbox.acknowledged,
                "acknowledgedCost": outbox.acknowledgedCost,
                "limit": outbox.limit,
                "received": inbox.received if durable else self._keptCount,
                "receivedCost": inbox.receivedCost if durable else self._keptCost,
                "takenCost": self._takenCost,
                "window": inbox.window,
                "first": self.retrieved.first,
                "taken": self.retrieved.ranges,
            },
        )

        def goOn() -> None:
            """
            It is written down: acknowledge and send it.
            """
            if self.isOver:
                return
            outbox.release(batches)
            inbox.keep(handled + sum(len(messages.data) for messages in arrived))
            inbox.take(cost)
            self._arrivedCost -= sum(messages.cost for messages in arrived)
            for messages in arrived:
                self.retrieved.extend(
                    messages.micros / 1e6, messages.data, messages.cost
                )
            if self._protocol is not None:
                self._protocol.touch()

        return goOn
