"""The dialog that makes a job: prompts, how they are answered, when, and what that will take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from backend.errors import InvalidInputError, TenfoldError
from backend.runtime import Runtime
from pages.caller import current_caller
from pages.drawing.figures import counted, money, seconds, when
from pages.drawing.untrusted import opening, plain

if TYPE_CHECKING:
    from backend.jobs.estimate import Estimate

SCHEDULES = {
    "Every night at 2:00": "0 2 * * *",
    "Every hour": "0 * * * *",
    "Monday to Friday at 7:30": "30 7 * * mon-fri",
    "Every Monday at 6:00": "0 6 * * mon",
}
OWN = "Another schedule"
TYPED, FILE = "Type them", "From a file"
NOW, SCHEDULED = "Now", "On a schedule"
OPEN, TURN, READ = "job-form-open", "job-form-turn", "job-form-read"
SHOWN = 3
"""Prompts that the preview shows, and runs that a schedule's does."""


def open_form() -> None:
    """Show the dialog, empty, from the next drawing of the page on until it is left."""
    st.session_state[OPEN] = True
    st.session_state[TURN] = st.session_state.get(TURN, 0) + 1


def form_if_open(runtime: Runtime) -> None:
    """Draw the dialog where it is open: it stays over whatever has the page drawn anew."""
    if st.session_state.get(OPEN):
        _form(runtime)


def _close() -> None:
    st.session_state.pop(OPEN, None)
    st.session_state.pop(READ, None)


@st.dialog("New job", width="medium", on_dismiss=_close)
def _form(runtime: Runtime) -> None:
    turn = st.session_state[TURN]
    try:
        source, prompts = _prompts(runtime, turn)
        problem = ""
    except InvalidInputError as error:
        source, prompts, problem = "", [], error.message
    # One place whether there is something to say or not: a field that moves is made anew, without what was typed in it.
    with st.container(gap=None):
        if problem:
            st.error(plain(problem))
        _preview(prompts)
    left, right = st.columns([3, 2])
    name = left.text_input("Name", placeholder=_name(source, prompts) or "What you will know it by", key=f"name-{turn}")
    max_tokens = int(right.number_input("Longest answer, in tokens", 1, 4096, 128, key=f"max-{turn}"))
    documents = st.toggle(
        "Answer from documents", key=f"documents-{turn}", help="Passages of your documents go with each prompt."
    )
    with st.expander("More options"):
        system = st.text_area(
            "Instructions for every prompt", key=f"system-{turn}", height=80, help="The system prompt.",
            placeholder="Answer in one sentence.",
        )  # fmt: skip
        temperature = st.slider(
            "Temperature", 0.0, 2.0, 0.0, 0.1, key=f"temperature-{turn}",
            help="0 gives the same answer every time; higher is more varied.",
        )  # fmt: skip
    timing = st.segmented_control("When", [NOW, SCHEDULED], default=NOW, required=True, key=f"when-{turn}")
    cron = _schedule(runtime, turn) if timing == SCHEDULED else None
    if prompts:
        _estimate(runtime, prompts, system, max_tokens, documents)
    if st.button("Schedule" if timing == SCHEDULED else "Run now", type="primary", key=f"create-{turn}"):
        try:
            if not prompts and not problem:
                raise InvalidInputError("There is nothing to run yet: give at least one prompt.")
            if problem:
                return
            key_id = current_caller().id
            runtime.budgets.take(key_id)
            job = runtime.jobs.create(
                name.strip() or _name(source, prompts), prompts, system=system, max_tokens=max_tokens,
                temperature=temperature, documents=documents, cron=cron, key_id=key_id,
            )  # fmt: skip
            if timing == NOW:
                runtime.jobs.run(job.id, key_id=key_id)
        except TenfoldError as error:
            st.error(plain(error.message))
            return
        _close()
        st.rerun()


def _prompts(runtime: Runtime, turn: int) -> tuple[str, list[str]]:
    """The name of their file, empty where they are typed, and the prompts; a file is read once, not at every touch."""
    how = st.segmented_control("Prompts", [TYPED, FILE], default=TYPED, required=True, key=f"how-{turn}")
    if how == TYPED:
        typed = st.text_area(
            "One prompt a line", key=f"typed-{turn}", height=120,
            placeholder="Summarize the handbook in one sentence.\nHow many steps does the tower have?",
        )  # fmt: skip
        return "", runtime.jobs.prompts("The text", typed.encode()) if typed.strip() else []
    file = st.file_uploader(
        "A text file with one prompt a line, or CSV, JSON or JSON Lines with a field “prompt”",
        type=["txt", "csv", "jsonl", "ndjson", "json"], key=f"file-{turn}",
    )  # fmt: skip
    if file is None:
        return "", []
    known = st.session_state.get(READ)
    if known is None or known[0] != file.file_id:
        known = file.file_id, runtime.jobs.prompts(file.name, file.getvalue())
        st.session_state[READ] = known
    return file.name, known[1]


def _name(source: str, prompts: list[str]) -> str:
    """What a job is called that nobody named."""
    return source or (opening(prompts[0], 40) if prompts else "")


def _preview(prompts: list[str]) -> None:
    if not prompts:
        return
    lines = [f"**{counted(len(prompts), 'prompt')}**", *(plain(opening(prompt)) for prompt in prompts[:SHOWN])]
    if len(prompts) > SHOWN:
        lines.append(f"… and {len(prompts) - SHOWN:,} more")
    st.caption("  \n".join(lines))


def _schedule(runtime: Runtime, turn: int) -> str:
    """The five fields that were chosen, with what they mean and when they fire next."""
    preset = st.selectbox("How often", [*SCHEDULES, OWN], key=f"preset-{turn}")
    cron = SCHEDULES.get(preset or "")
    if cron is None:
        cron = st.text_input("Minute, hour, day, month, weekday, as in a crontab", "0 9 1 * *", key=f"cron-{turn}")
    try:
        words, times = runtime.jobs.in_words(cron), runtime.jobs.upcoming(cron, SHOWN)
    except InvalidInputError as error:
        st.error(plain(error.message))
        return cron
    following = " · ".join(when(time) for time in times)
    st.caption(
        f"**{plain(words)}**, on the server's clock ({plain(runtime.jobs.zone)}).  \nNext, on yours: {plain(following)}"
    )
    return cron


def _estimate(runtime: Runtime, prompts: list[str], system: str, max_tokens: int, documents: bool) -> None:
    if not runtime.texts.ready:
        st.caption("What it will take is told once the model is loaded.")
        return
    found = runtime.jobs.estimate(prompts, system=system, max_tokens=max_tokens, documents=documents)
    st.caption(estimate_in_words(found, len(prompts) * max_tokens))


def estimate_in_words(found: Estimate, most_tokens: int) -> str:
    """What a job will take, as Markdown; what is not known says so."""
    read = f"{counted(found.prompt_tokens, 'token')} to read" if found.prompt_tokens is not None else "Some to read"
    if found.likely is None or found.most is None:
        return f"{read}, at most {most_tokens:,} to write. Time and cost are not known before the first run."
    likely, most = found.likely, found.most
    return (
        f"**About {seconds(likely.seconds)} and {plain(money(likely.cost))}**: {read}, about "
        f"{likely.output_tokens:,} to write. At most {seconds(most.seconds)} and {plain(money(most.cost))}, if every "
        f"answer is as long as it may be. From {counted(found.answers, 'earlier answer')} on this machine."
    )
