"""
The hello and the WELCOME, docs/protocol.md, section 8: JSON objects.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

from aesm.conformance.wire import Unmet

MAX_HELLO = 2048  # bytes, docs/protocol.md, section 8
SESSION = re.compile("[0-9a-fA-F]{32}")


def isCount(value: Any) -> bool:
    """Tell whether a value is a count."""
    return type(value) is int and 0 <= value < 1 << 64


VALUES: dict[str, Callable[[Any], bool]] = {  # of each key, what it may be
    "agent": lambda value: isinstance(value, str),
    "maxMessage": isCount,
    "heartbeat": lambda value: type(value) in (int, float) and value > 0,
    "batch": lambda value: isinstance(value, bool),
    "requests": lambda value: isinstance(value, bool),
    "window": isCount,
    "session": lambda value: isinstance(value, str) and bool(SESSION.fullmatch(value)),
    "received": isCount,
    "partial": isCount,
    "early": lambda value: isCount(value) and value <= 65536,
    "resume": lambda value: isinstance(value, bool),
    "nextKey": lambda value: isinstance(value, str) and isKey(value),
}


def isKey(text: str) -> bool:
    """Tell whether a text is a key in base64."""
    try:
        return len(text) == 44 and len(base64.b64decode(text, validate=True)) == 32
    except ValueError:
        return False


def encoded(hello: dict[str, Any]) -> bytes:
    """Encode a hello or WELCOME."""
    return json.dumps(hello, separators=(",", ":")).encode()


def parsed(payload: bytes, what: str) -> dict[str, Any]:
    """Parse a hello or WELCOME, which must be one."""
    if len(payload) > MAX_HELLO:
        raise Unmet(f"its {what} has {len(payload)} bytes")
    try:
        said = json.loads(payload.decode())
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise Unmet(f"its {what} is no JSON object")
    for key, isValid in VALUES.items():
        if key in said and not isValid(said[key]):
            raise Unmet(f"its {what} says {key} {said[key]!r}")
    return said
