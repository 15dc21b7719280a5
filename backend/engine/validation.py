"""What no engine could serve is refused here, before it is queued: the engine's contract is its own."""

from __future__ import annotations

import math

from backend.engine.messages import BATCH, MOST_LISTED, MOST_LOGPROBS, REALTIME, Embed, Generate, SamplingParams

# What the arithmetic of drawing bears in float32, far beyond what a user wants.
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "frequency_penalty": (-100, 100),
    "presence_penalty": (-100, 100),
    "max_tokens": (0, (1 << 31) - 1),
    "min_tokens": (0, (1 << 31) - 1),
    "top_k": (0, (1 << 31) - 1),
    "logprobs": (0, MOST_LOGPROBS),
    "prompt_logprobs": (0, MOST_LOGPROBS),
}
WHOLE = ("max_tokens", "min_tokens", "top_k", "logprobs", "prompt_logprobs")
OPTIONAL = ("logprobs", "prompt_logprobs")


class InvalidRequestError(ValueError):
    """A request that can never be served; says what about it is wrong."""


def check_generate(request: Generate, vocab: int, max_model_len: int) -> None:
    """Raise InvalidRequestError where a request is empty, odd, out of vocabulary, or too long ever to fit."""
    if not request.prompt:
        raise InvalidRequestError("The prompt is empty.")
    _check_ids(request.prompt, vocab)
    request.salt.encode()  # caches are keyed by it: what cannot be encoded must not get as far
    if not all(0 <= start < end <= len(request.prompt) for start, end in request.segments):
        raise InvalidRequestError("A segment lies outside the prompt.")
    if not math.isfinite(request.arrival):
        raise InvalidRequestError("The time of arrival is not a number.")
    problem = sampling_problem(request.sampling)
    if problem:
        raise InvalidRequestError(problem)
    _check_ids(list(request.sampling.named_tokens()), vocab)
    most = request.sampling.max_tokens
    if len(request.prompt) + most > max_model_len:
        raise InvalidRequestError(
            f"{len(request.prompt)} prompt tokens plus max_tokens {most} exceed the context of {max_model_len} tokens."
        )


def check_embed(request: Embed, vocab: int, max_tokens: int) -> None:
    """Raise InvalidRequestError where an input is empty, too long or out of vocabulary."""
    for token_ids in request.inputs:
        _check_ids(token_ids, vocab)
        if not 0 < len(token_ids) <= max_tokens:
            raise InvalidRequestError(f"An input has {len(token_ids)} tokens; 1 to {max_tokens} fit.")


def check_address(request: Generate | Embed) -> None:
    """Raise InvalidRequestError where a request cannot be told from others, or asks for a path that is not there."""
    if not isinstance(request.request_id, str):
        raise InvalidRequestError("A request id is a string.")
    if request.path not in (REALTIME, BATCH):
        raise InvalidRequestError(f"There is no path {request.path!r}; there are {REALTIME} and {BATCH}.")


def _check_ids(token_ids: object, vocab: int) -> None:
    # Types first: True and 5.0 compare well.
    if not isinstance(token_ids, list) or not set(map(type, token_ids)) <= {int}:
        raise InvalidRequestError("Token ids must be a list of integers.")
    if token_ids and not 0 <= (low := min(token_ids)) <= (high := max(token_ids)) < vocab:
        raise InvalidRequestError(f"Token id {low if low < 0 else high} is outside the vocabulary of {vocab}.")


def sampling_problem(sampling: SamplingParams) -> str | None:
    """What no sampler could make sense of, or None. Whether token ids are in the vocabulary is checked elsewhere."""
    for name, (low, high) in RANGES.items():
        value = getattr(sampling, name)
        if value is None and name in OPTIONAL:
            continue
        if not _is_number(value, whole=name in WHOLE):
            return f"{name} must be {'a whole' if name in WHOLE else 'a finite'} number, not {value!r}."
        if not low <= value <= high:
            return f"{name} must be between {low:g} and {high:g}, not {value}."
    if sampling.seed is not None and not _is_number(sampling.seed, whole=True):
        return f"seed must be a whole number, not {sampling.seed!r}."
    if sampling.top_p == 0:
        return "top_p must be above 0."
    if not isinstance(sampling.ignore_eos, bool):
        return f"ignore_eos must be true or false, not {sampling.ignore_eos!r}."
    if sampling.max_tokens == 0 and sampling.prompt_logprobs is None:
        return "max_tokens must be at least 1, unless the prompt's log probabilities are asked for."
    if sampling.min_tokens > sampling.max_tokens:
        return f"min_tokens {sampling.min_tokens} is more than max_tokens {sampling.max_tokens}."
    return _listed_problem(sampling)


def _listed_problem(sampling: SamplingParams) -> str | None:
    for name in ("stop_token_ids", "logit_bias"):
        listed = getattr(sampling, name)
        if not isinstance(listed, tuple):
            return f"{name} must be a tuple."
        if len(listed) > MOST_LISTED:
            return f"{name} names {len(listed)} tokens; at most {MOST_LISTED} are taken."
    for token in sampling.stop_token_ids:
        if not _is_number(token, whole=True):
            return f"stop_token_ids must be whole numbers, not {token!r}."
    for pair in sampling.logit_bias:
        if not isinstance(pair, tuple) or len(pair) != 2 or not _is_number(pair[0], whole=True):
            return f"logit_bias must be pairs of a token id and a number, not {pair!r}."
        if not _is_number(pair[1]) or not -100 <= pair[1] <= 100:
            return f"logit_bias of token {pair[0]} must be between -100 and 100, not {pair[1]!r}."
    return None


def _is_number(value: object, *, whole: bool = False) -> bool:
    """Whether it is a finite number (a whole one); True and False are none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (not whole and isinstance(value, float) and math.isfinite(value))
