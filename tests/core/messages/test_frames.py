"""
Tests of L{aesm.core.messages.frames}: the frames of PROTOCOL section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import pack
from sys import getsizeof

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.channel.framing import MAX_PLAINTEXT
from aesm.core.messages.framereader import FrameReader, evenly
from aesm.core.messages.frames import (
    BINARY_BIT,
    LARGE_TEXT,
    MAX_BATCH,
    MAX_CONTROL,
    MAX_OBJECT,
    MAX_REASON,
    TEXT,
    Ack,
    Close,
    EncodedBodies,
    EncodedText,
    Frame,
    FrameType,
    Messages,
    Partial,
    Ping,
    Pong,
    Welcome,
    decoded,
    encodeAck,
    encodeBatch,
    encodeClose,
    encodeFrame,
    textOf,
)
from aesm.errors import InvalidText, MessageTooBig, ProtocolError
from tests.support.helpers import chunkSizes, pieces

MICROS = 1_234_567_890_123_456
MAX_MESSAGE = 1000

# What is not UTF-8: half a character, a lone continuation, an overlong form, a
# surrogate, and beyond the last character.
INVALID = (b"\xc3", b"\xa9", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")


def header(size: int, kind: int) -> bytes:
    """
    Write a frame's first 13 bytes.

    @param size: bytes of the body.
    @param kind: the type.
    @see: PROTOCOL section 6
    """
    return pack(">IBQ", size, kind, MICROS)


def framed(kind: int, body: bytes) -> bytes:
    """
    Write a frame.

    @param kind: the type.
    @param body: the body.
    """
    return header(len(body), kind) + body


def batch(lengths: list[int], bodies: bytes, count: int | None = None) -> bytes:
    """
    Write a BATCH.

    @param lengths: as on the wire.
    @param bodies: the messages' bytes.
    @param count: as on the wire, if not as many as there are lengths.
    """
    number = len(lengths) if count is None else count
    return framed(4, pack(f">{1 + len(lengths)}I", number, *lengths) + bodies)


def wire(data: Sequence[str | bytes]) -> tuple[list[bytes], list[int]]:
    """
    Prepare messages for a BATCH.

    @param data: the messages.
    @return: their bodies, and their lengths as on the wire.
    """
    bodies = [d if isinstance(d, bytes) else d.encode() for d in data]
    flags = [BINARY_BIT if isinstance(d, bytes) else 0 for d in data]
    return bodies, [len(b) | flag for b, flag in zip(bodies, flags, strict=True)]


def read(chunks: Iterable[bytes]) -> tuple[list[Frame], tuple[type, str] | None]:
    """
    Read a stream.

    @param chunks: the stream.
    @return: the frames before its end or the first error; and that error.
    """
    reader = FrameReader(MAX_MESSAGE)
    frames = [frame for chunk in chunks for frame in reader.receive(chunk)]
    error = reader.error
    return frames, None if error is None else (type(error), str(error))


def message(data: str | bytes) -> Messages:
    """
    Describe a message that comes alone.

    @param data: its body.
    """
    size = len(data.encode() if isinstance(data, str) else data)
    return Messages(MICROS, (data,), size + 64, size + 64)


class _ReadingCase(SynchronousTestCase):
    """Ways to check what a L{FrameReader} makes of bytes."""

    def reads(self, data: bytes, *frames: Frame) -> None:
        """
        Check that bytes are frames: whole, byte by byte, and with more behind them.

        @param data: the bytes.
        @param frames: what they are.
        """
        expected = (list(frames), None)
        self.assertEqual(read([data]), expected)
        self.assertEqual(read(pieces(data)), expected)
        more = framed(2, b"more")
        for extra, others in ((more, [message(b"more")]), (more[:-1], []), (b".", [])):
            self.assertEqual(read([data + extra]), ([*frames, *others], None))

    def refuses(self, data: bytes, kind: type[ProtocolError], text: str) -> None:
        """
        Check that bytes are refused: whole, byte by byte, with more behind them, and
        not before the last of them.

        @param data: the bytes.
        @param kind: the error.
        @param text: what it says, a part of it.
        """
        self.assertEqual(read([data[:-1]]), ([], None))
        for chunks in ([data], pieces(data), [data + bytes(99)]):
            frames, error = read(chunks)
            self.assertEqual(frames, [])
            assert error is not None
            self.assertIs(error[0], kind)
            self.assertIn(text, error[1])


class ReadingTests(_ReadingCase):
    """L{FrameReader}."""

    def test_nothing(self) -> None:
        """No bytes are no frames."""
        reader = FrameReader(MAX_MESSAGE)
        self.assertEqual(list(reader.receive(b"")), [])
        self.assertTrue(reader.empty)

    def test_text(self) -> None:
        """TEXT is UTF-8, and counts its bytes."""
        for text in ("", "text", "\xe9\u20ac\U0001f600", "\x00", "\ufeffBOM"):
            self.reads(framed(1, text.encode()), message(text))

    def test_invalidText(self) -> None:
        """What is not UTF-8 is refused."""
        for body in INVALID:
            self.refuses(framed(1, b"text" + body), InvalidText, "not UTF-8")

    def test_binary(self) -> None:
        """BINARY is bytes."""
        for data in (b"", b"\xff\x00", bytes(range(256))):
            self.reads(framed(2, data), message(data))

    def test_maxMessage(self) -> None:
        """
        A message may be as large as we take; one byte more is refused by the
        header.
        """
        for kind in (1, 2):
            for size in (MAX_MESSAGE - 1, MAX_MESSAGE):
                self.assertIsNone(read([framed(kind, bytes(size))])[1])
            for size in (MAX_MESSAGE + 1, 2**32 - 1):
                self.refuses(header(size, kind), MessageTooBig, f"of {size} bytes")

    def test_types(self) -> None:
        """There are no other types, which the header tells."""
        for kind in set(range(256)) - set(FrameType):
            self.refuses(header(0, kind), ProtocolError, f"unknown frame type {kind}")

    def test_bounds(self) -> None:
        """Each type has its bounds, and a header beyond them is refused."""
        for kind, least, most in (
            (FrameType.WELCOME, 2, MAX_OBJECT),
            (FrameType.BATCH, 8, MAX_BATCH),
            (FrameType.CLOSE, 2, 2 + MAX_REASON),
            (FrameType.PING, 0, MAX_CONTROL),
            (FrameType.PONG, 0, MAX_CONTROL),
            (FrameType.ACK, 16, 16),
        ):
            for size in {0, least - 1, least, most, most + 1, 2**32 - 1} - {-1}:
                if least <= size <= most:
                    self.assertEqual(read([header(size, kind)[:-1]]), ([], None))
                    if size:
                        self.assertEqual(read([header(size, kind)]), ([], None))
                else:
                    data = header(size, kind)
                    self.refuses(data, ProtocolError, f"a {kind.name} of {size} bytes")

    def test_welcome(self) -> None:
        """A WELCOME is handed over as it is."""
        self.reads(framed(3, b"{}"), Welcome(b"{}"))
        self.reads(framed(3, b"x" * MAX_OBJECT), Welcome(b"x" * MAX_OBJECT))

    def test_pings(self) -> None:
        """PING and PONG carry up to 64 bytes."""
        for body in (b"", b"\xff", bytes(MAX_CONTROL)):
            self.reads(framed(9, body), Ping(body))
            self.reads(framed(10, body), Pong(body))

    def test_ack(self) -> None:
        """An ACK has two numbers of 64 bits."""
        for count, limit in ((0, 0), (1, 2), (2**64 - 1, 2**64 - 1)):
            self.reads(framed(11, pack(">QQ", count, limit)), Ack(count, limit))

    def test_close(self) -> None:
        """A CLOSE has a code and a reason of up to 1,024 bytes."""
        for code, reason in ((0, ""), (1000, "\xe9"), (65535, "x" * MAX_REASON)):
            data = framed(8, pack(">H", code) + reason.encode())
            self.assertEqual(read([data]), ([Close(code, reason)], None))
            self.assertEqual(read(pieces(data)), ([Close(code, reason)], None))
        for body in INVALID:
            data = framed(8, b"\x03\xe8" + body)
            self.refuses(data, InvalidText, "not UTF-8")

    def test_closeIsLast(self) -> None:
        """What comes behind a CLOSE is left alone, but noticed."""
        close = framed(8, b"\x03\xe8")
        for extra in (b"", b".", framed(2, b"more"), header(0, 99)):
            for chunks in ([close + extra], [close, extra], pieces(close + extra)):
                reader = FrameReader(MAX_MESSAGE)
                frames = [frame for c in chunks for frame in reader.receive(c)]
                self.assertEqual(frames, [Close(1000, "")])
                self.assertEqual(reader.empty, not extra)

    def test_goodBeforeBad(self) -> None:
        """The frames before an error are handed over first."""
        good, bad = framed(2, b"good"), header(0, 0)
        for chunks in ([good + bad], [good, bad], pieces(good + bad)):
            frames, error = read(chunks)
            self.assertEqual(frames, [message(b"good")])
            self.assertIsNotNone(error)

    def test_memory(self) -> None:
        """No more is kept than the frame that is not whole."""
        reader = FrameReader(MAX_MESSAGE)
        data = framed(2, bytes(MAX_MESSAGE)) * 9
        for chunk in pieces(data, (1, 300, 2500)):
            reader.receive(chunk)
            kept = sum(map(len, reader._body)) + len(reader.start)
            self.assertLess(kept, MAX_MESSAGE)
        self.assertTrue(reader.empty)

    def test_smallParts(self) -> None:
        """
        A big message that comes in small parts, or in small and large ones by
        turns, takes hardly more memory than its bytes.
        """
        size = 1 << 16
        data = framed(2, bytes(range(256)) * (size // 256))
        for sizes in ((2,), (3, 1000), (7, 1024), (1500,)):
            reader = FrameReader(size)
            for chunk in pieces(data[:-1], sizes):
                self.assertEqual(reader.receive(chunk), [])
            self.assertLess(sum(map(getsizeof, reader._body)), size * 5 // 4)
            (frame,) = reader.receive(data[-1:])
            assert isinstance(frame, Messages)
            self.assertEqual(frame.data, (data[13:],))

    def test_held(self) -> None:
        """What is there of a body counts until the frame is whole."""
        reader, data = FrameReader(3000), framed(2, bytes(3000))
        for position, held in enumerate([0] * 13 + [*range(3000)]):
            self.assertEqual(reader.held, held)
            reader.receive(data[position : position + 1])
        self.assertEqual(reader.held, 0)
        reader = FrameReader(3000)
        reader.skip(3000)
        reader.receive(bytes(2999))
        self.assertEqual(reader.held, 0)

    def test_muted(self) -> None:
        """
        Once nobody takes anything, nothing large is kept, of what has begun and of what
        comes; what is behind it is read all the same.
        """
        large, close = framed(2, bytes(3000)), framed(8, b"\3\xe8" + b"x" * 1024)
        for begun in (0, 10, 100):
            reader = FrameReader(3000)
            reader.partial = Partial(TEXT, b"x" * 1000)
            reader.receive(large[:begun])
            reader.mute()
            self.assertEqual(reader.partial.body, b"")
            for chunk in pieces(large[begun:] + large + close, (50,)):
                frames = reader.receive(chunk)
                self.assertLess(reader.held, len(close))
            self.assertEqual(frames, [Close(1000, "x" * 1024)])
            self.assertTrue(reader.empty)

    def test_errorIsFinal(self) -> None:
        """After an error nothing is read any more, and nothing kept."""
        reader = FrameReader(MAX_MESSAGE)
        self.assertIsNone(reader.error)
        self.assertEqual(reader.receive(header(0, 0)), [])
        self.assertIsInstance(reader.error, ProtocolError)
        self.assertEqual(reader.receive(framed(2, b"good")), [])
        self.assertTrue(reader.empty)


class BatchTests(_ReadingCase):
    """BATCH."""

    def test_one(self) -> None:
        """A BATCH may hold a single message."""
        self.reads(batch([4], b"text"), Messages(MICROS, ["text"], 68, 68))
        expected = Messages(MICROS, (b"\xff",), 65, 65)
        self.reads(batch([1 | BINARY_BIT], b"\xff"), expected)

    def test_kinds(self) -> None:
        """It holds texts, in ASCII or not, and bytes, in any order."""
        examples: list[list[str | bytes]] = [
            ["one", "", "three"],
            ["x" * 200, "y" * 300],
            ["\xe9", "e", "\u20ac\U0001f600", ""],
            [b"", b"\xff", b"text"],
            ["one", b"two", "\xe9", b"\xc3", ""],
        ]
        for data in examples:
            bodies, lengths = wire(data)
            cost = sum(map(len, bodies)) + 64 * len(bodies)
            expected = Messages(MICROS, data, cost, len(bodies[-1]) + 64)
            self.reads(batch(lengths, b"".join(bodies)), expected)

    def test_evenly(self) -> None:
        """Messages of one size and kind are no exception."""
        for count in (1, 2, 500):
            for text in ("", "a", "ab", "\xe9", "\xe9a"):
                body = text.encode()
                lengths, cost = [len(body)] * count, len(body) + 64
                expected = Messages(MICROS, [text] * count, cost * count, cost)
                self.reads(batch(lengths, body * count), expected)
                lengths = [length | BINARY_BIT for length in lengths]
                expected = Messages(MICROS, (body,) * count, cost * count, cost)
                self.reads(batch(lengths, body * count), expected)
        for flag in (0, BINARY_BIT):
            lengths = [MAX_MESSAGE | flag] * 2
            self.assertIsNone(read([batch(lengths, bytes(2 * MAX_MESSAGE))])[1])
            data = batch([MAX_MESSAGE + 1 | flag] * 2, bytes(2 * MAX_MESSAGE + 2))
            self.refuses(data, MessageTooBig, f"a message of {MAX_MESSAGE + 1} bytes")
        self.refuses(batch([2, 2], b"a\xc3\xa9b"), InvalidText, "not UTF-8")
        self.refuses(batch([2, 2], b"\xc3\xa9\xc3b"), InvalidText, "not UTF-8")

    def test_formats(self) -> None:
        """Of the formats by which such are cut out, the last few are kept."""
        for size in range(1, 20):
            read([batch([size | BINARY_BIT] * 2, bytes(2 * size))])
        self.assertEqual(evenly.cache_info().currsize, 8)

    def test_wideText(self) -> None:
        """
        A text that would take much more than its bytes, since one character in it needs
        four, stays encoded; any other, and one that is not UTF-8, is as ever.
        """
        wide, fine = "a" * 200 + "\U0001f600", "\u4e16\u754c" * 100
        body = wide.encode()
        (alone,), _ = read([framed(1, body)])
        (both,), _ = read([batch([len(body), 600], body + fine.encode())])
        (mixed,), _ = read([batch([len(body), 1 | BINARY_BIT], body + b"x")])
        for frame, expected in (
            (alone, [wide]),
            (both, [wide, fine]),
            (mixed, [wide, b"x"]),
        ):
            assert isinstance(frame, Messages)
            self.assertIs(type(frame.data), EncodedBodies)
            self.assertEqual(frame.data[0], EncodedText(body))
            self.assertEqual([decoded(each) for each in frame.data], expected)
        for text in (fine, "a" * 200, "\xe9" * 200, "\U0001f600"):
            (frame,), _ = read([framed(1, text.encode())])
            assert isinstance(frame, Messages)
            self.assertEqual(frame.data, (text,))
        self.refuses(framed(1, body + b"\xff"), InvalidText, "not UTF-8")

    def test_largeText(self) -> None:
        """
        A large text is validated piece by piece, wherever a character is cut, and stays
        encoded.
        """
        for lead in range(5):
            body = b"a" * (LARGE_TEXT - lead) + "\U0001f600".encode() * 3
            self.assertIs(type(textOf(body)), EncodedText)
            self.assertEqual(textOf(body), body)
            for wrong in (*INVALID, body[-4:-1]):
                self.assertRaises(InvalidText, textOf, body + wrong)
                self.assertRaises(InvalidText, textOf, body[:-12] + wrong + body)
        self.assertIs(type(textOf(b"a" * LARGE_TEXT * 2)), str)

    def test_batchCounts(self) -> None:
        """
        What its messages count fits a record, so that a small frame does not stand for
        more work than a large one.
        """
        self.assertEqual(13 + MAX_BATCH, MAX_PLAINTEXT)
        for flag, empties in ((0, [""] * 1023), (BINARY_BIT, (b"",) * 1023)):
            (frame,), error = read([batch([flag] * 1023, b"")])
            self.assertEqual(frame, Messages(MICROS, empties, 64 * 1023, 64))
            self.assertIsNone(error)
            data = batch([flag] * 1024, b"")
            self.refuses(data, ProtocolError, "count 65536 bytes; at most 65506")
        for sizes in ([400] * 141, [*range(100)] * 5 + [900] * 9):
            size = MAX_BATCH - 64 * (len(sizes) + 1) - sum(sizes)
            (most, *_), error = read([batch([*sizes, size], bytes(sum(sizes) + size))])
            assert isinstance(most, Messages)
            self.assertEqual(most.cost, MAX_BATCH)
            self.assertIsNone(error)
            data = batch([*sizes, size + 1], bytes(sum(sizes) + size + 1))
            self.refuses(data, ProtocolError, "count 65507 bytes")

    def test_counts(self) -> None:
        """A count of nothing, or of more than there can be, is refused."""
        for count in (0, 3, 2**32 - 1):
            data = batch([0, 0], b"", count)
            self.refuses(data, ProtocolError, f"BATCH of {count} messages in 12 bytes")
        self.assertIsNone(read([batch([0, 0], b"", 2)])[1])

    def test_sums(self) -> None:
        """Lengths that do not add up to what there is are refused."""
        top = BINARY_BIT - 1
        for lengths in ([3], [5], [2, 1], [2, 3], [top], [top, top], [0]):
            for flag in (0, BINARY_BIT):
                data = batch([length | flag for length in lengths], b"four")
                self.refuses(data, ProtocolError, "do not add up")

    def test_tooBig(self) -> None:
        """A message in it may be as large as any other, and no larger."""
        for flag in (0, BINARY_BIT):
            lengths = [1 | flag, MAX_MESSAGE | flag]
            self.assertIsNone(read([batch(lengths, bytes(MAX_MESSAGE + 1))])[1])
            data = batch([1 | flag, MAX_MESSAGE + 1 | flag], bytes(MAX_MESSAGE + 2))
            self.refuses(data, MessageTooBig, f"a message of {MAX_MESSAGE + 1} bytes")

    def test_notUTF8(self) -> None:
        """
        Each text must be UTF-8 by itself, also if all of them together are; bytes
        need not.
        """
        for body in INVALID:
            data = batch([1, len(body)], b"a" + body)
            self.refuses(data, InvalidText, "not UTF-8")
        for lengths in ([1, 1], [1, 1 | BINARY_BIT]):
            self.refuses(batch(lengths, b"\xc3\xa9"), InvalidText, "not UTF-8")
        expected = Messages(MICROS, (b"\xc3", b"\xa9"), 130, 65)
        self.reads(batch([1 | BINARY_BIT, 1 | BINARY_BIT], b"\xc3\xa9"), expected)


class WritingTests(SynchronousTestCase):
    """The encoders."""

    def test_frame(self) -> None:
        """A frame is header and body, as PROTOCOL has them."""
        encoded = encodeFrame(FrameType.PING, 0x0102030405060708, b"ab")
        expected = b"\0\0\0\2\x09\1\2\3\4\5\6\7\x08ab"
        self.assertEqual(encoded, expected)
        self.assertEqual(encodeFrame(FrameType.TEXT, MICROS), header(0, 1))

    def test_batch(self) -> None:
        """A BATCH is count, lengths and bodies."""
        lengths = [3, BINARY_BIT | 2, 0]
        encoded = b"".join(encodeBatch(MICROS, [b"one", b"tw", b""], lengths))
        self.assertEqual(encoded, batch(lengths, b"onetw"))

    def test_ack(self) -> None:
        """An ACK is two numbers of 64 bits."""
        encoded = encodeAck(MICROS, 1, 2**64 - 1)
        self.assertEqual(encoded, framed(11, bytes(7) + b"\x01" + b"\xff" * 8))

    def test_close(self) -> None:
        """A CLOSE's reason is cut where a character ends, and written in any case."""
        for reason, expected in (
            ("", ""),
            ("\xe9", "\xe9"),
            ("x" * 1025, "x" * 1024),
            ("\xe9" * 512, "\xe9" * 512),
            ("x" + "\xe9" * 512, "x" + "\xe9" * 511),
            ("\ud800", "?"),
        ):
            encoded = encodeClose(MICROS, 1001, reason)
            self.assertEqual(read([encoded]), ([Close(1001, expected)], None))

    def test_closeAfter(self) -> None:
        """
        Behind the reason of a CLOSE stands after how many milliseconds to come back at
        the latest: for who does not know of that, a reason within its bound.
        """
        for reason in ("", "upgrade", "x" * 2000, "a\0b"):
            for after, read_ in ((1, 1), (8000, 8000), (10**12, 3_600_000)):
                encoded = encodeClose(MICROS, 1001, reason, after)
                self.assertTrue(encoded.endswith(b"\0%d" % read_))
                self.assertLessEqual(len(encoded), 13 + 2 + 1024)
                ((close,), error) = read([encoded])
                self.assertIsNone(error)
                cut = reason[: 1024 - len(f" {read_}")]
                self.assertEqual(close, Close(1001, cut, read_))
        for code, reason in (
            (1000, "x\x008"),
            (1001, "x\0"),
            (1001, "x\0-8"),
            (1001, "x\x0008"),
            (1001, "x\x003600001"),
        ):
            self.assertEqual(
                read([encodeClose(MICROS, code, reason)])[0], [Close(code, reason)]
            )


_any = st.binary(max_size=40)
_text = st.text(max_size=20)
_frames = st.one_of(
    st.tuples(st.sampled_from(list(range(13))), _any).map(lambda pair: framed(*pair)),
    _text.map(lambda text: framed(1, text.encode())),
    st.integers(0, 2**128 - 1).map(lambda n: framed(11, n.to_bytes(16, "big"))),
    st.tuples(st.lists(st.integers(0, 3), max_size=4), _any).map(lambda p: batch(*p)),
    st.lists(_text, min_size=1, max_size=4).map(
        lambda texts: batch(
            [len(text.encode()) for text in texts], "".join(texts).encode()
        )
    ),
)


class AnyTests(SynchronousTestCase):
    """Whatever comes, however it is cut."""

    def check(self, data: bytes, sizes: list[int]) -> None:
        """
        Check that bytes are the same whole and in pieces, errors included.

        @param data: the bytes.
        @param sizes: how they are cut.
        """
        self.assertEqual(read(pieces(data, sizes)), read([data]))

    @settings(max_examples=150, deadline=None)
    @given(st.lists(_frames, max_size=6), chunkSizes)
    def test_frames(self, frames: list[bytes], sizes: list[int]) -> None:
        """
        Frames, good and bad ones, are read the same however they are cut.

        @param frames: the frames.
        @param sizes: how they are cut.
        """
        self.check(b"".join(frames), sizes)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=60), st.integers(0, 12), chunkSizes)
    def test_random(self, data: bytes, kind: int, sizes: list[int]) -> None:
        """
        So are random bytes, bare or as the body of a frame.

        @param data: the bytes.
        @param kind: the frame's type.
        @param sizes: how they are cut.
        """
        self.check(data, sizes)
        self.check(framed(kind, data), sizes)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.one_of(_text, _any), min_size=1, max_size=8))
    def test_batchRoundTrip(self, data: list[str | bytes]) -> None:
        """
        What is written into a BATCH comes out of it.

        @param data: the messages.
        """
        bodies, lengths = wire(data)
        (frame,), error = read([b"".join(encodeBatch(MICROS, bodies, lengths))])
        self.assertIsNone(error)
        assert isinstance(frame, Messages)
        self.assertEqual([decoded(each) for each in frame.data], data)
        self.assertEqual(frame.cost, sum(len(body) + 64 for body in bodies))
