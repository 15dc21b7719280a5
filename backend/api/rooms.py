"""Threads for routes that wait: each room has its own few, so that one that is stuck never stops another.

Streamlit gives all synchronous routes of the server together 28 threads, and serves its own files with them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi.routing import APIRoute

Value = TypeVar("Value")


class Room:
    """Up to `threads` calls of one kind at a time; more wait for each other, and for nobody else."""

    def __init__(self, threads: int) -> None:
        self._limiter = CapacityLimiter(threads)

    async def run(self, work: Callable[[], Value]) -> Value:
        """Do something that blocks, in a thread of this room."""
        return await to_thread.run_sync(work, limiter=self._limiter)

    def route_class(self) -> type[APIRoute]:
        """What a router is given so that its synchronous routes run in this room."""
        room = self

        class RoomRoute(APIRoute):
            def __init__(self, path: str, endpoint: Callable[..., Any], **more: Any) -> None:
                super().__init__(path, room.asynchronous(endpoint), **more)

        return RoomRoute

    def asynchronous(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
        """A route as a coroutine that leaves the work to a thread of this room."""
        if inspect.iscoroutinefunction(endpoint):
            return endpoint

        @functools.wraps(endpoint)
        async def run(*arguments: Any, **named: Any) -> Any:
            return await self.run(functools.partial(endpoint, *arguments, **named))

        return run
