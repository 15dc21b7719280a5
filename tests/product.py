"""The whole product but its pages, in a process of its own that does what lines of JSON ask for: it can be killed.

Pages call the runtime, and so does this; what it answers is what a page would have shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from backend.knowledge.sight import SHARED
from tests.conftest import ROOT, until


class Product:
    """A runtime in a process of its own, on a data folder that outlives it."""

    def __init__(self, data_dir: Path, cache_dir: Path) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        if not (data_dir / "cache").exists():
            (data_dir / "cache").symlink_to(cache_dir)
        self.log = data_dir / "product.log"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.product"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log.open("ab"), env={**os.environ, "TENFOLD_DATA_DIR": str(self.data_dir)}, text=True,
        )  # fmt: skip
        assert self._answer() == "open"

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        answer = json.loads(line)
        assert "problem" not in answer, answer["problem"]
        return answer["is"]

    def __call__(self, do: str, **what: Any) -> Any:
        """Have one of `Calls` done; its answer is the acknowledgement."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "with": what}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def ready(self) -> None:
        until(lambda: self("ready"), "the engine is ready", 120)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it in order: the end of what it is asked is the end of it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


class Calls:
    """What may be asked for, by name."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def ready(self) -> bool:
        return bool(self._runtime.engine.wait_ready(0.1) and self._runtime.texts.ready and self._runtime.index.opened)

    def upload(self, name: str, text: str) -> str:
        return str(self._runtime.uploads.upload(name, [text.encode()], SHARED).id)

    def delete(self, document: str) -> None:
        self._runtime.documents.delete(document, SHARED)

    def documents(self) -> dict[str, list[str]]:
        return {document.id: [document.state, document.reason] for document in self._runtime.documents.latest(SHARED)}

    def passages(self, document: str) -> str:
        return " ".join(chunk.text for chunk in self._runtime.documents.chunks(document, SHARED))

    def searchable(self) -> int:
        return int(self._runtime.retriever.find("ship", None, SHARED, mode="dense", source="test").total)

    def chat(self, text: str) -> str:
        from backend.chats.conversations import ChatOptions

        conversation = self._runtime.conversations.create()
        self._runtime.conversations.ask(conversation.id, text, ChatOptions(max_tokens=24))
        return str(conversation.id)

    def messages(self, conversation: str) -> list[list[str]]:
        rows = self._runtime.conversations.messages(conversation)
        return [[row.role, row.state, row.text, row.error] for row in rows]

    def job(self, prompts: list[str]) -> list[str]:
        job = self._runtime.jobs.create("counting", prompts, max_tokens=6)
        return [job.id, self._runtime.jobs.run(job.id).id]

    def batch(self, prompts: list[str]) -> str:
        endpoint, model = "/v1/completions", self._runtime.settings.served_model
        bodies = ({"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0} for prompt in prompts)
        lines = (
            json.dumps({"custom_id": str(i), "method": "POST", "url": endpoint, "body": body}).encode() + b"\n"
            for i, body in enumerate(bodies)
        )
        file = self._runtime.files.upload("lines.jsonl", lines, tenant="", purpose="batch")
        return str(self._runtime.batches.create("", "", endpoint=endpoint, input_file_id=file.id).id)

    def batch_state(self, batch: str) -> list[Any]:
        found = self._runtime.batches.get(batch, "")
        return [found.status, found.completed, found.failed]

    def batch_output(self, batch: str) -> list[Any]:
        file = self._runtime.batches.get(batch, "").output_file_id
        with self._runtime.files.open(self._runtime.files.get(file, "")) as lines:
            return [json.loads(line) for line in lines]

    def run(self, job: str) -> list[Any]:
        (run,) = self._runtime.jobs.runs(job)
        return [run.state, run.done, run.failed]

    def results(self, run: str) -> list[Any]:
        return [json.loads(line) for line in self._runtime.jobs.results(run)]


def main() -> None:
    from backend.api.openai.lines import serve_batches
    from backend.runtime import close_runtime, open_runtime

    runtime = open_runtime()
    serve_batches(runtime)
    calls = Calls(runtime)
    print(json.dumps({"is": "open"}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"is": getattr(calls, asked["do"])(**asked["with"])}
        except Exception as error:
            answer = {"problem": f"{asked['do']}: {type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    close_runtime()


if __name__ == "__main__":
    main()
