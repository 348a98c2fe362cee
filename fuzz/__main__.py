"""
Fuzz one target, guided by the coverage of C{aesm}::

    python -m fuzz TARGET [libFuzzer's options]

@see: U{https://github.com/google/atheris} and
    U{https://llvm.org/docs/LibFuzzer.html}
"""

from __future__ import annotations

import sys
import tempfile

import atheris

from fuzz.targets import NAMES

with atheris.instrument_imports(include=["aesm"]):
    from fuzz.seeds import CORPUS
    from fuzz.targets import target


def main() -> None:
    """Run libFuzzer; it ends the process."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in NAMES:
        sys.exit(f"usage: python -m fuzz TARGET [options]; targets: {' '.join(NAMES)}")
    name = arguments.pop(0)
    with atheris.instrument_imports(include=["aesm"]):
        run = target(name).run
    folders = (
        []
        if any(a[0] != "-" for a in arguments)
        else [
            tempfile.mkdtemp(prefix=f"aesm-fuzz-{name}-"),
            str(CORPUS / name),
        ]
    )
    atheris.Setup([sys.argv[0], *arguments, *folders], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
