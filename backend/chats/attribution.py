"""Which passage supports which sentence of an answer, for the marks [1] that a small model does not write itself.

A sentence's words are looked for in each passage, one or two of its sentences at a time; rare words count for more, the
question's words decide between places that say the same. Every number and every name must be there. Where the words
alone do not decide, embeddings do. A sentence that nothing supports gets no mark. Pure: it is given what it compares.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from backend.chats.sentences import Sentence, sentences
from backend.chats.terms import Terms, stemmed, terms_of, without
from backend.generation.likeness import OPPOSITES
from backend.knowledge.mentions import stem
from backend.store.citation import Citation

SURE = 0.85
"""Share of a sentence's words from which they decide alone."""
LIKELY = 0.6
"""Share from which embeddings decide; below it nothing does, since a near meaning is not yet the same fact."""
SIMILAR = 0.75
"""Cosine from which a place of which this much is likely supports a sentence."""
ITSELF = 0.33
"""Share that must stand in the place rather than in its document's title."""
NEW = 0.6
"""Share of what a sentence adds to its question that must be there in any case."""
TOGETHER = 0.8
"""Share from which two places that add to each other support what neither says alone."""
ADDS = 0.25
"""Share that the second of them must add."""
FEW, ASKED, ASKED_FIGURE = 2, 0.38, 0.5
"""Of a sentence of so few words, the share of its question's words that its place must have; more for bare figures."""
FRAGMENT = 4
"""Words up to which the same holds for what is no whole sentence."""
MOST_PLACES = 3
"""Places of each sentence that embeddings look at."""
QUESTION = 0.25
"""What the question's words weigh beside the sentence's own."""

Embed = Callable[[list[str]], np.ndarray | None]
"""Texts → float32 [texts, dimension], each of length 1; None where there is no model now."""

_HEADING = re.compile(r"^[ \t]*#+[ \t]+(.+)$", re.M)
_MARKER = re.compile(r"\[(\d{1,2})\]")
_FILLING = (
    "passage passages text document documents information question answer according based mentioned stated following "
    "sure certainly yes here"
)
_OPPOSITES = tuple(frozenset(map(stemmed, pair)) for pair in OPPOSITES)
_FULL_STOPS = tuple(".!?…。！？।")
_SAYS_NOTHING = frozenset(_FILLING.split())


@dataclass(frozen=True, slots=True)
class Mark:
    """A sentence of an answer, and the passage that supports it.

    Attributes:
        start, end: characters of the answer that are the mark as the model wrote it; equal where none is written, and
            it belongs there.
        number: the passage's.
        begin, stop: [begin, stop) of the passage's text that supports the sentence.
    """

    start: int
    end: int
    number: int
    begin: int
    stop: int


@dataclass(frozen=True)
class _Place:
    """One or two sentences of a passage."""

    number: int
    document: str
    begin: int
    stop: int
    text: str
    terms: Terms
    around: frozenset[str]  # words of its passage's title and headings
    passage: frozenset[str]  # and all its words


def attribute(
    text: str, citations: Sequence[Citation], question: str, embed: Embed, *, cut: bool = False
) -> tuple[Mark, ...]:
    """The marks of an answer, in its order.

    Args:
        text: the answer.
        citations: the passages that its prompt quoted.
        question: what was asked.
        embed: for sentences of which words alone do not decide.
        cut: whether the answer ends in the middle of a sentence, which says nothing yet.
    """
    places = [place for citation in citations for place in _places(citation)]
    if not places:
        return ()
    weights = _weights(places)
    asked = terms_of(question)
    titles = {citation["number"]: citation["document"] for citation in citations}
    written = [
        found for found in _MARKER.finditer(text)
        if int(found[1]) in titles and not text.startswith(stem(titles[int(found[1])])[:12], found.end() + 1)
    ]  # fmt: skip - a passage's heading that was copied is no mark
    marks: list[Mark] = []
    for sentence, behind in _with_markers(sentences(text), written):
        bare = _MARKER.sub(" ", text[sentence.start : sentence.end])
        if behind:  # the model's own word, which only lacks the place
            for found in behind:
                own = [place for place in places if place.number == int(found[1])]
                place = max(own, key=lambda p: _share(terms_of(bare), asked, [p], weights))
                marks.append(Mark(found.start(), found.end(), place.number, place.begin, place.stop))
        elif not (written or (cut and sentence.end == len(text) and not bare.rstrip().endswith(_FULL_STOPS))):
            found_places = _support(bare, asked, question, places, weights, embed)
            marks += [Mark(sentence.after, sentence.after, p.number, p.begin, p.stop) for p in found_places]
    return tuple(marks)


def _with_markers(
    found: list[Sentence], written: list[re.Match[str]]
) -> list[tuple[Sentence, list[re.Match[str]]]]:
    """Each sentence with the markers in it, or between it and the next."""
    ends = [sentence.start for sentence in found[1:]] + [1 << 62]
    out = []
    at = 0
    for sentence, end in zip(found, ends, strict=True):
        first = at
        while at < len(written) and written[at].start() < end:
            at += 1
        out.append((sentence, written[first:at]))
    return out


def _support(
    sentence: str, asked: Terms, question: str, places: list[_Place], weights: dict[str, float], embed: Embed
) -> list[_Place]:
    terms = without(terms_of(sentence), _SAYS_NOTHING)
    bare = sentence.strip(" *_#>")
    if bare.endswith((":", "：", "?", "？")) or bare.startswith("Question:") or not terms.words:
        return []  # it leads to what follows, asks, or says nothing
    if _only_names(bare, terms, places):
        return []
    few = len(terms.words) <= (FEW if bare.endswith(_FULL_STOPS) else FRAGMENT)
    if few:  # what it is about stands in the question
        least = ASKED_FIGURE if terms.words.keys() <= terms.numbers else ASKED
        places = [place for place in places if _own(asked, [place], weights, around=False) >= least]
    ranked = sorted(
        ((_share(terms, asked, [place], weights), place) for place in places), key=lambda scored: -scored[0]
    )
    news = without(terms, asked.words)
    fitting = [
        (share, place) for share, place in ranked
        if _agrees(terms, asked, [place])
        and (few or _own(terms, [place], weights, around=False) >= ITSELF)
        and (not news.words or _own(news, [place], weights) >= NEW)
    ]  # fmt: skip
    if fitting and _own(terms, [fitting[0][1]], weights) >= SURE:
        return [fitting[0][1]]
    if pair := _pair(terms, news, asked, [place for _, place in ranked[:8]], weights):
        return pair
    candidates = [place for _, place in fitting[:MOST_PLACES] if _own(terms, [place], weights) >= LIKELY]
    if not candidates:
        return []
    short = len(terms.words) <= 4
    vectors = embed([f"{question} {sentence}" if short else sentence, *(place.text for place in candidates)])
    if vectors is None:
        return []
    likeness = vectors[1:] @ vectors[0]
    best = int(np.argmax(likeness))
    return [candidates[best]] if likeness[best] >= SIMILAR else []


def _pair(
    terms: Terms, news: Terms, asked: Terms, places: list[_Place], weights: dict[str, float]
) -> list[_Place] | None:
    """Two places of different passages that together say what neither says alone."""
    best: tuple[float, list[_Place]] | None = None
    for first in places:
        alone = _own(terms, [first], weights)
        for second in places:
            if second.number <= first.number:
                continue
            both = [first, second]
            share = _own(terms, both, weights)
            added = share - max(alone, _own(terms, [second], weights))
            fits = share >= TOGETHER and added >= ADDS and _agrees(terms, asked, both) and _each_adds(terms, news, both)
            if fits and (best is None or share > best[0]):
                best = share, both
    return best[1] if best else None


def _each_adds(terms: Terms, news: Terms, places: list[_Place]) -> bool:
    """Whether each place has a name, and something new to the question, that the other lacks.

    Else a sentence's words come together by chance.
    """
    one, other = (terms.names & place.passage for place in places)
    first, second = (news.words.keys() & place.terms.words.keys() for place in places)
    return bool(one - other and other - one and first - second and second - first)


def _agrees(terms: Terms, asked: Terms, places: list[_Place]) -> bool:
    """Whether places have every number and name of a sentence, and do not say the contrary."""
    if not terms.numbers <= frozenset().union(*(place.terms.numbers for place in places)):
        return False
    here = frozenset().union(*(place.terms.words.keys() | place.around for place in places))
    passages = frozenset().union(*(place.passage for place in places))
    # What a sentence repeats of its question may be called "it" or "the tower" in the passage's own.
    if not (terms.names - asked.words.keys() <= here and terms.names & asked.names <= passages):
        return False
    said = terms.words.keys()
    if any(said & pair and here & pair and not said & here & pair for pair in _OPPOSITES):
        return False
    return not terms.negated or any(place.terms.negated for place in places)


def _share(terms: Terms, asked: Terms, places: list[_Place], weights: dict[str, float]) -> float:
    """How much of a sentence places say; the question's words count a little, so that they decide where all else ties.

    The shorter of two places that say the same is the better.
    """
    length = sum(place.stop - place.begin for place in places)
    return _own(terms, places, weights) + QUESTION * _own(asked, places, weights, around=False) - length * 1e-5


def _own(terms: Terms, places: list[_Place], weights: dict[str, float], *, around: bool = True) -> float:
    there = {word for place in places for word in (*place.terms.words, *(place.around if around else ()))}
    most = max(weights.values(), default=1.0)
    weighed = {word: weights.get(word, most) for word in terms.words}
    whole = sum(weighed.values())
    return sum(weight for word, weight in weighed.items() if word in there) / whole if whole else 0.0


def _weights(places: list[_Place]) -> dict[str, float]:
    """How much a word says: less, the more places have it."""
    count = Counter(word for place in places for word in place.terms.words)
    return {word: 1.0 + math.log(len(places) / times) for word, times in count.items()}


def _only_names(sentence: str, terms: Terms, places: list[_Place]) -> bool:
    """Whether a sentence is no more than a passage's title, as small models copy them; with a full stop it answers."""
    named = any(sentence.rstrip(".").endswith(place.document) for place in places)
    return named or (
        not sentence.endswith((".", "!")) and any(terms.words.keys() <= place.around for place in places)
    )


def _places(citation: Citation) -> list[_Place]:
    text = citation["text"]
    found = [s for s in sentences(text) if not _HEADING.match(text, text.rfind("\n", 0, s.start) + 1)]
    headings = " ".join(heading[1] for heading in _HEADING.finditer(text))
    around = frozenset(terms_of(f"{stem(citation['document'])} {headings}".lower()).words)
    passage = around | terms_of(text).words.keys()
    spans = [(s.start, s.end) for s in found] or [(0, len(text))]  # headings alone
    spans += [(a.start, b.end) for a, b in pairwise(found) if "\n\n" not in text[a.end : b.start]]
    return [
        _Place(
            citation["number"], citation["document"], begin, stop, text[begin:stop], terms_of(text[begin:stop]), around,
            passage,
        )
        for begin, stop in spans
    ]
