"""
Running one server and one client, bounded in time::

    figures = runOnce("twistedtls", workload, directory, seconds=1.0)

All processes of a round have the aesm that is installed, be it this folder's or not.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.workloads import Workload

__all__ = ["RunFailed", "build", "runOnce"]

START_TIMEOUT = 30.0  # seconds until a server listens
RUN_TIMEOUT = 240.0  # seconds that a client has
END_TIMEOUT = 10.0  # seconds from the signal to the end

# Modules are looked for in this folder last: what is installed may be compiled, and has
# its sources here as well.
_LAUNCH = f"""
import runpy, sys
sys.path.append({str(Path(__file__).parent.parent)!r})
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class RunFailed(Exception):
    """A peer did not finish; says which process said what."""


def build(peer: str) -> str:
    """
    Say how aesm was built, as a process of a peer has it.

    @param peer: the name of its module.
    @return: one of L{benchmarks.command.BUILDS}; empty for a peer without aesm.
    @raise RunFailed: it cannot be run.
    """
    process = subprocess.run(
        [*_command(f"benchmarks.peers.{peer}"), "build"], capture_output=True, text=True
    )
    if process.returncode:
        raise RunFailed(process.stderr.strip()[-2000:])
    return process.stdout.strip()


def runOnce(
    peer: str, workload: Workload, directory: Path, seconds: float
) -> dict[str, float]:
    """
    Do one workload with one peer.

    @param peer: the name of its module.
    @param workload: what to do.
    @param directory: where the credentials are.
    @param seconds: how long to measure, about.
    @return: the figures by name.
    @raise RunFailed: it failed, or took too long.
    """
    cores = os.sched_getaffinity(0)
    if workload.oneCore:
        cores = {max(cores)}
    module = f"benchmarks.peers.{peer}"
    with ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[str]:
            """Start a process, which ends with the others."""
            return stack.enter_context(_started(cores, words))

        server = start(module, "server", f"--directory={directory}")
        numbers: dict[str, Any] = {
            "directory": directory,
            "kind": workload.kind,
            "seconds": seconds,
            "size": workload.size,
            "clients": workload.clients,
            "server-pid": server.pid,
        }
        words = [f"--{name}={value}" for name, value in numbers.items()]
        client = start(module, "client", *words)  # loads what it needs meanwhile
        port = _firstLine(server)
        if workload.trip:
            port = _firstLine(start("benchmarks.delay", port, str(workload.trip)))
        try:
            output, errors = client.communicate(port + "\n", RUN_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"not done in {RUN_TIMEOUT:g} seconds") from None
    try:
        figures: dict[str, float] = json.loads(output)
    except ValueError:
        raise RunFailed(errors.strip()[-2000:]) from None
    if not figures:
        raise RunFailed(errors.strip()[-2000:])
    return figures


def _command(module: str) -> list[str]:
    """Say how a process with a module is started."""
    return [sys.executable, "-P", "-c", _LAUNCH, module]


@contextmanager
def _started(
    cores: Collection[int], words: tuple[str, ...]
) -> Iterator[subprocess.Popen[str]]:
    """
    Start a process, and end it if it has not ended.

    @param cores: where it may run.
    @param words: its module and command line.
    """
    process = subprocess.Popen(
        [*_command(words[0]), *words[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if "client" in words else subprocess.DEVNULL,
        text=True,
    )
    with process:  # which closes the pipes
        os.sched_setaffinity(process.pid, cores)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _firstLine(server: subprocess.Popen[str]) -> str:
    """
    Wait until a server says where it listens.

    @raise RunFailed: it does not.
    """
    stdout: Any = server.stdout
    ready, _, _ = select.select([stdout], [], [], START_TIMEOUT)
    line: str = stdout.readline().strip() if ready else ""
    if not line:
        raise RunFailed("the server does not listen")
    return line
