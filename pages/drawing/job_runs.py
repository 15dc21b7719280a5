"""Runs of jobs as rows: what each is doing, how fast, and what it cost, and what can be done with it."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.acts import press, press_after_asking
from pages.drawing.figures import counted, money, seconds, when
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.store.tables.jobs import Job, JobRun

STATES = {
    "queued": ":gray-badge[about to begin]",
    "running": ":blue-badge[running]",
    "waiting": ":orange-badge[waiting]",
    "done": ":green-badge[done]",
    "failed": ":red-badge[failed]",
    "cancelled": ":orange-badge[cancelled]",
}
SEEN = "job-progress"
WINDOW, LEAST = 15.0, 2.0
"""Seconds over which a rate is told, and below which what was seen here does not tell one."""
GAP = "&ensp;"
CHOSEN = "run"
"""In a page's address: the run whose results are shown."""


def show_results(run_id: str) -> None:
    """Have the page show the results of a run."""
    st.query_params[CHOSEN] = run_id


def run_row(runtime: Runtime, run: JobRun, job: Job) -> None:
    """A run: its name and state, how far it is, what it took, and its buttons."""
    with st.container(border=True, key=f"row-{run.id}", gap="xxsmall"):
        title, buttons = st.columns([3, 2], vertical_alignment="center")
        title.markdown(f"**{plain(job.name)}**{GAP}{state(run)}")
        with buttons.container(horizontal=True, horizontal_alignment="right", gap="small"):
            if run.done:
                press("Results", partial(show_results, run.id), key=f"results-{run.id}")
            if run.open:
                press("Cancel", partial(runtime.jobs.cancel, run.id), key=f"cancel-{run.id}")
            else:
                press_after_asking(
                    "Delete", f"The run of {when(run.created)} is deleted, with {counted(run.done, 'result')}. "
                    "The job stays.", partial(runtime.jobs.delete_run, run.id), key=f"drop-{run.id}", type="tertiary",
                )  # fmt: skip
        if run.open:
            st.progress(min(run.done / max(run.total, 1), 1.0))
        st.caption(facts(run))
        if run.reason:
            (st.caption if run.open else st.error)(plain(run.reason))


def state(run: JobRun) -> str:
    """What a run does, as a badge; a run that ended with failures says so."""
    failures = f" :red-badge[{run.failed:,} failed]" if run.failed else ""
    return STATES[run.state] + failures


def facts(run: JobRun) -> str:
    """How far, how fast, when, and for how much, as one line."""
    parts = [f"{run.done:,} of {counted(run.total, 'prompt')}"]
    if run.open:
        parts += _speed(run)
    else:
        parts.append(when(run.created))
        if run.finished and run.started:
            parts.append(seconds(run.finished - run.started))
    if run.output_tokens:
        parts.append(counted(run.output_tokens, "token"))
    if run.done:
        parts.append(plain(money(run.cost)))
    return " · ".join(parts)


def _speed(run: JobRun) -> list[str]:
    """Prompts a second or a minute, and the time left; nothing before anything can be said."""
    per_second = _rate(run)
    if not per_second or run.state != "running":
        return []
    rate = f"{per_second:.1f} prompts/s" if per_second >= 0.95 else f"{per_second * 60:.0f} prompts a minute"
    return [rate, f"about {seconds(max(round((run.total - run.done) / per_second), 1))} left"]


def _rate(run: JobRun) -> float:
    """Prompts per second as this page saw them end lately; since the beginning, where it has not looked long enough."""
    now = time.monotonic()
    seen: dict[str, deque[tuple[float, int]]] = st.session_state.setdefault(SEEN, {})
    looks = seen.setdefault(run.id, deque())
    looks.append((now, run.done))
    while now - looks[0][0] > WINDOW:
        looks.popleft()
    began, done = looks[0]
    if now - began >= LEAST and run.done > done:
        return (run.done - done) / (now - began)
    return run.done / max(time.time() - run.started, 0.1) if run.started else 0.0
