"""
Tests for L{aesm.messages.causes}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase

from aesm import Packet
from aesm.messages.causes import CAUSE, CausingHandler
from tests.support.pairs import Recorder


class CausingHandlerTests(SynchronousTestCase):
    """L{CausingHandler}."""

    def setUp(self) -> None:
        """Have something to wait for."""
        self.waiting: Deferred[None] = Deferred()
        self.causes: list[Any] = []

    def handing(self, react: Any) -> Any:
        """Hand over a packet whose connection is called C{"one"}."""
        handler: Any = CausingHandler(Recorder(react))
        result = handler.packetReceived("one", Packet(0.0, "x"))
        self.assertIsNone(CAUSE.get())
        return result

    def note(self) -> None:
        """Take note of the cause."""
        self.causes.append(CAUSE.get())

    def test_call(self) -> None:
        """It is known while the handler is called, and not if it fails after that."""
        self.assertIsNone(self.handing(lambda connection, packet: self.note()))

        def failing(connection: Any, packet: Any) -> None:
            """Fail."""
            self.note()
            raise KeyError

        self.assertRaises(KeyError, self.handing, failing)
        self.assertIsNone(CAUSE.get())
        self.assertEqual(self.causes, ["one", "one"])

    def test_coroutine(self) -> None:
        """It is known in a coroutine, before and after it has waited."""

        async def react(connection: Any, packet: Any) -> None:
            """Take note, and wait."""
            self.note()
            await self.waiting
            self.note()

        running = self.handing(react)
        self.waiting.callback(None)
        self.successResultOf(running)
        self.assertEqual(self.causes, ["one", "one"])

    def test_generator(self) -> None:
        """So it is in C{inlineCallbacks}."""

        @inlineCallbacks
        def react(connection: Any, packet: Any) -> Any:
            """Take note, and wait."""
            self.note()
            yield self.waiting
            self.note()

        running = self.handing(react)
        self.waiting.callback(None)
        self.successResultOf(running)
        self.assertEqual(self.causes, ["one", "one"])

    def test_request(self) -> None:
        """Requests are handed over like that to a handler that takes them."""

        class Answers(Recorder):
            """Takes them."""

            def requestReceived(handler, connection: Any, request: Any) -> Any:
                """Answer, or say that it is under way."""
                self.note()
                return request

        handler: Any = CausingHandler(Answers())
        self.assertEqual(handler.requestReceived("one", "answer"), "answer")
        running = handler.requestReceived("one", self.waiting)
        self.waiting.callback(None)
        self.assertIsNone(self.successResultOf(running))
        self.assertEqual(self.causes, ["one", "one"])
        self.assertIsNone(CAUSE.get())

    def test_rest(self) -> None:
        """All else is the handler's, and has no cause."""
        recorder = Recorder()
        handler: Any = CausingHandler(recorder)
        handler.connectionAccepted("one")
        self.assertEqual(recorder.names, ["accepted"])
        self.assertRaises(AttributeError, getattr, handler, "requestReceived")
