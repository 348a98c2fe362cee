"""
Nodes of a cluster behind one port, clients that talk to them and by them to each other,
and somebody who does his worst to the nodes, each in a process of its own::

    python -m tests.support.clustershow --nodes 3 --clients 200 --messages 200000

Half of all messages are echoed, half are sent to another client, wherever he is.  Every
one has to arrive, once and in order, and no session is to be lost.  With C{--all} each
is told all clients, and has to arrive at all of them, in one order; how many have it is
said to who sent it.

Several things may be done to them in turn, C{--fault}: to C{kill} a node, have it
C{stop} for a while, or have the engine C{freeze} or be C{away} or C{full} for so long,
while nothing is acknowledged.  With C{--sync} the engine has a replica and a sentinel,
and C{failover} kills the primary.

With C{--sleepers} two more clients are told what all are, and do not take it: one
stays, one is away, and comes back at the end to another node, since its own was killed.
Either has to be told (4000).

For C{hoard} all clients take nothing for so long, in which a node may be killed, if
C{kill} is a fault, too.  With large messages that fills an engine that has a bound;
when they go on, so has all else, by itself.  What is not sent, for want of room, has to
be told, unless the node is killed that was to say so: so the engine notes it as well::

    python -m tests.support.clustershow --fault hoard kill --every 5 8
        --maxmemory 64mb --size 65536 --window 131072 --messages 20000
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from hashlib import sha1, sha256
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Thread
from typing import IO, Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm import (
    AESMError,
    AnyServer,
    ClientService,
    Connection,
    ConnectionClosed,
    MessageHandler,
    Packet,
    PrivateKey,
    PublicKey,
    SendBufferFull,
    Server,
    SpoolError,
    connect,
)
from aesm.cluster.scripts import COMMIT
from aesm.errors import CloseCode
from aesm.messages.deferred import Gate
from aesm.server.cluster import Cluster
from aesm.store import entries
from tests.support.engines import RedisServer, Sentinel, freePort
from tests.support.helpers import XX

__all__ = ["FAULTS", "GRACE", "SERVER_KEY", "Nodes", "keyOf", "show", "start"]

NAME = "tests.support.clustershow"
SERVER_KEY = PrivateKey(b"\x22" * 32)
GRACE = 60.0
AHEAD = 8  # messages of a client that are under way
TELLERS = 8  # clients that tell all, one message each at a time
SLOW = 5.0  # seconds
PATIENCE = 60.0  # seconds without any progress
LOOK = 1.0  # seconds between looks at what the engine has refused
REFUSED = "{aesm:aesm}:refused"  # where it notes that


def keyOf(number: int) -> PrivateKey:
    """Make the key of a client."""
    return PrivateKey(sha256(b"client %d" % number).digest())


# A node


class Exchange(MessageHandler):
    """
    What a node does: C{"e ..."} goes back, C{"s KEY ..."} to who has that key, or
    C{"n ..."} goes back, and C{"a ..."} to all, with C{"c ..."} to who has sent it.
    """

    cluster: Cluster
    server: Server

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Pass a message on."""
        data = packet.data
        assert isinstance(data, str)
        if data[0] == "e":
            connection.sendData(data)
        elif data[0] == "a":
            told = self.server.sendAll(data)
            told.addCallbacks(self._counted, _complain, callbackArgs=(connection,))
        else:
            _, key, rest = data.split(" ", 2)
            sent = self.cluster.sendTo(rest, PublicKey.fromText(key))
            sent.addErrback(self._ebSent, connection, rest)

    def _ebSent(self, failure: Failure, connection: Connection, data: str) -> None:
        """Say that something was not sent, for want of room."""
        _complain(failure)
        if failure.check(SendBufferFull):
            connection.sendData("n " + data.rstrip("x "))

    def _counted(self, count: int, connection: Connection) -> None:
        """Say how many have what was told all."""
        connection.sendData(f"c {count}")


class Ticker:
    """
    Who sends something that no handler does, and is told when it is not possible.

    @ivar refused: how often he was.
    """

    def __init__(self, server: Server) -> None:
        """@param server: of the node."""
        self.refused = 0
        self._server = server

    def tick(self) -> None:
        """Send it to whoever is there."""
        for connection in list(self._server.connections.values())[:1]:
            sent = self._server.cluster.sendTo("t", connection.peer)
            sent.addErrback(self._ebSent)

    def _ebSent(self, failure: Failure) -> None:
        """Count."""
        failure.trap(SpoolError, ConnectionClosed, SendBufferFull)
        if failure.check(SpoolError):
            self.refused += 1
            print("a sender was refused", file=sys.stderr, flush=True)


def _complain(failure: Failure) -> None:
    """Say that something was not sent."""
    print(f"not sent: {failure.getErrorMessage()}", file=sys.stderr, flush=True)


def _noteRefusals() -> None:
    """
    Have the engine note what finds no room in an inlet.  It is the one thing that
    becomes of a message which only the memory of a node knows.
    """
    found = b"full = full + 1"
    assert COMMIT.source.count(found) == 1
    noting = found + b" redis.call('RPUSH', P .. 'refused', data:sub(1, 64))"
    COMMIT.source = COMMIT.source.replace(found, noting)
    COMMIT.digest = sha1(COMMIT.source).hexdigest()


async def serve(reactor: Any, options: Any) -> None:
    """Be a node, until it is killed, or stopped."""
    _noteRefusals()
    handler = Exchange()
    entries.LOG_SIZE = options.logSize  # type: ignore[misc]
    server = Server(
        f"reuseport:{options.port}:interface=127.0.0.1",
        reactor=reactor,
        key=SERVER_KEY,
        suites=(XX,),
        handler=handler,
        cluster=options.engine,
        clusterSync=options.sync or "primary",
        node=options.node,
        sessionGrace=GRACE,
        maxConnectionsPerHost=10_000,
        handshakesPerHost=1e6,
    )
    handler.server = server
    handler.cluster = server.cluster
    LoopingCall(Ticker(server).tick).start(1.0, now=False)
    reactor.addSystemEventTrigger("before", "shutdown", server.stop)
    await server.start()
    print("listening", flush=True)
    await Deferred()


# The clients


class Ledger:
    """
    What all clients have sent, and what came of it.

    @ivar done: how many messages have arrived.
    @ivar slow: how many took longer than L{SLOW}.
    @ivar longest: the longest time that one took, seconds.
    @ivar calls: the most calls of clients to nodes in any second, but the first ones.
    @ivar refused: those that were not sent.
    @ivar told: those of them of which that was said.
    @ivar wrong: what was not as it should be.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.done = self.slow = 0
        self.longest = 0.0
        self.calls = 0
        self.wrong: list[str] = []
        self._calls: deque[float] = deque()  # when, in the last second
        self._sent: dict[str, float] = {}
        self._next: defaultdict[str, Iterator[int]] = defaultdict(count)
        self._expected: defaultdict[str, int] = defaultdict(int)
        self.refused: set[str] = set()
        self.told: set[str] = set()

    def make(self, way: str) -> str:
        """Make the next message of those that go one way."""
        message = f"{way} {next(self._next[way])}"
        self._sent[message] = time.monotonic()
        return message

    def take(self, message: str, way: str) -> None:
        """Check a message that has arrived."""
        # What is missing in between was refused, as is heard; else it stays so.
        due, number = self._expected[way], int(message.rpartition(" ")[2])
        if message in self.refused:
            self.wrong.append(f"{message!r} was refused, and came")
        if message != f"{way} {number}" or number < due:
            self.wrong.append(f"{message!r} came instead of {due} of {way!r}")
        self._expected[way] = number + 1
        now = time.monotonic()
        took = now - self._sent.pop(message, now)
        if took > SLOW:
            self.slow += 1
        self.longest = max(self.longest, took)
        self.done += 1

    def refuse(self, message: str) -> bool:
        """
        A message was refused.

        @return: whether that is news.
        """
        if message in self.refused:
            return False
        if self._sent.pop(message, None) is None:
            self.wrong.append(f"{message!r} was refused, and came")
        self.refused.add(message)
        self.done += 1
        return True

    def tell(self, message: str) -> bool:
        """
        It was said that a message was refused.

        @return: whether that is news.
        """
        if message in self.told:
            self.wrong.append(f"{message!r} was said to be refused twice")
        self.told.add(message)
        return self.refuse(message)

    def call(self) -> None:
        """Count a call of a client to a node."""
        now, calls = time.monotonic(), self._calls
        calls.append(now)
        while calls[0] < now - 1:
            calls.popleft()
        if self.done:
            self.calls = max(self.calls, len(calls))

    @property
    def missing(self) -> int:
        """How many have not arrived."""
        return len(self._sent)


class Told:
    """
    What all have told all, and what came of it; as L{Ledger}.

    @ivar counts: how many had each, as was said.
    """

    def __init__(self, clients: int) -> None:
        """Begin with nothing."""
        self.done = self.slow = 0
        self.longest = 0.0
        self.wrong: list[str] = []
        self.counts: list[int] = []
        self._clients = clients
        self._sent: dict[str, float] = {}
        self._order: list[str] = []
        self._seen: defaultdict[int, int] = defaultdict(int)

    def make(self, way: str) -> str:
        """Make the next message."""
        message = f"{way} {len(self._sent)}"
        self._sent[message] = time.monotonic()
        return message

    def take(self, message: str, client: int) -> None:
        """Check a message that has come to a client."""
        position = self._seen[client]
        self._seen[client] += 1
        if position == len(self._order):
            if message in self._order[-1000:]:
                self.wrong.append(f"{message!r} came twice")
            self._order.append(message)
        elif self._order[position] != message:
            self.wrong.append(
                f"{message!r} came to {client} instead of {self._order[position]!r}"
            )
        took = time.monotonic() - self._sent[message]
        self.longest = max(self.longest, took)
        self.slow += took > SLOW
        self.done += 1

    async def counted(self, reactor: Any) -> None:
        """Wait until nothing more is counted for a while."""
        before = -1
        while len(self.counts) < len(self._sent) and len(self.counts) > before:
            before = len(self.counts)
            await deferLater(reactor, 5)

    @property
    def missing(self) -> int:
        """How many have not arrived."""
        return len(self._sent) * self._clients - self.done


@implementer(IStreamClientEndpoint)
class Counted:
    """The way to the nodes, on which calls are counted."""

    def __init__(self, reactor: Any, port: int, ledger: Ledger) -> None:
        """@param ledger: counts."""
        self._endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{port}")
        self._ledger = ledger

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect."""
        self._ledger.call()
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting


quick = backoffPolicy(0.02, 0.3, jitter=lambda: random.uniform(0, 0.3))


def _listen(reactor: Any, clients: Clients) -> None:
    """Pass on what the show wants, until there is nothing more."""
    for line in sys.stdin:
        reactor.callFromThread(clients.hear, line)
    reactor.callFromThread(clients.hear, "")


class Client:
    """A client, which sends as long as there is something to be sent."""

    def __init__(self, reactor: Any, number: int, clients: Clients) -> None:
        """@param clients: all of them."""
        self.number = number
        self._clients = clients
        self._reactor = reactor
        self._service = ClientService(
            Counted(reactor, clients.options.port, clients.ledger),
            reactor=reactor,
            key=keyOf(number),
            trust=AnyServer(),
            suites=(XX,),
            retryPolicy=quick,
            heartbeat=clients.options.heartbeat,
            receiveBuffer=clients.options.window,
        )
        self._service.startService()
        self._taking = Deferred.fromCoroutine(self._take())

    async def begin(self) -> None:
        """Wait until it is connected."""
        await self._service.whenConnected()
        self._session = self.session

    @property
    def session(self) -> str:
        """The session that it has."""
        former = self._service.former
        return "" if former is None else former.session.name

    def next(self) -> None:
        """Send the next message after a while, if there is any."""
        self._clients.pausing += 1
        self._reactor.callLater(self._clients.options.pause, self._send)

    def _send(self) -> None:
        """Send the next message, if there is any."""
        clients, number = self._clients, self.number
        clients.pausing -= 1
        if clients.left <= 0 and clients.isEnough:
            return
        clients.left -= 1
        if clients.told is not None:
            message = clients.told.make(f"a {number}")
        elif clients.left % 2:
            message = clients.ledger.make(f"e {number}")
        else:
            other = clients.random.randrange(1, len(clients.all) + 1)
            message = clients.ledger.make(f"s {number} {other}")
            kind, rest = message.split(" ", 1)
            message = f"{kind} {keyOf(other).publicKey} {rest}"
        sent = self._service.sendData(message + " " + "x" * clients.options.size)
        sent.addCallbacks(self._cbAcknowledged, self._ebLost)

    def _cbAcknowledged(self, result: None) -> None:
        """A message is acknowledged: see how long none was."""
        clients, now = self._clients, time.monotonic()
        clients.silence = max(clients.silence, now - clients.acknowledged)
        clients.acknowledged = now

    def _ebLost(self, failure: Failure) -> None:
        """A message may be lost."""
        self._clients.ledger.wrong.append(failure.getErrorMessage())

    async def _take(self) -> None:
        """Take what comes: for each message the one who sent it sends another."""
        ledger = self._clients.ledger
        async for packet in self._service.retrieved:
            assert isinstance(packet.data, str)
            message = packet.data.rstrip("x ")
            if self._clients.hoarding is not None:
                await self._clients.hoarding.wait()
            if message[0] in "ac":
                self._hear(message)
            elif message[0] == "e":
                ledger.take(message, f"e {self.number}")
                self.next()
            elif message[0] == "n":
                if ledger.tell(f"s {message[2:]}"):
                    self.next()
            elif message[0] != "t":
                sender = message.split(" ", 1)[0]
                ledger.take(f"s {message}", f"s {sender} {self.number}")
                self._clients.all[int(sender) - 1].next()

    def _hear(self, message: str) -> None:
        """Take what was told all, or how many have it."""
        told = self._clients.told
        assert told is not None
        kind, number = message.split()[:2]
        if kind == "c":
            told.counts.append(int(number))
            return
        told.take(message, self.number)
        if int(number) == self.number:
            self.next()

    async def end(self) -> bool:
        """
        Stop.

        @return: whether it had one session all the time.
        """
        isSame = self.session == self._session
        await self._service.stopService()
        return isSame


class Clients:
    """
    All clients.

    @ivar left: how many messages are to be sent, at least.
    @ivar isEnough: whether no more are.
    @ivar pausing: how many are about to be sent.
    @ivar hoarding: opened when they take something again, while they do not.
    @ivar acknowledged: when a message was acknowledged last.
    @ivar silence: the longest time in which none was, seconds.
    """

    def __init__(self, reactor: Any, options: Any) -> None:
        """ """
        self.options = options
        self.left = options.messages
        self.isEnough = False
        self.pausing = 0
        self.acknowledged, self.silence = math.inf, 0.0
        self.begun = Gate()
        self.hoarding: Gate | None = None
        self.visitors = Visitors(reactor, options.port)
        self.ledger = Ledger()
        self.told = Told(options.clients) if options.all else None
        self.random = random.Random(options.seed)
        self.all: list[Client] = []
        for number in range(1, options.clients + 1):
            self.all.append(Client(reactor, number, self))

    def hear(self, line: str) -> None:
        """Do what the show wants."""
        if line == "begin\n":
            self.begun.open()
        elif line == "hoard\n":
            self.hoarding = Gate()
        elif line == "take\n" and self.hoarding is not None:
            hoarding, self.hoarding = self.hoarding, None
            hoarding.open()
        elif line.startswith("refused "):
            _, sender, other, number = line.split()
            if self.ledger.refuse(f"s {sender} {other} {number}"):
                self.all[int(sender) - 1].next()
        else:
            self.isEnough = True


class Visitors:
    """
    Clients that come, and leave again: one a second.

    @ivar admitted: how many were let in.
    @ivar refused: how many were told to come later.
    @ivar wrong: what was said to others.
    """

    def __init__(self, reactor: Any, port: int) -> None:
        """@param port: where to."""
        self.admitted = self.refused = 0
        self.wrong: list[str] = []
        self._reactor = reactor
        self._port = port
        self._visits = LoopingCall(self._visit)
        self._visits.start(1.0, now=False)

    def _visit(self) -> Deferred[None]:
        """Let the next one come."""
        endpoint = clientFromString(self._reactor, f"tcp:127.0.0.1:{self._port}")
        options: Any = {"trust": AnyServer(), "suites": (XX,), "key": keyOf(0)}
        visiting: Deferred[Any] = connect(self._reactor, endpoint, **options)
        visiting.addCallback(lambda connection: connection.close())
        return visiting.addCallbacks(self._cbVisited, self._ebVisited)

    def _cbVisited(self, nothing: object) -> None:
        """Count."""
        self.admitted += 1

    def _ebVisited(self, failure: Failure) -> None:
        """Count, unless it was its node that was killed."""
        if getattr(failure.value, "code", 0) == CloseCode.TRY_AGAIN_LATER:
            self.refused += 1
        elif not failure.check(AESMError, ConnectError, ConnectionLost):
            self.wrong.append(repr(failure.value))

    def stop(self) -> None:
        """Let no more come."""
        self._visits.stop()


@implementer(IStreamClientEndpoint)
class Sleepy:
    """
    A way to the nodes on which somebody sleeps.

    @ivar isAsleep: whether he does.
    """

    def __init__(self, reactor: Any, port: int) -> None:
        """Begin awake."""
        self._endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{port}")
        self._protocol: Any = None
        self.isAsleep = False

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, if he is awake."""
        if self.isAsleep:
            return fail(ConnectError(string="asleep"))
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._cbConnected)

    def _cbConnected(self, protocol: Any) -> Any:
        """Remember it."""
        self._protocol = protocol
        return protocol

    def sleep(self) -> None:
        """Be away from now on."""
        self.isAsleep = True
        self._protocol.transport.abortConnection()


class Sleeper:
    """
    A client that does not take what all are told.

    @ivar codes: with which it was closed, or refused, one after the other.
    """

    def __init__(self, reactor: Any, number: int, port: int) -> None:
        """@param port: where to."""
        self.codes: list[int] = []
        self.way = Sleepy(reactor, port)
        self.service = ClientService(
            self.way,
            reactor=reactor,
            key=keyOf(number),
            trust=AnyServer(),
            suites=(XX,),
            retryPolicy=quick,
            receiveBuffer=1000,
        )
        self.service.startService()

    async def begin(self) -> None:
        """Come."""
        connection = await self.service.whenConnected()
        connection.closed().addCallback(self._closed)

    def _closed(self, reason: Any) -> None:
        """Note why it is over."""
        self.codes.append(getattr(reason, "code", 0))

    async def wake(self) -> None:
        """Come back, and hear what is said to that."""
        awaited = self.service.whenConnected(failAfterFailures=1)
        self.way.isAsleep = False
        try:
            await awaited
        except ConnectError:  # its last dream
            await self.wake()
        except ConnectionClosed as error:
            self.codes.append(error.code)


async def call(reactor: Any, options: Any) -> None:
    """
    Be all clients.

    @raise SystemExit: something is wrong.
    """
    clients = Clients(reactor, options)
    listen = partial(_listen, reactor, clients)
    Thread(target=listen, daemon=True).start()
    for client in clients.all:
        await client.begin()
    sleepers: list[Sleeper] = []
    if options.sleepers:
        numbers = options.clients + 1, options.clients + 2
        sleepers = [Sleeper(reactor, number, options.port) for number in numbers]
        for sleeper in sleepers:
            await sleeper.begin()
        sleepers[1].way.sleep()
    begun = clients.begun.wait()
    print("progress 0", flush=True)
    await begun
    ledger: Any = clients.told or clients.ledger
    due = options.messages * (options.clients if options.all else 1)
    began = time.monotonic()
    senders = clients.all[:TELLERS] if options.all else clients.all * options.ahead
    for client in senders:
        client.next()
    told, last, since = 0, 0, began
    while (
        ledger.missing or clients.pausing or not clients.isEnough
    ) and not ledger.wrong:
        await deferLater(reactor, 0.02)
        if ledger.done != last:
            last, since = ledger.done, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            ledger.wrong.append("nothing comes any more")
        if (share := ledger.done * 100 // due) > told:
            told = share
            print(f"progress {told}", flush=True)
    seconds = time.monotonic() - began
    if clients.told is not None:
        await clients.told.counted(reactor)
    lost = [await client.end() for client in clients.all].count(False)
    for sleeper in sleepers:
        if sleeper.way.isAsleep:
            await sleeper.wake()
        print(f"a sleeper was told {sleeper.codes}")
        if sleeper.codes != [CloseCode.SLOW_CONSUMER]:
            ledger.wrong.append("a sleeper was not told, or something else")
        await sleeper.service.stopService()
    visitors = clients.visitors
    visitors.stop()
    ledger.wrong += visitors.wrong
    print(f"{visitors.admitted} visitors, and {visitors.refused} told to come later")
    print(
        f"{ledger.done} messages of {options.clients} clients in {seconds:.1f} s, "
        f"{len(clients.ledger.refused)} of them refused, of which "
        f"{len(clients.ledger.told)} were told, {ledger.missing} missing, {lost} "
        f"sessions lost, the longest took {ledger.longest:.2f} s, {ledger.slow} longer "
        f"than {SLOW:g} s, at most "
        f"{clients.ledger.calls} calls in a second; for {clients.silence:.2f} s "
        "nothing was acknowledged"
    )
    if clients.told is not None:
        counts = sorted(clients.told.counts) or [0]
        print(
            f"{len(counts)} of {options.messages} were counted: {counts[0]} to "
            f"{counts[-1]} clients had it, {counts.count(options.clients)} times all"
        )
    for line in ledger.wrong[:10]:
        print(f"wrong: {line}")
    if ledger.wrong or ledger.missing or lost:
        raise SystemExit(1)


# Who does his worst


class Nodes:
    """
    The processes of nodes, and their engine.

    @ivar redis: the engine.
    @ivar replica: what takes its place, if anything.
    @ivar port: where all of them listen.
    @ivar size: how many there are to be.
    @ivar alive: those that listen.
    @ivar lasting: how long something is done to them, seconds.
    @ivar clients: those that talk to them.
    @cvar module: what a node runs.
    """

    module = NAME
    clients: Popen[str]

    def __init__(self, stack: ExitStack, log: IO[str], options: Any) -> None:
        """
        Start an engine, and nodes.

        @param stack: ends all of them.
        @param log: of the nodes' errors.
        @param options: of the show.
        """
        sync = options.sync
        self.lasting = options.lasting
        self.options = options
        self.replica: RedisServer | None = None
        self._stack = stack
        self._log = log
        self._names = count(1)
        self._refused = 0  # how many the clients know of
        self.size = options.nodes
        self.redis = self._engine()
        self._engineOptions = [
            f"--engine=redis+unix://{self.redis.path}",
            f"--log-size={options.logSize}",
        ]
        if sync is not None:
            self.replica = self._engine("--replicaof", f"127.0.0.1 {self.redis.port}")
            sentinel = Sentinel(self.redis)
            stack.callback(sentinel.stop)
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
            self._engineOptions[0] = f"--engine={url}"
            self._engineOptions.append(f"--sync={sync}")
        self.port = freePort()
        self.alive: list[Popen[str]] = []
        started = [self._start() for _ in range(self.size)]
        self.alive += [node for node in started if self._listens(node)]
        assert self.alive, "no node listens"

    def _engine(self, *options: str) -> RedisServer:
        """Start an engine."""
        quick = "--appendonly", "yes", "--repl-diskless-sync-delay", "0"
        most = "--maxmemory", self.options.maxmemory
        engine = RedisServer(*quick, *most, *options, port=freePort())
        self._stack.callback(engine.stop)
        return engine

    def _start(self) -> Popen[str]:
        """Start a node, of another name than all before."""
        more = *self._engineOptions, f"--node=node-{next(self._names)}"
        arguments = f"--port={self.port}", *more, "serve"
        return start(self._stack, self._log, *arguments, module=self.module)

    def _listens(self, node: Popen[str]) -> bool:
        """Wait until a node listens, or ends."""
        assert node.stdout is not None
        return node.stdout.readline() == "listening\n"

    def _await(self, node: Popen[str]) -> None:
        """Wait until a node listens; one that ends, without an engine, comes again."""
        while not self._listens(node):
            node.wait()
            if self.clients.poll() is not None:
                return  # the show is over
            time.sleep(1)
            node = self._start()
        self.alive.append(node)

    def engine(self) -> str:
        """Tell how full the engine is."""
        info = self.redis.command("INFO", "everything").decode()
        shown = "used_memory_human", "used_memory_peak_human", "evicted_keys"
        names = *shown, "errorstat_OOM", "aof_delayed_fsync"
        return ", ".join(line for line in info.split() if line.startswith(names))

    def replace(self) -> None:
        """Kill all, one after the other, and start others in their places."""
        for node in list(self.alive):
            self.kill(node)
            while len(self.alive) < self.size:
                time.sleep(0.05)

    def tell(self, word: str) -> None:
        """Tell the clients something."""
        assert self.clients.stdin is not None
        with suppress(BrokenPipeError):  # they may be done
            os.write(self.clients.stdin.fileno(), f"{word}\n".encode())

    def tellRefused(self) -> None:
        """Tell the clients what the engine has refused since the last time."""
        for data in self.redis.command("LRANGE", REFUSED, self._refused, -1):
            self._refused += 1
            if data[1:2].isdigit():  # else it is nobody's who counts
                self.tell("refused " + data[1:].decode().rstrip("x "))

    def add(self) -> None:
        """Start a node, in the background."""
        Thread(target=self._await, args=(self._start(),), daemon=True).start()

    def restart(self, node: Popen[str]) -> None:
        """Stop a node, in order, and start another one in its place."""
        node.terminate()
        node.wait()
        self.alive.remove(node)
        self._await(self._start())

    def kill(self, node: Popen[str]) -> None:
        """Kill a node, and start another one in its place."""
        self.alive.remove(node)
        node.kill()
        node.wait()
        self.add()


def processorTime(process: Popen[str]) -> float:
    """Tell how much processor time a process has used, seconds."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: Popen[str]) -> int:
    """Tell how much memory a process has had at the most, MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def kill(nodes: Nodes, chance: random.Random) -> bool:
    """Kill a node, which is started again, unless some other is just being started."""
    if len(nodes.alive) < nodes.size:
        return False
    nodes.kill(chance.choice(nodes.alive))
    return True


def stop(nodes: Nodes, chance: random.Random) -> bool:
    """Have a node stand still for a while, and wake up."""
    node = chance.choice(nodes.alive)
    node.send_signal(signal.SIGSTOP)
    time.sleep(nodes.lasting)
    node.send_signal(signal.SIGCONT)
    return True


def freeze(nodes: Nodes, chance: random.Random) -> bool:
    """Have the engine stand still for a while."""
    nodes.redis.signal(signal.SIGSTOP)
    time.sleep(nodes.lasting)
    nodes.redis.signal(signal.SIGCONT)
    return True


def away(nodes: Nodes, chance: random.Random) -> bool:
    """Kill the engine, and start it again after a while."""
    nodes.redis.kill()
    time.sleep(nodes.lasting)
    nodes.redis.restart()
    return True


def full(nodes: Nodes, chance: random.Random) -> bool:
    """Have no room in the engine for a while."""
    nodes.redis.command("CONFIG", "SET", "maxmemory", 1)
    time.sleep(nodes.lasting)
    nodes.redis.command("CONFIG", "SET", "maxmemory", nodes.options.maxmemory)
    return True


def hoard(nodes: Nodes, chance: random.Random) -> bool:
    """Have clients take nothing for a while, and maybe kill a node meanwhile."""
    if len(nodes.alive) < nodes.size:
        return False
    nodes.tell("hoard")
    time.sleep(nodes.lasting / 2)
    isKilled = "kill" in nodes.options.fault and chance.random() < 0.5
    if isKilled:
        nodes.kill(chance.choice(nodes.alive))
    time.sleep(nodes.lasting / 2)
    print(
        f"hoarded{', and a node was killed' * isKilled}: {nodes.engine()}", flush=True
    )
    nodes.tell("take")
    return True


def term(nodes: Nodes, chance: random.Random) -> bool:
    """Stop the node that is there longest, and start another one in its place."""
    nodes.restart(nodes.alive[0])
    return True


def failover(nodes: Nodes, chance: random.Random) -> bool:
    """Kill the engine; its replica takes its place, and gets it as a replica."""
    former, newer = nodes.redis, nodes.replica
    assert newer is not None, "there is no replica: say --sync"
    former.kill()
    while not newer.isPrimary:
        time.sleep(0.05)
    former.restart()
    former.command("REPLICAOF", "127.0.0.1", newer.port)
    nodes.redis, nodes.replica = newer, former
    return True


# What can be done to them; each tells whether it was.
FAULTS: dict[str, Callable[[Nodes, random.Random], bool]] = {
    "kill": kill,
    "stop": stop,
    "freeze": freeze,
    "away": away,
    "full": full,
    "failover": failover,
    "hoard": hoard,
    "none": lambda nodes, chance: False,
    "term": term,
}


def start(
    stack: ExitStack, log: IO[str], *arguments: str, module: str = NAME
) -> Popen[str]:
    """Start a process of the show, which ends with it."""
    command = [sys.executable, "-m", module, *arguments]
    process = stack.enter_context(
        Popen(command, stdin=PIPE, stdout=PIPE, stderr=log, text=True)
    )
    stack.callback(process.kill)
    return process


def show(options: Any) -> int:
    """
    Run engine, nodes, clients and faults, and tell how it went.

    @return: the exit status of the clients.
    """
    print(f"seed {options.seed}", flush=True)
    chance, done = random.Random(options.seed), 0
    with ExitStack() as stack:
        where = {"mode": "w+", "dir": options.log, "delete": options.log is None}
        log = stack.enter_context(tempfile.NamedTemporaryFile(**where))
        nodes = Nodes(stack, log, options)
        said: list[str] = []
        clients = nodes.clients = start(
            *(stack, log, f"--port={nodes.port}", f"--seed={options.seed}"),
            *(f"--clients={options.clients}", f"--messages={options.messages}"),
            *(["--all"] if options.all else []),
            *(["--sleepers"] if options.sleepers else []),
            *(f"--size={options.size}", f"--window={options.window}"),
            *(f"--ahead={options.ahead}", f"--pause={options.pause}"),
            f"--heartbeat={options.heartbeat}",
            "call",
        )
        reader = Thread(target=lambda: said.extend(clients.stdout or ()), daemon=True)
        reader.start()
        while not said and clients.poll() is None:
            time.sleep(0.01)
        if options.sleepers:
            nodes.replace()
        nodes.tell("begin")
        if not options.faults:
            nodes.tell("enough")
        due, looked = time.monotonic() + chance.uniform(*options.every), 0.0
        while clients.poll() is None:
            time.sleep(0.01)
            if time.monotonic() > looked + LOOK:
                nodes.tellRefused()
                looked = time.monotonic()
            words = said[-1].split() if said else []
            progress = int(words[1]) if words[:1] == ["progress"] else 0
            isDue = (
                done < options.faults
                and progress * (options.faults + 1) > 100 * (done + 1)
                if options.faults
                else time.monotonic() >= due
            )
            fault = options.fault[done % len(options.fault)]
            if isDue and FAULTS[fault](nodes, chance):
                done += 1
                if done == options.faults:
                    nodes.tell("enough")
                due = time.monotonic() + chance.uniform(*options.every)
        reader.join()
        used = [round(processorTime(node), 1) for node in nodes.alive]
        most = max(memory(node) for node in nodes.alive)
        print(f"the engine: {nodes.engine()}")
        print(f"CPU of the nodes that are there: {used} s, memory {most} MiB at most")
        for line in said:
            if not line.startswith("progress"):
                print(line, end="")
        log.seek(0)
        errors = log.read()
        what = ", ".join(options.fault)
        told = errors.count("a sender was refused")
        print(f"{done} times {what}, {errors.count('Traceback')} tracebacks")
        print(f"{told} times a sender was refused")
        if options.verbose:
            print(errors)
        elif clients.returncode:
            print(errors[-20_000:])
    all_ = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{all_.ru_utime + all_.ru_stime:.1f} s of CPU in all, load "
        f"{os.getloadavg()[0]:.1f}"
    )
    return clients.returncode


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", choices=("serve", "call"))
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--all", action="store_true", help="tell all")
    parser.add_argument("--fault", choices=FAULTS, default=["kill"], nargs="+")
    parser.add_argument("--heartbeat", type=float, default=30.0, help="of clients")
    parser.add_argument("--lasting", type=float, default=12.0, help="seconds")
    parser.add_argument("--every", type=float, nargs=2, default=(1, 3), help="seconds")
    parser.add_argument("--faults", type=int, help="just so many")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--log", help="a folder in which what is logged stays")
    parser.add_argument("--ahead", type=int, default=AHEAD, help="messages of each")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds in between")
    parser.add_argument("--size", type=int, default=0, help="of messages, bytes")
    parser.add_argument("--window", type=int, default=1 << 24, help="of clients, bytes")
    parser.add_argument("--maxmemory", default="0", help="of the engine")
    parser.add_argument("--sleepers", action="store_true", help="two that do not take")
    parser.add_argument(
        "--log-size", type=int, default=entries.LOG_SIZE, dest="logSize"
    )
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--port", type=int)
    parser.add_argument("--engine")
    parser.add_argument("--sync", choices=("primary", "replica"))
    parser.add_argument("--node")
    options = parser.parse_args()
    if options.role is None:
        sys.exit(show(options))
    # Thousands come back again and again, which is no news.
    level = LogLevel.error if options.role == "call" else LogLevel.info
    predicate = LogLevelFilterPredicate(level)
    observer = textFileLogObserver(sys.stderr)
    observers = [FilteringLogObserver(observer, [predicate])]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    role = {"serve": serve, "call": call}[options.role]
    react(lambda reactor: Deferred.fromCoroutine(role(reactor, options)))


if __name__ == "__main__":
    main()
