"""
A server for asyncio, over loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.trial.unittest import SkipTest
from zope.interface import implementer

from aesm import ConnectionClosed, MessageHandler, PrivateKey
from aesm.aio import Connection, Request, serve
from aesm.aio.loop import theReactor
from tests.aio.test_client import LISTEN, AioCase, echo
from tests.support.aio import turns


class TalkTests(AioCase):
    """A coroutine for each client."""

    def test_connection(self) -> None:
        """What it is called with says who is there."""

        async def main() -> None:
            """Look at one, from both ends."""
            seen: list[Connection] = []

            async def talk(connection: Connection) -> None:
                """Say hello, and how many are here."""
                seen.append(connection)
                await connection.send("hello")
                await connection.closed()

            key = PrivateKey.generate()
            async with (
                self.serve(talk, name="mine") as server,
                self.connect(server, name="mine", key=key) as client,
            ):
                self.assertEqual((await client.get()).data, "hello")
                (connection,) = seen
                self.assertEqual(connection.peer, key.publicKey)
                self.assertIsNone(connection.peerName)
                self.assertEqual(server.connections, {connection.address: connection})
                self.assertEqual(server.addresses, [server.address])

        self.runLoop(main())

    def test_eager(self) -> None:
        """It is among those that run from its first step on, also in an eager task."""
        factory = getattr(asyncio, "eager_task_factory", None)
        if factory is None:
            raise SkipTest("Python has no eager tasks before 3.12")

        async def main() -> None:
            """Look from within."""
            seen: list[bool] = []

            async def talk(connection: Connection) -> None:
                """Look for itself, and end."""
                seen.append(server.connections == {connection.address: connection})

            asyncio.get_running_loop().set_task_factory(factory)
            async with self.serve(talk) as server, self.connect(server) as client:
                await client.closed()
                self.assertEqual(server.connections, {})
            self.assertEqual(seen, [True])

        self.runLoop(main())

    def test_returns(self) -> None:
        """When it returns, its connection is closed in order, and no other."""

        async def main() -> None:
            """End one of two."""
            async with (
                self.serve() as server,
                self.connect(server) as first,
                self.connect(server) as second,
            ):
                await first.send("end")
                reason = await first.closed()
                assert isinstance(reason, ConnectionClosed)
                self.assertEqual(reason.code, 1000)
                await second.send("still")
                self.assertEqual((await second.get()).data, "still")
                self.assertEqual(len(server.connections), 1)

        self.runLoop(main())

    def test_unread(self) -> None:
        """
        When it returns and has not read all, the client is told, and does not come
        back.
        """

        async def main() -> None:
            """Send more than is read."""
            enough = asyncio.Event()

            async def talk(connection: Connection) -> None:
                """Read nothing."""
                await enough.wait()

            async with self.serve(talk) as server, self.connect(server) as client:
                await client.send("unread")
                enough.set()
                with self.assertRaises(ConnectionClosed) as caught:
                    async for _ in client:
                        self.fail("nothing comes")
                reason = caught.exception
                expected = (4003, "messages left unread: 1")
                self.assertEqual((reason.code, reason.reason), expected)

        self.runLoop(main())

    def test_raises(self) -> None:
        """
        When it raises, that is logged and the connection closed with code 1011; its
        client may come back, to another coroutine.
        """

        async def main() -> None:
            """Fail."""
            async with (
                self.serve() as server,
                self.connect(server, retryPolicy=lambda failures: 0.0) as client,
            ):
                before = list(server.connections.values())
                await client.send("fail")
                await before[0].closed()
                await client.send("again")
                self.assertEqual((await client.get()).data, "again")
            self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

        self.runLoop(main())

    def test_leaves(self) -> None:
        """When the client leaves it takes what came, ends, and that is no failure."""

        async def main() -> None:
            """Leave one that iterates, and one that would send."""
            came: list[object] = []
            left = asyncio.Event()

            async def talk(connection: Connection) -> None:
                """Take all; then try to send."""
                await left.wait()
                came.extend([packet.data async for packet in connection])
                await connection.send("too late")

            async with self.serve(talk) as server:
                async with self.connect(server) as client:
                    await client.send("a")
                    await client.send("b")
                while not left.is_set():
                    (connection,) = server.connections.values()
                    await connection.closed()
                    left.set()
                while server.connections:
                    await turns()
            self.assertEqual(came, ["a", "b"])
            self.assertEqual(self.flushLoggedErrors(), [])

        self.runLoop(main())

    def test_closes(self) -> None:
        """It can close with words, and is not stopped by that."""

        async def main() -> None:
            """Read them."""
            done = asyncio.Event()

            async def talk(connection: Connection) -> None:
                """Send away."""
                await connection.close("bye")
                self.assertIsInstance(await connection.closed(), ConnectionClosed)
                done.set()

            async with self.serve(talk) as server, self.connect(server) as client:
                reason = await client.closed()
                assert isinstance(reason, ConnectionClosed)
                self.assertEqual((reason.code, reason.reason), (1000, "bye"))
                await done.wait()

        self.runLoop(main())

    def test_notCoroutine(self) -> None:
        """What is no coroutine function is refused at once."""
        wrongs: list[Any] = [lambda connection: None, None, object(), Handler(), main]
        for wrong in wrongs:
            self.assertRaises(TypeError, serve, wrong, LISTEN)


async def main() -> None:
    """Take no argument."""


class Handler(MessageHandler):
    """An object, for Twisted."""


class ServerTests(AioCase):
    """What a server does for all."""

    def test_sendAll(self) -> None:
        """Each client gets what is sent to all."""

        async def main() -> None:
            """Send to three."""
            async with self.serve() as server:
                clients = [await self.connect(server) for _ in range(3)]
                self.assertEqual(await server.sendAll("all"), 3)
                for client in clients:
                    self.assertEqual((await client.get()).data, "all")
                    await client.close()

        self.runLoop(main())

    def test_some(self) -> None:
        """What is sent to some, by connection or address, only these get."""

        async def main() -> None:
            """Send to one, and to all but one."""
            async with (
                self.serve() as server,
                self.connect(server) as first,
                self.connect(server) as second,
            ):
                await asyncio.gather(first.send("1"), second.send("2"))
                await asyncio.gather(first.get(), second.get())
                address, connection = next(iter(server.connections.items()))
                self.assertEqual(await server.sendAll("to", to=[connection]), 1)
                self.assertEqual(await server.sendAll("but", exclude=[address]), 1)
                got = [(await client.get()).data for client in (first, second)]
                self.assertEqual(sorted(map(str, got)), ["but", "to"])

        self.runLoop(main())

    def test_request(self) -> None:
        """Both sides may ask; the server finds whom by the address."""

        async def main() -> None:
            """Ask in both directions."""

            async def talk(connection: Connection) -> None:
                """Answer."""
                async for packet in connection:
                    assert isinstance(packet, Request)
                    await packet.answer("what?")

            async with self.serve(talk) as server, self.connect(server) as client:
                self.assertEqual(await client.request("what"), "what?")
                (address,) = server.connections
                asking = asyncio.create_task(server.request("and you", address))
                request = await client.get()
                assert isinstance(request, Request)
                await request.answer("well")
                self.assertEqual(await asking, "well")
                with self.assertRaises(ConnectionClosed):
                    await server.request("x", "nobody")

        self.runLoop(main())

    def test_cannotListen(self) -> None:
        """A port in use is an C{OSError}, and a wrong option a C{TypeError}."""

        async def main() -> None:
            """Try both."""
            with socket.create_server(("127.0.0.1", 0)) as used:
                port = used.getsockname()[1]
                with self.assertRaises(OSError):
                    await serve(
                        echo,
                        f"tcp:{port}:interface=127.0.0.1",
                        key=PrivateKey.generate(),
                    )
            with self.assertRaises(TypeError):
                await self.serve(bogus=True)

        self.runLoop(main())

    def test_cancelled(self) -> None:
        """Who is cancelled in the turn in which it begins to listen keeps nothing."""

        async def main() -> None:
            """Listen, and cancel."""
            reactor: Any = await theReactor()
            listening: Deferred[Any] = Deferred()
            factories: list[Any] = []

            @implementer(IStreamServerEndpoint)
            class Slow:
                """Takes its time."""

                def listen(self, protocolFactory: object) -> Deferred[Any]:
                    """
                    Promise to listen.

                    @param protocolFactory: is kept.
                    """
                    factories.append(protocolFactory)
                    return listening

            async def begin() -> None:
                """Serve."""
                await serve(echo, cast(Any, Slow()), key=PrivateKey.generate())

            beginning = asyncio.create_task(begin())
            await turns()
            port = reactor.listenTCP(0, factories[0], interface="127.0.0.1")
            listening.callback(port)
            beginning.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await beginning
            self.assertFalse(port.connected)

        self.runLoop(main())

    def test_twoPlaces(self) -> None:
        """It may listen in several places."""

        async def main() -> None:
            """Listen in two."""
            path = self.mktemp()
            key = PrivateKey.generate()
            async with serve(echo, LISTEN, f"unix:{path}", key=key) as server:
                self.assertEqual(server.addresses[1], path)
                async with self.connect(server) as client:
                    await client.send("x")

        self.runLoop(main())


class EndTests(AioCase):
    """Leaving the statement ends all."""

    def test_cancels(self) -> None:
        """
        The coroutines are cancelled and may say what they have to; their clients are
        told that the server goes away, and nothing is logged.
        """

        async def main() -> None:
            """End a server that has clients."""
            ended: list[str] = []

            async def talk(connection: Connection) -> None:
                """Say goodbye."""
                try:
                    await connection.send("hello")
                    await asyncio.Event().wait()
                finally:
                    await connection.send("goodbye")
                    ended.append("talk")

            async with self.serve(talk) as server:
                client = await self.connect(server)
                self.assertEqual((await client.get()).data, "hello")
            self.assertEqual(ended, ["talk"])
            self.assertEqual((await client.get()).data, "goodbye")
            await client.close()
            self.assertEqual(self.flushLoggedErrors(), [])
            await server.close()  # once more

        self.runLoop(main())

    def test_deaf(self) -> None:
        """A coroutine that is not to be cancelled does not keep the server."""

        async def main() -> None:
            """End one with a short deadline."""
            go = asyncio.Event()

            async def talk(connection: Connection) -> None:
                """Do not heed it."""
                await connection.send("hello")
                while not go.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await go.wait()

            async with self.serve(talk) as server, self.connect(server) as client:
                await client.get()
                await server.end(0.01)
                go.set()
                await turns()

        self.runLoop(main())

    def test_closesItself(self) -> None:
        """
        A coroutine may close the server: it goes on when the others have ended, and all
        clients were told, its own too.
        """

        async def main() -> None:
            """Have one of two clients end it."""
            ended: list[object] = []
            over = asyncio.Event()

            async def talk(connection: Connection) -> None:
                """Close the server, if somebody asks for it."""
                try:
                    async for _ in connection:
                        await server.close()
                        ended.append("closed")
                        await server.close()
                        reason = await connection.closed()
                        ended.append(getattr(reason, "code", reason))
                        over.set()
                finally:
                    ended.append("end")
                    over.set()

            async with (
                self.serve(talk) as server,
                self.connect(server),
                self.connect(server) as client,
            ):
                await client.send("close")
                await over.wait()
                over.clear()
                async with asyncio.timeout(30):
                    await over.wait()
                await turns()
            self.assertEqual(ended, ["end", "closed", 1001, "end"])
            self.assertEqual(self.flushLoggedErrors(), [])

        self.runLoop(main())

    def test_interrupted(self) -> None:
        """Closing that is cancelled aborts what is left."""

        async def main() -> None:
            """Cancel it while a coroutine takes its time."""
            go = asyncio.Event()

            async def talk(connection: Connection) -> None:
                """Take time."""
                try:
                    await connection.send("hello")
                    await connection.closed()
                finally:
                    await go.wait()

            server = await self.serve(talk)
            client = await self.connect(server, retryPolicy=lambda failures: 60.0)
            await client.get()
            (connection,) = server.connections.values()
            closing = asyncio.create_task(server.close())
            await turns()
            self.assertFalse(closing.done())
            closing.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await closing
            self.assertIsInstance(await connection.closed(), ConnectionClosed)
            go.set()
            await client.close()

        self.runLoop(main())
