"""
A server that has stood for long and is stopped: five hundred clients, some of which
stopped reading, and several ports.

Everybody who reads is told, and nothing is left, within the deadline.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from aesm import AESMServerFactory, ConnectionClosed, Server
from aesm.commands.daemon import AESMService
from aesm.commands.tap import Options
from aesm.server.factory import STOP_DEADLINE
from aesm.testing import MemoryNetwork
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, PairTestCase
from tests.system.test_commands import AT, ProcessTestCase

CLIENTS = 500
SILENT = 10  # of them, which never read
FULL = b"x" * (1 << 20)  # more than a socket's buffers, so that they are stuck


class StopTestCase(PairTestCase):
    """
    Many clients in memory.

    @ivar readers: the connections of clients that read.
    @ivar silent: those of clients that do not.
    @ivar sent: what the server sends to some of these.
    """

    def fill(self, network: MemoryNetwork, server: Server) -> None:
        """Let the clients come, and some of them stop reading what they are sent."""
        connecting = [
            self.connecting(network, f"10.0.{number // 50}.1", key=CLIENT_KEY)
            for number in range(CLIENTS)  # from hosts that may all shake hands at once
        ]
        network.deliver()
        clients = [self.successResultOf(made) for made in connecting]
        self.assertEqual(len(server.connections), CLIENTS)
        for link in network.links[:SILENT]:
            link.toClient.stalled = True
        self.silent, self.readers = clients[:SILENT], clients[SILENT:]
        self.sent = [  # the other silent ones have nothing to read but the end
            connection.sendData(FULL)
            for connection in list(server.connections.values())[: SILENT // 2]
        ]
        network.deliver()

    def assertStopped(
        self, network: MemoryNetwork, server: Server, stopped: Deferred[Any]
    ) -> None:
        """
        Check that all is over within the deadline.

        @param stopped: fires when it has stopped.
        """
        network.deliver()
        for client in self.readers:
            self.assertEqual(self.closedReason(client).code, 1001)
        self.assertNoResult(stopped)
        network.advance(STOP_DEADLINE)
        self.successResultOf(stopped)
        self.assertEqual(dict(server.connections), {})
        for sent in self.sent:
            self.failureResultOf(sent, ConnectionClosed)
        for link in network.links:  # these find out once they read
            link.toClient.stalled = False
        network.deliver()
        for client in self.silent:
            self.assertIsInstance(self.closedReason(client), ConnectionClosed)
        self.assertEqual(network.links, [])
        self.assertEqual(network.clock.getDelayedCalls(), [])


class ManyTests(StopTestCase):
    """C{stop} with many clients."""

    def test_server(self) -> None:
        """A server tells all that read, and hangs up on those that do not."""
        network, server = self.serve()
        self.fill(network, server)
        self.assertStopped(network, server, server.stop())

    def test_service(self) -> None:
        """So does the service of C{twistd aesm}."""
        home = Path(self.mktemp()).absolute()
        home.mkdir(0o700)
        self.patch(os, "environ", {**os.environ, "AESM_HOME": str(home)})
        network = MemoryNetwork()
        options = Options()
        options.parseOptions([])
        options.factory = AESMServerFactory(reactor=network.clock, key=SERVER_KEY)
        options.endpoints = {"memory": network.endpoint()}
        service = AESMService(reactor, options.factory, options.endpoints)
        service.startService()
        self.fill(network, service.server)
        self.assertStopped(network, service.server, service.stopService())


class PortsTests(ProcessTestCase):
    """Several C{--listen} at once."""

    def test_all(self) -> None:
        """
        Clients of all ports, a UNIX socket's among them, are one company; all are
        told when the server is stopped, and the socket's file goes with it.
        """
        directory = tempfile.TemporaryDirectory()  # its path is short
        self.addCleanup(directory.cleanup)
        path = Path(directory.name, "socket")
        ports = ["tcp:0:interface=127.0.0.1", "tcp:port=0:interface=127.0.0.1"]
        server = self.twistd(
            *(word for port in (*ports, f"unix:{path}") for word in ("--listen", port))
        )
        server.expect(r"(?s)(aesm connect \S+ --pin .*){3}")
        lines = re.findall(r"aesm connect (\S+) --pin (\S+)", server.output)
        self.assertEqual(len({endpoint for endpoint, _ in lines}), 3)
        self.assertEqual(lines[2][0], f"unix:{path}")
        clients = [self.join(server, endpoint, "--pin", key) for endpoint, key in lines]
        for speaker in range(3):
            clients[speaker].type(f"this is {speaker}\n")
            for other in {0, 1, 2} - {speaker}:
                clients[other].expect(f"^{AT} this is {speaker}$")
        self.assertTrue(path.is_socket())
        self.assertStops(server)
        for client in clients:
            self.assertLeft(client)
        self.assertFalse(path.exists())
