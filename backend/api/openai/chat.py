"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from backend.access.caller import Caller
from backend.api.deps import CallerDep, NameDep, RuntimeDep, within_limits
from backend.api.openai.logprobs import chat_logprobs
from backend.api.openai.models import generating_model
from backend.api.openai.schemas import STREAMED, ChatCompletion, ChatCompletionBody
from backend.api.openai.stream import CHATS, respond, start
from backend.errors import InvalidInputError
from backend.generation.request import TextRequest
from backend.generation.stream import Generation, Piece
from backend.knowledge.sight import sight_of
from backend.models.text import TextModel
from backend.runtime import Runtime

router = APIRouter()

GROUNDED = ("messages", "passages", "corpus", "reply", "search_seconds")
"""What a request takes of a grounding as it is."""


@router.post(
    "/chat/completions",
    summary="Answer a conversation.",
    response_model=ChatCompletion,
    responses={200: {"content": STREAMED}},
    dependencies=[Depends(within_limits)],
)
async def chat_completions(
    body: ChatCompletionBody, request: Request, runtime: RuntimeDep, caller: CallerDep, name: NameDep
) -> Response:
    """Returns the answer whole or, with `stream`, as it is written; with `documents`, from them and with citations."""
    if body.documents:
        prompt = await CHATS.run(lambda: chat_request(body, runtime, caller))
    else:
        prompt = chat_request(body, runtime, caller)
    generations = await start(runtime, body, name, [prompt])
    return await respond(runtime, request, body, generations, ChatShape(body, runtime.texts.text()))


def chat_request(body: ChatCompletionBody, runtime: Runtime, caller: Caller, *, source: str = "api") -> TextRequest:
    """What to generate. May block, as it looks for passages where the body asks for documents.

    Raises:
        TenfoldError: something about the body is wrong, or no search can be made now.
    """
    body.model = generating_model(body.model, runtime.settings)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInputError("top_logprobs needs logprobs to be true.", param="top_logprobs")
    if body.most is not None and body.most < 1:
        named = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        raise InvalidInputError(f"{named} must be at least 1.", param=named)
    return TextRequest(
        **_source(body, runtime, caller, source),
        sampling=body.sampling((body.top_logprobs or 0) if body.logprobs else None),
        max_tokens=body.most,
        stop=body.stops(),
        path=body.path,
        source=source,
        tenant=caller.tenant,
        key_id=caller.id,
    )


def _source(body: ChatCompletionBody, runtime: Runtime, caller: Caller, asker: str) -> dict[str, Any]:
    """What the model is shown: the messages, with passages of documents where they are asked for."""
    messages = [message.plain() for message in body.messages]
    systems = [message["content"] for message in messages if message["role"] == "system"]
    turns = [message for message in messages if message["role"] != "system"]
    source: dict[str, Any] = {"messages": messages}
    if body.documents:
        collection = body.documents if isinstance(body.documents, str) else None
        question = next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), "")
        if not question.strip():
            raise InvalidInputError("A question is needed to answer from documents.", param="messages")
        grounding = runtime.retriever.ground(
            question, turns[:-1], collection, "\n\n".join(systems), sight_of(caller), source=asker,
            max_tokens=body.most, key_id=caller.id,
        )
        source = {name: getattr(grounding, name) for name in GROUNDED}
        source["citations"] = tuple(grounding.citations)
    if len(turns) == 1:
        source |= {"question": turns[0]["content"], "likeness_scope": str([body.documents, *systems])}
    return source


class ChatShape:
    """How chat completions write their choices."""

    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, body: ChatCompletionBody, text: TextModel) -> None:
        self._body, self._text = body, text

    @staticmethod
    def _sources(generation: Generation) -> dict[str, Any]:
        """What an answer cites, and the mark of one that was kept: with the citations kept beside it."""
        out: dict[str, Any] = {"citations": list(generation.citations)} if generation.citations else {}
        if generation.cache_mark is not None:
            out["answer_cache"] = generation.cache_mark.as_dict()
        return out

    def whole(self, index: int, generation: Generation) -> dict[str, Any]:
        """See `Shape.whole`."""
        message = {"role": "assistant", "content": generation.text, "refusal": None, **self._sources(generation)}
        return {
            "index": index,
            "message": message,
            "finish_reason": generation.finish_reason,
            "logprobs": chat_logprobs(self._text, generation.pieces) if self._body.logprobs else None,
        }

    def opening(self, index: int, generation: Generation) -> dict[str, Any]:
        """See `Shape.opening`."""
        return self._chunk(index, {"role": "assistant", "content": "", **self._sources(generation)})

    def delta(self, index: int, generation: Generation, piece: Piece) -> dict[str, Any]:
        """See `Shape.delta`."""
        chunk = self._chunk(index, {"content": piece.text})
        if self._body.logprobs:
            chunk["logprobs"] = chat_logprobs(self._text, [piece])
        return chunk

    def ending(self, index: int, generation: Generation) -> dict[str, Any]:
        """See `Shape.ending`."""
        return {**self._chunk(index, {}), "finish_reason": generation.finish_reason}

    @staticmethod
    def _chunk(index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}
