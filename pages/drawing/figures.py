"""How figures are written everywhere in the console: one way for money and durations, times in the reader's zone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

LEAST_MONEY = 1e-8
"""Dollars below which the digits of an amount are not worth reading."""
MOST_DECIMALS = 8
DOLLAR, SECOND = 1e9, 1e9
"""Nano-dollars and nanoseconds, in which the ledger counts."""
GAP = "\N{NO-BREAK SPACE}"


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
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def money(value: float) -> str:
    """US dollars with the digits that mean something: $ 12.50, $ 0.031, $ 0.0000138."""
    written = _dollars(value, _decimals(value, 3))
    whole, _, decimals = written.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}" if decimals else written


def amounts(values: Iterable[float]) -> list[str]:
    """A row of amounts in one precision: that of the smallest, but none that the largest would drown in."""
    values = list(values)
    known = [abs(value) for value in values if abs(value) >= LEAST_MONEY]
    decimals = min(_decimals(min(known), 2), _decimals(max(known), 2) + 3) if known else 2
    return [_dollars(value, decimals) for value in values]


def _decimals(value: float, digits: int) -> int:
    """How many decimals show so many significant digits; two at least."""
    value = abs(value)
    if value < LEAST_MONEY or value >= 0.9995:
        return 2
    return min(max(2, digits - 1 - math.floor(math.log10(value))), MOST_DECIMALS)


def _dollars(value: float, decimals: int) -> str:
    if value == 0:
        return f"${GAP}0"
    if abs(value) < LEAST_MONEY:
        return f"<{GAP}${GAP}{LEAST_MONEY:.8f}"
    return f"{'−' if value < 0 else ''}${GAP}{abs(value):,.{decimals}f}"


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


def zone() -> tzinfo | None:
    """The time zone of the reader, as the browser says it; None, the server's own, where it does not."""
    try:
        name = st.context.timezone
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


def moment(epoch: float) -> datetime:
    """A moment on the reader's clock."""
    return datetime.fromtimestamp(epoch, zone())


def when(epoch: float | None) -> str:
    """A moment in the reader's time."""
    return moment(epoch).strftime("%d %b %Y, %H:%M") if epoch else "–"


def rate(value: float | None) -> str:
    """Tokens per second."""
    return "–" if value is None else f"{value:.0f} tok/s" if value >= 9.95 else f"{value:.1f} tok/s"
