"""Fields that would change an answer and are not obeyed: refused by name, at any value that is not their neutral one.

Fields that change nothing about an answer (`user`, `metadata`, `store`, …) are ignored, as clients send many.
"""

from __future__ import annotations

from typing import Any

from backend.errors import InvalidInputError

NOTHING: tuple[Any, ...] = ([], {}, "", False)

# The values at which a field changes nothing, beside null. OpenAI's first, then other servers'.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": NOTHING,
    "functions": NOTHING,
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    "suffix": ("",),
    "best_of": (1,),
    # vLLM, SGLang, TGI, llama.cpp
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (-1,),
    "prompt_logprobs": (),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "structural_tag": (),
    "grammar": ("",),
    "regex": (),
    "ebnf": (),
    "json_schema": (),
    "logits_processors": ([],),
    "custom_logit_processor": (),
    "lora_path": (),
    "adapter_id": (),
    "typical_p": (1,),
    "mirostat": (0,),
    "dynatemp_range": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "n_predict": (-1,),
}
OF_CHAT: dict[str, tuple[Any, ...]] = {"echo": (False,), "add_special_tokens": (False,)}
OF_COMPLETIONS: dict[str, tuple[Any, ...]] = {"add_special_tokens": (True,)}

INSTEAD = {
    "tools": "Tools are not supported here; leave them out.",
    "response_format": 'Only plain text is written here; leave it out, or send {"type": "text"}.',
    "modalities": 'This model writes text only; leave it out, or send ["text"].',
    "audio": "This model writes text only.",
    "best_of": "Ask for n answers instead.",
}


def refuse_unheeded(raw: Any, more: dict[str, tuple[Any, ...]]) -> None:
    """Refuse a body whose fields ask for what is not done here.

    Args:
        raw: the body as it came.
        more: the neutral values of fields that mean something at other endpoints.

    Raises:
        InvalidInputError: names the field.
    """
    if not isinstance(raw, dict):
        return
    for name, neutral in {**NEUTRAL, **more}.items():
        value = raw.get(name)
        if value is None or any(_same(value, harmless) for harmless in neutral):
            continue
        raise InvalidInputError(f"{name} is not supported. {INSTEAD.get(name, 'Leave it out.')}", param=name)
    options = raw.get("stream_options")
    if options is not None and raw.get("stream") is not True:
        raise InvalidInputError("stream_options is only for a stream; set stream to true.", param="stream_options")
    if isinstance(options, dict) and options.get("continuous_usage_stats"):
        raise InvalidInputError(
            "stream_options.continuous_usage_stats is not supported; include_usage gives the usage at the end.",
            param="stream_options",
        )


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)  # True equals 1, and is not meant


def check_messages(raw: Any) -> None:
    """Refuse messages that hold what this server cannot put before the model, and empty ones.

    Raises:
        InvalidInputError: names the place and what is there.
    """
    messages = raw.get("messages") if isinstance(raw, dict) else None
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        at = f"messages.{i}"
        if message.get("role") in ("tool", "function"):
            raise InvalidInputError(
                f"{at}.role: results of tools cannot be read, since tools are not supported here.", param=f"{at}.role"
            )
        for name in ("tool_calls", "function_call", "audio", "refusal"):
            if message.get(name) not in (None, [], ""):
                raise InvalidInputError(
                    f"{at}.{name}: only the text of a message is read here; {name} cannot be.", param=f"{at}.{name}"
                )
        content = message.get("content")
        if content is None or (message.get("role") == "user" and content in ("", [])):
            raise InvalidInputError(f"{at}.content: the message has no content.", param=f"{at}.content")
        for k, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] != "text":
                raise InvalidInputError(
                    f"{at}.content.{k}: this model reads text only; a part of type {part['type']!r} cannot be read.",
                    param=f"{at}.content.{k}",
                )
