"""
A whole server: C{AESMServerFactory} with everything under it, and a spool or none, on
a network in memory, between two honest clients and strangers, one of whose keys is let
in.

Input: two bytes for the options; then steps, each a byte and what it needs: what the
network does, what clients and server send and take, what is killed and started again,
what the clocks and the disk do, who asks whom, waits no longer or answers, and what
strangers say, before a handshake and in the channel that it opens.

Whatever happens: nothing is logged as a failure of ours; each message of an honest side
arrives once, in order and as it was sent, or its sender is told, or is dead; what was
acknowledged outlives a server that has a spool, and a handler's answer is sent once for
each message; each request has one answer, which who was asked has given, or who asked
is told, or is dead; nobody reads what is for another; what is kept stays within the
bounds of docs/limits.md; in the end, left alone, everything arrives, and after the last
stop nothing is left: no connection, no session, no timer, no byte in the budget.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory

from aesm import Connection, Packet, PrivateKey, Request, Server, listen
from aesm.client import retry
from aesm.core.messages.frames import (
    FrameType,
    encodeAck,
    encodeBatch,
    encodeClose,
    encodeFrame,
)
from aesm.core.messages.hello import Hello
from aesm.core.messages.requests import (
    encodeAnswer,
    encodeError,
    encodeRequest,
    encodeWithdrawal,
)
from aesm.errors import AESMError
from aesm.messages.turns import QUANTUM
from aesm.secure import places
from aesm.store import spool
from aesm.testing import MemoryNetwork, network
from aesm.testing.transport import MemoryLink, MemoryPipe
from fuzz.answerer import Answerer, Broken, trouble
from fuzz.failures import noFailures
from fuzz.ledger import numberOf
from fuzz.parties import (
    CLIENTS,
    MESSAGES,
    STRANGER,
    Client,
    Handler,
    Stranger,
    withdraw,
)
from fuzz.script import Script
from tests.support.helpers import PSK, SERVER_KEY, XX
from tests.support.spooled import AtOnce, ByHand, Mortal, closeFile

__all__ = ["run", "seeds"]

_PSK_SUITE = XX.replace("XX", "XXpsk0")
_MOST_STEPS = 150
_MOST_STRANGERS = 24  # connections of strangers at a time
_MAX_PENDING = 8
_TIMEOUTS = (None, 1.0, 20.0, None)  # seconds that a request waits
_SECONDS = (0.0, 0.001, 0.3, 1.0, 5.0, 10.0, 31.0, 61.0)
_PATIENCE = 60  # rounds of 20 seconds until everything has arrived
_ASKING = ("requests", "requests, killed", "requests, cut", "requests, strange")
_PER_KEY = ("allow", "replace", "reject")
_NORMAL = 1000


class _Wall:
    """
    A wall clock, which may be set back.

    @ivar offset: seconds that it is ahead of the other clock.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        """@param seconds: the clock that never goes back."""
        self._seconds = seconds
        self.offset = 1.7e9

    def ns(self) -> int:
        """Tell the time, nanoseconds since the Unix epoch."""
        return int((self._seconds() + self.offset) * 1e9)


class _World:
    """All that there is, and what is done to it."""

    def __init__(self, directory: Path, options: Script) -> None:
        """
        @param directory: where spools go.
        @param options: two bytes.
        """
        ways, bounds = options.number(), options.number()
        self.network = MemoryNetwork()
        self.wall = _Wall(self.network.clock.seconds)
        self.failures: list[str] = []
        self.server: Server | None = None
        self.process = Mortal(self.network.clock)
        self.workers: list[AtOnce] = []
        self.byHand = bool(ways & 1)
        self.path = directory / "server" if ways & 2 else None
        self.handler: Handler | None = None
        self.answerer = Answerer(self._say)
        self._answers: list[Deferred[Any]] = []  # to the server's requests
        self._numbers = count(1)
        self._talks = ways >> 6 == 3  # whether the handler is a coroutine
        self._handles, self._slow = bool(ways & 8), bool(ways & 16)
        if ways & 32:
            self.network.chunkSize = 61
        more: dict[str, Any] = {"suites": (XX,)}
        if bounds & 16:
            more = {"suites": (_PSK_SUITE,), "psk": PSK}
        self.options = more | {
            "key": PrivateKey(SERVER_KEY),
            "spool": self.path,
            "perKey": _PER_KEY[(ways >> 6) % len(_PER_KEY)],
            "authorizedKeys": None,
            **MESSAGES,
        }
        self.keys = directory / "keys"  # who may come in
        self._revoked = False
        if bounds & 8:
            self.options["authorizedKeys"] = self.keys
            self._writeKeys()
        self.totalBuffer = 6000 if bounds & 1 else 1 << 20
        self.options["totalBuffer"] = self.totalBuffer
        self.options["sessionGrace"] = 0.0 if bounds & 2 else 60.0
        self.maxConnections = 3 if bounds & 4 else 100
        self.options["maxConnections"] = self.maxConnections
        if bounds & 32:
            self.options["handshakesPerHost"] = 0.3
        self._works = bool(bounds & 64)
        if bounds & 128:
            self.options["messagesPerKey"] = None if self._talks else 4.0
        clientSpool = directory / "client" if ways & 4 else None
        self.clients = [
            Client(self.network, key, path, self._numbers, **more)
            for key, path in zip(CLIENTS, (clientSpool, None), strict=True)
        ]
        self._byKey = {client.key.publicKey: client for client in self.clients}
        self.strangers: list[Stranger] = []
        self.tampered = False  # whether honest clients may have been misled
        self._former: tuple[str, int] = ("", 0)  # the stranger's last session

    # Parts of steps

    def _writeKeys(self) -> None:
        """Let the honest clients in, and the stranger unless it is revoked."""
        known = CLIENTS if self._revoked else (*CLIENTS, STRANGER)
        lines = [f"{key.publicKey} {number}\n" for number, key in enumerate(known)]
        self.keys.write_text("".join(lines))

    def pick(self, things: list[Any], number: int) -> Any:
        """Choose one of several, None if there is none."""
        return things[number % len(things)] if things else None

    def data(self, script: Script) -> tuple[int, str | bytes]:
        """Make a message that is like no other: its number, and its data."""
        number, size = next(self._numbers), script.number()
        if size % 4 == 0:
            return number, f"{number}:" + "\xe9" * size
        return number, b"%d:" % number + bytes(9 * size)

    def makeWorker(self, reactor: object) -> AtOnce:
        """Make what writes a spool, in place of a thread."""
        self.workers.append(ByHand() if self.byHand else AtOnce())
        return self.workers[-1]

    def work(self) -> bool:
        """
        Write what is to be written.

        @return: whether there was anything.
        """
        worked = False
        for worker in self.workers:
            if isinstance(worker, ByHand) and worker.waiting:
                worker.work()
                worked = True
        return worked

    def startServer(self) -> None:
        """Start a server, if there is none."""
        if self.server is not None:
            return
        self.process = Mortal(self.network.clock)
        self.handler = None
        if self._handles:
            self.handler = Handler(
                self.got,
                self.answer,
                self.answerer,
                self.askBack,
                self.leave,
                self._slow,
                self.handlerWorks,
            )
        handler: Any = self.handler
        if handler is not None and self._talks:
            handler = handler.talk
        servers: list[Any] = []
        listening = listen(
            self.process, self.network.endpoint(), handler=handler, **self.options
        )
        listening.addBoth(servers.append)
        (self.server,) = servers
        assert isinstance(self.server, Server), self.server

    def killServer(self) -> None:
        """Kill the server."""
        server, self.server = self.server, None
        if server is None:
            return
        self.process.kill()
        self.network.factory = None
        if server.factory._manager.journal is not None:
            closeFile(server.factory._manager.journal)
        for link in self.network.links:
            link.server.lost = True
            link.client.lose(error.ConnectionLost())
        self.network.links.clear()
        self._serverOver()

    def stopServer(self) -> None:
        """Stop the server in order."""
        server, self.server = self.server, None
        if server is None:
            return
        if self.path is None:
            self.takeAtServer(server, 1 << 20)
        stopped: list[Any] = []
        server.stop(spread=1.0).addBoth(stopped.append)
        self.mend()
        for _ in range(4):
            self.quiet()
            self.network.advance(5)
        assert stopped == [None], stopped
        self._serverOver()
        self.checkEmpty(server)

    def _serverOver(self) -> None:
        """Take note of the end of a server's life."""
        self._answers.clear()
        self.answerer.held.clear()
        for client in self.clients:
            client.up.receiverEnded(durable=self.path is not None)
            client.down.senderEnded()

    def got(self, connection: Connection, packet: Packet) -> None:
        """The server takes a packet."""
        client = self._byKey.get(connection.peer)
        if client is not None:
            client.up.take(connection.session.name, packet, client.down)

    def _say(self, request: Request, more: int) -> str:
        """Make the server's answer to a request, or a refusal."""
        number = next(self._numbers)
        data = f"{number}:{more * 'x'}"
        client = self._byKey.get(request._connection.peer)
        if client is not None:
            assert request.data is not None
            client.down.answer(number, data, numberOf(request.data))
        return data

    def askBack(self, connection: Connection) -> Deferred[Any]:
        """The server's handler asks who asks it; fires whatever comes of it."""
        number = next(self._numbers)
        answer = connection.request(f"{number}: who asks?")
        return self._asking(connection, number, f"{number}: who asks?", answer)

    def leave(self, connection: Connection) -> None:
        """A coroutine ends, and what is unread is dropped, though acknowledged."""
        client = self._byKey.get(connection.peer)
        if client is not None:
            client.up.left()

    def _asking(
        self,
        connection: Connection,
        number: int,
        data: str | bytes,
        answer: Deferred[Any],
    ) -> Deferred[Any]:
        """
        Take note of what the server asks.

        @return: C{answer}, which never fails from now on.
        """
        client = self._byKey.get(connection.peer)
        if client is not None:
            client.down.ask(number, data, answer, client.up)
        else:
            answer.addErrback(trouble)
        return answer

    def answer(self, connection: Connection, origin: int | None) -> None:
        """The server's handler answers a message."""
        number = next(self._numbers)
        data = f"{number}: an answer"
        sent = connection.sendData(data)
        client = self._byKey.get(connection.peer)
        if client is not None:
            client.down.send(number, data, sent, origin)
        else:
            sent.addErrback(_ignore)

    def handlerWorks(self) -> None:
        """The server's handler keeps it busy, so that clients have to take turns."""
        if self._works:
            self.network.clock.rightNow += QUANTUM / 3

    def takeAtServer(self, server: Server, most: int) -> bool:
        """
        Take what came, in the order in which it did.

        @return: whether there was anything.
        """
        taken = 0
        while taken < most and server.connections.arrivals:
            owner: Any = next(iter(server.connections.arrivals)).stream.owner
            _, packet = server.connections.getDataOrdinal()
            self.got(owner, packet)
            if isinstance(packet, Request):
                self.answerer.take(packet)
            taken += 1
        return taken > 0

    def mend(self) -> None:
        """Let nothing hold up the network or the disk."""
        for worker in self.workers:
            worker.room = True
        for link in self.network.links:
            link.toServer.stalled = link.toClient.stalled = False

    def quiet(self) -> None:
        """Deliver and write everything; no time passes."""
        self.network.deliver()
        while self.work():
            self.network.deliver()
        written = all(worker.room for worker in self.workers)
        if self.server is not None and written:
            manager = self.server.factory._manager
            failing = manager.journal is not None and manager.journal.store.failure
            if not failing and not (self.handler and self.handler.held):
                for client in self.clients:
                    client.up.settle()
        if written:
            for client in self.clients:
                service = client.service
                journal = None if service is None else service._journal
                if journal is None or not journal.store.failure:
                    client.settle()

    # Checks

    def check(self) -> None:
        """Check what holds at any time."""
        assert not self.failures, self.failures[0]
        if self.server is None:
            return
        factory = self.server.factory
        assert len(factory._places._pending) <= _MAX_PENDING, "too many handshakes"
        connections = list(self.server.connections.values())
        attached = sum(connection.isAttached for connection in connections)
        # A key that takes the place of its own connection has both for a while.
        places = self.maxConnections + len({each.peer for each in connections})
        assert attached <= places, "too many connections"
        waiting = sum(
            not connection.isAttached and not connection.isOver
            for connection in connections
        )
        assert waiting <= self.maxConnections, "too many sessions wait"
        most = MESSAGES["maxMessage"] + 64
        total = 0
        for connection in connections:
            session = connection.session
            untaken, kept = session.inbox.untaken, session.outbox.keptCost
            assert untaken < MESSAGES["receiveBuffer"] + most, "too much is unread"
            assert kept <= MESSAGES["sendBuffer"], "too much is not acknowledged"
            total += kept + untaken
        # Each connection may have its equal share and what comes in one piece.
        slack = len(connections) * (MESSAGES["receiveBuffer"] + most)
        assert total <= 2 * self.totalBuffer + slack, "too much in all"

    def checkEmpty(self, server: Server) -> None:
        """Check that nothing is left of a server that has stopped."""
        while server.connections.getDataOrdinal()[0] is not None:
            pass
        assert not len(server.connections), list(server.connections)
        factory = server.factory
        assert not factory._incoming, "transports are left"
        assert not factory._manager.sessions._byName, "sessions are left"
        assert factory._manager.budget.used == 0, "the budget is not empty"
        counted = factory._places
        assert not len(counted._pending), "a handshake is still counted"
        assert not len(counted._hosts), "somebody is still counted"
        assert not len(counted._keys), "somebody's key is still counted"

    def leaveAlone(self) -> None:
        """Nothing disturbs any more: everything arrives, and then all end."""
        self.mend()
        self.network.chunkSize = 1 << 16
        for stranger in self.strangers:
            stranger.transport.abortConnection()
        for client in self.clients:
            if client.service is None:
                client.start()
        self.startServer()
        for _ in range(_PATIENCE):
            self.mend()
            self._takeAll()
            ledgers = [
                each for client in self.clients for each in (client.up, client.down)
            ]
            if not any(ledger.waiting for ledger in ledgers):
                break
            self.network.advance(20)
        else:
            raise AssertionError("something neither arrives nor fails")
        self.network.advance(70)  # until sessions that nobody comes back to are over
        self._takeAll()
        for client in self.clients:
            assert client.service is not None
            assert self.tampered or client.service._reason is None, "a client gave up"
            client.up.check()
            client.down.check()
            stopped: list[Any] = []
            stopping = client.stop()
            assert stopping is not None
            stopping.addBoth(stopped.append)
            for _ in range(3):
                self.quiet()
                self.network.advance(10)
            assert stopped == [None], stopped
        if self.path is None:
            assert self.server is not None
            self.network.advance(70)
        self.stopServer()
        self.network.advance(20)
        self.check()
        assert not self.network.links, "links are left"
        assert not self.network.clock.getDelayedCalls(), "timers are left"

    def _takeAll(self) -> None:
        """Deliver, write and take everything."""
        self.quiet()
        busy = True
        while busy:
            assert self.server is not None
            busy = self.takeAtServer(self.server, 99)
            busy |= any([client.take(99) for client in self.clients])
            busy |= self.handler is not None and self.handler.finish()
            busy |= self.answerer.finish()
            busy |= any([client.answerer.finish() for client in self.clients])
            self.quiet()

    # Steps: the network, the clocks, the disk

    def flow(self, script: Script) -> None:
        """A few pieces arrive."""
        for _ in range(script.number() % 8 + 1):
            for link in list(self.network.links):
                link.deliver(self.network.chunkSize)
        if script.number() & 1:
            self.network.clock.advance(0)

    def settle(self, script: Script) -> None:
        """Everything arrives."""
        self.quiet()

    def wait(self, script: Script) -> None:
        """Time passes."""
        self.network.advance(_SECONDS[script.number() % len(_SECONDS)])

    def setWall(self, script: Script) -> None:
        """The wall clock is set, forward or back."""
        self.wall.offset += (script.number() - 192) * 10.0

    def disk(self, script: Script) -> None:
        """The disks are full, or have room again, or write what they have to."""
        how = script.number() % 3
        if how == 2:
            self.work()
        for worker in self.workers:
            worker.room = how != 1

    def _link(self, script: Script) -> MemoryLink | None:
        """Choose a link."""
        link: MemoryLink | None = self.pick(self.network.links, script.number())
        return link

    def cut(self, script: Script) -> None:
        """A connection is cut, with what is in flight, or with some that arrives."""
        link = self._link(script)
        if link is not None:
            link.deliver(script.number())
            link.cut()
            self.network.links.remove(link)

    def stall(self, script: Script) -> None:
        """A direction stands still, or goes on."""
        link = self._link(script)
        if link is not None:
            pipe = self._pipe(link, script)
            pipe.stalled = not pipe.stalled

    def corrupt(self, script: Script) -> None:
        """A bit is flipped in flight."""
        link = self._link(script)
        if link is not None:
            pipe = self._pipe(link, script)
            if pipe.inFlight:
                pipe.corrupt(script.number(2) % len(pipe.inFlight))
                self.tampered = True

    def _pipe(self, link: MemoryLink, script: Script) -> MemoryPipe:
        """Choose a direction."""
        return link.toServer if script.number() & 1 else link.toClient

    # Steps: honest clients and the server

    def clientSends(self, script: Script) -> None:
        """A client sends."""
        client = self.pick(self.clients, script.number())
        client.send(*self.data(script))

    def clientTakes(self, script: Script) -> None:
        """A client takes what came."""
        client = self.pick(self.clients, script.number())
        client.take(script.number())

    def clientAsks(self, script: Script) -> None:
        """A client waits for something."""
        client = self.pick(self.clients, script.number())
        client.ask(script.number())

    def clientEnds(self, script: Script) -> None:
        """A client stops or is killed, and starts again, or has to be started."""
        client, how = self.pick(self.clients, script.number()), script.number()
        if client.service is None:
            client.start()
        elif how & 1:
            client.kill()
        else:
            stopped: list[Any] = []
            client.stop().addBoth(stopped.append)
            self.mend()
            for _ in range(4):
                self.quiet()
                self.network.advance(5)
            assert stopped == [None], stopped
        if how & 2 and client.service is None:
            client.start()

    def serverSends(self, script: Script) -> None:
        """The server sends to one, or to all."""
        if self.server is None:
            return
        connections = list(self.server.connections.values())
        which = script.number()
        number, data = self.data(script)
        if which & 0x80:
            for connection in connections:
                self._sending(connection, number, data, None)
            self.server.sendAll(data).addErrback(_ignore)
            return
        connection = self.pick(connections, which)
        if connection is not None:
            sent = self.server.sendTo(data, connection.address)
            self._sending(connection, number, data, sent)

    def _sending(
        self, connection: Connection, number: int, data: str | bytes, sent: Any
    ) -> None:
        """Take note of what the server sends."""
        client = self._byKey.get(connection.peer)
        if client is not None:
            client.down.send(number, data, sent)
        elif sent is not None:
            sent.addErrback(_ignore)

    def serverTakes(self, script: Script) -> None:
        """The server takes what came, or its handler finishes."""
        if self.server is not None:
            self.takeAtServer(self.server, script.number())
            if self.handler is not None:
                self.handler.finish()

    def serverCloses(self, script: Script) -> None:
        """The server closes or aborts one connection."""
        if self.server is None:
            return
        connections = list(self.server.connections.values())
        connection = self.pick(connections, script.number())
        if connection is None:
            return
        if script.number() & 1:
            connection.abort()
        else:
            connection.closeWith(1001, "later")

    def serverEnds(self, script: Script) -> None:
        """The server stops or is killed, and is started again."""
        how = script.number()
        if how & 1:
            self.killServer()
        else:
            self.stopServer()
        if how & 2:
            self.startServer()

    def serverStarts(self, script: Script) -> None:
        """The server is started again."""
        self.startServer()

    def revokes(self, script: Script) -> None:
        """The stranger's key is taken out of the list, or put into it again."""
        if self.options["authorizedKeys"] is not None:
            self._revoked = not self._revoked
            self._writeKeys()
        if self.server is not None and script.number() & 1:
            self.server.factory.reloadKeys()

    # Steps: strangers

    def strangerComes(self, script: Script) -> None:
        """Somebody connects, and says nothing of the protocol yet."""
        if self.server is None or len(self.strangers) >= _MOST_STRANGERS:
            return
        factory = Factory.forProtocol(lambda: Stranger(self._isSecret))
        endpoint = self.network.endpoint(
            ("10.0.0.9", "2001:db8::1")[script.number() & 1]
        )
        calling: Deferred[Any] = endpoint.connect(factory)
        calling.addCallback(self.strangers.append)

    def _isSecret(self, data: str | bytes) -> bool:
        """Tell whether a message is for an honest client only."""
        return any(client.down.isSecret(data) for client in self.clients)

    def strangerShakes(self, script: Script) -> None:
        """A stranger comes and makes a handshake, with some hello."""
        self.strangerComes(script)
        if not self.strangers:
            return
        stranger = self.strangers[-1]
        how, number, size = script.number() % 6, script.number(), script.number(2)
        name, received = self._former
        hello = Hello(
            window=size, maxMessage=size, batch=bool(number & 1), agent="\x1b"
        )
        match how:
            case 1:
                hello = Hello(
                    session=name, received=received + number - 1 & 0xFF, requests=True
                )
            case 2:
                early = size if number & 1 else 0  # a session of that name is to begin
                others = self._sessionOfOthers()
                hello = Hello(
                    session=others, received=number, early=early, requests=True
                )
            case 3:
                hello = Hello(
                    resume=False,
                    heartbeat=0.001 + number,
                    session=f"{number >> 1:032x}",
                    early=size if number & 1 else 0,
                )
            case 4:
                hello = Hello(
                    session=name, received=received, partial=size, requests=True
                )
        payload = hello.encode() if how < 5 else script.take(number)
        stranger.shake(payload)

    def _sessionOfOthers(self) -> str:
        """Know the name of an honest client's session."""
        for client in self.clients:
            if client.service is not None and client.service.former is not None:
                return client.service.former.session.name
        return "0" * 32

    def _stranger(self, script: Script) -> Stranger:
        """Choose a stranger, the newest first."""
        self.strangers = [each for each in self.strangers if not each.transport.lost]
        if not self.strangers:
            self.strangerShakes(Script(b""))
            self.quiet()
        return self.strangers[-1 - script.number() % len(self.strangers)]

    def _says(self, script: Script, make: Callable[[Stranger], bytes]) -> None:
        """A stranger says something in the channel."""
        if self.server is None:
            return
        stranger = self._stranger(script)
        stranger.say(make(stranger))
        if stranger.welcome is not None:
            self._former = stranger.welcome.session, stranger.received

    def strangerSays(self, script: Script) -> None:
        """A stranger says any bytes."""
        self._says(script, lambda stranger: script.take(script.number()))

    def strangerFrame(self, script: Script) -> None:
        """A stranger sends any frame."""
        kind = FrameType((*FrameType,)[script.number() % len(FrameType)])
        self._says(
            script,
            lambda stranger: encodeFrame(
                kind, script.number(), script.take(script.number())
            ),
        )

    def strangerBatch(self, script: Script) -> None:
        """A stranger sends many messages at once."""
        number, size = script.number() + 1, script.number() * 8
        body = b"%d:" % (size % 7) + bytes(size)
        frames = encodeBatch(7, [body] * number, [len(body)] * number)
        self._says(script, lambda stranger: b"".join(frames)[:65000])

    def strangerAcknowledges(self, script: Script) -> None:
        """A stranger acknowledges what it has, or what it has not."""
        more, limit = script.number(), script.number(3)
        self._says(
            script,
            lambda stranger: encodeAck(7, max(0, stranger.received + more - 1), limit),
        )

    def strangerCloses(self, script: Script) -> None:
        """A stranger closes."""
        code, which = script.number(2), script.number()
        code = (1000, 1001, 4001, code)[which & 3]
        self._says(script, lambda stranger: encodeClose(7, code, "bye"))

    def strangerEnds(self, script: Script) -> None:
        """A stranger ends its direction, or the connection, in one way or another."""
        if self.server is None:
            return
        stranger, how = self._stranger(script), script.number() & 3
        if how == 0:
            stranger.end()
        elif how == 1:
            stranger.transport.loseWriteConnection()
        elif how == 2:
            stranger.transport.loseConnection()
        else:
            stranger.transport.abortConnection()

    def strangerLies(self, script: Script) -> None:
        """A stranger writes any bytes to the transport, in or out of turn."""
        if self.server is not None:
            stranger = self._stranger(script)
            stranger.transport.write(script.take(script.number()))

    # Steps: requests

    def clientRequests(self, script: Script) -> None:
        """A client sends a request, and waits for ever or for some time."""
        client = self.pick(self.clients, script.number())
        number, data = self.data(script)
        client.request(number, data, _TIMEOUTS[script.number() % len(_TIMEOUTS)])

    def serverRequests(self, script: Script) -> None:
        """The server sends a request, to whomever."""
        if self.server is None:
            return
        connections = list(self.server.connections.values())
        connection = self.pick(connections, script.number())
        number, data = self.data(script)
        timeout = _TIMEOUTS[script.number() % len(_TIMEOUTS)]
        if connection is not None:
            answer = self.server.request(data, connection.address, timeout)
            self._answers.append(answer)
            self._asking(connection, number, data, answer)

    def withdraws(self, script: Script) -> None:
        """Somebody does not wait for an answer any more."""
        which, number = script.number() % 3, script.number()
        if which < len(self.clients):
            self.clients[which].withdraw(number)
        else:
            withdraw(self._answers, number)

    def answers(self, script: Script) -> None:
        """Who has put off an answer gives it."""
        which = script.number() % 3
        if which < len(self.clients):
            self.clients[which].answerer.finish()
        else:
            self.answerer.finish()

    def serverSendsSome(self, script: Script) -> None:
        """The server sends to some, or to all but some."""
        if self.server is None:
            return
        which, how = script.number(), script.number()
        number, data = self.data(script)
        connections = list(self.server.connections.values())
        some = [each for bit, each in enumerate(connections) if which >> bit & 1]
        receivers = [each for each in connections if each not in some]
        if how & 1:
            receivers = some
        for connection in receivers:
            self._sending(connection, number, data, None)
        peers = [each.address if how & 2 else each for each in some]
        sent = (
            self.server.sendAll(data, to=peers)
            if how & 1
            else self.server.sendAll(data, exclude=peers)
        )
        sent.addErrback(_ignore)

    def strangerRequests(self, script: Script) -> None:
        """A stranger sends requests, and does not wait."""
        number, size = script.number() % 64 + 1, script.number()
        bodies = (encodeRequest(b"%d:" % each + bytes(size)) for each in range(number))
        request = b"".join(encodeFrame(FrameType.REQUEST, 7, each) for each in bodies)
        self._says(script, lambda stranger: request[:65000])

    def strangerResponds(self, script: Script) -> None:
        """A stranger responds to what it was asked, or was not."""
        number, how = script.number(), script.number() % 4
        body = (
            encodeAnswer(number, "yes"),
            encodeAnswer(number, b"no"),
            encodeError(number, 7, "never"),
            encodeWithdrawal(number),
        )[how]
        frame = encodeFrame(FrameType.RESPONSE, 7, body)
        self._says(script, lambda stranger: frame)


_STEPS: tuple[Callable[[_World, Script], None], ...] = (
    _World.flow,
    _World.settle,
    _World.wait,
    _World.setWall,
    _World.disk,
    _World.cut,
    _World.stall,
    _World.corrupt,
    _World.clientSends,
    _World.clientTakes,
    _World.clientAsks,
    _World.clientEnds,
    _World.serverSends,
    _World.serverTakes,
    _World.serverCloses,
    _World.serverEnds,
    _World.serverStarts,
    _World.revokes,
    _World.strangerComes,
    _World.strangerShakes,
    _World.strangerSays,
    _World.strangerFrame,
    _World.strangerBatch,
    _World.strangerAcknowledges,
    _World.strangerCloses,
    _World.strangerEnds,
    _World.strangerLies,
    _World.clientRequests,
    _World.serverRequests,
    _World.withdraws,
    _World.answers,
    _World.serverSendsSome,
    _World.strangerRequests,
    _World.strangerResponds,
)


def _ignore(failure: Any) -> None:
    """A stranger may not have it."""
    failure.trap(AESMError)


@contextmanager
def _around(world: _World) -> Iterator[None]:
    """Let the code under test have this world's clocks and disks."""

    with ExitStack() as stack:
        enter = stack.enter_context
        enter(mock.patch.object(spool, "_OwnThread", world.makeWorker))
        enter(mock.patch.object(retry, "random", Random(0)))
        enter(mock.patch.object(places, "MAX_PENDING", _MAX_PENDING))
        enter(mock.patch.object(network, "MAX_ROUNDS", 100_000))
        for name, module in list(sys.modules.items()):
            if name.startswith("aesm.") and vars(module).get("time_ns") is time.time_ns:
                enter(mock.patch.object(module, "time_ns", world.wall.ns))
        world.failures = enter(noFailures(but=Broken))
        yield
        gc.collect(1)  # a failed Deferred that nobody took says so only then


def run(data: bytes) -> None:
    """
    Let happen what the input says.

    @param data: the input.
    """
    script = Script(data)
    with tempfile.TemporaryDirectory(prefix="aesm-fuzz-") as directory:
        world = _World(Path(directory), script)
        with _around(world):
            world.startServer()
            for client in world.clients:
                client.start()
            world.quiet()
            steps = 0
            while script.more and steps < _MOST_STEPS:
                _STEPS[script.number() % len(_STEPS)](world, script)
                world.check()
                steps += 1
            world.leaveAlone()


def seeds() -> Iterator[bytes]:
    """Make days in the life of a server, good ones and bad ones."""
    for ways in (0x06, 0x48, 0x9E, 0x2F):
        for name, day in _days().items():
            bounds = {"crowd": 0x04, "burst": 0x01, "full": 0x01, "rude": 0x20}.get(
                name, 0
            )
            yield bytes([ways, bounds]) + day
    days = _days()
    for bounds in (0x02, 0x08, 0x10):
        yield bytes([0x06, bounds]) + days["talk"] + days["revoked"]
    yield bytes([0x02, 0x01]) + days["burst"] + days["kill"]
    yield bytes([0x07, 0x00]) + days["early"]
    for ways in (0x0E, 0x08, 0x1E):
        for bounds in (0x40, 0x80, 0xC0):
            for name in ("crush", "kill", "burst"):
                yield bytes([ways, bounds]) + days[name]
    for ways in (0xCE, 0xD8):  # a coroutine
        for name in ("talk", "kill", "closed", *_ASKING):
            yield bytes([ways, 0]) + days[name]
    for name in _ASKING:
        yield bytes([0x0E, 0]) + days[name]


def _days() -> dict[str, bytes]:
    """Make the parts of seeds."""

    def do(step: Callable[[_World, Script], None], *arguments: int) -> bytes:
        """Make one step."""
        return bytes([_STEPS.index(step), *arguments])

    W = _World
    settle, flow, later = do(W.settle), do(W.flow, 1, 1), do(W.wait, 7)
    up, down = do(W.clientSends, 0, 8), do(W.serverSends, 0, 9)
    both = up + do(W.clientSends, 1, 3) + down + do(W.serverSends, 1, 6)
    everybody = do(W.serverSends, 0x80, 5)
    take = do(W.serverTakes, 9) + do(W.clientTakes, 0, 9) + do(W.clientTakes, 1, 9)
    ask = b"".join(do(W.clientAsks, which, how) for which in (0, 1) for how in range(5))
    come, shake = do(W.strangerComes, 0), do(W.strangerShakes, 0, 0, 1, 16, 0)
    talk = both + settle + take + everybody + settle + take
    hostile = shake + settle
    frames = b"".join(
        hostile + do(W.strangerFrame, kind, 0, 7, size) + bytes(size) + settle
        for kind in range(len(FrameType))
        for size in (0, 16)
    )
    # Each number has its way: eight in a row are answered in all of them.
    requests = do(W.clientRequests, 0, 8, 0) + do(W.clientRequests, 1, 3, 0)
    back = do(W.serverRequests, 0, 8, 0) + do(W.serverRequests, 1, 3, 0)
    answers = b"".join(do(W.answers, which) for which in range(3)) * 2
    timed = do(W.clientRequests, 0, 9, 1) + do(W.serverRequests, 0, 9, 1)
    withdrawn = b"".join(do(W.withdraws, which, 1) for which in range(3))
    asking = (requests + back) * 4 + both
    return {
        "requests": asking
        + settle
        + take
        + answers
        + settle
        + asking
        + withdrawn
        + settle
        + take
        + withdrawn
        + timed
        + settle
        + do(W.wait, 4)
        + answers
        + do(W.serverSendsSome, 1, 1, 5)
        + do(W.serverSendsSome, 1, 2, 5)
        + later,
        "requests, killed": asking
        + settle
        + do(W.serverEnds, 3)
        + do(W.wait, 3)
        + settle
        + take
        + requests
        + answers
        + do(W.clientEnds, 0, 3)
        + do(W.clientEnds, 1, 3)
        + settle
        + answers
        + take
        + do(W.serverEnds, 3)
        + later,
        "requests, cut": asking
        + flow
        + do(W.cut, 0, 9)
        + requests
        + do(W.wait, 3)
        + take
        + do(W.cut, 1, 0)
        + answers
        + later
        + asking
        + do(W.serverEnds, 2)
        + asking
        + do(W.clientEnds, 0, 2)
        + later,
        "requests, strange": hostile
        + do(W.strangerRequests, 9, 8)
        + settle
        + take
        + do(W.serverRequests, 2, 8, 0) * 4
        + settle
        + b"".join(do(W.strangerResponds, each, each) for each in range(4))
        + settle
        + answers
        + do(W.strangerResponds, 0, 3)
        + hostile
        + do(W.strangerRequests, 63, 1)
        + settle
        + do(W.strangerEnds, 0, 3)
        + later,
        "talk": talk + do(W.setWall, 0) + talk + later + talk,
        "cut": both
        + do(W.cut, 0, 9)
        + both
        + do(W.wait, 2)
        + talk
        + do(W.cut, 1, 0)
        + up
        + later
        + later
        + talk,
        "stall": do(W.stall, 0, 1) + both * 9 + later + do(W.stall, 0, 1) + talk,
        "corrupt": both + do(W.corrupt, 0, 1, 0, 9) + flow * 4 + settle + later + talk,
        "kill": both
        + flow
        + do(W.serverEnds, 3)
        + both
        + later
        + take
        + up
        + settle
        + do(W.serverEnds, 2)
        + both
        + settle
        + down
        + do(W.serverEnds, 0)
        + both
        + later
        + do(W.serverStarts)
        + settle
        + later
        + talk,
        "early": talk
        + (do(W.clientSends, 1, 3) + flow * 6) * 2
        + do(W.disk, 2)
        + flow * 6
        + do(W.serverEnds, 3)
        + settle,
        "clients": both
        + flow
        + do(W.clientEnds, 0, 3)
        + settle
        + both
        + do(W.clientEnds, 1, 3)
        + both
        + settle
        + do(W.clientEnds, 0, 0)
        + down
        + later
        + do(W.clientEnds, 0, 0)
        + both
        + settle
        + take
        + do(W.clientEnds, 0, 2)
        + talk,
        "ask": ask
        + talk
        + ask
        + both
        + do(W.clientAsks, 0, 0) * 2
        + down
        + settle
        + ask
        + later
        + talk,
        "closed": both
        + do(W.serverCloses, 0, 0)
        + flow
        + both
        + settle
        + later
        + do(W.serverCloses, 1, 1)
        + both
        + later
        + talk,
        "disk": do(W.disk, 1)
        + both
        + settle
        + do(W.cut, 0, 0)
        + do(W.wait, 5)
        + hostile
        + both
        + do(W.disk, 0)
        + do(W.wait, 3)
        + talk
        + do(W.disk, 2),
        "burst": (up + down) * 12
        + do(W.clientSends, 0, 250)
        + do(W.serverSends, 1, 252)
        + hostile
        + do(W.strangerBatch, 19, 20, 0)
        + settle
        + (up + down) * 6
        + settle
        + talk,
        "full": talk
        + do(W.stall, 0, 0)
        + do(W.stall, 1, 0)
        + (do(W.serverSends, 0, 201) + do(W.serverSends, 1, 201)) * 2
        + hostile
        + do(W.strangerBatch, 9, 20, 0)
        + settle
        + do(W.clientEnds, 0, 1)
        + hostile
        + do(W.strangerBatch, 9, 20, 0)
        + settle
        + later,
        "crush": (up + do(W.clientSends, 1, 3)) * 30
        + flow * 3
        + do(W.cut, 0, 0)
        + hostile
        + do(W.strangerBatch, 40, 1, 0)
        + flow
        + do(W.serverCloses, 2, 1)
        + up * 5
        + settle
        + do(W.wait, 3)
        + do(W.serverEnds, 2)
        + (up + settle) * 2
        + later
        + talk,
        "crowd": (come + shake) * 9 + settle + talk + later,
        "rude": come
        + do(W.strangerLies, 0, 3)
        + b"GET"
        + settle
        + come
        + do(W.strangerLies, 0, 2)
        + b"\0\5"
        + later
        + shake
        + do(W.strangerLies, 0, 9)
        + bytes(9)
        + settle
        + hostile
        + do(W.strangerLies, 0, 4)
        + b"\0\1??"
        + settle
        + talk,
        "revoked": hostile
        + do(W.revokes, 1)
        + hostile
        + do(W.revokes, 0)
        + do(W.wait, 4) * 2
        + hostile
        + do(W.revokes, 0)
        + do(W.wait, 4) * 2
        + settle,
        "frames": frames[: len(frames) // 2],
        "more": frames[len(frames) // 2 :],
        "acks": hostile
        + do(W.serverSends, 2, 5) * 3
        + settle
        + do(W.strangerAcknowledges, 1, 0, 99, 0, 0)
        + settle
        + hostile
        + do(W.strangerAcknowledges, 9, 0, 99, 0, 0)
        + settle,
        "back": hostile
        + do(W.strangerBatch, 3, 1, 0)
        + settle
        + do(W.serverSends, 2, 1)
        + do(W.strangerEnds, 0, 3)
        + b"".join(
            do(W.strangerShakes, 0, how, 1, 0, 9)
            + settle
            + do(W.strangerBatch, 2, 1, 0)
            + settle
            + do(W.strangerEnds, 0, 3)
            for how in range(5)
        )
        + do(W.strangerShakes, 0, 5, 2, 0, 0)
        + b"{}"
        + settle
        + later,
        "thief": talk
        + do(W.stall, 0, 0)
        + down * 4
        + settle
        + b"".join(
            do(W.strangerShakes, 0, 2, number, 0, 0) + settle for number in range(8)
        ),
        "bye": b"".join(
            hostile + do(W.strangerCloses, 0x0F, 0xA1, code, 0) + settle
            for code in range(4)
        )
        + b"".join(hostile + do(W.strangerEnds, 0, how) + settle for how in range(4)),
    }
