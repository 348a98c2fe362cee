"""
A client for asyncio, over loopback.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from aesm import (
    AESMError,
    ConnectionClosed,
    HandshakeTimeout,
    NameOrKeyMismatch,
    Pinned,
    PrivateKey,
    SpoolError,
    UntrustedServer,
)
from aesm.aio import Client, Connection, Opening, Server, connect, serve
from tests.support.aio import LoopTestCase, turns

LISTEN = "tcp:0:interface=127.0.0.1"


async def echo(connection: Connection) -> None:
    """Send back what comes; close at C{"end"}, fail at C{"fail"}."""
    async for packet in connection:
        assert packet.data is not None
        if packet.data == "end":
            return
        if packet.data == "fail":
            raise LookupError("as it was told")
        await connection.send(packet.data)


class AioCase(LoopTestCase):
    """Servers and clients with keys of their own."""

    def serve(self, talk: Any = echo, **options: Any) -> Opening[Server]:
        """Serve on a free port."""
        return serve(talk, LISTEN, **{"key": PrivateKey.generate()} | options)

    def connect(self, server: Server, **options: Any) -> Opening[Client]:
        """Connect to a server."""
        endpoint = f"127.0.0.1:{server.address[1]}"
        options.setdefault("key", PrivateKey.generate())
        options.setdefault("trust", Pinned(server.publicKey))
        return connect(endpoint, **options)


class ConnectTests(AioCase):
    """How a client begins."""

    def test_ways(self) -> None:
        """It is opened by awaiting, or once by C{async with}."""

        async def main() -> None:
            """Use both."""
            async with self.serve() as server:
                opening = self.connect(server)
                async with opening as first:
                    await first.send("a")
                    self.assertEqual((await first.get()).data, "a")
                    with self.assertRaises(RuntimeError):
                        await opening.__aenter__()
                second = await opening
                async with second:
                    await second.send(b"b")
                    self.assertEqual((await second.get()).data, b"b")
                await second.close()  # once more

        self.runLoop(main())

    def test_enteredTogether(self) -> None:
        """
        It is entered once also if two do so at the same time; and again, if that has
        not opened it.
        """

        async def main() -> None:
            """Enter three times, where nobody answers."""
            with socket.create_server(("127.0.0.1", 0)) as silent:
                endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
                opening = connect(endpoint, key=PrivateKey.generate())
                for _ in range(2):
                    entering = asyncio.create_task(opening.__aenter__())
                    await turns()
                    with self.assertRaises(RuntimeError):
                        await opening.__aenter__()
                    self.assertFalse(entering.done())
                    entering.cancel()
                    with self.assertRaises(asyncio.CancelledError):
                        await entering

        self.runLoop(main())

    def test_errors(self) -> None:
        """The first attempt's error is raised as itself, and nothing stays open."""

        async def main() -> None:
            """Fail in several ways."""
            async with self.serve(name="mine") as server:
                port = server.address[1]
                for kind, options in (
                    (NameOrKeyMismatch, {"name": "yours"}),
                    (UntrustedServer, {"name": "mine", "trust": Pinned(KEY)}),
                    (TypeError, {"bogus": 1}),
                    (TypeError, {"handler": echo}),
                    (ValueError, {"maxMessage": -1}),
                    (SpoolError, {"name": "mine", "spool": "."}),
                ):
                    with self.assertRaises(kind):
                        await self.connect(server, **options)
            for wrong in ("bogus:", ""):
                with self.assertRaises(ValueError):
                    await connect(wrong, key=PrivateKey.generate())
            with self.assertRaisesRegex(ConnectionRefusedError, f"127.0.0.1:{port}"):
                await connect(f"127.0.0.1:{port}", key=PrivateKey.generate())
            with socket.create_server(("127.0.0.1", 0)) as silent:
                endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
                with self.assertRaises(HandshakeTimeout) as caught:
                    await connect(
                        endpoint, handshakeTimeout=0.05, key=PrivateKey.generate()
                    )
                self.assertIsInstance(caught.exception, TimeoutError | AESMError)

        self.runLoop(main())

    def test_tls(self) -> None:
        """TLS, for which Twisted needs the installed reactor, is refused at once."""
        for endpoint in ("tls:example.org:443", "ssl:443"):
            self.assertRaises(ValueError, connect, endpoint)
            self.assertRaises(ValueError, serve, echo, LISTEN, endpoint)

    def test_name(self) -> None:
        """Hosts may be names."""

        async def main() -> None:
            """Connect to this one."""
            async with self.serve() as server:
                endpoint = f"localhost:{server.address[1]}"
                trust = Pinned(server.publicKey)
                options: Any = {"key": PrivateKey.generate(), "trust": trust}
                async with connect(endpoint, **options) as client:
                    await client.send("x")

        self.runLoop(main())

    def test_cancelled(self) -> None:
        """An attempt can be cancelled, and timed out, at any time."""

        async def main() -> None:
            """Connect where nobody answers."""
            with socket.create_server(("127.0.0.1", 0)) as silent:
                opening = connect(
                    f"127.0.0.1:{silent.getsockname()[1]}", key=PrivateKey.generate()
                )
                with self.assertRaises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        async with opening:
                            self.fail("accepted by nobody")

                async def attempt() -> None:
                    """Connect."""
                    await opening

                task = asyncio.create_task(attempt())
                await turns()
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task

        self.runLoop(main())


KEY = PrivateKey.generate().publicKey


class SessionTests(AioCase):
    """What a client outlives, and what not."""

    def test_cut(self) -> None:
        """A cut loses nothing: the session goes on, at both ends."""

        async def main() -> None:
            """Cut, and go on."""
            async with self.serve() as server, self.connect(server) as client:
                await client.send("before")
                (accepted,) = server.connections.values()
                protocol = accepted._connection._protocol
                assert protocol is not None
                protocol.transport.abortConnection()
                await client.send("after")
                got = [(await client.get()).data for _ in range(2)]
                self.assertEqual(got, ["before", "after"])
                self.assertEqual(list(server.connections.values()), [accepted])

        self.runLoop(main())

    def test_serverCloses(self) -> None:
        """
        When the server closes in order that is the end: what came is taken still, and
        nothing is sent any more.
        """

        async def main() -> None:
            """Be sent away."""
            async with self.serve() as server, self.connect(server) as client:
                await asyncio.gather(client.send("last"), client.send("end"))
                self.assertEqual([packet.data async for packet in client], ["last"])
                reason = await client.closed()
                assert isinstance(reason, ConnectionClosed)
                self.assertEqual(reason.code, 1000)
                for work in (client.send("late"), client.get()):
                    with self.assertRaises(ConnectionClosed):
                        await work

        self.runLoop(main())

    def test_anotherServer(self) -> None:
        """It goes over to a server that is started anew, with what waits."""

        async def main() -> None:
            """Stop a server, send, and start the next one."""
            key = PrivateKey.generate()
            async with self.serve(key=key) as server:
                client = await self.connect(server, retryPolicy=lambda failures: 0.01)
                port = server.address[1]
            sending = asyncio.create_task(client.send("waits"))
            await turns()
            self.assertFalse(sending.done())
            async with serve(echo, f"tcp:{port}:interface=127.0.0.1", key=key):
                await sending
                self.assertEqual((await client.get()).data, "waits")
                await client.close()

        self.runLoop(main())

    def test_gone(self) -> None:
        """Without a server it closes at once, and what is unsure fails."""

        async def main() -> None:
            """Close meanwhile."""
            async with self.serve() as server:
                client = await self.connect(server)
                await client.send("x")
            sending = asyncio.create_task(client.send("unsure"))
            closed = asyncio.create_task(client.closed())
            await turns()
            await client.close()
            with self.assertRaises(ConnectionClosed):
                await sending
            self.assertIsInstance(await closed, ConnectionClosed)

        self.runLoop(main())

    def test_deadline(self) -> None:
        """A server that does not answer is not waited for longer than that."""

        async def main() -> None:
            """Close with a short deadline, and with one that is cancelled."""
            async with self.serve() as server:
                client, other = [await self.connect(server) for _ in range(2)]
                for accepted in server.connections.values():
                    protocol = accepted._connection._protocol
                    assert protocol is not None
                    protocol.transport.pauseProducing()
                sending = [asyncio.create_task(c.send("x")) for c in (client, other)]
                await turns()
                await client.end(0.01)
                closing = asyncio.create_task(other.close())
                await turns()
                self.assertFalse(closing.done())
                closing.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await closing
                for task in sending:
                    with self.assertRaises(ConnectionClosed):
                        await task
                self.assertIsInstance(await other.closed(), ConnectionClosed)

        self.runLoop(main())

    def test_spool(self) -> None:
        """With a spool the session is there when the client is opened again."""
        spool = self.mktemp()

        async def main() -> None:
            """Leave a packet untaken, and take it later."""
            key = PrivateKey.generate()
            async with self.serve(spool=self.mktemp()) as server:
                for expected in ("kept", "next"):
                    async with self.connect(server, key=key, spool=spool) as client:
                        if expected == "kept":
                            await client.send("kept")
                            await client.send("next")
                        self.assertEqual((await client.get()).data, expected)

        self.runLoop(main())
