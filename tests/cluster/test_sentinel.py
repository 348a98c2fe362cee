"""
Tests for L{aesm.cluster.sentinel}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import Engine
from aesm.cluster.sentinel import SentinelEndpoint
from aesm.cluster.store import EngineStore
from aesm.errors import SpoolError
from tests.secure.test_hosts import resolving
from tests.support.engines import RedisServer, Sentinel, freePort


def _ignore(failure: Failure) -> None:
    """A node that never was one leaves nothing unwritten."""
    failure.trap(SpoolError)


class SentinelEndpointTests(SynchronousTestCase):
    """L{SentinelEndpoint}, with sentinels that say what they are to."""

    def setUp(self) -> None:
        """Have three of them."""
        self.reactor = resolving(MemoryReactorClock())
        self.answers: list[Any] = []
        address = EngineAddress.parse("redis+sentinel://10.0.0.1,10.0.0.2/main")
        self.endpoint = SentinelEndpoint(self.ask, address, self.reactor)
        self.asked: list[str] = []

    def ask(
        self, sentinel: IStreamClientEndpoint, name: str
    ) -> Deferred[tuple[str, int]]:
        """Answer."""
        self.asked.append(f"{sentinel._hostText} {name}")  # type: ignore[attr-defined]
        answer = self.answers.pop(0)
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def connected(self) -> int:
        """Connect; tell to which port."""
        connecting = self.endpoint.connect(Factory.forProtocol(Protocol))
        self.reactor.advance(0)
        *_, last = self.reactor.tcpClients
        connecting.cancel()
        self.failureResultOf(connecting)
        port = last[1]
        assert isinstance(port, int)
        return port

    def test_interface(self) -> None:
        """It is an endpoint."""
        verifyObject(IStreamClientEndpoint, self.endpoint)

    def test_asked(self) -> None:
        """One is asked after the other; who knew is asked first, and each time."""
        self.answers = [SpoolError("no"), ("10.1.0.1", 1), ("10.1.0.2", 2)]
        self.assertEqual([self.connected(), self.connected()], [1, 2])
        expected = ["10.0.0.1 main", "10.0.0.2 main", "10.0.0.2 main"]
        self.assertEqual(self.asked, expected)

    def test_nobody(self) -> None:
        """If none knows, it says what each said."""
        self.answers = [SpoolError("no"), SpoolError("neither")]
        connecting = self.endpoint.connect(Factory.forProtocol(Protocol))
        error = self.failureResultOf(connecting, ConnectError)
        for words in ("10.0.0.1:26379: no", "10.0.0.2:26379: neither"):
            self.assertIn(words, str(error.value))


class FailoverTests(TestCase):
    """Real sentinels."""

    def node(self, url: str, **options: Any) -> EngineStore:
        """Have a node, which ends with the test."""
        engine = Engine(reactor, EngineAddress.parse(url), "test", "one", **options)
        store = EngineStore(engine, reactor, 60.0)
        self.addCleanup(self.end, store)
        return store

    def end(self, store: EngineStore) -> Deferred[None]:
        """Let a node end."""
        return store.close().addErrback(_ignore)

    async def assertFails(self, store: EngineStore, words: str) -> None:
        """Check that a node does not start, and is told why."""
        with self.assertRaises(SpoolError) as caught:
            await store.open()
        self.assertIn(words, str(caught.exception))

    async def test_failover(self) -> None:
        """A node goes to the server that takes over, and what is under way, too."""
        primary = RedisServer("--repl-diskless-sync-delay", "0", port=freePort())
        self.addCleanup(primary.stop)
        replica = RedisServer(
            *("--replicaof", f"127.0.0.1 {primary.port}"), port=freePort()
        )
        self.addCleanup(replica.stop)
        sentinel = Sentinel(primary)
        self.addCleanup(sentinel.stop)
        store = self.node(
            f"redis+sentinel://127.0.0.1:{freePort()},127.0.0.1:{sentinel.port}/main"
        )
        await store.open()
        await store.begin("S", "K", {"a": 1})
        # It is sent nothing for a while, though it is connected.
        while replica.command("GET", "{aesm:test}:t:S") is None:
            await deferLater(reactor, 0.05)
        while sentinel.command("SENTINEL", "FAILOVER", "main") != b"OK":
            await deferLater(reactor, 0.05)
        while not replica.isPrimary:
            store.put("S", "K", {"a": 2})
            await store.commit()
            await deferLater(reactor, 0.05)
        primary.kill()  # or it takes it, until the sentinel makes a replica of it
        store.put("S", "K", {"a": 3})
        await store.commit()
        self.assertEqual(replica.command("GET", "{aesm:test}:t:S"), b'{"a":3}')

    async def test_unknown(self) -> None:
        """One that knows no such server is told of, and so is a password it wants."""
        primary = RedisServer(port=freePort())
        self.addCleanup(primary.stop)
        sentinel = Sentinel(primary)
        self.addCleanup(sentinel.stop)
        store = self.node(f"redis+sentinel://127.0.0.1:{sentinel.port}/other")
        await self.assertFails(store, "it knows no other")
        sentinel.command("CONFIG", "SET", "requirepass", "word")
        primary.command("CONFIG", "SET", "requirepass", "word")
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        await self.assertFails(self.node(url), "NOAUTH")
        await self.node(url, password="word").open()
