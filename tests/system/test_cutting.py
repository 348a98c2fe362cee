"""
A session over a network that cuts connections, and with programs that stand still:
real processes and sockets.

Nothing here depends on how long things take: the cuts are counted in bytes, and each
step waits for what it is about.
"""

from __future__ import annotations

import re
import signal

from tests.system.test_commands import Process, ProcessTestCase

MESSAGES = 4000
CUT = 200_000  # bytes of a connection, at most
QUICK = "--heartbeat=0.2"


class CuttingTests(ProcessTestCase):
    """All messages arrive, once and in order, both ways."""

    def program(self, module: str, *arguments: str) -> tuple[Process, str]:
        """
        Start a program that listens.

        @param module: which.
        @param arguments: its arguments.
        @return: the process, and its port.
        """
        process = self.start("-m", f"tests.support.{module}", *arguments)
        return process, process.expect(r"listening on (\d+)\n")[1]

    def serve(self, *arguments: str) -> tuple[Process, str]:
        """
        Start the server.

        @param arguments: more arguments.
        @return: the process, and its port.
        """
        return self.program(
            "cuttingshow", f"--messages={MESSAGES}", *arguments, "serve"
        )

    def call(self, port: str, *arguments: str) -> Process:
        """
        Start the client.

        @param port: where to connect.
        @param arguments: more arguments.
        @return: the process.
        """
        common = f"--messages={MESSAGES}", f"--port={port}"
        return self.start(
            "-m", "tests.support.cuttingshow", *common, *arguments, "call"
        )

    def assertAllThere(self, server: Process, client: Process) -> int:
        """
        Wait for both to end, and check that they are content.

        @param server: the server.
        @param client: the client.
        @return: how many connections there were.
        """
        for process in (client, server):
            self.assertEqual(process.wait(), 0, process.said())
            self.assertIn("all is there", process.output)
            self.assertNotIn("Traceback", process.errors)
            self.assertNotIn("given up", process.errors)
        connections = re.search(r"(\d+) connections", server.output)
        assert connections is not None
        return int(connections[1])

    def test_cut(self) -> None:
        """
        The connection is cut somewhere in a record, over and over: reset, closed, or
        forgotten at the client's side only.
        """
        server, port = self.serve()
        network, port = self.program("cuttingproxy", port, f"--bytes={CUT}")
        client = self.call(port)
        connections = self.assertAllThere(server, client)
        self.assertGreater(connections, 4)  # they need that many for so many bytes
        network.expect(r"cut 4: ")

    def test_stopped(self) -> None:
        """
        One of the two stands still for longer than the other is patient, while there
        is something to send: that one notices, and they go on where they were.
        """
        for serverStops in (True, False):
            server, port = self.serve(QUICK)
            client = self.call(port, QUICK, "--wait")
            client.expect("half is there")
            stopped, other = (server, client) if serverStops else (client, server)
            stopped.process.send_signal(signal.SIGSTOP)
            client.type("go on\n")
            other.expect("nothing came from the peer", "errors")
            stopped.process.send_signal(signal.SIGCONT)
            self.assertGreater(self.assertAllThere(server, client), 1)
