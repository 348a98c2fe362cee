"""
What the command line shows and reads: packets as lines, and lines as messages.

What a peer sends can hold anything; nothing of it reaches a terminal as a
control character::

    PLAIN.show(packet)                         # b"12:34:56 hi\\n"
    PLAIN.read(b"hi")                          # "hi"
    JSON.show(packet)                          # b'{"time": 0.5, "data": "hi"}\\n'
    JSON.read(b'{"data": "hi"}')               # "hi"
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import NamedTuple

from aesm.messages.stream import Packet
from aesm.text import asciiJSON, escape


class Form(NamedTuple):
    """
    A way to write packets and messages, one a line.

    @ivar show: gives a packet's line, with its end.
    @ivar read: gives the message of a line without its end, or None where there
        is none to send; raises C{ValueError} and says what would be right.
    """

    show: Callable[[Packet], bytes]
    read: Callable[[bytes], str | bytes | None]


def _showPlain(packet: Packet) -> bytes:
    """Write a packet for people: when it was sent, and its text, or bytes escaped."""
    data = packet.data
    text = data.decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data
    return f"{_clock(packet.time)} {escape(text or '')}\n".encode()


def _clock(when: float) -> str:
    """Write a time of day, C{HH:MM:SS} of here."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(when))
    except (OverflowError, OSError, ValueError):
        return "--:--:--"  # a time that this machine cannot tell


def _readPlain(line: bytes) -> str | bytes:
    """Read a line as it is."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line


def _showJSON(packet: Packet) -> bytes:
    """Write a packet as an object: C{time}, and C{data} (text) or C{base64} (bytes)."""
    fields: dict[str, object] = {"time": packet.time}
    if isinstance(packet.data, bytes):
        fields["base64"] = base64.b64encode(packet.data).decode("ascii")
    else:
        fields["data"] = packet.data
    return asciiJSON(fields).encode("ascii") + b"\n"


def _readJSON(line: bytes) -> str | bytes | None:
    """Read such an object, but for its time; None for a line with nothing on it."""
    if not line.strip():
        return None
    try:
        # Whatever else it has was meant to do something: better not sent than ignored.
        match json.loads(line.decode("utf-8")):
            case {"data": str(text), **rest} if rest.keys() <= {"time"}:
                text.encode("utf-8")  # JSON can write half a surrogate pair
                return text
            case {"base64": str(text), **rest} if rest.keys() <= {"time"}:
                return base64.b64decode(text, validate=True)
    except (ValueError, RecursionError):
        pass
    raise ValueError('it is neither {"data": "TEXT"} nor {"base64": "BYTES"}')


PLAIN = Form(_showPlain, _readPlain)
JSON = Form(_showJSON, _readJSON)
