"""A room that is stuck stops nobody but itself."""

from __future__ import annotations

import asyncio
import threading

import httpx
from anyio import to_thread
from fastapi import APIRouter, FastAPI

from backend.api import operations
from backend.api.console import RESOURCES
from backend.api.openai import FAMILIES
from backend.api.rooms import Room


def test_calls_that_hang_in_one_room_never_block_another() -> None:
    release = threading.Event()
    stuck = APIRouter(route_class=Room(4).route_class())
    other = APIRouter(route_class=Room(2).route_class())

    @stuck.get("/stuck/{number}")
    def hang(number: int) -> dict[str, int]:
        release.wait(60)
        return {"number": number}

    @other.get("/healthz")
    def health() -> dict[str, str]:
        return {"thread": threading.current_thread().name}

    app = FastAPI()
    app.include_router(stuck)
    app.include_router(other)

    async def play() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=60) as client:
            hanging = [asyncio.ensure_future(client.get(f"/stuck/{number}")) for number in range(40)]
            await asyncio.sleep(0.2)
            assert (await client.get("/healthz")).status_code == 200
            shared = to_thread.current_default_thread_limiter()
            assert shared.borrowed_tokens == 0, "threads that everybody shares are held"
            release.set()
            answers = await asyncio.gather(*hanging)
        assert [answer.json()["number"] for answer in answers] == list(range(40))

    asyncio.run(play())


def test_no_route_waits_in_the_threads_that_all_share() -> None:
    for router in (operations.router, *(part.router for part in (*RESOURCES, *FAMILIES))):
        assert router.routes
        for route in router.routes:
            assert asyncio.iscoroutinefunction(route.endpoint), route.path  # type: ignore[attr-defined]
