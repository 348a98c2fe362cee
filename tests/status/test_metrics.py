"""
What Prometheus is told: L{aesm.status.metrics}.
"""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from aesm._version import __version__
from aesm.status.metrics import exposition
from aesm.status.overview import Overview
from tests.support.pairs import PairTestCase, Recorder
from tests.support.spooled import SpoolTestCase

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(overview: Overview) -> Samples:
    """Read what is written, with the parser of Prometheus's own client."""
    found: Samples = {}
    for family in text_string_to_metric_families(exposition(overview.totals())):
        assert family.documentation, family.name
        assert family.type in ("gauge", "counter", "histogram"), family.name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


class MetricsTests(PairTestCase):
    """What it can read is what there is."""

    def test_values(self) -> None:
        """Each number is that of the totals."""
        pair = self.pair(Recorder(), server={"maxConnections": 9})
        pair.client.sendData(b"12345")
        pair.accepted.sendData(b"123")
        pair.deliver()
        pair.advance(7)
        overview = Overview(pair.server)
        found = samples(overview)
        expected = {
            "aesm_connections": 1,
            "aesm_waiting_sessions": 0,
            "aesm_handshakes": 0,
            "aesm_places": 9,
            "aesm_places_taken": 1,
            "aesm_received_messages_total": 1,
            "aesm_received_bytes_total": 5,
            "aesm_acknowledged_messages_total": 1,
            "aesm_acknowledged_bytes_total": 3,
            "aesm_buffered_bytes": 0,
            "aesm_buffer_limit_bytes": 1 << 30,
            "aesm_uptime_seconds": 7,
            "aesm_stopping": 0,
            "aesm_acknowledgement_seconds_count": 1,
        }
        self.assertEqual({name: found[name, ()] for name in expected}, expected)
        self.assertEqual(found["aesm_build_info", (("version", __version__),)], 1)
        self.assertNotIn(("aesm_spool_bytes", ()), found)

    def test_refusals(self) -> None:
        """Each kind is there from the beginning, and counts."""
        network, server = self.serve(Recorder())
        self.rawClient(network).transport.write(b"GET / HTTP/1.0\r\n\r\n")
        network.deliver()
        found = samples(Overview(server))
        counts = {
            labels[0][1]: value
            for (name, labels), value in found.items()
            if name == "aesm_refusals_total"
        }
        self.assertEqual(len(counts), len(Overview(server).totals()["refusals"]))
        self.assertEqual(counts.pop("handshake-failed"), 1)
        self.assertEqual(set(counts.values()), {0})

    def test_histograms(self) -> None:
        """They have a bucket for everything, and none has fewer than the one below."""
        pair = self.pair(Recorder())
        for _ in range(5):
            pair.accepted.sendData(b"1")
            pair.deliver()
        found = samples(Overview(pair.server))
        for name in ("aesm_acknowledgement_seconds", "aesm_round_trip_seconds"):
            buckets = sorted(
                (float(labels[0][1]), value)
                for (each, labels), value in found.items()
                if each == f"{name}_bucket"
            )
            self.assertEqual(buckets[-1], (float("inf"), found[f"{name}_count", ()]))
            counts = [value for _, value in buckets]
            self.assertEqual(counts, sorted(counts))
            self.assertIn((f"{name}_sum", ()), found)
        self.assertEqual(found["aesm_acknowledgement_seconds_count", ()], 5)


class SpooledMetricsTests(SpoolTestCase):
    """What it is told of a spool."""

    def test_spool(self) -> None:
        """How large it is, and whether it can be written."""
        server = self.serving()
        found = samples(Overview(server))
        self.assertGreater(found["aesm_spool_bytes", ()], 0)
        self.assertEqual(found["aesm_spool_failing", ()], 0)
