"""POST /v1/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from backend.access.caller import Caller
from backend.api.deps import CallerDep, NameDep, RuntimeDep, within_limits
from backend.api.openai.logprobs import PlainLogprobs
from backend.api.openai.models import generating_model
from backend.api.openai.schemas import STREAMED, Completion, CompletionBody
from backend.api.openai.stream import respond, start
from backend.errors import InvalidInputError
from backend.generation.request import TextRequest
from backend.generation.stream import Generation, Piece
from backend.models.text import TextModel
from backend.runtime import Runtime

router = APIRouter()

DEFAULT_MAX_TOKENS = 16
"""As OpenAI's."""


@router.post(
    "/completions",
    summary="Continue one text or several.",
    response_model=Completion,
    responses={200: {"content": STREAMED}},
    dependencies=[Depends(within_limits)],
)
async def completions(
    body: CompletionBody, request: Request, runtime: RuntimeDep, caller: CallerDep, name: NameDep
) -> Response:
    """Returns the continuations, whole or streamed; with `echo` and `logprobs` the prompt's log probabilities first."""
    prompts = completion_requests(body, runtime, caller)
    generations = await start(runtime, body, name, prompts)
    return await respond(runtime, request, body, generations, CompletionShape(body, runtime.texts.text()))


def completion_requests(
    body: CompletionBody, runtime: Runtime, caller: Caller, *, source: str = "api"
) -> list[TextRequest]:
    """What to generate, a prompt after the other.

    Raises:
        TenfoldError: something about the body is wrong.
    """
    body.model = generating_model(body.model, runtime.settings)
    most = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if most < 1 and not (body.echo and most == 0):
        raise InvalidInputError("max_tokens must be at least 1, or 0 together with echo.", param="max_tokens")
    scored = body.logprobs if body.echo else None
    if scored is not None and body.stream:
        raise InvalidInputError("echo with logprobs cannot be streamed: leave stream out.", param="stream")
    if body.echo and not most:
        scored = scored or 0
    sampling = body.sampling(body.logprobs, scored)
    return [
        TextRequest(
            **prompt, sampling=sampling, max_tokens=most, stop=body.stops(), path=body.path, source=source,
            tenant=caller.tenant, key_id=caller.id,
        )
        for prompt in _sources(body)
    ]


def _sources(body: CompletionBody) -> list[dict[str, Any]]:
    """Each prompt as text or token ids."""
    prompt = body.prompt
    given = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else list(prompt)
    if not given or not all(given):
        raise InvalidInputError("The prompt is empty.", param="prompt")
    return [{"text": one} if isinstance(one, str) else {"token_ids": one} for one in given]


class CompletionShape:
    """How plain completions write their choices."""

    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def __init__(self, body: CompletionBody, text: TextModel) -> None:
        self._body, self._text = body, text
        self._logprobs: dict[int, PlainLogprobs] = {}  # of a stream's choices

    def _prompt(self, generation: Generation) -> str:
        request = generation.request
        return request.text if request.text is not None else self._text.decode_whole(request.token_ids or [])

    def whole(self, index: int, generation: Generation) -> dict[str, Any]:
        """See `Shape.whole`."""
        echoed = self._prompt(generation) if self._body.echo else ""
        return {
            "index": index,
            "text": echoed + generation.text,
            "finish_reason": generation.finish_reason,
            "logprobs": self._whole_logprobs(generation, echoed),
        }

    def _whole_logprobs(self, generation: Generation, echoed: str) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        lists = PlainLogprobs(self._text, len(echoed))
        answer = lists.answer(generation.pieces)
        if not self._body.echo:
            return answer
        prompt = lists.prompt(generation, echoed)
        return {name: prompt[name] + answer[name] for name in prompt}

    def opening(self, index: int, generation: Generation) -> dict[str, Any] | None:
        """The prompt, where it is asked for."""
        if not self._body.echo:
            return None
        return {"index": index, "text": self._prompt(generation), "finish_reason": None, "logprobs": None}

    def delta(self, index: int, generation: Generation, piece: Piece) -> dict[str, Any]:
        """See `Shape.delta`."""
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = self._logprobs.setdefault(index, PlainLogprobs(self._text)).answer([piece])
        return {"index": index, "text": piece.text, "finish_reason": None, "logprobs": logprobs}

    def ending(self, index: int, generation: Generation) -> dict[str, Any]:
        """See `Shape.ending`."""
        return {"index": index, "text": "", "finish_reason": generation.finish_reason, "logprobs": None}
