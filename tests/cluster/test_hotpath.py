"""
What a message costs at a node with an engine, which all others get, counted as in
L{tests.messages.test_hotpath}.
"""

from __future__ import annotations

import aesm
from aesm import PrivateKey
from aesm.plugins import HandlerMaker
from tests.messages.test_hotpath import MESSAGE, ROOM, pythonCalls, records
from tests.support.clusters import ClusterTestCase

CLIENTS = 10
SENDERS = 5


class RelayCostTests(ClusterTestCase):
    """A node, and clients of which half send in the same turn what all others get."""

    def setUp(self) -> None:
        """Have them, and done with what is done once."""
        super().setUp()
        relay = HandlerMaker("relay", "", "aesm.handlers.Relay")
        self.one = self.serving("one", relay)
        keys = [PrivateKey(bytes([number]) * 32) for number in range(1, CLIENTS + 1)]
        self.all = [self.client(key, self.one) for key in keys]
        self.send()
        self.serve()
        self.settle(1)

    def send(self) -> None:
        """Let half of the clients send."""
        for client in self.all[:SENDERS]:
            client.sendData(MESSAGE)

    def serve(self) -> None:
        """Let the node, and nobody else, do all that there is to do."""
        lines = self.one.node.lines
        for link in self.network.links:
            link.server.receive(ROOM)
        self.network.clock.advance(0)
        while lines.deliver() or lines.hearAll():
            self.network.clock.advance(0)

    def test_relayed(self) -> None:
        """
        What is received, handled, committed, sent to all others and acknowledged costs
        so many calls of ours, those of the libraries left out.
        """
        self.send()
        calls = pythonCalls(self.serve, aesm.__path__[0])
        self.assertLess(calls / SENDERS, 221)
        self.settle()
        for number, client in enumerate(self.all):
            own = number < SENDERS
            self.assertEqual(len(self.taken(client)), 2 * (SENDERS - own))

    def test_records(self) -> None:
        """What a commit tells all is one record for each client, with its ACK in it."""
        self.send()
        self.serve()
        sizes = [
            len(records(bytes(link.toClient.inFlight))) for link in self.network.links
        ]
        self.assertEqual(sizes, [1] * CLIENTS)
