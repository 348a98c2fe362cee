"""
The other end of a server's control socket::

    answer = ask(path, {"command": "status"})

It waits, and needs no reactor: a command has one thing to ask.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
from pathlib import Path
from typing import Any

CONTROL_FILE = "control.sock"  # in the state directory
PATIENCE = 30.0  # seconds until the next piece of an answer is waited for no more


class NotDone(Exception):
    """A server has not done what it was asked for; says why."""


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request, and wait for the answer; C{NotDone} if there is none."""
    other = "name its control socket with --control PATH, as it was started with"
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE)
            asking.connect(os.fspath(path))
            with asking.makefile("rwb") as file:
                file.write(json.dumps(request).encode("ascii") + b"\n")
                file.flush()
                line = file.readline()
        answer = json.loads(line)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotDone(f"no server is at {shlex.quote(str(path))}; {other}") from None
    except OSError as error:
        raise NotDone(
            f"cannot ask the server at {shlex.quote(str(path))}: "
            f"{error.strerror or error}; {other}"
        ) from None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise NotDone(f"the server at {path} hung up, which its log may explain")
    return answer
