"""
What the corpus reaches of C{aesm}, counted in lines: a table of the targets, and one of
the packages, some of which have a least share::

    python -m fuzz --coverage
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from coverage import Coverage

from fuzz.seeds import CORPUS, inputs
from fuzz.targets import NAMES, target

__all__ = ["LEAST", "report"]

LEAST = 80  # percent of the lines of each of these, by all targets together
SHELLS = ("secure", "messages", "server", "store", "client")
# What hears nothing from clients, but from processes of the server's own user (and
# finds their sockets, and what they have left), or from an engine: told of by itself.
APART = (
    "secure/listening.py",
    "server/handover.py",
    *(f"server/{name}.py" for name in ("cluster", "draining", "inlets", "reading")),
    *(f"store/{name}.py" for name in ("counting", "entries", "following", "log")),
    *(f"store/{name}.py" for name in ("logged", "replicated", "telling", "undoing")),
)
TOP = 4  # packages to show for a target


def report(names: Sequence[str] = ()) -> int:
    """
    Run the corpus, and print what it reaches.

    @param names: the targets; none for all, of which alone something is expected.
    @return: the exit status: 1 if a shell's share is too small.
    """
    assert "aesm" not in sys.modules, "its imports have to be measured, too"
    measured = Coverage(data_file=None, config_file=False, source_pkgs=["aesm"])
    measured.start()
    for name in names or NAMES:
        measured.switch_context("")  # what importing reaches is everybody's
        run = target(name).run
        measured.switch_context(name)
        for data in inputs(name):
            run(data)
    measured.stop()
    found = _Lines(measured)
    print(f"{'target':14}inputs{'bytes':>8}{'lines':>7}   most of them in")
    for name in names or NAMES:
        files = list((CORPUS / name).iterdir())
        size = sum(path.stat().st_size for path in files)
        most = sorted(found.of(name).items(), key=lambda item: -item[1])
        packages = ", ".join(f"{package} {count}" for package, count in most[:TOP])
        total = sum(found.of(name).values())
        print(f"{name:14}{len(files):6}{size:8}{total:7}   {packages}")
    print(f"\n{'package':16}{'lines':>6}{'reached':>9}")
    poor = False
    for package, (lines, reached) in found.shares(names or NAMES).items():
        percent = 100 * reached // lines
        isPoor = package in SHELLS and not names and percent < LEAST
        poor |= isPoor
        print(f"{package:16}{lines:6}{percent:8}%{' too few' * isPoor}")
    return int(poor)


class _Lines:
    """The lines of the packages, and who has reached which."""

    def __init__(self, measured: Coverage) -> None:
        """@param measured: what was measured, with a context for each target."""
        self._all: dict[str, set[tuple[str, int]]] = {}
        self._reached: dict[str, dict[str, set[tuple[str, int]]]] = {}
        data = measured.get_data()
        (root,) = cast(Any, find_spec("aesm")).submodule_search_locations
        for path in sorted(data.measured_files()):
            relative = Path(path).relative_to(root)
            isPart = len(relative.parts) > 1 and relative.as_posix() not in APART
            package = relative.parts[0] if isPart else relative.stem
            _, statements, _, _, _ = measured.analysis2(path)
            lines = {(path, line) for line in statements}
            self._all.setdefault(package, set()).update(lines)
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts if (path, line) in lines else ():
                    reached = self._reached.setdefault(context, {})
                    reached.setdefault(package, set()).add((path, line))

    def of(self, name: str) -> dict[str, int]:
        """Count the lines that a target has reached, beside those of imports."""
        imports = self._reached.get("", {})
        return {
            package: len(lines - imports.get(package, set()))
            for package, lines in self._reached.get(name, {}).items()
        }

    def shares(self, names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Count, for each package, the lines that there are and those reached."""
        reached = [self._reached.get(name, {}) for name in ("", *names)]
        return {
            package: (
                len(lines),
                len(set().union(*(each.get(package, set()) for each in reached))),
            )
            for package, lines in self._all.items()
        }
