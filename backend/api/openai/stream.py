"""From requests to a response: starts generations, then waits for all of them or streams each as it is written."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from backend.api.openai.schemas import Sampling
from backend.api.openai.usage import cost, cost_header, system_fingerprint, usage
from backend.api.rooms import Room
from backend.engine.messages import BATCH
from backend.errors import InvalidInputError, error_body
from backend.generation.request import TextRequest
from backend.generation.stream import Generation, Piece
from backend.runtime import Runtime

CHATS = Room(16)
"""Threads for what a request needs before it streams: searching, rendering, tokenizing."""


class Shape(Protocol):
    """How an endpoint writes its choices."""

    prefix: str  # of the answer's id
    kind: str
    chunk_kind: str

    def whole(self, index: int, generation: Generation) -> dict[str, Any]:
        """A choice that is complete."""
        ...

    def opening(self, index: int, generation: Generation) -> dict[str, Any] | None:
        """What a stream begins a choice with, together with its first token."""
        ...

    def delta(self, index: int, generation: Generation, piece: Piece) -> dict[str, Any]:
        """A further piece of a choice."""
        ...

    def ending(self, index: int, generation: Generation) -> dict[str, Any]:
        """What a stream ends a choice with."""
        ...


async def start(runtime: Runtime, body: Sampling, name: str, prompts: list[TextRequest]) -> list[Generation]:
    """Start n generations for every prompt; all or none. The first has the request's `name`, others name and number.

    Raises:
        InvalidInputError: too many at once, or something about one of them is wrong.
        TenfoldError: what `GenerationService` raises.
    """
    return await CHATS.run(lambda: begin(runtime, body, name, prompts))


def begin(runtime: Runtime, body: Sampling, name: str, prompts: list[TextRequest]) -> list[Generation]:
    """The same, for who may block."""
    n, most = body.n or 1, runtime.settings.max_prompts
    if len(prompts) * n > most:
        raise InvalidInputError(
            f"This request asks for {len(prompts) * n} answers ({len(prompts)} prompts × n {n}); at most {most} are "
            "taken at once. Send several requests, or make it a job.",
            param="prompt" if len(prompts) > 1 else "n",
        )
    wanted = [_drawn(prompt, draw) for prompt in prompts for draw in range(n)]
    named = [replace(one, request_id=f"{name}-{at}" if at else name) for at, one in enumerate(wanted)]
    return _start(runtime, named)


def _drawn(prompt: TextRequest, draw: int) -> TextRequest:
    """The `draw`-th of n answers: with a seed each has its own."""
    seed = prompt.sampling.seed
    return prompt if seed is None else replace(prompt, sampling=replace(prompt.sampling, seed=seed + draw))


def _start(runtime: Runtime, wanted: list[TextRequest]) -> list[Generation]:
    prepared = [runtime.generations.prepare(request) for request in wanted]  # all are checked before any is started
    started: list[Generation] = []
    try:
        for one in prepared:
            started.append(runtime.generations.start(one))
    except BaseException:
        _cancel(runtime, started)
        raise
    return started


def _cancel(runtime: Runtime, generations: list[Generation]) -> None:
    for generation in generations:
        if not generation.ended:
            runtime.generations.cancel(generation)


async def respond(
    runtime: Runtime, request: Request, body: Sampling, generations: list[Generation], shape: Shape
) -> Response:
    """Answer with what the generations write, streamed or not; an end of the connection aborts them."""
    if body.stream:
        head, n = _head(runtime, body, generations, shape), body.n or 1
        counted = n if body.stream_options and body.stream_options.include_usage else None
        events = _events(generations, {**head, "object": shape.chunk_kind}, shape, counted)
        return EventStream(events, runtime, generations)
    try:
        await _wait(request, generations)
    finally:
        _cancel(runtime, generations)
    for generation in generations:
        if generation.error is not None:
            raise generation.error
    # Log probabilities name every token's text: too much for the thread that all connections share.
    answer = await CHATS.run(lambda: whole(runtime, body, generations, shape))
    return JSONResponse(answer, headers=cost_header(cost(generations)))


def whole(runtime: Runtime, body: Sampling, generations: list[Generation], shape: Shape) -> dict[str, Any]:
    """The response that generations make up which have all ended well."""
    return {
        **_head(runtime, body, generations, shape),
        "object": shape.kind,
        "choices": [shape.whole(i, generation) for i, generation in enumerate(generations)],
        "usage": usage(generations, body.n or 1),
    }


def _head(runtime: Runtime, body: Sampling, generations: list[Generation], shape: Shape) -> dict[str, Any]:
    return {
        "id": shape.prefix + generations[0].id,
        "created": int(time.time()),
        "model": body.model,
        "system_fingerprint": system_fingerprint(runtime),
        "service_tier": "flex" if generations[0].request.path == BATCH else "default",
    }


async def _wait(request: Request, generations: list[Generation]) -> None:
    """Until all have ended or the client is gone."""

    async def drain(generation: Generation) -> None:
        async for _ in generation.afollow():
            pass

    async def gone() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.25)

    async def drain_all() -> None:
        await asyncio.gather(*(drain(generation) for generation in generations))

    everything = asyncio.ensure_future(drain_all())
    watcher = asyncio.ensure_future(gone())
    try:
        await asyncio.wait([everything, watcher], return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
        everything.cancel()


class EventStream(StreamingResponse):
    """Server-sent events of generations, which its end aborts: also one that comes before the first event."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], runtime: Runtime, generations: list[Generation]) -> None:
        super().__init__(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._runtime, self._generations = runtime, generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until all have ended or the client is gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            _cancel(self._runtime, self._generations)


async def _events(
    generations: list[Generation], head: dict[str, Any], shape: Shape, counted: int | None
) -> AsyncIterator[str]:
    """Events of all generations as they come; with `counted`, of so many answers a prompt, what was used at the end."""
    queue: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()
    if counted is not None:
        head = {**head, "usage": None}
    opened: set[int] = set()

    async def pump(index: int) -> None:
        async for piece in generations[index].afollow():
            queue.put_nowait((index, piece))
        queue.put_nowait((index, None))

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**head, 'choices': choices, **more}, ensure_ascii=False)}\n\n"

    pumps = [asyncio.ensure_future(pump(index)) for index in range(len(generations))]
    left = len(generations)
    try:
        while left:
            index, piece = await queue.get()
            generation = generations[index]
            if piece is None and generation.error is not None:
                yield f"data: {json.dumps(error_body(generation.error))}\n\n"
                return
            if index not in opened:  # not before: clients take the first event for the first token
                opened.add(index)
                opening = shape.opening(index, generation)
                if opening is not None:
                    yield event([opening])
            if piece is None:
                left -= 1
                yield event([shape.ending(index, generation)])
            elif piece.text or piece.logprob:
                yield event([shape.delta(index, generation, piece)])
        if counted is not None:
            yield event([], usage={**usage(generations, counted), "cost": cost(generations)})
        yield "data: [DONE]\n\n"
    finally:
        for task in pumps:
            task.cancel()
