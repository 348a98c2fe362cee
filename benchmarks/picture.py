"""
The picture for the README: what encrypted peers do in four workloads.  It is drawn
twice, since what can be read on white cannot on black.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib

from benchmarks.report import Results, show
from benchmarks.workloads import WORKLOADS, Workload

matplotlib.use("svg")

from matplotlib import pyplot

__all__ = ["draw"]

PANELS = {  # by workload: the title, and what the figure is divided by
    "small": ("Messages of 64 B a second", 1),
    "pingpong": ("Round trip of 64 B, µs", 1),
    "connect50": ("New connections a second, 50 at once", 1),
    "idle": ("Memory of an idle connection, KB", 1000),
}
IN_CLEAR = ("twistedplain", "zeromq")
# By file: of text, of aesm's bars, of the others'.
COLOURS = {
    "results.svg": ("#1f2328", "#0969da", "#afb8c1"),
    "results-dark.svg": ("#e6edf3", "#58a6ff", "#545d68"),
}


def draw(results: Results, folder: Path) -> None:
    """
    Draw a chart for each of the L{PANELS} that were measured.

    @param results: what was measured.
    @param folder: where the SVG files go to.
    """
    shown = [each for each in WORKLOADS if each.name in PANELS]
    shown = [each for each in shown if each in results.workloads]
    if shown:
        for file, colours in COLOURS.items():
            _draw(results, shown, folder / file, *colours)


def _draw(
    results: Results,
    shown: list[Workload],
    file: Path,
    text: str,
    own: str,
    others: str,
) -> None:
    """Draw once, in these colours."""
    pyplot.rc("svg", hashsalt="aesm", fonttype="none")  # text that stays text
    pyplot.rc("font", size=10)
    pyplot.rc("text", color=text)
    pyplot.rc("ytick", color=text)
    pyplot.rc("axes", edgecolor=text, labelcolor=text)
    peers = [each for each in reversed(results.taking(shown)) if each not in IN_CLEAR]
    rows = -(-len(shown) // 2)
    height = rows * (0.9 + 0.23 * len(peers))
    picture, axes = pyplot.subplots(
        rows, 2, figsize=(10, height), sharey=True, squeeze=False
    )
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, workload in zip(axes.flat, shown, strict=False):
        title, divisor = PANELS[workload.name]
        figure = workload.figures[0]
        runs = [results.values(workload.name, peer, figure.name) for peer in peers]
        values = [median(run) / divisor if run else 0 for run in runs]
        colours = [own if peer.startswith("aesm") else others for peer in peers]
        bars = axis.barh([results.peers[peer] for peer in peers], values, color=colours)
        axis.bar_label(bars, [f" {show(v)}" if v else " ?" for v in values])
        axis.set_title(title, loc="left", size=11, weight="bold")
        better = "longer" if figure.higher else "shorter"
        axis.set_xlabel(f"{better} is better", loc="left")
        axis.set_xlim(0, max([*values, 1e-9]) * 1.25)
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    picture.tight_layout()
    picture.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(picture)
