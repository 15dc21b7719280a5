"""What speaks against two questions asking for the same, however near their embeddings are."""

from __future__ import annotations

NEGATIONS = frozenset(
    {"no", "not", "never", "none", "nothing", "nobody", "without", "cannot", "neither", "nor", "except", "unless"}
)
OPPOSITES = [
    {"first", "last"}, {"open", "closed", "close", "shut"}, {"before", "after"}, {"more", "less", "fewer"},
    {"most", "least", "fewest"}, {"highest", "lowest"}, {"largest", "smallest"}, {"longest", "shortest"},
    {"oldest", "youngest", "newest"}, {"start", "end"}, {"begin", "end"}, {"with", "without"}, {"on", "off"},
    {"adult", "child", "children"}, {"arrive", "leave"}, {"busiest", "quietest"}, {"minimum", "maximum"},
    {"inside", "outside"}, {"above", "below"}, {"cheapest", "dearest"}, {"won", "lost"}, {"born", "died"},
]  # fmt: skip


def _marks(question: str) -> tuple[set[str], frozenset[str], set[str]]:
    """Numbers, negations and names of a question: where two differ in these, they ask for something else."""
    words = [word.strip(".,;:!?\"'()[]") for word in question.replace("’", "'").split()]
    numbers = {word for word in words if any(c.isdigit() for c in word)}
    small = ["not" if word.lower().endswith("n't") else word.lower() for word in words]
    negations = NEGATIONS.intersection(small)
    names = {word.lower().removesuffix("'s") for word in words[1:] if word[:1].isupper() and word != "I"}
    return numbers, negations, names


def alike(one: str, other: str) -> bool:
    """Whether nothing speaks against two questions of near embeddings asking for the same."""
    if _marks(one) != _marks(other):
        return False
    a, b = set(one.lower().rstrip("?").split()), set(other.lower().rstrip("?").split())
    return not any((a - b) & pair and (b - a) & pair for pair in OPPOSITES)
