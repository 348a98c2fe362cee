"""
Tests for C{benchmarks}: that it can still be run, what it makes of figures, and its
link with a delay.  How fast anything is does not matter here.
"""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES, SourceFileLoader
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

from twisted.internet import reactor
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from aesm import PrivateKey
from benchmarks import cluster
from benchmarks.command import BUILDS
from benchmarks.delay import LOOPBACK, join
from benchmarks.peers.aesmpure import SourceFinder
from benchmarks.processes import RunFailed, build, runOnce
from benchmarks.report import NAMES, Results, show
from benchmarks.workloads import WORKLOADS, Figure, Workload
from tests.support.engines import RedisServer

BY_NAME = {workload.name: workload for workload in WORKLOADS}


class RunTests(SynchronousTestCase):
    """Real processes."""

    def setUp(self) -> None:
        """Make keys."""
        if not Path("/proc/self/statm").exists():
            raise SkipTest("what the processes need is not told here")
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        for name in ("aesm.key", "aesm-client.key"):
            PrivateKey.generate().save(self.folder / name)

    def test_figures(self) -> None:
        """A run gives all figures of its workload, and the time of both processes."""
        for name in ("small", "far1"):
            found = runOnce("aesm", BY_NAME[name], self.folder, 0.001)
            for figure in BY_NAME[name].figures:
                for key in ("", ".server", ".client"):
                    self.assertGreater(found[figure.name + key], 0, (name, key))

    def test_delayed(self) -> None:
        """What crosses a link takes no less than the link says."""
        found = runOnce("aesm", BY_NAME["far20"], self.folder, 0.001)
        self.assertGreaterEqual(found["trip"], 20)
        self.assertGreaterEqual(found["first"], 2 * 20)

    def test_failed(self) -> None:
        """A client that fails says why."""
        wrong = replace(BY_NAME["small"], kind="nothing")
        failed = self.assertRaises(RunFailed, runOnce, "aesm", wrong, self.folder, 1.0)
        self.assertIn("AttributeError", str(failed))

    def test_build(self) -> None:
        """Processes say what they have of aesm; C{aesmpure} never what is compiled."""
        self.assertIn(build("aesm"), BUILDS)
        self.assertEqual(build("aesmpure"), "pure Python")
        self.assertEqual(build("twistedplain"), "")


class ClusterTests(TestCase):
    """C{benchmarks.cluster}."""

    def setUp(self) -> None:
        """Have an engine."""
        if not Path("/proc/self/stat").exists():
            raise SkipTest("what the processes need is not told here")
        server = RedisServer()
        self.addCleanup(server.stop)
        self.url = f"redis+unix://{server.path}"

    async def test_engine(self) -> None:
        """Commits take time of both sides, and a session is taken over."""
        self.patch(cluster, "MANY", cluster.SESSIONS)
        found = await cluster.measured(reactor, self.url, 1)
        *times, size = found.values()
        self.assertEqual([len(figures) for figures in times], [4, 4, 4])
        self.assertGreater(size[0], 0)

    async def test_relay(self) -> None:
        """What clients send comes to the others, and is told in ratios."""
        self.patch(cluster, "KINDS", {"1 node": 1})
        self.patch(cluster, "WARM", 0.1)
        options = SimpleNamespace(rounds=1, clients=2, rate=100.0, seconds=0.2)
        found = await cluster.relayed(reactor, self.url, options)
        busiest, nodes, _, waited, ratio = found["1 node"]
        self.assertEqual((busiest, ratio), (nodes, 1.0))
        self.assertGreaterEqual(waited, 0.0)


class SourceTests(SynchronousTestCase):
    """L{SourceFinder}."""

    def test_sources(self) -> None:
        """Of a package, and packages in it, C{.py} files are found, nothing else."""
        folder = Path(self.mktemp()).absolute()
        (folder / "toy" / "inner").mkdir(parents=True)
        for name in ("__init__", "inner/__init__", "both", "inner/both", "shim"):
            for suffix in [".py", *EXTENSION_SUFFIXES]:
                if name != "shim" or suffix != ".py":
                    (folder / "toy" / (name + suffix)).touch()
        finder = SourceFinder("toy")
        self.patch(sys, "path", [str(folder / "none"), str(folder)])
        for path, name, file in (
            (None, "toy", "__init__"),
            ([str(folder / "toy")], "toy.both", "both"),
            ([str(folder / "toy")], "toy.inner", "inner/__init__"),
            ([str(folder / "toy" / "inner")], "toy.inner.both", "inner/both"),
        ):
            spec = finder.find_spec(name, path)
            assert spec is not None, name
            self.assertIsInstance(spec.loader, SourceFileLoader)
            self.assertEqual(spec.origin, str(folder / "toy" / f"{file}.py"))
        self.assertIsNone(finder.find_spec("toy.shim", [str(folder / "toy")]))

    def test_others(self) -> None:
        """What belongs to another package is left to others."""
        self.assertIsNone(SourceFinder("toy").find_spec("toys"))


class DelayTests(SynchronousTestCase):
    """L{join}."""

    def test_order(self) -> None:
        """All arrives in order and late, both ways, and the ends do as well."""
        trip = 0.02
        sent = [bytes([number]) * 1000 for number in range(100)]
        ours, its = socket.socketpair()
        with socket.create_server((LOOPBACK, 0)) as listener, ours:
            port = listener.getsockname()[1]
            began = time.monotonic()
            link = Thread(target=join, args=(its, port, trip), daemon=True)
            link.start()
            for data in sent:
                ours.sendall(data)
            ours.shutdown(socket.SHUT_WR)
            server, _ = listener.accept()
            with server:
                self.assertGreaterEqual(time.monotonic() - began, trip * 1.5)
                got = server.makefile("rb").read()
                self.assertEqual(got, b"".join(sent))
                server.sendall(got)
            self.assertEqual(ours.makefile("rb").read(), got)
            self.assertGreaterEqual(time.monotonic() - began, trip * 2)
            link.join(60)
            self.assertFalse(link.is_alive())


class ReportTests(SynchronousTestCase):
    """L{Results}."""

    rate = Figure("rate", "messages/s")
    delay = Figure("first", "ms", higher=False, label="first")
    workloads = (
        Workload("a", "stream", "Small ones", (rate,)),
        Workload("b", "far", "Far away", (delay,), trip=20, peers=("x", "z")),
    )

    def setUp(self) -> None:
        """Measure something."""
        peers = {"twistedtls": "TLS", "x": "other", "y": "third", "z": "far"}
        self.results = Results(peers, self.workloads)
        for rate in (1000.0, 2000.0, 4000.0):
            cpu = {"rate.server": 2.0, "rate.client": rate / 100}
            self.results.add("a", "twistedtls", {"rate": rate, **cpu})
        for rate in (2000.0, 4000.0):
            self.results.add("a", "x", {"rate": rate})
        self.results.add("a", "x", None)
        self.results.add("a", "y", None)
        self.results.add("b", "x", {"first": 70.0})
        self.results.add("b", "z", {"first": 80.0})

    def test_names(self) -> None:
        """Who takes part has a name and a module."""
        for workload in WORKLOADS:
            self.assertEqual(set(workload.peers) - set(NAMES), set())
        folder = Path(__file__).parents[2] / "benchmarks" / "peers"
        missing = [peer for peer in NAMES if not (folder / f"{peer}.py").exists()]
        self.assertEqual(missing, [])

    def test_titles(self) -> None:
        """Each workload is something else in the words that people read."""
        titles = {workload.title for workload in WORKLOADS}
        self.assertEqual(len(titles), len(WORKLOADS))

    def test_table(self) -> None:
        """
        There are ratios of what all do; then medians, ranges and processor time, and
        times in round trips.  Who failed says so, and who takes no part is not there.
        """
        expected = """\
## Times better than Twisted, TLS 1.3

| peer | Small ones |
| --- | ---: |
| other | 2.00 |
| third |  |

## Small ones

| peer | messages/s | range | ratio | CPU of server | CPU of client |
| --- | ---: | ---: | ---: | ---: | ---: |
| TLS | 2,000 | 1,000 to 4,000 | 1.00 | 2 | 20 |
| other | 3,000 | 2,000 to 4,000 | 2.00 |  |  |
| third | failed |  |  |  |  |

## Far away: first

| peer | ms | range | ratio | in round trips |
| --- | ---: | ---: | ---: | ---: |
| other | 70 | 70 to 70 |  | 3.50 |
| far | 80 | 80 to 80 |  | 4.00 |
"""
        self.assertEqual(self.results.table(), expected)

    def test_show(self) -> None:
        """Three digits count."""
        shown = [show(value) for value in (0.12345, 12.345, 99.96, 1234567.0)]
        self.assertEqual(shown, ["0.123", "12.3", "100", "1,230,000"])
