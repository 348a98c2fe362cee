"""
The targets of C{fuzz}, without a fuzzer: the corpus, and as many mutations of it as
fit into a few seconds, the same ones each time.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from random import Random
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from aesm import cipher
from aesm.chat import presence, rules, view
from aesm.chat.names import Register
from aesm.chat.presence import Person, Presence, Room
from aesm.cipher import Cipher
from aesm.core.channel.channel import Channel
from aesm.core.messages import framereader
from aesm.core.messages.batch import Batch, RestOfMessage
from aesm.core.messages.conversation import Conversation
from aesm.core.messages.frames import Ack, Messages, decodeText
from aesm.core.messages.hello import Hello
from aesm.core.messages.outbox import Outbox
from aesm.core.messages.session import Inbox
from aesm.errors import DecryptionError
from aesm.messages import requests
from aesm.messages.budget import Budget
from aesm.messages.turns import Turns
from aesm.secure.transport import SecureTransport
from aesm.server.sessions import Sessions, isResumed
from aesm.store.requests import DurableRequests
from fuzz.answerer import Broken
from fuzz.script import Script, altered
from fuzz.seeds import inputs
from fuzz.targets import NAMES, target
from tests.support.compiled import excepted

MUTATIONS = dict(  # of the slow
    server=60, keyfiles=150, handshake=300, offer=300, websocket=300
)
PLENTY = 800  # mutations of each other target

INTERESTING = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\0\0\0\0", b"\n", b"=")


def mutate(data: bytes, others: list[bytes], random: Random) -> bytes:
    """
    Change an input a little.

    @param data: the input.
    @param others: inputs to take parts from.
    @param random: makes the choices.
    @return: another input.
    """
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(changed))
        end = min(len(changed), start + random.choice((0, 1, 1, 2, 4, 16)))
        other = random.choice(others)
        match random.randrange(5):
            case 0 if end > start:
                changed[start] ^= 1 << random.randrange(8)
            case 1:
                changed[start:end] = random.choice(INTERESTING)
            case 2:
                changed[start:end] = random.randbytes(end - start)
            case 3:
                changed[start:start] = changed[start:end]
            case _:
                changed[start:] = other[random.randint(0, len(other)) :]
    return bytes(changed)


class TargetTests(SynchronousTestCase):
    """The invariants that the targets state hold."""

    def check(self, name: str) -> None:
        """
        Run one target.

        @param name: which.
        """
        run, corpus, random = target(name).run, inputs(name), Random(name)
        self.assertGreater(len(corpus), 5)
        for data in corpus:
            run(data)
        for _ in range(MUTATIONS.get(name, PLENTY)):
            data = mutate(random.choice(corpus), corpus, random)
            try:
                run(data)
            except Exception as error:
                error.add_note(f"the input is {data!r}")
                raise
        self.flushLoggedErrors(Broken)

    def test_offer(self) -> None:
        """A stranger's first bytes are refused as documented."""
        self.check("offer")

    def test_handshake(self) -> None:
        """An altered handshake is not believed by either side."""
        self.check("handshake")

    def test_records(self) -> None:
        """Altered records give the beginning of the stream, and an error."""
        self.check("records")

    def test_frames(self) -> None:
        """Any stream gives frames, and perhaps an error."""
        self.check("frames")

    def test_conversation(self) -> None:
        """A conversation keeps its rules whatever its peer does."""
        self.check("conversation")

    def test_hello(self) -> None:
        """Any JSON is a hello or refused."""
        self.check("hello")

    def test_keyfiles(self) -> None:
        """Any file is read or refused."""
        self.check("keyfiles")

    def test_tokens(self) -> None:
        """Only tokens that were made with the key decrypt."""
        self.check("tokens")

    def test_chat(self) -> None:
        """Whatever members write, the others see lines, and the terminal text."""
        self.check("chat")

    def test_stream(self) -> None:
        """A byte stream arrives as far as it was written, and its end behind it."""
        self.check("stream")

    def test_websocket(self) -> None:
        """Whatever comes over a WebSocket is handed on, or ends it."""
        if find_spec("wsproto") is None:  # pragma: no cover
            raise SkipTest("no wsproto")
        self.check("websocket")

    def test_server(self) -> None:
        """A server keeps its promises to honest clients, whatever strangers do."""
        self.check("server")

    def test_all(self) -> None:
        """No target is left out."""
        methods = {name.removeprefix("test_") for name in dir(self)}
        self.assertLessEqual(set(NAMES), methods)


class PlantedTests(SynchronousTestCase):
    """The corpus finds what the targets are there to find."""

    def finds(self, name: str, owner: object, attribute: str, fault: object) -> None:
        """
        Check that a fault breaks an invariant.

        @param name: the target.
        @param owner: what has the fault.
        @param attribute: where.
        @param fault: what is there instead.
        """
        run = target(name).run  # what it compares with is what was there before
        self.patch(owner, attribute, fault)
        with self.assertRaises(AssertionError):
            for data in inputs(name):
                run(data)
        gc.collect()  # the run was left in its middle: what it says then is not news
        self.flushLoggedErrors()

    @excepted
    def test_acknowledgedTooEarly(self) -> None:
        """A server's ACK counts one message more than it keeps."""
        takeAck = Inbox.takeAck

        def early(inbox: Inbox) -> Ack | None:
            """Count one too many."""
            ack = takeAck(inbox)
            if ack is None:
                return None
            count, limit = ack
            return Ack(min(count + 1, inbox.received), limit)

        self.finds("server", Inbox, "takeAck", early)

    @excepted
    def test_sentAgain(self) -> None:
        """A session goes on where it was acknowledged, not where it was received."""
        resume = Outbox.resume

        def stubborn(outbox: Outbox, peer: Hello) -> None:
            """Ignore what the peer has."""
            resume(outbox, replace(peer, received=outbox.acknowledged))

        self.finds("server", Outbox, "resume", stubborn)

    @excepted
    def test_answeredTwice(self) -> None:
        """A request of ours may be answered again and again."""

        def careless(outbox: Outbox, number: int) -> object:
            """Find who waits, and leave it there."""
            return (outbox.asked or {}).get(number)

        self.finds("conversation", Outbox, "answered", careless)

    @excepted
    def test_answerForgotten(self) -> None:
        """An answer that cannot be sent any more counts as given."""
        self.finds("server", requests, "_isSent", lambda sent: True)

    def test_answeredAgain(self) -> None:
        """A request that is answered stays in the spool."""
        self.finds("server", DurableRequests, "ended", lambda requests, request: None)

    def test_sessionOfOthers(self) -> None:
        """A session is given to any key that knows its name."""

        def find(sessions: Sessions, hello: Hello, peer: object) -> object:
            """Look at the name only."""
            connection = sessions._byName.get(hello.session)
            if connection is None or not isResumed(connection, hello):
                return None
            return connection

        self.finds("server", Sessions, "find", find)

    def test_budgetKept(self) -> None:
        """What a connection held is not given back to the budget."""
        account = Budget.account

        def greedy(budget: Budget, more: int) -> None:
            """Take, and give nothing back."""
            account(budget, max(0, more))

        self.finds("server", Budget, "account", greedy)

    @excepted
    def test_unboundedWindow(self) -> None:
        """A message past the limit is taken."""

        def receive(inbox: Inbox, messages: Messages) -> None:
            """Take everything."""
            inbox.receivedCost += messages.cost
            inbox.received += len(messages.data)

        self.finds("server", Inbox, "receive", receive)

    @excepted
    def test_unexpected(self) -> None:
        """A frame raises what nobody expects."""
        self.finds("server", Conversation, "_takeOther", lambda *arguments: 1 / 0)

    def test_notEnded(self) -> None:
        """A WebSocket that was ended goes on."""
        if find_spec("wsproto") is None:  # pragma: no cover
            raise SkipTest("no wsproto")
        owner = target("websocket").WebSocketProtocol
        self.finds("websocket", owner, "_ends", lambda protocol, end: None)

    def test_turnForgotten(self) -> None:
        """Who gave up the turn does not get another one."""
        self.finds("server", Turns, "wait", lambda turns, worker, delay=0.0: None)

    @excepted
    def test_restElsewhere(self) -> None:
        """The rest of a message leaves out a byte."""
        after = RestOfMessage.after

        def late(batch: Batch, skip: int) -> RestOfMessage:
            """Begin a byte later."""
            return after(batch, skip + 1)

        self.finds("conversation", RestOfMessage, "after", late)

    @excepted
    def test_unboundedBatch(self) -> None:
        """A BATCH may count anything."""
        self.finds("frames", framereader, "MAX_BATCH", 10**9)

    @excepted
    def test_wideText(self) -> None:
        """A text takes four bytes of memory for each byte that came."""
        self.finds("frames", framereader, "textOf", decodeText)

    def test_escapes(self) -> None:
        """A screen lets ESC through."""
        self.finds("chat", view, "escape", lambda text: text)

    def test_forgedLines(self) -> None:
        """The rules let a line end within what somebody said."""
        self.finds("chat", rules, "oneLine", lambda text: text)

    def test_sameNames(self) -> None:
        """The rules take names for different that look the same."""
        self.finds("chat", Register, "alike", lambda register, name: [])

    def test_history(self) -> None:
        """A room remembers everything."""
        self.finds("chat", presence, "HISTORY_LINES", 10**6)

    def test_silentLeave(self) -> None:
        """Nobody is told who leaves a room."""
        tellRoom = Presence._tellRoom

        def silent(chat: Presence, room: Room, line: str) -> None:
            """Tell everything else."""
            if not line.startswith("leave "):
                tellRoom(chat, room, line)

        self.finds("chat", Presence, "_tellRoom", silent)

    def test_notMissed(self) -> None:
        """Nobody is told who has been cut off for long."""
        self.finds("chat", Presence, "away", lambda chat, member: [])

    def test_notIgnored(self) -> None:
        """Who is ignored is heard."""

        def loud(chat: rules.Chat, person: Person, text: str, now: float) -> None:
            """Say something to all in the room."""
            if person.room is not None:
                line = f"say {person.room.name} {person.name}: {text}"
                chat._tellRoom(person.room, line)

        self.finds("chat", rules.Chat, "_say", loud)

    def test_notAllRead(self) -> None:
        """Who goes on with the chat does not know who ignores whom."""
        goOn = Presence.goOn

        def forgetful(chat: Presence, state: dict[str, Any]) -> None:
            """Leave that out."""
            goOn(chat, state)
            for person in chat._people.values():
                person.ignored.clear()

        self.finds("chat", Presence, "goOn", forgetful)

    def test_banned(self) -> None:
        """Operators are banned like others."""
        outcast = rules.Chat._outcast

        def anybody(chat: rules.Chat, person: Person, argument: str) -> object:
            """Let nobody be an operator meanwhile."""
            operators, chat._operators = chat._operators, set()
            found = outcast(chat, person, argument)
            chat._operators = operators
            return found

        self.finds("chat", rules.Chat, "_outcast", anybody)

    def test_pauseIgnored(self) -> None:
        """A stream goes on to one who has paused."""
        self.finds("stream", SecureTransport, "pauseProducing", lambda transport: None)

    @excepted
    def test_pausedReordered(self) -> None:
        """What came while one had paused comes in another order."""

        def take(transport: SecureTransport) -> Iterator[object]:
            """Take the newest first."""
            while transport._inbound and not transport.paused:
                yield transport._inbound.pop()

        self.finds("stream", SecureTransport, "_takePaused", take)

    @excepted
    def test_cutIsEnd(self) -> None:
        """A stream whose transport has ended, but not the stream, looks whole."""
        self.finds("stream", Channel, "transportEnded", lambda channel: [])

    def test_associatedData(self) -> None:
        """A token decrypts with any associated data."""
        decrypt = Cipher.decryptBytes

        def careless(cipher: Cipher, token: bytes | str, data: bytes = b"") -> bytes:
            """Try all that there are."""
            for each in (b"associated", b"", data):
                with contextlib.suppress(DecryptionError):
                    return decrypt(cipher, token, each)
            return decrypt(cipher, token, data)

        self.finds("tokens", Cipher, "decryptBytes", careless)

    def test_otherSpellings(self) -> None:
        """A token has several spellings."""

        def decode(token: bytes | str) -> bytes:
            """Decode what can be decoded."""
            text = token.encode() if isinstance(token, str) else token
            try:
                return base64.urlsafe_b64decode(text + b"==")
            except ValueError:
                raise DecryptionError("no base64") from None

        self.finds("tokens", cipher, "_decodeToken", decode)


class CoverageTests(SynchronousTestCase):
    """What the corpus reaches can be asked for."""

    def test_printed(self) -> None:
        """Each target has a line of what it reaches, and each package how far."""
        asked = subprocess.run(
            [sys.executable, "-m", "fuzz", "--coverage", "tokens"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual((asked.returncode, asked.stderr), (0, ""))
        self.assertRegex(asked.stdout, r"\ntokens +\d+ +\d+ +\d+ +cipher \d+")
        self.assertRegex(asked.stdout, r"\ncipher +\d+ +\d+%\n")


class ScriptTests(SynchronousTestCase):
    """An input is a script, however short it is."""

    def test_past(self) -> None:
        """Past its end a script is all zeroes."""
        script = Script(b"\1\2\3")
        self.assertEqual([script.number(2), script.number(2)], [0x0102, 0x0300])
        self.assertFalse(script.more)
        self.assertEqual((script.number(), script.rest()), (0, b""))

    def test_altered(self) -> None:
        """Each way to alter a frame does what it says."""
        frames = [b"\0\1a", b"\0\1b"]
        for way, expected in (
            (b"\0\0\0\2\1", b"\0\1`\0\1b"),
            (b"\0\1\0\2", b"\0\1\0\1b"),
            (b"\0\2\0\2\1x", b"\0\1xa\0\1b"),
            (b"\0\3\0\0", b"\0\1a\0\1a\0\1b"),
            (b"\0\4\0\0", b"\0\1b"),
            (b"\0\5\0\0", b"\0\1b\0\1a"),
            (b"\0\6\0\0\0\2yz", b"\0\2yz\0\1b"),
        ):
            self.assertEqual(b"".join(altered(frames, Script(way))), expected)
        for how in range(7):
            altered([], Script(bytes([0, how])))
