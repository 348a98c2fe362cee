"""
Tests for L{aesm.messages.handling}: what a handler may be, and the coroutine that is
run for each connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from aesm import (
    AESMServerFactory,
    AnyServer,
    ClientService,
    Connection,
    ConnectionClosed,
    MessageHandler,
    PrivateKey,
    Request,
    connect,
)
from aesm.interfaces import IMessageHandler, ISessionHandler
from tests.support.pairs import SERVER_KEY, PairTestCase
from tests.support.spooled import SpoolTestCase


async def echo(connection: Connection) -> None:
    """Answer each packet."""
    async for packet in connection.retrieved:
        connection.sendData(f"re: {packet.data!r}")


def texts(connection: Connection) -> list[Any]:
    """Look at what is unread."""
    return [packet.data for packet in connection.retrieved]


class OptionTests(PairTestCase):
    """What may be given as a handler, and what is said of other things."""

    def refused(self, handler: object, words: str) -> None:
        """Check that a server and a client refuse a handler at once."""
        with self.assertRaisesRegex(TypeError, words):
            AESMServerFactory(reactor=Clock(), key=SERVER_KEY, handler=handler)
        with self.assertRaisesRegex(TypeError, words):
            connect(Clock(), "tcp:127.0.0.1:1", handler=handler)

    def test_classes(self) -> None:
        """A class in the place of an instance is told so."""
        self.refused(MessageHandler, "is the class MessageHandler: give an instance")

    def test_functions(self) -> None:
        """A function must be async def, without yield, and take a connection."""

        def plain(connection: Connection) -> None:
            """Return at once."""

        async def generator(connection: Connection) -> AsyncIterator[int]:
            """Give numbers."""
            yield 1

        async def nothing() -> None:
            """Take nothing."""

        self.refused(plain, "plain.* write 'async def'")
        self.refused(generator, "without 'yield'")
        self.refused(nothing, "must take one argument, the connection")

    def test_called(self) -> None:
        """So is a coroutine that runs already."""
        self.refused(echo(object()), "give echo itself")  # type: ignore[arg-type]

    def test_others(self) -> None:
        """Anything else is to provide the interface."""
        self.refused("echo", "must provide IMessageHandler, not str")

    def test_callables(self) -> None:
        """Methods, partial functions and objects that are called will do."""

        class Talker:
            """All of these."""

            def __init__(self) -> None:
                """Begin with nobody."""
                self.talked: list[object] = []

            async def method(self, connection: Connection, more: int = 0) -> None:
                """Remember somebody."""
                self.talked.append(connection)

            __call__ = method

        talker = Talker()
        for handler in (talker, talker.method, partial(talker.method, more=1)):
            network, _ = self.serve(handler)
            client = self.join(network)
            self.assertEqual(self.closedReason(client).code, 1000)
        self.assertEqual(len(talker.talked), 3)

    def test_rates(self) -> None:
        """A coroutine takes what it likes, when it likes: that has no rate."""
        rates: tuple[dict[str, Any], ...] = ({"messagesPerKey": 5}, {"bytesPerKey": 5})
        for rate in rates:
            with self.assertRaisesRegex(ValueError, "a coroutine takes packets when"):
                AESMServerFactory(reactor=Clock(), key=SERVER_KEY, handler=echo, **rate)

    def test_base(self) -> None:
        """The base class has all methods, which do nothing."""
        handler = MessageHandler()
        verifyObject(IMessageHandler, handler)
        verifyObject(ISessionHandler, handler)
        pair = self.pair(handler)
        sent = pair.client.sendData("x")
        pair.deliver()
        self.successResultOf(sent)
        pair.network.links[0].cut()
        pair.client.close()


class TalkTests(PairTestCase):
    """The coroutine of a connection."""

    def test_packets(self) -> None:
        """It takes packets as they come, and answers; each connection has its own."""
        network, _ = self.serve(echo)
        clients = [self.join(network) for _ in range(2)]
        for client in clients:
            for data in ("a", b"b"):
                client.sendData(data)
        network.deliver()
        for client in clients:
            self.assertEqual(texts(client), ["re: 'a'", "re: b'b'"])

    def test_acknowledged(self) -> None:
        """
        A message is acknowledged when it is where the coroutine takes it, and makes
        room in the window when that has taken it.
        """
        working: Deferred[None] = Deferred()

        async def talk(connection: Connection) -> None:
            """Take one packet, and the next when told to."""
            await connection.retrieved.get()
            await working
            await echo(connection)

        pair = self.pair(talk, server={"receiveBuffer": 1000})
        sent = [pair.client.sendData("x" * 36) for _ in range(15)]
        pair.deliver()
        for each in sent[:10]:
            self.successResultOf(each)
        for each in sent[11:]:
            self.assertNoResult(each)
        working.callback(None)
        pair.deliver()
        for each in sent[11:]:
            self.successResultOf(each)
        self.assertEqual(len(pair.client.retrieved), 14)

    def test_returns(self) -> None:
        """
        When it returns, the connection is closed with 1000, behind all that it sent,
        and is listed no more; what still comes is not acknowledged.
        """
        going: Deferred[None] = Deferred()

        async def talk(connection: Connection) -> None:
            """Say something when told to, and leave."""
            await going
            connection.sendData("bye")

        network, server = self.serve(talk)
        client = self.join(network)
        network.deliver()
        going.callback(None)
        late = client.sendData("late")
        network.deliver()
        self.assertEqual(texts(client), ["bye"])
        self.assertEqual(self.closedReason(client).code, 1000)
        self.assertClosed(late)
        self.assertEqual(list(server.connections), [])

    def test_unread(self) -> None:
        """
        When it returns and has not read all that is acknowledged, the client is told,
        and how much of it was not read; so is the log.
        """

        async def talk(connection: Connection) -> None:
            """Read the first two only."""
            for _ in range(2):
                await connection.retrieved.get()
            connection.sendData("bye")

        network, server = self.serve(talk)
        for unread in (0, 1, 5):
            client = self.join(network)
            sent = [client.sendData(str(number)) for number in range(2 + unread)]
            asked = client.request("never read")
            with capturedLogs() as events:
                network.deliver()
            for each in sent:
                self.successResultOf(each)
            self.assertClosed(asked)
            self.assertEqual(texts(client), ["bye"])
            reason = self.closedReason(client)
            said = f"messages left unread: {unread}" if unread else ""
            expected = (4003, said) if unread else (1000, "")
            self.assertEqual((reason.code, reason.reason), expected)
            logged = [formatEvent(event) for event in events]
            self.assertEqual(any("left unread" in each for each in logged), unread > 0)
            self.assertEqual(list(server.connections), [])

    def test_unreadByClient(self) -> None:
        """The same for a client's coroutine; its server is told."""

        async def talk(connection: Connection) -> None:
            """Read nothing, and leave when told to."""
            await going

        going: Deferred[None] = Deferred()
        network, server = self.serve(None)
        client = self.join(network, handler=talk)
        (accepted,) = server.connections.values()
        self.successResultOf(self.sent(network, accepted))
        going.callback(None)
        network.deliver()
        self.assertEqual(self.closedReason(accepted).code, 4003)
        self.assertEqual(texts(client), [])

    def sent(self, network: Any, connection: Connection) -> Deferred[None]:
        """Send something, and have it arrive."""
        sent = connection.sendData("unread")
        network.deliver()
        return sent

    def test_returnsAtOnce(self) -> None:
        """So it is when there is nothing to wait for."""

        async def talk(connection: Connection) -> None:
            """Say something, and leave."""
            connection.sendData("go away")

        network, server = self.serve(talk)
        client = self.join(network)
        self.assertEqual(texts(client), ["go away"])
        self.assertEqual(self.closedReason(client).code, 1000)
        self.assertEqual(list(server.connections), [])

    def test_raises(self) -> None:
        """An error is logged, and closes this one connection with 1011."""

        async def talk(connection: Connection) -> None:
            """Fail at the wrong word."""
            async for packet in connection.retrieved:
                if packet.data == "bad":
                    raise ZeroDivisionError

        network, server = self.serve(talk)
        bad, good = self.join(network), self.join(network)
        bad.sendData("bad")
        late = bad.sendData("late")
        with capturedLogs() as events:
            network.deliver()
        (failed,) = [e for e in events if e["log_level"] is LogLevel.critical]
        self.assertEqual(failed["log_namespace"], "aesm.handler")
        self.assertKeepsNothing(failed)
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(self.closedReason(bad).code, 1011)
        late.addErrback(lambda failure: failure.trap(ConnectionClosed))
        self.assertTrue(good.isOpen)
        self.assertEqual(len(server.connections), 1)

    def test_closes(self) -> None:
        """It may close the connection itself, with a code of its own."""

        async def talk(connection: Connection) -> None:
            """Close."""
            connection.closeWith(4321, "enough")

        network, _ = self.serve(talk)
        self.assertEqual(self.closedReason(self.join(network)).code, 4321)

    def test_leaves(self) -> None:
        """
        When the client closes, what it sent is given still; then the loop ends, and
        what was cut off raises: neither is an error.
        """
        said: list[object] = []

        async def talk(connection: Connection) -> None:
            """Take all there is."""
            try:
                async for packet in connection.retrieved:
                    said.append(packet.data)
                said.append("end")
            except ConnectionClosed as reason:
                said.append(reason.code)
                raise

        for end in ("close", "abort"):
            network, server = self.serve(talk, sessionGrace=0)
            client = self.join(network)
            client.sendData("last")
            network.deliver()
            with capturedLogs() as events:
                getattr(client, end)()
                network.deliver()
            self.assertNotIn(LogLevel.critical, [e["log_level"] for e in events])
            self.assertEqual(list(server.connections), [])
        self.assertEqual(said, ["last", "end", "last", 1006])

    def test_goesOn(self) -> None:
        """
        The connection's end does not cancel what it is doing, and what is unread is
        there when it is done with that.
        """
        said: list[object] = []
        working: Deferred[None] = Deferred()

        async def talk(connection: Connection) -> None:
            """Take its time over the first packet."""
            async for packet in connection.retrieved:
                said.append(packet.data)
                await working

        network, server = self.serve(talk)
        client = self.join(network)
        for data in "ab":
            client.sendData(data)
        client.close()
        network.deliver()
        self.assertEqual(said, ["a"])
        self.assertEqual(len(server.connections), 1)
        working.callback(None)
        self.assertEqual(said, ["a", "b"])
        self.assertEqual(list(server.connections), [])

    def test_cut(self) -> None:
        """A session that is cut and comes back has the same coroutine all the time."""
        begun: list[Connection] = []

        async def talk(connection: Connection) -> None:
            """Count, and answer."""
            begun.append(connection)
            await echo(connection)

        network, _ = self.serve(talk)
        service = self.staying(network)
        network.deliver()
        service.sendData("a")
        network.deliver()
        network.links[0].cut()
        service.sendData("b")
        begun[0].sendData("meanwhile")
        network.advance(5)
        said = [packet.data for packet in service.retrieved]
        self.assertEqual(said, ["re: 'a'", "meanwhile", "re: 'b'"])
        self.assertEqual(len(begun), 1)
        begun[0].close()
        network.links[0].cut()

    def staying(self, network: Any, **options: Any) -> Any:
        """Make a client that stays, and start it."""
        service = ClientService(
            network.endpoint(),
            reactor=network.clock,
            key=PrivateKey.generate(),
            trust=AnyServer(),
            **options,
        )
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def test_returnsWhileCut(self) -> None:
        """
        One that returns while its client is away has that told when it is back, behind
        what was sent: also that not all was read.
        """

        async def talk(connection: Connection) -> None:
            """Leave when told to."""
            await going
            connection.sendData("bye")

        for unread, code in ((0, 1000), (1, 4003)):
            going: Deferred[None] = Deferred()
            network, server = self.serve(talk)
            client = self.staying(network)
            for _ in range(unread):
                client.sendData("unread")
            network.deliver()
            closed = self.successResultOf(client.whenConnected()).closed()
            network.links[0].cut()
            going.callback(None)
            self.assertEqual(len(server.connections), 1)
            network.advance(5)
            self.assertEqual(client.retrieved.getData().data, "bye")
            self.assertEqual(self.successResultOf(closed).code, code)

    def test_returnsForNobody(self) -> None:
        """If it does not come back its session ends as any other."""

        async def talk(connection: Connection) -> None:
            """Leave when told to."""
            await going

        going: Deferred[None] = Deferred()
        network, server = self.serve(talk)
        client = self.staying(network)
        network.deliver()
        client.stopService()
        network.links[0].cut()
        going.callback(None)
        network.advance(61)
        self.assertEqual(list(server.connections), [])

    def test_stop(self) -> None:
        """
        A server that stops waits until coroutines are done, and cancels those that are
        not in time.
        """
        for delay, cancelled in ((4, False), (6, True)):
            ends: list[str] = []

            network, server = self.serve(partial(self.takeTime, ends, delay))
            self.clock = network.clock
            self.join(network)
            with capturedLogs() as events:
                stopped = server.stop()
                network.advance(3)
                self.assertNoResult(stopped)
                network.advance(2.5)
                self.successResultOf(stopped)
            self.assertEqual(ends, ["cancelled" if cancelled else "done"])
            self.assertNotIn(LogLevel.critical, [e["log_level"] for e in events])

    def test_stopsItself(self) -> None:
        """
        One that stops the server itself is neither waited for, which would take for
        ever, nor cancelled: it goes on when the others are done.
        """
        said: list[object] = []

        async def talk(connection: Connection) -> None:
            """Stop the server when told so, or take a second over the end."""
            async for packet in connection.retrieved:
                if packet.data == "stop":
                    await server.stop()
                    said.append("stopped")
            await deferLater(network.clock, 1)
            said.append("done")

        network, server = self.serve(talk)
        others = [self.join(network) for _ in range(2)]
        client = self.join(network)
        client.sendData("stop")
        network.deliver()
        for each in (*others, client):
            self.assertEqual(self.closedReason(each).code, 1001)
        self.assertEqual(said, [])
        network.advance(1)
        self.assertEqual(said, ["done", "done", "stopped"])
        network.advance(10)
        self.assertEqual(said[3:], ["done"])

    async def takeTime(
        self, ends: list[str], delay: int, connection: Connection
    ) -> None:
        """Take so many seconds over the end."""
        await connection.closed()
        try:
            await deferLater(self.clock, delay)
            ends.append("done")
        except CancelledError:
            ends.append("cancelled")
            raise

    def test_requests(self) -> None:
        """Requests are among its packets; one that it leaves unanswered has failed."""

        async def talk(connection: Connection) -> None:
            """Answer the first request."""
            async for packet in connection.retrieved:
                if isinstance(packet, Request):
                    await packet.answer(f"re: {packet.data!r}")
                    return

        pair = self.pair(talk)
        pair.client.sendData("x")
        asked = [pair.client.request(data) for data in "ab"]
        pair.deliver()
        self.assertEqual(self.successResultOf(asked[0]), "re: 'a'")
        self.assertClosed(asked[1], 1000)

    def test_slow(self) -> None:
        """As on any server with a handler, who does not read is closed with 4000."""

        async def talk(connection: Connection) -> None:
            """Send more than there is room for."""
            for _ in range(3):
                connection.sendData(bytes(1000))
            await connection.retrieved.get()

        network, _ = self.serve(talk, sendBuffer=2000)
        self.assertEqual(self.closedReason(self.join(network)).code, 4000)

    def test_othersError(self) -> None:
        """That another connection is gone is an error of its own."""
        others: list[Connection] = []

        async def talk(connection: Connection) -> None:
            """Send the first one what comes."""
            others.append(connection)
            async for packet in connection.retrieved:
                await others[0].sendData(packet.data or "")

        network, _ = self.serve(talk, sessionGrace=0)
        first, second = self.join(network), self.join(network)
        first.abort()
        network.deliver()
        second.sendData("x")
        network.deliver()
        self.flushLoggedErrors(ConnectionClosed)
        self.assertEqual(self.closedReason(second).code, 1011)


class SpooledTalkTests(SpoolTestCase):
    """Coroutines of sessions that outlive the process."""

    def setUp(self) -> None:
        """Begin with nobody."""
        super().setUp()
        self.said: list[object] = []
        self.begun = 0
        self.working: Deferred[None] = Deferred()

    async def talk(self, connection: Connection) -> None:
        """Take packets, and take time over one."""
        self.begun += 1
        async for packet in connection.retrieved:
            self.said.append(packet.data)
            connection.sendData(f"re: {packet.data!r}")
            if packet.data == "slow":
                await self.working

    def test_killed(self) -> None:
        """
        It is begun again for a session that is restored, and takes what the one before
        had not taken.
        """
        self.serving(self.talk)
        service = self.service()
        for data in ("a", "slow", "b"):
            service.sendData(data)
        self.settle()
        self.assertEqual(self.said, ["a", "slow"])
        self.killServer()
        self.serving(self.talk)
        self.settle()
        self.assertEqual((self.begun, self.said), (2, ["a", "slow", "b"]))
        answers = ["re: 'a'", "re: 'slow'", "re: 'b'"]
        self.assertEqual(self.taking(service.retrieved), answers)

    def test_stopped(self) -> None:
        """
        So it is for one whose server was stopped: what is unread then is not given to
        the coroutine that cannot answer any more.
        """
        self.serving(self.talk)
        service = self.service()
        for data in ("slow", "b"):
            service.sendData(data)
        self.settle()
        assert self.server is not None
        stopped = self.server.stop()
        self.network.advance(1)
        self.working.callback(None)
        self.network.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.said, ["slow"])
        self.serving(self.talk)
        self.settle()
        self.assertEqual((self.begun, self.said), (2, ["slow", "b"]))
        self.assertEqual(self.taking(service.retrieved), ["re: 'slow'", "re: 'b'"])

    def test_over(self) -> None:
        """What was acknowledged of a session that is over is given to one as well."""
        self.serving(self.talk)
        service = self.service()
        for data in ("slow", "b"):
            service.sendData(data)
        self.settle()
        self.stopService(service)
        self.killServer()
        self.serving(self.talk)
        self.settle()
        self.assertEqual((self.begun, self.said), (2, ["slow", "b"]))
        assert self.server is not None
        self.assertEqual(list(self.server.connections), [])
