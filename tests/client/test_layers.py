"""
A client of one layer at a port of the other: messages where there is a byte stream,
and the other way round.  Both sides say so in one line, and nobody gets in.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.logger import LogLevel, capturedLogs, formatEvent

from aesm import AnyServer, ClientService, connect, listen
from aesm.errors import NoAnswer, OfferRefused
from aesm.secure import wrapClientEndpoint, wrapServerEndpoint
from aesm.testing import MemoryNetwork
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, PairTestCase
from tests.support.transportcontract import Once, Recorder

PSK = b"p" * 32
CLIENT: dict[str, Any] = {"key": CLIENT_KEY, "trust": AnyServer()}


class LayersTestCase(PairTestCase):
    """What both directions share."""

    def assertRefused(
        self, connecting: Deferred[Any], *parts: str, expected: Any = OfferRefused
    ) -> None:
        """
        Check that there is no connection.

        @param connecting: what came of it.
        @param parts: of what the error says.
        @param expected: its class.
        """
        reason = self.failureResultOf(connecting).value
        self.assertIs(type(reason), expected)
        for part in parts:
            self.assertIn(part, str(reason))

    def assertLogged(self, events: Any, part: str) -> None:
        """
        Check that the server has one warning.

        @param events: the log.
        @param part: of what it says.
        """
        (event,) = [e for e in events if e["log_level"] is LogLevel.warn]
        self.assertIn(part, formatEvent(event))


class StreamClientTests(LayersTestCase):
    """A client of byte streams, and a server of messages."""

    def stream(self, network: MemoryNetwork, **options: Any) -> Deferred[IProtocol]:
        """
        Connect.

        @param network: where to.
        @param options: of L{wrapClientEndpoint}.
        """
        self.inner = Once(Recorder())
        connecting = wrapClientEndpoint(
            network.endpoint(), reactor=network.clock, **(CLIENT | options)
        ).connect(self.inner)
        network.deliver()
        self.assertEqual(self.inner.addresses, [])
        return connecting

    def test_told(self) -> None:
        """
        It fails with what to call instead; the server has an entry in the activity
        log, and a line in the other.
        """
        network, server = self.serve()
        with capturedLogs() as events:
            connecting = self.stream(network)
        told = "this port talks messages, not a byte stream"
        self.assertRefused(connecting, told, "ClientService or `aesm connect`")
        self.assertLogged(events, f"', but {told}")
        (entry,) = self.entries(server)
        self.assertEqual((entry.event, entry.peer), ("refused", None))
        self.assertIn(told, entry.reason)
        network.deliver()
        self.assertEqual(network.links, [])

    def test_psk(self) -> None:
        """
        A server with a pre-shared key hangs up in silence; what may be the matter is
        among the client's guesses.
        """
        network, server = self.serve(psk=PSK)
        connecting = self.stream(network, psk=PSK)
        self.assertRefused(connecting, "talks messages", expected=NoAnswer)
        (entry,) = self.entries(server)
        self.assertIn("this port talks messages", entry.reason)


class MessageClientTests(LayersTestCase):
    """A client of messages, and a server of byte streams."""

    def listen(self, **options: Any) -> MemoryNetwork:
        """
        Start the server.

        @param options: of L{wrapServerEndpoint}.
        """
        network = MemoryNetwork()
        self.inner = Once(Recorder())
        wrapped = wrapServerEndpoint(
            network.endpoint(), key=SERVER_KEY, reactor=network.clock, **options
        )
        port: Any = self.successResultOf(wrapped.listen(self.inner))
        self.addCleanup(port.stopListening)
        return network

    def test_told(self) -> None:
        """It fails with what to call instead; the server has a line in its log."""
        network = self.listen(authorizedKeys=lambda *_: "anybody")
        with capturedLogs() as events:
            connecting = self.connecting(network)
            network.deliver()
        told = "this port carries a byte stream, not messages"
        self.assertRefused(connecting, told, "wrapClientEndpoint()", "aesm: endpoint")
        self.assertLogged(events, f"', but {told}")
        self.assertEqual(self.inner.addresses, [])
        self.assertEqual(network.links, [])
        self.assertEqual(network.clock.getDelayedCalls(), [])

    def test_service(self) -> None:
        """A client that comes back by itself does not come back to such a port."""
        network = self.listen()
        service = ClientService(network.endpoint(), reactor=network.clock, **CLIENT)
        service.startService()
        connecting = cast("Deferred[Any]", service.whenConnected())
        network.deliver()
        self.assertRefused(connecting, "wrapClientEndpoint()")
        self.assertEqual(network.clock.getDelayedCalls(), [])

    def test_psk(self) -> None:
        """A server with a pre-shared key hangs up in silence."""
        network = self.listen(psk=PSK)
        connecting = self.connecting(network, psk=PSK)
        network.deliver()
        self.assertRefused(connecting, "a byte stream", expected=NoAnswer)
        self.assertEqual(self.inner.addresses, [])

    def test_within(self) -> None:
        """Messages within a byte stream have a port of messages inside of it."""
        network = MemoryNetwork()
        server = wrapServerEndpoint(
            network.endpoint(), key=SERVER_KEY, reactor=network.clock
        )
        listening = self.successResultOf(listen(network.clock, server, key=SERVER_KEY))
        self.addCleanup(self.takeDown, network, listening)
        client = wrapClientEndpoint(network.endpoint(), reactor=network.clock, **CLIENT)
        connecting = connect(network.clock, client, **CLIENT)
        network.deliver()
        self.successResultOf(connecting)
