"""Cuts text into chunks of a token budget at the best semantic boundary (semantic-text-splitter)."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from backend.knowledge.parse import PLAIN


@dataclass(frozen=True)
class Piece:
    """A chunk: its text, tokens, and sha256 of the normalized text."""

    text: str
    tokens: int
    text_hash: str


def normalize(text: str) -> str:
    """One form for texts that differ only in Unicode composition or white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def text_hash(text: str) -> str:
    """sha256 of the normalized text."""
    return hashlib.sha256(normalize(text).encode()).hexdigest()


@functools.lru_cache(maxsize=8)
def _splitter(
    kind: type[TextSplitter] | type[MarkdownSplitter], tokenizer: Tokenizer, tokens: int
) -> TextSplitter | MarkdownSplitter:
    return kind.from_huggingface_tokenizer(tokenizer, tokens)  # takes some 17 ms


class Chunker:
    """Splits documents; `version` names the method, so that chunks of different methods never mix."""

    def __init__(self, tokenizer: Tokenizer, tokens: int) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens
        self.version = f"semantic-1:{tokens}"

    def split(self, text: str, name: str) -> list[Piece]:
        """Cut `text`; Markdown (and what was turned into it) along its headings."""
        plain = Path(name).suffix.lower() in PLAIN - {".md", ".markdown"}
        kind = TextSplitter if plain else MarkdownSplitter
        texts = [piece.strip() for piece in _splitter(kind, self._tokenizer, self._tokens).chunks(text)]
        texts = [piece for piece in texts if piece]
        counts = [len(e.ids) for e in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [Piece(t, n, text_hash(t)) for t, n in zip(texts, counts, strict=True)]
