"""What a switch that is measured live leaves behind when it goes off for a block, and what its verdict is decided on.

A cache must not be fed or cooled by the arm without it. What the caches really do then is written here, as it is told
beside the result; see `engine.cache`, `generation.recall` and `knowledge.embeddings`.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.engine.switches import Switches, describe
from backend.switchboard.worth import Measure


@dataclass(frozen=True, slots=True)
class Arms:
    """A switch's two states, and how to read what they give.

    Attributes:
        with_it: the value that the switch has where it is on.
        without: where it is off.
        wash_out: seconds after each change whose requests do not count.
        measure: that decides.
        decides_again: whether it decides that a stored answer is given, so that this is no class of its own.
        counts_reading: whether embedding documents is part of what it is for.
        note: what to know of the result.
    """

    with_it: bool | str
    without: bool | str
    wash_out: float = 1.0
    measure: Measure = Measure.COST
    decides_again: bool = False
    counts_reading: bool = False
    note: str = ""


COLD = 2.0
STORED = (
    "What was stored before is found again in each block with it; without it nothing is looked up and nothing is "
    "stored, so neither arm feeds the other. What was first asked without it is missing later: left on, it is worth "
    "rather more."
)
SPECIAL: dict[str, dict[str, object]] = {
    "prefix_cache": {
        "wash_out": COLD,
        "note": "Going off empties the cache in memory, so neither arm feeds the other, and each block with it begins "
        "cold but for what is kept on disk: left on, it is worth rather more.",
    },
    "disk_prefix_cache": {
        "note": "The cache in memory stays on in both arms and answers first: this is what the disk adds while the "
        "server runs, not what it is worth after a restart.",
    },
    "chunk_reuse": {
        "wash_out": COLD,
        "note": "Going off drops the passages held, so each block with it begins cold: left on, it is worth rather "
        "more. Its answers are not exact; that is not part of this figure.",
    },
    "answer_cache": {"decides_again": True, "note": STORED},
    "semantic_cache": {
        "decides_again": True,
        "note": f"{STORED} The exact answer cache stays as it is in both arms. A like question's answer is not exact; "
        "that is not part of this figure.",
    },
    "embedding_cache": {"counts_reading": True, "note": STORED},
    "chunked_prefill": {"measure": Measure.TTFT},
    "dual_path": {"measure": Measure.TTFT},
    "sparse_attention": {"note": "Its answers are not exact; that is not part of this figure."},
    "speculation": {"note": "Decided by cost; it acts on how fast answers are written."},
}
NOT_LIVE = frozenset({"kv_cache"})
"""Replaces all pages: what runs would be read again at each change."""


def arms_of(name: str, own: Switches) -> Arms | None:
    """The two states of a switch; None where it has no off, or cannot go on and off between two steps.

    Args:
        name: of the switch.
        own: the switches otherwise; what a switch needs to be on has to be.
    """
    about = next((about for about in describe() if about["name"] == name), None)
    if about is None or about["acts"] != "at once" or name in NOT_LIVE:
        return None
    if name == "speculation":
        value = own.speculation if own.speculation != "off" else "ngram"
        return Arms(value, "off", **SPECIAL[name])  # type: ignore[arg-type]
    if not isinstance(about["default"], bool):
        return None
    return Arms(True, False, **SPECIAL.get(name, {}))  # type: ignore[arg-type]
