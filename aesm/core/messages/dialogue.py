"""
The short way of a dialogue: one message at a time, each answered by the other side.

A round trip is the slowest thing that the message layer does, since nothing shares its
cost: each side reads one record with an ACK and one message, and writes one with the
same.  Half of what C{Conversation.receive} and C{takeFrames} do is to be ready for
more; L{exchange} and L{answer} do it in one step each, for that case alone.

The invariant: they do just what the long way does, or nothing.  Whatever is not plain
(several messages, a frame that is not whole, text that is not ASCII, a state that is
not OPEN, control frames that are due) is declined before anything has changed, and
the caller takes the long way.  tests/core/messages/test_dialogue.py runs twins, one
with the short way and one without, and compares all that can be seen of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aesm.core.messages.events import Answered, Asked
from aesm.core.messages.frames import (
    ACK_FRAME_SIZE,
    BATCH,
    BINARY,
    CALL_TYPES,
    HEADER_SIZE,
    KINDS,
    MESSAGE_OVERHEAD,
    REQUEST,
    RESPONSE,
    TEXT,
    Messages,
    Requests,
    Responses,
    encodeAck,
    newTuple,
    packExchange,
    packHeader,
    unpackExchange,
    unpackHeader,
)
from aesm.core.messages.requests import NUMBER_STATUS, isPlain
from aesm.core.messages.states import ConversationState

if TYPE_CHECKING:
    from aesm.core.messages.conversation import Conversation
    from aesm.core.messages.outbox import Outbox

_ACK_START: Final = encodeAck(0, 0, 0)[:5]  # length and type
_OPEN: Final = ConversationState.OPEN


def exchange(
    conversation: Conversation, data: bytes, now: float
) -> Messages | Asked | Answered | None:
    """
    Take one message, request or answer, alone or behind the ACK of what it answers.

    @param conversation: any; it changes only if something is returned.
    @param data: any length.
    @param now: seconds.
    @return: the event; None if the bytes are anything else, or anything is wrong
        with them: they are for C{Conversation.receive}.
    """
    start, done, limit = HEADER_SIZE, -1, 0
    if data[:5] == _ACK_START and len(data) >= ACK_FRAME_SIZE + HEADER_SIZE:
        start += ACK_FRAME_SIZE
        done, limit, size, kind, micros = unpackExchange(data, HEADER_SIZE)
    elif len(data) < HEADER_SIZE:
        return None
    else:
        size, kind, micros = unpackHeader(data)
    if conversation.state is not _OPEN:
        return None
    reader, session = conversation.reader, conversation.session
    inbox = session.inbox
    if (
        start + size != len(data)
        or size > reader.maxMessage
        or reader.missing
        or reader.start
        or reader.partial is not None
        or inbox.receivedCost >= inbox.limit
        or kind == BATCH  # which may be all of a record, and is not to be copied
    ):
        return None
    body = data[start:]
    message: str | bytes = body
    if kind != BINARY:
        if kind in CALL_TYPES:
            if not isPlain(kind, body) or not (
                kind == REQUEST or _isAsked(session.outbox, body)
            ):
                return None
        elif kind != TEXT or not body.isascii():
            return None
        else:
            message = str(body, "ascii")
    # The last that can be declined, since it is the first that changes something.
    if done >= 0 and not session.outbox.settle(done, limit):
        return None
    conversation.lastHeard, conversation.pingedAt = now, None
    if conversation.heardSince is None:
        conversation.heardSince = now
    cost = size + MESSAGE_OVERHEAD
    inbox.receivedCost += cost
    inbox.received += 1
    if kind == REQUEST:
        requests = newTuple(Requests, (micros, [body], cost, cost))
        return newTuple(Asked, (inbox.received - 1, requests))
    if kind == RESPONSE:
        number, _ = NUMBER_STATUS.unpack_from(body)
        waiter = session.outbox.answered(number)
        responses = newTuple(Responses, (micros, [body], cost, cost))
        return newTuple(Answered, (inbox.received - 1, responses, [waiter]))
    return newTuple(Messages, (micros, (message,), cost, cost))


def _isAsked(outbox: Outbox, body: bytes) -> bool:
    """Tell whether a RESPONSE is to what this process has sent, and is the first."""
    number, _ = NUMBER_STATUS.unpack_from(body)
    return outbox.asked is not None and number in outbox.asked and number < outbox.sent


def answer(conversation: Conversation, micros: int, budget: int) -> bytes:
    """
    Hand over one message, behind the ACK of what it answers.

    @param conversation: any; it changes only if something is returned.
    @param micros: now, microseconds since the Unix epoch.
    @param budget: as C{Conversation.takeFrames}.
    @return: what that would return; C{b""} if there is anything else to be written.
    """
    if conversation.state is not _OPEN or conversation.controlDue:
        return b""
    session = conversation.session
    batch = session.outbox.takeOne(budget)
    if batch is None:
        return b""
    conversation.heardSince = conversation.signOfLifeBy = None
    ack = session.inbox.takeAck()
    body = batch.bodies[0]
    kind = KINDS[batch.kind or type(body)]
    if isinstance(body, str):
        body = body.encode("ascii")
    if ack is None:
        return packHeader(len(body), kind, batch.micros) + body
    count, limit = ack  # star arguments would be a list, and a tuple of that
    return packExchange(micros, count, limit, len(body), kind, batch.micros) + body
