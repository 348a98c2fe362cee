"""
Requests and their answers, docs/protocol.md, section 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from aesm.conformance.case import Case, NotApplicable, add, breach, check, sends
from aesm.conformance.peer import Peer, batch, request, response
from aesm.conformance.wire import Kind, Unmet

TEXT, BINARY, ERROR, WITHDRAWN = 1, 2, 3, 4  # forms of a request, how one ends
HELLO = {"requests": True}
LARGEST = 16 << 20  # bytes of a request that is sent to see whether it is taken


def _refusal(number: int, reason: bytes) -> bytes:
    """Make the body of a RESPONSE that refuses, with code 1008."""
    return response(number, ERROR, b"\x03\xf0" + reason)


async def _asking(case: Case, **hello: object) -> Peer:
    """Have a connection to a peer that takes requests."""
    peer = await case.open(HELLO | hello)
    if not peer.said.get("requests"):
        raise NotApplicable("it does not say that it takes requests")
    return peer


async def _answer(peer: Peer) -> tuple[int, int, bytes]:
    """Wait for a response: number, status, and what is behind it."""
    kind, body = await peer.message()
    if kind != Kind.RESPONSE:
        raise Unmet(f"{Kind(kind).name} {body[:30]!r} came instead of a RESPONSE")
    number, status = struct.unpack_from(">QB", body)
    return number, status, body[9:]


async def _answered(peer: Peer, number: int, kind: int, data: bytes) -> None:
    """See that a request is answered with the same."""
    answer = await _answer(peer)
    if answer != (number, kind, data):
        raise Unmet(f"{answer[:2]} {answer[2][:30]!r} came for request {number}")


def _asks(name: str, what: str, kind: int, data: bytes) -> None:
    """List a request that is answered with the same."""

    async def run(case: Case) -> None:
        peer = await _asking(case)
        number = peer.send(Kind.REQUEST, request(kind, data))
        await _answered(peer, number, kind, data)
        await peer.acknowledgedAll()

    says = f"A request {what} is answered, with its number."
    add(f"requests.{name}", "R-6.9", says, run)


_asks("text", "of text", TEXT, "wer, ü?".encode())
_asks("binary", "of bytes", BINARY, bytes(range(256)))
_asks("no-bytes", "without data", TEXT, b"")


@check("R-6.19")
async def largest(case: Case) -> None:
    """A request may have as many bytes of data as the peer takes."""
    peer = await _asking(case, maxMessage=(1 << 31) - 1)
    if peer.maxMessage > LARGEST:
        raise NotApplicable(f"that is {peer.maxMessage} bytes")
    data = bytes(peer.maxMessage)
    number = peer.send(Kind.REQUEST, request(BINARY, data))
    await _answered(peer, number, BINARY, data)


@check("R-6.8")
async def numbers(case: Case) -> None:
    """A request's number is that of all messages before it, requests or not."""
    peer = await _asking(case)
    await peer.takes((Kind.TEXT, b"one"), (Kind.BINARY, b"two"))
    number = peer.send(Kind.REQUEST, request(TEXT, b"three"))
    await _answered(peer, number, TEXT, b"three")
    await peer.takes((Kind.TEXT, b"four"))


@check("R-6.9")
async def many(case: Case) -> None:
    """A hundred requests are each answered once."""
    peer = await _asking(case)
    asked = {peer.sent + n: b"%d" % n for n in range(100)}
    peer.sendAll((Kind.REQUEST, request(TEXT, data)) for data in asked.values())
    while asked:
        number, status, data = await _answer(peer)
        if status != TEXT or asked.pop(number) != data:
            raise Unmet(f"request {number} was answered with {status} {data[:30]!r}")
    await peer.nothing()  # a second answer is seen by Peer
    await peer.acknowledgedAll()


@check("R-6.5")
async def inBatch(case: Case) -> None:
    """Requests in a BATCH, between messages, are as good as others."""
    peer = await _asking(case)
    if not peer.said.get("batch"):
        raise NotApplicable("it does not say that it takes BATCHes")
    body = batch(
        [
            (Kind.REQUEST, request(TEXT, b"first")),
            (Kind.TEXT, b"message"),
            (Kind.REQUEST, request(BINARY, b"second")),
        ]
    )
    peer.send(Kind.BATCH, body)
    expected = {
        (Kind.RESPONSE, response(0, TEXT, b"first")),
        (Kind.TEXT, b"message"),
        (Kind.RESPONSE, response(2, BINARY, b"second")),
    }
    if (got := {await peer.message() for _ in expected}) != expected:
        raise Unmet(f"{sorted(got)} came back")
    await peer.acknowledgedAll()


@check("R-6.5")
async def inOurBatch(case: Case) -> None:
    """Answers may come in BATCHes, to a side that takes these."""
    peer = await _asking(case, batch=True)
    peer.sendAll((Kind.REQUEST, request(TEXT, b"%d" % n)) for n in range(50))
    answers = sorted([await _answer(peer) for _ in range(50)])
    if answers != [(n, TEXT, b"%d" % n) for n in range(50)]:
        raise Unmet("not all answers are right")


@check("R-6.10")
async def withdrawn(case: Case) -> None:
    """A request that is withdrawn is ended once all the same."""
    peer = await _asking(case)
    number = peer.sent
    peer.sendAll(
        [
            (Kind.REQUEST, request(TEXT, b"never mind")),
            (Kind.RESPONSE, response(number, WITHDRAWN)),
        ]
    )
    answer = await _answer(peer)
    if answer[0] != number or answer[1] not in (TEXT, BINARY, ERROR):
        raise Unmet(f"request {number} was ended with {answer}")
    await peer.nothing()
    await peer.acknowledgedAll()


@check("R-6.11")
async def withdrawnLate(case: Case) -> None:
    """A withdrawal that crosses the answer changes nothing."""
    peer = await _asking(case)
    number = peer.send(Kind.REQUEST, request(TEXT, b"done"))
    await _answered(peer, number, TEXT, b"done")
    peer.send(Kind.RESPONSE, response(number, WITHDRAWN))
    await peer.nothing()
    await peer.acknowledgedAll()


@check("R-6.12")
async def atOnce(case: Case) -> None:
    """A withdrawal is acted on though our limit holds everything else up."""
    peer = await _asking(case, window=0)
    peer.acking = False
    peer.sendAll([(Kind.TEXT, b"held")] * 5)
    number = peer.send(Kind.REQUEST, request(TEXT, b"never mind"))
    peer.send(Kind.RESPONSE, response(number, WITHDRAWN))
    await peer.barrier()
    peer.acking = True
    peer.acknowledge()
    got = [await peer.message() for _ in range(6)]
    if [kind for kind, _ in got].count(Kind.RESPONSE) != 1 or peer.open:
        raise Unmet(f"request {number} was not ended once")


@check("R-7.4")
async def countsWhenAnswered(case: Case) -> None:
    """Requests that are answered count as taken: more than a window gets through."""
    peer = await _asking(case)
    window = peer.peerLimit
    data = bytes(min(peer.maxMessage, max(window // 4, 1000)))
    if window > 32 << 20:
        raise NotApplicable(f"its window is {window} bytes")
    while peer.sentCost <= window + window // 2:
        while peer.sentCost >= peer.peerLimit:
            await peer.next()
        number = peer.send(Kind.REQUEST, request(BINARY, data))
        await _answered(peer, number, BINARY, data)


@check("R-6.13")
async def inOrder(case: Case) -> None:
    """Requests between messages do not change the order of these."""
    peer = await _asking(case)
    frames = [
        (Kind.REQUEST, request(TEXT, b"%d" % n)) if n % 2 else (Kind.TEXT, b"%d" % n)
        for n in range(40)
    ]
    peer.sendAll(frames)
    got = [await peer.message() for _ in frames]
    if [each for each in got if each[0] == Kind.TEXT] != frames[::2]:
        raise Unmet("the messages came back in another order")


@check("R-8.22")
async def overACut(case: Case) -> None:
    """A request whose answer was cut off is answered once, over the next connection."""
    peer = await _asking(case)
    await peer.takes((Kind.TEXT, b"before"))
    peer.acking = False
    counted = peer.got, peer.gotCost
    number = peer.send(Kind.REQUEST, request(TEXT, b"again"))
    await _answered(peer, number, TEXT, b"again")
    peer.wire.cut()
    peer.got, peer.gotCost = counted  # as if that had not come
    peer.open.add(number)
    again = await case.resume(peer)
    again.sendAll(peer.log[again.sent :])
    await _answered(again, number, TEXT, b"again")
    await again.nothing()


def _breach(
    name: str, number: int, what: str, do: Callable[[Peer], object], *codes: int
) -> None:
    """List a breach of the rules, to a peer that takes requests."""
    name, requirement = f"requests.{name}", f"R-6.{number}"
    breach(name, requirement, what, do, *codes, needs="requests", hello=HELLO)


def _withdrawsNothing(peer: Peer) -> None:
    """Withdraw what is sent next."""
    sends(Kind.RESPONSE, response(peer.sent + 1, WITHDRAWN))(peer)


def _tooLarge(peer: Peer) -> None:
    """Announce a request of a byte more than is taken."""
    sends(Kind.REQUEST, size=peer.maxMessage + 2)(peer)


for _name, _number, _what, _body, _code in (
    ("no-form", 17, "A REQUEST of no bytes", b"", 1002),
    ("form-0", 17, "A REQUEST of form 0", b"\0who?", 1002),
    ("form-3", 17, "A REQUEST of form 3", b"\3who?", 1002),
    ("not-utf8", 20, "A REQUEST of text that is no UTF-8", b"\1\xff", 1007),
):
    _breach(_name, _number, _what, sends(Kind.REQUEST, _body), _code)
for _name, _number, _what, _body in (
    ("answer-unasked", 21, "An answer to what was not asked", response(0, TEXT, b"y")),
    ("refusal-unasked", 21, "A refusal of what was not asked", _refusal(5, b"no")),
    ("status-0", 17, "A RESPONSE of status 0", response(0, 0)),
    ("status-5", 17, "A RESPONSE of status 5", response(0, 5)),
    ("no-status", 17, "A RESPONSE of eight bytes", bytes(8)),
    ("no-code", 17, "A refusal without a code", response(0, ERROR, b"\x03")),
    ("long-reason", 17, "A reason of 1,025 bytes", _refusal(0, b"x" * 1025)),
    (
        "withdrawal-with-more",
        17,
        "More than a withdrawal",
        response(0, WITHDRAWN, b"x"),
    ),
):
    _breach(_name, _number, _what, sends(Kind.RESPONSE, _body), 1002)
_breach(
    "answer-not-utf8",
    20,
    "An answer of text that is not UTF-8, to nothing,",
    sends(Kind.RESPONSE, response(0, TEXT, b"\xff")),
    *(1007, 1002),
)
_breach(
    "withdraws-nothing",
    21,
    "A withdrawal of what is not sent yet",
    _withdrawsNothing,
    1002,
)
_breach("too-large", 19, "The header of too large a REQUEST", _tooLarge, 1009)
