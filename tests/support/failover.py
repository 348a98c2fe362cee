"""
Real failovers: a primary with a replica that is held back, and is killed; two nodes, in
one process, whose sessions have had more than the replica knows::

    python -m tests.support.failover --seeds 20         # what was lost is written again
    python -m tests.support.failover --sync replica     # nothing is lost

With "replica" both nodes die together with the primary, and a third one looks.
"""

from __future__ import annotations

import argparse
import sys
from random import Random
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.interfaces import IStreamClientEndpoint as IEndpoint
from twisted.internet.task import deferLater, react
from twisted.protocols.portforward import ProxyFactory
from zope.interface import implementer

from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import Engine
from aesm.cluster.store import EngineStore
from aesm.errors import SpoolError
from tests.support.engines import RedisServer, freePort

__all__ = ["failOver"]

SESSIONS, TURNS = 20, 40
GRACE = 60.0


@implementer(IEndpoint)
class Current:
    """
    Leads to the server that is the primary now.

    @ivar server: which.
    """

    def __init__(self, reactor: Any, server: RedisServer) -> None:
        """ """
        self._reactor = reactor
        self.server = server

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect."""
        endpoint: IEndpoint = UNIXClientEndpoint(self._reactor, self.server.path)
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        return connecting


class Session:
    """
    What its client would know of a session.

    @ivar said: what was sent over it and committed.
    """

    def __init__(self, name: str) -> None:
        """ """
        self.name = name
        self.said: list[bytes] = []
        self.began = 0  # messages that were given to the store

    def say(self, store: EngineStore, random: Random) -> None:
        """Send something, and have some of what was sent acknowledged."""
        content = b"%s:%d " % (self.name.encode(), self.began) + random.randbytes(1000)
        store.append(self.name, True, self.began, 1, content)
        if self.began % 2:
            store.addRequest(self.name, self.began, content)
        self.began += 1
        store.put(self.name, "K", {"count": self.began})
        self.said.append(content)


class Outcome(NamedTuple):
    """
    What became of it.

    @ivar behind: how many batches the replica lacked when it took over.
    @ivar wrong: which sessions are not what their clients know.
    """

    behind: int
    wrong: list[str]


class World:
    """Servers, nodes and sessions, for one failover."""

    def __init__(self, reactor: Any, seed: int, sync: str) -> None:
        """@param sync: of L{Engine}."""
        self._reactor = reactor
        self._random = Random(seed)
        self._sync = sync
        self._primary = RedisServer("--repl-diskless-sync-delay", "0", port=freePort())
        proxy = ProxyFactory("127.0.0.1", self._primary.port)
        self._links: list[Any] = []
        build = proxy.buildProtocol

        def remembered(address: Any) -> Any:
            """Build a protocol, and remember it."""
            self._links.append(build(address))
            return self._links[-1]

        proxy.buildProtocol = remembered  # type: ignore[assignment]
        proxy.noisy = False
        self._port = reactor.listenTCP(0, proxy, interface="127.0.0.1")
        self._replica = RedisServer(
            "--replicaof", f"127.0.0.1 {self._port.getHost().port}"
        )
        self._current = Current(reactor, self._primary)
        self._stores: list[EngineStore] = []
        self._sessions = [Session(f"S{index}") for index in range(SESSIONS)]

    async def node(self) -> EngineStore:
        """Have one more node."""
        name = f"node-{len(self._stores)}"
        address = EngineAddress.parse("redis://127.0.0.1")
        node = Engine(
            self._reactor,
            address,
            "test",
            name,
            sync=self._sync,
            endpoint=self._current,
        )
        store = EngineStore(node, self._reactor, GRACE)
        await store.open()
        self._stores.append(store)
        return store

    async def turns(self, count: int) -> None:
        """Let things happen at both nodes, as long as they are committed."""
        for _ in range(count):
            waiting = []
            for which, store in enumerate(self._stores[:2]):
                for session in self._sessions[which::2]:
                    if self._random.random() < 0.5:
                        session.say(store, self._random)
                waiting.append(store.commit())
            await DeferredList(waiting)

    async def run(self) -> Outcome:
        """Fail over once."""
        two = [await self.node(), await self.node()]
        # It is sent nothing for a while, though it is connected.
        while not self._replica.command("EXISTS", "{aesm:test}:meta"):
            await deferLater(self._reactor, 0.05)
        for index, session in enumerate(self._sessions):
            await two[index % 2].begin(session.name, "K", {"count": 0})
        await self.turns(self._random.randrange(1, TURNS))
        if self._sync == "primary":
            return await self.heldBack()
        return await self.allDie()

    async def heldBack(self) -> Outcome:
        """Nothing more reaches the replica; nodes go on, and come to it."""
        self.hold()
        await self.turns(self._random.randrange(1, TURNS))
        lastOf = [store._writer.number for store in self._stores]
        self.takeOver()
        batches = self._replica.commands(
            *(("HGET", f"{{aesm:test}}:n:node-{which}", "batch") for which in (0, 1))
        )
        await self.turns(self._random.randrange(1, TURNS))
        wrong = await self.wrong()
        return Outcome(sum(lastOf) - sum(map(int, batches)), wrong)

    async def allDie(self) -> Outcome:
        """Nothing more reaches the replica, and so nothing more is acknowledged."""
        self.hold()
        counts = [(len(session.said), session) for session in self._sessions]
        waiting = []
        for index, session in enumerate(self._sessions):
            session.say(self._stores[index % 2], self._random)
        for store in self._stores:
            waiting.append(store.commit())
        done = DeferredList(waiting, consumeErrors=True)
        await deferLater(self._reactor, 0.2)
        assert not done.called, "it is acknowledged, and the replica does not have it"
        for count, session in counts:  # nobody was told more
            del session.said[count:]
        for store in self._stores:
            store._engine._protocol.transport.abortConnection()
            await maybeDeferred(store.close).addErrback(lambda failure: None)
        self.takeOver()
        self._sync = "primary"  # there is no second replica for one to wait for
        return Outcome(0, await self.wrong())

    def hold(self) -> None:
        """Have nothing more of what the primary says reach the replica."""
        for link in self._links:
            link.peer.transport.pauseProducing()

    def takeOver(self) -> None:
        """Kill the primary; the replica takes its place."""
        self._primary.kill()
        for link in self._links:
            link.transport.abortConnection()
        self._replica.command("REPLICAOF", "NO", "ONE")
        self._current.server = self._replica

    async def wrong(self) -> list[str]:
        """List the sessions that are not what their clients know, at one more node."""
        store = await self.node()
        return [it.name for it in self._sessions if not await self.isRight(store, it)]

    async def isRight(self, store: EngineStore, session: Session) -> bool:
        """Tell whether all that was committed of a session is there."""
        while True:
            try:
                stored = await store.claim(session.name, "K")
                break
            except SpoolError:  # others are still looking
                await deferLater(self._reactor, 0.05)
        if stored is None:
            return False
        found = [blob.frames for blob in stored.outgoing]
        asked = [blob.frames for blob in stored.requests]
        count = stored.state["count"]
        return (
            count >= len(session.said)
            and found[: len(session.said)] == session.said
            and len(found) == count
            and asked == found[1::2]
        )

    async def end(self) -> None:
        """Nothing is left."""
        for store in self._stores:
            if not store._isClosed:
                await maybeDeferred(store.close).addErrback(lambda failure: None)
        await maybeDeferred(self._port.stopListening)
        self._primary.stop()
        self._replica.stop()


async def failOver(reactor: Any, seed: int, sync: str) -> Outcome:
    """
    Fail over.

    @param seed: of what happens.
    @param sync: C{"primary"} or C{"replica"}.
    """
    world = World(reactor, seed, sync)
    try:
        return await world.run()
    finally:
        await world.end()


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.failover")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sync", choices=["primary", "replica"], default="primary")
    options = parser.parse_args(arguments)

    async def run() -> None:
        """Fail over, many times."""
        for seed in range(options.seeds):
            outcome = await failOver(reactor, seed, options.sync)
            print(f"seed {seed}: {outcome.behind} batches behind,", end=" ")
            print(f"{len(outcome.wrong)} of {SESSIONS} sessions wrong", flush=True)

    return Deferred.fromCoroutine(run())


if __name__ == "__main__":
    react(main, sys.argv[1:])
