"""What each role may ask of the API, in one table, by method and path. The first line that fits counts."""

from __future__ import annotations

from dataclasses import dataclass

from backend.access.caller import Role
from backend.access.paths import below

READING = frozenset({"GET", "HEAD", "OPTIONS"})
ANY = frozenset[str]()


@dataclass(frozen=True)
class Rule:
    """The least role that may use these methods (none named: any) at and below a path."""

    methods: frozenset[str]
    path: str
    least: Role

    def fits(self, method: str, path: str) -> bool:
        """Whether the rule is about this request."""
        return (not self.methods or method in self.methods) and below(path, self.path)


RULES = (
    Rule(ANY, "/api/keys", Role.ADMIN),  # reading too: who has keys is nobody else's business
    Rule(ANY, "/api/limits", Role.ADMIN),
    Rule(READING, "", Role.READ_ONLY),
    Rule(ANY, "/api/switches", Role.ADMIN),
    Rule(ANY, "/api/documents/reindex", Role.ADMIN),
    Rule(ANY, "", Role.USER),
)


def least_role(method: str, path: str) -> Role:
    """The least role that may make a request."""
    return next(rule.least for rule in RULES if rule.fits(method, path))
