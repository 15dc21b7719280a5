"""Charts keep their edges, say their figures in a table, and no outlier flattens the rest."""

from __future__ import annotations

from pages.drawing.charts import COLORS, Chart, Line, Mark, figure, flattened, rows

LINES = [Line("out", [60.0, 120.0], [1.0, 2.0]), Line("in", [60.0, 120.0], [3.0, None])]


def test_a_chart_has_its_table() -> None:
    table = rows(Chart("Tokens", "tokens/s", LINES, 0, 180))
    assert [{k: v for k, v in row.items() if k != "time"} for row in table] == [{"out": 2.0, "in": None},
                                                                               {"out": 1.0, "in": 3.0}]  # fmt: skip


def test_a_thing_has_one_color() -> None:
    drawn = figure(Chart("Tokens", "tokens/s", LINES, 0, 180))
    assert [trace.line.color for trace in drawn.data] == [COLORS["out"], COLORS["in"]]


def test_one_outlier_makes_the_axis_logarithmic_and_nothing_else_does() -> None:
    calm, wild = [80.0, 85.0, 90.0, 95.0, 100.0], [80.0, 85.0, 90.0, 95.0, 14_900.0]
    assert not flattened(calm) and flattened(wild)
    assert not flattened([0.0, *wild]), "a logarithm has no 0"
    times = [float(t) for t in range(5)]
    drawn = figure(Chart("Wait", "ms", [Line("p50", times, wild)], 0, 5))
    assert drawn.layout.yaxis.type == "log"


def test_only_marks_within_the_range_are_drawn() -> None:
    marks = [Mark(90.0, "Prefix cache: on → off"), Mark(900.0, "later")]
    drawn = figure(Chart("Tokens", "tokens/s", LINES, 0, 180, marks))
    assert [note.hovertext for note in drawn.layout.annotations] == ["Prefix cache: on → off"]
