"""
One connection to the peer under test, once the channel is open: what it says is held to
the rules that hold at all times, whatever a check is about.

  - ACKs count up, and nothing that was not sent; their limits never shrink.
  - Messages are within the limit that we gave, BATCHes only come if we take them, a
    RESPONSE is for a request that is open, texts are UTF-8.
  - PINGs are answered, since who does not is given up.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from typing import Any

from aesm.conformance.wire import PROMPT, Channel, Ended, Frame, Kind, Silent, Unmet

OVERHEAD = 64  # bytes, docs/protocol.md, section 7
WINDOW = 16 << 20  # bytes, docs/protocol.md, section 8
MAX_BATCH = 65506  # bytes that the messages of one count
CALL_BIT, BINARY_BIT = 1 << 30, 1 << 31  # in the lengths of a BATCH

BITS = {
    Kind.TEXT: 0,
    Kind.BINARY: BINARY_BIT,
    Kind.REQUEST: CALL_BIT,
    Kind.RESPONSE: BINARY_BIT | CALL_BIT,
}
KINDS = {bits: kind for kind, bits in BITS.items()}

Message = tuple[int, bytes]  # type and body


def cost(body: bytes) -> int:
    """Tell what a message counts (docs/protocol.md, section 7)."""
    return len(body) + OVERHEAD


def batch(messages: Iterable[Message]) -> bytes:
    """Make the body of a BATCH."""
    messages = list(messages)
    lengths = [len(body) | BITS[Kind(kind)] for kind, body in messages]
    table = struct.pack(f">{1 + len(lengths)}I", len(lengths), *lengths)
    return table + b"".join(body for _, body in messages)


def acknowledges(frame: Frame) -> bool:
    """Tell whether a frame acknowledges a message."""
    return frame.kind == Kind.ACK and any(frame.body[:8])


def close(code: int, reason: bytes = b"") -> bytes:
    """Make the body of a CLOSE."""
    return struct.pack(">H", code) + reason


def request(kind: int, data: bytes) -> bytes:
    """Make the body of a REQUEST."""
    return bytes([kind]) + data


def response(number: int, status: int, data: bytes = b"") -> bytes:
    """Make the body of a RESPONSE."""
    return struct.pack(">QB", number, status) + data


class Peer:
    """
    The peer under test.

    @ivar said: its hello or WELCOME.
    @ivar log: the messages that we have sent in the session.
    @ivar sent: how many these are.
    @ivar sentCost: what they count.
    @ivar acknowledged: of these, those that it has acknowledged.
    @ivar peerLimit: what it lets us send.
    @ivar got: messages of its that came in the session.
    @ivar gotCost: what they count.
    @ivar limit: what we let it send.
    @ivar acking: whether we acknowledge what comes.
    @ivar messages: those that came, and nobody has asked for.
    @ivar open: numbers of our requests that are not answered.
    @ivar partial: what we hold of its next message, and say so.
    @ivar pongs: bodies of the PONGs that came.
    """

    def __init__(
        self, channel: Channel, said: dict[str, Any], hello: dict[str, Any]
    ) -> None:
        """@param hello: what we have said."""
        self.channel = channel
        self.wire = channel.wire
        self.log: list[Message] = []
        self.said, self.hello = said, hello
        self.sent = self.sentCost = self.acknowledged = 0
        self.got = self.gotCost = 0
        self.limit: int = hello.get("window", WINDOW)
        self.peerLimit: int = said.get("window", WINDOW)
        self.acking = True
        self.messages: deque[Message] = deque()
        self.open: set[int] = set()
        self.partial: Message | None = None
        self.pongs: list[bytes] = []
        self.pinged = 0
        self._barriers = 0
        self._closed = False

    @property
    def maxMessage(self) -> int:
        """The largest message that it takes, bytes."""
        return int(self.said.get("maxMessage", 1 << 20))

    @property
    def heartbeat(self) -> float:
        """After how many seconds it sends a PING."""
        return float(self.said.get("heartbeat", 30))

    def resumeFrom(self, former: Peer, received: int) -> None:
        """Go on with a former connection's counters, of which it has C{received}."""
        self.got, self.gotCost, self.limit = former.got, former.gotCost, former.limit
        self.acknowledged, self.open = former.acknowledged, former.open
        self.log = former.log[:received]
        self.sent, self.sentCost = received, sum(cost(body) for _, body in self.log)
        self.peerLimit = former.peerLimit

    # Sending

    def send(self, kind: int, body: bytes = b"") -> int:
        """Send a frame, in a record; return how many messages were before it."""
        number = self.sent
        self.channel.write(self.channel.encode(kind, body))
        self.count(kind, body)
        return number

    def sendAll(self, messages: Iterable[Message]) -> None:
        """Send frames, in as few records as possible."""
        messages = list(messages)
        encode = self.channel.encode
        self.channel.write(b"".join(encode(kind, body) for kind, body in messages))
        for kind, body in messages:
            self.count(kind, body)

    def count(self, kind: int, body: bytes) -> None:
        """Count a frame that is sent."""
        if kind == Kind.BATCH:
            (count,) = struct.unpack_from(">I", body)
            start = 4 + 4 * count
            for length in struct.unpack_from(f">{count}I", body, 4):
                end = start + (length & (CALL_BIT - 1))
                self.count(KINDS[length & (CALL_BIT | BINARY_BIT)], body[start:end])
                start = end
        elif kind in BITS:
            if kind == Kind.REQUEST:
                self.open.add(self.sent)
            self.sent += 1
            self.sentCost += cost(body)
            self.log.append((kind, body))

    def text(self, words: str) -> int:
        """Send a text."""
        return self.send(Kind.TEXT, words.encode())

    def acknowledge(self, count: int | None = None, limit: int | None = None) -> None:
        """Send an ACK, of all that came, with a large window, unless told otherwise."""
        if limit is None:
            limit = self.limit = max(self.limit, self.gotCost + WINDOW)
        said = self.got if count is None else count
        self.send(Kind.ACK, struct.pack(">QQ", said, limit))

    # Receiving

    async def next(self, seconds: float = PROMPT) -> Frame:
        """
        Take the next frame, and do with it what has to be done with any.

        @raise Ended: there is none: its stream has ended.
        @raise Unmet: it is against the rules.
        """
        frame = await self.channel.frame(seconds)
        if frame is None:
            raise Ended("it ended its stream")
        kind, _, body = frame
        if self._closed:
            raise Unmet(f"{frame} behind its CLOSE")
        if kind == Kind.ACK:
            self._takeAck(body)
        elif kind == Kind.PING:
            self.pinged += 1
            self.send(Kind.PONG, body)
        elif kind == Kind.PONG:
            self.pongs.append(body)
        elif kind == Kind.CLOSE:
            self._closed = True
            if not 2 <= len(body) <= 1026:
                raise Unmet(f"a CLOSE of {len(body)} bytes")
        elif kind == Kind.REST and self.partial is not None:
            self._take(self.partial[0], self.partial[1] + body)
        elif kind == Kind.BATCH:
            self._takeBatch(body)
        elif kind in BITS:
            self._take(kind, body)
        else:
            raise Unmet(f"{frame} out of place")
        return frame

    def _takeAck(self, body: bytes) -> None:
        """Check an ACK."""
        if len(body) != 16:
            raise Unmet(f"an ACK of {len(body)} bytes")
        count, limit = struct.unpack(">QQ", body)
        if not self.acknowledged <= count <= self.sent:
            raise Unmet(
                f"an ACK of {count} messages after one of {self.acknowledged}, with "
                f"{self.sent} sent"
            )
        if limit < self.peerLimit:
            raise Unmet(f"a limit of {limit} after one of {self.peerLimit}")
        self.acknowledged, self.peerLimit = count, limit

    def _takeBatch(self, body: bytes) -> None:
        """Check a BATCH, and take what is in it."""
        if not self.hello.get("batch"):
            raise Unmet("a BATCH, which we do not take")
        (count,) = struct.unpack_from(">I", body) if len(body) >= 8 else (0,)
        if not count or len(body) < 4 + 4 * count:
            raise Unmet(f"a BATCH of {count} messages in {len(body)} bytes")
        lengths = struct.unpack_from(f">{count}I", body, 4)
        sizes = [length & (CALL_BIT - 1) for length in lengths]
        start = 4 + 4 * count
        counted = sum(sizes) + OVERHEAD * count
        if start + sum(sizes) != len(body) or counted > MAX_BATCH:
            raise Unmet(f"a BATCH of {counted} bytes that count, in {len(body)}")
        for length, size in zip(lengths, sizes, strict=True):
            kind = KINDS[length & (CALL_BIT | BINARY_BIT)]
            self._take(kind, body[start : start + size])
            start += size

    def _take(self, kind: int, body: bytes) -> None:
        """Check a message, and keep it."""
        if self.gotCost >= self.limit:
            raise Unmet(f"a message past our limit of {self.limit} bytes")
        if kind == Kind.TEXT:
            try:
                body.decode()
            except UnicodeDecodeError:
                raise Unmet("a text of its that is not UTF-8") from None
        elif kind == Kind.RESPONSE:
            self._takeResponse(body)
        self.partial = None
        self.got += 1
        self.gotCost += cost(body)
        self.messages.append((kind, body))
        if self.acking:
            self.acknowledge()

    def _takeResponse(self, body: bytes) -> None:
        """Check a RESPONSE."""
        if len(body) < 9:
            raise Unmet(f"a RESPONSE of {len(body)} bytes")
        number, status = struct.unpack_from(">QB", body)
        if status in (1, 2, 3) and number not in self.open:
            raise Unmet(f"a RESPONSE to request {number}, which is not open")
        if status in (1, 2, 3):
            self.open.discard(number)
        elif status != 4:
            raise Unmet(f"a RESPONSE of status {status}")

    async def message(self, seconds: float = PROMPT) -> Message:
        """Take the next message."""
        while not self.messages:
            frame = await self.next(seconds)
            if frame.kind == Kind.CLOSE:
                raise Unmet(f"it said {frame} instead of a message")
        return self.messages.popleft()

    async def echoed(self, *expected: Message) -> None:
        """Wait for messages to come back."""
        for kind, body in expected:
            message = await self.message()
            if message != (kind, body):
                raise Unmet(
                    f"{shown(message)} came back instead of {shown((kind, body))}"
                )

    async def acknowledgedAll(self) -> None:
        """Wait until all that we sent is acknowledged."""
        while self.acknowledged < self.sent:
            frame = await self.next()
            if frame.kind == Kind.CLOSE:
                raise Unmet(f"it said {frame}, and acknowledged {self.acknowledged}")

    async def barrier(self) -> None:
        """Wait until it has answered a PING, and so has read all before it."""
        self._barriers += 1
        body = b"barrier %d" % self._barriers
        self.send(Kind.PING, body)
        while body not in self.pongs:
            frame = await self.next()
            if frame.kind == Kind.CLOSE:
                raise Unmet(f"it said {frame} instead of a PONG")

    async def nothing(self) -> None:
        """See to it that no message comes."""
        # Twice: what is read with the first may be answered behind its PONG.
        for _ in range(2):
            await self.barrier()
        if self.messages:
            raise Unmet(f"{shown(self.messages[0])} came")

    async def takes(self, *messages: Message) -> None:
        """Send messages, and wait for them to come back."""
        self.sendAll(messages)
        await self.echoed(*messages)

    # The end

    async def says(self, *codes: int) -> Frame:
        """
        Wait for its CLOSE, with one of these codes if any, and the end; return it.
        """
        expected = " or ".join(map(str, codes)) or "any"
        try:
            frame = await self.next()
            while frame.kind != Kind.CLOSE:
                frame = await self.next()
        except (Ended, Silent) as error:
            raise Unmet(f"{error}, with no CLOSE ({expected})") from None
        code = int.from_bytes(frame.body[:2], "big")
        if codes and code not in codes:
            raise Unmet(f"it said CLOSE {code}, not {expected}")
        if (after := await self.channel.frame()) is not None:
            raise Unmet(f"{after} behind its CLOSE")
        self.channel.end()
        await self.part()
        return frame

    async def part(self) -> None:
        """Wait for the end of the transport; of who leaves that to us it is cut."""
        try:
            await self.wire.closed()
        except Silent:
            self.wire.cut()

    async def goes(self) -> None:
        """Wait until it ends the connection at once, as after a forged record."""
        try:
            await self.wire.closed()
        except Silent:
            raise
        except Unmet:
            raise Unmet("it said something more before it closed") from None

    async def leave(self, code: int = 1000, reason: bytes = b"") -> Frame:
        """Close in order, and see that it does so, too."""
        self.send(Kind.CLOSE, close(code, reason))
        self.channel.end()
        frame = await self.next()
        while frame.kind != Kind.CLOSE:
            frame = await self.next()
        if (after := await self.channel.frame()) is not None:
            raise Unmet(f"{after} behind its CLOSE")
        await self.part()
        return frame


def shown(message: Message) -> str:
    """Describe a message in few words."""
    kind, body = message
    return f"{Kind(kind).name} {body[:30]!r} ({len(body)} bytes)"
