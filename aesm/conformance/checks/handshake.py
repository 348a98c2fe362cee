"""
What a server does in the handshake, docs/protocol.md, section 3.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from aesm.conformance.case import SERVER, SUITES, Case, NotApplicable, check, welcomed
from aesm.conformance.hello import encoded
from aesm.conformance.wire import Dial, Ended, Kind, Unmet, ZeroKey, frame
from aesm.errors import AESMError
from aesm.noise import hybridSupported

HELLO = encoded({})


async def begun(case: Case, **more: Any) -> Dial:
    """Have a handshake up to message 2."""
    dial = case.dial(await case.wire(), **more)
    dial.wire.write(dial.offer + dial.one)
    await dial.second()
    return dial


async def fails(dial: Dial, three: bytes) -> None:
    """See that a server hangs up on a message 3, and says nothing."""
    dial.wire.write(three)
    await dial.wire.closed()


def flipped(data: bytes, position: int) -> bytes:
    """Flip a bit of one byte."""
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


@check("R-3.4", SERVER)
async def together(case: Case) -> None:
    """Offer and message 1 in one piece are answered with message 2, of its length."""
    await begun(case)


@check("R-3.13", SERVER)
async def staticKey(case: Case) -> None:
    """The server proves the same static key each time."""
    for _ in range(2):
        await case.greet(HELLO)


@check("R-3.9", SERVER)
async def freshEphemeral(case: Case) -> None:
    """The server's ephemeral keys differ from handshake to handshake."""
    seen = set()
    for _ in range(2):
        dial = case.dial(await case.wire())
        dial.wire.write(dial.offer + dial.one)
        seen.add(await dial.wire.read(2 + 32))
    if len(seen) < 2:
        raise Unmet("it used one twice")


@check("R-3.1", SERVER)
async def otherName(case: Case) -> None:
    """With another application name in the prologue nothing authenticates."""
    await _disagrees(case, name=case.subject.name + "x")


@check("R-3.1", SERVER)
async def alteredOffer(case: Case) -> None:
    """The offer is in the prologue: one that was altered makes the handshake fail."""
    await _disagrees(case, agreed=b"AESM/1 " + SUITES[-1].encode())


async def _disagrees(case: Case, **more: Any) -> None:
    """See that a handshake with another prologue fails."""
    dial = case.dial(await case.wire(), **more)
    dial.wire.write(dial.offer + dial.one)
    if case.subject.psk is not None:  # message 1 authenticates already
        await dial.wire.closed()
        return
    message = await dial.wire.readFramed()
    try:
        dial.noise.readMessage(message)
    except AESMError:
        return
    raise Unmet("message 2 authenticates all the same")


@check("R-3.12", SERVER)
async def shortMessage1(case: Case) -> None:
    """A message 1 that is a byte too short is hung up on by its length."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer + _lengthOf(dial.one, -1))
    await dial.wire.closed()


@check("R-3.12", SERVER)
async def longMessage1(case: Case) -> None:
    """A message 1 that is a byte too long is hung up on by its length."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer + _lengthOf(dial.one, 1))
    await dial.wire.closed()


@check("R-3.12", SERVER)
async def hugeMessage1(case: Case) -> None:
    """A message 1 of 65,535 bytes is hung up on by its length."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer + b"\xff\xff")
    await dial.wire.closed()


@check("R-3.10", SERVER)
async def payloadInMessage1(case: Case) -> None:
    """A message 1 with a payload is hung up on."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer + frame(dial.one[2:] + b"payload"))
    await dial.wire.closed()


def _lengthOf(framed: bytes, more: int) -> bytes:
    """Make the length of a frame that is longer or shorter."""
    return (len(framed) - 2 + more).to_bytes(2, "big")


@check("R-3.16", SERVER)
async def zeroEphemeral(case: Case) -> None:
    """An ephemeral key that gives a secret of zeroes is hung up on."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer + frame(ZeroKey().public + dial.one[2 + 32 :]))
    await dial.wire.closed()


@check("R-3.16", SERVER)
async def zeroStatic(case: Case) -> None:
    """A static key that gives a secret of zeroes is hung up on."""
    dial = await begun(case, key=ZeroKey())
    await fails(dial, dial.third(HELLO))


@check("R-3.17", SERVER)
async def invalidKem(case: Case) -> None:
    """An ML-KEM public key that is not valid is hung up on."""
    if not hybridSupported():
        raise NotApplicable("this machine has no ML-KEM-768")
    if case.subject.psk is not None:
        raise NotApplicable("it is encrypted under the pre-shared key")
    dial = case.dial(await case.wire(), SUITES[2])
    one = dial.one[2:34] + b"\xff" * 1184  # coefficients beyond the modulus
    dial.wire.write(dial.offer + frame(one))
    with suppress(Ended):
        await dial.wire.until(2)
        if dial.wire.received[:2] == b"\0\0":
            raise NotApplicable("it refuses this suite")
    await dial.wire.closed()


@check("R-3.18", SERVER)
async def tamperedKey(case: Case) -> None:
    """A message 3 whose key does not authenticate is hung up on."""
    dial = await begun(case)
    await fails(dial, flipped(dial.third(HELLO), 2))


@check("R-3.18", SERVER)
async def tamperedHello(case: Case) -> None:
    """A message 3 whose payload does not authenticate is hung up on."""
    dial = await begun(case)
    await fails(dial, flipped(dial.third(HELLO), -1))


@check("R-3.18", SERVER)
async def junkMessage3(case: Case) -> None:
    """A message 3 of random bytes is hung up on."""
    dial = await begun(case)
    await fails(dial, frame(os.urandom(64 + len(HELLO))))


@check("R-3.12", SERVER)
async def shortMessage3(case: Case) -> None:
    """A message 3 that is shorter than any is hung up on by its length."""
    dial = await begun(case)
    await fails(dial, (63).to_bytes(2, "big"))


@check("R-3.12", SERVER)
async def longMessage3(case: Case) -> None:
    """A message 3 with a payload of 2,049 bytes is hung up on by its length."""
    dial = await begun(case)
    await fails(dial, (64 + 2049).to_bytes(2, "big"))


@check("R-3.18", SERVER)
async def reflected(case: Case) -> None:
    """A server's own message 2, sent back as message 3, is hung up on."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer + dial.one)
    two = await dial.wire.readFramed()
    await fails(dial, frame(two))


@check("R-3.9", SERVER)
async def replayed(case: Case) -> None:
    """All that a client said, said again in another connection, is hung up on."""
    dial = await begun(case)
    said = dial.offer + dial.one, dial.third(HELLO)
    dial.wire.write(said[1])
    channel = dial.channel()
    await welcomed(channel)
    record = channel.seal(channel.encode(Kind.TEXT, b"once"))
    wire = await case.wire()
    wire.write(said[0])
    await wire.readFramed()
    wire.write(said[1] + record)
    await wire.closed()


@check("R-2.11", SERVER)
async def wrongPsk(case: Case) -> None:
    """A client with another pre-shared key hears nothing at all."""
    if case.subject.psk is None:
        raise NotApplicable("it has no pre-shared key")
    dial = case.dial(await case.wire(), psk=bytes(32))
    dial.wire.write(dial.offer + dial.one)
    await dial.wire.closed()
