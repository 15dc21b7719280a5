"""Cuts text into chunks of a token budget at the best semantic boundary (semantic-text-splitter)."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from backend.knowledge.formats import PLAIN


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


LONGEST_REMEMBERED = 40  # characters of a word
REMEMBERED_WORDS = 100_000
LONGEST_WORD = 100
"""Characters of a word beyond which BERT's tokenizers see one unknown token, however long it is."""
LONGEST_COUNTED = 1 << 16
"""Characters of a text that is cut into tokens to count them; one that is longer fits no chunk anyway."""
CHARACTERS_A_TOKEN = 4


@functools.lru_cache(maxsize=8)
def counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    """How many tokens a text has.

    BERT's tokenizers cut at white space first, so a text has the tokens of its words: remembered, they are counted a
    dozen times faster than by cutting the text anew for every place where a chunk may end. A word that no tokenizer
    knows counts by its length, so that a megabyte without a space is no chunk of one token.
    """

    def whole(text: str) -> int:
        if len(text) > LONGEST_COUNTED:
            return len(text) // CHARACTERS_A_TOKEN
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    if not isinstance(tokenizer.pre_tokenizer, BertPreTokenizer):
        return whole
    remembered = functools.lru_cache(REMEMBERED_WORDS)(whole)

    def count(word: str) -> int:
        if len(word) <= LONGEST_REMEMBERED:
            return remembered(word)
        return whole(word) if len(word) <= LONGEST_WORD else max(whole(word), len(word) // CHARACTERS_A_TOKEN)

    def by_words(text: str) -> int:
        words = text.split()
        if max(map(len, words), default=0) > LONGEST_REMEMBERED:
            return sum(map(count, words))
        return sum(map(remembered, words))

    return by_words


class Chunker:
    """Splits documents; `version` names the method, so that chunks of different methods never mix."""

    def __init__(self, tokenizer: Tokenizer, tokens: int) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens
        self.version = f"semantic-2:{tokens}"

    def split(self, text: str, name: str, wanted: Callable[[], None] = lambda: None) -> list[Piece]:
        """Cut `text`; Markdown (and what was turned into it) along its headings.

        Args:
            text: what to cut.
            name: its file's name; the suffix decides how.
            wanted: asked all the time; what it raises ends the cutting.
        """
        count = counter(self._tokenizer)

        def counted(part: str) -> int:
            wanted()
            return count(part)

        plain = Path(name).suffix.lower() in PLAIN - {".md", ".markdown"}
        kind = TextSplitter if plain else MarkdownSplitter
        splitter = kind.from_callback(counted, self._tokens)
        texts = [piece.strip() for piece in splitter.chunks(text)]
        return [Piece(piece, count(piece), text_hash(piece)) for piece in texts if piece]
