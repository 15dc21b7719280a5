"""The bodies that the API takes. Field names and meanings are OpenAI's; the others are marked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.engine.messages import SamplingParams


class Body(BaseModel):
    """Unknown fields are ignored, as clients send many; what would change the answer is refused by name."""

    model_config = ConfigDict(extra="ignore", strict=True)


class StreamOptions(Body):
    """What a stream ends with."""

    include_usage: bool = False


class Sampling(Body):
    """Fields that chat and plain completions share."""

    model: str
    temperature: float | None = Field(None, description="0 is greedy; up to 2. Default 1.")
    top_p: float | None = None
    n: int | None = Field(None, ge=1, le=16)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    top_k: int | None = Field(None, description="Tenfold: keep the k likeliest tokens; 0 keeps all.")
    min_p: float | None = Field(None, description="Tenfold: drop tokens below min_p × the likeliest.")
    repetition_penalty: float | None = Field(None, description="Tenfold: above 1 discourages repeating.")

    def sampling(self, logprobs: int | None, draw: int) -> SamplingParams:
        """The engine's parameters for the `draw`-th of n answers."""

        def default(value: float | None, otherwise: float) -> float:
            return otherwise if value is None else float(value)

        return SamplingParams(
            temperature=default(self.temperature, 1.0),
            top_p=default(self.top_p, 1.0),
            top_k=self.top_k or 0,
            min_p=default(self.min_p, 0.0),
            seed=None if self.seed is None else self.seed + draw,
            repetition_penalty=default(self.repetition_penalty, 1.0),
            frequency_penalty=default(self.frequency_penalty, 0.0),
            presence_penalty=default(self.presence_penalty, 0.0),
            logprobs=logprobs,
        )

    def stops(self) -> tuple[str, ...]:
        """Stop strings, one or several."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class TextPart(Body):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatCompletionBody(Sampling):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    documents: bool | str | None = Field(
        None, description="Tenfold: true answers from every uploaded document, a name from that collection."
    )
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class CompletionBody(Sampling):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
