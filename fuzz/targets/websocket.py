"""
What a stranger sends to a WebSocket.

Input: one byte, whose lowest bit has a right request come first; then what the
stranger sends.

Whatever it sends: the protocol inside gets the same bytes however they are cut up, and
no more than came; the server answers with one answer to a request, and then with
whole frames, pongs and one Close; it hangs up once it has refused or sent that, and
nothing is handed on then; and the protocol inside hears of one end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from aesm.secure.websocket import WebSocketProtocol
from fuzz.script import pieces

__all__ = ["run", "seeds"]

_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"%b\r\n"
)
_RIGHT = _REQUEST % b""
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class _Inner(Protocol):
    """The protocol inside, which says nothing."""

    def __init__(self) -> None:
        """Nothing has come."""
        self.data = b""
        self.ends = 0

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        assert data
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count the ends."""
        self.ends += 1


def _frame(opcode: int, data: bytes, last: bool = True) -> bytes:
    """Make a client's frame, with a mask that changes nothing."""
    size = len(data)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([last << 7 | opcode]) + length + bytes(4) + data


def _hasEnded(answer: bytes) -> bool:
    """
    Check the form of an answer.

    @return: whether it says that there is nothing more to come.
    """
    head, mark, frames = answer.partition(b"\r\n\r\n")
    if not mark:
        assert not answer, answer
        return False
    status = int(head.split(b" ")[1])
    if status != 101:
        assert status in (403, 404, 426), head
        return True
    while frames:
        opcode, size = frames[0] & 15, frames[1]
        assert frames[0] & 0x80 and size < 126, frames
        assert opcode in (_PONG, _CLOSE), frames
        frames = frames[2 + size :]
        if opcode == _CLOSE:
            assert not frames, frames
            return True
    return False


def run(data: bytes) -> None:
    """
    Let a stranger speak.

    @param data: the input.
    """
    stranger = (_RIGHT if data[:1] and data[0] & 1 else b"") + data[1:]
    found = []
    for sizes in ((len(stranger) + 1,), (1,), (200, 3, 40)):
        inner, clock, transport = _Inner(), Clock(), StringTransport()
        server = WebSocketProtocol(clock, cast(IProtocol, inner))
        server.makeConnection(cast(Any, transport))
        for chunk in pieces(stranger, sizes):
            if not transport.disconnecting:
                server.dataReceived(chunk)
        ended = _hasEnded(transport.value())
        assert ended == transport.disconnecting, (ended, transport.value())
        before = inner.data
        assert len(before) < len(stranger) + 1
        if ended:
            server.dataReceived(_frame(_BINARY, b"late"))
            assert inner.data == before, inner.data
        server.connectionLost()
        assert inner.ends == 1 and not clock.getDelayedCalls(), inner.ends
        found.append((before, ended))
    assert found[0] == found[1] == found[2], found


def seeds() -> Iterator[bytes]:
    """Make requests, right and wrong, and frames."""
    message = _frame(_BINARY, b"message")
    for frames in (
        message + message,
        _frame(_BINARY, bytes(200)),
        _frame(_BINARY, b"in ", last=False) + _frame(_PING, b"?") + _frame(0, b"two"),
        _frame(_PING, b"one") + _frame(_PING, b"two") + message,
        _frame(_PONG, b"") + message,
        _frame(_BINARY, b"") + message,
        message + _frame(_TEXT, b"text") + message,
        message + _frame(_CLOSE, b"\x03\xe8done") + message,
        _frame(_CLOSE, b""),
        _frame(_CLOSE, b"\0\0"),
        message + _frame(0, b"of nothing"),
        message + _frame(3, b"unknown"),
        _frame(_PING, bytes(126)),
        b"\x82\x07message",  # without a mask
        b"\xc2" + message[1:],  # compressed, it says
        b"\x82\xff\x7f" + bytes(12),  # 9 EB
    ):
        yield b"\1" + frames
    for more in (b"Origin: https://x\r\n", b"Origin: https://evil.example\r\n"):
        yield b"\0" + _REQUEST % more + message
    yield b"\0" + _RIGHT.replace(b"/ ", b"/elsewhere ", 1)
    yield b"\0" + _RIGHT.replace(b"websocket", b"h2c")
    yield b"\0" + _RIGHT.replace(b"13", b"12")
    yield b"\0GET / HTTP/1.0\r\n\r\n"
    yield b"\0POST / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"\0" + b"GET /" + b"a" * 17000
    yield b"\0\0\x07AESM/1 "
