"""
From what was measured to what people read::

    results.add("small", "aesm", {"rate": 1e6})
    print(results.table())
    results.write(folder)
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.workloads import Figure, Workload

__all__ = ["NAMES", "REFERENCE", "Results"]

REFERENCE = "twistedtls"

NAMES = {  # the peers in the order that they take turns in
    "twistedtls": "Twisted, TLS 1.3",
    "aesm": "aesm",
    "aesmstream": "aesm as a byte stream",
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

    def __init__(self, peers: Sequence[str], workloads: Sequence[Workload]) -> None:
        """
        Start with nothing.

        @param peers: who takes part.
        @param workloads: what is done.
        """
        self.peers = peers
        self.workloads = workloads
        self._runs: dict[tuple[str, str], list[dict[str, float] | None]] = {}

    def add(self, workload: str, peer: str, figures: dict[str, float] | None) -> None:
        """Take down one run; None for one that failed."""
        self._runs.setdefault((workload, peer), []).append(figures)

    def values(self, workload: str, peer: str, figure: Figure) -> list[float]:
        """List what the runs that did not fail gave."""
        runs = self._runs.get((workload, peer), [])
        return [run[figure.name] for run in runs if run is not None]

    def ratio(self, workload: str, peer: str, figure: Figure) -> float | None:
        """
        Compare with the reference, round by round.

        @return: the median of how many times better; None if they never ran in
            one round.
        """
        ratios = [
            run[figure.name] / other[figure.name]
            if figure.higher
            else other[figure.name] / run[figure.name]
            for run, other in zip(
                self._runs.get((workload, peer), []),
                self._runs.get((workload, REFERENCE), []),
                strict=False,
            )
            if run is not None and other is not None
            if run[figure.name] > 0 and other[figure.name] > 0
        ]
        return median(ratios) if ratios else None

    def table(self) -> str:
        """Write all medians, ranges and ratios as Markdown."""
        lines: list[str] = []
        for workload in self.workloads:
            for figure in workload.figures:
                lines += self._section(workload, figure)
        return "\n".join(lines)

    def write(self, folder: Path, rounds: int, quick: bool) -> None:
        """
        Write C{RESULTS.md}.

        @param folder: where.
        @param rounds: how many were run.
        @param quick: whether it was little work.
        """
        load = os.getloadavg()[1]
        notes = [f"{rounds} round{'s' if rounds > 1 else ''}, load average {load:.1f}."]
        if quick:
            notes.append("A twentieth of the work (`--quick`): rough figures.")
        if load > (os.cpu_count() or 1):
            notes.append("The machine did other work as well: rough figures.")
        text = [
            "# Results",
            "",
            f"`python -m benchmarks` on {_machine()}. {' '.join(notes)}",
            "",
            ", ".join(f"{name} {version(name)}" for name in _PACKAGES) + ".",
            "",
            "Each figure is the median of all rounds, with the least and the most "
            "behind it. The ratio says how many times better than Twisted over "
            "TLS 1.3, and is the median of the ratios within each round.",
            "",
            self.table(),
        ]
        (folder / "RESULTS.md").write_text("\n".join(text), encoding="utf-8")

    def _section(self, workload: Workload, figure: Figure) -> list[str]:
        """Write one figure of one workload."""
        label = f", {figure.label}" if figure.label else ""
        lines = [
            f"## {workload.name}: {workload.text}{label}",
            "",
            f"| peer | {figure.unit} | range | ratio |",
            "| --- | ---: | ---: | ---: |",
        ]
        for peer in self.peers:
            values = self.values(workload.name, peer, figure)
            if (workload.name, peer) not in self._runs:
                continue
            if not values:
                lines.append(f"| {NAMES[peer]} | failed | | |")
                continue
            ratio = self.ratio(workload.name, peer, figure)
            lines.append(
                f"| {NAMES[peer]} | {_show(median(values))} | {_show(min(values))} to "
                f"{_show(max(values))} | {'' if ratio is None else f'{ratio:.2f}'} |"
            )
        return [*lines, ""]


def _show(value: float) -> str:
    """Write a number with three digits that count."""
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
