"""What a key, or all requests together, may use: shown in a line, changed in a small form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.acts import act
from pages.drawing.figures import money

NANO = 1_000_000_000
"""Nano-dollars of a dollar."""


def key_limits(runtime: Runtime, key_id: str) -> None:
    """Budgets and rate of one key."""
    _form(
        runtime, runtime.access.keys.limits(key_id), key_id,
        lambda changes: runtime.access.keys.limit(key_id, **changes),
    )  # fmt: skip


def installation_limits(runtime: Runtime) -> None:
    """Budgets and rate of all requests together, with or without a key."""
    _form(runtime, runtime.budgets.installation, "", lambda changes: runtime.budgets.limit(**changes))


def in_words(runtime: Runtime, key_id: str) -> str:
    """What of a key's budgets is spent, in a line; empty for one without limits."""
    limits = runtime.access.keys.limits(key_id) if key_id else runtime.budgets.installation
    spent = runtime.budgets.spent(key_id)
    said = [
        f"{money(used / NANO)} of {money(limit / NANO)} {period}".replace("$", "\\$")  # else it reads as a formula
        for used, limit, period in ((spent.day, limits.day, "today"), (spent.month, limits.month, "this month"))
        if limit is not None
    ]
    if limits.requests_per_minute is not None:
        said.append(f"{limits.requests_per_minute} requests a minute")
    return " · ".join(said)


def _form(runtime: Runtime, limits: Any, key_id: str, change: Callable[[dict[str, Any]], object]) -> None:
    with st.form(f"limits-{key_id}", border=False):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            day = st.number_input(
                "US dollars a day", min_value=0.0, value=_dollars(limits.day), format="%g", placeholder="no limit",
            )  # fmt: skip
            month = st.number_input(
                "US dollars a month", min_value=0.0, value=_dollars(limits.month), format="%g", placeholder="no limit",
            )  # fmt: skip
            rate = st.number_input(
                "Requests a minute", min_value=1, value=limits.requests_per_minute, placeholder="no limit"
            )
            warn = st.number_input(
                "Tell from, %", min_value=1, max_value=100, value=limits.warn_percent,
                help="The share of a budget from which Overview says that it runs out.",
            )  # fmt: skip
        if st.form_submit_button("Set the limits"):
            act(lambda: change({
                "day": _nano(day), "month": _nano(month), "requests_per_minute": rate, "warn_percent": int(warn),
            }))  # fmt: skip


def _dollars(nano: int | None) -> float | None:
    return None if nano is None else nano / NANO


def _nano(dollars: float | None) -> int | None:
    return None if dollars is None else round(dollars * NANO)
