"""
Connections whose messages outlive the process: what they accept, and what they
acknowledge, is written down by a L{Journal<aesm.journal.Journal>} first.

While nothing can be written, nothing is acknowledged, handed to a handler or
accepted; what waits goes on when that can be done again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from aesm.connection import Connection
from aesm.core.frames import FrameReader, Messages
from aesm.core.hello import Hello
from aesm.core.outbox import Message
from aesm.core.session import Session
from aesm.core.turn import Turn
from aesm.errors import AESMError, SpoolError
from aesm.journal import Journal
from aesm.keys import PublicKey
from aesm.messenger import Messenger
from aesm.spool import Spool
from aesm.spoolfile import Blob, Stored
from aesm.stream import DataStream, Packet, costOf

if TYPE_CHECKING:
    from aesm.core.channel import Channel
    from aesm.protocol import AESMProtocol

__all__ = ["DurableConnection"]

Ranges = list[list[int]]  # of numbers: the first, and the one behind the last

ANY_SIZE = (1 << 32) - 1  # of a message that is read back, bytes


class DurableConnection(Connection):
    """
    A connection whose session is written down.

    @ivar retrieved: what came from the peer, was written down, and nobody has taken.
    """

    retrieved: _DurableStream

    def __init__(
        self, journal: Journal, messenger: Messenger, session: Session, **options: Any
    ) -> None:
        """
        @param journal: writes down what happens.
        @param messenger: whom to tell.
        @param session: what counts the messages, not begun or restored.
        @param options: more options of L{Connection}.
        """
        super().__init__(messenger, session, **options)
        self.retrieved = _DurableStream(
            self, 0, options.get("lock"), options.get("arrivals")
        )
        session.outbox.stage()
        self._journal = journal
        self._noted = session.outbox.count  # messages to the peer, written down
        self._arrived: list[Messages] = []  # to be written down
        self._handled = 0  # messages that the handler is done with, to be written
        self._handledCost = 0
        self._waitingForRoom: deque[Messages] = deque()  # not handed over yet

    @classmethod
    def restored(
        cls,
        stored: Stored,
        journal: Journal,
        messenger: Messenger,
        sendBuffer: int,
        **options: Any,
    ) -> DurableConnection:
        """
        Make the connection of a session that was written down.

        @param stored: the session.
        @param journal: writes down what happens.
        @param messenger: whom to tell.
        @param sendBuffer: cost of unacknowledged messages to keep, bytes.
        @param options: more options of L{Connection}.
        @return: the connection, under which there is no transport.
        """
        state = stored.state
        session = Session(sendBuffer, state["window"], stored.name)
        done, blobs = state["acknowledged"], stored.outgoing
        kept = [Turn.of(messages) for blob in blobs for messages in _read(blob)]
        if blobs:
            kept = list(_without(kept, done - blobs[0].number))
        session.outbox.meet(Hello(maxMessage=state["maxMessage"]))
        session.outbox.restore(done, state["acknowledgedCost"], state["limit"], kept)
        session.inbox.restore(
            state["received"], state["receivedCost"], state["takenCost"]
        )
        address = state["address"]
        connection = cls(
            journal,
            messenger,
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

    def sendFirst(self, data: Message) -> int:
        """
        Send the first message of a turn of the event loop.

        @param data: the message.
        @return: how many messages have been accepted with it.
        @raise SpoolError: it cannot be written down now.
        """
        if self._journal.failure is not None:
            raise SpoolError(
                f"nothing is accepted until it can be written: {self._journal.failure}"
            )
        count = super().sendFirst(data)
        self._journal.touch(self)
        return count

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
            self._journal.touch(self)
        elif self._waitingForRoom or self._journal.failure is not None:
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

    def handled(self, count: int, cost: int) -> None:
        """
        The handler is done with messages.

        @param count: how many.
        @param cost: what they cost.
        """
        self._handled += count
        self._handledCost += cost
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
        super().finish(reason)
        self._waitingForRoom.clear()
        if self.retrieved and not self._journal.suspended:
            self._journal.touch(self)

    # For Journal

    def write(self, spool: Spool) -> Callable[[], None]:
        """
        Note what happened since the last time.

        @param spool: where.
        @return: to be called once that is written down.
        """
        name, outbox, inbox = self.session.name, self._outbox, self.session.inbox
        self.endTurn()
        turns = outbox.takeStaged()
        for turn in turns:
            size = len(turn.bodies)
            spool.append(name, True, self._noted, size, b"".join(turn.encode(True)))
            self._noted += size
        arrived, self._arrived = self._arrived, []
        number = inbox.received - sum(len(messages.data) for messages in arrived)
        for messages in arrived:
            size, turn = len(messages.data), Turn.of(messages)
            spool.append(name, False, number, size, b"".join(turn.encode(True)))
            number += size
        handled, self._handled = self._handled, 0
        cost, self._handledCost = self._handledCost, 0
        cost += self.retrieved.taken()
        takenCost = inbox.takenCost + cost
        durable = self.dispatcher is None
        spool.discard(name, True, self._noted if self.isOver else outbox.acknowledged)
        spool.discard(name, False, self.retrieved.first)
        spool.put(
            name,
            str(self.peer),
            {
                "address": self.address,
                "peerName": self.peerName,
                "over": self.isOver,
                "maxMessage": outbox.peer.maxMessage,
                "acknowledged": outbox.acknowledged,
                "acknowledgedCost": outbox.acknowledgedCost,
                "limit": outbox.limit,
                "received": inbox.received if durable else inbox.kept + handled,
                "receivedCost": inbox.receivedCost if durable else takenCost,
                "takenCost": takenCost,
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
            outbox.release(turns)
            inbox.keep(handled + sum(len(messages.data) for messages in arrived))
            inbox.take(cost)
            for messages in arrived:
                self.retrieved.extend(
                    messages.micros / 1e6, messages.data, messages.cost
                )
            if self._protocol is not None:
                self._protocol.touch()

        return goOn


class _DurableStream(DataStream):
    """
    A stream that knows the number of each packet, since which of them are taken is
    written down.  It reports each one.

    @ivar first: the number of the first packet that may still be there.
    """

    __slots__ = ("_next", "_numbers", "_out", "_popped", "first")

    def __init__(self, *arguments: Any) -> None:
        """
        @param arguments: as L{DataStream}.
        """
        super().__init__(*arguments)
        self._next = self.first = 0
        self._numbers: deque[int] = deque()  # of the packets that are there
        self._popped: deque[tuple[int, int]] = deque()  # number and cost, not noted
        self._out: set[int] = set()  # taken, though older ones are not

    def restore(
        self, received: int, blobs: Iterable[Blob], first: int, ranges: Ranges
    ) -> None:
        """
        Go on after a restart with what was written down.

        @param received: how many messages came in all.
        @param blobs: those that may not be taken.
        @param first: the number of the first that is not taken.
        @param ranges: which of those behind it are.
        """
        self.first = first
        self._out = {number for start, end in ranges for number in range(start, end)}
        for blob in blobs:
            self._next = blob.number
            for messages in _read(blob):
                for data in messages.data:
                    if self._next < first or self._next in self._out:
                        self._next += 1
                    else:
                        self.extend(messages.micros / 1e6, [data], costOf(data))
        self._next = received

    def taken(self) -> int:
        """
        Take note of what was taken since the last time.

        @return: its cost.
        """
        cost, popped, out = 0, self._popped, self._out
        while popped:
            number, more = popped.popleft()
            cost += more
            out.add(number)
        while self.first in out:
            out.remove(self.first)
            self.first += 1
        return cost

    @property
    def ranges(self) -> Ranges:
        """
        Which packets are taken, though older ones are not.
        """
        ranges: list[list[int]] = []
        for number in sorted(self._out):
            if ranges and ranges[-1][1] == number:
                ranges[-1][1] += 1
            else:
                ranges.append([number, number + 1])
        return ranges

    # DataStream

    def push(self, time: float, data: Sequence[str | bytes], cost: int) -> None:
        """
        Add packets; the lock is held.

        @param time: as C{extend}.
        @param data: as C{extend}.
        @param cost: as C{extend}.
        """
        super().push(time, data, cost)
        end = self._next + len(data)
        self._numbers.extend(range(self._next, end))
        self._next = end

    def pop(self, newest: bool) -> tuple[Packet, int]:
        """
        Take a packet; the lock is held and there is one.

        @param newest: which end to take from.
        @return: as L{DataStream.pop}; it is told of each packet, also after the end.
        """
        packet, tell = super().pop(newest)
        number = self._numbers.pop() if newest else self._numbers.popleft()
        cost = costOf(packet.data)
        self._popped.append((number, cost))
        return packet, tell or cost


def _read(blob: Blob) -> list[Messages]:
    """
    Read what was written down.

    @param blob: messages.
    @return: the same.
    @raise SpoolError: it is damaged.
    """
    reader = FrameReader(ANY_SIZE)
    messages = [f for f in reader.receive(blob.frames) if isinstance(f, Messages)]
    if reader.error is not None or sum(len(m.data) for m in messages) != blob.messages:
        raise SpoolError("messages in the spool are damaged: delete it to go on")
    return messages


def _without(turns: Sequence[Turn], count: int) -> Iterator[Turn]:
    """
    Leave out the oldest messages.

    @param turns: messages.
    @param count: how many to leave out.
    @return: the others.
    """
    for turn in turns:
        size = len(turn.bodies)
        if count >= size:
            count -= size
            continue
        if count:
            turn.cut(count)
            count = 0
        yield turn
