"""
What an operator sees of a cluster, and has it do, by its engine::

    aesm cluster status --cluster redis://10.0.0.5
    aesm cluster drain NODE --cluster redis://10.0.0.5

Whoever may write to the engine may do all of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import TimeoutError
from twisted.python import usage

from aesm.cluster.lease import RENEWAL, TIME
from aesm.commands.command import Command
from aesm.commands.control import NotDone
from aesm.commands.main import CoroutineRunner
from aesm.commands.options import CLUSTER_OPTIONS, inOptions
from aesm.commands.output import writeLine
from aesm.errors import SpoolError
from aesm.status.units import number, seconds, size
from aesm.text import asciiJSON, escape

if TYPE_CHECKING:
    from aesm.cluster.engine import Engine

PATIENCE = 10.0  # seconds for an engine that starts, or is busy


class ClusterOptions(Command):
    """C{aesm cluster}."""

    synopsis = "status|drain NODE --cluster URL [options]"
    longdesc = (
        "status shows the nodes of a cluster, how many sessions they have, and how its "
        "engine is; with --json it is one object.  drain ends a node, as SIGTERM does: "
        "it lets nobody in any more, and its clients go on at others, --drain-rate of "
        "them a second."
    )
    wrongUsage = 2
    optParameters = CLUSTER_OPTIONS
    optFlags = [["json", None, "Write JSON, one object."]]

    def parseArgs(self, what: str = "", node: str | None = None) -> None:
        """Take what to do, and with which node."""
        if what not in ("status", "drain"):
            raise usage.UsageError("say what: status, or drain NODE")
        if (node is None) != (what == "status"):
            raise usage.UsageError(
                "drain: name a node, as `aesm cluster status` shows it"
                if node is None
                else "status has no argument"
            )
        self.node = node

    def postOptions(self) -> None:
        """Check the options."""
        if self["cluster"] is None:
            raise usage.UsageError("name the engine: --cluster URL")
        if self["json"] and self.node is not None:
            raise usage.UsageError("--json is for status")

    def run(self) -> int:
        """Do it, and return the exit status; C{NotDone} says why it cannot be done."""
        # All of it loads slowly, for who has no cluster.
        from twisted.internet import reactor

        from aesm.cluster.opening import onlooker

        try:
            engine = onlooker(
                self["cluster"],
                name=self["cluster-name"],
                password=self["cluster-password"],
                clock=reactor,
            )
        except ValueError as error:
            raise usage.UsageError(inOptions(str(error), self)) from None
        return CoroutineRunner(reactor).run(lambda: self.runWith(reactor, engine))

    async def runWith(self, reactor: Any, engine: Engine) -> int:
        """Do it, with an engine that is not started."""
        try:
            await engine.start().addTimeout(PATIENCE, reactor)
            try:
                lines = await self._linesOf(engine)
            finally:
                await engine.stop()
        except SpoolError as error:
            raise NotDone(str(error)) from None
        except TimeoutError:
            raise NotDone(str(engine.failure)) from None
        for line in lines:
            writeLine(line)
        return 0

    async def _linesOf(self, engine: Engine) -> list[str]:
        """Do it, with an engine that can be used, and return what to print."""
        from aesm.cluster.overview import drain, overviewOf

        if self.node is None:
            overview = await overviewOf(engine)
            if self["json"]:
                return [asciiJSON(overview)]
            return clusterLines(overview)
        try:
            return [f"told to end: {escape(await drain(engine, self.node))}"]
        except LookupError as error:
            raise NotDone(str(error)) from None


# Columns: the title, and what gives the text of a node.
_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("NODE", lambda node: escape(node["node"])),
    ("STATE", lambda node: _state(node)),
    ("CONNECTED", lambda node: _text(node["connections"])),
    ("WAITING", lambda node: _text(node["waiting"])),
    ("LAG", lambda node: _text(node["logLag"])),
    ("SYNC", lambda node: _text(node["sync"])),
    ("HOST", lambda node: _text(node["host"])),
    ("PID", lambda node: _text(node["pid"])),
    ("VERSION", lambda node: _text(node["version"])),
)


def clusterLines(overview: dict[str, Any]) -> list[str]:
    """Write how a cluster is, by its overview, for people."""
    engine, log, nodes = overview["engine"], overview["log"], overview["nodes"]
    most = f" of {size(engine['maxBytes'])}" if engine["maxBytes"] else ""
    disk = "append-only file" if engine["appendOnly"] else "nothing on its disk"
    lines = [
        f"engine {escape(engine['version'])}, {escape(engine['role'])}, "
        f"{engine['replicas']} replicas, {disk}; {size(engine['bytes'])}{most} bytes; "
        f"epoch {escape(overview['epoch'])}",
        f"sessions: {number(overview['waiting'])} wait for their clients, "
        f"{number(overview['unread'])} have something unread; inlets: "
        f"{size(overview['inletBytes'])} bytes; log: {number(log['entries'])} entries, "
        f"{size(log['bytes'])} bytes",
    ]
    if overview["looking"]:
        lines.append(
            "the engine was replaced or started again: for up to "
            f"{seconds(overview['looking'])} nodes see whether it lacks anything, and "
            "no session moves"
        )
    if overview["calm"]:
        lines.append(
            "the engine, or all nodes, are new or were away: for "
            f"{seconds(overview['calm'])} no session is given up"
        )
    rows = [[show(_known(node)) for _, show in _COLUMNS] for node in nodes]
    table = [[title for title, _ in _COLUMNS], *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    padded = (map(str.ljust, row, widths) for row in table)
    return [*lines, "", *(" ".join(row).rstrip() for row in padded)]


def _known(node: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not so any more, since the node is gone that said it."""
    if node["lease"] >= 0:
        return node
    return node | dict.fromkeys(("connections", "waiting", "logLag"))


def _state(node: dict[str, Any]) -> str:
    """Say whether a node is there."""
    if node["lease"] < 0:
        return f"gone {seconds(-node['lease'])}"
    if node["lease"] < TIME - 2 * RENEWAL:
        return f"silent {seconds(TIME - node['lease'])}"
    return "draining" if node["draining"] else "up"


def _text(value: object) -> str:
    """Write what a node may have said of itself."""
    return "" if value is None else escape(str(value))
