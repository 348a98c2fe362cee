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
    add,
    check,
    welcomed,
)
from aesm.conformance.hello import encoded
from aesm.conformance.wire import Silent, Unmet, Wire, frame
from aesm.noise import hybridSupported

UNKNOWN = b"AESM/1 Noise_NN_25519_AESGCM_SHA256"  # authenticates nobody
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


def _refuses(
    name: str, number: int, what: str, offer: bytes, reason: bytes | None = None
) -> None:
    """List an offer that is refused, in which SUITE is one that is taken."""

    async def run(case: Case) -> None:
        suite = case.subject.suite.encode()
        await refused(case, offer.replace(b"SUITE", suite), reason)

    add(f"offer.{name}", f"R-2.{number}", f"{what} is refused.", run, SERVER)


def _hangsUp(name: str, what: str, start: bytes) -> None:
    """List first bytes on which a server closes, and says nothing."""

    async def run(case: Case) -> None:
        wire = await case.wire()
        wire.write(start)
        await wire.closed()

    add(f"offer.{name}", "R-2.2", f"{what} is hung up on, silently.", run, SERVER)


def _leads(plain: str) -> None:
    """List a suite."""

    async def run(case: Case) -> None:
        suite = case.subject.withPSK(plain)
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

    _, pattern, _, cipher, _ = plain.lower().split("_")
    says = f"A handshake by {plain} leads to a WELCOME."
    add(f"offer.suite-{pattern}-{cipher}", "R-2.5", says, run, SERVER, must=False)


for _plain in SUITES:
    _leads(_plain)
_refuses("unknown-suite", 8, "An offer of a suite that nobody knows", UNKNOWN)
_refuses("unknown-version", 8, "An offer of another version", b"AESM/2 SUITE")
_refuses("no-offer", 8, "A frame of words that are no offer", b"hello")
_refuses("not-ascii", 8, "An offer that is not ASCII", b"AESM/1 \xff\xfe\x80")
_refuses("longest-offer", 8, "An offer of 255 bytes", b"AESM/1 " + b"N" * 248)
_refuses("suite-with-more", 4, "An offer with more behind it", b"AESM/1 SUITE ")
_refuses(
    "byte-stream", 9, "An offer of a byte stream", b"AESM/1 stream SUITE", WRONG_PORT
)


@check("R-2.6", SERVER)
async def otherPsk(case: Case) -> None:
    """A suite with psk0 where there is no such key, or the reverse, is refused."""
    suite = SUITES[0]
    await refused(
        case,
        b"AESM/1 " + case.subject.withPSK(suite, case.subject.psk is None).encode(),
    )


_hangsUp(
    "http-request", "A client of HTTP", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
)
_hangsUp("tls-hello", "A client of TLS", b"\x16\x03\x01\x02\x00\x01")
_hangsUp("first-byte", "A first byte that is not 0", b"\x01")
_hangsUp("empty-offer", "An offer of no bytes", b"\0\0")


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
