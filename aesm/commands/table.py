"""
What goes on in a server, as lines for people::

    for line in linesOf(answer, width=80):
        ...

Whatever clients say of themselves is escaped, and nothing is wider than the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aesm.status.units import number, seconds, size
from aesm.text import CUT, cellsOf, cut, escape

KEY = 8  # characters of a key that stands for a name
WIDEST = 24  # columns of a client's words

Row = dict[str, Any]


class _Column(NamedTuple):
    """A column: the text of a row, and which stay where there is no room."""

    title: str
    show: Callable[[Row], str]
    rank: int
    right: bool = True


def _client(row: Row) -> str:
    """Name a client: by the list of keys or, if that has no name, by its key."""
    return escape(row["name"] or f"{row['key'][:KEY]}{CUT}")


def _state(row: Row) -> str:
    """Say how a connection is; of one that waits, how long it still does."""
    grace = row["grace"]
    return str(row["state"]) if grace is None else f"{row['state']} {seconds(grace)}"


def _both(row: Row, name: str) -> str:
    """Write how many messages, and how many bytes; empty if there are none."""
    count = row[name]
    return f"{number(count)}/{size(row[f'{name}Bytes'])}" if count else ""


_COLUMNS = (
    _Column("CLIENT", _client, 0, False),
    _Column("ADDRESS", lambda row: escape(row["address"]), 1, False),
    _Column("STATE", _state, 2, False),
    _Column("IDLE", lambda row: seconds(row["idle"]), 6),
    _Column("TRIP", lambda row: seconds(row["roundTrip"]), 7),
    _Column("IN", lambda row: number(row["messagesIn"]), 8),
    _Column("OUT", lambda row: number(row["messagesOut"]), 9),
    _Column("UNACKED", lambda row: _both(row, "unacknowledged"), 3),
    _Column("OLDEST", lambda row: seconds(row["oldestUnacknowledged"]), 4),
    _Column("UNREAD", lambda row: _both(row, "unread"), 5),
    _Column("AGENT", lambda row: escape(row["agent"]), 10, False),
    _Column("SUITE", lambda row: escape(row["suite"]), 11, False),
)


def linesOf(
    answer: dict[str, Any], width: int | None, height: int | None = None
) -> list[str]:
    """
    Write what a server has answered.

    @param width: columns of the terminal; None for any.
    @param height: its lines; None for any number.
    """
    lines = [*summaryOf(answer["server"]), "", *_table(answer["connections"], width)]
    if height is not None:
        lines = lines[:height]
    return lines if width is None else [cut(line, width) for line in lines]


def summaryOf(server: dict[str, Any]) -> list[str]:
    """Write what goes on in a server as a whole."""
    stopping = ", stopping" if server["stopping"] else ""
    lines = [
        f"aesm {server['version']}, pid {server['pid']}, "
        f"up {seconds(server['uptime'])}{stopping}: "
        f"{server['connections']} connected, {server['waiting']} waiting, "
        f"{server['handshakes']} in the handshake; "
        f"{server['placesTaken']} of {server['places']} places",
        f"in {number(server['messagesIn'])} messages, {size(server['bytesIn'])} "
        f"bytes; out {number(server['messagesOut'])}, {size(server['bytesOut'])}; "
        f"kept {size(server['buffered'])} of {size(server['totalBuffer'])}"
        + _within(server["acknowledged"]),
    ]
    spool = server["spool"]
    if spool is not None:
        failure = spool["failure"]
        fails = "" if failure is None else f", FAILS: {escape(failure)}"
        lines.append(f"spool {size(spool['bytes'])} bytes{fails}")
    cluster = server["cluster"]
    if cluster is not None:
        failure = cluster["failure"]
        fails = "fine" if failure is None else f"FAILS: {escape(failure)}"
        lines.append(
            f"node {escape(cluster['node'])} of {escape(cluster['name'])}, engine at "
            f"{escape(cluster['engine'])}, {fails}"
        )
    refusals = [
        f"{count} {kind}" for kind, count in server["refusals"].items() if count
    ]
    if refusals:
        lines.append(f"refused: {', '.join(refusals)}")
    return lines


def _within(waits: dict[str, Any]) -> str:
    """Say within which time half of all were acknowledged, and nearly all."""
    if not waits["count"]:
        return ""
    half, most = (
        next(
            (b for b, count in waits["buckets"] if count >= part * waits["count"]), None
        )
        for part in (0.5, 0.99)
    )
    said = [f"<{seconds(bound)}" if bound else "longer" for bound in (half, most)]
    return f"; acknowledged in {said[0]} (half), {said[1]} (99 %)"


def _table(rows: Sequence[Row], width: int | None) -> list[str]:
    """Write a line for each connection, below the titles."""
    shown = [_shown(column, rows) for column in _COLUMNS]
    chosen = [*_COLUMNS]
    widths = {
        column.title: max(map(cellsOf, texts))
        for column, texts in zip(_COLUMNS, shown, strict=True)
    }
    while width is not None and len(chosen) > 1:
        if sum(widths[column.title] + 1 for column in chosen) - 1 <= width:
            break
        chosen.remove(max(chosen, key=lambda column: column.rank))
    lines = zip(
        *(
            [_padded(text, widths[column.title], column.right) for text in texts]
            for column, texts in zip(_COLUMNS, shown, strict=True)
            if column in chosen
        ),
        strict=True,
    )
    return [" ".join(line).rstrip() for line in lines]


def _shown(column: _Column, rows: Sequence[Row]) -> list[str]:
    """Write a column, its title first."""
    return [column.title, *(cut(column.show(row), WIDEST) for row in rows)]


def _padded(text: str, width: int, right: bool) -> str:
    """Bring text to a width, aligned to the right or the left."""
    blanks = " " * (width - cellsOf(text))
    return blanks + text if right else text + blanks
