"""
The wire of one connection, from the bytes up to the frames, with nothing that keeps to
the rules: whatever is to be sent can be sent.

It is written from docs/protocol.md, and has of aesm no more than the Noise handshake
and its ciphers, so that a misreading of the text is not repeated here::

    wire = await connectProtocol(endpoint, Wire(clock, patience=1.0))
    dial = Dial(wire, suite, key, "aesm", None)
    wire.write(dial.offer + dial.one)
    await dial.second()
    wire.write(dial.third(b"{}"))
    channel = dial.channel()
"""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from enum import IntEnum
from typing import Any, NamedTuple, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from aesm.errors import AESMError
from aesm.noise import CipherState, HandshakeState, KeyPair

PROMPT = 5.0  # seconds for what a peer does at once, before patience
MAX_PLAINTEXT = 65519  # docs/protocol.md, section 4
REKEY = 65536  # records, docs/protocol.md, section 4
HEADER = struct.Struct(">IBQ")  # length, type, time


class Kind(IntEnum):
    """The types of frames, docs/protocol.md, section 6."""

    TEXT = 1
    BINARY = 2
    WELCOME = 3
    BATCH = 4
    REST = 5
    REQUEST = 6
    RESPONSE = 7
    CLOSE = 8
    PING = 9
    PONG = 10
    ACK = 11


class Frame(NamedTuple):
    """One frame: its type, known or not, its time and its body."""

    kind: int
    micros: int
    body: bytes

    def __str__(self) -> str:
        """Say in a few words what it is."""
        name = Kind(self.kind).name if self.kind in list(Kind) else f"type {self.kind}"
        if self.kind == Kind.CLOSE and len(self.body) >= 2:
            return f"CLOSE {int.from_bytes(self.body[:2], 'big')}"
        return f"{name} of {len(self.body)} bytes"


class Unmet(Exception):
    """The peer does otherwise than it must; the text says what was seen."""


class Silent(Unmet):
    """Nothing came in time."""


class Ended(Unmet):
    """The peer closed the transport."""


def frame(body: bytes) -> bytes:
    """Put its length before a body (docs/protocol.md, section 1)."""
    return struct.pack(">H", len(body)) + body


class Wire(Protocol):
    """The bytes of one connection: those not read, and whether it has ended."""

    def __init__(self, clock: IReactorTime, patience: float) -> None:
        """@param patience: what times are multiplied by."""
        self.clock = clock
        self.patience = patience
        self.received = bytearray()
        self.ended = False
        self._waiting: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.received += data
        self._wake()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """There will be no more."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        """Let who waits look again."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self.transport is not None and not self.ended:
            self.transport.write(data)

    def shut(self) -> None:
        """End our direction of the transport, with no word before."""
        if self.transport is not None and not self.ended:
            ITCPTransport(self.transport).loseWriteConnection()

    def cut(self) -> None:
        """Close the transport, with no word before."""
        if self.transport is not None and not self.ended:
            ITCPTransport(self.transport).abortConnection()

    async def more(self, until: float) -> bool:
        """Wait until anything comes, or the transport ends; False at that time."""
        left = until - self.clock.seconds()
        if left <= 0:
            return False
        waiting = self._waiting = Deferred()
        timer = self.clock.callLater(left, self._wake)
        try:
            await waiting
        finally:
            self._waiting = None
            if timer.active():
                timer.cancel()
        return True

    async def until(self, size: int, seconds: float = PROMPT) -> None:
        """Wait until so many bytes are there, for so long."""
        seconds *= self.patience
        until = self.clock.seconds() + seconds
        while len(self.received) < size:
            if self.ended:
                raise Ended("it closed the connection")
            if not await self.more(until) and len(self.received) < size:
                raise Silent(f"nothing came for {seconds:g} s")

    async def read(self, size: int, seconds: float = PROMPT) -> bytes:
        """Read bytes, as C{until} waits for them."""
        await self.until(size, seconds)
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    async def readFramed(self, seconds: float = PROMPT) -> bytes:
        """Read what has its length of two bytes before it."""
        (size,) = struct.unpack(">H", await self.read(2, seconds))
        return await self.read(size)

    async def closed(self, seconds: float = PROMPT) -> None:
        """Wait until the peer closes the transport, without a byte more."""
        seconds *= self.patience
        until = self.clock.seconds() + seconds
        while not self.ended:
            if self.received:
                break
            if not await self.more(until):
                raise Silent(f"it did not close the connection in {seconds:g} s")
        if self.received:
            raise Unmet(f"it sent {len(self.received)} bytes more")


class ZeroKey(KeyPair):
    """The pair of a key that anybody could use, if secrets of zeroes were taken."""

    __slots__ = ()

    def __init__(self) -> None:
        self.public = bytes(32)
        self.private = cast(Any, self)

    def exchange(self, public: object) -> bytes:
        """Give what a peer computes that does not look."""
        return bytes(32)


class Dial:
    """
    The handshake at a connection, step by step, as the client does it.

    @ivar offer: the frame of the offer.
    @ivar one: that of message 1.
    @ivar noise: the state of the handshake.
    """

    def __init__(
        self,
        wire: Wire,
        suite: str,
        key: KeyPair,
        name: str,
        psk: bytes | None,
        agreed: bytes | None = None,
    ) -> None:
        """@param agreed: the offer in our prologue, if it is not the one sent."""
        self.wire = wire
        offer = b"AESM/1 " + suite.encode()
        self.offer = frame(offer)
        self.noise = HandshakeState(
            suite,
            initiator=True,
            prologue=frame(offer if agreed is None else agreed) + frame(name.encode()),
            s=key,
            psks=() if psk is None else (psk,),
        )
        self.one = frame(self.noise.writeMessage())

    async def second(self) -> None:
        """Read message 2."""
        expected = self.noise.messageLength()
        (size,) = struct.unpack(">H", await self.wire.read(2))
        if not size:
            reason = await self.wire.readFramed()
            raise Unmet(f"it refused the offer: {reason[:255]!r}")
        if size != expected:
            raise Unmet(f"message 2 has {size} bytes, not {expected}")
        try:
            payload = self.noise.readMessage(await self.wire.read(size))
        except AESMError:
            raise Unmet("message 2 does not authenticate") from None
        if payload:
            raise Unmet(f"message 2 has a payload of {len(payload)} bytes")

    def third(self, payload: bytes) -> bytes:
        """Make the frame of message 3."""
        return frame(self.noise.writeMessage(payload))

    def channel(self) -> Channel:
        """Go on with records."""
        ours, theirs = self.noise.split()
        return Channel(self.wire, ours, theirs)


class Answer:
    """The handshake at a connection, step by step, as the server does it."""

    noise: HandshakeState

    def __init__(self, wire: Wire, key: KeyPair, name: str, psk: bytes | None) -> None:
        self.wire = wire
        self.suite = ""
        self.ephemeral: KeyPair | None = None
        self._key, self._name, self._psk = key, name, psk

    async def offer(self) -> str:
        """Read the offer."""
        offer = await self.wire.readFramed()
        if not 0 < len(offer) < 256 or not offer.isascii():
            raise Unmet(f"its offer is {offer[:80]!r}")
        begin, _, self.suite = offer.decode().rpartition(" ")
        if begin != "AESM/1":
            raise Unmet(f"its offer is {offer!r}")
        try:
            self.noise = HandshakeState(
                self.suite,
                initiator=False,
                prologue=frame(offer) + frame(self._name.encode()),
                s=self._key,
                e=self.ephemeral,
                psks=() if self._psk is None else (self._psk,),
            )
        except ValueError as error:
            raise Unmet(f"it offers {self.suite!r}: {error}") from None
        return offer.decode()

    async def first(self) -> None:
        """Read message 1."""
        expected = self.noise.messageLength()
        message = await self.wire.readFramed()
        if len(message) != expected:
            raise Unmet(f"message 1 has {len(message)} bytes, not {expected}")
        try:
            self.noise.readMessage(message)
        except AESMError:
            raise Unmet("message 1 does not authenticate") from None

    def two(self) -> bytes:
        """Make the frame of message 2."""
        return frame(self.noise.writeMessage())

    async def third(self) -> bytes:
        """Read message 3, and return its payload."""
        message = await self.wire.readFramed()
        try:
            return self.noise.readMessage(message)
        except AESMError:
            raise Unmet("message 3 does not authenticate") from None

    def channel(self) -> Channel:
        """Go on with records."""
        theirs, ours = self.noise.split()
        return Channel(self.wire, ours, theirs)


class Channel:
    """Records and the frames in them."""

    def __init__(self, wire: Wire, ours: CipherState, theirs: CipherState) -> None:
        self.wire = wire
        self._ours, self._theirs = ours, theirs
        self._sealed = self._opened = 0
        self.stream = bytearray()

    def seal(self, plaintext: bytes) -> bytes:
        """Make the next record, for L{Wire.write}."""
        record = frame(self._ours.encryptWithAd(b"", plaintext))
        self._sealed += 1
        if self._sealed % REKEY == 0:
            self.rekey()
        return record

    def write(self, stream: bytes) -> None:
        """Send bytes of the stream, in as few records as possible."""
        self.wire.write(
            b"".join(
                self.seal(stream[start : start + MAX_PLAINTEXT])
                for start in range(0, len(stream), MAX_PLAINTEXT)
            )
        )

    def rekey(self) -> None:
        """Change the key of what we send, in turn or out of it."""
        self._ours.rekey()

    def end(self) -> None:
        """End our direction (docs/protocol.md, section 5)."""
        self.wire.write(self.seal(b""))

    async def record(self, seconds: float = PROMPT) -> bytes:
        """Read one record."""
        try:
            plaintext = self._theirs.decryptWithAd(
                b"", await self.wire.readFramed(seconds)
            )
        except AESMError:
            raise Unmet("a record of its does not authenticate") from None
        self._opened += 1
        if self._opened % REKEY == 0:
            self._theirs.rekey()
        return plaintext

    def encode(self, kind: int, body: bytes = b"", size: int | None = None) -> bytes:
        """Make one frame; C{size} is what its header says, if not the truth."""
        said = len(body) if size is None else size
        return HEADER.pack(said, kind, int(time.time() * 1e6)) + body

    async def frame(self, seconds: float = PROMPT) -> Frame | None:
        """Read one frame; None for the end of the stream."""
        if not await self._fill(HEADER.size, seconds):
            return None
        size, kind, micros = HEADER.unpack_from(self.stream)
        if not await self._fill(HEADER.size + size, PROMPT):
            raise Unmet("its stream ended within a frame")
        body = bytes(self.stream[HEADER.size : HEADER.size + size])
        del self.stream[: HEADER.size + size]
        return Frame(kind, micros, body)

    async def rest(self) -> list[Frame]:
        """Read frames up to the end of the stream, or of the transport."""
        frames: list[Frame] = []
        with suppress(Ended):
            while (frame := await self.frame()) is not None:
                frames.append(frame)
        if self.wire.ended:
            self.wire.received.clear()  # a record that was cut off
        return frames

    async def skip(self, size: int) -> None:
        """Read bytes of the stream, and drop them."""
        if size and not await self._fill(size, PROMPT):
            raise Ended("it ended its stream")
        del self.stream[:size]

    async def _fill(self, size: int, seconds: float) -> bool:
        """Read records until so much of the stream is there, or it ends."""
        while len(self.stream) < size:
            record = await self.record(seconds)
            if not record:
                if self.stream:
                    raise Unmet("its stream ended within a frame")
                return False
            self.stream += record
        return True
