"""
The blocking face at work: programs with a real reactor, each in a process of its
own, since a reactor runs once in a process and how programs end is half of the
matter.  What they do is in L{tests.support.networkprograms} and in C{examples}.

How long it waits at most is tested on a reactor in memory, which is told when to
turn.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from asyncio import run
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python import threadable
from twisted.trial.unittest import SynchronousTestCase

import aesm
from aesm import AnyServer, ClientNetwork, ServerNetwork
from aesm.blocking import network, reactorthread
from aesm.blocking.reactorthread import ReactorState, ReactorThread
from aesm.blocking.threaded import ThreadedClientService
from tests import ROOT
from tests.blocking.test_reactorthread import Reactor
from tests.support import networkprograms as network_programs
from tests.support.engines import sharedServer
from tests.support.pairs import CLIENT_KEY, SERVER_KEY

PROGRAMS = Path(network_programs.__file__)
EXAMPLES = ROOT / "examples"
LONG = 2 * network_programs.LONG  # seconds; the programs give up before


class BoundTests(SynchronousTestCase):
    """Each wait has an end, whatever the reactor's thread is busy with."""

    def setUp(self) -> None:
        """Be in another thread than that of a reactor that runs."""
        self.patch(threadable, "ioThread", None)
        self.reactor = Reactor()
        self.isBusy = False
        self.thread = ReactorThread(self.reactor)
        self.thread.state = ReactorState.RUNNING
        self.patch(self.thread, "wait", self.wait)
        self.patch(reactorthread, "_reactorThread", self.thread)

    def wait(self, future: Future[Any], timeout: float | None) -> Any:
        """Wait, while the reactor has its turn if it is not busy."""
        if not self.isBusy:
            self.reactor.advance(0)
        return ReactorThread.wait(self.thread, future, timeout)

    def test_open(self) -> None:
        """
        Opening a client ends after two minutes, of which TCP has half a minute, and
        leaves nothing open.
        """
        self.assertEqual(network.OPEN_TIMEOUT, 120)
        self.patch(network, "OPEN_TIMEOUT", 0.0)
        with self.assertRaises(TimeoutError):
            ClientNetwork("127.0.0.1", 9, key=CLIENT_KEY, trust=AnyServer())
        (dialled,) = self.reactor.tcpClients
        self.assertEqual(dialled[3], 30)
        self.reactor.advance(0)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_send(self) -> None:
        """Sending to peers ends after two minutes, unless another time is given."""
        self.assertEqual(network.SEND_TIMEOUT, 120)
        server = ServerNetwork("127.0.0.1", 0, key=SERVER_KEY)
        sending = server.sendAll("late", timeout=0)
        self.assertIn("0 seconds", str(self.assertRaises(TimeoutError, run, sending)))

    def test_room(self) -> None:
        """A request that was refused for its timeout takes no room any more."""

        class Idle(ClientNetwork):
            """Has a service that was never started."""

            def _begin(self, endpoint: str, options: dict[str, Any]) -> Deferred[None]:
                """Connect to nobody."""
                reactor = self._reactorThread.reactor
                self._service = ThreadedClientService(
                    endpoint, self._unregister, reactor=reactor, **options
                )
                return succeed(None)

        client = Idle("127.0.0.1", 9, sendBuffer=100)
        strange: Any = "5"
        for kind, timeout in ((ValueError, -1), (TypeError, strange)):
            for _ in range(3):
                asked = client.request(bytes(30), timeout)
                self.reactor.advance(0)
                self.assertIsInstance(asked.exception(timeout=0), kind)

    def test_stop(self) -> None:
        """Stopping ends after a minute, and the server when the reactor gets to it."""
        self.assertEqual(network.STOP_TIMEOUT, 60)
        self.patch(network, "STOP_TIMEOUT", 0.0)
        server = ServerNetwork("127.0.0.1", 0, key=SERVER_KEY)
        self.isBusy = True
        self.assertRaises(TimeoutError, server.stop)
        self.isBusy = False
        server.stop()


class ProgramCase(SynchronousTestCase):
    """Runs programs."""

    def setUp(self) -> None:
        """Give the programs a state directory of their own, and the same C{aesm}."""
        root = str(Path(aesm.__file__).parent.parent)
        self.environment = {
            **os.environ,
            "AESM_HOME": os.path.abspath(self.mktemp()),
            "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]),
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        """
        Start a program; it is ended with the test.

        @param command: its path, and its arguments.
        """
        program = subprocess.Popen(
            [sys.executable, *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(program.communicate)
        self.addCleanup(program.kill)
        return program

    def check(self, program: subprocess.Popen[str], output: str) -> None:
        """
        Wait until a program has ended, without a word but those expected.

        @param output: what it prints from now on.
        """
        printed, errors = program.communicate(timeout=LONG)
        self.assertEqual((errors, printed, program.returncode), ("", output, 0))

    def runProgram(self, name: str, *arguments: str, output: str) -> None:
        """
        Run one of L{tests.support.networkprograms}.

        @param arguments: what it is told.
        @param output: the line that it must print.
        """
        program = self.start(str(PROGRAMS), name, *arguments)
        self.check(program, output + "\n")


def freePort() -> int:
    """Find a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


class UseTests(ProgramCase):
    """What the blocking face does for programs."""

    def test_faces(self) -> None:
        """
        Everything that the two classes have does what it says; hosts may be names.
        """
        self.runProgram("faces", output="all there")

    def test_requests(self) -> None:
        """Both sides ask and answer, with Futures, in any thread."""
        self.runProgram("requests", output="asked and answered")

    def test_cluster(self) -> None:
        """Two servers with one engine are one, of which any thread can take packets."""
        engine = sharedServer()
        engine.command("FLUSHALL")
        self.runProgram("cluster", engine.path, output="one server")

    def test_waiting(self) -> None:
        """
        Programs wait for packets and activity, in as many threads as they like, until
        something comes, their time is over, Ctrl-C, or the end.
        """
        self.runProgram("waiting", output="nobody polls")

    def test_original(self) -> None:
        """The programs of the original module's README run."""
        self.runProgram("original", str(freePort()), output="both run")

    def test_wrongPlaces(self) -> None:
        """
        What cannot begin raises at once, and builtin exceptions where these say it.
        """
        self.runProgram("wrongPlaces", output="each by its class")

    def test_ipv6(self) -> None:
        """Hosts may be IPv6 addresses."""
        program = self.start(str(PROGRAMS), "ipv6")
        printed, errors = program.communicate(timeout=LONG)
        self.assertIn((printed, errors), [("by IPv6\n", ""), ("no IPv6 here\n", "")])

    def test_manyClients(self) -> None:
        """
        Of twenty clients at once, short and long texts of more than ASCII arrive
        once and in order, and the activity log has each twice.
        """
        self.runProgram("manyClients", "20", "30", output="all once and in order")

    def test_orderOfArrival(self) -> None:
        """C{getDataOrdinal} goes by arrival, over all connections, from either end."""
        self.runProgram("orderOfArrival", output="in order")

    def test_handlers(self) -> None:
        """
        Both take handlers, objects or coroutines, which run in the reactor's thread.
        """
        self.runProgram("handlers", output="echoed")

    def test_fullBuffer(self) -> None:
        """
        Sending waits while C{sendBuffer} is full, as long as it is told to; every
        wait for an acknowledgement has an end, and may be given up.
        """
        self.runProgram("fullBuffer", output="waited")

    def test_busyLoop(self) -> None:
        """A loop that never waits does not keep messages from flowing."""
        self.runProgram("busyLoop", output="flowing")

    def test_otherLoops(self) -> None:
        """The coroutines run in any asyncio loop, in several threads at once."""
        self.runProgram("otherLoops", output="in any loop")

    def test_tenThreads(self) -> None:
        """
        Ten threads may use the same server and client, and stop them while others
        wait.
        """
        self.runProgram("tenThreads", output="nothing lost, nobody hangs")


class SessionTests(ProgramCase):
    """Sessions that outlive their connections, and those that do not."""

    def test_sessionLost(self) -> None:
        """A server that is another one than before is told apart, and used."""
        self.runProgram("sessionLost", output="told")

    def test_stopWhileCut(self) -> None:
        """Without a server everything ends at once."""
        self.runProgram("stopWhileCut", output="stopped")

    def test_refusedLater(self) -> None:
        """
        A failure that will not pass ends the session, and is seen where one looks.
        """
        self.runProgram("refusedLater", output="told")


class ReactorTests(ProgramCase):
    """Whose reactor, and in which thread."""

    def test_insideReactor(self) -> None:
        """
        Waiting in the reactor's thread is refused at once, and what does not wait
        works there.
        """
        self.runProgram("insideReactor", output="refused")

    def test_ownReactor(self) -> None:
        """A reactor that the program runs is used; when it stops, who waits is told."""
        self.runProgram("ownReactor", output="failed, not forgotten")

    def test_stoppedReactor(self) -> None:
        """After the program's reactor has stopped, nothing can begin."""
        self.runProgram("stoppedReactor", output="told so")


class EndTests(ProgramCase):
    """How programs end."""

    def test_hundredTimes(self) -> None:
        """
        A hundred servers and clients, one after another, leave no thread and no
        file descriptor behind.
        """
        self.runProgram("hundredTimes", output="nothing left over")

    def test_leaving(self) -> None:
        """
        A program that returns, exits, raises or is interrupted ends with its own
        exit status and closes in order, without having said so.
        """
        self.runProgram("leaving", output="all in order")

    def test_deafPeer(self) -> None:
        """A program ends in a bounded time also if its peer does not answer."""
        self.runProgram("deafPeer", output="in time")

    def test_fork(self) -> None:
        """
        A forked child is told that the connections are its parent's, and cannot
        hurt them.
        """
        self.runProgram("fork", output="parent unharmed")

    def test_workers(self) -> None:
        """What children of multiprocessing have sent arrives when they return."""
        self.runProgram("workers", output="all arrived")

    def test_signals(self) -> None:
        """A signal handler may send, take and stop while the main thread does."""
        self.runProgram("signals", output="not stuck")

    def test_warning(self) -> None:
        """Without Twisted's logging, the warning of an open server is heard."""
        words = "from aesm import ServerNetwork; ServerNetwork('0.0.0.0', 0).stop()"
        program = self.start("-c", words)
        self.assertIn("key", program.communicate(timeout=LONG)[1])


class ExampleTests(ProgramCase):
    """The examples run."""

    def test_blocking(self) -> None:
        """The client is answered, and Ctrl-C ends the server."""
        server = self.start(str(EXAMPLES / "blocking_server.py"), "0")
        assert server.stdout is not None
        port = server.stdout.readline().split()[3]
        client = self.start(str(EXAMPLES / "blocking_client.py"), port)
        self.check(client, "you said 'hello'\n")
        accepted = server.stdout.readline().split()
        lost = server.stdout.readline().split()
        self.assertEqual(accepted[0], "accepted")
        self.assertEqual(lost, ["lost", accepted[1]])
        server.send_signal(signal.SIGINT)
        self.check(server, "stopping\n")
