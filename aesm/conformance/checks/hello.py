"""
What a server makes of a client's hello, and says in its WELCOME, docs/protocol.md,
section 8.
"""

from __future__ import annotations

from aesm.conformance.case import SERVER, Case, check, welcomed
from aesm.conformance.hello import SESSION, encoded
from aesm.conformance.wire import Kind, Unmet


def _takes(name: str, says: str, hello: bytes) -> None:
    """Make the check that a hello is taken."""

    async def run(case: Case) -> None:
        await welcomed(await case.greet(hello))

    run.__name__, run.__doc__ = name, says
    check("R-8.2", SERVER)(run)


def _refuses(name: str, says: str, hello: bytes) -> None:
    """Make the check that a hello is a protocol error."""

    async def run(case: Case) -> None:
        channel = await case.greet(hello)
        frame = await channel.frame()
        if frame is None or frame.kind != Kind.CLOSE:
            raise Unmet(f"it said {frame or 'the end of its stream'}")
        if frame.body[:2] != (1002).to_bytes(2, "big"):
            raise Unmet(f"it said {frame}")
        if await channel.frame() is not None:
            raise Unmet("its CLOSE was not the last frame")

    run.__name__, run.__doc__ = name, says
    check("R-8.3", SERVER)(run)


_takes("empty", "A hello that says nothing, {}, is taken.", b"{}")
_takes(
    "unknownKeys",
    "Keys that are not known are ignored in a hello.",
    b'{"agent":"x","colour":"blue","extra":{"deep":[1,null,true]},"BATCH":1}',
)
_takes("spaces", "White space in a hello is of no account.", b' {\n "batch" :\ttrue } ')
_takes(
    "escapes",
    "An agent with characters of any kind is taken.",
    '{"agent":"Grüße \\u0000\\ud83d\\ude00 世界"}'.encode(),
)
_takes(
    "largest",
    "A hello of 2,048 bytes is taken.",
    encoded({"agent": "x" * (2048 - len(encoded({"agent": ""})))}),
)
_takes(
    "fraction", "A heartbeat need not be a whole number.", encoded({"heartbeat": 12.5})
)
_takes(
    "longestHeartbeat",
    "A heartbeat may be 10^9 seconds.",
    encoded({"heartbeat": 10**9}),
)
_takes(
    "largestCounts",
    "Counts may have 64 bits.",
    encoded({"maxMessage": 2**64 - 1, "window": 2**64 - 1}),
)
_takes(
    "strayReceived",
    "What a hello says of a session, without one, is of no account.",
    encoded({"received": 7, "partial": 3}),
)
_refuses("noHello", "A message 3 without a hello is a protocol error.", b"")
_refuses("notJson", "A hello that is no JSON is a protocol error.", b"hello")
_refuses("notAnObject", "A hello that is no JSON object is a protocol error.", b"[]")
_refuses("notUtf8", "A hello that is not UTF-8 is a protocol error.", b'{"a":"\xff"}')
_refuses("deep", "A hello of 1,000 nested lists is a protocol error.", b"[" * 1000)
_refuses("more", "A hello with more behind it is a protocol error.", b"{} {}")
_refuses(
    "zeroHeartbeat", "A heartbeat of 0 is a protocol error.", encoded({"heartbeat": 0})
)
_refuses(
    "longHeartbeat",
    "A heartbeat above 10^9 seconds is a protocol error.",
    encoded({"heartbeat": 10**9 + 1}),
)
_refuses(
    "notANumber",
    "A heartbeat of NaN, which is no JSON, is a protocol error.",
    b'{"heartbeat":NaN}',
)
_refuses(
    "countWithFraction",
    "A count with a fraction is a protocol error.",
    b'{"maxMessage":1000.0}',
)
_refuses(
    "countWithExponent",
    "A count with an exponent is a protocol error.",
    b'{"window":1e6}',
)
_refuses(
    "countOf65Bits",
    "A count of more than 64 bits is a protocol error.",
    encoded({"received": 1 << 64}),
)
_refuses(
    "noAgent",
    "An agent that is no string is a protocol error.",
    encoded({"agent": None}),
)
_refuses(
    "negativeWindow",
    "A negative window is a protocol error.",
    encoded({"window": -1}),
)
_refuses(
    "textForNumber",
    "A maxMessage that is no number is a protocol error.",
    encoded({"maxMessage": "1000"}),
)
_refuses(
    "numberForFlag",
    "A batch that is neither true nor false is a protocol error.",
    encoded({"batch": 1}),
)
_refuses(
    "sessionName",
    "A session that has not 32 hexadecimal digits is a protocol error.",
    encoded({"session": "mine"}),
)
_refuses(
    "earlyTooMany",
    "More than 65,536 early bytes are a protocol error.",
    encoded({"session": "0" * 32, "early": 65537}),
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
