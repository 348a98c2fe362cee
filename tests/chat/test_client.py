"""
What the clients of the chat share: reading lines, connecting again, leaving.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm import AnyServer, Pinned, PrivateKey, listen
from aesm.chat.client import ChatClient
from aesm.chat.handler import ChatHandler
from aesm.chat.view import Line
from aesm.errors import (
    ConnectionClosed,
    NotAuthorized,
    RequestFailed,
    UntrustedServer,
)
from aesm.server.registry import Connections
from aesm.server.service import Server
from aesm.testing import MemoryNetwork


class Recorder:
    """
    A display that remembers.

    @ivar lines: what was shown.
    @ivar states: the client's states, without repetitions.
    @ivar status: its status, in words.
    """

    client: ChatClient

    def __init__(self) -> None:
        """Start with nothing shown."""
        self.lines: list[str] = []
        self.states: list[str] = []
        self.status = ""

    def show(self, line: Line) -> None:
        """Remember a line, without its time."""
        self.lines.append(f"{line.mark} {line.text}")

    def changed(self) -> None:
        """Remember the state."""
        self.status = self.client.status
        if self.states[-1:] != [self.client.state]:
            self.states.append(self.client.state)

    def take(self) -> list[str]:
        """Take what was shown."""
        taken, self.lines = self.lines, []
        return taken


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
            recorder.take(), ["* you are alice in lobby", "* in lobby, 1: alice"]
        )
        self.assertEqual(client.view.present, ["alice"])
        self.assertNoResult(running)

    def test_sends(self) -> None:
        """What is typed goes to the others."""
        alice, recorder, _ = self.make()
        _, other, _ = self.make("bob")
        alice.send("hello \ud800")
        alice.send("  ")
        self.network.deliver()
        self.assertEqual(recorder.take()[-1], "alice: hello ?")
        self.assertEqual(other.take()[-1], "alice: hello ?")

    def test_nameTaken(self) -> None:
        """A name that somebody has is refused; another can be chosen."""
        self.make("alice")
        client, recorder, _ = self.make("Alice")
        self.assertEqual(recorder.take(), ["! the name Alice is taken"])
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
        client.send(" /quit ")
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
        self.assertEqual(client.status, "leaving")
        client.leave()
        self.network.deliver()
        self.successResultOf(running)
        self.assertEqual(client.status, "over")

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
        client.send("hello")
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
        client.send("x" * 900)
        client.send("no room")
        self.assertEqual(recorder.take(), ["! this may not have arrived: no room"])
        self.server = self.restart()
        self.network.advance(1)
        self.assertIn("! this may not have arrived: " + "x" * 900, recorder.take())

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
        self.assertEqual(recorder.take()[-1][:2], "! ")
        other.client.send("/join den")
        client.send("back soon")
        self.network.advance(1)
        self.assertEqual(
            recorder.states,
            ["connected", "waiting", "connected"],
        )
        self.assertEqual(
            recorder.take(),
            ["* connected again", "* bob has come into den", "alice: back soon"],
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
        """
        Attempts come at growing intervals: why is said once, in words, and when the
        next one is stands in the status, which counts the seconds.
        """
        self.successResultOf(self.server.stop())
        client, recorder, _ = self.make()
        self.assertRegex(recorder.status, r"\Atrying again in [23] s\Z")
        counts = set()
        for _ in range(100):
            self.network.advance(1)
            counts.add(recorder.status)
        self.assertIn("trying again in 15 s", counts)
        self.assertIn("trying again in 2 s", counts)
        self.assertLess(recorder.states.count("waiting"), 15)
        [line] = recorder.take()
        self.assertRegex(line, r"\A! Connection was refused by other side\Z")
        self.serve()
        self.network.advance(40)
        self.assertEqual(client.state, "connected")
        self.assertEqual(recorder.status, "connected")
        self.assertEqual(recorder.take()[0], "* connected again")

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

    def test_request(self) -> None:
        """A request is refused: nobody is going to answer it."""
        _, recorder, _ = self.make()
        recorder.take()
        (connection,) = self.server.connections.values()
        asked = connection.request("who?")
        self.network.deliver()
        self.assertEqual(self.failureResultOf(asked, RequestFailed).value.code, 1003)
        self.assertEqual(recorder.take(), [])

    def test_tell(self) -> None:
        """What the program has to say is shown with the rest, escaped."""
        client, recorder, _ = self.make()
        client.tell("a \x1b key")
        self.assertEqual(recorder.take()[-1], "* a \\x1b key")
