"""
Connections that are cut, and sessions that go on: clients as processes, and between
them and C{twistd aesm} a proxy that cuts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from threading import Lock, Thread
from unittest import mock

from tests.support import networkprograms as network_programs
from tests.system.test_commands import AT, Process, ProcessTestCase

PROGRAMS = Path(network_programs.__file__)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close without a farewell


class Proxy:
    """
    Hands over bytes between clients and a server, in threads of its own.

    @ivar endpoint: for the clients.
    """

    def __init__(self, port: str) -> None:
        """
        Listen.

        @param port: the server's.
        """
        self._port = int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = str(self._listening.getsockname()[1])
        self.endpoint = f"tcp:127.0.0.1:{self.port}"
        self._lock = Lock()  # guards the next
        self._open: list[socket.socket] = []
        self._closed = False
        Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections, without a farewell."""
        with self._lock:
            cut, self._open = self._open, []
        for end in cut:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Listen no more, and cut what there is."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        """Accept clients: a thread's main function."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                with self._lock:
                    self._open += (client, server)
                for ends in (client, server), (server, client):
                    Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        """
        Hand over one direction: a thread's main function.

        @param source: where from.
        @param target: where to.
        """
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


class CutTests(ProcessTestCase):
    """What is cut goes on."""

    def serveBehind(self, *arguments: str) -> tuple[Process, Proxy]:
        """
        Start a server behind a proxy.

        @param arguments: what follows C{twistd aesm}.
        @return: the server and the proxy.
        """
        server, endpoint = self.serve(*arguments)
        proxy = Proxy(endpoint.rpartition(":")[2])
        self.addCleanup(proxy.close)
        return server, proxy

    def test_program(self) -> None:
        """A program of the blocking face does not notice."""
        _, proxy = self.serveBehind("--handler", "echo")
        program = self.start(str(PROGRAMS), "goesOn", proxy.port, "100")
        for number in range(10):
            program.expect(rf"(?s)(cut.*){{{number + 1}}}")
            proxy.cut()
            program.type("go on\n")
        self.assertEqual(program.wait(), 0, program.said())
        self.assertIn("all once and in order", program.output)

    def test_connect(self) -> None:
        """
        C{aesm connect} says that it was cut and is back; what is typed meanwhile is
        sent, and what was said meanwhile comes.
        """
        server, proxy = self.serveBehind()
        alice = self.join(server, proxy.endpoint)
        bob = self.join(server, f"tcp:127.0.0.1:{proxy._port}", "--json")
        alice.type("one\n")
        bob.expect('"one"')
        proxy.cut()
        alice.expect("^aesm: .*; connecting again$", "errors")
        alice.type("two\n")
        bob.type('{"data": "meanwhile"}\n')
        alice.expect("^aesm: connected again$", "errors")
        bob.expect('"two"')
        alice.expect(f"^{AT} meanwhile$")
        for client in alice, bob:
            client.end()
            self.assertEqual(client.wait(), 0, client.said())
        self.assertEqual(alice.output.count("\n"), 1)
        self.assertEqual(bob.output.count("\n"), 2)

    def test_chat(self) -> None:
        """
        In the chat nobody else sees that somebody was cut off, who keeps name and room;
        at a terminal that can do little and without one.
        """
        self.enterContext(mock.patch.dict(os.environ, TERM="dumb"))
        _, proxy = self.serveBehind("--handler", "chat")
        clients = {
            nick: self.start(
                *("-m", "aesm", "chat", proxy.endpoint, "--nick", nick), terminal=way
            )
            for nick, way in {"alice": True, "bob": False}.items()
        }
        for nick, client in clients.items():
            client.expect(rf"\* you are {nick} in lobby")
            client.type("/join den\n")
            client.expect(rf"\* you are {nick} in den")
        alice, bob = clients["alice"], clients["bob"]
        before = len(bob.output)
        proxy.cut()
        for client in alice, bob:
            client.expect(r"; connecting again\s*$", "errors")
        alice.type("still here\n")
        bob.expect("alice: still here$")
        bob.type("so am I\n")
        alice.expect("bob: so am I")
        said = [line[6:] for line in bob.output[before:].splitlines()]
        self.assertLessEqual(set(said), {"alice: still here", "bob: so am I"})
        alice.type("\x04")
        self.assertEqual(alice.wait(), 0, alice.said())
        bob.expect(r"\* alice has left den$")
        bob.end()
        self.assertEqual(bob.wait(), 0, bob.said())
