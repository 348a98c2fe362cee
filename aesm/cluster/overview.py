"""
How a cluster is, for who looks on, and what is to become of its nodes::

    engine = Engine(reactor, address, "chat", "")
    await engine.start()
    await overviewOf(engine)        # what JSON can say
    await drain(engine, "one")      # which node it is

What nodes say of themselves they say with each lease, and the engine counts the rest as
it goes: a look costs it the same with any number of sessions.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aesm.cluster.scripts import DRAIN, OVERVIEW
from aesm.text import escape

if TYPE_CHECKING:
    from aesm.cluster.engine import Engine

MOST = 1000  # nodes that are told of

# What it is called, where INFO has it, and what it is.
_OF_ENGINE = (
    ("version", "redis_version", str),
    ("role", "role", str),
    ("replicas", "connected_slaves", int),
    ("bytes", "used_memory", int),
    ("maxBytes", "maxmemory", int),
    ("appendOnly", "aof_enabled", lambda word: word == "1"),
)
# Of what a node says, this is told, with null where it says nothing of it.
_OF_NODE = ("version", "host", "pid", "sync", "connections", "waiting")


async def overviewOf(engine: Engine) -> dict[str, Any]:
    """
    Say how the cluster is.

    @param engine: can be used, by a node or who looks on.
    @return: as docs/operating.md lists it.
    @raise SpoolError: that cannot be known now.
    """
    time, meta, waiting, unread, entries, *nodes = await engine.call(OVERVIEW, MOST)
    looking, calm, position, held, inlets = (int(field or 0) for field in meta)
    return {
        "time": time / 1000,
        "epoch": engine.epoch,
        "engine": {
            name: kind(engine.info.get(field, "0")) for name, field, kind in _OF_ENGINE
        },
        "nodes": [_node(time, position, *node) for node in sorted(nodes)],
        "waiting": waiting,
        "unread": unread,
        "inletBytes": inlets,
        "log": {"position": position, "entries": entries, "bytes": held},
        "looking": max(0, looking - time) / 1000,
        "calm": max(0, calm - time) / 1000,
    }


def _node(
    time: int,
    position: int,
    name: bytes,
    until: bytes,
    sessions: int,
    said: bytes,
    isDraining: int,
) -> dict[str, Any]:
    """Say how a node is, by the engine's time and the last position in the log."""
    says: Any = {}
    with suppress(ValueError):
        says = json.loads(said)
    if not isinstance(says, dict):
        says = {}
    read = says.get("logPosition")
    return {
        "node": name.decode("utf-8", "replace"),
        "lease": (float(until) - time) / 1000,
        "draining": bool(isDraining or says.get("stopping")),
        "sessions": sessions,
        **{field: says.get(field) for field in _OF_NODE},
        "logLag": position - read if isinstance(read, int) else None,
    }


async def drain(engine: Engine, node: str) -> str:
    """
    Have a node end, clients first: now, or when it next renews its lease.

    @param engine: as C{overviewOf}.
    @param node: what the engine calls it, or what its operator does, which may be
        without what its process has added.
    @return: what the engine calls it.
    @raise LookupError: there is no such node, or there are several; says which.
    @raise SpoolError: that cannot be known now.
    """
    nodes = (await overviewOf(engine))["nodes"]
    alive = [each["node"] for each in nodes if each["lease"] >= 0]
    found = [each for each in alive if node in (each, each.rpartition("-")[0])]
    if len(found) > 1 and node not in found:
        raise LookupError(f"give one of these nodes: {', '.join(map(escape, found))}")
    chosen = node if node in found else found[0] if found else node
    if not await engine.call(DRAIN, chosen):
        raise LookupError(
            f"there is no node {node!r}, or it is not there any more; `aesm cluster "
            "status` shows those that are"
        )
    return chosen
