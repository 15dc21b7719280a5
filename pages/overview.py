"""The home: what is paid here and what Baseline would cost; before the first answer, three steps that lead there."""

from __future__ import annotations

import time

import streamlit as st

from backend.runtime import current
from pages.drawing.acts import after_press, refusal
from pages.drawing.overview_claim import claim
from pages.drawing.overview_day import cost_per_hour, happened, tiles
from pages.drawing.overview_steps import done_steps, steps

REFRESH = 5.0
DAY = 86400


def main() -> None:
    """Draw the page."""
    runtime = current()
    refusal()
    answered, called = done_steps(runtime)
    if not (answered or called):
        steps(runtime)
        return
    if not called:
        steps(runtime, left_only=True)

    @st.fragment(run_every=REFRESH)
    def figures() -> None:
        after_press()
        now = time.time()
        claim(runtime, now)
        tiles(runtime, now)
        cost_per_hour(runtime, now)
        happened(runtime, now)

    figures()


main()
