"""A health check is green only where a request would be answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backend.api.operations import health, ping
from backend.engine.protocol import EngineState, Phase
from backend.errors import ModelFailedError


def runtime(phase: Phase = Phase.READY, *, hung: bool = False, problem: Exception | None = None) -> Any:
    def text() -> None:
        if problem is not None:
            raise problem

    engine = SimpleNamespace(state=EngineState(phase), hung=hung)
    return SimpleNamespace(engine=engine, texts=SimpleNamespace(text=text))


@pytest.mark.parametrize(
    ("is_now", "status"),
    [(runtime(), 200), (runtime(Phase.STARTING), 503), (runtime(hung=True), 503),
     (runtime(problem=ModelFailedError("The chat template cannot be read.")), 503)],
    ids=["ready", "loading", "hung", "a model without texts"],
)  # fmt: skip
def test_green_only_where_requests_are_answered(is_now: Any, status: int) -> None:
    assert health(is_now).status_code == ping(is_now).status_code == status
