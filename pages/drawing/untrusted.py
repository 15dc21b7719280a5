"""The one place that shows text which strangers wrote: names, answers, passages, reasons.

It may be formatted, but it cannot have the reader's browser fetch anything, hide where a link leads, draw the console's
own badges, or begin a formula or an element. It knows nothing of where a text comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_UNSPOKEN = re.compile(r"[^\w.\-]|^[.\-]+")
_FENCE = re.compile(r"(`{3,}[^`\n]*|~{3,}[^\n]*)")
_ITEM = re.compile(r"[ \t]*(?:(?:[-*+]|\d+[.)]|>)[ \t]+)*")
_ON, _OFF = "\ue102", "\ue103"
"""Stand for where a highlight begins and ends; in a text of its own they are shown as unknown."""
_FOREIGN = str.maketrans({_ON: "\ufffd", _OFF: "\ufffd"})
_INLINE = re.compile(
    r"(?P<kept>\\[!-/:-@\[-`{-~])"  # escaped by its author
    r"|(?P<code>(?<!`)(?P<ticks>`+)(?!`)[^|]*?(?<!`)(?P=ticks)(?!`))"  # but not over a table's cells
    r"|(?P<ticks_alone>`+|~{3,})"  # would go on in the next line, or open a block that this reading does not follow
    r"|(?P<link>\](?=[(:]))"  # every link and image has its target in `](…)`, or in a definition `]: …`
    r"|(?P<directive>:(?=[A-Za-z:]))"
    r"|(?P<element><)"
    r"|(?P<formula>\$)"
)


def plain(text: str) -> str:
    """One line of Markdown that shows exactly these characters; for names, reasons, and figures with a `$`."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Markdown that shows exactly these characters as code, in one line; there a backslash would be shown too."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}" if line else ""


def spoken(text: str) -> str:
    """What a screen reader says of a text: a label that is not shown is read out as it was written, so none of it may
    be markup, nor escaped.
    """
    return " ".join(_UNSPOKEN.sub(" ", text).split())


def prose(text: str) -> str:
    """Markdown that keeps lists, tables, emphasis and code, and shows links, images and HTML as what was written."""
    out: list[str] = []
    fence = ""  # the fence that is open
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if fence:
            out.append(line)
            if re.fullmatch(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*", line):
                fence = ""
        elif _FENCE.fullmatch(line):  # indented ones are not taken for code: a list could end them sooner
            out.append(line)
            fence = line[: len(line) - len(line.lstrip(line[0]))]
        else:
            out.append(_INLINE.sub(_defused, line))
    return "\n".join(out)


def passage(text: str, marked: Iterable[tuple[int, int]] = ()) -> str:
    """A chunk of a document, to fit into a panel: headings become bold, and what is marked is highlighted.

    Args:
        text: the chunk.
        marked: [start, end) of its characters; their words are shown without emphasis.
    """
    spans, lines, at = list(marked), [], 0
    for line in text.translate(_FOREIGN).splitlines(keepends=True):
        start, at = at, at + len(line)
        bare = line.rstrip("\r\n")
        parts = [(max(a - start, 0), min(b - start, len(bare))) for a, b in spans if a < at and b > start]
        if bare.startswith("#"):
            lines.append(f"**{bare.lstrip('#').strip()}**\n")
        else:
            lines.append(_highlighted(bare, parts))
    return prose("\n".join(lines)).replace(_ON, ":yellow-background[").replace(_OFF, "]")


def _highlighted(line: str, parts: list[tuple[int, int]]) -> str:
    """A line with marks around parts of it, each a table's cell or a stretch of words without formatting."""
    bounds = [bar.start() for bar in re.finditer(r"\|", line)] if line.lstrip().startswith("|") else []
    begin = match.end() if (match := _ITEM.match(line)) else 0
    out, at = "", 0
    for start, end in sorted(parts):
        edges = [max(start, begin, at), *(bar for bar in bounds if start < bar < end), end]
        for first, last in pairwise(edges):
            words = line[first:last].strip("| \t")
            if not words:
                continue
            first = line.index(words, first)
            out += line[at:first] + _ON + plain(words.replace("**", "").replace("`", "")) + _OFF
            at = first + len(words)
    return out + line[at:]


def opening(text: str, most: int = 90) -> str:
    """The first words of a chunk in one line, headings like the rest; not Markdown yet."""
    line = " ".join(re.sub(r"(?m)^#+\s*", "", text).split())
    return line if len(line) <= most else line[:most].rstrip() + "…"


def _defused(match: re.Match[str]) -> str:
    found = match.group()
    if match["kept"] or match["code"]:
        return found
    if match["link"]:
        return "]\\"
    if match["ticks_alone"]:
        return "".join("\\" + tick for tick in found)
    return "&lt;" if match["element"] else "\\" + found
