"""
Numbers with units, in few characters, for people.
"""

from __future__ import annotations

import math


def number(value: float, base: int = 1000) -> str:
    """Write a count, such as C{"1.5k"}; C{base} is that of the prefixes."""
    units = iter(("", "k", "M", "G", "T"))
    unit = next(units)
    while value >= base and unit != "T":
        value /= base
        unit = next(units)
    return f"{value:.0f}{unit}" if not unit or value >= 10 else f"{value:.1f}{unit}"


def size(value: float) -> str:
    """Write bytes, such as C{"64M"} for 64 MiB."""
    return number(value, 1024)


def seconds(value: float | None) -> str:
    """Write a time, such as C{"250us"}, C{"3s"} or C{"2d"}; empty for None."""
    if value is None:
        return ""
    if value == 0:
        return "0s"
    for unit, limit, length in (
        ("us", 1e-3, 1e-6),
        ("ms", 1.0, 1e-3),
        ("s", 100.0, 1.0),
        ("m", 6000.0, 60.0),
        ("h", 360_000.0, 3600.0),
        ("d", math.inf, 86_400.0),
    ):
        if value < limit:
            return f"{value / length:.0f}{unit}"
    return "-"
