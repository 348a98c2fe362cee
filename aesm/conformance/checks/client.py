"""
What only clients do: offer, look at the server's key, and come back, docs/protocol.md,
sections 2, 3 and 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aesm.conformance.case import CLIENT, Case, NotApplicable, add, check, flipped
from aesm.conformance.hello import encoded
from aesm.conformance.peer import close
from aesm.conformance.wire import (
    Answer,
    Channel,
    Ended,
    Kind,
    Silent,
    Unmet,
    ZeroKey,
    frame,
)
from aesm.noise import KeyPair

TEXT = Kind.TEXT


async def _comesBack(case: Case) -> None:
    """See that a client comes again, and then all is well."""
    try:
        peer = await case.open()
    except Silent as error:
        raise Unmet(f"it gave up: {error}") from None
    await peer.takes((TEXT, b"here again"))


def _hangsUp(
    name: str,
    number: str,
    what: str,
    alter: Callable[[bytes], bytes],
    ephemeral: KeyPair | None = None,
) -> None:
    """List no true message 2, on which a client closes without message 3."""

    async def run(case: Case) -> None:
        answer = await case.answer(ephemeral)
        answer.wire.write(alter(answer.two()))
        await answer.wire.closed()
        await _comesBack(case)

    add(f"client.{name}", f"R-{number}", f"{what} is hung up on.", run, CLIENT)


def _length(size: int) -> bytes:
    """Make the length of a frame."""
    return size.to_bytes(2, "big")


@check("R-2.1", CLIENT)
async def offers(case: Case) -> None:
    """The client offers one suite, in an offer of its form, and proves a key."""
    offer = await Answer(
        await case.wire(), case.key, case.subject.name, case.subject.psk
    ).offer()
    if offer.count(" ") != 1:
        raise Unmet(f"it offers {offer!r}")


@check("R-2.7", CLIENT)
async def offersTheSame(case: Case) -> None:
    """A client that was refused offers no other suite the next time."""
    first = await case.answer()
    first.wire.cut()
    answer = Answer(await case.wire(), case.key, case.subject.name, case.subject.psk)
    await answer.offer()
    await answer.first()
    suite = answer.suite
    reason = b"AESM/1 refused: offer one of Noise_XX_25519_ChaChaPoly_SHA256"
    answer.wire.write(b"\0\0" + frame(reason))
    await answer.wire.closed()
    again = await case.answer()
    if again.suite != suite:
        raise Unmet(f"it offered {suite}, then {again.suite}")


_TWOS: tuple[tuple[str, str, str, Callable[[bytes], bytes]], ...] = (
    (
        "long-refusal",
        "2.12",
        "A reason of 256 bytes",
        lambda _: b"\0\0\1\0" + b"x" * 256,
    ),
    ("tampered-key", "3.18", "A forged key", lambda two: flipped(two, -40)),
    ("tampered-payload", "3.18", "A forged payload", lambda two: flipped(two, -1)),
    ("long-message-2", "3.12", "A long message 2", lambda two: _length(len(two) - 1)),
    ("short-message-2", "3.12", "A short message 2", lambda two: _length(len(two) - 3)),
    (
        "http-response",
        "2.12",
        "Another protocol",
        lambda _: b"HTTP/1.1 400 Bad\r\n\r\n",
    ),
)
for _two in _TWOS:
    _hangsUp(*_two)
_hangsUp(
    "zero-ephemeral",
    "3.16",
    "A message 2 with a key that gives a secret of zeroes",
    lambda two: two,
    ZeroKey(),
)


@check("R-3.9", CLIENT)
async def freshEphemeral(case: Case) -> None:
    """The client's ephemeral keys differ from handshake to handshake."""
    seen = set()
    for _ in range(2):
        wire = await case.wire()
        await wire.readFramed()
        seen.add((await wire.readFramed())[-1200:][:32])
        wire.cut()
    if len(seen) < 2:
        raise Unmet("it used one twice")


@check("R-8.19", CLIENT)
async def sameKey(case: Case) -> None:
    """The client proves the same static key each time."""
    for _ in range(2):
        peer = await case.open()
        await peer.leave()


@check("R-3.13", CLIENT)
async def wrongKey(case: Case) -> None:
    """A client that meets a key that it does not trust closes, and keeps its own."""
    case.key = KeyPair.generate()
    answer = await case.answer()
    answer.wire.write(answer.two())
    await answer.wire.closed()
    case.key = case.subject.ours
    await _comesBack(case)


@check("R-8.1", CLIENT)
async def hello(case: Case) -> None:
    """The client's hello is a JSON object, with values that its keys can have."""
    channel, said = await case.admit()
    await case.open(admitted=(channel, said))


@check("R-8.13", CLIENT)
async def waits(case: Case) -> None:
    """Before the WELCOME a client sends no more than it has announced as early."""
    channel, said = await case.admit()
    early = said.get("early", 0)
    stream = 0
    try:
        while True:
            stream += len(await channel.record(0.5))
    except Ended:
        raise Unmet("it did not wait") from None
    except Silent:
        pass
    if stream != early:
        raise Unmet(f"it sent {stream} bytes, and announced {early}")


def _welcome(name: str, what: str, body: bytes) -> None:
    """Make the check that a WELCOME is a protocol error."""

    async def run(case: Case) -> None:
        await _refuses(case, lambda channel: channel.encode(Kind.WELCOME, body))

    says = f"A WELCOME {what} is not taken."
    add(f"client.welcome-{name}", "R-8.3", says, run, CLIENT)


async def _refuses(case: Case, first: Callable[[Channel], bytes]) -> None:
    """See that a client does not take the first frame that it gets."""
    channel, said = await case.admit()
    channel.write(first(channel))
    # It is told so only if it was welcomed: by what is wrong later in the same frame.
    for each in await channel.rest():
        if each.body[:2] == close(1000) or each.kind == Kind.ACK:
            raise Unmet(f"it went on with {each}")
        if each.kind != Kind.CLOSE and not said.get("early"):
            raise Unmet(f"it went on with {each}")
    channel.end()
    await channel.wire.closed()
    await _comesBack(case)


_welcome("not-json", "that is no JSON", b"welcome")
_welcome("not-an-object", "that is no JSON object", b"7")
_welcome(
    "impossible",
    "with a heartbeat of -1",
    encoded({"session": "0" * 32, "heartbeat": -1}),
)
_welcome("too-large", "of 2,049 bytes", encoded({"agent": "x" * (2049 - 12)}))


@check("R-8.12", CLIENT)
async def noWelcome(case: Case) -> None:
    """A message before the WELCOME is not taken."""
    await _refuses(case, lambda channel: channel.encode(TEXT, b"too early"))


@check("R-8.2", CLIENT)
async def unknownKeys(case: Case) -> None:
    """Keys that are not known are ignored in a WELCOME."""
    peer = await case.open({"colour": "blue", "extra": {"deep": [None]}})
    await peer.takes((TEXT, b"hello"))


@check("R-9.5", CLIENT)
async def tryAgainLater(case: Case) -> None:
    """A CLOSE instead of a WELCOME is answered with the end of the stream alone."""
    channel, said = await case.admit()
    channel.write(channel.encode(Kind.CLOSE, close(1013, b"full")))
    channel.end()
    frame = None if said.get("early") else await channel.frame()
    if frame is not None:
        raise Unmet(f"it said {frame}")
    await channel.rest()
    await channel.wire.closed()
    await _comesBack(case)


@check("R-8.16", CLIENT)
async def namesSession(case: Case) -> None:
    """A client whose connection broke names its session, and what it has received."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"), (TEXT, b"two"))
    await peer.acknowledgedAll()
    peer.wire.cut()
    channel, said = await case.admit()
    if (said.get("session"), said.get("received")) != (peer.hello["session"], 2):
        raise Unmet(f"its hello says {said}")
    await case.open(admitted=(channel, said))


@check("R-8.25", CLIENT)
async def sessionLost(case: Case) -> None:
    """A client whose session is lost goes on with the new one, from the start."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    peer.wire.cut()
    again = await case.open()
    await again.takes((TEXT, b"two"))
    await again.acknowledgedAll()


@check("R-8.20", CLIENT)
async def receivedTooMany(case: Case) -> None:
    """A WELCOME that has received more messages than were sent is not taken."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    await peer.acknowledgedAll()
    peer.wire.cut()
    channel, _ = await case.admit()
    name = peer.hello["session"]
    welcome: dict[str, Any] = {"session": name, "received": 1000}
    channel.write(channel.encode(Kind.WELCOME, encoded(welcome)))
    for each in await channel.rest():
        if each.kind == Kind.ACK:
            raise Unmet("it went on")
    channel.end()
    await channel.wire.closed()
    await _comesBack(case)


@check("R-8.18", CLIENT)
async def goingAway(case: Case) -> None:
    """A client that is told 1001 comes back to its session."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    await peer.acknowledgedAll()
    await peer.leave(1001)
    again = await case.resume(peer)
    await again.takes((TEXT, b"two"))


@check("R-9.11", CLIENT, must=False)
async def after(case: Case) -> None:
    """A client that is told 1001 and `after` comes back, in its time."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    await peer.leave(1001, b"stopping\x00200")
    again = await case.resume(peer)
    await again.takes((TEXT, b"two"))


@check("R-8.18", CLIENT)
async def closedIsOver(case: Case) -> None:
    """A client that is told 1000 does not come back to that session."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    await peer.leave()
    again = await case.open()
    if again.said.get("session") == peer.hello["session"]:
        raise Unmet("it did")


@check("R-8.29", CLIENT)
async def earlyTaken(case: Case) -> None:
    """What comes before the WELCOME are whole messages, of a session that is named."""
    channel, said = await case.admit()
    if not said.get("early"):
        await case.open(admitted=(channel, said))
        raise NotApplicable("it sends nothing before the WELCOME")
    left = said["early"]
    while left > 0:
        got = await channel.frame()
        if got is None or got.kind not in (TEXT, Kind.BINARY, Kind.BATCH):
            raise Unmet(f"{got or 'the end'} came")
        left -= 13 + len(got.body)
    if left or not said.get("session"):
        raise Unmet(f"{-left} bytes were too many, in {said.get('session')!r}")
