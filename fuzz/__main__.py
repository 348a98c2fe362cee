"""
Fuzz one target, guided by the coverage of C{aesm}, or all, as many at a time as there
are processors; or tell what the corpus reaches::

    python -m fuzz TARGET [libFuzzer's options]
    python -m fuzz --all [libFuzzer's options]
    python -m fuzz --coverage [TARGET ...]

@see: U{https://github.com/google/atheris} and
    U{https://llvm.org/docs/LibFuzzer.html}
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

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
    if name == "--all":
        sys.exit(fuzzAll(arguments))
    if name not in NAMES:
        sys.exit(
            "usage: python -m fuzz TARGET|--all [options], or python -m fuzz "
            f"--coverage [TARGET ...]; targets: {' '.join(NAMES)}"
        )
    fuzz(name, arguments)


def fuzzAll(arguments: list[str]) -> str | None:
    """
    Fuzz each target in a process of its own, and print what these have to say.

    @param arguments: libFuzzer's.
    @return: which have failed, or None.
    """

    def run(name: str) -> subprocess.CompletedProcess[str]:
        """Fuzz one."""
        command = [sys.executable, "-m", "fuzz", name, *arguments]
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, done in zip(NAMES, pool.map(run, NAMES), strict=True):
            print(f"{name}:\n{done.stdout}", flush=True)
            if done.returncode:
                failed.append(name)
    return f"failed: {' '.join(failed)}" if failed else None


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
