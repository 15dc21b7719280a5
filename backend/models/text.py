"""Text in, token ids out, and back: tokenizer and chat template of a model folder, without torch or transformers."""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from backend.models.checkpoint import BadModelError, load_tokenizer, read_json

log = logging.getLogger(__name__)


class TemplateFailedError(ValueError):
    """The model's chat template refused the messages; says why."""


FALLBACK_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


class TextModel:
    """Encodes and decodes for one model.

    Raises:
        ModelNotFoundError: the folder has no tokenizer.
        BadModelError: tokenizer, its configuration or the chat template cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        config_file = folder / "tokenizer_config.json"
        config = read_json(config_file) if config_file.is_file() else {}
        template_file = folder / "chat_template.jinja"
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        try:
            source = template_file.read_text() if template_file.is_file() else config.get("chat_template")
            if isinstance(source, list):  # several named templates
                named = {template["name"]: template["template"] for template in source}
                source = named["default"] if "default" in named else next(iter(named.values()))
            self._template = environment.from_string(source or FALLBACK_TEMPLATE)
        except (TemplateError, OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
            raise BadModelError(f"The chat template of {folder} cannot be read: {error}. Correct it there.") from error
        self._control = _control_pattern(self.tokenizer)
        self._cut = f"\ue000{secrets.token_hex(8)}\ue001"  # nobody can send what nobody knows
        self._special = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "unk_token")}

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of plain text; `special` adds what the tokenizer puts around a text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def render_chat(self, messages: list[dict[str, str]]) -> str:
        """A conversation as the model reads it, ending where the assistant's answer begins.

        Raises:
            TemplateFailedError: the model's template does not allow these messages.
        """
        try:
            text: str = self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None, **self._special
            )
        except TemplateError as error:
            raise TemplateFailedError(f"The model's chat template refused the messages: {error}") from error
        return text

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, ending where the assistant's answer begins; raises as `render_chat` does."""
        return self.encode_chat_with(messages, ())[0]

    def encode_chat_with(
        self, messages: list[dict[str, str]], passages: Sequence[str]
    ) -> tuple[list[int], tuple[tuple[int, int], ...]]:
        """`encode_chat`, and where each passage stands: [start, end) in tokens that lie wholly within it, in order.

        The template's control tokens are control tokens; what looks like one in a message is plain text to the model.
        """
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        text = ""
        for piece in self.render_chat([self._harmless(message) for message in messages]).split(self._cut):
            encoding = self.tokenizer.encode(piece, add_special_tokens=False)
            ids += encoding.ids
            spans += [(len(text) + begin, len(text) + end) for begin, end in encoding.offsets]
            text += piece
        segments: list[tuple[int, int]] = []
        at = token = 0
        for passage in passages:
            begin = text.find(passage, at)
            if begin < 0:
                continue
            at = begin + len(passage)
            while token < len(ids) and spans[token][0] < begin:
                token += 1
            start = token
            while token < len(ids) and spans[token][1] <= at:
                token += 1
            segments.append((start, token))
        return ids, tuple(segments)

    def _harmless(self, message: dict[str, str]) -> dict[str, str]:
        """A message whose control tokens are cut in two: each half is tokenized by itself, so none comes about.

        The rest is untouched, and a prompt without any such text is tokenized in one piece.
        """
        if self._control is None or not self._control.search(message["content"]):
            return message
        return {**message, "content": self._control.sub(lambda found: found[0] + self._cut, message["content"])}

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def decode_whole(self, ids: list[int]) -> str:
        """Text of token ids with special tokens in it."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def offsets(self, text: str) -> list[int]:
        """Where the tokens that `encode` gives begin in the text; what is put around a text stands at 0."""
        return [start for start, _ in self.tokenizer.encode(text).offsets]

    def token_text(self, token_id: int) -> str:
        """One token as text, for log probabilities; bytes that are no character come as U+FFFD."""
        text: str = self.tokenizer.decode([token_id], skip_special_tokens=False)
        return text


class TokenOffsets:
    """Where the tokens of a text begin in it, told one by one; a character's later tokens stand where it begins."""

    def __init__(self, model: TextModel, start: int = 0, *, special: bool = False) -> None:
        self._model, self._at, self._special = model, start, special
        self._stream = DecodeStream(skip_special_tokens=not special)

    def push(self, token_id: int) -> int:
        """Add a token; returns the characters before it."""
        at = self._at
        try:
            self._at += len(self._stream.step(self._model.tokenizer, token_id) or "")
        except Exception:  # bytes that are no text, which tokenizers cannot go on from
            self._stream = DecodeStream(skip_special_tokens=not self._special)
        return at


class StreamDecoder:
    """Turns a stream of tokens into a stream of text that never shows half a character or half a stop string."""

    def __init__(self, model: TextModel, stop: list[str], unseen: Sequence[int] = ()) -> None:
        self._model = model
        self._unseen = frozenset(unseen)  # tokens that end an answer and are no part of its text
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = [s for s in stop if s]
        self._held = ""  # text that may be the beginning of a stop string
        self._decoded = 0  # tokens whose text the stream has given out
        self._ids: list[int] = []
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that is now certain."""
        if token_id in self._unseen:
            return ""
        self._ids.append(token_id)
        piece = self._step(token_id)
        if piece is None:
            return ""
        self._decoded = len(self._ids)
        return self._filter(piece)

    def _step(self, token_id: int) -> str | None:
        """One step of the stream; a stream that some byte sequences have broken is begun anew, as vLLM does."""
        try:
            piece: str | None = self._stream.step(self._model.tokenizer, token_id)
        except Exception as error:  # the binding raises nothing narrower
            if "Invalid prefix" not in str(error):
                raise
            log.warning("a text stream lost its place and goes on after it: %s", error)
            self._stream = DecodeStream(skip_special_tokens=True)
            piece = self._stream.step(self._model.tokenizer, token_id)
        return piece

    def finish(self) -> str:
        """Text still held when no more tokens come; an unfinished character becomes U+FFFD."""
        rest = ""
        if self._decoded < len(self._ids) and not self.stopped:
            rest = self._filter(self._model.decode(self._ids[self._decoded :]))
        held, self._held = self._held, ""
        return rest if self.stopped else rest + held

    def _filter(self, piece: str) -> str:
        if not self._stop or self.stopped:
            return "" if self.stopped else piece
        text = self._held + piece
        found = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(
            (n for s in self._stop for n in range(min(len(s) - 1, len(text)), 0, -1) if text.endswith(s[:n])),
            default=0,
        )
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class _Generation(Extension):
    """Accepts the `generation` block of templates made for training; it changes nothing here."""

    tags = {"generation"}  # noqa: RUF012 - jinja's interface

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _control_pattern(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Finds the first character of every control token, also where two overlap."""
    control = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special and len(t.content) > 1]
    return re.compile(f"(?=(?:{'|'.join(map(re.escape, control))})).", re.DOTALL) if control else None


def _raise(message: str) -> None:
    raise TemplateError(message)


def _content(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""
