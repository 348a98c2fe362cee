"""
A server as it is deployed: with a socket that somebody else has opened, and behind
a forwarder that says in a PROXY header who it forwards.

@see: sd_listen_fds(3); the PROXY protocol, versions 1 and 2
"""

from __future__ import annotations

import json
import socket
import struct
import tempfile
from typing import Any

from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.haproxy import proxyEndpoint
from twisted.trial.unittest import SkipTest

from aesm import Server, listen
from aesm.testing import MemoryNetwork
from tests.support.pairs import SERVER_KEY, PairTestCase
from tests.system.test_commands import AT, RUNS, TWISTD, Process, ProcessTestCase

TWIST = "from twisted.application.twist._twist import Twist; Twist.main()"

# Opens a socket as systemd does, and becomes what follows "python".
LAUNCHER = """
import os, socket, sys
place = sys.argv[1]
if "/" in place:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen()
elif ":" in place:
    listening = socket.create_server(
        (place, 0), family=socket.AF_INET6, dualstack_ipv6=True
    )
else:
    listening = socket.create_server((place, 0))
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
pid = str(os.getpid())
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="aesm.socket", LISTEN_PID=pid)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""

# Forwards connections to a port, one for each header in hexadecimal; sends the
# header's first 16 bytes at once, and all that follows in bytes, while it can.
FORWARDER = """
import asyncio, socket, sys

async def pump(reader, writer):
    while data := await reader.read(65536):
        for position in range(len(data)):
            writer.write(data[position : position + 1])
            await writer.drain()
    writer.close()

async def forward(reader, writer):
    header = bytes.fromhex(headers.pop(0))
    inward, outward = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    outward.get_extra_info("socket").setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )
    outward.write(header[:16])
    for position in range(16, len(header)):
        outward.write(header[position : position + 1])
        await asyncio.sleep(0)
    await asyncio.gather(pump(reader, outward), pump(inward, writer))

async def main():
    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

headers = sys.argv[2:]
asyncio.run(main())
"""

HERE = ("203.0.113.9", 8765)
FIRST, NEXT, OTHER = ("192.0.2.1", 1001), ("192.0.2.1", 1002), ("192.0.2.77", 1001)


def headerV1(source: tuple[str, int]) -> bytes:
    """
    Make a header of version 1.

    @param source: who is forwarded, by IPv4.
    """
    return f"PROXY TCP4 {source[0]} {HERE[0]} {source[1]} {HERE[1]}\r\n".encode()


def headerV2(source: tuple[str, int]) -> bytes:
    """
    Make a header of version 2.

    @param source: who is forwarded, by IPv4.
    """
    hosts = socket.inet_aton(source[0]) + socket.inet_aton(HERE[0])
    addresses = hosts + struct.pack("!HH", source[1], HERE[1])
    command = b"\x21\x11"  # version 2, PROXY; TCP over IPv4
    size = struct.pack("!H", len(addresses))
    return b"\r\n\r\n\0\r\nQUIT\n" + command + size + addresses


class ActivationTests(ProcessTestCase):
    """The listening socket is handed over to the server."""

    def activate(self, place: str, domain: str) -> tuple[Process, str]:
        """
        Start a server with a socket that is open already.

        @param place: where: an address of IPv4 or IPv6, or a path.
        @param domain: what C{systemd:} calls it.
        @return: the server, and the endpoint for its clients.
        """
        server = self.start(
            *("-c", LAUNCHER, place, "-c", TWISTD, "-n", "--pidfile="),
            *("aesm", "--listen", f"systemd:domain={domain}:index=0"),
        )
        return server, server.expect(r"aesm connect ((tcp|unix):\S+) --pin")[1]

    def assertServes(self, server: Process, endpoint: str) -> None:
        """
        Check that two clients reach each other, and that the server stops.

        @param server: the server.
        @param endpoint: where to connect to.
        """
        one, two = self.join(server, endpoint), self.join(server, endpoint)
        one.type("hello\n")
        two.expect(f"^{AT} hello$")
        self.assertStops(server)
        self.assertLeft(two)

    def test_tcp(self) -> None:
        """A TCP socket."""
        self.assertServes(*self.activate("127.0.0.1", "INET"))

    def test_bothTCP(self) -> None:
        """
        A TCP socket that takes IPv6 and IPv4, as most are; the addresses are right.
        """
        if not socket.has_dualstack_ipv6():
            raise SkipTest("no IPv6 here")
        server, endpoint = self.activate("::", "INET6")
        self.assertServes(server, endpoint.replace("HOST", "127.0.0.1"))
        self.assertIn(" accepted ::ffff:127.0.0.1:", server.output)

    def test_unix(self) -> None:
        """A UNIX socket; where it is was not the server's choice."""
        # The path of a UNIX socket has at most some hundred bytes.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/socket"
        server, endpoint = self.activate(path, "UNIX")
        self.assertEqual(endpoint, f"unix:{path}")
        self.assertServes(server, endpoint)

    def test_nothing(self) -> None:
        """A server that is to get a socket and gets none says so in one line."""
        server = self.twistd("--listen", "systemd:domain=INET:index=0")
        self.assertEqual(server.wait(), 1)
        self.assertRegex(server.errors, r"\Atwistd aesm: --listen 'systemd:.*\n\Z")


class TwistTests(ProcessTestCase):
    """C{twist}, which starts the same service as C{twistd} does."""

    def twist(self, *arguments: str) -> Process:
        """
        Start a server.

        @param arguments: what follows C{twist aesm}.
        """
        return self.start("-c", TWIST, "--log-format=text", "aesm", *arguments)

    def test_serves(self) -> None:
        """Clients are let in, and told when it is stopped."""
        server = self.twist("--listen", "tcp:0:interface=127.0.0.1")
        endpoint = server.expect(r"aesm connect (tcp:127\.0\.0\.1:\d+) ")[1]
        client = self.join(server, endpoint)
        server.process.terminate()
        self.assertLeft(client)
        server.wait()
        self.assertIn("Main loop terminated", server.output)
        self.assertNotIn("Traceback", server.said())

    def test_inUse(self) -> None:
        """A port in use is one line and status 1; so is a wrong option."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            server = self.twist("--listen", listen)
            self.assertEqual(server.wait(), 1, server.said())
        self.assertRegex(
            server.errors, rf"\Acannot listen on {listen}: .* in use;.*\n\Z"
        )
        wrong = self.twist("--max-message", "many")
        self.assertEqual(wrong.wait(), 1, wrong.said())
        self.assertRegex(wrong.errors, r"\A.*--max-message must be a whole .*\n\Z")


class ForwarderTests(ProcessTestCase):
    """A forwarder in between, which says whom it forwards."""

    def serveBehind(self, *headers: bytes, options: tuple[str, ...] = ()) -> None:
        """
        Start a server, and a forwarder to it.

        @param headers: for each connection, in order.
        @param options: what follows C{twistd -n aesm}.
        """
        self.server = self.twistd(
            *("--listen", "haproxy:tcp:0:interface=127.0.0.1"),
            *("--activity-log", "activity.json", *options),
        )
        self.server.expect(RUNS)
        self.port = self.server.expect(r"starting on (\d+)$")[1]
        texts = [header.hex() for header in headers]
        forwarder = self.start("-c", FORWARDER, self.port, *texts)
        self.endpoint = "tcp:127.0.0.1:" + forwarder.expect(r"^(\d+)$")[1]

    def logged(self) -> list[tuple[str, str]]:
        """Stop the server, and read the activity log's events and addresses."""
        self.assertStops(self.server)
        lines = (self.home / "activity.json").read_text("ascii").splitlines()
        _, *entries, _ = map(json.loads, lines)  # of its own start and end
        return [(entry["event"], entry["address"]) for entry in entries]

    def test_address(self) -> None:
        """
        The address in both logs is the one in the header, of either version; what
        is sent arrives, however it is cut.
        """
        self.serveBehind(headerV1(FIRST), headerV2(OTHER))
        one = self.join(self.server, self.endpoint)
        two = self.join(self.server, self.endpoint)
        one.type("hello\n")
        two.expect(f"^{AT} hello$")
        self.server.expect(r"accepted 192\.0\.2\.1:1001 ")
        self.server.expect(r"accepted 192\.0\.2\.77:1001 ")
        self.assertEqual(
            sorted(self.logged()),
            [
                ("accepted", "192.0.2.1:1001"),
                ("accepted", "192.0.2.77:1001"),
                ("lost", "192.0.2.1:1001"),
                ("lost", "192.0.2.77:1001"),
            ],
        )

    def test_limitPerHost(self) -> None:
        """What one host may have counts for the forwarded, not for the forwarder."""
        self.serveBehind(
            *(headerV1(FIRST), headerV1(NEXT), headerV1(OTHER)),
            options=("--max-connections-per-host", "1"),
        )
        self.join(self.server, self.endpoint)
        self.assertSentence(self.connect(self.endpoint), "1013", "try again later")
        self.join(self.server, self.endpoint)
        self.assertEqual(
            self.logged()[:3],
            [
                ("accepted", "192.0.2.1:1001"),
                ("refused", "192.0.2.1:1002"),
                ("accepted", "192.0.2.77:1001"),
            ],
        )

    def test_noHeader(self) -> None:
        """Who comes around the forwarder does not get in."""
        self.serveBehind()
        client = self.connect(f"tcp:127.0.0.1:{self.port}")
        self.assertSentence(client, f"127.0.0.1:{self.port}")
        self.server.expect("refused .* PROXY header")
        ((event, _),) = self.logged()
        self.assertEqual(event, "refused")


class HeaderTests(PairTestCase):
    """PROXY headers, cut in every place."""

    def behind(self, **options: Any) -> tuple[MemoryNetwork, Server]:
        """
        Make a server that takes the header.

        @param options: as L{listen}.
        """
        network = MemoryNetwork()
        endpoint: IStreamServerEndpoint = proxyEndpoint(network.endpoint())
        listening = listen(network.clock, endpoint, key=SERVER_KEY, **options)
        server = self.successResultOf(listening)
        self.addCleanup(self.takeDown, network, server)
        return network, server

    def forward(
        self, network: MemoryNetwork, header: bytes, *sizes: int, **options: Any
    ) -> Any:
        """
        Connect behind a header.

        @param network: where to.
        @param header: what comes before all that the client says.
        @param sizes: how many bytes arrive at first, and then, ...
        @param options: as L{connect}.
        @return: what C{connect} returned.
        """
        connecting = self.connecting(network, **options)
        link = network.links[-1]
        link.toServer.inFlight[:0] = header
        for size in sizes:
            link.server.receive(size)
        network.deliver()
        return connecting

    def test_everyCut(self) -> None:
        """
        Wherever header and offer are cut, behind the bytes by which Twisted knows a
        header, the connection has the forwarded address.
        """
        for header, known in ((headerV1(FIRST), 8), (headerV2(FIRST), 16)):
            network, server = self.behind()
            for cut in range(known, len(header) + 4):
                client = self.successResultOf(self.forward(network, header, cut))
                self.assertEqual(list(server.connections), [FIRST])
                closing = client.close()
                network.deliver()
                self.successResultOf(closing)
            self.assertEqual(
                {address for address, _, _ in self.entries(server)}, {FIRST}
            )

    def test_everyByte(self) -> None:
        """Also where it comes byte by byte."""
        for header, known in ((headerV1(FIRST), 8), (headerV2(FIRST), 16)):
            network, server = self.behind()
            bytewise = (1,) * (len(header) - known + 60)
            self.successResultOf(self.forward(network, header, known, *bytewise))
            self.assertEqual(list(server.connections), [FIRST])

    def test_handshakesPerHost(self) -> None:
        """Handshakes count for the forwarded, not for the forwarder."""
        network, server = self.behind(handshakesPerHost=0.1)
        self.successResultOf(self.forward(network, headerV1(FIRST)))
        refused = self.forward(network, headerV1(NEXT))
        self.assertIsNotNone(self.failureResultOf(refused))
        self.successResultOf(self.forward(network, headerV1(OTHER)))
        self.assertEqual(list(server.connections), [FIRST, OTHER])
        events = [(entry.event, entry[0]) for entry in self.entries(server)]
        self.assertIn(("refused", NEXT), events)

    def test_own(self) -> None:
        """
        A connection of the forwarder's own, as to see whether the server is well,
        has the forwarder's address.
        """
        network, server = self.behind()
        header = headerV2(FIRST)[:12] + b"\x20\x00\x00\x00"  # LOCAL
        forwarder = ("127.0.0.5", 7)
        own = self.forward(network, header, host=forwarder[0], port=forwarder[1])
        self.successResultOf(own)
        self.assertEqual(list(server.connections), [forwarder])

    def test_probes(self) -> None:
        """
        Who says nothing behind a header is a probe, of the host that this names, and
        takes no handshake of anybody's.
        """
        network, server = self.behind(handshakesPerHost=0.1)
        own = headerV2(FIRST)[:12] + b"\x20\x00\x00\x00"  # LOCAL
        for header in (headerV1(FIRST), headerV2(OTHER), own, b""):
            for _ in range(5):
                client: Any = self.rawClient(network)
                if header:
                    client.transport.write(header)
                network.deliver()
                client.transport.loseConnection()
                network.deliver()
        network.advance(60)
        probed = self.entries(server)
        self.assertEqual(
            {entry[0]: (entry.event, entry.times) for entry in probed},
            {
                FIRST[0]: ("probed", 5),
                OTHER[0]: ("probed", 5),
                "127.0.0.1": ("probed", 10),
            },
        )
        self.successResultOf(self.forward(network, headerV1(FIRST)))

    def test_noAddress(self) -> None:
        """
        Where Twisted takes anything for an address, no control character of it gets
        into a log.
        """
        network, server = self.behind()
        with capturedLogs() as events:
            self.successResultOf(self.forward(network, headerV1(("\x1b[2J\x9b", 1001))))
        self.assertEqual(list(server.connections), [(r"\x1b[2J\x9b", 1001)])
        self.assertTrue(all(formatEvent(event).isprintable() for event in events))
