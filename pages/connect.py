"""How programs use this server: a call to copy and to try, and the keys they come with."""

from __future__ import annotations

from urllib.parse import urlsplit

import streamlit as st

from backend.access.caller import Role
from backend.runtime import Runtime, current
from pages.caller import current_caller
from pages.drawing.acts import refusal
from pages.drawing.key_list import keys, made_key
from pages.drawing.snippet_send import sender
from pages.drawing.snippet_texts import LANGUAGES, Call
from pages.drawing.untrusted import code

QUESTION = "When does the last climb of the lighthouse start?"


def own_url() -> str:
    """The server's address as the reader's browser has it."""
    parts = urlsplit(st.context.url or "http://localhost:8501")
    return f"{parts.scheme}://{parts.netloc}"


def call_to_copy(runtime: Runtime, url: str) -> Call:
    """Its question and options, and the call in each language."""
    question = st.text_input("Question", QUESTION, key="call-question").strip() or QUESTION
    with st.container(horizontal=True):
        documents = st.toggle("Answer from documents", key="call-documents")
        stream = st.toggle("Stream the answer", key="call-stream")
    key = made_key() or ("YOUR_KEY" if runtime.settings.require_keys else "unused")
    call = Call(url, key, runtime.settings.served_model, question, documents, stream)
    for tab, (language, write) in zip(st.tabs(list(LANGUAGES)), LANGUAGES.values(), strict=True):
        tab.code(write(call), language=language, wrap_lines=True)
    if key == "YOUR_KEY":
        st.caption("Put a key in the place of YOUR_KEY; one made below stands here at once.")
    elif key == "unused":
        st.caption("No key is asked for on this machine; OpenAI's clients want something in its place all the same.")
    return call


def main() -> None:
    """Draw the page."""
    runtime, caller = current(), current_caller()
    refusal()
    url = own_url()
    st.write("Any OpenAI client works with this server: change its base URL, and nothing else.")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.markdown("##### A call to copy")
        call = call_to_copy(runtime, url)
    with right:
        st.markdown("##### Try it")
        st.caption("Sends exactly this call to this server and shows what comes back.")
        sender(call, allowed=caller.role.covers(Role.USER))
    st.markdown("##### Addresses")
    st.markdown(
        f"Base URL {code(f'{url}/v1')} · model {code(runtime.settings.served_model)} · embeddings "
        f"{code(runtime.settings.served_embedding_model)}\n\n"
        f"[Every route, described]({url}/api/docs) · [Health]({url}/healthz) · [Metrics]({url}/metrics)"
    )
    if caller.role.covers(Role.ADMIN):
        keys(runtime)
    else:
        st.caption("Keys are made by an administrator of this server.")


main()
