"""How figures are written everywhere in the console."""

from __future__ import annotations

import math
from datetime import datetime

LEAST_MONEY = 1e-8
"""Dollars below which the digits of an amount are not worth reading."""


def seconds(value: float | None) -> str:
    """A duration: 85 ms, 1.4 s, 2 min 5 s."""
    if value is None:
        return "–"
    if value < 0.9995:  # what rounds up to a whole unit is written in it
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def money(value: float) -> str:
    """US dollars with the digits that mean something: $12.50, $0.031, $0.000014."""
    if value <= 0:
        return "$0"
    if value < LEAST_MONEY:
        return f"<${LEAST_MONEY:.8f}"
    if value < 0.01:
        return f"${value:.{1 - math.floor(math.log10(value))}f}"
    return f"${value:,.2f}" if value >= 0.9995 else f"${value:.3f}".removesuffix("0")


def size(value: float) -> str:
    """Bytes in the unit that fits."""
    if value < 1024:
        return f"{value:.0f} B"
    for unit in ("KB", "MB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} GB"


def counted(number: int, what: str) -> str:
    """A number with its noun: 1 chunk, 1,200 chunks."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def when(epoch: float | None) -> str:
    """A moment in local time."""
    return datetime.fromtimestamp(epoch).strftime("%d %b %Y, %H:%M") if epoch else "–"


def rate(value: float | None) -> str:
    """Tokens per second."""
    return "–" if value is None else f"{value:.0f} tok/s" if value >= 9.95 else f"{value:.1f} tok/s"
