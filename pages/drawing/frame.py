"""The bar above every page: its title, the engine and what it does now. It stays where it is while a page scrolls."""

from __future__ import annotations

from html import escape

import streamlit as st

from backend.runtime import Runtime
from pages.drawing.figures import counted, money, rate

HEIGHT, CONTENT = 56, 72
"""Pixels of the bar, and from where on a page is drawn."""
NOW = 10.0
"""Seconds that "now" is the average of."""
BACKGROUND, SURFACE = "light-dark(#ffffff, #0f151c)", "light-dark(#f4f6f8, #18212b)"
"""As in the themes of `.streamlit/config.toml`."""
STYLE = f"""<style>
[data-testid=stHeader] {{ height: {HEIGHT}px; min-height: 0; background: transparent; pointer-events: none; }}
[data-testid=stHeader] > * {{ pointer-events: none; }}
[data-testid=stHeader] :is(button, a, [data-testid=stStatusWidget]) {{ pointer-events: auto; }}
[data-testid=stHeaderLogo] {{ display: none; }}
[data-testid=stMainBlockContainer] {{ padding-top: 0; padding-bottom: 3rem; }}
[data-testid=stLayoutWrapper]:has(> .st-key-frame) {{ position: sticky; top: 0; z-index: 99; }}
.st-key-frame {{ height: {CONTENT}px; flex: none; margin-bottom: -1rem;
  background: linear-gradient({BACKGROUND} {HEIGHT}px, transparent {HEIGHT}px); }}
.st-key-frame [data-testid=stHtml], .st-key-frame [data-testid=stElementContainer] {{ width: 100%; }}
[data-testid=stLayoutWrapper]:has(> .st-key-strip) {{ position: sticky; top: {HEIGHT}px; z-index: 98; }}
.st-key-strip {{ background: {BACKGROUND}; padding: 8px 0; }}
.strip {{ display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0 !important; padding: 0 !important; }}
.strip div {{ min-width: 76px; }}
.strip dt {{ font-size: 12px; opacity: 0.75; white-space: nowrap; font-weight: 400; }}
.strip dd {{ font-size: 18px; font-weight: 600; margin: 0; font-variant-numeric: tabular-nums; line-height: 1.3; }}
.frame {{ display: flex; align-items: center; gap: 12px; height: {HEIGHT}px; padding-right: 76px; overflow: hidden;
  border-bottom: 1px solid color-mix(in srgb, currentColor 14%, transparent); white-space: nowrap;
  font-size: 14px; }}
.frame h1 {{ font-size: 22px; font-weight: 600; line-height: {HEIGHT}px; margin: 0; padding: 0; letter-spacing: 0; }}
.frame .chip {{ display: inline-flex; align-items: center; gap: 7px; height: 28px; padding: 0 11px; min-width: 0;
  border-radius: 14px; background: {SURFACE}; }}
.frame .chip > span:last-child {{ overflow: hidden; text-overflow: ellipsis; }}
.frame .dot {{ width: 9px; height: 9px; border-radius: 50%; flex: none; }}
.frame .space {{ flex: 1 1 0; }}
.frame .figure {{ font-variant-numeric: tabular-nums; text-align: right; flex: none; }}
.frame .figure b {{ font-weight: 600; }}
.frame .speed {{ min-width: 82px; }}
[data-testid=stApp]:has([data-testid=stExpandSidebarButton]) .frame {{ padding-left: 44px; }}
[data-testid=stMain] h2 {{ font-size: 26px; padding: 0.5rem 0; }}
.tiles {{ display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 0 !important;
  padding: 0 !important; }}
.tiles > div {{ border: 1px solid color-mix(in srgb, currentColor 18%, transparent); border-radius: 8px;
  padding: 12px 14px; min-width: 0; }}
.tiles dt {{ font-size: 13px; font-weight: 400; margin: 0; }}
.tiles dd {{ margin: 0; }}
.tiles .value {{ font-size: 25px; line-height: 1.4; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
.tiles .below {{ font-size: 13px; color: light-dark(#59626c, #a9b3bd); }}
.tiles .course {{ display: flex; align-items: flex-end; gap: 2px; height: 34px; margin-top: 8px; }}
.tiles .course i {{ flex: 1; background: #14b8a6; min-height: 1px; border-radius: 1px; }}
/* What of Streamlit's own colours is too faint to read (contrast below 4.5). */
[data-testid=stCaptionContainer] {{ color: light-dark(#59626c, #a9b3bd); opacity: 1; }}
[class*="st-key-hit-"] :is(summary, summary *) {{ color: light-dark(#59626c, #a9b3bd); opacity: 1 !important; }}
[data-testid=stBaseButton-primary], [data-testid=stBaseButton-primaryFormSubmit] {{ background: #0f766e; }}
[data-testid=stCode] .token:is(.keyword, .boolean, .builtin) {{ color: light-dark(#0b57a8, #7cc4ff); }}
[data-testid=stCode] .token:is(.string, .attr-value) {{ color: light-dark(#0b6b3a, #7ee0a0); }}
[data-testid=stCode] .token:is(.number, .function, .property, .parameter) {{ color: light-dark(#8a3b00, #ffc078); }}
[data-testid=stCode] .token.comment {{ color: light-dark(#5a636d, #a3adb8); }}
@media (max-width: 900px) {{ .frame .price, .frame .model {{ display: none; }} }}
@media (max-width: 640px) {{
  .frame {{ gap: 8px; padding-right: 44px; font-size: 13px; }}
  .frame .queue {{ display: none; }} .frame .speed {{ min-width: 0; }}
  [data-testid=stMainBlockContainer] {{ padding-left: 1rem; padding-right: 1rem; }}
  .tiles {{ grid-template-columns: repeat(2, 1fr); gap: 8px; }}
  .tiles > div {{ padding: 9px 10px; }} .tiles .value {{ font-size: 18px; }}
}}
</style>"""
GREEN, YELLOW, RED = "#16a34a", "#d97706", "#dc2626"


def bar(runtime: Runtime, title: str) -> None:
    """Draw it, and its figures anew every two seconds."""
    with st.container(key="frame"):

        @st.fragment(run_every=2.0)
        def figures() -> None:
            st.html(STYLE + _bar(runtime, title))

        figures()


def strip(figures: dict[str, str], about: str) -> None:
    """A row of figures that stays in view below the bar; `about` says what they are of."""
    with st.container(key="strip"):
        rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items())
        st.html(f'<dl class="strip" aria-label="{escape(about)}" title="{escape(about)}">{rows}</dl>')


def _bar(runtime: Runtime, title: str) -> str:
    color, state = engine_state(runtime)
    throughput = runtime.series.throughput(NOW, NOW)
    stats = runtime.engine.stats
    waiting = stats.waiting_realtime + stats.waiting_batch if stats else 0
    running = stats.running if stats else 0
    speed = rate(throughput[-1][1] if throughput else 0.0)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<span class="chip" role="status" title="The engine: {escape(state)}"><span class="dot" '
        f'style="background:{color}"></span><span>{chip(runtime, state)}</span></span>',
        '<span class="space"></span>',
        f'<span class="figure speed" title="Tokens generated per second, over {NOW:.0f} s"><b>{speed}</b></span>',
        f'<span class="figure queue" title="{counted(running, "request")} being computed, {waiting} waiting">'
        f"<b>{waiting}</b> waiting</span>",
        f'<span class="figure price" title="The price of this machine"><b>{money(runtime.prices.current.per_hour)}</b>'
        " / h</span>",
    ]
    return f'<div class="frame">{"".join(parts)}</div>'


def chip(runtime: Runtime, state: str) -> str:
    """The model, its weights and the preset, and what the engine does, as HTML; while it only serves, that is left out.

    On a narrow window the model's name is hidden.
    """
    applied = runtime.engine.applied
    parts = [] if applied is None else [applied.variant, preset(runtime)]
    if state != "ready":
        parts.append(state)
    model = f'<span class="model">{escape(runtime.settings.served_model)} · </span>'
    return model + " · ".join(escape(part) for part in parts)


def preset(runtime: Runtime) -> str:
    """What the switches that are asked for are called."""
    own = runtime.switchboard.own
    return next((name for name, ready in runtime.switchboard.presets.items() if ready == own), "Custom")


def engine_state(runtime: Runtime) -> tuple[str, str]:
    """A color, and in few words what the engine is doing."""
    phase, applied = runtime.engine.state.phase, runtime.engine.applied
    if phase == "starting":
        return YELLOW, "loading the model"
    if phase == "restarting":
        return YELLOW, "starting again"
    if phase != "ready":
        return RED, "not running"
    if runtime.presets.progress.running:
        return YELLOW, f"measuring {runtime.presets.progress.preset}"
    if applied is not None and applied.loading:
        return YELLOW, f"loading {applied.loading}" + (f" {applied.progress:.0%}" if applied.progress else "")
    return GREEN, "ready"
