"""
Frames: what each carries, and what is against the rules, docs/protocol.md, section 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from aesm.conformance.case import (
    CLIENT,
    Case,
    NotApplicable,
    add,
    breach,
    check,
    sends,
)
from aesm.conformance.peer import Message, Peer, batch, close
from aesm.conformance.wire import HEADER, Kind, Unmet

TEXT, BINARY = Kind.TEXT, Kind.BINARY
LARGEST = 16 << 20  # bytes of a message that is sent to see whether it is taken
NOT_UTF8 = {
    "byte": b"\xff",
    "surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\x80",
    "cutoff": "é".encode()[:1],
    "toohigh": b"\xf4\x90\x80\x80",
}


def _announces(kind: int, more: int) -> Callable[[Peer], object]:
    """Make a breach of a header, of a message that is larger than the peer takes."""

    def do(peer: Peer) -> None:
        size = min(peer.maxMessage + more, (1 << 32) - 1)
        if size <= peer.maxMessage:
            raise NotApplicable("it takes messages of any size")
        peer.channel.write(peer.channel.encode(kind, size=size))

    return do


def _lengths(*lengths: int, body: bytes = b"") -> bytes:
    """Make the body of a BATCH that need not be right."""
    return struct.pack(f">{1 + len(lengths)}I", len(lengths), *lengths) + body


# Messages


def _echoes(name: str, number: int, says: str, *messages: Message) -> None:
    """List messages that come back."""

    async def run(case: Case) -> None:
        peer = await case.open()
        for kind, body in messages:
            peer.send(kind, body)
        await peer.echoed(*messages)
        await peer.nothing()

    add(f"frames.{name}", f"R-6.{number}", says, run)


WORDS = "Grüße, 世界 \U0001f30d \0 \U0010ffff \ud7ff \ue000".encode()
_echoes("text", 3, "A TEXT comes back as a TEXT, whatever is in it.", (TEXT, WORDS))
_echoes(
    "binary", 3, "A BINARY comes back, of the same bytes.", (BINARY, bytes(range(256)))
)
_echoes(
    "no-bytes", 3, "Empty messages are messages.", *((TEXT, b""), (BINARY, b"")) * 2
)
_echoes(
    "order",
    1,
    "A hundred messages of either kind come back in order.",
    *((TEXT if n % 3 else BINARY, b"%d" % n * (n % 7)) for n in range(100)),
)


@check("R-6.2")
async def times(case: Case) -> None:
    """A frame may have any time, also an earlier one than the one before."""
    peer = await case.open()
    now = HEADER.unpack_from(peer.channel.encode(TEXT))[2]
    for micros in (0, (1 << 64) - 1, now, now - 10**9, 1):
        body = b"%d" % micros
        peer.channel.write(HEADER.pack(len(body), TEXT, micros) + body)
        peer.count(TEXT, body)
        await peer.echoed((TEXT, body))


@check("R-6.18")
async def largest(case: Case) -> None:
    """A message of as many bytes as the peer takes is taken."""
    peer = await case.open({"maxMessage": (1 << 31) - 1})
    if peer.maxMessage > LARGEST:
        raise NotApplicable(f"that is {peer.maxMessage} bytes")
    body = bytes(peer.maxMessage)
    peer.send(BINARY, body)
    await peer.echoed((BINARY, body))


@check("R-6.18")
async def tooLargeForUs(case: Case) -> None:
    """A peer sends no message that is larger than we take."""
    peer = await case.open({"maxMessage": 10})
    peer.sendAll([(TEXT, b"0123456789"), (TEXT, b"0123456789a")])
    await peer.echoed((TEXT, b"0123456789"))
    peer.send(Kind.PING, b"?")
    while b"?" not in peer.pongs:
        frame = await peer.next()
        if frame.kind == Kind.CLOSE:  # that is an answer, too
            return
    if peer.messages:
        raise Unmet("it sent one of 11 bytes to us, who take 10")


for _name, _what, _breach in (
    ("too-large", "The header of too large a message", _announces(BINARY, 1)),
    ("text-too-large", "The header of too large a TEXT", _announces(TEXT, 1)),
    ("huge", "The header of four gigabytes", _announces(BINARY, 1 << 32)),
):
    breach(f"frames.{_name}", "R-6.18", _what, _breach, 1009)
for _name, _what, _text in (
    *((name, f"with {text.hex(' ')}", text) for name, text in NOT_UTF8.items()),
    ("long", "of whose 100,000 bytes the last is wrong", b"x" * 99_999 + b"\x80"),
):
    breach(
        f"frames.not-utf8-{_name}",
        "R-6.20",
        f"A TEXT {_what}, no UTF-8,",
        sends(TEXT, _text),
        1007,
    )
for _kind in (0, 12, 127, 255):
    breach(
        f"frames.unknown-type-{_kind}",
        "R-6.16",
        f"A frame of type {_kind}, which there is not,",
        sends(_kind),
        1002,
    )

# BATCH


def _needsBatch(peer: Peer) -> None:
    """See that the peer takes BATCHes."""
    if not peer.said.get("batch"):
        raise NotApplicable("it does not say that it takes BATCHes")


def _echoesBatch(name: str, number: int, what: str, *messages: Message) -> None:
    """List messages of a BATCH that come back."""

    async def run(case: Case) -> None:
        peer = await case.open()
        _needsBatch(peer)
        peer.send(Kind.BATCH, batch(messages))
        await peer.echoed(*messages)
        await peer.acknowledgedAll()

    add(f"frames.batch-{name}", f"R-6.{number}", f"A BATCH of {what} is taken.", run)


_echoesBatch(
    "mixed",
    5,
    "texts and bytes, in order,",
    *((TEXT, b"one"), (BINARY, b"\0\xff"), (TEXT, "zwei ü".encode()), (TEXT, b"")),
)
_echoesBatch("of-one", 4, "one message", (BINARY, b"one"))
_echoesBatch("of-most", 6, "1,023 empty messages", *[(TEXT, b"")] * 1023)
_echoesBatch("largest", 6, "a message of 65,442 bytes", (BINARY, bytes(65442)))


@check("R-1.1")
async def batchTorn(case: Case) -> None:
    """A BATCH may come in parts."""
    peer = await case.open()
    _needsBatch(peer)
    messages = [(TEXT, b"%d" % number) for number in range(10)]
    body = batch(messages)
    stream = peer.channel.encode(Kind.BATCH, body)
    for start in range(0, len(stream), 7):
        peer.channel.write(stream[start : start + 7])
    peer.count(Kind.BATCH, body)
    await peer.echoed(*messages)


@check("R-6.7")
async def batchNotTaken(case: Case) -> None:
    """A peer sends no BATCH to a side that does not say that it takes one."""
    peer = await case.open()
    messages = [(TEXT, b"%d" % number) for number in range(50)]
    peer.sendAll(messages)
    await peer.echoed(*messages)


@check("R-6.6")
async def batchTaken(case: Case) -> None:
    """What a peer sends to a side that takes BATCHes is right, in BATCHes or not."""
    peer = await case.open({"batch": True})
    messages = [(TEXT if n % 2 else BINARY, b"x" * n) for n in range(300)]
    peer.sendAll(messages)
    await peer.echoed(*messages)


for _name, _number, _what, _body, _codes in (
    ("empty", 4, "no messages", _lengths(), [1002]),
    ("no-count", 17, "three bytes", b"\0\0\0", [1002]),
    ("no-lengths", 5, "fewer lengths than its count", b"\0\0\0\x09", [1002]),
    ("short", 5, "less than its lengths say", _lengths(5, body=b"four"), [1002]),
    ("long", 5, "more than its lengths say", _lengths(3, body=b"four"), [1002]),
    ("many", 6, "more than 65,506 bytes that count", _lengths(*[0] * 1024), [1002]),
    (
        "not-utf8",
        20,
        "a text that is not UTF-8",
        _lengths(1, 2, body=b"\xffab"),
        [1007],
    ),
    # A side need not look at lengths before it looks at sizes.
    (
        "large",
        6,
        "a message of half a gigabyte",
        _lengths(1 << 29, body=b"four"),
        [1002, 1009],
    ),
):
    breach(
        f"frames.batch-{_name}",
        f"R-6.{_number}",
        f"A BATCH of {_what}",
        sends(Kind.BATCH, _body),
        *_codes,
        needs="batch",
    )
breach(
    "frames.batch-huge",
    "R-6.17",
    "The header of a BATCH of a megabyte",
    sends(Kind.BATCH, size=1 << 20),
    *(1002, 1009),
    needs="batch",
)

# PING, PONG, CLOSE, ACK, REST, WELCOME


@check("R-8.10")
async def ping(case: Case) -> None:
    """A PING is answered with a PONG of the same body, of 0 to 64 bytes."""
    peer = await case.open()
    for body in (b"?", b"", bytes(range(64))):
        peer.pongs.clear()
        peer.send(Kind.PING, body)
        while not peer.pongs:
            await peer.next()
        if peer.pongs != [body]:
            raise Unmet(f"a PONG of {peer.pongs} for {body!r}")


@check("R-8.10")
async def pings(case: Case) -> None:
    """Of several PINGs that come at once the newest is answered."""
    peer = await case.open()
    peer.sendAll((Kind.PING, b"%d" % number) for number in range(20))
    while b"19" not in peer.pongs:
        await peer.next()
    expected = sorted(peer.pongs, key=int)
    if peer.pongs != expected or len(set(expected)) < len(expected):
        raise Unmet(f"PONGs {peer.pongs}")


@check("R-8.10")
async def pongUnasked(case: Case) -> None:
    """A PONG that answers nothing is put up with."""
    peer = await case.open()
    peer.send(Kind.PONG)
    peer.send(Kind.PONG, b"unasked")
    await peer.barrier()


for _kind, _what, _size in (
    (Kind.PING, "A PING of 65 bytes", 65),
    (Kind.PONG, "A PONG of 65 bytes", 65),
    (Kind.ACK, "An ACK of 15 bytes", 15),
    (Kind.ACK, "An ACK of 17 bytes", 17),
    (Kind.CLOSE, "A CLOSE of one byte", 1),
    (Kind.CLOSE, "A CLOSE with a reason of 1,025 bytes", 1027),
):
    breach(
        f"frames.{_kind.name.lower()}-of-{_size}",
        "R-6.17",
        _what,
        sends(_kind, bytes(_size)),
        1002,
    )
breach(
    "frames.ping-huge",
    "R-6.17",
    "The header of a PING of a gigabyte",
    sends(Kind.PING, size=1 << 30),
    *(1002, 1009),
)
breach(
    "frames.close-not-utf8",
    "R-6.20",
    "A CLOSE whose reason is not UTF-8",
    sends(Kind.CLOSE, close(1000, b"\xff")),
    1007,
)
breach(
    "frames.rest-unasked",
    "R-6.22",
    "A REST in a session that does not go on",
    sends(Kind.REST, b"rest"),
    1002,
)
breach(
    "frames.second-welcome",
    "R-8.12",
    "A second WELCOME",
    sends(Kind.WELCOME, b"{}"),
    1002,
    roles=(CLIENT,),
)


def _flood(kind: int) -> Callable[[Peer], object]:
    """Make a breach of very many frames that carry nothing."""

    def do(peer: Peer) -> None:
        body = struct.pack(">QQ", peer.got, peer.limit) if kind == Kind.ACK else b""
        peer.channel.write(peer.channel.encode(kind, body) * 3000)

    return do


for _kind in (Kind.PING, Kind.PONG, Kind.ACK):
    breach(
        f"frames.flood-of-{_kind.name.lower()}",
        "R-8.11",
        f"A flood of 3,000 {_kind.name}s that carry nothing",
        _flood(_kind),
        1002,
    )


@check("R-8.11")
async def noFlood(case: Case) -> None:
    """Eighty PINGs, PONGs and ACKs without news, in all, are put up with."""
    peer = await case.open()
    for number in range(26):
        peer.send(Kind.PING, b"%d" % number)
        peer.send(Kind.PONG)
        peer.acknowledge()
    await peer.barrier()
