"""Sentences are found in prose, lists and tables, in scripts with and without spaces, and not after abbreviations."""

from __future__ import annotations

import pytest

from backend.chats.sentences import sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs 3.50 euros. It opens at 9.30 a.m. or so.", ["It costs 3.50 euros.", "It opens at 9.30 a.m. or so."]),
        ("Dr. J. K. Moss of the U.S. Navy came. He left.", ["Dr. J. K. Moss of the U.S. Navy came.", "He left."]),
        ("Bread, milk etc. Then he paid.", ["Bread, milk etc.", "Then he paid."]),
        ("Wait... what? “Yes!” she said.", ["Wait... what?", "“Yes!” she said."]),
        ("# Title\n\nA line\nthat goes on. Next.", ["Title", "A line\nthat goes on.", "Next."]),
        ("1. Fill it. Wait.\n2. Rinse\n- **Bold.** Plain", ["Fill it.", "Wait.", "Rinse", "**Bold.**", "Plain"]),
        ("```\nx = 1. Not this.\n```\nThis.", ["This."]),
        ("Call `a. B` now. Done.", ["Call `a. B` now.", "Done."]),
        ("東京は首都です。人口は多い！", ["東京は首都です。", "人口は多い！"]),
        ("यह एक है। यह दो है।", ["यह एक है।", "यह दो है।"]),
        ("ما هذا؟ هذا كتاب.", ["ما هذا؟", "هذا كتاب."]),
        ("1. 2. 3.", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences_of_many_kinds_of_text(text: str, expected: list[str]) -> None:
    found = [text[s.start : s.end] for s in sentences(text)]
    assert [f for f in found if any(c.isalpha() for c in f)] == expected


def test_what_is_put_behind_a_row_stays_in_its_last_cell() -> None:
    table = "| a | b |\n|---|---|\n| one | two |"
    assert [table[: s.after].rsplit("|", 1)[1] for s in sentences(table)] == [" b", " two"]
