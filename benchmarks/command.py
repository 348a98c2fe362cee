"""
The command line that all peers share::

    if __name__ == "__main__":
        main(Peer())
"""

from __future__ import annotations

import argparse
import json
import resource
from typing import Any

from benchmarks.client import Task
from benchmarks.server import serve

__all__ = ["main"]


def main(peer: Any) -> None:
    """
    Be a server until ended, or a client that prints its figures as one line of
    JSON.

    @param peer: a peer.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server", "client"])
    parser.add_argument("--directory", required=True)
    parser.add_argument("--kind", help="the workload: a method of Task")
    for number in ("port", "count", "size", "clients", "server-pid"):
        parser.add_argument(f"--{number}", type=int, default=0)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.role == "server":
        peer.run(serve(peer, options.directory))
        return
    task = Task(
        peer,
        options.directory,
        options.port,
        count=options.count,
        size=options.size,
        clients=options.clients,
        serverPid=options.server_pid,
    )
    print(json.dumps(peer.run(getattr(task, options.kind)())), flush=True)
