"""Tenfold's one entry point: `streamlit run app.py` serves the console, the API and the metrics on one port."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import streamlit as st
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from streamlit import config

from backend.api.app import create_api
from backend.api.gate import Gate, is_loopback
from backend.runtime import close_runtime, current, open_runtime

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
for noisy in ("httpx", "chromadb", "apscheduler", "pdfminer", "alembic"):
    logging.getLogger(noisy).setLevel(logging.WARNING)


def bind_address() -> str | None:
    """The address this server listens on; None for every interface."""
    address: str | None = config.get_option("server.address")
    return address


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    """Open the runtime with the server and close it with it."""
    runtime = await run_in_threadpool(open_runtime)
    if not is_loopback(bind_address()) and not runtime.keys.find():
        key = runtime.keys.create("first key")
        print(f"\n  This server is open to the network. Sign in, and call the API, with this key:\n\n    {key}\n")
    try:
        yield
    finally:
        await run_in_threadpool(close_runtime)


app = st.App(
    "pages/console.py",
    lifespan=lifespan,
    middleware=[Middleware(Gate, api=create_api(current), runtime=current, bind_address=bind_address)],
)
