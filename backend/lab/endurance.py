"""Many requests of every kind at a running server: `python -m backend.lab.endurance --requests 10000`.

Short chats (streamed and not), completions, embeddings, searches, listings, and requests that are refused. One JSON
line each 500 requests with the web process's memory, and one at the end; exits with 1 if an answer was a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter
from typing import Any

import httpx

from backend.metering.percentiles import percentiles

EVERY = 500
TIMEOUT = 120.0
CHAT = "/v1/chat/completions"


def request(number: int, model: str, embedder: str) -> tuple[str, str, dict[str, Any] | None, tuple[int, ...]]:
    """The request of this number: method, path, body, and the statuses that are right for it."""
    chat: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": f"Say the number {number}."}], "max_tokens": 4,
    }  # fmt: skip
    kinds: list[tuple[str, str, dict[str, Any] | None, tuple[int, ...]]] = [
        ("POST", CHAT, chat, (200,)),
        ("POST", CHAT, {**chat, "stream": True, "temperature": 1.0, "logprobs": True}, (200,)),
        ("POST", "/v1/completions", {"model": model, "prompt": [f"{number}, "] * 2, "max_tokens": 3}, (200,)),
        ("POST", "/v1/embeddings", {"model": embedder, "input": [f"Number {number}", "and another"]}, (200,)),
        ("GET", f"/api/search?q=number+{number}", None, (200,)),
        ("GET", "/v1/models", None, (200,)),
        ("GET", "/api/documents", None, (200,)),
        ("GET", "/healthz", None, (200,)),
        ("POST", CHAT, {**chat, "temperature": -1}, (400,)),
        ("POST", CHAT, {**chat, "model": "another"}, (404,)),
        ("POST", CHAT, {**chat, "messages": [{"role": "user", "content": "word " * 9000}]}, (400,)),
        ("GET", f"/v1/nothing/{number}", None, (404,)),
    ]
    return kinds[number % len(kinds)]


class Endurance:
    """Sends requests, some at once, and counts what comes back."""

    def __init__(self, client: httpx.AsyncClient, requests: int) -> None:
        self._client, self._numbers = client, iter(range(requests))
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self.memory: list[float] = []
        self._began = time.monotonic()

    async def work(self, model: str, embedder: str) -> None:
        """Send one request after the other until none is left."""
        for number in self._numbers:
            method, path, body, right = request(number, model, embedder)
            began = time.monotonic()
            answer = await self._client.request(method, path, json=body)
            self.seconds.append(time.monotonic() - began)
            self.statuses[answer.status_code] += 1
            if answer.status_code not in (*right, 429, 503) or ('"error"' in answer.text and 200 in right):
                self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            if len(self.seconds) % EVERY == 0:
                await self.tell()

    async def tell(self) -> None:
        """One line of how it goes."""
        self.memory.append(await self._resident_mb())
        done, took = len(self.seconds), time.monotonic() - self._began
        line = {"requests": done, "per_second": round(done / took, 1), "web_process_mb": self.memory[-1]}
        print(json.dumps(line), flush=True)

    async def _resident_mb(self) -> float:
        metrics = (await self._client.get("/metrics")).text
        found = re.search(r"^process_resident_memory_bytes (\S+)", metrics, re.M)
        return round(float(found[1]) / 2**20, 1) if found else 0.0


async def run(a: argparse.Namespace) -> bool:
    """Send everything; whether all was answered as it should be."""
    headers = {"authorization": f"Bearer {a.key}"} if a.key else {}
    async with httpx.AsyncClient(base_url=a.url, headers=headers, timeout=TIMEOUT) as client:
        served = [row["id"] for row in (await client.get("/v1/models")).raise_for_status().json()["data"]]
        endurance = Endurance(client, a.requests)
        await endurance.tell()
        await asyncio.gather(*(endurance.work(*served) for _ in range(a.concurrency)))
        if len(endurance.seconds) % EVERY:  # else it was just told
            await endurance.tell()
    latency = percentiles(endurance.seconds)
    summary = {
        "requests": len(endurance.seconds),
        "statuses": dict(sorted(endurance.statuses.items())),
        "wrong": endurance.wrong[:5],
        "p50_ms": round(latency.p50 * 1000) if latency else None,
        "p95_ms": round(latency.p95 * 1000) if latency else None,
        "web_process_mb": {"first": endurance.memory[0], "most": max(endurance.memory), "last": endurance.memory[-1]},
    }
    print(json.dumps(summary), flush=True)
    return not endurance.wrong


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8501")
    parser.add_argument("--key", default="")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=16)
    sys.exit(0 if asyncio.run(run(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
