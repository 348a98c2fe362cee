"""
Records and the end of the stream, docs/protocol.md, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable

from aesm.conformance.case import LONGEST, Case, add, check, flipped
from aesm.conformance.peer import Peer, acknowledges, close
from aesm.conformance.wire import HEADER, MAX_PLAINTEXT, REKEY, Kind, Unmet, frame

SMALL = 32768  # bytes of which records of one byte are made
NORMAL = close(1000)  # the body of such a CLOSE


def _ends(name: str, number: int, what: str, damage: Callable[[Peer], bytes]) -> None:
    """List what ends the connection at once when a peer is written it."""

    async def run(case: Case) -> None:
        peer = await case.open()
        await peer.barrier()
        peer.wire.write(damage(peer))
        await peer.goes()

    says = f"{what} ends the connection at once."
    add(f"records.{name}", f"R-4.{number}", says, run)


def _text(peer: Peer, words: bytes = b"forged") -> bytes:
    """Make a record with a message."""
    return peer.channel.seal(peer.channel.encode(Kind.TEXT, words))


def _swapped(peer: Peer) -> bytes:
    """Make two records in another order."""
    first, second = _text(peer), _text(peer)
    return second + first


def _behindMissing(peer: Peer) -> bytes:
    """Make a record that is not the next."""
    _text(peer)
    return _text(peer)


def _rekeyed(peer: Peer) -> bytes:
    """Make a record under the next key, out of turn."""
    peer.channel.rekey()
    return _text(peer)


_DAMAGE: tuple[tuple[str, int, str, Callable[[Peer], bytes]], ...] = (
    ("tampered", 6, "A flipped bit in a record", lambda peer: flipped(_text(peer), 2)),
    (
        "tampered-tag",
        6,
        "A flipped bit in a tag",
        lambda peer: flipped(_text(peer), -1),
    ),
    (
        "tampered-then-good",
        6,
        "A record that does not authenticate, with a good one behind it,",
        lambda peer: flipped(_text(peer), 5) + _text(peer),
    ),
    ("shortest", 7, "A record shorter than its tag", lambda _: b"\0\x0f" + bytes(15)),
    ("no-bytes", 7, "A record of no bytes", lambda _: b"\0\0"),
    ("junk", 6, "A record that nobody encrypted", lambda _: b"\0\x20" + b"\xa5" * 32),
    (
        "clear",
        2,
        "A frame in clear, not in a record,",
        lambda peer: frame(peer.channel.encode(Kind.TEXT, b"clear")),
    ),
    ("swapped", 6, "A record before the one that it follows", _swapped),
    ("missing", 6, "A record behind one that is missing", _behindMissing),
    ("rekeys-only-then", 4, "A record under the next key out of turn", _rekeyed),
)
for _damage in _DAMAGE:
    _ends(*_damage)


@check("R-4.6")
async def replayed(case: Case) -> None:
    """A record that comes a second time ends the connection at once."""
    peer = await case.open()
    record = _text(peer, b"once")
    peer.wire.write(record)
    peer.count(Kind.TEXT, b"once")
    await peer.echoed((Kind.TEXT, b"once"))
    await peer.barrier()
    peer.wire.write(record)
    await peer.goes()


@check("R-4.2")
async def largest(case: Case) -> None:
    """A record of 65,519 bytes of plaintext is taken."""
    peer = await case.open()
    body = b"x" * (MAX_PLAINTEXT - HEADER.size)
    peer.send(Kind.BINARY, body)
    await peer.echoed((Kind.BINARY, body))


@check("R-4.3")
async def manyFrames(case: Case) -> None:
    """Many frames in one record are as good as each in its own."""
    peer = await case.open()
    messages = [(Kind.TEXT, b"%d" % number) for number in range(50)]
    peer.sendAll(messages)
    await peer.echoed(*messages)


@check("R-1.1")
async def tornFrames(case: Case) -> None:
    """A frame may be torn into records of one byte each."""
    peer = await case.open()
    stream = peer.channel.encode(Kind.TEXT, b"torn")
    for position in range(len(stream)):
        peer.channel.write(stream[position : position + 1])
    peer.count(Kind.TEXT, b"torn")
    await peer.echoed((Kind.TEXT, b"torn"))


@check("R-1.1")
async def tornTransport(case: Case) -> None:
    """Records may come byte by byte."""
    peer = await case.open()
    for byte in _text(peer, b"slow"):
        peer.wire.write(bytes([byte]))
        await case.sleep(0)
    peer.count(Kind.TEXT, b"slow")
    await peer.echoed((Kind.TEXT, b"slow"))


@check("R-4.4")
async def rekeys(case: Case) -> None:
    """After 65,536 records the receiver goes on with the next key."""
    peer = await case.open()
    body = bytes(REKEY)
    stream = peer.channel.encode(Kind.BINARY, body)
    peer.count(Kind.BINARY, body)
    for start in range(0, len(stream), SMALL):
        part = stream[start : start + SMALL]
        seal = peer.channel.seal
        peer.wire.write(b"".join(seal(part[at : at + 1]) for at in range(len(part))))
        await case.sleep(0)
    # To open so many takes a while, of a peer that has others to see to.
    if await peer.message(LONGEST) != (Kind.BINARY, body):
        raise Unmet("another message came back")
    peer.text("behind it")
    await peer.echoed((Kind.TEXT, b"behind it"))


@check("R-5.2")
async def halfClose(case: Case) -> None:
    """A peer whose other side ends its stream ends its own."""
    peer = await case.open()
    peer.channel.end()
    while await peer.channel.frame() is not None:
        pass
    await peer.part()


@check("R-5.3")
async def recordBehindEnd(case: Case) -> None:
    """A message behind the end of the stream is not taken."""
    await _behindEnd(case, _text)


@check("R-5.3")
async def bytesBehindEnd(case: Case) -> None:
    """Bytes behind the end of the stream are not taken for anything."""
    await _behindEnd(case, lambda peer: b"\0\x14" + bytes(20))


async def _behindEnd(case: Case, more: Callable[[Peer], bytes]) -> None:
    """See that nothing is done with what is behind the end of a stream."""
    peer = await case.open()
    await peer.barrier()
    peer.wire.write(peer.channel.seal(b"") + more(peer))
    for each in await peer.channel.rest():
        if each.kind == Kind.TEXT or acknowledges(each):
            raise Unmet(f"it took what was behind the end: {each}")
    await peer.wire.closed()


@check("R-5.4")
async def endInFrame(case: Case) -> None:
    """A stream that ends within a frame is no proper end of it."""
    peer = await case.open()
    await peer.barrier()
    peer.channel.write(peer.channel.encode(Kind.TEXT, b"torn off")[:-3])
    peer.channel.end()
    for each in await peer.channel.rest():
        if each.kind == Kind.TEXT or each.body == NORMAL:
            raise Unmet(f"it took that for a proper end: {each}")
    await peer.part()
