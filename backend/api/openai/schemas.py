"""The bodies that the API takes and gives. Field names and meanings are OpenAI's; the others are marked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from backend.api.bodies import Body, Part
from backend.api.openai.refusals import OF_CHAT, OF_COMPLETIONS, check_messages, refuse_unheeded
from backend.engine.messages import BATCH, REALTIME, SamplingParams
from backend.errors import InvalidInputError
from backend.store.citation import Citation

# ---- asked -------------------------------------------------------------------------------------------------------


class StreamOptions(Part):
    """What a stream ends with."""

    include_usage: bool | None = None


class Sampling(Body):
    """Fields that chat and plain completions share."""

    model: str
    temperature: float | None = Field(None, description="0 is greedy; up to 2. Default 1.")
    top_p: float | None = None
    n: int | None = Field(None, ge=1, le=16)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(
        None,
        description="Most tokens of the answer. Left out, a chat's answer has at most TENFOLD_DEFAULT_MAX_TOKENS "
        "tokens (512 unless set), and a completion 16.",
    )
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = Field(
        None, description="Token id of this model's tokenizer to what is added to its logit, -100 (never) to 100."
    )
    service_tier: Literal["auto", "default", "flex"] | None = Field(
        None, description="flex waits until nobody else does, as batch work; the answer says which tier was used."
    )
    user: str | None = None
    top_k: int | None = Field(None, description="Tenfold: keep the k likeliest tokens; 0 or -1 keeps all.")
    min_p: float | None = Field(None, description="Tenfold: drop tokens below min_p × the likeliest.")
    repetition_penalty: float | None = Field(None, description="Tenfold: above 1 discourages repeating.")
    min_tokens: int | None = Field(None, ge=0, description="As vLLM: the answer does not end before so many tokens.")
    stop_token_ids: list[int] | None = Field(None, description="As vLLM: tokens that end the answer.")
    ignore_eos: bool | None = Field(None, description="As vLLM: go on past the model's end-of-sequence.")

    @property
    def path(self) -> str:
        """The engine's queue."""
        return BATCH if self.service_tier == "flex" else REALTIME

    def sampling(self, logprobs: int | None, prompt_logprobs: int | None = None) -> SamplingParams:
        """The engine's parameters."""

        def default(value: float | None, otherwise: float) -> float:
            return otherwise if value is None else float(value)

        return SamplingParams(
            temperature=default(self.temperature, 1.0),
            top_p=default(self.top_p, 1.0),
            top_k=0 if self.top_k in (None, -1) else self.top_k,
            min_p=default(self.min_p, 0.0),
            seed=self.seed,
            repetition_penalty=default(self.repetition_penalty, 1.0),
            frequency_penalty=default(self.frequency_penalty, 0.0),
            presence_penalty=default(self.presence_penalty, 0.0),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            ignore_eos=bool(self.ignore_eos),
            min_tokens=self.min_tokens or 0,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logit_bias=self._bias(),
        )

    def _bias(self) -> tuple[tuple[int, float], ...]:
        bias: dict[int, float] = {}
        for token, value in (self.logit_bias or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise InvalidInputError(f"logit_bias: {token!r} is no token id.", param="logit_bias")
            bias[int(token)] = value
        return tuple(sorted(bias.items()))

    def stops(self) -> tuple[str, ...]:
        """Stop strings, one or several."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class TextPart(Part):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(Part):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatCompletionBody(Sampling):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, description="Goes before max_tokens.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    documents: bool | str | None = Field(
        None, description="Tenfold: true answers from every uploaded document, a name from that collection."
    )

    @model_validator(mode="before")
    @classmethod
    def _obeyed_or_refused(cls, raw: Any) -> Any:
        refuse_unheeded(raw, OF_CHAT)
        check_messages(raw)
        return raw

    @property
    def most(self) -> int | None:
        """Most tokens of an answer; None where nothing is said."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionBody(Sampling):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="One text or several; or token ids of this model's own tokenizer, one prompt or several."
    )
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = Field(
        None,
        description="Give the prompt back before the answer, with its log probabilities where logprobs says so; "
        "max_tokens may be 0 then.",
    )

    @model_validator(mode="before")
    @classmethod
    def _obeyed_or_refused(cls, raw: Any) -> Any:
        refuse_unheeded(raw, OF_COMPLETIONS)
        return raw


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: str
    input: str | list[str] | list[int] | list[list[int]] = Field(
        description="One text or several; or token ids of this embedding model's own tokenizer (no other's: what they "
        "mean there cannot be known here), one input or several."
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


# ---- answered ----------------------------------------------------------------------------------------------------


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tenfold"


class ModelList(BaseModel):
    """Every model that is served."""

    object: Literal["list"] = "list"
    data: list[Model]


class PromptDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Completions(BaseModel):
    """What answers have in common."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: str
    usage: Usage


class AnswerMessage(BaseModel):
    """The answer. Tenfold: what it cites, and whether it was kept from an earlier one."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    citations: list[Citation] | None = None
    answer_cache: dict[str, Any] | None = None


class ChatChoice(BaseModel):
    """One of n answers."""

    index: int
    message: AnswerMessage
    finish_reason: str | None
    logprobs: dict[str, Any] | None


class ChatCompletion(Completions):
    """A whole answer to a conversation."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class TextChoice(BaseModel):
    """One continuation."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None


class Completion(Completions):
    """Whole continuations."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]


class EmbeddingRow(BaseModel):
    """One input's vector, or its float32 little-endian bytes in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of the inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Vectors in the inputs' order."""

    object: Literal["list"] = "list"
    data: list[EmbeddingRow]
    model: str
    usage: EmbeddingUsage


STREAMED: dict[str, Any] = {
    "text/event-stream": {"schema": {"type": "string", "description": "With stream: chunks, then [DONE]."}}
}
