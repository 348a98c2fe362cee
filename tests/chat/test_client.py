"""
What the clients of the chat share: reading lines, connecting again, leaving.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm import AnyServer, Pinned, PrivateKey, listen
from aesm.chat import client as chatclient
from aesm.chat.client import ChatClient, ChatView
from aesm.chat.handler import ChatHandler
from aesm.errors import ConnectionClosed, NotAuthorized, UntrustedServer
from aesm.server.registry import Connections
from aesm.server.service import Server
from aesm.testing import MemoryNetwork

NOON = 1_700_049_600.0  # in UTC


class ChatViewTests(SynchronousTestCase):
    """The lines of the server, as they are shown, and what is kept of them."""

    def shown(self, view: ChatView, line: str) -> str:
        """
        Show a line, without its time.

        @param view: what takes note.
        @param line: the server's.
        """
        clock, _, text = view.receive(line, NOON).partition(" ")
        self.assertRegex(clock, r"\A\d\d:\d\d\Z")
        return text

    def test_lines(self) -> None:
        """Each kind of line has a form of its own."""
        for line, shown in (
            ("say lobby alice: hi: you", "alice: hi: you"),
            ("old lobby 2023-11-15T12:00:00Z bob: hi", "bob: hi"),
            ("tell alice bob: psst", "alice -> bob: psst"),
            ("join lobby carol", "* carol has come into lobby"),
            ("leave lobby carol", "* carol has left lobby"),
            ("name carol dave", "* carol is now called dave"),
            ("you are alice in lobby", "* you are alice in lobby"),
            ("who lobby 2: alice bob", "* in lobby, 2: alice bob"),
            ("rooms 1: lobby=2", "* 1 rooms: lobby=2"),
            ("whois bob: KEY=", "* bob has the key KEY="),
            ("note: welcome", "* welcome"),
            ("error: no: never", "! no: never"),
            ("say lobby: who?", "? say lobby: who?"),
            ("", "? "),
        ):
            self.assertEqual(self.shown(ChatView(), line), shown)

    def test_present(self) -> None:
        """The view knows who is in the room that one is in."""
        view = ChatView()
        for line in (
            "you are alice in lobby",
            "who lobby 2: alice Bob",
            "join lobby carol",
            "who other 1: dave",
            "name Bob bert",
            "leave lobby nobody",
        ):
            view.receive(line, NOON)
        self.assertEqual((view.name, view.room), ("alice", "lobby"))
        self.assertEqual(view.present, ["alice", "bert", "carol"])
        view.receive("leave lobby bert", NOON)
        self.assertEqual(view.present, ["alice", "carol"])
        view.forget()
        self.assertEqual(view.present, [])

    def test_presentBound(self) -> None:
        """A server cannot make us hold names without end."""
        self.patch(chatclient, "MAX_PRESENT", 2)
        view = ChatView()
        view.receive("you are a in lobby", NOON)
        view.receive("who lobby 3: a b c", NOON)
        view.receive("join lobby d", NOON)
        self.assertEqual(view.present, ["a", "b"])

    def test_escaped(self) -> None:
        """
        A server that breaks its own rules cannot send control characters, nor
        put them into names.
        """
        view = ChatView()
        text = self.shown(view, "you are \x1b[2J in lob\nby")
        self.assertEqual(text, "* you are \\x1b[2J in lob\\nby")
        self.assertEqual((view.name, view.room), ("\\x1b[2J", "lob\\nby"))

    def test_marks(self) -> None:
        """Nor can it pile combining marks up over the lines around."""
        text = self.shown(ChatView(), "say lobby bob: a" + "\u0301" * 9)
        self.assertEqual(text, "bob: a" + "\u0301" * 4 + "\ufffd" * 5)

    def test_times(self) -> None:
        """A time that cannot be told is no error."""
        view = ChatView()
        for when in (float("inf"), 1e300, -1e300):
            self.assertEqual(view.receive("note: a", when), "--:-- * a")
        self.assertEqual(view.receive("old r yesterday a: b", NOON), "--:-- a: b")

    @settings(deadline=None)
    @given(st.text(max_size=60))
    def test_always(self, line: str) -> None:
        """Whatever comes, what is shown is one line of printable characters."""
        shown = ChatView().receive(line, NOON)
        self.assertEqual(len(shown.splitlines()), 1)
        self.assertNotIn("\x1b", shown)


class Recorder:
    """
    A display that remembers.

    @ivar lines: what was shown.
    @ivar states: the client's states, without repetitions.
    @ivar holding: what C{show} returns.
    """

    client: ChatClient

    def __init__(self) -> None:
        """Start with nothing shown."""
        self.lines: list[str] = []
        self.states: list[str] = []
        self.holding: Deferred[None] | None = None

    def show(self, line: str) -> Deferred[None] | None:
        """
        Remember a line.

        @param line: which.
        """
        self.lines.append(line)
        return self.holding

    def changed(self) -> None:
        """Remember the state."""
        if self.states[-1:] != [self.client.state]:
            self.states.append(self.client.state)

    def take(self) -> list[str]:
        """Take what was shown, without the time."""
        taken, self.lines = self.lines, []
        return [line[6:] if line[2:3] == ":" else line for line in taken]


class ChatClientTests(SynchronousTestCase):
    """A client on a network in memory."""

    def setUp(self) -> None:
        """Start a server."""
        self.network = MemoryNetwork()
        self.serverKey = PrivateKey.generate()
        self.server = self.serve()

    def serve(self, **options: Any) -> Server:
        """
        Start a server.

        @param options: the server's.
        """
        listening = listen(
            self.network.clock,
            self.network.endpoint(),
            handler=ChatHandler(Connections(), self.network.clock),
            key=self.serverKey,
            **options,
        )
        return self.successResultOf(listening)

    def restart(self) -> Server:
        """Stop the server and start another, which knows nothing of the former."""
        self.network.links[-1].toServer.stalled = False
        stopped = self.server.stop(deadline=0.0)
        for link in self.network.links[:]:
            link.cut()
        self.network.deliver()
        self.successResultOf(stopped)
        return self.serve()

    def make(
        self, nick: str = "alice", **options: Any
    ) -> tuple[ChatClient, Recorder, Deferred[None]]:
        """
        Start a client.

        @param nick: its name.
        @param options: of its connections.
        @return: the client, its display, and what fires when it is over.
        """
        recorder = Recorder()
        settings: dict[str, Any] = {
            "key": PrivateKey.generate(),
            "trust": AnyServer(),
        } | options
        client = ChatClient(
            self.network.clock, self.network.endpoint(), nick, recorder, **settings
        )
        recorder.client = client
        self.addCleanup(self.network.deliver)
        self.addCleanup(client.leave)
        running = client.run()
        self.network.deliver()
        return client, recorder, running

    def test_comes(self) -> None:
        """The client connects, and asks for its name."""
        client, recorder, running = self.make()
        self.assertEqual(recorder.states, ["connected"])
        self.assertEqual(
            recorder.take()[1:], ["* you are alice in lobby", "* in lobby, 1: alice"]
        )
        self.assertEqual(client.view.present, ["alice"])
        self.assertNoResult(running)

    def test_sends(self) -> None:
        """What is typed goes to the others."""
        alice, recorder, _ = self.make()
        _, other, _ = self.make("bob")
        room = alice.send("hello \ud800")
        self.network.deliver()
        assert room is not None
        self.successResultOf(room)
        self.assertEqual(recorder.take()[-1], "alice: hello ?")
        self.assertEqual(other.take()[-1], "alice: hello ?")

    def test_nameTaken(self) -> None:
        """A name that somebody has is refused; another can be chosen."""
        self.make("alice")
        client, recorder, _ = self.make("Alice")
        self.assertEqual(recorder.take()[1:], ["! the name Alice is taken"])
        self.assertEqual(client.view.name, "")
        client.send("/nick Alicia")
        self.network.deliver()
        self.assertEqual(client.view.name, "Alicia")

    def test_leaves(self) -> None:
        """Leaving sends what was sent, and closes in order."""
        client, recorder, running = self.make()
        _, other, _ = self.make("bob")
        client.send("goodbye")
        client.leave()
        self.network.deliver()
        self.successResultOf(running)
        said = ["alice: goodbye", "* alice has left lobby"]
        self.assertEqual(other.take()[-2:], said)
        self.assertEqual(recorder.states[-1], "over")
        self.assertEqual(client.view.present, [])
        client.leave()

    def test_quit(self) -> None:
        """C{/quit} leaves."""
        client, _, running = self.make()
        self.assertIsNone(client.send(" /quit "))
        self.network.deliver()
        self.successResultOf(running)

    def test_leavesAtOnce(self) -> None:
        """Who leaves twice does not wait for the server."""
        client, _, running = self.make()
        self.network.links[-1].toServer.stalled = True
        client.send("unacknowledged")
        client.leave()
        self.network.deliver()
        self.assertNoResult(running)
        client.leave()
        self.network.deliver()
        self.successResultOf(running)

    def test_leavesWhileConnecting(self) -> None:
        """One can leave while the connection is being made."""
        self.successResultOf(self.server.stop())
        client, _, running = self.make()
        self.assertEqual(client.state, "waiting")
        client.leave()
        self.successResultOf(running)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_leavesBeforeItBegan(self) -> None:
        """Leaving what has not begun is nothing."""
        recorder = Recorder()
        endpoint = self.network.endpoint()
        client = ChatClient(self.network.clock, endpoint, "alice", recorder)
        client.leave()
        self.assertEqual(client.state, "connecting")

    def test_cancelled(self) -> None:
        """Cancelling closes in order, too."""
        _, _, running = self.make()
        running.cancel()
        self.network.deliver()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(len(self.server.connections), 0)

    def test_notConnected(self) -> None:
        """What is typed before there is a connection is sent after the name."""
        self.successResultOf(self.server.stop())
        client, recorder, _ = self.make()
        self.assertIsNone(client.send("hello"))
        self.server = self.serve()
        self.network.advance(3)
        self.assertEqual(recorder.take()[-1], "alice: hello")

    def test_unsent(self) -> None:
        """
        What may not have arrived is shown: what there was no room for, and what the
        server had not acknowledged when it gave the session up.
        """
        client, recorder, _ = self.make(sendBuffer=1000)
        recorder.take()
        self.network.links[-1].toServer.stalled = True
        waiting = client.send("x" * 900)
        client.send("no room")
        self.assertEqual(recorder.take(), ["! this may not have arrived: no room"])
        self.server = self.restart()
        self.network.advance(1)
        self.assertIn("! this may not have arrived: " + "x" * 900, recorder.take())
        assert waiting is not None
        self.successResultOf(waiting)

    def test_again(self) -> None:
        """
        After a cut the session goes on: the name, the room and who is there are as
        they were, what was said meanwhile comes, and what was typed goes.
        """
        client, recorder, _ = self.make()
        client.send("/join den")
        _, other, _ = self.make("bob")
        self.network.deliver()
        self.network.links[0].cut()
        self.network.deliver()
        self.assertEqual(client.state, "waiting")
        recorder.take()
        other.client.send("/join den")
        client.send("back soon")
        self.network.advance(1)
        self.assertEqual(
            recorder.states,
            ["connected", "waiting", "connected"],
        )
        self.assertEqual(
            recorder.take(), ["* bob has come into den", "alice: back soon"]
        )
        self.assertEqual(client.view.present, ["alice", "bob"])
        self.assertEqual(other.take()[-1], "alice: back soon")
        self.assertEqual(len(self.server.connections), 2)

    def test_newSession(self) -> None:
        """
        A server that does not know the session is joined again, with the same name
        and room.
        """
        client, recorder, _ = self.make()
        client.send("/nick alicia")
        client.send("/join den")
        self.network.deliver()
        self.server = self.restart()
        recorder.take()
        self.network.advance(1)
        shown = recorder.take()
        self.assertIn("* you are alicia in lobby", shown)
        self.assertIn("* you are alicia in den", shown)
        self.assertEqual(client.view.present, ["alicia"])

    def test_unplugged(self) -> None:
        """The session goes on, even if the server has not noticed that we were gone."""
        _, recorder, _ = self.make()
        link = self.network.links[-1]
        link.toServer.stalled = True
        link.client.lose(ConnectionError("unplugged"))
        self.network.deliver()
        self.network.advance(1)
        self.assertEqual(recorder.states[-1], "connected")
        self.assertEqual(len(self.server.connections), 1)

    def test_regains(self) -> None:
        """
        The name is ours again, even if the server still has it in a session that
        cannot go on.
        """
        key = PrivateKey.generate()
        _, recorder, _ = self.make(key=key)
        (connection,) = self.server.connections.values()
        other, _, _ = self.make("other", key=key)
        recorder.take()
        connection.closeWith(1013, "")
        other.send("/regain alice")
        self.network.advance(1)
        self.assertIn("* you are alice in lobby", recorder.take())

    def test_growingDelays(self) -> None:
        """Attempts come at growing intervals, with words of why."""
        self.successResultOf(self.server.stop())
        client, recorder, _ = self.make()
        for _ in range(100):
            self.network.advance(1)
        lines = recorder.take()
        self.assertTrue(6 < len(lines) < 15, lines)
        self.assertRegex(lines[0], r"^! .*refused.*; trying again in [12]\.\d seconds$")
        self.serve()
        self.network.advance(40)
        self.assertEqual(client.state, "connected")

    def test_untrusted(self) -> None:
        """What will not pass ends the client, with the reason."""
        _, recorder, running = self.make(trust=Pinned(PrivateKey.generate().publicKey))
        self.failureResultOf(running, UntrustedServer)
        self.assertEqual(recorder.states, ["over"])

    def test_takenOver(self) -> None:
        """A client that another one of the same key replaces does not fight it."""
        self.server = self.serve(perKey="replace")
        key = PrivateKey.generate()
        _, _, running = self.make(key=key)
        self.make("bob", key=key)
        failure = self.failureResultOf(running, ConnectionClosed)
        self.assertEqual(failure.value.code, 4001)

    def test_notAuthorized(self) -> None:
        """A client whose key is no longer let in does not come back."""
        _, _, running = self.make()
        (connection,) = self.server.connections.values()
        connection.closeWith(1008, "not authorized")
        self.network.deliver()
        self.failureResultOf(running, NotAuthorized)

    def test_bytes(self) -> None:
        """Bytes are nothing that a chat sends, and are not shown."""
        _, recorder, running = self.make()
        recorder.take()
        (connection,) = self.server.connections.values()
        connection.sendData(b"\x1b[2J")
        self.network.deliver()
        self.assertEqual(recorder.take(), [])
        self.assertNoResult(running)

    def test_slowDisplay(self) -> None:
        """A display that takes its time holds back what comes."""
        client, recorder, _ = self.make()
        recorder.take()
        holding: Deferred[None] = Deferred()
        recorder.holding = holding
        client.send("one")
        client.send("two")
        self.network.deliver()
        self.assertEqual(recorder.take(), ["alice: one"])
        recorder.holding = None
        holding.callback(None)
        self.network.deliver()
        self.assertEqual(recorder.take(), ["alice: two"])
