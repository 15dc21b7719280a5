"""Run a file of prompts through the model, now or on a schedule, behind everybody who waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime, current
from pages.drawing.figures import counted, money, seconds, when
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.jobs.service import Progress
    from backend.store.tables import Job

SCHEDULES = {
    "Every hour": "0 * * * *",
    "Every night at 2:00": "0 2 * * *",
    "Every Monday at 6:00": "0 6 * * mon",
}
STATES = {
    "queued": ":gray-badge[queued]", "running": ":blue-badge[running]", "done": ":green-badge[done]",
    "failed": ":red-badge[failed]", "cancelled": ":orange-badge[cancelled]",
}


def new_job(runtime: Runtime) -> None:
    """The form for a new job."""
    generation = st.session_state.setdefault("job-form", 0)
    with st.expander("New job", icon=":material/add:", expanded=not runtime.jobs.find()):
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
        if st.button("Run now" if cron is None else "Schedule", type="primary", key=f"create-{generation}"):
            try:
                data = file.getvalue() if file else typed.encode()
                source = file.name if file else "The text"
                prompts = runtime.jobs.prompts(source if file else "typed.txt", data)
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


def draw_job(runtime: Runtime, job: Job, runs: list[Progress]) -> None:
    """A job with its runs."""
    with st.container(border=True):
        title, buttons = st.columns([5, 3], vertical_alignment="center")
        following = runtime.jobs.next_run(job.id)
        schedule = f" · `{job.cron}`, next {when(following)}" if job.cron else ""
        title.markdown(f"**{plain(job.name)}** · {counted(len(job.prompts), 'prompt')}{schedule}")
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            if st.button("Run now", key=f"run-{job.id}", icon=":material/play_arrow:"):
                runtime.jobs.run(job.id)
                st.rerun()
            if st.button("", key=f"delete-{job.id}", icon=":material/delete:", help="Delete with its results"):
                runtime.jobs.delete(job.id)
                st.rerun()
        for progress in runs:
            if progress.open:
                draw_open(runtime, job, progress.run.id)
            else:
                draw_run(runtime, progress)


@st.fragment(run_every=1.0)
def draw_open(runtime: Runtime, job: Job, run_id: str) -> None:
    """A run that goes on, drawn anew by itself, so that what has ended stays as it is under the reader's hand."""
    progress = next((p for p in runtime.jobs.runs(job.id) if p.run.id == run_id), None)
    if progress is None or not progress.open:
        st.rerun()
    draw_run(runtime, progress)


def draw_run(runtime: Runtime, progress: Progress) -> None:
    """One run: how far it is, and its result."""
    run = progress.run
    state, bar, facts, button = st.columns([1.3, 4, 4, 1.7], vertical_alignment="center")
    state.markdown(STATES[run.state])
    bar.progress(min(progress.done / max(run.total, 1), 1.0), text=f"{progress.done:,} of {run.total:,}")
    took = seconds(run.finished - run.started) if run.finished and run.started else None
    cost = plain(money(progress.cost))
    parts = [when(run.created), *([took] if took else []), counted(progress.output_tokens, "token"), cost]
    if progress.failed:
        parts.append(f":red[{progress.failed} failed]")
    facts.caption(" · ".join(parts))
    if progress.open:
        if button.button("Cancel", key=f"cancel-{run.id}", width="stretch"):
            runtime.jobs.cancel(run.id)
            st.rerun()
    elif progress.done:
        button.download_button(
            "Result", lambda: "".join(runtime.jobs.results(run.id)), file_name=f"result-{run.id[:8]}.jsonl",
            mime="application/jsonl", key=f"result-{run.id}", on_click="ignore", width="stretch",
        )
    if run.reason:
        st.error(plain(run.reason))


def main() -> None:
    """Draw the page."""
    runtime = current()
    st.title("Jobs")
    st.caption("Jobs run on a queue of their own: people who chat or call the API never wait for them.")
    new_job(runtime)
    jobs = runtime.jobs.find()
    if not jobs:
        st.info("No jobs yet. Type some prompts above, one a line, and run them.", icon=":material/schedule:")

    def latest() -> dict[str, list[Progress]]:
        return {job.id: runtime.jobs.runs(job.id, limit=5) for job in runtime.jobs.find()}

    def states(runs: dict[str, list[Progress]]) -> dict[str, list[tuple[str, bool]]]:
        return {job: [(p.run.id, p.open) for p in those] for job, those in runs.items()}

    shown = latest()
    for job in jobs:
        draw_job(runtime, job, shown.get(job.id, []))

    @st.fragment(run_every=3.0)
    def watch() -> None:
        """What a schedule, another tab or a program has begun, ended or deleted."""
        if states(latest()) != states(shown):
            st.rerun()

    watch()


main()
