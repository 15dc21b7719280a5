"""What belongs to the installation: the price of its machine, its model, what it stores, and who may come in."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import streamlit as st

from backend.runtime import Runtime, current
from pages.drawing.acts import press, press_after_asking, refusal
from pages.drawing.figures import counted, money, seconds, size
from pages.drawing.untrusted import plain
from pages.navigation import page

if TYPE_CHECKING:
    from backend.metering.prices import MachinePrice

OWN = "My own price"
FIELD = "price-own"


def price(runtime: Runtime) -> None:
    """Which machine the money is counted for; what is like this one first."""
    st.markdown("##### Price of the machine")
    chosen = runtime.prices.current
    cores, card = psutil.cpu_count() or 1, gpu(runtime)
    st.caption(f"This machine: {counted(cores, 'virtual core')}" + (f", {plain(card)}" if card else ", no GPU in use"))
    if runtime.settings.price_per_hour is not None:
        st.markdown(f"**{plain(money(chosen.per_hour))} per hour**, from the variable `TENFOLD_PRICE_PER_HOUR`.")
        return
    known = sorted(runtime.prices.catalogue, key=lambda price: distance(price, cores, card))
    names = [*(price.name for price in known), OWN]
    labels = {price.name: f"{price.name} · {money(price.per_hour)} per hour" for price in known}
    now = chosen.name if chosen in known else OWN
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Machine", names, index=names.index(now), format_func=lambda name: labels.get(name, name), key="price-name",
            width=420,
        )  # fmt: skip
        if name == OWN:
            st.number_input(
                "US dollars per hour", 0.0, 1000.0, chosen.per_hour, 0.01, format="%.4f", key=FIELD, width=200
            )
        press("Use this price", partial(choose, runtime, name), key="use-price", type="primary")
    st.caption(
        f"In force: **{plain(chosen.name)}**, {plain(money(chosen.per_hour))} per hour. New requests are counted at "
        "the new price; what was counted stays."
    )
    picked = next((price for price in known if price.name == name), chosen if name == chosen.name else None)
    if picked is not None:
        said = f"Source: {picked.source}" + (f", read {picked.read}." if picked.read else ".") if picked.source else ""
        st.caption(plain(f"{said} {picked.warning()}".strip()))


def choose(runtime: Runtime, name: str) -> None:
    """Count in the price that stands in the page."""
    runtime.prices.choose(name, float(st.session_state.get(FIELD, 0.0)))


def gpu(runtime: Runtime) -> str:
    """The card that serves, by its name; empty where a processor does."""
    info = runtime.engine.info
    return info.device if info is not None and info.device_type == "cuda" else ""


def distance(price: MachinePrice, cores: int, card: str) -> float:
    """How unlike a listed machine is to this one."""
    virtual = re.search(r"(\d+) vCPU", price.name)
    if card:
        classes = re.findall(r"[A-Z]+\d+", price.name)
        return 0.0 if any(name in card for name in classes) else 2.0 if virtual else 1.0
    return abs(math.log2(int(virtual[1]) / cores)) if virtual else math.inf


def model(runtime: Runtime) -> None:
    """What is served, and how to serve another."""
    st.markdown("##### Model")
    settings, info, stats = runtime.settings, runtime.engine.info, runtime.engine.stats
    rows = {"Served as": settings.served_model, "From": settings.model}
    if info is None:
        st.caption("It is being loaded.")
    else:
        rows |= {
            "Family": info.family,
            "Weights": f"{info.variant}, on {info.device}",
            "Context": f"{info.max_model_len:,} tokens",
            "Loaded in": seconds(info.load_seconds),
        }
        if stats is not None:
            rows["Memory of the engine"] = size(stats.memory_bytes)
    rows["Embeddings"] = settings.served_embedding_model
    facts(rows)
    st.markdown(
        "To serve another model, start the server with `TENFOLD_MODEL` set to a folder, a GGUF file or a hub id, and "
        "`TENFOLD_MODEL_NAME` to the name under which the API serves it; `TENFOLD_EMBEDDING_MODEL` does the same for "
        "embeddings."
    )
    st.page_link(page("optimize"), label="Choose in Optimize how weights are held")


def storage(runtime: Runtime) -> None:
    """What is kept on disk and in the database, and what of it can be forgotten."""
    st.markdown("##### Storage")
    st.markdown(f"In `{code(str(runtime.settings.data_dir))}`, which the variable `TENFOLD_DATA_DIR` sets.")
    kept = runtime.data_folder.kept()
    vectors, answers = runtime.embeddings.kept.statistics(), runtime.answers.statistics()
    rows: list[tuple[str, str, str, tuple[str, str, Any] | None]] = [
        ("Database", size(kept["database"].bytes), "Chats, documents' texts, jobs, keys and the ledger.", None),
        ("Uploaded files", f"{size(kept['files'].bytes)} in {counted(kept['files'].files or 0, 'file')}",
         "Deleted with their documents, in Knowledge.", None),
        ("Search index", size(kept["index"].bytes), "Made from the database.", None),
        ("Prompt states", size(kept["prefixes"].bytes),
         f"Beginnings of prompts that need not be read again, at most {size(runtime.settings.prefix_disk_mb << 20)} "
         "(TENFOLD_PREFIX_DISK_MB).",
         ("prefixes", "Prompts that begin like earlier ones are read anew once.", runtime.data_folder.forget_prefixes)),
        ("Answers", f"{answers.entries:,}", f"Given again {answers.hits:,} times.",
         ("answers", "Questions that were asked before are answered anew.", runtime.answers.clear)),
        ("Embeddings", f"{size(vectors.bytes)}, {vectors.entries:,} vectors",
         "Those that no document uses can be forgotten.",
         ("vectors", "Vectors that no document uses are computed anew where their text comes back.",
          runtime.embeddings.forget_unused)),
        ("Weights in few bits", size(kept["weights"].bytes), "Made from the model; those that serve are in memory.",
         ("weights", "They are made again when next loaded, which takes up to some minutes.",
          runtime.data_folder.forget_weights)),
        ("Converted models and kernels", size(kept["models"].bytes), "Needed at every start.", None),
    ]  # fmt: skip
    for name, much, about, forgotten in rows:
        with st.container(border=True, gap="xxsmall", key=f"kept-{name}"):
            text = st.container(gap="xxsmall")
            if forgotten is not None:
                key, question, action = forgotten
                column, button = text.columns([3, 1], vertical_alignment="center")
                text = column.container(gap="xxsmall")
                press_after_asking(
                    "Forget", question, action, key=f"forget-{key}", yes="Forget", place=button, width="stretch"
                )
            text.markdown(f"**{name}** &ensp;{plain(much)}")
            text.caption(plain(about))


def access(runtime: Runtime) -> None:
    """Who may come in, and how to let others."""
    st.markdown("##### Access")
    settings = runtime.settings
    address = st.get_option("server.address") or "every address of this machine"
    count = len(runtime.access.keys.latest())
    facts({
        "Listens on": f"{address}, port {st.get_option('server.port')}",
        "Keys": "asked for, of people and programs" if settings.require_keys else "not asked for on this machine",
        "Keys that work": str(count),
        "Further host names": ", ".join(settings.allowed_hosts) or "none (TENFOLD_ALLOWED_HOSTS)",
        "Other web sites that may call": ", ".join(settings.allowed_origins) or "none (TENFOLD_ALLOWED_ORIGINS)",
    })  # fmt: skip
    st.markdown(
        "To open the server to a network, start it with `--server.address 0.0.0.0`: keys are then asked for, and the "
        "first one is printed where it is started. Behind a reverse proxy on this machine, set "
        "`TENFOLD_REQUIRE_KEYS=true` and add the proxy's host name to `TENFOLD_ALLOWED_HOSTS`."
    )
    st.page_link(page("connect"), label="Make and revoke keys in Connect")


def facts(rows: dict[str, str]) -> None:
    """Names with their values, one a line."""
    st.markdown("  \n".join(f"{name}: **{plain(value)}**" for name, value in rows.items()))


def code(text: str) -> str:
    """Text within backticks, which must not end there."""
    return text.replace("`", "")


def main() -> None:
    """Draw the page."""
    runtime = current()
    refusal()
    left, right = st.columns(2, gap="large")
    with left:
        price(runtime)
        st.space("small")
        model(runtime)
        st.space("small")
        access(runtime)
    with right:
        storage(runtime)


main()
