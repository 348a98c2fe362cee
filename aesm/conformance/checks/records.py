"""
Records and the end of the stream, docs/protocol.md, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable

from aesm.conformance.case import LONGEST, Case, check
from aesm.conformance.peer import Peer, acknowledges, close
from aesm.conformance.wire import HEADER, MAX_PLAINTEXT, REKEY, Kind, Unmet, frame

SMALL = 32768  # bytes of which records of one byte are made
NORMAL = close(1000)  # the body of such a CLOSE


async def _ends(case: Case, damage: Callable[[Peer], bytes]) -> None:
    """See that a peer that is written something else ends the connection at once."""
    peer = await case.open()
    await peer.barrier()
    peer.wire.write(damage(peer))
    await peer.goes()


def _text(peer: Peer, words: bytes = b"forged") -> bytes:
    """Make a record with a message."""
    return peer.channel.seal(peer.channel.encode(Kind.TEXT, words))


def _flipped(record: bytes, position: int) -> bytes:
    """Flip a bit."""
    changed = bytearray(record)
    changed[position] ^= 0x80
    return bytes(changed)


@check("R-4.6")
async def tampered(case: Case) -> None:
    """A record of which one bit is flipped ends the connection at once."""
    await _ends(case, lambda peer: _flipped(_text(peer), 2))


@check("R-4.6")
async def tamperedTag(case: Case) -> None:
    """A record of whose tag one bit is flipped ends the connection at once."""
    await _ends(case, lambda peer: _flipped(_text(peer), -1))


@check("R-4.6")
async def tamperedThenGood(case: Case) -> None:
    """Nothing behind a record that does not authenticate is taken."""
    await _ends(case, lambda peer: _flipped(_text(peer), 5) + _text(peer))


@check("R-4.7")
async def shortest(case: Case) -> None:
    """A record of 15 bytes, shorter than its tag, ends the connection at once."""
    await _ends(case, lambda peer: b"\0\x0f" + bytes(15))


@check("R-4.7")
async def noBytes(case: Case) -> None:
    """A record of no bytes ends the connection at once."""
    await _ends(case, lambda peer: b"\0\0")


@check("R-4.6")
async def junk(case: Case) -> None:
    """A record of bytes that nobody has encrypted ends the connection at once."""
    await _ends(case, lambda peer: b"\0\x20" + b"\xa5" * 32)


@check("R-4.2")
async def clear(case: Case) -> None:
    """A frame in clear, not in a record, ends the connection at once."""
    await _ends(case, lambda peer: frame(peer.channel.encode(Kind.TEXT, b"clear")))


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


@check("R-4.6")
async def swapped(case: Case) -> None:
    """Records in another order end the connection at once."""

    def damage(peer: Peer) -> bytes:
        first, second = _text(peer), _text(peer)
        return second + first

    await _ends(case, damage)


@check("R-4.6")
async def missing(case: Case) -> None:
    """A record behind one that is missing ends the connection at once."""

    def damage(peer: Peer) -> bytes:
        _text(peer)
        return _text(peer)

    await _ends(case, damage)


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


@check("R-4.4")
async def rekeysOnlyThen(case: Case) -> None:
    """A record under another key before that ends the connection at once."""

    def damage(peer: Peer) -> bytes:
        peer.channel.rekey()
        return _text(peer)

    await _ends(case, damage)


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
