"""Presets: states of all switches that are worth a name."""

from __future__ import annotations

from backend.engine.switches import Switches

PRESETS: dict[str, Switches] = {
    "Baseline": Switches(
        in_flight_batching=False,
        max_batch=1,
        batch_window_ms=0,
        chunked_prefill=False,
        dual_path=False,
        speculation="off",
        prefix_cache=False,
        disk_prefix_cache=False,
        cuda_graphs=False,
        embedding_cache=False,
        answer_cache=False,
        graph_retrieval=False,
        quantization="fp32",
    ),
    "Balanced": Switches(),
    "Max savings": Switches(max_batch=128, batch_window_ms=50, quantization="int8"),
}


def preset_of(switches: Switches) -> str | None:
    """What these switches are called together; None where they are no preset."""
    return next((name for name, ready in PRESETS.items() if ready == switches), None)
