"""
The checks find faults: servers and clients in which one thing is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from twisted.trial.unittest import SynchronousTestCase

import aesm.core.channel.roles as roles
import aesm.core.messages.framereader as framereader
import aesm.server.manager as manager
from aesm import AnyServer, Connection, Packet
from aesm.conformance.case import CLIENT, SERVER
from aesm.core.channel.channel import Channel
from aesm.core.channel.roles import ServerChannel
from aesm.core.messages.conversation import Conversation
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import Ack, Frame, Welcome
from aesm.core.messages.heartbeat import Patience
from aesm.core.messages.hello import Hello
from aesm.core.messages.outbox import Outbox
from aesm.core.messages.requests import encodeAnswer
from aesm.core.messages.session import Inbox
from aesm.errors import ProtocolError, TamperedRecord
from aesm.handlers import Echo
from aesm.messages.requests import Request
from aesm.noise import KeyPair
from aesm.server.registry import Connections
from aesm.server.sessions import Sessions
from tests.support.compiled import excepted
from tests.support.judging import failed, judge


class Finding(SynchronousTestCase):
    """Has checks find something."""

    def assertFound(
        self, *names: str, role: str = SERVER, **options: Any
    ) -> dict[str, str]:
        """
        See that checks fail.

        @param names: which; each of them has to.
        @return: what they say.
        """
        found = failed(judge(role, names, **options))
        self.assertEqual(set(found), set(names))
        return found


class MutantTests(Finding):
    """Each mutant fails the checks that are about it."""

    def test_resumesOthers(self) -> None:
        """A server that goes on with the session of another key is found."""
        find = Sessions.find

        def anybodys(self: Sessions, hello: Hello, peer: Any) -> Connection | None:
            known = self._byName.get(hello.session)
            return find(self, hello, peer if known is None else known.peer)

        self.patch(Sessions, "find", anybodys)
        self.assertFound("sessions.other-key")

    def test_forgetsSessions(self) -> None:
        """A server that forgets the sessions of who is cut is found."""
        self.patch(Sessions, "find", lambda self, hello, peer: None)
        names = "sessions.goes-on", "sessions.sends-again", "sessions.one-by-one"
        self.assertFound(*names)

    def test_nameInUse(self) -> None:
        """A server that begins a session of a name that there is is found."""

        def newName(self: Any, hello: Hello) -> str:
            return hello.session if hello.early else make(self, hello)

        make = manager.ConnectionManager._newName
        self.patch(manager.ConnectionManager, "_newName", newName)
        self.assertFound("early.name-of-another")

    def test_zeroSecret(self) -> None:
        """Who takes a secret of zeroes is found, with any key."""

        class Lenient:
            """A private key that gives a secret of zeroes."""

            def __init__(self, private: X25519PrivateKey) -> None:
                self.private = private

            def exchange(self, public: X25519PublicKey) -> bytes:
                try:
                    return self.private.exchange(public)
                except ValueError:
                    return bytes(32)

        def make(self: KeyPair, private: Any) -> None:
            init(self, private)
            self.private = cast(Any, Lenient(private))

        init = KeyPair.__init__
        self.patch(KeyPair, "__init__", make)
        names = "handshake.zero-ephemeral", "handshake.zero-static"
        self.assertFound(*names)
        self.assertFound("client.zero-ephemeral", role=CLIENT)

    def test_anyHello(self) -> None:
        """A server that takes any value in a hello is found."""
        self.patch(Hello, "decode", classmethod(lambda cls, payload: Hello()))
        self.assertFound(
            "hello.not-json", "hello.zero-heartbeat", "hello.session-name", "hello.deep"
        )

    def test_flood(self) -> None:
        """Who puts up with a flood is found."""
        self.patch(Patience, "spend", lambda self, now, ours, theirs: None)
        names = "frames.flood-of-ping", "frames.flood-of-pong", "frames.flood-of-ack"
        for role in (SERVER, CLIENT):
            self.assertFound(*names, role=role)

    def test_impatient(self) -> None:
        """Who puts up with too few frames that carry nothing is found."""
        spend = Patience.spend

        def impatient(self: Patience, now: float, ours: float, theirs: float) -> None:
            self._left -= 2
            spend(self, now, ours, theirs)

        self.patch(Patience, "spend", impatient)
        self.assertFound("frames.no-flood")

    def test_answersTwice(self) -> None:
        """Who answers a request twice is found."""

        class Twice(Echo):
            """Answers all twice."""

            def requestReceived(self, connection: Connection, packet: Request) -> Any:
                body = encodeAnswer(packet.number, packet.data or b"")
                connection.send(body, closeSlow=True)
                return super().requestReceived(connection, packet)

        self.assertFound(
            "requests.many", "requests.withdrawn", handler=Twice(Connections())
        )

    def test_echoesTwice(self) -> None:
        """An echo that says a message twice, or another one, is found."""

        class Twice(Echo):
            """Says all twice."""

            def packetReceived(self, connection: Connection, packet: Packet) -> Any:
                super().packetReceived(connection, packet)
                return super().packetReceived(connection, packet)

        self.assertFound(
            "frames.text",
            "frames.order",
            "sessions.one-by-one",
            handler=Twice(Connections()),
        )

    def test_trustsAnybody(self) -> None:
        """A client that trusts any key is found."""
        self.assertFound("client.wrong-key", role=CLIENT, trust=AnyServer())

    def test_forgetful(self) -> None:
        """A client that does not come back to its session is found."""
        encode = Hello.encode
        self.patch(Hello, "encode", lambda self: encode(replace(self, session="")))
        found = self.assertFound(
            "client.names-session", "sessions.goes-on", "client.going-away", role=CLIENT
        )
        self.assertIn("does not name the session", found["sessions.goes-on"])


@excepted
class CompiledMutantTests(Finding):
    """The same; what is changed here is compiled, in wheels that are."""

    def test_acknowledgesTooEarly(self) -> None:
        """Who acknowledges what it has not got is found."""
        takeAck = Inbox.takeAck

        def early(self: Inbox) -> Ack | None:
            ack = takeAck(self)
            return ack if ack is None else Ack(ack[0] + 1, ack[1])

        self.patch(Inbox, "takeAck", early)
        self.assertFound("flow.acknowledged", "flow.not-whole", "frames.text")

    def test_neverAcknowledges(self) -> None:
        """Who does not acknowledge is found."""
        self.patch(Inbox, "takeAck", lambda self: None)
        self.assertFound("flow.acknowledged", "closing.behind-messages")

    def test_shrinkingLimit(self) -> None:
        """Who takes back what it lets come is found."""
        takeAck = Inbox.takeAck

        def shrinking(self: Inbox) -> Ack | None:
            ack = takeAck(self)
            return ack if ack is None else Ack(ack[0], self.window - ack[0])

        self.patch(Inbox, "takeAck", shrinking)
        self.assertFound("flow.acknowledged")

    def test_noWindow(self) -> None:
        """Who takes messages past its limit is found."""

        def receive(self: Inbox, messages: Any) -> None:
            self.receivedCost += messages.cost
            self.received += len(messages.data)

        self.patch(Inbox, "receive", receive)
        self.assertFound("flow.past-the-limit")

    def test_ourWindow(self) -> None:
        """Who sends past our limit is found."""
        begin = Outbox.begin
        self.patch(
            Outbox,
            "begin",
            lambda self, peer: begin(self, replace(peer, window=1 << 30)),
        )
        self.assertFound("flow.limit-kept", "flow.no-window")

    def test_anyAck(self) -> None:
        """Who takes any ACK is found."""
        self.patch(Outbox, "acknowledge", lambda self, ack: False)
        self.assertFound(
            "flow.ack-of-unsent", "flow.limit-shrinks", "flow.count-shrinks"
        )

    def test_unasked(self) -> None:
        """Who takes answers to what was not asked is found."""
        self.patch(Outbox, "answered", lambda self, number: False)
        self.assertFound("requests.answer-unasked", "requests.refusal-unasked")
        self.flushLoggedErrors(TypeError)  # of the server, which knows no such thing

    def test_batches(self) -> None:
        """Who sends BATCHes to those that take none is found."""
        meet = Outbox.meet
        self.patch(
            Outbox, "meet", lambda self, peer: meet(self, replace(peer, batch=True))
        )
        self.assertFound("frames.batch-not-taken")

    def _resumesWith(self, received: Callable[[Outbox, Hello], int]) -> None:
        """Have what the other side has received misread."""
        resume = Outbox.resume

        def misread(self: Outbox, peer: Hello) -> None:
            resume(self, replace(peer, received=received(self, peer)))

        self.patch(Outbox, "resume", misread)

    def test_losesMessages(self) -> None:
        """Who does not send again what was lost is found."""
        self._resumesWith(lambda outbox, peer: outbox.sent)
        self.assertFound("sessions.sends-again")

    def test_sendsTooMuch(self) -> None:
        """Who sends again what was received is found."""
        self._resumesWith(lambda outbox, peer: outbox.acknowledged)
        self.assertFound("sessions.only-what-is-missing")

    def test_notUTF8(self) -> None:
        """Who does not look whether a text is UTF-8 is found."""
        self.patch(framereader, "textOf", lambda body: body.decode("utf-8", "replace"))
        names = [f"frames.not-utf8-{name}" for name in ("byte", "surrogate", "cutoff")]
        for role in (SERVER, CLIENT):
            self.assertFound(*names, "frames.batch-not-utf8", role=role)

    def test_anySize(self) -> None:
        """Who takes messages of any size is found."""
        begin = FrameReader.__init__
        self.patch(
            FrameReader, "__init__", lambda self, maxMessage: begin(self, 1 << 31)
        )
        self.assertFound("frames.too-large", "requests.too-large")

    def test_anyType(self) -> None:
        """Who ignores frames that it does not know is found."""
        check, decode = FrameReader._check, FrameReader._decode

        def lenient(self: FrameReader, kind: int, size: int) -> None:
            if kind <= 11:
                check(self, kind, size)

        def decoded(self: FrameReader, kind: int, micros: int, body: bytes) -> Frame:
            return decode(self, kind if kind <= 11 else 10, micros, body)

        self.patch(FrameReader, "_check", lenient)
        self.patch(FrameReader, "_decode", decoded)
        self.assertFound("frames.unknown-type-12", "frames.unknown-type-255")

    def test_secondHello(self) -> None:
        """A server that takes a second hello is found."""
        take = Conversation._takeOther

        def lenient(self: Conversation, frame: Frame, events: list[Any]) -> None:
            if not isinstance(frame, Welcome):
                take(self, frame, events)

        self.patch(Conversation, "_takeOther", lenient)
        self.assertFound("hello.second-hello")
        self.assertFound("frames.second-welcome", role=CLIENT)

    def test_otherPong(self) -> None:
        """Who answers a PING with another body is found."""
        take = Conversation._takeOther

        def shortened(self: Conversation, frame: Frame, events: list[Any]) -> None:
            take(self, frame, events)
            if self._pong:
                self._pong = self._pong[1:]

        self.patch(Conversation, "_takeOther", shortened)
        self.assertFound("frames.ping", "frames.pings")

    def test_deaf(self) -> None:
        """Who neither looks for us nor says that it is there is found."""
        self.patch(Conversation, "tick", lambda self, *arguments: [])
        self.assertFound("heartbeat.pings", "heartbeat.gives-up", "heartbeat.heard")

    def test_forgeries(self) -> None:
        """Who goes on after a record that does not authenticate is found."""
        opened = Channel._open

        def lenient(self: Channel, ciphertext: bytes, events: list[Any]) -> None:
            with contextlib.suppress(TamperedRecord):
                opened(self, ciphertext, events)

        self.patch(Channel, "_open", lenient)
        for role in (SERVER, CLIENT):
            self.assertFound("records.tampered", "records.replayed", role=role)

    def test_lengths(self) -> None:
        """A server that keeps a handshake message of any length is found."""
        self.patch(ServerChannel, "_checkMessage", lambda self, length: None)
        self.assertFound("handshake.huge-message-1", "handshake.long-message-3")

    def test_silentRefusal(self) -> None:
        """A server that refuses without a word, or with other words, is found."""
        self.patch(roles, "_REFUSED", "no: ")
        self.assertFound("offer.byte-stream")
        self.patch(roles, "_REFUSAL", b"\0\1")
        self.assertFound("offer.unknown-suite", "offer.byte-stream")

    def test_firstByte(self) -> None:
        """A server that waits for more than a wrong first byte is found."""

        def lenient(self: ServerChannel, length: bytes) -> None:
            if len(length) > 1 and length != b"\0\0" and length[0]:
                raise ProtocolError("too late")

        self.patch(ServerChannel, "_checkOffer", lenient)
        self.assertFound("offer.first-byte", "offer.empty-offer")
