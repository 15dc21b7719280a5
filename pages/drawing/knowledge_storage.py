"""What is kept so that nothing is computed twice, and reading documents anew; computed only while it is open."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.acts import press, press_after_asking
from pages.drawing.figures import amounts, counted, money, seconds, size
from pages.drawing.knowledge_access import may_change, may_forget
from pages.drawing.untrusted import plain


def storage(runtime: Runtime) -> None:
    """Draw the drawer."""
    drawer = st.expander("Storage and reading again", key="storage", on_change="rerun")
    if drawer.open:
        with drawer:
            _kept(runtime)
            if may_change():
                _reading_again(runtime)


def _kept(runtime: Runtime) -> None:
    """What is never computed twice, and what that saved."""
    price = runtime.prices.current.per_hour / 3600
    vectors, answers = runtime.embeddings.kept.statistics(), runtime.answers.statistics()
    saved = vectors.tokens_saved * runtime.ledger.embedding_rate()
    worth, of_answers = amounts([saved * price, answers.seconds_saved * price])
    st.markdown("##### Kept so that nothing is computed twice")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**Embeddings** of {counted(vectors.entries, 'text')}, {size(vectors.bytes)}. "
            f"{_used(vectors.hits)}: {counted(vectors.tokens_saved, 'token')} not read again, {seconds(saved)} and "
            f"{plain(worth)} saved."
        )
        if may_forget():
            press_after_asking(
                "Forget unused",
                "Embeddings that no document has any more are forgotten, and those of questions and of texts sent to "
                "the API. They are computed again where they are needed.",
                runtime.embeddings.forget_unused, key="forget-vectors", yes="Forget", disabled=not vectors.entries,
            )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**Answers** to {counted(answers.entries, 'question')}. {_used(answers.hits)}: "
            f"{seconds(answers.seconds_saved)} of the engine and {plain(of_answers)} saved."
        )
        if may_forget():
            press_after_asking(
                "Forget all", "All kept answers are forgotten. The same question is computed again.",
                runtime.answers.clear, key="forget-answers", yes="Forget", disabled=not answers.entries,
            )  # fmt: skip


def _used(times: int) -> str:
    return "Used once" if times == 1 else f"Used {times:,} times"


def _reading_again(runtime: Runtime) -> None:
    """Read documents anew, with what it would take said before."""
    st.markdown("##### Read documents again")
    if not runtime.texts.ready:
        st.caption("The models are still being loaded.")
        return
    sight = current_sight()
    st.caption(
        "For after the size of a part or the embedding model was changed. Documents answer while they are read again, "
        "and parts that stay the same keep their embeddings."
    )
    for key, plan, which in (
        ("stale", runtime.planner.stale(sight), "read with other settings than now"),
        ("all", runtime.planner.everything(sight), "in all"),
    ):
        cost = f"{seconds(plan.seconds)} and {plain(money(plan.cost))}"
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(
                f"**{counted(len(plan.documents), 'document')}** {which}"
                + (f": at most {counted(plan.chunks, 'embedding')}, about {cost}." if plan.documents else ".")
            )
            press(
                "Read again", partial(runtime.documents.reread, plan.documents, sight), key=f"reread-{key}",
                disabled=not plan.documents,
            )  # fmt: skip
