"""
Tests of L{aesm.core.channel.channel}: the channel's states, records, and its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.channel.channel import REKEY_INTERVAL, Channel
from aesm.core.channel.events import EndOfStream, Event, Failed, Opened, PeerIdentified
from aesm.core.channel.framing import HALF, MAX_PLAINTEXT, frame
from aesm.core.channel.roles import ServerChannel
from aesm.core.channel.settings import withPSK
from aesm.core.channel.states import CHANNEL_TRANSITIONS, State
from aesm.errors import (
    AESMError,
    HandshakeError,
    NonceExhausted,
    ProtocolError,
    TamperedRecord,
    Truncated,
)
from aesm.noise import MAX_NONCE, CipherState, KeyPair
from tests.support.helpers import (
    ALL_HERE,
    CLIENT_KEY,
    SERVER_KEY,
    XX,
    channelSettings,
    chunkSizes,
    converse,
    failure,
    feed,
    makeChannels,
    openChannels,
    outline,
    pieces,
)

CLIENT = KeyPair.fromBytes(CLIENT_KEY).public
SERVER = KeyPair.fromBytes(SERVER_KEY).public
OFFER = frame(b"AESM/1 " + XX.encode())

ENDING = {State.PEER_ENDED, State.ENDED}
OVER = {State.REJECTED, State.FAILED}


def openToForeigner() -> tuple[CipherState, CipherState, ServerChannel]:
    """
    Open a channel to a client that is nothing but two cipher states.

    @return: the client's to send with, the client's to receive with, the server.
    """
    server = makeChannels()[1]
    noise = channelSettings(CLIENT_KEY).handshakes[XX](initiator=True)
    server.receive(OFFER + frame(noise.writeMessage()))
    noise.readMessage(server.takeOutput()[2:])
    feed(server, [frame(noise.writeMessage())])
    return *noise.split(), server


def recordsOf(output: bytes) -> list[bytes]:
    """
    Cut output into records.

    @param output: whole records, lengths included.
    @return: the ciphertexts.
    """
    records = []
    while output:
        end = 2 + int.from_bytes(output[:2], "big")
        records.append(output[2:end])
        output = output[end:]
    return records


def sealed(channel: Channel, data: bytes) -> bytes:
    """
    Make a channel send something.

    @param channel: the channel.
    @param data: what to send.
    @return: the record, its length included.
    """
    channel.send(data)
    return channel.takeOutput()


class StateTests(SynchronousTestCase):
    """Every state, and whatever can happen in it."""

    states = (
        *product((0,), set(State) - {State.HANDSHAKE, State.ANSWERED}),
        *product((1,), set(State) - {State.REFUSAL}),
    )

    def enter(self, role: int, state: State) -> Channel:
        """
        Bring a channel into a state.

        @param role: 0 for a client, 1 for a server.
        @param state: the state.
        """
        channels = makeChannels()
        channel, peer = channels[role], channels[1 - role]
        match state:
            case State.REFUSAL:
                channel.receive(b"\x00\x00")
            case State.HANDSHAKE:
                channel.receive(OFFER)
            case State.ANSWERED:
                channel.receive(peer.takeOutput())
            case State.DECISION | State.REJECTED:
                channels[1].receive(channels[0].takeOutput())
                if role == 1:
                    feed(peer, [channel.takeOutput()])
                channel.receive(peer.takeOutput())
            case State.FAILED:
                channel.receive(b"\xff")
            case _ if state is not State.OFFER:
                converse(*channels)
        if state is State.REJECTED:
            channel.reject()
        if state in ENDING:
            peer.endOfStream()
            channel.receive(peer.takeOutput())
        if state in (State.SELF_ENDED, State.ENDED):
            channel.endOfStream()
        channel.takeOutput()
        self.assertIs(channel.state, state)
        return channel

    def walk(
        self, act: Callable[[Channel], Any], expected: dict[type | None, set[State]]
    ) -> None:
        """
        Do something in every state.

        @param act: what to do; may return events.
        @param expected: the states in which each error comes of it, raised or as
            the only event; None: no error, and no event.
        """
        for role, state in self.states:
            channel = self.enter(role, state)
            try:
                events = act(channel) or []
                error = failure(events) if events else None
            except (RuntimeError, ValueError) as raised:
                error = raised
                self.assertIs(channel.state, state)
            (kind,) = (kind for kind, where in expected.items() if state in where)
            self.assertIs(type(error) if error else None, kind, (role, state))
            if isinstance(error, AESMError):
                self.assertIs(channel.state, State.FAILED)
                self.assertEqual(channel.receive(b"more"), [])

    def test_table(self) -> None:
        """A pair that is not in the table is refused, and the state stays."""
        events = {what for _, what in CHANNEL_TRANSITIONS}
        for state, what in product(State, events):
            channel = makeChannels()[1]
            channel.state = state
            if (state, what) in CHANNEL_TRANSITIONS:
                channel._move(what)
                self.assertIs(channel.state, CHANNEL_TRANSITIONS[state, what])
            else:
                self.assertRaises(KeyError, channel._move, what)
                self.assertIs(channel.state, state)

    def test_ends(self) -> None:
        """
        From everywhere there is a way to an end, from an end there is none, and the
        table leads to every state but failure, which needs no entry.
        """
        after: dict[State, set[State]] = {state: set() for state in State}
        for (state, _), following in CHANNEL_TRANSITIONS.items():
            after[state].add(following)
        ends = {State.REJECTED, State.ENDED, State.FAILED}
        self.assertEqual({s for s in State if not after[s]}, ends | {State.REFUSAL})
        reached = {State.OFFER}.union(*after.values())
        self.assertEqual(set(State) - reached, {State.FAILED})

    def test_send(self) -> None:
        """Only an open direction takes bytes."""
        writing = {State.OPEN, State.PEER_ENDED}
        expected: dict[type | None, set[State]] = {
            None: writing,
            RuntimeError: set(State) - writing,
        }
        self.walk(lambda channel: channel.send(b"data"), expected)
        self.walk(lambda channel: channel.send(b""), expected)
        self.walk(lambda channel: channel.endOfStream(), expected)

    def test_decide(self) -> None:
        """
        There is a decision only where one was asked for; after a failure it comes
        too late.
        """
        expected: dict[type | None, set[State]] = {
            None: {State.DECISION, State.FAILED},
            RuntimeError: set(State) - {State.DECISION, State.FAILED},
        }
        self.walk(lambda channel: channel.reject(), expected)
        for role, state in self.states:
            channel = self.enter(role, state)
            if state is State.DECISION:
                self.assertEqual(channel.accept(), [Opened()])
            elif state is State.FAILED:
                self.assertEqual(channel.accept(), [])
            else:
                self.assertRaises(RuntimeError, channel.accept)

    def test_receiveNothing(self) -> None:
        """No bytes do no harm."""
        self.walk(lambda channel: channel.receive(b""), {None: set(State)})

    def test_takeNothing(self) -> None:
        """Where nothing is to be sent, nothing is."""
        for role, state in self.states:
            self.assertEqual(self.enter(role, state).takeOutput(), b"")

    def test_receiveNonsense(self) -> None:
        """Bytes that are wrong everywhere end whatever has not ended."""
        for role, state in self.states:
            channel = self.enter(role, state)
            events = channel.receive(b"\x00\x05.....")
            if state in OVER | {State.DECISION}:
                self.assertEqual(events, [])
                self.assertIs(channel.state, state)
            else:
                self.assertIsInstance(failure(events), AESMError)
                self.assertIs(channel.state, State.FAILED)

    def test_receiveTooMuch(self) -> None:
        """
        A single byte behind the end of stream is an error; elsewhere it is the
        beginning of something.
        """
        expected: dict[type | None, set[State]] = {
            ProtocolError: ENDING,
            None: set(State) - ENDING,
        }
        self.walk(lambda channel: channel.receive(b"\x00"), expected)

    def test_transportEnds(self) -> None:
        """
        A transport may end where nothing more was to come; everywhere else that is
        an error, and a truncated stream is never a clean end.
        """
        quiet = OVER | ENDING
        truncated = {State.OPEN, State.SELF_ENDED}
        for role, state in self.states:
            channel = self.enter(role, state)
            events = channel.transportEnded()
            if state in quiet:
                self.assertEqual(events, [])
                self.assertIs(channel.state, state)
                continue
            kind = Truncated if state in truncated else HandshakeError
            self.assertIsInstance(failure(events), kind)
            self.assertEqual(channel.transportEnded(), [])
            self.assertEqual(channel.receive(b"more"), [])

    def test_roles(self) -> None:
        """A channel has a role."""
        channel = Channel(channelSettings(CLIENT_KEY))
        for act in (
            lambda: channel._receiveHandshake(memoryview(b"."), []),
            lambda: channel._finish(b""),
            lambda: channel._dismiss(b""),
            channel._unfinished,
        ):
            self.assertRaises(NotImplementedError, act)


class RecordTests(SynchronousTestCase):
    """Bytes of the stream."""

    def test_sizes(self) -> None:
        """What is sent arrives, in as few records as possible."""
        client, server = openChannels()
        most = MAX_PLAINTEXT
        for size in (1, 2, 16, 17, most - 1, most, most + 1, 2 * most, 2 * most + 1):
            data = bytes(position % 251 for position in range(size))
            output = sealed(client, data)
            lengths = [len(record) - 16 for record in recordsOf(output)]
            whole, rest = divmod(size, most)
            self.assertEqual(lengths, [most] * whole + [rest] * (rest > 0))
            events = server.receive(output)
            self.assertEqual([type(event) for event in events], [bytes] * len(lengths))
            got = b"".join(e for e in events if isinstance(e, bytes))
            self.assertEqual(got, data)

    @given(st.integers(1, 7), chunkSizes)
    @settings(max_examples=50, deadline=None)
    def test_atOnce(self, most: int, sizes: list[int]) -> None:
        """
        One call opens so many records at most, and says that there may be more; in the
        end it is the same, and an error comes where it would.
        """
        for altered in (False, True):
            client, server = openChannels()
            output = b"".join(sealed(client, b"%d" % number) for number in range(20))
            client.endOfStream()
            output += client.takeOutput()
            if altered:
                output = output[:-1] + bytes([output[-1] ^ 1])
            server.atOnce = most
            events: list[Event] = []
            for piece in pieces(output, sizes):
                events += (part := server.receive(piece))
                while server.more:
                    self.assertEqual(len(part), most)
                    events += (part := server.receive(b""))
                self.assertLessEqual(len(part), most + altered)
            self.assertEqual(events[:20], [b"%d" % number for number in range(20)])
            self.assertIsInstance(events[20], Failed if altered else EndOfStream)
            self.assertEqual(len(events), 21)

    def test_slowStart(self) -> None:
        """
        Records can begin small, each twice as large as the one before, and then are as
        ever; the end of the stream is one of its own.
        """
        client, _ = openChannels()
        client.recordSize = 2048
        data = bytes(range(256)) * 1024
        client.send(data)
        client.endOfStream()
        lengths = [len(record) - 16 for record in recordsOf(client.takeOutput())]
        self.assertEqual(lengths[:5], [2048, 4096, 8192, 16384, 32768])
        self.assertEqual(lengths[5:7], [MAX_PLAINTEXT] * 2)
        self.assertEqual(lengths[-1], 0)
        self.assertEqual(sum(lengths), len(data))

    def test_slowStartArrives(self) -> None:
        """What is sent in small records arrives, piece by piece."""
        client, server = openChannels()
        client.recordSize = 2048
        for size in (5000, 1, 70_000, 200_000):
            data = bytes(position % 251 for position in range(size))
            events = server.receive(sealed(client, data))
            self.assertEqual(b"".join(e for e in events if type(e) is bytes), data)

    def test_nothing(self) -> None:
        """Nothing is not sent: an empty record has a meaning."""
        client, _ = openChannels()
        self.assertEqual(sealed(client, b""), b"")

    def test_shared(self) -> None:
        """What is queued shares records."""
        client, server = openChannels()
        for most in (HALF, MAX_PLAINTEXT):  # which is not torn, or fits none
            for text in (b"one ", b"", b"two ", bytes(most), b"end"):
                client.send(text)
            events = server.receive(client.takeOutput())
            if most == HALF:
                self.assertEqual(events, [b"one two " + bytes(most) + b"end"])
            else:
                self.assertEqual(events, [b"one two ", bytes(most), b"end"])
        for text in (b"one ", bytes(MAX_PLAINTEXT + 1)):
            client.send(text)
        events = server.receive(client.takeOutput())
        first = b"one " + bytes(MAX_PLAINTEXT - 4)
        self.assertEqual(events, [first, bytes(5)])

    def test_bothWays(self) -> None:
        """Both sides send, with keys and nonces of their own."""
        client, server = openChannels()
        one, two = sealed(client, b"same"), sealed(server, b"same")
        self.assertNotIn(one, (two, sealed(client, b"same")))
        self.assertEqual(server.receive(one), [b"same"])
        self.assertEqual(client.receive(two), [b"same"])

    def test_tooShort(self) -> None:
        """A record that is shorter than its tag is refused by its length."""
        for size in (0, 1, 15):
            _, server = openChannels()
            self.assertEqual(server.receive(b"\x00"), [])
            error = failure(server.receive(bytes([size])))
            self.assertIsInstance(error, TamperedRecord)
            self.assertIn("shorter than its tag", str(error))

    def test_flips(self) -> None:
        """
        A bit that is flipped anywhere in a record ends the channel when the record
        is whole, and nothing of it is delivered.
        """
        length = len(sealed(openChannels()[0], b"text"))
        for position, bit in product(range(length), (0, 7)):
            client, server = openChannels()
            before, record = sealed(client, b"before"), sealed(client, b"text")
            altered = bytearray(record)
            altered[position] ^= 1 << bit
            after = sealed(client, bytes(MAX_PLAINTEXT))
            events = server.receive(before + altered + after)
            self.assertEqual(events.pop(0), b"before")
            self.assertIsInstance(failure(events), TamperedRecord)
            self.assertEqual(len(events), 1)
            self.assertEqual(server.receive(record), [])

    def test_misplaced(self) -> None:
        """
        Records that are replayed, left out, exchanged, or sent back to where they
        came from do not authenticate.
        """
        for order, good in (((0, 0), 1), ((1, 0), 0), ((0, 2, 1), 1), ((3,), 0)):
            client, server = openChannels()
            records = [sealed(client, b"%d" % number) for number in range(3)]
            records.append(sealed(server, b"3"))
            events = server.receive(b"".join(records[number] for number in order))
            self.assertIsInstance(failure(events), TamperedRecord)
            self.assertEqual(len(events), good + 1)

    def test_truncated(self) -> None:
        """
        A part of a record is nothing yet, and if the transport ends in it, the
        stream is truncated.
        """
        for length in range(len(sealed(openChannels()[0], b"text"))):
            client, server = openChannels()
            self.assertEqual(server.receive(sealed(client, b"text")[:length]), [])
            error = failure(server.transportEnded())
            self.assertIsInstance(error, Truncated)

    def test_memory(self) -> None:
        """
        Of a stream that comes in small pieces, no more is kept than the record that
        is not whole.
        """
        client, server = openChannels()
        data = b"".join(sealed(client, bytes(500)) for _ in range(20))
        for chunk in pieces(data, (1, 7, 700)):
            server.receive(chunk)
            self.assertLess(len(server._received), 2 + 500 + 16)

    def test_failure(self) -> None:
        """A failure lets go of keys and of what was queued or received."""
        _, server = openChannels()
        server.send(b"queued")
        error = failure(server.receive(frame(bytes(20)) + bytes(30)))
        self.assertIsInstance(error, TamperedRecord)
        self.assertEqual(server.takeOutput(), b"")
        self.assertEqual((server._queue, len(server._received)), ([], 0))
        for secret in ("_noise", "_encrypt", "_decrypt"):
            self.assertFalse(hasattr(server, secret))
        self.assertRaises(RuntimeError, server.send, b"more")

    def test_restOfFailed(self) -> None:
        """A channel that has failed, or is not open yet, has nothing to let go of."""
        _, server = openChannels()
        failure(server.receive(frame(bytes(20))))
        for channel in (server, *makeChannels()):
            channel.rest()
            self.assertFalse(channel.resting)

    def test_nothingInReach(self) -> None:
        """
        An error does not keep what was in use where it was raised: with the failure,
        keys and buffers are gone.
        """
        _, server = openChannels()
        errors = [failure(server.receive(frame(bytes(20))))]
        for suite in ALL_HERE:
            client, server = makeChannels(suite)[0], makeChannels(suite, name="x")[1]
            events = server.receive(client.takeOutput())
            errors.append(failure(events or client.receive(server.takeOutput())))
        for error in errors:
            self.assertIsNone(error.__traceback__)
            self.assertIsNone(error.__context__)

    def test_lastNonce(self) -> None:
        """The nonce 2^64-1 is never used, neither to seal nor to open."""
        client, server = openChannels()
        client._encrypt.n = server._decrypt.n = MAX_NONCE - 1
        self.assertEqual(server.receive(sealed(client, b"last")), [b"last"])
        client.send(b"more")
        self.assertRaises(NonceExhausted, client.takeOutput)
        error = failure(server.receive(frame(bytes(16))))
        self.assertIsInstance(error, NonceExhausted)


class RekeyTests(SynchronousTestCase):
    """New keys after 65,536 records, PROTOCOL section 4."""

    def test_incoming(self) -> None:
        """
        After 65,536 records of a foreign client, the next must be sealed with the
        next key; the nonce keeps counting.
        """
        seal, _, server = openToForeigner()
        data = bytearray()
        for _ in range(REKEY_INTERVAL):
            data += frame(seal.encryptWithAd(b"", b"."))
        self.assertEqual(len(server.receive(bytes(data))), REKEY_INTERVAL)
        seal.rekey()
        self.assertEqual(seal.n, REKEY_INTERVAL)
        record = frame(seal.encryptWithAd(b"", b"next"))
        self.assertEqual(server.receive(record), [b"next"])

    def test_outgoing(self) -> None:
        """A server changes its key at the same count."""
        _, receive, server = openToForeigner()
        server._sealed = server._encrypt.n = receive.n = REKEY_INTERVAL - 1
        server.send(b"last")
        (last,) = recordsOf(server.takeOutput())
        self.assertEqual(receive.decryptWithAd(b"", last), b"last")
        receive.rekey()
        (following,) = recordsOf(sealed(server, b"next"))
        self.assertEqual(receive.decryptWithAd(b"", following), b"next")
        self.assertEqual(receive.n, REKEY_INTERVAL + 1)

    def test_everyTime(self) -> None:
        """Each direction has a count of its own, and starts it anew."""
        for suite in ALL_HERE:
            client, server = openChannels(suite)
            for sender, receiver in ((client, server), (server, client)):
                for _ in range(2):
                    before = sender._encrypt._aead, receiver._decrypt._aead
                    sender._sealed = receiver._opened = REKEY_INTERVAL - 2
                    for number in range(4):
                        text = b"%d" % number
                        events = receiver.receive(sealed(sender, text))
                        self.assertEqual(events, [text])
                    self.assertIsNot(sender._encrypt._aead, before[0])
                    self.assertIsNot(receiver._decrypt._aead, before[1])
                    self.assertEqual((sender._sealed, receiver._opened), (2, 2))

    def test_oldKey(self) -> None:
        """The old key opens nothing any more."""
        seal, _, server = openToForeigner()
        server._opened = REKEY_INTERVAL - 1
        record = frame(seal.encryptWithAd(b"", b"last"))
        self.assertEqual(server.receive(record), [b"last"])
        record = frame(seal.encryptWithAd(b"", b"next"))
        self.assertIsInstance(failure(server.receive(record)), TamperedRecord)

    def test_endCounts(self) -> None:
        """An end of stream is a record like any other."""
        client, server = openChannels()
        client._sealed = REKEY_INTERVAL - 1
        server._opened = REKEY_INTERVAL - 1
        client.endOfStream()
        self.assertEqual(server.receive(client.takeOutput()), [EndOfStream()])
        self.assertEqual((client._sealed, server._opened), (0, 0))


class EndTests(SynchronousTestCase):
    """The end of stream, PROTOCOL section 5."""

    def test_halfClose(self) -> None:
        """Either direction may end first; the other goes on."""
        for role in (0, 1):
            channels: list[Channel] = [*openChannels()]
            one, two = channels[role], channels[1 - role]
            one.send(b"last words")
            one.endOfStream()
            events = two.receive(one.takeOutput())
            self.assertEqual(events, [b"last words", EndOfStream()])
            self.assertRaises(RuntimeError, one.send, b"more")
            self.assertEqual(one.receive(sealed(two, b"answer")), [b"answer"])
            two.endOfStream()
            self.assertEqual(one.receive(two.takeOutput()), [EndOfStream()])
            for channel in channels:
                self.assertIs(channel.state, State.ENDED)
                self.assertEqual(channel.transportEnded(), [])

    def test_crossing(self) -> None:
        """Both may end at once."""
        channels: list[Channel] = [*openChannels()]
        for channel in channels:
            channel.endOfStream()
        outputs = [channel.takeOutput() for channel in channels]
        for channel, output in zip(channels, outputs[::-1], strict=True):
            self.assertEqual(channel.receive(output), [EndOfStream()])
            self.assertIs(channel.state, State.ENDED)

    def test_authenticated(self) -> None:
        """An end that does not authenticate is none."""
        _, server = openChannels()
        error = failure(server.receive(frame(bytes(16))))
        self.assertIsInstance(error, TamperedRecord)

    def test_bytesBehind(self) -> None:
        """
        Bytes behind the end are an error, in the same segment or later, whether our
        own direction has ended or not.
        """
        for ended, together in product((False, True), repeat=2):
            client, server = openChannels()
            if ended:
                server.endOfStream()
            client.endOfStream()
            output = client.takeOutput()
            if together:
                events = server.receive(output + b".")
            else:
                events = server.receive(output) + server.receive(b".")
            self.assertEqual(events[0], EndOfStream())
            error = failure(events[1:])
            self.assertIsInstance(error, ProtocolError)
            self.assertIn("bytes after the authenticated end", str(error))

    def test_secondEnd(self) -> None:
        """So is a second end."""
        seal, _, server = openToForeigner()
        end = frame(seal.encryptWithAd(b"", b""))
        self.assertEqual(server.receive(end), [EndOfStream()])
        end = frame(seal.encryptWithAd(b"", b""))
        self.assertIsInstance(failure(server.receive(end)), ProtocolError)

    def test_emptyEnd(self) -> None:
        """An end may be all that is ever sent; it is one empty record."""
        _, receive, server = openToForeigner()
        server.endOfStream()
        (record,) = recordsOf(server.takeOutput())
        self.assertEqual(receive.decryptWithAd(b"", record), b"")


class AnyTests(SynchronousTestCase):
    """
    Whatever is sent, however it is cut, and whatever becomes of it.  With one fresh
    key for all, a conversation is the same each time, and can be altered.
    """

    def setUp(self) -> None:
        """
        Fix the fresh keys, and write down a conversation for each name that has no
        other randomness.
        """
        pair = KeyPair.fromBytes(b"\x33" * 32)
        self.patch(KeyPair, "generate", lambda: pair)
        self.spoken = {suite: self._speak(suite) for suite in (XX, withPSK(XX))}

    def _speak(self, suite: str) -> tuple[bytes, bytes]:
        """
        Write down a conversation.

        @param suite: the suite of both.
        @return: all that the client got, and all that the server got.
        """
        client, server = makeChannels(suite)
        toServer = client.takeOutput()
        feed(server, [toServer])
        toClient = server.takeOutput()
        feed(client, [toClient], b"hello")
        more = client.takeOutput()
        feed(server, [more])
        for channel in (client, server):
            channel.send(b"some data")
            channel.send(bytes(300))
        toServer += more + client.takeOutput()
        toClient += server.takeOutput()
        for channel in (client, server):
            channel.endOfStream()
        return toClient + server.takeOutput(), toServer + client.takeOutput()

    def check(
        self, suite: str, role: int, data: bytes, sizes: Sequence[int]
    ) -> list[Event]:
        """
        Check that bytes cause the same whole and in pieces, that errors are
        documented ones, and that nothing follows them.

        @param suite: the suite.
        @param role: who gets them: 0 for the client.
        @param data: the bytes.
        @param sizes: how they are cut.
        @return: what they caused.
        """
        whole, cut = makeChannels(suite)[role], makeChannels(suite)[role]
        events = feed(whole, [data], b"hello")
        inPieces = feed(cut, pieces(data, sizes), b"hello")
        self.assertEqual(outline(inPieces), outline(events))
        self.assertEqual(cut.takeOutput(), whole.takeOutput())
        self.assertIs(cut.state, whole.state)
        for channel in (whole, cut):
            if channel.state is State.FAILED:
                self.assertIsInstance(failure(events), AESMError)
                self.assertEqual(feed(channel, [data]), [])
                self.assertEqual(channel.transportEnded(), [])
                self.assertEqual(channel.takeOutput(), b"")
        return events

    @settings(max_examples=20, deadline=None)
    @given(st.sampled_from([XX, withPSK(XX)]), chunkSizes)
    def test_anyChunking(self, suite: str, sizes: list[int]) -> None:
        """
        However a whole conversation is cut, the same comes of it.

        @param suite: the suite.
        @param sizes: how it is cut.
        """
        for role, peer, payload in ((0, SERVER, b""), (1, CLIENT, b"hello")):
            events = self.check(suite, role, self.spoken[suite][role], sizes)
            sent = b"some data" + bytes(300)
            expected = [PeerIdentified(peer, payload), Opened(), sent, EndOfStream()]
            self.assertEqual(events, expected)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_altered(self, data: Any) -> None:
        """
        So it is if the conversation is altered anywhere, and then it does not come
        to its end.

        @param data: draws what is done.
        """
        suite = data.draw(st.sampled_from([XX, withPSK(XX)]))
        role = data.draw(st.integers(0, 1))
        spoken = self.spoken[suite][role]
        start = data.draw(st.integers(0, len(spoken) - 1))
        end = data.draw(st.integers(start, min(start + 40, len(spoken))))
        new = data.draw(st.binary(max_size=40))
        altered = spoken[:start] + new + spoken[end:]
        events = self.check(suite, role, altered, data.draw(chunkSizes))
        if not altered.startswith(spoken):
            self.assertNotIn(EndOfStream(), events)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 1), st.binary(max_size=200), chunkSizes)
    def test_random(self, role: int, data: bytes, sizes: list[int]) -> None:
        """
        Random bytes, behind a good beginning or not, open nothing.

        @param role: who gets them: 0 for the client.
        @param data: the bytes.
        @param sizes: how they are cut.
        """
        for start in (b"", b"\x00", (b"\x00\x00", OFFER)[role]):
            events = self.check(XX, role, start + data, sizes)
            self.assertNotIn(Opened(), events)

    def test_everyByte(self) -> None:
        """
        A bit flipped in any byte of a conversation is noticed: it does not come to
        its end, and if it is in the handshake, not even to the decision.
        """
        for role, proof in ((0, 2 + 96), (1, len(OFFER) + 34 + 2 + 64 + 5)):
            spoken = self.spoken[XX][role]
            for position in range(len(spoken)):
                altered = bytearray(spoken)
                altered[position] ^= 1 << position % 8
                channel = makeChannels()[role]
                events = feed(channel, [bytes(altered)], b"hello")
                self.assertNotIn(EndOfStream(), events)
                if position < proof:
                    self.assertIsInstance(failure(events), HandshakeError)
                    self.assertEqual(len(events), 1)

    @settings(max_examples=30, deadline=None)
    @given(st.data())
    def test_stream(self, data: Any) -> None:
        """
        Whatever both sides send, with other things between and cut up anyhow,
        arrives whole and in order.

        @param data: draws what is done.
        """
        channels = openChannels()
        sent, got = [b"", b""], [b"", b""]
        steps = st.tuples(
            st.integers(0, 1), st.one_of(st.none(), st.binary(max_size=99))
        )
        for role, text in (*data.draw(st.lists(steps)), (0, None), (1, None)):
            if text is not None:
                channels[role].send(text)
                sent[role] += text
                continue
            chunks = pieces(channels[role].takeOutput(), data.draw(chunkSizes))
            for event in feed(channels[1 - role], chunks):
                assert isinstance(event, bytes)
                got[role] += event
        self.assertEqual(got, sent)
