"""Each sentence of an answer gets the passage that supports it, and none where nothing does."""

from __future__ import annotations

import numpy as np

from backend.chats.attribution import attribute
from backend.store.citation import Citation

TOWER = (
    "## The climb\nThe tower has 182 steps and no lift. The climb takes about fifteen minutes. The balcony is closed "
    "when the wind is stronger than 60 kilometres per hour."
)
KEEPER = "## The keeper\nThe last resident keeper, Marta Ollander, retired in 1988. Her logbooks are in the oil store."


def passage(number: int, text: str, document: str = "lighthouse-handbook.md") -> Citation:
    return Citation(
        number=number, chunk_id=str(number), document_id="d", document=document, position=number, score=0.7, text=text
    )  # fmt: skip


PASSAGES = [passage(1, TOWER), passage(2, KEEPER)]


def no_model(texts: list[str]) -> None:
    return None


def alike(texts: list[str]) -> np.ndarray:
    return np.ones((len(texts), 1), dtype=np.float32)


def marked(answer: str, question: str = "", cut: bool = False) -> list[tuple[str, int, str]]:
    """(what stands before the mark, its number, what supports it)."""
    marks = attribute(answer, PASSAGES, question, no_model, cut=cut)
    texts = {citation["number"]: citation["text"] for citation in PASSAGES}
    return [(answer[: m.start].rsplit(". ", 1)[-1], m.number, texts[m.number][m.begin : m.stop]) for m in marks]


def test_each_sentence_leads_to_the_sentence_that_supports_it() -> None:
    answer = "The tower has 182 steps. The last keeper, Marta Ollander, retired in 1988."
    assert marked(answer) == [
        ("The tower has 182 steps.", 1, "The tower has 182 steps and no lift."),
        ("The last keeper, Marta Ollander, retired in 1988.", 2,
         "The last resident keeper, Marta Ollander, retired in 1988."),
    ]  # fmt: skip


def test_another_number_name_day_or_the_contrary_gets_no_mark() -> None:
    assert marked("The tower has 183 steps and no lift.") == []
    assert marked("The last resident keeper, Marta Ibsen, retired in 1988.") == []
    assert marked("The balcony is open when the wind is stronger than 60 kilometres per hour.") == []
    assert marked("The balcony is not closed when the wind is stronger than 60 kilometres per hour.") == []


def test_what_nothing_supports_gets_no_mark() -> None:
    assert marked("Visitors may bring their bicycles into the garden of the museum.") == []
    assert marked("Here is the answer:") == [] and marked("lighthouse-handbook.md") == []


def test_a_bare_figure_is_found_by_its_question() -> None:
    assert [n for _, n, _ in marked("182", "How many steps does the tower have?")] == [1]
    assert marked("182", "What does the ticket cost?") == []


def test_half_a_sentence_says_nothing_yet() -> None:
    answer = "The tower has 182 steps. The climb takes"
    assert [n for _, n, _ in marked(answer, cut=True)] == [1]


def test_marks_that_the_model_wrote_are_kept_and_lead_to_a_sentence() -> None:
    answer = "The climb takes fifteen minutes [1]. Marta Ollander retired [9]."
    (mark,) = attribute(answer, PASSAGES, "", no_model)
    assert answer[mark.start : mark.end] == "[1]"
    assert TOWER[mark.begin : mark.stop] == "The climb takes about fifteen minutes."


def test_embeddings_decide_where_words_do_not() -> None:
    answer = "Climbing the tower takes you around fifteen minutes of walking."
    assert attribute(answer, PASSAGES, "", no_model) == ()
    assert [m.number for m in attribute(answer, PASSAGES, "", alike)] == [1]


def test_numbers_are_the_same_in_words_and_figures() -> None:
    assert [n for _, n, _ in marked("The climb takes about 15 minutes.")] == [1]


def test_scripts_without_spaces_are_compared() -> None:
    japanese = [passage(1, "灯台は一八七一年に建てられました。入場料は七ユーロです。", "灯台.md")]
    (mark,) = attribute("入場料は七ユーロです。", japanese, "", no_model)
    assert japanese[0]["text"][mark.begin : mark.stop] == "入場料は七ユーロです。"
