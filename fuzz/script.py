"""
What the targets share: reading an input as a script, and looking at a channel.

An input that were only bytes for a peer would hardly ever get past the first
ciphertext.  So where there is cryptography an input is a script, which says how
an honest peer's bytes are altered on their way; every input is a script, so that
any mutation of one gives another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from aesm.core.channel.channel import MAX_EARLY, Channel
from aesm.core.channel.events import Event, Failed
from aesm.core.channel.framing import LENGTH_BYTES
from aesm.core.channel.settings import ChannelSettings
from aesm.core.channel.states import State
from aesm.errors import AESMError
from aesm.noise import HandshakeState, KeyPair
from tests.support.helpers import outline, pieces

__all__ = [
    "MAX_STRANGER",
    "RepeatableSettings",
    "Script",
    "altered",
    "checkDeaf",
    "checkEvents",
    "cutFrames",
    "deliver",
    "held",
    "outline",
    "pieces",
]

MAX_STRANGER = LENGTH_BYTES + 8192  # bytes, PROTOCOL section 3

_EPHEMERALS = {side: KeyPair.fromBytes(bytes([0x33 + side]) * 32) for side in (0, 1)}
_ALTERATIONS = 7
_MAX_TWICE = 16384  # bytes: a script can say it over and over


@dataclass(frozen=True)
class RepeatableSettings(ChannelSettings):
    """
    Settings whose handshakes always use the same ephemeral key, so that an input
    does the same whenever it is run (ML-KEM aside).
    """

    @cached_property
    def handshakes(self) -> dict[str, Callable[..., HandshakeState]]:
        """What starts a handshake."""
        makes = super().handshakes
        return {suite: partial(_repeatable, makes[suite]) for suite in makes}


def _repeatable(
    make: Callable[..., HandshakeState], *, initiator: bool
) -> HandshakeState:
    """Start a handshake with the key of its side."""
    return make(initiator=initiator, e=_EPHEMERALS[initiator])


class Script:
    """An input, read from its beginning; past its end it is all zeroes."""

    def __init__(self, data: bytes) -> None:
        """@param data: the input."""
        self._data = data
        self._position = 0

    @property
    def more(self) -> bool:
        """Whether the end is not reached."""
        return self._position < len(self._data)

    def take(self, size: int) -> bytes:
        """
        Read bytes.

        @param size: how many; there may be fewer left.
        @return: the bytes.
        """
        start, self._position = self._position, self._position + size
        return self._data[start : self._position]

    def number(self, size: int = 1) -> int:
        """
        Read a number.

        @param size: its bytes.
        """
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big")

    def rest(self) -> bytes:
        """Read all that is left."""
        return self.take(len(self._data))


def altered(frames: list[bytes], script: Script) -> list[bytes]:
    """
    Alter one of several frames.

    @param frames: with their lengths.
    @param script: says which, and how: four bytes, and more for some ways.
    @return: other frames, or parts of some.
    """
    which = script.number() % max(1, len(frames))
    how = script.number() % _ALTERATIONS
    where = script.number(2)
    before, frame, after = (
        frames[:which],
        frames[which : which + 1],
        frames[which + 1 :],
    )
    body = bytearray(b"".join(frame))
    match how:
        case 0 if body:  # other bits
            body[where % len(body)] ^= script.number() or 0x80
        case 1:  # cut off
            del body[where % (len(body) + 1) :]
        case 2:  # bytes put in
            at = where % (len(body) + 1)
            body[at:at] = script.take(script.number())
        case 3 if len(body) < _MAX_TWICE:  # twice
            body *= 2
        case 4:  # left out
            body.clear()
        case 5:  # in another order
            return before + after + frame
        case 6:  # another frame instead
            inside = script.take(script.number(2))
            body[:] = len(inside).to_bytes(LENGTH_BYTES, "big") + inside
    return [*before, bytes(body), *after]


def cutFrames(data: bytes) -> list[bytes]:
    """
    Cut an honest peer's bytes into its frames.

    @param data: whole frames, and C{00 00} before a refusal.
    @return: the frames with their lengths.
    """
    frames = []
    while data:
        end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
        frames.append(data[:end])
        data = data[end:]
    return frames


def held(channel: Channel) -> int:
    """
    Count what a channel keeps of its peer's bytes.

    @param channel: the channel.
    @return: bytes.
    """
    return len(channel._received)


def deliver(channel: Channel, chunks: Iterable[bytes], bound: int) -> Iterator[Event]:
    """
    Let a channel take bytes.

    @param channel: who takes them.
    @param chunks: the bytes.
    @param bound: what it may keep of them as long as it does not know its peer.
    @return: what they caused.
    """
    for chunk in chunks:
        yield from channel.receive(chunk)
        most = MAX_EARLY if channel.peer else bound
        assert held(channel) <= most, f"{held(channel)} bytes are kept"


def checkEvents(events: list[Event], errors: tuple[type[AESMError], ...]) -> None:
    """
    Check that nothing follows an error, and that it is a documented one.

    @param events: all that a channel has reported.
    @param errors: what it may be.
    """
    for event in events[:-1]:
        assert not isinstance(event, Failed), f"{event} is not the last event"
    if events and isinstance(events[-1], Failed):
        assert isinstance(events[-1].error, errors), repr(events[-1].error)


def checkDeaf(channel: Channel) -> None:
    """
    Check that a channel that has failed does and keeps nothing more.

    @param channel: one that may have.
    """
    if channel.state is State.FAILED:
        channel.takeOutput()
        assert channel.receive(b"\0" * 300) == []
        assert channel.transportEnded() == []
        assert channel.accept() == []
        assert channel.takeOutput() == b""
        assert held(channel) == 0
