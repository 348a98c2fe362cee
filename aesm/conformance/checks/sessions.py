"""
Sessions that go on over other connections, docs/protocol.md, section 8.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any

from aesm.conformance.case import SERVER, Case, NotApplicable, add, check
from aesm.conformance.peer import Peer
from aesm.conformance.wire import Kind, Silent, Unmet
from aesm.noise import KeyPair

TEXT, BINARY, REST = Kind.TEXT, Kind.BINARY, Kind.REST


async def cut(case: Case, *messages: tuple[int, bytes]) -> Peer:
    """Have a session in which messages came back, and the connection was cut."""
    peer = await case.open()
    await peer.takes(*messages or ((TEXT, b"before"),))
    await peer.acknowledgedAll()
    await peer.barrier()
    peer.wire.cut()
    return peer


@check("R-8.26", SERVER, must=False)
async def kept(case: Case) -> None:
    """The session of a client that was cut is kept."""
    peer = await cut(case)
    hello = {"session": peer.said["session"], "received": peer.got}
    if (await case.open(hello)).said["session"] != peer.said["session"]:
        raise Unmet("its WELCOME has another session")


@check("R-8.22")
async def goesOn(case: Case) -> None:
    """After a cut a session goes on over the next connection, first with an ACK."""
    peer = await case.resume(await cut(case))
    frame = await peer.next()
    if frame.kind != Kind.ACK:
        raise Unmet(f"its first frame is {frame}")
    peer.acknowledge()
    await peer.takes((TEXT, b"after"))


@check("R-8.22")
async def sendsAgain(case: Case) -> None:
    """Messages that we have not received come again, in order, before any new one."""
    peer = await case.open()
    peer.acking = False
    messages = [(TEXT, b"%d" % number) for number in range(20)]
    await peer.takes(*messages)
    await peer.acknowledgedAll()
    peer.wire.cut()
    peer.got, peer.gotCost = 7, sum(len(body) + 64 for _, body in messages[:7])
    again = await case.resume(peer)
    again.acknowledge()
    again.sendAll([(TEXT, b"new")])
    await again.echoed(*messages[7:], (TEXT, b"new"))
    await again.nothing()


@check("R-8.22")
async def oneByOne(case: Case) -> None:
    """Over several cuts each message comes back once and in order."""
    peer = await case.open()
    for number in range(6):
        await peer.takes((TEXT, b"a%d" % number), (BINARY, b"b%d" % number))
        peer.wire.cut()
        former, peer = peer, await case.resume(peer)
        peer.sendAll(former.log[peer.sent :])
    await peer.nothing()


@check("R-8.17")
async def onlyWhatIsMissing(case: Case) -> None:
    """What was received is not taken a second time: it says how much that is."""
    peer = await case.open()
    peer.acking = False
    peer.sendAll([(TEXT, b"%d" % number) for number in range(30)])
    await peer.echoed((TEXT, b"0"))
    peer.wire.cut()
    received = peer.got
    again = await case.resume(peer)
    again.acknowledge()
    again.sendAll(peer.log[again.sent :])
    await again.echoed(*peer.log[received:])
    await again.nothing()


@check("R-8.19", SERVER)
async def otherKey(case: Case) -> None:
    """A session is for the key that has begun it: another key gets one of its own."""
    if case.subject.identity is not None:
        raise NotApplicable("all our connections have the key of --identity")
    peer = await cut(case)
    hello: dict[str, Any] = {"session": peer.said["session"], "received": peer.got}
    other = await case.open(hello, key=KeyPair.generate())
    if other.said["session"] == peer.said["session"]:
        raise Unmet("the session of one key went on with another")
    await other.takes((TEXT, b"mine"))
    again = await case.resume(peer)
    await again.takes((TEXT, b"still there"))


@check("R-8.25", SERVER)
async def unknownSession(case: Case) -> None:
    """Who names a session that there is not gets a new one, of another name."""
    name = secrets.token_hex(16)
    peer = await case.open({"session": name, "received": 3})
    if peer.said["session"] == name:
        raise Unmet("it goes on with a session that there never was")
    await peer.takes((TEXT, b"from the start"))


def _impossible(name: str, what: str, **hello: int) -> None:
    """List what a session does not go on with: another one begins."""

    async def run(case: Case) -> None:
        peer = await cut(case)
        session = peer.said["session"]
        again = await case.open({"session": session} | hello)
        if again.said["session"] == session:
            raise Unmet("it went on")
        await again.takes((TEXT, b"from the start"))

    says = f"No session goes on of which we have received {what}."
    add(f"sessions.{name}", "R-8.20", says, run, SERVER)


_impossible("received-too-many", "more than was sent", received=2)
_impossible("received-too-few", "less than we acknowledged", received=0)
_impossible("partial-too-large", "a part of what there is not", received=1, partial=100)


@check("R-8.15", SERVER)
async def otherCase(case: Case) -> None:
    """No session goes on whose name is written in other letters."""
    peer = await cut(case)
    name = peer.said["session"].swapcase()
    if name == peer.said["session"]:
        raise NotApplicable("its name has no letters, by chance")
    if (await case.open({"session": name, "received": 1})).said["session"] == name:
        raise Unmet("it went on")


@check("R-8.18")
async def afterForgery(case: Case) -> None:
    """A session goes on after a record that does not authenticate."""
    peer = await case.open()
    await peer.takes((TEXT, b"before"))
    await peer.barrier()
    peer.wire.write(b"\0\x20" + b"\xa5" * 32)
    await peer.goes()
    again = await case.resume(peer)
    await again.takes((TEXT, b"after"))


@check("R-8.18", SERVER)
async def afterEnd(case: Case) -> None:
    """A session is over after an end of the stream without a CLOSE."""
    peer = await case.open()
    await peer.takes((TEXT, b"before"))
    peer.channel.end()
    await peer.channel.rest()
    await peer.part()
    again = await case.open({"session": peer.said["session"], "received": 1})
    if again.said["session"] == peer.said["session"]:
        raise Unmet("it went on")


@check("R-8.21")
async def windowKept(case: Case) -> None:
    """When a session goes on the limit is as it was, whatever window is said then."""
    peer = await case.open({"window": 3 * 74})
    peer.acking = False
    messages = [(TEXT, b"number %03d" % number) for number in range(5)]
    peer.sendAll(messages)
    await peer.echoed(*messages[:3])
    await peer.acknowledgedAll()
    peer.wire.cut()
    again = await case.resume(peer, window=1 << 20)
    again.acking = False
    await again.nothing()  # what is past the limit is seen by Peer
    again.acknowledge()
    await again.echoed(*messages[3:])


@check("R-8.20", SERVER)
async def smallerMessages(case: Case) -> None:
    """No session goes on in which a message waits that is larger than we take now."""
    peer = await case.open()
    peer.acking = False
    await peer.takes((BINARY, bytes(1000)))
    await peer.acknowledgedAll()
    peer.wire.cut()
    hello = {"session": peer.said["session"], "received": 0, "maxMessage": 999}
    if (await case.open(hello)).said["session"] == peer.said["session"]:
        raise Unmet("it went on")


@check("R-6.15", SERVER)
async def requestsNoMore(case: Case) -> None:
    """No session goes on in which we take requests no more."""
    peer = await case.open({"requests": True})
    if not peer.said.get("requests"):
        raise NotApplicable("it does not say that it takes requests")
    await peer.takes((TEXT, b"before"))
    peer.wire.cut()
    hello = {"session": peer.said["session"], "received": 1}
    if (await case.open(hello)).said["session"] == peer.said["session"]:
        raise Unmet("it went on")


@check("R-6.15")
async def requestsAgain(case: Case) -> None:
    """Who has said that it takes requests says it each time the session goes on."""
    peer = await case.open({"requests": True})
    if not peer.said.get("requests"):
        raise NotApplicable("it does not say that it takes requests")
    await peer.takes((TEXT, b"before"))
    peer.wire.cut()
    if (await case.resume(peer)).said.get("requests") is not True:
        raise Unmet("it does not")


@check("R-8.27", SERVER)
async def takenOver(case: Case) -> None:
    """A session goes on over a new connection; an old one that is there gets 4001."""
    peer = await case.open()
    await peer.takes((TEXT, b"one"))
    again = await case.resume(peer)
    await peer.says(4001)
    await again.takes((TEXT, b"two"))


@check("R-8.26", SERVER, must=False)
async def notToBeResumed(case: Case) -> None:
    """Of a client that says that it will not resume no session is kept."""
    peer = await case.open({"resume": False})
    await peer.takes((TEXT, b"one"))
    peer.wire.cut()
    # It may take the server a moment to see that.
    again = await case.open()
    await again.barrier()
    hello = {"session": peer.said["session"], "received": 1}
    last = await case.open(hello)
    if last.said["session"] == peer.said["session"]:
        raise Unmet("it was kept")


# A message that a cut left unfinished


async def torn(case: Case, kind: int, body: bytes, size: int) -> tuple[Peer, Peer]:
    """Cut a message off; gives the former connection and the next."""
    peer = await case.open()
    await peer.takes((TEXT, b"before"))
    stream = peer.channel.encode(kind, body)
    # What is before it, and a byte more, is read when that is answered.
    await peer.barrier()
    peer.channel.write(stream[: 13 + size])
    peer.wire.shut()
    with suppress(Silent):
        await peer.channel.rest()
    peer.wire.cut()
    again = await case.resume(peer)
    return peer, again


def _held(again: Peer) -> int:
    """Tell how much a peer says that it holds of a message that was cut off."""
    held: int = again.said.get("partial", 0)
    if not held:
        raise NotApplicable("it keeps nothing of such a message")
    return held


@check("R-8.24")
async def rest(case: Case) -> None:
    """What is missing of a message that was cut off may come as a REST."""
    for kind, body in ((BINARY, bytes(range(256)) * 100), (TEXT, b"text" * 2500)):
        _, again = await torn(case, kind, body, 5000)
        held = _held(again)
        if held > 5000:
            raise Unmet(f"it says that it holds {held} of 5000 bytes")
        again.channel.write(again.channel.encode(REST, body[held:]))
        again.count(kind, body)
        await again.echoed((kind, body))
        await again.leave()


@check("R-8.23")
async def whole(case: Case) -> None:
    """A message that was cut off may come again as a whole."""
    body = b"whole" * 1000
    _, again = await torn(case, TEXT, body, 2000)
    await again.takes((TEXT, body))


@check("R-6.22")
async def restTwice(case: Case) -> None:
    """A second REST is a protocol error."""
    body = b"rest" * 1000
    _, again = await torn(case, TEXT, body, 1000)
    held = _held(again)
    encode = again.channel.encode
    again.channel.write(encode(REST, body[held:]) + encode(REST, b"more"))
    again.count(TEXT, body)
    await again.says(1002)


@check("R-6.22")
async def restBehindMessage(case: Case) -> None:
    """A REST behind a message is a protocol error."""
    _, again = await torn(case, TEXT, b"rest" * 1000, 1000)
    _held(again)
    again.text("first")
    again.channel.write(again.channel.encode(REST, b"too late"))
    await again.says(1002)


@check("R-6.22")
async def restOfNothing(case: Case) -> None:
    """A REST where nothing was cut off is a protocol error, session or not."""
    again = await case.resume(await cut(case))
    again.channel.write(again.channel.encode(REST, b"of nothing"))
    await again.says(1002)


@check("R-6.18")
async def restTooLarge(case: Case) -> None:
    """A REST that makes a message larger than is taken is a protocol error."""
    _, again = await torn(case, BINARY, bytes(5000), 1000)
    _held(again)
    size = again.maxMessage
    again.channel.write(again.channel.encode(REST, size=min(size, (1 << 32) - 1)))
    # Who remembers how large the message was to be may look at that first.
    await again.says(1009, 1002)


@check("R-8.23")
async def ourPart(case: Case) -> None:
    """Of a message of which we hold a part the rest comes, as a REST or as a whole."""
    body = bytes(range(256)) * 40
    peer = await case.open()
    peer.acking = False
    await peer.takes((BINARY, body))
    await peer.acknowledgedAll()
    peer.wire.cut()
    peer.got = peer.gotCost = 0
    again = await case.resume(peer, partial=3000)
    again.partial = BINARY, body[:3000]
    again.acknowledge()
    await again.echoed((BINARY, body))
    await again.takes((TEXT, b"behind it"))
