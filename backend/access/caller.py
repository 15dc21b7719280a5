"""Who calls: an identity, whose things it sees, and what it may do. Knows nothing of how it was proven."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from backend.errors import ForbiddenError

CALLER_HEADER = "x-tenfold-caller"
"""How the gate tells the console's pages who calls; what a client sends under this name is dropped."""


class Role(StrEnum):
    """What a key allows, the most first."""

    ADMIN = "admin"
    USER = "user"
    READ_ONLY = "read_only"

    def covers(self, least: Role) -> bool:
        """Whether this role may do what `least` may."""
        ranks = list(Role)
        return ranks.index(self) <= ranks.index(least)


@dataclass(frozen=True)
class Caller:
    """Somebody who was let in.

    Attributes:
        id: the key's id; empty for whoever sits at a machine that asks for none.
        tenant: whose chats, private collections and prompt cache these are; several keys may share one.
        role: what the caller may do.
    """

    id: str
    tenant: str
    role: Role

    def require(self, least: Role) -> None:
        """Refuse what this caller's role does not allow.

        Raises:
            ForbiddenError: says which role is needed.
        """
        if not self.role.covers(least):
            raise ForbiddenError(
                f"This needs a key with the role {least}; yours is {self.role}. Ask an administrator of this server.",
                code="insufficient_role",
            )


LOCAL = Caller("", "", Role.ADMIN)
"""Whoever sits at this machine, where no key is asked for."""
STRANGER = Caller("", "?", Role.READ_ONLY)
"""Nobody: what a page takes for its caller if the gate named none. Nothing belongs to this tenant."""


def caller_to_header(caller: Caller) -> str:
    """A caller as the value of `CALLER_HEADER`."""
    return json.dumps(asdict(caller))


def caller_from_headers(headers: Mapping[str, str]) -> Caller:
    """The caller that the gate named in a request's headers."""
    value = headers.get(CALLER_HEADER)
    if value is None:
        return STRANGER
    fields = json.loads(value)
    return Caller(fields["id"], fields["tenant"], Role(fields["role"]))
