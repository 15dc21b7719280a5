"""Texts made up by a rule, for what depends on their amount and not on their meaning."""

from __future__ import annotations

import random

THINGS = ("bell", "clock", "gate", "mill", "barn", "tower", "quay", "ferry", "lamp", "bridge", "kiln", "well", "weir")
BEGINNINGS, ENDINGS = ("Nor", "Sal", "Hol", "Gre", "Mar", "Wen", "Tor", "Bly"), ("by", "ford", "mouth")
PLACES = [a + b for a in BEGINNINGS for b in ENDINGS]
FIRST_NAMES, LAST_NAMES = ("Anna", "Piet", "Marta", "Jonas", "Edda"), ("Weber", "Visser", "Blum", "Lund")
PEOPLE = [f"{a} {b}" for a in FIRST_NAMES for b in LAST_NAMES]
PAGE_SENTENCES = 26
"""Sentences of 16 to 20 words, as many as a printed page has."""


def document(seed: int, pages: int) -> bytes:
    """A document made up by a rule: facts about things in places, a section a page."""
    rng = random.Random(seed)
    out = []
    for page in range(pages):
        out.append(f"# The {rng.choice(THINGS)} of {rng.choice(PLACES)}, part {page + 1}\n")
        for _ in range(PAGE_SENTENCES):
            out.append(
                f"In {rng.randint(1700, 1999)} {rng.choice(PEOPLE)} measured the {rng.choice(THINGS)} of "
                f"{rng.choice(PLACES)} and noted {rng.randint(10, 9999)} ells, which the council paid in full."
            )
        out.append("")
    return "\n".join(out).encode()
