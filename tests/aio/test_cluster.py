"""
Tests for L{aesm.aio.cluster}, with a real engine.
"""

from __future__ import annotations

import asyncio

from aesm import PrivateKey, SpoolError
from aesm.aio import Cluster, Connection, serve
from tests.aio.test_client import AioCase, echo
from tests.support.engines import sharedServer

ALICE, BOB, SERVER = (PrivateKey(bytes([number]) * 32) for number in (0x61, 0x62, 0x53))


class ClusterTests(AioCase):
    """Two servers of one loop are nodes of a cluster."""

    def setUp(self) -> None:
        """Empty the engine."""
        sharedServer().command("FLUSHALL")
        self.nodes = {"key": SERVER, "cluster": f"redis+unix://{sharedServer().path}"}

    def test_together(self) -> None:
        """What is sent at one goes to the clients of both, and both list all."""

        async def talk(connection: Connection) -> None:
            """Pass on what is said to Bob."""
            async for packet in connection:
                await nodes[0].sendTo(packet.data or "", BOB.publicKey)

        async def main() -> None:
            """Have a client at each."""
            async with (
                self.serve(talk, **self.nodes, node="one") as one,
                self.serve(talk, **self.nodes, node="two") as two,
                self.connect(one, key=ALICE) as alice,
                self.connect(two, key=BOB) as bob,
            ):
                nodes.extend((one.cluster, two.cluster))
                await alice.send("by talk")
                self.assertEqual((await bob.get()).data, "by talk")
                self.assertEqual(await one.cluster.sendTo("one", BOB.publicKey), 1)
                self.assertEqual((await bob.get()).data, "one")
                self.assertEqual(await two.cluster.sendAll("all"), 2)
                for client in (alice, bob):
                    self.assertEqual((await client.get()).data, "all")
                (row,) = await one.cluster.byPeer(BOB.publicKey)
                self.assertEqual(row.node.partition("-")[0], "two")
                for node in nodes:
                    rows = [row.peer async for row in node.connections()]
                    self.assertCountEqual(rows, [ALICE.publicKey, BOB.publicKey])

        nodes: list[Cluster] = []
        self.runLoop(main())

    def test_moves(self) -> None:
        """A client whose node stops goes on at another, with a talk of its own."""

        async def main() -> None:
            """Stop the first, and have another one in its place."""
            one = await self.serve(**self.nodes)
            async with self.connect(
                one, key=ALICE, retryPolicy=lambda failures: 0.0
            ) as alice:
                await alice.send("1")
                self.assertEqual((await alice.get()).data, "1")
                await one.close()
                place = f"tcp:{one.address[1]}:interface=127.0.0.1"
                async with serve(echo, place, **self.nodes):
                    await alice.send("2")
                    self.assertEqual((await alice.get()).data, "2")

        self.runLoop(main())

    def test_none(self) -> None:
        """
        Without an engine there is no cluster; one that is not there, or can be reached
        by TLS only, is an error.
        """

        async def main() -> None:
            """Look for it."""
            async with self.serve() as server:
                self.assertRaises(RuntimeError, lambda: server.cluster)
            with self.assertRaises(SpoolError):
                await self.serve(cluster="redis+unix:///nowhere")
            with self.assertRaises(ValueError) as caught:
                await self.serve(cluster="rediss://127.0.0.1")
            self.assertIn("installed reactor", str(caught.exception))

        self.runLoop(main())

    def test_otherLoop(self) -> None:
        """It is used in the loop in which it was opened."""

        async def main() -> Cluster:
            """Have one."""
            async with self.serve(**self.nodes) as server:
                return server.cluster

        cluster = asyncio.run(main())

        async def other() -> None:
            """Use it here."""
            with self.assertRaises(RuntimeError):
                await cluster.sendAll("x")

        self.runLoop(other())
