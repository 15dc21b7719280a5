"""The OpenAI-compatible routes: models, chat completions, completions, embeddings."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from backend.api.dependencies import runtime_of
from backend.api.rooms import Room
from backend.api.schemas import ChatCompletionBody, CompletionBody, EmbeddingBody, Sampling
from backend.errors import InvalidInputError, NotFoundError, OverloadedError, TenfoldError, error_body
from backend.generation.request import TextRequest
from backend.generation.stream import Generation, Piece
from backend.runtime import Runtime

CHATS, EMBEDDINGS = Room(16), Room(16)
router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], route_class=EMBEDDINGS.route_class())
RuntimeDep = Annotated[Runtime, Depends(runtime_of)]

Choice = Callable[[int, Generation, list[Piece]], dict[str, Any]]


# ---- models ------------------------------------------------------------------------------------------------------


@router.get("/models")
async def list_models(runtime: RuntimeDep) -> dict[str, Any]:
    """The language model and the embedding model."""
    names = (runtime.settings.served_model, runtime.settings.served_embedding_model)
    return {"object": "list", "data": [_model(runtime, name) for name in names]}


@router.get("/models/{name}")
async def get_model(name: str, runtime: RuntimeDep) -> dict[str, Any]:
    """One model."""
    _check_model(name, runtime.settings.served_model, runtime.settings.served_embedding_model)
    return _model(runtime, name)


def _model(runtime: Runtime, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(runtime.started), "owned_by": "tenfold"}


def _check_model(name: str, *served: str) -> None:
    if name.casefold() not in {each.casefold() for each in served}:
        raise NotFoundError(
            f"The model {name!r} is not served here. Served: {', '.join(served)}.",
            param="model",
            code="model_not_found",
        )


# ---- generation --------------------------------------------------------------------------------------------------


@router.post("/chat/completions")
async def chat_completions(body: ChatCompletionBody, request: Request, runtime: RuntimeDep) -> Response:
    """Answer a conversation, streamed or not; with `documents`, from the uploaded documents with citations."""
    _check_model(body.model, runtime.settings.served_model)
    if body.tools or body.functions:
        raise InvalidInputError("Tools are not supported by this server.", param="tools")
    if body.response_format and body.response_format.get("type") != "text":
        raise InvalidInputError("Only plain text answers are supported.", param="response_format")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInputError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    messages = [message.plain() for message in body.messages]
    source: dict[str, Any] = {"messages": messages}
    if body.documents:
        collection = body.documents if isinstance(body.documents, str) else None
        question = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
        if not question.strip():
            raise InvalidInputError("A question is needed to answer from documents.", param="messages")
        system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        history = [m for m in messages if m["role"] != "system"][:-1]
        grounding = await CHATS.run(
            lambda: runtime.retriever.ground(
                question, history, collection, system, source="api",
                max_tokens=body.max_completion_tokens or body.max_tokens,
            )
        )
        source = {name: getattr(grounding, name) for name in ("messages", "passages", "index_version", "reply")}
        source["citations"] = tuple(grounding.citations)
    asked = [m["content"] for m in messages if m["role"] != "system"]
    if len(asked) == 1:
        systems = [m["content"] for m in messages if m["role"] == "system"]
        source |= {"question": asked[0], "scope": str([body.documents, *systems])}
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    generations = await _start(
        runtime, request, body, [source], logprobs, body.max_completion_tokens or body.max_tokens
    )

    def whole(index: int, generation: Generation, pieces: list[Piece]) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": "".join(p.text for p in pieces), "refusal": None},
            "finish_reason": generation.finish_reason,
            "logprobs": _chat_logprobs(runtime, pieces) if body.logprobs else None,
        }
        if generation.citations:
            choice["message"]["citations"] = list(generation.citations)
        if generation.cache_mark is not None:
            choice["message"]["answer_cache"] = generation.cache_mark.as_dict()
        return choice

    def delta(index: int, generation: Generation, pieces: list[Piece]) -> dict[str, Any]:
        content: dict[str, Any] = {"content": "".join(p.text for p in pieces)}
        if not pieces and generation.ended:
            content = {}
        return {
            "index": index,
            "delta": content,
            "finish_reason": generation.finish_reason if not pieces else None,
            "logprobs": _chat_logprobs(runtime, pieces) if body.logprobs and pieces else None,
        }

    def opening(index: int) -> dict[str, Any]:
        first: dict[str, Any] = {"role": "assistant", "content": ""}
        generation = generations[index]
        if generation.citations:
            first["citations"] = list(generation.citations)
        if generation.cache_mark is not None:
            first["answer_cache"] = generation.cache_mark.as_dict()
        return {"index": index, "delta": first, "finish_reason": None, "logprobs": None}

    return await _respond(
        runtime, request, body, generations, "chatcmpl-", "chat.completion", whole, delta, opening=opening
    )


@router.post("/completions")
async def completions(body: CompletionBody, request: Request, runtime: RuntimeDep) -> Response:
    """Continue one text or several, streamed or not."""
    _check_model(body.model, runtime.settings.served_model)
    for name in ("echo", "suffix", "best_of"):
        if getattr(body, name) not in (None, False, 1):
            raise InvalidInputError(f"{name} is not supported.", param=name)
    prompt = body.prompt
    sources: list[dict[str, Any]]
    if isinstance(prompt, str):
        sources = [{"text": prompt}]
    elif prompt and isinstance(prompt[0], int):
        sources = [{"token_ids": prompt}]
    else:
        sources = [{"text": p} if isinstance(p, str) else {"token_ids": p} for p in prompt]
    if not sources or any(not (s.get("text") or s.get("token_ids")) for s in sources):
        raise InvalidInputError("The prompt is empty.", param="prompt")
    generations = await _start(runtime, request, body, sources, body.logprobs, body.max_tokens or 16)

    def choice(index: int, generation: Generation, pieces: list[Piece]) -> dict[str, Any]:
        return {
            "index": index,
            "text": "".join(p.text for p in pieces),
            "finish_reason": generation.finish_reason if not body.stream or not pieces else None,
            "logprobs": _plain_logprobs(runtime, pieces) if body.logprobs is not None and pieces else None,
        }

    return await _respond(
        runtime, request, body, generations, "cmpl-", "text_completion", choice, choice, chunk_kind="text_completion"
    )


async def _start(
    runtime: Runtime,
    request: Request,
    body: Sampling,
    sources: list[dict[str, Any]],
    logprobs: int | None,
    max_tokens: int | None,
) -> list[Generation]:
    """Start n generations for every source; all or none."""
    salt: str = request.scope["state"]["salt"]
    wanted = [
        TextRequest(
            **source, sampling=body.sampling(logprobs, draw), max_tokens=max_tokens, stop=body.stops(), salt=salt
        )
        for source in sources
        for draw in range(body.n or 1)
    ]

    def start() -> list[Generation]:
        prepared = [runtime.generations.prepare(text_request) for text_request in wanted]
        started: list[Generation] = []
        try:
            for one in prepared:
                started.append(runtime.generations.start(one))
        except TenfoldError:
            for generation in started:
                runtime.generations.cancel(generation)
            raise
        return started

    return await CHATS.run(start)


async def _respond(
    runtime: Runtime,
    request: Request,
    body: Sampling,
    generations: list[Generation],
    prefix: str,
    kind: str,
    whole: Choice,
    delta: Choice,
    *,
    chunk_kind: str = "chat.completion.chunk",
    opening: Callable[[int], dict[str, Any]] | None = None,
) -> Response:
    head = {"id": prefix + generations[0].id, "created": int(time.time()), "model": body.model}
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return StreamingResponse(
            _stream(runtime, generations, {**head, "object": chunk_kind}, delta, opening, usage),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
    try:
        await _wait(request, generations)
    finally:
        for generation in generations:
            if not generation.ended:
                runtime.generations.cancel(generation)
    for generation in generations:
        if generation.error is not None:
            raise generation.error
    choices = [whole(i, generation, generation.pieces) for i, generation in enumerate(generations)]
    return JSONResponse({**head, "object": kind, "choices": choices, "usage": _usage(generations)})


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


async def _stream(
    runtime: Runtime,
    generations: list[Generation],
    head: dict[str, Any],
    delta: Choice,
    opening: Callable[[int], dict[str, Any]] | None,
    include_usage: bool,
) -> AsyncIterator[str]:
    """Server-sent events of all generations as they come; the end of the connection aborts them."""
    queue: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()

    async def pump(index: int) -> None:
        async for piece in generations[index].afollow():
            queue.put_nowait((index, piece))
        queue.put_nowait((index, None))

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({**head, 'choices': choices, **more}, ensure_ascii=False)}\n\n"

    pumps = [asyncio.ensure_future(pump(index)) for index in range(len(generations))]
    try:
        if opening is not None:
            for index in range(len(generations)):
                yield event([opening(index)])
        left = len(generations)
        while left:
            index, piece = await queue.get()
            generation = generations[index]
            if piece is not None:
                if piece.text or piece.logprob:
                    yield event([delta(index, generation, [piece])])
                continue
            left -= 1
            if generation.error is not None:
                yield f"data: {json.dumps(error_body(generation.error))}\n\n"
                return
            yield event([delta(index, generation, [])])
        if include_usage:
            yield event([], usage=_usage(generations))
        yield "data: [DONE]\n\n"
    finally:
        for task in pumps:
            task.cancel()
        for generation in generations:
            if not generation.ended:
                runtime.generations.cancel(generation)


def _usage(generations: list[Generation]) -> dict[str, Any]:
    accounts = [generation.account for generation in generations if generation.account is not None]
    # n answers to one prompt read it once; several prompts are several.
    prompts = {id(g.request.messages) if g.request.messages else g.request.text or str(g.request.token_ids): g.account
               for g in generations if g.account is not None}
    prompt = sum(account.prompt_tokens for account in prompts.values())
    output = sum(account.output_tokens for account in accounts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": sum(account.cached_tokens for account in prompts.values())},
    }


def _chat_logprobs(runtime: Runtime, pieces: list[Piece]) -> dict[str, Any]:
    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text = runtime.text().token_text(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = [
        {
            **entry(piece.token_id, piece.logprob.chosen),
            "top_logprobs": [entry(token, value) for token, value in piece.logprob.top],
        }
        for piece in pieces
        if piece.logprob is not None
    ]
    return {"content": content, "refusal": None}


def _plain_logprobs(runtime: Runtime, pieces: list[Piece]) -> dict[str, Any]:
    text = runtime.text()
    rows = [(piece, piece.logprob) for piece in pieces if piece.logprob is not None]
    return {
        "tokens": [text.token_text(piece.token_id) for piece, _ in rows],
        "token_logprobs": [logprob.chosen for _, logprob in rows],
        "top_logprobs": [{text.token_text(t): v for t, v in logprob.top} for _, logprob in rows],
        "text_offset": [],
    }


# ---- embeddings --------------------------------------------------------------------------------------------------


@router.post("/embeddings")
def create_embeddings(body: EmbeddingBody, runtime: RuntimeDep) -> dict[str, Any]:
    """Embed one input or several; texts that were embedded before are not computed again."""
    _check_model(body.model, runtime.settings.served_embedding_model)
    dimension = runtime.engine.known().embedding_dimension
    if body.dimensions not in (None, dimension):
        raise InvalidInputError(f"This model gives {dimension} dimensions only.", param="dimensions")
    texts = _texts(runtime, body)
    if len(texts) > 2048:
        raise InvalidInputError("At most 2048 inputs are taken at once.", param="input")
    embedded = runtime.embeddings.embed(texts, source="api", truncate=False)
    data = [
        {"object": "embedding", "index": i, "embedding": _encode(vector, body.encoding_format)}
        for i, vector in enumerate(embedded.vectors)
    ]
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    return {"object": "list", "data": data, "model": body.model, "usage": usage}


def _texts(runtime: Runtime, body: EmbeddingBody) -> list[str]:
    given = body.input
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        given = [given]
    out = []
    tokenizer = runtime.embedding_tokenizer()
    vocab = tokenizer.get_vocab_size()
    for item in given:
        if isinstance(item, str):
            out.append(item)
            continue
        ids = list(item)  # type: ignore[arg-type]
        wrong = next((i for i in ids if not 0 <= i < vocab), None)
        if wrong is not None:
            raise InvalidInputError(f"Token id {wrong} is outside the vocabulary of {vocab}.", param="input")
        out.append(tokenizer.decode(ids))
    return out


def _encode(vector: np.ndarray, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode()
    values: list[float] = vector.tolist()
    return values


def as_response(error: TenfoldError) -> JSONResponse:
    """An error as OpenAI clients expect it."""
    pause = {"retry-after": str(error.retry_after)} if isinstance(error, OverloadedError) else {}
    return JSONResponse(error_body(error), status_code=error.status, headers=error.headers | pause)
