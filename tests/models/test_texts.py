"""A tokenizer is loaded once, however many ask for it at the same moment."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.engine.about import EngineInfo
from backend.engine.protocol import EngineState, Phase
from backend.errors import UnavailableError
from backend.models import texts
from backend.models.checkpoint import load_tokenizer
from backend.models.text import TextModel
from backend.models.texts import Texts
from tests.engine.fake_engine import INFO


def engine(info: EngineInfo | None = None) -> Any:
    state = EngineState(Phase.FAILED, "The model's folder is missing.")

    def known() -> EngineInfo:
        if info is None:
            raise state.error()
        return info

    return SimpleNamespace(info=info, state=state, wait_ready=lambda timeout: False, known=known)


def test_a_burst_loads_a_tokenizer_once(chat_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []
    monkeypatch.setattr(texts, "TextModel", lambda folder: loads.append(folder) or TextModel(folder))

    monkeypatch.setattr(texts, "load_tokenizer", lambda folder: loads.append(folder) or load_tokenizer(folder))
    cache = Texts(engine(replace(INFO, model_folder=str(chat_folder), embedding_folder=str(chat_folder))))
    together, given = threading.Barrier(16), []

    def ask() -> None:
        together.wait()
        given.append((cache.text(), cache.embedding_tokenizer()))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 2 and len({(id(a), id(b)) for a, b in given}) == 1 and len(given) == 16


def test_without_an_engine_the_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="folder is missing"):
        Texts(engine()).text()
    with pytest.raises(UnavailableError, match=r"no tokenizer\.json"):
        Texts(engine(replace(INFO, model_folder=str(tmp_path)))).text()
