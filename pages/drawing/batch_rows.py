"""Batches that programs made over the API, as rows: what each is doing, how far it is, and its files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.access.caller import Caller, Role
from backend.runtime import Runtime
from pages.drawing.acts import press
from pages.drawing.figures import counted, money, seconds, when
from pages.drawing.untrusted import opening, plain

if TYPE_CHECKING:
    from backend.store.tables.batches import Batch

STATES = {
    "validating": ":gray-badge[being checked]",
    "in_progress": ":blue-badge[running]",
    "finalizing": ":blue-badge[writing its files]",
    "cancelling": ":orange-badge[being cancelled]",
    "completed": ":green-badge[done]",
    "failed": ":red-badge[cannot be run]",
    "expired": ":orange-badge[its time was over]",
    "cancelled": ":orange-badge[cancelled]",
}
WAITING = ":orange-badge[waiting]"
GAP = "&ensp;"
FAULTS = 3
"""Of a file's, that a row tells."""


def batch_row(runtime: Runtime, batch: Batch, caller: Caller) -> None:
    """A batch: the name of its file and its state, how far it is, what it took, and its buttons."""
    with st.container(border=True, key=f"batch-{batch.id}", gap="xxsmall"):
        title, buttons = st.columns([3, 2], vertical_alignment="center")
        title.markdown(f"**{plain(opening(batch.input_name, 60))}**{GAP}{state(batch)}")
        with buttons.container(horizontal=True, horizontal_alignment="right", gap="small"):
            # By the API, which streams them: a page would hold them whole.
            if batch.output_file_id:
                st.link_button("Output", f"/v1/files/{batch.output_file_id}/content", help="The answers, JSON Lines")
            if batch.error_file_id:
                st.link_button("Errors", f"/v1/files/{batch.error_file_id}/content", help="What failed, JSON Lines")
            if batch.status in ("validating", "in_progress"):
                press("Cancel", partial(_cancel, runtime, batch.id, caller), key=f"cancel-{batch.id}")
        if batch.open:
            st.progress(min((batch.completed + batch.failed) / max(batch.total, 1), 1.0))
        st.caption(facts(batch))
        if batch.waiting:
            st.caption(plain(batch.waiting))
        for fault in batch.errors[:FAULTS]:
            where = f"Line {fault['line']:,}: " if fault.get("line") else ""
            st.caption(f":red[{plain(where + str(fault['message']))}]")
        if len(batch.errors) > FAULTS:
            st.caption(f"… and {len(batch.errors) - FAULTS:,} more")


def _cancel(runtime: Runtime, batch_id: str, caller: Caller) -> None:
    caller.require(Role.USER)
    runtime.batches.cancel(batch_id, caller.tenant)


def state(batch: Batch) -> str:
    """What a batch does, as a badge; one with requests that failed says so."""
    failures = f" :red-badge[{batch.failed:,} failed]" if batch.failed else ""
    waits = batch.waiting and batch.status == "in_progress"
    return (WAITING if waits else STATES[batch.status]) + failures


def facts(batch: Batch) -> str:
    """Where its requests go, how many have their answers, when, and for how much, as one line."""
    parts = [plain(batch.endpoint)]
    if batch.total:
        parts.append(f"{batch.completed + batch.failed:,} of {counted(batch.total, 'request')}")
    parts.append(when(batch.created))
    if batch.ended_at and batch.in_progress_at:
        parts.append(seconds(batch.ended_at - batch.in_progress_at))
    if batch.output_tokens:
        parts.append(counted(batch.output_tokens, "token"))
    if batch.completed:
        parts.append(plain(money(batch.cost)))
    return " · ".join(parts)
