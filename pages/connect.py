"""How programs use this server, and their keys."""

from __future__ import annotations

import streamlit as st

from backend.api.gate import is_loopback
from backend.runtime import current
from pages.drawing.untrusted import plain
from pages.formatting import when

EXAMPLE = """from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "When does the last climb of the lighthouse start?"}}],
    extra_body={{"documents": True}},  # answer from the uploaded documents
)
print(answer.choices[0].message.content)
"""


def main() -> None:
    """Draw the page."""
    runtime = current()
    st.title("API")
    url = "http://" + (st.context.headers.get("host") or "localhost:8501")
    local = is_loopback(st.get_option("server.address"))
    st.write("Any OpenAI client works with this server. Streaming, embeddings and answers from documents included.")
    st.code(EXAMPLE.format(url=url, model=runtime.settings.served_model, key="unused" if local else "tf-…"))
    st.markdown(f"[Every route, described]({url}/api/docs) · [Health]({url}/healthz) · [Metrics]({url}/metrics)")
    st.markdown("##### Keys")
    st.caption(
        "This server listens on this machine only, so keys are not asked for. A key still keeps its owner's prompt "
        "cache apart from others'."
        if local
        else "This server is open to the network: every call needs a key."
    )
    with st.form("new-key", clear_on_submit=True):
        name = st.text_input("Name of a new key", placeholder="billing service")
        if st.form_submit_button("Create a key"):
            st.session_state["new-key-value"] = runtime.keys.create(name)
    if key := st.session_state.pop("new-key-value", None):
        st.success("Copy it now; it is stored only as a hash and cannot be shown again.")
        st.code(key, language=None)
    for row in runtime.keys.find():
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            used = f"last used {when(row.used)}" if row.used else "never used"
            st.markdown(f"**{plain(row.name)}** · `{row.prefix}…` · made {when(row.created)} · {used}")
            if st.button("Revoke", key=f"revoke-{row.id}"):
                runtime.keys.revoke(row.id)
                st.rerun()


main()
