"""How much a server grows by a large batch: `python -m backend.lab.batch_memory 100000`.

Starts a server of its own on an empty data folder, sends it a file of so many short completions, and looks at the
memory of its web process until the batch has ended. Prints JSON lines. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from backend.settings import ROOT, Settings

ENDPOINT = "/v1/completions"
MODEL = Settings().served_model
LOOK = 0.5
"""Seconds between two looks."""
TOLD = 20.0
"""Seconds between two rows."""


def measure(lines: int, tokens: int, distinct: int) -> None:
    """Run a batch and print what the web process holds, in MB: before, now and then, and most."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (url, process):
        _ask(url, ENDPOINT, {**_body(0, tokens), "stream": False})  # whatever a first request loads
        before = most = _megabytes(process)
        file = _upload(url, Path(folder) / "lines.jsonl", lines, tokens, distinct)
        asked = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        batch, started = _ask(url, "/v1/batches", asked), time.monotonic()
        told = started
        while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            time.sleep(LOOK)
            batch, most = _ask(url, f"/v1/batches/{batch['id']}"), max(most, _megabytes(process))
            if time.monotonic() - told > TOLD:
                told = time.monotonic()
                _print(batch, started, before, most, now=_megabytes(process))
        _print(batch, started, before, most, now=_megabytes(process))


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server on a data folder, and its web process, once it is ready."""
    cache = Settings().cache_dir
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "cache").symlink_to(cache)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    process = subprocess.Popen(
        [*command, "--server.address", "127.0.0.1"], cwd=ROOT, env={**os.environ, "TENFOLD_DATA_DIR": str(folder)},
        stdout=sys.stderr,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{url}/healthz") as answer:
                if answer.status == 200:
                    break
            if process.poll() is not None:
                raise RuntimeError("the server did not start")
            time.sleep(0.2)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _body(number: int, tokens: int) -> dict[str, Any]:
    prompt = f"Ship {number} met buoy {number * 7919 % 100_003} at"
    return {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0}


def _upload(url: str, path: Path, lines: int, tokens: int, distinct: int) -> str:
    edge = uuid.uuid4().hex
    with path.open("w") as form:
        form.write(f'--{edge}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{edge}\r\n')
        form.write('content-disposition: form-data; name="file"; filename="lines.jsonl"\r\n\r\n')
        for number in range(lines):
            body = _body(number % distinct, tokens)
            line = {"custom_id": str(number), "method": "POST", "url": ENDPOINT, "body": body}
            form.write(json.dumps(line) + "\n")
        form.write(f"\r\n--{edge}--\r\n")
    headers = {"content-type": f"multipart/form-data; boundary={edge}", "content-length": str(path.stat().st_size)}
    with path.open("rb") as form_bytes:
        request = urllib.request.Request(f"{url}/v1/files", data=form_bytes, headers=headers)
        with urllib.request.urlopen(request) as answer:
            return str(json.load(answer)["id"])


def _ask(url: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        out: dict[str, Any] = json.load(answer)
    return out


def _megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


def _print(batch: dict[str, Any], started: float, before: float, most: float, *, now: float) -> None:
    counts, seconds = batch["request_counts"], time.monotonic() - started
    row = {
        "workload": "batch", "status": batch["status"], "lines": counts["total"], "done": counts["completed"],
        "failed": counts["failed"], "seconds": round(seconds), "before_mb": round(before), "now_mb": round(now),
        "most_mb": round(most), "grew_mb": round(most - before),
    }  # fmt: skip
    print(json.dumps(row), flush=True)


def main() -> None:
    """Parse arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=int)
    parser.add_argument("--tokens", type=int, default=1, help="of each answer")
    parser.add_argument(
        "--distinct", type=int, help="prompts; the others are answered again, which is quicker than the model"
    )
    arguments = parser.parse_args()
    measure(arguments.lines, arguments.tokens, arguments.distinct or arguments.lines)


if __name__ == "__main__":
    main()
