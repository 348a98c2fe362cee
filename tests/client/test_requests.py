"""
Tests for requests of a L{ClientService<aesm.client.service.ClientService>}, over any
number of connections, and before the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from aesm import (
    AnyServer,
    ClientService,
    ConnectionClosed,
    Request,
    RequestFailed,
    RequestTimeout,
    SendBufferFull,
    SessionLost,
)
from aesm.testing import MemoryNetwork
from tests.messages.test_requests import Answerer, Later, same
from tests.support.pairs import CLIENT_KEY, PairTestCase


class ServiceTests(PairTestCase):
    """C{ClientService.request}."""

    def client(self, network: MemoryNetwork, **options: Any) -> ClientService:
        """Start a client that comes back."""
        service = ClientService(
            network.endpoint(),
            reactor=network.clock,
            key=CLIENT_KEY,
            trust=AnyServer(),
            retryPolicy=lambda failures: 1.0,
            **options,
        )
        service.startService()

        def stop() -> None:
            """Stop it."""
            service.stopService()
            network.advance(10)

        self.addCleanup(stop)
        return service

    def test_before(self) -> None:
        """
        A request waits for the first connection, in its place among the messages; none
        leaves before it is known that the server takes it.
        """
        handler = Answerer(same)
        network, _ = self.serve(handler)
        client = self.client(network)
        client.sendData("first")
        answer = client.request("?")
        client.sendData("last")
        self.assertNoResult(answer)
        network.deliver()
        self.assertEqual(self.successResultOf(answer), "?")
        self.assertEqual(
            handler.events[1:],
            [("packet", "first"), ("request", "?"), ("packet", "last")],
        )

    def test_cut(self) -> None:
        """
        What is asked, and what is to be answered, outlives the connection, at both
        sides.
        """
        later = Later()
        network, server = self.serve(Answerer(later))
        client = self.client(network)
        network.deliver()
        asked = client.request("asked")
        (accepted,) = server.connections.values()
        back = accepted.request("back")
        network.deliver()
        network.links[0].cut()
        network.deliver()
        while_ = client.request("while it is cut")
        packet = client.retrieved.getData()
        assert isinstance(packet, Request)
        packet.answer("answered while it is cut")
        later.begun["asked"].callback("the same")
        network.advance(2)
        self.assertEqual(self.successResultOf(asked), "the same")
        self.assertEqual(self.successResultOf(back), "answered while it is cut")
        later.begun["while it is cut"].callback("!")
        network.deliver()
        self.assertEqual(self.successResultOf(while_), "!")

    def test_timeout(self) -> None:
        """
        The timeout counts from the call; what waits then, or is cancelled, never
        leaves, and takes no room.
        """
        handler = Answerer(same)
        network, _ = self.serve(handler)
        factory, network.factory = network.factory, None
        client = self.client(network, sendBuffer=1000)
        self.assertRaises(ValueError, client.request, "?", timeout=-1)
        for _ in range(3):
            answer = client.request(bytes(500), timeout=5)
            other = client.request(bytes(100))
            self.failureResultOf(client.request(bytes(500)), SendBufferFull)
            roomy = client.drain()
            self.assertNoResult(roomy)
            other.cancel()
            self.failureResultOf(other, CancelledError)
            network.advance(6)
            self.failureResultOf(answer, RequestTimeout)
            self.successResultOf(roomy)
        last = client.request("last")
        network.factory = factory
        network.advance(2)
        self.assertEqual(self.successResultOf(last), "last")
        self.assertEqual(handler.asked, ["last"])

    def test_sessionLost(self) -> None:
        """
        If the session is lost, so is what may have been begun; what never left goes
        into the next one.
        """
        handler = Answerer(lambda connection, packet: Deferred())
        network, _ = self.serve(handler, sessionGrace=3, receiveBuffer=65)
        client = self.client(network)
        network.deliver()
        begun, held = client.request("a"), client.request("b")
        cancelled = client.request("c")
        network.deliver()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        network.links[0].cut()
        factory, network.factory = network.factory, None
        network.advance(5)
        network.factory = factory
        handler._answer = same
        network.advance(5)
        self.failureResultOf(begun, SessionLost)
        self.assertEqual(self.successResultOf(held), "b")
        self.assertEqual(handler.asked, ["a", "b"])

    def test_stopped(self) -> None:
        """With the service ends all that waits, sent or not."""
        network, _ = self.serve(Answerer(lambda connection, packet: Deferred()))
        client = self.client(network)
        network.deliver()
        sent = client.request("?")
        network.deliver()
        client.stopService()
        late = client.request("?")
        network.advance(10)
        self.failureResultOf(sent, ConnectionClosed)
        self.failureResultOf(late, ConnectionClosed)
        factory, network.factory = network.factory, None
        client.startService()
        waiting = client.request("?")
        client.stopService()
        network.advance(10)
        network.factory = factory
        self.failureResultOf(waiting, ConnectionClosed)

    def test_without(self) -> None:
        """A server that takes no requests is told of, once it is known."""
        network, server = self.serve()
        messages = server.factory._messages
        former = type(messages).hello

        def hello(*arguments: Any, **named: Any) -> Any:
            """Say nothing of requests."""
            return replace(former(*arguments, **named), requests=False)

        client = self.client(network)
        answer = client.request("?")
        self.patch(type(messages), "hello", hello)
        network.deliver()
        error = self.failureResultOf(answer, RequestFailed).value
        self.assertEqual(error.code, 1003)
