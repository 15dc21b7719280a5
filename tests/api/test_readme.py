"""The README's example runs as it stands there."""

from __future__ import annotations

import re
from typing import Any

from tests.conftest import ROOT


def test_the_readmes_example_answers_from_the_documents(server: Any) -> None:
    handbook = ROOT / "data" / "samples" / "lighthouse-handbook.md"
    server.wait_document(server.upload(handbook.name, handbook.read_bytes())["id"])
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    namespace: dict[str, Any] = {}
    exec(example.replace("http://localhost:8501", server.url), namespace)
    message = namespace["answer"].choices[0].message
    assert message.content
    assert any(citation["document"] == handbook.name for citation in message.citations)
