"""
What a message costs, counted instead of timed, so that a busy machine changes
nothing: Python calls, records, bytes on the wire.

Each bound is the present figure and some slack.  A change that needs more
should say, with the benchmark, what it gives instead.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from os.path import dirname
from types import FrameType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

import aesm
from aesm import Pinned, PrivateKey, connect
from aesm.core.channel.framing import HALF
from aesm.core.messages import batch as turn
from aesm.core.messages.conversation import Conversation
from aesm.core.messages.dialogue import exchange
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import Messages
from aesm.core.messages.frames import encodeBatch as encode
from aesm.core.messages.hello import ConversationSettings
from aesm.core.messages.session import Session
from aesm.errors import AESMError
from aesm.interfaces import IMessageHandler
from aesm.messages.connection import Connection
from aesm.messages.stream import DataStream, Packet
from aesm.server import broadcast
from aesm.testing import ConnectedPair, connectedPair
from tests.support.helpers import openChannels

COUNT = 1000  # messages in a burst
MESSAGE = b"m" * 64
ROOM = 1 << 24  # bytes of messages: more than a burst


def pythonCalls(work: Callable[[], object], folder: str = "") -> int:
    """
    Count the Python functions that something calls, itself included.

    @param work: what to do.
    @param folder: where those are that count; empty for all.
    @return: how many calls.
    """
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        """Count one."""
        nonlocal calls
        isOurs = frame.f_code.co_filename.startswith(folder)
        calls += event == "call" and isOurs

    former = sys.getprofile()
    gc.disable()  # others have callbacks of it
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(former)
        gc.enable()
    return calls


def takeAll(stream: DataStream) -> None:
    """
    Take all packets.

    @param stream: where they are.
    """
    while stream.getData() is not None:
        pass


def records(wire: bytes) -> list[int]:
    """
    Cut the wire into records.

    @param wire: whole records.
    @return: the length of each record's plaintext.
    """
    sizes: list[int] = []
    while wire:
        size = int.from_bytes(wire[:2], "big")
        sizes.append(size - 16)
        wire = wire[2 + size :]
    return sizes


@implementer(IMessageHandler)
class Counter:
    """
    Counts what comes.

    @ivar count: how many packets.
    """

    def __init__(self) -> None:
        """Start at nothing."""
        self.count = 0

    def connectionAccepted(self, connection: Connection) -> None:
        """@param connection: ignored."""

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """
        @param connection: ignored.
        @param packet: counted.
        """
        self.count += 1

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """
        @param connection: ignored.
        @param reason: ignored.
        """


class Echo(Counter):
    """Answers each packet with the same."""

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """
        @param connection: where to.
        @param packet: what to answer with.
        """
        assert packet.data is not None
        connection.sendData(packet.data)


class Answers(Counter):
    """Answers each request with the same."""

    def requestReceived(self, connection: Connection, packet: Packet) -> Any:
        """
        @param connection: ignored.
        @param packet: what to answer with.
        """
        return packet.data


class CoreCostTests(SynchronousTestCase):
    """Tests for what messages cost in L{aesm.core}."""

    def setUp(self) -> None:
        """Join two channels and the conversations on them."""
        self.sender, self.receiver = openChannels()
        settings = ConversationSettings()
        here, there = (
            Conversation(settings, 0.0, Session(ROOM, ROOM)) for _ in range(2)
        )
        for conversation in (here, there):
            conversation.welcome(settings.hello())
            conversation.takeFrames(0, ROOM)
        self.here, self.there = here, there

    def send(self) -> bytes:
        """
        Send a burst.

        @return: what goes over the wire.
        """
        for _ in range(COUNT):
            self.here.session.outbox.add(MESSAGE, 1)
        self.sender.send(b"".join(self.here.takeFrames(1, ROOM)))
        return self.sender.takeOutput()

    def receive(self, wire: bytes) -> int:
        """
        Receive a burst.

        @param wire: what came.
        @return: how many messages.
        """
        return sum(
            len(arrived.data)
            for event in self.receiver.receive(wire)
            if isinstance(event, bytes)
            for arrived in self.there.receive(event, 0.0)
            if isinstance(arrived, Messages)
        )

    def test_sending(self) -> None:
        """
        Sending a message takes a handful of calls, and a record for many a few
        more.
        """
        self.assertLess(pythonCalls(self.send) / COUNT, 1.3)

    def test_receiving(self) -> None:
        """Receiving takes calls for each record and batch, none for each message."""
        self.receive(self.send())  # what is made at the first of its kind
        wire = self.send()
        received: list[int] = []
        calls = pythonCalls(lambda: received.append(self.receive(wire)))
        self.assertEqual(received, [COUNT])
        self.assertLess(calls, 30)

    def test_noDialogue(self) -> None:
        """That a burst is no message of a dialogue is seen without copying it."""
        for _ in range(COUNT // 2):
            self.here.session.outbox.add(MESSAGE, 1)
        frames = b"".join(self.here.takeFrames(1, ROOM))
        tracemalloc.start()
        try:
            self.assertIsNone(exchange(self.there, frames, 0.0))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, len(frames))

    def test_records(self) -> None:
        """What is sent in one turn shares records, filled to the brim."""
        sizes = records(self.send())
        self.assertEqual(len(sizes), 2)
        self.assertEqual(sizes[0], 65519)

    def test_bytes(self) -> None:
        """A message of a batch takes four bytes more than it has."""
        wire = self.send()
        self.assertLess(len(wire) / COUNT, len(MESSAGE) + 4.2)

    def test_bigMessage(self) -> None:
        """
        Of a big message hardly more than its own bytes go over the wire, in as
        few records as it needs.
        """
        big = bytes(262144)
        self.here.session.outbox.add(big, 1)
        self.sender.send(b"".join(self.here.takeFrames(1, ROOM)))
        wire = self.sender.takeOutput()
        self.assertEqual(len(records(wire)), 5)
        self.assertLess(len(wire) - len(big), 128)


class StackCostTests(SynchronousTestCase):
    """Tests for what messages cost from C{sendData} to who takes them."""

    def send(self, pair: ConnectedPair) -> None:
        """
        Send a burst.

        @param pair: from its client.
        """
        for _ in range(COUNT):
            pair.client.sendData(MESSAGE)

    def test_sending(self) -> None:
        """
        Nobody waits for these messages: all a call of C{sendData} does is to
        keep the message.
        """
        pair = connectedPair()
        self.assertLess(pythonCalls(lambda: self.send(pair)) / COUNT, 1.2)

    def test_handler(self) -> None:
        """A handler costs hardly more calls than its own for each message."""
        handler = Counter()
        pair = connectedPair(handler)
        self.send(pair)
        self.assertLess(pythonCalls(pair.deliver) / COUNT, 1.5)
        self.assertEqual(handler.count, COUNT)

    def test_stream(self) -> None:
        """Messages enter a stream together; taking one is a few calls."""
        pair = connectedPair()
        self.send(pair)
        self.assertLess(pythonCalls(pair.deliver) / COUNT, 0.5)
        take = partial(takeAll, pair.accepted.retrieved)
        self.assertLess(pythonCalls(take) / COUNT, 3.5)

    def test_clientsStream(self) -> None:
        """At a client, which has no registry, taking one is a single call."""
        pair = connectedPair()
        for _ in range(COUNT):
            pair.accepted.sendData(MESSAGE)
        pair.deliver()
        take = partial(takeAll, pair.client.retrieved)
        self.assertLess(pythonCalls(take) / COUNT, 1.2)

    def test_roundTrip(self) -> None:
        """
        A message and its answer, which brings the acknowledgement along, cost so many
        calls at both ends together, those of the pair's own network left out.
        """
        pair = connectedPair(Echo())
        (link,) = pair.network.links

        def trip() -> None:
            """Ask, and take the answer."""
            pair.client.sendData(MESSAGE)
            link.server.receive(ROOM)
            link.client.receive(ROOM)

        trip()
        pair.clock.advance(0)
        self.assertLess(pythonCalls(trip), 145)
        self.assertEqual(len(pair.client.retrieved), 2)

    def test_waiting(self) -> None:
        """A message that a client waits for is handed over by so many calls of ours."""
        pair = connectedPair(Echo())
        taken: list[Packet] = []
        messages = Messages(1_000_000, (b"data",), 68, 68)

        def take() -> None:
            """Wait, and have it."""
            pair.client.retrieved.get().addCallback(taken.append)
            pair.client.arrived(messages)

        take()
        self.assertLessEqual(pythonCalls(take, dirname(aesm.__file__)), 3)
        self.assertEqual(taken, [(1.0, b"data")] * 2)

    def test_requests(self) -> None:
        """
        A request, begun and answered with others, costs so many calls at both ends
        together.
        """
        pair = connectedPair(Answers())
        answers: list[object] = []

        def ask() -> None:
            """Ask, and take the answers."""
            for _ in range(COUNT // 2):
                pair.client.request(MESSAGE).addCallback(answers.append)
            pair.deliver()

        ask()
        # 17.2 with the newest Twisted, 20.3 with the oldest.
        self.assertLess(pythonCalls(ask) / (COUNT // 2), 21)
        self.assertEqual(len(answers), COUNT)

    def test_oneAcknowledgement(self) -> None:
        """A burst that arrives in one turn is acknowledged in one record."""
        pair = connectedPair(Counter())
        (link,) = pair.network.links
        for _ in range(COUNT // 2):
            pair.client.sendData(MESSAGE)
        pair.clock.advance(0)
        link.server.receive(ROOM)
        self.assertEqual(len(records(bytes(link.toClient.inFlight))), 1)

    def test_frameInRecord(self) -> None:
        """
        A burst of messages of a KiB is read without putting a large frame together
        from two records.
        """
        pair = connectedPair(Counter())
        for _ in range(COUNT):
            pair.client.sendData(bytes(1024))
        torn: list[int] = []

        def keep(reader: FrameReader, data: bytes) -> None:
            """Keep a part of a frame, and remember its size."""
            torn.append(reader.missing)
            former(reader, data)

        former = FrameReader._keep
        self.patch(FrameReader, "_keep", keep)
        pair.deliver()
        self.assertEqual(pair.accepted.session.inbox.received, COUNT)
        self.assertLessEqual(max(torn, default=0), HALF)

    def test_connect(self) -> None:
        """What a client costs that connects, sends a message and closes."""
        pair = connectedPair(Echo())
        key, trust = PrivateKey.generate(), Pinned(pair.server.publicKey)
        endpoint = pair.network.endpoint()

        def visit() -> None:
            """Do so."""
            connecting = connect(pair.clock, endpoint, key=key, trust=trust)
            pair.deliver()
            connection = self.successResultOf(connecting)
            connection.sendData(MESSAGE)
            pair.deliver()
            connection.close()
            pair.deliver()

        visit()  # what is kept for the next ones
        self.assertLess(pythonCalls(visit, dirname(aesm.__file__)), 1065)

    def test_sendAll(self) -> None:
        """A message to all costs the same with any number of connections."""
        pair = connectedPair(Counter())
        others = [
            connect(
                pair.clock,
                pair.network.endpoint(),
                key=PrivateKey.generate(),
                trust=Pinned(pair.server.publicKey),
            )
            for _ in range(9)
        ]
        pair.deliver()
        self.assertEqual(len(pair.server.connections), 1 + len(others))
        self.patch(broadcast, "time_ns", lambda: 0)
        small = COUNT // 4  # fits one BATCH

        def send() -> None:
            """Send a burst to all."""
            for _ in range(small):
                pair.server.sendAll(MESSAGE)

        pair.server.sendAll(MESSAGE)  # which leaves at once
        self.assertLess(pythonCalls(send) / small, 9)

        encoded: list[object] = []

        def encodeBatch(*arguments: Any) -> list[bytes]:
            """Encode, and count it."""
            encoded.append(arguments)
            return encode(*arguments)

        self.patch(turn, "encodeBatch", encodeBatch)
        pair.clock.advance(0)
        self.assertLessEqual(len(encoded), 2)
