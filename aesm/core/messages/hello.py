"""
The client's hello and the server's WELCOME, docs/protocol.md, section 8: what each
side announces before the first message, and the settings that it is made from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from aesm.core.messages.frames import MAX_OBJECT
from aesm.errors import ProtocolError

if TYPE_CHECKING:
    from aesm.core.messages.session import Session

DEFAULT_MAX_MESSAGE = 1 << 20  # bytes, docs/protocol.md, section 6
DEFAULT_WINDOW = 16 << 20  # bytes, docs/protocol.md, section 8
DEFAULT_HEARTBEAT = 30.0  # seconds, docs/protocol.md, section 8
DEFAULT_SEND_BUFFER = 64 << 20  # bytes, docs/protocol.md, section 7
EARLY_WINDOW = 65536  # bytes: what early messages cost, docs/protocol.md, section 8
MAX_BYTES = (1 << 31) - 1  # of anything here: what a length in a BATCH can say

# What hellos of the same settings differ in, at its largest.
_LARGEST: dict[str, Any] = {
    "session": "0" * 32,
    "received": MAX_BYTES,
    "partial": MAX_BYTES,
    "early": EARLY_WINDOW,
}

MAX_SECONDS = 1e9  # of a heartbeat
SHORT_AGENT = 200  # characters that always fit, however JSON writes them
MAX_KEY = 44  # characters of a key in text form
ALIKE = 64  # hellos that are remembered for those who say the same

_U64 = 1 << 64
_SESSION = re.compile("[0-9a-f]{32}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Hello:
    """
    What one side announces; a key that it leaves out has the default.

    @ivar agent: software and version, the peer's words: for logs only.
    @ivar maxMessage: the largest message body that it accepts, bytes.
    @ivar heartbeat: seconds without incoming data after which it sends a PING.
    @ivar batch: whether it accepts BATCH frames.
    @ivar window: bytes of messages that it accepts before its application has
        taken any.
    @ivar session: 32 hexadecimal digits, or C{""} for none.
    @ivar received: how many of the session's messages it has received.
    @ivar partial: how many bytes of the next message's body it has received.
    @ivar early: of a client, how many bytes of messages follow the handshake at once,
        for a new session; of a server, the same if it takes them.
    @ivar nextKey: the static key that a server will have after this one, in text
        form, or C{""}.
    @ivar requests: whether it accepts REQUEST and RESPONSE frames.
    @ivar resume: False if a client will not resume its session, so that the server
        need not keep it.
    """

    agent: str = ""
    maxMessage: int = DEFAULT_MAX_MESSAGE
    heartbeat: float = DEFAULT_HEARTBEAT
    batch: bool = False
    window: int = DEFAULT_WINDOW
    session: str = ""
    received: int = 0
    partial: int = 0
    early: int = 0
    nextKey: str = ""
    resume: bool = True
    requests: bool = False

    def encode(self) -> bytes:
        """
        Encode it as a JSON object.

        @return: at most 2,048 bytes.
        """
        # Where nothing else is said, it is as if this were.
        pairs = zip(_VALIDATORS, _values(self), strict=True)
        said = {key: value for key, value in pairs if _UNSAID.get(key) != value}
        return _encodeJSON(said).encode("ascii")

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """
        Parse what the peer announces.

        @param payload: a JSON object; unknown keys are ignored.
        @raise ProtocolError: it is too large, not a JSON object, or a value is
            not one that its key can have.
        """
        if len(payload) > MAX_OBJECT:
            raise ProtocolError(f"a hello of more than {MAX_OBJECT} bytes")
        # What names a session says so only once.
        return (_decode if b'"session"' in payload else _decodeAlike)(payload)


def _decode(payload: bytes) -> Hello:
    """Decode a hello that is not too large."""
    try:
        said = _decodeJSON(payload.decode())
    except (ValueError, RecursionError):  # the latter from deep nesting
        said = None
    if not isinstance(said, dict):
        raise ProtocolError("a hello that is not a JSON object")
    known = {key: said[key] for key in _VALIDATORS if key in said}
    for key, value in known.items():
        if not _VALIDATORS[key](value):
            raise ProtocolError(f"a hello with an impossible {key!r}")
    return Hello(**known)


# Most clients of a server say the same, to the byte, which is parsed once.  It is kept
# with a connection, too: of thousands each would have a third of a KiB more.
_decodeAlike = lru_cache(ALIKE)(_decode)


class MessageOptions(TypedDict, total=False):
    """
    The options of the message layer, the same for every interface.

    @ivar maxMessage: the largest message body to accept, bytes.
    @ivar heartbeat: seconds without incoming data after which to send a PING.
    @ivar sendBuffer: bytes of unacknowledged messages to keep for a peer.
    @ivar receiveBuffer: bytes of messages to accept before the application has taken
        any.
    """

    maxMessage: int
    heartbeat: float
    sendBuffer: int
    receiveBuffer: int


@dataclass(frozen=True)
class ConversationSettings:
    """
    The settings of one side, L{MessageOptions} among them; validated, and shared by
    all connections of a factory.

    @ivar agent: software and version, for the peer's logs.
    @ivar nextKey: the static key that this server will have after this one, in
        text form, or C{""}.
    """

    maxMessage: int = DEFAULT_MAX_MESSAGE
    heartbeat: float = DEFAULT_HEARTBEAT
    sendBuffer: int = DEFAULT_SEND_BUFFER
    receiveBuffer: int = DEFAULT_WINDOW
    agent: str = ""
    nextKey: str = ""

    def __post_init__(self) -> None:
        """Validate everything, so that no connection can fail over it later."""
        for name in ("maxMessage", "sendBuffer", "receiveBuffer"):
            value = getattr(self, name)
            _checkType(name, value, int)
            if not 0 < value <= MAX_BYTES:
                raise ValueError(f"{name} must be 1 to {MAX_BYTES} bytes, not {value}")
        _checkType("heartbeat", self.heartbeat, int, float)
        if not 0 < self.heartbeat <= MAX_SECONDS:
            raise ValueError(
                f"heartbeat must be above 0 and at most {MAX_SECONDS:g} seconds, not "
                f"{self.heartbeat}"
            )
        if (
            len(self.agent) > SHORT_AGENT
            and len(replace(self.hello(), **_LARGEST).encode()) > MAX_OBJECT
        ):
            raise ValueError(f"agent is too long: {self.agent!r}")

    def hello(
        self, session: Session | None = None, early: int = 0, resume: bool = True
    ) -> Hello:
        """
        Make the hello or WELCOME of these settings.

        @param session: that it names; None for none.
        @param early: this and C{resume} as L{Hello}.
        """
        name, received, partial = "", 0, None
        if session is not None:
            name, inbox = session.name, session.inbox
            received, partial = inbox.received, inbox.partial
        return Hello(
            agent=self.agent,
            maxMessage=self.maxMessage,
            heartbeat=self.heartbeat,
            batch=True,
            window=self.receiveBuffer,
            session=name,
            received=received,
            partial=0 if partial is None else len(partial.body),
            early=early,
            nextKey=self.nextKey,
            resume=resume,
            requests=True,
        )


# What every server announces that takes early messages, at the least.
LEAST_HELLO = Hello(maxMessage=EARLY_WINDOW, batch=True, window=EARLY_WINDOW)

# What a missing key means, of those that most leave out.
_UNSAID = {
    "agent": "",
    "session": "",
    "partial": 0,
    "early": 0,
    "nextKey": "",
    "resume": True,
    "requests": False,
}


def _checkType(name: str, value: object, *kinds: type) -> None:
    """Refuse a value of another type: JSON's true is no number, 1e6 no whole one."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        said = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be {said}, not {value!r}")


def _refuseConstant(constant: str) -> NoReturn:
    """Refuse C{NaN} and C{Infinity}, which Python's parser takes beyond JSON."""
    raise ValueError(f"{constant} is not JSON")


# Made once: json.dumps and json.loads would make them anew each time.
_encodeJSON = json.JSONEncoder(separators=(",", ":")).encode
_decodeJSON = json.JSONDecoder(parse_constant=_refuseConstant).decode


def _isCount(value: Any) -> bool:
    """Tell whether a JSON value is an unsigned integer of 64 bits."""
    # Not isinstance: True is an int, and JSON's true is no count.
    return type(value) is int and 0 <= value < _U64


def _isSeconds(value: Any) -> bool:
    """Tell whether a JSON value is a number of seconds, to C{MAX_SECONDS}."""
    return type(value) in (int, float) and 0 < value <= MAX_SECONDS


def _isSession(value: Any) -> bool:
    """Tell whether a JSON value names a session: 32 hexadecimal digits."""
    return isinstance(value, str) and _SESSION.fullmatch(value) is not None


_VALIDATORS: dict[str, Callable[[Any], bool]] = {
    "agent": lambda value: isinstance(value, str),
    "maxMessage": _isCount,
    "heartbeat": _isSeconds,
    "batch": lambda value: isinstance(value, bool),
    "window": _isCount,
    "session": _isSession,
    "received": _isCount,
    "partial": _isCount,
    "early": lambda value: _isCount(value) and value <= EARLY_WINDOW,
    "nextKey": lambda value: isinstance(value, str) and len(value) <= MAX_KEY,
    "resume": lambda value: isinstance(value, bool),
    "requests": lambda value: isinstance(value, bool),
}
_values = attrgetter(*_VALIDATORS)
