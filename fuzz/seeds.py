"""
Write the corpus that the repository has, from real conversations::

    python -m fuzz.seeds

Files that fuzzing has added stay.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from fuzz.targets import NAMES, target

__all__ = ["CORPUS", "inputs"]

CORPUS = Path(__file__).parent / "corpus"


def inputs(name: str) -> list[bytes]:
    """
    Read a target's corpus.

    @param name: the target.
    @return: its inputs, always in the same order.
    """
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def main() -> None:
    """Write the seeds of all targets."""
    for name in NAMES:
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for data in target(name).seeds():
            path = folder / sha256(data).hexdigest()[:16]
            path.write_bytes(data)


if __name__ == "__main__":
    main()
