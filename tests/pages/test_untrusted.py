"""Text from strangers is read by a Markdown parser as what it shows: no image, no link, no element, no formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pages.drawing.untrusted import code, plain, prose, spoken

PARSER = MarkdownIt("commonmark").enable("table")
PIECES = st.sampled_from(
    ["![a](http://h/x.png)", "[a](http://h)", "![a][r]", "[r]: http://h/x.png", "<img src=http://h>", "<div>", "<!--",
     "`", "``", "```", "~~~", "\n", "\n\n", "- ", "  ", "    ", "> ", "| ", "\\", "$", "*", "a", ":::", "-->", "# ",
     "1. "]
)  # fmt: skip


def kinds(text: str) -> set[str]:
    tokens = PARSER.parse(text)
    return {token.type for token in tokens} | {child.type for token in tokens for child in token.children or []}


HARM = {"image", "link_open", "html_inline", "html_block"}


@pytest.mark.parametrize(
    "text",
    ["![x](http://h/x.png)", "[x](http://h)", "![x][r]\n\n[r]: http://h/x.png", "<img src='http://h/x.png'>",
     "<div>\n```\n\n![x](http://h/x.png)", "- ```\n![x](http://h/x.png)\n", "  ```\n```\n![x](http://h/x.png)",
     "1. a\n   ```\n   code\n![x](http://h/x.png)", "`a\n` ![x](http://h/x.png) `", "|a|b|\n|-|-|\n|`|![x](http://h/x)`|",
     "\\\\[x](http://h)", "<http://h/x>", "``` `\n![x](http://h/x.png)"],
)  # fmt: skip
def test_no_image_link_or_element_is_left(text: str) -> None:
    assert not kinds(prose(text)) & HARM
    assert not kinds(plain(text)) & HARM
    assert not kinds(spoken(text)) & HARM


@given(st.lists(PIECES, max_size=14).map("".join))
def test_no_arrangement_gets_through(text: str) -> None:
    assert not kinds(prose(text)) & HARM


@given(st.lists(PIECES, min_size=1, max_size=14).map("".join))
def test_code_shows_what_it_is_given(text: str) -> None:
    (token,) = PARSER.parseInline(f"Request {code(text)} ended")
    shown = [child.content for child in token.children or [] if child.type == "code_inline"]
    assert shown == ([" ".join(text.split())] if text.strip() else [])


def test_code_lists_and_emphasis_stay_as_they_were() -> None:
    text = (
        "Use **this**:\n\n- `d[0](x)` of `$HOME`\n\n"
        "```python\nfor x in y[1:]:\n    d[x](1)  # <b> $5\n```\n\nand | so\n"
    )
    assert prose(text) == text
    assert "fence" in kinds(prose(text))


def test_formulas_and_badges_cannot_be_written() -> None:
    assert prose("$5 and $6") == "\\$5 and \\$6"
    assert prose(":green-badge[ready]") == "\\:green-badge[ready]"
    assert spoken("- [a](b) tower-2.md") == "a b tower-2.md"
    assert plain("a_b.md\n:red[x] $1") == "a\\_b\\.md \\:red\\[x\\] \\$1"
