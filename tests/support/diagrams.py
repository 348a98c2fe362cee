"""
State diagrams, printed from the tables of transitions into the document that shows
them, so that they are equal.  After a change of a table::

    python -m tests.support.diagrams

A diagram stands behind a comment that names its table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from importlib import import_module
from typing import TypeVar

from tests import ROOT

DOCUMENT = ROOT / "docs" / "architecture.md"
FEW = 3  # states from which a common way is drawn; from more it is told in words

_DIAGRAM = re.compile(
    r"(<!-- transitions: ([\w.]+)\.(\w+) -->\n)```mermaid\n[^`]*```\n"
    r"(?:\nFrom every state: .*\n)?"
)

_State = TypeVar("_State", bound=Enum)


def diagram(table: Mapping[tuple[_State, str], _State]) -> str:
    """
    Draw a table of transitions.  What changes nothing is left out, and a way that
    leads to one state from all others, or nearly, is told below in words.

    @param table: (where we are, what happened): where we go; the first member of the
        enumeration is where all begins.
    @return: a block of Mermaid, and a line of words if there is such a way.
    """
    states = list(type(next(iter(table.values()))))
    moves = {way: to for way, to in table.items() if way[0] is not to}
    common: dict[_State, list[str]] = {}
    told: set[str] = set()
    for event in dict.fromkeys(event for _, event in moves):
        sources = {one: to for (one, what), to in moves.items() if what == event}
        targets = set(sources.values())
        if len(targets) == 1 and len(sources) > max(FEW, len(states) - FEW):
            others = [s.name for s in states if s not in sources and s not in targets]
            but = f" (not from {', '.join(others)})" if others else ""
            common.setdefault(targets.pop(), []).append(f"`{event}`{but}")
            told.add(event)
    arrows: dict[tuple[_State, _State], list[str]] = {}
    for (one, event), to in moves.items():
        if event not in told:
            arrows.setdefault((one, to), []).append(event)
    left = {one for one, _ in moves}
    reached = set(moves.values())
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {states[0].name}"]
    for (one, to), events in arrows.items():
        lines.append(f"    {one.name} --> {to.name}: {', '.join(events)}")
    lines += [f"    {s.name} --> [*]" for s in states if s in reached - left]
    lines.append("```")
    if common:
        ways = [f"{', '.join(words)} to {to.name}" for to, words in common.items()]
        lines += ["", f"From every state: {'; '.join(ways)}."]
    return "\n".join(lines) + "\n"


def updated(text: str) -> str:
    """
    Print all diagrams of a document anew.

    @param text: the document.
    @return: the same, with the diagrams that the tables give.
    """

    def draw(found: re.Match[str]) -> str:
        """Print one."""
        return found[1] + diagram(getattr(import_module(found[2]), found[3]))

    return _DIAGRAM.sub(draw, text)


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text("utf-8")), "utf-8")
