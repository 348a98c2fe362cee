"""
What command lines say of a cluster's engine, for nodes and for those who look on::

    optParameters = [*ENGINE_OPTIONS, ...]
    engineOf(self, reactor, node)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.python import usage

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from aesm.cluster.engine import Engine

__all__ = ["ENGINE_OPTIONS", "engineOf"]

# For C{optParameters} of C{usage.Options}.
ENGINE_OPTIONS = [
    [
        "cluster",
        None,
        None,
        "Redis in which the nodes of a cluster keep their sessions: redis://HOST:PORT, "
        "rediss://, redis+unix:///PATH or redis+sentinel://HOST,HOST,HOST/NAME.",
    ],
    ["cluster-name", None, "aesm", "What the cluster is called there."],
    ["cluster-password", None, None, "File of the engine's password, mode 0600."],
]


def engineOf(options: Mapping[str, Any], reactor: IReactorTime, node: str) -> Engine:
    """
    Make the connection to the engine that options name; it is not started.

    @param node: as L{Engine}.
    @raise KeyFileError: the password's file cannot be used.
    @raise usage.UsageError: an option is wrong, or the extra is not installed.
    """
    # Here, since it loads slowly, for who has no cluster.
    from aesm.cluster.address import EngineAddress
    from aesm.cluster.engine import Engine
    from aesm.cluster.opening import checkName, readPassword

    password = options["cluster-password"]
    try:
        checkName(options["cluster-name"])
        return Engine(
            reactor,
            EngineAddress.parse(options["cluster"]),
            options["cluster-name"],
            node,
            password=None if password is None else readPassword(password),
        )
    except ImportError as error:
        raise usage.UsageError(
            f"--cluster: there is no {error.name}: pip install 'aesm[cluster]'"
        ) from None
    except ValueError as error:
        raise usage.UsageError(f"--cluster: {error}") from None
