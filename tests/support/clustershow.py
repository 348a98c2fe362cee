"""
Nodes with one engine and clients that talk with them, while nodes are killed or stand
still, and the engine does not answer or is away; all in processes of their own::

    python -m tests.support.clustershow --messages 200000 --clients 200 kill
    python -m tests.support.clustershow stop freeze away full flush

Each client sends numbered messages and has to get each back, once and in order, over one
session.  Nothing is acknowledged while the engine does not answer.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from subprocess import DEVNULL, Popen
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.task import deferLater, react
from zope.interface import implementer

from aesm import AnyServer, ClientService, PrivateKey, SessionLost
from tests.support.engines import RedisServer, freePort

__all__ = ["Show", "Talker"]

WINDOW = 8  # messages of a client that did not come back
SETTLING = 1.0  # seconds in which replies that are under way may still come
EVENTS = ("kill", "stop", "freeze", "away", "full", "flush")


@implementer(IStreamClientEndpoint)
class Anywhere:
    """Leads to one node after the other."""

    def __init__(self, reactor: Any, ports: Iterable[int], random: Random) -> None:
        """ """
        self._reactor = reactor
        self._ports = list(ports)
        self._next = random.randrange(len(self._ports))

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the next one."""
        self._next = (self._next + 1) % len(self._ports)
        endpoint: IStreamClientEndpoint = TCP4ClientEndpoint(
            self._reactor, "127.0.0.1", self._ports[self._next], timeout=2
        )
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        return connecting


class Talker:
    """
    A client that has all that it says said back.

    @ivar back: how many came back.
    @ivar acknowledged: how many were acknowledged.
    @ivar gap: the longest time between two that came back, seconds.
    @ivar lost: how many the client was told that may be lost.
    @ivar done: fires when all came back.
    """

    def __init__(self, reactor: IReactorTime, way: Anywhere, count: int) -> None:
        """@param count: how many messages it has to say."""
        self.back = self.acknowledged = self.lost = 0
        self.gap = 0.0
        self.done: Deferred[None] = Deferred()
        self._reactor = reactor
        self._count = count
        self._said = 0
        self._last = reactor.seconds()
        self.service = ClientService(
            way,
            reactor=reactor,
            key=PrivateKey.generate(),
            trust=AnyServer(),
            retryPolicy=backoffPolicy(0.1, 1.0),
            heartbeat=5.0,
            handshakeTimeout=5.0,
        )
        self.service.startService()
        taking = Deferred.fromCoroutine(self._take())
        taking.addErrback(self.done.errback)
        self._say()

    def _say(self) -> None:
        """Say what fits."""
        while self._said < min(self._count, self.back + WINDOW):
            sent = self.service.sendData(str(self._said))
            sent.addCallbacks(self._cbAcknowledged, self._ebLost)
            self._said += 1

    def _cbAcknowledged(self, result: None) -> None:
        """Count."""
        self.acknowledged += 1

    def _ebLost(self, failure: Any) -> None:
        """Count what may be lost; nothing else can be told."""
        failure.trap(SessionLost)
        self.lost += 1

    async def _take(self) -> None:
        """
        Take what comes back.

        @raise ValueError: it is not what is next.
        """
        while self.back < self._count:
            packet = await self.service.retrieved.get()
            if self.lost:
                self.back = int(packet.data)  # with what was lost a new session began
            elif packet.data != str(self.back):
                raise ValueError(f"{packet.data} came instead of {self.back}")
            now = self._reactor.seconds()
            self.gap = max(self.gap, now - self._last)
            self._last = now
            self.back += 1
            self._say()
        self.done.callback(None)


class Show:
    """Engine, nodes and clients."""

    def __init__(self, reactor: Any, options: Any, stack: ExitStack) -> None:
        """@param stack: ends what was started."""
        self._reactor = reactor
        self._options = options
        self._random = Random(options.seed)
        self._home = stack.enter_context(tempfile.TemporaryDirectory())
        PrivateKey.generate().save(Path(self._home, "server.key"))
        self.engine = RedisServer("--appendonly", "yes", *options.engine)
        stack.callback(self.engine.stop)
        self._ports = [freePort() for _ in range(options.nodes)]
        self._nodes: list[Popen[bytes]] = []
        self._log = stack.enter_context(open(options.log, "wb"))
        self._starts = 0
        for port in self._ports:
            self._nodes.append(self._start(port))
        stack.callback(self._end)
        self.talkers: list[Talker] = []
        self.deaths = 0

    def _start(self, port: int) -> Popen[bytes]:
        """Start a node."""
        self._starts += 1
        command = [
            *(sys.executable, "-m", "aesm", "serve", "--no-control"),
            *("--handler", "echo", "--node", f"node-{port}"),
            *("--listen", f"tcp:{port}:interface=127.0.0.1"),
            *("--cluster", f"redis+unix://{self.engine.path}"),
            *self._options.node,
        ]
        environment = dict(os.environ, AESM_HOME=self._home)
        return Popen(
            command, env=environment, stdin=DEVNULL, stdout=self._log, stderr=self._log
        )

    def _end(self) -> None:
        """End the nodes."""
        for node in self._nodes:
            node.kill()
            node.wait()

    def sleep(self, seconds: float) -> Deferred[None]:
        """Wait."""
        return deferLater(self._reactor, seconds)

    @property
    def acknowledged(self) -> int:
        """How many messages were."""
        return sum(talker.acknowledged for talker in self.talkers)

    async def talk(self) -> None:
        """Have all clients say all, while something happens again and again."""
        options = self._options
        each = options.messages // options.clients
        for _ in range(options.clients):
            way = Anywhere(self._reactor, self._ports, self._random)
            self.talkers.append(Talker(self._reactor, way, each))
        done = gatherResults([talker.done for talker in self.talkers])
        done.addErrback(lambda failure: failure.value.subFailure)
        for event in options.events:
            await self.until(0.2 / len(options.events))
            await getattr(self, f"do{event.capitalize()}")(done)
        await done
        await gatherResults([talker.service.stopService() for talker in self.talkers])

    async def until(self, share: float) -> None:
        """Wait until so much more of all came back."""
        wanted = self.back + share * self._options.messages
        while self.back < min(wanted, self._options.messages - 1):
            await self.sleep(0.1)

    @property
    def back(self) -> int:
        """How many messages came back."""
        return sum(talker.back for talker in self.talkers)

    async def doKill(self, done: Deferred[Any]) -> None:
        """Kill nodes, until all is said."""
        while not done.called:
            await self.sleep(self._random.uniform(1, 3))
            which = self._random.randrange(len(self._nodes))
            self._nodes[which].kill()
            self._nodes[which].wait()
            self.deaths += 1
            self._nodes[which] = self._start(self._ports[which])

    async def doStop(self, done: Deferred[Any]) -> None:
        """Have a node stand still for so long that it is given up."""
        node = self._random.choice(self._nodes)
        node.send_signal(signal.SIGSTOP)
        await self.sleep(self._options.seconds)
        node.send_signal(signal.SIGCONT)

    async def doFreeze(self, done: Deferred[Any]) -> None:
        """Have the engine stand still."""
        process = self.engine._process
        process.send_signal(signal.SIGSTOP)
        await self._silence()
        process.send_signal(signal.SIGCONT)

    async def doAway(self, done: Deferred[Any]) -> None:
        """Kill the engine, and start it again later."""
        self.engine.kill()
        await self._silence()
        self.engine.restart()

    async def _silence(self) -> None:
        """
        See that nothing is acknowledged.

        @raise ValueError: something is.
        """
        await self.sleep(SETTLING)
        before = self.acknowledged
        await self.sleep(self._options.seconds - SETTLING)
        if self.acknowledged != before:
            raise ValueError(f"{self.acknowledged - before} were acknowledged")

    async def doFull(self, done: Deferred[Any]) -> None:
        """Have no room in the engine."""
        self.engine.command("CONFIG", "SET", "maxmemory", 1)
        await self._silence()
        self.engine.command("CONFIG", "SET", "maxmemory", 0)

    async def doFlush(self, done: Deferred[Any]) -> None:
        """Have the engine lose all that it has."""
        self.engine.command("FLUSHALL")

    def report(self, seconds: float) -> str:
        """Say how it went."""
        talkers = self.talkers
        said = sum(each.back for each in talkers)
        lost = sum(each.lost for each in talkers)
        most = [_memory(node.pid) for node in self._nodes]
        return (
            f"{said} messages of {len(talkers)} clients came back in {seconds:.0f} s, "
            f"once and in order; {lost} were told lost; {self.deaths} deaths; the "
            f"longest gap was {max(each.gap for each in talkers):.1f} s; nodes have "
            f"{max(most)} MiB at the most"
        )


def _memory(pid: int) -> int:
    """Tell how much memory a process needed at the most, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) >> 10
    return 0


async def show(reactor: Any, options: Any) -> None:
    """Show it, once."""
    started = time.monotonic()
    with ExitStack() as stack:
        shown = Show(reactor, options, stack)
        await shown.talk()
        print(shown.report(time.monotonic() - started), flush=True)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.clustershow")
    parser.add_argument("events", nargs="*", choices=EVENTS)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of what happens")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--log", default=os.devnull, help="of the nodes")
    parser.add_argument("--node", action="append", default=[], help="an option of it")
    parser.add_argument("--engine", action="append", default=[], help="the same")
    options = parser.parse_args()
    print(f"seed {options.seed}: {' '.join(options.events)}", flush=True)
    react(lambda reactor: Deferred.fromCoroutine(show(reactor, options)))


if __name__ == "__main__":
    main()
