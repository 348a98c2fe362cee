"""
Signs of life, docs/protocol.md, section 8.
"""

from __future__ import annotations

from aesm.conformance.case import FIRST, Case, check
from aesm.conformance.peer import Peer
from aesm.conformance.wire import PROMPT, Ended, Frame, Kind, Silent, Unmet


async def _frame(peer: Peer, seconds: float) -> Frame | None:
    """Read a frame, and answer nothing; None at the end of stream or transport."""
    try:
        return await peer.channel.frame(seconds / peer.wire.patience)
    except Ended:
        return None


@check("R-8.4", begins=FIRST)
async def pings(case: Case) -> None:
    """After its heartbeat without anything from us a peer sends a PING."""
    peer = await case.open()
    case.bound(peer.heartbeat, "its heartbeat")
    start = case.now
    while (frame := await _frame(peer, peer.heartbeat + PROMPT)) is not None:
        if frame.kind == Kind.PING:
            break
    else:
        raise Unmet("it closed")
    if case.now - start < peer.heartbeat / 2:
        raise Unmet(f"it did after {case.now - start:.1f} s, of {peer.heartbeat:g}")


@check("R-8.5", begins=FIRST)
async def givesUp(case: Case) -> None:
    """After twice its heartbeat without anything from us a peer gives us up."""
    peer = await case.open()
    case.bound(2 * peer.heartbeat, "twice its heartbeat")
    start = case.now
    while case.now - start < 3 * peer.heartbeat + PROMPT * peer.wire.patience:
        try:
            if await _frame(peer, 3 * peer.heartbeat + PROMPT) is None:
                break
        except Silent:
            raise Unmet("it did not") from None
    if case.now - start < 1.5 * peer.heartbeat:
        raise Unmet(f"it did after {case.now - start:.1f} s, of {peer.heartbeat:g}")


@check("R-8.5", begins=FIRST)
async def keptAlive(case: Case) -> None:
    """A peer whose PINGs are answered stays for longer than twice its heartbeat."""
    peer = await case.open()
    case.bound(2.5 * peer.heartbeat, "more than twice its heartbeat")
    end = case.now + 2.5 * peer.heartbeat
    while case.now < end:
        try:
            await peer.next((end - case.now) / peer.wire.patience)
        except Silent:
            break
    await peer.takes((Kind.TEXT, b"still there"))


@check("R-8.9", begins=FIRST)
async def notWhole(case: Case) -> None:
    """While a frame is not whole there is a sign of life in half of our heartbeat."""
    ours = 2.0
    peer = await case.open({"heartbeat": ours})
    await peer.barrier()
    stream = peer.channel.encode(Kind.TEXT, b"in parts")
    for at in range(3):
        peer.channel.write(stream[5 * at : 5 * at + 5])
        frame = await _frame(peer, ours / 2 + PROMPT)
        if frame is None or frame.kind not in (Kind.PONG, Kind.ACK, Kind.PING):
            raise Unmet(f"{frame or 'its end'} came")
    peer.channel.write(stream[15:])
    peer.count(Kind.TEXT, b"in parts")
    await peer.echoed((Kind.TEXT, b"in parts"))


@check("R-8.8", begins=FIRST)
async def heard(case: Case) -> None:
    """Who hears of us and has nothing to say says so after its heartbeat."""
    peer = await case.open()
    case.bound(peer.heartbeat, "its heartbeat")
    await peer.barrier()
    steps = 8
    for _ in range(2 * steps):
        peer.send(Kind.PONG)  # which is answered with nothing
        try:
            frame = await _frame(peer, peer.heartbeat / steps)
        except Silent:
            continue
        if frame is not None and frame.kind in (Kind.PONG, Kind.ACK, Kind.PING):
            return
        raise Unmet(f"{frame or 'its end'} came")
    raise Unmet(f"it said nothing for {2 * peer.heartbeat:g} s")
