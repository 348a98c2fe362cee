"""
Fuzz one target, guided by the coverage of C{aesm}; or tell what the corpus reaches::

    python -m fuzz TARGET [libFuzzer's options]
    python -m fuzz --coverage [TARGET ...]

@see: U{https://github.com/google/atheris} and
    U{https://llvm.org/docs/LibFuzzer.html}
"""

from __future__ import annotations

import sys
import tempfile

from twisted.logger import globalLogBeginner

from fuzz.targets import NAMES


def main() -> None:
    """Do what the command line says."""
    name, *arguments = sys.argv[1:] or [""]
    # What is logged is for the targets; some have applications that fail.
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    if name == "--coverage" and set(arguments) <= set(NAMES):
        # Not before: nothing of aesm may be imported yet, nor is atheris needed.
        from fuzz.reach import report

        sys.exit(report(arguments))
    if name not in NAMES:
        sys.exit(
            "usage: python -m fuzz TARGET [options], or python -m fuzz --coverage "
            f"[TARGET ...]; targets: {' '.join(NAMES)}"
        )
    fuzz(name, arguments)


def fuzz(name: str, arguments: list[str]) -> None:
    """
    Run libFuzzer; it ends the process.

    @param name: the target.
    @param arguments: libFuzzer's.
    """
    import atheris

    with atheris.instrument_imports(include=["aesm"]):
        from fuzz.seeds import CORPUS
        from fuzz.targets import target

        run = target(name).run
    folders = (
        []
        if any(a[0] != "-" for a in arguments)
        else [
            tempfile.mkdtemp(prefix=f"aesm-fuzz-{name}-"),
            str(CORPUS / name),
        ]
    )
    # A disk without room is made by a limit on the size of files, whose signal Python
    # ignores and libFuzzer would take for a crash.
    options = ["-handle_xfsz=0", *arguments]
    atheris.Setup([sys.argv[0], *options, *folders], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
