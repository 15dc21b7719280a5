"""The README's examples run as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, until


def test_the_readmes_example_answers_from_the_documents(server: Any) -> None:
    handbook = ROOT / "data" / "samples" / "lighthouse-handbook.md"
    server.wait_document(server.upload(handbook.name, handbook.read_bytes())["id"])
    example, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    namespace: dict[str, Any] = {}
    exec(example.replace("http://localhost:8501", server.url), namespace)
    message = namespace["answer"].choices[0].message
    assert message.content
    assert any(citation["document"] == handbook.name for citation in message.citations)


def test_the_readmes_batch_is_answered(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    Path("requests.jsonl").write_text(json.dumps(line))
    example, batches = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    opening = example[: example.index("answer =")]
    namespace: dict[str, Any] = {}
    exec((opening + batches).replace("http://localhost:8501", server.url), namespace)
    client, batch = namespace["client"], namespace["batch"]
    until(lambda: client.batches.retrieve(batch.id).status == "completed", "it is answered", 120)
