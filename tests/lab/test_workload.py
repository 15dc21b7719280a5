"""The lab's workload is real, repeats its beginnings, and every answer is really in its document."""

from __future__ import annotations

import json
from pathlib import Path

from backend.lab.ablation import states
from backend.lab.workload import QUESTIONS, document_questions
from backend.models.text import TextModel
from backend.settings import SAMPLES
from backend.switchboard.presets import PRESETS


def test_questions_are_about_documents_that_are_shipped() -> None:
    rows = json.loads(QUESTIONS.read_text())
    assert len(rows) >= 16
    assert {row["document"] for row in rows} == {path.name for path in SAMPLES.iterdir()}


def test_prompts_of_one_document_share_their_beginning(chat_folder: Path) -> None:
    cases = document_questions(TextModel(chat_folder), repeat=2)
    first, second = cases[0].prompt, cases[1].prompt
    shared = next(i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y)
    assert shared > 0.8 * len(first)
    assert cases[0].prompt == cases[len(cases) // 2].prompt


def test_an_ablation_takes_one_switch_at_a_time() -> None:
    best = PRESETS["Max savings"].as_dict()
    for name, switches in states(ablate=True).items():
        if " without " in name:
            changed = [key for key, value in switches.as_dict().items() if best[key] != value]
            assert len(changed) == 1 and changed[0] in name
