"""
A L{ClientService} and real processes: servers that are killed, and one that comes
back with another key.
"""

from __future__ import annotations

import random
import socket

from aesm.keys import PrivateKey
from tests.test_endtoend_cli import Process, ProcessTestCase

KILLS = 10
CLIENT = """
import sys
from twisted.application.internet import backoffPolicy
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver
from aesm import AESMError, ClientService, KnownServers

async def tell(service):
    connected = 0
    while True:
        connection = await service.whenConnected()
        connected += 1
        await service.sendData(f"hello {connected}")
        print(f"connected {connected}", flush=True)
        await connection.closed()

async def main(reactor, endpoint):
    service = ClientService(
        endpoint,
        reactor=reactor,
        trust=KnownServers("known"),
        retryPolicy=backoffPolicy(0.02, 0.2, jitter=lambda: 0.0),
    )
    service.startService()
    while service.running:
        try:
            await tell(service)
        except AESMError as error:
            print(f"failed: {type(error).__name__}", flush=True)

observers = [textFileLogObserver(sys.stderr)]
globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
react(main, sys.argv[1:])
"""


class RestartTests(ProcessTestCase):
    """
    The client outlives its servers.
    """

    def serveAgain(self, port: int, key: str) -> Process:
        """
        Start a server in the place of another.

        @param port: where.
        @param key: the file of its key.
        """
        listen = f"tcp:{port}:interface=127.0.0.1"
        return self.twistd("--listen", listen, "--key", str(self.home / key))

    def test_killed(self) -> None:
        """
        However often a server is killed, and whenever, the service finds the next;
        one with another key ends it, and it says why.
        """
        for name in ("first", "second"):
            PrivateKey.generate().save(self.home / name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        client = self.start("-c", CLIENT, f"tcp:127.0.0.1:{port}")
        moments = random.Random(7)
        for _ in range(KILLS):
            server = self.serveAgain(port, "first")
            if moments.random() < 0.6:
                before = client.output.count("connected")
                client.expect(rf"(?s)(connected \d.*){{{before + 1}}}")
            else:
                server.expect(moments.choice(["listening on", "accepted", ""]))
            server.process.kill()
            server.wait()
        server = self.serveAgain(port, "first")
        server.expect("accepted")
        self.assertNotIn("Traceback", client.errors)
        server.process.kill()
        server.wait()
        self.serveAgain(port, "second").expect("listening on")
        client.expect("failed: ServerKeyChanged")
        self.assertEqual(client.wait(), 0, client.said())
        self.assertIn("stopped, since trying again would not help", client.errors)
        self.assertNotIn("Traceback", client.errors)
