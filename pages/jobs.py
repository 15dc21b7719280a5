"""Run a file of prompts through the model, now or on a schedule, behind everybody who waits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.errors import NotFoundError, TenfoldError
from backend.runtime import Runtime, current
from pages.drawing.acts import after_press, press, refusal
from pages.drawing.figures import counted, money, seconds, when
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.store.tables.jobs import Job, JobRun

SCHEDULES = {
    "Every hour": "0 * * * *",
    "Every night at 2:00": "0 2 * * *",
    "Every Monday at 6:00": "0 6 * * mon",
}
STATES = {
    "queued": ":gray-badge[queued]",
    "running": ":blue-badge[running]",
    "waiting": ":orange-badge[waiting for the engine]",
    "done": ":green-badge[done]",
    "failed": ":red-badge[failed]",
    "cancelled": ":orange-badge[cancelled]",
}


def new_job(runtime: Runtime) -> None:
    """The form for a new job."""
    generation = st.session_state.setdefault("job-form", 0)
    with st.expander("New job", icon=":material/add:", expanded=not runtime.jobs.count()):
        left, right = st.columns(2)
        file = left.file_uploader(
            "Prompts: text (one a line), CSV or JSON Lines with a field “prompt”",
            type=["txt", "csv", "jsonl", "ndjson", "json"], key=f"prompts-{generation}",
        )
        typed = left.text_area("… or type them, one a line", key=f"typed-{generation}", height=120)
        name = right.text_input("Name", placeholder="Nightly summaries", key=f"name-{generation}")
        system = right.text_area("System prompt", key=f"system-{generation}", height=70)
        max_tokens = right.number_input("Longest answer (tokens)", 1, 4096, 64, key=f"max-{generation}")
        documents = right.toggle("Answer from documents", key=f"documents-{generation}")
        timing = right.radio("When", ["Now", "On a schedule"], horizontal=True, key=f"when-{generation}")
        cron = None
        if timing == "On a schedule":
            preset = right.selectbox("Schedule", [*SCHEDULES, "Cron expression"], key=f"preset-{generation}")
            cron = SCHEDULES.get(preset) or right.text_input(
                "Cron: minute hour day month weekday", "30 7 * * mon-fri", key=f"cron-{generation}"
            )
            right.caption(f"In the server's time zone, {runtime.jobs.zone}.")
        if st.button("Run now" if cron is None else "Schedule", type="primary", key=f"create-{generation}"):
            try:
                data = file.getvalue() if file else typed.encode()
                source = file.name if file else "The text"
                prompts = runtime.jobs.prompts(source, data)
                job = runtime.jobs.create(
                    name or (file.name if file else prompts[0][:40]), prompts, system=system,
                    max_tokens=int(max_tokens), documents=documents, cron=cron,
                )
                if cron is None:
                    runtime.jobs.run(job.id)
            except TenfoldError as error:
                st.error(plain(error.message))
                return
            st.session_state["job-form"] = generation + 1
            st.rerun()


def draw_job(runtime: Runtime, job: Job, runs: list[JobRun]) -> None:
    """A job with its runs."""
    with st.container(border=True):
        title, buttons = st.columns([5, 3], vertical_alignment="center")
        schedule = f" · `{job.cron}`, next {when(job.next_run)} ({runtime.jobs.zone})" if job.cron else ""
        title.markdown(f"**{plain(job.name)}** · {counted(job.total, 'prompt')}{schedule}")
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            going_on = any(run.open for run in runs)
            press(
                "Run now", partial(runtime.jobs.run, job.id), key=f"run-{job.id}", icon=":material/play_arrow:",
                disabled=going_on,
            )
            press(
                "", partial(runtime.jobs.delete, job.id), key=f"delete-{job.id}", icon=":material/delete:",
                help="Delete with its results",
            )
        if job.note:
            st.caption(f":material/event_busy: {plain(job.note)}")
        for run in runs:
            if run.open:
                draw_open(runtime, run.id)
            else:
                draw_run(runtime, run)


@st.fragment(run_every=1.0)
def draw_open(runtime: Runtime, run_id: str) -> None:
    """A run that goes on, drawn anew by itself, so that what has ended stays as it is under the reader's hand."""
    after_press()
    try:
        run = runtime.jobs.progress(run_id)
    except NotFoundError:
        st.rerun()
    if not run.open:
        st.rerun()
    draw_run(runtime, run)


def draw_run(runtime: Runtime, run: JobRun) -> None:
    """One run: how far it is, and its result."""
    state, bar, facts, button = st.columns([1.3, 4, 4, 1.7], vertical_alignment="center")
    state.markdown(STATES[run.state])
    bar.progress(min(run.done / max(run.total, 1), 1.0), text=f"{run.done:,} of {run.total:,}")
    took = seconds(run.finished - run.started) if run.finished and run.started else None
    cost = plain(money(run.cost))
    parts = [when(run.created), *([took] if took else []), counted(run.output_tokens, "token"), cost]
    if run.failed:
        parts.append(f":red[{run.failed} failed]")
    facts.caption(" · ".join(parts))
    if run.open:
        press("Cancel", partial(runtime.jobs.cancel, run.id), key=f"cancel-{run.id}", place=button, width="stretch")
    elif run.done:  # by the API, which streams it: a page would hold it whole
        button.link_button("Result", f"/api/jobs/runs/{run.id}/results", width="stretch")
    if run.reason:
        (st.warning if run.open else st.error)(plain(run.reason))


def main() -> None:
    """Draw the page."""
    runtime = current()
    st.caption("Jobs run on a queue of their own: people who chat or call the API never wait for them.")
    refusal()
    new_job(runtime)
    jobs = runtime.jobs.find()
    if not jobs:
        st.info("No jobs yet. Type some prompts above, one a line, and run them.", icon=":material/schedule:")

    if (count := runtime.jobs.count()) > len(jobs):
        st.caption(f"The latest {len(jobs):,} of {count:,} jobs.")

    def latest(jobs: list[Job]) -> Mapping[str, list[JobRun]]:
        return runtime.jobs.latest([job.id for job in jobs])

    def states(jobs: list[Job], runs: Mapping[str, list[JobRun]]) -> dict[str, tuple[str, list[tuple[str, bool]]]]:
        return {job.id: (job.note, [(run.id, run.open) for run in runs.get(job.id, [])]) for job in jobs}

    shown = latest(jobs)
    for job in jobs:
        draw_job(runtime, job, shown.get(job.id, []))

    @st.fragment(run_every=3.0)
    def watch() -> None:
        """What a schedule, another tab or a program has begun, ended or deleted."""
        now = runtime.jobs.find()
        if states(now, latest(now)) != states(jobs, shown):
            st.rerun()

    watch()


main()
