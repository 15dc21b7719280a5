"""Names under which models are served, and how clients may write them."""

from __future__ import annotations

import pytest

from backend.api.openai.models import served_name
from backend.errors import NotFoundError
from backend.settings import Settings


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("/models/SmolLM2.Q4_1.gguf", "smollm2.q4_1"),
        ("/models/Llama-3.1-8B", "llama-3.1-8b"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2.5-1.5b-instruct"),
    ],
)
def test_a_model_is_served_under_its_whole_name(model: str, name: str) -> None:
    assert Settings(model=model, embedding_model=model).served_model == name
    assert Settings(model=model, embedding_model=model).served_embedding_model == name


@pytest.mark.parametrize("asked", ["SmolLM2", "smollm2", "SMOLLM2"])
def test_a_models_name_matches_in_any_case(asked: str) -> None:
    assert served_name(asked, "SmolLM2") == "SmolLM2"
    with pytest.raises(NotFoundError):
        served_name(asked + "x", "SmolLM2")
