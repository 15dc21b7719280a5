"""What every test shares: the real packaged models, converted once, and a data folder of its own per run."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not shutil.which("nvidia-smi"):
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything of Triton is imported
os.environ.setdefault("TENFOLD_MEASURE_PRECISION", "false")  # weights that change while a test compares answers

# Whoever asks by httpx has every certificate authority read first, which takes 20 ms; nobody here speaks TLS.
ssl.create_default_context = functools.cache(ssl.create_default_context)

if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # A core for each worker and all that it starts: OpenMP threads that share cores ruin each other.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

ROOT = Path(__file__).resolve().parents[1]
LONG = (
    "browser/test_pages.py", "browser/test_chat.py", "browser/test_knowledge.py", "browser/test_work.py",
    "browser/test_sign_in.py", "api/test_recovery.py", "engine/test_reading.py", "engine/test_exactness.py",
    "test_kills.py", "chats/test_conversations.py",
)  # fmt: skip
"""The test files that take longest, the longest first."""
Value = TypeVar("Value")


def kept_folder() -> Path:
    """Where what takes long to make is kept between runs of the tests."""
    return Path(os.environ.get("TENFOLD_TEST_CACHE", ROOT / "data" / "var" / "test-cache"))


def until(condition: Callable[[], Value], what: str, timeout: float = 60) -> Value:
    """Wait until a condition holds, however busy the machine, and give what it gave."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain until {what}"
        time.sleep(0.05)
    return value


def pytest_sessionstart(session: pytest.Session) -> None:
    """The kernels are built before there are workers: with all cores, and once."""
    from backend.engine.kernels.abi import KernelsUnavailableError
    from backend.engine.kernels.build import load_cpu_kernels

    if worker is None:
        with contextlib.suppress(KernelsUnavailableError):
            load_cpu_kernels(kept_folder())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left with it at the end."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=place)


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """Converted weights and built kernels, kept between runs: making them is tested on its own."""
    folder = kept_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def chat_folder(cache_dir: Path) -> Path:
    """The packaged SmolLM2 as a Hugging Face folder."""
    from backend import packaged
    from backend.models.checkpoint import resolve

    return resolve(packaged.CHAT_MODEL, cache_dir)


class Server:
    """A real server: `streamlit run app.py` in a process of its own, on a free port, with its own data folder."""

    def __init__(self, data_dir: Path, cache_dir: Path, *, address: str = "127.0.0.1", **environment: str) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        if not (data_dir / "cache").exists():
            (data_dir / "cache").symlink_to(cache_dir)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.address, self.environment = address, environment
        self.log = data_dir / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: bool = True) -> Server:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(self.port),
             "--server.address", self.address],
            cwd=ROOT,
            env={**os.environ, "TENFOLD_DATA_DIR": str(self.data_dir), **self.environment},
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
        )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/healthz", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process is not None and self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.1)
        raise AssertionError(f"the server did not become ready: {self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def engine_pid(self) -> int:
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        return next(c.pid for c in children if "backend.engine.process" in " ".join(c.cmdline()))

    def upload(self, name: str, data: bytes, collection: str = "default") -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/api/documents", files={"files": (name, data)}, data={"collection": collection}, timeout=60
        )
        body: dict[str, Any] = answer.json()
        return body["data"][0] if answer.status_code == 202 else body

    def wait_document(self, document_id: str, timeout: float = 60) -> dict[str, Any]:
        """The document, once it is ready or failed."""

        def ended() -> dict[str, Any] | None:
            document = self.document(document_id)
            return document if document["state"] in ("ready", "failed") else None

        document = until(ended, f"document {document_id} is read", timeout)
        assert document is not None
        return document

    def document(self, document_id: str) -> dict[str, Any]:
        out: dict[str, Any] = httpx.get(f"{self.url}/api/documents/{document_id}", timeout=30).json()
        return out

    def wait_embedding(self, document_id: str) -> None:
        """Until a document is in the middle of being embedded: some of it is, and not all."""

        def begun() -> bool:
            document = self.document(document_id)
            return document["state"] == "embedding" and bool(document["rate"]) and document["rate"]["done"] > 0

        until(begun, "some of it is embedded")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, chat_folder: Path) -> Iterator[Server]:
    """One server for every test that does not kill it."""
    running = Server(tmp_path_factory.mktemp("server"), cache_dir).start()
    yield running
    running.stop()


@pytest.fixture
def own_server(tmp_path: Path, cache_dir: Path, chat_folder: Path) -> Iterator[Server]:
    """A server for one test, not started yet."""
    running = Server(tmp_path / "data", cache_dir)
    yield running
    running.stop()
