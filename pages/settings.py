"""What belongs to the installation: the price of its machine, its model, what it stores, and who may come in."""

from __future__ import annotations

import streamlit as st

from backend.runtime import Runtime, current
from pages.drawing.figures import money, size
from pages.drawing.untrusted import plain

OWN = "My own price"


def price(runtime: Runtime) -> None:
    """Which machine the money is counted for."""
    st.markdown("##### Price of the machine")
    chosen = runtime.prices.current
    if runtime.settings.price_per_hour is not None:
        st.write(f"{plain(money(chosen.per_hour))} per hour, from `TENFOLD_PRICE_PER_HOUR`.")
        return
    known = runtime.prices.catalogue
    names = [*(p.name for p in known), OWN]
    index = next((i for i, p in enumerate(known) if p == chosen), len(known))
    name = st.selectbox("Machine", names, index=index)
    value = next((p.per_hour for p in known if p.name == name), chosen.per_hour)
    own = st.number_input("US dollars per hour", 0.0, 1000.0, value, 0.01, disabled=name != OWN, key=f"price-{name}")
    st.caption("Round figures to start from, not quotations. New requests are counted at the new price.")
    if st.button("Use this price", type="primary"):
        runtime.prices.choose(name or OWN, own)
        st.rerun()


def model(runtime: Runtime) -> None:
    """What is served."""
    st.markdown("##### Model")
    info, stats = runtime.engine.info, runtime.engine.stats
    st.markdown(f"**{plain(runtime.settings.served_model)}**")
    if info is None or stats is None:
        st.caption("It is being loaded.")
        return
    st.caption(
        f"{info.variant} on {plain(info.device)} · context {info.max_model_len:,} tokens · {size(stats.memory_bytes)}"
    )


def main() -> None:
    """Draw the page."""
    runtime = current()
    price(runtime)
    model(runtime)


main()
