"""Figures are written with the digits that mean something, and in the unit that they round to."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pages.drawing.figures import amounts, counted, money, rate, seconds, size


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (0.0854, "85 ms"), (0.9996, "1.0 s"), (1.44, "1.4 s"), (59.96, "1 min 0 s"), (125, "2 min 5 s"),
     (3599.7, "1 h 0 min"), (7260, "2 h 1 min"), (200_000, "2 d 7 h")],
)  # fmt: skip
def test_durations(value: float | None, written: str) -> None:
    assert seconds(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "$ 0"), (1e-12, "< $ 0.00000001"), (0.0000138, "$ 0.0000138"), (0.0099, "$ 0.0099"), (0.0305, "$ 0.0305"),
     (0.1, "$ 0.10"), (0.125, "$ 0.125"), (0.9996, "$ 1.00"), (12.5, "$ 12.50"), (1234567, "$ 1,234,567.00"),
     (-0.5, "−$ 0.50")],
)  # fmt: skip
def test_money(value: float, written: str) -> None:
    assert money(value) == written.replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("values", "written"),
    [((0.0082, 0.131), ("0.0082", "0.1310")), ((0.00000081, 12.5), ("0.00000", "12.50000")),
     ((3, 4.5), ("3.00", "4.50"))],
)  # fmt: skip
def test_a_row_of_amounts_is_in_one_precision(values: tuple[float, ...], written: tuple[str, ...]) -> None:
    assert tuple(amount.removeprefix("$\N{NO-BREAK SPACE}") for amount in amounts(values)) == written


@given(st.floats(0, 1e9))
def test_no_amount_is_written_in_powers_of_ten_or_as_nothing(value: float) -> None:
    written = money(value)
    assert re.fullmatch(r"(<\s)?\$\s[\d,]+(\.\d+)?", written)
    assert value == 0 or re.search(r"[1-9]", written)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (1024**2 - 1, "1.0 MB"), (1024**3 - 1, "1.0 GB"),
     (5 * 1024**4, "5120.0 GB")],
)  # fmt: skip
def test_sizes(value: float, written: str) -> None:
    assert size(value) == written


def test_numbers_with_their_nouns() -> None:
    assert [counted(number, "chunk") for number in (0, 1, 1200)] == ["0 chunks", "1 chunk", "1,200 chunks"]


def test_rates() -> None:
    written = ["–", "0.0 tok/s", "9.9 tok/s", "10 tok/s", "123 tok/s"]
    assert [rate(value) for value in (None, 0, 9.94, 9.96, 123.4)] == written
