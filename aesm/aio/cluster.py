"""
All nodes of a cluster as one server, for asyncio::

    async with serve(talk, "tcp:8765", cluster="redis://10.0.0.5") as server:
        have = await server.cluster.sendTo("hello", publicKey)   # wherever it is
        async for row in server.cluster.connections(): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from twisted.internet.defer import Deferred

from aesm.aio.loop import LoopReactor, futureOf, result
from aesm.core.messages.batch import Message
from aesm.server import cluster
from aesm.server.cluster import ClusterConnection
from aesm.trust.keys import PublicKey


class Cluster:
    """
    All nodes of a cluster, as one of them sees it.

    @see: L{aesm.server.cluster.Cluster}
    """

    def __init__(self, reactor: LoopReactor, cluster: cluster.Cluster) -> None:
        """@param cluster: Twisted's."""
        self._reactor = reactor
        self._cluster = cluster

    async def sendTo(self, data: Message, publicKey: PublicKey) -> int:
        """
        Send a message to all sessions of a key, at whichever nodes they are, and wait
        until these have it in their keeping: not for their clients.  In a talk it is
        sent if that its client's message was taken counts, and not else.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param publicKey: whose.
        @return: how many these are.
        @raise AESMError: as L{aesm.server.cluster.Cluster.sendTo}.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        self._reactor.check()
        return await futureOf(self._cluster.sendTo(data, publicKey))

    async def sendAll(self, data: Message) -> int:
        """
        Send a message to the clients of all nodes, as L{aesm.aio.Server.sendAll} does.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: how many have it.
        @raise AESMError: as L{aesm.server.cluster.Cluster.sendAll}.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        self._reactor.check()
        return await futureOf(self._cluster.sendAll(data))

    async def byPeer(self, publicKey: PublicKey) -> list[ClusterConnection]:
        """
        List the sessions of one key, at all nodes.

        @return: the one whose client came first first.
        @raise SpoolError: the engine is away.
        """
        self._reactor.check()
        return await result(self._cluster.byPeer(publicKey))

    async def connections(self) -> AsyncIterator[ClusterConnection]:
        """
        List the sessions at all nodes, in no order.

        @raise SpoolError: the engine is away.
        """
        rows = self._cluster.connections()

        async def following() -> ClusterConnection | None:
            """Find the next one, in Twisted's way."""
            return await anext(rows, None)

        self._reactor.check()
        while row := await result(Deferred.fromCoroutine(following())):
            yield row
