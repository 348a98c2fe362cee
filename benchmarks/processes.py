"""
Running one server and one client, bounded in time::

    figures = runOnce("twistedtls", workload, directory)
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.workloads import Workload

__all__ = ["RunFailed", "runOnce"]

START_TIMEOUT = 30.0  # seconds until a server listens
RUN_TIMEOUT = 240.0  # seconds that a client has
END_TIMEOUT = 10.0  # seconds from the signal to the end


class RunFailed(Exception):
    """A peer did not finish; says which process said what."""


def runOnce(peer: str, workload: Workload, directory: Path) -> dict[str, float]:
    """
    Do one workload with one peer.

    @param peer: the name of its module.
    @param workload: what to do.
    @param directory: where the credentials are.
    @return: the figures by name.
    @raise RunFailed: it failed, or took too long.
    """
    cores = os.sched_getaffinity(0)
    if workload.oneCore:
        cores = {max(cores)}
    server = _start(cores, peer, "server", directory)
    try:
        numbers: dict[str, Any] = {
            "kind": workload.kind,
            "port": _firstLine(server),
            "count": workload.count,
            "size": workload.size,
            "clients": workload.clients,
            "server-pid": server.pid,
        }
        words = [f"--{name}={value}" for name, value in numbers.items()]
        client = _start(cores, peer, "client", directory, words)
        try:
            output, errors = client.communicate(timeout=RUN_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"not done in {RUN_TIMEOUT:g} seconds") from None
        finally:
            _end(client)
    finally:
        _end(server)
    try:
        figures: dict[str, float] = json.loads(output)
    except ValueError:
        raise RunFailed(errors.strip()[-2000:]) from None
    if not figures:
        raise RunFailed(errors.strip()[-2000:])
    return figures


def _start(
    cores: set[int],
    peer: str,
    role: str,
    directory: Path,
    words: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """
    Start a process.

    @param cores: where it may run.
    """
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            f"benchmarks.peers.{peer}",
            role,
            f"--directory={directory}",
            *words,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if role == "server" else subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    os.sched_setaffinity(process.pid, cores)
    return process


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


def _end(process: subprocess.Popen[str]) -> None:
    """End a process, if it has not ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
