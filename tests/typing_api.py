"""
The public interface, used as its types say: never run, only type-checked.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import assert_type

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from zope.interface import implementer

from aesm import (
    Activity,
    AESMError,
    AESMServerFactory,
    AnyServer,
    Cipher,
    ClientNetwork,
    ClientService,
    ClusterConnection,
    Connection,
    Connections,
    DataStream,
    FileReceiver,
    IMessageHandler,
    ITrustPolicy,
    KnownServers,
    MessageHandler,
    Packet,
    Pinned,
    PrivateKey,
    PublicKey,
    Request,
    Server,
    ServerNetwork,
    aio,
    connect,
    listen,
    sendFile,
)
from aesm.messages.address import Address
from aesm.testing import ConnectedPair, connectedPair


@implementer(IMessageHandler)
class Echo:
    """A handler."""

    def connectionAccepted(self, connection: Connection) -> None:
        """
        Greet.

        @param connection: whom.
        """
        assert_type(connection.sendData("hello"), Deferred[None])

    def packetReceived(
        self, connection: Connection, packet: Packet
    ) -> Deferred[None] | None:
        """
        Send it back.

        @param connection: to whom.
        @param packet: what.
        """
        time, data = packet
        assert_type(time, float)
        assert_type(data, str | bytes)
        return connection.sendData(data) if data else None

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """
        Forget.

        @param connection: whom.
        @param reason: why.
        """


@implementer(ITrustPolicy)
class Careless:
    """A policy."""

    def checkServer(self, location: str, publicKey: PublicKey) -> bool:
        """
        Trust.

        @param location: where.
        @param publicKey: whose.
        """
        return True


async def client(reactor: IReactorTime, endpoint: IStreamClientEndpoint) -> None:
    """
    Use a connection.

    @param reactor: keeps time.
    @param endpoint: where to.
    """
    assert_type(connect(reactor, "tcp:127.0.0.1:8765"), Deferred[Connection])
    connection = await connect(
        reactor,
        endpoint,
        name="x",
        key=PrivateKey.generate(),
        psk=b"",
        trust=Pinned("x"),
        handshakeTimeout=1.5,
        maxMessage=1,
        heartbeat=1,
        sendBuffer=1,
        receiveBuffer=1,
    )
    for policy in (AnyServer(), KnownServers(), Careless()):
        await connect(reactor, endpoint, trust=policy)
    await connection.sendData(bytearray())
    assert_type(await connection.request("x", timeout=1.5), str | bytes)
    await connection.drain()
    assert_type(connection.retrieved, DataStream)
    assert_type(connection.retrieved.getData(), Packet | None)
    assert_type(connection.retrieved[-1], Packet)
    assert_type(await connection.retrieved.get(), Packet)
    async for time, data in connection.retrieved:
        assert_type((time, data), tuple[float, str | bytes])
    for packet in connection.retrieved:
        assert_type(packet, Packet)
        if isinstance(packet, Request):
            assert_type(packet.answer("x"), Deferred[None])
            assert_type(packet.refuse("x", 7), Deferred[None])
    assert_type(connection.address, Address)
    assert_type(connection.peer, PublicKey)
    assert_type(connection.peerName, str | None)
    assert_type(connection.suite, str)
    assert_type(connection.handshakeHash, bytes)
    assert_type(await connection.closed(), AESMError)
    await connection.close("done")
    connection.abort()


class Slow(MessageHandler):
    """One that is derived."""

    async def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Send it back."""
        await connection.sendData(packet.data)


async def talk(connection: Connection) -> None:
    """Be a handler."""


async def server(reactor: IReactorTime) -> None:
    """
    Use a server.

    @param reactor: keeps time.
    """
    AESMServerFactory(handler=Echo(), perKey="replace")
    await connect(reactor, "tcp:127.0.0.1:8765", handler=Slow())
    await listen(reactor, "tcp:8765", handler=talk)
    served = await listen(reactor, "tcp:8765", handler=Echo(), authorizedKeys="keys")
    assert_type(served, Server)
    assert_type(served.address, Address)
    assert_type(served.addresses, list[Address])
    assert_type(served.publicKey, PublicKey)
    assert_type(served.connections, Connections)
    assert_type(served.sendTo("x", ("127.0.0.1", 1)), Deferred[None])
    assert_type(served.sendAll(b"x"), Deferred[int])
    key = served.publicKey
    assert_type(served.cluster.sendTo("x", key), Deferred[int])
    assert_type(await served.cluster.byPeer(key), list[ClusterConnection])
    async for row in served.connections.cluster.connections():
        assert_type(row, ClusterConnection)
    assert_type(await served.cluster.getDataOrdinal(), tuple[PublicKey, Packet])
    asked = served.request("x", ("127.0.0.1", 1), timeout=1)
    assert_type(asked, Deferred[str | bytes])
    some: list[Connection | Address] = [*served.connections.values(), "unix-1"]
    assert_type(served.sendAll(b"x", to=some, exclude=some[:1]), Deferred[int])
    assert_type(served.connections.sendAll("x", to=served.connections), Deferred[int])
    address, packet = served.connections.getDataOrdinal(oldToNew=False)
    assert_type(address, Address | None)
    assert_type(packet, Packet)
    entry = served.connections.activity()
    assert_type(entry, Activity | None)
    if entry is not None:
        where, accepted, time = entry
        assert_type((where, accepted, time), tuple[Address, bool, float])
        assert_type((entry.event, entry.reason), tuple[str, str])
        assert_type(entry.peer, PublicKey | None)
        assert_type(entry.times, int)
    assert_type(await served.connections.get(), tuple[Address, Packet])
    assert_type(served.connections.get("unix-1"), Connection | None)
    assert_type(await served.connections.waitForActivity(), Activity)
    assert_type(served.connections.refusals, Counter[str])
    assert_type(served.connections.byPeer(served.publicKey), list[Connection])
    assert_type(served.connections[("127.0.0.1", 1)], Connection)
    await served.stop("maintenance", deadline=1)


def blocking() -> None:
    """Use the blocking face."""
    with ServerNetwork("127.0.0.1", 0) as served, ClientNetwork("host", 1) as client:
        assert_type(client.get(1), Packet)
        assert_type(served.get(timeout=None), tuple[Address, Packet])
        assert_type(served.waitForActivity(0.5), Activity)
        for packet in client.packets():
            assert_type(packet, Packet)
        for address, packet in served.packets():
            assert_type((address, packet), tuple[Address, Packet])


async def aioTalk(connection: aio.Connection) -> None:
    """
    Talk to a client, by asyncio.

    @param connection: the client.
    """
    await connection.send(memoryview(b""))
    assert_type(await connection.get(), Packet)
    assert_type(await connection.request("x", timeout=1), str | bytes)
    async for packet in connection:
        if isinstance(packet, aio.Request):
            await packet.answer("x")
            await packet.refuse("x", 1)
    assert_type(connection.address, Address)
    assert_type(connection.peer, PublicKey)
    assert_type(connection.peerName, str | None)
    await connection.close("done")


async def asyncio() -> None:
    """Use asyncio's face."""
    async with aio.serve(aioTalk, "tcp:8765", perKey="replace") as served:
        assert_type(served, aio.Server)
        assert_type(served.address, Address)
        assert_type(served.connections, dict[Address, aio.Connection])
        others = served.connections.values()
        assert_type(await served.sendAll("x", exclude=others), int)
        assert_type(await served.request("x", ("127.0.0.1", 1)), str | bytes)
    client = await aio.connect("127.0.0.1", name="x", trust=AnyServer(), spool="file")
    assert_type(client, aio.Client)
    async with client:
        await client.send("x")
        assert_type(await client.closed(), AESMError)
    await (await aio.serve(aioTalk, "tcp:1", "unix:path")).close()


def files(connection: Connection, service: ClientService) -> None:
    """
    Send files, to a receiver.

    @param connection: over this.
    @param service: and over this.
    """
    assert_type(sendFile(connection, "a.txt"), Deferred[str])
    assert_type(sendFile(service, Path("a.txt"), progress=print), Deferred[str])
    AESMServerFactory(handler=FileReceiver("incoming", progress=print))


def others() -> None:
    """Use the rest."""
    assert_type(connectedPair(Echo(), client={"name": "x"}), ConnectedPair)
    assert_type(Cipher().encrypt("x"), bytes)
    assert_type(Cipher().decrypt(b"x"), str)
