"""The results of one run as a table that is searched, what failed first, and one of them read whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from backend.errors import NotFoundError
from backend.runtime import Runtime
from pages.drawing.figures import amounts, counted
from pages.drawing.job_runs import CHOSEN, GAP, facts, state
from pages.drawing.untrusted import plain, prose

if TYPE_CHECKING:
    from backend.jobs.results import ResultRow

ROWS = 100
"""Results of one page of the table."""
LONG, LONG_HEIGHT = 1500, 240
"""Letters from which a prompt scrolls by itself, and in how many pixels."""


def results(runtime: Runtime, run_id: str) -> None:
    """Draw them, with the way back to all runs."""
    st.button("Back to all runs", on_click=_leave, key="leave-results")
    try:
        run = runtime.jobs.progress(run_id)
        job = runtime.jobs.get(run.job_id)
    except NotFoundError as error:
        st.info(plain(error.message))
        return
    st.markdown(f"#### {plain(job.name)}{GAP}{state(run)}")
    st.caption(facts(run))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        contains = st.text_input(
            "Search prompts and answers", key=f"search-{run_id}", placeholder="Search prompts and answers",
            label_visibility="collapsed", width=360,
        )  # fmt: skip
        failed = bool(run.failed) and st.toggle("Only failed", key=f"only-failed-{run_id}")
        # By the API, which streams it: a page would hold it whole.
        st.link_button("Download all", f"/api/jobs/runs/{run_id}/results", help="JSON Lines, one result a line")
        if run.open:
            _watch(runtime, run_id, run.done)
    found = runtime.jobs.result_table(run_id, contains=contains, failed=failed, limit=1)
    if not found.total:
        st.caption("Nothing here contains this." if contains else "Nothing is finished yet.")
        return
    pages, offset = -(-found.total // ROWS), 0
    if pages > 1:
        page = st.number_input(f"Page of {pages:,}", 1, pages, 1, key=f"page-{run_id}-{contains}-{failed}", width=160)
        offset = (int(page) - 1) * ROWS
    table = runtime.jobs.result_table(run_id, contains=contains, failed=failed, offset=offset, limit=ROWS)
    _table(run_id, table.rows, f"{contains}-{failed}-{offset}")


def _table(run_id: str, rows: list[ResultRow], view: str) -> None:
    chosen = st.dataframe(
        {
            "No.": [row.position + 1 for row in rows],
            "Prompt": [row.prompt for row in rows],
            "Answer": [row.error or row.answer for row in rows],
            "Outcome": [_outcome(row) for row in rows],
            "Tokens": [row.output_tokens for row in rows],
            "Cost": amounts(row.cost for row in rows),
        },
        key=f"table-{run_id}-{view}", on_select="rerun", selection_mode="single-row", hide_index=True,
        column_config={
            "No.": st.column_config.NumberColumn(width=60), "Prompt": st.column_config.TextColumn(width="medium"),
            "Answer": st.column_config.TextColumn(width="large"), "Outcome": st.column_config.TextColumn(width=100),
            "Tokens": st.column_config.NumberColumn(width=80), "Cost": st.column_config.TextColumn(width=110),
        },
    )  # fmt: skip
    picked = chosen.selection.rows
    if not picked or picked[0] >= len(rows):
        st.caption("Mark a row to read it whole.", help="By keyboard: arrows lead to a row, Shift and space mark it.")
        return
    row = rows[picked[0]]
    with st.container(border=True):
        st.caption("Why it failed" if row.error else f"Answer · {counted(row.output_tokens, 'token')}")
        st.markdown(prose(row.error or row.answer or "(empty)"))
        st.caption(f"Prompt {row.position + 1:,}")
        with st.container(height=LONG_HEIGHT if len(row.prompt) > LONG else "content", border=False):
            st.markdown(prose(row.prompt))


def _outcome(row: ResultRow) -> str:
    if row.error:
        return "failed"
    return "cut short" if row.finish_reason == "length" else "answered"


def _leave() -> None:
    st.query_params.pop(CHOSEN, None)


def _watch(runtime: Runtime, run_id: str, done: int) -> None:
    """Say that there are more results by now; the table under the reader's hand stays as it is."""

    @st.fragment(run_every=2.0)
    def more() -> None:
        try:
            now = runtime.jobs.progress(run_id)
        except NotFoundError:
            st.rerun()
        if not now.open:
            st.rerun()
        news = f"Show {counted(now.done - done, 'new result')}"
        if st.button(news, key=f"more-{run_id}", disabled=now.done == done):
            st.rerun()

    more()
