"""
What a server makes of a client's hello, and says in its WELCOME, docs/protocol.md,
section 8.
"""

from __future__ import annotations

from typing import Any

from aesm.conformance.case import SERVER, Case, add, check, welcomed
from aesm.conformance.hello import SESSION, encoded
from aesm.conformance.wire import Kind, Unmet


def _takes(name: str, what: str, hello: bytes | dict[str, Any]) -> None:
    """List a hello that is taken."""

    async def run(case: Case) -> None:
        await welcomed(await case.greet(_bytes(hello)))

    add(f"hello.{name}", "R-8.2", f"{what} is taken.", run, SERVER)


def _refuses(name: str, what: str, hello: bytes | dict[str, Any]) -> None:
    """List a hello that is a protocol error."""

    async def run(case: Case) -> None:
        channel = await case.greet(_bytes(hello))
        frame = await channel.frame()
        if frame is None or frame.kind != Kind.CLOSE:
            raise Unmet(f"it said {frame or 'the end of its stream'}")
        if frame.body[:2] != (1002).to_bytes(2, "big"):
            raise Unmet(f"it said {frame}")
        if await channel.frame() is not None:
            raise Unmet("its CLOSE was not the last frame")

    add(f"hello.{name}", "R-8.3", f"{what} is a protocol error.", run, SERVER)


def _bytes(hello: bytes | dict[str, Any]) -> bytes:
    """Encode a hello, unless it is meant to the letter."""
    return hello if isinstance(hello, bytes) else encoded(hello)


_takes("empty", "A hello that says nothing, {},", {})
_takes(
    "unknown-keys",
    "A hello with keys that are not known",
    b'{"agent":"x","colour":"blue","extra":{"deep":[1,null,true]},"BATCH":1}',
)
_takes("spaces", "A hello with white space", b' {\n "batch" :\ttrue } ')
_takes(
    "escapes",
    "An agent with characters of any kind",
    '{"agent":"Grüße \\u0000\\ud83d\\ude00 世界"}'.encode(),
)
_takes("largest", "A hello of 2,048 bytes", {"agent": "x" * (2048 - 12)})
_takes("fraction", "A heartbeat that is no whole number", {"heartbeat": 12.5})
_takes("longest-heartbeat", "A heartbeat of 10^9 seconds", {"heartbeat": 10**9})
_takes(
    "largest-counts",
    "A count of 64 bits",
    {"maxMessage": 2**64 - 1, "window": 2**64 - 1},
)
_takes(
    "stray-received",
    "What a hello says of a session, without one,",
    {"received": 7, "partial": 3},
)
_refuses("no-hello", "A message 3 without a hello", b"")
_refuses("not-json", "A hello that is no JSON", b"hello")
_refuses("not-an-object", "A hello that is no JSON object", b"[]")
_refuses("not-utf-8", "A hello that is not UTF-8", b'{"a":"\xff"}')
_refuses("deep", "A hello of 1,000 nested lists", b"[" * 1000)
_refuses("more", "A hello with more behind it", b"{} {}")
_refuses("zero-heartbeat", "A heartbeat of 0", {"heartbeat": 0})
_refuses("long-heartbeat", "A heartbeat above 10^9 seconds", {"heartbeat": 10**9 + 1})
_refuses("not-a-number", "A heartbeat of NaN, which is no JSON,", b'{"heartbeat":NaN}')
_refuses("count-with-fraction", "A count with a fraction", b'{"maxMessage":1000.0}')
_refuses("count-with-exponent", "A count with an exponent", b'{"window":1e6}')
_refuses("count-of-65-bits", "A count of more than 64 bits", {"received": 1 << 64})
_refuses("no-agent", "An agent that is no string", {"agent": None})
_refuses("negative-window", "A negative window", {"window": -1})
_refuses("text-for-number", "A maxMessage that is no number", {"maxMessage": "1000"})
_refuses("number-for-flag", "A batch that is neither true nor false", {"batch": 1})
_refuses(
    "session-name",
    "A session that has not 32 hexadecimal digits",
    {"session": "mine"},
)
_refuses(
    "early-too-many",
    "A hello with more than 65,536 early bytes",
    {"session": "0" * 32, "early": 65537},
)


@check("R-8.12", SERVER)
async def welcomeFirst(case: Case) -> None:
    """The server's first frame is a WELCOME, with values that its keys can have."""
    await welcomed(await case.greet(encoded({})))


@check("R-8.15", SERVER)
async def welcomeNames(case: Case) -> None:
    """Each WELCOME names a session, another one each time."""
    names = [(await case.open()).said.get("session") for _ in range(2)]
    for name in names:
        if not isinstance(name, str) or not SESSION.fullmatch(name):
            raise Unmet(f"it names a session {name!r}")
    if names[0] == names[1]:
        raise Unmet("it named the same session twice")


@check("R-8.12", SERVER)
async def welcomeOnce(case: Case) -> None:
    """There is one WELCOME: nothing of the kind follows when messages go to and fro."""
    peer = await case.open()
    peer.text("one")
    await peer.echoed((Kind.TEXT, b"one"))
    await peer.nothing()


@check("R-6.3", SERVER)
async def secondHello(case: Case) -> None:
    """A client's WELCOME is a protocol error: what it has to say is in message 3."""
    peer = await case.open()
    peer.send(Kind.WELCOME, b"{}")
    await peer.says(1002)
