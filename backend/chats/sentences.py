"""Where sentences begin and end in Markdown: prose, lists, headings, tables, and scripts that write without spaces.

Knows no language, only marks that end a sentence and the abbreviations that end in one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


ABBREVIATIONS = _words(
    "mr mrs ms dr prof st mt ft rev hon gen col lt sgt capt cmdr gov sen rep pres jr sr bros co corp inc ltd plc dept "
    "est no nos vol vols fig figs sec ch art pp pg ed eds trans vs v etc al e.g i.e cf ca c approx min max tel ext "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri sat sun "
    "u.s u.k u.n d.c a.m p.m a.d b.c ph.d b.a m.a b.sc m.sc z.b d.h u.a bzw usw ggf nr str bd hrsg vgl sog "
    "mme mlle env p.ex sra sta av pág núm"
)
"""In lower case and without their last full stop."""
TITLES = _words(
    "mr mrs ms dr prof st mt ft rev hon gen col lt sgt capt cmdr gov sen rep pres mme no nos fig"
)
"""Those that never end one: a name or a number follows."""
MAY_END = _words("etc a.m p.m usw a.d b.c")
"""Those of them that end a sentence where a capital follows; the others where a word follows that begins sentences."""
BEGINNINGS = _words(
    "the a an it its he she they we you i his her their our this that these those there in on at for from with as by "
    "if when while after before but and or so however although since to der die das es er sie wir ein eine im am "
    "le la les il elle un une el los las en"
)

_BLOCK = re.compile(r"[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|(?:[-*+•]|\d{1,3}[.)]|[a-zA-Z][.)])[ \t]+)*")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
_CLOSING = "\"'”’»)]}*_」』）"
_END = re.compile(
    rf"(?:[.!?…]+[{re.escape(_CLOSING)}]*(?=\s|$)"
    rf"|[。！？｡．।॥؟۔։።።៕][{re.escape(_CLOSING)}]*)"
)
_OPENING = "\"'“‘«([{*_「『（¿¡"


@dataclass(frozen=True, slots=True)
class Sentence:
    """[start, end) of a sentence in its text, without list marks and white space around it.

    `after` is where something can be put behind it without breaking what it stands in: before the bar of a table's
    last cell, for instance.
    """

    start: int
    end: int
    after: int


def sentences(text: str) -> list[Sentence]:
    """The sentences of a Markdown text, in order. Code blocks and table rules have none; a table's row is one."""
    out: list[Sentence] = []
    for start, end, row in _blocks(text):
        if row:
            last = text.rfind("|", start, end)
            behind = last if last > start and not text[last + 1 : end].strip() else end
            out.append(Sentence(start, end, len(text[:behind].rstrip())))
        else:
            out += [Sentence(first, last, last) for first, last in _split(text, start, end)]
    return out


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is a table's row) of paragraphs, list items, headings and rows."""
    at, begun, fence = 0, -1, ""
    end = 0
    for line in text.splitlines(keepends=True):
        start, at = at, at + len(line)
        bare = line.strip()
        opened = _FENCE.match(line)
        if fence or opened:
            if begun >= 0:
                yield begun, end, False
                begun = -1
            if opened and not fence:
                fence = opened[1]
            elif bare.startswith(fence) and not bare.strip(fence[0]):
                fence = ""
            continue
        mark = _BLOCK.match(line)
        content = start + (mark.end() if mark else 0)
        row = bare.startswith("|") and bare.count("|") > 1
        new = not bare or row or content > start + len(line) - len(line.lstrip())
        if new and begun >= 0:
            yield begun, end, False
            begun = -1
        if not bare:
            continue
        last = start + len(line.rstrip())
        if row:
            if re.search(r"\w", bare):
                yield start + len(line) - len(line.lstrip()), last, True
            continue
        if begun < 0:
            begun = content
        end = last
        if bare.startswith("#"):
            yield begun, end, False
            begun = -1
    if begun >= 0:
        yield begun, end, False


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    code = [(found.start() + start, found.end() + start) for found in _CODE.finditer(text[start:end])]
    at = start
    for found in _END.finditer(text, start, end):
        stop = found.end()
        if stop < end and (any(a < stop < b for a, b in code) or not _ends(text, at, found, end)):
            continue
        if re.search(r"\w", text[at:stop]):
            yield _trimmed(text, at, stop)
            at = stop
    if re.search(r"\w", text[at:end]):
        yield _trimmed(text, at, end)


def _ends(text: str, start: int, found: re.Match[str], end: int) -> bool:
    """Whether a full stop ends its sentence, rather than an abbreviation."""
    mark = found.group().rstrip(_CLOSING)
    following = text[found.end() : end].lstrip().lstrip(_OPENING)[:1]
    if not mark.startswith((".", "…")):
        return mark == found.group() or not following.islower()  # “Yes!” she said
    if following and (following.islower() or following in ",;:"):
        return False
    if mark != ".":
        return True
    words = text[start : found.start()].split()
    word = words[-1].strip(_OPENING + _CLOSING) if words else ""
    bare = word.lower()
    if bare in ABBREVIATIONS:
        if bare in MAY_END and following.isupper():
            return True
        then = re.match(r"\w+", text[found.end() : end].lstrip().lstrip(_OPENING))
        return bare not in TITLES and then is not None and then[0].istitle() and then[0].lower() in BEGINNINGS
    return not (len(word) == 1 and word.isalpha() and word.isupper() and word != "I")


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())
