"""Tenfold's one entry point: `streamlit run app.py` serves the console, the API and the metrics on one port."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import streamlit as st
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from streamlit import config

from backend.access.caller import Role
from backend.access.gate import Gate
from backend.access.headers import ResponseHeaders, content_policy
from backend.access.hosts import TrustedHosts, is_loopback
from backend.api.app import create_api
from backend.api.openai.lines import serve_batches
from backend.errors import TenfoldError
from backend.logs import configure_logs
from backend.runtime import Runtime, close_runtime, current, open_runtime
from backend.settings import Settings

M_ARENA_MAX = -8
HEAPS = 2
"""From which this process's many threads allocate. glibc's default, eight for each core, keeps what each of them once
needed: after 1,500 requests at 16 at once the process held 335 MB, and with two 256 MB."""

INDEX = Path(st.__file__).parent / "static" / "index.html"


def share_heaps() -> None:
    """Let the threads that begin from now on share a few heaps, where the C library has several."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, HEAPS)


def read_settings(bind_address: str | None) -> Settings:
    """The settings, with keys required wherever others can reach the server; a wrong one ends the start."""
    try:
        settings = Settings()
    except ValidationError as error:
        raise SystemExit(f"Tenfold does not start: {error}") from None
    if is_loopback(bind_address):
        return settings
    return settings.model_copy(update={"require_keys": True})


def configure_console(settings: Settings, bind_address: str | None) -> None:
    """Give Streamlit the limits that are ours."""
    config.set_option("server.maxUploadSize", settings.max_upload_mb)
    if is_loopback(bind_address):
        names = ["localhost", "127.0.0.1", "::1", str(bind_address).strip("[]"), *settings.allowed_hosts]
        config.set_option("server.allowedHosts", names)


def print_first_key(runtime: Runtime) -> None:
    """Somebody must be able to come in: without an administrator's key, make one and show it where we were started."""
    keys = runtime.access.keys
    if runtime.settings.require_keys and not any(key.role == Role.ADMIN for key in keys.latest()):
        key = keys.create("first key", Role.ADMIN, tenant="")
        print(f"\n  This server asks for a key. Sign in, and call the API, with this one:\n\n    {key}\n", flush=True)


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    """Open the runtime with the server and close it with it."""
    try:
        runtime = await run_in_threadpool(open_runtime, SETTINGS)
    except TenfoldError as error:
        # An exception from here would be logged with its trace; nothing is open yet that would have to be closed.
        print(f"\n  Tenfold does not start. {error.message}\n", file=sys.stderr, flush=True)
        os._exit(1)
    print_first_key(runtime)
    await run_in_threadpool(serve_batches, runtime)
    try:
        yield
    finally:
        await run_in_threadpool(close_runtime)


share_heaps()
ADDRESS: str | None = config.get_option("server.address")
SETTINGS = read_settings(ADDRESS)
configure_logs(SETTINGS.log_format)
configure_console(SETTINGS, ADDRESS)
app = st.App(
    "pages/console.py",
    lifespan=lifespan,
    middleware=[
        Middleware(ResponseHeaders, policy=content_policy(INDEX.read_text())),
        Middleware(
            TrustedHosts,
            bind_address=ADDRESS,
            allowed_hosts=SETTINGS.allowed_hosts,
            allowed_origins=SETTINGS.allowed_origins,
        ),
        Middleware(Gate, api=create_api(current, SETTINGS), access=lambda: current().access),
    ],
)
