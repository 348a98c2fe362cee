"""
aesm where parts of it are compiled, without these: the same installation, of which
only the C{.py} files are loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import (
    SOURCE_SUFFIXES,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)

from benchmarks.command import main

__all__ = ["SourceFinder"]


class SourceFinder:
    """Finds a package's C{.py} files, before others find what stands beside them."""

    def __init__(self, package: str) -> None:
        """@param package: its name."""
        self._package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """
        Find a module.

        @param name: its full name.
        @param path: where to look; None for wherever modules are.
        @return: where it is; None if it is no part of the package.
        """
        if name.partition(".")[0] != self._package:
            return None
        for folder in sys.path if path is None else path:
            finder = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))
            spec = finder.find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, SourceFinder("aesm"))
    from benchmarks.peers.aesm import PEER

    main(PEER)
