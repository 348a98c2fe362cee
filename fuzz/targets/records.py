"""
Records of an open channel that somebody alters on their way.

Input: one byte for the cipher, one for the size of chunks, one for how many
records are sent; their lengths, two bytes each; then alterations, each of one
record: see L{fuzz.script.altered}.

Whatever is altered: the stream that comes out is the beginning of the one that
went in; it ends, by C{EndOfStream} alone, only after the last byte; whatever else
comes, or does not come, is an error: tampered records, bytes behind the end, or a
stream cut off; no more is kept than one record; how the bytes are cut up makes no
difference; and nothing follows the error.
"""

from __future__ import annotations

from collections.abc import Iterator

from aesm.core.channel.channel import Channel
from aesm.core.channel.events import EndOfStream, Event, Failed
from aesm.core.channel.framing import LENGTH_BYTES, MAX_PLAINTEXT
from aesm.core.channel.roles import ServerChannel
from aesm.core.channel.settings import SUITES
from aesm.core.channel.states import State
from aesm.errors import ProtocolError, TamperedRecord, Truncated
from aesm.noise import TAGLEN, CipherState
from aesm.noise.functions import CIPHERS
from fuzz.script import (
    Script,
    altered,
    checkDeaf,
    checkEvents,
    cutFrames,
    deliver,
    outline,
    pieces,
)
from tests.support.helpers import SERVER_KEY, channelSettings

__all__ = ["run", "seeds"]

_MAX_HELD = LENGTH_BYTES + MAX_PLAINTEXT + TAGLEN
_SETTINGS = channelSettings(SERVER_KEY, SUITES[2])
_BYTES = bytes(range(251)) * 262  # of the stream; no two records look the same


def _open(cipher: str) -> Channel:
    """
    Make a channel that is open.

    @param cipher: its name in protocol names.
    @return: what it sends is for another one that was made like it.
    """
    channel = ServerChannel(_SETTINGS)
    channel._encrypt = CipherState(CIPHERS[cipher], b"\x66" * 32)
    channel._decrypt = CipherState(CIPHERS[cipher], b"\x66" * 32)
    channel.state = State.OPEN
    return channel


def run(data: bytes) -> None:
    """
    Send records, altered as the input says.

    @param data: the input.
    """
    script = Script(data)
    flags, size = script.number(), script.number() or 65536
    cipher = ("AESGCM", "ChaChaPoly")[flags & 1]
    honest, sent, output = _open(cipher), b"", b""
    for _ in range(script.number() % 8):
        plaintext = _BYTES[: script.number(2) % (MAX_PLAINTEXT + 1)]
        sent += plaintext
        honest.send(plaintext)
        output += honest.takeOutput()
    if flags & 2:
        honest.endOfStream()
        output += honest.takeOutput()
    frames = cutFrames(output)
    while script.more:
        frames = altered(frames, script)
    received = b"".join(frames)
    found = []
    size = max(size, len(received) // 500)  # no more pieces than it takes time for
    for sizes in ((size,), (len(received) + 1,)):
        tested = _open(cipher)
        events = list(deliver(tested, pieces(received, sizes), _MAX_HELD))
        _check(events, sent)
        assert received != output or tested.state is not State.FAILED, events
        events += tested.transportEnded()
        isWhole = bool(flags & 2) and received == output
        assert isWhole == (tested.state is not State.FAILED), events
        assert not isWhole or EndOfStream() in events, events
        checkDeaf(tested)
        found.append((outline(events), tested.state))
    assert found[0] == found[1], found


def _check(events: list[Event], sent: bytes) -> None:
    """
    Check that what came out is what went in.

    @param events: what the channel has reported.
    @param sent: the stream.
    """
    checkEvents(events, (TamperedRecord, ProtocolError, Truncated))
    got = b"".join(event for event in events if isinstance(event, bytes))
    assert sent.startswith(got), "the stream was changed"
    kinds = [type(event) for event in events]
    if EndOfStream in kinds:
        assert got == sent, "the stream was cut short"
        assert set(kinds[kinds.index(EndOfStream) + 1 :]) <= {Failed}, kinds


def seeds() -> Iterator[bytes]:
    """Make scripts that alter nothing, and some for each way to alter something."""
    records = b"\3\0\5\0\1\1\0"
    for flags in range(4):
        yield bytes([flags, 0]) + records
        yield bytes([flags, 3]) + records
        for how in range(6):
            yield bytes([flags, 9]) + records + bytes([how & 1, how, 0, 6, 1])
    yield b"\2\0\1\xff\xef"
    yield b"\2\0\0"
    yield b"\2\0\1\0\5\0\6\0\0\0\0"
    yield b"\2\0\1\0\5\1\6\0\0\0\x10" + bytes(16)
