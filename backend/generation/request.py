"""What can be asked for, and the one place where it is rendered, tokenized and checked. Knows nothing of the engine."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field, replace

from backend.engine.messages import MOST_LISTED, REALTIME, SamplingParams
from backend.errors import ContextLengthError, InvalidInputError
from backend.models.text import TextModel
from backend.store.citation import Citation

MAX_STOPS = 16
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 10),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "top_k": (0, 1 << 20),
    "logprobs": (0, 20),
    "prompt_logprobs": (0, 20),
}


@dataclass(frozen=True)
class TextRequest:
    """What to generate: messages for the chat template, plain text, or token ids.

    Attributes:
        trim: where messages do not fit the context, leave out the oldest turns rather than refuse.
        request_id: its name with the engine, in the ledger and in the log; empty: one is made.
        key_id: of the key that asked, for the ledger.
        search_seconds: what the search before it took.
        tenant: whose prompt states and answers may be used again, and whose these become.
        passages: texts within the messages that may come again elsewhere in other prompts.
        citations: what the messages quote, kept with the answer.
        question: the one question of a conversation that has no other; another like it may be answered the same.
        likeness_scope: what such a question must have in common with this one.
        corpus: what of the documents was searched; empty where none were.
        fresh: do not give an answer again.
        reply: what to answer without asking the model.
        notice: what a reader should know of how the messages were made to fit.
        continued: the end of `token_ids` that was written before, as the beginning of this answer.
    """

    messages: list[dict[str, str]] | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None  # None: as much as fits, up to the setting; 0: only the prompt is read
    stop: tuple[str, ...] = ()
    path: str = REALTIME
    source: str = "api"
    request_id: str = ""
    key_id: str = ""
    search_seconds: float = 0.0
    tenant: str = ""
    trim: bool = False
    passages: tuple[str, ...] = ()
    citations: tuple[Citation, ...] = ()
    question: str = ""
    likeness_scope: str = ""
    corpus: str = ""
    fresh: bool = False
    reply: str | None = None
    notice: str = ""
    continued: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A request that was found good, as the engine takes it.

    Attributes:
        token_ids: the prompt; empty where the request brings its own reply.
        sampling: complete, with the most tokens to generate.
        segments: [start, end) in tokens of the request's passages.
        left_out: turns of the conversation that did not fit.
    """

    request: TextRequest
    token_ids: list[int]
    sampling: SamplingParams
    segments: tuple[tuple[int, int], ...] = ()
    left_out: int = 0


def check_sampling(sampling: SamplingParams, stop: tuple[str, ...]) -> None:
    """Refuse parameters that mean nothing.

    Raises:
        InvalidInputError: names the parameter and its range.
    """
    for name, (low, high) in RANGES.items():
        value = getattr(sampling, name)
        if value is None:
            continue
        if not math.isfinite(value) or not low <= value <= high:
            raise InvalidInputError(f"{name} must be between {low:g} and {high:g}, not {value}.", param=name)
    for token, bias in sampling.logit_bias:
        if not -100 <= bias <= 100:
            raise InvalidInputError(
                f"logit_bias must be between -100 and 100, not {bias} (of token {token}).", param="logit_bias"
            )
    for name, listed in (("logit_bias", sampling.logit_bias), ("stop_token_ids", sampling.stop_token_ids)):
        if len(listed) > MOST_LISTED:
            raise InvalidInputError(f"{name} names {len(listed)} tokens; at most {MOST_LISTED} are taken.", param=name)
    if sampling.top_p == 0:
        raise InvalidInputError("top_p must be above 0.", param="top_p")
    if len(stop) > MAX_STOPS:
        raise InvalidInputError(f"At most {MAX_STOPS} stop strings are allowed, not {len(stop)}.", param="stop")


def check_text(text: str, param: str) -> None:
    """Refuse what is no text: half a surrogate pair, which neither tokenizers nor databases take.

    Raises:
        InvalidInputError: names the half and the parameter.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise InvalidInputError(
            f"The text holds {half}, half of a character; send whole Unicode characters.", param=param
        ) from error


def prepare(request: TextRequest, text: TextModel, *, vocab: int, context: int, default_max_tokens: int) -> Prepared:
    """Render, tokenize and check a request.

    Args:
        request: what is asked for.
        text: tokenizer and template of the model.
        vocab: how many tokens the model knows.
        context: most tokens of prompt and answer together.
        default_max_tokens: longest answer of a request that does not say.

    Raises:
        InvalidInputError: an empty prompt, tokens outside the vocabulary, parameters out of range.
        ContextLengthError: prompt and answer do not fit.
    """
    check_sampling(request.sampling, request.stop)
    least = 1 if request.sampling.prompt_logprobs is None else 0
    if request.max_tokens is not None and request.max_tokens < least:
        raise InvalidInputError(f"max_tokens must be at least {least}.", param="max_tokens")
    segments: tuple[tuple[int, int], ...] = ()
    left_out = 0
    if request.messages is not None:
        for message in request.messages:
            check_text(message["content"], "messages")
        try:
            messages = request.messages
            if request.trim:
                room = context - (request.max_tokens or min(default_max_tokens, context // 4))
                messages = _latest(messages, text, room)
                left_out = len(request.messages) - len(messages)
            ids, segments = text.encode_chat_with(messages, request.passages)
        except ValueError as error:
            raise InvalidInputError(str(error), param="messages") from error
    elif request.text is not None:
        check_text(request.text, "prompt")
        ids = text.encode(request.text)
    else:
        ids = list(request.token_ids or [])
    if not ids:
        raise InvalidInputError("The prompt is empty.", param="prompt")
    wrong = next((i for i in ids if not 0 <= i < vocab), None)
    if wrong is not None:
        raise InvalidInputError(f"Token id {wrong} is outside the vocabulary of {vocab} tokens.", param="prompt")
    strange = next((token for token in request.sampling.named_tokens() if not 0 <= token < vocab), None)
    if strange is not None:
        param = "stop_token_ids" if strange in request.sampling.stop_token_ids else "logit_bias"
        raise InvalidInputError(
            f"{param}: token id {strange} is outside the vocabulary of {vocab} tokens.", param=param
        )
    room = context - len(ids)
    if room < (1 if request.max_tokens is None else request.max_tokens):
        raise _overflow(context, len(ids), request)
    most = min(room, default_max_tokens) if request.max_tokens is None else request.max_tokens
    if request.sampling.min_tokens > most:
        raise InvalidInputError(
            f"min_tokens must not be more than the {most} tokens that the answer may have.", param="min_tokens"
        )
    return Prepared(request, ids, replace(request.sampling, max_tokens=most), segments, left_out)


def _overflow(context: int, prompt: int, request: TextRequest) -> ContextLengthError:
    """Worded as OpenAI words it, since clients look for these words."""
    what = "prompt" if request.messages is None else "messages"
    if request.max_tokens is None:
        asked = f"your {what} resulted in {prompt} tokens. Please reduce the length of the {what}."
    else:
        asked = (
            f"you requested {prompt + request.max_tokens} tokens ({prompt} in the {what}, {request.max_tokens} in the "
            f"completion). Please reduce the length of the {what} or the completion."
        )
    return ContextLengthError(f"This model's maximum context length is {context} tokens. However, {asked}", param=what)


def _latest(messages: list[dict[str, str]], text: TextModel, room: int) -> list[dict[str, str]]:
    """The system messages and as many of the latest turns as fit `room` tokens, a question and its answer at a time."""
    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    system, turns = messages[:first], messages[first:]
    starts = range(0, max(len(turns), 1), 2)  # a pair more left out each time

    def fits(start: int) -> bool:
        return len(text.encode_chat([*system, *turns[start:]])) <= room

    if len(starts) < 2 or fits(0):
        return messages
    at = bisect.bisect_left(starts, True, lo=1, hi=len(starts) - 1, key=fits)
    return [*system, *turns[starts[at] :]]
