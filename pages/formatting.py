"""How figures are written everywhere in the console."""

from __future__ import annotations

from datetime import datetime


def seconds(value: float | None) -> str:
    """A duration: 85 ms, 1.4 s, 2 min 5 s."""
    if value is None:
        return "–"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def money(value: float) -> str:
    """US dollars with the digits that mean something."""
    if value == 0:
        return "$0"
    if value >= 0.01:
        return f"${value:,.2f}" if value >= 1 else f"${value:.3f}"
    if value >= 0.000_01:
        return f"${value:.6f}".rstrip("0")
    return f"${value:.1e}"


def size(value: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "KB", "MB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GB"


def when(epoch: float | None) -> str:
    """A moment in local time."""
    return datetime.fromtimestamp(epoch).strftime("%d %b %Y, %H:%M") if epoch else "–"


def rate(value: float | None) -> str:
    """Tokens per second."""
    return "–" if value is None else f"{value:.0f} tok/s" if value >= 10 else f"{value:.1f} tok/s"
