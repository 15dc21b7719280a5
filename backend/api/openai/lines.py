"""Answers the lines of batches as the endpoints that they name would, on the patient path."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError

from backend.access.caller import LOCAL, Caller, Role
from backend.api.errors import refusal_of
from backend.api.openai.chat import ChatShape, chat_request
from backend.api.openai.completions import CompletionShape, completion_requests
from backend.api.openai.embeddings import embeddings_of
from backend.api.openai.schemas import ChatCompletionBody, CompletionBody, EmbeddingBody, Sampling
from backend.api.openai.stream import Shape, begin, whole
from backend.api.openai.usage import cost
from backend.batches.line import Answered, Begun, LineRequest
from backend.engine.messages import BATCH
from backend.errors import InvalidInputError
from backend.generation.request import TextRequest
from backend.runtime import Runtime

SOURCE = "batch"
"""In the ledger."""
AnyBody = TypeVar("AnyBody", ChatCompletionBody, CompletionBody, EmbeddingBody)


def serve_batches(runtime: Runtime) -> None:
    """Have a runtime's batches run. A batch is a file of this API's requests, so this API says how one is answered."""
    runtime.batches.start(lambda line: _begin(runtime, line))


def _begin(runtime: Runtime, line: LineRequest) -> Begun:
    caller = _caller(runtime, line)
    if line.endpoint == "/v1/embeddings":
        runtime.budgets.check(caller.id)
        body = _read(EmbeddingBody, line.body)
        answer, spent = embeddings_of(body, runtime, caller, line.name, source=SOURCE, path=BATCH)
        return Begun((), lambda: Answered(answer.model_dump(), spent))
    if line.endpoint == "/v1/chat/completions":
        chat = _read(ChatCompletionBody, line.body)
        return _generate(
            runtime, chat, line, [chat_request(chat, runtime, caller, source=SOURCE)],
            ChatShape(chat, runtime.texts.text()),
        )  # fmt: skip
    completion = _read(CompletionBody, line.body)
    return _generate(
        runtime, completion, line, completion_requests(completion, runtime, caller, source=SOURCE),
        CompletionShape(completion, runtime.texts.text()),
    )  # fmt: skip


def _generate(
    runtime: Runtime, body: Sampling, line: LineRequest, prompts: list[TextRequest], shape: Shape
) -> Begun:
    if body.stream:
        raise InvalidInputError("The answer to a line of a batch cannot be streamed; leave stream out.", param="stream")
    generations = begin(runtime, body, line.name, [replace(prompt, path=BATCH) for prompt in prompts])
    return Begun(
        generations, lambda: Answered(whole(runtime, body, generations, shape), cost(generations))
    )


def _caller(runtime: Runtime, line: LineRequest) -> Caller:
    """Who made the batch; of a key that was revoked since, what is everybody's and its owner's stays."""
    if not line.key_id:
        return LOCAL if not line.tenant else Caller("", line.tenant, Role.USER)
    return runtime.access.keys.caller(line.key_id) or Caller(line.key_id, line.tenant, Role.USER)


def _read(kind: type[AnyBody], raw: dict[str, Any]) -> AnyBody:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise refusal_of(_in_body(error), raw) from error


def _in_body(error: ValidationError) -> list[dict[str, Any]]:
    """What is wrong, as it would be told of a body that comes alone."""
    return [{**dict(wrong), "loc": ("body", *wrong["loc"])} for wrong in error.errors()]
