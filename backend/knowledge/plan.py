"""What reading documents anew would take, said before it is begun."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel import col, func, select

from backend.knowledge.build import Builder
from backend.knowledge.sight import Sight
from backend.metering.ledger import Ledger
from backend.metering.prices import Prices
from backend.store.database import Database
from backend.store.tables.documents import Chunk, Document, DocumentState


@dataclass(frozen=True)
class Plan:
    """What reading documents anew would take.

    Attributes:
        documents: ids of those that were cut or embedded otherwise than now.
        chunks: chunks they have now; at most so many embeddings are computed.
        seconds, cost: estimated from the rate at which this machine embedded so far.
    """

    documents: list[str]
    chunks: int
    seconds: float
    cost: float


class Planner:
    """Plans over the documents that have a version in force; one that never was read has nothing to be read again."""

    def __init__(self, database: Database, builder: Builder, ledger: Ledger, prices: Prices) -> None:
        self._database, self._builder, self._ledger, self._prices = database, builder, ledger, prices

    def stale(self, sight: Sight) -> Plan:
        """All that were read otherwise than now."""
        return self._plan(self._builder.version(), sight)

    def everything(self, sight: Sight) -> Plan:
        """All that were read."""
        return self._plan(None, sight)

    def _plan(self, other_than: str | None, sight: Sight) -> Plan:
        with self._database.session() as session:
            query = (
                select(Document.id, func.count(col(Chunk.id)), func.sum(Chunk.tokens))
                .join(Chunk)
                .where(Chunk.build == Document.build, Document.state != DocumentState.DELETING, sight.documents())
                .group_by(col(Document.id))
            )
            if other_than is not None:
                query = query.having(func.min(Chunk.chunker) != other_than)
            rows = session.exec(query).all()
        seconds = sum(int(row[2] or 0) for row in rows) * self._ledger.embedding_rate()
        chunks = sum(int(row[1]) for row in rows)
        return Plan([row[0] for row in rows], chunks, seconds, seconds * self._prices.current.per_hour / 3600)
