"""
Messages on their way from node to node::

    entry = packed("hello")          # L{TypeError}, L{ValueError} as C{sendData}
    unpacked(entry)
"""

from __future__ import annotations

from aesm.core.messages.batch import Message, bodyOf
from aesm.core.messages.frames import EncodedText

_TEXT, _BINARY = b"t", b"b"


def packed(data: Message) -> bytes:
    """Make one piece of a message; raises as C{sendData}."""
    body = bodyOf(data)
    if isinstance(body, str):
        return _TEXT + body.encode("ascii")
    return (_TEXT if isinstance(body, EncodedText) else _BINARY) + body


def unpacked(entry: bytes) -> str | bytes:
    """Make the message again, of whatever is there."""
    return entry[1:].decode("utf-8", "replace") if entry[:1] == _TEXT else entry[1:]
