"""
What a client promises in each of its faces: Twisted's, the blocking one, asyncio's.
Each promise is a coroutine that is given a face to open clients with::

    python facecontract.py FACE     # in a process of its own, for the blocking face

The server is asyncio's, in the same process.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from twisted.logger import capturedLogs

from aesm import (
    ClientNetwork,
    ClientService,
    ConnectionClosed,
    MessageTooBig,
    NameOrKeyMismatch,
    Pinned,
    PrivateKey,
    RequestFailed,
    UntrustedServer,
    aio,
)
from aesm.aio.loop import result, theReactor


class Client(Protocol):
    """A client of any face, as the promises use it."""

    async def send(self, data: str | bytes) -> None:
        """Send, until the server has it."""

    async def get(self) -> tuple[float, str | bytes | None]:
        """Take the next packet."""

    async def request(self, data: str, timeout: float | None = None) -> str | bytes:
        """Ask."""

    async def close(self) -> None:
        """Close in order."""


class TwistedClient:
    """Twisted's, on asyncio's loop."""

    def __init__(self, service: ClientService) -> None:
        """@param service: connected."""
        self._service = service

    @classmethod
    async def open(cls, port: int, **options: Any) -> TwistedClient:
        """Connect."""
        reactor: Any = await theReactor()
        service = ClientService(f"tcp:127.0.0.1:{port}", reactor=reactor, **options)
        service.startService()
        connected = service.whenConnected(failAfterFailures=1)
        await result(
            connected.addErrback(
                lambda failure: service.stopService().addBoth(lambda result: failure)
            )
        )
        return cls(service)

    async def send(self, data: str | bytes) -> None:
        """@see: L{Client.send}"""
        await result(self._service.sendData(data))

    async def get(self) -> tuple[float, str | bytes | None]:
        """@see: L{Client.get}"""
        return await result(self._service.retrieved.get())

    async def request(self, data: str, timeout: float | None = None) -> str | bytes:
        """@see: L{Client.request}"""
        return await result(self._service.request(data, timeout))

    async def close(self) -> None:
        """@see: L{Client.close}"""
        await result(self._service.stopService())


class BlockingClient:
    """The blocking one, each wait in a thread."""

    def __init__(self, network: ClientNetwork) -> None:
        """@param network: connected."""
        self._network = network

    @classmethod
    async def open(cls, port: int, **options: Any) -> BlockingClient:
        """Connect."""
        return cls(await asyncio.to_thread(ClientNetwork, "127.0.0.1", port, **options))

    async def send(self, data: str | bytes) -> None:
        """@see: L{Client.send}"""
        await asyncio.wrap_future(self._network.sendData(data))

    async def get(self) -> tuple[float, str | bytes | None]:
        """@see: L{Client.get}"""
        while (packet := self._network.retrieved.getData()) is None:
            await asyncio.sleep(0)
        return packet

    async def request(self, data: str, timeout: float | None = None) -> str | bytes:
        """@see: L{Client.request}"""
        return await asyncio.wrap_future(self._network.request(data, timeout))

    async def close(self) -> None:
        """@see: L{Client.close}"""
        await asyncio.to_thread(self._network.stop)


async def openAio(port: int, **options: Any) -> Client:
    """Connect with asyncio's own."""
    return await aio.connect(f"tcp:127.0.0.1:{port}", **options)


Open = Callable[..., Coroutine[Any, Any, Client]]
FACES: dict[str, Open] = {
    "twisted": TwistedClient.open,
    "aio": openAio,
    "blocking": BlockingClient.open,
}


class Serving:
    """
    A server that does as it is told.

    @ivar came: what came, and how each connection ended.
    """

    def __init__(self, open: Open) -> None:
        """@param open: opens clients."""
        self._open = open
        self.key = PrivateKey.generate()
        self.port = 0
        self.came: list[object] = []
        self.ended = asyncio.Event()
        self.connections: list[aio.Connection] = []

    @asynccontextmanager
    async def serve(self, **options: Any) -> AsyncIterator[aio.Server]:
        """Serve where it served before, if it did."""
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        async with aio.serve(self._talk, listen, key=self.key, **options) as server:
            assert isinstance(server.address, tuple)
            self.port = server.address[1]
            yield server

    async def open(self, **options: Any) -> Client:
        """Open a client."""
        options.setdefault("trust", Pinned(self.key.publicKey))
        options.setdefault("retryPolicy", lambda failures: 0.01)
        return await self._open(self.port, key=PrivateKey.generate(), **options)

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        """Have a client."""
        client = await self.open(**options)
        try:
            yield client
        finally:
            await client.close()

    async def _talk(self, connection: aio.Connection) -> None:
        """Take all, and answer what is to be answered."""
        self.connections.append(connection)
        try:
            async for packet in connection:
                self.came.append(packet.data)
                if packet.data == "echo":
                    await connection.send("echo")
                if isinstance(packet, aio.Request) and packet.data == "ask":
                    await packet.answer("answer")
                elif isinstance(packet, aio.Request) and packet.data == "no":
                    await packet.refuse("not you", 1234)
        finally:
            with suppress(asyncio.CancelledError):
                self.came.append(await connection.closed())
                self.ended.set()

    def cut(self) -> None:
        """Cut the last connection, as a network does."""
        protocol = self.connections[-1]._connection._protocol
        assert protocol is not None
        protocol.transport.abortConnection()


async def inOrder(serving: Serving) -> None:
    """Texts and bytes arrive as what they are, once and in order."""
    sent: list[str | bytes] = []
    for number in range(1000):
        sent.append(str(number) if number % 3 else bytes([number % 251]))
    async with serving.serve(), serving.client() as client:
        await asyncio.gather(*map(client.send, sent))
        assert serving.came == sent
        await client.send("echo")
        assert (await client.get())[1] == "echo"


async def ends(serving: Serving) -> None:
    """Closing tells the server, in order; nothing can be sent after it."""
    async with serving.serve():
        async with serving.client() as client:
            await client.send("last")
        await serving.ended.wait()
        last, reason = serving.came
        assert isinstance(reason, ConnectionClosed), reason
        assert (last, reason.code) == ("last", 1000)
        await fails(client.send("late"), ConnectionClosed)


async def outlivesCuts(serving: Serving) -> None:
    """Cuts lose nothing and double nothing."""
    async with serving.serve(), serving.client() as client:
        await client.send("0")
        for number in range(1, 4):
            serving.cut()
            await client.send(str(number))
        await client.send("echo")
        assert (await client.get())[1] == "echo"
        assert serving.came == ["0", "1", "2", "3", "echo"]


async def anotherServer(serving: Serving) -> None:
    """A client goes over to a server that was started anew, with what waits for it."""
    async with serving.serve():
        client = await serving.open()
        await client.send("known")
    sending = asyncio.ensure_future(client.send("waits"))
    async with serving.serve():
        await sending
        await client.close()
    assert [data for data in serving.came if isinstance(data, str)] == [
        "known",
        "waits",
    ]


async def refusals(serving: Serving) -> None:
    """
    Errors have the same classes everywhere; whoever has one is not told that there will
    be another attempt.
    """
    async with serving.serve(name="mine", maxMessage=1000):
        for error, options in (
            (NameOrKeyMismatch, {"name": "yours"}),
            (UntrustedServer, {"trust": Pinned(PrivateKey.generate().publicKey)}),
            (TypeError, {"bogus": 1}),
        ):
            with_ = {"name": "mine", **options}
            await fails(serving.open(**with_), error)
        async with serving.client(name="mine") as client:
            await fails(client.send(bytes(1001)), MessageTooBig)
            await client.send(bytes(1000))
    with capturedLogs() as events:
        await fails(serving.open(), ConnectionRefusedError)
    said = [event["log_format"] for event in events]
    assert "trying again" not in "".join(said), said


async def requests(serving: Serving) -> None:
    """Requests are answered, refused, and time out."""
    async with serving.serve(), serving.client() as client:
        assert await client.request("ask") == "answer"
        refused = await fails(client.request("no"), RequestFailed)
        assert (refused.code, refused.reason) == (1234, "not you")
        await fails(client.request("silence", timeout=0.01), TimeoutError)


async def fails(work: Coroutine[Any, Any, Any], kind: type[BaseException]) -> Any:
    """Check how something fails."""
    try:
        await work
    except kind as error:
        return error
    raise AssertionError(f"not {kind}")


PROMISES = (inOrder, ends, outlivesCuts, anotherServer, refusals, requests)


async def keep(face: str, promise: Callable[[Serving], Any]) -> None:
    """
    Check that a face keeps a promise.

    @param face: as in C{FACES}.
    """
    await promise(Serving(FACES[face]))


if __name__ == "__main__":
    logging.getLogger("aesm").addHandler(logging.NullHandler())
    for each in PROMISES:
        asyncio.run(keep(sys.argv[1], each))
    print("kept", *(each.__name__ for each in PROMISES))
