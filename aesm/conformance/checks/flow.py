"""
Acknowledgement and flow control, docs/protocol.md, section 7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from aesm.conformance.case import LAST, Case, NotApplicable, breach, check
from aesm.conformance.peer import OVERHEAD, Peer
from aesm.conformance.wire import Kind, Unmet

TEXT, BINARY, ACK = Kind.TEXT, Kind.BINARY, Kind.ACK
MOST = 96 << 20  # bytes that are sent to find out how much a peer takes
PIECE = 1 << 20  # bytes of a message of these


@check("R-7.6")
async def acknowledged(case: Case) -> None:
    """Each message is acknowledged, empty ones too."""
    peer = await case.open()
    for words in ("one", "", "three"):
        peer.text(words)
        await peer.acknowledgedAll()


@check("R-7.6")
async def acknowledgedTogether(case: Case) -> None:
    """Messages that come together are acknowledged, none before it has come."""
    peer = await case.open()
    await peer.takes(*((TEXT, b"%d" % number) for number in range(200)))
    await peer.acknowledgedAll()


@check("R-7.2")
async def notWhole(case: Case) -> None:
    """A message that is not whole is not acknowledged."""
    peer = await case.open()
    peer.acking = False  # there is no place for an ACK within a frame
    peer.text("whole")
    stream = peer.channel.encode(TEXT, b"in two parts")
    peer.channel.write(stream[:-1])
    await peer.acknowledgedAll()  # an ACK of what was not sent is seen by Peer
    await peer.echoed((TEXT, b"whole"))
    peer.channel.write(stream[-1:])
    peer.count(TEXT, b"in two parts")
    await peer.echoed((TEXT, b"in two parts"))
    await peer.acknowledgedAll()


@check("R-7.3")
async def limitGrows(case: Case) -> None:
    """The limit grows as messages are taken: more than a window gets through."""
    peer = await case.open()
    window = peer.peerLimit
    if window > MOST // 2:
        raise NotApplicable(f"its window is {window} bytes")
    size = min(peer.maxMessage, PIECE, max(window // 4, 1000))
    body = bytes(size)
    while peer.sentCost <= window + window // 2:
        while peer.sentCost >= peer.peerLimit:
            await peer.next()
        peer.send(BINARY, body)
        while len(peer.messages) > 1:
            peer.messages.popleft()
    await peer.acknowledgedAll()


@check("R-7.1")
async def limitKept(case: Case) -> None:
    """A peer sends no message past our limit, and goes on when that grows."""
    await _held(case, 3 * (10 + OVERHEAD) - 5)


@check("R-7.5")
async def noWindow(case: Case) -> None:
    """A peer sends nothing at all to a side with a window of 0, until that lets it."""
    await _held(case, 0)


@check("R-7.5")
async def lastPastLimit(case: Case) -> None:
    """The last message that begins within the limit goes, wherever it ends."""
    peer = await case.open({"window": 1})
    peer.acking = False
    body = bytes(5000)
    peer.send(BINARY, body)
    await peer.echoed((BINARY, body))


async def _held(case: Case, window: int) -> None:
    """See that messages wait for our limit."""
    peer = await case.open({"window": window})
    peer.acking = False
    messages = [(TEXT, b"number %03d" % number) for number in range(10)]
    peer.sendAll(messages)
    fit = -(-window // (10 + OVERHEAD))  # those that begin below the limit
    await peer.echoed(*messages[:fit])
    await peer.nothing()  # what is past the limit is seen by Peer as it comes
    peer.limit = peer.gotCost + 2 * (10 + OVERHEAD)
    peer.acknowledge(limit=peer.limit)
    await peer.echoed(*messages[fit : fit + 2])
    await peer.nothing()
    peer.acking = True
    peer.acknowledge()
    await peer.echoed(*messages[fit + 2 :])


@check("R-7.11")
async def notDelayed(case: Case) -> None:
    """Who may not send messages still answers PINGs, acknowledges, and closes."""
    peer = await case.open({"window": 0})
    peer.sendAll([(TEXT, b"held")] * 5)
    await peer.barrier()
    await peer.acknowledgedAll()
    await peer.leave()


@check("R-7.10", begins=LAST)
async def pastTheLimit(case: Case) -> None:
    """A message past the limit is answered with CLOSE 1002."""
    # Who echoes and may not send is held up in the end, and then takes no more.
    peer = await case.open({"window": 0})
    body = bytes(min(peer.maxMessage, PIECE))
    while peer.sentCost < MOST:
        while peer.sentCost < min(peer.peerLimit, MOST):
            room = peer.peerLimit - peer.sentCost
            peer.send(BINARY, body[: max(0, min(len(body), room - OVERHEAD))])
            await case.sleep(0)
        await peer.barrier()
        if peer.sentCost < peer.peerLimit:
            continue
        # It is at its limit, as far as we know; whether it has said more before it
        # reads what comes now, is seen before its PONG.
        before = peer.sentCost
        peer.text("past the limit")
        peer.send(Kind.PING, b"past")
        while b"past" not in peer.pongs and peer.peerLimit <= before:
            if (frame := await peer.next()).kind == Kind.CLOSE:
                if frame.body[:2] != (1002).to_bytes(2, "big"):
                    raise Unmet(f"it said {frame}")
                return
        if peer.peerLimit <= before:
            raise Unmet(f"it took a message past its limit of {before} bytes")
        while b"past" not in peer.pongs:
            await peer.next()
        peer.pongs.clear()
    raise NotApplicable(f"it takes {MOST} bytes without sending one back")


def _acks(count: int, limit: int) -> Callable[[Peer], object]:
    """Make a breach of an ACK, of numbers beside the right ones."""

    def do(peer: Peer) -> None:
        body = struct.pack(">QQ", peer.got + count, peer.limit + limit)
        peer.channel.write(peer.channel.encode(ACK, body))

    return do


for _name, _number, _what, _acked in (
    ("ack-of-unsent", 9, "An ACK of a message that was not sent", _acks(1, 0)),
    ("ack-of-very-many", 9, "An ACK of 2^63 messages", _acks(1 << 63, 0)),
    ("limit-shrinks", 8, "An ACK with a limit below our window", _acks(0, -1)),
):
    breach(f"flow.{_name}", f"R-7.{_number}", _what, _acked, 1002)


@check("R-7.8")
async def countShrinks(case: Case) -> None:
    """An ACK of fewer messages than an earlier one is answered with CLOSE 1002."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"), (TEXT, b"two"))
    await peer.barrier()
    peer.acknowledge(count=1)
    await peer.says(1002)


@check("R-7.5")
async def largestLimit(case: Case) -> None:
    """A limit may have 64 bits."""
    peer = await case.open()
    peer.acknowledge(limit=(1 << 64) - 1)
    peer.acking = False
    peer.text("no end")
    await peer.echoed((TEXT, b"no end"))
