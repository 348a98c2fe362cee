"""
The JSON of hello and WELCOME.

Input: the JSON, or not.

Whatever it is: C{Hello.decode} gives values in their ranges or a ProtocolError;
what it gives, written and read again, is the same; a client that reads it as its
WELCOME takes it just then; and a PeerIdentified's payload is no different.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace

from aesm.core.messages.conversation import Conversation
from aesm.core.messages.events import Accepted, Broken
from aesm.core.messages.frames import MAX_OBJECT, FrameType, encodeFrame
from aesm.core.messages.hello import MAX_KEY, ConversationSettings, Hello
from aesm.errors import ProtocolError

__all__ = ["run", "seeds"]

_U64 = 1 << 64


def run(data: bytes) -> None:
    """
    Read a hello.

    @param data: the input.
    """
    hello = None
    try:
        hello = Hello.decode(data)
    except ProtocolError:
        pass
    else:
        _check(hello)
    client = Conversation(ConversationSettings(), 0.0)
    (event,) = client.receive(encodeFrame(FrameType.WELCOME, 0, data), 0.0) or (None,)
    if hello is None or len(data) < 2:
        assert isinstance(event, Broken), event
        assert isinstance(event.error, ProtocolError), event
    else:
        assert event == Accepted(hello, resumed=False), event


def _check(hello: Hello) -> None:
    """
    Check that values are what they may be.

    @param hello: what was read.
    """
    assert isinstance(hello.agent, str)
    for count in (hello.maxMessage, hello.window, hello.received):
        assert type(count) is int and 0 <= count < _U64, hello
    assert 0 < hello.heartbeat < math.inf, hello
    assert isinstance(hello.batch, bool), hello
    assert isinstance(hello.nextKey, str) and len(hello.nextKey) <= MAX_KEY, hello
    assert hello.session == "" or len(bytes.fromhex(hello.session)) == 16, hello
    written = hello.encode()
    if len(written) <= MAX_OBJECT:
        assert Hello.decode(written) == hello, written


def seeds() -> Iterator[bytes]:
    """Make hellos: ours, others', and what is none."""
    hello = ConversationSettings(agent="aesm/1").hello()
    yield replace(hello, session="0f" * 16, received=3).encode()
    yield Hello().encode()
    for value in (
        {},
        {"agent": "\u20ac\ud800\0", "unknown": [{}, None]},
        {"maxMessage": _U64 - 1, "window": 0, "received": 1},
        {"heartbeat": 0.5},
        {"batch": True, "session": "AB" * 16},
        {"window": -1},
        {"received": 1.0, "batch": 1},
        {"heartbeat": 10**300},
        {"nextKey": "rVgGvzYkFvfbyY2qU6Bm1WzqNrZ0k3XQ4wVtJt5xH0c="},
        [1],
    ):
        yield json.dumps(value).encode()
    yield b'{"heartbeat":1e999}'
    yield b'{"heartbeat":NaN}'
    yield b'{"agent":"\xff"}'
    yield b"[" * 2000
    yield b'{"window":' + b"9" * 2000 + b"}"
    yield b'\xef\xbb\xbf{"batch":true}'
    yield b'{"batch":true,"batch":false}'
