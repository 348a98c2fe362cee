"""
A L{ClientService} and real processes: servers that are killed, and one that comes
back with another key.
"""

from __future__ import annotations

import random

from aesm.trust.keys import PrivateKey
from tests.system.test_commands import Process, ProcessTestCase, freePort

KILLS = 50
CLIENT = """
import sys
from itertools import count
from twisted.application.internet import backoffPolicy
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver
from aesm import AESMError, ClientService, KnownServers

async def main(reactor, endpoint):
    service = ClientService(
        endpoint,
        reactor=reactor,
        trust=KnownServers("known"),
        retryPolicy=backoffPolicy(0.02, 0.1, jitter=lambda: 0.0),
    )
    service.startService()
    for number in count(1):
        try:
            connection = await service.whenConnected()
            await service.sendData("hello")
            print("connected", number, flush=True)
            await connection.closed()
        except AESMError as error:
            print("failed:", type(error).__name__, flush=True)
            if not service.running:
                break

observers = [textFileLogObserver(sys.stderr)]
globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
react(main, sys.argv[1:])
"""

# For each line that it reads, the file of a key, kills its server and becomes another
# with that key; all have the port that it is told.  Python and its modules are loaded
# once for all of them.
SERVERS = """
import os, signal, sys
from itertools import chain
from aesm import PrivateKey, listen
from twisted.internet.defer import Deferred
from twisted.internet.task import react

async def serve(reactor, port, file):
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    await listen(reactor, endpoint, key=PrivateKey.load(file), handshakesPerHost=1e6)
    print(f"listening {number}\\n", end="")  # in one piece, whenever it is killed
    await Deferred()

server = None
for number, file in enumerate(chain(sys.stdin, [""]), 1):
    if server is not None:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    if file:
        server = os.fork()
        if not server:
            react(serve, (sys.argv[1], file.strip()))
"""


class RestartTests(ProcessTestCase):
    """
    The client outlives its servers.

    @ivar servers: the process that has one after the other.
    """

    servers: Process

    def setUp(self) -> None:
        """Make the keys, and find a port."""
        super().setUp()
        for name in ("first", "second"):
            PrivateKey.generate().save(self.home / name)
        port = freePort()
        self.servers = self.start("-uc", SERVERS, str(port))
        self.addCleanup(self.endServers)
        self.client = self.start("-c", CLIENT, f"tcp:127.0.0.1:{port}")

    def endServers(self) -> None:
        """Have the last server killed."""
        self.servers.end()
        self.servers.wait()

    def serveAgain(self, key: str) -> None:
        """
        Kill the server, and start another in its place.

        @param key: the file of its key.
        """
        self.servers.type(f"{key}\n")

    def expectConnected(self) -> None:
        """Wait until the client has spoken to one server more."""
        times = self.client.output.count("connected")
        self.client.expect(rf"\A(?:(?:failed.*\n)*connected.*\n){{{times + 1}}}")

    def test_killed(self) -> None:
        """
        However often a server is killed, and whenever, the service finds the next.
        """
        moments = random.Random(7)
        for number in range(1, KILLS + 1):
            self.serveAgain("first")
            moment = moments.random()
            if moment < 0.7:
                self.expectConnected()
            elif moment < 0.9:
                self.servers.expect(rf"^listening {number}$")
        self.serveAgain("first")
        self.expectConnected()
        self.assertGreater(self.client.output.count("connected"), KILLS // 2)
        self.assertNotIn("Traceback", self.client.errors)

    def test_otherKey(self) -> None:
        """One that comes back with another key ends it, and it says why."""
        self.serveAgain("first")
        self.client.expect("connected")
        self.serveAgain("second")
        self.client.expect("failed: ServerKeyChanged")
        self.assertEqual(self.client.wait(), 0, self.client.said())
        self.assertIn("stopped, since trying again would not help", self.client.errors)
        self.assertNotIn("Traceback", self.client.errors)
