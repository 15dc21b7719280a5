"""A health check is green only where a request would be answered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.api.operations import health, ping
from backend.engine.messages import Usage
from backend.engine.protocol import EngineState, Phase
from backend.errors import ModelFailedError
from backend.metering.entry import Asked
from tests.access.conftest import Door


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


def test_what_the_ledger_could_not_store_is_seen(tmp_path: Path) -> None:
    door = Door(tmp_path)
    ledger = door.runtime.ledger
    taken = Usage(1 << 80, 0, 4, 0.1, 0.2, 1.0, 1.1, 1.2, 2.0, "bf16")
    ledger.record(Asked("huge", "api", "realtime", "model"), taken, outcome="stop")
    assert ledger.flush(60) and door.runtime.database.writer.flush(60)
    said = door.client().get("/healthz").json()
    assert (said["unstored_entries"], said["lost_writes"]) == (1, 0)
    (one,) = door.runtime.happenings.between(0, 1e12)
    assert one.kind == "unstored" and "only machine time and cost are kept" in one.text
    door.runtime.close()
