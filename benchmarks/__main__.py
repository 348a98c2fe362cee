"""
C{python -m benchmarks}: let the peers take turns, and say how they did.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.command import BUILDS
from benchmarks.credentials import writeCredentials
from benchmarks.picture import draw
from benchmarks.processes import RunFailed, build, runOnce
from benchmarks.report import NAMES, Results, show
from benchmarks.workloads import QUICK, SECONDS, WORKLOADS, Workload

FOLDER = Path(__file__).parent


def main() -> None:
    """Parse the command line, run, write and print."""
    options = _options()
    workloads = [w for w in WORKLOADS if not options.only or w.name in options.only]
    seconds = options.seconds / QUICK if options.quick else options.seconds
    if options.quick and not options.only:
        workloads = [workload for workload in workloads if not workload.many]
    names = _named(options.peers or list(NAMES))
    results = Results(names, workloads)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        writeCredentials(Path(directory))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for workload in workloads:
                if workload.many and number:
                    continue
                peers = options.peers or workload.peers or names
                peers = [p for p in peers if p in names and workload.suits(p)]
                _round(results, workload, peers, Path(directory), seconds)
            # After each round, so that a run that is cut short is not for nothing.
            results.write(options.output, number + 1, seconds)
            draw(results, options.output)
    print()
    print(results.table())


def _named(peers: Sequence[str]) -> dict[str, str]:
    """
    Say how people read peers, with what aesm is there.

    @return: the names by peer; without C{aesmpure} if there is nothing but pure Python.
    @raise SystemExit: it is not what it says.
    """
    builds = {peer: build(peer) for peer in peers if peer.startswith("aesm")}
    pure = BUILDS[0]
    if builds.get("aesmpure", pure) != pure:
        raise SystemExit("aesmpure loads what is compiled")
    if "aesmpure" in builds and build("aesm") == pure:
        print("aesm is not compiled here, so aesmpure is left out")
        peers = [peer for peer in peers if peer != "aesmpure"]
    return {
        peer: f"{NAMES[peer]}, {builds[peer]}" if peer in builds else NAMES[peer]
        for peer in peers
    }


def _round(
    results: Results,
    workload: Workload,
    peers: Sequence[str],
    directory: Path,
    seconds: float,
) -> None:
    """Let each peer do a workload once."""
    for peer in peers:
        said = f"{workload.title}: {results.peers[peer]}:"
        try:
            figures = runOnce(peer, workload, directory, seconds)
        except RunFailed as failed:
            print(f"{said} failed: {failed}", flush=True)
            results.add(workload.name, peer, None)
            continue
        results.add(workload.name, peer, figures)
        shown = [f"{show(figures[each.name])} {each.unit}" for each in workload.figures]
        print(said, ", ".join(shown), flush=True)


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
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="that a run measures for"
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of that")
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
