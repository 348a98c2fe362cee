"""
C{python -m benchmarks}: let the peers take turns, and say how they did.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.credentials import writeCredentials
from benchmarks.picture import draw
from benchmarks.processes import RunFailed, runOnce
from benchmarks.report import NAMES, Results
from benchmarks.workloads import QUICK, WORKLOADS, Workload

FOLDER = Path(__file__).parent


def main() -> None:
    """Parse the command line, run, write and print."""
    options = _options()
    workloads = [w for w in WORKLOADS if not options.only or w.name in options.only]
    if options.quick:
        workloads = [w.divided(QUICK) for w in workloads if options.only or not w.huge]
    results = Results(options.peers or list(NAMES), workloads)
    with tempfile.TemporaryDirectory() as directory:
        writeCredentials(Path(directory))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for workload in workloads:
                peers = options.peers or workload.peers or list(NAMES)
                _round(results, workload, peers, Path(directory))
    options.output.mkdir(parents=True, exist_ok=True)
    results.write(options.output, options.rounds, options.quick)
    draw(results, options.output / "results.svg")
    print()
    print(results.table())


def _round(
    results: Results, workload: Workload, peers: Sequence[str], directory: Path
) -> None:
    """Let each peer do a workload once."""
    for peer in peers:
        try:
            figures = runOnce(peer, workload, directory)
        except RunFailed as failed:
            print(f"{workload.name} {peer} failed: {failed}", flush=True)
            results.add(workload.name, peer, None)
            continue
        results.add(workload.name, peer, figures)
        shown = ", ".join(f"{name} {value:,.1f}" for name, value in figures.items())
        print(f"{workload.name} {peer}: {shown}", flush=True)


def _options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only",
        type=_names({workload.name for workload in WORKLOADS}),
        help=f"some of {','.join(workload.name for workload in WORKLOADS)}",
    )
    parser.add_argument(
        "--peers", type=_names(set(NAMES)), help=f"some of {','.join(NAMES)}"
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work")
    parser.add_argument("--output", type=Path, default=FOLDER, help="a folder")
    return parser.parse_args()


def _names(known: set[str]) -> Callable[[str], list[str]]:
    """
    Make a parser of names with commas between them.

    @param known: the names there are.
    """

    def parse(text: str) -> list[str]:
        """@raise argparse.ArgumentTypeError: there is no such name."""
        names = text.split(",")
        unknown = set(names) - known
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}")
        return names

    return parse


if __name__ == "__main__":
    main()
