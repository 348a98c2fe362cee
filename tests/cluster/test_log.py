"""Tests for L{aesm.store.log} with servers that keep sessions in a real engine."""

from __future__ import annotations

from twisted.logger import capturedLogs

from aesm import PrivateKey
from aesm.plugins import HandlerMaker
from tests.support.clusters import ClusterTestCase

KEYS = [PrivateKey(bytes([number]) * 32) for number in range(0x70, 0x79)]


class LogTests(ClusterTestCase):
    """Three nodes, and clients at each of them."""

    def begin(self) -> None:
        """Start nodes and clients."""
        self.servers = [self.serving(f"n{number}") for number in range(3)]
        self.all = [
            self.client(key, self.servers[number % 3])
            for number, key in enumerate(KEYS)
        ]

    def test_sendAll(self) -> None:
        """All clients at all nodes have it, once, and that is counted."""
        self.begin()
        counts = [node.server.sendAll(str(n)) for n, node in enumerate(self.servers)]
        for count in counts:
            count.addCallback(lambda having: having)
        self.settle()
        self.assertEqual([self.successResultOf(count) for count in counts], [9] * 3)
        told = [self.taken(client) for client in self.all]
        self.assertEqual(sorted(told[0]), ["0", "1", "2"])
        self.assertEqual(told, [told[0]] * 9)
        self.assertEqual(self.redis.command("ZCARD", self.key("log")), 3)
        for kind in "o":
            self.assertEqual(self.redis.command("KEYS", self.key(f"{kind}:*")), [])

    def test_killed(self) -> None:
        """
        A node that is killed is not waited for longer than two heartbeats; its clients
        get all elsewhere, in the same order.
        """
        self.begin()
        for number in range(5):
            self.servers[number % 3].server.sendAll(str(number))
        self.network.advance(0)
        for node in self.servers[:2]:
            node.node.settle()
        self.kill(self.servers[2])
        count = self.servers[0].server.sendAll("last")
        count.addCallback(lambda having: having)
        for index in (2, 5, 8):
            self.clients[self.all[index]][0].node = self.servers[index % 2]
        self.settle(60)
        self.assertLessEqual(self.successResultOf(count), 9)
        told = [self.taken(client) for client in self.all]
        self.assertEqual(told, [told[0]] * 9)
        self.assertEqual(told[0][-1], "last")

    def test_failover(self) -> None:
        """
        After a replica took over that had not all of it, all have what they had, and
        what comes then, wherever they go.
        """
        self.begin()
        self.servers[0].server.sendAll("one")
        self.settle()
        before = self.redis.snapshot()
        self.servers[1].server.sendAll("two")
        self.settle()
        with capturedLogs():
            self.redis.goBack(before)
            for node in self.servers:
                node.node.cut()
            self.settle(5)
            self.servers[2].server.sendAll("three")
            self.settle(3)
        for client in self.all[:3]:
            self.roam(client, self.servers[2])
        told = [self.taken(client) for client in self.all]
        self.assertEqual(told, [["one", "two", "three"]] * 9)

    def test_twice(self) -> None:
        """
        So it is with what was under way, and some had, also where it has another place
        in the log by then.
        """
        self.begin()
        before = self.redis.snapshot()
        self.servers[0].server.sendAll("one")
        self.settle()
        for number in (1, 2):
            self.servers[number].server.sendAll(str(number))
            self.network.advance(0)
            self.servers[number].node.lines.line.execute()
        for node in self.servers:
            node.node.lines.hearAll()
        self.network.advance(0)
        with capturedLogs():
            self.redis.goBack(before)
            for node in reversed(self.servers):
                node.node.cut()
            self.settle(8)
            self.servers[0].server.sendAll("last")
            self.settle(3)
        for client in self.all[:3]:
            self.roam(client, self.servers[2])
        told = [self.taken(client) for client in self.all]
        self.assertEqual(told, [["one", "1", "2", "last"]] * 9)


class RelayTests(ClusterTestCase):
    """Messages to all others."""

    def test_relay(self) -> None:
        """A message goes to all others at all nodes, in one order, in one entry."""
        relay = HandlerMaker("relay", "", "aesm.handlers.Relay")
        nodes = [self.serving(f"n{number}", handler=relay) for number in range(2)]
        clients = [
            self.client(key, nodes[number % 2]) for number, key in enumerate(KEYS[:4])
        ]
        for number, client in enumerate(clients):
            for turn in range(2):
                client.sendData(f"{number} {turn}")
            self.network.advance(0)
        self.settle()
        self.assertEqual(self.redis.command("ZCARD", self.key("log")), 8)
        told = [self.taken(client) for client in clients]
        for number, got in enumerate(told):
            self.assertEqual(len(got), 6)
            self.assertNotIn(str(number), [each[0] for each in got])
            for other in told:
                both = [each for each in got if each in other]
                self.assertEqual(both, [each for each in other if each in got])
