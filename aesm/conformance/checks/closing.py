"""
How connections are closed, docs/protocol.md, section 9.
"""

from __future__ import annotations

from aesm.conformance.case import FIRST, LONGEST, SERVER, Case, add, check
from aesm.conformance.peer import acknowledges, close
from aesm.conformance.wire import Ended, Kind, Silent, Unmet

TEXT = Kind.TEXT


def _leaves(name: str, requirement: str, what: str, *said: tuple[int, bytes]) -> None:
    """List CLOSEs that are answered with a CLOSE and the end of the stream."""

    async def run(case: Case) -> None:
        for code, reason in said:
            peer = await case.open()
            await peer.leave(code, reason)

    add(f"closing.{name}", requirement, f"{what} is answered in order.", run)


_leaves("normal", "R-9.4", "A CLOSE 1000", (1000, b""))
_leaves("going-away", "R-9.4", "A CLOSE 1001", (1001, b""))
_leaves("own-code", "R-9.1", "A code that nobody knows, 4711,", (4711, b"its own"))
_leaves("any-code", "R-9.1", "Any code, 0 and 65535,", (0, b""), (65535, b""))
_leaves("longest-reason", "R-6.3", "A reason of 1,024 bytes", (1000, b"x" * 1024))


@check("R-5.5", must=False)
async def transport(case: Case) -> None:
    """When both sides have ended their streams a peer closes the transport."""
    peer = await case.open()
    peer.send(Kind.CLOSE, close(1000))
    peer.channel.end()
    await peer.channel.rest()
    await peer.wire.closed()


@check("R-9.4")
async def answer(case: Case) -> None:
    """Who has nothing more to say answers a CLOSE with 1000."""
    peer = await case.open()
    frame = await peer.leave(4711)
    if frame.body[:2] != close(1000):
        raise Unmet(f"it said {frame}")


@check("R-9.12")
async def notAfter(case: Case) -> None:
    """What only looks like `after` is the end of the reason."""
    for after in (b"\0", b"\0" + b"0100", b"\0" + b"3600001", b"\0" + b"1x"):
        peer = await case.open()
        await peer.leave(1001 if case.subject.role == SERVER else 1000, after)


@check("R-9.4")
async def behindMessages(case: Case) -> None:
    """Who is told CLOSE acknowledges first what came before it."""
    peer = await case.open()
    messages = [(TEXT, b"%d" % number) for number in range(50)]
    frames = [peer.channel.encode(*message) for message in messages]
    frames.append(peer.channel.encode(Kind.CLOSE, close(1000)))
    for message in messages:
        peer.count(*message)
    peer.channel.write(b"".join(frames))
    peer.channel.end()
    while (await peer.next()).kind != Kind.CLOSE:
        pass
    if peer.acknowledged < peer.sent:
        raise Unmet(f"it acknowledged {peer.acknowledged} of {peer.sent} messages")
    if await peer.channel.frame() is not None:
        raise Unmet("its CLOSE was not the last frame")
    await peer.part()


@check("R-9.3")
async def frameBehindClose(case: Case) -> None:
    """A message behind a CLOSE is not taken."""
    peer = await case.open()
    await peer.barrier()
    last = peer.channel.encode(Kind.CLOSE, close(1000))
    peer.channel.write(last + peer.channel.encode(TEXT, b"late"))
    for frame in await peer.channel.rest():
        if frame.kind == TEXT or acknowledges(frame):
            raise Unmet(f"it took it: {frame}")
    peer.channel.end()
    await peer.part()


@check("R-9.9")
async def cutInClose(case: Case) -> None:
    """A transport that ends behind our CLOSE and end of stream does no harm."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    peer.send(Kind.CLOSE, close(1000))
    peer.channel.end()
    peer.wire.shut()
    await peer.channel.rest()
    again = await case.open()
    await again.takes((TEXT, b"two"))


@check("R-9.2", begins=FIRST)
async def neverEnds(case: Case) -> None:
    """A peer does not wait for ever for our end of the stream behind our CLOSE."""
    peer = await case.open()
    peer.send(Kind.CLOSE, close(1000))
    try:
        while (await peer.next()).kind != Kind.CLOSE:
            pass
    except Ended:
        pass
    await peer.channel.rest()
    await peer.wire.closed(LONGEST)


@check("R-9.2", begins=FIRST)
async def deaf(case: Case) -> None:
    """Nor for ever for one who closes, and acknowledges nothing of what it got."""
    peer = await case.open()
    peer.acking = False
    peer.sendAll([(TEXT, b"x" * 100)] * 10)
    peer.send(Kind.CLOSE, close(1001))
    try:
        await peer.channel.rest()
    except Silent:
        raise Unmet("it did not end its stream") from None
    await peer.wire.closed(LONGEST)


@check("R-8.18", SERVER)
async def endsSession(case: Case) -> None:
    """A session that was closed with 1000 is over: who names it again gets another."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    await peer.leave()
    again = await case.open({"session": peer.said["session"], "received": 1})
    if again.said["session"] == peer.said["session"]:
        raise Unmet("it went on")


@check("R-8.18", SERVER)
async def goingAwayKeeps(case: Case) -> None:
    """A session that was left with 1001 goes on."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    await peer.leave(1001)
    again = await case.resume(peer)
    await again.takes((TEXT, b"two"))


@check("R-6.24", SERVER)
async def errorEndsSession(case: Case) -> None:
    """A session that ended with a protocol error is over."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    peer.send(99)
    await peer.says(1002)
    again = await case.open({"session": peer.said["session"], "received": 1})
    if again.said["session"] == peer.said["session"]:
        raise Unmet("it went on")
