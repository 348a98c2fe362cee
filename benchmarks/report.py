"""
From what was measured to what people read::

    results = Results({"aesm": "aesm"}, workloads)
    results.add("small", "aesm", {"rate": 1e6})
    print(results.table())
    results.write(folder, rounds=1, seconds=1.0)
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.workloads import SECONDS, Figure, Workload

__all__ = ["NAMES", "REFERENCE", "Results", "show"]

REFERENCE = "twistedtls"

NAMES = {  # the peers in the order that they take turns in
    "twistedtls": "Twisted, TLS 1.3",
    "twistedmutual": "Twisted, mutual TLS 1.3",
    "aesm": "aesm",
    "aesmpure": "aesm",
    "aesmstream": "aesm as a byte stream",
    "amptls": "AMP on Twisted, TLS 1.3",
    "twistedplain": "Twisted, in clear",
    "asynciotls": "asyncio, TLS 1.3",
    "uvlooptls": "uvloop, TLS 1.3",
    "streamstls": "asyncio streams, TLS 1.3",
    "wss": "websockets, TLS 1.3",
    "zeromqcurve": "ZeroMQ, CURVE",
    "zeromq": "ZeroMQ, in clear",
    "naivenoise": "naive Noise on Twisted",
}

_PACKAGES = (
    "aesm",
    "Twisted",
    "cryptography",
    "pyOpenSSL",
    "uvloop",
    "websockets",
    "pyzmq",
    "noiseprotocol",
)


class Results:
    """What was measured, by round."""

    def __init__(self, peers: dict[str, str], workloads: Sequence[Workload]) -> None:
        """
        Start with nothing.

        @param peers: who takes part, with what people read.
        @param workloads: what is done.
        """
        self.peers = peers
        self.workloads = workloads
        self._runs: dict[tuple[str, str], list[dict[str, float] | None]] = {}

    def add(self, workload: str, peer: str, figures: dict[str, float] | None) -> None:
        """Take down one run; None for one that failed."""
        self._runs.setdefault((workload, peer), []).append(figures)

    def taking(self, workloads: Sequence[Workload]) -> list[str]:
        """List the peers that took part in any of some workloads."""
        runs = {
            peer for name, peer in self._runs if name in {w.name for w in workloads}
        }
        return [peer for peer in self.peers if peer in runs]

    def values(self, workload: str, peer: str, name: str) -> list[float]:
        """
        List what the runs that did not fail gave.

        @param name: of a figure, or of the processor time beside it.
        """
        runs = self._runs.get((workload, peer), [])
        return [run[name] for run in runs if run is not None and name in run]

    def ratio(self, workload: Workload, peer: str, figure: Figure) -> float | None:
        """
        Compare with the workload's reference, round by round.

        @return: the median of how many times better; None if they never ran in
            one round.
        """
        ratios = [
            run[figure.name] / other[figure.name]
            if figure.higher
            else other[figure.name] / run[figure.name]
            for run, other in zip(
                self._runs.get((workload.name, peer), []),
                self._runs.get((workload.name, workload.reference), []),
                strict=False,
            )
            if run is not None and other is not None
            if run[figure.name] > 0 and other[figure.name] > 0
        ]
        return median(ratios) if ratios else None

    def table(self) -> str:
        """Write all medians, ranges and ratios as Markdown."""
        lines = self._summary()
        for workload in self.workloads:
            for figure in workload.figures:
                lines += self._section(workload, figure)
        return "\n".join(lines)

    def write(self, folder: Path, rounds: int, seconds: float) -> None:
        """
        Write C{RESULTS.md}.

        @param folder: where.
        @param rounds: how many were run.
        @param seconds: how long a run measured, about.
        """
        load = os.getloadavg()[1]
        notes = [
            f"{rounds} round{'s' if rounds > 1 else ''}, {seconds:g} s for each run, "
            f"load average {load:.1f}."
        ]
        if any(workload.many for workload in self.workloads):
            notes.append("What is about many connections was run once.")
        if seconds < SECONDS:
            notes.append("That is little: rough figures.")
        if load > 2 * (os.cpu_count() or 1):
            notes.append("The machine did other work as well: rough figures.")
        text = [
            "# Results",
            "",
            f"`python -m benchmarks` on {date.today()}, on {_machine()}. "
            f"{' '.join(notes)}",
            "",
            ", ".join(f"{name} {version(name)}" for name in _PACKAGES) + ".",
            "",
            "Each figure is the median of all rounds, with the least and the most "
            "behind it. The ratio says how many times better than Twisted over "
            "TLS 1.3, for requests than AMP over that, and is the median of the "
            "ratios within each round. CPU is the "
            "processor time of each process in µs for one message, connection or "
            "round trip: the median of all rounds.",
            "",
            self.table(),
        ]
        (folder / "RESULTS.md").write_text("\n".join(text), encoding="utf-8")

    def _section(self, workload: Workload, figure: Figure) -> list[str]:
        """Write one figure of one workload."""
        label = f": {figure.label}" if figure.label else ""
        columns = [figure.unit, "range", "ratio"]
        if workload.trip:
            columns.append("in round trips")
        sides = [
            side
            for side in ("server", "client")
            if any(
                self.values(workload.name, peer, f"{figure.name}.{side}")
                for peer in self.peers
            )
        ]
        columns += [f"CPU of {side}" for side in sides]
        lines = [
            f"## {workload.title}{label}",
            "",
            _row(["peer", *columns]),
            _row(["---", *["---:"] * len(columns)]),
        ]
        for peer, name in self.peers.items():
            if (workload.name, peer) not in self._runs:
                continue
            values = self.values(workload.name, peer, figure.name)
            if not values:
                lines.append(_row([name, "failed", *[""] * (len(columns) - 1)]))
                continue
            cells = [
                show(median(values)),
                f"{show(min(values))} to {show(max(values))}",
                self._ratio(workload, peer, figure),
            ]
            if workload.trip:
                cells.append(f"{median(values) / workload.trip:.2f}")
            for side in sides:
                times = self.values(workload.name, peer, f"{figure.name}.{side}")
                cells.append(show(median(times)) if times else "")
            lines.append(_row([name, *cells]))
        return [*lines, ""]

    def _summary(self) -> list[str]:
        """Write the ratios of what all peers do."""
        shown = [workload for workload in self.workloads if workload.main]
        if REFERENCE not in self.peers or not shown:
            return []
        lines = [
            f"## Times better than {NAMES[REFERENCE]}",
            "",
            _row(["peer", *(workload.title for workload in shown)]),
            _row(["---", *["---:"] * len(shown)]),
        ]
        for peer in self.taking(shown):
            if peer != REFERENCE:
                cells = [self._ratio(each, peer, each.figures[0]) for each in shown]
                lines.append(_row([self.peers[peer], *cells]))
        return [*lines, ""]

    def _ratio(self, workload: Workload, peer: str, figure: Figure) -> str:
        """Write a ratio, or nothing."""
        ratio = self.ratio(workload, peer, figure)
        return "" if ratio is None else f"{ratio:.2f}"


def _row(cells: Sequence[str]) -> str:
    """Write a row of a table."""
    return f"| {' | '.join(cells)} |"


def show(value: float) -> str:
    """
    Write a number with three digits that count.

    @param value: the number.
    """
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _machine() -> str:
    """Say what the machine is."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}"
    )
