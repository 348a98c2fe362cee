"""
All nodes of a cluster as one server, for programs without an event loop::

    server = ServerNetwork("", 8765, cluster="redis://10.0.0.5")
    have = server.cluster.sendTo("hello", publicKey).result()     # wherever it is
    publicKey, packet = server.cluster.getDataOrdinal()
"""

from __future__ import annotations

from concurrent.futures import Future

from twisted.internet.defer import CancelledError, Deferred

from aesm.blocking.reactorthread import ReactorThread, forbidWaiting
from aesm.blocking.threaded import frozen
from aesm.core.messages.batch import Message
from aesm.messages.stream import Packet
from aesm.server import cluster
from aesm.server.cluster import ClusterConnection
from aesm.trust.keys import PublicKey


class Cluster:
    """
    All nodes of a cluster, as one of them sees it, for any thread.

    @see: L{aesm.server.cluster.Cluster}
    """

    def __init__(self, thread: ReactorThread, cluster: cluster.Cluster) -> None:
        """
        @param thread: the reactor's.
        @param cluster: what belongs to it.
        """
        self._thread = thread
        self._cluster = cluster

    def sendTo(self, data: Message, publicKey: PublicKey) -> Future[int]:
        """
        Send a message to all sessions of a key, at whichever nodes they are.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param publicKey: whose.
        @return: as L{aesm.server.cluster.Cluster.sendTo}; so are its failures.
        @raise TypeError: C{data} is neither text nor bytes.
        """
        return self._thread.submit(self._cluster.sendTo, frozen(data), publicKey)

    def sendAll(self, data: Message) -> Future[int]:
        """
        Send a message to the clients of all nodes.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: as L{aesm.server.cluster.Cluster.sendAll}; so are its failures.
        @raise TypeError: C{data} is neither text nor bytes.
        """
        return self._thread.submit(self._cluster.sendAll, frozen(data))

    def byPeer(self, publicKey: PublicKey) -> Future[list[ClusterConnection]]:
        """
        List the sessions of one key, at all nodes.

        @return: as L{aesm.server.cluster.Cluster.byPeer}; so are its failures.
        """
        return self._thread.submit(self._cluster.byPeer, publicKey)

    def connections(self) -> Future[list[ClusterConnection]]:
        """
        List the sessions at all nodes, in no order.

        @return: done with all of them; fails with L{SpoolError
            <aesm.errors.SpoolError>} if the engine is away.
        """

        async def found() -> list[ClusterConnection]:
            """Find them, in the reactor's thread."""
            return [row async for row in self._cluster.connections()]

        return self._thread.submit(lambda: Deferred.fromCoroutine(found()))

    def getDataOrdinal(self, timeout: float | None = None) -> tuple[PublicKey, Packet]:
        """
        Take the oldest packet that came to any node and that nobody has taken, once
        there is one, as L{aesm.server.cluster.Cluster.getDataOrdinal}.

        @param timeout: seconds to wait; None for ever.
        @return: whose it is, and the packet.
        @raise ConnectionClosed: the server has stopped.
        @raise RuntimeError: the server has a handler, this is the reactor's thread, or
            a forked child.
        @raise TimeoutError: none came in time; nothing was taken.
        """
        forbidWaiting("cluster.getDataOrdinal()")
        asked: list[Deferred[tuple[PublicKey, Packet]]] = []

        def ask() -> Deferred[tuple[PublicKey, Packet]]:
            """Ask, in the reactor's thread."""
            asked.append(self._cluster.getDataOrdinal())
            return asked[0]

        def cancel() -> None:
            """Take nothing any more, in the reactor's thread."""
            for each in asked:
                each.cancel()

        taken: Future[tuple[PublicKey, Packet]] = self._thread.submit(ask)
        try:
            return self._thread.wait(taken, timeout)
        except TimeoutError:
            pass
        except BaseException:  # Ctrl-C
            self._thread.submit(cancel)
            raise
        # It may have come just now, which is known once this is done.
        self._thread.submit(cancel)
        try:
            return taken.result()
        except CancelledError:
            raise TimeoutError(f"nothing came within {timeout:g} seconds") from None
