"""
Several servers in one process that keep their sessions in one real engine, and clients
that come to one or the other::

    one, two = self.serving(handler), self.serving(handler)
    client = self.client(KEY, one)
    self.settle()
    self.roam(client, two)
"""

from __future__ import annotations

from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet import error
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from aesm import AnyServer, ClientService, Connection, PrivateKey, Server
from aesm.server import stores
from aesm.server.admission import PER_KEY
from aesm.testing import MemoryNetwork
from tests.support.engines import GRACE, EngineTestCase, Node
from tests.support.helpers import XX
from tests.support.pairs import SERVER_KEY
from tests.support.spooled import Mortal

__all__ = ["ClusterTestCase", "ServingNode"]


class ServingNode:
    """
    A node that serves.

    @ivar node: its way to the engine.
    @ivar server: the server.
    @ivar started: fires once it serves.
    @ivar listens: what it listens with.
    @ivar process: its clock, by which it is killed.
    """

    def __init__(self, case: ClusterTestCase, name: str, **options: Any) -> None:
        """ """
        self.process = Mortal(case.network.clock)
        clock: Any = self.process
        sealer = options.pop("sealer", None)
        self.node = Node(clock, name, case.redis.path, GRACE, sealer=sealer)
        case.store = self.node.store
        case.store._perKey = PER_KEY[options.get("perKey", "allow")]
        settings: dict[str, Any] = {
            "key": SERVER_KEY,
            "suites": (XX,),
            "handshakesPerHost": 1e6,
            "cluster": "redis://127.0.0.1",
        }
        self.server = Server(
            case.network.endpoint(), reactor=self.process, **(settings | options)
        )
        self.cluster = self.server.cluster
        self.started = self.server.start()
        self.listens: Any = None

    def connection(self, key: PrivateKey) -> Connection:
        """Find the connection of a client that is here."""
        (connection,) = self.server.connections.byPeer(key.publicKey)
        return connection


@implementer(IStreamClientEndpoint)
class Way:
    """The way of a client to the node that it is to come to."""

    def __init__(self, case: ClusterTestCase, node: ServingNode) -> None:
        """ """
        self.case = case
        self.node: ServingNode | None = node

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, unless that node is dead."""
        if self.node is None or self.node not in self.case.nodes:
            return fail(error.ConnectionRefusedError())
        self.case.network.factory = self.node.listens
        return self.case.network.endpoint().connect(protocolFactory)


class ClusterTestCase(EngineTestCase):
    """
    Nodes that serve, and clients.

    @ivar network: between them.
    @ivar store: for the next server that starts.
    """

    store: Any

    def setUp(self) -> None:
        """Have an engine, and a network."""
        super().setUp()
        self.network = MemoryNetwork()
        self.nodes: list[ServingNode] = []
        self.clients: dict[ClientService, tuple[Way, Mortal]] = {}
        self.patch(stores, "engineOpener", lambda *url, **options: lambda: self.store)
        self.addCleanup(self.endAll)

    def serving(self, name: str, handler: object = None, **options: Any) -> ServingNode:
        """Start a node that serves."""
        node = ServingNode(self, name, handler=handler, **options)
        self.nodes.append(node)
        self.settle()
        self.successResultOf(node.started)
        node.listens = self.network.factory
        return node

    def client(
        self, key: PrivateKey, node: ServingNode, **options: Any
    ) -> ClientService:
        """Start a client, which comes to a node."""
        way, process = Way(self, node), Mortal(self.network.clock)
        client = ClientService(
            way,
            reactor=process,
            key=key,
            trust=AnyServer(),
            suites=(XX,),
            retryPolicy=backoffPolicy(jitter=lambda: 0.0),
            **options,
        )
        self.clients[client] = way, process
        client.startService()
        self.settle()
        return client

    def cut(self, client: ClientService) -> None:
        """Cut a client off."""
        process = self.clients[client][1]
        for link in list(self.network.links):
            if link.client.protocol.factory.clock is process:  # type: ignore[attr-defined]
                link.cut()

    def roam(self, client: ClientService, node: ServingNode) -> None:
        """Let a client come to another node."""
        self.clients[client][0].node = node
        self.cut(client)
        self.settle(5)

    def kill(self, node: ServingNode) -> None:
        """Kill a node: what is not in the engine is gone."""
        self.nodes.remove(node)
        node.process.kill()
        for line in (*node.node.lines.lines, *node.node.lines.bells):
            line.isOpen = False
            line._socket.close()
        for link in list(self.network.links):
            if link.server.protocol.factory is node.listens:  # type: ignore[attr-defined]
                link.server.lost = True
                link.client.lose(error.ConnectionLost())
                self.network.links.remove(link)

    def settle(self, seconds: int = 0) -> None:
        """Let everything go that is on its way, and time pass."""
        for step in (0, *[1] * seconds):
            self.network.advance(step)
            isBusy = True
            while isBusy:
                lines = [each.node.lines for each in self.nodes]
                isBusy = any([each.deliver() for each in lines])
                isBusy = any([each.hearAll() for each in lines]) or isBusy
                self.network.advance(0)

    def taken(self, client: ClientService) -> list[Any]:
        """Take what has come to a client."""
        data = []
        while (packet := client.retrieved.getData()) is not None:
            data.append(packet.data)
        return data

    def endAll(self) -> None:
        """Stop all; nothing is left then."""
        for client in self.clients:
            stopped = client.stopService()
            self.settle(20)
            self.successResultOf(stopped)
        for node in self.nodes:
            self.network.factory = node.listens
            stopping = node.server.stop()
            self.settle(20)
            self.successResultOf(stopping)
            for line in (*node.node.lines.lines, *node.node.lines.bells):
                line.close()
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
