"""A tokenizer is loaded once, however many ask for it at the same moment."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer

from backend.engine.client import EngineState
from backend.errors import UnavailableError
from backend.models import texts
from backend.models.text import TextModel
from backend.models.texts import Texts


def engine(**info: str) -> Any:
    state = EngineState("failed", "The model's folder is missing.")
    return SimpleNamespace(info=info, state=state, wait_ready=lambda timeout: False)


def test_a_burst_loads_a_tokenizer_once(chat_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []
    monkeypatch.setattr(texts, "TextModel", lambda folder: loads.append(folder) or TextModel(folder))

    class Counted:
        from_file = staticmethod(lambda file: loads.append(file) or Tokenizer.from_file(file))

    monkeypatch.setattr(texts, "Tokenizer", Counted)
    cache = Texts(engine(model_folder=str(chat_folder), embedding_folder=str(chat_folder)))
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
        Texts(engine(model_folder=str(tmp_path))).text()
