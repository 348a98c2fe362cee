"""
The secure channel, docs/protocol.md, sections 2 to 5, without I/O: offer, Noise
handshake, records, authenticated end of stream::

    channel = ClientChannel(ChannelSettings(staticKey=key))
    transport.write(channel.takeOutput())
    for event in channel.receive(data):
        ...                                 # PeerIdentified: channel.accept()
    channel.send(b"any bytes")
    transport.write(channel.takeOutput())

C{receive} returns what the bytes caused; C{takeOutput} returns the bytes to
send.  The channel never calls back, so nothing can re-enter it.  What it
cannot decide, whether the peer's key is welcome, leaves as L{PeerIdentified}
and comes back as C{accept()} or C{reject()}; until then nothing further is
processed.  The first error is final: it leaves as L{Failed}, after which the
channel has dropped its keys and ignores all input.

The conversation::

    client                                       server
    frame("AESM/1 Noise_...")  ------------->    OFFER: ours?  no: refusal
    frame(message 1)           ------------->    HANDSHAKE
                               <-------------    frame(message 2)
    DECISION: is it our server?
    frame(message 3 + payload) ------------->    DECISION: may this client in?
    OPEN                       <--- records -->  OPEN
    empty record               ------------->    PEER_ENDED
    ENDED                      <-------------    empty record
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import ClassVar, Final

from aesm.core.channel.events import EndOfStream, Event, Failed, Opened
from aesm.core.channel.framing import (
    HALF,
    LENGTH_BYTES,
    MAX_PLAINTEXT,
    growingPlaintexts,
    plaintextsOf,
)
from aesm.core.channel.settings import ChannelSettings
from aesm.core.channel.states import CHANNEL_TRANSITIONS, State
from aesm.errors import (
    AESMError,
    HandshakeError,
    OfferRefused,
    ProtocolError,
    TamperedRecord,
    Truncated,
)
from aesm.noise import TAGLEN, CipherState, HandshakeState

# Bytes that may wait for the decision on the peer: the early messages of a client of
# messages, docs/protocol.md, section 8, even in records of 20 bytes of it; and
# what one read brings of a byte stream.
MAX_EARLY: Final = 131072
REKEY_INTERVAL: Final = 65536  # records of one direction, docs/protocol.md, section 4

_SENDING: Final = frozenset({State.OPEN, State.PEER_ENDED})
_RECEIVING: Final = frozenset({State.OPEN, State.SELF_ENDED})
_OPENED: Final = _SENDING | _RECEIVING | {State.ENDED}
_SECRETS: Final = ("_noise", "_encrypt", "_decrypt")
_HANDSHAKING: Final = frozenset(
    {State.OFFER, State.REFUSAL, State.HANDSHAKE, State.ANSWERED}
)

# Looked at for each read; up to Python 3.11 a member of an Enum costs five times as
# much as a name.
_OPEN: Final = State.OPEN


class Channel:
    """
    What both roles share: records, end of stream, failure.

    @cvar speaksFirst: whether this side begins.
    @ivar atOnce: how many records one call of C{receive} opens at most; what is left of
        what came is for the next, which may be given C{b""}.
    @ivar more: whether there may be whole records left.
    @ivar queued: bytes of the stream that wait to be sealed.
    @ivar recordSize: bytes of the stream in the next record.  Who sets it begins with
        small records, that grow: what came of a record that is not whole is worth
        nothing, so that over connections that are cut again and again nothing would
        arrive of a stream in large ones.
    @ivar resting: whether C{rest} was called last, and not what needs the ciphers.  Who
        sets it to False is to call C{rest} again.
    @ivar state: where we are.
    @ivar suite: the Noise protocol name in use, C{""} before it is known.
    @ivar peer: the peer's static public key, 32 bytes; C{b""} before it has
        proved one.
    @ivar handshakeHash: the handshake's hash, for channel binding; C{b""}
        before the handshake is done.
    """

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_large",
        "_noise",
        "_opened",
        "_output",
        "_queue",
        "_received",
        "_sealed",
        "_settings",
        "atOnce",
        "handshakeHash",
        "more",
        "peer",
        "queued",
        "recordSize",
        "resting",
        "state",
        "suite",
    )
    __deletable__ = ["_decrypt", "_encrypt", "_noise"]

    speaksFirst: ClassVar[bool] = False

    _noise: HandshakeState
    _decrypt: CipherState
    _encrypt: CipherState

    def __init__(self, settings: ChannelSettings) -> None:
        self._settings = settings
        self.state = State.OFFER
        self.suite = ""
        self.peer = b""
        self.handshakeHash = b""
        self._output: list[bytes] = []  # bytes for the transport
        self._queue: list[bytes] = []  # the stream, not yet sealed; C{b""} ends it
        self._large = False  # a piece of it has more than half a record
        self.queued = 0
        self.resting = False
        # The beginning of a frame, and of a record once it is open; more if C{more}.
        self._received = bytearray()
        self.atOnce = sys.maxsize
        self.more = False
        self.recordSize = MAX_PLAINTEXT
        self._sealed = 0  # records since the last rekey, outgoing
        self._opened = 0  # the same, incoming

    @property
    def ownKey(self) -> bytes:
        """Our own static public key, 32 bytes."""
        return self._settings.publicKey

    # What the shell calls

    def receive(self, data: bytes) -> list[Event]:
        """
        Take bytes from the transport.

        @param data: any length; any chunking gives the same events.
        @return: what they caused, in order; L{Failed} can only be the last.
        """
        events: list[Event] = []
        try:
            # A dialogue brings one whole record in each read: it needs no view of the
            # data, nor a search for where its records begin.
            if (
                self.state is _OPEN
                and not self._received
                and len(data) >= LENGTH_BYTES + TAGLEN
                and data[0] << 8 | data[1] == len(data) - LENGTH_BYTES
            ):
                self._open(data[LENGTH_BYTES:], events)
            elif self.state in _OPENED:
                if self.more:
                    data, self._received = bytes(self._received) + data, bytearray()
                    self.more = False
                if data:
                    self._receiveRecords(memoryview(data), events)
            else:
                view = memoryview(data)
                while view and self.state in _HANDSHAKING:
                    used = self._receiveHandshake(view, events)
                    view = view[used:]
                if self.state is State.DECISION:
                    self._keepEarly(view)
        except AESMError as error:
            self._fail(error, events)
        return events

    def transportEnded(self) -> list[Event]:
        """
        The transport is closed: nothing more will come.

        @return: L{Failed}, unless the peer had ended its direction.
        """
        if self.state in _HANDSHAKING or self.state is State.DECISION:
            unfinished = self._unfinished()
            self._end()
            return [Failed(unfinished)]
        if self.state in _RECEIVING:
            self._end()
            return [
                Failed(
                    Truncated(
                        "the connection was cut off without an authenticated end of "
                        "stream"
                    )
                )
            ]
        return []

    def takeRecords(self) -> list[bytes]:
        """
        Seal what waits, in as few records as possible, and hand over all that
        is to be written.

        @return: bytes for the transport, in pieces of at most 65,537; often none.
        @raise NonceExhausted: 2^64-1 records were sealed.
        @see: docs/protocol.md, section 4
        """
        queue: Sequence[bytes | memoryview] = self._queue
        if queue:
            cipher, output = self._encrypt, self._output
            # Most often one piece waits: it is a record as it is.
            if self.recordSize < MAX_PLAINTEXT:
                queue, self.recordSize = growingPlaintexts(self._queue, self.recordSize)
            elif len(queue) > 1 or len(queue[0]) > MAX_PLAINTEXT:
                queue = plaintextsOf(self._queue, self._large)
            self._queue, self.queued, self._large = [], 0, False
            for plaintext in queue:
                ciphertext = cipher.encryptWithAd(b"", plaintext)
                size = len(ciphertext).to_bytes(LENGTH_BYTES, "big")
                if len(ciphertext) > HALF:  # which would be much to copy
                    output.append(size)
                    output.append(ciphertext)
                else:
                    output.append(size + ciphertext)
                self._sealed += 1
                # Long before AES-GCM's limits on one key, and so that a key that is
                # stolen opens little of the past.
                if self._sealed == REKEY_INTERVAL:
                    cipher.rekey()
                    self._sealed = 0
        output, self._output = self._output, []
        return output

    @property
    def passed(self) -> int:
        """How many records have passed in both directions, of late."""
        return self._sealed + self._opened

    def rest(self) -> None:
        """Let go of what can be made again, until there are records again."""
        if self.state in _OPENED:
            self.resting = True
            self._encrypt.rest()
            self._decrypt.rest()

    def takeOutput(self) -> bytes:
        """
        The same as C{takeRecords}, in one piece.

        @return: bytes for the transport, often C{b""}.
        @raise NonceExhausted: 2^64-1 records were sealed.
        """
        return b"".join(self.takeRecords())

    def send(self, data: bytes) -> None:
        """
        Queue bytes of the stream; C{takeOutput} seals them.

        @param data: any length.
        @raise RuntimeError: the channel is not open for sending.
        """
        if self.state not in _SENDING:
            raise RuntimeError(f"cannot send: the channel is {self.state.value}")
        if data:
            size = len(data)
            self._queue.append(data)
            self.queued += size
            if size > HALF:
                self._large = True

    def endOfStream(self) -> None:
        """
        End our direction, after what is queued.

        @raise RuntimeError: the channel is not open for sending.
        @see: docs/protocol.md, section 5
        """
        if self.state not in _SENDING:
            raise RuntimeError(f"cannot end: the channel is {self.state.value}")
        self._queue.append(b"")
        self._move("selfEnded")

    def accept(self, payload: bytes = b"") -> list[Event]:
        """
        Let the peer in, after L{PeerIdentified}.

        @param payload: message 3's payload at the client, at most 2,048 bytes.
        @return: L{Opened}, and what the bytes that came meanwhile caused; nothing
            if the channel has failed meanwhile.
        @raise RuntimeError: there is nothing to decide.
        @raise ValueError: there may be no such payload.
        """
        if not self._deciding():
            return []
        self._finish(payload)
        self._move("accepted")
        events: list[Event] = [Opened()]
        received, self._received = self._received, bytearray()
        if received:
            events += self.receive(bytes(received))
        return events

    def reject(self, farewell: bytes = b"") -> None:
        """
        Turn the peer away, after L{PeerIdentified}.  A server finishes the
        channel, says farewell through it and ends it; a client just stops,
        so that it reveals nothing.  Nothing more is taken from the peer.

        @param farewell: at most 65,519 bytes of the stream; a client's must be
            C{b""}.
        @raise RuntimeError: there is nothing to decide.
        @raise ValueError: there may be no such farewell.
        @see: docs/protocol.md, section 3
        """
        if self._deciding():
            self._dismiss(farewell)
            self._move("rejected")
            self._drop()

    # The roles' parts

    def _receiveHandshake(self, data: memoryview, events: list[Event]) -> int:
        """Take bytes before the channel is open; return how many were used."""
        raise NotImplementedError

    def _finish(self, payload: bytes) -> None:
        """Do what is left of the handshake once the peer is accepted."""
        raise NotImplementedError

    def _dismiss(self, farewell: bytes) -> None:
        """Do what is left once the peer is rejected."""
        raise NotImplementedError

    def _unfinished(self) -> HandshakeError:
        """Say what it means that the transport ended in the handshake."""
        raise NotImplementedError

    # Shared parts

    def _deciding(self) -> bool:
        """Insist on having something to decide; tell whether it still matters."""
        if self.state not in (State.DECISION, State.FAILED):
            raise RuntimeError(f"nothing to decide: the channel is {self.state.value}")
        return self.state is State.DECISION

    def _move(self, what: str) -> None:
        """Go where the table says."""
        self.state = CHANNEL_TRANSITIONS[self.state, what]

    def _fail(self, error: AESMError, events: list[Event]) -> None:
        """End for good, and add L{Failed} to the events."""
        answer = self._output if isinstance(error, OfferRefused) else []
        self._end()
        self._output = answer
        # Where it was raised, keys and buffers are still in reach.
        error.__traceback__ = error.__context__ = None
        events.append(Failed(error))

    def _end(self) -> None:
        """End for good."""
        self.state = State.FAILED
        self._output = []
        self._drop()

    def _drop(self) -> None:
        """Let go of keys and buffers."""
        # Which of them are there depends on how far we came.
        for name in _SECRETS:
            if hasattr(self, name):
                delattr(self, name)
        self._received = bytearray()
        self.more = False
        self._queue = []

    def _keepEarly(self, data: memoryview) -> None:
        """Keep what comes before the decision on the peer, to a bound."""
        if len(self._received) + len(data) > MAX_EARLY:
            raise ProtocolError(f"more than {MAX_EARLY} bytes before being let in")
        self._received += data

    def _receiveRecords(self, data: memoryview, events: list[Event]) -> None:
        """Take bytes once the channel is open (docs/protocol.md, sections 4 and 5)."""
        # What is kept between two reads is the beginning of one record, no more: all
        # the others are opened where they are, so that no byte is copied twice.
        for part in self._completed(data) if self._received else (data,):
            position, available = 0, len(part)
            while available - position >= LENGTH_BYTES and self.state in _RECEIVING:
                start = position + LENGTH_BYTES
                size = part[position] << 8 | part[position + 1]
                if size < TAGLEN:
                    raise TamperedRecord(
                        f"a record of {size} bytes: shorter than its tag of {TAGLEN}"
                    )
                if start + size > available:
                    break
                if len(events) >= self.atOnce:
                    self.more = True
                    break
                position = start + size
                self._open(part[start:position], events)
            if position < available:
                if self.state not in _RECEIVING:
                    raise ProtocolError("bytes after the authenticated end of stream")
                self._received += part[position:]

    def _open(self, ciphertext: bytes | memoryview, events: list[Event]) -> None:
        """Open a record, and add what it caused to the events."""
        cipher = self._decrypt
        plaintext = cipher.decryptWithAd(b"", ciphertext)
        self._opened += 1
        if self._opened == REKEY_INTERVAL:
            cipher.rekey()
            self._opened = 0
        if plaintext:
            events.append(plaintext)
        else:
            self._move("peerEnded")
            events.append(EndOfStream())

    def _completed(self, data: memoryview) -> tuple[memoryview, ...]:
        """Put a record together that began before: it, and what is behind it."""
        received = self._received
        if len(received) < LENGTH_BYTES:
            received += data[:1]
            data = data[1:]
        size = received[0] << 8 | received[1]
        missing = LENGTH_BYTES + size - len(received)
        received += data[:missing]
        if size >= TAGLEN and len(data) < missing:
            return ()  # a size that cannot be is refused without waiting for the rest
        self._received = bytearray()
        return memoryview(received), data[missing:]
