"""
The two roles of the secure channel up to its opening, docs/protocol.md, sections 2
and 3: the client offers and checks the server's key first, the server takes
or refuses the offer and checks the client's key last.

A length that cannot be right is refused before anything behind it is kept,
so a stranger costs no more memory than one handshake message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aesm.core.channel.channel import Channel
from aesm.core.channel.events import Event, PeerIdentified
from aesm.core.channel.framing import LENGTH_BYTES, MAX_PLAINTEXT, frame
from aesm.core.channel.settings import ChannelSettings, Layer
from aesm.core.channel.states import State
from aesm.errors import (
    HandshakeError,
    NameOrKeyMismatch,
    NoAnswer,
    NotAnAESMPeer,
    NothingSaid,
    OfferRefused,
    TamperedRecord,
)

MAX_REASON: Final = 255  # bytes of a refusal's reason, docs/protocol.md, section 2
MAX_HELLO: Final = 2048  # bytes of message 3's payload, docs/protocol.md, section 8

_REFUSAL: Final = b"\x00\x00"
_REFUSED: Final = "AESM/1 refused: "
_WRONG_PORT: Final = {  # what a server of each layer tells clients of the other
    Layer.STREAM: "this port carries a byte stream, not messages",
    Layer.MESSAGES: "this port talks messages, not a byte stream",
}
_ADVICE: Final = {  # what a client that is told so had better do
    _REFUSED + _WRONG_PORT[Layer.STREAM]: "connect with a client of the protocol that "
    "runs there, on wrapClientEndpoint() or an aesm: endpoint string, or check the "
    "host and port",
    _REFUSED + _WRONG_PORT[Layer.MESSAGES]: "connect with aesm.connect(), "
    "ClientService or `aesm connect`, without aesm: before the endpoint, or check the "
    "host and port",
}
_FOREIGN: Final = {  # first bytes of protocols that often call at a wrong port
    0x16: "TLS",
    0x15: "TLS",
    **{ord(letter): "HTTP" for letter in "GHODCT"},
    ord("P"): "HTTP, or a PROXY header: listen on haproxy:",
    ord("\r"): "a PROXY header: listen on haproxy:",
    ord("S"): "SSH",
    ord("2"): "SMTP or FTP",
}


class _Handshake(Channel):
    """What the roles share: they read the other's messages."""

    __slots__ = ()

    def _readMessage(self, message: bytes) -> bytes:
        """Read a handshake message, maybe with the peer's key; return the payload."""
        try:
            payload = self._noise.readMessage(message)
        except TamperedRecord:
            raise NameOrKeyMismatch(
                "the handshake does not authenticate: the other side has another "
                "name= or psk= (--name, --psk), or somebody altered it; give both "
                "sides the same"
            ) from None
        publicKey = self._noise.rs
        if publicKey is not None:
            # Whoever sends us our own messages back would pass as ourselves.
            if publicKey == self._settings.publicKey:
                raise HandshakeError(
                    "the peer presents our own static key: this is an echo of "
                    "ourselves, or two sides share a key file; make one for each"
                )
            self.peer = publicKey
        return payload


class ClientChannel(_Handshake):
    """The Noise initiator's side."""

    __slots__ = ("_reply",)

    speaksFirst = True

    def __init__(self, settings: ChannelSettings) -> None:
        """Make the offer of the first suite, and message 1, for C{takeOutput}."""
        super().__init__(settings)
        offer, self.suite = next(iter(settings.offers.items()))
        self._noise = settings.handshakes[self.suite](initiator=True)
        message = self._noise.writeMessage()
        self._reply = self._noise.messageLength()  # of message 2: its only one
        self._output = [frame(offer), frame(message)]

    def _receiveHandshake(self, data: memoryview, events: list[Event]) -> int:
        """Take message 2, or a refusal."""
        refused = self.state is State.REFUSAL
        check = self._checkReason if refused else self._checkReply
        body, used = _takeFrame(self._received, data, check)
        if body is None:
            return used
        if refused:
            # Anybody may have written it, and it ends in logs and on terminals.
            reason = "".join(chr(c) if 32 <= c < 127 else "?" for c in body)
            advice = _ADVICE.get(
                reason,
                "choose suites= to match, or give both sides the same psk= (--psk)",
            )
            raise OfferRefused(
                f"the server refused our offer of {self.suite}; it says, "
                f"unauthenticated: {reason!r}; {advice}",
                reason,
            )
        if not body:
            self._move("refused")
            return used
        self._readMessage(body)
        self._move("peerProved")
        events.append(PeerIdentified(self.peer, b""))
        return used

    def _checkReply(self, length: bytes) -> None:
        """Refuse what cannot be message 2's length, nor zero for a refusal."""
        expected = self._reply.to_bytes(LENGTH_BYTES, "big")
        if not (expected.startswith(length) or _REFUSAL.startswith(length)):
            raise _foreign("answered", length)

    def _checkReason(self, length: bytes) -> None:
        """Refuse a reason of more than 255 bytes."""
        if length[0]:
            raise _foreign("answered", length)

    def _finish(self, payload: bytes) -> None:
        """Send message 3, with the hello."""
        if len(payload) > MAX_HELLO:
            raise ValueError(f"payload is longer than {MAX_HELLO} bytes")
        message = self._noise.writeMessage(payload)
        self.handshakeHash = self._noise.handshakeHash
        self._encrypt, self._decrypt = self._noise.split()
        del self._noise
        self._output.append(frame(message))

    def _dismiss(self, farewell: bytes) -> None:
        """Stop without a word: the server is not to learn our key."""
        if farewell:
            raise ValueError("a client that rejects its server says nothing")

    def _unfinished(self) -> HandshakeError:
        """Say what it means that the server closed in the handshake."""
        if self.state is not State.OFFER or self._received:
            return HandshakeError(
                "the connection was lost in the middle of the handshake; try again"
            )
        if self._settings.psk is not None:
            return NoAnswer(
                "the server closed the connection without an answer: most likely its "
                "psk= or name= differs from ours (--psk, --name); give both sides the "
                "same. Else one side talks messages, and the other a byte stream"
            )
        return NoAnswer(
            "the server closed the connection without an answer: it may need a psk= "
            "(--psk), take no more connections, or speak another protocol; its log "
            "says why"
        )


class ServerChannel(_Handshake):
    """The Noise responder's side."""

    __slots__ = ()

    def _receiveHandshake(self, data: memoryview, events: list[Event]) -> int:
        """Take the offer, message 1 or message 3."""
        if self.state is State.OFFER:
            offer, used = _takeFrame(self._received, data, self._checkOffer)
            if offer is not None:
                self._takeOffer(offer)
            return used
        message, used = _takeFrame(self._received, data, self._checkMessage)
        if message is None:
            return used
        payload = self._readMessage(message)
        if self.state is State.HANDSHAKE:
            self._output.append(frame(self._noise.writeMessage()))
            self._move("answered")
        else:
            self.handshakeHash = self._noise.handshakeHash
            self._decrypt, self._encrypt = self._noise.split()
            del self._noise
            self._move("peerProved")
            events.append(PeerIdentified(self.peer, payload))
        return used

    def _checkOffer(self, length: bytes) -> None:
        """Refuse a foreign client by its first byte (docs/protocol.md, section 2)."""
        if length[0] or length == _REFUSAL:
            raise _foreign("called", length)

    def _takeOffer(self, offer: bytes) -> None:
        """Start the handshake that is offered, or say what we take (section 2)."""
        settings = self._settings
        if offer in settings.offers:
            self.suite = settings.offers[offer]
            self._noise = settings.handshakes[self.suite](initiator=False)
            self._move("offerTaken")
            return
        text = offer.decode("ascii", "replace")
        if Layer.of(text) in (settings.layer, None):
            reason = f"{_REFUSED}offer one of {' '.join(settings.suites)}"
            ours = f"we take {', '.join(settings.suites)}"
        else:
            ours = _WRONG_PORT[settings.layer]
            reason = _REFUSED + ours
        # A server with a pre-shared key answers nobody who does not prove it.
        if settings.psk is None:
            told = reason.encode("ascii")[:MAX_REASON]
            self._output.append(_REFUSAL + frame(told))
        raise OfferRefused(f"the client offers {text!r}, but {ours}", reason)

    def _checkMessage(self, length: bytes) -> None:
        """Refuse a message by its length alone: only message 3 has a payload."""
        least = self._noise.messageLength()
        most = least + (MAX_HELLO if self.state is State.ANSWERED else 0)
        # Of the first byte alone only what no second byte could mend is refused.
        low = least >> 8 if len(length) == 1 else least
        high = most >> 8 if len(length) == 1 else most
        if not low <= int.from_bytes(length, "big") <= high:
            raise HandshakeError(
                f"a handshake message of the wrong size: not {least} to {most} bytes"
            )

    def _finish(self, payload: bytes) -> None:
        """Nothing is left: the client wrote the last message."""
        if payload:
            raise ValueError("a server has no payload in the handshake")

    def _dismiss(self, farewell: bytes) -> None:
        """Say farewell, in one record, through the finished channel, and end it."""
        if len(farewell) > MAX_PLAINTEXT:
            raise ValueError(f"a farewell has at most {MAX_PLAINTEXT} bytes")
        self._queue = [farewell, b""] if farewell else [b""]
        self._output = self.takeRecords()

    def _unfinished(self) -> HandshakeError:
        """Say what it means that the client closed in the handshake."""
        if self.state is State.OFFER:
            if not self._received:
                return NothingSaid("the client closed the connection without a word")
            return HandshakeError("the client closed the connection without an offer")
        return HandshakeError(
            "the client closed the connection in the handshake: our name= (--name) "
            "may differ from its own, or it does not trust our key"
        )


def _takeFrame(
    buffer: bytearray, data: memoryview, check: Callable[[bytes], None]
) -> tuple[bytes | None, int]:
    """
    Take the rest of the current frame, or as much of it as there is.

    @param check: called with what there is of the length, one byte or two, before
        anything behind it is kept; raises to refuse it.

    @return: the frame's body once it is whole, else None; and how many bytes were used.
    """
    used = 0
    if len(buffer) < LENGTH_BYTES:
        # One byte often tells a foreign protocol, and a peer that speaks one may wait
        # for us before it sends another.
        used = min(LENGTH_BYTES - len(buffer), len(data))
        buffer += data[:used]
        check(bytes(buffer))
        if len(buffer) < LENGTH_BYTES:
            return None, used
    end = LENGTH_BYTES + (buffer[0] << 8 | buffer[1])
    more = data[used : used + end - len(buffer)]
    buffer += more
    used += len(more)
    if len(buffer) < end:
        return None, used
    body = bytes(buffer[LENGTH_BYTES:])
    buffer.clear()
    return body, used


def _foreign(did: str, start: bytes) -> NotAnAESMPeer:
    """Describe a peer of another protocol, which C{"answered"} or C{"called"}."""
    guess = _FOREIGN.get(start[0], "not a length of ours")
    return NotAnAESMPeer(
        f"what {did} here does not speak AESM/1: its first byte is 0x{start[0]:02x} "
        f"({guess}); check the host and port"
    )
