"""
What a secure channel reports: the events that C{Channel.receive} returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from aesm.errors import AESMError

__all__ = ["Data", "EndOfStream", "Event", "Failed", "Opened", "PeerIdentified"]


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
    """
    The channel carries the stream now, in both directions.
    """


class Data(NamedTuple):
    """
    Bytes of the stream, authenticated and in order; a tuple, which is made faster
    than a dataclass, since each record gives one.

    @ivar data: 1 to 65,519 bytes.
    """

    data: bytes


@dataclass(frozen=True)
class EndOfStream:
    """
    The peer has ended its direction, authenticated; nothing more will come.
    """


@dataclass(frozen=True)
class Failed:
    """
    The channel is over and everything in it is dropped.

    @ivar error: why.
    """

    error: AESMError


Event = PeerIdentified | Opened | Data | EndOfStream | Failed
