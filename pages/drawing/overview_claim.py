"""Overview's sentence: what a million tokens cost here, and what they would cost without any of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.access.caller import Role
from backend.runtime import Runtime
from pages.caller import current_caller
from pages.drawing.acts import press
from pages.drawing.figures import amounts, money, when
from pages.drawing.populations import SERVED
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.lab.standing import Standing

WINDOW = 7 * 86400.0


def claim(runtime: Runtime, now: float) -> None:
    """Draw it, with how it was found out, or what is missing to say it."""
    baseline = runtime.presets.figures().get("Baseline")
    sums = runtime.ledger.queries.sums(now - WINDOW, None, SERVED)
    found = runtime.presets.standing(sums, runtime.prices.current.per_hour)
    if found is None:
        st.markdown("## No tokens in the last 7 days")
        st.caption("Ask something on Chat, or call the API: the sentence comes back with the first answer.")
        return
    dear = found.baseline_per_million
    if dear is None:
        st.markdown(f"## You pay {plain(money(found.paid_per_million))} per million tokens")
        st.caption("What Baseline (one request at a time, full precision, no caches) would cost is not measured yet.")
    else:
        paid, base = amounts([found.paid_per_million, dear.mean])
        times = f": {found.ratio.mean:.1f} ×" if found.ratio is not None else ""
        st.markdown(f"## You pay {plain(paid)} per million tokens; Baseline would be {plain(base)}{times}")
        st.caption(_how(runtime, found, baseline.when if baseline else 0.0, sums.repeated))
    if baseline is None:
        _measure(runtime)


def _how(runtime: Runtime, found: Standing, measured: float, repeated: int) -> str:
    ratio, price = found.ratio, runtime.prices.current
    between = f"{ratio.low:.1f} to {ratio.high:.1f} × with 95 % confidence. " if ratio is not None else ""
    again = f", {repeated:,} of the answers given again" if repeated else ""
    return (
        f"{between}{found.tokens:,} tokens of the last 7 days{again}, by the requests' share of the machine at "
        f"{plain(money(price.per_hour))} an hour; Baseline by its time a token, measured here on {when(measured)}. "
        "Idle time is apart."
    )


def _measure(runtime: Runtime) -> None:
    progress = runtime.presets.progress
    if progress.running:
        st.progress(
            progress.done / progress.total,
            text=f"Measuring {progress.preset}: {progress.done} of {progress.total} rounds are done.",
        )
    elif current_caller().role.covers(Role.ADMIN):
        press(
            "Measure Baseline now (about 2 minutes)", partial(runtime.presets.start, ["Baseline"]),
            key="measure-baseline", type="primary",
            help="Questions about the sample documents are answered under Baseline; your switches come back after it.",
        )  # fmt: skip
    if progress.error:
        st.warning(plain(progress.error))
