"""
Twisted's own programs and protocols on C{aesm:} endpoints, unchanged: the web server
of C{twistd} with a client that streams, as processes, and SSH; and what the
documents show of streams and of tests.

The processes stay small however much passes through them.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.trial.unittest import TestCase

from aesm.trust.keys import PrivateKey
from tests import ROOT
from tests.support.helpers import CLIENT_KEY, SERVER_KEY
from tests.support.transportcontract import Once
from tests.system.test_commands import KEY, TWISTD, Process, ProcessTestCase
from tests.system.test_examples import ExampleTestCase

CLIENT = PrivateKey(CLIENT_KEY)
SERVER = PrivateKey(SERVER_KEY)

SIZE = 40 << 20  # bytes of the large file
GROWTH = SIZE >> 11  # KiB that a process may grow by, half of that
INPUT = b"hello\n" * 20_000  # less than an SSH window, which is what Conch can do

# Fetches each URL's path of a server whose public key and port it is told, takes the
# body piece by piece, and says what came: with pauses, if the path ends in "paused".
FETCHER = r"""
import hashlib, json, re, sys
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Protocol
from twisted.internet.task import react
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer
from aesm import Pinned
from aesm.secure import wrapClientEndpoint

key, port, *paths = sys.argv[1:]

class Count(Protocol):
    def __init__(self, reactor, pausing):
        self.reactor, self.pausing = reactor, pausing
        self.size, self.sum, self.done = 0, hashlib.sha256(), Deferred()

    def dataReceived(self, data):
        self.size += len(data)
        self.sum.update(data)
        if self.pausing:
            self.transport.pauseProducing()
            self.reactor.callLater(0, self.transport.resumeProducing)

    def connectionLost(self, reason):
        self.done.callback(reason.type.__name__)

@implementer(IAgentEndpointFactory)
class Endpoints:
    def __init__(self, reactor):
        self.reactor = reactor

    def endpointForURI(self, uri):
        if uri.path.endswith(b"small"):
            return wrapClientEndpoint(f"tcp:127.0.0.1:{port}", trust=Pinned(key))
        string = rf"aesm:tcp\:127.0.0.1\:{port}:pinned={key}"
        return clientFromString(self.reactor, string)

def memory():
    status = open("/proc/self/status").read()
    return [int(re.search(word + r":\s+(\d+) kB", status)[1])
            for word in ("VmRSS", "VmHWM")]

async def main(reactor):
    agent = Agent.usingEndpointFactory(reactor, Endpoints(reactor))
    for path in paths:
        before = memory()[0]
        url = f"http://aesm.test/{path}".encode()
        response = await agent.request(b"GET", url)
        count = Count(reactor, path.endswith("paused"))
        response.deliverBody(count)
        end = await count.done
        peak = memory()[1]
        print(json.dumps([path, response.code, count.size, count.sum.hexdigest(),
                          end, before, peak]), flush=True)
        if path.endswith("small"):
            sys.stdin.readline()

react(lambda reactor: ensureDeferred(main(reactor)))
"""


def memory(process: Process, what: str) -> int:
    """
    Read how much memory a process has.

    @param process: the process.
    @param what: C{"VmRSS"} for now, C{"VmHWM"} for the most so far.
    @return: KiB.
    @see: proc_pid_status(5)
    """
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    match = re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None
    return int(match[1])


class WebTests(ProcessTestCase):
    """A file that is much larger than what either process may keep of it."""

    if not Path("/proc/self/status").exists():  # pragma: no cover
        skip = "no /proc to read how much memory a process has"

    def test_staysSmall(self) -> None:
        """
        C{twistd web} serves it and an Agent streams it, as fast as it can and with a
        pause after each piece: neither grows by what passes through it.
        """
        folder = self.home / "public"
        folder.mkdir()
        (folder / "small").write_bytes(b"small")
        content = hashlib.sha256()
        piece = bytes(range(251)) * 4178  # of no round length
        with (folder / "large").open("wb") as file:
            for _ in range(-(-SIZE // len(piece))):
                content.update(piece)
                file.write(piece)
            size = file.tell()
        (folder / "paused").hardlink_to(folder / "large")
        server = self.start(
            *("-c", TWISTD, "-n", "--pidfile=", "web"),
            *("--listen", r"aesm:tcp\:0\:interface\=127.0.0.1"),
            *("--path", str(folder)),
        )
        place = r"listening on 127\.0\.0\.1:(\d+) with the public key (\S+)"
        port, key = server.expect(place).groups()
        client = self.start("-c", FETCHER, key, port, "small", "large", "paused")
        client.expect(r"\n")
        before = memory(server, "VmRSS")
        client.type("\n")
        self.assertEqual(client.wait(), 0, client.said())
        lines = list(map(json.loads, client.output.splitlines()))
        self.assertEqual([line[0] for line in lines], ["small", "large", "paused"])
        whole = [200, size, content.hexdigest(), "ResponseDone"]
        self.assertEqual([line[1:5] for line in lines[1:]], [whole, whole])
        self.assertLess(memory(server, "VmHWM") - before, GROWTH)
        self.assertLess(lines[-1][6] - lines[1][5], GROWTH)
        server.process.terminate()
        server.wait()
        self.assertNotIn("Traceback", server.said())


class SSHTests(TestCase):
    """Conch inside of an encrypted stream, with SSH's own keys and passwords."""

    timeout = 600
    try:
        from tests.support import conch
    except ImportError:  # pragma: no cover: where only aesm's own needs are there
        skip = "no bcrypt, which Conch needs"

    async def login(self, **credentials: Any) -> tuple[bytes, int]:
        """
        Log in, and run a command that has input.

        @param credentials: of L{tests.support.conch.Client}.
        @return: its output and exit status.
        """
        directory = Path(self.mktemp())
        directory.mkdir()
        SERVER.save(directory / "server.key")
        CLIENT.save(directory / "client.key")
        port = await serverFromString(
            cast(Any, reactor),
            rf"aesm:tcp\:0\:interface\=127.0.0.1:key={directory / 'server.key'}",
        ).listen(self.conch.SSHServer())
        self.addCleanup(port.stopListening)
        endpoint = clientFromString(
            cast(Any, reactor),
            rf"aesm:tcp\:127.0.0.1\:{cast(Any, port.getHost()).port}:"
            f"key={directory / 'client.key'}:pinned={SERVER.publicKey}",
        )
        client = self.conch.Client(b"shout", INPUT, **credentials)
        await endpoint.connect(Once(client))
        result = await client.result
        await client.lost
        return result

    async def test_password(self) -> None:
        """A password lets a user in, whose command takes input and has a result."""
        result = await self.login(password=b"secret")
        self.assertEqual(result, (b"shout: " + INPUT.upper(), self.conch.STATUS))

    async def test_publicKey(self) -> None:
        """So does a key."""
        result = await self.login(key=self.conch.USER_KEY)
        self.assertEqual(result, (b"shout: " + INPUT.upper(), self.conch.STATUS))

    async def test_refused(self) -> None:
        """A wrong password does not."""
        with self.assertRaises(self.conch.Refused):
            await self.login(password=b"wrong")


class DocumentTests(ExampleTestCase):
    """The programs of C{docs/streams.md} and C{docs/testing.md} run as they are."""

    def blocks(self, name: str) -> list[str]:
        """
        Take the programs out of a document, in order.

        @param name: its file.
        """
        text = (ROOT / "docs" / name).read_text("utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        return [block for block in blocks if "import" in block]

    def test_streams(self) -> None:
        """The client has its answer from the server."""
        serverText, clientText = self.blocks("streams.md")
        server = self.program(serverText, 0)
        port = server.expect(r"listening on 127\.0\.0\.1:(\d+) with")[1]
        client = self.program(clientText, port)
        self.assertEqual(client.wait(), 0, client.said())
        self.assertRegex(client.output, rf"\AHELLO for {KEY}\n\Z")
        server.process.send_signal(signal.SIGINT)
        server.wait()
        self.assertNotIn("Traceback", server.said())

    def test_testing(self) -> None:
        """The tests of the handler pass, and would not if it were wrong."""
        handler, tests = self.blocks("testing.md")
        (self.home / "test_room.py").write_text(tests, "utf-8")
        right = handler, 0
        wrong = handler.replace(" has left", " is here"), 1
        for text, expected in (right, wrong):
            (self.home / "room.py").write_text(text, "utf-8")
            run = self.start("-B", "-m", "twisted.trial", "test_room")
            self.assertEqual(run.wait(), expected, run.said())
            self.assertIn("Ran 4 tests", run.output)
