"""
Tests of L{aesm.core.messages.requests}, and of what the core makes of REQUEST and
RESPONSE: PROTOCOL sections 6 to 8.
"""

from __future__ import annotations

from struct import pack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.batch import Batch
from aesm.core.messages.conversation import Conversation
from aesm.core.messages.events import Answered, Asked, Broken, Event
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import (
    CALL_BIT,
    EncodedRequest,
    EncodedResponse,
    FrameType,
    Messages,
    Requests,
    Responses,
    decoded,
    encodeFrame,
    markedOf,
)
from aesm.core.messages.hello import ConversationSettings, Hello
from aesm.core.messages.outbox import Outbox
from aesm.core.messages.requests import (
    Response,
    Status,
    decodeRequest,
    decodeResponse,
    encodeAnswer,
    encodeError,
    encodeRequest,
    encodeWithdrawal,
    sizeOf,
)
from aesm.core.messages.session import Session
from aesm.errors import InvalidText, MessageTooBig, ProtocolError
from tests.support.helpers import chunkSizes, pieces

MAX_MESSAGE = 2000
PLENTY = 1 << 40
NUMBER = 2**64 - 1
DATA: tuple[str | bytes, ...] = ("", "text", "zwei ü 🌍", b"", b"\xff" * 300)


def framed(kind: FrameType, body: bytes) -> bytes:
    """Write a frame."""
    return encodeFrame(kind, 1, body)


def read(data: bytes, size: int = 1 << 20) -> tuple[list[Any], ProtocolError | None]:
    """Read bytes, in chunks of a size."""
    reader = FrameReader(MAX_MESSAGE)
    frames: list[Any] = []
    for start in range(0, len(data), size):
        frames += reader.receive(data[start : start + size])
    return frames, reader.error


def batched(*bodies: Any) -> bytes:
    """Write messages of one turn as a BATCH."""
    batch = Batch(1, 0, bytes, 1 << 20)
    batch.bodies, batch.kind = list(bodies), None
    return b"".join(batch.encode(batched=True))


class CodingTests(SynchronousTestCase):
    """Bodies, as on the wire."""

    def test_wire(self) -> None:
        """They are what PROTOCOL says."""
        number = NUMBER.to_bytes(8, "big")
        for body, wire in (
            (encodeRequest("ü"), b"\1\xc3\xbc"),
            (encodeRequest(b"\0"), b"\2\0"),
            (encodeAnswer(NUMBER, "ü"), number + b"\1\xc3\xbc"),
            (encodeAnswer(NUMBER, memoryview(b"\0")), number + b"\2\0"),
            (encodeError(NUMBER, 65535, "ü"), number + b"\3\xff\xff\xc3\xbc"),
            (encodeWithdrawal(NUMBER), number + b"\4"),
        ):
            self.assertEqual(bytes(body), wire)

    def test_roundTrip(self) -> None:
        """What is decoded is what was encoded."""
        for data in DATA:
            self.assertEqual(decodeRequest(encodeRequest(data)), data)
            status = Status.TEXT if isinstance(data, str) else Status.BINARY
            expected = Response(NUMBER, status, 0, data)
            self.assertEqual(decodeResponse(encodeAnswer(NUMBER, data)), expected)
        self.assertEqual(
            decodeResponse(encodeError(3, 1008, "why")), (3, Status.ERROR, 1008, "why")
        )
        self.assertEqual(
            decodeResponse(encodeWithdrawal(3)), (3, Status.WITHDRAWN, 0, "")
        )

    def test_reason(self) -> None:
        """A reason is cut to 1,024 bytes, and never within a character."""
        for reason, kept in (
            ("x" * 1024, 1024),
            ("x" * 1025, 1024),
            ("x" + "ü" * 512, 512),
            ("\ud800", 1),
        ):
            body = encodeError(0, 0, reason)
            self.assertEqual(len(decodeResponse(body).data), kept)
            self.assertLessEqual(len(body), 11 + 1024)
        for code in (-1, 65536):
            self.assertRaises(ValueError, encodeError, 0, code, "")
        with self.assertRaisesRegex(TypeError, "^a code is int, not str$"):
            encodeError(0, "no such thing", "")  # type: ignore[arg-type]
        with self.assertRaisesRegex(TypeError, "^a reason is str, not int$"):
            encodeError(0, 404, 404)  # type: ignore[arg-type]

    def test_types(self) -> None:
        """What is no message is refused, and text that UTF-8 cannot write."""
        nothing: Any = None
        for encode in (encodeRequest, lambda data: encodeAnswer(0, data)):
            self.assertRaises(TypeError, encode, nothing)
            self.assertRaises(ValueError, encode, "\ud800")

    def test_size(self) -> None:
        """The bound of a message is about data; a refusal has none."""
        for body, size in (
            (encodeRequest("ü"), 2),
            (encodeAnswer(0, b"123"), 3),
            (encodeError(0, 0, "123"), 0),
            (encodeWithdrawal(0), 0),
            (b"1234", 4),
        ):
            self.assertEqual(sizeOf(body, type(body)), size)


class ReadingTests(SynchronousTestCase):
    """What L{FrameReader} makes of bytes."""

    def refuses(
        self, kind: FrameType, body: bytes, error: type[ProtocolError] = ProtocolError
    ) -> None:
        """Check that a frame is refused, in any chunks, alone and in a BATCH."""
        bits = CALL_BIT if kind is FrameType.REQUEST else 3 * CALL_BIT
        table = pack(">III", 2, 1, len(body) | bits)
        inBatch = framed(FrameType.BATCH, table + b"." + body)
        for data in (framed(kind, body), inBatch):
            for size in (1 << 20, 1, 7):
                frames, refused = read(data, size)
                self.assertEqual(frames, [])
                self.assertIs(type(refused), error, (kind, body[:20], size))

    def test_single(self) -> None:
        """Alone each is a frame of its own, in any chunks."""
        for data in DATA:
            for kind, body, frame in (
                (FrameType.REQUEST, encodeRequest(data), Requests),
                (FrameType.RESPONSE, encodeAnswer(7, data), Responses),
            ):
                cost = len(body) + 64
                for size in (1 << 20, 1, 7):
                    ((got,), error) = read(framed(kind, body), size)
                    self.assertIsNone(error)
                    self.assertIs(type(got), frame)
                    self.assertEqual(got, (1, [body], cost, cost))
                    self.assertIs(type(markedOf(got)[0]), type(body))

    def test_batch(self) -> None:
        """A BATCH may have them among other messages: it comes as runs of each."""
        ask, answer = encodeRequest("ask"), encodeAnswer(1, b"1")
        data = batched("a", b"b", ask, ask, answer, "c", answer)
        for size in (1 << 20, 1, 50):
            frames, error = read(data, size)
            self.assertIsNone(error)
            self.assertEqual(
                [(type(frame), frame.data) for frame in frames],
                [
                    (Messages, ["a", b"b"]),
                    (Requests, [ask, ask]),
                    (Responses, [answer]),
                    (Messages, ["c"]),
                    (Responses, [answer]),
                ],
            )
            self.assertEqual([frame.cost for frame in frames], [130, 136, 74, 65, 74])
            self.assertEqual([frame.lastCost for frame in frames], [65, 68, 74, 65, 74])

    def test_largeAmongThem(self) -> None:
        """The bound holds for other messages among them."""
        for size in (MAX_MESSAGE, MAX_MESSAGE + 1):
            _, error = read(batched(encodeRequest("?"), bytes(size)))
            self.assertEqual(error is None, size == MAX_MESSAGE)

    def test_evenBatch(self) -> None:
        """So may one whose messages are all of one size."""
        for ask in (encodeRequest("ask"), encodeRequest(b"ask")):
            ((got,), _) = read(batched(ask, ask, ask))
            self.assertEqual(got, Requests(1, [ask] * 3, 3 * 68, 68))
            answers = [encodeAnswer(number, ask[1:]) for number in range(3)]
            ((got,), _) = read(batched(*answers))
            self.assertEqual(got, Responses(1, answers, 3 * 76, 76))

    def test_evenBounds(self) -> None:
        """The form and the bound of each hold for those of one size, too."""
        number = bytes(8)
        for size in (MAX_MESSAGE - 1, MAX_MESSAGE, MAX_MESSAGE + 1):
            for body in (
                EncodedRequest(b"\2" + bytes(size)),
                EncodedResponse(number + b"\2" + bytes(size)),
            ):
                frames, error = read(batched(body, body))
                self.assertEqual(error is None, size <= MAX_MESSAGE)
                self.assertEqual(len(frames), size <= MAX_MESSAGE)
        for body in (EncodedRequest(), EncodedResponse(), EncodedResponse(number)):
            self.assertIsInstance(read(batched(body, body))[1], ProtocolError)
        for status in (b"\2\2\0", b"\2\0\2", b"\0\2\2"):
            each = [EncodedRequest(bytes([status[i]]) + b"?") for i in range(3)]
            self.assertIsInstance(read(batched(*each))[1], ProtocolError)

    def test_form(self) -> None:
        """What is not of its form is refused."""
        for body in (b"", b"\0", b"\3", b"\4abc"):
            self.refuses(FrameType.REQUEST, body)
        number = bytes(8)
        for body in (b"", number[:7], number, number + b"\0", number + b"\5"):
            self.refuses(FrameType.RESPONSE, body)
        for rest in (b"\3", b"\3\0", b"\4\0"):
            self.refuses(FrameType.RESPONSE, number + rest)
        self.refuses(FrameType.RESPONSE, number + b"\3\0\0" + b"x" * 1025)

    def test_text(self) -> None:
        """Text that is not UTF-8 is refused."""
        self.refuses(FrameType.REQUEST, b"\1\xff", InvalidText)
        self.refuses(FrameType.RESPONSE, bytes(8) + b"\1\xff", InvalidText)
        self.refuses(FrameType.RESPONSE, bytes(8) + b"\3\0\0\xff", InvalidText)

    def test_maxMessage(self) -> None:
        """Data may be as long as a message; a reason always has room."""
        for kind, encode in (
            (FrameType.REQUEST, encodeRequest),
            (FrameType.RESPONSE, lambda data: encodeAnswer(0, data)),
        ):
            for size in (MAX_MESSAGE - 1, MAX_MESSAGE):
                _, error = read(framed(kind, encode(bytes(size))))
                self.assertIsNone(error)
            self.refuses(kind, encode(bytes(MAX_MESSAGE + 1)), MessageTooBig)
        reader = FrameReader(1)
        reader.receive(framed(FrameType.RESPONSE, encodeError(0, 0, "x" * 1024)))
        self.assertIsNone(reader.error)
        reader.receive(framed(FrameType.RESPONSE, encodeAnswer(0, b"12")))
        self.assertIs(type(reader.error), MessageTooBig)

    def test_memory(self) -> None:
        """A body that is too long is refused by its header."""
        for kind, most in (
            (FrameType.REQUEST, 1 + MAX_MESSAGE),
            (FrameType.RESPONSE, 9 + MAX_MESSAGE),
        ):
            _, error = read(pack(">IBQ", most, kind, 1))
            self.assertIsNone(error)
            _, error = read(pack(">IBQ", most + 1, kind, 1))
            self.assertIs(type(error), MessageTooBig)

    @settings(deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.text(max_size=20),
                st.binary(max_size=20),
                st.text(max_size=20).map(encodeRequest),
                st.binary(max_size=20).map(encodeRequest),
                st.text(max_size=20).map(lambda data: encodeAnswer(9, data)),
                st.text(max_size=20).map(lambda data: encodeError(9, 7, data)),
            ),
            min_size=1,
            max_size=30,
        ),
        chunkSizes,
        st.booleans(),
    )
    def test_anything(self, data: list[Any], sizes: Any, batch: bool) -> None:
        """Whatever is sent in one turn comes as it is, in any chunks."""
        outbox = Outbox(1 << 20)
        outbox.begin(Hello(batch=batch, requests=True))
        for each in data:
            outbox.add(each, 1)
        reader = FrameReader(MAX_MESSAGE)
        got: list[Any] = []
        cost = 0
        for chunk in pieces(b"".join(outbox.take(PLENTY)), sizes):
            for frame in reader.receive(chunk):
                assert isinstance(frame, Messages)
                got += markedOf(frame)
                cost += frame.cost
        self.assertIsNone(reader.error)
        self.assertEqual([decoded(each) for each in got], data)
        calls = (EncodedRequest, EncodedResponse)
        self.assertEqual(
            [type(each) for each in got if isinstance(each, calls)],
            [type(each) for each in data if isinstance(each, calls)],
        )
        self.assertEqual(cost, outbox._sentCost)


class ConversationTests(SynchronousTestCase):
    """What a L{Conversation} makes of them."""

    def setUp(self) -> None:
        """Begin a conversation at a server."""
        self.session = Session(1 << 20, 1 << 20)
        self.conversation = Conversation(ConversationSettings(), 0.0, self.session)
        self.conversation.welcome(Hello(batch=True, requests=True))
        self.conversation.takeFrames(1, PLENTY)

    def receive(self, *bodies: Any) -> list[Event]:
        """Receive messages of one turn."""
        return self.conversation.receive(batched(*bodies), 0.0)

    def ask(self) -> int:
        """Ask, and send it; return its number."""
        outbox = self.session.outbox
        number = outbox.count
        outbox.ask(number, f"waiter {number}")
        outbox.add(encodeRequest("?"), 1)
        self.conversation.takeFrames(1, PLENTY)
        return number

    def broke(self, events: list[Event]) -> None:
        """Check that the last event is that the rules were broken."""
        assert isinstance(events[-1], Broken)
        self.assertIs(type(events[-1].error), ProtocolError)

    def test_asked(self) -> None:
        """A request has the number that it has as a message, and counts as one."""
        ask = encodeRequest("?")
        events = self.receive("a", ask, ask, b"b", ask)
        self.assertEqual(
            [
                (each.first, each.requests.data)
                for each in events
                if isinstance(each, Asked)
            ],
            [(1, [ask, ask]), (4, [ask])],
        )
        self.assertEqual(self.session.inbox.received, 5)
        self.assertEqual(self.session.inbox.receivedCost, 5 * 64 + 2 + 3 * 2)

    def test_answered(self) -> None:
        """An answer finds who waits for it, once."""
        first, second = self.ask(), self.ask()
        answer, refusal = encodeAnswer(second, "!"), encodeError(first, 7, "no")
        (event,) = self.receive(answer, refusal)
        assert isinstance(event, Answered)
        self.assertEqual(event.first, 0)
        self.assertEqual(event.waiters, ["waiter 1", "waiter 0"])
        self.assertEqual(event.messages.data, [answer, refusal])
        self.assertEqual(self.session.outbox.asked, {})
        self.broke(self.receive(answer))

    def test_nothingAsked(self) -> None:
        """An answer to what was never a request, or not sent yet, breaks the rules."""
        self.session.outbox.add("message", 1)
        number = self.ask()
        outbox = self.session.outbox
        outbox.ask(number + 1, "not sent")
        outbox.add(encodeRequest("?"), 1)
        for wrong in (0, number + 1, number + 2, NUMBER):
            conversation = Conversation(ConversationSettings(), 0.0, self.session)
            conversation.welcome(Hello(requests=True))
            events = conversation.receive(batched(encodeAnswer(wrong, "!")), 0.0)
            self.broke(events)
        self.assertEqual(len(outbox.asked or ()), 2)

    def test_twice(self) -> None:
        """Two answers to one request break the rules, also if they come together."""
        number = self.ask()
        self.broke(self.receive(encodeAnswer(number, "!"), encodeAnswer(number, "?")))

    def test_brokenBehind(self) -> None:
        """
        Who waits for an answer that comes with what breaks the rules is not told of it,
        and so waits on, to be told of the end.
        """
        for wrong in (encodeAnswer(9, "!"), encodeAnswer(0, "?"), encodeWithdrawal(9)):
            self.setUp()
            asked = {number: f"waiter {number}" for number in (self.ask(), self.ask())}
            self.broke(self.receive(encodeAnswer(0, "!"), encodeWithdrawal(0), wrong))
            self.assertEqual(self.session.outbox.asked, asked)

    def test_withdrawn(self) -> None:
        """A side withdraws what it has sent before, and nothing else."""
        (_, event) = self.receive(encodeRequest("?"), encodeWithdrawal(0))
        assert isinstance(event, Answered)
        self.assertEqual(event.waiters, [None])
        self.broke(self.receive(encodeWithdrawal(2)))

    def test_restored(self) -> None:
        """What an earlier process has asked may be answered."""
        self.session.outbox.restore(5, 500, 1 << 20, [])
        (event,) = self.receive(encodeAnswer(4, "!"))
        assert isinstance(event, Answered)
        self.assertIs(event.waiters[0], False)
        self.broke(self.receive(encodeAnswer(5, "!")))

    def test_window(self) -> None:
        """They are held back as any message is."""
        inbox = self.session.inbox
        inbox.limit = 10
        self.broke(self.receive(encodeRequest("?"), encodeRequest("?")))

    def test_rest(self) -> None:
        """One that a cut has left unfinished goes on over the next connection."""
        for body in (encodeRequest(bytes(1000)), encodeAnswer(0, "x" * 1000)):
            self.setUp()
            self.ask()
            kind = FrameType.REQUEST if body[0] == 2 else FrameType.RESPONSE
            wire = framed(kind, body)
            self.conversation.receive(wire[:500], 0.0)
            self.conversation.transportLost()
            held = self.session.inbox.partialSize
            self.assertEqual(held, 487)
            conversation = Conversation(ConversationSettings(), 0.0, self.session)
            conversation.welcome(Hello(requests=True))
            (event,) = conversation.receive(framed(FrameType.REST, body[held:]), 0.0)
            assert isinstance(event, Asked | Answered)
            messages = event.requests if isinstance(event, Asked) else event.messages
            self.assertEqual(messages.data, [body])
            self.assertIsNone(self.session.inbox.partial)
            self.assertIsNone(conversation.reader.partial)

    def test_outgoingRest(self) -> None:
        """So does one of ours."""
        outbox = Outbox(1 << 20)
        outbox.begin(Hello(requests=True))
        for body in (encodeRequest(bytes(1000)), encodeAnswer(0, bytes(1000))):
            outbox.add(body, 1)
            outbox.take(PLENTY)
            done = outbox.sent - 1
            outbox.resume(Hello(received=done, partial=400, requests=True))
            (frames,) = outbox.take(PLENTY)
            self.assertEqual(frames, framed(FrameType.REST, body[400:]))

    def test_noWayBack(self) -> None:
        """Who took requests in a session cannot come back to it without."""
        outbox = self.session.outbox
        self.assertTrue(outbox.canResume(Hello(requests=True)))
        self.assertFalse(outbox.canResume(Hello()))
        outbox.meet(Hello())
        self.assertTrue(outbox.canResume(Hello(requests=True)))

    def test_types(self) -> None:
        """What was sent is kept as what it is."""
        outbox = self.session.outbox
        for body in (encodeRequest("?"), encodeAnswer(0, "!")):
            outbox.add(body, 1)
        outbox.closeBatch()
        (batch,) = outbox._unsent
        self.assertEqual(
            [type(body) for body in batch.bodies], [EncodedRequest, EncodedResponse]
        )
        self.assertEqual(batch.largest, 1)

    def test_mixed(self) -> None:
        """What a batch of one kind has become says what it is, once others come."""
        outbox = self.session.outbox
        ask = encodeRequest(b"?")
        outbox.add(ask, 1)
        batch = outbox.open
        assert batch is not None
        self.assertEqual(outbox.add(bytes(ask), 1, EncodedRequest), 2)
        self.assertEqual([type(each) for each in batch.marked], [EncodedRequest] * 2)
        outbox.add(b"!", 1)
        self.assertIsNone(batch.kind)
        outbox.closeBatch()
        self.assertEqual(batch.largest, 1)
        self.assertEqual(
            [type(body) for body in outbox.withdraw()], [EncodedRequest] * 2 + [bytes]
        )

    def test_cut(self) -> None:
        """One that is cut off a batch of one kind is sent as what it is."""
        outbox = self.session.outbox
        body = encodeRequest(b"?")
        outbox.add(body, 1)
        batch = outbox.open
        assert batch is not None
        self.assertEqual(outbox.add(bytes(body), 1, EncodedRequest), 2)
        outbox.closeBatch()
        batch.cut(1)
        (frame,) = batch.encode(True)
        self.assertEqual(frame, encodeFrame(FrameType.REQUEST, 1, body))
