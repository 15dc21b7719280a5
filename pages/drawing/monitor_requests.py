"""Monitor, requests: those being served, which can be cancelled, those that ended, and one request's way."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from backend.access.caller import Role
from backend.runtime import Runtime
from pages.caller import current_caller
from pages.drawing.acts import after_press, press
from pages.drawing.figures import DOLLAR, SECOND, amounts, moment, money, seconds
from pages.drawing.monitor_live import SOURCES
from pages.drawing.populations import Filter
from pages.drawing.untrusted import code, plain

if TYPE_CHECKING:
    from backend.metering.request_list import Request

ROWS = 50
STATES = {"stop": "done", "length": "done, at its longest", "abort": "cancelled", "error": "failed",
          "cached": "given again", "reply": "without the model"}  # fmt: skip


def request_table(runtime: Runtime, span: int, shown: Filter, every: float) -> None:
    """Draw the view."""
    st.fragment(run_every=every)(lambda: running(runtime, shown))()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        search = st.text_input("Find", key="request-search", placeholder="Beginning of a request's id, or a key's id")
        number = st.number_input("Page", 1, 20, 1, key="request-page", width=120)
    found = runtime.ledger.queries.requests(
        time.time() - span, None, shown.populations, limit=ROWS, offset=(number - 1) * ROWS, search=search,
        states=shown.states,
    )  # fmt: skip
    own = current_caller()
    owns = own.role.covers(Role.ADMIN)  # what others asked is nobody else's business
    found = [one for one in found if owns or one.entry.tenant == own.tenant]
    if not found:
        st.info("No request of this kind ended in this range. Choose a longer range or another kind above.")
        return
    keys = {key.id: key.name for key in runtime.access.keys.latest()} if owns else {}
    costs = amounts(one.dollars for one in found)
    rows = [row(one, cost, keys) for one, cost in zip(found, costs, strict=True)]
    event = st.dataframe(
        rows, hide_index=True, width="stretch", key="request-rows", on_select="rerun", selection_mode="single-row",
        height=min(36 * (len(rows) + 1) + 2, 560),
    )  # fmt: skip
    with st.container(horizontal=True):
        st.caption(f"{len(found)} requests, the latest first. Choose one to see its way.")
        if st.button("Refresh", key="request-refresh"):
            st.rerun()
    chosen = event["selection"]["rows"]
    if chosen and chosen[0] < len(found):
        way(runtime, found[chosen[0]].entry.request_id)


def running(runtime: Runtime, shown: Filter) -> None:
    """Requests that have not ended."""
    after_press()
    source, now = SOURCES.get(shown.name), time.time()
    own = current_caller()
    active = [
        g for g in runtime.generations.active.values()
        if g.request.source == source and not g.ended
        and (own.role.covers(Role.ADMIN) or g.request.tenant == own.tenant)
    ]  # fmt: skip
    if not active:
        st.caption("None of these is being served now.")
        return
    for generation in sorted(active, key=lambda g: g.created)[:ROWS]:
        with st.container(horizontal=True, vertical_alignment="center"):
            state = f"{len(generation.pieces)} tokens written" if generation.pieces else "waiting for its first token"
            st.markdown(f"{code(generation.id[:12])} · {state} · {seconds(now - generation.created)}")
            if own.role.covers(Role.ADMIN):
                press("Cancel", partial(runtime.generations.cancel, generation), key=f"cancel-{generation.id}")


def row(request: Request, cost: str, keys: dict[str, str]) -> dict[str, str | int | None]:
    """One line of the table."""
    e = request.entry
    return {
        "ended": moment(e.finished_ns / SECOND).strftime("%d %b %H:%M:%S"),
        "source": e.source,
        "key": keys.get(e.key_id, e.key_id) or "–",
        "in": e.prompt_tokens,
        "cached": e.cached_tokens,
        "out": e.output_tokens,
        "first token": seconds(e.ttft_ns / SECOND) if e.ttft_ns is not None else "–",
        "in all": seconds(e.latency_ns / SECOND),
        "cost": cost,
        "state": STATES.get(e.outcome, str(e.outcome)),
        "id": e.request_id,
    }


def way(runtime: Runtime, request_id: str) -> None:
    """One request from its search to its last token."""
    found = runtime.ledger.queries.request(request_id)
    if found is None:
        st.warning("This request is no longer in the ledger.")
        return
    e = found.entry
    with st.container(border=True):
        st.markdown(f"##### Request {code(request_id)}")
        total = sum(step.seconds for step in found.way) or 1.0
        for step in found.way:
            st.progress(min(step.seconds / total, 1.0), text=f"{step.name.capitalize()}: {seconds(step.seconds)}")
        st.markdown(
            f"{e.prompt_tokens:,} tokens in, {e.cached_tokens:,} of them cached, {e.output_tokens:,} out · "
            f"{e.accepted_tokens:,} of {e.drafted_tokens:,} guessed tokens right · machine time "
            f"{seconds(e.compute_ns / SECOND)} · {plain(money(found.dollars))} · weights {plain(e.variant or '–')} · "
            f"path {plain(e.path)}"
        )
        if e.error:
            st.error(plain(e.error))
        if found.price is not None:
            st.caption(f"Priced as {plain(found.price.name)}, {plain(money(found.price.per_hour / DOLLAR))} an hour.")
        if found.switches is not None:
            with st.expander("Switches in force"):
                st.json(found.switches)
