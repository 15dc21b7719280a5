"""What a server knows, in one hand: documents on their way in, the index over them, and the search."""

from __future__ import annotations

from dataclasses import dataclass

from backend.engine.protocol import EngineClient
from backend.files.blobs import Blobs
from backend.knowledge.build import Builder
from backend.knowledge.collections import Collections
from backend.knowledge.documents import Documents
from backend.knowledge.embeddings import EmbeddingService
from backend.knowledge.index import KnowledgeIndex
from backend.knowledge.opening import IndexOpening
from backend.knowledge.plan import Planner
from backend.knowledge.reader import Reader
from backend.knowledge.retrieve import Retriever
from backend.knowledge.samples import Samples
from backend.knowledge.signals import ReaderSignals
from backend.knowledge.uploads import Uploads
from backend.metering.ledger import Ledger
from backend.metering.prices import Prices
from backend.models.texts import Texts
from backend.settings import Settings
from backend.store.database import Database


@dataclass(frozen=True)
class Library:
    """The documents of one server, and everything that works on them. Nothing runs before `start`."""

    embeddings: EmbeddingService
    index: KnowledgeIndex
    opening: IndexOpening
    documents: Documents
    collections: Collections
    uploads: Uploads
    samples: Samples
    reader: Reader
    planner: Planner
    retriever: Retriever

    @classmethod
    def of(
        cls, settings: Settings, database: Database, engine: EngineClient, texts: Texts, ledger: Ledger, prices: Prices
    ) -> Library:
        """Build it over a database and the engine that embeds.

        Args:
            settings: where files and index are, and how large what may be.
            database: of the documents.
            engine: computes embeddings.
            texts: tokenizers of its models.
            ledger: is told what that cost.
            prices: for what documents would cost.
        """
        embeddings = EmbeddingService(
            engine, texts.embedding_tokenizer, database, ledger, settings.served_embedding_model
        )
        index = KnowledgeIndex(settings.index_dir, database, embeddings)
        signals, blobs = ReaderSignals(), Blobs(settings.files_dir)
        documents, collections = Documents(database, signals), Collections(database)
        uploads = Uploads(settings, database, blobs, collections, signals)
        builder = Builder(settings, database, blobs, documents, embeddings, index, texts)
        return cls(
            embeddings, index, IndexOpening(engine, index), documents, collections, uploads, Samples(uploads),
            Reader(database, blobs, documents, builder, index, signals), Planner(database, builder, ledger, prices),
            Retriever(documents, collections, embeddings, index, builder.index_version, texts, engine),
        )  # fmt: skip

    def start(self) -> None:
        """Open the index once the engine serves, and read what waits; returns at once."""
        self.opening.start()
        self.reader.start()
