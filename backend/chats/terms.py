"""What a text says, word by word: its words, numbers and names, in a form in which two texts can be compared.

Words lose their endings and accents, numbers are the same in words and in figures, and scripts without spaces are taken
two characters at a time.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, replace

from backend.knowledge.mentions import STOP_WORDS

_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
_COUNT = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety hundred"
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNT.split())} | {
    word: str(10 * number) for number, word in enumerate(_TENS.split(), start=1)
}
_NEGATIONS = frozenset({"not", "no", "never", "none", "nobody", "nothing", "neither", "nor", "without", "cannot"})
_MONTHS = "january february march april may june july august september october november december"
_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
_CALENDAR = frozenset(f"{_MONTHS} {_DAYS}".split())
"""Written like names, and shared by texts that have nothing else in common."""


@dataclass(frozen=True)
class Terms:
    """What a text says.

    Attributes:
        words: how often each, without endings, figures among them.
        numbers: its figures, months and days.
        names: what is written with a capital where no sentence begins.
        negated: whether it says that something is not so.
    """

    words: Counter[str]
    numbers: frozenset[str]
    names: frozenset[str]
    negated: bool


def terms_of(text: str) -> Terms:
    """What a text says; stop words say nothing."""
    words: Counter[str] = Counter()
    numbers, names, negated = set(), set(), False
    beginning = True
    for found in _WORD.finditer(text.replace("’", "'")):
        word = found[0]
        small = _folded(word)
        if small in _CALENDAR and word[0].isupper():  # as telling as a number
            numbers.add(small)
        if (small in _NEGATIONS and text[found.end() : found.end() + 1] != ",") or small.endswith("n't"):
            negated = True
        small = small.removesuffix("'s")
        if word[0].isdigit():
            number = re.sub(r"[,.:](?=\d{3}(?!\d))", "", word)
            numbers.add(number)
            words[number] += 1
        elif small in _NUMBERS:
            if small not in ("one", "hundred"):
                numbers.add(_NUMBERS[small])
            words[_NUMBERS[small]] += 1
        elif _WIDE.search(word):
            words.update(word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif small not in STOP_WORDS and len(small) > 1:
            words[stemmed(small)] += 1
            if word[0].isupper() and not beginning and small not in _CALENDAR:
                names.add(stemmed(small))
        before = text[found.end() : found.end() + 2]
        beginning = bool(re.match(r"[.!?:]\s|\n", before))
    return Terms(words, frozenset(numbers), frozenset(names), negated)


def without(terms: Terms, words: Container[str]) -> Terms:
    """What is said beside some words."""
    kept = Counter({word: count for word, count in terms.words.items() if word not in words})
    return replace(terms, words=kept)


def _folded(word: str) -> str:
    """In lower case and without accents."""
    if word.isascii():
        return word.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(c))


def stemmed(word: str) -> str:
    """Without the endings that a sentence changes most: climbs, climbed, climbing."""
    for ending in ("ing", "ied", "ies", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            root = word[: -len(ending)] + ("y" if ending in ("ied", "ies") else "")
            return root[:-1] if len(root) > 3 and root[-1] == root[-2] and root[-1] not in "lsz" else root
    return word
