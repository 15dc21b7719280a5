"""Upload documents, see what became of them, their versions and chunks, and what the caches saved."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from backend.access.caller import LOCAL, Role
from backend.errors import TenfoldError
from backend.runtime import Runtime, current
from pages.caller import current_caller, current_sight
from pages.drawing.acts import act, after_press, press, refusal
from pages.drawing.collections import collection_labels
from pages.drawing.document import details
from pages.drawing.figures import counted, money, seconds, size, when
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.store.tables.documents import Document

STATES = {
    "queued": ":gray-badge[:material/schedule: queued]",
    "parsing": ":blue-badge[:material/article: reading]",
    "embedding": ":blue-badge[:material/hub: embedding]",
    "ready": ":green-badge[:material/check: ready]",
    "failed": ":red-badge[:material/error: failed]",
}
EVERYTHING = "All collections"
ROWS = 100


def pieces(file: Any) -> Iterator[bytes]:
    """An uploaded file's bytes, a megabyte at a time."""
    file.seek(0)
    while piece := file.read(1 << 20):
        yield piece


def take_in(runtime: Runtime, file: Any, collection: str) -> list[str]:
    """Store a file, or every file of a zip archive; returns what was refused and why."""
    sight = current_sight()
    try:
        if not file.name.lower().endswith(".zip"):
            runtime.uploads.upload(file.name, pieces(file), sight, collection)
            return []
        with tempfile.NamedTemporaryFile(suffix=".zip") as aside:
            for piece in pieces(file):
                aside.write(piece)
            aside.flush()
            _, refused = runtime.uploads.upload_archive(file.name, Path(aside.name), sight, collection)
            return refused
    except TenfoldError as error:
        return [error.message]
    except OSError as error:
        return [f"{file.name} cannot be unpacked here: {error.strerror or error}."]


def has_others() -> bool:
    """Whether there is anybody from whom to keep something: callers are told apart."""
    return current_caller() != LOCAL


def uploader(runtime: Runtime) -> None:
    """Drop files, a folder or a zip archive; they are taken in as soon as they are here."""
    generation = st.session_state.setdefault("uploads", 0)
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with right:
        collection = st.text_input(
            "Into collection", runtime.collections.default, help="A new name makes a new collection."
        )
        private = collection.strip() not in collection_labels(runtime) and has_others() and st.toggle(
            "Private", help="Only your keys and administrators see this new collection."
        )
        folder = st.toggle("A whole folder", help="Choose a folder instead of files.")
    with left:
        files = st.file_uploader(
            "Drop files or zip archives. A changed file of a known name becomes its new version.",
            accept_multiple_files="directory" if folder else True,
            key=f"uploader-{generation}-{folder}",
            help=f"Read are {', '.join(s.removeprefix('.') for s in runtime.uploads.supported)}.",
        )
    if not files:
        return
    try:
        if private:
            runtime.collections.define(collection, current_sight(), private=True)
        st.session_state["refused"] = [reason for file in files for reason in take_in(runtime, file, collection)]
    except TenfoldError as error:
        st.session_state["refused"] = [error.message]
    st.session_state["uploads"] = generation + 1  # a new key lets go of the files' memory
    st.rerun()


def facts(runtime: Runtime, document: Document) -> str:
    """What there is to say about a document in one line."""
    about = [size(document.size)]
    if document.version > 1 or document.latest > 1:
        about.append(f"version {document.version or '–'}")
    if document.state == "ready":
        known = f", {document.reused} known already" if document.reused else ""
        about += [f"{counted(document.chunk_count, 'chunk')}{known}", f"read in {seconds(document.seconds)}"]
    about.append(when(document.created))
    return " · ".join(about)


def progress(runtime: Runtime, document: Document) -> None:
    """How far reading has come, how fast, and for how long yet."""
    rate = runtime.reader.rate(document.id)
    text = size(document.size)
    if rate is not None and rate.per_second:
        text = f"{rate.done:,} of {rate.total:,} chunks · {rate.per_second:.0f} a second · {seconds(rate.left)} left"
    st.progress(document.progress, text=text)


def row(runtime: Runtime, document: Document, collections: list[str], labels: dict[str, str]) -> None:
    """One document, and what its collections are called."""
    with st.container(border=True):
        pending = runtime.documents.is_pending(document)
        name, state, about, buttons = st.columns([4, 1.5, 5, 2.4], vertical_alignment="center")
        name.markdown(f"**{plain(document.name)}**")
        others = [c for c in collections if c != runtime.collections.default]
        if others:
            name.markdown(" ".join(f":violet-badge[{plain(labels.get(c, c))}]" for c in others))
        state.markdown(STATES[document.state])
        with about:
            if pending:
                progress(runtime, document)
                if document.build:
                    st.caption(f"Version {document.version} answers until this one is ready.")
            else:
                st.caption(facts(runtime, document))
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            shown = st.session_state.get("shown") == document.id
            if document.build and st.button("Close" if shown else "Open", key=f"open-{document.id}"):
                st.session_state["shown"] = None if shown else document.id
                st.rerun()
            documents, at = runtime.documents, (document.id, current_sight())
            if document.state == "failed":
                press("Retry", partial(documents.retry, *at), key=f"retry-{document.id}")
            if pending:
                press("Cancel", partial(documents.cancel, *at), key=f"cancel-{document.id}")
            press(
                "", partial(documents.delete, *at), key=f"delete-{document.id}", icon=":material/delete:", help="Delete"
            )
        if document.state == "failed":
            st.error(plain(document.reason), icon=":material/error:")
            if document.build:
                st.caption(f"Version {document.version} still answers.")
        if shown and document.build:
            details(runtime, document, collections)


def empty(runtime: Runtime) -> None:
    """What to do when there is nothing yet."""
    with st.container(border=True):
        st.markdown("#### No documents yet")
        st.write("Drop files above, or try it with three short sample documents.")
        if st.button("Load the sample documents", type="primary", icon=":material/library_add:"):
            act(runtime.samples.load)


def collection_menu(runtime: Runtime, name: str) -> None:
    """What can be done with the collection that is shown."""
    sight = current_sight()
    listed = next((row for row in runtime.collections.listed(sight) if row.name == name), None)
    if listed is None:
        return
    try:
        with st.container(horizontal=True):
            if not listed.documents and st.button("Delete this empty collection"):
                runtime.collections.delete(name, sight)
                st.rerun()
            if listed.private and st.button("Show it to everybody", icon=":material/lock_open:"):
                runtime.collections.define(name, sight, private=False)
                st.rerun()
            may_hide = not listed.private and name != runtime.collections.default and has_others()
            takes_nothing = sight.everything or not listed.documents
            if may_hide and takes_nothing and st.button("Make it private", icon=":material/lock:"):
                runtime.collections.define(name, sight, private=True)
                st.rerun()
    except TenfoldError as error:
        st.error(plain(error.message))


def table(runtime: Runtime) -> None:
    """The documents of a collection; redrawn while some are being read."""
    sight = current_sight()
    labels = {EVERYTHING: EVERYTHING, **collection_labels(runtime, counted=True)}
    chosen = EVERYTHING
    if len(labels) > 2:
        chosen = st.selectbox(
            "Show", list(labels), format_func=labels.__getitem__, key="shown-collection", persist_state="session"
        )
        if chosen != EVERYTHING:
            collection_menu(runtime, chosen)
    working = runtime.documents.pending(sight) > 0

    @st.fragment(run_every=0.5 if working else None)
    def rows() -> None:
        after_press()
        documents = runtime.documents.latest(sight, None if chosen == EVERYTHING else chosen)
        memberships, called = runtime.collections.memberships(sight), collection_labels(runtime)
        if working and not runtime.documents.pending(sight):
            st.rerun()
        for document in documents[:ROWS]:
            row(runtime, document, memberships.get(document.id, []), called)
        if len(documents) > ROWS:
            st.caption(f"The latest {ROWS} of {len(documents):,} documents are shown.")

    rows()


def summary(runtime: Runtime) -> None:
    """What is known."""
    documents = runtime.documents.latest(current_sight())
    cache = runtime.embeddings.kept.statistics()
    with st.container(horizontal=True):
        read = sum(bool(d.build) for d in documents)
        st.metric("Documents", f"{read:,}", border=True, help=f"{len(documents):,} with those not read (yet).")
        st.metric("Chunks", f"{sum(d.chunk_count for d in documents if d.build):,}", border=True)
        st.metric("Vectors kept", f"{cache.entries:,}", border=True, help=size(cache.bytes))
        st.metric(
            "Embeddings not computed again", f"{cache.hits:,}", border=True,
            help=f"{cache.tokens_saved:,} tokens that the model did not have to read again.",
        )


def caches(runtime: Runtime) -> None:
    """What is never computed twice, and what that saved."""
    with st.expander("Caches", icon=":material/savings:"):
        price = runtime.prices.current.per_hour / 3600
        cache, answers = runtime.embeddings.kept.statistics(), runtime.answers.statistics()
        saved = cache.tokens_saved * runtime.ledger.embedding_rate()
        st.markdown(
            f"**Embeddings**: {cache.entries:,} vectors, {size(cache.bytes)} · {cache.hits:,} hits · "
            f"{cache.tokens_saved:,} tokens, {seconds(saved)} and {plain(money(saved * price))} saved"
        )
        models = runtime.embeddings.kept.by_model()
        if models:
            st.dataframe(
                [{**asdict(m), "bytes": size(m.bytes)} for m in models], hide_index=True, width="stretch",
                key="cache-models",
            )
        owns = current_caller().role.covers(Role.ADMIN)  # what is kept is everybody's
        if owns and cache.entries and st.button(
            "Forget vectors of what was deleted", help="Also those of questions and of texts sent to the API."
        ):
            st.toast(f"{runtime.embeddings.forget_unused():,} vectors were forgotten.")
        kept = answers.seconds_saved
        st.markdown(
            f"**Answers**: {answers.entries:,} kept · {answers.hits:,} given again · {seconds(kept)} of the "
            f"engine and {plain(money(kept * price))} saved"
        )
        if owns and answers.entries and st.button("Forget all answers"):
            act(runtime.answers.clear)


def reindex(runtime: Runtime) -> None:
    """Read documents anew, with what it would take said before."""
    with st.expander("Read documents again", icon=":material/restart_alt:"):
        if not runtime.texts.ready:
            st.caption("The models are still being loaded.")
            return
        sight = current_sight()
        stale = runtime.planner.stale(sight)
        everything = runtime.planner.everything(sight)
        st.write(
            "After a change of the chunk size or the embedding model, documents that were read before it are read "
            "again here. What is in force answers meanwhile, and equal chunks keep their vectors."
        )
        for label, plan, key in (
            ("that were read otherwise", stale, "reindex-stale"), ("in all", everything, "reindex-all")
        ):  # fmt: skip
            text, button = st.columns([4, 1], vertical_alignment="center")
            cost = f"at most {plan.chunks:,} embeddings, about {seconds(plan.seconds)} and {plain(money(plan.cost))}"
            text.markdown(f"{len(plan.documents):,} documents {label}: {cost}")
            press(
                "Read again", partial(runtime.documents.reread, plan.documents, sight), key=key, place=button,
                disabled=not plan.documents, width="stretch",
            )


def main() -> None:
    """Draw the page."""
    runtime = current()
    uploader(runtime)
    refusal()
    for message in st.session_state.pop("refused", [])[:20]:
        st.error(plain(message))
    if not runtime.documents.latest(current_sight()):
        empty(runtime)
        return
    summary(runtime)
    caches(runtime)
    reindex(runtime)
    table(runtime)


main()
