"""
Spools and real processes: servers and clients that are killed again and again, and
disks that are full for a while.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SkipTest

from aesm.trust.keys import PrivateKey
from tests.system.test_commands import TWISTD, Process, ProcessTestCase, freePort

KILLS = 5
MESSAGES = 1000  # of each client

# Sends numbered messages, some at once, as many in all as the file "go" says, and
# writes down what it takes.
CLIENT = """
import os, sys
from twisted.application.internet import backoffPolicy
from twisted.internet import reactor
from twisted.internet.task import LoopingCall
from twisted.logger import globalLogBeginner, textFileLogObserver
from aesm import AnyServer, ClientService, PrivateKey

endpoint, name, total, spool = sys.argv[1:5]
total = int(total)
service = ClientService(
    endpoint,
    reactor=reactor,
    key=PrivateKey.load(name + ".key"),
    trust=AnyServer(),
    spool=spool or None,
    retryPolicy=backoffPolicy(0.02, 0.2, jitter=lambda: 0.0),
)
outstanding = marked = 0
log = os.open(name + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
said = set()

def say(text):
    if text not in said:
        said.add(text)
        print(text, flush=True)

def failed(failure, early):
    early.append(failure)
    say(type(failure.value).__name__)

def settled(result):
    global outstanding
    outstanding -= 1

def allowed():
    try:
        with open("go") as go:
            return int(go.read())
    except FileNotFoundError:
        return 0

def pump():
    global outstanding, marked
    while service.retrieved:
        packet = service.retrieved[0]
        try:
            os.write(log, packet.data.encode() + b"\\n")
        except OSError:
            break
        service.retrieved.getData()
        if int(packet.data.split()[1]) == total - 1:
            say("took the last")
    if service.former is None:
        return
    outbox = service.former.session.outbox
    for _ in range(min(5, allowed() - outbox.count, 400 - outstanding)):
        early = []
        sent = service.sendData(f"{name} {outbox.count}")
        sent.addErrback(failed, early)
        if early:
            break
        outstanding += 1
        sent.addCallback(settled)
    while outbox.acknowledged >= marked + 50:
        marked += 50
        say(f"has {marked};")
    if outbox.acknowledged == total:
        say(f"all sent; {service.former.session.name}")

if f" {total - 1}\\n" in open(name + ".log").read():
    say("took the last")
service.startService()
service.whenConnected().addCallback(
    lambda connection: say(f"connected {connection.session.name};")
)
LoopingCall(pump).start(0.005)
observers = [textFileLogObserver(sys.stderr)]
globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
reactor.run()
"""

# Serves with a spool, and takes packets in its own thread, up to a number.
BLOCKING = """
import sys
from aesm import ServerNetwork

server = ServerNetwork("127.0.0.1", int(sys.argv[1]), spool="spool")
print("serving", flush=True)
left = int(sys.argv[2])
while left:
    address, packet = server.connections.getDataOrdinal()
    if address is not None:
        left -= 1
        print(f"took {packet.data};", flush=True)
sys.stdin.readline()
"""


class KilledTestCase(ProcessTestCase):
    """Servers on one port, one after another, and clients."""

    total = MESSAGES

    def setUp(self) -> None:
        """Find a port."""
        super().setUp()
        self.port = freePort()
        self.moments = random.Random(11)

    def serving(self, handler: str) -> Process:
        """
        Start the server, or start it again, and wait until it runs: a client may have
        said of the former one what a test waits for next.

        @param handler: its handler.
        """
        spool = str(self.home / "spool")
        return self.serveAt(self.port, "--handler", handler, "--spool", spool)

    def client(self, name: str, spool: str = "") -> Process:
        """
        Start a client, or start it again.

        @param name: its name.
        @param spool: its spool's name, if it has one.
        """
        key = self.home / f"{name}.key"
        if not key.exists():
            PrivateKey.generate().save(key)
        endpoint = f"tcp:127.0.0.1:{self.port}"
        return self.start("-c", CLIENT, endpoint, name, str(self.total), spool)

    def begin(self, count: int | None = None) -> None:
        """
        Let the clients send.

        @param count: how many messages each, in all; None for as many as there are.
        """
        go = self.home / "new"
        go.write_text(str(self.total if count is None else count))
        go.replace(self.home / "go")

    def kill(self, process: Process) -> None:
        """
        Kill a process.

        @param process: which.
        """
        self.assertIsNone(process.process.poll(), process.said())
        process.process.kill()
        process.wait()

    def taken(self, name: str, sender: str) -> list[int]:
        """
        Read what a client has taken.

        @param name: the client's name.
        @param sender: whose messages.
        """
        lines = (self.home / f"{name}.log").read_text().splitlines()
        return [int(each.split()[1]) for each in lines if each.startswith(sender)]


@contextmanager
def fullFor(process: Process) -> Iterator[None]:
    """
    Let no write of a process to a file succeed in the meantime.

    @param process: the process.
    """
    pid = process.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was killed
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


class ServerTests(KilledTestCase):
    """C{twistd aesm --spool} is killed, and its clients come back to it."""

    def exchange(self, handler: str, names: tuple[str, ...]) -> None:
        """
        Let clients exchange messages through servers that are killed.

        @param handler: the server's handler.
        @param names: the clients'.
        """
        server = self.serving(handler)
        clients = [self.client(name) for name in names]
        for client in clients:
            client.expect("connected")
        self.begin()
        step = self.total // (KILLS + 1)
        for kill in range(KILLS):
            mark = (kill * step + self.moments.randrange(1, step)) // 50 * 50
            self.moments.choice(clients).expect(rf"has {max(50, mark)};")
            self.kill(server)
            server = self.serving(handler)
        for client in clients:
            client.expect("all sent")
            client.expect("took the last")
            self.assertNotIn("SessionLost", client.output)
            self.assertNotIn("Traceback", client.errors)
        self.assertStops(server)

    def test_relay(self) -> None:
        """
        Two clients send to each other through servers that are killed: each message
        arrives once, and in order.
        """
        self.exchange("relay", ("one", "two"))
        for name, sender in (("one", "two"), ("two", "one")):
            self.assertEqual(self.taken(name, sender), list(range(self.total)))

    def test_echo(self) -> None:
        """A client gets each of its messages back once, and in order."""
        self.exchange("echo", ("one",))
        self.assertEqual(self.taken("one", "one"), list(range(self.total)))

    def test_welcome(self) -> None:
        """
        A server that is killed when it has just let a client in goes on with its
        session.
        """
        self.total = 50
        server = self.serving("echo")
        client = self.client("one")
        session = client.expect(r"connected (\w+);").group(1)
        self.kill(server)
        self.serving("echo")
        self.begin()
        client.expect(f"all sent; {session}")
        client.expect("took the last")

    def test_orderly(self) -> None:
        """The same with servers that are stopped in order."""
        server = self.serving("relay")
        clients = [self.client(name) for name in ("one", "two")]
        for client in clients:
            client.expect("connected")
        self.begin()
        for mark in (50, 300, 600):
            clients[0].expect(f"has {mark};")
            self.assertStops(server)
            server = self.serving("relay")
        for client in clients:
            client.expect("took the last")
        for name, sender in (("one", "two"), ("two", "one")):
            self.assertEqual(self.taken(name, sender), list(range(self.total)))


class ClientTests(KilledTestCase):
    """A C{ClientService} with a spool is killed, and starts again."""

    def assertWhole(self, numbers: list[int]) -> int:
        """
        Check that a consumer has seen everything, in order.  What it had seen, but
        not noted as taken when it was killed, it sees again.

        @param numbers: what it has seen.
        @return: how many it has seen again.
        """
        following = again = 0
        for number in numbers:
            self.assertLessEqual(number, following)
            again += number < following
            following = max(following, number + 1)
        self.assertEqual(following, self.total)
        return again

    def test_client(self) -> None:
        """What it sent arrives once and in order; what came to it is there."""
        self.serving("relay")
        other = self.client("two")
        other.expect("connected")
        client = self.client("one", "one.spool")
        client.expect("connected")
        self.begin()
        step = self.total // (KILLS + 1)
        for kill in range(KILLS):
            client.expect(rf"has {kill * step // 50 * 50 + 50};")
            self.kill(client)
            client = self.client("one", "one.spool")
        for each in (client, other):
            each.expect("all sent")
        other.expect("took the last")
        client.expect("took the last")
        self.assertEqual(self.taken("two", "one"), list(range(self.total)))
        self.assertWhole(self.taken("one", "two"))

    def test_both(self) -> None:
        """The same while the server is killed, too."""
        server = self.serving("relay")
        other = self.client("two")
        other.expect("connected")
        client = self.client("one", "one.spool")
        client.expect("connected")
        self.begin()
        for mark in (100, 350, 600):
            client.expect(f"has {mark};")
            self.kill(server)
            self.kill(client)
            server, client = self.serving("relay"), self.client("one", "one.spool")
        for each in (client, other):
            each.expect("all sent")
            each.expect("took the last")
        self.assertEqual(self.taken("two", "one"), list(range(self.total)))
        self.assertWhole(self.taken("one", "two"))


class BlockingTests(KilledTestCase):
    """C{ServerNetwork} with a spool is killed."""

    total = 90

    def test_taken(self) -> None:
        """
        What other threads have taken is not there again, but for what they took at
        last; what is left is.
        """
        client = self.client("one")
        self.begin()
        following = 0
        for count in (10, 20, 90):
            server = self.start("-c", BLOCKING, str(self.port), str(count))
            last = rf"(?s)(took one \d+;.*){{{count}}}" if count < 90 else "one 89;"
            server.expect(last)
            if count == 90:  # no other server would acknowledge the last ones
                client.expect("all sent")
            self.kill(server)
            took = [int(number) for number in re.findall(r"one (\d+);", server.output)]
            self.assertLessEqual(took[0], following)
            self.assertEqual(took, list(range(took[0], took[0] + len(took))))
            following = took[-1] + 1


class FullTests(KilledTestCase):
    """The disk is full for a while."""

    def setUp(self) -> None:
        """See that a process can be given less room."""
        super().setUp()
        if not hasattr(resource, "prlimit"):
            raise SkipTest("no limits for other processes here")

    def test_server(self) -> None:
        """
        The server says so, and acknowledges nothing; it goes on when there is room,
        also if it was killed meanwhile.
        """
        server = self.serving("relay")
        clients = [self.client(name) for name in ("one", "two")]
        for client in clients:
            client.expect("connected")
        full = r"cannot write \S*spool: [^\n]*; nothing more is accepted"
        self.begin(100)
        for times, mark, then in ((1, 100, 400), (2, 400, self.total)):
            clients[0].expect(f"has {mark};")
            with fullFor(server):
                self.begin(then)  # not before: they would be done in a second
                server.expect(rf"(?s)({full}.*?){{{times}}}")
                if times == 2:
                    self.kill(server)
                    break
            server.expect("spool can be written again")
        server = self.serving("relay")
        for client in clients:
            client.expect("all sent")
            client.expect("took the last")
        for name, sender in (("one", "two"), ("two", "one")):
            self.assertEqual(self.taken(name, sender), list(range(self.total)))

    def test_client(self) -> None:
        """
        A client's C{sendData} fails with C{SpoolError}; what was accepted arrives.
        """
        self.serving("relay")
        other = self.client("two")
        other.expect("connected")
        client = self.client("one", "one.spool")
        client.expect("connected")
        self.begin(100)
        client.expect("has 100;")
        with fullFor(client):
            self.begin()
            client.expect("SpoolError")
        for each in (client, other):
            each.expect("all sent")
            each.expect("took the last")
        self.assertEqual(self.taken("two", "one"), list(range(self.total)))
        self.assertEqual(self.taken("one", "two"), list(range(self.total)))


class StartTests(KilledTestCase):
    """A spool that cannot be opened is one line, and status 1."""

    def refused(self, path: str, *options: str) -> str:
        """
        Start a server that ends at once.

        @param path: its spool.
        @param options: for C{twistd}.
        @return: what it said.
        """
        server = self.start("-c", TWISTD, *options, "aesm", "--spool", path)
        self.assertEqual(server.wait(), 1, server.said())
        self.assertNotIn("Traceback", server.said())
        (line,) = (server.output + server.errors).splitlines()
        self.assertTrue(line.startswith("twistd aesm: --spool: "), line)
        return line

    def test_refused(self) -> None:
        """In the foreground, and before it goes into the background."""
        other = self.home / "other"
        other.write_bytes(b"something else\n" * 100)
        other.chmod(0o600)
        open_ = self.home / "open"
        open_.touch(mode=0o644)
        self.serving("relay")
        for path, words in (
            (str(self.home), "regular file"),
            (str(other / "x"), "cannot lock"),
            (str(other), "is no spool"),
            (str(open_), "chmod 600"),
            (str(self.home / "spool"), "another program uses"),
        ):
            for options in (("-n", "--pidfile="), ("--pidfile=x", "--logfile=y")):
                self.assertIn(words, self.refused(path, *options))
        self.assertFalse((self.home / "x").exists())

    def test_background(self) -> None:
        """
        A server that goes into the background has its spool, also by a relative
        path, and keeps others from it.
        """
        (self.home / "run").mkdir()
        daemon = self.start(
            *("-c", TWISTD, f"--rundir={self.home}/run"),
            *(f"--pidfile={self.home}/pid", f"--logfile={self.home}/log"),
            *("aesm", "--listen", f"tcp:{self.port}:interface=127.0.0.1"),
            *("--spool", "kept"),
        )
        self.assertEqual(daemon.wait(), 0, daemon.said())
        pid = int((self.home / "pid").read_text())
        self.addCleanup(os.kill, pid, signal.SIGTERM)
        self.assertIn("another program uses", self.refused("kept", "-n", "--pidfile="))
