"""What a switch is worth on this machine's own traffic: the result with its interval, and the press for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_caller
from pages.drawing.acts import press
from pages.drawing.figures import amounts, counted, seconds, when
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.switchboard.worth import Effect
    from backend.switchboard.worth_kept import Worth

MINUTES = (3, 10, 30, 120)
COLOURS = {"worth it": "green", "costs you": "red", "no difference": "gray", "not resolved": "orange"}
NAMES = {"cost": "cost", "ttft": "first token", "speed": "tokens/s"}
HELP = (
    "Goes on and off in turn, in an order drawn by lot, on the requests that come anyway, until the difference is "
    "clear or the time is over. It needs requests: without them nothing can be said. While people wait more than 5 s "
    "for their first token, and at the end, the switch is as you have it. A change of any switch ends it."
)


def draw_worth(runtime: Runtime, about: dict[str, Any]) -> None:
    """Draw the latest result of a switch, the button that measures it, and how far that is."""
    name = about["name"]
    if not runtime.worth.can_measure(name):
        return
    course = runtime.worth.course
    if course.running and course.switch == name:
        _progress(runtime)
        return
    worth = runtime.worth.results().get(name)
    with st.container(horizontal=True, vertical_alignment="center", key=f"worth-{name}"):
        if worth is None:
            st.caption("Worth on this machine: not measured yet.", width="content")
        else:
            st.caption(told(worth, runtime.prices.current.per_hour), help=worth.note or None, width="stretch")
        if not course.running:
            _offer(runtime, name, again=worth is not None)
    if course.switch == name and course.error:
        st.caption(f":orange[{plain(course.error)}]")


def _offer(runtime: Runtime, name: str, *, again: bool) -> None:
    label = "Measure again" if again else "Measure on my traffic"
    with st.popover(label, key=f"measure-{name}", type="tertiary"):
        st.caption(HELP)
        minutes = st.segmented_control(
            "Minutes, at most", MINUTES, default=MINUTES[1], required=True, key=f"measure-minutes-{name}"
        )
        begin = partial(runtime.worth.start, name, minutes=float(minutes or MINUTES[1]), who=current_caller().id)
        press("Measure", begin, key=f"measure-begin-{name}", type="primary", width="stretch")


def _progress(runtime: Runtime) -> None:
    @st.fragment(run_every=1.0)
    def line() -> None:
        course = runtime.worth.course
        if not course.running:
            st.rerun()
        done = f"{counted(course.blocks, 'block')}, {course.requests_with} requests with it, "
        done += f"{course.requests_without} without"
        so_far = [changed(name, effect) for name, effect in course.effects.items() if name == "cost"]
        known = f" · so far {so_far[0]}" if so_far else ""
        more = f" · {_minutes(course.more_minutes)} more would decide it" if course.more_minutes else ""
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(
                min(max(1 - course.left / course.given, 0.0), 1.0) if course.given else 0.0,
                text=f"Measuring on your traffic: {plain(course.doing)} · {done}{known}{more} · "
                f"{seconds(course.left)} left at most",
            )
            press("Cancel", runtime.worth.cancel, key="cancel-worth")

    line()


def told(worth: Worth, per_hour: float) -> str:
    """A result in one line: verdict, what changes with its intervals, money, and what it was learned from."""
    colour = COLOURS[worth.verdict]
    more = f" ({_minutes(worth.more_minutes)} more would)" if worth.more_minutes else ""
    parts = [f"Worth on this machine: **:{colour}[{worth.verdict}]**{more}"]
    parts += [changed(name, effect) for name, effect in _ordered(worth.effects) if effect.low is not None]
    if (cost := worth.effects.get("cost")) is not None:  # type: ignore[call-overload]
        thousand = cost.without * 1000 * per_hour / 3600
        without, with_it = amounts([thousand, thousand * (1 + cost.change)])
        parts.append(f"{without} → {with_it} for 1,000 tokens".replace("$", r"\$"))  # else it would begin a formula
    came = worth.requests_with + worth.requests_without
    parts.append(f"{when(worth.when)}, on {came:,} of your requests in {_minutes(worth.minutes)}")
    return " · ".join(parts)


def _ordered(effects: Mapping[Any, Effect]) -> list[tuple[str, Effect]]:
    return [(name, effects[name]) for name in NAMES if name in effects]


def changed(name: str, effect: Effect) -> str:
    """What changes of a measure: −38 % cost (−45 to −30 %); of the first token, its time too."""
    low = "?" if effect.low is None else f"{_signed(effect.low)}"
    high = "?" if effect.high is None else f"{_signed(effect.high)}"
    said = f"{_signed(effect.change)} % {NAMES[name]} ({low} to {high} %)"
    if name != "ttft":
        return said
    return f"{said}, {seconds(effect.without)} → {seconds(effect.without * (1 + effect.change))}"


def _signed(share: float) -> str:
    number = f"{abs(share) * 100:.0f}"
    return number if number == "0" else f"{'−' if share < 0 else '+'}{number}"


def _minutes(minutes: float) -> str:
    return f"{max(minutes, 1):.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
