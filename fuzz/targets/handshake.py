"""
A handshake that somebody alters on its way, at either side.

Input: one byte for the role under test, the pre-shared key and the suite; one byte
for the size of chunks; then alterations, each of one message: see
L{fuzz.script.altered}.

Whatever is altered: a side that has seen one altered bit never reports its peer's
key, let alone opens; one that has seen none does both; errors are failed
handshakes, or, once the peer is known, broken records; no more is kept than a
handshake message; how the bytes are cut up makes no difference (where the handshake
can be repeated); nothing follows the error.
"""

from __future__ import annotations

from collections.abc import Iterator

from aesm.core.channel.channel import Channel
from aesm.core.channel.events import Event, Opened, PeerIdentified
from aesm.core.channel.roles import ClientChannel, ServerChannel
from aesm.core.channel.states import State
from aesm.errors import HandshakeError, ProtocolError, TamperedRecord
from fuzz.script import (
    MAX_STRANGER,
    RepeatableSettings,
    Script,
    altered,
    checkDeaf,
    checkEvents,
    cutFrames,
    deliver,
    outline,
    pieces,
)
from tests.support.helpers import CLIENT_KEY, HERE, PSK, SERVER_KEY, feed

__all__ = ["run", "seeds"]

_HELLO = b'{"agent":"fuzz"}'


def _channel(isClient: bool, psk: bytes | None, suite: str) -> Channel:
    """
    Make one side.

    @param isClient: its role.
    @param psk: its pre-shared key, or None.
    @param suite: its suite, without C{psk0}.
    """
    key, make = (CLIENT_KEY, ClientChannel) if isClient else (SERVER_KEY, ServerChannel)
    return make(RepeatableSettings(key, psk=psk, suites=(suite,)))


def run(data: bytes) -> None:
    """
    Run one handshake, altered as the input says.

    @param data: the input.
    """
    script = Script(data)
    flags, size = script.number(), script.number() or 9999
    psk = PSK if flags & 2 else None
    suite = HERE[::-1][(flags >> 2) % len(HERE)]
    isClient = bool(flags & 1)
    tested, honest = _channel(isClient, psk, suite), _channel(not isClient, psk, suite)
    events: list[Event] = []
    sent = received = b""
    feed(honest, [tested.takeOutput()])  # a client's offer and message 1
    while output := honest.takeOutput():
        frames = cutFrames(output)
        sent += output
        while script.more:
            frames = altered(frames, script)
            if script.number() & 1:  # the next alteration is of the next flight
                break
        change = b"".join(frames)
        received += change
        for event in deliver(tested, pieces(change, (size,)), MAX_STRANGER):
            events.append(event)
            if isinstance(event, PeerIdentified):
                whole = len(received) >= len(sent) and sent == received[: len(sent)]
                assert whole, "an altered handshake was believed"
                events += tested.accept(_HELLO if isClient else b"")
        feed(honest, [tested.takeOutput()], b"" if isClient else _HELLO)
    checkEvents(events, (HandshakeError, TamperedRecord, ProtocolError))
    isOpen = Opened() in events
    assert isOpen or received != sent, "an honest handshake failed"
    if isOpen and received == sent:
        assert tested.state is State.OPEN
        assert honest.handshakeHash == tested.handshakeHash != b""
    checkDeaf(tested)
    if "hfs" not in suite:
        _checkCuts(isClient, psk, suite, received, events)


def _checkCuts(
    isClient: bool, psk: bytes | None, suite: str, received: bytes, events: list[Event]
) -> None:
    """
    Check that other cuts give the same events.

    @param isClient: the role under test.
    @param psk: its pre-shared key.
    @param suite: its suite, one whose handshake can be repeated.
    @param received: all that it got.
    @param events: all that this caused.
    """
    for sizes in ((len(received) + 1,), (2, 7)):
        again = _channel(isClient, psk, suite)
        chunks = pieces(received, sizes)
        found = outline(feed(again, chunks, _HELLO if isClient else b""))
        assert found == outline(events), (found, events)


def seeds() -> Iterator[bytes]:
    """
    Make a script for each role and suite that alters nothing, and some for each
    way to alter something.
    """
    for flags in range(4 * len(HERE)):
        yield bytes([flags, 0])
    for flags in (0, 1, 2, 3):
        for how in range(6):
            yield bytes([flags, 7, how >> 1, how, 0, 40, 0x80, 1])
    yield b"\1\0\0\6\0\0\0\0\0" + b"\0\4\0\0\0\0\1"
    yield b"\1\0\0\1\0\0\1"
    for role in b"\0\1":  # longer than any message
        yield bytes([role, 255, 1, 6, 0, 0, 0x22, 0]) + bytes(0x2200)
    refusal = b"\0\0\0\x0fAESM/1 refused:"
    yield b"\1\0\0\1\0\0\0\0\2\0\0" + bytes([len(refusal)]) + refusal + b"\1"
