"""What a caller sees of the collections: everybody's and their own, an administrator all of them.

A document is seen in any collection that is. What is not seen is, to whoever asks, not there.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, true
from sqlmodel import col, select

from backend.access.caller import Caller, Role
from backend.store.tables.documents import Collection, CollectionDocument, Document


@dataclass(frozen=True)
class Sight:
    """Which collections are seen.

    Attributes:
        tenant: whose private collections are seen, and whose a collection becomes that is made private; None: nobody's.
        everything: those of others are seen too.
    """

    tenant: str | None
    everything: bool = False

    def collections(self) -> ColumnElement[bool]:
        """The condition on rows of `Collection`."""
        if self.everything:
            return true()
        shared = col(Collection.tenant).is_(None)
        return shared if self.tenant is None else shared | (col(Collection.tenant) == self.tenant)

    def documents(self, collection: str | None = None) -> ColumnElement[bool]:
        """The condition on rows of `Document`: in this collection, if it is seen, or in any that is."""
        if self.everything and collection is None:
            return true()
        members = select(CollectionDocument.document_id).join(Collection).where(self.collections())
        if collection is not None:
            members = members.where(Collection.name == collection)
        return col(Document.id).in_(members)


SHARED = Sight(None)
"""What is everybody's: all that those see whose results are seen by all."""


def sight_of(caller: Caller) -> Sight:
    """What a caller sees."""
    return Sight(caller.tenant, everything=caller.role is Role.ADMIN)
