"""
The outgoing direction of a session: which messages are accepted, sent and
acknowledged, docs/protocol.md, section 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from aesm._mypyc import mypyc_attr
from aesm.core.messages.batch import (
    MAX_COST,
    MAX_COSTS,
    Batch,
    Body,
    LoggedBatch,
    Message,
    RestOfMessage,
    Share,
    SharedBatch,
    bodyOf,
)
from aesm.core.messages.frames import MESSAGE_OVERHEAD, Ack
from aesm.core.messages.hello import Hello
from aesm.core.messages.requests import sizeOf
from aesm.core.messages.traffic import Traffic
from aesm.errors import MessageTooBig, ProtocolError, SendBufferFull

BATCH_MEMORY: Final = 192  # bytes of a batch, beside what its messages count

# An empty deque is most of a KiB, and most connections of a large server have nothing
# to send: they share this one.  Nothing is ever appended to it.
_EMPTY: Final[deque[Batch]] = deque(maxlen=0)
_NOBODY: Final = Hello()  # the peer before its hello

# Batches
#
# The unit of all that is done here is not the message but the batch: what was accepted
# in one turn of the event loop and fits one BATCH frame.  Accepting a message appends
# it to the open batch and takes its cost from the batch's room; the outbox's own
# counters follow only when the batch is closed.  So a small message in a burst costs
# two steps, which C{Connection.sendData} does itself, and no call of ours.
# tests/messages/test_hotpath.py counts those calls.
#
# A batch is kept as messages, not as a frame, until it is acknowledged, because what
# the peer takes may change with the connection that it is sent over: after a resume it
# may have the first half of it, or refuse BATCH frames.  Where the limit, an ACK or a
# resume falls inside of a batch, C{Batch.cut} splits it in two.  A batch has about
# 1,000 messages at most, so that a cut is cheap.
#
# Flow control
#
# A message costs its body and 64 bytes.  It may be sent if the cost of all messages
# *before* it is below the peer's limit.  Its own cost is not asked for: otherwise a
# message larger than the window could never be sent, and would block the session.  So
# the peer may get one message more than its window, and bounds that with maxMessage.
#
#     acknowledgedCost <= _sentCost                    what is before the next message
#     _sentCost < limit                                the next message may be sent
#     _keptCost + open.cost <= bound                   what is accepted


@mypyc_attr(allow_interpreted_subclasses=True)
class Outbox:
    """
    The outgoing direction.

    @ivar open: the batch that takes more messages, or None.  As long as it has room,
        the connection may append to it directly.
    @ivar sent: of the messages accepted, how many were handed to the connection.
    @ivar acknowledged: of the messages sent, how many the peer has acknowledged.
    @ivar acknowledgedCost: the cost of the acknowledged messages, bytes.
    @ivar asked: the numbers of our requests that are not answered, each with who waits
        for the answer; None until there is one.
    @ivar restored: messages with numbers below this are of an earlier process, which
        alone knows what they were.
    @ivar dropped: whether nothing is kept any more, since the session is ending.
    @ivar limit: cost that the peer accepts from the session's start, bytes.
    @ivar peer: the peer's hello.
    @ivar staged: the batches that are held back until they are persisted, the open one
        included; None if none are.
    @ivar traffic: adds up what is acknowledged over all connections, or None.
    """

    __slots__ = (
        "_bound",
        "_count",
        "_keptCost",
        "_maxMessage",
        "_sentCost",
        "_unacknowledged",
        "_unsent",
        "acknowledged",
        "acknowledgedCost",
        "asked",
        "dropped",
        "limit",
        "open",
        "peer",
        "restored",
        "sent",
        "staged",
        "traffic",
    )

    def __init__(self, bound: int) -> None:
        """
        Start empty, with a limit of 0.

        @param bound: how much unacknowledged cost may be kept, bytes.
        """
        self._bound = bound
        self._unsent: deque[Batch] = _EMPTY
        self._unacknowledged: deque[Batch] = _EMPTY
        self._count = self._keptCost = 0  # without those of the open batch
        self.open: Batch | None = None
        self.staged: list[Batch] | None = None
        self._sentCost = 0
        self.dropped = False
        self.sent = self.acknowledged = self.limit = self.restored = 0
        self.acknowledgedCost = 0
        self.traffic: Traffic | None = None
        self.asked: dict[int, object] | None = None
        self.meet(_NOBODY)

    def meet(self, peer: Hello) -> None:
        """Take over the peer's settings, as its hello gives them."""
        self.peer = peer
        self._maxMessage = peer.maxMessage

    def begin(self, peer: Hello) -> None:
        """Begin a session: take the peer's settings, its window as the limit."""
        self.meet(peer)
        self.limit = peer.window

    def canResume(self, peer: Hello) -> bool:
        """
        Tell whether the session can go on over a new connection: whether every message
        that the peer lacks is still kept, and none is larger than it accepts now.
        """
        return (
            not self.dropped
            and (not peer.partial or peer.partial < self._sizeOf(peer.received))
            and self.acknowledged <= peer.received <= self.sent
            and (peer.requests or not self.peer.requests)
            and (
                peer.maxMessage >= self._maxMessage
                or all(batch.largest <= peer.maxMessage for batch in self.released)
            )
        )

    def _sizeOf(self, number: int) -> int:
        """Tell the bytes of a message by its number; 0 if it is not there any more."""
        # One that was sent may be among the unsent again, after the last resume.
        skip = number - self.acknowledged
        for batch in self.released:
            if 0 <= skip < len(batch.bodies):
                return len(batch.bodies[skip])
            skip -= len(batch.bodies)
        return 0

    def resume(self, peer: Hello) -> None:
        """
        Go back to the first message that the peer does not have.

        @raise ProtocolError: C{canResume} says no.
        @see: docs/protocol.md, section 8
        """
        if not self.canResume(peer):
            raise ProtocolError(
                f"a session resumed at {peer.received} messages, of "
                f"{peer.maxMessage} bytes at most; {self.acknowledged} are "
                f"acknowledged and {self.sent} were sent"
            )
        self.meet(peer)
        self.closeBatch()
        # What the peer had of a message then, it may have no more.  If this rest was
        # never sent, it is the first that was to be.
        first = self._unsent[0] if self._unsent else None
        if type(first) is RestOfMessage:
            first.skip = 0
        # From the newest sent message back, so that the oldest is the first again.
        again = self.sent - peer.received
        if again and self._unsent is _EMPTY:
            self._unsent = deque()
        while again:
            batch = self._unacknowledged.pop()
            if type(batch) is RestOfMessage:
                batch.skip = 0
            if len(batch.bodies) > again:
                self._unacknowledged.append(batch.cut(len(batch.bodies) - again))
            self._unsent.appendleft(batch)
            self._sentCost -= batch.space
            self.sent -= len(batch.bodies)
            again -= len(batch.bodies)

        # Of the first message the peer has a part: it becomes a batch of its own, whose
        # frame is a REST.  It is still kept whole, for the next resume may need more.
        if peer.partial:
            head = self._unsent.popleft()
            if len(head.bodies) > 1:
                first = head.cut(1)
                self._unsent.appendleft(head)
                head = first
            self._unsent.appendleft(RestOfMessage.after(head, peer.partial))

    @property
    def sendable(self) -> bool:
        """Whether there is an unsent message within the peer's limit."""
        return bool(self._unsent) and self._sentCost < self.limit

    @property
    def leaving(self) -> bool:
        """
        Whether there is one that leaves now, or once it is persisted if the limit lets
        it.
        """
        return self.sendable or (self.unsent and not self._unsent)

    @property
    def count(self) -> int:
        """The number of messages accepted so far."""
        return self._count + (0 if self.open is None else self.open.count)

    @property
    def keptMemory(self) -> int:
        """
        About what keeping the messages that are not acknowledged takes, bytes: each
        counts for itself, and those of a turn have a batch.
        """
        batches = len(self._unacknowledged) + len(self._unsent)
        kept = self._keptCost + batches * BATCH_MEMORY
        return kept if self.open is None else kept + self.open.cost

    @property
    def keptCost(self) -> int:
        """The cost of the messages that are not acknowledged, bytes."""
        return self._keptCost + (0 if self.open is None else self.open.cost)

    @property
    def oldest(self) -> int:
        """
        When the oldest message was sent that is not acknowledged, microseconds since
        the Unix epoch; 0 if there is none.
        """
        batches = self._unacknowledged or self._unsent or self.staged
        return batches[0].micros if batches else 0

    @property
    def unsent(self) -> bool:
        """Whether there is a message that was not handed to the connection."""
        return self.sent < self.count

    @property
    def roomy(self) -> bool:
        """Whether less than half of the bound is in use, so that C{drain} may fire."""
        # Asked for each request: mostly there is room even if the open batch is filled.
        space = 0 if self.open is None else self.open.space
        bound = self._bound
        return (self._keptCost + space) * 2 < bound or self.keptCost * 2 < bound

    def add(self, data: Message, micros: int, kind: type | None = None) -> int:
        """
        Accept a message.

        @param kind: of C{bytes} that are the body of a request or a response: its type.
        @return: the number of messages accepted, with it: it is acknowledged once
            C{acknowledged} is no smaller.
        @raise MessageTooBig: it is larger than the peer takes.
        @raise SendBufferFull: there is no room below the bound.
        @raise TypeError: it is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        body: Any
        # The first of every burst, and every message of a dialogue, comes this way, so
        # that what C{bodyOf} does for the usual types is done here without its call.
        if type(data) is bytes or (type(data) is str and data.isascii()):
            body = data
        else:
            body = bodyOf(data)
        size, kind = len(body), kind or type(body)
        if size > self._maxMessage and (most := sizeOf(body, kind)) > self._maxMessage:
            raise MessageTooBig(
                f"a message of {most} bytes; at most {self._maxMessage} are taken: "
                "split it, or raise the peer's maxMessage= (--max-message)"
            )
        cost = size + MESSAGE_OVERHEAD
        batch = self.open
        if batch is None or batch.room < cost:
            if batch is not None:
                self.closeBatch()
            room = self._bound - self._keptCost
            if cost > room:
                raise self._full()
            # A message that is too large for a BATCH has a batch, and frame, of its
            # own.
            space = max(cost, min(room, MAX_COSTS[kind]))
            batch = self.open = Batch(micros, self._count, kind, space)
            if self._maxMessage < space:
                # Who appends directly compares with the room only, which must imply
                # that the message is not too big; here it does not.
                batch.kind = None
            if self.staged is not None:
                self.staged.append(batch)
            else:
                if self._unsent is _EMPTY:
                    self._unsent = deque()
                self._unsent.append(batch)
        if batch.kind is not kind:
            batch.mix()
            body = body if type(body) is kind else kind(body)
        batch.room -= cost
        batch.bodies.append(body)
        return batch.first + len(batch.bodies)

    def _full(self) -> SendBufferFull:
        """Make the error for one for which there is no room."""
        return SendBufferFull(
            f"{self._keptCost} of {self._bound} bytes are unacknowledged already: wait "
            "for drain(), or raise sendBuffer="
        )

    def join(self, shared: SharedBatch, member: object) -> Share | None:
        """
        Accept the last message of a shared batch, and those that are added to it until
        the turn ends.

        @param member: the connection, for L{SharedBatch.left}.
        @return: the share; None if there is not room for all that may come, or each
            message must be checked: then nothing has changed.
        """
        # What is added to a shared batch later is added to all shares at once, with no
        # look at this outbox: so all of it has to fit, and be taken, whatever it is.
        if (
            self.staged is not None
            or self._bound - self._keptCost < MAX_COST
            or self._maxMessage < MAX_COST
            or self.open is not None
        ):
            return None
        if self._unsent is _EMPTY:
            self._unsent = deque()
        self.open = share = Share(shared, self._count, member)
        self._unsent.append(share)
        return share

    # Staging: a batch is accepted at once and counts against the bound, but is neither
    # in C{_unsent} nor C{_unacknowledged}, and so cannot leave, before C{release}.
    # With that, whatever a peer has ever seen of us is on disk, and C{restore} cannot
    # meet a peer that has received more than we remember.  Batches are released in the
    # order in which they were taken: the outbox does not sort them.

    def stage(self) -> None:
        """From now on hold back what is accepted until it is persisted."""
        self.staged = []

    def takeStaged(self) -> list[Batch]:
        """
        Take the complete batches accepted since the last call; once they are persisted
        they are to be passed to C{release}.
        """
        self.closeBatch()
        staged, self.staged = self.staged or [], []
        return staged

    def release(self, batches: Iterable[Batch]) -> None:
        """Let persisted batches be sent, in the order in which they were taken."""
        if self._unsent is _EMPTY:
            self._unsent = deque()
        self._unsent.extend(batches)

    def tell(self, logged: LoggedBatch) -> LoggedBatch:
        """
        Accept messages that are stored already, for many together, none of them larger
        than the peer takes.

        @return: our copy of them, to be passed to C{release} once what is before them
            may be.
        @raise SendBufferFull: there is no room below the bound.
        """
        self.closeBatch()
        if logged.space > self._bound - self._keptCost:
            raise self._full()
        batch = logged.copied(self._count)
        self._count += len(batch.bodies)
        self._keptCost += batch.space
        return batch

    def forget(self, batches: Sequence[Batch]) -> None:
        """Count closed batches no more, which were never sent."""
        self._count -= sum(len(batch.bodies) for batch in batches)
        self._keptCost -= sum(batch.space for batch in batches)

    def restore(
        self, acknowledged: int, cost: int, limit: int, batches: Sequence[Batch]
    ) -> None:
        """
        Restore the persisted state after a restart.

        @param acknowledged: how many messages the peer has acknowledged.
        @param cost: their cost, bytes.
        @param limit: cost that the peer accepts from the session's start, bytes.
        @param batches: the unacknowledged messages.
        """
        self.acknowledged, self.acknowledgedCost, self.limit = acknowledged, cost, limit
        self._keptCost = sum(batch.space for batch in batches)
        # Any of it may have been sent: it counts as such, and C{resume}, which knows
        # what the peer has received, takes back what was not.
        self._count = self.sent = self.restored = acknowledged + sum(
            len(batch.bodies) for batch in batches
        )
        self._sentCost = cost + self._keptCost
        self._unacknowledged = deque(batches)

    def closeBatch(self, since: int | None = None) -> None:
        """
        Close the open batch: no later message shares its time.

        @param since: close it only if it is older than this, microseconds since the
            Unix epoch; None closes it in any case.
        """
        batch = self.open
        if batch is not None and (since is None or batch.micros < since):
            self.open = None
            if type(batch) is Share:
                batch.close()
            # From here on C{space} is what the messages cost; nothing may be added.
            batch.space -= batch.room
            batch.room = 0
            self._count += len(batch.bodies)
            self._keptCost += batch.space

    def takeOne(self, budget: int) -> Batch | None:
        """
        Take the only unsent message, as in a dialogue.

        @param budget: what it may cost, bytes.
        @return: a batch of one message; None if there is none or are more, or it may
            not go: then nothing has changed, and C{take} is to be called.
        """
        unsent = self._unsent
        if len(unsent) != 1 or self.open is not None:
            return None
        batch, cost = unsent[0], self._sentCost
        if len(batch.bodies) > 1 or batch.space > budget or cost >= self.limit:
            return None
        if type(batch) is RestOfMessage:  # whose frame the short way does not know
            return None
        self._sentCost = cost + batch.space
        self.sent += 1
        self._unsent = _EMPTY
        if self._unacknowledged is _EMPTY:
            self._unacknowledged = unsent  # which is empty but for this one
        else:
            self._unacknowledged.append(batch)
        return batch

    def take(self, budget: int) -> list[bytes]:
        """
        Take messages to be sent, within the peer's limit.

        @param budget: stop once the messages taken cost so many bytes.
        @return: whole frames, those of a batch in one piece.
        """
        frames: list[bytes] = []
        unsent = self._unsent
        while unsent and budget > 0 and self._sentCost < self.limit:
            batch = unsent[0]
            if batch is self.open:
                self.closeBatch()
            # The same rule for both: the message that reaches the budget, or the limit,
            # still goes.
            room = min(budget, self.limit - self._sentCost)
            if batch.space > room and (count := batch.fitting(room)) < batch.count:
                batch = batch.cut(count)
            else:
                unsent.popleft()
            frames.append(b"".join(batch.encode(self.peer.batch)))
            self._sentCost += batch.space
            self.sent += len(batch.bodies)
            if self._unacknowledged is _EMPTY:
                self._unacknowledged = deque()
            self._unacknowledged.append(batch)
            budget -= batch.space
        if not unsent:
            self._unsent = _EMPTY
        return frames

    def settle(self, done: int, limit: int) -> bool:
        """
        Drop everything that was accepted, if an ACK covers it all, as in a dialogue.

        @return: whether it did; else nothing has changed, and C{acknowledge} is to be
            called.
        """
        # With nothing unsent, open or staged, all of C{_keptCost} is acknowledged, and
        # no batch has to be looked at.  What is wrong in the ACK is for C{acknowledge}.
        if (
            done != self.sent
            or done == self.acknowledged
            or limit < self.limit
            or self._unsent
            or self.staged is not None
        ):
            return False
        traffic, waiting = self.traffic, self._unacknowledged
        if traffic is not None and waiting:
            traffic.messagesOut += done - self.acknowledged
            traffic.costOut += self._keptCost
            traffic.oldest = traffic.oldest or waiting[0].micros
        self.limit, self.acknowledged = limit, done
        self.acknowledgedCost += self._keptCost
        self._keptCost = 0
        self._unacknowledged = _EMPTY
        return True

    def acknowledge(self, ack: Ack) -> bool:
        """
        Drop what the peer has acknowledged.

        @return: whether the ACK says nothing new.
        @raise ProtocolError: it goes backwards, or counts what was not sent.
        @see: docs/protocol.md, section 7
        """
        done, limit = ack
        acknowledged = self.acknowledged
        if not acknowledged <= done <= self.sent:
            raise ProtocolError(
                f"an ACK of {done} messages; {acknowledged} are "
                f"acknowledged and {self.sent} were sent"
            )
        if limit < self.limit:
            raise ProtocolError(f"an ACK takes its limit back from {self.limit}")
        idle, count = limit == self.limit, done - acknowledged
        self.limit, self.acknowledged = limit, done
        if not count:
            return idle
        waiting, before = self._unacknowledged, self.acknowledgedCost
        traffic = self.traffic
        if traffic is not None and waiting:
            traffic.messagesOut += count
            traffic.oldest = traffic.oldest or waiting[0].micros
        while count and not self.dropped:
            batch = waiting[0]
            if len(batch.bodies) > count:
                batch = batch.cut(count)
            else:
                waiting.popleft()
            self._keptCost -= batch.space
            self.acknowledgedCost += batch.space
            count -= len(batch.bodies)
        if traffic is not None:
            traffic.costOut += self.acknowledgedCost - before
        if not waiting:
            self._unacknowledged = _EMPTY
        return False

    def ask(self, number: int, waiter: object) -> None:
        """
        Expect the answer to a request.

        @param number: how many messages precede it.
        @param waiter: who waits for the answer; None if nobody does any more.
        """
        self.asked = self.asked or {}
        self.asked[number] = waiter

    def answered(self, number: int) -> object:
        """
        Find out who waits for an answer that has come.

        @return: as C{ask} was told; False if it was an earlier process that did.
        @raise ProtocolError: nobody has asked, or the answer was there before.
        """
        if self.asked is not None and number in self.asked and number < self.sent:
            return self.asked.pop(number)
        if number < self.restored:
            return False
        raise ProtocolError(f"a RESPONSE to {number}, which is no open request")

    @property
    def released(self) -> list[Batch]:
        """The batches that are not acknowledged, but those that are held back."""
        return [*self._unacknowledged, *self._unsent]

    def withdraw(self, uncommitted: Sequence[Batch] = ()) -> list[Body]:
        """
        Take back the messages that no transport was handed, nor any of which the peer
        can have: they may go into another session.

        @param uncommitted: those that were staged, and are not released yet.
        """
        self.closeBatch()
        batches = [*self._unsent, *uncommitted, *(self.staged or ())]
        self._unsent = _EMPTY
        self.staged = None if self.staged is None else []
        self.forget(batches)
        return [body for batch in batches for body in batch.marked]

    def drop(self) -> None:
        """Discard all messages: the session is over, or ends with the transport."""
        self.closeBatch()
        self._unsent = self._unacknowledged = _EMPTY
        self.dropped = True
        self.sent, self._keptCost = self._count, 0
