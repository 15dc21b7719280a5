"""Texts that begin with others, found by an index and the same on every database.

A database sorts texts as its language has it: letters of both cases beside each other, signs passed over. What lies
between two texts there need not begin with the first. Compared byte by byte, it does.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, String, and_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

LAST = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
"""Code points that no text has."""


class _Bytewise(FunctionElement[str]):
    """A column, compared byte by byte."""

    type = String()
    inherit_cache = True


@compiles(_Bytewise)
def _as_it_is(element: _Bytewise, compiler: SQLCompiler, **more: Any) -> str:
    return compiler.process(element.clauses, **more)  # SQLite does so by itself, and its index is sorted so


@compiles(_Bytewise, "postgresql")
def _in_no_language(element: _Bytewise, compiler: SQLCompiler, **more: Any) -> str:
    return f'{compiler.process(element.clauses, **more)} COLLATE "C"'


def begins_with(column: Any, prefix: str) -> ColumnElement[bool]:
    """The condition that a text column begins with a prefix, which is not empty; upper and lower case differ."""
    after = _after(prefix)
    text = _Bytewise(column)
    return text >= prefix if after is None else and_(text >= prefix, text < after)


def _after(prefix: str) -> str | None:
    """The first text behind all that begin with a prefix; None where there is none. UTF-8 sorts as code points do."""
    kept = prefix.rstrip(chr(LAST))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(SURROGATES.stop if following in SURROGATES else following)
