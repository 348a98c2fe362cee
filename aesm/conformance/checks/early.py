"""
What a server does with early messages, docs/protocol.md, section 8.
"""

from __future__ import annotations

import secrets
from typing import Any

from aesm.conformance.case import SERVER, Case, NotApplicable, check, welcomed
from aesm.conformance.hello import encoded
from aesm.conformance.peer import Peer, batch
from aesm.conformance.wire import Channel, Kind, Unmet
from aesm.noise import KeyPair

TEXT, BINARY = Kind.TEXT, Kind.BINARY


async def early(
    case: Case, name: str, *frames: tuple[int, bytes]
) -> tuple[Channel, dict[str, Any], dict[str, Any]]:
    """Send messages with message 3; gives the channel, our hello and the WELCOME."""
    size = sum(13 + len(body) for _, body in frames)
    said = {"early": size} | ({"session": name} if name else {})
    channel = await case.greet(
        encoded(said),
        early=lambda channel: b"".join(channel.encode(*frame) for frame in frames),
    )
    return channel, said, await welcomed(channel)


def known(
    channel: Channel,
    hello: dict[str, Any],
    said: dict[str, Any],
    *frames: tuple[int, bytes],
) -> Peer:
    """Go on after early messages; they are counted if they were taken."""
    peer = Peer(channel, said, hello)
    for frame in frames if "early" in said else ():
        peer.count(*frame)
    return peer


@check("R-8.31", SERVER)
async def taken(case: Case) -> None:
    """Early messages are the first of the session, or skipped, as the WELCOME says."""
    frames = (TEXT, b"early"), (BINARY, b"bird")
    name = secrets.token_hex(16)
    channel, hello, said = await early(case, name, *frames)
    peer = known(channel, hello, said, *frames)
    if "early" in said:
        if (said["early"], said.get("session")) != (hello["early"], name):
            raise Unmet(f"its WELCOME says {said}")
        await peer.echoed(*frames)
        await peer.acknowledgedAll()
    elif said.get("session") == name:
        raise Unmet("it has the session of that name, and not its messages")
    await peer.takes((TEXT, b"then"))
    await peer.nothing()


@check("R-8.31", SERVER)
async def inBatch(case: Case) -> None:
    """An early BATCH is as good as others."""
    messages = [(TEXT, b"%d" % number) for number in range(100)]
    frames = ((Kind.BATCH, batch(messages)),)
    name = secrets.token_hex(16)
    channel, hello, said = await early(case, name, *frames)
    peer = known(channel, hello, said, *frames)
    if "early" not in said:
        raise NotApplicable("it takes no early messages")
    await peer.echoed(*messages)


@check("R-8.29", SERVER)
async def most(case: Case) -> None:
    """Early messages that count 65,536 bytes are skipped or taken."""
    frames = ((BINARY, bytes(65536 - 64)),)
    name = secrets.token_hex(16)
    channel, hello, said = await early(case, name, *frames)
    peer = known(channel, hello, said, *frames)
    if "early" in said:
        await peer.echoed(*frames)
    await peer.takes((TEXT, b"then"))


@check("R-8.32", SERVER)
async def unnamed(case: Case) -> None:
    """Early messages without a session are skipped."""
    frames = ((TEXT, b"nameless"),)
    channel, hello, said = await early(case, "", *frames)
    if "early" in said:
        raise Unmet("it took them")
    peer = known(channel, hello, said)
    await peer.takes((TEXT, b"again"))
    await peer.nothing()


@check("R-8.33", SERVER)
async def nameInUse(case: Case) -> None:
    """Early messages of a session that there is are skipped, and it does not go on."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    name = peer.said["session"]
    frames = ((TEXT, b"intruder"),)
    channel, hello, said = await early(case, name, *frames)
    if "early" in said:
        raise Unmet("it took them")
    if said.get("session") == name and not said.get("received"):
        raise Unmet("it began a session of a name that there is")
    other = known(channel, hello, said)
    await other.takes((TEXT, b"again"))
    await other.nothing()


@check("R-8.33", SERVER)
async def nameOfAnother(case: Case) -> None:
    """Early messages of a session of another key are skipped, and that goes on."""
    if case.subject.identity is not None:
        raise NotApplicable("all our connections have the key of --identity")
    peer = await case.open(key=KeyPair.generate())
    frames = ((TEXT, b"intruder"),)
    channel, hello, said = await early(case, peer.said["session"], *frames)
    if "early" in said or said.get("session") == peer.said["session"]:
        raise Unmet("it took them")
    await known(channel, hello, said).takes((TEXT, b"again"))
    await peer.takes((TEXT, b"undisturbed"))


@check("R-8.35", SERVER)
async def cut(case: Case) -> None:
    """Who was cut before the WELCOME comes back to that session, or it is lost."""
    name = secrets.token_hex(16)
    channel, _, said = await early(case, name, (TEXT, b"early"))
    if "early" not in said:
        raise NotApplicable("it takes no early messages")
    channel.wire.cut()
    again = await case.open({"session": name, "received": 0})
    if again.said["session"] != name:
        return  # they may have arrived, as with any session that is lost
    if again.said.get("received") != 1:
        raise Unmet(f"it has received {again.said.get('received')} messages of 1")
    again.count(TEXT, b"early")
    again.acknowledge()
    await again.echoed((TEXT, b"early"))
    await again.takes((TEXT, b"then"))
    await again.nothing()


@check("R-1.1", SERVER)
async def torn(case: Case) -> None:
    """Early messages may come in any pieces, while the server decides."""
    name = secrets.token_hex(16)
    dial = case.dial(await case.wire())
    dial.wire.write(dial.offer + dial.one)
    await dial.second()
    frames = (TEXT, b"early"), (TEXT, b"and slow")
    size = sum(13 + len(body) for _, body in frames)
    hello = {"session": name, "early": size}
    three = dial.third(encoded(hello))
    channel = dial.channel()
    stream = b"".join(channel.encode(*frame) for frame in frames)
    sealed = b"".join(channel.seal(stream[at : at + 5]) for at in range(0, size, 5))
    for byte in three + sealed:
        dial.wire.write(bytes([byte]))
        await case.sleep(0)
    said = await welcomed(channel)
    peer = known(channel, hello, said, *frames)
    if "early" in said:
        await peer.echoed(*frames)
    await peer.takes((TEXT, b"then"))
