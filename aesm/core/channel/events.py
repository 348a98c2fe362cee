"""
What a secure channel reports: the events that C{Channel.receive} returns.
"""

from __future__ import annotations

from dataclasses import dataclass

from aesm.errors import AESMError


@dataclass(frozen=True)
class PeerIdentified:
    """
    The peer has proved a static key; answer with C{accept} or C{reject}.

    @ivar publicKey: 32 bytes.
    @ivar payload: message 3's payload at the server, C{b""} at the client.
    """

    publicKey: bytes
    payload: bytes


@dataclass(frozen=True)
class Opened:
    """The channel carries the stream now, in both directions."""


@dataclass(frozen=True)
class EndOfStream:
    """The peer has ended its direction, authenticated; nothing more will come."""


@dataclass(frozen=True)
class Failed:
    """
    The channel is over and everything in it is dropped.

    @ivar error: why.
    """

    error: AESMError


# C{bytes} are bytes of the stream, authenticated and in order, 1 to 65,519.
Event = PeerIdentified | Opened | bytes | EndOfStream | Failed
