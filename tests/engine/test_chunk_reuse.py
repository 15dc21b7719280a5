"""States of texts at other positions: exact where they stand as before, accounted for, and never passed on as exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backend.engine.messages import Generate, SamplingParams
from backend.engine.switches import Switches

ON = Switches(quantization="fp32", chunk_reuse=True, prefix_cache=False, speculation="off")


def ask(harness: Any, name: str, parts: list[list[int]], salt: str = "") -> list[int]:
    tokens: list[int] = []
    segments = []
    for part in parts:
        if len(part) >= 32:
            segments.append((len(tokens), len(tokens) + len(part)))
        tokens += part
    harness.core.handle(
        Generate(name, tokens, SamplingParams(max_tokens=8, ignore_eos=True), salt=salt, segments=tuple(segments))
    )
    harness.drain()
    out: list[int] = harness.out.tokens(name)
    return out


@pytest.fixture
def texts(prompts: Any) -> list[list[int]]:
    everything = [t for p in prompts for t in p]
    return [(everything[i:] + everything[:i])[:60] for i in (0, 11, 23)]


@pytest.mark.parametrize("settings", [{}, {"use_kernels": False}])
def test_texts_in_the_same_place_give_the_same_answer(
    make_engine: Any, prompts: Any, texts: Any, settings: Any
) -> None:
    harness = make_engine(ON, **settings)
    parts = [prompts[0], texts[0], texts[1], prompts[4]]
    first = ask(harness, "first", parts)
    again = ask(harness, "again", parts)
    assert again == first
    assert harness.out.finished("first").usage.cached_tokens == 0
    assert harness.out.finished("again").usage.cached_tokens == 2 * 48  # a fifth of each is computed again
    assert harness.core.stats(0).chunk_tokens == 96


def test_texts_elsewhere_are_reused_and_the_rest_is_computed(make_engine: Any, prompts: Any, texts: Any) -> None:
    harness = make_engine(ON, token_budget=50)
    ask(harness, "first", [prompts[0], texts[0], texts[1], texts[2], prompts[4]])
    moved = ask(harness, "moved", [prompts[0], texts[2], texts[0], texts[1], prompts[4]])
    assert len(moved) == 8
    assert harness.out.finished("moved").usage.cached_tokens == 3 * 48
    everything_again = make_engine(ON.updated({"chunk_recompute_percent": 100}))
    ask(everything_again, "first", [prompts[0], texts[0], texts[1], texts[2], prompts[4]])
    exact = ask(everything_again, "moved", [prompts[0], texts[2], texts[0], texts[1], prompts[4]])
    assert exact == ask(make_engine(ON.updated({"chunk_reuse": False})), "moved",
                        [prompts[0], texts[2], texts[0], texts[1], prompts[4]])


def test_keys_are_turned_to_their_new_position(make_engine: Any, prompts: Any, texts: Any) -> None:
    """In the first layer a key depends on its own token alone, so a moved one must equal a computed one."""
    harness = make_engine(ON.updated({"chunk_recompute_percent": 0}))
    core = harness.core
    seen: list[torch.Tensor] = []
    original = core.runner.run

    def watch(scheduled: Any) -> Any:
        produced = original(scheduled)
        seq = scheduled[0].seq
        if seq.output_len == 1:
            at = torch.arange(seq.prompt_len - 1)
            slots = torch.from_numpy(seq.block_row)[at // 16].long() * 16 + at % 16
            seen.append(core.serving.attention.read_tokens(slots)[0][0])
        return produced

    core.runner.run = watch
    ask(harness, "first", [prompts[0], texts[0], texts[1], prompts[4]])
    ask(harness, "moved", [prompts[0], texts[1], texts[0], prompts[4]])
    core.set_switches(ON.updated({"chunk_reuse": False}))
    ask(harness, "computed", [prompts[0], texts[1], texts[0], prompts[4]])
    assert harness.out.finished("moved").usage.cached_tokens == 120
    assert torch.allclose(seen[1], seen[2], atol=0.05), float((seen[1] - seen[2]).abs().max())


def test_what_is_not_exact_never_enters_the_prefix_cache(make_engine: Any, prompts: Any, texts: Any) -> None:
    harness = make_engine(ON.updated({"prefix_cache": True}))
    ask(harness, "first", [prompts[0], texts[0], texts[1], prompts[4]])
    ask(harness, "moved", [prompts[0], texts[1], texts[0], prompts[4]])
    clean = make_engine(ON.updated({"chunk_reuse": False}))
    wanted = ask(clean, "plain", [prompts[0], texts[1], texts[0], prompts[4]])
    harness.core.set_switches(ON.updated({"prefix_cache": True, "chunk_reuse": False}))
    assert ask(harness, "plain", [prompts[0], texts[1], texts[0], prompts[4]]) == wanted


def test_tenants_do_not_share_texts(make_engine: Any, prompts: Any, texts: Any) -> None:
    harness = make_engine(ON)
    ask(harness, "first", [texts[0], texts[1], prompts[4]], salt="one")
    ask(harness, "second", [texts[0], texts[1], prompts[4]], salt="two")
    assert harness.out.finished("second").usage.cached_tokens == 0
