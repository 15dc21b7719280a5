"""A result is told with its verdict, its intervals and what it was learned from; what is not known is not claimed."""

from __future__ import annotations

from typing import Any

from backend.switchboard.worth import Effect, Measure, Verdict
from backend.switchboard.worth_kept import Worth
from pages.drawing.figures import GAP
from pages.drawing.worth import changed, told


def worth(**more: Any) -> Worth:
    effects = {
        Measure.COST: Effect(9, -0.38, -0.45, -0.3, 0.01), Measure.TTFT: Effect(9, -0.5, -0.6, -0.4, 0.84),
        Measure.SPEED: Effect(2, 0.3, None, None, 12.0),
    }  # fmt: skip
    known = {
        "switch": "prefix_cache", "verdict": Verdict.WORTH_IT, "measure": Measure.COST, "when": 1.8e9,
        "fingerprint": "f", "device": "cpu", "variant": "bf16", "minutes": 4.2, "seed": 1, "requests_with": 1100,
        "requests_without": 100, "effects": effects, "noise": 0.1, "more_minutes": None, "note": "",
    }  # fmt: skip
    return Worth(**{**known, **more})


def test_a_result_says_what_changes_with_its_interval_and_in_money() -> None:
    said = told(worth(), per_hour=3.6)
    assert "**:green[worth it]**" in said and "−38 % cost (−45 to −30 %)" in said
    assert "−50 % first token (−60 to −40 %), 840 ms → 420 ms" in said
    assert "$ 0.0100 → $ 0.0062 for 1,000" in said.replace("\\", "").replace(GAP, " ")
    assert "on 1,200 of your requests in 4 min" in said
    assert "tokens/s" not in said, "two pairs say nothing"


def test_what_is_not_resolved_says_how_much_longer_it_would_take() -> None:
    said = told(worth(verdict=Verdict.NOT_RESOLVED, more_minutes=31.0, effects={}), per_hour=1.0)
    assert "**:orange[not resolved]** (31 min more would)" in said and "cost" not in said


def test_an_open_end_of_an_interval_is_a_question_mark() -> None:
    assert changed("cost", Effect(4, 0.001, -1.0, None, 0.1)) == "0 % cost (−100 to ? %)"
