"""Taking files in, from a line to drop them on: what was dropped, how far it is, and what was refused and why."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from backend.errors import TenfoldError
from backend.runtime import Runtime
from pages.caller import current_sight
from pages.drawing.collections import collection_labels
from pages.drawing.knowledge_access import has_others
from pages.drawing.untrusted import plain

if TYPE_CHECKING:
    from backend.store.tables.documents import Document

TURN, TAKEN, REFUSED = "uploads", "taken-in", "upload-refused"
"""What the session remembers: the uploader's turn, whose end lets go of the files; and what became of the last ones."""
MOST_REASONS = 20
STYLE = """<style>
[data-testid=stFileUploaderDropzone] { padding: 6px 10px; min-height: 0; }
[data-testid=stFileUploaderDropzoneInstructions] span::before { content: "or drop files here · "; }
@media (max-width: 640px) { [data-testid=stLayoutWrapper]:has(> .st-key-drop-here) { flex-basis: 100%; } }
</style>"""


def taken_in() -> dict[str, bool]:
    """The documents that were uploaded last in this session, the latest first: by id, whether each was known."""
    found: dict[str, bool] = st.session_state.get(TAKEN, {})
    return dict(reversed(found.items()))


def uploader(runtime: Runtime) -> None:
    """Files, folders and zip archives are taken in as soon as they are here."""
    st.html(STYLE)
    turn = st.session_state.setdefault(TURN, 0)
    with st.container(key="drop", horizontal=True, vertical_alignment="center"):
        place = st.container(key="drop-here")
        collection = _collection(runtime)
        with st.popover("Options", key="upload-options"):
            folder = st.toggle("A whole folder", key="upload-folder", help="Choose a folder instead of files.")
            private = has_others() and st.toggle(
                "A new collection is private", key="upload-private",
                help="Where the name is new, only your keys and administrators see the collection.",
            )  # fmt: skip
            read = ", ".join(suffix.removeprefix(".") for suffix in runtime.uploads.supported)
            st.caption(f"Read are {read}, and zip archives of them. A changed file of a known name is its new version.")
        files = place.file_uploader(
            "Drop files here", accept_multiple_files="directory" if folder else True, key=f"uploader-{turn}-{folder}",
            label_visibility="collapsed",
        )  # fmt: skip
    refused = st.container()
    if files:
        _take_all(runtime, files, collection, private)
        _let_go()
        st.rerun()
    with refused:
        _refused()



def _collection(runtime: Runtime) -> str:
    labels, default = collection_labels(runtime), runtime.collections.default
    names = [default, *(name for name in labels if name != default)]
    return st.selectbox(
        "Into collection", names, format_func=lambda name: f"Into {labels.get(name, name)}", key="upload-into",
        accept_new_options=True, label_visibility="collapsed", width=210, icon=":material/folder_open:",
        help="Type a new name to make a new collection.",
    ) or default  # fmt: skip


def _let_go() -> None:
    """End the uploader's turn: a new one holds no files in memory."""
    st.session_state[TURN] = st.session_state.get(TURN, 0) + 1


def _take_all(runtime: Runtime, files: list[Any], collection: str, private: bool) -> None:
    """Take files in one by one, and say how far it is; a press on Stop ends it, what was taken in before stays."""
    taken: dict[str, bool] = {}
    refused: list[str] = []
    st.session_state[TAKEN], st.session_state[REFUSED] = taken, refused
    with st.container(horizontal=True, vertical_alignment="center", key="taking-in"):
        bar = st.progress(0.0, "Taking in")
        st.button("Stop", key="stop-taking-in", on_click=_let_go)
    try:
        if private and collection not in collection_labels(runtime):
            runtime.collections.define(collection, current_sight(), private=True)
        for number, file in enumerate(files):
            bar.progress(number / len(files), f"Taking in {number + 1:,} of {len(files):,}: {plain(file.name)}")

            def member(done: int, total: int, number: int = number, name: str = file.name) -> None:
                share = (number + done / max(total, 1)) / len(files)
                bar.progress(share, f"Taking in file {done + 1:,} of {total:,} of {plain(name)}")

            for document in _documents(runtime, file, collection, refused, member):
                taken[document.id] = document.state == "ready"
    except TenfoldError as error:
        refused.append(error.message)


def _documents(
    runtime: Runtime, file: Any, collection: str, refused: list[str], member: Any
) -> Iterator[Document]:
    """The documents of a file, or of every file of a zip archive; `refused` grows with what was refused and why."""
    sight = current_sight()
    try:
        if not file.name.lower().endswith(".zip"):
            yield runtime.uploads.upload(file.name, _pieces(file), sight, collection)
            return
        with tempfile.NamedTemporaryFile(suffix=".zip") as aside:
            for piece in _pieces(file):
                aside.write(piece)
            aside.flush()
            documents, reasons = runtime.uploads.upload_archive(
                file.name, Path(aside.name), sight, collection, progress=member
            )
            refused += reasons
            yield from documents
    except TenfoldError as error:
        refused.append(error.message)
    except OSError as error:
        refused.append(f"{file.name} cannot be unpacked here: {error.strerror or error}.")


def _pieces(file: Any) -> Iterator[bytes]:
    """An uploaded file's bytes, a megabyte at a time."""
    file.seek(0)
    while piece := file.read(1 << 20):
        yield piece


def _refused() -> None:
    reasons: list[str] = st.session_state.get(REFUSED, [])
    if not reasons:
        return
    more = [f"and {len(reasons) - MOST_REASONS:,} more"] if len(reasons) > MOST_REASONS else []
    listed = "\n".join(f"- {plain(reason)}" for reason in [*reasons[:MOST_REASONS], *more])
    with st.container(horizontal=True, vertical_alignment="top", key="refused"):
        st.error(f"Not taken in:\n{listed}")
        st.button("Dismiss", key="dismiss-refused", on_click=lambda: st.session_state.pop(REFUSED, None))
