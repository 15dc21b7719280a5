"""Run many prompts through the model, now or on a schedule, behind everybody who waits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.errors import InvalidInputError
from backend.runtime import Runtime, current
from pages.caller import current_caller
from pages.drawing.acts import after_press, press, press_after_asking, refusal
from pages.drawing.batch_rows import batch_row
from pages.drawing.figures import counted, when
from pages.drawing.job_form import form_if_open, open_form
from pages.drawing.job_results import results
from pages.drawing.job_runs import CHOSEN, run_row
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.store.tables.jobs import Job

RUNS, JOBS = 20, 20
"""Rows of each that are drawn before more are asked for."""
MOST = 200
BUSY, CALM = 1.0, 3.0
"""Seconds between two looks, while something runs and while nothing does."""


def run_now(runtime: Runtime, job_id: str) -> None:
    """Begin a run for whoever looks, within the limits of their key."""
    key_id = current_caller().id
    runtime.budgets.take(key_id)
    runtime.jobs.run(job_id, key_id=key_id)


def job_row(runtime: Runtime, job: Job, going_on: bool) -> None:
    """A job: what it runs and when, and its buttons."""
    with st.container(border=True, key=f"job-{job.id}", gap="xxsmall"):
        title, buttons = st.columns([1, 1], vertical_alignment="center")
        title.markdown(f"**{plain(job.name)}**")
        with buttons.container(horizontal=True, horizontal_alignment="right", gap="small"):
            press("Run now", partial(run_now, runtime, job.id), key=f"run-{job.id}", disabled=going_on)
            schedule = ", its schedule" if job.cron else ""
            press_after_asking(
                "Delete", f"“{job.name}”, its {counted(job.total, 'prompt')}{schedule} and all its runs with their "
                "results are lost.", partial(runtime.jobs.delete, job.id), key=f"delete-{job.id}",
                type="tertiary",
            )  # fmt: skip
        parts = [counted(job.total, "prompt")]
        if job.documents:
            parts.append("answered from documents")
        if job.cron:
            parts.append(f"{schedule_words(runtime, job.cron)} ({runtime.jobs.zone})")
            parts.append(f"**next {when(job.next_run)}**" if job.next_run else "never again")
        st.caption(" · ".join(part if part.startswith("**") else plain(part) for part in parts))
        if job.note:
            st.caption(f":orange[{plain(job.note)}]")


def schedule_words(runtime: Runtime, cron: str) -> str:
    """What a schedule means; as it was written, where it cannot be read any more."""
    try:
        return runtime.jobs.in_words(cron)
    except InvalidInputError:
        return cron


def nothing_yet(runtime: Runtime) -> None:
    """What a job is, and how to make the first one."""
    st.markdown("### No jobs yet")
    st.write(
        "A job runs many prompts through the model, at once or on a schedule, and keeps the answers. It only takes "
        "what people and programs leave free, so nobody waits for it. Type some prompts or bring a file of them."
    )
    st.button("New job", type="primary", on_click=open_form, key="first-job")

    @st.fragment(run_every=CALM)
    def watch() -> None:
        if runtime.jobs.count() or runtime.batches.page(current_caller().tenant, limit=1):  # somebody has made one
            st.rerun()

    watch()


def live(runtime: Runtime) -> None:
    """Runs and jobs, drawn anew by themselves while the page is looked at."""
    caller = current_caller()

    def going_on_now() -> bool:
        runs, batches = runtime.jobs.recent(RUNS), runtime.batches.page(caller.tenant, limit=RUNS)
        return any(run.open for run, _ in runs) or any(batch.open for batch in batches)

    busy = going_on_now()

    @st.fragment(run_every=BUSY if busy else CALM)
    def lists() -> None:
        after_press()
        most_runs, most_jobs = st.session_state.get("runs-shown", RUNS), st.session_state.get("jobs-shown", JOBS)
        if going_on_now() != busy:
            st.rerun()  # to look more often, or less
        runs = runtime.jobs.recent(most_runs)
        jobs = runtime.jobs.find(limit=most_jobs, soonest=True)
        most_batches = st.session_state.get("batches-shown", RUNS)
        batches = runtime.batches.page(caller.tenant, limit=most_batches + 1)
        if not (jobs or batches):
            st.rerun()
        left, right = st.columns([3, 2], gap="medium")
        with left:
            st.markdown("##### Runs")
            if not runs:
                st.caption("Nothing has run yet.")
            for run, job in runs:
                run_row(runtime, run, job)
            more("runs", runtime.jobs.run_count(), most_runs)
            if batches:
                st.markdown("##### Batches of your programs")
            for batch in batches[:most_batches]:
                batch_row(runtime, batch, caller)
            if len(batches) > most_batches:
                more("batches", runtime.batches.count(caller.tenant), most_batches)
        with right:
            st.markdown("##### Jobs")
            going_on = {run.job_id for run, _ in runs if run.open}
            for job in jobs:
                job_row(runtime, job, job.id in going_on)
            more("jobs", runtime.jobs.count(), most_jobs)

    lists()


def more(what: str, total: int, shown: int) -> None:
    """A button for those that are not drawn yet."""
    if total > shown and shown < MOST:
        press(
            f"Show more of {total:,} {what}", partial(st.session_state.__setitem__, f"{what}-shown", shown + RUNS),
            key=f"more-{what}", type="tertiary",
        )  # fmt: skip


def main() -> None:
    """Draw the page."""
    runtime = current()
    refusal()
    if run_id := st.query_params.get(CHOSEN):
        results(runtime, run_id)
        return
    form_if_open(runtime)
    if not runtime.jobs.count() and not runtime.batches.page(current_caller().tenant, limit=1):
        nothing_yet(runtime)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Jobs take what people and programs leave free: nobody waits for them.", width="stretch")
        st.button("New job", type="primary", on_click=open_form, key="new-job")
    live(runtime)


main()
