"""
The chat over nodes of a cluster, with people who write what they like, come and go, and
somebody who kills nodes, each in a process of its own::

    python -m tests.support.chatshow --nodes 3 --clients 30 --events 1000 --deaths 20

At the end all nodes have one chat, to the byte, and everybody was told what one process
would have told them that is alone, and has all of the log: so one name is somebody's at
all nodes, also of those for which several ask at once, and what is said comes once, and
in one order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from subprocess import Popen
from threading import Thread
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet import error
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater, react
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm import AnyServer, ClientService, Connection, Server
from aesm.chat import handler
from aesm.interfaces import IClientObserver
from aesm.plugins import HandlerMaker
from aesm.store.interface import Entry
from tests.support.chatting import Heard, Visit, lineOf
from tests.support.clustershow import GRACE, SERVER_KEY, Nodes, keyOf, start
from tests.support.helpers import XX

NAME = "tests.support.chatshow"
AWAY = 1.5  # seconds until who is cut off has left
RACERS = 8  # who ask for one name at once
PATIENCE = 60.0  # seconds for all to be told


# A node


async def serve(reactor: Any, options: Any) -> None:
    """Be a node, until it is killed; say what chat it has whenever a signal comes."""
    handler.AWAY_DELAY = AWAY
    server = Server(
        f"reuseport:{options.port}:interface=127.0.0.1",
        reactor=reactor,
        key=SERVER_KEY,
        suites=(XX,),
        handler=HandlerMaker("chat", "", "aesm.chat.handler.freeNames"),
        authorizedKeys=options.list,
        cluster=options.engine,
        node=options.node,
        sessionGrace=GRACE,
        maxConnectionsPerHost=10_000,
        handshakesPerHost=1e6,
    )

    def say() -> None:
        """Say which chat it is."""
        made: Any = server.factory.manager.handler
        print(sha256(made.replica.snapshot()).hexdigest(), flush=True)

    signal.signal(signal.SIGUSR1, lambda *these: reactor.callFromThread(say))
    reactor.addSystemEventTrigger("before", "shutdown", server.stop)
    await server.start()
    print("listening", flush=True)
    await Deferred()


# The people


@implementer(IStreamClientEndpoint)
class Way:
    """
    The way to the nodes, which can be cut.

    @ivar since: from when on it is there again, seconds.
    """

    def __init__(self, reactor: Any, port: int) -> None:
        """@param port: of all nodes."""
        self.since = 0.0
        self._endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{port}")
        self._transport: Any = None

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect."""
        if time.monotonic() < self.since:
            return fail(error.ConnectionRefusedError())
        connecting: Deferred[Any] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._cbConnected)

    def _cbConnected(self, protocol: Any) -> Any:
        """Note what is to be cut."""
        self._transport = protocol.transport
        return protocol

    def cut(self, seconds: float) -> None:
        """Cut it for a while."""
        self.since = time.monotonic() + seconds
        if self._transport is not None:
            self._transport.abortConnection()


@implementer(IClientObserver)
class Person:
    """
    Somebody who chats, until they leave.

    @ivar sessions: those that they had.
    @ivar got: what they were told.
    @ivar sent: what they have said.
    @ivar waiting: how many lines are not acknowledged.
    """

    def __init__(self, reactor: Any, port: int, number: int) -> None:
        """@param number: of their key."""
        self.sessions: list[str] = []
        self.got: list[str] = []
        self.sent: list[str] = []
        self.waiting = 0
        self.way = Way(reactor, port)
        self.service = ClientService(
            self.way,
            reactor=reactor,
            key=keyOf(number),
            trust=AnyServer(),
            suites=(XX,),
            observer=self,
            retryPolicy=backoffPolicy(0.02, 0.3, jitter=lambda: random.uniform(0, 0.3)),
        )
        self.service.startService()
        Deferred.fromCoroutine(self._take()).addErrback(lambda failure: None)

    async def _take(self) -> None:
        """Take what comes."""
        async for packet in self.service.retrieved:
            self.got.append(str(packet.data))

    def onConnected(self, connection: Connection) -> None:
        """Note which session it is."""
        name = connection.session.name
        if name not in self.sessions:
            self.sessions.append(name)

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """They come again."""

    def onStopped(self, reason: Exception) -> None:
        """They have gone."""

    def write(self, line: str) -> None:
        """Write a line."""
        if line.startswith("x"):
            self.sent.append(line)
        self.waiting += 1
        self.service.sendData(line).addBoth(self._cbAcknowledged)

    def _cbAcknowledged(self, result: Failure | None) -> None:
        """It was said, or they are gone."""
        self.waiting -= 1

    def leave(self) -> None:
        """Leave."""
        self.service.stopService()


async def call(reactor: Any, options: Any) -> None:
    """Be all people, until enough has happened; write down what they were told."""
    chance, number = random.Random(options.seed), 0
    commands: list[str] = []

    def read() -> None:
        """Take note of what is to be done."""
        for line in sys.stdin:
            reactor.callFromThread(commands.append, line.strip())

    Thread(target=read, daemon=True).start()
    there = [Person(reactor, options.port, n // 2) for n in range(options.clients)]
    former: list[Person] = []
    while number < options.events or not commands:
        index = chance.randrange(len(there))
        person = there[index]
        what = chance.choices(("write", "cut", "leave", "race"), (90, 5, 3, 2))[0]
        if what == "leave" or not person.service.running:
            person.leave()
            former.append(person)
            there[index] = Person(reactor, options.port, index // 2)
        elif what == "write":
            person.write(lineOf(chance, number))
        elif what == "cut":
            person.way.cut(chance.choice((0, 0.2, 0.5, 2 * AWAY)))
        else:
            for one in chance.sample(there, RACERS):
                if one.service.running:
                    one.write(f"/nick race{number}")
        number += 1
        print(f"progress {number}", flush=True)
        await deferLater(reactor, options.pause)
    while True:
        commands.clear()
        while [one for one in there if one.waiting and one.service.running]:
            await deferLater(reactor, 0.05)
        visits = [
            Visit(one.sessions, one.got, one.sent, bool(one.service.running))
            for one in (*there, *former)
        ]
        Path(options.out).write_text(json.dumps(visits))
        print("written", flush=True)
        while not commands:
            await deferLater(reactor, 0.05)
        if commands[0] == "end":
            break
    for one in there:
        one.leave()


# Who does his worst


class ChatNodes(Nodes):
    """The processes of nodes, and their engine."""

    module = NAME
    keys = ""  # the list of them

    def _start(self) -> Popen[str]:
        """Start a node."""
        self._engineOptions[1:] = [f"--list={self.keys}"]
        return super()._start()

    def states(self) -> set[str]:
        """Say which chats they have."""
        states = set()
        for node in self.alive:
            node.send_signal(signal.SIGUSR1)
            assert node.stdout is not None
            states.add(node.stdout.readline().strip())
        return states

    def log(self) -> list[Entry]:
        """Read the log of all."""
        found = self.redis.command("ZRANGE", "{aesm:aesm}:log", 0, -1, "WITHSCORES")
        return [
            Entry(int(position), *member.split(b" ", 1))
            for member, position in zip(found[::2], found[1::2], strict=True)
        ]


def judge(nodes: ChatNodes, visits: list[Visit]) -> str:
    """
    Find out what is wrong.

    @return: empty if nothing is.
    """
    log = nodes.log()
    heard = Heard(log, freeNames=True)
    due = {sha256(heard.replica.snapshot()).hexdigest()}
    if log[0].position != 1:
        return "the log is too large for this"
    if (states := nodes.states()) != due:
        return f"the chats are {states}, not {due}"
    for visit in visits:
        try:
            visit.check(heard)
        except AssertionError as wrong:
            return str(wrong)
    return ""


def show(options: Any) -> int:
    """
    Run engine, nodes, people and deaths, and tell how it went.

    @return: 0 if nothing is wrong.
    """
    print(f"seed {options.seed}", flush=True)
    chance, deaths = random.Random(options.seed), 0
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = [str(keyOf(n).publicKey) for n in range((options.clients + 1) // 2)]
        path, out = folder / "keys", folder / "visits"
        path.write_text(
            "operator " + "".join(f"{key} key{n}\n" for n, key in enumerate(keys))
        )
        path.chmod(0o600)
        ChatNodes.keys = str(path)
        nodes = ChatNodes(stack, log, options)
        people = start(
            *(stack, log, f"--port={nodes.port}", f"--seed={options.seed}"),
            *(f"--clients={options.clients}", f"--events={options.events}"),
            *(f"--out={out}", f"--pause={options.pause}", "call"),
            module=NAME,
        )
        assert people.stdin is not None and people.stdout is not None
        said = iter(people.stdout)
        command = partial(print, file=people.stdin, flush=True)
        happened = 0
        for line in said:
            if line == "written\n":
                break
            happened = int(line.split()[1])
            due = deaths * options.events <= options.deaths * happened
            if due and deaths < options.deaths and len(nodes.alive) == nodes.size:
                nodes.kill(chance.choice(nodes.alive))
                deaths += 1
                if deaths == options.deaths:
                    command("enough")
        began, wrong = time.monotonic(), "nobody is there any more"
        while people.poll() is None:
            while len(nodes.alive) < nodes.size:
                time.sleep(0.1)
            visits = [Visit(*each) for each in json.loads(out.read_text())]
            wrong = judge(nodes, visits)
            if not wrong or time.monotonic() > began + PATIENCE:
                break
            command("again")
            next(said)
        if people.poll() is None:
            command("end")
            people.wait()
        entries = nodes.log()
        heard = Heard(entries, freeNames=True)
        races = {line[6:] for line in heard.said if line and line[6:10] == "race"}
        won = [sum(visit.wasCalled(race) for visit in visits) for race in races]
        lost = sum(len(visit.sessions[1:]) for visit in visits)
        print(
            f"{happened} events, {len(entries)} entries of the log, {deaths} deaths of "
            f"nodes, {len(races)} races for a name, {won.count(1)} of which one person "
            f"has won and {len([n for n in won if n > 1])} another one after that, "
            f"{len(visits)} people, {lost} sessions after the first, "
            f"{sum(len(visit.got) for visit in visits)} lines told; "
            + (f"wrong: {wrong}" if wrong else "all is as it should be")
        )
        log.seek(0)
        errors = log.read()
        print(f"{errors.count('Traceback')} tracebacks")
        if wrong or "Traceback" in errors:
            print(errors[-20_000:])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{used.ru_utime + used.ru_stime:.1f} s of CPU, load {os.getloadavg()[0]:.1f}"
    )
    return int(bool(wrong))


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", choices=("serve", "call"))
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--pause", type=float, default=0.02, help="seconds in between")
    parser.add_argument("--port", type=int)
    parser.add_argument("--engine")
    parser.add_argument("--list")
    parser.add_argument("--node")
    parser.add_argument("--out")
    parser.set_defaults(sync=None, lasting=0.0, maxmemory="0", logSize=0)
    options = parser.parse_args()
    if options.role is None:
        sys.exit(show(options))
    predicate = LogLevelFilterPredicate(LogLevel.error)
    observer = textFileLogObserver(sys.stderr)
    observers = [FilteringLogObserver(observer, [predicate])]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    role = {"serve": serve, "call": call}[options.role]
    react(lambda reactor: Deferred.fromCoroutine(role(reactor, options)))


if __name__ == "__main__":
    main()
