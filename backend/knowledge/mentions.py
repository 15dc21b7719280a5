"""What a text is called and what it speaks of: titles, headings, links, and names that few texts share.

Pure functions over words; knows neither index nor database.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath

WORD = re.compile(r"\w+")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAME = re.compile(r"\b[A-Z][\w’'-]+(?: (?:of|the|de|van|von|la) [A-Z][\w’'-]+| [A-Z][\w’'-]+)+")
LONGEST_TITLE = 10
"""Words of a title beyond which nobody mentions it in full."""

STOP_WORDS = frozenset(Path(__file__).with_name("stop_words.txt").read_text().split())

Title = tuple[str, ...]


def words(text: str) -> list[str]:
    """Lower-case words without accents."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return WORD.findall(text.lower())


def title_forms(title: str) -> set[Title]:
    """The ways in which a title is written: as it is, and without what stands in brackets."""
    forms = {tuple(words(title)), tuple(words(re.sub(r"\s*\([^)]*\)", "", title)))}
    return {form for form in forms if 0 < len(form) <= LONGEST_TITLE and not STOP_WORDS.issuperset(form)}


def headings(text: str) -> list[str]:
    """Markdown headings."""
    return HEADING.findall(text)


def stem(name: str) -> str:
    """A file's name as a title."""
    return re.sub(r"[_-]+", " ", PurePath(name).stem)


def linked_names(text: str) -> set[str]:
    """File names that Markdown links point to."""
    return {PurePath(target.split("#")[0]).name for target in LINK.findall(text) if "://" not in target} - {""}


def names(text: str) -> set[str]:
    """Names of more than one word, in lower case: what two texts that share it are likely to be both about."""
    out = set()
    for name in NAME.findall(text):
        parts = words(name)
        if parts[0] in STOP_WORDS:  # a sentence's first word, or an article
            parts = parts[1:]
        if len(parts) > 1:
            out.add(" ".join(parts))
    return out


class TitleIndex:
    """Finds known titles in texts: of the titles that begin at a word, the longest."""

    def __init__(self) -> None:
        self._holders: dict[Title, set[int]] = {}
        self._lengths: dict[str, dict[int, int]] = {}  # first word → length → titles of it

    def add(self, form: Title, holder: int) -> bool:
        """Note that node `holder` bears a title; True if nobody did before."""
        holders = self._holders.setdefault(form, set())
        new = not holders
        holders.add(holder)
        if new:
            lengths = self._lengths.setdefault(form[0], {})
            lengths[len(form)] = lengths.get(len(form), 0) + 1
        return new

    def remove(self, form: Title, holder: int) -> None:
        """Take a title from a node."""
        holders = self._holders.get(form)
        if holders is None:
            return
        holders.discard(holder)
        if not holders:
            del self._holders[form]
            lengths = self._lengths[form[0]]
            lengths[len(form)] -= 1
            if not lengths[len(form)]:
                del lengths[len(form)]

    def holders(self, form: Title) -> set[int]:
        """Nodes that bear a title."""
        return self._holders.get(form, set())

    def find(self, text: str) -> dict[Title, set[int]]:
        """Titles that a text mentions, and who bears them."""
        found: dict[Title, set[int]] = {}
        sequence = words(text)
        at = 0
        while at < len(sequence):
            step = 1
            for length in sorted(self._lengths.get(sequence[at], ()), reverse=True):
                form = tuple(sequence[at : at + length])
                if form in self._holders:
                    found[form] = self._holders[form]
                    step = length
                    break
            at += step
        return found


def strength(form: Iterable[str], bearers: int) -> float:
    """How much a mention says: less where several bear the title, and where it is a single word."""
    return (1.0 if len(tuple(form)) > 1 else 0.7) / bearers
