"""Batches over a database and files of their own, answered by a stand-in instead of a model.

As a program it serves batches until it is killed: `python -m tests.batches.standin FOLDER DATABASE LOG`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backend.batches.line import Answered, Begun, LineRequest
from backend.batches.service import Batches
from backend.engine.messages import BATCH, SamplingParams
from backend.errors import InvalidInputError
from backend.files.blobs import Blobs
from backend.files.catalogue import Catalogue
from backend.generation.request import TextRequest
from backend.store.database import Database
from backend.store.tables.batches import Batch
from tests.conftest import until
from tests.jobs.standin import StandIn

ENDPOINT, MODEL = "/v1/completions", "m"


def line(name: str, prompt: str, **more: Any) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": prompt}
    return {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body, **more}


def lines(*prompts: str) -> list[dict[str, Any]]:
    return [line(f"line {i}", prompt) for i, prompt in enumerate(prompts)]


class Bench:
    """Batches, and what a test does with them."""

    def __init__(self, folder: Path, database: Database, answers: StandIn, most_lines: int = 100_000) -> None:
        self.database, self.answers = database, answers
        self.files = Catalogue(database, Blobs(folder / "api-files"), 1 << 30)
        served = {ENDPOINT: MODEL}
        self.batches = Batches(database, self.files, answers, served, most_lines)  # type: ignore[arg-type]

    def start(self) -> None:
        self.batches.start(self.begin)

    def begin(self, asked: LineRequest) -> Begun:
        prompt = asked.body["prompt"]
        if "wrong" in prompt:
            raise InvalidInputError("This prompt is wrong.", param="prompt")
        request = TextRequest(
            text=prompt, question=prompt, path=BATCH, source="batch", request_id=asked.name, key_id=asked.key_id,
            tenant=asked.tenant, sampling=SamplingParams(),
        )  # fmt: skip
        generation = self.answers.start(self.answers.prepare(request))
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
        return Begun((generation,), lambda: Answered({"text": generation.text, "usage": usage}, 0.25))

    def upload(self, content: Iterable[dict[str, Any]] | bytes, tenant: str = "me") -> str:
        if isinstance(content, bytes):
            pieces: Iterable[bytes] = [content]
        else:
            pieces = (json.dumps(one).encode() + b"\n" for one in content)
        return self.files.upload("in.jsonl", pieces, tenant=tenant, purpose="batch").id

    def create(self, content: Iterable[dict[str, Any]] | bytes, tenant: str = "me", **more: Any) -> Batch:
        return self.batches.create(
            tenant, "key", endpoint=ENDPOINT, input_file_id=self.upload(content, tenant), **more
        )

    def now(self, batch: Batch) -> Batch:
        return self.batches.get(batch.id, batch.tenant)

    def ended(self, batch: Batch, timeout: float = 60) -> Batch:
        until(lambda: not self.now(batch).open, "the batch ends", timeout)
        return self.now(batch)

    def content(self, file_id: str | None, tenant: str = "me") -> list[dict[str, Any]]:
        assert file_id is not None
        with self.files.open(self.files.get(file_id, tenant)) as file:
            return [json.loads(row) for row in file]


def main() -> None:
    folder, database, log = sys.argv[1:]
    Bench(Path(folder), Database(f"sqlite:///{database}"), StandIn(Path(log), delay=0.002)).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
