"""
The conversations of C{docs/protocol-example.md}, byte by byte: made by the cores of
both sides with keys that are always the same, and printed into the document and into
C{tests/vectors/aesm1.json}.  After a change of the protocol::

    python -m tests.support.example

ML-KEM-768 encapsulates with randomness that nobody can fix, so that its ciphertext and
secret are a recording, in the vectors, which the responder is given instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from types import SimpleNamespace
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from aesm.core.channel.channel import REKEY_INTERVAL, Channel
from aesm.core.channel.events import PeerIdentified
from aesm.core.channel.framing import LENGTH_BYTES, frame
from aesm.core.channel.roles import ClientChannel, ServerChannel
from aesm.core.channel.settings import SUITES, ChannelSettings, Layer
from aesm.core.messages.conversation import Conversation
from aesm.core.messages.frames import HEADER_SIZE, FrameType, unpackHeader
from aesm.core.messages.hello import ConversationSettings, Hello
from aesm.core.messages.requests import encodeAnswer, encodeRequest
from aesm.core.messages.session import Session
from aesm.noise import DHLEN, TAGLEN, HandshakeState, handshakestate
from aesm.noise.functions import KEMCIPHERTEXTLEN, KEMPUBLICKEYLEN
from tests import ROOT, VECTORS

DOCUMENT = ROOT / "docs" / "protocol-example.md"
RECORDED = VECTORS / "aesm1.json"

KEYS = {  # static, ephemeral
    "client": (b"\x11" * 32, b"\x22" * 32),
    "server": (b"\x33" * 32, b"\x44" * 32),
}
KEM_SEED = b"\x55" * 64  # of the client: d, then z
SESSION = bytes(range(16)).hex()
START = 1_700_000_000_000_000  # microseconds, of the first frame
STEP = 1000  # microseconds from one flush to the next
ABBREVIATED = 256  # bytes from which on a field is not printed in full
WIDTH = 16  # bytes in a line; and of the beginning and the end of such a field

ABOUT = "docs/protocol-example.md says what this is; the project's licence holds for it"

_SECTION = re.compile(r"(<!-- conversation: (\w+) -->\n).*?(<!-- end -->)", re.S)

# name: Noise protocol name, layer
CONVERSATIONS = {
    "classical": (SUITES[2], Layer.MESSAGES),
    "hybrid": (SUITES[0], Layer.MESSAGES),
    "stream": (SUITES[2], Layer.STREAM),
}


@dataclass(frozen=True)
class Sent:
    """
    What crosses the wire at once.

    @ivar who: C{"client"} or C{"server"}.
    @ivar what: C{"offer"}, C{"message 1"} to C{"message 3"}, or C{"record"}.
    @ivar wire: with its length.
    @ivar plaintext: of a record; else the payload.
    """

    who: str
    what: str
    wire: bytes
    plaintext: bytes = b""


@dataclass
class Example:
    """
    A conversation.

    @ivar sent: all that crosses the wire, in order.
    @ivar hashes: C{h} before the first message and after each.
    @ivar keys: of each side's direction, as C{Split} gives them.
    @ivar rekeyed: the same after the first C{Rekey}.
    @ivar afterRekey: a record of each side, of the plaintext C{00}, that would be the
        first with that key.
    """

    suite: str
    layer: Layer
    kem: tuple[bytes, bytes] | None
    sent: list[Sent] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    keys: dict[str, bytes] = field(default_factory=dict)
    rekeyed: dict[str, bytes] = field(default_factory=dict)
    afterRekey: dict[str, bytes] = field(default_factory=dict)

    def vector(self, name: str) -> dict[str, Any]:
        """Write it for any program, bytes in hexadecimal digits."""
        keys: dict[str, dict[str, str]] = {
            who: {"static": static.hex(), "ephemeral": ephemeral.hex()}
            for who, (static, ephemeral) in KEYS.items()
        }
        if self.kem is not None:
            secret, ciphertext = self.kem
            keys["client"]["kem_seed"] = KEM_SEED.hex()
            keys["server"]["kem_secret"] = secret.hex()
            keys["server"]["kem_ciphertext"] = ciphertext.hex()
        return {
            "name": name,
            "suite": self.suite,
            "prologue": (self.sent[0].wire + frame(b"aesm")).hex(),
            **keys,
            "h": [h.hex() for h in self.hashes],
            "keys": {who: key.hex() for who, key in self.keys.items()},
            "rekeyed": {who: key.hex() for who, key in self.rekeyed.items()},
            "after_rekey": {who: each.hex() for who, each in self.afterRekey.items()},
            "wire": [
                {
                    "from": sent.who,
                    "what": sent.what,
                    "bytes": sent.wire.hex(),
                    "plaintext": sent.plaintext.hex(),
                }
                for sent in self.sent
            ],
        }


class _FixedSettings(ChannelSettings):
    """Makes handshakes with keys that are always the same."""

    @cached_property
    def handshakes(self) -> dict[str, Callable[..., HandshakeState]]:
        """What starts a handshake."""
        makes = super().handshakes
        return {suite: partial(self._fixed, makes[suite]) for suite in makes}

    def _fixed(
        self, make: Callable[..., HandshakeState], *, initiator: bool
    ) -> HandshakeState:
        """Start a handshake."""
        e = KEYS["client" if initiator else "server"][1]
        state = make(initiator=initiator, e=e)
        if initiator and state.protocol.hybrid:
            state._kem["e1"] = MLKEM768PrivateKey.from_seed_bytes(KEM_SEED)
        return state


class _Side:
    """
    One side of a conversation that is being made.

    @ivar who: its name.
    @ivar channel: its channel.
    @ivar talk: its messages.
    @ivar takes: what the other one's records had.
    """

    talk: Conversation

    def __init__(self, example: Example, who: str) -> None:
        """Begin before the first byte."""
        self.who = who
        settings = _FixedSettings(
            staticKey=KEYS[who][0], suites=(example.suite,), layer=example.layer
        )
        make = ClientChannel if who == "client" else ServerChannel
        self.channel: Channel = make(settings)

    def talks(self, session: Session | None) -> None:
        """Begin with messages."""
        self.talk = Conversation(ConversationSettings(agent="example/1"), 0.0, session)

    def took(self, count: int, cost: int) -> None:
        """Have messages that came in keeping, and taken by the application."""
        inbox = self.talk.session.inbox
        inbox.keep(count)
        inbox.take(cost)


def converse(name: str, kem: tuple[bytes, bytes] | None) -> Example:
    """
    Make a conversation.

    @param name: of C{CONVERSATIONS}.
    @param kem: what encapsulation gives: the secret, and the ciphertext.
    """
    suite, layer = CONVERSATIONS[name]
    example = Example(suite, layer, kem if "hfs" in suite else None)
    client, server = _Side(example, "client"), _Side(example, "server")
    key = SimpleNamespace(encapsulate=lambda: kem)
    keys = SimpleNamespace(from_public_bytes=lambda public: key)
    fixed = SimpleNamespace(MLKEM768PublicKey=keys)
    with mock.patch.object(handshakestate, "mlkem", fixed):
        _handshake(example, client, server)
    if layer is Layer.STREAM:
        for side, other, data in (
            (client, server, b"hello"),
            (client, server, b""),
            (server, client, b""),
        ):
            _pass(example, side, other, data)
    else:
        _talk(example, client, server)
    return example


def _handshake(example: Example, client: _Side, server: _Side) -> None:
    """Open the channel."""
    both = client.channel.takeOutput()
    end = 2 + int.from_bytes(both[:2], "big")
    offer, first = both[:end], both[end:]
    example.sent += [Sent("client", "offer", offer), Sent("client", "message 1", first)]
    server.channel.receive(offer)
    example.hashes += [_h(server), _h(client)]
    server.channel.receive(first)
    second = server.channel.takeOutput()
    example.sent.append(Sent("server", "message 2", second))
    client.channel.receive(second)
    example.hashes.append(_h(client))
    hello = b""
    if example.layer is Layer.MESSAGES:
        client.talks(None)
        hello = client.talk._settings.hello().encode()
    client.channel.accept(hello)
    third = client.channel.takeOutput()
    example.sent.append(Sent("client", "message 3", third, hello))
    (proved,) = server.channel.receive(third)
    assert isinstance(proved, PeerIdentified)
    server.channel.accept()
    example.hashes.append(client.channel.handshakeHash)
    assert server.channel.handshakeHash == client.channel.handshakeHash
    for side in (client, server):
        cipher = side.channel._encrypt
        twin = type(cipher)(cipher._functions, cipher._key)
        twin.rekey()
        example.keys[side.who] = cipher._key
        example.rekeyed[side.who] = twin._key
        twin.n = REKEY_INTERVAL
        example.afterRekey[side.who] = frame(twin.encryptWithAd(b"", b"\0"))
    if example.layer is Layer.MESSAGES:
        said = Hello.decode(proved.payload)
        settings = client.talk._settings
        server.talks(Session(settings.sendBuffer, settings.receiveBuffer, SESSION))
        server.talk.welcome(said)


def _h(side: _Side) -> bytes:
    """C{h} in the middle of a handshake."""
    return side.channel._noise._symmetric.h


def _pass(example: Example, side: _Side, other: _Side, data: bytes) -> None:
    """Send bytes of the stream, or its end, in a record."""
    if data:
        side.channel.send(data)
    else:
        side.channel.endOfStream()
    wire = side.channel.takeOutput()
    example.sent.append(Sent(side.who, "record", wire, data))
    for event in other.channel.receive(wire):
        if isinstance(event, bytes):
            assert event == data
            if example.layer is Layer.MESSAGES:
                other.talk.receive(event, 0.0)
        elif example.layer is Layer.MESSAGES:
            other.talk.peerEnded(0.0)


def _talk(example: Example, client: _Side, server: _Side) -> None:
    """Have all kinds of frames that two sides need that lose no connection."""
    micros = START

    def flush(side: _Side, act: Callable[[], object] | None = None) -> None:
        """Do something, and send what follows from it."""
        nonlocal micros
        if act is not None:
            act()
        frames = b"".join(side.talk.takeFrames(micros, 1 << 16))
        _pass(example, side, server if side is client else client, frames)
        if side.talk.ended:
            _pass(example, side, server if side is client else client, b"")
        micros += STEP

    def send(side: _Side, *messages: Any) -> Callable[[], None]:
        """Send messages in one turn."""

        def act() -> None:
            for message in messages:
                side.talk.session.outbox.add(message, micros)

        return act

    def ask() -> None:
        """Have the client ask."""
        client.talk.session.outbox.ask(3, None)
        send(client, encodeRequest("who?"))()

    def reply() -> None:
        """Have the server begin with the request, and answer it."""
        server.took(1, 5 + 64)
        send(server, encodeAnswer(3, "I"))()

    flush(server)  # WELCOME
    flush(client, send(client, "hello"))
    flush(server, lambda: server.took(1, 5 + 64))
    flush(client, send(client, "one", b"\x00\xff"))
    flush(server, lambda: server.took(2, 3 + 64 + 2 + 64))
    flush(client, ask)
    flush(server, reply)
    flush(client, lambda: client.took(1, 10 + 64))
    flush(client, lambda: client.talk.tick(30.0))
    flush(server)
    flush(client, lambda: client.talk.close(30.0))
    flush(server)


# The document


def _lines(data: bytes, words: str, indent: str = "") -> Iterator[str]:
    """Print some bytes, and what they are."""
    pieces = [data[i : i + WIDTH].hex() for i in range(0, len(data), WIDTH)]
    after = []
    if len(data) >= ABBREVIATED:
        pieces = [f"{data[:WIDTH].hex()}...", f"...{data[-WIDTH:].hex()}"]
        words += f", {len(data):,} bytes"
        after = [f"{indent}SHA-256 {sha256(data).hexdigest()}"]
    for piece in pieces:
        yield f"{indent}{piece:37}{words}".rstrip()
        words = ""
    yield from after


def _handshakeFields(what: str, suite: str, body: bytes) -> Iterator[tuple[int, str]]:
    """
    List the fields of an offer or a handshake message: bytes, and what they are.

    @param what: C{"offer"}, or C{"message 1"} to C{"message 3"}.
    """
    hybrid = "hfs" in suite
    if what == "offer":
        start = len(body) - len(suite)
        yield start, f"{body[:start].decode()!r}, in ASCII"
        yield len(suite), suite
    elif what == "message 1":
        yield DHLEN, "e: the client's ephemeral public key"
        if hybrid:
            yield KEMPUBLICKEYLEN, "e1: its ML-KEM public key, in clear"
    elif what == "message 2":
        yield DHLEN, "e: the server's ephemeral public key"
        if hybrid:
            size = KEMCIPHERTEXTLEN + TAGLEN
            yield size, "ekem1: the ML-KEM ciphertext, encrypted, with its tag"
        yield DHLEN + TAGLEN, "s: the server's static public key, encrypted, its tag"
        yield TAGLEN, "the empty payload: a tag"
    else:
        hello = len(body) - DHLEN - 2 * TAGLEN
        yield DHLEN + TAGLEN, "s: the client's static public key, encrypted, its tag"
        yield hello, "the hello, encrypted"
        yield TAGLEN, "its tag" if hello else "the empty payload: a tag"


def _frameFields(plaintext: bytes) -> Iterator[tuple[bytes, str]]:
    """List the fields of frames: bytes, and what they are."""
    start = 0
    while start < len(plaintext):
        size, number, _ = unpackHeader(plaintext, start)
        kind = FrameType(number)
        yield plaintext[start : start + 4], f"length: {size}"
        yield plaintext[start + 4 : start + 5], f"type: {kind.name}"
        yield plaintext[start + 5 : start + HEADER_SIZE], "time"
        start += HEADER_SIZE
        yield from _bodyFields(kind, plaintext[start : start + size])
        start += size


def _bodyFields(kind: FrameType, body: bytes) -> Iterator[tuple[bytes, str]]:
    """List the fields of a frame's body: bytes, and what they are."""
    if kind is FrameType.ACK:
        yield body[:8], f"count: {int.from_bytes(body[:8], 'big')}"
        yield body[8:], f"limit: {int.from_bytes(body[8:], 'big'):,}"
    elif kind is FrameType.BATCH:
        count = int.from_bytes(body[:4], "big")
        yield body[:4], f"count: {count}"
        for number in range(1, count + 1):
            yield body[4 * number : 4 * number + 4], f"length and type of body {number}"
        yield body[4 * count + 4 :], "the bodies"
    elif kind is FrameType.REQUEST:
        yield body[:1], "form: text"
        yield body[1:], f"{body[1:].decode()!r}"
    elif kind is FrameType.RESPONSE:
        yield body[:8], "number of the request"
        yield body[8:9], "status: an answer, text"
        yield body[9:], f"{body[9:].decode()!r}"
    elif kind is FrameType.CLOSE:
        yield body, f"code: {int.from_bytes(body, 'big')}; no reason"
    elif kind is FrameType.WELCOME:
        yield body, "the JSON above"
    else:
        yield body, f"{body.decode()!r}"


def _block(vector: dict[str, Any], sent: dict[str, str]) -> str:
    """Print what crosses the wire at once, field by field."""
    wire, plaintext = bytes.fromhex(sent["bytes"]), bytes.fromhex(sent["plaintext"])
    title, body = f"{sent['from']}: {sent['what']}", wire[LENGTH_BYTES:]
    lines = list(_lines(wire[:LENGTH_BYTES], f"length: {len(body):,}"))
    json_ = plaintext if sent["what"] == "message 3" else b""
    if sent["what"] == "record":
        fields = list(_frameFields(plaintext))
        types = [words[6:] for _, words in fields if words.startswith("type: ")]
        title += f" with {' and '.join(types)}" if types else ", end of stream"
        if types == ["WELCOME"]:
            json_ = plaintext[HEADER_SIZE:]
        if plaintext:
            lines += _lines(body[:-TAGLEN], "encrypted, of this plaintext:")
        for data, words in fields:
            lines += _lines(data, words, "    ")
        lines += _lines(body[-TAGLEN:], "its tag")
    else:
        start = 0
        for size, words in _handshakeFields(sent["what"], vector["suite"], body):
            lines += _lines(body[start : start + size], words)
            start += size
    said = f"```json\n{json_.decode()}\n```\n\n" if json_ else ""
    return f"**{title}**, {len(wire):,} bytes\n\n{said}{_fenced(lines)}"


def _fenced(lines: Iterable[str]) -> str:
    """Print lines as they are."""
    return "\n".join(["```text", *lines, "```", ""])


def _values(vector: dict[str, Any]) -> str:
    """Print what both sides have computed."""
    when = ("the prologue", *(f"message {number}" for number in (1, 2, 3)))
    values = [(f"h after {what}", h) for what, h in zip(when, vector["h"], strict=True)]
    for who in KEYS:
        values += [
            (f"key of the {who}'s records", vector["keys"][who]),
            (f"the same after {REKEY_INTERVAL:,} records", vector["rekeyed"][who]),
            ("the next record, if its plaintext is 00", vector["after_rekey"][who]),
        ]
    return _fenced(f"{words}:\n    {value}" for words, value in values)


def section(vector: dict[str, Any]) -> str:
    """Print a conversation for the document."""
    wire = vector["wire"]
    inFull = len(wire) if vector["name"] == "classical" else 4
    parts = [_block(vector, sent) for sent in wire[:inFull]]
    if rest := [f"{sent['from']}  {sent['bytes']}" for sent in wire[inFull:]]:
        parts.append(f"**The records**, each in a line\n\n{_fenced(rest)}")
    parts.append(f"**What both sides have**\n\n{_values(vector)}")
    return "\n".join(parts)


def updated(text: str, vectors: Iterable[dict[str, Any]]) -> str:
    """
    Print all conversations of the document anew.

    @param text: the document.
    """
    named = {vector["name"]: vector for vector in vectors}

    def write(found: re.Match[str]) -> str:
        """Print one."""
        return f"{found[1]}\n{section(named[found[2]])}\n{found[3]}"

    return _SECTION.sub(write, text)


def recorded() -> list[dict[str, Any]]:
    """Read the vectors."""
    read: list[dict[str, Any]] = json.loads(RECORDED.read_text("utf-8"))["vectors"]
    return read


def kemOf(vectors: Iterable[dict[str, Any]]) -> tuple[bytes, bytes]:
    """Find what encapsulation gave when that was recorded: secret, ciphertext."""
    (server,) = (each["server"] for each in vectors if each["name"] == "hybrid")
    return bytes.fromhex(server["kem_secret"]), bytes.fromhex(server["kem_ciphertext"])


def main() -> None:
    """Print all anew."""
    kem = kemOf(recorded())
    vectors = [converse(name, kem).vector(name) for name in CONVERSATIONS]
    whole = json.dumps({"about": ABOUT, "vectors": vectors}, indent=1)
    RECORDED.write_text(whole + "\n", "utf-8")
    DOCUMENT.write_text(updated(DOCUMENT.read_text("utf-8"), vectors), "utf-8")


if __name__ == "__main__":
    main()
