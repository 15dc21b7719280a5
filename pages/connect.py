"""How programs use this server, and their keys."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

import streamlit as st

from backend.access.caller import Role
from backend.runtime import Runtime, current
from pages.caller import current_caller
from pages.drawing.acts import press, refusal
from pages.drawing.figures import when
from pages.drawing.untrusted import plain

EXAMPLE = """from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "When does the last climb of the lighthouse start?"}}],
    temperature=0,
    extra_body={{"documents": True}},  # answer from the uploaded documents
)
print(answer.choices[0].message.content)
"""

MAY = {
    Role.ADMIN: "do everything",
    Role.USER: "chat, use documents, jobs and the API",
    Role.READ_ONLY: "look and search",
}


def main() -> None:
    """Draw the page."""
    runtime = current()
    refusal()
    parts = urlsplit(st.context.url or "http://localhost:8501")
    url = f"{parts.scheme}://{parts.netloc}"
    local = not runtime.settings.require_keys
    st.write("Any OpenAI client works with this server. Streaming, embeddings and answers from documents included.")
    st.code(EXAMPLE.format(url=url, model=runtime.settings.served_model, key="unused" if local else "tf-…"))
    st.markdown(f"[Every route, described]({url}/api/docs) · [Health]({url}/healthz) · [Metrics]({url}/metrics)")
    if current_caller().role.covers(Role.ADMIN):
        keys(runtime)


def keys(runtime: Runtime) -> None:
    """Make and revoke keys."""
    st.markdown("##### Keys")
    st.caption(
        "Every call and every visit needs a key."
        if runtime.settings.require_keys
        else "This server listens on this machine only, so keys are not asked for. A key still keeps its owner's "
        "prompt cache apart from others'."
    )
    rows = runtime.access.keys.latest()
    owners = {None: "Somebody new", "": "This installation"} | {row.tenant: row.name for row in rows if row.tenant}
    made = st.container()  # above the form, where it is seen
    with st.form("new-key", clear_on_submit=True):
        name = st.text_input("Name of a new key", placeholder="billing service")
        role = st.selectbox("It may", list(Role), index=list(Role).index(Role.USER), format_func=MAY.__getitem__)
        owner = st.selectbox(
            "Belongs to", list(owners), format_func=owners.__getitem__, help="Keys of one owner see the same chats."
        )
        if st.form_submit_button("Create a key"):
            if name.strip():
                st.session_state["new-key-value"] = runtime.access.keys.create(name, Role(role or Role.USER), owner)
                rows = runtime.access.keys.latest()
            else:
                made.error("Give the key a name: it is what you will know it by when you revoke it.")
    if key := st.session_state.pop("new-key-value", None):
        made.success("Copy this key now; it is stored only as a hash and cannot be shown again.")
        made.code(key, language=None)
    for row in rows:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            used = f"last used {when(row.used)}" if row.used else "never used"
            role = row.role.replace("_", " ")
            st.markdown(f"**{plain(row.name)}** · `{row.prefix}…` · {role} · made {when(row.created)} · {used}")
            press(
                "Revoke", partial(runtime.access.keys.revoke, row.id), key=f"revoke-{row.id}",
                help="Ends its calls, sign-ins and open pages at once.",
            )


main()
