"""
Nodes of a cluster that are stopped and started again, one after the other: real
processes, behind one port.
"""

from __future__ import annotations

import json

from tests.support.engines import freePort, sharedServer
from tests.system.test_commands import RUNS, Process, ProcessTestCase


class RollingTests(ProcessTestCase):
    """C{python -m tests.support.clustershow --fault term}, for a few seconds."""

    def test_restart(self) -> None:
        """Nothing is lost, comes twice or out of order, and no session is lost."""
        show = self.start(
            *("-m", "tests.support.clustershow", "--fault=term", "--faults=2"),
            *("--nodes=2", "--clients=6", "--messages=60"),
            *("--ahead=1", "--pause=0.02"),
        )
        show.expect("messages of 6 clients in .* 0 missing, 0 sessions lost")
        show.expect("2 times term, 0 tracebacks")
        self.assertEqual(show.wait(), 0)

    def test_drain(self) -> None:
        """
        A node is seen, and ended, by way of the engine; its client goes on at the other
        one, at the same port.
        """
        redis, port = sharedServer(), freePort()
        redis.command("FLUSHALL")
        engine = "--cluster", f"redis+unix://{redis.path}", "--cluster-name", "rolling"
        one = self.node(port, *engine, "--node=one")
        client = self.start(
            "-m", "aesm", "connect", f"127.0.0.1:{port}", "--any-server"
        )
        one.expect(" accepted ")
        two = self.node(port, *engine, "--node=two")
        asking = self.start("-m", "aesm", "cluster", "status", "--json", *engine)
        self.assertEqual(asking.wait(), 0, asking.said())
        nodes = json.loads(asking.output)["nodes"]
        self.assertEqual([each["node"][:4] for each in nodes], ["one-", "two-"])
        asking = self.start("-m", "aesm", "cluster", "drain", "one", *engine)
        self.assertEqual(asking.wait(), 0, asking.said())
        self.assertEqual(one.wait(), 0, one.said())
        two.expect(" accepted .* back by ")
        client.type("hello\n")
        client.expect("hello")
        self.assertNotIn("new session", client.errors)

    def node(self, port: int, *options: str) -> Process:
        """Start a node, and wait until it runs."""
        listen = f"--listen=reuseport:{port}:interface=127.0.0.1"
        common = "--handler=echo", "--no-control"
        node = self.twistd(listen, *common, *options)
        node.expect(RUNS)
        return node
