"""
What goes on in a server in the text format of Prometheus::

    exposition(overview.totals())

Names and units are as Prometheus wants them: seconds, bytes, C{_total} behind what only
grows.  Nothing is told of single clients, since each of them would be a time series of
its own for ever.

@see: U{https://prometheus.io/docs/instrumenting/exposition_formats/}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# What it is called, its type, what it is, and where totals() has it.
_NUMBERS = (
    ("connections", "gauge", "Clients that are connected.", "connections"),
    (
        "waiting_sessions",
        "gauge",
        "Sessions whose client is away and may come back.",
        "waiting",
    ),
    ("handshakes", "gauge", "Connections that are not let in yet.", "handshakes"),
    ("places", "gauge", "Connections that may be let in.", "places"),
    ("places_taken", "gauge", "Places that are taken.", "placesTaken"),
    ("received_messages_total", "counter", "Messages from clients.", "messagesIn"),
    ("received_bytes_total", "counter", "Bytes of these messages.", "bytesIn"),
    (
        "acknowledged_messages_total",
        "counter",
        "Messages to clients that they acknowledged.",
        "messagesOut",
    ),
    ("acknowledged_bytes_total", "counter", "Bytes of these messages.", "bytesOut"),
    (
        "late_answers_total",
        "counter",
        "Answers to requests for which nobody waited any more.",
        "lateAnswers",
    ),
    ("buffered_bytes", "gauge", "Bytes that count for totalBuffer.", "buffered"),
    ("buffer_limit_bytes", "gauge", "The totalBuffer of the server.", "totalBuffer"),
    ("uptime_seconds", "gauge", "Seconds since the server started.", "uptime"),
)
_HISTOGRAMS = (
    (
        "acknowledgement_seconds",
        "How long the oldest message had waited that an acknowledgement was for.",
        "acknowledged",
    ),
    ("round_trip_seconds", "How long clients took to answer a PING.", "roundTrips"),
)


def exposition(totals: Mapping[str, Any]) -> str:
    """
    Write the metrics of a server.

    @param totals: as of L{Overview.totals<aesm.status.overview.Overview.totals>}.
    @return: lines of ASCII.
    """
    lines = _metric(
        "build_info",
        "gauge",
        "1, for the version.",
        [({"version": totals["version"]}, 1)],
    )
    for name, kind, what, field in _NUMBERS:
        lines += _metric(name, kind, what, [({}, totals[field])])
    lines += _metric(
        "stopping",
        "gauge",
        "Whether the server takes no new clients any more.",
        [({}, int(totals["stopping"]))],
    )
    lines += _metric(
        "refusals_total",
        "counter",
        "Clients that were not let in, by reason.",
        [({"reason": kind}, count) for kind, count in totals["refusals"].items()],
    )
    spool = totals["spool"]
    if spool is not None:
        lines += _metric("spool_bytes", "gauge", "Size.", [({}, spool["bytes"])])
        lines += _metric(
            "spool_failing",
            "gauge",
            "Whether the spool cannot be written now.",
            [({}, int(spool["failure"] is not None))],
        )
    cluster = totals["cluster"]
    if cluster is not None:
        lines += _metric(
            "engine_failing",
            "gauge",
            "Whether the engine of the cluster cannot be used now.",
            [({}, int(cluster["failure"] is not None))],
        )
    for name, what, field in _HISTOGRAMS:
        lines += _histogram(name, what, totals[field])
    return "\n".join(lines) + "\n"


def _metric(
    name: str, kind: str, what: str, samples: Iterable[tuple[Mapping[str, str], float]]
) -> list[str]:
    """Write one metric, from labels and value of each sample."""
    return [
        f"# HELP aesm_{name} {what}",
        f"# TYPE aesm_{name} {kind}",
        *(f"aesm_{name}{_labels(labels)} {value!r}" for labels, value in samples),
    ]


def _histogram(name: str, what: str, found: Mapping[str, Any]) -> list[str]:
    """Write a histogram of C{count}, C{seconds} and C{buckets}."""
    buckets = [*found["buckets"], ["+Inf", found["count"]]]
    return [
        f"# HELP aesm_{name} {what}",
        f"# TYPE aesm_{name} histogram",
        *(f'aesm_{name}_bucket{{le="{bound}"}} {below}' for bound, below in buckets),
        f"aesm_{name}_sum {found['seconds']!r}",
        f"aesm_{name}_count {found['count']}",
    ]


def _labels(labels: Mapping[str, str]) -> str:
    """Write labels; their values are names of ours, which need no escaping."""
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
