"""
The picture for the README: how many times better than Twisted over TLS 1.3.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

from benchmarks.report import NAMES, REFERENCE, Results

matplotlib.use("svg")

from matplotlib import pyplot

__all__ = ["draw"]

COLUMNS = 4
OWN, OTHERS, NONE = "#1f6feb", "#9aa4af", "#d0d7de"


def draw(results: Results, file: Path) -> None:
    """
    Draw one small chart for each workload, the first figure of each.

    @param results: what was measured.
    @param file: where to, as SVG.
    """
    shown = [
        (workload, workload.figures[0])
        for workload in results.workloads
        if not workload.peers
    ]
    if not shown:
        return
    pyplot.rcParams.update(
        {"font.size": 7, "svg.hashsalt": "aesm", "axes.titlesize": 8}
    )
    rows = -(-len(shown) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(9, 2.1 * rows), sharey=True, squeeze=False
    )
    peers = list(reversed(results.peers))
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, (workload, kind) in zip(axes.flat, shown, strict=False):
        ratios = [results.ratio(workload.name, peer, kind) or 0 for peer in peers]
        colours = [OWN if peer == "aesm" else OTHERS for peer in peers]
        bars = axis.barh([NAMES[peer] for peer in peers], ratios, color=colours)
        axis.bar_label(bars, [f" {ratio:.2g}" if ratio else " ?" for ratio in ratios])
        axis.axvline(1, color=NONE, linewidth=0.8, zorder=0)
        axis.set_title(f"{workload.name}\n{workload.text}")
        axis.set_xlim(0, max([*ratios, 1]) * 1.2)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.suptitle(f"times better than {NAMES[REFERENCE]}; longer is better")
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
