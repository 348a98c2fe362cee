"""
The command line that all peers share::

    if __name__ == "__main__":
        main(Peer())
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from typing import Any

from benchmarks.client import Task
from benchmarks.server import serve

__all__ = ["BUILDS", "HOST", "main"]

HOST = "localhost"  # whom the TLS certificate is for
BUILDS = ("pure Python", "compiled")  # what aesm can be


def main(peer: Any) -> None:
    """
    Be a server until ended, or a client that prints its figures as one line of
    JSON, or say how what this peer has of aesm was built.

    @param peer: a peer.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server", "client", "build"])
    parser.add_argument("--directory", default=".", help="where the credentials are")
    parser.add_argument("--kind", help="the workload: a method of Task")
    parser.add_argument("--seconds", type=float)
    for number in ("size", "clients", "server-pid"):
        parser.add_argument(f"--{number}", type=int)
    options = parser.parse_args()
    if options.role == "build":
        print(_build())
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.role == "server":
        peer.run(serve(peer, options.directory))
        return
    task = Task(
        peer,
        options.directory,
        int(sys.stdin.readline()),  # the port, once everything is loaded
        seconds=options.seconds,
        size=options.size,
        clients=options.clients,
        serverPid=options.server_pid,
    )
    print(json.dumps(peer.run(getattr(task, options.kind)())), flush=True)


def _build() -> str:
    """Say which modules of aesm were loaded: one of L{BUILDS}, or nothing."""
    files = [
        str(module.__file__)
        for name, module in sys.modules.items()
        if name.startswith("aesm.")
    ]
    return BUILDS[any(not file.endswith(".py") for file in files)] if files else ""
