"""The presets as cards: what each is, what it was measured to cost here, and the press that puts it in force."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_caller
from pages.drawing.acts import after_press, press
from pages.drawing.figures import amounts, money, seconds, when
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.lab.preset_figures import PresetFigures

MEANING = {
    "Baseline": "One request at a time, full precision, no caches: what serving costs without any of this.",
    "Balanced": "Batching, caches and speculation, all exact, and the fastest weights that pass the quality gate.",
    "Max savings": "8-bit weights, whatever the gate says, and larger batches.",
}
MILLION = 1e6


def cards(runtime: Runtime) -> None:
    """Draw them side by side."""
    ready = runtime.switchboard.presets
    asked, own = runtime.engine.switches, runtime.switchboard.own
    serves = runtime.engine.in_force == asked == own
    figures = runtime.presets.figures()
    costs = dict(zip(figures, amounts(_cost(runtime, one) for one in figures.values()), strict=True))
    for column, (name, switches) in zip(st.columns(len(ready)), ready.items(), strict=True):
        with column.container(border=True, height="stretch"):
            chosen = switches == own
            badge = ":green-badge[in force]" if serves else ":orange-badge[on its way]"
            st.markdown(f"**{name}** {badge if chosen else ''}")
            st.caption(MEANING[name])
            measured(name, costs.get(name), figures)
            press(
                f"Use {name}", partial(_use, runtime, name, current_caller().id), key=f"preset-{name}",
                disabled=chosen, width="stretch",
            )  # fmt: skip


def measured(name: str, cost: str | None, figures: dict[str, PresetFigures]) -> None:
    """What a preset was measured to cost, and how many times less that is than Baseline."""
    if cost is None:
        st.markdown("**not measured yet**")
        st.caption("Press *Measure the presets* below.")
        return
    one, base = figures[name], figures.get("Baseline")
    times = ""
    if base is not None and name != "Baseline":
        ratio = base.seconds_per_token.mean / one.seconds_per_token.mean
        low = base.seconds_per_token.low / one.seconds_per_token.high
        high = base.seconds_per_token.high / one.seconds_per_token.low if one.seconds_per_token.low else float("inf")
        times = f" · **{ratio:.1f} ×** cheaper than Baseline ({low:.1f} to {high:.1f})"
    st.markdown(f"**{plain(cost)}** a million tokens{times}")
    disturbed = f"; {one.disturbed} of {one.rounds} rounds beside other requests" if one.disturbed else ""
    st.caption(
        f"{one.tokens_per_second.mean:.0f} tokens/s, first token after {seconds(one.ttft.mean)}, {one.requests} at "
        f"once, in {one.variant}. {when(one.when)}{disturbed}."
    )


def measuring(runtime: Runtime) -> None:
    """Start a measurement of all presets, follow it, cancel it."""
    going_on = runtime.presets.progress.running

    @st.fragment(run_every=1.0 if going_on else None)
    def line() -> None:
        after_press()
        progress = runtime.presets.progress
        if going_on and not progress.running:
            st.rerun()
        if not progress.running:
            with st.container(horizontal=True, vertical_alignment="center"):
                press(
                    "Measure the presets", partial(runtime.presets.start, list(runtime.switchboard.presets)),
                    key="measure-presets",
                )  # fmt: skip
                st.caption(
                    "Document questions, the same for each preset, in rounds: a few minutes. Requests are served "
                    "meanwhile, some of them without optimizations. Your switches come back at the end."
                )
            if progress.error:
                st.warning(plain(progress.error))
            return
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(
                progress.done / progress.total,
                text=f"Measuring {progress.preset}: {progress.done} of {progress.total} rounds are done.",
            )
            press("Cancel", runtime.presets.cancel, key="cancel-measuring")

    line()


def changes(runtime: Runtime) -> None:
    """How the switches differ from the preset that is nearest, and the way back to it."""
    own = runtime.switchboard.own.as_dict()
    differing = {
        name: [key for key, value in ready.as_dict().items() if own[key] != value]
        for name, ready in runtime.switchboard.presets.items()
    }
    nearest = min(differing, key=lambda name: len(differing[name]))
    names = differing[nearest]
    if not names:
        return
    labels = {about["name"]: about["label"] for about in runtime.switchboard.about}
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        count = f"{len(names)} change{'s' if len(names) > 1 else ''} from {nearest}"
        st.markdown(f"**Custom: {count}** · {', '.join(labels[name] for name in names)}")
        press(f"Reset to {nearest}", partial(_use, runtime, nearest, current_caller().id), key="reset-switches")


def _cost(runtime: Runtime, figures: PresetFigures) -> float:
    """US dollars for a million tokens, at the price in force."""
    return figures.seconds_per_token.mean * runtime.prices.current.per_hour / 3600 * MILLION


def _use(runtime: Runtime, name: str, who: str) -> None:
    runtime.switchboard.change(runtime.switchboard.presets[name].as_dict(), who=who)


def price_note(runtime: Runtime) -> str:
    """At which price the cards count."""
    price = runtime.prices.current
    return f"At {plain(money(price.per_hour))} an hour: {plain(price.name)}."
