"""
What a server does in the handshake, docs/protocol.md, section 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aesm.conformance.case import (
    SERVER,
    SUITES,
    Case,
    NotApplicable,
    add,
    check,
    flipped,
    welcomed,
)
from aesm.conformance.hello import encoded
from aesm.conformance.wire import Dial, Ended, Kind, Unmet, ZeroKey, frame
from aesm.errors import AESMError
from aesm.noise import hybridSupported

HELLO = encoded({})

_Alter = Callable[[bytes], bytes]


def _cut(size: int) -> bytes:
    """Make the length of a frame, of which nothing more comes."""
    return size.to_bytes(2, "big")


async def begun(case: Case, **more: Any) -> Dial:
    """Have a handshake up to message 2."""
    dial = case.dial(await case.wire(), **more)
    dial.wire.write(dial.offer + dial.one)
    await dial.second()
    return dial


def _hangsUpOn1(name: str, number: int, what: str, alter: _Alter) -> None:
    """List what is no message 1, made of a true one, on which a server hangs up."""

    async def run(case: Case) -> None:
        dial = case.dial(await case.wire())
        dial.wire.write(dial.offer + alter(dial.one))
        await dial.wire.closed()

    says = f"A message 1 {what} is hung up on."
    add(f"handshake.{name}", f"R-3.{number}", says, run, SERVER)


def _hangsUpOn3(name: str, number: int, what: str, alter: _Alter) -> None:
    """List what is no message 3, made of a true one, on which a server hangs up."""

    async def run(case: Case) -> None:
        dial = await begun(case)
        dial.wire.write(alter(dial.third(HELLO)))
        await dial.wire.closed()

    says = f"A message 3 {what} is hung up on."
    add(f"handshake.{name}", f"R-3.{number}", says, run, SERVER)


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


_ONES: tuple[tuple[str, int, str, _Alter], ...] = (
    ("short-message-1", 12, "that is a byte too short", lambda one: _cut(len(one) - 3)),
    ("long-message-1", 12, "that is a byte too long", lambda one: _cut(len(one) - 1)),
    ("huge-message-1", 12, "of 65,535 bytes", lambda one: _cut(65535)),
    (
        "payload-in-message-1",
        10,
        "with a payload",
        lambda one: frame(one[2:] + b"more"),
    ),
    (
        "zero-ephemeral",
        16,
        "with a key that gives a secret of zeroes",
        lambda one: frame(ZeroKey().public + one[2 + 32 :]),
    ),
)
for _one in _ONES:
    _hangsUpOn1(*_one)


@check("R-3.16", SERVER)
async def zeroStatic(case: Case) -> None:
    """A static key that gives a secret of zeroes is hung up on."""
    dial = await begun(case, key=ZeroKey())
    dial.wire.write(dial.third(HELLO))
    await dial.wire.closed()


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


_THREES: tuple[tuple[str, int, str, _Alter], ...] = (
    ("tampered-key", 18, "whose key is forged", lambda three: flipped(three, 2)),
    ("tampered-hello", 18, "whose payload is forged", lambda three: flipped(three, -1)),
    ("junk-message-3", 18, "of random bytes", lambda _: frame(os.urandom(64 + 2))),
    ("short-message-3", 12, "of 63 bytes, fewer than any has,", lambda _: _cut(63)),
    ("long-message-3", 12, "of 2,049 bytes of payload", lambda _: _cut(64 + 2049)),
)
for _three in _THREES:
    _hangsUpOn3(*_three)


@check("R-3.18", SERVER)
async def reflected(case: Case) -> None:
    """A server's own message 2, sent back as message 3, is hung up on."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer + dial.one)
    two = await dial.wire.readFramed()
    dial.wire.write(frame(two))
    await dial.wire.closed()


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
