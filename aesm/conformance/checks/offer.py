"""
What a server does with offers, docs/protocol.md, section 2.
"""

from __future__ import annotations

from aesm.conformance.case import (
    FIRST,
    LONGEST,
    SERVER,
    SUITES,
    Case,
    NotApplicable,
    Run,
    check,
    welcomed,
)
from aesm.conformance.hello import encoded
from aesm.conformance.wire import Silent, Unmet, Wire, frame
from aesm.noise import hybridSupported

UNKNOWN = "Noise_NN_25519_AESGCM_SHA256"  # authenticates nobody
WRONG_PORT = b"AESM/1 refused: this port talks messages, not a byte stream"


async def refused(case: Case, offer: bytes, reason: bytes | None = None) -> None:
    """Make an offer that is to be refused, for this reason if it is given."""
    wire = await case.wire()
    wire.write(frame(offer))
    await refuses(case, wire, reason)


async def refuses(case: Case, wire: Wire, reason: bytes | None = None) -> None:
    """See that a server refuses, in its form, or silently if it has a key."""
    if case.subject.psk is None:
        if (begin := await wire.read(2)) != b"\0\0":
            raise Unmet(f"it answered {begin.hex()} instead of a refusal")
        said = await wire.readFramed()
        if len(said) > 255 or not said.isascii():
            raise Unmet(f"its refusal has the reason {said[:300]!r}")
        if reason is not None and said != reason:
            raise Unmet(f"its refusal has the reason {said!r}, not {reason!r}")
    await wire.closed()


async def hangsUp(case: Case, start: bytes) -> None:
    """See that a server closes, and says nothing, on seeing some first bytes."""
    wire = await case.wire()
    wire.write(start)
    await wire.closed()


def _suite(number: int) -> Run:
    """Make the check of a suite."""

    async def run(case: Case) -> None:
        suite = case.subject.suites[number]
        if "hfs" in suite and not hybridSupported():
            raise NotApplicable("this machine has no ML-KEM-768")
        dial = case.dial(await case.wire(), suite)
        dial.wire.write(dial.offer + dial.one)
        if case.subject.psk is None:
            await dial.wire.until(2)
            if dial.wire.received[:2] == b"\0\0":
                await refuses(case, dial.wire)
                raise NotApplicable("it refuses this suite, in order")
        await dial.second()
        dial.wire.write(dial.third(encoded({})))
        await welcomed(dial.channel())

    words = SUITES[number].split("_")
    run.__name__ = f"suite{words[1].capitalize()}{words[3].capitalize()}"
    run.__doc__ = f"A handshake by {SUITES[number]} leads to a WELCOME."
    return run


for _number in range(len(SUITES)):
    check("R-2.5", SERVER, must=False)(_suite(_number))


@check("R-2.8", SERVER)
async def unknownSuite(case: Case) -> None:
    """An offer of a suite that nobody knows is refused, with a reason in ASCII."""
    await refused(case, b"AESM/1 " + UNKNOWN.encode())


@check("R-2.8", SERVER)
async def unknownVersion(case: Case) -> None:
    """An offer of another version is refused."""
    await refused(case, b"AESM/2 " + case.subject.suite.encode())


@check("R-2.8", SERVER)
async def noOffer(case: Case) -> None:
    """A frame of words that are no offer is refused."""
    await refused(case, b"hello")


@check("R-2.8", SERVER)
async def notAscii(case: Case) -> None:
    """An offer that is not ASCII is refused."""
    await refused(case, b"AESM/1 \xff\xfe\x80")


@check("R-2.8", SERVER)
async def longestOffer(case: Case) -> None:
    """An offer of 255 bytes is read, and refused."""
    await refused(case, b"AESM/1 " + b"N" * 248)


@check("R-2.4", SERVER)
async def suiteWithMore(case: Case) -> None:
    """An offer that only begins with a known one is refused."""
    await refused(case, b"AESM/1 " + case.subject.suite.encode() + b" ")


@check("R-2.9", SERVER)
async def byteStream(case: Case) -> None:
    """An offer of a byte stream is refused, with the reason to the letter."""
    offer = b"AESM/1 stream " + case.subject.suite.encode()
    await refused(case, offer, WRONG_PORT)


@check("R-2.6", SERVER)
async def otherPsk(case: Case) -> None:
    """A suite with psk0 where there is no such key, or the reverse, is refused."""
    suite = SUITES[0]
    await refused(
        case,
        b"AESM/1 " + case.subject.withPSK(suite, case.subject.psk is None).encode(),
    )


@check("R-2.2", SERVER)
async def httpRequest(case: Case) -> None:
    """A client of HTTP is hung up on, silently."""
    await hangsUp(case, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")


@check("R-2.2", SERVER)
async def tlsHello(case: Case) -> None:
    """A client of TLS is hung up on, silently."""
    await hangsUp(case, b"\x16\x03\x01\x02\x00\x01")


@check("R-2.2", SERVER)
async def firstByte(case: Case) -> None:
    """One first byte that is not 0 is enough to be hung up on."""
    await hangsUp(case, b"\x01")


@check("R-2.2", SERVER)
async def emptyOffer(case: Case) -> None:
    """An offer of no bytes is hung up on."""
    await hangsUp(case, b"\0\0")


@check("R-3.4", SERVER)
async def offerAlone(case: Case) -> None:
    """A server says nothing to an offer that it takes before message 1 has come."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer)
    await case.sleep(0.2)
    if dial.wire.received or dial.wire.ended:
        raise Unmet("it did not wait for message 1")
    dial.wire.write(dial.one)
    await dial.second()


@check("R-1.1", SERVER)
async def byteByByte(case: Case) -> None:
    """A handshake that comes byte by byte is the same."""
    dial = case.dial(await case.wire())
    for byte in dial.offer + dial.one:
        dial.wire.write(bytes([byte]))
        await case.sleep(0)
    await dial.second()
    for byte in dial.third(encoded({})):
        dial.wire.write(bytes([byte]))
        await case.sleep(0)
    await welcomed(dial.channel())


@check("R-3.20", SERVER, begins=FIRST)
async def silence(case: Case) -> None:
    """A connection over which nothing comes is closed at the deadline."""
    await (await case.wire()).closed(LONGEST)


@check("R-3.20", SERVER, begins=FIRST)
async def trickle(case: Case) -> None:
    """Bytes that trickle in do not move the deadline of the handshake."""
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer)
    for byte in dial.one[: int(LONGEST)]:
        if dial.wire.ended:
            return
        dial.wire.write(bytes([byte]))
        await case.sleep(1)
    raise Silent(f"it did not close the connection in {LONGEST:g} s")


@check("R-3.21", SERVER)
async def endsInOffer(case: Case) -> None:
    """A server goes on serving others when a client closes within its offer."""
    wire = await case.wire()
    wire.write(b"\0")
    wire.cut()
    await welcomed(await case.greet(encoded({})))
