"""
A stranger's first bytes, at a server.

Input: one byte, whose lowest bit gives the server a pre-shared key, and the next one
byte streams; then what the stranger sends.

Whatever it sends: there is at most one event, a failed handshake; how the bytes
are cut up makes no difference; no more is kept than a handshake message; a server
with a pre-shared key answers nothing, except to a first message that was made with
the key (also one that is replayed: the stranger gets no further); any other answers
with one refusal, or with one message 2; and nothing follows the error.
"""

from __future__ import annotations

from collections.abc import Iterator

from aesm.core.channel.roles import ClientChannel, ServerChannel
from aesm.core.channel.settings import SUITES, Layer
from aesm.errors import HandshakeError
from aesm.noise.functions import KEMPUBLICKEYLEN, TAGLEN
from fuzz.script import (
    MAX_STRANGER,
    RepeatableSettings,
    checkDeaf,
    checkEvents,
    deliver,
    outline,
    pieces,
)
from tests.support.helpers import CLIENT_KEY, HERE, PSK, SERVER_KEY

__all__ = ["run", "seeds"]

_SETTINGS = [
    RepeatableSettings(SERVER_KEY, psk=psk, suites=SUITES[2:], layer=layer)
    for layer in (Layer.MESSAGES, Layer.STREAM)
    for psk in (None, PSK)
]


def _first(suite: str, psk: bytes | None, layer: Layer = Layer.MESSAGES) -> bytes:
    """
    Make what a client sends first.

    @param suite: the suite that it offers.
    @param psk: its pre-shared key.
    @param layer: what it brings.
    @return: offer and message 1, without ML-KEM the same each time.
    """
    settings = RepeatableSettings(CLIENT_KEY, psk=psk, suites=(suite,), layer=layer)
    return ClientChannel(settings).takeOutput()


_FIRST = [_first(suite, PSK, layer) for suite in SUITES[2:] for layer in Layer]


def run(data: bytes) -> None:
    """
    Let a stranger speak.

    @param data: the input.
    """
    flags, stranger = data[0] & 3 if data else 0, data[1:]
    found = []
    for sizes in ((len(stranger) + 1,), (1,), (3, 0, 40)):
        server = ServerChannel(_SETTINGS[flags])
        chunks = pieces(stranger, sizes)
        events = list(deliver(server, chunks, MAX_STRANGER))
        assert len(events) <= 1, events
        checkEvents(events, (HandshakeError,))
        output = server.takeOutput()
        if flags & 1 and not any(map(stranger.startswith, _FIRST)):
            assert not output, output
        assert len(output) <= MAX_STRANGER, len(output)
        checkDeaf(server)
        found.append((outline(events), output, server.state))
    assert found[0] == found[1] == found[2], found


def seeds() -> Iterator[bytes]:
    """Make offers of each suite, with their first messages, and foreign protocols."""
    for suite in HERE:
        for psk in (None, PSK):
            first = _first(suite, psk)
            if "hfs" in suite:  # the same each time
                size = KEMPUBLICKEYLEN + (2 * TAGLEN if psk else 0)
                first = first[:-size] + bytes(size)
            yield b"\0" + first
            yield b"\1" + first
    for psk in (None, PSK):  # each of both at the server of each
        stream = _first(SUITES[2], psk, Layer.STREAM)
        for flags in b"\0\1\2\3":
            yield bytes([flags]) + stream
        yield b"\2" + _first(SUITES[2], psk)
    yield b"\1" + _first(SUITES[2], bytes(32))
    yield b"\0GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"
    yield b"\0SSH-2.0-OpenSSH_10.0\r\n"
    yield b"\0\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    offer = _first(SUITES[2], None)[:-34]
    yield b"\0" + offer + b"\x22\0" + bytes(0x2200)  # longer than any message
    yield b"\0\0\x07AESM/1 "
    yield b"\0\0\0"
